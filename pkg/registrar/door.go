package registrar

import (
	"context"
	"errors"
	"log/slog"
	"sync"
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
	stats   DoorStats
	warned  time.Time
}

// DoorStats tell of a Doorkeeper.
type DoorStats struct {
	Disconnected uint64 // connections that were closed, or were gone already
	Waiting      int    // that are to be closed
	Forgotten    uint64 // that are not going to be: there were too many at once
}

// WaitingOf is how many connections of an identity are to be closed still.
func (d *Doorkeeper) WaitingOf(id ident.Identity) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for c := range d.pending {
		if c.identity == id {
			n++
		}
	}
	return n
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
	// warnEvery is how often the log says that some cannot be closed.
	warnEvery = time.Minute
	// maxPending bounds those who wait to be disconnected.
	maxPending = 100_000
)

// Stats gives them as they are now.
func (d *Doorkeeper) Stats() DoorStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Waiting = len(d.pending)
	return s
}

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
		switch {
		case h.Server == "":
			continue
		case len(d.pending) >= maxPending:
			if d.stats.Forgotten++; d.stats.Forgotten == 1 {
				d.Log.Error("too many connections are to be closed; others stay until their credentials end", "waiting", maxPending)
			}
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
			gone := h.Expires > d.Now().Unix() && d.Gone(c.identity)
			if gone && failed.of(c.server) {
				failed.add(c.server, errAway)
				return nil
			}
			if gone {
				try, cancel := context.WithTimeout(ctx, kickWait)
				defer cancel()
				if err := d.Kick(try, c.server, c.client); err != nil {
					failed.add(c.server, err)
					return nil
				}
				d.Log.Info("disconnected", "identity", c.identity.String(), "user", h.User.String(), "server", c.server, "client", c.client)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.pending, c)
			if gone {
				d.stats.Disconnected++
			}
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	if now := d.Now(); failed.n > 0 && ctx.Err() == nil && now.Sub(d.warned) >= warnEvery {
		d.warned = now
		d.Log.Warn("connections cannot be closed now; it is tried again until their credentials end", "connections", failed.n, "server", failed.server, "error", failed.err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

// errAway is of those that were not asked for, because their server did not answer before.
var errAway = errors.New("no answer")

// failures are how many could not be closed in one round, and on which servers. One that does
// not answer holds up the others' connections once, and not once for each of its own.
type failures struct {
	mu     sync.Mutex
	n      int
	server string
	err    error
	away   map[string]bool
}

func (f *failures) add(server string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away == nil {
		f.away = make(map[string]bool)
	}
	f.n++
	f.away[server] = true
	if !errors.Is(err, errAway) {
		f.server, f.err = server, err
	}
}

func (f *failures) of(server string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.away[server]
}
