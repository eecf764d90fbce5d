package kube

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ApplyOptions say how Client.Apply applies.
type ApplyOptions struct {
	// FieldManager is the name under which the API server notes the fields as ours; default "grimoire". What another manager
	// has set and the manifest does not name stays as it is.
	FieldManager string
	// Force takes over the fields that the manifest sets to other values than their manager did. Default: that is an error,
	// which names manager and field.
	Force bool
	// DryRun has the API server check and answer everything, and change nothing.
	DryRun bool
}

// Action is what applying did to an object.
type Action string

// What applying does. Unchanged means that nothing of what we manage was different.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
)

// Change is an object and what applying did to it, or would have done in a dry run.
type Change struct {
	Object *Object
	Action Action
	// Before and After are the live object. Before is nil if it was created; After is nil if it was not there to be checked in
	// a dry run, because what it needs (its namespace or its kind) is created by the same run.
	Before, After *unstructured.Unstructured
}

// String returns what happened in words: "Deployment/pay configured".
func (c Change) String() string {
	return c.Object.String() + " " + string(c.Action)
}

// Apply applies the objects server-side: what others need first (namespaces, definitions, permissions, configuration), then
// services and workloads, then the rest; those of one rank in parallel. Objects without a namespace get the client's if
// their kind has one. Fields that only the server sets are not sent: status, and uid, resourceVersion, generation,
// creationTimestamp and managedFields of the metadata. An object that is live as its manifest wants it, with no field of ours
// too many, is not sent at all.
//
// Nothing is applied if the server does not know one of the kinds, or does not tell what is there. After that, the first error
// ends it; the changes up to then are returned with it, in the order of their ranks. What may pass is tried again a few times: a
// server that is busy or out of reach, a write at the same moment.
func (c *Client) Apply(ctx context.Context, objects []*Object, o ApplyOptions) ([]Change, error) {
	run, err := c.newApplyRun(ctx, objects, o)
	if err != nil {
		return nil, err
	}
	return run.apply(ctx)
}

// ranks say in which order kinds are applied; what is not named comes last.
var ranks = [][]string{
	{"Namespace"},
	{"CustomResourceDefinition"},
	{"ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "PriorityClass", "StorageClass",
		"ResourceQuota", "LimitRange"},
	{"ConfigMap", "Secret", "PersistentVolume", "PersistentVolumeClaim"},
	{"Service"},
	{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Job", "CronJob"},
}

func rank(o *Object) int { return rankOf(o.GetKind()) }

func rankOf(kind string) int {
	for i, kinds := range ranks {
		if slices.Contains(kinds, kind) {
			return i
		}
	}
	return len(ranks)
}

func isDefinition(o *Object) bool {
	return o.GroupVersionKind().GroupKind() == schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
}

// definedKinds are the kinds that the objects themselves bring to the cluster.
func definedKinds(objects []*Object) map[schema.GroupKind]bool {
	defined := make(map[schema.GroupKind]bool)
	for _, o := range objects {
		if isDefinition(o) {
			group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
			defined[schema.GroupKind{Group: group, Kind: kind}] = true
		}
	}
	return defined
}

func definedNamespaces(objects []*Object) map[string]bool {
	namespaces := make(map[string]bool)
	for _, o := range objects {
		if o.GroupVersionKind().GroupKind() == (schema.GroupKind{Kind: "Namespace"}) {
			namespaces[o.GetName()] = true
		}
	}
	return namespaces
}

// applyRun is one call of Apply.
type applyRun struct {
	client     *Client
	options    ApplyOptions
	objects    []*Object // by rank
	defined    map[schema.GroupKind]bool
	namespaces map[string]bool
	// live are the objects as they were found, by those that are applied.
	live map[*Object]*unstructured.Unstructured
	// claim is whose turn it is to change the release; nil where everybody may at any time.
	claim *claim
	// trusting is whether a dry run leaves out new objects that hold nothing for the server to check.
	trusting bool
}

// newApplyRun finds out what there is to do it with: each object's kind, namespace and live state.
func (c *Client) newApplyRun(ctx context.Context, objects []*Object, o ApplyOptions) (*applyRun, error) {
	if o.FieldManager == "" {
		o.FieldManager = defaultFieldManager
	}
	run := &applyRun{
		client: c, options: o, objects: slices.Clone(objects), defined: definedKinds(objects), namespaces: definedNamespaces(objects),
	}
	slices.SortStableFunc(run.objects, func(a, b *Object) int { return rank(a) - rank(b) })
	if err := c.learnKinds(ctx, run.objects); err != nil {
		return nil, err
	}
	for _, object := range run.objects {
		if err := run.prepare(ctx, object); err != nil {
			return nil, fmt.Errorf("applying %s: %w", object.described(), err)
		}
	}
	if err := refuseDuplicates(run.objects); err != nil { // now that each has its namespace
		return nil, err
	}
	var err error
	run.live, err = c.lookUp(ctx, run.objects)
	return run, err
}

const defaultFieldManager = "grimoire"

// prepare finds the object's kind and gives it its namespace.
func (run *applyRun) prepare(ctx context.Context, o *Object) error {
	r, err := run.client.resource(ctx, o.GroupVersionKind())
	if run.definedHere(o, err) {
		return nil
	}
	if err == nil {
		run.setNamespace(o, r)
	}
	return err
}

// setNamespace gives an object the client's namespace where it names none, and takes away the one that an object of the whole cluster
// names, as the server does, so that it is known by the same name before and after.
func (run *applyRun) setNamespace(o *Object, r resource) {
	switch {
	case !r.namespaced:
		o.SetNamespace("")
	case o.GetNamespace() == "":
		o.SetNamespace(run.client.namespace)
	}
}

// definedHere reports whether err says that the kind is not there yet, and its definition is among the objects.
func (run *applyRun) definedHere(o *Object, err error) bool {
	var unknown *unknownKindError
	return errors.As(err, &unknown) && run.defined[o.GroupVersionKind().GroupKind()]
}

// apply applies the objects, one rank after the other.
func (run *applyRun) apply(ctx context.Context) ([]Change, error) {
	var changes []Change
	for rest := run.objects; len(rest) > 0; {
		n := 1
		for n < len(rest) && rank(rest[n]) == rank(rest[0]) {
			n++
		}
		done, err := run.applyRank(ctx, rest[:n])
		changes = append(changes, done...)
		if err != nil {
			return changes, err
		}
		rest = rest[n:]
	}
	return changes, nil
}

// changes reports whether there is an object that is not live as it is declared, as far as that can be told without the server.
func (run *applyRun) changes() bool {
	return slices.ContainsFunc(run.objects, func(o *Object) bool { return !run.isLive(o) })
}

// isLive reports whether an object is live as it is declared.
func (run *applyRun) isLive(o *Object) bool {
	live := run.live[o]
	return live != nil && isApplied(withoutServerFields(o.Unstructured).Object, live, run.options.FieldManager)
}

func (run *applyRun) applyRank(ctx context.Context, objects []*Object) ([]Change, error) {
	changes := make([]Change, len(objects))
	err := each(len(objects), func(i int) error {
		change, err := run.applyOne(ctx, objects[i])
		if err != nil {
			return fmt.Errorf("applying %s: %w", objects[i].described(), err)
		}
		changes[i] = change
		zerolog.Ctx(ctx).Debug().Str("object", objects[i].String()).Str("namespace", objects[i].GetNamespace()).
			Str("action", string(change.Action)).Msg("applied")
		return nil
	})
	return slices.DeleteFunc(changes, func(c Change) bool { return c.Object == nil }), err
}

func (run *applyRun) applyOne(ctx context.Context, o *Object) (Change, error) {
	r, err := run.client.resource(ctx, o.GroupVersionKind())
	if run.definedHere(o, err) {
		if run.options.DryRun {
			return run.unchecked(ctx, o, "its kind"), nil
		}
		r, err = run.client.awaitKind(ctx, o.GroupVersionKind())
	}
	if err != nil {
		return Change{}, err
	}
	run.setNamespace(o, r)
	before := run.live[o]
	if before != nil && before.GetDeletionTimestamp() != nil {
		return Change{}, errors.New("it is being deleted; apply it again when it is gone, and see its finalizers if it stays")
	}
	if before == nil && run.trusting && holdsData(o) {
		return Change{Object: o, Action: Created}, nil
	}
	before, after, err := run.send(ctx, o, r, before)
	if run.options.DryRun && isMissingNamespace(err) && run.namespaces[o.GetNamespace()] {
		return run.unchecked(ctx, o, "its namespace"), nil
	}
	if err != nil {
		return Change{}, err
	}
	change := Change{Object: o, Before: before, After: after, Action: run.action(before, after)}
	if run.options.DryRun {
		return change, nil
	}
	o.applied = after
	if isDefinition(o) {
		return change, run.client.awaitDefinition(ctx, o)
	}
	return change, nil
}

// send applies an object unless it is live as it should be, and returns it as it was and as it is.
func (run *applyRun) send(ctx context.Context, o *Object, r resource, before *unstructured.Unstructured) (was, is *unstructured.Unstructured, err error) {
	api := run.client.of(r, o.GetNamespace())
	sent := withoutServerFields(o.Unstructured)
	options := metav1.ApplyOptions{FieldManager: run.options.FieldManager, Force: run.options.Force}
	if run.options.DryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	for try := 1; ; try++ {
		if before != nil && isApplied(sent.Object, before, run.options.FieldManager) {
			return before, before, nil
		}
		if run.claim != nil && !run.options.DryRun {
			// Only what was there when the claim was looked at last is changed: whoever has taken it over since, and has changed
			// the object, is not overwritten.
			if before != nil {
				sent.SetResourceVersion(before.GetResourceVersion())
			}
			if err := run.claim.check(ctx); err != nil {
				return before, nil, err
			}
		}
		var after *unstructured.Unstructured
		err := run.client.retry(ctx, func() (err error) {
			after, err = api.Apply(ctx, o.GetName(), sent, options)
			if sent.GetResourceVersion() != "" && isModified(err) {
				return &modifiedError{err} // the same again would fail again
			}
			return err
		})
		var modified *modifiedError
		switch {
		case err == nil:
			return before, after, nil
		case !errors.As(err, &modified) || try == retries:
			return before, nil, run.client.explain(ctx, err, "patch", r, o.GetNamespace())
		}
		if run.claim != nil {
			run.claim.doubt()
		}
		if before, err = run.client.get(ctx, o.GetName(), r, o.GetNamespace()); err != nil {
			return before, nil, err
		}
		sent.SetResourceVersion("")
	}
}

// isModified reports whether a write came too late for the version that it was for.
func isModified(err error) bool {
	return apierrors.IsConflict(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict)
}

// modifiedError is an error of isModified that is not tried again as it is.
type modifiedError struct{ err error }

func (e *modifiedError) Error() string { return e.err.Error() }

// holdsData reports whether an object is new configuration, in which the server has nothing to find wrong.
func holdsData(o *Object) bool {
	gk := o.GroupVersionKind().GroupKind()
	return gk == schema.GroupKind{Kind: "ConfigMap"} || gk == schema.GroupKind{Kind: "Secret"}
}

// unchecked is the change of a dry run that the server cannot answer.
func (run *applyRun) unchecked(ctx context.Context, o *Object, missing string) Change {
	zerolog.Ctx(ctx).Warn().Str("object", o.String()).
		Msgf("not checked by the API server: %s is created by the same run", missing)
	return Change{Object: o, Action: Created}
}

// withoutServerFields returns a copy without the fields that a server refuses or ignores; manifests that were once read from a
// cluster have them.
func withoutServerFields(u *unstructured.Unstructured) *unstructured.Unstructured {
	sent := u.DeepCopy()
	delete(sent.Object, "status")
	if metadata, ok := sent.Object["metadata"].(map[string]any); ok {
		for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"} {
			delete(metadata, field)
		}
	}
	return sent
}

// action compares the live object from before and after. The resource version alone does not tell: the controllers' status
// moves it while a rollout goes on, and a dry run does not.
func (run *applyRun) action(before, after *unstructured.Unstructured) Action {
	switch {
	case before == nil:
		return Created
	case before == after || reflect.DeepEqual(run.ours(before), run.ours(after)):
		return Unchanged
	default:
		return Configured
	}
}

// ours returns an object without its status, and of its managed fields only ours.
func (run *applyRun) ours(u *unstructured.Unstructured) map[string]any {
	content := u.DeepCopy().Object
	delete(content, "status")
	metadata, _ := content["metadata"].(map[string]any)
	managers, _ := metadata["managedFields"].([]any)
	delete(metadata, "managedFields")
	delete(metadata, "resourceVersion")
	for _, m := range managers {
		manager, _ := m.(map[string]any)
		if manager["manager"] == run.options.FieldManager && manager["operation"] == "Apply" && manager["subresource"] == nil {
			metadata["managedFields"] = manager["fieldsV1"]
		}
	}
	return content
}
