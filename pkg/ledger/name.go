package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Name is what the ledger has of a name: who holds it, and until when.
//
// A name belongs to an identity, which may use it with several nkeys at once. A name
// that came with a grant or a proof is held until it is released. One that its holder
// chose, or whose holder is known by an nkey alone, lapses some time after the last
// credential under it ended, and of those that it chooses an identity has a few: names are
// few, and nkeys and wishes are not. Whether released or lapsed, a name then rests: its last
// holder may take it again, nobody else may, so that nobody is taken for who had it
// yesterday.
type Name struct {
	Holder  ident.Identity `json:"holder"`
	Claimed int64          `json:"claimed"`         // seconds since 1970
	Until   int64          `json:"until,omitempty"` // seconds; when it lapses. 0: held until released
	Rests   int64          `json:"rests,omitempty"` // seconds; until when a name that is gone rests
	User    ident.UserKey  `json:"user,omitzero"`   // the nkey whose request claimed it
	Nonce   string         `json:"nonce,omitempty"` // of that request
}

// NameRules say how long names are kept.
type NameRules struct {
	Lapse time.Duration `json:"lapse"` // how long a name that lapses outlives its last credential
	Rest  time.Duration `json:"rest"`  // how long a name that is gone is kept from others
	// Step is the least by which a name's time is extended, so that a name is not written
	// again at each renewal.
	Step time.Duration `json:"step"`
	// Most is how many names an identity may have and choose another: 0 is DefaultMostNames.
	Most int `json:"most,omitempty"`
}

// DefaultMostNames is enough for a person with a few and for a service whose replicas have
// names of their own; MaxMostNames is the most that may be set.
const (
	DefaultMostNames = 64
	MaxMostNames     = 100_000
)

// AtMost is how many names an identity may have and choose another.
func (r NameRules) AtMost() int {
	if r.Most <= 0 {
		return DefaultMostNames
	}
	return r.Most
}

// DefaultNameRules say that a name lapses after 30 days and rests for a week.
func DefaultNameRules() NameRules {
	const day = 24 * time.Hour
	return NameRules{Lapse: 30 * day, Rest: 7 * day, Step: day}
}

// state is how a name is at a moment.
type state int

const (
	free state = iota
	held
	resting
)

// stateAt says how a name is; n is nil if there is no entry, gone if the entry denies.
func (r NameRules) stateAt(n *Name, gone bool, now time.Time) state {
	switch t := now.Unix(); {
	case n == nil:
		return free
	case gone && t < n.Rests, !gone && n.Until != 0 && t > n.Until && t-n.Until < int64(r.Rest/time.Second):
		return resting
	case gone, n.Until != 0 && t > n.Until:
		return free
	default:
		return held
	}
}

// HeldBy tells whether id holds the name now, and if not, whether another identity
// holds it or it rests for another: ErrTaken, ErrResting. An entry that neither
// keeps the name from id nor gives it to id is ErrNotFound: then home decides. So it is for
// who had the name openly and comes with an invitation, by the same key.
func (r NameRules) HeldBy(n Name, gone bool, id ident.Identity, now time.Time) error {
	switch r.stateAt(&n, gone, now) {
	case held:
		if n.Holder == id {
			return nil
		}
		if !n.Holder.Becomes(id) {
			return ErrTaken
		}
	case resting:
		if n.Holder != id && !n.Holder.Becomes(id) {
			return ErrResting
		}
	}
	return ErrNotFound
}

// Told is what who asks for a name hears of an error of HeldBy or Claim: that the name is
// somebody else's. Who chose it can choose another; who was given it cannot. Other errors are
// given as they are.
func Told(name ident.Name, chosen bool, err error) error {
	hint := "choose another name"
	if !chosen {
		hint = "ask the platform's operator: the name comes with what you are granted, or with your proof, and somebody else has it"
	}
	switch {
	case errors.Is(err, ErrTaken):
		return wire.Errorf(wire.NameTaken, hint, "the name %s belongs to somebody else", name)
	case errors.Is(err, ErrResting):
		if chosen {
			hint += ", or wait until it is free"
		}
		return wire.Errorf(wire.NameTaken, hint, "the name %s was somebody else's until lately", name)
	}
	return err
}

// Claim is who asks for a name.
type Claim struct {
	Name     ident.Name
	Identity ident.Identity
	User     ident.UserKey
	Nonce    string
	Expires  time.Time // when the last credential ends that may be given for this claim
	Chosen   bool      // nothing gives the name but the wish for it
	// May is asked before a name is given that the identity does not have, perhaps several
	// times; its error is given. fresh tells that nobody ever had it. nil allows it.
	May func(fresh bool) error
}

// Lapses tells whether all names of an identity lapse: it is known by an nkey alone.
func Lapses(id ident.Identity) bool {
	return id.Kind() == ident.KindOpen || id.Kind() == ident.KindInvite
}

// until is when a name lapses that is used until c.Expires; 0 if it does not.
func (r NameRules) until(c Claim) int64 {
	if !c.Chosen && !Lapses(c.Identity) {
		return 0
	}
	return c.Expires.Add(r.Lapse).Unix()
}

// claim is the rule: nil if the name is the claimer's as it should be.
func (r NameRules) claim(cur *Entry, c Claim, now time.Time) (*draft, error) {
	fresh := Name{
		Holder: c.Identity, Claimed: now.Unix(), Until: r.until(c), User: c.User, Nonce: c.Nonce,
	}
	give := func() (*draft, error) {
		if c.May != nil {
			if err := c.May(cur == nil); err != nil {
				return nil, err
			}
		}
		return &draft{at: now, body: fresh}, nil
	}
	if cur == nil {
		return give()
	}
	n, _ := cur.Body.(Name)
	switch r.stateAt(&n, cur.Denies, now) {
	case held:
		if n.Holder.Becomes(c.Identity) {
			return give()
		}
		if n.Holder != c.Identity {
			return nil, ErrTaken
		}
		switch {
		case n.Until == 0: // it was given once, and is kept
			return nil, nil
		case fresh.Until != 0 && fresh.Until-n.Until < int64(r.Step/time.Second):
			return nil, nil
		}
		n.Until = fresh.Until
		return &draft{at: now, body: n}, nil
	case resting:
		if n.Holder != c.Identity && !n.Holder.Becomes(c.Identity) {
			return nil, ErrResting
		}
	}
	return give()
}

// Claim gives a name to an identity unless it is, or lately was, another's. Of two
// that claim at the same moment one gets it. Claiming what one has answers the entry
// that is there. ErrTaken, ErrResting, ErrDamaged, ErrConflict, ErrUnavailable.
func (d *Decider) Claim(ctx context.Context, c Claim, now time.Time) (Entry, error) {
	return d.decide(ctx, NameKey(c.Name), func(cur *Entry) (*draft, error) { return d.Rules.claim(cur, c, now) })
}

// Free tells whether an identity may have a name, as the leader of the store has it: nil,
// ErrTaken or ErrResting.
func (d *Decider) Free(ctx context.Context, name ident.Name, id ident.Identity, now time.Time) error {
	cur, _, err := d.get(ctx, NameKey(name))
	if err != nil || cur == nil {
		return err
	}
	n, _ := cur.Body.(Name)
	if err := d.Rules.HeldBy(n, cur.Denies, id, now); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// Refresh keeps a name that lapses for its holder, who has a credential until expires. It
// changes nothing for anybody else, for names that do not lapse, and where less than
// Rules.Step would be gained. ErrNotFound if the identity does not hold the name.
func (d *Decider) Refresh(ctx context.Context, name ident.Name, id ident.Identity, expires, now time.Time) (Entry, error) {
	return d.decide(ctx, NameKey(name), func(cur *Entry) (*draft, error) {
		if cur == nil {
			return nil, ErrNotFound
		}
		n, _ := cur.Body.(Name)
		if d.Rules.stateAt(&n, cur.Denies, now) != held || n.Holder != id {
			return nil, ErrNotFound
		}
		until := expires.Add(d.Rules.Lapse).Unix()
		if n.Until == 0 || until-n.Until < int64(d.Rules.Step/time.Second) {
			return nil, nil
		}
		n.Until = until
		return &draft{at: now, body: n}, nil
	})
}

// Release takes a name from its holder, by an administrator's decision. It rests
// then, and only to may have it until it has rested: zero is who had it. Releasing it again
// changes that, if another is named. from is who was seen to have it, zero for whoever
// has. ErrNotFound if nobody has it, ErrOld if another does.
func (d *Decider) Release(ctx context.Context, name ident.Name, from, to ident.Identity, now time.Time) (Entry, error) {
	return d.decide(ctx, NameKey(name), func(cur *Entry) (*draft, error) {
		if cur == nil {
			return nil, ErrNotFound
		}
		n, ok := cur.Body.(Name)
		if !ok {
			return nil, fmt.Errorf("the entry of %s has no holder: %w", name, ErrDamaged)
		}
		if cur.Denies {
			if to.IsZero() || to == n.Holder || d.Rules.stateAt(&n, true, now) != resting {
				return nil, nil
			}
			n.Holder = to
			return &draft{at: now, denies: true, body: n}, nil
		}
		if d.Rules.stateAt(&n, false, now) != held {
			return nil, ErrNotFound // it lapsed, and its rest is not to begin again
		}
		if !from.IsZero() && n.Holder != from {
			return nil, ErrOld
		}
		n.Rests = now.Add(d.Rules.Rest).Unix()
		if !to.IsZero() {
			n.Holder = to
		}
		return &draft{at: now, denies: true, body: n}, nil
	})
}
