package gotest

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"
)

func tree(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte("-- go.mod --\nmodule example.org/m\n\ngo 1.26\n" + archive)).Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, f.Data, 0o644))
	}
	return dir
}

// goTest runs the tests of a module and returns what was printed, and the report.
func goTest(t *testing.T, o Options) (*Result, string, testsuites, error) {
	t.Helper()
	var out bytes.Buffer
	o.Output = &out
	o.ReportDir = filepath.Join(o.Dir, "build")
	if o.Race == nil {
		o.Race = new(bool)
	}
	result, err := Run(t.Context(), o)
	var report testsuites
	if data, rerr := os.ReadFile(filepath.Join(o.ReportDir, JUnit)); rerr == nil {
		require.NoError(t, xml.Unmarshal(data, &report))
	}
	return result, out.String(), report, err
}

const half = `
-- a.go --
package a

func One() int { return 1 }

func Two() int { return 2 }
-- a_test.go --
package a

import "testing"

func TestOne(t *testing.T) {
	t.Log("quiet when it passes")
	if One() != 1 {
		t.Fatal("no")
	}
}

func TestSkipped(t *testing.T) { t.Skip("not today") }

func TestHelped(t *testing.T) { needsEngine(t) }

func needsEngine(t *testing.T) {
	t.Helper()
	t.Log("looking")
	t.Skip("needs an engine")
}
-- sub/sub.go --
package sub
`

func TestRunPasses(t *testing.T) {
	dir := tree(t, half)
	result, out, report, err := goTest(t, Options{Dir: dir, Coverage: 50})
	require.NoError(t, err)
	require.Len(t, result.LeftOut, 2)
	assert.Equal(t, "a_test.go:12: TestSkipped", result.LeftOut[0].String())
	assert.Equal(t, "not today", result.LeftOut[0].Message)
	assert.Equal(t, "a_test.go:14: TestHelped", result.LeftOut[1].String())
	assert.Equal(t, "needs an engine", result.LeftOut[1].Message)
	result.LeftOut = nil
	assert.Equal(t, &Result{Passed: 1, Skipped: 2, Coverage: 50}, result)
	assert.Contains(t, out, "ok  \texample.org/m\t")
	assert.NotContains(t, out, "quiet when it passes")
	assert.NotContains(t, out, `"Action"`)
	assert.Equal(t, 3, report.Tests)
	assert.Equal(t, 2, report.Skipped)
	for _, name := range []string{CoverProfile, CoverPage, JUnit} {
		assert.FileExists(t, filepath.Join(dir, "build", name))
	}
	assert.NoFileExists(t, filepath.Join(dir, "build", CoverPage+".tmp"))
	profile, err := os.ReadFile(filepath.Join(dir, "build", CoverProfile))
	require.NoError(t, err)

	result, _, _, err = goTest(t, Options{Dir: dir, Coverage: 50})
	require.NoError(t, err)
	assert.Equal(t, 1, result.Cached, "the second time it comes from the cache")
	assert.InDelta(t, 50, result.Coverage, 0.01)
	cached, err := os.ReadFile(filepath.Join(dir, "build", CoverProfile))
	require.NoError(t, err)
	assert.Equal(t, string(profile), string(cached), "with the same profile")

	result, _, _, err = goTest(t, Options{Dir: dir, Count: 2, Run: "TestOne"})
	require.NoError(t, err)
	assert.Equal(t, 2, result.Passed)
	assert.Zero(t, result.Skipped, "only TestOne runs")
	assert.Zero(t, result.Cached, "a count is not answered from the cache")
}

func TestRunCoversOtherPackages(t *testing.T) {
	dir := tree(t, `
-- lib/lib.go --
package lib

func One() int { return 1 }

func Two() int { return 2 }
-- lib/lib_test.go --
package lib

import "testing"

func TestOne(t *testing.T) { One() }
-- use/use_test.go --
package use

import (
	"testing"

	"example.org/m/lib"
)

func TestTwo(t *testing.T) { lib.Two() }
`)
	result, _, _, err := goTest(t, Options{Dir: dir})
	require.NoError(t, err)
	assert.InDelta(t, 50, result.Coverage, 0.01)
	result, _, _, err = goTest(t, Options{Dir: dir, CoverPackages: []string{"./lib", "./use"}, Coverage: 100})
	require.NoError(t, err, "a block that two packages' tests ran counts once")
	assert.InDelta(t, 100, result.Coverage, 0.01)
	result, out, _, err := goTest(t, Options{Dir: dir, Packages: []string{"./use"}, Coverage: -1})
	require.NoError(t, err)
	assert.Equal(t, 1, result.Passed)
	assert.NotContains(t, out, "example.org/m/lib")
}

func TestRunBelowTheThreshold(t *testing.T) {
	_, _, _, err := goTest(t, Options{Dir: tree(t, half), Coverage: 70})
	require.EqualError(t, err, "coverage is 50.0 % of the statements, which is below the threshold of 70 %; most of what no test runs is in a.go (1 statement)")
	_, _, _, err = goTest(t, Options{Dir: tree(t, half), Coverage: -1})
	require.NoError(t, err)
}

func TestRunWithoutTests(t *testing.T) {
	tests := []struct{ name, archive, cure string }{
		{"no tests", "-- a.go --\npackage a\n\nfunc F() { println() }\n", "there are no tests: write one"},
		{"no packages", "", "there are no tests: write one"},
		{"no statements", "-- a.go --\npackage a\n-- a_test.go --\npackage a\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {}\n", "there are no statements to test: set the threshold to 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, tt.archive)
			_, _, report, err := goTest(t, Options{Dir: dir, Coverage: 70})
			require.EqualError(t, err, "coverage is 0.0 % of the statements, which is below the threshold of 70 %; "+tt.cure)
			assert.FileExists(t, filepath.Join(dir, "build", JUnit))
			assert.Zero(t, report.Failures+report.Errors)

			var log bytes.Buffer
			ctx := zerolog.New(&log).WithContext(t.Context())
			_, err = Run(ctx, Options{Dir: dir, Race: new(bool), Output: &bytes.Buffer{}})
			require.NoError(t, err, "without a threshold that is no failure")
			assert.Equal(t, tt.name != "no statements", strings.Contains(log.String(), "there are no tests"))
		})
	}
}

func TestCoverageIsRoundedDown(t *testing.T) {
	err := coverage{statements: 100000, covered: 69999}.check(70, true)
	require.ErrorContains(t, err, "coverage is 69.9 %")
	require.NoError(t, coverage{statements: 10, covered: 7}.check(70, true))
}

func TestReadCoverage(t *testing.T) {
	s := &source{root: "/m", modules: []module{{"example.org/m", "/m"}, {"example.org/m/sub", "/m/elsewhere"}}}
	tests := []struct {
		name, profile string
		want          coverage
		fails         bool
	}{
		{"equal blocks", "mode: set\nexample.org/m/a.go:1.1,2.2 3 0\nexample.org/m/a.go:1.1,2.2 3 1\n", coverage{statements: 3, covered: 3}, false},
		{"counts", "mode: atomic\nexample.org/m/a.go:1.1,2.2 3 0\nexample.org/m/a.go:1.1,2.2 3 7\nexample.org/m/a.go:3.1,4.2 1 0\n",
			coverage{statements: 4, covered: 3, files: []fileCoverage{{"a.go", 1}}}, false},
		{"a module in another folder", "mode: set\nexample.org/m/sub/b.go:1.1,2.2 2 0\n", coverage{statements: 2, files: []fileCoverage{{"elsewhere/b.go", 2}}}, false},
		{"a file of another module", "mode: set\nother.org/b.go:1.1,2.2 2 0\n", coverage{statements: 2, files: []fileCoverage{{"other.org/b.go", 2}}}, false},
		{"nothing", "mode: set\n", coverage{}, false},
		{"cut off", "mode: set\nexample.org/m/a.go:1.1,2", coverage{}, true},
		{"no profile", "<html>", coverage{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), CoverProfile)
			require.NoError(t, os.WriteFile(path, []byte(tt.profile), 0o644))
			got, err := readCoverage(path, s)
			if tt.fails {
				require.ErrorContains(t, err, "reading the coverage profile: ")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"nothing", Options{}, ""},
		{"patterns", Options{Packages: []string{"./...", "example.org/m/sub"}}, ""},
		{"time limit", Options{Timeout: -time.Second}, "the time limit is -1s; it has to be positive"},
		{"count", Options{Count: -1}, "the count is -1; it has to be positive"},
		{"threshold", Options{Coverage: 700}, "the coverage threshold is 700 %; it has to be at most 100"},
		{"a flag", Options{Packages: []string{"-exec=rm"}}, `"-exec=rm" is no package pattern; write ./... or the path of a package`},
		{"an empty pattern", Options{CoverPackages: []string{""}}, `"" is no package pattern; write ./... or the path of a package`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.o.Validate()
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.want)
			_, err = Run(t.Context(), tt.o)
			require.EqualError(t, err, "preparing the tests: "+tt.want)
		})
	}
}

func TestRunOutsideAModule(t *testing.T) {
	dir := t.TempDir()
	_, err := Run(t.Context(), Options{Dir: dir})
	require.ErrorContains(t, err, "asking for the module: ")
	assert.NoDirExists(t, filepath.Join(dir, "build"))
}

func TestRunOfANestedModule(t *testing.T) {
	root := t.TempDir()
	for name, data := range map[string]string{
		"go.work":         "go 1.26\n\nuse (\n\t./a\n\t./b\n)\n",
		"a/go.mod":        "module example.org/a\n\ngo 1.26\n",
		"b/go.mod":        "module example.org/b\n\ngo 1.26\n",
		"b/sub/b_test.go": "package b\n\nimport \"testing\"\n\nfunc TestB(t *testing.T) { t.Error(\"no\") }\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(data), 0o644))
	}
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(root, link))
	_, _, report, err := goTest(t, Options{Dir: filepath.Join(root, "b"), Root: link})
	require.EqualError(t, err, "1 failure: b/sub/b_test.go:5: TestB")
	assert.Equal(t, "b/sub/b_test.go", report.Suites[0].Cases[0].File, "relative to the repository's root")
}

func TestRunRemovesEarlierReports(t *testing.T) {
	dir := tree(t, "-- a_test.go --\npackage a\n\nvar x = y\n")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "build"), 0o755))
	for _, name := range []string{CoverProfile, CoverPage} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "build", name), []byte("of yesterday"), 0o644))
	}
	_, _, _, err := goTest(t, Options{Dir: dir})
	require.ErrorContains(t, err, "does not compile")
	for _, name := range []string{CoverProfile, CoverPage} {
		data, _ := os.ReadFile(filepath.Join(dir, "build", name))
		assert.NotContains(t, string(data), "of yesterday")
	}
}

func TestRunThatCannotReport(t *testing.T) {
	dir := tree(t, half)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "build"), nil, 0o644))
	_, err := Run(t.Context(), Options{Dir: dir, Race: new(bool), Output: &bytes.Buffer{}})
	require.ErrorContains(t, err, "preparing the folder of the reports: ")
}

func TestRunWithTheRaceDetector(t *testing.T) {
	if ok, reason, err := RaceSupported(t.Context()); err != nil || !ok {
		t.Skip("the race detector cannot run here", reason, err)
	}
	dir := tree(t, "-- a_test.go --\npackage a\n\nimport \"testing\"\n\nfunc TestRaces(t *testing.T) {\n\tn := 0\n\tdone := make(chan bool)\n\tgo func() { n++; close(done) }()\n\tn++\n\t<-done\n}\n")
	_, out, _, err := goTest(t, Options{Dir: dir, Race: new(true)})
	require.EqualError(t, err, "1 failure: a_test.go:5: TestRaces")
	assert.Contains(t, out, "WARNING: DATA RACE")
	_, _, _, err = goTest(t, Options{Dir: dir})
	require.NoError(t, err)

	t.Setenv("CC", "no-such-compiler")
	var log bytes.Buffer
	ctx := zerolog.New(&log).WithContext(t.Context())
	_, err = Run(ctx, Options{Dir: dir, Output: &bytes.Buffer{}})
	require.NoError(t, err, "where it cannot run the tests run without")
	assert.Contains(t, log.String(), "the race detector is off: it needs a C compiler, and there is no no-such-compiler")
}

func TestRunFailures(t *testing.T) {
	tests := []struct {
		name, archive string
		want          string // the error
		printed       string
		check         func(t *testing.T, report testsuites)
	}{
		{
			name:    "a test",
			archive: "-- sub/a_test.go --\npackage a\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {\n\tt.Error(\"wrong ]]> \\x1b[31m \\x00 answer\")\n}\n\nfunc TestB(t *testing.T) {}\n",
			want:    "1 failure: sub/a_test.go:6: TestA",
			printed: "a_test.go:6: wrong",
			check: func(t *testing.T, report testsuites) {
				assert.Equal(t, 1, report.Failures)
				assert.Equal(t, 2, report.Tests)
				c := report.Suites[0].Cases[0]
				assert.Equal(t, "sub/a_test.go", c.File)
				assert.Equal(t, 6, c.Line)
				assert.Contains(t, c.Failure.Text, "wrong ]]> ")
			},
		},
		{
			name:    "a subtest",
			archive: "-- a_test.go --\npackage a\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {\n\tt.Run(\"x y\", func(t *testing.T) { t.Fatal(\"no\") })\n}\n",
			want:    "1 failure: a_test.go:6: TestA/x_y",
			printed: "a_test.go:6: no",
		},
		{
			name:    "a package that does not compile",
			archive: "-- a_test.go --\npackage a\n\nvar x = y\n-- b/b_test.go --\npackage b\n\nimport \"testing\"\n\nfunc TestB(t *testing.T) {}\n",
			want:    "1 failure: a_test.go:3: example.org/m does not compile: undefined: y",
			printed: "undefined: y",
			check: func(t *testing.T, report testsuites) {
				assert.Equal(t, 1, report.Errors)
				assert.Equal(t, 2, report.Tests, "the other package was tested")
				var text string
				for _, s := range report.Suites {
					for _, c := range s.Cases {
						if c.Error != nil {
							text += c.Error.Text
						}
					}
				}
				assert.Contains(t, text, "undefined: y")
			},
		},
		{
			name:    "TestMain fails",
			archive: "-- a_test.go --\npackage a\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) { println(\"no database\"); os.Exit(1) }\n",
			want:    "1 failure: example.org/m failed outside of its tests",
			printed: "no database",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, out, report, err := goTest(t, Options{Dir: tree(t, tt.archive), Coverage: 70})
			var failed *FailedError
			require.ErrorAs(t, err, &failed, "printed: %s", out)
			assert.Contains(t, err.Error(), tt.want)
			assert.Contains(t, out, tt.printed)
			var exit interface{ ExitStatus() int }
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, 1, exit.ExitStatus(), "go's exit code")
			if tt.check != nil {
				tt.check(t, report)
			}
		})
	}
}

func TestRunCancelled(t *testing.T) {
	dir := tree(t, `
-- a_test.go --
package a

import "testing"

func TestHangs(t *testing.T) {
	t.Run("first", func(t *testing.T) { t.Error("it has begun") })
	select {}
}
`)
	ctx, cancel := context.WithCancel(t.Context())
	result, err := Run(ctx, Options{Dir: dir, Race: new(bool), Output: writer(func(p []byte) {
		if bytes.Contains(p, []byte("it has begun")) {
			cancel()
		}
	})})
	require.ErrorIs(t, err, context.Canceled)
	assert.Contains(t, err.Error(), "; still running: TestHangs")
	assert.NotContains(t, err.Error(), "failure")
	assert.Equal(t, 2, result.Failed)
	data, err := os.ReadFile(filepath.Join(dir, "build", JUnit))
	require.NoError(t, err, "what is known is reported")
	assert.Contains(t, string(data), `name="TestHangs/first"`)
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestRaceSupported(t *testing.T) {
	t.Setenv("CC", "'"+os.Args[0]+"' -m64")
	t.Setenv("CGO_ENABLED", "0")
	ok, reason, err := RaceSupported(t.Context())
	require.NoError(t, err)
	assert.False(t, ok)
	assert.Contains(t, reason, "CGO_ENABLED is 0")

	t.Setenv("CGO_ENABLED", "1")
	t.Setenv("CC", "no-such-compiler -m64")
	ok, reason, err = RaceSupported(t.Context())
	require.NoError(t, err)
	assert.False(t, ok)
	assert.Contains(t, reason, "no no-such-compiler")

	t.Setenv("GOOS", "linux")
	t.Setenv("GOARCH", "386")
	_, reason, err = RaceSupported(t.Context())
	require.NoError(t, err)
	assert.Contains(t, reason, "linux/386")
}

func line(t *testing.T, e event) string {
	t.Helper()
	data, err := json.Marshal(e)
	require.NoError(t, err)
	return string(data) + "\n"
}

func feed(t *testing.T, stream string, chunk int) (r *reader, out *bytes.Buffer) {
	t.Helper()
	out = &bytes.Buffer{}
	r = newReader(out, &source{})
	for rest := []byte(stream); len(rest) > 0; {
		n := min(len(rest), chunk)
		_, err := r.Write(rest[:n])
		require.NoError(t, err)
		rest = rest[n:]
	}
	return r, out
}

func TestReader(t *testing.T) {
	long := strings.Repeat("x", 5<<20)
	output := func(test, s string) string {
		return line(t, event{Action: "output", Package: "m", Test: test, Output: s})
	}
	end := func(action, test string) string { return line(t, event{Action: action, Package: "m", Test: test}) }
	tests := []struct{ name, stream, want string }{
		{"what is no event", "not an event " + long + "\n", "not an event " + long + "\n"},
		{"no last newline", "a tail", "a tail"},
		{"binary", "\x00\xff\r\n", "\x00\xff\r\n"},
		{"JSON that is no event", "{}\n[1]\nnull\n{\"Action\":1}\n", "{}\n[1]\nnull\n{\"Action\":1}\n"},
		{"half an event", `{"Action":"output","Package":"m","Out`, `{"Action":"output","Package":"m","Out`},
		{"a long line of a test that fails", output("T", long+"\n") + end("fail", "T") + end("fail", ""), long + "\n"},
		{"a long line of a test that passes", output("T", long+"\n") + end("pass", "T") + end("pass", ""), ""},
		{"a package that fails", output("", "words\n") + output("", "FAIL\tm\t0.1s\n") + output("", "after\n") + end("fail", ""), "words\nFAIL\tm\t0.1s\nafter\n"},
		{"a package that passes", output("", "words\n") + output("", "ok  \tm\t0.1s\n") + end("pass", ""), "ok  \tm\t0.1s\n"},
		{"a test that passes at last", line(t, event{Action: "run", Package: "m", Test: "T"}) + output("T", "words\n") + end("pass", "T"), ""},
		{"a stream that ends early", output("", "words\n") + output("T", "of a test\n"), "words\n"},
		{"of another package's name", output("", "ok  \tmm\t0.1s\n") + end("fail", ""), "ok  \tmm\t0.1s\n"},
		{"binary of a test", output("T", "\x00\x1b\n") + end("fail", "T"), "\x00\x1b\n"},
		{"a build", line(t, event{Action: "build-output", ImportPath: "m", Output: "./a.go:1:1: no\n"}) + line(t, event{Action: "build-fail", ImportPath: "m"}), "./a.go:1:1: no\n"},
		{"in order", "one\n" + output("T", "two\n") + end("fail", "T") + "three\n", "one\ntwo\nthree\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, chunk := range []int{4099, 64 << 20} {
				r, out := feed(t, tt.stream, chunk)
				r.close(nil)
				assert.True(t, tt.want == out.String(), "want %d bytes, got %d: %.200q", len(tt.want), out.Len(), out.String())
			}
		})
	}
}

func TestReaderPrintsAtOnce(t *testing.T) {
	_, out := feed(t, line(t, event{Action: "output", Package: "m", Test: "T", Output: "no\n"})+line(t, event{Action: "fail", Package: "m", Test: "T"}), 64)
	assert.Equal(t, "no\n", out.String(), "before the package has ended")
}

func TestReportOfAPackageThatDidNotFinish(t *testing.T) {
	stream := line(t, event{Action: "start", Package: "m"})
	r, _ := feed(t, stream, 64)
	failures := r.close(context.Canceled).result().Failures
	require.Len(t, failures, 1)
	assert.Equal(t, "m did not finish", failures[0].String())
}

func TestLineBeyondTheLimitIsPrinted(t *testing.T) {
	long := strings.Repeat("x", maxLine+100) + "\n"
	_, out := feed(t, long+"next\n", 1<<20)
	assert.True(t, out.String() == long+"next\n")
}

func TestOutputOfATestIsBounded(t *testing.T) {
	words := line(t, event{Action: "output", Package: "m", Test: "T", Output: strings.Repeat("y", 1<<20) + "\n"})
	r, out := feed(t, strings.Repeat(words, 40), 1<<20)
	_, _ = r.Write([]byte(line(t, event{Action: "output", Package: "m", Test: "T", Output: "the end\n"})))
	_, _ = r.Write([]byte(line(t, event{Action: "fail", Package: "m", Test: "T"})))
	kept := r.run.byPath["m"].byName["T"].output
	assert.LessOrEqual(t, len(kept.data), 2*maxOutput+(1<<20))
	assert.GreaterOrEqual(t, len(kept.data), maxOutput)
	assert.Equal(t, 40*((1<<20)+1)+len("the end\n"), kept.lost+len(kept.data))
	assert.True(t, strings.HasPrefix(out.String(), fmt.Sprintf("… %d bytes are left out …\n", kept.lost)), "what is left out is said")
	assert.True(t, strings.HasSuffix(out.String(), "the end\n"))

	failure := r.close(nil).junit(time.Unix(0, 0), 0).Suites[0].Cases[0].Failure
	assert.Less(t, len(failure.Text), maxReport+100)
	assert.True(t, strings.HasSuffix(failure.Text, "the end\n"))
}

func TestSlowest(t *testing.T) {
	var stream string
	for i := range 12 {
		stream += line(t, event{Action: "pass", Package: "m", Test: fmt.Sprintf("T%d", i), Elapsed: float64(i)})
	}
	stream += line(t, event{Action: "pass", Package: "m", Test: "P/sub", Elapsed: 100}) + line(t, event{Action: "pass", Package: "m", Test: "P", Elapsed: 101})
	stream += line(t, event{Action: "pass", Package: "c", Test: "C", Elapsed: 1000}) + line(t, event{Action: "output", Package: "c", Output: "ok  \tc\t(cached)\n"})
	r, _ := feed(t, stream, 100)
	result := r.close(nil).result()
	require.Len(t, result.Slowest, 10)
	assert.Equal(t, Test{Package: "m", Name: "P/sub", Duration: 100 * time.Second}, result.Slowest[0], "a test with subtests is as slow as they are, and one from the cache took no time")
	assert.Equal(t, "T11", result.Slowest[1].Name)
	assert.Equal(t, 1, result.Cached)
	assert.Equal(t, 15, result.Passed)
}

func TestClean(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "a\tb\nc", "a\tb\nc"},
		{"control characters", "\x00\x07", "\ufffd\ufffd"},
		{"broken UTF-8", "a\xffb", "a\ufffdb"},
		{"no characters", "\ufffe\uffff", "\ufffd\ufffd"},
		{"colours", "\x1b[1;31mred\x1b[0m", "red"},
		{"another escape", "\x1b]0;title", "\ufffd]0;title"},
		{"the end of CDATA", "]]>", "]]>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, clean(tt.in)) })
	}
}

// FuzzReader holds the reader to: no panic, the same result however the stream is cut, and a report that is well-formed XML
// whatever the stream says.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"Action":"run","Package":"m","Test":"T"}` + "\n" + `{"Action":"output","Package":"m","Test":"T","Output":"\u0000]]>\u001b\n"}` + "\n" + `{"Action":"fail","Package":"m","Test":"T"}` + "\n" + `{"Action":"fail","Package":"m"}`))
	f.Add([]byte("{}\n[]\nnull\n\n{\"Action\":\"pass\"}\n"))
	f.Add([]byte(`{"Action":"fail","Package":"\ud800","Test":"<&\"'>","FailedBuild":"x"}`))
	f.Add([]byte(`{"Action":"build-output","ImportPath":"x","Output":"../../a.go:99999999999999999999:1: no\n"}` + "\n" + `{"Action":"fail","Package":"m","FailedBuild":"x","Elapsed":1e308}`))
	f.Add([]byte(`{"Action":"output","Package":"m","Test":"//","Output":"    a.go:0: x\npanic: y\n"}` + "\n" + `{"Action":"fail","Package":"m"}`))
	dir := f.TempDir()
	s := func() *source {
		return &source{root: dir, dir: dir, modules: []module{{"m", dir}}, tests: map[string]map[string]position{}, lines: map[string][]string{}}
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		var whole, pieces bytes.Buffer
		r := newReader(&whole, s())
		_, _ = r.Write(stream)
		run := r.close(context.Canceled)
		byPiece := newReader(&pieces, s())
		for i := range stream {
			_, _ = byPiece.Write(stream[i : i+1])
		}
		byPiece.close(context.Canceled)
		require.Equal(t, whole.String(), pieces.String())

		result := run.result()
		_ = (&FailedError{Failures: result.Failures, Err: context.Canceled}).Error()
		data, err := xml.Marshal(run.junit(time.Unix(0, 0), 0))
		require.NoError(t, err)
		var back testsuites
		require.NoError(t, xml.Unmarshal(data, &back))
		require.GreaterOrEqual(t, back.Failures+back.Errors, result.Failed)
	})
}

// FuzzJUnit holds the report to: what is read back is what was written, whatever a test says.
func FuzzJUnit(f *testing.F) {
	f.Add("TestA/]]>", "\x00\x1b[31m\r\n<&>\xff")
	f.Add("\ufffe\u2028", "<![CDATA[")
	f.Fuzz(func(t *testing.T, name, said string) {
		if name == "" {
			name = "T" // without a name it is the package that speaks
		}
		r := newReader(&bytes.Buffer{}, &source{})
		r.event(event{Action: "output", Package: "m", Test: name, Output: said})
		r.event(event{Action: "fail", Package: "m", Test: name})
		kept := string(r.run.byPath["m"].byName[name].output.data)
		path := filepath.Join(t.TempDir(), JUnit)
		require.NoError(t, writeJUnit(path, r.close(nil), time.Unix(0, 0), 0, nil))
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var back testsuites
		require.NoError(t, xml.Unmarshal(data, &back))
		c := back.Suites[0].Cases[0]
		require.Equal(t, clean(name), c.Name)
		why := c.Failure
		if why == nil {
			why = c.Error // it says that it panicked
		}
		require.NotNil(t, why)
		require.Equal(t, report([]byte(kept), 0), why.Text)
	})
}
