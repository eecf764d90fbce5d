package timeline

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/grimoire-build/grimoire/internal/report"
)

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		total float64
		want  string
	}{
		{0.001, "0, 1 ms"},
		{0.7, "0, 100 ms, 200 ms, 300 ms, 400 ms, 500 ms, 600 ms, 700 ms"},
		{1.3, "0, 200 ms, 400 ms, 600 ms, 800 ms, 1.0 s, 1.2 s"},
		{8, "0, 1 s, 2 s, 3 s, 4 s, 5 s, 6 s, 7 s, 8 s"},
		{100, "0, 15 s, 30 s, 45 s, 1 m, 1 m 15 s, 1 m 30 s"},
		{3600, "0, 10 m, 20 m, 30 m, 40 m, 50 m, 1 h"},
		{6000, "0, 15 m, 30 m, 45 m, 1 h, 1 h 15 m, 1 h 30 m"},
		{86400 * 2, "0, 6 h, 12 h, 18 h, 1 d, 30 h, 36 h, 42 h, 2 d"},
		{86400 * 40, "0, 8 d, 16 d, 24 d, 32 d, 40 d"},
		{1e10, "0, 16384 d, 32768 d, 49152 d, 65536 d, 81920 d, 98304 d, 114688 d"},
	} {
		var labels []string
		for _, tick := range ticks(test.total) {
			labels = append(labels, tick.label)
		}
		assert.Equal(t, test.want, strings.Join(labels, ", "))
	}
}

func TestWaits(t *testing.T) {
	for _, test := range []struct {
		name   string
		stage  span
		waited float64
		needs  []span
		want   []span
	}{
		{"none", span{0, 10}, 0, []span{{2, 5}}, nil},
		{"while another ran", span{0, 10}, 3, []span{{2, 5}}, []span{{2, 5}}},
		{"less than it ran", span{0, 10}, 2, []span{{2, 5}}, []span{{2, 4}}},
		{"for two at once", span{0, 10}, 6, []span{{3, 8}, {2, 5}}, []span{{2, 8}}},
		{"for its turn", span{1, 10}, 4, nil, []span{{1, 5}}},
		{"for its turn, then for another", span{0, 10}, 5, []span{{4, 7}}, []span{{0, 2}, {4, 7}}},
		{"for what had begun before and goes on", span{5, 10}, 5, []span{{0, 20}}, []span{{5, 10}}},
		{"for what had ended before", span{5, 10}, 1, []span{{0, 4}}, []span{{5, 6}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var joined []span
			for _, s := range waits(test.stage, test.waited, test.needs) {
				if n := len(joined); n > 0 && joined[n-1].to == s.from {
					joined[n-1].to = s.to
					continue
				}
				joined = append(joined, s)
			}
			assert.Equal(t, test.want, joined)
		})
	}
}

func TestWaves(t *testing.T) {
	for _, test := range []struct {
		name   string
		stages []report.Stage
		want   [][]int
	}{
		{"none", nil, [][]int{}},
		{"no needs are known", []report.Stage{{Name: "a"}, {Name: "b"}}, [][]int{{0}, {1}}},
		{"side by side", []report.Stage{{Name: "a"}, {Name: "b"}, {Name: "c", Needs: []string{"a", "b"}}}, [][]int{{0, 1}, {2}}},
		{"named later", []report.Stage{{Name: "c", Needs: []string{"a"}}, {Name: "a"}}, [][]int{{1}, {0}}},
		{"unknown", []report.Stage{{Name: "c", Needs: []string{"x"}}, {Name: "a"}}, [][]int{{0, 1}}},
		{"itself", []report.Stage{{Name: "c", Needs: []string{"c"}}}, [][]int{{0}}},
	} {
		t.Run(test.name, func(t *testing.T) { assert.Equal(t, test.want, waves(report.Run{Stages: test.stages})) })
	}
	cycle := waves(report.Run{Stages: []report.Stage{{Name: "a", Needs: []string{"b"}}, {Name: "b", Needs: []string{"a"}}}})
	n := 0
	for _, w := range cycle {
		n += len(w)
	}
	assert.Equal(t, 2, n, "a cycle ends, and no stage is lost")
}

func TestProcessBars(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	at := func(s float64) time.Time { return begin.Add(time.Duration(s * float64(time.Second))) }
	s := report.Stage{Name: "test", Start: at(0), End: at(100), Seconds: 100, Result: report.Failed}
	for i := range 50 {
		s.Processes = append(s.Processes, report.Process{Start: at(float64(i)), End: at(float64(i) + 0.01)})
	}
	s.Processes = append(s.Processes,
		report.Process{Start: at(1), End: at(90)},
		report.Process{Start: at(1), End: at(1.001), ExitCode: 2},
		report.Process{Start: at(200), End: at(150)}, // after the run, backwards
		report.Process{}, // nothing known
	)
	r := newChart(report.Run{Start: at(0), End: at(100), Stages: []report.Stage{s}}).rows[0]
	assert.LessOrEqual(t, len(r.bars), maxBars)
	assert.Equal(t, len(s.Processes), len(r.bars)+r.more)
	assert.LessOrEqual(t, r.lanes, maxLanes)
	codes, longest := 0, 0.0
	for _, b := range r.bars {
		codes += b.ExitCode
		longest = max(longest, b.to-b.from)
		assert.True(t, 0 <= b.from && b.from <= b.to && b.to <= 100)
	}
	assert.Equal(t, 2, codes, "what failed is shown, however short")
	assert.InDelta(t, 100, longest, 0.1)
}

func TestLink(t *testing.T) {
	for _, test := range []struct{ folder, made, want string }{
		{"build", "build/coverage.html", "./coverage.html"},
		{"build", "./build/a/b c%.txt", "./a/b%20c%25.txt"},
		{"/src/build", "/src/build/x.xml", "./x.xml"},
		{"build", "build/javascript:alert(1)", "./javascript%3Aalert%281%29"},
		{"build", "build", ""},
		{"build", "build/../../etc/passwd", ""},
		{"build", "coverage.html", ""},
		{"build", "/etc/passwd", ""},
		{"build", "javascript:alert(1)", ""},
		{"build", "//evil.example.org/x", ""},
		{"build", "registry.example.org/shop/pay@sha256:00", ""},
		{"build", "build/a\x00b", ""},
		{"build", "build/a\u202eb", ""},
	} {
		assert.Equal(t, test.want, link(test.folder, test.made), test.made)
	}
}

func TestWeb(t *testing.T) {
	for url, want := range map[string]bool{
		"https://git.example.org/a/b?c=d&e#f": true, "HTTP://git.example.org": true, "": false, "https://": false,
		"javascript:alert(1)": false, "javascript://x/%0aalert(1)": false, "https://a b": false, "https://a\"onload=x": false,
		"https://a\x00": false, "data:text/html,x": false, " https://a": false, "https://a/\u202e": false,
	} {
		assert.Equal(t, want, web(url), url)
	}
}

func TestCommand(t *testing.T) {
	assert.Equal(t, `sh -c 'echo "it'\''s"' ''`, command(report.Process{Command: []string{"sh", "-c", `echo "it's"`, ""}}))
	long := command(report.Process{Command: strings.Fields(strings.Repeat("argument ", 10_000))})
	assert.Less(t, len(long), 2*maxCommand)
	assert.Contains(t, long, "more arguments")
}
