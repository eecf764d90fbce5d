// Package targets holds the targets that every Go service has: lint, vet and test. Image, push and deploy are in packages of
// their own below it, so that a magefile which does not use them does not compile what they need.
//
// A magefile takes the targets by importing the packages:
//
//	import (
//		//mage:import
//		_ "github.com/grimoire-build/grimoire/targets"
//	)
//
// or names them one by one, where it wants another order or a module of its own:
//
//	// Test runs the tests after the checks that are cheaper.
//	func Test(ctx context.Context) error {
//		mg.CtxDeps(ctx, Lint)
//		return targets.Test(ctx)
//	}
package targets

import (
	"sync"
	"time"
)

// Service is what a repository says of itself. The zero value works for an ordinary Go service: everything that a field does
// not say comes from the environment, and what that does not say is derived from the module, git, the Dockerfile and the
// manifests. `mage settings` lists all of it.
type Service struct {
	// Dir is the folder of the service's module. Default: the current folder.
	Dir string
	// Name is the service's name, in image and manifests. Default: the last element of the module path.
	Name string
	// Build is the folder for everything that a run makes, relative to Dir. Default: build.
	Build string
	// AllowPullRequest lets Push and Deploy run for a pull request, whose changes nobody has accepted yet.
	// Environment: ALLOW_PULL_REQUEST. Default: false, and they are skipped.
	AllowPullRequest bool

	// Test says how Test runs.
	Test TestSettings
	// Image says what Image builds, and where Push puts it.
	Image ImageSettings
	// Deploy says what Deploy deploys, and where.
	Deploy DeploySettings
}

// TestSettings says how Test runs.
type TestSettings struct {
	// Packages is the package pattern; several are separated by spaces. Environment: TEST_PACKAGES. Default: ./...
	Packages string
	// Timeout bounds the tests of a package. Environment: TEST_TIMEOUT. Default: 300s.
	Timeout time.Duration
	// Coverage is the least share of statements that the tests have to run, in percent; below zero there is no least.
	// Environment: COVERAGE_THRESHOLD. Default: 70.
	Coverage float64
	// Race is whether the race detector is on: auto (wherever cgo and a C compiler are), on, off.
	// Environment: TEST_RACE. Default: auto.
	Race string
}

// ImageSettings says what Image builds, and where Push puts it.
type ImageSettings struct {
	// Registry is the host, and port, of the registry. Environment: REGISTRY_HOST. No default: Push needs it.
	// The login comes from the environment alone: REGISTRY_USER and REGISTRY_PASS, or Docker's configuration.
	Registry string
	// Repository is the image's name on the registry, "owner/name" for Gitea's; it is put into lower case.
	// Environment: IMAGE_REPOSITORY. Default: the module path without its host.
	Repository string
	// Tag names the image. Environment: IMAGE_TAG. Default: 12 characters of the commit, with "-dirty" where files differ.
	Tag string
	// Builder is what builds the image: engine (a Docker Engine, from the Dockerfile), go (no engine, from the Go
	// packages), or auto (the engine where there is a Dockerfile and an engine answers, else go).
	// Environment: IMAGE_BUILDER. Default: auto.
	Builder string
	// Dockerfile is relative to Dir. Environment: DOCKERFILE. Default: Dockerfile.
	Dockerfile string
	// Main is the package of the program, for the builder go; several are separated by spaces. Environment:
	// IMAGE_MAIN. Default: the main package of the module: ".", "./cmd/NAME", or the only one there is.
	Main string
	// Base is the image to build on, for the builder go. Environment: IMAGE_BASE. Default: an empty one with CA
	// certificates and time zones.
	Base string
	// Platform is what the image runs on; several, for the builder go, are separated by commas and make an index.
	// Environment: IMAGE_PLATFORM. Default: linux/amd64, everywhere, so that a laptop and CI build the same image.
	Platform string
	// CGO compiles with cgo, for the builder go; Base has to have the C library then. Environment: IMAGE_CGO. Default: false.
	CGO bool
	// Target is the stage of the Dockerfile to build. Environment: IMAGE_TARGET. Default: the last one.
	Target string
	// Args are the Dockerfile's arguments, as NAME=VALUE separated by spaces, besides VERSION. They can be read in the
	// image's history, so one that is a secret is refused. Environment: IMAGE_ARGS. Default: none.
	Args string
	// Secrets are variables of the environment, separated by spaces, that `RUN --mount=type=secret,id=NAME` of the
	// Dockerfile sees. They are in no layer and in no log. They need BuildKit. Environment: IMAGE_SECRETS. Default: none.
	Secrets string
	// Network is what the Dockerfile's steps reach: none, host, or a network of the engine, for which the builder before BuildKit
	// builds. Environment: IMAGE_NETWORK. Default: the engine's own.
	Network string
	// Rebuild builds the image, every step of a Dockerfile, also where the registry holds one of this commit or of the same inputs, as
	// a job does that comes by the clock for what base images and downloads have become. It is for the run that pushes alone.
	// Environment: IMAGE_REBUILD. Default: false.
	Rebuild bool
	// Latest is whether the image of the newest commit of the default branch is also tagged latest: on or off.
	// Environment: IMAGE_LATEST. Default: on.
	Latest string
	// CopyTo is where Copy copies the image to, host/owner/name, with :tag unless it is to keep its own.
	// Environment: IMAGE_COPY_TO. No default.
	CopyTo string
	// AllowDirty lets Push and Deploy take an image of files that are in no commit. Environment: ALLOW_DIRTY.
	// Default: false.
	AllowDirty bool
}

// DeploySettings says what Deploy deploys, and where. With Environment set it deploys by commit, else to the cluster.
type DeploySettings struct {
	// Manifests lists files and folders, separated by spaces. Environment: DEPLOY_MANIFESTS. Default: deploy.
	Manifests string
	// Image is the image to deploy, by digest; nothing is built or pushed then. Environment: DEPLOY_IMAGE. Default: the one
	// that Push pushes.
	Image string
	// Context is the kubeconfig's context. Environment: KUBE_CONTEXT. Default: the only one there is.
	// The kubeconfig comes from KUBECONFIG_DATA (base64), KUBECONFIG, ~/.kube/config, or the pod that this runs in.
	Context string
	// Namespace is for objects that name none. Environment: KUBE_NAMESPACE. Default: the context's.
	Namespace string
	// Timeout bounds the wait for the rollout. Environment: DEPLOY_TIMEOUT. Default: 5m.
	Timeout time.Duration
	// Force takes over fields that the manifests set and another manager owns, as after a `kubectl apply`.
	// Environment: DEPLOY_FORCE. Default: false, which is an error that names the fields.
	Force bool
	// Rollback is when a deployment to the cluster is rolled back: "on failure" or "never". Environment: DEPLOY_ROLLBACK.
	// Default: on failure in CI, never elsewhere, where somebody wants to look at what failed.
	Rollback string
	// RollbackTo is what Rollback goes back to: the number of a revision of the cluster; or, with Environment, a digest
	// ("sha256:…") or one of its commits. Environment: ROLLBACK_TO. Default: what was live before.
	RollbackTo string
	// KeepRemoved leaves in the cluster what an earlier deployment applied and the manifests do not name any more.
	// Environment: DEPLOY_KEEP_REMOVED. Default: false, and it is deleted.
	KeepRemoved bool
	// LogLines is how many of the last lines of each container Logs prints. Environment: LOG_LINES. Default: 100.
	LogLines int
	// FollowLogs has Logs go on until Ctrl-C. Environment: LOG_FOLLOW. Default: false.
	FollowLogs bool
	// Environment is the URL of the environment repository, which Deploy writes the image's digest to.
	// Environment: ENVIRONMENT_REPOSITORY. No default: without it, Deploy goes to the cluster.
	Environment string
	// EnvironmentBranch is its branch. Environment: ENVIRONMENT_BRANCH. Default: the repository's own.
	EnvironmentBranch string
	// EnvironmentPath is the service's file or folder in it. Environment: ENVIRONMENT_PATH. Default: all of it.
	EnvironmentPath string
	// Wait is whether a deployment by commit waits until the commit is live in the cluster: auto (where a context or
	// KUBECONFIG_DATA says which cluster), on, off. Environment: DEPLOY_WAIT. Default: auto.
	Wait string
	// PromoteFrom is the environment repository that Promote takes the image from. Environment: PROMOTE_FROM.
	// Default: that of Environment, whose other branch or path it is then.
	PromoteFrom string
	// PromoteFromBranch is its branch. Environment: PROMOTE_FROM_BRANCH. Default: the repository's own.
	PromoteFromBranch string
	// PromoteFromPath is the file or folder in it. Environment: PROMOTE_FROM_PATH. Default: all of it.
	PromoteFromPath string
}

var configured struct {
	mu      sync.Mutex
	service Service
}

// Configure sets what the targets work on. It is called in the magefile's init and stores s, nothing else: what is wrong
// with it is told by the targets that need it, so that `mage -l` always works.
func Configure(s Service) {
	configured.mu.Lock()
	defer configured.mu.Unlock()
	configured.service = s
}

// asConfigured returns what Configure was given.
func asConfigured() Service {
	configured.mu.Lock()
	defer configured.mu.Unlock()
	return configured.service
}
