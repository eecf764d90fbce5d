package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
)

// Promotion is what Environment.Promote promotes.
type Promotion struct {
	// Service names it in the commit's message.
	Service string
	// Repository is the image's name, "host/owner/name", with or without tag and digest.
	Repository string
}

// Promote brings the image that from holds to this environment, by the digest, without building anything: the commit's message names
// the service, the image, the source's commit where the commit that brought it to from names that, and from. It is pushed as Deploy
// does it. The two may be folders or branches of one repository, or two repositories. It is an error if from holds no image
// of that name, one without a digest, or several.
func (e Environment) Promote(ctx context.Context, from Environment, p Promotion) (Commit, error) {
	source, err := parseRemote(from.URL)
	if err != nil {
		return Commit{}, fmt.Errorf("promoting %s: %w", p.Service, err)
	}
	r := Release{Service: p.Service}
	err = from.withClone(ctx, source, func(g *gitClone) error {
		held, err := from.held(ctx, g, p.Repository)
		if err != nil {
			return err
		}
		r.Image = held.image
		r.Revision, err = from.revisionOf(ctx, g, held.image)
		return err
	})
	if err != nil {
		return Commit{}, fmt.Errorf("promoting %s from %s: %w", p.Service, shownPlace(source, from), err)
	}
	r.Message = "Promote " + p.Service
	if r.Revision != "" {
		r.Message += " at " + r.Revision[:min(len(r.Revision), 12)]
	}
	r.trailer = "Promoted-from: " + shownPlace(source, from) + "\n"
	return e.Deploy(ctx, r)
}

// shownPlace names an environment without its credentials.
func shownPlace(r remote, e Environment) string {
	text := r.shown
	if e.Branch != "" {
		text += " " + e.Branch
	}
	if e.Path != "" {
		text += " " + e.cleanPath()
	}
	return text
}

// holding is the image that an environment holds, and in which files.
type holding struct {
	image string
	files []string
}

// held finds the one image of a repository that the working copy names.
func (e Environment) held(ctx context.Context, g *gitClone, repository string) (holding, error) {
	root, err := os.OpenRoot(g.dir)
	if err != nil {
		return holding{}, fmt.Errorf("opening the clone: %w", err)
	}
	defer root.Close()
	names, err := e.files(root)
	if err != nil {
		return holding{}, err
	}
	var h holding
	var others []foundImage
	for _, name := range names {
		file, err := fs.ReadFile(root.FS(), name)
		if err != nil {
			return holding{}, fmt.Errorf("reading the clone: %w", err)
		}
		found, other, err := heldIn(ctx, name, file, repository)
		if err != nil {
			return holding{}, err
		}
		others = append(others, other...)
		for _, image := range found {
			if h.image != "" && splitImage(h.image).digest != splitImage(image).digest {
				return holding{}, fmt.Errorf("%s has %s, and %s has %s; bring them to one image first", h.files[0], h.image, name, image)
			}
			h.image = image
			if !slices.Contains(h.files, name) {
				h.files = append(h.files, name)
			}
		}
	}
	switch {
	case h.image == "":
		return holding{}, noImageError(splitImage(repository), others)
	case splitImage(h.image).digest == "":
		return holding{}, fmt.Errorf("%s names %s, which has no digest, so that it may be another image tomorrow; deploy it there by digest first",
			h.files[0], h.image)
	}
	return h, nil
}

// heldIn finds the images of a repository in a file, and those of others.
func heldIn(ctx context.Context, name string, file []byte, repository string) (found []string, others []foundImage, err error) {
	places, err := imagePlaces(name, file)
	var source *sourceError
	if errors.As(err, &source) && source.syntax {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("passing over a file that is not YAML")
		return nil, nil, nil
	}
	for _, p := range places {
		if MatchImage(p.image, repository) {
			found = append(found, withRepository(p.image, repository))
		} else {
			others = append(others, foundImage{p.image, name})
		}
	}
	return found, others, err
}

// withRepository is an image as an environment names it, with the whole name of its repository.
func withRepository(image, repository string) string {
	is, want := splitImage(image), splitImage(repository)
	if is.host != "" {
		want.host, want.path = is.host, is.path
	}
	name := want.repository()
	if is.digest != "" {
		name += "@" + is.digest
	}
	return name
}

// A history is looked at so far back, in commits.
const maxHistory = 1000

// deepen brings the branch's history.
func (g *gitClone) deepen(ctx context.Context) error {
	_, err := g.git(ctx, "fetch", "--quiet", "--depth="+strconv.Itoa(maxHistory), "--no-tags", "origin", "refs/heads/"+g.branch)
	return err
}

// revisionOf returns the source's commit that the commit names which brought an image; empty where none does.
func (e Environment) revisionOf(ctx context.Context, g *gitClone, image string) (string, error) {
	if err := g.deepen(ctx); err != nil {
		return "", err
	}
	const format = "--format=%(trailers:key=Image,valueonly,separator=%x20)%x09%(trailers:key=Revision,valueonly,separator=%x20)"
	out, err := g.git(ctx, "log", format)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		named, revision, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		if named != "" && splitImage(named).digest == splitImage(image).digest && revision != "" {
			return revision, nil
		}
	}
	return "", nil
}

// Return is what Environment.Rollback goes back to.
type Return struct {
	// Service names it in the commit's message.
	Service string
	// Repository is the image's name, "host/owner/name", with or without tag and digest.
	Repository string
	// To is the digest to go back to ("sha256:…"), which the environment has to have held, or a commit of the environment. Default: the
	// image before the one that it holds. Where that was gone back to, it is the one before it was first there, not the one that was left.
	To string
}

// Rollback brings an environment back to an image that it held before, by a new commit that changes the image alone: what others have
// committed since stays. It looks back a thousand commits, and pushes as Deploy does it. That somebody has deployed another image of the
// service while it did so is an error, unless the return says where to.
func (e Environment) Rollback(ctx context.Context, r Return) (Commit, error) {
	remote, err := parseRemote(e.URL)
	if err != nil {
		return Commit{}, fmt.Errorf("rolling back %s: %w", r.Service, err)
	}
	err = e.validate(Release{Service: r.Service})
	if err == nil && strings.HasPrefix(r.To, "-") {
		err = fmt.Errorf("%q is neither a digest nor a commit", r.To)
	}
	var commit Commit
	var left string // the image to go away from
	if err == nil {
		commit, err = e.change(ctx, remote, func(ctx context.Context, g *gitClone) (Commit, error) {
			now, err := e.held(ctx, g, r.Repository)
			if err != nil {
				return Commit{}, err
			}
			// The image before theirs is the one that was to go.
			if r.To == "" && left != "" && splitImage(now.image).digest != splitImage(left).digest {
				return Commit{}, fmt.Errorf("somebody has deployed %s in the meantime; look at it, and roll back again if it is to go", now.image)
			}
			left = now.image
			return e.rollback(ctx, g, r, now)
		})
	}
	if err != nil {
		return Commit{}, fmt.Errorf("rolling back %s in %s: %w", r.Service, remote.shown, err)
	}
	return commit, nil
}

func (e Environment) rollback(ctx context.Context, g *gitClone, r Return, now holding) (Commit, error) {
	if err := g.deepen(ctx); err != nil {
		return Commit{}, err
	}
	before, at, err := e.earlier(ctx, g, r, now)
	if err != nil {
		return Commit{}, err
	}
	wanted, err := parseImage(before)
	if err != nil {
		return Commit{}, err
	}
	message := fmt.Sprintf("Roll back %s\n\nTo what %s held, from %s.\n\nService: %s\nImage: %s\n", r.Service, at[:12], now.image, r.Service, before)
	if revision, err := e.revisionOf(ctx, g, before); err == nil && revision != "" {
		message += "Revision: " + revision + "\n"
	}
	message += returnTrailer + ": " + at + "\n"
	return e.commit(ctx, g, before, wanted, message)
}

// returnTrailer names in a roll-back's message the commit that was gone back to.
const returnTrailer = "Rolled-back-to"

// earlier finds the image to go back to in the history of the files that name it, and the commit that held it.
func (e Environment) earlier(ctx context.Context, g *gitClone, r Return, now holding) (image, commit string, err error) {
	byDigest := strings.HasPrefix(r.To, "sha256:")
	var commits []string
	switch {
	case r.To == "":
		return g.before(ctx, r, now)
	case byDigest:
		commits, err = g.history(ctx, "HEAD", now.files)
	default:
		commit, err = g.git(ctx, "rev-parse", "--quiet", "--verify", r.To+"^{commit}")
		if err != nil {
			return "", "", fmt.Errorf("the last %d commits of %s have no %q; name a digest, or one of its commits", maxHistory, g.branch, r.To)
		}
		commits = []string{commit}
	}
	if err != nil {
		return "", "", err
	}
	for _, commit := range commits {
		images, err := g.imagesAt(ctx, commit, now.files, r.Repository)
		if err != nil {
			return "", "", err
		}
		for _, image := range images {
			if digest := splitImage(image).digest; digest != "" && (digest == r.To || !byDigest) {
				return image, commit, nil
			}
		}
	}
	return "", "", fmt.Errorf("%s held no image of %s by digest there; see `git log` of %s", r.To, r.Repository, strings.Join(now.files, ", "))
}

// before finds the image that was there before the one that is there now, and the newest commit that held it. Where a roll-back has brought
// the one that is there now, it looks on from the commit that was gone back to: what came after that one was to go.
func (g *gitClone) before(ctx context.Context, r Return, now holding) (image, commit string, err error) {
	digest := splitImage(now.image).digest
	is := func(image string) bool { return splitImage(image).digest == digest }
	none := fmt.Errorf("it has held no image but %s, as far as %d commits of %s tell; deploy an earlier commit of the source instead",
		now.image, maxHistory, g.branch)
	for from := "HEAD"; from != ""; {
		commits, err := g.history(ctx, from, now.files)
		if err != nil {
			return "", "", err
		}
		brought := "" // by the oldest commit that holds it with no other in between
		var image, commit string
		for _, commit = range commits {
			images, err := g.imagesAt(ctx, commit, now.files, r.Repository)
			if err != nil {
				return "", "", err
			}
			i := slices.IndexFunc(images, func(image string) bool { return !is(image) && splitImage(image).digest != "" })
			if i >= 0 {
				image = images[i]
				break
			}
			if slices.ContainsFunc(images, is) {
				brought = commit
			}
		}
		if from, err = g.returnedTo(ctx, brought); err != nil {
			return "", "", err
		}
		if from == "" && image != "" {
			return image, commit, nil
		}
		if from != "" {
			none = fmt.Errorf("it has gone back to %s, before which it held no image, as far as %d commits of %s tell; deploy an earlier commit of the source instead",
				now.image, maxHistory, g.branch)
		}
	}
	return "", "", none
}

// returnedTo returns the commit that a roll-back has gone back to; empty where the commit is none.
func (g *gitClone) returnedTo(ctx context.Context, commit string) (string, error) {
	if commit == "" {
		return "", nil
	}
	to, err := g.git(ctx, "log", "-1", "--format=%(trailers:key="+returnTrailer+",valueonly,separator=%x20)", commit)
	if err != nil || to == "" {
		return "", err
	}
	// What is no ancestor has been rewritten since, or is too old.
	if _, err := g.git(ctx, "merge-base", "--is-ancestor", "--end-of-options", to, commit+"^"); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("it has been rolled back to %s, which the last %d commits of %s do not have; name the digest to go back to, or one of its commits",
			to, maxHistory, g.branch)
	}
	return to, nil
}

// history lists the commits that have changed files, the newest first.
func (g *gitClone) history(ctx context.Context, from string, files []string) ([]string, error) {
	out, err := g.git(ctx, append([]string{"log", "--format=%H", from, "--"}, files...)...)
	return strings.Fields(out), err
}

// imagesAt finds the images of a repository in files as they were at a commit.
func (g *gitClone) imagesAt(ctx context.Context, commit string, files []string, repository string) ([]string, error) {
	var images []string
	for _, name := range files {
		found, err := g.heldAt(ctx, commit, name, repository)
		if err != nil {
			return nil, err
		}
		images = append(images, found...)
	}
	return images, nil
}

// heldAt finds the images of a repository in a file as it was at a commit. What could not be read then held none.
func (g *gitClone) heldAt(ctx context.Context, commit, name, repository string) ([]string, error) {
	cmd := g.command(ctx, "cat-file", "blob", commit+":"+name)
	file, err := g.run(ctx, cmd)
	if err != nil {
		return nil, context.Cause(ctx)
	}
	found, _, err := heldIn(ctx, name, file, repository)
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Str("commit", commit).Msg("passing over a file as it was")
		return nil, nil
	}
	return found, nil
}
