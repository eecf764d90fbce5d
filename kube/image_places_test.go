package kube_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/grimoire-build/grimoire/kube"
)

func TestSetImageWhereverPodsAreMade(t *testing.T) {
	tests := []struct {
		name, object string // from apiVersion on
		want         []string
	}{
		{"pod template", "v1, kind: PodTemplate, metadata: {name: x}, template: {spec: {containers: [{name: c, image: pay}]}}", []string{"c"}},
		{"Knative", "serving.knative.dev/v1, kind: Service, metadata: {name: x}, spec: {template: {spec: {containers: [{image: pay}]}}}", []string{""}},
		{"in a list of groups", "jobset.x-k8s.io/v1alpha2, kind: JobSet, metadata: {name: x}, spec: {replicatedJobs: [{name: a, template: {spec: {template: " +
			"{spec: {containers: [{name: c, image: pay}]}}}}}, {name: b, template: {spec: {template: {spec: {initContainers: [{name: d, image: pay}]}}}}}]}", []string{"c", "d"}},
		{"under another name", "ray.io/v1, kind: RayCluster, metadata: {name: x}, spec: {headGroupSpec: {template: {spec: {containers: [{name: c, image: pay}]}}}}", []string{"c"}},
		{"image volume", "v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: files, image: {reference: shop/pay}}, {name: model, image: {reference: shop/model}}, " +
			"{name: old, image: pay}], containers: [{name: c, image: pay}]}", []string{"c", "volume files"}},
		{"first init containers", "v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: pay}], initContainers: [{name: i, image: pay}]}", []string{"i", "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			replaced, err := kube.SetImage(load(t, "{apiVersion: "+tt.object+"}"), image)
			require.NoError(t, err)
			var got []string
			for _, r := range replaced {
				if r.Volume != "" {
					got = append(got, "volume "+r.Volume)
				} else {
					got = append(got, r.Container)
				}
			}
			assert.Equal(t, tt.want, got)
		})
	}
	for name, object := range map[string]string{
		"ephemeral container": "v1, kind: Pod, metadata: {name: x}, spec: {ephemeralContainers: [{name: c, image: pay}]}",
		"status":              "v1, kind: Node, metadata: {name: x}, status: {containers: [{image: pay}]}",
		"schema":              "v1, kind: X, metadata: {name: x}, spec: {properties: {containers: {items: {image: pay}}}}",
		"annotation":          "v1, kind: X, metadata: {name: x, annotations: {containers: pay}}",
	} {
		t.Run("not in "+name, func(t *testing.T) {
			_, err := kube.SetImage(load(t, "{apiVersion: "+object+"}"), image)
			require.ErrorContains(t, err, "nothing uses an image git.example.org/shop/pay")
		})
	}
}

func FuzzSetImage(f *testing.F) {
	f.Add([]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"pay:1"},{"image":"x/pay"},7,null],"volumes":[{"image":{"reference":"pay"}}]}}}}`))
	f.Add([]byte(`{"spec":{"containers":{"containers":[{"image":"pay","containers":[{"image":"pay"}]}]}},"metadata":{"containers":[{"image":"pay"}]}}`))
	f.Add([]byte(`{"containers":[{"image":5},{"image":null}],"status":{"containers":[{"image":"pay"}]}}`))
	f.Add([]byte(`{"volumes":[{"image":"pay"},{"image":{"reference":["pay"]}}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		var object map[string]any
		if json.Unmarshal(content, &object) != nil || object == nil {
			t.Skip()
		}
		var before map[string]any
		require.NoError(t, json.Unmarshal(content, &before))
		replaced, err := kube.SetImage([]*kube.Object{{Unstructured: &unstructured.Unstructured{Object: object}}}, image)
		if err != nil {
			assert.Equal(t, before, object, "an error changes nothing")
			return
		}
		changed := 0
		compare(t, "", "", before, object, &changed)
		same := 0
		for _, r := range replaced {
			assert.True(t, kube.MatchImage(r.From, image))
			assert.Equal(t, image, r.To)
			if r.From == r.To {
				same++
			}
		}
		assert.Equal(t, len(replaced)-same, changed, "what is told is what has changed")
	})
}

// compare counts the differences, and fails for one that SetImage may not make.
func compare(t *testing.T, path, field string, before, after any, changed *int) {
	switch before := before.(type) {
	case map[string]any:
		after, ok := after.(map[string]any)
		require.True(t, ok && len(after) == len(before), path)
		for name := range before {
			compare(t, path+"/"+name, name, before[name], after[name], changed)
		}
	case []any:
		after, ok := after.([]any)
		require.True(t, ok && len(after) == len(before), path)
		for i := range before {
			compare(t, fmt.Sprintf("%s/%d", path, i), field, before[i], after[i], changed)
		}
	default:
		if before == after {
			return
		}
		*changed++
		require.Contains(t, []string{"image", "reference"}, field, path)
		require.Equal(t, image, after, path)
		from, _ := before.(string)
		require.True(t, kube.MatchImage(from, image), path)
	}
}
