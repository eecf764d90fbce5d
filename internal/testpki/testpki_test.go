package testpki_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/testpki"
)

func TestCertificates(t *testing.T) {
	authority, err := testpki.NewAuthority("an authority")
	require.NoError(t, err)
	pair := func(s testpki.Subject) tls.Certificate {
		certificate, key, err := authority.Issue(s)
		require.NoError(t, err)
		pair, err := tls.X509KeyPair(certificate, key)
		require.NoError(t, err)
		return pair
	}
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(authority.Certificate))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := r.TLS.PeerCertificates[0].Subject
		_, _ = io.WriteString(w, subject.CommonName+" of "+strings.Join(subject.Organization, ","))
	}))
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair(testpki.Subject{Name: "server", Hosts: []string{"127.0.0.1", "localhost"}})},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: roots,
	}
	server.StartTLS()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair(testpki.Subject{Name: "ci", Organization: "team"})},
	}}}
	defer client.CloseIdleConnections()
	response, err := client.Get(server.URL)
	require.NoError(t, err)
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Equal(t, "ci of team", string(said))

	other, err := testpki.NewAuthority("another authority")
	require.NoError(t, err)
	strange := x509.NewCertPool()
	strange.AppendCertsFromPEM(other.Certificate)
	_, err = (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: strange}}}).Get(server.URL)
	require.ErrorContains(t, err, "unknown authority")
}
