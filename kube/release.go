package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// DeployOptions say how Client.Deploy deploys.
type DeployOptions struct {
	// Name is the release's, which is the service's: lower case letters, digits and "-". Under it the cluster remembers what was
	// applied, in the client's namespace: a ConfigMap "grimoire-NAME", and a Secret "grimoire-NAME-rN" for each good revision. It
	// has no default.
	Name string
	// Image is the service's image by digest. Hooks run once for each. Default: none, and they run once for each change of theirs.
	Image string
	// Commit is the source's, to be remembered with the revision. Default: none.
	Commit string
	// Force is as in ApplyOptions.
	Force bool
	// Rollback puts back the last good revision when the deployment fails. Default: what failed stays.
	Rollback bool
	// KeepRemoved leaves in the cluster what an earlier deployment applied and that is not declared any more. Default: it is deleted.
	KeepRemoved bool
	// Timeout is how long hooks, the rollout, and a roll-back may take, each; default five minutes.
	Timeout time.Duration
	// Planned is called with what will be changed before anything is, unless there is nothing; an error of its ends the
	// deployment there. Default: nobody is asked.
	Planned func(Plan) error
	// Progress is as in WaitOptions.
	Progress func(*Object, Result)
}

// Plan is what a deployment changes, as the API server has answered in a dry run.
type Plan struct {
	// Changes are those of the declared objects, also those that are unchanged. New ConfigMaps and Secrets are not sent in the
	// dry run: After is nil.
	Changes []Change
	// Removed are live objects that are deleted since they are not declared any more, once the rollout is good.
	Removed []*Object
	// Hooks are the Jobs that run before the workloads are changed.
	Hooks []*Object
}

// Empty reports whether there is nothing to change.
func (p Plan) Empty() bool {
	return len(p.Removed) == 0 && len(p.Hooks) == 0 &&
		!slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Action != Unchanged })
}

// Deployed is what Client.Deploy did.
type Deployed struct {
	// Changes are what was applied, in order. None where nothing was to change.
	Changes []Change
	// Removed are the objects that were deleted.
	Removed []*Object
	// Revision is the good revision that is live now; zero where it could not be remembered.
	Revision int
}

// DeployError is a deployment that failed after it had begun to change the cluster.
type DeployError struct {
	// Err is why it failed: a *WaitError, or what the API server refused.
	Err error
	// RolledBack is whether it was rolled back to what is live again: To, or the state from before the deployment where To is nil.
	RolledBack bool
	To         *Revision
	// RollbackErr is why it could not be rolled back; nil where that was not asked for.
	RollbackErr error
}

// Error is the failure, and then what became of it.
func (e *DeployError) Error() string {
	text := e.Err.Error()
	switch {
	case e.RolledBack && e.To != nil:
		return fmt.Sprintf("%s\nrolled back to %s, which is live again", text, e.To)
	case e.RolledBack:
		return text + "\nrolled back to what was there before, which is live again"
	case e.RollbackErr != nil:
		return fmt.Sprintf("%s\nnot rolled back: %v", text, e.RollbackErr)
	default:
		return text + "\nwhat was applied stays; mend it and deploy again, or roll back"
	}
}

// Unwrap returns Err: the failure, not what came of it, decides the exit code.
func (e *DeployError) Unwrap() error { return e.Err }

var releaseName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

func (o *DeployOptions) validate() error {
	switch {
	case !releaseName.MatchString(o.Name):
		return fmt.Errorf("the name %q: a release's is of at most 40 lower case letters, digits and -, with a letter or digit at both ends", o.Name)
	case o.Timeout < 0:
		return fmt.Errorf("the timeout is %s; give one above zero", o.Timeout)
	}
	if o.Planned == nil {
		o.Planned = func(Plan) error { return nil }
	}
	return nil
}

// Deploy brings the objects to the cluster as one release, and waits until all of it is known to be good:
//
//   - The API server is asked in a dry run what would change. What it refuses, a conflict with another manager for example, is told
//     for all objects, and nothing is changed. Where there is nothing to change, nothing is written, and the wait begins at once.
//   - Objects are applied as Apply does it. Hooks run before the workloads (see HookAnnotation).
//   - The rollout is waited for as Wait does it. Then the objects are remembered as a good revision, and what an earlier
//     deployment applied and that is not declared any more is deleted, never namespaces, definitions and volumes.
//   - When it fails, and is asked to, it puts back the last good revision and waits for that. Without one, it puts back what the
//     objects were before, if that was good.
//
// There is no lock. Of two deployments of a release at the same time the one that begins later takes over, and the other ends with a
// SupersededError. One that was interrupted leaves nothing that the next could stumble on.
//
// An error after something was changed is a *DeployError.
func (c *Client) Deploy(ctx context.Context, objects []*Object, o DeployOptions) (Deployed, error) {
	if err := o.validate(); err != nil {
		return Deployed{}, fmt.Errorf("deploying: %w", err)
	}
	d := &deployment{client: c, options: o}
	return d.run(ctx, objects)
}

// Plan asks the API server what Deploy would change, and changes nothing.
func (c *Client) Plan(ctx context.Context, objects []*Object, o DeployOptions) (Plan, error) {
	if err := o.validate(); err != nil {
		return Plan{}, fmt.Errorf("planning: %w", err)
	}
	d := &deployment{client: c, options: o}
	_, err := d.look(ctx, objects)
	return d.plan, err
}

// deployment is one call of Deploy or Rollback.
type deployment struct {
	client    *Client
	options   DeployOptions
	claim     *claim
	contested bool
	hooks     []hook
	apply     *applyRun
	objects   []*Object // all that are declared but hooks, by rank
	plan      Plan
	stale     []member
	done      Deployed
}

func (d *deployment) run(ctx context.Context, objects []*Object) (Deployed, error) {
	kept, err := d.look(ctx, objects)
	if err != nil {
		return d.done, err
	}
	_, hash, err := manifests(d.objects)
	if err != nil {
		return d.done, err
	}
	if last := d.claim.record(); d.plan.Empty() && last.Phase == Live && last.Manifests == hash {
		d.done.Revision = last.Revision
		return d.done, d.client.waitFrom(ctx, d.apply.live, d.objects, d.waitOptions())
	}
	if !d.plan.Empty() {
		if err := d.options.Planned(d.plan); err != nil {
			return d.done, err
		}
	}
	if err := d.begin(ctx); err != nil {
		return d.done, err
	}
	if err := d.roll(ctx); err != nil {
		return d.done, d.failed(ctx, err, d.options.Rollback)
	}
	if err := d.finish(ctx, kept); err != nil {
		return d.done, d.failed(ctx, fmt.Errorf("what was deployed is live; tidying up after it: %w", err), false)
	}
	return d.done, nil
}

// look finds out what there is to do, and returns the hooks that need not run again.
func (d *deployment) look(ctx context.Context, objects []*Object) (kept []*Object, err error) {
	rest, hooks, err := splitHooks(objects, d.options.Image)
	if err != nil {
		return nil, err
	}
	if d.claim, err = d.client.readClaim(ctx, d.options.Name); err != nil {
		return nil, d.denied(ctx, err, objects)
	}
	ran := d.claim.hooks()
	for _, h := range hooks {
		if slices.Contains(ran[h.name], h.image) {
			kept = append(kept, h.object)
		} else {
			d.hooks = append(d.hooks, h)
		}
	}
	return kept, d.prepare(ctx, d.members(rest), kept)
}

// members returns copies of the objects, labelled as what they are members of.
func (d *deployment) members(objects []*Object) []*Object {
	copies := make([]*Object, len(objects))
	for i, o := range objects {
		u := o.DeepCopy()
		labels := u.GetLabels()
		if labels == nil {
			labels = make(map[string]string)
		}
		labels[setMemberLabel] = d.claim.setID()
		u.SetLabels(labels)
		copies[i] = &Object{Unstructured: u, Source: o.Source}
	}
	return copies
}

// prepare asks the API server what there is to change.
func (d *deployment) prepare(ctx context.Context, declared, kept []*Object) error {
	hooks := make([]*Object, len(d.hooks))
	for i, h := range d.hooks {
		hooks[i] = h.object
	}
	hooks = d.members(hooks)
	for i := range d.hooks {
		d.hooks[i].object = hooks[i]
	}
	run, err := d.client.newApplyRun(ctx, slices.Concat(declared, hooks), ApplyOptions{Force: d.options.Force, DryRun: true})
	if err != nil {
		return d.denied(ctx, err, slices.Concat(declared, hooks))
	}
	if err := d.leaveOthers(ctx, run); err != nil {
		return err
	}
	if run.changes() {
		if err := d.mayDeploy(ctx, slices.Concat(declared, hooks), run); err != nil {
			return err
		}
	}
	run.trusting = true
	isHook := func(o *Object) bool { return slices.Contains(hooks, o) }
	all := run.objects
	run.objects = slices.DeleteFunc(slices.Clone(all), isHook)
	if d.plan.Changes, err = run.apply(ctx); err != nil {
		return err
	}
	if err := d.checkHooks(ctx, run, hooks); err != nil {
		return err
	}
	for _, o := range kept {
		o.SetNamespace(namespaceOr(o.GetNamespace(), d.client.namespace))
	}
	if !d.options.KeepRemoved {
		if d.stale, _, err = d.client.removed(ctx, d.claim, slices.Concat(all, kept)); err != nil {
			return err
		}
		for _, m := range d.stale {
			if !slices.Contains(keptKinds, m.GroupVersionKind().GroupKind()) {
				d.plan.Removed = append(d.plan.Removed, &Object{Unstructured: m.Unstructured})
			}
		}
	}
	d.plan.Hooks = hooks
	run.options.DryRun, run.trusting, run.claim = false, false, d.claim
	d.apply, d.objects = run, run.objects
	return nil
}

// leaveOthers refuses objects that are another release's, which would be deleted once that one, or this one, declares them no more. What is
// never deleted, such as a namespace, may be declared by many, and stays the first one's.
func (d *deployment) leaveOthers(ctx context.Context, run *applyRun) error {
	var errs []error
	for _, o := range run.objects {
		owner := ""
		if live := run.live[o]; live != nil && isOurMember(live) {
			owner = live.GetLabels()[setMemberLabel]
		}
		switch {
		case owner == "" || owner == d.claim.setID():
		case slices.Contains(keptKinds, o.GroupVersionKind().GroupKind()):
			labels := o.GetLabels()
			labels[setMemberLabel] = owner
			o.SetLabels(labels)
		case !d.options.Force:
			errs = append(errs, fmt.Errorf("applying %s: it belongs to %s; declare it there alone, or give it another name, or apply with force to take it over",
				o.described(), d.client.setNamed(ctx, owner, o.GetNamespace())))
		}
	}
	return errors.Join(errs...)
}

// setNamed is the release with the ID, as people know it.
func (c *Client) setNamed(ctx context.Context, id, namespace string) string {
	for _, namespace := range []string{c.namespace, namespace} {
		if namespace == "" {
			continue
		}
		parents, err := c.of(configMaps, namespace).List(ctx, metav1.ListOptions{LabelSelector: setIDLabel + "=" + id})
		if err == nil && len(parents.Items) > 0 {
			return fmt.Sprintf("the release %s in the namespace %s", strings.TrimPrefix(parents.Items[0].GetName(), parentName("")), namespace)
		}
	}
	return "another release, whose objects have the label " + setMemberLabel + "=" + id
}

// checkHooks has the API server check the Jobs that are not there yet.
func (d *deployment) checkHooks(ctx context.Context, run *applyRun, hooks []*Object) error {
	for _, o := range hooks {
		if run.live[o] != nil {
			continue // of an earlier try
		}
		if _, err := run.applyOne(ctx, o); err != nil {
			return fmt.Errorf("applying %s: %w", o.described(), err)
		}
	}
	return nil
}

func namespaceOr(namespace, or string) string {
	if namespace == "" {
		return or
	}
	return namespace
}

func (d *deployment) waitOptions() WaitOptions {
	return WaitOptions{Timeout: d.options.Timeout, Progress: d.options.Progress}
}

// begin takes the claim. The namespace that it is kept in may be among the objects.
func (d *deployment) begin(ctx context.Context) error {
	for _, o := range d.objects {
		if o.GroupVersionKind().GroupKind() == (schema.GroupKind{Kind: "Namespace"}) && o.GetName() == d.client.namespace && d.apply.live[o] == nil {
			changes, err := d.client.Apply(ctx, []*Object{o}, ApplyOptions{Force: d.options.Force})
			if err != nil {
				return err
			}
			d.apply.live[o] = changes[0].After
			d.done.Changes = append(d.done.Changes, changes...)
		}
	}
	m := membersOf(d.objects)
	if len(d.hooks) > 0 {
		m.kinds[jobKind] = true
	}
	var err error
	d.contested, err = d.claim.take(ctx, Record{Image: d.options.Image, Commit: d.options.Commit, Began: time.Now().Unix()}, m)
	if err == nil && d.contested {
		zerolog.Ctx(ctx).Info().Msg("taking over from another deployment of this release, which was interrupted or still runs")
	}
	return err
}

// roll applies, waits, and settles what was deployed.
func (d *deployment) roll(ctx context.Context) error {
	workloads := slices.IndexFunc(d.objects, func(o *Object) bool { return rank(o) >= rankOf("Deployment") })
	if workloads < 0 {
		workloads = len(d.objects)
	}
	if err := d.applyPart(ctx, d.objects[:workloads]); err != nil {
		return err
	}
	if err := d.runHooks(ctx); err != nil {
		return err
	}
	if err := d.applyPart(ctx, d.objects[workloads:]); err != nil {
		return err
	}
	if err := d.wait(ctx, d.objects); err != nil {
		return err
	}
	return d.settle(ctx, d.objects, d.options.Force)
}

func (d *deployment) applyPart(ctx context.Context, part []*Object) error {
	d.apply.objects = part
	changes, err := d.apply.apply(ctx)
	d.changed(changes)
	return err
}

// changed notes what was applied, and returns it.
func (d *deployment) changed(changes []Change) []Change {
	changes = slices.DeleteFunc(changes, func(c Change) bool { return c.Action == Unchanged })
	d.done.Changes = append(d.done.Changes, changes...)
	return changes
}

// wait waits for the objects, as long as this is the deployment that decides.
func (d *deployment) wait(ctx context.Context, objects []*Object) error {
	ctx, cancel := d.claim.guard(ctx)
	defer cancel()
	err := d.client.Wait(ctx, objects, d.waitOptions())
	var lost *SupersededError
	if errors.As(context.Cause(ctx), &lost) {
		return lost
	}
	return err
}

// runHooks runs the hooks one after the other, in the order they were declared in.
func (d *deployment) runHooks(ctx context.Context) error {
	for _, h := range d.hooks {
		log := zerolog.Ctx(ctx).With().Str("hook", h.name).Logger()
		live := d.apply.live[h.object]
		if live != nil && Status(live).State == Failed {
			log.Info().Msg("the hook failed before; running it again")
			if err := d.replaceJob(ctx, live); err != nil {
				return err
			}
			delete(d.apply.live, h.object)
		}
		log.Info().Str("job", h.object.GetName()).Msg("running the hook")
		if _, err := d.apply.applyOne(ctx, h.object); err != nil {
			return fmt.Errorf("applying %s: %w", h.object.described(), err)
		}
		if err := d.wait(ctx, []*Object{h.object}); err != nil {
			return fmt.Errorf("running the hook %s, before any workload was changed: %w", h.name, err)
		}
		err := d.claim.update(ctx, func(parent *unstructured.Unstructured) {
			ran := hooksOf(parent)
			images := append(ran[h.name], h.image)
			ran[h.name] = images[max(0, len(images)-mostHooks):]
			setJSON(parent, "hooks", ran)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replaceJob deletes a Job and waits until it is gone.
func (d *deployment) replaceJob(ctx context.Context, u *unstructured.Unstructured) error {
	r, err := d.client.resource(ctx, u.GroupVersionKind())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, definitionTime)
	defer cancel()
	if err := d.client.delete(ctx, member{u, r}); err != nil {
		return err
	}
	for {
		now, err := d.client.get(ctx, u.GetName(), r, u.GetNamespace())
		if err != nil || now == nil || now.GetUID() != u.GetUID() {
			return err
		}
		if !sleep(ctx, firstPause) {
			return fmt.Errorf("deleting Job/%s: it does not go; see its finalizers", u.GetName())
		}
	}
}

// settle applies once more what a deployment that was taken over, if there was one, may have changed in its last moments.
func (d *deployment) settle(ctx context.Context, objects []*Object, force bool) error {
	if !d.contested {
		return nil
	}
	for range retries {
		if !sleep(ctx, 3*claimTime) {
			return context.Cause(ctx)
		}
		run, err := d.client.newApplyRun(ctx, objects, ApplyOptions{Force: force})
		if err != nil {
			return err
		}
		run.claim = d.claim
		changes, err := run.apply(ctx)
		changes = d.changed(changes)
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			d.contested = false
			return nil
		}
		if err := d.wait(ctx, objects); err != nil {
			return err
		}
	}
	return errors.New("somebody else changes the same objects again and again; see who, and deploy again")
}

// finish remembers what is good, and deletes what is no longer declared.
func (d *deployment) finish(ctx context.Context, kept []*Object) error {
	d.claim.doubt()
	if err := d.claim.check(ctx); err != nil {
		return err
	}
	revision, err := d.client.remember(ctx, d.options.Name, d.objects, d.options.Image, d.options.Commit)
	if err != nil {
		return err
	}
	d.done.Revision = revision
	return d.close(ctx, Live, Revision{Number: revision, Image: d.options.Image, Commit: d.options.Commit}, d.objects, kept)
}

// close prunes, and notes how the deployment ended.
func (d *deployment) close(ctx context.Context, phase Phase, is Revision, objects, kept []*Object) error {
	now := slices.Concat(objects, kept)
	m := d.claim.members()
	if !d.options.KeepRemoved {
		stale, unseen, err := d.client.removed(ctx, d.claim, slices.Concat(now, d.plan.Hooks))
		if err != nil {
			return err
		}
		deleted, left, err := d.client.prune(ctx, d.claim, stale)
		d.done.Removed = append(d.done.Removed, deleted...)
		if err != nil {
			return err
		}
		m = membersOf(slices.Concat(now, d.plan.Hooks)).with(unseen)
		for _, o := range left {
			m.add(o.GroupVersionKind().GroupKind(), o.GetNamespace())
		}
	}
	_, hash, err := manifests(objects)
	if err != nil {
		return err
	}
	return d.claim.update(ctx, func(parent *unstructured.Unstructured) {
		m.write(parent)
		r := recordOf(parent)
		r.Phase, r.Revision, r.Image, r.Commit, r.Manifests = phase, is.Number, is.Image, is.Commit, hash
		setJSON(parent, "deployment", r)
	})
}

// failed says why the deployment failed, and rolls back where that is wanted.
func (d *deployment) failed(ctx context.Context, err error, rollback bool) error {
	var lost *SupersededError
	switch {
	case errors.As(err, &lost):
		return err
	case ctx.Err() != nil:
		return &DeployError{Err: err}
	}
	failure := &DeployError{Err: err}
	if rollback {
		zerolog.Ctx(ctx).Warn().Msg("the deployment failed; rolling back")
		failure.To, failure.RollbackErr = d.rollBack(ctx)
		failure.RolledBack = failure.RollbackErr == nil
	}
	if !failure.RolledBack {
		// Told or not: the next deployment only looks longer where it is not.
		_ = d.claim.update(ctx, func(parent *unstructured.Unstructured) {
			r := recordOf(parent)
			r.Phase = Unfinished
			setJSON(parent, "deployment", r)
		})
	}
	return failure
}

// rollBack puts back the last good revision, nil where it was the state from before.
func (d *deployment) rollBack(ctx context.Context) (*Revision, error) {
	revisions, err := d.client.Revisions(ctx, d.options.Name)
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	if len(revisions) == 0 {
		objects, err := d.before()
		if err != nil {
			return nil, err
		}
		// What was to be removed goes on being needed.
		var kept []*Object
		for _, m := range d.stale {
			kept = append(kept, &Object{Unstructured: m.Unstructured})
		}
		return nil, d.putBack(ctx, objects, kept, Revision{})
	}
	last := revisions[0]
	if i := slices.IndexFunc(revisions, func(r Revision) bool { return r.Number == d.claim.record().Revision }); i >= 0 {
		last = revisions[i] // what was live; somebody may have rolled back to it
	}
	_, hash, err := manifests(d.objects)
	if err != nil {
		return nil, err
	}
	if hash == last.hash {
		return nil, fmt.Errorf("what failed is %s itself, which was good before; look at what has changed around it", last)
	}
	objects, err := last.objects()
	if err != nil {
		return nil, err
	}
	return &last, d.putBack(ctx, objects, nil, last)
}

// putBack applies objects that were good, of a revision or of none that is remembered, waits for them, and prunes what came after them,
// but for what is kept.
func (d *deployment) putBack(ctx context.Context, objects, kept []*Object, is Revision) error {
	declared := d.members(objects)
	run, err := d.client.newApplyRun(ctx, declared, ApplyOptions{Force: true})
	if err != nil {
		return err
	}
	run.claim = d.claim
	if _, err := run.apply(ctx); err != nil {
		return err
	}
	d.apply = run
	d.unblock(ctx, run.objects)
	if err := d.wait(ctx, run.objects); err != nil {
		return err
	}
	if err := d.settle(ctx, run.objects, true); err != nil {
		return err
	}
	d.plan.Hooks = nil
	return d.close(ctx, Undone, is, run.objects, kept)
}

// unblock deletes pods that a StatefulSet would wait for before it puts an older revision in the place of a failed one, which it does
// for ever where it takes one pod after the other.
func (d *deployment) unblock(ctx context.Context, objects []*Object) {
	for _, o := range objects {
		was := d.apply.live[o]
		if was == nil || o.applied == nil || o.applied.GetGeneration() == was.GetGeneration() || o.GroupVersionKind().GroupKind() != (schema.GroupKind{Group: "apps", Kind: "StatefulSet"}) {
			continue
		}
		if policy, _, _ := unstructured.NestedString(o.applied.Object, "spec", "podManagementPolicy"); policy == "Parallel" {
			continue
		}
		failed, _, _ := unstructured.NestedString(was.Object, "status", "updateRevision")
		selector, err := podSelector(o.applied)
		if err != nil || failed == "" {
			continue
		}
		err = d.client.list(ctx, pods, o.GetNamespace(), metav1.ListOptions{LabelSelector: selector}, func(pod *unstructured.Unstructured) {
			if _, ready := (live{pod}).isTrue("Ready"); ready || pod.GetLabels()["controller-revision-hash"] != failed {
				return
			}
			if err := d.client.delete(ctx, member{pod, pods}); err != nil {
				zerolog.Ctx(ctx).Warn().Err(err).Msgf("the pod %s of the failed revision stays, and %s may wait for it for ever; delete it", pod.GetName(), o)
			}
		})
		if err != nil {
			zerolog.Ctx(ctx).Warn().Err(d.client.explain(ctx, err, "list", pods, o.GetNamespace())).
				Msgf("whether pods of the failed revision of %s stand in the way is not known", o)
		}
	}
}

var pods = resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, namespaced: true}

// podSelector returns the selector of a workload's pods.
func podSelector(u *unstructured.Unstructured) (string, error) {
	content, _, _ := unstructured.NestedMap(u.Object, "spec", "selector")
	var selector metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &selector); err != nil {
		return "", err
	}
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return "", err
	}
	return parsed.String(), nil
}

// RollbackOptions say how Client.Rollback rolls back.
type RollbackOptions struct {
	// Name is the release's, as in DeployOptions.
	Name string
	// To is the number of the revision to go back to. Default: the newest one before the one that is live, or the newest of all
	// where what is there is not known to be good.
	To int
	// KeepRemoved leaves in the cluster what that revision does not have. Default: it is deleted.
	KeepRemoved bool
	// Timeout and Progress are as in DeployOptions.
	Timeout  time.Duration
	Progress func(*Object, Result)
}

// Rollback puts back a good revision of a release, waits until it is live, and deletes what came after it. Hooks do not run: what
// they did to a database, say, stays. What the login may not is told before anything is changed; an error after that is a *DeployError.
func (c *Client) Rollback(ctx context.Context, o RollbackOptions) (Revision, error) {
	d := &deployment{client: c, options: DeployOptions{Name: o.Name, KeepRemoved: o.KeepRemoved, Timeout: o.Timeout, Progress: o.Progress}}
	if err := d.options.validate(); err != nil {
		return Revision{}, fmt.Errorf("rolling back: %w", err)
	}
	var err error
	if d.claim, err = c.readClaim(ctx, o.Name); err != nil {
		return Revision{}, err
	}
	revisions, err := c.Revisions(ctx, o.Name)
	if err != nil {
		return Revision{}, err
	}
	target, err := choose(revisions, d.claim.record(), o)
	if err != nil {
		return Revision{}, fmt.Errorf("rolling back: %w", err)
	}
	objects, err := target.objects()
	if err != nil {
		return Revision{}, err
	}
	run, err := c.newApplyRun(ctx, d.members(objects), ApplyOptions{Force: true, DryRun: true})
	if err != nil {
		return Revision{}, d.denied(ctx, err, objects)
	}
	if err := d.mayDeploy(ctx, run.objects, run); err != nil {
		return Revision{}, err
	}
	r := Record{Image: target.Image, Commit: target.Commit, Began: time.Now().Unix()}
	if d.contested, err = d.claim.take(ctx, r, membersOf(objects)); err != nil {
		return Revision{}, err
	}
	if err := d.putBack(ctx, objects, nil, target); err != nil {
		return target, d.failed(ctx, err, false)
	}
	return target, nil
}

// choose returns the revision to go back to.
func choose(revisions []Revision, r Record, o RollbackOptions) (Revision, error) {
	if len(revisions) == 0 {
		return Revision{}, fmt.Errorf("no good revision of %s is remembered; deploy an earlier commit instead", o.Name)
	}
	numbers := make([]string, len(revisions))
	for i, revision := range revisions {
		numbers[i] = strconv.Itoa(revision.Number)
		settled := r.Phase == Live || r.Phase == Undone
		if o.To == revision.Number || o.To == 0 && (!settled || revision.Number < r.Revision) {
			return revision, nil
		}
	}
	list := strings.Join(numbers, ", ")
	if o.To != 0 {
		return Revision{}, fmt.Errorf("there is no revision %d of %s; there is: %s", o.To, o.Name, list)
	}
	return Revision{}, fmt.Errorf("revision %d of %s is live, and none before it is remembered, only: %s; deploy an earlier commit instead",
		r.Revision, o.Name, list)
}

// before returns the objects as they were before the deployment, as far as it has set their fields. They have to have been good.
func (d *deployment) before() ([]*Object, error) {
	var objects []*Object
	for _, change := range d.plan.Changes {
		if change.Before == nil || change.After == nil {
			continue
		}
		if r := Status(change.Before); r.State != Current && waitsFor(change.Object) {
			return nil, fmt.Errorf("there is no good revision of %s yet, and %s was not good before either: %s", d.options.Name, change.Object, r.Message)
		}
		// Also what the deployment has left out is put back.
		fields := union(ownFields(change.Before, d.apply.options.FieldManager), ownFields(change.After, d.apply.options.FieldManager))
		content, _ := extract(fields, change.Before.Object).(map[string]any)
		if content == nil {
			continue
		}
		content["apiVersion"], content["kind"] = change.Before.GetAPIVersion(), change.Before.GetKind()
		u := &unstructured.Unstructured{Object: content}
		u.SetName(change.Before.GetName())
		u.SetNamespace(change.Before.GetNamespace())
		objects = append(objects, &Object{Unstructured: u, Source: change.Object.Source})
	}
	if !slices.ContainsFunc(objects, waitsFor) {
		return nil, fmt.Errorf("there is no good revision of %s to roll back to; it has never been live", d.options.Name)
	}
	return objects, nil
}

// union returns the fields that are in one of two sets, as fieldsV1. A field without others below it is owned as a whole.
func union(a, b map[string]any) map[string]any {
	all := maps.Clone(a)
	if all == nil {
		all = make(map[string]any)
	}
	for name, below := range b {
		fields, _ := below.(map[string]any)
		others, ok := all[name].(map[string]any)
		switch {
		case !ok:
			all[name] = fields
		case len(fields) == 0 || len(others) == 0:
			all[name] = map[string]any{}
		default:
			all[name] = union(others, fields)
		}
	}
	return all
}

// extract returns what a live value has of the owned fields; nil where it has none.
func extract(fields map[string]any, live any) any {
	switch live := live.(type) {
	case map[string]any:
		if len(fields) == 0 {
			return live
		}
		found := make(map[string]any)
		for name, below := range fields {
			name, ok := strings.CutPrefix(name, "f:")
			value, there := live[name]
			path, _ := below.(map[string]any)
			if ok && there {
				if value = extract(path, value); value != nil {
					found[name] = value
				}
			}
		}
		return found
	case []any:
		if len(fields) == 0 {
			return live
		}
		return extractItems(fields, live)
	default:
		return live
	}
}

// extractItems is extract for the items of a list, in the live order. An item that is known by a key keeps that.
func extractItems(fields map[string]any, live []any) []any {
	var found []any
	for _, item := range live {
		for name, below := range fields {
			kind, text, _ := strings.Cut(name, ":")
			var known any
			if json.Unmarshal([]byte(text), &known) != nil {
				continue
			}
			key, keyed := known.(map[string]any)
			switch {
			case kind == "v" && equalJSON(item, known):
				found = append(found, item)
			case kind == "k" && keyed && findKeyed([]any{item}, key) == 0:
				path, _ := below.(map[string]any)
				kept, _ := extract(path, item).(map[string]any)
				whole, _ := item.(map[string]any)
				for name := range key {
					kept[name] = whole[name]
				}
				found = append(found, kept)
			}
		}
	}
	return found
}
