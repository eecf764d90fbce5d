package stage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/forge"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// newPipeline returns a pipeline and what it has printed so far.
func newPipeline(t *testing.T, o stage.Options) (*stage.Pipeline, func() string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = out.Close() })
	o.Out = out
	return stage.New(o), func() string { return read(t, filepath.Dir(out.Name()), "out") }
}

func pipeline(t *testing.T, ci bool) (*stage.Pipeline, func() string) {
	t.Helper()
	return newPipeline(t, stage.Options{Forge: forge.Forge{CI: ci}})
}

func read(t *testing.T, folder, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, file))
	require.NoError(t, err)
	return string(text)
}

// shell returns a run of a script with its arguments.
func shell(ctx context.Context, script string, args ...string) func() error {
	return func() error {
		return process.Run(ctx, process.Command(ctx, "sh", append([]string{"-c", script, "sh"}, args...)...))
	}
}

func TestRunNamesTheStageInErrors(t *testing.T) {
	p, _ := pipeline(t, true)
	cause := errors.New("3 findings")
	err := p.Run(t.Context(), "lint", func(context.Context) error { return cause })
	require.ErrorIs(t, err, cause)
	assert.EqualError(t, err, "lint: 3 findings")
	assert.Equal(t, 1, mg.ExitStatus(err))
}

func TestRequested(t *testing.T) {
	p, _ := newPipeline(t, stage.Options{Targets: []string{"app:Image", "lint"}})
	assert.True(t, p.Requested("image"))
	assert.True(t, p.Requested("Lint"))
	assert.False(t, p.Requested("push"))
}

// A warning is told once, with the stage that begins next.
func TestWarn(t *testing.T) {
	p, output := newPipeline(t, stage.Options{Warning: errors.New("no event")})
	p.Warn("this is odd")
	for _, name := range []string{"vet", "test"} {
		require.NoError(t, p.Run(t.Context(), name, func(context.Context) error { return nil }))
	}
	p.Warn("so is this")
	require.NoError(t, p.Run(t.Context(), "image", func(context.Context) error { return nil }))
	assert.Regexp(t, `(?s)WRN vet what the forge says of this run is not all known error="no event"\n[^\n]*WRN vet this is odd\n.*WRN image so is this\n`, output())
	assert.Equal(t, 1, strings.Count(output(), "this is odd"))
}

func TestRunKeepsTheExitCodeOfAChild(t *testing.T) {
	p, _ := pipeline(t, true)
	err := p.Run(t.Context(), "test", func(ctx context.Context) error {
		return fmt.Errorf("testing: %w", process.Run(ctx, process.Command(ctx, "sh", "-c", "exit 7")))
	})
	assert.Equal(t, 7, mg.ExitStatus(err))
}

func TestRunOncePerName(t *testing.T) {
	p, _ := pipeline(t, true)
	var runs atomic.Int32
	want := errors.New("no")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			err := p.Run(t.Context(), "vet", func(context.Context) error { runs.Add(1); return want })
			assert.ErrorIs(t, err, want, "everybody who asks gets the first run's error")
		})
	}
	all.Wait()
	assert.EqualValues(t, 1, runs.Load())
}

func TestRunContainsAPanic(t *testing.T) {
	p, _ := pipeline(t, true)
	err := p.Run(t.Context(), "image", func(context.Context) error { panic("boom") })
	require.Error(t, err)
	assert.Contains(t, err.Error(), "image: panic: boom")
	assert.Contains(t, err.Error(), "stage_test.go", "the stack is kept")
}

func TestRunSkippedByAFailedDependency(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "build")
	p, _ := pipeline(t, true)
	p.Report(folder)
	image := func(ctx context.Context) error {
		return p.Run(ctx, "image", func(context.Context) error { return mg.Fatal(4, "no Dockerfile") })
	}
	push := func(ctx context.Context) (err error) {
		return p.Run(ctx, "push", func(ctx context.Context) error {
			mg.CtxDeps(ctx, mg.F(image))
			t.Error("the body goes on after a failed dependency")
			return nil
		})
	}
	err := push(t.Context())
	require.Error(t, err)
	assert.Equal(t, "image: no Dockerfile", err.Error(), "the failure is told once, under its own name")
	assert.Equal(t, 4, mg.ExitStatus(err))

	run, err := report.Read(filepath.Join(folder, "pipeline.json"))
	require.NoError(t, err)
	require.Len(t, run.Stages, 2)
	assert.Equal(t, report.Failed, run.Stages[1].Result)
	assert.Equal(t, "push", run.Stages[0].Name)
	assert.Equal(t, report.Skipped, run.Stages[0].Result)
	assert.Equal(t, "it needs what failed: image: no Dockerfile", run.Stages[0].Reason)
	assert.Equal(t, []string{"image"}, run.Stages[0].Needs)
	assert.Equal(t, report.Failed, run.Result)
}

func TestRunRefusesACycle(t *testing.T) {
	p, _ := pipeline(t, true)
	var a, b func(context.Context) error
	a = func(ctx context.Context) error { return p.Run(ctx, "a", b) }
	b = func(ctx context.Context) error { return p.Run(ctx, "b", a) }
	err := a(t.Context())
	require.Error(t, err)
	assert.Contains(t, err.Error(), "a → b → a")
}

func TestRunCountsItsOwnTimeAlone(t *testing.T) {
	folder := t.TempDir()
	p, _ := pipeline(t, true)
	p.Report(folder)
	err := p.Run(t.Context(), "outer", func(ctx context.Context) error {
		return p.Run(ctx, "inner", func(context.Context) error {
			time.Sleep(time.Second)
			stage.Made(ctx, "not mine")
			return nil
		})
	})
	require.NoError(t, err)
	run, err := report.Read(filepath.Join(folder, "pipeline.json"))
	require.NoError(t, err)
	require.Len(t, run.Stages, 2)
	assert.Equal(t, "inner", run.Stages[1].Name)
	assert.Equal(t, "outer", run.Stages[0].Name)
	assert.Greater(t, run.Stages[1].Seconds, run.Stages[0].Seconds)
	assert.Equal(t, []string{"not mine"}, run.Stages[0].Made)
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "no temporary file is left beside the two reports")
}

func TestParallelStagesPrintInTurn(t *testing.T) {
	p, printed := pipeline(t, true)
	const stages, lines = 8, 200
	err := p.Run(t.Context(), "all", func(ctx context.Context) error {
		var all sync.WaitGroup
		for i := range stages {
			all.Go(func() {
				name := fmt.Sprintf("stage%d", i)
				_ = p.Run(ctx, name, func(ctx context.Context) error {
					for range lines {
						_, _ = fmt.Fprintf(process.Output(ctx), "%s %s", name, strings.Repeat("x", 100))
						_, _ = fmt.Fprintln(process.Output(ctx), " end")
					}
					_, _ = fmt.Fprintf(process.Output(ctx), "%s unfinished", name)
					return nil
				})
			})
		}
		all.Wait()
		return nil
	})
	require.NoError(t, err)
	var blocks []string
	count := 0
	for line := range strings.Lines(printed()) {
		if strings.HasPrefix(line, "{") {
			require.True(t, json.Valid([]byte(line)), "a log record shares its line: %q", line)
			continue
		}
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		require.True(t, rest == strings.Repeat("x", 100)+" end" || rest == "unfinished", "mixed line: %q", line)
		if len(blocks) == 0 || blocks[len(blocks)-1] != name {
			blocks = append(blocks, name)
		}
		count++
	}
	assert.Equal(t, stages*(lines+1), count, "nothing is lost")
	assert.Len(t, blocks, stages, "each stage is one block: %v", blocks)
}

func TestLogIsJSONInCIAndReadableElsewhere(t *testing.T) {
	body := func(ctx context.Context) error {
		zerolog.Ctx(ctx).Info().Str("reference", "a/b:c").Msg("built")
		return nil
	}
	ci, printed := pipeline(t, true)
	require.NoError(t, ci.Run(t.Context(), "image", body))
	for line := range strings.Lines(printed()) {
		var record struct {
			Stage, Level, Message string
			Time                  int64
		}
		require.NoError(t, json.Unmarshal([]byte(line), &record), line)
		assert.Equal(t, "image", record.Stage)
		assert.InDelta(t, time.Now().Unix(), record.Time, 100)
	}

	people, printed := pipeline(t, false)
	require.NoError(t, people.Run(t.Context(), "image", body))
	assert.Regexp(t, `(?m)^\d\d:\d\d:\d\d INF image built reference=a/b:c$`, printed())
	assert.NotContains(t, printed(), "\x1b", "no colour where nobody sees it")
}
