package stage

import (
	"context"
	"fmt"
	"os"
	"os/signal"
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

func stoppedBy(s os.Signal) *Stopped {
	code := signalCode
	if number, ok := s.(syscall.Signal); ok {
		code += int(number)
	}
	return &Stopped{Why: fmt.Sprintf("got the signal %q", s), Code: code}
}

// untilStopped returns a context that ends with the first SIGINT, SIGTERM or SIGHUP, with the parent process, and a little
// before the deadline of ctx. Mage passes on no more than SIGINT, leaves the compiled magefile behind when anything else
// ends it, and exits at the deadline without a wait for what is being stopped.
func untilStopped(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	gone := parent.Gone(ctx)
	var late <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		late = time.After(left - min(process.Grace+time.Second, left/2))
	}
	go func() {
		defer signal.Stop(signals)
		select {
		case s := <-signals:
			cancel(stoppedBy(s))
		case <-gone:
			cancel(&Stopped{Why: "the process that started it is gone", Code: signalCode + int(syscall.SIGHUP)})
		case <-late:
			cancel(&Stopped{Why: "the time limit of the run is over; give it more with mage -t", Code: deadlineCode})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}
