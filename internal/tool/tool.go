// Package tool provides tools that are pinned by version and checksum: built from the module cache by the go command, once a
// machine, with nothing to install by hand and nothing added to the service's go.mod.
package tool

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/mod/modfile"

	"github.com/grimoire-build/grimoire/internal/process"
)

//go:generate go run ./generate staticcheck honnef.co/go/tools/cmd/staticcheck@v0.8.2
//go:generate go run ./generate kustomize sigs.k8s.io/kustomize/kustomize/v5@v5.8.1

//go:embed staticcheck/go.mod.txt staticcheck/go.sum.txt kustomize/go.mod.txt kustomize/go.sum.txt
var pins embed.FS

// Tool is a program that a pair of go.mod and go.sum pins, with everything that it is made of.
type Tool struct {
	name     string
	pkg      string
	module   string
	version  string
	mod, sum []byte
}

// Staticcheck returns the staticcheck that Lint runs. Source: https://staticcheck.dev
func Staticcheck() (*Tool, error) { return pinned("staticcheck") }

// Kustomize returns the kustomize that renders the kustomize folders of Deploy. Source: https://kustomize.io
func Kustomize() (*Tool, error) { return pinned("kustomize") }

func pinned(name string) (*Tool, error) {
	mod, err := fs.ReadFile(pins, path.Join(name, "go.mod.txt"))
	if err != nil {
		return nil, err
	}
	sum, err := fs.ReadFile(pins, path.Join(name, "go.sum.txt"))
	if err != nil {
		return nil, err
	}
	return newTool(name, mod, sum)
}

func newTool(name string, mod, sum []byte) (*Tool, error) {
	file, err := modfile.Parse(name+"/go.mod", mod, nil)
	if err != nil {
		return nil, err
	}
	if len(file.Tool) != 1 {
		return nil, fmt.Errorf("reading the pin of %s: it names %d tools, not one; run go generate in internal/tool", name, len(file.Tool))
	}
	t := &Tool{name: name, pkg: file.Tool[0].Path, mod: mod, sum: sum}
	for _, require := range file.Require {
		if strings.HasPrefix(t.pkg, require.Mod.Path+"/") || t.pkg == require.Mod.Path {
			t.module, t.version = require.Mod.Path, require.Mod.Version
		}
	}
	if t.module == "" {
		return nil, fmt.Errorf("reading the pin of %s: nothing in it provides %s; run go generate in internal/tool", name, t.pkg)
	}
	return t, nil
}

// String names the tool and its version.
func (t *Tool) String() string { return t.name + " " + t.version }

// Path returns the program's file, and builds it first where this machine does not have it yet. It is built by the Go
// toolchain that the module in dir selects, since an analyser cannot read code of a later Go than its own. Several runs may
// build it at once; a run that is stopped leaves nothing behind that another would take for the program.
func (t *Tool) Path(ctx context.Context, dir string) (string, error) {
	exe, err := t.path(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("getting %s: %w", t, err)
	}
	return exe, nil
}

func (t *Tool) path(ctx context.Context, dir string) (string, error) {
	with, err := selected(ctx, dir)
	if err != nil {
		return "", err
	}
	return Cached(t.name, t.version+"-"+t.key(with), func(tmp string) error {
		zerolog.Ctx(ctx).Info().Msgf("building %s, once on this machine", t)
		return t.build(ctx, with, tmp)
	})
}

// Cached returns the file of the program called name that build makes in the folder it is given, where this machine does not
// have it under version yet. A program that is there is whole; the slower of two that build it at once takes the other's.
func Cached(name, version string, build func(dir string) error) (string, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no folder to keep it in: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return CachedIn(user, name, version, build)
}

// CachedIn is Cached with the user's folder for caches.
func CachedIn(user, name, version string, build func(dir string) error) (string, error) {
	cache := filepath.Join(user, "grimoire", "tools")
	home := filepath.Join(cache, name+"-"+version)
	exe := filepath.Join(home, name+ExeSuffix())
	if _, err := os.Stat(exe); err == nil {
		return exe, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "."+name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := build(tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, home); err != nil {
		if _, other := os.Stat(exe); other == nil {
			return exe, nil // another run was faster
		}
		return "", err
	}
	return exe, nil
}

// Key names everything that makes a program what it is, for Cached.
type Key struct{ sum hash.Hash }

// NewKey begins the key of a program that this version of Go builds for this machine.
func NewKey(goVersion string) Key {
	k := Key{sha256.New()}
	fmt.Fprintln(k.sum, goVersion, runtime.GOOS, runtime.GOARCH)
	return k
}

// Add adds a file that the program is made of.
func (k Key) Add(name string, data []byte) { fmt.Fprintf(k.sum, "%s\n%d\n%s", name, len(data), data) }

// String is the key as a version for Cached.
func (k Key) String() string { return hex.EncodeToString(k.sum.Sum(nil))[:16] }

// toolchain is the Go that a module selects by its go and toolchain lines.
type toolchain struct{ GOROOT, GOVERSION string }

func selected(ctx context.Context, dir string) (toolchain, error) {
	var tc toolchain
	cmd := process.Command(ctx, "go", "env", "-json", "GOROOT", "GOVERSION")
	cmd.Dir = dir
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return tc, fmt.Errorf("asking for the Go toolchain: %w", err)
	}
	if err := json.Unmarshal(out, &tc); err != nil {
		return tc, fmt.Errorf("reading go's environment: %w", err)
	}
	return tc, nil
}

// key is a hash of everything that makes the program what it is.
func (t *Tool) key(with toolchain) string {
	sum := sha256.New()
	for _, part := range []string{string(t.mod), string(t.sum), with.GOVERSION, runtime.GOOS, runtime.GOARCH} {
		fmt.Fprintf(sum, "%d\n%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}

// build builds the program in dir, as a module that requires nothing else.
func (t *Tool) build(ctx context.Context, with toolchain, dir string) error {
	for name, data := range map[string][]byte{"go.mod": t.mod, "go.sum": t.sum} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	cmd := process.Command(ctx, filepath.Join(with.GOROOT, "bin", "go"+ExeSuffix()), "build", "-o", t.name+ExeSuffix(), t.pkg)
	cmd.Dir = dir
	// The service's settings are for its own build; the tool is the same for everybody, and runs here. None of them is left
	// empty, since go would then take what `go env -w` has stored.
	cmd.Env = process.Env("GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	_, err := process.Capture(ctx, cmd)
	var failed *process.Error
	if errors.As(err, &failed) && ctx.Err() == nil {
		return fmt.Errorf("building %s of %s@%s: %w%s", t.pkg, t.module, t.version, err, cure(failed.Stderr))
	}
	return err
}

// unreachable are the words of the go command for a module that it could not download.
var unreachable = regexp.MustCompile(`dial (tcp|udp)|lookup .*: |no such host|module lookup disabled by GOPROXY|i/o timeout|TLS handshake|: reading https?://.*: \d{3} `)

// cure is what to do about a build that said stderr.
func cure(stderr string) string {
	switch {
	case strings.Contains(stderr, "checksum mismatch"), strings.Contains(stderr, "SECURITY ERROR"):
		return "; what the module proxy or the module cache holds is not what was pinned: do not use it, and run `go clean -modcache` if it is the cache"
	case unreachable.MatchString(stderr):
		return "; its modules could not be downloaded: set GOPROXY to a proxy that can be reached, or run this once where there is a network and keep the module cache (`go env GOMODCACHE`)"
	}
	return ""
}

// ExeSuffix ends the name of a program's file.
func ExeSuffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}
