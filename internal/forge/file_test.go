package forge_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/forge"
)

const appendsOutputs = "FORGE_TEST_APPENDS_OUTPUTS"

// TestMain makes the test binary a second process that appends where it is asked to.
func TestMain(m *testing.M) {
	if who := os.Getenv(appendsOutputs); who != "" {
		f, err := forge.Detect(os.Getenv)
		for i := 0; i < 200 && err == nil; i++ {
			err = f.Output(fmt.Sprintf("%s-%d", who, i), value(who, i))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func value(who string, i int) string {
	return strings.Repeat(who+strconv.Itoa(i)+"\n", 1+i%100)
}

// files returns a GitHub forge and its files, with text in them before.
func files(t testing.TB, before string) (f forge.Forge, output, env, summary string) {
	t.Helper()
	dir := t.TempDir()
	output, env, summary = filepath.Join(dir, "output"), filepath.Join(dir, "env"), filepath.Join(dir, "summary")
	for _, path := range []string{output, env, summary} {
		require.NoError(t, os.WriteFile(path, []byte(before), 0o600))
	}
	f, err := forge.Detect(environment(onGitHub, map[string]string{"GITHUB_OUTPUT": output, "GITHUB_ENV": env, "GITHUB_STEP_SUMMARY": summary}))
	require.NoError(t, err)
	return f, output, env, summary
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// parse reads a file of outputs or variables as GitHub's runner does on Unix: lines end with a line feed, blank ones between
// the entries do not count, and what is found first, = or <<, says which kind of an entry it is.
func parse(t testing.TB, text string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		if line == "" {
			continue
		}
		equals, here := strings.Index(line, "="), strings.Index(line, "<<")
		if equals >= 0 && (here < 0 || equals < here) {
			got[line[:equals]] = line[equals+1:]
			continue
		}
		require.Positive(t, here, "neither = nor << in %q", line)
		name, delimiter := line[:here], line[here+2:]
		require.NotEmpty(t, delimiter)
		require.NotContains(t, got, name)
		var lines []string
		for {
			require.NotEmpty(t, text, "no end of %s", name)
			line, text, _ = strings.Cut(text, "\n")
			if line == delimiter {
				break
			}
			lines = append(lines, line)
		}
		got[name] = strings.Join(lines, "\n")
	}
	return got
}

var hostile = map[string]string{
	"plain":             "sha256:0123",
	"empty":             "",
	"spaces":            "  a b  ",
	"lines":             "a\nb\n\nc",
	"begins with lines": "\n\na",
	"ends with lines":   "a\n\n",
	"a line feed":       "\n",
	"CRLF":              "a\r\nb\r\n",
	"carriage returns":  "\ra\r",
	"delimiter":         "a\nEOF\nstolen=1\nname<<EOF\nb\nEOF",
	"command":           "::error::no\n::set-output name=a::b\n##[error]no",
	"entry":             "other=1\nb<<c",
	"NUL":               "a\x00b",
	"not UTF-8":         "a\xff\xfeb",
	"BOM":               "\ufeffa",
	"5 MB":              strings.Repeat("0123456789abcde\n", 5<<16),
	"5 MB in a line":    strings.Repeat("x", 5<<20),
}

func TestOutput(t *testing.T) {
	for name, value := range hostile {
		t.Run(name, func(t *testing.T) {
			f, output, env, _ := files(t, "")
			require.NoError(t, f.Output("before", "1"))
			require.NoError(t, f.Output("image", value))
			require.NoError(t, f.Output("after", "2"))
			got := parse(t, read(t, output))
			assert.Len(t, got, 3)
			assert.Equal(t, "1", got["before"])
			assert.Equal(t, "2", got["after"])
			assert.True(t, got["image"] == value, "the value comes back")
			assert.Empty(t, read(t, env))
		})
	}
}

func TestExport(t *testing.T) {
	for name, value := range hostile {
		t.Run(name, func(t *testing.T) {
			f, output, env, _ := files(t, "")
			err := f.Export("IMAGE", value)
			assert.Empty(t, read(t, output))
			if strings.Contains(value, "\x00") {
				require.ErrorContains(t, err, "exporting the variable IMAGE: its value has a NUL byte")
				assert.Empty(t, read(t, env))
				return
			}
			require.NoError(t, err)
			assert.True(t, parse(t, read(t, env))["IMAGE"] == value, "the value comes back")
		})
	}
}

var delimiter = regexp.MustCompile(`end-[A-Z2-7]{26}`)

// TestFiles shows the texts of the files, with a fixed delimiter.
func TestFiles(t *testing.T) {
	f, output, env, summary := files(t, "")
	require.NoError(t, f.Output("image", "shop/pay@sha256:01"))
	require.NoError(t, f.Output("log", "a\nb\n"))
	require.NoError(t, f.Export("PAGER", "cat"))
	require.NoError(t, f.Summary("# Stages"))
	require.NoError(t, f.Summary(""))
	require.NoError(t, f.Summary("- lint\n"))

	text := read(t, output)
	found := delimiter.FindAllString(text, -1)
	require.Len(t, found, 4)
	assert.Equal(t, found[0], found[1])
	assert.NotEqual(t, found[0], found[2], "each value has its own")
	assert.Equal(t, "image<<END\nshop/pay@sha256:01\nEND\nlog<<END\na\nb\n\nEND\n", delimiter.ReplaceAllString(text, "END"))
	assert.Equal(t, "PAGER<<END\ncat\nEND\n", delimiter.ReplaceAllString(read(t, env), "END"))
	assert.Equal(t, "# Stages\n- lint\n", read(t, summary))
}

func TestFilesThatOthersLeaveUnfinished(t *testing.T) {
	f, output, env, summary := files(t, "other=1")
	require.NoError(t, f.Output("image", "a"))
	require.NoError(t, f.Export("IMAGE", "b"))
	require.NoError(t, f.Summary("text"))
	assert.Equal(t, map[string]string{"other": "1", "image": "a"}, parse(t, read(t, output)))
	assert.Equal(t, map[string]string{"other": "1", "IMAGE": "b"}, parse(t, read(t, env)))
	assert.Equal(t, "other=1\ntext\n", read(t, summary))
}

func TestNames(t *testing.T) {
	f, output, env, _ := files(t, "")
	for _, name := range []string{
		"", " ", "a b", "a=b", "a<<b", "a\nb", "a\r", "a\x00", "a\n", "1a", "-a", "a.b", "ä", "::error::a", strings.Repeat("a", 256),
	} {
		assert.ErrorContains(t, f.Output(name, "x"), fmt.Sprintf("setting the output %q: that is no name for one; ", name))
		assert.ErrorContains(t, forge.Forge{}.Output(name, "x"), "that is no name for one", "it is the same on a laptop")
		if len(name) < 256 {
			assert.ErrorContains(t, f.Export(name, "x"), fmt.Sprintf("exporting the variable %q: that is no name for one; ", name))
		}
	}
	for _, name := range []string{"GITHUB_SHA", "GITEA_ACTIONS", "RUNNER_OS", "NODE_OPTIONS"} {
		assert.ErrorContains(t, f.Export(name, "x"), "exporting the variable "+name+": forges do not let a step change it; ")
	}
	assert.Error(t, f.Export("a-b", "x"))
	assert.Empty(t, read(t, output))
	assert.Empty(t, read(t, env))

	for _, name := range []string{"a", "_", "image-digest", "A_1", strings.Repeat("a", 255)} {
		assert.NoError(t, f.Output(name, "x"))
	}
	assert.NoError(t, f.Export("_a1", "x"))
}

func TestFilesThatAreNotSet(t *testing.T) {
	for _, f := range []forge.Forge{{}, giteaRun, githubRun} {
		assert.NoError(t, f.Output("image", "x"))
		assert.NoError(t, f.Export("IMAGE", "x"))
		assert.NoError(t, f.Summary("x"))
	}
	// A laptop whose environment says where the files of a forge would be.
	path := filepath.Join(t.TempDir(), "output")
	f, err := forge.Detect(environment(map[string]string{"GITHUB_OUTPUT": path, "GITHUB_ENV": path, "GITHUB_STEP_SUMMARY": path}))
	require.NoError(t, err)
	assert.NoError(t, f.Output("image", "x"))
	assert.NoError(t, f.Export("IMAGE", "x"))
	assert.NoError(t, f.Summary("x"))
	assert.NoFileExists(t, path)
}

func TestFilesThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	cases := map[string]string{dir: "is a directory", filepath.Join(dir, "none", "output"): "no such file"}
	if runtime.GOOS == "linux" {
		cases["/dev/full"] = "no space left"
	}
	for path, want := range cases {
		f, err := forge.Detect(environment(onGitea, map[string]string{"GITHUB_OUTPUT": path, "GITHUB_ENV": path, "GITHUB_STEP_SUMMARY": path}))
		require.NoError(t, err)
		for subject, err := range map[string]error{
			"setting the output image: ":     f.Output("image", "x"),
			"exporting the variable IMAGE: ": f.Export("IMAGE", "x"),
			"writing the step summary: ":     f.Summary("x"),
		} {
			assert.ErrorContains(t, err, subject)
			assert.ErrorContains(t, err, path)
			assert.ErrorContains(t, err, want)
		}
	}
	// One that is not there yet is made.
	path := filepath.Join(dir, "output")
	f, err := forge.Detect(environment(onGitea, map[string]string{"GITHUB_OUTPUT": path}))
	require.NoError(t, err)
	require.NoError(t, f.Output("image", "x"))
	assert.Equal(t, map[string]string{"image": "x"}, parse(t, read(t, path)))
}

func TestSummaryLimit(t *testing.T) {
	const (
		limit = 1000 << 10
		cut   = "\n_Cut off here: the forge shows no more than 1 MiB._\n"
	)
	tests := []struct {
		name   string
		before string
		text   string
		want   func(got string) bool
	}{
		{"at the limit", "", strings.Repeat("x", limit-len(cut)-1), func(got string) bool {
			return got == strings.Repeat("x", limit-len(cut)-1)+"\n"
		}},
		{"one more", "", "a\n" + strings.Repeat("x", limit-len(cut)-2), func(got string) bool { return got == "a\n"+cut }},
		{"lines", "", strings.Repeat("123456\n", limit/7+1), func(got string) bool {
			kept, ok := strings.CutSuffix(got, cut)
			return ok && kept == strings.Repeat("123456\n", (limit-len(cut))/7)
		}},
		{"one line of wide runes", "", strings.Repeat("€", limit), func(got string) bool {
			kept, ok := strings.CutSuffix(got, cut)
			return ok && utf8.ValidString(kept) && kept == strings.Repeat("€", (limit-len(cut))/3)
		}},
		{"nothing but continuation bytes", "", strings.Repeat("\x80", limit), func(got string) bool { return got == cut }},
		{"little room", strings.Repeat("x", limit-len(cut)-4) + "\n", "abcdefgh", func(got string) bool {
			return strings.HasSuffix(got, "x\nabc"+cut) && len(got) == limit
		}},
		{"room for the remark alone", strings.Repeat("x", limit-len(cut)-1) + "\n", "abc", func(got string) bool {
			return strings.HasSuffix(got, "x\n"+cut) && len(got) == limit
		}},
		{"no room", strings.Repeat("x", limit-1) + "\n", "abc", func(got string) bool { return strings.HasSuffix(got, "x\n") && len(got) == limit }},
		{"too much before", strings.Repeat("x", 2*limit), "abc", func(got string) bool { return got == strings.Repeat("x", 2*limit) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, _, _, summary := files(t, tt.before)
			require.NoError(t, f.Summary(tt.text))
			got := read(t, summary)
			assert.True(t, tt.want(got), "%d bytes, which end with %q", len(got), got[max(0, len(got)-80):])
			if len(tt.before) <= limit {
				assert.LessOrEqual(t, len(got), limit)
			}
		})
	}
}

func TestSummaryKeepsTheLimitForever(t *testing.T) {
	f, _, _, summary := files(t, "")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 40 {
				assert.NoError(t, f.Summary(strings.Repeat("0123456\n", 1<<10)))
			}
		})
	}
	group.Wait()
	got := read(t, summary)
	assert.LessOrEqual(t, len(got), 1000<<10)
	assert.Contains(t, got, "_Cut off here")
}

func TestOutputFromManyAtOnce(t *testing.T) {
	f, output, _, _ := files(t, "")
	want := map[string]string{}
	var group sync.WaitGroup
	for _, who := range []string{"a", "b", "c", "d"} {
		for i := range 100 {
			want[fmt.Sprintf("%s-%d", who, i)] = value(who, i)
		}
		group.Go(func() {
			for i := range 100 {
				assert.NoError(t, f.Output(fmt.Sprintf("%s-%d", who, i), value(who, i)))
			}
		})
	}
	group.Wait()
	assert.Equal(t, want, parse(t, read(t, output)))
}

func TestOutputFromTwoProcesses(t *testing.T) {
	output := filepath.Join(t.TempDir(), "output")
	want := map[string]string{}
	var group sync.WaitGroup
	for _, who := range []string{"a", "b"} {
		for i := range 200 {
			want[fmt.Sprintf("%s-%d", who, i)] = value(who, i)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), appendsOutputs+"="+who, "GITEA_ACTIONS=", "GITHUB_ACTIONS=true", "GITHUB_EVENT_PATH=", "GITHUB_OUTPUT="+output)
		group.Go(func() {
			out, err := cmd.CombinedOutput()
			assert.NoError(t, err, "%s", out)
		})
	}
	group.Wait()
	assert.Equal(t, want, parse(t, read(t, output)))
}

func FuzzOutput(f *testing.F) {
	for _, value := range hostile {
		if len(value) < 1000 {
			f.Add("image", value, "")
			f.Add("image", value, "other=1")
		}
	}
	f.Fuzz(func(t *testing.T, name, value, before string) {
		if strings.ContainsAny(before, "\n<") || !strings.Contains(before, "=") {
			before = ""
		}
		f, output, _, _ := files(t, before)
		if err := f.Output(name, value); err != nil {
			require.Equal(t, before, read(t, output), "a refused name leaves nothing")
			return
		}
		want := map[string]string{name: value}
		if key, value, ok := strings.Cut(before, "="); ok {
			if key == name {
				t.Skip("the same output twice")
			}
			want[key] = value
		}
		require.Equal(t, want, parse(t, read(t, output)))
	})
}
