// Package timeline renders the record of a run as a page: what ran when, what the time went into, what failed and why. The
// page is one file that needs no network and no script, so that it can be kept as it is and opened anywhere.
package timeline

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
)

//go:embed style.css
var style string

// What is shown of a run that holds more.
const (
	maxText      = 1000     // bytes of a name, a result or the like
	maxCommand   = 4000     // bytes of a command line
	maxReason    = 64 << 10 // bytes of a reason
	maxMade      = 100      // things that a stage made
	maxProcesses = 200      // processes of a stage in its table
	maxPath      = 12       // stages of the critical path that the text names
)

// Write writes the page of a run that is to lie in the folder build: of what stages made, files below it are links.
func Write(w io.Writer, run report.Run) error { return WriteIn(w, "build", run) }

// WriteIn is Write for a page in another folder, absolute or relative to the same as the paths in Made.
func WriteIn(w io.Writer, folder string, run report.Run) error {
	p, c := &page{}, newChart(run)
	p.head(run)
	p.header(c)
	p.add("<main>\n")
	p.failures(c)
	switch {
	case len(run.Stages) == 0:
		p.add("<section><p class=\"none\">No stage ran.</p></section>\n")
	case planned(run):
		p.plan(c)
	default:
		p.timeline(c)
		p.table(c)
	}
	p.made(c, folder)
	p.processes(c)
	p.add("</main>\n<footer><p>The same record, for programs: pipeline.json beside this page.</p></footer>\n</body>\n</html>\n")
	_, err := w.Write(p.Bytes())
	return err
}

// planned reports whether nothing ran.
func planned(run report.Run) bool {
	if run.Result == report.Planned {
		return true
	}
	for _, s := range run.Stages {
		if s.Result != report.Planned {
			return false
		}
	}
	return len(run.Stages) > 0
}

// icons are drawn, since not every font has them.
const icons markup = `<svg width="0" height="0" class="defs" aria-hidden="true" focusable="false"><defs>
<pattern id="waiting" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch" width="2" height="6"/></pattern>
<symbol id="i-ok" viewBox="0 0 16 16"><path d="M3 8.5 6.5 12 13 4.5"/></symbol>
<symbol id="i-failed" viewBox="0 0 16 16"><path d="M4 4l8 8M12 4l-8 8"/></symbol>
<symbol id="i-skipped" viewBox="0 0 16 16"><path d="M3 4l5 4-5 4zM12 4v8"/></symbol>
<symbol id="i-stopped" viewBox="0 0 16 16"><path d="M4 4h8v8H4z"/></symbol>
<symbol id="i-planned" viewBox="0 0 16 16"><circle cx="8" cy="8" r="4.5"/></symbol>
<symbol id="i-running" viewBox="0 0 16 16"><path d="M8 3.5V8l3 2"/><circle cx="8" cy="8" r="6"/></symbol>
</defs></svg>
`

// class is the name of a result in the style and among the icons.
func class(r report.Result) markup {
	switch r {
	case report.OK:
		return "ok"
	case report.Failed:
		return "failed"
	case report.Skipped:
		return "skipped"
	case report.Stopped:
		return "stopped"
	case report.Planned:
		return "planned"
	}
	return "running"
}

func (p *page) icon(r report.Result) {
	p.add(`<svg class="icon %s" aria-hidden="true" focusable="false"><use href="#i-%s"/></svg>`, class(r), class(r))
}

func (p *page) head(run report.Run) {
	sum := sha256.Sum256([]byte(style))
	p.add(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>%s: %s</title>
<style>`, base64.StdEncoding.EncodeToString(sum[:]), title(run), run.Result.Word())
	p.WriteString(style)
	p.add("</style>\n</head>\n<body>\n")
	p.add(icons)
}

func title(run report.Run) string { return cmp.Or(short(run.Service), "Pipeline") }

// short is s on one line, cut where it is longer than anybody reads.
func short(s string) string { return report.Line(report.Cut(s, maxText)) }

func name(s report.Stage) string { return cmp.Or(short(s.Name), "(no name)") }

func (p *page) header(c chart) {
	run := c.run
	p.add("<header>\n<div class=\"title\"><h1>%s</h1><p class=\"badge %s\">", title(run), class(run.Result))
	p.icon(run.Result)
	p.add("<span>%s</span></p></div>\n<dl class=\"facts\">\n", run.Result.Word())
	if len(run.Targets) > 0 {
		p.fact("Targets", "%s", short(strings.Join(run.Targets, " ")))
	}
	if run.Commit != "" {
		p.fact("Commit", "<code>%s</code>", short(run.Commit))
	}
	if !run.Start.IsZero() {
		utc := run.Start.UTC()
		p.add("<div><dt>Started</dt><dd><time datetime=\"%s\">", utc.Format(time.RFC3339))
		if _, offset := run.Start.Zone(); offset != 0 {
			p.add("%s<br><span class=\"muted\">%s UTC</span>", run.Start.Format("2006-01-02 15:04:05 -07:00"), utc.Format(time.DateTime))
		} else {
			p.add("%s UTC", utc.Format(time.DateTime))
		}
		p.add("</time></dd></div>\n")
	}
	if !planned(run) {
		p.fact("Wall time", "<strong>%s</strong>", report.Duration(c.wall()))
		if n := len(run.Stages); n > 0 {
			p.fact("Stages", "%s", counts(run))
		}
	}
	p.add("</dl>\n")
	if run.URL == "" && run.Trace == "" {
		p.add("</header>\n")
		return
	}
	p.add("<dl class=\"facts\">\n")
	if url := run.URL; web(url) {
		p.fact("CI run", `<a href="%s" rel="noopener noreferrer">%s</a>`, url, url)
	} else if url != "" {
		p.fact("CI run", "%s", short(url))
	}
	if run.Trace != "" {
		p.fact("Trace", "<code>%s</code>", short(run.Trace))
	}
	p.add("</dl>\n</header>\n")
}

func (p *page) fact(term, value markup, args ...any) {
	p.add("<div><dt>%s</dt><dd>"+value+"</dd></div>\n", append([]any{term}, args...)...)
}

// wall is the wall time: the run's own, else what its stages span.
func (c chart) wall() float64 {
	if took := c.run.Took(); took > 0 {
		return took
	}
	return c.total
}

// counts says how many stages ended how.
func counts(run report.Run) string {
	var all []string
	for _, r := range []report.Result{report.OK, report.Failed, report.Stopped, report.Skipped, report.Planned, ""} {
		n := 0
		for _, s := range run.Stages {
			if class(s.Result) == class(r) {
				n++
			}
		}
		if n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, r.Word()))
		}
	}
	return strings.Join(all, ", ")
}

// web reports whether url is an http or https one that may be a link.
func web(url string) bool {
	scheme, rest, ok := strings.Cut(url, "://")
	return ok && len(url) <= 2*maxText && rest != "" && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) &&
		!strings.ContainsFunc(url, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"<>\\^`{|}", r) })
}

// failures tells what failed or was stopped with its reason as it is, and what was skipped for it.
func (p *page) failures(c chart) {
	var bad, skipped []int
	for i, r := range c.rows {
		switch r.Result {
		case report.Failed, report.Stopped:
			bad = append(bad, i)
		case report.Skipped:
			skipped = append(skipped, i)
		}
	}
	if len(bad) > 0 {
		p.add("<section class=\"failures\" aria-labelledby=\"h-failures\">\n<h2 id=\"h-failures\">What went wrong</h2>\n")
		for _, i := range bad {
			r := c.rows[i]
			p.add("<article class=\"failure %s\">\n<h3>", class(r.Result))
			p.icon(r.Result)
			p.add("<span>%s</span> <small>%s after %s</small></h3>\n", name(r.Stage), r.Result.Word(), report.Duration(r.to-r.from))
			if r.Reason != "" {
				p.add("<pre tabindex=\"0\">%s</pre>\n", strings.Trim(report.Visible(report.Cut(r.Reason, maxReason)), "\n"))
			}
			for _, x := range r.Processes {
				if x.ExitCode != 0 {
					p.add("<p class=\"exit\"><code>%s</code> ended with exit code <strong>%s</strong></p>\n", command(x), x.ExitCode)
					break
				}
			}
			p.add("</article>\n")
		}
		p.add("</section>\n")
	}
	if len(skipped) > 0 {
		p.add("<section aria-labelledby=\"h-skipped\">\n<h2 id=\"h-skipped\">Skipped</h2>\n<dl class=\"skipped\">\n")
		for _, i := range skipped {
			r := c.rows[i]
			p.add("<div><dt>")
			p.icon(r.Result)
			p.add("%s</dt><dd>%s</dd></div>\n", name(r.Stage), cmp.Or(report.Visible(report.Cut(r.Reason, maxReason)), "no reason is known"))
		}
		p.add("</dl>\n</section>\n")
	}
}

func (p *page) timeline(c chart) {
	p.add("<section class=\"timeline\" aria-labelledby=\"h-timeline\">\n<h2 id=\"h-timeline\">Timeline</h2>\n")
	if len(c.path) > 1 {
		own := 0.0
		p.add("<p class=\"path\"><span class=\"key\">Critical path</span> ")
		for n, i := range c.path {
			own += c.rows[i].own
			switch left := len(c.path) - maxPath; {
			case n > 0 && left > 0 && n == maxPath/2:
				p.add(" → <span class=\"muted\">%s more</span>", left)
			case left > 0 && n > maxPath/2 && n < maxPath/2+left:
			default:
				if n > 0 {
					p.add(" → ")
				}
				p.add("<a href=\"#stage-%s\">%s</a>", i, name(c.rows[i].Stage))
			}
		}
		p.add(" <span class=\"muted\">%s of work in %s</span></p>\n", report.Duration(own), report.Duration(c.wall()))
	}
	p.add("<ul class=\"legend\" aria-label=\"Legend\">\n")
	for _, item := range []struct {
		drawing markup
		text    markup
	}{
		{`<rect class="own" x="1" y="3" width="22" height="10" rx="2"/>`, "own work"},
		{`<rect class="wait" x="1" y="3" width="22" height="10" rx="2"/>`, "waiting for others"},
		{`<path class="process" d="M3 8H21"/>`, "child process"},
		{`<rect class="own" x="1" y="2" width="22" height="8" rx="2"/><path class="mark" d="M1 14H23"/>`, "on the critical path"},
	} {
		p.add("<li><svg width=\"24\" height=\"16\" aria-hidden=\"true\" focusable=\"false\">%s</svg>%s</li>\n", item.drawing, item.text)
	}
	p.add("</ul>\n<div class=\"chart\">\n")
	p.axis(c)
	p.add("<ol class=\"rows\">\n")
	for i, r := range c.rows {
		p.row(c, i, r)
	}
	p.add("</ol>\n</div>\n</section>\n")
}

func (p *page) axis(c chart) {
	all := ticks(max(c.total, 0.001))
	p.add("<svg class=\"axis\" height=\"24\" aria-hidden=\"true\" focusable=\"false\">")
	for i, t := range all {
		anchor := markup("middle")
		switch {
		case i == 0:
			anchor = "start"
		case c.at(t.at) > 97:
			anchor = "end"
		}
		p.add("<text x=\"%s%%\" y=\"15\" text-anchor=\"%s\" class=\"%s\">%s</text>", c.at(t.at), anchor, parity(i), t.label)
	}
	p.add("</svg>\n<svg class=\"grid\" aria-hidden=\"true\" focusable=\"false\">")
	for i, t := range all {
		p.add("<line x1=\"%s%%\" x2=\"%s%%\" y1=\"0\" y2=\"100%%\" class=\"%s\"/>", c.at(t.at), c.at(t.at), parity(i))
	}
	p.add("</svg>\n")
}

// parity is how a narrow screen shows every second tick.
func parity(i int) markup {
	if i%2 == 1 {
		return "odd"
	}
	return "even"
}

// at is where a time stands on the axis, in per cent.
func (c chart) at(seconds float64) float64 { return 100 * seconds / max(c.total, 0.001) }

// The height of what a row draws, in pixels.
const (
	barTop    = 5
	barHeight = 16
	laneTop   = 29
	laneStep  = 7
)

func (p *page) row(c chart, i int, r row) {
	height := barTop + barHeight + 9
	if r.lanes > 0 {
		height = laneTop + r.lanes*laneStep + 3
	}
	critical := markup("")
	if r.critical {
		critical = " critical"
	}
	p.add("<li class=\"row %s%s\">\n<div class=\"label\">", class(r.Result), critical)
	p.icon(r.Result)
	p.add("<div><span class=\"name\" title=\"%s\">%s</span>", name(r.Stage), name(r.Stage))
	switch n := len(r.Processes); {
	case r.more > 0:
		p.add("<a class=\"more\" href=\"#processes-%s\">+%s more processes</a>", i, r.more)
	case n > 0 && r.Result != report.OK:
		p.add("<span class=\"more\">%s</span>", r.Result.Word())
	}
	told := c.told(r)
	p.add("</div></div>\n<svg class=\"track\" height=\"%s\" role=\"group\" aria-labelledby=\"t-%s d-%s\"><title id=\"t-%s\">%s</title><desc id=\"d-%s\">%s</desc>\n",
		height, i, i, i, name(r.Stage)+": "+r.Result.Word(), i, told)
	p.add("<a href=\"#stage-%s\" aria-label=\"%s\"><title>%s</title>", i, name(r.Stage)+": "+told, name(r.Stage)+": "+told)
	p.rect("hit", c.at(r.from), c.at(r.to-r.from), 0)
	if r.Result == report.Skipped && r.own == 0 {
		p.rect("skip", c.at(r.from), c.at(r.to-r.from), 0)
	} else {
		p.rect("own", c.at(r.from), c.at(r.to-r.from), 3)
		for _, w := range r.waits {
			p.rect("clear", c.at(w.from), c.at(w.to-w.from), 0)
			p.rect("wait", c.at(w.from), c.at(w.to-w.from), 0)
		}
	}
	if c.at(r.to-r.from) < 0.6 {
		// What took no time to speak of is there nevertheless.
		p.add("<rect class=\"least\" x=\"%s%%\" y=\"%s\" width=\"3\" height=\"%s\"/>", c.at(r.from), barTop, barHeight)
	}
	if r.open {
		p.add("<line class=\"open\" x1=\"%s%%\" x2=\"%s%%\" y1=\"%s\" y2=\"%s\"/>", c.at(r.to), c.at(r.to), barTop-2, barTop+barHeight+2)
	}
	p.add("</a>\n")
	if r.critical {
		p.add("<line class=\"mark\" x1=\"%s%%\" x2=\"%s%%\" y1=\"%s\" y2=\"%s\"/>\n", c.at(r.from), c.at(r.to), barTop+barHeight+3, barTop+barHeight+3)
	}
	for _, b := range r.bars {
		y := laneTop + b.lane*laneStep + 2
		bad := markup("")
		if b.ExitCode != 0 {
			bad = " bad"
		}
		p.add("<g><title>%s</title><line class=\"process%s\" x1=\"%s%%\" x2=\"%s%%\" y1=\"%s\" y2=\"%s\"/>",
			spelled(b), bad, c.at(b.from), c.at(b.to), y, y)
		if b.ExitCode != 0 {
			p.add("<svg class=\"cross\" x=\"%s%%\" y=\"%s\" width=\"1\" height=\"1\"><path d=\"M4 -3l6 6M10 -3l-6 6\"/></svg>", c.at(b.to), y)
		}
		p.add("</g>\n")
	}
	p.add("</svg>\n<div class=\"took\">%s</div>\n<div class=\"told\" aria-hidden=\"true\">%s</div>\n</li>\n", took(r), told)
}

// rect draws a part of a stage's bar, in per cent of the width.
func (p *page) rect(class markup, x, width float64, round int) {
	p.add("<rect class=\"%s\" x=\"%s%%\" y=\"%s\" width=\"%s%%\" height=\"%s\" rx=\"%s\"/>", class, x, barTop, width, barHeight, round)
}

// took is how long the stage's own work took, – where it did none.
func took(r row) string {
	switch {
	case r.own == 0 && r.Result == report.Skipped:
		return "–"
	case r.own == 0 && r.open:
		return "running"
	}
	return report.Duration(r.own)
}

// told is the stage's bar in words.
func (c chart) told(r row) string {
	if r.Result == report.Skipped && r.own == 0 {
		return "skipped at " + report.Duration(r.from)
	}
	words := r.Result.Word() + ", "
	if !r.open || r.own > 0 {
		words += report.Duration(r.own) + " of own work, "
	}
	if r.waited > 0 {
		words += report.Duration(r.waited) + " waiting for others, "
	}
	words += "from " + report.Duration(r.from)
	if r.open {
		return words + ", not ended"
	}
	words += " to " + report.Duration(r.to)
	if r.critical {
		words += ", on the critical path"
	}
	return words
}

// spelled is a process's bar in words.
func spelled(b bar) string {
	words := fmt.Sprintf("%s: %s", short(command(b.Process)), report.Duration(b.to-b.from))
	if b.End.IsZero() {
		return words + ", not ended"
	}
	return fmt.Sprintf("%s, exit code %d", words, b.ExitCode)
}

// command is a command line as a shell would take it.
func command(p report.Process) string {
	var b strings.Builder
	for i, arg := range p.Command {
		if i > 0 {
			b.WriteByte(' ')
		}
		if b.Len() > maxCommand {
			fmt.Fprintf(&b, "… and %d more arguments", len(p.Command)-i)
			break
		}
		arg = report.Cut(arg, maxCommand)
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'\\$`|&;<>()*?#~") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		b.WriteString(arg)
	}
	return b.String()
}

// table is every stage with its numbers. The roles keep it a table where a narrow screen lays it out as cards.
func (p *page) table(c chart) {
	p.add(`<section aria-labelledby="h-stages">
<h2 id="h-stages">Stages</h2>
<table class="stages" role="table" aria-labelledby="h-stages">
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Stage</th><th role="columnheader" scope="col">Result</th><th role="columnheader" scope="col" class="number">Own time</th><th role="columnheader" scope="col" class="number">Share of wall time</th><th role="columnheader" scope="col">Needs</th></tr></thead>
<tbody role="rowgroup">
`)
	names := byName(c.run)
	for i, r := range c.rows {
		share := 0.0
		if wall := c.wall(); wall > 0 {
			share = 100 * r.own / wall
		}
		p.add("<tr role=\"row\" id=\"stage-%s\"><th role=\"rowheader\" scope=\"row\">%s</th><td role=\"cell\" class=\"result %s\">", i, name(r.Stage), class(r.Result))
		p.icon(r.Result)
		p.add("%s</td><td role=\"cell\" class=\"number\">%s</td><td role=\"cell\" class=\"number share\"><svg aria-hidden=\"true\" focusable=\"false\"><rect width=\"100%%\" height=\"100%%\" class=\"whole\"/><rect width=\"%s%%\" height=\"100%%\" class=\"%s\"/></svg><span>%s</span></td><td role=\"cell\" class=\"needs\">",
			r.Result.Word(), took(r), min(share, 100), class(r.Result), fmt.Sprintf("%.1f %%", share))
		for n, need := range r.Needs {
			if n > 0 {
				p.add(", ")
			}
			if at, ok := names[need]; ok {
				p.add("<a href=\"#stage-%s\">%s</a>", at, name(c.rows[at].Stage))
			} else {
				p.add("%s", short(need))
			}
		}
		p.add("</td></tr>\n")
	}
	p.add("</tbody>\n</table>\n</section>\n")
}

// plan is what would run: step by step, side by side what does not wait for each other.
func (p *page) plan(c chart) {
	p.add("<section aria-labelledby=\"h-plan\">\n<h2 id=\"h-plan\">Plan</h2>\n<p class=\"muted\">Nothing ran. Stages of the same step do not wait for each other.</p>\n<ol class=\"plan\">\n")
	for _, wave := range waves(c.run) {
		p.add("<li><ul>\n")
		for _, i := range wave {
			r := c.rows[i]
			p.add("<li class=\"step\" id=\"stage-%s\"><h3>", i)
			p.icon(r.Result)
			p.add("<span>%s</span></h3>", name(r.Stage))
			if len(r.Needs) > 0 {
				p.add("<p class=\"muted\">after %s</p>", short(strings.Join(r.Needs, ", ")))
			}
			if r.Reason != "" {
				p.add("<p class=\"would\">%s</p>", strings.Trim(report.Visible(report.Cut(r.Reason, maxReason)), "\n"))
			}
			p.add("</li>\n")
		}
		p.add("</ul></li>\n")
	}
	p.add("</ol>\n</section>\n")
}

// made lists what the stages made.
func (p *page) made(c chart, folder string) {
	any := false
	for _, r := range c.rows {
		if len(r.Made) == 0 {
			continue
		}
		if !any {
			any = true
			p.add("<section aria-labelledby=\"h-made\">\n<h2 id=\"h-made\">Made</h2>\n<dl class=\"made\">\n")
		}
		p.add("<div><dt>%s</dt><dd><ul>\n", name(r.Stage))
		for i, m := range r.Made {
			if i == maxMade {
				p.add("<li class=\"muted\">and %s more</li>\n", len(r.Made)-i)
				break
			}
			if href := link(folder, m); href != "" {
				p.add("<li><a href=\"%s\">%s</a></li>\n", href, short(m))
			} else {
				p.add("<li><code>%s</code></li>\n", short(m))
			}
		}
		p.add("</ul></dd></div>\n")
	}
	if any {
		p.add("</dl>\n</section>\n")
	}
}

// link is the relative reference from a page in folder to a file below it; empty for everything else.
func link(folder, made string) string {
	path, err := filepath.Rel(folder, made)
	if err != nil || path == "." || !filepath.IsLocal(path) || len(made) > maxText || report.Line(made) != made {
		return ""
	}
	var b strings.Builder
	b.WriteString("./")
	for _, c := range []byte(filepath.ToSlash(path)) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// processes lists the child processes, opened where one failed.
func (p *page) processes(c chart) {
	any := false
	for i, r := range c.rows {
		if len(r.Processes) == 0 {
			continue
		}
		if !any {
			any = true
			p.add("<section aria-labelledby=\"h-processes\">\n<h2 id=\"h-processes\">Processes</h2>\n")
		}
		open := markup("")
		if r.Result == report.Failed || r.Result == report.Stopped {
			open = " open"
		}
		noun := "processes"
		if len(r.Processes) == 1 {
			noun = "process"
		}
		p.add("<details id=\"processes-%s\"%s><summary>%s <span class=\"muted\">%s %s</span></summary>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Processes of %s\"><table class=\"processes\">\n<thead><tr><th scope=\"col\" class=\"number\">Began</th><th scope=\"col\" class=\"number\">Took</th><th scope=\"col\" class=\"number\">Exit code</th><th scope=\"col\">Command</th></tr></thead>\n<tbody>\n",
			i, open, name(r.Stage), len(r.Processes), noun, name(r.Stage))
		for n, x := range r.Processes {
			if n == maxProcesses {
				p.add("<tr><td colspan=\"4\" class=\"muted\">and %s more</td></tr>\n", len(r.Processes)-n)
				break
			}
			p.process(c, x)
		}
		p.add("</tbody>\n</table></div></details>\n")
	}
	if any {
		p.add("</section>\n")
	}
}

func (p *page) process(c chart, x report.Process) {
	took, code, class := "–", "–", markup("number")
	if !x.End.IsZero() {
		took, code = report.Duration(x.End.Sub(x.Start).Seconds()), fmt.Sprint(x.ExitCode)
	}
	if x.ExitCode != 0 {
		class = "number bad"
	}
	p.add("<tr><td class=\"number\">%s</td><td class=\"number\">%s</td><td class=\"%s\">", report.Duration(c.since(x.Start)), took, class)
	if x.ExitCode != 0 {
		p.icon(report.Failed)
	}
	p.add("%s</td><td><code>%s</code>", code, command(x))
	if x.Dir != "" {
		p.add("<br><span class=\"muted\">in %s</span>", short(x.Dir))
	}
	p.add("</td></tr>\n")
}
