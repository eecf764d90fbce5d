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

func (c *realCluster) deploy(manifests string, o kube.DeployOptions) (kube.Deployed, error) {
	c.t.Helper()
	o.Name, o.Timeout = "app", time.Minute
	return c.Deploy(c.t.Context(), load(c.t, manifests), o)
}

// version asks the release's pods, through the API server, what they are.
func (c *realCluster) versions() []string {
	c.t.Helper()
	var versions []string
	for _, pod := range c.pods() {
		if pod.Metadata.DeletionTimestamp == "" && pod.Status.Phase == "Running" {
			versions = append(versions, c.run("get", "--raw", "/api/v1/namespaces/"+c.namespace+"/pods/"+pod.Metadata.Name+":8080/proxy/"))
		}
	}
	return versions
}

func environment(version string) map[string]string { return map[string]string{"VERSION": version} }

func TestClusterRollsBack(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	settings := func(value string) string { return settingsMaps(value, "settings") }
	_, err := c.deploy(settings("one")+"---\n"+appManifest(image, 2, environment("one"), ""), kube.DeployOptions{})
	require.NoError(t, err)

	broken := map[string]string{"VERSION": "two", "UNREADY": "yes"}
	_, err = c.deploy(settings("two")+settingsMaps("two", "new")+"---\n"+withDeadline(appManifest(image, 2, broken, ""), 10), kube.DeployOptions{Rollback: true})
	var failed *kube.DeployError
	require.ErrorAs(t, err, &failed)
	var waited *kube.WaitError
	require.ErrorAs(t, err, &waited, "the failure stays the first one")
	require.NoError(t, failed.RollbackErr)
	assert.True(t, failed.RolledBack)
	assert.Equal(t, 1, failed.To.Number)
	assert.ErrorContains(t, err, "rolled back to revision 1, which is live again")
	assert.Equal(t, []string{"one", "one"}, c.versions())
	assert.Equal(t, map[string]string{"settings": "one"}, present(t, c), "all of the release, not the workload alone")

	_, err = c.deploy(settings("three")+"---\n"+withDeadline(appManifest(image, 2, broken, ""), 10), kube.DeployOptions{})
	require.ErrorAs(t, err, &failed)
	assert.False(t, failed.RolledBack)
	assert.ErrorContains(t, err, "what was applied stays")
	assert.Equal(t, map[string]string{"settings": "three"}, present(t, c))
	revision, err := c.Rollback(t.Context(), kube.RollbackOptions{Name: "app", Timeout: time.Minute})
	require.NoError(t, err)
	assert.Equal(t, 1, revision.Number)
	assert.Equal(t, map[string]string{"settings": "one"}, present(t, c))

	done, err := c.deploy(settings("four")+"---\n"+appManifest(image, 1, environment("four"), ""), kube.DeployOptions{Rollback: true})
	require.NoError(t, err)
	assert.Equal(t, 2, done.Revision)
	assert.Equal(t, []string{"four"}, c.versions())
}

// The controller repeats what an older revision was refused, and that its deadline has passed; neither is said of the one that mends it.
func TestClusterMends(t *testing.T) {
	image := needs.App(t)
	good := appManifest(image, 1, environment("one"), "")
	t.Run("what was refused", func(t *testing.T) {
		c := newCluster(t)
		c.run("label", "namespace", c.namespace, "pod-security.kubernetes.io/enforce=baseline")
		_, err := c.deploy(strings.Replace(good, "      containers:", "      hostPID: true\n      containers:", 1), kube.DeployOptions{})
		require.ErrorContains(t, err, "violates PodSecurity")
		_, err = c.deploy(good, kube.DeployOptions{Rollback: true})
		require.NoError(t, err)
	})
	t.Run("what was late", func(t *testing.T) {
		c := newCluster(t)
		_, err := c.deploy(good, kube.DeployOptions{})
		require.NoError(t, err)
		late := withDeadline(appManifest(image, 1, map[string]string{"VERSION": "two", "UNREADY": "yes"}, ""), 5)
		_, err = c.deploy(late, kube.DeployOptions{})
		require.ErrorContains(t, err, "ProgressDeadlineExceeded")
		_, err = c.Rollback(t.Context(), kube.RollbackOptions{Name: "app", Timeout: time.Minute})
		require.NoError(t, err)
		assert.Equal(t, []string{"one"}, c.versions())
	})
}

// What was there before the first deployment of ours is put back field by field; what others have set stays.
func TestClusterRollsBackTheFirstTime(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	theirs := appManifest(image, 1, environment("theirs"), "        imagePullPolicy: Always\n")
	objects := load(t, theirs)
	_, err := c.Apply(t.Context(), objects, kube.ApplyOptions{FieldManager: "kubectl"})
	require.NoError(t, err)
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))

	ours := withDeadline(appManifest(image, 2, map[string]string{"VERSION": "ours", "UNREADY": "yes"}, ""), 10)
	_, err = c.deploy(settingsMaps("ours", "new")+"---\n"+ours, kube.DeployOptions{Rollback: true, Force: true})
	var failed *kube.DeployError
	require.ErrorAs(t, err, &failed)
	require.NoError(t, failed.RollbackErr)
	assert.ErrorContains(t, err, "rolled back to what was there before, which is live again")
	assert.Equal(t, []string{"theirs"}, c.versions())
	assert.Empty(t, present(t, c))
	pay := c.live("/apis/apps/v1/namespaces/" + c.namespace + "/deployments/app")
	assert.NotContains(t, fmt.Sprint(pay.Object["spec"]), "UNREADY")
}

func TestClusterNothingToRollBackTo(t *testing.T) {
	c := newCluster(t)
	_, err := c.deploy(withDeadline(appManifest(needs.App(t), 1, map[string]string{"UNREADY": "yes"}, ""), 10), kube.DeployOptions{Rollback: true})
	require.ErrorContains(t, err, "not rolled back: there is no good revision of app to roll back to; it has never been live")
}

// A StatefulSet waits for its broken pod before it goes back, and the pod never comes.
func TestClusterRollsBackAStatefulSet(t *testing.T) {
	c := newCluster(t)
	manifest := func(environment string) string {
		return strings.NewReplacer("IMAGE", needs.App(t), "ENV", environment).Replace(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: app}
spec:
  replicas: 2
  serviceName: app
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: IMAGE
        env: [ENV]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
`)
	}
	_, err := c.deploy(manifest("{name: VERSION, value: one}"), kube.DeployOptions{})
	require.NoError(t, err)
	objects := load(t, manifest(`{name: VERSION, value: two}, {name: EXIT, value: "3"}`))
	_, err = c.Deploy(t.Context(), objects, kube.DeployOptions{Name: "app", Rollback: true, Timeout: 15 * time.Second})
	require.ErrorContains(t, err, "rolled back to revision 1, which is live again")
	assert.Equal(t, []string{"one", "one"}, c.versions())
}

const hookManifest = `apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {grimoire.build/hook: before-rollout}}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, env: [{name: EXIT, value: "CODE"}]}]}}
---
`

func TestClusterHook(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	hook := func(code string) string {
		return strings.NewReplacer("IMAGE", image, "CODE", code).Replace(hookManifest)
	}
	jobs := func() string { return c.run("get", "jobs", "--output=name") }
	digest := func(n int) string { return "registry.example.org/app@sha256:" + strings.Repeat(fmt.Sprint(n), 64) }

	_, err := c.deploy(hook("4")+appManifest(image, 1, environment("one"), ""), kube.DeployOptions{Image: digest(1)})
	require.ErrorContains(t, err, "running the hook migrate, before any workload was changed")
	require.ErrorContains(t, err, "Job/migrate-1111111111")
	assert.Empty(t, c.run("get", "deployments", "--output=name"), "no workload before the hook is done")

	_, err = c.deploy(hook("0")+appManifest(image, 1, environment("one"), ""), kube.DeployOptions{Image: digest(1)})
	require.NoError(t, err, "the hook that failed is run again, as it is declared now")
	first := c.run("get", "job", "migrate-1111111111", "--output=jsonpath={.metadata.uid}")

	done, err := c.deploy(hook("0")+appManifest(image, 1, environment("two"), ""), kube.DeployOptions{Image: digest(1)})
	require.NoError(t, err)
	assert.Equal(t, []string{"Deployment/app configured"}, actions(done.Changes))
	assert.Equal(t, first, c.run("get", "job", "migrate-1111111111", "--output=jsonpath={.metadata.uid}"), "once for each image")

	c.run("delete", "job", "migrate-1111111111")
	_, err = c.deploy(hook("0")+appManifest(image, 1, environment("three"), ""), kube.DeployOptions{Image: digest(1)})
	require.NoError(t, err)
	assert.Empty(t, jobs(), "also when its Job is gone")

	_, err = c.deploy(hook("0")+appManifest(image, 1, environment("three"), ""), kube.DeployOptions{Image: digest(2)})
	require.NoError(t, err)
	_, err = c.deploy(hook("0")+appManifest(image, 1, environment("three"), ""), kube.DeployOptions{Image: digest(3)})
	require.NoError(t, err)
	assert.Equal(t, "job.batch/migrate-3333333333\n", jobs(), "those of earlier images are no longer declared")

	_, err = c.deploy(hook("4")+appManifest(image, 1, environment("three"), ""), kube.DeployOptions{Image: digest(1)})
	require.NoError(t, err, "it does not run again for an image that somebody goes back to")
}

func TestHookErrors(t *testing.T) {
	s := newAPIServer(t)
	for from, want := range map[string]string{
		"before-rollout":        `the annotation grimoire.build/hook of Job/migrate is "other"; write before-rollout`,
		"batch/v1\nkind: Job\n": "ConfigMap/migrate has the annotation grimoire.build/hook, and only a Job can be a hook; remove it",
	} {
		to := "other"
		if strings.Contains(from, "kind") {
			to = "v1\nkind: ConfigMap\n"
		}
		objects := load(t, strings.Replace(hookManifest, from, to, 1))
		_, err := s.connect("shop").Deploy(t.Context(), objects, kube.DeployOptions{Name: "pay"})
		require.ErrorContains(t, err, objects[0].Source.String())
		require.ErrorContains(t, err, want)
	}
}
