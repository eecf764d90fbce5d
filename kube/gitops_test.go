package kube_test

import (
	"net/http"
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
