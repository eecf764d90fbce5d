package gotest

import (
	"encoding/xml"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grimoire-build/grimoire/internal/atomicfile"
)

// The elements of a JUnit report, as forges read them. There is no specification; this is what Jenkins, GitLab and Gitea
// agree on, with the file and line attributes that let a forge point at the source.
// Source: https://github.com/testmoapp/junitxml
type (
	testsuites struct {
		XMLName  xml.Name    `xml:"testsuites"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"` // seconds
		Suites   []testsuite `xml:"testsuite"`
	}
	testsuite struct {
		Name      string     `xml:"name,attr"`
		Tests     int        `xml:"tests,attr"`
		Failures  int        `xml:"failures,attr"`
		Errors    int        `xml:"errors,attr"`
		Skipped   int        `xml:"skipped,attr"`
		Time      string     `xml:"time,attr"`
		Timestamp string     `xml:"timestamp,attr"`
		Cases     []testcase `xml:"testcase"`
	}
	testcase struct {
		Name      string  `xml:"name,attr"`
		Classname string  `xml:"classname,attr"`
		File      string  `xml:"file,attr,omitempty"`
		Line      int     `xml:"line,attr,omitempty"`
		Time      string  `xml:"time,attr"`
		Failure   *detail `xml:"failure"`
		Error     *detail `xml:"error"`
		Skipped   *detail `xml:"skipped"`
	}
	detail struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// maxReport is how much of a test's output goes into the report, in bytes: its end. Forges refuse reports of many megabytes.
const maxReport = 256 << 10

// writeJUnit writes the report of a run that began at start.
func writeJUnit(path string, r *run, start time.Time, took time.Duration, mask func(string) string) error {
	data, err := xml.MarshalIndent(r.junit(start, took), "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if mask != nil {
		data = []byte(mask(string(data)))
	}
	return atomicfile.Write(path, append([]byte(xml.Header), append(data, '\n')...))
}

func (r *run) junit(start time.Time, took time.Duration) testsuites {
	all := testsuites{Time: seconds(took.Seconds())}
	for _, p := range r.packages {
		s := testsuite{Name: clean(p.path), Time: seconds(p.seconds), Timestamp: start.UTC().Format("2006-01-02T15:04:05")}
		for _, t := range p.tests {
			s.add(r.testcase(p, t))
		}
		if p.action == failed && s.Failures+s.Errors == 0 {
			// It does not compile, or failed outside of its tests.
			d := r.describePackage(p)
			s.add(testcase{Name: clean(p.path), Classname: clean(p.path), File: clean(d.File), Line: d.Line, Time: seconds(0),
				Error: &detail{Message: clean(d.Message), Text: report(slices.Concat(p.build, p.own.data), p.own.lost)}})
		}
		if s.Tests == 0 {
			continue
		}
		all.Suites = append(all.Suites, s)
		all.Tests += s.Tests
		all.Failures += s.Failures
		all.Errors += s.Errors
		all.Skipped += s.Skipped
	}
	return all
}

func (s *testsuite) add(c testcase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	switch {
	case c.Failure != nil:
		s.Failures++
	case c.Error != nil:
		s.Errors++
	case c.Skipped != nil:
		s.Skipped++
	}
}

// testcase reports a test. One that says itself that it failed is a failure, and one that did not get as far an error.
func (r *run) testcase(p *pkg, t *test) testcase {
	d := r.describe(p, t)
	c := testcase{Name: clean(t.name), Classname: clean(p.path), File: clean(d.File), Line: d.Line, Time: seconds(t.seconds)}
	switch t.action {
	case failed:
		why := &detail{Message: clean(d.Message), Text: report(t.output.data, t.output.lost)}
		if why.Message == "" {
			why.Message = "failed"
		}
		if _, bad := t.panicked(); bad {
			c.Error = why
		} else {
			c.Failure = why
		}
	case skipped:
		c.Skipped = &detail{Message: clean(d.Message)}
	}
	return c
}

// report is output as the report has it: its end, where it is long.
func report(output []byte, lost int) string {
	if over := len(output) - maxReport; over > 0 {
		output, lost = output[over:], lost+over
	}
	if lost > 0 {
		return fmt.Sprintf("… %d bytes are left out …\n", lost) + clean(string(output))
	}
	return clean(string(output))
}

func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }

// colour is an escape sequence of a terminal that changes how text looks.
var colour = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// clean takes colours out, and replaces what XML 1.0 cannot hold in any way: control characters and broken UTF-8.
// Source: https://www.w3.org/TR/xml/#charsets
func clean(s string) string {
	if strings.IndexByte(s, 0x1b) >= 0 {
		s = colour.ReplaceAllString(s, "")
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r == '\r':
			return r
		case r < 0x20, r == 0xFFFE, r == 0xFFFF, r >= 0xD800 && r <= 0xDFFF:
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}
