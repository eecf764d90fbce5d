package kube_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

func configMaps(t *testing.T, namespace string) []*kube.Object {
	t.Helper()
	file := filepath.Join(t.TempDir(), "map.yaml")
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	if namespace != "" {
		text += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: " + namespace + "}\n"
	}
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	objects, err := kube.Load(file)
	require.NoError(t, err)
	return objects
}

func TestApplyGivesUpOnASilentServer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	client, err := kube.Connect(kube.Config{Data: kubeconfig("http://"+silent.Addr().String(), "c")}.WithPatience(50 * time.Millisecond))
	require.NoError(t, err)
	start := time.Now()
	_, err = client.Apply(t.Context(), configMaps(t, ""), kube.ApplyOptions{})
	require.ErrorContains(t, err, silent.Addr().String()+" does not answer for 50ms")
	assert.Less(t, time.Since(start), 30*time.Second, "it is not asked again and again")
}

func TestApplyGivesUpOnHalfAnAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"APIResourceList","resources":[`))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	client, err := kube.Connect(kube.Config{Data: kubeconfig(server.URL, "c")}.WithPatience(50 * time.Millisecond))
	require.NoError(t, err)
	_, err = client.Apply(t.Context(), configMaps(t, ""), kube.ApplyOptions{})
	require.ErrorContains(t, err, server.Listener.Addr().String()+" does not answer for 50ms")
}

func TestApplyRefusesWhatTheNamespaceMakesOne(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, http.MethodGet, r.Method, "nothing is applied")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"APIResourceList","resources":[{"name":"configmaps","kind":"ConfigMap","namespaced":true}]}`))
	}))
	defer server.Close()
	client, err := kube.Connect(kube.Config{Data: kubeconfig(server.URL, "c"), Namespace: "shop"})
	require.NoError(t, err)
	_, err = client.Apply(t.Context(), configMaps(t, "shop"), kube.ApplyOptions{})
	require.ErrorContains(t, err, "only one of them can be applied")
}

func TestNoLoginOfAKubeconfigIsQuoted(t *testing.T) {
	for name, replace := range map[string][2]string{
		"proxy":          {"server:", "proxy-url: http://user:s3cr3t@proxy:x\n    server:"},
		"proxy's scheme": {"server:", "proxy-url: ftp://user:s3cr3t@proxy\n    server:"},
		"server's port":  {"https://one.example.org", "https://user:s3cr3t@127.0.0.1:x"},
		"closed server":  {"https://one.example.org", "https://user:s3cr3t@127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			data := strings.Replace(block(t, "https://one.example.org"), replace[0], replace[1], 1)
			client, err := kube.Connect(kube.Config{Data: []byte(data)})
			if err == nil {
				assert.NotContains(t, client.Host(), "cr3t")
				_, err = client.Apply(t.Context(), configMaps(t, ""), kube.ApplyOptions{})
			}
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "cr3t")
		})
	}
}

// block is a kubeconfig in block style.
func block(t *testing.T, server string) string {
	t.Helper()
	return "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: " + server + "\ncontexts:\n- name: c\n  context: {cluster: c, user: u}\nusers:\n- name: u\n  user: {token: t}\n"
}

func TestMissingCredentialPluginIsToldAtOnce(t *testing.T) {
	data := strings.Replace(block(t, "https://127.0.0.1:1"), "user: {token: t}",
		"user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-plugin, interactiveMode: Never}}", 1)
	client, err := kube.Connect(kube.Config{Data: []byte(data)})
	require.NoError(t, err)
	start := time.Now()
	_, err = client.Apply(t.Context(), configMaps(t, ""), kube.ApplyOptions{})
	require.ErrorContains(t, err, "install what the kubeconfig gets the login from")
	assert.Less(t, time.Since(start), 30*time.Second)
}
