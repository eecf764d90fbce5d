// Package report is the record of a run: its stages, what each of them ran and made, and how it all ended. It is what
// build/pipeline.json holds, and what tables, timelines and traces are made of.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/grimoire-build/grimoire/internal/atomicfile"
)

// Version of the format. It is raised when a reader has to change; fields that a reader may ignore are added without.
const Version = 1

// Result is how a run or a stage ended.
type Result string

// The results.
const (
	OK      Result = "ok"
	Failed  Result = "failed"
	Skipped Result = "skipped" // it did not begin, or was ended early, since it no longer mattered
	Stopped Result = "stopped" // a signal or the time limit ended it
	Planned Result = "planned" // a dry run: it would run
)

// Run is a run of the magefile. Times are RFC 3339 with nanoseconds.
type Run struct {
	// Version is the format's.
	Version int `json:"version"`
	// Service is the name of the service, Commit what was checked out, with "-dirty" where files differ. Both are empty
	// where no stage asked for them.
	Service string `json:"service,omitempty"`
	Commit  string `json:"commit,omitempty"`
	// Targets are those that the command line asks for.
	Targets []string `json:"targets,omitempty"`
	// Forge is where it ran: gitea, github, or nothing.
	Forge string `json:"forge,omitempty"`
	// URL is the run's page on the forge.
	URL string `json:"url,omitempty"`
	// Trace is the W3C trace id, where traces are exported.
	Trace string `json:"trace,omitempty"`
	// Start and End bound the run; End is when the report was written where the run goes on.
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// Result is failed or stopped as soon as one stage is.
	Result Result `json:"result"`
	// Stages are in the order in which they began.
	Stages []Stage `json:"stages"`
}

// Stage is a stage of a run.
type Stage struct {
	// Name is the stage's; it is unique in a run.
	Name string `json:"name"`
	// Start and End bound the stage; both are the same moment for one that was skipped before it began.
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// Seconds is how long its own work took, without the time that it waited for other stages or for its turn.
	Seconds float64 `json:"seconds"`
	// Result is how it ended; empty while it runs.
	Result Result `json:"result,omitempty"`
	// Reason says why it failed, was skipped or was stopped, or what it would do. It may have several lines.
	Reason string `json:"reason,omitempty"`
	// Needs are the stages that it waited for.
	Needs []string `json:"needs,omitempty"`
	// Made lists what it made: a reference by digest, the path of a report, a commit.
	Made []string `json:"made,omitempty"`
	// Processes are the child processes that it ran, in the order in which they began.
	Processes []Process `json:"processes,omitempty"`
}

// Process is a child process of a stage.
type Process struct {
	// Command is the command line, program first.
	Command []string `json:"command"`
	// Dir is its working directory; empty for the run's own.
	Dir   string    `json:"dir,omitempty"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// ExitCode is 0 where it went well, 128 plus the signal's number where one ended it.
	ExitCode int `json:"exit_code"`
}

// Write replaces the file at path by r as JSON.
func Write(path string, r Run) error {
	r.Version = Version
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'))
}

// Read reads what Write wrote.
func Read(path string) (Run, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Run{}, err
	}
	var r Run
	if err := json.Unmarshal(data, &r); err != nil {
		return Run{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if r.Version != Version {
		return Run{}, fmt.Errorf("reading %s: its version is %d, not %d; run the stages again", path, r.Version, Version)
	}
	return r, nil
}
