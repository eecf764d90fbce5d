package settings

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// List is what `mage settings` tells.
type List struct {
	// Version of the format of JSON, 1.
	Version int `json:"version"`
	// Settings are the rows of the table.
	Settings []Entry `json:"settings"`
	// Misspelt are variables of the environment that are nearly settings.
	Misspelt []Suggestion `json:"misspelt,omitempty"`
	// Unknown are variables that begin like settings and are none.
	Unknown []string `json:"unknown,omitempty"`
	// Errors are what is wrong with the values.
	Errors []string `json:"errors,omitempty"`
}

// Entry is a setting in a List.
type Entry struct {
	// Name is the field of targets.Service; of what only the environment says, the variable.
	Name string `json:"name"`
	// Variable is the variable of the environment; empty where only targets.Configure says it.
	Variable string `json:"variable,omitempty"`
	// Type is what its values are.
	Type string `json:"type"`
	// Value is what holds, as the environment would say it. That of a secret is masked.
	Value string `json:"value"`
	// Source is where it comes from: environment, Configure, what a default is derived from, or
	// default.
	Source string `json:"source"`
	// Replaced is what Configure says, where the environment goes before it.
	Replaced string `json:"replaced,omitempty"`
	// Default says what the default is, in words where that depends on something.
	Default string `json:"default"`
	// About says what the setting is.
	About string `json:"about"`
	// Targets need it; none means all of them.
	Targets []string `json:"targets,omitempty"`
	// Secret says that the value is one.
	Secret bool `json:"secret,omitempty"`
	// Owner is who has defined the variable, where that is not Grimoire.
	Owner string `json:"owner,omitempty"`

	group string
}

// Suggestion is a misspelt variable, and the setting that was meant.
type Suggestion struct {
	Name  string `json:"name"`
	Meant string `json:"meant"`
}

// NewList makes the list of the settings that a target needs; of all where that is empty.
// Everything that is told passes through mask.
func NewList(values []Value, target string, mask func(string) string) List {
	l := List{Version: 1}
	for _, v := range values {
		if target != "" && !v.NeededBy(target) {
			continue
		}
		l.Settings = append(l.Settings, Entry{
			Name: v.Name(), Variable: v.Env, Type: v.Kind.Name, Value: mask(v.Text), Source: v.Source,
			Replaced: mask(v.Replaced),
			Default:  v.DefaultText(), About: v.Is, Targets: v.Targets, Secret: v.Secret, Owner: v.Owner,
			group: v.group(),
		})
	}
	return l
}

// JSON writes the list for programs.
func (l List) JSON() (string, error) {
	data, err := json.MarshalIndent(l, "", "  ")
	return string(data) + "\n", err
}

// groups are the parts of the list, with their headings.
var groups = []struct{ name, heading string }{
	{"", "the service"}, {"Test", "tests"}, {"Image", "image"}, {"Deploy", "deployment"},
	{
		"environment",
		"the run, and logins: from the environment alone",
	}, {"others", "variables of other tools that are used, and set here"},
}

// Text writes the list for people. Variables of others are in it where they are set.
func (l List) Text() string {
	var out bytes.Buffer
	for _, g := range groups {
		of := slices.DeleteFunc(slices.Clone(l.Settings), func(e Entry) bool {
			return e.part() != g.name || g.name == "others" && e.Source != FromEnvironment
		})
		if len(of) == 0 {
			continue
		}
		if out.Len() > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "# %s\n", g.heading)
		writeTable(&out, of)
	}
	for _, m := range l.Misspelt {
		fmt.Fprintf(&out, "\n%s is no setting; %s is\n", m.Name, m.Meant)
	}
	if len(l.Unknown) > 0 {
		fmt.Fprintf(&out, "\nthese begin like settings and are none: %s\n", strings.Join(l.Unknown, ", "))
	}
	return out.String()
}

// writeTable writes a line of a table for each setting, and below it what the setting is.
func writeTable(out *bytes.Buffer, of []Entry) {
	var lines bytes.Buffer
	table := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	for _, e := range of {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", e.Name, e.valueText(), e.sourceText(), cmp.Or(e.Variable, "-"))
	}
	_ = table.Flush() // into memory
	for _, e := range of {
		line, _ := lines.ReadString('\n')
		fmt.Fprintf(out, "%s    %s (%s)\n", line, e.About, e.neededBy())
	}
}

// part is the group that the entry is listed in.
func (e Entry) part() string {
	switch {
	case e.Owner != "":
		return "others"
	case e.Name == e.Variable:
		return "environment"
	default:
		return e.group
	}
}

// valueText is the value; where there is none, what it will be.
func (e Entry) valueText() string {
	if e.Value == "" && e.Source != FromEnvironment {
		return "(" + e.Default + ")"
	}
	return cmp.Or(e.Value, "(none)")
}

func (e Entry) sourceText() string {
	if e.Replaced != "" {
		return fmt.Sprintf("%s, before Configure's %s", e.Source, e.Replaced)
	}
	return e.Source
}

func (e Entry) neededBy() string {
	if len(e.Targets) == 0 {
		return "all targets"
	}
	return strings.Join(e.Targets, ", ")
}

// Help lists the settings that a target needs itself, with what they are and their defaults, for
// people; empty where it needs none. Those that every target needs, and those of other tools, are
// left out.
func Help(target string) string {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, s := range ofTarget(target) {
		fmt.Fprintf(
			table,
			"%s\t%s\t%s (default: %s)\n",
			cmp.Or(s.Env, "-"),
			cmp.Or(s.Field, "-"),
			s.Is,
			s.DefaultText(),
		)
	}
	_ = table.Flush() // into memory
	if out.Len() > 0 && len(runs[target]) > 0 {
		fmt.Fprintf(&out, "and those of %s\n", strings.Join(runs[target], ", "))
	}
	return out.String()
}

// Sentence names the settings that a target needs itself, with defaults that are short, for its
// comment; empty where it needs none.
func Sentence(target string) string {
	var all []string
	for _, s := range ofTarget(target) {
		text := s.Env
		if s.Default != "" && s.Derived == "" {
			text += " (" + s.Default + ")"
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return ""
	}
	for _, other := range runs[target] {
		all = append(all, "and those of "+other)
	}
	return "Settings: " + strings.Join(all, ", ") + "."
}

// ofTarget returns the settings that a target needs itself.
func ofTarget(target string) []*Setting {
	var all []*Setting
	for i := range Table {
		if s := &Table[i]; slices.Contains(s.Targets, target) && s.ours() {
			all = append(all, s)
		}
	}
	return all
}
