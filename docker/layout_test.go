package docker

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSaveAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "build", "image")
	for _, name := range []string{"git.example.org/shop/pay:1", "git.example.org/shop/pay:2", ""} {
		img, want := randomImage(t, 2)
		require.NoError(t, Save(dir, img, name))
		loaded, err := Load(dir)
		require.NoError(t, err)
		digest, err := loaded.Digest()
		require.NoError(t, err)
		assert.Equal(t, want, digest.String())
		index, err := os.ReadFile(filepath.Join(dir, "index.json"))
		require.NoError(t, err)
		assert.Contains(t, string(index), name)
		blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
		require.NoError(t, err)
		assert.Len(t, blobs, 4, "nothing is left of the image before")
	}
	assertAlone(t, dir)
}

// What runs that were killed have left goes; what a run that goes on has, and what is somebody else's, stays.
func TestSaveRemovesWhatWasAbandoned(t *testing.T) {
	build := t.TempDir()
	long, now := time.Now().Add(-2*abandoned), time.Now()
	for name, at := range map[string]time.Time{
		".image-12/new/blobs/sha256/a": long, ".image-13/new/blobs/sha256/a": now, ".image-cache/a": long, ".image-.5/a": long, "image-14/a": long, ".other-15/a": long,
	} {
		writeFiles(t, build, map[string]string{name: "x"})
		for file := name; file != "."; file = filepath.Dir(file) {
			when := long
			if file == name {
				when = at
			}
			require.NoError(t, os.Chtimes(filepath.Join(build, file), when, when))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(build, ".image-16"), nil, 0o644))
	require.NoError(t, os.Chtimes(filepath.Join(build, ".image-16"), long, long))
	img, _ := randomImage(t, 1)
	require.NoError(t, Save(filepath.Join(build, "image"), img, ""))
	entries, err := os.ReadDir(build)
	require.NoError(t, err)
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	assert.Equal(t, []string{".image-.5", ".image-13", ".image-16", ".image-cache", ".other-15", "image", "image-14"}, left)
}

// assertAlone checks that nothing else is left in the folder that dir is in.
func assertAlone(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	assert.Equal(t, filepath.Base(dir), entries[0].Name())
}

// brokenImage fails when its layers are asked for.
type brokenImage struct{ v1.Image }

func (brokenImage) Layers() ([]v1.Layer, error) { return nil, errors.New("out of paper") }

func TestFailedSaveKeepsTheOldImage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	img, want := randomImage(t, 1)
	require.NoError(t, Save(dir, img, ""))
	other, _ := randomImage(t, 1)
	require.ErrorContains(t, Save(dir, brokenImage{other}, ""), "out of paper")
	loaded, err := Load(dir)
	require.NoError(t, err)
	digest, err := loaded.Digest()
	require.NoError(t, err)
	assert.Equal(t, want, digest.String())
	assertAlone(t, dir)
}

func TestSaveReplacesNothingElse(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"main.go": "package main"})
	img, _ := randomImage(t, 1)
	require.ErrorContains(t, Save(dir, img, ""), "something else than an image")
	assert.FileExists(t, filepath.Join(dir, "main.go"))
	require.Error(t, Save(filepath.Join(dir, "main.go"), img, ""))
	assert.FileExists(t, filepath.Join(dir, "main.go"))
	assert.NoError(t, Save(t.TempDir(), img, ""), "an empty folder is fine")
}

func TestLoadRefuses(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "nowhere"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, "build the image first")

	damage := []struct {
		name string
		do   func(t *testing.T, dir, blob string)
		want string
	}{
		{name: "changed blob", want: "is damaged", do: func(t *testing.T, _, blob string) {
			require.NoError(t, os.WriteFile(blob, []byte("x"), 0o644))
		}},
		{name: "lost blob", want: "build the image first", do: func(t *testing.T, _, blob string) { require.NoError(t, os.Remove(blob)) }},
		{name: "empty index", want: "holds 0 manifests", do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"schemaVersion":2,"manifests":[]}`), 0o644))
		}},
		{name: "hostile digest", want: "loading the image", do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"schemaVersion":2,"manifests":[{"mediaType":`+
				`"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:../../../../etc/passwd"}]}`), 0o644))
		}},
	}
	for _, test := range damage {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "image")
			img, _ := randomImage(t, 1)
			require.NoError(t, Save(dir, img, ""))
			layers, err := img.Layers()
			require.NoError(t, err)
			digest, err := layers[0].Digest()
			require.NoError(t, err)
			test.do(t, dir, filepath.Join(dir, "blobs", "sha256", digest.Hex))
			_, err = Load(dir)
			assert.ErrorContains(t, err, test.want)
		})
	}
}
