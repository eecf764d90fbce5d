package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// WaitOptions say how Client.Wait waits.
type WaitOptions struct {
	// Timeout is how long all objects may take together; default five minutes.
	Timeout time.Duration
	// Progress is told each time the state or the message of an object changes, never twice at the same time; default nobody.
	// They are logged in any case.
	Progress func(*Object, Result)
}

const defaultTimeout = 5 * time.Minute

// Unready is an object that did not become current, and the last that was known of it.
type Unready struct {
	Object *Object
	Result Result
	// Diagnosis is why its pods do not run; nil where that is not known, or is not the reason.
	Diagnosis *Diagnosis
}

// WaitError says which objects did not become current. Where they failed, they are those of state Failed, and Err is nil;
// else they are those that were still in progress when the waiting ended, and Err says why it did: context.DeadlineExceeded
// after the timeout, the cause where the context was cancelled, or what the API server refused.
type WaitError struct {
	Objects []Unready
	// Timeout is how long was waited where that was the reason, else zero.
	Timeout time.Duration
	Err     error
}

// Error names each object with what was missing.
func (e *WaitError) Error() string {
	var states []string
	for _, u := range e.Objects {
		state := fmt.Sprintf("%s: %s", u.Object.described(), u.Result.Message)
		if u.Diagnosis != nil {
			state += "\n" + u.Diagnosis.String()
		}
		states = append(states, state)
	}
	objects := strings.Join(states, "; ")
	switch {
	case e.Err == nil:
		return "waiting for the rollout: failed: " + objects
	case e.Timeout > 0:
		cure := "; look at what `kubectl describe` says of it, or allow more time"
		if strings.Contains(objects, "\n") {
			cure = "" // said above
		}
		return fmt.Sprintf("waiting for the rollout: not current after %s: %s%s", e.Timeout, objects, cure)
	default:
		return fmt.Sprintf("waiting for the rollout: %s: %v", objects, e.Err)
	}
}

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }

// Wait waits until each workload among the objects (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, Pod) is current, as
// Status has it, and so definitions, Services that a load balancer is to lead to, and objects of other groups than Kubernetes' own
// that have conditions. It watches, and resumes when a watch ends or the connection breaks. A status that is older than what Apply
// brought about does not count. The first object that fails, or that is not there, ends it, and so does the moment at which it is
// certain that a workload's pods cannot run; see Diagnosis. Every error but one about the options is a *WaitError.
func (c *Client) Wait(ctx context.Context, objects []*Object, o WaitOptions) error {
	return c.waitFrom(ctx, nil, objects, o)
}

// waitFrom waits as Wait does. What was found live a moment ago, and was current then, is not asked for again.
func (c *Client) waitFrom(ctx context.Context, found map[*Object]*unstructured.Unstructured, objects []*Object, o WaitOptions) error {
	if o.Timeout < 0 {
		return fmt.Errorf("waiting for the rollout: the timeout is %s; give one above zero", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	var followers []*follower
	for _, object := range objects {
		if waitsFor(object) {
			followers = append(followers, &follower{client: c, object: object, found: found[object], status: Status})
		}
	}
	return c.wait(ctx, followers, objects, o)
}

// wait waits for what is followed. objects are those of the whole release.
func (c *Client) wait(ctx context.Context, followers []*follower, objects []*Object, o WaitOptions) error {
	waitCtx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	aroundCtx, forget := context.WithCancel(waitCtx)
	defer forget()
	around := newSurroundings(aroundCtx, c, objects)
	around.followers = followers
	var telling sync.Mutex
	for _, f := range followers {
		f.around, f.tell = around, func(r Result) {
			telling.Lock()
			defer telling.Unlock()
			zerolog.Ctx(ctx).Info().Str("object", f.object.String()).Str("state", string(r.State)).Msg(r.Message)
			if o.Progress != nil {
				o.Progress(f.object, r)
			}
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(followers))
	for i, f := range followers {
		wg.Go(func() {
			if errs[i] = f.follow(waitCtx); errs[i] != nil {
				cancel() // the others need not be waited for
			}
		})
	}
	wg.Wait()
	forget()
	around.running.Wait()
	if ctx.Err() == nil {
		around.look(ctx, errs)
	}
	if err := waitError(ctx, waitCtx, o.Timeout, followers, errs); err != nil {
		if ctx.Err() == nil {
			around.account(ctx, err)
		}
		return err
	}
	return nil
}

// waitError sorts out which of the errors ended the waiting, and which only came of that.
func waitError(ctx, waitCtx context.Context, timeout time.Duration, workloads []*follower, errs []error) *WaitError {
	result := &WaitError{}
	for i, w := range workloads {
		if errors.Is(errs[i], errFailed) {
			result.Objects = append(result.Objects, w.unready(w.last))
		}
	}
	if len(result.Objects) > 0 {
		return result
	}
	for i, w := range workloads {
		if errs[i] == nil {
			continue
		}
		result.Objects = append(result.Objects, w.unready(w.state()))
		if result.Err == nil && !errors.Is(errs[i], context.Canceled) && !errors.Is(errs[i], context.DeadlineExceeded) {
			result.Err = errs[i]
		}
	}
	switch {
	case len(result.Objects) == 0:
		return nil
	case ctx.Err() != nil:
		result.Err = context.Cause(ctx)
	case result.Err == nil:
		result.Err, result.Timeout = waitCtx.Err(), timeout
	}
	return result
}

// errFailed is why following ends when the object has failed; the follower's last result says how.
var errFailed = errors.New("failed")

// definitionTime is how long a new kind may take until the API server serves it.
const definitionTime = 30 * time.Second

// awaitDefinition waits until the API server has taken a CustomResourceDefinition in.
func (c *Client) awaitDefinition(ctx context.Context, o *Object) error {
	ctx, cancel := context.WithTimeout(ctx, definitionTime)
	defer cancel()
	f := &follower{client: c, object: o, status: Status, around: newSurroundings(ctx, c, nil), tell: func(Result) {}}
	if err := f.follow(ctx); err != nil {
		return fmt.Errorf("waiting for the API server to take it in: %s: %w", f.state().Message, err)
	}
	return nil
}

// awaitKind waits until the API server lists a kind that has just been defined.
func (c *Client) awaitKind(ctx context.Context, gvk schema.GroupVersionKind) (resource, error) {
	ctx, cancel := context.WithTimeout(ctx, definitionTime)
	defer cancel()
	for pause := firstPause; ; pause = longer(pause) {
		r, err := c.resource(ctx, gvk)
		var unknown *unknownKindError
		if !errors.As(err, &unknown) || !sleep(ctx, pause) {
			return r, err
		}
	}
}
