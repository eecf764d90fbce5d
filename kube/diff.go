package kube

import (
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Diff returns what applying changes, or would change in a dry run, as a unified diff of YAML with three lines around each
// change; it is empty where nothing does, and for what is created, whose manifest says it all. What controllers write is left
// out: the status, and the metadata that only the server sets. The values of Secrets are masked.
func (c Change) Diff() string {
	if c.Action != Configured || c.Before == nil || c.After == nil {
		return ""
	}
	before, after := shown(c.Before), shown(c.After)
	if c.Object.GroupVersionKind().GroupKind() == (schema.GroupKind{Kind: "Secret"}) {
		maskSecrets(before, after)
	}
	name := c.Object.String()
	if namespace := c.After.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	text := diff.Diff("live/"+name, marshal(before), "declared/"+name, marshal(after))
	// Its first line is a command that nobody has run.
	if line, rest, ok := strings.Cut(string(text), "\n"); ok && strings.HasPrefix(line, "diff ") {
		return rest
	}
	return string(text)
}

// shown is what a reader has declared, or could have.
func shown(u *unstructured.Unstructured) map[string]any {
	content := u.DeepCopy().Object
	delete(content, "status")
	metadata, _ := content["metadata"].(map[string]any)
	for _, field := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"} {
		delete(metadata, field)
	}
	return content
}

// maskSecrets puts asterisks in the place of a Secret's values. Two that differ still do.
func maskSecrets(before, after map[string]any) {
	for _, field := range []string{"data", "stringData"} {
		was, _ := before[field].(map[string]any)
		is, _ := after[field].(map[string]any)
		for name, value := range was {
			if other, ok := is[name]; ok && other == value {
				was[name], is[name] = "***", "***"
				continue
			}
			was[name] = "*** (before)"
			if _, ok := is[name]; ok {
				is[name] = "*** (after)"
			}
		}
		for name := range is {
			if _, ok := was[name]; !ok {
				is[name] = "***"
			}
		}
	}
	// kubectl apply leaves the whole manifest in an annotation.
	for _, content := range []map[string]any{before, after} {
		metadata, _ := content["metadata"].(map[string]any)
		annotations, _ := metadata["annotations"].(map[string]any)
		if _, ok := annotations[lastApplied]; ok {
			annotations[lastApplied] = "***"
		}
	}
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func marshal(content map[string]any) []byte {
	text, err := yaml.Marshal(content)
	if err != nil {
		return fmt.Appendf(nil, "%v\n", err) // no object of a server is like that
	}
	return text
}
