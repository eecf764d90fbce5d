package docker

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// testProcess has this test binary be another program for a test.
const testProcess = "GRIMOIRE_TEST_PROCESS"

func TestMain(m *testing.M) {
	var err error
	switch what, argument, _ := strings.Cut(os.Getenv(testProcess), " "); what {
	case "":
		os.Exit(m.Run())
	case "dial":
		err = dialStdio(argument)
	case "memory":
		err = memoryOf(argument)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// dialStdio makes standard input and output one end of a connection, as `docker system dial-stdio` does.
func dialStdio(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}
