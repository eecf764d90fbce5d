// Package mask strikes secrets out of text, in the encodings in which they are met: as they are, in base64 (alone and
// inside of longer text, as in a basic login), in hexadecimal, and escaped for URLs, JSON, XML, HTML and Go strings.
package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"html"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Mark stands where a secret stood.
const Mark = "***"

// Shortest is how long a secret has to be to be masked, in bytes. Anything shorter would strike out innocent text.
const Shortest = 6

// Masker strikes out the secrets that it was told. The zero value knows none. It may be used from several goroutines.
type Masker struct {
	mu       sync.RWMutex
	secrets  []string // every form of every secret, longest first
	replacer *strings.Replacer
	longest  int
}

// Add tells m of a secret. Each of its lines is one as well, where it is long enough; what is too short is not masked, and
// said so by the result.
func (m *Masker) Add(secret string) bool {
	forms := forms(secret)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, form := range forms {
		if !slices.Contains(m.secrets, form) {
			m.secrets = append(m.secrets, form)
		}
	}
	// Of two that begin alike the longer one has to be looked for first.
	slices.SortFunc(m.secrets, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	pairs := make([]string, 0, 2*len(m.secrets))
	for _, s := range m.secrets {
		pairs = append(pairs, s, Mark)
		m.longest = max(m.longest, len(s))
	}
	m.replacer = strings.NewReplacer(pairs...)
	return len(forms) > 0
}

// forms are the texts by which a secret could be known, each at least Shortest long.
func forms(secret string) []string {
	var all []string
	add := func(s string) {
		if len(s) >= Shortest && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	parts := []string{secret, strings.TrimSpace(secret)}
	if strings.ContainsAny(secret, "\r\n") {
		for line := range strings.Lines(secret) {
			parts = append(parts, strings.TrimSpace(line))
		}
	}
	for _, s := range parts {
		if len(s) < Shortest {
			continue
		}
		add(s)
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			add(strings.TrimRight(encoding.EncodeToString([]byte(s)), "="))
			for offset := range 3 {
				add(inside(encoding, s, offset))
			}
		}
		add(hex.EncodeToString([]byte(s)))
		add(strings.ToUpper(hex.EncodeToString([]byte(s))))
		add(url.QueryEscape(s))
		add(url.PathEscape(s))
		add(url.UserPassword("", s).String()[1:])
		add(strings.Trim(strconv.Quote(s), `"`))
		add(html.EscapeString(s))
		var escaped bytes.Buffer
		_ = xml.EscapeText(&escaped, []byte(s)) // into memory
		add(escaped.String())
		for _, escapeHTML := range []bool{true, false} {
			add(quoteJSON(s, escapeHTML))
		}
	}
	return all
}

// inside is the part of a longer text's base64 that s alone decides, where s stands offset bytes after a multiple of three.
func inside(encoding *base64.Encoding, s string, offset int) string {
	text := encoding.EncodeToString(append(make([]byte, offset), s...))
	first := (offset*8 + 5) / 6
	last := (offset + len(s)) * 8 / 6
	return text[first:last]
}

func quoteJSON(s string, escapeHTML bool) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(escapeHTML)
	if encoder.Encode(s) != nil {
		return ""
	}
	return strings.TrimSuffix(strings.Trim(strings.TrimSpace(b.String()), `"`), `"`)
}

// Mask returns s with Mark in place of every secret.
func (m *Masker) Mask(s string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.replacer == nil {
		return s
	}
	return m.replacer.Replace(s)
}

// pending is how much of the end of s could be the beginning of a secret, in bytes.
func (m *Masker) pending(s []byte) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for n := min(m.longest-1, len(s)); n > 0; n-- {
		tail := s[len(s)-n:]
		for _, secret := range m.secrets {
			if len(secret) <= n {
				break // they are sorted
			}
			if secret[0] == tail[0] && secret[:n] == string(tail) {
				return n
			}
		}
	}
	return 0
}

// Writer masks what is written to W, wherever the pieces begin and end. What could be the beginning of a secret is kept
// until more is written, or Flush.
type Writer struct {
	Masker *Masker
	W      io.Writer
	kept   []byte
}

// Write masks p. The count is that of p, whatever became of it.
func (w *Writer) Write(p []byte) (int, error) {
	text := append(w.kept, p...)
	// A secret that is whole is struck out first: its end must not be taken for the beginning of another.
	masked := []byte(w.Masker.Mask(string(text)))
	keep := w.Masker.pending(masked)
	w.kept = slices.Clone(masked[len(masked)-keep:])
	if _, err := w.W.Write(masked[:len(masked)-keep]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what was kept.
func (w *Writer) Flush() error {
	kept := w.kept
	w.kept = nil
	if len(kept) == 0 {
		return nil
	}
	_, err := w.W.Write(kept)
	return err
}
