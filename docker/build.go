package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
)

// BuildOptions says what Engine.Build builds.
type BuildOptions struct {
	// Context is the folder that is sent to the engine; default ".". A .dockerignore file in it is honoured, and in its
	// place, where there is one, the file named like the Dockerfile with ".dockerignore" added.
	Context string
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
	// Logins are for the registries of the base images; default anonymous. Registry.Auth finds them.
	Logins []Auth
	// Output receives the build's progress as plain text; default process.Output(ctx), that is stderr.
	Output io.Writer
}

// Build builds the image and returns its ID ("sha256:…"), which is local to the engine and not the digest that a
// registry will give it. The context is streamed, it is never whole in memory. A Dockerfile that is missing, unreadable,
// empty or outside the context is an error before anything is sent. When the build fails, the error is the engine's own
// with the step that failed. Cancelling ctx ends the build.
func (e *Engine) Build(ctx context.Context, o BuildOptions) (string, error) {
	for _, tag := range o.Tags {
		if err := checkTagged(tag); err != nil {
			return "", fmt.Errorf("building an image: %w", err)
		}
	}
	files, err := openBuildContext(o.Context, o.Dockerfile)
	if err != nil {
		return "", fmt.Errorf("building an image: %w", err)
	}
	defer files.Close()
	if o.Output == nil {
		o.Output = process.Output(ctx)
	}
	id, err := e.build(ctx, files, o)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("building %s: %w", files.name(), err)
	}
	zerolog.Ctx(ctx).Debug().Str("id", id).Strs("tags", o.Tags).Msg("built the image")
	return id, nil
}

func (e *Engine) build(ctx context.Context, files *buildContext, o BuildOptions) (id string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := files.write(ctx, w)
		w.CloseWithError(err)
		sent <- err
	}()
	defer func() {
		// Closing the reader wakes the writer up, wherever it is, and waiting for it keeps its files open until then. What
		// stopped it is the cause, unless it was stopped because something else had failed.
		r.Close()
		if failed := <-sent; failed != nil && err != nil && !errors.Is(failed, io.ErrClosedPipe) {
			err = failed
		}
	}()

	body, err := e.startBuild(ctx, r, files.dockerfile, o)
	if err != nil {
		return "", err
	}
	defer body.Close()
	err = follow(body, o.Output, func(aux json.RawMessage) {
		var result struct{ ID string }
		if json.Unmarshal(aux, &result) == nil && result.ID != "" {
			id = result.ID
		}
	})
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", errors.New("the engine's answer ended before it named an image; look at the engine's log")
	}
	return id, nil
}

// Push pushes one tag, and no other tag of its repository, with the login that r has for it. It returns the digest that
// the image has in the registry ("sha256:…"), from the engine where it says so and otherwise from the registry.
func (e *Engine) Push(ctx context.Context, reference string, r Registry) (string, error) {
	if err := checkTagged(reference); err != nil {
		return "", fmt.Errorf("pushing an image: %w", err)
	}
	s, err := r.session(ctx, "pushing", reference)
	if err != nil {
		return "", err
	}
	digest, err := e.push(ctx, reference, s.login.auth)
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
	err = follow(body, process.Output(ctx), func(aux json.RawMessage) {
		var result struct{ Digest string }
		if json.Unmarshal(aux, &result) == nil && strings.HasPrefix(result.Digest, "sha256:") {
			digest = result.Digest
		}
	})
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
