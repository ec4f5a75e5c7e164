package registrar

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Doorkeeper disconnects those who came in by auth callout and may not come any more: whose
// access key was disabled or removed, or whose identity is suspended. Their credential never
// left the server, so who is disconnected has to come in again, and is refused. No account JWT
// grows by it, however often somebody connected before.
type Doorkeeper struct {
	Holdings *ledger.Holdings
	// Gone tells whether an identity may not come any more, as far as is known here.
	Gone func(ident.Identity) bool
	// Kick has a server close a connection. An error is that the server did not answer; that it
	// has no such connection any more is none.
	Kick func(ctx context.Context, server string, client uint64) error
	Log  *slog.Logger
	Now  func() time.Time

	mu      sync.Mutex
	pending map[connection]ledger.Held
	wake    chan struct{}
	kicked  atomic.Uint64
}

// connection is one of a server's connections, and whose.
type connection struct {
	server   string
	client   uint64
	identity ident.Identity
}

const (
	// kickWait bounds one try, and kickEvery is how soon a server that did not answer is asked
	// again: it may be in a region that is cut off, until the credential ends.
	kickWait  = time.Second
	kickEvery = 2 * time.Second
	kickers   = 32
	// maxPending bounds those who wait to be disconnected.
	maxPending = 100_000
)

// Kicked is how many connections were closed, or were gone already.
func (d *Doorkeeper) Kicked() uint64 { return d.kicked.Load() }

// Changed is told of each entry that came to hold. It only takes note.
func (d *Doorkeeper) Changed(e ledger.Entry) {
	id := e.Key.Identity()
	if id.IsZero() || !d.Gone(id) {
		return
	}
	d.add(id, d.Holdings.Of(id, d.Now())...)
}

// Issued is told of each record: one may come after the news that its identity is gone.
func (d *Doorkeeper) Issued(r audit.Record) {
	if r.Server != "" && d.Gone(r.Identity) {
		d.add(r.Identity, ledger.Held{Account: r.Account, User: r.User, Expires: r.Expires, Server: r.Server, Client: r.Client})
	}
}

func (d *Doorkeeper) add(id ident.Identity, all ...ledger.Held) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range all {
		if h.Server == "" || len(d.pending) >= maxPending {
			continue
		}
		if d.pending == nil {
			d.pending = make(map[connection]ledger.Held)
		}
		d.pending[connection{h.Server, h.Client, id}] = h
	}
	select {
	case d.woken() <- struct{}{}:
	default:
	}
}

// woken is the channel by which Run hears of more; d.mu is held.
func (d *Doorkeeper) woken() chan struct{} {
	if d.wake == nil {
		d.wake = make(chan struct{}, 1)
	}
	return d.wake
}

// Run disconnects until ctx ends.
func (d *Doorkeeper) Run(ctx context.Context) {
	d.mu.Lock()
	wake := d.woken()
	d.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		for d.round(ctx) > 0 {
			if wait.For(ctx, kickEvery) != nil {
				return
			}
		}
	}
}

// round asks for all that wait, and gives how many wait still.
func (d *Doorkeeper) round(ctx context.Context) int {
	d.mu.Lock()
	all := make(map[connection]ledger.Held, len(d.pending))
	for c, h := range d.pending {
		all[c] = h
	}
	d.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(kickers)
	var failed failures
	for c, h := range all {
		g.Go(func() error {
			// It may have been taken back meanwhile.
			if h.Expires > d.Now().Unix() && d.Gone(c.identity) {
				try, cancel := context.WithTimeout(ctx, kickWait)
				defer cancel()
				if err := d.Kick(try, c.server, c.client); err != nil {
					failed.add(c.server, err)
					return nil
				}
				d.kicked.Add(1)
				d.Log.Info("disconnected", "identity", c.identity.String(), "user", h.User.String(), "server", c.server, "client", c.client)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.pending, c)
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	if failed.n > 0 && ctx.Err() == nil {
		d.Log.Warn("connections cannot be closed now; it is tried again until their credentials end", "connections", failed.n, "server", failed.server, "error", failed.err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

// failures are how many could not be closed in one round, and the last of them.
type failures struct {
	mu     sync.Mutex
	n      int
	server string
	err    error
}

func (f *failures) add(server string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	f.server, f.err = server, err
}
