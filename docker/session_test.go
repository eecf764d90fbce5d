package docker

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// sessionClient speaks to a session as an engine does: over the connection that the client has opened.
func sessionClient(t *testing.T, s *buildSession) *http.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	ours, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	engines, err := listener.Accept()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.serve(ctx, ours)
	}()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{
		Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return engines, nil },
	}}
	t.Cleanup(func() {
		cancel()
		select {
		case <-served:
		case <-time.After(10 * time.Second):
			t.Error("the session goes on after its end")
		}
		client.CloseIdleConnections()
	})
	return client
}

// callSession asks a session by gRPC.
func callSession(t *testing.T, s *buildSession) func(method string, body []byte) (reply []byte, status string) {
	client := sessionClient(t, s)
	return func(method string, body []byte) ([]byte, string) {
		t.Helper()
		response, err := client.Post("http://session"+method, "application/grpc", bytes.NewReader(body))
		require.NoError(t, err)
		defer response.Body.Close()
		reply, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Equal(t, "application/grpc", response.Header.Get("Content-Type"))
		return reply, response.Trailer.Get("Grpc-Status")
	}
}

func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func TestSession(t *testing.T) {
	call := callSession(t, newBuildSession(contextOf(t, map[string]string{"Dockerfile": "FROM scratch\n"}), []Auth{
		{Host: "index.docker.io", Username: "bob", Password: "hub"}, {Host: "example.org", IdentityToken: "token"},
	}, map[string][]byte{"npm": []byte("s3cret")}))

	reply, status := call(methodHealth, framed(nil))
	assert.Equal(t, codeOK, status)
	assert.Equal(t, framed([]byte{8, 1}), reply, "serving")

	for host, want := range map[string][2]string{
		"registry-1.docker.io": {"bob", "hub"}, "https://index.docker.io/v1/": {"bob", "hub"}, "example.org": {"", "token"}, "example.com": {"", ""},
	} {
		reply, status := call(methodCredentials, framed(appendBytes(nil, 1, []byte(host))))
		assert.Equal(t, codeOK, status)
		fields, err := readMessage(bytes.NewReader(reply))
		require.NoError(t, err)
		assert.Equal(t, want, [2]string{string(fields[1]), string(fields[2])}, host)
	}

	reply, status = call(methodSecret, framed(appendBytes(nil, 1, []byte("npm"))))
	assert.Equal(t, codeOK, status)
	assert.Equal(t, framed(appendBytes(nil, 1, []byte("s3cret"))), reply)
	reply, status = call(methodSecret, framed(appendBytes(nil, 1, []byte("other"))))
	assert.Equal(t, codeNotFound, status)
	assert.Empty(t, reply)

	_, status = call("/moby.filesync.v1.Auth/FetchToken", framed(nil))
	assert.Equal(t, codeUnimplemented, status)
	for name, body := range map[string][]byte{
		"empty": nil, "cut off": framed([]byte("abc"))[:6], "compressed": {1, 0, 0, 0, 0}, "enormous": {0, 0xff, 0xff, 0xff, 0xff},
		"no message": framed([]byte{0xff, 0xff}), "a length beyond its end": framed(protowire.AppendVarint([]byte{10}, 99)),
	} {
		_, status := call(methodSecret, body)
		assert.Equal(t, codeInvalid, status, name)
	}
}
