package targets

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/grimoire-build/grimoire/internal/atomicfile"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// Stage runs body as a stage of the pipeline, as the targets of this package run: name is in every log record and error,
// body runs once in a process, its child processes end with it, its panic is contained, and its time and result stand in
// build/pipeline.json. A service's own target is one by this one call, after what it needs:
//
//	// Migrate brings the database up to date.
//	func Migrate(ctx context.Context) error {
//		mg.CtxDeps(ctx, Test)
//		return targets.Stage(ctx, "migrate", func(ctx context.Context) error { … })
//	}
//
// After a stage has failed no other begins, unless it has the option Always.
//
// A target that only puts others in order is one too, with a nil body: the run's account comes when the stage of the target
// that was asked for has ended.
func Stage(ctx context.Context, name string, body func(context.Context) error, options ...stage.Option) error {
	return stage.Run(ctx, name, body, options...)
}

// Plan is an option of Stage: what DRY_RUN=1 calls in place of the body, to say what that would do. It touches nothing.
func Plan(plan func(context.Context) (string, error)) stage.Option { return stage.Plan(plan) }

// Always is an option of Stage: it runs even after another stage has failed, as what cleans up or tells somebody has to.
func Always() stage.Option { return stage.Always() }

// Skip returns an error by which a body says that there is nothing to do. The stage is reported as skipped, for that reason;
// it has not failed.
func Skip(reason string) error { return stage.Skip(reason) }

// Publish returns the error by which Push and Deploy skip what they do in a CI run for a pull request, from a merge queue, or
// where that cannot be told; nil where they may go on. AllowPullRequest lets them go on anyway.
func Publish(s Service) error {
	if err := stage.Publish(s.AllowPullRequest); err != nil {
		return stage.Skip(err.Error())
	}
	return nil
}

// RunStage is Stage for a body that works on the service: it gets the settings, and what is wrong with them is the stage's
// error. In a dry run plan is called in place of it, where there is one.
func RunStage(ctx context.Context, name string, body func(context.Context, Service) error, plan func(context.Context, Service) (string, error)) error {
	var options []stage.Option
	if plan != nil {
		options = append(options, Plan(func(ctx context.Context) (string, error) {
			s, err := currentFor(name)
			if err != nil {
				return "", err
			}
			s.hide()
			return plan(ctx, s)
		}))
	}
	return Stage(ctx, name, func(ctx context.Context) error {
		s, err := currentFor(name)
		if err != nil {
			return err
		}
		s.hide()
		_ = ignore(filepath.Join(s.Dir, s.Build)) // who needs the folder says so
		stage.Report(filepath.Join(s.Dir, s.Build))
		stage.Describe(s.Name, "")
		return body(ctx, s)
	}, options...)
}

// hide has the secrets of the image struck out of what is printed, which the magefile may have named.
func (s Service) hide() {
	for name := range strings.FieldsSeq(s.Image.Secrets) {
		stage.AddSecret(os.Getenv(name))
	}
}

func init() {
	stage.Known("lint", "vet", "test")
	stage.WatchCycles()
}

// ignore makes the folder for what a run makes, and has git leave it alone: else what a run made would be a change that no
// commit holds.
func ignore(build string) error {
	file := filepath.Join(build, ".gitignore")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	return atomicfile.Write(file, []byte("*\n"))
}

var imageProvider struct {
	mu       sync.Mutex
	provider func(context.Context) (string, error)
}

// ProvideImage says where Deploy gets the image from that it deploys. The package targets/image does so when a magefile
// imports it; a magefile that builds its image otherwise calls it in its init. The provider returns a reference by digest,
// after whatever has to run for it.
func ProvideImage(provider func(context.Context) (string, error)) {
	imageProvider.mu.Lock()
	defer imageProvider.mu.Unlock()
	imageProvider.provider = provider
}

// PushedImage returns the image to deploy, by digest: the setting Deploy.Image, else what the provider says.
func PushedImage(ctx context.Context, s Service) (string, error) {
	if s.Deploy.Image != "" {
		if !strings.Contains(s.Deploy.Image, "@sha256:") {
			return "", fmt.Errorf("the setting Deploy.Image (DEPLOY_IMAGE) is %q, which may be another image tomorrow; write it by digest, name@sha256:…", s.Deploy.Image)
		}
		return s.Deploy.Image, nil
	}
	imageProvider.mu.Lock()
	provider := imageProvider.provider
	imageProvider.mu.Unlock()
	if provider == nil {
		return "", fmt.Errorf("there is no image to deploy; import the package targets/image in the magefile, or set DEPLOY_IMAGE to name@sha256:…")
	}
	return provider(ctx)
}

// Requested reports whether the command line asks for a target by name, in whatever namespace it was imported. What a
// target prints on stdout is for whoever asked for it, not for the targets that need it.
func Requested(name string) bool {
	for _, arg := range os.Args[1:] {
		if i := strings.LastIndexByte(arg, ':'); i >= 0 {
			arg = arg[i+1:]
		}
		if strings.EqualFold(arg, name) {
			return true
		}
	}
	return false
}
