//go:build unix

package stage_test

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/magefile/mage/mg"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/stage"
)

func TestSignalStopsTheStage(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			p, _ := pipeline(t, true)
			err := p.Run(t.Context(), "test", func(ctx context.Context) error {
				require.NoError(t, syscall.Kill(os.Getpid(), signal))
				return process.Run(ctx, process.Command(ctx, "sleep", "60"))
			})
			var stopped *stage.Stopped
			require.ErrorAs(t, err, &stopped)
			assert.Contains(t, err.Error(), signal.String())
			assert.Equal(t, 128+int(signal), mg.ExitStatus(err))
		})
	}
}
