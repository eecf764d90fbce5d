package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"
)

// Environment is a git repository whose manifests something else brings to a cluster: Argo CD, Flux, a pipeline.
type Environment struct {
	// URL is the repository's: https, ssh, file, or a local path. A user and password in it are given to git in a way that no
	// process list, error or log shows; git's own credential helpers and ssh agents work too.
	URL string
	// Branch is what to commit to. Default: the remote's default branch.
	Branch string
	// Path is the folder or file in the repository, with slashes, that holds the manifests. Default: all of it.
	Path string
	// AuthorName and AuthorEmail are for the commit. Default: GIT_AUTHOR_NAME and GIT_AUTHOR_EMAIL, then user.name and user.email
	// of git's configuration, then "grimoire" and "grimoire@localhost".
	AuthorName, AuthorEmail string
}

// Release is what Environment.Deploy deploys.
type Release struct {
	// Service names it in the commit's message.
	Service string
	// Image is "host/owner/name@sha256:…".
	Image string
	// Revision is the commit of the source that the image was made of; it goes into the message. Default: none.
	Revision string
	// Message is the first line of the commit's message. Default: "Deploy SERVICE at REVISION".
	Message string

	trailer string // a line at the message's end
}

// Commit is what Environment.Deploy has pushed.
type Commit struct {
	// Hash is the commit, or the branch's newest one where nothing was to change.
	Hash string
	// Image is the one that the environment holds now, by digest.
	Image string
	// Files are those that changed, as paths in the repository with slashes, sorted.
	Files []string
	// Diff is what changed, as git shows it.
	Diff string
	// Changed is whether there was anything to change. If not, nothing was committed.
	Changed bool
}

// maxPushes is how often a commit is made anew because somebody else was faster. One of those who push at the same time always
// gets through, so that it is also about how many may do so.
const maxPushes = 30

// Deploy sets the image in all YAML files of the environment, as ReplaceImage does, commits and pushes. When somebody else has
// pushed in between, it starts over from their commit, so that neither change is lost; it never forces. The working copy is in
// a temporary folder, which is gone when Deploy returns. Hooks do not run and commits are not signed. Files that are not YAML,
// templates for example, are passed over with a warning. That no file names the image is an error.
func (e Environment) Deploy(ctx context.Context, r Release) (Commit, error) {
	remote, err := parseRemote(e.URL)
	if err != nil {
		return Commit{}, fmt.Errorf("deploying %s: %w", r.Service, err)
	}
	wanted, err := parseImage(r.Image)
	if err == nil {
		err = e.validate(r)
	}
	var commit Commit
	if err == nil {
		commit, err = e.change(ctx, remote, func(ctx context.Context, g *gitClone) (Commit, error) {
			return e.commit(ctx, g, r.Image, wanted, r.message())
		})
	}
	if err != nil {
		return Commit{}, fmt.Errorf("deploying %s to %s: %w", r.Service, remote.shown, err)
	}
	return commit, nil
}

// withClone calls f with a clone of the environment in a temporary folder.
func (e Environment) withClone(ctx context.Context, remote remote, f func(*gitClone) error) (err error) {
	dir, err := os.MkdirTemp("", "grimoire-environment-")
	if err != nil {
		return fmt.Errorf("making a temporary folder: %w", err)
	}
	defer func() {
		if failed := os.RemoveAll(dir); failed != nil {
			err = errors.Join(err, fmt.Errorf("removing the temporary folder: %w", failed))
		}
	}()
	g, err := clone(ctx, remote, e.Branch, filepath.Join(dir, "clone"))
	if err != nil {
		return err
	}
	return f(g)
}

// change has make edit and commit, and pushes that. When somebody else has pushed in between, make is called anew on top of
// theirs.
func (e Environment) change(ctx context.Context, remote remote, make func(context.Context, *gitClone) (Commit, error)) (commit Commit, err error) {
	err = e.withClone(ctx, remote, func(g *gitClone) error {
		if err := g.setAuthor(ctx, e.AuthorName, e.AuthorEmail); err != nil {
			return err
		}
		commit, err = e.push(ctx, g, make)
		return err
	})
	return commit, err
}

func (e Environment) push(ctx context.Context, g *gitClone, make func(context.Context, *gitClone) (Commit, error)) (Commit, error) {
	pause := firstPause / 2
	for try := 1; ; try++ {
		base, err := g.head(ctx)
		if err != nil {
			return Commit{}, err
		}
		commit, err := make(ctx, g)
		if err != nil || !commit.Changed {
			return commit, err
		}
		pushErr := g.push(ctx)
		if pushErr == nil {
			return commit, nil
		}
		if ctx.Err() != nil || !sleep(ctx, pause) {
			return Commit{}, context.Cause(ctx)
		}
		pause = longer(pause)
		tip, err := g.fetch(ctx)
		switch {
		case err != nil:
			return Commit{}, pushErr
		case tip == commit.Hash:
			return commit, nil // it did arrive, and only the answer was lost
		case tip == base && !isRace(pushErr):
			return Commit{}, pushErr
		case try == maxPushes:
			return Commit{}, fmt.Errorf("the branch %s moved during each of %d pushes; deploy again: %w", g.branch, try, pushErr)
		}
		zerolog.Ctx(ctx).Debug().Str("branch", g.branch).Str("tip", tip).Msg("somebody else has pushed, starting over from there")
		if err := g.reset(ctx); err != nil {
			return Commit{}, err
		}
	}
}

func (e Environment) validate(r Release) error {
	if e.Path != "" && !fs.ValidPath(e.cleanPath()) {
		return fmt.Errorf("the path %q is not inside the repository; give it relative to its root", e.Path)
	}
	if strings.HasPrefix(e.Branch, "-") {
		return fmt.Errorf("%q is no name of a branch", e.Branch)
	}
	for _, text := range []string{r.Service, r.Revision} {
		if strings.ContainsAny(text, "\r\n\x00") {
			return fmt.Errorf("%q has a line break, which would change the commit's message; remove it", text)
		}
	}
	if r.Service == "" {
		return errors.New("the service has no name; name it, for the commit's message")
	}
	return nil
}

func (e Environment) cleanPath() string {
	return path.Clean(strings.TrimSuffix(e.Path, "/"))
}

// commit sets the image in the files and commits them. The commit is unchanged where there is nothing to edit.
func (e Environment) commit(ctx context.Context, g *gitClone, image string, wanted imageName, message string) (Commit, error) {
	files, err := e.edit(ctx, g, image, wanted)
	if err != nil {
		return Commit{}, err
	}
	if len(files) == 0 {
		head, err := g.head(ctx)
		return Commit{Hash: head, Image: image}, err
	}
	diff, err := g.diff(ctx, files)
	if err != nil {
		return Commit{}, err
	}
	hash, err := g.commit(ctx, message, files)
	return Commit{Hash: hash, Image: image, Files: files, Diff: diff, Changed: true}, err
}

func (r Release) message() string {
	subject := r.Message
	if subject == "" {
		subject = "Deploy " + r.Service
		if r.Revision != "" {
			subject += " at " + r.Revision[:min(len(r.Revision), 12)]
		}
	}
	message := strings.TrimSpace(subject) + "\n\nService: " + r.Service + "\nImage: " + r.Image + "\n"
	if r.Revision != "" {
		message += "Revision: " + r.Revision + "\n"
	}
	return message + r.trailer
}

// edit sets the image in the files, and returns those that changed.
func (e Environment) edit(ctx context.Context, g *gitClone, image string, wanted imageName) ([]string, error) {
	// Through a root, so that no link in the repository leads out of it.
	root, err := os.OpenRoot(g.dir)
	if err != nil {
		return nil, fmt.Errorf("opening the clone: %w", err)
	}
	defer root.Close()
	names, err := e.files(root)
	if err != nil {
		return nil, err
	}
	var changed []string
	var others []foundImage
	found := false
	for _, name := range names {
		file, err := fs.ReadFile(root.FS(), name)
		if err != nil {
			return nil, fmt.Errorf("reading the clone: %w", err)
		}
		out, places, err := replaceImage(name, file, image, wanted)
		var source *sourceError
		if errors.As(err, &source) && source.syntax {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("passing over a file that is not YAML")
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, p := range places {
			if MatchImage(p.image, image) {
				found = true
			} else {
				others = append(others, foundImage{p.image, name})
			}
		}
		if bytes.Equal(file, out) {
			continue
		}
		if err := write(root, name, out); err != nil {
			return nil, fmt.Errorf("writing the clone: %w", err)
		}
		changed = append(changed, name)
	}
	if !found {
		return nil, noImageError(wanted, others)
	}
	return changed, nil
}

// write replaces a file's content and leaves its permissions.
func write(root *os.Root, name string, content []byte) (err error) {
	file, err := root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = file.Write(content)
	return err
}

// files returns the YAML files of the environment, sorted. Links and what begins with a dot are left alone.
func (e Environment) files(root *os.Root) ([]string, error) {
	from := "."
	if e.Path != "" {
		from = e.cleanPath()
	}
	info, err := fs.Stat(root.FS(), from)
	if err != nil {
		return nil, missingPathError(root, from)
	}
	if target, err := root.Readlink(filepath.FromSlash(from)); err == nil {
		return nil, fmt.Errorf("the path %q is a link to %q; name that", from, target)
	}
	if !info.IsDir() {
		return []string{from}, nil
	}
	var names []string
	err = fs.WalkDir(root.FS(), from, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != from && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
		case entry.Type().IsRegular() && slices.Contains([]string{".yaml", ".yml"}, path.Ext(name)):
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the clone: %w", err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no *.yaml or *.yml is in %q; commit the manifests there, or name another path", from)
	}
	return names, nil
}

// missingPathError says what there is where the path stops to exist.
func missingPathError(root *os.Root, name string) error {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil && dir != "." {
			continue
		}
		var there []string
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), ".") {
				there = append(there, entry.Name())
			}
		}
		return fmt.Errorf("there is no %q in it; in %q there is: %s; name one of these paths", name, dir,
			strings.Join(there, ", "))
	}
}
