package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/chat"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/cli/provisioner"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

// The test binary is also the programs that are tested: testscript puts it into
// PATH under their names. So they are built as the tests are, with the race
// detector, and nothing has to be installed or built beforehand.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){
		"nscsetup":    func() { os.Exit(program(nscsetup.Run, os.Args[1:])) },
		"provisioner": func() { os.Exit(program(provisioner.Run, os.Args[1:])) },
		"chat":        func() { os.Exit(program(chat.Run, os.Args[1:])) },
		"nobody":      func() { os.Exit(asNobody(os.Args[1:])) },
		"cramped":     func() { os.Exit(cramped(os.Args[1:])) },
	})
}

// suite is the run of all tests. No goroutine may outlive it.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	// File modes are compared, so they must not depend on who runs the tests.
	syscall.Umask(0o022)
	code := s.m.Run()
	if code != 0 {
		return code
	}
	if err := uptest.Leaks(); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left:", err)
		return 1
	}
	return 0
}

type run func(context.Context, cli.IO, []string) int

// program does what cmd/<program>/main.go does.
func program(r run, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return r(ctx, cli.Stdio(), args)
}

// choose runs the program whose name and arguments are args.
func choose(args []string) int {
	switch {
	case len(args) > 0 && args[0] == "nscsetup":
		return program(nscsetup.Run, args[1:])
	case len(args) > 0 && args[0] == "provisioner":
		return program(provisioner.Run, args[1:])
	case len(args) > 0 && args[0] == "chat":
		return program(chat.Run, args[1:])
	default:
		fmt.Fprintln(os.Stderr, "no such program:", args)
		return 99
	}
}

// asNobody runs a program as a user who owns nothing. Root may write anywhere,
// so that where tests run as root (as CI does in a container) a mode of 0555
// would refuse nobody. The process gives its rights up by itself, instead of
// being started without them, because the test binary lies in a folder that
// only its owner may enter. A user who is not root stays who he is: modes hold
// for him.
func asNobody(args []string) int {
	const nobody = 65534
	if os.Getuid() == 0 {
		for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)} {
			if err != nil {
				fmt.Fprintln(os.Stderr, "becoming nobody:", err)
				return 99
			}
		}
	}
	return choose(args)
}

// cramped runs a program that can write no more than so many bytes into any
// file: `cramped 600 nscsetup init`. A full disk needs a file system of its own,
// which neither root in a container nor a normal user may mount; this limit of
// the process ends a write in the same place and in the same way, half done, on
// every system and for every user. Only the error's number is another: EFBIG.
// ENOSPC itself comes from /dev/full, where a program can be pointed to it.
func cramped(args []string) int {
	n, err := strconv.ParseUint(args[0], 10, 63)
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: cramped BYTES PROGRAM ARGS")
		return 99
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: n, Max: n}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		fmt.Fprintln(os.Stderr, "setting the limit:", err)
		return 99
	}
	return choose(args[1:])
}

// world is what the tests share: a platform that runs in this process, and
// another one that does not.
type world struct {
	root    string // a folder that everybody may enter
	running *uptest.Platform
	foreign *platform.Platform // nobody listens on its ports
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// Not t.TempDir, which only its owner may enter.
	root, err := os.MkdirTemp("", "herald-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	// A script may have left folders without rights behind.
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	if root, err = filepath.EvalSymlinks(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{root: root}
	foreign, ports, err := uptest.Init(t.Context(), w.mkdir(t, "foreign"), uptest.Options{Regions: []string{"ams"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ports.Release(); err != nil {
			t.Error(err)
		}
	})
	w.foreign = foreign
	if w.running, err = uptest.Start(w.mkdir(t, "running"), uptest.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.running.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) mkdir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(w.root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// public is the folder for clients of the platform that runs.
func (w *world) public() string { return w.running.Up.Platform.Dir.Public() }

// url is a server of a region.
func (w *world) url(region string) string {
	r, err := ident.ParseRegion(region)
	if err != nil {
		panic(err) // the test's own
	}
	return w.running.Up.Cluster.URLs(r)[0]
}

// vars are the environment of whoever runs a program here: nothing of the
// tester's own is read or written.
func (w *world) vars(home string) []string {
	return []string{
		"HOME=" + home,
		"PLATFORM=" + w.running.Dir,
		"PUBLIC=" + w.public(),
		"FOREIGN=" + string(w.foreign.Dir),
		"SGP=" + w.url("sgp"),
		// A process with the race detector waits for a second at its end, for
		// reports of other goroutines, unless it is told not to.
		"GORACE=atexit_sleep_ms=10",
	}
}

// process is a program that runs beside a test.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// ended tells whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop sends a signal and gives the exit code. Whoever does not end in time is
// killed.
func (p *process) stop(sig os.Signal, within time.Duration) (int, error) {
	if sig != nil && !p.ended() {
		if err := p.cmd.Process.Signal(sig); err != nil && !p.ended() {
			return 0, err
		}
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-timer.C:
		_ = p.cmd.Process.Kill() // it may have ended by now
		<-p.done
		return 0, fmt.Errorf("%s did not end within %s", strings.Join(p.cmd.Args, " "), within)
	}
}

// eventually asks until ok says yes; false if that did not come in time.
func eventually(within time.Duration, ok func() bool) bool {
	const every = 10 * time.Millisecond
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok() {
			return true
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return ok()
		}
	}
}
