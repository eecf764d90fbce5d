package checkout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/process"
)

// remote is the name that git gives the repository that a clone is of.
const remote = "origin"

// answering is how long a remote repository may take to say where a branch is.
const answering = 15 * time.Second

// DefaultBranch is the branch that the remote repository had as its own when it was cloned; empty where git does not know.
func (c Checkout) DefaultBranch(ctx context.Context) string {
	if c.Root == "" {
		return ""
	}
	out, err := git(ctx, c.Root, "symbolic-ref", "--quiet", "--short", "refs/remotes/"+remote+"/HEAD")
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), remote+"/")
}

// Tip asks the remote repository for the commit that a branch is at now. Nobody is asked for a password.
func (c Checkout) Tip(ctx context.Context, branch string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answering)
	defer cancel()
	cmd := process.Command(ctx, "git", "ls-remote", "--", remote, "refs/heads/"+branch)
	cmd.Dir = c.Root
	cmd.Env = process.Env("GIT_TERMINAL_PROMPT=0", "GIT_SSH_COMMAND="+c.silentSSH(ctx), "LC_ALL=C")
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("asking where the branch %s is: %w", branch, err)
	}
	tip, _, ok := strings.Cut(strings.TrimSpace(string(out)), "\t")
	if !ok {
		return "", fmt.Errorf("asking where the branch %s is: %s does not have it", branch, remote)
	}
	return tip, nil
}

// silentSSH is the ssh command that git would use, told to ask nobody for anything where it is OpenSSH's.
func (c Checkout) silentSSH(ctx context.Context) string {
	command := os.Getenv("GIT_SSH_COMMAND")
	if command == "" {
		if out, err := git(ctx, c.Root, "config", "--get", "core.sshCommand"); err == nil {
			command = strings.TrimSpace(string(out))
		}
	}
	command = cmp.Or(command, os.Getenv("GIT_SSH"), "ssh")
	if program, _, _ := strings.Cut(command, " "); path.Base(program) == "ssh" {
		command += " -o BatchMode=yes"
	}
	return command
}

// Since returns the commits that were made on top of one, the newest first and at most limit of them, as far as they are in this
// checkout: up to tip, empty where it is not known, and on the branch as it is here and as it was in the remote repository when that was
// asked last.
func (c Checkout) Since(ctx context.Context, commit, branch, tip string, limit int) ([]string, error) {
	args := []string{"rev-list", "--ignore-missing", "--ancestry-path", "--max-count=" + strconv.Itoa(limit), "--end-of-options", "^" + commit}
	for _, to := range []string{tip, "refs/remotes/" + remote + "/" + branch, "refs/heads/" + branch} {
		if to != "" {
			args = append(args, to)
		}
	}
	out, err := git(ctx, c.Root, append(args, "--")...)
	if err != nil {
		return nil, fmt.Errorf("looking for commits after %s: %w", commit, err)
	}
	return strings.Fields(string(out)), nil
}

// Order says which of two commits came first.
type Order int

const (
	Unknown  Order = iota // one of them is not in this checkout, as in a shallow one
	Before                // the other one was made on top of it
	Same                  //
	After                 // it was made on top of the other one
	Diverged              // neither
)

// Compare says whether a commit comes before, or after, the other one.
func (c Checkout) Compare(ctx context.Context, commit, other string) (Order, error) {
	if commit == other {
		return Same, nil
	}
	for _, pair := range []struct {
		first, second string
		order         Order
	}{{commit, other, Before}, {other, commit, After}} {
		_, err := git(ctx, c.Root, "merge-base", "--is-ancestor", "--end-of-options", pair.first, pair.second)
		var failed *process.Error
		switch {
		case err == nil:
			return pair.order, nil
		case ctx.Err() != nil:
			return Unknown, context.Cause(ctx)
		case !errors.As(err, &failed):
			return Unknown, err
		case failed.ExitStatus() != 1:
			return Unknown, nil // git does not have one of them
		}
	}
	// Where the history has been cut off, what looks like two lines may be one.
	if c.Shallow {
		return Unknown, nil
	}
	return Diverged, nil
}
