package docker

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// defaultContext is the context that is none: the environment, else Docker's socket.
const defaultContext = "default"

// endpoint is where an engine is, as a context of Docker's command says.
type endpoint struct {
	Host          string
	SkipTLSVerify bool

	context string // its name
	files   string // the folder of its TLS files
}

// currentEndpoint returns the endpoint of the context that Docker's own command would use; none where it is the default one, and where
// DOCKER_HOST says where the engine is.
// Source: https://docs.docker.com/engine/manage-resources/contexts/ and cli/context/store of Docker's command.
func currentEndpoint() (*endpoint, error) {
	if os.Getenv("DOCKER_HOST") != "" {
		return nil, nil
	}
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil // without a home there is no configuration
		}
		dir = filepath.Join(home, ".docker")
	}
	name, from := os.Getenv("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
	if name == "" {
		file := filepath.Join(dir, "config.json")
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading Docker's configuration: %w", err)
		}
		var config struct {
			CurrentContext string `json:"currentContext"`
		}
		if err := json.Unmarshal(text, &config); err != nil {
			return nil, fmt.Errorf("reading Docker's configuration %s: %w; mend it, or set DOCKER_HOST", file, err)
		}
		name, from = config.CurrentContext, "currentContext in "+file
	}
	if name == "" || name == defaultContext {
		return nil, nil
	}
	e, err := readContext(filepath.Join(dir, "contexts"), name)
	if err != nil {
		return nil, fmt.Errorf("reading Docker's context %q, which %s names: %w", name, from, err)
	}
	return e, nil
}

// readContext reads a context from the folder of all contexts.
func readContext(dir, name string) (*endpoint, error) {
	// Its folder is named by the digest of its name, so that no name leads elsewhere.
	id := hashOfText(name)
	file := filepath.Join(dir, "meta", id, "meta.json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no such context; name one of %s, or set DOCKER_HOST", strings.Join(knownContexts(dir), ", "))
	}
	if err != nil {
		return nil, err
	}
	var meta struct {
		Endpoints map[string]endpoint
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		return nil, fmt.Errorf("%s: %w; make it again by docker context create", file, err)
	}
	e, ok := meta.Endpoints["docker"]
	if !ok || e.Host == "" {
		return nil, fmt.Errorf("%s names no Docker Engine; make it again by docker context create", file)
	}
	e.context, e.files = name, filepath.Join(dir, "tls", id, "docker")
	return &e, nil
}

// hashOfText is the SHA-256 of a text in hexadecimal.
func hashOfText(text string) string {
	h := newHasher()
	h.Write([]byte(text))
	return h.sum().Hex
}

// knownContexts are the names of the contexts that can be used.
func knownContexts(dir string) []string {
	names := []string{defaultContext}
	files, _ := filepath.Glob(filepath.Join(dir, "meta", "*", "meta.json")) // the pattern is a good one
	for _, file := range files {
		var meta struct{ Name string }
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &meta) == nil && meta.Name != "" {
			names = append(names, meta.Name)
		}
	}
	slices.Sort(names)
	return names
}

// tls returns what the endpoint is to be trusted by and trusts; nil where it has no files for that.
func (e *endpoint) tls() (*tls.Config, error) {
	read := func(name string) ([]byte, error) {
		content, err := os.ReadFile(filepath.Join(e.files, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return content, err
	}
	authority, err := read("ca.pem")
	if err != nil {
		return nil, err
	}
	certificate, err := read("cert.pem")
	if err != nil {
		return nil, err
	}
	key, err := read("key.pem")
	if err != nil {
		return nil, err
	}
	if authority == nil && certificate == nil && key == nil && !e.SkipTLSVerify {
		return nil, nil
	}
	config := &tls.Config{InsecureSkipVerify: e.SkipTLSVerify} // where whoever made the context wants that
	if authority != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authority) {
			return nil, fmt.Errorf("%s holds no certificate; make the context again by docker context create", filepath.Join(e.files, "ca.pem"))
		}
	}
	if certificate != nil || key != nil {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("%s: cert.pem and key.pem are no pair: %w; make the context again by docker context create", e.files, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
