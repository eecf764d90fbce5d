package kube_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/grimoire-build/grimoire/kube"
)

// fuzzTime is what one file may take, of some ten kilobytes and on a busy machine.
const fuzzTime = 20 * time.Second

// FuzzReplaceImageInLayouts begins at the files of the layouts: each in both kinds of line ends, with and without the last one.
func FuzzReplaceImageInLayouts(f *testing.F) {
	fixtures, err := filepath.Glob("testdata/gitops/*.txtar")
	require.NoError(f, err)
	for _, fixture := range fixtures {
		for _, file := range readLayout(f, fixture).files {
			f.Add([]byte(file))
			f.Add([]byte(strings.TrimSuffix(strings.ReplaceAll(file, "\n", "\r\n"), "\r\n")))
		}
	}
	for _, seed := range []string{
		"helm: {values: \"image: {repository: pay, tag: v1}\"}", "helm:\n  values: |\n\n   \timage: {repository: pay, tag: v1}\n", "helm:\n  values: >-\n    image: {repository: pay, tag: v1}\n",
		"helm:\n  values: |2\n     image: {repository: pay, tag: v1}\n", "helm:\n  values: &v |\n    image: {repository: pay, tag: v1}\nkustomize:\n  helm: {values: *v}\n",
		"helm: {values: |\n   image: {repository: pay, tag: v1}\n", "helm:\n  values: |+\n    containers:\n    - image: pay\u2028\n\n\n", "helm:\n- values: |\n    image:\n        repository: pay\n        tag:\n",
		"helm:\n  values: |\n    helm:\n      values: |\n        image: {repository: pay, tag: v1}\n", "helm:\n  values: |\n    image: shop/pay:v1\n    jobImage: \"a.b/shop/pay@sha256:0\" # x\n",
		"kustomize:\n  images:\n  - name: pay\n  - {name: pay, newTag: x}\n  - a=pay\n  - =pay\n  - pay=\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		start := time.Now()
		out, replaced, err := kube.ReplaceImage(file, image)
		require.Less(t, time.Since(start), fuzzTime)
		if err != nil {
			require.Nil(t, out)
			notByTheNet(t, err, file)
			return
		}
		if replaced == 0 {
			require.Equal(t, string(file), string(out))
			return
		}
		after, err := documents(out)
		require.NoError(t, err, "%q", out)
		before, err := documents(file)
		require.NoError(t, err)
		require.Len(t, after, len(before))
		again, count, err := kube.ReplaceImage(out, image)
		require.NoError(t, err)
		require.Equal(t, replaced, count)
		require.Equal(t, string(out), string(again), "a second time changes nothing")
		onlyEditedLinesDiffer(t, file, out)
		linesStay(t, file, out, replaced)
	})
}

// notByTheNet checks that what cannot be edited was refused for a reason, and not found out when the edited file was read again.
func notByTheNet(t *testing.T, err error, file []byte) {
	require.NotContains(t, err.Error(), "could not be edited in place", "%q", file)
}

// linesStay checks that no line is gone but those that were edited, of which a place has three at most: a registry, a repository and a tag.
func linesStay(t *testing.T, file, out []byte, replaced int) {
	count := func(text []byte) map[string]int {
		lines := make(map[string]int)
		for line := range bytes.Lines(text) {
			lines[strings.TrimRight(string(line), "\r\n")]++
		}
		return lines
	}
	was, is := count(file), count(out)
	gone := 0
	for line, n := range was {
		gone += max(n-is[line], 0)
	}
	require.LessOrEqual(t, gone, 3*replaced, "%q became %q", file, out)
}

// FuzzHelmValues writes values in each of the styles of YAML, and reads what becomes of them with a parser.
func FuzzHelmValues(f *testing.F) {
	// The bits of the style: two each for the quotes of the repository, registry, tag and digest, then order, flow, indentation, line ends, mark.
	f.Add("pay", "v1", "", "", "the service", uint16(0))
	f.Add("shop/pay", "1.10", "", "old.example.org", "", uint16(1|2<<2|1<<4))
	f.Add("shop/pay", "1.10", "sha256:0", "", "", uint16(2|1<<4|1<<6|1<<9))
	f.Add("old.example.org:5000/shop/pay", "", "x", "", "a: b # c", uint16(1<<8|3<<10|1<<13))
	f.Add("old.example.org/shop/pay", "~", "", "", "ü", uint16(1<<9|1<<14))
	f.Add("shop/pay", "", "", "localhost", "", uint16(2<<4|7<<10|1<<13|1<<14))
	f.Fuzz(func(t *testing.T, repository, tag, digestBefore, registry, comment string, style uint16) {
		if !kube.MatchImage(strings.TrimPrefix(registry+"/"+repository, "/"), image) || strings.ContainsAny(strings.ReplaceAll(repository, ":5000/", "/"), "@:\\'\"") {
			return
		}
		file, ok := valuesFile(repository, tag, digestBefore, registry, comment, style)
		if !ok {
			return
		}
		var before, after map[string]any
		if yaml.Unmarshal(file, &before) != nil {
			return // the style does not suit the value
		}
		out, replaced, err := kube.ReplaceImage(file, image)
		require.NoError(t, err, "%q", file)
		require.NoError(t, yaml.Unmarshal(out, &after), "%q", out)
		was, _ := before["image"].(map[string]any)
		is, _ := after["image"].(map[string]any)
		if replaced == 0 {
			require.Equal(t, string(file), string(out))
			return
		}
		require.Equal(t, 1, replaced)
		name := is["repository"]
		if host, _ := is["registry"].(string); host != "" {
			name = fmt.Sprint(host, "/", name)
		}
		require.Equal(t, "git.example.org/shop/pay", name, "%q", out)
		if _, hasDigest := was["digest"]; hasDigest {
			require.Equal(t, digest, is["digest"], "%q", out)
			require.Equal(t, was["tag"], is["tag"], "the digest is enough")
		} else {
			require.Equal(t, strings.TrimPrefix(digest, "sha256:")[:12]+"@"+digest, is["tag"], "%q", out)
		}
		delete(before, "image")
		delete(after, "image")
		require.Equal(t, before, after, "the rest")
		require.Len(t, is, len(was))
		linesStay(t, file, out, 1)
	})
}

// valuesFile writes values in the styles that the bits of style choose; not ok where a value cannot be written in its style.
func valuesFile(repository, tag, digestBefore, registry, comment string, style uint16) (file []byte, ok bool) {
	bit := func(n int) bool { return style&(1<<n) != 0 }
	ok = !strings.ContainsAny(comment, "\r\n\x00\u0085\u2028\u2029")
	scalar := func(value string, quotes uint16) string {
		switch quotes & 3 {
		case 1:
			ok = ok && !strings.ContainsAny(value, "\"\\\r\n\u0085\u2028\u2029")
			return `"` + value + `"`
		case 2:
			ok = ok && !strings.ContainsAny(value, "'\r\n\u0085\u2028\u2029")
			return "'" + value + "'"
		default:
			plain := strings.ReplaceAll(value, ":5000/", "/")
			ok = ok && !strings.ContainsAny(plain, "\r\n\u0085\u2028\u2029#:{}[],&*!|>%@`?'\"")
			return value
		}
	}
	pairs := []string{"repository: " + scalar(repository, style)}
	if registry != "" {
		pairs = append(pairs, "registry: "+scalar(registry, style>>2))
	}
	pairs = append(pairs, "tag: "+scalar(tag, style>>4))
	if digestBefore != "" {
		pairs = append(pairs, "digest: "+scalar(digestBefore, style>>6))
	}
	if bit(8) {
		pairs[0], pairs[len(pairs)-1] = pairs[len(pairs)-1], pairs[0]
	}
	var text strings.Builder
	text.WriteString("replicas: 2 # " + comment + "\n")
	if bit(9) {
		text.WriteString("image: {" + strings.Join(pairs, ", ") + "} # " + comment + "\n")
	} else {
		indent := strings.Repeat(" ", 1+int(style>>10&7))
		text.WriteString("image:\n")
		for _, pair := range pairs {
			text.WriteString(indent + pair + " # " + comment + "\n")
		}
	}
	text.WriteString("env:\n- name: x\n  value: \"image: {repository: pay, tag: v1}\"\n")
	result := text.String()
	if bit(13) {
		result = strings.ReplaceAll(result, "\n", "\r\n")
	}
	if bit(14) {
		result = "\ufeff" + result
	}
	return []byte(result), ok
}

// FuzzValuesAsText puts values into an Application as one text: that must come to the same as editing them by themselves.
func FuzzValuesAsText(f *testing.F) {
	for _, seed := range []string{"image: {repository: pay, tag: v1}\n", "\n\n# x\nimage:\n    repository: pay # y\n    digest: ''\n\n\nz: 1", "a:\r\n  containers:\r\n  - image: 'pay'\r\n",
		" image: {repository: pay, tag: v1}\n", "ü: |\n  x\nimage: {repository: pay, tag: \"\"}\n", "image: {repository: pay, tag: }\n\t\n", "\r...",
		"image: shop/pay:v1 # x\nworker:\n  jobImage: 'a.b/shop/pay:v1'\n", "apiVersion: v1\nkind: X\nmetadata: {image: pay:v1}\nspec: {image: pay:v1}\n"} {
		f.Add(seed, uint8(2), true)
		f.Add(seed, uint8(7), false)
	}
	f.Fuzz(func(t *testing.T, values string, indent uint8, last bool) {
		margin := strings.Repeat(" ", 3+int(indent%9))
		lines := strings.SplitAfter(values, "\n")
		for i, line := range lines {
			if strings.TrimRight(line, "\r\n") != "" {
				lines[i] = margin + line
			}
		}
		file := fmt.Sprintf("helm:\n  values: |%d\n%s", 1+int(indent%9), strings.Join(lines, ""))
		if !last {
			file += "\n  releaseName: x\n"
		}
		type application struct {
			Helm struct{ Values, ReleaseName string }
		}
		var before, after application
		if nodes, err := documents([]byte(file)); err != nil || len(nodes) != 1 || yaml.Unmarshal([]byte(file), &before) != nil {
			return // the margin does not hold it together
		}
		out, replaced, err := kube.ReplaceImage([]byte(file), image)
		alone, count, aloneErr := kube.ReplaceImage([]byte(before.Helm.Values), image)
		if err != nil {
			notByTheNet(t, err, []byte(file))
			require.Error(t, aloneErr, "%q: %v", file, err)
			return
		}
		require.NoError(t, yaml.Unmarshal(out, &after), "%q", out)
		require.Equal(t, before.Helm.ReleaseName, after.Helm.ReleaseName)
		if aloneErr != nil || count != replaced { // by itself, a text in the text and a kustomization's images count too
			return
		}
		require.Equal(t, string(alone), after.Helm.Values, "%q became %q", file, out)
	})
}
