// Package retry does again what may pass: it has the pauses, and knows how a connection breaks. Whether an answer is worth
// another try is its caller's to say.
//
//	err := retry.Do(ctx, retry.Backoff{First: time.Second, Tries: 5}, passing, func(ctx context.Context) error { … })
package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"time"
)

// Backoff says how often something is tried, and how long the pauses between are. Each pause is twice the one before.
type Backoff struct {
	// First is the first pause. Default: 200 ms.
	First time.Duration
	// Longest is the longest pause. Default: 5 s.
	Longest time.Duration
	// Tries is how often it is tried in all. Default: without end, until the context ends.
	Tries int
	// Exact has each pause last as long as it says. Default: between half and one and a half times as long, so that many who
	// failed together do not try again together.
	Exact bool
	// Failed is told of each error after which there is another try, and how long the pause before it is. It may return another
	// pause, as where a server says how long to leave it alone; a pause below zero ends it. Default: nobody is told.
	Failed func(err error, pause time.Duration) time.Duration
}

// The defaults of Backoff.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// Error is the error that is left after more than one try.
type Error struct {
	// Tries is how often it was tried.
	Tries int
	// Err is the error of the last one.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%v (tried %d times)", e.Err, e.Tries) }

// Unwrap returns the error of the last try.
func (e *Error) Unwrap() error { return e.Err }

// Do calls op until it succeeds, its error is none that passing says may pass, the tries are over, or ctx ends. After tries that
// were in vain the error is an *Error; when ctx ends it is the context's cause.
func Do(ctx context.Context, b Backoff, passing func(error) bool, op func(context.Context) error) error {
	pauses := b.Pauses()
	for n := 1; ; n++ {
		err := op(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passing(err):
			return err
		case b.Tries > 0 && n >= b.Tries:
			return &Error{Tries: n, Err: err}
		}
		pause := pauses.Next()
		if b.Failed != nil {
			if pause = b.Failed(err, pause); pause < 0 {
				return &Error{Tries: n, Err: err}
			}
		}
		if err := Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// Pauses returns the pauses of the back-off, for a loop that is not Do's.
func (b Backoff) Pauses() *Pauses { return &Pauses{backoff: b} }

// Pauses are pauses that grow.
type Pauses struct {
	backoff Backoff
	last    time.Duration
}

// Next returns the next pause.
func (p *Pauses) Next() time.Duration {
	first, longest := p.backoff.First, p.backoff.Longest
	if first == 0 {
		first = firstPause
	}
	if longest == 0 {
		longest = max(longestPause, first)
	}
	if p.last == 0 {
		p.last = first
	} else {
		p.last = min(2*p.last, longest)
	}
	if p.backoff.Exact {
		return p.last
	}
	return p.last/2 + rand.N(p.last)
}

// Reset has the pauses begin with the first one again.
func (p *Pauses) Reset() { p.last = 0 }

// Sleep waits for d, or until ctx ends; its error is the context's cause then.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errShared is how a connection broke that several requests shared.
var errShared = errors.New("reset by HTTP/2")

// Broken returns how a connection broke that was there, nil where err says of none. What is asked for need not have
// arrived, or may have: only what may be done twice may be tried again.
func Broken(err error) error {
	if err == nil {
		return nil
	}
	for _, how := range []error{syscall.ECONNRESET, syscall.EPIPE, io.ErrUnexpectedEOF, io.EOF, net.ErrClosed} {
		if errors.Is(err, how) {
			return how
		}
	}
	// What net/http says of its own connections by HTTP/2 has no type: a stream that was reset, a server that is going away, a
	// connection that is lost, closed or not usable.
	for _, how := range []string{"stream error: ", "GOAWAY", "http2: client conn"} {
		if strings.Contains(err.Error(), how) {
			return errShared
		}
	}
	return nil
}

// Unreachable reports whether err says that there is no way to a server now, while there may be one later: its name cannot be
// looked up for the moment, or nothing came in time. That nobody listens is not among it.
func Unreachable(err error) bool {
	var lookup *net.DNSError
	if errors.As(err, &lookup) {
		return lookup.IsTemporary || lookup.IsTimeout
	}
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}
