// Command app is a service that behaves as well or as badly as its environment says:
//
//	VERSION       what GET / answers
//	EXIT          exit with this code at once
//	EXIT_ONCE     exit with code 1, unless this file is there, which it makes
//	UNREADY       GET /ready answers 503, for ever or for as many seconds
//	SICK          GET /live answers 500
//	RUN           exit with EXIT after this many seconds
//	ALLOCATE      take this many MiB of memory at once
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	fmt.Println("starting", os.Getenv("VERSION"))
	if file := os.Getenv("EXIT_ONCE"); file != "" {
		if _, err := os.Stat(file); err != nil {
			fmt.Fprintln(os.Stderr, "not this time", os.WriteFile(file, nil, 0o600))
			os.Exit(1)
		}
	}
	if seconds, err := strconv.Atoi(os.Getenv("RUN")); err == nil {
		time.Sleep(time.Duration(seconds) * time.Second)
	}
	if code, err := strconv.Atoi(os.Getenv("EXIT")); err == nil {
		fmt.Fprintln(os.Stderr, "cannot open the database: no such host")
		os.Exit(code)
	}
	if size, err := strconv.Atoi(os.Getenv("ALLOCATE")); err == nil {
		memory := make([]byte, size<<20)
		for i := 0; i < len(memory); i += 4096 {
			memory[i] = 1
		}
		defer func() { memory[0] = 2 }()
	}
	var draining atomic.Bool
	mux := http.NewServeMux()
	begun := time.Now()
	warm := func() bool {
		unready := os.Getenv("UNREADY")
		seconds, err := strconv.Atoi(unready)
		return unready == "" || err == nil && time.Since(begun) > time.Duration(seconds)*time.Second
	}
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) {
		if os.Getenv("SICK") != "" {
			http.Error(w, "sick", http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !warm() || draining.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getenv("VERSION")) })
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: time.Minute}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		<-ctx.Done()
		draining.Store(true)
		time.Sleep(time.Second) // so that nobody is sent here any more
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
