package stage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/forge"
	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// graph is a pipeline of random stages, which need each other by mage's dependency functions.
type graph struct {
	pipeline *stage.Pipeline
	needs    [][]int
	outside  bool // dependencies are declared before the stage, not in its body
	breaks   map[int]string

	runs    []atomic.Int32
	working atomic.Int32
	most    atomic.Int32
}

// graphs are by seed: mage tells targets apart by function and arguments, for the whole process.
var graphs sync.Map

func node(ctx context.Context, seed, i int) error {
	v, _ := graphs.Load(seed)
	g := v.(*graph)
	var needs []any
	for _, need := range g.needs[i] {
		needs = append(needs, mg.F(node, seed, need))
	}
	if g.outside {
		mg.CtxDeps(ctx, needs...)
	}
	return g.pipeline.Run(ctx, fmt.Sprint("stage", i), func(ctx context.Context) error {
		if !g.outside {
			mg.CtxDeps(ctx, needs...)
		}
		return g.work(ctx, i)
	})
}

func (g *graph) work(ctx context.Context, i int) error {
	g.runs[i].Add(1)
	now := g.working.Add(1)
	defer g.working.Add(-1)
	for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); most = g.most.Load() {
	}
	select {
	case <-time.After(time.Duration(rand.IntN(500)) * time.Microsecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	switch g.breaks[i] {
	case "error":
		return fmt.Errorf("stage %d is broken", i)
	case "panic":
		panic(fmt.Sprintf("stage %d panics", i))
	default:
		return nil
	}
}

func TestGraphOfStages(t *testing.T) {
	const size, limit = 200, 4
	for seed := range 24 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, uint64(seed)))
			p, _ := limited(t, limit)
			g := &graph{pipeline: p, outside: seed%2 == 1, breaks: map[int]string{}, needs: make([][]int, size), runs: make([]atomic.Int32, size)}
			for i := range size {
				for range min(i, random.IntN(4)) {
					g.needs[i] = append(g.needs[i], random.IntN(i))
				}
			}
			for range seed / 2 % 6 { // some have nothing broken
				g.breaks[random.IntN(size)] = []string{"error", "panic"}[random.IntN(2)]
			}
			if g.outside { // none waits in a way that nobody sees, and a busy machine is no reason for one more turn
				p.SetPatience(time.Hour)
			}
			graphs.Store(seed, g)

			err := within(t, func() error {
				return p.Run(t.Context(), "all", func(ctx context.Context) error {
					var all []any
					for i := range size {
						all = append(all, mg.F(node, seed, i))
					}
					mg.CtxDeps(ctx, all...)
					return nil
				})
			})

			for i := range size {
				assert.LessOrEqual(t, g.runs[i].Load(), int32(1), "stage %d runs once", i)
			}
			if g.outside { // in a body only mage knows when the stage goes on
				assert.LessOrEqual(t, g.most.Load(), int32(limit))
			}
			run := p.Record()
			results := map[report.Result]int{}
			for _, s := range run.Stages {
				results[s.Result]++
				if s.Result == report.OK {
					continue
				}
				assert.NotEmpty(t, s.Reason, "%s ended as %q", s.Name, s.Result)
				if s.Result == report.Failed {
					assert.ErrorContains(t, err, s.Name+": ", "every failure is told")
				}
			}
			if len(g.breaks) == 0 {
				require.NoError(t, err)
				assert.Equal(t, map[report.Result]int{report.OK: size + 1}, results)
				return
			}
			require.Error(t, err)
			assert.Equal(t, report.Failed, run.Result)
			assert.LessOrEqual(t, results[report.Failed], len(g.breaks))
			assert.Positive(t, results[report.Failed])
			assert.Equal(t, len(run.Stages), results[report.Failed]+results[report.OK]+results[report.Skipped], "%v", results)
		})
	}
}

func limited(t *testing.T, limit int) (*stage.Pipeline, func() string) {
	t.Helper()
	return newPipeline(t, stage.Options{Forge: forge.Forge{CI: true}, Limit: limit})
}

// within fails the test where f hangs.
func within(t *testing.T, f func() error) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(5 * time.Minute): // a busy machine with the race detector takes a while
		panic("it hangs") // with every goroutine's stack
	}
}

func TestCyclesOfAnyLength(t *testing.T) {
	for _, length := range []int{1, 2, 3, 10, 50} {
		for _, how := range []string{"calls", "parallel"} {
			t.Run(fmt.Sprint(how, length), func(t *testing.T) {
				p, _ := limited(t, 2)
				var begun sync.WaitGroup
				begun.Add(length)
				var run func(ctx context.Context, i int) error
				run = func(ctx context.Context, i int) error {
					return p.Run(ctx, fmt.Sprint("s", i), func(ctx context.Context) error {
						return run(ctx, (i+1)%length)
					})
				}
				err := within(t, func() error {
					if how == "calls" {
						return run(t.Context(), 0)
					}
					// All begin at once, so that none is the caller of another.
					errs := make([]error, length)
					var all sync.WaitGroup
					for i := range length {
						all.Go(func() { errs[i] = run(t.Context(), i) })
					}
					all.Wait()
					return errors.Join(errs...)
				})
				require.Error(t, err)
				chain := "s0 → "
				for i := 1; i < length; i++ {
					chain += fmt.Sprint("s", i, " → ")
				}
				assert.Contains(t, err.Error(), "a dependency cycle: "+chain+"s0; drop one of these dependencies")
			})
		}
	}
}

// Waits that mage hides (a body that waits for a target which another goroutine runs) must not use up all turns.
func TestHiddenWaitsDoNotUseUpTheTurns(t *testing.T) {
	p, _ := limited(t, 1)
	free := make(chan struct{})
	err := within(t, func() error {
		var all sync.WaitGroup
		errs := make([]error, 2)
		waits := make(chan struct{})
		all.Go(func() {
			errs[0] = p.Run(t.Context(), "waits", func(context.Context) error { close(waits); <-free; return nil })
		})
		<-waits
		all.Go(func() {
			errs[1] = p.Run(t.Context(), "frees", func(context.Context) error { close(free); return nil })
		})
		all.Wait()
		return errors.Join(errs...)
	})
	require.NoError(t, err)
}

func TestAFailureEndsWhatIsBesideIt(t *testing.T) {
	p, printed := limited(t, 4)
	var begun sync.WaitGroup
	begun.Add(2)
	tested := make(chan struct{})
	lint := func(ctx context.Context) error {
		return p.Run(ctx, "lint", func(context.Context) error { begun.Wait(); return mg.Fatal(7, "2 findings") })
	}
	test := func(ctx context.Context) error {
		return p.Run(ctx, "test", func(ctx context.Context) error {
			defer close(tested)
			begun.Done()
			<-ctx.Done()
			return ctx.Err()
		})
	}
	cleaned := false
	always := func(ctx context.Context) error {
		return p.Run(ctx, "clean up", func(ctx context.Context) error {
			begun.Done()
			<-tested
			cleaned = ctx.Err() == nil
			return nil
		}, stage.Always())
	}
	err := within(t, func() error {
		return p.Run(t.Context(), "ci", func(ctx context.Context) error {
			mg.CtxDeps(ctx, mg.F(lint), mg.F(test), mg.F(always))
			return nil
		})
	})
	assert.Equal(t, 7, mg.ExitStatus(err), "it is that of what failed")
	assert.True(t, cleaned, "what always runs is not ended")
	require.ErrorContains(t, err, "lint: 2 findings")
	require.ErrorContains(t, err, "test: no longer needed, since lint failed")
	assert.Contains(t, printed(), `"stage":"test","reason":"no longer needed, since lint failed`)

	// A new stage does not begin, unless it is for just that.
	assert.ErrorContains(t, p.Run(t.Context(), "deploy", func(context.Context) error { t.Error("it runs"); return nil }), "since ci failed")
	told := false
	require.NoError(t, p.Run(t.Context(), "notify", func(context.Context) error { told = true; return nil }, stage.Always()))
	assert.True(t, told)
}

func TestSkip(t *testing.T) {
	p, _ := limited(t, 1)
	require.NoError(t, p.Run(t.Context(), "push", func(context.Context) error {
		return fmt.Errorf("pushing: %w", stage.Skip("this is a pull request"))
	}), "what has nothing to do has not failed")
	run := p.Record()
	assert.Equal(t, report.OK, run.Result)
	assert.Equal(t, report.Skipped, run.Stages[0].Result)
	assert.Equal(t, "this is a pull request", run.Stages[0].Reason)
}

func TestDryRun(t *testing.T) {
	p, printed := newPipeline(t, stage.Options{DryRun: true})
	never := func(context.Context) error { t.Error("a body runs"); return nil }
	image := func(ctx context.Context) error {
		return p.Run(ctx, "image", never, stage.Plan(func(context.Context) (string, error) { return "build a/b:c", nil }))
	}
	push := func(ctx context.Context) error {
		return p.Run(ctx, "push", never, stage.Plan(func(ctx context.Context) (string, error) {
			return "push a/b:c", image(ctx)
		}))
	}
	require.NoError(t, push(t.Context()))
	require.NoError(t, p.Run(t.Context(), "migrate", never))
	require.NoError(t, p.Run(t.Context(), "notify", never, stage.Plan(func(context.Context) (string, error) {
		return "", stage.Skip("nobody is named")
	})))
	require.ErrorContains(t, p.Run(t.Context(), "deploy", never, stage.Plan(func(context.Context) (string, error) {
		return "", errors.New("no cluster is named")
	})), "deploy: no cluster is named", "what would fail is told")

	var plan []string
	stages := p.Record().Stages
	slices.SortStableFunc(stages, func(a, b report.Stage) int { return a.End.Compare(b.End) })
	for _, s := range stages {
		plan = append(plan, fmt.Sprintf("%s %s: %s", s.Name, s.Result, s.Reason))
	}
	assert.Equal(t, []string{
		"image planned: build a/b:c", "push planned: push a/b:c", "migrate planned: what it does is not known before it runs",
		"notify skipped: nobody is named", "deploy failed: no cluster is named",
	}, plan)
	assert.Equal(t, 2, strings.Count(printed(), "would run: "+"build a/b:c")+strings.Count(printed(), "would run: push a/b:c"))
}

func TestSecretsAreMaskedEverywhere(t *testing.T) {
	const secret = "s3cr3t-of-the-registry"
	p, printed := newPipeline(t, stage.Options{Forge: forge.Forge{CI: true}, Environ: []string{"REGISTRY_PASS=" + secret}})
	folder := t.TempDir()
	p.Report(folder)
	err := p.Run(t.Context(), "push", func(ctx context.Context) error {
		stage.Made(ctx, "https://user:"+secret+"@host/x")
		child := shell(ctx, "printf %s $1; echo; printf s3cr3t-; sleep 0.1; echo of-the-registry", secret)
		if err := child(); err != nil {
			return err
		}
		return errors.New("the registry refuses " + secret)
	})
	require.EqualError(t, err, "push: the registry refuses ***")
	assert.NotContains(t, printed(), "s3cr3t-of")
	assert.Equal(t, 2, strings.Count(printed(), "***\n"), printed())
	assert.NotContains(t, read(t, folder, "pipeline.json"), "s3cr3t-of")
}

func TestReportsOfStagesThatEndTogetherAreWhole(t *testing.T) {
	for range 50 {
		p, _ := limited(t, 8)
		folder := t.TempDir()
		p.Report(folder)
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() { _ = p.Run(t.Context(), fmt.Sprint("s", i), func(context.Context) error { return nil }) })
		}
		all.Wait()
		run, err := report.Read(filepath.Join(folder, "pipeline.json"))
		require.NoError(t, err)
		for _, s := range run.Stages {
			require.Equal(t, report.OK, s.Result, s.Name)
		}
		require.Len(t, run.Stages, 4)
	}
}

func TestTheTableComesWithTheLastTarget(t *testing.T) {
	stage.Known("lint", "vet", "test")
	for name, tt := range map[string]struct {
		targets []string
		tables  int
	}{
		"one that has run already": {[]string{"lint", "vet"}, 1},
		"one after the other":      {[]string{"vet", "lint", "test"}, 1},
		"with arguments":           {[]string{"lint", "staging"}, 1},
		"something else":           {[]string{"other"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p, printed := newPipeline(t, stage.Options{Targets: tt.targets})
			vet := func(ctx context.Context) error {
				return p.Run(ctx, "vet", func(context.Context) error { return nil })
			}
			for _, target := range tt.targets {
				switch target {
				case "vet":
					require.NoError(t, vet(t.Context()))
				case "lint", "other":
					require.NoError(t, p.Run(t.Context(), "lint", vet))
				case "test":
					require.NoError(t, p.Run(t.Context(), "test", func(context.Context) error { return nil }))
				}
			}
			assert.Equal(t, tt.tables, strings.Count(printed(), "total "), printed())
		})
	}
}
