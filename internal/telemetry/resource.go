package telemetry

import (
	"net/url"
	"strings"

	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

// attributes keep the order in which they were set.
type attributes []otlp.Attribute

// set sets an attribute; a value that is empty changes nothing.
func (a *attributes) set(key, value string) {
	if value == "" {
		return
	}
	for i := range *a {
		if (*a)[i].Key == key {
			(*a)[i] = otlp.String(key, value)
			return
		}
	}
	*a = append(*a, otlp.String(key, value))
}

// resource describes the run. What tells one run from another is left out for metrics, where each value would be a series of
// its own. The variables of OpenTelemetry have the last word.
// Source: https://opentelemetry.io/docs/specs/semconv/resource/cicd/
func resource(getenv func(string) string, service, commit string, forMetrics bool) *otlp.Resource {
	var a attributes
	if service == "" {
		service = "unknown_service:mage"
	}
	a.set("service.name", service)
	if onForge(getenv) {
		provider := "github"
		if getenv("GITEA_ACTIONS") != "" {
			provider = "gitea"
		}
		a.set("vcs.provider.name", provider)
		owner, name, _ := strings.Cut(getenv("GITHUB_REPOSITORY"), "/")
		a.set("vcs.owner.name", owner)
		a.set("vcs.repository.name", name)
		page := strings.TrimSuffix(getenv("GITHUB_SERVER_URL"), "/") + "/" + getenv("GITHUB_REPOSITORY")
		if getenv("GITHUB_SERVER_URL") != "" && name != "" {
			a.set("vcs.repository.url.full", page)
		}
		a.set("cicd.pipeline.name", getenv("GITHUB_WORKFLOW"))
		if !forMetrics {
			a.set("vcs.ref.head.name", getenv("GITHUB_REF_NAME"))
			a.set("vcs.ref.type", getenv("GITHUB_REF_TYPE"))
			if run := getenv("GITHUB_RUN_ID"); run != "" {
				a.set("cicd.pipeline.run.id", run)
				a.set("cicd.pipeline.run.url.full", page+"/actions/runs/"+run)
			}
			if commit == "" {
				commit = getenv("GITHUB_SHA")
			}
		}
	}
	if !forMetrics {
		a.set("vcs.ref.head.revision", commit)
	}
	for item := range strings.SplitSeq(getenv("OTEL_RESOURCE_ATTRIBUTES"), ",") {
		key, value, ok := strings.Cut(item, "=")
		plain, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); ok && key != "" && err == nil {
			a.set(key, plain)
		}
	}
	a.set("service.name", getenv("OTEL_SERVICE_NAME"))
	return &otlp.Resource{Attributes: a}
}
