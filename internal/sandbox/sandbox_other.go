//go:build !linux

package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
)

var errLinux = errors.New("it needs Linux")

func supported(Config) error { return errLinux }

func acquire(string) (*os.File, error) { return nil, errLinux }

// Running reports false: nothing runs on such a machine.
func Running(string) bool { return false }

// Owns reports false: there are no locks on such a machine.
func Owns(string, *os.File) bool { return false }

func ownFolder(fs.FileInfo) bool { return false }

func removeCgroups(string) error { return nil }

func removeContent(string) error { return nil }

type listener struct {
	file    *os.File
	address string
}

func loopbackListener() (*listener, error) { return nil, errLinux }

func ownSession(*exec.Cmd) {}

func terminate(p *os.Process) { _ = p.Kill() }

// Clean removes the folder of a sandbox that has ended.
func Clean(dir string) error { return os.RemoveAll(dir) }
