package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
	return targets.Service{Dir: dir, Name: "pay", Image: targets.ImageSettings{Repository: "shop/pay", Platform: []string{"linux/amd64"}}}
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

// An image that was pushed before lists were lists is still known by what it was built with, and lists that differ are not the same.
func TestDigestOfSettings(t *testing.T) {
	p := &plan{}
	p.Image = targets.ImageSettings{
		Builder: "go", Dockerfile: "Dockerfile", Main: []string{"./cmd/a", "./cmd/b"}, Platform: []string{"linux/amd64", "linux/arm64"},
		Args: map[string]string{"B": "2", "A": "1"}, Secrets: []string{"NPM", "PIP"},
	}
	before := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q %t %q %q %q %q", "go", "go", "Dockerfile", "./cmd/a ./cmd/b", "", "linux/amd64,linux/arm64",
		false, "", "A=1 B=2", "NPM PIP", ""))
	digest := p.settings("go")
	assert.Equal(t, hex.EncodeToString(before[:6]), digest)
	p.Image.Args = map[string]string{"A": "1 B=2"}
	assert.NotEqual(t, digest, p.settings("go"))
	p.Image.Args = map[string]string{"A": "1", "B": "2"}
	p.Image.Main = []string{"./cmd/a ./cmd/b"}
	assert.NotEqual(t, digest, p.settings("go"))
}

func TestArgs(t *testing.T) {
	p := &plan{}
	p.Image.Tag = "v1"
	p.Image.Args = map[string]string{"MOTD": "good day", "EMPTY": ""}
	args, err := p.args()
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"VERSION": "v1", "MOTD": "good day", "EMPTY": ""}, args)
	p.Image.Args = map[string]string{"Z": "1", "NPM_TOKEN": "x"}
	_, err = p.args()
	assert.ErrorContains(t, err, "the build argument NPM_TOKEN is named like a secret")
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

	s.Image.Platform, s.Image.Registry = []string{"linux/arm64"}, "registry.example.org"
	p, err = makePlan(t.Context(), s)
	require.NoError(t, err)
	assert.NotEqual(t, clean[settingsLabel], p.labels(builderGo)[settingsLabel])

	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "new.go"), []byte("package pay\n"), 0o644))
	p, err = makePlan(t.Context(), s)
	require.NoError(t, err)
	assert.NotContains(t, p.labels(builderGo), "org.opencontainers.image.revision", "no commit holds these files")
	assert.ErrorContains(t, p.mayPush(), "new.go")
}
