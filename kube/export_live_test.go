package kube

import (
	"context"
	"time"
)

// SameRepository is sameRepository.
var SameRepository = sameRepository

// Overtaken says which commit has brought another image since; empty where none has, as far as it is known.
func Overtaken(ctx context.Context, e Environment, commit, image string) string {
	remote, err := parseRemote(e.URL)
	if err != nil {
		return ""
	}
	line := &lineage{ctx: ctx, environment: e, remote: remote, commit: commit, known: make(map[string]bool), again: make(map[string]time.Time)}
	defer line.close()
	if by, err := line.overtaken(ctx, image); err == nil && by != nil {
		return by.Error()
	}
	return ""
}
