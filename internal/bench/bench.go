// Package bench measures what Grimoire costs its users, as whole processes of the real commands: wall time, and the CPU time
// of the process with all that it started.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
)

// A magefile that imports packages, as a service's would.
const magefile = `//go:build mage

package main

import (
	"context"
%s)

// Noop does nothing.
func Noop(context.Context) error { return nil }

// Stage does nothing, as a stage with the service's settings and reports.
func Stage(ctx context.Context) error {
	return targets.ServiceStage(ctx, "stage", func(context.Context, targets.Service) error { return nil }, nil)
}
`

// shortRuns is how often what takes a few milliseconds is run; the median counts.
const shortRuns = 101

// median is in milliseconds.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Microseconds()) / 1000
}

// service is a module with a magefile in a temporary folder.
type service struct {
	dir string
	env []string
}

// Run measures with the Grimoire in root and writes a table to w.
func Run(ctx context.Context, root string, w io.Writer) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "grimoire-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	light, err := newService(ctx, root, filepath.Join(tmp, "light"), "targets")
	if err != nil {
		return err
	}
	full, err := newService(ctx, root, filepath.Join(tmp, "full"), "targets", "targets/image", "targets/deploy")
	if err != nil {
		return err
	}
	mage := filepath.Join(tmp, "mage")
	build := process.Command(ctx, "go", "build", "-o", mage, "github.com/magefile/mage")
	build.Dir = root
	if err := process.Run(ctx, build); err != nil {
		return err
	}

	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\tCPU ms\twall ms\t\n")
	measure := func(what string, s service, runs int, name string, args ...string) error {
		zerolog.Ctx(ctx).Info().Msg(what)
		var cpus, walls []time.Duration
		for range runs {
			cpu, wall, err := s.time(ctx, name, args...)
			if err != nil {
				return err
			}
			cpus, walls = append(cpus, cpu), append(walls, wall)
		}
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t\n", what, median(cpus), median(walls))
		return nil
	}
	here := service{dir: root, env: os.Environ()}
	for _, step := range []struct {
		what string
		s    service
		name string
		args []string
	}{
		{"compile, empty cache: targets", light, mage, []string{"noop"}},
		{"again: an empty target", light, mage, []string{"noop"}},
		{"again: an empty stage", light, mage, []string{"stage"}},
		{"compile, empty cache: targets, image, deploy", full, mage, []string{"noop"}},
		{"again: an empty target", full, mage, []string{"noop"}},
		{"go run . vet", here, "go", []string{"run", ".", "vet"}},
		{"go run . vet, again", here, "go", []string{"run", ".", "vet"}},
		{"go run . -l", here, "go", []string{"run", ".", "-l"}},
	} {
		if err := measure(step.what, step.s, 1, step.name, step.args...); err != nil {
			return fmt.Errorf("measuring %q: %w", step.what, err)
		}
	}
	for _, s := range []service{light, full} {
		if err := s.binary(ctx, mage, measure); err != nil {
			return err
		}
	}
	return table.Flush()
}

// newService makes a module whose magefile imports the packages, with a build cache of its own.
func newService(ctx context.Context, root, dir string, packages ...string) (service, error) {
	var imports strings.Builder
	for i, pkg := range packages {
		name := "_ "
		if i == 0 {
			name = ""
		}
		fmt.Fprintf(&imports, "\n\t//mage:import\n\t%s%q\n", name, "github.com/grimoire-build/grimoire/"+pkg)
	}
	s := service{dir: dir, env: process.Env("GOCACHE="+filepath.Join(dir, "gocache"), "MAGEFILE_CACHE="+filepath.Join(dir, "magecache"), "GOFLAGS=-mod=mod")}
	gomod := "module example.org/service\n\ngo 1.26.0\n\nrequire github.com/grimoire-build/grimoire v0.0.0\n\nreplace github.com/grimoire-build/grimoire => " + root + "\n"
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		return s, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return s, err
	}
	for name, text := range map[string]string{
		"go.mod":      gomod,
		"go.sum":      string(sums),
		"magefile.go": fmt.Sprintf(magefile, imports.String()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return s, err
		}
	}
	// Modules are fetched and the graph is settled now, so that compiling is all that is measured.
	list := process.Command(ctx, "go", "list", "-deps", "-tags=mage", ".")
	list.Dir, list.Env, list.Stdout = dir, s.env, io.Discard
	return s, process.Run(ctx, list)
}

// binary measures what a compiled magefile costs without mage.
func (s service) binary(ctx context.Context, mage string, measure func(string, service, int, string, ...string) error) error {
	exe := filepath.Join(s.dir, "magefile.exe")
	if _, _, err := s.time(ctx, mage, "-compile", exe); err != nil {
		return err
	}
	for _, target := range []string{"noop", "stage"} {
		if err := measure(fmt.Sprintf("the compiled magefile of %s: %s", filepath.Base(s.dir), target), s, shortRuns, exe, target); err != nil {
			return err
		}
	}
	return nil
}

// time runs a command and returns the CPU time of all its processes, and the wall time.
func (s service) time(ctx context.Context, name string, args ...string) (cpu, wall time.Duration, err error) {
	cmd := process.Command(ctx, name, args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	if strings.HasPrefix(name, s.dir) {
		cmd.Stdout, cmd.Stderr = nil, nil // of a hundred runs
	}
	start := time.Now()
	if err := process.Run(ctx, cmd); err != nil {
		return 0, 0, err
	}
	return cpuTime(cmd), time.Since(start), nil
}

func cpuTime(cmd *exec.Cmd) time.Duration {
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
