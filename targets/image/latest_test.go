package image

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/docker"
)

// imageFor is an image for a platform, of a commit that is made tomorrow.
func imageFor(t *testing.T, platform, revision string) v1.Image {
	t.Helper()
	img, err := random.Image(10, 1)
	require.NoError(t, err)
	p, err := v1.ParsePlatform(platform)
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = p.OS, p.Architecture
	config.Config.Labels = map[string]string{
		"org.opencontainers.image.revision": revision, "org.opencontainers.image.created": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339),
	}
	img, err = mutate.ConfigFile(img, config)
	require.NoError(t, err)
	return img
}

func indexOf(t *testing.T, images ...v1.Image) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, img := range images {
		config, err := img.ConfigFile()
		require.NoError(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return index
}

// Whatever the tag latest is on, it either is a newer image of ours or moves.
func TestBehindWhatLatestIsOn(t *testing.T) {
	const newer = "00000000000000000000000000000000000000aa"
	for _, test := range []struct {
		name     string
		latest   docker.Artifact
		manifest string // in its place
		want     string
	}{
		{name: "nothing"},
		{name: "a newer one", latest: imageFor(t, "linux/amd64", newer), want: newer},
		{name: "a newer one for another platform", latest: imageFor(t, "linux/arm64", newer), want: newer},
		{name: "a newer index", latest: indexOf(t, imageFor(t, "linux/arm64", newer), imageFor(t, "linux/riscv64", newer)), want: newer},
		{name: "a newer index with what BuildKit attaches", latest: indexOf(t, imageFor(t, "unknown/unknown", ""), imageFor(t, "linux/arm64", newer)), want: newer},
		{name: "an image of somebody else", latest: imageFor(t, "windows/amd64", "")},
		{name: "an empty index", latest: empty.Index},
		{name: "an image whose configuration is not there", manifest: `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
			"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:` + strings.Repeat("0", 64) + `"},"layers":[]}`},
		{name: "no manifest", manifest: `{"mediaType":"application/vnd.docker.distribution.manifest.v1+json"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			t.Cleanup(server.Close)
			t.Setenv("DOCKER_CONFIG", t.TempDir())
			s := committed(t)
			s.Image.Registry = server.Listener.Addr().String()
			p, err := makePlan(t.Context(), s)
			require.NoError(t, err)
			if test.latest != nil {
				_, err = p.registry.Push(t.Context(), withTag(p.reference, latest), test.latest)
				require.NoError(t, err)
			}
			if test.manifest != "" {
				var described struct{ MediaType string }
				require.NoError(t, json.Unmarshal([]byte(test.manifest), &described))
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/v2/shop/pay/manifests/"+latest, strings.NewReader(test.manifest))
				require.NoError(t, err)
				req.Header.Set("Content-Type", described.MediaType)
				answer, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				require.NoError(t, answer.Body.Close())
				require.Equal(t, http.StatusCreated, answer.StatusCode)
			}
			behind, err := p.behind(t.Context(), withTag(p.reference, latest))
			require.NoError(t, err)
			assert.Equal(t, test.want, behind)
		})
	}
}

// A registry that fails says nothing of what the tag is on, so that the tag stays.
func TestBehindARegistryThatFails(t *testing.T) {
	var fails atomic.Bool
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if fails.Load() && strings.Contains(req.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s := committed(t)
	s.Image.Registry = server.Listener.Addr().String()
	p, err := makePlan(t.Context(), s)
	require.NoError(t, err)
	_, err = p.registry.Push(t.Context(), withTag(p.reference, latest), imageFor(t, "linux/amd64", ""))
	require.NoError(t, err)
	fails.Store(true)
	_, err = p.behind(t.Context(), withTag(p.reference, latest))
	assert.ErrorContains(t, err, "403 Forbidden")
}
