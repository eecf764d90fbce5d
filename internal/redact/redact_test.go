package redact_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/grimoire-build/grimoire/internal/redact"
)

func TestURL(t *testing.T) {
	for address, want := range map[string]string{
		"git.example.org/shop/pay:1":                 "git.example.org/shop/pay:1",
		"bob:pw@git.example.org/shop/pay:1":          "git.example.org/shop/pay:1",
		"https://bob:p@w@git.example.org/":           "https://git.example.org/",
		"bob:p/w@git.example.org/shop/pay@sha256:00": "git.example.org/shop/pay@sha256:00",
		"git.example.org/shop/pay:1@sha256:00":       "git.example.org/shop/pay:1@sha256:00",
		"unix:///var/run/docker.sock":                "unix:///var/run/docker.sock",
		"":                                           "",
	} {
		assert.Equal(t, want, redact.URL(address))
	}
}

func TestRemote(t *testing.T) {
	for address, want := range map[string]string{
		"https://git.example.org/shop/pay.git":               "https://git.example.org/shop/pay.git",
		"https://bob:hunter2@git.example.org/shop/pay.git":   "https://git.example.org/shop/pay.git",
		"https://hunter2@git.example.org/shop/pay.git":       "https://git.example.org/shop/pay.git", // a token alone
		"ssh://git@git.example.org:2222/shop/pay.git":        "ssh://git@git.example.org:2222/shop/pay.git",
		"git+ssh://git@git.example.org/shop/pay.git":         "git+ssh://git@git.example.org/shop/pay.git",
		"ssh://git:hunter2@git.example.org/shop/pay.git":     "ssh://git.example.org/shop/pay.git",
		"git@git.example.org:shop/pay.git":                   "git@git.example.org:shop/pay.git",
		"bob:hunter2@git.example.org/shop/pay.git":           "git.example.org/shop/pay.git",
		"https://bob:hun/t@er2@git.example.org/shop/pay.git": "https://git.example.org/shop/pay.git",
		"/srv/pay.git": "/srv/pay.git",
		"../a@b":       "../a@b",
		"":             "",
	} {
		assert.Equal(t, want, redact.Remote(address))
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		`Get "https://bob:hunter2@h.example/v2/": EOF`: `Get "https://h.example/v2/": EOF`,
		"from https://h.example/ to s3://k:v@h/x, ok":  "from https://h.example/ to s3://h/x, ok",
		"postgres://u:p/w@db/x and a@b":                "postgres://db/x and a@b",
		"mail to bob@example.org":                      "mail to bob@example.org",
	} {
		assert.Equal(t, want, redact.Text(text))
	}
}

func TestAll(t *testing.T) {
	secret := "p@ss/w+rd é"
	for _, form := range []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), url.UserPassword("bob", secret).String()[len("bob:"):],
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret)),
	} {
		assert.Equal(t, "<***>", redact.All("<"+form+">", "", secret))
	}
	assert.Equal(t, "*** ***", redact.All("hunter hunter2", "hunter", "hunter2"), "one secret begins another")
	assert.Equal(t, "nothing", redact.All("nothing", ""))
}

func FuzzAll(f *testing.F) {
	f.Add("a hunter2 b", "hunter2", "hunter")
	f.Add("%41", "A", "%")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		if strings.ContainsAny(a+b, "*") {
			return
		}
		got := redact.All(text, a, b)
		for _, secret := range []string{a, b} {
			if secret != "" {
				assert.NotContains(t, got, secret)
			}
		}
	})
}

func TestError(t *testing.T) {
	address := "https://bob:hunter2@git.example.org"
	err := redact.Error(fmt.Errorf("asking %q: %w", address, fs.ErrNotExist), address)
	assert.EqualError(t, err, `asking "https://git.example.org": file does not exist`)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	same := errors.New("no address in it")
	assert.Equal(t, same, redact.Error(same, address))
	assert.NoError(t, redact.Error(nil, address))

	err = redact.ErrorText(fmt.Errorf("asking %s: %w", address, fs.ErrNotExist))
	assert.EqualError(t, err, "asking https://git.example.org: file does not exist")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.Equal(t, same, redact.ErrorText(same))
	assert.NoError(t, redact.ErrorText(nil))
}
