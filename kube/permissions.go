package kube

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Permission is a right that a login needs.
type Permission struct {
	// Verb is the API's: "get", "patch", "create".
	Verb string
	// Group and Resource say of what: "apps" and "deployments", or "pods/log" for a subresource.
	Group, Resource string
	// Namespace is where; empty for what is in none.
	Namespace string
	// For is what is lost without it; empty where nothing goes without it.
	For string

	// names are the objects that it is needed for; none where it is needed for any.
	names []string
}

// String is the permission in words: "patch deployments.apps in the namespace shop".
func (p Permission) String() string {
	resource := schema.GroupResource{Group: p.Group, Resource: p.Resource}.String()
	if p.Namespace == "" {
		return p.Verb + " " + resource
	}
	return fmt.Sprintf("%s %s in the namespace %s", p.Verb, resource, p.Namespace)
}

// PermissionError is that the login lacks what nothing goes without.
type PermissionError struct {
	// User is the login's name; empty where the server does not tell.
	User    string
	Missing []Permission
}

// Error names each permission, and ends with the manifests that would grant them.
func (e *PermissionError) Error() string {
	list := make([]string, len(e.Missing))
	for i, p := range e.Missing {
		list[i] = p.String()
	}
	who := "the login"
	if e.User != "" {
		who = fmt.Sprintf("the login %q", e.User)
	}
	return fmt.Sprintf("%s may not %s; who administers the cluster can grant it with:\n%s", who, strings.Join(list, ", nor "), e.Manifests())
}

// Manifests are a Role, or ClusterRole, and its binding for each namespace, that grant what is missing. Their name says what they
// grant and to whom, so that they add to what was granted before, and are applied again without harm.
func (e *PermissionError) Manifests() string {
	byNamespace := make(map[string][]Permission)
	var namespaces []string
	for _, p := range e.Missing {
		if _, ok := byNamespace[p.Namespace]; !ok {
			namespaces = append(namespaces, p.Namespace)
		}
		byNamespace[p.Namespace] = append(byNamespace[p.Namespace], p)
	}
	slices.Sort(namespaces)
	var documents []string
	for _, namespace := range namespaces {
		granted, subjects := rules(byNamespace[namespace]), []any{subject(e.User)}
		sum := sha256.Sum256(marshal(map[string]any{"rules": granted, "subjects": subjects}))
		name := fmt.Sprintf("grimoire-deploy-%x", sum[:4])
		kind, metadata := "Role", map[string]any{"name": name, "namespace": namespace}
		if namespace == "" {
			kind, metadata = "ClusterRole", map[string]any{"name": name}
		}
		const version = "rbac.authorization.k8s.io/v1"
		for _, object := range []map[string]any{
			{"apiVersion": version, "kind": kind, "metadata": metadata, "rules": granted},
			{"apiVersion": version, "kind": kind + "Binding", "metadata": metadata, "subjects": subjects,
				"roleRef": map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}},
		} {
			documents = append(documents, string(marshal(object)))
		}
	}
	return strings.Join(documents, "---\n")
}

// rules are those of a role, one for each resource.
func rules(permissions []Permission) []any {
	verbs := make(map[schema.GroupResource][]any)
	var resources []schema.GroupResource
	for _, p := range permissions {
		gr := schema.GroupResource{Group: p.Group, Resource: p.Resource}
		if _, ok := verbs[gr]; !ok {
			resources = append(resources, gr)
		}
		verbs[gr] = append(verbs[gr], p.Verb)
	}
	var rules []any
	for _, gr := range resources {
		rules = append(rules, map[string]any{"apiGroups": []any{gr.Group}, "resources": []any{gr.Resource}, "verbs": verbs[gr]})
	}
	return rules
}

// subject is whom a binding binds to.
func subject(user string) map[string]any {
	const serviceAccount = "system:serviceaccount:"
	if namespace, name, ok := strings.Cut(strings.TrimPrefix(user, serviceAccount), ":"); ok && strings.HasPrefix(user, serviceAccount) {
		return map[string]any{"kind": "ServiceAccount", "namespace": namespace, "name": name}
	}
	return map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": cmp.Or(user, "THE-LOGIN")}
}

// CheckPermissions asks the API server, without changing anything, whether the login has the permissions. What it lacks of those that
// nothing goes without is a *PermissionError; what it lacks of the others is a warning in the log. A server that does not tell is
// no error: what is refused then is told when it is.
func (c *Client) CheckPermissions(ctx context.Context, wanted []Permission) error {
	wanted = slices.Clone(wanted)
	slices.SortFunc(wanted, func(a, b Permission) int {
		// What is needed comes before the same that would be nice to have.
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Verb, b.Verb),
			cmp.Compare(a.For, b.For))
	})
	wanted = merged(wanted)
	allowed := make([]bool, len(wanted))
	err := each(len(wanted), func(i int) (err error) {
		allowed[i], err = c.may(ctx, wanted[i], "")
		if names := wanted[i].names; err == nil && !allowed[i] && len(names) > 0 {
			// A role may grant it for these alone.
			allowed[i] = true
			for n := 0; n < len(names) && allowed[i] && err == nil; n++ {
				allowed[i], err = c.may(ctx, wanted[i], names[n])
			}
		}
		return err
	})
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("whether the login has the permissions is not known beforehand")
		return context.Cause(ctx)
	}
	missing := &PermissionError{}
	for i, p := range wanted {
		switch {
		case allowed[i]:
		case p.For == "":
			missing.Missing = append(missing.Missing, p)
		default:
			zerolog.Ctx(ctx).Warn().Msgf("the login may not %s, and so %s", p, p.For)
		}
	}
	if len(missing.Missing) == 0 {
		return nil
	}
	missing.User = c.user(ctx)
	return missing
}

// merged makes one of those that are alike but for whom they are needed for; they are sorted.
func merged(permissions []Permission) []Permission {
	var all []Permission
	for _, p := range permissions {
		if len(all) == 0 || all[len(all)-1].String() != p.String() {
			p.names = slices.Clone(p.names)
			all = append(all, p)
			continue
		}
		last := &all[len(all)-1]
		if len(last.names) == 0 || len(p.names) == 0 {
			last.names = nil
		} else {
			last.names = append(last.names, p.names...)
		}
	}
	return all
}

// may asks for one permission, for the object of a name or for any. The review's format: https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-access-review-v1/
func (c *Client) may(ctx context.Context, p Permission, name string) (bool, error) {
	resource, subresource, _ := strings.Cut(p.Resource, "/")
	namespace := p.Namespace
	if p.Group == "" && resource == "namespaces" {
		namespace = name // a role in it may be for it
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]any{
			"verb": p.Verb, "group": p.Group, "resource": resource, "subresource": subresource, "namespace": namespace, "name": name,
		}},
	})
	if err != nil {
		return false, err
	}
	var answer struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	if err := c.review(ctx, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body, &answer); err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}

// user is the login's name to the server; empty where that does not tell.
func (c *Client) user(ctx context.Context) string {
	var answer struct {
		Status struct {
			UserInfo struct {
				Username string `json:"username"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	body := []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	if err := c.review(ctx, "/apis/authentication.k8s.io/v1/selfsubjectreviews", body, &answer); err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("the login's name is not known")
	}
	return answer.Status.UserInfo.Username
}

func (c *Client) review(ctx context.Context, path string, body []byte, answer any) error {
	var data []byte
	err := c.retry(ctx, func() (err error) {
		data, err = c.rest.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Raw()
		return err
	})
	if err != nil {
		return err
	}
	return json.Unmarshal(data, answer)
}

// mayDeploy checks the permissions for a deployment of objects. run is nil where it is not known yet what is live.
func (d *deployment) mayDeploy(ctx context.Context, objects []*Object, run *applyRun) error {
	wanted, err := d.permissions(ctx, objects, run)
	if err != nil {
		return err
	}
	return d.client.CheckPermissions(ctx, wanted)
}

// denied is err, or all that the login lacks where err is that it lacks something.
func (d *deployment) denied(ctx context.Context, err error, objects []*Object) error {
	if !isDenied(err) {
		return err
	}
	return cmp.Or(d.mayDeploy(ctx, objects, nil), err)
}

// permissions are what a deployment needs, for objects that are to be applied and members that may be removed.
func (d *deployment) permissions(ctx context.Context, objects []*Object, run *applyRun) ([]Permission, error) {
	var wanted []Permission
	addNamed := func(r resource, namespace, without string, names []string, verbs ...string) {
		if !r.namespaced {
			namespace = ""
		}
		for _, verb := range verbs {
			wanted = append(wanted, Permission{Verb: verb, Group: r.Group, Resource: r.Resource, Namespace: namespace, For: without, names: names})
		}
	}
	add := func(r resource, namespace, without string, verbs ...string) {
		addNamed(r, namespace, without, nil, verbs...)
	}
	for _, o := range objects {
		r, err := d.client.resource(ctx, o.GroupVersionKind())
		var unknown *unknownKindError
		if errors.As(err, &unknown) {
			continue // it is told elsewhere, or is defined by the release itself
		}
		if err != nil {
			return nil, err
		}
		namespace := namespaceOr(o.GetNamespace(), d.client.namespace)
		name := []string{o.GetName()}
		addNamed(r, namespace, "", name, "get")
		if run == nil || !run.isLive(o) {
			addNamed(r, namespace, "", name, "patch")
		}
		if run == nil || run.live[o] == nil {
			add(r, namespace, "", "create") // besides patch; no role can grant it for a name
		}
		if waitsFor(o) {
			add(r, namespace, "", "list", "watch")
		}
		if !d.options.KeepRemoved {
			add(r, namespace, "what is no longer declared will stay", "list", "delete")
		}
		if _, ok := statuses[o.GroupVersionKind().GroupKind()]; ok {
			const blind = "why pods do not run may not be known"
			add(pods, namespace, blind, "list", "watch")
			add(events, namespace, blind, "list", "watch")
			add(podLogs, namespace, blind, "get")
			if r.Resource == "deployments" {
				add(replicaSets, namespace, blind, "list", "watch")
			}
		}
	}
	addNamed(configMaps, d.client.namespace, "", []string{parentName(d.options.Name)}, "get", "update")
	if d.claim == nil || d.claim.isNew() {
		add(configMaps, d.client.namespace, "", "create")
	}
	add(secrets, d.client.namespace, "no state is remembered that could be rolled back to", "list", "create", "delete")
	return wanted, nil
}
