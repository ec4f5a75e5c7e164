package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// Base is an account's base claims: all of its JWT except revocations. The version of
// the entry and that which the JWT says (trust.TagBase) are the same: registrars join the
// JWT with what they find on servers, and there its own version decides. Were it less than
// the entry's, the change would never be made; were it more, no later one would.
type Base struct {
	JWT string `json:"jwt"` // an account JWT, signed by an operator signing key
	// Follows is the version of the platform document whose role keys it has, as a rank; 0 where
	// nobody said. None that follows an older one is put over it: who had looked at that document
	// would bring a key back that a later one has dropped.
	Follows uint64 `json:"follows,omitempty"`
}

func (b Base) check(op *trust.Operator, key Key, version uint64) error {
	a, err := op.OpenAccount(b.JWT)
	if err != nil {
		return err
	}
	if a.Account != key.Account() {
		return fmt.Errorf("the claims of account %s: %w", a.Account, trust.ErrUntrusted)
	}
	if a.Version != version {
		return fmt.Errorf("its JWT says version %d in an entry of version %d", a.Version, version)
	}
	return nil
}

// Base gives an account's base claims as home has them. ErrNotFound.
func (d *Decider) Base(ctx context.Context, account ident.AccountKey) (Entry, error) {
	cur, _, err := d.get(ctx, BaseKey(account))
	if err == nil && (cur == nil || cur.Denies) {
		err = fmt.Errorf("the base claims of %s: %w", account, ErrNotFound)
	}
	if err != nil {
		return Entry{}, err
	}
	return *cur, nil
}

// PutBase puts an account's base claims; was is the version that they are made upon,
// 0 for a new account, and b's JWT must say the one after it. ErrOld if the ledger has
// another, or one that follows a later platform document.
func (d *Decider) PutBase(ctx context.Context, account ident.AccountKey, b Base, was uint64, now time.Time) (Entry, error) {
	key := BaseKey(account)
	if err := b.check(d.Opener.Operator, key, was+1); err != nil {
		return Entry{}, fmt.Errorf("putting the base claims of %s: %w: %w", account, ErrDamaged, err)
	}
	return d.decide(ctx, key, func(cur *Entry) (*draft, error) {
		var have uint64
		if cur != nil {
			have = cur.Version
			old, ok := cur.Body.(Base)
			if ok && old == b && !cur.Denies {
				return nil, nil
			}
			if ok && old.Follows > b.Follows {
				return nil, fmt.Errorf("the base claims of %s follow a later platform document: %w", account, ErrOld)
			}
		}
		if have != was {
			return nil, fmt.Errorf("the base claims of %s are at version %d: %w", account, have, ErrOld)
		}
		return &draft{at: now, body: b}, nil
	})
}
