package telemetry

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

const (
	// longest is how long a text in a span may be, in bytes.
	longest = 4 << 10
	// mostArgs is how many arguments of a command line a span has.
	mostArgs = 64
)

func nanos(t time.Time) otlp.Fixed64 { return otlp.Fixed64(max(t.UnixNano(), 0)) }

// text masks what comes from outside, and bounds it.
func (t *Telemetry) text(s string) string {
	s = strings.ToValidUTF8(t.mask(s), "\ufffd")
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

func (t *Telemetry) texts(all []string) []string {
	texts := make([]string, 0, min(len(all), mostArgs))
	for _, s := range all[:min(len(all), mostArgs)] {
		texts = append(texts, t.text(s))
	}
	if len(all) > mostArgs {
		texts = append(texts, fmt.Sprintf("… and %d more", len(all)-mostArgs))
	}
	return texts
}

// span is what all spans have.
func (t *Telemetry) span(id, parent SpanID, name string, start, end time.Time) otlp.Span {
	if parent == (SpanID{}) {
		parent = t.pipeline
	}
	return otlp.Span{
		TraceID:    t.context.Trace[:],
		SpanID:     id[:],
		Parent:     parent[:],
		TraceState: t.context.State,
		Name:       t.text(name),
		Kind:       otlp.Internal,
		Start:      nanos(start),
		End:        nanos(end),
		Flags:      uint32(t.context.Flags) | hasIsRemote,
	}
}

// The flags of a span that say where its parent is.
const (
	hasIsRemote = 0x100
	isRemote    = 0x200
)

// semantic is a result in the words of the semantic conventions, empty where they have none.
// Source: https://opentelemetry.io/docs/specs/semconv/registry/attributes/cicd/
func semantic(r report.Result) string {
	switch r {
	case report.OK:
		return "success"
	case report.Failed:
		return "failure"
	case report.Stopped:
		return "cancellation"
	case report.Skipped, report.Planned:
		return "skip"
	}
	return ""
}

func failed(r report.Result) bool { return r == report.Failed || r == report.Stopped }

func (t *Telemetry) stageSpan(id, parent SpanID, s report.Stage) otlp.Span {
	span := t.span(id, parent, s.Name, s.Start, s.End)
	a := attributes{otlp.String("cicd.pipeline.task.name", t.text(s.Name))}
	a.set("cicd.pipeline.task.run.result", semantic(s.Result))
	a.set("grimoire.stage.result", string(s.Result))
	if failed(s.Result) {
		a.set("error.type", semantic(s.Result))
		span.Status = &otlp.Status{Code: otlp.Failed, Message: t.text(s.Reason)}
	} else {
		a.set("grimoire.stage.reason", t.text(s.Reason))
	}
	if len(s.Needs) > 0 {
		a = append(a, otlp.Strings("grimoire.stage.needs", t.texts(s.Needs)))
	}
	if len(s.Made) > 0 {
		a = append(a, otlp.Strings("grimoire.stage.made", t.texts(s.Made)))
	}
	span.Attributes = a
	return span
}

// subcommand matches a first argument that is a verb, as in go test.
var subcommand = regexp.MustCompile(`^[a-z][a-z-]{0,30}$`)

// processSpan is named like "go test". Source: https://opentelemetry.io/docs/specs/semconv/cli/cli-spans/
func (t *Telemetry) processSpan(id, parent SpanID, p report.Process) otlp.Span {
	command := p.Command
	if len(command) == 0 {
		command = []string{"unknown"}
	}
	executable := filepath.Base(command[0])
	name := executable
	if len(command) > 1 && subcommand.MatchString(command[1]) {
		name += " " + command[1]
	}
	span := t.span(id, parent, name, p.Start, p.End)
	span.Kind = otlp.Client
	a := attributes{
		otlp.String("process.executable.name", t.text(executable)),
		otlp.Strings("process.command_args", t.texts(command)),
		otlp.Int("process.exit.code", p.ExitCode),
	}
	a.set("process.working_directory", t.text(p.Dir))
	if p.ExitCode != 0 {
		a.set("error.type", strconv.Itoa(p.ExitCode))
		span.Status = &otlp.Status{Code: otlp.Failed, Message: "exit code " + strconv.Itoa(p.ExitCode)}
	}
	span.Attributes = a
	return span
}

// pipelineSpan is named by the targets. Source: https://opentelemetry.io/docs/specs/semconv/cicd/cicd-spans/
func (t *Telemetry) pipelineSpan(run report.Run) otlp.Span {
	span := t.span(t.pipeline, t.context.Span, strings.TrimSpace("RUN "+strings.Join(run.Targets, " ")), run.Start, run.End)
	if t.context.Span == (SpanID{}) {
		span.Parent = nil
	} else {
		span.Flags |= isRemote
	}
	span.Kind = otlp.Server
	a := attributes{otlp.String("cicd.pipeline.action.name", "RUN")}
	a.set("cicd.pipeline.result", semantic(run.Result))
	if len(run.Targets) > 0 {
		a = append(a, otlp.Strings("grimoire.targets", t.texts(run.Targets)))
	}
	a.set("cicd.pipeline.run.url.full", t.text(run.URL))
	if failed(run.Result) {
		a.set("error.type", semantic(run.Result))
		span.Status = &otlp.Status{Code: otlp.Failed, Message: t.text(why(run))}
	}
	span.Attributes = a
	return span
}

// why is the reason of the first stage that failed, or else of the first that was stopped.
func why(run report.Run) string {
	for _, result := range []report.Result{report.Failed, report.Stopped} {
		for _, s := range run.Stages {
			if s.Result == result {
				return s.Name + ": " + s.Reason
			}
		}
	}
	return ""
}
