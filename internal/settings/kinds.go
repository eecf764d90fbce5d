package settings

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/imageref"
	"github.com/grimoire-build/grimoire/internal/mask"
	"github.com/grimoire-build/grimoire/internal/redact"
	"github.com/grimoire-build/grimoire/internal/words"
)

// Kind is what the values of a setting are, how they are written, and which of them are wrong.
type Kind struct {
	// Name is what the reference calls it.
	Name string
	// Go is the type of a field.
	Go string

	many  bool   // its values are lists
	zero  string // what an unset field means, where it has a value of its own
	quiet bool   // what is wrong with a value says itself what may be seen of it
	login bool   // a value may hold a login, which is not shown
	parse func(string) (any, error)
	judge func(any) error
	show  func(any) string
}

// kind makes a Kind of functions that know the type: parse reads what the environment says, judge
// says what is wrong with a value, and show writes it as the environment would.
func kind[T any](name string, parse func(string) (T, error), judge func(T) error, show func(T) string) Kind {
	of := reflect.TypeFor[T]()
	return Kind{
		Name: name, Go: of.String(), many: of.Kind() == reflect.Slice || of.Kind() == reflect.Map,
		parse: func(text string) (any, error) {
			v, err := parse(text)
			if err != nil {
				return nil, err
			}
			return v, judge(v)
		},
		judge: func(v any) error { return judge(v.(T)) },
		show:  func(v any) string { return show(v.(T)) },
	}
}

// Many reports whether a value is a list.
func (k Kind) Many() bool { return k.many }

// named is the kind by another name.
func (k Kind) named(name string) Kind {
	k.Name = name
	return k
}

// quietly is the kind whose errors say themselves what may be seen of a value.
func (k Kind) quietly() Kind {
	k.quiet = true
	return k
}

// withLogin is the kind whose values may hold a login.
func (k Kind) withLogin() Kind {
	k.login = true
	return k
}

// elseFalse is the kind whose unset field means false.
func (k Kind) elseFalse() Kind {
	k.zero = "false"
	return k
}

// orNone is the kind of text whose value none, in the environment, takes back what Configure says.
func (k Kind) orNone() Kind {
	parse := k.parse
	k.Name += ", or none"
	k.parse = func(text string) (any, error) {
		if text == "none" {
			return "", nil
		}
		return parse(text)
	}
	return k
}

func same(text string) (string, error) { return text, nil }

func itself(text string) string { return text }

func anything[T any](T) error { return nil }

// text is a line that may be anything.
var text = kind("text", same, anything, itself)

// checked is a text that has to be a certain one. What check says of another repeats it.
func checked(name string, check func(string) error) Kind {
	return kind(name, same, check, itself).quietly()
}

// oneOf is one of some words.
func oneOf(choices ...string) Kind {
	name := strings.Join(choices[:len(choices)-1], ", ") + " or " + choices[len(choices)-1]
	return kind(name, same, func(text string) error {
		if !slices.Contains(choices, text) {
			return fmt.Errorf("it can be %s", strings.Join(choices, ", "))
		}
		return nil
	}, itself)
}

// truth is true or false. Its default is always false: a field could not tell false from unset.
var truth = kind("true or false", func(text string) (bool, error) {
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, errors.New("this is neither; write true or false")
	}
	return v, nil
}, anything, strconv.FormatBool).elseFalse()

// dryRun is what DRY_RUN says.
var dryRun = kind(
	"true or false",
	func(text string) (bool, error) { return Dry(text), nil },
	anything,
	strconv.FormatBool,
).elseFalse()

// Dry reports whether the value of DRY_RUN asks for a dry run. Whatever does not clearly say no is
// a yes: who sets it does not want anything to happen.
func Dry(value string) bool {
	return !slices.Contains(
		[]string{"", "0", "f", "false", "n", "no", "off"},
		strings.ToLower(strings.TrimSpace(value)),
	)
}

// IsCI reports whether the value of CI says that nobody sits in front of the run.
func IsCI(value string) bool {
	return value != "" && value != "0" && !strings.EqualFold(value, "false")
}

// count is a number above zero.
var count = kind("number", func(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, errCount
	}
	return n, nil
}, func(n int) error {
	if n <= 0 {
		return errCount
	}
	return nil
}, strconv.Itoa)

var errCount = errors.New("this is no number above zero; write it like 3")

// duration is a length of time above zero.
var duration = kind("length of time", func(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errDuration
	}
	return d, nil
}, func(d time.Duration) error {
	if d <= 0 {
		return errDuration
	}
	return nil
}, showDuration)

var errDuration = errors.New("this is no length of time above zero; write it like 90s or 5m")

// showDuration writes 5m where the standard library writes 5m0s.
func showDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// NoShare is a share that asks for nothing. A field cannot say so by zero, which is an unset one.
const NoShare = -1

// percent is a share, in percent. Below zero none is asked for; in the environment zero says so
// too.
var percent = kind("percent", func(text string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil {
		return 0, errPercent
	}
	if v <= 0 {
		return NoShare, nil
	}
	return v, nil
}, func(v float64) error {
	if math.IsNaN(v) || v > 100 {
		return errPercent
	}
	return nil
}, func(v float64) string { return strconv.FormatFloat(max(v, 0), 'g', -1, 64) })

var errPercent = errors.New("this is no percentage; write it like 75")

// list is a list of words.
var list = kind("list", words.Split, func(all []string) error { return each(all, anything) }, words.Join)

// variables is a list of names of variables.
var variables = kind("list of variables", words.Split, func(all []string) error {
	return each(all, func(name string) error {
		if !variableGrammar.MatchString(name) {
			return fmt.Errorf("%q is no name of a variable; write names alone, with blanks between them", name)
		}
		return nil
	})
}, words.Join).quietly()

var variableGrammar = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// platforms is a list of platforms, with commas between them.
var platforms = kind("list with commas", func(text string) ([]string, error) {
	all := strings.Split(text, ",")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all, nil
}, func(all []string) error {
	return each(all, func(platform string) error {
		if !platformGrammar.MatchString(platform) {
			return fmt.Errorf("%q is no platform; write it like linux/amd64 or linux/arm/v7", platform)
		}
		return nil
	})
}, func(all []string) string { return strings.Join(all, ",") }).quietly()

var platformGrammar = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)

// each says what is wrong with the first of some words that is wrong. An empty one always is.
func each(all []string, check func(string) error) error {
	for _, word := range all {
		if word == "" {
			return errors.New("a word of it is empty; leave it out")
		}
		if err := check(word); err != nil {
			return err
		}
	}
	return nil
}

// assignments are words like NAME=VALUE. The values of those that are named like secrets are not
// shown.
var assignments = kind("list of NAME=VALUE", func(text string) (map[string]string, error) {
	all, err := words.Split(text)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, word := range all {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("it has a word that is not written as NAME=VALUE: %q", word)
		}
		values[name] = value
	}
	return values, nil
}, func(values map[string]string) error {
	if _, ok := values[""]; ok {
		return errors.New("a name in it is empty; leave it out")
	}
	return nil
}, func(values map[string]string) string {
	shown := maps.Clone(values)
	for name := range shown {
		if mask.SecretName(name) {
			shown[name] = mask.Mark
		}
	}
	return words.Join(Assignments(shown))
}).quietly()

// Assignments returns NAME=VALUE for each of the values, by name.
func Assignments(values map[string]string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		all = append(all, name+"="+values[name])
	}
	return all
}

// remote is the URL of a git repository.
var remote = kind("URL", same, anything, redact.Remote).withLogin()

// server is the address of a server.
var server = kind("address", same, anything, redact.URL).withLogin()

// registry is the host of a registry.
var registry = kind("host, or host:port", same,
	func(host string) error { return imageref.CheckHost(strings.ToLower(host)) }, redact.URL).quietly()

// repository is an image's name on a registry.
var repository = checked("text", func(name string) error { return imageref.CheckRepository(strings.ToLower(name)) })

// tag is a tag of an image.
var tag = checked("text", imageref.CheckTag)

// digested is an image by digest.
var digested = checked("image by digest", func(image string) error {
	if _, err := imageref.ParseDigested(image); err != nil {
		return fmt.Errorf("%w, since a tag may be another image tomorrow", err)
	}
	return nil
})

// encoded is a file in base64.
var encoded = checked("base64", func(text string) error {
	if _, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil {
		return errors.New(
			"it is not base64; set it to what `base64 -w0 < kubeconfig` prints",
		) // the cause would quote the secret
	}
	return nil
})
