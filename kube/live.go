package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
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
	fluxRelease       = schema.GroupVersionKind{Group: "helm.toolkit.fluxcd.io", Version: "v2", Kind: "HelmRelease"}
)

// WaitCommit waits until a commit of an environment is live in the cluster, and with it the image:
//
//   - Where an Application of Argo CD brings that repository, branch and path to the cluster, until it is synced to the commit, or to one
//     on top of it, and healthy. A sync of it that fails, and a state that stays degraded, end the waiting with Argo's own words.
//   - Where a Kustomization of Flux does, until it has applied such a commit and is ready. That it could not build, apply or see
//     healthy what the commit holds ends the waiting with Flux's own words. Where it cannot be fetched is told.
//   - Where one of these, or a HelmRelease of Flux, names the image's repository in its own specification, until it names that image, and says
//     so much of it.
//   - In all cases, and where neither is there, until the workloads in the client's namespace that run the image's repository run that
//     image, and are current as Wait has it.
//
// What others apply is not known here, so that a Secret that is missing is given the time in which an operator may make it. Once a later
// commit of the environment has brought another image of the repository, the waiting ends, with an error that names it.
//
// It is an error where there is none of these before the timeout, and where the login may see none of them, which is a *PermissionError at
// once. What agents there are is looked up once, at the start. Errors are as Wait's are.
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
	asking, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	line := &lineage{ctx: asking, environment: e, remote: remote, commit: commit, known: make(map[string]bool), again: make(map[string]time.Time)}
	defer line.close()
	guarded, end := line.guard(ctx, image)
	defer end()
	err = c.waitCommit(guarded, line, image, deadline, o)
	var overtaken *overtakenError
	if err != nil && errors.As(context.Cause(guarded), &overtaken) {
		return fmt.Errorf("waiting for the commit: %w", overtaken)
	}
	return err
}

// unknownRelease is in the place of a release's objects that others apply: any operator may make what they need.
var unknownRelease = func() []*Object {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(argoApplication)
	return []*Object{{Unstructured: u}}
}()

func (c *Client) waitCommit(ctx context.Context, line *lineage, image string, deadline time.Time, o WaitOptions) error {
	agents, err := c.agents(ctx, line, image)
	if err != nil {
		return fmt.Errorf("waiting for the commit: %w", err)
	}
	for _, f := range agents.followers {
		zerolog.Ctx(ctx).Info().Str("object", f.object.String()).Str("namespace", f.object.GetNamespace()).Msg("brings the repository to the cluster")
	}
	if err := c.wait(ctx, agents.followers, unknownRelease, o); err != nil {
		return err
	}
	o.Timeout = max(time.Until(deadline), time.Second)
	workloads, err := c.awaitUsers(ctx, image, o.Timeout, agents)
	if err != nil {
		return err
	}
	o.Timeout = max(time.Until(deadline), time.Second)
	return c.wait(ctx, workloads, unknownRelease, o)
}

// agents are what brings an environment to the cluster.
type agents struct {
	followers []*follower
	// tellHealth is whether one of them says that what it has applied is healthy too.
	tellHealth bool
}

func (c *Client) agents(ctx context.Context, line *lineage, image string) (agents, error) {
	var found agents
	follow := func(u *unstructured.Unstructured, tellsHealth bool, status func(*unstructured.Unstructured) Result) {
		found.followers = append(found.followers, &follower{client: c, object: &Object{Unstructured: u}, status: status})
		found.tellHealth = found.tellHealth || tellsHealth
	}
	applications, err := c.everywhere(ctx, argoApplication, "argocd")
	if err != nil {
		return agents{}, err
	}
	for _, u := range ofService(applications, line, image) {
		follow(u, true, (&argo{line: line, image: image, foreign: !line.brings(u)}).status)
	}
	releases, err := c.everywhere(ctx, fluxRelease, "flux-system")
	if err != nil {
		return agents{}, err
	}
	for _, u := range releases {
		if len(namedImages(u.Object, image)) > 0 {
			follow(u, true, func(u *unstructured.Unstructured) Result { return releaseStatus(u, image) })
		}
	}
	repositories, err := c.everywhere(ctx, fluxRepository, "flux-system")
	if err != nil {
		return agents{}, err
	}
	repositories = slices.DeleteFunc(repositories, func(u *unstructured.Unstructured) bool { return !line.isRead(u) })
	if len(repositories) == 0 {
		return found, nil
	}
	kustomizations, err := c.everywhere(ctx, fluxKustomization, "flux-system")
	if err != nil {
		return agents{}, err
	}
	for _, u := range kustomizations {
		if source := fluxBrings(u, repositories, line.environment); source != nil {
			checks, _, _ := unstructured.NestedSlice(u.Object, "spec", "healthChecks")
			follow(u, live{u}.flag("spec", "wait") || len(checks) > 0, (&flux{line: line, image: image, source: c.reader(line.ctx, source)}).status)
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

// sameRepository reports whether two URLs lead to one repository: whatever the scheme, the login, the case, and a ".git" at the end. Where
// one is for ssh and the other is not, their ports differ anyway. Argo CD compares them in this way too (NormalizeGitURL).
func sameRepository(a, b string) bool {
	one, two := plainURL(a), plainURL(b)
	if one.ssh != two.ssh {
		one.port, two.port = "", ""
	}
	one.ssh, two.ssh = false, false
	return one == two
}

type repositoryURL struct {
	host, port, path string
	ssh              bool
}

func plainURL(raw string) repositoryURL {
	if !strings.Contains(raw, "://") {
		if host, rest, ok := strings.Cut(raw, ":"); ok && !strings.ContainsAny(host, "/\\") {
			raw = "ssh://" + host + "/" + rest // as ssh has it: user@host:path
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return repositoryURL{path: raw}
	}
	r := repositoryURL{host: strings.ToLower(u.Hostname()), port: u.Port(), ssh: strings.HasSuffix(u.Scheme, "ssh")}
	if r.port == "443" || r.port == "80" || r.ssh {
		r.port = "" // who uses two ports of ssh on one host has one repository behind them
	}
	r.path = strings.ToLower(strings.TrimSuffix(path.Clean("/"+u.Path), ".git"))
	return r
}

// overlap reports whether one of two folders of a repository is in the other.
func overlap(a, b string) bool {
	clean := func(folder string) string { return strings.TrimPrefix(path.Clean("/"+folder), "/") }
	a, b = clean(a), clean(b)
	return a == "" || b == "" || a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// ofService returns the Applications that are about the environment or name the image's repository. Where some are known to run that, others
// of the environment that are known to run other things do not matter.
func ofService(applications []*unstructured.Unstructured, line *lineage, image string) []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	known := false
	for _, u := range applications {
		if line.brings(u) || len(namedImages(u.Object, image)) > 0 {
			found = append(found, u)
			known = known || len(runImages(u, image)) > 0
		}
	}
	return slices.DeleteFunc(found, func(u *unstructured.Unstructured) bool {
		images, _, _ := unstructured.NestedStringSlice(u.Object, "status", "summary", "images")
		return known && len(images) > 0 && len(runImages(u, image)) == 0 && len(namedImages(u.Object, image)) == 0
	})
}

// runImages are the images of a repository that an Application's pods run.
func runImages(u *unstructured.Unstructured, image string) []string {
	images, _, _ := unstructured.NestedStringSlice(u.Object, "status", "summary", "images")
	return slices.DeleteFunc(images, func(is string) bool { return !MatchImage(is, image) })
}

// namedImages are the images of a repository that an agent's specification names: what kustomize or Helm is to set.
func namedImages(agent map[string]any, image string) []string {
	data, err := json.Marshal(map[string]any{"apiVersion": agent["apiVersion"], "kind": agent["kind"], "spec": agent["spec"]})
	if err != nil {
		return nil
	}
	places, err := imagePlaces("", data)
	if err != nil {
		return nil
	}
	var named []string
	for _, p := range places {
		if MatchImage(p.image, image) {
			named = append(named, p.image)
		}
	}
	return named
}

// otherImage says that an agent's specification is still the one for another image.
func otherImage(u *unstructured.Unstructured, image string) (Result, bool) {
	for _, is := range namedImages(u.Object, image) {
		if splitImage(is).digest != splitImage(image).digest {
			return inProgress("it is to run %s, not yet %s", is, splitImage(image).digest), true
		}
	}
	return Result{}, false
}

// unseen says that an agent's status is still the one of another specification.
func unseen(u *unstructured.Unstructured) (Result, bool) {
	seen, ok := live{u}.number("status", "observedGeneration")
	return inProgress("the controller has seen generation %d, not yet %d", seen, u.GetGeneration()), ok && seen < u.GetGeneration()
}

// brings reports whether an Application is about the environment. Source of the fields: the types ApplicationSpec and
// ApplicationStatus of argoproj.io/v1alpha1.
func (l *lineage) brings(u *unstructured.Unstructured) bool {
	sources, _, _ := unstructured.NestedSlice(u.Object, "spec", "sources")
	if source, ok, _ := unstructured.NestedMap(u.Object, "spec", "source"); ok {
		sources = append(sources, source)
	}
	return slices.ContainsFunc(sources, func(item any) bool {
		source, _ := item.(map[string]any)
		s := live{&unstructured.Unstructured{Object: source}}
		return sameRepository(s.text("repoURL"), l.remote.url) && overlap(s.text("path"), l.environment.Path) && l.follows(s.text("targetRevision"))
	})
}

// isRead reports whether a GitRepository is the environment's, and of its branch. Source of the fields: the types GitRepositorySpec and
// GitRepositoryRef of source.toolkit.fluxcd.io/v1, where the branch is master unless stated.
func (l *lineage) isRead(u *unstructured.Unstructured) bool {
	r := live{u}
	for _, other := range []string{"tag", "semver", "commit"} {
		if r.text("spec", "ref", other) != "" {
			return false
		}
	}
	return sameRepository(r.text("spec", "url"), l.remote.url) && l.follows(cmp.Or(r.text("spec", "ref", "name"), r.text("spec", "ref", "branch"), "master"))
}

// follows reports whether a revision that an agent is to follow is the environment's branch. What the default branch is, the repository is
// asked where that matters; while it does not tell, it may be this.
func (l *lineage) follows(revision string) bool {
	revision = strings.TrimPrefix(revision, "refs/heads/")
	branch, head := l.environment.Branch, revision == "" || revision == "HEAD"
	switch {
	case branch != "" && !head:
		return revision == branch
	case branch == "" && head:
		return true
	}
	usual := l.defaultBranch()
	return usual == "" || usual == cmp.Or(branch, revision)
}

func (l *lineage) defaultBranch() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.asked {
		l.asked = true
		g := &gitClone{remote: l.remote}
		g.env = g.environment(l.ctx)
		out, err := g.git(l.ctx, "ls-remote", "--symref", "--", l.remote.url, "HEAD")
		if err != nil {
			zerolog.Ctx(l.ctx).Debug().Err(err).Msg("the default branch is not known")
		}
		head, _, _ := strings.Cut(out, "\t")
		l.usual, _ = strings.CutPrefix(head, "ref: refs/heads/")
	}
	return l.usual
}

// fluxBrings returns the repository by which a Kustomization is about the environment; nil where it is not. Source of the fields: the types
// KustomizationSpec and KustomizationStatus of kustomize.toolkit.fluxcd.io/v1.
func fluxBrings(u *unstructured.Unstructured, repositories []*unstructured.Unstructured, e Environment) *unstructured.Unstructured {
	k := live{u}
	if k.text("spec", "sourceRef", "kind") != "GitRepository" || !overlap(k.text("spec", "path"), e.Path) {
		return nil
	}
	namespace := cmp.Or(k.text("spec", "sourceRef", "namespace"), u.GetNamespace())
	for _, r := range repositories {
		if r.GetName() == k.text("spec", "sourceRef", "name") && r.GetNamespace() == namespace {
			return r
		}
	}
	return nil
}

// lineage tells whether a revision holds the commit.
type lineage struct {
	ctx         context.Context // of the whole waiting
	environment Environment
	remote      remote
	commit      string

	mu    sync.Mutex
	known map[string]bool
	again map[string]time.Time // from when on to ask again for what the repository did not tell
	clone *gitClone
	dir   string // for the clone; empty before it is needed
	seen  string // the newest commit that has been looked at, which has brought no other image for certain
	asked bool   // for the default branch
	usual string // that branch
}

// holds reports whether a revision is the commit or one on top of it. A revision that the repository does not tell of is not.
func (l *lineage) holds(revision string) bool {
	ctx := l.ctx
	revision = revision[strings.LastIndexAny(revision, ":/")+1:] // Flux has "main@sha1:…", and had "main/…"
	if revision == "" || revision == l.commit {
		return revision != ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	holds, ok := l.known[revision]
	if ok || time.Now().Before(l.again[revision]) {
		return holds
	}
	holds, err := l.ask(ctx, revision)
	if err != nil { // the server may be out of reach for a moment, or not have yet what the agent was given by another
		zerolog.Ctx(ctx).Debug().Err(err).Str("revision", revision).Msg("whether it holds the commit is not known")
		l.again[revision] = time.Now().Add(rereadTime)
		return false
	}
	l.known[revision] = holds
	return holds
}

func (l *lineage) ask(ctx context.Context, revision string) (bool, error) {
	if err := l.fetch(ctx); err != nil {
		return false, err
	}
	_, err := l.clone.git(ctx, "merge-base", "--is-ancestor", l.commit, revision)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return false, nil
	}
	return err == nil, err
}

// fetch brings the branch's history.
func (l *lineage) fetch(ctx context.Context) (err error) {
	if l.dir == "" {
		if l.dir, err = os.MkdirTemp("", "grimoire-environment-"); err != nil {
			return err
		}
	}
	if l.clone == nil {
		dir := filepath.Join(l.dir, "clone")
		if err := os.RemoveAll(dir); err != nil { // of one that failed
			return err
		}
		if l.clone, err = clone(ctx, l.remote, l.environment.Branch, dir); err != nil {
			return err
		}
	}
	return l.clone.deepen(ctx)
}

func (l *lineage) close() {
	if l.dir != "" {
		_ = os.RemoveAll(l.dir) // a temporary folder, and nobody to tell
	}
}

// argo judges an Application.
type argo struct {
	line  *lineage
	image string
	// foreign is whether its manifests come from elsewhere, and only its own specification from the environment.
	foreign       bool
	degradedSince time.Time
}

// degradedGrace is how long an Application may be degraded at the commit: right after a sync its health is still that of before.
const degradedGrace = 30 * time.Second

func (a *argo) status(u *unstructured.Unstructured) Result {
	app := live{u}
	if r, ok := otherImage(u, a.image); ok {
		return r
	}
	phase, message := app.text("status", "operationState", "phase"), app.text("status", "operationState", "message")
	if (phase == "Failed" || phase == "Error") && a.isOfOurs(app) {
		return failed("Argo CD could not sync it: %s", cmp.Or(message, phase))
	}
	// That the image runs is enough only when none of the same name still does that was there before.
	digest := splitImage(a.image).digest
	images, _, _ := unstructured.NestedStringSlice(u.Object, "status", "summary", "images")
	isIt := func(is string) bool { return splitImage(is).digest == digest }
	runs := slices.ContainsFunc(images, isIt) && !slices.ContainsFunc(runImages(u, a.image), func(is string) bool { return !isIt(is) })
	if !a.holdsAny(app, "status", "sync") && !runs {
		text := fmt.Sprintf("at revision %s, not yet at %s", short12(app.text("status", "sync", "revision")), short12(a.line.commit))
		if a.foreign {
			text = fmt.Sprintf("no pod of it runs %s alone yet", digest)
		}
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
	case phase == "Running", phase == "Terminating":
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

// isOfOurs reports whether the last operation was for what the commit holds. One that did not come to a result has only what it was to do.
func (a *argo) isOfOurs(app live) bool {
	if a.foreign {
		result, _, _ := unstructured.NestedMap(app.Object, "status", "operationState", "syncResult")
		return slices.ContainsFunc(namedImages(map[string]any{"spec": result}, a.image), func(is string) bool {
			return splitImage(is).digest == splitImage(a.image).digest
		})
	}
	if _, ok, _ := unstructured.NestedMap(app.Object, "status", "operationState", "syncResult"); ok {
		return a.holdsAny(app, "status", "operationState", "syncResult")
	}
	return a.holdsAny(app, "status", "operationState", "operation", "sync")
}

// holdsAny reports whether one of an Application's revisions at a place holds the commit.
func (a *argo) holdsAny(app live, at ...string) bool {
	if a.foreign {
		return false
	}
	revisions, _, _ := unstructured.NestedStringSlice(app.Object, append(slices.Clone(at), "revisions")...)
	if revision := app.text(append(slices.Clone(at), "revision")...); revision != "" {
		revisions = append(revisions, revision)
	}
	return slices.ContainsFunc(revisions, a.line.holds)
}

func short12(revision string) string { return cmp.Or(revision[:min(len(revision), 12)], "none") }
