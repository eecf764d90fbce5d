package kube

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// WithPatience is c with less of it than minutes.
func (c Config) WithPatience(d time.Duration) Config {
	c.patience = d
	return c
}

// IsApplied is isApplied for our own manager.
func IsApplied(sent map[string]any, live *unstructured.Unstructured) bool {
	return isApplied(withoutServerFields(&unstructured.Unstructured{Object: sent}).Object, live, defaultFieldManager)
}

// TestEvent is an event about an object.
type TestEvent struct{ UID, Reason, Message string }

// Around is what there is around a workload.
type Around struct {
	Pods            []*unstructured.Unstructured
	Events          []TestEvent
	Older           int
	Operators, Busy bool
	Unsure          bool
}

// Diagnose returns a function that diagnoses what is there some time after the first call.
func Diagnose(workload *unstructured.Unstructured, a Around) func(time.Duration) (d *Diagnosis, certain bool, waits string) {
	kept := newMemory()
	return func(later time.Duration) (*Diagnosis, bool, string) {
		s := scene{
			workload: live{workload}, refused: live{workload}, older: a.Older, makers: []types.UID{workload.GetUID()}, memory: kept, now: time.Unix(0, 0).Add(later),
			unsure: a.Unsure, operators: a.Operators, busy: a.Busy,
			events: func(uid types.UID) (found []event) {
				for _, e := range a.Events {
					if e.UID == string(uid) {
						found = append(found, event{e.Reason, e.Message})
					}
				}
				return found
			},
		}
		for _, pod := range a.Pods {
			s.pods = append(s.pods, live{pod})
		}
		v := diagnose(s)
		return v.worst, v.certain, v.waits
	}
}

// Union is union.
func Union(a, b map[string]any) map[string]any { return union(a, b) }
