// Package checkout reads what git knows of a folder: the commit, when it was made, and whether the files are that commit.
package checkout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/process"
)

// tagLength is how many characters of a commit name an image.
const tagLength = 12

// generated is what mage writes while it compiles a magefile, in this run or one beside it, and removes at once.
const generated = "mage_output_file.go"

// Uncommitted is the tag of an image that no commit names.
const Uncommitted = "uncommitted"

// Checkout is what git says of a folder. The zero value is a folder that git does not know.
type Checkout struct {
	// Root is the top of the working tree, empty outside one.
	Root string
	// Commit is the full hash of HEAD, empty where there is no commit.
	Commit string
	// Time is when the commit was made, the zero time where there is none.
	Time time.Time
	// Branch is the branch that is checked out, empty on a detached head.
	Branch string
	// Shallow says that the history has been cut off.
	Shallow bool
	// Changed lists the files that differ from the commit, untracked ones among them, relative to Root.
	Changed []string
	// Missing says why there is no commit; empty where there is one.
	Missing string
}

// Read returns what git says of dir. A folder outside a checkout, one without a commit, or a machine without git is no
// error: Missing then says why. An error is a git that cannot read the repository.
func Read(ctx context.Context, dir string) (Checkout, error) {
	var c Checkout
	if _, err := exec.LookPath("git"); err != nil {
		c.Missing = "there is no git program; install git"
		return c, nil
	}
	out, err := git(ctx, dir, "rev-parse", "--show-toplevel", "--is-shallow-repository")
	if err != nil {
		var failed *process.Error
		if errors.As(err, &failed) && strings.Contains(failed.Stderr, "not a git repository") {
			c.Missing = "this is not a git checkout; run `git init` and commit"
			return c, nil
		}
		return c, fmt.Errorf("reading the git checkout in %s: %w", dir, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	c.Root = filepath.FromSlash(lines[0])
	c.Shallow = len(lines) > 1 && lines[1] == "true"

	if err := c.readStatus(ctx); err != nil {
		return c, err
	}
	if c.Commit == "" {
		c.Missing = "there is no commit yet; run `git commit`"
		return c, nil
	}
	out, err = git(ctx, c.Root, "show", "--no-patch", "--no-show-signature", "--format=%ct", c.Commit)
	if err != nil {
		return c, fmt.Errorf("reading commit %s: %w", c.Commit, err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return c, fmt.Errorf("reading the time of commit %s: %w", c.Commit, err)
	}
	c.Time = time.Unix(seconds, 0).UTC()
	return c, nil
}

// Dirty reports whether the files are other than the commit's.
func (c Checkout) Dirty() bool { return len(c.Changed) > 0 }

// Tag names what is built from this checkout: 12 characters of the commit, with "-dirty" where files have been changed
// since, and Uncommitted where there is no commit.
func (c Checkout) Tag() string {
	if c.Commit == "" {
		return Uncommitted
	}
	tag := c.Commit[:min(tagLength, len(c.Commit))]
	if c.Dirty() {
		tag += "-dirty"
	}
	return tag
}

// git runs a reading command: no lock is taken, so that it never disturbs another git in the same checkout.
func git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := process.Command(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = process.Env("GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
	return process.Capture(ctx, cmd)
}

var objectID = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// Now returns the commit, the branch and the changed files as they are by now, by one question to git.
func (c Checkout) Now(ctx context.Context) (Checkout, error) {
	now := Checkout{Root: c.Root}
	err := now.readStatus(ctx)
	return now, err
}

func (c *Checkout) readStatus(ctx context.Context) error {
	out, err := git(ctx, c.Root, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal", "--no-renames")
	if err != nil {
		return fmt.Errorf("reading the state of the git checkout in %s: %w", c.Root, err)
	}
	parseStatus(c, out)
	return nil
}

// parseStatus reads the format of `git status --porcelain=v2 --branch -z`, which git-status(1) describes.
func parseStatus(c *Checkout, out []byte) {
	for record := range bytes.SplitSeq(out, []byte{0}) {
		line := string(record)
		kind, rest, _ := strings.Cut(line, " ")
		switch kind {
		case "#":
			key, value, _ := strings.Cut(rest, " ")
			switch {
			case key == "branch.oid" && objectID.MatchString(value): // else it is "(initial)"
				c.Commit = value
			case key == "branch.head" && value != "(detached)":
				c.Branch = value
			}
		case "?":
			if path.Base(rest) != generated {
				c.Changed = append(c.Changed, rest)
			}
		case "1", "u":
			// The path is the ninth field of a changed entry, the eleventh of an unmerged one.
			fields := 9
			if kind == "u" {
				fields = 11
			}
			if parts := strings.SplitN(line, " ", fields); len(parts) == fields {
				c.Changed = append(c.Changed, parts[fields-1])
			}
		}
	}
}
