//go:build linux

package docker

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testregistry"
)

const (
	gibibyte   = 1 << 30
	mostMemory = 100 << 20 // bytes above a process that does nothing
)

// memoryOf says how much memory it took at most to do one thing, in a process of its own.
func memoryOf(what string) error {
	idle := peakMemory()
	if err := inMemoryProcess(what); err != nil {
		return err
	}
	_, err := fmt.Println(peakMemory() - idle)
	return err
}

func inMemoryProcess(what string) error {
	ctx := zerolog.New(os.Stderr).WithContext(context.Background())
	dir, host := os.Getenv("DIR"), os.Getenv("REGISTRY")
	if what == "context" {
		engine, err := Connect(ctx)
		if err != nil {
			return err
		}
		defer engine.Close()
		if _, err = engine.Build(ctx, BuildOptions{Context: dir, Tags: []string{host + "/big/context:1"}, Output: io.Discard}); err != nil {
			return err
		}
		_, err = engine.Push(ctx, host+"/big/context:1", Registry{})
		return err
	}
	cache, err := openLayerCache(ctx, filepath.Join(dir, "cache"))
	if err != nil {
		return err
	}
	layer, err := cache.pack(types.OCILayer, binaryTar(filepath.Join(dir, "big"), "/big", epoch))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		return err
	}
	if err := Save(filepath.Join(dir, "image"), img, ""); err != nil {
		return err
	}
	saved, err := Load(filepath.Join(dir, "image"))
	if err != nil {
		return err
	}
	if _, err = (Registry{}).Push(ctx, host+"/big/layer:1", saved); err != nil {
		return err
	}
	_, err = Registry{}.Copy(ctx, host+"/big/layer:1", host+"/big/copy:1")
	return err
}

// peakMemory is the most that this process has had resident, in bytes.
func peakMemory() int {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kilobytes << 10
		}
	}
	return 1 << 60 // no less than too much
}

// A context and a layer of a gibibyte each take little memory: they are streamed.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it moves gibibytes")
	}
	host, _ := needs.Engine(t)
	real := needs.Registry(t, testregistry.Options{})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	big, err := os.Create(filepath.Join(dir, "big"))
	require.NoError(t, err)
	// Nothing that could be compressed.
	_, err = io.CopyN(big, rand.NewChaCha8([32]byte{1}), gibibyte)
	require.NoError(t, err)
	require.NoError(t, big.Close())

	for _, what := range []string{"context", "layer"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), testProcess+"=memory "+what, "DIR="+dir, "REGISTRY="+real.Host, "DOCKER_HOST="+host, "DOCKER_CONFIG="+t.TempDir())
		out, err := cmd.Output()
		if exit, ok := err.(*exec.ExitError); ok {
			t.Fatalf("%s: %s", what, exit.Stderr)
		}
		require.NoError(t, err)
		taken, err := strconv.Atoi(strings.TrimSpace(string(out)))
		require.NoError(t, err)
		t.Logf("%s: %d MiB", what, taken>>20)
		assert.Less(t, taken, mostMemory, what)
	}
}
