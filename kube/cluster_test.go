package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testcluster"
	"github.com/grimoire-build/grimoire/kube"
)

// These tests run on a real cluster, whose pods are containers.

// realCluster is a namespace of its own in the cluster.
type realCluster struct {
	*kube.Client
	t                              testing.TB
	kubectl, kubeconfig, namespace string
}

func newCluster(t *testing.T) *realCluster {
	t.Helper()
	t.Parallel() // each mostly waits
	c := &realCluster{t: t, kubeconfig: needs.Cluster(t), kubectl: needs.Kubectl(t), namespace: fmt.Sprintf("test-%08x", rand.Uint32())}
	c.run("create", "namespace", c.namespace)
	t.Cleanup(c.clean)
	c.Client = c.connect(c.namespace)
	// Before it no pod is admitted.
	c.eventually("the namespace has a service account", func() bool {
		return c.command(t.Context(), "get", "serviceaccount", "default").Run() == nil
	})
	return c
}

// clean removes what a case has made, also outside of its namespace, by its name. It does not wait for the end of it.
func (c *realCluster) clean() {
	ctx := context.Background() // the test's has ended
	out, err := c.command(ctx, "get", "namespaces,clusterroles,customresourcedefinitions,configmaps", "--namespace=default", "--output=name").Output()
	assert.NoError(c.t, err)
	for _, object := range strings.Fields(string(out)) {
		if strings.Contains(object, c.namespace) {
			out, err := c.command(ctx, "delete", object, "--namespace=default", "--wait=false").CombinedOutput()
			assert.NoError(c.t, err, "%s", out)
		}
	}
}

func (c *realCluster) connect(namespace string) *kube.Client {
	c.t.Helper()
	client, err := kube.Connect(kube.Config{Kubeconfig: c.kubeconfig, Context: testcluster.ContextName, Namespace: namespace})
	require.NoError(c.t, err)
	return client
}

func (c *realCluster) name() string { return c.namespace }

func (c *realCluster) live(path string) *unstructured.Unstructured {
	c.t.Helper()
	u := new(unstructured.Unstructured)
	require.NoError(c.t, u.UnmarshalJSON([]byte(c.run("get", "--raw", path))))
	return u
}

func (c *realCluster) list(path string) []unstructured.Unstructured {
	c.t.Helper()
	var list unstructured.UnstructuredList
	require.NoError(c.t, list.UnmarshalJSON([]byte(c.run("get", "--raw", path))))
	return list.Items
}

func (c *realCluster) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.kubectl, append([]string{"kubectl", "--kubeconfig", c.kubeconfig, "--namespace", c.namespace}, args...)...)
}

func (c *realCluster) run(args ...string) string {
	c.t.Helper()
	out, err := c.command(c.t.Context(), args...).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		require.NoError(c.t, err, "kubectl %s: %s", strings.Join(args, " "), exit.Stderr)
	}
	require.NoError(c.t, err)
	return string(out)
}

func (c *realCluster) eventually(what string, holds func() bool) {
	c.t.Helper()
	require.Eventually(c.t, holds, time.Minute, 100*time.Millisecond, what)
}

// pod is what these tests look at.
type pod struct {
	Metadata struct{ Name, UID, DeletionTimestamp string }
	Status   struct {
		Phase                 string
		Conditions            []struct{ Type, Status, Reason, Message string }
		ContainerStatuses     []containerStatus
		InitContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	Ready        bool
	RestartCount int
	State        containerState
	LastState    containerState
}

type containerState struct {
	Waiting    *struct{ Reason, Message string }
	Terminated *struct {
		Reason   string
		ExitCode int
	}
}

func (c *realCluster) pods() []pod {
	c.t.Helper()
	var list struct{ Items []pod }
	require.NoError(c.t, json.Unmarshal([]byte(c.run("get", "pods", "--output=json")), &list))
	return list.Items
}

func (c *realCluster) hasEvent(reason, message string) bool {
	c.t.Helper()
	var list struct {
		Items []struct{ Reason, Message string }
	}
	require.NoError(c.t, json.Unmarshal([]byte(c.run("get", "events", "--output=json")), &list))
	for _, event := range list.Items {
		if event.Reason == reason && strings.Contains(event.Message, message) {
			return true
		}
	}
	return false
}

// appManifest is a Deployment of the app with an environment, as YAML's "NAME: value" in braces, and more in its container.
func appManifest(image string, replicas int, environment map[string]string, more string) string {
	var env []string
	for name, value := range environment {
		env = append(env, fmt.Sprintf("{name: %s, value: %q}", name, value))
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: %d
  progressDeadlineSeconds: 60
  selector: {matchLabels: {app: app}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: app
        image: %s
        env: [%s]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
%s`, replicas, image, strings.Join(env, ", "), more)
}

// withDeadline has the Deployment of appManifest fail when it makes no progress for some seconds.
func withDeadline(manifest string, seconds int) string {
	return strings.Replace(manifest, "progressDeadlineSeconds: 60", fmt.Sprintf("progressDeadlineSeconds: %d", seconds), 1)
}

func (c *realCluster) apply(manifest string) []*kube.Object {
	c.t.Helper()
	objects := load(c.t, manifest)
	_, err := c.Apply(c.t.Context(), objects, kube.ApplyOptions{})
	require.NoError(c.t, err)
	return objects
}

func TestClusterRollingUpdate(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	objects := c.apply(appManifest(image, 2, map[string]string{"VERSION": "one"}, ""))
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))
	before := map[string]bool{}
	for _, pod := range c.pods() {
		assert.True(t, pod.Status.ContainerStatuses[0].Ready)
		before[pod.Metadata.UID] = true
		assert.Equal(t, "one", c.run("get", "--raw", "/api/v1/namespaces/"+c.namespace+"/pods/"+pod.Metadata.Name+":8080/proxy/"))
	}
	require.Len(t, before, 2)

	objects = c.apply(appManifest(image, 2, map[string]string{"VERSION": "two"}, ""))
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))
	var answers []string
	for _, pod := range c.pods() {
		if before[pod.Metadata.UID] {
			continue // on its way out
		}
		answers = append(answers, c.run("get", "--raw", "/api/v1/namespaces/"+c.namespace+"/pods/"+pod.Metadata.Name+":8080/proxy/"))
	}
	assert.Equal(t, []string{"two", "two"}, answers, "the pods have been replaced")

	changes, err := c.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	for _, change := range changes {
		assert.Equal(t, kube.Unchanged, change.Action, "the same again changes nothing")
	}
}

func TestClusterServiceLeadsToPods(t *testing.T) {
	c := newCluster(t)
	objects := c.apply(appManifest(needs.App(t), 1, map[string]string{"VERSION": "one"}, "") + `---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{port: 80, targetPort: 8080}]}
`)
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))
	c.eventually("the service answers", func() bool {
		out, err := c.command(t.Context(), "get", "--raw", "/api/v1/namespaces/"+c.namespace+"/services/app:80/proxy/").Output()
		return err == nil && string(out) == "one"
	})
}

func TestClusterFailingReadiness(t *testing.T) {
	c := newCluster(t)
	// The pod has to run by then.
	objects := c.apply(withDeadline(appManifest(needs.App(t), 1, map[string]string{"UNREADY": "yes"}, ""), 30))
	err := c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: 2 * time.Minute})
	require.ErrorContains(t, err, "ProgressDeadlineExceeded")
	pods := c.pods()
	require.Len(t, pods, 1)
	assert.Equal(t, "Running", pods[0].Status.Phase)
	assert.False(t, pods[0].Status.ContainerStatuses[0].Ready)
	assert.True(t, c.hasEvent("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503"))
}

// kinds are workloads of each kind, of the app or of its program run once.
const kinds = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: stateful}
spec:
  replicas: 2
  serviceName: stateful
  selector: {matchLabels: {app: stateful}}
  template: {metadata: {labels: {app: stateful}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemon}
spec:
  selector: {matchLabels: {app: daemon}}
  template: {metadata: {labels: {app: daemon}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, env: [{name: EXIT, value: "0"}]}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}}]}
`

func TestClusterWaitsForEachKind(t *testing.T) {
	c := newCluster(t)
	objects := c.apply(strings.ReplaceAll(kinds, "IMAGE", needs.App(t)))
	require.NoError(t, c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))
	assert.Equal(t, "2", c.run("get", "statefulset", "stateful", "--output=jsonpath={.status.availableReplicas}"))
	assert.Equal(t, "1", c.run("get", "daemonset", "daemon", "--output=jsonpath={.status.numberAvailable}"))
	assert.Equal(t, "1", c.run("get", "job", "job", "--output=jsonpath={.status.succeeded}"))
}

func TestClusterWaitEnds(t *testing.T) {
	c := newCluster(t)
	objects := c.apply(appManifest(needs.App(t), 1, map[string]string{"UNREADY": "yes"}, ""))
	err := c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: 10 * time.Second})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "not current after 10s: Deployment/app")
	require.ErrorContains(t, err, "0 of 1 replicas available")

	why := errors.New("Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(time.Second, func() { cancel(why) })
	require.ErrorIs(t, c.Wait(ctx, objects, kube.WaitOptions{}), why)

	c.run("delete", "deployment", "app")
	err = c.Wait(t.Context(), objects, kube.WaitOptions{})
	require.ErrorContains(t, err, "it is not in the cluster; apply it")
}

func TestClusterRefusals(t *testing.T) {
	c := newCluster(t)
	objects := c.apply(deployment)
	other := load(t, strings.NewReplacer("{app: pay}", "{app: other}").Replace(deployment))
	_, err := c.Apply(t.Context(), other, kube.ApplyOptions{})
	require.ErrorContains(t, err, "field is immutable; delete the live object first, or give the new one another name")

	// A login that may read and nothing else.
	c.run("create", "serviceaccount", "reader")
	c.run("create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount="+c.namespace+":reader")
	token := c.run("create", "token", "reader")
	kubeconfig, err := os.ReadFile(c.kubeconfig)
	require.NoError(t, err)
	before, _, found := strings.Cut(string(kubeconfig), "users:")
	require.True(t, found)
	reader, err := kube.Connect(kube.Config{
		Data:      fmt.Appendf(nil, "%susers: [{name: %s, user: {token: %q}}]\n", before, testcluster.ContextName, token),
		Namespace: c.namespace,
	})
	require.NoError(t, err)
	changes, err := reader.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err, "nothing is to be changed")
	assert.Equal(t, []string{"Deployment/pay unchanged"}, actions(changes))
	require.NoError(t, unstructured.SetNestedField(objects[0].Object, int64(3), "spec", "replicas"))
	_, err = reader.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.ErrorContains(t, err, "; let the login patch deployments.apps in the namespace "+c.namespace)
	assert.NotContains(t, err.Error(), token)

	stranger, err := kube.Connect(kube.Config{
		Data: fmt.Appendf(nil, "%susers: [{name: %s, user: {token: nobody-knows}}]\n", before, testcluster.ContextName), Namespace: c.namespace,
	})
	require.NoError(t, err)
	_, err = stranger.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.ErrorContains(t, err, "refuses the login")
	require.ErrorContains(t, err, "renew the credentials in the kubeconfig")

	nowhere := c.connect(c.namespace + "-nowhere")
	_, err = nowhere.Apply(t.Context(), load(t, deployment), kube.ApplyOptions{})
	require.ErrorContains(t, err, "create the namespace, or add it to the manifests")
}

// Between the client and the cluster every connection is cut, again and again, while pods are replaced.
func TestClusterWaitsThroughCutConnections(t *testing.T) {
	c := newCluster(t)
	kubeconfig, err := os.ReadFile(c.kubeconfig)
	require.NoError(t, err)
	server := regexp.MustCompile(`127\.0\.0\.1:\d+`)
	proxy := cutter(t, server.FindString(string(kubeconfig)))
	client, err := kube.Connect(kube.Config{Data: server.ReplaceAll(kubeconfig, []byte(proxy.Addr().String())), Namespace: c.namespace})
	require.NoError(t, err)
	image := needs.App(t)
	for _, version := range []string{"one", "two", "three"} {
		objects := load(t, appManifest(image, 3, map[string]string{"VERSION": version}, ""))
		_, err := c.Apply(t.Context(), objects, kube.ApplyOptions{})
		require.NoError(t, err)
		require.NoError(t, client.Wait(t.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))
		status := c.run("get", "deployment", "app", "--output=jsonpath={.metadata.generation} {.status.observedGeneration} {.status.replicas} {.status.updatedReplicas} {.status.availableReplicas}")
		field := strings.Fields(status)
		require.Len(t, field, 5, status)
		assert.Equal(t, field[0], field[1], "success is not told of an older generation")
		assert.Equal(t, []string{"3", "3", "3"}, field[2:])
	}
}

// cutter leads to an address, and cuts all connections every 0.1 to 1 s, which is mostly enough to make one on a busy machine.
func cutter(t *testing.T, address string) net.Listener {
	t.Helper()
	return cutterEvery(t, address, func() time.Duration { return 100*time.Millisecond + rand.N(900*time.Millisecond) })
}

// cutterEvery is cutter with another time between two cuts.
func cutterEvery(t *testing.T, address string, pause func() time.Duration) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var open []net.Conn
	cut := func() {
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range open {
			conn.Close()
		}
		open = nil
	}
	t.Cleanup(func() {
		listener.Close()
		cut()
	})
	go func() {
		for sleepFor(t.Context(), pause()) {
			cut()
		}
	}()
	go func() {
		for {
			outer, err := listener.Accept()
			if err != nil {
				return
			}
			inner, err := net.Dial("tcp", address)
			if err != nil {
				outer.Close()
				continue
			}
			mu.Lock()
			open = append(open, outer, inner)
			mu.Unlock()
			go func() { _, _ = io.Copy(inner, outer); inner.Close() }()
			go func() { _, _ = io.Copy(outer, inner); outer.Close() }()
		}
	}()
	return listener
}
