// Command otlpexport sends the spans and metrics of a run to an OpenTelemetry collector. The run starts it, writes lines of
// JSON to its standard input and reads how it goes from its standard output; otlp.Line and otlp.Told say what is in them. It
// is a program of its own since HTTP would make every magefile slower to compile, and it needs the standard library alone so
// that it can be built anywhere. The collector is in the variables that OpenTelemetry defines.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	ossignal "os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

const (
	// interval is how long a span waits for others.
	interval = 500 * time.Millisecond
	// batch is how many spans a request has at most.
	batch = 512
	// bound is how many spans are kept while the collector does not take them. The latest are dropped.
	bound = 2048
	// lineSize bounds a line of the run's.
	lineSize = 1 << 20
	// last is how long sending may go on after the run has ended.
	last = 4 * time.Second
)

func main() {
	// The run may be gone when it is told something; its end is seen on standard input.
	ossignal.Ignore(syscall.SIGPIPE)
	if !run(os.Stdin, os.Stdout, os.Getenv) {
		os.Exit(1)
	}
}

// run exports what it reads from in until in ends, and tells out.
func run(in io.Reader, out io.Writer, getenv func(string) string) bool {
	e := &exporter{told: json.NewEncoder(out), more: make(chan struct{}, 1)}
	for name, s := range map[string]**signal{"TRACES": &e.traces, "METRICS": &e.metrics} {
		var err error
		if *s, err = configured(name, getenv); err != nil {
			e.tell(func(t *otlp.Told) { t.Problem = err.Error() })
			return false
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		e.read(in)
		time.Sleep(last)
		cancel()
	}()
	e.probe(ctx)
	for e.next() && ctx.Err() == nil {
		e.export(ctx)
	}
	return true
}

type exporter struct {
	traces, metrics *signal

	telling sync.Mutex
	told    *json.Encoder
	state   otlp.Told

	more    chan struct{} // there is something to do
	mu      sync.Mutex
	pending []pending
	points  *otlp.ResourceMetrics
	ended   bool
}

// pending is a span, with what it is of.
type pending struct {
	of   *otlp.Resource
	span otlp.Span
}

// read takes in lines until there are no more. It never waits for the collector, so that the end of the run is seen.
func (e *exporter) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, lineSize)
	of := &otlp.Resource{}
	var last *otlp.Span
	for lines.Scan() {
		var line otlp.Line
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue // the run was ended in the middle of a line
		}
		e.mu.Lock()
		switch {
		case line.Resource != nil:
			of = line.Resource
		case line.Metrics != nil:
			e.points = line.Metrics
		case line.Last != nil:
			last = line.Last
		case line.Span != nil:
			if last != nil && bytes.Equal(last.SpanID, line.Span.SpanID) {
				last = nil
			}
			if len(e.pending) < bound {
				e.pending = append(e.pending, pending{of, *line.Span})
			}
		}
		full := len(e.pending) >= batch
		e.mu.Unlock()
		if full {
			e.wake()
		}
	}
	e.mu.Lock()
	if last != nil {
		e.pending = append(e.pending, pending{of, *last})
	}
	e.ended = true
	e.mu.Unlock()
	e.wake()
}

func (e *exporter) wake() {
	select {
	case e.more <- struct{}{}:
	default:
	}
}

// next waits until there is something to send, and reports whether there is; when there is not, all has been sent.
func (e *exporter) next() bool {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		e.mu.Lock()
		left, ended := len(e.pending) > 0 || e.points != nil, e.ended
		full := len(e.pending) >= batch
		e.mu.Unlock()
		if left && full || ended {
			return left
		}
		select {
		case <-e.more:
		case <-timer.C:
			if left {
				return true
			}
			timer.Reset(interval)
		}
	}
}

// tell changes the state and tells the run.
func (e *exporter) tell(change func(*otlp.Told)) {
	e.telling.Lock()
	defer e.telling.Unlock()
	before := e.state
	change(&e.state)
	if e.state != before {
		_ = e.told.Encode(e.state) // the run may be gone
	}
}

// failing returns a function that tells of failures to send by s.
func (e *exporter) failing(s *signal) func(error) {
	return func(err error) { e.tell(func(t *otlp.Told) { t.Problem = s.problem(err) }) }
}

// probe sends an empty request, to learn early whether the collector answers.
func (e *exporter) probe(ctx context.Context) {
	to, message := e.traces, any(&otlp.Traces{})
	if to == nil {
		to, message = e.metrics, &otlp.Metrics{}
	}
	if to == nil {
		return
	}
	body, err := to.body(message)
	if err == nil {
		_, _, err = to.attempt(ctx, body)
	}
	if err != nil {
		e.failing(to)(err)
		return
	}
	e.tell(func(t *otlp.Told) { t.Answered = true })
}

// export sends what there is of spans, a batch at most, and else the metrics, which come last.
func (e *exporter) export(ctx context.Context) {
	e.mu.Lock()
	spans := e.pending[:min(batch, len(e.pending))]
	e.pending = e.pending[len(spans):]
	var points *otlp.ResourceMetrics
	if len(spans) == 0 {
		points, e.points = e.points, nil
	}
	e.mu.Unlock()

	if len(spans) > 0 && e.traces != nil {
		refused, why, err := e.traces.send(ctx, request(spans), e.failing(e.traces))
		e.tell(func(t *otlp.Told) {
			e.traces.outcome(t, why, err)
			if err == nil {
				t.Spans += max(len(spans)-refused, 0)
			}
		})
	}
	if points != nil && e.metrics != nil {
		message := &otlp.Metrics{ResourceMetrics: []otlp.ResourceMetrics{*points}}
		refused, why, err := e.metrics.send(ctx, message, e.failing(e.metrics))
		e.tell(func(t *otlp.Told) {
			e.metrics.outcome(t, why, err)
			t.Metrics = err == nil && refused == 0
		})
	}
}

// outcome notes how sending by s ended; why is what the collector says of what it refused.
func (s *signal) outcome(t *otlp.Told, why string, err error) {
	t.Problem = ""
	switch {
	case err != nil:
		t.Problem = s.problem(err)
		return
	case why != "":
		t.Problem = fmt.Sprintf("the collector at %s says %q", s.host, why)
	}
	t.Answered = true
}

// problem tells a failure to send, and the cure.
func (s *signal) problem(err error) string {
	return fmt.Sprintf("the collector at %s: %v; let %s be the address of one that takes it, or unset it", s.host, err, s.variable)
}

// request groups spans by what they are of.
func request(spans []pending) *otlp.Traces {
	message := &otlp.Traces{}
	var of *otlp.Resource
	for _, p := range spans {
		if p.of != of {
			of = p.of
			message.ResourceSpans = append(message.ResourceSpans, otlp.ResourceSpans{
				Resource: *of, ScopeSpans: []otlp.ScopeSpans{{Scope: otlp.Scoped}},
			})
		}
		all := &message.ResourceSpans[len(message.ResourceSpans)-1].ScopeSpans[0].Spans
		*all = append(*all, p.span)
	}
	return message
}
