package kube

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// tipTime is how often the environment's newest commit is looked at during a wait, about.
const tipTime = 8 * time.Second

// overtakenError says that a later commit has brought another image, so that the one that is waited for may never be live.
type overtakenError struct{ commit, by, image string }

// Error names the commit that decides now.
func (e *overtakenError) Error() string {
	return fmt.Sprintf("%s is superseded: the commit %s has brought %s, and what is live is up to that one", short12(e.commit), short12(e.by), e.image)
}

// guard returns a context that ends with an overtakenError once the environment holds another image, and what ends the looking.
func (l *lineage) guard(ctx context.Context, image string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		for sleep(ctx, tipTime) {
			by, err := l.overtaken(ctx, image)
			if err != nil {
				zerolog.Ctx(ctx).Debug().Err(err).Msg("whether a later commit has brought another image is not known")
			}
			if by != nil {
				cancel(by)
				return
			}
		}
	})
	return ctx, func() {
		cancel(context.Canceled)
		looking.Wait()
	}
}

// overtaken looks whether the environment's newest commit holds another image than the commit has brought; nil where it does not, and where
// it names none or several.
func (l *lineage) overtaken(ctx context.Context, image string) (*overtakenError, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tip, err := l.tip(ctx)
	if err != nil || tip == l.commit || tip == l.seen {
		return nil, err
	}
	if err := l.fetch(ctx); err != nil {
		return nil, err
	}
	if err := l.clone.reset(ctx); err != nil {
		return nil, err
	}
	if tip, err = l.clone.head(ctx); err != nil { // it may have moved on
		return nil, err
	}
	// A server may answer with what was there before the commit.
	if _, err := l.clone.git(ctx, "merge-base", "--is-ancestor", l.commit, tip); err != nil {
		return nil, err
	}
	now, err := l.environment.held(ctx, l.clone, image)
	if err != nil || splitImage(now.image).digest == splitImage(image).digest {
		l.seen = tip
		return nil, err
	}
	by, err := l.broughtBy(ctx, now)
	return &overtakenError{commit: l.commit, by: by, image: now.image}, err
}

// tip returns the newest commit of the environment's branch.
func (l *lineage) tip(ctx context.Context) (string, error) {
	g := &gitClone{remote: l.remote}
	g.env = g.environment(ctx)
	ref := "HEAD"
	if l.environment.Branch != "" {
		ref = "refs/heads/" + l.environment.Branch
	}
	out, err := g.git(ctx, "ls-remote", "--", l.remote.url, ref)
	tip, _, _ := strings.Cut(out, "\t")
	return tip, err
}

// broughtBy returns the commit after ours that brought the image that is there now: the oldest that holds it without another one in
// between.
func (l *lineage) broughtBy(ctx context.Context, now holding) (string, error) {
	out, err := l.clone.git(ctx, append([]string{"log", "--format=%H", l.commit + "..HEAD", "--"}, now.files...)...)
	if err != nil {
		return "", err
	}
	by := ""
	for _, commit := range strings.Fields(out) {
		found, err := l.clone.heldAt(ctx, commit, now.files[0], now.image)
		if err != nil {
			return "", err
		}
		if len(found) == 0 || splitImage(found[0]).digest != splitImage(now.image).digest {
			break
		}
		by = commit
	}
	return by, nil
}
