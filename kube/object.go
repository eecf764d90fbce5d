package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Object is one Kubernetes object and where it was read from.
type Object struct {
	*unstructured.Unstructured

	// Source is where the object comes from; zero where it was made by a program.
	Source Source

	// applied is what the API server answered when Client.Apply applied the object, nil before that and after a dry run.
	applied *unstructured.Unstructured
}

// String returns the object's kind and name: "Deployment/pay".
func (o *Object) String() string {
	return o.GetKind() + "/" + o.GetName()
}

// described is String with the source, for errors.
func (o *Object) described() string {
	if o.Source.File == "" {
		return o.String()
	}
	return fmt.Sprintf("%s (%s)", o, o.Source)
}

// Source is a place in a file.
type Source struct {
	// File is the path as it was found from what Load was given.
	File string
	// Document counts the documents in the file from 1, empty ones too.
	Document int
	// Line is where in the file the object begins, from 1.
	Line int
}

// String returns "file:line", which editors and terminals can follow.
func (s Source) String() string {
	if s.File == "" {
		return fmt.Sprintf("line %d", s.Line)
	}
	return fmt.Sprintf("%s:%d", s.File, s.Line)
}

// errorf returns an error that begins with the place, in the form of all errors about a manifest's content.
func (s Source) errorf(format string, args ...any) error {
	return &sourceError{Source: s, err: fmt.Errorf(format, args...)}
}

// sourceError is an error about a place in a file.
type sourceError struct {
	Source
	err error
	// syntax is whether the file cannot be parsed at all.
	syntax bool
}

func (e *sourceError) Error() string {
	return fmt.Sprintf("%s: document %d: %v", e.Source, e.Document, e.err)
}

func (e *sourceError) Unwrap() error { return e.err }

// at is the same document at another line.
func (s Source) at(line int) Source {
	if line > 0 {
		s.Line = line
	}
	return s
}
