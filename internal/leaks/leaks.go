// Package leaks tells what a run has left on the machine: processes, mounts, network interfaces, firewall rules, settings of the
// kernel, control groups and files in the places where daemons leave theirs.
package leaks

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Snapshot is what there was at one time, a line each.
type Snapshot []string

// ours matches the command lines of the programs that the test infrastructure is made of.
var ours = regexp.MustCompile(`sandbox-guard|/kubernetes\b|containerd|dockerd|runc|docker-registry|grimoire-(cluster|engine|registry|test)-`)

// places are where daemons leave files, as patterns.
var places = []string{
	"/run/netns/*", "/run/containerd*", "/run/docker*", "/run/xtables.lock", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/docker",
	"/var/lib/containerd", "/var/log/containers", "/var/log/pods", "/etc/cni", "/etc/docker/*",
	"/sys/fs/cgroup/grimoire-*", "/sys/fs/cgroup/*/grimoire-*", "/sys/fs/cgroup/kubepods*", "/sys/fs/cgroup/*/kubepods*", "/sys/fs/cgroup/*/docker",
}

// settings are those of the kernel that a kubelet or an engine changes for the whole machine.
var settings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/netfilter/nf_conntrack_max",
}

// Take looks at the machine. Where it has no such thing as one of these, nothing is said of it.
func Take() (Snapshot, error) {
	var s Snapshot
	add := func(kind, what string) { s = append(s, kind+": "+what) }
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		add("network interface", i.Name)
	}
	for _, pattern := range append([]string{
		filepath.Join(os.TempDir(), "grimoire-cluster-*"), filepath.Join(os.TempDir(), "grimoire-engine-*"),
		filepath.Join(os.TempDir(), "grimoire-registry-*"), filepath.Join(os.TempDir(), "grimoire-test-*"),
	}, places...) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			add("file", path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if field := strings.Fields(line); len(field) > 2 {
			add("mount", field[2]+" on "+field[1])
		}
	}
	for _, name := range settings {
		if value, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil {
			add("setting", name+" = "+strings.TrimSpace(string(value)))
		}
	}
	if rules, err := exec.Command("iptables-save").Output(); err == nil {
		for line := range strings.Lines(string(rules)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") { // comments and counters
				add("firewall rule", strings.TrimSpace(line))
			}
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, path := range commands {
		if data, err := os.ReadFile(path); err == nil {
			command := strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
			if ours.MatchString(command) {
				add("process", fmt.Sprintf("%s %.200q", filepath.Base(filepath.Dir(path)), command))
			}
		}
	}
	slices.Sort(s)
	return slices.Compact(s), nil
}

// Since returns what is there now and was not before.
func Since(before Snapshot) (Snapshot, error) {
	now, err := Take()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(now, func(line string) bool { return slices.Contains(before, line) }), nil
}
