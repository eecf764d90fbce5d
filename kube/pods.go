package kube

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var (
	replicaSets = resource{GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, namespaced: true}
	events      = resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "events"}, namespaced: true}
)

// surroundings are what the workloads of one wait share: the events of their namespaces.
type surroundings struct {
	client    *Client
	ctx       context.Context // of the wait
	running   sync.WaitGroup
	followers []*follower
	// operators is whether the release has objects that others than Kubernetes act on.
	operators bool

	mu         sync.Mutex
	namespaces map[string]bool // whose events are watched
	events     map[types.UID][]event
	warned     map[string]bool
}

func newSurroundings(ctx context.Context, c *Client, objects []*Object) *surroundings {
	return &surroundings{
		client: c, ctx: ctx, namespaces: make(map[string]bool), events: make(map[types.UID][]event), warned: make(map[string]bool),
		operators: slices.ContainsFunc(objects, func(o *Object) bool {
			group := o.GroupVersionKind().Group
			return strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io")
		}),
	}
}

// watches reports whether there are pods to watch around a live object.
func (s *surroundings) watches(u *unstructured.Unstructured) bool {
	_, ok := statuses[u.GroupVersionKind().GroupKind()]
	return ok && len(s.followers) > 0
}

// mostEvents are kept of one object.
const mostEvents = 50

// about returns the events of an object, the oldest first.
func (s *surroundings) about(uid types.UID) []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events[uid])
}

func (s *surroundings) add(u *unstructured.Unstructured) {
	l := live{u}
	uid := types.UID(l.text("involvedObject", "uid"))
	e := event{l.text("reason"), l.text("message")}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := slices.DeleteFunc(s.events[uid], func(other event) bool { return other == e }) // it comes last now
	if len(known) == mostEvents {
		known = known[1:]
	}
	s.events[uid] = append(known, e)
}

// eventTime is when an event was last seen, as text that sorts like the time.
func eventTime(u *unstructured.Unstructured) string {
	l := live{u}
	return cmp.Or(l.text("series", "lastObservedTime"), l.text("lastTimestamp"), l.text("eventTime"), l.text("metadata", "creationTimestamp"))
}

// current reports whether an event from before the wait is about what was applied: pods are made anew for each revision, what makes
// them stays.
func (s *surroundings) current(u *unstructured.Unstructured) bool {
	l := live{u}
	if l.text("involvedObject", "kind") == "Pod" {
		return true
	}
	for _, f := range s.followers {
		applied := f.object.applied
		if applied == nil || string(applied.GetUID()) != l.text("involvedObject", "uid") {
			continue
		}
		for _, m := range applied.GetManagedFields() {
			if m.Operation == metav1.ManagedFieldsOperationApply && m.Time != nil && m.Subresource == "" {
				return eventTime(u) >= m.Time.UTC().Format(time.RFC3339)
			}
		}
	}
	return false
}

// watchEvents watches the events of a namespace until the wait ends, unless that is done already.
func (s *surroundings) watchEvents(namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.namespaces[namespace] {
		return
	}
	s.namespaces[namespace] = true
	reassess := func() {
		now := time.Now()
		for _, f := range s.followers {
			if f.namespace() == namespace {
				f.reassess(now)
			}
		}
	}
	w := &watcher{
		client: s.client, resource: events, namespace: namespace, trouble: func(error) {},
		listed: func(items []unstructured.Unstructured) bool {
			slices.SortStableFunc(items, func(a, b unstructured.Unstructured) int { return cmp.Compare(eventTime(&a), eventTime(&b)) })
			for i := range items {
				if s.current(&items[i]) {
					s.add(&items[i])
				}
			}
			reassess()
			return true
		},
		changed: func(u *unstructured.Unstructured, gone bool) bool {
			if !gone {
				s.add(u)
				reassess()
			}
			return true
		},
	}
	s.running.Go(func() { s.warn(w.run(s.ctx)) })
}

// warn says once what cannot be seen. Waiting goes on without it.
func (s *surroundings) warn(err error) {
	if err == nil || s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.warned[err.Error()] {
		s.warned[err.Error()] = true
		zerolog.Ctx(s.ctx).Warn().Err(err).Msg("why pods do not run may not be known")
	}
}

// watchAround watches a workload's pods, and what makes them, until ctx ends, and has what is only a matter of time assessed anew.
func (f *follower) watchAround(ctx context.Context, u *unstructured.Unstructured) {
	workload := f.around.watches(u)
	if workload {
		f.around.watchEvents(f.namespace())
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if selector, err := podSelector(u); workload && u.GetKind() != "Pod" && err == nil && selector != "" {
		wg.Go(func() { f.collect(ctx, pods, selector, &f.pods) })
		if u.GetKind() == "Deployment" {
			wg.Go(func() { f.collect(ctx, replicaSets, selector, &f.sets) })
		}
	}
	tick := time.NewTicker(tellTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			f.reassess(now)
		}
	}
}

// collect keeps the objects that a selector selects.
func (f *follower) collect(ctx context.Context, r resource, selector string, set *map[types.UID]*unstructured.Unstructured) {
	w := &watcher{
		client: f.client, resource: r, namespace: f.namespace(), selects: metav1.ListOptions{LabelSelector: selector}, trouble: func(error) {},
		listed: func(items []unstructured.Unstructured) bool {
			all := make(map[types.UID]*unstructured.Unstructured, len(items))
			for i := range items {
				all[items[i].GetUID()] = &items[i]
			}
			f.mu.Lock()
			*set = all
			f.mu.Unlock()
			f.reassess(time.Now())
			return true
		},
		changed: func(u *unstructured.Unstructured, gone bool) bool {
			f.mu.Lock()
			(*set)[u.GetUID()] = u
			if gone {
				delete(*set, u.GetUID())
			}
			f.mu.Unlock()
			f.reassess(time.Now())
			return true
		},
	}
	if err := w.run(ctx); ctx.Err() == nil {
		f.around.warn(err)
	}
}

// scene is what is known around the workload.
func (f *follower) scene(now time.Time) scene {
	s := scene{
		workload: live{f.live}, refused: live{f.live}, events: f.around.about, makers: []types.UID{f.live.GetUID()}, memory: f.memory, now: now,
		operators: f.around.operators,
		busy:      slices.ContainsFunc(f.around.followers, func(other *follower) bool { return other != f && !other.done.Load() }),
	}
	if f.live.GetKind() == "Pod" {
		s.pods = []live{{f.live}}
		return s
	}
	newest := f.newest()
	revision := f.live.GetAnnotations()[revisionAnnotation]
	s.unsure = f.live.GetKind() == "Deployment" && revision != "" && revision != "1"
	owners := []types.UID{f.live.GetUID()}
	for _, set := range f.sets {
		if owner := metav1.GetControllerOfNoCopy(set); owner == nil || owner.UID != f.live.GetUID() {
			continue
		}
		owners = append(owners, set.GetUID())
		if revision != "" && set.GetAnnotations()[revisionAnnotation] == revision {
			s.makers = append(s.makers, set.GetUID())
			s.refused, s.unsure = live{set}, false
		}
	}
	for _, pod := range f.pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		switch {
		case owner == nil || !slices.Contains(owners, owner.UID): // selected too, but somebody else's
		case slices.Contains(s.makers, owner.UID) && newest(pod) && (pod.GetDeletionTimestamp() == nil || f.live.GetKind() == "Job"):
			s.pods = append(s.pods, live{pod})
		default:
			s.older++
		}
	}
	slices.SortFunc(s.pods, func(a, b live) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return s
}

const revisionAnnotation = "deployment.kubernetes.io/revision"

// newest returns whether a pod is of the workload's newest revision.
func (f *follower) newest() func(pod *unstructured.Unstructured) bool {
	label, value := "", ""
	switch f.live.GetKind() {
	case "StatefulSet":
		label, value = "controller-revision-hash", live{f.live}.text("status", "updateRevision")
	case "DaemonSet":
		label, value = "pod-template-generation", f.live.GetAnnotations()["deprecated.daemonset.template.generation"]
	}
	return func(pod *unstructured.Unstructured) bool { return value == "" || pod.GetLabels()[label] == value }
}

// accountTime bounds the reading of events and logs for an error that is certain already.
const accountTime = 2 * time.Second

// logLines is how many lines of a log are told.
const logLines = 20

// look finds the diagnoses of those that failed before their pods were watched, such as a Job that is done in a moment.
func (s *surroundings) look(ctx context.Context, errs []error) {
	ctx, cancel := context.WithTimeout(ctx, accountTime)
	defer cancel()
	var wg sync.WaitGroup
	for i, f := range s.followers {
		if errors.Is(errs[i], errFailed) {
			wg.Go(func() { f.look(ctx) })
		}
	}
	wg.Wait()
}

// account completes the diagnoses of an error with events and logs.
func (s *surroundings) account(ctx context.Context, failed *WaitError) {
	ctx, cancel := context.WithTimeout(ctx, accountTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, u := range failed.Objects {
		d := u.Diagnosis
		if d == nil {
			continue
		}
		wg.Go(func() {
			if d.Event == "" {
				d.Event = s.lastWarning(ctx, d)
			}
		})
		if d.Container != "" && (d.Ended || d.Reason == "Unhealthy") {
			wg.Go(func() { s.readLog(ctx, d) })
		}
	}
	wg.Wait()
}

// tellingEvents are the reasons of events that say something of why a pod does not run.
var tellingEvents = []string{
	"BackOff", "Failed", "FailedMount", "FailedAttachVolume", "Unhealthy", "FailedScheduling", "FailedCreate", "FailedCreatePodSandBox",
	"Evicted", "Preempted", "InspectFailed", "ErrImageNeverPull", "FailedPostStartHook", "BackoffLimitExceeded", "DeadlineExceeded",
}

// lastWarning is the last event that warns of what a diagnosis is about.
func (s *surroundings) lastWarning(ctx context.Context, d *Diagnosis) string {
	selector := fields.AndSelectors(fields.OneTermEqualSelector("involvedObject.uid", string(d.uid)), fields.OneTermEqualSelector("type", "Warning"))
	list, err := s.client.of(events, d.namespace).List(ctx, metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil {
		return ""
	}
	items := slices.DeleteFunc(list.Items, func(u unstructured.Unstructured) bool {
		return !slices.Contains(tellingEvents, live{&u}.text("reason"))
	})
	if len(items) == 0 {
		return ""
	}
	last := slices.MaxFunc(items, func(a, b unstructured.Unstructured) int { return cmp.Compare(eventTime(&a), eventTime(&b)) })
	l := live{&last}
	return event{l.text("reason"), l.text("message")}.String()
}

// readLog reads the last lines of the run that a diagnosis is about.
func (s *surroundings) readLog(ctx context.Context, d *Diagnosis) {
	read := func(previous bool) error {
		d.Log = nil
		return s.client.containerLogs(ctx, Pod{Namespace: d.namespace, Name: d.Pod}, d.Container, LogOptions{Lines: logLines, Previous: previous},
			func(line string) { d.Log = append(d.Log, line) })
	}
	err := read(d.previous)
	if err != nil && d.previous || err == nil && len(d.Log) == 0 {
		if otherErr := read(!d.previous); otherErr == nil {
			err = nil
		}
	}
	if err != nil {
		d.LogError = err.Error()
	}
}
