package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Load reads the objects of YAML and JSON manifests. A path is a file of any name, or a folder, of which every *.yaml, *.yml
// and *.json is read, in the order of their names; folders in it are read too, and what begins with a dot is left alone. A
// file holds any number of documents; empty ones are skipped, and the items of lists become objects of their own.
//
// The values are those that kubectl would read: yes, no, on and off are booleans too, for example. What kubectl would only
// warn of, or leave to the last one in the file, is refused: a key or an object that occurs twice, a value that JSON does
// not have. An error about a file's content begins with "file:line: document N: ". It is an error when there is no object at
// all.
func Load(paths ...string) ([]*Object, error) { return Loader{}.Load(context.Background(), paths...) }

// Loader is Load with what renders kustomize folders.
type Loader struct {
	// Kustomize renders a folder that has a kustomization.yaml, kustomization.yml or Kustomization, as `kustomize build` does, to a stream
	// of documents. Such a folder is rendered as a whole; one in a plain folder is an error, since base and overlays would all be
	// applied. Default: kustomize folders are refused.
	Kustomize func(ctx context.Context, dir string) ([]byte, error)
}

// Load is like the function Load. An error about what was rendered names the kustomization and the document of the output.
func (l Loader) Load(ctx context.Context, paths ...string) ([]*Object, error) {
	if len(paths) == 0 {
		return nil, errors.New("no manifests are named; name their files or folders")
	}
	var objects []*Object
	loaded := make(map[string]bool)
	for _, path := range paths {
		path = filepath.Clean(path)
		if kustomization := kustomizationIn(path); kustomization != "" {
			if l.Kustomize == nil {
				return nil, fmt.Errorf("reading %s: %w", kustomization, errKustomize)
			}
			if loaded[kustomization] {
				continue
			}
			loaded[kustomization] = true
			found, err := l.render(ctx, path, kustomization)
			if err != nil {
				return nil, err
			}
			objects = append(objects, found...)
			continue
		}
		files, err := manifestFiles(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if loaded[file] {
				continue // a folder and a file in it
			}
			loaded[file] = true
			found, err := loadFile(file)
			if err != nil {
				return nil, err
			}
			objects = append(objects, found...)
		}
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("no objects in %s; write at least one manifest there", strings.Join(paths, ", "))
	}
	return objects, refuseDuplicates(objects)
}

// kustomizationIn returns the kustomization of a folder; empty where there is none.
func kustomizationIn(dir string) string {
	for _, name := range kustomizations {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file
		}
	}
	return ""
}

// kustomizeFolders are the kustomize folders below a folder.
func kustomizeFolders(dir string) (found []string) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && kustomizationIn(path) != "" {
			found = append(found, path)
		}
		return nil // what cannot be read is not listed
	})
	return found
}

// render reads what a kustomize folder renders to.
func (l Loader) render(ctx context.Context, dir, kustomization string) ([]*Object, error) {
	rendered, err := l.Kustomize(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", kustomization, err)
	}
	objects, err := parse(kustomization+" (rendered)", rendered)
	if err != nil {
		return nil, err
	}
	return objects, nil
}

// manifestFiles returns the cleaned path of a file, or of the manifests in a folder.
func manifestFiles(path string) ([]string, error) {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading %s: %w; write the manifests there, or name where they are", path, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("reading the manifests: %w", err)
	case !info.IsDir():
		return []string{path}, nil
	}
	files, err := folderFiles(path)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("reading %s: no *.yaml, *.yml or *.json is in this folder; write the manifests there, or name where "+
			"they are", path)
	}
	return files, err
}

func folderFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the manifests: %w", err)
	}
	var files []string
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case strings.HasPrefix(entry.Name(), "."):
		case entry.IsDir():
			if kustomizationIn(path) != "" {
				return nil, fmt.Errorf("reading %s: kustomize folders are below it, and a base and its overlays would all be applied; name the one "+
					"that is meant: %s", dir, strings.Join(kustomizeFolders(dir), ", "))
			}
			below, err := folderFiles(path)
			if err != nil {
				return nil, err
			}
			files = append(files, below...)
		case isManifest(entry.Name()):
			files = append(files, path)
		case entry.Type()&fs.ModeSymlink != 0:
			// Following it could go round in circles; passing over it would leave manifests out without a word.
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				return nil, fmt.Errorf("reading %s: it is a link to a folder; name that folder beside %s", path, dir)
			}
		}
	}
	return files, nil
}

// errKustomize refuses what only kustomize can read.
var errKustomize = errors.New("nothing renders kustomize folders here; give what `kustomize build` prints")

// kustomizations are the names that kustomize knows, in its order.
var kustomizations = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

func isManifest(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

func loadFile(path string) ([]*Object, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the manifests: %w", err)
	}
	return parse(path, data)
}

// parse reads the objects of one file.
func parse(path string, data []byte) ([]*Object, error) {
	parseDocuments := yamlDocuments
	if filepath.Ext(path) == ".json" || isJSON(data) {
		parseDocuments = jsonDocuments
	}
	var objects []*Object
	err := parseDocuments(path, data, func(source Source, root *yaml.Node) error {
		if isNull(root) {
			return nil
		}
		found, err := documentObjects(source.at(root.Line), root)
		objects = append(objects, found...)
		return err
	})
	return objects, err
}

// isJSON reports whether a file of any name is JSON throughout. kubectl reads such a file as JSON, which has escapes that YAML has
// not.
func isJSON(data []byte) bool {
	if trimmed := bytes.TrimLeft(data, "\ufeff \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return false
	}
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	for {
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// documentObjects returns the object, or the objects of the list, that a document holds.
func documentObjects(source Source, root *yaml.Node) ([]*Object, error) {
	if root.Kind != yaml.MappingNode {
		return nil, source.errorf("it holds %s, which is no Kubernetes object; write apiVersion, kind and metadata", describe(root))
	}
	c := &converter{source: source}
	value, err := c.value(root)
	if err != nil {
		return nil, err
	}
	return expand(source, root, value)
}

// expand checks one value and takes lists apart. node is what the value was made of, for its lines.
func expand(source Source, node *yaml.Node, value any) ([]*Object, error) {
	content, ok := value.(map[string]any)
	if !ok {
		return nil, source.errorf("an item of the list is no object; write apiVersion, kind and metadata")
	}
	for _, field := range []string{"apiVersion", "kind"} {
		if text, _ := content[field].(string); text == "" {
			return nil, source.errorf("there is no %s; add it, Kubernetes objects need one", field)
		}
	}
	u := &unstructured.Unstructured{Object: content}
	if strings.HasPrefix(u.GetAPIVersion(), "kustomize.config.k8s.io/") {
		return nil, source.errorf("it is a kustomization, which is rendered where its folder is named as a whole; name the folder")
	}
	if items, ok := content["items"].([]any); ok && strings.HasSuffix(u.GetKind(), "List") {
		return expandItems(source, node, items)
	}
	metadata, ok := content["metadata"].(map[string]any)
	if !ok {
		return nil, source.errorf("%s has no metadata; add it with at least a name", u.GetKind())
	}
	if name, _ := metadata["name"].(string); name == "" {
		if _, ok := metadata["generateName"]; ok {
			return nil, source.errorf("%s has a generateName, so that it would be another one at each deploy; give it a name",
				u.GetKind())
		}
		return nil, source.errorf("%s has no metadata.name that is a string; add one, in quotes where it looks like a number",
			u.GetKind())
	}
	if strings.Contains(u.GetName(), "{{") {
		return nil, source.errorf("the name of %s is a template; render the file first", u.GetKind())
	}
	if namespace, ok := metadata["namespace"]; ok {
		if _, ok := namespace.(string); !ok {
			return nil, source.errorf("metadata.namespace of %s is not a string; put it in quotes, or remove it", u.GetKind())
		}
	}
	for _, field := range []string{"labels", "annotations"} {
		if err := checkTexts(source, node, field, metadata[field]); err != nil {
			return nil, err
		}
	}
	return []*Object{{Unstructured: u, Source: source}}, nil
}

// checkTexts refuses labels and annotations that are no texts. The server does too, and whoever reads them from an object with one that
// is none sees none at all.
func checkTexts(source Source, object *yaml.Node, field string, value any) error {
	if value == nil {
		return nil
	}
	within := orNull(lookUp(orNull(lookUp(object, "metadata").value), field).value)
	texts, ok := value.(map[string]any)
	if !ok {
		return source.at(within.Line).errorf("metadata.%s is %s; write a mapping of names to texts", field, describe(within))
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if _, ok := texts[name].(string); !ok {
			return source.at(orNull(lookUp(within, name).value).Line).errorf("%s in metadata.%s is no text; put its value in quotes", name, field)
		}
	}
	return nil
}

func expandItems(source Source, list *yaml.Node, items []any) ([]*Object, error) {
	nodes := listItems(list)
	var objects []*Object
	for i, item := range items {
		node, at := &yaml.Node{}, source
		if len(nodes) == len(items) {
			node, at = resolve(nodes[i]), source.at(nodes[i].Line)
		}
		found, err := expand(at, node, item)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// listItems returns the nodes under "items", none where they came in by a merge key.
func listItems(list *yaml.Node) []*yaml.Node {
	for i := 0; i+1 < len(list.Content); i += 2 {
		if list.Content[i].Value == "items" {
			return resolve(list.Content[i+1]).Content
		}
	}
	return nil
}

// refuseDuplicates refuses an object that is there twice, since only the last one would count.
func refuseDuplicates(objects []*Object) error {
	type identity struct{ group, kind, namespace, name string }
	first := make(map[identity]*Object)
	for _, o := range objects {
		id := identity{o.GroupVersionKind().Group, o.GetKind(), o.GetNamespace(), o.GetName()}
		if other, ok := first[id]; ok {
			return o.Source.errorf("%s is also at %s, and only one of them can be applied; remove one", o, other.Source)
		}
		first[id] = o
	}
	return nil
}
