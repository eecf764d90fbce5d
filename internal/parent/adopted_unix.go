//go:build unix

package parent

import "golang.org/x/sys/unix"

// adopted reports whether the parent is none that mage could be: mage starts the magefile in its own process group. One in another group
// of the same session may still be who started this process, as when a stage runs a magefile that was compiled before; but not what
// takes in orphans: the first process, or one that was made for that, in a session of its own.
func adopted(parent int) bool {
	group, err := unix.Getpgid(parent)
	if err != nil {
		return false
	}
	if own, err := unix.Getpgid(0); err != nil || group == own {
		return false
	}
	session, err := unix.Getsid(parent)
	if err != nil {
		return false
	}
	own, err := unix.Getsid(0)
	return err == nil && (parent == 1 || session != own)
}
