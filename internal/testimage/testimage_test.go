package testimage_test

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/testimage"
)

func TestFromFiles(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(program, []byte("run me"), 0o600))
	image, err := testimage.FromFiles(testimage.Config{Entrypoint: []string{"/app"}}, map[string]string{"app": program})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, testimage.Save(file, "example.org/app:1", image))
	saved, err := tarball.ImageFromPath(file, nil)
	require.NoError(t, err)
	config, err := saved.ConfigFile()
	require.NoError(t, err)
	assert.Equal(t, "linux", config.OS)
	assert.Equal(t, []string{"/app"}, config.Config.Entrypoint)
	content := mutate.Extract(saved)
	defer content.Close()
	files := tar.NewReader(content)
	header, err := files.Next()
	require.NoError(t, err)
	assert.Equal(t, "app", header.Name)
	assert.Equal(t, int64(0o755), header.Mode)
	data, err := io.ReadAll(files)
	require.NoError(t, err)
	assert.Equal(t, "run me", string(data))

	_, err = testimage.FromFiles(testimage.Config{}, map[string]string{"app": program + "-not"})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Error(t, testimage.Save(file, "example.org/app@sha256:00", image))
}
