//go:build linux

package scripts

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
)

// TestDryRunTouchesNothing plans the whole pipeline where nothing can be written to the service and nobody can be reached.
func TestDryRunTouchesNothing(t *testing.T) {
	needs.Root(t)
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	exe := filepath.Join(t.TempDir(), "grimoire")
	compile(t, root, exe)
	s := newShop(t)
	s.commit(t)

	script := `set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
cd "$1"
if touch written 2>/dev/null; then echo "the service can be written to" >&2; exit 9; fi
if ip link show up 2>/dev/null | grep -v ' lo:' | grep -q ': '; then echo "there is a network" >&2; exit 9; fi
exec "$2" lint test image push deploy`
	cmd := exec.Command("sh", "-c", script, "sh", s.dir, exe)
	cmd.Env = append(s.env, "DRY_RUN=1", "REGISTRY_HOST=registry.example.org")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	require.NoError(t, err, "%s", stderr.String())
	assert.Empty(t, stdout.String(), "there is no result")
	var plan []string
	for line := range strings.Lines(stderr.String()) {
		if _, what, ok := strings.Cut(strings.TrimSpace(line), " INF "); ok {
			stage, text, _ := strings.Cut(what, " would run: ")
			plan = append(plan, stage)
			assert.NotEmpty(t, text, line)
		}
	}
	assert.Equal(t, []string{"vet", "lint", "test", "image", "push", "deploy"}, plan, stderr.String())
}
