package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// HookAnnotation makes a Job a hook of the release: with the value HookBeforeRollout it runs to its end before any workload is
// changed, a migration of the database for example, and once for each image. It is applied under a name of its own for each
// image, the Job's with the beginning of the image's digest, since a Job cannot be changed. One that has failed is deleted and run
// again by the next deployment. Rolling back runs no hooks.
const (
	HookAnnotation    = "grimoire.build/hook"
	HookBeforeRollout = "before-rollout"
)

// hook is a Job to run before the workloads.
type hook struct {
	name   string // as it was declared
	image  string // that it is run for
	object *Object
}

var jobKind = schema.GroupKind{Group: "batch", Kind: "Job"}

// splitHooks takes the hooks out of the objects. It copies what it changes.
func splitHooks(objects []*Object, image string) (rest []*Object, hooks []hook, err error) {
	for _, o := range objects {
		when, ok := o.GetAnnotations()[HookAnnotation]
		switch {
		case !ok:
			rest = append(rest, o)
			continue
		case o.GroupVersionKind().GroupKind() != jobKind:
			return nil, nil, o.Source.errorf("%s has the annotation %s, and only a Job can be a hook; remove it", o, HookAnnotation)
		case when != HookBeforeRollout:
			return nil, nil, o.Source.errorf("the annotation %s of %s is %q; write %s, the only time there is", HookAnnotation, o, when, HookBeforeRollout)
		}
		h := hook{name: o.GetName(), image: image, object: &Object{Unstructured: o.DeepCopy(), Source: o.Source}}
		if h.image == "" { // then the Job itself says what is new
			_, h.image, err = manifests([]*Object{o})
			if err != nil {
				return nil, nil, err
			}
		}
		_, digest, ok := strings.Cut(h.image, "@sha256:")
		if !ok {
			sum := sha256.Sum256([]byte(h.image))
			digest = hex.EncodeToString(sum[:])
		}
		const suffix, maxName = 10, 63 // a Job's name becomes the value of a label
		name := h.name[:min(len(h.name), maxName-suffix-1)]
		h.object.SetName(strings.TrimRight(name, "-.") + "-" + digest[:suffix])
		hooks = append(hooks, h)
	}
	return rest, hooks, nil
}
