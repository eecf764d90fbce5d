package forge_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/forge"
)

const (
	commit = "6f24b34f67caf6b51e2a4bbc1d33f6a5f345e3f2"
	head   = "0d5a3c5ae3d9d32b3a73959c56aa45426c87a1f1"
)

// environment is a getenv of a map.
func environment(maps ...map[string]string) func(string) string {
	all := map[string]string{}
	for _, m := range maps {
		for k, v := range m {
			all[k] = v
		}
	}
	return func(name string) string { return all[name] }
}

// What steps get on every run.
var (
	onGitea = map[string]string{
		"CI": "true", "GITHUB_ACTIONS": "true", "GITEA_ACTIONS": "true", "GITEA_ACTIONS_RUNNER_VERSION": "v0.2.13",
		"GITHUB_REPOSITORY": "shop/pay", "GITHUB_SERVER_URL": "https://git.example.org/",
		"GITHUB_RUN_ID": "412", "GITHUB_RUN_NUMBER": "43", "GITHUB_RUN_ATTEMPT": "", "GITHUB_JOB": "checks", "GITHUB_SHA": commit,
	}
	onGitHub = map[string]string{
		"CI": "true", "GITHUB_ACTIONS": "true",
		"GITHUB_REPOSITORY": "shop/pay", "GITHUB_SERVER_URL": "https://github.com",
		"GITHUB_RUN_ID": "18186448612", "GITHUB_RUN_NUMBER": "7", "GITHUB_RUN_ATTEMPT": "2", "GITHUB_JOB": "checks", "GITHUB_SHA": commit,
	}
)

// The same as facts.
var (
	giteaRun = forge.Forge{
		Name: forge.Gitea, CI: true, Repository: "shop/pay", ServerURL: "https://git.example.org",
		RunURL: "https://git.example.org/shop/pay/actions/runs/43?by_index=1", RunID: 412, RunNumber: 43, Job: "checks", Commit: commit,
	}
	githubRun = forge.Forge{
		Name: forge.GitHub, CI: true, Repository: "shop/pay", ServerURL: "https://github.com",
		RunURL: "https://github.com/shop/pay/actions/runs/18186448612", RunID: 18186448612, RunNumber: 7, RunAttempt: 2, Job: "checks", Commit: commit,
	}
)

const repositoryJSON = `"repository": {"full_name": "shop/pay", "default_branch": "main", "fork": false}`

func pullJSON(headRepository string) string {
	return `{"action": "synchronize", "number": 9, "pull_request": {"number": 9,
		"head": {"ref": "feature", "sha": "` + head + `", "repo": ` + headRepository + `},
		"base": {"ref": "main", "repo": {"full_name": "shop/pay"}}}, ` + repositoryJSON + `}`
}

func TestDetect(t *testing.T) {
	pull := func(f *forge.Forge) {
		f.PullRequest, f.HeadBranch, f.HeadCommit, f.BaseBranch, f.DefaultBranch = 9, "feature", head, "main", "main"
	}
	tests := []struct {
		name    string
		of      map[string]string
		env     map[string]string
		event   string // none where empty
		base    forge.Forge
		want    func(f *forge.Forge)
		refused string // what Publish says; empty where it may
	}{
		{
			name: "Gitea push", of: onGitea, base: giteaRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_REF_TYPE": "branch"},
			event: `{"ref": "refs/heads/main", "after": "` + commit + `", ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "push", "main", "main" },
		},
		{
			name: "Gitea tag", of: onGitea, base: giteaRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/tags/v1.2.0/rc", "GITHUB_REF_TYPE": "tag"},
			event: `{"ref": "refs/tags/v1.2.0/rc", ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Tag, f.DefaultBranch = "push", "v1.2.0/rc", "main" },
		},
		{
			name: "Gitea pull request", of: onGitea, base: giteaRun,
			env: map[string]string{
				"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/9/head", "GITHUB_REF_NAME": "9", "GITHUB_SHA": head,
				"GITHUB_HEAD_REF": "feature", "GITHUB_BASE_REF": "main",
			},
			event:   pullJSON(`{"full_name": "Shop/pay"}`),
			want:    func(f *forge.Forge) { pull(f); f.Event, f.Commit = "pull_request", head },
			refused: "publishing from pull request 9: its changes are not merged yet",
		},
		{
			name: "Gitea pull request without its event", of: onGitea, base: giteaRun,
			env: map[string]string{"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/9/head"},
			want: func(f *forge.Forge) {
				f.Event, f.PullRequest, f.HeadCommit = "pull_request", 9, commit
			},
			refused: "publishing from pull request 9: its changes are not merged yet",
		},
		{
			name: "Gitea workflow that a pull request's calls", of: onGitea, base: giteaRun,
			env:     map[string]string{"GITHUB_EVENT_NAME": "workflow_call", "GITHUB_REF": "refs/heads/main", "GITHUB_HEAD_REF": "feature", "GITHUB_BASE_REF": "main"},
			event:   pullJSON(`{"full_name": "shop/pay"}`),
			want:    func(f *forge.Forge) { pull(f); f.Event = "workflow_call" },
			refused: "publishing from pull request 9: its changes are not merged yet",
		},
		{
			name: "Gitea workflow that a push's calls", of: onGitea, base: giteaRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "workflow_call", "GITHUB_REF": "refs/heads/main"},
			event: `{"ref": "refs/heads/main", ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "workflow_call", "main", "main" },
		},
		{
			name: "Gitea schedule", of: onGitea, base: giteaRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "schedule", "GITHUB_REF": "refs/heads/trunk"},
			event: `{"schedule": "17 3 * * 1"}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "schedule", "trunk", "trunk" },
		},
		{
			name: "Gitea dispatch", of: onGitea, base: giteaRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "workflow_dispatch", "GITHUB_REF": "refs/heads/release/2"},
			event: `{"inputs": {"pull_request": "9"}, "ref": "refs/heads/release/2", ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "workflow_dispatch", "release/2", "main" },
		},
		{
			name: "Gitea of which little is known", of: map[string]string{"GITEA_ACTIONS": "true"}, base: forge.Forge{Name: forge.Gitea},
			env:  map[string]string{"GITHUB_RUN_ID": "x", "GITHUB_RUN_NUMBER": "-3", "GITHUB_SERVER_URL": "https://git.example.org", "GITHUB_REPOSITORY": "shop/pay"},
			want: func(f *forge.Forge) { f.ServerURL, f.Repository = "https://git.example.org", "shop/pay" },
		},
		{
			name: "GitHub push", of: onGitHub, base: githubRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/feature/one"},
			event: `{"ref": "refs/heads/feature/one", ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "push", "feature/one", "main" },
		},
		{
			name: "GitHub push in a repository that is a fork", of: onGitHub, base: githubRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main"},
			event: `{"repository": {"full_name": "shop/pay", "default_branch": "main", "fork": true}}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "push", "main", "main" },
		},
		{
			name: "GitHub release", of: onGitHub, base: githubRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "release", "GITHUB_REF": "refs/tags/v2"},
			event: `{"action": "published", "release": {"tag_name": "v2"}, ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Tag, f.DefaultBranch = "release", "v2", "main" },
		},
		{
			name: "GitHub pull request", of: onGitHub, base: githubRun,
			env: map[string]string{
				"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/9/merge", "GITHUB_REF_NAME": "9/merge",
				"GITHUB_HEAD_REF": "feature", "GITHUB_BASE_REF": "main",
			},
			event:   pullJSON(`{"full_name": "shop/pay"}`),
			want:    func(f *forge.Forge) { pull(f); f.Event = "pull_request" },
			refused: "publishing from pull request 9: its changes are not merged yet",
		},
		{
			name: "GitHub pull request of a fork, from a branch of the default's name", of: onGitHub, base: githubRun,
			env: map[string]string{
				"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/9/merge", "GITHUB_HEAD_REF": "main", "GITHUB_BASE_REF": "main",
			},
			event: pullJSON(`{"full_name": "mallory/pay"}`),
			want: func(f *forge.Forge) {
				pull(f)
				f.Event, f.HeadBranch, f.Fork = "pull_request", "main", true
			},
			refused: "publishing from pull request 9 of a fork: somebody else's changes would run with your credentials",
		},
		{
			name: "GitHub pull request of a fork that is gone", of: onGitHub, base: githubRun,
			env:     map[string]string{"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/9/merge"},
			event:   pullJSON("null"),
			want:    func(f *forge.Forge) { pull(f); f.Event, f.Fork = "pull_request", true },
			refused: "publishing from pull request 9 of a fork",
		},
		{
			name: "GitHub pull_request_target", of: onGitHub, base: githubRun,
			env:     map[string]string{"GITHUB_EVENT_NAME": "pull_request_target", "GITHUB_REF": "refs/heads/main", "GITHUB_HEAD_REF": "feature", "GITHUB_BASE_REF": "main"},
			event:   pullJSON(`{"full_name": "mallory/pay"}`),
			want:    func(f *forge.Forge) { pull(f); f.Event, f.Fork = "pull_request_target", true },
			refused: "publishing from pull request 9 of a fork",
		},
		{
			name: "GitHub pull_request_target without its event", of: onGitHub, base: githubRun,
			env:     map[string]string{"GITHUB_EVENT_NAME": "pull_request_target", "GITHUB_REF": "refs/heads/main"},
			want:    func(f *forge.Forge) { f.Event = "pull_request_target" },
			refused: "publishing from a pull request: its changes are not merged yet",
		},
		{
			name: "GitHub merge queue", of: onGitHub, base: githubRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "merge_group", "GITHUB_REF": "refs/heads/gh-readonly-queue/main/pr-9-" + head},
			event: `{"action": "checks_requested", "merge_group": {"base_ref": "refs/heads/main", "head_sha": "` + commit + `"}, ` + repositoryJSON + `}`,
			want: func(f *forge.Forge) {
				f.Event, f.Branch, f.BaseBranch, f.DefaultBranch = "merge_group", "gh-readonly-queue/main/pr-9-"+head, "main", "main"
			},
			refused: "publishing from a merge queue: its changes are not merged yet",
		},
		{
			name: "GitHub comment on a pull request", of: onGitHub, base: githubRun,
			env:     map[string]string{"GITHUB_EVENT_NAME": "issue_comment", "GITHUB_REF": "refs/heads/main"},
			event:   `{"issue": {"number": 9, "pull_request": {"url": "x"}}, ` + repositoryJSON + `}`,
			want:    func(f *forge.Forge) { f.Event, f.PullRequest, f.DefaultBranch = "issue_comment", 9, "main" },
			refused: "publishing from pull request 9",
		},
		{
			name: "GitHub comment on an issue", of: onGitHub, base: githubRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "issue_comment", "GITHUB_REF": "refs/heads/main"},
			event: `{"issue": {"number": 9}, ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "issue_comment", "main", "main" },
		},
		{
			name: "GitHub after the workflow of a pull request", of: onGitHub, base: githubRun,
			env: map[string]string{"GITHUB_EVENT_NAME": "workflow_run", "GITHUB_REF": "refs/heads/main"},
			event: `{"workflow_run": {"event": "pull_request", "head_branch": "feature", "head_sha": "` + head + `", "head_repository": {"full_name": "shop/pay"},
				"pull_requests": [{"number": 9, "head": {"repo": {"id": 1, "name": "pay"}}, "base": {"ref": "main"}}]}, ` + repositoryJSON + `}`,
			want:    func(f *forge.Forge) { pull(f); f.Event = "workflow_run" },
			refused: "publishing from pull request 9: its changes are not merged yet",
		},
		{
			name: "GitHub after the workflow of a fork", of: onGitHub, base: githubRun,
			env: map[string]string{"GITHUB_EVENT_NAME": "workflow_run", "GITHUB_REF": "refs/heads/main"},
			event: `{"workflow_run": {"event": "pull_request", "head_branch": "main", "head_sha": "` + head + `", "head_repository": {"full_name": "mallory/pay"},
				"pull_requests": []}, ` + repositoryJSON + `}`,
			want: func(f *forge.Forge) {
				f.Event, f.HeadBranch, f.HeadCommit, f.Fork, f.DefaultBranch = "workflow_run", "main", head, true, "main"
			},
			refused: "publishing from a pull request of a fork",
		},
		{
			name: "GitHub after the workflow of a push from whose branch a pull request is open", of: onGitHub, base: githubRun,
			env:   map[string]string{"GITHUB_EVENT_NAME": "workflow_run", "GITHUB_REF": "refs/heads/main"},
			event: `{"workflow_run": {"event": "push", "head_branch": "main", "pull_requests": [{"number": 9}]}, ` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "workflow_run", "main", "main" },
		},
		{
			name: "GitHub after a workflow that ran after another", of: onGitHub, base: githubRun,
			env:     map[string]string{"GITHUB_EVENT_NAME": "workflow_run", "GITHUB_REF": "refs/heads/main"},
			event:   `{"workflow_run": {"event": "workflow_run"}, ` + repositoryJSON + `}`,
			want:    func(f *forge.Forge) { f.Event, f.Branch, f.DefaultBranch = "workflow_run", "main", "main" },
			refused: "publishing on the event workflow_run: its event file does not tell whether it is for a pull request",
		},
		{
			name: "GitHub after a workflow of which nothing is known", of: onGitHub, base: githubRun,
			env:     map[string]string{"GITHUB_EVENT_NAME": "workflow_run", "GITHUB_REF": "refs/heads/main"},
			want:    func(f *forge.Forge) { f.Event, f.Branch = "workflow_run", "main" },
			refused: "publishing on the event workflow_run: its event file does not tell whether it is for a pull request",
		},
		{
			name: "GitHub without a repository but in its event", of: map[string]string{"GITHUB_ACTIONS": "1"}, base: forge.Forge{Name: forge.GitHub},
			event: `{` + repositoryJSON + `}`,
			want:  func(f *forge.Forge) { f.Repository, f.DefaultBranch = "shop/pay", "main" },
		},
		{name: "laptop", base: forge.Forge{}, env: map[string]string{"GITHUB_REPOSITORY": "shop/pay", "GITHUB_OUTPUT": "/nowhere/out"}},
		{name: "laptop that says so", base: forge.Forge{}, env: map[string]string{"CI": "False", "GITEA_ACTIONS": "0", "GITHUB_ACTIONS": "false"}},
		{name: "CI alone", base: forge.Forge{CI: true}, env: map[string]string{"CI": "1"}},
		{name: "GitLab", base: forge.Forge{CI: true}, env: map[string]string{"CI": "true", "GITLAB_CI": "true", "CI_COMMIT_SHA": commit}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := map[string]string{}
			if tt.event != "" {
				path["GITHUB_EVENT_PATH"] = writeEvent(t, tt.event)
			}
			got, err := forge.Detect(environment(tt.of, tt.env, path))
			require.NoError(t, err)

			want := tt.base
			if tt.want != nil {
				tt.want(&want)
			}
			assert.Equal(t, want, facts(got))
			refused := got.Publish(false)
			if tt.refused == "" {
				assert.NoError(t, refused)
			} else if assert.ErrorContains(t, refused, tt.refused) {
				assert.ErrorContains(t, refused, "set ALLOW_PULL_REQUEST=true")
			}
			assert.NoError(t, got.Publish(true))
		})
	}
}

// facts returns what f tells, without what it keeps for itself.
func facts(f forge.Forge) forge.Forge {
	return forge.Forge{
		Name: f.Name, CI: f.CI, Repository: f.Repository, ServerURL: f.ServerURL, RunURL: f.RunURL, RunID: f.RunID, RunNumber: f.RunNumber,
		RunAttempt: f.RunAttempt, Job: f.Job, Event: f.Event, Commit: f.Commit, Branch: f.Branch, Tag: f.Tag, DefaultBranch: f.DefaultBranch,
		PullRequest: f.PullRequest, Fork: f.Fork, HeadBranch: f.HeadBranch, HeadCommit: f.HeadCommit, BaseBranch: f.BaseBranch,
	}
}

func writeEvent(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "event.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestDetectBrokenEvent(t *testing.T) {
	tests := []struct {
		name  string
		event func(t *testing.T) string
		want  string
	}{
		{"missing", func(t *testing.T) string { return filepath.Join(t.TempDir(), "event.json") }, "no such file"},
		{"below a file", func(t *testing.T) string { return filepath.Join(writeEvent(t, "{}"), "event.json") }, "not a directory"},
		{"folder", func(t *testing.T) string { return t.TempDir() }, "it is no regular file"},
		{"device", func(*testing.T) string { return os.DevNull }, "it is no regular file"},
		{"empty", func(t *testing.T) string { return writeEvent(t, "") }, "unexpected end of JSON input"},
		{"cut off", func(t *testing.T) string { return writeEvent(t, `{"repository": {"default_branch": "ma`) }, "unexpected end of JSON input"},
		{"no JSON", func(t *testing.T) string { return writeEvent(t, "<html>") }, "invalid character"},
		{"another shape", func(t *testing.T) string { return writeEvent(t, `["push"]`) }, "cannot unmarshal array"},
		{"other types", func(t *testing.T) string { return writeEvent(t, `{"number": "nine", "repository": "shop/pay"}`) }, "cannot unmarshal string"},
		{"deep", func(t *testing.T) string {
			return writeEvent(t, `{"issue":`+strings.Repeat("[", 1<<20)+strings.Repeat("]", 1<<20)+`}`)
		}, "exceeded max depth"},
		{"huge", func(t *testing.T) string {
			path := writeEvent(t, "{")
			require.NoError(t, os.Truncate(path, 33<<20))
			return path
		}, "it has more than 32 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := tt.event(t)
			on := func(event, ref string) func(string) string {
				return environment(onGitHub, map[string]string{"GITHUB_EVENT_PATH": path, "GITHUB_EVENT_NAME": event, "GITHUB_REF": ref})
			}

			got, err := forge.Detect(on("push", "refs/heads/main"))
			require.ErrorContains(t, err, "reading the event file "+path+": ")
			require.ErrorContains(t, err, tt.want)
			assert.Equal(t, 1, strings.Count(err.Error(), path), "the path is told once")
			want := githubRun
			want.Event, want.Branch = "push", "main"
			assert.Equal(t, want, facts(got), "what the environment says is there all the same")
			assert.NoError(t, got.Publish(false))

			got, err = forge.Detect(on("pull_request", "refs/pull/9/merge"))
			require.Error(t, err)
			assert.Equal(t, 9, got.PullRequest)
			assert.ErrorContains(t, got.Publish(false), "publishing from pull request 9: ")

			for _, event := range []string{"workflow_run", "workflow_call", "issue_comment"} {
				got, err = forge.Detect(on(event, "refs/heads/main"))
				require.Error(t, err)
				assert.ErrorContains(t, got.Publish(false), "publishing on the event "+event+": its event file does not tell")
				assert.NoError(t, got.Publish(true))
			}
		})
	}
}

func TestDetectForeignEvent(t *testing.T) {
	// Each of them is JSON of the right types that says nothing, or something absurd.
	for _, event := range []string{
		`null`, `{}`, `{"repository": null}`, `{"pull_request": null, "issue": null}`, `{"number": -1}`,
		`{"workflow_run": {"event": "pull_request"}}`, `{"merge_group": {}}`,
	} {
		got, err := forge.Detect(environment(onGitHub, map[string]string{
			"GITHUB_EVENT_PATH": writeEvent(t, event), "GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main",
		}))
		require.NoError(t, err, event)
		want := githubRun
		want.Event, want.Branch = "push", "main"
		assert.Equal(t, want, facts(got), event)
		assert.NoError(t, got.Publish(false), event)
	}
	got, err := forge.Detect(environment(onGitHub, map[string]string{
		"GITHUB_EVENT_PATH": writeEvent(t, `{"number": -9, "pull_request": {"number": -9}}`), "GITHUB_EVENT_NAME": "pull_request",
	}))
	require.NoError(t, err)
	assert.Zero(t, got.PullRequest)
	assert.ErrorContains(t, got.Publish(false), "publishing from a pull request: ")
}

func TestDetectEventOfWhichOneFactIsBroken(t *testing.T) {
	got, err := forge.Detect(environment(onGitHub, map[string]string{
		"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/9/merge",
		"GITHUB_EVENT_PATH": writeEvent(t, `{"number": "nine", "pull_request": {"head": {"sha": "`+head+`", "repo": {"full_name": "mallory/pay"}}}, `+repositoryJSON+`}`),
	}))
	require.ErrorContains(t, err, "cannot unmarshal string")
	assert.Equal(t, "main", got.DefaultBranch)
	assert.Equal(t, head, got.HeadCommit)
	assert.True(t, got.Fork)
}

func TestPublishOfNobody(t *testing.T) {
	assert.NoError(t, forge.Forge{}.Publish(false))
	assert.ErrorContains(t, forge.Forge{PullRequest: 4}.Publish(false), "publishing from pull request 4: ")
}
