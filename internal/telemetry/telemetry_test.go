package telemetry

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/report"
)

func TestStartWhereNothingIsAskedFor(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	tests := []struct {
		name    string
		environ []string
	}{
		{"nothing is set", []string{}},
		{"an empty endpoint", []string{"OTEL_EXPORTER_OTLP_ENDPOINT= "}},
		{"disabled", []string{endpoint, "OTEL_SDK_DISABLED=True"}},
		{"no exporters", []string{endpoint, "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none"}},
		{"other exporters", []string{endpoint, "OTEL_TRACES_EXPORTER=console", "OTEL_METRICS_EXPORTER=prometheus"}},
		{"an endpoint for what is not exported", []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER=none"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tele := Start(Options{Environ: tt.environ})
			require.Nil(t, tele)
			tele.Describe("pay", "abc")
			tele.Stage(tele.NewSpan(), SpanID{}, report.Stage{})
			tele.Process(tele.NewSpan(), SpanID{}, report.Process{})
			tele.Kill()
			tele.Close(report.Run{})
			assert.Empty(t, tele.TraceID()+tele.Traceparent(SpanID{}))
			assert.Empty(t, tele.Environ(SpanID{}))
		})
	}
}

func TestEnviron(t *testing.T) {
	none := func(context.Context) (string, error) { return "", errors.New("none") }
	begin := func(environ ...string) *Telemetry {
		tele := Start(Options{Environ: append(environ, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"), exporter: none})
		require.NotNil(t, tele)
		t.Cleanup(func() { tele.Close(report.Run{}) })
		return tele
	}
	id := SpanID{1}
	of := begin("TRACEPARENT="+aParent, "TRACESTATE=a=b")
	assert.Equal(t, aTrace, of.TraceID())
	assert.Equal(t, []string{"TRACEPARENT=00-" + aTrace + "-0100000000000000-01", "TRACESTATE=a=b"}, of.Environ(id))
	assert.NotContains(t, of.Traceparent(SpanID{}), aSpan, "the pipeline is a span of its own")

	of = begin("TRACEPARENT=broken", "TRACESTATE=a=b")
	assert.Equal(t, []string{"TRACEPARENT=" + of.Traceparent(id), "TRACESTATE="}, of.Environ(id))
	of = begin()
	assert.Equal(t, []string{"TRACEPARENT=" + of.Traceparent(id)}, of.Environ(id))

	of = begin("TRACEPARENT=00-" + aTrace + "-" + aSpan + "-00")
	assert.Empty(t, of.TraceID(), "whoever began the trace does not record it")
	assert.True(t, strings.HasSuffix(of.Traceparent(id), "-00"))
	of.Process(of.NewSpan(), SpanID{}, report.Process{})
	assert.Zero(t, of.spans)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestCloseWithoutCollector(t *testing.T) {
	silent := listen(t)
	closed := listen(t)
	require.NoError(t, closed.Close())
	tests := []struct {
		name, url string
		wait      func(*Telemetry) bool
		want      string
	}{
		{"it never answers", "http://" + silent.Addr().String(), func(*Telemetry) bool { return true },
			"the collector had not answered when the run was over; let OTEL_EXPORTER_OTLP_ENDPOINT be"},
		{"nobody listens", "http://" + closed.Addr().String(), func(tele *Telemetry) bool { return problem(tele) != "" }, "connection refused; let OTEL_EXPORTER_OTLP_ENDPOINT"},
		{"no URL", "localhost", func(tele *Telemetry) bool { return problem(tele) != "" }, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tele, logged := start(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+tt.url)
			tele.Stage(tele.NewSpan(), SpanID{}, report.Stage{Name: "test"})
			require.Eventually(t, func() bool { return tt.wait(tele) }, time.Minute, 5*time.Millisecond)
			var closers sync.WaitGroup
			begin := time.Now()
			for range 2 {
				closers.Go(func() { tele.Close(report.Run{}) })
			}
			closers.Wait()
			assert.Less(t, time.Since(begin), 30*time.Second, "twenty milliseconds, and what ending a process takes")
			require.Len(t, *logged, 1)
			assert.Contains(t, (*logged)[0], "2 of 2 spans and the durations of stages did not reach the collector: ")
			assert.Contains(t, (*logged)[0], tt.want)
		})
	}
}

func TestKill(t *testing.T) {
	silent := listen(t)
	tele, logged := start(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+silent.Addr().String())
	conn, err := silent.Accept()
	require.NoError(t, err)
	defer conn.Close()
	tele.Kill()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	for buffer := make([]byte, 4096); err == nil; {
		_, err = conn.Read(buffer)
	}
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	tele.Close(report.Run{})
	assert.Len(t, *logged, 1)
}

func TestPatience(t *testing.T) {
	e := &exporter{}
	assert.Equal(t, unanswered, e.patience(time.Second))
	assert.Equal(t, 500*time.Millisecond, e.patience(100*time.Second), "half a per cent")
	e.told.Answered = true
	assert.Equal(t, whileAnswering, e.patience(time.Second))
	e.told.Problem = "x"
	assert.Equal(t, whileFailing, e.patience(time.Second))
}

func TestEndlessSpans(t *testing.T) {
	for _, tt := range []struct {
		name     string
		exporter func(context.Context) (string, error)
	}{
		{"the exporter is being built", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", errors.New("stopped") }},
		{"the exporter reads nothing", func(context.Context) (string, error) { return sleeper(t), nil }},
		{"the exporter cannot be built", func(context.Context) (string, error) { return "", errors.New("no") }},
		{"the exporter is not there", func(context.Context) (string, error) { return filepath.Join(t.TempDir(), "none"), nil }},
		{"the exporter ends at once", func(context.Context) (string, error) { return exec.LookPath("false") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var logged []string
			tele := Start(Options{
				Environ: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"}, exporter: tt.exporter,
				Log: func(s string) { logged = append(logged, s) },
			})
			big := report.Process{Command: []string{"x", strings.Repeat("y", longest)}}
			var writers sync.WaitGroup
			for range 4 {
				writers.Go(func() {
					for range 1000 {
						tele.Process(tele.NewSpan(), SpanID{}, big)
					}
				})
			}
			writers.Wait()
			tele.exporter.lines.mu.Lock()
			assert.LessOrEqual(t, tele.exporter.lines.size, room+1<<10)
			tele.exporter.lines.mu.Unlock()
			begin := time.Now()
			tele.Close(report.Run{})
			assert.Less(t, time.Since(begin), 30*time.Second)
			require.Len(t, logged, 1)
			assert.Contains(t, logged[0], "4001 of 4001 spans")
		})
	}
}

// sleeper is a program that does nothing for long.
func sleeper(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sleeper")
	assert.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755))
	return path
}

func TestExporterEndsWithTheRun(t *testing.T) {
	exe, err := exporterProgram()
	require.NoError(t, err)
	silent := listen(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TELEMETRY_TEST_DEPTH=hang", "TELEMETRY_TEST_EXPORTER="+exe, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+silent.Addr().String())
	require.NoError(t, cmd.Start())
	conn, err := silent.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	// The connection ends with the exporter.
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	for buffer := make([]byte, 4096); err == nil; {
		_, err = conn.Read(buffer)
	}
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the exporter has outlived the run")
}

func TestBuildExporter(t *testing.T) {
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	require.NoError(t, err)
	t.Setenv("GOCACHE", strings.TrimSpace(string(cache)))
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	// What the service's people have set for its own build, and no network.
	environ := append(os.Environ(), "GOFLAGS=-mod=vendor -tags=x", "GOWORK=/nowhere/go.work", "GOOS=plan9", "GOPROXY=off", "GOMODCACHE="+t.TempDir())

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = buildExporter(cancelled, environ)
	require.ErrorContains(t, err, "building the exporter of traces: the run was over before it was done")
	_, err = buildExporter(t.Context(), append(environ, "GOTOOLCHAIN=nonsense"))
	require.ErrorContains(t, err, "nonsense")

	exe, err := buildExporter(t.Context(), environ)
	require.NoError(t, err)
	require.NoError(t, exec.Command(exe).Run(), "there is nothing to export")
	again, err := buildExporter(cancelled, environ)
	require.NoError(t, err, "the second time it is there")
	assert.Equal(t, exe, again)
}

// What is forgotten in the list of sources would be missed only on the machines of others.
func TestSourcesAreWhole(t *testing.T) {
	for _, dir := range []string{"otlp", "otlpexport"} {
		files, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err)
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				_, err := fs.Stat(sources, filepath.ToSlash(file))
				assert.NoError(t, err)
			}
		}
	}
}
