//go:build unix

package stage

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/report"
)

// A signal that comes while the reports are written leaves them whole, and keeps mage from the next target.
func TestASignalWaitsForTheReports(t *testing.T) {
	folder := t.TempDir()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer out.Close()
	p := New(Options{Out: out})
	p.Report(folder)
	p.publishing.Lock() // they are about to be written
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context(), "lint", func(context.Context) error { return nil }) }()
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.stages["lint"] != nil && p.stages["lint"].ended()
	}, time.Minute, time.Millisecond)

	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM)) // which would end this program
	require.Eventually(t, func() bool { return p.stops.why() != nil }, time.Minute, time.Millisecond)
	p.publishing.Unlock()
	err = <-ended
	assert.Equal(t, 128+int(syscall.SIGTERM), mg.ExitStatus(err))
	assert.ErrorContains(t, err, "terminated")
	run, err := report.Read(filepath.Join(folder, "pipeline.json"))
	require.NoError(t, err)
	assert.Equal(t, report.OK, run.Result, "all that there was to do is done")
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Len(t, entries, 2)
	assert.Zero(t, p.watchers)

	err = p.Run(t.Context(), "test", func(ctx context.Context) error { return ctx.Err() })
	assert.Equal(t, 128+int(syscall.SIGTERM), mg.ExitStatus(err), "nothing begins after it")
}
