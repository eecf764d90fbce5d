// Package docker makes container images and moves them to registries.
//
// An image comes either from a Dockerfile, by a Docker Engine (Connect, Engine.Build, Engine.Push), or straight from Go
// packages without any daemon (BuildGo, Registry.Push), reproducible to the digest. Registry speaks to registries itself
// and turns what they answer into one sentence that says what to do about it.
//
// The package knows nothing of mage, of git, or of what a service is. It logs through zerolog.Ctx(ctx) alone.
package docker
