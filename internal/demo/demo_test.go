//go:build unix

package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/demo"
	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/testcluster"
	"github.com/grimoire-build/grimoire/internal/testregistry"
)

// cloned copies this repository to a folder, commits it there, and goes there.
func cloned(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", "build"}, entry.Name()) || strings.HasPrefix(entry.Name(), "_") {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		}
		if entry.Name() == "mage_output_file.go" {
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test's
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), data, 0o644)
	})
	require.NoError(t, err)
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"add", "."},
		{"-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", "commit", "--quiet", "--message=all"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	t.Chdir(dir)
	return dir
}

// watched is a buffer to be read while it is written.
type watched struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func options(account *watched) demo.Options {
	return demo.Options{
		Service: "example-app",
		Dir:     "build/demo",
		Mage:    []string{"go", "tool", "mage"},
		Grace:   process.Grace + time.Second,
		Account: account,
	}
}

var reference = regexp.MustCompile(`127\.0\.0\.1:\d+/\S+@sha256:[0-9a-f]{64}`)

func TestDemo(t *testing.T) {
	cloned(t)
	// What a user has set for their own service must not leak into the demo.
	t.Setenv("REGISTRY_HOST", "registry.example.org")
	t.Setenv("ENVIRONMENT_REPOSITORY", "https://git.example.org/env.git")
	t.Setenv("COVERAGE_THRESHOLD", "100")
	var account, log watched
	o := options(&account)
	o.Serve = true
	ctx, stop := context.WithCancel(process.WithOutput(t.Context(), &log))
	ended := make(chan error, 1)
	go func() { ended <- demo.Run(ctx, o) }()
	require.Eventually(t, func() bool {
		select {
		case err := <-ended:
			t.Fatalf("the demo ended: %v\n%s", err, log.String())
		default:
		}
		return strings.Contains(account.String(), "What to try next")
	}, 10*time.Minute, 50*time.Millisecond, "no account")

	t.Run("the image can be pulled by digest while it runs", func(t *testing.T) {
		digest, err := name.NewDigest(reference.FindString(account.String()))
		require.NoError(t, err, "%s", account.String())
		image, err := remote.Image(digest)
		require.NoError(t, err)
		config, err := image.ConfigFile()
		require.NoError(t, err)
		assert.Equal(t, "65532:65532", config.Config.User)
		layers, err := image.Layers()
		require.NoError(t, err)
		for _, layer := range layers {
			content, err := layer.Uncompressed()
			require.NoError(t, err)
			_, err = new(bytes.Buffer).ReadFrom(content)
			require.NoError(t, err)
		}
	})
	stop()
	require.NoError(t, <-ended)
	host, _, _ := strings.Cut(reference.FindString(account.String()), "/")
	_, err := net.Dial("tcp", host)
	require.Error(t, err, "the registry is gone with the demo")

	for _, stage := range []string{"lint", "vet", "test", "image", "push", "deploy"} {
		assert.Regexp(t, `(?m)^  `+stage+` +ok +\d+\.\d s$`, account.String())
	}
	assert.Contains(t, account.String(), "-          image: example-app\n")
	assert.Contains(t, account.String(), "+          image: "+reference.FindString(account.String()))

	// The second time nothing is built, pushed or committed.
	var again watched
	require.NoError(t, demo.Run(process.WithOutput(t.Context(), &log), options(&again)))
	assert.Equal(t, reference.FindString(account.String()), reference.FindString(again.String()))
	assert.Contains(t, again.String(), "Deployed already, so nothing was committed")
	var image struct{ Builder string }
	data, err := os.ReadFile("example-app/build/image.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &image))
	assert.Equal(t, "registry", image.Builder)
}

// TestDemoForReal takes the way of most services: an image by a Docker Engine, a registry that is a server of its own, and a
// cluster whose pods are containers.
func TestDemoForReal(t *testing.T) {
	kubeconfig, kubectl := needs.Cluster(t), needs.Kubectl(t)
	host, _ := needs.Engine(t)
	registry := needs.Registry(t, testregistry.Options{})
	cloned(t)
	t.Setenv("KUBECONFIG", kubeconfig)
	t.Setenv("DOCKER_HOST", host)
	t.Setenv("REGISTRY_HOST", registry.Host)
	run := func(args ...string) string {
		out, err := exec.Command(kubectl, append([]string{"kubectl", "--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	t.Cleanup(func() {
		run("delete", "deployment/example-app", "service/example-app", "configmap/grimoire-example-app", "--wait=false", "--ignore-not-found")
		run("delete", "secrets", "--selector=grimoire.build/release=example-app")
	})
	var account, log watched
	o := options(&account)
	o.Docker, o.Context = true, testcluster.ContextName
	require.NoError(t, demo.Run(process.WithOutput(t.Context(), &log), o), "%s", &log)

	image := reference.FindString(account.String())
	assert.True(t, strings.HasPrefix(image, registry.Host+"/"), "%s", account.String())
	assert.Equal(t, image, run("get", "deployment", "example-app", "--output=jsonpath={.spec.template.spec.containers[0].image}"))
	assert.Equal(t, "2", run("get", "deployment", "example-app", "--output=jsonpath={.status.availableReplicas}"))
	assert.Contains(t, run("get", "--raw", "/api/v1/namespaces/default/services/example-app:http/proxy/health"), `"status":"healthy"`)

	account = watched{}
	require.NoError(t, demo.Run(process.WithOutput(t.Context(), &log), o), "%s", &log)
	assert.Equal(t, image, reference.FindString(account.String()), "the second time nothing is built")
	assert.Contains(t, log.String(), "the cluster has all of it already, so nothing is applied")
}

func TestDemoStopped(t *testing.T) {
	dir := cloned(t)
	var account, log watched
	ctx, stop := context.WithCancelCause(process.WithOutput(t.Context(), &log))
	ended := make(chan error, 1)
	go func() { ended <- demo.Run(ctx, options(&account)) }()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "lint") }, 2*time.Minute, 10*time.Millisecond)
	why := errors.New("Ctrl-C")
	stop(why)
	require.ErrorIs(t, <-ended, why)
	assert.Empty(t, account.String(), "a demo that was stopped tells no success")
	address, err := os.ReadFile(filepath.Join(dir, "build", "demo", "registry.address"))
	require.NoError(t, err)
	_, err = net.Dial("tcp", string(address))
	require.Error(t, err, "the registry is gone")
	leftovers, err := filepath.Glob(filepath.Join(dir, "build", "demo", ".*"))
	require.NoError(t, err)
	assert.Empty(t, leftovers)
}
