package docker

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
)

// referrersByORAS reads what is attached to an image by a library that shares no code with what has attached it.
func referrersByORAS(t *testing.T, repository, digest string) map[string][]byte {
	t.Helper()
	repo, err := remote.NewRepository(repository)
	require.NoError(t, err)
	repo.PlainHTTP = true
	image, err := repo.Resolve(t.Context(), digest)
	require.NoError(t, err)
	said := map[string][]byte{}
	err = repo.Referrers(t.Context(), image, "application/vnd.in-toto+json", func(found []ocispec.Descriptor) error {
		for _, described := range found {
			raw, err := content.FetchAll(context.Background(), repo, described)
			require.NoError(t, err)
			var manifest ocispec.Manifest
			require.NoError(t, json.Unmarshal(raw, &manifest))
			assert.Equal(t, image.Digest, manifest.Subject.Digest)
			assert.Equal(t, image.Size, manifest.Subject.Size)
			require.Len(t, manifest.Layers, 1)
			kind := manifest.Layers[0].Annotations["in-toto.io/predicate-type"]
			assert.Equal(t, kind, described.Annotations["in-toto.io/predicate-type"])
			require.NotContains(t, said, kind, "it is attached twice")
			said[kind], err = content.FetchAll(context.Background(), repo, manifest.Layers[0])
			require.NoError(t, err)
		}
		return nil
	})
	require.NoError(t, err)
	return said
}

func TestAttach(t *testing.T) { onEachRegistry(t, attach) }

func attach(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	temporary(t)
	r, host := testRegistry(t), serve(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"go.mod":                        "module example.org/pay\n\ngo 1.26\n\nrequire example.org/dep v1.2.3\n",
		"main.go":                       "package main\n\nimport \"example.org/dep\"\n\nfunc main() { println(dep.Name) }\n",
		"vendor/modules.txt":            "# example.org/dep v1.2.3\n## explicit; go 1.26\nexample.org/dep\n",
		"vendor/example.org/dep/dep.go": "package dep\n\nconst Name = \"dep\"\n",
	})
	_, err := r.Push(t.Context(), host+"/base:1", baseImage(t, "7", true))
	require.NoError(t, err)
	built, err := BuildGo(t.Context(), GoOptions{
		Dir: dir, Base: host + "/base:1", Registry: r, Cache: t.TempDir(), Version: "v1",
		Source: Source{Repository: "https://bob:s3cret@git.example.org/shop/pay", Revision: "4f2a9c"},
	})
	require.NoError(t, err)
	digest := must(built.Digest()).String()
	ref := host + "/shop/pay@" + digest
	require.Len(t, built.Statements, 2)
	err = r.Attach(t.Context(), ref, built.Statements...)
	require.ErrorIs(t, err, ErrNotFound, "there is nothing to attach it to")

	_, err = r.Push(t.Context(), ref, built)
	require.NoError(t, err)
	for range 2 { // the second time nothing is added
		require.NoError(t, r.Attach(t.Context(), ref, built.Statements...))
	}
	said := referrersByORAS(t, host+"/shop/pay", digest)
	require.Len(t, said, 2)

	var sbom struct {
		Type    string `json:"_type"`
		Subject []struct{ Digest map[string]string }
		// The rest is for what checks SPDX.
		Predicate spdxDocument
	}
	require.NoError(t, json.Unmarshal(said[PredicateSPDX], &sbom))
	assert.Equal(t, "https://in-toto.io/Statement/v1", sbom.Type)
	assert.Equal(t, strings.TrimPrefix(digest, "sha256:"), sbom.Subject[0].Digest["sha256"])
	purls := map[string]string{}
	for _, p := range sbom.Predicate.Packages {
		purls[p.ExternalRefs[0].Locator] = p.SPDXID
	}
	assert.Contains(t, purls, "pkg:golang/example.org/dep@v1.2.3")
	assert.Contains(t, purls, "pkg:golang/example.org/pay")
	ids := map[string]bool{"SPDXRef-DOCUMENT": true}
	for _, p := range sbom.Predicate.Packages {
		assert.Regexp(t, `^SPDXRef-[A-Za-z0-9.-]+$`, p.SPDXID)
		ids[p.SPDXID] = true
	}
	related := 0
	for _, r := range sbom.Predicate.Relationships {
		assert.True(t, ids[r.Element] && ids[r.Related], "%v", r)
		if r.Related == purls["pkg:golang/example.org/dep@v1.2.3"] {
			related++
		}
	}
	assert.Equal(t, 1, related)

	var made struct{ Predicate provenance }
	require.NoError(t, json.Unmarshal(said[PredicateProvenance], &made))
	build := made.Predicate.BuildDefinition
	assert.Equal(t, "v1", build.ExternalParameters["version"])
	assert.Regexp(t, `^go1\.`, build.InternalParameters["go"])
	base, err := r.Digest(t.Context(), host+"/base:1")
	require.NoError(t, err)
	assert.Equal(t, []dependency{
		{URI: "git+https://git.example.org/shop/pay", Digest: map[string]string{"gitCommit": "4f2a9c"}},
		{URI: "oci://" + host + "/base:1", Digest: map[string]string{"sha256": strings.TrimPrefix(base, "sha256:")}},
	}, build.ResolvedDependencies)
	assert.NotContains(t, string(said[PredicateProvenance]), "s3cret")

	read, err := r.Statements(t.Context(), ref)
	require.NoError(t, err)
	require.Len(t, read, 2)
	assert.Equal(t, said[PredicateProvenance], read[0].JSON)

	parsed, err := ParseStatements(JoinStatements(built.Statements))
	require.NoError(t, err)
	assert.Equal(t, built.Statements, parsed)
}

// What was ended between a statement's manifest and the index that names it is made up for by the next time. A copy's tag waits for it.
func TestAttachAndCopyAfterOnesThatWereEnded(t *testing.T) {
	onEachRegistry(t, attachAndCopyAfterOnesThatWereEnded)
}

func attachAndCopyAfterOnesThatWereEnded(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	index := func(req *http.Request) bool {
		return req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/sha256-")
	}
	r := testRegistry(t)
	host, other := serve(t, failing(1, http.StatusForbidden, index)), serve(t, failing(1, http.StatusForbidden, index))
	img, digest := randomImage(t, 1)
	_, err := r.Push(t.Context(), host+"/shop/pay:1", img)
	require.NoError(t, err)
	statement, err := newStatement(digest, PredicateProvenance, "built")
	require.NoError(t, err)
	require.Error(t, r.Attach(t.Context(), host+"/shop/pay:1", statement))
	assert.Empty(t, referrersByORAS(t, host+"/shop/pay", digest))
	for range 2 {
		require.NoError(t, r.Attach(t.Context(), host+"/shop/pay:1", statement))
		assert.Contains(t, referrersByORAS(t, host+"/shop/pay", digest), PredicateProvenance)
	}

	_, err = r.Copy(t.Context(), host+"/shop/pay:1", other+"/live/pay:1")
	require.Error(t, err)
	there, err := r.Exists(t.Context(), other+"/live/pay:1")
	require.NoError(t, err)
	assert.False(t, there, "the tag comes last")
	for range 2 {
		copied, err := r.Copy(t.Context(), host+"/shop/pay:1", other+"/live/pay:1")
		require.NoError(t, err)
		assert.Equal(t, digest, copied)
		assert.Contains(t, referrersByORAS(t, other+"/live/pay", digest), PredicateProvenance)
	}
}

func TestParseStatementsRefuses(t *testing.T) {
	for _, text := range []string{"{", "{}", `{"subject":[{"digest":{"sha512":"x"}}],"predicateType":"t"}`, "null"} {
		_, err := ParseStatements([]byte(text))
		assert.ErrorContains(t, err, "reading statement 1: ", text)
	}
	none, err := ParseStatements([]byte("\n \n"))
	require.NoError(t, err)
	assert.Empty(t, none)
}

// An index of two platforms has an SBOM for each, and one provenance.
func TestPushAndCopyAnIndex(t *testing.T) { onEachRegistry(t, pushAndCopyAnIndex) }

func pushAndCopyAnIndex(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	temporary(t)
	r, host, other := testRegistry(t), serve(t), serve(t)
	built, err := BuildGo(t.Context(), GoOptions{
		Dir: module(t, t.TempDir()), Packages: []string{"./cmd/api"}, Platforms: []string{"linux/amd64", "linux/arm64"}, Cache: t.TempDir(),
	})
	require.NoError(t, err)
	digest := must(built.Digest()).String()
	require.Len(t, built.Statements, 3)
	assert.Equal(t, digest, built.Statements[2].Subject)

	layout := t.TempDir() + "/image"
	require.NoError(t, Save(layout, built, host+"/shop/api:1"))
	loaded, err := Load(layout)
	require.NoError(t, err)
	pushed, err := r.Push(t.Context(), host+"/shop/api:1", loaded)
	require.NoError(t, err)
	assert.Equal(t, digest, pushed)
	require.NoError(t, r.Attach(t.Context(), host+"/shop/api:1", built.Statements...))
	for platform, user := range map[string]string{"linux/amd64": defaultUser, "linux/arm64": defaultUser} {
		img, err := r.Pull(t.Context(), host+"/shop/api:1", platform)
		require.NoError(t, err)
		config, err := img.ConfigFile()
		require.NoError(t, err)
		assert.Equal(t, platform, config.Platform().String())
		assert.Equal(t, user, config.Config.User)
		assert.Contains(t, referrersByORAS(t, host+"/shop/api", must(img.Digest()).String()), PredicateSPDX)
	}

	there, err := r.Exists(t.Context(), other+"/live/api:2")
	require.NoError(t, err)
	assert.False(t, there)
	for range 2 {
		copied, err := r.Copy(t.Context(), host+"/shop/api@"+digest, other+"/live/api:2")
		require.NoError(t, err)
		assert.Equal(t, digest, copied)
	}
	there, err = r.Exists(t.Context(), other+"/live/api:2")
	require.NoError(t, err)
	assert.True(t, there)
	assert.Contains(t, referrersByORAS(t, other+"/live/api", digest), PredicateProvenance)
	img, err := r.Pull(t.Context(), other+"/live/api:2", "linux/arm64")
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	assert.Contains(t, filesOf(t, layers[1]), "usr/local/bin/api")
	assert.Contains(t, referrersByORAS(t, other+"/live/api", must(img.Digest()).String()), PredicateSPDX)

	_, err = r.Copy(t.Context(), host+"/shop/api:nowhere", other+"/live/api:3")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = r.Copy(t.Context(), host+"/shop/api:1", other+"/live/api@"+digest)
	assert.ErrorContains(t, err, "names no tag")
}

// A layer that has been packed or fetched once is not again, unless its file was damaged since.
func TestLayerCache(t *testing.T) {
	temporary(t)
	dir, cache := module(t, t.TempDir()), t.TempDir()
	base := baseImage(t, "7", true)
	layer := must(must(base.Layers())[0].Digest())
	var fetched atomic.Int32
	r := testRegistry(t)
	host := serveRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, layer.String()) {
				fetched.Add(1)
			}
			next.ServeHTTP(w, req)
		})
	})
	_, err := r.Push(t.Context(), host+"/base:1", base)
	require.NoError(t, err)
	build := func() string {
		t.Helper()
		built, err := BuildGo(t.Context(), GoOptions{Dir: dir, Packages: []string{"./cmd/api"}, Base: host + "/base:1", Registry: r, Cache: cache})
		require.NoError(t, err)
		layout := filepath.Join(t.TempDir(), "image")
		require.NoError(t, Save(layout, built, ""))
		loaded, err := Load(layout)
		require.NoError(t, err)
		return must(loaded.Digest()).String()
	}
	files := func() (all []string) {
		entries, err := os.ReadDir(cache)
		require.NoError(t, err)
		for _, entry := range entries {
			all = append(all, entry.Name())
		}
		return all
	}
	was := build()
	kept := files()
	require.Len(t, kept, 2, "the base's layer and the program's")
	assert.Equal(t, was, build())
	assert.EqualValues(t, 1, fetched.Load())
	for _, name := range kept {
		require.NoError(t, os.WriteFile(filepath.Join(cache, name), []byte("damaged"), 0o644))
	}
	assert.Equal(t, was, build())
	assert.EqualValues(t, 2, fetched.Load())
	assert.Equal(t, kept, files())

	old := time.Now().Add(-keptFor - time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(cache, kept[0]), old, old))
	_, err = openLayerCache(t.Context(), cache)
	require.NoError(t, err)
	assert.Equal(t, kept[1:], files(), "what nobody uses goes")
}

// Labels may hold anything that is text, and come back as they were.
func TestHostileLabels(t *testing.T) { onEachRegistry(t, hostileLabels) }

func hostileLabels(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	temporary(t)
	r, host := testRegistry(t), serve(t)
	labels := map[string]string{
		"quotes": `"'` + "`$(id) ${HOME} %s {{.}}", "lines": "a\nb\r\n\tc", "html": "<script>&amp;</script>", "unicode": "é ü 日本 \u202e \U0001f600",
		"nul": "a\x00b", "escape": "\x1b[31mred", "long": strings.Repeat("x", 100<<10), "": "no name", "a=b": "c", "../..": "/etc/passwd",
	}
	built, err := BuildGo(t.Context(), GoOptions{Dir: module(t, t.TempDir()), Packages: []string{"./cmd/api"}, Labels: labels, Cache: t.TempDir()})
	require.NoError(t, err)
	digest, err := r.Push(t.Context(), host+"/shop/api:1", built)
	require.NoError(t, err)
	img, err := r.Pull(t.Context(), host+"/shop/api@"+digest, "")
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	assert.Equal(t, labels, config.Config.Labels)
}
