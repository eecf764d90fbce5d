package testregistry_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testregistry"
)

func TestRegistryAsksForTheLogin(t *testing.T) {
	for name, o := range map[string]testregistry.Options{
		"HTTP": {Username: "bob", Password: "hunter2"},
		"TLS":  {Username: "bob", Password: "hunter2", TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := needs.Registry(t, o)
			scheme := "http://"
			if o.TLS {
				scheme = "https://"
			}
			transport := r.Transport()
			defer transport.CloseIdleConnections()
			for password, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, "hunter2": http.StatusOK} {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+r.Host+"/v2/", nil)
				require.NoError(t, err)
				if password != "" {
					request.SetBasicAuth("bob", password)
				}
				response, err := (&http.Client{Transport: transport}).Do(request)
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				assert.Equal(t, want, response.StatusCode, password)
			}
		})
	}
}
