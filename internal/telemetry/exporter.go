package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"

	"github.com/grimoire-build/grimoire/internal/telemetry/otlp"
)

// How long the end of a run waits for what is still to be sent.
const (
	// whileAnswering is for a collector that takes what it gets: the exporter gives up before that.
	whileAnswering = 5 * time.Second
	// whileFailing is for one that did so and no longer does.
	whileFailing = time.Second
	// unanswered is for one that has not answered at all: at least this, or the share of the run below.
	unanswered = 20 * time.Millisecond
	share      = 200
)

// exporter is the program that sends, seen from the run.
type exporter struct {
	build   func(context.Context) (string, error)
	environ []string
	lines   *queue
	start   time.Time

	done    chan struct{} // closed when the program has ended
	changed chan struct{} // tells of a change of what follows

	mu      sync.Mutex
	told    otlp.Told
	problem string // of the program itself
}

// run builds and runs the program, until there are no more lines or ctx ends.
func (e *exporter) run(ctx context.Context) {
	defer close(e.done)
	err := e.export(ctx)
	e.lines.close(true)
	if err != nil {
		e.mu.Lock()
		e.problem = err.Error()
		e.mu.Unlock()
	}
}

func (e *exporter) export(ctx context.Context) error {
	exe, err := e.build(ctx)
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	cmd.Env = e.environ
	ownGroup(cmd)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the exporter of traces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { killGroup(cmd.Process) })
	defer stop()
	go func() {
		defer stdin.Close()
		for line, ok := e.lines.take(); ok; line, ok = e.lines.take() {
			if _, err := stdin.Write(line); err != nil {
				return
			}
		}
	}()
	e.listen(stdout)
	e.lines.close(true)
	err = cmd.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil && ctx.Err() == nil && e.told.Problem == "" {
		return fmt.Errorf("the exporter of traces ended: %w", err)
	}
	return nil
}

// listen takes in what the program tells, until it ends.
func (e *exporter) listen(stdout io.Reader) {
	for decoder := json.NewDecoder(stdout); ; {
		var told otlp.Told
		if decoder.Decode(&told) != nil {
			return
		}
		e.mu.Lock()
		e.told = told
		e.mu.Unlock()
		select {
		case e.changed <- struct{}{}:
		default:
		}
	}
}

// end waits for the program to send what it has, as long as the collector deserves, and ends it then.
func (e *exporter) end(cancel context.CancelFunc) {
	begin := time.Now()
	e.lines.close(false)
	for {
		left := e.patience(begin.Sub(e.start)) - time.Since(begin)
		if left <= 0 {
			break
		}
		timer := time.NewTimer(left)
		select {
		case <-e.done:
		case <-e.changed:
		case <-timer.C:
		}
		timer.Stop()
		select {
		case <-e.done:
			cancel()
			return
		default:
		}
	}
	cancel()
	<-e.done
}

func (e *exporter) patience(run time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.told.Answered && e.told.Problem == "":
		return whileAnswering
	case e.told.Answered:
		return whileFailing
	}
	return max(unanswered, run/share)
}
