package docker

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReference(t *testing.T) {
	tests := []struct {
		name, host, repository, tag string
		want, err                   string
	}{
		{name: "plain", host: "git.example.org", repository: "shop/pay", tag: "4f2a", want: "git.example.org/shop/pay:4f2a"},
		{name: "upper case", host: "Git.Example.org:3000", repository: "Shop/Pay", tag: "V1", want: "git.example.org:3000/shop/pay:V1"},
		{name: "loopback", host: "localhost", repository: "pay", tag: "1", want: "localhost/pay:1"},
		{name: "IPv6", host: "[::1]:5000", repository: "pay", tag: "1", want: "[::1]:5000/pay:1"},
		{name: "Docker Hub", host: "docker.io", repository: "shop/pay", tag: "1", want: "docker.io/shop/pay:1"},
		{name: "no host", repository: "shop/pay", tag: "1", err: "the registry's host is empty"},
		{name: "scheme", host: "https://git.example.org", repository: "shop/pay", tag: "1", err: `leave "https://" away`},
		{name: "login", host: "bob:hunter2@git.example.org", repository: "shop/pay", tag: "1", err: `host "git.example.org" has a login`},
		{name: "path", host: "git.example.org/shop", repository: "pay", tag: "1", err: "it belongs to the repository"},
		{name: "would be an owner", host: "registry", repository: "shop/pay", tag: "1", err: "taken for an owner on Docker Hub"},
		{name: "no repository", host: "git.example.org", tag: "1", err: "the repository is empty"},
		{name: "slash at the end", host: "git.example.org", repository: "shop/", tag: "1", err: `the part ""`},
		{name: "dots", host: "git.example.org", repository: "shop/../pay", tag: "1", err: `the part ".."`},
		{name: "space", host: "git.example.org", repository: "shop/my pay", tag: "1", err: `the part "my pay"`},
		{name: "no tag", host: "git.example.org", repository: "shop/pay", err: `tag ""`},
		{name: "branch as tag", host: "git.example.org", repository: "shop/pay", tag: "feature/x", err: `tag "feature/x"`},
		{name: "long tag", host: "git.example.org", repository: "shop/pay", tag: strings.Repeat("a", 129), err: "1 to 128"},
		{name: "long name", host: "git.example.org", repository: strings.Repeat("a", 250), tag: "1", err: "longer than 255"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Reference(test.host, test.repository, test.tag)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				assert.ErrorContains(t, err, "naming an image: ")
				assert.NotContains(t, err.Error(), "hunter2")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
}

func FuzzReference(f *testing.F) {
	f.Add("git.example.org:3000", "Shop/Pay", "4f2a")
	f.Add("localhost", "a__b/c--d", "_x.-")
	f.Add("bob:pw@host", "a@b", "sha256:0")
	f.Add("[::1]", "a/../b", "")
	f.Add("docker.io", "K", "İ")
	f.Fuzz(func(t *testing.T, host, repository, tag string) {
		got, err := Reference(host, repository, tag)
		if err != nil {
			assert.Empty(t, got)
			return
		}
		parsed, err := name.NewTag(got)
		require.NoError(t, err)
		assert.Equal(t, tag, parsed.TagStr())
		_, err = parseReference(got)
		assert.NoError(t, err, "what we name we also take")
		if registry := parsed.RegistryStr(); registry != name.DefaultRegistry {
			assert.Equal(t, strings.ToLower(host), registry, "the image would go to another registry")
		}
		assert.NotContains(t, got, "@")
		again, err := Reference(host, strings.ToLower(repository), tag)
		require.NoError(t, err)
		assert.Equal(t, got, again)
	})
}

func TestWithoutUserinfo(t *testing.T) {
	for address, want := range map[string]string{
		"git.example.org/shop/pay:1":                 "git.example.org/shop/pay:1",
		"bob:pw@git.example.org/shop/pay:1":          "git.example.org/shop/pay:1",
		"https://bob:p@w@git.example.org/":           "https://git.example.org/",
		"bob:p/w@git.example.org/shop/pay@sha256:00": "git.example.org/shop/pay@sha256:00",
		"git.example.org/shop/pay:1@sha256:00":       "git.example.org/shop/pay:1@sha256:00",
		"unix:///var/run/docker.sock":                "unix:///var/run/docker.sock",
		"":                                           "",
	} {
		assert.Equal(t, want, withoutUserinfo(address))
	}
}
