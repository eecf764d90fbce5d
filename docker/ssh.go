package docker

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// dialer opens connections to an engine.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// throughProgram has the connections of a dialer that runs a program tell what the program said when it ended.
func throughProgram(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &programConn{Conn: conn}, nil
	}
}

// programConn is a connection through a program. The helper's own tells what the program said at its end to the first who reads, but to
// nobody who writes.
type programConn struct {
	net.Conn
	reading sync.Mutex
	end     error // of the first read that failed
}

func (c *programConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	n, err := c.Conn.Read(p)
	if err == nil {
		return n, nil
	}
	c.end = cmp.Or(c.end, err)
	return n, c.end
}

func (c *programConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, os.ErrClosed) {
		return n, err
	}
	// The program has ended, so this does not wait.
	c.Read(make([]byte, 1))
	c.reading.Lock()
	defer c.reading.Unlock()
	return n, cmp.Or(c.end, err)
}
