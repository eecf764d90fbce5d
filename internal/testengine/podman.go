package testengine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/grimoire-build/grimoire/internal/sandbox"
	"github.com/grimoire-build/grimoire/internal/testimage"
)

// ShellImage is an image of busybox, which StartPodman knows.
const ShellImage = "docker.io/library/busybox:1"

// PodmanSupported says what this machine lacks for Podman, and how to get it.
func PodmanSupported() error {
	_, missing := exec.LookPath("podman")
	switch {
	case runtime.GOOS != "linux":
		return errors.New("a Podman of our own needs Linux")
	case os.Geteuid() != 0:
		return errors.New("a Podman of our own needs root; run the tests as root")
	case missing != nil:
		return errors.New("it needs podman; Debian's package of that name has it")
	}
	return nil
}

// StartPodman starts Podman's service, which speaks the part of the engine's API that the builder before BuildKit needs. insecure are the
// registries, as HOST:PORT, that it may push to over plain HTTP. It ends with the program that started it, however that ends.
func StartPodman(ctx context.Context, insecure ...string) (_ *Engine, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting Podman: %w", err)
		}
	}()
	if err := PodmanSupported(); err != nil {
		return nil, err
	}
	place, err := sandbox.At("", "podman", socketName)
	if err != nil {
		return nil, err
	}
	c, err := preparePodman(place.Dir, insecure)
	if err != nil {
		return nil, errors.Join(err, place.Abandon())
	}
	s, err := place.Start(c)
	if err != nil {
		return nil, err
	}
	socket := Socket(place.Dir)
	e := &Engine{Host: "unix://" + socket, sandbox: s}
	e.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	if err = s.Await(ctx, starting, e.ping); err == nil {
		err = e.load(ctx, []string{filepath.Join(place.Dir, "shell.tar")}, func(string) {})
	}
	if err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// preparePodman makes what Podman reads, and says in what sandbox it runs.
func preparePodman(dir string, insecure []string) (c sandbox.Config, err error) {
	containers := filepath.Join(dir, "containers")
	if err := os.Mkdir(containers, 0o755); err != nil {
		return c, err
	}
	var registries strings.Builder
	for _, host := range insecure {
		fmt.Fprintf(&registries, "[[registry]]\nlocation = %q\ninsecure = true\n", host)
	}
	for name, content := range map[string]string{
		"policy.json":     `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"registries.conf": registries.String(),
		"containers.conf": "[containers]\nnetns = \"none\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n",
		"storage.conf":    fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = \"/run/containers/storage\"\n", filepath.Join(dir, "data")),
	} {
		if err := os.WriteFile(filepath.Join(containers, name), []byte(content), 0o644); err != nil {
			return c, err
		}
	}
	image, err := testimage.FromFiles(testimage.Config{Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}}, map[string]string{"bin/sh": busybox, "bin/busybox": busybox})
	if err != nil {
		return c, err
	}
	if err := testimage.Save(filepath.Join(dir, "shell.tar"), ShellImage, image); err != nil {
		return c, err
	}
	return sandbox.Config{
		Command: []string{"podman", "--cgroup-manager=cgroupfs", "system", "service", "--time=0", "unix://" + Socket(dir)},
		Isolate: true,
		Replace: map[string]string{"/etc/containers": containers},
		Env: []string{"CONTAINERS_CONF=" + filepath.Join(containers, "containers.conf"), "CONTAINERS_STORAGE_CONF=" + filepath.Join(containers, "storage.conf"),
			"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(containers, "registries.conf"), "TMPDIR=" + dir},
	}, nil
}
