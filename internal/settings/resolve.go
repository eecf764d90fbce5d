package settings

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"

	"github.com/grimoire-build/grimoire/internal/mask"
)

// The sources of values, besides what defaults are derived from.
const (
	FromEnvironment = "environment"
	FromConfigure   = "Configure"
	FromDefault     = "default"
)

// Value is a setting with what holds.
type Value struct {
	*Setting
	// Text is the value as it may be shown: of a secret, that there is one.
	Text string
	// Source is where it comes from: FromEnvironment, FromConfigure, what a default is derived
	// from, or FromDefault.
	Source string
	// Replaced is what Configure says, where the environment goes before it.
	Replaced string
}

// Problem is a setting that is wrong.
type Problem struct {
	*Setting
	Err error
}

// Resolve fills in the fields of a service, to which it gets a pointer: the environment goes before
// what a field says, and that before the default. It returns the values of all rows, in the order
// of the table, and what is wrong with them. A variable that is empty, or blanks alone, counts as
// unset: so a CI hands on a variable that it does not have.
func Resolve(service any, getenv func(string) string, facts Facts) ([]Value, []Problem) {
	r := resolver{service: reflect.ValueOf(service).Elem(), getenv: getenv, facts: facts}
	for i := range Table {
		r.add(&Table[i])
	}
	return r.values, r.problems
}

type resolver struct {
	service  reflect.Value
	getenv   func(string) string
	facts    Facts
	values   []Value
	problems []Problem
}

func (r *resolver) add(s *Setting) {
	v := Value{Setting: s}
	said := ""
	if s.Env != "" {
		said = strings.TrimSpace(r.getenv(s.Env))
	}
	var (
		field reflect.Value // invalid where there is none
		got   any
		err   error
	)
	if s.Field != "" {
		field = r.field(s.Field)
	}
	configured := field.IsValid() && !unset(field)
	switch {
	case said != "":
		v.Source = FromEnvironment
		if configured {
			v.Replaced = s.shown(field.Interface())
		}
		if got, err = s.Kind.parse(said); err != nil && s.ours() {
			r.fail(s, "from "+s.Env, said, err)
		}
	case configured:
		v.Source, got = FromConfigure, field.Interface()
		if wrong := s.Kind.judge(got); wrong != nil {
			r.fail(s, "from targets.Configure", s.shown(got), wrong)
		}
	}
	if got == nil || err != nil {
		var source string
		if got, source = r.byDefault(s); v.Source == "" {
			v.Source = source
		}
	}
	if field.IsValid() && got != nil {
		field.Set(reflect.ValueOf(got))
	}
	switch {
	case got != nil:
		v.Text = s.shown(got)
	case said != "": // what others have defined, in words of theirs
		v.Text = said
	default:
		v.Text = s.Kind.zero
	}
	r.values = append(r.values, v)
}

// field is a field of the service: "Test.Timeout".
func (r *resolver) field(name string) reflect.Value {
	v := r.service
	for part := range strings.SplitSeq(name, ".") {
		v = v.FieldByName(part)
	}
	return v
}

func unset(field reflect.Value) bool {
	switch field.Kind() {
	case reflect.Slice, reflect.Map:
		return field.Len() == 0
	default:
		return field.IsZero()
	}
}

// byDefault returns the default and where it is from; nil where there is none, or where it is found
// later.
func (r *resolver) byDefault(s *Setting) (value any, source string) {
	text, source := s.Default, cmp.Or(s.From, FromDefault)
	switch {
	case s.Like != "":
		if like := r.field(s.Like); !unset(like) {
			return like.Interface(), s.Like
		}
		return nil, source
	case s.Derive != nil:
		text, source = s.Derive(r.facts)
	}
	if text == "" {
		return nil, source
	}
	value, _ = s.Kind.parse(text) // what is wrong with one that is derived, who needs it says
	return value, source
}

func (r *resolver) fail(s *Setting, from, value string, err error) {
	text := "reading the setting " + s.Name() + " " + from
	switch {
	case s.Secret || s.Kind.quiet:
	case from == "from "+s.Env:
		text += fmt.Sprintf("=%q", s.hidden(value))
	default:
		text += fmt.Sprintf(", %q", value)
	}
	r.problems = append(r.problems, Problem{Setting: s, Err: fmt.Errorf("%s: %w", text, err)})
}

// shown is a value as it may be seen.
func (s *Setting) shown(value any) string {
	if s.Secret {
		return mask.Mark
	}
	return s.Kind.show(value)
}

// hidden is a value, as the environment says it, without a login.
func (s *Setting) hidden(text string) string {
	if s.Kind.login {
		return s.Kind.show(text)
	}
	return text
}
