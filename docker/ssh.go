package docker

import (
	"bufio"
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
		return &programConn{Conn: conn, in: bufio.NewReader(conn)}, nil
	}
}

// programConn is a connection through a program. The helper's own tells what the program said at its end to the first who reads, but to
// nobody who writes.
type programConn struct {
	net.Conn
	reading sync.Mutex // for the rest
	in      *bufio.Reader
	end     error // of the first read that failed
}

func (c *programConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	n, err := c.in.Read(p)
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
	c.reading.Lock()
	defer c.reading.Unlock()
	_, end := c.in.Peek(1) // the program has ended, so this does not wait, and what it has still answered stays for the reader
	c.end = cmp.Or(c.end, end)
	return n, cmp.Or(c.end, err)
}
