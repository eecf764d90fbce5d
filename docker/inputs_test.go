package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// monorepo has two programs, each with a package of its own, and one that both use.
func monorepo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := func(own string) string {
		return "package main\n\nimport (\n\t\"example.org/mono/" + own + "\"\n\t\"example.org/mono/both\"\n)\n\nfunc main() { println(" + own + ".Name, both.Name) }\n"
	}
	writeFiles(t, dir, map[string]string{
		"go.mod":         "module example.org/mono\n\ngo 1.26\n",
		"cmd/a/main.go":  program("a"),
		"cmd/b/main.go":  program("b"),
		"a/a.go":         "package a\n\nimport _ \"embed\"\n\n//go:embed name.txt\nvar Name string\n",
		"a/name.txt":     "a",
		"a/a_test.go":    "package a\n",
		"a/a_windows.go": "package a\n",
		"b/b.go":         "package b\n\nconst Name = \"b\"\n",
		"both/both.go":   "package both\n\nconst Name = \"both\"\n",
	})
	return dir
}

func goInputsOf(t *testing.T, dir, main string, change func(*GoOptions)) string {
	t.Helper()
	o := GoOptions{Dir: dir, Packages: []string{main}, Cache: t.TempDir()}
	if change != nil {
		change(&o)
	}
	build, err := NewGoBuild(t.Context(), o)
	require.NoError(t, err)
	inputs, err := build.Inputs(t.Context())
	require.NoError(t, err)
	assert.Regexp(t, "^[0-9a-f]{40}$", inputs)
	return inputs
}

func TestGoInputsAreThoseOfTheProgram(t *testing.T) {
	temporary(t)
	for _, test := range []struct {
		name, file, content string
		a, b                bool // whose inputs change
	}{
		{name: "a package of one", file: "b/b.go", content: "package b\n\nconst Name = \"B\"\n", b: true},
		{name: "a package of both", file: "both/both.go", content: "package both\n\nconst Name = \"BOTH\"\n", a: true, b: true},
		{name: "an embedded file", file: "a/name.txt", content: "A", a: true},
		{name: "a profile", file: "cmd/a/default.pgo", content: "profile", a: true},
		{name: "a new file", file: "b/more.go", content: "package b\n", b: true},
		{name: "a test", file: "a/a_test.go", content: "package a\n\nconst tested = 1\n"},
		{name: "another system's file", file: "a/a_windows.go", content: "package a\n\nconst windows = 1\n"},
		{name: "a text", file: "README.md", content: "read me"},
		{name: "the language", file: "go.mod", content: "module example.org/mono\n\ngo 1.25\n", a: true, b: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := monorepo(t)
			a, b := goInputsOf(t, dir, "./cmd/a", nil), goInputsOf(t, dir, "./cmd/b", nil)
			require.NotEqual(t, a, b)
			writeFiles(t, dir, map[string]string{test.file: test.content})
			assert.Equal(t, test.a, a != goInputsOf(t, dir, "./cmd/a", nil), "a")
			assert.Equal(t, test.b, b != goInputsOf(t, dir, "./cmd/b", nil), "b")
		})
	}
}

func TestGoInputsOfOptions(t *testing.T) {
	temporary(t)
	dir := monorepo(t)
	was := goInputsOf(t, dir, "./cmd/a", nil)
	for name, change := range map[string]func(*GoOptions){
		"platform":     func(o *GoOptions) { o.Platforms = []string{"linux/arm64"} },
		"more of them": func(o *GoOptions) { o.Platforms = []string{"linux/amd64", "linux/arm64"} },
		"user":         func(o *GoOptions) { o.User = "7" },
		"environment":  func(o *GoOptions) { o.Env = []string{"A=1"} },
		"label":        func(o *GoOptions) { o.Labels = map[string]string{"a": "1"} },
		"port":         func(o *GoOptions) { o.Port = 80 },
		"flags":        func(o *GoOptions) { o.LDFlags = "-X=main.x=1" },
		"a second one": func(o *GoOptions) { o.Packages = append(o.Packages, "./cmd/b") },
	} {
		assert.NotEqual(t, was, goInputsOf(t, dir, "./cmd/a", change), name)
	}
	for name, change := range map[string]func(*GoOptions){
		"nothing":           nil,
		"version":           func(o *GoOptions) { o.Version = "2" },
		"time":              func(o *GoOptions) { o.Created = time.Unix(7, 0) },
		"source":            func(o *GoOptions) { o.Source = Source{"https://git.example.org/a", "4f2a"} },
		"labels of commits": func(o *GoOptions) { o.Labels = map[string]string{ofCommit[0]: "1", ofCommit[1]: "2", ofCommit[2]: "3"} },
		"inputs":            func(o *GoOptions) { o.Labels = map[string]string{InputsLabel: "1"} },
	} {
		assert.Equal(t, was, goInputsOf(t, dir, "./cmd/a", change), name)
	}
	other := monorepo(t)
	assert.Equal(t, was, goInputsOf(t, other, "./cmd/a", nil), "the folder is no input")
	t.Setenv("GOFLAGS", "-tags=other")
	assert.Equal(t, was, goInputsOf(t, dir, "./cmd/a", nil), "nor is what the build does not see")
}

// What we choose ourselves is an input like what we are told: a later version of this package may choose otherwise.
func TestGoInputsHoldTheRecipe(t *testing.T) {
	temporary(t)
	r, host := testRegistry(t), serveRegistry(t)
	_, err := r.Push(t.Context(), host+"/base:1", baseImage(t, "nonroot", true))
	require.NoError(t, err)
	build, err := NewGoBuild(t.Context(), GoOptions{
		Dir: monorepo(t), Packages: []string{"./cmd/a"}, Base: host + "/base:1", Registry: r, Env: []string{"A=1"}, Port: 80, LDFlags: "-X=main.x=1",
		Version: "4f2a", Created: time.Unix(7, 0), Labels: map[string]string{ofCommit[1]: "4f2a"}, Cache: t.TempDir(),
	})
	require.NoError(t, err)
	require.NoError(t, build.findBases(t.Context()))
	recipe, err := build.recipe(build.bases[0], build.platforms[0])
	require.NoError(t, err)
	env, err := goEnvironment(build.platforms[0], false)
	require.NoError(t, err)
	assert.Subset(t, recipe, env)
	assert.Subset(t, recipe, []string{"-trimpath", "-buildvcs=false", "-tags=timetzdata", "-ldflags=-s -w -X=main.x=1", "linux", "amd64"})
	config := recipe[len(recipe)-1]
	for _, want := range []string{`"User":"65532:65532"`, `"Env":["PATH=/opt/bin","MODE=base","A=1"]`, `"Entrypoint":["/usr/local/bin/a"]`, `"80/tcp"`} {
		assert.Contains(t, config, want)
	}
	assert.NotContains(t, strings.Join(recipe, "\n"), "4f2a", "what changes with each commit")
}

func TestGoInputsWithCGO(t *testing.T) {
	temporary(t)
	r, host := testRegistry(t), serveRegistry(t)
	_, err := r.Push(t.Context(), host+"/base:1", baseImage(t, "7", true))
	require.NoError(t, err)
	build, err := NewGoBuild(t.Context(), GoOptions{Dir: monorepo(t), Packages: []string{"./cmd/a"}, CGO: true, Base: host + "/base:1", Registry: r, Cache: t.TempDir()})
	require.NoError(t, err)
	_, err = build.Inputs(t.Context())
	assert.ErrorIs(t, err, ErrUnknownInputs)
}

// Files of a module in a vendor folder may have been changed by hand.
func TestGoInputsOfVendoredModules(t *testing.T) {
	temporary(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"go.mod":                        "module example.org/pay\n\ngo 1.26\n\nrequire example.org/dep v1.0.0\n",
		"main.go":                       "package main\n\nimport \"example.org/dep\"\n\nfunc main() { println(dep.Name) }\n",
		"vendor/modules.txt":            "# example.org/dep v1.0.0\n## explicit; go 1.26\nexample.org/dep\n",
		"vendor/example.org/dep/dep.go": "package dep\n\nconst Name = \"dep\"\n",
	})
	was := goInputsOf(t, dir, ".", nil)
	writeFiles(t, dir, map[string]string{"vendor/example.org/dep/dep.go": "package dep\n\nconst Name = \"changed\"\n"})
	assert.NotEqual(t, was, goInputsOf(t, dir, ".", nil))
}

func TestGoInputsOfTheBase(t *testing.T) {
	temporary(t)
	dir := monorepo(t)
	r, host := testRegistry(t), serveRegistry(t)
	on := func(o *GoOptions) { o.Base, o.Registry = host+"/base:1", r }
	var all []string
	for range 2 {
		_, err := r.Push(t.Context(), host+"/base:1", baseImage(t, "7", true))
		require.NoError(t, err)
		all = append(all, goInputsOf(t, dir, "./cmd/a", on), goInputsOf(t, dir, "./cmd/a", on))
	}
	assert.Equal(t, all[0], all[1])
	assert.NotEqual(t, all[0], all[2], "the tag is another image now")
}

func TestDockerfileInputs(t *testing.T) {
	r, host := testRegistry(t), serveRegistry(t)
	push := func() {
		_, err := r.Push(t.Context(), host+"/base:1", baseImage(t, "7", true))
		require.NoError(t, err)
	}
	push()
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"Dockerfile": "ARG BASE\nFROM $BASE AS build\nCOPY . .\nFROM scratch\nCOPY --from=build /a /a\n", ".dockerignore": "*.md\n", "main.go": "package main", "a.md": "a",
	})
	o := BuildOptions{Context: dir, Args: map[string]string{"BASE": host + "/base:1", "VERSION": "1"}, Labels: map[string]string{"l": "v"}}
	inputs := func(o BuildOptions) string {
		t.Helper()
		inputs, err := DockerfileInputs(t.Context(), o, r, "VERSION")
		require.NoError(t, err)
		return inputs
	}
	was := inputs(o)
	same := o
	same.Args = map[string]string{"BASE": host + "/base:1", "VERSION": "2"}
	same.Labels = map[string]string{"l": "v", ofCommit[0]: "now", InputsLabel: "x"}
	same.Tags = []string{"a:1"}
	require.NoError(t, os.Chtimes(filepath.Join(dir, "main.go"), time.Now(), time.Unix(9, 0)))
	writeFiles(t, dir, map[string]string{"b.md": "b", ".git/HEAD": "ref: refs/heads/main", "build/image.json": "{}"})
	same.Without = []string{"build/image.*"}
	assert.Equal(t, was, inputs(same))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "build")))

	for name, change := range map[string]func(*BuildOptions){
		"target":   func(o *BuildOptions) { o.Target = "build" },
		"platform": func(o *BuildOptions) { o.Platform = "linux/arm64" },
		"label":    func(o *BuildOptions) { o.Labels = map[string]string{"l": "w"} },
		"argument": func(o *BuildOptions) {
			o.Args = map[string]string{"BASE": host + "/base:1", "VERSION": "1", "MODE": "x"}
		},
	} {
		other := o
		change(&other)
		assert.NotEqual(t, was, inputs(other), name)
	}
	writeFiles(t, dir, map[string]string{"main.go": "package other"})
	changed := inputs(o)
	assert.NotEqual(t, was, changed, "a file")
	push()
	assert.NotEqual(t, changed, inputs(o), "the base")

	o.Args = map[string]string{"BASE": host + "/nowhere:1"}
	_, err := DockerfileInputs(t.Context(), o, r)
	require.ErrorIs(t, err, ErrUnknownInputs)
	assert.ErrorIs(t, err, ErrNotFound)
}

// The key names what the engine builds on.
func TestEngineInputs(t *testing.T) {
	r, host := testRegistry(t), serveRegistry(t)
	for _, name := range []string{"a", "b"} {
		_, err := r.Push(t.Context(), host+"/"+name+":1", baseImage(t, "7", true))
		require.NoError(t, err)
	}
	a, b, gone := host+"/a:1", host+"/b:1", host+"/gone:1"
	digest := func(reference string) string { return must(r.Digest(t.Context(), reference)) }
	has := func(id string, from ...string) string {
		text, err := json.Marshal(map[string]any{"Id": id, "RepoDigests": from})
		require.NoError(t, err)
		return string(text)
	}
	old := host + "/a@sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct {
		name       string
		dockerfile string
		images     map[string]string // that the engine has
		want       []string          // nil: cannot be told
		pull       bool
	}{
		{name: "none there", dockerfile: "FROM " + a, want: []string{digest(a)}},
		{name: "the registry's", dockerfile: "FROM " + a, images: map[string]string{a: has("sha256:1", old, "a@"+digest(a))}, want: []string{digest(a)}},
		{name: "an older one", dockerfile: "FROM " + a, images: map[string]string{a: has("sha256:1", old)}, want: []string{digest(a)}, pull: true},
		{name: "one made here", dockerfile: "FROM " + a, images: map[string]string{a: has("sha256:1")}, want: []string{"sha256:1"}},
		{name: "in no registry", dockerfile: "FROM " + gone, images: map[string]string{gone: has("sha256:2")}, want: []string{"sha256:2"}},
		{name: "an older one, and another that is not there", dockerfile: "FROM " + a + "\nFROM " + b, images: map[string]string{a: has("sha256:1", old)},
			want: []string{digest(a), digest(b)}, pull: true},
		{name: "an older one, and one in no registry", dockerfile: "FROM " + a + "\nFROM " + gone,
			images: map[string]string{a: has("sha256:1", old), gone: has("sha256:2")}, want: []string{"sha256:1", "sha256:2"}},
		{name: "nowhere", dockerfile: "FROM " + gone},
	} {
		t.Run(test.name, func(t *testing.T) {
			var pulls string
			engine := connectTo(t, &fakeEngine{images: test.images, build: func(w http.ResponseWriter, req *http.Request) {
				io.Copy(io.Discard, req.Body)
				pulls = req.URL.Query().Get("pull")
				stream(w, `{"aux":{"ID":"sha256:cafe"}}`)
			}})
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"Dockerfile": test.dockerfile})
			o := BuildOptions{Context: dir, Output: io.Discard}
			inputs, pull, err := engine.Inputs(t.Context(), o, r)
			if test.want == nil {
				require.ErrorIs(t, err, ErrUnknownInputs)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.pull, pull)
			want, err := dockerfileInputs(t.Context(), o, func(context.Context, []string) ([]string, error) { return test.want, nil }, nil)
			require.NoError(t, err)
			assert.Equal(t, want, inputs)
			o.Pull = pull
			_, err = engine.Build(t.Context(), o)
			require.NoError(t, err)
			assert.Equal(t, pull, pulls == "1")
		})
	}
}

func TestBaseImages(t *testing.T) {
	args := map[string]string{"GO": "1.26", "STAGE": "x", "URL": "https://example.org/x"}
	for _, test := range []struct {
		name, dockerfile string
		want             []string // nil: cannot be told
	}{
		{"none", "FROM scratch\nCOPY a /\n", []string{}},
		{"short names", "FROM alpine\nFROM golang:1.26 as build\nFROM build\n", []string{"index.docker.io/library/alpine:latest", "index.docker.io/library/golang:1.26"}},
		{"arguments", "ARG GO=1.20\nARG BASE=golang:${GO}-alpine\nFROM --platform=$BUILDPLATFORM $BASE\n", []string{"index.docker.io/library/golang:1.26-alpine"}},
		{"a default", "FROM ${BASE:-example.org/a:1}\nFROM b:${X:+1}\n", nil},
		{"a default that does", "FROM ${BASE:-example.org/a:1}\n", []string{"example.org/a:1"}},
		{"an argument of a stage", "FROM scratch\nARG BASE=a:1\nFROM $BASE\n", nil},
		{"unknown", "FROM $NOWHERE\n", nil},
		{"copied from", "FROM scratch AS a\nCOPY --chown=1:1 --from=example.org/tools:2 /x /x\nCOPY --from=0 /y /y\nCOPY --from=A /z /z\n", []string{"example.org/tools:2"}},
		{"mounted", "FROM scratch\nRUN --mount=type=bind,from=example.org/m:1,target=/m --mount=type=cache,target=/c echo --from=no\n", []string{"example.org/m:1"}},
		{"lines that go on", "FROM \\\n# a comment\n  example.org/a:1 \\\n  AS b\nFROM b\n", []string{"example.org/a:1"}},
		{"another escape", "# escape=`\nFROM `\nexample.org/a:1\nRUN dir c:\\\n", []string{"example.org/a:1"}},
		{"a frontend", "# syntax=docker/dockerfile:1\nFROM scratch\n", []string{"index.docker.io/docker/dockerfile:1"}},
		{"here-documents", "FROM scratch\nRUN <<EOF bash\nFROM x:1\nEOF\nCOPY <<-\"A\" <<B /\nFROM y:1\nA\nFROM z:1\nB\nFROM example.org/a:1\n", []string{"example.org/a:1"}},
		{"no here-documents", "FROM scratch\nRUN bash -c 'grep x <<<y; echo $((1<<n))'\nRUN cat <<< y\nRUN echo <<end\nFROM example.org/a:1\n", []string{"example.org/a:1"}},
		{"Windows line ends", "\ufeffFROM example.org/a:1\r\nCOPY a /\r\n", []string{"example.org/a:1"}},
		{"by digest", "FROM example.org/a:1@sha256:" + strings.Repeat("0", 64) + "\n", []string{"example.org/a@sha256:" + strings.Repeat("0", 64)}},
		{"downloads", "FROM scratch\nADD https://example.org/x /\n", nil},
		{"adds a file", "FROM scratch\nADD x.tar /\n", []string{}},
		{"downloads by git", "FROM scratch\nADD git@example.org:a/b.git /\n", nil},
		{"downloads by a short name", "FROM scratch\nADD --chown=1:1 github.com/a/b /\n", nil},
		{"downloads in a list", "FROM scratch\nADD [\"a b\", \"https://example.org/x\", \"/\"]\n", nil},
		{"downloads an argument", "FROM scratch\nARG JAR=https://example.org/x\nADD ${JAR} /app.jar\n", nil},
		{"downloads an argument of an argument", "FROM scratch\nARG HOST=https://example.org\nARG JAR=$HOST/x\nADD $JAR /app.jar\n", nil},
		{"downloads an argument of all stages", "ARG JAR=https://example.org/x\nFROM scratch\nARG JAR\nADD ${JAR} /app.jar\n", nil},
		{"downloads what is given", "FROM scratch\nARG URL=a.jar\nADD ${URL} /app.jar\n", nil},
		{"downloads by default", "FROM scratch\nARG JAR\nADD ${JAR:-https://example.org/x} /app.jar\n", nil},
		{"adds an argument", "FROM scratch\nARG JAR=target/app.jar\nADD --chown=$UID ${JAR} ${JAR:-x} $HOME/app.jar\n", []string{}},
		{"adds an argument of another stage", "FROM scratch\nARG JAR=a.jar\nFROM scratch\nADD ${JAR} /\n", nil},
		{"adds a variable", "FROM scratch\nARG JAR=a.jar\nENV MODE=x JAR=https://example.org/x\nADD ${JAR} /\n", nil},
		{"adds a variable of the old form", "FROM scratch\nARG JAR=a.jar\nENV JAR https://example.org/x\nADD ${JAR} /\n", nil},
		{"adds what may be of the base", "FROM scratch\nADD ${JAR:-a.jar} /\n", nil},
		{"adds a part of a variable", "FROM scratch\nARG JAR=a.jar\nADD ${JAR%.jar} /\n", nil},
		{"no reference", "FROM UPPER:1\n", nil},
		{"no image", "FROM\n", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			images, err := baseImages(test.dockerfile, args)
			if test.want == nil {
				assert.ErrorIs(t, err, ErrUnknownInputs)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, append([]string{}, images...))
		})
	}
}

func FuzzBaseImages(f *testing.F) {
	for _, seed := range []string{
		"FROM a:1 AS b\nCOPY --from=c:2 / /\n", "FROM a\nARG A=$B\nENV C d\nADD [\"$A\", \"/\"]\nADD ${A:-x} --a $ /\n", "# escape=`\n# syntax=x\nARG A=${B:-c}\nFROM $A\nRUN <<E\nE\n", "FROM \\\n\\\n", "RUN <<A <<A\n", "ARG =\nFROM ${",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, dockerfile string) {
		images, err := baseImages(dockerfile, map[string]string{"A": "b"})
		if err != nil {
			if !errors.Is(err, ErrUnknownInputs) {
				t.Fatal(err)
			}
			return
		}
		for _, image := range images {
			if _, err := parseReference(image); err != nil {
				t.Fatalf("%q: %v", image, err)
			}
		}
	})
}
