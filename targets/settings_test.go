package targets

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/settings"
)

func newModule(t *testing.T, gomod string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(gomod), 0o644))
	return dir
}

// fields lists the fields of a struct, and those of the structs in it, with their types.
func fields(of reflect.Type, prefix string) map[string]string {
	all := map[string]string{}
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Type.Kind() != reflect.Struct {
			all[prefix+f.Name] = f.Type.String()
			continue
		}
		for name, of := range fields(f.Type, prefix+f.Name+".") {
			all[name] = of
		}
	}
	return all
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// resolved is resolve with all that is wrong as one error.
func resolved(s Service, getenv func(string) string) (Service, map[string]settings.Value, error) {
	s, values, problems, err := resolve(s, getenv)
	if err != nil {
		return s, nil, err
	}
	byName := map[string]settings.Value{}
	for _, v := range values {
		byName[v.Name()] = v
	}
	return s, byName, joined(problems, "")
}

// Every field is a row of the table, and every row that names a field has one.
func TestFieldsAreThoseOfTheTable(t *testing.T) {
	want := map[string]string{}
	for i := range settings.Table {
		if s := &settings.Table[i]; s.Field != "" {
			want[s.Field] = s.Kind.Go
		}
	}
	assert.Equal(t, want, fields(reflect.TypeFor[Service](), ""))
	assert.EqualValues(t, settings.NoShare, NoCoverage)
}

// What is wrong with the settings of another target is not a target's business.
func TestSettingsOfOthersFailNobody(t *testing.T) {
	t.Chdir(newModule(t, "module example.org/pay\n"))
	t.Setenv("TEST_TIMEOUT", "5")
	t.Setenv("ALLOW_DIRTY", "maybe")
	for target, want := range map[string][]string{
		"lint": nil, "vet": nil, "test": {"TEST_TIMEOUT"}, "push": {"ALLOW_DIRTY", "write true or false"},
		"deploy": {"ALLOW_DIRTY"},
		"status": nil, "migrate": {"TEST_TIMEOUT", "ALLOW_DIRTY"},
	} {
		_, err := currentFor(target)
		if want == nil {
			assert.NoError(t, err, target)
		}
		for _, text := range want {
			assert.ErrorContains(t, err, text, target)
		}
	}
	_, err := Current()
	assert.ErrorContains(t, err, "TEST_TIMEOUT")
	assert.ErrorContains(t, err, "ALLOW_DIRTY")
}

func TestResolvePrecedence(t *testing.T) {
	dir := newModule(t, "module git.example.org/Shop/Pay/v2\n")
	s, values, err := resolved(Service{
		Dir:   dir,
		Test:  TestSettings{Coverage: 80, Packages: []string{"./a b"}},
		Image: ImageSettings{Args: map[string]string{"A": "b"}},
	}, env(map[string]string{
		"COVERAGE_THRESHOLD": "50", "TEST_TIMEOUT": " 90s ", "REGISTRY_HOST": "registry.example.org:5000",
		"ALLOW_DIRTY":    "1",
		"IMAGE_PLATFORM": "linux/amd64, linux/arm64", "DEPLOY_MANIFESTS": "deploy 'more of it'", "CI": "true",
	}))
	require.NoError(t, err)
	assert.InDelta(t, 50, s.Test.Coverage, 0, "the environment wins over a field")
	assert.Equal(t, 90*time.Second, s.Test.Timeout)
	assert.Equal(t, []string{"./a b"}, s.Test.Packages)
	assert.Equal(t, "pay", s.Name)
	assert.Equal(t, "shop/pay", s.Image.Repository)
	assert.Equal(t, []string{"linux/amd64", "linux/arm64"}, s.Image.Platform)
	assert.Equal(t, []string{"deploy", "more of it"}, s.Deploy.Manifests)
	assert.Equal(t, map[string]string{"A": "b"}, s.Image.Args)
	assert.True(t, s.Image.AllowDirty)
	assert.Equal(t, "on failure", s.Deploy.Rollback)

	for name, want := range map[string]string{
		"Test.Coverage": "environment", "Test.Timeout": "environment", "Test.Packages": "Configure",
		"Test.Race": "default", "Name": "module",
		"Image.Tag": "git", "Deploy.Rollback": "CI", "Deploy.Context": "kubeconfig",
	} {
		assert.Equal(t, want, values[name].Source, name)
	}
	assert.Equal(t, "80", values["Test.Coverage"].Replaced)
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
	for _, want := range []string{
		`COVERAGE_THRESHOLD="lots"`, `TEST_TIMEOUT="-3s"`, `TEST_RACE="maybe": it can be auto, on, off`,
		`ALLOW_DIRTY="perhaps"`,
		`Image.Builder from targets.Configure, "podman": it can be auto, engine, go`,
	} {
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

// printed is what f prints on stdout.
func printed(t *testing.T, f func() error) (string, error) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	before := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = before }()
	var out bytes.Buffer
	done := make(chan error)
	go func() {
		_, err := io.Copy(&out, r)
		done <- err
	}()
	failed := f()
	require.NoError(t, w.Close())
	require.NoError(t, <-done)
	return out.String(), failed
}

func TestSettingsForPrograms(t *testing.T) {
	t.Chdir(newModule(t, "module example.org/pay\n"))
	for name, value := range map[string]string{
		"SETTINGS_FORMAT": "json", "ENVIRONMENT_REPOSITORY": "https://user:hunter2@git.example.org/env.git",
		"IMAGE_ARGS":    "MODE='x y' NPM_TOKEN=hunter2",
		"REGISTRY_PASS": "hunter2", "REGISTY_HOST": "hunter2", "IMAGE_SIZE": "hunter2", "TEST_RACE": "maybe",
		"IMAGE_TAG": "",
	} {
		t.Setenv(name, value)
	}
	out, err := printed(t, func() error { return Settings(t.Context()) })
	require.ErrorContains(t, err, `TEST_RACE="maybe"`)
	assert.NotContains(t, out, "hunter2")
	var list settings.List
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	byName := map[string]settings.Entry{}
	for _, e := range list.Settings {
		byName[e.Name] = e
	}
	assert.Len(t, byName, len(settings.Table))
	assert.Equal(t, "'MODE=x y' NPM_TOKEN=***", byName["Image.Args"].Value)
	assert.Equal(t, "https://git.example.org/env.git", byName["Deploy.Environment"].Value)
	assert.Equal(t, "uncommitted", byName["Image.Tag"].Value, "git tells the tag")
	assert.Contains(t, list.Misspelt, settings.Suggestion{Name: "REGISTY_HOST", Meant: "REGISTRY_HOST"})
	assert.Contains(t, list.Unknown, "IMAGE_SIZE")
	require.Len(t, list.Errors, 1)

	t.Setenv("SETTINGS_FORMAT", "text")
	t.Setenv("SETTINGS_TARGET", "deploy")
	out, err = printed(t, func() error { return Settings(t.Context()) })
	require.NoError(t, err, "the tests' race detector is not deploy's business")
	assert.Regexp(
		t,
		`(?m)^Image\.Registry +\(none\) +default +REGISTRY_HOST\n +the host of the registry, with its port \(image, push, copy`,
		out,
	)
	assert.NotContains(t, out, "TEST_PACKAGES")

	t.Setenv("SETTINGS_FORMAT", "xml")
	_, err = printed(t, func() error { return Settings(t.Context()) })
	assert.ErrorContains(t, err, `SETTINGS_FORMAT="xml": it can be text, json`)
}

func TestSettingsOf(t *testing.T) {
	assert.True(t, strings.HasPrefix(SettingsOf("test"), "TEST_PACKAGES "), SettingsOf("test"))
	assert.Contains(
		t,
		SettingsOf("logs"),
		"LOG_LINES         Deploy.LogLines    how many of the last lines of each container Logs prints (default: ",
	)
	assert.Empty(t, SettingsOf("migrate"))
}
