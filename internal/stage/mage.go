package stage

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/process"
)

// Mage does not tell which target waits for which. What it does is written in the stacks of its goroutines: mg.runDeps
// starts one for each dependency and waits for all of them; each runs its target in a sync.Once, or waits in it for
// another goroutine which does.
const (
	mageDeps = "github.com/magefile/mage/mg.runDeps"
	mageOnce = "github.com/magefile/mage/mg.(*onceFun).run"
	mageRuns = "(*onceFun).run." // its function literal, which the sync.Once calls; the rest of the name is the compiler's
	syncOnce = "sync.(*Once).doSlow"
)

// goroutine is what its stack tells.
type goroutine struct {
	id      int
	creator int    // who started it
	inDeps  bool   // it waits for what mg.runDeps has started
	byDeps  bool   // mg.runDeps started it
	once    string // the address of the mg.onceFun that it is in, or of that one's sync.Once
	inOnce  bool   // it runs that, or
	blocked bool   // waits for who does
	target  string // the function that it runs as a dependency
}

// goroutines reads the stacks of all goroutines.
func goroutines() map[int]goroutine {
	buf := make([]byte, 256<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) || n >= 64<<20 {
			return parseStacks(string(buf[:n]))
		}
		buf = make([]byte, 2*len(buf))
	}
}

// parseStacks reads what runtime.Stack writes: for each goroutine a line "goroutine 7 [state]:", then the innermost call first
// a line "package.function(arguments)" and a line with its position, at the end "created by package.function in goroutine 3".
func parseStacks(text string) map[int]goroutine {
	all := map[int]goroutine{}
	for stack := range strings.SplitSeq(text, "\n\n") {
		header, calls, _ := strings.Cut(stack, "\n")
		id, ok := strings.CutPrefix(header, "goroutine ")
		if !ok {
			continue
		}
		id, state, _ := strings.Cut(id, " ")
		g := goroutine{}
		g.id, _ = strconv.Atoi(id)
		waits := strings.HasPrefix(state, "[sync.") || strings.HasPrefix(state, "[semacquire")
		outer := ""   // the outermost call so far that can be a target
		runs := false // below that call, it runs a target
		for line := range strings.Lines(calls) {
			line = strings.TrimRight(line, "\n")
			if creation, ok := strings.CutPrefix(line, "created by "); ok {
				by, creator, _ := strings.Cut(creation, " in goroutine ")
				g.byDeps = strings.HasPrefix(by, mageDeps)
				g.creator, _ = strconv.Atoi(creator)
				continue
			}
			name, args, ok := cutCall(line)
			switch {
			case !ok:
			case name == mageDeps && waits && !g.inOnce:
				g.inDeps = true
			case strings.Contains(name, mageRuns):
				runs = true
			case name == syncOnce || name == mageOnce:
				// What the compiler inlines shows no arguments; one with a question mark may be a stale register.
				if first, _, _ := strings.Cut(args, ","); g.once == "" && strings.HasPrefix(first, "0x") && !strings.HasSuffix(first, "?") {
					g.once = first
				}
				if name == mageOnce && !g.inOnce {
					g.inOnce, g.blocked, g.target = true, waits && !runs, outer
				}
			case isTarget(name):
				outer = name
			}
		}
		all[g.id] = g
	}
	return all
}

// cutCall splits the line of a call into the function and its arguments.
func cutCall(line string) (name, args string, ok bool) {
	if strings.HasPrefix(line, "\t") || !strings.HasSuffix(line, ")") {
		return "", "", false
	}
	i := strings.LastIndexByte(line, '(')
	// Arguments may hold parentheses of their own only in the form of {...}.
	if i <= 0 {
		return "", "", false
	}
	return line[:i], line[i+1 : len(line)-1], true
}

// isTarget reports whether a function can be a target: none of mage's own, of reflect's, by which mage calls, of sync's, and
// of the runtime.
func isTarget(name string) bool {
	for _, prefix := range []string{"github.com/magefile/mage/mg.", "reflect.", "sync.", "runtime.", "internal/", "panic"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

// mageCycle returns the targets of which each waits for the next, and the last for the first; nil where nobody waits in a
// circle.
func mageCycle(all map[int]goroutine) []string {
	runs := map[string]int{} // who runs a sync.Once
	for id, g := range all {
		if g.inOnce && g.once != "" && !g.blocked {
			runs[g.once] = id
		}
	}
	next := func(id int) []int {
		g := all[id]
		if g.blocked {
			if other, ok := runs[g.once]; ok {
				return []int{other}
			}
			return nil
		}
		var started []int
		if g.inDeps {
			for _, other := range all {
				if other.byDeps && other.creator == id {
					started = append(started, other.id)
				}
			}
		}
		return started
	}
	done := map[int]bool{}
	var path []int
	var visit func(id int) []int
	visit = func(id int) []int {
		if i := slices.Index(path, id); i >= 0 {
			return slices.Clone(path[i:])
		}
		if done[id] {
			return nil
		}
		done[id] = true
		path = append(path, id)
		defer func() { path = path[:len(path)-1] }()
		for _, other := range next(id) {
			if cycle := visit(other); cycle != nil {
				return cycle
			}
		}
		return nil
	}
	for id := range all {
		if cycle := visit(id); cycle != nil {
			var names []string
			for _, id := range cycle {
				if target := all[id].target; target != "" {
					names = append(names, shortTarget(target))
				}
			}
			return names
		}
	}
	return nil
}

// shortTarget is a target's name as its users know it.
func shortTarget(function string) string {
	name := function[strings.LastIndexByte(function, '/')+1:]
	return strings.TrimPrefix(name, "main.")
}

// goroutineID returns the number of the calling goroutine.
func goroutineID() int {
	var buf [64]byte
	header := buf[:runtime.Stack(buf[:], false)]
	id, _, _ := bytes.Cut(bytes.TrimPrefix(header, []byte("goroutine ")), []byte(" "))
	n, _ := strconv.Atoi(string(id))
	return n
}

// WatchCycles ends the process, with an error that names them, when targets wait for each other in a circle: mage would
// hang. It looks once a second, for as long as the process lives.
func WatchCycles() {
	go func() {
		var last []string
		for range time.Tick(time.Second) {
			cycle := mageCycle(goroutines())
			if cycle == nil || !slices.Equal(sorted(cycle), last) { // one that lasts
				last = sorted(cycle)
				continue
			}
			Default().refuse(cyclic(cycle))
		}
	}()
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }

// refuse ends the process with err, after the children of all stages.
func (p *Pipeline) refuse(err error) {
	p.stop(&Stopped{Why: err.Error(), Code: 1})
	for end := time.Now().Add(process.Grace); p.working() && time.Now().Before(end); {
		time.Sleep(look)
	}
	p.kill(0)
	p.printer.text(fmt.Sprintf("Error: %v\n", err))
	os.Exit(1)
}

// working reports whether a stage does more than to wait for others.
func (p *Pipeline) working() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lookForWaiting()
	return p.running > 0
}
