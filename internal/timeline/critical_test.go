package timeline_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/timeline"
)

func TestCriticalPath(t *testing.T) {
	needs := func(s report.Stage, names ...string) report.Stage { s.Needs = names; return s }
	ok := func(name string, from, to float64) report.Stage { return stage(name, from, to, to-from, report.OK) }
	open := func(s report.Stage) report.Stage { s.End, s.Result = time.Time{}, ""; return s }
	for _, test := range []struct {
		name   string
		stages []report.Stage
		want   []string
	}{
		{"no stages", nil, nil},
		{"one", []report.Stage{ok("a", 0, 0)}, []string{"a"}},
		{"one after the other", []report.Stage{ok("a", 0, 2), ok("b", 2, 3), ok("c", 4, 9)}, []string{"a", "b", "c"}},
		{"the longer of two", []report.Stage{ok("a", 0, 2), ok("b", 0, 5), ok("c", 5, 9)}, []string{"b", "c"}},
		{"what it needs, though another ended later", []report.Stage{ok("a", 0, 2), ok("b", 0, 5), needs(ok("c", 5, 9), "a")}, []string{"a", "c"}},
		{"needs that are not known", []report.Stage{ok("a", 0, 2), needs(ok("b", 3, 5), "x")}, []string{"a", "b"}},
		{"it waits while it runs", []report.Stage{needs(ok("push", 0, 9), "image"), ok("image", 1, 5)}, []string{"image", "push"}},
		{"it waits twice while it runs", []report.Stage{needs(ok("ci", 0, 9), "lint", "test"), ok("lint", 0, 4), ok("test", 4, 9)}, []string{"lint", "test", "ci"}},
		{"it waits for two at once", []report.Stage{needs(ok("ci", 0, 9), "lint", "test"), ok("lint", 0, 4), ok("test", 0, 8)}, []string{"test", "ci"}},
		{"a need of a need, before both", []report.Stage{ok("a", 0, 2), needs(ok("c", 2, 9), "b"), needs(ok("b", 3, 8), "a")}, []string{"a", "b", "c"}},
		{"beside its own beginning", []report.Stage{ok("x", 0, 2), needs(ok("lint", 0, 9), "vet"), ok("vet", 3, 8)}, []string{"vet", "lint"}},
		{"they need each other", []report.Stage{needs(ok("a", 0, 2), "b"), needs(ok("b", 0, 2), "a")}, []string{"b", "a"}},
		{"skipped and planned", []report.Stage{ok("a", 0, 2), stage("b", 0, 3, 3, report.Skipped), stage("c", 5, 5, 0, report.Planned)}, []string{"a"}},
		{"not ended", []report.Stage{ok("a", 0, 2), open(ok("b", 3, 0)), ok("c", 3, 6)}, []string{"a", "b"}},
		{"backwards", []report.Stage{ok("a", 0, 2), stage("b", 9, 1, 1, report.OK)}, []string{"a", "b"}},
		{"all of no time", []report.Stage{ok("a", 1, 1), ok("b", 1, 1)}, []string{"b", "a"}},
		{"a name twice", []report.Stage{ok("a", 0, 1), ok("a", 1, 2), needs(ok("b", 2, 3), "a")}, []string{"a", "b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.want, timeline.CriticalPath(run(10, report.OK, test.stages...)))
		})
	}
	assert.Equal(t, []string{"test", "image", "push", "deploy"}, timeline.CriticalPath(green()))
	assert.Len(t, timeline.CriticalPath(many()), 50)
}
