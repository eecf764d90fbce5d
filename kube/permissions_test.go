package kube_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/internal/testcluster"
	"github.com/grimoire-build/grimoire/kube"
)

// robot is a service account that may do nothing yet, and a client with its login.
func (c *realCluster) robot(name string) *kube.Client {
	c.t.Helper()
	c.run("create", "serviceaccount", name)
	kubeconfig, err := os.ReadFile(c.kubeconfig)
	require.NoError(c.t, err)
	before, _, found := strings.Cut(string(kubeconfig), "users:")
	require.True(c.t, found)
	client, err := kube.Connect(kube.Config{
		Data:      fmt.Appendf(nil, "%susers: [{name: %s, user: {token: %q}}]\n", before, testcluster.ContextName, c.run("create", "token", name)),
		Namespace: c.namespace,
	})
	require.NoError(c.t, err)
	return client
}

func (c *realCluster) create(manifests string) {
	c.t.Helper()
	cmd := c.command(c.t.Context(), "apply", "--filename=-")
	cmd.Stdin = strings.NewReader(manifests)
	out, err := cmd.CombinedOutput()
	require.NoError(c.t, err, "%s\n%s", manifests, out)
}

// grant creates roles, and waits until they are in force for a robot: the API server looks at what it has last seen of them.
func (c *realCluster) grant(robot, manifests string, permissions ...string) {
	c.t.Helper()
	c.create(manifests)
	for _, permission := range permissions {
		verb, resource, _ := strings.Cut(permission, " ")
		c.eventually(robot+" may "+permission, func() bool {
			return c.command(c.t.Context(), "auth", "can-i", verb, resource, "--as=system:serviceaccount:"+c.namespace+":"+robot).Run() == nil
		})
	}
}

// The role that the error prints is the one that is missing: with it, and nothing else, the deployment succeeds.
func TestClusterMissingPermissions(t *testing.T) {
	c := newCluster(t)
	robot := c.robot("robot")
	role := c.namespace + "-role"
	manifests := settingsMaps("one", "a") + "---\n" + appManifest(needs.App(t), 1, environment("one"), "") +
		"---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: " + role + "}}\n"
	deploy := func() (string, error) {
		var log bytes.Buffer
		_, err := robot.Deploy(zerolog.New(zerolog.SyncWriter(&log)).WithContext(t.Context()), load(t, manifests), kube.DeployOptions{Name: "app", Timeout: time.Minute})
		return log.String(), err
	}
	_, err := deploy()
	var missing *kube.PermissionError
	require.ErrorAs(t, err, &missing)
	assert.Equal(t, "system:serviceaccount:"+c.namespace+":robot", missing.User)
	for _, want := range []string{"patch deployments.apps in the namespace " + c.namespace, "get configmaps in the namespace ", "watch deployments.apps", "patch clusterroles.rbac.authorization.k8s.io"} {
		require.ErrorContains(t, err, want)
	}
	assert.Empty(t, present(t, c), "nothing is changed")

	c.grant("robot", missing.Manifests(), "patch deployments.apps", "patch clusterroles.rbac.authorization.k8s.io")
	log, err := deploy()
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "one"}, present(t, c))
	assert.Contains(t, log, "and so why pods do not run may not be known")
	assert.Contains(t, log, "and so what is no longer declared will stay")
	assert.Contains(t, log, "and so no state is remembered that could be rolled back to")

	// What is granted later adds to it.
	first := missing
	manifests += "---\n{apiVersion: v1, kind: Service, metadata: {name: app}, spec: {ports: [{port: 80}]}}\n"
	_, err = deploy()
	require.ErrorAs(t, err, &missing)
	c.grant("robot", missing.Manifests(), "patch services")
	_, err = deploy()
	require.NoError(t, err)
	for _, o := range load(t, first.Manifests()) {
		if o.GetNamespace() == "" {
			c.run("delete", o.GetKind(), o.GetName(), "--namespace=default")
		}
	}
}

// What is live as it is declared needs no right to write, and a role may be for objects by their names.
func TestClusterPermissionsOfWhatChanges(t *testing.T) {
	c := newCluster(t)
	manifests := func(value string) string {
		return "{apiVersion: v1, kind: Namespace, metadata: {name: " + c.namespace + "}}\n" + settingsMaps(value, "a")
	}
	_, err := c.Deploy(t.Context(), load(t, manifests("one")), kube.DeployOptions{Name: "app"})
	require.NoError(t, err)
	robot := c.robot("robot")
	c.grant("robot", strings.NewReplacer("NAMESPACE", c.namespace).Replace(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: robot, namespace: NAMESPACE}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [get], resourceNames: [NAMESPACE]}
- {apiGroups: [""], resources: [configmaps], verbs: [get, patch, update], resourceNames: [a, grimoire-app]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: robot}
subjects: [{kind: ServiceAccount, namespace: NAMESPACE, name: robot}]
`), "patch configmaps/a")
	_, err = robot.Deploy(t.Context(), load(t, manifests("two")), kube.DeployOptions{Name: "app"})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "two"}, present(t, c))
	_, err = robot.Deploy(t.Context(), load(t, manifests("two")+settingsMaps("two", "b")), kube.DeployOptions{Name: "app"})
	var missing *kube.PermissionError
	require.ErrorAs(t, err, &missing)
	require.ErrorContains(t, err, "create configmaps in the namespace "+c.namespace)
	assert.NotContains(t, err.Error(), "namespaces;")

	reader := c.robot("reader")
	c.grant("reader", strings.NewReplacer("NAMESPACE", c.namespace).Replace(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: NAMESPACE}
rules:
- {apiGroups: [""], resources: [configmaps, secrets], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, namespace: NAMESPACE, name: reader}]
`), "list secrets")
	before := c.live("/api/v1/namespaces/" + c.namespace + "/configmaps/grimoire-app").GetResourceVersion()
	_, err = reader.Rollback(t.Context(), kube.RollbackOptions{Name: "app", To: 1})
	require.ErrorAs(t, err, &missing)
	require.ErrorContains(t, err, "patch configmaps in the namespace "+c.namespace)
	assert.Equal(t, before, c.live("/api/v1/namespaces/"+c.namespace+"/configmaps/grimoire-app").GetResourceVersion(), "nothing is changed")
}

func TestPermissionManifests(t *testing.T) {
	err := &kube.PermissionError{User: "ci", Missing: []kube.Permission{
		{Verb: "get", Group: "apps", Resource: "deployments", Namespace: "shop"},
		{Verb: "patch", Group: "apps", Resource: "deployments", Namespace: "shop"},
		{Verb: "create", Resource: "namespaces"},
	}}
	assert.Equal(t, `the login "ci" may not get deployments.apps in the namespace shop, nor patch deployments.apps in the namespace shop, `+
		`nor create namespaces; who administers the cluster can grant it with:
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: grimoire-deploy-4f0df108
rules:
- apiGroups:
  - ""
  resources:
  - namespaces
  verbs:
  - create
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: grimoire-deploy-4f0df108
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: grimoire-deploy-4f0df108
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: ci
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: grimoire-deploy-c01d388f
  namespace: shop
rules:
- apiGroups:
  - apps
  resources:
  - deployments
  verbs:
  - get
  - patch
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: grimoire-deploy-c01d388f
  namespace: shop
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: grimoire-deploy-c01d388f
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: ci
`, err.Error())
}
