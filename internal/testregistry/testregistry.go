// Package testregistry runs the registry that most others are made of, Debian's docker-registry, on this machine's loopback:
// open, with logins, or behind a certificate of an authority that nobody knows.
package testregistry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/grimoire-build/grimoire/internal/sandbox"
	"github.com/grimoire-build/grimoire/internal/testpki"
)

// Name is the host name of a registry with TLS. It is none of loopback's own, for which clients ask no certificate. It leads
// nowhere but through Transport, and in the sandbox of an engine.
const Name = "registry.grimoire.test"

// Address is what Name stands for: an engine takes any certificate from 127.0.0.1, but not from here.
const Address = "::1"

// program is the registry's.
const program = "docker-registry"

// starting is how long a registry may take until it answers.
const starting = time.Minute

// Options say what registry Start starts. The zero value is one that anybody may push to over plain HTTP.
type Options struct {
	// Username and Password are the login, asked for by basic authentication; default none.
	Username, Password string
	// TLS has it ask for no plain connection.
	TLS bool
	// ReadOnly has it refuse every push.
	ReadOnly bool
}

// Registry is one that runs.
type Registry struct {
	// Host is its host and port, as references begin.
	Host string
	// Authority is the certificate to trust, in PEM; none without TLS.
	Authority []byte

	dir     string
	address string
	client  *http.Client
	sandbox *sandbox.Sandbox
}

// Supported says what this machine lacks for a registry, and how to get it.
func Supported(o Options) error {
	if _, err := exec.LookPath(program); err != nil {
		return errors.New("a registry needs docker-registry; Debian's package of that name has it")
	}
	if o.TLS {
		listener, err := net.Listen("tcp", net.JoinHostPort(Address, "0"))
		if err != nil {
			return fmt.Errorf("a registry with TLS needs IPv6 on the loopback interface: %w", err)
		}
		return listener.Close()
	}
	return nil
}

// Start starts a registry on a free port, and returns when it answers. It ends with the program that started it, however that
// ends.
func Start(ctx context.Context, o Options) (_ *Registry, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting a registry: %w", err)
		}
	}()
	if err := Supported(o); err != nil {
		return nil, err
	}
	for tries := 3; ; tries-- {
		r, err := start(ctx, o)
		// A port that was free may have been taken since.
		if err == nil || tries == 1 || !strings.Contains(err.Error(), "address already in use") {
			return r, err
		}
	}
}

func start(ctx context.Context, o Options) (*Registry, error) {
	exe, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	place, err := sandbox.NewPlace("registry")
	if err != nil {
		return nil, err
	}
	r := &Registry{dir: place.Dir}
	if err := r.prepare(o); err != nil {
		return nil, errors.Join(err, place.Abandon())
	}
	r.client = &http.Client{Transport: r.Transport()}
	r.sandbox, err = place.Start(sandbox.Config{
		// Every REGISTRY_ variable is a setting of the registry's too.
		Command: []string{"env", "-i", exe, "serve", filepath.Join(r.dir, "config.json")},
	})
	if err != nil {
		return nil, err
	}
	if err := r.sandbox.Await(ctx, starting, r.ping); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// prepare chooses a port, and writes the configuration.
func (r *Registry) prepare(o Options) error {
	host := "127.0.0.1"
	if o.TLS {
		host = Address
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	r.address = listener.Addr().String()
	if err := listener.Close(); err != nil {
		return err
	}
	r.Host = r.address
	settings, err := r.settings(o)
	if err != nil {
		return err
	}
	return r.write("config.json", settings)
}

// settings are the registry's configuration, whose YAML may be JSON. Source: https://distribution.github.io/distribution/about/configuration/
func (r *Registry) settings(o Options) ([]byte, error) {
	type object = map[string]any
	server := object{"addr": r.address}
	storage := object{"filesystem": object{"rootdirectory": filepath.Join(r.dir, "content")}, "delete": object{"enabled": true}}
	if o.ReadOnly {
		storage["maintenance"] = object{"readonly": object{"enabled": true}}
	}
	all := object{
		"version": "0.1",
		"log":     object{"level": "warn", "accesslog": object{"disabled": true}},
		"storage": storage,
		"http":    server,
	}
	if o.TLS {
		_, port, err := net.SplitHostPort(r.address)
		if err != nil {
			return nil, err
		}
		r.Host = net.JoinHostPort(Name, port)
		authority, err := testpki.NewAuthority("registry authority")
		if err != nil {
			return nil, err
		}
		certificate, key, err := authority.Issue(testpki.Subject{Name: Name, Hosts: []string{Name}})
		if err != nil {
			return nil, err
		}
		r.Authority = authority.Certificate
		if err := errors.Join(r.write("tls.crt", certificate), r.write("tls.key", key)); err != nil {
			return nil, err
		}
		server["tls"] = object{"certificate": filepath.Join(r.dir, "tls.crt"), "key": filepath.Join(r.dir, "tls.key")}
	}
	if o.Username != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			return nil, err
		}
		if err := r.write("htpasswd", fmt.Appendf(nil, "%s:%s\n", o.Username, hash)); err != nil {
			return nil, err
		}
		all["auth"] = object{"htpasswd": object{"realm": "registry", "path": filepath.Join(r.dir, "htpasswd")}}
	}
	return json.Marshal(all)
}

func (r *Registry) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(r.dir, name), data, 0o600)
}

// Transport returns one that finds the registry by its name and trusts its authority.
func (r *Registry) Transport() *http.Transport {
	t := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, r.address)
	}}
	if r.Authority != nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(r.Authority)
		t.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return t
}

// ServeHTTP hands a request on to the registry, for a test that stands in front of it. The registry takes the sender's host for
// its own.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: r.scheme(), Host: r.Host})
			p.Out.Host = p.In.Host
		},
		Transport: r.client.Transport,
	}
	proxy.ServeHTTP(w, req)
}

func (r *Registry) scheme() string {
	if r.Authority != nil {
		return "https"
	}
	return "http"
}

// Stop ends the registry, and returns when nothing of it is left.
func (r *Registry) Stop() error {
	r.client.CloseIdleConnections()
	return r.sandbox.Stop()
}

// ping asks whether the registry answers; one that wants a login does so with 401.
func (r *Registry) ping(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.scheme()+"://"+r.Host+"/v2/", nil)
	if err != nil {
		return err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
