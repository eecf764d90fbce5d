package report_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/grimoire-build/grimoire/internal/report"
)

func run() report.Run {
	start := time.Date(2026, 11, 3, 14, 2, 11, 0, time.UTC)
	return report.Run{
		Service: "shop/pay", Commit: "4f2a91c", Start: start, End: start.Add(64 * time.Second), Result: report.Failed,
		Stages: []report.Stage{
			{Name: "lint", Seconds: 8.37, Result: report.OK},
			{Name: "test", Seconds: 61.2, Result: report.OK, Made: []string{"build/coverage.html", "build/junit.xml"}},
			{Name: "統合", Seconds: 0.34, Result: report.OK, Made: []string{"報告書/結果.xml"}},
			{Name: "image", Seconds: 2.06, Result: report.Failed, Reason: "compiling | ./cmd/pay:\nmain.go:7:2: undefined: x\n```\n</details>"},
			{Name: "push", Result: report.Skipped, Reason: "image failed, and push needs it"},
			{Name: "scan", Seconds: 3, Result: report.Stopped, Reason: "signal: interrupt"},
			{Name: "deploy", Result: report.Planned, Reason: "server-side apply"},
			{Name: "smoke"},
		},
	}
}

func TestTable(t *testing.T) {
	assert.Equal(t, `stage   result       time  made
lint    ok          8.4 s
test    ok       1 m 01 s  build/coverage.html, build/junit.xml
統合    ok         340 ms  報告書/結果.xml
image   failed      2.1 s  compiling | ./cmd/pay:
push    skipped         –  image failed, and push needs it
scan    stopped     3.0 s  signal: interrupt
deploy  planned         –  server-side apply
smoke   running       0 s
total   failed   1 m 04 s
`, report.Table(run(), 0, false))
	assert.Equal(t, `stage   result       time  made
lint    ok          8.4 s
test    ok       1 m 01 s  build/co…
統合    ok         340 ms  報告書/…
image   failed      2.1 s  compilin…
push    skipped         –  image fa…
scan    stopped     3.0 s  signal:…
deploy  planned         –  server-s…
smoke   running       0 s
total   failed   1 m 04 s
`, report.Table(run(), 36, false))
}

func TestTableInColour(t *testing.T) {
	r := run()
	r.Stages = r.Stages[2:5]
	assert.Equal(t, "\x1b[2mstage  result       time  made\x1b[0m\n"+
		"統合   \x1b[32mok\x1b[0m         340 ms  報告書/結果.xml\n"+
		"image  \x1b[31mfailed\x1b[0m      2.1 s  compiling | ./cmd/pay:\n"+
		"push   \x1b[2mskipped\x1b[0m         –  image failed, and push needs it\n"+
		"total  \x1b[31mfailed\x1b[0m   1 m 04 s\n", report.Table(r, 0, true))
}

func TestTableIsNeverWider(t *testing.T) {
	r := run()
	r.Stages = append(r.Stages, report.Stage{Name: strings.Repeat("long ", 60), Seconds: 4000, Result: report.OK, Made: []string{"\x1b[31m🧪🧪🧪e\u0301\r\nx\x00"}})
	for width := 1; width < 120; width++ {
		for line := range strings.Lines(report.Table(r, width, false)) {
			line = strings.TrimSuffix(line, "\n")
			cells := 0
			for _, c := range line {
				switch {
				case c == '\u0301':
				case c > 0x2e80:
					cells += 2
				default:
					cells++
				}
			}
			assert.LessOrEqual(t, cells, width, "%q", line)
			assert.Equal(t, strings.TrimRight(line, " "), line)
		}
		report.Table(r, width, true)
	}
	assert.Equal(t, "stage  result   time  made\ntotal  running   0 s\n", report.Table(report.Run{}, 0, false))
}

func TestMarkdown(t *testing.T) {
	assert.Equal(t, `### ❌ shop/pay: failed in 1 m 04 s

Commit <code>4f2a91c</code>

| Stage | Result | Time | Made |
| :-- | :-- | --: | :-- |
| lint | ✅ ok | 8.4 s |  |
| test | ✅ ok | 1 m 01 s | <code>build/coverage.html</code><br><code>build/junit.xml</code> |
| 統合 | ✅ ok | 340 ms | <code>報告書/結果.xml</code> |
| image | ❌ failed | 2.1 s | compiling &#124; ./cmd/pay: |
| push | ⏭️ skipped | – | image failed, and push needs it |
| scan | 🛑 stopped | 3.0 s | signal: interrupt |
| deploy | 📋 planned | – | server-side apply |
| smoke | ⏳ running | 0 s |  |

<details open><summary>❌ image failed</summary>

`+"````text"+`
compiling | ./cmd/pay:
main.go:7:2: undefined: x
`+"```"+`
</details>
`+"````"+`

</details>

<details open><summary>🛑 scan stopped</summary>

`+"```text"+`
signal: interrupt
`+"```"+`

</details>
`, report.Markdown(run()))
	assert.Equal(t, "### ⏳ Pipeline: running in 0 s\n\nNo stage ran.\n", report.Markdown(report.Run{}))
}

func TestMarkdownEscapes(t *testing.T) {
	bad := "a|b\n<script>*_[x](y)`\\~&\u202e\x00\xff"
	r := report.Run{Service: bad, Commit: bad, Result: report.OK, Stages: []report.Stage{{Name: bad, Result: report.Result(bad), Made: []string{bad}}}}
	text := report.Markdown(r)
	assert.Len(t, strings.Split(text, "\n"), 8, "a cell has no line of its own")
	want := "a&#124;b &#60;script&#62;&#42;&#95;&#91;x&#93;&#40;y&#41;&#96;&#92;&#126;&#38;[U+202E]␀\uFFFD"
	want = strings.ReplaceAll(want, "[U+202E]", "&#91;U+202E&#93;")
	assert.Equal(t, 5, strings.Count(text, want))
}

// GitHub takes 1 MiB of a step's summary.
func TestMarkdownIsSmallEnough(t *testing.T) {
	r := report.Run{Result: report.Failed}
	for range 3000 {
		r.Stages = append(r.Stages, report.Stage{Name: strings.Repeat("n", 300), Result: report.Failed,
			Reason: strings.Repeat("reason\n", 10_000), Made: make([]string, 3000)})
	}
	r.Stages[0].Made = strings.Fields(strings.Repeat("build/file ", 3000))
	text := report.Markdown(r)
	assert.Less(t, len(text), 1<<20)
	assert.Contains(t, text, " more stages are in pipeline.json")
	assert.Contains(t, text, "More reasons are in pipeline.json")
	assert.Contains(t, text, "and 2983 more")
}
