package testcluster_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testcluster"
)

func kubectl(t *testing.T, c *testcluster.Cluster, args ...string) string {
	t.Helper()
	out, err := exec.Command(c.Kubernetes, append([]string{"kubectl", "--kubeconfig", c.Kubeconfig}, args...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// Two clusters run side by side, each with a pod; one is stopped, then the other, and nothing is left of either.
func TestTwoClusters(t *testing.T) {
	needs.Node(t)
	image := needs.App(t)
	nothingLeft := needs.NothingLeft(t)
	clusters := make([]*testcluster.Cluster, 2)
	errs := make([]error, len(clusters))
	var wg sync.WaitGroup
	for i := range clusters {
		wg.Go(func() {
			start := time.Now()
			clusters[i], errs[i] = testcluster.Start(t.Context(), testcluster.Options{})
			t.Logf("a cluster was ready after %.1f s", time.Since(start).Seconds())
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	asked := time.Now()
	for _, c := range clusters {
		kubectl(t, c, "run", "app", "--image="+image, "--env=VERSION=one")
	}
	for _, c := range clusters {
		kubectl(t, c, "wait", "--for=condition=Ready", "pod/app", "--timeout=60s")
		t.Logf("a pod was ready %.1f s after it was asked for", time.Since(asked).Seconds())
		assert.Equal(t, "one", kubectl(t, c, "get", "--raw", "/api/v1/namespaces/default/pods/app:8080/proxy/"))
		assert.Contains(t, kubectl(t, c, "logs", "app"), "starting one")
	}
	require.NoError(t, clusters[0].Stop())
	assert.NoDirExists(t, clusters[0].Dir)
	assert.Equal(t, "one", kubectl(t, clusters[1], "get", "--raw", "/api/v1/namespaces/default/pods/app:8080/proxy/"))
	require.NoError(t, clusters[1].Stop())
	nothingLeft()
}

func TestStartCancelled(t *testing.T) {
	needs.Node(t)
	nothingLeft := needs.NothingLeft(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("Ctrl-C")
	_, err := testcluster.Start(ctx, testcluster.Options{Progress: func(step string) {
		if strings.Contains(step, "API server") {
			cancel(why)
		}
	}})
	require.ErrorIs(t, err, why)
	nothingLeft()
}

// The control plane alone needs no root. Pods stay pending on it.
func TestControlPlane(t *testing.T) {
	needs.Kubectl(t)
	nothingLeft := needs.NothingLeft(t)
	c, err := testcluster.Start(t.Context(), testcluster.Options{ControlPlane: true})
	require.NoError(t, err)
	kubectl(t, c, "create", "deployment", "app", "--image=app:1")
	require.Eventually(t, func() bool {
		return strings.Contains(kubectl(t, c, "get", "pods", "--output=wide"), "Pending")
	}, time.Minute, 100*time.Millisecond, "the controllers make its pod")
	assert.Empty(t, kubectl(t, c, "get", "nodes", "--output=name"))
	require.NoError(t, c.Stop())
	nothingLeft()
}

func TestRestartAPIServer(t *testing.T) {
	needs.Node(t)
	nothingLeft := needs.NothingLeft(t)
	c, err := testcluster.Start(t.Context(), testcluster.Options{})
	require.NoError(t, err)
	defer func() {
		require.NoError(t, c.Stop())
		nothingLeft()
	}()
	kubectl(t, c, "create", "configmap", "kept")
	began := kubectl(t, c, "get", "--raw", "/metrics")
	for range 3 {
		require.NoError(t, c.RestartAPIServer(t.Context()))
		require.Eventually(t, func() bool {
			return exec.Command(c.Kubernetes, "kubectl", "--kubeconfig", c.Kubeconfig, "get", "--raw", "/readyz").Run() == nil
		}, time.Minute, 100*time.Millisecond)
	}
	assert.Contains(t, kubectl(t, c, "get", "configmap", "kept"), "kept")
	assert.NotEqual(t, startOf(began), startOf(kubectl(t, c, "get", "--raw", "/metrics")))
}

// startOf is when a process began, from its metrics.
func startOf(metrics string) string {
	_, after, _ := strings.Cut(metrics, "\nprocess_start_time_seconds ")
	line, _, _ := strings.Cut(after, "\n")
	return line
}
