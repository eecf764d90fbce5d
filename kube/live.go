package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The kinds by which others bring an environment repository to a cluster.
var (
	argoApplication   = schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"}
	fluxRepository    = schema.GroupVersionKind{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "GitRepository"}
	fluxKustomization = schema.GroupVersionKind{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization"}
)

// WaitCommit waits until a commit of an environment is live in the cluster, and with it the image:
//
//   - Where an Application of Argo CD brings that repository, branch and path to the cluster, until it is synced to the commit, or to one
//     on top of it, and healthy. A sync of it that fails, and a state that stays degraded, end the waiting with Argo's own words.
//   - Where a Kustomization of Flux does, until it has applied such a commit and is ready. That it could not build, apply or see
//     healthy what the commit holds ends the waiting with Flux's own words.
//   - In both cases, and where neither is there, until the workloads in the client's namespace that run the image's repository run that
//     image, and are current as Wait has it.
//
// It is an error where there is none of these before the timeout. Errors are as Wait's are.
func (c *Client) WaitCommit(ctx context.Context, e Environment, commit, image string, o WaitOptions) error {
	if o.Timeout < 0 {
		return fmt.Errorf("waiting for the commit: the timeout is %s; give one above zero", o.Timeout)
	}
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	deadline := time.Now().Add(o.Timeout)
	remote, err := parseRemote(e.URL)
	if err != nil {
		return fmt.Errorf("waiting for the commit: %w", err)
	}
	line := &lineage{environment: e, remote: remote, commit: commit, known: make(map[string]bool)}
	defer line.close()
	agents, err := c.agents(ctx, e, remote, line, image)
	if err != nil {
		return fmt.Errorf("waiting for the commit: %w", err)
	}
	for _, f := range agents {
		zerolog.Ctx(ctx).Info().Str("object", f.object.String()).Str("namespace", f.object.GetNamespace()).Msg("brings the repository to the cluster")
	}
	if err := c.wait(ctx, agents, nil, o); err != nil {
		return err
	}
	o.Timeout = max(time.Until(deadline), time.Second)
	workloads, err := c.awaitUsers(ctx, image, o.Timeout, len(agents) > 0)
	if err != nil {
		return err
	}
	o.Timeout = max(time.Until(deadline), time.Second)
	return c.wait(ctx, workloads, nil, o)
}

// agents are what brings an environment to the cluster.
func (c *Client) agents(ctx context.Context, e Environment, remote remote, line *lineage, image string) ([]*follower, error) {
	var found []*follower
	follow := func(u *unstructured.Unstructured, status func(*unstructured.Unstructured) Result) {
		found = append(found, &follower{client: c, object: &Object{Unstructured: u}, status: status})
	}
	applications, err := c.everywhere(ctx, argoApplication, "argocd")
	if err != nil {
		return nil, err
	}
	for _, u := range applications {
		if argoBrings(u, e, remote) {
			a := &argo{line: line, ctx: ctx, digest: splitImage(image).digest}
			follow(u, a.status)
		}
	}
	repositories, err := c.everywhere(ctx, fluxRepository, "flux-system")
	if err != nil {
		return nil, err
	}
	repositories = slices.DeleteFunc(repositories, func(u *unstructured.Unstructured) bool { return !fluxReads(u, e, remote) })
	if len(repositories) == 0 {
		return found, nil
	}
	kustomizations, err := c.everywhere(ctx, fluxKustomization, "flux-system")
	if err != nil {
		return nil, err
	}
	for _, u := range kustomizations {
		if fluxBrings(u, repositories, e) {
			follow(u, (&flux{line: line, ctx: ctx}).status)
		}
	}
	return found, nil
}

// everywhere lists the objects of a kind in all namespaces, or in those of the client and of the kind's usual place where the login may not; none where
// the cluster does not have the kind.
func (c *Client) everywhere(ctx context.Context, gvk schema.GroupVersionKind, usual string) ([]*unstructured.Unstructured, error) {
	r, err := c.resource(ctx, gvk)
	var unknown *unknownKindError
	if errors.As(err, &unknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []*unstructured.Unstructured
	for _, namespace := range []string{metav1.NamespaceAll, c.namespace, usual} {
		err := c.list(ctx, r, namespace, metav1.ListOptions{}, func(u *unstructured.Unstructured) {
			if !slices.ContainsFunc(found, func(other *unstructured.Unstructured) bool { return other.GetUID() == u.GetUID() }) {
				found = append(found, u)
			}
		})
		switch {
		case isDenied(err) || apierrors.IsForbidden(err):
			zerolog.Ctx(ctx).Warn().Err(c.explain(ctx, err, "list", r, cmp.Or(namespace, "any"))).Msg("whether it brings the repository to the cluster is not known")
		case err != nil:
			return nil, c.explain(ctx, err, "list", r, namespace)
		case namespace == metav1.NamespaceAll:
			return found, nil
		}
	}
	return found, nil
}

// sameRepository reports whether two URLs lead to one repository: whatever the scheme, the login, the port of ssh, and a ".git" at the
// end.
func sameRepository(a, b string) bool { return plainURL(a) == plainURL(b) }

func plainURL(raw string) string {
	if !strings.Contains(raw, "://") {
		if host, rest, ok := strings.Cut(raw, ":"); ok && !strings.ContainsAny(host, "/\\") {
			raw = "ssh://" + host + "/" + rest // as ssh has it: user@host:path
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	host := strings.ToLower(u.Host)
	if u.Scheme == "ssh" {
		host = strings.ToLower(u.Hostname())
	}
	return host + "/" + strings.Trim(strings.TrimSuffix(path.Clean("/"+u.Path), ".git"), "/")
}

// overlap reports whether one of two folders of a repository is in the other.
func overlap(a, b string) bool {
	clean := func(folder string) string { return strings.TrimPrefix(path.Clean("/"+folder), "/") }
	a, b = clean(a), clean(b)
	return a == "" || b == "" || a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// argoBrings reports whether an Application is about the environment. Source of the fields: the types ApplicationSpec and
// ApplicationStatus of argoproj.io/v1alpha1.
func argoBrings(u *unstructured.Unstructured, e Environment, remote remote) bool {
	sources, _, _ := unstructured.NestedSlice(u.Object, "spec", "sources")
	if source, ok, _ := unstructured.NestedMap(u.Object, "spec", "source"); ok {
		sources = append(sources, source)
	}
	return slices.ContainsFunc(sources, func(item any) bool {
		source, _ := item.(map[string]any)
		s := live{&unstructured.Unstructured{Object: source}}
		revision := strings.TrimPrefix(s.text("targetRevision"), "refs/heads/")
		branch := revision == "" || revision == "HEAD" || e.Branch == "" || revision == e.Branch
		return sameRepository(s.text("repoURL"), remote.url) && branch && overlap(s.text("path"), e.Path)
	})
}

func fluxReads(u *unstructured.Unstructured, e Environment, remote remote) bool {
	branch := live{u}.text("spec", "ref", "branch")
	return sameRepository(live{u}.text("spec", "url"), remote.url) && (branch == "" || e.Branch == "" || branch == e.Branch)
}

// fluxBrings reports whether a Kustomization is about the environment. Source of the fields: the types KustomizationSpec and
// KustomizationStatus of kustomize.toolkit.fluxcd.io/v1.
func fluxBrings(u *unstructured.Unstructured, repositories []*unstructured.Unstructured, e Environment) bool {
	k := live{u}
	if k.text("spec", "sourceRef", "kind") != "GitRepository" || !overlap(k.text("spec", "path"), e.Path) {
		return false
	}
	namespace := cmp.Or(k.text("spec", "sourceRef", "namespace"), u.GetNamespace())
	return slices.ContainsFunc(repositories, func(r *unstructured.Unstructured) bool {
		return r.GetName() == k.text("spec", "sourceRef", "name") && r.GetNamespace() == namespace
	})
}

// lineage tells whether a revision holds the commit.
type lineage struct {
	environment Environment
	remote      remote
	commit      string

	mu    sync.Mutex
	known map[string]bool
	clone *gitClone
	dir   string
}

// holds reports whether a revision is the commit or one on top of it. A revision that the repository does not tell of is not.
func (l *lineage) holds(ctx context.Context, revision string) bool {
	revision = revision[strings.LastIndexAny(revision, ":/")+1:] // Flux has "main@sha1:…", and had "main/…"
	if revision == "" || revision == l.commit {
		return revision != ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	holds, ok := l.known[revision]
	if !ok {
		var err error
		if holds, err = l.ask(ctx, revision); err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Str("revision", revision).Msg("whether it holds the commit is not known")
		}
		l.known[revision] = holds
	}
	return holds
}

func (l *lineage) ask(ctx context.Context, revision string) (bool, error) {
	if l.clone == nil {
		dir, err := os.MkdirTemp("", "grimoire-environment-")
		if err != nil {
			return false, err
		}
		l.dir = dir
		if l.clone, err = clone(ctx, l.remote, l.environment.Branch, filepath.Join(dir, "clone")); err != nil {
			return false, err
		}
	}
	if err := l.clone.deepen(ctx); err != nil {
		return false, err
	}
	_, err := l.clone.git(ctx, "merge-base", "--is-ancestor", l.commit, revision)
	return err == nil, nil
}

func (l *lineage) close() {
	if l.dir != "" {
		_ = os.RemoveAll(l.dir) // a temporary folder, and nobody to tell
	}
}

// argo judges an Application.
type argo struct {
	line          *lineage
	ctx           context.Context
	digest        string
	degradedSince time.Time
}

// degradedGrace is how long an Application may be degraded at the commit: right after a sync its health is still that of before.
const degradedGrace = 30 * time.Second

func (a *argo) status(u *unstructured.Unstructured) Result {
	app := live{u}
	phase, message := app.text("status", "operationState", "phase"), app.text("status", "operationState", "message")
	if (phase == "Failed" || phase == "Error") && a.holdsAny(app, "status", "operationState", "syncResult") {
		return failed("Argo CD could not sync it: %s", cmp.Or(message, phase))
	}
	images, _, _ := unstructured.NestedStringSlice(u.Object, "status", "summary", "images")
	runs := slices.ContainsFunc(images, func(image string) bool { return splitImage(image).digest == a.digest })
	if !a.holdsAny(app, "status", "sync") && !runs {
		text := fmt.Sprintf("at revision %s, not yet at %s", short12(app.text("status", "sync", "revision")), short12(a.line.commit))
		for _, kind := range []string{"ComparisonError", "InvalidSpecError", "SyncError"} {
			if c, ok := app.condition(kind); ok {
				text += fmt.Sprintf("; %s: %s", kind, c.message)
			}
		}
		return inProgress("%s", text)
	}
	if sync := app.text("status", "sync", "status"); sync != "Synced" {
		text := cmp.Or(sync, "not compared yet")
		if _, automated, _ := unstructured.NestedMap(u.Object, "spec", "syncPolicy", "automated"); !automated {
			text += "; it is not synced automatically: sync it by hand"
		}
		return inProgress("%s", text)
	}
	health, why := app.text("status", "health", "status"), app.text("status", "health", "message")
	if health != "Degraded" {
		a.degradedSince = time.Time{}
	} else if a.degradedSince.IsZero() {
		a.degradedSince = time.Now()
	}
	switch {
	case phase == "Running":
		return inProgress("syncing: %s", cmp.Or(message, "in progress"))
	case health == "Healthy":
		return current("synced to %s and healthy", short12(cmp.Or(app.text("status", "sync", "revision"), a.line.commit)))
	case health == "Degraded" && time.Since(a.degradedSince) >= degradedGrace:
		return failed("synced, and degraded: %s", cmp.Or(why, "see the Application's resources"))
	case why != "":
		return inProgress("synced, and %s: %s", strings.ToLower(health), why)
	default:
		return inProgress("synced, and %s", strings.ToLower(cmp.Or(health, "of unknown health")))
	}
}

// holdsAny reports whether one of an Application's revisions at a place holds the commit.
func (a *argo) holdsAny(app live, at ...string) bool {
	revisions, _, _ := unstructured.NestedStringSlice(app.Object, append(slices.Clone(at), "revisions")...)
	if revision := app.text(append(slices.Clone(at), "revision")...); revision != "" {
		revisions = append(revisions, revision)
	}
	return slices.ContainsFunc(revisions, func(revision string) bool { return a.line.holds(a.ctx, revision) })
}

func short12(revision string) string { return cmp.Or(revision[:min(len(revision), 12)], "none") }

// flux judges a Kustomization.
type flux struct {
	line *lineage
	ctx  context.Context
}

// fluxFailures are the reasons of Flux for which it has to be given something else.
var fluxFailures = []string{"BuildFailed", "ReconciliationFailed", "HealthCheckFailed", "PruneFailed"}

func (f *flux) status(u *unstructured.Unstructured) Result {
	k := live{u}
	applied, attempted := k.text("status", "lastAppliedRevision"), k.text("status", "lastAttemptedRevision")
	ready, _ := k.condition("Ready")
	switch {
	case ready.status == "False" && slices.Contains(fluxFailures, ready.reason) && f.line.holds(f.ctx, attempted):
		return failed("Flux could not apply it: %s", ready)
	case f.line.holds(f.ctx, applied) && ready.status == "True":
		return current("applied %s, and ready", applied)
	case f.line.holds(f.ctx, applied):
		return inProgress("applied %s, not ready: %s", applied, ready)
	case ready.status == "False":
		return inProgress("at %s, not yet at %s; %s", cmp.Or(applied, "no revision"), short12(f.line.commit), ready)
	default:
		return inProgress("at %s, not yet at %s", cmp.Or(applied, "no revision"), short12(f.line.commit))
	}
}

// userKinds are the workloads that run an image all the time.
var userKinds = []schema.GroupVersionKind{
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
}

// awaitUsers returns the workloads of the client's namespace that run the image's repository, and waits until there is one, unless
// there need not be any.
func (c *Client) awaitUsers(ctx context.Context, image string, timeout time.Duration, optional bool) ([]*follower, error) {
	deadline := time.Now().Add(timeout)
	for {
		var found []*follower
		for _, gvk := range userKinds {
			r, err := c.resource(ctx, gvk)
			if err != nil {
				return nil, err
			}
			err = c.list(ctx, r, c.namespace, metav1.ListOptions{}, func(u *unstructured.Unstructured) {
				o := &Object{Unstructured: u}
				if slices.ContainsFunc(imagesOf(o), func(f imageField) bool { return MatchImage(f.image(), image) }) {
					found = append(found, &follower{client: c, object: o, status: func(u *unstructured.Unstructured) Result { return imageStatus(u, image) }})
				}
			})
			if err != nil && !(optional && apierrors.IsForbidden(err)) {
				return nil, c.explain(ctx, err, "list", r, c.namespace)
			}
		}
		if len(found) > 0 || optional {
			return found, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("waiting for the commit: nothing brings the repository to the cluster as far as this login sees, and no workload in the namespace %s "+
				"runs %s; name the namespace that it is deployed to, or let the login list Applications or Kustomizations", c.namespace, splitImage(image).repository())
		}
		if !sleep(ctx, time.Second) {
			return nil, context.Cause(ctx)
		}
	}
}

// imageStatus is the status of a workload that is to run an image.
func imageStatus(u *unstructured.Unstructured, image string) Result {
	for _, f := range imagesOf(&Object{Unstructured: u}) {
		if is := f.image(); MatchImage(is, image) && splitImage(is).digest != splitImage(image).digest {
			return inProgress("it runs %s, not yet %s", f.image(), splitImage(image).digest)
		}
	}
	return Status(u)
}
