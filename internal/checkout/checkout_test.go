package checkout_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/checkout"
)

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}

func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "a.txt", "one\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "first")
	return dir
}

func TestReadClean(t *testing.T) {
	dir := repository(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	c, err := checkout.Read(t.Context(), filepath.Join(dir, "sub"))
	require.NoError(t, err)
	head := git(t, dir, "rev-parse", "HEAD")
	assert.Equal(t, head, c.Commit)
	assert.Equal(t, head[:12], c.Tag())
	assert.Equal(t, "main", c.Branch)
	assert.Equal(t, int64(1700000000), c.Time.Unix())
	assert.False(t, c.Dirty())
	assert.False(t, c.Shallow)
	assert.Empty(t, c.Missing)
	want, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	assert.Equal(t, want, c.Root)
}

func TestReadWhileAnotherMageCompiles(t *testing.T) {
	dir := repository(t)
	write(t, dir, "mage_output_file.go", "package main\n")
	c, err := checkout.Read(t.Context(), dir)
	require.NoError(t, err)
	assert.Empty(t, c.Changed)
	write(t, dir, "more.go", "package main\n")
	c, err = checkout.Read(t.Context(), dir)
	require.NoError(t, err)
	assert.Equal(t, []string{"more.go"}, c.Changed)
}

func TestReadDirty(t *testing.T) {
	tests := []struct {
		name string
		do   func(t *testing.T, dir string)
		want []string
	}{
		{"changed", func(t *testing.T, dir string) { write(t, dir, "a.txt", "two\n") }, []string{"a.txt"}},
		{"untracked with a hostile name", func(t *testing.T, dir string) { write(t, dir, "? b\nc", "x") }, []string{"? b\nc"}},
		{"removed", func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "a.txt"))) }, []string{"a.txt"}},
		{"renamed", func(t *testing.T, dir string) { git(t, dir, "mv", "a.txt", "b c.txt") }, []string{"a.txt", "b c.txt"}},
		{"staged", func(t *testing.T, dir string) { write(t, dir, "n.txt", ""); git(t, dir, "add", "n.txt") }, []string{"n.txt"}},
		{"unmerged", func(t *testing.T, dir string) {
			git(t, dir, "checkout", "-q", "-b", "other")
			write(t, dir, "a.txt", "other\n")
			git(t, dir, "commit", "-qam", "other")
			git(t, dir, "checkout", "-q", "main")
			write(t, dir, "a.txt", "main\n")
			git(t, dir, "commit", "-qam", "main")
			cmd := exec.Command("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "merge", "other")
			cmd.Dir = dir
			require.Error(t, cmd.Run(), "the merge is to conflict")
		}, []string{"a.txt"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := repository(t)
			tt.do(t, dir)
			c, err := checkout.Read(t.Context(), dir)
			require.NoError(t, err)
			assert.Equal(t, tt.want, c.Changed)
			assert.Equal(t, c.Commit[:12]+"-dirty", c.Tag())
		})
	}
}

func TestReadIgnoredIsClean(t *testing.T) {
	dir := repository(t)
	write(t, dir, ".gitignore", "/build/\n")
	git(t, dir, "add", ".gitignore")
	git(t, dir, "commit", "-qm", "ignore")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "build"), 0o755))
	write(t, dir, "build/x", "x")
	c, err := checkout.Read(t.Context(), dir)
	require.NoError(t, err)
	assert.False(t, c.Dirty())
}

func TestReadDetachedAndShallow(t *testing.T) {
	dir := repository(t)
	write(t, dir, "a.txt", "two\n")
	git(t, dir, "commit", "-qam", "second")
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, dir, "clone", "-q", "--depth=1", "file://"+dir, clone)
	git(t, clone, "checkout", "-q", "--detach")
	c, err := checkout.Read(t.Context(), clone)
	require.NoError(t, err)
	assert.True(t, c.Shallow)
	assert.Empty(t, c.Branch)
	assert.Equal(t, git(t, dir, "rev-parse", "--short=12", "HEAD"), c.Tag())
}

func TestReadWithoutCommit(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(empty))
	born := t.TempDir()
	git(t, born, "init", "-q")
	tests := []struct{ name, dir, path, want string }{
		{"no checkout", empty, os.Getenv("PATH"), "not a git checkout"},
		{"no commit", born, os.Getenv("PATH"), "no commit yet"},
		{"no git", born, t.TempDir(), "no git program"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("PATH", tt.path)
			c, err := checkout.Read(t.Context(), tt.dir)
			require.NoError(t, err)
			assert.Contains(t, c.Missing, tt.want)
			assert.Equal(t, checkout.Uncommitted, c.Tag())
		})
	}
}

func TestReadBroken(t *testing.T) {
	dir := repository(t)
	write(t, dir, ".git/HEAD", "garbage\n")
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(dir))
	c, err := checkout.Read(t.Context(), dir)
	if err == nil {
		assert.NotEmpty(t, c.Missing, "a broken repository is told")
	}
}

func TestTagOfShortCommit(t *testing.T) {
	assert.Equal(t, "abc", checkout.Checkout{Commit: "abc"}.Tag())
	assert.Equal(t, "abc-dirty", checkout.Checkout{Commit: "abc", Changed: []string{"f"}}.Tag())
}
