package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/grimoire-build/grimoire/kube"
)

// settingsMaps are ConfigMaps of the names, with one value.
func settingsMaps(value string, names ...string) string {
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}, data: {value: %q}}\n", name, value)
	}
	return text.String()
}

// present are the ConfigMaps and Secrets of the case's namespace with their value, but what a release keeps for itself.
func present(t *testing.T, s server) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, kind := range []string{"configmaps", "secrets"} {
		for _, u := range s.list("/api/v1/namespaces/" + s.name() + "/" + kind) {
			if name := u.GetName(); !strings.HasPrefix(name, "grimoire-") && name != "kube-root-ca.crt" {
				data, _ := u.Object["data"].(map[string]any)
				found[name] = fmt.Sprint(data["value"])
			}
		}
	}
	return found
}

func TestDeployPrunes(t *testing.T) { onEachServer(t, deployPrunes) }

func deployPrunes(t *testing.T, s server) {
	client := s.connect(s.name())
	deploy := func(o kube.DeployOptions, manifests string) (kube.Deployed, error) {
		o.Name = "pay"
		return client.Deploy(t.Context(), load(t, manifests), o)
	}
	done, err := deploy(kube.DeployOptions{}, settingsMaps("1", "a", "b", "c"))
	require.NoError(t, err)
	assert.Equal(t, []string{"ConfigMap/a created", "ConfigMap/b created", "ConfigMap/c created"}, actions(done.Changes))
	assert.Equal(t, 1, done.Revision)
	// Somebody has copied an object with all of its labels, and made one of their own.
	copied := load(t, settingsMaps("1", "copy"))
	copied[0].SetLabels(s.live("/api/v1/namespaces/" + s.name() + "/configmaps/a").GetLabels())
	_, err = client.Apply(t.Context(), append(copied, load(t, settingsMaps("1", "foreign"))...), kube.ApplyOptions{FieldManager: "kubectl"})
	require.NoError(t, err)
	// And another release has one.
	_, err = client.Deploy(t.Context(), load(t, settingsMaps("1", "other")), kube.DeployOptions{Name: "other"})
	require.NoError(t, err)

	done, err = deploy(kube.DeployOptions{KeepRemoved: true}, settingsMaps("1", "a", "b"))
	require.NoError(t, err)
	assert.Empty(t, done.Removed)
	var plan kube.Plan
	done, err = deploy(kube.DeployOptions{Planned: func(p kube.Plan) error { plan = p; return nil }}, settingsMaps("1", "a")+settingsMaps("2", "d"))
	require.NoError(t, err)
	assert.Equal(t, "[ConfigMap/b ConfigMap/c]", fmt.Sprint(done.Removed), "also what an earlier deployment kept")
	assert.Equal(t, "[ConfigMap/b ConfigMap/c]", fmt.Sprint(plan.Removed))
	assert.Equal(t, []string{"ConfigMap/d created"}, actions(done.Changes), "what is unchanged is no change")
	assert.Equal(t, []string{"a", "copy", "d", "foreign", "other"}, slices.Sorted(maps.Keys(present(t, s))))
	assert.Equal(t, 3, done.Revision)

	parent := s.live("/api/v1/namespaces/" + s.name() + "/configmaps/grimoire-pay")
	assert.Equal(t, "ConfigMap", parent.GetAnnotations()["applyset.kubernetes.io/contains-group-kinds"])
	assert.Equal(t, parent.GetLabels()["applyset.kubernetes.io/id"],
		s.live("/api/v1/namespaces/" + s.name() + "/configmaps/a").GetLabels()["applyset.kubernetes.io/part-of"])
}

// What belongs to the whole cluster is often written with a namespace all the same, which the server takes no notice of.
func TestDeployOfAClusterWideObjectWithANamespace(t *testing.T) {
	onEachServer(t, func(t *testing.T, s server) {
		client := s.connect(s.name())
		role := fmt.Sprintf("---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: %[1]s-role, namespace: %[1]s}, rules: []}\n", s.name())
		for n := range 2 {
			done, err := client.Deploy(t.Context(), load(t, settingsMaps(fmt.Sprint(n), "a")+role), kube.DeployOptions{Name: "pay"})
			require.NoError(t, err)
			assert.Empty(t, done.Removed)
			assert.Equal(t, n == 0, slices.Contains(actions(done.Changes), "ClusterRole/"+s.name()+"-role created"))
		}
		done, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a")), kube.DeployOptions{Name: "pay"})
		require.NoError(t, err)
		assert.Equal(t, "[ClusterRole/"+s.name()+"-role]", fmt.Sprint(done.Removed))
	})
}

func TestDeployLeavesOtherReleasesAlone(t *testing.T) {
	onEachServer(t, func(t *testing.T, s server) {
		client := s.connect(s.name())
		deploy := func(name, manifests string, force bool) (kube.Deployed, error) {
			return client.Deploy(t.Context(), load(t, manifests), kube.DeployOptions{Name: name, Force: force})
		}
		namespace := "---\n{apiVersion: v1, kind: Namespace, metadata: {name: " + s.name() + "}}\n"
		_, err := deploy("a", settingsMaps("1", "both", "a")+namespace, false)
		require.NoError(t, err)
		_, err = deploy("b", settingsMaps("2", "both", "b")+namespace, false)
		require.ErrorContains(t, err, "ConfigMap/both")
		require.ErrorContains(t, err, "it belongs to the release a in the namespace "+s.name())
		assert.Equal(t, map[string]string{"both": "1", "a": "1"}, present(t, s))

		// A namespace is never deleted, so it is nobody's loss.
		for range 2 {
			_, err = deploy("b", settingsMaps("2", "b")+namespace, false)
			require.NoError(t, err)
			done, err := deploy("a", settingsMaps("1", "both", "a")+namespace, false)
			require.NoError(t, err)
			assert.Empty(t, done.Changes)
		}
		_, err = deploy("b", settingsMaps("2", "both", "b")+namespace, true)
		require.NoError(t, err)
		done, err := deploy("a", settingsMaps("1", "a")+namespace, false)
		require.NoError(t, err)
		assert.Empty(t, done.Removed, "it has been taken over")
	})
}

// An object that was applied in an older version of its group is listed in the newest one.
func TestDeployPrunesWhatWasAppliedInAnotherVersion(t *testing.T) {
	onEachServer(t, func(t *testing.T, s server) {
		if fake, ok := s.(*apiServer); ok {
			fake.kinds["autoscaling/v1"] = []metav1.APIResource{{Kind: "HorizontalPodAutoscaler", Name: "horizontalpodautoscalers", Namespaced: true}}
		}
		client := s.connect(s.name())
		scaler := "---\n{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: pay}, spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: pay}}}\n"
		_, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a")+scaler), kube.DeployOptions{Name: "pay"})
		require.NoError(t, err)
		done, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a")), kube.DeployOptions{Name: "pay"})
		require.NoError(t, err)
		assert.Equal(t, "[HorizontalPodAutoscaler/pay]", fmt.Sprint(done.Removed))
	})
}

// What is live and good is not put back because what it replaced could not be deleted.
func TestDeployWithoutTheRightToDelete(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	deploy := func(manifests string) (kube.Deployed, error) {
		return client.Deploy(t.Context(), load(t, manifests), kube.DeployOptions{Name: "pay", Rollback: true})
	}
	_, err := deploy(settingsMaps("1", "a", "b"))
	require.NoError(t, err)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			fail(w, 403, "Forbidden", `configmaps "b" is forbidden: User "ci" cannot delete resource "configmaps" in API group "" in the namespace "shop"`, nil)
		}
		return r.Method == http.MethodDelete
	})
	for range 2 {
		done, err := deploy("{apiVersion: v1, kind: Service, metadata: {name: pay}, spec: {ports: [{port: 80}]}}")
		require.NoError(t, err)
		assert.Empty(t, done.Removed)
		assert.Equal(t, map[string]string{"a": "1", "b": "1"}, present(t, s))
	}
	s.setFault(nil)
	done, err := deploy("{apiVersion: v1, kind: Service, metadata: {name: pay}, spec: {ports: [{port: 81}]}}")
	require.NoError(t, err)
	assert.Equal(t, "[ConfigMap/a ConfigMap/b]", fmt.Sprint(done.Removed), "who may, still knows of them")
}

func TestDeployThatCannotTidyUpIsNotRolledBack(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	_, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a", "b")), kube.DeployOptions{Name: "pay"})
	require.NoError(t, err)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			fail(w, 500, "InternalError", "etcd has no space left", nil)
		}
		return r.Method == http.MethodDelete
	})
	_, err = client.Deploy(t.Context(), load(t, settingsMaps("2", "a")), kube.DeployOptions{Name: "pay", Rollback: true})
	require.ErrorContains(t, err, "what was deployed is live; tidying up after it: deleting ConfigMap/b")
	var failed *kube.DeployError
	require.ErrorAs(t, err, &failed)
	assert.False(t, failed.RolledBack)
	require.NoError(t, failed.RollbackErr)
	assert.Equal(t, "2", present(t, s)["a"])
	s.setFault(nil)
	done, err := client.Deploy(t.Context(), load(t, settingsMaps("2", "a")), kube.DeployOptions{Name: "pay", Rollback: true})
	require.NoError(t, err)
	assert.Equal(t, "[ConfigMap/b]", fmt.Sprint(done.Removed))
}

func TestDeployAgainWritesNothing(t *testing.T) { onEachServer(t, deployAgainWritesNothing) }

func deployAgainWritesNothing(t *testing.T, s server) {
	client := s.connect(s.name())
	options := kube.DeployOptions{Name: "pay", Image: "registry.example.org/pay@sha256:" + strings.Repeat("1", 64), Commit: "4f2a"}
	_, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a", "b")), options)
	require.NoError(t, err)
	versions := func() map[string]string {
		all := map[string]string{}
		for _, kind := range []string{"configmaps", "secrets"} {
			for _, u := range s.list("/api/v1/namespaces/" + s.name() + "/" + kind) {
				all[kind+"/"+u.GetName()] = u.GetResourceVersion()
			}
		}
		return all
	}
	before := versions()
	options.Planned = func(kube.Plan) error { return errors.New("there is nothing to plan") }
	done, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a", "b")), options)
	require.NoError(t, err)
	assert.Empty(t, done.Changes)
	assert.Equal(t, 1, done.Revision)
	assert.Equal(t, before, versions())
}

// What was found as it should be is not asked for once more; what was not, is waited for.
func TestDeployAgainLooksOnce(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	told := make(chan string, 10)
	options := kube.DeployOptions{Name: "pay", Progress: func(_ *kube.Object, r kube.Result) { told <- r.Message }}
	controller(t, s, payPath)
	_, err := client.Deploy(t.Context(), load(t, deployment), options)
	require.NoError(t, err)
	for len(told) > 0 {
		<-told
	}
	s.seen()
	_, err = client.Deploy(t.Context(), load(t, deployment), options)
	require.NoError(t, err)
	assert.Equal(t, "2 replicas available", <-told)
	requests := strings.Join(s.seen(), "\n") + "\n"
	assert.Equal(t, 1, strings.Count(requests, "GET "+payPath+"\n"))
	assert.Equal(t, 1, strings.Count(requests, "GET "+path.Dir(payPath)+"\n"), "for what is no longer declared")

	s.setStatus(payPath, "{replicas: 2, updatedReplicas: 2, readyReplicas: 1, availableReplicas: 1}")
	done := make(chan error, 1)
	go func() {
		_, err := client.Deploy(t.Context(), load(t, deployment), options)
		done <- err
	}()
	assert.Equal(t, "1 of 2 replicas available, 1 ready", <-told)
	s.setStatus(payPath, finished)
	require.NoError(t, <-done)
}

func TestDeployRefusesBeforeAnything(t *testing.T) { onEachServer(t, deployRefusesBeforeAnything) }

func deployRefusesBeforeAnything(t *testing.T, s server) {
	client := s.connect(s.name())
	_, err := client.Apply(t.Context(), load(t, settingsMaps("theirs", "x", "z")), kube.ApplyOptions{FieldManager: "kubectl"})
	require.NoError(t, err)
	_, err = client.Deploy(t.Context(), load(t, settingsMaps("ours", "a", "x", "z")), kube.DeployOptions{Name: "pay"})
	require.ErrorContains(t, err, "applying ConfigMap/x")
	require.ErrorContains(t, err, "applying ConfigMap/z", "all conflicts are told at once")
	require.ErrorContains(t, err, `conflict with "kubectl" of .data.value`)
	assert.Equal(t, map[string]string{"x": "theirs", "z": "theirs"}, present(t, s))

	no := errors.New("not this time")
	_, err = client.Deploy(t.Context(), load(t, settingsMaps("ours", "a")), kube.DeployOptions{Name: "pay", Planned: func(kube.Plan) error { return no }})
	require.ErrorIs(t, err, no)
	assert.NotContains(t, present(t, s), "a")
	for _, name := range []string{"", "Pay", "-pay", strings.Repeat("p", 41), "p/ay"} {
		_, err := client.Deploy(t.Context(), load(t, settingsMaps("ours", "a")), kube.DeployOptions{Name: name})
		require.ErrorContains(t, err, "lower case letters, digits and -", name)
	}
}

func TestRollback(t *testing.T) { onEachServer(t, rollback) }

func rollback(t *testing.T, s server) {
	client := s.connect(s.name())
	image := func(n int) string {
		return "registry.example.org/pay@sha256:" + strings.Repeat(fmt.Sprint(n), 64)
	}
	for n, manifests := range []string{1: settingsMaps("1", "a", "b"), 2: settingsMaps("2", "a", "c"), 3: settingsMaps("3", "a")} {
		if n > 0 {
			_, err := client.Deploy(t.Context(), load(t, manifests), kube.DeployOptions{Name: "pay", Image: image(n), Commit: fmt.Sprint("commit", n)})
			require.NoError(t, err)
		}
	}
	to := func(n int) (kube.Revision, error) {
		return client.Rollback(t.Context(), kube.RollbackOptions{Name: "pay", To: n})
	}
	revision, err := to(0)
	require.NoError(t, err)
	assert.Equal(t, "revision 2 ("+image(2)+")", revision.String())
	assert.Equal(t, "commit2", revision.Commit)
	assert.Equal(t, map[string]string{"a": "2", "c": "2"}, present(t, s))
	_, err = to(0)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "1", "b": "1"}, present(t, s))
	_, err = to(0)
	require.ErrorContains(t, err, "revision 1 of pay is live, and none before it is remembered, only: 3, 2, 1; deploy an earlier commit instead")
	_, err = to(3)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "3"}, present(t, s))
	_, err = to(9)
	require.ErrorContains(t, err, "there is no revision 9 of pay; there is: 3, 2, 1")
	_, err = client.Rollback(t.Context(), kube.RollbackOptions{Name: "nobody"})
	require.ErrorContains(t, err, "no good revision of nobody is remembered")

	revisions, err := client.Revisions(t.Context(), "pay")
	require.NoError(t, err)
	require.Len(t, revisions, 3)
	done, err := client.Deploy(t.Context(), load(t, settingsMaps("3", "a")), kube.DeployOptions{Name: "pay", Image: image(3)})
	require.NoError(t, err)
	assert.Equal(t, 3, done.Revision, "the same is no new revision")
}

func TestRevisionsAreForgotten(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	for n := range 13 {
		_, err := client.Deploy(t.Context(), load(t, settingsMaps(fmt.Sprint(n), "a")), kube.DeployOptions{Name: "pay"})
		require.NoError(t, err)
	}
	revisions, err := client.Revisions(t.Context(), "pay")
	require.NoError(t, err)
	require.Len(t, revisions, 10)
	assert.Equal(t, 13, revisions[0].Number)
	assert.Equal(t, 4, revisions[9].Number)
}

// Many deploy at once: all but the last one to begin end as superseded, and what is there is one state, whole.
func TestDeployAtOnce(t *testing.T) { onEachServer(t, deployAtOnce) }

func deployAtOnce(t *testing.T, s server) {
	states := map[string][]string{
		"1": {"a", "b", "only-1", "only-1-too"}, "2": {"a", "b", "only-2"}, "3": {"a", "b"},
	}
	for round := range 3 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		winners := map[string]bool{}
		for value, names := range states {
			client := s.connect(s.name())
			wg.Go(func() {
				_, err := client.Deploy(t.Context(), load(t, settingsMaps(value, names...)), kube.DeployOptions{Name: "pay"})
				var lost *kube.SupersededError
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners[value] = true
				} else if !errors.As(err, &lost) {
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		got := present(t, s)
		whole := false
		for value, names := range states {
			want := map[string]string{}
			for _, name := range names {
				want[name] = value
			}
			whole = whole || winners[value] && maps.Equal(want, got)
		}
		assert.True(t, whole, "round %d: %v, of those who won %v", round, got, winners)
	}
}

// A deployment that has been taken over does not write any more, wherever it stands.
func TestDeploySuperseded(t *testing.T) {
	s := newAPIServer(t)
	slow, fast := s.connect("shop"), s.connect("shop")
	begun, taken, goOn := make(chan bool, 1), make(chan bool, 1), make(chan bool)
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/slow-0") && r.URL.Query().Get("dryRun") == "":
			begun <- true
			<-goOn
		case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/configmaps/grimoire-pay"): // the slow one has created it
			select {
			case taken <- true:
			default:
			}
		}
		return false
	})
	ended := make(chan error)
	go func() {
		manifests := settingsMaps("slow", "slow-0") + "---\n{apiVersion: v1, kind: Service, metadata: {name: slow}, spec: {ports: [{port: 80}]}}\n"
		_, err := slow.Deploy(t.Context(), load(t, manifests), kube.DeployOptions{Name: "pay"})
		ended <- err
	}()
	<-begun
	fastEnded := make(chan error)
	go func() {
		_, err := fast.Deploy(t.Context(), load(t, settingsMaps("fast", "fast")), kube.DeployOptions{Name: "pay", Image: "pay@sha256:" + strings.Repeat("a", 64)})
		fastEnded <- err
	}()
	select {
	case <-taken:
	case err := <-fastEnded:
		require.Fail(t, "the fast one has not taken over", "%v", err)
	}
	time.Sleep(1500 * time.Millisecond) // longer than a claim is relied on
	close(goOn)
	err := <-ended
	var lost *kube.SupersededError
	require.ErrorAs(t, err, &lost)
	require.ErrorContains(t, err, "another deployment of pay@sha256:aaaa")
	require.NoError(t, <-fastEnded)
	assert.Equal(t, map[string]string{"fast": "fast"}, present(t, s), "what the slow one had on its way is taken back")
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.NotContains(t, s.objects, "/api/v1/namespaces/shop/services/slow")
}

func TestDeployInterrupted(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	why := errors.New("Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/b") && r.URL.Query().Get("dryRun") == "" {
			cancel(why)
			<-r.Context().Done()
		}
		return false
	})
	_, err := client.Deploy(ctx, load(t, settingsMaps("1", "a")+"---\n{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: 80}]}}\n"),
		kube.DeployOptions{Name: "pay", Rollback: true})
	require.ErrorIs(t, err, why)
	var failed *kube.DeployError
	require.ErrorAs(t, err, &failed)
	assert.False(t, failed.RolledBack, "who interrupts is not kept waiting")
	s.setFault(nil)
	done, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "c")), kube.DeployOptions{Name: "pay"})
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprint(done.Removed), "ConfigMap/a", "nothing of the interrupted one is orphaned")
	assert.NotContains(t, s.objects, "/api/v1/namespaces/shop/services/b", "nor what was on its way")
	assert.Equal(t, map[string]string{"c": "1"}, present(t, s))
}

// withoutSecrets is the fault of a login that may not see Secrets.
func withoutSecrets(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasSuffix(r.URL.Path, "/secrets") {
		return false
	}
	fail(w, 403, "Forbidden", `secrets is forbidden: User "ci" cannot list resource "secrets"`, nil)
	return true
}

func TestDeployWithoutTheRightToRemember(t *testing.T) {
	s := newAPIServer(t)
	s.setFault(withoutSecrets)
	done, err := s.connect("shop").Deploy(t.Context(), load(t, settingsMaps("1", "a")), kube.DeployOptions{Name: "pay"})
	require.NoError(t, err)
	assert.Zero(t, done.Revision)
}

// controller stands for the one of Deployments: it says of each new generation that its deadline has passed where the image is called
// broken, and that all is well else.
func controller(t *testing.T, s *apiServer, path string) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
			s.mu.Lock()
			o := s.objects[path]
			var seen, is int64
			var spec string
			if o != nil {
				status, _ := o.content["status"].(map[string]any)
				seen, is = number(status["observedGeneration"]), number(o.content["metadata"].(map[string]any)["generation"])
				spec = fmt.Sprint(o.content["spec"])
			}
			s.mu.Unlock()
			switch {
			case seen == is:
			case strings.Contains(spec, "broken"):
				s.setStatus(path, `{replicas: 3, updatedReplicas: 1, availableReplicas: 2, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded}]}`)
			default:
				s.setStatus(path, `{replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}`)
			}
		}
	})
}

// Where no revision could be remembered, what was there before is put back, with what it needs.
func TestDeployPutsBackWhatWasThere(t *testing.T) {
	s := newAPIServer(t)
	s.setFault(withoutSecrets)
	controller(t, s, payPath)
	manifests := func(settings, image string) string {
		return settingsMaps("1", settings) + "---\n" + strings.Replace(deployment, "image: pay,", "image: "+image+",", 1)
	}
	client := s.connect("shop")
	_, err := client.Deploy(t.Context(), load(t, manifests("settings-1", "pay:1")), kube.DeployOptions{Name: "pay"})
	require.NoError(t, err)
	_, err = client.Deploy(t.Context(), load(t, manifests("settings-2", "broken")), kube.DeployOptions{Name: "pay", Rollback: true})
	require.ErrorContains(t, err, "rolled back to what was there before, which is live again")
	assert.Equal(t, map[string]string{"settings-1": "1"}, present(t, s))
	assert.Contains(t, fmt.Sprint(s.live(payPath).Object["spec"]), "pay:1")

	done, err := client.Deploy(t.Context(), load(t, manifests("settings-3", "pay:3")), kube.DeployOptions{Name: "pay", Rollback: true})
	require.NoError(t, err)
	assert.Equal(t, "[ConfigMap/settings-1]", fmt.Sprint(done.Removed), "what was kept for it is still known")
}

func TestRecordAfterARollBack(t *testing.T) {
	s := newAPIServer(t)
	controller(t, s, payPath)
	client := s.connect("shop")
	for n, image := range []string{1: "pay:1", 2: "broken"} {
		if n > 0 {
			_, err := client.Deploy(t.Context(), load(t, strings.Replace(deployment, "image: pay,", "image: "+image+",", 1)),
				kube.DeployOptions{Name: "pay", Image: payImage(fmt.Sprint(n)), Commit: fmt.Sprint("commit", n), Rollback: true})
			assert.Equal(t, n == 1, err == nil, "%v", err)
		}
	}
	history, err := client.History(t.Context(), "pay")
	require.NoError(t, err)
	assert.Equal(t, kube.Undone, history.Last.Phase)
	assert.Equal(t, 1, history.Last.Revision)
	assert.Equal(t, payImage("1"), history.Last.Image, "what is live, not what failed")
	assert.Equal(t, "commit1", history.Last.Commit)
}

func TestUnionOfFields(t *testing.T) {
	for _, test := range []struct{ name, a, b, want string }{
		{"none", `{}`, `{}`, `{}`},
		{"one side", `{"f:a": {}}`, `{}`, `{"f:a": {}}`},
		{"left out, and new", `{"f:spec": {"f:a": {}, "f:b": {}}}`, `{"f:spec": {"f:b": {}, "f:c": {}}}`, `{"f:spec": {"f:a": {}, "f:b": {}, "f:c": {}}}`},
		{"items", `{"f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}}}`, `{"f:env": {".": {}, "k:{\"name\":\"B\"}": {".": {}, "f:name": {}}}}`,
			`{"f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}, "k:{\"name\":\"B\"}": {".": {}, "f:name": {}}}}`},
		{"as a whole", `{"f:selector": {}}`, `{"f:selector": {"f:app": {}}}`, `{"f:selector": {}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			fields := func(text string) (parsed map[string]any) {
				require.NoError(t, json.Unmarshal([]byte(text), &parsed))
				return parsed
			}
			a, b := fields(test.a), fields(test.b)
			assert.Equal(t, fields(test.want), kube.Union(a, b))
			assert.Equal(t, fields(test.want), kube.Union(b, a))
			assert.Equal(t, fields(test.a), a, "nothing given is changed")
		})
	}
}

func TestDeployKeepsWhatCannotBeMadeAgain(t *testing.T) {
	s := newAPIServer(t)
	s.kinds["v1"] = append(s.kinds["v1"], metav1.APIResource{Kind: "PersistentVolumeClaim", Name: "persistentvolumeclaims", Namespaced: true})
	client := s.connect("shop")
	volume := "---\n{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: made}}\n"
	_, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a")+volume), kube.DeployOptions{Name: "pay"})
	require.NoError(t, err)
	for range 2 {
		done, err := client.Deploy(t.Context(), load(t, settingsMaps("1", "a")), kube.DeployOptions{Name: "pay"})
		require.NoError(t, err)
		assert.Empty(t, done.Removed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Contains(t, s.objects, "/api/v1/namespaces/shop/persistentvolumeclaims/data")
	assert.Contains(t, s.objects, "/api/v1/namespaces/made")
}

func TestDeployNotOverSomebodyElsesParent(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	_, err := client.Apply(t.Context(), load(t, settingsMaps("1", "grimoire-pay")), kube.ApplyOptions{FieldManager: "kubectl"})
	require.NoError(t, err)
	_, err = client.Deploy(t.Context(), load(t, settingsMaps("1", "a")), kube.DeployOptions{Name: "pay"})
	require.ErrorContains(t, err, "the ConfigMap grimoire-pay in the namespace shop is where the release would be remembered, and it is somebody else's")
}

func TestDeployIntoANewNamespace(t *testing.T) {
	onEachServer(t, func(t *testing.T, s server) {
		name := s.name() + "-fresh"
		manifests := "{apiVersion: v1, kind: Namespace, metadata: {name: " + name + "}}\n" + settingsMaps("1", "a")
		done, err := s.connect(name).Deploy(t.Context(), load(t, manifests), kube.DeployOptions{Name: "pay"})
		require.NoError(t, err)
		assert.Equal(t, []string{"Namespace/" + name + " created", "ConfigMap/a created"}, actions(done.Changes))
		assert.Equal(t, "a", s.live("/api/v1/namespaces/"+name+"/configmaps/a").GetName())
	})
}
