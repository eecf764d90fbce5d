// Package testcluster runs a real Kubernetes cluster of one node on this machine: etcd, the API server, the controllers, the
// scheduler, and a kubelet with containerd and runc, whose pods are containers, whose probes are asked, and whose failures
// are those that clusters have.
//
// The node needs Linux, root, and the programs of Requirements. The control plane alone needs neither; pods stay pending on it.
// The cluster has no DNS, and its network has no way out: images come from registries on this machine's loopback.
package testcluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/sandbox"
)

// SharedDir is where the cluster that people and tests share keeps its files, in the checkout.
const SharedDir = "build/cluster"

// NodeName is the name of the node.
const NodeName = "node"

// Addresses in the cluster's network, which nothing outside can see.
const (
	nodeIP         = "10.250.0.2"
	firstServiceIP = "10.96.0.1"
	dnsIP          = "10.96.0.10"
	apiPort        = 6443
	etcdPort       = 2379
	etcdPeerPort   = 2380
	mirrorPort     = 5000
)

// Options say what cluster Start starts. The zero value is one with a node.
type Options struct {
	// Dir is where the cluster keeps its files, removed with it; default a temporary folder.
	Dir string
	// ControlPlane leaves the node out.
	ControlPlane bool
	// Durable has etcd answer a write once it is on the disk, as it does where it is to survive the machine: for measurements. Default:
	// it does not wait for that.
	Durable bool
	// Detach keeps the cluster, once it is ready, when the program that started it ends; sandbox.Down ends it.
	Detach bool
	// Until is the id of a process with which a detached one ends too; default none.
	Until int
	// Progress is told of each step; default nobody.
	Progress func(string)
}

// Cluster is one that runs.
type Cluster struct {
	// Kubeconfig is the file that leads to it, with the context ContextName.
	Kubeconfig string
	// Dir is where its files are, the logs of its programs among them.
	Dir string
	// Kubernetes is the file of its programs; kubectl is one of them.
	Kubernetes string

	sandbox *sandbox.Sandbox
}

// Requirements are the programs that a node needs, with Debian's packages that have them.
var Requirements = map[string]string{
	"containerd": "containerd",
	"ctr":        "containerd",
	"runc":       "runc",
	"iptables":   "iptables",
	"ip":         "iproute2",
}

// pluginDirs are where distributions have the CNI plugins; Debian's package is containernetworking-plugins.
var pluginDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// Supported says what this machine lacks for a node, and how to get it.
func Supported() error {
	var missing []string
	for program, pkg := range Requirements {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if _, err := plugins(); err != nil {
		missing = append(missing, "containernetworking-plugins")
	}
	switch {
	case runtime.GOOS != "linux":
		return errors.New("a cluster of real pods needs Linux; elsewhere use kind, k3d or minikube, and name its context")
	case os.Geteuid() != 0:
		return errors.New("a cluster of real pods needs root; run it as root, or use kind, k3d or minikube, and name its context")
	case len(missing) > 0:
		return fmt.Errorf("a cluster of real pods needs what Debian's packages %s have; install them", strings.Join(slices.Compact(slices.Sorted(slices.Values(missing))), " "))
	}
	return nil
}

func plugins() (string, error) {
	for _, dir := range pluginDirs {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("there are no CNI plugins")
}

// Start starts a cluster, and returns when its API server answers and its node is ready. Kubernetes is built first where this
// machine does not have it, which takes minutes. The cluster ends with the program that started it, however that ends, unless
// it is detached. The error has the log of what failed.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting a cluster: %w", err)
		}
	}()
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if !o.ControlPlane {
		if err := Supported(); err != nil {
			return nil, err
		}
	}
	exe, err := Binary(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	for tries := 3; ; tries-- {
		c, err := start(ctx, o, exe)
		// A port that was free may have been taken since.
		if err == nil || !o.ControlPlane || tries == 1 || !strings.Contains(err.Error(), "address already in use") {
			return c, err
		}
	}
}

// longestSocket is the longest path in the folder that the kubelet listens at.
const longestSocket = "kubelet/pod-resources/kubelet.sock"

func start(ctx context.Context, o Options, exe string) (_ *Cluster, err error) {
	place, err := sandbox.At(o.Dir, "cluster", longestSocket)
	if err != nil {
		return nil, err
	}
	n := Node{Dir: place.Dir, Kubernetes: exe, APIPort: apiPort, EtcdPort: etcdPort, EtcdPeerPort: etcdPeerPort, ControlPlane: o.ControlPlane, Durable: o.Durable}
	c, admin, err := prepare(ctx, &n)
	if err != nil {
		return nil, errors.Join(err, place.Abandon())
	}
	c.Until = o.Until
	s, err := place.Start(c)
	if err != nil {
		return nil, err
	}
	cluster := &Cluster{Kubeconfig: n.Path("kubeconfig"), Dir: n.Dir, Kubernetes: exe, sandbox: s}
	if err = cluster.await(ctx, o.Progress); err == nil {
		server := n.Server()
		if s.Address != "" {
			server = "https://" + s.Address
		}
		err = os.WriteFile(cluster.Kubeconfig, admin(server), 0o600)
	}
	if err == nil && o.Detach {
		err = s.Release()
	}
	if err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	return cluster, nil
}

// prepare makes what the programs of the cluster read, and says in what sandbox they run.
func prepare(ctx context.Context, n *Node) (c sandbox.Config, admin func(server string) []byte, err error) {
	if n.ControlPlane {
		if n.APIPort, n.EtcdPort, n.EtcdPeerPort, err = freePorts(); err != nil {
			return c, nil, err
		}
	} else {
		c.Isolate, c.Network, c.Forward, c.Mirror = true, true, apiPort, mirrorPort
		n.CgroupRoot = "/" + sandbox.CgroupName(n.Dir)
		if c.Replace, err = n.replacements(); err != nil {
			return c, nil, err
		}
		if n.Plugins, err = plugins(); err != nil {
			return c, nil, err
		}
		if err := writePause(ctx, n.Dir); err != nil {
			return c, nil, err
		}
	}
	program := n.Path("cluster")
	if err := sandbox.Build(ctx, reflect.TypeFor[Cluster]().PkgPath()+"/node", program); err != nil {
		return c, nil, err
	}
	said, err := json.Marshal(n)
	if err != nil {
		return c, nil, err
	}
	// Nothing that these programs ask is behind a proxy.
	c.Command, c.Env = []string{program, string(said)}, []string{"NO_PROXY=*", "no_proxy=*"}
	admin, err = writePKI(n.Path("pki"), n.Server())
	return c, admin, err
}

// RestartFile is the file in the cluster's folder that asks for the API server to be restarted.
const RestartFile = "restart-apiserver"

// RestartAPIServer kills the API server and has it started anew. It returns when the old one is gone.
func (c *Cluster) RestartAPIServer(ctx context.Context) error {
	file := filepath.Join(c.Dir, RestartFile)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the cluster, and returns when nothing of it is left.
func (c *Cluster) Stop() error { return c.sandbox.Stop() }

// Ready is the last step.
const Ready = "ready"

// step is what the program in the sandbox says of itself, a line each.
type step struct{ Step, Error string }

// await reads the steps until the cluster is ready or has failed.
func (c *Cluster) await(ctx context.Context, progress func(string)) error {
	stop := context.AfterFunc(ctx, func() { c.sandbox.Stdout.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewScanner(c.sandbox.Stdout)
	for lines.Scan() {
		var s step
		switch err := json.Unmarshal(lines.Bytes(), &s); {
		case err != nil:
			return fmt.Errorf("reading what the cluster says: %w: %s", err, lines.Text())
		case s.Error != "":
			return errors.New(s.Error)
		case s.Step == Ready:
			return nil
		}
		progress(s.Step)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("it ended before it was ready: %s", c.sandbox.Log())
}

// freePorts returns ports on this machine's loopback that are free now.
func freePorts() (api, etcd, peer int, err error) {
	ports := make([]int, 3)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, 0, err
		}
		defer listener.Close()
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports[0], ports[1], ports[2], nil
}
