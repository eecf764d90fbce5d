package image

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/docker"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/targets"
)

// fakeEngine has an image for each build, as an engine of API version 1.44 does.
type fakeEngine struct {
	labels map[string]map[string]string // of the images, by ID
	tags   map[string]string            // IDs, by reference

	nocache string // what the last build was told
}

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Api-Version", "1.44")
	path := strings.TrimPrefix(req.URL.Path, "/v1.44")
	image, inspected := strings.CutSuffix(strings.TrimPrefix(path, "/images/"), "/json")
	tagged, tag := strings.CutSuffix(strings.TrimPrefix(path, "/images/"), "/tag")
	switch {
	case path == "/_ping":
	case path == "/build":
		_, _ = io.Copy(io.Discard, req.Body)
		id := fmt.Sprintf("sha256:%064d", len(f.labels)+1)
		labels := map[string]string{}
		_ = json.Unmarshal([]byte(req.URL.Query().Get("labels")), &labels)
		f.nocache = req.URL.Query().Get("nocache")
		f.labels[id], f.tags[req.URL.Query().Get("t")] = labels, id
		fmt.Fprintf(w, `{"aux":{"ID":%q}}`, id)
	case inspected && f.labels[image] != nil:
		_ = json.NewEncoder(w).Encode(map[string]any{"Id": image, "Config": map[string]any{"Labels": f.labels[image]}})
	case tag && f.labels[tagged] != nil:
		f.tags[req.URL.Query().Get("repo")+":"+req.URL.Query().Get("tag")] = tagged
		w.WriteHeader(http.StatusCreated)
	default:
		http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
	}
}

// withEngine has the service built from a Dockerfile by an engine.
func withEngine(t *testing.T, dockerfile string) (targets.Service, *fakeEngine) {
	t.Helper()
	engine := &fakeEngine{labels: map[string]map[string]string{}, tags: map[string]string{}}
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	for _, name := range []string{"DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "DOCKER_BUILDKIT"} {
		t.Setenv(name, "")
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("DOCKER_HOST", "tcp://"+server.Listener.Addr().String())
	s := committed(t)
	s.Build, s.Image.Builder, s.Image.Dockerfile = "build", "engine", "Dockerfile"
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "Dockerfile"), []byte(dockerfile), 0o644))
	return s, engine
}

// image makes the image as the target does.
func image(t *testing.T, s targets.Service) built {
	t.Helper()
	ctx := process.WithOutput(t.Context(), io.Discard)
	p, err := makePlan(ctx, s)
	require.NoError(t, err)
	b, err := p.build(ctx)
	require.NoError(t, err)
	require.NoError(t, new(record).set(p, b))
	return b
}

// Only the image that was built here last is taken for one of the same inputs: what others build on it has its labels.
func TestEngineImageOfTheSameInputs(t *testing.T) {
	s, engine := withEngine(t, "FROM scratch\nCOPY go.mod /\n")
	first := image(t, s)
	require.Len(t, engine.labels, 1)
	assert.Equal(t, first.Inputs, engine.labels[first.ID][docker.InputsLabel])
	engine.labels["sha256:derived"] = engine.labels[first.ID]
	engine.tags = map[string]string{}
	assert.Equal(t, first, image(t, s))
	assert.Equal(t, map[string]string{"docker.io/" + first.Reference: first.ID}, engine.tags)

	delete(engine.labels, first.ID)
	again := image(t, s)
	assert.NotEqual(t, "sha256:derived", again.ID)
	assert.Contains(t, engine.labels, again.ID)
}

// Where the inputs cannot be told, the image does not inherit those of the image that it is built on.
func TestEngineImageOfUnknownInputs(t *testing.T) {
	s, engine := withEngine(t, "FROM scratch\nADD https://example.org/x /\n")
	b := image(t, s)
	assert.Empty(t, b.Inputs)
	inputs, set := engine.labels[b.ID][docker.InputsLabel]
	assert.True(t, set)
	assert.Empty(t, inputs)
}

// A rebuild asks neither the registry nor the engine for what there is, and does every step.
func TestEngineImageIsRebuilt(t *testing.T) {
	s, engine := withEngine(t, "FROM scratch\nCOPY go.mod /\n")
	first := image(t, s)
	assert.Empty(t, engine.nocache)
	s.Image.Rebuild = true
	again := image(t, s)
	assert.NotEqual(t, first.ID, again.ID)
	assert.Equal(t, first.Inputs, again.Inputs)
	assert.Equal(t, "1", engine.nocache)
}

// What was built of files that no commit has is not the commit's image afterwards.
func TestEngineImageOfUncommittedFiles(t *testing.T) {
	s, engine := withEngine(t, "FROM scratch\nCOPY go.mod /\n")
	dirty := image(t, s)
	assert.Equal(t, dirty, image(t, s))
	gitIn(t, s.Dir, "add", ".")
	gitIn(t, s.Dir, "commit", "-q", "-m", "second")
	clean := image(t, s)
	assert.NotEqual(t, dirty.ID, clean.ID)
	assert.Equal(t, clean.Inputs+"-dirty", dirty.Inputs)
	assert.NotContains(t, engine.labels[clean.ID]["org.opencontainers.image.version"], "dirty")
}

// What was built from the Go packages for want of an engine is not taken for the Dockerfile's where there is one.
func TestImageThatAnotherBuilderHasPushed(t *testing.T) {
	for _, test := range []struct {
		name, builder, pushedBy string
		engine, dockerfile      bool
		want                    string
	}{
		{name: "the engine's", builder: "auto", dockerfile: true, engine: true, pushedBy: builderEngine, want: builderRegistry},
		{name: "the engine's, and none is here", builder: "auto", dockerfile: true, pushedBy: builderEngine, want: builderRegistry},
		{name: "one without an engine", builder: "auto", dockerfile: true, engine: true, pushedBy: builderGo, want: builderEngine},
		{name: "one without an engine, and none is here", builder: "auto", dockerfile: true, pushedBy: builderGo, want: builderRegistry},
		{name: "one of a service without a Dockerfile", builder: "auto", engine: true, pushedBy: builderGo, want: builderRegistry},
		{name: "by the engine alone", builder: "engine", dockerfile: true, engine: true, pushedBy: builderGo, want: builderEngine},
	} {
		t.Run(test.name, func(t *testing.T) {
			registry := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			t.Cleanup(registry.Close)
			s, _ := withEngine(t, "FROM scratch\nCOPY go.mod /\n")
			s.Image.Builder, s.Image.Registry = test.builder, registry.Listener.Addr().String()
			if !test.dockerfile {
				require.NoError(t, os.Remove(filepath.Join(s.Dir, "Dockerfile")))
			}
			if !test.engine {
				t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(s.Dir, "build", "no-engine.sock"))
			}
			gitIn(t, s.Dir, "add", ".")
			gitIn(t, s.Dir, "commit", "-q", "--allow-empty", "-m", "second")
			p, err := makePlan(t.Context(), s)
			require.NoError(t, err)
			img, err := mutate.Config(empty.Image, v1.Config{Labels: p.labels(test.pushedBy)})
			require.NoError(t, err)
			config, err := img.ConfigFile()
			require.NoError(t, err)
			config = config.DeepCopy()
			config.OS, config.Architecture = "linux", "amd64"
			img, err = mutate.ConfigFile(img, config)
			require.NoError(t, err)
			_, err = p.registry.Push(t.Context(), p.reference, img)
			require.NoError(t, err)
			b, err := p.build(process.WithOutput(t.Context(), io.Discard))
			require.NoError(t, err)
			assert.Equal(t, test.want, b.Builder)
		})
	}
}
