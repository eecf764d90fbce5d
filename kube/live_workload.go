package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// userKinds are the workloads that run an image.
var userKinds = []schema.GroupVersionKind{
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "batch", Version: "v1", Kind: "CronJob"},
	{Group: "batch", Version: "v1", Kind: "Job"},
}

// awaitUsers returns the workloads of the client's namespace that run the image's repository, and waits until there is one, unless
// agents have told that the commit is live.
func (c *Client) awaitUsers(ctx context.Context, image string, timeout time.Duration, told agents) ([]*follower, error) {
	deadline := time.Now().Add(timeout)
	for {
		found, denied, err := c.users(ctx, image)
		switch {
		case err != nil:
			return nil, fmt.Errorf("waiting for the commit: %w", err)
		case len(found) > 0:
			if len(denied) > 0 {
				zerolog.Ctx(ctx).Warn().Err(&PermissionError{Missing: denied}).Msg("whether more runs the image is not known")
			}
			return found, nil
		case told.tellHealth:
			return nil, nil
		case len(denied) == 2*len(userKinds):
			missing := &PermissionError{User: c.user(ctx), Missing: denied}
			return nil, fmt.Errorf("waiting for the commit: whether it is live cannot be known: %w", missing)
		case len(told.followers) > 0:
			zerolog.Ctx(ctx).Warn().Msgf("the commit is applied; whether it runs is not known, since no workload in the namespace %s runs %s, and Flux was not told "+
				"to look; set wait: true in the Kustomization, or name the namespace", c.namespace, splitImage(image).repository())
			return nil, nil
		case time.Now().After(deadline):
			text := fmt.Sprintf("waiting for the commit: not current after %s: nothing brings the repository to the cluster as far as this login sees, and no workload in "+
				"the namespace %s runs %s; name the namespace that it is deployed to, or let the login list Applications or Kustomizations",
				timeout.Round(time.Second), c.namespace, splitImage(image).repository())
			if len(denied) > 0 {
				text += "; " + (&PermissionError{Missing: denied}).Error()
			}
			return nil, &explainedError{text: text, err: context.DeadlineExceeded}
		}
		if !sleep(ctx, min(time.Second, timeout)) {
			return nil, fmt.Errorf("waiting for the commit: %w", context.Cause(ctx))
		}
	}
}

// users finds the workloads of the client's namespace that run the image's repository, and what the login lacks to find them all.
func (c *Client) users(ctx context.Context, image string) (found []*follower, denied []Permission, err error) {
	status := func(u *unstructured.Unstructured) Result { return imageStatus(u, image) }
	for _, gvk := range userKinds {
		r, err := c.resource(ctx, gvk)
		var unknown *unknownKindError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		err = c.list(ctx, r, c.namespace, metav1.ListOptions{}, func(u *unstructured.Unstructured) {
			if isUser(u, image) {
				found = append(found, &follower{client: c, object: &Object{Unstructured: u}, status: status})
			}
		})
		if apierrors.IsForbidden(err) {
			for _, verb := range []string{"list", "watch"} {
				denied = append(denied, Permission{Verb: verb, Group: r.Group, Resource: r.Resource, Namespace: c.namespace})
			}
			continue
		}
		if err != nil {
			return nil, nil, c.explain(ctx, err, "list", r, c.namespace)
		}
	}
	return found, denied, nil
}

// isUser reports whether a workload runs the image's repository. A Job never changes, so that one of another image says nothing, and one of
// a CronJob is that one's.
func isUser(u *unstructured.Unstructured, image string) bool {
	if u.GetKind() == "Job" && metav1.GetControllerOf(u) != nil {
		return false
	}
	return slices.ContainsFunc(imagesOf(&Object{Unstructured: u}), func(f imageField) bool {
		is := f.image()
		return MatchImage(is, image) && (u.GetKind() != "Job" || splitImage(is).digest == splitImage(image).digest)
	})
}

// imageStatus is the status of a workload that is to run an image.
func imageStatus(u *unstructured.Unstructured, image string) Result {
	for _, f := range imagesOf(&Object{Unstructured: u}) {
		is := f.image()
		if MatchImage(is, image) && splitImage(is).digest != splitImage(image).digest {
			return inProgress("it runs %s, not yet %s", is, splitImage(image).digest)
		}
	}
	return Status(u)
}
