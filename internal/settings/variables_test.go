package settings_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/settings"
)

// notSettings are variables that are read and nobody sets to have another run, each with who does
// set it.
var notSettings = map[string]string{
	"CGO_ENABLED":      "go env, which is asked",
	"GIT_CONFIG_COUNT": "git's, of which there may be some already",
	"GITEA_ACTIONS":    "the forge", "GITHUB_ACTIONS": "the forge", "GITHUB_BASE_REF": "the forge",
	"GITHUB_ENV":        "the forge",
	"GITHUB_EVENT_NAME": "the forge", "GITHUB_EVENT_PATH": "the forge", "GITHUB_HEAD_REF": "the forge",
	"GITHUB_JOB":    "the forge",
	"GITHUB_OUTPUT": "the forge", "GITHUB_REF": "the forge", "GITHUB_REF_NAME": "the forge",
	"GITHUB_REF_TYPE":   "the forge",
	"GITHUB_REPOSITORY": "the forge", "GITHUB_RUN_ATTEMPT": "the forge", "GITHUB_RUN_ID": "the forge",
	"GITHUB_RUN_NUMBER": "the forge",
	"GITHUB_SERVER_URL": "the forge", "GITHUB_SHA": "the forge", "GITHUB_STEP_SUMMARY": "the forge",
	"GITHUB_WORKFLOW":  "the forge",
	"GITHUB_WORKSPACE": "the forge",
	"MAGEFILE_GOCMD":   "mage, for the magefile that it has compiled",
}

// byVariable are the files that read variables whose names stand elsewhere, with which these are.
var byVariable = map[string]string{
	"kube/git.go":                             "GIT_AUTHOR_ and GIT_COMMITTER_, NAME and EMAIL",
	"targets/image/build.go":                  "those that IMAGE_SECRETS names",
	"targets/stage.go":                        "those that IMAGE_SECRETS names",
	"internal/telemetry/telemetry.go":         "OTEL_TRACES_ and OTEL_METRICS_",
	"internal/telemetry/otlpexport/config.go": "OTEL_EXPORTER_OTLP_, and the same for traces and metrics",
	"internal/settings/resolve.go":            "those of the table",
	"internal/parent/parent.go":               "MAGEFILE_GOCMD",
}

// ofTests are folders of what no service compiles: the tests', the demo's, and the programs that
// write files of the repository.
var ofTests = []string{
	"example-app", "build", "magefiles", "internal/bench", "internal/leaks", "internal/needs",
	"internal/sandbox", "internal/scripts",
	"internal/testcluster", "internal/testengine", "internal/testimage", "internal/testpki", "internal/testregistry",
}

// Every variable that is read is a setting in the table, or one that nobody sets.
func TestEveryVariableIsInTheTable(t *testing.T) {
	read := map[string][]string{}
	for name, file := range sources(t, filepath.Join("..", "..")) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !readsVariable(call) {
				return true
			}
			variable, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				if selected, ok := call.Args[0].(*ast.SelectorExpr); ok && selected.Sel.Name == "EnvOverrideHost" {
					read["DOCKER_HOST"] = append(read["DOCKER_HOST"], name)
					return true
				}
				assert.Contains(t, byVariable, name, "a variable is read whose name stands elsewhere")
				return true
			}
			text, err := strconv.Unquote(variable.Value)
			require.NoError(t, err)
			read[text] = append(read[text], name)
			return true
		})
	}
	require.Contains(t, read, "DRY_RUN")
	require.Contains(t, read, "GITHUB_SHA")
	require.Contains(t, read, "REGISTRY_PASS")
	for variable, files := range read {
		assert.True(
			t,
			settings.Of(variable) != nil || notSettings[variable] != "",
			"%s is read in %s, and no row of the table",
			variable,
			files,
		)
	}
	for variable := range notSettings {
		assert.Nil(t, settings.Of(variable), "%s is a setting", variable)
	}
}

// readsVariable reports whether a call reads a variable: of package os, or of a function that
// somebody has handed over.
func readsVariable(call *ast.CallExpr) bool {
	if len(call.Args) != 1 {
		return false
	}
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		of, ok := f.X.(*ast.Ident)
		return ok && of.Name == "os" && (f.Sel.Name == "Getenv" || f.Sel.Name == "LookupEnv") || f.Sel.Name == "getenv"
	case *ast.Ident:
		return f.Name == "getenv"
	}
	return false
}

// likeVariable is a text that is the name of a variable, or begins with one as an entry of an
// environment does.
var likeVariable = regexp.MustCompile(`^([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)=?$`)

// written are texts in the code that look like variables that are read: what children are given,
// what others define, and codes of protocols.
var written = regexp.MustCompile(`^(` + strings.Join([]string{
	// Given to children, or kept from them.
	`GIT_\w+`, "LC_ALL", "NO_PROXY", "NODE_OPTIONS", "MAGEFILE_CACHE", "XDG_CACHE_HOME", "FETCH_HEAD",
	"DEPENDS_ON", "NAME_INVALID", "CLIENT_CERTIFICATE", "CLIENT_KEY", // parts of names, and words of formats
}, "|") + `)$`)

// Also a variable that is found in a list of the environment's entries is a setting in the table.
func TestEveryNameInTheCodeIsInTheTable(t *testing.T) {
	seen := map[string]bool{}
	for name, file := range sources(t, filepath.Join("..", "..")) {
		if name == "internal/settings/table.go" {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(literal.Value)
			require.NoError(t, err)
			found := likeVariable.FindStringSubmatch(text)
			if found == nil {
				return true
			}
			variable := found[1]
			seen[variable] = true
			assert.True(t, settings.Of(variable) != nil || notSettings[variable] != "" || written.MatchString(variable),
				"%s has the text %q, which looks like a variable and is no row of the table", name, text)
			return true
		})
	}
	for variable := range notSettings {
		assert.True(t, seen[variable], "%s is read nowhere", variable)
	}
}

// What documents and scripts say of variables of ours is of variables that are there.
func TestDocumentsNameOnlyWhatIsThere(t *testing.T) {
	named := regexp.MustCompile(
		`\b(?:REGISTRY|IMAGE|DEPLOY|ENVIRONMENT|PROMOTE|ALLOW|COVERAGE|TEST|KUBE|ROLLBACK|LOG|PIPELINE|SETTINGS|DRY)` +
			`_[A-Z]+(?:_[A-Z]+)*\b`,
	)
	root := filepath.Join("..", "..")
	var files []string
	for _, pattern := range []string{
		"*.md", "docs/*.md", ".gitea/workflows/*", "example-app/*.md",
		"internal/scripts/testdata/*.txtar", "internal/scripts/testdata/*/*.txtar",
	} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		files = append(files, found...)
	}
	require.NotEmpty(t, files)
	for name, source := range comments(t, root) {
		check(t, name, source, named)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		check(t, file, string(text), named)
	}
}

// examples are names in documents that are none of ours on purpose.
var examples = []string{
	// Not settings, which is why they are named.
	"REGISTY_HOST", "IMAGE_SIZE", "IMAGE_NAME", "REGISTRY_PORT", "TEST_DATABASE_URL", "LOG_LEVEL", "IMAGE_PLATFROM",
	"REGISTRY_HOST_WAS", "DEPLOY_IMAGE_WAS", // what scripts keep
}

func check(t *testing.T, name, text string, named *regexp.Regexp) {
	t.Helper()
	for _, variable := range named.FindAllString(text, -1) {
		assert.True(
			t,
			settings.Of(variable) != nil || slices.Contains(examples, variable),
			"%s names %s, which is no setting",
			name,
			variable,
		)
	}
}

// comments are those of the files of targets, where users read them.
func comments(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name, file := range sources(t, root) {
		for _, group := range file.Comments {
			all[name] += group.Text()
		}
	}
	return all
}

// sources parses the files of the module that services compile.
func sources(t *testing.T, root string) map[string]*ast.File {
	t.Helper()
	fset := token.NewFileSet()
	all := map[string]*ast.File{}
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		switch base := entry.Name(); {
		case entry.IsDir() && (slices.Contains(ofTests, name) || base == "testdata" || base == "generate"),
			entry.IsDir() && name != "." && strings.ContainsRune("._", rune(base[0])):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		all[name] = file
		return err
	}))
	require.NotEmpty(t, all)
	return all
}
