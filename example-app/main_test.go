package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParsePort(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"default", "", "8080"},
		{"lowest", "1", "1"},
		{"highest", "65535", "65535"},
		{"leading zero", "080", "80"},
		{"zero", "0", ""},
		{"too large", "65536", ""},
		{"negative", "-1", ""},
		{"signed", "+80", ""},
		{"a name", "http", ""},
		{"an address", "127.0.0.1:80", ""},
		{"a space", " 80", ""},
		{"a line break", "80\n", ""},
		{"a URL", "tcp://10.96.0.1:80", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parsePort(tt.text)
			if got != tt.want {
				t.Errorf("port %q, want %q", got, tt.want)
			}
			checkRefusal(t, err, tt.want == "", fmt.Sprintf("reading PORT=%q: ", tt.text))
		})
	}
}

func TestParseDelay(t *testing.T) {
	const refused = -1
	tests := []struct {
		name, text string
		want       time.Duration
	}{
		{"default", "", 5 * time.Second},
		{"none", "0s", 0},
		{"zero without a unit", "0", 0},
		{"some", "1m30s", 90 * time.Second},
		{"no unit", "5", refused},
		{"negative", "-1s", refused},
		{"too large", "1000000000h", refused},
		{"a word", "soon", refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseDelay(tt.text)
			if tt.want != refused && got != tt.want {
				t.Errorf("delay %s, want %s", got, tt.want)
			}
			checkRefusal(t, err, tt.want == refused, fmt.Sprintf("reading DRAIN_DELAY=%q: ", tt.text))
		})
	}
}

// checkRefusal checks that err says which setting is wrong and how to mend it.
func checkRefusal(t *testing.T, err error, want bool, prefix string) {
	t.Helper()
	if !want {
		if err != nil {
			t.Errorf("error %v, want none", err)
		}
		return
	}
	if err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), "; set it to ") {
		t.Errorf("error %v, want %s… and how to mend it", err, prefix)
	}
}

func TestRun(t *testing.T) {
	taken := errors.New("address already in use")
	tests := []struct {
		name        string
		env         map[string]string
		listenError error
		wantAddress string // empty when it must not come to listening
		wantError   string
	}{
		{"default port", map[string]string{"DRAIN_DELAY": "0s"}, nil, ":8080", ""},
		{"port", map[string]string{"PORT": "9090", "DRAIN_DELAY": "0s"}, nil, ":9090", ""},
		{"bad port", map[string]string{"PORT": "x"}, nil, "", `reading PORT="x"`},
		{"bad delay", map[string]string{"DRAIN_DELAY": "x"}, nil, "", `reading DRAIN_DELAY="x"`},
		{"port in use", nil, taken, ":8080", "listening on port 8080: address already in use; "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			stop()
			var address string
			err := run(ctx, slog.New(slog.DiscardHandler), func(name string) string { return tt.env[name] },
				func(_, at string) (net.Listener, error) {
					address = at
					if tt.listenError != nil {
						return nil, tt.listenError
					}
					return listen(t), nil
				})
			if address != tt.wantAddress {
				t.Errorf("listened on %q, want %q", address, tt.wantAddress)
			}
			if tt.wantError == "" && err != nil || tt.wantError != "" && (err == nil || !strings.Contains(err.Error(), tt.wantError)) {
				t.Errorf("error %v, want %q", err, tt.wantError)
			}
			if tt.listenError != nil && !errors.Is(err, tt.listenError) {
				t.Errorf("error %v does not wrap its cause", err)
			}
		})
	}
}

// TestProcess stops the real program while a client still sends its request.
func TestProcess(t *testing.T) {
	// The delay has to be longer than one request takes on a busy machine.
	cmd, log, address := startProcess(t, "2s")
	url := "http://" + address
	if status, body := get(t, url+"/"); status != http.StatusOK || body != "Hello from example-app 1.2.3-test" {
		t.Errorf("/ answers %d %s: the version was not stamped", status, body)
	}
	if status, body := get(t, url+"/ready"); status != http.StatusOK {
		t.Errorf("/ready answers %d %s", status, body)
	}

	// The answer to an upload waits for the upload's end, so this request is open for as long as its last byte is missing.
	upload, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer upload.Close()
	if _, err := io.WriteString(upload, "POST /health HTTP/1.1\r\nHost: example\r\nContent-Length: 1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	log.next(t, "draining")
	if status, body := get(t, url+"/ready"); status != http.StatusServiceUnavailable {
		t.Errorf("/ready answers %d %s while draining", status, body)
	}
	untilRefused(t, address)
	if _, err := io.WriteString(upload, "x"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(upload), nil)
	if err != nil {
		t.Fatalf("the request in flight got %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusMethodNotAllowed || !json.Valid(body) {
		t.Errorf("the request in flight got %d %q, %v", response.StatusCode, body, err)
	}
	log.next(t, "stopped")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
}

func TestProcessEndsAtOnceOnASecondSignal(t *testing.T) {
	cmd, log, _ := startProcess(t, "1h")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	log.next(t, "draining")
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	// The process lets go of the signals without a word, and one that comes before that does not count. So the second signal
	// is sent again until it does; not without a pause, which would keep the process from anything else. It is no SIGINT,
	// which a process ignores by default when a shell has started the tests in the background.
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	hung := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	for running := true; running; {
		select {
		case <-again.C:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-ended:
			running = false
		}
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("the process ended with %v, want by the second signal", cmd.ProcessState)
	}
}

func TestProcessRefusesBadPort(t *testing.T) {
	cmd := exec.Command(build(t))
	cmd.Env = append(os.Environ(), "PORT=http")
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the process ended with %v, want exit code 1", err)
	}
	if want := `reading PORT=\"http\": not a port`; !strings.Contains(string(output), want) {
		t.Errorf("log %s, want %s", output, want)
	}
}

// build builds the program as the Dockerfile does.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "example-app")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3-test", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, output)
	}
	return binary
}

// startProcess starts the program on a port that is free and returns when it serves.
func startProcess(t *testing.T, delay string) (cmd *exec.Cmd, log *logReader, address string) {
	t.Helper()
	binary := build(t)
	free := listen(t)
	address = free.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(binary)
	cmd.Env = append(os.Environ(), "PORT="+port, "DRAIN_DELAY="+delay)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	log = &logReader{bufio.NewScanner(stderr)}
	log.next(t, "serving")
	return cmd, log, address
}

// logReader reads the program's log as it comes.
type logReader struct{ lines *bufio.Scanner }

// next reads a line, which has to be JSON and has to be message.
func (l *logReader) next(t *testing.T, message string) {
	t.Helper()
	if !l.lines.Scan() {
		t.Fatalf("the log ended before %q: %v", message, l.lines.Err())
	}
	var record struct{ Level, Msg string }
	if err := json.Unmarshal(l.lines.Bytes(), &record); err != nil {
		t.Fatalf("log line %q is no JSON: %v", l.lines.Text(), err)
	}
	if record.Level != "INFO" || record.Msg != message {
		t.Fatalf("log line %s, want %q", l.lines.Text(), message)
	}
}
