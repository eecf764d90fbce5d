package gotest

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"
)

var (
	record = flag.Bool("record", false, "record the streams of testdata anew")
	update = flag.Bool("update", false, "take what is made of the streams of testdata for what is wanted")
)

// Each archive in testdata holds a module, the stream that go test wrote of it, and what is to be made of that. Its comment is
// the arguments of go test.
func TestGolden(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, archives)
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			require.NoError(t, err)
			dir := t.TempDir()
			writeFiles(t, dir, archive)
			if *record {
				recordStream(t, dir, archive)
			}
			var exit error
			if code := content(archive, "exit"); code != "" {
				exit = errors.New("exit status " + strings.TrimSpace(code))
			}
			s, err := newSource(t.Context(), Options{Dir: dir, Root: dir})
			require.NoError(t, err)

			var printed bytes.Buffer
			r := newReader(&printed, s)
			_, err = r.Write([]byte(content(archive, "stream")))
			require.NoError(t, err)
			run := r.close(exit)
			report, err := xml.MarshalIndent(run.junit(time.Unix(0, 0), time.Second), "", "  ")
			require.NoError(t, err)
			require.NoError(t, xml.Unmarshal(report, new(testsuites)))
			failure := ""
			if exit != nil {
				failure = (&FailedError{Failures: run.result().Failures, Err: exit}).Error() + "\n"
			}

			for _, made := range []txtar.File{
				{Name: "want/printed", Data: printed.Bytes()},
				{Name: "want/junit.xml", Data: report},
				{Name: "want/error", Data: []byte(failure)},
			} {
				if *update {
					set(archive, made.Name, string(made.Data))
				}
				assert.Equal(t, content(archive, made.Name), withNewline(string(made.Data)), made.Name)
			}
			if *record || *update {
				require.NoError(t, os.WriteFile(path, txtar.Format(archive), 0o644))
			}
		})
	}
}

func writeFiles(t *testing.T, dir string, archive *txtar.Archive) {
	t.Helper()
	for _, f := range archive.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, f.Data, 0o644))
	}
}

// recordStream runs go test, and takes out of the stream what is of this machine and moment.
func recordStream(t *testing.T, dir string, archive *txtar.Archive) {
	t.Helper()
	args := strings.Fields(string(archive.Comment))
	require.Equal(t, []string{"go", "test", "-json"}, args[:3])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	stream, err := cmd.Output()
	var exit *exec.ExitError
	set(archive, "exit", "")
	if errors.As(err, &exit) {
		set(archive, "exit", "1\n")
	} else {
		require.NoError(t, err)
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	for _, replace := range []struct{ pattern, with string }{
		{`"Time":"[^"]*",`, ""},
		{regexp.QuoteMeta(dir), "/m"},
		{regexp.QuoteMeta(strings.TrimSpace(string(goroot))), "/go"},
		{`0x[0-9a-f]+`, "0x1"},
	} {
		stream = regexp.MustCompile(replace.pattern).ReplaceAll(stream, []byte(replace.with))
	}
	set(archive, "stream", string(stream))
}

func content(archive *txtar.Archive, name string) string {
	for _, f := range archive.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func set(archive *txtar.Archive, name, data string) {
	for i := range archive.Files {
		if archive.Files[i].Name == name {
			archive.Files[i].Data = []byte(withNewline(data))
			return
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(withNewline(data))})
}

// withNewline is data as an archive can hold it.
func withNewline(data string) string {
	if data != "" && !strings.HasSuffix(data, "\n") {
		data += "\n"
	}
	return data
}
