package targets

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"github.com/grimoire-build/grimoire/internal/atomicfile"
	"github.com/grimoire-build/grimoire/internal/imagesource"
	"github.com/grimoire-build/grimoire/internal/settings"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// Stage runs body as a stage of the pipeline, as the targets of this package run: name is in every
// log record and error, body runs once in a process, its child processes end with it, its panic is
// contained, and its time and result stand in build/pipeline.json. A service's own target is one by
// this one call, after what it needs:
//
//	// Migrate brings the database up to date.
//	func Migrate(ctx context.Context) error {
//		mg.CtxDeps(ctx, Test)
//		return targets.Stage(ctx, "migrate", func(ctx context.Context) error { … })
//	}
//
// After a stage has failed no other begins, unless it has the option Always.
//
// A target that only puts others in order is one too, with a nil body: the run's account comes when
// the stage of the target that was asked for has ended.
func Stage(ctx context.Context, name string, body func(context.Context) error, options ...StageOption) error {
	var all []stage.Option
	for _, o := range options {
		all = append(all, o.option)
	}
	if err := checkEnvironment(); err != nil {
		body = func(context.Context) error { return err }
		all = append(all, stage.Plan(func(context.Context) (string, error) { return "", err }))
	}
	return stage.Run(ctx, name, body, all...)
}

// checkEnvironment warns, with the first stage of the run, of variables that are nearly settings.
// The error is one for which nothing may run.
var checkEnvironment = sync.OnceValue(func() error {
	// What is wrong with the settings, who needs them says.
	service, _, _, err := resolve(asConfigured(), os.Getenv)
	if err != nil {
		service = asConfigured()
	}
	if err := settings.Refusal(os.Environ(), service.own()); err != nil {
		return err
	}
	for _, m := range settings.Misspelt(os.Environ(), service.own()) {
		stage.Warn(m.String())
	}
	return nil
})

// StageOption changes how Stage runs a body. Plan and Always are the ones there are.
type StageOption struct{ option stage.Option }

// Plan is an option of Stage: what DRY_RUN=1 calls in place of the body, to say what that would do.
// It touches nothing.
func Plan(plan func(context.Context) (string, error)) StageOption {
	return StageOption{stage.Plan(plan)}
}

// Always is an option of Stage: it runs even after another stage has failed, as what cleans up or
// tells somebody has to.
func Always() StageOption { return StageOption{stage.Always()} }

// Skip returns an error by which a body says that there is nothing to do. The stage is reported as
// skipped, for that reason; it has not failed.
func Skip(reason string) error { return stage.Skip(reason) }

// MayPublish returns nil where this run may change what others see, as Push and Deploy do. In a CI
// run for a pull request, from a merge queue, or where that cannot be told, it returns the error by
// which the stage is skipped, unless the service's AllowPullRequest is true.
func MayPublish(s Service) error {
	if err := stage.Publish(s.AllowPullRequest); err != nil {
		return stage.Skip(err.Error())
	}
	return nil
}

// ServiceStage is Stage for a body that works on the service: it gets the settings, and what is
// wrong with them is the stage's error. In a dry run plan is called in place of it, where there is
// one.
func ServiceStage(
	ctx context.Context,
	name string,
	body func(context.Context, Service) error,
	plan func(context.Context, Service) (string, error),
) error {
	var options []StageOption
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

// hide has the secrets of the image struck out of what is printed, which the magefile may have
// named.
func (s Service) hide() {
	for _, name := range s.Image.Secrets {
		stage.AddSecret(os.Getenv(name))
	}
}

func init() {
	stage.Known("lint", "vet", "test")
	stage.WatchCycles()
}

// ignore makes the folder for what a run makes, and has git leave it alone: else what a run made
// would be a change that no commit holds.
func ignore(build string) error {
	file := filepath.Join(build, ".gitignore")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	return atomicfile.Write(file, []byte("*\n"))
}

// ProvideImage says where Deploy gets the image from that it deploys. The package targets/image
// does so when a magefile imports it; a magefile that builds its image otherwise calls it in its
// init. The provider returns a reference by digest, after whatever has to run for it.
func ProvideImage(provider func(context.Context) (string, error)) { imagesource.Provide(provider) }
