package settings

import (
	"path"
	"strings"

	"golang.org/x/mod/module"
)

// Which targets need what.
var (
	publishing = []string{"push", "copy", "deploy", "rollback", "promote"}
	naming     = []string{"image", "push", "copy", "rollback", "promote"} // they name the image
	building   = []string{"image"}
	cluster    = []string{"deploy", "diff", "status", "logs", "rollback", "promote"} // they may ask the cluster
	manifests  = []string{"deploy", "diff", "status", "logs"}
	moving     = []string{"deploy", "rollback", "promote"} // they may write to the environment repository, and wait
	promoting  = []string{"promote"}
	logging    = []string{"logs"}
)

// Table has a row for each setting. A default of a field that is a truth value is false, and zero
// is no value of a number's own: a field could not tell it from one that says nothing.
var Table = []Setting{
	{
		Field: "Dir", Kind: text,
		Default: ".", Derived: "the current folder",
		Is: "the folder of the service's module",
	},
	{
		Field: "Name", Kind: text,
		Derived: "the last element of the module path", From: "module", Derive: nameOf,
		Is: "the service's name, in image and manifests",
	},
	{
		Field: "Build", Kind: text,
		Default: "build",
		Is:      "the folder for everything that a run makes, relative to Dir",
	},
	{
		Field: "AllowPullRequest", Env: "ALLOW_PULL_REQUEST", Kind: truth,
		Targets: publishing,
		Is:      "whether Push and Deploy run for a pull request, whose changes nobody has accepted yet",
		More:    "If not, they are skipped.",
	},
	{
		Field: "OwnVariables", Kind: variables,
		Is: "variables of the environment that are the service's own, though they are called nearly " +
			"like settings",
		More: "No run warns of them.",
	},

	{
		Field: "Test.Packages", Env: "TEST_PACKAGES", Kind: list,
		Default: "./...",
		Targets: []string{"test"},
		Is:      "the package patterns to test",
	},
	{
		Field: "Test.Timeout", Env: "TEST_TIMEOUT", Kind: duration,
		Default: "5m",
		Targets: []string{"test"}, Common: true,
		Is: "how long the tests of a package may take",
	},
	{
		Field: "Test.Coverage", Env: "COVERAGE_THRESHOLD", Kind: percent,
		Default: "70",
		Targets: []string{"test"}, Common: true,
		Is:   "the least share of statements that the tests have to run, in percent",
		More: "NoCoverage, or 0 in the environment, asks for none.",
	},
	{
		Field: "Test.Race", Env: "TEST_RACE", Kind: oneOf("auto", "on", "off"),
		Default: "auto",
		Targets: []string{"test"},
		Is:      "whether the race detector is on: auto (wherever cgo and a C compiler are), on or off",
	},

	{
		Field: "Image.Registry", Env: "REGISTRY_HOST", Kind: registry.orNone(),
		Targets: naming, Common: true,
		Is:       "the host of the registry, with its port",
		More:     "Push needs it. The login comes from the environment alone, or from Docker's configuration.",
		Mistaken: []string{"REGISTRY", "REGISTRY_URL", "IMAGE_REGISTRY"},
	},
	{
		Env: "REGISTRY_USER", Kind: text,
		Derived: "from Docker's configuration or its credential helpers",
		Targets: naming, Common: true,
		Is:       "the user of the registry",
		Mistaken: []string{"REGISTRY_USERNAME"},
	},
	{
		Env: "REGISTRY_PASS", Kind: text,
		Derived: "from Docker's configuration or its credential helpers",
		Targets: naming, Secret: true, Common: true,
		Is:       "the password or token of that user, which stays in memory",
		Mistaken: []string{"REGISTRY_PASSWORD", "REGISTRY_TOKEN"},
	},
	{
		Field: "Image.Repository", Env: "IMAGE_REPOSITORY", Kind: repository,
		Derived: "the module path without its host", From: "module", Derive: repositoryOf,
		Targets: naming, Common: true,
		Is:       "the image's name on the registry, owner/name on Gitea's",
		More:     "It is put into lower case.",
		Mistaken: []string{"IMAGE_REPO"},
	},
	{
		Field: "Image.Tag", Env: "IMAGE_TAG", Kind: tag,
		Derived: `12 characters of the commit, with "-dirty" where files differ from it`, From: "git",
		Targets: []string{"image", "push", "copy"},
		Is:      "the tag of the image",
	},
	{
		Field: "Image.Builder", Env: "IMAGE_BUILDER", Kind: oneOf("auto", "engine", "go"),
		Default: "auto",
		Targets: building, Common: true,
		Is: "what builds the image: engine (a Docker Engine, from the Dockerfile), go (no engine, from " +
			"the Go packages), or auto (the engine where there is a Dockerfile and an engine answers, " +
			"else go)",
	},
	{
		Field: "Image.Dockerfile", Env: "DOCKERFILE", Kind: text,
		Default: "Dockerfile",
		Targets: building,
		Is:      "the Dockerfile, relative to Dir",
	},
	{
		Field: "Image.Main", Env: "IMAGE_MAIN", Kind: list,
		Derived: `".", "./cmd/NAME", or the only main package there is`, From: "module",
		Targets: building,
		Is:      "the package of the program, or several, for the builder go",
	},
	{
		Field: "Image.Base", Env: "IMAGE_BASE", Kind: text.orNone(),
		Derived: "empty, with CA certificates and time zones",
		Targets: building,
		Is:      "the image to build on, for the builder go",
	},
	{
		Field: "Image.Platform", Env: "IMAGE_PLATFORM", Kind: platforms,
		Default: "linux/amd64",
		Targets: []string{"image", "push"}, Common: true,
		Is: "what the image runs on",
		More: "Several, for the builder go, make an index. The default is the same everywhere, so that a " +
			"laptop and CI build the same image.",
	},
	{
		Field: "Image.CGO", Env: "IMAGE_CGO", Kind: truth,
		Targets: building,
		Is:      "whether cgo is on, for the builder go",
		More:    "Base has to have the C library then.",
	},
	{
		Field: "Image.Target", Env: "IMAGE_TARGET", Kind: text,
		Derived: "the last one",
		Targets: building,
		Is:      "the stage of the Dockerfile to build",
	},
	{
		Field: "Image.Args", Env: "IMAGE_ARGS", Kind: assignments,
		Targets: building, Common: true,
		Is:   "the arguments of the Dockerfile, besides VERSION",
		More: "They can be read in the image's history, so one that is a secret is refused.",
	},
	{
		Field: "Image.Secrets", Env: "IMAGE_SECRETS", Kind: variables,
		Targets: building, Common: true,
		Is:   "variables of the environment that `RUN --mount=type=secret,id=NAME` of the Dockerfile sees",
		More: "They are in no layer and in no log. They need BuildKit.",
	},
	{
		Field: "Image.Network", Env: "IMAGE_NETWORK", Kind: text,
		Derived: "the engine's own",
		Targets: building,
		Is:      "what the steps of the Dockerfile reach: none, host, or a network of the engine",
		More:    "With a network of the engine's own, the builder before BuildKit builds.",
	},
	{
		Field: "Image.Rebuild", Env: "IMAGE_REBUILD", Kind: truth,
		Targets: []string{"image", "push"}, Common: true,
		Is: "whether the image is built, every step of a Dockerfile, also where the registry holds one " +
			"of this commit or of the same inputs",
		More: "A job that runs by the clock does so, for what base images and downloads have become. It " +
			"is for the run that pushes alone.",
	},
	{
		Field: "Image.Latest", Env: "IMAGE_LATEST", Kind: oneOf("on", "off"),
		Default: "on",
		Targets: []string{"push"},
		Is: "whether the image of the newest commit of the default branch is also tagged latest: on or " +
			"off",
	},
	{
		Field: "Image.CopyTo", Env: "IMAGE_COPY_TO", Kind: text,
		Targets: []string{"copy"},
		Is:      "where Copy copies the image to: host/owner/name, with :tag unless it keeps its own",
	},
	{
		Field: "Image.AllowDirty", Env: "ALLOW_DIRTY", Kind: truth,
		Targets: []string{"push", "copy"}, Common: true,
		Is: "whether Push and Deploy take an image of files that are in no commit",
	},

	{
		Field: "Deploy.Manifests", Env: "DEPLOY_MANIFESTS", Kind: list,
		Default: "deploy",
		Targets: manifests, Common: true,
		Is: "the files and folders of the manifests, relative to Dir",
	},
	{
		Field: "Deploy.Image", Env: "DEPLOY_IMAGE", Kind: digested,
		Derived: "the one that Push pushes",
		Targets: []string{"deploy", "diff"}, Common: true,
		Is:   "the image to deploy, by digest",
		More: "Nothing is built or pushed then.",
	},
	{
		Field: "Deploy.Context", Env: "KUBE_CONTEXT", Kind: text,
		Derived: "the only one there is", From: "kubeconfig",
		Targets: cluster, Common: true,
		Is: "the context of the kubeconfig, which is the cluster",
	},
	{
		Field: "Deploy.Namespace", Env: "KUBE_NAMESPACE", Kind: text,
		Derived: "that of the context", From: "kubeconfig",
		Targets: cluster, Common: true,
		Is: "the namespace of objects that name none",
	},
	{
		Env: "KUBECONFIG_DATA", Kind: encoded,
		Derived: "the files of KUBECONFIG",
		Targets: cluster, Secret: true, Common: true,
		Is: "a kubeconfig in base64, which stays in memory",
	},
	{
		Env: "KUBECONFIG", Kind: text,
		Derived: "~/.kube/config, or the pod that this runs in",
		Targets: cluster, Owner: "Kubernetes",
		Is: "the files of the kubeconfig",
	},
	{
		Field: "Deploy.Timeout", Env: "DEPLOY_TIMEOUT", Kind: duration,
		Default: "5m",
		Targets: moving, Common: true,
		Is: "how long hooks, the rollout, and a rollback may take, each",
	},
	{
		Field: "Deploy.Force", Env: "DEPLOY_FORCE", Kind: truth,
		Targets: []string{"deploy", "diff"}, Common: true,
		Is: "whether fields are taken over that the manifests set and another manager owns, as after a " +
			"`kubectl apply`",
		More: "If not, that is an error which names the fields.",
	},
	{
		Field: "Deploy.Rollback", Env: "DEPLOY_ROLLBACK", Kind: oneOf("on failure", "never"),
		Derived: "on failure in CI; never elsewhere, where somebody wants to look at what failed", From: "CI",
		Derive:  rollbackOf,
		Targets: []string{"deploy"}, Common: true,
		Is: `when a deployment to the cluster is rolled back: "on failure" or never`,
	},
	{
		Field: "Deploy.RollbackTo", Env: "ROLLBACK_TO", Kind: text,
		Derived: "what was live before",
		Targets: []string{"rollback"}, Common: true,
		Is: "what Rollback goes back to: the number of a revision of the cluster; or, with " +
			`Environment, a digest ("sha256:…") or one of its commits`,
	},
	{
		Field: "Deploy.KeepRemoved", Env: "DEPLOY_KEEP_REMOVED", Kind: truth,
		Targets: []string{"deploy", "diff", "rollback"},
		Is: "whether what an earlier deployment applied, and the manifests do not name any more, stays " +
			"in the cluster",
		More: "If not, it is deleted.",
	},
	{
		Field: "Deploy.LogLines", Env: "LOG_LINES", Kind: count,
		Default: "100",
		Targets: logging,
		Is:      "how many of the last lines of each container Logs prints",
	},
	{
		Field: "Deploy.FollowLogs", Env: "LOG_FOLLOW", Kind: truth,
		Targets: logging,
		Is:      "whether Logs goes on until Ctrl-C",
	},
	{
		Field: "Deploy.Environment", Env: "ENVIRONMENT_REPOSITORY", Kind: remote.orNone(),
		Targets: moving, Common: true,
		Is:       "the URL of the environment repository, which Deploy writes the image's digest to",
		More:     "Without it, Deploy goes to the cluster.",
		Mistaken: []string{"ENVIRONMENT_REPO", "ENVIRONMENT_URL"},
	},
	{
		Field: "Deploy.EnvironmentBranch", Env: "ENVIRONMENT_BRANCH", Kind: text,
		Derived: "the repository's own", From: "environment repository",
		Targets: moving,
		Is:      "the branch of the environment repository",
	},
	{
		Field: "Deploy.EnvironmentPath", Env: "ENVIRONMENT_PATH", Kind: text,
		Derived: "all of it", From: "environment repository",
		Targets: moving,
		Is:      "the service's file or folder in the environment repository",
	},
	{
		Field: "Deploy.Wait", Env: "DEPLOY_WAIT", Kind: oneOf("auto", "on", "off"),
		Default: "auto",
		Targets: moving,
		Is: "whether a deployment by commit waits until the commit is live in the cluster: auto (where " +
			"a context or KUBECONFIG_DATA says which cluster), on or off",
	},
	{
		Field: "Deploy.PromoteFrom", Env: "PROMOTE_FROM", Kind: remote,
		Derived: "that of Environment, another branch or path of it", Like: "Deploy.Environment",
		Targets: promoting, Common: true,
		Is: "the environment repository that Promote takes the image from",
	},
	{
		Field: "Deploy.PromoteFromBranch", Env: "PROMOTE_FROM_BRANCH", Kind: text,
		Derived: "the repository's own", From: "environment repository",
		Targets: promoting,
		Is:      "the branch that Promote takes the image from",
	},
	{
		Field: "Deploy.PromoteFromPath", Env: "PROMOTE_FROM_PATH", Kind: text,
		Derived: "all of it", From: "environment repository",
		Targets: promoting,
		Is:      "the file or folder that Promote takes the image from",
	},

	{
		Env: "DRY_RUN", Kind: dryRun,
		Common: true,
		Is:     "whether stages say what they would do, and do nothing",
		More:   "Whatever does not clearly say no is a yes.",
	},
	{
		Env: "PIPELINE_TABLE", Kind: oneOf("on", "off"),
		Default: "on",
		Is:      "whether a run ends with a table of its stages",
	},
	{
		Env: "SETTINGS_FORMAT", Kind: oneOf("text", "json"),
		Default: "text",
		Targets: []string{"settings"},
		Is:      "how `mage settings` writes its list: text or json",
	},
	{
		Env: "SETTINGS_TARGET", Kind: oneOf(names...).named("target"),
		Derived: "all targets",
		Targets: []string{"settings"},
		Is:      "the target whose settings `mage settings` lists",
	},

	{
		Env: "CI", Kind: text,
		Owner: "CI systems",
		Is:    "whether the run is in CI, where nobody sits in front of it",
		More:  "Any value but false and 0 says so. The log is JSON then.",
	},
	{
		Env: "NO_COLOR", Kind: text,
		Owner: "terminals",
		Is:    "whether the output has no colours, whatever the value",
	},
	{
		Env: "TERM", Kind: text,
		Owner: "terminals",
		Is:    "the kind of the terminal",
		More:  "On a dumb one nothing is redrawn.",
	},
	{
		Env: "MAGEFILE_VERBOSE", Kind: text,
		Owner: "mage",
		Is:    "whether details are logged, as by `mage -v`",
	},
	{
		Env: "DOCKER_HOST", Kind: server,
		Derived: "what Docker's own command would use",
		Targets: building, Owner: "Docker",
		Is: "the address of the Docker Engine",
	},
	{
		Env: "DOCKER_CONTEXT", Kind: text,
		Derived: "the one of Docker's configuration",
		Targets: building, Owner: "Docker",
		Is: "the context of Docker's command that names the engine",
	},
	{
		Env: "DOCKER_CONFIG", Kind: text,
		Derived: "~/.docker",
		Targets: naming, Owner: "Docker",
		Is: "the folder of Docker's configuration, which has logins and contexts",
	},
	{
		Env: "DOCKER_BUILDKIT", Kind: text,
		Derived: "what the engine builds with by itself",
		Targets: building, Owner: "Docker",
		Is: "whether BuildKit builds (1), or the builder before it (0)",
	},
	{
		Env: "DOCKER_TLS_VERIFY", Kind: text,
		Targets: building, Owner: "Docker",
		Is: "whether the certificate of the engine is checked",
	},
	{
		Env: "DOCKER_CERT_PATH", Kind: text,
		Targets: building, Owner: "Docker",
		Is: "the folder of the certificates for the engine",
	},
	{
		Env: "DOCKER_API_VERSION", Kind: text,
		Derived: "the newest that both sides know",
		Targets: building, Owner: "Docker",
		Is: "the version of the engine's API",
	},
	{
		Env: "GIT_SSH_COMMAND", Kind: text,
		Targets: append([]string{"push"}, moving...), Owner: "git",
		Is: "the command by which git calls ssh",
	},
	{
		Env: "GIT_SSH", Kind: text,
		Targets: append([]string{"push"}, moving...), Owner: "git",
		Is: "the program by which git calls ssh",
	},
	{
		Env: "GIT_AUTHOR_NAME", Kind: text,
		Derived: "git's own, else grimoire",
		Targets: moving, Owner: "git",
		Is:       "the author of commits to the environment repository",
		Variants: []string{"GIT_AUTHOR_EMAIL"},
	},
	{
		Env: "GIT_COMMITTER_NAME", Kind: text,
		Derived: "the author",
		Targets: moving, Owner: "git",
		Is:       "the committer of commits to the environment repository",
		Variants: []string{"GIT_COMMITTER_EMAIL"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_ENDPOINT", Kind: server,
		Owner:    "OpenTelemetry",
		Is:       "the collector that the run is exported to, as a trace and metrics, over OTLP/HTTP",
		Variants: []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_PROTOCOL", Kind: text,
		Default:  "http/protobuf",
		Owner:    "OpenTelemetry",
		Is:       "how the collector is spoken to: http/protobuf or http/json",
		Variants: []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_HEADERS", Kind: text,
		Secret: true, Owner: "OpenTelemetry",
		Is:       "headers for the collector, such as its login: name=value,other=value",
		Variants: []string{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_TIMEOUT", Kind: text,
		Default:  "10000",
		Owner:    "OpenTelemetry",
		Is:       "how long the collector may take to answer, in milliseconds",
		Variants: []string{"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_COMPRESSION", Kind: text,
		Owner:    "OpenTelemetry",
		Is:       "how what is sent is compressed: gzip or none",
		Variants: []string{"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_CERTIFICATE", Kind: text,
		Derived:  "those of the machine",
		Owner:    "OpenTelemetry",
		Is:       "the file of the certificates that the collector may have",
		Variants: []string{"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", Kind: text,
		Owner: "OpenTelemetry",
		Is:    "the file of the certificate to show to the collector",
		Variants: []string{
			"OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
			"OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
		},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_CLIENT_KEY", Kind: text,
		Owner:    "OpenTelemetry",
		Is:       "the file of that certificate's key",
		Variants: []string{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY"},
	},
	{
		Env: "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", Kind: text,
		Default: "cumulative",
		Owner:   "OpenTelemetry",
		Is:      "whether metrics are cumulative or delta",
	},
	{
		Env: "OTEL_TRACES_EXPORTER", Kind: text,
		Default:  "otlp",
		Owner:    "OpenTelemetry",
		Is:       "whether the trace is exported: otlp or none",
		Variants: []string{"OTEL_METRICS_EXPORTER"},
	},
	{
		Env: "OTEL_SDK_DISABLED", Kind: text,
		Owner: "OpenTelemetry",
		Is:    "whether nothing is exported: true",
	},
	{
		Env: "OTEL_SERVICE_NAME", Kind: text,
		Derived: "the service's name",
		Owner:   "OpenTelemetry",
		Is:      "the name of the service in the trace",
	},
	{
		Env: "OTEL_RESOURCE_ATTRIBUTES", Kind: text,
		Owner: "OpenTelemetry",
		Is:    "more that the trace says of the run: name=value,other=value",
	},
	{
		Env: "TRACEPARENT", Kind: text,
		Derived:  "one for all jobs of a forge's run, else a new one",
		Owner:    "W3C Trace Context",
		Is:       "the trace that the run is part of",
		Variants: []string{"TRACESTATE"},
	},
}

// nameOf is the last element of a module path that is no major version.
func nameOf(f Facts) (name, from string) {
	prefix, _, ok := module.SplitPathVersion(f.Module)
	if !ok {
		prefix = f.Module
	}
	return strings.ToLower(path.Base(prefix)), "module"
}

// repositoryOf is a module path without its host and major version.
func repositoryOf(f Facts) (repository, from string) {
	prefix, _, ok := module.SplitPathVersion(f.Module)
	if !ok {
		prefix = f.Module
	}
	if host, rest, ok := strings.Cut(prefix, "/"); ok && strings.Contains(host, ".") {
		prefix = rest
	}
	return strings.ToLower(prefix), "module"
}

func rollbackOf(f Facts) (when, from string) {
	if f.CI {
		return "on failure", "CI"
	}
	return "never", FromDefault
}
