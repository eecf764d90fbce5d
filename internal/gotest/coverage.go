package gotest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/tools/cover"
)

// coverage is how many statements there are, and how many the tests ran.
type coverage struct {
	statements, covered int
	files               []fileCoverage // those with statements that no test ran
}

type fileCoverage struct {
	name      string
	uncovered int
}

// readCoverage reads a profile. One block may stand in it several times, once for each package whose tests ran it.
func readCoverage(profile string, s *source) (coverage, error) {
	var c coverage
	profiles, err := cover.ParseProfiles(profile)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil // go test writes none where it has run nothing
	}
	if err != nil {
		return c, fmt.Errorf("reading the coverage profile: %w", err)
	}
	for _, p := range profiles {
		file := fileCoverage{name: cmp.Or(s.relative(s.locate(p.FileName)), p.FileName)}
		for _, block := range p.Blocks { // ParseProfiles has merged equal blocks
			c.statements += block.NumStmt
			if block.Count > 0 {
				c.covered += block.NumStmt
			} else {
				file.uncovered += block.NumStmt
			}
		}
		if file.uncovered > 0 {
			c.files = append(c.files, file)
		}
	}
	return c, nil
}

// percent is 0 where there are no statements: nothing was shown to work.
func (c coverage) percent() float64 {
	if c.statements == 0 {
		return 0
	}
	return 100 * float64(c.covered) / float64(c.statements)
}

// check compares the coverage with the least that it has to be, in percent; zero and below: there is no least.
func (c coverage) check(least float64, tested bool) error {
	if least <= 0 || c.percent() >= least {
		return nil
	}
	cure := "write a test"
	switch {
	case !tested:
		cure = "there are no tests: write one"
	case c.statements == 0:
		cure = "there are no statements to test: set the threshold to 0"
	case len(c.files) > 0:
		cure = "most of what no test runs is in " + c.worst()
	}
	// Rounded down, lest it say that 70.0 is below 70.
	return fmt.Errorf("coverage is %.1f %% of the statements, which is below the threshold of %g %%; %s",
		math.Floor(c.percent()*10)/10, least, cure)
}

// worst names the files with the most statements that no test runs.
func (c coverage) worst() string {
	files := slices.SortedStableFunc(slices.Values(c.files), func(a, b fileCoverage) int {
		return cmp.Compare(b.uncovered, a.uncovered)
	})
	var worst []string
	for _, f := range files[:min(3, len(files))] {
		noun := "statements"
		if f.uncovered == 1 {
			noun = "statement"
		}
		worst = append(worst, fmt.Sprintf("%s (%d %s)", f.name, f.uncovered, noun))
	}
	return strings.Join(worst, ", ")
}
