package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/docker"
	"github.com/grimoire-build/grimoire/internal/atomicfile"
	"github.com/grimoire-build/grimoire/internal/process"
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
	// Revision is the commit that it was built from; empty where there is none, or where files differed from it.
	Revision string `json:"revision,omitempty"`
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
	return atomicfile.Write(filepath.Join(p.Dir, p.Build, "image.json"), append(data, '\n'))
}

func (p *plan) buildByEngine(ctx context.Context, engine *docker.Engine) (built, error) {
	options := docker.BuildOptions{
		Context:    p.Dir,
		Dockerfile: p.Image.Dockerfile,
		Tags:       []string{p.reference},
		Args:       map[string]string{"VERSION": p.version()},
		Labels:     p.labels(),
		Platform:   p.Image.Platform,
	}
	if p.Image.Registry != "" {
		login, err := p.registry.Auth(ctx, p.reference)
		if err != nil {
			return built{}, err
		}
		options.Logins = append(options.Logins, login) // a base image may be a private one
	}
	id, err := engine.Build(ctx, options)
	if err != nil {
		return built{}, err
	}
	zerolog.Ctx(ctx).Info().Str("reference", p.reference).Str("id", id).Msg("built by the Docker Engine")
	return built{Builder: builderEngine, Reference: p.reference}, nil
}

func (p *plan) buildFromGo(ctx context.Context) (built, error) {
	packages := strings.Fields(p.Image.Main)
	if len(packages) == 0 {
		main, err := p.findMain(ctx)
		if err != nil {
			return built{}, err
		}
		packages = []string{main}
	}
	img, err := docker.BuildGo(ctx, docker.GoOptions{
		Dir:      p.Dir,
		Packages: packages,
		Platform: p.Image.Platform,
		Base:     p.Image.Base,
		Registry: p.registry,
		Labels:   p.labels(),
		Created:  p.tree.Time,
		Version:  p.version(),
	})
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
	b := built{Builder: builderGo, Reference: p.reference, Digest: byDigest(p.reference, digest.String())}
	zerolog.Ctx(ctx).Info().Str("reference", p.reference).Stringer("digest", digest).Msg("built from the Go packages")
	return b, nil
}

// layout is the folder of the image that was built without an engine, as an OCI image layout.
func (p *plan) layout() string { return filepath.Join(p.Dir, p.Build, "image") }

// findMain returns the package of the service's program: the module's root, cmd/NAME, or the only one there is.
func (p *plan) findMain(ctx context.Context) (string, error) {
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

// push brings b to the registry and returns it by digest.
func (p *plan) push(ctx context.Context, b built) (built, error) {
	log := zerolog.Ctx(ctx)
	switch b.Builder {
	case builderRegistry:
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
	default:
		img, err := docker.Load(p.layout())
		if err != nil {
			return b, err
		}
		digest, err := p.registry.Push(ctx, b.Reference, img)
		if err != nil {
			return b, err
		}
		b.Digest = byDigest(b.Reference, digest)
	}
	log.Info().Str("reference", b.Reference).Str("digest", b.Digest).Msg("pushed")
	return b, nil
}

// byDigest is the reference with the digest in place of the tag.
func byDigest(reference, digest string) string {
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		reference = reference[:i]
	}
	return reference + "@" + digest
}
