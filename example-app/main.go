// Command example-app is the service that Grimoire's demo builds and deploys: small, but complete in what a platform asks of
// a service. It says when it is ready, and it loses no request when it is stopped.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// version is the image's tag; the build sets it with -ldflags "-X main.version=…". It has to stay a variable: on a constant
// the linker's flag does nothing and says nothing.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	// The first signal drains; from then on a second one ends the process at once, as people at a terminal expect.
	context.AfterFunc(ctx, stop)
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(ctx, log, os.Getenv, net.Listen); err != nil {
		log.Error("failed", "error", err.Error())
		os.Exit(1)
	}
}

// run serves with the settings that getenv knows until ctx ends, and then drains. The settings are PORT and DRAIN_DELAY.
func run(
	ctx context.Context,
	log *slog.Logger,
	getenv func(name string) string,
	listen func(network, address string) (net.Listener, error),
) error {
	port, err := parsePort(getenv("PORT"))
	if err != nil {
		return err
	}
	delay, err := parseDelay(getenv("DRAIN_DELAY"))
	if err != nil {
		return err
	}
	listener, err := listen("tcp", ":"+port)
	if err != nil {
		return fmt.Errorf("listening on port %s: %w; end what uses it, or set PORT to another", port, err)
	}
	return newServer(log, delay).serve(ctx, listener)
}

// parsePort returns the port that text names, 8080 where it is empty.
func parsePort(text string) (string, error) {
	if text == "" {
		return "8080", nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", fmt.Errorf("reading PORT=%q: not a port; set it to a number from 1 to 65535", text)
	}
	return strconv.FormatUint(port, 10), nil
}

// parseDelay returns the length of time that text names, 5 s where it is empty.
func parseDelay(text string) (time.Duration, error) {
	if text == "" {
		return 5 * time.Second, nil
	}
	delay, err := time.ParseDuration(text)
	if err != nil || delay < 0 {
		return 0, fmt.Errorf("reading DRAIN_DELAY=%q: not a length of time; set it to one like 5s, or to 0s for none", text)
	}
	return delay, nil
}
