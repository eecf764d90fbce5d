package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

const (
	rolling  = "{replicas: 3, updatedReplicas: 1, availableReplicas: 2}"
	finished = "{replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}"
	deadline = `{replicas: 2, updatedReplicas: 1, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, message: timed out}]}`
)

// waiting is a Wait that goes on.
type waiting struct {
	*apiServer
	objects []*kube.Object
	done    chan error
	cancel  context.CancelCauseFunc
	// told are the messages that Progress got.
	told chan string
}

// wait applies the objects and begins to wait for them.
func wait(t *testing.T, content string, o kube.WaitOptions) *waiting {
	t.Helper()
	s := newAPIServer(t)
	client := s.connect("shop")
	objects := load(t, content)
	_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	w := &waiting{apiServer: s, objects: objects, done: make(chan error, 1), told: make(chan string, 100)}
	o.Progress = func(o *kube.Object, r kube.Result) { w.told <- o.String() + ": " + r.Message }
	ctx, cancel := context.WithCancelCause(t.Context())
	w.cancel = cancel
	t.Cleanup(func() { cancel(nil) })
	go func() { w.done <- client.Wait(ctx, objects, o) }()
	return w
}

func (w *waiting) expect(t *testing.T, messages ...string) {
	t.Helper()
	for _, want := range messages {
		select {
		case got := <-w.told:
			require.Equal(t, want, got)
		case err := <-w.done:
			require.Fail(t, "the waiting has ended", "%v, where %q was expected", err, want)
		case <-t.Context().Done():
			require.Fail(t, "nothing was told", "where %q was expected", want)
		}
	}
}

func TestWait(t *testing.T) {
	w := wait(t, deployment+"---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n", kube.WaitOptions{})
	w.expect(t, "Deployment/pay: the controller has not seen it yet")
	<-w.watching
	w.setStatus(payPath, "{observedGeneration: 0, replicas: 2, updatedReplicas: 2, availableReplicas: 2}")
	w.expect(t, "Deployment/pay: the controller has seen generation 0, not yet 1")
	w.setStatus(payPath, rolling)
	w.setStatus(payPath, strings.Replace(rolling, "replicas: 3", "replicas: 4", 1)) // no other message
	w.expect(t, "Deployment/pay: 1 of 2 replicas updated")
	w.setStatus(payPath, finished)
	w.expect(t, "Deployment/pay: 2 replicas available")
	require.NoError(t, <-w.done)
}

func TestWaitForSeveral(t *testing.T) {
	w := wait(t, deployment+"---\n{apiVersion: batch/v1, kind: Job, metadata: {name: migrate, namespace: default}}\n", kube.WaitOptions{})
	<-w.watching
	<-w.watching
	w.setStatus(payPath, finished)
	w.setStatus("/apis/batch/v1/namespaces/default/jobs/migrate", `{conditions: [{type: Complete, status: "True"}]}`)
	require.NoError(t, <-w.done)
}

func TestWaitForNothing(t *testing.T) {
	s := newAPIServer(t)
	require.NoError(t, s.connect("shop").Wait(t.Context(), load(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"), kube.WaitOptions{}))
	assert.Empty(t, s.seen())
	require.ErrorContains(t, s.connect("shop").Wait(t.Context(), nil, kube.WaitOptions{Timeout: -1}), "give one above zero")
}

func TestWaitEndsAtOnceOnFailure(t *testing.T) {
	w := wait(t, deployment+"---\n{apiVersion: batch/v1, kind: Job, metadata: {name: migrate}}\n", kube.WaitOptions{})
	<-w.watching
	<-w.watching
	w.setStatus(payPath, deadline)
	err := <-w.done
	var failed *kube.WaitError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Objects, 1, "the job has not failed")
	assert.Same(t, w.objects[0], failed.Objects[0].Object)
	assert.Equal(t, kube.Failed, failed.Objects[0].Result.State)
	assert.NoError(t, failed.Err)
	assert.EqualError(t, err, fmt.Sprintf("waiting for the rollout: failed: Deployment/pay (%s): ProgressDeadlineExceeded: timed out",
		w.objects[0].Source))
}

// A deadline that passed before the change says nothing about it, though the controller repeats it; one that passes after it does.
func TestWaitIgnoresAnOlderDeadline(t *testing.T) {
	const late = `{replicas: 3, updatedReplicas: 1, availableReplicas: 2, conditions: [
{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, message: timed out, lastUpdateTime: "2026-01-01T00:00:0%d"}]}`
	for name, end := range map[string]struct{ status, err string }{
		"good": {finished, ""},
		"late": {fmt.Sprintf(late, 2), "ProgressDeadlineExceeded: timed out"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			client := s.connect("shop")
			apply := func(image string) []*kube.Object {
				objects := load(t, strings.Replace(deployment, "image: pay,", "image: "+image+",", 1))
				_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
				require.NoError(t, err)
				return objects
			}
			again := apply("bad")
			s.setStatus(payPath, fmt.Sprintf(late, 1))
			require.ErrorContains(t, client.Wait(t.Context(), again, kube.WaitOptions{}), "timed out")
			require.ErrorContains(t, client.Wait(t.Context(), apply("bad"), kube.WaitOptions{}), "timed out", "nothing has changed since")
			objects := apply("good")
			s.setStatus(payPath, fmt.Sprintf(late, 1))
			told := make(chan string, 10)
			done := make(chan error, 1)
			go func() {
				done <- client.Wait(t.Context(), objects, kube.WaitOptions{Progress: func(_ *kube.Object, r kube.Result) { told <- r.Message }})
			}()
			assert.Equal(t, "1 of 2 replicas updated", <-told)
			s.setStatus(payPath, end.status)
			if err := <-done; end.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, end.err)
			}
		})
	}
}

// What the API server lists may be from before the change where a cache answers.
func TestWaitIgnoresOlderGenerations(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	objects := load(t, deployment)
	for _, replicas := range []int64{1, 2} {
		objects[0].Object["spec"].(map[string]any)["replicas"] = replicas
		_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
		require.NoError(t, err)
		s.setStatus(payPath, "{replicas: 1, updatedReplicas: 1, availableReplicas: 1}")
		if replicas == 1 {
			old := s.live(payPath)
			s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/pay") || r.URL.Query().Get("watch") != "" || !strings.HasSuffix(r.URL.Path, "/deployments") {
					return false
				}
				answer(w, 200, map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{old.Object},
					"metadata": map[string]any{"resourceVersion": old.GetResourceVersion()}})
				return true
			})
		}
	}
	told := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- client.Wait(t.Context(), objects, kube.WaitOptions{Progress: func(_ *kube.Object, r kube.Result) { told <- r.Message }})
	}()
	assert.Equal(t, "generation 2 is not there yet, only 1", <-told)
	assert.Equal(t, "1 of 2 replicas updated", <-told, "what the watch says of the new one")
	s.setStatus(payPath, finished)
	require.NoError(t, <-done)
}

func TestWaitResumes(t *testing.T) {
	requests := func(w *waiting) (lists, watches int) {
		for _, request := range w.seen() {
			switch request {
			case "GET /apis/apps/v1/namespaces/shop/deployments":
				lists++
			case "WATCH /apis/apps/v1/namespaces/shop/deployments":
				watches++
			}
		}
		return lists, watches
	}
	tests := []struct {
		name      string
		interrupt func(w *waiting)
		lists     int
	}{
		{"after a watch that ended", func(w *waiting) { w.endWatches() }, 1},
		{"after an expired version", func(w *waiting) { w.endWatches(goneEvent) }, 2},
		{"after a dropped connection", func(w *waiting) { w.endWatches("abort") }, 1},
		{"after nonsense", func(w *waiting) { w.endWatches("<html>") }, 1},
		{"after a bookmark", func(w *waiting) {
			w.endWatches(`{"type":"BOOKMARK","object":{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"resourceVersion":"1"}}}`)
		}, 1},
		{"after another object", func(w *waiting) {
			w.endWatches(`{"type":"DELETED","object":{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"other","resourceVersion":"1"}}}`)
		}, 1},
		{"after a server that was away", func(w *waiting) {
			var faults atomic.Int32
			w.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/deployments") || faults.Add(1) > 2 {
					return false
				}
				fail(rw, 500, "InternalError", "no leader", nil)
				return true
			})
			w.endWatches()
		}, 2},
		{"after a server that did not know the login yet", func(w *waiting) {
			var faults atomic.Int32
			w.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/deployments") || faults.Add(1) > 2 {
					return false
				}
				fail(rw, 403, "Forbidden", `deployments.apps is forbidden: User "ci" cannot watch resource "deployments"`, nil)
				return true
			})
			w.endWatches()
		}, 2},
		{"after 410 as an answer", func(w *waiting) {
			var faults atomic.Int32
			w.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/deployments") || faults.Add(1) > 1 {
					return false
				}
				fail(rw, 410, "Expired", "too old", nil)
				return true
			})
			w.endWatches()
		}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := wait(t, deployment, kube.WaitOptions{})
			<-w.watching
			w.setStatus(payPath, rolling)
			w.expect(t, "Deployment/pay: the controller has not seen it yet", "Deployment/pay: 1 of 2 replicas updated")
			tt.interrupt(w)
			w.setStatus(payPath, finished) // while nobody watches
			require.NoError(t, <-w.done)
			lists, watches := requests(w)
			assert.GreaterOrEqual(t, lists, tt.lists)
			assert.GreaterOrEqual(t, lists+watches, 3)
		})
	}
}

func TestWaitTimeout(t *testing.T) {
	t.Parallel() // it mostly waits
	w := wait(t, deployment+"---\n{apiVersion: batch/v1, kind: Job, metadata: {name: migrate}}\n", kube.WaitOptions{Timeout: 10 * time.Second})
	<-w.watching
	<-w.watching
	w.setStatus("/apis/batch/v1/namespaces/shop/jobs/migrate", `{conditions: [{type: Complete, status: "True"}]}`)
	w.setStatus(payPath, rolling)
	err := <-w.done
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var unready *kube.WaitError
	require.ErrorAs(t, err, &unready)
	assert.Equal(t, 10*time.Second, unready.Timeout)
	assert.EqualError(t, err, fmt.Sprintf("waiting for the rollout: not current after 10s: Deployment/pay (%s): 1 of 2 replicas updated; "+
		"look at what `kubectl describe` says of it, or allow more time", w.objects[0].Source))
}

func TestWaitTimeoutSaysWhatTheTroubleIs(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newAPIServer(t)
	client := s.connect("shop")
	objects := load(t, deployment)
	_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	s.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		fail(w, 500, "InternalError", "etcd is on fire", nil)
		return true
	})
	err = client.Wait(t.Context(), objects, kube.WaitOptions{Timeout: 10 * time.Second})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "its status could not be read")
	assert.ErrorContains(t, err, "etcd is on fire")
}

func TestWaitCancelled(t *testing.T) {
	w := wait(t, deployment, kube.WaitOptions{})
	<-w.watching
	cause := errors.New("the job was cancelled")
	w.cancel(cause)
	err := <-w.done
	require.ErrorIs(t, err, cause)
	assert.ErrorContains(t, err, "the controller has not seen it yet: the job was cancelled")
}

func TestWaitForWhatIsNotThere(t *testing.T) {
	s := newAPIServer(t)
	err := s.connect("shop").Wait(t.Context(), load(t, deployment), kube.WaitOptions{})
	require.ErrorContains(t, err, "it is not in the cluster; apply it")

	w := wait(t, deployment, kube.WaitOptions{})
	<-w.watching
	w.delete(payPath)
	require.ErrorContains(t, <-w.done, "it was deleted; apply it again")
}

func TestWaitMayNotWatch(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	objects := load(t, deployment+"---\n{apiVersion: batch/v1, kind: Job, metadata: {name: migrate}}\n")
	_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/deployments") || r.URL.Query().Get("watch") == "" {
			return false
		}
		fail(w, 403, "Forbidden", `deployments.apps is forbidden: User "ci" cannot watch resource "deployments"`, nil)
		return true
	})
	err = client.Wait(t.Context(), objects, kube.WaitOptions{})
	require.ErrorContains(t, err, "; let the login watch deployments.apps in the namespace shop")
	var unready *kube.WaitError
	require.ErrorAs(t, err, &unready)
	assert.Len(t, unready.Objects, 2)
	assert.Zero(t, unready.Timeout)
}

func TestWaitLogsEachMessageOnce(t *testing.T) {
	s := newAPIServer(t)
	client := s.connect("shop")
	objects := load(t, deployment)
	_, err := client.Apply(t.Context(), objects, kube.ApplyOptions{})
	require.NoError(t, err)
	s.setStatus(payPath, finished)
	var log bytes.Buffer
	require.NoError(t, client.Wait(zerolog.New(zerolog.SyncWriter(&log)).WithContext(t.Context()), objects, kube.WaitOptions{}))
	assert.Equal(t, `{"level":"info","object":"Deployment/pay","state":"current","message":"2 replicas available"}`+"\n", log.String())
}
