package timeline

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
)

// chart is a run with its times in seconds since its beginning, none of them before that or after its end.
type chart struct {
	run    report.Run
	origin time.Time
	total  float64
	rows   []row
	path   []int
}

// row is a stage in the chart.
type row struct {
	report.Stage
	from, to    float64
	own, waited float64
	waits       []span // the parts of the bar in which it waited for others
	critical    bool
	open        bool // it has not ended
	bars        []bar
	lanes       int
	more        int // processes without a bar
}

// span is a part of the time.
type span struct{ from, to float64 }

// bar is a process in the chart.
type bar struct {
	report.Process
	span
	lane int
}

func newChart(run report.Run) chart {
	c := chart{run: run, path: criticalPath(run)}
	for _, t := range append([]time.Time{run.Start}, starts(run)...) {
		if !t.IsZero() && (c.origin.IsZero() || t.Before(c.origin)) {
			c.origin = t
		}
	}
	c.total = max(0, c.since(run.End))
	for _, s := range run.Stages {
		c.total = max(c.total, c.since(s.Start), c.since(endOf(run, s)))
	}
	names := byName(run)
	for i, s := range run.Stages {
		r := row{Stage: s, from: c.since(s.Start), to: c.since(endOf(run, s)), own: duration(s.Seconds).Seconds(), open: s.End.IsZero()}
		r.to = max(r.from, r.to)
		r.critical = slices.Contains(c.path, i)
		r.waited = max(0, r.to-r.from-r.own)
		if r.open || r.waited < 0.0015 {
			// Own work is rounded to milliseconds, and unknown before the end.
			r.waited = 0
		}
		var needs []span
		for _, name := range s.Needs {
			if n, ok := names[name]; ok && n != i {
				needs = append(needs, span{c.since(run.Stages[n].Start), c.since(endOf(run, run.Stages[n]))})
			}
		}
		r.waits = waits(span{r.from, r.to}, r.waited, needs)
		c.processes(&r)
		c.rows = append(c.rows, r)
	}
	return c
}

func starts(run report.Run) []time.Time {
	var all []time.Time
	for _, s := range run.Stages {
		all = append(all, s.Start)
	}
	return all
}

// since is how many seconds after the beginning t is; a time that is not known is the beginning.
func (c chart) since(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, t.Sub(c.origin).Seconds())
}

// waits says in which parts of a stage's bar it waited, of which only the sum is known: while the stages that it needs ran,
// and what is left from its beginning on, as for its turn.
func waits(stage span, waited float64, needs []span) []span {
	slices.SortFunc(needs, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var parts []span
	take := func(from, to float64) {
		if to = min(to, from+waited); to > from {
			parts = append(parts, span{from, to})
			waited -= to - from
		}
	}
	at := stage.from
	for _, n := range needs {
		from, to := max(n.from, at), min(n.to, stage.to)
		take(from, to)
		at = max(at, to)
	}
	if waited <= 0 {
		return parts
	}
	// The gaps between them.
	gaps := []span{}
	at = stage.from
	for _, p := range parts {
		gaps = append(gaps, span{at, p.from})
		at = p.to
	}
	for _, g := range append(gaps, span{at, stage.to}) {
		take(g.from, g.to)
	}
	slices.SortFunc(parts, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	joined := parts[:0]
	for _, p := range parts {
		if n := len(joined); n > 0 && p.from <= joined[n-1].to {
			joined[n-1].to = max(joined[n-1].to, p.to)
			continue
		}
		joined = append(joined, p)
	}
	return joined
}

const (
	maxBars  = 8
	maxLanes = 4
)

// processes gives the processes of a stage their bars: those that failed and the longest, at most maxBars, in as few lanes as
// hold them without one over the other.
func (c chart) processes(r *row) {
	var all []bar
	for _, p := range r.Processes {
		b := bar{Process: p, span: span{c.since(p.Start), c.since(p.End)}}
		if p.Start.IsZero() {
			b.from = r.from
		}
		if p.End.IsZero() {
			b.to = r.to
		}
		b.from = min(b.from, c.total)
		b.to = min(max(b.from, b.to), c.total)
		all = append(all, b)
	}
	slices.SortStableFunc(all, func(a, b bar) int {
		if (a.ExitCode != 0) != (b.ExitCode != 0) {
			if a.ExitCode != 0 {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.to-b.from, a.to-a.from)
	})
	shown := all[:min(len(all), maxBars)]
	slices.SortStableFunc(shown, func(a, b bar) int { return cmp.Compare(a.from, b.from) })
	var lanes []float64 // where each ends
	for _, b := range shown {
		b.lane = slices.IndexFunc(lanes, func(end float64) bool { return end <= b.from })
		if b.lane < 0 {
			if len(lanes) == maxLanes {
				continue
			}
			b.lane = len(lanes)
			lanes = append(lanes, 0)
		}
		// Short ones are drawn longer than they are.
		lanes[b.lane] = max(b.to, b.from+c.total/80)
		r.bars = append(r.bars, b)
	}
	r.lanes, r.more = len(lanes), len(all)-len(r.bars)
}

// tick is a mark on the axis.
type tick struct {
	at    float64
	label string
}

// steps between ticks, in seconds, below a day.
var steps = []float64{
	0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30,
	60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
}

// ticks returns the marks for a time from 0 to total seconds, no more than nine, at times that people count in.
func ticks(total float64) []tick {
	const most = 8
	step := 86400.0
	if i := slices.IndexFunc(steps, func(s float64) bool { return total/s <= most }); i >= 0 {
		step = steps[i]
	}
	for total/step > most {
		step *= 2
	}
	var all []tick
	for i := 0; float64(i)*step <= total*(1+1e-9); i++ {
		at := float64(i) * step
		all = append(all, tick{at, tickLabel(at, step)})
	}
	return all
}

func tickLabel(at, step float64) string {
	s := int64(math.Round(at))
	switch {
	case at == 0:
		return "0"
	case step < 1 && at < 0.9995:
		return fmt.Sprintf("%.0f ms", at*1000)
	case step < 1:
		return fmt.Sprintf("%.*f s", max(1, int(math.Ceil(-math.Log10(step)))), at)
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600 && s%60 == 0:
		return fmt.Sprintf("%d m", s/60)
	case s < 3600:
		return fmt.Sprintf("%d m %02d s", s/60, s%60)
	case s%86400 == 0:
		return fmt.Sprintf("%d d", s/86400)
	case s%3600 == 0:
		return fmt.Sprintf("%d h", s/3600)
	}
	return fmt.Sprintf("%d h %02d m", s/3600, s%3600/60)
}

// waves puts the stages of a plan into the order of what needs what: those of a wave need only earlier ones. Where no needs
// are known every stage is a wave of its own.
func waves(run report.Run) [][]int {
	names := byName(run)
	depth := make([]int, len(run.Stages))
	known := false
	// A cycle would go on; no chain is longer than there are stages.
	for round, changed := 0, true; changed && round <= len(run.Stages); round++ {
		changed = false
		for i, s := range run.Stages {
			for _, name := range s.Needs {
				known = true
				if n, ok := names[name]; ok && n != i && depth[i] <= depth[n] && depth[n] < len(run.Stages)-1 {
					depth[i], changed = depth[n]+1, true
				}
			}
		}
	}
	all := make([][]int, len(run.Stages))
	for i := range run.Stages {
		d := depth[i]
		if !known {
			d = i
		}
		all[d] = append(all[d], i)
	}
	return slices.DeleteFunc(all, func(w []int) bool { return len(w) == 0 })
}
