// Package sandbox runs a daemon so that nothing of it outlives it: no process, mount, network interface, firewall rule,
// control group or file. Its processes, mounts and interfaces are in namespaces of their own, which the kernel takes down
// when their first process ends; a guard outside of them ends that one when the program that asked for the sandbox ends,
// however it ends, and removes the rest.
package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/tool"
)

// Config says what runs in a sandbox, and how much of it is its own.
type Config struct {
	// Dir is where the sandbox keeps its files. All of it is removed at the end.
	Dir string
	// Command runs inside. Its end is the end of the sandbox.
	Command []string
	// Env is added to the environment of Command.
	Env []string
	// Isolate gives the sandbox processes and mounts of its own; what it writes below /etc, /run and /var, it alone sees.
	// It needs root.
	Isolate bool
	// Network gives an isolated sandbox a network of its own, with a loopback interface and no way out.
	Network bool
	// Forward is the port on the loopback of a sandbox with a network to which Sandbox.Address leads; default none.
	Forward int
	// Mirror is the port on the loopback of a sandbox with a network where registries on this machine's loopback can be pulled
	// from: it takes a request for a registry's mirror, with the parameter ns; default none.
	// Source: https://github.com/containerd/containerd/blob/main/docs/hosts.md
	Mirror int
	// Replace are files of this machine, each with the file that an isolated sandbox sees in its place.
	Replace map[string]string
	// Detach keeps the sandbox when the program that started it ends; Down ends it.
	Detach bool
	// Until is the id of a process with which a detached sandbox ends too; default none.
	Until int
}

// Sandbox is one that runs.
type Sandbox struct {
	// Stdout is where Command writes its results. In a sandbox that is detached it must not write there after the
	// starting program may have ended.
	Stdout *os.File
	// Address is the host and port on this machine's loopback that leads to Config.Forward.
	Address string

	log   *os.File
	guard *exec.Cmd
	life  *os.File // the guard ends the sandbox when this is closed
	ended chan error
}

// Names of files in the sandbox's folder.
const (
	lockFile = "lock"
	// LogFile gets what Command and the guard write to stderr.
	LogFile = "log"
)

// prefix begins the names of the folders that NewDir makes.
const prefix = "grimoire-"

// ErrRunning says that another sandbox runs in the folder.
var ErrRunning = errors.New("it runs already")

// NewDir makes a folder for a sandbox of the name, and removes what sandboxes of the name have left behind whose guards were
// killed.
func NewDir(name string) (string, error) {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+name+"-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		if _, err := os.Stat(filepath.Join(dir, lockFile)); err != nil {
			// Its sandbox has not been started: somebody makes it ready, or has been killed then.
			const abandoned = time.Hour
			if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > abandoned {
				_ = os.RemoveAll(dir)
			}
			continue
		}
		if err := Down(context.Background(), dir, 0); err != nil && !errors.Is(err, ErrRunning) {
			return "", err
		}
	}
	return os.MkdirTemp("", prefix+name+"-")
}

// CgroupName is the name of the control group of an isolated sandbox, below the root of each hierarchy. It is made for Command
// to make others in.
func CgroupName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return prefix + hex.EncodeToString(sum[:6])
}

// Start starts a sandbox. Where ctx ends before Command has run for long, so does nothing: the caller stops the sandbox.
func Start(ctx context.Context, c Config) (*Sandbox, error) {
	s, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("starting %s in a sandbox: %w", filepath.Base(c.Command[0]), err)
	}
	return s, nil
}

func start(ctx context.Context, c Config) (_ *Sandbox, err error) {
	if err := supported(c); err != nil {
		return nil, err
	}
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := acquire(c.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the guard has it too
	s := &Sandbox{ended: make(chan error, 1)}
	inherited := []*os.File{lock}
	if c.Forward > 0 {
		listener, err := loopbackListener()
		if err != nil {
			return nil, err
		}
		defer listener.file.Close()
		s.Address = listener.address
		inherited = append(inherited, listener.file)
	}
	// Kept open, since the file goes with the sandbox.
	s.log, err = os.OpenFile(filepath.Join(c.Dir, LogFile), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	exe, err := guardProgram()
	if err != nil {
		return nil, err
	}
	said, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	stdin, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	stdout, out, err := os.Pipe()
	if err != nil {
		life.Close()
		return nil, err
	}
	defer out.Close()
	s.life, s.Stdout = life, stdout
	s.guard = exec.Command(exe, "guard", string(said))
	s.guard.Dir = c.Dir
	s.guard.Stdin, s.guard.Stdout, s.guard.Stderr = stdin, out, s.log
	s.guard.ExtraFiles = inherited
	ownSession(s.guard)
	if err := s.guard.Start(); err != nil {
		life.Close()
		stdout.Close()
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, lockFile), []byte(strconv.Itoa(s.guard.Process.Pid)), 0o644); err != nil {
		s.Stop()
		return nil, err
	}
	go func() { s.ended <- s.guard.Wait() }()
	return s, nil
}

// Log returns the end of what was written to stderr in the sandbox, also after it has ended.
func (s *Sandbox) Log() string {
	const most = 4 << 10
	info, err := s.log.Stat()
	if err != nil {
		return ""
	}
	end := make([]byte, min(most, info.Size()))
	n, _ := s.log.ReadAt(end, info.Size()-int64(len(end)))
	return string(end[:n])
}

// Stop ends the sandbox, and returns when nothing of it is left.
func (s *Sandbox) Stop() error {
	s.life.Close()
	terminate(s.guard.Process) // one that is detached does not listen to its life line
	err := <-s.ended
	s.ended <- err
	s.Stdout.Close()
	if err != nil {
		return fmt.Errorf("stopping a sandbox: %w: %s", err, s.Log())
	}
	return nil
}

// Release lets go of a detached sandbox, which goes on.
func (s *Sandbox) Release() {
	s.life.Close()
	s.Stdout.Close()
}

// Running reports whether a sandbox runs in the folder.
func Running(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, lockFile)); err != nil {
		return false
	}
	lock, err := acquire(dir)
	if err != nil {
		return errors.Is(err, ErrRunning)
	}
	lock.Close()
	return false
}

// Down ends the sandbox of the folder, waits for as long as grace until it is gone, and removes what is left of one whose
// guard was killed. No sandbox there is fine. Without a grace, one that runs is left alone and is ErrRunning.
func Down(ctx context.Context, dir string, grace time.Duration) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	told := false
	for deadline := time.Now().Add(grace); ; {
		lock, err := existing(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil:
			defer lock.Close()
			return Clean(dir)
		case !errors.Is(err, ErrRunning):
			return err
		case !time.Now().Before(deadline):
			return fmt.Errorf("%s: %w", dir, err)
		}
		if !told {
			told = true
			if err := tell(dir); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tell asks the guard of the folder to end.
func tell(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("%s does not say which process to end: %w", filepath.Join(dir, lockFile), err)
	}
	guard, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	terminate(guard)
	return nil
}

// The machine's, before a test gives itself another home.
var (
	environ        = process.Env()
	caches, noHome = os.UserCacheDir()
)

// guardProgram returns the guard's program, which is built once a machine.
var guardProgram = sync.OnceValues(func() (string, error) {
	if noHome != nil {
		return "", noHome
	}
	ctx := context.Background()
	pkg := reflect.TypeFor[Config]().PkgPath()
	cmd := process.Command(ctx, "go", "list", "-f", "{{range .GoFiles}}{{$.Dir}}/{{.}}\n{{end}}{{.Module.GoMod}}", pkg, pkg+"/guard")
	cmd.Env = environ
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return "", err
	}
	key := sha256.New()
	fmt.Fprintln(key, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, file := range strings.Fields(string(out)) {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(key, "%s\n%d\n%s", filepath.Base(file), len(data), data)
	}
	const name = "sandbox-guard"
	return tool.CachedIn(caches, name, hex.EncodeToString(key.Sum(nil))[:16], func(dir string) error {
		return Build(ctx, pkg+"/guard", filepath.Join(dir, name+tool.ExeSuffix()))
	})
})

// Build builds a program of this module, for this machine and without cgo.
func Build(ctx context.Context, pkg, exe string) error {
	cmd := process.Command(ctx, "go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", exe, pkg)
	cmd.Env = append(slices.Clip(environ), "CGO_ENABLED=0", "GOOS=", "GOARCH=", "GOFLAGS=")
	_, err := process.Capture(ctx, cmd)
	return err
}

// Ended reports whether the sandbox has ended.
func (s *Sandbox) Ended() bool {
	select {
	case err := <-s.ended:
		s.ended <- err
		return true
	default:
		return false
	}
}
