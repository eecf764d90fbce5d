package kube_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

func TestLoadKustomize(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	write("plain/a.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n")
	for _, name := range []string{"base/kustomization.yaml", "overlays/one/kustomization.yml", "overlays/two/Kustomization"} {
		write(name, "resources: []\n")
	}
	rendered := "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n---\nkind: Oops\n"
	var asked []string
	loader := kube.Loader{Kustomize: func(_ context.Context, dir string) ([]byte, error) {
		asked = append(asked, dir)
		return []byte(rendered), nil
	}}
	one := filepath.Join(dir, "overlays", "one")
	_, err := loader.Load(t.Context(), one)
	require.ErrorContains(t, err, filepath.Join(one, "kustomization.yml")+" (rendered):3: document 2: there is no apiVersion; add it")

	rendered = "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n"
	asked = nil
	objects, err := loader.Load(t.Context(), filepath.Join(dir, "plain"), one, one+"/")
	require.NoError(t, err)
	require.Len(t, objects, 2)
	assert.Equal(t, "ConfigMap/b", objects[1].String())
	assert.Equal(t, []string{one}, asked, "each folder once")

	_, err = loader.Load(t.Context(), dir)
	require.ErrorContains(t, err, "name the one that is meant: "+filepath.Join(dir, "base")+", "+one+", "+filepath.Join(dir, "overlays", "two"))
	_, err = kube.Load(one)
	require.ErrorContains(t, err, "nothing renders kustomize folders here")

	no := errors.New("accumulating resources: no such file")
	loader.Kustomize = func(context.Context, string) ([]byte, error) { return nil, no }
	_, err = loader.Load(t.Context(), one)
	require.ErrorIs(t, err, no)
	require.ErrorContains(t, err, "rendering "+filepath.Join(one, "kustomization.yml"))
}
