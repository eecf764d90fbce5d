package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

// collector answers each request by the next of the answers, and the last of them for ever.
type collector struct {
	*httptest.Server
	mu       sync.Mutex
	answers  []http.HandlerFunc
	requests []*http.Request
	bodies   [][]byte
}

func newCollector(t *testing.T, answers ...http.HandlerFunc) *collector {
	t.Helper()
	c := &collector{answers: answers}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.requests, c.bodies = append(c.requests, r), append(c.bodies, body)
	answer := func(http.ResponseWriter, *http.Request) {}
	if len(c.answers) > 0 {
		answer = c.answers[0]
		if len(c.answers) > 1 {
			c.answers = c.answers[1:]
		}
	}
	c.mu.Unlock()
	answer(w, r)
}

func ok(http.ResponseWriter, *http.Request) {}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// export runs the exporter over n spans, and the metrics, and returns what it told last.
func export(t *testing.T, n int, getenv func(string) string) otlp.Told {
	t.Helper()
	var in, out bytes.Buffer
	lines := json.NewEncoder(&in)
	require.NoError(t, lines.Encode(otlp.Line{Resource: &otlp.Resource{Attributes: []otlp.Attribute{otlp.String("service.name", "pay")}}}))
	for i := range n {
		require.NoError(t, lines.Encode(otlp.Line{Span: &otlp.Span{TraceID: make(otlp.ID, 16), SpanID: make(otlp.ID, 8), Name: fmt.Sprint("span ", i)}}))
	}
	require.NoError(t, lines.Encode(otlp.Line{Metrics: &otlp.ResourceMetrics{}}))
	in.WriteString(`{"span":{"traceId":"0`) // a run that was killed
	run(&in, &out, getenv)
	var told otlp.Told
	for decoder := json.NewDecoder(&out); decoder.More(); {
		told = otlp.Told{}
		require.NoError(t, decoder.Decode(&told))
	}
	return told
}

func TestExport(t *testing.T) {
	c := newCollector(t)
	told := export(t, 2*batch+1, env("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL+"/base/"))
	assert.Equal(t, otlp.Told{Answered: true, Spans: 2*batch + 1, Metrics: true}, told)
	var paths []string
	for _, r := range c.requests {
		paths = append(paths, r.URL.Path)
		assert.Equal(t, "application/x-protobuf", r.Header.Get("Content-Type"))
	}
	assert.GreaterOrEqual(t, len(paths), 5)
	assert.Equal(t, []string{"/base/v1/traces", "/base/v1/metrics"}, slices.Compact(paths))
	assert.Empty(t, c.bodies[0], "the first request is empty")
	for _, body := range c.bodies {
		assert.LessOrEqual(t, bytes.Count(body, []byte("span ")), batch)
	}
	assert.Contains(t, string(c.bodies[1]), "span 0")
	assert.Contains(t, string(c.bodies[1]), "service.name")
}

func TestExportOfOneSignal(t *testing.T) {
	tests := []struct {
		name string
		env  []string
		want []string
	}{
		{"traces", []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/t"}, []string{"/t", "/t"}},
		{"metrics", []string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "/m"}, []string{"/m", "/m"}},
		{"traces are off", []string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "/m", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/t", "OTEL_TRACES_EXPORTER", "none"}, []string{"/m", "/m"}},
		{"nothing", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCollector(t)
			for i := 1; i < len(tt.env); i += 2 {
				if strings.HasPrefix(tt.env[i], "/") {
					tt.env[i] = c.URL + tt.env[i]
				}
			}
			export(t, 1, env(tt.env...))
			var paths []string
			for _, r := range c.requests {
				paths = append(paths, r.URL.Path)
			}
			assert.Equal(t, tt.want, paths)
		})
	}
}

func TestExportAsJSONWithHeadersAndGzip(t *testing.T) {
	c := newCollector(t, ok, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}`)
	}, ok)
	told := export(t, 3, env("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL, "OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_COMPRESSION", "gzip",
		"OTEL_EXPORTER_OTLP_HEADERS", "api-key=for both", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "Api-Key=a%2Cb , ,x=y", "OTEL_METRICS_EXPORTER", "none"))
	assert.True(t, told.Answered)
	assert.Equal(t, 2, told.Spans, "one was refused")
	assert.Contains(t, told.Problem, `says "too old"`)
	assert.False(t, told.Metrics)
	require.Len(t, c.requests, 2)
	r := c.requests[1]
	assert.Equal(t, "a,b", r.Header.Get("Api-Key"))
	assert.Equal(t, "y", r.Header.Get("X"))
	assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
	plain, err := gzip.NewReader(bytes.NewReader(c.bodies[1]))
	require.NoError(t, err)
	var traces otlp.Traces
	require.NoError(t, json.NewDecoder(plain).Decode(&traces))
	assert.Len(t, traces.ResourceSpans[0].ScopeSpans[0].Spans, 3)
}

func TestExportToACollectorInTrouble(t *testing.T) {
	later := time.Now().Add(time.Second).UTC().Format(http.TimeFormat)
	tests := []struct {
		name     string
		answers  []http.HandlerFunc // the first is to the empty request
		requests int
		spans    int
		problem  string
	}{
		{"busy, with seconds to wait", []http.HandlerFunc{ok, status(503, "Retry-After", "1"), ok}, 3, 1, ""},
		{"busy, with a date", []http.HandlerFunc{ok, status(429, "Retry-After", later), ok}, 3, 1, ""},
		{"a bad gateway for a moment", []http.HandlerFunc{status(502), status(504), ok}, 3, 1, ""},
		{"busy for longer than anybody waits", []http.HandlerFunc{ok, status(503, "Retry-After", "3600")}, 2, 0, "it answered 503 Service Unavailable"},
		{"it does not take it", []http.HandlerFunc{ok, status(400)}, 2, 0, "it answered 400 Bad Request"},
		{"it wants a login", []http.HandlerFunc{status(401)}, 2, 0, "it answered 401 Unauthorized"},
		{"it is elsewhere", []http.HandlerFunc{status(307, "Location", "http://127.0.0.1:1/")}, 2, 0, "it answered 307 Temporary Redirect"},
		{"it breaks off", []http.HandlerFunc{ok, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ok}, 3, 1, ""},
		{"it talks nonsense", []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x0a\xffnonsense") }}, 2, 1, ""},
		{"it refuses some", []http.HandlerFunc{ok, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x0a\x07\x08\x01\x12\x03old") }}, 2, 0, `says "old"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCollector(t, tt.answers...)
			told := export(t, 1, env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.URL))
			assert.Len(t, c.requests, tt.requests)
			assert.Equal(t, tt.spans, told.Spans)
			if tt.problem == "" {
				assert.Empty(t, told.Problem)
			} else {
				assert.Contains(t, told.Problem, tt.problem)
			}
		})
	}
}

func TestExportWithoutCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	closed := httptest.NewServer(nil)
	closed.Close()
	tests := []struct{ name, url, want string }{
		{"it never answers", "http://" + l.Addr().String(), ": it does not answer; let OTEL_EXPORTER_OTLP_ENDPOINT be"},
		{"nobody listens", strings.Replace(closed.URL, "http://", "http://user:password@", 1), "connection refused; let OTEL_EXPORTER_OTLP_ENDPOINT be"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			told := export(t, 1, env("OTEL_EXPORTER_OTLP_ENDPOINT", tt.url, "OTEL_EXPORTER_OTLP_TIMEOUT", "300"))
			assert.Less(t, time.Since(begin), last+30*time.Second)
			assert.False(t, told.Answered)
			assert.Contains(t, told.Problem, tt.want)
			assert.NotContains(t, told.Problem, "password")
		})
	}
}

func TestReadIsBounded(t *testing.T) {
	e := &exporter{more: make(chan struct{}, 1)}
	var in bytes.Buffer
	for range 3 * bound {
		fmt.Fprintln(&in, `{"span":{"traceId":"00","spanId":"00","name":"x"}}`)
	}
	e.read(&in)
	assert.Len(t, e.pending, bound)
	assert.True(t, e.ended)
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(ok))
	defer server.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, certificate, 0o600))

	told := export(t, 1, env("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL, "OTEL_EXPORTER_OTLP_CERTIFICATE", file))
	assert.Equal(t, otlp.Told{Answered: true, Spans: 1, Metrics: true}, told)
}

func TestConfiguredRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tests := []struct {
		name string
		env  []string
		want string
	}{
		{"no scheme", []string{endpoint, "localhost:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL; write it like http://"},
		{"no host", []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http:///v1"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is no URL"},
		{"a broken URL", []string{endpoint, "http://\x7f"}, "is no URL"},
		{"gRPC", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}, `OTEL_EXPORTER_OTLP_PROTOCOL is "grpc"; it can be http/protobuf, http/json`},
		{"compression", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"}, `is "zstd"; it can be gzip, none`},
		{"timeout", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_TIMEOUT", "10s"}, `is "10s"; write it in milliseconds`},
		{"headers", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_HEADERS", "secret"}, "reading OTEL_EXPORTER_OTLP_HEADERS: it is no list of headers"},
		{"no certificate file", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_CERTIFICATE", filepath.Join(dir, "none")}, "reading OTEL_EXPORTER_OTLP_CERTIFICATE: open "},
		{"no certificate in it", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_CERTIFICATE", empty}, "holds no certificate"},
		{"half a pair", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_CLIENT_KEY", empty}, "go together"},
		{"no pair", []string{endpoint, "http://x", "OTEL_EXPORTER_OTLP_CLIENT_KEY", empty, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", empty}, "reading OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := configured("TRACES", env(tt.env...))
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.want)
			assert.NotContains(t, err.Error(), "secret")
			assert.Contains(t, export(t, 1, env(tt.env...)).Problem, tt.want)
		})
	}
}

func FuzzPartialSuccess(f *testing.F) {
	f.Add([]byte("\x0a\x07\x08\x01\x12\x03old"))
	f.Add([]byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		refused, _ := partialSuccess(data)
		assert.GreaterOrEqual(t, refused, 0)
	})
}

// A run that is not told when it is over says how it stands, again and again.
func TestTheLastOfProgressIsExported(t *testing.T) {
	span := func(id byte, name string) *otlp.Span {
		return &otlp.Span{TraceID: make(otlp.ID, 16), SpanID: otlp.ID{0, 0, 0, 0, 0, 0, 0, id}, Name: name}
	}
	for name, tt := range map[string]struct {
		lines         []otlp.Line
		spans         int
		has, hasNoone string
	}{
		"without its end": {[]otlp.Line{{Last: span(1, "at first")}, {Span: span(2, "a stage")}, {Last: span(1, "at last")}}, 2, "at last", "at first"},
		"with its end":    {[]otlp.Line{{Last: span(1, "at first")}, {Span: span(1, "at last")}}, 1, "at last", "at first"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollector(t)
			var in, out bytes.Buffer
			for _, line := range tt.lines {
				require.NoError(t, json.NewEncoder(&in).Encode(line))
			}
			run(&in, &out, env("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL))
			assert.Contains(t, out.String(), fmt.Sprintf(`"spans":%d`, tt.spans))
			sent := bytes.Join(c.bodies, nil)
			assert.Contains(t, string(sent), tt.has)
			assert.NotContains(t, string(sent), tt.hasNoone)
		})
	}
}
