package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// flux judges a Kustomization.
type flux struct {
	line  *lineage
	image string
	// source reads the repository that it is built from; nil where that cannot be read.
	source func() *unstructured.Unstructured
}

// fluxFailures are the reasons of Flux for which it has to be given something else.
var fluxFailures = []string{"BuildFailed", "ReconciliationFailed", "HealthCheckFailed", "PruneFailed"}

func (f *flux) status(u *unstructured.Unstructured) Result {
	k := live{u}
	if r, ok := otherImage(u, f.image); ok {
		return r
	}
	applied, attempted := k.text("status", "lastAppliedRevision"), k.text("status", "lastAttemptedRevision")
	ready, _ := k.condition("Ready")
	// A failure does not move the status's own generation, but its condition's.
	if ready.status == "False" && slices.Contains(fluxFailures, ready.reason) && k.isOfNow("Ready") && f.line.holds(attempted) {
		return failed("Flux could not apply it: %s", ready)
	}
	if r, ok := unseen(u); ok {
		return r
	}
	switch {
	case f.line.holds(applied) && ready.status == "True":
		return current("applied %s, and ready", applied)
	case f.line.holds(applied):
		return inProgress("applied %s, not ready: %s", applied, ready)
	}
	text := fmt.Sprintf("at %s, not yet at %s", cmp.Or(applied, "no revision"), short12(f.line.commit))
	if ready.status == "False" {
		text += fmt.Sprintf("; %s", ready)
	}
	if source := f.source(); source != nil {
		if fetched, ok := (live{source}).condition("Ready"); ok && fetched.status == "False" {
			text += fmt.Sprintf("; GitRepository/%s: %s", source.GetName(), fetched)
		}
	}
	return inProgress("%s", text)
}

// isOfNow reports whether a condition is about the object as it is specified now, as far as it says.
func (o live) isOfNow(kind string) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	i := findKeyed(conditions, map[string]any{"type": kind})
	if i < 0 {
		return false
	}
	generation, ok := live{&unstructured.Unstructured{Object: conditions[i].(map[string]any)}}.number("observedGeneration")
	return !ok || generation >= o.GetGeneration()
}

// rereadTime is how often what is around an agent is read anew.
const rereadTime = 2 * time.Second

// reader reads an object now and then.
func (c *Client) reader(ctx context.Context, last *unstructured.Unstructured) func() *unstructured.Unstructured {
	read := time.Now()
	return func() *unstructured.Unstructured {
		if time.Since(read) < rereadTime {
			return last
		}
		read = time.Now()
		if r, err := c.resource(ctx, last.GroupVersionKind()); err == nil {
			if u, err := c.get(ctx, last.GetName(), r, last.GetNamespace()); err == nil && u != nil {
				last = u
			}
		}
		return last
	}
}

// releaseFailures are the reasons for which a HelmRelease is not what it is to be, or not any more.
var releaseFailures = []string{"InstallFailed", "UpgradeFailed", "TestFailed", "RollbackSucceeded", "RollbackFailed", "UninstallSucceeded", "UninstallFailed"}

// releaseStatus judges a HelmRelease, whose specification names the image. Helm waits until what it has released is ready, unless the release
// says otherwise. One that has failed has so for good when Flux does not try it again. Source of the fields and reasons: the types
// HelmReleaseSpec and HelmReleaseStatus, and the conditions, of helm.toolkit.fluxcd.io/v2.
func releaseStatus(u *unstructured.Unstructured, image string) Result {
	h := live{u}
	ready, _ := h.condition("Ready")
	if r, ok := otherImage(u, image); ok {
		return r
	}
	if ready.status == "False" && h.isOfNow("Ready") {
		why := ready
		if released, ok := h.condition("Released"); ok && released.status == "False" {
			why = released // what came after it was only tidied up
		}
		stalled, isStalled := h.isTrue("Stalled")
		switch {
		case isStalled && h.isOfNow("Stalled"):
			return failed("Flux could not release it: %s (%s)", why, stalled)
		case slices.Contains(releaseFailures, ready.reason) && !h.triesAgain():
			return failed("Flux could not release it: %s", why)
		}
		return inProgress("not ready: %s", why)
	}
	if r, ok := unseen(u); ok {
		return r
	}
	if ready.status == "True" && h.isOfNow("Ready") {
		return current("released: %s", ready)
	}
	return inProgress("not released yet: %s", ready)
}

// triesAgain reports whether a HelmRelease is tried again when it has failed, which it is not unless it says so.
func (o live) triesAgain() bool {
	for _, action := range []string{"install", "upgrade"} {
		if retries, _ := o.number("spec", action, "remediation", "retries"); retries != 0 {
			return true
		}
		if o.text("spec", action, "strategy", "name") == "RetryOnFailure" {
			return true
		}
	}
	return false
}
