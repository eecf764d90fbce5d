package settings

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// service is one with a field of each type; its fields are those of the rows that newTable makes.
type service struct {
	Name  string
	Image struct {
		Text  string
		URL   string
		Sure  bool
		Few   int
		Long  time.Duration
		Share float64
		List  []string
		Args  map[string]string
		From  string
	}
}

// withTable has the test use a table of its own.
func withTable(t *testing.T, rows ...Setting) {
	t.Helper()
	before := Table
	t.Cleanup(func() { Table = before })
	Table = rows
}

var rows = []Setting{
	{Field: "Name", Kind: text, Derive: nameOf, From: "module"},
	{Field: "Image.Text", Env: "X_TEXT", Kind: text.orNone(), Targets: []string{"image"}},
	{Field: "Image.URL", Env: "X_URL", Kind: remote, Default: "https://u:p@example.org/a"},
	{Field: "Image.Sure", Env: "X_SURE", Kind: truth},
	{Field: "Image.Few", Env: "X_FEW", Kind: count, Default: "7"},
	{Field: "Image.Long", Env: "X_LONG", Kind: duration, Default: "90m"},
	{Field: "Image.Share", Env: "X_SHARE", Kind: percent, Default: "70"},
	{Field: "Image.List", Env: "X_LIST", Kind: list, Default: "./..."},
	{Field: "Image.Args", Env: "X_ARGS", Kind: assignments},
	{Field: "Image.From", Env: "X_FROM", Kind: remote, Like: "Image.URL"},
	{Env: "X_PASS", Kind: text, Secret: true},
	{Env: "X_OTHER", Kind: count, Owner: "others"},
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// resolved resolves s, and returns the values by the name of the setting.
func resolved(s service, vars map[string]string) (service, map[string]Value, error) {
	values, problems := Resolve(&s, env(vars), Facts{Module: "git.example.org/shop/Pay/v2"})
	byName := map[string]Value{}
	for _, v := range values {
		byName[v.Name()] = v
	}
	var all []error
	for _, p := range problems {
		all = append(all, p.Err)
	}
	return s, byName, errors.Join(all...)
}

func TestDefaults(t *testing.T) {
	withTable(t, rows...)
	s, values, err := resolved(service{}, nil)
	require.NoError(t, err)
	want := service{Name: "pay"}
	want.Image.URL, want.Image.From = "https://u:p@example.org/a", "https://u:p@example.org/a"
	want.Image.Few, want.Image.Long, want.Image.Share, want.Image.List = 7, 90*time.Minute, 70, []string{"./..."}
	assert.Equal(t, want, s)
	for name, want := range map[string][2]string{
		"Name": {"pay", "module"}, "Image.Text": {"", "default"}, "Image.URL": {"https://example.org/a", "default"},
		"Image.Sure": {"false", "default"}, "Image.Long": {"1h30m", "default"},
		"Image.From": {"https://example.org/a", "Image.URL"},
		"X_PASS":     {"", "default"},
	} {
		assert.Equal(t, want, [2]string{values[name].Text, values[name].Source}, name)
	}
}

// The environment goes before Configure, and what it replaces is told.
func TestTheEnvironmentGoesFirst(t *testing.T) {
	withTable(t, rows...)
	said := service{Name: "shop"}
	said.Image.Text, said.Image.Sure, said.Image.Share, said.Image.List = "said", true, 80, []string{"./a b", "./c"}
	said.Image.Args = map[string]string{"B_TOKEN": "secret", "A": "x y"}
	said.Image.URL = "https://u:p@example.org/a"

	s, values, err := resolved(said, nil)
	require.NoError(t, err)
	assert.Equal(t, said.Image.List, s.Image.List)
	assert.Equal(t, Value{Text: "'./a b' ./c", Source: FromConfigure}, without(values["Image.List"]))
	assert.Equal(t, Value{Text: "'A=x y' B_TOKEN=***", Source: FromConfigure}, without(values["Image.Args"]))

	s, values, err = resolved(said, map[string]string{
		"X_TEXT": " other ", "X_SURE": "false", "X_SHARE": "50%", "X_LIST": `one "two three"`, "X_ARGS": "C='x y' D=",
		"X_URL": "https://u:p@example.org/b", "X_PASS": "hunter2", "X_OTHER": "what it likes",
	})
	require.NoError(t, err)
	assert.Equal(t, "other", s.Image.Text)
	assert.False(t, s.Image.Sure)
	assert.InDelta(t, 50, s.Image.Share, 0)
	assert.Equal(t, []string{"one", "two three"}, s.Image.List)
	assert.Equal(t, map[string]string{"C": "x y", "D": ""}, s.Image.Args)
	for name, want := range map[string]Value{
		"Name":        {Text: "shop", Source: FromConfigure},
		"Image.Text":  {Text: "other", Source: FromEnvironment, Replaced: "said"},
		"Image.Sure":  {Text: "false", Source: FromEnvironment, Replaced: "true"},
		"Image.Share": {Text: "50", Source: FromEnvironment, Replaced: "80"},
		"Image.List":  {Text: "one 'two three'", Source: FromEnvironment, Replaced: "'./a b' ./c"},
		"Image.Args":  {Text: "'C=x y' D=", Source: FromEnvironment, Replaced: "'A=x y' B_TOKEN=***"},
		"Image.URL":   {Text: "https://example.org/b", Source: FromEnvironment, Replaced: "https://example.org/a"},
		"X_PASS":      {Text: "***", Source: FromEnvironment},
		"X_OTHER":     {Text: "what it likes", Source: FromEnvironment},
	} {
		assert.Equal(t, want, without(values[name]), name)
	}

	// So that nothing is set by what a CI has not got, an empty variable says nothing; none does,
	// where it is a value.
	s, _, err = resolved(said, map[string]string{"X_TEXT": " ", "X_SURE": ""})
	require.NoError(t, err)
	assert.Equal(t, "said", s.Image.Text)
	assert.True(t, s.Image.Sure)
	s, values, err = resolved(said, map[string]string{"X_TEXT": "none"})
	require.NoError(t, err)
	assert.Empty(t, s.Image.Text)
	assert.Equal(t, Value{Source: FromEnvironment, Replaced: "said"}, without(values["Image.Text"]))
}

func without(v Value) Value {
	v.Setting = nil
	return v
}

// Zero is no value of a field, and everything that it could mean has another.
func TestZero(t *testing.T) {
	withTable(t, rows...)
	var s service
	s.Image.List, s.Image.Args = []string{}, map[string]string{}
	s, values, err := resolved(s, map[string]string{"X_SHARE": "0"})
	require.NoError(t, err)
	assert.Equal(t, []string{"./..."}, s.Image.List)
	assert.InDelta(t, NoShare, s.Image.Share, 0)
	assert.Equal(t, Value{Text: "0", Source: FromEnvironment}, without(values["Image.Share"]))

	s = service{}
	s.Image.Share = NoShare
	s, values, err = resolved(s, nil)
	require.NoError(t, err)
	assert.InDelta(t, NoShare, s.Image.Share, 0)
	assert.Equal(t, Value{Text: "0", Source: FromConfigure}, without(values["Image.Share"]))
}

func TestProblems(t *testing.T) {
	withTable(t, append([]Setting{
		{Field: "Image.From", Env: "X_WORD", Kind: oneOf("on failure", "never")},
		{
			Env:  "X_HOST",
			Kind: registry,
		}, {Env: "X_DIGEST", Kind: digested}, {Env: "X_TAG", Kind: tag}, {Env: "X_NAME", Kind: repository},
		{
			Env:  "X_PLATFORM",
			Kind: platforms,
		}, {Env: "X_NAMES", Kind: variables}, {Env: "X_DATA", Kind: encoded, Secret: true},
	}, rows...)...)
	for _, tt := range []struct{ name, value, want string }{
		{"X_WORD", "always", `reading the setting Image.From from X_WORD="always": it can be on failure, never`},
		{"X_SURE", "perhaps", `setting Image.Sure from X_SURE="perhaps": this is neither; write true or false`},
		{"X_FEW", "0", `reading the setting Image.Few from X_FEW="0": this is no number above zero; write it like 3`},
		{"X_FEW", "three", `X_FEW="three": this is no number`},
		{"X_LONG", "-3s", `X_LONG="-3s": this is no length of time above zero; write it like 90s or 5m`},
		{"X_LONG", "5", `X_LONG="5": this is no length of time`},
		{"X_SHARE", "101", `X_SHARE="101": this is no percentage; write it like 75`},
		{"X_SHARE", "NaN", `X_SHARE="NaN": this is no percentage`},
		{"X_LIST", "a 'b", `X_LIST="a 'b": the quote ' is not closed`},
		{"X_LIST", "a ''", `a word of it is empty; leave it out`},
		{"X_ARGS", "A=1 B 'C", `reading the setting Image.Args from X_ARGS: the quote ' is not closed`},
		{"X_ARGS", "A=1 B", `from X_ARGS: it has a word that is not written as NAME=VALUE: "B"`},
		{
			"X_HOST", "https://u:hunter2@registry.example.org",
			`reading the setting X_HOST from X_HOST: host "https://registry.example.org" has a login`,
		},
		{"X_HOST", "https://registry.example.org", `has a scheme; leave "https://" away`},
		{
			"X_DIGEST", "pay:1",
			`"pay:1" is not an image by digest; name it "host/owner/name@sha256:…", in lower case, since a tag may be another`,
		},
		{"X_TAG", "a b", `tag "a b" is not`},
		{"X_NAME", "a//b", `repository "a//b" has the part ""`},
		{"X_PLATFORM", "linux/amd64,arm64", `"arm64" is no platform; write it like linux/amd64 or linux/arm/v7`},
		{"X_PLATFORM", "linux/amd64,", `a word of it is empty`},
		{"X_NAMES", "A,B", `"A,B" is no name of a variable; write names alone, with blanks between them`},
		{"X_DATA", "hunter2!", "from X_DATA: it is not base64; set it to what `base64 -w0 < kubeconfig` prints"},
	} {
		s, _, err := resolved(service{}, map[string]string{tt.name: tt.value})
		require.ErrorContains(t, err, tt.want, tt.name)
		assert.NotContains(t, err.Error(), "hunter2", tt.name)
		assert.Equal(t, 1, strings.Count(err.Error(), "reading the setting"), err.Error())
		if tt.name == "X_FEW" {
			assert.Equal(t, 7, s.Image.Few, "the default holds")
		}
	}

	// What Configure says is judged too.
	var s service
	s.Image.Few, s.Image.Long, s.Image.Share = -1, -time.Second, 200
	s.Image.Args = map[string]string{"": "x"}
	_, _, err := resolved(s, nil)
	for _, want := range []string{
		`reading the setting Image.Few from targets.Configure, "-1": this is no number`,
		`Image.Long from targets.Configure, "-1s"`,
		`Image.Share from targets.Configure, "200"`, `Image.Args from targets.Configure: a name in it is empty`,
	} {
		assert.ErrorContains(t, err, want)
	}
}

func TestRead(t *testing.T) {
	for text, want := range map[string]any{"75": 75.0, "62.5%": 62.5, "0": -1.0, "-3": -1.0} {
		got, err := percent.parse(text)
		require.NoError(t, err)
		assert.Equal(t, want, got, text)
	}
	for _, value := range []string{"", "0", "false", "no", "OFF", " 0 "} {
		assert.False(t, Dry(value), value)
	}
	for _, value := range []string{"1", "true", "yes", "on", "please", "TRUE"} {
		assert.True(t, Dry(value), value)
	}
	for value, want := range map[string]bool{
		"": false, "0": false, "False": false, "true": true, "1": true, "woodpecker": true,
	} {
		assert.Equal(t, want, IsCI(value), value)
	}
	for d, want := range map[time.Duration]string{
		5 * time.Minute: "5m", 90 * time.Second: "1m30s", 2 * time.Hour: "2h", time.Second: "1s",
		10 * time.Second: "10s", 90 * time.Minute: "1h30m",
	} {
		assert.Equal(t, want, showDuration(d))
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct{ module, name, repository string }{
		{"github.com/acme/shop/pay", "pay", "acme/shop/pay"},
		{"github.com/acme/pay/v3", "pay", "acme/pay"},
		{"gopkg.in/yaml.v3", "yaml", "yaml"},
		{"example.org", "example.org", "example.org"},
		{"shop/Pay", "pay", "shop/pay"},
		{"pay", "pay", "pay"},
	} {
		name, _ := nameOf(Facts{Module: tt.module})
		repository, _ := repositoryOf(Facts{Module: tt.module})
		assert.Equal(t, tt.name, name)
		assert.Equal(t, tt.repository, repository)
	}
}

// Every row is whole, and none can be misread.
func TestTable(t *testing.T) {
	fields, variables := map[string]bool{}, map[string]bool{}
	for i := range Table {
		s := &Table[i]
		name := s.Name()
		require.NotEmpty(t, name)
		require.NotEmpty(t, s.Kind.Name, name)
		assert.NotEmpty(t, s.Is, name)
		assert.NotRegexp(t, `\.$|^[A-Z]`, s.Is, "%s: it is a part of a sentence", name)
		assert.Regexp(t, `^$|\.$`, s.More, "%s: these are sentences", name)
		if s.Field != "" {
			assert.False(t, fields[s.Field], "%s is there twice", name)
			assert.Empty(t, s.Owner, "%s: a field is ours", name)
			assert.False(t, s.Secret, "%s: a secret comes from the environment alone", name)
		}
		for _, env := range append([]string{s.Env}, s.Variants...) {
			assert.False(t, env != "" && variables[env], "%s is there twice", env)
			variables[env] = true
		}
		for _, target := range s.Targets {
			assert.Contains(t, names, target, name)
		}
		if s.Like != "" {
			assert.True(t, fields[s.Like], "%s: its row comes first", name)
			assert.NotEmpty(t, s.Derived, name)
		}
		if s.Default != "" {
			_, err := s.Kind.parse(s.Default)
			assert.NoError(t, err, name)
		}
		if s.Derive != nil || s.From != "" {
			assert.NotEmpty(t, s.Derived, "%s: the default in words", name)
		}
		if s.Kind.Go == "bool" {
			assert.Empty(t, s.Default, "%s: a field cannot say false, so true is no default", name)
		}
		if s.Field != "" && (s.Kind.Go == "int" || s.Kind.Go == "float64" || s.Kind.Go == "time.Duration") {
			zero := reflect.Zero(map[string]reflect.Type{
				"int": reflect.TypeFor[int](), "float64": reflect.TypeFor[float64](),
				"time.Duration": reflect.TypeFor[time.Duration](),
			}[s.Kind.Go])
			got, err := s.Kind.parse("0")
			assert.True(
				t,
				err != nil || got != zero.Interface(),
				"%s: a field cannot say zero, so zero has to be wrong, or another value",
				name,
			)
		}
		for _, other := range s.Mistaken {
			assert.Nil(t, Of(other), "%s is a setting", other)
		}
		fields[s.Field] = true
	}
}

func TestNeededBy(t *testing.T) {
	for _, tt := range []struct {
		env, target string
		want        bool
	}{
		{"TEST_TIMEOUT", "test", true},
		{"TEST_TIMEOUT", "lint", false},
		{"TEST_TIMEOUT", "deploy", false},
		{"TEST_TIMEOUT", "migrate", true},
		{"IMAGE_BUILDER", "image", true},
		{"IMAGE_BUILDER", "push", true}, // it builds the image
		{"IMAGE_BUILDER", "deploy", true},
		{"IMAGE_BUILDER", "copy", false},
		{"IMAGE_BUILDER", "status", false},
		{"DEPLOY_WAIT", "push", false},
		{"DRY_RUN", "lint", true},
		{"SETTINGS_FORMAT", "migrate", false},
		{"SETTINGS_FORMAT", "settings", true},
	} {
		assert.Equal(t, tt.want, Of(tt.env).NeededBy(tt.target), "%s by %s", tt.env, tt.target)
	}
	assert.ElementsMatch(
		t,
		[]string{"REGISTRY_PASS", "KUBECONFIG_DATA", "ENVIRONMENT_REPOSITORY", "PROMOTE_FROM"},
		Credentials("test"),
	)
}
