//go:build !unix

package telemetry

import (
	"os"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

func killGroup(p *os.Process) { _ = p.Kill() }

func lowPriority(*os.Process) {}
