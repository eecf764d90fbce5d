package kube_test

import (
	"bytes"
	"fmt"
	"io"

	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

func TestLoadEdges(t *testing.T) {
	one, other := fmt.Sprintf(configMap, "a"), fmt.Sprintf(configMap, "b")
	tests := []struct {
		name, content string
		want          []string // line, document, JSON
	}{
		{"separator in a block scalar", one + "data:\n  a: |\n    x\n    ---\n    y\n---\n" + other,
			[]string{`1 1 {"apiVersion":"v1","data":{"a":"x\n---\ny\n"},"kind":"ConfigMap","metadata":{"name":"a"}}`,
				`10 2 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`}},
		{"separators with more behind them", "--- # first\n" + one + "--- {apiVersion: v1, kind: X, metadata: {name: x}}\n---  \n" + other,
			[]string{`2 1 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, `5 2 {"apiVersion":"v1","kind":"X","metadata":{"name":"x"}}`,
				`7 3 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`}},
		{"only comments between", one + "---\n# one\n\n# two\n---\n" + other,
			[]string{`1 1 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, `9 3 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`}},
		{"joined files with byte order marks", "\ufeff" + one + "---\n\ufeff" + other,
			[]string{`1 1 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, `5 2 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`}},
		{"end of a document", one + "...\n---\n" + other,
			[]string{`1 1 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, `6 2 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`}},
		{"tab behind a key", one + "data:\n  a:\tb\n", []string{`1 1 {"apiVersion":"v1","data":{"a":"b"},"kind":"ConfigMap","metadata":{"name":"a"}}`}},
		{"template in a string", one + "data:\n  alert: '{{ $labels.job }} is down'\n",
			[]string{`1 1 {"apiVersion":"v1","data":{"alert":"{{ $labels.job }} is down"},"kind":"ConfigMap","metadata":{"name":"a"}}`}},
		{"Windows line ends in a block scalar", strings.ReplaceAll(one+"data:\n  a: |\n    x\n    y\n", "\n", "\r\n"),
			[]string{`1 1 {"apiVersion":"v1","data":{"a":"x\ny\n"},"kind":"ConfigMap","metadata":{"name":"a"}}`}},
		{"anchor of a whole block", one + "one: &x\n  k: [1]\ntwo: *x\n",
			[]string{`1 1 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"one":{"k":[1]},"two":{"k":[1]}}`}},
		{"JSON in a YAML file", "\ufeff\n" + `{"apiVersion":"v1","kind":"X","metadata":{"name":"a\/b"},"x":"\ud83d\ude00"}` + "\n" + `{"apiVersion":"v1","kind":"X","metadata":{"name":"c"}}`,
			[]string{`2 1 {"apiVersion":"v1","kind":"X","metadata":{"name":"a/b"},"x":"😀"}`, `3 2 {"apiVersion":"v1","kind":"X","metadata":{"name":"c"}}`}},
		{"braces that are no JSON", "{apiVersion: v1, kind: X, metadata: {name: a}}\n---\n" + other,
			[]string{`1 1 {"apiVersion":"v1","kind":"X","metadata":{"name":"a"}}`, `3 2 {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, o := range load(t, tt.content) {
				data, err := o.MarshalJSON()
				require.NoError(t, err)
				got = append(got, strings.TrimSpace(fmt.Sprintf("%d %d %s", o.Source.Line, o.Source.Document, data)))
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

// Charts hold templates, which are no YAML in many ways; each has to be told as one.
func TestLoadTemplates(t *testing.T) {
	one := fmt.Sprintf(configMap, "a")
	tests := []struct{ name, content, place, want string }{
		{"if in front", "{{- if .Values.x }}\n" + one + "{{- end }}\n", ":2: document 1: ", "render the file first if the {{ in line 1 makes it a template"},
		{"if behind another document", one + "---\n{{- if .Values.x }}\n" + one + "{{ end }}\n", ":6: document 2: ", "the {{ in line 5"},
		{"range", one + "data:\n  {{- range .x }}\n  a: b\n  {{- end }}\n", ":6: document 1: ", "the {{ in line 5"},
		{"value", one + "data:\n  a: {{ .Values.a }}\n", ":5: document 1: ", "render the file first if it is a template"},
		{"value with more behind it", one + "data:\n  a: {{ .Values.a }}-x\n  b: c\n", ":6: document 1: ", "the {{ in line 5"},
		{"include", one + "data:\n{{ include \"labels\" . | indent 2 }}\n  b: c\n", ":6: document 1: ", "the {{ in line 5"},
		{"comment", "{{/* c */}}\n" + one, ":1: document 1: ", "render the file first if it is a template"},
		{"name in quotes", "apiVersion: v1\nkind: X\nmetadata:\n  name: '{{ .Release.Name }}'\n", ":1: document 1: ", "the name of X is a template; render the file first"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(folder(t, map[string]string{"a.yaml": tt.content}), "a.yaml")
			_, err := kube.Load(path)
			require.ErrorContains(t, err, path+tt.place)
			require.ErrorContains(t, err, tt.want)
		})
	}
	path := filepath.Join(folder(t, map[string]string{"a.yaml": "alert: '{{ x }}'\n---\na: [\n"}), "a.yaml")
	_, err := kube.Load(path)
	require.ErrorContains(t, err, path)
	assert.NotContains(t, err.Error(), "template", "braces of another document are none of its business")
}

func TestLoadHugeFiles(t *testing.T) {
	one := fmt.Sprintf(configMap, "a")
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "---\n"+configMap+"data: {a: b}\n", fmt.Sprint("n", i))
	}
	tests := []struct {
		name, file, content string
		want                int
	}{
		{"many documents", "a.yaml", many.String(), 5000},
		{"long line", "a.yaml", one + "data: {a: \"" + strings.Repeat("0123456789 ", 1<<17) + "\"}\n", 1},
		{"long block", "a.yaml", one + "data:\n  a: |\n" + strings.Repeat("    0123456789\n", 1<<17), 1},
		{"long line of JSON", "a.json", `{"apiVersion":"v1","kind":"X","metadata":{"name":"a"},"x":[` + strings.Repeat(`"0123456789",`, 1<<17) + `1]}`, 1},
		{"comments", "a.yaml", one + strings.Repeat("# comment\n", 1<<17), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects, err := kube.Load(folder(t, map[string]string{tt.file: tt.content}))
			require.NoError(t, err)
			assert.Len(t, objects, tt.want)
		})
	}
}

// To search the rest of a long line anew for each part of it takes half a minute here, not milliseconds.
func TestLongLinesAreReadOnce(t *testing.T) {
	lines := kube.LineReader(bytes.Repeat([]byte("x"), 16<<20))
	begun := time.Now()
	var all int
	for part := make([]byte, 512); ; {
		n, err := lines.Read(part)
		if all += n; err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	assert.Equal(t, 16<<20, all)
	assert.Less(t, time.Since(begun), 30*time.Second)
}
