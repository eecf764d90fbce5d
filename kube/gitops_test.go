package kube_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

// beforePush serves a repository and calls f once, when the first push arrives, which then comes too late.
func beforePush(t *testing.T, repository string, f func()) string {
	t.Helper()
	var once sync.Once
	url := gitServer(t, repository, func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
			once.Do(f)
		}
	})
	return withUser(url, "t0ken")
}

// "The image before this one" means another after somebody has deployed: going by it would undo theirs, and bring back the very image that
// was to go.
func TestRollbackUndoesNobodysDeployment(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"pay.yaml": manifest(payImage("1"))})
	local := kube.Environment{URL: repository}
	deployed(t, local, payImage("2"), "")
	e := kube.Environment{URL: beforePush(t, repository, func() { deployed(t, local, payImage("3"), "") })}
	_, err := e.Rollback(t.Context(), kube.Return{Service: "pay", Repository: "shop/pay"})
	require.ErrorContains(t, err, "somebody has deployed "+payImage("3")+" in the meantime; look at it, and roll back again if it is to go")
	assert.Equal(t, strings.TrimSpace(manifest(payImage("3"))), git(t, repository, "show", "main:pay.yaml"))
}

// A digest means the same whatever has been deployed since.
func TestRollbackToADigestStartsOver(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"pay.yaml": manifest(payImage("1"))})
	local := kube.Environment{URL: repository}
	deployed(t, local, payImage("2"), "")
	e := kube.Environment{URL: beforePush(t, repository, func() { deployed(t, local, payImage("3"), "") })}
	_, err := e.Rollback(t.Context(), kube.Return{Service: "pay", Repository: "shop/pay", To: "sha256:" + strings.Repeat("1", 64)})
	require.NoError(t, err)
	assert.Equal(t, strings.TrimSpace(manifest(payImage("1"))), git(t, repository, "show", "main:pay.yaml"))
	assert.Contains(t, git(t, repository, "log", "-1", "--format=%B", "main"), "from "+payImage("3"))
}

// Others may push whatever else: the image goes back all the same.
func TestRollbackStartsOver(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"pay.yaml": manifest(payImage("1")), "till.yaml": manifest("till:v1")})
	local := kube.Environment{URL: repository}
	deployed(t, local, payImage("2"), "")
	theirs := map[string]string{"till.yaml": manifest("till:v2"), "pay.yaml": "# moved\n" + manifest(payImage("2"))}
	e := kube.Environment{URL: beforePush(t, repository, func() { commitTo(t, repository, "main", theirs) })}
	commit, err := e.Rollback(t.Context(), kube.Return{Service: "pay", Repository: "shop/pay"})
	require.NoError(t, err)
	assert.Equal(t, []string{"pay.yaml"}, commit.Files)
	assert.Equal(t, strings.TrimSpace("# moved\n"+manifest(payImage("1"))), git(t, repository, "show", "main:pay.yaml"))
	assert.Equal(t, strings.TrimSpace(manifest("till:v2")), git(t, repository, "show", "main:till.yaml"))
}

// Deployments, promotions and roll-backs of 20 services at once, in one repository where several stand in one file: every update is there,
// and no other byte of the repository has changed.
func TestWritersLoseNothing(t *testing.T) {
	t.Run("a folder", func(t *testing.T) {
		writersLoseNothing(t, func(repository string) string { return "file://" + repository })
	})
	t.Run("HTTP", func(t *testing.T) {
		writersLoseNothing(t, func(repository string) string { return withUser(gitServer(t, repository, nil), "t0ken") })
	})
}

func writersLoseNothing(t *testing.T, serve func(repository string) string) {
	tmp := isolate(t)
	const services = 20
	name := func(i int) string { return fmt.Sprintf("service-%d", i) }
	by := func(i int, c string) string {
		return "git.example.org/shop/" + name(i) + "@sha256:" + strings.Repeat(c, 64)
	}
	// Each environment has a file per service, and one of all together, with line ends of both kinds.
	render := func(test, prod func(i int) string) map[string]string {
		files := maps.Clone(strays)
		for environment, image := range map[string]func(int) string{"test": test, "prod": prod} {
			all := "# by hand\r\n"
			for i := range services {
				files[environment+"/"+name(i)+".yaml"] = manifest(image(i)) + "# end\r\n"
				all += fmt.Sprintf("---\n%d: x   \r\n%s", i, manifest(image(i)))
			}
			files[environment+"/all.yaml"] = all
		}
		return files
	}
	repository := bare(t, render(func(i int) string { return by(i, "1") }, func(i int) string { return by(i, "0") }))
	commitTo(t, repository, "main", render(func(i int) string { return by(i, "2") }, func(i int) string { return by(i, "0") }))
	commits := git(t, repository, "rev-list", "--count", "main")
	url := serve(repository)
	test, prod := kube.Environment{URL: url, Path: "test"}, kube.Environment{URL: url, Path: "prod"}
	var wg sync.WaitGroup
	made, errs := make([]kube.Commit, services), make([]error, services)
	for i := range services {
		wg.Go(func() {
			switch i % 3 {
			case 0:
				made[i], errs[i] = prod.Deploy(t.Context(), kube.Release{Service: name(i), Image: by(i, "3")})
			case 1:
				made[i], errs[i] = prod.Promote(t.Context(), test, kube.Promotion{Service: name(i), Repository: by(i, "9")})
			case 2:
				made[i], errs[i] = test.Rollback(t.Context(), kube.Return{Service: name(i), Repository: by(i, "9")})
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))

	want := render(func(i int) string {
		if i%3 == 2 {
			return by(i, "1")
		}
		return by(i, "2")
	}, func(i int) string { return by(i, []string{"3", "2", "0"}[i%3]) })
	got := tree(t, repository, "main")
	assert.Len(t, got, len(want))
	for file, content := range want {
		assert.Equal(t, "100644 "+content, got[file], file)
	}
	log := git(t, repository, "log", "--format=%H %P", "main")
	for i, commit := range made {
		assert.Contains(t, log, commit.Hash+" ", "the commit of %s is in the history", name(i))
		environment := "prod"
		if i%3 == 2 {
			environment = "test"
		}
		assert.Equal(t, []string{environment + "/all.yaml", environment + "/" + name(i) + ".yaml"}, commit.Files)
	}
	assert.Len(t, strings.Split(log, "\n"), services+atoi(t, commits))
	assert.Empty(t, git(t, repository, "rev-list", "--merges", "main"), "one after the other")
	requireEmpty(t, tmp)
}

func atoi(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}
