package docker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testregistry"
)

// gate stands in front of a registry.
type gate func(http.Handler) http.Handler

// serveRegistry serves an empty registry behind gates, the first one outermost, and returns its host and port.
func serveRegistry(t *testing.T, gates ...gate) string {
	t.Helper()
	server := httptest.NewServer(gated(gates...))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func gated(gates ...gate) http.Handler {
	return behind(registry.New(registry.Logger(log.New(io.Discard, "", 0))), gates...)
}

func behind(handler http.Handler, gates ...gate) http.Handler {
	for i := len(gates) - 1; i >= 0; i-- {
		handler = gates[i](handler)
	}
	return handler
}

// onEachRegistry runs cases on the registry in this process, and on one that is a server of its own. What serve puts in front of
// them is the same.
func onEachRegistry(t *testing.T, cases func(t *testing.T, serve func(t *testing.T, gates ...gate) string)) {
	t.Helper()
	t.Run("in process", func(t *testing.T) { cases(t, serveRegistry) })
	t.Run("real", func(t *testing.T) {
		cases(t, func(t *testing.T, gates ...gate) string {
			real := needs.Registry(t, testregistry.Options{})
			server := httptest.NewUnstartedServer(behind(real, gates...))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.Start()
			t.Cleanup(server.Close)
			return server.Listener.Addr().String()
		})
	})
}

// testRegistry does not wait between tries, and leaves no connection behind.
func testRegistry(t *testing.T) Registry {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return Registry{Transport: transport, Backoff: make([]time.Duration, 3)}
}

func withLogin(r Registry, host, username, password string) Registry {
	r.Host, r.Username, r.Password = host, username, password
	return r
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func basic(username, password string) gate {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if u, p, ok := req.BasicAuth(); !ok || u != username || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				// As bad as a registry can be: it says what it got.
				refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "no: "+req.Header.Get("Authorization")+" "+p)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

// bearer hands out tokens at /token for a login, as Gitea and most others do.
func bearer(username, password string) gate {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.URL.Path == "/token":
				if u, p, _ := req.BasicAuth(); u != username || p != password {
					refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
					return
				}
				io.WriteString(w, `{"token":"t0ken"}`)
			case req.Header.Get("Authorization") != "Bearer t0ken":
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry"`, req.Host))
				refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			default:
				next.ServeHTTP(w, req)
			}
		})
	}
}

// failing answers the first n requests that match with a status; n below 0 is always.
func failing(n int64, status int, matches func(*http.Request) bool) gate {
	return func(next http.Handler) http.Handler {
		var left atomic.Int64
		left.Store(n)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if matches(req) && (n < 0 || left.Add(-1) >= 0) {
				http.Error(w, "<html>"+http.StatusText(status)+"</html>", status)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

// busy answers the first n requests that match, or all, with 429 and the time after which to come again.
func busy(n int64, after string, matches func(*http.Request) bool) gate {
	refusing := failing(n, http.StatusTooManyRequests, matches)
	return func(next http.Handler) http.Handler {
		inner := refusing(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if matches(req) {
				w.Header().Set("Retry-After", after)
			}
			inner.ServeHTTP(w, req)
		})
	}
}

// cutting resets the connection of the first n requests that match, after some of their body.
func cutting(n int64, matches func(*http.Request) bool) gate {
	return func(next http.Handler) http.Handler {
		var left atomic.Int64
		left.Store(n)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !matches(req) || left.Add(-1) < 0 {
				next.ServeHTTP(w, req)
				return
			}
			io.CopyN(io.Discard, req.Body, 100)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		})
	}
}

// requests counts by method and kind of path.
type requests struct {
	mu    sync.Mutex
	order []string
}

func (r *requests) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		kind := "ping"
		for _, part := range []string{"manifests", "uploads", "blobs"} {
			if strings.Contains(req.URL.Path, "/"+part+"/") {
				kind = part
				break
			}
		}
		r.mu.Lock()
		r.order = append(r.order, req.Method+" "+kind)
		r.mu.Unlock()
		next.ServeHTTP(w, req)
	})
}

func (r *requests) count(kind string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, seen := range r.order {
		if strings.HasPrefix(seen, kind) {
			n++
		}
	}
	return n
}

func always(*http.Request) bool { return true }

func method(methods ...string) func(*http.Request) bool {
	return func(req *http.Request) bool {
		for _, m := range methods {
			if req.Method == m {
				return true
			}
		}
		return false
	}
}

func randomImage(t *testing.T, layers int64) (v1.Image, string) {
	t.Helper()
	img, err := random.Image(1000, layers)
	require.NoError(t, err)
	digest, err := img.Digest()
	require.NoError(t, err)
	return img, digest.String()
}

func TestPushAndLookUp(t *testing.T) { onEachRegistry(t, pushAndLookUp) }

func pushAndLookUp(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	tests := []struct {
		name  string
		gates []gate
		login bool
	}{
		{name: "open"},
		{name: "basic", gates: []gate{basic("bob", "hunter2")}, login: true},
		{name: "bearer", gates: []gate{bearer("bob", "hunter2")}, login: true},
		{name: "three times 503", gates: []gate{failing(3, http.StatusServiceUnavailable, always)}},
		{name: "429 on uploads", gates: []gate{failing(2, http.StatusTooManyRequests, method(http.MethodPost))}},
		{name: "500 on commits", gates: []gate{failing(2, http.StatusInternalServerError, method(http.MethodPut))}},
		{name: "cut uploads", gates: []gate{cutting(3, method(http.MethodPatch))}},
		{name: "cut manifests", gates: []gate{cutting(2, func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/manifests/") })}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cleanEnvironment(t)
			host := serve(t, test.gates...)
			r := testRegistry(t)
			if test.login {
				r = withLogin(r, host, "bob", "hunter2")
			}
			ref := host + "/shop/pay:4f2a"
			img, want := randomImage(t, 3)

			_, err := r.Digest(t.Context(), ref)
			require.ErrorIs(t, err, ErrNotFound)
			assert.EqualError(t, err, `looking up "`+ref+`": not in the registry`)
			digest, err := r.Push(t.Context(), ref, img)
			require.NoError(t, err)
			assert.Equal(t, want, digest)
			digest, err = r.Digest(t.Context(), ref)
			require.NoError(t, err)
			assert.Equal(t, want, digest)

			require.NoError(t, r.Tag(t.Context(), host+"/shop/pay@"+digest, "latest"))
			digest, err = r.Digest(t.Context(), host+"/shop/pay:latest")
			require.NoError(t, err)
			assert.Equal(t, want, digest)

			pulled, err := r.Pull(t.Context(), host+"/shop/pay:latest", "")
			require.NoError(t, err)
			layers, err := pulled.Layers()
			require.NoError(t, err)
			content, err := layers[0].Uncompressed()
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, content)
			assert.NoError(t, err)
		})
	}
}

// resetting ends the first n requests that match in the middle, as a proxy does whose registry has gone: by HTTP/2 a reset of the stream.
func resetting(n int64, matches func(*http.Request) bool) gate {
	return func(next http.Handler) http.Handler {
		var left atomic.Int64
		left.Store(n)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if matches(req) && left.Add(-1) >= 0 {
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, req)
		})
	}
}

func TestPushByHTTP2(t *testing.T) {
	for _, test := range []struct {
		name    string
		matches func(*http.Request) bool
	}{
		{name: "questions", matches: func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/shop/pay/") }},
		{name: "uploads", matches: method(http.MethodPost, http.MethodPatch)},
		{name: "commits", matches: method(http.MethodPut)},
	} {
		t.Run(test.name, func(t *testing.T) {
			cleanEnvironment(t)
			var others atomic.Int64
			server := httptest.NewUnstartedServer(gated(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.ProtoMajor != 2 {
						others.Add(1)
					}
					next.ServeHTTP(w, req)
				})
			}, resetting(3, test.matches)))
			server.EnableHTTP2 = true
			server.StartTLS()
			t.Cleanup(server.Close)
			r := testRegistry(t)
			r.Transport = server.Client().Transport
			img, want := randomImage(t, 1)
			digest, err := r.Push(t.Context(), server.Listener.Addr().String()+"/shop/pay:1", img)
			require.NoError(t, err)
			assert.Equal(t, want, digest)
			assert.Zero(t, others.Load(), "requests by another protocol")
		})
	}
}

// What net/http says when a connection that several requests share is gone; none of these has a type.
func TestBrokenByHTTP2(t *testing.T) {
	for text, want := range map[string]error{
		"http2: client connection lost": errReset,
		"http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=\"\"": errReset,
		"stream error: stream ID 7; INTERNAL_ERROR; received from peer":                                     errReset,
		"http2: request header list larger than peer's advertised limit":                                    nil,
		"tls: failed to verify certificate: x509: certificate has expired":                                  nil,
	} {
		err := &url.Error{Op: "Get", URL: "https://registry.example.org", Err: errors.New(text)}
		assert.Equal(t, want, broken(err), text)
		assert.Equal(t, want != nil, passing(err), text)
	}
}

func TestPushUploadsWhatIsMissing(t *testing.T) { onEachRegistry(t, pushUploadsWhatIsMissing) }

func pushUploadsWhatIsMissing(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	cleanEnvironment(t)
	seen := &requests{}
	host := serve(t, seen.gate)
	r := testRegistry(t)
	img, _ := randomImage(t, 2)
	_, err := r.Push(t.Context(), host+"/shop/pay:1", img)
	require.NoError(t, err)
	assert.Equal(t, 3, seen.count("POST uploads"), "two layers and the configuration")
	assert.Equal(t, "PUT manifests", seen.order[len(seen.order)-1], "the tag moves last")

	seen.order = nil
	_, err = r.Push(t.Context(), host+"/shop/pay:1", img)
	require.NoError(t, err)
	assert.Zero(t, seen.count("POST")+seen.count("PUT")+seen.count("PATCH"), "the same push again changes nothing")

	require.NoError(t, r.Tag(t.Context(), host+"/shop/pay:1", "latest"))
	seen.order = nil
	require.NoError(t, r.Tag(t.Context(), host+"/shop/pay:1", "latest"))
	assert.Zero(t, seen.count("PUT"), "the same tag again changes nothing")

	layer, err := random.Layer(1000, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	require.NoError(t, err)
	more, err := mutate.AppendLayers(img, layer)
	require.NoError(t, err)
	seen.order = nil
	_, err = r.Push(t.Context(), host+"/shop/pay:2", more)
	require.NoError(t, err)
	assert.Equal(t, 2, seen.count("POST uploads"), "the new layer and the new configuration")
}

func TestFailedPushMovesNoTag(t *testing.T) { onEachRegistry(t, failedPushMovesNoTag) }

func failedPushMovesNoTag(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	cleanEnvironment(t)
	host := serve(t, failing(-1, http.StatusBadGateway, method(http.MethodPatch)))
	r := testRegistry(t)
	img, _ := randomImage(t, 2)
	_, err := r.Push(t.Context(), host+"/shop/pay:1", img)
	require.Error(t, err)
	_, err = r.Digest(t.Context(), host+"/shop/pay:1")
	assert.ErrorIs(t, err, ErrNotFound)
}

func TestRegistryFailures(t *testing.T) { onEachRegistry(t, registryFailures) }

func registryFailures(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := unused.Addr().String()
	unused.Close()
	deny := func(status int, code, message string) gate {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method != http.MethodPost {
					next.ServeHTTP(w, req)
					return
				}
				refuse(w, status, code, message)
			})
		}
	}
	tests := []struct {
		name     string
		gates    []gate
		host     string // in place of a server
		tls      bool
		username string
		asked    int // how often uploads are begun, where that matters
		want     []string
	}{
		{name: "no login", gates: []gate{basic("bob", "hunter2")}, want: []string{"refused the login", "no login was found: set REGISTRY_HOST", "docker login"}},
		{name: "wrong login", gates: []gate{basic("bob", "hunter2")}, username: "bob", want: []string{"refused the login", "check REGISTRY_USER and REGISTRY_PASS"}},
		{name: "wrong login for a token", gates: []gate{bearer("bob", "hunter2")}, username: "bob", want: []string{"refused the login", "check REGISTRY_USER and REGISTRY_PASS"}},
		{
			name: "missing scope", gates: []gate{deny(http.StatusForbidden, "DENIED", "insufficient scope")}, username: "bob", asked: 1,
			want: []string{"insufficient scope", "the right to write packages in shop/pay", "write:package"},
		},
		{
			name: "unknown owner", gates: []gate{deny(http.StatusNotFound, "NAME_UNKNOWN", "unknown owner")}, asked: 1,
			want: []string{"no owner or repository shop/pay", "create it, or correct the name"},
		},
		{
			name: "bad request", gates: []gate{deny(http.StatusBadRequest, "NAME_INVALID", "invalid name")}, asked: 1,
			want: []string{"answered 400 Bad Request: invalid name"},
		},
		{
			name: "always 500", gates: []gate{failing(-1, http.StatusInternalServerError, method(http.MethodPost))}, asked: 4,
			want: []string{"answered 500 Internal Server Error after 4 tries", "the registry's log"},
		},
		{
			name: "full", gates: []gate{deny(http.StatusInternalServerError, "UNKNOWN", "write /var/lib/registry/x: no space left on device")}, asked: 1,
			want: []string{"has no room left (500 Internal Server Error: write /var/lib/registry/x: no space left on device)", "free some on its disk"},
		},
		{name: "over quota", gates: []gate{deny(http.StatusInsufficientStorage, "", "")}, asked: 1, want: []string{"has no room left", "raise the owner's quota"}},
		{
			name: "busy for hours", gates: []gate{busy(-1, "7200", method(http.MethodPost))}, asked: 1,
			want: []string{"answered 429 Too Many Requests and wants no other try within 2h0m0s; try again later"},
		},
		{
			name: "damaged on the way", gates: []gate{deny(http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")}, asked: 4,
			want: []string{"answered 400 Bad Request: provided digest did not match uploaded content"},
		},
		{name: "always cut", gates: []gate{cutting(1000, always)}, want: []string{"the connection to", "broke after 4 tries"}},
		{name: "nobody listens", host: nobody, want: []string{"nothing listens at " + nobody, "check that the registry runs"}},
		{name: "no such host", host: "registry.invalid:5000", want: []string{"registry.invalid", "check the"}},
		{name: "unknown authority", tls: true, want: []string{"the certificate of", "is not trusted", "SSL_CERT_FILE"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cleanEnvironment(t)
			seen := &requests{}
			host := test.host
			switch {
			case test.tls:
				server := httptest.NewUnstartedServer(gated())
				server.Config.ErrorLog = log.New(io.Discard, "", 0)
				server.StartTLS()
				t.Cleanup(server.Close)
				host = server.Listener.Addr().String()
			case host == "":
				host = serve(t, append([]gate{seen.gate}, test.gates...)...)
			}
			r := testRegistry(t)
			if test.username != "" {
				r = withLogin(r, host, test.username, "s3cret+/pass")
			}
			img, _ := randomImage(t, 0)
			var logged strings.Builder
			ctx := zerolog.New(&logged).WithContext(t.Context())
			_, err := r.Push(ctx, host+"/shop/pay:1", img)
			require.ErrorContains(t, err, `pushing "`+host+`/shop/pay:1": `)
			for _, want := range test.want {
				assert.ErrorContains(t, err, want)
			}
			if test.asked > 0 {
				assert.Equal(t, test.asked, seen.count("POST uploads"))
			}
			for _, secret := range []string{"s3cret", base64.StdEncoding.EncodeToString([]byte("bob:s3cret+/pass")), "<html>"} {
				assert.NotContains(t, err.Error(), secret)
				assert.NotContains(t, logged.String(), secret)
			}
		})
	}
}

// A registry that says when to come again is asked then, and not before.
func TestPushWaitsAsLongAsItIsAsked(t *testing.T) {
	host := serveRegistry(t, busy(2, "1", method(http.MethodPost)))
	img, _ := randomImage(t, 0)
	begun := time.Now()
	_, err := testRegistry(t).Push(t.Context(), host+"/shop/pay:1", img)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begun), time.Second)
	soon := time.Now().Add(1500 * time.Millisecond).UTC().Format(http.TimeFormat)
	host = serveRegistry(t, busy(1, soon, method(http.MethodPost)))
	_, err = testRegistry(t).Push(t.Context(), host+"/shop/pay:1", img)
	require.NoError(t, err)
}

func TestSilentRegistryIsGivenUpOn(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			<-r.Context().Done()
		}
	}))
	defer silent.Close()
	r := Registry{Transport: withSilence(50 * time.Millisecond), Backoff: []time.Duration{}}
	_, err := r.Digest(t.Context(), silent.Listener.Addr().String()+"/shop/pay:1")
	require.ErrorContains(t, err, "did not answer")
	require.ErrorContains(t, err, "timeout awaiting response headers")
}

func TestRegistryOverTLS(t *testing.T) {
	cleanEnvironment(t)
	server := httptest.NewTLSServer(gated(basic("bob", "hunter2")))
	t.Cleanup(server.Close)
	host := server.Listener.Addr().String()
	r := withLogin(testRegistry(t), host, "bob", "hunter2")
	r.Transport = server.Client().Transport
	img, want := randomImage(t, 1)
	digest, err := r.Push(t.Context(), host+"/shop/pay:1", img)
	require.NoError(t, err)
	assert.Equal(t, want, digest)
}

// A host that is not on the loopback interface by its name is spoken to with TLS alone, unless it is called insecure.
func TestPlainHTTPWantsInsecure(t *testing.T) {
	cleanEnvironment(t)
	address := serveRegistry(t)
	r := testRegistry(t)
	r.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	img, _ := randomImage(t, 1)
	const ref = "git.example.org:3000/shop/pay:1"
	_, err := r.Push(t.Context(), ref, img)
	require.ErrorContains(t, err, "git.example.org:3000 speaks plain HTTP and not TLS")
	r.Host, r.Insecure = "git.example.org:3000", true
	_, err = r.Push(t.Context(), ref, img)
	require.NoError(t, err)
	_, err = r.Digest(t.Context(), "other.example.org/shop/pay:1")
	assert.ErrorContains(t, err, "speaks plain HTTP", "insecure is for the host alone")
}

func TestLogins(t *testing.T) {
	const reference = "git.example.org/shop/pay:1"
	config := func(t *testing.T, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(content), 0o600))
	}
	auths := `{"auths":{"git.example.org":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("carol:fromfile")) + `"}}}`
	tests := []struct {
		name   string
		r      Registry
		config string
		want   Auth
		err    string
	}{
		{name: "none", want: Auth{Host: "git.example.org"}},
		{name: "Docker's configuration", config: auths, want: Auth{Host: "git.example.org", Username: "carol", Password: "fromfile"}},
		{
			name: "given before Docker's configuration", config: auths, r: Registry{Host: "git.example.org", Username: "bob", Password: "hunter2"},
			want: Auth{Host: "git.example.org", Username: "bob", Password: "hunter2"},
		},
		{
			name: "upper case", r: Registry{Host: "Git.Example.Org", Username: "bob", Password: "hunter2"},
			want: Auth{Host: "git.example.org", Username: "bob", Password: "hunter2"},
		},
		{name: "for another host", r: Registry{Host: "example.org", Username: "bob", Password: "hunter2"}, want: Auth{Host: "git.example.org"}},
		{name: "for another port", r: Registry{Host: "git.example.org:3000", Username: "bob", Password: "hunter2"}, want: Auth{Host: "git.example.org"}},
		{name: "no host", r: Registry{Username: "bob", Password: "hunter2"}, err: "set REGISTRY_HOST"},
		{name: "no user", r: Registry{Host: "git.example.org", Password: "hunter2"}, err: "set REGISTRY_USER"},
		{name: "no password", r: Registry{Host: "git.example.org", Username: "bob"}, err: "set REGISTRY_PASS"},
		{name: "host with scheme", r: Registry{Host: "https://bob:hunter2@git.example.org"}, err: "has a login in front of it"},
		{name: "damaged configuration", config: `{"auths":`, err: "look at ~/.docker/config.json"},
		{name: "no such helper", config: `{"credHelpers":{"git.example.org":"grimoire-none"}}`, err: "install that credential helper"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cleanEnvironment(t)
			if test.config != "" {
				config(t, test.config)
			}
			auth, err := test.r.Auth(t.Context(), reference)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				assert.NotContains(t, err.Error(), "hunter2")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, auth)
			encoded, err := json.Marshal(auth)
			require.NoError(t, err)
			assert.NotContains(t, string(encoded), "hunter2")
			for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
				assert.NotContains(t, fmt.Sprintf(verb, test.r)+fmt.Sprintf(verb, auth), "hunter2")
			}
		})
	}
}

func TestLoginFromDockersConfigurationIsNamed(t *testing.T) {
	cleanEnvironment(t)
	host := serveRegistry(t, basic("bob", "hunter2"))
	auth := base64.StdEncoding.EncodeToString([]byte("bob:0ldpassword"))
	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"),
		[]byte(`{"auths":{"`+host+`":{"auth":"`+auth+`"}}}`), 0o600))
	_, err := testRegistry(t).Digest(t.Context(), host+"/shop/pay:1")
	require.ErrorContains(t, err, "the login is from Docker's configuration: run docker login "+host)
	assert.NotContains(t, err.Error(), "0ldpassword")
	assert.NotContains(t, err.Error(), auth)
}

func TestLoginGoesToItsHostAlone(t *testing.T) {
	cleanEnvironment(t)
	spy := serveRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			assert.Empty(t, req.Header.Get("Authorization"))
			w.Header().Set("WWW-Authenticate", `Basic realm="give it to me"`)
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		})
	})
	r := withLogin(testRegistry(t), "git.example.org", "bob", "hunter2")
	_, err := r.Digest(t.Context(), spy+"/shop/pay:1")
	assert.ErrorContains(t, err, "no login was found")
}

func TestRegistryCancelled(t *testing.T) {
	for _, point := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodPut} {
		t.Run(point, func(t *testing.T) {
			cleanEnvironment(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("the stage was stopped")
			host := serveRegistry(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method == point && req.URL.Path != "/v2/" {
						io.Copy(io.Discard, req.Body)
						cancel(reason)
						<-req.Context().Done()
						return
					}
					next.ServeHTTP(w, req)
				})
			})
			img, _ := randomImage(t, 6)
			_, err := testRegistry(t).Push(ctx, host+"/shop/pay:1", img)
			assert.ErrorIs(t, err, reason)
		})
	}
}

func TestCancelledBackoff(t *testing.T) {
	cleanEnvironment(t)
	ctx, cancel := context.WithCancel(t.Context())
	host := serveRegistry(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "busy", http.StatusServiceUnavailable)
		})
	})
	r := testRegistry(t)
	r.Backoff = []time.Duration{time.Hour}
	// The log says that it is about to wait.
	ctx = zerolog.New(writerFunc(func([]byte) { cancel() })).WithContext(ctx)
	_, err := r.Digest(ctx, host+"/shop/pay:1")
	assert.ErrorIs(t, err, context.Canceled)
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func TestNoBackoffIsNoRetry(t *testing.T) {
	cleanEnvironment(t)
	seen := &requests{}
	host := serveRegistry(t, seen.gate, failing(1, http.StatusServiceUnavailable, always))
	r := testRegistry(t)
	r.Backoff = []time.Duration{}
	_, err := r.Digest(t.Context(), host+"/shop/pay:1")
	require.ErrorContains(t, err, "503")
	assert.Equal(t, 1, seen.count("GET"))
}

func TestPullChoosesThePlatform(t *testing.T) { onEachRegistry(t, pullChoosesThePlatform) }

func pullChoosesThePlatform(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	cleanEnvironment(t)
	host := serve(t)
	r := testRegistry(t)
	child := func(architecture string) (mutate.IndexAddendum, string) {
		img, err := random.Image(100, 1)
		require.NoError(t, err)
		img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: architecture})
		require.NoError(t, err)
		digest, err := img.Digest()
		require.NoError(t, err)
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}}, digest.String()
	}
	amd, _ := child("amd64")
	arm, want := child("arm64")
	ref, err := name.ParseReference(host + "/base:1")
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, amd, arm), remote.WithTransport(r.Transport)))

	img, err := r.Pull(t.Context(), host+"/base:1", "linux/arm64")
	require.NoError(t, err)
	digest, err := img.Digest()
	require.NoError(t, err)
	assert.Equal(t, want, digest.String())

	_, err = r.Pull(t.Context(), host+"/base:1", "linux/s390x")
	assert.ErrorContains(t, err, "linux/s390x")
	_, err = r.Pull(t.Context(), host+"/base@"+want, "linux/amd64")
	assert.ErrorContains(t, err, "it is an image for linux/arm64 and not for linux/amd64")
	_, err = r.Pull(t.Context(), host+"/base:2", "")
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = r.Pull(t.Context(), host+"/base:1", "amd64")
	assert.ErrorContains(t, err, "OS/ARCHITECTURE")
}

func TestPushByDigest(t *testing.T) { onEachRegistry(t, pushByDigest) }

func pushByDigest(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	cleanEnvironment(t)
	host := serve(t)
	img, want := randomImage(t, 1)
	_, err := testRegistry(t).Push(t.Context(), host+"/shop/pay@"+want, img)
	require.NoError(t, err)
	_, err = testRegistry(t).Push(t.Context(), host+"/shop/pay@sha256:"+strings.Repeat("0", 64), img)
	assert.ErrorContains(t, err, "push it to a tag")
}

func TestDeniedReading(t *testing.T) {
	cleanEnvironment(t)
	host := serveRegistry(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/v2/" {
				return
			}
			refuse(w, http.StatusForbidden, "DENIED", "private, "+strings.Repeat("very ", 1000))
		})
	})
	// A password that is a word of ours leaves our words whole.
	r := withLogin(testRegistry(t), host, "bob", "login")
	_, err := r.Digest(t.Context(), host+"/shop/pay:1")
	require.ErrorContains(t, err, "the login needs the right to read shop/pay, with Gitea a token of the scope read:package")
	assert.Less(t, len(err.Error()), 1000)
	err = r.Tag(t.Context(), host+"/shop/pay:1", "latest")
	assert.ErrorContains(t, err, "write:package")
	_, err = r.Pull(t.Context(), host+"/shop/pay:1", "")
	assert.ErrorContains(t, err, "read:package")
}

func TestTagWhatIsNotThere(t *testing.T) { onEachRegistry(t, tagWhatIsNotThere) }

func tagWhatIsNotThere(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	cleanEnvironment(t)
	host := serve(t)
	assert.ErrorIs(t, testRegistry(t).Tag(t.Context(), host+"/shop/pay:1", "latest"), ErrNotFound)
}

func TestPullRetriesLayers(t *testing.T) { onEachRegistry(t, pullRetriesLayers) }

func pullRetriesLayers(t *testing.T, serve func(t *testing.T, gates ...gate) string) {
	cleanEnvironment(t)
	blobs := func(req *http.Request) bool {
		return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/")
	}
	for name, gates := range map[string][]gate{
		"500": {failing(3, http.StatusInternalServerError, blobs)}, "cut": {cutting(3, blobs)},
	} {
		host := serve(t, gates...)
		r := testRegistry(t)
		img, err := mutate.ConfigFile(must(random.Image(100, 1)), &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
		require.NoError(t, err)
		_, err = r.Push(t.Context(), host+"/base:1", img)
		require.NoError(t, err)
		_, err = r.Pull(t.Context(), host+"/base:1", "")
		assert.NoError(t, err, name)
	}
	host := serve(t, failing(-1, http.StatusInternalServerError, func(req *http.Request) bool { return req.URL.Path != "/v2/" }))
	_, err := testRegistry(t).Pull(t.Context(), host+"/base:1", "")
	assert.ErrorContains(t, err, "500 Internal Server Error")
}

func TestBadReferences(t *testing.T) {
	cleanEnvironment(t)
	for _, ref := range []string{
		"", "shop/pay", "git.example.org/shop/pay:", "git.example.org/Shop/pay:1", "https://git.example.org/shop/pay:1",
		"bob:hunter2@git.example.org/shop/pay:1", "bob:hun/ter2@git.example.org/shop/pay:1", "git.example.org/shop/pay@sha256:zz", "a b:1",
	} {
		_, err := testRegistry(t).Digest(t.Context(), ref)
		require.Error(t, err, ref)
		assert.NotContains(t, err.Error(), "hunter2")
		assert.NotContains(t, err.Error(), "ter2")
	}
	assert.ErrorContains(t, testRegistry(t).Tag(t.Context(), "git.example.org/shop/pay:1", "a b"), `tag "a b"`)
}
