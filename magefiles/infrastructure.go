//go:build mage

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/sandbox"
	"github.com/grimoire-build/grimoire/internal/testcluster"
	"github.com/grimoire-build/grimoire/internal/testengine"
	"github.com/grimoire-build/grimoire/targets"
)

// stopping is how long a cluster or an engine may take to be gone.
const stopping = time.Minute

// Cluster is a real Kubernetes cluster of one node on this machine, for the tests and for people.
type Cluster mg.Namespace

// Up starts the cluster: Linux, root, and Debian's packages containerd, runc, containernetworking-plugins, iptables and iproute2.
//
// Kubernetes itself is built from its Go modules the first time, which takes ten minutes or more on two cores; after that
// the cluster is up in a quarter of a minute. It stays up until cluster:down. Its kubeconfig is build/cluster/kubeconfig, its
// context grimoire; its pods can be of any image in a registry on this machine's loopback, and reach nothing outside.
func (Cluster) Up(
	ctx context.Context,
	until *int, // end it with the process of this id, as well as by cluster:down
) error {
	return targets.Stage(ctx, "cluster:up", func(ctx context.Context) error {
		kubeconfig := filepath.Join(testcluster.SharedDir, "kubeconfig")
		if _, err := os.Stat(kubeconfig); err == nil && sandbox.Running(testcluster.SharedDir) {
			zerolog.Ctx(ctx).Info().Msg("the cluster is up already")
		} else if _, err := testcluster.Start(ctx, testcluster.Options{
			Dir: testcluster.SharedDir, Detach: true, Until: deref(until), Progress: telling(ctx),
		}); err != nil {
			return err
		}
		fmt.Printf("export KUBECONFIG='%s'   # then: go run . demo -context=%s\n", absolute(kubeconfig), testcluster.ContextName)
		return nil
	})
}

// Down ends the cluster and removes everything of it, also after a crash.
func (Cluster) Down(ctx context.Context) error {
	return down(ctx, "cluster:down", testcluster.SharedDir)
}

// Status says whether the cluster is up, and what runs on it.
func (Cluster) Status(ctx context.Context) error {
	return targets.Stage(ctx, "cluster:status", func(ctx context.Context) error {
		if !sandbox.Running(testcluster.SharedDir) {
			fmt.Println("the cluster is down; go run . cluster:up starts it")
			return nil
		}
		exe, err := testcluster.Built(ctx)
		if err != nil {
			return err
		}
		cmd := process.Command(ctx, exe, "kubectl", "--kubeconfig", filepath.Join(testcluster.SharedDir, "kubeconfig"),
			"get", "nodes,pods", "--all-namespaces", "--output=wide")
		cmd.Stdout = os.Stdout
		return process.Run(ctx, cmd)
	})
}

// Engine is a Docker Engine of our own on this machine, for tests and for machines where none runs.
type Engine mg.Namespace

// Up starts the engine: Linux, root, and Debian's packages docker.io and busybox-static.
//
// It has a stand-in for the base image of the example service's Dockerfile, made of busybox and this machine's Go, since not every
// machine can pull. Steps of a build have no network. It stays up until engine:down.
func (Engine) Up(
	ctx context.Context,
	until *int, // end it with the process of this id, as well as by engine:down
) error {
	return targets.Stage(ctx, "engine:up", func(ctx context.Context) error {
		if sandbox.Running(testengine.SharedDir) {
			zerolog.Ctx(ctx).Info().Msg("the engine is up already")
		} else if _, err := testengine.Start(ctx, testengine.Options{
			Dir: testengine.SharedDir, Detach: true, Until: deref(until), StandIns: true, Progress: telling(ctx),
		}); err != nil {
			return err
		}
		fmt.Printf("export DOCKER_HOST='unix://%s'   # then: go run . demo -docker\n", absolute(testengine.Socket(testengine.SharedDir)))
		return nil
	})
}

// Down ends the engine and removes everything of it, also after a crash.
func (Engine) Down(ctx context.Context) error { return down(ctx, "engine:down", testengine.SharedDir) }

func down(ctx context.Context, name, dir string) error {
	return targets.Stage(ctx, name, func(ctx context.Context) error { return sandbox.Down(ctx, dir, stopping) })
}

func telling(ctx context.Context) func(string) {
	return func(step string) { zerolog.Ctx(ctx).Info().Msg(step) }
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
