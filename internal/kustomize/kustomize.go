// Package kustomize renders kustomize folders with a kustomize that is pinned, so that a laptop and CI render the same.
package kustomize

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/tool"
)

// Build returns what the kustomization in dir renders to. Kustomize is built first where this machine does not have it yet,
// which takes 20 CPU seconds beside a compiled Deploy, 50 alone. It finds no git, no helm and no network, so that nothing
// but the files decides; what an env file of a generator leaves out still comes from the environment. An error is
// kustomize's own, and how to mend it where that is known.
func Build(ctx context.Context, dir string) ([]byte, error) {
	kustomize, err := tool.Kustomize()
	if err != nil {
		return nil, err
	}
	exe, err := kustomize.Path(ctx, dir)
	if err != nil {
		return nil, err
	}
	cmd := process.Command(ctx, exe, "build")
	cmd.Dir = dir
	cmd.Env = process.Env(isolation...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = process.Run(ctx, cmd)
	told := strings.TrimSpace(stderr.String())
	switch {
	case err != nil && (ctx.Err() != nil || told == ""):
		return nil, err
	case err != nil:
		return nil, &buildError{text: message(told), err: err}
	}
	for line := range strings.Lines(told) {
		zerolog.Ctx(ctx).Warn().Msg("kustomize: " + strings.TrimLeft(strings.TrimSpace(line), "# "))
	}
	return stdout.Bytes(), nil
}

// isolation leaves a child no program to run and no way out. Port 9 is that of the discard protocol, which nobody offers.
var isolation = []string{"PATH=", "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=",
	"http_proxy=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9", "no_proxy="}

// buildError is what kustomize said. It keeps the exit code of its cause.
type buildError struct {
	text string
	err  error
}

func (e *buildError) Error() string { return e.text }

func (e *buildError) Unwrap() error { return e.err }

// cures are what to do about what kustomize says.
var cures = []struct{ says, cure string }{
	{"security; file", "move the file into the folder of the kustomization that names it, or make its folder a base"},
	{"no 'git' program on path", "copy what it names into the repository, since nothing is fetched here"},
	{"127.0.0.1:9", "copy what it names into the repository, since nothing is fetched here"},
	{"--enable-helm", "write what `helm template` prints into a file, and name that under resources"},
	{"external plugins disabled", "write what the plugin makes into a file, and name that under resources"},
	{"kustomization.yaml is empty", "name resources in it, or name a folder that does"},
}

// message is kustomize's error with its cure.
func message(told string) string {
	// Warnings come before it.
	if at := strings.LastIndex(told, "\nError: "); at >= 0 {
		told = told[at+1:]
	}
	text := strings.TrimPrefix(told, "Error: ")
	for _, c := range cures {
		if strings.Contains(text, c.says) {
			return fmt.Sprintf("%s; %s", text, c.cure)
		}
	}
	return text + "; mend it there"
}
