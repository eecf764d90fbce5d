package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// keptKinds are never pruned: with them goes what nobody can apply again.
var keptKinds = []schema.GroupKind{
	{Kind: "Namespace"},
	{Kind: "PersistentVolume"},
	{Kind: "PersistentVolumeClaim"},
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
}

// member is a live object of the set, and how to speak to it.
type member struct {
	*unstructured.Unstructured
	resource
}

func (m member) String() string { return m.GetKind() + "/" + m.GetName() }

// identity is what makes an object the same one, in whatever version it is written.
type identity struct {
	schema.GroupKind
	namespace, name string
}

func identityOf(u *unstructured.Unstructured) identity {
	return identity{u.GroupVersionKind().GroupKind(), u.GetNamespace(), u.GetName()}
}

// removed returns the live objects that an earlier deployment has applied and that are not declared any more, those first that
// others need last. Only what has the set's label from our own apply counts: a copy that somebody has made with all its
// labels is theirs, and so is what a controller has made after its owner. With them come the kinds and namespaces that the login may
// not look into.
func (c *Client) removed(ctx context.Context, k *claim, declared []*Object) ([]member, members, error) {
	unseen := membersOf(nil)
	wanted := make(map[identity]bool, len(declared))
	for _, o := range declared {
		wanted[identityOf(o.Unstructured)] = true
	}
	type place struct {
		resource
		kind      schema.GroupKind
		namespace string
	}
	var places []place
	known := k.members()
	for gk := range known.kinds {
		r, err := c.resourceOf(ctx, gk)
		switch {
		case err != nil:
			return nil, unseen, err
		case r == nil: // its definition is gone, and all of its objects with it
		case !r.namespaced:
			places = append(places, place{*r, gk, ""})
		default:
			for namespace := range known.namespaces {
				places = append(places, place{*r, gk, namespace})
			}
		}
	}
	var mu sync.Mutex
	var found []member
	err := each(len(places), func(i int) error {
		p := places[i]
		err := c.list(ctx, p.resource, p.namespace, metav1.ListOptions{LabelSelector: setMemberLabel + "=" + k.setID()}, func(u *unstructured.Unstructured) {
			if wanted[identityOf(u)] || u.GetDeletionTimestamp() != nil || !isOurMember(u) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, member{u, p.resource})
		})
		if isDenied(err) { // the warning about permissions has told
			mu.Lock()
			defer mu.Unlock()
			unseen.add(p.kind, p.namespace)
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking for what is no longer declared: %w", c.explain(ctx, err, "list", p.resource, p.namespace))
		}
		return nil
	})
	slices.SortFunc(found, func(a, b member) int {
		return cmp.Or(rankOf(b.GetKind())-rankOf(a.GetKind()), cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.String(), b.String()))
	})
	return found, unseen, err
}

// isOurMember reports whether the set's label is of our own apply, and no controller owns the object.
func isOurMember(u *unstructured.Unstructured) bool {
	if metav1.GetControllerOfNoCopy(u) != nil {
		return false
	}
	// In whatever version it was applied: the one that it is listed in need not be that.
	return slices.ContainsFunc(appliedFields(u, defaultFieldManager), func(a applied) bool {
		fields := a.fields
		for _, name := range []string{"f:metadata", "f:labels", "f:" + setMemberLabel} {
			below, ok := fields[name].(map[string]any)
			if !ok {
				return false
			}
			fields = below
		}
		return true
	})
}

// resourceOf finds the resource of a kind whose version is not known; nil where the server has it no more.
func (c *Client) resourceOf(ctx context.Context, gk schema.GroupKind) (*resource, error) {
	versions := []string{"v1"}
	if gk.Group != "" {
		var data []byte
		err := c.retry(ctx, func() (err error) {
			data, err = c.rest.Get().AbsPath("/apis", gk.Group).Do(ctx).Raw()
			return err
		})
		switch {
		case apierrors.IsNotFound(err):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("asking %s for the versions of %s: %w", c.host, gk.Group, c.explain(ctx, err, "get", resource{}, ""))
		}
		var group metav1.APIGroup
		if err := json.Unmarshal(data, &group); err != nil {
			return nil, fmt.Errorf("asking %s for the versions of %s: its answer is none of an API server: %w", c.host, gk.Group, err)
		}
		versions = []string{group.PreferredVersion.Version}
		for _, v := range group.Versions {
			if v.Version != group.PreferredVersion.Version {
				versions = append(versions, v.Version)
			}
		}
	}
	for _, version := range versions {
		r, err := c.resource(ctx, gk.WithVersion(version))
		if err == nil {
			return &r, nil
		}
		var unknown *unknownKindError
		if !errors.As(err, &unknown) {
			return nil, err
		}
	}
	return nil, nil
}

// prune deletes what is no longer declared, one rank after the other, and returns what it has deleted. What it may not delete by
// itself, or by its login, it leaves, with a warning.
func (c *Client) prune(ctx context.Context, k *claim, removed []member) (deleted []*Object, left []member, err error) {
	for _, m := range removed {
		gk := m.GroupVersionKind().GroupKind()
		if slices.Contains(keptKinds, gk) {
			zerolog.Ctx(ctx).Warn().Str("object", m.String()).Msg("no longer declared, and kept, since what is in it would be lost; " +
				"delete it by hand if that is meant")
			left = append(left, m)
			continue
		}
		if err := k.check(ctx); err != nil {
			return deleted, left, err
		}
		err := c.delete(ctx, m)
		if isDenied(err) {
			zerolog.Ctx(ctx).Warn().Err(err).Str("object", m.String()).Msg("no longer declared, and kept, since the login may not delete it")
			left = append(left, m)
			continue
		}
		if err != nil {
			return deleted, left, fmt.Errorf("deleting %s, which is no longer declared: %w", m, err)
		}
		zerolog.Ctx(ctx).Debug().Str("object", m.String()).Str("namespace", m.GetNamespace()).Msg("deleted")
		deleted = append(deleted, &Object{Unstructured: m.Unstructured})
	}
	return deleted, left, nil
}

// delete deletes an object as it was found, and lets its dependents go with it. That it is gone, or that another one bears its
// name, is as good.
func (c *Client) delete(ctx context.Context, m member) error {
	uid, background := m.GetUID(), metav1.DeletePropagationBackground
	err := c.retry(ctx, func() error {
		err := c.of(m.resource, m.GetNamespace()).Delete(ctx, m.GetName(), metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &background,
		})
		if apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return c.explain(ctx, err, "delete", m.resource, m.GetNamespace())
}
