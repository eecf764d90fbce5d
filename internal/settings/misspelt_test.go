package settings

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMisspelt(t *testing.T) {
	for name, want := range map[string]string{
		"REGISTY_HOST":            "REGISTRY_HOST",
		"REGISTRY_HOSTS":          "REGISTRY_HOST",
		"IMAGE_PLATFROM":          "IMAGE_PLATFORM",
		"IMAGE_PLATFORMS":         "IMAGE_PLATFORM",
		"IMAGEPLATFORM":           "IMAGE_PLATFORM",
		"image_tag":               "IMAGE_TAG",
		"COVERAGE_TRESHOLD":       "COVERAGE_THRESHOLD",
		"DEPLOY_TIMOUT":           "DEPLOY_TIMEOUT",
		"DEPLOY_MANIFEST":         "DEPLOY_MANIFESTS",
		"ENVIRONMENT_REPOSITRY":   "ENVIRONMENT_REPOSITORY",
		"ENVIRONEMENT_REPOSITORY": "ENVIRONMENT_REPOSITORY",
		"ENVIRONMENT_REPO":        "ENVIRONMENT_REPOSITORY",
		"KUBE_NAMESPAC":           "KUBE_NAMESPACE",
		"KUBE_CONFIG_DATA":        "KUBECONFIG_DATA",
		"ALOW_DIRTY":              "ALLOW_DIRTY",
		"DRYRUN":                  "DRY_RUN",
		"DRY_RNU":                 "DRY_RUN",
		"Dry_Run":                 "DRY_RUN",
		"REGISTRY_PASSWORD":       "REGISTRY_PASS",
		"REGISTRY_USERNAME":       "REGISTRY_USER",
		"TEST_RACES":              "TEST_RACE",
	} {
		got := Misspelt([]string{name + "=1", "HOME=/root"}, nil)
		require.Len(t, got, 1, name)
		assert.Equal(t, want, got[0].Meant.Env, name)
		assert.Contains(t, got[0].String(), name+" is set, and is no setting; set "+want+", ")
		assert.Empty(t, Misspelt([]string{name + "=1"}, []string{name}), "it is the service's own")
		assert.Empty(t, Misspelt([]string{name + "="}, nil), "it is not set")
	}
}

// No variable that services, tools and machines have is taken for a setting.
func TestNotMisspelt(t *testing.T) {
	for _, name := range []string{
		"IMAGE_SIZE", "IMAGE_NAME", "IMAGE_URL", "IMAGE_FILE", "IMAGE_TYPE", "IMAGE_PATH", "IMAGE_VERSION",
		"IMAGE_DIGEST",
		"TEST_DATABASE_URL", "TEST_ENV", "TEST_USER", "TEST_CASE", "TEST_MODE", "TEST_PORT", "TEST_TMPDIR",
		"TEST_TARGET", "TEST_WORKSPACE",
		"LOG_LEVEL", "LOG_FORMAT", "LOG_FILE", "LOG_DIR", "LOG_PATH",
		"DEPLOY_ENV", "DEPLOY_KEY", "DEPLOY_TOKEN", "DEPLOY_STAGE", "DEPLOY_TARGET", "DEPLOY_REGION",
		"DEPLOY_HOST", "DEPLOY_USER",
		"REGISTRY_PORT", "REGISTRY_AUTH_FILE", "REGISTRY_STORAGE", "REGISTRY_HTTP_ADDR",
		"ENVIRONMENT", "ENVIRONMENT_NAME", "ENVIRONMENT_URL_PATH", "COVERAGE_FILE", "COVERAGE_PROCESS_START",
		"COVERAGE", "PIPELINE_ID",
		"KUBE_CONFIG", "KUBE_EDITOR", "KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT", "KUBECONFIG", "KUBE_SERVER",
		"HELM_KUBECONTEXT",
		"DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_DEFAULT_PLATFORM", "DOCKER_TAG", "BUILDKIT_PROGRESS", "COMPOSE_FILE",
		"DRY", "RUN", "DRAIN", "CI", "CI_COMMIT_SHA", "CI_REGISTRY", "CI_REGISTRY_USER", "CI_DEPLOY_USER",
		"GITHUB_SHA", "GITEA_ACTIONS",
		"GITHUB_TOKEN", "RUNNER_NAME", "PATH", "HOME", "USER", "SHELL", "LANG", "TERM", "TMPDIR", "PWD",
		"EDITOR", "PORT", "GOFLAGS", "GOPROXY",
		"GOTOOLCHAIN", "CGO_ENABLED", "NAME", "VERSION", "RELEASE", "ROLLBACK", "NAMESPACE", "NODE_ENV",
		"ALLOW_EMPTY", "ALLOW_LIST",
		"OTEL_EXPORTER_OTLP_ENDPOINTS", "SETTINGS_MODULE", "DJANGO_SETTINGS_MODULE", "PROMOTE", "PROMOTE_TO",
	} {
		assert.Empty(t, Misspelt([]string{name + "=1"}, nil), name)
	}
	assert.Empty(t, Misspelt([]string{"REGISTRY=x", "REGISTRY_PASSWORD=x", "REGISTRY_HOST=y", "REGISTRY_PASS=y"}, nil),
		"where the setting is there, its other names are others'")
	for i := range Table {
		assert.Empty(t, Misspelt([]string{Table[i].Env + "=1"}, nil), Table[i].Env)
	}
}

func TestRefusal(t *testing.T) {
	for _, tt := range []struct {
		environ []string
		want    string
	}{
		{[]string{"DRYRUN=1"}, "DRYRUN is set, and is no setting, so this would be no dry run; " +
			"set DRY_RUN=1 for one, DRY_RUN=0 for none, or name DRYRUN"},
		{[]string{"DRY_RUM=yes", "DRY_RUN="}, "DRY_RUM is set"},
		{[]string{"DRYRUN=0"}, ""},
		{[]string{"DRYRUN=false"}, ""},
		{[]string{"DRYRUN="}, ""},
		{[]string{"DRYRUN=1", "DRY_RUN=1"}, ""},
		{[]string{"DRYRUN=1", "DRY_RUN=0"}, ""},
		{[]string{"REGISTY_HOST=x"}, ""},
	} {
		err := Refusal(tt.environ, nil)
		if tt.want == "" {
			assert.NoError(t, err, "%v", tt.environ)
			continue
		}
		assert.ErrorContains(t, err, tt.want, "%v", tt.environ)
	}
	assert.NoError(t, Refusal([]string{"DRYRUN=1"}, []string{"DRYRUN"}))
}

func TestUnknown(t *testing.T) {
	assert.Equal(t, []string{"IMAGE_SIZE", "LOG_LEVEL", "TEST_DATABASE_URL"}, Unknown([]string{
		"TEST_DATABASE_URL=x", "IMAGE_SIZE=1", "IMAGE_TAG=1", "IMAGES=1", "LOG_LEVEL=debug", "DEPLOY_KEY=",
		"IMAGE_OWN=1", "DOCKER_TAG=1", "HOME=x",
	}, []string{"IMAGE_OWN"}))
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1},
		{"abc", "ac", 1}, {"abc", "abxc", 1},
		{"abc", "cab", 2}, {"kitten", "sitting", 3},
	} {
		assert.Equal(t, tt.want, distance(tt.a, tt.b), "%s, %s", tt.a, tt.b)
		assert.Equal(t, tt.want, distance(tt.b, tt.a), "%s, %s", tt.b, tt.a)
	}
}

// Every process of every run looks for misspelt variables.
func BenchmarkMisspelt(b *testing.B) {
	var environ []string
	for i := range 100 {
		environ = append(environ, fmt.Sprintf("%s_%d=x", strings.Repeat("A", i%20), i))
	}
	for b.Loop() {
		Misspelt(environ, nil)
	}
}
