package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/kube"
)

// agentDefinitions are those of Argo CD and Flux, without their schemas: the tests write what their controllers would.
const agentDefinitions = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: applications.argoproj.io, annotations: {api-approved.kubernetes.io: unapproved}}, spec: {
  group: argoproj.io, scope: Namespaced, names: {kind: Application, plural: applications, singular: application, listKind: ApplicationList},
  versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: gitrepositories.source.toolkit.fluxcd.io}, spec: {
  group: source.toolkit.fluxcd.io, scope: Namespaced, names: {kind: GitRepository, plural: gitrepositories, singular: gitrepository, listKind: GitRepositoryList},
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: kustomizations.kustomize.toolkit.fluxcd.io}, spec: {
  group: kustomize.toolkit.fluxcd.io, scope: Namespaced, names: {kind: Kustomization, plural: kustomizations, singular: kustomization, listKind: KustomizationList},
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
`

const (
	argoManifest = `apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: pay}
spec: {source: {repoURL: "ssh://git@HOST/shop/env.git", path: prod, targetRevision: HEAD}, syncPolicy: {automated: {}}}
status: {STATUS}
`
	fluxManifest = `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: env}
spec: {url: "https://HOST/shop/env", ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: pay}
spec: {path: ./prod, sourceRef: {kind: GitRepository, name: env}}
status: {STATUS}
`
)

// What the agents say, one word after the other, and how the waiting ends.
func TestWaitCommit(t *testing.T) { onEachServer(t, waitCommit) }

func waitCommit(t *testing.T, s server) {
	if c, ok := s.(*realCluster); ok {
		c.create(agentDefinitions)
	} else {
		_, err := s.connect(s.name()).Apply(t.Context(), load(t, agentDefinitions), kube.ApplyOptions{})
		require.NoError(t, err)
	}
	const commit, other = "a111111111111111111111111111111111111111", "b222222222222222222222222222222222222222"
	tests := []struct {
		name, manifest string
		statuses       []string
		want           string // in the error; empty where it is live
		told           []string
	}{
		{"argo", argoManifest, []string{
			"sync: {status: OutOfSync, revision: " + other + "}", "sync: {status: Synced, revision: " + commit + "}, health: {status: Progressing}",
			"sync: {status: Synced, revision: " + commit + "}, health: {status: Healthy}, operationState: {phase: Succeeded}",
		}, "", []string{"at revision b22222222222, not yet at a11111111111", "synced, and progressing", "synced to a11111111111 and healthy"}},
		{"argo that syncs", argoManifest, []string{
			"sync: {status: Synced, revision: " + commit + "}, health: {status: Healthy}, operationState: {phase: Running, message: waiting for hooks}",
			"sync: {status: Synced, revisions: [" + commit + "]}, health: {status: Healthy}",
		}, "", []string{"syncing: waiting for hooks"}},
		{"argo by the image", argoManifest, []string{
			"sync: {status: Synced, revision: " + other + "}, summary: {images: [\"x/pay@" + digest + "\"]}, health: {status: Healthy}",
		}, "", nil},
		{"argo that fails", argoManifest, []string{
			"operationState: {phase: Failed, message: of before, syncResult: {revision: " + other + "}}",
			"operationState: {phase: Failed, message: one or more objects failed to apply, syncResult: {revision: " + commit + "}}",
		}, "Application/pay: Argo CD could not sync it: one or more objects failed to apply", nil},
		{"argo that cannot compare", argoManifest, []string{
			"conditions: [{type: ComparisonError, message: authentication required}]", "sync: {status: Synced, revision: " + commit + "}, health: {status: Healthy}",
		}, "", []string{"at revision none, not yet at a11111111111; ComparisonError: authentication required"}},
		{"flux", fluxManifest, []string{
			"lastAppliedRevision: \"main@sha1:" + other + "\", conditions: [{type: Ready, status: \"True\"}]",
			"lastAppliedRevision: \"main@sha1:" + commit + "\", conditions: [{type: Ready, status: Unknown, reason: Progressing}]",
			"lastAppliedRevision: \"main@sha1:" + commit + "\", conditions: [{type: Ready, status: \"True\"}]",
		}, "", []string{"at main@sha1:" + other + ", not yet at a11111111111", "applied main@sha1:" + commit + ", not ready: Progressing"}},
		{"flux that fails", fluxManifest, []string{
			"lastAttemptedRevision: \"main@sha1:" + other + "\", conditions: [{type: Ready, status: \"False\", reason: BuildFailed, message: of before}]",
			"lastAttemptedRevision: \"main@sha1:" + commit + "\", conditions: [{type: Ready, status: \"False\", reason: BuildFailed, message: no such file}]",
		}, "Kustomization/pay: Flux could not apply it: BuildFailed: no such file", nil},
		{"flux whose dependency is not ready", fluxManifest, []string{
			"lastAttemptedRevision: \"main@sha1:" + commit + "\", conditions: [{type: Ready, status: \"False\", reason: DependencyNotReady, message: base}]",
			"lastAppliedRevision: \"main@sha1:" + commit + "\", conditions: [{type: Ready, status: \"True\"}]",
		}, "", []string{"at no revision, not yet at a11111111111; DependencyNotReady: base"}},
	}
	for i, tt := range tests {
		// Each has a repository of its own, since agents are looked for in all namespaces.
		host := fmt.Sprintf("git-%d.%s.example.org", i, s.name())
		apply := func(status string) {
			text := strings.NewReplacer("HOST", host, "status: {STATUS}", "status: {"+status+"}", "name: pay", fmt.Sprintf("name: pay-%d", i), "name: env", fmt.Sprintf("name: env-%d", i)).Replace(tt.manifest)
			if c, ok := s.(*realCluster); ok {
				c.create(text)
				return
			}
			fake := s.(*apiServer)
			objects := load(t, text)
			_, err := fake.connect("shop").Apply(t.Context(), objects, kube.ApplyOptions{})
			require.NoError(t, err)
			last := objects[len(objects)-1]
			group, plural := "argoproj.io/v1alpha1", "applications"
			if last.GetKind() == "Kustomization" {
				group, plural = "kustomize.toolkit.fluxcd.io/v1", "kustomizations"
			}
			fake.setStatus("/apis/"+group+"/namespaces/shop/"+plural+"/"+last.GetName(), "{"+status+"}")
		}
		apply(tt.statuses[0])
		told := make(chan string, 100)
		done := make(chan error, 1)
		go func() {
			done <- s.connect(s.name()).WaitCommit(t.Context(), kube.Environment{URL: "git@" + host + ":shop/env.git", Branch: "main", Path: "prod/pay"}, commit,
				image, kube.WaitOptions{Timeout: time.Minute, Progress: func(_ *kube.Object, r kube.Result) { told <- r.Message }})
		}()
		for _, status := range tt.statuses[1:] {
			select {
			case <-told:
				time.Sleep(100 * time.Millisecond)
			case err := <-done:
				require.NoError(t, err, "%s: too early", tt.name)
				t.Fatalf("%s: live too early", tt.name)
			}
			apply(status)
		}
		err := <-done
		close(told)
		if tt.want == "" {
			require.NoError(t, err, tt.name)
		} else {
			require.ErrorContains(t, err, strings.Replace(tt.want, "/pay", fmt.Sprintf("/pay-%d", i), 1), tt.name)
			assert.NotContains(t, err.Error(), "of before", tt.name)
		}
	}
}

// waitCommitInVain waits for a commit that does not come live, no longer than until that is told, and wants the text in the error.
func waitCommitInVain(t *testing.T, client *kube.Client, e kube.Environment, commit, image, want string) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	told := errors.New("it was told")
	err := client.WaitCommit(ctx, e, commit, image, kube.WaitOptions{Timeout: 10 * time.Second, Progress: func(o *kube.Object, r kube.Result) {
		if strings.Contains(o.String()+": "+r.Message, want) {
			cancel(told)
		}
	}})
	require.ErrorContains(t, err, want)
	if !errors.Is(err, told) {
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

// Without an agent, and with one that only applies, it is the workload that tells.
func TestClusterWaitCommitByTheWorkload(t *testing.T) {
	c := newCluster(t)
	e := kube.Environment{URL: t.TempDir()}
	_, err := c.connect(c.namespace).Apply(t.Context(), load(t, settingsMaps("1", "a")), kube.ApplyOptions{})
	require.NoError(t, err)
	err = c.WaitCommit(t.Context(), e, "1234", image, kube.WaitOptions{Timeout: time.Second})
	require.ErrorContains(t, err, "no workload in the namespace "+c.namespace+" runs git.example.org/shop/pay; name the namespace")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	app := needs.App(t)
	go func() { done <- c.WaitCommit(ctx, e, "1234", app, kube.WaitOptions{Timeout: time.Minute}) }()
	objects := c.apply(appManifest(app, 1, environment("one"), ""))
	require.NoError(t, <-done)
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}), "it is current")
	waitCommitInVain(t, c.Client, e, "1234", strings.Split(app, "@")[0]+"@sha256:"+strings.Repeat("9", 64), "it runs "+app+", not yet sha256:9999")
}

// A commit that was pushed on top of ours before the agent looked holds ours too.
func TestWaitCommitBehindALaterOne(t *testing.T) {
	isolate(t)
	s := newAPIServer(t)
	client := s.connect("shop")
	_, err := client.Apply(t.Context(), load(t, agentDefinitions), kube.ApplyOptions{})
	require.NoError(t, err)
	repository := bare(t, map[string]string{"pay.yaml": manifest("pay:v1")})
	e := kube.Environment{URL: "file://" + repository}
	commit := deployed(t, e, payImage("1"), "")
	commitTo(t, repository, "main", map[string]string{"other.yaml": "a: b\n"})
	later := git(t, repository, "rev-parse", "main")
	text := strings.NewReplacer("ssh://git@HOST/shop/env.git", "file://"+repository, "status: {STATUS}", "").Replace(argoManifest)
	_, err = client.Apply(t.Context(), load(t, text), kube.ApplyOptions{})
	require.NoError(t, err)
	s.setStatus("/apis/argoproj.io/v1alpha1/namespaces/shop/applications/pay", "{sync: {status: Synced, revision: "+later+"}, health: {status: Healthy}}")
	e.Path = "prod"
	require.NoError(t, client.WaitCommit(t.Context(), e, commit.Hash, payImage("1"), kube.WaitOptions{Timeout: time.Minute}))
	parent := git(t, repository, "rev-parse", commit.Hash+"^")
	s.setStatus("/apis/argoproj.io/v1alpha1/namespaces/shop/applications/pay", "{sync: {status: Synced, revision: "+parent+"}, health: {status: Healthy}}")
	waitCommitInVain(t, client, e, commit.Hash, payImage("1"), "at revision "+parent[:12]+", not yet at "+commit.Hash[:12])
}

// That the repository is out of reach for a moment says nothing about the commit, and leaves nothing behind.
func TestWaitCommitWhileTheRepositoryIsOutOfReach(t *testing.T) {
	tmp := isolate(t)
	repository := bare(t, map[string]string{"prod/pay.yaml": manifest("pay:v1")})
	commit := deployed(t, kube.Environment{URL: "file://" + repository}, payImage("1"), "")
	commitTo(t, repository, "main", map[string]string{"other.yaml": "a: b\n"})
	later := git(t, repository, "rev-parse", "main")
	for name, fail := range map[string]func(n int64) bool{
		"at the clone": func(n int64) bool { return n <= 2 },
		"at the fetch": func(n int64) bool { return n >= 3 && n <= 4 }, // a clone has two requests
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			client := s.connect("shop")
			_, err := client.Apply(t.Context(), load(t, agentDefinitions), kube.ApplyOptions{})
			require.NoError(t, err)
			var requests, failed atomic.Int64
			url := gitServer(t, repository, func(http.ResponseWriter, *http.Request) {
				if fail(requests.Add(1)) {
					failed.Add(1)
					panic(http.ErrAbortHandler)
				}
			})
			text := strings.NewReplacer("ssh://git@HOST/shop/env.git", url, "HEAD", "main", "status: {STATUS}", "").Replace(argoManifest)
			_, err = client.Apply(t.Context(), load(t, text), kube.ApplyOptions{})
			require.NoError(t, err)
			s.setStatus("/apis/argoproj.io/v1alpha1/namespaces/shop/applications/pay", "{sync: {status: Synced, revision: "+later+"}, health: {status: Healthy}}")
			e := kube.Environment{URL: withUser(url, "t0ken"), Branch: "main", Path: "prod"}
			require.NoError(t, client.WaitCommit(t.Context(), e, commit.Hash, payImage("1"), kube.WaitOptions{Timeout: 20 * time.Second}))
			assert.NotZero(t, failed.Load())
		})
	}
	requireEmpty(t, tmp)
}

// Where a later commit has brought another image, ours may never be live.
func TestWaitCommitThatIsSuperseded(t *testing.T) {
	tmp := isolate(t)
	s := newAPIServer(t)
	client := s.connect("shop")
	_, err := client.Apply(t.Context(), load(t, agentDefinitions), kube.ApplyOptions{})
	require.NoError(t, err)
	repository := bare(t, map[string]string{"prod/pay.yaml": manifest("pay:v1"), "prod/till.yaml": manifest("till:v1")})
	e := kube.Environment{URL: "file://" + repository, Path: "prod"}
	ours := deployed(t, e, payImage("1"), "").Hash
	assert.Empty(t, kube.Overtaken(t.Context(), e, ours, payImage("1")))
	commitTo(t, repository, "main", map[string]string{"prod/pay.yaml": "# by somebody\n" + manifest(payImage("1")), "prod/till.yaml": manifest("till:v2")})
	assert.Empty(t, kube.Overtaken(t.Context(), e, ours, payImage("1")), "it holds ours still")
	git(t, repository, "branch", "prod", "main")

	deployed(t, e, payImage("2"), "")
	deployed(t, e, payImage("1"), "")
	assert.Empty(t, kube.Overtaken(t.Context(), e, ours, payImage("1")), "it holds ours again")
	by := deployed(t, e, payImage("3"), "").Hash
	commitTo(t, repository, "main", map[string]string{"prod/pay.yaml": "# by somebody else\n" + manifest(payImage("3"))})
	want := ours[:12] + " is superseded: the commit " + by[:12] + " has brought " + payImage("3") + ", and what is live is up to that one"
	assert.Equal(t, want, kube.Overtaken(t.Context(), e, ours, payImage("1")))
	assert.Empty(t, kube.Overtaken(t.Context(), e, ours, "git.example.org/shop/other@"+digest), "another service")
	assert.Empty(t, kube.Overtaken(t.Context(), kube.Environment{URL: e.URL, Branch: "prod", Path: "prod"}, by, payImage("3")), "a server that does not have ours yet")
	assert.Empty(t, kube.Overtaken(t.Context(), kube.Environment{URL: tmp}, ours, payImage("1")))

	text := strings.NewReplacer("ssh://git@HOST/shop/env.git", "file://"+repository, "status: {STATUS}", "").Replace(argoManifest)
	_, err = client.Apply(t.Context(), load(t, text), kube.ApplyOptions{})
	require.NoError(t, err)
	s.setStatus("/apis/argoproj.io/v1alpha1/namespaces/shop/applications/pay", "{sync: {status: Synced, revision: "+git(t, repository, "rev-parse", ours+"^")+"}, health: {status: Healthy}}")
	err = client.WaitCommit(t.Context(), e, ours, payImage("1"), kube.WaitOptions{Timeout: time.Minute})
	require.EqualError(t, err, "waiting for the commit: "+want)
	requireEmpty(t, tmp)
}

// What an agent applies beside the workload may have an operator make the Secret that it needs.
func TestWaitCommitForWhatAnOperatorMakes(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	_, err := client.Apply(t.Context(), load(t, strings.ReplaceAll(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pay}
spec:
  replicas: 1
  selector: {matchLabels: {app: pay}}
  template: {metadata: {labels: {app: pay}}, spec: {containers: [{name: app, image: IMAGE}]}}
`, "IMAGE", payImage("1"))), kube.ApplyOptions{})
	require.NoError(t, err)
	const path = "/apis/apps/v1/namespaces/shop/statefulsets/pay"
	_, err = client.Apply(t.Context(), load(t, strings.NewReplacer("UID", string(s.live(path).GetUID()), "IMAGE", payImage("1")).Replace(`apiVersion: v1
kind: Pod
metadata: {name: pay-0, labels: {app: pay}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: pay, uid: UID, controller: true}]}
spec: {containers: [{name: app, image: IMAGE}]}
`)), kube.ApplyOptions{})
	require.NoError(t, err)
	s.setStatus(path, "{replicas: 1}")
	s.setStatus("/api/v1/namespaces/shop/pods/pay-0", `{phase: Pending, containerStatuses: [{name: app, state: {waiting: {reason: CreateContainerConfigError, message: 'secret "login" not found'}}}]}`)
	err = client.WaitCommit(t.Context(), kube.Environment{URL: t.TempDir()}, "1234", payImage("1"), kube.WaitOptions{Timeout: 2 * time.Second})
	require.ErrorContains(t, err, `secret "login" not found`, "it is told")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
