//go:build unix

package process_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/process"
)

// TestMain lets the test binary play the child: CHILD names what it does.
func TestMain(m *testing.M) {
	switch what := os.Getenv("CHILD"); what {
	case "":
		os.Exit(m.Run())
	case "bytes":
		n, _ := strconv.Atoi(os.Getenv("SIZE"))
		_, _ = os.Stdout.Write(bytes.Repeat([]byte{'x'}, n))
		_, _ = io.WriteString(os.Stdout, os.Getenv("LAST"))
	case "where":
		dir, _ := os.Getwd()
		fmt.Printf("%s %s", dir, os.Getenv("EXTRA"))
	case "exit":
		fmt.Fprintln(os.Stderr, "the reason")
		code, _ := strconv.Atoi(os.Getenv("CODE"))
		os.Exit(code)
	case "polite":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Println("ready")
		<-signals
		fmt.Println("bye")
		os.Exit(3)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready", os.Getpid())
		for {
			time.Sleep(time.Hour)
		}
	case "family":
		// A polite parent with a stubborn child that shares its output: the case that leaves orphans behind.
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CHILD=stubborn")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		_ = cmd.Wait()
	default:
		fmt.Fprintln(os.Stderr, "unknown child", what)
		os.Exit(99)
	}
	os.Exit(0)
}

func child(ctx context.Context, env ...string) *exec.Cmd {
	cmd := process.Command(ctx, os.Args[0])
	cmd.Env = process.Env(env...)
	return cmd
}

func TestRunKeepsEveryByte(t *testing.T) {
	tests := []struct {
		name string
		size int
		last string
	}{
		{"nothing", 0, ""},
		{"no last newline", 0, "tail"},
		{"a line of 70 KB", 70 << 10, "\n"},
		{"a line of 5 MB without a newline", 5 << 20, ""},
		{"binary", 10, "\x01\xff\xfe\r\n\x1b[31m"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			ctx := process.WithOutput(t.Context(), &out)
			err := process.Run(ctx, child(ctx, "CHILD=bytes", fmt.Sprint("SIZE=", tt.size), "LAST="+tt.last))
			require.NoError(t, err)
			assert.Equal(t, tt.size+len(tt.last), out.Len())
			assert.True(t, strings.HasSuffix(out.String(), tt.last))
		})
	}
}

func TestRunDirAndEnv(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t.Context(), "CHILD=where", "EXTRA=first", "EXTRA=last wins $HOME")
	cmd.Dir = dir
	out, err := process.Capture(t.Context(), cmd)
	require.NoError(t, err)
	assert.Equal(t, dir+" last wins $HOME", string(out), "nothing expands the arguments")
}

func TestRunKeepsExitCode(t *testing.T) {
	for _, code := range []int{1, 2, 7, 125, 255} {
		_, err := process.Capture(t.Context(), child(t.Context(), "CHILD=exit", fmt.Sprint("CODE=", code)))
		var failed *process.Error
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, code, failed.ExitStatus())
		assert.Contains(t, err.Error(), "the reason", "a captured command tells its last words")
		assert.Contains(t, err.Error(), os.Args[0])
	}
}

func TestRunSignalled(t *testing.T) {
	cmd := process.Command(t.Context(), "sh", "-c", "kill -9 $$")
	var failed *process.Error
	require.ErrorAs(t, process.Run(t.Context(), cmd), &failed)
	assert.Equal(t, 128+9, failed.ExitStatus())
}

func TestRunNotFound(t *testing.T) {
	err := process.Run(t.Context(), process.Command(t.Context(), "no-such-program-here"))
	require.ErrorIs(t, err, exec.ErrNotFound)
	assert.Contains(t, err.Error(), "PATH")
	var failed *process.Error
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, 1, failed.ExitStatus())
}

func TestCaptureErrorHoldsOnlyTheTail(t *testing.T) {
	cmd := process.Command(t.Context(), "sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1")
	_, err := process.Capture(t.Context(), cmd)
	require.Error(t, err)
	assert.Less(t, len(err.Error()), 8<<10)
	assert.True(t, strings.HasSuffix(err.Error(), "the end"), "the tail tells why")
}

func TestCancelIsPoliteAndLosesNoTail(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	out := newWatched("ready\n")
	cmd := child(process.WithOutput(ctx, out), "CHILD=polite")
	done := make(chan error, 1)
	go func() { done <- process.Run(ctx, cmd) }()
	<-out.seen
	why := errors.New("interrupted")
	cancel(why)
	err := <-done
	require.ErrorIs(t, err, why)
	assert.Equal(t, "ready\nbye\n", out.buf.String(), "what a child says on its way out is kept")
}

func TestCancelEndsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(process.WithGrace(t.Context(), 100*time.Millisecond))
	r, w := io.Pipe()
	cmd := child(process.WithOutput(ctx, w), "CHILD=family")
	done := make(chan error, 1)
	go func() { done <- process.Run(ctx, cmd) }()
	line, err := bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscanf(line, "ready %d", &pid)
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, r) }()

	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Eventually(t, func() bool { return gone(pid) }, 5*time.Second, 5*time.Millisecond,
		"the grandchild that ignores SIGTERM is still there")
}

func TestCancelledBeforeStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cmd := child(ctx, "CHILD=exit", "CODE=0")
	require.ErrorIs(t, process.Run(ctx, cmd), context.Canceled)
	assert.Nil(t, cmd.Process, "nothing was started")
}

func TestOutputDefaultsToStderr(t *testing.T) {
	cmd := process.Command(t.Context(), "true")
	assert.Same(t, os.Stderr, cmd.Stdout)
	assert.Same(t, os.Stderr, cmd.Stderr)
}

// gone reports whether no process has the id any more; a zombie that waits for its parent's reaping counts as gone.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, ok := strings.Cut(string(stat), ") ")
	return ok && strings.HasPrefix(after, "Z")
}

// watched is a buffer that tells when a text has been written to it.
type watched struct {
	buf  bytes.Buffer
	text string
	seen chan struct{}
	told bool
}

func newWatched(text string) *watched {
	return &watched{text: text, seen: make(chan struct{})}
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.buf.Write(p)
	if !w.told && strings.Contains(w.buf.String(), w.text) {
		w.told = true
		close(w.seen)
	}
	return n, err
}

func TestObserver(t *testing.T) {
	var codes []int
	ctx := process.WithObserver(t.Context(), func(cmd *exec.Cmd) func(int) {
		cmd.Env = append(cmd.Environ(), "OBSERVED=yes")
		return func(code int) { codes = append(codes, code) }
	})
	out, err := process.Capture(ctx, process.Command(ctx, "sh", "-c", "echo $OBSERVED"))
	require.NoError(t, err)
	assert.Equal(t, "yes\n", string(out))
	require.Error(t, process.Run(ctx, process.Command(ctx, "sh", "-c", "exit 3")))
	require.Error(t, process.Run(ctx, process.Command(ctx, "sh", "-c", "kill -9 $$")))
	require.Error(t, process.Run(ctx, process.Command(ctx, "no such program")))
	assert.Equal(t, []int{0, 3, 137, 1}, codes)
}

func TestKillAll(t *testing.T) {
	// Neither the shell nor its child cares for SIGTERM.
	cmd := process.Command(t.Context(), "sh", "-c", "trap '' TERM; sleep 1000 & wait")
	ended := make(chan error, 1)
	go func() { ended <- process.Run(t.Context(), cmd) }()
	require.Eventually(t, func() bool { process.KillAll(0); return len(ended) == 1 }, 10*time.Second, 20*time.Millisecond)
	var failed *process.Error
	require.ErrorAs(t, <-ended, &failed)
	assert.Equal(t, 137, failed.ExitStatus())
}

// A pager that nobody looks at takes nothing for a while.
func TestOutputOfASlowReaderIsNotLost(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	got := make(chan string)
	go func() {
		time.Sleep(5 * time.Second) // longer than what silence may last
		all, _ := io.ReadAll(read)
		got <- string(all)
	}()
	ctx := process.WithOutput(t.Context(), wrapped{write})
	require.NoError(t, process.Run(ctx, process.Command(ctx, "sh", "-c", "seq 1 40000; echo LAST")))
	require.NoError(t, write.Close())
	assert.True(t, strings.HasSuffix(<-got, "\n40000\nLAST\n"))
}

// wrapped hides that a writer is a file.
type wrapped struct{ io.Writer }

func TestProcessLeftBehind(t *testing.T) {
	ctx := process.WithOutput(t.Context(), wrapped{io.Discard})
	cmd := process.Command(ctx, "sh", "-c", "sleep 30 & echo $! >&3; echo here")
	read, write, err := os.Pipe()
	require.NoError(t, err)
	cmd.ExtraFiles = []*os.File{write}
	start := time.Now()
	require.NoError(t, process.Run(ctx, cmd), "a command may leave a process behind on purpose")
	assert.Less(t, time.Since(start), 20*time.Second, "its output is not waited for until it ends")
	require.NoError(t, write.Close())
	var pid int
	_, err = fmt.Fscan(read, &pid)
	require.NoError(t, err)
	assert.NoError(t, syscall.Kill(pid, syscall.SIGKILL), "it goes on")
}

func TestEnvIsNotThatOfAHook(t *testing.T) {
	t.Setenv("GIT_DIR", "/nowhere/.git")
	t.Setenv("GIT_AUTHOR_NAME", "somebody")
	env := strings.Join(process.Env("A=b"), "\n")
	assert.NotContains(t, env, "GIT_DIR=")
	assert.Contains(t, env, "GIT_AUTHOR_NAME=somebody")
	assert.True(t, strings.HasSuffix(env, "\nA=b"))
	out, err := process.Capture(t.Context(), process.Command(t.Context(), "git", "-C", t.TempDir(), "init", "-q"))
	require.NoError(t, err, "%s", out)
}

func TestExitStatusIsThatOfTheCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(codeError(143))
	err := process.Run(ctx, process.Command(ctx, "sleep", "60"))
	var failed *process.Error
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, 143, failed.ExitStatus())
}

type codeError int

func (codeError) Error() string     { return "stopped" }
func (c codeError) ExitStatus() int { return int(c) }
