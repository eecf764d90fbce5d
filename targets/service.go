// Package targets holds the targets that every Go service has: lint, vet and test. Image, push and
// deploy are in packages of their own below it, so that a magefile which does not use them does not
// compile what they need.
//
// A magefile takes the targets by importing the packages:
//
//	import (
//		//mage:import
//		_ "github.com/grimoire-build/grimoire/targets"
//	)
//
// or names them one by one, where it wants another order or a module of its own:
//
//	// Test runs the tests after the checks that are cheaper.
//	func Test(ctx context.Context) error {
//		mg.CtxDeps(ctx, Lint)
//		return targets.Test(ctx)
//	}
package targets

import "sync"

// NoCoverage, as Test.Coverage, asks for no share of the statements. Zero asks for the default.
const NoCoverage = -1

var configured struct {
	mu      sync.Mutex
	service Service
}

// Configure sets what the targets work on. It is called in the magefile's init and stores s,
// nothing else: what is wrong with it is told by the targets that need it, so that `mage -l` always
// works. The environment goes before it.
func Configure(s Service) {
	configured.mu.Lock()
	defer configured.mu.Unlock()
	configured.service = s
}

// asConfigured returns what Configure was given.
func asConfigured() Service {
	configured.mu.Lock()
	defer configured.mu.Unlock()
	return configured.service
}
