package manifest_test

import (
	"os"
	"reflect"
	"testing"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// TestAcceptedMakesClaims holds Check to finding everything that jwt would: of what is
// accepted, claims are made of every account, which jwt has validated then.
func TestAcceptedMakesClaims(t *testing.T) {
	data, err := os.ReadFile("testdata/render.yaml")
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	check := func(t interface{ Fatalf(string, ...any) }, f *manifest.File) {
		accepted++
		c := claims.New(f, keysOf(f))
		for _, a := range c.Accounts() {
			if _, err := c.Account(a, 1); err != nil {
				t.Fatalf("%v\n%s", err, f.Render())
			}
		}
		if _, err := c.Policy(); err != nil {
			t.Fatalf("%v", err)
		}
	}
	f, err := manifest.Parse("render.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	check(t, f)
	rapid.Check(t, func(t *rapid.T) {
		f, err := manifest.Parse("render.yaml", data)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 2).Draw(t, "changes") {
			change(t, reflect.ValueOf(f).Elem(), "")
		}
		if problems := f.Check(); len(problems) == 0 {
			check(t, f)
		}
	})
	t.Logf("%d files were accepted", accepted)
	if accepted < 2 {
		t.Error("nothing was accepted: the test says nothing")
	}
}

func keysOf(f *manifest.File) claims.Keys {
	k := claims.Keys{Accounts: map[ident.Label]ident.AccountKey{}, Roles: map[manifest.RoleRef]ident.AccountKey{}, Regions: map[ident.Region]ident.SealKey{}}
	account := func() ident.AccountKey {
		return must(ident.ParseAccountKey(must(must(nkeys.CreateAccount()).PublicKey())))
	}
	for _, a := range f.AllAccounts() {
		k.Accounts[a.Name] = account()
		for _, r := range a.Roles {
			k.Roles[manifest.RoleRef{Account: a.Name, Role: r.Name}] = account()
		}
	}
	return k
}
