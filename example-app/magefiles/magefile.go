// The example service's pipeline. Each target is Grimoire's; which there are, and in which order they run, is said here.
package main

import (
	"context"

	"github.com/magefile/mage/mg"

	"github.com/grimoire-build/grimoire/targets"
	"github.com/grimoire-build/grimoire/targets/deploy"
	"github.com/grimoire-build/grimoire/targets/image"
)

func init() {
	// The environment goes before what is said here. What neither says comes from the module, git, the Dockerfile and the
	// manifests: `mage settings` lists all of it.
	targets.Configure(targets.Service{
		Test: targets.TestSettings{Coverage: 75},
	})
}

// Lint checks the Go files: gofmt, go.mod and go.sum, go vet, staticcheck.
func Lint(ctx context.Context) error { return targets.Lint(ctx) }

// Vet runs go vet.
func Vet(ctx context.Context) error { return targets.Vet(ctx) }

// Test runs the tests, with coverage and a JUnit report in build/.
func Test(ctx context.Context) error { return targets.Test(ctx) }

// Image builds the service's image.
func Image(ctx context.Context) error { return image.Image(ctx) }

// Push pushes the image, which Image builds before it, and prints its reference by digest.
func Push(ctx context.Context) error { return image.Push(ctx) }

// Deploy deploys the image, which Push pushes before it, and waits until it is live.
func Deploy(ctx context.Context) error { return deploy.Deploy(ctx) }

// CI runs what a change has to pass, the cheap checks first. Nothing leaves the machine.
func CI(ctx context.Context) error {
	mg.CtxDeps(ctx, Lint)
	mg.CtxDeps(ctx, Test)
	mg.CtxDeps(ctx, Image)
	return targets.Stage(ctx, "ci", nil)
}

// Settings lists every setting with its value and where that came from.
func Settings(ctx context.Context) error { return targets.Settings(ctx) }
