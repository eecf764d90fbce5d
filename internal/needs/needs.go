// Package needs is what tests ask for real infrastructure. In CI what is missing fails the test. Elsewhere the test is left out,
// with what it needs and how to get it, which the test target repeats at the end.
package needs

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/grimoire-build/grimoire/internal/leaks"
	"github.com/grimoire-build/grimoire/internal/sandbox"
	"github.com/grimoire-build/grimoire/internal/testcluster"
	"github.com/grimoire-build/grimoire/internal/testengine"
	"github.com/grimoire-build/grimoire/internal/testimage"
	"github.com/grimoire-build/grimoire/internal/testregistry"
)

// leaveOut ends the test.
func leaveOut(t testing.TB, what string, why error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs %s, which CI has to have: %v", what, why)
	}
	t.Skipf("needs %s: %v", what, why)
}

// checkout is the folder that go.mod is in.
var checkout = sync.OnceValues(func() (string, error) {
	pkg := reflect.TypeFor[missing]().PkgPath()
	out, err := exec.Command("go", "list", "-f", "{{.Module.Dir}}", pkg).Output()
	return strings.TrimSpace(string(out)), err
})

// missing is why something is not there.
type missing string

func (m missing) Error() string { return string(m) }

// Cluster returns the kubeconfig of a cluster with a node, with the context testcluster.ContextName: the one that
// `go run . cluster:up` keeps. Its nodes can pull from registries on this machine's loopback.
func Cluster(t testing.TB) string {
	t.Helper()
	dir := shared(t, testcluster.SharedDir)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	hold(t, false)
	// Read, so that a result that stands in the test cache is another cluster's.
	if _, err := os.ReadFile(kubeconfig); err != nil || !sandbox.Running(dir) {
		leaveOut(t, "a cluster", missing("none is up; `go run . cluster:up` starts one"))
	}
	return kubeconfig
}

// Kubectl returns the file of the programs of Kubernetes, of which kubectl is one.
func Kubectl(t testing.TB) string {
	t.Helper()
	exe, err := testcluster.Built(t.Context())
	if err != nil {
		leaveOut(t, "kubectl", missing(err.Error()+"; `go run . cluster:up` builds it"))
	}
	return exe
}

// Node asks for what a cluster of the test's own needs.
func Node(t testing.TB) {
	t.Helper()
	if err := testcluster.Supported(); err != nil {
		leaveOut(t, "a node", err)
	}
	Kubectl(t)
}

// Engine returns the Docker Engine that `go run . engine:up` keeps: it has the stand-in for the base image, and trusts the
// registries whose authorities are below its folder of certificates.
func Engine(t testing.TB) (host, certificates string) {
	t.Helper()
	hold(t, false)
	dir := shared(t, testengine.SharedDir)
	if !sandbox.Running(dir) {
		leaveOut(t, "a Docker Engine", missing("none is up; `go run . engine:up` starts one"))
	}
	return "unix://" + testengine.Socket(dir), testengine.Certificates(dir)
}

// Dockerd asks for what an engine of the test's own needs.
func Dockerd(t testing.TB) {
	t.Helper()
	if err := testengine.Supported(); err != nil {
		leaveOut(t, "dockerd", err)
	}
}

// Podman starts Podman's service for as long as the test runs, and returns what DOCKER_HOST has to be. insecure are the registries,
// as HOST:PORT, that it may push to over plain HTTP.
func Podman(t testing.TB, insecure ...string) (host string) {
	t.Helper()
	if err := testengine.PodmanSupported(); err != nil {
		leaveOut(t, "Podman", err)
	}
	hold(t, false)
	e, err := testengine.StartPodman(t.Context(), insecure...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return e.Host
}

// Registry starts a real registry, for as long as the test runs.
func Registry(t testing.TB, o testregistry.Options) *testregistry.Registry {
	t.Helper()
	if err := testregistry.Supported(o); err != nil {
		leaveOut(t, "a registry", err)
	}
	hold(t, false)
	r, err := testregistry.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Alone asks that no other test uses what this package gives, nor will while this one runs: for tests of what is left on the
// machine. It is of no use to one that has asked for something else before.
func Alone(t testing.TB) {
	t.Helper()
	hold(t, true)
}

// NothingLeft takes stock of the machine for a test that nobody else disturbs, and returns what fails the test unless, before long,
// nothing is there that was not before.
func NothingLeft(t testing.TB) (check func()) {
	t.Helper()
	Alone(t)
	before, err := leaks.Take()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		const patience = time.Minute
		for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			now, err := leaks.Since(before)
			switch {
			case err == nil && len(now) == 0:
				return
			case time.Now().After(deadline):
				t.Fatalf("left behind: %v, %q", err, now)
			}
		}
	}
}

// hold keeps the lock of the tests' infrastructure until the test has ended: for it alone, or together with others.
func hold(t testing.TB, alone bool) {
	t.Helper()
	dir := shared(t, "build")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	holdIn(t, dir, alone)
}

func holdIn(t testing.TB, dir string, alone bool) {
	t.Helper()
	// Who holds it together with others must not come to the gate again: it may be closed by one that waits for just this test to end.
	if !alone && holders.has(dir, t.Name()) {
		return
	}
	// Who wants it alone keeps the gate closed, so that the others do not come in for ever.
	gate := lockFile(t, filepath.Join(dir, "infrastructure.gate"), alone)
	lockFile(t, filepath.Join(dir, "infrastructure.lock"), alone)
	if !alone {
		gate.Close()
		holders.add(dir, t.Name())
		t.Cleanup(func() { holders.remove(dir, t.Name()) })
	}
}

// holding are the tests of this process that hold a folder's lock together with others, each for the tests below it too.
type holding struct {
	mu    sync.Mutex
	tests map[holder]bool
}

type holder struct{ dir, test string }

var holders = holding{tests: map[holder]bool{}}

func (h *holding) add(dir, test string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tests[holder{dir, test}] = true
}

func (h *holding) remove(dir, test string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.tests, holder{dir, test})
}

// has reports whether the test, or one that it is below, holds the lock.
func (h *holding) has(dir, test string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.tests[holder{dir, test}] {
		i := strings.LastIndexByte(test, '/')
		if i < 0 {
			return false
		}
		test = test[:i]
	}
	return true
}

// lockFile locks a file until the test has ended or the file is closed.
func lockFile(t testing.TB, path string, alone bool) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if err := lock(file, alone); err != nil {
		t.Fatal(err)
	}
	return file
}

// Root asks for the rights of root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		leaveOut(t, "root", missing("it takes what only root may do; run the tests as root"))
	}
}

func shared(t testing.TB, dir string) string {
	t.Helper()
	root, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, filepath.FromSlash(dir))
}

// app is the image of the command internal/testcluster/app, built once in a process.
var app = sync.OnceValues(func() (v1.Image, error) {
	dir, err := os.MkdirTemp("", "app-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "app")
	if err := sandbox.Build(context.Background(), reflect.TypeFor[testcluster.Cluster]().PkgPath()+"/app", program); err != nil {
		return nil, err
	}
	return testimage.FromFiles(testimage.Config{Entrypoint: []string{"/app"}}, map[string]string{"app": program})
})

// App serves a registry on loopback for as long as the test runs, and returns the reference by digest of the image in it: the
// command internal/testcluster/app, which behaves as its environment says.
func App(t testing.TB) string {
	t.Helper()
	image, err := app()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.NewDigest(server.Listener.Addr().String() + "/app@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}
	return reference.String()
}
