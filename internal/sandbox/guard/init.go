//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/grimoire-build/grimoire/internal/sandbox"
)

// initialise is the first process of the namespaces: it makes the mounts, runs the command, and buries every orphan until the
// command ends.
func initialise(c sandbox.Config) error {
	if n, err := os.Stdin.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("the guard has ended: %w", err)
	}
	if err := mounts(c); err != nil {
		return err
	}
	if c.Forward > 0 {
		unix.CloseOnExec(initListen)
		file := os.NewFile(initListen, "listener")
		listener, err := net.FileListener(file)
		if err != nil {
			return err
		}
		file.Close()
		go forward(listener, c.Forward)
	}
	program, err := exec.LookPath(c.Command[0])
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	p, err := os.StartProcess(program, c.Command, &os.ProcAttr{
		Dir:   c.Dir,
		Env:   append(os.Environ(), c.Env...),
		Files: []*os.File{null, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &status, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting: %w", err)
		case pid == p.Pid && (status.Exited() || status.Signaled()):
			return fmt.Errorf("%s has ended: exit status %d, signal %q", c.Command[0], status.ExitStatus(), status.Signal())
		}
	}
}

// mounts makes what is written below /etc, /run and /var the sandbox's own.
func mounts(c sandbox.Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	// The sandbox's folder may be below one of those that are about to be covered.
	dir, err := unix.Open(c.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	// Those that are links into /run, or mounts of their own, would be gone.
	kept := map[string][]byte{}
	for _, name := range []string{"/etc/hosts", "/etc/resolv.conf"} {
		if data, err := os.ReadFile(name); err == nil {
			kept[name] = data
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if err := os.MkdirAll("/run/lock", 0o777); err != nil {
		return err
	}
	for _, lower := range []string{"/etc", "/var"} {
		upper, work := filepath.Join("/run/upper", lower), filepath.Join("/run/work", lower)
		for _, dir := range []string{upper, work} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
		if err := unix.Mount("overlay", lower, "overlay", 0, options); err != nil {
			return fmt.Errorf("mounting a copy of %s: %w", lower, err)
		}
	}
	for name, data := range kept {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir), c.Dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keeping %s: %w", c.Dir, err)
	}
	targets := make([]string, 0, len(c.Replace))
	for target := range c.Replace {
		targets = append(targets, target)
	}
	slices.Sort(targets)
	for _, target := range targets {
		if err := replace(target, c.Replace[target]); err != nil {
			return err
		}
	}
	return nil
}

// replace has the sandbox see another file or folder at target. Below /etc and /var, target is made where it is missing.
func replace(target, source string) error {
	if strings.HasPrefix(target, "/etc/") || strings.HasPrefix(target, "/var/") {
		info, err := os.Stat(source)
		if err != nil {
			return err
		}
		if info.IsDir() {
			err = os.MkdirAll(target, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
			err = os.WriteFile(target, nil, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("replacing %s by %s: %w", target, source, err)
	}
	return nil
}
