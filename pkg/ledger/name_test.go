package ledger_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
)

func TestClaim(t *testing.T) {
	h := newHome(t)
	alice, user := name(t, "alice"), ledgertest.User(t)
	a, b := ident.OpenIdentity(user), open(t)
	first, err := h.Claim(t.Context(), claimOf(alice, a, user, now().Add(time.Hour)), now())
	if err != nil {
		t.Fatal(err)
	}
	body := ledger.Name{Holder: a, Claimed: now().Unix(), Until: now().Add(time.Hour + 30*day).Unix(), User: user, Nonce: "n1"}
	if first.Version != 1 || first.Denies || !first.At.Equal(now()) || first.Body != body {
		t.Errorf("%+v", first)
	}
	h.holds(t, first)
	again, err := h.Claim(t.Context(), claimOf(alice, a, user, now().Add(2*time.Hour)), now())
	if err != nil || again.Token != first.Token {
		t.Errorf("claimed again: another entry, %v", err)
	}
	_, err = h.Claim(t.Context(), claimOf(alice, b, user, now()), now())
	want(t, "by another", err, ledger.ErrTaken)
	_, err = h.Claim(t.Context(), claimOf(name(t, "alice.b"), b, user, now()), now())
	want(t, "another name", err, nil)
	h.holds(t, first)
}

// TestNameInTime walks one name through its life. Rules: it lapses 30 days after its
// last credential, rests for 7, and is extended by no less than one.
func TestNameInTime(t *testing.T) {
	user := ledgertest.User(t)
	a, b, key := ident.OpenIdentity(user), open(t), ident.KeyIdentity(keyID(t, "HKABCDEFGHIJKLMNOPQR"))
	alice := name(t, "alice")
	type step struct {
		after   time.Duration // since the claim, whose credential ends then
		do      string
		by      ident.Identity
		want    error
		changes bool
	}
	for what, steps := range map[string][]step{
		"held to the last second": {
			{30 * day, "claim", b, ledger.ErrTaken, false},
			{30 * day, "heldby", a, nil, false},
		},
		"lapses, and rests for others": {
			{30*day + time.Second, "heldby", a, ledger.ErrNotFound, false},
			{30*day + time.Second, "heldby", b, ledger.ErrResting, false},
			{30*day + time.Second, "claim", b, ledger.ErrResting, false},
			{37*day - time.Second, "claim", b, ledger.ErrResting, false},
			{37 * day, "heldby", b, ledger.ErrNotFound, false},
			{37 * day, "claim", b, nil, true},
			{37 * day, "claim", a, ledger.ErrTaken, false},
		},
		"its holder takes it again while it rests": {
			{31 * day, "claim", a, nil, true},
			{38 * day, "claim", b, ledger.ErrTaken, false},
		},
		"refreshed": {
			{day - time.Second, "refresh", a, nil, false},
			{day, "refresh", a, nil, true},
			{31 * day, "claim", b, ledger.ErrTaken, false},
			{31*day + time.Second, "claim", b, ledger.ErrResting, false},
			{32 * day, "refresh", a, ledger.ErrNotFound, false},
		},
		"refreshed by another": {
			{day, "refresh", b, ledger.ErrNotFound, false},
			{30*day + time.Second, "claim", b, ledger.ErrResting, false},
		},
		"claiming refreshes too": {
			{2 * day, "claim", a, nil, true},
			{32 * day, "claim", b, ledger.ErrTaken, false},
		},
		"released": {
			{time.Hour, "release", a, nil, true},
			{time.Hour, "heldby", a, ledger.ErrNotFound, false},
			{time.Hour, "heldby", b, ledger.ErrResting, false},
			{time.Hour, "refresh", a, ledger.ErrNotFound, false},
			{day, "release", a, nil, false}, // its rest does not begin again
			{7*day + time.Hour - time.Second, "claim", b, ledger.ErrResting, false},
			{7*day + time.Hour, "claim", b, nil, true},
		},
		"released, and taken again": {
			{time.Hour, "release", a, nil, true},
			{2 * time.Hour, "claim", a, nil, true},
			{8 * day, "claim", b, ledger.ErrTaken, false},
		},
		"released after it lapsed": {
			{31 * day, "release", a, ledger.ErrNotFound, false},
			{37 * day, "claim", b, nil, true},
		},
		"a grant's name is held until it is released": {
			{37 * day, "claim", key, nil, true},
			{10000 * day, "claim", a, ledger.ErrTaken, false},
			{10000 * day, "refresh", key, nil, false},
			{10000 * day, "release", key, nil, true},
			{10006 * day, "claim", a, ledger.ErrResting, false},
			{10007 * day, "claim", a, nil, true},
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHome(t)
			if _, err := h.Claim(t.Context(), claimOf(alice, a, user, now()), now()); err != nil {
				t.Fatal(err)
			}
			h.Advance(100000 * day) // entries are dated by the steps, not by the clock
			for _, s := range steps {
				at, before := now().Add(s.after), h.writes(t)
				var e ledger.Entry
				var err error
				switch s.do {
				case "claim":
					e, err = h.Claim(t.Context(), claimOf(alice, s.by, user, at), at)
				case "refresh":
					e, err = h.Refresh(t.Context(), alice, s.by, at, at)
				case "release":
					e, err = h.Release(t.Context(), alice, at)
				case "heldby":
					token, _, _ := h.store.Get(t.Context(), ledger.NameKey(alice))
					e = must[ledger.Entry](t)(h.Opener().Open(ledger.NameKey(alice).String(), token))
					err = h.Rules.HeldBy(e.Body.(ledger.Name), e.Denies, s.by, at)
				}
				if !errors.Is(err, s.want) {
					t.Errorf("%s after %s: got %v, want %v", s.do, s.after, err, s.want)
				}
				if changed := h.writes(t) != before; changed != s.changes {
					t.Errorf("%s after %s: the ledger changed: %t", s.do, s.after, changed)
				}
				if err == nil {
					h.holds(t, e)
				}
			}
		})
	}
}

func TestNamesThatNobodyHas(t *testing.T) {
	h := newHome(t)
	_, err := h.Refresh(t.Context(), name(t, "alice"), open(t), now(), now())
	want(t, "refreshing", err, ledger.ErrNotFound)
	_, err = h.Release(t.Context(), name(t, "alice"), now())
	want(t, "releasing", err, ledger.ErrNotFound)
}

// A name goes from one identity to another only if it was nobody's for as long as
// names rest; told by a model that knows nothing but who had it last, and until when.
func TestNamesAgainstAModel(t *testing.T) {
	alice, users := name(t, "alice"), []ident.UserKey{ledgertest.User(t), ledgertest.User(t)}
	ids := []ident.Identity{ident.OpenIdentity(users[0]), ident.OpenIdentity(users[1]), ident.KeyIdentity(keyID(t, "HKABCDEFGHIJKLMNOPQR"))}
	rapid.Check(t, func(r *rapid.T) {
		h := newHome(t)
		var (
			had      ident.Identity
			until    time.Time // zero: until it is released
			released bool
			freeAt   time.Time
		)
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			h.Advance(time.Duration(rapid.IntRange(0, 10*24).Draw(r, "hours")) * time.Hour)
			at, id := h.Now(), rapid.SampledFrom(ids).Draw(r, "who")
			held := !had.IsZero() && !released && (until.IsZero() || !at.After(until))
			lapses := at.Add(h.Rules.Lapse)
			extend := held && had == id && !until.IsZero() && lapses.Sub(until) >= h.Rules.Step
			var err, wanted error
			what := rapid.SampledFrom([]string{"claim", "claim", "refresh", "release"}).Draw(r, "what")
			switch what {
			case "claim":
				_, err = h.Claim(t.Context(), claimOf(alice, id, users[0], at), at)
				switch {
				case had.IsZero() || had == id:
				case held:
					wanted = ledger.ErrTaken
				case at.Before(freeAt):
					wanted = ledger.ErrResting
				}
				if wanted == nil && (!held || extend) {
					had, released, until, freeAt = id, false, time.Time{}, time.Time{}
					if id.Kind() == ident.KindOpen {
						until, freeAt = lapses, lapses.Add(h.Rules.Rest)
					}
				}
			case "refresh":
				_, err = h.Refresh(t.Context(), alice, id, at, at)
				if !held || had != id {
					wanted = ledger.ErrNotFound
				}
				if extend {
					until, freeAt = lapses, lapses.Add(h.Rules.Rest)
				}
			case "release":
				_, err = h.Release(t.Context(), alice, at)
				if !held && !released {
					wanted = ledger.ErrNotFound
				}
				if held {
					released, freeAt = true, at.Add(h.Rules.Rest)
				}
			}
			if !errors.Is(err, wanted) {
				r.Fatalf("%s by %s: got %v, want %v", what, id, err, wanted)
			}
		}
	})
}

// TestOpenBecomesInvited: who had a name openly keeps it with an invitation, by the same key
// alone; and not the other way round.
func TestOpenBecomesInvited(t *testing.T) {
	p := ledgertest.NewPlatform(t, "demo", time.Unix(1790000000, 0))
	d := p.Decider(new(memory.Decisions), 0)
	key, other := ledgertest.User(t), ledgertest.User(t)
	n := ledgertest.Name(t, "alice")
	claim := func(id ident.Identity, user ident.UserKey) error {
		_, err := d.Claim(t.Context(), ledger.Claim{Name: n, Identity: id, User: user, Nonce: "n", Expires: p.Now().Add(time.Hour)}, p.Now())
		return err
	}
	if err := claim(ident.OpenIdentity(key), key); err != nil {
		t.Fatal(err)
	}
	if err := d.Free(t.Context(), n, ident.InviteIdentity(key), p.Now()); err != nil {
		t.Errorf("it is not free for who has it: %v", err)
	}
	for what, id := range map[string]ident.Identity{"another's invitation": ident.InviteIdentity(other), "another": ident.OpenIdentity(other)} {
		if err := claim(id, other); !errors.Is(err, ledger.ErrTaken) || !errors.Is(d.Free(t.Context(), n, id, p.Now()), ledger.ErrTaken) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := claim(ident.InviteIdentity(key), key); err != nil {
		t.Errorf("with an invitation: %v", err)
	}
	if err := claim(ident.OpenIdentity(key), key); !errors.Is(err, ledger.ErrTaken) {
		t.Errorf("openly again: %v", err)
	}
}
