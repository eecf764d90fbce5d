package kube_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

// payImage is an image of pay, by a digest of one character.
func payImage(c string) string { return "git.example.org/shop/pay@sha256:" + strings.Repeat(c, 64) }

func deployed(t *testing.T, e kube.Environment, image, revision string) kube.Commit {
	t.Helper()
	commit, err := e.Deploy(t.Context(), kube.Release{Service: "pay", Image: image, Revision: revision})
	require.NoError(t, err)
	return commit
}

func TestPromote(t *testing.T) {
	tmp := isolate(t)
	repository := bare(t, map[string]string{"test/pay.yaml": manifest("pay:v1"), "prod/pay.yaml": manifest("pay:v1") + "# ours\r\n", "prod/till.yaml": manifest("till:v1")})
	test, prod := kube.Environment{URL: repository, Path: "test"}, kube.Environment{URL: repository, Path: "prod"}
	promotion := kube.Promotion{Service: "pay", Repository: "git.example.org/shop/pay"}

	_, err := prod.Promote(t.Context(), test, promotion)
	require.ErrorContains(t, err, "promoting pay from "+repository+" test: test/pay.yaml names git.example.org/shop/pay, which has no digest")

	deployed(t, test, payImage("1"), revision)
	deployed(t, test, payImage("2"), "")
	deployed(t, test, payImage("1"), "")
	commit, err := prod.Promote(t.Context(), test, promotion)
	require.NoError(t, err)
	assert.Equal(t, []string{"prod/pay.yaml"}, commit.Files)
	assert.Contains(t, git(t, repository, "show", "main:prod/pay.yaml"), payImage("1"))
	assert.Equal(t, "1\t1\tprod/pay.yaml", git(t, repository, "diff", "--numstat", "main^", "main"), "the line alone, whatever ends the others")
	assert.Equal(t, "Promote pay at 4f2a91c07be3\n\nService: pay\nImage: "+payImage("1")+"\nRevision: "+revision+"\nPromoted-from: "+repository+" test",
		git(t, repository, "log", "-1", "--format=%B", "main"))
	again, err := prod.Promote(t.Context(), test, promotion)
	require.NoError(t, err)
	assert.False(t, again.Changed)

	promotion.Repository = "git.example.org/shop/other"
	_, err = prod.Promote(t.Context(), test, promotion)
	require.ErrorContains(t, err, "nothing uses an image git.example.org/shop/other, only")
	requireEmpty(t, tmp)
}

func TestPromoteBetweenRepositoriesAndBranches(t *testing.T) {
	isolate(t)
	from := bare(t, map[string]string{"pay.yaml": manifest(payImage("1"))})
	to := bare(t, map[string]string{"values.yaml": "image: {repository: shop/pay, tag: v1}\n"})
	commitTo(t, to, "prod", map[string]string{"values.yaml": "image: {repository: shop/pay, tag: v2}\n"})
	commit, err := kube.Environment{URL: to, Branch: "prod"}.Promote(t.Context(), kube.Environment{URL: from}, kube.Promotion{Service: "pay", Repository: "shop/pay:any"})
	require.NoError(t, err)
	assert.True(t, commit.Changed)
	assert.Contains(t, git(t, to, "show", "prod:values.yaml"), "@sha256:"+strings.Repeat("1", 64))
	assert.Equal(t, "image: {repository: shop/pay, tag: v1}", git(t, to, "show", "main:values.yaml"))
}

func TestPromoteSeveral(t *testing.T) {
	isolate(t)
	repository := bare(t, map[string]string{"a.yaml": manifest(payImage("1")), "b.yaml": manifest(payImage("2"))})
	_, err := kube.Environment{URL: repository}.Promote(t.Context(), kube.Environment{URL: repository}, kube.Promotion{Service: "pay", Repository: "shop/pay"})
	require.ErrorContains(t, err, "a.yaml has "+payImage("1")+", and b.yaml has "+payImage("2")+"; bring them to one image first")
}

func TestRollbackByCommit(t *testing.T) {
	tmp := isolate(t)
	repository := bare(t, map[string]string{"pay.yaml": manifest("pay:v1"), "till.yaml": manifest("till:v1")})
	e := kube.Environment{URL: "file://" + repository}
	back := kube.Return{Service: "pay", Repository: "git.example.org/shop/pay"}
	_, err := e.Rollback(t.Context(), back)
	require.ErrorContains(t, err, "pay.yaml names git.example.org/shop/pay, which has no digest")
	first := deployed(t, e, payImage("1"), revision)
	_, err = e.Rollback(t.Context(), back)
	require.ErrorContains(t, err, "it has held no image but "+payImage("1")+", as far as 1000 commits of main tell")
	deployed(t, e, payImage("2"), "")
	commitTo(t, repository, "main", map[string]string{"pay.yaml": "# by somebody\n" + manifest(payImage("2")), "till.yaml": manifest("till:v2")})
	deployed(t, e, payImage("3"), "")

	commit, err := e.Rollback(t.Context(), back)
	require.NoError(t, err)
	assert.Equal(t, []string{"pay.yaml"}, commit.Files)
	assert.Equal(t, strings.TrimSuffix("# by somebody\n"+manifest(payImage("2")), "\n"), git(t, repository, "show", "main:pay.yaml"))
	assert.Equal(t, strings.TrimSuffix(manifest("till:v2"), "\n"), git(t, repository, "show", "main:till.yaml"), "what others have committed stays")
	message := git(t, repository, "log", "-1", "--format=%B", "main")
	assert.Contains(t, message, "Roll back pay\n\nTo what ")
	assert.Contains(t, message, " held, from "+payImage("3")+".\n\nService: pay\nImage: "+payImage("2"))

	back.To = "sha256:" + strings.Repeat("1", 64)
	_, err = e.Rollback(t.Context(), back)
	require.NoError(t, err)
	assert.Contains(t, git(t, repository, "show", "main:pay.yaml"), payImage("1"))
	assert.Contains(t, git(t, repository, "log", "-1", "--format=%B", "main"), "Revision: "+revision)
	back.To = commit.Hash[:10]
	_, err = e.Rollback(t.Context(), back)
	require.NoError(t, err)
	assert.Contains(t, git(t, repository, "show", "main:pay.yaml"), payImage("2"))
	back.To = first.Hash
	again, err := e.Rollback(t.Context(), back)
	require.NoError(t, err)
	assert.True(t, again.Changed)
	for to, want := range map[string]string{
		"sha256:" + strings.Repeat("9", 64): "held no image of git.example.org/shop/pay by digest there",
		"nothing":                           `the last 1000 commits of main have no "nothing"`,
		"--all":                             `"--all" is neither a digest nor a commit`,
	} {
		back.To = to
		_, err = e.Rollback(t.Context(), back)
		require.ErrorContains(t, err, want)
	}
	requireEmpty(t, tmp)
}

// Rolling back once more goes further back, and not to what was to go.
func TestRollbackByCommitAgain(t *testing.T) {
	const noMore = ", before which it held no image, as far as 1000 commits of main tell; deploy an earlier commit of the source instead"
	tests := []struct {
		name  string
		steps []string // an image to deploy by the character of its digest, "back", "back to" a digest, or "edit"
		want  string   // the characters of what each roll-back has brought
		err   string
	}{
		{"two", []string{"1", "2", "back", "back"}, "1", "it has gone back to " + payImage("1") + noMore},
		{"three", []string{"1", "2", "3", "back", "back", "back"}, "21", "it has gone back to " + payImage("1") + noMore},
		{"with edits in between", []string{"1", "edit", "2", "edit", "3", "edit", "back", "edit", "back", "edit", "back"}, "21", "it has gone back to " + payImage("1") + noMore},
		{"and a deployment in between", []string{"1", "2", "3", "back", "4", "back", "back"}, "221", ""},
		{"of what had been bad", []string{"1", "2", "back", "2", "back", "back"}, "11", "it has gone back to " + payImage("1") + noMore},
		{"after one to a digest", []string{"1", "2", "3", "back to 2", "back"}, "21", ""},
		{"after one forward", []string{"1", "2", "back", "back to 2", "back"}, "121", ""},
	}
	isolate(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			repository := bare(t, map[string]string{"pay.yaml": manifest("pay:v1")})
			e := kube.Environment{URL: "file://" + repository}
			var brought string
			for i, step := range tt.steps {
				what, to, _ := strings.Cut(step, " to ")
				switch what {
				case "edit":
					commitTo(t, repository, "main", map[string]string{"pay.yaml": fmt.Sprintf("# edit %d\n", i) + git(t, repository, "show", "main:pay.yaml") + "\n"})
				case "back":
					back := kube.Return{Service: "pay", Repository: "git.example.org/shop/pay"}
					if to != "" {
						back.To = "sha256:" + strings.Repeat(to, 64)
					}
					commit, err := e.Rollback(t.Context(), back)
					if i == len(tt.steps)-1 && tt.err != "" {
						require.ErrorContains(t, err, tt.err)
						continue
					}
					require.NoError(t, err)
					brought += commit.Image[len(commit.Image)-1:]
				default:
					deployed(t, e, payImage(step), "")
				}
			}
			assert.Equal(t, tt.want, brought)
		})
	}
	t.Run("a history that was rewritten", func(t *testing.T) {
		repository := bare(t, map[string]string{"pay.yaml": manifest(payImage("1"))})
		commitTo(t, repository, "main", map[string]string{"pay.yaml": manifest(payImage("2"))})
		e := kube.Environment{URL: "file://" + repository}
		work := t.TempDir()
		git(t, "", "clone", "--quiet", repository, work)
		git(t, work, "revert", "--no-commit", "HEAD")
		git(t, work, "-c", "user.name=somebody", "-c", "user.email=s@example.org", "commit", "--quiet", "-m", "Roll back pay\n\nRolled-back-to: "+strings.Repeat("a", 40))
		git(t, work, "push", "--quiet")
		_, err := e.Rollback(t.Context(), kube.Return{Service: "pay", Repository: "shop/pay"})
		require.ErrorContains(t, err, "it has been rolled back to "+strings.Repeat("a", 40)+", which the last 1000 commits of main do not have; name the digest to go back to")
	})
}

// Deployments, promotions and roll-backs of different services, all at once.
func TestOperateConcurrently(t *testing.T) {
	isolate(t)
	const services = 20
	files, other := make(map[string]string), make(map[string]string)
	for i := range services {
		files[fmt.Sprintf("test/service-%d.yaml", i)] = manifest(fmt.Sprintf("git.example.org/shop/service-%d@sha256:%s", i, strings.Repeat("1", 64)))
		files[fmt.Sprintf("prod/service-%d.yaml", i)] = manifest(fmt.Sprintf("service-%d:v1", i))
		other[fmt.Sprintf("test/service-%d.yaml", i)] = manifest(fmt.Sprintf("git.example.org/shop/service-%d@sha256:%s", i, strings.Repeat("2", 64)))
	}
	files["README.md"] = "by hand\r\n"
	repository := bare(t, files)
	commitTo(t, repository, "main", other)
	before := git(t, repository, "ls-tree", "main", "README.md")
	url := withUser(gitServer(t, repository, nil), "t0ken")
	test, prod := kube.Environment{URL: url, Path: "test"}, kube.Environment{URL: url, Path: "prod"}
	var wg sync.WaitGroup
	errs := make([]error, services)
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		wg.Go(func() {
			switch i % 3 {
			case 0:
				_, errs[i] = prod.Deploy(t.Context(), release(name))
			case 1:
				_, errs[i] = prod.Promote(t.Context(), test, kube.Promotion{Service: name, Repository: "shop/" + name})
			case 2:
				_, errs[i] = test.Rollback(t.Context(), kube.Return{Service: name, Repository: "shop/" + name})
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		image := func(c string) string { return "git.example.org/shop/" + name + "@sha256:" + strings.Repeat(c, 64) }
		wantTest, wantProd := image("2"), name+":v1"
		switch i % 3 {
		case 0:
			wantProd = "git.example.org/shop/" + name + "@" + digest
		case 1:
			wantProd = "shop/" + name + "@sha256:" + strings.Repeat("2", 64)
		case 2:
			wantTest = image("1")
		}
		assert.Contains(t, git(t, repository, "show", "main:test/"+name+".yaml"), wantTest)
		assert.Contains(t, git(t, repository, "show", "main:prod/"+name+".yaml"), wantProd)
	}
	assert.Equal(t, before, git(t, repository, "ls-tree", "main", "README.md"))
	assert.Equal(t, fmt.Sprint(services+2), git(t, repository, "rev-list", "--count", "main"))
}
