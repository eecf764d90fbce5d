// Command generate pins a tool: it writes the go.mod and go.sum that say which versions and checksums it is made of.
//
//	go run ./generate NAME PACKAGE@VERSION
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: generate NAME PACKAGE@VERSION")
		os.Exit(2)
	}
	if err := pin(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func pin(name, tool string) error {
	dir, err := os.MkdirTemp("", "pin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, args := range [][]string{
		{"mod", "init", "tools"},
		{"mod", "edit", "-go=1.26.0"},
		{"get", "-tool", tool},
		{"mod", "tidy"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("running go %v: %w", args, err)
		}
	}
	if err := os.MkdirAll(name, 0o755); err != nil {
		return err
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		// A folder with a go.mod would be another module, which cannot be embedded.
		if err := os.WriteFile(filepath.Join(name, file+".txt"), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
