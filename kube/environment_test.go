package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

const revision = "4f2a91c07be3d5518a6e0c9bb1f7a2d3e4c5b6a7"

// isolate keeps the machine's git configuration and temporary folder out of a test. It returns the latter.
func isolate(t *testing.T) string {
	t.Helper()
	home, tmp := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("TMPDIR", tmp)
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(home, ".gitconfig"))
	for _, name := range []string{"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"} {
		t.Setenv(name, "")
		require.NoError(t, os.Unsetenv(name))
	}
	return tmp
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "git %s: %s", args, out)
	return strings.TrimSpace(string(out))
}

// bare makes a repository with one commit of the files on main, or with none.
func bare(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "environment.git")
	git(t, "", "init", "--quiet", "--bare", "--initial-branch=main", dir)
	if files != nil {
		commitTo(t, dir, "main", files)
	}
	return dir
}

// commitTo commits files to a branch as somebody else.
func commitTo(t testing.TB, repository, branch string, files map[string]string) {
	t.Helper()
	work := t.TempDir()
	git(t, "", "clone", "--quiet", repository, work)
	git(t, work, "checkout", "--quiet", "-B", branch)
	for name, content := range files {
		path := filepath.Join(work, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	git(t, work, "add", "--all")
	git(t, work, "-c", "user.name=somebody", "-c", "user.email=s@example.org", "commit", "--quiet", "-m", "by hand")
	git(t, work, "push", "--quiet", "origin", branch)
}

func release(service string) kube.Release {
	return kube.Release{Service: service, Image: "git.example.org/shop/" + service + "@" + digest, Revision: revision}
}

func manifest(image string) string {
	return "# by hand\nspec:\n  containers:\n  - image: " + image + "   # here\n"
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries, "nothing may stay behind")
}

func TestDeploy(t *testing.T) {
	tmp := isolate(t)
	repository := bare(t, map[string]string{
		"prod/pay.yaml": manifest("pay:v1"), "prod/till.yaml": manifest("till:v1"), "prod/values.yml": "image: {repository: shop/pay, digest: x}\n",
		"test/pay.yaml": manifest("pay:v1"), "prod/.hidden/pay.yaml": manifest("pay:v1"), "prod/chart/templates/x.yaml": "{{ if .x }}\n- pay\n{{ end }}\n",
		"README.md": "containers: [{image: pay}]\n",
	})
	before := git(t, repository, "rev-parse", "main")
	var log bytes.Buffer
	ctx := zerolog.New(&log).WithContext(t.Context())
	environment := kube.Environment{URL: "file://" + repository, Path: "prod/"}
	commit, err := environment.Deploy(ctx, release("pay"))
	require.NoError(t, err)

	assert.True(t, commit.Changed)
	assert.Equal(t, git(t, repository, "rev-parse", "main"), commit.Hash)
	assert.Equal(t, before, git(t, repository, "rev-parse", "main^"))
	assert.Equal(t, []string{"prod/pay.yaml", "prod/values.yml"}, commit.Files)
	assert.Equal(t, strings.Join(commit.Files, "\n"), git(t, repository, "diff", "--name-only", "main^", "main"))
	assert.Equal(t, strings.TrimSuffix(manifest(image), "\n"), git(t, repository, "show", "main:prod/pay.yaml"))
	assert.Contains(t, commit.Diff, "--- a/prod/pay.yaml\n+++ b/prod/pay.yaml\n")
	assert.Contains(t, commit.Diff, "-  - image: pay:v1   # here\n+  - image: "+image+"   # here\n")
	assert.Equal(t, "Deploy pay at 4f2a91c07be3\n\nService: pay\nImage: "+image+"\nRevision: "+revision,
		git(t, repository, "log", "-1", "--format=%B", "main"))
	assert.Equal(t, "grimoire <grimoire@localhost> grimoire <grimoire@localhost>", git(t, repository, "log", "-1", "--format=%an <%ae> %cn <%ce>", "main"))
	assert.Contains(t, log.String(), "prod/chart/templates/x.yaml:", "what is passed over is said")
	requireEmpty(t, tmp)

	again, err := environment.Deploy(t.Context(), release("pay"))
	require.NoError(t, err)
	assert.Equal(t, kube.Commit{Hash: commit.Hash, Image: image}, again, "a second time changes nothing")
	assert.Equal(t, commit.Hash, git(t, repository, "rev-parse", "main"))
	requireEmpty(t, tmp)
}

func TestDeployPlaces(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"a/pay.yaml": manifest("pay"), "b/pay.txt": manifest("pay")})
	commitTo(t, repository, "prod", map[string]string{"pay.yml": manifest("pay")})
	t.Chdir(filepath.Dir(repository))
	tests := []struct {
		name        string
		environment kube.Environment
		branch      string
		files       []string
	}{
		{"a local path", kube.Environment{URL: repository}, "main", []string{"a/pay.yaml"}},
		{"a relative path and another branch", kube.Environment{URL: "environment.git", Branch: "prod", Path: "pay.yml"}, "prod", []string{"pay.yml"}},
		{"a file of any name", kube.Environment{URL: "file://" + repository, Branch: "main", Path: "b/pay.txt"}, "main", []string{"b/pay.txt"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			commit, err := tt.environment.Deploy(t.Context(), release("pay"))
			require.NoError(t, err)
			assert.Equal(t, tt.files, commit.Files)
			assert.Equal(t, commit.Hash, git(t, repository, "rev-parse", tt.branch))
		})
	}
}

func TestDeployAuthor(t *testing.T) {
	tests := []struct {
		name        string
		environment kube.Environment
		variables   map[string]string
		config      string
		want        string
	}{
		{"stated", kube.Environment{AuthorName: "CI", AuthorEmail: "ci@example.org"}, map[string]string{"GIT_AUTHOR_NAME": "x"}, "[user]\nname=y\n",
			"CI <ci@example.org> CI <ci@example.org>"},
		{"by environment", kube.Environment{}, map[string]string{"GIT_AUTHOR_NAME": "E", "GIT_COMMITTER_EMAIL": "c@example.org"}, "[user]\nname=y\nemail=y@example.org\n",
			"E <y@example.org> E <c@example.org>"},
		{"by configuration", kube.Environment{}, nil, "[user]\nname=Y\nemail=y@example.org\nuseConfigOnly=true\n", "Y <y@example.org> Y <y@example.org>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			isolate(t)
			for name, value := range tt.variables {
				t.Setenv(name, value)
			}
			require.NoError(t, os.WriteFile(os.Getenv("GIT_CONFIG_GLOBAL"), []byte(tt.config), 0o600))
			tt.environment.URL = bare(t, map[string]string{"pay.yaml": manifest("pay")})
			_, err := tt.environment.Deploy(t.Context(), release("pay"))
			require.NoError(t, err)
			assert.Equal(t, tt.want, git(t, tt.environment.URL, "log", "-1", "--format=%an <%ae> %cn <%ce>", "main"))
		})
	}
}

// What the user's git and the surroundings are set to must not get in the way.
func TestDeployWhereverItRuns(t *testing.T) {
	isolate(t)
	const windows = "containers:\r\n- image: %s\r\n# end\r\n"
	repository := bare(t, map[string]string{"pay.yaml": manifest("pay"), "crlf.yaml": fmt.Sprintf(windows, "pay"), ".gitattributes": "* diff=x\n"})
	hooks := t.TempDir()
	for _, hook := range []string{"pre-commit", "commit-msg", "pre-push", "post-checkout"} {
		require.NoError(t, os.WriteFile(filepath.Join(hooks, hook), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	}
	require.NoError(t, os.WriteFile(os.Getenv("GIT_CONFIG_GLOBAL"), []byte(`
[core]
	hooksPath = `+hooks+`
	autocrlf = true
[commit]
	gpgSign = true
	template = /nowhere
[push]
	gpgSign = true
	default = nothing
[gpg]
	program = /nowhere
[clone]
	defaultRemoteName = upstream
[color]
	ui = always
[diff]
	external = /nowhere
	mnemonicPrefix = true
[diff "x"]
	textconv = /nowhere
`), 0o600))
	t.Setenv("GIT_DIR", "/nowhere")
	t.Setenv("GIT_INDEX_FILE", "/nowhere")
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "user.name")
	t.Setenv("GIT_CONFIG_VALUE_0", "of the environment")
	r := release("pay")
	r.Message, r.Revision = "# Roll back pay\n\nBecause.", ""
	commit, err := kube.Environment{URL: repository}.Deploy(t.Context(), r)
	require.NoError(t, err)
	require.NoError(t, os.Unsetenv("GIT_DIR"))
	require.NoError(t, os.Unsetenv("GIT_INDEX_FILE"))
	assert.Contains(t, commit.Diff, "\n+  - image: "+image)
	assert.Equal(t, strings.TrimSpace(fmt.Sprintf(windows, image)), git(t, repository, "show", "main:crlf.yaml"))
	assert.Equal(t, "of the environment: # Roll back pay\n\nBecause.\n\nService: pay\nImage: "+image, git(t, repository, "log", "-1", "--format=%an: %B", "main"))
}

func TestDeployErrors(t *testing.T) {
	tmp := isolate(t)
	repository := bare(t, map[string]string{"prod/till.yaml": manifest("till:v1"), "prod/redis.yaml": manifest("redis"), "docs/x.md": "x",
		"bad/x.yaml": "containers:\n- image: |-\n    pay\n"})
	git(t, repository, "tag", "v1", "main")
	commitTo(t, repository, "other", map[string]string{"x": "y"})
	protected := bare(t, map[string]string{"pay.yaml": manifest("pay")})
	require.NoError(t, os.WriteFile(filepath.Join(protected, "hooks", "pre-receive"), []byte("#!/bin/sh\necho only robots push here >&2\nexit 1\n"), 0o755))
	empty := bare(t, nil)
	elsewhere := bare(t, map[string]string{"pay.yaml": manifest("pay")})
	git(t, elsewhere, "symbolic-ref", "HEAD", "refs/heads/master")
	outside := filepath.Join(t.TempDir(), "outside.yaml")
	require.NoError(t, os.WriteFile(outside, []byte(manifest("pay")), 0o600))
	link := bare(t, nil)
	work := t.TempDir()
	git(t, "", "clone", "--quiet", link, work)
	require.NoError(t, os.Symlink(outside, filepath.Join(work, "pay.yaml")))
	require.NoError(t, os.Symlink("x.yaml", filepath.Join(work, "inside.yaml")))
	require.NoError(t, os.WriteFile(filepath.Join(work, "x.yaml"), nil, 0o600))
	git(t, work, "add", "--all")
	git(t, work, "-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "-m", "x")
	git(t, work, "push", "--quiet", "origin", "HEAD:main")

	tests := []struct {
		name        string
		environment kube.Environment
		release     kube.Release
		want        string
	}{
		{"no URL", kube.Environment{}, release("pay"), "deploying pay: the environment has no repository; name its URL"},
		{"no repository", kube.Environment{URL: "file:///nowhere/x.git"}, release("pay"),
			"deploying pay to file:///nowhere/x.git: git clone: fatal: '/nowhere/x.git' does not appear to be a git repository"},
		{"no repository, the cure", kube.Environment{URL: "file:///nowhere/x.git"}, release("pay"), "; there is no such repository, or this login may not see it: mend the URL"},
		{"no branch", kube.Environment{URL: repository, Branch: "prod"}, release("pay"), `the repository has no branch "prod"; push it, or name one of: main, other`},
		{"tag as branch", kube.Environment{URL: repository, Branch: "v1"}, release("pay"), `the repository has no branch "v1"; push it, or name one of: main, other`},
		{"option as branch", kube.Environment{URL: repository, Branch: "--upload-pack=x"}, release("pay"), `"--upload-pack=x" is no name of a branch`},
		{"option as URL", kube.Environment{URL: "--upload-pack=touch x"}, release("pay"), "does not exist"},
		{"empty", kube.Environment{URL: empty}, release("pay"), "the repository is empty; commit the service's manifests to its branch main first"},
		{"other branch", kube.Environment{URL: elsewhere}, release("pay"), `the repository has no branch "master"; push it, or name one of: main`},
		{"empty with a branch", kube.Environment{URL: empty, Branch: "main"}, release("pay"), "the repository is empty; commit"},
		{"no path", kube.Environment{URL: repository, Path: "prod/eu/west"}, release("pay"), `there is no "prod/eu/west" in it; in "prod" there is: redis.yaml, till.yaml; name one of these paths`},
		{"no path at all", kube.Environment{URL: repository, Path: "x/y"}, release("pay"), `there is no "x/y" in it; in "." there is: bad, docs, prod; name`},
		{"path outside", kube.Environment{URL: repository, Path: "../x"}, release("pay"), "is not inside the repository"},
		{"absolute path", kube.Environment{URL: repository, Path: "/etc"}, release("pay"), "is not inside the repository"},
		{"no YAML", kube.Environment{URL: repository, Path: "docs"}, release("pay"), `no *.yaml or *.yml is in "docs"; commit the manifests there, or name another path`},
		{"another image", kube.Environment{URL: repository, Path: "prod"}, release("pay"),
			`nothing uses an image git.example.org/shop/pay, only "redis" in prod/redis.yaml, "till:v1" in prod/till.yaml; name it in the manifest, as "pay" for example`},
		{"image in a block", kube.Environment{URL: repository, Path: "bad"}, release("pay"), "bad/x.yaml:2: document 1: the value is written over several lines"},
		{"link that leads out", kube.Environment{URL: link}, release("pay"), "nothing uses an image"},
		{"link that leads out, by name", kube.Environment{URL: link, Path: "pay.yaml"}, release("pay"), `there is no "pay.yaml" in it`},
		{"link, by name", kube.Environment{URL: link, Path: "inside.yaml"}, release("pay"), `the path "inside.yaml" is a link to "x.yaml"; name that`},
		{"protected branch", kube.Environment{URL: protected}, release("pay"), "only robots push here"},
		{"protected branch, the cure", kube.Environment{URL: protected}, release("pay"), "; the server does not let this login push to the branch"},
		{"image by tag", kube.Environment{URL: repository}, kube.Release{Service: "pay", Image: "x/pay:v1"}, "is not an image by digest"},
		{"no service", kube.Environment{URL: repository}, kube.Release{Image: image}, "the service has no name"},
		{"line break", kube.Environment{URL: repository}, kube.Release{Service: "pay\n\nSigned-off-by: x", Image: image}, "has a line break"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			commit, err := tt.environment.Deploy(t.Context(), tt.release)
			require.ErrorContains(t, err, tt.want)
			assert.Zero(t, commit)
			requireEmpty(t, tmp)
		})
	}
	content, err := os.ReadFile(outside)
	require.NoError(t, err)
	assert.Equal(t, manifest("pay"), string(content))
}

func TestDeployKeepsTheExitCode(t *testing.T) {
	isolate(t)
	_, err := kube.Environment{URL: "file:///nowhere/x.git"}.Deploy(t.Context(), release("pay"))
	var exit interface{ ExitStatus() int }
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 128, exit.ExitStatus())
}

func TestDeployConcurrently(t *testing.T) {
	t.Run("a folder", func(t *testing.T) {
		deployConcurrently(t, func(repository string) string { return "file://" + repository })
	})
	t.Run("HTTP", func(t *testing.T) {
		deployConcurrently(t, func(repository string) string { return withUser(gitServer(t, repository, nil), "t0ken") })
	})
}

func deployConcurrently(t *testing.T, serve func(repository string) string) {
	tmp := isolate(t)
	const writers = 20
	files := make(map[string]string)
	for i := range writers {
		files[fmt.Sprintf("service-%d.yaml", i)] = manifest(fmt.Sprintf("service-%d:v1", i))
	}
	files["all.yaml"] = strings.Join([]string{manifest("service-0"), manifest("service-1"), manifest("service-2")}, "---\n")
	repository := bare(t, files)
	url := serve(repository)
	var wg sync.WaitGroup
	commits, errs := make([]kube.Commit, writers), make([]error, writers)
	for i := range writers {
		wg.Go(func() {
			commits[i], errs[i] = kube.Environment{URL: url}.Deploy(t.Context(), release(fmt.Sprintf("service-%d", i)))
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	log := git(t, repository, "log", "--format=%H", "main")
	assert.Len(t, strings.Fields(log), writers+1)
	for i := range writers {
		assert.Contains(t, log, commits[i].Hash)
		name := fmt.Sprintf("service-%d", i)
		assert.Contains(t, git(t, repository, "show", "main:"+name+".yaml"), "git.example.org/shop/"+name+"@"+digest)
	}
	for i := range 3 {
		assert.Contains(t, git(t, repository, "show", "main:all.yaml"), fmt.Sprintf("git.example.org/shop/service-%d@%s", i, digest))
	}
	requireEmpty(t, tmp)
}

// gitServer serves a repository over HTTP to those who log in. before is called with each request, and may be nil.
func gitServer(t *testing.T, repository string, before func(http.ResponseWriter, *http.Request)) string {
	t.Helper()
	git(t, repository, "config", "http.receivepack", "true")
	backend := &cgi.Handler{
		Path: filepath.Join(git(t, "", "--exec-path"), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repository), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_CONFIG_GLOBAL=" + os.DevNull, "REMOTE_USER=ci"},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user+password != "cis3cret/" && user != "t0ken" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if before != nil {
			before(w, r)
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/" + filepath.Base(repository)
}

func withUser(url, user string) string {
	return strings.Replace(url, "://", "://"+user+"@", 1)
}

func TestDeployWithLogin(t *testing.T) {
	isolate(t)
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "user.name")
	t.Setenv("GIT_CONFIG_VALUE_0", "of the environment")
	tests := []struct{ name, user, want string }{
		{"user and password", "ci:s3cret%2F", ""},
		{"token", "t0ken", ""},
		{"wrong password", "ci:wr0ng", "the login is refused: put a user and a token that may push into the URL"},
		{"wrong token", "wr0ng", "the login is refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			repository := bare(t, map[string]string{"pay.yaml": manifest("pay")})
			url := gitServer(t, repository, nil)
			var log bytes.Buffer
			ctx := zerolog.New(&log).Level(zerolog.DebugLevel).WithContext(t.Context())
			commit, err := kube.Environment{URL: withUser(url, tt.user)}.Deploy(ctx, release("pay"))
			assert.Contains(t, log.String(), `"clone"`, "the arguments are logged")
			assert.Contains(t, log.String(), url)
			said := log.String()
			if tt.want != "" {
				require.ErrorContains(t, err, tt.want)
				assert.ErrorContains(t, err, "deploying pay to "+url+": ")
				said += err.Error()
			} else {
				require.NoError(t, err)
				assert.Equal(t, commit.Hash, git(t, repository, "rev-parse", "main"))
			}
			for _, secret := range []string{"s3cret", "t0ken", "wr0ng"} {
				assert.NotContains(t, said, secret)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		url := gitServer(t, bare(t, map[string]string{"pay.yaml": manifest("pay")}), nil)
		_, err := kube.Environment{URL: url}.Deploy(t.Context(), release("pay"))
		require.ErrorContains(t, err, "the login is refused")
	})
	for _, url := range []string{"oauth2:s3cret@example.org/x", "ci:s3cret@example.org:x"} {
		t.Run(url, func(t *testing.T) {
			_, err := kube.Environment{URL: url}.Deploy(t.Context(), release("pay"))
			require.ErrorContains(t, err, "looks like a URL with a login and without a scheme; write it with https://")
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
	t.Run("moved", func(t *testing.T) {
		told := ""
		other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { told += r.Header.Get("Authorization") }))
		defer other.Close()
		moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+r.URL.RequestURI(), http.StatusFound)
		}))
		defer moved.Close()
		_, err := kube.Environment{URL: withUser(moved.URL+"/env.git", "ci:s3cret")}.Deploy(t.Context(), release("pay"))
		require.ErrorContains(t, err, "the repository is elsewhere, and the login goes to no other address than its URL's")
		assert.Empty(t, told, "the login has gone to another host")
	})
	for _, url := range []string{"https://ci:s3cret/@example.org/x", "https://ci:s3%zzcret@example.org/x", "https://ci:1#s3cret@example.org/x", "https://x/y?token=s3cret"} {
		t.Run(url, func(t *testing.T) {
			_, err := kube.Environment{URL: url}.Deploy(t.Context(), release("pay"))
			require.ErrorContains(t, err, "write what is special in its user and password as %XX")
			assert.NotContains(t, err.Error(), "cret")
		})
	}
}

// Git takes a file for changed whose line ends are not as its attributes want them.
func TestDeployCommitsNothingElse(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"pay.yaml": manifest("pay"), "other.txt": "by hand\r\n"})
	commitTo(t, repository, "main", map[string]string{".gitattributes": "*.txt text\n"})
	commit, err := kube.Environment{URL: repository}.Deploy(t.Context(), release("pay"))
	require.NoError(t, err)
	assert.Equal(t, "pay.yaml", git(t, repository, "diff", "--name-only", "main~1", "main"))
	assert.NotContains(t, commit.Diff, "other.txt")
}

// Somebody else pushes after the clone and before the push.
func TestDeployStartsOver(t *testing.T) {
	tests := []struct {
		name    string
		theirs  map[string]string
		changed bool
		want    string
	}{
		{"another file", map[string]string{"till.yaml": manifest("till:v2")}, true, image},
		{"the same file", map[string]string{"pay.yaml": "# moved\n" + manifest("shop/pay:v2")}, true, image},
		{"the same change", map[string]string{"pay.yaml": manifest(image)}, false, image},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			isolate(t)
			repository := bare(t, map[string]string{"pay.yaml": manifest("pay:v1"), "till.yaml": manifest("till:v1")})
			var once sync.Once
			url := gitServer(t, repository, func(_ http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
					once.Do(func() { commitTo(t, repository, "main", tt.theirs) })
				}
			})
			commit, err := kube.Environment{URL: withUser(url, "t0ken")}.Deploy(t.Context(), release("pay"))
			require.NoError(t, err)
			assert.Equal(t, tt.changed, commit.Changed)
			assert.Equal(t, git(t, repository, "rev-parse", "main"), commit.Hash)
			assert.Contains(t, git(t, repository, "show", "main:pay.yaml"), tt.want)
			for name, content := range tt.theirs {
				if name != "pay.yaml" {
					assert.Equal(t, strings.TrimSpace(content), git(t, repository, "show", "main:"+name))
				}
			}
			commits := 2
			if tt.changed {
				commits++
			}
			assert.Len(t, strings.Fields(git(t, repository, "log", "--format=%H", "main")), commits)
		})
	}
}

// Another push holds the branch, which does not show it yet.
func TestDeployWhenTheBranchIsLocked(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"pay.yaml": manifest("pay:v1")})
	require.NoError(t, os.WriteFile(filepath.Join(repository, "hooks", "update"),
		[]byte("#!/bin/sh\nif mkdir locked 2>/dev/null; then echo 'cannot lock ref' >&2; exit 1; fi\n"), 0o755))
	commit, err := kube.Environment{URL: repository}.Deploy(t.Context(), release("pay"))
	require.NoError(t, err)
	assert.DirExists(t, filepath.Join(repository, "locked"), "the first push was refused")
	assert.Equal(t, commit.Hash, git(t, repository, "rev-parse", "main"))
}

// The server takes the push, and the connection breaks before it has said so.
func TestDeployWhenTheAnswerIsLost(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"pay.yaml": manifest("pay:v1")})
	url := gitServer(t, repository, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
			return
		}
		backend := &cgi.Handler{
			Path: filepath.Join(git(t, "", "--exec-path"), "git-http-backend"),
			Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repository), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=ci",
				"GIT_CONFIG_GLOBAL=" + os.DevNull},
		}
		backend.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	commit, err := kube.Environment{URL: withUser(url, "t0ken")}.Deploy(t.Context(), release("pay"))
	require.NoError(t, err)
	assert.True(t, commit.Changed)
	assert.Equal(t, commit.Hash, git(t, repository, "rev-parse", "main"))
	assert.Len(t, strings.Fields(git(t, repository, "log", "--format=%H", "main")), 2)
}

func TestDeployCancelledInTheMiddleOfAClone(t *testing.T) {
	tmp := isolate(t)
	cause := errors.New("the job was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := make(chan struct{})
	repository := bare(t, map[string]string{"pay.yaml": manifest("pay")})
	var once sync.Once
	url := gitServer(t, repository, func(_ http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			return
		}
		once.Do(func() {
			entries, err := os.ReadDir(tmp)
			assert.NoError(t, err)
			assert.NotEmpty(t, entries, "a clone is being made")
			_, err = io.Copy(io.Discard, r.Body) // the server looks for the end of the connection only after that
			assert.NoError(t, err)
			cancel(cause)
			<-r.Context().Done() // the process at the other end is gone
			close(gone)
		})
		panic(http.ErrAbortHandler)
	})
	_, err := kube.Environment{URL: withUser(url, "t0ken")}.Deploy(ctx, release("pay"))
	require.ErrorIs(t, err, cause)
	<-gone
	requireEmpty(t, tmp)
	assert.Empty(t, processesWith(t, tmp), "no process may stay behind")
}

// processesWith returns the command lines of processes that name a folder.
func processesWith(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(folder)) {
			found = append(found, string(line))
		}
	}
	return found
}
