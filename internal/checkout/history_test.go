package checkout

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
var tagGrammar = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

func TestHistory(t *testing.T) {
	origin := t.TempDir()
	gitIn(t, origin, "init", "-q", "-b", "trunk")
	commit := func(branch string) string {
		gitIn(t, origin, "commit", "-q", "--allow-empty", "-m", "on "+branch)
		return gitIn(t, origin, "rev-parse", "HEAD")
	}
	first := commit("trunk")
	second := commit("trunk")
	gitIn(t, origin, "checkout", "-q", "-b", "other", first)
	other := commit("other")
	gitIn(t, origin, "checkout", "-q", "trunk")

	whole := filepath.Join(t.TempDir(), "whole")
	gitIn(t, origin, "clone", "-q", origin, whole)
	c, err := Read(t.Context(), whole)
	require.NoError(t, err)
	assert.Equal(t, "trunk", c.DefaultBranch(t.Context()))
	for _, test := range []struct {
		commit, other string
		want          Order
	}{
		{first, second, Before}, {second, first, After}, {first, first, Same}, {second, other, Diverged},
		{first, strings.Repeat("0", 40), Unknown}, {first, "--help", Unknown},
	} {
		order, err := c.Compare(t.Context(), test.commit, test.other)
		require.NoError(t, err)
		assert.Equal(t, test.want, order, "%s %s", test.commit, test.other)
	}
	tip, err := c.Tip(t.Context(), "trunk")
	require.NoError(t, err)
	assert.Equal(t, second, tip)
	third := commit("trunk")
	tip, err = c.Tip(t.Context(), "trunk")
	require.NoError(t, err)
	assert.Equal(t, third, tip, "as it is there now")
	for _, test := range []struct {
		name, commit, branch, tip string
		limit                     int
		want                      []string
	}{
		{name: "up to where the branch is", commit: first, branch: "trunk", limit: 9, want: []string{second}},
		{name: "a tip that is not here", commit: first, branch: "trunk", tip: third, limit: 9, want: []string{second}},
		{name: "none", commit: second, branch: "trunk", tip: third, limit: 9},
		{name: "another branch", commit: first, branch: "other", limit: 9, want: []string{other}},
		{name: "a branch that is not here", commit: first, branch: "--all", tip: second, limit: 9, want: []string{second}},
	} {
		since, err := c.Since(t.Context(), test.commit, test.branch, test.tip, test.limit)
		require.NoError(t, err, test.name)
		assert.Equal(t, append([]string{}, test.want...), since, test.name)
	}
	since, err := c.Since(t.Context(), first, "trunk", other, 1)
	require.NoError(t, err)
	assert.Len(t, since, 1)
	_, err = c.Tip(t.Context(), "nowhere")
	assert.ErrorContains(t, err, "asking where the branch nowhere is: origin does not have it")
	require.NoError(t, os.Rename(origin, origin+"-moved"))
	t.Cleanup(func() { _ = os.Rename(origin+"-moved", origin) })
	_, err = c.Tip(t.Context(), "trunk")
	assert.ErrorContains(t, err, "asking where the branch trunk is: ")
	require.NoError(t, os.Rename(origin+"-moved", origin))

	shallow := filepath.Join(t.TempDir(), "shallow")
	gitIn(t, origin, "clone", "-q", "--depth=1", "file://"+origin, shallow)
	c, err = Read(t.Context(), shallow)
	require.NoError(t, err)
	order, err := c.Compare(t.Context(), third, first)
	require.NoError(t, err)
	assert.Equal(t, Unknown, order, "the history has been cut off")

	c.Root = origin
	assert.Empty(t, c.DefaultBranch(t.Context()), "it is no clone")
	assert.Empty(t, Checkout{}.DefaultBranch(t.Context()))
}

// Whatever git may say, the tag is one that an image can have.
func FuzzTag(f *testing.F) {
	f.Add("# branch.oid 0123456789abcdef0123456789abcdef01234567\x00# branch.head main\x001 .M N... 100644 100644 100644 a b a file\x00")
	f.Add("# branch.oid (initial)\x00? new\x00")
	f.Add("# branch.oid ab\x00u UU N... 1 2 3 4 5 6 7 a b\x00")
	f.Add("# branch.oid -x/../:\x00")
	f.Fuzz(func(t *testing.T, status string) {
		var c Checkout
		parseStatus(&c, []byte(status))
		tag := c.Tag()
		if c.Commit == "" && tag != Uncommitted {
			t.Fatalf("tag %q without a commit", tag)
		}
		if !tagGrammar.MatchString(tag) {
			t.Fatalf("%q is no tag", tag)
		}
	})
}
