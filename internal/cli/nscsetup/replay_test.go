package nscsetup

import (
	"bytes"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/wire"
)

// replays holds records against grants before and after, and gives each row as people
// read it.
type replays struct {
	*testing.T
	account ident.AccountKey
	proofs  *ledger.Projection
	now     time.Time
	holders map[holding]audit.Record
	login   string // by what logins are proved
	given   string // the name that a proof gives
}

func (r replays) issued(identity, role, met string, life time.Duration) {
	r.Helper()
	rec := audit.Record{
		Identity: parse(r.T, ident.ParseIdentity, identity), User: userKey(r.T), Account: r.account, Role: labelOf(r.T, role),
		Name: parse(r.T, ident.ParseName, "somebody"), Issued: r.now.Unix(), Expires: r.now.Add(life).Unix(), Met: met,
		By: r.login,
	}
	// What proved is of the record, as issuers write it.
	if id, ok := rec.Identity.KeyID(); ok {
		k, _ := r.proofs.AccessKey(id)
		rec.By = k.By()
	}
	r.holders[holding{identity: rec.Identity, account: rec.Account, role: rec.Role, name: rec.Name}] = rec
}

// refused is a request that policy refused; what is empty was not asked for.
func (r replays) refused(identity, account, role, name string) {
	r.Helper()
	rec := audit.Record{
		Identity: parse(r.T, ident.ParseIdentity, identity), User: userKey(r.T), Issued: r.now.Unix(), Refused: wire.NoGrant,
	}
	for text, to := range map[*ident.Label]string{&rec.Asked: account, &rec.Role: role} {
		if to != "" {
			*text = labelOf(r.T, to)
		}
	}
	if name != "" {
		rec.Name = parse(r.T, ident.ParseName, name)
	}
	if r.given != "" {
		rec.Given = parse(r.T, ident.ParseName, r.given)
	}
	r.holders[holding{rec.Identity, rec.Account, rec.Role, rec.Name, rec.Asked, true}] = rec
}

func (r replays) held(before, after terms) (replayed, string) {
	r.Helper()
	var out replayed
	names := map[ident.AccountKey]ident.Label{r.account: labelOf(r.T, "ORDERS")}
	if err := out.decide(r.Context(), r.holders, names, r.proofs, before, after, r.now); err != nil {
		r.Fatal(err)
	}
	var text bytes.Buffer
	if err := (&globals{IO: cli.IO{Out: &text}}).printReplayed(out); err != nil {
		r.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(text.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return out, strings.Join(lines, "\n")
}

func newReplays(t *testing.T) replays {
	t.Helper()
	return replays{T: t, account: accountKey(t), proofs: ledger.NewProjection(nil), now: time.Now().Truncate(time.Second), holders: map[holding]audit.Record{}}
}

// login is by what a login is proved with a provider as it is.
func login(t *testing.T, p oidc.Provider) string {
	t.Helper()
	corp := oidctest.New(p.Issuer, jose.RS256)
	m := oidc.New([]oidc.Provider{p}, oidc.Options{Transport: oidctest.Network{p.Issuer: corp}})
	defer m.Close()
	claims := corp.Claims(time.Now(), "alice", p.Audiences[0])
	claims["user"] = "somebody"
	who, err := m.Identify(t.Context(), authn.Evidence{
		Request: wire.Request{Identity: wire.Proof{Type: wire.ProofOIDC, Token: corp.Token(claims)}}, Now: time.Now(),
	})
	if err != nil || who.By == "" {
		t.Fatal(who.By, err)
	}
	return who.By
}

func accountKey(t *testing.T) ident.AccountKey {
	t.Helper()
	k, err := keystore.Generate(keystore.Account)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, ident.ParseAccountKey, k.Public())
}

func (r replays) key(id string, change func(*ledger.AccessKey)) {
	r.Helper()
	a := ledger.AccessKey{Public: userKey(r.T), Owner: "tests", Grants: []authn.Granted{{Account: labelOf(r.T, "ORDERS"), Role: labelOf(r.T, "service")}}}
	if change != nil {
		change(&a)
	}
	r.proofs.Apply(ledger.Entry{Key: ledger.AccessKeyKey(parse(r.T, ident.ParseKeyID, id)), Version: 1, Body: a})
}

// TestReplay: what renewals would be told, before and after, in each of the ways in which
// it can differ or stay as it is.
func TestReplay(t *testing.T) {
	const good, off, near, gone = "HKAAAAAAAAAAAAAAAAAA", "HKBBBBBBBBBBBBBBBBBB", "HKCCCCCCCCCCCCCCCCCC", "HKDDDDDDDDDDDDDDDDDD"
	const keys = "  - {to: key, account: ORDERS, role: service, lifetime: 1h}\n"
	const ops = "  - {to: oidc, provider: corp, groups: [ops], account: ORDERS, role: service}\n"
	r := newReplays(t)
	r.key(good, nil)
	r.key(off, func(a *ledger.AccessKey) { a.Disabled = true })
	r.key(near, func(a *ledger.AccessKey) { a.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	for _, id := range []string{good, off, near, gone} {
		r.issued("key:"+id, "service", "", time.Hour)
	}
	before := termsAt(t, keys+ops)
	r.login = login(t, before.providers[0])
	r.issued("oidc:corp:alice", "service", before.policy.Offers[1].Sum(), time.Hour)

	t.Run("the same", func(t *testing.T) {
		if out, text := r.held(before, before); len(out.Differ) != 0 || out.Looked != 5 || text != "0 of 5 answers would differ" {
			t.Error(text)
		}
	})
	t.Run("no grant any more", func(t *testing.T) {
		// Neither a disabled key nor one that was removed is told anything new; where a key is
		// used from is not asked.
		want := `IDENTITY ROLE NAME BEFORE AFTER
key:HKAAAAAAAAAAAAAAAAAA ORDERS/service somebody for 1h refused: no_grant
key:HKCCCCCCCCCCCCCCCCCC ORDERS/service somebody for 1h refused: no_grant
2 of 5 answers would differ`
		if _, text := r.held(before, termsAt(t, ops)); text != want {
			t.Errorf("%s\nwant\n%s", text, want)
		}
	})
	t.Run("a key that was rotated since", func(t *testing.T) {
		rotated := newReplays(t)
		rotated.key(good, nil)
		rotated.issued("key:"+good, "service", "", time.Hour)
		rotated.proofs = ledger.NewProjection(nil)
		rotated.key(good, nil)
		if out, text := rotated.held(before, termsAt(t, ops)); len(out.Differ) != 0 || out.Looked != 1 {
			t.Error(text)
		}
	})
	t.Run("other conditions", func(t *testing.T) {
		_, text := r.held(before, termsAt(t, keys+strings.Replace(ops, "[ops]", "[ops, admins]", 1)))
		if !strings.Contains(text, "oidc:corp:alice ORDERS/service somebody for 1h refused: no_grant\n1 of 5 answers") {
			t.Error(text)
		}
	})
	t.Run("the provider is gone", func(t *testing.T) {
		after := before
		after.providers = nil
		if _, text := r.held(before, after); !strings.Contains(text, "oidc:corp:alice ORDERS/service somebody for 1h refused: bad_identity\n1 of 5 answers") {
			t.Error(text)
		}
	})
	t.Run("the provider asks for more", func(t *testing.T) {
		after := before
		more := before.providers[0]
		more.Required = map[string][]string{"hd": {"corp.example"}}
		after.providers = []oidc.Provider{more}
		if _, text := r.held(before, after); !strings.Contains(text, "oidc:corp:alice ORDERS/service somebody for 1h refused: expired\n1 of 5 answers") {
			t.Error(text)
		}
	})
	t.Run("a shorter session", func(t *testing.T) {
		after := before
		after.policy.Session = policy.Seconds(30 * time.Minute)
		after.grants = policy.NewIndex(after.policy)
		old := r
		old.holders = maps.Clone(r.holders)
		for h, rec := range old.holders {
			if rec.Identity.Kind() == ident.KindOIDC {
				rec.Proven = r.now.Add(-time.Hour).Unix()
			}
			old.holders[h] = rec
		}
		_, text := old.held(before, after)
		for _, want := range []string{
			"oidc:corp:alice ORDERS/service somebody for 1h refused: expired",
			"key:" + good + " ORDERS/service somebody for 1h for 30m",
			"3 of 5 answers would differ",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("not %q:\n%s", want, text)
			}
		}
	})
	t.Run("a grant to one, with tags", func(t *testing.T) {
		_, text := r.held(before, termsAt(t, keys+ops+"  - {to: \"oidc:corp:alice\", account: ORDERS, role: service, tags: [\"team:a\"]}\n"))
		if !strings.Contains(text, "oidc:corp:alice ORDERS/service somebody for 1h for 1h, with team:a\n1 of 5 answers") {
			t.Error(text)
		}
	})
	t.Run("less than was asked for", func(t *testing.T) {
		longer := newReplays(t)
		longer.key(good, nil)
		longer.issued("key:"+good, "service", "", 8*time.Hour)
		after := termsAt(t, strings.Replace(keys, "lifetime: 1h", "lifetime: 1h, longest: 2h", 1))
		if _, text := longer.held(before, after); !strings.Contains(text, "somebody for 8h for 2h\n1 of 1 answers") {
			t.Error(text)
		}
	})
	t.Run("what was refused", func(t *testing.T) {
		const more = keys + "  - {to: \"oidc:corp:alice\", account: ORDERS, role: reader}\n"
		var at string
		for _, c := range []struct {
			what, identity, account, role, name, before, after, want, given string
		}{
			{"with the name of the login", "oidc:corp:alice", "ORDERS", "reader", "", keys, more, "ORDERS/reader - refused: no_grant as ann for 1h", "ann"},
			{"as before", "oidc:corp:alice", "ORDERS", "reader", "alice", keys, keys, "", ""},
			{"granted", "oidc:corp:alice", "ORDERS", "reader", "alice", keys, more, "ORDERS/reader alice refused: no_grant for 1h", ""},
			{"whatever there is", "oidc:corp:alice", "", "", "alice", keys, more, "any/any alice refused: no_grant ORDERS/reader for 1h", ""},
			{"granted, and another role", "oidc:corp:alice", "ORDERS", "service", "alice", keys, more, "ORDERS/service alice refused: no_grant refused: role_not_granted", ""},
			{"perhaps", "oidc:corp:alice", "ORDERS", "service", "alice", keys, keys + ops, "ORDERS/service alice refused: no_grant perhaps, if provider corp, in ops", ""},
			{"the same conditions", "oidc:corp:alice", "ORDERS", "service", "alice", keys + ops, ops + keys, "", ""},
			{"with other conditions", "oidc:corp:alice", "ORDERS", "service", "alice", keys + ops, keys + strings.Replace(ops, "[ops]", "[ops, admins]", 1), "ORDERS/service alice refused: no_grant perhaps, if provider corp, in ops or admins", ""},
			{"for a role that is not asked for", "oidc:corp:alice", "ORDERS", "reader", "alice", keys, keys + ops, "", ""},
			{"of a provider that is gone", "oidc:old:alice", "ORDERS", "reader", "alice", keys, more, "", ""},
			{"by a key, for what it is not for", "key:" + good, "ORDERS", "reader", "mail", keys, keys + "  - {to: key, account: ORDERS, role: reader}\n", "", ""},
			{"by a key, without the grant that it needs", "key:" + good, "ORDERS", "service", "mail", ops, keys, "ORDERS/service mail refused: no_grant for 1h", ""},
			{"by a key that is disabled", "key:" + off, "ORDERS", "service", "mail", ops, keys, "", ""},
			{"with a name, as it is given now", "key:" + good, "ORDERS", "service", "", ops, keys + "  - {to: \"key:" + good + "\", account: ORDERS, role: service, name: mail}\n", "ORDERS/service - refused: no_grant as mail for 1h", ""},
		} {
			r := newReplays(t)
			r.key(good, nil)
			r.key(off, func(a *ledger.AccessKey) { a.Disabled = true })
			r.given = c.given
			r.refused(c.identity, c.account, c.role, c.name)
			_, text := r.held(termsAt(t, c.before), termsAt(t, c.after))
			want := "0 of 1 answers would differ"
			if c.want != "" {
				want = "IDENTITY ROLE NAME BEFORE AFTER\n" + c.identity + " " + c.want + "\n1 of 1 answers would differ"
			}
			if text != want {
				at += c.what + ":\n" + text + "\nwant\n" + want + "\n"
			}
		}
		if at != "" {
			t.Error(at)
		}
	})
	t.Run("an account that is no more", func(t *testing.T) {
		other := newReplays(t)
		other.issued("key:"+good, "service", "", time.Hour)
		other.account = accountKey(t)
		if out, text := other.held(before, termsAt(t, ops)); out.Looked != 0 || !strings.Contains(text, "1 are of accounts that are no more") {
			t.Error(text)
		}
	})
}
