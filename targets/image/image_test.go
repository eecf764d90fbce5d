package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/targets"
)

func gitIn(t *testing.T, dir string, args ...string) {
	t.Helper()
	args = append([]string{"-C", dir, "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"}, args...)
	out, err := exec.Command("git", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// committed returns a service in a git checkout with one commit.
func committed(t *testing.T) targets.Service {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module git.example.org/shop/pay\n"), 0o644))
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"commit", "-q", "-m", "first"}} {
		gitIn(t, dir, args...)
	}
	return targets.Service{Dir: dir, Name: "pay", Image: targets.ImageSettings{Repository: "shop/pay", Platform: "linux/amd64"}}
}

func TestReference(t *testing.T) {
	for registry, want := range map[string]string{
		"":                     "shop/pay:",
		"localhost":            "localhost/shop/pay:",
		"localhost:5000":       "localhost:5000/shop/pay:",
		"registry.example.org": "registry.example.org/shop/pay:",
	} {
		s := committed(t)
		s.Image.Registry = registry
		p, err := makePlan(t.Context(), s)
		require.NoError(t, err)
		assert.Regexp(t, "^"+want+"[0-9a-f]{12}$", p.reference)
		if registry == "" {
			assert.ErrorContains(t, p.mayPush(), "REGISTRY_HOST")
		} else {
			assert.NoError(t, p.mayPush())
		}
	}
}

func TestFilesThatChangeDuringTheBuild(t *testing.T) {
	for name, test := range map[string]struct {
		before, during func(s targets.Service)
		want           string // empty: all is well
	}{
		"nothing": {},
		"a file": {during: func(s targets.Service) {
			require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "go.mod"), []byte("module x\n"), 0o644))
		}, want: "these files changed meanwhile, and may be in the image: go.mod"},
		"another commit": {during: func(s targets.Service) { gitIn(t, s.Dir, "commit", "-q", "--allow-empty", "-m", "second") }, want: "another commit was checked out meanwhile"},
		"a file that differed before": {before: func(s targets.Service) { require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "new.go"), nil, 0o644)) },
			during: func(s targets.Service) { require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "more.go"), nil, 0o644)) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := committed(t)
			if test.before != nil {
				test.before(s)
			}
			p, err := makePlan(t.Context(), s)
			require.NoError(t, err)
			if test.during != nil {
				test.during(s)
			}
			if err := p.unmoved(t.Context()); test.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.want)
			}
		})
	}
}

func TestLabels(t *testing.T) {
	s := committed(t)
	p, err := makePlan(t.Context(), s)
	require.NoError(t, err)
	clean := p.labels(builderGo)
	assert.Equal(t, "https://git.example.org/shop/pay", clean["org.opencontainers.image.source"])
	assert.Equal(t, p.tree.Commit, clean["org.opencontainers.image.revision"])
	assert.Equal(t, p.tree.Commit[:12], clean["org.opencontainers.image.version"])
	assert.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, clean["org.opencontainers.image.created"])

	s.Image.Platform, s.Image.Registry = "linux/arm64", "registry.example.org"
	p, err = makePlan(t.Context(), s)
	require.NoError(t, err)
	assert.NotEqual(t, clean[settingsLabel], p.labels(builderGo)[settingsLabel])

	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "new.go"), []byte("package pay\n"), 0o644))
	p, err = makePlan(t.Context(), s)
	require.NoError(t, err)
	assert.NotContains(t, p.labels(builderGo), "org.opencontainers.image.revision", "no commit holds these files")
	assert.ErrorContains(t, p.mayPush(), "new.go")
}
