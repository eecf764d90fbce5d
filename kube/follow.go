package kube

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// follower watches one object, and once that is not current at once, its pods.
type follower struct {
	client *Client
	object *Object
	around *surroundings
	// found is the live object as of a moment ago; nil where it is not known.
	found *unstructured.Unstructured
	// status judges the live object, and tell is told of each new result.
	status func(*unstructured.Unstructured) Result
	tell   func(Result)

	mu      sync.Mutex
	last    Result
	lastErr error
	told    string
	toldAt  time.Time
	own     string // the part of the message that is of its own status
	done    atomic.Bool
	// rolled is whether it was not current at some time, and currentSince since when it is.
	rolled       bool
	currentSince time.Time
	live         *unstructured.Unstructured
	pods         map[types.UID]*unstructured.Unstructured
	sets         map[types.UID]*unstructured.Unstructured
	memory       memory
	diagnosis    *Diagnosis
	stop         context.CancelFunc
	begun        bool // watching around it
	watching     bool // its pods too
}

// state is the last result with the trouble there was in reading it.
func (f *follower) state() Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.last
	if r.Message == "" {
		r = inProgress("its status could not be read")
	}
	if f.lastErr != nil {
		r.Message += fmt.Sprintf(" (and now: %v)", f.lastErr)
	}
	return r
}

func (f *follower) unready(r Result) Unready {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Unready{Object: f.object, Result: r, Diagnosis: f.diagnosis}
}

func (f *follower) namespace() string {
	if namespace := f.object.GetNamespace(); namespace != "" {
		return namespace
	}
	return f.client.namespace
}

// follow returns when the object is current, with errFailed when it has failed, and with another error when its status
// cannot be known.
func (f *follower) follow(ctx context.Context) error {
	r, err := f.client.resource(ctx, f.object.GroupVersionKind())
	if err != nil {
		return err
	}
	inner, stop := context.WithCancel(ctx)
	var around sync.WaitGroup
	defer around.Wait()
	defer stop()
	f.mu.Lock()
	f.stop = stop
	f.mu.Unlock()
	if f.found != nil && f.status(f.found).State == Current && !f.judge(inner, &around, f.found) {
		return nil
	}
	w := &watcher{
		client: f.client, resource: r, namespace: f.namespace(),
		selects: metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", f.object.GetName()).String()},
		listed: func(items []unstructured.Unstructured) bool {
			for i := range items {
				if items[i].GetName() == f.object.GetName() {
					return f.judge(inner, &around, &items[i])
				}
			}
			f.end(failed("it is not in the cluster; apply it"))
			return false
		},
		changed: func(u *unstructured.Unstructured, gone bool) bool {
			if u.GetName() != "" && u.GetName() != f.object.GetName() {
				return true
			}
			goOn := f.judge(inner, &around, u)
			if gone && goOn {
				f.end(failed("it was deleted; apply it again"))
				return false
			}
			return goOn
		},
		trouble: func(err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.lastErr = err
		},
	}
	err = w.run(inner)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.last.State == Failed:
		return errFailed
	case f.last.State == Current:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// judge takes over the status of the live object, unless that is from before Apply. It reports whether to go on.
func (f *follower) judge(ctx context.Context, around *sync.WaitGroup, u *unstructured.Unstructured) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	applied := f.object.applied
	if applied != nil && applied.GetUID() == u.GetUID() && u.GetGeneration() < applied.GetGeneration() {
		f.set(inProgress("generation %d is not there yet, only %d", applied.GetGeneration(), u.GetGeneration()))
		return true
	}
	f.live = u
	f.assess(time.Now())
	if f.finished() {
		return false
	}
	if !f.begun {
		f.begun, f.watching = true, f.around.watches(u)
		around.Go(func() { f.watchAround(ctx, u) })
	}
	return true
}

func (f *follower) finished() bool { return f.last.State == Current || f.last.State == Failed }

// reassess judges again what is known, since something around the workload has changed, or time has passed.
func (f *follower) reassess(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live != nil && !f.finished() {
		f.assess(now)
	}
}

// assess judges the workload by its own status and, while that is open, by its pods.
func (f *follower) assess(now time.Time) {
	r := f.settled(f.status(f.judged()), now)
	seen, ok := live{f.live}.number("status", "observedGeneration")
	if r.State == Current || !f.watching || ok && seen < f.live.GetGeneration() {
		f.set(r)
		return
	}
	if f.memory.since == nil {
		f.memory = newMemory()
	}
	v := diagnose(f.scene(now))
	if v.worst != nil || f.live.GetKind() != "Job" { // a Job deletes its pods before it says that it has failed
		f.diagnosis = v.worst
	}
	status := r.Message
	switch {
	case r.State == InProgress && v.certain:
		r = failed("its pods cannot run: %s", v.worst.Reason)
	case r.State == InProgress && v.waits != "":
		r.Message += "; " + v.waits
		if status == f.own && now.Sub(f.toldAt) < tellTime {
			f.last = r // told with the next tick
			return
		}
	}
	f.own = status
	f.set(r)
}

// judged is the live object as its status is to be judged: without a progress deadline that passed before it was applied. A Deployment
// that goes back to a ReplicaSet it still has keeps that condition, with the new generation, until it gets further.
func (f *follower) judged() *unstructured.Unstructured {
	applied := f.object.applied
	if applied == nil || applied.GetUID() != f.live.GetUID() {
		return f.live
	}
	before, _ := live{applied}.writtenCondition("Progressing")
	now, _ := live{f.live}.writtenCondition("Progressing")
	seen, _ := live{applied}.number("status", "observedGeneration")
	if before.text("reason") != progressDeadline || !reflect.DeepEqual(before.Object, now.Object) || seen >= applied.GetGeneration() {
		return f.live
	}
	u := f.live.DeepCopy()
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	conditions = slices.DeleteFunc(conditions, func(c any) bool { return reflect.DeepEqual(c, any(now.Object)) })
	_ = unstructured.SetNestedSlice(u.Object, conditions, "status", "conditions")
	return u
}

// settleTime is how long pods are looked on at that nothing but their start has made ready.
const settleTime = 5 * time.Second

// settled is the status, but that what has just become current is not so yet where a container of it has no readiness probe: to
// Kubernetes it is ready at the moment it starts, and it may end at the next.
func (f *follower) settled(r Result, now time.Time) Result {
	switch {
	case r.State == InProgress:
		f.rolled, f.currentSince = true, time.Time{}
	case r.State == Current && f.rolled && f.around.watches(f.live) && startsReady(live{f.live}):
		if f.currentSince.IsZero() {
			f.currentSince = now
		}
		if now.Sub(f.currentSince) < settleTime {
			return inProgress("%s, looked on at for %s, since not every container has a readiness probe", r.Message, settleTime)
		}
	}
	return r
}

// startsReady reports whether a workload has a container that nothing keeps from being available at once.
func startsReady(workload live) bool {
	if minimum, _ := workload.number("spec", "minReadySeconds"); minimum > 0 || workload.GroupVersionKind().Group != "apps" || workload.replicas() == 0 {
		return false
	}
	containers, _, _ := unstructured.NestedSlice(workload.Object, "spec", "template", "spec", "containers")
	return slices.ContainsFunc(containers, func(c any) bool {
		container, _ := c.(map[string]any)
		return container["readinessProbe"] == nil
	})
}

// tellTime is how often the pods' states are told at most.
const tellTime = time.Second

// look finds the diagnosis of a workload whose pods were not watched long enough.
func (f *follower) look(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.diagnosis != nil || f.live == nil || !f.around.watches(f.live) {
		return
	}
	selector, err := podSelector(f.live)
	if err != nil || selector == "" {
		return
	}
	read := func(r resource) map[types.UID]*unstructured.Unstructured {
		all := make(map[types.UID]*unstructured.Unstructured)
		err := f.client.list(ctx, r, f.namespace(), metav1.ListOptions{LabelSelector: selector}, func(u *unstructured.Unstructured) { all[u.GetUID()] = u })
		if err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Str("object", f.object.String()).Msg("its pods are not known")
		}
		return all
	}
	f.pods = read(pods)
	if f.live.GetKind() == "Deployment" {
		f.sets = read(replicaSets)
	}
	f.memory = newMemory()
	f.diagnosis = diagnose(f.scene(time.Now())).worst
}

// end settles the result from outside of the object's status.
func (f *follower) end(r Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.finished() {
		f.set(r)
	}
}

// set takes over a result, and tells it where it is another one.
func (f *follower) set(r Result) {
	f.last = r
	if text := string(r.State) + r.Message; text != f.told {
		f.told, f.toldAt = text, time.Now()
		f.tell(r)
	}
	if f.finished() {
		f.done.Store(true)
		f.stop()
	}
}
