package docker

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFollowLongRecord(t *testing.T) {
	line := strings.Repeat("x", 5<<20)
	var out strings.Builder
	err := follow(strings.NewReader(`{"stream":"`+line+`"}`+"\n"+`{"stream":"y\n"}`), watcher{w: &out, aux: func(json.RawMessage) {}})
	require.NoError(t, err)
	assert.Equal(t, len(line)+2, out.Len())
}

// endless never ends a record.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	if e.read == 0 {
		copy(p, `{"stream":"`)
	}
	e.read += len(p)
	return len(p), nil
}

func TestFollowEndlessRecord(t *testing.T) {
	source := &endless{}
	err := follow(source, watcher{w: io.Discard, aux: func(json.RawMessage) {}})
	require.ErrorContains(t, err, "longer than 64 MiB")
	assert.Less(t, source.read, 4*recordLimit)
}

func TestFollowManyRecords(t *testing.T) {
	source := strings.NewReader(strings.Repeat(`{"stream":"`+strings.Repeat("x", 1<<20)+`"}`, 3*recordLimit>>20))
	assert.NoError(t, follow(source, watcher{w: io.Discard, aux: func(json.RawMessage) {}}))
}

func TestFollowStep(t *testing.T) {
	tests := []struct {
		name, stream, want string
	}{
		{name: "the last step", want: "Step 2/2 : RUN b: no", stream: `{"stream":"Step 1/2 : RUN a\n"}{"stream":"Step 2/2 : RUN b"}{"error":"no"}`},
		{name: "no step", want: "no", stream: `{"stream":"in Step 1/2 : RUN a\n"}{"error":"no"}`},
		{
			name: "a long step", want: "Step 1/1 : " + strings.Repeat("ü", 144) + "…: no",
			stream: `{"stream":"Step 1/1 : ` + strings.Repeat("ü", 9000) + `\n"}{"error":"no"}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			assert.EqualError(t, follow(strings.NewReader(test.stream), watcher{w: io.Discard, aux: func(json.RawMessage) {}}), test.want)
		})
	}
}

func FuzzFollow(f *testing.F) {
	f.Add(`{"stream":"Step 1/2 : RUN a\n"}{"errorDetail":{"message":"no"}}`)
	f.Add(`{"status":"Pulling","id":"x","progressDetail":{"current":1}}{"aux":{"ID":"sha256:0"}}`)
	f.Add(`{"stream":5}`)
	f.Add(`[[[[`)
	f.Add(`{"id":"moby.buildkit.trace","aux":"CiMKBHN5bToaBFJVTiAqAggFMgIIBjoDYmFkIgRzeW06"}`)
	f.Add(`{"id":"moby.buildkit.trace","aux":"GggKAmFiIgJoaQ=="}{"error":"no"}`)
	f.Add("null\x00")
	f.Fuzz(func(t *testing.T, stream string) {
		var out strings.Builder
		err := follow(strings.NewReader(stream), watcher{w: &out, aux: func(aux json.RawMessage) {
			assert.True(t, json.Valid(aux))
		}})
		if err != nil {
			assert.NotEmpty(t, strings.TrimSpace(err.Error()))
		}
	})
}
