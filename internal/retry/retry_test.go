package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/retry"
)

func always(error) bool { return true }

func TestDo(t *testing.T) {
	busy := errors.New("busy")
	t.Run("succeeds in the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start, n := time.Now(), 0
			err := retry.Do(t.Context(), retry.Backoff{First: time.Second, Exact: true}, always, func(context.Context) error {
				if n++; n < 4 {
					return busy
				}
				return nil
			})
			require.NoError(t, err)
			assert.Equal(t, 7*time.Second, time.Since(start), "after 1, 2 and 4 seconds")
		})
	})
	t.Run("in vain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			err := retry.Do(t.Context(), retry.Backoff{Tries: 3}, always, func(context.Context) error { n++; return busy })
			assert.EqualError(t, err, "busy (tried 3 times)")
			assert.ErrorIs(t, err, busy)
			assert.Equal(t, 3, n)
		})
	})
	t.Run("an error that does not pass", func(t *testing.T) {
		n := 0
		err := retry.Do(t.Context(), retry.Backoff{}, func(error) bool { return false }, func(context.Context) error { n++; return busy })
		assert.Equal(t, busy, err, "as it is")
		assert.Equal(t, 1, n)
	})
	t.Run("ends with the context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			why := errors.New("somebody pressed Ctrl-C")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(why) })
			start := time.Now()
			err := retry.Do(ctx, retry.Backoff{First: time.Hour}, always, func(context.Context) error { return busy })
			assert.Equal(t, why, err)
			assert.Equal(t, time.Second, time.Since(start))
		})
	})
	t.Run("a server says how long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start, n := time.Now(), 0
			err := retry.Do(t.Context(), retry.Backoff{Failed: func(err error, pause time.Duration) time.Duration {
				assert.Equal(t, busy, err)
				assert.Positive(t, pause)
				if n == 2 {
					return -1
				}
				return time.Minute
			}}, always, func(context.Context) error { n++; return busy })
			assert.EqualError(t, err, "busy (tried 2 times)")
			assert.Equal(t, time.Minute, time.Since(start))
		})
	})
}

func TestPauses(t *testing.T) {
	exact := retry.Backoff{First: time.Second, Longest: 3 * time.Second, Exact: true}.Pauses()
	for _, want := range []time.Duration{1, 2, 3, 3} {
		assert.Equal(t, want*time.Second, exact.Next())
	}
	exact.Reset()
	assert.Equal(t, time.Second, exact.Next())

	varied, different := retry.Backoff{}.Pauses(), false
	for _, middle := range []time.Duration{200, 400, 800, 1600, 3200, 5000, 5000, 5000} {
		pause := varied.Next()
		middle *= time.Millisecond
		assert.GreaterOrEqual(t, pause, middle/2)
		assert.Less(t, pause, middle*3/2)
		different = different || pause != middle
	}
	assert.True(t, different)
}

func TestBroken(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("reading: %w", io.EOF), io.ErrUnexpectedEOF, net.ErrClosed,
		&url.Error{Op: "Get", Err: &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}},
		os.NewSyscallError("write", syscall.EPIPE),
		errors.New("stream error: stream ID 5; INTERNAL_ERROR; received from peer"),
		errors.New("http2: server sent GOAWAY and closed the connection"),
		errors.New("http2: client connection lost"),
	} {
		assert.Error(t, retry.Broken(err), "of %v", err)
		assert.False(t, retry.Unreachable(err))
	}
	for _, err := range []error{nil, errors.New("unauthorized"), syscall.ECONNREFUSED, context.Canceled} {
		assert.NoError(t, retry.Broken(err), "of %v", err)
		assert.False(t, retry.Unreachable(err))
	}
	for _, err := range []error{
		&net.DNSError{IsTemporary: true}, &net.DNSError{IsTimeout: true}, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded},
	} {
		assert.NoError(t, retry.Broken(err))
		assert.True(t, retry.Unreachable(err), "of %v", err)
	}
	assert.False(t, retry.Unreachable(&net.DNSError{IsNotFound: true}))
}
