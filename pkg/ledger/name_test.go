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
	invited := ident.InviteIdentity(ledgertest.User(t))
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
		"chosen by who proved more than an nkey": {
			{37 * day, "choose", key, nil, true},
			{37 * day, "heldby", key, nil, false},
			{38 * day, "refresh", key, nil, true},
			{68 * day, "claim", b, ledger.ErrTaken, false},
			{68*day + time.Second, "claim", b, ledger.ErrResting, false},
			{75 * day, "claim", b, nil, true},
		},
		"chosen once, and given since": {
			{37 * day, "choose", key, nil, true},
			{38 * day, "claim", key, nil, true},
			{10000 * day, "claim", b, ledger.ErrTaken, false},
			{10000 * day, "choose", key, nil, false}, // what was given is kept
		},
		"an invitation's name, whose holder is an nkey": {
			{37 * day, "claim", invited, nil, true},
			{67*day + time.Second, "claim", b, ledger.ErrResting, false},
			{74 * day, "claim", b, nil, true},
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
				case "choose":
					c := claimOf(alice, s.by, user, at)
					c.Chosen = true
					e, err = h.Claim(t.Context(), c, at)
				case "claim":
					e, err = h.Claim(t.Context(), claimOf(alice, s.by, user, at), at)
				case "refresh":
					e, err = h.Refresh(t.Context(), alice, s.by, at, at)
				case "release":
					e, err = h.Release(t.Context(), alice, ident.Identity{}, ident.Identity{}, at)
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
	_, err = h.Release(t.Context(), name(t, "alice"), ident.Identity{}, ident.Identity{}, now())
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
				_, err = h.Release(t.Context(), alice, ident.Identity{}, ident.Identity{}, at)
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

// TestReleaseFrom: what another has by now is not released by who saw an earlier holder.
func TestReleaseFrom(t *testing.T) {
	h := newHome(t)
	a, b, alice := open(t), open(t), name(t, "alice")
	if _, err := h.Claim(t.Context(), claimOf(alice, a, ledgertest.User(t), now()), now()); err != nil {
		t.Fatal(err)
	}
	_, err := h.Release(t.Context(), alice, b, ident.Identity{}, now())
	want(t, "from another", err, ledger.ErrOld)
	e, err := h.Release(t.Context(), alice, a, ident.Identity{}, now())
	if err != nil || !e.Denies {
		t.Errorf("from its holder: %+v %v", e, err)
	}
}

// TestReleaseTo: a name that is released to somebody rests for them, and for nobody else.
func TestReleaseTo(t *testing.T) {
	h := newHome(t)
	a, b, c, alice := open(t), open(t), open(t), name(t, "alice")
	claim := func(id ident.Identity, at time.Time) error {
		_, err := h.Claim(t.Context(), claimOf(alice, id, ledgertest.User(t), at), at)
		return err
	}
	want(t, "free", claim(a, now()), nil)
	if _, err := h.Release(t.Context(), alice, a, b, now()); err != nil {
		t.Fatal(err)
	}
	want(t, "its last holder", claim(a, now()), ledger.ErrResting)
	want(t, "somebody else", claim(c, now()), ledger.ErrResting)
	// While it rests another may be named; its rest does not begin again.
	e, err := h.Release(t.Context(), alice, ident.Identity{}, c, now().Add(time.Second))
	if n, ok := e.Body.(ledger.Name); err != nil || !ok || n.Holder != c || n.Rests != now().Add(h.Rules.Rest).Unix() {
		t.Errorf("%+v %v", e, err)
	}
	h.Advance(100 * day)
	want(t, "who was named before", claim(b, now().Add(time.Minute)), ledger.ErrResting)
	want(t, "who is named", claim(c, now().Add(time.Minute)), nil)
	want(t, "somebody else, then", claim(a, now().Add(8*day)), ledger.ErrTaken)
}

// TestClaimMay: who may have no more names is told before one is given, and not where
// nothing is given.
func TestClaimMay(t *testing.T) {
	h := newHome(t)
	full := errors.New("full")
	user := ledgertest.User(t)
	a, alice := ident.OpenIdentity(user), name(t, "alice")
	asked := 0
	ask := func(n ident.Name, id ident.Identity, may error, at time.Time) error {
		c := claimOf(n, id, user, at)
		c.May = func(bool) error { asked++; return may }
		_, err := h.Claim(t.Context(), c, at)
		return err
	}
	want(t, "without room", ask(alice, a, full, now()), full)
	if token, _, err := h.store.Get(t.Context(), ledger.NameKey(alice)); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("it was given: %q", token)
	}
	want(t, "with room", ask(alice, a, nil, now()), nil)
	want(t, "what it has", ask(alice, a, full, now()), nil)
	want(t, "another's", ask(alice, open(t), full, now()), ledger.ErrTaken)
	if asked != 2 {
		t.Errorf("it was asked %d times", asked)
	}
	// The same key with an invitation is another who has names.
	want(t, "with an invitation", ask(alice, ident.InviteIdentity(user), full, now()), full)
	h.Advance(100 * day)
	want(t, "when it lapsed", ask(alice, a, full, now().Add(50*day)), full)
}

// TestNameCounts: how many names somebody has is what a look at all of them says, whatever came
// in whatever order, from the ledger or from a copy.
func TestNameCounts(t *testing.T) {
	ids := []ident.Identity{open(t), open(t), ident.KeyIdentity(keyID(t, "HKABCDEFGHIJKLMNOPQR"))}
	var names []ident.Name
	for _, s := range []string{"a", "b", "c", "d", "e", "f"} {
		names = append(names, name(t, s))
	}
	rules := ledger.DefaultNameRules()
	rapid.Check(t, func(t *rapid.T) {
		p := ledger.NewProjection(nil)
		p.CountHolders()
		for range rapid.IntRange(0, 60).Draw(t, "changes") {
			k := ledger.KnownName{
				Name:   rapid.SampledFrom(names).Draw(t, "name"),
				Holder: rapid.SampledFrom(ids).Draw(t, "holder"), Version: rapid.Uint64Range(1, 5).Draw(t, "version"),
				Denies: rapid.Bool().Draw(t, "denies"), At: rapid.Int64Range(1, 9).Draw(t, "at"),
			}
			if rapid.Bool().Draw(t, "lapses") {
				k.Until = now().Unix() + rapid.Int64Range(-2, 2).Draw(t, "until")
			}
			if rapid.Bool().Draw(t, "copied") {
				p.RestoreName(k)
				continue
			}
			p.Apply(ledger.Entry{
				Key: ledger.NameKey(k.Name), Version: k.Version, Denies: k.Denies, At: time.UnixMilli(k.At),
				Body: ledger.Name{Holder: k.Holder, Until: k.Until},
			})
		}
		for _, id := range ids {
			has, listed := 0, 0
			p.Names(func(k ledger.KnownName) bool {
				if k.Holder != id || k.Denies {
					return true
				}
				listed++
				if k.Until == 0 || now().Unix() <= k.Until {
					has++
				}
				return true
			})
			c := ledger.NameCounts{Projection: p, Now: now, Rules: func() ledger.NameRules { return rules }}
			if c.Listed(id) != listed || c.Held(id) != has {
				t.Fatalf("%s has %d names, and %d of them now: it says %d and %d", id, listed, has, c.Listed(id), c.Held(id))
			}
		}
	})
}
