package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/grimoire-build/grimoire/internal/process"
)

// remote is a repository's URL without its credentials.
type remote struct {
	url   string // what git is given
	shown string // what errors say
	// header is the HTTP header that logs in; empty where the URL has no credentials.
	header string
	// secrets must not be in any text.
	secrets []string
}

// parseRemote takes the credentials out of a URL. Its errors do not quote it, since they could be anywhere in it.
func parseRemote(raw string) (remote, error) {
	if raw == "" {
		return remote{}, errors.New("the environment has no repository; name its URL")
	}
	scheme, _, ok := strings.Cut(raw, "://")
	if !ok {
		return localRemote(raw)
	}
	u, err := url.Parse(raw)
	if err != nil || u.RawQuery != "" || u.Fragment != "" {
		return remote{}, errors.New("the URL of the environment's repository cannot be read; write what is special in its user " +
			"and password as %XX")
	}
	r := remote{}
	if u.User != nil {
		name := u.User.Username()
		password, hasPassword := u.User.Password()
		if hasPassword && password != "" {
			r.secrets = append(r.secrets, password)
		}
		switch scheme {
		case "http", "https":
			r.header = "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
			if !hasPassword {
				r.secrets = append(r.secrets, name) // a token alone stands where the name is
			}
			u.User = nil
		default:
			u.User = url.User(name) // ssh needs it, and it is no secret
		}
	}
	r.url, r.shown = u.String(), u.String()
	return r, nil
}

// localRemote is a path, or what ssh calls "user@host:path".
func localRemote(raw string) (remote, error) {
	host, rest, ok := strings.Cut(raw, ":")
	if login, _, _ := strings.Cut(rest, "/"); ok && !strings.ContainsAny(host, `/\@`) && strings.Contains(login, "@") {
		return remote{}, errors.New("the environment's repository looks like a URL with a login and without a scheme; write it with https://")
	}
	if ok && !strings.ContainsAny(host, `/\`) && len(host) > 1 { // one letter is a drive
		return remote{url: raw, shown: raw}, nil
	}
	path, err := filepath.Abs(raw)
	if err != nil {
		return remote{}, fmt.Errorf("finding the environment's repository: %w", err)
	}
	return remote{url: path, shown: raw}, nil
}

// gitClone is a working copy.
type gitClone struct {
	remote remote
	dir    string
	branch string
	env    []string
}

// clone makes a shallow clone of a branch, the remote's default one where it is empty.
func clone(ctx context.Context, remote remote, branch, dir string) (*gitClone, error) {
	g := &gitClone{remote: remote, branch: branch}
	g.env = g.environment(ctx)
	// Without --no-local, the clone of a path would be a whole one.
	args := []string{"clone", "--quiet", "--origin=origin", "--template=", "--no-local", "--depth=1", "--single-branch", "--no-tags"}
	if branch != "" {
		args = append(args, "--branch="+branch)
	}
	if _, err := g.git(ctx, append(args, "--", remote.url, dir)...); err != nil {
		return nil, g.explainClone(ctx, err)
	}
	g.dir = dir
	head, err := g.git(ctx, "symbolic-ref", "--quiet", "--short", "HEAD")
	if err != nil {
		if branch != "" { // it took a tag
			return nil, g.missingBranchError(ctx)
		}
		return nil, fmt.Errorf("the repository has no default branch: %w; name the branch", err)
	}
	g.branch = head
	if _, err := g.head(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, g.missingBranchError(ctx)
	}
	return g, nil
}

func (g *gitClone) explainClone(ctx context.Context, err error) error {
	text := err.Error()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case strings.Contains(text, "Remote branch") && strings.Contains(text, "not found"):
		return g.missingBranchError(ctx)
	default:
		return err
	}
}

func (g *gitClone) missingBranchError(ctx context.Context) error {
	out, err := g.git(ctx, "ls-remote", "--heads", "--", g.remote.url)
	if err != nil {
		return err
	}
	var branches []string
	for line := range strings.Lines(out) {
		if _, ref, ok := strings.Cut(strings.TrimSpace(line), "\trefs/heads/"); ok {
			branches = append(branches, ref)
		}
	}
	if len(branches) == 0 {
		return errors.New("the repository is empty; commit the service's manifests to its branch main first")
	}
	return fmt.Errorf("the repository has no branch %q; push it, or name one of: %s", g.branch, strings.Join(branches, ", "))
}

func (g *gitClone) head(ctx context.Context) (string, error) {
	return g.git(ctx, "rev-parse", "--quiet", "--verify", "HEAD")
}

// fetch brings the branch's newest commit, and returns it.
func (g *gitClone) fetch(ctx context.Context) (string, error) {
	if _, err := g.git(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "origin", "refs/heads/"+g.branch); err != nil {
		return "", err
	}
	return g.git(ctx, "rev-parse", "--verify", "FETCH_HEAD")
}

// reset makes the working copy what fetch brought.
func (g *gitClone) reset(ctx context.Context) error {
	_, err := g.git(ctx, "reset", "--quiet", "--hard", "FETCH_HEAD")
	return err
}

// diff shows what has changed in files. Git may take others for changed, whose line ends are not as their attributes want them.
func (g *gitClone) diff(ctx context.Context, files []string) (string, error) {
	args := []string{"diff", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "--"}
	cmd := g.command(ctx, append(args, files...)...)
	out, err := g.run(ctx, cmd)
	return string(out), err
}

// commit commits what has changed in files, and nothing else.
func (g *gitClone) commit(ctx context.Context, message string, files []string) (string, error) {
	args := []string{"commit", "--quiet", "--only", "--no-verify", "--no-gpg-sign", "--cleanup=verbatim", "--file=-", "--"}
	cmd := g.command(ctx, append(args, files...)...)
	cmd.Stdin = strings.NewReader(message)
	if _, err := g.run(ctx, cmd); err != nil {
		return "", err
	}
	return g.head(ctx)
}

func (g *gitClone) push(ctx context.Context) error {
	_, err := g.git(ctx, "push", "--quiet", "--no-verify", "--no-signed", "origin", "HEAD:refs/heads/"+g.branch)
	return err
}

// isRace reports whether a push failed because of another one at the same time, which the branch itself need not show yet.
func isRace(err error) bool {
	for _, text := range []string{"(fetch first)", "(non-fast-forward)", "cannot lock ref", "failed to update ref",
		"incorrect old value"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// setAuthor has commits made in a name, which git would otherwise insist on.
func (g *gitClone) setAuthor(ctx context.Context, name, email string) error {
	for _, a := range []struct{ given, key, author, committer, unset string }{
		{name, "user.name", "GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "grimoire"},
		{email, "user.email", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL", "grimoire@localhost"},
	} {
		value := a.given
		if value == "" {
			value = os.Getenv(a.author)
		}
		if value == "" {
			configured, err := g.git(ctx, "config", "--get", a.key)
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
				return err
			}
			value = configured
		}
		if value == "" {
			value = a.unset
		}
		g.env = append(g.env, a.author+"="+value)
		if os.Getenv(a.committer) == "" {
			g.env = append(g.env, a.committer+"="+value)
		}
	}
	return nil
}

// git runs git and returns its output without the last line break.
func (g *gitClone) git(ctx context.Context, args ...string) (string, error) {
	out, err := g.run(ctx, g.command(ctx, args...))
	return strings.TrimSpace(string(out)), err
}

func (g *gitClone) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := process.Command(ctx, "git", args...)
	cmd.Dir, cmd.Env = g.dir, g.env
	return cmd
}

func (g *gitClone) run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return out, g.explain(ctx, cmd.Args[1], err)
	}
	return out, nil
}

// explain says in few words what git could not do, and how to mend it. The error's exit code stays.
func (g *gitClone) explain(ctx context.Context, what string, err error) error {
	var failed *process.Error
	if ctx.Err() != nil || !errors.As(err, &failed) || failed.Stderr == "" {
		return err
	}
	says := strings.Join(strings.FieldsFunc(failed.Stderr, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	for _, secret := range g.remote.secrets {
		says = strings.ReplaceAll(says, secret, "***")
	}
	text := fmt.Sprintf("git %s: %s", what, says)
	for _, c := range gitCures {
		if slices.ContainsFunc(c.says, func(part string) bool { return strings.Contains(says, part) }) {
			text += "; " + c.cure
			break
		}
	}
	return &explainedError{text: text, err: err}
}

// gitCures tell what to do about what git says; the first that fits counts.
var gitCures = []struct {
	says []string
	cure string
}{
	{
		[]string{"Host key verification failed"},
		"add the host to ssh's known_hosts",
	},
	{
		[]string{"Authentication failed", "could not read Username", "could not read Password", "Permission denied",
			"terminal prompts disabled", "error: 401", "error: 403"},
		"the login is refused: put a user and a token that may push into the URL, or let git know them by a credential helper " +
			"or an ssh key",
	},
	{
		[]string{"does not exist", "not found", "does not appear to be a git repository", "error: 404"},
		"there is no such repository, or this login may not see it: mend the URL",
	},
	{
		[]string{"error: 301", "error: 302", "error: 303", "error: 307", "error: 308"},
		"the repository is elsewhere, and the login goes to no other address than its URL's: set the URL to the new one",
	},
	{
		[]string{"protected branch", "hook declined"},
		"the server does not let this login push to the branch: allow it there, or name another branch",
	},
}

// ofOthers are variables that would have our git do something else.
var ofOthers = []string{"GIT_TEMPLATE_DIR", "GIT_EXTERNAL_DIFF"}

// slowest and slowestFor end a transfer from a server that has stopped to send: bytes a second, for so many seconds.
const slowest, slowestFor = "1", "60"

// environment returns the variables for git: no questions at the terminal, no hooks, no signatures, nothing that goes on in the background, and
// the login where no argument shows it.
func (g *gitClone) environment(ctx context.Context) []string {
	config := [][2]string{
		{"core.hooksPath", os.DevNull},
		{"core.quotePath", "false"},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"submodule.recurse", "false"},
		{"push.followTags", "false"},
		{"http.lowSpeedLimit", slowest},
		{"http.lowSpeedTime", slowestFor},
	}
	if g.remote.header != "" {
		// Git would send the header on to wherever it is redirected.
		config = append(config, [2]string{"http." + g.remote.url + ".extraHeader", g.remote.header}, [2]string{"http.followRedirects", "false"})
	}
	env := slices.DeleteFunc(process.Env(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(ofOthers, name)
	})
	count, _ := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT"))
	for i, c := range config {
		n := strconv.Itoa(count + i)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+c[0], "GIT_CONFIG_VALUE_"+n+"="+c[1])
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(count+len(config)),
		"GIT_TERMINAL_PROMPT=0", "GIT_LITERAL_PATHSPECS=1", "GCM_INTERACTIVE=never", "LC_ALL=C", "GIT_LFS_SKIP_SMUDGE=1")
	return append(env, g.sshEnvironment(ctx)...)
}

// sshEnvironment keeps ssh from asking at the terminal, where nobody could answer a process of another group, unless
// somebody has said how to run it.
func (g *gitClone) sshEnvironment(ctx context.Context) []string {
	if os.Getenv("GIT_SSH_COMMAND") != "" || os.Getenv("GIT_SSH") != "" {
		return nil
	}
	cmd := process.Command(ctx, "git", "config", "--get", "core.sshCommand")
	if out, err := process.Capture(ctx, cmd); err == nil && len(out) > 0 {
		return nil
	}
	return []string{"GIT_SSH_COMMAND=ssh -o BatchMode=yes"}
}
