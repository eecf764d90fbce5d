package kube_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/grimoire-build/grimoire/kube"
)

// layout is a repository of a fixture, and what becomes of it.
type layout struct {
	files, want map[string]string
	err         string
}

func readLayout(t testing.TB, file string) layout {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	require.NoError(t, err)
	l := layout{files: make(map[string]string), want: make(map[string]string)}
	images := strings.NewReplacer("REPOSITORY", "git.example.org/shop/pay", "IMAGE", image, "TAG", strings.TrimPrefix(digest, "sha256:")[:12]+"@"+digest, "DIGEST", digest)
	for _, f := range archive.Files {
		if name, ok := strings.CutPrefix(f.Name, "want/"); ok {
			l.want[name] = images.Replace(string(f.Data))
		} else if f.Name == "error" {
			l.err = strings.TrimSpace(string(f.Data))
		} else {
			l.files[f.Name] = string(f.Data)
		}
	}
	return l
}

// strays are files that no deployment may touch by a byte, whatever they look like.
var strays = map[string]string{
	"README.md":                 "image: shop/pay:v1\r\n",
	".github/workflows/ci.yaml": "containers: [{image: shop/pay:v1}]\n",
	"bin/tool":                  "\x00\xff\xfe containers:\r\n\n\n",
	"chart/templates/pay.yaml":  "{{ if .x }}\ncontainers: [{image: shop/pay:v1}]\n{{ end }}",
	"other/till.yaml":           "\ufeff# ü\r\ncontainers:\r\n  -   {image:   \"till:v1\"}   # no line end",
	"other/mixed.yaml":          "a: |\r\n  containers:\n  - image: shop/pay:v1\r\n\n\n...\n",
	"other/empty.yaml":          "",
}

// tree is every file of a commit, by its path, with its mode in front.
func tree(t testing.TB, repository, commit string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	work := filepath.Join(t.TempDir(), "tree")
	git(t, "", "clone", "--quiet", "--config=core.autocrlf=false", repository, work)
	git(t, work, "checkout", "--quiet", commit)
	for _, line := range strings.Split(git(t, work, "ls-tree", "-r", "-z", "HEAD"), "\x00") {
		about, name, ok := strings.Cut(line, "\t")
		if !ok {
			continue
		}
		content, err := os.ReadFile(filepath.Join(work, filepath.FromSlash(name)))
		require.NoError(t, err)
		files[name] = strings.Fields(about)[0] + " " + string(content)
	}
	return files
}

// Each place of each layout gets the image, and no other byte of the repository changes.
func TestDeployLayouts(t *testing.T) {
	fixtures, err := filepath.Glob("testdata/gitops/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, fixtures)
	for _, fixture := range fixtures {
		t.Run(strings.TrimSuffix(filepath.Base(fixture), ".txtar"), func(t *testing.T) {
			isolate(t)
			l := readLayout(t, fixture)
			files := maps.Clone(strays)
			maps.Copy(files, l.files)
			repository := bare(t, files)
			want := tree(t, repository, "main")
			commit, err := kube.Environment{URL: "file://" + repository}.Deploy(t.Context(), release("pay"))
			if l.err != "" {
				require.ErrorContains(t, err, l.err)
				assert.Equal(t, want, tree(t, repository, "main"), "nothing is committed")
				return
			}
			require.NoError(t, err)
			for name, content := range l.want {
				mode, before, _ := strings.Cut(want[name], " ")
				require.NotEqual(t, before, content, "the fixture says that %s changes", name)
				want[name] = mode + " " + content
			}
			got := tree(t, repository, commit.Hash)
			for name := range want {
				assert.Equal(t, want[name], got[name], name)
			}
			assert.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
			assert.Equal(t, slices.Sorted(maps.Keys(l.want)), commit.Files)

			again, err := kube.Environment{URL: "file://" + repository}.Deploy(t.Context(), release("pay"))
			require.NoError(t, err)
			assert.False(t, again.Changed, "a second time changes nothing")
			later := kube.Environment{URL: "file://" + repository}
			_, err = later.Deploy(t.Context(), kube.Release{Service: "pay", Image: payImage("7")})
			require.NoError(t, err)
			_, err = later.Rollback(t.Context(), kube.Return{Service: "pay", Repository: "shop/pay"})
			require.NoError(t, err)
			assert.Equal(t, got, tree(t, repository, "main"), "and back again is where it was, to the byte")
		})
	}
}
