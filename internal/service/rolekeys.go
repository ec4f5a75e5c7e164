package service

import (
	"context"
	"fmt"
	"log/slog"
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

// handed are keys that an issuer was given through the ledger, sealed to its region's key: those
// that replace others. What is in its folder need not be brought up to date for them.
type handed struct {
	region ident.Region
	ledger *ledger.Projection
	log    *slog.Logger

	mu     sync.Mutex
	opened map[ledger.Key]*keystore.Key // what was opened before
	failed map[ledger.Key]bool          // of which it was said that they cannot be opened
}

func newHanded(region ident.Region, l *ledger.Projection, log *slog.Logger) *handed {
	return &handed{region: region, ledger: l, log: log, opened: map[ledger.Key]*keystore.Key{}, failed: map[ledger.Key]bool{}}
}

// with adds to the keys of a folder those of the ledger that a document may have something
// sealed to or issued by.
func (h *handed) with(folder provision.Keys, d *ledger.Document) provision.Keys {
	all := folder.Clone()
	h.mu.Lock()
	defer h.mu.Unlock()
	// Region keys first: the others are sealed to them.
	r, _ := d.Public.Region(h.region)
	for _, public := range r.SealKeys() {
		if all.Region[public] == nil && !public.IsZero() {
			if key := h.open(ledger.SealKeyKey(public), public.String(), keystore.Curve, all.Region); key != nil {
				all.Region[public] = key
			}
		}
	}
	for _, o := range d.Policy.Offers {
		a, _ := d.Public.Account(o.Account)
		for _, role := range a.Roles {
			if role.Name != o.Role {
				continue
			}
			for _, public := range role.Keys() {
				if all.Roles[public] == nil {
					if key := h.open(ledger.RoleKeyKey(public), public.String(), keystore.Account, all.Region); key != nil {
						all.Roles[public] = key
					}
				}
			}
		}
	}
	return all
}

// open opens one; nil if it is not there, or not for here. h.mu is held.
func (h *handed) open(at ledger.Key, public string, kind keystore.Kind, by map[ident.SealKey]*keystore.Key) *keystore.Key {
	if key := h.opened[at]; key != nil {
		return key
	}
	k, ok := h.ledger.Handed(at)
	if !ok {
		return nil
	}
	for to, seal := range by {
		sealed := k.Sealed[to]
		if len(sealed) == 0 {
			continue
		}
		key, err := platformKey(seal, k, sealed, public, kind)
		if err == nil {
			h.opened[at] = key
			return key
		}
		if !h.failed[at] {
			h.log.Error("a key of the ledger cannot be opened here", "what", k.What(), "key", public, "error", err)
			h.failed[at] = true
		}
	}
	return nil
}

func platformKey(seal *keystore.Key, k ledger.Handed, sealed []byte, public string, kind keystore.Kind) (*keystore.Key, error) {
	seed, err := seal.Pair().Open(sealed, k.From.String())
	if err != nil {
		return nil, fmt.Errorf("it is not sealed to this region's key: %w", err)
	}
	key, err := keystore.Parse(kind, seed)
	if err != nil {
		return nil, err
	}
	if key.Public() != public {
		return nil, fmt.Errorf("what is sealed is key %s", key.Public())
	}
	return key, nil
}

const (
	// tellAfter is how long after a document came into force an issuer records that it works by
	// it: longer than any request is answered by the document before.
	tellAfter = 15 * time.Second
	// tellAgain is how often it does so while keys are being replaced.
	tellAgain = 15 * time.Minute
)

// tells records by which platform document an issuer works, and which region key is in its folder,
// until ctx ends: registrars have a key go only when all issuers work by a document that has another.
func tells(ctx context.Context, svc *provision.Service, document func() *ledger.Document, ready func(*ledger.Document) (keeps string, ok bool), note func(audit.Record), clock func() time.Time, after time.Duration) {
	var (
		rank, told uint64
		kept       string
		since, at  time.Time
	)
	for wait.For(ctx, after/15) == nil {
		d, now := document(), clock()
		if r := svc.Rank(); r != rank {
			rank, since = r, now
		}
		again := len(d.Rotations)+len(d.SealRotations) > 0 && now.Sub(at) > tellAgain
		if rank == 0 || now.Sub(since) < after {
			continue
		}
		keeps, ok := ready(d)
		if !ok || rank == told && keeps == kept && !again {
			continue
		}
		note(audit.Record{What: audit.Use, At: now.UnixMilli(), Key: keeps, Version: rank})
		told, kept, at = rank, keeps, now
	}
}

// ready tells whether all keys are here that are going to be issued by, or sealed to, in place of
// others, and which region key is in the folder: the one in use, if it is.
func (h *handed) ready(held provision.Held, folder provision.Keys, d *ledger.Document) (keeps string, ok bool) {
	r, _ := d.Public.Region(h.region)
	for public := range folder.Region {
		if keeps == "" || public == r.SealKey {
			keeps = public.String()
		}
	}
	have := h.with(folder, d)
	for _, r := range d.Rotations {
		offered := slices.ContainsFunc(d.Policy.Offers, func(o policy.Offer) bool { return o.Account == r.Account && o.Role == r.Role })
		if offered && have.Roles[r.To] == nil {
			return keeps, false
		}
	}
	return keeps, held.SealKeys
}
