package kube_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/grimoire-build/grimoire/kube"
)

var (
	digest = "sha256:" + strings.Repeat("0123456789abcdef", 4)
	image  = "git.example.org/shop/pay@" + digest
)

func TestMatchImage(t *testing.T) {
	tests := []struct {
		name, image, wanted string
		want                bool
	}{
		{"in full", "git.example.org/shop/pay", image, true},
		{"name", "pay", image, true},
		{"name with tag", "pay:v1", image, true},
		{"name with digest", "pay@" + digest, image, true},
		{"name with tag and digest", "pay:v1@" + digest, image, true},
		{"owner and name", "shop/pay:latest", image, true},
		{"another registry", "registry.example.org:5000/shop/pay:v1", image, true},
		{"localhost", "localhost/shop/pay", image, true},
		{"capital letters make a host", "Registry/shop/pay", image, true},
		{"host in another case", "Git.Example.ORG/shop/pay", image, true},
		{"wanted has a port", "pay", "localhost:5000/pay@" + digest, true},
		{"wanted has a tag", "shop/pay", "git.example.org/shop/pay:v1@" + digest, true},
		{"wanted has no host", "git.example.org/shop/pay", "shop/pay@" + digest, true},
		{"wanted is longer", "team/pay", "git.example.org/shop/team/pay@" + digest, true},

		{"not at a slash", "ay", image, false},
		{"end of the owner", "hop/pay", image, false},
		{"longer name", "payments", image, false},
		{"prefix", "shop", image, false},
		{"another owner", "other/pay", image, false},
		{"another owner on the same host", "git.example.org/other/pay", image, false},
		{"another registry with less path", "registry.example.org/pay", image, false},
		{"more path", "git.example.org/shop/pay/worker", image, false},
		{"more path before", "git.example.org/old/shop/pay", image, false},
		{"path in another case", "shop/Pay", image, false},
		{"host alone", "git.example.org", image, false},
		{"port is no tag", "localhost:5000", image, false},
		{"empty", "", image, false},
		{"digest alone", "@" + digest, image, false},
		{"slash", "/", image, false},
		{"slash in front", "/pay", image, false},
		{"nothing wanted", "pay", "", false},
		{"template", "${IMAGE}", image, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, kube.MatchImage(tt.image, tt.wanted))
		})
	}
}

func FuzzMatchImage(f *testing.F) {
	f.Add("pay:v1", image)
	f.Add("localhost:5000/a/b", "x/a/b")
	f.Add("@:/", "/:@")
	f.Fuzz(func(t *testing.T, a, b string) {
		got := kube.MatchImage(a, b)
		if strings.Contains(a, "@") || strings.Contains(b, "@") {
			return
		}
		assert.Equal(t, got, kube.MatchImage(a+"@"+digest, b), "a digest does not matter")
		assert.Equal(t, got, kube.MatchImage(a, b+"@"+digest))
		if got {
			assert.NotEmpty(t, a)
			assert.True(t, kube.MatchImage(a, a), "what matches anything matches itself")
		}
	})
}

func TestSetImage(t *testing.T) {
	objects := load(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: pay}
spec:
  template:
    spec:
      initContainers:
      - {name: migrate, image: "shop/pay:old"}
      containers:
      - {name: main, image: pay}
      - {name: sidecar, image: "envoyproxy/envoy:v1"}
      - {name: same, image: "`+image+`"}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly}, spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: pay}]}}}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one}, spec: {containers: [{name: pay, image: busybox}, {name: c, image: pay}, 7, {name: none}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {image: pay}}
---
{apiVersion: example.org/v1, kind: Rollout, metadata: {name: r}, spec: {template: {spec: {containers: [{name: c, image: pay}]}}}}
`)
	replaced, err := kube.SetImage(objects, image)
	require.NoError(t, err)
	type short struct{ object, container, from string }
	var got []short
	for _, r := range replaced {
		assert.Equal(t, image, r.To)
		got = append(got, short{r.Object.String(), r.Container, r.From})
	}
	assert.Equal(t, []short{
		{"Deployment/pay", "migrate", "shop/pay:old"}, {"Deployment/pay", "main", "pay"}, {"Deployment/pay", "same", image},
		{"CronJob/nightly", "c", "pay"}, {"Pod/one", "c", "pay"}, {"Rollout/r", "c", "pay"},
	}, got)
	containers, _, err := unstructured.NestedSlice(objects[0].Object, "spec", "template", "spec", "containers")
	require.NoError(t, err)
	assert.Equal(t, []any{
		map[string]any{"name": "main", "image": image},
		map[string]any{"name": "sidecar", "image": "envoyproxy/envoy:v1"},
		map[string]any{"name": "same", "image": image},
	}, containers)
}

func TestSetImageErrors(t *testing.T) {
	pod := func(images string) []*kube.Object {
		return load(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: ["+images+"]}\n")
	}
	tests := []struct {
		name    string
		objects []*kube.Object
		image   string
		want    string
	}{
		{"none", pod(""), image, `setting the image: nothing uses an image git.example.org/shop/pay, nor any other image; name it in the manifest, as "pay" for example`},
		{"others", pod("{image: redis}, {image: nginx}, {image: redis}"), image, `git.example.org/shop/pay, only "nginx" in `},
		{"by tag", pod("{image: pay}"), "shop/pay:v1", `"shop/pay:v1" is not an image by digest; name it "host/owner/name@sha256:…", in lower case`},
		{"short digest", pod("{image: pay}"), "shop/pay@sha256:abc", "is not an image by digest"},
		{"upper case", pod("{image: pay}"), "shop/Pay@" + digest, "is not an image by digest"},
		{"YAML in it", pod("{image: pay}"), "shop/pay #@" + digest, "is not an image by digest"},
		{"line break", pod("{image: pay}"), image + "\n", "is not an image by digest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			replaced, err := kube.SetImage(tt.objects, tt.image)
			require.ErrorContains(t, err, tt.want)
			assert.Empty(t, replaced)
		})
	}
}
