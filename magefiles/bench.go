//go:build mage

package main

import (
	"context"
	"os"

	"github.com/grimoire-build/grimoire/internal/bench"
	"github.com/grimoire-build/grimoire/targets"
)

// Bench measures what a magefile costs its users: the CPU and wall time of compiling it from an empty build cache, and of
// the runs after that. It takes a few minutes, and prints a table. With -images it measures images instead.
func Bench(
	ctx context.Context,
	images *bool, // measure how long images take, beside ko and Docker's own command, on the example service and a larger one
	rounds *int, // how often each image is built; 3 unless set, for some fifteen minutes
) error {
	return targets.Stage(ctx, "bench", func(ctx context.Context) error {
		if !deref(images) {
			return bench.Run(ctx, ".", os.Stdout)
		}
		times := deref(rounds)
		if times <= 0 {
			times = 3
		}
		return bench.Images(ctx, ".", times, os.Stdout)
	})
}
