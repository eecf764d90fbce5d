package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the table makes is what the repository holds.
func TestGenerated(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	files, err := generated(root)
	require.NoError(t, err)
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		if line := firstDifference(string(want), string(got)); line > 0 {
			assert.Fail(
				t,
				fmt.Sprintf("%s:%d is not what the table says; run go generate ./internal/settings", name, line),
			)
		}
	}
}

// firstDifference is the number of the first line that two texts do not share; zero where they are
// the same.
func firstDifference(a, b string) int {
	if a == b {
		return 0
	}
	is, want := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range is {
		if i >= len(want) || is[i] != want[i] {
			return i + 1
		}
	}
	return len(is) + 1
}

// A row of the table is all that a setting needs: what was made of another table is made anew.
func TestWithSettings(t *testing.T) {
	const body = "package targets\n\n%s\nfunc Test(ctx context.Context) error { return nil }\n\n" +
		"// Lint needs none.\nfunc Lint(ctx context.Context) error { return nil }\n\n" +
		"// Help is no target.\nfunc Help(of string) error { return nil }\n"
	const (
		bare = "// Test tests.\n//\n// More of it."
		want = bare + "\n//\n// Settings: TEST_PACKAGES (./...), TEST_TIMEOUT (5m), COVERAGE_THRESHOLD (70), TEST_RACE (auto)."
	)
	for _, before := range []string{bare, bare + "\n//\n// Settings: OLD (1), and\n// OLDER.", want} {
		got, err := withSettings([]byte(fmt.Sprintf(body, before)))
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprintf(body, want), string(got))
	}
	_, err := withSettings([]byte(fmt.Sprintf(body, "")))
	assert.ErrorContains(t, err, "the target Test has no comment")
}

func TestComment(t *testing.T) {
	assert.Equal(t, "\t// One two.\n\t//\n\t// Three\n", comment("One  two.\n\nThree", "\t"))
	long := "long" + strings.Repeat(" 123456789", 9) + " `not parted`"
	assert.Equal(
		t,
		"// long"+strings.Repeat(" 123456789", 9)+"\n// `not parted`\n",
		comment(long, ""),
	)
}
