package forge

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// summaryLimit is how large the summary of a step gets, in bytes. GitHub drops one of more than 1 MiB as a whole, counted
// after it has masked secrets, which may make it longer.
const summaryLimit = 1000 << 10

// summaryCut stands where a summary was cut off.
const summaryCut = "\n_Cut off here: the forge shows no more than 1 MiB._\n"

var (
	outputName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,254}$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Output sets an output of the step: letters, digits, _ and -, at most 255 of them, for the name; any text for the value.
// Where there is no forge it does nothing but check the name. GitHub takes 1 MiB of outputs per job. Gitea's runner drops
// carriage returns before line feeds; older ones also take lines of no more than 64 KiB, and drop line feeds at the beginning
// of a value.
func (f Forge) Output(name, value string) error {
	if !outputName.MatchString(name) {
		return fmt.Errorf("setting the output %q: that is no name for one; begin with a letter, go on with letters, digits, _ and -", name)
	}
	if err := set(f.output, name, value); err != nil {
		return fmt.Errorf("setting the output %s: %w", name, err)
	}
	return nil
}

// Export sets an environment variable for the steps that follow. The name is of letters, digits and _; those that forges
// keep to themselves are refused. Otherwise it is as Output.
func (f Forge) Export(name, value string) error {
	switch {
	case !variableName.MatchString(name):
		return fmt.Errorf("exporting the variable %q: that is no name for one; begin with a letter, go on with letters, digits and _", name)
	case strings.HasPrefix(name, "GITHUB_"), strings.HasPrefix(name, "GITEA_"), strings.HasPrefix(name, "RUNNER_"), name == "NODE_OPTIONS":
		return fmt.Errorf("exporting the variable %s: forges do not let a step change it; choose another name", name)
	case strings.ContainsRune(value, 0):
		return fmt.Errorf("exporting the variable %s: its value has a NUL byte, which no variable can hold; set an output instead", name)
	}
	if err := set(f.env, name, value); err != nil {
		return fmt.Errorf("exporting the variable %s: %w", name, err)
	}
	return nil
}

// set appends a name and a value to a file of the forge. The value stands between two lines of a delimiter that nobody can
// guess and that it does not contain, so that whatever it contains stays a value.
func set(path, name, value string) error {
	if path == "" {
		return nil
	}
	var delimiter string
	for delimiter == "" || strings.Contains(value, delimiter) {
		delimiter = "end-" + rand.Text()
	}
	return appendTo(path, func(int64) string {
		return name + "<<" + delimiter + "\n" + value + "\n" + delimiter + "\n"
	})
}

// Summary adds Markdown to the summary of the step. What would make the summary larger than 1000 KiB is cut off, at the end
// of a line where it has any, and the summary says so. Gitea before 1.27 shows no summaries, so that it belongs in the log
// too.
func (f Forge) Summary(markdown string) error {
	if f.summary == "" || markdown == "" {
		return nil
	}
	if !strings.HasSuffix(markdown, "\n") {
		markdown += "\n"
	}
	err := appendTo(f.summary, func(size int64) string {
		return fit(markdown, summaryLimit-size)
	})
	if err != nil {
		return fmt.Errorf("writing the step summary: %w", err)
	}
	return nil
}

// fit cuts text so that it, and the remark that it was cut, has at most room bytes. Without room even for the remark
// nothing is left.
func fit(text string, room int64) string {
	room -= int64(len(summaryCut))
	switch {
	case room < 0:
		return ""
	case int64(len(text)) <= room:
		return text
	}
	if end := strings.LastIndexByte(text[:room], '\n'); end >= 0 {
		return text[:end+1] + summaryCut
	}
	for room > 0 && !utf8.RuneStart(text[room]) {
		room--
	}
	return text[:room] + summaryCut
}

// appending has this process append one thing at a time. What other processes append does not get in between either, since
// it is all one write to the end of the file.
var appending sync.Mutex

// appendTo appends what compose makes of the size of the file, beginning a line of its own.
func appendTo(path string, compose func(size int64) string) (err error) {
	appending.Lock()
	defer appending.Unlock()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size, begin := info.Size(), ""
	if size > 0 {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			begin = "\n"
		}
	}
	if text := compose(size + int64(len(begin))); text != "" {
		_, err = io.WriteString(file, begin+text)
	}
	return err
}
