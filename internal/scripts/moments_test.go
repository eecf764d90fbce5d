//go:build linux

package scripts

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/cover"

	"github.com/grimoire-build/grimoire/docker"
	"github.com/grimoire-build/grimoire/docker/registryserver"
	"github.com/grimoire-build/grimoire/internal/report"
)

var moments = flag.Int("moments", 10, "at how many random moments TestSignalsAtRandomMoments ends a pipeline")

// shopMagefile takes every target as it is.
const shopMagefile = `//go:build mage

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

// shop is a service with its registry and its environment repository, all on this machine.
type shop struct {
	dir     string
	mage    string
	env     []string
	mark    string // an entry of the environment of all its processes
	commits int
}

// TestSignalsAtRandomMoments ends a whole pipeline at moments that nobody has chosen, in every way there is. Nothing may go on
// for long, nothing may look well that is not, and what is there has to be whole.
func TestSignalsAtRandomMoments(t *testing.T) {
	s := newShop(t)
	s.commit(t)
	cmd, out := s.start(t) // compiles
	require.NoError(t, cmd.Wait(), "%s", out)
	s.commit(t)
	start := time.Now()
	cmd, out = s.start(t)
	require.NoError(t, cmd.Wait(), "%s", out)
	whole := time.Since(start)
	s.check(t)
	t.Logf("a whole pipeline takes %s", whole)

	ways := []struct {
		name   string
		signal func(mage int) error
		killed bool // mage itself dies of the signal
	}{
		{"Ctrl-C", func(mage int) error { return syscall.Kill(-mage, syscall.SIGINT) }, true},
		{"SIGTERM to the group", func(mage int) error { return syscall.Kill(-mage, syscall.SIGTERM) }, true},
		{"SIGTERM to mage", func(mage int) error { return syscall.Kill(mage, syscall.SIGTERM) }, true},
		{"SIGKILL to mage", func(mage int) error { return syscall.Kill(mage, syscall.SIGKILL) }, true},
		{"SIGTERM to the magefile", func(mage int) error { return toMagefile(t, mage, syscall.SIGTERM) }, false},
		{"SIGINT to the magefile", func(mage int) error { return toMagefile(t, mage, syscall.SIGINT) }, false},
	}
	finished := 0
	for i := range *moments {
		way := ways[i%len(ways)]
		moment := rand.N(whole)
		t.Run(fmt.Sprintf("%s after %s", way.name, moment.Round(time.Millisecond)), func(t *testing.T) {
			s.commit(t)
			cmd, out := s.start(t)
			time.Sleep(moment)
			if err := way.signal(cmd.Process.Pid); err != nil {
				require.ErrorIs(t, err, syscall.ESRCH)
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			switch {
			case err == nil:
				finished++
				require.Contains(t, out.String(), "deploy done", "it says that all is well")
			case errors.As(err, &exit) && way.killed:
				assert.True(t, exit.Sys().(syscall.WaitStatus).Signaled() || exit.ExitCode() > 0)
			case errors.As(err, &exit):
				want := []int{130, 143}
				// It came before the first stage, or between two; or mage's own cancelling was told before what the stage returned.
				if said := out.String(); !strings.Contains(said, " stopped ") || strings.Contains(said, "ctx err: context canceled") {
					want = append(want, 1)
				}
				// While no stage is active, before the first or between two, a signal does to the magefile what it does to any program.
				if said := out.String(); strings.Contains(said, "failed to run compiled magefile: signal: ") && strings.Count(said, " started\n") == strings.Count(said, " done ") {
					want = append(want, 255)
				}
				assert.Contains(t, want, exit.ExitCode(), "%s", out)
			default:
				t.Fatal(err)
			}
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				left := s.processes()
				if len(left) == 0 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("these go on: %q; the run said:\n%s", left, out)
				}
			}
			s.check(t)
		})
	}
	t.Logf("%d of %d had ended before the signal", finished, *moments)
	// What was ended can be run again, with nothing to clean up.
	s.commit(t)
	cmd, out = s.start(t)
	require.NoError(t, cmd.Wait(), "%s", out)
	s.check(t)
}

func newShop(t *testing.T) *shop {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	tmp := t.TempDir()
	s := &shop{dir: filepath.Join(tmp, "pay"), mage: filepath.Join(tmp, "mage"), mark: fmt.Sprintf("SHOP_OF_TEST=%d-%d", os.Getpid(), rand.Int64())}
	out, err := exec.Command("go", "build", "-o", s.mage, "github.com/magefile/mage").CombinedOutput()
	require.NoError(t, err, "%s", out)

	registry, err := registryserver.New(filepath.Join(tmp, "registry"))
	require.NoError(t, err)
	server := httptest.NewServer(registry)
	t.Cleanup(server.Close)

	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	files := map[string]string{
		"go.mod":       "module example.org/shop/pay\n\ngo 1.26.0\n\nrequire github.com/grimoire-build/grimoire v0.0.0\n\nreplace github.com/grimoire-build/grimoire => " + root + "\n",
		"go.sum":       string(sums),
		"magefile.go":  shopMagefile,
		"main.go":      "package main\n\nfunc main() { println(answer()) }\n\nfunc answer() int { return 42 }\n",
		"main_test.go": "package main\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc TestAnswer(t *testing.T) {\n\ttime.Sleep(300 * time.Millisecond)\n\tif answer() != 42 {\n\t\tt.Fail()\n\t}\n}\n",
		".gitignore":   "/build/\n/mage_output_file.go\n/commit.txt.tmp\n",
	}
	for name, content := range files {
		require.NoError(t, os.MkdirAll(s.dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644))
	}
	environment := filepath.Join(tmp, "environment")
	require.NoError(t, os.MkdirAll(environment, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(environment, "deployment.yaml"), []byte("kind: Deployment\nspec: {template: {spec: {containers: [{name: pay, image: pay}]}}}\n"), 0o644))
	s.env = append(plainEnv(), s.mark, "GOFLAGS=-mod=mod", "TMPDIR="+filepath.Join(tmp, "tmp"), "MAGEFILE_CACHE="+filepath.Join(tmp, "magefile"),
		"REGISTRY_HOST="+server.Listener.Addr().String(), "IMAGE_BUILDER=go", "COVERAGE_THRESHOLD=1", "ENVIRONMENT_REPOSITORY="+environment+".git",
		"GIT_AUTHOR_NAME=somebody", "GIT_AUTHOR_EMAIL=somebody@example.org", "GIT_COMMITTER_NAME=somebody", "GIT_COMMITTER_EMAIL=somebody@example.org")
	require.NoError(t, os.MkdirAll(filepath.Join(tmp, "tmp"), 0o755))
	s.run(t, tmp, "git", "init", "-q", "-b", "main", s.dir)
	s.run(t, s.dir, "go", "mod", "tidy")
	s.run(t, tmp, "git", "init", "-q", "-b", "main", environment)
	s.run(t, environment, "git", "add", ".")
	s.run(t, environment, "git", "commit", "-q", "-m", "seed")
	s.run(t, tmp, "git", "clone", "-q", "--bare", environment, environment+".git")
	return s
}

func (s *shop) run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, s.env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
}

// commit changes the program, so that there is work for every stage.
func (s *shop) commit(t *testing.T) {
	t.Helper()
	s.commits++
	text := fmt.Sprintf("package main\n\nvar commit = %d\n\nfunc init() { _ = commit }\n", s.commits)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "commit.go"), []byte(text), 0o644))
	_ = os.Remove(filepath.Join(s.dir, ".git", "index.lock")) // of a git that was killed, as git itself asks for
	s.run(t, s.dir, "git", "add", ".")
	s.run(t, s.dir, "git", "commit", "-q", "-m", "change")
}

// lockedBuffer may be read while a process still writes to it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start starts the whole pipeline in a process group of its own.
func (s *shop) start(t *testing.T) (*exec.Cmd, *lockedBuffer) {
	t.Helper()
	cmd := exec.Command(s.mage, "lint", "test", "image", "push", "deploy")
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 30 * time.Second
	require.NoError(t, cmd.Start())
	return cmd, out
}

// processes lists the command lines of all processes with the shop's mark, whoever is their parent by now.
func (s *shop) processes() []string {
	var left []string
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range environs {
		environ, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environ, []byte(s.mark)) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
	}
	return left
}

// check looks at everything that the pipeline has left: what is there is whole.
func (s *shop) check(t *testing.T) {
	t.Helper()
	build := filepath.Join(s.dir, "build")
	entries, err := os.ReadDir(build)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	require.NoError(t, err)
	for _, entry := range entries {
		file := filepath.Join(build, entry.Name())
		data, _ := os.ReadFile(file)
		switch entry.Name() {
		case ".gitignore":
		case "pipeline.json":
			_, err = report.Read(file)
		case "image.json":
			err = json.Unmarshal(data, new(any))
		case "junit.xml":
			for decoder := xml.NewDecoder(bytes.NewReader(data)); err == nil; {
				_, err = decoder.Token()
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
		case "coverage.out":
			_, err = cover.ParseProfiles(file)
		case "coverage.html", "pipeline.html":
			if !bytes.HasSuffix(bytes.TrimSpace(data), []byte("</html>")) {
				err = errors.New("its end is missing")
			}
		case "image.intoto.jsonl":
			_, err = docker.ParseStatements(data)
		case "image":
			img, lerr := docker.Load(file)
			if err = lerr; err == nil {
				err = validate.Image(img.(v1.Image))
			}
		default:
			err = errors.New("nobody knows what that is")
		}
		assert.NoError(t, err, file)
		err = nil
	}
	leftovers, err := filepath.Glob(filepath.Join(filepath.Dir(s.dir), "tmp", "grimoire-*"))
	require.NoError(t, err)
	assert.Empty(t, leftovers)
	s.run(t, filepath.Dir(s.dir), "git", "-C", "environment.git", "fsck", "--strict")
}

// toMagefile sends a signal to the compiled magefile, if mage has started it already; else to what mage runs to compile it.
func toMagefile(t *testing.T, mage int, signal syscall.Signal) error {
	for _, pid := range children(t, mage) {
		if err := syscall.Kill(pid, signal); err != nil {
			return err
		}
	}
	return nil
}
