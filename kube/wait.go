package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
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
		states = append(states, fmt.Sprintf("%s: %s", u.Object.described(), u.Result.Message))
	}
	objects := strings.Join(states, "; ")
	switch {
	case e.Err == nil:
		return "waiting for the rollout: failed: " + objects
	case e.Timeout > 0:
		return fmt.Sprintf("waiting for the rollout: not current after %s: %s; look at what `kubectl describe` says of it, or "+
			"allow more time", e.Timeout, objects)
	default:
		return fmt.Sprintf("waiting for the rollout: %s: %v", objects, e.Err)
	}
}

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }

// Wait waits until each workload among the objects (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, Pod) is current, as
// Status has it. It watches, and resumes when a watch ends or the connection breaks. A status that is older than what Apply
// brought about does not count. The first object that fails, or that is not there, ends it. Every error but one about the
// options is a *WaitError.
func (c *Client) Wait(ctx context.Context, objects []*Object, o WaitOptions) error {
	if o.Timeout < 0 {
		return fmt.Errorf("waiting for the rollout: the timeout is %s; give one above zero", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	waitCtx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()

	var workloads []*follower
	var telling sync.Mutex
	for _, object := range objects {
		if _, ok := statuses[object.GroupVersionKind().GroupKind()]; !ok {
			continue
		}
		workloads = append(workloads, &follower{client: c, object: object, tell: func(r Result) {
			telling.Lock()
			defer telling.Unlock()
			zerolog.Ctx(ctx).Info().Str("object", object.String()).Str("state", string(r.State)).Msg(r.Message)
			if o.Progress != nil {
				o.Progress(object, r)
			}
		}})
	}
	var wg sync.WaitGroup
	errs := make([]error, len(workloads))
	for i, w := range workloads {
		wg.Go(func() {
			if errs[i] = w.follow(waitCtx); errs[i] != nil {
				cancel() // the others need not be waited for
			}
		})
	}
	wg.Wait()
	return waitError(ctx, waitCtx, o.Timeout, workloads, errs)
}

// waitError sorts out which of the errors ended the waiting, and which only came of that.
func waitError(ctx, waitCtx context.Context, timeout time.Duration, workloads []*follower, errs []error) error {
	result := &WaitError{}
	for i, w := range workloads {
		if errors.Is(errs[i], errFailed) {
			result.Objects = append(result.Objects, Unready{w.object, w.last})
		}
	}
	if len(result.Objects) > 0 {
		return result
	}
	for i, w := range workloads {
		if errs[i] == nil {
			continue
		}
		result.Objects = append(result.Objects, Unready{w.object, w.state()})
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

// follower watches one object.
type follower struct {
	client *Client
	object *Object
	tell   func(Result)

	last    Result
	lastErr error
	// version is the resource version to watch from; empty where the object has to be read anew.
	version string
}

// How long a watch may last until it is begun anew, which is what finds out that a connection is dead. The server is asked to
// end it first.
const (
	watchTime = time.Minute
	listTime  = 30 * time.Second
)

// state is the last result with the trouble there was in reading it.
func (f *follower) state() Result {
	r := f.last
	if r.Message == "" {
		r = inProgress("its status could not be read")
	}
	if f.lastErr != nil {
		r.Message += fmt.Sprintf(" (and now: %v)", f.lastErr)
	}
	return r
}

// follow returns when the object is current, with errFailed when it has failed, and with another error when its status
// cannot be known.
func (f *follower) follow(ctx context.Context) error {
	r, err := f.client.resource(ctx, f.object.GroupVersionKind())
	if err != nil {
		return err
	}
	namespace := f.object.GetNamespace()
	if namespace == "" {
		namespace = f.client.namespace
	}
	api := f.client.of(r, namespace)
	for pause := firstPause; ; {
		heard, verb, err := f.once(ctx, api)
		switch {
		case f.last.State == Failed:
			return errFailed
		case f.last.State == Current:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !mayResume(err):
			return f.client.explain(ctx, err, verb, r, namespace)
		}
		if f.lastErr = err; err != nil {
			zerolog.Ctx(ctx).Debug().Str("object", f.object.String()).Err(err).Msg("the watch ended, resuming")
		}
		if heard {
			pause = firstPause
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		pause = longer(pause)
	}
}

// mayResume reports whether a watch can go on after an error. Everything may pass but what the server means.
func mayResume(err error) bool {
	return !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) && !apierrors.IsNotFound(err) &&
		!apierrors.IsMethodNotSupported(err) && !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err)
}

// once reads the object where that is needed and watches it until the watch ends or the object is finished. It reports
// whether it heard of the object, and what it was doing in case of an error.
func (f *follower) once(ctx context.Context, api dynamic.ResourceInterface) (heard bool, verb string, err error) {
	only := fields.OneTermEqualSelector("metadata.name", f.object.GetName()).String()
	if f.version == "" {
		if err := f.list(ctx, api, only); err != nil || f.finished() {
			return false, "list", err
		}
		heard = true
	}
	// More than the server has, so that a watch that outlives it is one whose connection is dead.
	watchCtx, cancel := context.WithTimeout(ctx, watchTime+listTime)
	defer cancel()
	seconds := int64(watchTime / time.Second)
	w, err := api.Watch(watchCtx, metav1.ListOptions{
		FieldSelector: only, ResourceVersion: f.version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	})
	if err != nil {
		f.forget(err)
		return heard, "watch", err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			err := apierrors.FromObject(event.Object)
			f.forget(err)
			return heard, "watch", err
		}
		u, ok := event.Object.(*unstructured.Unstructured)
		if !ok || u.GetName() != "" && u.GetName() != f.object.GetName() {
			continue
		}
		f.version = u.GetResourceVersion()
		if event.Type == watch.Bookmark {
			continue
		}
		heard = true
		f.judge(u)
		if event.Type == watch.Deleted && !f.finished() {
			f.set(failed("it was deleted; apply it again"))
		}
		if f.finished() {
			break
		}
	}
	return heard, "watch", nil
}

// forget has the object read anew where the server's answer may mean that the version to watch from is too old. After a mere
// broken connection the watch resumes where it was.
func (f *follower) forget(err error) {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		f.version = ""
	}
}

func (f *follower) list(ctx context.Context, api dynamic.ResourceInterface, only string) error {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	list, err := api.List(ctx, metav1.ListOptions{FieldSelector: only})
	if err != nil {
		return err
	}
	f.version = list.GetResourceVersion()
	for i := range list.Items {
		if list.Items[i].GetName() == f.object.GetName() {
			f.judge(&list.Items[i])
			return nil
		}
	}
	f.set(failed("it is not in the cluster; apply it"))
	return nil
}

func (f *follower) finished() bool {
	return f.last.State == Current || f.last.State == Failed
}

// judge takes over the status of the live object, unless that is from before Apply.
func (f *follower) judge(u *unstructured.Unstructured) {
	applied := f.object.applied
	if applied != nil && applied.GetUID() == u.GetUID() && u.GetGeneration() < applied.GetGeneration() {
		f.set(inProgress("generation %d is not there yet, only %d", applied.GetGeneration(), u.GetGeneration()))
		return
	}
	f.set(Status(u))
}

func (f *follower) set(r Result) {
	if r != f.last {
		f.last = r
		f.tell(r)
	}
}

// definitionTime is how long a new kind may take until the API server serves it.
const definitionTime = 30 * time.Second

// awaitDefinition waits until the API server has taken a CustomResourceDefinition in.
func (c *Client) awaitDefinition(ctx context.Context, o *Object) error {
	ctx, cancel := context.WithTimeout(ctx, definitionTime)
	defer cancel()
	f := &follower{client: c, object: o, tell: func(Result) {}}
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
