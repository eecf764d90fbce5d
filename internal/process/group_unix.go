//go:build unix

package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

func terminate(p *os.Process) error {
	err := syscall.Kill(-p.Pid, syscall.SIGTERM)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

func killGroup(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }

// reapGroup sees to it that nothing of p's group outlives a cancelled context by more than grace. The function that it
// returns is to be called when p has ended; it returns when the group is gone, or at once where nothing was cancelled,
// since a command may leave a process behind on purpose.
func reapGroup(ctx context.Context, p *os.Process, grace time.Duration) func() {
	ended := make(chan struct{})
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		select {
		case <-ended:
			if ctx.Err() == nil {
				return
			}
		case <-ctx.Done():
		}
		deadline := time.NewTimer(grace)
		defer deadline.Stop()
		poll := time.NewTicker(groupPoll)
		defer poll.Stop()
		for syscall.Kill(-p.Pid, 0) == nil {
			select {
			case <-deadline.C:
				killGroup(p)
				return
			case <-poll.C:
			}
		}
	}()
	return func() {
		close(ended)
		<-reaped
	}
}

func signalled(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return int(status.Signal())
	}
	return 0
}
