package docker

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// at is a timestamp, so many tenths of a second after another.
func at(tenths int) []byte {
	var stamp []byte
	stamp = protowire.AppendVarint(protowire.AppendTag(stamp, 1, protowire.VarintType), uint64(1_800_000_000+tenths/10))
	return protowire.AppendVarint(protowire.AppendTag(stamp, 2, protowire.VarintType), uint64(tenths%10)*1e8)
}

type step struct {
	digest, name, failed string
	cached               bool
	began, completed     int // in tenths; 0 for not yet
}

func (s step) message() []byte {
	m := appendBytes(appendBytes(nil, 1, []byte(s.digest)), 3, []byte(s.name))
	if s.cached {
		m = protowire.AppendVarint(protowire.AppendTag(m, 4, protowire.VarintType), 1)
	}
	if s.began > 0 {
		m = appendBytes(m, 5, at(s.began))
	}
	if s.completed > 0 {
		m = appendBytes(m, 6, at(s.completed))
	}
	if s.failed != "" {
		m = appendBytes(m, 7, []byte(s.failed))
	}
	return appendBytes(nil, 1, m)
}

func logged(digest, text string) []byte {
	return appendBytes(nil, 3, appendBytes(appendBytes(nil, 1, []byte(digest)), 4, []byte(text)))
}

// traced is a stream of an engine's.
func traced(messages ...[]byte) string {
	var stream strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&stream, "{\"id\":%q,\"aux\":%q}\r\n", traceID, base64.StdEncoding.EncodeToString(m))
	}
	return stream.String()
}

func TestTrace(t *testing.T) {
	stream := traced(
		step{digest: "a", name: "[internal] load metadata", began: 1}.message(),
		step{digest: "b", name: "[build 1/2] FROM golang", began: 1, completed: 1, cached: true}.message(),
		step{digest: "a", name: "[internal] load metadata", began: 1, completed: 16}.message(),
		step{digest: "c", name: "[build 2/2] RUN make   all"}.message(), // it has not begun
		step{digest: "c", name: "[build 2/2] RUN make   all", began: 20}.message(),
		logged("c", "one\ntw"),
		step{digest: "d", name: "[other 1/1] RUN sleep", began: 20}.message(),
		logged("c", "o\nthree\n"),
		appendBytes(nil, 4, appendBytes(appendBytes(nil, 1, []byte("c")), 3, []byte("old syntax"))),
		step{digest: "d", failed: "context canceled", began: 20, completed: 25}.message(),
		step{digest: "c", failed: "exit code: 2", began: 20, completed: 25}.message(),
	) + `{"errorDetail":{"message":"process did not complete: exit code: 2"}}`
	var out strings.Builder
	var doing []string
	err := follow(strings.NewReader(stream), watcher{w: &out, aux: func(json.RawMessage) {}, doing: func(step string) { doing = append(doing, step) }})
	assert.EqualError(t, err, "[build 2/2] RUN make all: process did not complete: exit code: 2\n    one\n    two\n    three")
	assert.Equal(t, []string{"[internal] load metadata", "[build 1/2] FROM golang", "[build 2/2] RUN make all", "[other 1/1] RUN sleep"}, doing)
	assert.Equal(t, `#1 [internal] load metadata

#2 [build 1/2] FROM golang
#2 CACHED

#1 [internal] load metadata
#1 DONE 1.5s

#3 [build 2/2] RUN make all
#3 one
#3 tw

#4 [other 1/1] RUN sleep

#3 [build 2/2] RUN make all
#3 o
#3 three
#3 WARNING: old syntax

#4 [other 1/1] RUN sleep
#4 ERROR: context canceled

#3 [build 2/2] RUN make all
#3 ERROR: exit code: 2
`, out.String())
}

func TestTraceRefuses(t *testing.T) {
	for name, stream := range map[string]string{
		"no base64":  `{"id":"moby.buildkit.trace","aux":"%%"}`,
		"no text":    `{"id":"moby.buildkit.trace","aux":{"a":1}}`,
		"no message": traced([]byte{0xff}),
		"no vertex":  traced(appendBytes(nil, 1, []byte{0xff})),
		"no time":    traced(appendBytes(nil, 1, appendBytes(nil, 5, []byte{0xff}))),
		"no log":     traced(appendBytes(nil, 3, []byte{0xff})),
	} {
		err := follow(strings.NewReader(stream), watcher{w: io.Discard, aux: func(json.RawMessage) {}})
		assert.ErrorContains(t, err, "the progress of the build", name)
	}
}

func TestTail(t *testing.T) {
	var last tail
	for n := range 100_000 {
		last.add(fmt.Appendf(nil, "line %d\n", n))
		require.LessOrEqual(t, len(last.kept), 3*tailBytes)
	}
	lines := strings.Split(last.String(), "\n")
	assert.Len(t, lines, tailLines)
	assert.Equal(t, "line 99999", lines[tailLines-1])
	var binary tail
	binary.add([]byte(strings.Repeat("\xff", 3*tailBytes)))
	assert.Empty(t, binary.String())
}

func TestLineOf(t *testing.T) {
	dockerfile := "# syntax=docker/dockerfile:1\n\nFROM golang:1.26 AS build\nARG X=1\nRUN go build \\\n    -o /app\nRUN echo $X\nRUN twice\nRUN twice\n"
	for step, want := range map[string]int{
		"Step 1/6 : FROM golang:1.26 AS build":         3,
		"Step 3/6 : RUN go build     -o /app":          5,
		"Step 9/9 : RUN nothing":                       0,
		"[build 2/4] RUN go build     -o /app":         5,
		"[build 3/4] RUN echo 1":                       7,
		"[1/2] STEP 3/4: RUN go build     -o /app":     5,
		"STEP 4/4: RUN twice":                          0,
		"[build 4/4] RUN twice":                        0,
		"[internal] load metadata":                     0,
		"":                                             0,
		"[linux/arm64 build 2/4] RUN go build -o /app": 5,
	} {
		assert.Equal(t, want, lineOf(dockerfile, step), step)
	}
}
