package gocheck

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestParse(t *testing.T) {
	long := strings.Repeat("x", 5<<20)
	tests := []struct {
		name, said string
		want       []string
	}{
		{"vet", "# a\n# [a]\n./a.go:1:2: m\n", []string{"a.go:1:2: m"}},
		{"vet, of the compiler", "vet: ./a.go:3:9: undefined: y\n", []string{"a.go:3:9: undefined: y"}},
		{"staticcheck, of the compiler", "-: # a\n./a.go:3:9: undefined: y (compile)\n-: # a [a.test]\n./a.go:3:9: undefined: y (compile)\n",
			[]string{"a.go:3:9: undefined: y (compile)"}},
		{"go.mod", "go.mod:5: unknown directive: x\n", []string{"go.mod:5: unknown directive: x"}},
		{"more lines of a finding", "a.go:1:2: m\n\t\tb.go:2:2: more\n", []string{"a.go:1:2: m"}},
		{"Windows line ends", "a.go:1:2: m\r\n", []string{"a.go:1:2: m"}},
		{"no last newline", "a.go:1:2: m", []string{"a.go:1:2: m"}},
		{"a finding after a long line", long + "\na.go:1:2: m\n", []string{"a.go:1:2: m"}},
		{"no finding", "a.go: m\nhttp://x.go:80/: m\nok\n\x00:1:2\n", nil},
		{"a line beyond numbers", "a.go:99999999999999999999:1: m\n", []string{"a.go:9223372036854775807:1: m"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range parse(tt.said, "go vet") {
				got = append(got, f.String())
			}
			assert.Equal(t, tt.want, got)
		})
	}
}
