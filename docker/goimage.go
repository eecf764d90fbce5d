package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rs/zerolog"

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
	// Platform is what to build for, as OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT; default "linux/amd64". The OS must be
	// linux.
	Platform string
	// Base is the reference of the image to build on, with a tag or, better, a digest; default none: then the image holds
	// the binaries, certificates of the public authorities, /etc/passwd and /tmp, and nothing else.
	Base string
	// Registry is where Base is pulled from.
	Registry Registry
	// User is who runs in the image, as UID or UID:GID. Default: the user of Base where that is a number other than 0,
	// otherwise 65532:65532.
	User string
	// Env holds environment variables as NAME=VALUE, added to those of Base.
	Env []string
	// Labels are added to those of Base.
	Labels map[string]string
	// Created is the time of the image and of every file that is added; default the Unix epoch, so that the same source
	// gives the same digest at any time.
	Created time.Time
	// Version goes into the variable main.version of each binary; default: it is left alone.
	Version string
	// LDFlags are more flags for Go's linker, as -ldflags takes them.
	LDFlags string
	// Port is the TCP port that the image says it listens on; default 0, none.
	Port int
}

// BuildGo compiles main packages with the go command and returns an image of them, without any Docker Engine. The image
// has a layer for each binary, its entrypoint is the first one. The same source and options give the same digest with
// the same Go and the same version of this package, in any folder, for any user, umask, time zone or home.
//
// Binaries are static (no cgo), stripped, and have the time zones built in. What the compiler says goes to
// process.Output(ctx). The layers of Base are fetched when they are read, as long as ctx lives.
func BuildGo(ctx context.Context, o GoOptions) (v1.Image, error) {
	img, err := buildGo(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("building a Go image: %w", err)
	}
	return img, nil
}

func buildGo(ctx context.Context, o GoOptions) (v1.Image, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Created.IsZero() {
		o.Created = time.Unix(0, 0)
	}
	o.Created = o.Created.UTC().Truncate(time.Second)
	platform, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	if platform.OS != "linux" {
		return nil, fmt.Errorf("platform %s is not Linux; name one like linux/arm64", platform)
	}
	if platform.Architecture == "arm" && platform.Variant == "" {
		platform.Variant = "v7" // as the binary will be, and as the image has to say
	}
	env, err := goEnvironment(platform)
	if err != nil {
		return nil, err
	}
	kept, err := ownSettings(ctx)
	if err != nil {
		return nil, err
	}
	env = append(env, kept...)
	compiler := &goCommand{dir: o.Dir, env: env}
	commands, err := compiler.commands(ctx, o.Packages)
	if err != nil {
		return nil, err
	}
	// The base comes before compiling, because a wrong name is found out sooner than a binary is built.
	base, err := o.base(ctx, platform)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "grimoire-image-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the binaries: %w", err)
	}
	defer os.RemoveAll(dir)
	// What a compiler that is killed leaves behind is then removed too.
	compiler.env = append(compiler.env, "GOTMPDIR="+dir)
	additions := base.additions
	for _, command := range commands {
		binary := filepath.Join(dir, command.name)
		if err := compiler.build(ctx, command, binary, o.ldflags()); err != nil {
			return nil, err
		}
		layer, err := binaryLayer(binary, path.Join(binaryFolder, command.name), o.Created, base.layerType)
		if err != nil {
			return nil, fmt.Errorf("packing %s: %w", command.name, err)
		}
		additions = append(additions, o.addendum(layer, "go build "+command.ImportPath))
		if err := os.Remove(binary); err != nil {
			return nil, fmt.Errorf("removing a temporary file: %w", err)
		}
	}
	img, err := o.assemble(base.image, additions, commands[0].name, platform)
	if err != nil {
		return nil, err
	}
	zerolog.Ctx(ctx).Debug().Stringer("platform", platform).Int("binaries", len(commands)).Msg("built the Go image")
	return img, nil
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
	additions []mutate.Addendum // layers below the binaries
	layerType types.MediaType
}

func (o GoOptions) base(ctx context.Context, platform *v1.Platform) (*goBase, error) {
	if o.Base == "" {
		img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
		uid, gid, err := userAndGroup(cmp.Or(o.User, defaultUser))
		if err != nil {
			return nil, err
		}
		layer, err := scratchLayer(uid, gid, o.Created)
		if err != nil {
			return nil, fmt.Errorf("packing /etc and /tmp: %w", err)
		}
		return &goBase{image: img, layerType: types.OCILayer, additions: []mutate.Addendum{
			o.addendum(layer, "certificates, users, /tmp"),
		}}, nil
	}
	img, err := o.Registry.Pull(ctx, o.Base, platform.String())
	if err != nil {
		return nil, err
	}
	manifestType, err := img.MediaType()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", o.Base, err)
	}
	// A manifest and its layers are of one family, or some registries refuse them.
	layerType := types.OCILayer
	if manifestType == types.DockerManifestSchema2 {
		layerType = types.DockerLayer
	}
	return &goBase{image: img, layerType: layerType}, nil
}

func (o GoOptions) addendum(layer v1.Layer, by string) mutate.Addendum {
	return mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: o.Created}, CreatedBy: by, Comment: "grimoire",
	}}
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
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, cmp.Or(platform.Variant, config.Variant)
	config.Created = v1.Time{Time: o.Created}
	config.Config.Entrypoint = []string{path.Join(binaryFolder, entrypoint)}
	config.Config.Cmd = nil
	config.Config.User = o.user(config.Config.User)
	config.Config.Env = withEnv(config.Config.Env, o.Env)
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
	img, err = mutate.ConfigFile(img, config)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return img, nil
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

// mainPackage is a package as `go list` reports it.
type mainPackage struct {
	ImportPath string
	Name       string

	name string // of the binary
}

// goEnvironment is what decides on the bytes of a binary; it stands even where the user's environment says otherwise.
func goEnvironment(platform *v1.Platform) ([]string, error) {
	env := []string{
		"CGO_ENABLED=0", "GOOS=" + platform.OS, "GOARCH=" + platform.Architecture,
		// Without the file of `go env -w`, an empty variable is the default.
		"GOENV=off", "GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off",
		"GO386=", "GOMIPS=", "GOMIPS64=", "GOPPC64=", "GORISCV64=",
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
// would be lost with the file of `go env -w`.
func ownSettings(ctx context.Context) ([]string, error) {
	names := []string{"GOAUTH", "GOCACHE", "GOINSECURE", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN", "GOVCS"}
	cmd := process.Command(ctx, "go", append([]string{"env", "-json"}, names...)...)
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("asking for Go's settings: %w", err)
	}
	values := map[string]string{}
	if err := json.Unmarshal(out, &values); err != nil {
		return nil, fmt.Errorf("reading Go's settings: %w", err)
	}
	var env []string
	for _, name := range names {
		env = append(env, name+"="+values[name])
	}
	return env, nil
}

// commands returns the main packages that the patterns match, in the patterns' order, each with its binary's name.
func (g *goCommand) commands(ctx context.Context, patterns []string) ([]mainPackage, error) {
	if len(patterns) == 0 {
		patterns = []string{"."}
	}
	var found []mainPackage
	for _, pattern := range patterns {
		if pattern == "" || strings.HasPrefix(pattern, "-") {
			return nil, fmt.Errorf("package %q is no pattern of packages; give ./cmd/NAME for example", pattern)
		}
		packages, err := g.list(ctx, pattern)
		if err != nil {
			return nil, err
		}
		mains := slices.DeleteFunc(slices.Clone(packages), func(p mainPackage) bool { return p.Name != "main" })
		if len(mains) == 0 || len(mains) < len(packages) && !strings.Contains(pattern, "...") {
			return nil, g.notMain(ctx, pattern)
		}
		for _, p := range mains {
			if slices.ContainsFunc(found, func(other mainPackage) bool { return other.ImportPath == p.ImportPath }) {
				continue
			}
			p.name = binaryName(p.ImportPath)
			if at := slices.IndexFunc(found, func(other mainPackage) bool { return other.name == p.name }); at >= 0 {
				return nil, fmt.Errorf("packages %s and %s would both be the binary %s; rename the folder of one, "+
					"or put them into two images", found[at].ImportPath, p.ImportPath, p.name)
			}
			found = append(found, p)
		}
	}
	return found, nil
}

// notMain says what could have been meant.
func (g *goCommand) notMain(ctx context.Context, pattern string) error {
	packages, err := g.list(ctx, "./...")
	if err != nil {
		return fmt.Errorf("%s is no main package; looking for others: %w", pattern, err)
	}
	var mains []string
	for _, p := range packages {
		if p.Name == "main" {
			mains = append(mains, p.ImportPath)
		}
	}
	if len(mains) == 0 {
		return fmt.Errorf("%s is no main package, and there is none in or below %s; an image needs one", pattern, cmp.Or(g.dir, "."))
	}
	return fmt.Errorf("%s is no main package; name one of %s", pattern, strings.Join(mains, ", "))
}

func (g *goCommand) list(ctx context.Context, pattern string) ([]mainPackage, error) {
	cmd := process.Command(ctx, "go", "list", "-json=ImportPath,Name", "-tags=timetzdata", "--", pattern)
	cmd.Dir, cmd.Env = g.dir, process.Env(g.env...)
	out, err := process.Capture(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("finding package %s: %w", pattern, err)
	}
	var packages []mainPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p mainPackage
		if err := decoder.Decode(&p); err != nil {
			return nil, fmt.Errorf("reading what go list says of %s: %w", pattern, err)
		}
		packages = append(packages, p)
	}
	return packages, nil
}

func (g *goCommand) build(ctx context.Context, p mainPackage, binary, ldflags string) error {
	cmd := process.Command(ctx, "go", "build", "-o", binary, "-trimpath", "-buildvcs=false", "-tags=timetzdata",
		"-ldflags="+ldflags, "--", p.ImportPath)
	cmd.Dir, cmd.Env = g.dir, process.Env(g.env...)
	if err := process.Run(ctx, cmd); err != nil {
		return fmt.Errorf("compiling %s: %w", p.ImportPath, err)
	}
	if info, err := os.Stat(binary); err != nil {
		return fmt.Errorf("compiling %s: %w", p.ImportPath, err)
	} else if !info.Mode().IsRegular() {
		return errors.New("compiling " + p.ImportPath + ": the go command made no binary")
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
