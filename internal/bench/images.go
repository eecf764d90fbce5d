package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/docker/registryserver"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/testengine"
	"github.com/grimoire-build/grimoire/internal/testimage"
	"github.com/grimoire-build/grimoire/internal/tool"
)

const (
	// ko is what images of Go programs are built with elsewhere. Source: https://ko.build
	ko = "github.com/google/ko@v0.19.1"
	// larger is a service that many run, with its dependencies.
	larger = "github.com/nats-io/nats-server/v2@v2.15.2"
)

// The situations that are measured, in this order.
const (
	cold   = "cold"
	change = "one line changed"
	same   = "no change"
)

// builder is one way to build and push an image of a service.
type builder struct {
	name string
	args []string
	env  []string
	// engine says that the work is an engine's, whose CPU time nobody counts.
	engine bool
}

// Images measures how long it takes to build an image and to push it, in turn by each of the ways there are: this one and ko without
// an engine, this one and Docker's own command with one. Each is measured cold (its compiler's and engine's caches are empty, modules
// are there), after a line has been changed, and with no change, on the example service and on a larger one. Without root, Linux and
// dockerd the engine's part is left out, and says so. It takes rounds times some five minutes.
func Images(ctx context.Context, root string, rounds int, w io.Writer) (err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "grimoire-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	b := &imageBench{root: root, dir: tmp, rounds: rounds, out: w}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	handler, err := registryserver.New(filepath.Join(tmp, "registry"))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	b.registry = listener.Addr().String()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		make func(ctx context.Context, dir string) error
	}{
		{"the example service", b.example},
		{larger, b.larger},
	} {
		dir := filepath.Join(tmp, "service")
		if err := errors.Join(os.RemoveAll(dir), s.make(ctx, dir)); err != nil {
			return fmt.Errorf("preparing %s: %w", s.name, err)
		}
		if err := b.measure(ctx, s.name, dir); err != nil {
			return fmt.Errorf("measuring %s: %w", s.name, err)
		}
	}
	return nil
}

type imageBench struct {
	root, dir, registry string
	rounds              int
	out                 io.Writer

	grimoire, ko string // programs
	base         string
}

// prepare builds the programs, and the base that two of them build on.
func (b *imageBench) prepare(ctx context.Context) error {
	b.grimoire = filepath.Join(b.dir, "grimoire")
	magefiles, err := os.MkdirTemp(b.root, "_bench-") // inside the module, so that its go.mod says what everything is
	if err != nil {
		return err
	}
	defer os.RemoveAll(magefiles)
	imports := "\n\t//mage:import\n\t\"github.com/grimoire-build/grimoire/targets\"\n\t//mage:import\n\t_ \"github.com/grimoire-build/grimoire/targets/image\"\n"
	if err := os.WriteFile(filepath.Join(magefiles, "magefile.go"), fmt.Appendf(nil, magefile, imports), 0o644); err != nil {
		return err
	}
	if err := b.run(ctx, b.root, nil, "go", "run", ".", "-d", magefiles, "-compile", b.grimoire); err != nil {
		return err
	}
	_, version, _ := strings.Cut(ko, "@")
	b.ko, err = tool.Cached("ko", version, func(dir string) error {
		zerolog.Ctx(ctx).Info().Msg("building ko, once on this machine")
		return b.run(ctx, dir, []string{"GOBIN=" + dir, "GOFLAGS="}, "go", "install", ko)
	})
	if err != nil {
		return err
	}
	file := filepath.Join(b.dir, "base")
	if err := os.WriteFile(file, []byte("a base of one file\n"), 0o644); err != nil {
		return err
	}
	img, err := testimage.FromFiles(testimage.Config{}, map[string]string{"etc/base": file})
	if err != nil {
		return err
	}
	b.base = b.registry + "/base:1"
	ref, err := name.ParseReference(b.base)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithContext(ctx))
}

// example copies the example service.
func (b *imageBench) example(ctx context.Context, dir string) error {
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(b.root, "example-app"))); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "build")), os.RemoveAll(filepath.Join(dir, "magefiles"))); err != nil {
		return err
	}
	return b.commit(ctx, dir)
}

// larger copies the larger service out of the module cache, with its dependencies, so that an engine needs no network.
func (b *imageBench) larger(ctx context.Context, dir string) error {
	download := process.Command(ctx, "go", "mod", "download", "-json", larger)
	out, err := process.Capture(ctx, download)
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return err
	}
	if err := os.CopyFS(dir, os.DirFS(module.Dir)); err != nil {
		return err
	}
	if err := b.run(ctx, dir, nil, "chmod", "-R", "u+w", "."); err != nil {
		return err
	}
	dockerfile := "FROM " + testengine.GoImage + " AS build\nWORKDIR /src\nCOPY . .\nRUN CGO_ENABLED=0 go build -trimpath -o /app .\n" +
		"FROM scratch\nCOPY --from=build /app /app\nUSER 65532:65532\nENTRYPOINT [\"/app\"]\n"
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644), os.Remove(filepath.Join(dir, ".dockerignore"))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := b.run(ctx, dir, nil, "go", "mod", "vendor"); err != nil {
		return err
	}
	return b.commit(ctx, dir)
}

// commit commits everything in a folder.
func (b *imageBench) commit(ctx context.Context, dir string) error {
	env := []string{"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@example.org", "GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@example.org"}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A", "."}, {"commit", "-q", "--allow-empty", "-m", "a commit"}} {
		if err := b.run(ctx, dir, env, "git", args...); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command that is not measured.
func (b *imageBench) run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := process.Command(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, process.Env(env...)
	_, err := process.Capture(ctx, cmd)
	return err
}

func (b *imageBench) measure(ctx context.Context, service, dir string) (err error) {
	ours := func(more ...string) []string {
		return append(more, "REGISTRY_HOST="+b.registry, "IMAGE_BUILDER=go", "IMAGE_REPOSITORY=bench/ours", "IMAGE_LATEST=off")
	}
	err = b.table(ctx, service+", without an engine", dir, []builder{
		{name: "grimoire push", args: []string{b.grimoire, "push"}, env: ours("IMAGE_BASE=" + b.base)},
		{name: "ko build", args: []string{b.ko, "build", "--bare", "."}, env: []string{"KO_DOCKER_REPO=" + b.registry + "/bench/ko", "KO_DEFAULTBASEIMAGE=" + b.base}},
		{name: "grimoire push, on no base", args: []string{b.grimoire, "push"}, env: ours("IMAGE_REPOSITORY=bench/scratch")},
	})
	if err != nil {
		return err
	}
	if err := testengine.Supported(); err != nil {
		fmt.Fprintf(b.out, "left out: %s by an engine: %v\n", service, err)
		return nil
	}
	engine, err := testengine.Start(ctx, testengine.Options{StandIns: true, Progress: func(step string) { zerolog.Ctx(ctx).Info().Msg(step) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Stop()) }()
	// As many as ours have: to the builder before BuildKit each is a step.
	var labels []string
	for _, name := range []string{"title", "version", "source", "created", "revision", "settings", "inputs"} {
		labels = append(labels, "--label=bench."+name+"=1")
	}
	for _, kit := range []string{"1", "0"} {
		env := []string{"DOCKER_HOST=" + engine.Host, "DOCKER_BUILDKIT=" + kit}
		cli := dockerCLI(ctx, kit == "1")
		if cli == "" {
			fmt.Fprintf(b.out, "left out: %s by an engine with DOCKER_BUILDKIT=%s: no docker command here can do that\n", service, kit)
			continue
		}
		err := b.table(ctx, fmt.Sprintf("%s, by an engine, DOCKER_BUILDKIT=%s", service, kit), dir, []builder{
			{name: "grimoire image", args: []string{b.grimoire, "image"}, engine: true, env: append(env,
				"IMAGE_BUILDER=engine", "IMAGE_NETWORK=none", "REGISTRY_HOST=", "IMAGE_REPOSITORY=bench/ours")},
			{name: "docker build", args: slices.Concat([]string{cli, "build", "--network=none", "--platform=linux/amd64", "--tag=bench/docker:1"}, labels, []string{"."}), env: env, engine: true},
		})
		if err != nil {
			return err
		}
	}
	return err
}

// dockerCLI finds a docker command that can build, with BuildKit or without: those since 23.0 need a plugin for it.
func dockerCLI(ctx context.Context, buildKit bool) string {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		cli := filepath.Join(dir, "docker")
		out, _ := exec.CommandContext(ctx, cli, "version", "--format={{.Client.Version}}").Output() // it fails too where no engine answers
		var major int
		if _, err := fmt.Sscanf(string(out), "%d.", &major); err != nil {
			continue
		}
		if !buildKit || major < 23 || exec.CommandContext(ctx, cli, "buildx", "version").Run() == nil {
			return cli
		}
	}
	return ""
}

// times are those of one builder in one situation.
type times struct{ cpu, wall []time.Duration }

// table measures the builders in turn, so that what else the machine does meets all of them, and writes a table. Its first builder is
// what the others are compared with.
func (b *imageBench) table(ctx context.Context, title, dir string, builders []builder) error {
	all := map[string]map[string]*times{}
	for _, situation := range []string{cold, change, same} {
		all[situation] = map[string]*times{}
		for _, builder := range builders {
			all[situation][builder.name] = &times{}
		}
	}
	caches := map[string]string{}
	if builders[0].engine { // which loads the base image when it first builds on it
		if _, _, err := b.time(ctx, dir, builders[0], filepath.Join(b.dir, "warm")); err != nil {
			return err
		}
	}
	for round := range b.rounds {
		for i := range builders {
			builder := builders[(round+i)%len(builders)] // whoever begins finds a machine that has rested
			zerolog.Ctx(ctx).Info().Int("round", round+1).Str("builder", builder.name).Msg(title)
			for _, situation := range []string{cold, change, same} {
				if situation == cold {
					caches[builder.name] = filepath.Join(b.dir, fmt.Sprintf("caches-%d", time.Now().UnixNano()))
				}
				if situation != same {
					if err := b.edit(ctx, dir, situation == cold && builder.engine); err != nil {
						return err
					}
				}
				cpu, wall, err := b.time(ctx, dir, builder, caches[builder.name])
				if err != nil {
					return fmt.Errorf("%s, %s: %w", builder.name, situation, err)
				}
				t := all[situation][builder.name]
				t.cpu, t.wall = append(t.cpu, cpu), append(t.wall, wall)
			}
			if err := os.RemoveAll(caches[builder.name]); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(b.out, "\n%s, medians of %d\n", title, b.rounds)
	table := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\t\twall ms\tCPU ms\ttimes the first's wall\t\n")
	for _, situation := range []string{cold, change, same} {
		first := all[situation][builders[0].name]
		for _, builder := range builders {
			t := all[situation][builder.name]
			cpu := "an engine's"
			if !builder.engine {
				cpu = fmt.Sprintf("%.0f", median(t.cpu))
			}
			fmt.Fprintf(table, "%s\t%s\t%.0f\t%s\t%.2f\t\n", situation, builder.name, median(t.wall), cpu, median(t.wall)/median(first.wall))
		}
	}
	return table.Flush()
}

// edit changes a line of the program, and of the Dockerfile too where nothing of an engine's cache is to be used, and commits it.
func (b *imageBench) edit(ctx context.Context, dir string, dockerfile bool) error {
	now := time.Now().UnixNano()
	line := fmt.Sprintf("package main\n\nconst bench = %d\n\nfunc init() {\n\tif len(benched) == bench%%7 {\n\t\tprintln(bench)\n\t}\n}\n\nvar benched = \"%d\"\n", now, now)
	if err := os.WriteFile(filepath.Join(dir, "bench.go"), []byte(line), 0o644); err != nil {
		return err
	}
	if dockerfile {
		file := filepath.Join(dir, "Dockerfile")
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines := slices.DeleteFunc(strings.SplitAfter(string(content), "\n"), func(line string) bool { return strings.HasPrefix(line, "ENV BENCH=") })
		for i, line := range lines {
			if strings.HasPrefix(line, "FROM ") {
				lines[i] = fmt.Sprintf("%sENV BENCH=%d\n", line, now)
				break
			}
		}
		if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644); err != nil {
			return err
		}
	}
	return b.commit(ctx, dir)
}

// time runs a builder once, with caches of its own but for the modules.
func (b *imageBench) time(ctx context.Context, dir string, builder builder, caches string) (cpu, wall time.Duration, err error) {
	cmd := process.Command(ctx, builder.args[0], builder.args[1:]...)
	cmd.Dir = dir
	cmd.Env = process.Env(append(slices.Clone(builder.env), "GOCACHE="+filepath.Join(caches, "go"), "XDG_CACHE_HOME="+caches, "CI=", "KOCACHE=",
		"OTEL_EXPORTER_OTLP_ENDPOINT=")...)
	begun := time.Now()
	_, err = process.Capture(ctx, cmd)
	wall = time.Since(begun)
	return cpuTime(cmd), wall, err
}
