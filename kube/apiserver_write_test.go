package kube_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What the server does beside apply: creating, updating and deleting by version, and lists by a label.

// group lists the versions of a group.
func (s *apiServer) group(w http.ResponseWriter, r *http.Request, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	group := metav1.APIGroup{Name: name}
	for groupVersion := range s.kinds {
		if of, version, ok := strings.Cut(groupVersion, "/"); ok && of == name {
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: groupVersion, Version: version})
			group.PreferredVersion = group.Versions[0]
		}
	}
	if len(group.Versions) == 0 {
		http.NotFound(w, r)
		return
	}
	answer(w, 200, group)
}

// sameVersion reports whether what is written is meant for the version that is there, or for any.
func sameVersion(written map[string]any, o *stored) bool {
	metadata, _ := written["metadata"].(map[string]any)
	version, _ := metadata["resourceVersion"].(string)
	return version == "" || o != nil && o.content["metadata"].(map[string]any)["resourceVersion"] == version
}

func readObject(w http.ResponseWriter, r *http.Request) (content map[string]any, ok bool) {
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, &content) != nil || content["metadata"] == nil {
		fail(w, 400, "BadRequest", "no object", nil)
		return nil, false
	}
	return content, true
}

func (s *apiServer) create(w http.ResponseWriter, r *http.Request) {
	content, ok := readObject(w, r)
	if !ok {
		return
	}
	metadata := content["metadata"].(map[string]any)
	name := fmt.Sprint(metadata["name"])
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[r.URL.Path+"/"+name]; ok {
		fail(w, 409, "AlreadyExists", name+" already exists", nil)
		return
	}
	metadata["uid"] = fmt.Sprint("uid-", s.version+1)
	o := &stored{content: content, owners: map[string]string{}}
	s.store(r.URL.Path+"/"+name, o, false)
	answer(w, 201, o.content)
}

func (s *apiServer) update(w http.ResponseWriter, r *http.Request) {
	content, ok := readObject(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[r.URL.Path]
	switch {
	case old == nil:
		fail(w, 404, "NotFound", "not found", &metav1.StatusDetails{Name: path.Base(r.URL.Path)})
	case !sameVersion(content, old):
		fail(w, 409, "Conflict", "the object has been modified", nil)
	default:
		o := &stored{content: content, owners: old.owners}
		s.store(r.URL.Path, o, true)
		answer(w, 200, o.content)
	}
}

func (s *apiServer) remove(w http.ResponseWriter, r *http.Request) {
	var options metav1.DeleteOptions
	_ = json.NewDecoder(r.Body).Decode(&options)
	s.mu.Lock()
	o := s.objects[r.URL.Path]
	s.mu.Unlock()
	switch {
	case o == nil:
		fail(w, 404, "NotFound", "not found", &metav1.StatusDetails{Name: path.Base(r.URL.Path)})
	case options.Preconditions != nil && fmt.Sprint(o.content["metadata"].(map[string]any)["uid"]) != string(*options.Preconditions.UID):
		fail(w, 409, "Conflict", "the UID in the precondition is another one", nil)
	default:
		s.delete(r.URL.Path)
		answer(w, 200, metav1.Status{Status: "Success"})
	}
}

// collection is the objects of a list, by a label where one is asked for.
func (s *apiServer) collection(r *http.Request) []any {
	label, value, selected := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
	items := []any{}
	for _, name := range slices.Sorted(maps.Keys(s.objects)) {
		metadata := s.objects[name].content["metadata"].(map[string]any)
		labels, _ := metadata["labels"].(map[string]any)
		if inCollection(name, r.URL.Path) && (!selected || labels[label] == value) {
			items = append(items, s.objects[name].content)
		}
	}
	return items
}

// inCollection reports whether an object is in a collection, which may be that of all namespaces.
func inCollection(object, collection string) bool {
	dir := path.Dir(object)
	before, after, found := strings.Cut(dir, "/namespaces/")
	_, plural, _ := strings.Cut(after, "/")
	return dir == collection || found && before+"/"+plural == collection
}

func (s *apiServer) list(collection string) []unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []unstructured.Unstructured
	for _, name := range slices.Sorted(maps.Keys(s.objects)) {
		if path.Dir(name) == collection {
			found = append(found, unstructured.Unstructured{Object: clone(s.objects[name].content)})
		}
	}
	return found
}
