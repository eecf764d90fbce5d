//go:build mage

package main

import (
	"context"
	"os"
	"time"

	"github.com/grimoire-build/grimoire/internal/demo"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/targets"
)

const (
	testTimeout = 30 * time.Minute // of the tests of one package, on a machine that has much else to do
	// mageGrace is longer than the grace of what mage runs, so that the inner pipeline can end its own children first.
	mageGrace = process.Grace + 1500*time.Millisecond
)

// Demo takes the example service from source to a deployment: lint, vet, test, image, push, deploy.
//
// The image goes to a registry that the demo runs on loopback, and by digest into an environment repository; what it made
// stays under build/demo. It needs Go and git, and no Docker, cluster or root.
func Demo(
	ctx context.Context,
	context *string, // deploy to this kube context instead of the environment repository; its nodes have to be able to pull from REGISTRY_HOST, or from this machine's loopback
	docker *bool, // build the Dockerfile with a Docker Engine instead of the Go packages without one
	serve *bool, // keep the registry up at the end, until Ctrl-C, to pull from
) error {
	dir := "build/demo"
	if deref(docker) {
		dir = "build/demo/docker" // another builder makes another image of the same commit
	}
	return runDemo(ctx, demo.Options{
		Service: "example-app",
		Dir:     dir,
		Context: deref(context),
		Docker:  deref(docker),
		Serve:   deref(serve),
		Mage:    []string{"go", "tool", "mage"},
		Grace:   mageGrace,
		Account: os.Stdout,
	})
}

// runDemo is apart from Demo because there context is a parameter: mage names flags after parameters.
func runDemo(ctx context.Context, o demo.Options) error {
	return targets.Stage(ctx, "demo", func(ctx context.Context) error { return demo.Run(ctx, o) })
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
