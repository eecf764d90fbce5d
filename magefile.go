// Command grimoire runs the targets of a checkout as mage does, without a mage to install:
//
//	go run . test        # the same as: mage test
//	go run . -l          # lists the targets
//	go run . -h test     # explains one
//
// Unlike mage it does not leave a running target behind when the process that started it is ended.
package main

import (
	"context"
	"os"

	"github.com/magefile/mage/mage"

	"github.com/grimoire-build/grimoire/internal/parent"
)

func main() {
	go func() {
		// `go run` passes no signal on. The compiled magefile sees our end and stops what it runs.
		<-parent.Gone(context.Background())
		os.Exit(1)
	}()
	os.Exit(mage.ParseAndRun(os.Stdout, os.Stderr, os.Stdin, os.Args[1:]))
}
