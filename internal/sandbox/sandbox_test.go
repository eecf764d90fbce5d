//go:build linux

package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/sandbox"
)

// The test program is also what runs in the sandboxes, and what starts one and is killed.
const (
	roleVariable = "SANDBOX_TEST_ROLE"
	roleServer   = "server"
	roleStarter  = "starter"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case roleServer:
		serve()
	case roleStarter:
		starter()
	default:
		os.Exit(m.Run())
	}
}

// serve answers on the sandbox's loopback with what it sees there.
func serve() {
	http.HandleFunc("/pull", func(w http.ResponseWriter, r *http.Request) {
		response, err := http.Get("http://127.0.0.1:5000/v2/app/manifests/1?ns=" + r.URL.Query().Get("from"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pid ", os.Getppid()) })
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	fmt.Fprintln(os.Stderr, http.Serve(listener, nil))
}

func server() sandbox.Config {
	return sandbox.Config{
		Command: []string{"/proc/self/exe"}, Env: []string{roleVariable + "=" + roleServer},
		Isolate: true, Network: true, Forward: 8080, Mirror: 5000,
	}
}

// starter starts a sandbox, says so, and waits to be killed.
func starter() {
	c := server()
	c.Command = []string{os.Args[0]}
	place, err := sandbox.NewPlace("test")
	if err == nil {
		_, err = place.Start(c)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

func newPlace(t *testing.T) *sandbox.Place {
	t.Helper()
	place, err := sandbox.NewPlace("test")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sandbox.Down(context.Background(), place.Dir, 20*time.Second)) }) // of a test that failed
	return place
}

func requireReady(t *testing.T, s *sandbox.Sandbox) {
	t.Helper()
	line, err := bufio.NewReader(s.Stdout).ReadString('\n')
	require.NoError(t, err, s.Log())
	require.Equal(t, "ready\n", line)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func start(t *testing.T, c sandbox.Config) (*sandbox.Sandbox, string) {
	t.Helper()
	return startIn(t, newPlace(t), c)
}

func startIn(t *testing.T, place *sandbox.Place, c sandbox.Config) (*sandbox.Sandbox, string) {
	t.Helper()
	if c.Command[0] == "/proc/self/exe" {
		self, err := os.Executable()
		require.NoError(t, err)
		c.Command = []string{self}
	}
	s, err := place.Start(c)
	require.NoError(t, err)
	return s, place.Dir
}

func TestIsolated(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	first, _ := start(t, server())
	second, _ := start(t, server())
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host, " was asked for ", r.URL)
	}))
	defer registry.Close()
	host := registry.Listener.Addr().String()
	for _, s := range []*sandbox.Sandbox{first, second} {
		requireReady(t, s)
		_, body := get(t, "http://"+s.Address)
		assert.Equal(t, "pid 1", body)
		_, body = get(t, "http://"+s.Address+"/pull?from="+host)
		assert.Equal(t, host+" was asked for /v2/app/manifests/1", body)
		code, body := get(t, "http://"+s.Address+"/pull?from=registry.example.org")
		assert.Equal(t, http.StatusNotFound, code)
		assert.Contains(t, body, "images come from registries on this machine's loopback alone")
	}
	http.DefaultClient.CloseIdleConnections()
	require.NoError(t, first.Stop())
	requireNothing := func(s *sandbox.Sandbox) { _, err := http.Get("http://" + s.Address); require.Error(t, err) }
	requireNothing(first)
	_, body := get(t, "http://"+second.Address)
	assert.Equal(t, "pid 1", body, "the other one goes on")
	require.NoError(t, second.Stop())
	nothingLeft()
}

func TestWhatIsWrittenIsTheSandboxsOwn(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	place := newPlace(t)
	dir := place.Dir
	require.NoError(t, os.WriteFile(filepath.Join(dir, "setting"), []byte("replaced\n"), 0o644))
	s, _ := startIn(t, place, sandbox.Config{
		Isolate: true, Network: true,
		Replace: map[string]string{"/proc/sys/vm/overcommit_memory": filepath.Join(dir, "setting")},
		Command: []string{"sh", "-ec", `
			for place in /etc /run /var /var/lib; do echo x > $place/sandbox-test; done
			cat /proc/sys/vm/overcommit_memory
			echo 7 > /proc/sys/vm/overcommit_memory
			mkdir /run/mounted; mount -t tmpfs tmpfs /run/mounted
			for group in $(ls -d /sys/fs/cgroup/` + sandbox.CgroupName(dir) + ` /sys/fs/cgroup/*/` + sandbox.CgroupName(dir) + ` 2>/dev/null); do
				mkdir $group/inner
			done
			setsid sleep 1002 & setsid sh -c 'trap "" TERM INT HUP; sleep 1002' &
			echo kept > kept
			echo done; sleep 1002`},
	})
	lines := bufio.NewScanner(s.Stdout)
	require.True(t, lines.Scan(), s.Log())
	assert.Equal(t, "replaced", lines.Text())
	require.True(t, lines.Scan(), s.Log())
	require.Equal(t, "done", lines.Text())
	for _, place := range []string{"/etc", "/run", "/var", "/var/lib"} {
		assert.NoFileExists(t, filepath.Join(place, "sandbox-test"))
	}
	kept, err := os.ReadFile(filepath.Join(dir, "kept"))
	require.NoError(t, err)
	assert.Equal(t, "kept\n", string(kept), "the folder is shared")
	require.NoError(t, s.Stop())
	assert.NoDirExists(t, dir)
	nothingLeft()
	out, err := exec.Command("pgrep", "-f", "sleep 1002").Output()
	require.Error(t, err, "still there: %s", out)
}

func TestWithoutRoot(t *testing.T) {
	s, dir := start(t, sandbox.Config{Command: []string{"sh", "-c", "trap '' TERM; sleep 1001 & echo ready; wait; wait"}})
	requireReady(t, s)
	begun := time.Now()
	require.NoError(t, s.Stop())
	assert.Less(t, time.Since(begun), 15*time.Second)
	assert.NoDirExists(t, dir)
	require.Error(t, exec.Command("pgrep", "-f", "sleep 1001").Run())
}

func TestStarterKilled(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+roleStarter)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "started\n", line)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	nothingLeft()
}

func TestGuardKilled(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	s, dir := start(t, server())
	requireReady(t, s)
	require.NoError(t, s.Release())
	require.True(t, sandbox.Running(dir))
	_, err := sandbox.Claim(dir)
	require.ErrorIs(t, err, sandbox.ErrRunning)
	pid, err := os.ReadFile(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	var guard int
	_, err = fmt.Sscan(string(pid), &guard)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(guard, syscall.SIGKILL))
	require.Eventually(t, func() bool { return !sandbox.Running(dir) }, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		_, err := http.Get("http://" + s.Address)
		return err != nil
	}, 10*time.Second, 10*time.Millisecond, "what ran in it goes on")
	assert.DirExists(t, dir, "nobody was there to remove it")
	other, err := sandbox.NewPlace("test")
	require.NoError(t, err)
	require.NoError(t, other.Abandon())
	assert.NoDirExists(t, dir, "the next one removes it")
	nothingLeft()
}

func TestDetached(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	for name, end := range map[string]func(dir string) error{
		"down":    func(dir string) error { return sandbox.Down(t.Context(), dir, 20*time.Second) },
		"removed": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := start(t, server())
			requireReady(t, s)
			require.NoError(t, s.Release())
			_, body := get(t, "http://"+s.Address)
			assert.Equal(t, "pid 1", body)
			http.DefaultClient.CloseIdleConnections()
			require.NoError(t, end(dir))
			nothingLeft()
		})
	}
	require.NoError(t, sandbox.Down(t.Context(), "nowhere", 0), "nothing there is fine")
}

func TestUntil(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	other := exec.Command("sleep", "1002")
	require.NoError(t, other.Start())
	c := server()
	c.Until = other.Process.Pid
	s, _ := start(t, c)
	requireReady(t, s)
	require.NoError(t, s.Release())
	time.Sleep(time.Second)
	_, body := get(t, "http://"+s.Address)
	require.Equal(t, "pid 1", body)
	http.DefaultClient.CloseIdleConnections()
	require.NoError(t, other.Process.Kill())
	require.Error(t, other.Wait())
	nothingLeft()
}

// One ends while the next is made in the same folder.
func TestDownAndUpAtOnce(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	dir := filepath.Join(t.TempDir(), "place")
	for range 10 {
		place, err := sandbox.Claim(dir)
		require.NoError(t, err)
		s, _ := startIn(t, place, server())
		requireReady(t, s)
		require.NoError(t, s.Release())
		_, body := get(t, "http://"+s.Address)
		require.Equal(t, "pid 1", body)
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, sandbox.Down(t.Context(), dir, 20*time.Second))
	}
	nothingLeft()
}

func TestCommandThatEnds(t *testing.T) {
	s, dir := start(t, sandbox.Config{Command: []string{"sh", "-c", "echo no database >&2; exit 3"}})
	require.Eventually(t, s.Ended, 10*time.Second, 10*time.Millisecond)
	assert.True(t, strings.HasPrefix(s.Log(), "no database\n"), s.Log())
	assert.Contains(t, s.Log(), "exit status 3")
	assert.NoDirExists(t, dir)
	require.NoError(t, s.Stop())
}

func TestNoSuchCommand(t *testing.T) {
	s, dir := start(t, sandbox.Config{Command: []string{"no-such-program"}})
	require.Eventually(t, s.Ended, 10*time.Second, 10*time.Millisecond)
	require.ErrorContains(t, s.Stop(), `"no-such-program": executable file not found`)
	assert.NoDirExists(t, dir)
}

// The temporary folder is everybody's.
func TestNobodyElsesFolderIsSwept(t *testing.T) {
	needs.Alone(t)
	foreign := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(foreign, "lock"), []byte("1"), 0o644))
	link := filepath.Join(os.TempDir(), "grimoire-test-link")
	require.NoError(t, os.Symlink(foreign, link))
	t.Cleanup(func() { os.Remove(link) })
	place, err := sandbox.NewPlace("test")
	require.NoError(t, err)
	require.NoError(t, place.Abandon())
	assert.FileExists(t, filepath.Join(foreign, "lock"))
}

// Somebody removes a folder, and the next sandbox is in the same place: the first guard leaves it alone.
func TestPlaceThatHasAnother(t *testing.T) {
	needs.Root(t)
	nothingLeft := needs.NothingLeft(t)
	dir := filepath.Join(t.TempDir(), "place")
	first, err := sandbox.Claim(dir)
	require.NoError(t, err)
	old, _ := startIn(t, first, sandbox.Config{Command: []string{"sh", "-c", "echo ready; sleep 1003"}})
	requireReady(t, old)
	require.NoError(t, os.Remove(filepath.Join(dir, "lock")))
	second, err := sandbox.Claim(dir)
	require.NoError(t, err)
	s, _ := startIn(t, second, server())
	requireReady(t, s)
	require.Eventually(t, old.Ended, 10*time.Second, 10*time.Millisecond)
	_, body := get(t, "http://"+s.Address)
	assert.Equal(t, "pid 1", body)
	http.DefaultClient.CloseIdleConnections()
	assert.True(t, sandbox.Running(dir))
	require.NoError(t, s.Stop())
	nothingLeft()
}

func TestStopAtOnce(t *testing.T) {
	for range 10 {
		s, dir := start(t, sandbox.Config{Command: []string{"sleep", "1004"}})
		require.NoError(t, s.Stop())
		assert.NoDirExists(t, dir)
	}
}
