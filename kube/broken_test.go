package kube

import (
	"errors"
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What net/http says when a connection that several requests share is gone; none of these has a type.
func TestIsBroken(t *testing.T) {
	for text, want := range map[string]bool{
		"http2: client connection lost":                                    true,
		"http2: client connection force closed via ClientConn.Close":       true,
		"http2: client conn could not be established":                      true,
		"http2: client conn is closed":                                     true,
		"http2: client conn not usable":                                    true,
		"http2: Transport received Server's graceful shutdown GOAWAY":      true,
		"stream error: stream ID 7; INTERNAL_ERROR; received from peer":    true,
		"tls: failed to verify certificate: x509: certificate has expired": false,
		"http: server gave HTTP response to HTTPS client":                  false,
		"http2: request header list larger than peer's advertised limit":   false,
		`strict decoding error: unknown field "spec.replcas"`:              false,
	} {
		err := fmt.Errorf("asking: %w", &url.Error{Op: "Get", URL: "https://api.example.org", Err: errors.New(text)})
		assert.Equal(t, want, isBroken(err), text)
	}
}
