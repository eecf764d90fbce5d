//go:build unix

package scripts

import (
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/docker"
	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testengine"
)

// grimoireCommand is the magefile with every target, compiled.
func grimoireCommand(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	exe := filepath.Join(t.TempDir(), "grimoire")
	compile(t, root, exe)
	return exe
}

// checkout writes a service's files and commits them.
func checkout(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"commit", "-q", "-m", "first"}} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}

// watched is a file that a command writes into.
type watched struct{ *os.File }

func watch(t *testing.T) watched {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "output"))
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return watched{file}
}

func (w watched) text(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(w.Name())
	require.NoError(t, err)
	return string(text)
}

var program = map[string]string{"go.mod": "module example.org/shop/pay\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n", ".gitignore": "/build/\n"}

func with(files map[string]string, name, content string) map[string]string {
	all := map[string]string{name: content}
	for name, content := range files {
		all[name] = content
	}
	return all
}

// A signal in the middle of a build by an engine ends the step that the engine runs.
func TestSignalInTheMiddleOfABuild(t *testing.T) {
	host, _ := needs.Engine(t)
	grimoire := grimoireCommand(t)
	seconds := 2009 // by which each step is known among the machine's processes
	for _, buildKit := range []string{"1", "0"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			seconds++
			sleep := fmt.Sprintf("sleep %d", seconds)
			t.Run(fmt.Sprintf("DOCKER_BUILDKIT=%s, %s", buildKit, signal), func(t *testing.T) {
				dir := checkout(t, with(program, "Dockerfile", "FROM "+testengine.GoImage+"\nRUN echo begun; "+sleep+"\n"))
				sleeping := func() bool { return exec.Command("pgrep", "-f", "^"+sleep).Run() == nil }
				output := watch(t)
				cmd := exec.Command(grimoire, "image")
				cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
				cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_BUILDKIT="+buildKit, "IMAGE_NETWORK=none", "REGISTRY_HOST=")
				require.NoError(t, cmd.Start())
				require.Eventually(t, sleeping, time.Minute, 20*time.Millisecond, "the step does not begin: %s", output.text(t))
				require.NoError(t, cmd.Process.Signal(signal))
				begun := time.Now()
				require.Error(t, cmd.Wait())
				assert.Equal(t, 128+int(signal), cmd.ProcessState.ExitCode(), output.text(t))
				require.Eventually(t, func() bool { return !sleeping() }, time.Minute, 20*time.Millisecond, "the engine goes on")
				t.Logf("it was over after %s", time.Since(begun).Round(time.Millisecond))
				assert.NoFileExists(t, filepath.Join(dir, "build", "image.json"))
			})
		}
	}
}

// A signal in the middle of a push moves no tag, and the next push succeeds.
func TestSignalInTheMiddleOfAPush(t *testing.T) {
	grimoire := grimoireCommand(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
			uploading, released := make(chan struct{}), make(chan struct{})
			var once, free sync.Once
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				select {
				case <-released:
				default:
					if req.Method == http.MethodPatch {
						_, _ = io.CopyN(io.Discard, req.Body, 1000)
						once.Do(func() { close(uploading) })
						<-released
					}
				}
				inner.ServeHTTP(w, req)
			}))
			t.Cleanup(server.Close)
			release := func() { free.Do(func() { close(released) }) }
			t.Cleanup(release)
			dir := checkout(t, program)
			output := watch(t)
			push := func() *exec.Cmd {
				cmd := exec.Command(grimoire, "push")
				cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
				cmd.Env = append(os.Environ(), "REGISTRY_HOST="+server.Listener.Addr().String(), "IMAGE_BUILDER=go", "CI=")
				return cmd
			}
			cmd := push()
			require.NoError(t, cmd.Start())
			<-uploading
			require.NoError(t, cmd.Process.Signal(signal))
			require.Error(t, cmd.Wait())
			assert.Equal(t, 128+int(signal), cmd.ProcessState.ExitCode(), output.text(t))
			release()
			tags, err := http.Get(server.URL + "/v2/shop/pay/tags/list")
			require.NoError(t, err)
			defer tags.Body.Close()
			assert.Equal(t, http.StatusNotFound, tags.StatusCode, "nothing is there under any tag")
			require.NoError(t, push().Run(), output.text(t))
		})
	}
}

// An engine moves the commit's tag itself. What the registry then refuses is made up for by the next push, which builds nothing.
func TestPushAfterOneThatAttachedNothing(t *testing.T) {
	host, _ := needs.Engine(t)
	grimoire := grimoireCommand(t)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var refused atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/sha256") && refused.Load() == 0 {
			refused.Add(1)
			http.Error(w, `{"errors":[{"code":"DENIED","message":"the quota is used up"}]}`, http.StatusForbidden)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	dir := checkout(t, with(program, "Dockerfile", "FROM "+testengine.GoImage+"\nRUN echo "+address+"\n"))
	push := func() (string, error) {
		cmd := exec.Command(grimoire, "push")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "IMAGE_BUILDER=engine", "IMAGE_NETWORK=none", "REGISTRY_HOST="+address, "CI=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := push()
	require.Error(t, err, out)
	assert.Contains(t, out, "the quota is used up")
	require.EqualValues(t, 1, refused.Load())

	for range 2 {
		out, err = push()
		require.NoError(t, err, out)
		assert.Contains(t, out, "the registry holds this commit's image, so nothing is built")
		reference := strings.TrimSpace(lastLine(out, address))
		login := docker.Registry{Host: address}
		statements, err := login.Statements(t.Context(), reference)
		require.NoError(t, err)
		assert.Len(t, statements, 1)
		img, err := login.Pull(t.Context(), reference, "")
		require.NoError(t, err)
		configuration, err := img.ConfigFile()
		require.NoError(t, err)
		repository, digest, _ := strings.Cut(reference, "@")
		tagged, err := login.Digest(t.Context(), repository+":"+docker.InputsTag(configuration.Config.Labels[docker.InputsLabel]))
		require.NoError(t, err)
		assert.Equal(t, digest, tagged)
	}
}

// Another user of the system, who has nothing of the first one's, makes the same image.
func TestSameImageByAnotherUser(t *testing.T) {
	needs.Root(t)
	const nobody = 65534
	grimoire, dir := grimoireCommand(t), checkout(t, program)
	image := func(cmd *exec.Cmd, env ...string) (result, statements string) {
		cmd.Env = append(os.Environ(), append(env, "REGISTRY_HOST=", "IMAGE_BUILDER=go", "CI=")...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		read := func(name string) string {
			text, err := os.ReadFile(filepath.Join(cmd.Dir, "build", name))
			require.NoError(t, err)
			return string(text)
		}
		return read("image.json"), read("image.intoto.jsonl")
	}
	cmd := exec.Command(grimoire, "image")
	cmd.Dir = dir
	result, statements := image(cmd)

	home, err := os.MkdirTemp("", "another-user-") // the folders of tests are their user's alone
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(home)) })
	theirs := filepath.Join(home, "src")
	require.NoError(t, os.CopyFS(theirs, os.DirFS(dir)))
	require.NoError(t, os.RemoveAll(filepath.Join(theirs, "build")))
	content, err := os.ReadFile(grimoire)
	require.NoError(t, err)
	exe := filepath.Join(home, "grimoire")
	require.NoError(t, os.WriteFile(exe, content, 0o755))
	require.NoError(t, filepath.WalkDir(home, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	}))
	cmd = exec.Command(exe, "image")
	cmd.Dir = theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cache := filepath.Join(home, ".cache")
	theirResult, theirStatements := image(cmd, "HOME="+home, "USER=nobody", "LOGNAME=nobody", "TMPDIR="+home, "XDG_CACHE_HOME="+cache,
		"GOCACHE="+filepath.Join(cache, "go-build"), "GOPATH="+filepath.Join(home, "go"), "GOMODCACHE="+filepath.Join(home, "go", "mod"), "GOENV=off")
	assert.Equal(t, result, theirResult)
	assert.Equal(t, statements, theirStatements)
	assert.Contains(t, result, `"digest": "shop/pay@sha256:`)
}

// processWatch notes the command lines of all processes, for as long as a test wants.
func processWatch(t *testing.T) (seen func() string) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	var all strings.Builder
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, line := range lines {
				if text, err := os.ReadFile(line); err == nil {
					all.Write(text)
					all.WriteByte('\n')
				}
			}
		}
	}()
	return func() string {
		close(stop)
		<-stopped
		return all.String()
	}
}

// Secrets that stand in the environment and in Docker's configuration, and one that a step of the Dockerfile reads, are nowhere
// afterwards: in no line, command line, file, layer or history.
func TestSecretsOfImages(t *testing.T) {
	host, _ := needs.Engine(t)
	grimoire := grimoireCommand(t)
	const user, environment, configured, mounted = "bob", "env-s3cret-4711", "config-s3cret-4712", "mounted-s3cret-4713"
	secrets := []string{environment, configured, mounted}
	for _, password := range []string{environment, configured} {
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	for _, test := range []struct {
		name, password string
		env            []string
	}{
		{name: "the environment's, by an engine", password: environment, env: []string{
			"IMAGE_BUILDER=engine", "IMAGE_SECRETS=NPM_TOKEN", "REGISTRY_USER=" + user, "REGISTRY_PASS=" + environment,
		}},
		{name: "the environment's, without one", password: environment, env: []string{"IMAGE_BUILDER=go", "REGISTRY_USER=" + user, "REGISTRY_PASS=" + environment}},
		{name: "the configuration's, by an engine", password: configured, env: []string{"IMAGE_BUILDER=engine", "IMAGE_SECRETS=NPM_TOKEN"}},
		{name: "the configuration's, without one", password: configured, env: []string{"IMAGE_BUILDER=go"}},
		{name: "a wrong one, by an engine", password: "another", env: []string{
			"IMAGE_BUILDER=engine", "IMAGE_SECRETS=NPM_TOKEN", "REGISTRY_USER=" + user, "REGISTRY_PASS=" + environment,
		}},
		{name: "a wrong one, without one", password: "another", env: []string{"IMAGE_BUILDER=go"}},
		{name: "an argument", password: environment, env: []string{
			"IMAGE_BUILDER=engine", "IMAGE_ARGS=MODE=" + mounted, "REGISTRY_USER=" + user, "REGISTRY_PASS=" + environment,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if _, password, _ := req.BasicAuth(); password != test.password {
					w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
					// A server that says what it got is the worst case.
					http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"not `+strings.TrimPrefix(req.Header.Get("Authorization"), "Basic ")+`"}]}`, http.StatusUnauthorized)
					return
				}
				inner.ServeHTTP(w, req)
			}))
			t.Cleanup(server.Close)
			address := server.Listener.Addr().String()
			dir := checkout(t, with(program, "Dockerfile", "FROM "+testengine.GoImage+" AS build\nARG MODE\n"+
				"RUN --mount=type=secret,id=NPM_TOKEN test ! -e /run/secrets/NPM_TOKEN || test $(wc -c </run/secrets/NPM_TOKEN) = 19; echo "+address+"\nRUN touch /made\n"+
				"FROM scratch\nCOPY --from=build /made /\n"))
			config := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(config, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, address,
				base64.StdEncoding.EncodeToString([]byte(user+":"+configured))), 0o600))
			output := watch(t)
			cmd := exec.Command(grimoire, "push")
			cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
			cmd.Env = append(os.Environ(), append(test.env, "DOCKER_HOST="+host, "DOCKER_CONFIG="+config, "REGISTRY_HOST="+address,
				"IMAGE_NETWORK=none", "NPM_TOKEN="+mounted, "CI=")...)
			seen := processWatch(t)
			require.NoError(t, cmd.Start())
			// One that ends at once may do so between two looks of the watch.
			own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
			require.NoError(t, err)
			err = cmd.Wait()
			commands := string(own) + "\n" + seen()
			text := output.text(t)
			require.True(t, strings.Contains(commands, grimoire), "the command lines were seen")
			works := test.password != "another" && test.name != "an argument"
			require.Equal(t, works, err == nil, text)
			nowhere := func(what, content string) {
				for _, secret := range secrets {
					assert.NotContains(t, content, secret, what)
				}
			}
			nowhere("the output", text)
			nowhere("the command lines", commands)
			require.NoError(t, filepath.WalkDir(filepath.Join(dir, "build"), func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				content, err := os.ReadFile(path)
				nowhere(path, string(content))
				return err
			}))
			if !works {
				return
			}
			login := docker.Registry{Host: address, Username: user, Password: test.password}
			reference := strings.TrimSpace(lastLine(text, address))
			img, err := login.Pull(t.Context(), reference, "")
			require.NoError(t, err)
			configuration, err := img.RawConfigFile()
			require.NoError(t, err)
			nowhere("the configuration and history", string(configuration))
			layers, err := img.Layers()
			require.NoError(t, err)
			require.NotEmpty(t, layers)
			for _, layer := range layers {
				nowhere("a layer", unpacked(t, layer))
			}
			statements, err := login.Statements(t.Context(), reference)
			require.NoError(t, err)
			require.NotEmpty(t, statements)
			nowhere("what is attached", string(docker.JoinStatements(statements)))
		})
	}
}

// lastLine is the last line that begins with a text.
func lastLine(text, prefix string) (last string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			last = line
		}
	}
	return last
}

func unpacked(t *testing.T, layer v1.Layer) string {
	t.Helper()
	content, err := layer.Uncompressed()
	require.NoError(t, err)
	defer content.Close()
	text, err := io.ReadAll(content)
	require.NoError(t, err)
	return string(text)
}
