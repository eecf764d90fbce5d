package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func supported(c Config) error {
	if c.Isolate && os.Geteuid() != 0 {
		return errors.New("only root may; run it as root")
	}
	return nil
}

// acquire takes the folder's lock. It is held for as long as a process has the file open.
func acquire(dir string) (*os.File, error) { return locked(dir, os.O_CREATE|os.O_RDWR) }

// existing takes the lock of a folder where there is one.
func existing(dir string) (*os.File, error) { return locked(dir, os.O_RDWR) }

func locked(dir string, flags int) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	for {
		file, err := os.OpenFile(path, flags, 0o644)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			file.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = ErrRunning
			}
			return nil, err
		}
		// Its last holder may have removed it since it was opened.
		mine, err := file.Stat()
		if err == nil {
			var there fs.FileInfo
			if there, err = os.Stat(path); err == nil && os.SameFile(mine, there) {
				return file, nil
			}
		}
		file.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

type listener struct {
	file    *os.File
	address string
}

// loopbackListener listens on a free port of this machine's loopback, for another process to accept from.
func loopbackListener() (*listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	return &listener{file: file, address: l.Addr().String()}, nil
}

func ownSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

func terminate(p *os.Process) {
	_ = p.Signal(syscall.SIGTERM)
}

// Hierarchies returns where the control groups of this machine are mounted.
func Hierarchies() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var roots []string
	for line := range strings.Lines(string(data)) {
		if field := strings.Fields(line); len(field) > 2 && (field[2] == "cgroup" || field[2] == "cgroup2") {
			roots = append(roots, field[1])
		}
	}
	return roots, nil
}

// cleaning is how long the kernel may take to let go of what a process that has ended had.
const cleaning = 10 * time.Second

// Clean removes the control groups of the sandbox of a folder that has ended, and the folder. The caller holds its lock.
func Clean(dir string) error {
	roots, err := Hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := patiently(func() error { return removeCgroups(filepath.Join(root, CgroupName(dir))) }); err != nil {
			return fmt.Errorf("removing the control groups of %s: %w", dir, err)
		}
	}
	if err := patiently(func() error { return removeContent(dir) }); err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	// Last, since without it the next sandbox of the folder begins. What that has made by now is not ours.
	if err := os.Remove(filepath.Join(dir, lockFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(dir)
	return nil
}

// removeContent removes all that is in the folder but its lock.
func removeContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() != lockFile {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func patiently(remove func() error) error {
	for deadline := time.Now().Add(cleaning); ; time.Sleep(20 * time.Millisecond) {
		err := remove()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// removeCgroups removes a control group and those in it, the deepest first. Their files go with them.
func removeCgroups(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroups(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	return syscall.Rmdir(group)
}
