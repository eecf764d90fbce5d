// Package gotest runs go test and keeps its results: a report for the forge, the coverage as a figure and as a page, and an
// error that names what failed and where.
package gotest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
)

// Names of the files in Options.ReportDir.
const (
	CoverProfile = "coverage.out"
	CoverPage    = "coverage.html"
	JUnit        = "junit.xml"
)

// Options says what Run runs. The zero value tests the module in the current folder.
type Options struct {
	// Dir is a folder of the module. Default: the current one.
	Dir string
	// Root is the folder that file names in the reports and in errors are relative to, which a forge takes for the
	// repository's. Default: Dir.
	Root string
	// Packages are package patterns. Default: ./...
	Packages []string
	// Timeout bounds the tests of a package. Default: 300s.
	Timeout time.Duration
	// Race turns the race detector on or off. Default: on where RaceSupported says so.
	Race *bool
	// Run is a regular expression for the tests to run. Default: all of them.
	Run string
	// Count is how often each test runs; a Count is never answered from Go's test cache. Default: once, from the cache where
	// nothing has changed.
	Count int
	// CoverPackages are patterns of the packages whose coverage counts. Default: each package counts for its own tests.
	CoverPackages []string
	// Coverage is the least coverage, in percent of the statements; zero and below: there is no least.
	Coverage float64
	// ReportDir is where coverage.out, coverage.html and junit.xml go. It is made where it is missing. Default: build in Dir.
	ReportDir string
	// Output gets what go test would print. Default: process.Output(ctx).
	Output io.Writer
	// Env is the environment of the tests, each "NAME=value". Default: this process's.
	Env []string
	// Mask strikes secrets out of the JUnit report. Default: nothing is.
	Mask func(string) string
}

// Validate says what is wrong with the options. Run calls it.
func (o Options) Validate() error {
	switch {
	case o.Timeout < 0:
		return fmt.Errorf("the time limit is %s; it has to be positive", o.Timeout)
	case o.Count < 0:
		return fmt.Errorf("the count is %d; it has to be positive", o.Count)
	case o.Coverage > 100:
		return fmt.Errorf("the coverage threshold is %g %%; it has to be at most 100", o.Coverage)
	}
	for _, pattern := range append(append([]string(nil), o.Packages...), o.CoverPackages...) {
		if pattern == "" || strings.HasPrefix(pattern, "-") {
			return fmt.Errorf("%q is no package pattern; write ./... or the path of a package", pattern)
		}
	}
	return nil
}

func (o Options) withDefaults(ctx context.Context) Options {
	o.Dir = cmp.Or(o.Dir, ".")
	o.Root = cmp.Or(o.Root, o.Dir)
	o.Timeout = cmp.Or(o.Timeout, 300*time.Second)
	o.ReportDir = cmp.Or(o.ReportDir, filepath.Join(o.Dir, "build"))
	if len(o.Packages) == 0 {
		o.Packages = []string{"./..."}
	}
	if o.Output == nil {
		o.Output = process.Output(ctx)
	}
	return o
}

// arguments are those of the go command.
func (o Options) arguments(profile string, race bool) []string {
	args := []string{"test", "-json", "-timeout=" + o.Timeout.String(), "-coverprofile=" + profile}
	if race {
		args = append(args, "-race")
	}
	if o.Run != "" {
		args = append(args, "-run="+o.Run)
	}
	if o.Count > 0 {
		args = append(args, "-count="+strconv.Itoa(o.Count))
	}
	if len(o.CoverPackages) > 0 {
		args = append(args, "-coverpkg="+strings.Join(o.CoverPackages, ","))
	}
	return append(args, o.Packages...)
}

// Result is what came of a run.
type Result struct {
	// Passed, Failed and Skipped count tests, subtests among them.
	Passed, Failed, Skipped int
	// Cached counts the packages whose result came from Go's test cache.
	Cached int
	// Coverage is the share of statements that the tests ran, in percent; where tests failed, of the packages that passed.
	Coverage float64
	// LeftOut are the tests that were skipped, with the reason as their message.
	LeftOut []Test
	// Slowest are the tests that took longest, slowest first, without those from the cache: ten at most.
	Slowest []Test
	// Failures are the tests that failed, without those that failed by a subtest of theirs, and the packages that failed
	// without a test.
	Failures []Test
}

// Test is a test, or with an empty Name a package as a whole: one that does not compile, or failed outside of its tests.
type Test struct {
	// Package is an import path.
	Package string
	// Name is the test's, with its parents': TestA/case.
	Name string
	// File is relative to Options.Root, with slashes, and Line counts from 1: where it failed, or else where the test
	// begins. Empty and 0 where that is not known.
	File string
	Line int
	// Duration is how long it ran.
	Duration time.Duration
	// Message is why it failed, in a line.
	Message string
}

// String is file:line: name, or as much of it as is known; of a package also why it failed.
func (t Test) String() string {
	text := t.Name
	if text == "" {
		text = t.Package + " " + t.Message
	}
	if t.File != "" && t.Line > 0 {
		text = fmt.Sprintf("%s:%d: %s", t.File, t.Line, text)
	}
	return text
}

// Run runs the tests once and writes the reports, also when tests fail or the run is cancelled. The error names the tests
// that failed (a *FailedError) and keeps go's exit code; where all passed, it says that the coverage is less than it has to
// be. The result is there with an error too, as far as tests ran.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("preparing the tests: %w", err)
	}
	o = o.withDefaults(ctx)
	reports, err := filepath.Abs(o.ReportDir)
	if err != nil {
		return nil, err
	}
	source, err := newSource(ctx, o)
	if err != nil {
		return nil, err
	}
	race, err := useRace(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := prepare(reports); err != nil {
		return nil, fmt.Errorf("preparing the folder of the reports: %w", err)
	}

	profile := filepath.Join(reports, CoverProfile)
	unfinished := profile + ".tmp" // go test adds to it package by package
	defer os.Remove(unfinished)
	start := time.Now()
	out := &sharedWriter{w: o.Output}
	events := newReader(out, source)
	var stderr bytes.Buffer
	cmd := process.Command(ctx, "go", o.arguments(unfinished, race)...)
	cmd.Dir, cmd.Env = o.Dir, o.Env
	// What tests say comes as events; stderr is the go command's own.
	cmd.Stdout, cmd.Stderr = events, io.MultiWriter(out, &stderr)
	runErr := process.Run(ctx, cmd)
	if ctx.Err() == nil && noPackages(stderr.String()) {
		runErr = nil // nothing has failed; whether that is enough, the threshold says
	}
	run := events.close(runErr)

	result := run.result()
	reportErr := writeJUnit(filepath.Join(reports, JUnit), run, start, time.Since(start), o.Mask)
	if ctx.Err() != nil {
		return result, errors.Join(interrupted(run, runErr), reportErr)
	}
	if err := os.Rename(unfinished, profile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return result, errors.Join(runErr, reportErr, err)
	}
	coverage, err := readCoverage(profile, source)
	if err == nil {
		err = coverPage(ctx, o, profile, filepath.Join(reports, CoverPage))
	}
	reportErr = errors.Join(reportErr, err)
	result.Coverage = coverage.percent()
	if runErr != nil {
		return result, errors.Join(&FailedError{Failures: result.Failures, Err: runErr}, reportErr)
	}
	if reportErr != nil {
		return result, reportErr
	}
	tested := result.Passed+result.Failed+result.Skipped > 0
	if !tested {
		zerolog.Ctx(ctx).Warn().Msg("there are no tests")
	}
	return result, coverage.check(o.Coverage, tested)
}

// prepare makes the folder of the reports, and removes those of an earlier run, lest they be taken for this one's.
func prepare(reports string) error {
	if err := os.MkdirAll(reports, 0o755); err != nil {
		return err
	}
	for _, name := range []string{CoverProfile, CoverPage, JUnit} {
		if err := os.Remove(filepath.Join(reports, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// noPackages says that stderr is go test's of a module without packages, for which it exits with an error.
func noPackages(stderr string) bool {
	return strings.HasSuffix(stderr, "\nno packages to test\n") && strings.HasPrefix(stderr, "go: warning: ")
}

// interrupted is the error of a run that was cancelled; a test that was running then has not failed.
func interrupted(r *run, err error) error {
	running := r.running()
	if len(running) == 0 {
		return fmt.Errorf("testing: %w", err)
	}
	return fmt.Errorf("testing: %w; %s", err, list("still running: ", running))
}

// coverPage writes the page beside its place first: half a page is worse than none.
func coverPage(ctx context.Context, o Options, profile, page string) error {
	if _, err := os.Stat(profile); errors.Is(err, os.ErrNotExist) {
		return nil // go test writes none where it has run nothing
	}
	tmp := page + ".tmp"
	defer os.Remove(tmp)
	cmd := process.Command(ctx, "go", "tool", "cover", "-html="+profile, "-o="+tmp)
	cmd.Dir, cmd.Env = o.Dir, o.Env
	if _, err := process.Capture(ctx, cmd); err != nil {
		return fmt.Errorf("making the coverage page: %w", err)
	}
	return os.Rename(tmp, page)
}

// sharedWriter lets two streams of a process write to one writer.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
