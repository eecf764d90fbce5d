package registryserver

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func start(t *testing.T, dir string) *httptest.Server {
	t.Helper()
	handler, err := New(dir)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func reference(t *testing.T, server *httptest.Server, rest string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(server.Listener.Addr().String() + "/" + rest)
	require.NoError(t, err)
	return ref
}

func TestImagesOutliveTheServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "registry")
	first := start(t, dir)
	old, err := random.Image(100, 2)
	require.NoError(t, err)
	img, err := random.Image(100, 2)
	require.NoError(t, err)
	index, err := random.Index(100, 1, 3)
	require.NoError(t, err)
	require.NoError(t, remote.Write(reference(t, first, "shop/pay:1"), old))
	require.NoError(t, remote.Write(reference(t, first, "shop/pay:1"), img))
	require.NoError(t, remote.WriteIndex(reference(t, first, "shop/all:1"), index))
	require.NoError(t, remote.Write(reference(t, first, "shop/gone:1"), img))
	require.NoError(t, remote.Delete(reference(t, first, "shop/gone:1")))
	first.Close()

	second := start(t, dir)
	want, err := img.Digest()
	require.NoError(t, err)
	found, err := remote.Image(reference(t, second, "shop/pay:1"))
	require.NoError(t, err)
	digest, err := found.Digest()
	require.NoError(t, err)
	assert.Equal(t, want, digest)
	layers, err := found.Layers()
	require.NoError(t, err)
	content, err := layers[1].Compressed()
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, content)
	require.NoError(t, err)

	before, err := old.Digest()
	require.NoError(t, err)
	_, err = remote.Get(reference(t, second, "shop/pay@"+before.String()))
	assert.NoError(t, err, "a tag that moved leaves the image behind")
	_, err = remote.Index(reference(t, second, "shop/all:1"))
	assert.NoError(t, err)
	_, err = remote.Get(reference(t, second, "shop/gone:1"))
	assert.Error(t, err)
}

func TestNamesLeadNowhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "registry")
	server := start(t, dir)
	req, err := http.NewRequest(http.MethodPut, server.URL, strings.NewReader(`{}`))
	require.NoError(t, err)
	req.URL.Opaque = "/v2/../../../manifests/..%2f..%2fescaped"
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	entries, err := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

func TestOddNamesAreRefused(t *testing.T) {
	dir := t.TempDir()
	server := start(t, dir)
	for _, path := range []string{"/v2//manifests/t", "/v2/a/manifests/", "/v2/a%0Ab/manifests/t", "/v2/a%25zz/manifests/t", "/v2/A/manifests/t"} {
		req, err := http.NewRequest(http.MethodPut, server.URL+path, strings.NewReader(`{}`))
		require.NoError(t, err)
		resp, err := server.Client().Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode, path)
	}
	server.Close()
	start(t, dir) // it opens again
}

// A manifest that an index lists may be deleted.
func TestIndexWithAHoleOpensAgain(t *testing.T) {
	dir := t.TempDir()
	server := start(t, dir)
	index, err := random.Index(10, 1, 2)
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(reference(t, server, "shop/all:1"), index))
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.NoError(t, remote.Delete(reference(t, server, "shop/all@"+manifest.Manifests[0].Digest.String())))
	server.Close()
	server = start(t, dir)
	_, err = remote.Get(reference(t, server, "shop/all@"+manifest.Manifests[1].Digest.String()))
	assert.NoError(t, err)
}

func TestLargeManifestIsRefused(t *testing.T) {
	dir := t.TempDir()
	server := start(t, dir)
	req, err := http.NewRequest(http.MethodPut, server.URL+"/v2/shop/pay/manifests/1", bytes.NewReader(make([]byte, manifestLimit+1)))
	require.NoError(t, err)
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
	files, err := os.ReadDir(filepath.Join(dir, "manifests"))
	require.NoError(t, err)
	assert.Empty(t, files)
}

func TestInterruptedWritesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	start(t, dir).Close()
	half := []string{filepath.Join(dir, "manifests", "new-1"), filepath.Join(dir, "blobs", "upload-1")}
	for _, file := range half {
		require.NoError(t, os.WriteFile(file, []byte("{"), 0o644))
	}
	start(t, dir)
	for _, file := range half {
		assert.NoFileExists(t, file)
	}
}

func TestDamagedFolderIsNamed(t *testing.T) {
	dir := t.TempDir()
	start(t, dir).Close()
	file := filepath.Join(dir, "manifests", "x.json")
	for _, content := range []string{`{`, `{"repository":"a","reference":"%zz"}`, `{}`} {
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
		_, err := New(dir)
		assert.ErrorContains(t, err, "x.json", content)
		assert.ErrorContains(t, err, "remove that file", content)
	}
	_, err := New(file)
	assert.Error(t, err)
}

// A manifest that cannot be kept is not acknowledged.
func TestUnkeptManifestIsAnError(t *testing.T) {
	dir := t.TempDir()
	server := start(t, dir)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "manifests")))
	req, err := http.NewRequest(http.MethodPut, server.URL+"/v2/shop/pay/manifests/1", strings.NewReader(`{}`))
	require.NoError(t, err)
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusInternalServerError, resp.StatusCode)
}
