//go:build unix

package parent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// role has this program be one of the processes of the tests.
const role = "PARENT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "magefile":
		select {
		case <-Gone(context.Background()):
			fmt.Println("gone")
		case <-time.After(2 * time.Second):
			fmt.Println("there")
		}
	case "mage": // and what it starts begins when the file is there
		cmd := exec.Command("sh", "-c", `until [ -e "$1" ]; do sleep 0.02; done; exec "$2"`, "sh", os.Args[1], os.Args[0])
		cmd.Env = append(os.Environ(), role+"=magefile")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: os.Getenv("OWN_GROUP") != ""}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Println("started")
		_ = cmd.Wait()
	default:
		os.Exit(m.Run())
	}
}

func TestGone(t *testing.T) {
	for _, tt := range []struct {
		name    string
		environ string
		killed  bool
		want    string
	}{
		{"killed before the magefile begins", byMage + "=go", true, "gone"},
		{"alive", byMage + "=go", false, "there"},
		{"alive, and the magefile in a group of its own", byMage + "=go OWN_GROUP=yes", false, "there"},
		{"adopted, and not by mage's doing", byMage + "=", true, "there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			begin := filepath.Join(t.TempDir(), "begin")
			mage := exec.Command(os.Args[0], begin)
			mage.Env = append(append(os.Environ(), role+"=mage"), strings.Fields(tt.environ)...)
			mage.Stderr = os.Stderr
			mage.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // so that nobody outside can be taken for mage
			stdout, err := mage.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, mage.Start())
			lines := bufio.NewScanner(stdout)
			require.True(t, lines.Scan())
			if tt.killed {
				require.NoError(t, mage.Process.Kill())
				_, err := mage.Process.Wait()
				require.NoError(t, err)
			}
			require.NoError(t, os.WriteFile(begin, nil, 0o600))
			require.True(t, lines.Scan())
			assert.Equal(t, tt.want, lines.Text())
			if !tt.killed {
				require.NoError(t, mage.Wait())
			}
		})
	}
}
