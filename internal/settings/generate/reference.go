package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"

	"github.com/grimoire-build/grimoire/internal/settings"
)

// preface stands before the tables.
//
//go:embed preface.md
var preface string

// sections are the parts of the reference: the rows, their heading, and a sentence before them.
var sections = []struct {
	heading, text string
	has           func(*settings.Setting) bool
}{
	{"The service", "", inGroup("")},
	{"Tests", "", inGroup("Test")},
	{"Image", "", inGroup("Image")},
	{"Deployment", "", inGroup("Deploy")},
	{
		"The run, and logins",
		"These can be set in the environment alone.",
		func(s *settings.Setting) bool { return s.Field == "" && s.Owner == "" },
	},
	{
		"Variables of others", "Others have defined these. They are used where they are set.",
		func(s *settings.Setting) bool { return s.Owner != "" },
	},
}

func inGroup(group string) func(*settings.Setting) bool {
	return func(s *settings.Setting) bool {
		of, _ := split(s.Field)
		return s.Field != "" && of == group
	}
}

// reference is docs/settings.md.
func reference() []byte {
	var b bytes.Buffer
	b.WriteString(preface)
	for _, section := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n", section.heading)
		if section.text != "" {
			fmt.Fprintf(&b, "%s\n\n", section.text)
		}
		b.WriteString("| environment | field | is | type | default | needed by |\n|---|---|---|---|---|---|\n")
		for i := range settings.Table {
			if s := &settings.Table[i]; section.has(s) {
				row(&b, s)
			}
		}
	}
	return b.Bytes()
}

func row(b *bytes.Buffer, s *settings.Setting) {
	about := capital(s.Is) + "."
	if s.More != "" {
		about += " " + s.More
	}
	if s.Secret {
		about += " It is a secret."
	}
	if len(s.Variants) > 0 {
		about += " Also: " + code(s.Variants...) + "."
	}
	if s.Owner != "" {
		about += " Defined by " + s.Owner + "."
	}
	targets := "all targets"
	if len(s.Targets) > 0 {
		targets = strings.Join(s.Targets, ", ")
	}
	fmt.Fprintf(
		b,
		"| %s | %s | %s | %s | %s | %s |\n",
		code(s.Env),
		code(s.Field),
		cell(about),
		s.Kind.Name,
		cell(s.DefaultText()),
		targets,
	)
}

// capital is the text with a capital letter at its beginning.
func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// code is names in the type of code; empty for an empty one.
func code(names ...string) string {
	var all []string
	for _, name := range names {
		if name != "" {
			all = append(all, "`"+name+"`")
		}
	}
	return strings.Join(all, ", ")
}
