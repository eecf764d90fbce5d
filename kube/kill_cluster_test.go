package kube_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/kube"
)

// releaseNumber is a release of a workload, a hook, and ConfigMaps of which each release has others.
func releaseNumber(image string, n int, broken bool) (manifests string, names []string) {
	names = []string{"always", fmt.Sprintf("only-%d", n), fmt.Sprintf("also-%d", n%3)}
	manifests = settingsMaps(fmt.Sprint(n), names...) + "---\n" + strings.NewReplacer("IMAGE", image, "CODE", "0").Replace(hookManifest)
	environment := environment(fmt.Sprint(n))
	if broken {
		environment["EXIT"] = "3"
	}
	return manifests + appManifest(image, 1, environment, ""), names
}

// A deployment is killed at random moments, also while it rolls back: the next one succeeds, nothing is orphaned, and what is not ours
// stays.
func TestClusterKilledDeployments(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	_, err := c.Apply(t.Context(), load(t, settingsMaps("theirs", "foreign")), kube.ApplyOptions{FieldManager: "kubectl"})
	require.NoError(t, err)
	// How long an undisturbed one takes is where the moments are.
	begun := time.Now()
	manifests, _ := releaseNumber(image, 0, false)
	_, err = c.deploy(manifests, kube.DeployOptions{Image: payImage("0")})
	require.NoError(t, err)
	whole := time.Since(begun)

	killed, ended, kills := 0, 0, times("KILLS", 6)
	for n := 1; killed < kills; n++ {
		require.Less(t, ended, 3*kills, "most of them have ended before their moment came")
		manifests, _ := releaseNumber(image, n, n%3 == 0)
		file := filepath.Join(t.TempDir(), "manifests.yaml")
		require.NoError(t, os.WriteFile(file, []byte(manifests), 0o600))
		env := []string{"IMAGE=" + payImage(fmt.Sprint(n%10))}
		longest := whole
		if n%3 == 0 {
			env, longest = append(env, "ROLLBACK=yes"), 3*whole
		}
		cmd := c.process(t.Context(), "deploy", file, env...)
		require.NoError(t, cmd.Start())
		time.Sleep(rand.N(longest))
		if wasKilled(t, cmd) {
			killed++
		} else {
			ended++
		}

		// The next one may be of the same commit or of another.
		next := n + n%2
		manifests, names := releaseNumber(image, next, false)
		begun = time.Now()
		done, err := c.deploy(manifests, kube.DeployOptions{Image: payImage(fmt.Sprint(next % 10))})
		require.NoError(t, err, "after kill %d", n)
		if next != n { // what else the machine has to do changes
			whole = time.Since(begun)
		}
		want := append([]string{"foreign"}, names...)
		slices.Sort(want)
		var got []string
		for name := range present(t, c) {
			got = append(got, name)
		}
		slices.Sort(got)
		assert.Equal(t, want, got, "after kill %d", n)
		assert.Equal(t, []string{fmt.Sprint(next)}, c.versions())
		// Rolling back takes its Job away, and it need not run again for the same image.
		assert.LessOrEqual(t, strings.Count(c.run("get", "jobs", "--output=name"), "job.batch/migrate-"), 1, "after kill %d", n)
		revisions, err := c.Revisions(t.Context(), "app")
		require.NoError(t, err)
		assert.Equal(t, done.Revision, revisions[0].Number)
	}
	assert.Equal(t, "theirs", present(t, c)["foreign"])
	t.Logf("%d killed, of which an undisturbed one takes %.1f s, and %d had ended before", killed, whole.Seconds(), ended)
}

// wasKilled kills a process, and reports whether that has ended it. One that has ended by itself can be killed too until it is waited for.
func wasKilled(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	require.NoError(t, cmd.Process.Kill(), "nobody has waited for it")
	_ = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	return status.Signaled() && status.Signal() == syscall.SIGKILL
}

func TestWasKilled(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	assert.True(t, wasKilled(t, cmd))
	cmd = exec.Command("sh", "-c", "exit 3")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	time.Sleep(300 * time.Millisecond) // it has ended, and nobody has waited for it
	assert.False(t, wasKilled(t, cmd))
	assert.Equal(t, 3, cmd.ProcessState.ExitCode())
}

// Two processes deploy two releases at the same time: one of the two is live, whole, and the other one has said so.
func TestClusterDeploymentsAtOnce(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	files := make([]string, 2)
	var all [2][]string
	for i := range files {
		manifests, names := releaseNumber(image, i+1, false)
		all[i] = names
		files[i] = filepath.Join(t.TempDir(), "manifests.yaml")
		require.NoError(t, os.WriteFile(files[i], []byte(manifests), 0o600))
	}
	for round := range times("ROUNDS", 2) {
		errs, outs := make([]error, 2), make([]string, 2)
		var wg sync.WaitGroup
		for i := range files {
			wg.Go(func() {
				time.Sleep(rand.N(500 * time.Millisecond))
				out, err := c.process(t.Context(), "deploy", files[i], "IMAGE="+payImage(fmt.Sprint(i))).CombinedOutput()
				errs[i], outs[i] = err, string(out)
			})
		}
		wg.Wait()
		live := -1
		for i := range files {
			if errs[i] == nil {
				live = i // the later one, where both are
			} else {
				assert.Contains(t, outs[i], "another deployment", "round %d", round)
			}
		}
		require.GreaterOrEqual(t, live, 0, "%q", outs)
		if errs[0] == nil && errs[1] == nil {
			live = int(c.versions()[0][0] - '1') // one was over before the other began
		}
		assert.Equal(t, []string{fmt.Sprint(live + 1)}, c.versions(), "round %d", round)
		want := map[string]string{}
		for _, name := range all[live] {
			want[name] = fmt.Sprint(live + 1)
		}
		assert.Equal(t, want, present(t, c), "round %d", round)
	}
}

// What others own survives: a sidecar, a probe, the replicas that an autoscaler sets; and the image is known by its name, whatever the
// container is called.
func TestClusterCoexistence(t *testing.T) {
	c := newCluster(t)
	image := needs.App(t)
	deploy := func(version string) {
		t.Helper()
		objects := load(t, strings.NewReplacer("image: "+image, "image: app", "- name: app", "- name: whatever", "  replicas: 1\n", "").
			Replace(appManifest(image, 1, environment(version), "")))
		_, err := kube.SetImage(objects, image)
		require.NoError(t, err)
		_, err = c.Deploy(t.Context(), objects, kube.DeployOptions{Name: "app", Timeout: time.Minute})
		require.NoError(t, err)
	}
	deploy("one")
	others := load(t, fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    spec:
      containers:
      - {name: mesh, image: %q, command: [/app], env: [{name: PORT, value: "9090"}], args: []}
      - {name: whatever, livenessProbe: {httpGet: {path: /live, port: 8080}}}
`, image))
	_, err := c.Apply(t.Context(), others, kube.ApplyOptions{FieldManager: "mesh"})
	require.NoError(t, err)
	deploy("two")
	live := fmt.Sprint(c.live("/apis/apps/v1/namespaces/" + c.namespace + "/deployments/app").Object["spec"])
	for _, want := range []string{"name:mesh", "livenessProbe:map", "replicas:2", "value:two", "name:whatever"} {
		assert.Contains(t, live, want)
	}
	assert.Len(t, c.versions(), 2)
}
