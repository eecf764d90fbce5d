package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// server answers the service's requests.
type server struct {
	log *slog.Logger
	// delay is how long the server goes on serving while it is not ready any more. Kubernetes ends a pod and takes it out of
	// the service at the same time, so requests still arrive for a moment after SIGTERM.
	delay time.Duration
	// timeout is how long open requests then have to finish. It and delay together have to be less than the pod's
	// terminationGracePeriodSeconds.
	timeout time.Duration
	now     func() time.Time
	after   func(time.Duration) <-chan time.Time
	ready   atomic.Bool
	mux     *http.ServeMux
}

func newServer(log *slog.Logger, delay time.Duration) *server {
	s := &server{
		log:     log,
		delay:   delay,
		timeout: 15 * time.Second,
		now:     time.Now,
		after:   time.After,
		mux:     http.NewServeMux(),
	}
	s.get("/{$}", s.greeting)
	s.get("/health", s.health)
	s.get("/ready", s.readiness)
	s.mux.HandleFunc("/", s.notFound)
	return s
}

// get has handler answer GET and HEAD on path. The mux would refuse the other methods by itself, but not in JSON.
func (s *server) get(path string, handler http.HandlerFunc) {
	s.mux.HandleFunc("GET "+path, handler)
	s.mux.HandleFunc(path, s.methodNotAllowed)
}

// serve answers requests on listener until ctx ends. Then it is not ready first, goes on serving for the delay, finishes the
// requests that are open, and returns. Requests that do not finish in time are cut off, and that is an error.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	// Ready before the first request: the listener already holds whoever connects until Serve takes them.
	s.ready.Store(true)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	s.log.Info("serving", "address", listener.Addr().String(), "version", version)

	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	s.ready.Store(false)
	s.log.Info("draining", "delay", s.delay.String(), "timeout", s.timeout.String())
	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s while draining: %w", listener.Addr(), err)
	case <-s.after(s.delay):
	}
	// ctx has ended; the requests that are open have not.
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return fmt.Errorf("draining: cutting off what was open after %s: %w", s.timeout, errors.Join(err, server.Close()))
	}
	s.log.Info("stopped")
	return nil
}

// ServeHTTP answers a request.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.ready.Load() {
		// Whoever keeps a connection open would not notice that the pod has left the service.
		w.Header().Set("Connection", "close")
	}
	s.mux.ServeHTTP(w, r)
}

func (s *server) greeting(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hello from example-app %s\n", version)
}

// health says that the process works. It does not depend on readiness: what drains must not be started anew.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"status": "healthy", "timestamp": s.now().Unix()})
}

func (s *server) readiness(w http.ResponseWriter, _ *http.Request) {
	if !s.ready.Load() {
		reply(w, http.StatusServiceUnavailable, map[string]any{"error": "not ready"})
		return
	}
	reply(w, http.StatusOK, map[string]any{"status": "ready"})
}

func (s *server) notFound(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusNotFound, map[string]any{"error": "not found"})
}

func (s *server) methodNotAllowed(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Allow", "GET, HEAD")
	reply(w, http.StatusMethodNotAllowed, map[string]any{"error": "method not allowed"})
}

func reply(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// This fails only when the client has gone, and then there is nobody to tell.
	_ = json.NewEncoder(w).Encode(body)
}
