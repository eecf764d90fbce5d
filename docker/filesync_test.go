package docker

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// contextOf is a build context with these files.
func contextOf(t *testing.T, files map[string]string) *buildContext {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	c, err := openBuildContext(dir, "")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// receiver asks for a folder as BuildKit does.
type receiver struct {
	t        *testing.T
	ask      io.WriteCloser
	response *http.Response
}

func receive(t *testing.T, s *buildSession, folder string, paths ...string) *receiver {
	t.Helper()
	client := sessionClient(t, s)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://session"+methodFileSync, r)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/grpc")
	req.Header["dir-name"] = []string{folder}
	req.Header["followpaths"] = paths
	response, err := client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { response.Body.Close() })
	return &receiver{t: t, ask: w, response: response}
}

func (r *receiver) send(kind, id uint64) {
	_, err := r.ask.Write(framed(appendVarint(appendVarint(nil, fieldType, kind), fieldID, id)))
	require.NoError(r.t, err)
}

// files are what is sent before the end of the list, in words.
func (r *receiver) files() (files []string) {
	for {
		message, err := readFrame(r.response.Body)
		require.NoError(r.t, err)
		var stat []byte
		require.NoError(r.t, eachField(message, func(number protowire.Number, value []byte, n uint64) error {
			switch number {
			case fieldType:
				require.EqualValues(r.t, packetStat, n)
			case fieldStat:
				stat = value
			}
			return nil
		}))
		if stat == nil {
			return files
		}
		var name, link string
		var mode fs.FileMode
		var size uint64
		require.NoError(r.t, eachField(stat, func(number protowire.Number, value []byte, n uint64) error {
			switch number {
			case statPath:
				name = string(value)
			case statMode:
				mode = fs.FileMode(n)
			case statSize:
				size = n
			case statLink:
				link = " to " + string(value)
			}
			return nil
		}))
		if mode.IsDir() {
			name += "/"
		} else if link == "" {
			name += fmt.Sprintf(" %d", size)
		}
		files = append(files, name+link)
	}
}

// content is that of a file.
func (r *receiver) content(id uint64) string {
	r.send(packetAsk, id)
	var content []byte
	for {
		kind, _, text, err := readPacket(r.response.Body)
		require.NoError(r.t, err)
		require.EqualValues(r.t, packetData, kind, text)
		if text == "" {
			return string(content)
		}
		content = append(content, text...)
	}
}

// end is the call's status, and what it says.
func (r *receiver) end() (status, message string) {
	_, err := io.Copy(io.Discard, r.response.Body)
	require.NoError(r.t, err)
	return r.response.Trailer.Get("Grpc-Status"), r.response.Trailer.Get("Grpc-Message")
}

func TestFileSync(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 20_000)
	files := contextOf(t, map[string]string{
		"Dockerfile": "FROM scratch\n", ".dockerignore": "secret\nb\n!b/keep\nDockerfile\n", "secret": "s3cret", "a/large": large, "a-b": "", "b/keep": "kept", "b/c": "",
	})
	require.NoError(t, os.Symlink("large", filepath.Join(files.root.Name(), "a", "link")))
	s := newBuildSession(files, nil, nil)

	r := receive(t, s, contextFolder)
	assert.Equal(t, []string{".dockerignore 28", "a/", "a/large 320000", "a/link to large", "a-b 0", "b/", "b/keep 4"}, r.files(),
		"in the order that the engine wants, with the folders of what is not ignored")
	assert.Equal(t, large, r.content(2))
	assert.Equal(t, "kept", r.content(6))
	assert.Empty(t, r.content(4))
	r.send(packetEnd, 0)
	status, message := r.end()
	assert.Equal(t, codeOK, status, message)

	require.NoError(t, os.WriteFile(filepath.Join(files.root.Name(), "Dockerfile"), []byte("FROM elsewhere\n"), 0o644))
	r = receive(t, s, dockerfileFolder, "Dockerfile", "Dockerfile.dockerignore")
	assert.Equal(t, []string{".dockerignore 28", "Dockerfile 13"}, r.files())
	assert.Equal(t, "FROM scratch\n", r.content(1), "as it was checked")
	r = receive(t, s, contextFolder, ".dockerignore")
	assert.Equal(t, []string{".dockerignore 28", "Dockerfile 13"}, r.files(), "and not all of the context")
}

func TestFileSyncRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		folder string
		say    func(r *receiver)
		want   string
	}{
		"another folder":        {"/etc", func(*receiver) {}, "is no part of the build"},
		"a file twice":          {contextFolder, func(r *receiver) { r.content(0); r.send(packetAsk, 0) }, "a file 0 that there is not"},
		"a folder's content":    {contextFolder, func(r *receiver) { r.send(packetAsk, 1) }, "a file 1 that there is not"},
		"a file of no number":   {contextFolder, func(r *receiver) { r.send(packetAsk, 1<<31) }, "that there is not"},
		"an error of its own":   {contextFolder, func(r *receiver) { r.send(packetErr, 0) }, "could not take a file"},
		"what is no message":    {contextFolder, func(r *receiver) { _, _ = r.ask.Write(framed([]byte{0xff, 0xff})) }, "EOF"},
		"a message too long":    {contextFolder, func(r *receiver) { _, _ = r.ask.Write([]byte{0, 0xff, 0xff, 0xff, 0xff}) }, "too long"},
		"an end without a word": {contextFolder, func(r *receiver) { r.ask.Close() }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBuildSession(contextOf(t, map[string]string{"Dockerfile": "FROM scratch\n", "a/b": "c"}), nil, nil)
			r := receive(t, s, test.folder)
			if test.folder == contextFolder {
				require.Len(t, r.files(), 3)
			}
			test.say(r)
			status, message := r.end()
			assert.Equal(t, codeUnknown, status)
			message, err := url.PathUnescape(message)
			require.NoError(t, err)
			assert.Contains(t, message, test.want)
		})
	}
}

// A file that cannot be read ends the build with the reason.
func TestFileSyncTellsWhatCannotBeRead(t *testing.T) {
	files := contextOf(t, map[string]string{"Dockerfile": "FROM scratch\n", "a": "b"})
	s := newBuildSession(files, nil, nil)
	r := receive(t, s, contextFolder)
	require.Len(t, r.files(), 2)
	require.NoError(t, os.Remove(filepath.Join(files.root.Name(), "a")))
	r.send(packetAsk, 1)
	kind, _, text, err := readPacket(r.response.Body)
	require.NoError(t, err)
	assert.EqualValues(t, packetErr, kind)
	assert.Contains(t, text, "reading the build context: ")
	r.ask.Close()
	status, _ := r.end()
	assert.Equal(t, codeUnknown, status)
	assert.ErrorIs(t, s.failure(), fs.ErrNotExist)
}

// The session ends in the middle of a file that nobody reads.
func TestFileSyncCancelled(t *testing.T) {
	files := contextOf(t, map[string]string{"Dockerfile": "FROM scratch\n", "large": strings.Repeat("x", 10<<20)})
	r := receive(t, newBuildSession(files, nil, nil), contextFolder)
	require.Len(t, r.files(), 2)
	r.send(packetAsk, 1) // and the test's end waits for the session's
}

func FuzzFileSyncPacket(f *testing.F) {
	f.Add(appendVarint(appendVarint(nil, fieldType, packetAsk), fieldID, 7))
	f.Add(appendBytes(appendVarint(nil, fieldType, packetErr), fieldData, []byte("no space left")))
	f.Fuzz(func(t *testing.T, message []byte) {
		_, _, text, err := readPacket(bytes.NewReader(framed(message)))
		if err == nil && len(text) > len(message) {
			t.Errorf("%q is longer than what it was read from", text)
		}
	})
}
