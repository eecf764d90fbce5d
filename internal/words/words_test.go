package words_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/words"
)

var samples = []struct {
	text string
	want []string
}{
	{"", nil},
	{"  \t\n ", nil},
	{"one", []string{"one"}},
	{"  one\ttwo\n three ", []string{"one", "two", "three"}},
	{`'a b' c`, []string{"a b", "c"}},
	{`"a b" c`, []string{"a b", "c"}},
	{`A='a b' B="c d"`, []string{"A=a b", "B=c d"}},
	{`''`, []string{""}},
	{`a "" b`, []string{"a", "", "b"}},
	{`a''b`, []string{"ab"}},
	{`a\ b`, []string{"a b"}},
	{`\'a\'`, []string{"'a'"}},
	{`'a\nb'`, []string{`a\nb`}},
	{`"a\nb"`, []string{`a\nb`}},
	{`"\"\\\$"`, []string{`"\$`}},
	{`'it'\''s'`, []string{"it's"}},
	{"a\\\nb", []string{"ab"}},
	{"a \\\n b", []string{"a", "b"}},
	{"\"a\\\nb\"", []string{"ab"}},
	{`$HOME * # ~ ; &`, []string{"$HOME", "*", "#", "~", ";", "&"}},
	{"größe 'ä ö'", []string{"größe", "ä ö"}},
	{"\xff'\xfe '", []string{"\xff\xfe "}},
}

func TestSplit(t *testing.T) {
	for _, tt := range samples {
		got, err := words.Split(tt.text)
		require.NoError(t, err, "%q", tt.text)
		assert.Equal(t, tt.want, got, "%q", tt.text)
	}
}

func TestSplitErrors(t *testing.T) {
	for text, want := range map[string]string{
		`a 'b c`:  "the quote ' is not closed",
		`a "b c`:  `the quote " is not closed`,
		`a "b\`:   `the quote " is not closed`,
		`"a' b`:   `the quote " is not closed`,
		`'s3cret`: "the quote ' is not closed",
		`a b\`:    "it ends with a backslash",
	} {
		got, err := words.Split(text)
		require.ErrorContains(t, err, want, text)
		assert.Nil(t, got)
		assert.NotContains(t, err.Error(), "s3cret")
	}
}

func TestJoin(t *testing.T) {
	assert.Equal(t, `./... deploy/old "x"`, words.Join([]string{"./...", "deploy/old"})+` "x"`)
	assert.Equal(t, `MODE=x 'A=a b' '' 'it'\''s' 'a\b'`, words.Join([]string{"MODE=x", "A=a b", "", "it's", `a\b`}))
}

// What a shell makes of a text is what Split makes of it.
func TestSplitAsAShellDoes(t *testing.T) {
	for _, tt := range samples {
		got, ok := shell(t, tt.text)
		if ok {
			assert.Equal(t, tt.want, got, "%q", tt.text)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, tt := range samples {
		f.Add(tt.text)
	}
	for _, text := range []string{`'`, `"\`, `a\`, `"$(x)"`, "'\\''", "\"\\\n\"", "a\x00b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := words.Split(text)
		if err != nil {
			return
		}
		again, err := words.Split(words.Join(got))
		require.NoError(t, err, "%q of %q", words.Join(got), text)
		require.Equal(t, got, again, "of %q", text)
		if want, ok := shell(t, text); ok {
			require.Equal(t, want, got, "%q", text)
		}
	})
}

// shell splits a text by a POSIX shell; not ok where it would do more with it than to split, or is
// not there.
func shell(t *testing.T, text string) (split []string, ok bool) {
	t.Helper()
	// What a shell expands and runs, what begins a comment or assigns, other blanks than its own,
	// and bytes that no argument has.
	if strings.ContainsAny(text, "$`*?[]~#;&|<>(){}!=\x00\r\v\f") ||
		strings.ContainsFunc(text, func(r rune) bool { return r > '~' }) {
		return nil, false
	}
	if strings.ContainsAny(strings.TrimSpace(text), "\n") && !strings.Contains(text, "\\\n") {
		return nil, false // a newline outside of quotes ends a command
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		return nil, false
	}
	// set takes words alone: no command, alias or keyword is looked for.
	const script = `eval "set -- $1" || exit 1; for word; do printf '%s\0' "$word"; done`
	out, err := exec.Command(sh, "-c", script, "sh", text).
		Output()
	if err != nil {
		return nil, false
	}
	for word := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		split = append(split, word)
	}
	if len(out) == 0 {
		split = nil
	}
	return split, true
}
