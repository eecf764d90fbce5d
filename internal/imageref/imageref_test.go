package imageref_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/imageref"
)

var (
	digest = "sha256:" + strings.Repeat("0123456789abcdef", 4)
	image  = "git.example.org/shop/pay@" + digest
)

func TestNew(t *testing.T) {
	tests := []struct {
		name, host, repository, tag string
		want, err                   string
	}{
		{name: "plain", host: "git.example.org", repository: "shop/pay", tag: "4f2a", want: "git.example.org/shop/pay:4f2a"},
		{name: "upper case", host: "Git.Example.org:3000", repository: "Shop/Pay", tag: "V1",
			want: "git.example.org:3000/shop/pay:V1"},
		{name: "loopback", host: "localhost", repository: "pay", tag: "1", want: "localhost/pay:1"},
		{name: "IPv6", host: "[::1]:5000", repository: "pay", tag: "1", want: "[::1]:5000/pay:1"},
		{name: "Docker Hub", host: "docker.io", repository: "shop/pay", tag: "1", want: "docker.io/shop/pay:1"},
		{name: "separators", host: "git.example.org", repository: "a__b/c---d", tag: "1", want: "git.example.org/a__b/c---d:1"},
		{name: "no host", repository: "shop/pay", tag: "1", err: "the registry's host is empty"},
		{name: "scheme", host: "https://git.example.org", repository: "shop/pay", tag: "1", err: `leave "https://" away`},
		{name: "login", host: "bob:hunter2@git.example.org", repository: "shop/pay", tag: "1",
			err: `host "git.example.org" has a login`},
		{name: "path", host: "git.example.org/shop", repository: "pay", tag: "1", err: "it belongs to the repository"},
		{name: "would be an owner", host: "registry", repository: "shop/pay", tag: "1", err: "taken for an owner on Docker Hub"},
		{name: "no repository", host: "git.example.org", tag: "1", err: "the repository is empty"},
		{name: "slash at the end", host: "git.example.org", repository: "shop/", tag: "1", err: `the part ""`},
		{name: "dots", host: "git.example.org", repository: "shop/../pay", tag: "1", err: `the part ".."`},
		{name: "space", host: "git.example.org", repository: "shop/my pay", tag: "1", err: `the part "my pay"`},
		{name: "three underscores", host: "git.example.org", repository: "shop/a___b", tag: "1", err: `the part "a___b"`},
		{name: "no tag", host: "git.example.org", repository: "shop/pay", err: `tag ""`},
		{name: "branch as tag", host: "git.example.org", repository: "shop/pay", tag: "feature/x", err: `tag "feature/x"`},
		{name: "long tag", host: "git.example.org", repository: "shop/pay", tag: strings.Repeat("a", 129), err: "1 to 128"},
		{name: "long name", host: "git.example.org", repository: strings.Repeat("a", 250), tag: "1", err: "longer than 255"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := imageref.New(test.host, test.repository, test.tag)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				assert.ErrorContains(t, err, "naming an image: ")
				assert.NotContains(t, err.Error(), "hunter2")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, got.String())
		})
	}
}

// What New puts together, registry clients take for the same.
func FuzzNew(f *testing.F) {
	f.Add("git.example.org:3000", "Shop/Pay", "4f2a")
	f.Add("localhost", "a__b/c--d", "_x.-")
	f.Add("bob:pw@host", "a@b", "sha256:0")
	f.Add("[::1]", "a/../b", "")
	f.Add("docker.io", "K", "İ")
	f.Add("a.-b", "x", "1")
	f.Fuzz(func(t *testing.T, host, repository, tag string) {
		got, err := imageref.New(host, repository, tag)
		if err != nil {
			assert.Empty(t, got)
			return
		}
		parsed, err := name.NewTag(got.String())
		require.NoError(t, err)
		assert.Equal(t, tag, parsed.TagStr())
		if registry := parsed.RegistryStr(); registry != name.DefaultRegistry {
			assert.Equal(t, strings.ToLower(host), registry, "the image would go to another registry")
		}
		assert.NotContains(t, got.String(), "@")
		read, err := imageref.Parse(got.String())
		require.NoError(t, err, "what we name we also take")
		assert.Equal(t, got, read)
	})
}

func TestParse(t *testing.T) {
	for _, valid := range []string{
		"pay", "pay:v1", "shop/pay", image, "git.example.org:5000/shop/pay:v1@" + digest, "localhost/pay", "[::1]:5000/pay",
		"Git.Example.org/pay", "pay@sha512:" + strings.Repeat("0", 128),
	} {
		r, err := imageref.Parse(valid)
		require.NoError(t, err)
		assert.Equal(t, valid, r.String())
		assert.True(t, imageref.IsReference(valid))
	}
	for _, invalid := range []string{
		"", ":", "/pay", "pay/", "shop/Pay", "pay:", "pay@sha256:abc", "pay:v1\n", "pay v1", "pay #@" + digest, "${IMAGE}",
		"-host.example.org/pay", strings.Repeat("a", 256),
	} {
		_, err := imageref.Parse(invalid)
		assert.ErrorContains(t, err, "HOST/OWNER/NAME:TAG", "of %q", invalid)
		assert.False(t, imageref.IsReference(invalid))
	}
	for _, login := range []string{"https://git.example.org/pay:1", "bob:hunter2@git.example.org/pay:1", "https://bob:hunter2@h/p:1", "@", "pay@"} {
		_, err := imageref.Parse(login)
		require.ErrorContains(t, err, "a scheme or a login")
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

// What we take, registry clients take for the same.
func FuzzParse(f *testing.F) {
	f.Add("git.example.org:5000/shop/pay:v1@" + digest)
	f.Add("localhost/pay")
	f.Add("Shop/pay")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := imageref.Parse(text)
		if err != nil {
			return
		}
		assert.Equal(t, text, r.String())
		if r.Digest != "" && !strings.HasPrefix(r.Digest, "sha256:") {
			return // the library takes digests by SHA-256 alone
		}
		parsed, err := name.ParseReference(text, name.WithDefaultTag(""))
		if err != nil && strings.HasPrefix(r.Digest, "sha256:") {
			_, err := imageref.ParseDigested(text)
			assert.Error(t, err, "a digest that the library does not take")
			return
		}
		if (len(r.Repository) == 1 || r.Host != strings.ToLower(r.Host)) && err != nil {
			return // the library wants two characters, and takes no host for one by its capital letters
		}
		require.NoError(t, err)
		if r.Host != "" && r.Host != "docker.io" && r.Host == strings.ToLower(r.Host) {
			assert.Equal(t, r.Host, parsed.Context().RegistryStr())
			assert.Equal(t, r.Repository, parsed.Context().RepositoryStr())
		}
	})
}

func TestParseDigested(t *testing.T) {
	r, err := imageref.ParseDigested("localhost:5000/pay:v1@" + digest)
	require.NoError(t, err)
	assert.Equal(t, imageref.Reference{Host: "localhost:5000", Repository: "pay", Tag: "v1", Digest: digest}, r)
	for _, invalid := range []string{
		"shop/pay:v1", "shop/pay@sha256:abc", "shop/Pay@" + digest, "shop/pay #@" + digest, image + "\n", "@" + digest, "",
		"pay@sha512:" + strings.Repeat("0", 128),
	} {
		_, err := imageref.ParseDigested(invalid)
		assert.ErrorContains(t, err, `is not an image by digest; name it "host/owner/name@sha256:…", in lower case`)
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		name, image, wanted string
		want                bool
	}{
		{"in full", "git.example.org/shop/pay", image, true},
		{"name", "pay", image, true},
		{"name with tag", "pay:v1", image, true},
		{"name with digest", "pay@" + digest, image, true},
		{"name with tag and digest", "pay:v1@" + digest, image, true},
		{"owner and name", "shop/pay:latest", image, true},
		{"another registry", "registry.example.org:5000/shop/pay:v1", image, true},
		{"localhost", "localhost/shop/pay", image, true},
		{"capital letters make a host", "Registry/shop/pay", image, true},
		{"host in another case", "Git.Example.ORG/shop/pay", image, true},
		{"wanted has a port", "pay", "localhost:5000/pay@" + digest, true},
		{"wanted has a tag", "shop/pay", "git.example.org/shop/pay:v1@" + digest, true},
		{"wanted has no host", "git.example.org/shop/pay", "shop/pay@" + digest, true},
		{"wanted is longer", "team/pay", "git.example.org/shop/team/pay@" + digest, true},

		{"not at a slash", "ay", image, false},
		{"end of the owner", "hop/pay", image, false},
		{"longer name", "payments", image, false},
		{"prefix", "shop", image, false},
		{"another owner", "other/pay", image, false},
		{"another owner on the same host", "git.example.org/other/pay", image, false},
		{"another registry with less path", "registry.example.org/pay", image, false},
		{"more path", "git.example.org/shop/pay/worker", image, false},
		{"more path before", "git.example.org/old/shop/pay", image, false},
		{"path in another case", "shop/Pay", image, false},
		{"host alone", "git.example.org", image, false},
		{"port is no tag", "localhost:5000", image, false},
		{"empty", "", image, false},
		{"digest alone", "@" + digest, image, false},
		{"slash", "/", image, false},
		{"slash in front", "/pay", image, false},
		{"nothing wanted", "pay", "", false},
		{"template", "${IMAGE}", image, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, imageref.Match(tt.image, tt.wanted))
		})
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("pay:v1", image)
	f.Add("localhost:5000/a/b", "x/a/b")
	f.Add("@:/", "/:@")
	f.Fuzz(func(t *testing.T, a, b string) {
		got := imageref.Match(a, b)
		if strings.Contains(a, "@") || strings.Contains(b, "@") {
			return
		}
		assert.Equal(t, got, imageref.Match(a+"@"+digest, b), "a digest does not matter")
		assert.Equal(t, got, imageref.Match(a, b+"@"+digest))
		if got {
			assert.NotEmpty(t, a)
			assert.True(t, imageref.Match(a, a), "what matches anything matches itself")
		}
	})
}

func ExampleReference() {
	ref, err := imageref.New("git.example.org", "Shop/Pay", "4f2a9c")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(ref)
	fmt.Println(ref.WithTag("latest"))
	fmt.Println(ref.Name(), ref.Base())
	// Output:
	// git.example.org/shop/pay:4f2a9c
	// git.example.org/shop/pay:latest
	// git.example.org/shop/pay pay
}
