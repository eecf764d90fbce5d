package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// atOnce is how many requests are on their way at the same time. To apply a thousand objects on two cores takes a sixth less time
// than with half as many, and more are no faster. An API server with the limits it comes with serves 49 of a user's at once.
const atOnce = 32

// each calls f for every number below n, atOnce at a time. After an error no more begin, and those that have begun go on to
// their end. It returns all errors, in the order of their numbers.
func each(n int, f func(i int) error) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		next   int
		failed bool
	)
	errs := make([]error, n)
	for range min(n, atOnce) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= n || failed
				mu.Unlock()
				if stop {
					return
				}
				if errs[i] = f(i); errs[i] != nil {
					mu.Lock()
					failed = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Looking up many objects of a kind by one list costs less than a request each, unless the namespace is full of others.
const (
	listFrom = 20
	listPage = 500
)

// lookUp returns the live objects, by those that are wanted. What is not there is left out, and so are kinds that are not there yet.
func (c *Client) lookUp(ctx context.Context, objects []*Object) (map[*Object]*unstructured.Unstructured, error) {
	type place struct {
		resource
		namespace string
	}
	places := make(map[place][]*Object)
	for _, o := range objects {
		r, err := c.resource(ctx, o.GroupVersionKind())
		var unknown *unknownKindError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p := place{r, o.GetNamespace()}
		places[p] = append(places[p], o)
	}
	var mu sync.Mutex
	live := make(map[*Object]*unstructured.Unstructured)
	var jobs []func() error
	for p, wanted := range places {
		get := func(o *Object) error {
			u, err := c.get(ctx, o.GetName(), p.resource, p.namespace)
			if err != nil {
				return fmt.Errorf("looking up %s: %w", o.described(), err)
			}
			if u != nil {
				mu.Lock()
				defer mu.Unlock()
				live[o] = u
			}
			return nil
		}
		if len(wanted) < listFrom {
			for _, o := range wanted {
				jobs = append(jobs, func() error { return get(o) })
			}
			continue
		}
		jobs = append(jobs, func() error {
			found, err := c.listNamed(ctx, p.resource, p.namespace, wanted)
			if apierrors.IsForbidden(err) { // who may not list may still get
				return each(len(wanted), func(i int) error { return get(wanted[i]) })
			}
			if err != nil {
				return fmt.Errorf("looking up the %s: %w", p.resource, c.explain(ctx, err, "list", p.resource, p.namespace))
			}
			mu.Lock()
			defer mu.Unlock()
			for _, o := range wanted {
				if u := found[o.GetName()]; u != nil {
					live[o] = u
				}
			}
			return nil
		})
	}
	return live, each(len(jobs), func(i int) error { return jobs[i]() })
}

// get returns a live object, nil if there is none.
func (c *Client) get(ctx context.Context, name string, r resource, namespace string) (u *unstructured.Unstructured, err error) {
	err = c.retry(ctx, func() (err error) {
		u, err = c.of(r, namespace).Get(ctx, name, metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, c.explain(ctx, err, "get", r, namespace)
	}
	return u, nil
}

// listNamed lists the objects of a kind in a namespace and keeps those of the names that are wanted.
func (c *Client) listNamed(ctx context.Context, r resource, namespace string, wanted []*Object) (map[string]*unstructured.Unstructured, error) {
	found := make(map[string]*unstructured.Unstructured, len(wanted))
	for _, o := range wanted {
		found[o.GetName()] = nil
	}
	err := c.list(ctx, r, namespace, metav1.ListOptions{}, func(u *unstructured.Unstructured) {
		if _, ok := found[u.GetName()]; ok {
			found[u.GetName()] = u
		}
	})
	return found, err
}

// list calls f with each object of a kind that the options select, a page at a time.
func (c *Client) list(ctx context.Context, r resource, namespace string, options metav1.ListOptions, f func(*unstructured.Unstructured)) error {
	options.Limit = listPage
	for {
		var page *unstructured.UnstructuredList
		err := c.retry(ctx, func() (err error) {
			page, err = c.of(r, namespace).List(ctx, options)
			return err
		})
		if apierrors.IsResourceExpired(err) && options.Continue != "" {
			options.Continue, options.Limit = "", 0 // from the start, and all at once
			continue
		}
		if err != nil {
			return err
		}
		for i := range page.Items {
			f(&page.Items[i])
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// isApplied reports whether the live object has every field as it is sent, and the manager owns these fields and no others, so
// that applying would change nothing. It goes by the managed fields, whose format (fieldsV1) tells what a list's items are known
// by, and needs no schema. Where it is not certain, for example since the server writes a quantity another way, it says no.
func isApplied(sent map[string]any, live *unstructured.Unstructured, manager string) bool {
	wanted := make(map[string]any, len(sent))
	for name, value := range sent {
		switch name {
		case "apiVersion", "kind":
			if live.Object[name] != value {
				return false // fields are owned in a version
			}
		case "metadata":
			metadata, _ := value.(map[string]any)
			own := make(map[string]any, len(metadata))
			for name, value := range metadata {
				if name != "name" && name != "namespace" { // nobody owns them
					own[name] = value
				}
			}
			if len(own) > 0 {
				wanted[name] = own
			}
		default:
			wanted[name] = value
		}
	}
	fields := ownFields(live, manager)
	if fields == nil { // nothing is owned, but perhaps in another version
		return len(wanted) == 0 && !slices.ContainsFunc(live.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.Manager == manager })
	}
	return hasFields(fields, wanted, live.Object)
}

// ownFields returns the fields that a manager has applied, as fieldsV1; nil if there are none, or not in the object's version.
func ownFields(u *unstructured.Unstructured, manager string) map[string]any {
	for _, a := range appliedFields(u, manager) {
		if a.version == u.GetAPIVersion() {
			return a.fields
		}
	}
	return nil
}

// applied are the fields that a manager has applied in a version.
type applied struct {
	version string
	fields  map[string]any
}

func appliedFields(u *unstructured.Unstructured, manager string) (found []applied) {
	metadata, _ := u.Object["metadata"].(map[string]any)
	managers, _ := metadata["managedFields"].([]any)
	for _, item := range managers {
		m, _ := item.(map[string]any)
		if m["manager"] != manager || m["operation"] != string(metav1.ManagedFieldsOperationApply) || m["subresource"] != nil {
			continue
		}
		version, _ := m["apiVersion"].(string)
		fields, _ := m["fieldsV1"].(map[string]any)
		found = append(found, applied{version, fields})
	}
	return found
}

// hasFields compares a sent value with the live one, along the owned fields.
func hasFields(fields map[string]any, sent, live any) bool {
	switch sent := sent.(type) {
	case map[string]any:
		return hasMapping(fields, sent, live)
	case []any:
		return hasItems(fields, sent, live)
	default:
		return len(fields) == 0 && sent != nil && reflect.DeepEqual(sent, live)
	}
}

func hasMapping(fields, sent map[string]any, live any) bool {
	if len(fields) == 0 { // one value to the server, such as a selector
		return reflect.DeepEqual(sent, live)
	}
	liveFields, ok := live.(map[string]any)
	if !ok || len(sent) != countOwned(fields) {
		return false
	}
	for name, value := range sent {
		below, owned := fields["f:"+name].(map[string]any)
		liveValue, there := liveFields[name]
		if !owned || !there || !hasFields(below, value, liveValue) {
			return false
		}
	}
	return true
}

// countOwned is the number of the fields or items, where "." stands for what holds them.
func countOwned(fields map[string]any) int {
	if _, ok := fields["."]; ok {
		return len(fields) - 1
	}
	return len(fields)
}

func hasItems(fields map[string]any, sent []any, live any) bool {
	if len(fields) == 0 {
		return reflect.DeepEqual(sent, live)
	}
	liveItems, ok := live.([]any)
	if !ok || len(sent) != countOwned(fields) {
		return false
	}
	// The live position of each sent item, which is known by its key.
	positions := make([]int, len(sent))
	for name, below := range fields {
		path, _ := below.(map[string]any)
		kind, text, _ := strings.Cut(name, ":")
		switch kind {
		case "v": // an item of a set, which has no order
			var value any
			if json.Unmarshal([]byte(text), &value) != nil || findValue(sent, value) < 0 || findValue(liveItems, value) < 0 {
				return false
			}
		case "k": // an item known by some of its fields
			var key map[string]any
			if json.Unmarshal([]byte(text), &key) != nil {
				return false
			}
			i, j := findKeyed(sent, key), findKeyed(liveItems, key)
			if i < 0 || j < 0 || !hasFields(path, sent[i], liveItems[j]) {
				return false
			}
			positions[i] = j
		case ".":
		default:
			return false
		}
	}
	return slices.IsSorted(positions)
}

func findValue(items []any, value any) int {
	for i, item := range items {
		if equalJSON(item, value) {
			return i
		}
	}
	return -1
}

// findKeyed returns the only item with the key's fields; -1 where there is none, or where there are several.
func findKeyed(items []any, key map[string]any) int {
	found := -1
	for i, item := range items {
		fields, _ := item.(map[string]any)
		if fields == nil {
			return -1
		}
		matches := true
		for name, value := range key {
			matches = matches && equalJSON(fields[name], value)
		}
		if matches {
			if found >= 0 {
				return -1
			}
			found = i
		}
	}
	return found
}

// equalJSON compares a value of an object with one of encoding/json, whose numbers are all floats.
func equalJSON(value, parsed any) bool {
	if n, ok := value.(int64); ok {
		f, ok := parsed.(float64)
		return ok && float64(n) == f
	}
	return reflect.DeepEqual(value, parsed)
}
