package stage

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grimoire-build/grimoire/internal/atomicfile"
)

// reportVersion is raised when a reader of the report has to change.
const reportVersion = 1

// File is the content of a report.
type File struct {
	// Version is 1.
	Version int `json:"version"`
	// Stages are the stages of the run in the order in which they ended.
	Stages []Record `json:"stages"`
}

func writeReport(path string, records []Record) error {
	data, err := json.MarshalIndent(File{Version: reportVersion, Stages: records}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'))
}

// ReadReport reads what Report had written.
func ReadReport(path string) ([]Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f File
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if f.Version != reportVersion {
		return nil, fmt.Errorf("reading %s: its version is %d, not %d; run the stages again", path, f.Version, reportVersion)
	}
	return f.Stages, nil
}
