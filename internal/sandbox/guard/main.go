//go:build linux

// Command guard keeps a sandbox: it starts the first process of the namespaces, which is this program too, and ends it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/grimoire-build/grimoire/internal/sandbox"
)

// What the guard inherits, and what it hands on.
const (
	lockFD      = 3 // the lock of the folder, held until the guard ends
	guardListen = 4
	initListen  = 3
)

// politely is how long a command that is not isolated has to end after SIGTERM.
const politely = 5 * time.Second

func main() {
	// The kernel ends a child of ours with the thread that started it.
	runtime.LockOSThread()
	var c sandbox.Config
	if len(os.Args) != 3 || json.Unmarshal([]byte(os.Args[2]), &c) != nil {
		fmt.Fprintln(os.Stderr, "usage: guard guard|init CONFIG; the package sandbox starts it")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "guard":
		err = guard(c)
	case "init":
		err = initialise(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
		os.Exit(1)
	}
}

// guard runs the sandbox until it ends, it is told to, or nobody is there any more who could.
func guard(c sandbox.Config) error {
	syscall.CloseOnExec(lockFD)
	lock := os.NewFile(lockFD, "lock")
	ctl := make(chan os.Signal, 1)
	signal.Notify(ctl, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// Not before it can be told to end.
	if _, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		if n, _ := os.Stdin.Read(make([]byte, 1)); n == 0 {
			close(gone)
		}
	}()
	run := plain
	if c.Isolate {
		run = isolated
	}
	child, err := run(c)
	if err == nil {
		ended := make(chan error, 1)
		go func() { ended <- child.cmd.Wait() }()
		abandoned := make(chan struct{})
		go awaitAbandonment(c, lock, abandoned)
		select {
		case err := <-ended:
			fmt.Fprintln(os.Stderr, "guard: the sandbox has ended by itself:", err)
			child.kill()
		case <-ctl:
			child.end(ended)
		case <-gone:
			child.end(ended)
		case <-abandoned:
			fmt.Fprintln(os.Stderr, "guard: the folder has been removed, or the process has ended that the sandbox is to end with")
			child.end(ended)
		}
	}
	if _, there := os.Stat(c.Dir); there == nil && !sandbox.Owns(c.Dir, lock) {
		return err // what is there now is another sandbox's
	}
	return errors.Join(err, sandbox.Clean(c.Dir))
}

// awaitAbandonment closes abandoned when somebody has removed the lock, and with it the way to end the sandbox, or when the
// process has ended that it is to end with.
func awaitAbandonment(c sandbox.Config, lock *os.File, abandoned chan<- struct{}) {
	const interval = 200 * time.Millisecond
	for range time.Tick(interval) {
		if !sandbox.Owns(c.Dir, lock) || c.Until != 0 && errors.Is(syscall.Kill(c.Until, 0), syscall.ESRCH) {
			close(abandoned)
			return
		}
	}
}

type child struct {
	cmd  *exec.Cmd
	kill func()                   // what is left of it
	end  func(ended <-chan error) // all of it
}

// plain runs the command in a process group of its own and nothing else.
func plain(c sandbox.Config) (*child, error) {
	cmd := exec.Command(c.Command[0], c.Command[1:]...)
	cmd.Dir, cmd.Env = c.Dir, append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	group := -cmd.Process.Pid
	kill := func() { _ = syscall.Kill(group, syscall.SIGKILL) }
	return &child{cmd, kill, func(ended <-chan error) {
		_ = syscall.Kill(group, syscall.SIGTERM)
		select {
		case <-ended:
			kill()
		case <-time.After(politely):
			kill()
			<-ended
		}
	}}, nil
}

// isolated runs the command in namespaces. The end of their first process is the end of everything in them.
func isolated(c sandbox.Config) (*child, error) {
	if err := makeCgroups(c.Dir); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "init", os.Args[2])
	cmd.Dir = c.Dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if c.Network {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
	if c.Forward > 0 {
		cmd.ExtraFiles = []*os.File{os.NewFile(guardListen, "listener")}
	}
	begin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("making the namespaces: %w", err)
	}
	end := func(ended <-chan error) {
		_ = cmd.Process.Kill()
		<-ended
	}
	if c.Network {
		if err := network(cmd.Process.Pid, c); err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return nil, err
		}
	}
	if _, err := begin.Write([]byte{1}); err != nil {
		return nil, err
	}
	// With the first process of the namespaces, the kernel ends the others.
	return &child{cmd, func() {}, end}, begin.Close()
}

// enableControllers hands the controllers of the second version on to the groups below root, which the kubelet wants. Where that
// is refused, as in a container whose processes are in its root, the kubelet says what is missing.
func enableControllers(root string) {
	names, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, name := range strings.Fields(string(names)) {
		_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+name), 0o644)
	}
}

// makeCgroups makes the sandbox's control group in each hierarchy.
func makeCgroups(dir string) error {
	roots, err := sandbox.Hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		enableControllers(root)
		group := filepath.Join(root, sandbox.CgroupName(dir))
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making a control group: %w", err)
		}
		// The first version's cpuset takes no process before it has these.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(filepath.Join(root, file)); err == nil {
				if err := os.WriteFile(filepath.Join(group, file), data, 0o644); err != nil {
					return fmt.Errorf("making a control group: %w", err)
				}
			}
		}
	}
	return nil
}
