package telemetry

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
)

// TraceID is the id of a trace.
type TraceID [16]byte

// String is hexadecimal.
func (id TraceID) String() string { return hex.EncodeToString(id[:]) }

// SpanID is the id of a span; zero is none.
type SpanID [8]byte

// String is hexadecimal.
func (id SpanID) String() string { return hex.EncodeToString(id[:]) }

// newSpanID returns an id that no other span has. It need not be secret: crypto/rand would have every magefile compile math/big.
func newSpanID() (id SpanID) {
	binary.BigEndian.PutUint64(id[:], max(rand.Uint64(), 1)) // zero is none
	return id
}

// sampled is the flag of a trace that is recorded, known the flags that are handed on.
const (
	sampled = 0x01
	known   = sampled | 0x02
)

// Context is a span's place in a trace, as processes hand it on.
type Context struct {
	Trace TraceID
	Span  SpanID
	Flags byte
	// State is the vendors' own, handed on as it is.
	State string
}

// Traceparent is the context as the value of TRACEPARENT, without State.
// Source: https://www.w3.org/TR/trace-context/#traceparent-header
func (c Context) Traceparent() string {
	return "00-" + c.Trace.String() + "-" + c.Span.String() + "-" + hex.EncodeToString([]byte{c.Flags & known})
}

// ParseContext reads TRACEPARENT and TRACESTATE, and reports whether they are a context. A later version may have more fields.
func ParseContext(traceparent, tracestate string) (c Context, ok bool) {
	const size = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")
	s := strings.TrimSpace(traceparent)
	if len(s) < size || s[2] != '-' || s[35] != '-' || s[52] != '-' || len(s) > size && (s[:2] == "00" || s[size] != '-') {
		return Context{}, false
	}
	var version, flags [1]byte
	for _, field := range []struct {
		to   []byte
		text string
	}{{version[:], s[:2]}, {c.Trace[:], s[3:35]}, {c.Span[:], s[36:52]}, {flags[:], s[53:55]}} {
		if _, err := hex.Decode(field.to, []byte(field.text)); err != nil || strings.ToLower(field.text) != field.text {
			return Context{}, false
		}
	}
	if version[0] == 0xff || c.Trace == (TraceID{}) || c.Span == (SpanID{}) {
		return Context{}, false
	}
	c.Flags = flags[0] & known
	c.State = validState(tracestate)
	return c, true
}

// validState returns a tracestate, empty where it is none that could be handed on.
func validState(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 512 || strings.ContainsFunc(s, func(r rune) bool { return (r < ' ' && r != '\t') || r > '~' }) {
		return ""
	}
	return s
}

// contextOf returns the context that the environment hands on, with no span where the trace begins here. All jobs of a
// forge's run are of one trace, though nobody hands it on between them.
func contextOf(getenv func(string) string) Context {
	if c, ok := ParseContext(getenv("TRACEPARENT"), getenv("TRACESTATE")); ok {
		return c
	}
	c := Context{Flags: sampled}
	if onForge(getenv) && getenv("GITHUB_RUN_ID") != "" {
		run := []string{getenv("GITHUB_SERVER_URL"), getenv("GITHUB_REPOSITORY"), getenv("GITHUB_RUN_ID"), getenv("GITHUB_RUN_ATTEMPT")}
		sum := sha256.Sum256([]byte(strings.Join(run, "\n")))
		copy(c.Trace[:], sum[:])
		return c
	}
	binary.BigEndian.PutUint64(c.Trace[:8], rand.Uint64())
	binary.BigEndian.PutUint64(c.Trace[8:], max(rand.Uint64(), 1))
	return c
}

func onForge(getenv func(string) string) bool {
	return getenv("GITHUB_ACTIONS") != "" || getenv("GITEA_ACTIONS") != ""
}
