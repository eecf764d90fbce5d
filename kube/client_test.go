package kube_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

func TestConnect(t *testing.T) {
	file := func(name string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	one := file("one", kubeconfig("https://one.example.org", "one"))
	two := file("two", kubeconfig("https://two.example.org", "two-a", "two-b"))
	another := file("another", []byte("apiVersion: v1\nkind: Config\ncontexts: [{name: another, context: {cluster: c, user: u}}]\n"))
	home := filepath.Dir(filepath.Dir(file(".kube/config", kubeconfig("https://home.example.org", "home"))))
	data := kubeconfig("https://data.example.org", "data")
	broken := file("broken", []byte("users: [{user: {token: [secret-token]}}]"))
	stale := file("stale", append(kubeconfig("https://x.example.org", "x"), "current-context: gone\n"...))
	none := file("none", []byte("apiVersion: v1\nkind: Config\n"))
	missing := filepath.Join(t.TempDir(), "missing")

	tests := []struct {
		name          string
		config        kube.Config
		environment   string // KUBECONFIG
		home          string
		host          string
		wantNamespace string
		wantErr       string
	}{
		{name: "data first", config: kube.Config{Data: data, Kubeconfig: one}, environment: two, home: home,
			host: "https://data.example.org", wantNamespace: "data-namespace"},
		{name: "then the path", config: kube.Config{Kubeconfig: one}, environment: two, home: home,
			host: "https://one.example.org", wantNamespace: "one-namespace"},
		{name: "then KUBECONFIG", environment: one, home: home, host: "https://one.example.org", wantNamespace: "one-namespace"},
		{name: "then the home folder", home: home, host: "https://home.example.org", wantNamespace: "home-namespace"},
		{name: "KUBECONFIG of several files, one missing", environment: missing + string(os.PathListSeparator) + one,
			host: "https://one.example.org", wantNamespace: "one-namespace"},
		{name: "contexts of several files", environment: one + string(os.PathListSeparator) + another,
			wantErr: "has 2 contexts and none was chosen; name one of: another, one"},
		{name: "context without namespace", environment: one + string(os.PathListSeparator) + another,
			config: kube.Config{Context: "another"}, host: "https://one.example.org", wantNamespace: "default"},
		{name: "chosen context", config: kube.Config{Kubeconfig: two, Context: "two-b"},
			host: "https://two.example.org", wantNamespace: "two-b-namespace"},
		{name: "chosen namespace", config: kube.Config{Kubeconfig: one, Namespace: "shop"},
			host: "https://one.example.org", wantNamespace: "shop"},

		{name: "several contexts", config: kube.Config{Kubeconfig: two},
			wantErr: "has 2 contexts and none was chosen; name one of: two-a, two-b"},
		{name: "unknown context", config: kube.Config{Kubeconfig: two, Context: "prod"},
			wantErr: `has no context "prod"; name one of: two-a, two-b`},
		{name: "current context that is gone", config: kube.Config{Kubeconfig: stale}, wantErr: `the current context "gone"`},
		{name: "no context", config: kube.Config{Kubeconfig: none}, wantErr: "has no context; add one"},
		{name: "path missing", config: kube.Config{Kubeconfig: missing}, home: home,
			wantErr: "there is no kubeconfig " + missing + ", which Config.Kubeconfig names"},
		{name: "KUBECONFIG missing", environment: missing, home: home, wantErr: "which KUBECONFIG names; write it there"},
		{name: "broken", config: kube.Config{Kubeconfig: broken}, wantErr: "cannot be read; see what `kubectl config view` says"},
		{name: "broken data", config: kube.Config{Data: []byte("token: [secret-token")},
			wantErr: "the kubeconfig that was given as data cannot be read"},
		{name: "no cluster", config: kube.Config{Kubeconfig: another}, wantErr: `the context "another" of `},
		{name: "nothing", wantErr: "there is no kubeconfig, and this does not run in a cluster; set KUBECONFIG"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", tt.environment)
			t.Setenv("HOME", tt.home)
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			if tt.home == "" {
				t.Setenv("HOME", t.TempDir())
			}
			client, err := kube.Connect(tt.config)
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
				assert.ErrorContains(t, err, "connecting to the cluster: ")
				assert.NotContains(t, err.Error(), "secret-token")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.host, client.Host())
			assert.Equal(t, tt.wantNamespace, client.Namespace())
		})
	}
}
