// Command collector is the OTLP receiver of the OpenTelemetry Collector, for tests: what it receives is written to stdout, a
// line of JSON for each request. It is a module of its own, so that nothing of it reaches those who use Grimoire.
//
//	collector ADDRESS [CERTIFICATE KEY]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

func main() {
	if len(os.Args) != 2 && len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: collector ADDRESS [CERTIFICATE KEY]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, address string, certificate []string) error {
	http := map[string]any{"endpoint": address, "include_metadata": true}
	if len(certificate) > 0 {
		http["tls"] = map[string]any{"cert_file": certificate[0], "key_file": certificate[1]}
	}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	settings := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"http": http}})
	if err := settings.Unmarshal(config); err != nil {
		return err
	}
	set := receiver.Settings{
		ID:                component.NewID(factory.Type()),
		TelemetrySettings: componenttest.NewNopTelemetrySettings(),
	}
	traces, err := consumer.NewTraces(func(ctx context.Context, td ptrace.Traces) error {
		data, err := (&ptrace.JSONMarshaler{}).MarshalTraces(td)
		return write(ctx, data, err)
	})
	if err != nil {
		return err
	}
	metrics, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		data, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(md)
		return write(ctx, data, err)
	})
	if err != nil {
		return err
	}
	forTraces, err := factory.CreateTraces(ctx, set, config, traces)
	if err != nil {
		return err
	}
	forMetrics, err := factory.CreateMetrics(ctx, set, config, metrics)
	if err != nil {
		return err
	}
	// Both are the same receiver, which starts and ends once.
	for _, r := range []component.Component{forTraces, forMetrics} {
		if err := r.Start(ctx, componenttest.NewNopHost()); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	<-ctx.Done()
	return forTraces.Shutdown(context.Background())
}

var stdout sync.Mutex

// write writes what a request held, and the headers that tests look at.
func write(ctx context.Context, data []byte, err error) error {
	if err != nil {
		return err
	}
	headers := map[string][]string{}
	metadata := client.FromContext(ctx).Metadata
	for key := range metadata.Keys() {
		headers[key] = metadata.Get(key)
	}
	stdout.Lock()
	defer stdout.Unlock()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"headers": headers, "data": json.RawMessage(data)})
}
