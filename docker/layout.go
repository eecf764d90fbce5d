package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// refNameAnnotation names an image in a layout.
// Source: https://github.com/opencontainers/image-spec/blob/main/annotations.md
const refNameAnnotation = "org.opencontainers.image.ref.name"

// Save writes the image, or the index with its images, as an OCI image layout that is the folder dir, under a name (its reference, mostly; none where it
// is empty). A layout that is there already is replaced; any other folder that is not empty is refused. The layout is
// written beside dir and then renamed, so that dir is always whole: an interrupted run leaves the old layout or none. What one that was
// killed has left beside it is removed when it is an hour old.
func Save(dir string, img Artifact, name string) error {
	if err := save(filepath.Clean(dir), img, name); err != nil {
		return fmt.Errorf("saving the image to %s: %w", dir, err)
	}
	return nil
}

func save(dir string, img Artifact, name string) error {
	if err := replaceable(dir); err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	prefix := "." + filepath.Base(dir) + "-"
	removeAbandoned(parent, prefix)
	beside, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(beside)

	fresh := filepath.Join(beside, "new")
	target, err := layout.Write(fresh, empty.Index)
	if err != nil {
		return err
	}
	var options []layout.Option
	if name != "" {
		options = append(options, layout.WithAnnotations(map[string]string{refNameAnnotation: name}))
	}
	if err := appendTo(target, img, options); err != nil {
		return err
	}
	// A folder cannot be renamed over one that is not empty.
	old := filepath.Join(beside, "old")
	moved := os.Rename(dir, old)
	if moved != nil && !errors.Is(moved, fs.ErrNotExist) {
		return moved
	}
	err = os.Rename(fresh, dir)
	if err != nil && moved == nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return err
}

// abandoned is for how long nothing has been written into a folder that nobody works in any more.
const abandoned = time.Hour

// removeAbandoned removes what runs that were killed have left: no other run's, which would be written to. What cannot be removed is
// in nobody's way.
func removeAbandoned(parent, prefix string) {
	entries, _ := os.ReadDir(parent)
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), prefix)
		if _, err := strconv.ParseUint(number, 10, 64); !ok || err != nil || !entry.IsDir() {
			continue
		}
		dir := filepath.Join(parent, entry.Name())
		var last time.Time
		err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err == nil && info.ModTime().After(last) {
				last = info.ModTime()
			}
			return err
		})
		if err == nil && time.Since(last) > abandoned {
			_ = os.RemoveAll(dir)
		}
	}
}

func appendTo(target layout.Path, a Artifact, options []layout.Option) error {
	switch a := a.(type) {
	case *GoImage:
		return appendTo(target, a.Artifact, options)
	case v1.Image:
		return target.AppendImage(a, options...)
	case v1.ImageIndex:
		return target.AppendIndex(a, options...)
	default:
		return fmt.Errorf("%T is neither an image nor an index", a)
	}
}

// replaceable refuses to remove what Save has not written.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) == 0:
		return nil
	}
	for _, entry := range entries {
		if entry.Name() == "oci-layout" {
			return nil
		}
	}
	return errors.New("the folder holds something else than an image; name another one, or empty it")
}

// Load reads the image, or the index, of an OCI image layout that holds exactly one, as Save writes it. Every blob is compared
// with its digest, so that a damaged layout is not pushed.
func Load(dir string) (Artifact, error) {
	img, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("loading the image from %s: %w; build the image first", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("loading the image from %s: %w", dir, err)
	}
	return img, nil
}

func load(dir string) (Artifact, error) {
	source, err := layout.FromPath(dir)
	if err != nil {
		return nil, err
	}
	root, err := source.ImageIndex()
	if err != nil {
		return nil, err
	}
	list, err := root.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(list.Manifests) != 1 {
		return nil, fmt.Errorf("it holds %d manifests and not one image; build the image again", len(list.Manifests))
	}
	described := list.Manifests[0]
	if err := verify(source, described); err != nil {
		return nil, err
	}
	switch {
	case described.MediaType.IsIndex():
		return loadIndex(source, root, described.Digest)
	case described.MediaType.IsImage():
		return loadImage(source, root, described.Digest)
	default:
		return nil, fmt.Errorf("it holds %s and not an image; build the image again", described.MediaType)
	}
}

func loadImage(source layout.Path, parent v1.ImageIndex, digest v1.Hash) (v1.Image, error) {
	img, err := parent.Image(digest)
	if err != nil {
		return nil, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	for _, blob := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		if err := verify(source, blob); err != nil {
			return nil, err
		}
	}
	return img, nil
}

func loadIndex(source layout.Path, parent v1.ImageIndex, digest v1.Hash) (v1.ImageIndex, error) {
	index, err := parent.ImageIndex(digest)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, child := range manifest.Manifests {
		if err := verify(source, child); err != nil {
			return nil, err
		}
		if _, err := loadImage(source, index, child.Digest); err != nil {
			return nil, err
		}
	}
	return index, nil
}

func verify(source layout.Path, described v1.Descriptor) error {
	blob, err := source.Blob(described.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	digest, size, err := v1.SHA256(blob)
	if err != nil {
		return err
	}
	if digest != described.Digest || size != described.Size {
		return fmt.Errorf("the blob %s is damaged; build the image again", described.Digest)
	}
	return nil
}
