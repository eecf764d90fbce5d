package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/rs/zerolog"
)

// tried is an error that stayed after every try.
type tried struct {
	times int
	cause error
	asked time.Duration // that the registry wants to be left alone for, where that is too long
}

func (t *tried) Error() string { return fmt.Sprintf("%v (tried %d times)", t.cause, t.times) }
func (t *tried) Unwrap() error { return t.cause }

func (r Registry) backoff() []time.Duration {
	if r.Backoff != nil {
		return r.Backoff
	}
	return []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}
}

// retry runs op, and again after each wait of the back-off as long as its error may pass by itself.
func (s *session) retry(ctx context.Context, op func() error) error {
	return s.retryIf(ctx, passing, op)
}

func (s *session) retryIf(ctx context.Context, passing func(error) bool, op func() error) error {
	waits := s.registry.backoff()
	for n := 0; ; n++ {
		err := op()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passing(err):
			return err
		case n == len(waits):
			return &tried{times: n + 1, cause: err}
		}
		asked := time.Duration(s.wait.Swap(0))
		if asked > longestWait {
			return &tried{times: n + 1, cause: err, asked: asked}
		}
		wait := max(waits[n], asked)
		zerolog.Ctx(ctx).Warn().Stringer("reference", s.ref).Str("cause", s.brief(err)).Dur("wait", wait).
			Msg("trying the registry again")
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// longestWait is how long a registry is waited for that asks for it by Retry-After.
const longestWait = 2 * time.Minute

// askedToWait notes how long a registry that is busy asks to be left alone.
type askedToWait struct {
	http.RoundTripper
	wait *atomic.Int64
}

// RoundTrip reads the header Retry-After of the answer. Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
func (a *askedToWait) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(req)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		text := resp.Header.Get("Retry-After")
		if seconds, failed := strconv.Atoi(text); failed == nil && seconds > 0 {
			a.wait.Store(int64(min(seconds, 24*60*60)) * int64(time.Second))
		} else if at, failed := http.ParseTime(text); failed == nil {
			a.wait.Store(int64(time.Until(at)))
		}
	}
	return resp, err
}

// passing says whether an error is worth another try: a connection that broke, a registry that is busy or restarting.
// Nothing that the user has to mend is.
func passing(err error) bool {
	if certificateProblem(err) {
		return false
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		for _, diagnostic := range answer.Errors {
			// An upload that the registry has lost, by a restart perhaps. The next try begins a new one.
			// So is one that was damaged on its way.
			if diagnostic.Code == transport.BlobUploadUnknownErrorCode || diagnostic.Code == transport.DigestInvalidErrorCode {
				return true
			}
		}
		return passingStatus(answer.StatusCode) && !full(answer)
	}
	var changed *damaged
	// The library's own check of a digest has no type.
	if broken(err) != nil || errors.As(err, &changed) || strings.Contains(err.Error(), "error verifying sha256 checksum") {
		return true
	}
	var lookup *net.DNSError
	if errors.As(err, &lookup) {
		return lookup.IsTemporary || lookup.IsTimeout
	}
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// errReset is how a connection broke that several requests shared.
var errReset = errors.New("reset by HTTP/2")

var (
	engineBusy   = regexp.MustCompile(`(?i)\b(toomanyrequests|too many requests|internal server error|bad gateway|service unavailable|gateway time-?out|status:? (429|5\d\d))\b`)
	engineBroken = regexp.MustCompile(`(?i)\b(EOF|connection reset|broken pipe|i/o timeout|handshake timeout|stream error|GOAWAY)\b`)
	engineFull   = regexp.MustCompile(`(?i)no space left|insufficient storage|\b507\b|quota`)
)

// passingPush is passing for what an engine says of the registry: words, and no status. What breaks between the engine and here is not
// among it.
func passingPush(err error) bool {
	var said *streamError
	return errors.As(err, &said) && !engineFull.MatchString(said.message) &&
		(engineBusy.MatchString(said.message) || engineBroken.MatchString(said.message))
}

// broken returns how a connection broke, nil where none did.
func broken(err error) error {
	for _, how := range []error{syscall.ECONNRESET, syscall.EPIPE, io.ErrUnexpectedEOF, io.EOF, net.ErrClosed} {
		if errors.Is(err, how) {
			return how
		}
	}
	// What net/http says of its own connections by HTTP/2 has no type: a stream that was reset, a server that is going away, a
	// connection that is lost, closed or not usable.
	for _, how := range []string{"stream error: ", "GOAWAY", "http2: client conn"} {
		if strings.Contains(err.Error(), how) {
			return errReset
		}
	}
	return nil
}

// full says whether the registry has no room left, which passes by nobody's waiting.
func full(answer *transport.Error) bool {
	return answer.StatusCode == http.StatusInsufficientStorage || strings.Contains(strings.ToLower(answer.Error()), "no space left")
}

func passingStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
}

// retryTransport tries single requests again. It is for requests without a body, as a pull sends them.
type retryTransport struct {
	session *session
}

// RoundTrip sends the request until it is answered with something that is not passing, or the back-off ends. The last
// answer is returned as it is.
func (t *retryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil && req.Body != http.NoBody {
		return t.session.transport().RoundTrip(req)
	}
	var resp *http.Response
	err := t.session.retry(req.Context(), func() (err error) {
		if resp != nil {
			resp.Body.Close()
		}
		resp, err = t.session.transport().RoundTrip(req)
		if err == nil && passingStatus(resp.StatusCode) {
			return &transport.Error{StatusCode: resp.StatusCode}
		}
		return err
	})
	if err != nil && resp != nil && hasStatus(err, resp.StatusCode) {
		return resp, nil
	}
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		return nil, err
	}
	return resp, nil
}
