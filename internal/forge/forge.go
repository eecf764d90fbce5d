// Package forge knows which CI forge a run is on, Gitea Actions or GitHub Actions, what the forge says of the run, and how
// to talk to it: outputs, variables, summaries, masks, groups and annotations.
//
// The environment and the commands are those of
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands, which Gitea follows in part.
package forge

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The names of the forges.
const (
	Gitea  = "gitea" // also what says that it is Gitea, such as Forgejo
	GitHub = "github"
)

// Forge is what is known of the forge and of the run. The zero value is a machine without one; a fact that is not known is
// zero.
type Forge struct {
	// Name is Gitea, GitHub, or empty.
	Name string
	// CI says that nobody sits in front of the run: the variable CI is set, and neither to false nor to 0.
	CI bool

	// Repository is the repository that the run belongs to, owner/name.
	Repository string
	// ServerURL is where the forge is, without a slash at the end.
	ServerURL string
	// RunURL is the page of the run.
	RunURL string
	// RunID is unique on the server, RunNumber in the repository (Gitea) or in the workflow (GitHub).
	RunID     int64
	RunNumber int64
	// RunAttempt counts from 1; Gitea up to 1.26 does not tell it.
	RunAttempt int
	// Job is the id of the job in the workflow.
	Job string
	// Event is what started the run: push, pull_request, schedule.
	Event string

	// Commit is what the forge checks out, a full hash. Of a pull request it is the last commit on Gitea, a merge that
	// nobody else has on GitHub.
	Commit string
	// Branch is the branch that the run is for. It is empty for a tag and for a pull request, whose author chooses the name
	// of its branch: comparing Branch to DefaultBranch is safe.
	Branch string
	// Tag is the tag that the run is for.
	Tag string
	// DefaultBranch is the repository's.
	DefaultBranch string

	// PullRequest is the number of the pull request that the run is for. It may be 0 although there is one: after a
	// workflow that ran for a fork GitHub does not tell it. Publish knows nevertheless.
	PullRequest int
	// Fork says that the pull request comes from another repository, or from one that is gone.
	Fork bool
	// HeadBranch and HeadCommit are what the pull request wants merged. HeadBranch is a name that its author chose.
	HeadBranch string
	HeadCommit string
	// BaseBranch is the branch that the pull request or the merge queue wants to merge into.
	BaseBranch string

	output, env, summary string // the files that the forge reads after the step
	unmerged             bool   // the run is for changes that nobody has merged
	undecided            bool   // only the event file could say whether it is, and it does not
}

// Detect returns what getenv, such as os.Getenv, and the event file that it names say of the run. Gitea is asked for before
// GitHub, since it says to be that too. The error is an event file that cannot be read: what the environment says is there
// all the same.
func Detect(getenv func(string) string) (Forge, error) {
	f := Forge{CI: isSet(getenv("CI"))}
	switch {
	case isSet(getenv("GITEA_ACTIONS")):
		f.Name = Gitea
	case isSet(getenv("GITHUB_ACTIONS")):
		f.Name = GitHub
	default:
		return f, nil
	}
	f.Repository = getenv("GITHUB_REPOSITORY")
	f.ServerURL = strings.TrimRight(getenv("GITHUB_SERVER_URL"), "/")
	f.RunID = positive(getenv("GITHUB_RUN_ID"))
	f.RunNumber = positive(getenv("GITHUB_RUN_NUMBER"))
	f.RunAttempt = int(positive(getenv("GITHUB_RUN_ATTEMPT")))
	f.RunURL = f.runURL()
	f.Job = getenv("GITHUB_JOB")
	f.Event = getenv("GITHUB_EVENT_NAME")
	f.Commit = getenv("GITHUB_SHA")
	f.HeadBranch = getenv("GITHUB_HEAD_REF")
	f.BaseBranch = getenv("GITHUB_BASE_REF")
	f.output = getenv("GITHUB_OUTPUT")
	f.env = getenv("GITHUB_ENV")
	f.summary = getenv("GITHUB_STEP_SUMMARY")

	ref := getenv("GITHUB_REF")
	number, kind := pullRef(ref)
	f.PullRequest = number
	f.unmerged = number > 0 || f.HeadBranch != "" || proposes(f.Event)
	if kind == "head" {
		f.HeadCommit = f.Commit
	}

	var (
		e    event
		err  error
		path = getenv("GITHUB_EVENT_PATH")
	)
	if path != "" {
		if e, err = readEvent(path); err != nil {
			err = fmt.Errorf("reading the event file %s: %w", path, err)
		}
		f.learn(e)
	}
	f.undecided = decides(f.Event) && (path == "" || err != nil || e.again())

	if branch, ok := strings.CutPrefix(ref, "refs/heads/"); ok && (!f.unmerged || f.Event == mergeGroup) {
		f.Branch = branch
	}
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		f.Tag = tag
	}
	// Scheduled workflows run on the default branch alone.
	if f.DefaultBranch == "" && f.Event == "schedule" {
		f.DefaultBranch = f.Branch
	}
	return f, err
}

// Publish says whether the run may push or deploy: not for a pull request, from a fork or not, and not from a merge queue,
// unless allowed is set, which is the setting ALLOW_PULL_REQUEST. What cannot be told is refused. It says nothing of where
// there is no forge, and of forges that it does not know.
func (f Forge) Publish(allowed bool) error {
	if allowed {
		return nil
	}
	const cure = "publish from a branch or a tag, or set ALLOW_PULL_REQUEST=true where a pull request may"
	switch {
	case f.Event == mergeGroup:
		return errors.New("publishing from a merge queue: its changes are not merged yet; " + cure)
	case f.Fork:
		return fmt.Errorf("publishing from %s of a fork: somebody else's changes would run with your credentials; %s", f.pull(), cure)
	case f.unmerged || f.PullRequest > 0:
		return fmt.Errorf("publishing from %s: its changes are not merged yet; %s", f.pull(), cure)
	case f.undecided:
		return fmt.Errorf("publishing on the event %s: its event file does not tell whether it is for a pull request; %s", f.Event, cure)
	}
	return nil
}

func (f Forge) pull() string {
	if f.PullRequest == 0 {
		return "a pull request"
	}
	return fmt.Sprintf("pull request %d", f.PullRequest)
}

// runURL returns the page of the run. Gitea finds it by the number before 1.26 and by the id since; by_index, which those
// that go by the number ignore, has all of them take the number.
func (f Forge) runURL() string {
	if f.ServerURL == "" || f.Repository == "" {
		return ""
	}
	runs := f.ServerURL + "/" + f.Repository + "/actions/runs/"
	switch {
	case f.Name == Gitea && f.RunNumber > 0:
		return runs + strconv.FormatInt(f.RunNumber, 10) + "?by_index=1"
	case f.Name == GitHub && f.RunID > 0:
		return runs + strconv.FormatInt(f.RunID, 10)
	}
	return ""
}

// isSet reports whether a variable says yes.
func isSet(value string) bool {
	return value != "" && value != "0" && !strings.EqualFold(value, "false")
}

// positive returns the number that text is, and 0 where it is none or less.
func positive(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// pullRef takes refs/pull/7/merge apart: 7 and "merge".
func pullRef(ref string) (number int, kind string) {
	rest, ok := strings.CutPrefix(ref, "refs/pull/")
	if !ok {
		return 0, ""
	}
	text, kind, _ := strings.Cut(rest, "/")
	return int(positive(text)), kind
}
