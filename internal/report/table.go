package report

import (
	"cmp"
	"fmt"
	"strings"
)

// Table is the run for the end of a terminal's story: a line a stage, with its result, how long its own work took, and what
// it made or why it made nothing. No line is wider than width cells; 0 is no limit. With colour, results are coloured.
func Table(run Run, width int, colour bool) string {
	rows := []row{{"stage", "result", "time", "made", ""}}
	for _, s := range run.Stages {
		rows = append(rows, row{cmp.Or(Line(Cut(s.Name, maxName)), "?"), s.Result.Word(), own(s), outcome(s), s.Result})
	}
	rows = append(rows, row{"total", run.Result.Word(), Duration(run.Took()), "", run.Result})

	var name, result, time int
	for _, r := range rows {
		name, result, time = max(name, cellsOf(r.name)), max(result, cellsOf(r.result)), max(time, cellsOf(r.time))
	}
	if width > 0 {
		name = min(name, max(minName, width-2-result-2-time))
	}
	var b strings.Builder
	for i, r := range rows {
		line := pad(fit(r.name, name), name) + "  " + pad(r.result, result) + "  " + strings.Repeat(" ", time-cellsOf(r.time)) + r.time
		if r.made != "" {
			line += "  " + r.made
		}
		if width > 0 {
			line = fit(line, width)
		}
		line = strings.TrimRight(line, " ")
		if colour {
			line = paint(line, i == 0, r.result, colours[r.of])
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// row is a line of the table.
type row struct {
	name, result, time, made string
	of                       Result
}

const (
	maxName = 1000 // bytes of a name that are shown at all
	minName = 8    // cells that a name keeps however narrow the table is
	maxMade = 2000 // bytes of what a stage made that are worth a line
)

var colours = map[Result]string{OK: "32", Failed: "31", Skipped: "2", Stopped: "33", Planned: "34"}

// paint colours the result in a line of the table; the heading is dimmed.
func paint(line string, heading bool, result, colour string) string {
	if heading {
		return "\x1b[2m" + line + "\x1b[0m"
	}
	at := strings.Index(line, "  "+result+" ")
	if colour == "" || at < 0 {
		return line
	}
	at += 2
	return fmt.Sprintf("%s\x1b[%sm%s\x1b[0m%s", line[:at], colour, result, line[at+len(result):])
}

func pad(s string, width int) string { return s + strings.Repeat(" ", max(0, width-cellsOf(s))) }

// Word is the result for people: a stage without one is running.
func (r Result) Word() string {
	if r == "" {
		return "running"
	}
	return Line(Cut(string(r), maxName))
}

// own is how long the stage's own work took, – where it did none.
func own(s Stage) string {
	if s.Seconds <= 0 && (s.Result == Skipped || s.Result == Planned) {
		return "–"
	}
	return Duration(s.Seconds)
}

// outcome is what the stage made, else the first line of why it made nothing or of what it would do.
func outcome(s Stage) string {
	if len(s.Made) > 0 {
		return Line(Cut(strings.Join(s.Made, ", "), maxMade))
	}
	if s.Result == OK {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(Cut(s.Reason, 2*maxMade)), "\n")
	return Line(Cut(first, maxMade))
}
