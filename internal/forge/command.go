package forge

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
)

// shortestMask is how long a line of a secret has to be to be masked, in bytes. A forge masks a value wherever it stands in
// the log: that of a short one would be ruined.
const shortestMask = 8

// What the forge unescapes in the text of a command and in its properties.
var (
	escapeText     = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	escapeProperty = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)

// Mask has the forge replace a secret by *** in all that the log of the job gets from now on, each line of it by itself. It
// reports whether anything was masked: lines of less than 8 bytes are not, and nothing is where there is no forge. The
// forge reads w, which has to be the step's stdout or stderr and at the beginning of a line.
func (f Forge) Mask(w io.Writer, secret string) bool {
	if f.Name == "" {
		return false
	}
	var commands strings.Builder
	for _, line := range strings.FieldsFunc(secret, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(line)
		if len(line) < shortestMask {
			continue
		}
		escaped := escapeText.Replace(line)
		commands.WriteString("::add-mask::" + escaped + "\n")
		// Older Gitea runners unescape nothing.
		if f.Name == Gitea && escaped != line {
			commands.WriteString("::add-mask::" + line + "\n")
		}
	}
	if commands.Len() == 0 {
		return false
	}
	_, err := io.WriteString(w, commands.String())
	return err == nil
}

// Group folds what the log gets until end is called into one line, the title. Groups do not nest. It does nothing where the
// forge does not know groups, as Gitea.
func (f Forge) Group(w io.Writer, title string) (end func()) {
	if f.Name != GitHub {
		return func() {}
	}
	fmt.Fprintf(w, "::group::%s\n", escapeText.Replace(title))
	return sync.OnceFunc(func() { fmt.Fprintln(w, "::endgroup::") })
}

// Level is how bad an annotation is.
type Level string

// The levels.
const (
	Error   Level = "error"
	Warning Level = "warning"
	Notice  Level = "notice"
)

// Annotation is a remark that the forge shows beside the source.
type Annotation struct {
	// Level is Error unless it is Warning or Notice.
	Level Level
	// File is relative to the top of the repository; empty for a remark on the run as a whole.
	File string
	// Line and Column count from 1; 0 where they are not known. A column wants a line.
	Line   int
	Column int
	// Title is the headline; empty for one that the forge chooses.
	Title string
	// Message may have several lines.
	Message string
}

// Annotate has the forge show an annotation. GitHub shows the first ten of a level in a step and ignores the others. It does
// nothing where the forge does not know annotations, as Gitea.
func (f Forge) Annotate(w io.Writer, a Annotation) {
	if f.Name != GitHub {
		return
	}
	level := a.Level
	if level != Warning && level != Notice {
		level = Error
	}
	var properties []string
	add := func(name, value string) {
		properties = append(properties, name+"="+escapeProperty.Replace(value))
	}
	if a.File != "" {
		add("file", filepath.ToSlash(a.File))
		if a.Line > 0 {
			add("line", fmt.Sprint(a.Line))
			if a.Column > 0 {
				add("col", fmt.Sprint(a.Column))
			}
		}
	}
	if a.Title != "" {
		add("title", a.Title)
	}
	command := string(level)
	if len(properties) > 0 {
		command += " " + strings.Join(properties, ",")
	}
	fmt.Fprintf(w, "::%s::%s\n", command, escapeText.Replace(a.Message))
}
