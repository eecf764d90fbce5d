package kube_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/kube"
)

func TestClusterObserveAndLogs(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	objects := c.apply(appManifest(image, 2, environment("one"), "") + "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: there}}\n")
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))
	objects = append(objects, load(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: missing}}")...)
	observed, err := c.Observe(t.Context(), objects, "")
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

// What a deployment calls live is good, and nothing else is.
func TestObserveAsDeploymentsDo(t *testing.T) {
	s := newAPIServer(t)
	s.kinds["networking.k8s.io/v1"] = []metav1.APIResource{{Kind: "Ingress", Name: "ingresses", Namespaced: true}}
	s.kinds["v1"] = append(s.kinds["v1"], metav1.APIResource{Kind: "PersistentVolumeClaim", Name: "persistentvolumeclaims", Namespaced: true})
	client := s.connect("shop")
	declared := func(more string) []*kube.Object {
		return load(t, strings.Replace(hookManifest, "IMAGE", "pay", 1)+settingsMaps("1", "there")+`---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: pay}, spec: {}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {}}
`+more)
	}
	observe := func(image, more string) map[string]string {
		observed, err := client.Observe(t.Context(), declared(more), image)
		require.NoError(t, err)
		states := map[string]string{}
		for _, o := range observed {
			states[o.Object.String()] = fmt.Sprintf("%s, good %v, hook %v: %s", o.Result.State, o.Good(), o.Hook, o.Result.Message)
		}
		return states
	}
	const job = "/apis/batch/v1/namespaces/shop/jobs/migrate-1111111111"
	options := kube.DeployOptions{Name: "pay", Image: payImage("1")}
	done := make(chan error, 1)
	go func() {
		_, err := client.Deploy(t.Context(), declared(""), options)
		done <- err
	}()
	for path := range s.watching {
		if path == job {
			break
		}
	}
	assert.Equal(t, "in progress, good false, hook true: ", strings.SplitAfter(observe(payImage("1"), "")["Job/migrate-1111111111"], ": ")[0])
	s.setStatus(job, "{succeeded: 1, conditions: [{type: Complete, status: \"True\"}]}")
	require.NoError(t, <-done)

	history, err := client.History(t.Context(), "pay")
	require.NoError(t, err)
	assert.Equal(t, payImage("1"), history.Last.Image)
	assert.Equal(t, map[string]string{
		"Job/migrate-1111111111":     "current, good true, hook true: complete",
		"ConfigMap/there":            "current, good true, hook false: there is nothing to wait for",
		"Ingress/pay":                "in progress, good true, hook false: it has no address yet; a controller of the cluster has to give it one",
		"PersistentVolumeClaim/data": "in progress, good true, hook false: not bound yet; it may wait for the first pod that uses it",
		"ConfigMap/missing":          "failed, good false, hook false: it is not in the cluster",
		"Job/also":                   "failed, good false, hook false: it is not in the cluster",
	}, observe(history.Last.Image, settingsMaps("1", "missing")+"---\n{apiVersion: batch/v1, kind: Job, metadata: {name: also}}\n"))
	assert.Equal(t, "current, good true, hook true: it runs once for each image, and no Job is there for this one", observe(payImage("2"), "")["Job/migrate-2222222222"])
	plan, err := client.Plan(t.Context(), declared(""), options)
	require.NoError(t, err)
	assert.True(t, plan.Empty())
	s.setStatus(job, "{failed: 1, conditions: [{type: Failed, status: \"True\", reason: BackoffLimitExceeded}]}")
	assert.Contains(t, observe(payImage("1"), "")["Job/migrate-1111111111"], "failed, good false, hook true: ")
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
