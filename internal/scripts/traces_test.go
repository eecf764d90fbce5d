//go:build linux

package scripts

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
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

	"github.com/grimoire-build/grimoire/internal/telemetry"
	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

// TestOneTraceOfThreeJobs splits a pipeline over three processes, as jobs of a CI run, and looks at what a real OpenTelemetry
// Collector receives of them: one trace without any hand-over, and with TRACEPARENT as parts of somebody else's.
func TestOneTraceOfThreeJobs(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	exe := filepath.Join(t.TempDir(), "grimoire")
	compile(t, root, exe)
	s := newShop(t)
	s.commit(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	require.NoError(t, telemetry.Prepare(ctx))
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, environ := range map[string][]string{"of a forge": onGitea, "of a parent": {"TRACEPARENT=" + traceparent}} {
		t.Run(name, func(t *testing.T) {
			url, received := collect(t, root)
			for _, job := range [][]string{{"lint", "test"}, {"push"}, {"deploy"}} {
				cmd := exec.Command(exe, job...)
				cmd.Dir = s.dir
				cmd.Env = append(append(s.env, environ...), "OTEL_EXPORTER_OTLP_ENDPOINT="+url, "GITHUB_OUTPUT=", "GITHUB_STEP_SUMMARY=")
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				assert.NotContains(t, string(out), "did not reach the collector")
			}
			var spans []otlp.Span
			require.Eventually(t, func() bool { spans = received(); return count(spans, "RUN ") == 3 }, time.Minute, 50*time.Millisecond)

			byID := map[string]otlp.Span{}
			stages := map[string]bool{}
			for _, span := range spans {
				assert.Equal(t, hex.EncodeToString(spans[0].TraceID), hex.EncodeToString(span.TraceID), "%s is in the one trace", span.Name)
				byID[hex.EncodeToString(span.SpanID)] = span
			}
			for _, span := range spans {
				parent, ok := byID[hex.EncodeToString(span.Parent)]
				switch {
				case strings.HasPrefix(span.Name, "RUN "):
					if name == "of a parent" {
						assert.Equal(t, "b7ad6b7169203331", hex.EncodeToString(span.Parent))
						assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", hex.EncodeToString(span.TraceID))
					} else {
						assert.Empty(t, span.Parent)
					}
				case assert.True(t, ok, "the parent of %s is in the trace", span.Name):
					assert.LessOrEqual(t, uint64(parent.Start), uint64(span.Start))
					assert.GreaterOrEqual(t, uint64(parent.End), uint64(span.End), "%s ends within %s", span.Name, parent.Name)
				}
				stages[span.Name] = true
			}
			for _, stage := range []string{"lint", "vet", "test", "push", "deploy"} {
				assert.True(t, stages[stage], "there is a span of %s in %v", stage, stages)
			}
		})
	}
}

func count(spans []otlp.Span, prefix string) (n int) {
	for _, span := range spans {
		if strings.HasPrefix(span.Name, prefix) {
			n++
		}
	}
	return n
}

// collect starts a real collector's receiver, and returns its address and what it has received so far.
func collect(t *testing.T, root string) (string, func() []otlp.Span) {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "collector")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", exe, ".")
	build.Dir = filepath.Join(root, "internal", "telemetry", "collector")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	var address string
	var cmd *exec.Cmd
	var lines *bufio.Scanner
	for try := 1; ; try++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address = l.Addr().String()
		require.NoError(t, l.Close())
		cmd = exec.Command(exe, address)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines = bufio.NewScanner(stdout)
		lines.Buffer(nil, 64<<20)
		if lines.Scan() {
			break
		}
		// Somebody else may have taken the port meanwhile.
		err = cmd.Wait()
		require.Less(t, try, 3, "it has to be ready: %v", err)
	}
	var mu sync.Mutex
	var spans []otlp.Span
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() {
			var line struct{ Data otlp.Traces }
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				continue // metrics
			}
			mu.Lock()
			for _, resource := range line.Data.ResourceSpans {
				for _, scope := range resource.ScopeSpans {
					spans = append(spans, scope.Spans...)
				}
			}
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	return "http://" + address, func() []otlp.Span { mu.Lock(); defer mu.Unlock(); return append([]otlp.Span(nil), spans...) }
}
