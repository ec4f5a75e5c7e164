package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/uptest"
)

// demo builds everything, with extra arguments for `go build`, and plays the
// demo without a terminal, as `make demo` does.
func demo(t *testing.T, buildArgs ...string) (transcript string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // a first build on a new machine takes minutes
	defer cancel()
	bin := t.TempDir()
	if err := uptest.Build(ctx, bin, buildArgs, "./cmd/nscsetup", "./cmd/provisioner", "./cmd/chat", "./examples/demo"); err != nil {
		t.Fatal(err)
	}
	// The demo's own limit is 30 s; the race detector in the tests beside it
	// and two cores for everybody are given room.
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(bin, "demo")) // #nosec G204 -- just built
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 15 * time.Second
	tmp := t.TempDir()
	c.Env = append(os.Environ(), "TMPDIR="+tmp)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		exit = ee.ExitCode()
	case err != nil:
		t.Fatalf("running the demo: %v\n%s", err, &out)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if exit == 0 && len(left) > 0 {
		t.Errorf("the demo left %v", left)
	}
	return out.String(), exit
}

func TestDemoHolds(t *testing.T) {
	out, exit := demo(t)
	t.Log(out)
	if exit != 0 || !strings.Contains(out, "All of it held.") {
		t.Fatalf("exit %d", exit)
	}
}

// TestDemoFails takes away one guard of the product at a time, in the source
// that is compiled and nowhere else, and wants the demo to notice. A demo that
// goes on claiming what no longer holds would be a promise that nobody keeps.
func TestDemoFails(t *testing.T) {
	for _, m := range []struct {
		name     string
		file     string
		old, new string
		wants    string // in the transcript
	}{
		{
			name:  "the issuer's check of the request's signature",
			file:  "pkg/wire/request.go",
			old:   "if err := verify(key.String(), signed(subject.Issue, body), sig); err != nil {",
			new:   "if err := verify(key.String(), signed(subject.Issue, body), sig); err != nil && false {",
			wants: "a forged request gets no credential",
		},
		{
			name:  "{{subject()}} in the template",
			file:  "pkg/subject/subject.go",
			old:   `".dms.{{subject()}}"`,
			new:   `".dms.*"`,
			wants: "nobody reads another's messages",
		},
		{
			name: "the compare-and-set",
			file: "pkg/ledger/jetstream/store.go",
			old:  "jetstream.WithExpectLastSequencePerSubject(revision))",
			// With a moment between reading and writing, in which the other of a pair reads
			// what this one has: on a busy machine they might meet nowhere else.
			new:   "func() jetstream.PublishOpt { time.Sleep(100 * time.Millisecond); return jetstream.WithRetryAttempts(1 + 0*int(revision)) }())",
			wants: "one name, asked for in two regions",
		},
	} {
		t.Run(m.name, func(t *testing.T) {
			out, exit := demo(t, "-overlay", overlay(t, m.file, m.old, m.new))
			if exit == 0 || !strings.Contains(out, "error: "+m.wants) {
				t.Fatalf("without %s the demo ended with exit %d:\n%s", m.name, exit, out)
			}
		})
	}
}

// overlay makes go build read a changed copy of one file.
func overlay(t *testing.T, file, old, changed string) string {
	t.Helper()
	root, err := uptest.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, filepath.FromSlash(file))
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(src), old) != 1 {
		t.Fatalf("%s does not have %q exactly once: the guard has moved, and this test with it must", file, old)
	}
	dir := t.TempDir()
	copied := filepath.Join(dir, "changed.go")
	if err := os.WriteFile(copied, []byte(strings.Replace(string(src), old, changed, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"Replace": map[string]string{path: copied}})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(out, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}
