package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/forge"
	"github.com/grimoire-build/grimoire/internal/gocheck"
	"github.com/grimoire-build/grimoire/internal/gotest"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/settings"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// Lint checks the Go files of every module: gofmt, go.mod and go.sum drift, go vet, staticcheck. Findings are printed as
// file:line:col: message. Nothing is changed, and nothing has to be installed: staticcheck is pinned by version and checksum,
// and built once a machine. Files that only mage builds are checked for their format alone. Staticcheck runs when go vet has no findings, and not in modules named magefiles, where it would read all
// of the toolkit's dependencies to check a few one-line functions.
func Lint(ctx context.Context) error {
	return ServiceStage(ctx, "lint", lint, func(ctx context.Context, s Service) (string, error) {
		modules, err := gocheck.Modules(s.Dir)
		if err != nil {
			return "", err
		}
		return "gofmt, go mod tidy and staticcheck in " + listModules(modules), Vet(ctx)
	})
}

func lint(ctx context.Context, s Service) error {
	modules, err := gocheck.Modules(s.Dir)
	if err != nil {
		return err
	}
	findings, err := gocheck.Format(ctx, s.Dir)
	if err != nil {
		return err
	}
	show(ctx, s, findings)
	for _, module := range modules {
		drift, err := gocheck.Tidy(ctx, filepath.Join(s.Dir, module))
		if err != nil {
			return errors.Join(err, failed(findings))
		}
		drift = within(module, drift)
		show(ctx, s, drift)
		findings = append(findings, drift...)
	}
	if err := Vet(ctx); err != nil {
		if len(findings) == 0 {
			return err
		}
		return errors.Join(failed(findings), err)
	}
	for _, module := range modules {
		if filepath.Base(module) == "magefiles" {
			continue
		}
		found, err := gocheck.Staticcheck(ctx, filepath.Join(s.Dir, module))
		if err != nil {
			return err
		}
		found = within(module, found)
		annotate(ctx, s, found)
		findings = append(findings, found...)
	}
	return failed(findings)
}

// show prints findings, and annotates the files with them.
func show(ctx context.Context, s Service, findings []gocheck.Finding) {
	for _, f := range findings {
		fmt.Fprintln(process.Output(ctx), f)
	}
	annotate(ctx, s, findings)
}

// annotate shows findings where the forge shows the files.
func annotate(ctx context.Context, s Service, findings []gocheck.Finding) {
	for _, f := range findings {
		stage.Annotate(ctx, forge.Annotation{
			Level: forge.Error, File: filepath.Join(s.Dir, f.File), Line: f.Line, Column: f.Column, Title: f.Tool, Message: f.Message,
		})
	}
}

// Vet runs go vet in every module.
func Vet(ctx context.Context) error {
	return ServiceStage(ctx, "vet",
		func(ctx context.Context, s Service) error {
			modules, err := gocheck.Modules(s.Dir)
			if err != nil {
				return err
			}
			var findings []gocheck.Finding
			for _, module := range modules {
				found, err := gocheck.Vet(ctx, filepath.Join(s.Dir, module))
				if err != nil {
					return err
				}
				findings = append(findings, within(module, found)...)
			}
			annotate(ctx, s, findings)
			return failed(findings)
		},
		func(_ context.Context, s Service) (string, error) {
			modules, err := gocheck.Modules(s.Dir)
			return "go vet in " + listModules(modules), err
		})
}

// listModules names the folders of modules for people.
func listModules(modules []string) string {
	if len(modules) == 1 {
		return "the module in " + modules[0]
	}
	return "the modules in " + strings.Join(modules, ", ")
}

// within makes the files of a module's findings relative to the service's folder.
func within(module string, findings []gocheck.Finding) []gocheck.Finding {
	for i := range findings {
		findings[i].File = filepath.Join(module, findings[i].File)
	}
	return findings
}

// failed is the error for findings that have been printed: how many, by what, and the first.
func failed(findings []gocheck.Finding) error {
	if len(findings) == 0 {
		return nil
	}
	noun := "findings"
	if len(findings) == 1 {
		noun = "finding"
	}
	return fmt.Errorf("%d %s, the first is %s", len(findings), noun, findings[0])
}

// Test runs the tests of the service's module: with the race detector where it can run, a time limit for each package,
// and coverage, which has to reach a threshold. The reports are coverage.out, coverage.html and junit.xml in build/.
// Results of unchanged packages come from Go's test cache.
//
// Settings: TEST_PACKAGES (./...), TEST_TIMEOUT (5m), COVERAGE_THRESHOLD (70), TEST_RACE (auto).
func Test(ctx context.Context) error {
	return ServiceStage(ctx, "test",
		func(ctx context.Context, s Service) error {
			options := testOptions(s)
			options.Output, options.Mask = process.Output(ctx), stage.Mask
			inWorkspace, err := gocheck.InWorkspace(ctx, s.Dir)
			if err != nil {
				return err
			}
			if !inWorkspace {
				options.Env = append(options.Env, "GOWORK=off")
			}
			result, err := gotest.Run(ctx, options)
			if result != nil {
				annotateTests(ctx, s, result.Failures)
				defer tellLeftOut(ctx, result.LeftOut)
			}
			if err != nil {
				return err
			}
			stage.Output(ctx, "coverage", strconv.FormatFloat(result.Coverage, 'f', 1, 64))
			zerolog.Ctx(ctx).Info().Int("passed", result.Passed).Int("skipped", result.Skipped).
				Int("cached packages", result.Cached).Str("coverage", fmt.Sprintf("%.1f %%", result.Coverage)).Msg("tests passed")
			for _, report := range []string{"coverage.out", "coverage.html", "junit.xml"} {
				stage.Made(ctx, filepath.Join(options.ReportDir, report))
			}
			return nil
		},
		func(_ context.Context, s Service) (string, error) {
			o := testOptions(s)
			text := fmt.Sprintf("go test %s, each package within %s", strings.Join(o.Packages, " "), o.Timeout)
			if o.Coverage > 0 {
				text += fmt.Sprintf(", %g %% of the statements covered at least", o.Coverage)
			}
			return text, nil
		})
}

// tellLeftOut says which tests were skipped, together those with the same reason.
func tellLeftOut(ctx context.Context, tests []gotest.Test) {
	byReason := map[string][]string{}
	for _, t := range tests {
		byReason[t.Message] = append(byReason[t.Message], t.Name)
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		names := byReason[reason]
		const most = 5
		text := strings.Join(names[:min(most, len(names))], ", ")
		if more := len(names) - most; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		zerolog.Ctx(ctx).Info().Str("reason", reason).Msgf("left out: %s", text)
	}
}

// annotateTests shows failures where the forge shows the files.
func annotateTests(ctx context.Context, s Service, failures []gotest.Test) {
	for _, f := range failures {
		if f.File == "" {
			continue
		}
		stage.Annotate(ctx, forge.Annotation{
			Level: forge.Error, File: filepath.Join(s.Dir, filepath.FromSlash(f.File)), Line: f.Line, Title: cmp.Or(f.Name, f.Package), Message: f.Message,
		})
	}
}

func testOptions(s Service) gotest.Options {
	o := gotest.Options{
		Dir:       s.Dir,
		Packages:  s.Test.Packages,
		Timeout:   s.Test.Timeout,
		Coverage:  s.Test.Coverage,
		ReportDir: filepath.Join(s.Dir, s.Build),
		Env:       withoutCredentials(process.Env()),
	}
	switch s.Test.Race {
	case "on", "off":
		race := s.Test.Race == "on"
		o.Race = &race
	}
	return o
}

// withoutCredentials is an environment without what only Push and Deploy need: a test has no business with it, and prints
// its environment when it likes.
func withoutCredentials(environ []string) []string {
	others := settings.Credentials("test")
	return slices.DeleteFunc(environ, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(others, name)
	})
}
