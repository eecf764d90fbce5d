package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/imagesource"
	"github.com/grimoire-build/grimoire/internal/stage"
	"github.com/grimoire-build/grimoire/kube"
	"github.com/grimoire-build/grimoire/targets"
)

func environment(s targets.Service) kube.Environment {
	return kube.Environment{URL: s.Deploy.Environment, Branch: s.Deploy.EnvironmentBranch, Path: s.Deploy.EnvironmentPath}
}

// byCommit deploys to the environment repository.
func byCommit(ctx context.Context, s targets.Service) error {
	image, err := imagesource.ToDeploy(ctx, s.Deploy.Image)
	if err != nil {
		return err
	}
	revision, err := revisionOf(ctx, s)
	if err != nil {
		return err
	}
	commit, err := environment(s).Deploy(ctx, kube.Release{Service: s.Name, Image: image, Revision: revision})
	if err != nil {
		return err
	}
	return committed(ctx, s, commit, image)
}

// committed tells of a commit to the environment repository, and waits until it is live.
func committed(ctx context.Context, s targets.Service, commit kube.Commit, image string) error {
	log := zerolog.Ctx(ctx)
	if !commit.Changed {
		log.Info().Str("commit", commit.Hash).Msg("the environment repository holds this image already, so nothing is committed")
	} else {
		log.Info().Str("commit", commit.Hash).Strs("files", commit.Files).Msg("committed to the environment repository")
	}
	stage.Made(ctx, commit.Hash)
	stage.Output(ctx, "commit", commit.Hash)
	if waits(s) {
		client, err := connect(ctx, s)
		if err != nil {
			return err
		}
		if err := client.WaitCommit(ctx, environment(s), commit.Hash, image, kube.WaitOptions{Timeout: s.Deploy.Timeout}); err != nil {
			return fmt.Errorf("the commit %s is pushed, and not live: %w", commit.Hash, err)
		}
		log.Info().Str("image", image).Msg("live")
	}
	return stage.Result(image)
}

// waits reports whether a deployment by commit waits for the cluster.
func waits(s targets.Service) bool {
	return s.Deploy.Wait == "on" || s.Deploy.Wait == "auto" && (s.Deploy.Context != "" || os.Getenv("KUBECONFIG_DATA") != "")
}

func planWait(s targets.Service) string {
	if !waits(s) {
		return ""
	}
	return fmt.Sprintf(", and wait %s at most until that is live", s.Deploy.Timeout)
}

// Promote brings the image that one environment holds to the next, by its digest and without building anything: from the repository
// PROMOTE_FROM (ENVIRONMENT_REPOSITORY, another branch or path of it), PROMOTE_FROM_BRANCH and PROMOTE_FROM_PATH, to ENVIRONMENT_REPOSITORY,
// ENVIRONMENT_BRANCH and ENVIRONMENT_PATH. The commit names the service, the image, the source's commit, and where it comes from. Like
// Deploy it waits until that is live, and prints the image on stdout.
//
// Settings: ALLOW_PULL_REQUEST, REGISTRY_HOST, REGISTRY_USER, REGISTRY_PASS, IMAGE_REPOSITORY,
// KUBE_CONTEXT, KUBE_NAMESPACE, KUBECONFIG_DATA, DEPLOY_TIMEOUT (5m), ENVIRONMENT_REPOSITORY,
// ENVIRONMENT_BRANCH, ENVIRONMENT_PATH, DEPLOY_WAIT (auto), PROMOTE_FROM, PROMOTE_FROM_BRANCH,
// PROMOTE_FROM_PATH.
func Promote(ctx context.Context) error {
	return targets.ServiceStage(ctx, "promote",
		func(ctx context.Context, s targets.Service) error {
			if err := canPromote(s); err != nil {
				return err
			}
			from := kube.Environment{URL: s.Deploy.PromoteFrom, Branch: s.Deploy.PromoteFromBranch, Path: s.Deploy.PromoteFromPath}
			commit, err := environment(s).Promote(ctx, from, kube.Promotion{Service: s.Name, Repository: repository(s)})
			if err != nil {
				return err
			}
			return committed(ctx, s, commit, commit.Image)
		},
		func(_ context.Context, s targets.Service) (string, error) {
			return "write the digest that " + stage.Mask(s.Deploy.PromoteFromPath) + " holds into the environment repository, commit and push" + planWait(s), canPromote(s)
		})
}

func canPromote(s targets.Service) error {
	if err := targets.MayPublish(s); err != nil {
		return err
	}
	d := s.Deploy
	switch {
	case d.Environment == "":
		return errors.New("there is no environment to promote to; set ENVIRONMENT_REPOSITORY, and ENVIRONMENT_PATH or ENVIRONMENT_BRANCH")
	case d.PromoteFrom == d.Environment && d.PromoteFromBranch == d.EnvironmentBranch && d.PromoteFromPath == d.EnvironmentPath:
		return errors.New("the environment to promote from is the one to promote to; set PROMOTE_FROM_PATH, PROMOTE_FROM_BRANCH or PROMOTE_FROM")
	}
	return nil
}

// repository is the name of the service's image.
func repository(s targets.Service) string {
	if s.Image.Registry == "" {
		return s.Image.Repository
	}
	return s.Image.Registry + "/" + s.Image.Repository
}

// rollBackByCommit brings the environment repository back to an image that it held before.
func rollBackByCommit(ctx context.Context, s targets.Service) error {
	commit, err := environment(s).Rollback(ctx, kube.Return{Service: s.Name, Repository: repository(s), To: s.Deploy.RollbackTo})
	if err != nil {
		return err
	}
	return committed(ctx, s, commit, commit.Image)
}
