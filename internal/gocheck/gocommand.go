package gocheck

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/mod/modfile"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/tool"
)

// Tidy finds a go.mod or go.sum of the module in dir that `go mod tidy` would change, and prints the difference. Modules that
// cannot be downloaded are an error, no difference; in a workspace, whose modules may need each other without being published,
// they are a warning.
func Tidy(ctx context.Context, dir string) ([]Finding, error) {
	cmd := process.Command(ctx, "go", "mod", "tidy", "-diff")
	cmd.Dir = dir
	diff, err := process.Capture(ctx, cmd)
	switch {
	case err == nil:
		return nil, nil
	case len(diff) > 0 && ctx.Err() == nil:
		_, _ = process.Output(ctx).Write(diff)
		return []Finding{{File: changedFile(diff), Line: 1, Message: "go mod tidy would change this; run it", Tool: "go mod tidy"}}, nil
	}
	err = fmt.Errorf("comparing go.mod with the code: %w", err)
	var failed *process.Error
	if path, werr := workspace(ctx, dir); werr == nil && path != "" && ctx.Err() == nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("go mod tidy looks past go.work, so go.mod and go.sum are not compared with the code")
		return nil, nil
	}
	if errors.As(err, &failed) && unreachable.MatchString(failed.Stderr) {
		err = fmt.Errorf("%w; go mod tidy needs the modules of the tests of dependencies too: set GOPROXY to a proxy that can be reached", err)
	}
	return nil, err
}

// unreachable are the words of the go command for a module that it could not download.
var unreachable = regexp.MustCompile(`dial (tcp|udp)|no such host|module lookup disabled by GOPROXY|i/o timeout|TLS handshake|: reading https?://\S+: (40[137]|429|5\d\d) `)

// changedFile is the file that a diff is of; go.mod, where it is of both.
func changedFile(diff []byte) string {
	if bytes.Contains(diff, []byte("\n+++ tidy/go.mod")) {
		return "go.mod"
	}
	return "go.sum"
}

// Vet runs go vet on packages of the module in dir: all of them, unless patterns says which. What it says is printed as it
// comes, and returned as findings with files relative to dir; code that does not compile is a finding too. A module
// without packages has none.
func Vet(ctx context.Context, dir string, patterns ...string) ([]Finding, error) {
	return run(ctx, dir, "go vet", []string{"go", "vet"}, patterns)
}

// Staticcheck runs the pinned staticcheck on packages of the module in dir: all of them, unless patterns says which. It
// honours the staticcheck.conf that it finds there. What it says is printed as it comes, and returned as findings with files
// relative to dir.
func Staticcheck(ctx context.Context, dir string, patterns ...string) ([]Finding, error) {
	staticcheck, err := tool.Staticcheck()
	if err != nil {
		return nil, err
	}
	path, err := staticcheck.Path(ctx, dir)
	if err != nil {
		return nil, err
	}
	return run(ctx, dir, "staticcheck", []string{path}, patterns)
}

// run runs a checker that prints findings and exits with an error when there are any.
func run(ctx context.Context, dir, name string, command, patterns []string) ([]Finding, error) {
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	args := append(slices.Clone(command[1:]), "--")
	cmd := process.Command(ctx, command[0], append(args, patterns...)...)
	cmd.Dir = dir
	known, err := InWorkspace(ctx, dir)
	if err != nil {
		return nil, err
	}
	if !known {
		cmd.Env = process.Env("GOWORK=off")
	}
	var said bytes.Buffer
	out := io.MultiWriter(process.Output(ctx), &said)
	cmd.Stdout, cmd.Stderr = out, out
	err = process.Run(ctx, cmd)
	findings := parse(said.String(), name)
	switch {
	case err == nil, len(findings) > 0 && ctx.Err() == nil:
		return findings, nil
	case noPackages.MatchString(said.String()) && ctx.Err() == nil:
		return nil, nil
	default:
		return nil, fmt.Errorf("checking %s: %w", dir, err)
	}
}

// noPackages is all that go vet says of a module without packages, for which it exits with an error.
var noPackages = regexp.MustCompile(`\A(?:go: warning: ".*" matched no packages\n)+no packages to vet\n\z`)

// InWorkspace reports whether the workspace that dir is in, if any, uses the module there. Where it does not, the go command
// would refuse to look at the module's packages.
func InWorkspace(ctx context.Context, dir string) (bool, error) {
	path, err := workspace(ctx, dir)
	if err != nil || path == "" {
		return true, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading the workspace: %w; set GOWORK to its go.work, or to off", err)
	}
	work, err := modfile.ParseWork(path, data, nil)
	if err != nil {
		return false, fmt.Errorf("reading the workspace: %w", err)
	}
	module, err := os.Stat(filepath.Clean(dir))
	if err != nil {
		return false, err
	}
	for _, use := range work.Use {
		used := filepath.FromSlash(use.Path)
		if !filepath.IsAbs(used) {
			used = filepath.Join(filepath.Dir(path), used)
		}
		if info, err := os.Stat(used); err == nil && os.SameFile(info, module) {
			return true, nil
		}
	}
	return false, nil
}

// workspace returns the go.work that is in use in dir, empty where there is none.
func workspace(ctx context.Context, dir string) (string, error) {
	cmd := process.Command(ctx, "go", "env", "GOWORK")
	cmd.Dir = dir
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("asking for the workspace: %w", err)
	}
	if path := strings.TrimSpace(string(out)); path != "off" {
		return path, nil
	}
	return "", nil
}

// position is how the go command, vet and staticcheck begin a finding; vet puts its name before a compiler's error.
var position = regexp.MustCompile(`^(?:vet: )?(\S[^:\n]*\.(?:go|mod|sum|work|s|S|c|cc|cpp|h)):(\d+)(?::(\d+))?: (.+)$`)

// parse finds the findings in what a checker said, in the order of files and lines, each once: a file that does not compile is told of again for its package
// as the tests see it.
func parse(said, tool string) []Finding {
	var findings []Finding
	seen := map[Finding]bool{}
	for text := range strings.Lines(said) {
		m := position.FindStringSubmatch(strings.TrimRight(text, "\r\n"))
		if m == nil {
			continue
		}
		line, _ := strconv.Atoi(m[2])
		column, _ := strconv.Atoi(m[3])
		f := Finding{File: filepath.Clean(m[1]), Line: line, Column: column, Message: m[4], Tool: tool}
		if !seen[f] {
			seen[f] = true
			findings = append(findings, f)
		}
	}
	// Packages are checked side by side, so that what is said of them comes in another order each time.
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return findings
}
