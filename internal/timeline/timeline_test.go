package timeline_test

import (
	"bytes"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/timeline"
)

var (
	update = flag.Bool("update", false, "take the pages as they are for what is wanted")
	folder = flag.String("samples", "", "write the pages of the samples to this `folder`, to look at them")
)

func render(t testing.TB, run report.Run) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, timeline.Write(&b, run))
	return b.String()
}

func TestSamples(t *testing.T) {
	if *folder == "" {
		t.Skip("no folder is named by -samples")
	}
	for name, run := range samples() {
		require.NoError(t, os.WriteFile(filepath.Join(*folder, name+".html"), []byte(render(t, run)), 0o644))
	}
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"green", "red", "plan", "odd", "none", "zero"} {
		t.Run(name, func(t *testing.T) {
			got, path := render(t, samples()[name]), filepath.Join("testdata", name+".html")
			if *update {
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, string(want), got)
		})
	}
}

// allowed are the elements of a page with their attributes; nothing that runs, loads or sends is among them.
var allowed = map[string]string{
	"html": "lang", "head": "", "body": "", "meta": "charset http-equiv content name", "title": "id", "style": "",
	"header": "", "main": "", "footer": "", "section": "class aria-labelledby", "article": "class",
	"h1": "", "h2": "id", "h3": "", "p": "class", "pre": "tabindex", "code": "", "small": "", "strong": "", "br": "", "span": "class title",
	"div": "class aria-hidden tabindex role aria-label", "dl": "class", "dt": "", "dd": "", "time": "datetime",
	"ul": "class aria-label", "ol": "class", "li": "class id", "a": "class href rel aria-label", "details": "id open", "summary": "",
	"table": "class role aria-labelledby", "thead": "role", "tbody": "role", "tr": "role id", "th": "role scope class", "td": "role class colspan",
	"svg":  "class width height x y role aria-hidden aria-labelledby focusable",
	"defs": "", "pattern": "id width height patternUnits patternTransform", "symbol": "id viewBox", "use": "href", "desc": "id", "g": "",
	"rect": "class x y width height rx", "line": "class x1 x2 y1 y2", "path": "class d", "circle": "cx cy r", "text": "class x y text-anchor",
}

var href = regexp.MustCompile(`^(#(stage|processes)-[0-9]+|#i-[a-z]+|\./[A-Za-z0-9._~/%-]+|(?i:https?)://[!-~]+)$`)

// structure checks that the page holds nothing but what is allowed, and returns its elements and attributes without values.
func structure(t testing.TB, page string) []string {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	require.False(t, strings.ContainsFunc(page, func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\t' || r == '\u202e' || r == '\u2067'
	}), "what cannot be seen")
	var found []string
	for n := range root.Descendants() {
		require.NotEqual(t, html.CommentNode, n.Type, "a comment: %s", n.Data)
		if n.Type != html.ElementNode {
			continue
		}
		attributes, ok := allowed[n.Data]
		require.True(t, ok, "element %s", n.Data)
		line := n.Data
		for _, a := range n.Attr {
			require.True(t, slices.Contains(strings.Fields(attributes), a.Key), "attribute %s of %s", a.Key, n.Data)
			if a.Key == "href" {
				require.Regexp(t, href, a.Val)
			}
			line += " " + a.Key
		}
		found = append(found, line)
	}
	return found
}

const hostile = "</title></style></pre></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)><!-- javascript:alert(1) \x00 \xff\xfe \u202egnp.exe \x1b[31mred\x1b[0m {{.}} %s%n &lt;"

// filled has s wherever a run holds text.
func filled(s string) report.Run {
	failed := stage(s, 0, 4, 3, report.Failed)
	failed.Reason, failed.Made = s, []string{s, "build/" + s}
	failed.Processes = []report.Process{{Command: []string{s, s}, Dir: s, Start: at(0), End: at(1), ExitCode: 1}}
	after := stage("after", 4, 4, 0, report.Skipped)
	after.Reason, after.Needs = s, []string{s, "x" + s}
	other := stage("other", 1, 2, 1, report.Result("odd "+s))
	other.Needs = []string{"after"}
	r := run(5, report.Result("odd "+s), failed, after, other)
	r.Service, r.Commit, r.Targets, r.Trace, r.Forge, r.URL = s, s, []string{s}, s, s, s
	return r
}

func TestHostile(t *testing.T) {
	for _, run := range []report.Run{filled(hostile), filled("https://" + hostile), filled("javascript:alert(1)"), filled("build/../x"), filled("//x")} {
		page := render(t, run)
		structure(t, page)
		assert.NotContains(t, page, "<img")
		assert.NotContains(t, page, `href="javascript`)
		run.Result = report.Planned
		structure(t, render(t, run))
	}
	page := render(t, filled(hostile))
	assert.Contains(t, page, "[U+202E]gnp.exe red {{.}} %s%n &amp;lt;")
	assert.Contains(t, page, "\u2400 \uFFFD")
}

func TestSize(t *testing.T) {
	r := red()
	r.Stages[1].Reason = "first line\n" + strings.Repeat("é", 2_500_000) + "\nlast line"
	r.Stages[2].Reason = strings.Repeat("x", 5_000_000)
	for range 5000 {
		r.Stages[1].Made = append(r.Stages[1].Made, "build/x")
		r.Stages[1].Processes = append(r.Stages[1].Processes, process(1, 2, 0, strings.Repeat("x ", 5000)))
	}
	page := render(t, r)
	assert.Less(t, len(page), 3_000_000)
	assert.Contains(t, page, "first line")
	assert.Contains(t, page, "last line")
	assert.Contains(t, page, "4.9 MB left out")
	structure(t, page)
}

func TestOddTimes(t *testing.T) {
	year1 := time.Time{}.Add(time.Second)
	for name, run := range map[string]report.Run{
		"nothing":    {},
		"no times":   {Result: report.OK, Stages: []report.Stage{{Name: "a"}, {Name: "b", Result: report.OK}}},
		"year 1":     {Start: began, End: at(1), Stages: []report.Stage{{Name: "a", Start: year1, End: at(1), Seconds: 1, Result: report.OK}}},
		"not a time": {Start: began, End: at(1), Stages: []report.Stage{{Name: "a", Start: began, End: at(1), Seconds: math.NaN(), Result: report.OK}}},
		"endless":    {Start: began, End: at(1), Stages: []report.Stage{{Name: "a", Start: began, End: at(-1), Seconds: math.Inf(1), Result: report.OK}}},
		"backwards":  {Start: at(5), End: began, Result: report.OK, Stages: []report.Stage{{Name: "a", Start: at(4), End: at(1), Result: report.OK}}},
	} {
		t.Run(name, func(t *testing.T) {
			page := render(t, run)
			structure(t, page)
			for _, bad := range []string{"NaN", "Inf", `="-`, "%!"} {
				assert.NotContains(t, page, bad)
			}
		})
	}
}

func TestSamplesHoldWhatIsAllowed(t *testing.T) {
	for name, run := range samples() {
		t.Run(name, func(t *testing.T) {
			page := render(t, run)
			structure(t, page)
			ids := map[string]bool{}
			for _, id := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
				assert.False(t, ids[id[1]], "id %s is there twice", id[1])
				ids[id[1]] = true
			}
			for _, to := range regexp.MustCompile(` href="#([^"]*)"`).FindAllStringSubmatch(page, -1) {
				assert.True(t, ids[to[1]], "nothing is at #%s", to[1])
			}
			assert.NotContains(t, page, "%!")
		})
	}
}

func TestWriteIn(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, timeline.WriteIn(&b, "build/reports", run(1, report.OK, report.Stage{Name: "a", Made: []string{"build/reports/x y.xml", "build/z"}})))
	assert.Contains(t, b.String(), `<a href="./x%20y.xml">build/reports/x y.xml</a>`)
	assert.Contains(t, b.String(), `<code>build/z</code>`)
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestWriteFails(t *testing.T) { require.Error(t, timeline.Write(broken{}, green())) }

// Whatever a run's text is, the page has the elements and attributes of one with the same text in letters.
func FuzzWrite(f *testing.F) {
	for _, seed := range []string{"", " ", "lint", hostile, "https://x", "build/x", "\r\n\t", "\" onload=\"x", "--><!--", "\x1b[", "�\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		letters := strings.Repeat("x", len(s))
		if s == "after" || s == "other" {
			return
		}
		structure(t, render(t, filled(s))) // with its links
		assert.Equal(t, structure(t, render(t, unlinked(letters))), structure(t, render(t, unlinked(s))))
	})
}

// unlinked is filled without what may become a link.
func unlinked(s string) report.Run {
	r := filled(s)
	r.URL = "x"
	r.Stages[0].Made = []string{"/" + s}
	return r
}
