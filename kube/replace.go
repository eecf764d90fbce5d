package kube

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// ReplaceImage sets image ("host/owner/name@sha256:…") wherever a YAML file names an image of the same repository, as
// MatchImage has it, and returns the file and how many places that were. Those that had the image already count too. Nothing
// else changes, not by a byte: comments, quotes, line ends and layout stay.
//
// The places are the images of containers and init containers, wherever these lists are; the entries under "images" of a
// kustomization, also one of Flux, which get the digest in place of newTag, and the newName where their name is not the
// repository's; in Helm values, also those within a HelmRelease of Flux or an Application of Argo CD, a mapping "image" with a repository
// and a digest or a tag; and what an Application gives to kustomize ("images") and to Helm ("parameters", such as image.repository
// and image.tag), and as values in one text. The digest goes into digest, or else into the tag, as "tag@sha256:…" with the beginning of the
// digest for the tag where image has none. A text by itself is an image where its key is image or ends in Image, and it has a host, a tag or
// a digest, so that the name of a picture is none; not in an object's metadata and status. No other text in YAML is looked into, such
// as a patch or the content of a ConfigMap.
//
// It is an error if the file is not YAML, or if a place is written in a way that it cannot be replaced in, on several lines
// for example. No place at all is no error.
func ReplaceImage(file []byte, image string) (out []byte, replaced int, err error) {
	wanted, err := parseImage(image)
	if err != nil {
		return nil, 0, fmt.Errorf("replacing the image: %w", err)
	}
	out, places, err := replaceImage("", file, image, wanted)
	if err != nil {
		return nil, 0, fmt.Errorf("replacing the image: %w", err)
	}
	for _, p := range places {
		if MatchImage(p.image, image) {
			replaced++
		}
	}
	return out, replaced, nil
}

// replaceImage returns the file with the image set, and the images that were in it.
func replaceImage(name string, file []byte, image string, wanted imageName) ([]byte, []imagePlace, error) {
	places, err := imagePlaces(name, file)
	if err != nil {
		return nil, nil, err
	}
	e := newEditor(file)
	for _, p := range places {
		if !MatchImage(p.image, image) {
			continue
		}
		if err := p.set(e, image, wanted); err != nil {
			return nil, nil, p.source.errorf("%w", err)
		}
	}
	if len(e.edits) == 0 {
		return file, places, nil
	}
	out := e.apply()
	if err := check(name, out, image, wanted, places); err != nil {
		return nil, nil, err
	}
	return out, places, nil
}

// check reads the edited file again: every place has to name what it should. Editing bytes must never be trusted blindly.
func check(name string, out []byte, image string, wanted imageName, before []imagePlace) error {
	after, err := imagePlaces(name, out)
	if err != nil || len(after) != len(before) {
		return fmt.Errorf("the file could not be edited in place; write its images plainly, each on one line: %w",
			errors.Join(err, fmt.Errorf("%d images before, %d after", len(before), len(after))))
	}
	for i, p := range after {
		good := p.image == before[i].image
		if MatchImage(before[i].image, image) {
			is := splitImage(p.image)
			good = is.repository() == wanted.repository() && is.digest == wanted.digest
		}
		if !good {
			return before[i].source.errorf("the image %q could not be edited in place; write it plainly, on one line",
				before[i].image)
		}
	}
	return nil
}

// imagePlace is where a file names an image.
type imagePlace struct {
	source Source
	image  string
	set    func(e *editor, image string, wanted imageName) error
}

// imagePlaces finds the images of a file.
func imagePlaces(name string, file []byte) ([]imagePlace, error) {
	f := &placeFinder{}
	err := yamlDocuments(name, file, func(source Source, root *yaml.Node) error {
		f.source = source
		f.kustomization(root)
		if isFlux(root) {
			f.kustomization(orNull(lookUp(root, "spec").value))
		}
		return f.document(root)
	})
	return f.places, err
}

type placeFinder struct {
	source Source
	places []imagePlace
	inText bool                // which a text in it is not looked into again
	parts  map[*yaml.Node]bool // what the places consist of
}

func (f *placeFinder) document(root *yaml.Node) error {
	if err := f.walk(root, 0); err != nil {
		return err
	}
	// Last, since a text may be a part of something that says more.
	f.plainImages(root, lookUp(root, "apiVersion").value != nil)
	return nil
}

// partOf notes of what a place consists.
func (f *placeFinder) partOf(values ...*yaml.Node) {
	if f.parts == nil {
		f.parts = make(map[*yaml.Node]bool)
	}
	for _, value := range values {
		f.parts[value] = true
	}
}

func (f *placeFinder) add(node *yaml.Node, image string, set func(*editor, string, imageName) error) {
	f.partOf(node)
	f.places = append(f.places, imagePlace{source: f.source.at(node.Line), image: image, set: set})
}

// walk looks for containers and Helm values in a node and all below it. It goes by the text: what an alias stands for is seen
// where its anchor is.
func (f *placeFinder) walk(node *yaml.Node, depth int) error {
	if depth > maxDepth {
		return f.source.at(node.Line).errorf("%w", errDepth)
	}
	if node.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], resolve(node.Content[i+1])
			switch key.Value {
			case "containers", "initContainers":
				f.containers(value)
			case "image":
				f.helmImage(value)
			case "kustomize":
				f.argoImages(value)
			case "helm":
				f.argoParameters(value)
				f.argoValues(value)
			}
		}
	}
	for _, below := range node.Content {
		if err := f.walk(below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (f *placeFinder) containers(list *yaml.Node) {
	if list.Kind != yaml.SequenceNode {
		return
	}
	for _, item := range list.Content {
		value := lookUp(resolve(item), "image").value
		if isText(value) {
			f.addText(value)
		}
	}
}

// addText adds a text that is an image.
func (f *placeFinder) addText(value *yaml.Node) {
	f.add(value, value.Value, func(e *editor, image string, _ imageName) error {
		return e.set(value, image)
	})
}

// plainImages finds the texts in a node and all below it that are images by themselves, and that no other place is made of. inObject is
// whether the document is an object of Kubernetes, whose metadata and status name no image to run.
func (f *placeFinder) plainImages(node *yaml.Node, inObject bool) {
	if isConfiguration(node) {
		return
	}
	for i, below := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 1 {
			key := node.Content[i-1].Value
			if inObject && (key == "metadata" || key == "status") {
				continue
			}
			if isImageKey(key) {
				f.plainImage(resolve(below))
			}
		}
		f.plainImages(below, inObject)
	}
}

func (f *placeFinder) plainImage(value *yaml.Node) {
	if !isText(value) || f.parts[value] || !anyImagePattern.MatchString(value.Value) {
		return
	}
	if is := splitImage(value.Value); is.host != "" || is.tag != "" || is.digest != "" {
		f.addText(value)
	}
}

func isImageKey(key string) bool { return key == "image" || strings.HasSuffix(key, "Image") }

// isConfiguration reports whether a node is a ConfigMap or a Secret.
func isConfiguration(node *yaml.Node) bool {
	kind := lookUp(node, "kind").value
	return isText(kind) && (kind.Value == "ConfigMap" || kind.Value == "Secret") && lookUp(node, "apiVersion").value != nil
}

func (f *placeFinder) helmImage(node *yaml.Node) {
	repository, registry := lookUp(node, "repository"), lookUp(node, "registry")
	f.helmValues(repository, registry, lookUp(node, "tag"), lookUp(node, "digest"))
}

// helmValues is an image in its parts.
func (f *placeFinder) helmValues(repository, registry, tag, digest pair) {
	if !isText(repository.value) || !tag.isScalar() && !digest.isScalar() {
		return
	}
	image := repository.value.Value
	hasRegistry := isText(registry.value) && registry.value.Value != ""
	if hasRegistry {
		image = registry.value.Value + "/" + image
	}
	if digest.isScalar() {
		image = withDigest(image, digest.value)
	} else if !isNull(tag.value) && tag.value.Value != "" {
		image += ":" + tag.value.Value
	}
	f.partOf(registry.value, tag.value, digest.value)
	f.add(repository.value, image, func(e *editor, _ string, wanted imageName) error {
		name := wanted.repository()
		if hasRegistry && wanted.host != "" {
			name = wanted.path
			if err := e.set(registry.value, wanted.host); err != nil {
				return err
			}
		}
		if err := e.set(repository.value, name); err != nil {
			return err
		}
		if digest.isScalar() {
			return e.setValue(digest, wanted.digest)
		}
		if wanted.tag == "" {
			wanted.tag = strings.TrimPrefix(wanted.digest, "sha256:")[:12]
		}
		return e.setValue(tag, wanted.tag+"@"+wanted.digest)
	})
}

func withDigest(image string, digest *yaml.Node) string {
	if isNull(digest) || digest.Value == "" {
		return image
	}
	return image + "@" + digest.Value
}

// kustomization finds the images of a kustomization, whose kind may be left out.
func (f *placeFinder) kustomization(root *yaml.Node) {
	images := resolve(orNull(lookUp(root, "images").value))
	if images.Kind != yaml.SequenceNode {
		return
	}
	kind := lookUp(root, "kind").value
	if kind != nil && kind.Value != "Kustomization" && kind.Value != "Component" {
		return
	}
	for _, item := range images.Content {
		f.kustomizeImage(resolve(item), kind != nil)
	}
}

// kustomizeImage finds the image of an entry of kustomize; where it is not certain that it is one, by more than its name.
func (f *placeFinder) kustomizeImage(entry *yaml.Node, certain bool) {
	name, newName := lookUp(entry, "name"), lookUp(entry, "newName")
	newTag, digest := lookUp(entry, "newTag"), lookUp(entry, "digest")
	if !isText(name.value) || !certain && !newName.isScalar() && !newTag.isScalar() && !digest.isScalar() {
		return
	}
	image := name.value.Value
	if isText(newName.value) {
		image = newName.value.Value
	}
	if digest.isScalar() {
		image = withDigest(image, digest.value)
	} else if newTag.isScalar() && !isNull(newTag.value) && newTag.value.Value != "" {
		image += ":" + newTag.value.Value
	}
	f.partOf(name.value, newName.value, newTag.value, digest.value)
	f.add(entry, image, func(e *editor, _ string, wanted imageName) error {
		return setKustomizeImage(e, entry, wanted)
	})
}

// isFlux reports whether a document is a Kustomization of Flux, whose images are below its spec. Source: the type KustomizationSpec of
// kustomize.toolkit.fluxcd.io/v1.
func isFlux(root *yaml.Node) bool {
	kind, version := lookUp(root, "kind").value, lookUp(root, "apiVersion").value
	return isText(kind) && kind.Value == "Kustomization" && isText(version) && strings.HasPrefix(version.Value, "kustomize.toolkit.fluxcd.io/")
}

// argoImages finds the images that an Application of Argo CD, or the template of an ApplicationSet, gives to kustomize: each is
// "[OLD=]NAME[:TAG][@DIGEST]". Source: the type KustomizeImage of argoproj.io/v1alpha1. A HelmRelease of Flux has them in the same
// place, below postRenderers, as a kustomization does. Source: the type Kustomize of helm.toolkit.fluxcd.io/v2.
func (f *placeFinder) argoImages(kustomize *yaml.Node) {
	images := resolve(orNull(lookUp(kustomize, "images").value))
	if images.Kind != yaml.SequenceNode {
		return
	}
	for _, item := range images.Content {
		node := resolve(item)
		if node.Kind == yaml.MappingNode {
			f.kustomizeImage(node, false)
		}
		if !isText(node) {
			continue
		}
		old, image, renamed := strings.Cut(node.Value, "=")
		if !renamed {
			old, image = splitImage(old).repository(), old
		}
		f.add(node, image, func(e *editor, image string, wanted imageName) error {
			if !renamed && old == wanted.repository() {
				return e.set(node, image)
			}
			return e.set(node, old+"="+image)
		})
	}
}

// argoParameters finds the images that an Application of Argo CD gives to Helm one value after the other: the parameters P.repository
// with P.tag or P.digest, and P.registry, of whatever P, and those that are an image by themselves. Source: the type HelmParameter of argoproj.io/v1alpha1.
func (f *placeFinder) argoParameters(helm *yaml.Node) {
	parameters := resolve(orNull(lookUp(helm, "parameters").value))
	if parameters.Kind != yaml.SequenceNode {
		return
	}
	values := make(map[string]pair)
	var repositories []string
	for _, item := range parameters.Content {
		name, value := lookUp(resolve(item), "name"), lookUp(resolve(item), "value")
		if !isText(name.value) || !value.isScalar() {
			continue
		}
		values[name.value.Value] = value
		if last := name.value.Value[strings.LastIndexByte(name.value.Value, '.')+1:]; isImageKey(last) {
			f.plainImage(value.value)
		}
		if prefix, ok := strings.CutSuffix(name.value.Value, "repository"); ok {
			repositories = append(repositories, prefix)
		}
	}
	for _, prefix := range repositories {
		f.helmValues(values[prefix+"repository"], values[prefix+"registry"], values[prefix+"tag"], values[prefix+"digest"])
	}
}

func setKustomizeImage(e *editor, entry *yaml.Node, wanted imageName) error {
	name, newName := lookUp(entry, "name"), lookUp(entry, "newName")
	newTag, digest := lookUp(entry, "newTag"), lookUp(entry, "digest")
	var missing []string
	switch {
	case newName.isScalar():
		if err := e.setValue(newName, wanted.repository()); err != nil {
			return err
		}
	case name.value.Value != wanted.repository():
		missing = append(missing, "newName: "+wanted.repository())
	}
	switch {
	case digest.isScalar():
		if err := e.setValue(digest, wanted.digest); err != nil {
			return err
		}
	case newTag.isScalar():
		if err := errors.Join(e.set(newTag.key, "digest"), e.setValue(newTag, wanted.digest)); err != nil {
			return err
		}
	default:
		missing = append(missing, "digest: "+wanted.digest)
	}
	if len(missing) == 0 {
		return nil
	}
	return e.insertAfter(entry, name, missing)
}

// pair is a key and its value in a mapping; nil where the key is not there.
type pair struct{ key, value *yaml.Node }

func (p pair) isScalar() bool {
	return p.value != nil && p.value.Kind == yaml.ScalarNode
}

// isText reports whether a value is there and can be the name of something.
func isText(value *yaml.Node) bool {
	return value != nil && value.Kind == yaml.ScalarNode && !isNull(value)
}

func orNull(node *yaml.Node) *yaml.Node {
	if node == nil {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	return node
}

// maxMerges is how far merge keys that lead to further merge keys are followed.
const maxMerges = 10

// lookUp returns a key's pair, from what "<<" stands for too, with the value that an alias stands for.
func lookUp(mapping *yaml.Node, name string) pair {
	return lookUpMerged(mapping, name, 0)
}

func lookUpMerged(mapping *yaml.Node, name string, depth int) pair {
	if mapping.Kind != yaml.MappingNode || depth > maxMerges {
		return pair{}
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if key := mapping.Content[i]; key.Kind == yaml.ScalarNode && key.Value == name {
			return pair{key, resolve(mapping.Content[i+1])}
		}
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].ShortTag() != "!!merge" {
			continue
		}
		merged := []*yaml.Node{resolve(mapping.Content[i+1])}
		if merged[0].Kind == yaml.SequenceNode {
			merged = merged[0].Content
		}
		for _, m := range merged {
			if p := lookUpMerged(resolve(m), name, depth+1); p.value != nil {
				return p
			}
		}
	}
	return pair{}
}

// editor collects replacements in a file.
type editor struct {
	file  []byte
	lines []int // where each line begins
	edits map[int]edit
}

type edit struct {
	start, end int
	text       string
}

// errPlain is why a value cannot be replaced.
var errPlain = errors.New("the value is written over several lines or with escapes, so that it cannot be replaced in place; " +
	"write it plainly, on one line")

func newEditor(file []byte) *editor {
	e := &editor{file: file, edits: make(map[int]edit), lines: []int{0}}
	if bytes.HasPrefix(file, []byte("\ufeff")) {
		e.lines[0] = len("\ufeff")
	}
	// The parser counts all the line breaks of YAML 1.1.
	for i := 0; i < len(file); {
		r, size := utf8.DecodeRune(file[i:])
		i += size
		if r == '\r' && i < len(file) && file[i] == '\n' {
			continue
		}
		if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
			e.lines = append(e.lines, i)
		}
	}
	return e
}

// apply returns the file with the edits.
func (e *editor) apply() []byte {
	var out []byte
	done := 0
	edits := make([]edit, 0, len(e.edits))
	for _, edit := range e.edits {
		edits = append(edits, edit)
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	for _, edit := range edits {
		out = append(out, e.file[done:edit.start]...)
		out = append(out, edit.text...)
		done = edit.end
	}
	return append(out, e.file[done:]...)
}

func (e *editor) add(start, end int, text string) error {
	if other, ok := e.edits[start]; ok && other != (edit{start, end, text}) {
		return errors.New("an anchor makes one value stand for two; write it out in both places")
	}
	e.edits[start] = edit{start, end, text}
	return nil
}

// set replaces a scalar and keeps its quotes.
func (e *editor) set(node *yaml.Node, text string) error {
	start, end, quote, err := e.locate(node)
	if err != nil {
		return err
	}
	return e.add(start+quote, end-quote, text)
}

// setValue sets the value of a key, which may be empty.
func (e *editor) setValue(p pair, text string) error {
	if p.value.Value != "" || p.value.Style != 0 {
		return e.set(p.value, text)
	}
	end, err := e.afterColon(p.key)
	if err != nil {
		return err
	}
	return e.add(end, end, " "+text)
}

// afterColon returns where the colon of a key ends.
func (e *editor) afterColon(key *yaml.Node) (int, error) {
	_, end, _, err := e.locate(key)
	if err != nil {
		return 0, err
	}
	for end < len(e.file) && e.file[end] == ' ' {
		end++
	}
	if end == len(e.file) || e.file[end] != ':' {
		return 0, errPlain
	}
	return end + 1, nil
}

// insertAfter adds lines to a mapping, after one of its pairs.
func (e *editor) insertAfter(mapping *yaml.Node, p pair, lines []string) error {
	if p.value.Line != p.key.Line {
		return errPlain
	}
	_, end, _, err := e.locate(p.value)
	if err != nil {
		return err
	}
	if mapping.Style&yaml.FlowStyle != 0 {
		return e.add(end, end, ", "+strings.Join(lines, ", "))
	}
	column := p.key.Column - 1
	indented := strings.Repeat(" ", column) + strings.Join(lines, "\n"+strings.Repeat(" ", column))
	rest, _, found := bytes.Cut(e.file[end:], []byte("\n"))
	if !found {
		return e.add(len(e.file), len(e.file), "\n"+indented)
	}
	lineEnd := "\n"
	if bytes.HasSuffix(rest, []byte("\r")) {
		lineEnd = "\r\n"
	}
	next := end + len(rest) + 1
	return e.add(next, next, strings.ReplaceAll(indented, "\n", lineEnd)+lineEnd)
}

// locate finds a scalar in the file, with its quotes, whose number on each side it returns too. It fails where the text is not
// just the value.
func (e *editor) locate(node *yaml.Node) (start, end, quote int, err error) {
	if node.Line < 1 || node.Line > len(e.lines) {
		return 0, 0, 0, errPlain
	}
	start = e.lines[node.Line-1]
	for column := 1; column < node.Column && start < len(e.file); column++ {
		_, size := utf8.DecodeRune(e.file[start:])
		start += size
	}
	// An anchor and a tag stand before the value.
	for start < len(e.file) && (e.file[start] == '&' || e.file[start] == '!') {
		blank := bytes.IndexAny(e.file[start:], " \r\n")
		if blank < 0 {
			return 0, 0, 0, errPlain
		}
		start += blank
		for start < len(e.file) && e.file[start] == ' ' {
			start++
		}
	}
	text := node.Value
	switch {
	case node.Style&yaml.DoubleQuotedStyle != 0:
		text, quote = `"`+text+`"`, 1
	case node.Style&yaml.SingleQuotedStyle != 0:
		text, quote = `'`+text+`'`, 1
	}
	if text == "" || !bytes.HasPrefix(e.file[start:], []byte(text)) {
		return 0, 0, 0, errPlain
	}
	return start, start + len(text), quote, nil
}
