package kube_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/kube"
)

func TestSameRepository(t *testing.T) {
	const plain = "https://git.example.org/shop/environment"
	for _, same := range []string{
		plain + ".git", plain + "/", "https://ci:t0ken@git.example.org/shop/environment.git", "https://GIT.example.org:443/Shop/environment", "http://git.example.org:80/shop/environment",
		"git@git.example.org:shop/environment.git", "ssh://git@git.example.org:2222/shop/environment", "ssh://git@git.example.org/shop/environment.git/",
	} {
		assert.True(t, kube.SameRepository(plain, same), same)
	}
	assert.True(t, kube.SameRepository("https://git.example.org:3000/shop/environment", "ssh://git@git.example.org:2222/shop/environment.git"), "ssh has a port of its own")
	assert.True(t, kube.SameRepository("file:///srv/environment.git", "/srv/environment"))
	for _, other := range []string{
		"https://git.example.org/shop/environments", "https://git.example.com/shop/environment", "https://git.example.org:3000/shop/environment", "git@git.example.org:x/shop/environment.git",
		"", "/shop/environment",
	} {
		assert.False(t, kube.SameRepository(plain, other), other)
	}
}

const releaseDefinition = `---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: helmreleases.helm.toolkit.fluxcd.io}, spec: {
  group: helm.toolkit.fluxcd.io, scope: Namespaced, names: {kind: HelmRelease, plural: helmreleases, singular: helmrelease, listKind: HelmReleaseList},
  versions: [{name: v2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
`

// agent is an object of Argo CD or Flux, and the status that its controller has written.
type agent struct{ manifest, status string }

const (
	application = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: NAME}\nspec: {source: {repoURL: REPO, path: prod, targetRevision: main}, syncPolicy: {automated: {}}}\n"
	source      = "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: env}\nspec: {url: REPO, ref: {branch: main}}\n"
	overlay     = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: pay}\nspec: {path: ./prod, sourceRef: {kind: GitRepository, name: env}}\n"
	helmRelease = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: pay}\nspec: {values: {image: {repository: git.example.org/shop/pay, digest: DIGEST}}MORE}\n"

	argoLive  = "{sync: {status: Synced, revision: OURS}, health: {status: Healthy}, operationState: {phase: Succeeded, syncResult: {revision: OURS}}}"
	fluxLive  = "{lastAppliedRevision: main@sha1:OURS, lastAttemptedRevision: main@sha1:OURS, conditions: [{type: Ready, status: \"True\", reason: ReconciliationSucceeded}]}"
	fetched   = "{artifact: {revision: main@sha1:OURS}, conditions: [{type: Ready, status: \"True\", reason: Succeeded}]}"
	helmReady = "{conditions: [{type: Ready, status: \"True\", reason: UpgradeSucceeded}]}"
)

func named(manifest, name string) string { return strings.ReplaceAll(manifest, "NAME", name) }

func onBranch(manifest, branch string) string {
	return strings.Replace(manifest, "targetRevision: main", "targetRevision: "+branch, 1)
}

func holdingDigest(manifest, c, more string) string {
	return strings.NewReplacer("DIGEST", "sha256:"+strings.Repeat(c, 64), "MORE", more).Replace(manifest)
}

// What agents say once and for all, and whether the commit counts as live by it.
func TestWaitCommitByWhatAgentsSay(t *testing.T) {
	chart := strings.Replace(strings.Replace(application, "path: prod, ", "chart: pay, kustomize: {images: [IMAGE]}, ", 1), "REPO", "https://charts.example.org", 1)
	ofImage := func(c string) string { return strings.Replace(named(chart, "child"), "IMAGE", payImage(c), 1) }
	failing := func(more string) string {
		return "{conditions: [{type: Ready, status: \"False\", reason: UpgradeFailed, message: \"Helm upgrade failed\"" + more + "}]}"
	}
	tests := []struct {
		name   string
		e      kube.Environment
		agents []agent
		want   string // in the error; empty where it is live
	}{
		{"a Kustomization that was changed since it was applied", kube.Environment{}, []agent{{source, fetched}, {overlay, strings.Replace(fluxLive, "{", "{observedGeneration: 0, ", 1)}},
			"Kustomization/pay: the controller has seen generation 0, not yet 1"},
		{"a Kustomization with the image before", kube.Environment{}, []agent{{source, fetched}, {strings.Replace(overlay, "path:", "images: [{name: pay, newName: shop/pay, newTag: v1}], path:", 1), fluxLive}},
			"Kustomization/pay: it is to run shop/pay:v1, not yet sha256:1111"},
		{"a Kustomization's old failure", kube.Environment{}, []agent{{source, fetched}, {overlay,
			"{lastAttemptedRevision: main@sha1:OURS, conditions: [{type: Ready, status: \"False\", reason: BuildFailed, message: of before, observedGeneration: 0}]}"}}, "Kustomization/pay: at no revision, not yet at OURS12"},
		{"a source that cannot be fetched", kube.Environment{}, []agent{{source, "{artifact: {revision: main@sha1:BEFORE}, conditions: [{type: Ready, status: \"False\", reason: GitOperationFailed, message: authentication required}]}"},
			{overlay, strings.ReplaceAll(fluxLive, "OURS", "BEFORE")}}, "Kustomization/pay: at main@sha1:BEFORE, not yet at OURS12; GitRepository/env: GitOperationFailed: authentication required"},
		{"a source of a tag", kube.Environment{}, []agent{{strings.Replace(source, "branch: main", "tag: v1", 1), ""}, {overlay, ""}}, "nothing brings the repository to the cluster"},
		{"a source by the name of its reference", kube.Environment{}, []agent{{strings.Replace(source, "branch: main", "name: refs/heads/main", 1), fetched}, {overlay, fluxLive}}, ""},
		{"flux", kube.Environment{}, []agent{{source, fetched}, {overlay, fluxLive}}, ""},

		{"an image that runs beside the one before", kube.Environment{}, []agent{{named(application, "pay"), "{sync: {status: Synced, revision: BEFORE}, health: {status: Healthy}, summary: {images: [" + payImage("1") + ", " + payImage("2") + "]}}"}},
			"at revision BEFORE12, not yet at OURS12"},
		{"an image that runs beside others", kube.Environment{}, []agent{{named(application, "pay"), "{sync: {status: Synced, revision: BEFORE}, health: {status: Healthy}, summary: {images: [" + payImage("1") + ", \"redis:7\"]}}"}}, ""},
		{"a sync that did not even begin", kube.Environment{}, []agent{{named(application, "pay"), "{sync: {status: Unknown, revision: OURS}, operationState: {phase: Error, message: no cluster, operation: {sync: {revision: OURS}}}}"}},
			"Argo CD could not sync it: no cluster"},
		{"a sync that is being ended", kube.Environment{}, []agent{{named(application, "pay"), strings.Replace(argoLive, "Succeeded", "Terminating", 1)}}, "syncing: in progress"},
		{"the parent of an Application with the image before", kube.Environment{}, []agent{{named(application, "root"), argoLive}, {ofImage("2"), "{sync: {status: Synced, revision: 1.2.3}, health: {status: Healthy}, summary: {images: [" + payImage("2") + "]}}"}},
			"Application/child: it is to run " + payImage("2") + ", not yet sha256:1111"},
		{"the parent of an Application that has yet to sync", kube.Environment{}, []agent{{named(application, "root"), argoLive}, {ofImage("1"), "{sync: {status: OutOfSync, revision: 1.2.3}, health: {status: Healthy}, summary: {images: [" + payImage("2") + "]}}"}},
			"Application/child: "},
		{"the parent of an Application that is live", kube.Environment{}, []agent{{named(application, "root"), argoLive}, {ofImage("1"), "{sync: {status: Synced, revision: 1.2.3}, health: {status: Healthy}, summary: {images: [" + payImage("1") + "]}}"}}, ""},
		{"Applications of another branch", kube.Environment{Branch: "prod"}, []agent{{onBranch(named(application, "dev"), "HEAD"), "{health: {status: Degraded}}"}, {onBranch(named(application, "test"), "main"), ""},
			{onBranch(named(application, "prod"), "refs/heads/prod"), argoLive}}, ""},
		{"an Application of the default branch", kube.Environment{}, []agent{{onBranch(named(application, "dev"), "HEAD"), argoLive}, {onBranch(named(application, "prod"), "prod"), ""}}, ""},
		{"an Application of another service", kube.Environment{Path: "."}, []agent{{named(application, "pay"), strings.Replace(argoLive, "{", "{summary: {images: ["+payImage("1")+"]}, ", 1)},
			{named(application, "till"), "{sync: {status: OutOfSync, revision: OURS}, health: {status: Degraded}, summary: {images: [\"shop/till:v1\"]}}"}}, ""},

		{"a release of Helm with the image before", kube.Environment{}, []agent{{holdingDigest(helmRelease, "2", ""), helmReady}}, "HelmRelease/pay: it is to run git.example.org/shop/pay@sha256:2222"},
		{"a release of Helm that is not seen yet", kube.Environment{}, []agent{{holdingDigest(helmRelease, "1", ""), strings.Replace(helmReady, "{", "{observedGeneration: 0, ", 1)}}, "seen generation 0, not yet 1"},
		{"a release of Helm", kube.Environment{}, []agent{{holdingDigest(helmRelease, "1", ""), helmReady}}, ""},
		{"a release of Helm that fails", kube.Environment{}, []agent{{holdingDigest(helmRelease, "1", ""), failing(", observedGeneration: 1")}}, "failed: HelmRelease/pay: Flux could not release it: UpgradeFailed: Helm upgrade failed"},
		{"a release of Helm that failed before", kube.Environment{}, []agent{{holdingDigest(helmRelease, "1", ""), failing(", observedGeneration: 0")}}, "HelmRelease/pay: not released yet: no reason given"},
		{"a release of Helm that tries again", kube.Environment{}, []agent{{holdingDigest(helmRelease, "1", ", upgrade: {remediation: {retries: 3}}"), failing(", observedGeneration: 1")}}, "HelmRelease/pay: not ready: UpgradeFailed: Helm upgrade failed"},
		{"a release of Helm that has given up", kube.Environment{}, []agent{{holdingDigest(helmRelease, "1", ", upgrade: {remediation: {retries: 3}}"),
			strings.Replace(failing(", observedGeneration: 1"), "[", "[{type: Stalled, status: \"True\", reason: RetriesExceeded, message: after 4 attempts, observedGeneration: 1}, ", 1)}}, "failed: HelmRelease/pay: Flux could not release it: UpgradeFailed: Helm upgrade failed"},
	}
	isolate(t)
	repository := bare(t, map[string]string{"prod/pay.yaml": manifest(payImage("2"))})
	commit := deployed(t, kube.Environment{URL: "file://" + repository}, payImage("1"), "")
	git(t, repository, "branch", "prod", "main")
	before := git(t, repository, "rev-parse", "main^")
	values := strings.NewReplacer("OURS12", commit.Hash[:12], "BEFORE12", before[:12], "OURS", commit.Hash, "BEFORE", before, "REPO", "file://"+repository)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newAPIServer(t)
			client := s.connect("shop")
			_, err := client.Apply(t.Context(), load(t, agentDefinitions+releaseDefinition), kube.ApplyOptions{})
			require.NoError(t, err)
			for _, a := range tt.agents {
				objects := load(t, values.Replace(a.manifest))
				_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
				require.NoError(t, err)
				if a.status != "" {
					gvk := objects[0].GroupVersionKind()
					plural := map[string]string{"Application": "applications", "GitRepository": "gitrepositories", "Kustomization": "kustomizations", "HelmRelease": "helmreleases"}[gvk.Kind]
					s.setStatus(fmt.Sprintf("/apis/%s/%s/namespaces/shop/%s/%s", gvk.Group, gvk.Version, plural, objects[0].GetName()), values.Replace(a.status))
				}
			}
			e := tt.e
			e.URL = "file://" + repository
			if e.Path == "" {
				e.Path = "prod"
			}
			if tt.want != "" && !strings.Contains(tt.want, "could not") {
				waitCommitInVain(t, client, e, commit.Hash, payImage("1"), values.Replace(tt.want))
				return
			}
			err = client.WaitCommit(t.Context(), e, commit.Hash, payImage("1"), kube.WaitOptions{Timeout: time.Minute})
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, values.Replace(tt.want))
		})
	}
}

// A CronJob runs nothing for hours: that it is to run the image is all there is to wait for. What else ran it once does not matter.
func TestClusterWaitCommitOfACronJob(t *testing.T) {
	c := newCluster(t)
	app := needs.App(t)
	repository, _, _ := strings.Cut(app, "@")
	other := repository + "@sha256:" + strings.Repeat("9", 64)
	c.create(strings.NewReplacer("OTHER", other, "APP", app).Replace(`apiVersion: batch/v1
kind: CronJob
metadata: {name: settle}
spec: {schedule: "0 0 1 1 *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: APP}]}}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: of-before}
spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: app, image: OTHER}]}}}
`))
	e := kube.Environment{URL: t.TempDir()}
	require.NoError(t, c.WaitCommit(t.Context(), e, "1234", app, kube.WaitOptions{Timeout: time.Minute}))
	waitCommitInVain(t, c.Client, e, "1234", repository+"@sha256:"+strings.Repeat("8", 64), "CronJob/settle: it runs "+app+", not yet sha256:8888")
}

// What the login may not see must not stand in the way of what it sees; and where it sees nothing, that is said.
func TestClusterWaitCommitWithFewRights(t *testing.T) {
	c := newCluster(t)
	app := needs.App(t)
	robot := c.robot("robot")
	e := kube.Environment{URL: t.TempDir()}
	err := robot.WaitCommit(t.Context(), e, "1234", app, kube.WaitOptions{Timeout: time.Minute})
	require.ErrorContains(t, err, "whether it is live cannot be known")
	require.ErrorContains(t, err, "list deployments.apps in the namespace "+c.namespace)
	c.grant("robot", `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: looker}
rules: [{apiGroups: [apps], resources: [deployments], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: looker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: looker}
subjects: [{kind: ServiceAccount, name: robot, namespace: `+c.namespace+`}]
`, "watch deployments.apps")
	c.apply(appManifest(app, 1, environment("one"), ""))
	require.NoError(t, robot.WaitCommit(t.Context(), e, "1234", app, kube.WaitOptions{Timeout: time.Minute}))
}
