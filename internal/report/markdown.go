package report

import (
	"cmp"
	"fmt"
	"strings"
)

// Sizes that keep a summary below the 1 MiB that GitHub takes of a step, and readable.
const (
	maxCell    = 500       // bytes of a table's cell
	maxRows    = 400 << 10 // bytes of the table
	maxReason  = 16 << 10  // bytes of one reason
	maxReasons = 256 << 10 // bytes of all
)

// Markdown is the run for a forge's summary of a step: a table of the stages, and below it the reasons of those that failed.
func Markdown(run Run) string {
	var b strings.Builder
	title := cmp.Or(cell(run.Service), "Pipeline")
	fmt.Fprintf(&b, "### %s %s: %s in %s\n\n", icon(run.Result), title, cell(run.Result.Word()), Duration(run.Took()))
	if run.Commit != "" {
		fmt.Fprintf(&b, "Commit <code>%s</code>\n\n", cell(run.Commit))
	}
	if len(run.Stages) == 0 {
		b.WriteString("No stage ran.\n")
		return b.String()
	}
	b.WriteString("| Stage | Result | Time | Made |\n| :-- | :-- | --: | :-- |\n")
	for i, s := range run.Stages {
		if b.Len() > maxRows {
			fmt.Fprintf(&b, "\n%d more stages are in pipeline.json.\n", len(run.Stages)-i)
			break
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s | %s |\n", cmp.Or(cell(s.Name), "?"), icon(s.Result), cell(s.Result.Word()), cell(own(s)), madeCell(s))
	}
	end := b.Len() + maxReasons
	for _, s := range run.Stages {
		if s.Result != Failed && s.Result != Stopped || strings.TrimSpace(s.Reason) == "" {
			continue
		}
		if b.Len() > end {
			b.WriteString("\nMore reasons are in pipeline.json.\n")
			break
		}
		reason := strings.Trim(Visible(Cut(s.Reason, maxReason)), "\n")
		mark := fence(reason)
		fmt.Fprintf(&b, "\n<details open><summary>%s %s</summary>\n\n%stext\n%s\n%s\n\n</details>\n",
			icon(s.Result), cell(s.Name+" "+s.Result.Word()), mark, reason, mark)
	}
	return b.String()
}

// madeCell is what a stage made as code, else the first line of its reason.
func madeCell(s Stage) string {
	if len(s.Made) == 0 {
		return cell(outcome(s))
	}
	var made []string
	size := 0
	for i, m := range s.Made {
		if size > maxCell {
			made = append(made, fmt.Sprintf("and %d more", len(s.Made)-i))
			break
		}
		made = append(made, "<code>"+cell(m)+"</code>")
		size += len(m) + 20 // the elements
	}
	return strings.Join(made, "<br>")
}

// icon tells a result at a glance; the word stands beside it.
func icon(r Result) string {
	switch r {
	case OK:
		return "✅"
	case Failed:
		return "❌"
	case Skipped:
		return "⏭️"
	case Stopped:
		return "🛑"
	case Planned:
		return "📋"
	}
	return "⏳"
}

// cell is s on one line as text that is neither Markdown nor HTML: what means something to either becomes an entity, which
// a table's cell, a heading and a code element all show as the character.
func cell(s string) string {
	if len(s) > maxCell {
		s = s[:maxCell] + "…"
	}
	var b strings.Builder
	for _, r := range Line(s) {
		if strings.ContainsRune("&<>\"'|*_[]()~`\\!#$^{}", r) {
			fmt.Fprintf(&b, "&#%d;", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// fence is a code fence longer than any that s holds.
func fence(s string) string {
	longest, n := 2, 0
	for _, r := range s {
		if r == '`' {
			n++
			longest = max(longest, n)
		} else {
			n = 0
		}
	}
	return strings.Repeat("`", longest+1)
}
