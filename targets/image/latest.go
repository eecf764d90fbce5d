package image

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/docker"
	"github.com/grimoire-build/grimoire/internal/checkout"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// latest is the tag of the newest commit's image.
const latest = "latest"

// moveLatest points the tag latest to the image of the commit, unless it is on a newer one. A job that finishes late does not move it
// back: what the remote repository says of the branch counts first, then the history that is here, then the commits' times.
func (p *plan) moveLatest(ctx context.Context, digest string) error {
	log := zerolog.Ctx(ctx)
	branch, why := p.latestBranch(ctx)
	if why != "" {
		log.Debug().Str("reason", why).Msg("the tag latest stays where it is")
		return nil
	}
	tip := p.tip(ctx, branch)
	if newer := p.newerPublished(ctx, tip); newer != "" {
		log.Info().Str("newer", newer).Msg("a newer commit has an image already, so the tag latest is left to it")
		return nil
	}
	behind, err := p.behind(ctx, withTag(p.reference, latest))
	if err == nil && behind == "" {
		behind, err = p.newerOnLatest(ctx, branch, tip)
	}
	if err != nil {
		return err
	}
	if behind != "" {
		log.Info().Str("newer", behind).Msg("the tag latest is on a newer commit, and stays there")
		return nil
	}
	if err := p.registry.Tag(ctx, digest, latest); err != nil {
		return err
	}
	log.Info().Str("reference", withTag(p.reference, latest)).Msg("tagged")
	// Whoever has pushed a newer commit between the question and the answer has looked at latest before it was moved here.
	if newer := p.newerPublished(ctx, p.tip(ctx, branch)); newer != "" {
		log.Info().Str("newer", newer).Msg("a newer commit has got an image meanwhile, so the tag latest goes on to it")
		return p.registry.Tag(ctx, withTag(p.reference, newer), latest)
	}
	return nil
}

// latestBranch is the default branch where this run is for it; else why it is not.
func (p *plan) latestBranch(ctx context.Context) (branch, why string) {
	forge := stage.CurrentForge()
	switch {
	case p.Image.Latest == "off":
		return "", "IMAGE_LATEST is off"
	case !p.committed():
		return "", "the image is of no commit, or has a tag of its own"
	}
	branch, main := p.tree.Branch, p.tree.DefaultBranch(ctx)
	if forge.Name != "" {
		branch, main = forge.Branch, cmp.Or(forge.DefaultBranch, main)
	}
	switch {
	case main == "":
		return "", "the default branch is not known"
	case branch != main:
		return "", "this is not the default branch " + main
	}
	return branch, ""
}

// tip is the commit that the branch is at in the remote repository; empty where that is not known.
func (p *plan) tip(ctx context.Context, branch string) string {
	tip, err := p.tree.Tip(ctx, branch)
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("the remote repository was not asked for newer commits")
	}
	return tip
}

// newerPublished returns the tag of the commit that the branch is at in the remote repository, where that is another one and has an image.
func (p *plan) newerPublished(ctx context.Context, tip string) string {
	if tip == "" {
		return ""
	}
	// A commit that has not been pushed yet is newer than the branch there.
	if order, err := p.tree.Compare(ctx, tip, p.tree.Commit); err != nil || order == checkout.Same || order == checkout.Before {
		return ""
	}
	newer := checkout.Checkout{Commit: tip}.Tag()
	if there, err := p.registry.Exists(ctx, withTag(p.reference, newer)); err != nil || !there {
		return ""
	}
	return newer
}

// mostAsked is how many commits the registry is asked for.
const mostAsked = 50

// newerOnLatest returns the tag of a newer commit whose image the tag latest is on. The image itself tells the first commit that it was
// built for; one that takes another back has the image of an older one.
func (p *plan) newerOnLatest(ctx context.Context, branch, tip string) (string, error) {
	commits, err := p.tree.Since(ctx, p.tree.Commit, branch, tip, mostAsked)
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("git was not asked for newer commits")
	}
	if len(commits) == 0 {
		return "", nil
	}
	on, err := p.registry.Digest(ctx, withTag(p.reference, latest))
	if errors.Is(err, docker.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, commit := range commits {
		tag := checkout.Checkout{Commit: commit}.Tag()
		digest, err := p.registry.Digest(ctx, withTag(p.reference, tag))
		switch {
		case err == nil && digest == on:
			return tag, nil
		case err != nil && !errors.Is(err, docker.ErrNotFound):
			return "", err
		}
	}
	return "", nil
}

// behind returns the commit of the image that a tag names, where this run's commit is older.
func (p *plan) behind(ctx context.Context, reference string) (string, error) {
	config, err := p.registry.Config(ctx, reference)
	switch {
	case errors.Is(err, docker.ErrNotFound):
		return "", nil
	case errors.Is(err, docker.ErrNoImage):
		zerolog.Ctx(ctx).Info().Err(err).Msg("the tag latest is on something else than an image of ours, and moves")
		return "", nil
	case err != nil:
		return "", err
	}
	labels := config.Config.Labels
	revision := labels["org.opencontainers.image.revision"]
	if revision == "" {
		return "", nil // it is not one of ours
	}
	order, err := p.tree.Compare(ctx, p.tree.Commit, revision)
	if err != nil {
		return "", err
	}
	switch order {
	case checkout.Before:
		return revision, nil
	case checkout.Same, checkout.After:
		return "", nil
	}
	created, err := time.Parse(time.RFC3339, labels["org.opencontainers.image.created"])
	if err == nil && p.tree.Time.Before(created) {
		return revision, nil
	}
	return "", nil
}
