package forge_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/grimoire-build/grimoire/internal/forge"
)

func TestMask(t *testing.T) {
	tests := []struct {
		name   string
		secret string
		github string
		gitea  string // the same as on GitHub where empty
	}{
		{name: "one line", secret: "correct horse", github: "::add-mask::correct horse\n"},
		{name: "as short as can be", secret: "12345678", github: "::add-mask::12345678\n"},
		{name: "too short", secret: "1234567"},
		{name: "too short but for space around", secret: "   1234567   \n"},
		{name: "empty", secret: ""},
		{name: "blank", secret: "\n\r\n          \n"},
		{
			name: "lines", secret: "-----BEGIN KEY-----\r\nMIIEpAIBAAKC\n  indented one\rAb==\n-----END KEY-----\n",
			github: "::add-mask::-----BEGIN KEY-----\n::add-mask::MIIEpAIBAAKC\n::add-mask::indented one\n::add-mask::-----END KEY-----\n",
		},
		{
			name: "per cent", secret: "50%25 off and more", github: "::add-mask::50%2525 off and more\n",
			gitea: "::add-mask::50%2525 off and more\n::add-mask::50%25 off and more\n",
		},
		{name: "command", secret: "::stop-commands::x\n::error::boo", github: "::add-mask::::stop-commands::x\n::add-mask::::error::boo\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			assert.Equal(t, tt.github != "", forge.Forge{Name: forge.GitHub}.Mask(&out, tt.secret))
			assert.Equal(t, tt.github, out.String())

			if tt.gitea == "" {
				tt.gitea = tt.github
			}
			out.Reset()
			assert.Equal(t, tt.gitea != "", forge.Forge{Name: forge.Gitea}.Mask(&out, tt.secret))
			assert.Equal(t, tt.gitea, out.String())

			out.Reset()
			assert.False(t, forge.Forge{CI: true}.Mask(&out, tt.secret))
			assert.Empty(t, out.String(), "without a forge the command would print the secret")
		})
	}
	assert.False(t, forge.Forge{Name: forge.GitHub}.Mask(broken{}, "correct horse"), "it was not masked")
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestGroup(t *testing.T) {
	var out bytes.Buffer
	end := forge.Forge{Name: forge.GitHub}.Group(&out, "lint\n::error::100%")
	out.WriteString("ok\n")
	end()
	end()
	assert.Equal(t, "::group::lint%0A::error::100%25\nok\n::endgroup::\n", out.String())

	for _, f := range []forge.Forge{{}, {Name: forge.Gitea}} {
		out.Reset()
		f.Group(&out, "lint")()
		assert.Empty(t, out.String())
	}
}

func TestAnnotate(t *testing.T) {
	tests := []struct {
		name string
		give forge.Annotation
		want string
	}{
		{"message", forge.Annotation{Message: "no"}, "::error::no\n"},
		{"warning", forge.Annotation{Level: forge.Warning, Message: "well"}, "::warning::well\n"},
		{"notice", forge.Annotation{Level: forge.Notice, Message: "so"}, "::notice::so\n"},
		{"another level", forge.Annotation{Level: "add-mask", Message: "no"}, "::error::no\n"},
		{
			"place", forge.Annotation{Level: forge.Error, File: "cmd/pay/main.go", Line: 3, Column: 7, Title: "vet", Message: "unused: x"},
			"::error file=cmd/pay/main.go,line=3,col=7,title=vet::unused: x\n",
		},
		{"file of the system", forge.Annotation{File: filepath.Join("a", "b.go"), Message: "no"}, "::error file=a/b.go::no\n"},
		{"line without a column", forge.Annotation{File: "a.go", Line: 3}, "::error file=a.go,line=3::\n"},
		{"column without a line", forge.Annotation{File: "a.go", Column: 3}, "::error file=a.go::\n"},
		{"line without a file", forge.Annotation{Line: 3, Column: 4, Title: "t"}, "::error title=t::\n"},
		{
			"escapes", forge.Annotation{File: "a,b:c%\r\n.go", Title: "1:2,3%\n", Message: "50%: a,b\r\nc %0A ::error::d"},
			"::error file=a%2Cb%3Ac%25%0D%0A.go,title=1%3A2%2C3%25%0A::50%25: a,b%0D%0Ac %250A ::error::d\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			forge.Forge{Name: forge.GitHub}.Annotate(&out, tt.give)
			assert.Equal(t, tt.want, out.String())
			assert.Equal(t, 1, strings.Count(out.String(), "\n"), "a command is one line")

			out.Reset()
			forge.Forge{Name: forge.Gitea}.Annotate(&out, tt.give)
			forge.Forge{}.Annotate(&out, tt.give)
			assert.Empty(t, out.String())
		})
	}
}
