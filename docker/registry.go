package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/rs/zerolog"
)

// ErrNotFound says that a registry does not have the image that was asked for.
var ErrNotFound = errors.New("not in the registry")

// ErrNoImage says that a registry has what was asked for, and that this is no image that can be read.
var ErrNoImage = errors.New("there is no image in it that can be read")

// defaultPlatform is what an image is for where nobody says otherwise.
const defaultPlatform = "linux/amd64"

// worthTelling is how large a layer is whose upload is told of, in bytes: somebody waits for it.
const worthTelling = 32 << 20

// uploads is how many blobs are uploaded at a time.
const uploads = 4

// Registry is how registries are reached, any of them: a reference says which one. The zero value takes logins from
// Docker's configuration and its credential helpers, and goes without where they have none.
//
// References need a tag or a digest. An error is one sentence that names the reference and says what to do; no login is
// ever part of it.
type Registry struct {
	// Host is the registry that Username and Password are for, as it stands in references; they go to no other host.
	Host string
	// Username and Password are the login, or a name and a token. Default: Docker's configuration, also for any host
	// that is not Host.
	Username string
	Password string `json:"-"`
	// Insecure allows plain HTTP with Host. Hosts on the loopback interface and in private networks may always speak it.
	Insecure bool
	// Transport reaches the registries; default one that knows the system's certificates and
	// proxies, and gives up after a minute without an answer.
	Transport http.RoundTripper
	// Backoff holds the waits before a request is tried again after a broken connection, 429 or 5xx, and so how often.
	// Default: half a second, 1 s, 2 s, 4 s.
	Backoff []time.Duration
}

// String names the host, and never the login.
func (r Registry) String() string {
	if r.Host == "" {
		return "registries of Docker's configuration"
	}
	return withoutUserinfo(r.Host)
}

// GoString is String, so that no way of printing prints the login.
func (r Registry) GoString() string { return r.String() }

// Digest returns the digest ("sha256:…") of what the reference names, an image or an index of images. The error matches
// ErrNotFound where the registry has no such thing.
func (r Registry) Digest(ctx context.Context, ref string) (string, error) {
	s, err := r.session(ctx, "looking up", ref)
	if err != nil {
		return "", err
	}
	found, err := s.get(ctx, s.ref)
	if err != nil {
		return "", s.explain(ctx, err)
	}
	return found.Digest.String(), nil
}

// Pull returns the image that the reference names, from an index the one for the platform (default "linux/amd64"). The
// error matches ErrNotFound where the registry has no such image. Layers are fetched when they are read, as long as ctx
// lives.
func (r Registry) Pull(ctx context.Context, ref, platform string) (v1.Image, error) {
	s, err := r.session(ctx, "pulling", ref)
	if err != nil {
		return nil, err
	}
	img, err := s.pull(ctx, platform)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	return img, nil
}

// Config returns the configuration of the image that the reference names, whatever platform it is for; of an index, that of the first
// image in it. The error matches ErrNotFound where the registry has no such thing, and ErrNoImage where it is something else.
func (r Registry) Config(ctx context.Context, ref string) (*v1.ConfigFile, error) {
	s, err := r.session(ctx, "looking up", ref)
	if err != nil {
		return nil, err
	}
	config, err := s.config(ctx)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	return config, nil
}

// Exists says whether the registry has what the reference names.
func (r Registry) Exists(ctx context.Context, ref string) (bool, error) {
	_, err := r.Digest(ctx, ref)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Push uploads what the registry does not have of the image, or of the index and its images, then points the reference at it, and
// returns its digest ("sha256:…"). The reference may be the digest itself, for an image that gets its tags later. Where the
// reference names the image already, nothing is sent.
func (r Registry) Push(ctx context.Context, ref string, img Artifact) (string, error) {
	s, err := r.session(ctx, "pushing", ref)
	if err != nil {
		return "", err
	}
	digest, err := s.push(ctx, img)
	if err != nil {
		return "", s.explain(ctx, err)
	}
	return digest, nil
}

// Tag gives what the reference names more tags in the same repository, one after the other. Nothing is sent for a tag that is on it
// already. The error matches ErrNotFound where the registry does not have what the reference names.
func (r Registry) Tag(ctx context.Context, ref string, tags ...string) error {
	s, err := r.session(ctx, "tagging", ref)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := checkTag(tag); err != nil {
			return fmt.Errorf("tagging %q: %w", ref, err)
		}
	}
	if err := s.tag(ctx, tags); err != nil {
		return s.explain(ctx, err)
	}
	return nil
}

// session is one operation on one reference: what is done, who logs in, how the registry is spoken to.
type session struct {
	registry Registry
	doing    string
	ref      name.Reference
	login    login
	wait     *atomic.Int64 // how long the registry has asked to be left alone, in nanoseconds
}

func (r Registry) session(ctx context.Context, doing, reference string) (*session, error) {
	ref, err := parseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("%s an image: %w", doing, err)
	}
	host, err := r.host()
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", doing, reference, err)
	}
	if r.Insecure && ref.Context().RegistryStr() == host {
		if ref, err = parseReference(reference, name.Insecure); err != nil {
			return nil, fmt.Errorf("%s an image: %w", doing, err)
		}
	}
	s := &session{registry: r, doing: doing, ref: ref, wait: new(atomic.Int64)}
	if s.login, err = r.login(ctx, ref.Context()); err != nil {
		return nil, fmt.Errorf("%s %q: %w", doing, reference, err)
	}
	return s, nil
}

// host returns Host as references carry it.
func (r Registry) host() (string, error) {
	if r.Host == "" {
		return "", nil
	}
	if err := checkHost(r.Host); err != nil {
		return "", err
	}
	registry, err := name.NewRegistry(strings.ToLower(r.Host))
	return registry.RegistryStr(), err
}

// options returns how the registry is spoken to. The library's own retries are off: they sleep on after ctx has ended.
func (s *session) options(ctx context.Context) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuth(s.login.authenticator),
		remote.WithTransport(s.transport()),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		remote.WithRetryPredicate(func(error) bool { return false }),
		remote.WithRetryStatusCodes(),
	}
}

func (s *session) transport() http.RoundTripper {
	if s.registry.Transport != nil {
		return &askedToWait{s.registry.Transport, s.wait}
	}
	return &askedToWait{patient(), s.wait}
}

// silence is how long a registry may take to begin its answer once it has the whole request.
const silence = time.Minute

var patient = sync.OnceValue(func() http.RoundTripper { return withSilence(silence) })

func withSilence(d time.Duration) http.RoundTripper {
	transport, ok := remote.DefaultTransport.(*http.Transport)
	if !ok {
		return remote.DefaultTransport
	}
	transport = transport.Clone()
	transport.ResponseHeaderTimeout = d
	return transport
}

// digest asks for the digest alone, which Docker Hub does not count as a pull, and for the manifest where that fails.
func (s *session) digest(ctx context.Context) (string, error) {
	described, err := remote.Head(s.ref, s.options(ctx)...)
	if err == nil {
		return described.Digest.String(), nil
	}
	found, err := s.get(ctx, s.ref)
	if err != nil {
		return "", err
	}
	return found.Digest.String(), nil
}

// get asks for the manifest itself. A HEAD request would do for its digest, but is answered without the reason where it
// fails.
func (s *session) get(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	var found *remote.Descriptor
	err := s.retry(ctx, func() (err error) {
		found, err = remote.Get(ref, s.options(ctx)...)
		return err
	})
	return found, err
}

func (s *session) pull(ctx context.Context, platform string) (v1.Image, error) {
	want, err := parsePlatform(platform)
	if err != nil {
		return nil, err
	}
	// Whoever reads the image later sends requests of its own, so they are tried again one by one.
	options := append(s.options(ctx), remote.WithTransport(&retryTransport{s}), remote.WithPlatform(*want))
	img, err := remote.Image(s.ref, options...)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	if has := config.Platform(); has != nil && has.OS != "" && !has.Satisfies(*want) {
		return nil, fmt.Errorf("it is an image for %s and not for %s", has, want)
	}
	return img, nil
}

func (s *session) config(ctx context.Context) (*v1.ConfigFile, error) {
	found, err := s.get(ctx, s.ref)
	if err != nil {
		return nil, err
	}
	options := append(s.options(ctx), remote.WithTransport(&retryTransport{s}))
	read := func(ref name.Reference) (*v1.ConfigFile, error) {
		img, err := remote.Image(ref, options...)
		if err != nil {
			return nil, err
		}
		return img.ConfigFile()
	}
	images := []v1.Descriptor{found.Descriptor}
	if found.MediaType.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(found.Manifest))
		if err != nil {
			return nil, fmt.Errorf("%w: %s", ErrNoImage, s.brief(err))
		}
		images = index.Manifests
	}
	var unreadable error
	for _, image := range images {
		if !image.MediaType.IsImage() || image.Platform != nil && image.Platform.OS == "unknown" { // as what BuildKit attaches
			continue
		}
		config, err := read(s.ref.Context().Digest(image.Digest.String()))
		switch {
		case err == nil:
			return config, nil
		case ctx.Err() != nil || unanswered(err):
			return nil, err
		}
		unreadable = err
	}
	if unreadable != nil {
		return nil, fmt.Errorf("%w: %s", ErrNoImage, s.brief(unreadable))
	}
	return nil, ErrNoImage
}

func (s *session) push(ctx context.Context, img Artifact) (string, error) {
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	if want, ok := s.ref.(name.Digest); ok && want.DigestStr() != digest.String() {
		return "", fmt.Errorf("the image is %s; push it to a tag", digest)
	}
	there, err := s.get(ctx, s.ref)
	switch {
	case err == nil && there.Digest == digest:
		zerolog.Ctx(ctx).Info().Stringer("reference", s.ref).Stringer("digest", digest).Msg("the registry has the image already")
		return digest.String(), nil
	// Some registries answer a question for what they do not have with 403.
	case err != nil && !hasStatus(err, http.StatusNotFound, http.StatusForbidden):
		return "", err
	}
	return digest.String(), s.put(ctx, img)
}

// put uploads what the registry does not have, and the manifest in any case.
func (s *session) put(ctx context.Context, img Artifact) error {
	pusher, err := remote.NewPusher(s.options(ctx)...)
	if err != nil {
		return err
	}
	if err := s.uploadParts(ctx, pusher, img); err != nil {
		return err
	}
	// The tag comes last, so that it never names an image that is not whole.
	return s.retry(ctx, func() error { return pusher.Put(ctx, s.ref, img) })
}

// uploadParts uploads everything but the manifest.
func (s *session) uploadParts(ctx context.Context, pusher *remote.Pusher, a Artifact) error {
	switch a := a.(type) {
	case v1.Image:
		blobs, err := a.Layers()
		if err != nil {
			return err
		}
		config, err := partial.ConfigLayer(a)
		if err != nil {
			return err
		}
		return s.upload(ctx, pusher, append(blobs, config))
	case v1.ImageIndex:
		manifest, err := a.IndexManifest()
		if err != nil {
			return err
		}
		for _, child := range manifest.Manifests {
			var part Artifact
			if child.MediaType.IsIndex() {
				part, err = a.ImageIndex(child.Digest)
			} else {
				part, err = a.Image(child.Digest)
			}
			if err != nil {
				return err
			}
			if err := s.uploadParts(ctx, pusher, part); err != nil {
				return err
			}
			ref := s.ref.Context().Digest(child.Digest.String())
			if err := s.retry(ctx, func() error { return pusher.Put(ctx, ref, part) }); err != nil {
				return err
			}
		}
		return nil
	case *GoImage:
		return s.uploadParts(ctx, pusher, a.Artifact)
	default:
		return fmt.Errorf("%T is neither an image nor an index", a)
	}
}

// upload uploads the blobs that the registry does not have. The first failure stops the others.
func (s *session) upload(ctx context.Context, pusher *remote.Pusher, blobs []v1.Layer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, uploads)
	var running sync.WaitGroup
	for _, blob := range blobs {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if size, err := blob.Size(); err == nil && size >= worthTelling {
				zerolog.Ctx(ctx).Info().Int64("MiB", size>>20).Stringer("reference", s.ref).Msg("uploading a layer, where the registry does not have it")
			}
			err := s.retry(ctx, func() error { return pusher.Upload(ctx, s.ref.Context(), blob) })
			if err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}

func (s *session) tag(ctx context.Context, tags []string) error {
	image, err := s.get(ctx, s.ref)
	if err != nil {
		return err
	}
	pusher, err := remote.NewPusher(s.options(ctx)...)
	if err != nil {
		return err
	}
	for _, text := range tags {
		tag := s.ref.Context().Tag(text)
		there, err := s.get(ctx, tag)
		if err == nil && there.Digest == image.Digest {
			continue
		}
		if err != nil && !hasStatus(err, http.StatusNotFound, http.StatusForbidden) {
			return err
		}
		if err := s.retry(ctx, func() error { return pusher.Put(ctx, tag, image) }); err != nil {
			return err
		}
	}
	return nil
}

// unanswered says whether err is the registry's failing, and tells nothing of what it holds.
func unanswered(err error) bool {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode != http.StatusNotFound
	}
	var request *url.Error
	return errors.As(err, &request) || passing(err)
}

// hasStatus says whether err is an answer of the registry with one of the statuses.
func hasStatus(err error, statuses ...int) bool {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return false
	}
	for _, status := range statuses {
		if answer.StatusCode == status {
			return true
		}
	}
	return false
}

// parsePlatform reads "os/architecture" or "os/architecture/variant"; default linux/amd64.
func parsePlatform(platform string) (*v1.Platform, error) {
	if platform == "" {
		platform = defaultPlatform
	}
	p, err := v1.ParsePlatform(platform)
	if err != nil || p.OS == "" || p.Architecture == "" || p.OSVersion != "" {
		return nil, fmt.Errorf("platform %q is not written as OS/ARCHITECTURE; linux/amd64 for example", platform)
	}
	return p, nil
}
