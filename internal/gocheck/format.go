package gocheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/format"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Format finds the Go files below root that gofmt would change, generated ones among them, and those that do not parse.
func Format(ctx context.Context, root string) ([]Finding, error) {
	var files []string
	err := walk(root, func(path string, entry fs.DirEntry) {
		if strings.HasSuffix(path, ".go") && entry.Type().IsRegular() {
			files = append(files, path)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("looking for Go files: %w", err)
	}
	var findings []Finding
	for _, file := range files {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("checking the format of Go files: %w", context.Cause(ctx))
		}
		source, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return nil, fmt.Errorf("reading a Go file: %w", err)
		}
		if f, found := unformatted(file, source); found {
			f.File, f.Tool = file, "gofmt"
			findings = append(findings, f)
		}
	}
	return findings, nil
}

func unformatted(file string, source []byte) (Finding, bool) {
	// Without this a file that lacks its package clause would pass for a piece of Go, which format.Source takes too.
	_, err := parser.ParseFile(token.NewFileSet(), "", source, parser.PackageClauseOnly)
	var want []byte
	if err == nil {
		want, err = format.Source(source)
	}
	var syntax scanner.ErrorList
	switch {
	case errors.As(err, &syntax) && len(syntax) > 0:
		first := syntax[0]
		return Finding{Line: first.Pos.Line, Column: first.Pos.Column, Message: first.Msg}, true
	case err != nil:
		return Finding{Line: 1, Column: 1, Message: err.Error()}, true
	case bytes.Equal(source, want):
		return Finding{}, false
	}
	return Finding{Line: firstDifference(source, want), Column: 1, Message: "this is not formatted; run gofmt -w " + file}, true
}

// firstDifference is the first line that differs, from 1.
func firstDifference(a, b []byte) int {
	line := 1
	for i := 0; i < len(a) && i < len(b) && a[i] == b[i]; i++ {
		if a[i] == '\n' {
			line++
		}
	}
	return line
}
