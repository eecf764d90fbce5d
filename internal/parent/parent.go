// Package parent tells a process that the process which started it has died. A signal that ends mage alone leaves the
// compiled magefile running as an orphan; looking at the parent's id is the one way to notice that works when
// the parent was killed outright.
package parent

import (
	"context"
	"os"
	"time"
)

// interval is how often the parent is looked at: short enough that an orphan is gone before anybody looks for it, and one
// system call a time.
const interval = 100 * time.Millisecond

// parent is read as early as can be: a parent that dies later than this is noticed, whenever the watch begins.
var parent = os.Getppid()

// orphan is whether it had died even earlier, when whoever takes in orphans was read in its place.
var orphan = os.Getenv(byMage) != "" && adopted(parent)

// byMage is a variable that mage sets for the magefile that it starts. The magefile's children inherit it.
// Source: https://github.com/magefile/mage/blob/v1.17.2/mage/main.go, RunCompiled.
const byMage = "MAGEFILE_GOCMD"

// Gone returns a channel that is closed when the process that started this one has died. The watch ends with ctx.
func Gone(ctx context.Context) <-chan struct{} {
	gone := make(chan struct{})
	if orphan {
		close(gone)
		return gone
	}
	go func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if os.Getppid() != parent {
					close(gone)
					return
				}
			}
		}
	}()
	return gone
}
