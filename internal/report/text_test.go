package report_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/report"
)

func TestDuration(t *testing.T) {
	for seconds, want := range map[float64]string{
		0: "0 s", -1: "0 s", 0.0001: "<1 ms", 0.0314: "31 ms", 0.9994: "999 ms", 0.9996: "1.0 s", 12.44: "12.4 s",
		59.94: "59.9 s", 59.96: "1 m 00 s", 125: "2 m 05 s", 3599.4: "59 m 59 s", 3599.6: "1 h 00 m", 3725: "1 h 02 m",
		7199: "2 h 00 m", 360000: "100 h 00 m", math.Inf(1): "2562047 h 47 m", math.NaN(): "0 s",
	} {
		assert.Equal(t, want, report.Duration(seconds), "%v", seconds)
	}
}

func TestVisible(t *testing.T) {
	for _, test := range []struct{ name, s, want string }{
		{"plain", "a b\n\tc", "a b\n\tc"},
		{"other scripts", "統合 é 👩‍🚀", "統合 é 👩‍🚀"},
		{"lines", "a\r\nb\rc", "a\nb\nc"},
		{"colours", "\x1b[1;31mred\x1b[0m", "red"},
		{"no colours", "\x1b[\x1b[1;\x00 \x1bX", "␛[␛[1;␀ ␛X"},
		{"controls", "\x00\x07\x7f\u0085", "␀␇␡\uFFFD"},
		{"no UTF-8", "a\xff\xfeb", "a\uFFFDb"},
		{"turned round", "\u202egnp\u2069", "[U+202E]gnp[U+2069]"},
		{"hidden", "a\u200bb\u2028\ufeff\U000e0041", "a[U+200B]b[U+2028][U+FEFF][U+E0041]"},
	} {
		t.Run(test.name, func(t *testing.T) { assert.Equal(t, test.want, report.Visible(test.s)) })
	}
	assert.Equal(t, "a b c", report.Line(" a\r\n\tb  c\n"))
}

func TestCut(t *testing.T) {
	assert.Equal(t, "short", report.Cut("short", 5))
	assert.Equal(t, "ab\n… 6 bytes left out …\nij", report.Cut("abcdefghij", 4))
	assert.Contains(t, report.Cut(strings.Repeat("x", 50_000), 4), "49 kB left out")
	assert.Contains(t, report.Cut(strings.Repeat("x", 5_000_004), 4), "5.0 MB left out")
	for size := range 20 {
		assert.True(t, utf8.ValidString(report.Cut(strings.Repeat("日本", 10), size)), "runes stay whole")
	}
	assert.NotPanics(t, func() { report.Cut(strings.Repeat("\x80", 100), 9) })
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "build", "pipeline.json")
	require.NoError(t, report.Write(path, run()))
	got, err := report.Read(path)
	require.NoError(t, err)
	want := run()
	want.Version = report.Version
	assert.Equal(t, want, got)
	assert.InDelta(t, 64, got.Took(), 0)

	_, err = report.Read(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	for content, want := range map[string]string{"{": "unexpected end", `{"version": 9}`: "its version is 9, not 1"} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		_, err = report.Read(path)
		require.ErrorContains(t, err, want)
	}
}
