package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Handed is a key that issuers are given through the ledger, sealed to region keys: that of a role,
// of a region, or the callout key.
type Handed struct {
	// Account and Role are whose a role key is, Region whose a region key is.
	Account ident.Label  `json:"account,omitzero"`
	Role    ident.Label  `json:"role,omitzero"`
	Region  ident.Region `json:"region,omitzero"`
	// From is the key that it was sealed by, made for this alone.
	From ident.SealKey `json:"from"`
	// Sealed is the seed, by the region key that it is sealed to.
	Sealed map[ident.SealKey][]byte `json:"sealed"`
}

const maxSealed = 256 // bytes of a seed that is sealed

// What names the key, for people to read.
func (h Handed) What() string {
	switch {
	case !h.Role.IsZero():
		return "the key of role " + h.Account.String() + "/" + h.Role.String()
	case !h.Region.IsZero():
		return "the region key of " + h.Region.String()
	}
	return "the callout key"
}

func (h Handed) check(kind Kind) error {
	role := !h.Account.IsZero() && !h.Role.IsZero() && h.Region.IsZero()
	seal := h.Account.IsZero() && h.Role.IsZero()
	if kind == KindRoleKey && !role || kind == KindSealKey && !seal || h.From.IsZero() || len(h.Sealed) == 0 {
		return errors.New("a key that is handed out is out of shape")
	}
	for to, data := range h.Sealed {
		if to.IsZero() || len(data) == 0 || len(data) > maxSealed {
			return errors.New("a key that is handed out is out of shape")
		}
	}
	return nil
}

// Hand puts a key: RoleKeyKey, SealKeyKey. What is there of it is replaced: it is the same key,
// sealed again.
func (d *Decider) Hand(ctx context.Context, key Key, h Handed, now time.Time) (Entry, error) {
	if err := h.check(key.Kind()); err != nil {
		return Entry{}, fmt.Errorf("putting %s: %w: %w", key, ErrDamaged, err)
	}
	return d.decide(ctx, key, func(*Entry) (*draft, error) { return &draft{at: now, body: h}, nil })
}

// Handed gives a key that was put; ErrNotFound if it is not there.
func (d *Decider) Handed(ctx context.Context, key Key) (Handed, error) {
	cur, _, err := d.get(ctx, key)
	if err != nil {
		return Handed{}, err
	}
	if cur == nil || cur.Denies {
		return Handed{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	h, ok := cur.Body.(Handed)
	if !ok {
		return Handed{}, fmt.Errorf("%s has a body of type %T: %w", key, cur.Body, ErrDamaged)
	}
	return h, nil
}

// TakeBack removes a key that is not used any more. One that is not there is no error: it was
// given to issuers as a file.
func (d *Decider) TakeBack(ctx context.Context, key Key, now time.Time) error {
	return d.takeBack(ctx, key, nil, now)
}

// Forget removes of a key what is sealed to some region keys, and all of it where nothing else is
// left.
func (d *Decider) Forget(ctx context.Context, key Key, gone []ident.SealKey, now time.Time) error {
	return d.takeBack(ctx, key, func(to ident.SealKey) bool { return !slices.Contains(gone, to) }, now)
}

func (d *Decider) takeBack(ctx context.Context, key Key, stays func(ident.SealKey) bool, now time.Time) error {
	_, err := d.decide(ctx, key, func(cur *Entry) (*draft, error) {
		switch {
		case cur == nil:
			return nil, ErrNotFound
		case cur.Denies:
			return nil, nil
		}
		h, _ := cur.Body.(Handed)
		left := map[ident.SealKey][]byte{}
		if stays != nil {
			left = maps.Clone(h.Sealed)
			maps.DeleteFunc(left, func(to ident.SealKey, _ []byte) bool { return !stays(to) })
		}
		switch len(left) {
		case 0:
			return &draft{at: now, denies: true}, nil // its seed goes
		case len(h.Sealed):
			return nil, nil
		}
		h.Sealed = left
		return &draft{at: now, body: h}, nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
