package kube_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/kube"
)

func TestClusterObserveAndLogs(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	objects := c.apply(appManifest(image, 2, environment("one"), "") + "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: there}}\n")
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))
	objects = append(objects, load(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: missing}}")...)
	observed, err := c.Observe(t.Context(), objects)
	require.NoError(t, err)
	require.Len(t, observed, 3)
	states := map[string]kube.Result{}
	var pods []kube.Pod
	for _, o := range observed {
		states[o.Object.String()] = o.Result
		pods = append(pods, o.Pods...)
	}
	assert.Equal(t, map[string]kube.Result{
		"Deployment/app":    {State: kube.Current, Message: "2 replicas available"},
		"ConfigMap/there":   {State: kube.Current, Message: "there is nothing to wait for"},
		"ConfigMap/missing": {State: kube.Failed, Message: "it is not in the cluster"},
	}, states)
	require.Len(t, pods, 2)
	assert.Equal(t, kube.Current, pods[0].Result.State)
	assert.Equal(t, []kube.Container{{Name: "app", Image: image}}, pods[0].Containers)

	var lines []string
	note := func(_ kube.Pod, container, text string) { lines = append(lines, container+": "+text) }
	require.NoError(t, c.Logs(t.Context(), pods, kube.LogOptions{Lines: 5}, note))
	assert.Equal(t, []string{"app: starting one", "app: starting one"}, lines)

	ctx, cancel := context.WithCancel(t.Context())
	var seen sync.WaitGroup
	seen.Add(2)
	go func() { seen.Wait(); cancel() }()
	err = c.Logs(ctx, pods, kube.LogOptions{Follow: true}, func(kube.Pod, string, string) { seen.Done() })
	require.ErrorIs(t, err, context.Canceled)

	stranger := kube.Pod{Namespace: c.namespace, Name: "nobody", Containers: []kube.Container{{Name: "app"}}}
	err = c.Logs(t.Context(), []kube.Pod{stranger}, kube.LogOptions{}, note)
	require.ErrorContains(t, err, "reading the log of the container app of Pod/nobody")
}

func TestClusterPlan(t *testing.T) {
	c := newCluster(t)
	secret := "---\n{apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {password: VALUE, same: s4me}}\n"
	manifests := settingsMaps("one", "a", "b") + strings.Replace(secret, "VALUE", "s3cret-one", 1)
	_, err := c.deploy(manifests, kube.DeployOptions{})
	require.NoError(t, err)
	manifests = settingsMaps("two", "a", "c") + strings.Replace(secret, "VALUE", "s3cret-two", 1)
	plan, err := c.Plan(t.Context(), load(t, manifests), kube.DeployOptions{Name: "app"})
	require.NoError(t, err)
	assert.False(t, plan.Empty())
	diffs := map[string]string{}
	for _, change := range plan.Changes {
		diffs[change.String()] = change.Diff()
	}
	assert.Equal(t, "--- live/"+c.namespace+"/ConfigMap/a\n+++ declared/"+c.namespace+"/ConfigMap/a\n"+
		"@@ -1,6 +1,6 @@\n apiVersion: v1\n data:\n-  value: one\n+  value: two\n kind: ConfigMap\n metadata:\n   labels:\n", diffs["ConfigMap/a configured"])
	assert.Contains(t, diffs["Secret/login configured"], "-  password: '*** (before)'\n+  password: '*** (after)'\n   same: '***'\n")
	for _, encoded := range []string{"s3cret", "czNjcmV0"} {
		assert.NotContains(t, diffs["Secret/login configured"], encoded)
	}
	assert.Empty(t, diffs["ConfigMap/c created"])
	require.Len(t, plan.Removed, 1)
	assert.Equal(t, "ConfigMap/b", plan.Removed[0].String())
	assert.Equal(t, map[string]string{"a": "one", "b": "one"}, withoutLogin(present(t, c)), "nothing is changed")
}

func withoutLogin(found map[string]string) map[string]string {
	delete(found, "login")
	return found
}
