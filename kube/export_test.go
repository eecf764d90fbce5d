package kube

import "time"

// WithPatience is c with less of it than minutes.
func (c Config) WithPatience(d time.Duration) Config {
	c.patience = d
	return c
}
