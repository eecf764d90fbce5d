// Package testengine runs a Docker Engine of its own on this machine: with its own images, processes and mounts, and no
// bridge or firewall rule. It shares the machine's network, so it reaches registries on loopback.
package testengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/sandbox"
	"github.com/grimoire-build/grimoire/internal/testregistry"
)

// SharedDir is where the engine that people and tests share keeps its files, in the checkout.
const SharedDir = "build/engine"

// starting is how long an engine may take until it answers.
const starting = time.Minute

// socketName is where the engine listens, in its folder.
const socketName = "docker.sock"

// Options say what engine Start starts.
type Options struct {
	// Dir is where the engine keeps its files, removed with it; default a temporary folder.
	Dir string
	// Detach keeps the engine when the program that started it ends; sandbox.Down ends it.
	Detach bool
	// Until is the id of a process with which a detached one ends too; default none.
	Until int
	// StandIns has the engine know the images that StandIns names. No registry is asked for them.
	StandIns bool
	// Progress is told of each step; default nobody.
	Progress func(string)
}

// Engine is one that runs.
type Engine struct {
	// Host is what DOCKER_HOST has to be.
	Host string
	// Certificates is where a folder HOST:PORT with a file ca.crt names the authority of a registry.
	Certificates string

	client  *http.Client
	sandbox *sandbox.Sandbox
}

// Socket returns the path of the socket of the engine in dir.
func Socket(dir string) string { return filepath.Join(dir, socketName) }

// Certificates returns the folder of the authorities that the engine in dir trusts.
func Certificates(dir string) string { return filepath.Join(dir, "certs.d") }

// Supported says what this machine lacks for an engine, and how to get it.
func Supported() error {
	_, missing := exec.LookPath("dockerd")
	switch {
	case runtime.GOOS != "linux":
		return errors.New("a Docker Engine of our own needs Linux; start Docker Desktop, or set DOCKER_HOST to where one runs")
	case os.Geteuid() != 0:
		return errors.New("a Docker Engine of our own needs root; run it as root, start Docker, or set DOCKER_HOST to where one runs")
	case missing != nil:
		return errors.New("a Docker Engine of our own needs dockerd; Debian's package docker.io has it")
	}
	return nil
}

// Start starts an engine, and returns when it answers. It ends with the program that started it, however that ends, unless it
// is detached.
func Start(ctx context.Context, o Options) (_ *Engine, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting a Docker Engine: %w", err)
		}
	}()
	if err := Supported(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	var images []string
	if o.StandIns {
		if images, err = standIns(ctx, o.Progress); err != nil {
			return nil, err
		}
	}
	place, err := sandbox.At(o.Dir, "engine", socketName)
	if err != nil {
		return nil, err
	}
	c, err := prepare(place.Dir)
	if err != nil {
		return nil, errors.Join(err, place.Abandon())
	}
	c.Until = o.Until
	s, err := place.Start(c)
	if err != nil {
		return nil, err
	}
	socket, certificates := Socket(place.Dir), Certificates(place.Dir)
	e := &Engine{Host: "unix://" + socket, Certificates: certificates, sandbox: s}
	e.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	if err = s.Await(ctx, starting, e.ping); err == nil {
		err = e.load(ctx, images, o.Progress)
	}
	if err == nil && o.Detach {
		err = s.Release()
	}
	if err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// prepare makes what the engine reads, and says in what sandbox it runs.
func prepare(dir string) (c sandbox.Config, err error) {
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return c, err
	}
	hosts = fmt.Appendf(hosts, "\n%s %s\n", testregistry.Address, testregistry.Name)
	empty := filepath.Join(dir, "empty")
	// As engines since 23.0 do by themselves.
	config := filepath.Join(dir, "daemon.json")
	if err := errors.Join(os.WriteFile(config, []byte(`{"features": {"buildkit": true}}`), 0o644),
		os.WriteFile(filepath.Join(dir, "hosts"), hosts, 0o644), os.Mkdir(empty, 0o755), os.Mkdir(Certificates(dir), 0o755)); err != nil {
		return c, err
	}
	c = sandbox.Config{
		Command: []string{"dockerd", "--config-file=" + config, "--host=unix://" + Socket(dir), "--data-root=" + filepath.Join(dir, "data"),
			"--exec-root=/run/docker", "--pidfile=/run/docker.pid", "--cgroup-parent=/" + sandbox.CgroupName(dir),
			"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"},
		Isolate: true,
		Replace: map[string]string{"/etc/docker/certs.d": Certificates(dir), "/etc/hosts": filepath.Join(dir, "hosts")},
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		c.Env = append(c.Env, name+"="+strings.Trim(os.Getenv(name)+","+testregistry.Name, ","))
	}
	// An engine that sees AppArmor loads a profile into the kernel, which would stay.
	const security = "/sys/kernel/security"
	if _, err := os.Stat(security + "/apparmor"); err == nil {
		c.Replace[security] = empty
	}
	return c, nil
}

// Stop ends the engine, and returns when nothing of it is left.
func (e *Engine) Stop() error { return e.sandbox.Stop() }

func (e *Engine) ping(ctx context.Context) error {
	return e.request(ctx, http.MethodGet, "/_ping", nil)
}

// load has the engine take images from files.
func (e *Engine) load(ctx context.Context, images []string, progress func(string)) error {
	for _, file := range images {
		progress("loading " + file)
		image, err := os.Open(file)
		if err != nil {
			return err
		}
		err = e.request(ctx, http.MethodPost, "/images/load?quiet=1", image)
		image.Close()
		if err != nil {
			return fmt.Errorf("loading %s: %w", file, err)
		}
	}
	return nil
}

func (e *Engine) request(ctx context.Context, method, path string, body io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err != nil {
		return err
	}
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	// Loading reports its errors in a stream whose status is 200.
	if response.StatusCode != http.StatusOK || strings.Contains(string(said), `"errorDetail"`) {
		return fmt.Errorf("%s: %s", response.Status, said)
	}
	return nil
}
