package imports

import (
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What others can call they can also name: no exported signature, field or variable is of a type of
// an internal package.
func TestNoExportedSignatureNamesAnInternalType(t *testing.T) {
	public, imported := exported(t)
	require.Contains(t, public, us+"/targets")
	for _, path := range public {
		pkg, err := imported.Import(path)
		require.NoError(t, err)
		for _, problem := range internalTypes(pkg) {
			assert.Fail(t, problem)
		}
	}
}

// The test itself sees what it looks for.
func TestInternalTypesAreSeen(t *testing.T) {
	_, imported := exported(t)
	pkg, err := imported.Import(us + "/internal/stage")
	require.NoError(t, err)
	problems := strings.Join(internalTypes(pkg), "\n")
	assert.Contains(t, problems, "Options names "+us+"/internal/forge.Forge", "a field")
	assert.Contains(t, problems, "Annotate names "+us+"/internal/forge.Annotation", "a parameter")
	assert.Contains(t, problems, "Pipeline names "+us+"/internal/report.Run", "a result of a method")
}

// exported lists the packages that others can import, and returns an importer of what is compiled.
func exported(t *testing.T) (public []string, imported types.Importer) {
	t.Helper()
	cmd := exec.Command(
		"go",
		"list",
		"-export",
		"-deps",
		"-f",
		"{{if .Export}}{{.ImportPath}} {{.Name}} {{.Export}}{{end}}",
		us+"/...",
	)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		path, name, file := fields[0], fields[1], fields[2]
		files[path] = file
		if within(path, us) && name != "main" && !isInternal(path) {
			public = append(public, path)
		}
	}
	return public, importer.ForCompiler(
		token.NewFileSet(),
		"gc",
		func(path string) (io.ReadCloser, error) { return os.Open(files[path]) },
	)
}

func isInternal(path string) bool {
	return within(path, us) && slices.Contains(strings.Split(path, "/"), "internal")
}

// internalTypes says which exported names of a package are of types of internal packages other than
// its own.
func internalTypes(pkg *types.Package) []string {
	var problems []string
	for _, name := range pkg.Scope().Names() {
		object := pkg.Scope().Lookup(name)
		if !object.Exported() {
			continue
		}
		seen := map[types.Type]bool{}
		var visit func(t types.Type)
		visit = func(t types.Type) {
			if seen[t] {
				return
			}
			seen[t] = true
			if named, ok := t.(interface{ Obj() *types.TypeName }); ok {
				of := named.Obj().Pkg()
				switch {
				case of == nil || of != pkg && !within(of.Path(), us): // a type of others has no type of ours in it
					return
				case of != pkg && isInternal(of.Path()):
					problems = append(
						problems,
						fmt.Sprintf("%s.%s names %s.%s", pkg.Path(), name, of.Path(), named.Obj().Name()),
					)
					return
				case of != pkg || named.Obj() != object && named.Obj().Exported():
					return // it is looked at where it is
				}
			}
			parts(t, visit)
		}
		visit(object.Type())
	}
	return problems
}

// parts visits the types that a type shows.
func parts(t types.Type, visit func(types.Type)) {
	switch t := t.(type) {
	case *types.Alias:
		visit(t.Rhs())
	case *types.Named:
		visit(t.Underlying())
		for i := range t.NumMethods() {
			if method := t.Method(i); method.Exported() {
				visit(method.Type())
			}
		}
		for i := range t.TypeArgs().Len() {
			visit(t.TypeArgs().At(i))
		}
	case *types.Struct:
		for i := range t.NumFields() {
			if field := t.Field(i); field.Exported() {
				visit(field.Type())
			}
		}
	case *types.Interface:
		for i := range t.NumMethods() {
			visit(t.Method(i).Type())
		}
	case *types.Signature:
		visit(t.Params())
		visit(t.Results())
	case *types.Tuple:
		for i := range t.Len() {
			visit(t.At(i).Type())
		}
	case *types.Map:
		visit(t.Key())
		visit(t.Elem())
	case interface{ Elem() types.Type }: // a pointer, slice, array or channel
		visit(t.Elem())
	}
}
