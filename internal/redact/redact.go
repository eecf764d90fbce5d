// Package redact takes secrets out of a text that somebody reads: the login of an address, and secrets that are known.
//
//	redact.URL("https://bob:hunter2@git.example.org/shop")  // https://git.example.org/shop
//	redact.All(text, password)                              // the password, also as a URL and base64 have it, is ***
package redact

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Mark stands where a secret was.
const Mark = "***"

// URL returns an address without the login in it: a URL, what ssh and registries have in place of one ("user@host:path",
// "user:password@host/name"), or an image's name. A digest at the end stays.
func URL(address string) string {
	rest, digest := address, ""
	if at := strings.LastIndex(rest, "@sha256:"); at >= 0 {
		rest, digest = rest[:at], rest[at:]
	}
	scheme := ""
	if before, after, ok := strings.Cut(rest, "://"); ok {
		scheme, rest = before+"://", after
	}
	// The last @, because a password may hold one too.
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	return scheme + rest + digest
}

// Remote returns the URL of a git repository without the login that it should not hold but may. What stands before a lone @ is
// ssh's user, which is no secret and stays.
func Remote(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		rest = address
	}
	at := strings.LastIndexByte(rest, '@')
	if at < 0 || !strings.Contains(rest[:at], ":") && (!ok || strings.HasSuffix(scheme, "ssh")) {
		return address
	}
	return URL(address)
}

var login = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>]*@`)

// Text returns a text without the logins of the URLs in it.
func Text(text string) string { return login.ReplaceAllString(text, "$1") }

// All returns a text in which Mark stands for each of the secrets: as it is, as a URL has it, and in base64. One that is empty
// does not count.
func All(text string, secrets ...string) string {
	var forms []string
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		forms = append(forms, secret, url.UserPassword("", secret).String()[1:], url.QueryEscape(secret), url.PathEscape(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret)))
	}
	// The longest first, so that nothing of a secret is left that another one begins.
	slices.SortStableFunc(forms, func(a, b string) int { return len(b) - len(a) })
	for _, form := range forms {
		text = strings.ReplaceAll(text, form, Mark)
	}
	return text
}

// Error returns err with the login of an address left out of its text. What it wraps stays.
func Error(err error, address string) error {
	bare := URL(address)
	if err == nil || bare == address || !strings.Contains(err.Error(), address) {
		return err
	}
	return &redacted{text: strings.ReplaceAll(err.Error(), address, bare), err: err}
}

// ErrorText returns err with the logins of all URLs left out of its text. What it wraps stays.
func ErrorText(err error) error {
	if err == nil || Text(err.Error()) == err.Error() {
		return err
	}
	return &redacted{text: Text(err.Error()), err: err}
}

// redacted is an error whose text is another one's without a secret.
type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }
