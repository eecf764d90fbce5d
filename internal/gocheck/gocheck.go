// Package gocheck runs the checks of Go code that are cheap enough to run always, and tells what they find as positions in
// files. None of them changes a file.
package gocheck

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Finding is something to mend.
type Finding struct {
	// File is relative to the folder that was checked.
	File string
	// Line and Column count from 1; 0 where the whole file is meant.
	Line, Column int
	// Message says what is wrong.
	Message string
	// Tool is what found it: gofmt, go mod tidy, go vet or staticcheck.
	Tool string
}

// String is file:line:col: message, which terminals and editors make clickable.
func (f Finding) String() string {
	position := f.File
	if f.Line > 0 {
		position += ":" + strconv.Itoa(f.Line)
		if f.Column > 0 {
			position += ":" + strconv.Itoa(f.Column)
		}
	}
	return position + ": " + f.Message
}

// Modules returns the folders of the modules in the tree below root, relative to it and sorted. Vendored code, testdata,
// node_modules, the root's build folder, and folders that begin with a dot or an underscore are not the repository's own.
func Modules(root string) ([]string, error) {
	var modules []string
	err := walk(root, func(path string, entry fs.DirEntry) {
		if entry.Name() == "go.mod" && !strings.HasPrefix(path, "build"+string(filepath.Separator)) {
			modules = append(modules, filepath.Dir(path))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("looking for modules: %w", err)
	}
	if len(modules) == 0 {
		return nil, fmt.Errorf("there is no go.mod in or below %s; make one with `go mod init`", root)
	}
	slices.Sort(modules)
	return modules, nil
}

// walk calls visit with every file of the tree that is the repository's own, relative to root. A root that is a link is
// followed; no other link is.
func walk(root string, visit func(path string, entry fs.DirEntry)) error {
	return fs.WalkDir(os.DirFS(filepath.Clean(root)), ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (foreign(path, entry.Name()) || made(root, path)):
			return fs.SkipDir
		case !entry.IsDir():
			visit(filepath.FromSlash(path), entry)
		}
		return nil
	})
}

// made reports whether path is the folder build of the root, and what is in it was made by a run: then git has been told to
// ignore all of it.
func made(root, path string) bool {
	if path != "build" {
		return false
	}
	ignored, err := os.ReadFile(filepath.Join(root, path, ".gitignore"))
	return err == nil && strings.TrimSpace(string(ignored)) == "*"
}

func foreign(path, name string) bool {
	if path == "." {
		return false
	}
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") ||
		slices.Contains([]string{"vendor", "testdata", "node_modules"}, name)
}
