package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// kinds are the resources of one group and version, by kind.
type kinds map[string]metav1.APIResource

// unknownKindError says that the API server does not serve a kind.
type unknownKindError struct {
	gvk   schema.GroupVersionKind
	known []string // kinds of the group and version; none where the server has no such version either
}

// Error says what the server has instead.
func (e *unknownKindError) Error() string {
	cure := "install what defines it, or mend its apiVersion and kind"
	if len(e.known) == 0 {
		return fmt.Sprintf("the cluster does not know %s; %s", e.gvk.GroupVersion(), cure)
	}
	return fmt.Sprintf("the cluster knows no kind %s in %s, only %s; %s", e.gvk.Kind, e.gvk.GroupVersion(),
		strings.Join(e.known, ", "), cure)
}

// resource is how one object's kind is spoken to.
type resource struct {
	schema.GroupVersionResource
	namespaced bool
}

// String returns the name as errors and permissions have it: "deployments.apps".
func (r resource) String() string {
	return r.GroupResource().String()
}

// resource asks the API server what resource a kind is. It remembers what the server has, and asks again for what it did not
// have.
func (c *Client) resource(ctx context.Context, gvk schema.GroupVersionKind) (resource, error) {
	c.mu.Lock()
	found := c.kinds[gvk.GroupVersion()]
	c.mu.Unlock()
	if _, ok := found[gvk.Kind]; !ok {
		var err error
		if found, err = c.fetchKinds(ctx, gvk.GroupVersion()); err != nil {
			return resource{}, err
		}
		c.mu.Lock()
		c.kinds[gvk.GroupVersion()] = found
		c.mu.Unlock()
	}
	r, ok := found[gvk.Kind]
	if !ok {
		return resource{}, &unknownKindError{gvk: gvk, known: slices.Sorted(maps.Keys(found))}
	}
	return resource{GroupVersionResource: gvk.GroupVersion().WithResource(r.Name), namespaced: r.Namespaced}, nil
}

// fetchKinds lists a group and version; nothing where the server does not have it. The client that client-go has for this
// would compile every API group.
func (c *Client) fetchKinds(ctx context.Context, gv schema.GroupVersion) (kinds, error) {
	path := []string{"/apis", gv.Group, gv.Version}
	if gv.Group == "" {
		path = []string{"/api", gv.Version}
	}
	var data []byte
	err := c.retry(ctx, func() (err error) {
		data, err = c.rest.Get().AbsPath(path...).Do(ctx).Raw()
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("asking %s for the kinds of %s: %w", c.host, gv, c.explain(ctx, err, "get", resource{}, ""))
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("asking %s for the kinds of %s: its answer is none of an API server: %w; mend the server's "+
			"address in the kubeconfig", c.host, gv, err)
	}
	found := make(kinds, len(list.APIResources))
	for _, r := range list.APIResources {
		if !strings.Contains(r.Name, "/") { // no subresource
			found[r.Kind] = r
		}
	}
	return found, nil
}

// learnKinds asks for the kinds of all the objects' groups and versions at once. What it cannot learn is told by resource.
func (c *Client) learnKinds(ctx context.Context, objects []*Object) error {
	versions := make(map[schema.GroupVersion]bool)
	for _, o := range objects {
		versions[o.GroupVersionKind().GroupVersion()] = true
	}
	c.mu.Lock()
	maps.DeleteFunc(versions, func(gv schema.GroupVersion, _ bool) bool { return c.kinds[gv] != nil })
	c.mu.Unlock()
	unknown := slices.Collect(maps.Keys(versions))
	return each(len(unknown), func(i int) error {
		found, err := c.fetchKinds(ctx, unknown[i])
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kinds[unknown[i]] = found
		return nil
	})
}

// of returns the client for a resource in a namespace, which does not matter where the resource has none.
func (c *Client) of(r resource, namespace string) dynamic.ResourceInterface {
	if !r.namespaced {
		return c.dynamic.Resource(r.GroupVersionResource)
	}
	return c.dynamic.Resource(r.GroupVersionResource).Namespace(namespace)
}
