// Package settings holds the table of all settings: what can be said in targets.Configure, in the
// environment, or in both. Each setting is one row, and everything that is said of a setting
// anywhere comes from that row: how it is read and judged, what `mage settings` lists, the fields
// of targets.Service with their comments, the targets' help, and docs/settings.md.
//
//	go generate ./internal/settings  // after a change to the table
//
// Table has the rows. Resolve fills in a service. Misspelt finds what is nearly the name of a
// setting.
package settings

//go:generate go run ./generate

import (
	"cmp"
	"slices"
	"strings"
)

// Setting is a row of the table.
type Setting struct {
	// Field is the field of targets.Service, "Test.Timeout". It is empty where only the environment
	// says it.
	Field string
	// Env is the variable of the environment. It is empty where only targets.Configure says it.
	Env string
	// Kind is what its values are.
	Kind Kind
	// Default is the value where nobody says one, as the environment would say it.
	Default string
	// Derived says in words what the default is, where that depends on something.
	Derived string
	// From names what a derived default comes from: module, git, kubeconfig.
	From string
	// Derive returns the default, and where it is from. Without it, who needs the default finds it.
	Derive func(Facts) (value, from string)
	// Like is the field whose value is the default. Its row comes first.
	Like string
	// Is completes the sentence "FIELD is …".
	Is string
	// More are sentences that the reference adds.
	More string
	// Targets need the setting. None means all of them.
	Targets []string
	// Secret says that nobody may see the value.
	Secret bool
	// Owner is who has defined the variable, where that is not Grimoire.
	Owner string
	// Common says that the README lists it.
	Common bool
	// Mistaken are other names by which people try to set it.
	Mistaken []string
	// Variants are other variables that say the same for a part.
	Variants []string
}

// Facts are what defaults are derived from.
type Facts struct {
	// Module is the path of the service's module.
	Module string
	// CI says that nobody sits in front of the run.
	CI bool
}

// runs says which other targets a target runs. It needs their settings too.
var runs = map[string][]string{"lint": {"vet"}, "push": {"image"}, "deploy": {"push"}}

// names are the targets that the table knows. Any other is somebody's own.
var names = []string{
	"lint", "vet", "test", "image", "push", "copy", "deploy", "diff", "status", "logs", "rollback", "promote",
	"settings",
}

// NeededBy reports whether a target needs the setting, itself or for another target that it runs. A
// target that the table does not know needs every setting but those of `mage settings`.
func (s *Setting) NeededBy(target string) bool {
	if !slices.Contains(names, target) {
		return !slices.Equal(s.Targets, []string{"settings"})
	}
	return len(s.Targets) == 0 || slices.Contains(s.Targets, target) || slices.ContainsFunc(runs[target], s.NeededBy)
}

// ours reports whether Grimoire has defined the variable.
func (s *Setting) ours() bool { return s.Owner == "" && s.Env != "" }

// Name is the field, and where there is none the variable.
func (s *Setting) Name() string { return cmp.Or(s.Field, s.Env) }

// group is the part of the service that the setting belongs to: "Test", or empty.
func (s *Setting) group() string {
	group, _, ok := strings.Cut(s.Field, ".")
	if !ok {
		return ""
	}
	return group
}

// DefaultText says what the default is.
func (s *Setting) DefaultText() string { return cmp.Or(s.Derived, s.Default, s.Kind.zero, "none") }

// Of returns the row of a variable; nil where there is none.
func Of(env string) *Setting {
	for i := range Table {
		if Table[i].Env == env || slices.Contains(Table[i].Variants, env) {
			return &Table[i]
		}
	}
	return nil
}

// Ours reports whether a variable of the environment is a setting that Grimoire has defined.
func Ours(env string) bool {
	s := Of(env)
	return s != nil && s.ours()
}

// Credentials are the variables that hold, or may hold, a login that a target does not need.
func Credentials(target string) []string {
	var all []string
	for i := range Table {
		if s := &Table[i]; (s.Secret || s.Kind.login) && s.ours() && !s.NeededBy(target) {
			all = append(all, s.Env)
		}
	}
	return all
}
