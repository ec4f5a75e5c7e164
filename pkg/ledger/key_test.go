package ledger_test

import (
	"testing"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
)

func TestKeyIdentity(t *testing.T) {
	p := newPlatform(t)
	id, user := must[ident.KeyID](t)(ident.ParseKeyID("HKAAAAAAAAAAAAAAAAAA")), ledgertest.User(t)
	login := must[ident.Identity](t)(ident.ParseIdentity("oidc:corp:a.b>*"))
	for key, want := range map[ledger.Key]ident.Identity{
		ledger.AccessKeyKey(id):                                            ident.KeyIdentity(id),
		ledger.IdentitySuspension(login):                                   login,
		ledger.IdentitySuspension(ident.KeyIdentity(id)):                   ident.KeyIdentity(id),
		ledger.UserSuspension(p.Account(t, "CHAT"), user):                  {},
		ledger.RevocationKey(p.Account(t, "CHAT"), user):                   {},
		ledger.NameKey(must[ident.Name](t)(ident.ParseName("suspension"))): {},
		ledger.PlatformKey():                                               {},
		{}:                                                                 {},
	} {
		if got := key.Identity(); got != want {
			t.Errorf("%s is of %s", key, got)
		}
	}
}

// TestGone: a key of which nothing is known is not gone: its record may have come first.
func TestGone(t *testing.T) {
	p := newPlatform(t)
	id := must[ident.KeyID](t)(ident.ParseKeyID("HKAAAAAAAAAAAAAAAAAA"))
	mail, proj := ident.KeyIdentity(id), ledger.NewProjection(nil)
	key := func(version uint64, denies, disabled bool) ledger.Entry {
		return p.Entry(t, ledger.AccessKeyKey(id), version, denies, now(), ledger.AccessKey{
			Public: ledgertest.User(t), Owner: "x", Disabled: disabled, Grants: []authn.Granted{{Account: must[ident.Label](t)(ident.ParseLabel("A")), Role: must[ident.Label](t)(ident.ParseLabel("r"))}},
		})
	}
	for i, step := range []struct {
		entry *ledger.Entry
		gone  bool
	}{
		{nil, false},
		{ptr(key(1, false, false)), false},
		{ptr(key(2, false, true)), true},
		{ptr(key(3, false, false)), false},
		{ptr(p.Entry(t, ledger.IdentitySuspension(mail), 1, true, now(), nil)), true},
		{ptr(p.Entry(t, ledger.IdentitySuspension(mail), 2, false, now(), nil)), false},
		{ptr(key(4, true, false)), true},
	} {
		if step.entry != nil {
			proj.Apply(*step.entry)
		}
		if got := proj.Gone(mail); got != step.gone {
			t.Errorf("after step %d: %t", i, got)
		}
		if proj.Gone(ident.OpenIdentity(ledgertest.User(t))) {
			t.Error("somebody else is gone, too")
		}
	}
}

func ptr[T any](v T) *T { return &v }
