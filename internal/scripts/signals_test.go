//go:build unix

package scripts

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slow is a magefile with a target that takes for ever: a child with a child of its own, both in no hurry.
const slow = `//go:build mage

package main

import (
	"context"
	"time"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/targets"
)

// Slow never ends by itself.
func Slow(ctx context.Context) error {
	return targets.Stage(ctx, "slow", func(ctx context.Context) error {
		return process.Run(ctx, process.Command(ctx, "sh", "-c", "sleep 1000 & echo PIDS $$ $!; wait"))
	})
}

// Deaf does not care for SIGTERM, says so, and would be given a minute.
func Deaf(ctx context.Context) error {
	return targets.Stage(ctx, "deaf", func(ctx context.Context) error {
		ctx = process.WithGrace(ctx, time.Minute)
		return process.Run(ctx, process.Command(ctx, "sh", "-c", "trap 'echo DEAF' TERM; (trap '' TERM; sleep 1000) & echo PIDS $$ $!; while :; do wait; done"))
	})
}
`

// TestSignals ends a run in every way there is, and looks for what is left of it.
func TestSignals(t *testing.T) {
	bin := t.TempDir()
	for name, pkg := range map[string]string{"grimoire": "../..", "mage": "github.com/magefile/mage"} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(bin, name), pkg).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	dir, err := os.MkdirTemp(".", "_magefile-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "magefile.go"), []byte(slow), 0o644))

	tests := []struct {
		name    string
		command string
		args    []string
		kill    func(t *testing.T, mage int)
	}{
		{"Ctrl-C, grimoire", "grimoire", nil, group(syscall.SIGINT)},
		{"SIGTERM to grimoire alone", "grimoire", nil, alone(syscall.SIGTERM)},
		{"SIGKILL to grimoire alone", "grimoire", nil, alone(syscall.SIGKILL)},
		{"Ctrl-C, mage", "mage", nil, group(syscall.SIGINT)},
		{"SIGTERM to the group", "mage", nil, group(syscall.SIGTERM)},
		{"SIGTERM to mage alone", "mage", nil, alone(syscall.SIGTERM)},
		{"SIGKILL to mage alone", "mage", nil, alone(syscall.SIGKILL)},
		{"SIGTERM to the compiled magefile alone", "mage", nil, child(syscall.SIGTERM)},
		{"SIGINT to the compiled magefile alone", "mage", nil, child(syscall.SIGINT)},
		{"the deadline of mage -t", "mage", []string{"-t", "20s"}, func(*testing.T, int) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(filepath.Join(bin, tt.command), append(tt.args, "-d", dir, "slow")...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			require.NoError(t, err)
			defer stderr.Close()
			cmd.Stdout, cmd.Stderr = stderr, stderr
			require.NoError(t, cmd.Start())
			pids := waitForPIDs(t, stderr.Name())
			pids = append(pids, children(t, cmd.Process.Pid)...)
			require.Len(t, pids, 3, "the child, its child, and the compiled magefile")

			tt.kill(t, cmd.Process.Pid)
			err = cmd.Wait()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "the run must not look well")
			assertEnded(t, pids)
		})
	}
}

func group(s syscall.Signal) func(*testing.T, int) {
	return func(t *testing.T, mage int) { require.NoError(t, syscall.Kill(-mage, s)) }
}

func alone(s syscall.Signal) func(*testing.T, int) {
	return func(t *testing.T, mage int) { require.NoError(t, syscall.Kill(mage, s)) }
}

func child(s syscall.Signal) func(*testing.T, int) {
	return func(t *testing.T, mage int) {
		for _, pid := range children(t, mage) {
			require.NoError(t, syscall.Kill(pid, s))
		}
	}
}

// waitForPIDs waits for the line in which the slow target says which processes it is.
func waitForPIDs(t *testing.T, file string) []int {
	t.Helper()
	var pids []int
	require.Eventually(t, func() bool {
		f, err := os.Open(file)
		require.NoError(t, err)
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if fields, ok := strings.CutPrefix(lines.Text(), "PIDS "); ok {
				for _, field := range strings.Fields(fields) {
					pid, err := strconv.Atoi(field)
					require.NoError(t, err)
					pids = append(pids, pid)
				}
				return true
			}
		}
		return false
	}, 2*time.Minute, 20*time.Millisecond, "the target does not start")
	return pids
}

func children(t *testing.T, parent int) []int {
	t.Helper()
	var pids []int
	for pid, p := range processes(t) {
		if p.parent == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

type running struct {
	parent int
	state  string
}

// assertEnded gives processes that were told to end the time that a busy machine takes.
func assertEnded(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		assert.Eventually(t, func() bool {
			p, there := processes(t)[pid]
			return !there || strings.HasPrefix(p.state, "Z")
		}, 30*time.Second, 50*time.Millisecond, "process %d is still there", pid)
	}
}

// processes lists what runs, by process id. Where there is /proc, nothing has to be started for it.
func processes(t *testing.T) map[int]running {
	t.Helper()
	all := map[int]running{}
	if runtime.GOOS == "linux" {
		files, err := filepath.Glob("/proc/[0-9]*/stat")
		require.NoError(t, err)
		for _, file := range files {
			stat, err := os.ReadFile(file)
			if err != nil {
				continue // it has ended meanwhile
			}
			var p running
			// The name, in parentheses, may hold anything.
			_, err = fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &p.state, &p.parent)
			require.NoError(t, err, "%q", stat)
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			require.NoError(t, err)
			all[pid] = p
		}
		return all
	}
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,stat=").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		var pid int
		var p running
		_, err := fmt.Sscan(line, &pid, &p.parent, &p.state)
		require.NoError(t, err, "%q", line)
		all[pid] = p
	}
	return all
}

// TestSecondSignal sees to it that nobody has to wait for what does not end politely.
func TestSecondSignal(t *testing.T) {
	dir, err := os.MkdirTemp(".", "_magefile-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "magefile.go"), []byte(slow), 0o644))
	bin := filepath.Join(t.TempDir(), "mage")
	out, err := exec.Command("go", "build", "-o", bin, "github.com/magefile/mage").CombinedOutput()
	require.NoError(t, err, "%s", out)

	cmd := exec.Command(bin, "-d", dir, "deaf")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stderr, stderr
	require.NoError(t, cmd.Start())
	pids := waitForPIDs(t, stderr.Name())
	magefile := children(t, cmd.Process.Pid)
	require.Len(t, magefile, 1)
	require.NoError(t, syscall.Kill(magefile[0], syscall.SIGINT))
	require.Eventually(t, func() bool {
		said, err := os.ReadFile(stderr.Name())
		require.NoError(t, err)
		return strings.Contains(string(said), "DEAF\n")
	}, time.Minute, 20*time.Millisecond, "the first signal does not reach the child")
	time.Sleep(200 * time.Millisecond) // in which the magefile takes the second from mage's own code
	require.NoError(t, syscall.Kill(magefile[0], syscall.SIGINT))
	start := time.Now()
	err = cmd.Wait()
	assert.Less(t, time.Since(start), 30*time.Second, "the grace period is over at the second signal")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 130, exit.ExitCode())
	assertEnded(t, pids)
}
