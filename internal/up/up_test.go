package up_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/uptest"
)

// TestReadyInTime runs the real program and holds it to what docs/performance.md
// says: ready in under 6 s, under 250 MB, stopped within 5 s. It is built
// without the race detector, which costs both several times over.
func TestReadyInTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // a first build on a new machine takes minutes
	defer cancel()
	bin := t.TempDir()
	if err := uptest.Build(ctx, bin, nil, "./cmd/nscsetup"); err != nil {
		t.Fatal(err)
	}
	p, ports, err := uptest.Init(ctx, t.TempDir(), uptest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ports.Release() }()
	c := exec.CommandContext(ctx, filepath.Join(bin, "nscsetup"), "up", "--json", string(p.Dir)) // #nosec G204 -- just built
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var ready struct {
		Event    string `json:"event"`
		Servers  int    `json:"servers"`
		Accounts int    `json:"accounts"`
		TookMS   int64  `json:"took_ms"`
		Regions  []struct {
			Services []string `json:"services"`
		} `json:"regions"`
	}
	read := func(into any) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no line: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	read(&ready)
	rss, rerr := residentMB(ctx, c.Process.Pid)
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var stopped struct {
		Event string `json:"event"`
	}
	read(&stopped)
	if err := c.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	took := time.Since(began)
	if rerr != nil {
		t.Error(rerr)
	}
	t.Logf("ready in %d ms with %d MB, stopped in %v", ready.TookMS, rss, took)
	if ready.Event != "ready" || ready.Servers != 9 || ready.Accounts != 7 || len(ready.Regions) != 3 || len(ready.Regions[0].Services) != 2 {
		t.Errorf("ready: %+v", ready)
	}
	if ready.TookMS >= 6000 {
		t.Errorf("ready after %d ms; the bound is 6 s", ready.TookMS)
	}
	if rss >= 250 {
		t.Errorf("%d MB resident; the bound is 250 MB", rss)
	}
	if stopped.Event != "stopped" || took >= 5*time.Second {
		t.Errorf("stopped (%q) after %v; the bound is 5 s", stopped.Event, took)
	}
}

// residentMB asks ps, which Linux and macOS have alike.
func residentMB(ctx context.Context, pid int) (int, error) {
	out, err := exec.CommandContext(ctx, "ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output() // #nosec G204 -- a number
	if err != nil {
		return 0, fmt.Errorf("asking ps for the memory: %w", err)
	}
	kb, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, fmt.Errorf("reading what ps says: %w", err)
	}
	return kb / 1024, nil
}
