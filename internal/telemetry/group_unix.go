//go:build unix

package telemetry

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup keeps the terminal's signals from a command, which has to outlive the stages.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func killGroup(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }

// lowest is the priority of what nobody waits for.
const lowest = 19

func lowPriority(p *os.Process) { _ = syscall.Setpriority(syscall.PRIO_PGRP, p.Pid, lowest) }
