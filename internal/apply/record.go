package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/stream"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
)

// Changes are entries of the ledger that somebody decided, to be recorded.
type Changes struct {
	Door string // by what: the command
	Now  func() time.Time

	mu  sync.Mutex
	all []audit.Record
}

// Decided takes note of an entry, as ledger.Decider tells of it.
func (c *Changes) Decided(e ledger.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, registrar.ChangeOf(e, c.Door, c.Now()))
}

// take gives what was decided, each once.
func (c *Changes) take() []audit.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

const (
	// recordWait bounds recording what was decided.
	recordWait = 5 * time.Second
	// recordTry bounds one try: a stream that is new may have no leader yet.
	recordTry = time.Second
	// recordsAtOnce is how many records go into one block: as many of the longest as fit.
	recordsAtOnce = audit.MaxBlock/audit.MaxRecord - 4
)

// Record records what was decided, in home, as a chain of its own of as few blocks as there
// can be. It is signed by a user that lives for this, and that the role's key vouches for.
// An error says what could not be recorded; what was decided holds all the same.
func (t *Tool) Record(ctx context.Context, c *Changes) error {
	all := c.take()
	if len(all) == 0 {
		return nil
	}
	// The command may have been ended meanwhile; what it has decided it has decided.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWait)
	defer cancel()
	fail := func(err error) error {
		return fmt.Errorf("%d changes were decided and are not recorded, the first is %s: %w", len(all), all[0].Key, err)
	}
	user, err := t.Platform.Mint(platform.Ledger, platform.RoleSetup, t.Now(), toolLife)
	if err != nil {
		return fail(err)
	}
	self, err := ident.ParseUserKey(user.Key.Public())
	if err != nil {
		return fail(err)
	}
	nc, err := t.dialAs(ctx, natsconn.Static{Token: user.Token, Key: user.Key}, self)
	if err != nil {
		return fail(err)
	}
	defer nc.Close()
	home := t.Platform.File.Home
	store, h := stream.New(nc, home, self), audit.Head{Region: home, Writer: self}
	for len(all) > 0 {
		n := min(len(all), recordsAtOnce)
		h.N, h.At, h.JWT, h.End = h.N+1, t.Now().UnixMilli(), user.Token, n == len(all)
		b, err := audit.Seal(h, all[:n], user.Key)
		if err != nil {
			return fail(err)
		}
		if err := again(ctx, func(ctx context.Context) error { return store.Append(ctx, b) }); err != nil {
			return fail(err)
		}
		h.Chain, h.Prev, all = b.Chain, b.Sum, all[n:]
	}
	return nil
}

// again tries until it is stored; a stream knows a block that it was given before.
func again(ctx context.Context, f func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, recordTry)
		err := f(try)
		cancel()
		if err == nil || !errors.Is(err, audit.ErrUnavailable) || wait.For(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}
