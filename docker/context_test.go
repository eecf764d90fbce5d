package docker

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/testpki"
)

// makeContext writes a context as Docker's command does, and returns the folder of its TLS files.
func makeContext(t *testing.T, config, name, endpoint string) string {
	t.Helper()
	id := hashOfText(name)
	writeFiles(t, config, map[string]string{
		"contexts/meta/" + id + "/meta.json": fmt.Sprintf(`{"Name":%q,"Metadata":{"Description":"d"},"Endpoints":{"docker":%s}}`, name, endpoint),
	})
	return filepath.Join(config, "contexts", "tls", id, "docker")
}

// clean takes away what would say where an engine is, and returns a folder for Docker's configuration.
func clean(t *testing.T) string {
	t.Helper()
	cleanEnvironment(t)
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	for _, name := range []string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"} {
		t.Setenv(name, "")
	}
	return config
}

func TestConnectByContext(t *testing.T) {
	server := httptest.NewServer(&fakeEngine{})
	t.Cleanup(server.Close)
	host := "tcp://" + server.Listener.Addr().String()
	endpoint := fmt.Sprintf(`{"Host":%q,"SkipTLSVerify":false}`, host)
	for _, test := range []struct {
		name string
		do   func(t *testing.T, config string)
	}{
		{name: "of the configuration", do: func(t *testing.T, config string) {
			writeFiles(t, config, map[string]string{"config.json": `{"currentContext":"remote","auths":{}}`})
		}},
		{name: "of the environment", do: func(t *testing.T, config string) {
			writeFiles(t, config, map[string]string{"config.json": `{"currentContext":"nowhere"}`})
			t.Setenv("DOCKER_CONTEXT", "remote")
		}},
		{name: "DOCKER_HOST comes first", do: func(t *testing.T, _ string) {
			t.Setenv("DOCKER_CONTEXT", "nowhere")
			t.Setenv("DOCKER_HOST", host)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := clean(t)
			makeContext(t, config, "remote", endpoint)
			test.do(t, config)
			engine, err := Connect(t.Context())
			require.NoError(t, err)
			assert.Equal(t, host, engine.host())
			require.NoError(t, engine.Close())
		})
	}
	t.Run("none", func(t *testing.T) {
		config := clean(t)
		for _, content := range []string{`{}`, `{"currentContext":"default"}`} {
			writeFiles(t, config, map[string]string{"config.json": content})
			at, err := currentEndpoint()
			require.NoError(t, err)
			assert.Nil(t, at)
		}
	})
}

func TestContextThatCannotBeUsed(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, config string)
		want []string
	}{
		{name: "unknown", do: func(t *testing.T, config string) {
			makeContext(t, config, "one", `{"Host":"unix:///a"}`)
			makeContext(t, config, "another", `{"Host":"unix:///a"}`)
			t.Setenv("DOCKER_CONTEXT", "../../etc")
		}, want: []string{`Docker's context "../../etc", which DOCKER_CONTEXT names`, "name one of another, default, one, or set DOCKER_HOST"}},
		{name: "damaged configuration", do: func(t *testing.T, config string) {
			writeFiles(t, config, map[string]string{"config.json": `{"currentContext":`})
		}, want: []string{"config.json: unexpected end of JSON input; mend it, or set DOCKER_HOST"}},
		{name: "damaged context", do: func(t *testing.T, config string) {
			makeContext(t, config, "remote", `{`)
			t.Setenv("DOCKER_CONTEXT", "remote")
		}, want: []string{"meta.json: ", "make it again by docker context create"}},
		{name: "of something else", do: func(t *testing.T, config string) {
			makeContext(t, config, "remote", `{}`)
			t.Setenv("DOCKER_CONTEXT", "remote")
		}, want: []string{"meta.json names no Docker Engine"}},
		{name: "malformed host", do: func(t *testing.T, config string) {
			makeContext(t, config, "remote", `{"Host":"bob:hunter2@builder"}`)
			t.Setenv("DOCKER_CONTEXT", "remote")
		}, want: []string{"look at docker context inspect remote"}},
		{name: "damaged authority", do: func(t *testing.T, config string) {
			writeFiles(t, makeContext(t, config, "remote", `{"Host":"tcp://127.0.0.1:1"}`), map[string]string{"ca.pem": "no certificate"})
			t.Setenv("DOCKER_CONTEXT", "remote")
		}, want: []string{"ca.pem holds no certificate"}},
		{name: "a certificate without its key", do: func(t *testing.T, config string) {
			writeFiles(t, makeContext(t, config, "remote", `{"Host":"tcp://127.0.0.1:1"}`), map[string]string{"cert.pem": "x"})
			t.Setenv("DOCKER_CONTEXT", "remote")
		}, want: []string{"cert.pem and key.pem are no pair"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.do(t, clean(t))
			_, err := Connect(t.Context())
			require.ErrorContains(t, err, "connecting to a Docker Engine: ")
			for _, want := range test.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestConnectByContextOverTLS(t *testing.T) {
	authority, err := testpki.NewAuthority("engine")
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(&fakeEngine{})
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	ours, key, err := authority.Issue(testpki.Subject{Name: "client"})
	require.NoError(t, err)
	host := "tcp://" + server.Listener.Addr().String()
	for _, test := range []struct {
		name  string
		skip  bool
		files map[string]string
		want  string
	}{
		{name: "trusted", files: map[string]string{"ca.pem": certificate, "cert.pem": string(ours), "key.pem": string(key)}},
		{name: "not trusted", files: map[string]string{"ca.pem": string(authority.Certificate)}, want: "certificate"},
		{name: "not asked", skip: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := clean(t)
			writeFiles(t, makeContext(t, config, "remote", fmt.Sprintf(`{"Host":%q,"SkipTLSVerify":%t}`, host, test.skip)), test.files)
			t.Setenv("DOCKER_CONTEXT", "remote")
			var logged strings.Builder
			engine, err := Connect(zerolog.New(&logged).WithContext(t.Context()))
			assert.Equal(t, test.skip, strings.Contains(logged.String(), "certificate is not checked"))
			if test.want != "" {
				assert.ErrorContains(t, err, test.want)
				return
			}
			require.NoError(t, err)
			assert.NoError(t, engine.Close())
		})
	}
}

// An engine behind ssh: the program ssh is one that runs the same at once, here.
func TestConnectOverSSH(t *testing.T) {
	dir, err := os.MkdirTemp("", "ssh") // t.TempDir is too long a path for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "docker.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: &fakeEngine{}}}
	server.Start()
	t.Cleanup(server.Close)
	program := "#!/bin/sh\necho \"$@\" >>" + dir + "/args\n" + testProcess + "='dial " + socket + "' exec " + os.Args[0] + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ssh"), []byte(program), 0o755))

	config := clean(t)
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	makeContext(t, config, "far", `{"Host":"ssh://bob@builder.example.org:2222"}`)
	t.Setenv("DOCKER_CONTEXT", "far")
	engine, err := Connect(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "ssh://builder.example.org:2222", engine.host())
	require.NoError(t, engine.Close())
	args, err := os.ReadFile(filepath.Join(dir, "args"))
	require.NoError(t, err)
	assert.Contains(t, string(args), "-l bob -p 2222")
	assert.Contains(t, string(args), "builder.example.org docker system dial-stdio")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "ssh"), []byte("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n"), 0o755))
	for range 30 { // whether the reader or the writer finds out first is luck
		_, err = Connect(t.Context())
		assert.ErrorContains(t, err, "Permission denied (publickey)")
	}
}

// endedConn is a connection to a program that has ended, and whose last words nobody has read yet.
type endedConn struct {
	net.Conn
	rest io.Reader
}

func (endedConn) Write([]byte) (int, error)    { return 0, syscall.EPIPE }
func (c endedConn) Read(p []byte) (int, error) { return c.rest.Read(p) }

func TestWriteTakesNothingFromTheReader(t *testing.T) {
	said := errors.New("the program said why")
	dial := throughProgram(func(context.Context, string, string) (net.Conn, error) {
		return endedConn{rest: io.MultiReader(strings.NewReader("answer"), iotest.ErrReader(said))}, nil
	})
	conn, err := dial(t.Context(), "", "")
	require.NoError(t, err)
	_, err = conn.Write([]byte("request"))
	require.ErrorIs(t, err, syscall.EPIPE)
	rest, err := io.ReadAll(conn)
	require.ErrorIs(t, err, said)
	assert.Equal(t, "answer", string(rest))
	_, err = conn.Write([]byte("request"))
	require.ErrorIs(t, err, said)
}
