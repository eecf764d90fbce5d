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
func acquire(dir string) (*os.File, error) {
	return locked(dir, os.O_CREATE|os.O_RDWR, syscall.LOCK_EX)
}

// Running reports whether a sandbox runs in the folder, or is about to.
func Running(dir string) bool {
	lock, err := locked(dir, os.O_RDONLY, syscall.LOCK_SH)
	if err != nil {
		return errors.Is(err, ErrRunning)
	}
	lock.Close()
	return false
}

// Owns reports whether lock is the lock of the folder still.
func Owns(dir string, lock *os.File) bool {
	mine, err := lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(filepath.Join(dir, lockFile))
	return err == nil && os.SameFile(mine, there)
}

// ownFolder reports whether a file is a folder of this user's, and no link to one.
func ownFolder(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.IsDir() && int(stat.Uid) == os.Geteuid()
}

func locked(dir string, flags, how int) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	for {
		file, err := os.OpenFile(path, flags, 0o644)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB); err != nil {
			file.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = ErrRunning
			}
			return nil, err
		}
		if Owns(dir, file) {
			return file, nil
		}
		file.Close() // its last holder has removed it since it was opened
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
	if err := removeCgroups(dir); err != nil {
		return err
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

func removeCgroups(dir string) error {
	roots, err := Hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := patiently(func() error { return removeCgroup(filepath.Join(root, CgroupName(dir))) }); err != nil {
			return fmt.Errorf("removing the control groups of %s: %w", dir, err)
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

// removeCgroup removes a control group and those in it, the deepest first. Their files go with them.
func removeCgroup(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	return syscall.Rmdir(group)
}
