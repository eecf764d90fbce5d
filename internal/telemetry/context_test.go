package telemetry

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

const (
	aTrace  = "0af7651916cd43dd8448eb211c80319c"
	aSpan   = "b7ad6b7169203331"
	aParent = "00-" + aTrace + "-" + aSpan + "-01"
)

func TestParseContext(t *testing.T) {
	tests := []struct {
		name, traceparent, tracestate string
		want, state                   string
	}{
		{"sampled", aParent, "vendor=1,other=2", aParent, "vendor=1,other=2"},
		{"not sampled", "00-" + aTrace + "-" + aSpan + "-00", "", "00-" + aTrace + "-" + aSpan + "-00", ""},
		{"flags that nobody knows", "00-" + aTrace + "-" + aSpan + "-ff", "", "00-" + aTrace + "-" + aSpan + "-03", ""},
		{"blanks around it", " " + aParent + "\n", " a=b ", aParent, "a=b"},
		{"a later version", "cc-" + aTrace + "-" + aSpan + "-01-what-is-new", "", aParent, ""},
		{"a state in no state", aParent, "a=\x00", aParent, ""},
		{"a state too long", aParent, strings.Repeat("a", 513), aParent, ""},
		{"empty", "", "a=b", "", ""},
		{"version ff", "ff" + aParent[2:], "", "", ""},
		{"more than version 00 has", aParent + "-x", "", "", ""},
		{"a later version that goes on at once", "cc" + aParent[2:] + "x", "", "", ""},
		{"no trace", "00-" + strings.Repeat("0", 32) + "-" + aSpan + "-01", "", "", ""},
		{"no span", "00-" + aTrace + "-" + strings.Repeat("0", 16) + "-01", "", "", ""},
		{"capitals", strings.ToUpper(aParent), "", "", ""},
		{"no hexadecimal", strings.Replace(aParent, "b7", "x7", 1), "", "", ""},
		{"other dashes", strings.ReplaceAll(aParent, "-", "_"), "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, ok := ParseContext(tt.traceparent, tt.tracestate)
			assert.Equal(t, tt.want != "", ok)
			if ok {
				assert.Equal(t, tt.want, c.Traceparent())
			}
			assert.Equal(t, tt.state, c.State)
		})
	}
}

func FuzzParseContext(f *testing.F) {
	f.Add(aParent, "a=b")
	f.Add("cc-"+aTrace+"-"+aSpan+"-01-x", "")
	f.Fuzz(func(t *testing.T, traceparent, tracestate string) {
		c, ok := ParseContext(traceparent, tracestate)
		if !ok {
			assert.Zero(t, c)
			return
		}
		again, ok := ParseContext(c.Traceparent(), c.State)
		assert.True(t, ok)
		assert.Equal(t, c, again)
	})
}

func TestContextOf(t *testing.T) {
	forge := []string{"GITHUB_ACTIONS=true", "GITHUB_SERVER_URL=https://git.example.org", "GITHUB_REPOSITORY=shop/pay", "GITHUB_RUN_ID=7", "GITHUB_RUN_ATTEMPT=1"}
	first, second := contextOf(lookup(forge)), contextOf(lookup(forge))
	assert.Equal(t, first, second, "the jobs of a run are of one trace")
	assert.Zero(t, first.Span)
	assert.EqualValues(t, sampled, first.Flags)
	assert.NotEqual(t, first.Trace, contextOf(lookup(append(forge, "GITHUB_RUN_ATTEMPT=2"))).Trace)
	assert.Equal(t, aTrace, contextOf(lookup(append(forge, "TRACEPARENT="+aParent))).Trace.String(), "what is handed on goes before")
	assert.NotEqual(t, contextOf(lookup(nil)).Trace, contextOf(lookup(nil)).Trace)
}
