package telemetry

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"

	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
	"github.com/grimoire-build/grimoire/internal/tool"
)

// sources are the exporter's. They need the standard library alone, so that it can be built without a network, and out of a
// magefile whose modules are vendored. The magefile does not compile it, since HTTP would double what that costs.
//
//go:embed otlp/otlp.go otlpexport/main.go otlpexport/config.go otlpexport/encode.go otlpexport/send.go
var sources embed.FS

const exporterName = "otlpexport"

// Prepare has this machine have the exporter before a run wants it. A run builds it where it is missing, but does not wait for it, and what
// it has to tell is lost until then.
func Prepare(ctx context.Context) error {
	_, err := buildExporter(ctx, os.Environ())
	return err
}

// buildExporter returns the exporter's file, and builds it where this machine does not have it yet.
func buildExporter(ctx context.Context, environ []string) (string, error) {
	key := tool.NewKey(runtime.Version())
	files := map[string][]byte{}
	err := fs.WalkDir(sources, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := sources.ReadFile(name)
		files[name] = data
		key.Add(name, data)
		return err
	})
	if err != nil {
		return "", err
	}
	exe, err := tool.Cached(exporterName, key.String(), func(dir string) error {
		return compile(ctx, environ, files, dir)
	})
	if err != nil {
		return "", fmt.Errorf("building the exporter of traces: %w", err)
	}
	return exe, nil
}

// compile builds the exporter in dir, as a module of its own by the name of ours.
func compile(ctx context.Context, environ []string, files map[string][]byte, dir string) error {
	const here = "internal/telemetry"
	module := strings.TrimSuffix(reflect.TypeFor[otlp.Span]().PkgPath(), "/"+here+"/otlp")
	all := map[string][]byte{"go.mod": []byte("module " + module + "\n\ngo 1.26.0\n")}
	for name, data := range files {
		all[path.Join(here, name)] = data
	}
	for name, data := range all {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", exporterName+tool.ExeSuffix(), "./"+here+"/"+exporterName)
	cmd.Dir = dir
	// The service's settings are for its own build. Those for cgo stay, as in the magefile's: what it has compiled is reused.
	cmd.Env = slices.Concat(environ, []string{"PWD=" + dir, "GOFLAGS=-mod=mod", "GOWORK=off", "GOOS=" + runtime.GOOS, "GOARCH=" + runtime.GOARCH})
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	lowPriority(cmd.Process) // it runs beside the stages
	stop := context.AfterFunc(ctx, func() { killGroup(cmd.Process) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return errors.New("the run was over before it was done; the next one goes on with it, where the build cache is kept")
		}
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}
