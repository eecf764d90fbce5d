// Package imports tests which package may depend on which, and why.
package imports

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	us         = "github.com/grimoire-build/grimoire"
	mage       = "github.com/magefile/mage"
	dockerSDK  = "github.com/docker/docker"
	registries = "github.com/google/go-containerregistry"
	kubernetes = "k8s.io"
)

// leaves are packages of the standard library alone, which every package may use, so that nothing is written twice.
var leaves = []string{us + "/internal/imageref", us + "/internal/redact", us + "/internal/retry", us + "/internal/words"}

// rules say what a package must not depend on, directly or through others, with the reason.
var rules = []struct {
	of     string
	not    map[string]string
	except []string
}{
	{
		of: us + "/targets",
		not: map[string]string{
			dockerSDK:  "a service that only lints and tests must not compile the Docker SDK",
			registries: "a service that only lints and tests must not compile a registry client",
			kubernetes: "a service that only lints and tests must not compile a Kubernetes client",
			"net/http": "the light targets talk to no server, and HTTP is a third of a cold compile",
		},
	},
	{
		of: us + "/targets/image",
		not: map[string]string{
			kubernetes:   "a service that is deployed by somebody else must not compile a Kubernetes client",
			us + "/kube": "images know nothing of clusters",
		},
	},
	{
		of: us + "/targets/deploy",
		not: map[string]string{
			dockerSDK:           "a job that only deploys must not compile the Docker SDK",
			registries:          "the image to deploy comes through internal/imagesource",
			us + "/docker":      "clusters know nothing of how images are made",
			"k8s.io/api":        "every API group would be compiled: minutes, where the dynamic client takes seconds",
			"k8s.io/kubectl":    "kubectl's packages bring every API group",
			"k8s.io/kubernetes": "that is the server",
		},
	},
	{
		of: us + "/docker",
		not: map[string]string{
			mage:             "docker is a library: only targets know mage",
			us + "/targets":  "libraries do not know the targets that call them",
			us + "/kube":     "images know nothing of clusters",
			kubernetes:       "images know nothing of clusters",
			us + "/internal": "docker works on explicit values: no service, no git, no stages",
		},
		except: append([]string{us + "/internal/process"}, leaves...),
	},
	{
		of: us + "/kube",
		not: map[string]string{
			mage:                          "kube is a library: only targets know mage",
			us + "/targets":               "libraries do not know the targets that call them",
			us + "/docker":                "clusters know nothing of how images are made",
			dockerSDK:                     "clusters know nothing of how images are made",
			registries:                    "clusters know nothing of how images are made",
			us + "/internal":              "kube works on explicit values: no service, no stages",
			"k8s.io/api":                  "every API group would be compiled: minutes, where the dynamic client takes seconds",
			"k8s.io/client-go/kubernetes": "it compiles every API group",
			"k8s.io/client-go/discovery":  "it compiles every API group; kinds are resolved with plain GETs",
			"k8s.io/client-go/restmapper": "it compiles every API group; kinds are resolved with plain GETs",
		},
		except: append([]string{us + "/internal/process"}, leaves...),
	},
	{
		of: us + "/internal/settings",
		not: map[string]string{
			mage:                   "only targets, magefiles and magefile.go know mage",
			us + "/targets":        "the fields of targets are written from the table",
			us + "/internal/stage": "stages ask the table what DRY_RUN means",
			"net/http":             "every magefile compiles it, and reading a setting asks nobody",
			"text/template":        "every magefile compiles it, and only the generator writes documents",
			"go/ast":               "every magefile compiles it, and only the generator reads code",
		},
	},
	{
		of: us + "/internal/stage",
		not: map[string]string{
			mage:            "only targets, magefiles and magefile.go know mage",
			us + "/targets": "stages do not know what runs in them",
		},
	},
	{
		of: us + "/internal/timeline",
		not: map[string]string{
			mage:            "only targets, magefiles and magefile.go know mage",
			"net/http":      "a page is written, not served, and the light targets write it",
			"text/template": "it keeps every exported method in the binary, and costs the light targets a CPU second to compile",
		},
	},
	{
		of: us + "/internal/telemetry",
		not: map[string]string{
			mage:                   "only targets, magefiles and magefile.go know mage",
			"net/http":             "every magefile compiles it: what speaks HTTP is a program of its own, built where a collector is named",
			"go.opentelemetry.io":  "the SDK and its exporters cost a cold compile thirty CPU seconds, and bring gRPC",
			us + "/internal/stage": "stages tell it of themselves",
			us + "/targets":        "it does not know what runs",
			"google.golang.org":    "the messages are few, and the exporter encodes them itself",
		},
	},
	{
		of: us + "/internal/telemetry/otlpexport",
		not: map[string]string{
			"github.com":          "it is built where there may be no network, from the standard library alone",
			"go.opentelemetry.io": "it is built where there may be no network, from the standard library alone",
			"golang.org/x":        "it is built where there may be no network, from the standard library alone",
		},
		except: []string{us + "/internal/telemetry/otlp"},
	},
	{
		of:     us + "/internal/process",
		not:    map[string]string{us: "a child process is nobody else's business", mage: "only targets know mage"},
		except: []string{us + "/internal/process"},
	},
}

func TestImports(t *testing.T) {
	for _, rule := range rules {
		t.Run(strings.TrimPrefix(rule.of, us+"/"), func(t *testing.T) {
			deps := dependencies(t, rule.of)
			require.Contains(t, deps, rule.of)
			for forbidden, reason := range rule.not {
				for _, dep := range deps {
					if dep == rule.of || !within(dep, forbidden) || withinAny(dep, append(rule.except, rule.of)) {
						continue
					}
					assert.Fail(t, fmt.Sprintf("%s depends on %s: %s", rule.of, dep, reason))
				}
			}
		})
	}
}

func TestLeaves(t *testing.T) {
	for _, leaf := range leaves {
		for _, dep := range dependencies(t, leaf) {
			first, _, _ := strings.Cut(dep, "/")
			assert.True(t, !strings.Contains(first, ".") || withinAny(dep, leaves),
				"%s depends on %s: libraries and light targets use it, so it costs the standard library alone", leaf, dep)
			assert.NotEqual(t, "net/http", dep, "%s: the light targets talk to no server", leaf)
		}
	}
}

// What the tests stand on is no part of what a service compiles.
func TestNothingThatIsImportedNeedsWhatTestsNeed(t *testing.T) {
	ofTests := []string{"needs", "sandbox", "leaks", "testcluster", "testengine", "testimage", "testpki", "testregistry"}
	for _, of := range []string{us, us + "/targets", us + "/targets/image", us + "/targets/deploy", us + "/docker", us + "/docker/registryserver", us + "/kube"} {
		deps := dependencies(t, of)
		for _, name := range ofTests {
			assert.NotContains(t, deps, us+"/internal/"+name, "of %s", of)
		}
		for _, dep := range deps {
			assert.False(t, strings.HasPrefix(dep, "k8s.io/kubernetes") || strings.HasPrefix(dep, "go.etcd.io/etcd"), "%s depends on %s", of, dep)
		}
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}}", "all").Output()
	require.NoError(t, err)
	assert.NotContains(t, string(out), "k8s.io/kubernetes\n", "the module of the tests' cluster is no requirement of ours")
}

// dependencies lists the packages that are compiled for pkg.
func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", pkg)
	out, err := cmd.Output()
	require.NoError(t, err, "listing the dependencies of %s", pkg)
	return strings.Fields(string(out))
}

// within reports whether a package is root or below it.
func within(pkg, root string) bool {
	return pkg == root || strings.HasPrefix(pkg, root+"/")
}

func withinAny(pkg string, roots []string) bool {
	for _, root := range roots {
		if within(pkg, root) {
			return true
		}
	}
	return false
}
