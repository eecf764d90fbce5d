//go:build unix

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"debug/elf"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/process"
)

const mainFile = "package main\n\nvar version = \"unset\"\n\nfunc main() { println(\"version is\", version) }\n"

// module writes a module with two main packages and a library.
func module(t *testing.T, dir string) string {
	t.Helper()
	writeFiles(t, dir, map[string]string{
		"go.mod":             "module example.org/shop\n\ngo 1.26\n",
		"cmd/api/main.go":    mainFile,
		"cmd/worker/main.go": mainFile,
		"pay/pay.go":         "package pay\n",
	})
	return dir
}

// temporary gives a test its own folder for temporary files and checks that nothing is left in it.
func temporary(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		assert.NoError(t, err)
		assert.Empty(t, entries, "temporary files are left behind")
	})
}

type fileInLayer struct {
	tar.Header
	content []byte
}

func filesOf(t *testing.T, layer v1.Layer) map[string]fileInLayer {
	t.Helper()
	content, err := layer.Uncompressed()
	require.NoError(t, err)
	defer content.Close()
	files := map[string]fileInLayer{}
	for archive := tar.NewReader(content); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		raw, err := io.ReadAll(archive)
		require.NoError(t, err)
		files[header.Name] = fileInLayer{*header, raw}
	}
}

// buildOne builds for one platform, with layers of its own.
func buildOne(t *testing.T, o GoOptions) (v1.Image, error) {
	t.Helper()
	if o.Cache == "" {
		o.Cache = t.TempDir()
	}
	built, err := BuildGo(t.Context(), o)
	if err != nil {
		return nil, err
	}
	return built.Artifact.(v1.Image), nil
}

func TestBuildGo(t *testing.T) {
	temporary(t)
	created := time.Date(2026, 5, 1, 12, 0, 0, 5, time.FixedZone("somewhere", 3600))
	img, err := buildOne(t, GoOptions{
		Dir: module(t, t.TempDir()), Packages: []string{"./cmd/worker", "./..."}, Created: created, Version: "v1 of May", Port: 8080,
		Env: []string{"MODE=prod"}, Labels: map[string]string{"org.opencontainers.image.revision": "4f2a"},
	})
	require.NoError(t, err)

	mediaType, err := img.MediaType()
	require.NoError(t, err)
	assert.Equal(t, types.OCIManifestSchema1, mediaType)
	manifest, err := img.Manifest()
	require.NoError(t, err)
	assert.Equal(t, types.OCIConfigJSON, manifest.Config.MediaType)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	assert.Equal(t, "linux/amd64", config.Platform().String())
	assert.True(t, created.Truncate(time.Second).Equal(config.Created.Time))
	assert.Len(t, config.History, 3)
	assert.True(t, FromPackages(config))
	assert.Equal(t, v1.Config{
		Entrypoint: []string{"/usr/local/bin/worker"}, User: "65532:65532", Env: []string{searchPath, "MODE=prod"},
		Labels: map[string]string{"org.opencontainers.image.revision": "4f2a"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}, config.Config)

	layers, err := img.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 3)
	for i, layer := range layers {
		assert.Equal(t, types.OCILayer, manifest.Layers[i].MediaType)
		for name, file := range filesOf(t, layer) {
			assert.Zero(t, file.ModTime.Unix(), name)
			assert.Zero(t, file.Uid+file.Gid, name)
			assert.Empty(t, file.Uname+file.Gname, name)
		}
	}
	system := filesOf(t, layers[0])
	assert.EqualValues(t, 0o1777, system["tmp/"].Mode)
	assert.Contains(t, string(system["etc/passwd"].content), "\napp:x:65532:65532:")
	assert.Contains(t, string(system["etc/group"].content), "\napp:x:65532:\n")
	pool := x509.NewCertPool()
	assert.True(t, pool.AppendCertsFromPEM(system["etc/ssl/certs/ca-certificates.crt"].content))
	assert.Greater(t, strings.Count(string(system["etc/ssl/certs/ca-certificates.crt"].content), "BEGIN"), 50)

	for i, name := range []string{"worker", "api"} {
		files := filesOf(t, layers[i+1])
		require.Len(t, files, 1)
		binary := files["usr/local/bin/"+name]
		assert.EqualValues(t, 0o755, binary.Mode)
		parsed, err := elf.NewFile(bytes.NewReader(binary.content))
		require.NoError(t, err)
		assert.Equal(t, elf.EM_X86_64, parsed.Machine)
		assert.Nil(t, parsed.Section(".symtab"), "it is not stripped")
		assert.Nil(t, parsed.Section(".interp"), "it is not static")
		assert.Contains(t, string(binary.content), "v1 of May")
	}
}

// The same source in another folder, by another user's environment and at another time is the same image, to the byte.
func TestBuildGoIsReproducible(t *testing.T) {
	cache, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	require.NoError(t, err)
	caches := strings.Fields(string(cache))
	tests := []struct {
		dir, zone, env string
		umask          int
	}{
		{dir: "a", zone: "UTC", umask: 0o022},
		{dir: "another/and/longer", zone: "Asia/Tokyo", env: "GOFLAGS=-tags=other GOAMD64=v3 CGO_ENABLED=1 GOOS=windows LANG=de_DE.UTF-8 USER=bob GOFIPS140=latest GOEXPERIMENT=nodwarf5 GOENV=written", umask: 0o077},
	}
	var digests []string
	for _, test := range tests {
		t.Run(test.dir, func(t *testing.T) {
			temporary(t)
			t.Setenv("HOME", t.TempDir())
			t.Setenv("GOCACHE", caches[0])
			t.Setenv("GOMODCACHE", caches[1])
			t.Setenv("TZ", test.zone)
			for variable := range strings.FieldsSeq(test.env) {
				name, value, _ := strings.Cut(variable, "=")
				if name == "GOENV" { // as by go env -w
					value = filepath.Join(t.TempDir(), value)
					require.NoError(t, os.WriteFile(value, []byte("GOFIPS140=latest\nGOAMD64=v2\nGOFLAGS=-tags=other\n"), 0o600))
				}
				t.Setenv(name, value)
			}
			old := syscall.Umask(test.umask)
			defer syscall.Umask(old)
			dir := module(t, filepath.Join(t.TempDir(), test.dir))
			// A layout has everything that a registry would get.
			img, err := buildOne(t, GoOptions{Dir: dir, Packages: []string{"./cmd/..."}, Version: "1", Labels: map[string]string{
				"b": "2", "a": "1", "c": "3",
			}})
			require.NoError(t, err)
			digest, err := img.Digest()
			require.NoError(t, err)
			digests = append(digests, digest.String())
			config, err := img.ConfigFile()
			require.NoError(t, err)
			assert.Zero(t, config.Created.Unix())
		})
	}
	require.Len(t, digests, 2)
	assert.Equal(t, digests[0], digests[1])
}

func TestBuildGoNamesTheVariant(t *testing.T) {
	temporary(t)
	img, err := buildOne(t, GoOptions{Dir: module(t, t.TempDir()), Packages: []string{"./cmd/api"}, Platforms: []string{"linux/arm"}})
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	assert.Equal(t, "linux/arm/v7", config.Platform().String(), "which is what the binary is for")
}

func TestBuildGoForAnotherPlatform(t *testing.T) {
	temporary(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"go.mod": "module example.org/pay/v2\n\ngo 1.26\n", "main.go": mainFile, "tool/v3/main.go": mainFile})
	img, err := buildOne(t, GoOptions{Dir: dir, Packages: []string{".", "./tool/v3"}, Platforms: []string{"linux/arm/v6"}, User: "0"})
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	assert.Equal(t, "linux/arm/v6", config.Platform().String())
	assert.Equal(t, []string{"/usr/local/bin/pay"}, config.Config.Entrypoint, "the major version is no name")
	assert.Equal(t, "0", config.Config.User)
	layers, err := img.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 3)
	assert.NotContains(t, string(filesOf(t, layers[0])["etc/passwd"].content), "app")
	binary, err := elf.NewFile(bytes.NewReader(filesOf(t, layers[1])["usr/local/bin/pay"].content))
	require.NoError(t, err)
	assert.Equal(t, elf.EM_ARM, binary.Machine)
	assert.Contains(t, filesOf(t, layers[2]), "usr/local/bin/tool")
}

func TestBuildGoHasTimeZones(t *testing.T) {
	temporary(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"go.mod": "module example.org/clock\n\ngo 1.26\n", "main.go": "package main\n\nimport \"time\"\n\nfunc main() { println(time.Now().String()) }\n",
	})
	img, err := buildOne(t, GoOptions{Dir: dir})
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	assert.Contains(t, string(filesOf(t, layers[1])["usr/local/bin/clock"].content), "Europe/Berlin")
}

// baseImage is a base with a configuration of its own.
func baseImage(t *testing.T, user string, oci bool) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	layerType := types.DockerLayer
	if oci {
		img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
		layerType = types.OCILayer
	}
	layer, err := random.Layer(100, layerType)
	require.NoError(t, err)
	img, err = mutate.AppendLayers(img, layer)
	require.NoError(t, err)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{must(layer.DiffID())}},
		Config: v1.Config{
			User: user, Env: []string{"PATH=/opt/bin", "MODE=base"}, Labels: map[string]string{"vendor": "x", "kept": "y", InputsLabel: "of the base"},
			Entrypoint: []string{"/bin/sh"}, Cmd: []string{"-c"}, WorkingDir: "/srv",
		},
	})
	require.NoError(t, err)
	return img
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestBuildGoOnABase(t *testing.T) {
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	require.NoError(t, err)
	tests := []struct {
		name, base, user, want string
		oci                    bool
	}{
		{name: "numeric user", base: "1000:1000", want: "1000:1000", oci: true},
		{name: "named user", base: "nonroot", want: defaultUser},
		{name: "root", base: "0", want: defaultUser},
		{name: "no user", base: "", want: defaultUser, oci: true},
		{name: "user given", base: "1000", user: "7:8", want: "7:8"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cleanEnvironment(t)
			t.Setenv("GOCACHE", strings.TrimSpace(string(cache)))
			temporary(t)
			r := testRegistry(t)
			host := serveRegistry(t)
			base := baseImage(t, test.base, test.oci)
			_, err := r.Push(t.Context(), host+"/base:1", base)
			require.NoError(t, err)
			img, err := buildOne(t, GoOptions{
				Dir: module(t, t.TempDir()), Packages: []string{"./cmd/api"}, Base: host + "/base:1", Registry: r, User: test.user,
				Env: []string{"MODE=prod"}, Labels: map[string]string{"vendor": "shop"},
			})
			require.NoError(t, err)
			config, err := img.ConfigFile()
			require.NoError(t, err)
			assert.Equal(t, v1.Config{
				User: test.want, Env: []string{"PATH=/opt/bin", "MODE=prod"}, Labels: map[string]string{"vendor": "shop", "kept": "y"},
				Entrypoint: []string{"/usr/local/bin/api"}, WorkingDir: "/srv",
			}, config.Config)
			manifest, err := img.Manifest()
			require.NoError(t, err)
			require.Len(t, manifest.Layers, 2)
			assert.Equal(t, manifest.Layers[0].MediaType, manifest.Layers[1].MediaType)
			digest, err := r.Push(t.Context(), host+"/shop/api:1", img)
			require.NoError(t, err)
			assert.Equal(t, must(img.Digest()).String(), digest)
		})
	}
}

func TestBuildGoFailures(t *testing.T) {
	temporary(t)
	dir := module(t, t.TempDir())
	writeFiles(t, dir, map[string]string{"other/api/main.go": mainFile, "broken/main.go": "package main\n\nfunc main() { oops }\n"})
	library := t.TempDir()
	writeFiles(t, library, map[string]string{"go.mod": "module example.org/lib\n", "lib.go": "package lib\n"})
	tests := []struct {
		name string
		o    GoOptions
		want string
	}{
		{name: "a library", o: GoOptions{Packages: []string{"./pay"}}, want: "./pay is no main package; name one of example.org/shop/broken, example.org/shop/cmd/api,"},
		{name: "no main package at all", o: GoOptions{Dir: library}, want: "there is none in or below"},
		{name: "no such package", o: GoOptions{Packages: []string{"./nowhere"}}, want: "finding package ./nowhere"},
		{name: "no such folder", o: GoOptions{Dir: filepath.Join(dir, "nowhere")}, want: "no such file or directory"},
		{name: "a flag", o: GoOptions{Packages: []string{"-toolexec=/bin/sh"}}, want: "is no pattern of packages"},
		{name: "two of a name", o: GoOptions{Packages: []string{"./cmd/api", "./other/api"}}, want: "would both be the binary api"},
		{name: "does not compile", o: GoOptions{Packages: []string{"./broken"}}, want: "compiling example.org/shop/broken: running go build"},
		{name: "user by name", o: GoOptions{User: "nobody"}, want: `user "nobody" is not a number`},
		{name: "enormous user", o: GoOptions{User: "99999999999"}, want: "too large"},
		{name: "no Linux", o: GoOptions{Platforms: []string{"darwin/arm64"}}, want: "is not Linux"},
		{name: "no platform", o: GoOptions{Platforms: []string{"amd64"}}, want: "OS/ARCHITECTURE"},
		{name: "no variant", o: GoOptions{Platforms: []string{"linux/arm/v9"}}, want: "Go knows no such variant"},
		{name: "a platform twice", o: GoOptions{Platforms: []string{"linux/arm", "linux/arm/v7"}}, want: "platform linux/arm/v7 is named twice"},
		{name: "cgo on nothing", o: GoOptions{CGO: true}, want: "needs the C library of a base"},
		{name: "port", o: GoOptions{Port: 70000}, want: "port 70000"},
		{name: "environment", o: GoOptions{Env: []string{"MODE"}}, want: "NAME=VALUE"},
		{name: "version with a quote", o: GoOptions{Version: "1' -X=main.other=2"}, want: "holds a quote"},
		{name: "base without a tag", o: GoOptions{Packages: []string{"./cmd/api"}, Base: "alpine"}, want: "neither tag nor digest"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.o.Dir == "" {
				test.o.Dir = dir
			}
			var output strings.Builder
			test.o.Cache = t.TempDir()
			_, err := BuildGo(process.WithOutput(t.Context(), &output), test.o)
			require.ErrorContains(t, err, "building a Go image: ")
			assert.ErrorContains(t, err, test.want)
			if test.name == "does not compile" {
				assert.Contains(t, output.String(), "main.go:3:15: undefined: oops")
				var exit interface{ ExitStatus() int }
				require.ErrorAs(t, err, &exit)
				assert.Equal(t, 1, exit.ExitStatus())
			}
		})
	}
}

func TestBuildGoWithoutGo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := buildOne(t, GoOptions{Dir: t.TempDir()})
	require.ErrorIs(t, err, exec.ErrNotFound)
	assert.ErrorContains(t, err, "PATH")
}

func TestBuildGoCancelled(t *testing.T) {
	temporary(t)
	bin := t.TempDir()
	// A compiler that says it has begun, and leaves a file behind when it is killed.
	script := `#!/bin/sh
if [ "$1" = env ]; then echo '{}'; exit; fi
if [ "$1" = list ]; then echo '{"ImportPath":"example.org/slow","Name":"main","Match":["."]}'; exit; fi
echo half > "${GOTMPDIR:-$TMPDIR}/half"
echo begun >&2
exec sleep 600
`
	require.NoError(t, os.WriteFile(filepath.Join(bin, "go"), []byte(script), 0o755))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := BuildGo(process.WithOutput(ctx, writerFunc(func([]byte) { cancel() })), GoOptions{Dir: t.TempDir(), Cache: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
	assert.EqualError(t, err, "building a Go image: context canceled")
}

func TestGoEnvironment(t *testing.T) {
	for platform, want := range map[string]string{
		"linux/amd64": "GOAMD64=v1", "linux/amd64/v3": "GOAMD64=v3", "linux/arm": "GOARM=7", "linux/arm/v6": "GOARM=6",
		"linux/arm64": "GOARM64=v8.0", "linux/arm64/v8": "GOARM64=v8.0", "linux/s390x": "GOARCH=s390x", "linux/arm/v9": "", "linux/s390x/z15": "",
	} {
		parsed, err := parsePlatform(platform)
		require.NoError(t, err)
		env, err := goEnvironment(parsed, false)
		assert.Equal(t, want == "", err != nil, platform)
		if want != "" {
			assert.Contains(t, env, want, platform)
			assert.Contains(t, env, "CGO_ENABLED=0", platform)
		}
	}
}

func TestBinaryName(t *testing.T) {
	for importPath, want := range map[string]string{
		"example.org/shop": "shop", "example.org/shop/v2": "shop", "example.org/shop/cmd/api": "api", "app": "app", "v2": "v2",
		"example.org/v1": "v1", "example.org/x/v0": "v0", "example.org/x/v05": "v05", "gopkg.in/yaml.v3": "yaml.v3", "example.org/x/v10": "x",
	} {
		assert.Equal(t, want, binaryName(importPath), importPath)
	}
}

func ExampleReference() {
	reference, err := Reference("git.example.org", "Shop/Pay", "4f2a9c")
	fmt.Println(reference, err)
	// Output: git.example.org/shop/pay:4f2a9c <nil>
}

// A change of one program changes the layer of that one alone, also in another commit.
func TestBuildGoChangesOneLayer(t *testing.T) {
	temporary(t)
	dir, cache := module(t, t.TempDir()), t.TempDir()
	layers := func(created time.Time) (digests []v1.Hash) {
		t.Helper()
		img, err := buildOne(t, GoOptions{Dir: dir, Packages: []string{"./cmd/..."}, Created: created, Cache: cache})
		require.NoError(t, err)
		manifest, err := img.Manifest()
		require.NoError(t, err)
		for _, layer := range manifest.Layers {
			digests = append(digests, layer.Digest)
		}
		return digests
	}
	was := layers(time.Unix(1, 0))
	writeFiles(t, dir, map[string]string{"cmd/worker/main.go": strings.Replace(mainFile, "version is", "changed is", 1)})
	now := layers(time.Unix(2, 0))
	require.Len(t, now, 3)
	assert.Equal(t, was[:2], now[:2])
	assert.NotEqual(t, was[2], now[2])
}

func TestBuildGoWithCGO(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no gcc")
	}
	temporary(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"go.mod": "module example.org/c\n\ngo 1.26\n", "main.go": "package main\n\n// int answer(void) { return 42; }\nimport \"C\"\n\nfunc main() { println(C.answer()) }\n",
	})
	r, host := testRegistry(t), serveRegistry(t)
	_, err := r.Push(t.Context(), host+"/base:1", baseImage(t, "7", true))
	require.NoError(t, err)
	platform := "linux/" + runtime.GOARCH
	if platform != "linux/amd64" {
		t.Skip("the base is for linux/amd64")
	}
	img, err := buildOne(t, GoOptions{Dir: dir, CGO: true, Base: host + "/base:1", Registry: r})
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	binary, err := elf.NewFile(bytes.NewReader(filesOf(t, layers[1])["usr/local/bin/c"].content))
	require.NoError(t, err)
	assert.NotNil(t, binary.Section(".interp"), "it needs a C library")
	_, err = buildOne(t, GoOptions{Dir: dir, Base: host + "/base:1", Registry: r})
	assert.Error(t, err, "without cgo there is nothing to compile")
}

// A layer of the base that is cut off, or damaged, on its way is fetched again, and one that stays so is told.
func TestBaseLayerIsFetchedAgain(t *testing.T) {
	dir := module(t, t.TempDir())
	for _, test := range []struct {
		name  string
		times int64
		do    func(w http.ResponseWriter, content []byte)
		want  string
	}{
		{name: "cut off", times: 2, do: func(w http.ResponseWriter, content []byte) { _, _ = w.Write(content[:len(content)/2]) }},
		{name: "damaged", times: 2, do: func(w http.ResponseWriter, content []byte) { content[len(content)/2] ^= 1; _, _ = w.Write(content) }},
		{name: "always cut off", times: 1000, do: func(w http.ResponseWriter, content []byte) { _, _ = w.Write(content[:len(content)/2]) }, want: "broke"},
		{name: "always damaged", times: 1000, do: func(w http.ResponseWriter, content []byte) { content[len(content)/2] ^= 1; _, _ = w.Write(content) }, want: "sha256"},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := baseImage(t, "7", true)
			layer := must(must(base.Layers())[0].Digest())
			var left atomic.Int64
			left.Store(test.times)
			r := testRegistry(t)
			host := serveRegistry(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, layer.String()) || left.Add(-1) < 0 {
						next.ServeHTTP(w, req)
						return
					}
					answer := httptest.NewRecorder()
					next.ServeHTTP(answer, req)
					w.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
					test.do(w, answer.Body.Bytes())
				})
			})
			_, err := r.Push(t.Context(), host+"/base:1", base)
			require.NoError(t, err)
			built, err := BuildGo(t.Context(), GoOptions{Dir: dir, Packages: []string{"./cmd/api"}, Base: host + "/base:1", Registry: r, Cache: t.TempDir()})
			require.NoError(t, err)
			err = Save(filepath.Join(t.TempDir(), "image"), built, "")
			if test.want == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, `pulling "`+host+`/base:1": `)
			assert.ErrorContains(t, err, test.want)
		})
	}
}
