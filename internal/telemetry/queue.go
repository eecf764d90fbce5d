package telemetry

import "sync"

// room is how much of what is to be sent is kept until the exporter takes it, in bytes.
const room = 8 << 20

// queue holds lines for the exporter. Whoever puts one in never waits.
type queue struct {
	mu     sync.Mutex
	more   *sync.Cond
	lines  [][]byte
	size   int
	closed bool
}

func newQueue() *queue {
	q := &queue{}
	q.more = sync.NewCond(&q.mu)
	return q
}

// put adds a line, where there is room or it must be; a closed queue takes none.
func (q *queue) put(line []byte, must bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.size+len(line) > room && !must {
		return
	}
	q.lines = append(q.lines, line)
	q.size += len(line)
	q.more.Signal()
}

// take waits for a line; there is none when the queue is closed and empty.
func (q *queue) take() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) == 0 && !q.closed {
		q.more.Wait()
	}
	if len(q.lines) == 0 {
		return nil, false
	}
	line := q.lines[0]
	q.lines = q.lines[1:]
	q.size -= len(line)
	return line, true
}

// close says that nothing more is to come; drop forgets what is left.
func (q *queue) close(drop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if drop {
		q.lines, q.size = nil, 0
	}
	q.more.Broadcast()
}
