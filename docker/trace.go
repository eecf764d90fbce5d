package docker

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// vertex is a step of a BuildKit build.
type vertex struct {
	number   int
	name     string
	cached   bool
	began    time.Time
	finished bool
	failed   string
	tail     tail // of its output
	midLine  bool
}

// trace makes plain lines of what BuildKit tells of a build's steps.
type trace struct {
	w        io.Writer
	doing    func(string)
	vertexes map[string]*vertex
	numbers  int     // how many have one
	last     *vertex // whose line was written last
	failed   *vertex // the first step that failed
}

func newTrace(w io.Writer, doing func(string)) *trace {
	return &trace{w: w, doing: doing, vertexes: map[string]*vertex{}}
}

// update writes what a message tells, which is a StatusResponse of BuildKit.
// Source: api/services/control/control.proto of https://github.com/moby/buildkit
func (t *trace) update(message []byte) error {
	var out bytes.Buffer
	err := eachField(message, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 1:
			return t.vertex(&out, value)
		case 3:
			return t.log(&out, value)
		case 4:
			return t.warning(&out, value)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the progress of the build: %w", err)
	}
	_, err = t.w.Write(out.Bytes())
	return err
}

func (t *trace) named(digest string) *vertex {
	v := t.vertexes[digest]
	if v == nil {
		v = &vertex{}
		t.vertexes[digest] = v
	}
	return v
}

// say writes a line of a step, which gets its number when it first has something to say.
func (t *trace) say(out *bytes.Buffer, v *vertex, text string) {
	if v.number == 0 {
		t.numbers++
		v.number = t.numbers
	}
	if t.last != nil && t.last.midLine {
		out.WriteByte('\n')
		t.last.midLine = false
	}
	if t.last != v {
		if t.last != nil {
			out.WriteByte('\n')
		}
		t.last = v
		fmt.Fprintf(out, "#%d %s\n", v.number, v.name)
	}
	if text != "" {
		fmt.Fprintf(out, "#%d %s\n", v.number, text)
	}
}

func (t *trace) vertex(out *bytes.Buffer, message []byte) error {
	var digest, name, failed string
	var cached bool
	var began, completed time.Time
	err := eachField(message, func(number protowire.Number, value []byte, n uint64) (err error) {
		switch number {
		case 1:
			digest = string(value)
		case 3:
			name = string(value)
		case 4:
			cached = n != 0
		case 5:
			began, err = timestamp(value)
		case 6:
			completed, err = timestamp(value)
		case 7:
			failed = string(value)
		}
		return err
	})
	if err != nil {
		return err
	}
	v := t.named(digest)
	v.name = cmp.Or(strings.Join(strings.Fields(name), " "), v.name)
	v.cached = v.cached || cached
	if v.began.IsZero() && !began.IsZero() {
		v.began = began
		t.doing(v.name)
		t.say(out, v, "")
	}
	if v.finished || completed.IsZero() {
		return nil
	}
	v.finished = true
	switch {
	case failed != "":
		// Steps that are broken off with another one say so too.
		if t.failed == nil && !strings.Contains(failed, "context canceled") {
			v.failed, t.failed = failed, v
		}
		t.say(out, v, "ERROR: "+failed)
	case v.cached:
		t.say(out, v, "CACHED")
	default:
		t.say(out, v, fmt.Sprintf("DONE %.1fs", completed.Sub(v.began).Seconds()))
	}
	return nil
}

func (t *trace) log(out *bytes.Buffer, message []byte) error {
	var digest string
	var text []byte
	err := eachField(message, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 1:
			digest = string(value)
		case 4:
			text = value
		}
		return nil
	})
	if err != nil {
		return err
	}
	v := t.named(digest)
	v.tail.add(text)
	if t.last != v || v.number == 0 {
		t.say(out, v, "")
	}
	for line := range bytes.Lines(text) {
		if !v.midLine {
			fmt.Fprintf(out, "#%d ", v.number)
		}
		out.Write(line)
		v.midLine = line[len(line)-1] != '\n'
	}
	return nil
}

func (t *trace) warning(out *bytes.Buffer, message []byte) error {
	var digest, short string
	err := eachField(message, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 1:
			digest = string(value)
		case 3:
			short = string(value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.say(out, t.named(digest), "WARNING: "+short)
	return nil
}

// timestamp reads a google.protobuf.Timestamp.
func timestamp(message []byte) (time.Time, error) {
	var seconds, nanoseconds int64
	err := eachField(message, func(number protowire.Number, _ []byte, n uint64) error {
		switch number {
		case 1:
			seconds = int64(n)
		case 2:
			nanoseconds = int64(n)
		}
		return nil
	})
	return time.Unix(seconds, nanoseconds), err
}

// failure returns the step that failed and the end of its output; nothing where none did.
func (t *trace) failure() (step, output string) {
	if t.failed == nil {
		return "", ""
	}
	return t.failed.name, t.failed.tail.String()
}

const (
	tailLines = 15
	tailBytes = 4 << 10
)

// tail keeps the end of a text.
type tail struct{ kept []byte }

func (t *tail) add(text []byte) {
	t.kept = append(t.kept, text...)
	if len(t.kept) > 2*tailBytes {
		t.kept = slices.Clone(t.kept[len(t.kept)-tailBytes:])
	}
}

func (t *tail) reset() { t.kept = nil }

// String is the last lines, as they stand.
func (t *tail) String() string {
	text := strings.ToValidUTF8(string(t.kept[max(0, len(t.kept)-tailBytes):]), "")
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	return strings.TrimSpace(strings.Join(lines[max(0, len(lines)-tailLines):], "\n"))
}
