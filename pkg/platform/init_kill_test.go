package platform

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

const initStep = "HERALD_TEST_INIT_STEP"

// TestInitVictim is not a test of its own: it runs init, in the folder that it stands in,
// in a process that is killed at a step, for TestInitKilledAtEveryStep.
func TestInitVictim(t *testing.T) {
	step := os.Getenv(initStep)
	if step == "" {
		return
	}
	at, err := strconv.Atoi(step)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if _, err := create(t.Context(), "demo", NewFile(killSpec(t)), time.Now(), nil, func(what string) {
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		t.Log("step", what)
	}); err != nil {
		t.Fatal(err)
	}
}

func killSpec(t *testing.T) Spec {
	t.Helper()
	name, err := ident.ParseName("demo")
	if err != nil {
		t.Fatal(err)
	}
	ams, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	return Spec{Name: name, Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 20000}
}

// Killed at each of its steps, an init leaves no half platform: it is one, or it is none,
// and the next init makes one, in a folder that was there as in one that was not.
func TestInitKilledAtEveryStep(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{false, true} {
		for step := 1; ; step++ {
			in := t.TempDir()
			dir := filepath.Join(in, "demo")
			if there {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestInitVictim$", "-test.v")
			cmd.Dir, cmd.Env = in, append(os.Environ(), initStep+"="+strconv.Itoa(step))
			out, err := cmd.CombinedOutput()
			if err == nil {
				if n := strings.Count(string(out), " step "); n < 10 {
					t.Errorf("only %d steps", n)
				}
				break
			}
			if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("step %d: %v\n%s", step, err, out)
			}
			if _, err := Open(dir); err == nil {
				continue // it is whole
			}
			p, err := Init(t.Context(), dir, killSpec(t), time.Now())
			if err != nil {
				t.Errorf("killed at step %d, the next init: %v", step, err)
				continue
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != len(initParts()) {
				t.Errorf("killed at step %d: left behind: %v %v", step, entries, err)
			}
			if _, err := p.Tokens(); err != nil {
				t.Errorf("killed at step %d: %v", step, err)
			}
		}
	}
}
