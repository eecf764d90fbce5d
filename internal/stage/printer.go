package stage

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/grimoire-build/grimoire/internal/forge"
	"github.com/grimoire-build/grimoire/internal/mask"
)

// printer shares one output among stages that run at once. One lane at a time holds it and is written through, byte for
// byte; the others are kept until their turn comes, so that stages never write into each other's lines.
type printer struct {
	forge    forge.Forge
	terminal bool // somebody watches
	colour   bool

	mu      sync.Mutex
	raw     *os.File
	out     mask.Writer // onto raw
	holder  *lane
	lanes   []*lane // those that have not been printed to the end, in the order in which they began
	midLine bool    // the last byte written was no newline
	last    *lane   // whose byte that was
	live    bool    // the live line stands below what was written
	group   func()  // ends the forge's group of the last lane's lines
}

// lane is the output of one stage.
type lane struct {
	printer  *printer
	name     string
	parent   *lane
	children int
	midLine  bool // the last byte written to it was no newline
	kept     bytes.Buffer
	closed   bool
}

func newPrinter(out *os.File, f forge.Forge, masker *mask.Masker) *printer {
	terminal := term.IsTerminal(int(out.Fd())) && !f.CI && os.Getenv("TERM") != "dumb"
	return &printer{
		forge:    f,
		terminal: terminal,
		colour:   terminal && os.Getenv("NO_COLOR") == "",
		raw:      out,
		out:      mask.Writer{Masker: masker, W: out},
	}
}

func (p *printer) lane(name string, parent *lane) *lane {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &lane{printer: p, name: name, parent: parent}
	if parent != nil {
		parent.children++
	}
	p.lanes = append(p.lanes, l)
	return l
}

// Write writes p at once where the lane has its turn, or can have it because nobody or a stage that waits for this one has
// it; otherwise it is kept.
func (l *lane) Write(p []byte) (int, error) {
	l.printer.mu.Lock()
	defer l.printer.mu.Unlock()
	return l.write(p)
}

func (l *lane) write(p []byte) (int, error) {
	pr := l.printer
	if len(p) > 0 {
		l.midLine = p[len(p)-1] != '\n'
	}
	if pr.holder == nil || l.waitedForBy(pr.holder) {
		pr.holder = l
		pr.flush(l)
	}
	if pr.holder != l {
		return l.kept.Write(p)
	}
	pr.print(l, p)
	return len(p), nil
}

// records writes log records to a lane, each on a line of its own whatever a child process left unfinished.
type records struct{ *lane }

func (r records) Write(p []byte) (int, error) {
	r.printer.mu.Lock()
	defer r.printer.mu.Unlock()
	if r.midLine {
		_, _ = r.write([]byte{'\n'})
	}
	return r.write(p)
}

func (l *lane) waitedForBy(holder *lane) bool {
	for a := l.parent; a != nil; a = a.parent {
		if a == holder {
			return true
		}
	}
	return false
}

// close ends the lane. What other lanes have kept is printed, oldest first, up to one that is still running: it has the
// turn then.
func (l *lane) close() {
	pr := l.printer
	pr.mu.Lock()
	defer pr.mu.Unlock()
	l.closed = true
	if l.parent != nil {
		l.parent.children--
	}
	if pr.last == l {
		pr.erase()
		pr.endGroup()
		pr.last = nil
	}
	if pr.holder != nil && pr.holder != l {
		return
	}
	pr.holder = nil
	open := pr.lanes[:0]
	for _, next := range pr.lanes {
		if pr.holder == nil {
			pr.flush(next)
			if !next.closed && next.children == 0 {
				pr.holder = next
			}
		}
		if !next.closed || next.kept.Len() > 0 {
			open = append(open, next)
		}
	}
	pr.lanes = open
}

func (p *printer) flush(l *lane) {
	if l.kept.Len() > 0 {
		p.print(l, l.kept.Bytes())
		l.kept = bytes.Buffer{}
	}
}

func (p *printer) print(l *lane, b []byte) {
	if len(b) == 0 {
		return
	}
	p.erase()
	// There is nobody to tell when stderr is gone.
	if p.last != l {
		p.endGroup()
		if l != nil {
			p.group = p.forge.Group(p.raw, l.name)
		}
	}
	_, _ = p.out.Write(b)
	p.midLine, p.last = b[len(b)-1] != '\n', l
}

// endGroup ends what the last lane has printed, and its group.
func (p *printer) endGroup() {
	_ = p.out.Flush()
	if p.midLine {
		_, _ = p.out.Write([]byte{'\n'})
	}
	p.midLine = false
	if p.group != nil {
		p.group()
		p.group = nil
	}
}

// show draws the live line below everything that was written, where somebody watches and no line is unfinished.
func (p *printer) show(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal || p.midLine {
		return
	}
	width := p.width()
	if runes := []rune(line); width > 0 && len(runes) >= width {
		line = string(runes[:width-1])
	}
	_, _ = fmt.Fprint(p.raw, "\r\x1b[2K", line)
	p.live = line != ""
}

// width is that of the terminal in characters, 0 where there is none.
func (p *printer) width() int {
	if !p.terminal {
		return 0
	}
	width, _, err := term.GetSize(int(p.raw.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

// erase takes the live line away.
func (p *printer) erase() {
	if p.live {
		_, _ = fmt.Fprint(p.raw, "\r\x1b[2K")
		p.live = false
	}
}

// text prints what belongs to no stage, such as the table at the end of a run.
func (p *printer) text(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.print(nil, []byte(s))
	_ = p.out.Flush()
}

// result prints a line on stdout, which may be the terminal that the live line is on.
func (p *printer) result(line string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	_, err := fmt.Println(line)
	return err
}

// logger returns the logger of a stage: JSON lines with Unix time in CI, a readable line elsewhere.
func (p *printer) logger(l *lane, name string) zerolog.Logger {
	level := zerolog.InfoLevel
	if v := os.Getenv("MAGEFILE_VERBOSE"); v == "1" || strings.EqualFold(v, "true") {
		level = zerolog.DebugLevel
	}
	var w io.Writer = records{l}
	if !p.forge.CI {
		w = zerolog.ConsoleWriter{
			Out:           records{l},
			NoColor:       !p.colour,
			TimeFormat:    time.TimeOnly,
			TimeLocation:  time.Local,
			PartsOrder:    []string{zerolog.TimestampFieldName, zerolog.LevelFieldName, stageField, zerolog.MessageFieldName},
			FieldsExclude: []string{stageField},
		}
	}
	return zerolog.New(w).Level(level).Hook(unixTime{}).With().Str(stageField, name).Logger()
}

// stageField is the name of the field that holds the stage's name in a log record.
const stageField = "stage"

// unixTime stamps records without zerolog's global time format, which belongs to whoever imports us.
type unixTime struct{}

func (unixTime) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Int64(zerolog.TimestampFieldName, time.Now().Unix())
}
