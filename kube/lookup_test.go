package kube_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/grimoire-build/grimoire/kube"
)

// managed is a Deployment with the fields that we have applied, as a server keeps them.
const managed = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: pay
  uid: 1-2-3
  labels: {app: pay, team: till}
  managedFields:
  - manager: kubectl
    operation: Apply
    apiVersion: apps/v1
    fieldsV1: {"f:metadata": {"f:labels": {"f:team": {}}}}
  - manager: grimoire
    operation: Apply
    apiVersion: apps/v1
    fieldsV1:
      "f:metadata": {"f:labels": {"f:app": {}}}
      "f:spec":
        "f:replicas": {}
        "f:selector": {}
        "f:template":
          "f:spec":
            "f:containers":
              'k:{"name":"pay"}':
                ".": {}
                "f:name": {}
                "f:image": {}
                "f:args": {}
                "f:ports":
                  'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:protocol": {}}
              'k:{"name":"side"}': {".": {}, "f:name": {}, "f:image": {}}
            "f:finalizers": {'v:"a"': {}, 'v:"b"': {}}
  - manager: grimoire
    operation: Update
    apiVersion: apps/v1
    subresource: status
    fieldsV1: {"f:status": {}}
spec:
  replicas: 2
  progressDeadlineSeconds: 600
  selector: {matchLabels: {app: pay}}
  template:
    spec:
      containers:
      - {name: mesh, image: mesh}
      - {name: pay, image: pay, args: [a, b], imagePullPolicy: Always, ports: [{containerPort: 80, protocol: TCP}]}
      - {name: side, image: side}
      finalizers: [b, x, a]
status: {replicas: 2}
`

const declared = `apiVersion: apps/v1
kind: Deployment
metadata: {name: pay, namespace: shop, labels: {app: pay}}
spec:
  replicas: 2
  selector: {matchLabels: {app: pay}}
  template:
    spec:
      containers:
      - {name: pay, image: pay, args: [a, b], ports: [{containerPort: 80, protocol: TCP}]}
      - {name: side, image: side}
      finalizers: [a, b]
`

func TestIsApplied(t *testing.T) {
	tests := []struct {
		name     string
		from, to string // replaced in what is declared
		live     bool   // or in what is live
		want     bool
	}{
		{name: "the same", want: true},
		{name: "a value", from: "replicas: 2", to: "replicas: 3"},
		{name: "a value of somebody else's choosing", from: "replicas: 2\n  progress", to: "replicas: 3\n  progress", live: true},
		{name: "a value of another type", from: "replicas: 2", to: `replicas: "2"`},
		{name: "a new field", from: "replicas: 2", to: "replicas: 2\n  paused: false"},
		{name: "a field that is live but another's", from: "labels: {app: pay}", to: "labels: {app: pay, team: till}"},
		{name: "a field no longer declared", from: "  replicas: 2\n", to: ""},
		{name: "a null", from: "replicas: 2", to: "replicas: null"},
		{name: "one value to the server", from: "matchLabels: {app: pay}", to: "matchLabels: {app: pay, x: y}"},
		{name: "a list that is one value", from: "args: [a, b]", to: "args: [b, a]"},
		{name: "an item's field", from: "image: pay,", to: "image: pay:2,"},
		{name: "an item no longer declared", from: "      - {name: side, image: side}\n", to: ""},
		{name: "a new item", from: "- {name: side", to: "- {name: new, image: new}\n      - {name: side"},
		{name: "items in another order", from: "- {name: pay, image: pay, args: [a, b], ports: [{containerPort: 80, protocol: TCP}]}\n      - {name: side, image: side}",
			to: "- {name: side, image: side}\n      - {name: pay, image: pay, args: [a, b], ports: [{containerPort: 80, protocol: TCP}]}"},
		{name: "an item that is live twice", from: "- {name: side, image: side}", to: "- {name: side, image: side}\n      - {name: side, image: side}", live: true},
		{name: "a key that the server has filled in", from: ", protocol: TCP}", to: "}"},
		{name: "a set's value", from: "[a, b]\n", to: "[a, c]\n"},
		{name: "a set with one less", from: "[a, b]\n", to: "[a]\n"},
		{name: "a set in another order", from: "finalizers: [a, b]", to: "finalizers: [b, a]", want: true},
		{name: "a set whose value is gone", from: "[b, x, a]", to: "[b, x]", live: true},
		{name: "another version", from: "apiVersion: apps/v1\nkind", to: "apiVersion: apps/v2\nkind"},
		{name: "fields of another version", from: "manager: grimoire\n    operation: Apply\n    apiVersion: apps/v1", to: "manager: grimoire\n    operation: Apply\n    apiVersion: apps/v1beta1", live: true},
		{name: "another manager", from: "manager: grimoire\n    operation: Apply", to: "manager: other\n    operation: Apply", live: true},
		{name: "nobody's fields", from: "managedFields:", to: "ignored:", live: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			live, sent := managed, declared
			text := &sent
			if tt.live {
				text = &live
			}
			require.Contains(t, *text, tt.from)
			*text = strings.Replace(*text, tt.from, tt.to, 1)
			assert.Equal(t, tt.want, kube.IsApplied(object(t, sent).Object, object(t, live)))
		})
	}
}

func TestIsAppliedWithoutAnyField(t *testing.T) {
	bare := object(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: pay, namespace: shop}}")
	assert.True(t, kube.IsApplied(bare.Object, object(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: pay, labels: {a: b}}}")))
	owned := object(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: pay, labels: {a: b}, managedFields: [
		{manager: grimoire, operation: Apply, apiVersion: v1, fieldsV1: {"f:metadata": {"f:labels": {"f:a": {}}}}}]}}`)
	assert.False(t, kube.IsApplied(bare.Object, owned), "a label is no longer declared")
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	require.NoError(t, err)
	u := &unstructured.Unstructured{}
	require.NoError(t, u.UnmarshalJSON(data))
	return u
}

// manyConfigMaps are n of them.
func manyConfigMaps(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: many-%d, labels: {many: \"yes\"}}, data: {a: value %d}}\n", i, i)
	}
	return text.String()
}

func TestApplyManyUnchangedByOneRequest(t *testing.T) {
	onEachServer(t, func(t *testing.T, s server) {
		objects := load(t, manyConfigMaps(50))
		_, err := s.connect(s.name()).Apply(t.Context(), objects, kube.ApplyOptions{})
		require.NoError(t, err)
		if fake, ok := s.(*apiServer); ok {
			fake.seen()
		}
		versions := func() (all []string) {
			for i := range 50 {
				all = append(all, s.live(fmt.Sprintf("/api/v1/namespaces/%s/configmaps/many-%d", s.name(), i)).GetResourceVersion())
			}
			return all
		}
		before := versions()
		changes, err := s.connect(s.name()).Apply(t.Context(), objects, kube.ApplyOptions{})
		require.NoError(t, err)
		assert.Len(t, changes, 50)
		for _, c := range changes {
			assert.Equal(t, kube.Unchanged, c.Action)
		}
		if fake, ok := s.(*apiServer); ok {
			assert.Equal(t, []string{"GET /api/v1", "GET /api/v1/namespaces/shop/configmaps"}, fake.seen())
		}
		assert.Equal(t, before, versions(), "nothing is written")
	})
}

func TestApplyManyWithoutTheRightToList(t *testing.T) {
	s := newAPIServer(t)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/configmaps") {
			fail(w, 403, "Forbidden", `configmaps is forbidden: User "ci" cannot list resource "configmaps"`, nil)
			return true
		}
		return false
	})
	for _, want := range []kube.Action{kube.Created, kube.Unchanged} {
		changes, err := s.connect("shop").Apply(t.Context(), load(t, manyConfigMaps(25)), kube.ApplyOptions{})
		require.NoError(t, err)
		for _, c := range changes {
			assert.Equal(t, want, c.Action)
		}
	}
}

func TestApplyInParallelTellsAllErrors(t *testing.T) {
	s := newAPIServer(t)
	var running, most atomic.Int32
	var both sync.WaitGroup
	both.Add(2)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		if strings.HasSuffix(r.URL.Path, "-3") || strings.HasSuffix(r.URL.Path, "-4") {
			both.Done()
			both.Wait()
			fail(w, 422, "Invalid", "no such thing", nil)
			return true
		}
		time.Sleep(5 * time.Millisecond)
		return false
	})
	changes, err := s.connect("shop").Apply(t.Context(), load(t, manyConfigMaps(500)), kube.ApplyOptions{})
	require.ErrorContains(t, err, "applying ConfigMap/many-3")
	require.ErrorContains(t, err, "applying ConfigMap/many-4")
	assert.Less(t, len(changes), 400, "after an error no more begin")
	assert.LessOrEqual(t, most.Load(), int32(32))
}
