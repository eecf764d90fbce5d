package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/mask"
)

const secret = `hunter2 "&<é/+?~`

func TestMaskEncodings(t *testing.T) {
	quoted, err := json.Marshal(secret)
	require.NoError(t, err)
	tests := map[string]string{
		"plain":               secret,
		"base64":              base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 for URLs":     base64.URLEncoding.EncodeToString([]byte(secret)),
		"base64, not padded":  base64.RawStdEncoding.EncodeToString([]byte(secret)),
		"a basic login":       base64.StdEncoding.EncodeToString([]byte("user:" + secret)),
		"a longer user":       base64.StdEncoding.EncodeToString([]byte("user1:" + secret)),
		"an even longer user": base64.StdEncoding.EncodeToString([]byte("user12:" + secret + "\n")),
		"hex":                 hex.EncodeToString([]byte(secret)),
		"HEX":                 strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"query":               url.QueryEscape(secret),
		"path":                url.PathEscape(secret),
		"login":               (&url.URL{Scheme: "https", User: url.UserPassword("u", secret), Host: "h"}).String(),
		"JSON":                string(quoted),
		"HTML":                html.EscapeString(secret),
		"Go":                  fmt.Sprintf("%q", secret),
	}
	var m mask.Masker
	require.True(t, m.Add(secret))
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			masked := m.Mask("a " + text + " z")
			assert.Contains(t, masked, mask.Mark)
			assert.True(t, strings.HasPrefix(masked, "a ") && strings.HasSuffix(masked, " z"), masked)
			// No more of it is left than the borders of base64, which hold bits of its neighbours.
			assert.Less(t, len(masked), len("a  z")+len(mask.Mark)+16, masked)
			assert.NotContains(t, masked, "hunter")
		})
	}
}

func TestMaskLeavesTheRest(t *testing.T) {
	var m mask.Masker
	assert.Equal(t, "nothing is known", m.Mask("nothing is known"))
	assert.False(t, m.Add("ab"), "a short secret would ruin everything")
	assert.False(t, m.Add(""))
	m.Add("a multi\n-----BEGIN KEY-----\nline secret\n")
	assert.Equal(t, "able *** ***", m.Mask("able -----BEGIN KEY----- line secret"))
	m.Add("secret-long-and-longer")
	m.Add("secret-long")
	assert.Equal(t, "*** and ***", m.Mask("secret-long-and-longer and secret-long"))
}

func TestWriterFindsSecretsAcrossWrites(t *testing.T) {
	var m mask.Masker
	m.Add("abcabcabd")
	m.Add("second secret")
	text := "abcabc abcabcabd abcabcabcabd and second secret, second secre"
	want := "abcabc *** abc*** and ***, second secre"
	for size := 1; size <= len(text); size++ {
		var out bytes.Buffer
		w := mask.Writer{Masker: &m, W: &out}
		for i := 0; i < len(text); i += size {
			n, err := w.Write([]byte(text[i:min(i+size, len(text))]))
			require.NoError(t, err)
			require.Equal(t, min(size, len(text)-i), n)
		}
		require.NoError(t, w.Flush())
		assert.Equal(t, want, out.String(), "in pieces of %d", size)
	}
}

func TestWriterKeepsNothingThatIsNoSecret(t *testing.T) {
	var m mask.Masker
	m.Add("zzzzzzzz")
	var out bytes.Buffer
	w := mask.Writer{Masker: &m, W: &out}
	for _, s := range []string{"a line\n", "half a line", "\x00\xff"} {
		_, err := w.Write([]byte(s))
		require.NoError(t, err)
	}
	assert.Equal(t, "a line\nhalf a line\x00\xff", out.String(), "what is written is there at once")
}

func TestAddEnviron(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	kubeconfig := "users:\n- name: a\n  user:\n    token: eyJhbGciOi.x\n    client-key-data: \"LS0tLS1CRUdJTg==\"\n"
	var m mask.Masker
	m.AddEnviron([]string{
		"REGISTRY_PASS=registry-pass", "GITHUB_TOKEN=ghs_0123456789", "AWS_SECRET_ACCESS_KEY=wJalrXUtnF",
		"KUBECONFIG_DATA=" + base64.StdEncoding.EncodeToString([]byte(kubeconfig)),
		"ENVIRONMENT_REPOSITORY=https://bot:pass%2Fword1@git.example.org/envs.git",
		"GIT_URL=https://only-a-token@git.example.org/x",
		"OTEL_EXPORTER_OTLP_HEADERS=authorization=Basic%20Zm9vOmJhcg==,x=y",
		"TOKEN_FILE=" + file, "PASSWORD_REQUIRED=true", "TOKEN_BUDGET=100000", "DB_PASSWORD=12345678", "SLACK_WEBHOOK_URL=https://hooks.example.org/T0/B0/xyz", "HOME=/home/somebody", "IMAGE_SECRETS=NPM_AUTH_NAME  LICENCE CERTIFICATE", "KEYBOARD=qwertyuiop",
		"LICENCE=abcdefghij", "CERTIFICATE=" + file,
		"SSH_AUTH_SOCK=" + file,
	})
	for _, s := range []string{
		"registry-pass", "ghs_0123456789", "wJalrXUtnF", "eyJhbGciOi.x", "LS0tLS1CRUdJTg==", "pass/word1", "pass%2Fword1",
		"only-a-token", "12345678", "https://hooks.example.org/T0/B0/xyz", "Basic Zm9vOmJhcg==", "abcdefghij",
	} {
		assert.Equal(t, "<"+mask.Mark+">", strings.ReplaceAll(m.Mask("<"+s+">"), "==>", ">"), s)
	}
	for _, s := range []string{file, "true", "100000", "/home/somebody", "qwertyuiop", "bot", "git.example.org", "NPM_AUTH_NAME"} {
		assert.Equal(t, s, m.Mask(s))
	}
}

func TestAddEnvironOfNamedSecrets(t *testing.T) {
	for _, names := range []string{`LICENCE 'KEY'`, `LICENCE 'KEY`} { // the second one's quote is not closed
		var m mask.Masker
		m.AddEnviron([]string{"IMAGE_SECRETS=" + names, "LICENCE=abcdefghij"})
		assert.Equal(t, mask.Mark, m.Mask("abcdefghij"), names)
	}
	var m mask.Masker
	m.AddEnviron([]string{`IMAGE_SECRETS="LICENCE"`, "LICENCE=abcdefghij"})
	assert.Equal(t, mask.Mark, m.Mask("abcdefghij"))
}

func FuzzWriter(f *testing.F) {
	f.Add("secret", "a secretsecret b", uint8(3))
	f.Add("aaaaaab", "aaaaaaaaaaaaab", uint8(1))
	f.Add("***-***", "***-***-***", uint8(2))
	f.Fuzz(func(t *testing.T, secret, text string, size uint8) {
		var m mask.Masker
		if !m.Add(secret) || strings.Contains(secret, mask.Mark) || strings.ContainsAny(secret, "\r\n") {
			return
		}
		var out bytes.Buffer
		w := mask.Writer{Masker: &m, W: &out}
		for rest := text; rest != ""; {
			n := min(int(size)+1, len(rest))
			_, _ = w.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		_ = w.Flush()
		// A mark between two pieces can itself complete one; anything else must be gone.
		if strings.Contains(strings.ReplaceAll(out.String(), mask.Mark, "\x00"), secret) && !strings.Contains(secret, "\x00") {
			t.Errorf("%q is left in %q, from %q", secret, out.String(), text)
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	var m mask.Masker
	m.AddEnviron([]string{"REGISTRY_PASS=registry-pass", "GITHUB_TOKEN=ghs_0123456789", "AWS_SECRET_ACCESS_KEY=wJalrXUtnF"})
	line := []byte(strings.Repeat("ok  	example.org/shop/pay/internal/ledger	0.412s	coverage: 81.0% of statements\n", 50))
	w := mask.Writer{Masker: &m, W: new(bytes.Buffer)}
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		w.W.(*bytes.Buffer).Reset()
		_, _ = w.Write(line)
	}
}
