package kube_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

// loginConfig is a kubeconfig of the server whose user is as given.
func loginConfig(s *apiServer, user string) []byte {
	return fmt.Appendf(nil, "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {certificate-authority-data: %s, server: %q}}]\n"+
		"contexts: [{name: test, context: {cluster: c, user: u, namespace: shop}}]\nusers:\n- name: u\n  user: %s\n", authority(s.Server), s.URL, user)
}

func authority(s *httptest.Server) string {
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// takeOnly has the server take a token, and returns those that it was sent.
func takeOnly(s *apiServer, token string) func() []string {
	var mu sync.Mutex
	var sent []string
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, r.Header.Get("Authorization"))
		if r.Header.Get("Authorization") == "Bearer "+token {
			r.Header.Set("Authorization", "Bearer secret-token")
		}
		return false
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return sent
	}
}

// idToken is a token of OpenID Connect, without a signature that would count.
func idToken(expires time.Time) string {
	part := func(value any) string {
		data, _ := json.Marshal(value)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return part(map[string]any{"alg": "none"}) + "." + part(map[string]any{"exp": expires.Unix()}) + ".c2lnbmVk"
}

// A token of OpenID Connect that has expired is refreshed, and kept where it came from.
func TestConnectByOpenID(t *testing.T) {
	fresh := idToken(time.Now().Add(time.Hour))
	for _, inFile := range []bool{false, true} {
		t.Run(fmt.Sprintf("in a file %v", inFile), func(t *testing.T) {
			s := newAPIServer(t)
			sent := takeOnly(s, fresh)
			var issuer *httptest.Server
			asked := 0
			issuer = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/.well-known/openid-configuration":
					answer(w, 200, map[string]string{"issuer": issuer.URL, "token_endpoint": issuer.URL + "/token"})
				case "/token":
					asked++
					if r.FormValue("refresh_token") != "first-refresh" {
						w.WriteHeader(http.StatusBadRequest)
						return
					}
					answer(w, 200, map[string]any{"access_token": "a", "token_type": "Bearer", "refresh_token": "second-refresh", "id_token": fresh})
				}
			}))
			t.Cleanup(issuer.Close)
			content := loginConfig(s, fmt.Sprintf("{auth-provider: {name: oidc, config: {idp-issuer-url: %q, client-id: kubernetes, idp-certificate-authority-data: %s, id-token: %s, refresh-token: first-refresh}}}",
				issuer.URL, authority(issuer), idToken(time.Now().Add(-time.Hour))))
			config := kube.Config{Data: content}
			if inFile {
				config = kube.Config{Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
				require.NoError(t, os.WriteFile(config.Kubeconfig, content, 0o600))
			}
			client, err := kube.Connect(config)
			require.NoError(t, err)
			for range 2 {
				_, err = client.Apply(t.Context(), load(t, settingsMaps("1", "a")), kube.ApplyOptions{})
				require.NoError(t, err)
			}
			for _, header := range sent() {
				assert.Equal(t, "Bearer "+fresh, header)
			}
			assert.Equal(t, 1, asked)
			if inFile {
				kept, err := os.ReadFile(config.Kubeconfig)
				require.NoError(t, err)
				assert.Contains(t, string(kept), "second-refresh", "the first one may be good for one time")
				assert.Contains(t, string(kept), fresh)
			}
		})
	}
}

// A program of the kubeconfig's is asked for the token.
func TestConnectByAProgram(t *testing.T) {
	s := newAPIServer(t)
	sent := takeOnly(s, "by-the-program")
	dir := t.TempDir()
	program := filepath.Join(dir, "login")
	require.NoError(t, os.WriteFile(program, []byte(`#!/bin/sh
echo "$1 $WHO" >>`+dir+`/asked
echo '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "by-the-program"}}'
`), 0o755))
	content := loginConfig(s, fmt.Sprintf("{exec: {apiVersion: client.authentication.k8s.io/v1, command: %q, args: [get-token], env: [{name: WHO, value: ci}], interactiveMode: Never}}", program))
	client, err := kube.Connect(kube.Config{Data: content})
	require.NoError(t, err)
	_, err = client.Apply(t.Context(), load(t, settingsMaps("1", "a")), kube.ApplyOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, sent())
	for _, header := range sent() {
		assert.Equal(t, "Bearer by-the-program", header)
	}
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	require.NoError(t, err)
	assert.Equal(t, "get-token ci", strings.TrimSpace(string(asked)), "once")
}

func TestConnectByWhatIsGivenUp(t *testing.T) {
	s := newAPIServer(t)
	_, err := kube.Connect(kube.Config{Data: loginConfig(s, "{auth-provider: {name: gcp, config: {access-token: s3cret}}}")})
	require.ErrorContains(t, err, `connecting to the cluster: the context "test" of the kubeconfig that was given as data logs in by the auth-provider "gcp", which clients have given up; have a program do it`)
	assert.NotContains(t, err.Error(), "s3cret")
}
