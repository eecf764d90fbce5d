package testengine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/testimage"
	"github.com/grimoire-build/grimoire/internal/tool"
)

// GoImage is the base image of the example service's Dockerfile. The stand-in has busybox for a shell and this machine's Go, so
// that the Dockerfile builds as it is where no registry can be reached.
const GoImage = "golang:1.26-alpine"

// busybox is Debian's busybox-static.
const busybox = "/bin/busybox"

// standIns returns the files of the images, and makes those that this machine does not have yet.
func standIns(ctx context.Context, progress func(string)) ([]string, error) {
	if applets, err := exec.CommandContext(ctx, busybox, "--list").Output(); err != nil || !slices.Contains(strings.Fields(string(applets)), "sh") {
		return nil, errors.Join(errors.New("the stand-in for "+GoImage+" needs "+busybox+"; Debian's package busybox-static has it"), err)
	}
	out, err := process.Capture(ctx, process.Command(ctx, "go", "env", "GOVERSION", "GOROOT"))
	if err != nil {
		return nil, err
	}
	version, goroot, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if info, err := os.Lstat(filepath.Join(goroot, "src")); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("the standard library of %s is elsewhere, and links are not followed into the image; use a Go from go.dev", goroot)
	}
	file, err := tool.Cached("standin-golang", version+"-1", func(dir string) error {
		progress("making a stand-in for " + GoImage + ", once on this machine")
		// Cached wants a file of the tool's name.
		return goImage(ctx, goroot, dir, filepath.Join(dir, "standin-golang"))
	})
	if err != nil {
		return nil, fmt.Errorf("making a stand-in for %s: %w", GoImage, err)
	}
	return []string{file}, nil
}

// goImage writes the image into file.
func goImage(ctx context.Context, goroot, dir, file string) error {
	content := filepath.Join(dir, "layer.tar")
	defer os.Remove(content)
	if err := goLayer(ctx, goroot, dir, content); err != nil {
		return err
	}
	layer, err := tarball.LayerFromFile(content)
	if err != nil {
		return err
	}
	image, err := testimage.FromLayers(testimage.Config{
		Cmd: []string{"/bin/sh"}, WorkingDir: "/go",
		Env: []string{"PATH=/go/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOPATH=/go", "GOTOOLCHAIN=local", "GOCACHE=/go/cache"},
	}, layer)
	if err != nil {
		return err
	}
	return testimage.Save(file, GoImage, image)
}

// goLayer writes the files of the image.
func goLayer(ctx context.Context, goroot, dir, file string) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := &layer{tar.NewWriter(out)}
	for _, name := range []string{"bin", "etc", "proc", "sys", "dev", "go", "usr/local", "tmp"} {
		mode := int64(0o755)
		if name == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}); err != nil {
			return err
		}
	}
	if err := w.file("bin/busybox", busybox); err != nil {
		return err
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(applets)) {
		if name == "busybox" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}); err != nil {
			return err
		}
	}
	if err := w.tree("usr/local/go", goroot, func(name string) bool {
		base := path.Base(name)
		return slices.Contains([]string{"test", "api", "doc", "misc"}, name) || base == "testdata" || strings.HasSuffix(base, "_test.go")
	}); err != nil {
		return err
	}
	cache := filepath.Join(dir, "cache")
	defer os.RemoveAll(cache)
	if err := warm(ctx, cache); err != nil {
		return err
	}
	if err := w.tree("go/cache", cache, func(string) bool { return false }); err != nil {
		return err
	}
	return w.Close()
}

// warm fills a build cache with what a service of the standard library needs, as its Dockerfile compiles it.
func warm(ctx context.Context, cache string) error {
	cmd := process.Command(ctx, "go", "build", "-trimpath", "net/http", "log/slog", "os/signal", "encoding/json")
	cmd.Env = process.Env("GOCACHE="+cache, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=")
	_, err := process.Capture(ctx, cmd)
	return err
}

type layer struct{ *tar.Writer }

func (l *layer) file(name, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	err = l.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()})
	if err != nil {
		return err
	}
	_, err = io.Copy(l, file)
	return err
}

// tree adds the files below root, as they would be below name, but for those that skip wants left out.
func (l *layer) tree(name, root string, skip func(string) bool) error {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	return fs.WalkDir(os.DirFS(root), ".", func(inner string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case skip(inner) && entry.IsDir():
			return fs.SkipDir
		case skip(inner), !entry.IsDir() && !entry.Type().IsRegular():
			return nil
		case entry.IsDir():
			return l.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path.Join(name, inner) + "/", Mode: 0o755})
		}
		return l.file(path.Join(name, inner), filepath.Join(root, filepath.FromSlash(inner)))
	})
}
