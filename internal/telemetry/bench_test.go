//go:build linux

package telemetry

import (
	"crypto/sha256"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/report"
)

// BenchmarkRun is a run of some seconds, a hundred processes of the same work, without a collector and with one that is away.
// Their ratio is what is worth reading, on a machine that does nothing else and after a first run, which builds the exporter:
//
//	go test -run - -bench Run -benchtime 1x -count 3 ./internal/telemetry
func BenchmarkRun(b *testing.B) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer silent.Close()
	for _, bb := range []struct{ name, endpoint string }{
		{"none", ""},
		{"never answers", "http://" + silent.Addr().String()},
		{"never accepts", "http://" + neverAccepts(b)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", bb.endpoint)
			for b.Loop() {
				begin := time.Now()
				t := Start(Options{})
				stage := t.NewSpan()
				for range 100 {
					id, at := t.NewSpan(), time.Now()
					work()
					t.Process(id, stage, report.Process{Command: []string{"work"}, Start: at, End: time.Now()})
				}
				t.Stage(stage, SpanID{}, report.Stage{Name: "test", Start: begin, End: time.Now(), Result: report.OK})
				t.Close(report.Run{Start: begin, Result: report.OK})
			}
		})
	}
}

func work() {
	sum := sha256.Sum256(nil)
	for range 1_000_000 {
		sum = sha256.Sum256(sum[:])
	}
}

// neverAccepts returns an address whose queue of connections is full.
func neverAccepts(b *testing.B) string {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(b, err)
	b.Cleanup(func() { _ = syscall.Close(socket) })
	require.NoError(b, syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(b, syscall.Listen(socket, 0))
	name, err := syscall.Getsockname(socket)
	require.NoError(b, err)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		b.Cleanup(func() { conn.Close() })
	}
}
