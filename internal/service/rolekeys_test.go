package service

import (
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/provision"
)

// TestHandedKeys: what the ledger has sealed to a region is opened there and nowhere else, and is
// believed only if it is the key that it is said to be.
func TestHandedKeys(t *testing.T) {
	must := func(k *keystore.Key, err error) *keystore.Key {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	p := ledgertest.NewPlatform(t, "handed", time.Unix(1790000000, 0))
	key, other := must(keystore.Generate(keystore.Account)), must(keystore.Generate(keystore.Account))
	seal, stranger, by := must(keystore.Generate(keystore.Curve)), must(keystore.Generate(keystore.Curve)), must(keystore.Generate(keystore.Curve))
	sealed := func(what, to *keystore.Key) []byte {
		seed, err := what.Seed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := by.Pair().Seal(seed, to.Public())
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	public := p.Public(t, 1, 1)
	role := &public.Accounts[0].Roles[0]
	var err error
	if role.Next, err = ident.ParseAccountKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	d := &ledger.Document{Public: public, Policy: p.Policy(t), Rotations: []ledger.Rotation{{Account: public.Accounts[0].Name, Role: role.Name, From: role.Key, To: role.Next}}}
	from, err := ident.ParseSealKey(by.Public())
	if err != nil {
		t.Fatal(err)
	}
	region := public.Regions[0].Name
	own := sealKey(t, seal)
	folder := provision.Keys{Region: map[ident.SealKey]*keystore.Key{own: seal}}
	held := provision.Held{SealKeys: true}
	for _, c := range []struct {
		what   string
		sealed map[ident.SealKey][]byte
		opens  bool
		says   string
	}{
		{"as it should be", map[ident.SealKey][]byte{own: sealed(key, seal)}, true, ""},
		{"for another region", map[ident.SealKey][]byte{sealKey(t, stranger): sealed(key, seal)}, false, ""},
		{"to another key", map[ident.SealKey][]byte{own: sealed(key, stranger)}, false, "not sealed to this region's key"},
		{"another key", map[ident.SealKey][]byte{own: sealed(other, seal)}, false, "what is sealed is key " + other.Public()},
		{"no account's key", map[ident.SealKey][]byte{own: sealed(must(keystore.Generate(keystore.User)), seal)}, false, "cannot be opened"},
		{"nothing", map[ident.SealKey][]byte{own: []byte("nothing")}, false, "cannot be opened"},
	} {
		var log testlog.Log
		known := ledger.NewProjection(nil)
		known.Apply(p.Entry(t, ledger.RoleKeyKey(role.Next), 1, false, p.Now(), ledger.Handed{Account: public.Accounts[0].Name, Role: role.Name, From: from, Sealed: c.sealed}))
		h := newHanded(region, known, log.Logger())
		got := h.with(folder, d).Roles[role.Next]
		if keeps, ready := h.ready(held, folder, d); keeps != seal.Public() {
			t.Errorf("%s: it keeps %s", c.what, keeps)
		} else if (got != nil) != c.opens || ready != c.opens || got != nil && got.Public() != key.Public() {
			t.Errorf("%s: %v", c.what, got)
		}
		seed, err := key.Seed()
		if err != nil {
			t.Fatal(err)
		}
		if s := log.String(); !strings.Contains(s, c.says) || c.says == "" && s != "" || strings.Contains(s, string(seed)) || strings.Count(s, "\n") > 1 {
			t.Errorf("%s: %s", c.what, s)
		}
		// One that is gone is not there any more.
		known.Apply(p.Entry(t, ledger.RoleKeyKey(role.Next), 2, true, p.Now(), nil))
		if fresh := newHanded(region, known, log.Logger()); fresh.with(folder, d).Roles[role.Next] != nil {
			t.Errorf("%s: it was removed", c.what)
		}
	}
}

// TestHandedRegionKey: a region's new key is opened by the former one, and what is sealed to the new
// one by that; when the ledger has it no more, it is kept for as long as the document names it.
func TestHandedRegionKey(t *testing.T) {
	p := ledgertest.NewPlatform(t, "resealed", time.Unix(1790000000, 0))
	former, next := p.Key(t, keystore.Curve, "former"), p.Key(t, keystore.Curve, "next")
	role := p.Key(t, keystore.Account, "role")
	public := p.Public(t, 1, 1)
	region := &public.Regions[0]
	region.SealKey, region.Next = sealKey(t, former), sealKey(t, next)
	d := &ledger.Document{Public: public, Policy: p.Policy(t)}
	var err error
	if public.Accounts[0].Roles[0].Key, err = ident.ParseAccountKey(role.Public()); err != nil {
		t.Fatal(err)
	}
	hand := func(h ledger.Handed, key, to *keystore.Key) ledger.Handed {
		h, err := platform.Seal(h, key, []ident.SealKey{sealKey(t, to)})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	a := public.Accounts[0]
	known := ledger.NewProjection(nil)
	at, of := ledger.SealKeyKey(region.Next), ledger.RoleKeyKey(a.Roles[0].Key)
	known.Apply(p.Entry(t, at, 1, false, p.Now(), hand(ledger.Handed{Region: region.Name}, next, former)))
	known.Apply(p.Entry(t, of, 1, false, p.Now(), hand(ledger.Handed{Account: a.Name, Role: a.Roles[0].Name}, role, next)))
	var log testlog.Log
	h := newHanded(region.Name, known, log.Logger())
	folder := provision.Keys{Region: map[ident.SealKey]*keystore.Key{region.SealKey: former}}
	if got := h.with(folder, d); got.Region[region.Next] == nil || got.Roles[a.Roles[0].Key] == nil || folder.Region[region.Next] != nil {
		t.Errorf("%v\n%s", got, log.String())
	}
	known.Apply(p.Entry(t, at, 2, true, p.Now(), nil))
	region.SealKey, region.Next = region.Next, ident.SealKey{}
	if got := h.with(folder, d); got.Region[region.SealKey] == nil {
		t.Error("who has it has it no more")
	}
	// Who starts then has what is in its folder, and says so.
	fresh := newHanded(region.Name, known, log.Logger())
	if got := fresh.with(folder, d); got.Region[region.SealKey] != nil || got.Roles[a.Roles[0].Key] != nil {
		t.Error("it is opened by a key that is gone")
	}
	if keeps, _ := fresh.ready(provision.Held{}, folder, d); keeps != former.Public() {
		t.Errorf("it keeps %s", keeps)
	}
}

func sealKey(t *testing.T, k *keystore.Key) ident.SealKey {
	t.Helper()
	public, err := ident.ParseSealKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return public
}
