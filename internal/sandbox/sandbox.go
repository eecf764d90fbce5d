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
	// Dir is the sandbox's place; Place.Start knows it.
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
	// Until is the id of a process with which a sandbox ends too that has been let go of; default none.
	Until int
}

// Sandbox is one that runs.
type Sandbox struct {
	// Stdout is where Command writes its results. It must write nothing more when the sandbox has been let go of.
	Stdout *os.File
	// Address is the host and port on this machine's loopback that leads to Config.Forward.
	Address string

	log   *os.File
	guard *exec.Cmd
	life  *os.File // the guard ends the sandbox when this is closed, unless a byte was written to it
	ended chan error
}

// Names of files in the sandbox's folder.
const (
	lockFile = "lock"
	logFile  = "log" // gets what Command and the guard write to stderr
)

// prefix begins the names of the folders that NewPlace makes.
const prefix = "grimoire-"

// ErrRunning says that another sandbox runs in the folder.
var ErrRunning = errors.New("it runs already")

// Place is a folder that a sandbox has to itself, for its files. All of it is removed with the sandbox.
type Place struct {
	// Dir is its absolute path.
	Dir  string
	lock *os.File
}

// NewPlace makes a temporary place for a sandbox of the name, and removes what sandboxes of the name have left behind whose
// guards were killed.
func NewPlace(name string) (*Place, error) {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+name+"-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range left {
		sweep(dir)
	}
	dir, err := os.MkdirTemp("", prefix+name+"-")
	if err != nil {
		return nil, err
	}
	return Claim(dir)
}

// sweep removes a place that nobody has any more. Nobody waits for it, so that its errors are of no interest; one that is not
// ours to remove is left alone.
func sweep(dir string) {
	const young = time.Minute // somebody may be about to lock it
	if info, err := os.Lstat(dir); err != nil || !ownFolder(info) || time.Since(info.ModTime()) < young && emptyLock(dir) {
		return
	}
	lock, err := acquire(dir)
	if err != nil {
		return
	}
	defer lock.Close()
	_ = Clean(dir)
}

// emptyLock reports whether no guard has said yet that it has the folder.
func emptyLock(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, lockFile))
	return err != nil || info.Size() == 0
}

// At claims the folder dir, where what runs listens on a socket at a path below it; without a folder, it makes a temporary place
// for a sandbox of the name.
func At(dir, name, socket string) (*Place, error) {
	if dir == "" {
		return NewPlace(name)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	const longest = 107 // Source: unix(7)
	if path := filepath.Join(dir, socket); len(path) > longest {
		return nil, fmt.Errorf("%s is too long a path for a socket; use a shorter folder", path)
	}
	return Claim(dir)
}

// Claim makes a folder the place of a sandbox, and removes what another one has left in it. One that runs there is ErrRunning.
func Claim(dir string) (*Place, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// In the options of mounts, and in lists of paths, these mean something.
	if strings.ContainsAny(dir, ":,") {
		return nil, fmt.Errorf("there is a colon or a comma in %s; use another folder", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := acquire(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := errors.Join(lock.Truncate(0), removeCgroups(dir), removeContent(dir)); err != nil {
		lock.Close()
		return nil, err
	}
	return &Place{Dir: dir, lock: lock}, nil
}

// Abandon removes a place whose sandbox could not be started.
func (p *Place) Abandon() error {
	defer p.lock.Close()
	return Clean(p.Dir)
}

// CgroupName is the name of the control group of an isolated sandbox, below the root of each hierarchy. It is made for Command
// to make others in.
func CgroupName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return prefix + hex.EncodeToString(sum[:6])
}

// Start starts a sandbox in the place, which is removed when that fails.
func (p *Place) Start(c Config) (*Sandbox, error) {
	s, err := p.start(c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s in a sandbox: %w", filepath.Base(c.Command[0]), err), p.Abandon())
	}
	p.lock.Close() // the guard has it
	return s, nil
}

func (p *Place) start(c Config) (_ *Sandbox, err error) {
	if err := supported(c); err != nil {
		return nil, err
	}
	c.Dir = p.Dir
	s := &Sandbox{ended: make(chan error, 1)}
	inherited := []*os.File{p.lock}
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
	s.log, err = os.OpenFile(filepath.Join(c.Dir, logFile), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
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

// Await asks what runs in the sandbox until there is no error, for as long as patience. It gives up when the sandbox has ended.
// The error has the end of the log.
func (s *Sandbox) Await(ctx context.Context, patience time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it did not answer after %s", patience))
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if s.Ended() {
			return fmt.Errorf("it has ended; the end of its log: %s", s.Log())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; the end of its log: %s", context.Cause(ctx), err, s.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the sandbox, and returns when nothing of it is left.
func (s *Sandbox) Stop() error {
	s.life.Close()
	err := <-s.ended
	s.ended <- err
	s.Stdout.Close()
	if err != nil {
		return fmt.Errorf("stopping a sandbox: %w: %s", err, s.Log())
	}
	return nil
}

// Release lets go of a sandbox: it goes on when the program that started it ends. Down ends it.
func (s *Sandbox) Release() error {
	_, err := s.life.Write([]byte{1})
	return errors.Join(err, s.life.Close(), s.Stdout.Close())
}

// Down ends the sandbox of the folder, waits for as long as grace until it is gone, and removes what is left of one whose
// guard was killed. No sandbox there is fine.
func Down(ctx context.Context, dir string, grace time.Duration) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	told := false
	for deadline := time.Now().Add(grace); ; {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		lock, err := acquire(dir)
		switch {
		case err == nil:
			defer lock.Close()
			return Clean(dir)
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, ErrRunning):
			return err
		case !time.Now().Before(deadline):
			return fmt.Errorf("%s: it has not ended after %s: %w", dir, grace, err)
		}
		if !told {
			if told, err = tell(dir); err != nil {
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

// tell asks the guard of the folder to end, where it has said already who it is.
func tell(dir string) (bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return false, fmt.Errorf("%s does not say which process to end: %w", filepath.Join(dir, lockFile), err)
	}
	guard, err := os.FindProcess(pid)
	if err != nil {
		return false, err
	}
	terminate(guard)
	return true, nil
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
	key := tool.NewKey(runtime.Version())
	for file := range strings.Lines(string(out)) {
		file = strings.TrimSuffix(file, "\n")
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		key.Add(filepath.Base(file), data)
	}
	const name = "sandbox-guard"
	return tool.CachedIn(caches, name, key.String(), func(dir string) error {
		return Build(ctx, pkg+"/guard", filepath.Join(dir, name+tool.ExeSuffix()))
	})
})

// Build builds a program of this module, for this machine and without cgo.
func Build(ctx context.Context, pkg, exe string) error {
	cmd := process.Command(ctx, "go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", exe, pkg)
	cmd.Env = append(slices.Clip(environ), "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH, "GOFLAGS=-mod=readonly", "GOWORK=off")
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
