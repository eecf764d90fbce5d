// Package stage runs the body of a target as a stage of the pipeline: named in every log record and error, once per
// process, bounded by the machine, timed, stopped by a signal or by the death of the process that started it, its panic
// contained.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/telemetry"
)

// Error is a stage that failed. It keeps the exit code of its cause.
type Error struct {
	// Stage is the name of the stage.
	Stage string
	// Err is why it failed.
	Err error

	mask func(string) string
}

// Error names the stage and the cause, without the secrets of the run.
func (e *Error) Error() string {
	text := e.Stage + ": " + e.Err.Error()
	if e.mask != nil {
		text = e.mask(text)
	}
	return text
}

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

// Skip is the error of a body that has nothing to do, with the reason. The stage is reported as skipped, and is no failure.
type Skip string

// Error is the reason.
func (s Skip) Error() string { return string(s) }

// noLongerNeeded is why a stage was ended, or did not begin, after another had failed.
// It has that one's exit code, since mage makes 1 of two that differ.
type noLongerNeeded struct {
	why  string
	code int
}

func (n *noLongerNeeded) Error() string { return "no longer needed, since " + n.why }

// ExitStatus is that of the stage that failed.
func (n *noLongerNeeded) ExitStatus() int { return n.code }

// stage is a stage that has been asked for.
type stage struct {
	pipeline *Pipeline
	parent   *stage
	mark     bool // it has no body
	always   bool // it runs whatever has failed
	lane     *lane
	span     telemetry.SpanID
	begin    time.Time // when it had its turn
	done     chan struct{}
	cancel   context.CancelCauseFunc
	err      error

	// What follows is the pipeline's to lock.
	record      report.Stage
	doing       string         // what it is at, for who watches
	waitsFor    map[*stage]int // by how many calls
	children    int            // processes that run
	turn        bool           // it counts as one of those that run
	goroutine   int            // that runs its body
	hidden      bool           // it was seen to wait in mage's dependency functions
	waitedSince time.Time      // since when it waits for others
	waited      time.Duration
}

// spanID is zero where no stage is the parent.
func (s *stage) spanID() telemetry.SpanID {
	if s == nil {
		return telemetry.SpanID{}
	}
	return s.span
}

func (s *stage) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

type stageKey struct{}

func current(ctx context.Context) *stage {
	s, _ := ctx.Value(stageKey{}).(*stage)
	return s
}

// Option changes how a stage is run.
type Option func(*chosen)

type chosen struct {
	plan   func(context.Context) (string, error)
	always bool
}

// Plan is what a dry run calls in place of the body. It says what the body would do and touches nothing; its error is
// what the body would fail with.
func Plan(plan func(context.Context) (string, error)) Option {
	return func(s *chosen) { s.plan = plan }
}

// Always lets the stage run after another stage has failed, as one does that cleans up or tells somebody.
func Always() Option { return func(s *chosen) { s.always = true } }

// Run runs body as the stage called name, once: whoever asks for a stage again waits for the first and gets its error. A
// nil body is a stage that only stands for those which ran before it.
//
// No more stages than the limit run at once; one that waits for others does not count. What a stage needs is best asked for
// before it, by mg.CtxDeps: when a body does so, it is only noticed after a moment that it waits, and that it goes on.
//
// The context that body gets ends with ctx, with SIGINT, SIGTERM or SIGHUP, with the death of the parent process, and when
// a stage beside it fails; it carries the stage's logger, and child processes started with it write to the stage's own lane
// of the output.
func (p *Pipeline) Run(ctx context.Context, name string, body func(context.Context) error, options ...Option) error {
	var set chosen
	for _, option := range options {
		option(&set)
	}
	parent := current(ctx)
	s, first, err := p.ask(parent, name, body == nil, set.always)
	if err != nil {
		return err
	}
	defer p.answered(parent, s)
	if !first {
		select {
		case <-s.done:
			return s.err
		case <-ctx.Done():
			return &Error{Stage: name, Err: context.Cause(ctx), mask: p.masker.Mask}
		}
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.begin(ctx, s, cancel)
	log := p.printer.logger(s.lane, name)
	ctx = log.WithContext(context.WithValue(process.WithOutput(ctx, s.lane), stageKey{}, s))
	ctx = process.WithObserver(ctx, s.observe)
	p.warn(log)

	return p.end(ctx, s, p.perform(ctx, s, body, set), log)
}

// perform waits for the stage's turn, and runs body or its plan.
func (p *Pipeline) perform(ctx context.Context, s *stage, body func(context.Context) error, set chosen) error {
	if err := p.failed(); err != nil && s.parent == nil && !set.always {
		return err
	}
	if err := p.take(ctx, s); err != nil {
		return err
	}
	if p.dryRun {
		return p.plan(ctx, s, body, set)
	}
	if body == nil {
		return nil
	}
	zerolog.Ctx(ctx).Info().Msg("started")
	return contain(ctx, body)
}

// ask returns the stage called name, and whether the caller is the first to ask for it, who has to run it.
func (p *Pipeline) ask(parent *stage, name string, mark, always bool) (s *stage, first bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s = p.stages[name]
	if s == nil {
		now := time.Now()
		s = &stage{
			pipeline: p,
			record:   report.Stage{Name: name, Start: now, End: now},
			parent:   parent,
			mark:     mark,
			always:   always,
			span:     p.traced().NewSpan(),
			lane:     p.printer.lane(name, laneOf(parent)),
			done:     make(chan struct{}),
			waitsFor: map[*stage]int{},
			cancel:   func(error) {},
		}
		p.stages[name] = s
		p.order = append(p.order, s)
		first = true
	} else if chain := wayBack(s, parent); chain != nil && !s.ended() {
		return nil, false, cycleError(chain)
	}
	if parent == nil {
		return s, first, nil
	}
	if parent.waitsFor[s]++; parent.turn {
		parent.waitedSince = time.Now()
		p.giveTurn(parent)
	}
	if !slices.Contains(parent.record.Needs, name) {
		parent.record.Needs = append(parent.record.Needs, name)
	}
	return s, first, nil
}

// answered says that parent no longer waits for s, and gives it its turn back.
func (p *Pipeline) answered(parent, s *stage) {
	if parent == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if parent.waitsFor[s]--; parent.waitsFor[s] == 0 {
		delete(parent.waitsFor, s)
	}
	for p.running >= p.limit && len(parent.waitsFor) == 0 && !p.stalled() {
		p.wait()
	}
	if len(parent.waitsFor) > 0 || parent.turn || parent.ended() {
		return // it waits for more, or another of its goroutines has its turn back already
	}
	p.takeTurn(parent)
	parent.waited += time.Since(parent.waitedSince)
}

// observe keeps account of a child process of s.
func (s *stage) observe(cmd *exec.Cmd) func(int) {
	p := s.pipeline
	p.mu.Lock()
	defer p.mu.Unlock()
	span := p.traced().NewSpan()
	if environ := p.traced().Environ(span); environ != nil {
		cmd.Env = append(cmd.Environ(), environ...)
	}
	i := len(s.record.Processes)
	s.record.Processes = append(s.record.Processes, report.Process{
		Command: p.maskAll(cmd.Args), Dir: cmd.Dir, Start: time.Now(),
	})
	s.children++
	return func(code int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		s.children--
		s.record.Processes[i].End, s.record.Processes[i].ExitCode = time.Now(), code
		p.traced().Process(span, s.span, s.record.Processes[i])
	}
}

// contain runs body and turns its panic into an error. Mage tells of a failed dependency by a panic with an error that has
// an exit code: that is no fault of this stage.
func contain(ctx context.Context, body func(context.Context) error) (err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if failed, ok := v.(error); ok {
			if _, ok := v.(exitStatuser); ok {
				err = &dependencyFailed{failed}
				return
			}
		}
		err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
	}()
	return body(ctx)
}

// dependencyFailed is mage's panic: the error of a target that this one needs. It tells of itself under its own name.
type dependencyFailed struct{ error }

func (d *dependencyFailed) Unwrap() error { return d.error }

// ExitStatus is that of the dependency.
func (d *dependencyFailed) ExitStatus() int { return exitStatus(d.error) }

func laneOf(s *stage) *lane {
	if s == nil {
		return nil
	}
	return s.lane
}

// Made notes what the stage that ctx belongs to made: a reference, the path of a report, a commit.
func Made(ctx context.Context, what string) {
	if s := current(ctx); s != nil {
		s.pipeline.mu.Lock()
		defer s.pipeline.mu.Unlock()
		s.record.Made = append(s.record.Made, s.pipeline.masker.Mask(what))
	}
}

// Doing notes what the stage that ctx belongs to is at. On a terminal it stands in the line that says what runs.
func Doing(ctx context.Context, what string) {
	if s := current(ctx); s != nil {
		s.pipeline.mu.Lock()
		defer s.pipeline.mu.Unlock()
		s.doing = strings.Join(strings.FieldsFunc(s.pipeline.masker.Mask(what), func(r rune) bool { return !unicode.IsPrint(r) }), " ")
	}
}

// default pipeline of this process: targets are functions, so the process is what they have in common.
var standard = sync.OnceValue(func() *Pipeline { return New(FromEnvironment()) })

// Default returns the pipeline of this process.
func Default() *Pipeline { return standard() }

// Run runs body as a stage of the process's pipeline; see Pipeline.Run.
func Run(ctx context.Context, name string, body func(context.Context) error, options ...Option) error {
	return Default().Run(ctx, name, body, options...)
}
