package telemetry

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

// programs is where the programs of these tests are built.
var programs string

func TestMain(m *testing.M) {
	if os.Getenv("TELEMETRY_TEST_DEPTH") != "" {
		pipeline()
		return
	}
	var err error
	if programs, err = os.MkdirTemp("", "telemetry-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// collectorProgram and exporterProgram are built once.
var collectorProgram = sync.OnceValues(func() (string, error) {
	exe := filepath.Join(programs, "collector")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", exe, ".")
	cmd.Dir = "collector"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: string(out), Err: err}
	}
	return exe, nil
})

var exporterProgram = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(programs, "exporter")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	files := map[string][]byte{}
	for _, name := range []string{"otlp/otlp.go", "otlpexport/main.go", "otlpexport/config.go", "otlpexport/encode.go", "otlpexport/send.go"} {
		files[name], _ = sources.ReadFile(name)
	}
	return filepath.Join(dir, exporterName), compile(context.Background(), os.Environ(), files, dir)
})

// collector is a real OpenTelemetry Collector's receiver.
type collector struct {
	url string
	cmd *exec.Cmd

	mu       sync.Mutex
	traces   []otlp.Traces
	metrics  []otlp.Metrics
	metadata []map[string][]string
}

func startCollector(t *testing.T, certificate ...string) *collector {
	t.Helper()
	exe, err := collectorProgram()
	require.NoError(t, err)
	c := &collector{}
	var lines *bufio.Scanner
	for try := 1; ; try++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address := l.Addr().String()
		require.NoError(t, l.Close())
		c.url, c.cmd = "http://"+address, exec.Command(exe, append([]string{address}, certificate...)...)
		if certificate != nil {
			c.url = "https://" + address
		}
		stdout, err := c.cmd.StdoutPipe()
		require.NoError(t, err)
		c.cmd.Stderr = os.Stderr
		require.NoError(t, c.cmd.Start())
		lines = bufio.NewScanner(stdout)
		lines.Buffer(nil, 64<<20)
		if lines.Scan() {
			break
		}
		// Somebody else may have taken the port meanwhile.
		err = c.cmd.Wait()
		require.Less(t, try, 3, "the collector has to be ready: %v", err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() {
			var line struct {
				Headers map[string][]string
				Data    json.RawMessage
			}
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				continue
			}
			c.mu.Lock()
			c.metadata = append(c.metadata, line.Headers)
			if bytes.Contains(line.Data, []byte(`"resourceSpans"`)) {
				var traces otlp.Traces
				assert.NoError(t, json.Unmarshal(line.Data, &traces))
				c.traces = append(c.traces, traces)
			} else if bytes.Contains(line.Data, []byte(`"resourceMetrics"`)) {
				var metrics otlp.Metrics
				assert.NoError(t, json.Unmarshal(line.Data, &metrics))
				c.metrics = append(c.metrics, metrics)
			}
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-read
		_ = c.cmd.Wait()
	})
	return c
}

// spans waits for n spans, and returns them with what they are of, by name.
func (c *collector) spans(t *testing.T, n int) (map[string]otlp.Span, otlp.Resource) {
	t.Helper()
	spans, of := map[string]otlp.Span{}, otlp.Resource{}
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		clear(spans)
		for _, traces := range c.traces {
			for _, rs := range traces.ResourceSpans {
				of = rs.Resource
				for _, span := range rs.ScopeSpans[0].Spans {
					spans[span.Name] = span
				}
			}
		}
		return len(spans) >= n
	}, time.Minute, 10*time.Millisecond)
	return spans, of
}

// histograms waits for n exports of metrics.
func (c *collector) histograms(t *testing.T, n int) []otlp.Metrics {
	t.Helper()
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.metrics) >= n
	}, time.Minute, 10*time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.metrics)
}

// headers are those of the requests so far.
func (c *collector) headers() []map[string][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.metadata)
}

// values are the text attributes.
func values(attributes []otlp.Attribute) map[string]string {
	values := map[string]string{}
	for _, a := range attributes {
		switch {
		case a.Value.String != nil:
			values[a.Key] = *a.Value.String
		case a.Value.Array != nil:
			var all []string
			for _, v := range a.Value.Array.Values {
				all = append(all, *v.String)
			}
			values[a.Key] = strings.Join(all, " ")
		}
	}
	return values
}

// start starts the exporter that the tests share. The run's log is in the slice.
func start(t *testing.T, environ ...string) (*Telemetry, *[]string) {
	t.Helper()
	exe, err := exporterProgram()
	require.NoError(t, err)
	logged := &[]string{}
	tele := Start(Options{
		Environ: environ,
		Service: "pay",
		Mask:    func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") },
		Log:     func(s string) { *logged = append(*logged, s) },

		exporter: func(context.Context) (string, error) { return exe, nil },
	})
	require.NotNil(t, tele)
	t.Cleanup(func() { tele.Close(report.Run{}) })
	return tele, logged
}

// answered waits until the collector has.
func answered(t *testing.T, tele *Telemetry) {
	t.Helper()
	require.Eventually(t, func() bool {
		tele.exporter.mu.Lock()
		defer tele.exporter.mu.Unlock()
		return tele.exporter.told.Answered
	}, time.Minute, 5*time.Millisecond)
}

// pipeline is a run whose only process is the next of the pipeline; it is what the test program does when a test starts it.
func pipeline() {
	depth := os.Getenv("TELEMETRY_TEST_DEPTH")
	begin := time.Now()
	t := Start(Options{
		Service: "pay", Log: func(s string) { println(s); os.Exit(3) },
		exporter: func(context.Context) (string, error) { return os.Getenv("TELEMETRY_TEST_EXPORTER"), nil },
	})
	if depth == "hang" {
		id := t.NewSpan()
		t.Process(id, SpanID{}, report.Process{Command: []string{"orphan"}, Start: begin, End: time.Now()})
		time.Sleep(time.Hour)
	}
	stage := report.Stage{Name: "stage " + depth, Start: begin, Result: report.OK}
	id, child := t.NewSpan(), t.NewSpan()
	if depth != "1" {
		next := map[string]string{"3": "2", "2": "1"}[depth]
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), append(t.Environ(child), "TELEMETRY_TEST_DEPTH="+next)...)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			println(err.Error())
			os.Exit(4)
		}
		t.Process(child, id, report.Process{Command: []string{"/bin/process-" + depth}, Start: begin, End: time.Now()})
	}
	for t.exporter.patience(0) < whileAnswering {
		time.Sleep(time.Millisecond)
	}
	stage.End = time.Now()
	t.Stage(id, SpanID{}, stage)
	t.Close(report.Run{Targets: []string{depth}, Start: begin, End: time.Now(), Result: report.OK})
}

func TestOneTraceOfThreeProcesses(t *testing.T) {
	exporter, err := exporterProgram()
	require.NoError(t, err)
	for _, protocol := range []string{"http/protobuf", "http/json"} {
		t.Run(protocol, func(t *testing.T) {
			c := startCollector(t)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "TELEMETRY_TEST_DEPTH=3", "TELEMETRY_TEST_EXPORTER="+exporter, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.url,
				"OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip", "OTEL_EXPORTER_OTLP_HEADERS=x-api-key=abc",
				"TRACEPARENT="+aParent, "TRACESTATE=vendor=1")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))

			spans, of := c.spans(t, 8)
			assert.Equal(t, "pay", values(of.Attributes)["service.name"])
			parents := map[string]string{}
			for name, span := range spans {
				assert.Equal(t, aTrace, otlpID(span.TraceID))
				assert.Equal(t, "vendor=1", span.TraceState)
				assert.LessOrEqual(t, span.Start, span.End)
				parents[name] = "outside"
				for other := range spans {
					if bytes.Equal(spans[other].SpanID, span.Parent) {
						parents[name] = other
					}
				}
			}
			assert.Equal(t, map[string]string{
				"RUN 3": "outside", "stage 3": "RUN 3", "process-3": "stage 3",
				"RUN 2": "process-3", "stage 2": "RUN 2", "process-2": "stage 2",
				"RUN 1": "process-2", "stage 1": "RUN 1",
			}, parents)
			assert.Equal(t, aSpan, otlpID(spans["RUN 3"].Parent))
			assert.EqualValues(t, otlp.Server, spans["RUN 3"].Kind)
			assert.EqualValues(t, sampled|hasIsRemote|isRemote, spans["RUN 3"].Flags)
			assert.Equal(t, []string{"abc"}, c.headers()[0]["x-api-key"])

			metrics := c.histograms(t, 3)[0].ResourceMetrics[0].ScopeMetrics[0].Metrics
			require.Len(t, metrics, 2)
			assert.Equal(t, "grimoire.stage.duration", metrics[0].Name)
			assert.Equal(t, "s", metrics[0].Unit)
			point := metrics[0].Histogram.Points[0]
			assert.EqualValues(t, 1, point.Count)
			assert.Len(t, point.Counts, len(bounds)+1)
			assert.Equal(t, bounds, point.Bounds)
			assert.Equal(t, map[string]string{"cicd.pipeline.task.name": "stage 1", "cicd.pipeline.task.run.result": "success"}, values(point.Attributes))
			assert.EqualValues(t, otlp.Cumulative, metrics[0].Histogram.Temporality)
			assert.Equal(t, "cicd.pipeline.run.duration", metrics[1].Name)
		})
	}
}

// authority makes a certificate for the loopback address.
func authority(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return certificate, key
}

func TestTLS(t *testing.T) {
	certificate, key := authority(t)
	c := startCollector(t, certificate, key)

	tele, logged := start(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.url, "OTEL_EXPORTER_OTLP_CERTIFICATE="+certificate)
	answered(t, tele)
	tele.Close(report.Run{Targets: []string{"trusted"}})
	c.spans(t, 1)
	assert.Empty(t, *logged)

	tele, logged = start(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.url)
	require.Eventually(t, func() bool { return problem(tele) != "" }, time.Minute, 5*time.Millisecond)
	tele.Close(report.Run{})
	require.Len(t, *logged, 1)
	assert.Contains(t, (*logged)[0], "certificate")
}

func problem(tele *Telemetry) string {
	tele.exporter.mu.Lock()
	defer tele.exporter.mu.Unlock()
	return tele.exporter.told.Problem
}

// delivered is how many spans a collector has said to have.
func delivered(tele *Telemetry) int {
	tele.exporter.mu.Lock()
	defer tele.exporter.mu.Unlock()
	return tele.exporter.told.Spans
}

func TestSpansAreWhatHappened(t *testing.T) {
	c := startCollector(t)
	tele, logged := start(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.url, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=a%20b,broken",
		"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta",
		"GITEA_ACTIONS=true", "GITHUB_SERVER_URL=https://git.example.org", "GITHUB_REPOSITORY=shop/pay", "GITHUB_RUN_ID=7", "GITHUB_WORKFLOW=ci", "GITHUB_REF_NAME=main", "GITHUB_REF_TYPE=branch")
	answered(t, tele)
	tele.Describe("", "abc123")
	now := time.Now()
	stage := tele.NewSpan()
	args := slices.Repeat([]string{"-password=hunter2"}, 2*mostArgs)
	tele.Process(tele.NewSpan(), stage, report.Process{Command: append([]string{"/usr/bin/go", "test"}, args...), Dir: "/src", Start: now, End: now.Add(time.Second), ExitCode: 2})
	tele.Stage(stage, SpanID{}, report.Stage{
		Name: "test", Start: now, End: now.Add(2 * time.Second), Seconds: 2, Result: report.Failed,
		Reason: "hunter2 is wrong" + strings.Repeat("é", longest), Needs: []string{"vet"}, Made: []string{"junit.xml"},
	})
	tele.Stage(tele.NewSpan(), SpanID{}, report.Stage{Name: "push", Result: report.Skipped, Reason: "it needs what failed"})
	run := report.Run{Commit: "abc123", Targets: []string{"test", "push"}, Start: now, Result: report.Failed, Stages: []report.Stage{{Name: "test", Result: report.Failed, Reason: "wrong"}}}
	tele.Close(run)
	tele.Close(run)
	tele.Process(tele.NewSpan(), SpanID{}, report.Process{})
	assert.Empty(t, *logged)

	spans, of := c.spans(t, 4)
	assert.Len(t, spans, 4)
	assert.Equal(t, map[string]string{
		"service.name": "pay", "vcs.provider.name": "gitea", "vcs.owner.name": "shop", "vcs.repository.name": "pay",
		"vcs.repository.url.full": "https://git.example.org/shop/pay", "vcs.ref.head.name": "main", "vcs.ref.type": "branch",
		"vcs.ref.head.revision": "abc123", "cicd.pipeline.name": "ci", "cicd.pipeline.run.id": "7",
		"cicd.pipeline.run.url.full": "https://git.example.org/shop/pay/actions/runs/7", "deployment.environment.name": "a b",
	}, values(of.Attributes))

	process := spans["go test"]
	assert.Equal(t, &otlp.Status{Code: otlp.Failed, Message: "exit code 2"}, process.Status)
	assert.EqualValues(t, otlp.Client, process.Kind)
	attributes := values(process.Attributes)
	assert.Equal(t, "go", attributes["process.executable.name"])
	assert.Contains(t, attributes["process.command_args"], "/usr/bin/go test -password=*** ")
	assert.Contains(t, attributes["process.command_args"], "… and 66 more")
	assert.NotContains(t, attributes["process.command_args"], "hunter2")
	assert.EqualValues(t, 2, exitCode(process))

	test := spans["test"]
	assert.Equal(t, test.SpanID, process.Parent)
	assert.Contains(t, test.Status.Message, "*** is wrong")
	assert.LessOrEqual(t, len(test.Status.Message), longest+len("…"))
	assert.Equal(t, map[string]string{
		"cicd.pipeline.task.name": "test", "cicd.pipeline.task.run.result": "failure", "grimoire.stage.result": "failed",
		"error.type": "failure", "grimoire.stage.needs": "vet", "grimoire.stage.made": "junit.xml",
	}, values(test.Attributes))
	assert.Equal(t, "skip", values(spans["push"].Attributes)["cicd.pipeline.task.run.result"])
	assert.Equal(t, "it needs what failed", values(spans["push"].Attributes)["grimoire.stage.reason"])

	pipeline := spans["RUN test push"]
	assert.Equal(t, pipeline.SpanID, test.Parent)
	assert.Empty(t, pipeline.Parent, "the trace begins here")
	assert.Equal(t, "test: wrong", pipeline.Status.Message)

	metrics := c.histograms(t, 1)[0].ResourceMetrics[0]
	assert.NotContains(t, values(metrics.Resource.Attributes), "cicd.pipeline.run.id", "each run would be a series of its own")
	require.Len(t, metrics.ScopeMetrics[0].Metrics, 2)
	assert.Len(t, metrics.ScopeMetrics[0].Metrics[0].Histogram.Points, 1, "what was skipped took no time")
	assert.EqualValues(t, otlp.Delta, metrics.ScopeMetrics[0].Metrics[0].Histogram.Temporality)
}

func exitCode(span otlp.Span) int64 {
	for _, a := range span.Attributes {
		if a.Key == "process.exit.code" && a.Value.Int != nil {
			return *a.Value.Int
		}
	}
	return -1
}

func TestCollectorDiesMidway(t *testing.T) {
	c := startCollector(t)
	tele, logged := start(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.url)
	answered(t, tele)
	tele.Process(tele.NewSpan(), SpanID{}, report.Process{Command: []string{"before"}})
	require.Eventually(t, func() bool { return delivered(tele) == 1 }, time.Minute, 5*time.Millisecond, "the collector has it, and has said so")
	require.NoError(t, c.cmd.Process.Kill())
	tele.Process(tele.NewSpan(), SpanID{}, report.Process{Command: []string{"after"}})
	require.Eventually(t, func() bool { return problem(tele) != "" }, time.Minute, 5*time.Millisecond)
	begin := time.Now()
	tele.Close(report.Run{})
	assert.Less(t, time.Since(begin), 30*time.Second)
	require.Len(t, *logged, 1)
	assert.Contains(t, (*logged)[0], "2 of 3 spans and the durations of stages did not reach the collector: the collector at 127.0.0.1:")
}

func otlpID(id otlp.ID) string {
	text, _ := id.MarshalText()
	return string(text)
}
