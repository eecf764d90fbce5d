package docker

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// The grammar of references: https://github.com/distribution/reference/blob/main/reference.go
var (
	componentGrammar = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	tagGrammar       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
)

// nameLimit is how long host and repository may be together, in characters.
const nameLimit = 255

// Reference puts a reference together: "git.example.org/shop/pay:4f2a9c". The repository is written in lower case, as
// forges that name it after an owner and a repository (Gitea, GitHub) want it. The error says which part is wrong.
func Reference(host, repository, tag string) (string, error) {
	host = strings.ToLower(host)
	repository = strings.ToLower(repository)
	if err := checkHost(host); err != nil {
		return "", fmt.Errorf("naming an image: %w", err)
	}
	if err := checkRepository(repository); err != nil {
		return "", fmt.Errorf("naming an image: %w", err)
	}
	if err := checkTag(tag); err != nil {
		return "", fmt.Errorf("naming an image: %w", err)
	}
	if len(host)+1+len(repository) > nameLimit {
		return "", fmt.Errorf("naming an image: %s/%s is longer than %d characters", host, repository, nameLimit)
	}
	reference := host + "/" + repository + ":" + tag
	ref, err := name.NewTag(reference)
	if err != nil {
		return "", fmt.Errorf("naming an image: %w", err)
	}
	// A first part without a dot or a colon is taken for an owner on Docker Hub, and the image would go there.
	if ref.RegistryStr() != host && host != "docker.io" {
		return "", fmt.Errorf("naming an image: host %q would be taken for an owner on Docker Hub; add its domain or port", host)
	}
	return reference, nil
}

func checkHost(host string) error {
	switch {
	case host == "":
		return errors.New("the registry's host is empty; set it, git.example.org for example")
	case strings.Contains(host, "@"):
		return fmt.Errorf("host %q has a login in front of it; give the login apart from the host", withoutUserinfo(host))
	case strings.Contains(host, "://"):
		return fmt.Errorf("host %q has a scheme; leave %q away", host, host[:strings.Index(host, "://")+3])
	case strings.Contains(host, "/"):
		return fmt.Errorf("host %q has a path; it belongs to the repository", host)
	}
	if _, err := name.NewRegistry(host); err != nil {
		return fmt.Errorf("host %q is no host name with an optional port", host)
	}
	return nil
}

func checkRepository(repository string) error {
	if repository == "" {
		return errors.New("the repository is empty; give it as owner/name")
	}
	for component := range strings.SplitSeq(repository, "/") {
		if !componentGrammar.MatchString(component) {
			return fmt.Errorf("repository %q has the part %q; parts are letters and digits, with single . or _ or - between them",
				withoutUserinfo(repository), withoutUserinfo(component))
		}
	}
	return nil
}

func checkTag(tag string) error {
	if !tagGrammar.MatchString(tag) {
		return fmt.Errorf("tag %q is not 1 to 128 letters, digits, _ . - that begin with a letter, a digit or _", tag)
	}
	return nil
}

// parseReference reads a reference that names a tag or a digest. One that names neither is refused: "latest" would be a
// guess, and another image tomorrow.
func parseReference(reference string, options ...name.Option) (name.Reference, error) {
	if bare := withoutUserinfo(reference); bare != reference || strings.Contains(reference, "://") {
		return nil, fmt.Errorf("reference %q comes with a scheme or a login; leave them away", bare)
	}
	ref, err := name.ParseReference(reference, append(options, name.WithDefaultTag(""))...)
	if err != nil {
		return nil, fmt.Errorf("reference %q is malformed; write it as HOST/OWNER/NAME:TAG in lower case", reference)
	}
	if ref.Identifier() == "" {
		return nil, fmt.Errorf("reference %q has neither tag nor digest; add one, as in %s:TAG", reference, reference)
	}
	return ref, nil
}

// withoutUserinfo returns an address or a reference without "user:password@", and a reference without scheme too.
func withoutUserinfo(address string) string {
	digest := ""
	if at := strings.LastIndex(address, "@sha256:"); at >= 0 {
		address, digest = address[:at], address[at:]
	}
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		scheme, rest = "", address
	} else {
		scheme += "://"
	}
	// The last @, because a password may hold one too.
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = rest[at+1:]
	}
	return scheme + rest + digest
}

// withoutUserinfoError keeps the login of an address out of an error's text.
func withoutUserinfoError(err error, address string) error {
	bare := withoutUserinfo(address)
	if bare == address || !strings.Contains(err.Error(), address) {
		return err
	}
	return &sentence{text: strings.ReplaceAll(err.Error(), address, bare), cause: err}
}
