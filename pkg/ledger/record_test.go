package ledger_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/wire"
)

func subjectOf(r ledger.Record) string { return r.Region.String() + "." + r.Issuer.String() }

func TestRecord(t *testing.T) {
	issuer, other := ledgertest.User(t), ledgertest.User(t)
	good := ledgertest.Record(t, issuer, now(), time.Hour)
	nameless := good
	nameless.Name = ident.Name{}
	oidc := must[ident.Identity](t)(ident.OIDCIdentity(ledgertest.Label(t, strings.Repeat("p", 32)), strings.Repeat("<", 255)))
	longest := good // what JSON makes the most of
	longest.ID, longest.Request, longest.Identity = strings.Repeat("\x01", 64), strings.Repeat("\x02", 64), oidc
	longest.Name, longest.Role = name(t, strings.Repeat("n", 32)), ledgertest.Label(t, strings.Repeat("r", 32))
	for what, r := range map[string]ledger.Record{"good": good, "nameless": nameless, "longest": longest} {
		data, err := r.Encode()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got, err := ledger.DecodeRecord(subjectOf(r), string(data), time.Hour)
		if err != nil || got != r {
			t.Errorf("%s: %+v %v", what, got, err)
		}
		_, err = ledger.DecodeRecord("sfo."+issuer.String(), string(data), time.Hour)
		want(t, "under another region", err, ledger.ErrDamaged)
		_, err = ledger.DecodeRecord("ams."+other.String(), string(data), time.Hour)
		want(t, "under another issuer", err, ledger.ErrDamaged)
		_, err = ledger.DecodeRecord(subjectOf(r), string(data), time.Hour-time.Second)
		want(t, "of a longer life than any", err, ledger.ErrDamaged)
		_, err = ledger.DecodeRecord(subjectOf(r), string(data[:len(data)-1]), time.Hour)
		want(t, "cut off", err, ledger.ErrDamaged)
		_, err = ledger.DecodeRecord(subjectOf(r), string(data)+strings.Repeat(" ", ledger.MaxRecord), time.Hour)
		want(t, "too long", err, ledger.ErrDamaged)
	}
	for what, change := range map[string]func(*ledger.Record){
		"no id": func(r *ledger.Record) { r.ID = "" }, "a long id": func(r *ledger.Record) { r.ID = strings.Repeat("x", 65) },
		"a long request": func(r *ledger.Record) { r.Request = strings.Repeat("x", 65) },
		"no identity":    func(r *ledger.Record) { r.Identity = ident.Identity{} },
		"no user":        func(r *ledger.Record) { r.User = ident.UserKey{} },
		"no account":     func(r *ledger.Record) { r.Account = ident.AccountKey{} },
		"no role":        func(r *ledger.Record) { r.Role = ident.Label{} },
		"no region":      func(r *ledger.Record) { r.Region = ident.Region{} },
		"no issuer":      func(r *ledger.Record) { r.Issuer = ident.UserKey{} },
		"never issued":   func(r *ledger.Record) { r.Issued = 0 },
		"over at once":   func(r *ledger.Record) { r.Expires = r.Issued },
	} {
		r := good
		change(&r)
		_, err := r.Encode()
		want(t, what, err, ledger.ErrDamaged)
	}
}

// TestRecordOfARefusal: it says who asked for what, and nothing of a credential.
func TestRecordOfARefusal(t *testing.T) {
	issuer := ledgertest.User(t)
	good := ledgertest.Record(t, issuer, now(), time.Hour)
	good.Refused, good.Account, good.Expires, good.Asked = wire.NoGrant, ident.AccountKey{}, 0, ledgertest.Label(t, "CHAT")
	least := good
	least.Asked, least.Role, least.Name = ident.Label{}, ident.Label{}, ident.Name{}
	for what, r := range map[string]ledger.Record{"for something": good, "for whatever there is": least} {
		data, err := r.Encode()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got, err := ledger.DecodeRecord(subjectOf(r), string(data), time.Hour); err != nil || got != r {
			t.Errorf("%s: %+v %v", what, got, err)
		}
	}
	for what, change := range map[string]func(*ledger.Record){
		"no such code":      func(r *ledger.Record) { r.Refused = "because" },
		"with an account":   func(r *ledger.Record) { r.Account = ledgertest.Account(t) },
		"until a moment":    func(r *ledger.Record) { r.Expires = r.Issued + 1 },
		"of no moment":      func(r *ledger.Record) { r.Issued = 0 },
		"of nobody":         func(r *ledger.Record) { r.Identity = ident.Identity{} },
		"of no key":         func(r *ledger.Record) { r.User = ident.UserKey{} },
		"what was met":      func(r *ledger.Record) { r.Met = "x" },
		"without an id":     func(r *ledger.Record) { r.ID = "" },
		"of no region":      func(r *ledger.Record) { r.Region = ident.Region{} },
		"a credential, too": func(r *ledger.Record) { *r = ledgertest.Record(t, issuer, now(), time.Hour); r.Asked = good.Asked },
	} {
		r := good
		change(&r)
		_, err := r.Encode()
		want(t, what, err, ledger.ErrDamaged)
	}
}

// Holdings against a list of all records, for clocks that also go back.
func TestHoldingsAgainstAModel(t *testing.T) {
	issuer := ledgertest.User(t)
	var pool []ledger.Record
	ids := []ident.Identity{open(t), open(t), ident.KeyIdentity(keyID(t, "HKABCDEFGHIJKLMNOPQR"))}
	for i := range 6 {
		r := ledgertest.Record(t, issuer, now(), time.Hour)
		r.Identity = ids[i%len(ids)]
		pool = append(pool, r)
	}
	rapid.Check(t, func(r *rapid.T) {
		h, at, latest := ledger.NewHoldings(), now(), now()
		var all []ledger.Record
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
		// Who holds nothing any more is forgotten, at the next record a minute later.
		end := latest.Add(20 * time.Minute)
		last := pool[0]
		last.Issued, last.Expires = end.Unix(), end.Unix()+60
		h.Add(last, end)
		if h.Len() != 1 {
			r.Fatalf("%d identities are remembered, and one holds a credential", h.Len())
		}
	})
}
