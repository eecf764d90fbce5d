package docker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// certificateFile is the first place where Go, OpenSSL and others on Linux look for authorities.
const certificateFile = "etc/ssl/certs/ca-certificates.crt"

// layerWriter packs files into a compressed layer whose bytes depend on nothing but what is written: every file is
// root's, with the same time. It is kept in memory, compressed, because an image outlives the folder that it is made in.
type layerWriter struct {
	compressed bytes.Buffer
	gzip       *gzip.Writer
	tar        *tar.Writer
	created    time.Time
}

func newLayerWriter(created time.Time) *layerWriter {
	w := &layerWriter{created: created}
	w.gzip = gzip.NewWriter(&w.compressed)
	w.tar = tar.NewWriter(w.gzip)
	return w
}

func (w *layerWriter) folder(name string, mode int64) error {
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: w.created})
}

func (w *layerWriter) file(name string, mode, size int64, content io.Reader) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size, ModTime: w.created}
	if err := w.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(w.tar, content)
	return err
}

func (w *layerWriter) layer(mediaType types.MediaType) (v1.Layer, error) {
	if err := errors.Join(w.tar.Close(), w.gzip.Close()); err != nil {
		return nil, err
	}
	content := w.compressed.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(mediaType))
}

// binaryLayer packs one binary. The folders that it is in come from what is below, with their modes.
func binaryLayer(binary, name string, created time.Time, mediaType types.MediaType) (v1.Layer, error) {
	file, err := os.Open(binary)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	w := newLayerWriter(created)
	if err := w.file(strings.TrimPrefix(name, "/"), 0o755, info.Size(), file); err != nil {
		return nil, err
	}
	return w.layer(mediaType)
}

// scratchLayer packs what a program expects of a system that holds nothing else: who its user is, authorities for TLS,
// a folder for temporary files.
func scratchLayer(uid, gid uint32, created time.Time) (v1.Layer, error) {
	passwd := "root:x:0:0:root:/root:/sbin/nologin\n"
	if uid != 0 {
		passwd += fmt.Sprintf("app:x:%d:%d:app:/:/sbin/nologin\n", uid, gid)
	}
	group := "root:x:0:\n"
	if gid != 0 {
		group += fmt.Sprintf("app:x:%d:\n", gid)
	}
	w := newLayerWriter(created)
	for _, folder := range []struct {
		name string
		mode int64
	}{
		{"etc", 0o755}, {"etc/ssl", 0o755}, {"etc/ssl/certs", 0o755}, {"tmp", 0o1777},
		{"usr", 0o755}, {"usr/local", 0o755}, {"usr/local/bin", 0o755},
	} {
		if err := w.folder(folder.name, folder.mode); err != nil {
			return nil, err
		}
	}
	for _, entry := range []struct{ name, content string }{
		{"etc/group", group}, {"etc/passwd", passwd}, {certificateFile, rootCertificates()},
	} {
		if err := w.file(entry.name, 0o644, int64(len(entry.content)), strings.NewReader(entry.content)); err != nil {
			return nil, err
		}
	}
	return w.layer(types.OCILayer)
}

// rootCertificates is Mozilla's list of authorities as PEM. Those that Mozilla trusts only for certificates from before a
// date are left out, since a file cannot say so.
func rootCertificates() string {
	var out strings.Builder
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			// Writing into memory does not fail, and a certificate has no headers that could be malformed.
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return out.String()
}
