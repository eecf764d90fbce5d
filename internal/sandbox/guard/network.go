//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/grimoire-build/grimoire/internal/sandbox"
)

// network brings up the loopback of the network that process has, and serves the mirror on it.
func network(process int, c sandbox.Config) error {
	var listener net.Listener
	err := inNetworkOf(process, func() (err error) {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("bringing the loopback interface up: %w", err)
		}
		if c.Mirror > 0 {
			listener, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Mirror)))
		}
		return err
	})
	if err != nil || listener == nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(mirror), ReadHeaderTimeout: time.Minute}
	go func() { log.Println("the mirror has ended:", server.Serve(listener)) }()
	return nil
}

// inNetworkOf calls f where what it opens belongs to the network of the process.
func inNetworkOf(process int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and its network with it
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", process))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering the sandbox's network: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}

// mirror answers for registries on this machine's loopback, which the sandbox's own loopback does not lead to.
func mirror(w http.ResponseWriter, r *http.Request) {
	registry := r.URL.Query().Get("ns")
	host, port, err := net.SplitHostPort(registry)
	if ip := net.ParseIP(host); err != nil || port == "" || host != "localhost" && !ip.IsLoopback() {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": "NAME_UNKNOWN",
			"message": fmt.Sprintf("images come from registries on this machine's loopback alone, not from %q; push it to one", registry)}}})
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", registry, registry
			query := p.Out.URL.Query()
			query.Del("ns")
			p.Out.URL.RawQuery = query.Encode()
		},
	}
	proxy.ServeHTTP(w, r)
}

// forward leads what listener accepts to a port on this network's loopback.
func forward(listener net.Listener, port int) {
	target := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for {
		outer, err := listener.Accept()
		if err != nil {
			log.Println("the forwarding has ended:", err)
			return
		}
		go func() {
			defer outer.Close()
			inner, err := net.Dial("tcp", target)
			if err != nil {
				return // as a refused connection to somebody outside
			}
			defer inner.Close()
			back := make(chan struct{})
			go func() {
				defer close(back)
				_, _ = io.Copy(outer, inner)
				_ = outer.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(inner, outer)
			_ = inner.(*net.TCPConn).CloseWrite()
			<-back
		}()
	}
}
