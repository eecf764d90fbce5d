package kube

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

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// explain returns what an error of the API server means for the reader, with err as its cause.
func (c *Client) explain(ctx context.Context, err error, verb string, r resource, namespace string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s refuses the login: %w; renew the credentials in the kubeconfig", c.host, err)
	case strings.Contains(err.Error(), "getting credentials: exec: executable"):
		return fmt.Errorf("%w; install what the kubeconfig gets the login from, or add its folder to PATH", err)
	case isDenied(err):
		return fmt.Errorf("%w; let the login %s %s%s", err, verb, r, inNamespace(r, namespace))
	case isMissingNamespace(err):
		return fmt.Errorf("%w; create the namespace, or add it to the manifests", err)
	case apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict):
		return fmt.Errorf("%w; remove these fields from the manifest, or apply with force to take them over", conflictError(err))
	case apierrors.IsInvalid(err) && strings.Contains(err.Error(), "immutable"):
		return fmt.Errorf("%w; delete the live object first, or give the new one another name", err)
	default:
		return withoutLogins(err)
	}
}

func inNamespace(r resource, namespace string) string {
	if !r.namespaced {
		return ""
	}
	return " in the namespace " + namespace
}

// isDenied reports whether permissions are missing. Quotas, admission and namespaces that are going away have the same reason,
// and no permission would help.
func isDenied(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot ")
}

func isMissingNamespace(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details != nil && details.Kind == "namespaces"
}

// conflictError says who else manages which field.
func conflictError(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return err
	}
	var conflicts []string
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			conflicts = append(conflicts, fmt.Sprintf("%s of %s", cause.Message, cause.Field))
		}
	}
	return &explainedError{text: strings.Join(conflicts, ", "), err: err}
}

// explainedError says the same as err in fewer words.
type explainedError struct {
	text string
	err  error
}

func (e *explainedError) Error() string { return e.text }

func (e *explainedError) Unwrap() error { return e.err }

// Trying again: five times in about three seconds at first, longer pauses where there is no end to it.
const (
	retries    = 5
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
	// outage is how long a server that has answered before may be out of reach, or not know a login that it knew, as is so while it
	// restarts.
	outage = 30 * time.Second
)

// retry calls f until it succeeds or fails for good.
func (c *Client) retry(ctx context.Context, f func() error) error {
	pause := firstPause
	var away time.Time
	for try := 1; ; try++ {
		err := f()
		var status apierrors.APIStatus
		if err == nil || errors.As(err, &status) {
			c.reached.Store(true)
		}
		more := try < retries
		if err != nil && isBroken(err) && c.reached.Load() {
			if away.IsZero() {
				away = time.Now()
				zerolog.Ctx(ctx).Debug().Err(err).Msgf("%s is out of reach; trying again for %s", c.host, outage)
			}
			more = time.Since(away) < outage
		}
		if err == nil || !more || !mayPass(err) || !sleep(ctx, pause) {
			return err
		}
		pause = longer(pause)
	}
}

// sleep waits for d, more or less, so that many who failed together do not try again together. It reports whether ctx is still
// good.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func longer(pause time.Duration) time.Duration {
	return min(2*pause, lastPause)
}

// mayPass reports whether the same request may succeed a moment later.
func mayPass(err error) bool {
	switch {
	case apierrors.IsConflict(err):
		return !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict)
	case apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsAlreadyExists(err):
		return true
	default:
		return isBroken(err)
	}
}

// isBroken reports whether a request failed on its way, in a manner that may pass. All requests here mean the same when they
// arrive twice.
func isBroken(err error) bool {
	for _, how := range []error{syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE, io.ErrUnexpectedEOF, io.EOF, net.ErrClosed} {
		if errors.Is(err, how) {
			return true
		}
	}
	// What net/http says of its own connections has no type: lost, force closed, not usable, not established.
	for _, how := range []string{"http2: client conn", "GOAWAY", "stream error"} {
		if strings.Contains(err.Error(), how) {
			return true
		}
	}
	var name *net.DNSError
	if errors.As(err, &name) {
		return name.IsTemporary || name.IsTimeout
	}
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}
