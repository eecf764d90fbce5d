package kube

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Observed is an object as it is in the cluster.
type Observed struct {
	// Object is what is declared. A hook has the name of its Job for the image.
	Object *Object
	// Result is its status; Failed where it is not there, unless it is a hook.
	Result Result
	// Hook is whether it is a Job that runs once for each image; see HookAnnotation.
	Hook bool
	// Pods are those of a workload, also those on their way out, by name.
	Pods []Pod
}

// Good reports whether Client.Deploy would call the object good: it is there and has not failed, and if Client.Wait waits for its kind,
// it is current. An Ingress without an address, say, is good, and so is a claim that waits for its first consumer.
func (o Observed) Good() bool {
	return o.Result.State == Current || o.Result.State != Failed && !waitsFor(o.Object)
}

// Pod is a pod of a workload.
type Pod struct {
	Namespace, Name string
	Result          Result
	// Leaving is whether it is being deleted.
	Leaving bool
	// Ended is whether its containers have ended for good, as those of a Job do.
	Ended bool
	// Containers are its containers, init containers first.
	Containers []Container
}

// Container is a container of a pod.
type Container struct {
	Name, Image string
	Restarts    int64
}

// Observe reads the live objects with their pods. It changes nothing. image is the one that they were deployed with, as DeployOptions has it,
// by which hooks are found. A hook need not be there: its Job may have been removed since it ran.
func (c *Client) Observe(ctx context.Context, objects []*Object, image string) ([]Observed, error) {
	rest, hooks, err := splitHooks(objects, image)
	if err != nil {
		return nil, err
	}
	jobs := make(map[*Object]bool, len(hooks))
	for _, h := range hooks {
		jobs[h.object] = true
		rest = append(rest, h.object)
	}
	run, err := c.newApplyRun(ctx, rest, ApplyOptions{})
	if err != nil {
		return nil, err
	}
	observed := make([]Observed, len(run.objects))
	err = each(len(run.objects), func(i int) error {
		o := run.objects[i]
		observed[i] = Observed{Object: o, Result: failed("it is not in the cluster"), Hook: jobs[o]}
		u := run.live[o]
		if u == nil {
			if jobs[o] {
				observed[i].Result = current("it runs once for each image, and no Job is there for this one")
			}
			return nil
		}
		observed[i].Result = Status(u)
		var err error
		observed[i].Pods, err = c.podsOf(ctx, u)
		return err
	})
	return observed, err
}

// podsOf lists the pods of a workload; none of what is no workload.
func (c *Client) podsOf(ctx context.Context, u *unstructured.Unstructured) ([]Pod, error) {
	if _, ok := statuses[u.GroupVersionKind().GroupKind()]; !ok {
		return nil, nil
	}
	var found []Pod
	if u.GetKind() == "Pod" {
		return append(found, podOf(u)), nil
	}
	selector, err := podSelector(u)
	if err != nil || selector == "" {
		return nil, nil
	}
	err = c.list(ctx, pods, u.GetNamespace(), metav1.ListOptions{LabelSelector: selector}, func(pod *unstructured.Unstructured) {
		found = append(found, podOf(pod))
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of %s/%s: %w", u.GetKind(), u.GetName(), c.explain(ctx, err, "list", pods, u.GetNamespace()))
	}
	slices.SortFunc(found, func(a, b Pod) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

func podOf(u *unstructured.Unstructured) Pod {
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	pod := Pod{Namespace: u.GetNamespace(), Name: u.GetName(), Result: Status(u), Leaving: u.GetDeletionTimestamp() != nil,
		Ended: phase == "Succeeded" || phase == "Failed"}
	for _, kind := range []string{"initContainer", "container"} {
		specs, _, _ := unstructured.NestedSlice(u.Object, "spec", kind+"s")
		states, _, _ := unstructured.NestedSlice(u.Object, "status", kind+"Statuses")
		for _, item := range specs {
			spec, _ := item.(map[string]any)
			name, _ := spec["name"].(string)
			image, _ := spec["image"].(string)
			container := Container{Name: name, Image: image}
			if i := findKeyed(states, map[string]any{"name": name}); i >= 0 {
				container.Restarts, _, _ = unstructured.NestedInt64(states[i].(map[string]any), "restartCount")
			}
			pod.Containers = append(pod.Containers, container)
		}
	}
	return pod
}

// LogOptions say what Client.Logs reads.
type LogOptions struct {
	// Lines is how many of the last lines of each container are read; default all.
	Lines int
	// Follow goes on until ctx ends or all containers have. Pods that begin later are not taken in.
	Follow bool
	// Previous reads the run before the last restart.
	Previous bool
}

// Logs calls line with the lines of the containers of the pods, one container after the other, or all at once where they are
// followed; never two calls at the same time. A container that has not started has none, and is no error.
func (c *Client) Logs(ctx context.Context, all []Pod, o LogOptions, line func(pod Pod, container, text string)) error {
	var mu sync.Mutex
	var jobs []func() error
	for _, pod := range all {
		for _, container := range pod.Containers {
			jobs = append(jobs, func() error {
				err := c.containerLogs(ctx, pod, container.Name, o, func(text string) {
					mu.Lock()
					defer mu.Unlock()
					line(pod, container.Name, text)
				})
				if err != nil {
					return fmt.Errorf("reading the log of the container %s of Pod/%s: %w", container.Name, pod.Name, err)
				}
				return nil
			})
		}
	}
	errs := make([]error, len(jobs))
	if !o.Follow {
		for i, read := range jobs {
			if errs[i] = read(); ctx.Err() != nil {
				break
			}
		}
		return errors.Join(errs...)
	}
	var wg sync.WaitGroup
	for i, read := range jobs {
		wg.Go(func() { errs[i] = read() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

var podLogs = resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "pods/log"}, namespaced: true}

// isNotStarted reports whether a log is missing because its container has not begun yet.
func isNotStarted(err error) bool {
	return apierrors.IsBadRequest(err) && (strings.Contains(err.Error(), "is waiting to start") || strings.Contains(err.Error(), "not found"))
}

// maxLine is the longest line of a log that is kept as one, in bytes.
const maxLine = 64 << 10

func (c *Client) containerLogs(ctx context.Context, pod Pod, container string, o LogOptions, line func(string)) error {
	request := c.rest.Get().AbsPath("/api/v1/namespaces", pod.Namespace, "pods", pod.Name, "log").Param("container", container)
	if o.Lines > 0 {
		request.Param("tailLines", strconv.Itoa(o.Lines))
	}
	if o.Follow {
		request.Param("follow", "true")
	}
	if o.Previous {
		request.Param("previous", "true")
	}
	stream, err := request.Stream(ctx)
	if err != nil {
		if isNotStarted(err) {
			return nil
		}
		return c.explain(ctx, err, "get", podLogs, pod.Namespace)
	}
	defer stream.Close()
	reader := bufio.NewReaderSize(stream, maxLine)
	for {
		text, err := reader.ReadSlice('\n')
		if len(text) > 0 {
			line(string(trimLineEnd(text)))
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.explain(ctx, err, "get", podLogs, pod.Namespace)
		}
	}
}

func trimLineEnd(text []byte) []byte {
	if n := len(text); n > 0 && text[n-1] == '\n' {
		return text[:n-1]
	}
	return text
}
