package ledger_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/trust"
)

func TestBeatsIsAStrictTotalOrder(t *testing.T) {
	draw := rapid.Custom(func(r *rapid.T) ledger.Entry {
		return ledger.Entry{
			Version: rapid.Uint64Range(1, 3).Draw(r, "version"), Denies: rapid.Bool().Draw(r, "denies"),
			At: time.UnixMilli(rapid.Int64Range(1, 2).Draw(r, "at")), Sum: ledger.Sum{rapid.Byte().Draw(r, "first"), 15: rapid.Byte().Draw(r, "last")},
		}
	})
	rapid.Check(t, func(r *rapid.T) {
		a, b, c := draw.Draw(r, "a"), draw.Draw(r, "b"), draw.Draw(r, "c")
		if a.Beats(a) {
			r.Fatal("one beats itself")
		}
		if same := a == b; a.Beats(b) == b.Beats(a) && !same || same && a.Beats(b) {
			r.Fatal("of two, not one holds")
		}
		if a.Beats(b) && b.Beats(c) && !a.Beats(c) {
			r.Fatal("it is not transitive")
		}
		switch {
		case a.Version != b.Version:
			if a.Beats(b) != (a.Version > b.Version) {
				r.Fatal("the lower version holds")
			}
		case a.Denies != b.Denies:
			if a.Beats(b) != a.Denies {
				r.Fatal("of two of one version the one that grants holds")
			}
		}
	})
}

// pool is entries of which tests draw: about a few keys, with versions that collide.
type pool struct {
	denials, decided []ledger.Entry
	account          ident.AccountKey
	users            []ident.UserKey
}

func newPool(t testing.TB, p *ledgertest.Platform) pool {
	t.Helper()
	out := pool{account: p.Account(t, "CHAT")}
	for i := range 3 {
		out.users = append(out.users, must[ident.UserKey](t)(ident.ParseUserKey(p.Key(t, keystore.User, fmt.Sprint(i)).Public())))
	}
	for _, u := range out.users {
		for version := range uint64(4) {
			for _, why := range []string{"a", "b"} {
				out.denials = append(out.denials, p.Entry(t, ledger.RevocationKey(out.account, u), 1000+version, true, now(), ledger.Revocation{Why: why}))
				for _, denies := range []bool{false, true} {
					for _, at := range []time.Time{now(), now().Add(time.Second)} {
						out.denials = append(out.denials, p.Entry(t, ledger.IdentitySuspension(ident.OpenIdentity(u)), 1+version, denies, at, ledger.Suspension{Why: why}))
					}
				}
			}
		}
	}
	for _, n := range []ident.Name{name(t, "alice"), name(t, "bob.b")} {
		for version := range uint64(3) {
			for _, u := range out.users {
				out.decided = append(out.decided, p.Entry(t, ledger.NameKey(n), 1+version, version == 1, now(), ledger.Name{Holder: ident.OpenIdentity(u)}))
			}
		}
	}
	for version := range uint64(3) {
		for uses := range 2 {
			out.decided = append(out.decided, p.Entry(t, ledger.InviteKey(ident.InviteOf("x")), 1+version, false, now(), invite(t, 1+uses)))
		}
	}
	for number := range uint32(3) {
		token := p.Document(t, 1, 1+number)
		out.decided = append(out.decided, must[ledger.Entry](t)(p.Opener().Open(ledger.PlatformKey().String(), token)))
	}
	return out
}

// exchange brings two regions to one state of denials, by what their digests differ
// in; it tells whether there was something to bring. link drops what it returns false for.
func exchange(a, b *ledger.Projection, link func() bool) bool {
	da, db := a.DenialDigest(), b.DenialDigest()
	if da.Root() == db.Root() {
		return false
	}
	differs := func(e ledger.Entry) bool { i := ledger.Bucket(e.Key); return da[i] != db[i] }
	for _, d := range []struct{ from, to *ledger.Projection }{{a, b}, {b, a}} {
		for _, e := range d.from.Denials(differs) {
			if link() {
				d.to.Apply(e)
			}
		}
	}
	return true
}

func always() bool { return true }

// same tells whether two know the same, and fails unless their digests are equal if and
// only if their denials are.
func same(r *rapid.T, a, b *ledger.Projection) bool {
	tokens := func(p *ledger.Projection) (all []string) {
		for _, e := range p.Denials(nil) {
			all = append(all, e.Token)
		}
		return all
	}
	da, db := a.DenialDigest(), b.DenialDigest()
	if denials := slices.Equal(tokens(a), tokens(b)); denials != (da == db) || denials != (da.Root() == db.Root()) {
		r.Fatalf("equal denials: %t, digests equal: %t", denials, da == db)
	}
	return bytes.Equal(a.Dump(), b.Dump())
}

// However entries come to those who know them, in the end all know the same: born in
// any region, sent on in any order, lost, sent again, exchanged pair by pair.
func TestAnyOrderGivesOneState(t *testing.T) {
	pool := newPool(t, newPlatform(t))
	rapid.Check(t, func(r *rapid.T) {
		regions := make([]*ledger.Projection, rapid.IntRange(2, 4).Draw(r, "regions"))
		for i := range regions {
			regions[i] = ledger.NewProjection(nil)
		}
		pick := func(label string) *ledger.Projection { return rapid.SampledFrom(regions).Draw(r, label) }
		born := rapid.SliceOfN(rapid.SampledFrom(pool.denials), 0, 20).Draw(r, "denials")
		for i, e := range born {
			pick("born in").Apply(e)
			a, b := pick("from"), pick("to")
			switch rapid.SampledFrom([]string{"nothing", "send", "exchange", "exchange over a bad link"}).Draw(r, "then") {
			case "send": // anything that was born before, once more
				b.Apply(born[rapid.IntRange(0, i).Draw(r, "which")])
			case "exchange":
				exchange(a, b, always)
			case "exchange over a bad link":
				exchange(a, b, func() bool { return rapid.Bool().Draw(r, "arrives") })
			}
			same(r, a, b)
		}
		// What home decides everybody reads in an order of their own, some of it twice.
		home := rapid.SliceOfN(rapid.SampledFrom(pool.decided), 0, 15).Draw(r, "decided")
		for _, p := range regions {
			for _, e := range rapid.Permutation(home).Draw(r, "order") {
				p.Apply(e)
			}
			for _, e := range rapid.SliceOfN(rapid.SampledFrom(append(home, pool.decided[0])), 0, 3).Draw(r, "again") {
				if slices.ContainsFunc(home, func(h ledger.Entry) bool { return h.Token == e.Token }) && p.Apply(e) {
					r.Fatal("an entry that was known came to hold again")
				}
			}
		}
		for range regions { // as many rounds as it takes news to go round
			for i, p := range regions {
				exchange(p, regions[(i+1)%len(regions)], always)
			}
		}
		all := ledger.NewProjection(nil)
		for _, e := range slices.Concat(born, home) {
			all.Apply(e)
		}
		for i, p := range regions {
			if !same(r, p, all) {
				r.Fatalf("region %d knows something else", i)
			}
			if exchange(p, all, always) {
				r.Fatalf("region %d is equal and has something to exchange", i)
			}
		}
	})
}

// Nothing that is revoked comes back, in no region, at no time.
func TestRevocationsOnlyGrow(t *testing.T) {
	pool := newPool(t, newPlatform(t))
	rapid.Check(t, func(r *rapid.T) {
		a, b := ledger.NewProjection(nil), ledger.NewProjection(nil)
		before := make(map[ident.UserKey][2]int64)
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			e := rapid.SampledFrom(pool.denials).Draw(r, "entry")
			rapid.SampledFrom([]*ledger.Projection{a, b}).Draw(r, "where").Apply(e)
			if rapid.Bool().Draw(r, "exchange") {
				exchange(a, b, always)
			}
			for _, u := range pool.users {
				is := [2]int64{a.RevokedBefore(pool.account, u), b.RevokedBefore(pool.account, u)}
				if was := before[u]; is[0] < was[0] || is[1] < was[1] {
					r.Fatalf("revoked before %v, and then before %v", was, is)
				}
				before[u] = is
			}
		}
	})
}

// Two regions suspend and resume by what each knows. In the end both know the same:
// the later counter, and of one counter the suspension.
func TestSuspendAndResumeRace(t *testing.T) {
	p := newPlatform(t)
	id := open(t)
	key := ledger.IdentitySuspension(id)
	account, user := p.Account(t, "CHAT"), ledgertest.User(t)
	rapid.Check(t, func(r *rapid.T) {
		regions := []*ledger.Projection{ledger.NewProjection(nil), ledger.NewProjection(nil), ledger.NewProjection(nil)}
		var stated []ledger.Entry
		for range rapid.IntRange(1, 15).Draw(r, "steps") {
			i := rapid.IntRange(0, len(regions)-1).Draw(r, "region")
			here := regions[i]
			var cur *ledger.Entry
			if e, ok := here.Get(key); ok {
				cur = &e
			}
			suspend := rapid.Bool().Draw(r, "suspend")
			seen := here.Version(key)
			stale := seen > 0 && rapid.Bool().Draw(r, "stale")
			if stale {
				seen--
			}
			e, err := ledger.Suspend(p.Opener(), p.Signer(i%2), key, cur, suspend, seen, ledger.Suspension{}, p.Now())
			if !suspend && stale != (err != nil) {
				r.Fatalf("resuming upon what was seen before: %t, got %v", stale, err)
			}
			if e != nil {
				here.Apply(*e)
				stated = append(stated, *e)
			}
			if _, denied := here.Denied(id, account, user); err == nil && denied != suspend {
				r.Fatalf("suspend: %t, and then suspended: %t", suspend, denied)
			}
			if rapid.Bool().Draw(r, "exchange") {
				exchange(here, rapid.SampledFrom(regions).Draw(r, "with"), always)
			}
		}
		for range regions {
			for i := range regions {
				exchange(regions[i], regions[(i+1)%len(regions)], always)
			}
		}
		var last uint64
		suspended := false
		for _, e := range stated {
			if e.Version > last {
				last, suspended = e.Version, false
			}
			suspended = suspended || e.Version == last && e.Denies
		}
		for i, region := range regions {
			if _, denied := region.Denied(id, account, user); denied != suspended || !same(r, region, regions[0]) {
				r.Fatalf("region %d suspends: %t, want %t", i, denied, suspended)
			}
		}
	})
}

// An entry of the future is refused, and believed once the clock gets there.
func TestEntriesOfTheFuture(t *testing.T) {
	p := newPlatform(t)
	for _, key := range []ledger.Key{ledger.AccountSuspension(p.Account(t, "CHAT")), ledger.IdentitySuspension(open(t))} {
		rapid.Check(t, func(r *rapid.T) {
			clock := now()
			o := ledger.Opener{Operator: p.Operator, Now: func() time.Time { return clock }}
			ahead := time.Duration(rapid.Int64Range(-1000, 1000).Draw(r, "ms")) * time.Millisecond
			at := now().Add(ledger.MaxAhead + ahead)
			token := p.Token(t, p.Signing[0], trust.Entry{Subject: key.String(), Version: 1, At: at.UnixMilli()}, nil)
			_, err := o.Open(key.String(), token)
			if ahead > 0 {
				want(r, "beyond the limit", err, ledger.ErrAhead)
			} else {
				want(r, "within it", err, nil)
			}
			clock = clock.Add(max(ahead, 0))
			_, err = o.Open(key.String(), token)
			want(r, "when the clock gets there", err, nil)
		})
	}
}

// A copy of names restores what was known, and no older state over a newer one.
func TestRestoreName(t *testing.T) {
	pool := newPool(t, newPlatform(t))
	rapid.Check(t, func(r *rapid.T) {
		a, b, all := ledger.NewProjection(nil), ledger.NewProjection(nil), ledger.NewProjection(nil)
		names := rapid.Custom(func(r *rapid.T) ledger.Entry {
			return rapid.SampledFrom(pool.decided).Filter(func(e ledger.Entry) bool { return e.Key.Kind() == ledger.KindName }).Draw(r, "name")
		})
		for _, e := range rapid.SliceOfN(names, 0, 10).Draw(r, "copied") {
			a.Apply(e)
			all.Apply(e)
		}
		for _, e := range rapid.SliceOfN(names, 0, 10).Draw(r, "known") {
			b.Apply(e)
			all.Apply(e)
		}
		a.Names(func(k ledger.KnownName) bool { b.RestoreName(k); return true })
		if !same(r, b, all) {
			r.Fatal("a copy and what is known make something else")
		}
	})
}

func TestProjectionCounts(t *testing.T) {
	pool := newPool(t, newPlatform(t))
	changes := 0
	p := ledger.NewProjection(func(ledger.Entry) { changes++ })
	held := 0
	for _, e := range slices.Concat(pool.denials, pool.decided) {
		if p.Apply(e) {
			held++
		}
	}
	if names, decided, denials := p.Len(); names != 2 || decided != 2 || denials != 6 {
		t.Errorf("%d names, %d others, %d denials", names, decided, denials)
	}
	if changes != held || held == 0 {
		t.Errorf("%d came to hold, %d were told", held, changes)
	}
	if k, ok := p.KnownName(name(t, "alice")); !ok || k.Version != 3 || p.Version(ledger.NameKey(k.Name)) != 3 {
		t.Errorf("%+v", k)
	}
	if n, gone, ok := p.Name(name(t, "carol")); ok || gone || n != (ledger.Name{}) {
		t.Errorf("%+v", n)
	}
}
