package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
)

// BuildOptions says what Engine.Build builds.
type BuildOptions struct {
	// Context is the folder that is sent to the engine; default ".". A .dockerignore file in it is honoured, and in its
	// place, where there is one, the file named like the Dockerfile with ".dockerignore" added.
	Context string
	// Without are more patterns, in the form of .dockerignore, of what is not sent; default none.
	Without []string
	// Dockerfile is a file inside Context, relative to it; default "Dockerfile".
	Dockerfile string
	// Tags are the references that the image gets, each with its tag; default none.
	Tags []string
	// Args are the values of the Dockerfile's ARG instructions. They stay readable in the image's history, so they are no
	// place for secrets.
	Args map[string]string
	// Labels are added to the image.
	Labels map[string]string
	// Target is the stage of the Dockerfile to build; default the last one.
	Target string
	// Platform is what to build for, "linux/arm64" for example; default the engine's own.
	Platform string
	// Network is what the steps can reach: "none", "host", or the name of a network of the engine; default the engine's own.
	Network string
	// NoCache builds every step, also those that have been built before.
	NoCache bool
	// Pull asks the registries for each base image, also where the engine has it; default: only for those that it does not have.
	Pull bool
	// Builder is BuildKit or Legacy; default what DOCKER_BUILDKIT says (1 or 0), else Legacy for a Network that BuildKit does not have,
	// else what the engine builds with by itself.
	Builder Builder
	// Secrets are what `RUN --mount=type=secret,id=ID` sees, by ID. They are in no layer and in no log. They need BuildKit.
	Secrets map[string][]byte
	// Logins are for the registries of the base images; those that are missing come from Docker's configuration.
	Logins []Auth
	// Output receives the build's progress as plain text; default process.Output(ctx), that is stderr.
	Output io.Writer
	// Doing is told of each step that begins; default nobody.
	Doing func(step string)
}

// Builder is a way in which engines build.
type Builder string

const (
	// BuildKit builds stages in parallel, and only those that are needed. Engines have it since 18.09, and build with it by
	// themselves since 23.0.
	BuildKit Builder = "buildkit"
	// Legacy is the builder of older engines, and of Podman's.
	Legacy Builder = "legacy"
)

func (o BuildOptions) builder(engines Builder) (Builder, error) {
	chosen := cmp.Or(o.Builder, engines)
	if o.Builder == "" && o.ofTheEngine() {
		chosen = Legacy
	}
	if wish := os.Getenv("DOCKER_BUILDKIT"); o.Builder == "" && wish != "" {
		on, err := strconv.ParseBool(wish)
		if err != nil {
			return "", fmt.Errorf("DOCKER_BUILDKIT is %q; set it to 1 or 0", wish)
		}
		chosen = Legacy
		if on {
			chosen = BuildKit
		}
	}
	switch {
	case chosen == Legacy && engines == BuildKit && len(o.Secrets) > 0 && o.ofTheEngine():
		return "", fmt.Errorf("secrets need BuildKit, whose steps reach no network %q; make it none, host or default, or do without secrets", o.Network)
	case chosen != BuildKit && chosen != Legacy:
		return "", fmt.Errorf("there is no builder %q; it can be %s or %s", chosen, BuildKit, Legacy)
	case chosen == Legacy && len(o.Secrets) > 0:
		return "", errors.New("secrets need BuildKit, which this engine does not build with; update it, or set DOCKER_BUILDKIT=1 where it has it")
	}
	return chosen, nil
}

// ofTheEngine says that Network is one of the engine's own, which BuildKit refuses.
func (o BuildOptions) ofTheEngine() bool {
	return o.Network != "" && o.Network != "default" && o.Network != "none" && o.Network != "host"
}

// Build builds the image and returns its ID ("sha256:…"), which is local to the engine and not the digest that a
// registry will give it. The context is streamed, it is never whole in memory; BuildKit asks only for
// what has changed in the folder since it built from it last, by size and time. A Dockerfile that is missing, unreadable,
// empty or outside the context is an error before anything is sent. When the build fails, the error is the engine's own
// with the step that failed, its line in the Dockerfile and the end of its output. Cancelling ctx ends the build, and the step that an
// engine is at; Podman (seen with 4.3) lets that one run to its end.
func (e *Engine) Build(ctx context.Context, o BuildOptions) (string, error) {
	for _, tag := range o.Tags {
		if err := checkTagged(tag); err != nil {
			return "", fmt.Errorf("building an image: %w", err)
		}
	}
	builder, err := o.builder(e.builder)
	if err != nil {
		return "", fmt.Errorf("building an image: %w", err)
	}
	if o.Builder == "" && builder != e.builder && o.ofTheEngine() {
		zerolog.Ctx(ctx).Info().Str("network", o.Network).Msg("BuildKit's steps reach no network of the engine, so the builder before it builds")
	}
	o.Builder = builder
	files, err := openBuildContext(o.Context, o.Dockerfile, o.Without...)
	if err != nil {
		return "", fmt.Errorf("building an image: %w", err)
	}
	defer files.Close()
	if o.Output == nil {
		o.Output = process.Output(ctx)
	}
	o.addLogins(ctx, string(files.content))
	id, err := e.build(ctx, files, o)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("building %s: %w", files.name(), err)
	}
	zerolog.Ctx(ctx).Debug().Str("id", id).Strs("tags", o.Tags).Str("builder", string(builder)).Msg("built the image")
	return id, nil
}

// addLogins adds those that Docker's configuration has for the registries of the base images.
func (o *BuildOptions) addLogins(ctx context.Context, dockerfile string) {
	images, err := baseImages(dockerfile, o.Args)
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("not all base images are known, nor whether they need a login")
	}
	o.Logins = slices.Clone(o.Logins)
	for _, image := range images {
		login, err := Registry{}.Auth(ctx, image)
		known := slices.ContainsFunc(o.Logins, func(a Auth) bool { return sameRegistry(a.Host, login.Host) })
		switch {
		case err != nil:
			zerolog.Ctx(ctx).Debug().Err(err).Str("image", image).Msg("the base image is asked for without a login")
		case !login.Anonymous() && !known:
			o.Logins = append(o.Logins, login)
		}
	}
}

func (e *Engine) build(ctx context.Context, files *buildContext, o BuildOptions) (id string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	send := e.sendContext
	if o.Builder == BuildKit {
		send = e.openBuildSession
	}
	body, sent, err := send(ctx, files, o)
	defer func() {
		// What stopped the sending is the cause, unless it was stopped because something else had failed.
		if failed := sent(); failed != nil && err != nil && !errors.Is(failed, io.ErrClosedPipe) {
			err = failed
		}
	}()
	if err != nil {
		return "", err
	}
	defer body.Close()
	err = follow(body, watcher{w: o.Output, doing: o.Doing, aux: func(aux json.RawMessage) {
		var result struct{ ID string }
		if json.Unmarshal(aux, &result) == nil && result.ID != "" {
			id = result.ID
		}
	}})
	var failed *streamError
	if errors.As(err, &failed) {
		failed.line = lineOf(string(files.content), failed.step)
	}
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", errors.New("the engine's answer ended before it named an image; look at the engine's log")
	}
	return id, nil
}

// openBuildSession begins a build by BuildKit, which asks for the files that it needs and has not got. sent ends that, and says what stopped it.
func (e *Engine) openBuildSession(ctx context.Context, files *buildContext, o BuildOptions) (body io.ReadCloser, sent func() error, err error) {
	s := newBuildSession(files, o.Logins, o.Secrets)
	conn, err := e.openSession(ctx, s.headers())
	if err != nil {
		return nil, func() error { return nil }, fmt.Errorf("opening a session with BuildKit: %w", err)
	}
	serveCtx, stop := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(serveCtx, conn) })
	sent = func() error {
		stop()
		serving.Wait()
		return s.failure()
	}
	body, err = e.startBuild(ctx, nil, files.dockerfile, s.id, o)
	return body, sent, err
}

// sendContext begins a build by the builder before BuildKit, and streams the context to it. sent ends that, and says what stopped it.
func (e *Engine) sendContext(ctx context.Context, files *buildContext, o BuildOptions) (body io.ReadCloser, sent func() error, err error) {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := files.write(ctx, w)
		w.CloseWithError(err)
		done <- err
	}()
	sent = func() error {
		// Closing the reader wakes the writer up, wherever it is, and waiting for it keeps its files open until then.
		r.Close()
		return <-done
	}
	body, err = e.startBuild(ctx, r, files.dockerfile, "", o)
	return body, sent, err
}

// Push pushes one tag, and no other tag of its repository, with the login that r has for it. It returns the digest that
// the image has in the registry ("sha256:…"), from the engine where it says so and otherwise from the registry. Where the registry is
// busy, or its connection with the engine breaks, it is tried again as r says.
func (e *Engine) Push(ctx context.Context, reference string, r Registry) (string, error) {
	if err := checkTagged(reference); err != nil {
		return "", fmt.Errorf("pushing an image: %w", err)
	}
	s, err := r.session(ctx, "pushing", reference)
	if err != nil {
		return "", err
	}
	var digest string
	err = s.retryIf(ctx, passingPush, func() (err error) {
		digest, err = e.push(ctx, reference, s.login.auth)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", s.explainEngine(err)
	}
	if digest == "" {
		return r.Digest(ctx, reference)
	}
	return digest, nil
}

func (e *Engine) push(ctx context.Context, reference string, auth Auth) (digest string, err error) {
	body, err := e.startPush(ctx, reference, auth)
	if err != nil {
		return "", err
	}
	defer body.Close()
	err = follow(body, watcher{w: process.Output(ctx), aux: func(aux json.RawMessage) {
		var result struct{ Digest string }
		if json.Unmarshal(aux, &result) == nil && strings.HasPrefix(result.Digest, "sha256:") {
			digest = result.Digest
		}
	}})
	return digest, err
}

// checkTagged refuses a reference that does not name one tag, since its user would mean another image than the engine.
func checkTagged(reference string) error {
	ref, err := parseReference(reference)
	if err != nil {
		return err
	}
	if _, ok := ref.(name.Tag); !ok {
		return fmt.Errorf("%q names a digest; give it a tag", reference)
	}
	return nil
}
