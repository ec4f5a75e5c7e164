package service

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/provision"
)

// handed are role keys that an issuer was given through the ledger, sealed to its region's key:
// those that replace others. What is in its folder need not be brought up to date for them.
type handed struct {
	region ident.Region
	seal   *keystore.Key
	ledger *ledger.Projection
	log    *slog.Logger

	mu     sync.Mutex
	opened provision.RoleKeys        // by what was opened before
	failed map[ident.AccountKey]bool // of which it was said that they cannot be opened
}

func newHanded(region ident.Region, seal *keystore.Key, l *ledger.Projection, log *slog.Logger) *handed {
	return &handed{region: region, seal: seal, ledger: l, log: log, opened: provision.RoleKeys{}, failed: map[ident.AccountKey]bool{}}
}

// with adds to the keys of a folder those of the ledger that a document may have something
// issued by.
func (h *handed) with(folder provision.RoleKeys, d *ledger.Document) provision.RoleKeys {
	all := maps.Clone(folder)
	if all == nil {
		all = provision.RoleKeys{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range d.Policy.Offers {
		a, _ := d.Public.Account(o.Account)
		for _, role := range a.Roles {
			if role.Name != o.Role {
				continue
			}
			for _, public := range role.Keys() {
				if all[public] == nil {
					if key := h.open(public); key != nil {
						all[public] = key
					}
				}
			}
		}
	}
	return all
}

// open opens one; nil if it is not there, or not for here. h.mu is held.
func (h *handed) open(public ident.AccountKey) *keystore.Key {
	if key := h.opened[public]; key != nil {
		return key
	}
	k, ok := h.ledger.RoleKey(public)
	sealed := k.Sealed[h.region.String()]
	if !ok || len(sealed) == 0 {
		return nil
	}
	key, err := platformKey(h.seal, k, sealed, public)
	if err != nil {
		if !h.failed[public] {
			h.log.Error("a role key of the ledger cannot be opened here", "account", k.Account.String(), "role", k.Role.String(), "key", public.String(), "error", err)
			h.failed[public] = true
		}
		return nil
	}
	h.opened[public] = key
	return key
}

func platformKey(seal *keystore.Key, k ledger.RoleKey, sealed []byte, public ident.AccountKey) (*keystore.Key, error) {
	seed, err := seal.Pair().Open(sealed, k.From.String())
	if err != nil {
		return nil, fmt.Errorf("it is not sealed to this region's key: %w", err)
	}
	key, err := keystore.Parse(keystore.Account, seed)
	if err != nil {
		return nil, err
	}
	if key.Public() != public.String() {
		return nil, fmt.Errorf("what is sealed is key %s", key.Public())
	}
	return key, nil
}

const (
	// tellAfter is how long after a document came into force an issuer records that it works by
	// it: longer than any request is answered by the document before.
	tellAfter = 15 * time.Second
	// tellAgain is how often it does so while role keys are being replaced.
	tellAgain = 15 * time.Minute
)

// tells records by which platform document an issuer works, until ctx ends: registrars have a
// role key go only when all issuers work by a document that has another.
func tells(ctx context.Context, svc *provision.Service, document func() *ledger.Document, ready func(*ledger.Document) bool, note func(audit.Record), clock func() time.Time, after time.Duration) {
	var (
		rank, told uint64
		since, at  time.Time
	)
	for wait.For(ctx, after/15) == nil {
		d, now := document(), clock()
		if r := svc.Rank(); r != rank {
			rank, since = r, now
		}
		again := len(d.Rotations) > 0 && now.Sub(at) > tellAgain
		if rank == 0 || rank == told && !again || now.Sub(since) < after || !ready(d) {
			continue
		}
		note(audit.Record{What: audit.Use, At: now.UnixMilli(), Version: rank})
		told, at = rank, now
	}
}

// ready tells whether all keys are here that are going to be issued by in place of others.
func (h *handed) ready(folder provision.RoleKeys, d *ledger.Document) bool {
	have := h.with(folder, d)
	for _, r := range d.Rotations {
		offered := slices.ContainsFunc(d.Policy.Offers, func(o policy.Offer) bool { return o.Account == r.Account && o.Role == r.Role })
		if offered && have[r.To] == nil {
			return false
		}
	}
	return true
}
