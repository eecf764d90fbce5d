//go:build !unix

package process

import (
	"context"
	"os"
	"os/exec"
	"time"
)

// Without process groups a cancelled command is ended alone.

func ownGroup(*exec.Cmd) {}

func terminate(p *os.Process) error { return p.Kill() }

func killGroup(p *os.Process) { _ = p.Kill() }

func reapGroup(context.Context, *os.Process, time.Duration) func() { return func() {} }

func signalled(*os.ProcessState) int { return 0 }
