// Command generate writes what the table of settings makes: the fields of targets.Service,
// docs/settings.md, the table in README.md, and in the comment of each target the sentence that
// names its settings.
//
//	go generate ./internal/settings
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := write(filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// write brings the files of the module in root up to date.
func write(root string) error {
	files, err := generated(root)
	if err != nil {
		return err
	}
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
