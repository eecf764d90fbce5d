package docker

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

const (
	// PredicateSPDX is the type of a statement that holds an SBOM. Source: https://spdx.dev/Document of in-toto's predicates.
	PredicateSPDX = "https://spdx.dev/Document"
	// PredicateProvenance is the type of a statement that says how an image was built. Source: https://slsa.dev/spec/v1.0/provenance
	PredicateProvenance = "https://slsa.dev/provenance/v1"

	statementType      = "https://in-toto.io/Statement/v1"
	statementMediaType = types.MediaType("application/vnd.in-toto+json")
	emptyMediaType     = types.MediaType("application/vnd.oci.empty.v1+json")
	// predicateAnnotation tells what a layer says without fetching it, as BuildKit's attestations do.
	predicateAnnotation = "in-toto.io/predicate-type"
)

// Statement is an in-toto statement: what is said of an image. Source: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
type Statement struct {
	// Subject is the digest of the image or index that it is about, "sha256:…".
	Subject string
	// PredicateType is PredicateSPDX, PredicateProvenance, or another one.
	PredicateType string
	// JSON is the whole statement, on one line.
	JSON []byte
}

type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     any       `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

func newStatement(digest, predicateType string, predicate any) (Statement, error) {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok {
		return Statement{}, fmt.Errorf("the digest %q of an image is not written as sha256:…", digest)
	}
	text, err := json.Marshal(statement{
		Type: statementType, Subject: []subject{{Digest: map[string]string{algorithm: hex}}}, PredicateType: predicateType, Predicate: predicate,
	})
	if err != nil {
		return Statement{}, fmt.Errorf("writing a statement on %s: %w", digest, err)
	}
	return Statement{Subject: digest, PredicateType: predicateType, JSON: text}, nil
}

// ParseStatements reads statements that stand in a file a line each, as JoinStatements writes them.
func ParseStatements(lines []byte) ([]Statement, error) {
	var all []Statement
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		var s statement
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, fmt.Errorf("reading statement %d: %w; build the image again", len(all)+1, err)
		}
		if len(s.Subject) != 1 || s.Subject[0].Digest["sha256"] == "" || s.PredicateType == "" {
			return nil, fmt.Errorf("reading statement %d: it names no image or no type; build the image again", len(all)+1)
		}
		all = append(all, Statement{Subject: "sha256:" + s.Subject[0].Digest["sha256"], PredicateType: s.PredicateType, JSON: bytes.Clone(line)})
	}
	return all, nil
}

// JoinStatements is the content of a file of statements, a line each.
func JoinStatements(statements []Statement) []byte {
	var lines []byte
	for _, s := range statements {
		lines = append(append(lines, s.JSON...), '\n')
	}
	return lines
}

// Attach puts statements beside the images that they are about, as OCI referrers of them, into the repository of a reference. A
// registry without the API for referrers keeps them in an index under the tag sha256-…. What is attached already is not sent again.
func (r Registry) Attach(ctx context.Context, ref string, statements ...Statement) error {
	s, err := r.session(ctx, "attaching to", ref)
	if err != nil {
		return err
	}
	if err := s.attach(ctx, statements); err != nil {
		return s.explain(ctx, err)
	}
	return nil
}

func (s *session) attach(ctx context.Context, statements []Statement) error {
	// A registry without the API has one index for all that is attached to an image, which two would write at once.
	about := map[string][]Statement{}
	for _, statement := range statements {
		about[statement.Subject] = append(about[statement.Subject], statement)
	}
	var attaching errgroup.Group
	attaching.SetLimit(uploads)
	for subject, statements := range about {
		attaching.Go(func() error { return s.attachTo(ctx, subject, statements) })
	}
	return attaching.Wait()
}

func (s *session) attachTo(ctx context.Context, subject string, statements []Statement) error {
	described, err := s.get(ctx, s.ref.Context().Digest(subject))
	if err != nil {
		return err
	}
	pusher, err := remote.NewPusher(s.options(ctx)...)
	if err != nil {
		return err
	}
	listed, err := s.listed(ctx, described.Digest)
	if err != nil {
		return err
	}
	var manifests []*rawManifest
	var blobs []v1.Layer
	for _, statement := range statements {
		manifest, parts, err := artifactOf(statement, described.Descriptor)
		if err != nil {
			return err
		}
		if listed[manifest.digest] && s.at(manifest.digest).isThere(ctx) {
			continue
		}
		if len(manifests) > 0 {
			parts = parts[1:] // all have the same empty configuration
		}
		manifests, blobs = append(manifests, manifest), append(blobs, parts...)
	}
	if err := s.upload(ctx, pusher, blobs); err != nil {
		return err
	}
	for _, manifest := range manifests {
		own := s.ref.Context().Digest(manifest.digest.String())
		if err := s.retry(ctx, func() error { return pusher.Put(ctx, own, manifest) }); err != nil {
			return err
		}
		zerolog.Ctx(ctx).Debug().Stringer("manifest", own).Str("image", subject).Msg("attached")
	}
	return nil
}

// rawManifest is a manifest that is no image's.
type rawManifest struct {
	content []byte
	digest  v1.Hash
}

// RawManifest is the manifest's JSON.
func (m *rawManifest) RawManifest() ([]byte, error) { return m.content, nil }

// MediaType is what the registry is told that it is.
func (m *rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// artifactOf is the manifest of a statement, and the blobs that it names. Source: "Guidelines for Artifact Usage" of
// https://github.com/opencontainers/image-spec/blob/main/manifest.md
func artifactOf(s Statement, about v1.Descriptor) (*rawManifest, []v1.Layer, error) {
	config := static.NewLayer([]byte("{}"), emptyMediaType)
	content := static.NewLayer(s.JSON, statementMediaType)
	describe := func(layer v1.Layer, annotations map[string]string) v1.Descriptor {
		// What is in memory has all three without an error.
		digest, _ := layer.Digest()
		size, _ := layer.Size()
		mediaType, _ := layer.MediaType()
		return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size, Annotations: annotations}
	}
	annotation := map[string]string{predicateAnnotation: s.PredicateType}
	text, err := json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     types.MediaType   `json:"mediaType"`
		ArtifactType  types.MediaType   `json:"artifactType"`
		Config        v1.Descriptor     `json:"config"`
		Layers        []v1.Descriptor   `json:"layers"`
		Subject       v1.Descriptor     `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}{
		2, types.OCIManifestSchema1, statementMediaType, describe(config, nil), []v1.Descriptor{describe(content, annotation)},
		v1.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size}, annotation,
	})
	if err != nil {
		return nil, nil, err
	}
	digest, _, err := v1.SHA256(bytes.NewReader(text))
	return &rawManifest{text, digest}, []v1.Layer{config, content}, err
}

// Source says where the code of an image is from.
type Source struct {
	// Repository is the URL that it can be fetched from.
	Repository string
	// Revision is the commit, whole.
	Revision string
}

// modulePath is Grimoire's own module.
var modulePath = strings.TrimSuffix(reflect.TypeFor[Source]().PkgPath(), "/docker")

// The predicate of PredicateProvenance. It says nothing of when and by which machine, so that building the same again says the same.
type provenance struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters,omitempty"`
	ResolvedDependencies []dependency   `json:"resolvedDependencies,omitempty"`
}

type dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

type runDetails struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
}

// newProvenance leaves out the parameters that are not set.
func newProvenance(digest, kind string, external, internal map[string]any, from []dependency) (Statement, error) {
	maps.DeleteFunc(external, func(_ string, v any) bool { return reflect.ValueOf(v).IsZero() })
	p := provenance{BuildDefinition: buildDefinition{
		BuildType: "https://" + modulePath + "/" + kind + "@v1", ExternalParameters: external, InternalParameters: internal, ResolvedDependencies: from,
	}}
	p.RunDetails.Builder.ID = "https://" + modulePath
	return newStatement(digest, PredicateProvenance, p)
}

func (s Source) dependencies() []dependency {
	if s.Repository == "" {
		return nil
	}
	d := dependency{URI: "git+" + withoutUserinfo(s.Repository)}
	if s.Revision != "" {
		d.Digest = map[string]string{"gitCommit": s.Revision}
	}
	return []dependency{d}
}

func baseDependency(reference, digest string) dependency {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return dependency{URI: "oci://" + reference, Digest: map[string]string{algorithm: hex}}
}

// Provenance says of a digest that an image of these options has got how it was built, for Registry.Attach.
func (o BuildOptions) Provenance(digest string, from Source) (Statement, error) {
	return newProvenance(digest, "dockerfile", map[string]any{
		"dockerfile": cmp.Or(o.Dockerfile, "Dockerfile"), "target": o.Target, "platform": o.Platform, "args": o.Args, "network": o.Network,
	}, nil, from.dependencies())
}

func (b *GoBuild) provenance(made Artifact) (Statement, error) {
	digest, err := made.Digest()
	if err != nil {
		return Statement{}, err
	}
	var packages, platforms []string
	for _, main := range b.mains {
		packages = append(packages, main.ImportPath)
	}
	from := b.Source.dependencies()
	for i, platform := range b.platforms {
		platforms = append(platforms, platform.String())
		if b.bases[i].digest != "" {
			from = append(from, baseDependency(b.Base, b.bases[i].digest))
		}
	}
	return newProvenance(digest.String(), "go", map[string]any{
		"packages": packages, "platforms": platforms, "base": b.Base, "version": b.Version, "ldflags": b.LDFlags, "cgo": b.CGO, "user": b.User,
	}, map[string]any{"go": b.goVersion}, from)
}

// The predicate of PredicateSPDX. Source: https://spdx.github.io/spdx-spec/v2.3/
type spdxDocument struct {
	SPDXVersion       string             `json:"spdxVersion"`
	DataLicense       string             `json:"dataLicense"`
	SPDXID            string             `json:"SPDXID"`
	Name              string             `json:"name"`
	DocumentNamespace string             `json:"documentNamespace"`
	CreationInfo      spdxCreation       `json:"creationInfo"`
	Packages          []spdxPackage      `json:"packages"`
	Relationships     []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	Name             string          `json:"name"`
	SPDXID           string          `json:"SPDXID"`
	VersionInfo      string          `json:"versionInfo,omitempty"`
	DownloadLocation string          `json:"downloadLocation"`
	FilesAnalyzed    bool            `json:"filesAnalyzed"`
	LicenseConcluded string          `json:"licenseConcluded"`
	LicenseDeclared  string          `json:"licenseDeclared"`
	CopyrightText    string          `json:"copyrightText"`
	Comment          string          `json:"comment,omitempty"`
	ExternalRefs     []spdxReference `json:"externalRefs,omitempty"`
}

type spdxReference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

func newSPDXPackage(id, name, version, purl string) spdxPackage {
	return spdxPackage{
		Name: name, SPDXID: id, VersionInfo: version, DownloadLocation: noAssertion,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion,
		ExternalRefs: []spdxReference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: purl}},
	}
}

// spdxStatement is the SBOM of an image: its binaries, the modules that are in them, and Go's standard library.
func spdxStatement(img v1.Image, platform *v1.Platform, mains []mainPackage, boms []*buildinfo.BuildInfo) (Statement, error) {
	digest, err := img.Digest()
	if err != nil {
		return Statement{}, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return Statement{}, err
	}
	const document, image = "SPDXRef-DOCUMENT", "SPDXRef-Image"
	doc := spdxDocument{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: document, Name: digest.String(),
		DocumentNamespace: "https://" + modulePath + "/spdx/" + digest.Hex,
		CreationInfo:      spdxCreation{Created: config.Created.UTC().Format(time.RFC3339), Creators: []string{"Tool: grimoire"}},
		Packages: []spdxPackage{newSPDXPackage(image, digest.String(), digest.String(),
			"pkg:oci/image@"+url.QueryEscape(digest.String())+"?arch="+url.QueryEscape(platform.Architecture))},
		Relationships: []spdxRelationship{{document, "DESCRIBES", image}},
	}
	ids := map[string]string{}
	// module adds a module once, and returns what the document calls it.
	module := func(path, version, sum string) string {
		key := path + "@" + version
		if id, ok := ids[key]; ok {
			return id
		}
		ids[key] = fmt.Sprintf("SPDXRef-Module-%d", len(ids)+1)
		purl := "pkg:golang/" + strings.ReplaceAll(url.PathEscape(path), "%2F", "/")
		if version != "" {
			purl += "@" + url.PathEscape(version)
		}
		p := newSPDXPackage(ids[key], path, version, purl)
		if sum != "" {
			p.Comment = "go.sum: " + sum
		}
		doc.Packages = append(doc.Packages, p)
		return ids[key]
	}
	for i, bom := range boms {
		binary := fmt.Sprintf("SPDXRef-Binary-%d", i+1)
		p := newSPDXPackage(binary, mains[i].ImportPath, bom.Main.Version, "pkg:golang/"+mains[i].ImportPath)
		p.Comment = "the binary " + binaryFolder + "/" + mains[i].name
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, spdxRelationship{image, "CONTAINS", binary},
			spdxRelationship{binary, "DEPENDS_ON", module("stdlib", strings.TrimPrefix(bom.GoVersion, "go"), "")})
		for _, dep := range bom.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			doc.Relationships = append(doc.Relationships, spdxRelationship{binary, "DEPENDS_ON", module(dep.Path, dep.Version, dep.Sum)})
		}
	}
	return newStatement(digest.String(), PredicateSPDX, doc)
}

// Copy copies an image by digest, or an index with all its images, from one reference to another, which names a tag. What is
// attached to it goes along. It returns the digest, which is the same at both places. The registry's login goes to its Host alone,
// the other one's comes from Docker's configuration. What is there already is not sent again. The tag moves last, when all of it is
// there.
func (r Registry) Copy(ctx context.Context, from, to string) (string, error) {
	source, err := r.session(ctx, "copying", from)
	if err != nil {
		return "", err
	}
	target, err := r.session(ctx, "pushing", to)
	if err != nil {
		return "", err
	}
	tag, ok := target.ref.(name.Tag)
	if !ok {
		return "", fmt.Errorf("copying %q: %q names no tag to copy it to; add one", from, to)
	}
	found, err := source.artifact(ctx)
	if err != nil {
		return "", source.explain(ctx, err)
	}
	images, err := subjectsOf(found)
	if err != nil {
		return "", source.explain(ctx, err)
	}
	whole := target.at(images[0])
	if _, err := whole.push(ctx, found); err != nil {
		return "", target.explain(ctx, err)
	}
	for _, image := range images {
		attached, err := source.referrers(ctx, image)
		if err != nil {
			return "", source.explain(ctx, err)
		}
		listed, err := target.listed(ctx, image)
		if err != nil {
			return "", target.explain(ctx, err)
		}
		for _, artifact := range attached {
			own := target.at(artifact.digest)
			if listed[artifact.digest] && own.isThere(ctx) {
				continue
			}
			if err := own.put(ctx, artifact.Image); err != nil {
				return "", target.explain(ctx, err)
			}
		}
	}
	if err := whole.tag(ctx, []string{tag.TagStr()}); err != nil {
		return "", target.explain(ctx, err)
	}
	return images[0].String(), nil
}

// at is the session for another digest of the same repository.
func (s *session) at(digest v1.Hash) *session {
	other := *s
	other.ref = s.ref.Context().Digest(digest.String())
	return &other
}

// artifact is what the reference names, as a whole: an index stays one.
func (s *session) artifact(ctx context.Context) (Artifact, error) {
	// Whoever reads it later sends requests of its own, so they are tried again one by one.
	found, err := remote.Get(s.ref, append(s.options(ctx), remote.WithTransport(&retryTransport{s}))...)
	if err != nil {
		return nil, err
	}
	if found.MediaType.IsIndex() {
		return found.ImageIndex()
	}
	return found.Image()
}

// subjectsOf are the digests of an artifact, which is the first, and of the images in it.
func subjectsOf(a Artifact) ([]v1.Hash, error) {
	digest, err := a.Digest()
	if err != nil {
		return nil, err
	}
	all := []v1.Hash{digest}
	index, ok := a.(v1.ImageIndex)
	if !ok {
		return all, nil
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, child := range manifest.Manifests {
		all = append(all, child.Digest)
	}
	return all, nil
}

type referrer struct {
	v1.Image
	digest v1.Hash
}

// listing is what the registry says is attached to an image.
func (s *session) listing(ctx context.Context, to v1.Hash) (*v1.IndexManifest, error) {
	options := append(s.options(ctx), remote.WithTransport(&retryTransport{s}))
	index, err := remote.Referrers(s.ref.Context().Digest(to.String()), options...)
	if err != nil {
		return nil, err
	}
	return index.IndexManifest()
}

// listed has what is found by the image that it is attached to. A manifest that is only there is not, where an earlier run ended before
// it had put it into the index of a registry without the API.
func (s *session) listed(ctx context.Context, to v1.Hash) (map[v1.Hash]bool, error) {
	manifest, err := s.listing(ctx, to)
	if err != nil {
		return nil, err
	}
	all := map[v1.Hash]bool{}
	for _, described := range manifest.Manifests {
		all[described.Digest] = true
	}
	return all, nil
}

// isThere says whether the registry has what the session is about.
func (s *session) isThere(ctx context.Context) bool {
	_, err := s.get(ctx, s.ref)
	return err == nil
}

// referrers are what is attached to an image.
func (s *session) referrers(ctx context.Context, of v1.Hash) ([]referrer, error) {
	manifest, err := s.listing(ctx, of)
	if err != nil {
		return nil, err
	}
	options := append(s.options(ctx), remote.WithTransport(&retryTransport{s}))
	all := make([]referrer, len(manifest.Manifests))
	var fetching errgroup.Group
	fetching.SetLimit(uploads)
	for i, described := range manifest.Manifests {
		fetching.Go(func() error {
			img, err := remote.Image(s.ref.Context().Digest(described.Digest.String()), options...)
			all[i] = referrer{img, described.Digest}
			return err
		})
	}
	return all, fetching.Wait()
}

// Statements returns what is attached to an image and is an in-toto statement, sorted by type.
func (r Registry) Statements(ctx context.Context, ref string) ([]Statement, error) {
	s, err := r.session(ctx, "looking up", ref)
	if err != nil {
		return nil, err
	}
	found, err := s.get(ctx, s.ref)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	attached, err := s.referrers(ctx, found.Digest)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	var all []Statement
	for _, artifact := range attached {
		manifest, err := artifact.Manifest()
		if err != nil {
			return nil, s.explain(ctx, err)
		}
		for _, described := range manifest.Layers {
			if described.MediaType != statementMediaType {
				continue
			}
			text, err := readLayer(artifact, described.Digest)
			if err != nil {
				return nil, s.explain(ctx, err)
			}
			statements, err := ParseStatements(text)
			if err != nil {
				return nil, fmt.Errorf("looking up what is said of %q: %w", ref, err)
			}
			all = append(all, statements...)
		}
	}
	slices.SortFunc(all, func(a, b Statement) int {
		return cmp.Or(cmp.Compare(a.PredicateType, b.PredicateType), bytes.Compare(a.JSON, b.JSON))
	})
	return all, nil
}

// statementLimit is how long a statement may be that is read back, in bytes.
const statementLimit = 64 << 20

func readLayer(img v1.Image, digest v1.Hash) ([]byte, error) {
	layer, err := img.LayerByDigest(digest)
	if err != nil {
		return nil, err
	}
	if size, err := layer.Size(); err != nil {
		return nil, err
	} else if size > statementLimit {
		return nil, errors.New("a statement is longer than 64 MiB")
	}
	content, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(content)
	return text.Bytes(), err
}
