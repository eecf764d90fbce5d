//go:build mage

// Grimoire's own build, made of its own targets. The image, push and deploy targets run the example service's pipeline,
// which has a magefile of its own in example-app/magefiles.
package main

import (
	"context"
	"os"

	"github.com/magefile/mage/mg"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/targets"
)

func init() {
	targets.Configure(targets.Service{
		// The longest tests build images and magefiles; two slow cores need their time.
		Test: targets.TestSettings{Timeout: testTimeout},
	})
}

// Lint checks the Go files of every module here: gofmt, go.mod and go.sum, go vet, staticcheck.
func Lint(ctx context.Context) error { return targets.Lint(ctx) }

// Vet runs go vet in every module here.
func Vet(ctx context.Context) error { return targets.Vet(ctx) }

// Test runs the tests of Grimoire and of the example service, with coverage and a JUnit report in build/.
func Test(ctx context.Context) error {
	mg.SerialCtxDeps(ctx, targets.Test, exampleTest)
	return nil
}

// CI runs what a change has to pass, the cheap checks first.
func CI(ctx context.Context) error {
	mg.CtxDeps(ctx, Lint)
	mg.CtxDeps(ctx, Test)
	return nil
}

// Image builds the example service's image.
func Image(ctx context.Context) error { return example(ctx, "image") }

// Push pushes the example service's image and prints its reference by digest.
func Push(ctx context.Context) error { return example(ctx, "push") }

// Deploy deploys the example service, to the cluster or environment repository that the settings name.
func Deploy(ctx context.Context) error { return example(ctx, "deploy") }

func exampleTest(ctx context.Context) error { return example(ctx, "test") }

// example runs a target of the example service's own magefile.
func example(ctx context.Context, target string) error {
	return targets.Stage(ctx, "example "+target, func(ctx context.Context) error {
		cmd := process.Command(process.WithGrace(ctx, mageGrace), "go", "tool", "mage", "-d", "example-app", target)
		cmd.Stdout = os.Stdout
		return process.Run(ctx, cmd)
	})
}
