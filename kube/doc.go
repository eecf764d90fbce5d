// Package kube brings Kubernetes manifests to life: Load reads them, SetImage sets the image that is to run, and a Client
// applies them server-side and waits for the rollout. The GitOps way of doing so is Environment, which writes the image into
// a git repository that something else brings to the cluster.
//
// It works with any kind, since it compiles none: objects are unstructured, and kinds are looked up in the API server.
package kube
