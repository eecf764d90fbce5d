package mask

import (
	"encoding/base64"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/grimoire-build/grimoire/internal/words"
)

// secretName matches the names of variables that hold secrets by convention: REGISTRY_PASS, GITHUB_TOKEN, AWS_SECRET_ACCESS_KEY.
var secretName = regexp.MustCompile(`(?i)(^|_)(PASS|PASSWD|PASSWORD|PASSPHRASE|SECRET|SECRETS|TOKEN|CREDENTIALS?|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|AUTH|AUTHORIZATION|WEBHOOK)(_|$)`)

// SecretName says whether what has this name is a secret by convention.
func SecretName(name string) bool { return secretName.MatchString(name) }

// passwordName matches the names of variables that hold passwords, which may be numbers.
var passwordName = regexp.MustCompile(`(?i)(^|_)(PASS|PASSWD|PASSWORD|PASSPHRASE|SECRET|PIN)(_|$)`)

// kubeconfigSecret matches the fields of a kubeconfig that are secrets.
var kubeconfigSecret = regexp.MustCompile(`(?m)^[\s-]*(?:token|password|client-key-data|id-token|refresh-token|access-token|client-secret):\s*["']?([^"'\s]+)`)

// AddEnviron tells m of the secrets in an environment, each "NAME=value": by their variable's name, those that IMAGE_SECRETS names,
// the logins in URLs, the headers for a telemetry collector, and what is secret in the kubeconfig of KUBECONFIG_DATA. What only names
// a file, and numbers and truth values, are none. It returns those that are only a part of a variable, which a CI does not know.
func (m *Masker) AddEnviron(environ []string) (parts []string) {
	part := func(secret string) {
		if m.Add(secret) {
			parts = append(parts, secret)
		}
	}
	var named []string
	for _, entry := range environ {
		if names, ok := strings.CutPrefix(entry, "IMAGE_SECRETS="); ok {
			var err error
			if named, err = words.Split(names); err != nil { // whoever reads the setting says so; until then rather too many are masked
				named = strings.Fields(names)
			}
		}
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case name == "IMAGE_SECRETS": // names variables, and holds none
		case slices.Contains(named, name):
			m.AddValue(value)
		case name == "KUBECONFIG_DATA":
			m.Add(value)
			if config, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(value), "")); err == nil {
				for _, found := range kubeconfigSecret.FindAllSubmatch(config, -1) {
					part(string(found[1]))
				}
			}
		case strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && strings.HasSuffix(name, "HEADERS"):
			for header := range strings.SplitSeq(value, ",") {
				_, v, _ := strings.Cut(header, "=")
				part(strings.TrimSpace(v))
				if plain, err := url.QueryUnescape(v); err == nil && plain != v {
					part(strings.TrimSpace(plain))
				}
			}
		case secretName.MatchString(name) && !innocent(value, passwordName.MatchString(name)):
			m.Add(value)
		default:
			for _, secret := range logins(value) {
				part(secret)
			}
		}
	}
	return parts
}

// AddValue tells m of the value of a variable that somebody has called a secret. What only names a file, and truth values, are none.
func (m *Masker) AddValue(value string) {
	if !innocent(value, true) {
		m.Add(value)
	}
}

// logins returns the passwords, and tokens in place of one, in the URLs of a text.
func logins(text string) []string {
	if !strings.Contains(text, "://") || !strings.Contains(text, "@") {
		return nil
	}
	var secrets []string
	for field := range strings.FieldsSeq(text) {
		u, err := url.Parse(field)
		if err != nil || u.User == nil {
			continue
		}
		if password, ok := u.User.Password(); ok {
			secrets = append(secrets, password)
		} else if u.Scheme == "http" || u.Scheme == "https" {
			secrets = append(secrets, u.User.Username()) // a token alone
		}
	}
	return secrets
}

// innocent says that a value is no secret whatever its variable is called; of a password's, a number is one.
func innocent(value string, password bool) bool {
	if answers.MatchString(value) || !password && number.MatchString(value) {
		return true
	}
	if strings.HasPrefix(value, "/") || strings.HasPrefix(value, "./") {
		_, err := os.Stat(value)
		return err == nil
	}
	return false
}

var (
	answers = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|none|null|enabled|disabled|required)$`)
	number  = regexp.MustCompile(`^[0-9]{1,9}$`)
)
