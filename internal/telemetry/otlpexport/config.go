package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// signal is where and how traces or metrics are sent.
type signal struct {
	variable string // that names the collector
	host     string
	url      string
	headers  http.Header
	json     bool
	gzip     bool
	timeout  time.Duration
	client   *http.Client
}

// configured reads the variables for a signal, TRACES or METRICS; nil where it is not sent. A variable of the signal's own
// goes before the one for both.
// Source: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
func configured(name string, getenv func(string) string) (*signal, error) {
	if exporter := getenv("OTEL_" + name + "_EXPORTER"); exporter != "" && exporter != "otlp" {
		return nil, nil
	}
	lookup := func(option string) (variable, value string) {
		for _, variable := range []string{"OTEL_EXPORTER_OTLP_" + name + "_" + option, "OTEL_EXPORTER_OTLP_" + option} {
			if value := strings.TrimSpace(getenv(variable)); value != "" {
				return variable, value
			}
		}
		return "", ""
	}
	variable, endpoint := lookup("ENDPOINT")
	if endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%s is no URL; write it like http://collector.example.org:4318", variable)
	}
	if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" {
		u = u.JoinPath("v1", strings.ToLower(name))
	}
	s := &signal{variable: variable, host: u.Host, url: u.String(), timeout: 10 * time.Second}

	switch variable, protocol := lookup("PROTOCOL"); protocol {
	case "", "http/protobuf":
	case "http/json":
		s.json = true
	default:
		return nil, fmt.Errorf("%s is %q; it can be http/protobuf, http/json, and the endpoint is the collector's for HTTP, mostly port 4318", variable, protocol)
	}
	switch variable, compression := lookup("COMPRESSION"); compression {
	case "", "none":
	case "gzip":
		s.gzip = true
	default:
		return nil, fmt.Errorf("%s is %q; it can be gzip, none", variable, compression)
	}
	if variable, timeout := lookup("TIMEOUT"); timeout != "" {
		ms, err := strconv.ParseUint(timeout, 10, 31)
		if err != nil || ms == 0 {
			return nil, fmt.Errorf("%s is %q; write it in milliseconds, like 10000", variable, timeout)
		}
		s.timeout = time.Duration(ms) * time.Millisecond
	}
	variable, list := lookup("HEADERS")
	if s.headers, err = headers(list); err != nil {
		return nil, fmt.Errorf("reading %s: %w", variable, err)
	}
	trust, err := trust(lookup)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = trust
	s.client = &http.Client{
		Transport: transport,
		// The headers are for this collector alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, nil
}

// headers reads a list like "api-key=abc,other=a%20b". The error tells no value, which may be a secret.
func headers(list string) (http.Header, error) {
	headers := http.Header{}
	for item := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		name, value, ok := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || name == "" || err != nil {
			return nil, errors.New("it is no list of headers; write it like name=value,other=value, with %2C for a comma")
		}
		headers.Set(name, value)
	}
	return headers, nil
}

// trust says which certificates the collector may have, and which one to show it.
func trust(lookup func(string) (variable, value string)) (*tls.Config, error) {
	config := &tls.Config{}
	if variable, file := lookup("CERTIFICATE"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", variable, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading %s: %s holds no certificate; it has to be a PEM file", variable, file)
		}
	}
	variable, certificate := lookup("CLIENT_CERTIFICATE")
	_, key := lookup("CLIENT_KEY")
	if certificate != "" || key != "" {
		if certificate == "" || key == "" {
			return nil, errors.New("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and ..._CLIENT_KEY go together; set both or none")
		}
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", variable, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
