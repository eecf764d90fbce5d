package kube

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
