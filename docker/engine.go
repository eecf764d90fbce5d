package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/docker/cli/cli/connhelper"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/client"
	"github.com/rs/zerolog"
)

// This is the only file that imports github.com/docker/docker, so that a move to its successor is a change to this file.

// ErrNoEngine says that no Docker Engine answers.
var ErrNoEngine = errors.New("no Docker Engine answers")

// pingTimeout is how long an engine may take to say that it is there. A host that drops packets says nothing at all.
const pingTimeout = 10 * time.Second

// engineAPI is the part of the engine's client that this package uses.
type engineAPI interface {
	Ping(ctx context.Context) (types.Ping, error)
	ImageBuild(ctx context.Context, tar io.Reader, options build.ImageBuildOptions) (build.ImageBuildResponse, error)
	ImageInspect(ctx context.Context, id string, options ...client.ImageInspectOption) (image.InspectResponse, error)
	ImageTag(ctx context.Context, source, target string) error
	DialHijack(ctx context.Context, path, proto string, headers map[string][]string) (net.Conn, error)
	ImagePush(ctx context.Context, reference string, options image.PushOptions) (io.ReadCloser, error)
	DaemonHost() string
	Close() error
}

// Engine is a connection to a Docker Engine. Close it after use. It may be used by several goroutines at once.
type Engine struct {
	api     engineAPI
	address string  // without a login
	builder Builder // that it builds with by itself
}

// Connect connects to the engine that Docker's own command would use: the one of DOCKER_HOST (with DOCKER_TLS_VERIFY,
// DOCKER_CERT_PATH and DOCKER_API_VERSION), else of the context that DOCKER_CONTEXT or Docker's configuration names, else the one behind
// Docker's socket. ssh:// is spoken through the program ssh, whose other end needs Docker's command. It agrees with the engine on a
// version of the API. The error matches ErrNoEngine where no engine answers within ten seconds.
func Connect(ctx context.Context) (*Engine, error) {
	return connect(ctx, pingTimeout)
}

func connect(ctx context.Context, timeout time.Duration) (*Engine, error) {
	const doing = "connecting to a Docker Engine"
	at, err := currentEndpoint()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	host, cure := os.Getenv(client.EnvOverrideHost), "check DOCKER_HOST, DOCKER_CERT_PATH and DOCKER_API_VERSION"
	options := []client.Opt{client.FromEnv}
	if at != nil {
		host, cure = at.Host, "look at docker context inspect "+at.context
		if options, err = at.options(ctx); err != nil {
			return nil, fmt.Errorf("%s: the context %q: %w", doing, at.context, err)
		}
	}
	if strings.HasPrefix(host, "ssh://") {
		helper, err := connhelper.GetConnectionHelper(host)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; write it as ssh://USER@HOST", doing, withoutUserinfoError(err, host))
		}
		dial := throughProgram(helper.Dialer)
		options = []client.Opt{
			client.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}),
			client.WithHost(helper.Host), client.WithDialContext(dial), client.WithVersionFromEnv(),
		}
	}
	api, err := client.NewClientWithOpts(append(options, client.WithAPIVersionNegotiation())...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; %s", doing, withoutUserinfoError(err, host), cure)
	}
	e := &Engine{api: api, address: withoutUserinfo(cmp.Or(host, api.DaemonHost()))}
	if err := e.ping(ctx, timeout); err != nil {
		e.Close()
		return nil, err
	}
	zerolog.Ctx(ctx).Debug().Str("host", e.host()).Str("api", api.ClientVersion()).Msg("connected to the Docker Engine")
	return e, nil
}

// options are how the client reaches the endpoint of a context.
func (e *endpoint) options(ctx context.Context) ([]client.Opt, error) {
	options := []client.Opt{client.WithVersionFromEnv()}
	config, err := e.tls()
	if err != nil {
		return nil, err
	}
	if config != nil {
		if e.SkipTLSVerify {
			zerolog.Ctx(ctx).Warn().Str("context", e.context).Msg("the engine's certificate is not checked, as the context says")
		}
		options = append(options, client.WithHTTPClient(&http.Client{Transport: &http.Transport{TLSClientConfig: config}}))
	}
	return append(options, client.WithHost(e.Host)), nil
}

func (e *Engine) ping(ctx context.Context, timeout time.Duration) error {
	pinging, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	pong, err := e.api.Ping(pinging)
	e.builder = Legacy
	if pong.BuilderVersion == build.BuilderBuildKit && pong.OSType != "windows" {
		e.builder = BuildKit
	}
	doing := "connecting to a Docker Engine at " + e.host()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	case pinging.Err() != nil:
		return fmt.Errorf("%s: %w within %s; start Docker, or set DOCKER_HOST to where it runs", doing, ErrNoEngine, timeout)
	case client.IsErrConnectionFailed(err):
		err = withoutUserinfoError(err, e.api.DaemonHost())
		return fmt.Errorf("%s: %w (%w); start Docker, or set DOCKER_HOST to where it runs", doing, ErrNoEngine, err)
	default:
		return fmt.Errorf("%s: %w; look at the engine's log", doing, withoutUserinfoError(err, e.api.DaemonHost()))
	}
}

// Close gives up the connection.
func (e *Engine) Close() error {
	return e.api.Close()
}

func (e *Engine) host() string { return e.address }

// openSession opens the connection through which BuildKit asks its client.
func (e *Engine) openSession(ctx context.Context, headers map[string][]string) (net.Conn, error) {
	return e.api.DialHijack(ctx, "/session", "h2c", headers)
}

// startBuild asks the engine for a build and returns its progress stream. A session is BuildKit's, which gets
// the files by it.
func (e *Engine) startBuild(ctx context.Context, tar io.Reader, dockerfile, session string, o BuildOptions) (io.ReadCloser, error) {
	args := make(map[string]*string, len(o.Args))
	for name, value := range o.Args {
		args[name] = &value
	}
	logins := make(map[string]registry.AuthConfig, len(o.Logins))
	for _, auth := range o.Logins {
		logins[auth.serverAddress()] = auth.config()
	}
	version, remote := build.BuilderV1, ""
	if o.Builder == BuildKit {
		version, remote = build.BuilderBuildKit, "client-session"
	}
	response, err := e.api.ImageBuild(ctx, tar, build.ImageBuildOptions{
		Version:       version,
		SessionID:     session,
		RemoteContext: remote,
		NoCache:       o.NoCache,
		PullParent:    o.Pull,
		Dockerfile:    dockerfile,
		Tags:          o.Tags,
		BuildArgs:     args,
		Labels:        o.Labels,
		Target:        o.Target,
		Platform:      o.Platform,
		NetworkMode:   o.Network,
		AuthConfigs:   logins,
		// Containers of the steps are of no use afterwards, neither of those that worked nor of the one that failed.
		Remove:      true,
		ForceRemove: true,
	})
	return response.Body, err
}

// startPush asks the engine to push one tag and returns its progress stream. The authorisation is sent even where it is
// empty: without the header the engine refuses the request.
func (e *Engine) startPush(ctx context.Context, reference string, auth Auth) (io.ReadCloser, error) {
	header, err := registry.EncodeAuthConfig(auth.config())
	if err != nil {
		return nil, err
	}
	return e.api.ImagePush(ctx, reference, image.PushOptions{RegistryAuth: header})
}

func (a Auth) config() registry.AuthConfig {
	if a.Anonymous() {
		return registry.AuthConfig{}
	}
	return registry.AuthConfig{
		Username:      a.Username,
		Password:      a.Password,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
		ServerAddress: a.serverAddress(),
	}
}

// Has says whether the label InputsLabel of the image of an ID tells these inputs. An image that the engine does not have is an error.
// The label alone does not name an image: one that is built on another has the other's labels too.
func (e *Engine) Has(ctx context.Context, id, inputs string) (bool, error) {
	found, err := e.api.ImageInspect(ctx, id)
	if err != nil {
		return false, fmt.Errorf("looking for the image %s: %w", id, err)
	}
	return found.ID == id && found.Config != nil && found.Config.Labels[InputsLabel] == inputs, nil
}

// localImage returns what the engine has under a reference: its ID, and the references by digest that it was pulled from or pushed to.
func (e *Engine) localImage(ctx context.Context, reference string) (id string, digests []string, err error) {
	found, err := e.api.ImageInspect(ctx, reference)
	return found.ID, found.RepoDigests, err
}

// Tag gives one of the engine's images one more tag.
func (e *Engine) Tag(ctx context.Context, id, reference string) error {
	if err := checkTagged(reference); err != nil {
		return fmt.Errorf("tagging an image: %w", err)
	}
	if err := e.api.ImageTag(ctx, id, reference); err != nil {
		return fmt.Errorf("tagging %s as %q: %w", id, reference, err)
	}
	return nil
}
