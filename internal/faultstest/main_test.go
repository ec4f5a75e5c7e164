package faultstest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// world is a platform of its own for one test, which does to it what it likes.
type world struct {
	t *testing.T
	*uptest.Platform
	log *testlog.Log
	// clocks are by how much those of services, or of all in a region, are ahead of the servers';
	// negative: behind.
	clocks map[string]time.Duration

	mu       sync.Mutex
	services map[string]*service.Running // "issuer/ams"
}

// newWorld starts three regions, home being ams, with an issuer and a registrar in
// each.
func newWorld(t *testing.T, wan bool) *world {
	t.Helper()
	return newWorldOf(t, uptest.Options{WAN: wan}, nil)
}

// newWorldOf is newWorld with more, and with clocks that are ahead or behind.
func newWorldOf(t *testing.T, o uptest.Options, clocks map[string]time.Duration) *world {
	t.Helper()
	w := &world{t: t, log: &testlog.Log{}, clocks: clocks, services: map[string]*service.Running{}}
	o.Bare = true
	p, err := uptest.Start(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	w.Platform = p
	t.Cleanup(func() {
		for name := range w.services {
			w.stop(name)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			lines := strings.Split(w.log.String(), "\n")
			t.Logf("the last of what services said:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
	for _, r := range regions() {
		w.start(service.Registrar + "/" + r)
		w.start(service.Issuer + "/" + r)
	}
	return w
}

func regions() []string { return []string{"ams", "sfo", "sgp"} }

func region(s string) ident.Region { return must(ident.ParseRegion(s)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// folder is where a service's files are.
func (w *world) folder(name string) string {
	return filepath.Join(w.Dir, filepath.Dir(name)+"s", filepath.Base(name))
}

// start starts a service and tells how long it took until it served.
func (w *world) start(name string) time.Duration {
	w.t.Helper()
	began := time.Now()
	c, err := service.Load(filepath.Join(w.folder(name), platform.ServiceFile))
	if err != nil {
		w.t.Fatal(err)
	}
	if ahead := w.clocks[name] + w.clocks[filepath.Base(name)]; ahead != 0 {
		c.Now = func() time.Time { return time.Now().Add(ahead) }
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := c.Start(ctx, slog.New(slog.NewTextHandler(w.log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.services[name] = s
	return time.Since(began)
}

func (w *world) stop(name string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.service(name).Drain(ctx); err != nil {
		w.t.Errorf("stopping %s: %v", name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.services, name)
}

func (w *world) service(name string) *service.Running {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.services[name]
}

// cut cuts a region off from all others, and heal joins it again.
func (w *world) cut(name string)  { w.t.Helper(); w.links(name, w.Up.Cluster.Cut) }
func (w *world) heal(name string) { w.t.Helper(); w.links(name, w.Up.Cluster.Heal) }

// links does something to all links of a region, also where it is not the test's own goroutine
// that wants it.
func (w *world) links(name string, f func(a, b ident.Region) error) {
	w.t.Helper()
	for _, other := range regions() {
		if other != name {
			if err := f(region(name), region(other)); err != nil {
				w.t.Error(err)
			}
		}
	}
}

// dial connects as a user of a role that is made for this, in one region.
func (w *world) dial(account, role, in string) *nats.Conn {
	w.t.Helper()
	u, err := w.Up.Platform.Mint(account, role, time.Now(), time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	key := must(ident.ParseUserKey(u.Key.Public()))
	r, _ := w.Up.Platform.Document.Region(region(in))
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: r.URLs, Name: "test", InboxPrefix: subject.ServiceInboxPrefix(key), Credential: natsconn.Static{Token: u.Token, Key: u.Key},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

// nscsetup runs it, which must end so, and gives what it says.
func (w *world) nscsetup(want int, args ...string) string {
	w.t.Helper()
	var out, errs bytes.Buffer
	code := nscsetup.Run(w.t.Context(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, append([]string{"--dir", w.Dir}, args...))
	if code != want {
		w.t.Fatalf("nscsetup %v: %d\n%s%s", args, code, out.String(), errs.String())
	}
	return out.String() + errs.String()
}

// signer signs as the registrar of a region.
func (w *world) signer(in string) ledger.KeySigner {
	w.t.Helper()
	k, err := keystore.Load(filepath.Join(w.folder("registrar/"+in), platform.SigningFile), keystore.Operator)
	if err != nil {
		w.t.Fatal(err)
	}
	return ledger.KeySigner{Key: k}
}

func (w *world) opener() ledger.Opener {
	return ledger.Opener{Operator: w.Up.Platform.Operator, Now: time.Now, Check: platform.CheckDocument}
}

// newUser is a user key that nobody else has.
func newUser(t *testing.T) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openIdentity(k *keystore.Key) ident.Identity {
	return ident.OpenIdentity(must(ident.ParseUserKey(k.Public())))
}

// preload puts n names into the ledger, as home's registrar would, and returns one.
func (w *world) preload(n int) {
	w.t.Helper()
	store := must(jetstream.NewDecisions(w.dial(platform.Ledger, platform.RoleHome, "ams")))
	signer := w.signer("ams")
	holder := openIdentity(newUser(w.t))
	work := make(chan int)
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			for i := range work {
				d := &ledger.Decider{Store: blind{store}, Opener: w.opener(), Signer: signer, Rules: ledger.DefaultNameRules()}
				claim := ledger.Claim{Name: must(ident.ParseName(fmt.Sprintf("preloaded-%d", i))), Identity: holder, Expires: time.Now().Add(time.Hour)}
				_, err := d.Claim(w.t.Context(), claim, time.Now())
				// A machine that is busy answers some of them too late.
				for try := 0; errors.Is(err, ledger.ErrUnavailable) && try < 10; try++ {
					_, err = d.Claim(w.t.Context(), claim, time.Now())
				}
				if err != nil {
					w.t.Error(err)
					return
				}
			}
		})
	}
	for i := range n {
		if w.t.Failed() {
			break
		}
		work <- i
	}
	close(work)
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// blind is a store of which it is known that it has none of the keys yet.
type blind struct{ ledger.DecisionStore }

func (blind) Get(context.Context, ledger.Key) (string, uint64, error) {
	return "", 0, ledger.ErrNotFound
}

// eventually waits until f is true, and tells how long it took.
func eventually(t *testing.T, within time.Duration, what string, f func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !f() {
		if time.Since(began) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// long tells whether the long tests run, too.
func long() bool { return os.Getenv("HERALD_LONG") != "" }

// leader is the server that leads a stream of the ledger, "" if none does now.
func (w *world) leader(stream string) string {
	nc := w.dial(platform.Ledger, platform.RoleSetup, "ams")
	defer nc.Close()
	js := must(natsjs.New(nc))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil || s.CachedInfo().Cluster == nil {
		return ""
	}
	return s.CachedInfo().Cluster.Leader
}

// processes are services as processes of their own, which can be killed.
type processes struct {
	w       *world
	program string
	mu      sync.Mutex
	running map[string]*exec.Cmd
}

// newProcesses takes all services over into processes.
func newProcesses(w *world) *processes {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := uptest.Build(w.t.Context(), dir, nil, "./cmd/provisioner"); err != nil {
		w.t.Fatal(err)
	}
	p := &processes{w: w, program: filepath.Join(dir, "provisioner"), running: map[string]*exec.Cmd{}}
	for _, name := range all() {
		w.stop(name)
		p.start(name)
	}
	w.t.Cleanup(func() {
		for name := range p.running {
			p.kill(name)
		}
	})
	return p
}

// start starts a service and waits until it serves.
func (p *processes) start(name string) {
	cmd := exec.Command(p.program, "run", "--config", filepath.Join(p.w.folder(name), platform.ServiceFile)) // #nosec G204 -- the program that was just built
	cmd.Stderr = p.w.log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.w.t.Errorf("starting %s: %v", name, err)
		return
	}
	p.mu.Lock()
	p.running[name] = cmd
	p.mu.Unlock()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.w.t.Errorf("%s did not come to serve: %q %v", name, line, err)
	}
}

// kill is kill -9.
func (p *processes) kill(name string) {
	p.mu.Lock()
	cmd := p.running[name]
	delete(p.running, name)
	p.mu.Unlock()
	if err := cmd.Process.Kill(); err != nil {
		p.w.t.Errorf("killing %s: %v", name, err)
	}
	_ = cmd.Wait() // "signal: killed"
}

// porcupineFile is where a history is drawn that is not linearizable.
func porcupineFile() (*os.File, error) { return os.CreateTemp("", "herald-history-*.html") }
