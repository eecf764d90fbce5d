package forge

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// maxEvent is how much of an event file is read, in bytes. Webhooks, whose payload it is, have at most 25 MB.
const maxEvent = 32 << 20

// Events that say less than they mean.
const (
	workflowRun = "workflow_run" // runs after another workflow, whatever that ran for
	mergeGroup  = "merge_group"
)

// proposes reports whether an event is about changes that nobody has merged.
func proposes(event string) bool {
	// pull_request_target, pull_request_review and Gitea's pull_request_comment and the like are among them.
	return strings.HasPrefix(event, "pull_request") || event == mergeGroup
}

// event is what is read of an event file, the payload of the webhook of the same name:
// https://docs.github.com/en/webhooks/webhook-events-and-payloads
type event struct {
	Number      int          `json:"number"`
	PullRequest *pullRequest `json:"pull_request"`
	Issue       *struct {
		Number      int       `json:"number"`
		PullRequest *struct{} `json:"pull_request"`
	} `json:"issue"`
	MergeGroup *struct {
		BaseRef string `json:"base_ref"`
	} `json:"merge_group"`
	WorkflowRun *workflow   `json:"workflow_run"`
	Repository  *repository `json:"repository"`
}

type workflow struct {
	Event          string        `json:"event"`
	HeadBranch     string        `json:"head_branch"`
	HeadSHA        string        `json:"head_sha"`
	HeadRepository *repository   `json:"head_repository"`
	PullRequests   []pullRequest `json:"pull_requests"`
}

type pullRequest struct {
	Number int     `json:"number"`
	Head   *branch `json:"head"`
	Base   *branch `json:"base"`
}

type branch struct {
	Ref        string      `json:"ref"`
	SHA        string      `json:"sha"`
	Repository *repository `json:"repo"`
}

type repository struct {
	FullName      string `json:"full_name"`
	DefaultBranch string `json:"default_branch"`
}

// readEvent reads an event file. With an error comes what could be made of the file.
func readEvent(path string) (event, error) {
	var e event
	info, err := os.Stat(path)
	if err != nil {
		return e, cause(err)
	}
	if !info.Mode().IsRegular() {
		return e, errors.New("it is no regular file")
	}
	if info.Size() > maxEvent {
		return e, fmt.Errorf("it has more than %d MiB", maxEvent>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return e, cause(err)
	}
	err = json.Unmarshal(data, &e)
	return e, err
}

// cause drops what an error of the file system says of the operation and the path.
func cause(err error) error {
	var failed *os.PathError
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// learn adds what an event says to what the environment has said, which has the last word.
func (f *Forge) learn(e event) {
	if r := e.Repository; r != nil {
		f.DefaultBranch = r.DefaultBranch
		f.Repository = cmp.Or(f.Repository, r.FullName)
	}
	if m := e.MergeGroup; m != nil {
		f.BaseBranch = cmp.Or(f.BaseBranch, branchName(m.BaseRef))
	}
	switch {
	case e.PullRequest != nil:
		f.learnPull(*e.PullRequest)
		f.PullRequest = cmp.Or(f.PullRequest, natural(e.Number))
	case e.Issue != nil && e.Issue.PullRequest != nil:
		f.unmerged = true
		f.PullRequest = cmp.Or(f.PullRequest, natural(e.Issue.Number))
	case f.Event == workflowRun && e.WorkflowRun != nil:
		f.learnWorkflow(*e.WorkflowRun)
	}
}

func (f *Forge) learnPull(p pullRequest) {
	f.unmerged = true
	f.PullRequest = cmp.Or(f.PullRequest, natural(p.Number))
	if p.Head != nil {
		f.Fork = f.foreign(p.Head.Repository)
		f.HeadBranch = cmp.Or(f.HeadBranch, branchName(p.Head.Ref))
		f.HeadCommit = cmp.Or(p.Head.SHA, f.HeadCommit)
	}
	if p.Base != nil {
		f.BaseBranch = cmp.Or(f.BaseBranch, branchName(p.Base.Ref))
	}
}

// learnWorkflow learns from the workflow that ran before this one.
func (f *Forge) learnWorkflow(w workflow) {
	if !proposes(w.Event) {
		return
	}
	f.unmerged = true
	f.Fork = f.foreign(w.HeadRepository)
	f.HeadBranch = w.HeadBranch
	f.HeadCommit = w.HeadSHA
	// For a push these are the pull requests that happen to be open from its branch; for a fork there are none.
	if len(w.PullRequests) > 0 {
		f.PullRequest = natural(w.PullRequests[0].Number)
		if base := w.PullRequests[0].Base; base != nil {
			f.BaseBranch = branchName(base.Ref)
		}
	}
}

// foreign reports whether changes come from another repository than the run's. A repository that is gone was a fork.
func (f *Forge) foreign(r *repository) bool {
	return r == nil || !strings.EqualFold(r.FullName, f.Repository)
}

// decides reports whether the event file alone can say if a run is for changes that nobody has merged.
func decides(event string) bool {
	return event == workflowRun || event == "workflow_call" || event == "issue_comment"
}

// again reports whether the workflow that ran before this one ran after another one itself: what that was for is not told.
func (e event) again() bool { return e.WorkflowRun != nil && e.WorkflowRun.Event == workflowRun }

func branchName(ref string) string { return strings.TrimPrefix(ref, "refs/heads/") }

func natural(n int) int { return max(n, 0) }
