// Command app is a service that behaves as well or as badly as its environment says:
//
//	VERSION       what GET / answers
//	PORT          listen there; default 8080
//	EXIT          exit with this code at once
//	EXIT_ONCE     exit with code 1, unless this file is there, which it makes
//	UNREADY       GET /ready answers 503, for ever or for as many seconds
//	SICK          GET /live answers 500
//	RUN           exit with EXIT after this many seconds
//	LOAD          ask this URL all the time, each time by a new connection, and tell of it by GET /load: how often, how often in
//	              vain, and why at last
//	DRAIN         take this many milliseconds after SIGTERM until no connection is taken any more; default 1000
//	ALLOCATE      take this many MiB of memory at once
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
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
	if url := os.Getenv("LOAD"); url != "" {
		load := &load{url: url}
		for range 4 {
			go load.run()
		}
		mux.Handle("GET /load", load)
	}
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !warm() || draining.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getenv("VERSION")) })
	server := &http.Server{Addr: ":" + cmp.Or(os.Getenv("PORT"), "8080"), Handler: mux, ReadHeaderTimeout: time.Minute}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		<-ctx.Done()
		draining.Store(true)
		time.Sleep(drain()) // so that nobody is sent here any more
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func drain() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("DRAIN")); err == nil {
		return time.Duration(n) * time.Millisecond
	}
	return time.Second
}

// load asks a URL all the time.
type load struct {
	url string

	mu            sync.Mutex
	Asked, Failed int
	Last          string
}

func (l *load) run() {
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		err := ask(client, l.url)
		l.mu.Lock()
		l.Asked++
		if err != nil {
			l.Failed++
			l.Last = err.Error()
		}
		l.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

func ask(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// ServeHTTP tells how it went.
func (l *load) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = json.NewEncoder(w).Encode(l)
}
