// Package scripts tests what a user sees: each script in testdata is their repository, the commands that they type in it,
// and what comes of that.
package scripts

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/magefile/mage/mage"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testcluster"
)

var update = flag.Bool("update", false, "write what the scripts print into their expectations")

// magefile is the magefile of a service that takes every target as it is. It is compiled once, as `mage -compile` does, and
// is the command grimoire of the scripts.
const magefile = `//go:build mage

package main

import (
	//mage:import
	_ "github.com/grimoire-build/grimoire/targets"
	//mage:import
	_ "github.com/grimoire-build/grimoire/targets/deploy"
	//mage:import
	_ "github.com/grimoire-build/grimoire/targets/image"
)
`

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"mage": func() { os.Exit(mage.Main()) },
	})
}

func TestScripts(t *testing.T) { testscript.Run(t, parameters(t, "testdata")) }

// Scripts for a real cluster: each has a namespace, and the image of a service that does as its environment says.
func TestScriptsOnTheCluster(t *testing.T) {
	kubeconfig, kubectl, image := needs.Cluster(t), needs.Kubectl(t), needs.App(t)
	p := parameters(t, filepath.Join("testdata", "cluster"))
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		namespace := fmt.Sprintf("scripts-%08x", rand.Uint32())
		run := func(args ...string) error {
			out, err := exec.Command(kubectl, append([]string{"kubectl", "--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
		e.Defer(func() {
			if err := run("delete", "namespace", namespace, "--wait=false"); err != nil {
				t.Error(err)
			}
		})
		for name, value := range map[string]string{
			"KUBECONFIG": kubeconfig, "KUBE_CONTEXT": testcluster.ContextName, "KUBE_NAMESPACE": namespace, "DEPLOY_IMAGE": image,
		} {
			e.Setenv(name, value)
		}
		return run("create", "namespace", namespace)
	}
	testscript.Run(t, p)
}

// Scripts for a real Docker Engine.
func TestScriptsWithAnEngine(t *testing.T) {
	host, _ := needs.Engine(t)
	p := parameters(t, filepath.Join("testdata", "engine"))
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		err := setup(e)
		e.Setenv("DOCKER_HOST", host)
		return err
	}
	testscript.Run(t, p)
}

// parameters are those of the scripts in a folder.
func parameters(t *testing.T, dir string) testscript.Params {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	compile(t, root, filepath.Join(bin, "grimoire"))
	keep := goEnv(t, "GOCACHE", "GOMODCACHE", "GOPROXY", "GONOSUMDB", "GOSUMDB", "GOFLAGS", "GONOPROXY", "GOPRIVATE", "GOINSECURE")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}

	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, keep...)
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("ROOT", root)
			e.Setenv("MAGEFILE_CACHE", filepath.Join(e.WorkDir, ".magefile"))
			e.Setenv("XDG_CACHE_HOME", cache) // the pinned tools are built once, not once a script
			e.Setenv("DOCKER_HOST", "unix://"+filepath.Join(e.WorkDir, "no-engine.sock"))
			e.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(e.WorkDir))
			e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				e.Setenv("GIT_"+who+"_NAME", "somebody")
				e.Setenv("GIT_"+who+"_EMAIL", "somebody@example.org")
				e.Setenv("GIT_"+who+"_DATE", "1700000000 +0000")
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"registry": serveRegistry,
			"commit":   commit,
		},
	}
}

// compile compiles the magefile of a service with default settings.
func compile(t *testing.T, root, exe string) {
	t.Helper()
	// Inside the module, so that its go.mod says what everything is.
	dir, err := os.MkdirTemp(".", "_magefile-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "magefile.go"), []byte(magefile), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := mage.ParseAndRun(&out, &out, strings.NewReader(""), []string{"-d", dir, "-compile", exe}); code != 0 {
		t.Fatalf("compiling the magefile: exit code %d\n%s", code, out.String())
	}
}

func goEnv(t *testing.T, names ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	values := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	env := make([]string, len(names))
	for i, name := range names {
		env[i] = name + "=" + values[i]
	}
	return env
}

// commit makes the script's folder a repository with one more commit of everything in it.
func commit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: commit")
	}
	ts.Check(ts.Exec("git", "init", "-q", "-b", "main"))
	ts.Check(ts.Exec("git", "add", "."))
	ts.Check(ts.Exec("git", "commit", "-q", "-m", "a commit"))
}

// serveRegistry serves a registry on loopback until the script ends, and sets REGISTRY_HOST to it.
//
//	registry            one that takes everything
//	registry login      one that wants the login user, secret
//	registry broken     one that answers 500
//	registry gone       the address of one that is not there
func serveRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: registry [login|broken|gone]")
	}
	kind := strings.Join(args, "")
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	switch kind {
	case "":
	case "login":
		inner := handler
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, pass, _ := r.BasicAuth(); user != "user" || pass != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
				return
			}
			inner.ServeHTTP(w, r)
		})
	case "broken":
		handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	case "gone":
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv("REGISTRY_HOST", listener.Addr().String())
		ts.Check(listener.Close())
		return
	default:
		ts.Fatalf("unknown registry %q", kind)
	}
	server := httptest.NewServer(handler)
	ts.Defer(server.Close)
	ts.Setenv("REGISTRY_HOST", server.Listener.Addr().String())
}
