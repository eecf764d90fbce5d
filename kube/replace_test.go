package kube_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/grimoire-build/grimoire/kube"
)

func TestReplaceImage(t *testing.T) {
	const repository = "git.example.org/shop/pay"
	short := strings.TrimPrefix(digest, "sha256:")[:12]
	tests := []struct {
		name, file, want string
		replaced         int
	}{
		{
			"containers, with everything around them untouched",
			"# pay \t\nspec:\n    containers:\n      - name:   pay # the service\n        image:   pay:v1   # set by CI\n      -   {image: 'shop/pay', name: b}\n" +
				"      - image: \"envoy:v1\"\n    initContainers: [ { image: \"old.example.org:5000/shop/pay@" + digest + "\" } ]\n\n\n...\n",
			"# pay \t\nspec:\n    containers:\n      - name:   pay # the service\n        image:   " + image + "   # set by CI\n      -   {image: '" + image + "', name: b}\n" +
				"      - image: \"envoy:v1\"\n    initContainers: [ { image: \"" + image + "\" } ]\n\n\n...\n",
			3,
		},
		{"several documents", "containers: [{image: pay}]\n---\n# x\n---\ncontainers:\n- image: pay\n",
			"containers: [{image: " + image + "}]\n---\n# x\n---\ncontainers:\n- image: " + image + "\n", 2},
		{"CRLF and a byte order mark", "\ufeff# ü\r\ncontainers:\r\n- image: pay\r\n", "\ufeff# ü\r\ncontainers:\r\n- image: " + image + "\r\n", 1},
		{"a byte order mark on the same line", "\ufeffcontainers: [{image: pay}]\n", "\ufeffcontainers: [{image: " + image + "}]\n", 1},
		{"no last line break", "containers:\n- image: pay", "containers:\n- image: " + image, 1},
		{"columns are characters", "{ü: é, containers: [{日本: \"語\", image: pay}]}\n", "{ü: é, containers: [{日本: \"語\", image: " + image + "}]}\n", 1},
		{"anchor and alias", "containers:\n- image: &i pay:v1\n- image: *i\n- image: !!str pay\n",
			"containers:\n- image: &i " + image + "\n- image: *i\n- image: !!str " + image + "\n", 3},
		{"anchor elsewhere", "x: &i pay:v1\ny: &c [{image: *i}]\ncontainers: *c\n", "x: &i " + image + "\ny: &c [{image: *i}]\ncontainers: *c\n", 1},
		{"merge key", "x: &x {image: pay}\ncontainers:\n- <<: *x\n  name: a\n", "x: &x {image: " + image + "}\ncontainers:\n- <<: *x\n  name: a\n", 1},
		{"lists in lists", "kind: List\nitems:\n- spec: {template: {spec: {containers: [{image: pay}]}}}\n",
			"kind: List\nitems:\n- spec: {template: {spec: {containers: [{image: " + image + "}]}}}\n", 1},
		{"there already", "containers:\n- image: " + image + "\n", "containers:\n- image: " + image + "\n", 1},
		{"nothing", "image: pay\nx: {image: pay}\ncontainers: pay\n# image: pay\n", "image: pay\nx: {image: pay}\ncontainers: pay\n# image: pay\n", 0},
		{"empty", "", "", 0},
		{"block text", "data:\n  x: |\n    containers:\n    - image: pay\n", "data:\n  x: |\n    containers:\n    - image: pay\n", 0},

		{"kustomize with newName and newTag", "kind: Kustomization\nimages:\n- name: pay\n  newName: old.example.org/shop/pay # where\n  newTag: \"v1\" # which\n- name: redis\n  newTag: v7\n",
			"kind: Kustomization\nimages:\n- name: pay\n  newName: " + repository + " # where\n  digest: \"" + digest + "\" # which\n- name: redis\n  newTag: v7\n", 1},
		{"kustomize with newTag", "images:\n  - newTag: v1\n    name: pay # it\nresources: []\n",
			"images:\n  - digest: " + digest + "\n    name: pay # it\n    newName: " + repository + "\nresources: []\n", 1},
		{"flux kustomization", "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nspec:\n  path: ./shop # here\n  images:\n  - name: pay\n    newTag: v1 # was\n",
			"apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nspec:\n  path: ./shop # here\n  images:\n  - name: pay\n    newName: " + repository + "\n    digest: " + digest + " # was\n", 1},
		{"flux release", "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec:\n  values:\n    image:\n      repository: shop/pay\n      tag: v1 # {\"$imagepolicy\": \"x\"}\n",
			"apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec:\n  values:\n    image:\n      repository: " + repository + "\n      tag: " + digest[7:19] + "@" + digest + " # {\"$imagepolicy\": \"x\"}\n", 1},
		{"argo kustomize images", "kind: Application\nspec:\n  source:\n    kustomize:\n      images:\n      - pay=old/shop/pay:v1 # a\n      - 'old.example.org/shop/pay:v1'\n      - " + repository + ":v1\n      - redis:7\n",
			"kind: Application\nspec:\n  source:\n    kustomize:\n      images:\n      - pay=old/shop/pay:v1 # a\n      - 'old.example.org/shop/pay=" + image + "'\n      - " + image + "\n      - redis:7\n", 2},
		{"argo helm parameters", "kind: Application\nspec:\n  sources:\n  - helm:\n      parameters:\n      - {name: replicas, value: \"2\"}\n      - name: web.image.tag\n        value: v1 # was\n      - name: web.image.repository\n        value: shop/pay\n",
			"kind: Application\nspec:\n  sources:\n  - helm:\n      parameters:\n      - {name: replicas, value: \"2\"}\n      - name: web.image.tag\n        value: " + digest[7:19] + "@" + digest + " # was\n      - name: web.image.repository\n        value: " + repository + "\n", 1},
		{"argo application set with values", "kind: ApplicationSet\nspec:\n  template:\n    spec:\n      source:\n        helm:\n          valuesObject:\n            image: {repository: shop/pay, digest: \"sha256:0\"}\n",
			"kind: ApplicationSet\nspec:\n  template:\n    spec:\n      source:\n        helm:\n          valuesObject:\n            image: {repository: " + repository + ", digest: \"" + digest + "\"}\n", 1},
		{"kustomize with digest", "images:\n- {name: " + repository + ", digest: 'sha256:0'}\n", "images:\n- {name: " + repository + ", digest: '" + digest + "'}\n", 1},
		{"kustomize with an empty digest", "images:\n- name: " + repository + "\n  digest:   # none yet\n",
			"images:\n- name: " + repository + "\n  digest: " + digest + "   # none yet\n", 1},
		{"kustomize with a name alone", "kind: Kustomization\nimages:\n- name: pay", "kind: Kustomization\nimages:\n- name: pay\n  newName: " + repository + "\n  digest: " + digest, 1},
		{"kustomize in CRLF", "kind: Kustomization\r\nimages:\r\n- name: pay\r\n", "kind: Kustomization\r\nimages:\r\n- name: pay\r\n  newName: " + repository +
			"\r\n  digest: " + digest + "\r\n", 1},
		{"kustomize in flow style", "kind: Kustomization\nimages: [{name: pay}, {\"name\": \"pay\", \"newTag\": \"v1\"}]\n",
			"kind: Kustomization\nimages: [{name: pay, newName: " + repository + ", digest: " + digest + "}, {\"name\": \"pay\", newName: " + repository +
				", \"digest\": \"" + digest + "\"}]\n", 2},
		{"kustomize by newName only", "images:\n- name: pay\n  newName: mirror.example.org/other\n  newTag: v1\n",
			"images:\n- name: pay\n  newName: mirror.example.org/other\n  newTag: v1\n", 0},
		{"images of something else", "kind: Album\nimages:\n- name: pay\n  newTag: v1\n---\nimages: [{name: pay, size: 3}]\n",
			"kind: Album\nimages:\n- name: pay\n  newTag: v1\n---\nimages: [{name: pay, size: 3}]\n", 0},

		{"Helm with a tag", "pay:\n  image:\n    repository: old.example.org/shop/pay\n    tag: \"1.10\" # x\n    pullPolicy: Always\n",
			"pay:\n  image:\n    repository: " + repository + "\n    tag: \"" + short + "@" + digest + "\" # x\n    pullPolicy: Always\n", 1},
		{"Helm with a tag like a number", "image: {repository: shop/pay, tag: 1.10}\n", "image: {repository: " + repository + ", tag: " + short + "@" + digest + "}\n", 1},
		{"Helm with an empty tag", "image:\n  repository: shop/pay\n  tag:\n", "image:\n  repository: " + repository + "\n  tag: " + short + "@" + digest + "\n", 1},
		{"Helm with a digest", "image:\n  repository: shop/pay\n  tag: v1\n  digest: \"\"\n", "image:\n  repository: " + repository + "\n  tag: v1\n  digest: \"" + digest + "\"\n", 1},
		{"Helm with null", "image: {repository: shop/pay, digest: ~}\n", "image: {repository: " + repository + ", digest: " + digest + "}\n", 1},
		{"Helm with a registry", "image:\n  registry: old.example.org\n  repository: shop/pay\n  digest: x\n",
			"image:\n  registry: git.example.org\n  repository: shop/pay\n  digest: " + digest + "\n", 1},
		{"Helm with an empty registry", "image:\n  registry: \"\"\n  repository: shop/pay\n  digest: x\n",
			"image:\n  registry: \"\"\n  repository: " + repository + "\n  digest: " + digest + "\n", 1},
		{"Helm with a plain image", "# v\nimage:   \"old.example.org/shop/pay:v1\"  # ours\nsidecar: {image: 'envoyproxy/envoy:v1.30'}\nworker:\r\n  migrationImage: shop/pay:v1\n",
			"# v\nimage:   \"" + image + "\"  # ours\nsidecar: {image: 'envoyproxy/envoy:v1.30'}\nworker:\r\n  migrationImage: " + image + "\n", 2},
		{"Helm with a plain image by digest", "web: {image: pay@sha256:0}\n", "web: {image: " + image + "}\n", 1},
		{"Helm with a plain image of a host", "image: old.example.org:5000/shop/pay\n", "image: " + image + "\n", 1},
		{"Helm with plain images that are others", "image: shop/till:v1\nbaseImage: shop/pay-base:v1\nimages: shop/pay:v1\nimagePullPolicy: shop/pay:v1\nx: {image: [shop/pay:v1], image: \"shop/pay:{{ .tag }}\"}\n",
			"image: shop/till:v1\nbaseImage: shop/pay-base:v1\nimages: shop/pay:v1\nimagePullPolicy: shop/pay:v1\nx: {image: [shop/pay:v1], image: \"shop/pay:{{ .tag }}\"}\n", 0},
		{"plain image that is a picture", "image: shop/pay\nheroImage: pay\n", "image: shop/pay\nheroImage: pay\n", 0},
		{"plain image with an anchor", "image: &i shop/pay:v1\njob: {image: *i}\n", "image: &i " + image + "\njob: {image: *i}\n", 1},
		{"plain image that is a container's", "x: &x {image: pay:v1}\ncontainers:\n- <<: *x\n", "x: &x {image: " + image + "}\ncontainers:\n- <<: *x\n", 1},
		{"plain image that is a part of another", "baseImage: &r shop/pay\ntagImage: &t v1\nimage: {repository: *r, tag: *t}\n",
			"baseImage: &r " + repository + "\ntagImage: &t " + short + "@" + digest + "\nimage: {repository: *r, tag: *t}\n", 1},
		{"plain image of an object", "apiVersion: example.org/v1\nkind: Worker\nmetadata: {annotations: {image: shop/pay:v1}}\nspec: {image: shop/pay:v1}\nstatus: {image: shop/pay:v1}\n",
			"apiVersion: example.org/v1\nkind: Worker\nmetadata: {annotations: {image: shop/pay:v1}}\nspec: {image: " + image + "}\nstatus: {image: shop/pay:v1}\n", 1},
		{"plain image in a ConfigMap", "kind: List\napiVersion: v1\nitems: [{apiVersion: v1, kind: ConfigMap, data: {image: shop/pay:v1}}, {apiVersion: v1, kind: Secret, stringData: {image: shop/pay:v1}}]\n",
			"kind: List\napiVersion: v1\nitems: [{apiVersion: v1, kind: ConfigMap, data: {image: shop/pay:v1}}, {apiVersion: v1, kind: Secret, stringData: {image: shop/pay:v1}}]\n", 0},
		{"argo helm parameter that is an image", "helm:\n  parameters:\n  - {name: web.image, value: \"shop/pay:v1\"}\n  - {name: cacheImage, value: \"redis:7\"}\n",
			"helm:\n  parameters:\n  - {name: web.image, value: \"" + image + "\"}\n  - {name: cacheImage, value: \"redis:7\"}\n", 1},
		{"Helm with another image", "image: {repository: shop/till, tag: v1}\n", "image: {repository: shop/till, tag: v1}\n", 0},
		{"Helm without a tag", "image: {repository: shop/pay}\n", "image: {repository: shop/pay}\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, replaced, err := kube.ReplaceImage([]byte(tt.file), image)
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(out))
			assert.Equal(t, tt.replaced, replaced)

			again, replaced, err := kube.ReplaceImage(out, image)
			require.NoError(t, err)
			assert.Equal(t, string(out), string(again), "a second time changes nothing")
			assert.Equal(t, tt.replaced, replaced)
		})
	}
	t.Run("Helm with the image's own tag", func(t *testing.T) {
		out, _, err := kube.ReplaceImage([]byte("image: {repository: shop/pay, tag: v1}\n"), "git.example.org/shop/pay:v2@"+digest)
		require.NoError(t, err)
		assert.Equal(t, "image: {repository: "+repository+", tag: v2@"+digest+"}\n", string(out))
	})
}

func TestReplaceImageErrors(t *testing.T) {
	tests := []struct{ name, file, image, want string }{
		{"no digest", "", "shop/pay:v1", "is not an image by digest"},
		{"no YAML", "a: [\nb: c\n", image, "replacing the image: line "},
		{"template", "containers:\n{{- range .Values.x }}\n- image: pay\n{{ end }}\n", image, "render the file first if the {{ in line 2 makes it a template"},
		{"folded", "a: b\ncontainers:\n- image: >-\n    pay\n", image, "line 3: document 1: the value is written over several lines or with escapes"},
		{"literal", "containers:\n- image: |-\n    pay\n", image, "write it plainly, on one line"},
		{"plain image with escapes", "image: \"shop/p\\x61y:v1\"\n", image, "write it plainly, on one line"},
		{"escapes", "containers:\n- image: \"p\\x61y\"\n", image, "write it plainly, on one line"},
		{"one anchor for two things", "image: {repository: &x pay, digest: *x}\n", image, "an anchor makes one value stand for two; write it out in both places"},
		{"deep", "x: " + strings.Repeat("[", 2000) + strings.Repeat("]", 2000), image, "nested more than 1000 levels deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, replaced, err := kube.ReplaceImage([]byte(tt.file), tt.image)
			require.ErrorContains(t, err, tt.want)
			assert.Nil(t, out)
			assert.Zero(t, replaced)
		})
	}
}

func FuzzReplaceImage(f *testing.F) {
	for _, seed := range []string{
		"containers:\n- image: pay # x\n  name: a\n", "\ufeffcontainers: [{image: 'pay'}]\r\n", "a: &a pay\ncontainers: [{image: *a}, {<<: {image: pay}}]\n",
		"kind: Kustomization\nimages:\n- name: pay\n- name: pay\n  newTag: v1\n", "images: [{name: shop/pay, newName: pay, digest: }]",
		"image:\n  repository: pay\n  tag:\n---\nimage: {registry: a.b, repository: shop/pay, digest: ''}\n", "x: |\n  containers:\n  - image: pay\n",
		"containers:\n- image: pay\u0085- image: pay\u2028", "kustomize: {images: [pay, a=pay, \"pay=x\"]}", "helm:\n  parameters:\n  - {name: repository, value: pay}\n  - {name: tag, value: ''}\n",
		"apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nspec: {images: [{name: pay}]}", "? containers\n: - ? image\n    : pay\n", "image: shop/pay:v1\nwebImage: 'a.b/shop/pay' # x\n", "xImage: &t v1\nimage: {repository: pay, tag: *t}\n",
		"baseImage: &i pay:v1\ncontainers: [{image: *i}]\njob: {image: *i}\n", "helm: {parameters: [{name: image, value: 'pay:v1'}, {name: a.image, value: pay@sha256:0}]}\n",
		"containers: [{image: !!str &x \"pay\"}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		out, replaced, err := kube.ReplaceImage(file, image)
		if err != nil {
			return
		}
		if replaced == 0 {
			require.Equal(t, string(file), string(out))
		}
		before, err := documents(file)
		require.NoError(t, err)
		after, err := documents(out)
		require.NoError(t, err, "%q", out)
		require.Len(t, after, len(before))
		for i := range before {
			sameBut(t, before[i], after[i])
		}
		again, count, err := kube.ReplaceImage(out, image)
		require.NoError(t, err)
		require.Equal(t, replaced, count)
		require.Equal(t, string(out), string(again))
		onlyEditedLinesDiffer(t, file, out)
	})
}

func documents(file []byte) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(file))
	for nodes := []*yaml.Node(nil); ; {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, &node)
	}
}

// isOurs reports whether a value can be one that was set.
func isOurs(node *yaml.Node) bool {
	return strings.Contains(node.Value, digest) || node.Value == "git.example.org/shop/pay" || node.Value == "git.example.org" || node.Value == "shop/pay"
}

// sameBut compares two trees, but for values that were set and pairs that were added.
func sameBut(t *testing.T, before, after *yaml.Node) {
	if before.Kind == yaml.ScalarNode && after.Kind == yaml.ScalarNode && isOurs(after) {
		return
	}
	require.Equal(t, before.Kind, after.Kind)
	require.Equal(t, before.Value, after.Value)
	require.Equal(t, before.Anchor, after.Anchor)
	if after.Kind != yaml.MappingNode {
		require.Len(t, after.Content, len(before.Content))
		for i := range after.Content {
			sameBut(t, before.Content[i], after.Content[i])
		}
		return
	}
	i := 0
	for j := 0; j < len(after.Content); j += 2 {
		key, value := after.Content[j], after.Content[j+1]
		if i >= len(before.Content) || key.Value != before.Content[i].Value {
			require.True(t, isOurs(value), "the value of %q", key.Value)
			if key.Value == "digest" && i < len(before.Content) && before.Content[i].Value == "newTag" {
				i += 2
				continue
			}
			require.Contains(t, []string{"newName", "digest"}, key.Value)
			continue
		}
		sameBut(t, before.Content[i], key)
		sameBut(t, before.Content[i+1], value)
		i += 2
	}
	require.Len(t, before.Content, i)
}

// onlyEditedLinesDiffer checks that each line that holds nothing of the image stands in the file as it did.
func onlyEditedLinesDiffer(t *testing.T, file, out []byte) {
	rest := string(file)
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "sha256:") || strings.Contains(line, "git.example.org") {
			continue
		}
		_, after, found := strings.Cut(rest, strings.TrimSuffix(line, "\n")) // a last line gets an end when one is put after it
		require.True(t, found, "%q is not in %q", line, file)
		rest = after
	}
}
