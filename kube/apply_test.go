package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/grimoire-build/grimoire/kube"
)

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: pay}
spec:
  replicas: 2
  selector: {matchLabels: {app: pay}}
  template: {metadata: {labels: {app: pay}}, spec: {containers: [{name: pay, image: pay, readinessProbe: {tcpSocket: {port: 80}}}]}}
`

const payPath = "/apis/apps/v1/namespaces/shop/deployments/pay"

func actions(changes []kube.Change) []string {
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	return got
}

// server is what the cases ask that run on the server of these tests and on a real one.
type server interface {
	connect(namespace string) *kube.Client
	// live returns an object by its path.
	live(path string) *unstructured.Unstructured
	// list returns the objects of a collection.
	list(path string) []unstructured.Unstructured
	// name is the namespace that the case has to itself.
	name() string
}

func onEachServer(t *testing.T, cases func(t *testing.T, s server)) {
	t.Helper()
	t.Run("in process", func(t *testing.T) { cases(t, newAPIServer(t)) })
	t.Run("real", func(t *testing.T) { cases(t, newCluster(t)) })
}

func TestApply(t *testing.T) { onEachServer(t, apply) }

func apply(t *testing.T, s server) {
	client := s.connect(s.name())
	// What is in no namespace is seen by all cases.
	role, other := s.name()+"-pay", s.name()+"-other"
	objects := load(t, deployment+`---
{apiVersion: v1, kind: Service, metadata: {name: pay}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: b, uid: x, resourceVersion: "1", creationTimestamp: null, managedFields: []}, data: {a: "1"}, status: {x: y}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: `+role+`}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: `+role+`, namespace: default}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: `+other+`}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, namespace: `+other+`}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: migrate, image: pay}]}}}
`)
	given := slices.Clone(objects)
	changes, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"Namespace/" + other + " created", "ClusterRole/" + role + " created", "ConfigMap/b created", "ConfigMap/" + role + " created",
		"Service/pay created", "Deployment/pay created", "Job/migrate created",
	}, actions(changes))
	assert.Equal(t, given, objects, "the order of the caller's objects is theirs")
	pay := "/apis/apps/v1/namespaces/" + s.name() + "/deployments/pay"
	assert.Equal(t, s.name(), s.live(pay).GetNamespace())
	assert.Equal(t, s.name(), objects[0].GetNamespace(), "for Wait")
	assert.Equal(t, role, s.live("/api/v1/namespaces/default/configmaps/"+role).GetName(), "a namespace that is stated is kept")
	assert.NotContains(t, s.live("/api/v1/namespaces/"+s.name()+"/configmaps/b").Object, "status")
	assert.Equal(t, "1", changes[2].After.Object["data"].(map[string]any)["a"])
	assert.Nil(t, changes[2].Before)

	// A rollout goes on: its status must not look like a change.
	if s, ok := s.(*apiServer); ok {
		s.setStatus(pay, "replicas: 1")
	}
	changes, err = client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	for _, c := range changes {
		assert.Equal(t, kube.Unchanged, c.Action, "%s", c)
	}

	require.NoError(t, unstructured.SetNestedField(objects[0].Object, int64(3), "spec", "replicas"))
	changes, err = client.Apply(t.Context(), objects[:1], kube.ApplyOptions{DryRun: true})
	require.NoError(t, err)
	assert.Equal(t, []string{"Deployment/pay configured"}, actions(changes))
	replicas, _, _ := unstructured.NestedInt64(s.live(pay).Object, "spec", "replicas")
	assert.EqualValues(t, 2, replicas, "a dry run changes nothing")

	changes, err = client.Apply(t.Context(), objects[:1], kube.ApplyOptions{})
	require.NoError(t, err)
	assert.Equal(t, []string{"Deployment/pay configured"}, actions(changes))
	changes, err = client.Apply(t.Context(), objects[:1], kube.ApplyOptions{DryRun: true})
	require.NoError(t, err)
	assert.Equal(t, []string{"Deployment/pay unchanged"}, actions(changes))
}

// The status moves between the read and the write of an object that a rollout is going on for.
func TestApplyUnchangedWhileTheStatusMoves(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	// What is null can only be judged by the server.
	objects := load(t, strings.Replace(deployment, "replicas: 2", "replicas: 2\n  paused: null", 1))
	_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	patched := false
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			patched = true
			s.setStatus(payPath, "replicas: 1")
		}
		return false
	})
	changes, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	assert.True(t, patched)
	assert.Equal(t, []string{"Deployment/pay unchanged"}, actions(changes))
}

func TestApplyKeepsWhatOthersOwn(t *testing.T) { onEachServer(t, applyKeepsWhatOthersOwn) }

func applyKeepsWhatOthersOwn(t *testing.T, s server) {
	client := s.connect(s.name())
	other := load(t, strings.NewReplacer("{name: pay}\n", "{name: pay, annotations: {mesh: \"on\"}}\n", "replicas: 2", "replicas: 7").Replace(deployment))
	_, err := client.Apply(t.Context(), other, kube.ApplyOptions{FieldManager: "autoscaler"})
	require.NoError(t, err)

	objects := load(t, deployment)
	_, err = client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.ErrorContains(t, err, fmt.Sprintf(`applying Deployment/pay (%s): conflict with "autoscaler" of .spec.replicas; remove these `+
		"fields from the manifest, or apply with force to take them over", objects[0].Source))

	_, err = client.Apply(t.Context(), objects, kube.ApplyOptions{Force: true})
	require.NoError(t, err)
	pay := s.live("/apis/apps/v1/namespaces/" + s.name() + "/deployments/pay")
	assert.Equal(t, "on", pay.GetAnnotations()["mesh"])
	replicas, _, _ := unstructured.NestedInt64(pay.Object, "spec", "replicas")
	assert.EqualValues(t, 2, replicas)
}

// definition is of the kind Till in a group.
const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: tills.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: Till, plural: tills, singular: till, listKind: TillList}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
{apiVersion: %[1]s/v1, kind: Till, metadata: {name: one}}
`

func TestApplyDefinition(t *testing.T) { onEachServer(t, applyDefinition) }

func applyDefinition(t *testing.T, s server) {
	client := s.connect(s.name())
	group := s.name() + ".example.org"
	objects := load(t, fmt.Sprintf(definition, group))
	var log bytes.Buffer
	ctx := zerolog.New(zerolog.SyncWriter(&log)).WithContext(t.Context())
	changes, err := client.Apply(ctx, objects, kube.ApplyOptions{DryRun: true})
	require.NoError(t, err)
	assert.Equal(t, []string{"CustomResourceDefinition/tills." + group + " created", "Till/one created"}, actions(changes))
	assert.Nil(t, changes[1].After)
	assert.Contains(t, log.String(), "not checked by the API server: its kind is created by the same run")

	changes, err = client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	assert.Equal(t, []string{"CustomResourceDefinition/tills." + group + " created", "Till/one created"}, actions(changes))
	assert.Equal(t, "one", s.live("/apis/"+group+"/v1/namespaces/"+s.name()+"/tills/one").GetName())
}

func TestApplyDryRunInANewNamespace(t *testing.T) { onEachServer(t, applyDryRunInANewNamespace) }

func applyDryRunInANewNamespace(t *testing.T, s server) {
	name := s.name() + "-new"
	objects := load(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: "+name+"}}\n")
	changes, err := s.connect(s.name()).Apply(t.Context(), objects, kube.ApplyOptions{DryRun: true})
	require.NoError(t, err)
	assert.Equal(t, []string{"Namespace/" + name + " created", "ConfigMap/a created"}, actions(changes))
}

func TestApplyUnknownKindBeforeAnything(t *testing.T) {
	onEachServer(t, applyUnknownKindBeforeAnything)
}

func applyUnknownKindBeforeAnything(t *testing.T, s server) {
	for content, want := range map[string][]string{
		"{apiVersion: apps/v1, kind: Deploymnt, metadata: {name: x}}": {"the cluster knows no kind Deploymnt in apps/v1, only", "Deployment", "StatefulSet", "; install"},
		"{apiVersion: apps/v9, kind: Deployment, metadata: {name: x}}": {"the cluster does not know apps/v9; install what defines it, or " +
			"mend its apiVersion and kind"},
	} {
		objects := load(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n"+content)
		changes, err := s.connect(s.name()).Apply(t.Context(), objects, kube.ApplyOptions{})
		for _, want := range want {
			require.ErrorContains(t, err, want)
		}
		assert.ErrorContains(t, err, objects[1].Source.String())
		assert.Empty(t, changes)
		if s, ok := s.(*apiServer); ok {
			for _, request := range s.seen() {
				assert.NotContains(t, request, "PATCH")
			}
		}
	}
}

func TestApplyErrors(t *testing.T) {
	on := func(method string, f func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != method || !strings.HasSuffix(r.URL.Path, "/pay") {
				return false
			}
			f(w)
			return true
		}
	}
	tests := []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request) bool
		want  []string
	}{
		{"may not patch", on("PATCH", func(w http.ResponseWriter) {
			fail(w, 403, "Forbidden", `deployments.apps "pay" is forbidden: User "ci" cannot patch resource "deployments"`, nil)
		}), []string{`User "ci" cannot patch`, "; let the login patch deployments.apps in the namespace shop"}},
		{"may not get", on("GET", func(w http.ResponseWriter) {
			fail(w, 403, "Forbidden", `deployments.apps "pay" is forbidden: User "ci" cannot get resource "deployments"`, nil)
		}), []string{"looking up Deployment/pay", "; let the login get deployments.apps in the namespace shop"}},
		{"quota", on("PATCH", func(w http.ResponseWriter) {
			fail(w, 403, "Forbidden", `deployments.apps "pay" is forbidden: exceeded quota: small`, nil)
		}), []string{"exceeded quota: small"}},
		{"login refused", on("PATCH", func(w http.ResponseWriter) { fail(w, 401, "Unauthorized", "Unauthorized", nil) }),
			[]string{"refuses the login: Unauthorized; renew the credentials in the kubeconfig"}},
		{"internal error", on("PATCH", func(w http.ResponseWriter) { fail(w, 500, "InternalError", "etcd is on fire", nil) }),
			[]string{"etcd is on fire"}},
		{"immutable", on("PATCH", func(w http.ResponseWriter) {
			fail(w, 422, "Invalid", `Deployment "pay" is invalid: spec.selector: field is immutable`, nil)
		}), []string{"field is immutable; delete the live object first, or give the new one another name"}},
		{"no API server", on("PATCH", func(w http.ResponseWriter) { w.WriteHeader(502); fmt.Fprint(w, "<html>bad gateway") }), []string{"bad gateway"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newAPIServer(t)
			s.setFault(tt.fault)
			objects := load(t, deployment+"---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n")
			changes, err := s.connect("shop").Apply(t.Context(), objects, kube.ApplyOptions{})
			require.ErrorContains(t, err, fmt.Sprintf("Deployment/pay (%s): ", objects[0].Source))
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "secret-token")
			if strings.HasPrefix(err.Error(), "looking up") {
				assert.Empty(t, changes, "nothing is applied to what cannot be seen")
				return
			}
			assert.Equal(t, []string{"ConfigMap/a created"}, actions(changes), "what was done up to then")
		})
	}
}

func TestApplyMissingNamespace(t *testing.T) {
	_, err := newAPIServer(t).connect("nowhere").Apply(t.Context(), load(t, deployment), kube.ApplyOptions{})
	require.ErrorContains(t, err, `namespaces "nowhere" not found; create the namespace, or add it to the manifests`)
}

func TestApplyToWhatIsBeingDeleted(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	objects := load(t, deployment)
	_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	s.set(payPath, func(content map[string]any) {
		content["metadata"].(map[string]any)["deletionTimestamp"] = "2020-01-01T00:00:00Z"
	})
	_, err = client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.ErrorContains(t, err, "it is being deleted; apply it again when it is gone")
}

func TestApplyTriesAgain(t *testing.T) {
	s := newAPIServer(t)
	var patches, gets atomic.Int32
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == http.MethodGet && r.URL.Path == "/apis/apps/v1" && gets.Add(1) == 1:
			fail(w, 503, "ServiceUnavailable", "starting", nil)
		case r.Method == http.MethodPatch && patches.Add(1) == 1:
			fail(w, 409, "Conflict", "the object has been modified", nil)
		case r.Method == http.MethodPatch && patches.Load() == 2:
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	})
	changes, err := s.connect("shop").Apply(t.Context(), load(t, deployment), kube.ApplyOptions{})
	require.NoError(t, err)
	assert.Equal(t, []string{"Deployment/pay created"}, actions(changes))
	assert.EqualValues(t, 3, patches.Load())
}

// An API server that restarts is away for longer than one that is busy.
func TestApplyThroughARestart(t *testing.T) {
	s := newAPIServer(t)
	var mu sync.Mutex
	var back time.Time
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			mu.Lock()
			if back.IsZero() {
				back = time.Now().Add(8 * time.Second)
			}
			away := time.Now().Before(back)
			mu.Unlock()
			if away {
				panic(http.ErrAbortHandler)
			}
		}
		return false
	})
	changes, err := s.connect("shop").Apply(t.Context(), load(t, deployment), kube.ApplyOptions{})
	require.NoError(t, err)
	assert.Equal(t, []string{"Deployment/pay created"}, actions(changes))
}

func TestApplyGivesUp(t *testing.T) {
	s := newAPIServer(t)
	var patches atomic.Int32
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		patches.Add(1)
		fail(w, 503, "ServiceUnavailable", "the webhook is not up", nil)
		return true
	})
	_, err := s.connect("shop").Apply(t.Context(), load(t, deployment), kube.ApplyOptions{})
	require.ErrorContains(t, err, "the webhook is not up")
	assert.EqualValues(t, 5, patches.Load())
}

func TestApplyCancelled(t *testing.T) {
	s := newAPIServer(t)
	cause := fmt.Errorf("the job was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			cancel(cause)
			<-r.Context().Done()
		}
		return false
	})
	_, err := s.connect("shop").Apply(ctx, load(t, deployment), kube.ApplyOptions{})
	require.ErrorIs(t, err, cause)
}

func TestServerWarningsAreLogged(t *testing.T) {
	s := newAPIServer(t)
	s.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Warning", `299 - "apps/v1 is deprecated"`)
		return false
	})
	var log bytes.Buffer
	_, err := s.connect("shop").Apply(zerolog.New(zerolog.SyncWriter(&log)).WithContext(t.Context()), load(t, deployment), kube.ApplyOptions{})
	require.NoError(t, err)
	assert.Contains(t, log.String(), "the API server warns: apps/v1 is deprecated")
}

func TestKindsAreAskedForOnce(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	for range 2 {
		_, err := client.Apply(t.Context(), load(t, deployment), kube.ApplyOptions{})
		require.NoError(t, err)
	}
	asked := 0
	for _, request := range s.seen() {
		if request == "GET /apis/apps/v1" {
			asked++
		}
	}
	assert.Equal(t, 1, asked)
}
