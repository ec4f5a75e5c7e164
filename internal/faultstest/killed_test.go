package faultstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// gate is between a service and its server. It passes on what both say, and counts messages by
// which the service has an effect on somebody. Before one of them it has the service killed: that
// message, and all that would come after it, never leaves the process.
type gate struct {
	listener net.Listener
	server   string
	kill     func()
	work     sync.WaitGroup

	mu    sync.Mutex
	left  int           // messages until the service is killed; 0: it is not to be
	done  chan struct{} // closed when it was killed
	steps []string      // that were counted since it was armed
	conns []net.Conn
}

func newGate(t *testing.T, server string, kill func()) *gate {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: l, server: server, kill: kill}
	g.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.work.Go(func() { g.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.mu.Lock()
		for _, c := range g.conns {
			_ = c.Close()
		}
		g.mu.Unlock()
		g.work.Wait()
	})
	return g
}

// arm has the service killed before its n-th message from now on.
func (g *gate) arm(n int) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left, g.done, g.steps = n, make(chan struct{}), nil
	return g.done
}

// disarm gives the messages that were counted.
func (g *gate) disarm() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = 0
	return g.steps
}

func (g *gate) serve(c net.Conn) {
	s, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.server)
	if err != nil {
		_ = c.Close()
		return
	}
	g.mu.Lock()
	g.conns = append(g.conns, c, s)
	g.mu.Unlock()
	g.work.Go(func() {
		_, _ = io.Copy(c, s)
		_ = c.Close()
	})
	g.pass(bufio.NewReader(c), s)
	_, _ = c.Close(), s.Close()
}

// pass passes on what the service says, one protocol message at a time.
func (g *gate) pass(from *bufio.Reader, to io.Writer) {
	for {
		line, err := from.ReadBytes('\n')
		if err != nil {
			return
		}
		f := strings.Fields(string(line))
		if len(f) > 2 && (f[0] == "PUB" || f[0] == "HPUB") {
			size, err := strconv.Atoi(f[len(f)-1])
			if err != nil {
				return
			}
			body := make([]byte, size+2)
			if _, err := io.ReadFull(from, body); err != nil || !g.passes(f[1]) {
				return
			}
			line = append(line, body...)
		}
		if _, err := to.Write(line); err != nil {
			return
		}
	}
}

// effects are the beginnings of subjects by which a registrar has an effect: what is stated and
// stored, what is pushed, recorded and answered.
func effects(subj string) bool {
	return subj == subject.ClaimsUpdate || slices.ContainsFunc([]string{"denials.", subject.DecisionsPrefix, "audit.", "_R_."},
		func(p string) bool { return strings.HasPrefix(subj, p) }) || strings.HasPrefix(subj, "ledger.") && strings.Contains(subj, ".live.")
}

// passes counts a message, and tells whether it may leave.
func (g *gate) passes(subj string) bool {
	if !effects(subj) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left == 0 {
		return true
	}
	g.steps = append(g.steps, strings.Join(strings.Split(subj, ".")[:2], "."))
	if g.left--; g.left > 0 {
		return true
	}
	g.kill() // nothing passes meanwhile
	close(g.done)
	return false
}

// TestRegistrarKilled: home's registrar is killed (kill -9) before each message by which it has an
// effect, of whatever it is asked: to revoke, suspend and resume somebody, to give a name, and to
// put right what was pushed over an account. Whatever of it was done is done to its end by the
// others, or by it when it runs again; what was not is done when it is asked again; and all agree.
func TestRegistrarKilled(t *testing.T) {
	if !long() {
		t.Skip("of make chaos and make test-long")
	}
	w := newWorld(t, false)
	const name = service.Registrar + "/ams"
	dir := t.TempDir()
	if err := uptest.Build(t.Context(), dir, nil, "./cmd/provisioner"); err != nil {
		t.Fatal(err)
	}
	services := &processes{w: w, program: filepath.Join(dir, "provisioner"), running: map[string]*exec.Cmd{}}
	g := newGate(t, strings.TrimPrefix(w.urls("ams")[0], "nats://"), func() { services.kill(name) })
	w.stop(name)
	file, err := os.OpenFile(filepath.Join(w.folder(name), platform.ServiceFile), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(file, "urls: [\"nats://%s\"]\n", g.listener.Addr())
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	services.start(name)
	t.Cleanup(func() { services.kill(name) })

	k := &killing{world: w, gate: g, start: func() { services.start(name) }}
	for _, o := range []struct {
		what string
		run  func(name string) operation
	}{
		{"revoke", func(name string) operation { return k.denying(name, wire.VerbRevoke) }},
		{"suspend", func(name string) operation { return k.denying(name, wire.VerbSuspend) }},
		{"resume", k.resuming},
		{"name", k.naming},
		{"repair", k.repairing},
	} {
		for at := 1; ; at++ {
			killed, steps := k.once(at, o.run(fmt.Sprintf("%s-%d", o.what, at)))
			if !killed {
				t.Logf("%s: killed before each of %d messages: %s", o.what, len(steps), strings.Join(steps, " "))
				if at == 1 {
					t.Errorf("%s: it sends nothing: nothing is shown", o.what)
				}
				break
			}
			if at > 60 {
				t.Fatalf("%s does not end: %v", o.what, steps)
			}
		}
	}
}

// operation is something that a registrar is asked to do.
type operation struct {
	// ask asks for it; whether it is answered does not matter.
	ask func(context.Context) error
	// after waits until it is done to its end or not at all, asks again where it is not done, and
	// holds that it is then.
	after func()
}

type killing struct {
	*world
	gate  *gate
	start func()
}

// once has the registrar killed before its n-th message of an operation; not at all, if it has fewer.
func (k *killing) once(n int, o operation) (killed bool, steps []string) {
	k.t.Helper()
	done := k.gate.arm(n)
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	go func() {
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := o.ask(ctx)
	// What follows from it may come a moment after the answer.
	select {
	case <-done:
		killed = true
	case <-time.After(4 * time.Second):
		if err != nil {
			k.t.Errorf("nobody was killed before message %d: %v", n, err)
		}
	}
	steps = k.gate.disarm()
	select {
	case <-done:
		killed = true
	default:
	}
	if killed {
		k.start()
	}
	o.after()
	return killed, steps
}

// others are services that are not killed.
func others() []string {
	return slices.DeleteFunc(all(), func(s string) bool { return s == "registrar/ams" })
}

// agreed waits until all others know the same of a key, and gives it.
func (k *killing) agreed(key ledger.Key) (e ledger.Entry) {
	k.t.Helper()
	eventually(k.t, within(20*time.Second), "all know the same of "+key.String(), func() bool {
		e, _ = k.service("issuer/ams").Known().Get(key)
		return !slices.ContainsFunc(others(), func(s string) bool {
			o, _ := k.service(s).Known().Get(key)
			return o.Sum != e.Sum
		})
	})
	return e
}

// orders asks through home until a registrar says that it is done, on all servers.
func (k *killing) orders(verb string, v *visitor, seen map[string]uint64) {
	k.t.Helper()
	var last string
	defer func() {
		if k.t.Failed() {
			k.t.Logf("%s %s: %s", verb, v.name, last)
		}
	}()
	eventually(k.t, within(40*time.Second), verb+" "+v.name, func() bool {
		r := v.identity()
		r.Seen = seen
		a, err := k.administer(k.t.Context(), "ams", verb, r)
		last = fmt.Sprintf("%v %+v", err, a.Word)
		return err == nil && (verb == wire.VerbResume || everywhere(a))
	})
}

// isOut holds that somebody is out everywhere.
func (k *killing) isOut(v *visitor, refusal wire.Code) {
	k.t.Helper()
	k.denied(v, within(20*time.Second), k.Public.Document.URLs(region("ams"))...)
	for _, r := range regions() {
		eventually(k.t, within(20*time.Second), v.name+" is refused in "+r, func() bool { return code(k.obtain(r, v.key, v.name)) == refusal })
	}
}

func (k *killing) denying(name, verb string) operation {
	v := k.visitor(name, "ams")
	refusal := wire.Suspended
	if verb == wire.VerbRevoke {
		refusal = wire.Revoked
	}
	key := ledger.IdentitySuspension(openIdentity(v.key))
	return operation{
		ask: func(ctx context.Context) error {
			_, err := k.administer(ctx, "ams", verb, v.identity())
			return err
		},
		after: func() {
			if e := k.agreed(key); e.Denies {
				k.isOut(v, refusal) // without being asked again
			} else if err := k.connect(v, v.newest(), k.urls("sfo")[0]); err != nil {
				k.t.Errorf("%s: nobody knows of it, and: %v", name, err)
			}
			k.orders(verb, v, nil)
			k.isOut(v, refusal)
		},
	}
}

func (k *killing) resuming(name string) operation {
	v := k.visitor(name, "ams")
	k.orders(wire.VerbSuspend, v, nil)
	key := ledger.IdentitySuspension(openIdentity(v.key))
	seen := map[string]uint64{key.String(): k.agreed(key).Version}
	return operation{
		ask: func(ctx context.Context) error {
			r := v.identity()
			r.Seen = seen
			_, err := k.administer(ctx, "ams", wire.VerbResume, r)
			return err
		},
		after: func() {
			old := v.newest()
			if e := k.agreed(key); e.Denies {
				k.isOut(v, wire.Suspended)
				k.orders(wire.VerbResume, v, seen)
			}
			for _, r := range regions() {
				eventually(k.t, within(20*time.Second), name+" is back in "+r, func() bool {
					return k.asks(k.t.Context(), v, r, 5*time.Second) == nil && k.connect(v, v.newest(), k.urls(r)[0]) == nil
				})
			}
			if err := k.connect(v, old, k.urls("sgp")[0]); !errors.Is(err, nats.ErrAuthorization) {
				k.t.Errorf("%s, resumed, with what was revoked: %v", name, err)
			}
		},
	}
}

// naming is somebody who asks for a name while home's registrar is killed.
func (k *killing) naming(name string) operation {
	first, second := newUser(k.t), newUser(k.t)
	return operation{
		ask: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			v := &visitor{name: name, key: first}
			return k.asks(ctx, v, "sfo", 5*time.Second)
		},
		after: func() {
			// It was given to who asked first, or to nobody; then to who asks now.
			var err error
			eventually(k.t, within(20*time.Second), "home decides again", func() bool {
				err = k.obtain("sgp", second, name)
				return err == nil || code(err) == wire.NameTaken
			})
			owner, other := second, first
			if err != nil {
				owner, other = first, second
			}
			for _, r := range regions() {
				eventually(k.t, within(20*time.Second), "its owner has it in "+r, func() bool { return k.obtain(r, owner, name) == nil })
				if err := k.obtain(r, other, name); code(err) != wire.NameTaken {
					k.t.Errorf("%s is another's in %s: %v", name, r, err)
				}
			}
		},
	}
}

// repairing is an account that somebody pushes over with what it was before somebody was revoked.
// No other registrar is there to put it right.
func (k *killing) repairing(name string) operation {
	for _, other := range []string{"registrar/sfo", "registrar/sgp"} {
		if k.service(other) != nil {
			k.stop(other)
		}
	}
	v := k.visitor(name, "ams")
	sys := k.dial(platform.System, platform.RoleRegistrar, "ams")
	m, err := sys.Request(subject.ClaimsLookup(k.chat()), nil, 5*time.Second)
	if err != nil {
		k.t.Fatal(err)
	}
	k.orders(wire.VerbRevoke, v, nil)
	return operation{
		ask: func(ctx context.Context) error {
			err := errors.Join(sys.Publish(subject.ClaimsUpdate, m.Data), sys.Flush())
			return err // it is heard of, and looked at within a second
		},
		after: func() { k.isOut(v, wire.Revoked) },
	}
}
