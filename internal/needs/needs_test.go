//go:build unix

package needs

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Another process that wants the infrastructure alone closes the gate, and waits for the test that holds it already. That one may ask for
// more meanwhile, and so may the tests below it.
func TestWhoHoldsTheLockDoesNotWaitAtTheGate(t *testing.T) {
	dir := t.TempDir()
	holdIn(t, dir, false)
	gate, err := os.OpenFile(filepath.Join(dir, "infrastructure.gate"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	if err := lock(gate, true); err != nil {
		t.Fatal(err)
	}
	again := func(t *testing.T) {
		t.Helper()
		held := make(chan struct{})
		go func() {
			defer close(held)
			holdIn(t, dir, false)
		}()
		select {
		case <-held:
		case <-time.After(time.Minute):
			panic("it waits at the gate") // with every goroutine's stack, and without a wait for the one that is stuck
		}
	}
	again(t)
	t.Run("below", again)
	if holders.has(dir, t.Name()+"Too") {
		t.Error("another test comes in past the gate")
	}
}

func TestTheLockIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	t.Run("together", func(t *testing.T) { holdIn(t, dir, false) })
	if holders.has(dir, t.Name()+"/together") {
		t.Error("a test holds it that has ended")
	}
	t.Run("alone", func(t *testing.T) { holdIn(t, dir, true) })
}
