package kube

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

// watcher lists objects and watches them, and goes on when a watch ends, when the connection breaks, and when the version to go on
// from is too old for the server.
type watcher struct {
	client    *Client
	resource  resource
	namespace string
	// selects are the selectors.
	selects metav1.ListOptions
	// newOnly leaves out what is there at first.
	newOnly bool
	// listed is called with all objects, at first and whenever they had to be listed again. It reports whether to go on.
	listed func([]unstructured.Unstructured) bool
	// changed is called with each object that changes, and whether it is gone. It reports whether to go on.
	changed func(u *unstructured.Unstructured, gone bool) bool
	// trouble is told of errors that may pass, and with nil when they have.
	trouble func(error)

	watched bool   // whether a watch has ever begun
	version string // to watch from; empty where all has to be listed
	ended   bool   // as listed or changed wanted it
}

// How long a watch may last until it is begun anew, which is what finds out that a connection is dead. The server is asked to
// end it first.
const (
	watchTime = time.Minute
	listTime  = 30 * time.Second
)

// run watches until listed or changed has enough, which is no error, or ctx ends, or the server means no.
func (w *watcher) run(ctx context.Context) error {
	var refused time.Time
	for pause := firstPause; ; {
		heard, verb, err := w.once(ctx)
		passing := false
		if w.watched && (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)) {
			if refused.IsZero() {
				refused = time.Now()
			}
			passing = time.Since(refused) < outage
		} else {
			refused = time.Time{}
		}
		switch {
		case w.ended:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !passing && !mayResume(err):
			return w.client.explain(ctx, err, verb, w.resource, w.namespace)
		}
		w.trouble(err)
		if err != nil {
			zerolog.Ctx(ctx).Debug().Str("resource", w.resource.String()).Err(err).Msg("the watch ended, resuming")
		}
		if heard {
			pause = firstPause
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		pause = longer(pause)
	}
}

// mayResume reports whether a watch can go on after an error. Everything may pass but what the server means.
func mayResume(err error) bool {
	return !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) && !apierrors.IsNotFound(err) &&
		!apierrors.IsMethodNotSupported(err) && !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err)
}

// once lists where that is needed, and watches until the watch ends. It reports whether it heard of anything, and what it was
// doing in case of an error.
func (w *watcher) once(ctx context.Context) (heard bool, verb string, err error) {
	if w.version == "" {
		if err := w.list(ctx); err != nil || w.ended {
			return false, "list", err
		}
		heard = true
	}
	// More than the server has, so that a watch that outlives it is one whose connection is dead.
	watchCtx, cancel := context.WithTimeout(ctx, watchTime+listTime)
	defer cancel()
	options, seconds := w.selects, int64(watchTime/time.Second)
	options.ResourceVersion, options.AllowWatchBookmarks, options.TimeoutSeconds = w.version, true, &seconds
	stream, err := w.client.of(w.resource, w.namespace).Watch(watchCtx, options)
	if err != nil {
		w.forget(err)
		return heard, "watch", err
	}
	defer stream.Stop()
	w.watched = true
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			err := apierrors.FromObject(event.Object)
			w.forget(err)
			return heard, "watch", err
		}
		u, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		w.version = u.GetResourceVersion()
		if event.Type == watch.Bookmark {
			continue
		}
		heard = true
		if !w.changed(u, event.Type == watch.Deleted) {
			w.ended = true
			break
		}
	}
	return heard, "watch", nil
}

// forget has the objects listed anew where the server's answer may mean that the version to watch from is too old. After a mere
// broken connection the watch resumes where it was.
func (w *watcher) forget(err error) {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		w.version = ""
	}
}

func (w *watcher) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	options := w.selects
	if w.newOnly {
		options.Limit = 1 // for its version alone
	}
	list, err := w.client.of(w.resource, w.namespace).List(ctx, options)
	if err != nil {
		return err
	}
	w.version = list.GetResourceVersion()
	if !w.newOnly {
		w.ended = !w.listed(list.Items)
	}
	return nil
}
