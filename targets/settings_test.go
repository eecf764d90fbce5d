package targets

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newModule(t *testing.T, gomod string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(gomod), 0o644))
	return dir
}

// fields lists the fields of a struct, and those of the structs in it.
func fields(of reflect.Type, prefix string) []string {
	var names []string
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Type.Kind() == reflect.Struct {
			names = append(names, fields(f.Type, prefix+f.Name+".")...)
		} else {
			names = append(names, prefix+f.Name)
		}
	}
	return names
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// resolved is resolve with all that is wrong as one error.
func resolved(s Service, getenv func(string) string) (Service, []setting, error) {
	s, settings, errs := resolve(s, getenv)
	return s, settings, joined(errs, "")
}

// What is wrong with the settings of another target is not a target's business.
func TestSettingsOfOthersFailNobody(t *testing.T) {
	t.Chdir(newModule(t, "module example.org/pay\n"))
	t.Setenv("TEST_TIMEOUT", "5")
	t.Setenv("ALLOW_DIRTY", "maybe")
	for target, want := range map[string][]string{
		"lint": nil, "vet": nil, "test": {"TEST_TIMEOUT"}, "push": {"ALLOW_DIRTY", "write true or false"}, "migrate": {"TEST_TIMEOUT", "ALLOW_DIRTY"},
	} {
		_, err := currentFor(target)
		if want == nil {
			assert.NoError(t, err, target)
		}
		for _, text := range want {
			assert.ErrorContains(t, err, text, target)
		}
	}
}

func TestResolvePrecedence(t *testing.T) {
	dir := newModule(t, "module git.example.org/Shop/Pay/v2\n")
	s, settings, err := resolved(Service{
		Dir:  dir,
		Test: TestSettings{Coverage: 80},
	}, env(map[string]string{"COVERAGE_THRESHOLD": "50", "TEST_TIMEOUT": " 90s ", "REGISTRY_HOST": "registry.example.org:5000", "ALLOW_DIRTY": "1"}))
	require.NoError(t, err)
	assert.InDelta(t, 80, s.Test.Coverage, 0, "a field wins over the environment")
	assert.Equal(t, 90*time.Second, s.Test.Timeout)
	assert.Equal(t, "./...", s.Test.Packages)
	assert.Equal(t, "pay", s.Name)
	assert.Equal(t, "shop/pay", s.Image.Repository)
	assert.Equal(t, "linux/amd64", s.Image.Platform)
	assert.True(t, s.Image.AllowDirty)

	sources := map[string]string{}
	for _, setting := range settings {
		sources[setting.Name] = setting.Source
	}
	assert.Equal(t, "Configure", sources["Test.Coverage"])
	assert.Equal(t, "environment", sources["Test.Timeout"])
	assert.Equal(t, "default", sources["Test.Packages"])
	for _, name := range fields(reflect.TypeFor[Service](), "") {
		assert.Contains(t, sources, name, "every setting is listed")
	}
}

func TestResolveTellsEveryMistake(t *testing.T) {
	dir := newModule(t, "module example.org/x\n")
	_, _, err := resolved(Service{Dir: dir, Image: ImageSettings{Builder: "podman"}}, env(map[string]string{
		"COVERAGE_THRESHOLD": "lots",
		"TEST_TIMEOUT":       "-3s",
		"TEST_RACE":          "maybe",
		"ALLOW_DIRTY":        "perhaps",
	}))
	require.Error(t, err)
	for _, want := range []string{`COVERAGE_THRESHOLD="lots"`, `TEST_TIMEOUT="-3s"`, `"maybe"`, `ALLOW_DIRTY="perhaps"`, `IMAGE_BUILDER) is "podman"`} {
		assert.Contains(t, err.Error(), want)
	}
}

func TestResolveOutsideAModule(t *testing.T) {
	_, _, err := resolved(Service{Dir: t.TempDir()}, env(nil))
	require.Error(t, err)
	assert.Contains(t, err.Error(), "go mod init")

	_, _, err = resolved(Service{Dir: newModule(t, "// nothing\n")}, env(nil))
	require.Error(t, err)
	assert.Contains(t, err.Error(), "names no module")
}

func TestNames(t *testing.T) {
	tests := []struct{ module, name, repository string }{
		{"github.com/acme/shop/pay", "pay", "acme/shop/pay"},
		{"github.com/acme/pay/v3", "pay", "acme/pay"},
		{"gopkg.in/yaml.v3", "yaml", "yaml"},
		{"example.org", "example.org", "example.org"},
		{"shop/Pay", "pay", "shop/pay"},
		{"pay", "pay", "pay"},
	}
	for _, tt := range tests {
		t.Run(tt.module, func(t *testing.T) {
			assert.Equal(t, tt.name, nameOf(tt.module))
			assert.Equal(t, tt.repository, repositoryOf(tt.module))
		})
	}
}

func TestPercent(t *testing.T) {
	tests := []struct {
		text string
		want float64
		bad  bool
	}{
		{"75", 75, false},
		{"62.5%", 62.5, false},
		{"0", -1, false},
		{"-3", -1, false},
		{"101", 0, true},
		{"NaN", 0, true},
		{"much", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := percent(tt.text)
			assert.Equal(t, tt.bad, err != nil)
			assert.InDelta(t, tt.want, got, 0)
		})
	}
}

func TestWithoutLogin(t *testing.T) {
	for repository, want := range map[string]string{
		"https://user:secret@git.example.org/env.git": "https://git.example.org/env.git",
		"https://user:p@ss@git.example.org/env.git":   "https://git.example.org/env.git",
		"https://user:pa/ss@git.example.org/env.git":  "https://git.example.org/env.git",
		"HTTPS://token@git.example.org/env.git":       "HTTPS://git.example.org/env.git",
		"oauth2:TOKEN@git.example.org:env.git":        "git.example.org:env.git",
		"git@git.example.org:env.git":                 "git@git.example.org:env.git",
		"/srv/git/env.git":                            "/srv/git/env.git",
	} {
		assert.Equal(t, want, withoutLogin(repository), repository)
	}
}

func TestSettingsHoldNoLogin(t *testing.T) {
	_, settings, err := resolved(Service{Dir: newModule(t, "module example.org/pay\n")}, env(map[string]string{
		"ENVIRONMENT_REPOSITORY": "https://user:secret@git.example.org/env.git", "IMAGE_ARGS": "MODE=x NPM_TOKEN=secret=1 LAST",
	}))
	require.NoError(t, err)
	for _, s := range settings {
		assert.NotContains(t, s.Value, "secret", s.Name)
		if s.Name == "Image.Args" {
			assert.Equal(t, "MODE=x NPM_TOKEN=*** LAST", s.Value)
		}
	}
}
