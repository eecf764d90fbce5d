//go:build mage

package main

import (
	"context"
	"os"

	"github.com/grimoire-build/grimoire/internal/bench"
	"github.com/grimoire-build/grimoire/targets"
)

// Bench measures what a magefile costs its users: the CPU and wall time of compiling it from an empty build cache, and of
// the runs after that. It takes a few minutes, and prints a table.
func Bench(ctx context.Context) error {
	return targets.Stage(ctx, "bench", func(ctx context.Context) error {
		return bench.Run(ctx, ".", os.Stdout)
	})
}
