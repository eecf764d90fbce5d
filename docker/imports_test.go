package docker

import (
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The engine's types stand in one file, so that a move to the client's successor is a change to that file.
func TestOneFileImportsTheEngine(t *testing.T) {
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	var importing []string
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file.Name(), nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, spec := range parsed.Imports {
			if strings.HasPrefix(spec.Path.Value, `"github.com/docker/`) {
				importing = append(importing, file.Name())
				break
			}
		}
	}
	assert.Equal(t, []string{"engine.go"}, importing)
}
