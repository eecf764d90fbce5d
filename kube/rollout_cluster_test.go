package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testcluster"
	"github.com/grimoire-build/grimoire/kube"
)

// times is how often something is done: as the environment says, or a number that does not take long.
func times(name string, or int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return or
}

// ownCluster is a cluster that the test has for itself.
func ownCluster(t *testing.T) (*testcluster.Cluster, *realCluster) {
	t.Helper()
	needs.Node(t)
	needs.Cluster(t) // so that no test that takes stock of the machine runs beside it
	own, err := testcluster.Start(t.Context(), testcluster.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, own.Stop()) })
	c := &realCluster{t: t, kubeconfig: own.Kubeconfig, kubectl: own.Kubernetes, namespace: "default"}
	c.eventually("the namespace has a service account", func() bool { return c.command(t.Context(), "get", "serviceaccount", "default").Run() == nil })
	return own, c
}

// service is a Service and a Deployment of it whose pods serve on until nobody is sent to them any more.
func service(name, image, version string) string {
	return strings.NewReplacer("NAME", name, "IMAGE", image, "VERSION_", version).Replace(`apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 2
  selector: {matchLabels: {app: NAME}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 75
      containers:
      - name: app
        image: IMAGE
        env: [{name: V, value: "VERSION_"}, {name: DRAIN, value: "DRAIN_"}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
`)
}

// drain is how long a pod of these tests serves on, in milliseconds: longer than an API server is away, since nobody hears before it
// is back that the pod is to go.
const drain = "60000"

// load is what clients in the cluster tell of their requests.
type clientLoad struct {
	Asked, Failed int
	Last          string
}

func (c *realCluster) load(i int) (l clientLoad, err error) {
	out, err := c.command(c.t.Context(), "get", "--raw", fmt.Sprintf("/api/v1/namespaces/default/pods/load-%d:8080/proxy/load", i)).Output()
	if err == nil {
		err = json.Unmarshal(out, &l)
	}
	return l, err
}

// Many rolling updates, with clients that ask all the time, an API server that is restarted, and connections that are cut: success is
// told of what is whole, and no client is refused.
func TestClusterManyRollouts(t *testing.T) {
	t.Parallel()
	own, c := ownCluster(t)
	image := needs.App(t)
	const services = 4
	rounds := times("ROLLOUTS", 8) / services

	kubeconfig, err := os.ReadFile(c.kubeconfig)
	require.NoError(t, err)
	server := regexp.MustCompile(`127\.0\.0\.1:\d+`)
	proxy := cutterEvery(t, server.FindString(string(kubeconfig)), func() time.Duration { return 100*time.Millisecond + rand.N(2*time.Second) })
	cut, err := kube.Connect(kube.Config{Data: server.ReplaceAll(kubeconfig, []byte(proxy.Addr().String())), Namespace: c.namespace})
	require.NoError(t, err)

	// The clients ask what is live.
	direct := c.connect(c.namespace)
	manifest := func(name string, version int) string {
		return strings.ReplaceAll(service(name, image, fmt.Sprint(version)), "DRAIN_", drain)
	}
	for i := range services {
		name := fmt.Sprintf("app-%d", i)
		_, err := direct.Deploy(t.Context(), load(t, manifest(name, 0)), kube.DeployOptions{Name: name, Timeout: time.Minute})
		require.NoError(t, err)
		address := c.run("get", "service", name, "--output=jsonpath={.spec.clusterIP}")
		c.create(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: load-%d}, spec: {containers: [{name: app, image: %q, env: [{name: LOAD, value: "http://%s/"}]}]}}`, i, image, address))
	}
	before := make([]clientLoad, services)
	for i := range services {
		c.eventually("the clients ask", func() bool { before[i], err = c.load(i); return err == nil && before[i].Asked > 10 })
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var updates, restarts atomic.Int32
	var disturbing, rolling sync.WaitGroup
	disturbing.Go(func() {
		// After one, what watches the API server waits longer and longer until it asks again, and forgets that after two minutes.
		for pause := 3 * time.Second; sleepFor(ctx, pause+rand.N(pause)); pause = 2 * time.Minute {
			if own.RestartAPIServer(ctx) == nil {
				t.Logf("restart %d of the API server", restarts.Add(1))
			}
		}
	})
	for i := range services {
		rolling.Go(func() {
			name := fmt.Sprintf("app-%d", i)
			for n := range rounds {
				begun := time.Now()
				_, err := cut.Deploy(t.Context(), load(t, manifest(name, n+1)), kube.DeployOptions{Name: name, Timeout: 2 * time.Minute})
				t.Logf("%s: update %d took %.1f s", name, n+1, time.Since(begun).Seconds())
				if !assert.NoError(t, err) {
					return
				}
				updates.Add(1)
				c.assertWhole(name, fmt.Sprint(n+1))
			}
		})
	}
	rolling.Wait()
	stop()
	disturbing.Wait()
	asked, failed, last := 0, 0, ""
	for i := range services {
		var l clientLoad
		c.eventually("the API server is back", func() bool { l, err = c.load(i); return err == nil })
		asked, failed = asked+l.Asked-before[i].Asked, failed+l.Failed-before[i].Failed
		if l.Failed > before[i].Failed {
			last = l.Last
		}
	}
	t.Logf("%d updates, %d restarts of the API server, %d requests, %d failed", updates.Load(), restarts.Load(), asked, failed)
	assert.Zero(t, failed, "the last of them: %s", last)
	assert.Positive(t, restarts.Load())
}

// sleepFor reports whether ctx is still good after some time.
func sleepFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// assertWhole looks at a Deployment right after success was told.
func (c *realCluster) assertWhole(name, version string) {
	c.t.Helper()
	var out []byte
	var err error
	for range 60 { // the API server may be away
		if out, err = c.command(c.t.Context(), "get", "deployment", name, "--output=json").Output(); err == nil {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	if !assert.NoError(c.t, err) {
		return
	}
	var d struct {
		Metadata struct{ Generation int }
		Spec     struct {
			Replicas int
			Template struct {
				Spec struct {
					Containers []struct {
						Env []struct{ Name, Value string }
					}
				}
			}
		}
		Status struct{ ObservedGeneration, Replicas, UpdatedReplicas, AvailableReplicas int }
	}
	assert.NoError(c.t, json.Unmarshal(out, &d))
	assert.Equal(c.t, version, d.Spec.Template.Spec.Containers[0].Env[0].Value)
	assert.Equal(c.t, d.Metadata.Generation, d.Status.ObservedGeneration)
	assert.Equal(c.t, []int{d.Spec.Replicas, d.Spec.Replicas, d.Spec.Replicas}, []int{d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.AvailableReplicas})
}
