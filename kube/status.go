package kube

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// State is how far an object has come towards what its specification says.
type State string

// The states of an object. Failed means that waiting does not help.
const (
	InProgress State = "in progress"
	Current    State = "current"
	Failed     State = "failed"
)

// Result is the state of an object and, in a few words for the reader, why.
type Result struct {
	State   State
	Message string
}

func inProgress(format string, args ...any) Result {
	return Result{InProgress, fmt.Sprintf(format, args...)}
}

func current(format string, args ...any) Result {
	return Result{Current, fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) Result {
	return Result{Failed, fmt.Sprintf(format, args...)}
}

// statuses are those of workloads: the kinds that bring pods about, and pods.
var statuses = map[schema.GroupKind]func(live) Result{
	{Group: "apps", Kind: "Deployment"}:  deploymentStatus,
	{Group: "apps", Kind: "StatefulSet"}: statefulSetStatus,
	{Group: "apps", Kind: "DaemonSet"}:   daemonSetStatus,
	{Group: "apps", Kind: "ReplicaSet"}:  replicaSetStatus,
	{Group: "batch", Kind: "Job"}:        jobStatus,
	{Kind: "Pod"}:                        podStatus,
}

// otherStatuses are those of kinds whose conditions, where they have any, mean something else.
var otherStatuses = map[schema.GroupKind]func(live) Result{
	{Group: "batch", Kind: "CronJob"}:                       cronJobStatus,
	{Kind: "Service"}:                                       serviceStatus,
	{Group: "networking.k8s.io", Kind: "Ingress"}:           ingressStatus,
	{Kind: "PersistentVolumeClaim"}:                         claimStatus,
	{Kind: "Namespace"}:                                     namespaceStatus,
	{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}: settledStatus,
	{Group: "policy", Kind: "PodDisruptionBudget"}:          settledStatus,
	{Kind: "Node"}:                                          settledStatus,
}

// waitsFor reports whether Client.Wait waits for an object: for workloads, for what makes kinds known to the API server, for a Service
// that a load balancer is to lead to, and for objects of other groups than Kubernetes' own, as far as they have conditions. An
// Ingress, a PersistentVolumeClaim and what else Kubernetes has are left out: not every cluster answers for them, and pods that need
// a claim wait for it themselves.
func waitsFor(o *Object) bool {
	gk := o.GroupVersionKind().GroupKind()
	_, workload := statuses[gk]
	switch {
	case workload, gk.Group == "apiextensions.k8s.io", gk == schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		return true
	case gk == schema.GroupKind{Kind: "Service"}:
		return live{o.Unstructured}.text("spec", "type") == "LoadBalancer"
	default:
		return strings.Contains(gk.Group, ".") && !strings.HasSuffix(gk.Group, ".k8s.io")
	}
}

// Status judges a live object by itself, without asking anybody, in the manner of kubectl's rollout status and of kstatus:
//
//   - A status that was written for an older specification says nothing about this one (observedGeneration).
//   - A Deployment, StatefulSet, DaemonSet or ReplicaSet is current when every replica is of the newest revision and available,
//     and the old ones are gone. One that is scaled to zero is current when nothing runs.
//   - A Deployment has failed when its progress deadline has passed, and when it is paused before it is rolled out.
//   - A Job is current when it is complete, or suspended; a Pod when it is ready or has succeeded. A CronJob is current as it is.
//   - A Service of type LoadBalancer and an Ingress are current when they have an address, a PersistentVolumeClaim when it is bound.
//     One that waits for its first consumer is not told from one that waits for ever.
//   - Anything else is current unless a condition says otherwise: Ready, Available or Established that is not true, Stalled or
//     Reconciling that is. One of the first three that was written for an older specification is still to be judged anew; of the
//     others, such a one does not count.
func Status(u *unstructured.Unstructured) Result {
	o := live{u}
	if u.GetDeletionTimestamp() != nil {
		return inProgress("being deleted")
	}
	if seen, ok := o.number("status", "observedGeneration"); ok && seen < u.GetGeneration() {
		return inProgress("the controller has seen generation %d, not yet %d", seen, u.GetGeneration())
	}
	gk := u.GroupVersionKind().GroupKind()
	if status, ok := statuses[gk]; ok {
		if _, ok := o.number("status", "observedGeneration"); !ok && gk.Group == "apps" {
			return inProgress("the controller has not seen it yet")
		}
		return status(o)
	}
	if status, ok := otherStatuses[gk]; ok {
		return status(o)
	}
	return conditionStatus(o)
}

// live is a live object; it reads fields that may be missing or of any type, which then count as zero.
type live struct{ *unstructured.Unstructured }

func (o live) number(fields ...string) (int64, bool) {
	value, ok, _ := unstructured.NestedFieldNoCopy(o.Object, fields...)
	if !ok {
		return 0, false
	}
	switch value := value.(type) {
	case int64:
		return value, true
	case float64:
		return int64(value), true
	default:
		return 0, false
	}
}

// count is a number of the status, where zero is left out.
func (o live) count(field string) int64 {
	n, _ := o.number("status", field)
	return n
}

// replicas is the wanted number of replicas; one unless stated.
func (o live) replicas() int64 {
	if n, ok := o.number("spec", "replicas"); ok {
		return n
	}
	return 1
}

func (o live) text(fields ...string) string {
	text, _, _ := unstructured.NestedString(o.Object, fields...)
	return text
}

func (o live) flag(fields ...string) bool {
	flag, _, _ := unstructured.NestedBool(o.Object, fields...)
	return flag
}

type condition struct{ status, reason, message string }

// String is the condition's message, or what there is instead.
func (c condition) String() string {
	switch {
	case c.message != "" && c.reason != "" && !strings.Contains(c.message, c.reason):
		return c.reason + ": " + c.message
	case c.message != "":
		return c.message
	case c.reason != "":
		return c.reason
	default:
		return "no reason given"
	}
}

// condition returns a condition, unless it was written for an older specification.
func (o live) condition(kind string) (condition, bool) {
	c, ok := o.writtenCondition(kind)
	if _, old := o.isOld(c); !ok || old {
		return condition{}, false
	}
	return condition{c.text("status"), c.text("reason"), c.text("message")}, true
}

func (o live) writtenCondition(kind string) (live, bool) {
	conditions, _, _ := unstructured.NestedFieldNoCopy(o.Object, "status", "conditions")
	list, _ := conditions.([]any)
	for _, item := range list {
		if c, _ := item.(map[string]any); c["type"] == kind {
			return live{&unstructured.Unstructured{Object: c}}, true
		}
	}
	return live{&unstructured.Unstructured{}}, false
}

// isOld reports whether a condition was written for an older specification, and which.
func (o live) isOld(c live) (seen int64, old bool) {
	seen, ok := c.number("observedGeneration")
	return seen, ok && seen < o.GetGeneration()
}

// isTrue reports whether a condition is there and true.
func (o live) isTrue(kind string) (condition, bool) {
	c, ok := o.condition(kind)
	return c, ok && c.status == "True"
}

// progressDeadline is the reason that a Deployment's condition Progressing has once its progress deadline has passed.
const progressDeadline = "ProgressDeadlineExceeded"

func deploymentStatus(o live) Result {
	want, updated := o.replicas(), o.count("updatedReplicas")
	running, available := o.count("replicas"), o.count("availableReplicas")
	if o.flag("spec", "paused") && updated < want {
		return failed("paused with %d of %d replicas updated; resume it with `kubectl rollout resume deployment/%s`",
			updated, want, o.GetName())
	}
	if c, _ := o.condition("Progressing"); c.reason == progressDeadline {
		if why, ok := o.isTrue("ReplicaFailure"); ok {
			return failed("%s; %s", c, why)
		}
		return failed("%s", c)
	}
	switch {
	case updated < want:
		if c, ok := o.isTrue("ReplicaFailure"); ok {
			return inProgress("%d of %d replicas updated; %s", updated, want, c)
		}
		return inProgress("%d of %d replicas updated", updated, want)
	case running > updated:
		return inProgress("%d old replicas are still there", running-updated)
	case running > want:
		return inProgress("%d replicas too many are still there", running-want)
	case available < want:
		return inProgress("%d of %d replicas available, %d ready", available, want, o.count("readyReplicas"))
	case o.flag("spec", "paused"):
		return current("paused, with all %d replicas of the newest revision", want)
	default:
		return replicasCurrent(want)
	}
}

func replicasCurrent(n int64) Result {
	if n == 0 {
		return current("scaled to zero: nothing runs")
	}
	return current("%d replicas available", n)
}

func statefulSetStatus(o live) Result {
	want, updated, available := o.replicas(), o.count("updatedReplicas"), o.count("availableReplicas")
	running, ready := o.count("replicas"), o.count("readyReplicas")
	if minimum, _ := o.number("spec", "minReadySeconds"); minimum == 0 {
		available = ready // older servers have no availableReplicas
	}
	onDelete := o.text("spec", "updateStrategy", "type") == "OnDelete"
	partition, _ := o.number("spec", "updateStrategy", "rollingUpdate", "partition")
	if shouldUpdate := max(want-partition, 0); !onDelete && updated < shouldUpdate {
		return inProgress("%d of %d replicas updated", updated, shouldUpdate)
	}
	switch {
	case running > want:
		return inProgress("%d replicas too many are still there", running-want)
	case available < want:
		return inProgress("%d of %d replicas available, %d ready", available, want, ready)
	case want == 0:
		return replicasCurrent(0)
	case onDelete:
		return current("%d replicas available; each gets the newest revision when it is deleted (OnDelete)", want)
	case partition > 0:
		return current("%d replicas available; those from number %d on are updated (partition)", want, partition)
	case o.text("status", "currentRevision") != o.text("status", "updateRevision"):
		return inProgress("%d of %d replicas updated, the old revision is still the current one", updated, want)
	default:
		return replicasCurrent(want)
	}
}

func daemonSetStatus(o live) Result {
	want, updated := o.count("desiredNumberScheduled"), o.count("updatedNumberScheduled")
	available := o.count("numberAvailable")
	onDelete := o.text("spec", "updateStrategy", "type") == "OnDelete"
	switch {
	case updated < want && !onDelete:
		return inProgress("%d of %d nodes updated", updated, want)
	case available < want:
		return inProgress("available on %d of %d nodes, ready on %d", available, want, o.count("numberReady"))
	case want == 0:
		return current("no node is to run it")
	case onDelete && updated < want:
		return current("available on %d nodes; each gets the newest revision when its pod is deleted (OnDelete)", want)
	default:
		return current("available on %d nodes", want)
	}
}

func replicaSetStatus(o live) Result {
	want, available := o.replicas(), o.count("availableReplicas")
	switch running := o.count("replicas"); {
	case available < want:
		if c, ok := o.isTrue("ReplicaFailure"); ok {
			return inProgress("%d of %d replicas available; %s", available, want, c)
		}
		return inProgress("%d of %d replicas available", available, want)
	case running > want:
		return inProgress("%d replicas too many are still there", running-want)
	default:
		return replicasCurrent(want)
	}
}

func jobStatus(o live) Result {
	for _, kind := range []string{"Failed", "FailureTarget"} {
		if c, ok := o.isTrue(kind); ok {
			return failed("%s", c)
		}
	}
	if _, ok := o.isTrue("Complete"); ok {
		return current("complete")
	}
	if o.flag("spec", "suspend") {
		return current("suspended: it does not run until spec.suspend is false")
	}
	if o.text("status", "startTime") == "" {
		return inProgress("not started yet")
	}
	completions, ok := o.number("spec", "completions")
	if !ok {
		completions = 1
	}
	return inProgress("%d of %d pods succeeded, %d running, %d failed", o.count("succeeded"), completions, o.count("active"),
		o.count("failed"))
}

// hopeless are the reasons for which a container waits that only another manifest, or another image, can end.
var hopeless = []string{"CrashLoopBackOff", "InvalidImageName", "ErrImageNeverPull"}

func podStatus(o live) Result {
	switch phase := o.text("status", "phase"); phase {
	case "Succeeded":
		return current("succeeded")
	case "Failed":
		return failed("%s", condition{reason: o.text("status", "reason"), message: o.text("status", "message")})
	}
	if _, ok := o.isTrue("Ready"); ok {
		return current("ready")
	}
	for _, field := range []string{"initContainerStatuses", "containerStatuses"} {
		statuses, _, _ := unstructured.NestedFieldNoCopy(o.Object, "status", field)
		list, _ := statuses.([]any)
		for _, item := range list {
			container, _ := item.(map[string]any)
			waiting := live{&unstructured.Unstructured{Object: container}}
			reason := waiting.text("state", "waiting", "reason")
			why := condition{reason: reason, message: waiting.text("state", "waiting", "message")}
			switch {
			case slices.Contains(hopeless, reason):
				return failed("container %s: %s", waiting.text("name"), why)
			case reason != "" && reason != "PodInitializing" && reason != "ContainerCreating":
				return inProgress("container %s: %s", waiting.text("name"), why)
			}
		}
	}
	for _, kind := range []string{"PodScheduled", "Ready"} {
		if c, ok := o.condition(kind); ok && c.status == "False" {
			return inProgress("%s", c)
		}
	}
	return inProgress("not ready yet")
}

func conditionStatus(o live) Result {
	if c, ok := o.isTrue("Stalled"); ok {
		return failed("%s", c)
	}
	if c, ok := o.isTrue("Reconciling"); ok {
		return inProgress("%s", c)
	}
	for _, kind := range []string{"Ready", "Available", "Established"} {
		if c, ok := o.writtenCondition(kind); ok {
			if seen, old := o.isOld(c); old {
				return inProgress("the controller has seen generation %d, not yet %d", seen, o.GetGeneration())
			}
		}
		if c, ok := o.condition(kind); ok && c.status != "True" {
			return inProgress("not %s: %s", kind, c)
		}
	}
	if o.GetKind() == "CustomResourceDefinition" {
		if c, ok := o.condition("NamesAccepted"); ok && c.status == "False" {
			return failed("%s", c)
		}
		if _, ok := o.isTrue("Established"); !ok {
			return inProgress("not established yet")
		}
	}
	return current("there is nothing to wait for")
}

func cronJobStatus(o live) Result {
	last := o.text("status", "lastScheduleTime")
	switch {
	case o.flag("spec", "suspend"):
		return current("suspended: it starts no Job until spec.suspend is false")
	case last == "":
		return current("it has not started a Job yet")
	default:
		return current("it last started a Job at %s", last)
	}
}

// address is the first that a load balancer has given.
func (o live) address() string {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "loadBalancer", "ingress")
	for _, item := range list {
		entry, _ := item.(map[string]any)
		for _, field := range []string{"ip", "hostname"} {
			if text, _ := entry[field].(string); text != "" {
				return text
			}
		}
	}
	return ""
}

func serviceStatus(o live) Result {
	if o.text("spec", "type") != "LoadBalancer" {
		return current("there is nothing to wait for")
	}
	return addressStatus(o)
}

func ingressStatus(o live) Result { return addressStatus(o) }

func addressStatus(o live) Result {
	if address := o.address(); address != "" {
		return current("at %s", address)
	}
	return inProgress("it has no address yet; a controller of the cluster has to give it one")
}

func claimStatus(o live) Result {
	switch phase := o.text("status", "phase"); phase {
	case "Bound":
		return current("bound to %s", o.text("spec", "volumeName"))
	case "Lost":
		return failed("its volume %s is lost", o.text("spec", "volumeName"))
	default:
		return inProgress("not bound yet; it may wait for the first pod that uses it")
	}
}

func namespaceStatus(o live) Result {
	if o.text("status", "phase") == "Terminating" {
		return inProgress("being deleted")
	}
	return current("active")
}

// settledStatus is that of kinds whose conditions say how the world is, not how far they have come.
func settledStatus(live) Result { return current("there is nothing to wait for") }
