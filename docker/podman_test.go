package docker

import (
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/testengine"
	"github.com/grimoire-build/grimoire/internal/testregistry"
)

// TestPodman builds and pushes through Podman's socket, whose builder speaks as the engines' did before BuildKit.
func TestPodman(t *testing.T) {
	open := needs.Registry(t, testregistry.Options{})
	login := needs.Registry(t, testregistry.Options{Username: username, Password: password})
	engine := connectReal(t, needs.Podman(t, open.Host, login.Host))
	assert.Equal(t, Legacy, engine.builder)
	discard := process.WithOutput(t.Context(), io.Discard)

	for _, test := range []struct {
		name     string
		registry *testregistry.Registry
		login    bool
	}{{name: "open", registry: open}, {name: "login", registry: login, login: true}} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{
				"Dockerfile": "FROM " + testengine.ShellImage + " AS build\nWORKDIR /src\nCOPY . .\nARG GREETING=none\n" +
					"RUN test ! -e secret.key && echo \"the greeting is $GREETING\" && echo x >/made\nFROM scratch\nCOPY --from=build /made /made\nUSER 65532:65532\n",
				"secret.key": "k", ".dockerignore": "*.key\n",
			})
			ref := test.registry.Host + "/shop/pay:1"
			var output strings.Builder
			_, err := engine.Build(t.Context(), BuildOptions{
				Context: dir, Tags: []string{ref}, Args: map[string]string{"GREETING": test.name}, Labels: map[string]string{"l": "v"}, Output: &output, Network: "none",
			})
			require.NoError(t, err, output.String())
			assert.Contains(t, output.String(), "the greeting is "+test.name)

			r := testRegistry(t)
			if test.login {
				_, err = engine.Push(discard, ref, withLogin(r, test.registry.Host, username, "wr0ng"))
				require.ErrorContains(t, err, "check REGISTRY_USER and REGISTRY_PASS")
				assert.NotContains(t, err.Error(), "wr0ng")
				r = withLogin(r, test.registry.Host, username, password)
			}
			digest, err := engine.Push(discard, ref, r)
			require.NoError(t, err)
			there, err := r.Digest(t.Context(), ref)
			require.NoError(t, err)
			assert.Equal(t, there, digest)
			image, err := r.Pull(t.Context(), test.registry.Host+"/shop/pay@"+digest, "")
			require.NoError(t, err)
			config, err := image.ConfigFile()
			require.NoError(t, err)
			assert.Equal(t, "v", config.Config.Labels["l"])
			assert.Equal(t, "65532:65532", config.Config.User)
			layers, err := image.Layers()
			require.NoError(t, err)
			require.Len(t, layers, 1)
			assert.Contains(t, filesOf(t, layers[0]), "made")
		})
	}

	for _, test := range []struct {
		name, dockerfile string
		want             []string
	}{
		{name: "a step fails", dockerfile: "FROM " + testengine.ShellImage + "\nRUN echo before && false\n", want: []string{"line 2: STEP 2/2: RUN echo before && false: ", "exit status 1\n    before"}},
		{name: "no such instruction", dockerfile: "FORM scratch\n", want: []string{"no FROM statement found"}},
		{name: "no such file", dockerfile: "FROM scratch\nCOPY nothing /\n", want: []string{"line 2: STEP 2/2: COPY nothing /: ", "no such file"}},
		{name: "no such base image", dockerfile: "FROM 127.0.0.1:1/base:1\n", want: []string{"127.0.0.1:1/base:1", "connection refused"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"Dockerfile": test.dockerfile})
			_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Output: io.Discard, Network: "none"})
			require.ErrorContains(t, err, "building "+dir)
			for _, want := range test.want {
				assert.ErrorContains(t, err, want)
			}
			t.Log(err)
		})
	}

	t.Run("secrets", func(t *testing.T) {
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
		_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Output: io.Discard, Secrets: map[string][]byte{"a": nil}})
		assert.ErrorContains(t, err, "secrets need BuildKit")
	})

	t.Run("cancelled", func(t *testing.T) {
		dir := t.TempDir()
		const seconds = "1013"
		writeFiles(t, dir, map[string]string{"Dockerfile": "FROM " + testengine.ShellImage + "\nRUN echo sleeping; busybox sleep " + seconds + "\n"})
		sleeping := func() bool { return exec.Command("pgrep", "-f", "^busybox sleep "+seconds).Run() == nil }
		ctx, cancel := context.WithCancel(t.Context())
		seen := make(chan bool, 1)
		go func() {
			defer cancel()
			for deadline := time.Now().Add(time.Minute); !sleeping(); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					seen <- false
					return
				}
			}
			seen <- true
		}()
		_, err := engine.Build(ctx, BuildOptions{Context: dir, Output: io.Discard, Network: "none"})
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, <-seen, "the step did not begin")
		// Podman 4 does not end the step that it is at, whatever its client does; its service, when the test ends it, does.
	})
}
