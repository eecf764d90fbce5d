package gotest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// event is a line of `go test -json`. Source: go doc cmd/test2json, and go help buildjson for the builds'.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

// maxLine is how long a line of JSON may be that is looked into, in bytes. A longer one is printed as it is.
const maxLine = 64 << 20

// maxOutput is how much of a test's output is kept until it is known whether it is to be printed, in bytes: at least that
// much of its end, where the reason stands, and at most twice as much.
const maxOutput = 8 << 20

// text is output that waits for being printed.
type text struct {
	data    []byte
	lost    int // bytes that were before data
	printed int // bytes of data
}

func (t *text) write(s string) {
	t.data = append(t.data, s...)
	if len(t.data) <= 2*maxOutput {
		return
	}
	over := len(t.data) - maxOutput
	t.data = append(t.data[:0], t.data[over:]...)
	t.lost += over
	t.printed = max(0, t.printed-over)
}

// print prints what has not been printed yet.
func (t *text) print(w io.Writer) {
	if t.lost > 0 && t.printed == 0 && len(t.data) > 0 {
		fmt.Fprintf(w, "… %d bytes are left out …\n", t.lost)
	}
	_, _ = w.Write(t.data[t.printed:])
	t.printed = len(t.data)
}

// What a test has come to, in the words of go test.
const (
	running = "run"
	passed  = "pass"
	failed  = "fail"
	skipped = "skip"
)

// test is one run of a test.
type test struct {
	name    string
	action  string
	died    bool // it was running when its package ended
	seconds float64
	output  text // of a test that has passed, nothing
}

// pkg is a package under test.
type pkg struct {
	path        string
	action      string // empty while it is tested
	cached      bool
	unfinished  bool // the run ended before it
	seconds     float64
	failedBuild string // what did not compile: itself, its tests, or what it imports
	build       []byte // what that build said
	own         text   // what the package said outside of its tests
	tests       []*test
	byName      map[string]*test // the latest run
}

func (p *pkg) test(name string) *test {
	t := p.byName[name]
	if t == nil {
		t = &test{name: name, action: running}
		p.byName[name] = t
		p.tests = append(p.tests, t)
	}
	return t
}

// run is what is known of a run.
type run struct {
	source   *source
	packages []*pkg
	byPath   map[string]*pkg
	builds   map[string][]byte // by import path
}

func (r *run) pkg(path string) *pkg {
	p := r.byPath[path]
	if p == nil {
		p = &pkg{path: path, byName: map[string]*test{}}
		r.byPath[path] = p
		r.packages = append(r.packages, p)
	}
	return p
}

// reader is a writer for the output of `go test -json`: it prints what go test would have printed, as soon as that is known,
// and keeps the results.
type reader struct {
	out  io.Writer
	run  *run
	line []byte
	long bool // in the middle of a line that is longer than maxLine
}

func newReader(out io.Writer, s *source) *reader {
	return &reader{out: out, run: &run{source: s, byPath: map[string]*pkg{}, builds: map[string][]byte{}}}
}

// Write takes any piece of the stream, of whatever length.
func (r *reader) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.keep(p)
			break
		}
		r.keep(p[:i+1])
		r.end()
		p = p[i+1:]
	}
	return n, nil
}

func (r *reader) keep(p []byte) {
	r.line = append(r.line, p...)
	if len(r.line) > maxLine {
		_, _ = r.out.Write(r.line)
		r.line, r.long = r.line[:0], true
	}
}

// end handles the line that has been kept.
func (r *reader) end() {
	line := r.line
	r.line = r.line[:0]
	var e event
	if r.long || json.Unmarshal(line, &e) != nil || e.Action == "" {
		r.long = false
		_, _ = r.out.Write(line) // no event: something wrote past the test's own output
		return
	}
	r.event(e)
}

func (r *reader) event(e event) {
	switch {
	case e.Action == "build-output":
		r.run.builds[e.ImportPath] = append(r.run.builds[e.ImportPath], e.Output...)
		r.print(e.Output)
	case e.Action == "build-fail":
		// The packages that fail by it say so themselves.
	case e.Package == "":
		r.print(e.Output)
	case e.Test == "":
		r.packageEvent(r.run.pkg(e.Package), e)
	default:
		r.testEvent(r.run.pkg(e.Package), e)
	}
}

func (r *reader) testEvent(p *pkg, e event) {
	switch t := p.test(e.Test); e.Action {
	case "run":
		if t.action != running {
			delete(p.byName, e.Test) // it runs once more, by -count
			p.test(e.Test)
		}
	case "output":
		if !noise(e.Output) {
			t.output.write(e.Output)
		}
	case passed:
		t.action, t.seconds, t.output = passed, e.Elapsed, text{}
	case skipped:
		t.action, t.seconds = skipped, e.Elapsed
	case failed:
		t.action, t.seconds = failed, e.Elapsed
		t.output.print(r.out) // as plain go test has it: only what failed is shown
	}
}

func (r *reader) packageEvent(p *pkg, e event) {
	switch e.Action {
	case "output":
		if !summary(p, e.Output) {
			p.own.write(e.Output)
			return
		}
		p.cached = p.cached || strings.Contains(e.Output, "\t(cached)")
		if strings.HasPrefix(e.Output, "FAIL\t") {
			r.showFailed(p)
		}
		r.print(e.Output)
	case passed, skipped:
		p.action, p.seconds, p.own = e.Action, e.Elapsed, text{}
	case failed:
		p.action, p.seconds = failed, e.Elapsed
		p.failedBuild, p.build = e.FailedBuild, r.run.builds[e.FailedBuild]
		r.showFailed(p)
	}
}

// summary says that s is the line that go test prints of a package in any case.
func summary(p *pkg, s string) bool {
	for _, verdict := range []string{"ok  \t", "?   \t", "FAIL\t", "\t"} {
		rest, found := strings.CutPrefix(s, verdict+p.path)
		if found && rest != "" && strings.ContainsAny(rest[:1], "\t \n") {
			return true
		}
	}
	return false
}

// showFailed prints what a package has said that fails. A test that was still running then is the one that ended it, by a
// panic, a time limit or os.Exit, or was ended with it.
func (r *reader) showFailed(p *pkg) {
	for _, t := range p.tests {
		if t.action == running {
			t.action, t.died = failed, true
			t.output.print(r.out)
		}
	}
	p.own.print(r.out)
}

// noise is what go test -v says of tests that run, and go test does not.
func noise(s string) bool {
	for _, prefix := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

func (r *reader) print(s string) { _, _ = io.WriteString(r.out, s) }

// close ends the stream of a go command that ended with err.
func (r *reader) close(err error) *run {
	if len(r.line) > 0 {
		r.end()
	}
	for _, p := range r.run.packages {
		switch {
		case p.action != "":
		case err != nil:
			r.showFailed(p)
			p.action, p.unfinished = failed, true
		default:
			p.own.print(r.out)
		}
	}
	return r.run
}

// running names the tests that were running when the stream ended.
func (r *run) running() []string {
	var names []string
	for _, p := range r.packages {
		parents := p.parents(func(t *test) bool { return t.died })
		for _, t := range p.tests {
			if t.died && !parents[t.name] {
				names = append(names, t.name)
			}
		}
	}
	return names
}

// parents names the tests that have a subtest of a kind.
func (p *pkg) parents(kind func(*test) bool) map[string]bool {
	parents := map[string]bool{}
	for _, t := range p.tests {
		if !kind(t) {
			continue
		}
		for name := t.name; ; {
			i := strings.LastIndexByte(name, '/')
			if i < 0 {
				break
			}
			name = name[:i]
			parents[name] = true
		}
	}
	return parents
}

func (r *run) result() *Result {
	result := &Result{Failures: r.failures()}
	for _, p := range r.packages {
		if p.cached {
			result.Cached++
		}
		parents := p.parents(func(*test) bool { return true })
		for _, t := range p.tests {
			switch t.action {
			case passed:
				result.Passed++
			case failed:
				result.Failed++
			case skipped:
				result.Skipped++
				result.LeftOut = append(result.LeftOut, r.describe(p, t))
			}
			if !p.cached && !parents[t.name] && t.seconds > 0 {
				result.Slowest = append(result.Slowest, r.describe(p, t))
			}
		}
	}
	const most = 10
	slices.SortStableFunc(result.Slowest, func(a, b Test) int { return cmp.Compare(b.Duration, a.Duration) })
	result.Slowest = slices.Clip(result.Slowest[:min(most, len(result.Slowest))])
	return result
}

// failures are the failed tests, each told by its innermost subtest, and the packages that failed without one. Tests that a
// panic of another one has ended are left out; what does not compile is told once, and not again for each package that imports
// it.
func (r *run) failures() []Test {
	var failures []Test
	builds := map[string]bool{}
	for _, p := range r.packages {
		if p.action != failed {
			continue
		}
		before := len(failures)
		parents := p.parents(func(t *test) bool { return t.action == failed })
		ended := slices.ContainsFunc(p.tests, (*test).endedThePackage)
		for _, t := range p.tests {
			if t.action == failed && !parents[t.name] && (!t.died || !ended || t.endedThePackage()) {
				failures = append(failures, r.describe(p, t))
			}
		}
		if len(failures) > before || builds[p.failedBuild] {
			continue
		}
		builds[p.failedBuild] = p.failedBuild != ""
		failures = append(failures, r.describePackage(p))
	}
	return failures
}

// describe tells what is known of a test.
func (r *run) describe(p *pkg, t *test) Test {
	d := Test{Package: p.path, Name: t.name, Duration: duration(t.seconds)}
	var at position
	switch t.action {
	case failed:
		at, d.Message = r.source.failed(p.path, t.output.data)
		if reason, bad := t.panicked(); bad {
			at, d.Message = r.source.panicked(p.path, t.name, t.output.data), reason
		}
	case skipped:
		at, d.Message = r.source.skipped(p.path, t.output.data)
	}
	if at.file == "" {
		at = r.source.declared(p.path, t.name)
	}
	d.File, d.Line = r.source.relative(at.file), at.line
	return d
}

// panicked says that a test did not end by itself, and in a line why.
func (t *test) panicked() (reason string, bad bool) {
	output := t.output.data
	if i := bytes.Index(output, []byte("\npanic: ")); i >= 0 {
		output = output[i+1:]
	}
	if bytes.HasPrefix(output, []byte("panic: ")) {
		line, _, _ := bytes.Cut(output, []byte("\n"))
		return string(bytes.TrimSpace(line)), true
	}
	return "it was running when its package ended", t.died
}

// endedThePackage says that a panic of the test has ended the others too. Which of them a time limit is due to, nobody knows.
func (t *test) endedThePackage() bool {
	reason, bad := t.panicked()
	return bad && strings.HasPrefix(reason, "panic: ") && !strings.HasPrefix(reason, "panic: test timed out after ")
}

// describePackage tells why a package failed of which no test did.
func (r *run) describePackage(p *pkg) Test {
	d := Test{Package: p.path, Duration: duration(p.seconds), Message: "failed outside of its tests"}
	if p.unfinished {
		d.Message = "did not finish"
	}
	if p.failedBuild != "" {
		var at position
		d.Package, d.Message, at = r.source.notBuilt(p.path, p.build)
		d.File, d.Line = r.source.relative(at.file), at.line
	}
	return d
}

func duration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}

// FailedError is a run with failures. It keeps go's exit code.
type FailedError struct {
	// Failures are Result.Failures.
	Failures []Test
	// Err is how the go command ended.
	Err error
}

// Error names the first failures.
func (e *FailedError) Error() string {
	if len(e.Failures) == 0 {
		return fmt.Sprintf("testing: %v", e.Err)
	}
	noun := "failures"
	if len(e.Failures) == 1 {
		noun = "failure"
	}
	var names []string
	for _, f := range e.Failures {
		names = append(names, f.String())
	}
	return list(fmt.Sprintf("%d %s: ", len(names), noun), names)
}

// Unwrap returns how the go command ended.
func (e *FailedError) Unwrap() error { return e.Err }

// list is what with the first few of names behind it.
func list(what string, names []string) string {
	const most = 5
	what += strings.Join(names[:min(most, len(names))], "; ")
	if more := len(names) - most; more > 0 {
		what += fmt.Sprintf("; and %d more", more)
	}
	return what
}
