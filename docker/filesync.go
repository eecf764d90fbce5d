package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const methodFileSync = "/moby.filesync.v1.FileSync/DiffCopy"

// The folders that BuildKit asks for by name, and the header that has it. Source: frontend/dockerfile/builder and session/filesync of
// https://github.com/moby/buildkit
const (
	folderHeader     = "Dir-Name"
	pathsHeader      = "Followpaths"
	dockerfileFolder = "dockerfile"
	contextFolder    = "context"
)

// Types of packets, and fields of a packet and of the description of a file in it. Source: types/wire.proto and types/stat.proto of
// https://github.com/tonistiigi/fsutil
const (
	packetStat = 0
	packetAsk  = 1
	packetData = 2
	packetEnd  = 3
	packetErr  = 4

	fieldType = 1
	fieldStat = 2
	fieldID   = 3
	fieldData = 4

	statPath    = 1
	statMode    = 2
	statSize    = 5
	statModTime = 6
	statLink    = 7
)

// sharedKey names the folder of a context among all that an engine has been sent, so that it asks for what has changed there, and for nothing
// else. That is known by size and time of a file; see modified.
func (c *buildContext) sharedKey() string {
	dir, err := filepath.Abs(c.root.Name())
	if err != nil {
		return "" // sent whole
	}
	host, _ := os.Hostname()
	sum := sha256.Sum256([]byte("grimoire\x00" + host + "\x00" + dir))
	return hex.EncodeToString(sum[:])
}

// modified is when a file was changed. A time in whole seconds was set by somebody, as archives and reproducible builds do it, and may be that of
// another content of the same size. The content says then what goes below the seconds, of which an image keeps nothing.
func (c *buildContext) modified(name string, info fs.FileInfo) (time.Time, error) {
	at := info.ModTime()
	if !info.Mode().IsRegular() || at.Nanosecond() != 0 {
		return at, nil
	}
	file, err := c.root.Open(name)
	if err != nil {
		return at, fmt.Errorf("reading the build context: %w", err)
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return at, fmt.Errorf("reading the build context: %w", err)
	}
	return at.Add(time.Duration(binary.BigEndian.Uint64(h.Sum(nil)) % uint64(time.Second))), nil
}

// fileSync sends one of the folders to BuildKit: first what each file is, and then the content of those that it asks for.
type fileSync struct {
	ctx     context.Context
	files   *buildContext
	stop    func()
	sending sync.Mutex
	out     io.Writer
	flush   func() error

	mu     sync.Mutex
	failed func(error) // is told of what could not be read

	names map[uint32]string // of the files that may be asked for
	next  uint32
	err   error // the first
}

// sendError is that the engine did not take what was sent, for which it has a reason that it tells elsewhere.
type sendError struct{ error }

func (e sendError) Unwrap() error { return e.error }

// fail notes why sending ended, and tells the engine.
func (s *fileSync) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		if !errors.As(err, &sendError{}) && s.ctx.Err() == nil {
			s.failed(err)
		}
		_ = s.send(appendBytes(appendVarint(nil, fieldType, packetErr), fieldData, []byte(err.Error())), true)
		s.stop()
	}
}

// sync answers a request for a folder, to its end. It returns what stopped it.
func (s *buildSession) sync(w http.ResponseWriter, req *http.Request) error {
	ctx, cancel := context.WithCancel(req.Context())
	stop := func() {
		cancel()
		req.Body.Close() // which ends the reading
	}
	defer stop()
	to := &fileSync{failed: s.fail, ctx: ctx, stop: stop, files: s.files, out: w, flush: http.NewResponseController(w).Flush, names: map[uint32]string{}}
	walk := to.context
	if folder := req.Header.Get(folderHeader); folder == dockerfileFolder || slices.Equal(req.Header.Values(pathsHeader), []string{ignoreFile}) {
		walk = to.dockerfile
	} else if folder != contextFolder {
		return fmt.Errorf("the engine asks for the folder %q, which is no part of the build", folder)
	}
	if err := to.flush(); err != nil {
		return err
	}
	asked := make(chan uint32, 128)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer stop()
	sending.Go(func() {
		err := walk()
		if err == nil {
			err = to.send(appendVarint(nil, fieldType, packetStat), true) // without a file: the last
		}
		if err != nil {
			to.fail(err)
		}
	})
	for range 4 {
		sending.Go(func() {
			for {
				select {
				case id := <-asked:
					if err := to.content(id); err != nil {
						to.fail(err)
						return
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	for {
		kind, id, text, err := readPacket(req.Body)
		to.mu.Lock()
		failed := to.err
		to.mu.Unlock()
		switch {
		case failed != nil:
			return failed
		case err != nil:
			return err
		}
		switch kind {
		case packetAsk:
			select {
			case asked <- id:
			case <-ctx.Done():
			}
		case packetErr:
			return fmt.Errorf("the engine could not take a file: %s", text)
		case packetEnd:
			return to.send(appendVarint(nil, fieldType, packetEnd), true)
		}
	}
}

// readPacket reads what an engine says.
func readPacket(r io.Reader) (kind, id uint32, text string, err error) {
	message, err := readFrame(r)
	if err != nil {
		return 0, 0, "", err
	}
	err = eachField(message, func(number protowire.Number, value []byte, n uint64) error {
		switch number {
		case fieldType:
			kind = uint32(n)
		case fieldID:
			id = uint32(n)
		case fieldData:
			text = string(value)
		}
		return nil
	})
	return kind, id, text, err
}

// context describes the files of the context.
func (s *fileSync) context() error {
	known := map[string]bool{".": true}
	return s.files.walk(s.ctx, func(name string, entry fs.DirEntry) error {
		if err := s.folders(path.Dir(name), known); err != nil {
			return err
		}
		info, link, err := s.files.describe(s.ctx, name, entry)
		if info == nil || err != nil {
			return err
		}
		known[name] = info.IsDir()
		modified, err := s.files.modified(name, info)
		if err != nil {
			return err
		}
		return s.describe(name, info.Mode(), info.Size(), modified, link)
	})
}

// folders describes the folders above a file that are ignored, while the file is not.
func (s *fileSync) folders(name string, known map[string]bool) error {
	if known[name] {
		return nil
	}
	if err := s.folders(path.Dir(name), known); err != nil {
		return err
	}
	known[name] = true
	info, err := s.files.root.Lstat(name)
	if err != nil {
		return fmt.Errorf("reading the build context: %w", err)
	}
	return s.describe(name, info.Mode(), 0, info.ModTime(), "")
}

// dockerfile describes the Dockerfile as it was checked, and the file with what to ignore.
func (s *fileSync) dockerfile() error {
	known := map[string]bool{".": true}
	names := []string{s.files.dockerfile}
	if s.files.ignoreFile != "" {
		names = append(names, s.files.ignoreFile)
	}
	slices.SortFunc(names, func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) })
	for _, name := range names {
		if err := s.folders(path.Dir(name), known); err != nil {
			return err
		}
		info, err := s.files.root.Stat(name)
		if err != nil {
			return fmt.Errorf("reading the build context: %w", err)
		}
		size := info.Size()
		if name == s.files.dockerfile {
			size = int64(len(s.files.content))
		}
		modified, err := s.files.modified(name, info)
		if err != nil {
			return err
		}
		if err := s.describe(name, 0o644, size, modified, ""); err != nil {
			return err
		}
	}
	return nil
}

// describe sends what a file is. Whose it is, is left at root.
func (s *fileSync) describe(name string, mode fs.FileMode, size int64, modified time.Time, link string) error {
	s.mu.Lock()
	if mode.IsRegular() {
		s.names[s.next] = name
	}
	s.next++
	s.mu.Unlock()
	stat := appendBytes(nil, statPath, []byte(name))
	stat = appendVarint(stat, statMode, uint64(mode))
	if !mode.IsDir() {
		stat = appendVarint(stat, statSize, uint64(size))
	}
	stat = appendVarint(stat, statModTime, uint64(modified.UnixNano()))
	if link != "" {
		stat = appendBytes(stat, statLink, []byte(filepath.ToSlash(link)))
	}
	return s.send(appendBytes(appendVarint(nil, fieldType, packetStat), fieldStat, stat), false)
}

// content sends the content of a file, and its end.
func (s *fileSync) content(id uint32) error {
	s.mu.Lock()
	name, ok := s.names[id]
	delete(s.names, id)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("the engine asks for a file %d that there is not", id)
	}
	var from io.Reader
	if name == s.files.dockerfile {
		from = bytes.NewReader(s.files.content)
	} else {
		file, err := s.files.root.Open(name)
		if err != nil {
			return fmt.Errorf("reading the build context: %w", err)
		}
		defer file.Close()
		from = file
	}
	packet := appendVarint(appendVarint(nil, fieldType, packetData), fieldID, uint64(id))
	part := make([]byte, 32<<10)
	for {
		n, err := from.Read(part)
		if n > 0 {
			if err := s.send(appendBytes(packet[:len(packet):len(packet)], fieldData, part[:n]), false); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return s.send(packet, true)
		}
		if err != nil {
			return fmt.Errorf("reading the build context: %w", err)
		}
	}
}

// send sends a packet, at once or with what comes after it.
func (s *fileSync) send(packet []byte, atOnce bool) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(packet)))
	_, err := s.out.Write(append(frame, packet...))
	if err == nil && atOnce {
		err = s.flush()
	}
	if err != nil {
		return sendError{err}
	}
	return nil
}
