package deploy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/targets"
)

func TestReleaseName(t *testing.T) {
	valid := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`) // as package kube has it
	long := strings.Repeat("payment-", 5)
	for _, same := range []string{"pay", "pay-api", "7", "pay2", long[:39]} {
		assert.Equal(t, same, releaseName(same))
	}
	// Another hash would make another release of one that is live.
	for name, want := range map[string]string{
		"pay_api":       "pay-api-f995b57a",
		"Pay":           "pay-723afa39",
		"-pay":          "pay-1164ad3b",
		"日本":            "cf2abf0c",
		long + "one":    "payment-payment-payment-payment-",
		long[:39] + "-": "payment-payment-payment-payment-",
	} {
		got := releaseName(name)
		assert.Regexp(t, valid, got)
		assert.Contains(t, got, want, name)
	}
	names := []string{"pay-api", "pay_api", "pay.api", "Pay-api", "-pay-api", "päy-api", "pöy-api", long + "one", long + "two", long, long[:39]}
	releases := make(map[string]string)
	for _, name := range names {
		got := releaseName(name)
		assert.Empty(t, releases[got], "%q and %q are one release", name, releases[got])
		releases[got] = name
	}
}

// What Kubernetes' client would write to stderr itself goes to the log, at its level for details.
func TestLogOfTheClient(t *testing.T) {
	routed = sync.Once{}
	broken := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken {
			http.NotFound(w, r)
			return
		}
		broken = true
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, `{"kind": "ConfigMap", `)
	}))
	defer server.Close()
	kubeconfig := fmt.Sprintf("{apiVersion: v1, kind: Config, clusters: [{name: a, cluster: {server: %q}}], contexts: [{name: a, context: {cluster: a}}]}", server.URL)
	t.Setenv("KUBECONFIG_DATA", base64.StdEncoding.EncodeToString([]byte(kubeconfig)))
	var log bytes.Buffer
	client, err := connect(zerolog.New(&log).WithContext(t.Context()), targets.Service{})
	require.NoError(t, err)
	_, err = client.History(t.Context(), "pay")
	require.ErrorContains(t, err, "could not find", "the second time")
	assert.Contains(t, log.String(), `{"level":"debug","message":"Kubernetes' client: `)
}
