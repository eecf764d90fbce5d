package telemetry

import (
	"slices"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

// bounds are the sizes that durations are counted by, in seconds.
var bounds = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800}

// durations are histograms of how long stages and runs took.
type durations struct {
	start  time.Time
	stages []otlp.Point
	runs   []otlp.Point
}

// add counts a value in the point with these attributes.
func (d *durations) add(points *[]otlp.Point, seconds float64, a attributes) {
	i := slices.IndexFunc(*points, func(p otlp.Point) bool {
		return slices.EqualFunc(p.Attributes, a, func(x, y otlp.Attribute) bool {
			return x.Key == y.Key && *x.Value.String == *y.Value.String
		})
	})
	if i < 0 {
		i = len(*points)
		*points = append(*points, otlp.Point{
			Attributes: a, Start: nanos(d.start), Bounds: bounds, Counts: make([]otlp.Fixed64, len(bounds)+1),
			Sum: new(float64), Min: &seconds, Max: &seconds,
		})
	}
	p := &(*points)[i]
	p.Count++
	bucket, _ := slices.BinarySearch(bounds, seconds) // a bound belongs to the bucket below it
	p.Counts[bucket]++
	*p.Sum += seconds
	lower, upper := min(*p.Min, seconds), max(*p.Max, seconds)
	p.Min, p.Max = &lower, &upper
}

// stage counts a stage that ran.
func (d *durations) stage(s report.Stage) {
	if s.Result == report.Skipped || s.Result == report.Planned {
		return
	}
	var a attributes
	a.set("cicd.pipeline.task.name", s.Name)
	a.set("cicd.pipeline.task.run.result", semantic(s.Result))
	d.add(&d.stages, s.Seconds, a)
}

// run counts the run. Source: https://opentelemetry.io/docs/specs/semconv/cicd/cicd-metrics/
func (d *durations) run(r report.Run, pipeline string) {
	var a attributes
	a.set("cicd.pipeline.name", pipeline)
	a.set("cicd.pipeline.run.state", "executing")
	a.set("cicd.pipeline.result", semantic(r.Result))
	if failed(r.Result) {
		a.set("error.type", semantic(r.Result))
	}
	d.add(&d.runs, r.End.Sub(r.Start).Seconds(), a)
}

// metrics returns what was counted, of a resource.
func (d *durations) metrics(of *otlp.Resource, now time.Time, temporality int32) *otlp.ResourceMetrics {
	var metrics []otlp.Metric
	add := func(name, description string, points []otlp.Point) {
		if len(points) == 0 {
			return
		}
		for i := range points {
			points[i].Time = nanos(now)
		}
		metrics = append(metrics, otlp.Metric{
			Name: name, Description: description, Unit: "s",
			Histogram: &otlp.Histogram{Points: points, Temporality: temporality},
		})
	}
	add("grimoire.stage.duration", "How long a stage's own work took.", d.stages)
	add("cicd.pipeline.run.duration", "Duration of a pipeline run grouped by pipeline, state and result.", d.runs)
	return &otlp.ResourceMetrics{Resource: *of, ScopeMetrics: []otlp.ScopeMetrics{{Scope: otlp.Scoped, Metrics: metrics}}}
}

// temporality is what the variable prefers for histograms; a run sends each once, so that the numbers are the same.
func temporality(getenv func(string) string) int32 {
	switch strings.ToLower(getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")) {
	case "delta", "lowmemory":
		return otlp.Delta
	}
	return otlp.Cumulative
}
