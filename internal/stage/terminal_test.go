//go:build linux

package stage_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// terminal opens a terminal, and returns what a person would type at and what they would see so far.
func terminal(t *testing.T, columns uint16) (*os.File, func() string) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	var mu sync.Mutex
	var seen strings.Builder
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := person.Read(buf)
			mu.Lock()
			seen.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = program.Close(); _ = person.Close() })
	return program, func() string { mu.Lock(); defer mu.Unlock(); return seen.String() }
}

// screen is what is left on a terminal whose program only ends lines, and erases the last one.
func screen(seen string) []string {
	var lines []string
	for _, line := range strings.Split(strings.ReplaceAll(seen, "\r\n", "\n"), "\n") {
		if i := strings.LastIndex(line, "\r\x1b[2K"); i >= 0 {
			line = line[i+len("\r\x1b[2K"):]
		}
		lines = append(lines, line)
	}
	return lines
}

func TestLiveLine(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	out, seen := terminal(t, 40)
	p := stage.New(stage.Options{Out: out, Targets: []string{"build"}})
	live := regexp.MustCompile(`\x1b\[2K[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] a stage with a name that is longer `)
	require.NoError(t, p.Run(t.Context(), "build", func(ctx context.Context) error {
		return p.Run(ctx, "a stage with a name that is longer than any line", func(ctx context.Context) error {
			require.Eventually(t, func() bool { return live.MatchString(seen()) }, time.Minute, 10*time.Millisecond, "what runs is shown")
			_, _ = io.WriteString(process.Output(ctx), "one line\nhalf a line")
			time.Sleep(250 * time.Millisecond)
			_, _ = io.WriteString(process.Output(ctx), " and its end\n")
			return nil
		})
	}))
	require.Eventually(t, func() bool { return strings.Contains(seen(), "total") }, time.Minute, 10*time.Millisecond)
	all := seen()
	for _, line := range strings.Split(all, "\x1b[2K") {
		live, _, _ := strings.Cut(line, "\r")
		if strings.ContainsAny(live, "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏") {
			assert.Less(t, len([]rune(live)), 40, "a live line that wraps cannot be erased")
		}
	}
	left := strings.Join(screen(all), "\n")
	assert.NotRegexp(t, `[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]`, left, "it is gone at the end")
	assert.Contains(t, left, "\none line\nhalf a line and its end\n", "what children print is left alone")
	assert.Contains(t, left, "\x1b[", "there is colour")
}

func TestLiveLineSaysWhatAStageIsAt(t *testing.T) {
	t.Setenv("TERM", "xterm")
	out, seen := terminal(t, 80)
	p := stage.New(stage.Options{Out: out, Targets: []string{"image"}, Environ: []string{"NPM_TOKEN=t0ps3cret"}})
	require.NoError(t, p.Run(t.Context(), "image", func(ctx context.Context) error {
		stage.Doing(ctx, "Step 3/7 : RUN\n\x1b[2Jgo build t0ps3cret")
		require.Eventually(t, func() bool { return strings.Contains(seen(), "Step 3/7") }, time.Minute, 10*time.Millisecond)
		return nil
	}))
	require.Eventually(t, func() bool { return strings.Contains(seen(), "done") }, time.Minute, 10*time.Millisecond)
	assert.Regexp(t, `\x1b\[2K[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] image \d+s Step 3/7 : RUN \[2Jgo build \*\*\*`, seen())
	assert.NotContains(t, seen(), "t0ps3cret")
	stage.Doing(context.Background(), "nothing, outside a stage")
}
