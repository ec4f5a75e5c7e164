package ledger

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
)

// MaxUses bounds how often one invitation may be used: its entry lists who did, and has
// to fit into an answer (wire.MaxAnswer).
const MaxUses = 400

// Invite is an invitation: a code that gives a role, as often as Uses says. The
// ledger knows the code's hash only, as the key.
type Invite struct {
	Account  ident.Label  `json:"account"`
	Role     ident.Label  `json:"role"`
	Name     ident.Name   `json:"name,omitzero"` // the name that it gives, if any
	Uses     int          `json:"uses"`          // how many users may redeem it
	Expires  int64        `json:"expires"`       // seconds since 1970
	Redeemed []Redemption `json:"redeemed,omitempty"`
}

// Redemption is one use of an invitation.
type Redemption struct {
	User  ident.UserKey `json:"user"`
	Nonce string        `json:"nonce"`
	At    int64         `json:"at"` // seconds since 1970
}

func (i Invite) check() error {
	if i.Account.IsZero() || i.Role.IsZero() || i.Uses < 1 || i.Uses > MaxUses || i.Expires <= 0 || len(i.Redeemed) > i.Uses {
		return fmt.Errorf("an invitation out of shape")
	}
	return nil
}

// offers tells whether both offer the same, whoever has redeemed them.
func (i Invite) offers(o Invite) bool {
	return i.Account == o.Account && i.Role == o.Role && i.Name == o.Name && i.Uses == o.Uses && i.Expires == o.Expires
}

// RedeemedBy tells whether a user has used it.
func (i Invite) RedeemedBy(user ident.UserKey) bool {
	return slices.ContainsFunc(i.Redeemed, func(r Redemption) bool { return r.User == user })
}

// Granted is the role that it gives.
func (i Invite) Granted() authn.Granted {
	return authn.Granted{Account: i.Account, Role: i.Role, Name: i.Name}
}

// Left is how often it may still be used.
func (i Invite) Left() int { return i.Uses - len(i.Redeemed) }

// CreateInvite makes an invitation. Creating the one that is there changes nothing.
// ErrOld if there is, or was, another with that id.
func (d *Decider) CreateInvite(ctx context.Context, id ident.InviteID, i Invite, now time.Time) (Entry, error) {
	if err := i.check(); err != nil {
		return Entry{}, fmt.Errorf("creating an invitation: %w: %w", ErrDamaged, err)
	}
	if len(i.Redeemed) > 0 {
		return Entry{}, fmt.Errorf("creating an invitation that was redeemed: %w", ErrDamaged)
	}
	return d.decide(ctx, InviteKey(id), func(cur *Entry) (*draft, error) {
		if cur != nil {
			old, _ := cur.Body.(Invite)
			if !cur.Denies && old.offers(i) {
				return nil, nil
			}
			return nil, ErrOld
		}
		return &draft{at: now, body: i}, nil
	})
}

// Redeem uses an invitation for a user. A user that redeemed it has it and does not
// use it up again, whatever the nonce: a request that is repeated, or passed on by
// two issuers, counts once. ErrNotFound (also when it was revoked), ErrExpired,
// ErrSpent.
func (d *Decider) Redeem(ctx context.Context, id ident.InviteID, user ident.UserKey, nonce string, now time.Time) (Entry, error) {
	return d.RedeemIf(ctx, id, user, nonce, now, func(Invite) error { return nil })
}

// RedeemIf is Redeem, where may is asked before anything is used up; its error is given.
func (d *Decider) RedeemIf(ctx context.Context, id ident.InviteID, user ident.UserKey, nonce string, now time.Time, may func(Invite) error) (Entry, error) {
	return d.decide(ctx, InviteKey(id), func(cur *Entry) (*draft, error) {
		if cur == nil || cur.Denies {
			return nil, ErrNotFound
		}
		i, _ := cur.Body.(Invite)
		if i.RedeemedBy(user) {
			return nil, nil
		}
		switch {
		case now.Unix() >= i.Expires:
			return nil, ErrExpired
		case i.Left() <= 0:
			return nil, ErrSpent
		}
		if err := may(i); err != nil {
			return nil, err
		}
		// A copy: the entry that was read is not ours to write in.
		i.Redeemed = append(i.Redeemed[:len(i.Redeemed):len(i.Redeemed)], Redemption{User: user, Nonce: nonce, At: now.Unix()})
		return &draft{at: now, body: i}, nil
	})
}

// Redeemed gives an invitation that a user has used, as the leader of the store has it.
// ErrNotFound, also where there is the invitation and the user has not used it.
func (d *Decider) Redeemed(ctx context.Context, id ident.InviteID, user ident.UserKey) (Invite, error) {
	e, _, err := d.get(ctx, InviteKey(id))
	if err != nil {
		return Invite{}, err
	}
	if e != nil {
		if i, ok := e.Body.(Invite); ok && i.RedeemedBy(user) {
			return i, nil
		}
	}
	return Invite{}, ErrNotFound
}

// RevokeInvite ends an invitation; who redeemed it keeps what they have. ErrNotFound.
func (d *Decider) RevokeInvite(ctx context.Context, id ident.InviteID, now time.Time) (Entry, error) {
	return d.remove(ctx, InviteKey(id), now)
}

// remove writes a signed tombstone with the last body.
func (d *Decider) remove(ctx context.Context, key Key, now time.Time) (Entry, error) {
	return d.decide(ctx, key, func(cur *Entry) (*draft, error) {
		switch {
		case cur == nil:
			return nil, ErrNotFound
		case cur.Denies:
			return nil, nil
		}
		return &draft{at: now, denies: true, body: cur.Body}, nil
	})
}
