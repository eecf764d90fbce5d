package timeline

import (
	"slices"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
)

// CriticalPath returns the stages that the run took as long as it did for, in the order in which they ended. From the end of
// the run it walks back: to the stages that a stage waited for, the last one first, where Needs says so, else to the one that
// had ended last when it began. Skipped and planned stages are on no path.
func CriticalPath(run report.Run) []string {
	var names []string
	for _, i := range criticalPath(run) {
		names = append(names, run.Stages[i].Name)
	}
	return names
}

// criticalPath returns the indices of the stages of CriticalPath.
func criticalPath(run report.Run) []int {
	w := walk{stages: run.Stages, ends: make([]time.Time, len(run.Stages)), seen: make([]bool, len(run.Stages)), byName: byName(run)}
	var all []int
	for i, s := range run.Stages {
		w.ends[i] = endOf(run, s)
		w.seen[i] = s.Result == report.Skipped || s.Result == report.Planned
		all = append(all, i)
	}
	next := w.last(all, func(time.Time) bool { return true })
	for next >= 0 {
		began := w.back(next)
		next = w.last(all, func(end time.Time) bool { return !end.After(began) })
	}
	slices.Reverse(w.path)
	return w.path
}

// walk is a walk back through the stages of a run.
type walk struct {
	stages []report.Stage
	ends   []time.Time
	byName map[string]int
	seen   []bool
	path   []int
}

// back walks from the end of a stage to what had to be before it, and returns when the first of that began.
func (w *walk) back(i int) time.Time {
	w.seen[i] = true
	w.path = append(w.path, i)
	s := w.stages[i]
	var needs []int
	for _, name := range s.Needs {
		if n, ok := w.byName[name]; ok {
			needs = append(needs, n)
		}
	}
	// It waited for these while it ran, one after the other or at once.
	at := w.ends[i]
	for {
		n := w.last(needs, func(end time.Time) bool { return end.After(s.Start) && !end.After(at) })
		if n < 0 {
			break
		}
		at = earlier(at, w.back(n))
	}
	at = earlier(at, s.Start)
	// And for this one before it began.
	if n := w.last(needs, func(end time.Time) bool { return !end.After(at) }); n >= 0 {
		at = earlier(at, w.back(n))
	}
	return at
}

// last returns the stage that ended last among those that may, and that the walk has not seen; -1 where there is none. Of
// several that ended at once it is the one that began first: it waited for the others.
func (w *walk) last(among []int, may func(end time.Time) bool) int {
	found := -1
	for _, i := range among {
		if w.seen[i] || !may(w.ends[i]) {
			continue
		}
		if found < 0 || w.ends[i].After(w.ends[found]) ||
			w.ends[i].Equal(w.ends[found]) && w.stages[i].Start.Before(w.stages[found].Start) {
			found = i
		}
	}
	return found
}

// endOf is when a stage ended: with the run where it has not ended yet, as it began where the clock went backwards and its
// own work says nothing else.
func endOf(run report.Run, s report.Stage) time.Time {
	end := s.End
	if end.IsZero() {
		end = run.End
	}
	if own := duration(s.Seconds); end.Before(s.Start.Add(own)) && end.Before(s.Start) {
		end = s.Start.Add(own)
	}
	return end
}

// duration is seconds as a Duration, within what is sensible.
func duration(seconds float64) time.Duration {
	const longest = 1e9 // 30 years
	if !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, longest) * float64(time.Second))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// byName finds a stage by its name, the first where a name is there twice.
func byName(run report.Run) map[string]int {
	m := make(map[string]int, len(run.Stages))
	for i, s := range run.Stages {
		if _, ok := m[s.Name]; !ok {
			m[s.Name] = i
		}
	}
	return m
}
