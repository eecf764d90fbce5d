package docker

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

const (
	// recordLimit is how long one record of a progress stream may be, in bytes. Records of several megabytes occur: a
	// command that writes no line break.
	recordLimit = 64 << 20
	// stepLimit is how much of a step goes into an error, in bytes.
	stepLimit = 300
)

// record is one JSON object of the stream that an engine answers a build or a push with.
// Source: https://docs.docker.com/reference/api/engine/ and jsonmessage.JSONMessage of the engine.
type record struct {
	Stream      string          `json:"stream"`
	Status      string          `json:"status"`
	ID          string          `json:"id"`
	Progress    string          `json:"progress"`
	Detail      progressDetail  `json:"progressDetail"`
	Error       string          `json:"error"`
	ErrorDetail errorDetail     `json:"errorDetail"`
	Aux         json.RawMessage `json:"aux"`
}

type progressDetail struct {
	Current float64 `json:"current"`
	Total   float64 `json:"total"`
}

type errorDetail struct {
	Message string `json:"message"`
}

// streamError is what an engine says has failed, in the middle of an answer whose status is 200.
type streamError struct {
	line    int    // of the Dockerfile; 0 where it is not known
	step    string // as the engine calls it
	message string
	output  string // the end of what the step has written
}

func (e *streamError) Error() string {
	text := e.message
	if e.step != "" {
		text = e.step + ": " + text
	}
	if e.line > 0 {
		text = fmt.Sprintf("line %d: %s", e.line, text)
	}
	if e.output != "" {
		text += "\n    " + strings.ReplaceAll(e.output, "\n", "\n    ")
	}
	return text
}

// stepLine is how a step begins: "Step 3/7 : RUN make", and Podman's "[1/2] STEP 3/7: RUN make".
var stepLine = regexp.MustCompile(`^(Step \d+(/\d+)? : |(\[\d+/\d+\] )?STEP \d+(/\d+)?: ).+`)

// traceID is the id of records that hold BuildKit's progress.
const traceID = "moby.buildkit.trace"

// watcher is who is told of a progress stream.
type watcher struct {
	w     io.Writer
	aux   func(json.RawMessage)
	doing func(step string)
}

// follow reads a progress stream to its end. Text goes to w as it is, a status as a line, BuildKit's steps as lines; the steps of a
// progress bar are left out. Each other aux record goes to aux. The error is a *streamError where the engine reports one.
func follow(r io.Reader, to watcher) error {
	if to.doing == nil {
		to.doing = func(string) {}
	}
	traced := newTrace(to.w, to.doing)
	var output tail // of the step
	bounded := &boundedReader{r: r, left: recordLimit}
	decoder := json.NewDecoder(bounded)
	step := ""
	for {
		var rec record
		err := decoder.Decode(&rec)
		bounded.left = recordLimit
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("reading the engine's answer: the connection broke off (%w); look at the engine's log", err)
		case isJSONError(err):
			return fmt.Errorf("reading the engine's answer: %w; is that a Docker Engine?", err)
		case err != nil:
			return fmt.Errorf("reading the engine's answer: %w", err)
		}
		if message := strings.TrimSpace(cmp.Or(rec.ErrorDetail.Message, rec.Error)); message != "" {
			failed := &streamError{step: step, message: message}
			if step != "" {
				failed.output = output.String()
			}
			if name, written := traced.failure(); name != "" {
				failed.step, failed.output = cut(name, stepLimit), written
			}
			return failed
		}
		if line, _, _ := strings.Cut(rec.Stream, "\n"); stepLine.MatchString(line) {
			step = cut(strings.TrimSpace(line), stepLimit)
			output.reset()
			to.doing(step)
		} else if !strings.HasPrefix(rec.Stream, " ---> ") && !strings.HasPrefix(rec.Stream, "Removing intermediate container ") {
			output.add([]byte(rec.Stream)) // the step's own
		}
		if _, err := io.WriteString(to.w, rec.text()); err != nil {
			return fmt.Errorf("writing the engine's progress: %w", err)
		}
		switch {
		case rec.ID == traceID:
			var message []byte
			if err := json.Unmarshal(rec.Aux, &message); err != nil {
				return fmt.Errorf("reading the engine's answer: the progress of the build: %w", err)
			}
			if err := traced.update(message); err != nil {
				return err
			}
		case len(rec.Aux) > 0:
			to.aux(rec.Aux)
		}
	}
}

func (r record) text() string {
	switch {
	case r.Stream != "":
		return r.Stream
	case r.Status == "", r.Progress != "", r.Detail != progressDetail{}:
		return ""
	case r.ID != "":
		return r.ID + ": " + r.Status + "\n"
	default:
		return r.Status + "\n"
	}
}

func isJSONError(err error) bool {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &kind)
}

// cut shortens a text to at most limit bytes, and leaves no half of a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// boundedReader fails once more than left bytes have been read, since a JSON decoder keeps a whole record in memory.
type boundedReader struct {
	r    io.Reader
	left int
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("a record is longer than %d MiB", recordLimit>>20)
	}
	n, err := b.r.Read(p)
	b.left -= n
	return n, err
}
