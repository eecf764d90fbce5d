package stage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// patience is how long stages wait for their turn before one of them gets it because those that have it seem to wait for
// something themselves: they run no child process, and mage does not tell who waits for whom.
const patience = time.Second

// wayBack returns the stages on a way along which from waits, in the end, for to; nil where it does not.
func wayBack(from, to *stage) []*stage {
	if to == nil {
		return nil
	}
	seen := map[*stage]bool{}
	var way func(s *stage) []*stage
	way = func(s *stage) []*stage {
		if s == to {
			return []*stage{s}
		}
		if seen[s] {
			return nil
		}
		seen[s] = true
		for next := range s.waitsFor {
			if rest := way(next); rest != nil {
				return append([]*stage{s}, rest...)
			}
		}
		return nil
	}
	return way(from)
}

// cycleError names the stages of a cycle: the last waits for the first.
func cycleError(chain []*stage) error {
	names := make([]string, len(chain))
	for i, s := range chain {
		names[i] = s.record.Name
	}
	return &Error{Stage: names[len(names)-1], Err: cyclic(names)}
}

// cyclic is the error for stages of which each needs the next, and the last the first. It begins with the first by name, so
// that a cycle has one text wherever it was found.
func cyclic(names []string) error {
	first := slices.Index(names, slices.Min(names))
	names = append(slices.Clone(names[first:]), names[:first]...)
	return fmt.Errorf("a dependency cycle: %s → %s; drop one of these dependencies", strings.Join(names, " → "), names[0])
}

// take waits until fewer than the limit of stages run, and lets s be one of them.
func (p *Pipeline) take(ctx context.Context, s *stage) error {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.turns.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.running >= p.limit && ctx.Err() == nil && !p.stalled() {
		p.wait()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.takeTurn(s)
	s.begin, s.goroutine = time.Now(), goroutineID()
	return nil
}

// stalled reports whether the stages that run seem to wait for something themselves.
func (p *Pipeline) stalled() bool {
	if time.Since(p.lastTurn) < p.patience {
		return false
	}
	for _, s := range p.order {
		if s.turn && s.children > 0 {
			return false
		}
	}
	return true
}

// look is how often stages are looked at that may wait in mage's dependency functions, while others wait for a turn.
const look = 20 * time.Millisecond

// wait waits until a turn may have become free. One alarm is for all who wait: many that wake each other leave nobody time to work.
func (p *Pipeline) wait() {
	if !p.looking {
		p.looking = true
		time.AfterFunc(look, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.looking = false
			p.lookForWaiting()
			p.turns.Broadcast()
		})
	}
	p.turns.Wait()
}

// lookForWaiting takes the turn of stages that wait for others where only mage knows, and counts them again when they go on.
func (p *Pipeline) lookForWaiting() {
	all := goroutines()
	for _, s := range p.order {
		if s.ended() {
			continue
		}
		switch waits := all[s.goroutine].inDeps; {
		case waits && s.turn:
			s.hidden = true
			p.giveTurn(s)
		case !waits && s.hidden && len(s.waitsFor) == 0:
			s.hidden = false
			p.takeTurn(s)
		}
	}
}

func (p *Pipeline) takeTurn(s *stage) {
	if !s.turn {
		s.turn = true
		p.running++
		p.lastTurn = time.Now()
	}
}

func (p *Pipeline) giveTurn(s *stage) {
	if s.turn {
		s.turn = false
		p.running--
		p.lastTurn = time.Now()
		p.turns.Broadcast()
	}
}
