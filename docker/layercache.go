package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/rs/zerolog"
)

// keptFor is how long a layer that nobody uses stays in the cache.
const keptFor = 14 * 24 * time.Hour

// layerCache is a folder of compressed layers, each named after what is in it, so that a layer is compressed or downloaded once
// and never whole in memory. Several processes may use one at a time.
type layerCache struct{ dir string }

// openLayerCache makes the folder (default: grimoire/layers in the user's cache folder) and removes what nobody has used for two
// weeks.
func openLayerCache(ctx context.Context, dir string) (*layerCache, error) {
	if dir == "" {
		parent, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("finding a place for layers: %w; set HOME or XDG_CACHE_HOME", err)
		}
		dir = filepath.Join(parent, "grimoire", "layers")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a place for layers: %w", err)
	}
	c := &layerCache{dir}
	if err := c.prune(time.Now().Add(-keptFor)); err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("old layers were not removed")
	}
	return c, nil
}

// prune removes what was last used before a time, temporary files of interrupted runs among it.
func (c *layerCache) prune(before time.Time) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() && info.ModTime().Before(before) {
			err = os.Remove(filepath.Join(c.dir, entry.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// used returns the file of a name that the cache has, and marks it as used. One that is not what its digest says any more, after a
// crash of the machine perhaps, is as if it were not there.
func (c *layerCache) used(name string, digest v1.Hash) (string, bool) {
	file := filepath.Join(c.dir, name)
	content, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer content.Close()
	if got, _, err := v1.SHA256(content); err != nil || got != digest {
		return "", false
	}
	now := time.Now()
	return file, os.Chtimes(file, now, now) == nil
}

// create gives write a temporary file, and gives that the name which write returns. The file is there whole or not at all.
func (c *layerCache) create(write func(w io.Writer) (name string, err error)) (string, error) {
	temporary, err := os.CreateTemp(c.dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.Remove(temporary.Name())
	name, err := write(temporary)
	if err = errors.Join(err, temporary.Close()); err != nil {
		return "", err
	}
	file := filepath.Join(c.dir, name)
	return file, os.Rename(temporary.Name(), file)
}

// packing is part of the names of layers that are packed here; another one where the bytes would differ.
const packing = "gzip3"

// pack returns the layer of what write writes as a tar file, compressed unless the cache has that layer. write is called twice:
// hashing a tar file is far cheaper than compressing it.
func (c *layerCache) pack(mediaType types.MediaType, write func(io.Writer) error) (v1.Layer, error) {
	diffID, err := hashOf(write)
	if err != nil {
		return nil, err
	}
	prefix := packing + "-" + diffID.Hex + "-"
	// The name says what the digest is.
	if found, _ := filepath.Glob(filepath.Join(c.dir, prefix+"*")); len(found) == 1 {
		name := filepath.Base(found[0])
		digest, err := v1.NewHash("sha256:" + strings.TrimPrefix(name, prefix))
		if err == nil {
			if file, there := c.used(name, digest); there {
				return newFileLayer(file, digest, diffID, mediaType)
			}
		}
	}
	var digest v1.Hash
	file, err := c.create(func(w io.Writer) (string, error) {
		hash := newHasher()
		packed, err := gzip.NewWriterLevel(io.MultiWriter(w, hash), 3)
		if err != nil {
			return "", err
		}
		if err := errors.Join(write(packed), packed.Close()); err != nil {
			return "", err
		}
		digest = hash.sum()
		return prefix + digest.Hex, nil
	})
	if err != nil {
		return nil, err
	}
	return newFileLayer(file, digest, diffID, mediaType)
}

// keep returns the image with its layers in the cache: each is fetched when it is read for the first time, and checked. again is
// what tries an operation until it succeeds or is given up.
func (c *layerCache) keep(img v1.Image, again func(op func() error) error) v1.Image {
	return &keptImage{Image: img, cache: c, again: again}
}

// keptImage is an image of a registry whose layers are downloaded once.
type keptImage struct {
	v1.Image
	cache *layerCache
	again func(op func() error) error
}

func (i *keptImage) Layers() ([]v1.Layer, error) {
	layers, err := i.Image.Layers()
	if err != nil {
		return nil, err
	}
	for n, layer := range layers {
		layers[n] = &keptLayer{layer, i}
	}
	return layers, nil
}

func (i *keptImage) LayerByDigest(digest v1.Hash) (v1.Layer, error) {
	layer, err := i.Image.LayerByDigest(digest)
	if err != nil {
		return nil, err
	}
	return &keptLayer{layer, i}, nil
}

func (i *keptImage) LayerByDiffID(diffID v1.Hash) (v1.Layer, error) {
	layer, err := i.Image.LayerByDiffID(diffID)
	if err != nil {
		return nil, err
	}
	return &keptLayer{layer, i}, nil
}

type keptLayer struct {
	v1.Layer
	image *keptImage
}

// Descriptor hands on where else a layer can be had from, which the registry's own layer knows.
func (l *keptLayer) Descriptor() (*v1.Descriptor, error) { return partial.Descriptor(l.Layer) }

func (l *keptLayer) Compressed() (io.ReadCloser, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	cache := l.image.cache
	name := "base-" + digest.Hex
	file, there := cache.used(name, digest)
	if !there {
		err = l.image.again(func() (err error) {
			file, err = cache.create(func(w io.Writer) (string, error) { return name, l.download(w, digest) })
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return os.Open(file)
}

// damaged is a blob that is not what its digest says.
type damaged struct{ got, want v1.Hash }

func (d *damaged) Error() string {
	return fmt.Sprintf("a layer arrived as %s and not as %s", d.got, d.want)
}

func (l *keptLayer) download(w io.Writer, digest v1.Hash) error {
	content, err := l.Layer.Compressed()
	if err != nil {
		return err
	}
	defer content.Close()
	hash := newHasher()
	if _, err := io.Copy(io.MultiWriter(w, hash), content); err != nil {
		return err
	}
	if got := hash.sum(); got != digest {
		return &damaged{got, digest}
	}
	return nil
}
