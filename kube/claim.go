package kube

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What a release has applied is known by Kubernetes' own conventions for sets of applied objects, the ApplySet specification
// (KEP-3659): its objects have a label with the set's ID, and a parent, here a ConfigMap, has the ID, the kinds, and the namespaces
// other than its own. Kinds are added before the first object of theirs is applied, and removed after the last one is gone, so
// that a run that is interrupted leaves too many of them, never too few.
const (
	setIDLabel              = "applyset.kubernetes.io/id"
	setMemberLabel          = "applyset.kubernetes.io/part-of"
	setToolAnnotation       = "applyset.kubernetes.io/tooling"
	setKindsAnnotation      = "applyset.kubernetes.io/contains-group-kinds"
	setNamespacesAnnotation = "applyset.kubernetes.io/additional-namespaces"

	setTool = "grimoire/v1.0"
)

// setID is the ID of the set whose parent is a ConfigMap, as the specification derives it.
func setID(parent, namespace string) string {
	sum := sha256.Sum256([]byte(parent + "." + namespace + ".ConfigMap."))
	return "applyset-" + base64.RawURLEncoding.EncodeToString(sum[:]) + "-v1"
}

// Phase is how far a deployment has come.
type Phase string

// The phases. Applying that no process goes on with is an interrupted deployment, which the next one takes over.
const (
	Applying   Phase = "applying"
	Live       Phase = "live"
	Undone     Phase = "rolled back"
	Unfinished Phase = "failed"
)

// Record is what the cluster remembers of the last deployment of a release.
type Record struct {
	// ID is another one for each deployment.
	ID    string `json:"id"`
	Phase Phase  `json:"phase"`
	// Image is the one that is deployed, by digest; empty where none was named, or where it was rolled back to what is not remembered.
	Image string `json:"image,omitempty"`
	// Commit is the source's; empty as Image is, and where it is not known.
	Commit string `json:"commit,omitempty"`
	// Began is when it was begun, in Unix seconds by the clock of who deploys.
	Began int64 `json:"began"`
	// Revision is the number of the good revision that is live after it; zero before there is one.
	Revision int `json:"revision,omitempty"`
	// Manifests is the SHA-256 of what is live, in hexadecimal; empty before something is.
	Manifests string `json:"manifests,omitempty"`
}

// SupersededError says that another deployment of the same release began later, and decides what is live.
type SupersededError struct{ By Record }

// Error names the image that is deployed instead.
func (e *SupersededError) Error() string {
	what := ""
	if e.By.Image != "" {
		what = " of " + e.By.Image
	}
	return fmt.Sprintf("another deployment%s began at %s and has taken over; what is live is up to that one", what,
		time.Unix(e.By.Began, 0).UTC().Format(time.RFC3339))
}

// claim is the turn to change a release. It is no lock: the next deployment takes it over at once, whether this one still runs
// or died long ago, and this one then stops. What it writes to the cluster is bound to the versions it has seen, so that nothing
// of a later deployment is overwritten.
type claim struct {
	client  *Client
	release string
	id      string

	mu      sync.Mutex
	parent  *unstructured.Unstructured // nil where there is none yet
	checked time.Time
}

// claimTime is how long a claim is relied on without looking. The deployment that took it over waits longer than that until it
// looks for what the former one may still have changed.
const claimTime = time.Second

var configMaps = resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, namespaced: true}

func parentName(release string) string { return "grimoire-" + release }

// readClaim reads what there is of a release.
func (c *Client) readClaim(ctx context.Context, release string) (*claim, error) {
	k := &claim{client: c, release: release, id: rand.Text()}
	parent, err := c.get(ctx, parentName(release), configMaps, c.namespace)
	if err != nil {
		return nil, err
	}
	if parent != nil && parent.GetLabels()[setIDLabel] != k.setID() {
		return nil, fmt.Errorf("the ConfigMap %s in the namespace %s is where the release would be remembered, and it is somebody else's; "+
			"remove it, or give the service another name", parent.GetName(), c.namespace)
	}
	k.parent = parent
	return k, nil
}

func (k *claim) setID() string { return setID(parentName(k.release), k.client.namespace) }

// isNew reports whether the release is not known yet.
func (k *claim) isNew() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.parent == nil
}

// record is what is known of the last deployment; zero where there was none.
func (k *claim) record() Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return recordOf(k.parent)
}

func recordOf(parent *unstructured.Unstructured) Record {
	var r Record
	if parent != nil {
		text, _, _ := unstructured.NestedString(parent.Object, "data", "deployment")
		_ = json.Unmarshal([]byte(text), &r) // what cannot be read is as good as nothing
	}
	return r
}

// hooks are the images for which each hook has been run to its end, the oldest first, by the hook's name.
func (k *claim) hooks() map[string][]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return hooksOf(k.parent)
}

// mostHooks is for how many images it is remembered that a hook has run: more than anybody goes back.
const mostHooks = 100

func hooksOf(parent *unstructured.Unstructured) map[string][]string {
	hooks := make(map[string][]string)
	if parent != nil {
		text, _, _ := unstructured.NestedString(parent.Object, "data", "hooks")
		_ = json.Unmarshal([]byte(text), &hooks)
	}
	return hooks
}

// members are the kinds and the namespaces that objects of a set are of.
type members struct {
	kinds      map[schema.GroupKind]bool
	namespaces map[string]bool
}

func membersOf(objects []*Object) members {
	m := members{make(map[schema.GroupKind]bool), make(map[string]bool)}
	for _, o := range objects {
		m.add(o.GroupVersionKind().GroupKind(), o.GetNamespace())
	}
	return m
}

func (m members) add(kind schema.GroupKind, namespace string) {
	m.kinds[kind] = true
	if namespace != "" {
		m.namespaces[namespace] = true
	}
}

// members are those that the parent knows of.
func (k *claim) members() members {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := members{make(map[schema.GroupKind]bool), map[string]bool{k.client.namespace: true}}
	if k.parent == nil {
		return m
	}
	annotations := k.parent.GetAnnotations()
	for kind := range strings.SplitSeq(annotations[setKindsAnnotation], ",") {
		if kind != "" {
			m.kinds[schema.ParseGroupKind(kind)] = true
		}
	}
	for namespace := range strings.SplitSeq(annotations[setNamespacesAnnotation], ",") {
		if namespace != "" {
			m.namespaces[namespace] = true
		}
	}
	return m
}

func (m members) with(other members) members {
	both := members{maps.Clone(m.kinds), maps.Clone(m.namespaces)}
	maps.Copy(both.kinds, other.kinds)
	maps.Copy(both.namespaces, other.namespaces)
	return both
}

// write notes the members in the parent's annotations.
func (m members) write(parent *unstructured.Unstructured) {
	var kinds, namespaces []string
	for kind := range m.kinds {
		kinds = append(kinds, kind.String())
	}
	for namespace := range m.namespaces {
		if namespace != parent.GetNamespace() {
			namespaces = append(namespaces, namespace)
		}
	}
	slices.Sort(kinds)
	slices.Sort(namespaces)
	annotations := parent.GetAnnotations()
	if annotations == nil {
		annotations = make(map[string]string)
	}
	annotations[setToolAnnotation] = setTool
	annotations[setKindsAnnotation] = strings.Join(kinds, ",")
	annotations[setNamespacesAnnotation] = strings.Join(namespaces, ",")
	if len(namespaces) == 0 {
		delete(annotations, setNamespacesAnnotation)
	}
	parent.SetAnnotations(annotations)
}

// take makes this deployment the one that decides, and has the parent know of what it will apply. It reports whether another one
// was at it, and may still be.
func (k *claim) take(ctx context.Context, r Record, m members) (contested bool, err error) {
	r.ID, r.Phase = k.id, Applying
	for try := 1; ; try++ {
		before := k.record()
		contested = contested || before.Phase == Applying
		r.Revision, r.Manifests = before.Revision, before.Manifests
		next := k.next()
		k.members().with(m).write(next)
		setJSON(next, "deployment", r)
		err := k.put(ctx, next)
		switch {
		case err == nil:
			return contested, nil
		case !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) || try == maxPushes:
			return contested, err
		}
		if err := k.read(ctx); err != nil {
			return contested, err
		}
		if k.record().ID == k.id {
			return contested, nil // it had arrived
		}
	}
}

// update changes the parent, as long as the claim is ours.
func (k *claim) update(ctx context.Context, change func(parent *unstructured.Unstructured)) error {
	for try := 1; ; try++ {
		k.doubt()
		if err := k.check(ctx); err != nil {
			return err
		}
		next := k.next()
		change(next)
		err := k.put(ctx, next)
		if err == nil || !apierrors.IsConflict(err) || try == retries {
			return err
		}
	}
}

// next returns a copy of the parent to change, or a new one.
func (k *claim) next() *unstructured.Unstructured {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.parent != nil {
		return k.parent.DeepCopy()
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": parentName(k.release), "namespace": k.client.namespace, "labels": map[string]any{setIDLabel: k.setID()},
		},
	}}
}

func setJSON(parent *unstructured.Unstructured, name string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // only of our own types
	}
	_ = unstructured.SetNestedField(parent.Object, string(text), "data", name)
}

// put writes the parent, if it is still of the version that it was read at.
func (k *claim) put(ctx context.Context, next *unstructured.Unstructured) error {
	api := k.client.of(configMaps, k.client.namespace)
	verb := "update"
	var written *unstructured.Unstructured
	err := k.client.retry(ctx, func() (err error) {
		if next.GetResourceVersion() == "" {
			verb = "create"
			written, err = api.Create(ctx, next, metav1.CreateOptions{FieldManager: defaultFieldManager})
		} else {
			written, err = api.Update(ctx, next, metav1.UpdateOptions{FieldManager: defaultFieldManager})
		}
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			return &modifiedError{err}
		}
		return err
	})
	var modified *modifiedError
	if errors.As(err, &modified) {
		return modified.err
	}
	if err != nil {
		return fmt.Errorf("noting the deployment in ConfigMap/%s: %w", next.GetName(),
			k.client.explain(ctx, err, verb, configMaps, k.client.namespace))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parent, k.checked = written, time.Now()
	return nil
}

func (k *claim) read(ctx context.Context) error {
	parent, err := k.client.get(ctx, parentName(k.release), configMaps, k.client.namespace)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parent, k.checked = parent, time.Now()
	return nil
}

// check returns a SupersededError once another deployment has taken over.
func (k *claim) check(ctx context.Context) error {
	k.mu.Lock()
	fresh := time.Since(k.checked) < claimTime
	k.mu.Unlock()
	if fresh {
		return nil
	}
	if err := k.read(ctx); err != nil {
		return err
	}
	if r := k.record(); r.ID != k.id {
		return &SupersededError{By: r}
	}
	return nil
}

// doubt has the next check look.
func (k *claim) doubt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checked = time.Time{}
}

// guard returns a context that ends when the claim is lost, for the time of a long wait.
func (k *claim) guard(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for sleep(ctx, claimTime) {
			var lost *SupersededError
			if err := k.check(ctx); errors.As(err, &lost) {
				cancel(err)
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}
