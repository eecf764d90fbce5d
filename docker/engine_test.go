package docker

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/process"
)

// fakeEngine answers as an engine of API version 1.44 does.
type fakeEngine struct {
	version string            // default 1.44
	build   http.HandlerFunc  // POST /v1.44/build
	push    http.HandlerFunc  // POST /v1.44/images/…/push
	images  map[string]string // by ID or reference, what GET /v1.44/images/…/json answers
}

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Api-Version", cmp.Or(f.version, "1.44"))
	image, inspected := strings.CutSuffix(strings.TrimPrefix(req.URL.Path, "/v1.44/images/"), "/json")
	switch {
	case inspected && f.images[image] != "":
		io.WriteString(w, f.images[image])
	case req.URL.Path == "/_ping":
		io.WriteString(w, "OK")
	case req.URL.Path == "/v1.44/build" && f.build != nil:
		f.build(w, req)
	case strings.HasPrefix(req.URL.Path, "/v1.44/images/") && f.push != nil:
		f.push(w, req)
	default:
		http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
	}
}

// cleanEnvironment hides the machine's engine and logins from a test.
func cleanEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "REGISTRY_AUTH_FILE"} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(name, home)
	}
}

func connectTo(t *testing.T, f *fakeEngine) *Engine {
	t.Helper()
	cleanEnvironment(t)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	t.Setenv("DOCKER_HOST", "tcp://"+server.Listener.Addr().String())
	engine, err := Connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { engine.Close() })
	return engine
}

// stream answers with status 200 and the records.
func stream(w http.ResponseWriter, records ...string) {
	w.Header().Set("Content-Type", "application/json")
	for _, record := range records {
		io.WriteString(w, record+"\r\n")
	}
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o644))
	}
}

func TestConnectOverUnixSocket(t *testing.T) {
	cleanEnvironment(t)
	dir, err := os.MkdirTemp("", "engine") // t.TempDir is too long a path for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	require.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: &fakeEngine{}}}
	server.Start()
	t.Cleanup(server.Close)
	t.Setenv("DOCKER_HOST", "unix://"+listener.Addr().String())

	engine, err := Connect(t.Context())
	require.NoError(t, err)
	assert.NoError(t, engine.Close())
}

func TestConnectFailures(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := closed.Addr().String()
	closed.Close()
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "on fire", http.StatusInternalServerError)
	}))
	defer sick.Close()
	tests := []struct {
		name     string
		host     string
		noEngine bool
		want     []string
	}{
		{name: "nobody listens", host: "tcp://" + address, noEngine: true, want: []string{address, "set DOCKER_HOST"}},
		{name: "no socket", host: "unix:///nowhere/docker.sock", noEngine: true, want: []string{"/nowhere/docker.sock", "start Docker"}},
		{name: "login in the address", host: "tcp://bob:hunter2@" + address, noEngine: true, want: []string{address}},
		{name: "ssh", host: "ssh://bob:hunter2@builder", want: []string{"plain-text password is not supported; write it as ssh://USER@HOST"}},
		{name: "malformed", host: "hunter2@builder", want: []string{"check DOCKER_HOST"}},
		{name: "sick", host: "tcp://" + sick.Listener.Addr().String(), want: []string{"the engine's log"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cleanEnvironment(t)
			t.Setenv("DOCKER_HOST", test.host)
			_, err := Connect(t.Context())
			require.Error(t, err)
			assert.Equal(t, test.noEngine, errors.Is(err, ErrNoEngine), err.Error())
			for _, want := range test.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "hunter2")
		})
	}
}

// A listener that takes connections and says nothing.
func silentListener(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

func TestConnectToSilence(t *testing.T) {
	cleanEnvironment(t)
	t.Setenv("DOCKER_HOST", "tcp://"+silentListener(t).Addr().String())
	_, err := connect(t.Context(), time.Millisecond)
	require.ErrorIs(t, err, ErrNoEngine)
	assert.ErrorContains(t, err, "within 1ms")
}

func TestConnectCancelled(t *testing.T) {
	cleanEnvironment(t)
	listener := silentListener(t)
	t.Setenv("DOCKER_HOST", "tcp://"+listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if conn, err := listener.Accept(); err == nil {
			cancel()
			io.Copy(io.Discard, conn)
		}
	}()
	_, err := Connect(ctx)
	require.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, ErrNoEngine)
}

func TestBuild(t *testing.T) {
	var query map[string][]string
	var logins map[string]map[string]string
	sent := map[string]string{}
	engine := connectTo(t, &fakeEngine{build: func(w http.ResponseWriter, req *http.Request) {
		query = req.URL.Query()
		header, err := base64.URLEncoding.DecodeString(req.Header.Get("X-Registry-Config"))
		assert.NoError(t, err)
		assert.NoError(t, json.Unmarshal(header, &logins))
		for archive := tar.NewReader(req.Body); ; {
			entry, err := archive.Next()
			if err == io.EOF {
				break
			}
			if !assert.NoError(t, err) {
				return
			}
			content, err := io.ReadAll(archive)
			assert.NoError(t, err)
			assert.Zero(t, entry.Uid+entry.Gid)
			assert.Empty(t, entry.Uname+entry.Gname)
			sent[entry.Name] = string(content)
		}
		stream(w,
			`{"stream":"Step 1/2 : FROM scratch"}`, `{"stream":"\n"}`,
			`{"status":"Pulling from library/golang","id":"1.26"}`,
			`{"status":"Downloading","progressDetail":{"current":5,"total":10},"progress":"[=> ]","id":"ab"}`,
			`{"status":"Digest: sha256:00"}`,
			`{"aux":{"ID":"sha256:cafe"}}`, `{"stream":"Successfully built cafe\n"}`)
	}})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"build/Dockerfile": "FROM scratch\n", "main.go": "package main", "secret/key": "k", ".dockerignore": "secret\nbuild\n",
	})
	var output strings.Builder
	id, err := engine.Build(t.Context(), BuildOptions{
		Context: dir, Dockerfile: "build/Dockerfile", Tags: []string{"git.example.org/shop/pay:1"},
		Args: map[string]string{"A": "1", "EMPTY": ""}, Labels: map[string]string{"l": "v"}, Target: "prod", Platform: "linux/arm64",
		Logins: []Auth{{Host: "index.docker.io", Username: "bob", Password: "hunter2"}}, Output: &output,
	})
	require.NoError(t, err)
	assert.Equal(t, "sha256:cafe", id)
	assert.Equal(t, "Step 1/2 : FROM scratch\n1.26: Pulling from library/golang\nDigest: sha256:00\nSuccessfully built cafe\n",
		output.String())
	assert.Equal(t, map[string]string{
		"build/Dockerfile": "FROM scratch\n", "main.go": "package main", ".dockerignore": "secret\nbuild\n",
	}, sent)
	assert.Equal(t, map[string][]string{
		"t": {"git.example.org/shop/pay:1"}, "buildargs": {`{"A":"1","EMPTY":""}`}, "labels": {`{"l":"v"}`}, "target": {"prod"},
		"platform": {"linux/arm64"}, "dockerfile": {"build/Dockerfile"}, "version": {"1"}, "forcerm": {"1"},
	}, query)
	assert.Equal(t, "hunter2", logins["https://index.docker.io/v1/"]["password"])
}

func TestBuilder(t *testing.T) {
	secrets := map[string][]byte{"a": nil}
	for _, test := range []struct {
		name    string
		o       BuildOptions
		engines Builder
		wish    string // DOCKER_BUILDKIT
		want    Builder
		err     string
	}{
		{name: "the engine's", engines: BuildKit, want: BuildKit},
		{name: "an older engine's", engines: Legacy, want: Legacy},
		{name: "wished for", engines: Legacy, wish: "1", want: BuildKit},
		{name: "not wished for", engines: BuildKit, wish: "0", want: Legacy},
		{name: "named", o: BuildOptions{Builder: Legacy}, engines: BuildKit, wish: "1", want: Legacy},
		{name: "no wish", engines: BuildKit, wish: "maybe", err: `DOCKER_BUILDKIT is "maybe"`},
		{name: "unknown", o: BuildOptions{Builder: "kaniko"}, engines: BuildKit, err: `there is no builder "kaniko"`},
		{name: "secrets", o: BuildOptions{Secrets: secrets}, engines: Legacy, err: "secrets need BuildKit, which"},
		{name: "without a network", o: BuildOptions{Network: "none"}, engines: BuildKit, want: BuildKit},
		{name: "the host's network", o: BuildOptions{Network: "host"}, engines: BuildKit, want: BuildKit},
		{name: "the default network", o: BuildOptions{Network: "default"}, engines: BuildKit, want: BuildKit},
		{name: "a network", o: BuildOptions{Network: "shop"}, engines: BuildKit, want: Legacy},
		{name: "a network, and BuildKit wished for", o: BuildOptions{Network: "shop"}, engines: BuildKit, wish: "1", want: BuildKit},
		{name: "a network, and BuildKit named", o: BuildOptions{Network: "shop", Builder: BuildKit}, engines: BuildKit, want: BuildKit},
		{name: "a network and secrets", o: BuildOptions{Network: "shop", Secrets: secrets}, engines: BuildKit, err: `reach no network "shop"; make it none`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("DOCKER_BUILDKIT", test.wish)
			builder, err := test.o.builder(test.engines)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, builder)
		})
	}
}

func TestBuildFailures(t *testing.T) {
	tests := []struct {
		name   string
		answer func(w http.ResponseWriter)
		want   string
	}{
		{
			name: "a step fails", want: "/Dockerfile: Step 2/3 : RUN go build: The command '/bin/sh -c go build' returned a non-zero code: 2",
			answer: func(w http.ResponseWriter) {
				stream(w, `{"stream":"Step 1/3 : FROM golang"}`, `{"stream":"Step 2/3 : RUN go build\n"}`, `{"stream":"main.go:1: oops\n"}`,
					`{"errorDetail":{"code":2,"message":"The command '/bin/sh -c go build' returned a non-zero code: 2"},"error":"x"}`,
					`{"aux":{"ID":"sha256:late"}}`)
			},
		},
		{
			name: "only the old error field", want: "/Dockerfile: pull access denied",
			answer: func(w http.ResponseWriter) { stream(w, `{"error":"pull access denied"}`) },
		},
		{
			name: "refused before the stream", want: "dockerfile parse error line 1: unknown instruction: FORM",
			answer: func(w http.ResponseWriter) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, `{"message":"dockerfile parse error line 1: unknown instruction: FORM"}`)
			},
		},
		{name: "no image", want: "ended before it named an image", answer: func(w http.ResponseWriter) { stream(w, `{"stream":"x"}`) }},
		{name: "no answer", want: "ended before it named an image", answer: func(http.ResponseWriter) {}},
		{name: "not an engine", want: "is that a Docker Engine?", answer: func(w http.ResponseWriter) { stream(w, `<html>`) }},
		{name: "half a record", want: "the connection broke off", answer: func(w http.ResponseWriter) { io.WriteString(w, `{"stream":"x`) }},
		{
			name: "cut off", want: "the connection broke off",
			answer: func(w http.ResponseWriter) {
				stream(w, `{"stream":"x"}`)
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			engine := connectTo(t, &fakeEngine{build: func(w http.ResponseWriter, req *http.Request) {
				io.Copy(io.Discard, req.Body)
				test.answer(w)
			}})
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch\n"})
			id, err := engine.Build(t.Context(), BuildOptions{Context: dir, Output: io.Discard})
			require.Error(t, err)
			assert.Empty(t, id)
			assert.ErrorContains(t, err, test.want)
			assert.ErrorContains(t, err, "building "+dir)
			assert.NotContains(t, err.Error(), "{")
		})
	}
}

func TestBuildSendsNothingUnlessItCan(t *testing.T) {
	engine := connectTo(t, &fakeEngine{build: func(http.ResponseWriter, *http.Request) { t.Error("the engine was asked") }})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"empty": " \n", "folder/file": "x", "Dockerfile": "FROM scratch", "bad.dockerignore": "[", "bad": "FROM x"})
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	tests := []struct {
		name string
		o    BuildOptions
		want string
	}{
		{name: "no context", o: BuildOptions{Context: filepath.Join(dir, "nowhere")}, want: "opening the build context"},
		{name: "a file as context", o: BuildOptions{Context: filepath.Join(dir, "empty")}, want: "opening the build context"},
		{name: "missing", o: BuildOptions{Dockerfile: "Containerfile"}, want: "Containerfile: file does not exist; write one"},
		{name: "empty", o: BuildOptions{Dockerfile: "empty"}, want: "it is empty"},
		{name: "folder", o: BuildOptions{Dockerfile: "folder"}, want: "it is a folder"},
		{name: "pipe", o: BuildOptions{Dockerfile: "pipe"}, want: "it is no regular file"},
		{name: "outside", o: BuildOptions{Dockerfile: "../Dockerfile"}, want: "outside the build context"},
		{name: "absolute and outside", o: BuildOptions{Dockerfile: "/etc/passwd"}, want: "outside the build context"},
		{name: "link to outside", o: BuildOptions{Dockerfile: "link"}, want: "escapes"},
		{name: "bad pattern", o: BuildOptions{Dockerfile: "bad"}, want: "bad.dockerignore"},
		{name: "bad tag", o: BuildOptions{Tags: []string{"Shop/Pay:1"}}, want: `"Shop/Pay:1" is malformed`},
		{name: "no tag", o: BuildOptions{Tags: []string{"shop/pay"}}, want: "neither tag nor digest"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.o.Context == "" {
				test.o.Context = dir
			}
			_, err := engine.Build(t.Context(), test.o)
			assert.ErrorContains(t, err, test.want)
		})
	}
}

func TestBuildAbsoluteDockerfile(t *testing.T) {
	var dockerfile string
	engine := connectTo(t, &fakeEngine{build: func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		dockerfile = req.URL.Query().Get("dockerfile")
		stream(w, `{"aux":{"ID":"sha256:cafe"}}`)
	}})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"deploy/Dockerfile": "FROM scratch"})
	_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Dockerfile: filepath.Join(dir, "deploy/Dockerfile"), Output: io.Discard})
	require.NoError(t, err)
	assert.Equal(t, "deploy/Dockerfile", dockerfile)
}

// A file of the context fails while it is sent: that is the error, not what the engine makes of half a tar file.
func TestBuildContextFailsWhileSent(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch", "a-big-one": strings.Repeat("x", 8<<20), "z": "last"})
	engine := connectTo(t, &fakeEngine{build: func(w http.ResponseWriter, req *http.Request) {
		io.ReadFull(req.Body, make([]byte, 1<<20))
		assert.NoError(t, os.Truncate(filepath.Join(dir, "a-big-one"), 10))
		_, err := io.Copy(io.Discard, req.Body)
		assert.Error(t, err)
		http.Error(w, `{"message":"unexpected EOF"}`, http.StatusInternalServerError)
	}})
	_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Output: io.Discard})
	assert.ErrorContains(t, err, "a-big-one became shorter while it was read")
}

// What the engine says counts, not that the rest of the context was no longer sent.
func TestBuildRefusedWhileSent(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"Dockerfile": "FORM scratch"}
	for i := range 200 {
		files[fmt.Sprintf("file-%d", i)] = strings.Repeat("x", 32<<10)
	}
	writeFiles(t, dir, files)
	engine := connectTo(t, &fakeEngine{build: func(w http.ResponseWriter, req *http.Request) {
		go io.Copy(io.Discard, req.Body)
		stream(w, `{"error":"unknown instruction: FORM"}`)
	}})
	for range 20 {
		_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Output: io.Discard})
		require.ErrorContains(t, err, "unknown instruction: FORM")
	}
}

func TestBuildCancelled(t *testing.T) {
	tests := []struct {
		name string
		when func(w http.ResponseWriter, req *http.Request)
	}{
		{name: "while the context is sent", when: func(http.ResponseWriter, *http.Request) {}},
		{name: "while the engine works", when: func(w http.ResponseWriter, req *http.Request) {
			io.Copy(io.Discard, req.Body)
			stream(w, `{"stream":"Step 1/1 : RUN sleep 1000\n"}`)
			w.(http.Flusher).Flush()
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			engine := connectTo(t, &fakeEngine{build: func(w http.ResponseWriter, req *http.Request) {
				defer close(ended)
				test.when(w, req)
				cancel()
				io.Copy(io.Discard, req.Body)
				<-req.Context().Done()
			}})
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch", "big": strings.Repeat("x", 32<<20)})
			_, err := engine.Build(ctx, BuildOptions{Context: dir, Output: io.Discard})
			require.ErrorIs(t, err, context.Canceled)
			<-ended // the engine has seen the connection close
			assert.Eventually(t, func() bool {
				stacks := make([]byte, 1<<20)
				return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*buildContext).write")
			}, 10*time.Second, time.Millisecond, "the writer of the context is left behind")
		})
	}
}

// The client gives up before it takes anything of the context.
func TestBuildByAnOldEngine(t *testing.T) {
	engine := connectTo(t, &fakeEngine{version: "1.24"})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch"})
	_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Platform: "linux/arm64", Output: io.Discard})
	assert.ErrorContains(t, err, `"platform" requires API version 1.32`)
}

func TestBuildByAnEngineThatIsGone(t *testing.T) {
	engine := connectTo(t, &fakeEngine{build: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch", "big": strings.Repeat("x", 16<<20)})
	_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Output: io.Discard})
	assert.ErrorContains(t, err, "building "+dir)
}

func TestBuildOutputFails(t *testing.T) {
	engine := connectTo(t, &fakeEngine{build: func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		stream(w, `{"stream":"x"}`, `{"aux":{"ID":"sha256:cafe"}}`)
	}})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch"})
	r, w := io.Pipe()
	r.Close()
	_, err := engine.Build(t.Context(), BuildOptions{Context: dir, Output: w})
	assert.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestEngineHas(t *testing.T) {
	engine := connectTo(t, &fakeEngine{images: map[string]string{
		"sha256:01": `{"Id":"sha256:01","Config":{"Labels":{"` + InputsLabel + `":"4f2a"}}}`,
		"sha256:02": `{"Id":"sha256:02","Config":{}}`,
		"sha256:03": `{"Id":"sha256:03"}`,
		"pay":       `{"Id":"sha256:01","Config":{"Labels":{"` + InputsLabel + `":"4f2a"}}}`,
	}})
	for _, test := range []struct {
		name, id, inputs string
		want             bool
	}{
		{name: "the image", id: "sha256:01", inputs: "4f2a", want: true},
		{name: "of other inputs", id: "sha256:01", inputs: "4f2b"},
		{name: "without labels", id: "sha256:02", inputs: "4f2a"},
		{name: "without a configuration", id: "sha256:03", inputs: ""},
		{name: "a name", id: "pay", inputs: "4f2a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			has, err := engine.Has(t.Context(), test.id, test.inputs)
			require.NoError(t, err)
			assert.Equal(t, test.want, has)
		})
	}
	_, err := engine.Has(t.Context(), "sha256:04", "4f2a")
	assert.ErrorContains(t, err, "looking for the image sha256:04: ")
}

func TestEnginePush(t *testing.T) {
	var auth map[string]string
	var asked string
	engine := connectTo(t, &fakeEngine{push: func(w http.ResponseWriter, req *http.Request) {
		asked = req.URL.Path + "?" + req.URL.RawQuery
		header, err := base64.URLEncoding.DecodeString(req.Header.Get("X-Registry-Auth"))
		assert.NoError(t, err)
		assert.NotEmpty(t, header)
		auth = nil
		assert.NoError(t, json.Unmarshal(header, &auth))
		stream(w, `{"status":"Pushed","id":"ab"}`, `{"status":"4f2a: digest: sha256:beef size: 1"}`,
			`{"progressDetail":{},"aux":{"Tag":"4f2a","Digest":"sha256:beef","Size":1}}`)
	}})
	var output strings.Builder
	ctx := process.WithOutput(t.Context(), &output)
	registry := Registry{Host: "git.example.org", Username: "bob", Password: "hunter2"}

	digest, err := engine.Push(ctx, "git.example.org/shop/pay:4f2a", registry)
	require.NoError(t, err)
	assert.Equal(t, "sha256:beef", digest)
	assert.Equal(t, "/v1.44/images/git.example.org/shop/pay/push?tag=4f2a", asked)
	assert.Equal(t, map[string]string{"username": "bob", "password": "hunter2", "serveraddress": "git.example.org"}, auth)
	assert.Equal(t, "ab: Pushed\n4f2a: digest: sha256:beef size: 1\n", output.String())

	_, err = engine.Push(ctx, "other.example.org/shop/pay:4f2a", registry)
	require.NoError(t, err)
	assert.Empty(t, auth, "a login went to another host")
}

func TestEnginePushAsksTheRegistry(t *testing.T) {
	engine := connectTo(t, &fakeEngine{push: func(w http.ResponseWriter, _ *http.Request) { stream(w, `{"status":"Pushed"}`) }})
	host := serveRegistry(t)
	img, err := random.Image(10, 1)
	require.NoError(t, err)
	want, err := testRegistry(t).Push(t.Context(), host+"/shop/pay:1", img)
	require.NoError(t, err)
	ctx := process.WithOutput(t.Context(), io.Discard)
	digest, err := engine.Push(ctx, host+"/shop/pay:1", testRegistry(t))
	require.NoError(t, err)
	assert.Equal(t, want, digest)
}

func TestEnginePushFailures(t *testing.T) {
	tests := []struct {
		name, message, want string
	}{
		{name: "no image", message: "An image does not exist locally with the tag: git.example.org/shop/pay", want: "build the image first"},
		{name: "bad login", message: "unauthorized: authentication required", want: "check REGISTRY_USER and REGISTRY_PASS"},
		{name: "no scope", message: "denied: requested access to the resource is denied", want: "the right to write packages in shop/pay"},
		{name: "echoed login", message: "received unexpected Ym9iOmh1bnRlcjI= and hunter2", want: "received unexpected *** and ***"},
		{name: "plain HTTP", message: "http: server gave HTTP response to HTTPS client", want: "insecure-registries"},
		{name: "unknown authority", message: "x509: certificate signed by unknown authority", want: "/etc/docker/certs.d/git.example.org/ca.crt"},
		{name: "not there", message: "dial tcp: connect: connection refused", want: "check that the registry runs"},
		{name: "no such host", message: "dial tcp: lookup git.example.org on 127.0.0.53:53: no such host", want: "check the name of the registry"},
		{name: "unknown owner", message: "name unknown: repository name not known to registry", want: "create the owner or repository shop/pay"},
		{name: "an owner that is not told", message: "received unexpected HTTP status: 404 Not Found", want: "create the owner or repository shop/pay"},
		{name: "full", message: "received unexpected HTTP status: 500: write /x: no space left on device", want: "free some room on the disk of git.example.org"},
		{name: "over quota", message: "denied: the owner's quota is used up", want: "raise the owner's quota"},
		{name: "busy", message: "toomanyrequests: slow down", want: "(tried 3 times); try again later, or look at the registry's log"},
		{name: "sick", message: "received unexpected HTTP status: 503 Service Unavailable", want: "(tried 3 times); try again later"},
		{name: "cut off", message: `Put "https://git.example.org/v2/shop/pay/manifests/1": EOF`, want: "(tried 3 times); check the network between the engine and the registry"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			engine := connectTo(t, &fakeEngine{push: func(w http.ResponseWriter, _ *http.Request) {
				message, _ := json.Marshal(test.message)
				stream(w, `{"errorDetail":{"message":`+string(message)+`}}`)
			}})
			ctx := process.WithOutput(t.Context(), io.Discard)
			_, err := engine.Push(ctx, "git.example.org/shop/pay:1", Registry{
				Host: "git.example.org", Username: "bob", Password: "hunter2", Backoff: make([]time.Duration, 2),
			})
			require.ErrorContains(t, err, `pushing "git.example.org/shop/pay:1": `)
			assert.ErrorContains(t, err, test.want)
			assert.NotContains(t, err.Error(), "hunter2")
		})
	}
	engine := connectTo(t, &fakeEngine{push: func(http.ResponseWriter, *http.Request) { t.Error("the engine was asked") }})
	for _, reference := range []string{"git.example.org/shop/pay", "git.example.org/shop/pay@sha256:" + strings.Repeat("0", 64), "", "a b"} {
		_, err := engine.Push(t.Context(), reference, Registry{})
		assert.Error(t, err, reference)
	}
}

func TestEnginePushIsTriedAgain(t *testing.T) {
	answers := []string{
		`{"errorDetail":{"message":"received unexpected HTTP status: 502 Bad Gateway"}}`, `{"errorDetail":{"message":"unexpected EOF"}}`,
		`{"aux":{"Tag":"1","Digest":"sha256:beef","Size":1}}`,
	}
	asked := 0
	engine := connectTo(t, &fakeEngine{push: func(w http.ResponseWriter, _ *http.Request) {
		stream(w, answers[asked])
		asked++
	}})
	ctx := process.WithOutput(t.Context(), io.Discard)
	digest, err := engine.Push(ctx, "git.example.org/shop/pay:1", testRegistry(t))
	require.NoError(t, err)
	assert.Equal(t, "sha256:beef", digest)

	// An engine that breaks off is not asked again, since nobody knows what it is doing.
	asked = 0
	engine = connectTo(t, &fakeEngine{push: func(w http.ResponseWriter, _ *http.Request) {
		asked++
		io.WriteString(w, `{"status":"Pushing`)
	}})
	_, err = engine.Push(ctx, "git.example.org/shop/pay:1", testRegistry(t))
	require.ErrorContains(t, err, "the connection broke off (unexpected EOF); look at the engine's log")
	assert.NotContains(t, err.Error(), "the registry's log")
	assert.Equal(t, 1, asked)
}

func TestEnginePushCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(process.WithOutput(t.Context(), io.Discard))
	engine := connectTo(t, &fakeEngine{push: func(w http.ResponseWriter, req *http.Request) {
		stream(w, `{"status":"Preparing"}`)
		w.(http.Flusher).Flush()
		cancel()
		<-req.Context().Done()
	}})
	_, err := engine.Push(ctx, "git.example.org/shop/pay:1", Registry{})
	assert.ErrorIs(t, err, context.Canceled)
}
