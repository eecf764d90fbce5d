package testengine_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testengine"
)

func TestEngineLeavesNothing(t *testing.T) {
	needs.Dockerd(t)
	nothingLeft := needs.NothingLeft(t)
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
	nothingLeft()
	require.Error(t, exec.Command("pgrep", "-f", "sleep 1005").Run(), "a container goes on")
}

func TestEngineThatCannotBe(t *testing.T) {
	needs.Dockerd(t)
	_, err := testengine.Start(t.Context(), testengine.Options{Dir: filepath.Join(t.TempDir(), strings.Repeat("long", 30))})
	require.ErrorContains(t, err, "is too long a path for a socket; use a shorter folder")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("Ctrl-C")
	cancel(why)
	_, err = testengine.Start(ctx, testengine.Options{})
	require.ErrorIs(t, err, why)
}
