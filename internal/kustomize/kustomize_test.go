package kustomize_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/kustomize"
	"github.com/grimoire-build/grimoire/internal/process"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return dir
}

func TestBuild(t *testing.T) {
	dir := folder(t, map[string]string{
		"kustomization.yaml":      "bases: [base]\nnamePrefix: shop-\nconfigMapGenerator: [{name: c, literals: [a=b]}]\n",
		"base/kustomization.yaml": "resources: [a.yaml]\n",
		"base/a.yaml":             "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\n",
	})
	var log bytes.Buffer
	ctx := zerolog.New(&log).WithContext(t.Context())
	first, err := kustomize.Build(ctx, dir)
	require.NoError(t, err)
	assert.Equal(t, "apiVersion: v1\ndata:\n  a: b\nkind: ConfigMap\nmetadata:\n  name: shop-c-4h2mbtbbt6\n---\n"+
		"apiVersion: v1\nkind: Service\nmetadata:\n  name: shop-pay\n", string(first))
	assert.Contains(t, log.String(), "kustomize: Warning: 'bases' is deprecated")

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			again, err := kustomize.Build(t.Context(), dir)
			assert.NoError(t, err)
			assert.Equal(t, first, again, "the same every time")
		})
	}
	all.Wait()
}

func TestBuildErrors(t *testing.T) {
	tests := []struct {
		name, content, want, cure string
	}{
		{"field unknown", "resource: [a.yaml]\n", `invalid Kustomization: json: unknown field "resource"`, "; mend it there"},
		{"missing file", "resources: [nowhere.yaml]\n", "nowhere.yaml: no such file or directory", "; mend it there"},
		{"file elsewhere", "configMapGenerator: [{name: a, files: [../x.txt]}]\n", "security; file", "; move the file into the folder"},
		{"chart", "helmCharts: [{name: x, repo: \"https://example.org\", version: \"1\"}]\n", "must specify --enable-helm", "`helm template`"},
		{"plugin", "generators: [g.yaml]\n", "external plugins disabled", "; write what the plugin makes into a file"},
		{"repository", "resources: [\"https://example.org/shop/pay.git?ref=main\"]\n", "example.org", "; copy what it names into the repository"},
		{"URL", "resources: [\"http://example.org/pay.yaml\"]\n", "example.org", "; copy what it names into the repository"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NO_PROXY", "*")
			dir := folder(t, map[string]string{
				"in/kustomization.yaml": tt.content, "x.txt": "x",
				"in/g.yaml": "apiVersion: example.org/v1\nkind: Plugin\nmetadata: {name: x}\n",
			})
			_, err := kustomize.Build(t.Context(), filepath.Join(dir, "in"))
			require.ErrorContains(t, err, tt.want)
			assert.Contains(t, err.Error(), tt.cure)
			assert.False(t, strings.HasPrefix(err.Error(), "Error:"), err.Error())
			var failed *process.Error
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, 1, failed.ExitStatus())
		})
	}
}
