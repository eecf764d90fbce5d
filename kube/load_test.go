package kube_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/grimoire-build/grimoire/kube"
)

// folder writes files into a temporary folder and returns it.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return dir
}

// load loads the objects of one YAML file.
func load(t testing.TB, content string) []*kube.Object {
	t.Helper()
	objects, err := kube.Load(filepath.Join(folder(t, map[string]string{"a.yaml": content}), "a.yaml"))
	require.NoError(t, err)
	return objects
}

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"

func TestLoadPlaces(t *testing.T) {
	tests := []struct {
		name, file, content string
		want                []string // line, document, object
	}{
		{"one", "a.yaml", "# first\n" + fmt.Sprintf(configMap, "a"), []string{"2 1 ConfigMap/a"}},
		{
			"several with empty ones between", "a.yml",
			"---\n" + fmt.Sprintf(configMap, "a") + "---\n---\n# nothing\n---\n" + fmt.Sprintf(configMap, "b") + "---\n",
			[]string{"2 1 ConfigMap/a", "9 4 ConfigMap/b"},
		},
		{
			"CRLF", "a.yaml", strings.ReplaceAll(fmt.Sprintf(configMap, "a")+"---\n"+fmt.Sprintf(configMap, "b"), "\n", "\r\n"),
			[]string{"1 1 ConfigMap/a", "5 2 ConfigMap/b"},
		},
		{"byte order mark", "a.yaml", "\ufeff" + fmt.Sprintf(configMap, "a"), []string{"1 1 ConfigMap/a"}},
		{
			"list", "a.yaml",
			"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n- apiVersion: v1\n" +
				"  kind: SecretList\n  items:\n  - {apiVersion: v1, kind: Secret, metadata: {name: b}}\n",
			[]string{"4 1 ConfigMap/a", "10 1 Secret/b"},
		},
		{"empty list beside an object", "a.yaml", "apiVersion: v1\nkind: List\nitems: []\n---\n" + fmt.Sprintf(configMap, "a"),
			[]string{"5 2 ConfigMap/a"}},
		{
			"JSON", "a.json",
			"{\n\t\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\",\n\t\"metadata\": {\"name\": \"a\"}}\n\n" +
				`{"apiVersion": "v1", "kind": "List", "items": [` + "\n" + `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b"}}]}`,
			[]string{"1 1 ConfigMap/a", "6 2 Secret/b"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t, map[string]string{tt.file: tt.content})
			objects, err := kube.Load(dir)
			require.NoError(t, err)
			var got []string
			for _, o := range objects {
				assert.Equal(t, filepath.Join(dir, tt.file), o.Source.File)
				got = append(got, fmt.Sprintf("%d %d %s", o.Source.Line, o.Source.Document, o))
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestLoadFolders(t *testing.T) {
	one := func(name string) string { return fmt.Sprintf(configMap, name) }
	dir := folder(t, map[string]string{
		"b.yaml": one("b"), "a.yml": one("a"), "c.json": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`,
		"sub/d.yaml": one("d"), ".hidden/e.yaml": one("e"), ".#f.yaml": "not: [yaml", "README.md": "# no", "values.txt": "no",
	})
	names := func(objects []*kube.Object) string {
		var names []string
		for _, o := range objects {
			names = append(names, o.GetName())
		}
		return strings.Join(names, " ")
	}
	objects, err := kube.Load(dir)
	require.NoError(t, err)
	assert.Equal(t, "a b c d", names(objects))

	objects, err = kube.Load(filepath.Join(dir, "b.yaml"), dir)
	require.NoError(t, err, "a file that is named twice is read once")
	assert.Equal(t, "b a c d", names(objects))

	require.NoError(t, os.Symlink(filepath.Join(dir, "sub", "d.yaml"), filepath.Join(dir, "sub", "z.txt")))
	require.NoError(t, os.Symlink(filepath.Join(dir, "sub"), filepath.Join(dir, "link")))
	_, err = kube.Load(dir)
	require.ErrorContains(t, err, "it is a link to a folder; name that folder")
	objects, err = kube.Load(filepath.Join(dir, "link"))
	require.NoError(t, err)
	assert.Equal(t, "d", names(objects))
}

func TestLoadValues(t *testing.T) {
	objects := load(t, `apiVersion: v1
kind: ConfigMap
metadata: {name: a}
base: &base {x: 1, w: 2}
merged: {<<: *base, w: 3}
list: [*base, {<<: [{z: 1}, *base]}]
values: [1, -1, 0x10, 0644, 1_000, 1.5, 1e3, 99999999999999999999, yes, off, "yes", true, null, ~, 2001-01-01, !!str 5]
keys: {8080: a, true: b}
text: |
  a
  b
`)
	want := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"base":{"x":1,"w":2},"merged":{"x":1,"w":3},
		"list":[{"x":1,"w":2},{"x":1,"w":2,"z":1}],
		"values":[1,-1,16,420,1000,1.5,1000,1e20,true,false,"yes",true,null,null,"2001-01-01","5"],
		"keys":{"8080":"a","true":"b"},"text":"a\nb\n"}`
	got, err := objects[0].MarshalJSON()
	require.NoError(t, err)
	assert.JSONEq(t, want, string(got))

	dir := folder(t, map[string]string{"a.json": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},
		"data":{"emoji":"\ud83d\ude00","n":"1","slash":"\/"},"i":3,"f":1.5,"b":true,"z":null}`})
	objects, err = kube.Load(dir)
	require.NoError(t, err)
	got, err = objects[0].MarshalJSON()
	require.NoError(t, err)
	assert.JSONEq(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"emoji":"😀","n":"1","slash":"/"},
		"i":3,"f":1.5,"b":true,"z":null}`, string(got))
	assert.IsType(t, int64(0), objects[0].Object["i"], "as the API machinery insists on")
}

// What kubectl and the API server read YAML with is the measure.
func TestLoadReadsWhatKubectlReads(t *testing.T) {
	for _, value := range []string{
		"1", "-1", "+1", "0", "0x10", "0644", "08", "0o17", "0b11", "1_000", "1.5", ".5", "1e3", "1.", "1:30", "0x", "12e03",
		"y", "Y", "yes", "n", "NO", "on", "Off", "true", "True", "TRUE", "tRUE", "'yes'", "\"no\"", "null", "~", "", "Null",
		"2001-01-01", "2001-01-01T00:00:00Z", "!!str 5", "!!str yes", "v1.10", "1.10", "=", "<", "9223372036854775807",
		"{y: 1, 8080: 2, off: 3}", "[a, {b: [c]}]", "|\n  a\n  b", ">-\n  a\n  b", "a\n  b",
	} {
		t.Run(value, func(t *testing.T) {
			document := fmt.Sprintf(configMap, "a") + "value: " + value + "\n"
			want, err := yaml.YAMLToJSON([]byte(document))
			require.NoError(t, err)
			got, err := load(t, document)[0].MarshalJSON()
			require.NoError(t, err)
			assert.JSONEq(t, string(want), string(got))
		})
	}
}

func TestLoadErrors(t *testing.T) {
	good := fmt.Sprintf(configMap, "a")
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), c-1)
	}
	tests := []struct {
		name  string
		files map[string]string
		want  string // after the folder
	}{
		{"nothing", nil, ": no *.yaml, *.yml or *.json is in this folder; write the manifests there, or name where they are"},
		{"only empty documents", map[string]string{"a.yaml": "---\n# nothing\n---\n"}, "; write at least one manifest there"},
		{"kustomization", map[string]string{"x/kustomization.yaml": "resources: []"},
			"kustomize folders are below it, and a base and its overlays would all be applied; name the one that is meant: "},
		{"kustomization under another name", map[string]string{"a.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization"},
			"/a.yaml:1: document 1: it is a kustomization, which is rendered where its folder is named as a whole; name the folder"},
		{"bad indentation", map[string]string{"a.yaml": good + "---\n" + good + "data:\n  c: 1\n d: 2\ne: 3\nf: 4\ng: 5\n"},
			"/a.yaml:10: document 2: parsing YAML: did not find expected key"},
		{"open quote", map[string]string{"a.yaml": good + "data: \"x\n\n\n\n"}, "/a.yaml:4: document 1: parsing YAML: found unexpected end of stream"},
		{"tab", map[string]string{"a.yaml": "a:\n\tb: 1\nc: 1\nd: 1\n"}, "/a.yaml:2: document 1: parsing YAML: found"},
		{"template", map[string]string{"a.yaml": good + "data: {{ .Values.data }}\nx: 1\ny: 1\n"}, "/a.yaml:4: document 1: a key is a mapping; write a " +
			"string, or render the file first if it is a template"},
		{"anchor unknown", map[string]string{"a.yaml": good + "data: *nobody\n"}, "unknown anchor 'nobody' referenced"},
		{"duplicate key", map[string]string{"a.yaml": good + "data:\n  a: 1\n  b: 1\n  \"a\": 2\n"},
			"/a.yaml:7: document 1: the key \"a\" is also in line 5; remove one of them"},
		{"duplicate key in JSON", map[string]string{"a.json": "{\"a\": 1,\n\"a\": 2}"}, "/a.json:2: document 1: the key \"a\" is also in line 1"},
		{"duplicate object", map[string]string{"a.yaml": good, "b.yaml": "---\n" + good}, "/b.yaml:2: document 1: ConfigMap/a is also at "},
		{"list as document", map[string]string{"a.yaml": good + "---\n- a\n"}, "/a.yaml:5: document 2: it holds a list, which is no Kubernetes object"},
		{"no apiVersion", map[string]string{"a.yaml": "\n\nkind: X\n"}, "/a.yaml:3: document 1: there is no apiVersion; add it"},
		{"no kind", map[string]string{"a.yaml": "apiVersion: v1\n"}, "there is no kind; add it"},
		{"no metadata", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\n"}, "Pod has no metadata; add it with at least a name"},
		{"number as name", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: 1}\n"}, "in quotes where it looks like a number"},
		{"generateName", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {generateName: x}\n"}, "give it a name"},
		{"namespace no string", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: 1}\n"}, "metadata.namespace of Pod is not a string"},
		{"label no string", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  labels:\n    app: pay\n    version: 2\n"},
			"/a.yaml:7: document 1: version in metadata.labels is no text; put its value in quotes"},
		{"annotation without a value", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  annotations:\n    a:\n"},
			"/a.yaml:6: document 1: a in metadata.annotations is no text"},
		{"labels in a list", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  labels: [a]\n"},
			"/a.yaml:5: document 1: metadata.labels is a list; write a mapping of names to texts"},
		{"label no string, in a list of JSON", map[string]string{"a.json": "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\"metadata\": {\"name\": \"x\", \"labels\": {\n\"v\": true}}}]}"},
			"/a.json:4: document 1: v in metadata.labels is no text"},
		{"item no object", map[string]string{"a.yaml": "apiVersion: v1\nkind: List\nitems:\n- 1\n"}, "/a.yaml:4: document 1: an item of the list is no object"},
		{"infinity", map[string]string{"a.yaml": good + "x: .inf\n"}, "/a.yaml:4: document 1: \".inf\" is no number that JSON has"},
		{"custom tag", map[string]string{"a.yaml": good + "x: !vault secret\n"}, "/a.yaml:4: document 1: the tag !vault is not supported"},
		{"binary", map[string]string{"a.yaml": good + "x: !!binary aGk=\n"}, "the tag !!binary is not supported"},
		{"merge of a scalar", map[string]string{"a.yaml": good + "x: {<<: 1}\n"}, "the merge key << names something that is no mapping"},
		{"deep", map[string]string{"a.yaml": good + "x: " + deep}, "nested more than 1000 levels deep"},
		{"deep JSON", map[string]string{"a.json": strings.Repeat("[", 1<<20)}, "nested more than 1000 levels deep"},
		{"anchor in itself", map[string]string{"a.yaml": good + "x: &x [*x]\n"}, "nested more than 1000 levels deep"},
		{"alias bomb", map[string]string{"a.yaml": good + bomb}, "it stands for more than 1000000 values"},
		{"JSON cut off", map[string]string{"a.json": "{\"a\":\n[1,"}, "/a.json:2: document 1: parsing JSON: unexpected EOF"},
		{"JSON with a comma too many", map[string]string{"a.json": "{\"a\": 1,\n}"}, "document 1: parsing JSON: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := kube.Load(folder(t, tt.files))
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := kube.Load()
	require.EqualError(t, err, "no manifests are named; name their files or folders")
	_, err = kube.Load(filepath.Join(t.TempDir(), "deploy"))
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "write the manifests there, or name where they are")
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(configMap, "a")+"---\n"), false)
	f.Add([]byte("a: &a {<<: *a}"), false)
	f.Add([]byte("apiVersion: v1\nkind: List\nitems:\n- <<: {apiVersion: v1}\n  kind: X\n  metadata: {name: y}\n"), false)
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"a":[1.5e400]}]}`), true)
	f.Add([]byte("x: [!!int 1e3, !!float 1, 0x, 0o17, -.inf, 1:2]"), false)
	f.Fuzz(func(t *testing.T, content []byte, isJSON bool) {
		name := "a.yaml"
		if isJSON {
			name = "a.json"
		}
		path := filepath.Join(folder(t, map[string]string{name: string(content)}), name)
		objects, err := kube.Load(path)
		if err != nil {
			assert.Contains(t, err.Error(), path)
			return
		}
		lines := strings.Count(string(content), "\n") + strings.Count(string(content), "\r") + 1
		for _, o := range objects {
			assert.LessOrEqual(t, 1, o.Source.Line)
			if !strings.ContainsAny(string(content), "\u0085\u2028\u2029") {
				assert.LessOrEqual(t, o.Source.Line, lines)
			}
			_ = o.DeepCopy() // panics on what no unstructured object may hold
			_, err := json.Marshal(o.Object)
			require.NoError(t, err)
			kube.Status(o.Unstructured)
		}
	})
}
