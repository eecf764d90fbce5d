package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/grimoire-build/grimoire/internal/process"
)

// InputsLabel is the label that tells from which inputs an image was built: what GoBuild.Inputs or DockerfileInputs returned.
const InputsLabel = "build.grimoire.inputs"

// InputsTag is the tag under which an image of these inputs is found in its repository.
func InputsTag(inputs string) string { return "inputs-" + inputs }

// ErrUnknownInputs says that not all inputs of an image can be told without building it.
var ErrUnknownInputs = errors.New("what goes into the image cannot be told beforehand")

// ofCommit are the labels that change with every commit, whatever it changes.
var ofCommit = []string{"org.opencontainers.image.created", "org.opencontainers.image.revision", "org.opencontainers.image.version"}

// inputHash collects what an image is built from, each under a name so that nothing can be taken for something else.
type inputHash struct{ hash.Hash }

func newInputHash(kind string) inputHash {
	h := inputHash{sha256.New()}
	h.add("kind", kind, packing)
	return h
}

func (h inputHash) add(name string, values ...string) { fmt.Fprintf(h, "%q %q\n", name, values) }

func (h inputHash) addMap(name string, values map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		h.add(name, key, values[key])
	}
}

func (h inputHash) addLabels(labels map[string]string) {
	labels = maps.Clone(labels)
	delete(labels, InputsLabel)
	for _, name := range ofCommit {
		delete(labels, name)
	}
	h.addMap("label", labels)
}

func (h inputHash) addFile(name, file string) error {
	content, err := os.Open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return err
	}
	h.add("file", name, hex.EncodeToString(sum.Sum(nil)))
	return nil
}

// sum is short enough for a tag, and long enough that no two are alike.
func (h inputHash) sum() string { return hex.EncodeToString(h.Sum(nil)[:20]) }

// Inputs returns a digest of everything that the image is made of: the files of the packages that are compiled in, the
// versions of the modules, the toolchain, the base's digest, and the options. It leaves out what changes with each commit, whatever
// that commit changes: Created, Version, Source, and the labels created, revision and version of the OCI. So two commits have the
// same inputs where nothing of these programs has changed between them. With cgo the error matches ErrUnknownInputs.
func (b *GoBuild) Inputs(ctx context.Context) (string, error) {
	inputs, err := b.inputs(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("finding out what the image is built from: %w", err)
	}
	b.Labels = maps.Clone(b.Labels)
	if b.Labels == nil {
		b.Labels = map[string]string{}
	}
	b.Labels[InputsLabel] = inputs
	return inputs, nil
}

func (b *GoBuild) inputs(ctx context.Context) (string, error) {
	if b.CGO {
		return "", fmt.Errorf("%w: with cgo, files anywhere may be included and linked", ErrUnknownInputs)
	}
	if err := b.findBases(ctx); err != nil {
		return "", err
	}
	h := newInputHash("go")
	h.add("toolchain", b.goVersion)
	h.addLabels(b.Labels)
	for i, platform := range b.platforms {
		h.add("platform", platform.String())
		h.add("base", b.bases[i].digest)
		for _, addition := range b.bases[i].additions {
			diffID, err := addition.Layer.DiffID()
			if err != nil {
				return "", err
			}
			h.add("layer", diffID.String())
		}
		recipe, err := b.recipe(b.bases[i], platform)
		if err != nil {
			return "", err
		}
		h.add("recipe", recipe...)
		for _, main := range b.mains {
			h.add("main", main.ImportPath, path.Join(binaryFolder, main.name))
		}
		packages := b.listed
		if i > 0 {
			var paths []string
			for _, main := range b.mains {
				paths = append(paths, main.ImportPath)
			}
			all, err := b.command(platform).list(ctx, paths)
			if err != nil {
				return "", err
			}
			packages = compiledInto(b.mains, all)
		}
		for _, p := range packages {
			if err := h.addPackage(p); err != nil {
				return "", err
			}
		}
	}
	return h.sum(), nil
}

// recipe is how an image on a base is made: what the compiler and the linker are told, and the configuration. It leaves out what
// changes with each commit, and the labels, which may.
func (b *GoBuild) recipe(base *goBase, platform *v1.Platform) ([]string, error) {
	options := b.GoOptions
	options.Version, options.Created, options.Labels = "", epoch, nil
	env, err := goEnvironment(platform, b.CGO)
	if err != nil {
		return nil, err
	}
	was, err := base.image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of the base: %w", err)
	}
	config := options.configure(was, b.mains[0].name, platform)
	text, err := json.Marshal(config.Config)
	if err != nil {
		return nil, err
	}
	return slices.Concat(buildFlags, []string{"-ldflags=" + options.ldflags()}, env, []string{config.OS, config.Architecture, config.Variant, string(text)}), nil
}

// compiledPackage is a package as `go list -deps` reports it.
type compiledPackage struct {
	ImportPath, Name, Dir, DefaultGODEBUG string
	Match, Deps                           []string
	Standard                              bool
	Module                                *compiledModule

	GoFiles, CgoFiles, CFiles, CXXFiles, MFiles, HFiles, FFiles, SFiles, SwigFiles, SwigCXXFiles, SysoFiles, EmbedFiles []string
}

type compiledModule struct {
	Path, Version, Sum, GoVersion, Dir string
	Main                               bool
	Replace                            *compiledModule
}

// list returns the packages that patterns match, and what those import, but for the standard library's.
func (g *goCommand) list(ctx context.Context, patterns []string) ([]compiledPackage, error) {
	args := []string{"list", "-deps", "-trimpath", buildTags, "-json=ImportPath,Name,Dir,DefaultGODEBUG,Match,Deps,Standard,Module," +
		"GoFiles,CgoFiles,CFiles,CXXFiles,MFiles,HFiles,FFiles,SFiles,SwigFiles,SwigCXXFiles,SysoFiles,EmbedFiles", "--"}
	cmd := process.Command(ctx, "go", append(args, patterns...)...)
	cmd.Dir, cmd.Env = g.dir, process.Env(g.env...)
	doing := "finding package " + strings.Join(patterns, " ")
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	var packages []compiledPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p compiledPackage
		if err := decoder.Decode(&p); err != nil {
			return nil, fmt.Errorf("%s: reading what go list says: %w", doing, err)
		}
		if !p.Standard {
			packages = append(packages, p)
		}
	}
	return packages, nil
}

// compiledInto leaves out the packages that are in none of the programs.
func compiledInto(mains []mainPackage, packages []compiledPackage) []compiledPackage {
	in := map[string]bool{}
	for _, p := range packages {
		if slices.ContainsFunc(mains, func(main mainPackage) bool { return main.ImportPath == p.ImportPath }) {
			in[p.ImportPath] = true
			for _, dep := range p.Deps {
				in[dep] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(packages), func(p compiledPackage) bool { return !in[p.ImportPath] })
}

func (h inputHash) addPackage(p compiledPackage) error {
	h.add("package", p.ImportPath, p.DefaultGODEBUG)
	from := p.Module
	if from != nil && from.Replace != nil {
		h.add("replaced", from.Path, from.Version)
		from = from.Replace
	}
	if from != nil {
		h.add("module", from.Path, from.Version, from.GoVersion)
	}
	// A module of a version is always the same; one in a vendor folder has no folder of its own, and may have been changed.
	if from != nil && from.Version != "" && from.Dir != "" {
		h.add("sum", from.Sum)
		return nil
	}
	files := slices.Concat(p.GoFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.MFiles, p.HFiles, p.FFiles, p.SFiles, p.SwigFiles,
		p.SwigCXXFiles, p.SysoFiles, p.EmbedFiles)
	for _, name := range files {
		if err := h.addFile(p.ImportPath+"/"+filepath.ToSlash(name), filepath.Join(p.Dir, name)); err != nil {
			return err
		}
	}
	if p.Name != "main" {
		return nil
	}
	// The compiler reads it without being told.
	const profile = "default.pgo"
	err := h.addFile(p.ImportPath+"/"+profile, filepath.Join(p.Dir, profile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// DockerfileInputs returns a digest of everything that Engine.Build makes an image of: the context's files without what is ignored,
// the Dockerfile, the digests that the registries have of the base images, and the options but for Tags, Logins, Output and the
// labels created, revision and version of the OCI; arguments that are named in without are left out too, and the folder .git, which
// each commit changes. What steps download is not among it, so a Dockerfile has to name versions there. The error matches ErrUnknownInputs where a base image is not
// in a registry, and where the Dockerfile downloads by ADD.
func DockerfileInputs(ctx context.Context, o BuildOptions, bases Registry, without ...string) (string, error) {
	return dockerfileInputs(ctx, o, func(ctx context.Context, images []string) ([]string, error) {
		digests := make([]string, len(images))
		for i, image := range images {
			var err error
			if digests[i], err = bases.identify(ctx, image); err != nil {
				return nil, err
			}
		}
		return digests, nil
	}, without)
}

// Inputs is DockerfileInputs for a build by this engine: of a base image that no registry tells the digest of, and of one that the
// engine has from no registry, it takes the ID that the engine has. The engine builds on what it has got earlier, whatever the registry
// has now; pull is what BuildOptions.Pull has to be for an image of these inputs.
func (e *Engine) Inputs(ctx context.Context, o BuildOptions, bases Registry, without ...string) (inputs string, pull bool, err error) {
	inputs, err = dockerfileInputs(ctx, o, func(ctx context.Context, images []string) (digests []string, err error) {
		digests, pull, err = e.identify(ctx, images, bases)
		return digests, err
	}, without)
	return inputs, pull, err
}

func (e *Engine) identify(ctx context.Context, images []string, bases Registry) (digests []string, pull bool, err error) {
	digests = make([]string, len(images))
	stale := map[int]string{} // the IDs of those that the engine has in an older version
	all := true               // of them can be pulled
	for i, image := range images {
		digest, err := bases.identify(ctx, image)
		if ctx.Err() != nil {
			return nil, false, err
		}
		id, known, local := e.localImage(ctx, image)
		switch {
		case local != nil && err != nil:
			return nil, false, err
		case local != nil: // it will be fetched
		case err != nil || len(known) == 0:
			digest, all = id, false
		case !slices.ContainsFunc(known, func(reference string) bool { return strings.HasSuffix(reference, "@"+digest) }):
			stale[i] = id
		}
		digests[i] = digest
	}
	if all {
		return digests, len(stale) > 0, nil
	}
	// An engine pulls all or none.
	for i, id := range stale {
		digests[i] = id
	}
	return digests, false, nil
}

// identify returns the digest that a registry has of a base image.
func (r Registry) identify(ctx context.Context, image string) (string, error) {
	s, err := r.session(ctx, "looking up", image)
	if err != nil {
		return "", err
	}
	digest, err := s.digest(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: the digest of the base image: %w", ErrUnknownInputs, s.explain(ctx, err))
	}
	return digest, nil
}

// identifier returns what tells apart the versions of each image.
type identifier func(ctx context.Context, images []string) ([]string, error)

func dockerfileInputs(ctx context.Context, o BuildOptions, identify identifier, without []string) (string, error) {
	inputs, err := hashDockerfile(ctx, o, identify, without)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("finding out what the image is built from: %w", err)
	}
	return inputs, nil
}

func hashDockerfile(ctx context.Context, o BuildOptions, identify identifier, without []string) (string, error) {
	files, err := openBuildContext(o.Context, o.Dockerfile, append(slices.Clone(o.Without), ".git")...)
	if err != nil {
		return "", err
	}
	defer files.Close()
	args := maps.Clone(o.Args)
	for _, name := range without {
		delete(args, name)
	}
	h := newInputHash("dockerfile")
	h.add("dockerfile", files.dockerfile)
	h.add("target", o.Target)
	h.add("platform", o.Platform)
	h.add("network", o.Network)
	h.addMap("arg", args)
	h.addLabels(o.Labels)
	images, err := baseImages(string(files.content), o.Args)
	if err != nil {
		return "", err
	}
	digests, err := identify(ctx, images)
	if err != nil {
		return "", err
	}
	for i, image := range images {
		h.add("base", image, digests[i])
	}
	files.timeless = true
	if err := files.write(ctx, h); err != nil {
		return "", err
	}
	return h.sum(), nil
}
