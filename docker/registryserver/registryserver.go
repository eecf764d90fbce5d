// Package registryserver is a registry for demonstrations and tests that still has its images after a restart. It asks for
// no login and knows no limits; it is no registry for production.
package registryserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// manifestLimit is how large a manifest may be, in bytes; registries have agreed on it.
// Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests
const manifestLimit = 4 << 20

// server keeps in files what the registry beneath keeps in memory: its manifests. Each is a file for its digest and one
// for each of its tags. Blobs are files already.
type server struct {
	registry  http.Handler
	manifests string
	writing   sync.Mutex
}

// stored is a manifest in its file.
type stored struct {
	Repository  string `json:"repository"`
	Reference   string `json:"reference"` // a tag or a digest
	ContentType string `json:"contentType"`
	Content     []byte `json:"content"`
}

// New returns a registry whose blobs and manifests are kept under dir, which is made where it does not exist. Only one
// registry may use a folder at a time.
func New(dir string) (http.Handler, error) {
	blobs := filepath.Join(dir, "blobs")
	s := &server{
		manifests: filepath.Join(dir, "manifests"),
		registry: registry.New(
			registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
			registry.WithReferrersSupport(true),
			registry.Logger(log.New(io.Discard, "", 0)),
		),
	}
	for _, folder := range []string{blobs, s.manifests} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, fmt.Errorf("opening the registry in %s: %w", dir, err)
		}
	}
	if err := errors.Join(removeAll(blobs, "upload-*"), removeAll(s.manifests, "new-*")); err != nil {
		return nil, fmt.Errorf("removing interrupted uploads from the registry in %s: %w", dir, err)
	}
	if err := s.replay(); err != nil {
		return nil, fmt.Errorf("opening the registry in %s: %w", dir, err)
	}
	return s, nil
}

func removeAll(dir, pattern string) error {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// ServeHTTP answers a request as a registry does. A manifest is acknowledged after it has reached its file.
func (s *server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	repository, reference, ok := manifestOf(req.URL.Path)
	if !ok || req.Method != http.MethodPut && req.Method != http.MethodDelete {
		s.registry.ServeHTTP(w, req)
		return
	}
	if !named(repository, reference) {
		http.Error(w, `{"errors":[{"code":"NAME_INVALID","message":"that is no name of an image"}]}`, http.StatusBadRequest)
		return
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, req.Body, manifestLimit))
	if err != nil {
		http.Error(w, "reading the manifest: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	req.Body = io.NopCloser(bytes.NewReader(content))
	answer := &answer{header: http.Header{}}
	s.registry.ServeHTTP(answer, req)
	switch answer.status {
	case http.StatusCreated:
		err = s.store(stored{repository, reference, req.Header.Get("Content-Type"), content})
	case http.StatusAccepted:
		err = s.remove(repository, reference)
	}
	if err != nil {
		http.Error(w, "keeping the manifest: "+err.Error(), http.StatusInternalServerError)
		return
	}
	answer.send(w)
}

// Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	referenceName  = regexp.MustCompile(`^([a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|[a-z0-9]+:[0-9a-f]{32,})$`)
)

func named(repository, reference string) bool {
	return repositoryName.MatchString(repository) && referenceName.MatchString(reference)
}

// manifestOf splits /v2/REPOSITORY/manifests/REFERENCE.
func manifestOf(urlPath string) (repository, reference string, ok bool) {
	rest, ok := strings.CutPrefix(urlPath, "/v2/")
	if !ok {
		return "", "", false
	}
	at := strings.LastIndex(rest, "/")
	if at < 0 {
		return "", "", false
	}
	repository, ok = strings.CutSuffix(rest[:at], "/manifests")
	return repository, rest[at+1:], ok
}

// store keeps a manifest by its digest, as the registry beneath does, and by the tag that it was pushed to.
func (s *server) store(m stored) error {
	digest, _, err := v1.SHA256(bytes.NewReader(m.Content))
	if err != nil {
		return err
	}
	tag := m.Reference
	m.Reference = digest.String()
	if err := s.write(m); err != nil || tag == m.Reference {
		return err
	}
	m.Reference = tag
	return s.write(m)
}

func (s *server) write(m stored) error {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(s.manifests, "new-*")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), s.file(m.Repository, m.Reference))
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

func (s *server) remove(repository, reference string) error {
	err := os.Remove(s.file(repository, reference))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// file names the file of a manifest after a hash, because names from outside could lead anywhere.
func (s *server) file(repository, reference string) string {
	name := sha256.Sum256([]byte(repository + "\n" + reference))
	return filepath.Join(s.manifests, hex.EncodeToString(name[:])+".json")
}

// replay gives the registry beneath every manifest again. It refuses an index before the manifests that the index lists,
// so what is refused is tried once more after the others. An index of which a manifest has been deleted stays refused; its
// file is left alone.
func (s *server) replay() error {
	files, err := filepath.Glob(filepath.Join(s.manifests, "*.json"))
	if err != nil {
		return err
	}
	for len(files) > 0 {
		var refused []string
		for _, file := range files {
			ok, err := s.replayFile(file)
			if err != nil {
				return err
			}
			if !ok {
				refused = append(refused, file)
			}
		}
		if len(refused) == len(files) {
			return nil
		}
		files = refused
	}
	return nil
}

func (s *server) replayFile(file string) (accepted bool, err error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	var m stored
	if err := json.Unmarshal(content, &m); err != nil {
		return false, fmt.Errorf("reading the manifest %s: %w; remove that file", file, err)
	}
	if !named(m.Repository, m.Reference) {
		return false, fmt.Errorf("reading the manifest %s: it names no image; remove that file", file)
	}
	req := &http.Request{
		Method: http.MethodPut,
		URL:    &url.URL{Path: "/v2/" + m.Repository + "/manifests/" + m.Reference},
		Header: http.Header{"Content-Type": {m.ContentType}},
		Body:   io.NopCloser(bytes.NewReader(m.Content)),
	}
	answer := &answer{header: http.Header{}}
	s.registry.ServeHTTP(answer, req)
	return answer.status == http.StatusCreated, nil
}

// answer holds a response back until it may be sent.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) { a.status = status }

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.body.Write(p)
}

func (a *answer) send(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if a.status != 0 {
		w.WriteHeader(a.status)
	}
	// Whoever asked has gone where this fails; there is nobody left to tell.
	_, _ = a.body.WriteTo(w)
}
