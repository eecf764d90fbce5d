// Package imageref reads and writes the names of images, "host/owner/name:tag@sha256:…", by the grammar that registries have
// agreed on. It is the one place that knows it.
//
// New puts a name together of what a person has set, and says which part is wrong. Parse judges a whole name. Split takes
// one apart without judging it, as for what a manifest says. Match tells whether two names mean the same image.
//
//	ref, err := imageref.New("git.example.org", "Shop/Pay", "4f2a9c")
//	ref.String()                     // git.example.org/shop/pay:4f2a9c
//	ref.WithTag("latest").String()   // git.example.org/shop/pay:latest
//
// Source of the grammar: https://github.com/distribution/reference/blob/main/reference.go
package imageref

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/grimoire-build/grimoire/internal/redact"
)

// Reference is the name of an image in its parts.
type Reference struct {
	// Host is the registry's host, with its port. It is empty where the name has none.
	Host string
	// Repository is the path on the registry: "owner/name".
	Repository string
	// Tag is empty where the name has none.
	Tag string
	// Digest is "sha256:…", or empty.
	Digest string
}

const (
	component  = `[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*`
	repository = component + `(?:/` + component + `)*`
	label      = `[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?`
	host       = `(?:` + label + `(?:\.` + label + `)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?`
	tag        = `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
	digest     = `[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-zA-Z=_-]{32,}`
)

// The patterns are compiled when they are asked for first, since every magefile has this package.
var (
	componentGrammar  = pattern(`^` + component + `$`)
	repositoryGrammar = pattern(`^` + repository + `$`)
	hostGrammar       = pattern(`^` + host + `$`)
	tagGrammar        = pattern(`^` + tag + `$`)
	digestGrammar     = pattern(`^` + digest + `$`)
	sha256Grammar     = pattern(`^sha256:[0-9a-f]{64}$`)
	grammar           = pattern(`^(?:` + host + `/)?` + repository + `(?::` + tag + `)?(?:@` + digest + `)?$`)
)

func pattern(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// nameLimit is how long host and repository may be together, in characters.
const nameLimit = 255

// Split takes the name of an image apart and does not judge it. As for every registry client, the part before the first slash
// is a host if it has a dot or a port, or is localhost, or has a capital letter, which a repository cannot have.
func Split(name string) Reference {
	var r Reference
	r.Repository, r.Digest, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(r.Repository, ':'); i > strings.LastIndexByte(r.Repository, '/') {
		r.Repository, r.Tag = r.Repository[:i], r.Repository[i+1:]
	}
	if first, rest, ok := strings.Cut(r.Repository, "/"); ok && isHost(first) {
		r.Host, r.Repository = first, rest
	}
	return r
}

func isHost(first string) bool {
	return strings.ContainsAny(first, ".:") || first == "localhost" || first != strings.ToLower(first)
}

// Parse takes the name of an image apart. It is an error where the name does not keep to the grammar.
func Parse(name string) (Reference, error) {
	if bare := redact.URL(name); bare != name && !IsReference(name) || strings.Contains(name, "://") {
		return Reference{}, fmt.Errorf("the image %q comes with a scheme or a login; leave them away", bare)
	}
	r := Split(name)
	if !IsReference(name) {
		return Reference{}, fmt.Errorf("%q is not the name of an image; write it as HOST/OWNER/NAME:TAG in lower case", name)
	}
	return r, nil
}

// IsReference reports whether a text keeps to the grammar of an image's name.
func IsReference(text string) bool {
	return grammar().MatchString(text) && len(Split(text).Name()) <= nameLimit
}

// ParseDigested takes the name of an image by digest apart. It is an error where the name has no digest by SHA-256.
func ParseDigested(name string) (Reference, error) {
	r := Split(name)
	if !IsReference(name) || !sha256Grammar().MatchString(r.Digest) {
		return Reference{}, fmt.Errorf(`%q is not an image by digest; name it "host/owner/name@sha256:…", in lower case`, redact.URL(name))
	}
	return r, nil
}

// New puts a name together: host, repository and tag are checked, and the first two written in lower case, as forges that
// name an image after an owner and a repository (Gitea, GitHub) want it. The error says which part is wrong.
func New(host, repository, tag string) (Reference, error) {
	r := Reference{Host: strings.ToLower(host), Repository: strings.ToLower(repository), Tag: tag}
	if err := r.check(); err != nil {
		return Reference{}, fmt.Errorf("naming an image: %w", err)
	}
	return r, nil
}

// check returns the first thing that is wrong with a name that has a host and a tag.
func (r Reference) check() error {
	for _, err := range []error{CheckHost(r.Host), CheckRepository(r.Repository), CheckTag(r.Tag)} {
		if err != nil {
			return err
		}
	}
	if len(r.Name()) > nameLimit {
		return fmt.Errorf("%s is longer than %d characters", r.Name(), nameLimit)
	}
	return nil
}

// CheckHost says what is wrong with the host of a registry, which may have a port.
func CheckHost(host string) error {
	switch {
	case host == "":
		return errors.New("the registry's host is empty; set it, git.example.org for example")
	case strings.Contains(host, "@"):
		return fmt.Errorf("host %q has a login in front of it; give the login apart from the host", redact.URL(host))
	case strings.Contains(host, "://"):
		return fmt.Errorf("host %q has a scheme; leave %q away", host, host[:strings.Index(host, "://")+3])
	case strings.Contains(host, "/"):
		return fmt.Errorf("host %q has a path; it belongs to the repository", host)
	case !hostGrammar().MatchString(host):
		return fmt.Errorf("host %q is no host name with an optional port", host)
	case !isHost(host):
		return fmt.Errorf("host %q would be taken for an owner on Docker Hub; add its domain or port", host)
	}
	return nil
}

// CheckRepository says what is wrong with a repository, "owner/name".
func CheckRepository(repository string) error {
	if repository == "" {
		return errors.New("the repository is empty; give it as owner/name")
	}
	for part := range strings.SplitSeq(repository, "/") {
		if !componentGrammar().MatchString(part) {
			return fmt.Errorf("repository %q has the part %q; parts are lower-case letters and digits, with one . or _, "+
				"or __, or any number of - between them", redact.URL(repository), redact.URL(part))
		}
	}
	return nil
}

// IsRepository reports whether a text keeps to the grammar of a repository, "owner/name".
func IsRepository(text string) bool { return repositoryGrammar().MatchString(text) }

// CheckTag says what is wrong with a tag.
func CheckTag(tag string) error {
	if !tagGrammar().MatchString(tag) {
		return fmt.Errorf("tag %q is not 1 to 128 letters, digits, _ . - that begin with a letter, a digit or _", tag)
	}
	return nil
}

// IsDigest reports whether a text keeps to the grammar of a digest, "sha256:…" or one by another algorithm.
func IsDigest(text string) bool { return digestGrammar().MatchString(text) }

// Name returns host and repository: "host/owner/name".
func (r Reference) Name() string {
	if r.Host == "" {
		return r.Repository
	}
	return r.Host + "/" + r.Repository
}

// Base returns the last element of the repository: "name".
func (r Reference) Base() string {
	return r.Repository[strings.LastIndexByte(r.Repository, '/')+1:]
}

// WithTag returns the name with another tag and without a digest.
func (r Reference) WithTag(tag string) Reference {
	r.Tag, r.Digest = tag, ""
	return r
}

// WithDigest returns the name by digest, without a tag.
func (r Reference) WithDigest(digest string) Reference {
	r.Tag, r.Digest = "", digest
	return r
}

// String puts the name together.
func (r Reference) String() string {
	name := r.Name()
	if r.Tag != "" {
		name += ":" + r.Tag
	}
	if r.Digest != "" {
		name += "@" + r.Digest
	}
	return name
}

// Match reports whether image, as a manifest names it, is an image of the repository of wanted. Tags and digests of both do not
// matter. It is if it names the repository in full ("host/owner/name"), or by the end of its path, from a slash on
// ("owner/name", "name"), or has the same path on another host, for manifests that name the registry of another environment.
func Match(image, wanted string) bool {
	is, want := Split(image), Split(wanted)
	switch {
	case is.Repository == "" || want.Repository == "":
		return false
	case is.Host != "":
		return is.Repository == want.Repository
	default:
		return is.Repository == want.Repository || strings.HasSuffix(want.Repository, "/"+is.Repository)
	}
}
