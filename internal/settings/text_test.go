package settings

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestList(t *testing.T) {
	withTable(t, []Setting{
		{
			Field:   "Image.Text",
			Env:     "X_BASE",
			Kind:    text.orNone(),
			Derived: "an empty one",
			Targets: []string{"image", "push"},
			Is:      "the base",
		},
		{Env: "NO_COLOR", Kind: text, Owner: "terminals", Is: "whether there are no colours"},
		{Env: "TERM", Kind: text, Owner: "terminals", Is: "the terminal"},
		{Env: "X_PASS", Kind: text, Secret: true, Is: "the password"},
		{
			Field:   "Image.Share",
			Env:     "X_SHARE",
			Kind:    percent,
			Default: "70",
			Targets: []string{"test"},
			Is:      "the share",
		},
		{Field: "Name", Kind: text, Derive: nameOf, From: "module", Is: "the name"},
	}...)
	var s service
	s.Image.Share = 80
	values, _ := Resolve(&s, env(map[string]string{
		"X_PASS": "hunter2", "X_SHARE": "50", "TERM": "dumb",
	}), Facts{Module: "example.org/pay"})
	list := NewList(values, "", func(text string) string { return strings.ReplaceAll(text, "dumb", "***") })
	list.Misspelt, list.Unknown = []Suggestion{{"REGISTY_HOST", "REGISTRY_HOST"}}, []string{"IMAGE_SIZE", "TEST_ENV"}
	assert.Equal(t, `# the service
Name  pay  module  -
    the name (all targets)

# image
Image.Text   (an empty one)  default                             X_BASE
    the base (image, push)
Image.Share  50              environment, before Configure's 80  X_SHARE
    the share (test)

# the run, and logins: from the environment alone
X_PASS  ***  environment  X_PASS
    the password (all targets)

# variables of other tools that are used, and set here
TERM  ***  environment  TERM
    the terminal (all targets)

REGISTY_HOST is no setting; REGISTRY_HOST is

these begin like settings and are none: IMAGE_SIZE, TEST_ENV
`, list.Text())

	data, err := list.JSON()
	require.NoError(t, err)
	var back List
	require.NoError(t, json.Unmarshal([]byte(data), &back))
	require.Len(t, back.Settings, 6)
	assert.Equal(t, Entry{
		Name: "Image.Share", Variable: "X_SHARE", Type: "percent", Value: "50", Source: "environment",
		Replaced: "80", Default: "70",
		About: "the share", Targets: []string{"test"},
	}, back.Settings[4])
	assert.NotContains(t, data, "hunter2")

	var of []string
	for _, e := range NewList(values, "image", func(s string) string { return s }).Settings {
		of = append(of, e.Name)
	}
	assert.Equal(t, []string{"Image.Text", "NO_COLOR", "TERM", "X_PASS", "Name"}, of)
}

func TestHelp(t *testing.T) {
	assert.Equal(t, `TEST_PACKAGES       Test.Packages  the package patterns to test (default: ./...)
TEST_TIMEOUT        Test.Timeout   how long the tests of a package may take (default: 5m)
COVERAGE_THRESHOLD  Test.Coverage  the least share of statements that the tests have to run, in percent (default: 70)
TEST_RACE           Test.Race      whether the race detector is on: auto (wherever cgo and a C compiler are), on or off (default: auto)
`, Help("test"))
	assert.Empty(t, Help("lint"))
	assert.Contains(t, Help("deploy"), "\nand those of push\n")
	assert.Contains(t, Help("push"), "REGISTRY_PASS       -                 the password or token of that user")

	assert.Equal(
		t,
		"Settings: TEST_PACKAGES (./...), TEST_TIMEOUT (5m), COVERAGE_THRESHOLD (70), TEST_RACE (auto).",
		Sentence("test"),
	)
	assert.Regexp(t, `^Settings: ALLOW_PULL_REQUEST, REGISTRY_HOST, .*, and those of image\.$`, Sentence("push"))
	assert.Empty(t, Sentence("lint"))
}
