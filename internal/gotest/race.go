package gotest

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
)

// RaceSupported reports whether the race detector can run here, and where not, why. It needs cgo, a C compiler and a
// platform that it knows.
func RaceSupported(ctx context.Context) (ok bool, reason string, err error) {
	return raceSupported(ctx, "")
}

func raceSupported(ctx context.Context, dir string) (ok bool, reason string, err error) {
	cmd := process.Command(ctx, "go", "env", "-json", "GOOS", "GOARCH", "CGO_ENABLED", "CC")
	cmd.Dir = dir
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return false, "", fmt.Errorf("asking go for its environment: %w", err)
	}
	var env struct{ GOOS, GOARCH, CGO_ENABLED, CC string }
	if err := json.Unmarshal(out, &env); err != nil {
		return false, "", fmt.Errorf("reading go's environment: %w", err)
	}
	if !slices.Contains(racePlatforms, env.GOOS+"/"+env.GOARCH) {
		return false, fmt.Sprintf("it does not know %s/%s", env.GOOS, env.GOARCH), nil
	}
	if env.GOOS == "darwin" {
		return true, "", nil // the one platform where it needs no cgo
	}
	// Go itself sets CGO_ENABLED to 0 where nobody has and there is no compiler: look for that first.
	compiler := compiler(env.CC)
	if _, err := exec.LookPath(compiler); err != nil {
		return false, fmt.Sprintf("it needs a C compiler, and there is no %s; install it or set CC", compiler), nil
	}
	if env.CGO_ENABLED != "1" {
		return false, "it needs cgo, and CGO_ENABLED is " + env.CGO_ENABLED, nil
	}
	return true, "", nil
}

// compiler is the program of CC, which may be quoted and have arguments.
func compiler(cc string) string {
	cc = strings.TrimSpace(cc)
	if cc != "" && (cc[0] == '"' || cc[0] == '\'') {
		if name, _, closed := strings.Cut(cc[1:], cc[:1]); closed {
			return name
		}
	}
	name, _, _ := strings.Cut(cc, " ")
	return name
}

// racePlatforms is where the race detector runs. Source: https://go.dev/doc/articles/race_detector#Requirements
var racePlatforms = []string{
	"darwin/amd64", "darwin/arm64", "freebsd/amd64", "linux/amd64", "linux/arm64", "linux/loong64", "linux/ppc64le",
	"linux/riscv64", "linux/s390x", "netbsd/amd64", "windows/amd64",
}

// useRace decides about the race detector, and says it when that is off because it cannot run.
func useRace(ctx context.Context, o Options) (bool, error) {
	if o.Race != nil {
		return *o.Race, nil
	}
	ok, reason, err := raceSupported(ctx, o.Dir)
	if err == nil && !ok {
		zerolog.Ctx(ctx).Warn().Msgf("the race detector is off: %s", reason)
	}
	return ok, err
}
