package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"github.com/grimoire-build/grimoire/internal/sandbox"
	"github.com/grimoire-build/grimoire/internal/testimage"
)

// Node is what the program in the sandbox has to know to start a cluster.
type Node struct {
	Dir, Kubernetes                 string
	APIPort, EtcdPort, EtcdPeerPort int
	ControlPlane, Durable           bool
	// CgroupRoot is below what the kubelet makes its control groups.
	CgroupRoot string
	// Plugins is the folder of the CNI plugins.
	Plugins string
}

// pauseImage is what holds the network of a pod. No registry has it.
const pauseImage = "grimoire.test/pause:1"

// Networks inside the cluster.
const (
	podCIDR     = "10.244.0.0/24"
	serviceCIDR = "10.96.0.0/24"
)

// Path returns a path in the folder of the cluster.
func (n Node) Path(elem ...string) string { return filepath.Join(append([]string{n.Dir}, elem...)...) }

// PKI returns the path of a certificate, key or kubeconfig.
func (n Node) PKI(name string) string { return n.Path("pki", name) }

// Server is the URL of the API server, seen from inside.
func (n Node) Server() string { return fmt.Sprintf("https://127.0.0.1:%d", n.APIPort) }

// Etcd returns the arguments of etcd.
func (n Node) Etcd() []string {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", n.EtcdPort), fmt.Sprintf("http://127.0.0.1:%d", n.EtcdPeerPort)
	return []string{"etcd", "--data-dir=" + n.Path("etcd"), fmt.Sprintf("--unsafe-no-fsync=%t", !n.Durable), "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer}
}

// APIServer returns the arguments of kube-apiserver.
func (n Node) APIServer() []string {
	args := []string{"kube-apiserver", fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", n.EtcdPort), fmt.Sprintf("--secure-port=%d", n.APIPort),
		"--tls-cert-file=" + n.PKI("apiserver.crt"), "--tls-private-key-file=" + n.PKI("apiserver.key"), "--client-ca-file=" + n.PKI("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + n.PKI("service-account.pub"),
		"--service-account-signing-key-file=" + n.PKI("service-account.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-cluster-ip-range=" + serviceCIDR, "--profiling=false"}
	if n.ControlPlane {
		// An address is published to pods, of which there are none.
		return append(args, "--bind-address=127.0.0.1", "--advertise-address="+nodeIP, "--endpoint-reconciler-type=none")
	}
	return append(args, "--bind-address=0.0.0.0", "--advertise-address="+nodeIP, "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate="+n.PKI("apiserver-kubelet.crt"), "--kubelet-client-key="+n.PKI("apiserver-kubelet.key"),
		"--kubelet-certificate-authority="+n.PKI("ca.crt"))
}

// ControllerManager returns the arguments of kube-controller-manager.
func (n Node) ControllerManager() []string {
	return append(n.controller("kube-controller-manager", "controller-manager"), "--root-ca-file="+n.PKI("ca.crt"),
		"--service-account-private-key-file="+n.PKI("service-account.key"), "--use-service-account-credentials=true")
}

// Scheduler returns the arguments of kube-scheduler.
func (n Node) Scheduler() []string { return n.controller("kube-scheduler", "scheduler") }

// controller has the flags that both have. Nobody asks for their metrics, so they listen nowhere.
func (n Node) controller(program, user string) []string {
	config := n.PKI(user + ".kubeconfig")
	return []string{program, "--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--secure-port=0", "--leader-elect=false", "--profiling=false"}
}

// Kubelet returns the arguments of kubelet.
func (n Node) Kubelet() []string {
	return []string{"kubelet", "--config=" + n.Path("kubelet.json"), "--kubeconfig=" + n.PKI("kubelet.kubeconfig"),
		"--hostname-override=" + NodeName, "--node-ip=" + nodeIP, "--cert-dir=" + n.Path("pki")}
}

// Proxy returns the arguments of kube-proxy.
func (n Node) Proxy() []string { return []string{"kube-proxy", "--config=" + n.Path("proxy.json")} }

// NetworkCommands are the command lines that give the node its address. There is no other interface for it in the sandbox, and the
// API server and the kubelet want a route.
func NetworkCommands() [][]string {
	return [][]string{
		{"ip", "link", "add", "node0", "type", "bridge"},
		{"ip", "address", "add", nodeIP + "/24", "dev", "node0"},
		{"ip", "link", "set", "node0", "up"},
		{"ip", "route", "add", "default", "via", nodeIP, "dev", "node0"},
	}
}

// Containerd returns the command line of containerd.
func (n Node) Containerd() []string {
	return []string{"containerd", "--config", n.Path("containerd.toml")}
}

// Socket is where containerd listens. The path is the sandbox's own: one in the cluster's folder may be too long for a socket.
const Socket = "/run/containerd.sock"

// Import returns the command line that loads the image of every pod's first container.
func (n Node) Import() []string {
	return []string{"ctr", "--address", Socket, "--namespace", "k8s.io", "images", "import", n.Path("pause.tar")}
}

// WriteConfig writes the files that the programs of the node read.
func (n Node) WriteConfig() error {
	mirror := fmt.Sprintf("server = %[1]q\n\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", fmt.Sprintf("http://127.0.0.1:%d", mirrorPort))
	for name, content := range map[string]any{
		"kubelet.json": map[string]any{
			"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
			"address":       "0.0.0.0",
			"authorization": map[string]any{"mode": "Webhook"},
			"authentication": map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
				"x509": map[string]any{"clientCAFile": n.PKI("ca.crt")}},
			"tlsCertFile": n.PKI("kubelet-server.crt"), "tlsPrivateKeyFile": n.PKI("kubelet-server.key"),
			"containerRuntimeEndpoint": "unix://" + Socket,
			"cgroupDriver":             "cgroupfs", "cgroupRoot": n.CgroupRoot, "failCgroupV1": false, "failSwapOn": false,
			"oomScoreAdj":            0, // lowering it is not allowed everywhere
			"makeIPTablesUtilChains": false,
			"podLogsDir":             n.Path("podlogs"),
			"resolvConf":             "",
			"registerNode":           true,
			"serializeImagePulls":    false,
			// The disk is the machine's: how full it is, is nobody's business here.
			"evictionHard":                map[string]any{"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
			"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		},
		"proxy.json": map[string]any{
			"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
			"mode": "iptables", "bindAddress": "0.0.0.0", "clusterCIDR": podCIDR, "hostnameOverride": NodeName, "oomScoreAdj": 0,
			"clientConnection": map[string]any{"kubeconfig": n.PKI("proxy.kubeconfig")},
			// These would change the whole machine.
			"conntrack": map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
		},
		"cni/10-grimoire.conflist": map[string]any{
			"cniVersion": "1.0.0", "name": "grimoire", "plugins": []any{map[string]any{
				"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
				"ipam": map[string]any{"type": "host-local", "dataDir": n.Path("cni", "addresses"),
					"ranges": []any{[]any{map[string]any{"subnet": podCIDR}}}, "routes": []any{map[string]any{"dst": "0.0.0.0/0"}}},
			}},
		},
		"registries/_default/hosts.toml": mirror,
		"containerd.toml": fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]

[grpc]
  address = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %q
`, n.Path("containerd"), Socket, pauseImage, n.Plugins, n.Path("cni"), n.Path("registries")),
	} {
		if err := writeConfig(n.Path(name), content); err != nil {
			return err
		}
	}
	return nil
}

// writeConfig writes text as it is, and anything else as JSON, which Kubernetes reads as YAML.
func writeConfig(path string, content any) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, ok := content.(string)
	if !ok {
		encoded, err := json.Marshal(content)
		if err != nil {
			return err
		}
		data = string(encoded)
	}
	return os.WriteFile(path, []byte(data), 0o600)
}

// replacements returns what stands in for the kubelet's folder, and for the settings of the kernel that it changes for the whole
// machine: files, each with what the kubelet wants to see.
// Source: https://github.com/kubernetes/kubernetes/blob/v1.37.2/staging/src/k8s.io/component-helpers/node/util/sysctl/sysctl.go
func (n Node) replacements() (map[string]string, error) {
	if err := os.MkdirAll(n.Path("kubelet"), 0o750); err != nil {
		return nil, err
	}
	replace := map[string]string{"/var/lib/kubelet": n.Path("kubelet")}
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		setting := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(setting); err != nil {
			continue // then the kubelet does not find it either
		}
		file := n.Path("sysctl", name)
		if err := writeConfig(file, value+"\n"); err != nil {
			return nil, err
		}
		replace[setting] = file
	}
	return replace, nil
}

// writePause makes the image of every pod's first container.
func writePause(ctx context.Context, dir string) error {
	program := filepath.Join(dir, "pause")
	if err := sandbox.Build(ctx, reflect.TypeFor[Node]().PkgPath()+"/pause", program); err != nil {
		return err
	}
	image, err := testimage.FromFiles(testimage.Config{Entrypoint: []string{"/pause"}}, map[string]string{"pause": program})
	if err != nil {
		return err
	}
	return testimage.Save(filepath.Join(dir, "pause.tar"), pauseImage, image)
}
