// Package telemetry exports a run as an OpenTelemetry trace, and how long its stages took as metrics, where the variables that
// OpenTelemetry defines name a collector. The run never waits for it while stages run: a program of its own sends, and what it
// does not take is dropped. The collector is spoken to over OTLP/HTTP.
package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

// Options say what is exported. The zero value of a field is its default.
type Options struct {
	// Environ is the environment, each "NAME=value". Default: os.Environ().
	Environ []string
	// Service is the service's name, where it is known already; see Describe.
	Service string
	// Mask strikes secrets out of what is exported. Default: nothing is.
	Mask func(string) string
	// Log tells, at most once and at the end, what was lost and why. Default: nobody is told.
	Log func(string)

	exporter func(context.Context) (string, error) // for tests
}

// Telemetry exports a run. All methods may be called on nil, which exports nothing, and from several goroutines.
type Telemetry struct {
	getenv   func(string) string
	mask     func(string) string
	log      func(string)
	context  Context // that the run is part of
	pipeline SpanID
	traces   bool
	metrics  bool

	exporter *exporter
	cancel   context.CancelFunc
	closing  sync.Once

	mu        sync.Mutex
	service   string
	commit    string
	described *otlp.Resource // that the exporter was told of last
	spans     int            // how many there were
	durations durations
	closed    bool
}

// Start begins to export, where the environment asks for it; else it returns nil.
func Start(o Options) *Telemetry {
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if o.Mask == nil {
		o.Mask = func(s string) string { return s }
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	getenv := lookup(o.Environ)
	traces, metrics := wanted(getenv)
	if !traces && !metrics {
		return nil
	}
	if o.exporter == nil {
		o.exporter = func(ctx context.Context) (string, error) { return buildExporter(ctx, o.Environ) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &Telemetry{
		getenv: getenv, mask: o.Mask, log: o.Log, service: o.Service, context: contextOf(getenv), pipeline: newSpanID(),
		metrics: metrics, durations: durations{start: time.Now()}, cancel: cancel,
		exporter: &exporter{
			build: o.exporter, environ: o.Environ, lines: newQueue(), start: time.Now(),
			done: make(chan struct{}), changed: make(chan struct{}, 1),
		},
	}
	t.traces = traces && t.context.Flags&sampled != 0
	go t.exporter.run(ctx)
	return t
}

func lookup(environ []string) func(string) string {
	values := map[string]string{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			values[name] = value
		}
	}
	return func(name string) string { return values[name] }
}

// wanted reports what the environment asks for.
// Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
func wanted(getenv func(string) string) (traces, metrics bool) {
	if strings.EqualFold(strings.TrimSpace(getenv("OTEL_SDK_DISABLED")), "true") {
		return false, false
	}
	signal := func(name string) bool {
		exporter := getenv("OTEL_" + name + "_EXPORTER")
		endpoint := getenv("OTEL_EXPORTER_OTLP_ENDPOINT") + getenv("OTEL_EXPORTER_OTLP_"+name+"_ENDPOINT")
		return strings.TrimSpace(endpoint) != "" && (exporter == "" || exporter == "otlp")
	}
	return signal("TRACES"), signal("METRICS")
}

// Describe names the service and the commit that spans are of from now on. What is empty stays as it was.
func (t *Telemetry) Describe(service, commit string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if service != "" {
		t.service = service
	}
	if commit != "" {
		t.commit = commit
	}
}

// TraceID returns the id of the trace in hexadecimal; empty where no trace is exported.
func (t *Telemetry) TraceID() string {
	if t == nil || !t.traces {
		return ""
	}
	return t.context.Trace.String()
}

// NewSpan returns the id for a stage or process that begins.
func (t *Telemetry) NewSpan() SpanID {
	if t == nil {
		return SpanID{}
	}
	return newSpanID()
}

// Traceparent returns the W3C trace context by which a child process makes its spans children of id; of the pipeline where id
// is zero.
func (t *Telemetry) Traceparent(id SpanID) string {
	if t == nil {
		return ""
	}
	if id == (SpanID{}) {
		id = t.pipeline
	}
	return Context{Trace: t.context.Trace, Span: id, Flags: t.context.Flags}.Traceparent()
}

// Environ returns the variables by which a child process makes its spans children of id, to be added to its environment.
func (t *Telemetry) Environ(id SpanID) []string {
	if t == nil {
		return nil
	}
	environ := []string{"TRACEPARENT=" + t.Traceparent(id)}
	if t.context.State != "" || t.getenv("TRACESTATE") != "" { // one that belongs to no trace is not handed on
		environ = append(environ, "TRACESTATE="+t.context.State)
	}
	return environ
}

// Stage exports a stage that has ended. Its parent is the stage that asked for it, zero where the command line did.
func (t *Telemetry) Stage(id, parent SpanID, s report.Stage) {
	if t == nil {
		return
	}
	t.put(t.stageSpan(id, parent, s), false)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Name = t.text(s.Name)
	t.durations.stage(s)
}

// Process exports a child process that has ended, of the stage parent.
func (t *Telemetry) Process(id, parent SpanID, p report.Process) {
	if t == nil {
		return
	}
	t.put(t.processSpan(id, parent, p), false)
}

// put hands a span to the exporter.
func (t *Telemetry) put(span otlp.Span, must bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.traces || t.closed {
		return
	}
	t.spans++
	if of := resource(t.getenv, t.service, t.commit, false); !reflect.DeepEqual(of, t.described) {
		t.described = of
		t.exporter.lines.put(encode(otlp.Line{Resource: of}), true)
	}
	t.exporter.lines.put(encode(otlp.Line{Span: &span}), must)
}

// Progress says how the run stands, which may be its end: mage does not tell. It is exported as the pipeline where Close is not
// called before the process exits.
func (t *Telemetry) Progress(run report.Run) {
	if t == nil || !t.traces {
		return
	}
	span := t.pipelineSpan(run)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.exporter.lines.put(encode(otlp.Line{Last: &span}), true)
	}
}

func encode(line otlp.Line) []byte {
	data, err := json.Marshal(line)
	if err != nil {
		return nil // there is nothing in it that could fail
	}
	return append(data, '\n')
}

// Close exports the pipeline, waits a moment for what is still to be sent, and tells what was lost. A collector that has
// answered before gets some seconds for it, one that has not a half per cent of the run's time. Nothing is exported after it.
func (t *Telemetry) Close(run report.Run) {
	if t == nil {
		return
	}
	t.closing.Do(func() {
		t.Describe(run.Service, run.Commit)
		if run.End.IsZero() {
			run.End = time.Now()
		}
		t.put(t.pipelineSpan(run), true)
		t.mu.Lock()
		t.closed = true
		if t.metrics {
			pipeline := t.getenv("GITHUB_WORKFLOW")
			if pipeline == "" {
				pipeline = t.service
			}
			t.durations.run(run, pipeline)
			of := resource(t.getenv, t.service, t.commit, true)
			t.exporter.lines.put(encode(otlp.Line{Metrics: t.durations.metrics(of, time.Now(), temporality(t.getenv))}), true)
		}
		t.mu.Unlock()
		t.exporter.end(t.cancel)
		if lost := t.lost(); lost != "" {
			t.log(t.mask(lost))
		}
	})
}

// Kill ends the export at once. It is for a process that is about to exit without Close; what is still to be sent is lost.
func (t *Telemetry) Kill() {
	if t != nil {
		t.cancel()
		<-t.exporter.done
	}
}

// lost says what did not reach the collector, and why; it is empty where all did.
func (t *Telemetry) lost() string {
	e := t.exporter
	e.mu.Lock()
	defer e.mu.Unlock()
	var what []string
	if n := t.spans - e.told.Spans; n > 0 {
		what = append(what, fmt.Sprintf("%d of %d spans", n, t.spans))
	}
	if t.metrics && !e.told.Metrics {
		what = append(what, "the durations of stages")
	}
	if len(what) == 0 {
		return ""
	}
	why := e.problem
	switch {
	case why != "":
	case e.told.Problem != "":
		why = e.told.Problem
	case e.told.Answered:
		why = "the collector takes them too slowly"
	default:
		why = "the collector had not answered when the run was over; let OTEL_EXPORTER_OTLP_ENDPOINT be the address of one that does, or unset it"
	}
	return strings.Join(what, " and ") + " did not reach the collector: " + why
}
