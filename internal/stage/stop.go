package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/grimoire-build/grimoire/internal/parent"
	"github.com/grimoire-build/grimoire/internal/process"
)

// Stopped is why a stage ended that was not allowed to finish.
type Stopped struct {
	// Why says what stopped it.
	Why string
	// Code is the exit code: 128 plus a signal's number, as a shell has it, and 124 for a deadline, as timeout(1) has it.
	Code int
}

// Error says what stopped the stage.
func (s *Stopped) Error() string { return "stopped: " + s.Why }

// ExitStatus returns the exit code.
func (s *Stopped) ExitStatus() int { return s.Code }

const (
	deadlineCode = 124
	signalCode   = 128
)

// lastGrace is what children get at the second signal to end their own, who are in other process groups.
const lastGrace = 300 * time.Millisecond

// signals are those that stop a run.
var signals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

func stoppedBy(s os.Signal) *Stopped {
	code := signalCode
	if number, ok := s.(syscall.Signal); ok {
		code += int(number)
	}
	return &Stopped{Why: fmt.Sprintf("got the signal %q", s), Code: code}
}

// stops watches for what stops a run while stages are active, and their reports are written: the first SIGINT, SIGTERM or SIGHUP, and the end of the
// parent process. Mage passes on no more than SIGINT, leaves the compiled magefile behind when anything else ends it, and
// exits at the deadline without a wait for what is being stopped.
type stops struct {
	mu      sync.Mutex
	first   *Stopped
	stopped chan struct{} // closed when first is set
	quit    context.CancelFunc
	over    chan struct{} // closed when the watch has ended
}

// watch begins to watch, and calls stop once, with what came first. At a second signal it calls kill and ends the process.
func (s *stops) watch(stop func(*Stopped), kill func(grace time.Duration)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped == nil {
		s.stopped = make(chan struct{})
	}
	ctx, quit := context.WithCancel(context.Background())
	over := make(chan struct{})
	s.quit, s.over = quit, over
	got := make(chan os.Signal, 2)
	signal.Notify(got, signals...)
	gone := parent.Gone(ctx)
	take := func(sig os.Signal) {
		why := stoppedBy(sig)
		if !s.set(why, stop) {
			grace := lastGrace
			if sig == syscall.SIGTERM { // as from a run around this one, which waits no longer
				grace = 0
			}
			kill(grace)
			os.Exit(why.Code)
		}
		// The second must not reach mage, which would exit and leave the children to themselves.
		signal.Reset(signals...)
		signal.Notify(got, signals...)
	}
	go func() {
		defer close(over)
		for {
			select {
			case sig := <-got:
				take(sig)
			case <-gone:
				gone = nil
				s.set(&Stopped{Why: "the process that started it is gone", Code: signalCode + int(syscall.SIGHUP)}, stop)
			case <-ctx.Done():
				for {
					signal.Stop(got)
					select {
					case sig := <-got: // it came before that
						take(sig)
					default:
						return
					}
				}
			}
		}
	}()
}

// unwatch ends the watch, and waits for that: no stage is active, and signals do what they do elsewhere.
func (s *stops) unwatch() {
	s.mu.Lock()
	quit, over := s.quit, s.over
	s.mu.Unlock()
	quit()
	<-over
}

// set reports whether why is the first reason to stop.
func (s *stops) set(why *Stopped, stop func(*Stopped)) bool {
	s.mu.Lock()
	if s.first != nil {
		s.mu.Unlock()
		return false
	}
	s.first = why
	close(s.stopped)
	s.mu.Unlock()
	stop(why)
	return true
}

// why returns what has stopped the run, nil where nothing has.
func (s *stops) why() *Stopped {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// before calls stop a little before the deadline of ctx, while there is time left to end the children politely.
func (s *stops) before(ctx context.Context, stop func(*Stopped)) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return
	}
	left := time.Until(deadline)
	late := time.AfterFunc(left-min(process.Grace+time.Second, left/2), func() {
		s.set(&Stopped{Why: "the time limit of the run is over; give it more with mage -t", Code: deadlineCode}, stop)
	})
	context.AfterFunc(ctx, func() { late.Stop() })
}

// cause returns why ctx has ended. Mage cancels the context of its targets at SIGINT and says no more than that; the signal
// itself comes at the same moment on another way.
func (s *stops) cause(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause != context.Canceled && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	select {
	case <-s.stopped:
		return s.why()
	case <-time.After(50 * time.Millisecond):
		return cause
	}
}
