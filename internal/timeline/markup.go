package timeline

import (
	"bytes"
	"fmt"
	"html"
	"strconv"

	"github.com/grimoire-build/grimoire/internal/report"
)

// markup is HTML. A constant becomes one by itself, and a string never does, so that what a run holds reaches the page by way
// of escape alone.
type markup string

// page is the HTML written so far.
type page struct{ bytes.Buffer }

// add writes HTML, a constant, with an argument for each %s: strings are escaped, numbers rounded to what a screen can show.
// Attributes stand in double quotes.
func (p *page) add(format markup, args ...any) {
	for i, arg := range args {
		switch v := arg.(type) {
		case markup:
			args[i] = string(v)
		case int:
			args[i] = strconv.Itoa(v)
		case float64:
			args[i] = strconv.FormatFloat(v, 'f', 3, 64)
		default:
			args[i] = escape(fmt.Sprint(v))
		}
	}
	fmt.Fprintf(&p.Buffer, string(format), args...)
}

// escape is s as text of an element or an attribute.
func escape(s string) string { return html.EscapeString(report.Visible(s)) }
