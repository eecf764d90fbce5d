package process

import (
	"context"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// silence is how long the output of a command that has ended is waited for where nothing comes: a process that it has left
// behind on purpose may keep it open for ever.
const silence = 4 * time.Second

// pipe brings what a command writes to a writer. The one of package exec counts the time in which the writer takes nothing, as
// a pager that is not looked at, for silence, and loses the rest.
type pipe struct {
	read, write *os.File
	to          io.Writer
	reading     atomic.Int64 // since when it waits for output, in Unix nanoseconds; zero while it writes
	done        chan error
}

// connect puts pipes where cmd would write to something else than a file. One that it writes both streams to gets both by one
// pipe, in their order.
func connect(cmd *exec.Cmd) ([]*pipe, error) {
	both := cmd.Stdout != nil && sameWriter(cmd.Stdout, cmd.Stderr)
	var pipes []*pipe
	for _, stream := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		if _, file := (*stream).(*os.File); file || *stream == nil {
			continue
		}
		if both && len(pipes) == 1 {
			*stream = pipes[0].write
			continue
		}
		read, write, err := os.Pipe()
		if err != nil {
			for _, p := range pipes {
				p.started(false)
			}
			return nil, err
		}
		p := &pipe{read: read, write: write, to: *stream, done: make(chan error, 1)}
		*stream = write
		pipes = append(pipes, p)
	}
	return pipes, nil
}

func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }() // of types that cannot be compared
	return a == b
}

// started begins to copy, where the command has started.
func (p *pipe) started(ok bool) {
	_ = p.write.Close()
	if !ok {
		_ = p.read.Close()
		return
	}
	p.reading.Store(time.Now().UnixNano())
	go func() {
		defer p.read.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := p.read.Read(buf)
			p.reading.Store(0)
			if n > 0 {
				if _, werr := p.to.Write(buf[:n]); werr != nil {
					p.done <- werr
					return
				}
			}
			if err != nil {
				p.done <- nil
				return
			}
			p.reading.Store(time.Now().UnixNano())
		}
	}()
}

// finish waits for the rest of the output of a command that has ended: as long as the writer takes, and silence where nothing
// comes. When ctx has ended it waits a second at most.
func (p *pipe) finish(ctx context.Context) error {
	end := time.Now()
	poll := time.NewTicker(groupPoll)
	defer poll.Stop()
	for {
		select {
		case err := <-p.done:
			return err
		case <-poll.C:
		}
		since := p.reading.Load()
		quiet := since != 0 && time.Since(time.Unix(0, max(since, end.UnixNano()))) > silence
		if quiet && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Msg("a process that was left behind keeps the output open; what it writes from now on is lost")
		}
		if quiet || ctx.Err() != nil && time.Since(end) > time.Second {
			_ = p.read.Close()
			return nil
		}
	}
}
