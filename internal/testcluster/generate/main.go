// Command generate writes the go.mod and go.sum of the module that builds Kubernetes from a version of it. Kubernetes' own
// go.mod takes its staging modules from its work tree; here they are replaced by the published versions that match.
//
//	go run ./generate VERSION ETCD-VERSION FOLDER
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: generate VERSION ETCD-VERSION FOLDER")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(version, etcd, dir string) error {
	upstream, err := goMod("k8s.io/kubernetes@" + version)
	if err != nil {
		return err
	}
	mod := new(modfile.File)
	if err := mod.AddModuleStmt("kubernetes"); err != nil {
		return err
	}
	if err := mod.AddGoStmt(upstream.Go.Version); err != nil {
		return err
	}
	for path, version := range map[string]string{"k8s.io/kubernetes": version, "go.etcd.io/etcd/server/v3": etcd} {
		if err := mod.AddRequire(path, version); err != nil {
			return err
		}
	}
	staging := "v0." + strings.TrimPrefix(strings.TrimPrefix(version, semver.Major(version)), ".")
	for _, replace := range upstream.Replace {
		if !strings.HasPrefix(replace.New.Path, "./staging/") {
			continue
		}
		if err := mod.AddReplace(replace.Old.Path, "", replace.Old.Path, staging); err != nil {
			return err
		}
	}
	mod.SortBlocks()
	mod.Cleanup()
	data, err := mod.Format()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), data, 0o644); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "go.sum")); err != nil && !os.IsNotExist(err) {
		return err
	}
	_, err = run(dir, "mod", "tidy")
	return err
}

// goMod returns the go.mod of a module at a version.
func goMod(module string) (*modfile.File, error) {
	out, err := run("", "mod", "download", "-json", module)
	if err != nil {
		return nil, err
	}
	var downloaded struct{ GoMod string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(downloaded.GoMod)
	if err != nil {
		return nil, err
	}
	return modfile.Parse(downloaded.GoMod, data, nil)
}

func run(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}
