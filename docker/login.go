package docker

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Auth is the login for one registry, in the form that an engine wants it. The zero value is no login.
type Auth struct {
	// Host is the registry that the login is for.
	Host string
	// Username and Password are the login, or a name and a token.
	Username string
	Password string `json:"-"`
	// IdentityToken and RegistryToken are what some credential helpers give in place of a password.
	IdentityToken string `json:"-"`
	RegistryToken string `json:"-"`
}

// Anonymous says whether there is no login.
func (a Auth) Anonymous() bool {
	return a.Username == "" && a.Password == "" && a.IdentityToken == "" && a.RegistryToken == ""
}

// String names the host, and never the login.
func (a Auth) String() string { return "login for " + cmp.Or(a.Host, "no registry") }

// GoString is String, so that no way of printing prints the login.
func (a Auth) GoString() string { return a.String() }

// serverAddress is the registry as an engine knows it. Docker Hub has another name there, for historical reasons.
func (a Auth) serverAddress() string {
	if a.Host == name.DefaultRegistry {
		return authn.DefaultAuthKey
	}
	return a.Host
}

// Auth returns the login for the registry of a reference: Username and Password if it is on Host, otherwise what Docker's
// configuration has for it, otherwise none.
func (r Registry) Auth(ctx context.Context, ref string) (Auth, error) {
	s, err := r.session(ctx, "finding the login for", ref)
	if err != nil {
		return Auth{}, err
	}
	return s.login.auth, nil
}

// login is a login and where it is from.
type login struct {
	auth          Auth
	authenticator authn.Authenticator
	source        source
}

type source int

const (
	nowhere source = iota
	given
	configuration
)

func (r Registry) login(ctx context.Context, repository name.Repository) (login, error) {
	host := repository.RegistryStr()
	own, err := r.host()
	if err != nil {
		return login{}, err
	}
	switch {
	case r.Username == "" && r.Password == "":
	case r.Username == "":
		return login{}, errors.New("there is a password for the registry but no user; set REGISTRY_USER as well as REGISTRY_PASS")
	case r.Password == "":
		return login{}, errors.New("there is a user for the registry but no password; set REGISTRY_PASS as well as REGISTRY_USER")
	case own == "":
		return login{}, errors.New("there is a login but not the registry that it is for; set REGISTRY_HOST " +
			"as well as REGISTRY_USER and REGISTRY_PASS")
	case own == host:
		return login{
			auth:          Auth{Host: host, Username: r.Username, Password: r.Password},
			authenticator: &authn.Basic{Username: r.Username, Password: r.Password},
			source:        given,
		}, nil
	}
	authenticator, err := authn.Resolve(ctx, authn.DefaultKeychain, repository)
	if err != nil {
		return login{}, configurationError(host, err)
	}
	config, err := authn.Authorization(ctx, authenticator)
	if err != nil {
		return login{}, configurationError(host, err)
	}
	l := login{authenticator: authenticator, auth: Auth{
		Host: host, Username: config.Username, Password: config.Password,
		IdentityToken: config.IdentityToken, RegistryToken: config.RegistryToken,
	}}
	if !l.auth.Anonymous() {
		l.source = configuration
	}
	return l, nil
}

func configurationError(host string, err error) error {
	cure := "look at ~/.docker/config.json"
	// The library keeps only the text of the error.
	if strings.Contains(err.Error(), exec.ErrNotFound.Error()) {
		cure = "install that credential helper, or set REGISTRY_HOST, REGISTRY_USER and REGISTRY_PASS"
	}
	return fmt.Errorf("finding the login for %s in Docker's configuration: %w; %s", host, err, cure)
}

// cure says what to do when the registry refuses the login.
func (l login) cure(host string) string {
	switch l.source {
	case given:
		return "check REGISTRY_USER and REGISTRY_PASS, which are where the login is from"
	case configuration:
		return fmt.Sprintf("the login is from Docker's configuration: run docker login %s, or set REGISTRY_HOST, REGISTRY_USER "+
			"and REGISTRY_PASS", host)
	default:
		return fmt.Sprintf("no login was found: set REGISTRY_HOST, REGISTRY_USER and REGISTRY_PASS, or run docker login %s", host)
	}
}

// redact takes every form of the login's secrets out of a text that is not ours: a registry may answer with what it got.
func (l login) redact(text string) string {
	for _, secret := range []string{l.auth.Password, l.auth.IdentityToken, l.auth.RegistryToken} {
		if secret == "" {
			continue
		}
		pair := l.auth.Username + ":" + secret
		for _, form := range []string{
			base64.StdEncoding.EncodeToString([]byte(pair)), base64.URLEncoding.EncodeToString([]byte(pair)),
			url.UserPassword("", secret).String()[1:], url.QueryEscape(secret), secret,
		} {
			text = strings.ReplaceAll(text, form, "***")
		}
	}
	return text
}
