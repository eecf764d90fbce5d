package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits of one document, far above what an API server takes, so that a few lines of YAML cannot use up the memory.
const (
	maxDepth  = 1000
	maxValues = 1_000_000
)

// yamlDocuments calls f with the root node of each document of a YAML stream, empty ones too.
func yamlDocuments(file string, data []byte, f func(Source, *yaml.Node) error) error {
	// Files that were joined keep their marks, which the parser takes for a part of the first key.
	data = bytes.ReplaceAll(data, []byte("\n\ufeff"), []byte("\n"))
	lines := &lineReader{data: data}
	decoder := yaml.NewDecoder(lines)
	for source := (Source{File: file, Document: 1, Line: 1}); ; source.Document++ {
		begun := max(lines.read, 1)
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return yamlError(source.at(begun), lines, err)
		}
		root := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
		if len(document.Content) > 0 {
			root = document.Content[0]
		}
		if err := f(source.at(lines.read), root); err != nil {
			return err
		}
	}
}

// lineReader hands out one line at a time. The parser names the line where what it could not parse begins, which can be the
// first one of the file; how far it had read tells where it stumbled.
type lineReader struct {
	data   []byte
	offset int
	read   int // lines
}

func (r *lineReader) Read(p []byte) (int, error) {
	if r.offset == len(r.data) {
		return 0, io.EOF
	}
	// No more than fits is searched, since a line may be of any length.
	part := r.data[r.offset:min(r.offset+len(p), len(r.data))]
	if end := bytes.IndexByte(part, '\n'); end >= 0 {
		part = part[:end+1]
	}
	r.offset += copy(p, part)
	if part[len(part)-1] == '\n' || r.offset == len(r.data) {
		r.read++
	}
	return len(part), nil
}

// template returns the line of the first "{{" from a line on, as far as was read; zero where there is none.
func (r *lineReader) template(from int) int {
	line := 0
	for text := range bytes.Lines(r.data[:r.offset]) {
		if line++; line >= from && bytes.Contains(text, []byte("{{")) {
			return line
		}
	}
	return 0
}

var yamlErrorLine = regexp.MustCompile(`^line (\d+): `)

// yamlError returns the parser's error with the line in front, for a document that begins at source. All of what the parser
// names is a place and a rule, never the file's content.
func yamlError(source Source, lines *lineReader, err error) error {
	text, template := strings.TrimPrefix(err.Error(), "yaml: "), lines.template(source.Line)
	source.Line = max(lines.read, 1)
	if match := yamlErrorLine.FindStringSubmatch(text); match != nil {
		text = strings.TrimPrefix(text, match[0])
		begin, _ := strconv.Atoi(match[1])
		switch {
		case strings.Contains(text, "unexpected end of stream"):
			source.Line = begin // a quote that is not closed takes in the whole rest
		case begin < source.Line:
			text = fmt.Sprintf("%s (in what begins near line %d)", text, begin)
		}
	}
	cure := "mend it there"
	if template > 0 {
		cure = fmt.Sprintf("mend it there, or render the file first if the {{ in line %d makes it a template", template)
	}
	return &sourceError{Source: source, syntax: true, err: fmt.Errorf("parsing YAML: %s; %s", text, cure)}
}

// jsonDocuments calls f with each value of a JSON stream. The YAML parser would take most JSON, but not "\ud83d\ude00".
func jsonDocuments(file string, data []byte, f func(Source, *yaml.Node) error) error {
	p := &jsonParser{data: bytes.TrimPrefix(data, []byte("\ufeff")), line: 1}
	p.decoder = json.NewDecoder(bytes.NewReader(p.data))
	p.decoder.UseNumber()
	for source := (Source{File: file, Document: 1, Line: 1}); ; source.Document++ {
		root, err := p.node(0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return source.at(p.here()).errorf("parsing JSON: %w; mend it there", err)
		}
		if err := f(source, root); err != nil {
			return err
		}
	}
}

// jsonParser makes YAML nodes of JSON.
type jsonParser struct {
	data    []byte
	decoder *json.Decoder
	line    int // of offset
	offset  int
}

// here is the line that the decoder has come to.
func (p *jsonParser) here() int {
	end := min(int(p.decoder.InputOffset()), len(p.data))
	p.line += bytes.Count(p.data[p.offset:end], []byte("\n"))
	p.offset = end
	return p.line
}

// node reads one value. The end of the stream is io.EOF only before a value, not in it.
func (p *jsonParser) node(depth int) (*yaml.Node, error) {
	token, err := p.token(depth)
	if err != nil {
		return nil, err
	}
	node := &yaml.Node{Line: p.here()}
	switch token := token.(type) {
	case json.Delim:
		node.Kind, node.Tag = yaml.SequenceNode, "!!seq"
		if token == '{' {
			node.Kind, node.Tag = yaml.MappingNode, "!!map"
		}
		for p.decoder.More() {
			below, err := p.node(depth + 1)
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, below)
		}
		_, err := p.token(depth + 1)
		return node, err
	case string:
		node.SetString(token)
		node.Style = yaml.DoubleQuotedStyle
	case json.Number:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!float", token.String()
		if !strings.ContainsAny(node.Value, ".eE") {
			node.Tag = "!!int"
		}
	case bool:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!bool", strconv.FormatBool(token)
	case nil:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!null", "null"
	}
	return node, nil
}

func (p *jsonParser) token(depth int) (json.Token, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	token, err := p.decoder.Token()
	if errors.Is(err, io.EOF) && depth > 0 {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}

var (
	errDepth  = fmt.Errorf("it is nested more than %d levels deep; no Kubernetes object is", maxDepth)
	errValues = fmt.Errorf("it stands for more than %d values, anchors counted wherever they are used; split it", maxValues)
)

// converter makes the JSON value of a node: map[string]any, []any, string, int64, float64, bool or nil, which is all that
// unstructured objects may hold.
type converter struct {
	source Source
	values int
	depth  int
}

func (c *converter) value(node *yaml.Node) (any, error) {
	if c.values++; c.values > maxValues {
		return nil, c.errorf(node, "%w", errValues)
	}
	// An anchor around its own alias is a value without end, and comes to this limit too.
	if c.depth++; c.depth > maxDepth {
		return nil, c.errorf(node, "%w", errDepth)
	}
	defer func() { c.depth-- }()
	switch node.Kind {
	case yaml.AliasNode:
		return c.value(node.Alias)
	case yaml.MappingNode:
		return c.mapping(node)
	case yaml.SequenceNode:
		return c.sequence(node)
	default:
		return c.scalar(node)
	}
}

func (c *converter) errorf(node *yaml.Node, format string, args ...any) error {
	return c.source.at(node.Line).errorf(format, args...)
}

func (c *converter) sequence(node *yaml.Node) (any, error) {
	if tag := node.ShortTag(); tag != "!!seq" {
		return nil, c.errorf(node, "the tag %s is not supported; remove it", tag)
	}
	values := make([]any, 0, len(node.Content))
	for _, item := range node.Content {
		value, err := c.value(item)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

func (c *converter) mapping(node *yaml.Node) (any, error) {
	if tag := node.ShortTag(); tag != "!!map" {
		return nil, c.errorf(node, "the tag %s is not supported; remove it", tag)
	}
	values := make(map[string]any, len(node.Content)/2)
	lines := make(map[string]int, len(node.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, below := resolve(node.Content[i]), node.Content[i+1]
		if key.ShortTag() == "!!merge" {
			merges = append(merges, below)
			continue
		}
		name, err := c.key(key)
		if err != nil {
			return nil, err
		}
		if line, ok := lines[name]; ok {
			return nil, c.errorf(node.Content[i], "the key %q is also in line %d; remove one of them", name, line)
		}
		lines[name] = node.Content[i].Line
		if values[name], err = c.value(below); err != nil {
			return nil, err
		}
	}
	for _, merge := range merges {
		if err := c.merge(values, merge); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// merge adds what "<<" stands for: a mapping or several, where what is there already wins.
func (c *converter) merge(values map[string]any, node *yaml.Node) error {
	value, err := c.value(node)
	if err != nil {
		return err
	}
	merged, ok := value.([]any)
	if !ok {
		merged = []any{value}
	}
	for _, value := range merged {
		from, ok := value.(map[string]any)
		if !ok {
			return c.errorf(node, "the merge key << names something that is no mapping; give it an alias of one")
		}
		for name, value := range from {
			if _, ok := values[name]; !ok {
				values[name] = value
			}
		}
	}
	return nil
}

// key returns a mapping's key as JSON has it, where every key is a string.
func (c *converter) key(node *yaml.Node) (string, error) {
	if node.Kind != yaml.ScalarNode {
		return "", c.errorf(node, "a key is %s; write a string, or render the file first if it is a template", describe(node))
	}
	value, err := c.scalar(node)
	if err != nil {
		return "", err
	}
	switch value := value.(type) {
	case string:
		return value, nil
	case int64:
		return strconv.FormatInt(value, 10), nil
	case bool:
		return strconv.FormatBool(value), nil
	default:
		return "", c.errorf(node, "the key %s is no string; put it in quotes", node.Value)
	}
}

func (c *converter) scalar(node *yaml.Node) (any, error) {
	switch tag := node.ShortTag(); tag {
	case "!!null":
		return nil, nil
	case "!!str":
		if value, ok := oldBooleans[node.Value]; ok && node.Style == 0 {
			return value, nil
		}
		return node.Value, nil
	case "!!timestamp", "!!merge":
		return node.Value, nil
	case "!!bool":
		var value bool
		if err := node.Decode(&value); err != nil {
			return nil, c.errorf(node, "%q is no boolean; write true or false", node.Value)
		}
		return value, nil
	case "!!int":
		var value int64
		if err := node.Decode(&value); err == nil {
			return value, nil
		}
		return c.float(node)
	case "!!float":
		return c.float(node)
	default:
		return nil, c.errorf(node, "the tag %s is not supported; remove it", tag)
	}
}

func (c *converter) float(node *yaml.Node) (any, error) {
	var value float64
	err := node.Decode(&value)
	if err != nil || math.IsInf(value, 0) || math.IsNaN(value) {
		return nil, c.errorf(node, "%q is no number that JSON has; put it in quotes if it is a string", node.Value)
	}
	return value, nil
}

// oldBooleans are what YAML 1.1 has beside true and false. kubectl and the API server still read it, so that a manifest must
// not mean something else here.
var oldBooleans = map[string]bool{
	"y": true, "Y": true, "yes": true, "Yes": true, "YES": true, "on": true, "On": true, "ON": true,
	"n": false, "N": false, "no": false, "No": false, "NO": false, "off": false, "Off": false, "OFF": false,
}

// resolve returns what an alias stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

// describe names a node's kind for an error.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		return "a single value"
	}
}
