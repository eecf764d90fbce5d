//go:build unix

package kustomize_test

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/kustomize"
)

func TestBuildEndsWithItsContext(t *testing.T) {
	dir := folder(t, map[string]string{"kustomization.yaml": "resources: [pipe.yaml]\n"})
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o644), "nobody writes to it, so that reading takes for ever")
	why := errors.New("Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	begun := time.AfterFunc(2*time.Second, func() { cancel(why) })
	defer begun.Stop()
	_, err := kustomize.Build(ctx, dir)
	require.ErrorIs(t, err, why)
	assert.False(t, begun.Stop(), "it was still running when it was cancelled")
}
