package kube

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// argoValues finds the images in Helm values that an Application of Argo CD has as one text. Source: the field values of the type
// ApplicationSourceHelm of argoproj.io/v1alpha1. A text that is not YAML, a template of an ApplicationSet for example, has none.
func (f *placeFinder) argoValues(helm *yaml.Node) {
	text := lookUp(helm, "values").value
	if f.inText || !isText(text) {
		return
	}
	inner := &placeFinder{inText: true}
	err := yamlDocuments("", []byte(text.Value), func(source Source, root *yaml.Node) error {
		inner.source = source
		return inner.document(root)
	})
	if err != nil {
		return
	}
	for _, p := range inner.places {
		source := f.source.at(text.Line)
		if text.Style&yaml.LiteralStyle != 0 {
			source = f.source.at(text.Line + p.source.Line)
		}
		f.places = append(f.places, imagePlace{source: source, image: p.image, set: func(e *editor, image string, wanted imageName) error {
			within := newEditor([]byte(text.Value))
			if err := p.set(within, image, wanted); err != nil {
				return err
			}
			return e.addWithin(text, within)
		}})
	}
}

// errText is why a text cannot be edited in place.
var errText = errors.New("the values are one text that is not written as a block with |, so that nothing in it can be replaced in place; write it so, " +
	"or as valuesObject")

// addWithin takes over the edits of a literal text, each line of which stands in the file as it is, but for what it is indented by.
func (e *editor) addWithin(text *yaml.Node, within *editor) error {
	if text.Style&yaml.LiteralStyle == 0 {
		return errText
	}
	for _, edit := range within.edits {
		if strings.ContainsAny(edit.text, "\r\n") {
			return errText
		}
		line, ok := slices.BinarySearch(within.lines, edit.start)
		if !ok {
			line--
		}
		begin := within.lines[line]
		content, _, _ := bytes.Cut(within.file[begin:], []byte("\n"))
		if text.Line+line >= len(e.lines) || edit.end > begin+len(content) {
			return errText
		}
		// The text begins in the line after the one with the |.
		outer := e.lines[text.Line+line]
		for !bytes.HasPrefix(e.file[outer:], content[:edit.end-begin]) {
			if outer == len(e.file) || e.file[outer] != ' ' {
				return errText
			}
			outer++
		}
		if err := e.add(outer+edit.start-begin, outer+edit.end-begin, edit.text); err != nil {
			return err
		}
	}
	return nil
}
