// Package imagesource is where what deploys an image gets it from what makes it, so that neither
// compiles the other.
package imagesource

import (
	"context"
	"errors"
	"sync"
)

var source struct {
	mu       sync.Mutex
	provider func(context.Context) (string, error)
}

// Provide says what makes the image. The provider returns its name by digest, after whatever has to
// run for it.
func Provide(provider func(context.Context) (string, error)) {
	source.mu.Lock()
	defer source.mu.Unlock()
	source.provider = provider
}

// ToDeploy returns the image to deploy, by digest: the one that the settings choose, else what the
// provider makes.
func ToDeploy(ctx context.Context, chosen string) (string, error) {
	if chosen != "" {
		return chosen, nil
	}
	source.mu.Lock()
	provider := source.provider
	source.mu.Unlock()
	if provider == nil {
		return "", errors.New(
			"there is no image to deploy; import the package targets/image in the magefile, " +
				"or set DEPLOY_IMAGE to name@sha256:…",
		)
	}
	return provider(ctx)
}
