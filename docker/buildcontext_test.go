package docker

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func packed(t *testing.T, dir, dockerfile string) (names []string, raw []byte) {
	t.Helper()
	files, err := openBuildContext(dir, dockerfile)
	require.NoError(t, err)
	defer files.Close()
	var buffer bytes.Buffer
	require.NoError(t, files.write(t.Context(), &buffer))
	raw = bytes.Clone(buffer.Bytes())
	for archive := tar.NewReader(&buffer); ; {
		entry, err := archive.Next()
		if err == io.EOF {
			return names, raw
		}
		require.NoError(t, err)
		names = append(names, entry.Name)
	}
}

func TestBuildContextIgnores(t *testing.T) {
	tests := []struct {
		name   string
		ignore map[string]string
		want   []string
	}{
		{name: "nothing", want: []string{"Dockerfile", "a/", "a/keep", "a/x.log", "b/", "b/c/", "b/c/x.log", "main.go"}},
		{name: "folder", ignore: map[string]string{".dockerignore": "a\n"}, want: []string{"Dockerfile", ".dockerignore", "b/", "b/c/", "b/c/x.log", "main.go"}},
		{
			name: "exception in a folder", ignore: map[string]string{".dockerignore": "a\n!a/keep\n"},
			want: []string{"Dockerfile", ".dockerignore", "a/keep", "b/", "b/c/", "b/c/x.log", "main.go"},
		},
		{
			name: "everything but", ignore: map[string]string{".dockerignore": "*\n!**/x.log\n"},
			want: []string{"Dockerfile", ".dockerignore", "a/x.log", "b/c/x.log"},
		},
		{
			name: "any depth, comments, CRLF", ignore: map[string]string{".dockerignore": "\ufeff# logs\r\n/**/*.log\r\n\r\n"},
			want: []string{"Dockerfile", ".dockerignore", "a/", "a/keep", "b/", "b/c/", "main.go"},
		},
		{
			name:   "the Dockerfile's own file counts alone",
			ignore: map[string]string{".dockerignore": "a\nb", "Dockerfile.dockerignore": "main.go\n*.dockerignore\nDockerfile\n.dockerignore"},
			want:   []string{"Dockerfile", "a/", "a/keep", "a/x.log", "b/", "b/c/", "b/c/x.log"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"Dockerfile": "FROM x", "main.go": "", "a/keep": "", "a/x.log": "", "b/c/x.log": ""})
			writeFiles(t, dir, test.ignore)
			names, _ := packed(t, dir, "")
			assert.Equal(t, test.want, names)
		})
	}
}

func TestBuildContextOddFiles(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"docker/real": "FROM x", "bin/run": "#!/bin/sh"})
	require.NoError(t, os.Symlink("docker/real", filepath.Join(dir, "Dockerfile")))
	require.NoError(t, os.Symlink("/etc/shadow", filepath.Join(dir, "out")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	require.NoError(t, os.Chmod(filepath.Join(dir, "bin/run"), 0o750))
	_, raw := packed(t, dir, "")
	found := map[string]*tar.Header{}
	for archive := tar.NewReader(bytes.NewReader(raw)); ; {
		entry, err := archive.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		found[entry.Name] = entry
	}
	assert.NotContains(t, found, "pipe")
	assert.EqualValues(t, 6, found["Dockerfile"].Size, "the engine gets the file behind the link")
	assert.EqualValues(t, tar.TypeSymlink, found["out"].Typeflag)
	assert.Equal(t, "/etc/shadow", found["out"].Linkname)
	assert.EqualValues(t, 0o750, found["bin/run"].Mode)
}

func TestBuildContextIsDeterministic(t *testing.T) {
	when := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	var first []byte
	for _, order := range [][]string{{"a", "b", "Dockerfile"}, {"Dockerfile", "b", "a"}} {
		dir := t.TempDir()
		for _, name := range order {
			writeFiles(t, dir, map[string]string{name: "content"})
			require.NoError(t, os.Chtimes(filepath.Join(dir, name), time.Now(), when))
		}
		_, raw := packed(t, dir, "")
		if first == nil {
			first = raw
		}
		assert.Equal(t, first, raw)
	}
}

// What a caller leaves out stays out, whatever .dockerignore says.
func TestBuildContextWithout(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch", ".dockerignore": "*\n!build\n", "build/image/blob": "x", "build/app": "y"})
	for _, ignored := range []string{"*\n!build\n", ""} {
		writeFiles(t, dir, map[string]string{".dockerignore": ignored})
		c, err := openBuildContext(dir, "", "build/image")
		require.NoError(t, err)
		defer c.Close()
		var out bytes.Buffer
		require.NoError(t, c.write(t.Context(), &out))
		assert.Contains(t, out.String(), "build/app")
		assert.NotContains(t, out.String(), "blob")
	}
}

// Whatever is ignored by whatever pattern: the tar file holds names inside the folder alone, and of what is not ignored all.
func FuzzBuildContext(f *testing.F) {
	for _, seed := range []string{
		"*.md\n!README.md\n", "..\n../..\n/etc/passwd\n", "**\n!a/b/c\n", "a/**/c\n!a/b\n", "[\n", "\\\n", "a\x00b\n", "# comment\n\n!\n", "[a-\n", "!..\n", "a/\n/a\n./a\n",
	} {
		f.Add(seed)
	}
	files := []string{"Dockerfile", "README.md", "a/b/c", "a/b/d.md", "a/c", "b", "b.md", "..c", "a b", "[", "é/ü"}
	f.Fuzz(func(t *testing.T, ignored string) {
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{ignoreFile: ignored})
		for _, name := range files {
			writeFiles(t, dir, map[string]string{name: "x"})
		}
		c, err := openBuildContext(dir, "")
		if err != nil {
			if !strings.Contains(err.Error(), ignoreFile) {
				t.Fatal(err)
			}
			return
		}
		defer c.Close()
		var out bytes.Buffer
		if err := c.write(t.Context(), &out); err != nil {
			if !strings.Contains(err.Error(), "what to ignore") {
				t.Fatal(err)
			}
			return
		}
		got := map[string]bool{}
		for archive := tar.NewReader(&out); ; {
			header, err := archive.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if name := strings.TrimSuffix(header.Name, "/"); !filepath.IsLocal(name) || got[name] {
				t.Fatalf("%q leads elsewhere, or is there twice", name)
			} else {
				got[name] = true
			}
		}
		for _, name := range files {
			// As if no folder were left out as a whole.
			var ignored bool
			var above patternmatcher.MatchInfo
			for end := range name + "/" {
				if end == len(name) || name[end] == '/' {
					if ignored, above, err = c.ignore.MatchesUsingParentResults(name[:end], above); err != nil {
						t.Fatal(err)
					}
				}
			}
			if want := name == "Dockerfile" || !ignored; got[name] != want {
				t.Fatalf("%q is in the context: %t", name, got[name])
			}
		}
	})
}
