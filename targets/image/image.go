// Package image holds the targets Image and Push. It compiles what talks to a Docker Engine and to registries, which is why
// it is apart from the light targets.
package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/docker"
	"github.com/grimoire-build/grimoire/internal/checkout"
	"github.com/grimoire-build/grimoire/internal/settings"
	"github.com/grimoire-build/grimoire/internal/stage"
	"github.com/grimoire-build/grimoire/internal/words"
	"github.com/grimoire-build/grimoire/targets"
)

func init() {
	stage.Known("image", "push", "copy")
	targets.ProvideImage(func(ctx context.Context) (string, error) {
		err := Push(ctx)
		return made.get().Digest, err
	})
}

// Image builds the service's image: from the Dockerfile by a Docker Engine where there are both, else from the Go packages
// without an engine. What the registry holds already, an image of this commit or one of the same inputs, is not built again: source
// files, Dockerfile, base images, arguments, toolchain; unless IMAGE_REBUILD is true.
//
// The image is named REGISTRY_HOST/IMAGE_REPOSITORY:TAG, where the tag is 12 characters of the commit, with "-dirty" where
// files differ from it. What was built is written to build/image.json; the CI's step gets the output image. What the registry holds
// already is named by digest in that output and on stdout, since Push alone puts the commit's tag on it.
//
// Settings: REGISTRY_HOST, REGISTRY_USER, REGISTRY_PASS, IMAGE_REPOSITORY, IMAGE_TAG, IMAGE_BUILDER
// (auto), DOCKERFILE (Dockerfile), IMAGE_MAIN, IMAGE_BASE, IMAGE_PLATFORM (linux/amd64), IMAGE_CGO,
// IMAGE_TARGET, IMAGE_ARGS, IMAGE_SECRETS, IMAGE_NETWORK, IMAGE_REBUILD.
func Image(ctx context.Context) error {
	return targets.ServiceStage(ctx, "image",
		func(ctx context.Context, s targets.Service) error {
			p, err := newPlan(ctx, s)
			if err != nil {
				return err
			}
			b, err := p.build(ctx)
			if err != nil {
				return err
			}
			name := b.name()
			stage.Made(ctx, name)
			stage.Output(ctx, "image", name)
			if err := made.set(p, b); err != nil {
				return err
			}
			if stage.Requested("image") {
				return stage.Result(name)
			}
			return nil
		},
		func(ctx context.Context, s targets.Service) (string, error) {
			p, err := newPlan(ctx, s)
			if err != nil {
				return "", err
			}
			text := fmt.Sprintf("build %s for %s, ", p.reference, strings.Join(p.Image.Platform, ","))
			switch p.Image.Builder {
			case "engine":
				text += "from " + p.Image.Dockerfile + " by a Docker Engine"
			case "go":
				text += "from the Go packages"
			default:
				text += "from " + p.Image.Dockerfile + " by a Docker Engine where there are both, else from the Go packages"
			}
			if p.Image.Registry != "" && p.committed() && !p.Image.Rebuild {
				text += "; nothing where the registry holds it already"
			}
			return text, nil
		})
}

// Push pushes the image to the registry REGISTRY_HOST and prints its reference by digest. What the registry holds already
// is not pushed again. The login comes from REGISTRY_USER and REGISTRY_PASS, else from Docker's configuration and
// its credential helpers; an image of uncommitted files is refused unless ALLOW_DIRTY is true. In a CI run for a pull request
// it is skipped unless ALLOW_PULL_REQUEST is true. The CI's step gets the output digest.
//
// An image of the same inputs that an earlier commit has pushed gets this commit's tag too, and nothing is built or sent. Beside the
// image go its SBOM (of the builder go) and its provenance, as referrers. On the default branch the tag latest moves to it last, unless
// that is of a newer commit.
//
// Settings: ALLOW_PULL_REQUEST, REGISTRY_HOST, REGISTRY_USER, REGISTRY_PASS, IMAGE_REPOSITORY,
// IMAGE_TAG, IMAGE_PLATFORM (linux/amd64), IMAGE_REBUILD, IMAGE_LATEST (on), ALLOW_DIRTY, and those
// of image.
func Push(ctx context.Context) error {
	return targets.ServiceStage(ctx, "push",
		func(ctx context.Context, s targets.Service) error {
			p, err := newPlan(ctx, s)
			if err != nil {
				return err
			}
			if err := p.mayPush(); err != nil {
				return err
			}
			// So is a registry that is not there, or does not take the login.
			if _, err := p.registry.Digest(ctx, p.reference); err != nil && !errors.Is(err, docker.ErrNotFound) {
				return err
			}
			if err := Image(ctx); err != nil {
				return err
			}
			b, err := p.push(ctx, made.get())
			if err != nil {
				return err
			}
			if err := p.moveLatest(ctx, b.Digest); err != nil {
				return err
			}
			stage.Made(ctx, b.Digest)
			stage.Output(ctx, "digest", b.Digest)
			if err := made.set(p, b); err != nil {
				return err
			}
			if stage.Requested("push") {
				return stage.Result(b.Digest)
			}
			return nil
		},
		func(ctx context.Context, s targets.Service) (string, error) {
			p, err := newPlan(ctx, s)
			if err != nil {
				return "", err
			}
			if err := p.mayPush(); err != nil {
				return "", err
			}
			if err := Image(ctx); err != nil {
				return "", err
			}
			text := "push " + p.reference
			if !p.Image.Rebuild {
				text += "; nothing where the registry holds it already"
			}
			return text, nil
		})
}

// Copy copies this commit's image from the registry to IMAGE_COPY_TO, by digest and with its SBOM and provenance, and prints its
// reference there. Nothing is built; push comes first. The login of IMAGE_COPY_TO's registry comes from Docker's configuration, or is the
// one of REGISTRY_HOST where that is the same. The CI's step gets the output copied.
//
// Settings: ALLOW_PULL_REQUEST, REGISTRY_HOST, REGISTRY_USER, REGISTRY_PASS, IMAGE_REPOSITORY,
// IMAGE_TAG, IMAGE_COPY_TO, ALLOW_DIRTY.
func Copy(ctx context.Context) error {
	return targets.ServiceStage(ctx, "copy",
		func(ctx context.Context, s targets.Service) error {
			p, to, err := newCopy(ctx, s)
			if err != nil {
				return err
			}
			digest, err := p.registry.Copy(ctx, p.reference, to)
			if errors.Is(err, docker.ErrNotFound) {
				return fmt.Errorf("%w; push the image first", err)
			}
			if err != nil {
				return err
			}
			copied := byDigest(to, digest)
			zerolog.Ctx(ctx).Info().Str("from", p.reference).Str("to", to).Str("digest", digest).Msg("copied")
			stage.Made(ctx, copied)
			stage.Output(ctx, "copied", copied)
			if stage.Requested("copy") {
				return stage.Result(copied)
			}
			return nil
		},
		func(ctx context.Context, s targets.Service) (string, error) {
			p, to, err := newCopy(ctx, s)
			if err != nil {
				return "", err
			}
			return "copy " + p.reference + " to " + to, nil
		})
}

func newCopy(ctx context.Context, s targets.Service) (p *plan, to string, err error) {
	if p, err = newPlan(ctx, s); err != nil {
		return nil, "", err
	}
	if err := p.mayPush(); err != nil {
		return nil, "", err
	}
	host, repository, _ := strings.Cut(s.Image.CopyTo, "/")
	if s.Image.CopyTo == "" {
		return nil, "", errors.New("there is nowhere to copy the image to; set IMAGE_COPY_TO to HOST/OWNER/NAME")
	}
	tag := p.reference[strings.LastIndexByte(p.reference, ':')+1:]
	if i := strings.LastIndexByte(repository, ':'); i >= 0 {
		repository, tag = repository[:i], repository[i+1:]
	}
	to, err = docker.Reference(host, repository, tag)
	return p, to, err
}

// plan is what the settings and the checkout say of the image.
type plan struct {
	targets.Service
	module    string // its path
	tree      checkout.Checkout
	reference string // host/owner/name:tag, or name:tag where there is no registry
	registry  docker.Registry
	tag       string
}

// noRegistry stands for the registry of an image that stays on this machine while its name is checked.
const noRegistry = "localhost"

// plans are those of this run: Push has one, and Image, which it calls, has the same.
var plans struct {
	mu   sync.Mutex
	made map[string]*plan // by all that the service says
}

func newPlan(ctx context.Context, s targets.Service) (*plan, error) {
	plans.mu.Lock()
	defer plans.mu.Unlock()
	said := fmt.Sprintf("%#v", s)
	if p, ok := plans.made[said]; ok {
		return p, nil
	}
	p, err := makePlan(ctx, s)
	if err != nil {
		return nil, err
	}
	if plans.made == nil {
		plans.made = map[string]*plan{}
	}
	plans.made[said] = p
	return p, nil
}

func makePlan(ctx context.Context, s targets.Service) (*plan, error) {
	modulePath, err := s.ModulePath()
	if err != nil {
		return nil, err
	}
	tree, err := checkout.Read(ctx, s.Dir)
	if err != nil {
		return nil, err
	}
	tag := s.Image.Tag
	if tag == "" {
		tag = tree.Tag()
	}
	reference, err := docker.Reference(cmp.Or(s.Image.Registry, noRegistry), s.Image.Repository, tag)
	if err != nil {
		return nil, err
	}
	if s.Image.Registry == "" {
		reference = strings.TrimPrefix(reference, noRegistry+"/")
	}
	if tree.Commit != "" {
		stage.Describe("", tree.Tag())
	}
	return &plan{Service: s, module: modulePath, tree: tree, reference: reference, tag: tag, registry: docker.Registry{
		Host:     s.Image.Registry,
		Username: os.Getenv("REGISTRY_USER"),
		Password: os.Getenv("REGISTRY_PASS"),
	}}, nil
}

// mayPush refuses at once what could be refused only after a build.
func (p *plan) mayPush() error {
	if err := targets.MayPublish(p.Service); err != nil {
		return err
	}
	switch {
	case p.Image.Registry == "":
		return errors.New("there is no registry to push to; set REGISTRY_HOST to its host, and REGISTRY_USER and REGISTRY_PASS to the login")
	case p.Image.AllowDirty:
		return nil
	case p.tree.Missing != "":
		return fmt.Errorf("pushing %q: no commit names what is in it: %s, or set ALLOW_DIRTY=true", p.reference, p.tree.Missing)
	case p.tree.Dirty():
		return fmt.Errorf("pushing %q: these files are not what the commit holds: %s; commit them, or set ALLOW_DIRTY=true",
			p.reference, someOf(p.tree.Changed))
	}
	return nil
}

// someOf lists a few files.
func someOf(files []string) string {
	const most = 5
	if len(files) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(files[:most], ", "), len(files)-most)
	}
	return strings.Join(files, ", ")
}

// committed says that the tag names one content for ever, so that the registry's image of that tag is ours.
func (p *plan) committed() bool {
	return p.named() && p.Service.Image.Tag == ""
}

func (p *plan) build(ctx context.Context) (built, error) {
	log := zerolog.Ctx(ctx)
	c := &choice{plan: p}
	defer c.close()
	if p.Image.Registry != "" && p.committed() && !p.Image.Rebuild {
		digest, labels, err := p.pushed(ctx)
		there := built{Builder: builderRegistry, Reference: p.reference, Digest: byDigest(p.reference, digest), Inputs: labels[docker.InputsLabel]}
		const same = "the registry holds this commit's image, so nothing is built"
		switch {
		case err == nil && labels[settingsLabel] == p.settings(p.wanted()):
			log.Info().Str("reference", p.reference).Msg(same)
			return there, nil
		case err == nil && p.Image.Builder == "auto" && labels[settingsLabel] == p.settings(builderGo):
			// It will do for whoever has no engine either.
			builder, err := c.builder(ctx)
			if err != nil {
				return built{}, err
			}
			if builder == builderGo {
				log.Info().Str("reference", p.reference).Msg(same)
				return there, nil
			}
			log.Warn().Str("reference", p.reference).Msg("the registry holds an image of this commit that was built where no Docker Engine answered")
		case err == nil:
			log.Warn().Str("reference", p.reference).Msg("the registry holds an image of this commit that was built with other settings")
		case errors.Is(err, docker.ErrNotFound):
		default:
			// Building needs no registry: Push will say it if it is still not there.
			log.Debug().Err(err).Msg("the registry was not asked for this commit's image")
		}
	}
	m, err := c.maker(ctx)
	if err != nil {
		return built{}, err
	}
	inputs, err := m.inputs(ctx)
	switch {
	case errors.Is(err, docker.ErrUnknownInputs):
		log.Info().Err(err).Msg("the image is built whether or not there is one like it")
	case err != nil:
		return built{}, err
	}
	if found, ok := p.reuse(ctx, m, inputs); ok {
		return found, nil
	}
	b, err := m.build(ctx)
	if err != nil {
		return built{}, err
	}
	b.Inputs = p.key(inputs)
	return b, p.unmoved(ctx)
}

// unmoved refuses an image during whose build the files became others than those of its commit, since every machine would get it for that
// commit from then on.
func (p *plan) unmoved(ctx context.Context) error {
	if !p.named() {
		return nil
	}
	now, err := p.tree.Now(ctx)
	switch {
	case err != nil:
		return err
	case now.Commit != p.tree.Commit:
		return fmt.Errorf("building %q: another commit was checked out meanwhile, and the image may be of both; build it again", p.reference)
	case now.Dirty():
		return fmt.Errorf("building %q: these files changed meanwhile, and may be in the image: %s; commit them or take them back, and build it again",
			p.reference, someOf(now.Changed))
	}
	return nil
}

// reuse finds an image of the same inputs: in the registry, or where the last build has left it.
func (p *plan) reuse(ctx context.Context, m maker, inputs string) (built, bool) {
	if inputs == "" || p.Image.Rebuild {
		return built{}, false
	}
	log := zerolog.Ctx(ctx)
	if p.Image.Registry != "" {
		digest, err := p.registry.Digest(ctx, withTag(p.reference, docker.InputsTag(inputs)))
		if err == nil {
			log.Info().Str("digest", digest).Msg("the registry holds an image of the same inputs, so nothing is built")
			return built{Builder: builderRegistry, Reference: p.reference, Digest: byDigest(p.reference, digest), Inputs: inputs}, true
		}
		log.Debug().Err(err).Msg("the registry has no image of these inputs")
	}
	return m.existing(ctx, p.key(inputs))
}

// named says that the files are those of a commit.
func (p *plan) named() bool { return p.tree.Commit != "" && !p.tree.Dirty() }

// key is what an image of the inputs that this run makes is known by. One of files that are in no commit tells so, and no commit may get
// it, whatever its inputs; the other way round it may.
func (p *plan) key(inputs string) string {
	if inputs == "" || p.named() {
		return inputs
	}
	return inputs + "-dirty"
}

// pushed returns the digest and the labels of the image that the registry holds.
func (p *plan) pushed(ctx context.Context) (digest string, labels map[string]string, err error) {
	if digest, err = p.registry.Digest(ctx, p.reference); err != nil {
		return "", nil, err
	}
	config, err := p.config(ctx, byDigest(p.reference, digest))
	if err != nil {
		return "", nil, err
	}
	return digest, config.Config.Labels, nil
}

// config is the configuration of an image in the registry; of an index, of the one for the first platform.
func (p *plan) config(ctx context.Context, reference string) (*v1.ConfigFile, error) {
	img, err := p.registry.Pull(ctx, reference, p.Image.Platform[0])
	if err != nil {
		return nil, err
	}
	return img.ConfigFile()
}

// maker builds the image in one of the ways there are.
type maker interface {
	// inputs tells what the image is built from; docker.ErrUnknownInputs where that cannot be told.
	inputs(ctx context.Context) (string, error)
	// existing is the image of a key that has been built before, and is here.
	existing(ctx context.Context, key string) (built, bool)
	build(ctx context.Context) (built, error)
}

// wanted is what the image is built by where everything is there.
func (p *plan) wanted() string {
	if p.Image.Builder == "auto" {
		if _, err := os.Stat(filepath.Join(p.Dir, p.Image.Dockerfile)); errors.Is(err, os.ErrNotExist) {
			return builderGo
		}
		return builderEngine
	}
	return p.Image.Builder
}

// choice is what the image is built by, once that has been asked for.
type choice struct {
	plan   *plan
	is     string
	engine *docker.Engine
}

// builder is what the image is built by here.
func (c *choice) builder(ctx context.Context) (string, error) {
	if c.is != "" {
		return c.is, nil
	}
	p, log := c.plan, zerolog.Ctx(ctx)
	if p.wanted() == builderGo {
		if p.Image.Builder == "auto" {
			log.Info().Msgf("there is no %s, so the image is built from the Go packages", p.Image.Dockerfile)
		}
		c.is = builderGo
		return c.is, nil
	}
	if _, err := os.ReadFile(filepath.Join(p.Dir, p.Image.Dockerfile)); err != nil {
		return "", fmt.Errorf("reading the Dockerfile: %w; name a file that can be read with Service.Image.Dockerfile or DOCKERFILE", err)
	}
	engine, err := docker.Connect(ctx)
	if p.Image.Builder == "auto" && errors.Is(err, docker.ErrNoEngine) {
		log.Warn().Msgf("no Docker Engine answers, so %s is not used and the image is built from the Go packages; "+
			"set IMAGE_BUILDER=go where that is what you want everywhere, or IMAGE_BUILDER=engine where it never is", p.Image.Dockerfile)
		c.is = builderGo
		return c.is, nil
	}
	if err != nil {
		return "", err
	}
	c.is, c.engine = builderEngine, engine
	return c.is, nil
}

func (c *choice) maker(ctx context.Context) (maker, error) {
	builder, err := c.builder(ctx)
	if err != nil {
		return nil, err
	}
	if builder == builderGo {
		return c.plan.goMaker(ctx)
	}
	return c.plan.engineMaker(ctx, c.engine)
}

func (c *choice) close() {
	if c.engine != nil {
		c.engine.Close()
	}
}

// labels are the annotations that the OCI image specification names, as far as they are known. They depend on the commit and
// the settings alone, so that an image is the same wherever it is built.
func (p *plan) labels(builder string) map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":   p.Name,
		"org.opencontainers.image.version": p.version(),
		settingsLabel:                      p.settings(builder),
	}
	if host, _, ok := strings.Cut(p.module, "/"); ok && strings.Contains(host, ".") {
		labels["org.opencontainers.image.source"] = "https://" + p.module
	}
	if !p.tree.Time.IsZero() {
		labels["org.opencontainers.image.created"] = p.tree.Time.UTC().Format(time.RFC3339)
	}
	if p.named() {
		labels["org.opencontainers.image.revision"] = p.tree.Commit
	}
	return labels
}

// settingsLabel holds what an image was built with besides the commit, so that one of other settings is not taken for it.
const settingsLabel = "build.grimoire.settings"

// settings are a digest of what the image depends on besides the commit, of which what it is built by is one.
func (p *plan) settings(builder string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q %t %q %q %q %q", p.Image.Builder, builder, p.Image.Dockerfile,
		words.Join(p.Image.Main), p.Image.Base, strings.Join(p.Image.Platform, ","), p.Image.CGO, p.Image.Target,
		words.Join(settings.Assignments(p.Image.Args)), words.Join(p.Image.Secrets), p.Image.Network))
	return hex.EncodeToString(sum[:6])
}

// version is the tag, which is what the image's users see.
func (p *plan) version() string {
	if p.Image.Tag != "" {
		return p.Image.Tag
	}
	return p.tree.Tag()
}
