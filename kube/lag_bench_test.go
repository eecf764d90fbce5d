package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/kube"
)

// BenchmarkLag measures how long after a rollout is complete, as a raw watch sees it, our process that waits for it ends, and
// kubectl's, which are begun at the same time.
func BenchmarkLag(b *testing.B) {
	c := &realCluster{t: b, kubeconfig: needs.Cluster(b), kubectl: needs.Kubectl(b), namespace: fmt.Sprintf("bench-%08x", rand.Uint32())}
	c.run("create", "namespace", c.namespace, "--namespace=default")
	b.Cleanup(func() {
		_ = c.command(context.Background(), "delete", "namespace", c.namespace, "--namespace=default", "--wait=false").Run()
	})
	c.Client = c.connect(c.namespace)
	c.eventually("the namespace has a service account", func() bool { return c.command(b.Context(), "get", "serviceaccount", "default").Run() == nil })
	image := needs.App(b)
	objects := c.apply(appManifest(image, 2, environment("0"), ""))
	require.NoError(b, c.Wait(b.Context(), objects, kube.WaitOptions{Timeout: time.Minute}))

	lags := map[string][]time.Duration{}
	file := filepath.Join(b.TempDir(), "manifests.yaml")
	for n := range b.N {
		manifest := appManifest(image, 2, environment(fmt.Sprint(n+1)), "")
		require.NoError(b, os.WriteFile(file, []byte(manifest), 0o600))
		objects := c.apply(manifest)
		complete := c.completion(objects[0].GetName())
		var wg sync.WaitGroup
		ended := make([]time.Time, 2)
		for i, cmd := range []*exec.Cmd{
			c.process(b.Context(), "wait", file), c.command(b.Context(), "rollout", "status", "deployment", "app", "--timeout=60s"),
		} {
			wg.Go(func() {
				out, err := cmd.CombinedOutput()
				ended[i] = time.Now()
				require.NoError(b, err, "%s", out)
			})
		}
		wg.Wait()
		at := <-complete
		lags["ours"], lags["kubectl"] = append(lags["ours"], ended[0].Sub(at)), append(lags["kubectl"], ended[1].Sub(at))
	}
	for who, all := range lags {
		b.ReportMetric(float64(median(all).Microseconds())/1000, who+"-ms")
	}
}

// completion sends when a raw watch sees the newest generation of a Deployment complete.
func (c *realCluster) completion(name string) <-chan time.Time {
	ctx, stop := context.WithCancel(c.t.Context())
	generation := c.live("/apis/apps/v1/namespaces/" + c.namespace + "/deployments/" + name).GetGeneration()
	cmd := c.command(ctx, "get", "--raw", "/apis/apps/v1/namespaces/"+c.namespace+"/deployments?watch=true")
	out, err := cmd.StdoutPipe()
	require.NoError(c.t, err)
	require.NoError(c.t, cmd.Start())
	complete := make(chan time.Time, 1)
	go func() {
		defer func() { stop(); _ = cmd.Wait() }()
		for decoder := json.NewDecoder(out); ; {
			var event struct{ Object json.RawMessage }
			if decoder.Decode(&event) != nil {
				return
			}
			now := time.Now()
			var u unstructured.Unstructured
			if u.UnmarshalJSON(event.Object) == nil && u.GetName() == name && u.GetGeneration() >= generation && kube.Status(&u).State == kube.Current {
				complete <- now
				return
			}
		}
	}()
	return complete
}
