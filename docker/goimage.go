package docker

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/grimoire-build/grimoire/internal/process"
)

const (
	// binaryFolder is where an image has its binaries: on every PATH, so `docker run IMAGE NAME` works.
	binaryFolder = "/usr/local/bin"
	// defaultUser is a user that is neither root nor anybody of the host, and a number: Kubernetes' runAsNonRoot refuses
	// names. It is the one that distroless images use.
	defaultUser = "65532:65532"
	searchPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// GoOptions says what BuildGo makes an image of. Its zero value makes one of the main package in the working directory.
type GoOptions struct {
	// Dir is a folder of the Go module; default ".".
	Dir string
	// Packages are the main packages, as patterns of the go command; default ".". A pattern with ... takes the main
	// packages among what it matches. The first one becomes the entrypoint.
	Packages []string
	// Platforms are what to build for, each as OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT; default "linux/amd64" alone. The
	// OS must be linux. Several make an index of images.
	Platforms []string
	// CGO compiles with cgo, by the C compiler of this machine. The binaries need the C library of Base then.
	CGO bool
	// Base is the reference of the image to build on, with a tag or, better, a digest; default none: then the image holds
	// the binaries, certificates of the public authorities, /etc/passwd and /tmp, and nothing else.
	Base string
	// Registry is where Base is pulled from.
	Registry Registry
	// User is who runs in the image, as UID or UID:GID. Default: the user of Base where that is a number other than 0,
	// otherwise 65532:65532.
	User string
	// Env holds environment variables as NAME=VALUE, added to those of Base. They can be read in the image.
	Env []string
	// Labels are added to those of Base.
	Labels map[string]string
	// Created is the time of the image; default the Unix epoch, so that the same source gives the same digest at any time.
	// Files in it are always of the epoch, so that a layer stays the same when another one changes.
	Created time.Time
	// Version goes into the variable main.version of each binary; default: it is left alone.
	Version string
	// LDFlags are more flags for Go's linker, as -ldflags takes them.
	LDFlags string
	// Port is the TCP port that the image says it listens on; default 0, none.
	Port int
	// Source is where the code is from, for the provenance; default unknown.
	Source Source
	// Cache is the folder that keeps packed layers for the next build; default grimoire/layers in the user's cache folder. A
	// layer that is not used for two weeks is removed.
	Cache string
}

// Artifact is what a reference can name: an image (v1.Image), or an index of images for several platforms (v1.ImageIndex).
type Artifact interface {
	MediaType() (types.MediaType, error)
	Digest() (v1.Hash, error)
	Size() (int64, error)
	RawManifest() ([]byte, error)
}

// GoImage is what BuildGo made. Its layers are read from the cache of GoOptions and, those of the base, from the registry.
type GoImage struct {
	// Artifact is a v1.Image, or a v1.ImageIndex where several platforms were asked for.
	Artifact
	// Statements are the SBOM of each image and the provenance, for Registry.Attach.
	Statements []Statement
}

// BuildGo compiles main packages with the go command and returns an image of them, without any Docker Engine. The image
// has a layer for each binary, its entrypoint is the first one. The same source and options give the same digest with
// the same Go and the same version of this package, in any folder, for any user, umask, time zone or home.
//
// Binaries are static unless cgo is asked for, stripped, and have the time zones built in. The toolchain is the one that go.mod
// asks for. What the compiler says goes to process.Output(ctx). The layers of Base are fetched when they are read, as long as ctx
// lives.
func BuildGo(ctx context.Context, o GoOptions) (*GoImage, error) {
	b, err := NewGoBuild(ctx, o)
	if err != nil {
		return nil, err
	}
	return b.Build(ctx)
}

// GoBuild is a build that has not begun: the platforms, packages and toolchain are known. It is for who wants to know its inputs
// before anything is compiled; BuildGo is for the rest.
type GoBuild struct {
	GoOptions
	platforms []*v1.Platform
	mains     []mainPackage
	listed    []compiledPackage // for the first platform
	goVersion string            // of the toolchain that go.mod asks for
	kept      []string          // settings of the user's that say where modules come from
	cache     *layerCache
	bases     []*goBase // of each platform, once they have been looked up
}

// NewGoBuild checks the options and finds the main packages.
func NewGoBuild(ctx context.Context, o GoOptions) (*GoBuild, error) {
	b, err := newGoBuild(ctx, o)
	if err != nil {
		return nil, explainBuild(ctx, err)
	}
	return b, nil
}

// Build is BuildGo. Where Inputs have been asked for, the image's label InputsLabel tells them.
func (b *GoBuild) Build(ctx context.Context) (*GoImage, error) {
	img, err := b.build(ctx)
	if err != nil {
		return nil, explainBuild(ctx, err)
	}
	return img, nil
}

func explainBuild(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("building a Go image: %w", err)
}

func (b *GoBuild) build(ctx context.Context) (*GoImage, error) {
	// The bases come before compiling, because a wrong name is found out sooner than a binary is built.
	if err := b.findBases(ctx); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "grimoire-image-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the binaries: %w", err)
	}
	defer os.RemoveAll(dir)
	var images []v1.Image
	made := &GoImage{}
	for i, platform := range b.platforms {
		// What a compiler that is killed leaves behind is then removed too.
		command := b.command(platform, "GOTMPDIR="+dir)
		binaries := filepath.Join(dir, fmt.Sprint(i)) + string(filepath.Separator)
		if err := command.build(ctx, b.mains, binaries, b.ldflags()); err != nil {
			return nil, err
		}
		img, boms, err := b.image(b.bases[i], binaries, platform)
		if err != nil {
			return nil, err
		}
		statement, err := spdxStatement(img, platform, b.mains, boms)
		if err != nil {
			return nil, err
		}
		images, made.Statements = append(images, img), append(made.Statements, statement)
		if err := os.RemoveAll(binaries); err != nil {
			return nil, fmt.Errorf("removing temporary files: %w", err)
		}
	}
	if made.Artifact, err = indexOf(images, b.platforms); err != nil {
		return nil, err
	}
	provenance, err := b.provenance(made.Artifact)
	if err != nil {
		return nil, err
	}
	made.Statements = append(made.Statements, provenance)
	zerolog.Ctx(ctx).Debug().Int("platforms", len(images)).Int("binaries", len(b.mains)).Msg("built the Go image")
	return made, nil
}

func (b *GoBuild) findBases(ctx context.Context) error {
	if b.bases != nil {
		return nil
	}
	bases := make([]*goBase, len(b.platforms))
	for i, platform := range b.platforms {
		var err error
		if bases[i], err = b.base(ctx, platform); err != nil {
			return err
		}
	}
	b.bases = bases
	return nil
}

// epoch is the time of every file in a layer.
var epoch = time.Unix(0, 0).UTC()

func newGoBuild(ctx context.Context, o GoOptions) (*GoBuild, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Created.IsZero() {
		o.Created = epoch
	}
	o.Created = o.Created.UTC().Truncate(time.Second)
	b := &GoBuild{GoOptions: o}
	for _, text := range o.platforms() {
		platform, err := parseGoPlatform(text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(b.platforms, func(other *v1.Platform) bool { return other.String() == platform.String() }) {
			return nil, fmt.Errorf("platform %s is named twice", platform)
		}
		b.platforms = append(b.platforms, platform)
	}
	var err error
	if b.goVersion, b.kept, err = ownSettings(ctx, o.Dir); err != nil {
		return nil, err
	}
	if b.mains, b.listed, err = b.command(b.platforms[0]).mains(ctx, o.Packages); err != nil {
		return nil, err
	}
	if b.cache, err = openLayerCache(ctx, o.Cache); err != nil {
		return nil, err
	}
	return b, nil
}

func (o GoOptions) platforms() []string {
	if len(o.Platforms) == 0 {
		return []string{defaultPlatform}
	}
	return o.Platforms
}

// parseGoPlatform reads a platform that Go can build an image for.
func parseGoPlatform(text string) (*v1.Platform, error) {
	platform, err := parsePlatform(text)
	if err != nil {
		return nil, err
	}
	if platform.OS != "linux" {
		return nil, fmt.Errorf("platform %s is not Linux; name one like linux/arm64", platform)
	}
	if platform.Architecture == "arm" && platform.Variant == "" {
		platform.Variant = "v7" // as the binary will be, and as the image has to say
	}
	_, err = goEnvironment(platform, false)
	return platform, err
}

// command is the go command for a platform.
func (b *GoBuild) command(platform *v1.Platform, env ...string) *goCommand {
	settings, _ := goEnvironment(platform, b.CGO) // parseGoPlatform has seen the error
	return &goCommand{dir: b.Dir, env: slices.Concat(settings, b.kept, env)}
}

// image puts the binaries in a folder onto a base, and returns what they were built of.
func (b *GoBuild) image(base *goBase, binaries string, platform *v1.Platform) (v1.Image, []*buildinfo.BuildInfo, error) {
	additions := make([]mutate.Addendum, len(b.mains))
	boms := make([]*buildinfo.BuildInfo, len(b.mains))
	var packing errgroup.Group
	packing.SetLimit(runtime.GOMAXPROCS(0))
	for i, main := range b.mains {
		packing.Go(func() error {
			binary := filepath.Join(binaries, main.name)
			layer, err := b.cache.pack(base.layerType, binaryTar(binary, path.Join(binaryFolder, main.name), epoch))
			if err != nil {
				return fmt.Errorf("packing %s: %w", main.name, err)
			}
			if boms[i], err = buildinfo.ReadFile(binary); err != nil {
				return fmt.Errorf("reading what %s was built of: %w", main.name, err)
			}
			additions[i] = b.addendum(layer, "go build "+main.ImportPath)
			return nil
		})
	}
	if err := packing.Wait(); err != nil {
		return nil, nil, err
	}
	img, err := b.assemble(base.image, append(base.additions, additions...), b.mains[0].name, platform)
	return img, boms, err
}

// indexOf is the only image itself, or an index of several.
func indexOf(images []v1.Image, platforms []*v1.Platform) (Artifact, error) {
	if len(images) == 1 {
		return images[0], nil
	}
	mediaType, err := images[0].MediaType()
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	if mediaType == types.DockerManifestSchema2 {
		index = mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	}
	for i, img := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platforms[i]}})
	}
	return index, nil
}

var numericUser = regexp.MustCompile(`^[0-9]+(:[0-9]+)?$`)

func (o GoOptions) check() error {
	if o.User != "" {
		if _, _, err := userAndGroup(o.User); err != nil {
			return err
		}
	}
	if o.Port < 0 || o.Port > 65535 {
		return fmt.Errorf("port %d is not between 1 and 65535", o.Port)
	}
	for _, variable := range o.Env {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
			return fmt.Errorf("environment variable %q is not written as NAME=VALUE", variable)
		}
	}
	if o.CGO && o.Base == "" {
		return errors.New("a binary with cgo needs the C library of a base; name a base, or leave cgo off")
	}
	if strings.ContainsAny(o.Version, "'\"\n\x00") {
		return fmt.Errorf("version %q holds a quote or a line break, which the linker cannot be told", o.Version)
	}
	return nil
}

// userAndGroup splits "UID" or "UID:GID"; the group defaults to the user's number.
func userAndGroup(user string) (uid, gid uint32, err error) {
	if !numericUser.MatchString(user) {
		return 0, 0, fmt.Errorf("user %q is not a number; give UID:GID, since Kubernetes' runAsNonRoot refuses names", user)
	}
	first, second, found := strings.Cut(user, ":")
	if !found {
		second = first
	}
	u, err := strconv.ParseUint(first, 10, 31)
	if err != nil {
		return 0, 0, fmt.Errorf("user %q is too large", user)
	}
	g, err := strconv.ParseUint(second, 10, 31)
	if err != nil {
		return 0, 0, fmt.Errorf("group of user %q is too large", user)
	}
	return uint32(u), uint32(g), nil
}

func (o GoOptions) ldflags() string {
	flags := "-s -w"
	if o.Version != "" {
		flags += " '-X=main.version=" + o.Version + "'"
	}
	if o.LDFlags != "" {
		flags += " " + o.LDFlags
	}
	return flags
}

// goBase is what the binaries are put on.
type goBase struct {
	image     v1.Image
	digest    string            // "sha256:…"; none where there is no base
	additions []mutate.Addendum // layers below the binaries
	layerType types.MediaType
}

func (b *GoBuild) base(ctx context.Context, platform *v1.Platform) (*goBase, error) {
	if b.Base == "" {
		img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
		uid, gid, err := userAndGroup(cmp.Or(b.User, defaultUser))
		if err != nil {
			return nil, err
		}
		layer, err := b.cache.pack(types.OCILayer, scratchTar(uid, gid, epoch))
		if err != nil {
			return nil, fmt.Errorf("packing /etc and /tmp: %w", err)
		}
		return &goBase{image: img, layerType: types.OCILayer, additions: []mutate.Addendum{
			b.addendum(layer, "certificates, users, /tmp"),
		}}, nil
	}
	s, err := b.Registry.session(ctx, "pulling", b.Base)
	if err != nil {
		return nil, err
	}
	img, err := s.pull(ctx, platform.String())
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", b.Base, err)
	}
	manifestType, err := img.MediaType()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", b.Base, err)
	}
	// A manifest and its layers are of one family, or some registries refuse them.
	layerType := types.OCILayer
	if manifestType == types.DockerManifestSchema2 {
		layerType = types.DockerLayer
	}
	return &goBase{image: b.cache.keep(img, func(op func() error) error { return s.explain(ctx, s.retry(ctx, op)) }), digest: digest.String(), layerType: layerType}, nil
}

func (o GoOptions) addendum(layer v1.Layer, by string) mutate.Addendum {
	return mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: o.Created}, CreatedBy: by, Comment: historyComment,
	}}
}

// historyComment is what the history says of each layer that is made here.
const historyComment = "grimoire"

// FromPackages says whether an image was built from Go packages, by BuildGo, and not by an engine.
func FromPackages(config *v1.ConfigFile) bool {
	last := len(config.History) - 1
	return last >= 0 && config.History[last].Comment == historyComment
}

func (o GoOptions) assemble(base v1.Image, layers []mutate.Addendum, entrypoint string, platform *v1.Platform) (v1.Image, error) {
	img, err := mutate.Append(base, layers...)
	if err != nil {
		return nil, fmt.Errorf("adding layers: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of the base: %w", err)
	}
	img, err = mutate.ConfigFile(img, o.configure(config, entrypoint, platform))
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return img, nil
}

// configure is the configuration of the image on a base that has another one.
func (o GoOptions) configure(base *v1.ConfigFile, entrypoint string, platform *v1.Platform) *v1.ConfigFile {
	config := base.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, cmp.Or(platform.Variant, config.Variant)
	config.Created = v1.Time{Time: o.Created}
	config.Config.Entrypoint = []string{path.Join(binaryFolder, entrypoint)}
	config.Config.Cmd = nil
	config.Config.User = o.user(config.Config.User)
	config.Config.Env = withEnv(config.Config.Env, o.Env)
	delete(config.Config.Labels, InputsLabel) // they are those of the base
	if len(o.Labels) > 0 {
		if config.Config.Labels == nil {
			config.Config.Labels = map[string]string{}
		}
		maps.Copy(config.Config.Labels, o.Labels)
	}
	if o.Port > 0 {
		if config.Config.ExposedPorts == nil {
			config.Config.ExposedPorts = map[string]struct{}{}
		}
		config.Config.ExposedPorts[fmt.Sprintf("%d/tcp", o.Port)] = struct{}{}
	}
	return config
}

// user returns who runs in the image: never root unless told, and never a name.
func (o GoOptions) user(base string) string {
	if o.User != "" {
		return o.User
	}
	if uid, _, err := userAndGroup(base); err == nil && uid != 0 {
		return base
	}
	return defaultUser
}

// withEnv adds variables to those of a base; the last one of a name wins and keeps the first one's place.
func withEnv(base, more []string) []string {
	var env []string
	for _, variable := range slices.Concat([]string{searchPath}, base, more) {
		name, _, _ := strings.Cut(variable, "=")
		at := slices.IndexFunc(env, func(other string) bool { return strings.HasPrefix(other, name+"=") })
		if at >= 0 {
			env[at] = variable
		} else {
			env = append(env, variable)
		}
	}
	return env
}

// goCommand runs the go command of PATH in a folder, for a platform.
type goCommand struct {
	dir string
	env []string
}

// mainPackage is a program.
type mainPackage struct {
	ImportPath string
	name       string // of the binary
}

// goEnvironment is what decides on the bytes of a binary; it stands even where the user's environment says otherwise.
func goEnvironment(platform *v1.Platform, cgo bool) ([]string, error) {
	env := []string{
		"CGO_ENABLED=0", "GOOS=" + platform.OS, "GOARCH=" + platform.Architecture,
		// Without the file of `go env -w`, an empty variable is the default.
		"GOENV=off", "GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off",
		"GO386=", "GOMIPS=", "GOMIPS64=", "GOPPC64=", "GORISCV64=",
	}
	if cgo {
		env[0] = "CGO_ENABLED=1"
	}
	wrong := fmt.Errorf("platform %s: Go knows no such variant", platform)
	switch variant := platform.Variant; platform.Architecture {
	case "amd64":
		return append(env, "GOAMD64="+cmp.Or(variant, "v1")), nil
	case "arm":
		variant = cmp.Or(variant, "v7")
		if !slices.Contains([]string{"v5", "v6", "v7"}, variant) {
			return nil, wrong
		}
		return append(env, "GOARM="+variant[1:]), nil
	case "arm64":
		if variant == "" || variant == "v8" {
			variant = "v8.0"
		}
		return append(env, "GOARM64="+variant), nil
	default:
		if platform.Variant != "" {
			return nil, wrong
		}
		return env, nil
	}
}

// ownSettings are those of the user's that say where modules come from, and where the caches are. They decide on no byte, and
// would be lost with the file of `go env -w`. With them comes the version of the toolchain that is used in the folder.
func ownSettings(ctx context.Context, dir string) (goVersion string, env []string, err error) {
	names := []string{"GOAUTH", "GOCACHE", "GOINSECURE", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN", "GOVCS"}
	cmd := process.Command(ctx, "go", append([]string{"env", "-json", "GOVERSION"}, names...)...)
	cmd.Dir = dir
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return "", nil, fmt.Errorf("asking for Go's settings: %w", err)
	}
	values := map[string]string{}
	if err := json.Unmarshal(out, &values); err != nil {
		return "", nil, fmt.Errorf("reading Go's settings: %w", err)
	}
	for _, name := range names {
		env = append(env, name+"="+values[name])
	}
	return values["GOVERSION"], env, nil
}

// mains returns the main packages that the patterns match, in the patterns' order, each with its binary's name, and all packages that
// are compiled into them.
func (g *goCommand) mains(ctx context.Context, patterns []string) ([]mainPackage, []compiledPackage, error) {
	if len(patterns) == 0 {
		patterns = []string{"."}
	}
	for _, pattern := range patterns {
		if pattern == "" || strings.HasPrefix(pattern, "-") {
			return nil, nil, fmt.Errorf("package %q is no pattern of packages; give ./cmd/NAME for example", pattern)
		}
	}
	packages, err := g.list(ctx, patterns)
	if err != nil {
		return nil, nil, err
	}
	var found []mainPackage
	for _, pattern := range patterns {
		matches := slices.DeleteFunc(slices.Clone(packages), func(p compiledPackage) bool { return !slices.Contains(p.Match, pattern) })
		mains := slices.DeleteFunc(slices.Clone(matches), func(p compiledPackage) bool { return p.Name != "main" })
		if len(mains) == 0 || len(mains) < len(matches) && !strings.Contains(pattern, "...") {
			return nil, nil, g.notMain(ctx, pattern)
		}
		for _, p := range mains {
			if slices.ContainsFunc(found, func(other mainPackage) bool { return other.ImportPath == p.ImportPath }) {
				continue
			}
			main := mainPackage{p.ImportPath, binaryName(p.ImportPath)}
			if at := slices.IndexFunc(found, func(other mainPackage) bool { return other.name == main.name }); at >= 0 {
				return nil, nil, fmt.Errorf("packages %s and %s would both be the binary %s; rename the folder of one, "+
					"or put them into two images", found[at].ImportPath, p.ImportPath, main.name)
			}
			found = append(found, main)
		}
	}
	return found, compiledInto(found, packages), nil
}

// notMain says what could have been meant.
func (g *goCommand) notMain(ctx context.Context, pattern string) error {
	packages, err := g.list(ctx, []string{"./..."})
	if err != nil {
		return fmt.Errorf("%s is no main package; looking for others: %w", pattern, err)
	}
	var mains []string
	for _, p := range packages {
		if p.Name == "main" && len(p.Match) > 0 {
			mains = append(mains, p.ImportPath)
		}
	}
	slices.Sort(mains)
	if len(mains) == 0 {
		return fmt.Errorf("%s is no main package, and there is none in or below %s; an image is made of a program", pattern, cmp.Or(g.dir, "."))
	}
	return fmt.Errorf("%s is no main package; name one of %s", pattern, strings.Join(mains, ", "))
}

// buildTags has the time zones built in, for an image has no files of them.
const buildTags = "-tags=timetzdata"

// buildFlags are the same for each binary.
var buildFlags = []string{"-trimpath", "-buildvcs=false", buildTags}

// build compiles the packages into a folder, whose name ends with a separator, each under its binary's name.
func (g *goCommand) build(ctx context.Context, packages []mainPackage, dir, ldflags string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making a folder for the binaries: %w", err)
	}
	args := slices.Concat([]string{"build", "-o", dir}, buildFlags, []string{"-ldflags=" + ldflags, "--"})
	var paths []string
	for _, p := range packages {
		paths = append(paths, p.ImportPath)
	}
	cmd := process.Command(ctx, "go", append(args, paths...)...)
	cmd.Dir, cmd.Env = g.dir, process.Env(g.env...)
	doing := "compiling " + strings.Join(paths, ", ")
	if err := process.Run(ctx, cmd); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	for _, p := range packages {
		if info, err := os.Stat(filepath.Join(dir, p.name)); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		} else if !info.Mode().IsRegular() {
			return errors.New(doing + ": the go command made no binary " + p.name)
		}
	}
	return nil
}

// versionElement is the end of an import path that names a major version and not a command, as the go command sees it.
var versionElement = regexp.MustCompile(`^v([2-9]|[1-9][0-9]+)$`)

// binaryName is what `go install` would call the binary of a package.
func binaryName(importPath string) string {
	dir, last := path.Split(importPath)
	if versionElement.MatchString(last) && dir != "" {
		return path.Base(dir)
	}
	return last
}
