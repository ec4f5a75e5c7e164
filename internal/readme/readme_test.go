package readme

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/herald-nats/herald/internal/uptest"
)

// blocks are the shell blocks of one section of README.md.
func blocks(t *testing.T, section string) []string {
	t.Helper()
	root, err := uptest.Root()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var found []string
	for {
		var block string
		_, rest, ok = strings.Cut(rest, "```sh\n")
		if !ok {
			return found
		}
		block, rest, _ = strings.Cut(rest, "```")
		found = append(found, block)
	}
}

// output gathers what a program that runs beside the test says.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
	got chan struct{}
}

func newOutput() *output { return &output{got: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.got <- struct{}{}:
	default:
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// wait waits until text was said n times.
func (o *output) wait(t *testing.T, text string, n int) {
	t.Helper()
	late := time.After(60 * time.Second)
	for strings.Count(o.String(), text) < n {
		select {
		case <-o.got:
		case <-late:
			t.Fatalf("%q was not said:\n%s", text, o)
		}
	}
}

// TestFirstUse types the blocks of "First use by hand" one after the other, in
// one folder: what runs until Ctrl-C runs beside the rest, as in a terminal of
// its own, and the screen gets a pseudo-terminal.
func TestFirstUse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // a first build on a new machine takes minutes
	defer cancel()
	root, err := uptest.Root()
	if err != nil {
		t.Fatal(err)
	}
	work, bin := t.TempDir(), t.TempDir()
	env := append(os.Environ(), "GOBIN="+bin, "PATH="+bin+":"+os.Getenv("PATH"), "TERM=xterm-256color", "NATS_URL=", "NATS_CREDS=",
		"XDG_CONFIG_HOME="+filepath.Join(work, "config"), "XDG_DATA_HOME="+filepath.Join(work, "data"))
	shell := func(dir, script string) *exec.Cmd {
		c := exec.CommandContext(ctx, "/bin/sh", "-ec", "exec 2>&1\n"+script)
		c.Dir, c.Env = dir, env
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return c
	}
	dir := work
	ran := map[string]bool{}
	for _, block := range blocks(t, "First use by hand") {
		first, _, _ := strings.Cut(block, "\n")
		t.Log("$ " + strings.TrimSuffix(block, "\n"))
		switch {
		case strings.HasPrefix(first, "go install"):
			c := shell(root, block)
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			ran["install"] = true
		case strings.HasPrefix(first, "nscsetup up"), strings.HasPrefix(first, "provisioner run"):
			out := newOutput()
			c := shell(dir, "exec "+block)
			c.Stdout = out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Process.Signal(os.Interrupt); err != nil {
					t.Error(err)
				}
				if err := c.Wait(); err != nil {
					t.Errorf("%s: %v\n%s", first, err, out)
				}
			}()
			out.wait(t, "ready: ", max(1, strings.Count(block, "--config")))
			ran[strings.Fields(first)[1]] = true
		case strings.HasPrefix(first, "chat --name"):
			c := exec.CommandContext(ctx, "/bin/sh", "-ec", "exec "+block)
			c.Dir, c.Env = dir, env
			tty, err := pty.StartWithSize(c, &pty.Winsize{Rows: 24, Cols: 100})
			if err != nil {
				t.Fatal(err)
			}
			out := newOutput()
			var reading sync.WaitGroup
			reading.Go(func() {
				buf := make([]byte, 4096)
				for {
					n, err := tty.Read(buf)
					_, _ = out.Write(buf[:n])
					if err != nil {
						return // the program has ended
					}
				}
			})
			out.wait(t, "Ctrl-C quit", 1)
			if _, err := tty.Write([]byte{3}); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err != nil {
				t.Errorf("%s: %v", first, err)
			}
			reading.Wait()
			_ = tty.Close()
			ran["screen"] = true
		default:
			out, err := shell(dir, block+"\npwd > "+filepath.Join(work, "pwd")).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
			pwd, err := os.ReadFile(filepath.Join(work, "pwd"))
			if err != nil {
				t.Fatal(err)
			}
			dir = strings.TrimSpace(string(pwd))
		}
	}
	for _, want := range []string{"install", "up", "run", "screen"} {
		if !ran[want] {
			t.Errorf("README.md has no %s any more", want)
		}
	}
}

// TestTwoCommands: the two commands are targets of the Makefile.
func TestTwoCommands(t *testing.T) {
	root, err := uptest.Root()
	if err != nil {
		t.Fatal(err)
	}
	mk, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	all := blocks(t, "Two commands")
	if len(all) != 1 {
		t.Fatalf("%d blocks", len(all))
	}
	for line := range strings.Lines(all[0]) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "make" || !strings.Contains(string(mk), "\n"+f[1]+":") {
			t.Errorf("%q is no target of the Makefile", line)
		}
	}
}
