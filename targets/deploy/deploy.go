// Package deploy holds the targets Deploy, Diff, Rollback, Promote, Status and Logs. It compiles what talks to a Kubernetes API server, which is why it is apart from
// the light targets.
package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr/funcr"
	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/grimoire-build/grimoire/internal/checkout"
	"github.com/grimoire-build/grimoire/internal/imagesource"
	"github.com/grimoire-build/grimoire/internal/kustomize"
	"github.com/grimoire-build/grimoire/internal/stage"
	"github.com/grimoire-build/grimoire/kube"
	"github.com/grimoire-build/grimoire/targets"
)

// Deploy deploys the image that Push pushed, by digest, and waits until it is known to be good.
//
// With ENVIRONMENT_REPOSITORY set it writes the digest into that git repository, commits and pushes; where KUBE_CONTEXT or
// KUBECONFIG_DATA names the cluster, it then waits until that commit is live there. Else it applies the
// manifests (DEPLOY_MANIFESTS, the folder deploy) to the cluster that KUBECONFIG_DATA, KUBECONFIG or ~/.kube/config names
// (KUBE_CONTEXT chooses among several): what changes is shown first, then applied server-side, and the rollout is waited for
// (DEPLOY_TIMEOUT, 5m). A rollout that cannot succeed ends at once with the reason; DEPLOY_ROLLBACK="on failure", the
// default in CI, then puts back the last good revision. What the manifests do not name any more is deleted. The same image a second
// time changes nothing. The image is printed on stdout; with an environment repository the CI's step gets the output commit. In
// a CI run for a pull request it is skipped unless ALLOW_PULL_REQUEST is true.
//
// Settings: ALLOW_PULL_REQUEST, DEPLOY_MANIFESTS (deploy), DEPLOY_IMAGE, KUBE_CONTEXT,
// KUBE_NAMESPACE, KUBECONFIG_DATA, DEPLOY_TIMEOUT (5m), DEPLOY_FORCE, DEPLOY_ROLLBACK,
// DEPLOY_KEEP_REMOVED, ENVIRONMENT_REPOSITORY, ENVIRONMENT_BRANCH, ENVIRONMENT_PATH, DEPLOY_WAIT
// (auto), and those of push.
func Deploy(ctx context.Context) error {
	return targets.ServiceStage(ctx, "deploy",
		func(ctx context.Context, s targets.Service) error {
			if err := targets.MayPublish(s); err != nil {
				return err
			}
			if s.Deploy.Environment != "" {
				return byCommit(ctx, s)
			}
			return toCluster(ctx, s)
		},
		func(ctx context.Context, s targets.Service) (string, error) {
			if err := targets.MayPublish(s); err != nil {
				return "", err
			}
			if s.Deploy.Environment != "" {
				_, err := imagesource.ToDeploy(ctx, s.Deploy.Image)
				return "write the image's digest into the environment repository, commit and push" + planWait(s), err
			}
			return planCluster(ctx, s)
		})
}

func init() { stage.Known("deploy", "rollback", "promote", "diff", "status", "logs") }

func toCluster(ctx context.Context, s targets.Service) error {
	// What can be wrong here is looked for before anything is built and pushed.
	objects, client, err := prepare(ctx, s)
	if err != nil {
		return err
	}
	image, err := imagesource.ToDeploy(ctx, s.Deploy.Image)
	if err != nil {
		return err
	}
	if _, err := kube.SetImage(objects, image); err != nil {
		return err
	}
	revision, err := revisionOf(ctx, s)
	if err != nil {
		return err
	}
	options := options(s)
	options.Image, options.Commit = image, revision
	options.Planned = func(plan kube.Plan) error { return show(ctx, plan) }
	done, err := client.Deploy(ctx, objects, options)
	if apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return fmt.Errorf("%w: set DEPLOY_FORCE=true", err)
	}
	if err != nil {
		return err
	}
	log := zerolog.Ctx(ctx)
	if len(done.Changes) == 0 && len(done.Removed) == 0 {
		log.Info().Msg("the cluster has all of it already, so nothing is applied")
	}
	live := log.Info().Str("image", image)
	if done.Revision > 0 {
		live.Int("revision", done.Revision)
	}
	if pods := runningPods(ctx, client, objects, image); len(pods) > 0 {
		live.Strs("pods", pods)
	}
	live.Msg("live")
	stage.Made(ctx, image)
	return stage.Result(image)
}

// options are those of the settings.
func options(s targets.Service) kube.DeployOptions {
	return kube.DeployOptions{
		Name: releaseName(s.Name), Force: s.Deploy.Force, Rollback: s.Deploy.Rollback == "on failure", KeepRemoved: s.Deploy.KeepRemoved,
		Timeout: s.Deploy.Timeout,
	}
}

// maxRelease is how long the name of a release may be.
const maxRelease = 40

// releaseName makes a name that Kubernetes takes of the service's. Where it cannot stay as it is, a hash of all of it tells it from that of
// a service whose name becomes the same, since of two services with one release each would delete the other's objects.
func releaseName(service string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(service))
	name = strings.Trim(name, "-")
	if name == service && len(name) <= maxRelease {
		return name
	}
	sum := sha256.Sum256([]byte(service))
	suffix := "-" + hex.EncodeToString(sum[:4])
	name = strings.TrimRight(name[:min(len(name), maxRelease-len(suffix))], "-")
	return strings.TrimPrefix(name+suffix, "-")
}

// runningPods names the pods that run the image. That they cannot be listed is no failure of the deployment.
func runningPods(ctx context.Context, client *kube.Client, objects []*kube.Object, image string) []string {
	observed, err := client.Observe(ctx, objects, image)
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("the pods are not known")
		return nil
	}
	var names []string
	for _, o := range observed {
		for _, pod := range o.Pods {
			runs := slices.ContainsFunc(pod.Containers, func(c kube.Container) bool { return c.Image == image })
			if runs && !pod.Leaving && !pod.Ended && pod.Result.State == kube.Current {
				names = append(names, pod.Name)
			}
		}
	}
	return names
}

// planCluster says what toCluster would do, without a word to the cluster.
func planCluster(ctx context.Context, s targets.Service) (string, error) {
	objects, _, err := prepare(ctx, s)
	if err != nil {
		return "", err
	}
	if _, err := imagesource.ToDeploy(ctx, s.Deploy.Image); err != nil {
		return "", err
	}
	names := make([]string, len(objects))
	for i, object := range objects {
		names[i] = object.String()
	}
	where := "the kubeconfig's only context"
	if s.Deploy.Context != "" {
		where = "the context " + s.Deploy.Context
	}
	return fmt.Sprintf("apply %s to %s, and wait %s for the rollout at most", strings.Join(names, ", "), where, s.Deploy.Timeout), nil
}

// prepare loads the manifests and finds the cluster.
func prepare(ctx context.Context, s targets.Service) ([]*kube.Object, *kube.Client, error) {
	// As a library, kustomize would cost every service an eighth of its cold compile, 8 MB, ten modules, and the Go that it wants.
	objects, err := kube.Loader{Kustomize: kustomize.Build}.Load(ctx, paths(s)...)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("loading the manifests: %w with Service.Deploy.Manifests or DEPLOY_MANIFESTS", err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("loading the manifests: %w", err)
	}
	client, err := connect(ctx, s)
	return objects, client, err
}

// paths are the manifests' files and folders, relative to the service's.
func paths(s targets.Service) []string {
	paths := slices.Clone(s.Deploy.Manifests)
	for i, path := range paths {
		if !filepath.IsAbs(path) {
			paths[i] = filepath.Join(s.Dir, path)
		}
	}
	return paths
}

func connect(ctx context.Context, s targets.Service) (*kube.Client, error) {
	routeLog(ctx)
	config := kube.Config{Context: s.Deploy.Context, Namespace: s.Deploy.Namespace}
	if data := os.Getenv("KUBECONFIG_DATA"); data != "" {
		var err error
		if config.Data, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(data), "")); err != nil {
			// The cause would quote the secret.
			return nil, errors.New("reading KUBECONFIG_DATA: it is not base64; set it to what `base64 -w0 < kubeconfig` prints")
		}
	}
	return kube.Connect(config)
}

var routed sync.Once

// routeLog has Kubernetes' client log where we do, for who looks for more: by itself it writes to stderr, unmasked, for example that it could
// not read on where we have stopped it. What matters of it comes as an error too.
func routeLog(ctx context.Context) {
	routed.Do(func() {
		log := zerolog.Ctx(ctx)
		klog.SetLogger(funcr.New(func(_, text string) { log.Debug().Msg("Kubernetes' client: " + text) }, funcr.Options{}))
	})
}

// revisionOf is the commit that the image was built from, empty where that is not known.
func revisionOf(ctx context.Context, s targets.Service) (string, error) {
	if s.Deploy.Image != "" {
		return "", nil
	}
	tree, err := checkout.Read(ctx, s.Dir)
	if err != nil || tree.Dirty() {
		return "", err
	}
	return tree.Commit, nil
}
