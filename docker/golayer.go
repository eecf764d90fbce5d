package docker

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// certificateFile is the first place where Go, OpenSSL and others on Linux look for authorities.
const certificateFile = "etc/ssl/certs/ca-certificates.crt"

// fileLayer is a compressed layer in a file.
type fileLayer struct {
	file           string
	digest, diffID v1.Hash
	size           int64
	mediaType      types.MediaType
}

func newFileLayer(file string, digest, diffID v1.Hash, mediaType types.MediaType) (*fileLayer, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	return &fileLayer{file: file, digest: digest, diffID: diffID, size: info.Size(), mediaType: mediaType}, nil
}

// Digest is the hash of the compressed layer.
func (l *fileLayer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID is the hash of the layer as it is unpacked.
func (l *fileLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Size is that of the compressed layer, in bytes.
func (l *fileLayer) Size() (int64, error) { return l.size, nil }

// MediaType is what the image's manifest calls it.
func (l *fileLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }

// Compressed opens the layer.
func (l *fileLayer) Compressed() (io.ReadCloser, error) { return os.Open(l.file) }

// Uncompressed opens the layer's tar file.
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	file, err := os.Open(l.file)
	if err != nil {
		return nil, err
	}
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	return &unpackedFile{Reader: unpacked, file: file}, nil
}

type unpackedFile struct {
	*gzip.Reader
	file *os.File
}

func (u *unpackedFile) Close() error { return u.file.Close() }

// hasher computes a digest of what is written to it.
type hasher struct{ hash.Hash }

func newHasher() hasher { return hasher{sha256.New()} }

func (h hasher) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// hashOf is the digest of what write writes.
func hashOf(write func(io.Writer) error) (v1.Hash, error) {
	h := newHasher()
	if err := write(h); err != nil {
		return v1.Hash{}, err
	}
	return h.sum(), nil
}

// layerWriter writes a tar file whose bytes depend on nothing but what is written: every file is root's, with the same time.
type layerWriter struct {
	tar     *tar.Writer
	created time.Time
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

// binaryTar returns what writes one binary. The folders that it is in come from what is below, with their modes.
func binaryTar(binary, name string, created time.Time) func(io.Writer) error {
	return func(to io.Writer) error {
		file, err := os.Open(binary)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		w := &layerWriter{tar: tar.NewWriter(to), created: created}
		if err := w.file(strings.TrimPrefix(name, "/"), 0o755, info.Size(), file); err != nil {
			return err
		}
		return w.tar.Close()
	}
}

// scratchTar returns what writes what a program expects of a system that holds nothing else: who its user is, authorities for
// TLS, a folder for temporary files.
func scratchTar(uid, gid uint32, created time.Time) func(io.Writer) error {
	return func(to io.Writer) error {
		passwd := "root:x:0:0:root:/root:/sbin/nologin\n"
		if uid != 0 {
			passwd += fmt.Sprintf("app:x:%d:%d:app:/:/sbin/nologin\n", uid, gid)
		}
		group := "root:x:0:\n"
		if gid != 0 {
			group += fmt.Sprintf("app:x:%d:\n", gid)
		}
		w := &layerWriter{tar: tar.NewWriter(to), created: created}
		for _, folder := range []struct {
			name string
			mode int64
		}{
			{"etc", 0o755}, {"etc/ssl", 0o755}, {"etc/ssl/certs", 0o755}, {"tmp", 0o1777},
			{"usr", 0o755}, {"usr/local", 0o755}, {"usr/local/bin", 0o755},
		} {
			if err := w.folder(folder.name, folder.mode); err != nil {
				return err
			}
		}
		for _, entry := range []struct{ name, content string }{
			{"etc/group", group}, {"etc/passwd", passwd}, {certificateFile, rootCertificates()},
		} {
			if err := w.file(entry.name, 0o644, int64(len(entry.content)), strings.NewReader(entry.content)); err != nil {
				return err
			}
		}
		return w.tar.Close()
	}
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
