package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The pauses between attempts, where the collector does not say how long to wait.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 5 * time.Second
)

// patience is how long a request is repeated for; what comes after it waits meanwhile.
const patience = 30 * time.Second

// transient is a failure that may pass.
type transient struct {
	error
	after time.Duration // what the collector asks to wait
}

// send sends a message until it is accepted, in vain, or ctx ends; failed is told of every failure in between. It returns how
// much of it the collector refused, and the reason.
func (s *signal) send(ctx context.Context, message any, failed func(error)) (refused int, why string, err error) {
	body, err := s.body(message)
	if err != nil {
		return 0, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pause := firstPause
	for {
		refused, why, latest := s.attempt(ctx, body)
		var passing *transient
		if !errors.As(latest, &passing) {
			return refused, why, latest
		}
		if err == nil || ctx.Err() == nil {
			err = latest // what was broken off says nothing new
		}
		failed(err)
		wait := passing.after
		if wait == 0 {
			wait = pause/2 + rand.N(pause/2)
			pause = min(2*pause, lastPause)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return 0, "", err
		}
	}
}

func (s *signal) body(message any) ([]byte, error) {
	data := []byte(nil)
	if s.json {
		var err error
		if data, err = json.Marshal(message); err != nil {
			return nil, err
		}
	} else {
		data = protobuf(message)
	}
	if !s.gzip {
		return data, nil
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// attempt sends a request once. Which answers may pass is the protocol's to say.
// Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
func (s *signal) attempt(ctx context.Context, body []byte) (refused int, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header = s.headers.Clone()
	req.Header.Set("Content-Type", "application/x-protobuf")
	if s.json {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "grimoire")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var inURL *url.Error
		if errors.As(err, &inURL) { // the URL may have a login
			err = inURL.Err
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = errors.New("it does not answer")
		}
		return 0, "", &transient{error: err}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 502 && resp.StatusCode <= 504:
		return 0, "", &transient{errors.New("it answered " + resp.Status), retryAfter(resp.Header.Get("Retry-After"))}
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return 0, "", errors.New("it answered " + resp.Status)
	case err != nil:
		return 0, "", &transient{error: fmt.Errorf("reading its answer: %w", err)}
	case !s.json:
		refused, why = partialSuccess(answer)
		return refused, why, nil
	}
	var partial struct {
		PartialSuccess struct {
			RejectedSpans      json.Number `json:"rejectedSpans"`
			RejectedDataPoints json.Number `json:"rejectedDataPoints"`
			ErrorMessage       string      `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &partial) != nil {
		return 0, "", nil // it was accepted, whatever it says of it
	}
	spans, _ := partial.PartialSuccess.RejectedSpans.Int64()
	points, _ := partial.PartialSuccess.RejectedDataPoints.Int64()
	return int(max(spans, 0) + max(points, 0)), partial.PartialSuccess.ErrorMessage, nil
}

// retryAfter reads the header: seconds, or a date.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
