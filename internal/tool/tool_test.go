package tool

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"
)

var hello = module.Version{Path: "example.org/hello", Version: "v1.2.3"}

const helloMod = "module example.org/hello\n\ngo 1.26\n"

// proxy makes a folder that is a module proxy for hello, whose main function has the given body.
func proxy(t *testing.T, body string) string {
	t.Helper()
	source := t.TempDir()
	write(t, filepath.Join(source, "go.mod"), helloMod)
	write(t, filepath.Join(source, "main.go"), "package main\n\nfunc main() { "+body+" }\n")
	var archive bytes.Buffer
	require.NoError(t, zip.CreateFromDir(&archive, hello, source))
	dir := t.TempDir()
	at := filepath.Join(dir, hello.Path, "@v", hello.Version)
	write(t, at+".zip", archive.String())
	write(t, at+".mod", helloMod)
	write(t, at+".info", `{"Version":"`+hello.Version+`"}`)
	return dir
}

// pin returns the tool as it is in a proxy.
func pin(t *testing.T, proxy string) *Tool {
	t.Helper()
	zipSum, err := dirhash.HashZip(filepath.Join(proxy, hello.Path, "@v", hello.Version+".zip"), dirhash.Hash1)
	require.NoError(t, err)
	modSum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(helloMod)), nil
	})
	require.NoError(t, err)
	tool, err := newTool("hello",
		[]byte("module tools\n\ngo 1.26.0\n\ntool "+hello.Path+"\n\nrequire "+hello.Path+" "+hello.Version+" // indirect\n"),
		[]byte(hello.Path+" "+hello.Version+" "+zipSum+"\n"+hello.Path+" "+hello.Version+"/go.mod "+modSum+"\n"))
	require.NoError(t, err)
	return tool
}

func write(t *testing.T, path, data string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(data), 0o644))
}

// machine makes this a machine that has built no tool yet, and returns where it will keep them.
func machine(t *testing.T) (tools string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	require.NoError(t, err)
	t.Setenv("GOCACHE", strings.TrimSpace(string(out)))
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	return filepath.Join(cache, "grimoire", "tools")
}

// offline makes this a machine with an empty module cache that knows no other proxy.
func offline(t *testing.T, proxy string) (tools string) {
	t.Helper()
	modules := filepath.Join(t.TempDir(), "mod")
	t.Setenv("GOMODCACHE", modules)
	t.Setenv("GOPROXY", proxy)
	t.Cleanup(func() {
		_ = filepath.WalkDir(modules, func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				_ = os.Chmod(path, 0o755) // the module cache cannot be written to, nor removed
			}
			return nil
		})
	})
	return machine(t)
}

func TestPath(t *testing.T) {
	dir := proxy(t, `println("hello")`)
	tools := offline(t, "file://"+dir)
	// What the service's people have set for its own build.
	t.Setenv("GOFLAGS", "-mod=vendor -tags=x")
	t.Setenv("GOWORK", filepath.Join(dir, "go.work"))
	t.Setenv("GOOS", "plan9")
	t.Setenv("GOARCH", "386")
	tool := pin(t, dir)
	assert.Equal(t, "hello v1.2.3", tool.String())

	var log bytes.Buffer
	ctx := zerolog.New(&log).Level(zerolog.InfoLevel).WithContext(t.Context())
	path, err := tool.Path(ctx, "")
	require.NoError(t, err)
	assert.Contains(t, log.String(), "building hello v1.2.3, once on this machine")
	assert.Contains(t, path, filepath.Join(tools, "hello-v1.2.3-"))
	out, err := exec.Command(path).CombinedOutput()
	require.NoError(t, err)
	assert.Equal(t, "hello\n", string(out))

	log.Reset()
	again, err := tool.Path(ctx, "")
	require.NoError(t, err)
	assert.Equal(t, path, again)
	assert.Empty(t, log.String(), "the second time it is there")
}

func TestPathOfConcurrentBuilders(t *testing.T) {
	dir := proxy(t, "")
	tools := offline(t, "file://"+dir)
	tool := pin(t, dir)
	var paths [4]string
	var all sync.WaitGroup
	for i := range paths {
		all.Go(func() {
			path, err := tool.Path(t.Context(), "")
			assert.NoError(t, err)
			paths[i] = path
		})
	}
	all.Wait()
	for _, path := range paths {
		assert.Equal(t, paths[0], path)
	}
	assert.FileExists(t, paths[0])
	entries, err := os.ReadDir(tools)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "the slower builders leave nothing behind")
}

func TestPathRefusesWhatWasNotPinned(t *testing.T) {
	good := proxy(t, "")
	tests := []struct {
		name  string
		proxy string
		tool  func() *Tool
		want  string
	}{
		{"a proxy that serves another archive", proxy(t, `println("evil")`), func() *Tool { return pin(t, good) }, "checksum mismatch"},
		{"a checksum that was changed", good, func() *Tool {
			tool := pin(t, good)
			tool.sum = regexp.MustCompile(`(v1\.2\.3 h1:)....`).ReplaceAll(tool.sum, []byte("${1}AAAA"))
			return tool
		}, "checksum mismatch"},
		{"a checksum that is missing", good, func() *Tool {
			tool := pin(t, good)
			tool.sum = nil
			return tool
		}, "missing go.sum entry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tools := offline(t, "file://"+tt.proxy)
			t.Setenv("GOSUMDB", "off") // the pin alone has to hold
			_, err := tt.tool().Path(t.Context(), "")
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.want)
			if tt.want == "checksum mismatch" {
				assert.Contains(t, err.Error(), "is not what was pinned")
			}
			assertEmpty(t, tools)
		})
	}
}

func TestPathWithoutNetwork(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(missing.Close)
	for name, goproxy := range map[string]string{"off": "off", "nobody listens": closed.URL, "not there": missing.URL} {
		t.Run(name, func(t *testing.T) {
			dir := proxy(t, "")
			tools := offline(t, goproxy)
			_, err := pin(t, dir).Path(t.Context(), "")
			require.Error(t, err)
			assert.Contains(t, err.Error(), "getting hello v1.2.3: building example.org/hello of example.org/hello@v1.2.3: ")
			assert.Contains(t, err.Error(), "set GOPROXY to a proxy that can be reached")
			assertEmpty(t, tools)
		})
	}
}

func TestPathCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	// The proxy is asked in the middle of a build, and never answers.
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	tools := offline(t, server.URL)
	_, err := pin(t, proxy(t, "")).Path(ctx, "")
	require.ErrorIs(t, err, context.Canceled)
	assertEmpty(t, tools)
}

func TestPathAfterARunThatWasKilled(t *testing.T) {
	dir := proxy(t, "")
	tools := offline(t, "file://"+dir)
	write(t, filepath.Join(tools, ".hello-123", "hello"), "half a program")
	path, err := pin(t, dir).Path(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, exec.Command(path).Run())
}

// An analyser that an older Go has built cannot read a module of a newer one.
func TestPathUsesTheToolchainOfTheModule(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the go command of this test is a shell script")
	}
	dir := proxy(t, "")
	offline(t, "file://"+dir)
	real, err := exec.LookPath("go")
	require.NoError(t, err)
	bin := t.TempDir()
	write(t, filepath.Join(bin, "go"), "#!/bin/sh\n[ \"$1\" = env ] || { echo 'not the selected toolchain' >&2; exit 9; }\nexec '"+real+"' \"$@\"\n")
	require.NoError(t, os.Chmod(filepath.Join(bin, "go"), 0o755))
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	_, err = pin(t, dir).Path(t.Context(), "")
	require.NoError(t, err)
}

func TestNewToolRefusesABadPin(t *testing.T) {
	tests := []struct{ name, mod, want string }{
		{"no tool", "module tools\n", "it names 0 tools, not one"},
		{"two tools", "module tools\n\ntool a.org/a\n\ntool b.org/b\n", "it names 2 tools, not one"},
		{"no module", "module tools\n\ntool a.org/ab\n\nrequire a.org/a v1.0.0\n", "nothing in it provides a.org/ab"},
		{"no go.mod", "<html>", "go.mod"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newTool("x", []byte(tt.mod), nil)
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.want)
		})
	}
}

func TestStaticcheck(t *testing.T) {
	machine(t)
	tool, err := Staticcheck()
	require.NoError(t, err)
	path, err := tool.Path(t.Context(), "")
	require.NoError(t, err)
	out, err := exec.Command(path, "-version").Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), strings.TrimPrefix(tool.String(), "staticcheck v"))
}

func assertEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries, "something half-built is left")
}
