// Package demo takes a service from source to a deployment on a machine that has nothing but Go and git: it serves a
// registry on loopback, keeps an environment repository, and runs the service's own pipeline against them.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/docker/registryserver"
	"github.com/grimoire-build/grimoire/internal/atomicfile"
	"github.com/grimoire-build/grimoire/internal/checkout"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/settings"
)

// Options says what a demo runs.
type Options struct {
	// Service is the folder of the service; it has magefiles with the targets ci and deploy.
	Service string
	// Dir is the folder for what the demo makes.
	Dir string
	// Context is the kube context to deploy to. Its nodes have to be able to pull from the demo's registry, on this machine's
	// loopback, or else REGISTRY_HOST names one that they can pull from. Default: none, the demo deploys to an
	// environment repository.
	Context string
	// Docker has the image built from the Dockerfile by a Docker Engine. Default: from the Go packages, without one.
	Docker bool
	// Serve keeps the registry up until the context ends. With Context, and a registry of the user's, there is none.
	Serve bool
	// Mage is the command line that starts mage.
	Mage []string
	// Grace is how long a cancelled pipeline has to end its own children.
	Grace time.Duration
	// Account gets the account of the run.
	Account io.Writer
}

// Run runs the demo. It returns the pipeline's error, with its exit code, and ends the registry whatever happens.
func Run(ctx context.Context, o Options) error {
	start := time.Now()
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the folder of the demo: %w", err)
	}
	var kept string // where the registry keeps its content
	env := []string{"IMAGE_BUILDER=go"}
	if o.Docker {
		// The service is of the standard library alone, so its steps need no network.
		env[0] = "IMAGE_BUILDER=engine"
		env = append(env, "IMAGE_NETWORK=none")
	}
	if host := os.Getenv("REGISTRY_HOST"); o.Context != "" && host != "" {
		// A cluster elsewhere cannot pull from this machine's loopback.
		env = append(env, "REGISTRY_HOST="+host, "REGISTRY_USER="+os.Getenv("REGISTRY_USER"), "REGISTRY_PASS="+os.Getenv("REGISTRY_PASS"))
	} else {
		registry, err := serveRegistry(filepath.Join(dir, "registry"), filepath.Join(dir, "registry.address"))
		if err != nil {
			return err
		}
		defer registry.close()
		zerolog.Ctx(ctx).Info().Str("registry", registry.host).Msg("a registry is up on loopback, for as long as this runs")
		env = append(env, "REGISTRY_HOST="+registry.host)
		kept = relative(filepath.Join(dir, "registry"))
	}
	var repo *environment
	if o.Context != "" {
		env = append(env, "KUBE_CONTEXT="+o.Context)
	} else {
		repo, err = openEnvironment(ctx, filepath.Join(dir, "environment.git"), filepath.Join(o.Service, "deploy"), filepath.Base(o.Service))
		if err != nil {
			return err
		}
		env = append(env, "ENVIRONMENT_REPOSITORY="+repo.dir, "ENVIRONMENT_PATH="+filepath.Base(o.Service))
	}
	tree, err := checkout.Read(ctx, o.Service)
	if err != nil {
		return err
	}
	if tree.Dirty() || tree.Commit == "" {
		env = append(env, "ALLOW_DIRTY=true")
		zerolog.Ctx(ctx).Warn().Msg("the files here are in no commit; a real push would refuse them, the demo's does not")
	}

	reference, err := pipeline(ctx, o, env)
	if err != nil {
		return err
	}
	account := account{
		service:   filepath.Base(o.Service),
		tag:       tree.Tag(),
		reference: reference,
		registry:  kept,
		context:   o.Context,
		took:      time.Since(start),
	}
	run, err := report.Read(filepath.Join(o.Service, "build", "pipeline.json"))
	if err != nil {
		return err
	}
	account.stages = run.Stages
	if repo != nil {
		if account.deployed, err = repo.head(ctx); err != nil {
			return err
		}
		account.environment = relative(repo.dir)
		account.already = account.deployed.hash == repo.before
	}
	if err := account.write(o.Account, o.Serve); err != nil {
		return err
	}
	if o.Serve {
		<-ctx.Done()
	}
	return nil
}

// pipeline runs the service's own targets and returns the reference that they print.
func pipeline(ctx context.Context, o Options, env []string) (string, error) {
	args := append(append([]string(nil), o.Mage[1:]...), "-d", o.Service, "ci", "deploy")
	cmd := process.Command(process.WithGrace(ctx, o.Grace), o.Mage[0], args...)
	cmd.Env = append(append(cleanEnv(os.Environ()), env...), "PIPELINE_TABLE=off", // the account has it
		"ALLOW_PULL_REQUEST=true") // nothing leaves the machine
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	zerolog.Ctx(ctx).Info().Msgf("running mage ci deploy in %s; the first time, its magefile is compiled for a minute or so", o.Service)
	if err := process.Run(ctx, cmd); err != nil {
		return "", fmt.Errorf("%w; the reason stands above", err)
	}
	reference := lastLine(stdout.String())
	if reference == "" {
		return "", errors.New("the pipeline printed no image; the reason stands above")
	}
	return reference, nil
}

// cleanEnv drops what would make the demo another one on another machine: a login, a cluster, a registry of the user's.
func cleanEnv(environ []string) []string {
	kept := environ[:0:0]
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		switch {
		case settings.Ours(name), strings.HasPrefix(name, "MAGEFILE_"), name == "GITHUB_OUTPUT", name == "GITHUB_STEP_SUMMARY":
		default:
			kept = append(kept, entry)
		}
	}
	return kept
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// relative is a path as a person in this folder would write it.
func relative(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, path); err == nil {
			return rel
		}
	}
	return path
}

// registry is an OCI registry on loopback.
type registry struct {
	host   string
	server *http.Server
	done   chan error
}

// serveRegistry serves the registry in dir on the address that the file at remembered holds, so that a second demo finds the
// references of the first; on a free port where there is no such file, or where the port has been taken since.
func serveRegistry(dir, remembered string) (*registry, error) {
	handler, err := registryserver.New(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the demo's registry: %w; remove %s to begin anew", err, dir)
	}
	listener, err := listenAgain(remembered)
	if err != nil {
		return nil, fmt.Errorf("starting the demo's registry: %w", err)
	}
	r := &registry{
		host:   listener.Addr().String(),
		server: &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute},
		done:   make(chan error, 1),
	}
	go func() { r.done <- r.server.Serve(listener) }()
	return r, nil
}

func listenAgain(remembered string) (net.Listener, error) {
	if data, err := os.ReadFile(remembered); err == nil {
		if host, _, err := net.SplitHostPort(string(data)); err == nil && host == "127.0.0.1" {
			if listener, err := net.Listen("tcp", string(data)); err == nil {
				return listener, nil
			}
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return listener, atomicfile.Write(remembered, []byte(listener.Addr().String()))
}

func (r *registry) close() {
	_ = r.server.Close()
	<-r.done
}

// environment is a bare git repository that holds the service's manifests, as a team's environment repository would.
type environment struct {
	dir    string
	before string // the commit before the deployment
}

// openEnvironment makes the repository where it is not there, with the manifests as its first commit.
func openEnvironment(ctx context.Context, dir, manifests, name string) (*environment, error) {
	e := &environment{dir: dir}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		at, err := e.head(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w; remove %s to begin anew", err, dir)
		}
		e.before = at.hash
		return e, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}

	// Made beside its place and renamed: a demo that is stopped here leaves nothing that the next one would trip over.
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".environment.*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	work, bare := filepath.Join(tmp, "work"), filepath.Join(tmp, "environment.git")
	if err := os.CopyFS(filepath.Join(work, name), os.DirFS(manifests)); err != nil {
		return nil, fmt.Errorf("copying the manifests into the environment repository: %w", err)
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main", work},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=grimoire", "-c", "user.email=grimoire@localhost", "-c", "commit.gpgsign=false",
			"commit", "--quiet", "--no-verify", "--message", "Add " + name + " with its manifests"},
		{"clone", "--quiet", "--bare", "--no-local", work, bare},
		{"-C", bare, "remote", "remove", "origin"},
	} {
		if _, err := process.Capture(ctx, process.Command(ctx, "git", args...)); err != nil {
			return nil, fmt.Errorf("making the environment repository: %w", err)
		}
	}
	if err := os.Rename(bare, dir); err != nil {
		return nil, fmt.Errorf("making the environment repository: %w", err)
	}
	at, err := e.head(ctx)
	e.before = at.hash
	return e, err
}

// commit is what an environment repository holds.
type commit struct{ hash, subject, diff string }

// head returns the newest commit of the repository.
func (e *environment) head(ctx context.Context) (commit, error) {
	out, err := process.Capture(ctx, process.Command(ctx, "git", "-C", e.dir, "show", "--no-color", "--no-ext-diff",
		"--unified=0", "--format=%H%n%s%n", "HEAD"))
	if err != nil {
		return commit{}, fmt.Errorf("reading the environment repository: %w", err)
	}
	hash, rest, _ := strings.Cut(string(out), "\n")
	subject, diff, _ := strings.Cut(rest, "\n")
	return commit{hash: hash, subject: subject, diff: strings.TrimSpace(diff)}, nil
}
