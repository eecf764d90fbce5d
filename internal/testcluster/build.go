package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/tool"
)

//go:generate go run ./generate v1.37.2 v3.7.3 testdata/kubernetes

// source is the folder of the module that Kubernetes is built from, in this package's. Below testdata the checks of this
// repository leave it alone: to vet it is to compile all of Kubernetes.
const source = "testdata/kubernetes"

// ErrNotBuilt says that this machine has no binary of Kubernetes yet.
var ErrNotBuilt = errors.New("this machine has not built Kubernetes yet")

// Binary returns the file that has the programs of Kubernetes in it, and builds it where this machine has none of these versions
// and this Go yet: a first time that takes ten minutes or more on two cores, four gigabytes of build cache and 600 MB of
// modules. After that it is there at once.
func Binary(ctx context.Context, progress func(string)) (string, error) {
	exe, err := binary(ctx, func(b *build, dir string) error {
		progress("building Kubernetes " + b.version + " from its modules, once on this machine; it takes ten minutes or more on two cores")
		return b.build(ctx, dir, progress)
	})
	if err != nil {
		return "", fmt.Errorf("building Kubernetes: %w", err)
	}
	return exe, nil
}

// Built returns the file where it has been built, and ErrNotBuilt where it has not.
func Built(ctx context.Context) (string, error) {
	return binary(ctx, func(*build, string) error { return ErrNotBuilt })
}

type build struct {
	module, version string
}

func binary(ctx context.Context, make func(*build, string) error) (string, error) {
	b, key, err := plan(ctx)
	if err != nil {
		return "", err
	}
	return tool.Cached("kubernetes", b.version+"-"+key, func(dir string) error { return make(b, dir) })
}

// plan finds the module, and the key of everything that makes the binary what it is.
func plan(ctx context.Context) (*build, string, error) {
	out, err := process.Capture(ctx, process.Command(ctx, "go", "list", "-f", "{{.Dir}}", reflect.TypeFor[build]().PkgPath()))
	if err != nil {
		return nil, "", err
	}
	b := &build{module: filepath.Join(strings.TrimSpace(string(out)), source)}
	if out, err = process.Capture(ctx, process.Command(ctx, "go", "env", "GOVERSION")); err != nil {
		return nil, "", err
	}
	key := tool.NewKey(strings.TrimSpace(string(out)))
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		data, err := os.ReadFile(filepath.Join(b.module, name))
		if err != nil {
			return nil, "", err
		}
		key.Add(name, data)
		if name != "go.mod" {
			continue
		}
		mod, err := modfile.Parse(name, data, nil)
		if err != nil {
			return nil, "", err
		}
		for _, require := range mod.Require {
			if require.Mod.Path == "k8s.io/kubernetes" {
				b.version = require.Mod.Version
			}
		}
	}
	return b, key.String(), nil
}

// build builds the binary into dir. Without the stamps the programs do not know their version, and refuse to start.
func (b *build) build(ctx context.Context, dir string, progress func(string)) error {
	number := strings.SplitN(strings.TrimPrefix(b.version, "v"), ".", 3)
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags, "-X", pkg+".gitVersion="+b.version, "-X", pkg+".gitMajor="+number[0], "-X", pkg+".gitMinor="+number[1])
	}
	list := b.command(ctx, "list", "-deps", "-f", "{{.ImportPath}}")
	out, err := process.Capture(ctx, list)
	if err != nil {
		return err
	}
	compiled := &compiled{all: strings.Count(string(out), "\n"), progress: progress, next: time.Now().Add(tellEvery)}
	cmd := b.command(ctx, "build", "-v", "-ldflags="+strings.Join(flags, " "), "-o", filepath.Join(dir, "kubernetes"+tool.ExeSuffix()))
	cmd.Stdout, cmd.Stderr = io.Discard, compiled
	if err := process.Run(ctx, cmd); err != nil {
		return fmt.Errorf("%w: %s", err, strings.Join(compiled.last, "\n"))
	}
	return nil
}

// command returns a go command on the module, with the settings that the binary is built with.
func (b *build) command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	cmd := process.Command(ctx, "go", append(append([]string{verb, "-trimpath", "-buildvcs=false"}, args...), ".")...)
	cmd.Dir = b.module
	cmd.Env = process.Env("PWD="+b.module, "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	return cmd
}

// tellEvery is how often the progress of a build is told.
const tellEvery = 20 * time.Second

// compiled counts the packages that go build -v names, a line each, and keeps the last lines in case it fails.
type compiled struct {
	all      int
	progress func(string)

	next time.Time
	line []byte
	n    int
	last []string
}

func (c *compiled) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			c.line = append(c.line, b)
			continue
		}
		c.n++
		const most = 20
		if c.last = append(c.last, string(c.line)); len(c.last) > most {
			c.last = c.last[1:]
		}
		c.line = c.line[:0]
	}
	if now := time.Now(); now.After(c.next) {
		c.next = now.Add(tellEvery)
		c.progress(fmt.Sprintf("compiled %d of %d packages", c.n, c.all))
	}
	return len(p), nil
}
