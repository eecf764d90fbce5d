package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/rs/zerolog"
)

// ignoreFile is the file that lists what an engine does not get.
const ignoreFile = ".dockerignore"

// buildContext is a folder with a Dockerfile in it, both checked. The folder is opened as a root, so no link inside it
// leads to a file outside.
type buildContext struct {
	root       *os.Root
	dockerfile string // relative to root, with slashes
	content    []byte // the Dockerfile as it was checked
	ignoreFile string // where the patterns to ignore are from, empty if nowhere
	ignore     *patternmatcher.PatternMatcher
	without    []string
	timeless   bool // files are written as if they were of the epoch
}

// openBuildContext opens dir (default ".") and reads the Dockerfile in it (default "Dockerfile") and what to ignore, with what without
// adds to that.
func openBuildContext(dir, dockerfile string, without ...string) (*buildContext, error) {
	if dir == "" {
		dir = "."
	}
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the build context: %w", err)
	}
	c := &buildContext{root: root, without: without}
	if err := c.read(dockerfile); err != nil {
		root.Close()
		return nil, err
	}
	return c, nil
}

// Close closes the folder.
func (c *buildContext) Close() error { return c.root.Close() }

func (c *buildContext) name() string {
	return filepath.Join(c.root.Name(), filepath.FromSlash(c.dockerfile))
}

func (c *buildContext) read(dockerfile string) error {
	if filepath.IsAbs(dockerfile) {
		dir, err := filepath.Abs(c.root.Name())
		if err != nil {
			return fmt.Errorf("finding the build context: %w", err)
		}
		relative, err := filepath.Rel(dir, dockerfile)
		if err != nil {
			return fmt.Errorf("finding the Dockerfile: %w", err)
		}
		dockerfile = relative
	}
	dockerfile = filepath.Clean(dockerfile)
	if !filepath.IsLocal(dockerfile) {
		return fmt.Errorf("reading the Dockerfile %s: it is outside the build context %s; move it into that folder",
			dockerfile, c.root.Name())
	}
	c.dockerfile = filepath.ToSlash(dockerfile)

	content, err := c.readFile(dockerfile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("reading the Dockerfile %s: %w; write one, or name the file that it is", c.name(), fs.ErrNotExist)
	case err != nil:
		return fmt.Errorf("reading the Dockerfile %s: %w", c.name(), err)
	case len(bytes.TrimSpace(content)) == 0:
		return fmt.Errorf("reading the Dockerfile %s: it is empty", c.name())
	}
	c.content = content

	for _, name := range []string{dockerfile + ignoreFile, ignoreFile} {
		content, err = c.readFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", filepath.Join(c.root.Name(), name), err)
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(content))
		if err == nil {
			c.ignore, err = patternmatcher.New(append(patterns, c.without...))
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", filepath.Join(c.root.Name(), name), err)
		}
		c.ignoreFile = filepath.ToSlash(name)
		return nil
	}
	c.ignore, err = patternmatcher.New(c.without)
	return err
}

// readFile reads a regular file whole; anything else is an error, because a pipe would keep us waiting for ever.
func (c *buildContext) readFile(name string) ([]byte, error) {
	info, err := c.root.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, errors.New("it is a folder")
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	return c.root.ReadFile(name)
}

// write writes the context as a tar file. Its order and its headers depend on the files alone, not on who owns them.
func (c *buildContext) write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	// The Dockerfile goes first and as it was checked, whether it is ignored or not: the engine needs it.
	err := tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: c.dockerfile, Size: int64(len(c.content)), Mode: 0o644, ModTime: time.Unix(0, 0),
	})
	if err != nil {
		return err
	}
	if _, err := tw.Write(c.content); err != nil {
		return err
	}
	err = c.walk(ctx, func(name string, entry fs.DirEntry) error {
		if name == c.dockerfile {
			return nil
		}
		return c.add(ctx, tw, name, entry)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// walk visits what an engine gets, in the order of the names, a folder before what is in it. The Dockerfile is among it unless it is ignored.
func (c *buildContext) walk(ctx context.Context, visit func(name string, entry fs.DirEntry) error) error {
	matches := map[string]patternmatcher.MatchInfo{}
	return fs.WalkDir(c.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading the build context: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if name == "." {
			return nil
		}
		ignored, match, err := c.ignore.MatchesUsingParentResults(name, matches[path.Dir(name)])
		if err != nil {
			return fmt.Errorf("matching %s with what to ignore: %w", name, err)
		}
		if entry.IsDir() {
			matches[name] = match
		}
		switch {
		// The engine reads the patterns too: they tell it whether to hide the Dockerfile from COPY.
		case !ignored, name == ignoreFile && c.ignoreFile == ignoreFile:
			if left, err := c.leftOut(name, entry); left || err != nil {
				return err
			}
			return visit(name, entry)
		case entry.IsDir() && !c.exceptionsBelow(name):
			return fs.SkipDir
		default:
			return nil
		}
	})
}

// leftOut says whether an entry is a folder that holds nothing but what a caller leaves out. It is as if it were not there.
func (c *buildContext) leftOut(name string, entry fs.DirEntry) (bool, error) {
	if !entry.IsDir() || !slices.ContainsFunc(c.without, func(pattern string) bool { return strings.HasPrefix(pattern, name+"/") }) {
		return false, nil
	}
	out, err := patternmatcher.New(c.without)
	if err != nil {
		return false, err
	}
	children, err := fs.ReadDir(c.root.FS(), name)
	if err != nil {
		return false, fmt.Errorf("reading the build context: %w", err)
	}
	for _, child := range children {
		if is, err := out.MatchesOrParentMatches(path.Join(name, child.Name())); !is || err != nil {
			return false, err
		}
	}
	return len(children) > 0, nil
}

// exceptionsBelow says whether a pattern of the form !PATTERN can match something in the folder.
func (c *buildContext) exceptionsBelow(dir string) bool {
	dir += "/"
	for _, pattern := range c.ignore.Patterns() {
		if !pattern.Exclusion() {
			continue
		}
		text := filepath.ToSlash(pattern.String())
		if strings.HasPrefix(text, dir) {
			return true
		}
		if wildcard := strings.IndexAny(text, `*?[\`); wildcard >= 0 && strings.HasPrefix(dir, text[:wildcard]) {
			return true
		}
	}
	return false
}

// describe says what an entry is, and where it leads to if it is a link. What is neither file, folder nor link is left out: it gives nil.
func (c *buildContext) describe(ctx context.Context, name string, entry fs.DirEntry) (info fs.FileInfo, link string, err error) {
	if info, err = entry.Info(); err != nil {
		return nil, "", fmt.Errorf("reading the build context: %w", err)
	}
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if link, err = c.root.Readlink(name); err != nil {
			return nil, "", fmt.Errorf("reading the build context: %w", err)
		}
	default:
		zerolog.Ctx(ctx).Warn().Str("file", name).Stringer("mode", info.Mode()).
			Msg("leaving a file that is no regular one out of the build context")
		return nil, "", nil
	}
	return info, link, nil
}

func (c *buildContext) add(ctx context.Context, tw *tar.Writer, name string, entry fs.DirEntry) error {
	info, link, err := c.describe(ctx, name, entry)
	if info == nil || err != nil {
		return err
	}
	header, err := tar.FileInfoHeader(info, filepath.ToSlash(link))
	if err != nil {
		return fmt.Errorf("reading the build context: %s: %w", name, err)
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	header.ModTime = header.ModTime.Truncate(time.Second)
	if c.timeless {
		header.ModTime = epoch
	}
	header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
	header.PAXRecords = nil
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	file, err := c.root.Open(name)
	if err != nil {
		return fmt.Errorf("reading the build context: %w", err)
	}
	defer file.Close()
	if _, err := io.CopyN(tw, file, header.Size); errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the build context: %s became shorter while it was read", name)
	} else if err != nil {
		return err
	}
	return nil
}
