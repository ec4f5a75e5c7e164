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
	for _, c := range []struct {
		what   string
		sealed map[string][]byte
		opens  bool
		says   string
	}{
		{"as it should be", map[string][]byte{region.String(): sealed(key, seal)}, true, ""},
		{"for another region", map[string][]byte{"sfo": sealed(key, seal)}, false, ""},
		{"to another key", map[string][]byte{region.String(): sealed(key, stranger)}, false, "not sealed to this region's key"},
		{"another key", map[string][]byte{region.String(): sealed(other, seal)}, false, "what is sealed is key " + other.Public()},
		{"no account's key", map[string][]byte{region.String(): sealed(must(keystore.Generate(keystore.User)), seal)}, false, "cannot be opened"},
		{"nothing", map[string][]byte{region.String(): []byte("nothing")}, false, "cannot be opened"},
	} {
		var log testlog.Log
		known := ledger.NewProjection(nil)
		known.Apply(p.Entry(t, ledger.RoleKeyKey(role.Next), 1, false, p.Now(), ledger.RoleKey{Account: public.Accounts[0].Name, Role: role.Name, From: from, Sealed: c.sealed}))
		h := newHanded(region, seal, known, log.Logger())
		got := h.with(provision.RoleKeys{}, d)[role.Next]
		if (got != nil) != c.opens || h.ready(provision.RoleKeys{}, d) != c.opens || got != nil && got.Public() != key.Public() {
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
		if fresh := newHanded(region, seal, known, log.Logger()); fresh.with(nil, d)[role.Next] != nil {
			t.Errorf("%s: it was removed", c.what)
		}
	}
}
