package testengine_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/leaks"
	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testengine"
)

func TestEngineLeavesNothing(t *testing.T) {
	needs.Root(t)
	needs.Alone(t)
	if err := testengine.Supported(); err != nil {
		require.Empty(t, os.Getenv("CI"), err)
		t.Skip(err)
	}
	before, err := leaks.Take()
	require.NoError(t, err)
	var told []string
	e, err := testengine.Start(t.Context(), testengine.Options{StandIns: true, Progress: func(step string) { told = append(told, step) }})
	require.NoError(t, err)
	assert.NotEmpty(t, told)
	docker := func(args ...string) string {
		cmd := exec.Command("docker", args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.Host)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	assert.Contains(t, docker("run", "--rm", "--network=none", testengine.GoImage, "go", "version"), "go version go")
	docker("run", "--detach", "--network=none", testengine.GoImage, "sleep", "1005")
	require.NoError(t, e.Stop())
	require.Eventually(t, func() bool {
		left, err := leaks.Since(before)
		return err == nil && len(left) == 0
	}, 20*time.Second, 50*time.Millisecond)
	require.Error(t, exec.Command("pgrep", "-f", "sleep 1005").Run(), "a container goes on")
}

func TestEngineThatCannotBe(t *testing.T) {
	needs.Root(t)
	_, err := testengine.Start(t.Context(), testengine.Options{Dir: filepath.Join(t.TempDir(), strings.Repeat("long", 30))})
	require.ErrorContains(t, err, "is too long a path for a socket; use a shorter folder")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("Ctrl-C")
	cancel(why)
	_, err = testengine.Start(ctx, testengine.Options{})
	require.ErrorIs(t, err, why)
}
