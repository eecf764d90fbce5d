package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	gobuild "go/build"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/docker"
	"github.com/grimoire-build/grimoire/internal/atomicfile"
	"github.com/grimoire-build/grimoire/internal/mask"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// What an image came from.
const (
	builderEngine   = "engine"
	builderGo       = "go"
	builderRegistry = "registry" // it was there already
)

// built is what is known of the image; it is also the content of build/image.json.
type built struct {
	// Version of the file's format, 1.
	Version int `json:"version"`
	// Builder is engine, go, or registry where the image was there already.
	Builder string `json:"builder"`
	// Reference is the image by tag.
	Reference string `json:"reference"`
	// Digest is the image by digest, name@sha256:…; an engine's image has none before it is pushed.
	Digest string `json:"digest,omitempty"`
	// ID is what the engine that has built it calls it.
	ID string `json:"id,omitempty"`
	// Inputs is a digest of what it was built from, with "-dirty" where these are files of no commit; empty where that cannot be told.
	Inputs string `json:"inputs,omitempty"`
	// Revision is the commit that it was built from; empty where there is none, or where files differed from it.
	Revision string `json:"revision,omitempty"`
}

// name is by what the image can be found where it is: an image of the same inputs that the registry holds has no tag of this commit.
func (b built) name() string {
	if b.Builder == builderRegistry {
		return b.Digest
	}
	return b.Reference
}

// made is the image of this run. The targets of a run are functions, so this is how Push gets what Image made.
var made record

type record struct {
	mu    sync.Mutex
	image built
}

func (r *record) get() built {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.image
}

// set keeps b for the run, and in build/image.json for whoever comes after it.
func (r *record) set(p *plan, b built) error {
	b.Version = 1
	if !p.tree.Dirty() {
		b.Revision = p.tree.Commit
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.image = b
	data, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(p.file(), append(data, '\n'))
}

func (p *plan) file() string { return filepath.Join(p.Dir, p.Build, "image.json") }

// last is what the last run has left in build/image.json.
func (p *plan) last() (built, error) {
	data, err := os.ReadFile(p.file())
	if err != nil {
		return built{}, err
	}
	var b built
	err = json.Unmarshal(data, &b)
	return b, err
}

// engineMaker builds from the Dockerfile by a Docker Engine.
type engineMaker struct {
	plan    *plan
	engine  *docker.Engine
	options docker.BuildOptions
}

func (p *plan) engineMaker(ctx context.Context, engine *docker.Engine) (*engineMaker, error) {
	if len(p.Image.Platform) > 1 {
		return nil, fmt.Errorf("a Docker Engine builds for one platform at a time, and not for %s; set IMAGE_BUILDER=go, or one IMAGE_PLATFORM",
			strings.Join(p.Image.Platform, ","))
	}
	args, err := p.args()
	if err != nil {
		return nil, err
	}
	secrets, err := p.secrets()
	if err != nil {
		return nil, err
	}
	m := &engineMaker{plan: p, engine: engine, options: docker.BuildOptions{
		Context:    p.Dir,
		Without:    p.made(),
		Dockerfile: p.Image.Dockerfile,
		Tags:       []string{p.reference},
		Args:       args,
		Labels:     p.labels(builderEngine),
		Target:     p.Image.Target,
		Platform:   p.Image.Platform[0],
		Network:    p.Image.Network,
		NoCache:    p.Image.Rebuild,
		Pull:       p.Image.Rebuild, // unless the inputs tell that it need not, or cannot
		Secrets:    secrets,
		Doing:      func(step string) { stage.Doing(ctx, step) },
	}}
	if p.Image.Registry != "" {
		login, err := p.registry.Auth(ctx, p.reference)
		if err != nil {
			return nil, err
		}
		m.options.Logins = append(m.options.Logins, login) // a base image may be a private one
	}
	return m, nil
}

// made are the files that runs make in the folder for that. They would make each context another one; what else is there may be for
// the image.
func (p *plan) made() (patterns []string) {
	for _, name := range []string{".gitignore", "image", "image.*", ".image*", "pipeline.*", ".pipeline*", "coverage.*", ".coverage*", "junit.xml", ".junit*"} {
		patterns = append(patterns, path.Join(filepath.ToSlash(p.Build), name))
	}
	return patterns
}

// versionArg is the argument that tells the Dockerfile the version. It changes with every commit.
const versionArg = "VERSION"

// args are the arguments of the Dockerfile. A secret is refused: whoever has the image can read it in its history.
func (p *plan) args() (map[string]string, error) {
	args := map[string]string{versionArg: p.version()}
	for _, name := range slices.Sorted(maps.Keys(p.Image.Args)) {
		value := p.Image.Args[name]
		const cure = "name it in IMAGE_SECRETS, and read it in the Dockerfile by RUN --mount=type=secret,id=NAME"
		switch {
		case mask.SecretName(name):
			return nil, fmt.Errorf("the build argument %s is named like a secret, and would stand in the image's history; %s", name, cure)
		case stage.Mask(value) != value:
			return nil, fmt.Errorf("the build argument %s holds a secret of the environment, and would stand in the image's history; %s", name, cure)
		}
		args[name] = value
	}
	return args, nil
}

func (p *plan) secrets() (map[string][]byte, error) {
	secrets := map[string][]byte{}
	for _, name := range p.Image.Secrets {
		value, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("the setting Image.Secrets (IMAGE_SECRETS) names %s, which is not set in the environment; set it, or leave it out", name)
		}
		secrets[name] = []byte(value)
	}
	return secrets, nil
}

func (m *engineMaker) inputs(ctx context.Context) (string, error) {
	// Where there are none, the image must not have those of the image that it is built on.
	m.options.Labels[docker.InputsLabel] = ""
	inputs, pull, err := m.engine.Inputs(ctx, m.options, m.plan.registry, versionArg)
	if err != nil {
		return "", err
	}
	m.options.Pull = pull
	inputs = m.plan.ofTag(inputs)
	m.options.Labels[docker.InputsLabel] = m.plan.key(inputs)
	return inputs, nil
}

func (m *engineMaker) existing(ctx context.Context, key string) (built, bool) {
	log := zerolog.Ctx(ctx)
	last, err := m.plan.last()
	if err != nil || last.ID == "" || last.Inputs != key {
		return built{}, false
	}
	has, err := m.engine.Has(ctx, last.ID, key)
	if err == nil && has {
		err = m.engine.Tag(ctx, last.ID, m.plan.reference)
	}
	if err != nil {
		log.Debug().Err(err).Msg("the image that was built last is not taken")
	}
	if err != nil || !has {
		return built{}, false
	}
	log.Info().Str("reference", m.plan.reference).Str("id", last.ID).Msg("the engine has an image of the same inputs, so nothing is built")
	return built{Builder: builderEngine, Reference: m.plan.reference, ID: last.ID, Inputs: key}, true
}

func (m *engineMaker) build(ctx context.Context) (built, error) {
	id, err := m.engine.Build(ctx, m.options)
	if err != nil {
		return built{}, err
	}
	zerolog.Ctx(ctx).Info().Str("reference", m.plan.reference).Str("id", id).Msg("built by the Docker Engine")
	return built{Builder: builderEngine, Reference: m.plan.reference, ID: id}, nil
}

// ofTag makes a chosen tag one of the inputs: it is the version that the image tells, which no commit changes.
func (p *plan) ofTag(inputs string) string {
	if p.Image.Tag == "" {
		return inputs
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", inputs, p.Image.Tag))
	return hex.EncodeToString(sum[:20])
}

// goMaker builds from the Go packages.
type goMaker struct {
	plan *plan
	todo *docker.GoBuild
}

func (p *plan) goMaker(ctx context.Context) (*goMaker, error) {
	packages := p.Image.Main
	if len(packages) == 0 {
		main, err := p.findMain(ctx)
		if err != nil {
			return nil, err
		}
		packages = []string{main}
	}
	todo, err := docker.NewGoBuild(ctx, docker.GoOptions{
		Dir:       p.Dir,
		Packages:  packages,
		Platforms: p.Image.Platform,
		CGO:       p.Image.CGO,
		Base:      p.Image.Base,
		Registry:  p.registry,
		Labels:    p.labels(builderGo),
		Created:   p.tree.Time,
		Version:   p.version(),
		Source:    p.source(),
	})
	if err != nil {
		return nil, err
	}
	return &goMaker{p, todo}, nil
}

func (m *goMaker) inputs(ctx context.Context) (string, error) {
	inputs, err := m.todo.Inputs(ctx)
	if err != nil {
		return "", err
	}
	inputs = m.plan.ofTag(inputs)
	m.todo.Labels[docker.InputsLabel] = m.plan.key(inputs)
	return inputs, nil
}

func (m *goMaker) existing(ctx context.Context, key string) (built, bool) {
	p, log := m.plan, zerolog.Ctx(ctx)
	last, err := p.last()
	if err != nil || last.Builder != builderGo || last.Inputs != key || last.Reference != p.reference {
		return built{}, false
	}
	img, err := docker.Load(p.layout())
	if err != nil {
		log.Debug().Err(err).Msg("the image that was built last is not there any more")
		return built{}, false
	}
	if digest, err := img.Digest(); err != nil || byDigest(p.reference, digest.String()) != last.Digest {
		return built{}, false
	}
	if _, err := p.readStatements(); err != nil {
		log.Debug().Err(err).Msg("what is said of the image that was built last is not there any more")
		return built{}, false
	}
	log.Info().Str("reference", p.reference).Msg("nothing has changed since the image was built, so nothing is built")
	return last, true
}

func (m *goMaker) build(ctx context.Context) (built, error) {
	p := m.plan
	stage.Doing(ctx, "compiling")
	img, err := m.todo.Build(ctx)
	if err != nil {
		return built{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return built{}, fmt.Errorf("computing the digest of %q: %w", p.reference, err)
	}
	if err := docker.Save(p.layout(), img, p.reference); err != nil {
		return built{}, err
	}
	if err := atomicfile.Write(p.statements(), docker.JoinStatements(img.Statements)); err != nil {
		return built{}, err
	}
	b := built{Builder: builderGo, Reference: p.reference, Digest: byDigest(p.reference, digest.String())}
	zerolog.Ctx(ctx).Info().Str("reference", p.reference).Stringer("digest", digest).Msg("built from the Go packages")
	return b, nil
}

// statements is the file of the SBOM and the provenance of the image in layout, a statement each line.
func (p *plan) statements() string { return filepath.Join(p.Dir, p.Build, "image.intoto.jsonl") }

// source is where the code is from.
func (p *plan) source() docker.Source {
	var s docker.Source
	if host, _, ok := strings.Cut(p.module, "/"); ok && strings.Contains(host, ".") {
		s.Repository = "https://" + p.module
	}
	if p.named() {
		s.Revision = p.tree.Commit
	}
	return s
}

// layout is the folder of the image that was built without an engine, as an OCI image layout.
func (p *plan) layout() string { return filepath.Join(p.Dir, p.Build, "image") }

// findMain returns the package of the service's program: the module's root, cmd/NAME, or the only one there is.
func (p *plan) findMain(ctx context.Context) (string, error) {
	// Asking the go command takes fifty times as long, which is what most services would wait for.
	for _, dir := range []string{".", "./cmd/" + p.Name} {
		if pkg, err := gobuild.ImportDir(filepath.Join(p.Dir, dir), 0); err == nil && pkg.IsCommand() {
			return dir, nil
		}
	}
	cmd := process.Command(ctx, "go", "list", "-e", "-f", `{{if eq .Name "main"}}{{.Module.Path}} {{.ImportPath}}{{end}}`, "./...")
	cmd.Dir = p.Dir
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("looking for the main package: %w", err)
	}
	var mains []string
	for line := range strings.Lines(string(out)) {
		module, pkg, _ := strings.Cut(strings.TrimSpace(line), " ")
		if pkg == module {
			return ".", nil
		}
		if path.Base(pkg) != "magefiles" {
			mains = append(mains, "."+strings.TrimPrefix(pkg, module))
		}
	}
	if named := "./cmd/" + p.Name; slices.Contains(mains, named) {
		return named, nil
	}
	switch len(mains) {
	case 0:
		return "", errors.New("there is no main package in this module; an image is made of a program")
	case 1:
		return mains[0], nil
	default:
		return "", fmt.Errorf("there is more than one main package: %s; say which with Service.Image.Main or IMAGE_MAIN", strings.Join(mains, ", "))
	}
}

// push brings b to the registry and returns it by digest. Tags come last: what is attached to an image is there before anybody finds it.
func (p *plan) push(ctx context.Context, b built) (built, error) {
	log := zerolog.Ctx(ctx)
	tags := []string{p.tag}
	switch b.Builder {
	case builderRegistry:
		if err := p.complete(ctx, b); err != nil {
			return b, err
		}
		if err := p.registry.Tag(ctx, b.Digest, tags...); err != nil {
			return b, err
		}
		log.Info().Str("reference", b.Reference).Msg("the registry holds it already, so nothing is pushed")
		return b, nil
	case builderEngine:
		engine, err := docker.Connect(ctx)
		if err != nil {
			return b, err
		}
		defer engine.Close()
		digest, err := engine.Push(ctx, b.Reference, p.registry)
		if err != nil {
			return b, err
		}
		b.Digest = byDigest(b.Reference, digest)
		if err := p.attachProvenance(ctx, b.Digest); err != nil {
			return b, err
		}
	default:
		img, err := docker.Load(p.layout())
		if err != nil {
			return b, err
		}
		statements, err := p.readStatements()
		if err != nil {
			return b, err
		}
		if _, err := p.registry.Push(ctx, b.Digest, img); err != nil {
			return b, err
		}
		if err := p.registry.Attach(ctx, b.Digest, statements...); err != nil {
			return b, err
		}
	}
	if b.Inputs != "" && p.named() {
		tags = append(tags, docker.InputsTag(b.Inputs))
	}
	if err := p.registry.Tag(ctx, b.Digest, tags...); err != nil {
		return b, err
	}
	log.Info().Str("reference", b.Reference).Str("digest", b.Digest).Msg("pushed")
	return b, nil
}

// complete does what a push that was ended has left undone: an engine moves the commit's tag itself, before anything else can follow.
// Last of all comes the tag of the inputs.
func (p *plan) complete(ctx context.Context, b built) error {
	if b.Inputs == "" {
		return nil
	}
	if done, err := p.registry.Exists(ctx, withTag(b.Reference, docker.InputsTag(b.Inputs))); done || err != nil {
		return err
	}
	statements, err := p.registry.Statements(ctx, b.Digest)
	if err != nil {
		return err
	}
	if len(statements) == 0 {
		config, err := p.config(ctx, b.Digest)
		if err != nil {
			return err
		}
		if !docker.FromPackages(config) { // of such an image its build has said it, and no Dockerfile has a part in it
			if err := p.attachProvenance(ctx, b.Digest); err != nil {
				return err
			}
		}
	}
	return p.registry.Tag(ctx, b.Digest, docker.InputsTag(b.Inputs))
}

func (p *plan) readStatements() ([]docker.Statement, error) {
	text, err := os.ReadFile(p.statements())
	if err != nil {
		return nil, fmt.Errorf("reading the SBOM and provenance: %w; build the image again", err)
	}
	statements, err := docker.ParseStatements(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.statements(), err)
	}
	return statements, nil
}

// attachProvenance says of an image that an engine has built how that was. The reference has a digest.
func (p *plan) attachProvenance(ctx context.Context, reference string) error {
	args, err := p.args()
	if err != nil {
		return err
	}
	options := docker.BuildOptions{Dockerfile: p.Image.Dockerfile, Target: p.Image.Target, Platform: p.Image.Platform[0], Args: args, Network: p.Image.Network}
	_, digest, _ := strings.Cut(reference, "@")
	statement, err := options.Provenance(digest, p.source())
	if err != nil {
		return err
	}
	return p.registry.Attach(ctx, reference, statement)
}

// byDigest is the reference with the digest in place of the tag.
func byDigest(reference, digest string) string { return withoutTag(reference) + "@" + digest }

// withTag is the reference with another tag.
func withTag(reference, tag string) string { return withoutTag(reference) + ":" + tag }

func withoutTag(reference string) string {
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		return reference[:i]
	}
	return reference
}
