package kube_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/grimoire-build/grimoire/kube"
)

// apiServer is as much of a Kubernetes API server as the client speaks to: lists of kinds, GET, server-side apply with field
// managers and dry run, list and watch. Controllers there are none: tests write the status.
type apiServer struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	kinds    map[string][]metav1.APIResource // by "v1" or "group/version"
	objects  map[string]*stored              // by path
	deleted  map[string]map[string]any       // what they were last, by path
	version  int
	watchers []*watcher
	// fault answers a request in the server's place where it returns true. It is called with mu unlocked.
	fault    func(http.ResponseWriter, *http.Request) bool
	requests []string
	// watching gets the path of each watch that has begun.
	watching chan string
}

type stored struct {
	content map[string]any
	owners  map[string]string // field to manager
}

type watcher struct {
	collection, name string
	events           chan string
}

func newAPIServer(t testing.TB) *apiServer {
	resource := func(kind, name string, namespaced bool) metav1.APIResource {
		return metav1.APIResource{Kind: kind, Name: name, Namespaced: namespaced}
	}
	s := &apiServer{
		t: t,
		kinds: map[string][]metav1.APIResource{
			"v1": {resource("Namespace", "namespaces", false), resource("ConfigMap", "configmaps", true), resource("Secret", "secrets", true), resource("Service", "services", true),
				resource("Pod", "pods", true), resource("Pod", "pods/status", true), resource("ServiceAccount", "serviceaccounts", true)},
			"apps/v1":                      {resource("Deployment", "deployments", true), resource("StatefulSet", "statefulsets", true), resource("DaemonSet", "daemonsets", true)},
			"batch/v1":                     {resource("Job", "jobs", true)},
			"rbac.authorization.k8s.io/v1": {resource("ClusterRole", "clusterroles", false)},
			"apiextensions.k8s.io/v1":      {resource("CustomResourceDefinition", "customresourcedefinitions", false)},
		},
		objects:  make(map[string]*stored),
		deleted:  make(map[string]map[string]any),
		watching: make(chan string, 100),
	}
	for _, name := range []string{"default", "shop"} {
		s.objects["/api/v1/namespaces/"+name] = &stored{content: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}, owners: map[string]string{}}
	}
	s.Server = httptest.NewUnstartedServer(s)
	s.Server.EnableHTTP2 = true
	s.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS() // without it, no login would be sent
	t.Cleanup(func() {
		s.endWatches()
		s.Close()
	})
	return s
}

// connect returns a client of the server.
func (s *apiServer) connect(namespace string) *kube.Client {
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	config := bytes.Replace(kubeconfig(s.URL, "test"), []byte("{server: "),
		[]byte("{certificate-authority-data: "+base64.StdEncoding.EncodeToString(authority)+", server: "), 1)
	client, err := kube.Connect(kube.Config{Data: config, Namespace: namespace})
	require.NoError(s.t, err)
	return client
}

// kubeconfig returns a kubeconfig with contexts of the names.
func kubeconfig(server string, contexts ...string) []byte {
	content := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: " + server + "}}]\n" +
		"users: [{name: u, user: {token: secret-token}}]\ncontexts:\n"
	for _, name := range contexts {
		content += "- {name: " + name + ", context: {cluster: c, user: u, namespace: " + name + "-namespace}}\n"
	}
	return []byte(content)
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	what := r.Method
	if r.URL.Query().Get("watch") == "true" {
		what = "WATCH"
	}
	s.requests = append(s.requests, what+" "+r.URL.Path)
	fault := s.fault
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer secret-token" {
		fail(w, 401, "Unauthorized", "Unauthorized", nil)
		return
	}
	path := strings.Trim(r.URL.Path, "/")
	parts := strings.Split(path, "/")
	groupVersion, rest := strings.Join(parts[1:min(2, len(parts))], "/"), parts[min(2, len(parts)):]
	if parts[0] == "apis" {
		groupVersion, rest = strings.Join(parts[1:min(3, len(parts))], "/"), parts[min(3, len(parts)):]
	}
	if parts[0] == "apis" && len(parts) == 2 {
		s.group(w, r, parts[1])
		return
	}
	s.mu.Lock()
	known, ok := s.kinds[groupVersion]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	namespace := ""
	if len(rest) > 2 && rest[0] == "namespaces" {
		namespace, rest = rest[1], rest[2:]
	}
	if len(rest) == 0 {
		answer(w, 200, metav1.APIResourceList{GroupVersion: groupVersion, APIResources: known})
		return
	}
	switch {
	case !slices.ContainsFunc(known, func(k metav1.APIResource) bool {
		return k.Name == rest[0] && (k.Namespaced == (namespace != "") || len(rest) == 1)
	}):
		http.NotFound(w, r)
	case len(rest) == 1 && r.URL.Query().Get("watch") == "true":
		s.watch(w, r)
	case len(rest) == 1 && r.Method == http.MethodPost:
		s.create(w, r)
	case len(rest) == 1:
		s.answerList(w, r)
	case r.Method == http.MethodGet:
		s.get(w, r, rest)
	case r.Method == http.MethodPatch:
		s.patch(w, r, namespace)
	case r.Method == http.MethodPut:
		s.update(w, r)
	case r.Method == http.MethodDelete:
		s.remove(w, r)
	default:
		fail(w, 405, "MethodNotAllowed", "not supported", nil)
	}
}

func answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}

// fail answers as API servers do.
func fail(w http.ResponseWriter, code int32, reason, message string, details *metav1.StatusDetails) {
	answer(w, int(code), metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure",
		Code: code, Reason: metav1.StatusReason(reason), Message: message, Details: details,
	})
}

func (s *apiServer) get(w http.ResponseWriter, r *http.Request, rest []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[r.URL.Path]
	if !ok {
		fail(w, 404, "NotFound", fmt.Sprintf("%s %q not found", rest[0], rest[1]), &metav1.StatusDetails{Kind: rest[0], Name: rest[1]})
		return
	}
	answer(w, 200, o.content)
}

// patch is server-side apply, without what structured merge does beyond mappings.
func (s *apiServer) patch(w http.ResponseWriter, r *http.Request, namespace string) {
	body, err := io.ReadAll(r.Body)
	var applied map[string]any
	if err != nil || r.Header.Get("Content-Type") != "application/apply-patch+yaml" || yaml.Unmarshal(body, &applied) != nil {
		fail(w, 400, "BadRequest", "no apply patch", nil)
		return
	}
	if metadata, ok := applied["metadata"].(map[string]any); ok && namespace == "" { // of the whole cluster
		delete(metadata, "namespace")
	}
	query := r.URL.Query()
	manager, force, dry := query.Get("fieldManager"), query.Get("force") == "true", query.Get("dryRun") == "All"
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects["/api/v1/namespaces/"+namespace]; namespace != "" && !ok {
		fail(w, 404, "NotFound", fmt.Sprintf("namespaces %q not found", namespace), &metav1.StatusDetails{Kind: "namespaces", Name: namespace})
		return
	}
	old, exists := s.objects[r.URL.Path]
	if !sameVersion(applied, old) {
		fail(w, 409, "Conflict", "the object has been modified", nil)
		return
	}
	if !exists {
		old = &stored{content: map[string]any{"metadata": map[string]any{
			"uid": fmt.Sprint("uid-", s.version+1), "generation": int64(0), "creationTimestamp": "2020-01-01T00:00:00Z",
		}}, owners: map[string]string{}}
	}
	next := &stored{content: clone(old.content), owners: map[string]string{}}
	for field, owner := range old.owners {
		next.owners[field] = owner
	}
	metadata := next.content["metadata"].(map[string]any)
	delete(metadata, "managedFields")
	var causes []metav1.StatusCause
	merge(next.content, applied, "", func(field string, was, is any) {
		if owner := next.owners[field]; owner != "" && owner != manager && !reflect.DeepEqual(was, is) && !force {
			causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeFieldManagerConflict, Field: strings.ReplaceAll(field, pathSeparator, "."),
				Message: fmt.Sprintf("conflict with %q", owner)})
		}
		if named := pathSeparator + "metadata" + pathSeparator + "name"; !slices.Contains([]string{pathSeparator + "apiVersion",
			pathSeparator + "kind", named, named + "space"}, field) { // nobody owns what names the object
			next.owners[field] = manager
		}
	})
	if len(causes) > 0 {
		fail(w, 409, "Conflict", "Apply failed with conflicts", &metav1.StatusDetails{Causes: causes})
		return
	}
	mine := map[string]any{}
	for field, owner := range next.owners {
		if owner == manager {
			below := mine
			for _, name := range strings.Split(field, pathSeparator)[1:] {
				next, ok := below["f:"+name].(map[string]any)
				if !ok {
					next = map[string]any{}
					below["f:"+name] = next
				}
				below = next
			}
		}
	}
	metadata["managedFields"] = []any{
		map[string]any{"manager": "controller", "operation": "Update", "time": fmt.Sprint(s.version)},
		map[string]any{"manager": manager, "operation": "Apply", "apiVersion": applied["apiVersion"], "fieldsV1": mine},
	}
	if !exists || !reflect.DeepEqual(old.content["spec"], next.content["spec"]) {
		metadata["generation"] = number(metadata["generation"]) + 1
	}
	if withoutTimes(old.content) == withoutTimes(next.content) {
		next = old
	} else if !dry {
		s.store(r.URL.Path, next, exists)
	}
	code := 200
	if !exists {
		code = 201
	}
	answer(w, code, next.content)
}

func number(value any) int64 {
	switch value := value.(type) {
	case int64:
		return value
	case float64:
		return int64(value)
	}
	return 0
}

func withoutTimes(content map[string]any) string {
	content = clone(content)
	metadata := content["metadata"].(map[string]any)
	delete(metadata, "resourceVersion")
	for _, m := range anySlice(metadata["managedFields"]) {
		delete(m.(map[string]any), "time")
	}
	data, _ := json.Marshal(content)
	return string(data)
}

func anySlice(value any) []any {
	list, _ := value.([]any)
	return list
}

func clone(content map[string]any) map[string]any {
	data, _ := json.Marshal(content)
	var copied map[string]any
	_ = json.Unmarshal(data, &copied)
	return copied
}

// pathSeparator stands between the names of a field's path, which may hold dots and slashes.
const pathSeparator = "\x1f"

// merge sets from in to, and tells of each field that is no mapping.
func merge(to, from map[string]any, path string, tell func(field string, was, is any)) {
	for _, name := range slices.Sorted(mapKeys(from)) {
		below, ok := from[name].(map[string]any)
		if !ok {
			tell(path+pathSeparator+name, to[name], from[name])
			to[name] = from[name]
			continue
		}
		target, ok := to[name].(map[string]any)
		if !ok {
			target = map[string]any{}
			to[name] = target
		}
		merge(target, below, path+pathSeparator+name, tell)
	}
}

func mapKeys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// store writes an object and tells the watchers. A definition makes its kind known, as the real server does.
func (s *apiServer) store(path string, o *stored, existed bool) {
	s.version++
	o.content["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(s.version)
	s.objects[path] = o
	if o.content["kind"] == "CustomResourceDefinition" && o.content["status"] == nil {
		u := &unstructured.Unstructured{Object: o.content}
		group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
		plural, _, _ := unstructured.NestedString(u.Object, "spec", "names", "plural")
		versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
		version := group + "/" + fmt.Sprint(versions[0].(map[string]any)["name"])
		s.kinds[version] = append(s.kinds[version], metav1.APIResource{Kind: kind, Name: plural, Namespaced: true})
		o.content["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}
	}
	kind := "ADDED"
	if existed {
		kind = "MODIFIED"
	}
	s.tell(path, kind, o.content)
}

func (s *apiServer) tell(path, kind string, content map[string]any) {
	data, err := json.Marshal(map[string]any{"type": kind, "object": content})
	require.NoError(s.t, err)
	for _, w := range s.watchers {
		if w.collection+"/"+w.name == path {
			w.events <- string(data)
		}
	}
}

// set changes a live object behind everybody's back, as a controller or another user would.
func (s *apiServer) set(path string, change func(content map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[path]
	require.True(s.t, ok, "there is no %s", path)
	next := &stored{content: clone(o.content), owners: o.owners}
	change(next.content)
	for _, m := range anySlice(next.content["metadata"].(map[string]any)["managedFields"]) {
		if manager := m.(map[string]any); manager["manager"] == "controller" {
			manager["time"] = fmt.Sprint(s.version + 1)
		}
	}
	s.store(path, next, true)
}

// setStatus sets the status of a live object, for the generation that it has unless the status names one.
func (s *apiServer) setStatus(path, status string) {
	s.set(path, func(content map[string]any) {
		var fields map[string]any
		require.NoError(s.t, yaml.Unmarshal([]byte(status), &fields))
		if _, ok := fields["observedGeneration"]; !ok {
			fields["observedGeneration"] = content["metadata"].(map[string]any)["generation"]
		}
		content["status"] = fields
	})
}

func (s *apiServer) delete(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	content := s.objects[path].content
	delete(s.objects, path)
	content["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(s.version)
	s.deleted[path] = content
	s.tell(path, "DELETED", content)
}

func (s *apiServer) setFault(fault func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// seen returns the requests up to now and forgets them.
func (s *apiServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

func (s *apiServer) name() string { return "shop" }

func (s *apiServer) live(path string) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Contains(s.t, s.objects, path)
	data, err := json.Marshal(s.objects[path].content)
	require.NoError(s.t, err)
	u := &unstructured.Unstructured{}
	require.NoError(s.t, u.UnmarshalJSON(data)) // with the types that clients have
	return u
}

func (s *apiServer) answerList(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	if r.URL.Query().Get("fieldSelector") == "" {
		items = s.collection(r)
	} else if o, ok := s.objects[r.URL.Path+"/"+fieldName(r)]; ok {
		items = append(items, o.content)
	}
	answer(w, 200, map[string]any{"apiVersion": "v1", "kind": "List", "items": items,
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}})
}

func fieldName(r *http.Request) string {
	return strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	watcher := &watcher{collection: r.URL.Path, name: fieldName(r), events: make(chan string, 100)}
	s.mu.Lock()
	// What has changed since the version that the watch begins at comes first: the last of it, as there is no history here.
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	s.watchers = append(s.watchers, watcher)
	path, kind := watcher.collection+"/"+watcher.name, "DELETED"
	content := s.deleted[path]
	if o, ok := s.objects[path]; ok {
		kind, content = "MODIFIED", o.content
	}
	if content != nil {
		if version, _ := strconv.Atoi(content["metadata"].(map[string]any)["resourceVersion"].(string)); version > since {
			s.tell(path, kind, content)
		}
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	s.watching <- r.URL.Path + "/" + watcher.name
	for {
		select {
		case <-r.Context().Done():
			return
		case event, ok := <-watcher.events:
			if !ok {
				return
			}
			if event == "abort" {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprintln(w, event)
			w.(http.Flusher).Flush()
		}
	}
}

// endWatches ends all watches as a server does now and then, after sending the events.
func (s *apiServer) endWatches(events ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		for _, event := range events {
			w.events <- event
		}
		close(w.events)
	}
	s.watchers = nil
}

const goneEvent = `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old resource version",` +
	`"reason":"Expired","code":410}}`
