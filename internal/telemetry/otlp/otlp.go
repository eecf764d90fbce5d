// Package otlp holds the messages of the OpenTelemetry protocol that Grimoire sends: spans and histograms. The json tags make
// its JSON encoding, the pb tags are the field numbers of its protobuf encoding.
// Source: https://github.com/open-telemetry/opentelemetry-proto
package otlp

import (
	"encoding/hex"
	"strconv"
)

// ID is a trace or span id.
type ID []byte

// MarshalText is hexadecimal, as the protocol has it in JSON.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id), nil }

// UnmarshalText reads hexadecimal.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = hex.DecodeString(string(text))
	return err
}

// Fixed64 is a number that is a string in JSON and eight bytes in protobuf.
type Fixed64 uint64

// MarshalText is decimal.
func (n Fixed64) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(n), 10), nil }

// UnmarshalText reads decimal.
func (n *Fixed64) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 10, 64)
	*n = Fixed64(v)
	return err
}

// Attribute is a key with its value.
type Attribute struct {
	Key   string `json:"key" pb:"1"`
	Value Value  `json:"value" pb:"2"`
}

// Value is one of its fields.
type Value struct {
	String *string `json:"stringValue,omitempty" pb:"1"`
	Int    *int64  `json:"intValue,string,omitempty" pb:"3"`
	Array  *Array  `json:"arrayValue,omitempty" pb:"5"`
}

// Array is a list of values.
type Array struct {
	Values []Value `json:"values,omitempty" pb:"1"`
}

// String returns a text attribute.
func String(key, value string) Attribute { return Attribute{key, Value{String: &value}} }

// Int returns a number attribute.
func Int(key string, value int) Attribute {
	v := int64(value)
	return Attribute{key, Value{Int: &v}}
}

// Strings returns an attribute that is a list of texts.
func Strings(key string, values []string) Attribute {
	array := &Array{}
	for i := range values {
		array.Values = append(array.Values, Value{String: &values[i]})
	}
	return Attribute{key, Value{Array: array}}
}

// Resource is what spans and metrics are of.
type Resource struct {
	Attributes []Attribute `json:"attributes,omitempty" pb:"1"`
}

// Scope is what made spans and metrics.
type Scope struct {
	Name    string `json:"name,omitempty" pb:"1"`
	Version string `json:"version,omitempty" pb:"2"`
}

// The kinds of a span.
const (
	Internal = 1
	Server   = 2
	Client   = 3
)

// Failed is the code of a status.
const Failed = 2

// Span is a piece of work.
type Span struct {
	TraceID    ID          `json:"traceId" pb:"1"`
	SpanID     ID          `json:"spanId" pb:"2"`
	TraceState string      `json:"traceState,omitempty" pb:"3"`
	Parent     ID          `json:"parentSpanId,omitempty" pb:"4"`
	Name       string      `json:"name" pb:"5"`
	Kind       int32       `json:"kind" pb:"6"`
	Start      Fixed64     `json:"startTimeUnixNano" pb:"7"`
	End        Fixed64     `json:"endTimeUnixNano" pb:"8"`
	Attributes []Attribute `json:"attributes,omitempty" pb:"9"`
	Status     *Status     `json:"status,omitempty" pb:"15"`
	Flags      uint32      `json:"flags,omitempty" pb:"16"`
}

// Status says that a span failed, and why.
type Status struct {
	Message string `json:"message,omitempty" pb:"2"`
	Code    int32  `json:"code,omitempty" pb:"3"`
}

// ScopeSpans are the spans that a scope made.
type ScopeSpans struct {
	Scope Scope  `json:"scope" pb:"1"`
	Spans []Span `json:"spans" pb:"2"`
}

// ResourceSpans are the spans of a resource.
type ResourceSpans struct {
	Resource   Resource     `json:"resource" pb:"1"`
	ScopeSpans []ScopeSpans `json:"scopeSpans" pb:"2"`
}

// Traces is the request that sends spans.
type Traces struct {
	ResourceSpans []ResourceSpans `json:"resourceSpans,omitempty" pb:"1"`
}

// The temporalities of a histogram.
const (
	Delta      = 1
	Cumulative = 2
)

// Point counts the values of one set of attributes.
type Point struct {
	Attributes []Attribute `json:"attributes,omitempty" pb:"9"`
	Start      Fixed64     `json:"startTimeUnixNano" pb:"2"`
	Time       Fixed64     `json:"timeUnixNano" pb:"3"`
	Count      Fixed64     `json:"count" pb:"4"`
	Sum        *float64    `json:"sum,omitempty" pb:"5"`
	Counts     []Fixed64   `json:"bucketCounts,omitempty" pb:"6"`
	Bounds     []float64   `json:"explicitBounds,omitempty" pb:"7"`
	Min        *float64    `json:"min,omitempty" pb:"11"`
	Max        *float64    `json:"max,omitempty" pb:"12"`
}

// Histogram counts values by size.
type Histogram struct {
	Points      []Point `json:"dataPoints" pb:"1"`
	Temporality int32   `json:"aggregationTemporality" pb:"2"`
}

// Metric is a histogram with a name.
type Metric struct {
	Name        string     `json:"name" pb:"1"`
	Description string     `json:"description,omitempty" pb:"2"`
	Unit        string     `json:"unit,omitempty" pb:"3"`
	Histogram   *Histogram `json:"histogram,omitempty" pb:"9"`
}

// ScopeMetrics are the metrics that a scope made.
type ScopeMetrics struct {
	Scope   Scope    `json:"scope" pb:"1"`
	Metrics []Metric `json:"metrics" pb:"2"`
}

// ResourceMetrics are the metrics of a resource.
type ResourceMetrics struct {
	Resource     Resource       `json:"resource" pb:"1"`
	ScopeMetrics []ScopeMetrics `json:"scopeMetrics" pb:"2"`
}

// Metrics is the request that sends metrics.
type Metrics struct {
	ResourceMetrics []ResourceMetrics `json:"resourceMetrics,omitempty" pb:"1"`
}

// Line is what the run tells the exporter, a line of JSON each time: what the spans after it are of, a span, or metrics.
type Line struct {
	Resource *Resource `json:"resource,omitempty"`
	Span     *Span     `json:"span,omitempty"`
	// Last is sent when there are no more lines, in place of an earlier one, and unless a span of its id has come.
	Last    *Span            `json:"last,omitempty"`
	Metrics *ResourceMetrics `json:"metrics,omitempty"`
}

// Told is what the exporter tells the run, a line of JSON each time that something has changed.
type Told struct {
	// Answered says that the collector has accepted something, be it an empty request.
	Answered bool `json:"answered,omitempty"`
	// Spans is how many spans the collector has accepted so far, Metrics whether it has accepted the metrics.
	Spans   int  `json:"spans,omitempty"`
	Metrics bool `json:"metrics,omitempty"`
	// Problem is why the last request did not get through; empty where it did.
	Problem string `json:"problem,omitempty"`
}

// Scoped is the scope of everything that Grimoire sends.
var Scoped = Scope{Name: "grimoire"}
