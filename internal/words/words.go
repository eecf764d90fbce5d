// Package words splits a text into words as a POSIX shell does, and joins words so that they come
// apart again. Variables of the environment that are lists are written like this:
//
//	words.Split(`deploy 'deploy/old stuff' MODE="a b"`)  // "deploy", "deploy/old stuff", "MODE=a b"
//
// Blanks part words. Nothing is special between single quotes. Between double quotes a backslash
// keeps ", \, $ and ` as they are; outside of quotes it keeps any character. Nothing is expanded:
// $HOME, * and # stand for themselves.
package words

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Split splits a text into words. It is an error where a quote is not closed, or a backslash ends
// the text. An error does not repeat the text, which may hold a secret.
func Split(text string) ([]string, error) {
	s := splitter{}
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		s.next(r, text[:size])
		text = text[size:]
	}
	return s.end()
}

// splitter has read a part of a text.
type splitter struct {
	words   []string
	word    strings.Builder
	in      bool // a word has begun
	quote   rune // that is open; zero outside of quotes
	escaped bool // the character before was a backslash
}

// next takes the next character, r, which is written as the bytes in text.
func (s *splitter) next(r rune, text string) {
	switch {
	case s.escaped:
		s.escaped = false
		if r == '\n' { // the line goes on
			return
		}
		if s.quote == '"' && !strings.ContainsRune("\"\\$`", r) {
			s.word.WriteByte('\\')
		}
		s.add(text)
	case r == '\\' && s.quote != '\'':
		s.escaped = true
	case s.quote != 0 && r == s.quote:
		s.quote = 0
	case s.quote != 0:
		s.add(text)
	case r == '\'' || r == '"':
		s.quote, s.in = r, true
	case unicode.IsSpace(r):
		s.close()
	default:
		s.add(text)
	}
}

func (s *splitter) add(text string) {
	s.word.WriteString(text)
	s.in = true
}

func (s *splitter) close() {
	if s.in {
		s.words = append(s.words, s.word.String())
		s.word.Reset()
		s.in = false
	}
}

func (s *splitter) end() ([]string, error) {
	switch {
	case s.quote != 0:
		return nil, fmt.Errorf(
			"the quote %c is not closed; close it, or write \\%[1]c where the character itself is meant",
			s.quote,
		)
	case s.escaped:
		return nil, errors.New(`it ends with a backslash; write \\ where the character itself is meant`)
	}
	s.close()
	return s.words, nil
}

// Join returns the text that Split splits into the words. What needs no quotes gets none.
func Join(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quote(word)
	}
	return strings.Join(quoted, " ")
}

func quote(word string) string {
	if word != "" &&
		!strings.ContainsFunc(word, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`'"\`, r) }) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
