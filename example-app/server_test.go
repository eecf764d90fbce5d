package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	const (
		jsonType = "application/json"
		textType = "text/plain; charset=utf-8"
	)
	tests := []struct {
		name, method, path string
		ready              bool
		status             int
		contentType, want  string
	}{
		{"health", "GET", "/health", true, 200, jsonType, `{"status":"healthy","timestamp":1700000000}`},
		{"health while not ready", "GET", "/health", false, 200, jsonType, `{"status":"healthy","timestamp":1700000000}`},
		{"ready", "GET", "/ready", true, 200, jsonType, `{"status":"ready"}`},
		{"not ready", "GET", "/ready", false, 503, jsonType, `{"error":"not ready"}`},
		{"greeting", "GET", "/", true, 200, textType, "Hello from example-app dev"},
		{"unknown path", "GET", "/nothing", true, 404, jsonType, `{"error":"not found"}`},
		{"path below a known one", "GET", "/health/", true, 404, jsonType, `{"error":"not found"}`},
		{"unknown path, other method", "DELETE", "/nothing", true, 404, jsonType, `{"error":"not found"}`},
		{"hostile path", "GET", "/%00%0d%0aSet-Cookie:<script>", true, 404, jsonType, `{"error":"not found"}`},
		{"wrong method", "POST", "/health", true, 405, jsonType, `{"error":"method not allowed"}`},
		{"wrong method on the greeting", "PUT", "/", true, 405, jsonType, `{"error":"method not allowed"}`},
		{"wrong method while not ready", "DELETE", "/ready", false, 405, jsonType, `{"error":"method not allowed"}`},
		{"invented method", "BREW", "/ready", true, 405, jsonType, `{"error":"method not allowed"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(slog.New(slog.DiscardHandler), 0)
			s.now = func() time.Time { return time.Unix(1700000000, 0) }
			s.ready.Store(tt.ready)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
			if w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
			if got := strings.TrimSuffix(w.Body.String(), "\n"); got != tt.want {
				t.Errorf("body %s, want %s", got, tt.want)
			}
			if got := w.Header().Get("Content-Type"); got != tt.contentType {
				t.Errorf("content type %q, want %q", got, tt.contentType)
			}
			if got := w.Header().Get("Allow"); (got == "GET, HEAD") != (tt.status == 405) {
				t.Errorf("status %d with Allow %q", tt.status, got)
			}
			if got := w.Header().Get("Connection"); (got == "close") == tt.ready {
				t.Errorf("ready is %t with Connection %q", tt.ready, got)
			}
		})
	}
}

func TestHead(t *testing.T) {
	served := httptest.NewServer(newServer(slog.New(slog.DiscardHandler), 0))
	defer served.Close()
	response, err := http.Head(served.URL + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.ContentLength == 0 {
		t.Errorf("status %d, length %d", response.StatusCode, response.ContentLength)
	}
}

// TestDrain holds a request open over the stop, and the delay after it in its own hands.
func TestDrain(t *testing.T) {
	s := newServer(slog.New(slog.DiscardHandler), 3*time.Second)
	delayed, elapsed := make(chan time.Duration, 1), make(chan time.Time)
	s.after = func(d time.Duration) <-chan time.Time {
		delayed <- d
		return elapsed
	}
	finish := make(chan struct{})
	running := start(t, s, finish)
	if status, body := get(t, running.url+"/ready"); status != http.StatusOK {
		t.Fatalf("/ready answers %d %s before the stop", status, body)
	}
	answered := running.slow()

	running.stop()
	if got := <-delayed; got != 3*time.Second {
		t.Errorf("delay %s, want 3s", got)
	}
	if status, body := get(t, running.url+"/ready"); status != http.StatusServiceUnavailable {
		t.Errorf("/ready answers %d %s during the delay", status, body)
	}
	if status, body := get(t, running.url+"/health"); status != http.StatusOK {
		t.Errorf("/health answers %d %s during the delay", status, body)
	}

	elapsed <- time.Time{}
	untilRefused(t, running.address)
	select {
	case err := <-running.stopped:
		t.Fatalf("stopped with a request open: %v", err)
	default:
	}
	close(finish)
	if got := <-answered; got.err != nil || got.body != "whole answer" {
		t.Errorf("the request in flight got %q, %v", got.body, got.err)
	}
	if err := <-running.stopped; err != nil {
		t.Errorf("serve returned %v", err)
	}
}

func TestDrainCutsOffWhatDoesNotFinish(t *testing.T) {
	s := newServer(slog.New(slog.DiscardHandler), 0)
	s.timeout = time.Millisecond
	finish := make(chan struct{})
	defer close(finish)
	running := start(t, s, finish)
	answered := running.slow()
	running.stop()
	err := <-running.stopped
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "draining: cutting off what was open after 1ms: ") {
		t.Errorf("serve returned %v", err)
	}
	if got := <-answered; got.err == nil {
		t.Errorf("the request that was cut off got %q", got.body)
	}
}

func TestServeFails(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		listener := listen(t)
		_ = listener.Close()
		err := newServer(slog.New(slog.DiscardHandler), 0).serve(t.Context(), listener)
		if !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "serving on 127.0.0.1:") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("while draining", func(t *testing.T) {
		s := newServer(slog.New(slog.DiscardHandler), 0)
		listener := listen(t)
		s.after = func(time.Duration) <-chan time.Time {
			_ = listener.Close()
			return nil
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		err := s.serve(ctx, listener)
		if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "while draining") {
			t.Errorf("error %v", err)
		}
	})
}

// running is a server that serves on loopback.
type running struct {
	address, url string
	stop         context.CancelFunc
	stopped      <-chan error
	begun        <-chan struct{} // closed when the request to /slow is being answered
}

// start has s serve, with /slow besides, which answers once finish is closed.
func start(t *testing.T, s *server, finish <-chan struct{}) *running {
	t.Helper()
	begun := make(chan struct{})
	s.mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "whole answer")
	})
	listener := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- s.serve(ctx, listener) }()
	address := listener.Addr().String()
	return &running{address: address, url: "http://" + address, stop: stop, stopped: stopped, begun: begun}
}

type answer struct {
	body string
	err  error
}

// slow asks for /slow and returns when the request is in flight.
func (r *running) slow() <-chan answer {
	answered := make(chan answer, 1)
	go func() {
		response, err := http.Get(r.url + "/slow")
		if err != nil {
			answered <- answer{err: err}
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		answered <- answer{string(body), err}
	}()
	<-r.begun
	return answered
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// untilRefused returns when nothing listens on address any more.
func untilRefused(t *testing.T, address string) {
	t.Helper()
	for {
		connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			return
		}
		_ = connection.Close()
	}
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSuffix(string(content), "\n")
}
