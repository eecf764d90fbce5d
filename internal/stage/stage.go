// Package stage runs the body of a target as a stage of the pipeline: named in every log record and error, once per
// process, timed, stopped by a signal or by the death of the process that started it, its panic contained.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
)

// Result is how a stage ended.
type Result string

// The results of a stage.
const (
	OK      Result = "ok"
	Failed  Result = "failed"
	Skipped Result = "skipped"
)

// Record is what is known of a stage that has ended.
type Record struct {
	// Name is the stage's.
	Name string `json:"name"`
	// Start is when it began.
	Start time.Time `json:"start"`
	// Seconds is how long its own work took, without the time that it waited for other stages.
	Seconds float64 `json:"seconds"`
	// Result is how it ended.
	Result Result `json:"result"`
	// Error says why it failed or was skipped.
	Error string `json:"error,omitempty"`
	// Made lists what it made: a reference, a report, a commit.
	Made []string `json:"made,omitempty"`
}

// Error is a stage that failed. It keeps the exit code of its cause.
type Error struct {
	// Stage is the name of the stage.
	Stage string
	// Err is why it failed.
	Err error
}

// Error names the stage and the cause.
func (e *Error) Error() string { return e.Stage + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitStatus returns the cause's exit code, and 1 where it has none.
func (e *Error) ExitStatus() int {
	if code := exitStatus(e.Err); code > 0 {
		return code
	}
	return 1
}

// exitStatuser is what mage asks an error for its exit code.
type exitStatuser interface{ ExitStatus() int }

func exitStatus(err error) int {
	var e exitStatuser
	if errors.As(err, &e) {
		return e.ExitStatus()
	}
	return 0
}

// stage is a stage that has begun.
type stage struct {
	record Record
	parent *stage
	lane   *lane
	done   chan struct{}
	err    error

	mu          sync.Mutex
	waiting     int       // how many stages it waits for
	waitedSince time.Time // since when, while waiting > 0
	waited      time.Duration
}

// enterWait and leaveWait keep the time that a stage waits for others apart from its own; several at once count once.
func (s *stage) enterWait(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting++; s.waiting == 1 {
		s.waitedSince = now
	}
}

func (s *stage) leaveWait(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting--; s.waiting == 0 {
		s.waited += now.Sub(s.waitedSince)
	}
}

type stageKey struct{}

func current(ctx context.Context) *stage {
	s, _ := ctx.Value(stageKey{}).(*stage)
	return s
}

// Pipeline holds the stages of a run.
type Pipeline struct {
	printer *printer

	mu      sync.Mutex
	stages  map[string]*stage
	records []Record
	reports []string
}

// New returns a pipeline without stages that writes its story to out, as JSON lines where ci is set and for people
// elsewhere.
func New(out *os.File, ci bool) *Pipeline {
	return &Pipeline{
		printer: newPrinter(out, ci),
		stages:  map[string]*stage{},
	}
}

// Run runs body as the stage called name, once: whoever asks for a stage again waits for the first and gets its error. The
// context that body gets ends with ctx, with SIGINT, SIGTERM or SIGHUP, and with the death of the parent process; it
// carries the stage's logger, and child processes started with it write to the stage's own lane of the output.
func (p *Pipeline) Run(ctx context.Context, name string, body func(context.Context) error) error {
	parent := current(ctx)
	if chain := cycle(parent, name); chain != "" {
		return &Error{Stage: name, Err: fmt.Errorf("a stage cannot wait for itself: %s; drop one of these dependencies", chain)}
	}
	if parent != nil {
		parent.enterWait(time.Now())
		defer func() { parent.leaveWait(time.Now()) }()
	}

	p.mu.Lock()
	s, begun := p.stages[name]
	if !begun {
		s = &stage{
			record: Record{Name: name, Start: time.Now()},
			parent: parent,
			lane:   p.printer.lane(laneOf(parent)),
			done:   make(chan struct{}),
		}
		p.stages[name] = s
	}
	p.mu.Unlock()
	if begun {
		select {
		case <-s.done:
			return s.err
		case <-ctx.Done():
			return &Error{Stage: name, Err: context.Cause(ctx)}
		}
	}

	ctx, cancel := untilStopped(ctx)
	defer cancel()
	log := p.printer.logger(s.lane, name)
	ctx = log.WithContext(context.WithValue(process.WithOutput(ctx, s.lane), stageKey{}, s))
	log.Info().Msg("started")
	err, skipped := contain(ctx, body)
	p.end(s, err, skipped, log)
	return s.err
}

// end writes down how s ended and lets everybody know who waits for it.
func (p *Pipeline) end(s *stage, err error, skipped bool, log zerolog.Logger) {
	s.mu.Lock()
	took := time.Since(s.record.Start) - s.waited
	s.record.Seconds = seconds(took)
	s.mu.Unlock()
	switch {
	case err == nil:
		s.record.Result = OK
		log.Info().Float64("seconds", seconds(took)).Msg("done")
	case skipped:
		s.record.Result, s.record.Error = Skipped, err.Error()
		s.err = err
		log.Warn().Msg("skipped, because a stage that it needs failed")
	default:
		s.record.Result, s.record.Error = Failed, err.Error()
		s.err = &Error{Stage: s.record.Name, Err: err}
		log.Error().Float64("seconds", seconds(took)).Msg("failed")
	}
	s.lane.close()

	p.mu.Lock()
	defer p.mu.Unlock()
	p.records = append(p.records, s.record)
	if s.parent == nil {
		for _, path := range p.reports {
			if werr := writeReport(path, p.records); werr != nil {
				log.Warn().Err(werr).Msg("the report of this run could not be written")
			}
		}
	}
	close(s.done)
}

// seconds rounds to what is worth reading, a millisecond.
func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond).Milliseconds()) / 1000
}

// contain runs body and turns its panic into an error. Mage tells of a failed dependency by a panic with an error that has
// an exit code: that is no fault of this stage, which was skipped.
func contain(ctx context.Context, body func(context.Context) error) (err error, skipped bool) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if failed, ok := v.(error); ok {
			if _, ok := v.(exitStatuser); ok {
				err, skipped = failed, true
				return
			}
		}
		err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
	}()
	err = body(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		// What failed because everything was being stopped says so first.
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err, false
}

// cycle returns the chain of stages that leads from name back to itself, empty where there is none.
func cycle(parent *stage, name string) string {
	chain := []string{name}
	for s := parent; s != nil; s = s.parent {
		chain = append(chain, s.record.Name)
		if s.record.Name == name {
			slices.Reverse(chain)
			return strings.Join(chain, " → ")
		}
	}
	return ""
}

func laneOf(s *stage) *lane {
	if s == nil {
		return nil
	}
	return s.lane
}

// Made notes what the stage that ctx belongs to made: a reference, the path of a report, a commit.
func Made(ctx context.Context, what string) {
	if s := current(ctx); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.record.Made = append(s.record.Made, what)
	}
}

// Report has the records of the run written to path as JSON after every outermost stage. Asking twice for a path is asking
// once.
func (p *Pipeline) Report(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.reports, path) {
		p.reports = append(p.reports, path)
	}
}

// Default is the pipeline of this process: targets are functions, so the process is what they have in common.
var Default = sync.OnceValue(func() *Pipeline {
	return New(os.Stderr, os.Getenv("CI") != "")
})

// Run runs body as a stage of the process's pipeline; see Pipeline.Run.
func Run(ctx context.Context, name string, body func(context.Context) error) error {
	return Default().Run(ctx, name, body)
}

// Report has the records of the process's pipeline written to path; see Pipeline.Report.
func Report(path string) { Default().Report(path) }
