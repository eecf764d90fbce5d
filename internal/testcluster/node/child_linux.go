package main

import (
	"os/exec"
	"syscall"
)

// endWithUs has the kernel end the command when this process is killed.
func endWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
