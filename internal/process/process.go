// Package process runs child processes the way every stage needs them: in a process group of their own that is
// ended as a whole, with output that nobody rewrites, and with the exit code kept.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Grace is how long the process group of a cancelled command may take to end after SIGTERM, before SIGKILL ends it.
// Mage itself waits five seconds after an interrupt, so it has to be less than that.
const Grace = 3 * time.Second

// groupPoll is how often the end of a process group is looked for: nothing tells of it but asking.
const groupPoll = 10 * time.Millisecond

// tailSize is how much of a captured command's stderr goes into its error, in bytes.
const tailSize = 4 << 10

type (
	outputKey   struct{}
	graceKey    struct{}
	observerKey struct{}
)

// Observer is told of every command that Run runs: before it starts, when its environment may still be added to, and, by
// the function that it returns, when it has ended with an exit code, 0 where it went well.
type Observer func(cmd *exec.Cmd) (ended func(exitCode int))

// WithObserver returns a context whose commands are told to observe.
func WithObserver(ctx context.Context, observe Observer) context.Context {
	return context.WithValue(ctx, observerKey{}, observe)
}

// WithOutput returns a context whose commands write their output to w.
func WithOutput(ctx context.Context, w io.Writer) context.Context {
	return context.WithValue(ctx, outputKey{}, w)
}

// Output returns where the output of the context's commands goes: os.Stderr unless WithOutput said otherwise, since
// stdout is kept for results.
func Output(ctx context.Context) io.Writer {
	if w, ok := ctx.Value(outputKey{}).(io.Writer); ok {
		return w
	}
	return os.Stderr
}

// WithGrace returns a context whose commands have d instead of Grace to end politely.
func WithGrace(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, graceKey{}, d)
}

func grace(ctx context.Context) time.Duration {
	if d, ok := ctx.Value(graceKey{}).(time.Duration); ok {
		return d
	}
	return Grace
}

// Error is a command that failed. It keeps the exit code, so that mage can exit with it too.
type Error struct {
	// Args is the command line, program first.
	Args []string
	// Stderr is the end of what the command wrote there; only captured commands have it.
	Stderr string
	// Err is the cause: an *exec.ExitError, an *exec.Error, or the context's error.
	Err error
}

// Error says which command failed and how; the last words of a captured command come with it.
func (e *Error) Error() string {
	msg := fmt.Sprintf("running %s: %v", commandLine(e.Args), e.Err)
	if e.Stderr != "" {
		msg += ": " + e.Stderr
	}
	return msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitStatus returns the exit code of the command: 128 plus the signal's number where a signal ended it, as a shell
// would say; that of why it was cancelled, where that has one; and 1 where it could not be started.
func (e *Error) ExitStatus() int {
	var exit *exec.ExitError
	if !errors.As(e.Err, &exit) {
		var cause interface{ ExitStatus() int } // why it was cancelled
		if errors.As(e.Err, &cause) {
			return cause.ExitStatus()
		}
		return 1
	}
	if code := exit.ExitCode(); code > 0 {
		return code
	}
	if signal := signalled(exit.ProcessState); signal > 0 {
		return 128 + signal
	}
	return 1
}

// Command returns a command that ends with ctx: its whole process group gets SIGTERM, and SIGKILL after Grace. Its output
// goes to Output(ctx), its standard input is empty. The caller may change all of that before Run; Dir and Env are
// exec.Cmd's own.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout = Output(ctx)
	cmd.Stderr = cmd.Stdout
	cmd.Env = Env()
	ownGroup(cmd)
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	return cmd
}

// ofHooks are the variables that git sets for its hooks. In a child they would lead git into this repository wherever it runs.
// Source: git rev-parse --local-env-vars
var ofHooks = []string{"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE",
	"GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS",
	"GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE"}

// Env returns the environment of this process, without what git sets for a hook, with extra ("NAME=value") added; later entries
// win.
func Env(extra ...string) []string {
	environ := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(ofHooks, name)
	})
	return append(environ, extra...)
}

// Run starts a command that Command made and waits for it. When ctx is cancelled it returns only after the whole
// process group is gone. The error is an *Error, and matches the context's error where that is why the command ended.
func Run(ctx context.Context, cmd *exec.Cmd) error {
	start := time.Now()
	log := zerolog.Ctx(ctx)
	log.Debug().Strs("command", cmd.Args).Str("dir", cmd.Dir).Msg("starting")
	if err := ctx.Err(); err != nil {
		return &Error{Args: cmd.Args, Err: context.Cause(ctx)}
	}
	err := observed(ctx, cmd)
	log.Debug().Strs("command", cmd.Args).Dur("took", time.Since(start)).Err(err).Msg("ended")
	switch {
	case err == nil:
		return nil
	case cmd.Process != nil && ctx.Err() != nil:
		return &Error{Args: cmd.Args, Err: context.Cause(ctx)}
	default:
		return &Error{Args: cmd.Args, Err: err}
	}
}

// observed runs cmd between the two calls of the context's observer.
func observed(ctx context.Context, cmd *exec.Cmd) error {
	observe, ok := ctx.Value(observerKey{}).(Observer)
	if !ok {
		return startAndWait(ctx, cmd)
	}
	ended := observe(cmd)
	err := startAndWait(ctx, cmd)
	code := 0
	if err != nil {
		code = (&Error{Err: err}).ExitStatus()
	}
	ended(code)
	return err
}

func startAndWait(ctx context.Context, cmd *exec.Cmd) error {
	pipes, err := connect(cmd)
	if err != nil {
		return err
	}
	err = cmd.Start()
	for _, p := range pipes {
		p.started(err == nil)
	}
	if err != nil {
		return startError(err)
	}
	running.add(cmd.Process)
	kill := reapGroup(ctx, cmd.Process, grace(ctx))
	err = cmd.Wait()
	kill()
	running.remove(cmd.Process)
	for _, p := range pipes {
		if perr := p.finish(ctx); err == nil {
			err = perr
		}
	}
	return err
}

// running are the commands that have been started and not waited for.
var running processes

type processes struct {
	mu  sync.Mutex
	all map[*os.Process]bool
}

func (p *processes) add(process *os.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[*os.Process]bool{}
	}
	p.all[process] = true
}

func (p *processes) remove(process *os.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, process)
}

// KillAll ends the process groups of all commands that run, for good. It is for a process that is about to exit without waiting
// for them. A grace above zero is what they get for ending their own children first.
func KillAll(grace time.Duration) {
	running.mu.Lock()
	defer running.mu.Unlock()
	if grace > 0 {
		for process := range running.all {
			_ = terminate(process)
		}
		time.Sleep(grace)
	}
	for process := range running.all {
		killGroup(process)
	}
}

// Capture runs a command and returns what it wrote to stdout; the end of its stderr becomes part of the error.
func Capture(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var stdout bytes.Buffer
	stderr := &tail{size: tailSize}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	err := Run(ctx, cmd)
	var failed *Error
	if errors.As(err, &failed) {
		failed.Stderr = strings.TrimSpace(stderr.String())
	}
	return stdout.Bytes(), err
}

func startError(err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w; install it or add its folder to PATH", err)
	}
	return err
}

func commandLine(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = arg
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'\\$") {
			quoted[i] = strconv.Quote(arg)
		}
	}
	return strings.Join(quoted, " ")
}

// tail keeps the last size bytes that were written to it.
type tail struct {
	size int
	cut  bool
	buf  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.size; over > 0 {
		t.cut = true
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	if t.cut {
		return "…" + string(t.buf)
	}
	return string(t.buf)
}
