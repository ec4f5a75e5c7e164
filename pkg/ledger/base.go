package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// Base is an account's base claims: all of its JWT except revocations. The entry's
// version is the version of the claims. Registrars join it with what they find on
// servers.
type Base struct {
	JWT string `json:"jwt"` // an account JWT, signed by an operator signing key
}

func (b Base) check(op *trust.Operator, key Key) error {
	c, err := op.VerifyAccount(b.JWT)
	if err != nil {
		return err
	}
	if c.Subject != key.Account().String() {
		return fmt.Errorf("the claims of account %.60q: %w", c.Subject, trust.ErrUntrusted)
	}
	return nil
}

// PutBase puts an account's base claims; was is the version that they are made upon,
// 0 for a new account. ErrOld if the ledger has another.
func (d *Decider) PutBase(ctx context.Context, account ident.AccountKey, jwt string, was uint64, now time.Time) (Entry, error) {
	key := BaseKey(account)
	b := Base{JWT: jwt}
	if err := b.check(d.Opener.Operator, key); err != nil {
		return Entry{}, fmt.Errorf("putting the base claims of %s: %w: %w", account, ErrDamaged, err)
	}
	return d.decide(ctx, key, func(cur *Entry) (*draft, error) {
		var have uint64
		if cur != nil {
			have = cur.Version
			if old, ok := cur.Body.(Base); ok && old == b && !cur.Denies {
				return nil, nil
			}
		}
		if have != was {
			return nil, fmt.Errorf("the base claims of %s are at version %d: %w", account, have, ErrOld)
		}
		return &draft{at: now, body: b}, nil
	})
}
