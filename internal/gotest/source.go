package gotest

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/grimoire-build/grimoire/internal/process"
)

// source finds where in the repository something stands that go test speaks of.
type source struct {
	root    string // file names are relative to it
	dir     string // the go command ran in it
	modules []module
	tests   map[string]map[string]position // by folder, then by function
	lines   map[string][]string            // by file
}

// module is a main module of the build: several, in a workspace.
type module struct{ path, dir string }

// position is a line of a file; the zero value is none.
type position struct {
	file string // absolute
	line int
}

// newSource asks the go command for the modules under test.
func newSource(ctx context.Context, o Options) (*source, error) {
	s := &source{tests: map[string]map[string]position{}, lines: map[string][]string{}}
	for to, from := range map[*string]string{&s.dir: o.Dir, &s.root: o.Root} {
		abs, err := filepath.Abs(from)
		if err != nil {
			return nil, err
		}
		*to = physical(abs)
	}
	cmd := process.Command(ctx, "go", "list", "-m", "-f", "{{.Path}}\t{{.Dir}}")
	cmd.Dir, cmd.Env = o.Dir, o.Env
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("asking for the module: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		path, folder, found := strings.Cut(strings.TrimRight(line, "\r\n"), "\t")
		if !found || folder == "" {
			return nil, fmt.Errorf("asking for the module: %s is not in one; make one with `go mod init`", s.dir)
		}
		s.modules = append(s.modules, module{path, physical(folder)})
	}
	return s, nil
}

// physical is a path without links, so that paths can be compared; where it cannot be told, path itself.
func physical(path string) string {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		return resolved
	}
	return path
}

// locate returns the folder or, with one more element, the file that an import path stands for; empty where it is of no main
// module.
func (s *source) locate(name string) string {
	var best module
	for _, m := range s.modules {
		if (name == m.path || strings.HasPrefix(name, m.path+"/")) && len(m.path) > len(best.path) {
			best = m
		}
	}
	if best.path == "" {
		return ""
	}
	return filepath.Join(best.dir, filepath.FromSlash(strings.TrimPrefix(name, best.path)))
}

// relative is how the forge knows a file.
func (s *source) relative(file string) string {
	if file == "" {
		return ""
	}
	if rel, err := filepath.Rel(s.root, file); err == nil {
		file = rel
	}
	return filepath.ToSlash(file)
}

// declared is where the function of a test begins.
func (s *source) declared(pkg, test string) position {
	folder := s.locate(pkg)
	if folder == "" {
		return position{}
	}
	functions, known := s.tests[folder]
	if !known {
		functions = testFunctions(folder)
		s.tests[folder] = functions
	}
	name, _, _ := strings.Cut(test, "/")
	return functions[name]
}

// testFunctions finds the functions in the test files of a folder. What cannot be read has none: no report is worth less
// for it.
func testFunctions(folder string) map[string]position {
	functions := map[string]position{}
	files, _ := filepath.Glob(filepath.Join(escapeGlob(folder), "*_test.go"))
	for _, file := range files {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
		if err != nil {
			continue
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				functions[f.Name.Name] = position{file, fset.PositionFor(f.Pos(), false).Line}
			}
		}
	}
	return functions
}

// said is how the testing package begins what a test logs: the position is of a file in the package's folder.
var said = regexp.MustCompile(` {4}([^\s/:]+\.go):(\d+): ?(.*)`)

// Calls that say something and fail nothing, and those that skip a test.
var (
	logs  = regexp.MustCompile(`\.(Logf?|Skipf?)\(`)
	skips = regexp.MustCompile(`\.Skipf?\(`)
)

// failed is where a test failed, and what it said there. Nothing in the output tells an error from a log but the line of
// code that it came from.
func (s *source) failed(pkg string, output []byte) (position, string) {
	return s.spoke(pkg, output, func(code string) bool { return !logs.MatchString(code) })
}

// skipped is where a test was skipped, and what it said there. Where no line of code that was said from skips, a helper has, and
// the last that was said is the reason.
func (s *source) skipped(pkg string, output []byte) (position, string) {
	at, reason := s.spoke(pkg, output, skips.MatchString)
	if at.file != "" {
		return at, reason
	}
	last := ""
	if all := said.FindAllSubmatch(output, -1); len(all) > 0 {
		last = string(bytes.TrimSpace(all[len(all)-1][3]))
	}
	return position{}, last
}

// spoke is the first position in a test's output whose line of code is of a kind, and what was said there.
func (s *source) spoke(pkg string, output []byte, kind func(code string) bool) (position, string) {
	folder := s.locate(pkg)
	if folder == "" {
		return position{}, ""
	}
	for _, m := range said.FindAllSubmatch(output, -1) {
		file := filepath.Join(folder, string(m[1]))
		line, _ := strconv.Atoi(string(m[2]))
		if code, found := s.line(file, line); found && kind(code) {
			return position{file, line}, string(bytes.TrimSpace(m[3]))
		}
	}
	return position{}, ""
}

// line returns a line of a file.
func (s *source) line(file string, number int) (string, bool) {
	lines, known := s.lines[file]
	if !known {
		if data, err := os.ReadFile(file); err == nil {
			lines = strings.Split(string(data), "\n")
		}
		s.lines[file] = lines
	}
	if number < 1 || number > len(lines) {
		return "", false
	}
	return lines[number-1], true
}

// panicked is where in a test function a panic passed by: its frame in a stack trace.
func (s *source) panicked(pkg, test string, output []byte) position {
	folder := s.locate(pkg)
	name, _, _ := strings.Cut(test, "/")
	if folder == "" || name == "" {
		return position{}
	}
	parent, last := path.Split(pkg)
	// A dot in the last element of an import path is escaped in symbols.
	symbol := parent + strings.ReplaceAll(last, ".", "%2e")
	frame, err := regexp.Compile(`(?m)^(?:created by )?` + regexp.QuoteMeta(symbol) + `(?:_test)?\.` + regexp.QuoteMeta(name) + `[(. ][^\n]*\n\t[^\n]*?([^/\\\n]+\.go):(\d+)`)
	if err != nil {
		return position{} // a name that is not even text
	}
	m := frame.FindSubmatch(output)
	if m == nil {
		return position{}
	}
	line, _ := strconv.Atoi(string(m[2]))
	return position{filepath.Join(folder, string(m[1])), line}
}

// What the go command says of a build that failed: which package it is of, that it is vet who says so, and the first
// position with what is said of it.
var (
	buildOf    = regexp.MustCompile(`(?m)^# ([^\s\[]\S*)`)
	buildVet   = regexp.MustCompile(`(?m)^# \[`)
	buildError = regexp.MustCompile(`(?m)^(?:vet: )?(\S[^:\n]*\.go):(\d+)(?::\d+)?: (.+)$`)
)

// notBuilt tells of a failed build which package it is of, why it failed, and where. Without an answer in what the build said
// it is of pkg.
func (s *source) notBuilt(pkg string, build []byte) (of, why string, at position) {
	of, why = pkg, "does not compile"
	if m := buildOf.FindSubmatch(build); m != nil {
		of = string(m[1])
	}
	if buildVet.Match(build) {
		why = "does not pass go vet"
	}
	m := buildError.FindSubmatch(build)
	if m == nil {
		return of, why, position{}
	}
	file := filepath.FromSlash(string(m[1]))
	if !filepath.IsAbs(file) {
		file = filepath.Join(s.dir, file)
	}
	line, _ := strconv.Atoi(string(m[2]))
	return of, why + ": " + string(bytes.TrimSpace(m[3])), position{file, line}
}

func escapeGlob(path string) string {
	if filepath.Separator == '\\' {
		return path // there, nothing can be escaped
	}
	return regexp.MustCompile(`[\\*?\[]`).ReplaceAllString(path, `\$0`)
}
