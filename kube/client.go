package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // kubeconfigs log in by it; one package, and nothing that is not compiled anyway
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Config says which cluster to connect to. The zero value is the cluster of the only context in the kubeconfig that KUBECONFIG
// names, or else of ~/.kube/config, or else the cluster that this process runs in.
type Config struct {
	// Kubeconfig is the path of a kubeconfig. Default: KUBECONFIG (one path or several), then ~/.kube/config.
	Kubeconfig string
	// Data is the content of a kubeconfig, and comes before all paths. It stays in memory.
	Data []byte
	// Context is the context to use. Default: the only one there is. Among several, one has to be named, since the current
	// context is whatever somebody last looked at, and no place to deploy to unasked.
	Context string
	// Namespace is for objects that do not name theirs. Default: the context's, then "default".
	Namespace string

	patience time.Duration // see impatient
}

// Client works on one cluster. It may be used by several goroutines.
type Client struct {
	rest      rest.Interface
	dynamic   dynamic.Interface
	host      string
	namespace string
	reached   atomic.Bool // whether the server has answered yet

	mu    sync.Mutex
	kinds map[schema.GroupVersion]kinds
}

// Host returns the API server's address.
func (c *Client) Host() string { return c.host }

// Namespace returns the namespace of the objects that do not name theirs.
func (c *Client) Namespace() string { return c.namespace }

// Connect finds the cluster and the login. It asks the API server nothing yet, so that a cluster that cannot be reached is
// an error of what is done first. Errors never quote a kubeconfig's content.
func Connect(c Config) (*Client, error) {
	config, namespace, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	if c.Namespace != "" {
		namespace = c.Namespace
	}
	if namespace == "" {
		namespace = "default"
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return impatient{next, c.patience} })
	config.QPS = -1 // the API server's own limits are fairer than a client's, and no more than atOnce are on their way
	config.UserAgent = "grimoire"
	config.WarningHandlerWithContext = warnings{}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", withoutLogins(err))
	}
	restConfig := dynamic.ConfigFor(config)
	restConfig.GroupVersion = nil
	restClient, err := rest.UnversionedRESTClientForConfigAndClient(restConfig, httpClient)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", withoutLogins(err))
	}
	return &Client{
		rest:      restClient,
		dynamic:   dynamic.New(restClient),
		host:      urlLogin.ReplaceAllString(config.Host, "$1"),
		namespace: namespace,
		kinds:     make(map[schema.GroupVersion]kinds),
	}, nil
}

// urlLogin is the login in a URL, up to the last @ of the word, since a password may hold what it should not.
var urlLogin = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s"]*@`)

// withoutLogins strikes the logins of URLs out of an error.
func withoutLogins(err error) error {
	return &explainedError{text: urlLogin.ReplaceAllString(err.Error(), "$1"), err: err}
}

// silence is how long the API server may take to begin an answer. One to a watch begins at once too.
const silence = time.Minute

// impatient gives up on requests to which no answer begins, and on answers that break off without their connection's end. A watch
// may be silent between two events, and so may a log that is followed.
type impatient struct {
	next     http.RoundTripper
	patience time.Duration // silence where it is zero
}

// RoundTrip implements http.RoundTripper.
func (i impatient) RoundTrip(req *http.Request) (*http.Response, error) {
	patience := cmp.Or(i.patience, silence)
	ctx, cancel := context.WithCancelCause(req.Context())
	giveUp := func() {
		cancel(fmt.Errorf("%s does not answer for %s; look at the API server, and at what is between it and this machine", req.URL.Host, patience))
	}
	late := time.AfterFunc(patience, giveUp)
	resp, err := i.next.RoundTrip(req.WithContext(ctx))
	if !late.Stop() && err != nil && req.Context().Err() == nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body := &cancelled{ReadCloser: resp.Body, ctx: ctx, cancel: cancel}
	if query := req.URL.Query(); query.Get("watch") != "true" && query.Get("follow") != "true" {
		body.patience, body.giveUp = patience, giveUp
	}
	resp.Body = body
	return resp, nil
}

// cancelled is a body that frees its request's context.
type cancelled struct {
	io.ReadCloser
	ctx      context.Context
	cancel   context.CancelCauseFunc
	patience time.Duration // for a part of it; zero is for ever
	giveUp   func()
}

// Read implements io.Reader.
func (c *cancelled) Read(p []byte) (int, error) {
	if c.patience == 0 {
		return c.ReadCloser.Read(p)
	}
	late := time.AfterFunc(c.patience, c.giveUp)
	n, err := c.ReadCloser.Read(p)
	if !late.Stop() && err != nil {
		err = context.Cause(c.ctx)
	}
	return n, err
}

// Close implements io.Closer.
func (c *cancelled) Close() error {
	defer c.cancel(nil)
	return c.ReadCloser.Close()
}

// load returns the connection and the context's namespace.
func (c Config) load() (*rest.Config, string, error) {
	kubeconfig, files, source, err := c.kubeconfig()
	if err != nil {
		return nil, "", err
	}
	if kubeconfig == nil {
		return c.inCluster()
	}
	name, err := c.choose(kubeconfig, source)
	if err != nil {
		return nil, "", err
	}
	client := clientcmd.NewNonInteractiveClientConfig(*kubeconfig, name, &clientcmd.ConfigOverrides{}, files)
	config, err := client.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("the context %q of %s: %w", name, source, withoutLogins(err))
	}
	if provider := config.AuthProvider; provider != nil && provider.Name != "oidc" {
		return nil, "", fmt.Errorf("the context %q of %s logs in by the auth-provider %q, which clients have given up; have a program do it, "+
			"in the user's exec: gke-gcloud-auth-plugin, or kubelogin", name, source, provider.Name)
	}
	return config, kubeconfig.Contexts[name].Namespace, nil
}

// kubeconfig reads the first kubeconfig there is, and says what it read, and the files where a login keeps what it was given anew; nil for what is
// in memory. It returns no config where there is none to read and none was named.
func (c Config) kubeconfig() (config *api.Config, files clientcmd.ConfigAccess, source string, err error) {
	if len(c.Data) > 0 {
		config, err := clientcmd.Load(c.Data)
		if err != nil {
			return nil, nil, "", errors.New("the kubeconfig that was given as data cannot be read; set it to what " +
				"`kubectl config view --raw --minify --flatten` prints")
		}
		return config, nil, "the kubeconfig that was given as data", nil
	}
	paths, named := []string{c.Kubeconfig}, "Config.Kubeconfig"
	if c.Kubeconfig == "" {
		paths, named = filepath.SplitList(os.Getenv("KUBECONFIG")), "KUBECONFIG"
		paths = slices.DeleteFunc(paths, func(path string) bool { return path == "" })
	}
	if len(paths) == 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil, "", nil // a pod without a home
		}
		paths, named = []string{filepath.Join(home, ".kube", "config")}, ""
	}
	present := slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist)
	})
	source = strings.Join(paths, ", ")
	if len(present) == 0 {
		if named == "" {
			return nil, nil, "", nil
		}
		return nil, nil, "", fmt.Errorf("there is no kubeconfig %s, which %s names; write it there, or name another", source, named)
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: present}
	if config, err = rules.Load(); err != nil {
		return nil, nil, "", fmt.Errorf("the kubeconfig %s cannot be read; see what `kubectl config view` says of it", source)
	}
	return config, rules, "the kubeconfig " + source, nil
}

// choose returns the name of the context to use.
func (c Config) choose(config *api.Config, source string) (string, error) {
	names := slices.Sorted(maps.Keys(config.Contexts))
	list := strings.Join(names, ", ")
	if len(names) == 0 {
		return "", fmt.Errorf("%s has no context; add one with `kubectl config set-context`", source)
	}
	if c.Context != "" {
		if config.Contexts[c.Context] == nil {
			return "", fmt.Errorf("%s has no context %q; name one of: %s", source, c.Context, list)
		}
		return c.Context, nil
	}
	if len(names) > 1 {
		return "", fmt.Errorf("%s has %d contexts and none was chosen; name one of: %s", source, len(names), list)
	}
	if current := config.CurrentContext; current != "" && current != names[0] {
		return "", fmt.Errorf("the current context %q of %s is not in it; name the one that is: %s", current, source, list)
	}
	return names[0], nil
}

// namespaceFile is where a pod finds its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func (c Config) inCluster() (*rest.Config, string, error) {
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, "", errors.New("there is no kubeconfig, and this does not run in a cluster; set KUBECONFIG, or write " +
			"~/.kube/config")
	case err != nil:
		return nil, "", fmt.Errorf("the login of this pod: %w; let it mount its service account's token", err)
	case c.Context != "":
		return nil, "", fmt.Errorf("there is no kubeconfig to have the context %q, only the login of this pod; set KUBECONFIG, "+
			"or name no context", c.Context)
	}
	namespace, err := os.ReadFile(namespaceFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", fmt.Errorf("the namespace of this pod: %w", err)
	}
	return config, strings.TrimSpace(string(namespace)), nil
}

// warnings passes on what the API server warns of: deprecated versions, for example.
type warnings struct{}

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _, text string) {
	if code == 299 && text != "" {
		zerolog.Ctx(ctx).Warn().Msg("the API server warns: " + text)
	}
}
