package leaks_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/leaks"
)

func TestSinceTellsWhatIsNew(t *testing.T) {
	before, err := leaks.Take()
	require.NoError(t, err)
	assert.Contains(t, before, "network interface: lo")
	dir, err := os.MkdirTemp("", "grimoire-test-")
	require.NoError(t, err)
	defer os.Remove(dir)
	left, err := leaks.Since(before)
	require.NoError(t, err)
	assert.Contains(t, left, "file: "+dir)
}
