package ledger_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
)

// Holdings against a list of all records, for clocks that also go back.
func TestHoldingsAgainstAModel(t *testing.T) {
	var pool []ledger.Credential
	ids := []ident.Identity{open(t), open(t), ident.KeyIdentity(keyID(t, "HKABCDEFGHIJKLMNOPQR"))}
	for i := range 6 {
		pool = append(pool, ledger.Credential{Identity: ids[i%len(ids)], Account: ledgertest.Account(t), User: ledgertest.User(t)})
	}
	// One user of two identities.
	pool = append(pool, ledger.Credential{Identity: ids[1], Account: pool[0].Account, User: pool[0].User})
	rapid.Check(t, func(r *rapid.T) {
		h, at, latest := ledger.NewHoldings(), now(), now()
		var all []ledger.Credential
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(-90, 300).Draw(r, "seconds")) * time.Second)
			if at.After(latest) {
				latest = at
			}
			rec := rapid.SampledFrom(pool).Draw(r, "whose")
			rec.Issued = at.Unix() - int64(rapid.IntRange(0, 900).Draw(r, "old"))
			rec.Expires = rec.Issued + int64(rapid.IntRange(1, 900).Draw(r, "life"))
			for range rapid.IntRange(1, 2).Draw(r, "times") {
				h.Add(rec, at)
			}
			all = append(all, rec)
			for _, id := range ids {
				expires := make(map[ident.UserKey]int64)
				issued := make(map[ident.UserKey]int64) // of those that live still
				for _, a := range all {
					if a.Identity == id && a.Expires > latest.Unix() {
						expires[a.User], issued[a.User] = max(expires[a.User], a.Expires), max(issued[a.User], a.Issued)
					}
				}
				got := h.Of(id, latest)
				if len(got) != len(expires) {
					r.Fatalf("%s holds %v, want %v", id, got, expires)
				}
				for i, held := range got {
					if expires[held.User] != held.Expires || held.Issued < issued[held.User] {
						r.Fatalf("%+v, want until %d, issued at %d or later", held, expires[held.User], issued[held.User])
					}
					if i > 0 && got[i-1].Account.String() > held.Account.String() {
						r.Fatal("out of order")
					}
				}
			}
		}
		for _, p := range pool {
			holders := map[ident.Identity]bool{}
			for _, a := range all {
				if a.User == p.User && a.Expires > latest.Unix() {
					holders[a.Identity] = true
				}
			}
			got := h.ByUser(p.User, latest)
			if len(got) != len(holders) {
				r.Fatalf("%s is held by %v, want %v", p.User, got, holders)
			}
			for _, g := range got {
				if !holders[g.Identity] || g.User != p.User {
					r.Fatalf("%+v", g)
				}
			}
		}
		// Who holds nothing any more is forgotten, at the next record a minute later.
		end := latest.Add(20 * time.Minute)
		last := pool[0]
		last.Issued, last.Expires = end.Unix(), end.Unix()+60
		h.Add(last, end)
		if n := h.Indexed(); n != 1 {
			r.Fatalf("%d users are remembered, and one has a credential", n)
		}
		if h.Len() != 1 {
			r.Fatalf("%d identities are remembered, and one holds a credential", h.Len())
		}
	})
}

// TestHoldingsDoNotGrow: who gets one credential after the other takes no more room than
// who got one.
func TestHoldingsDoNotGrow(t *testing.T) {
	h, at := ledger.NewHoldings(), now()
	c := ledger.Credential{Identity: open(t), Account: ledgertest.Account(t), User: ledgertest.User(t)}
	for range 1000 {
		at = at.Add(time.Second)
		c.Issued, c.Expires = at.Unix(), at.Add(12*time.Hour).Unix()
		h.Add(c, at)
	}
	if n := h.Scheduled(); n != 1 {
		t.Errorf("one user is kept %d times", n)
	}
	if all := h.Of(c.Identity, at.Add(12*time.Hour-time.Second)); len(all) != 1 {
		t.Errorf("%d users until the last credential ends", len(all))
	}
}
