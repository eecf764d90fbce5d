//go:build !linux

package sandbox

import (
	"errors"
	"os"
	"os/exec"
)

var errLinux = errors.New("it needs Linux")

func supported(Config) error { return errLinux }

func acquire(string) (*os.File, error) { return nil, errLinux }

func existing(dir string) (*os.File, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	return nil, errLinux
}

type listener struct {
	file    *os.File
	address string
}

func loopbackListener() (*listener, error) { return nil, errLinux }

func ownSession(*exec.Cmd) {}

func terminate(p *os.Process) { _ = p.Kill() }

// Clean removes the folder of a sandbox that has ended.
func Clean(dir string) error { return os.RemoveAll(dir) }
