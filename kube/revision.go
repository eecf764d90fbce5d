package kube

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Revision is a state of a release that was good: all of its objects were current.
type Revision struct {
	// Number counts the revisions of a release from 1.
	Number int
	// Image and Commit are as in DeployOptions.
	Image, Commit string
	// Created is in Unix seconds, by the API server's clock.
	Created int64

	name string
	hash string
	data string // manifests, as they are stored
}

// String names the revision: "revision 3 (name@sha256:…)".
func (r Revision) String() string {
	if r.Image == "" {
		return fmt.Sprintf("revision %d", r.Number)
	}
	return fmt.Sprintf("revision %d (%s)", r.Number, r.Image)
}

// A revision is remembered as a Secret, since manifests may hold some, of this type and with these labels and annotations.
const (
	revisionType     = "grimoire.build/revision"
	releaseLabel     = "grimoire.build/release"
	revisionLabel    = "grimoire.build/revision"
	hashAnnotation   = "grimoire.build/manifests-sha256"
	imageAnnotation  = "grimoire.build/image"
	commitAnnotation = "grimoire.build/commit"

	// keptRevisions is how many are remembered.
	keptRevisions = 10
	// maxRevision is what an API server takes of a Secret, in bytes, less some for its metadata.
	maxRevision = 1<<20 - 16<<10
)

var secrets = resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, namespaced: true}

// Revisions returns the good states of a release that are remembered, the newest first.
func (c *Client) Revisions(ctx context.Context, release string) ([]Revision, error) {
	var revisions []Revision
	err := c.list(ctx, secrets, c.namespace, metav1.ListOptions{LabelSelector: releaseLabel + "=" + release}, func(u *unstructured.Unstructured) {
		number, err := strconv.Atoi(u.GetLabels()[revisionLabel])
		if kind, _, _ := unstructured.NestedString(u.Object, "type"); err != nil || kind != revisionType {
			return
		}
		data, _, _ := unstructured.NestedString(u.Object, "data", "manifests")
		annotations := u.GetAnnotations()
		revisions = append(revisions, Revision{
			Number: number, Image: annotations[imageAnnotation], Commit: annotations[commitAnnotation], Created: u.GetCreationTimestamp().Unix(),
			name: u.GetName(), hash: annotations[hashAnnotation], data: data,
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading the revisions of %s: %w", release, c.explain(ctx, err, "list", secrets, c.namespace))
	}
	slices.SortFunc(revisions, func(a, b Revision) int { return cmp.Compare(b.Number, a.Number) })
	return revisions, nil
}

// objects returns the revision's objects.
func (r Revision) objects() ([]*Object, error) {
	packed, err := base64.StdEncoding.DecodeString(r.data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r, err)
	}
	unpacker, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r, err)
	}
	text, err := io.ReadAll(unpacker)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r, err)
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != r.hash {
		return nil, fmt.Errorf("reading %s: its manifests are not those that were written; deploy the commit again instead", r)
	}
	objects, err := parse(r.name+".json", text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r, err)
	}
	for _, o := range objects {
		o.Source = Source{}
	}
	return objects, nil
}

// manifests is what is remembered of objects: their content, in an order that does not depend on files, and its hash.
func manifests(objects []*Object) (text []byte, hash string, err error) {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b *Object) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a.String(), b.String()), cmp.Compare(a.GetNamespace(), b.GetNamespace()))
	})
	var out bytes.Buffer
	for _, o := range sorted {
		content := withoutServerFields(o.Unstructured)
		labels := content.GetLabels()
		delete(labels, setMemberLabel)
		content.SetLabels(labels)
		line, err := json.Marshal(content.Object)
		if err != nil {
			return nil, "", fmt.Errorf("remembering %s: %w", o, err)
		}
		out.Write(append(line, '\n'))
	}
	sum := sha256.Sum256(out.Bytes())
	return out.Bytes(), hex.EncodeToString(sum[:]), nil
}

// remember writes a good state as the newest revision, unless it is that already, and forgets the oldest. It returns the
// revision's number. Who may not write Secrets deploys all the same, and cannot roll back.
func (c *Client) remember(ctx context.Context, release string, objects []*Object, image, commit string) (int, error) {
	revisions, err := c.Revisions(ctx, release)
	if apierrors.IsForbidden(err) {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("this state is not remembered, so that nothing can be rolled back to it")
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	text, hash, err := manifests(objects)
	if err != nil {
		return 0, err
	}
	number := 1
	if len(revisions) > 0 {
		if revisions[0].hash == hash && revisions[0].Image == image {
			return revisions[0].Number, nil
		}
		number = revisions[0].Number + 1
	}
	var packed bytes.Buffer
	packer, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	_, _ = packer.Write(text) // memory takes all
	_ = packer.Close()
	encoded := base64.StdEncoding.EncodeToString(packed.Bytes())
	if len(packed.Bytes()) > maxRevision {
		zerolog.Ctx(ctx).Warn().Int("bytes", packed.Len()).Msg("the manifests are too large to be remembered, so that nothing can be rolled back to them")
		return 0, nil
	}
	secret := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": revisionType, "immutable": true,
		"metadata": map[string]any{
			"name": fmt.Sprintf("%s-r%d", parentName(release), number), "namespace": c.namespace,
			"labels":      map[string]any{releaseLabel: release, revisionLabel: strconv.Itoa(number)},
			"annotations": map[string]any{hashAnnotation: hash, imageAnnotation: image, commitAnnotation: commit},
		},
		"data": map[string]any{"manifests": encoded},
	}}
	err = c.retry(ctx, func() error {
		_, err := c.of(secrets, c.namespace).Create(ctx, secret, metav1.CreateOptions{FieldManager: defaultFieldManager})
		if apierrors.IsAlreadyExists(err) {
			return &modifiedError{err}
		}
		return err
	})
	var exists *modifiedError
	switch {
	case errors.As(err, &exists): // an answer that was lost, or another deployment at the same time, whose turn it is then
		return number, nil
	case apierrors.IsForbidden(err) && isDenied(err):
		zerolog.Ctx(ctx).Warn().Err(c.explain(ctx, err, "create", secrets, c.namespace)).
			Msg("this state is not remembered, so that nothing can be rolled back to it")
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("remembering revision %d: %w", number, c.explain(ctx, err, "create", secrets, c.namespace))
	}
	c.forget(ctx, revisions)
	return number, nil
}

// forget deletes what is more than is kept. It may fail: the next deployment does it.
func (c *Client) forget(ctx context.Context, revisions []Revision) {
	for i := keptRevisions - 1; i < len(revisions); i++ {
		if err := c.of(secrets, c.namespace).Delete(ctx, revisions[i].name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			zerolog.Ctx(ctx).Debug().Err(err).Msgf("forgetting %s", revisions[i])
		}
	}
}

// History is what the cluster remembers of a release.
type History struct {
	// Last is the last deployment; its ID is empty where there was none.
	Last Record
	// Revisions are the good states, the newest first.
	Revisions []Revision
}

// History reads what the cluster remembers of a release. Who may not read Secrets sees no revisions.
func (c *Client) History(ctx context.Context, release string) (History, error) {
	k, err := c.readClaim(ctx, release)
	if err != nil {
		return History{}, err
	}
	h := History{Last: k.record()}
	h.Revisions, err = c.Revisions(ctx, release)
	if apierrors.IsForbidden(err) {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("the revisions are not known")
		err = nil
	}
	return h, err
}
