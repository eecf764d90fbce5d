package stage

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func needsItself(ctx context.Context) { mg.CtxDeps(ctx, needsItself) }

func one(ctx context.Context) { mg.CtxDeps(ctx, two, leaf) }
func two(ctx context.Context) { mg.CtxDeps(ctx, leaf, mg.F(three, 7)) }
func three(ctx context.Context, _ int) error {
	mg.SerialCtxDeps(ctx, leaf, one)
	return nil
}
func leaf(context.Context) {}

func TestMageCycle(t *testing.T) {
	for _, tt := range []struct {
		start func(context.Context)
		want  string
	}{
		{needsItself, "stage.needsItself → stage.needsItself"},
		{one, "stage.one → stage.two → stage.three → stage.one"},
	} {
		before := goroutines()
		assert.Nil(t, newCycle(before), "nobody waits yet")
		go tt.start(t.Context()) // it never ends
		var cycle []string
		require.Eventually(t, func() bool { cycle = newCycle(before); return cycle != nil }, 10*time.Second, 10*time.Millisecond)
		assert.EqualError(t, cyclic(cycle), "a dependency cycle: "+tt.want+"; drop one of these dependencies")
	}
}

// newCycle looks for a cycle among the goroutines that were not there before.
func newCycle(before map[int]goroutine) []string {
	all := goroutines()
	for id := range before {
		delete(all, id)
	}
	return mageCycle(all)
}

func TestMageWithoutCycleIsLeftAlone(t *testing.T) {
	before := goroutines()
	slow := func(context.Context, int) error { time.Sleep(20 * time.Millisecond); return nil }
	middle := func(ctx context.Context, _ int) error {
		mg.CtxDeps(ctx, mg.F(slow, 1), mg.F(slow, 2), mg.F(slow, 3))
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var all []any
		for i := range 50 {
			all = append(all, mg.F(middle, i))
		}
		mg.CtxDeps(t.Context(), all...)
	}()
	for {
		select {
		case <-ended:
			return
		default:
			require.Nil(t, newCycle(before))
		}
	}
}

func BenchmarkGoroutines(b *testing.B) {
	stop := make(chan struct{})
	defer close(stop)
	for range 50 {
		go func() { <-stop }()
	}
	for b.Loop() {
		mageCycle(goroutines())
	}
}

func FuzzParseStacks(f *testing.F) {
	f.Add("goroutine 7 [sync.Mutex.Lock]:\nsync.(*Once).doSlow(0xc000, 0x1?)\n\t/x.go:1\ncreated by github.com/magefile/mage/mg.runDeps in goroutine 3\n")
	f.Add(fmt.Sprint(")(\n\n", "goroutine "))
	f.Fuzz(func(_ *testing.T, text string) { mageCycle(parseStacks(text)) })
}
