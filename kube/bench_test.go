package kube_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testcluster"
	"github.com/grimoire-build/grimoire/kube"
)

// What is compared with kubectl is a process too: this program, told by its environment what to do in the place of tests.
const asProcess = "GRIMOIRE_TEST_PROCESS"

func TestMain(m *testing.M) {
	do, ok := map[string]func(context.Context) error{"apply": applyProcess, "deploy": deployProcess, "wait": waitProcess}[os.Getenv(asProcess)]
	if !ok {
		flag.Parse()
		// The parallel ones, on the real cluster, mostly wait for it.
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	if err := do(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func loadAndConnect() ([]*kube.Object, *kube.Client, error) {
	objects, err := kube.Load(os.Getenv("MANIFESTS"))
	if err != nil {
		return nil, nil, err
	}
	client, err := kube.Connect(kube.Config{Context: testcluster.ContextName, Namespace: os.Getenv("NAMESPACE")})
	return objects, client, err
}

func applyProcess(ctx context.Context) error {
	objects, client, err := loadAndConnect()
	if err != nil {
		return err
	}
	_, err = client.Apply(ctx, objects, kube.ApplyOptions{})
	return err
}

func deployProcess(ctx context.Context) error {
	objects, client, err := loadAndConnect()
	if err != nil {
		return err
	}
	_, err = client.Deploy(ctx, objects, kube.DeployOptions{Name: "app", Rollback: os.Getenv("ROLLBACK") != "", Image: os.Getenv("IMAGE")})
	return err
}

func waitProcess(ctx context.Context) error {
	objects, client, err := loadAndConnect()
	if err != nil {
		return err
	}
	return client.Wait(ctx, objects, kube.WaitOptions{})
}

// process is this program as a process that does one thing.
func (c *realCluster) process(ctx context.Context, do, manifests string, env ...string) *exec.Cmd {
	exe, err := os.Executable()
	require.NoError(c.t, err)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), append(env, asProcess+"="+do, "MANIFESTS="+manifests, "NAMESPACE="+c.namespace, "KUBECONFIG="+c.kubeconfig)...)
	return cmd
}

// releaseOf200 is a release of 200 objects of six kinds, whose workloads have no replicas.
func releaseOf200() string {
	var text strings.Builder
	for i := range 40 {
		fmt.Fprintf(&text, `---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: app-%[1]d}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: app-%[1]d}, data: {address: "app-%[1]d.example.org", settings: "a: 1\nb: 2\n"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: app-%[1]d}, data: {password: czNjcmV0}}
---
apiVersion: v1
kind: Service
metadata: {name: app-%[1]d, labels: {app: app-%[1]d}}
spec: {clusterIP: None, selector: {app: app-%[1]d}, ports: [{name: http, port: 80, protocol: TCP, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%[1]d, labels: {app: app-%[1]d}}
spec:
  replicas: 0
  selector: {matchLabels: {app: app-%[1]d}}
  template:
    metadata: {labels: {app: app-%[1]d}}
    spec:
      serviceAccountName: app-%[1]d
      containers:
      - name: app
        image: registry.example.org/app
        ports: [{containerPort: 8080, protocol: TCP}]
        env: [{name: A, value: one}, {name: B, valueFrom: {secretKeyRef: {name: app-%[1]d, key: password}}}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}}
        resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 128Mi}}
`, i)
	}
	return text.String()
}

// BenchmarkApply times whole processes of ours and of kubectl in turn, each in a namespace that is empty at first, and then once
// more with nothing to change, on the cluster that tests share, whose etcd does not wait for the disk.
func BenchmarkApply(b *testing.B) {
	c := &realCluster{t: b, kubeconfig: needs.Cluster(b), kubectl: needs.Kubectl(b)}
	c.benchmarkApply(b)
}

// BenchmarkApplyDurably is the same on a control plane whose etcd waits for the disk, as it does wherever somebody's services run.
func BenchmarkApplyDurably(b *testing.B) {
	kubectl := needs.Kubectl(b)
	cluster, err := testcluster.Start(b.Context(), testcluster.Options{Dir: b.TempDir(), ControlPlane: true, Durable: true})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, cluster.Stop()) })
	c := &realCluster{t: b, kubeconfig: cluster.Kubeconfig, kubectl: kubectl}
	c.benchmarkApply(b)
}

func (c *realCluster) benchmarkApply(b *testing.B) {
	for name, text := range map[string]string{"1000 ConfigMaps": manyConfigMaps(1000), "200 objects": releaseOf200()} {
		b.Run(name, func(b *testing.B) {
			c.t = b
			manifests := filepath.Join(b.TempDir(), "manifests.yaml")
			require.NoError(b, os.WriteFile(manifests, []byte(text), 0o600))
			took := map[string][]time.Duration{}
			for range b.N {
				for who, command := range map[string]func() *exec.Cmd{
					"kubectl": func() *exec.Cmd { return c.command(b.Context(), "apply", "--server-side", "--filename", manifests) },
					"apply":   func() *exec.Cmd { return c.process(b.Context(), "apply", manifests) },
					"deploy":  func() *exec.Cmd { return c.process(b.Context(), "deploy", manifests) },
				} {
					c.namespace = fmt.Sprintf("bench-%08x", rand.Uint32())
					c.run("create", "namespace", c.namespace, "--namespace=default")
					for _, when := range []string{"new", "again"} {
						begin := time.Now()
						out, err := command().CombinedOutput()
						took[who+" "+when] = append(took[who+" "+when], time.Since(begin))
						require.NoError(b, err, "%s", out)
					}
					c.run("delete", "namespace", c.namespace, "--namespace=default")
				}
			}
			for _, when := range []string{"new", "again"} {
				for _, who := range []string{"apply", "deploy"} {
					b.ReportMetric(float64(median(took["kubectl "+when]))/float64(median(took[who+" "+when])), fmt.Sprintf("kubectl/%s-%s", who, when))
				}
				b.ReportMetric(float64(median(took["kubectl "+when]).Milliseconds()), "kubectl-"+when+"-ms")
			}
		})
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
