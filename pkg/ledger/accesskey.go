package ledger

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
)

// AccessKey is how the platform knows a program: the public half of its key, and
// what it may have. It is disabled here, in home; or by suspending its identity, which any
// region may. That it is removed is decided in home, for good.
type AccessKey struct {
	Public   ident.UserKey   `json:"public"` // of the ed25519 key whose seed is the secret
	Owner    string          `json:"owner"`  // who answers for it, for people to read
	Grants   []authn.Granted `json:"grants"`
	Expires  int64           `json:"expires,omitempty"`  // seconds since 1970; 0: never
	Networks []netip.Prefix  `json:"networks,omitempty"` // where it may be used from; none: anywhere
	Password bool            `json:"password,omitempty"` // whether the callout door takes it as a password
	Disabled bool            `json:"disabled,omitempty"` // whether it proves nothing for now
	// Former are the public halves of secrets that it had before.
	Former []ident.UserKey `json:"former,omitempty"`
}

// maxFormer is how many former secrets are remembered.
const maxFormer = 8

// Rotate gives the key another secret.
func (a AccessKey) Rotate(public ident.UserKey) AccessKey {
	a.Former = append([]ident.UserKey{a.Public}, a.Former...)
	a.Former = a.Former[:min(len(a.Former), maxFormer)]
	a.Public = public
	return a
}

// Record is the key as it is proved by.
func (a AccessKey) Record() authn.KeyRecord {
	r := authn.KeyRecord{Public: a.Public, Granted: a.Grants, Networks: a.Networks, Disabled: a.Disabled, Password: a.Password}
	if a.Expires > 0 {
		r.Expires = time.Unix(a.Expires, 0)
	}
	return r
}

func (a AccessKey) check() error {
	if a.Public.IsZero() || len(a.Grants) == 0 || len(a.Grants) > 64 || len(a.Owner) > 256 || len(a.Networks) > 64 || len(a.Former) > maxFormer {
		return fmt.Errorf("an access key out of shape")
	}
	return nil
}

func (a AccessKey) equal(b AccessKey) bool {
	return a.Public == b.Public && a.Owner == b.Owner && a.Expires == b.Expires && a.Password == b.Password && a.Disabled == b.Disabled && slices.Equal(a.Former, b.Former) &&
		slices.Equal(a.Grants, b.Grants) && slices.Equal(a.Networks, b.Networks)
}

// PutAccessKey makes an access key or changes one: was is the version that the
// change is made upon, 0 for a new key. Putting what is there changes nothing.
// ErrOld if the ledger has another version, ErrNotFound if the key was removed.
func (d *Decider) PutAccessKey(ctx context.Context, id ident.KeyID, a AccessKey, was uint64, now time.Time) (Entry, error) {
	if err := a.check(); err != nil {
		return Entry{}, fmt.Errorf("putting access key %s: %w: %w", id, ErrDamaged, err)
	}
	return d.decide(ctx, AccessKeyKey(id), func(cur *Entry) (*draft, error) {
		var have uint64
		if cur != nil {
			have = cur.Version
			if cur.Denies {
				return nil, ErrNotFound // what is removed stays so; a new key has a new id
			}
			if old, ok := cur.Body.(AccessKey); ok && old.equal(a) {
				return nil, nil
			}
		}
		if have != was {
			return nil, fmt.Errorf("access key %s is at version %d: %w", id, have, ErrOld)
		}
		return &draft{at: now, body: a}, nil
	})
}

// RemoveAccessKey removes an access key for good. ErrNotFound.
func (d *Decider) RemoveAccessKey(ctx context.Context, id ident.KeyID, now time.Time) (Entry, error) {
	return d.remove(ctx, AccessKeyKey(id), now)
}
