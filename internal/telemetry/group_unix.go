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

// low is the priority of what nobody waits for: a tenth of what a stage gets, where both want the same processor. With less,
// a machine that is never idle would not get its exporter at all.
const low = 10

func lowPriority(p *os.Process) { _ = syscall.Setpriority(syscall.PRIO_PGRP, p.Pid, low) }
