package docker

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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

// These tests run on a registry that is a server of its own, and on a real Docker Engine.

const (
	username = "bob"
	password = "s3cret+/pass"
)

func TestRealRegistryLogin(t *testing.T) {
	real := needs.Registry(t, testregistry.Options{Username: username, Password: password})
	cleanEnvironment(t)
	ref := real.Host + "/shop/pay:1"
	img, want := randomImage(t, 1)
	_, err := testRegistry(t).Push(t.Context(), ref, img)
	require.ErrorContains(t, err, "no login was found: set REGISTRY_HOST")
	_, err = withLogin(testRegistry(t), real.Host, username, "wrong").Push(t.Context(), ref, img)
	require.ErrorContains(t, err, "check REGISTRY_USER and REGISTRY_PASS")
	assert.NotContains(t, err.Error(), "wrong")

	digest, err := withLogin(testRegistry(t), real.Host, username, password).Push(t.Context(), ref, img)
	require.NoError(t, err)
	assert.Equal(t, want, digest)
}

func TestRealRegistryOverTLS(t *testing.T) {
	real := needs.Registry(t, testregistry.Options{Username: username, Password: password, TLS: true})
	cleanEnvironment(t)
	ref := real.Host + "/shop/pay:1"
	img, want := randomImage(t, 1)
	r := withLogin(testRegistry(t), real.Host, username, password)
	trusting := real.Transport()
	t.Cleanup(trusting.CloseIdleConnections)

	stranger := trusting.Clone()
	stranger.TLSClientConfig = nil
	r.Transport = stranger
	_, err := r.Push(t.Context(), ref, img)
	require.ErrorContains(t, err, "the certificate of "+real.Host+" is not trusted")
	require.ErrorContains(t, err, "SSL_CERT_FILE")

	r.Transport = trusting
	digest, err := r.Push(t.Context(), ref, img)
	require.NoError(t, err)
	assert.Equal(t, want, digest)
	digest, err = r.Digest(t.Context(), ref)
	require.NoError(t, err)
	assert.Equal(t, want, digest)
}

func TestRealRegistryThatIsReadOnly(t *testing.T) {
	real := needs.Registry(t, testregistry.Options{ReadOnly: true})
	cleanEnvironment(t)
	img, _ := randomImage(t, 1)
	_, err := testRegistry(t).Push(t.Context(), real.Host+"/shop/pay:1", img)
	require.ErrorContains(t, err, `pushing "`+real.Host+`/shop/pay:1": `)
	require.ErrorContains(t, err, "405 Method Not Allowed")
}

// connectReal connects to a real engine.
func connectReal(t *testing.T, host string) *Engine {
	t.Helper()
	cleanEnvironment(t)
	t.Setenv("DOCKER_HOST", host)
	engine, err := Connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { engine.Close() })
	return engine
}

const realDockerfile = `FROM ` + testengine.GoImage + ` AS build
WORKDIR /src
COPY . .
ARG GREETING=none
RUN test ! -e secret.key && echo "the greeting is $GREETING" && touch /made

FROM scratch
COPY --from=build /made /made
USER 65532:65532
`

const failingDockerfile = realDockerfile + `
FROM build AS tested
RUN echo before && false
`

// withEachBuilder runs cases by BuildKit and by the builder before it. Steps have no network: the engine of the tests has no bridge.
func withEachBuilder(t *testing.T, cases func(t *testing.T, builder Builder)) {
	for _, builder := range []Builder{BuildKit, Legacy} {
		t.Run(string(builder), func(t *testing.T) { cases(t, builder) })
	}
}

func TestRealEngineBuildsByBuildKit(t *testing.T) {
	host, _ := needs.Engine(t)
	assert.Equal(t, BuildKit, connectReal(t, host).builder)
}

func TestRealBuildAndPush(t *testing.T) { withEachBuilder(t, realBuildAndPush) }

func realBuildAndPush(t *testing.T, builder Builder) {
	for _, test := range []struct {
		name string
		o    testregistry.Options
	}{
		{name: "open"},
		{name: "login", o: testregistry.Options{Username: username, Password: password}},
		{name: "login over TLS", o: testregistry.Options{Username: username, Password: password, TLS: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			host, certificates := needs.Engine(t)
			real := needs.Registry(t, test.o)
			if test.o.TLS {
				dir := filepath.Join(certificates, real.Host)
				require.NoError(t, os.Mkdir(dir, 0o755))
				t.Cleanup(func() { os.RemoveAll(dir) })
				require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), real.Authority, 0o644))
			}
			engine := connectReal(t, host)
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"Dockerfile": realDockerfile, "main.go": "package main", "secret.key": "k", ".dockerignore": "*.key\n"})
			ref := real.Host + "/shop/pay:1"
			var output strings.Builder
			id, err := engine.Build(t.Context(), BuildOptions{
				Context: dir, Tags: []string{ref}, Args: map[string]string{"GREETING": real.Host}, Labels: map[string]string{"l": "v"}, Output: &output,
				Builder: builder, Network: "none",
			})
			require.NoError(t, err, output.String())
			assert.Contains(t, output.String(), "the greeting is "+real.Host)
			t.Cleanup(func() { ask(t, host, http.MethodDelete, "/images/"+id+"?force=1", nil) })

			registry := Registry{Transport: real.Transport(), Host: real.Host, Username: test.o.Username, Password: test.o.Password}
			digest, err := engine.Push(process.WithOutput(t.Context(), io.Discard), ref, registry)
			require.NoError(t, err)
			there, err := registry.Digest(t.Context(), ref)
			require.NoError(t, err)
			assert.Equal(t, there, digest, "the digest is the registry's")
			image, err := registry.Pull(t.Context(), real.Host+"/shop/pay@"+digest, "")
			require.NoError(t, err)
			config, err := image.ConfigFile()
			require.NoError(t, err)
			assert.Equal(t, map[string]string{"l": "v"}, config.Config.Labels)
			assert.Equal(t, "65532:65532", config.Config.User)
			assert.Len(t, config.RootFS.DiffIDs, 1)
			assert.False(t, FromPackages(config))
		})
	}
}

// An engine that has been sent a context before gets what has changed in it, and nothing of what is gone or ignored.
func TestRealBuildOfWhatHasChanged(t *testing.T) { withEachBuilder(t, realBuildOfWhatHasChanged) }

func realBuildOfWhatHasChanged(t *testing.T, builder Builder) {
	host, _ := needs.Engine(t)
	engine := connectReal(t, host)
	dir := t.TempDir()
	const step = "RUN cd /src && find . -type f | sort | while read f; do echo \"$f $(cat $f | head -c 9) $(stat -c %a $f)\"; done && readlink link || true\n"
	large := strings.Repeat("x", 1<<20)
	writeFiles(t, dir, map[string]string{
		"build/Dockerfile": "FROM " + testengine.GoImage + "\nENV DIR=" + dir + "\nCOPY . /src\n" + step, "build/Dockerfile.dockerignore": "ignored\n!ignored/but\n**/*.dockerignore\n",
		"a": "one", "b/c": "see", "gone": "x", "ignored/secret": "s3cret", "ignored/but": "but", "a-b": "", "large": large,
	})
	require.NoError(t, os.Symlink("b/c", filepath.Join(dir, "link")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "b/c"), 0o755))
	build := func() string {
		var output strings.Builder
		id, err := engine.Build(t.Context(), BuildOptions{Context: dir, Dockerfile: "build/Dockerfile", Builder: builder, Network: "none", Output: &output})
		require.NoError(t, err, output.String())
		t.Cleanup(func() { ask(t, host, http.MethodDelete, "/images/"+id+"?force=1", nil) })
		return output.String()
	}
	expect := func(output string, lines ...string) {
		t.Helper()
		var got []string
		for line := range strings.Lines(output) {
			line = strings.TrimSpace(strings.TrimPrefix(line, "    "))
			if _, text, ok := strings.Cut(line, " ./"); ok && strings.HasPrefix(line, "#") {
				got = append(got, text)
			} else if text, ok := strings.CutPrefix(line, "./"); ok {
				got = append(got, text)
			}
		}
		assert.Equal(t, lines, got, output)
	}
	output := build()
	expect(output, "a one 644", "a-b  644", "b/c see 755", "build/Dockerfile FROM gola 644", "gone x 644", "ignored/but but 644", "large xxxxxxxxx 644")
	assert.Contains(t, output, "b/c\n", "the link")

	writeFiles(t, dir, map[string]string{"a": "two", "b/new": "new", "large": "y" + large[1:]}) // of the same size
	require.NoError(t, os.Remove(filepath.Join(dir, "gone")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "b/c"), 0o644))
	expect(build(), "a two 644", "a-b  644", "b/c see 644", "b/new new 644", "build/Dockerfile FROM gola 644", "ignored/but but 644", "large yxxxxxxxx 644")

	require.NoError(t, os.RemoveAll(filepath.Join(dir, "b")))
	writeFiles(t, dir, map[string]string{"b": "a file now"})
	for _, content := range []string{"six", "ten"} { // as unpacked from an archive, whose times are all one
		writeFiles(t, dir, map[string]string{"a": content})
		released := time.Unix(1_700_000_000, 0)
		require.NoError(t, os.Chtimes(filepath.Join(dir, "a"), released, released))
		expect(build(), "a "+content+" 644", "a-b  644", "b a file no 644", "build/Dockerfile FROM gola 644", "ignored/but but 644", "large yxxxxxxxx 644")
	}
}

func TestRealBuildFailures(t *testing.T) { withEachBuilder(t, realBuildFailures) }

func realBuildFailures(t *testing.T, builder Builder) {
	host, _ := needs.Engine(t)
	engine := connectReal(t, host)
	for _, test := range []struct {
		name, dockerfile, target string
		want                     map[Builder][]string
	}{
		{name: "a step fails", dockerfile: failingDockerfile, target: "tested", want: map[Builder][]string{
			Legacy:   {"line 12: Step ", "RUN echo before && false", "returned a non-zero code: 1\n", "\n    before"},
			BuildKit: {"line 12: [tested 1/1] RUN echo before && false: ", "exit code: 1\n    before"},
		}},
		{name: "no such instruction", dockerfile: "FORM scratch\n", want: map[Builder][]string{
			Legacy: {"dockerfile parse error line 1: unknown instruction: FORM"}, BuildKit: {"dockerfile parse error line 1: unknown instruction: FORM"},
		}},
		{name: "no such file", dockerfile: "FROM scratch\nCOPY nothing /\n", want: map[Builder][]string{
			Legacy: {"line 2: Step 2/2 : COPY nothing /", "nothing"}, BuildKit: {"line 2: [1/1] COPY nothing /", "nothing"},
		}},
		{name: "no such stage", dockerfile: realDockerfile, target: "nowhere", want: map[Builder][]string{Legacy: {"nowhere"}, BuildKit: {"nowhere"}}},
		{name: "no such base image", dockerfile: "FROM 127.0.0.1:1/base:1\n", want: map[Builder][]string{
			Legacy: {"line 1: Step 1/1 : FROM 127.0.0.1:1/base:1", "connection refused"}, BuildKit: {"127.0.0.1:1/base:1", "connection refused"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"Dockerfile": test.dockerfile})
			_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Target: test.target, Output: io.Discard, Builder: builder, Network: "none"})
			require.ErrorContains(t, err, "building "+dir)
			for _, want := range test.want[builder] {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "{")
		})
	}
}

// A base image in a registry with a login is fetched with that of Docker's configuration, and nobody else gets it.
func TestRealBuildOnAPrivateBase(t *testing.T) { withEachBuilder(t, realBuildOnAPrivateBase) }

func realBuildOnAPrivateBase(t *testing.T, builder Builder) {
	host, _ := needs.Engine(t)
	real := needs.Registry(t, testregistry.Options{Username: username, Password: password})
	engine := connectReal(t, host)
	base := real.Host + "/private/base:1"
	_, err := withLogin(testRegistry(t), real.Host, username, password).Push(t.Context(), base, baseImage(t, "7", true))
	require.NoError(t, err)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "ARG BASE\nFROM $BASE\nCOPY Dockerfile /\n"})
	o := BuildOptions{Context: dir, Args: map[string]string{"BASE": base}, Output: io.Discard, Builder: builder}
	_, err = engine.Build(t.Context(), o)
	require.Error(t, err)

	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	writeFiles(t, config, map[string]string{"config.json": `{"auths":{"` + real.Host + `":{"username":"` + username + `","password":"` + password + `"}}}`})
	var output strings.Builder
	o.Output = &output
	_, err = engine.Build(t.Context(), o)
	require.NoError(t, err, output.String())
	assert.NotContains(t, output.String(), password)
}

// A base image that has moved since the engine pulled it is pulled again, as the key says.
func TestRealBuildOnABaseThatMoved(t *testing.T) { withEachBuilder(t, realBuildOnABaseThatMoved) }

func realBuildOnABaseThatMoved(t *testing.T, builder Builder) {
	host, _ := needs.Engine(t)
	real := needs.Registry(t, testregistry.Options{})
	engine, r := connectReal(t, host), testRegistry(t)
	base, ref := real.Host+"/shop/base:1", real.Host+"/shop/pay:1"
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM " + base + "\nCOPY Dockerfile /\n"})
	o := BuildOptions{Context: dir, Tags: []string{ref}, Output: io.Discard, Builder: Legacy} // which keeps what it has pulled as an image
	keys := map[string]bool{}
	for _, moved := range []bool{false, true} {
		img := baseImage(t, "7", true)
		_, err := r.Push(t.Context(), base, img)
		require.NoError(t, err)
		inputs, pull, err := engine.Inputs(t.Context(), o, r)
		require.NoError(t, err)
		assert.Equal(t, moved, pull)
		keys[inputs] = true
		o.Pull = pull
		_, err = engine.Build(t.Context(), o)
		require.NoError(t, err)
		digest, err := engine.Push(process.WithOutput(t.Context(), io.Discard), ref, r)
		require.NoError(t, err)
		built, err := r.Pull(t.Context(), real.Host+"/shop/pay@"+digest, "")
		require.NoError(t, err)
		assert.Equal(t, must(img.ConfigFile()).RootFS.DiffIDs[0], must(built.ConfigFile()).RootFS.DiffIDs[0])
		o.Builder = builder
	}
	assert.Len(t, keys, 2)
}

func TestRealEnginePushFailures(t *testing.T) {
	host, _ := needs.Engine(t)
	login := needs.Registry(t, testregistry.Options{Username: username, Password: password})
	tls := needs.Registry(t, testregistry.Options{TLS: true})
	engine := connectReal(t, host)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	for _, test := range []struct {
		name, host, password string
		want                 []string
	}{
		{name: "no login", host: login.Host, want: []string{"no login was found: set REGISTRY_HOST"}},
		{name: "wrong password", host: login.Host, password: "wr0ng", want: []string{"check REGISTRY_USER and REGISTRY_PASS"}},
		{name: "unknown authority", host: tls.Host, want: []string{"/etc/docker/certs.d/" + tls.Host + "/ca.crt"}},
		{name: "nobody listens", host: "127.0.0.1:1", want: []string{"check that the registry runs"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ref := test.host + "/shop/pay:1"
			_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Tags: []string{ref}, Output: io.Discard})
			require.NoError(t, err)
			r := Registry{Host: test.host}
			if test.password != "" {
				r.Username, r.Password = username, test.password
			}
			start := time.Now()
			_, err = engine.Push(process.WithOutput(t.Context(), io.Discard), ref, r)
			require.ErrorContains(t, err, `pushing "`+ref+`": `)
			for _, want := range test.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "wr0ng")
			t.Logf("after %s: %v", time.Since(start).Round(time.Millisecond), err)
		})
	}
	_, err := engine.Push(process.WithOutput(t.Context(), io.Discard), "127.0.0.1:1/never/built:1", Registry{})
	assert.ErrorContains(t, err, "build the image first")
}

func TestRealBuildCancelled(t *testing.T) { withEachBuilder(t, realBuildCancelled) }

func realBuildCancelled(t *testing.T, builder Builder) {
	host, _ := needs.Engine(t)
	engine := connectReal(t, host)
	dir := t.TempDir()
	const seconds = "1009" // by which it is known among the machine's processes
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM " + testengine.GoImage + "\nRUN echo sleeping; sleep " + seconds + "\n"})
	sleeping := func() bool { return exec.Command("pgrep", "-f", "^sleep "+seconds).Run() == nil }
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan bool, 1)
	go func() {
		defer cancel()
		for deadline := time.Now().Add(time.Minute); !sleeping(); time.Sleep(20 * time.Millisecond) {
			if ctx.Err() != nil || time.Now().After(deadline) {
				seen <- false
				return
			}
		}
		seen <- true
	}()
	_, err := engine.Build(ctx, BuildOptions{Context: dir, Output: io.Discard, Builder: builder, Network: "none", NoCache: true})
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, <-seen, "the step did not begin")
	require.Eventually(t, func() bool { return !sleeping() }, time.Minute, 50*time.Millisecond, "the engine goes on with the build")
}

// ask makes a request to the engine, without the client under test.
func ask(t *testing.T, host, method, path string, into any) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(host, "unix://"))
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(context.Background(), method, "http://engine"+path, nil)
	require.NoError(t, err)
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	if into != nil {
		require.NoError(t, json.NewDecoder(response.Body).Decode(into))
	}
}
