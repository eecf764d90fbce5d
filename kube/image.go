package kube

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Replacement is a container, or a volume, whose image SetImage has set.
type Replacement struct {
	Object *Object
	// Container is the container's name, Volume the volume's; one of them is empty.
	Container, Volume string
	// From is the image in the manifest, To the one that was set in its place. They are the same where it was there already.
	From, To string
}

// SetImage sets image ("host/owner/name@sha256:…") wherever the objects run an image of the same name, as MatchImage has it: in
// the containers and init containers of whatever makes pods, wherever in it these lists are, since others define the like
// under names of their own; and in the image volumes beside them, whose files have to be those of the containers. What
// the containers are called does not matter. The others stay as they are, and so does a status. It is an error if there is none,
// and if image is not named by its digest.
func SetImage(objects []*Object, image string) ([]Replacement, error) {
	wanted, err := parseImage(image)
	if err != nil {
		return nil, fmt.Errorf("setting the image: %w", err)
	}
	var replaced []Replacement
	var others []foundImage
	for _, o := range objects {
		for _, place := range imagesOf(o) {
			from := place.image()
			if !MatchImage(from, image) {
				others = append(others, foundImage{from, o.Source.File})
				continue
			}
			place.in[place.field] = image
			replaced = append(replaced, Replacement{Object: o, Container: place.container, Volume: place.volume, From: from, To: image})
		}
	}
	if len(replaced) == 0 {
		return nil, fmt.Errorf("setting the image: %w", noImageError(wanted, others))
	}
	return replaced, nil
}

// imageField is where an object names an image.
type imageField struct {
	in                map[string]any
	field             string
	container, volume string
}

// image is what the place names; empty where that is no text.
func (f imageField) image() string {
	image, _ := f.in[f.field].(string)
	return image
}

// imagesOf returns the places of an object that name an image, those that come first in a pod first.
func imagesOf(o *Object) []imageField {
	var found []imageField
	for _, field := range slices.Sorted(maps.Keys(o.Object)) {
		if field != "metadata" && field != "status" {
			found = append(found, imagesIn(map[string]any{field: o.Object[field]})...)
		}
	}
	return found
}

func imagesIn(value any) []imageField {
	var found []imageField
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			found = append(found, imagesIn(item)...)
		}
	case map[string]any:
		for _, list := range []string{"initContainers", "containers"} {
			for _, container := range mappings(value[list]) {
				name, _ := container["name"].(string)
				found = append(found, imageField{in: container, field: "image", container: name})
			}
		}
		for _, volume := range mappings(value["volumes"]) {
			if source, ok := volume["image"].(map[string]any); ok {
				name, _ := volume["name"].(string)
				found = append(found, imageField{in: source, field: "reference", volume: name})
			}
		}
		for _, field := range slices.Sorted(maps.Keys(value)) {
			found = append(found, imagesIn(value[field])...)
		}
	}
	return found
}

// mappings returns the mappings of a list.
func mappings(value any) []map[string]any {
	list, _ := value.([]any)
	var found []map[string]any
	for _, item := range list {
		if mapping, ok := item.(map[string]any); ok {
			found = append(found, mapping)
		}
	}
	return found
}

// foundImage is an image that was not the wanted one, and where it is.
type foundImage struct{ image, file string }

// noImageError says which images there are in the place of the wanted one.
func noImageError(wanted imageName, found []foundImage) error {
	cure := fmt.Sprintf("name it in the manifest, as %q for example", wanted.lastName())
	var list []string
	slices.SortFunc(found, func(a, b foundImage) int {
		return cmp.Or(strings.Compare(a.file, b.file), strings.Compare(a.image, b.image))
	})
	for _, f := range slices.Compact(found) {
		where := ""
		if f.file != "" {
			where = " in " + f.file
		}
		list = append(list, fmt.Sprintf("%q%s", f.image, where))
	}
	if len(list) == 0 {
		return fmt.Errorf("nothing uses an image %s, nor any other image; %s", wanted.repository(), cure)
	}
	return fmt.Errorf("nothing uses an image %s, only %s; %s", wanted.repository(), strings.Join(list, ", "), cure)
}

// MatchImage reports whether image, as a manifest names it, is an image of the repository of wanted. Tags and digests of both
// do not matter. It is if it names the repository in full ("host/owner/name"), or by the end of its path, from a slash on
// ("owner/name", "name"), or has the same path on another host, for manifests that name the registry of another environment.
func MatchImage(image, wanted string) bool {
	is, want := splitImage(image), splitImage(wanted)
	switch {
	case is.path == "" || want.path == "":
		return false
	case is.host != "":
		return is.path == want.path
	default:
		return is.path == want.path || strings.HasSuffix(want.path, "/"+is.path)
	}
}

// imageName is an image's name in its parts.
type imageName struct {
	host string // with its port; empty where the name has none
	path string
	tag  string
	// digest is "sha256:…".
	digest string
}

func (n imageName) repository() string {
	if n.host == "" {
		return n.path
	}
	return n.host + "/" + n.path
}

func (n imageName) lastName() string {
	return n.path[strings.LastIndexByte(n.path, '/')+1:]
}

// splitImage takes an image's name apart without judging it. As for every registry client, the part before the first slash is
// a host if it has a dot or a port, or is localhost, or has a capital letter, which a path cannot have.
func splitImage(image string) imageName {
	var n imageName
	n.path, n.digest, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(n.path, ':'); i > strings.LastIndexByte(n.path, '/') {
		n.path, n.tag = n.path[:i], n.path[i+1:]
	}
	if host, path, ok := strings.Cut(n.path, "/"); ok {
		if strings.ContainsAny(host, ".:") || host == "localhost" || host != strings.ToLower(host) {
			n.host, n.path = host, path
		}
	}
	return n
}

// referencePattern is the grammar of a reference without its digest, as the distribution specification has it.
const referencePattern = `(?:(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*` +
	`(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?`

// imagePattern is a reference by digest. That its grammar is kept to matters: the name is written into YAML.
var imagePattern = regexp.MustCompile(`^` + referencePattern + `@sha256:[0-9a-f]{64}$`)

// anyImagePattern is any reference.
var anyImagePattern = regexp.MustCompile(`^` + referencePattern + `(?:@[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-zA-Z=_-]+)?$`)

// parseImage takes apart the name of an image that is to be deployed, which has to be one by digest.
func parseImage(image string) (imageName, error) {
	if !imagePattern.MatchString(image) {
		return imageName{}, fmt.Errorf("%q is not an image by digest; name it \"host/owner/name@sha256:…\", in lower case", image)
	}
	return splitImage(image), nil
}
