package scripts

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pay is a service with a finding of vet and a test that fails.
var pay = map[string]string{
	"go.mod": "module example.org/shop/pay\n\ngo 1.26\n",
	"main.go": `package main

func main() {
	answer := 42
	answer = answer
	println(answer)
}
`,
	"main_test.go": `package main

import "testing"

func TestAnswer(t *testing.T) {
	t.Log("token: s3cr3t-token")
	t.Error("it is 41: 100 %")
}
`,
}

// onGitHub is what a step finds there, and, with the rest, on Gitea.
var (
	onGitHub = []string{
		"CI=true", "GITHUB_ACTIONS=true", "GITHUB_SERVER_URL=https://github.com", "GITHUB_REPOSITORY=shop/pay",
		"GITHUB_RUN_ID=123456789", "GITHUB_RUN_NUMBER=7", "GITHUB_RUN_ATTEMPT=1", "GITHUB_EVENT_NAME=push",
		"GITHUB_REF=refs/heads/main", "GITHUB_REF_NAME=main", "GITHUB_REF_TYPE=branch", "GITHUB_SHA=4f2a91c0de3b774f2a91c0de3b774f2a91c0de3b",
	}
	onGitea = append(onGitHub[:len(onGitHub):len(onGitHub)], "GITEA_ACTIONS=true", "GITHUB_SERVER_URL=https://git.example.org", "GITHUB_RUN_ATTEMPT=")

	onPullRequest = append(onGitea[:len(onGitea):len(onGitea)], "GITHUB_EVENT_NAME=pull_request", "GITHUB_REF=refs/pull/12/head",
		"GITHUB_REF_NAME=12", "GITHUB_REF_TYPE=", "GITHUB_HEAD_REF=topic", "GITHUB_BASE_REF=main", "REGISTRY_HOST=registry.example.org")
)

// TestForges holds what a run prints, its outputs and its summary, in a plain shell, on Gitea and on GitHub.
func TestForges(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	exe := filepath.Join(t.TempDir(), "grimoire")
	compile(t, root, exe)
	for name, environ := range map[string][]string{"plain": nil, "gitea": onGitea, "github": onGitHub, "gitea-pull-request": onPullRequest} {
		runs := map[string][]string{"failing": {"test", "vet"}, "finding": {"lint"}, "passing": {"lint", "test", "image"}}
		if name == "gitea-pull-request" {
			runs = map[string][]string{"push": {"push"}}
		}
		for target, args := range runs {
			t.Run(name+" "+target, func(t *testing.T) {
				dir := t.TempDir()
				for file, content := range pay {
					if target == "passing" {
						content = strings.NewReplacer("\tanswer = answer\n", "", "t.Error", "t.Log").Replace(content)
					}
					require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
				}
				side := t.TempDir()
				cmd := exec.Command(exe, args...)
				cmd.Dir = dir
				cmd.Env = append(plainEnv(), environ...)
				cmd.Env = append(cmd.Env, "COVERAGE_THRESHOLD=0", "TEST_RACE=off", "IMAGE_BUILDER=go", "API_TOKEN=s3cr3t-token", "GITHUB_WORKSPACE="+filepath.Dir(dir))
				for _, file := range []string{"OUTPUT", "STEP_SUMMARY"} {
					require.NoError(t, os.WriteFile(filepath.Join(side, file), nil, 0o644))
					if environ != nil {
						cmd.Env = append(cmd.Env, "GITHUB_"+file+"="+filepath.Join(side, file))
					}
				}
				var stdout, stderr bytes.Buffer
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				_ = cmd.Run()

				var text strings.Builder
				fmt.Fprintf(&text, "$ mage %s\nexit code %d\n", strings.Join(args, " "), cmd.ProcessState.ExitCode())
				for _, part := range []struct{ name, text string }{
					{"stdout", stdout.String()}, {"stderr", stderr.String()}, {"outputs", content(t, side, "OUTPUT")}, {"summary", content(t, side, "STEP_SUMMARY")},
				} {
					fmt.Fprintf(&text, "\n--- %s ---\n%s", part.name, part.text)
				}
				assertGolden(t, filepath.Join("testdata", "forges", name+"-"+target+".txt"), settled(text.String(), dir))
			})
		}
	}
}

// plainEnv is this process's environment without what a CI sets.
func plainEnv() []string {
	var kept []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if name != "CI" && !strings.HasPrefix(name, "GITHUB_") && !strings.HasPrefix(name, "GITEA_") && !strings.HasPrefix(name, "RUNNER_") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// What differs from run to run.
var unsettled = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d `), "00:00:00 "},
	{regexp.MustCompile(`"time":\d+`), `"time":0`},
	{regexp.MustCompile(`seconds("?[=:])[0-9.]+`), `seconds${1}0`},
	{regexp.MustCompile(`( +\d+ [hm])* +\d+(\.\d+)? m?s\b`), " 0 s"},
	{regexp.MustCompile(`\d+\.\d+s\b`), "0s"},
	{regexp.MustCompile(`(?m)^(stage|total) +(result|ok|failed) +`), "$1 $2 "},
	{regexp.MustCompile(`skipped +–`), "skipped –"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:0"},
	{regexp.MustCompile(`(?m)<<\S+$`), "<<END"},
	{regexp.MustCompile(`(?m)^end-[0-9A-Z]+$`), "END"},
}

func settled(text, dir string) string {
	text = strings.ReplaceAll(text, dir, "DIR")
	text = strings.ReplaceAll(text, filepath.Base(dir), "DIR")
	for _, u := range unsettled {
		text = u.pattern.ReplaceAllString(text, u.text)
	}
	return text
}

func content(t *testing.T, dir, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, file))
	require.NoError(t, err)
	return string(data)
}

func assertGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, cmp.Or(string(want), "nothing"), got, "run the tests with -update where the change is meant")
}
