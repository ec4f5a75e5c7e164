package policy_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/wire"
)

func label(t testing.TB, s string) ident.Label {
	t.Helper()
	l, err := ident.ParseLabel(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func somebody(t testing.TB) ident.Identity {
	t.Helper()
	pub, err := nkeys.Encode(nkeys.PrefixByteUser, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	k, err := ident.ParseUserKey(string(pub))
	if err != nil {
		t.Fatal(err)
	}
	return ident.OpenIdentity(k)
}

// of is who asks with a proof that shows an identity and no more.
func of(id ident.Identity) policy.Asker { return policy.Asker{Who: authn.Who{Identity: id}} }

func now() time.Time { return time.Unix(1790000000, 0) }

func seconds[T time.Duration | int64](d T) policy.Seconds { return policy.Seconds(d) }

func TestDecide(t *testing.T) {
	chat, game := label(t, "CHAT"), label(t, "GAME")
	member, guest := label(t, "member"), label(t, "guest")
	alice, err := ident.ParseName("alice")
	if err != nil {
		t.Fatal(err)
	}
	p := policy.Policy{Offers: []policy.Offer{
		{Kind: "oidc", Account: game, Role: guest, Default: seconds(time.Minute), Longest: seconds(time.Minute)},
		{Kind: "open", Account: chat, Role: member, Default: seconds(time.Hour), Longest: seconds(12 * time.Hour)},
		{Kind: "open", Account: game, Role: member, Default: seconds(time.Minute), Longest: seconds(2 * time.Minute)},
	}}
	id := somebody(t)
	for _, tc := range []struct {
		what    string
		wish    policy.Wish
		account ident.Label
		ttl     time.Duration
		code    wire.Code
	}{
		{"nothing but a name", policy.Wish{}, chat, time.Hour, ""},
		{"an account", policy.Wish{Account: game}, game, time.Minute, ""},
		{"account and role", policy.Wish{Account: chat, Role: member}, chat, time.Hour, ""},
		{"a role", policy.Wish{Role: member}, chat, time.Hour, ""},
		{"a short life", policy.Wish{TTL: time.Minute}, chat, time.Minute, ""},
		{"the longest life", policy.Wish{TTL: 12 * time.Hour}, chat, 12 * time.Hour, ""},
		{"too long a life", policy.Wish{TTL: 12*time.Hour + 1}, chat, 12 * time.Hour, ""},
		{"an endless life", policy.Wish{TTL: 1<<63 - 1}, chat, 12 * time.Hour, ""},
		{"a nanosecond", policy.Wish{TTL: 1}, chat, time.Second, ""},
		{"less than nothing", policy.Wish{TTL: -time.Hour}, chat, time.Second, ""},
		{"an account that is offered to others", policy.Wish{Account: game, Role: guest}, ident.Label{}, 0, wire.RoleNotGranted},
		{"an unknown account", policy.Wish{Account: label(t, "SYS")}, ident.Label{}, 0, wire.RoleNotGranted},
		{"an account in another case", policy.Wish{Account: label(t, "chat")}, ident.Label{}, 0, wire.RoleNotGranted},
		{"an unknown role", policy.Wish{Role: label(t, "admin")}, ident.Label{}, 0, wire.RoleNotGranted},
	} {
		tc.wish.Name = alice
		g, err := policy.NewIndex(p).Decide(of(id), tc.wish, now())
		if tc.code != "" {
			if err == nil || err.Code != tc.code || !g.Identity.IsZero() || g.TTL != 0 {
				t.Errorf("%s: %+v %v, want %s", tc.what, g, err, tc.code)
			}
			continue
		}
		if err != nil || g.Account != tc.account || g.Role != member || g.TTL != tc.ttl || g.Name != alice || g.Identity != id ||
			!slices.Equal(g.Tags, []string{"identity:open"}) {
			t.Errorf("%s: %+v %v", tc.what, g, err)
		}
	}
	if g, err := policy.NewIndex(p).Decide(of(id), policy.Wish{}, now()); err == nil || err.Code != wire.BadName || !g.Account.IsZero() {
		t.Errorf("no name: %+v %v", g, err)
	}
	for what, q := range map[string]policy.Policy{"no offers": {}, "offers to others": {Offers: p.Offers[:1]}} {
		if _, err := policy.NewIndex(q).Decide(of(id), policy.Wish{Name: alice}, now()); !errors.Is(err, &wire.Error{Code: wire.NoGrant}) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := policy.NewIndex(p).Decide(of(ident.Identity{}), policy.Wish{Name: alice}, now()); !errors.Is(err, &wire.Error{Code: wire.NoGrant}) {
		t.Errorf("nobody: %v", err)
	}
	// An offer whose kind is empty is not one to nobody.
	if _, err := policy.NewIndex(policy.Policy{Offers: []policy.Offer{{Account: chat}}}).Decide(of(id), policy.Wish{Name: alice}, now()); err == nil {
		t.Error("an offer to no kind is given")
	}
}

// Whatever is asked, and however an offer is written, nobody gets a life of less
// than a second or longer than the longest.
func TestLifetimeIsBounded(t *testing.T) {
	alice, err := ident.ParseName("alice")
	if err != nil {
		t.Fatal(err)
	}
	id := somebody(t)
	rapid.Check(t, func(r *rapid.T) {
		longest := time.Duration(rapid.Int64Min(int64(policy.Shortest)).Draw(r, "longest"))
		o := policy.Offer{
			Kind: "open", Account: label(t, "CHAT"), Role: label(t, "member"),
			Default: seconds(rapid.Int64().Draw(r, "default")), Longest: seconds(longest),
		}
		want := time.Duration(rapid.Int64().Draw(r, "ttl"))
		g, werr := policy.NewIndex(policy.Policy{Offers: []policy.Offer{o}}).Decide(of(id), policy.Wish{Name: alice, TTL: want}, now())
		if werr != nil || g.TTL < policy.Shortest || g.TTL > longest {
			r.Fatalf("asked %s, longest %s: got %s, %v", want, longest, g.TTL, werr)
		}
		if want >= policy.Shortest && want <= longest && g.TTL != want {
			r.Fatalf("asked %s, longest %s: got %s", want, longest, g.TTL)
		}
	})
}

func TestLongest(t *testing.T) {
	if d := (policy.Policy{}).Longest(); d != 0 {
		t.Errorf("without offers: %s", d)
	}
	p := policy.Policy{Offers: []policy.Offer{{Longest: seconds(time.Minute)}, {Longest: seconds(time.Hour)}, {Longest: seconds(time.Second)}}}
	if d := p.Longest(); d != time.Hour {
		t.Errorf("got %s", d)
	}
}

// A policy is written into the platform document and read back by services.
func TestPolicyJSON(t *testing.T) {
	p := policy.Policy{Offers: []policy.Offer{
		{Kind: "open", Account: label(t, "CHAT"), Role: label(t, "member"), Default: seconds(time.Hour), Longest: seconds(12 * time.Hour)},
	}}
	const want = `{"offers":[{"kind":"open","account":"CHAT","role":"member","default":3600,"longest":43200}]}`
	data, err := json.Marshal(p)
	if err != nil || string(data) != want {
		t.Fatalf("%s %v", data, err)
	}
	var back policy.Policy
	if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(back, p) {
		t.Errorf("read back: %+v %v", back, err)
	}
	for _, bad := range []string{`0`, `-1`, `1.5`, `1e3`, `"3600"`, `"1h"`, `null`, `true`, `{}`, `3153600001`, `9223372036854775808`, `99999999999999999999`} {
		s := policy.Seconds(7)
		if err := json.Unmarshal([]byte(bad), &s); err == nil || s != 7 {
			t.Errorf("%s is read as %s", bad, s.Duration())
		}
	}
	for text, want := range map[string]time.Duration{`1`: time.Second, `3153600000`: 100 * 365 * 24 * time.Hour} {
		var s policy.Seconds
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Duration() != want {
			t.Errorf("%s is read as %s, %v", text, s.Duration(), err)
		}
	}
}

// TestMight: what somebody would have with the groups and claims that it takes, and nothing
// that it would not have with them.
func TestMight(t *testing.T) {
	chat, member, guest := label(t, "CHAT"), label(t, "member"), label(t, "guest")
	corp, other := label(t, "corp"), label(t, "other")
	alice, err := ident.OIDCIdentity(corp, "alice")
	if err != nil {
		t.Fatal(err)
	}
	offer := func(role ident.Label, change func(*policy.Offer)) policy.Offer {
		o := policy.Offer{Kind: ident.KindOIDC, Account: chat, Role: role, Default: seconds(time.Hour), Longest: seconds(time.Hour)}
		change(&o)
		return o
	}
	x := policy.NewIndex(policy.Policy{Offers: []policy.Offer{
		offer(member, func(*policy.Offer) {}),
		offer(member, func(o *policy.Offer) { o.Groups = []string{"ops"} }),
		offer(guest, func(o *policy.Offer) { o.Groups = []string{"guests"} }),
		offer(member, func(o *policy.Offer) { o.Provider, o.Groups = other, []string{"ops"} }),
		offer(member, func(o *policy.Offer) { o.Kind, o.Groups = ident.KindKey, []string{"ops"} }),
		offer(member, func(o *policy.Offer) {
			o.Provider, o.Claims = corp, []policy.Claim{{Name: "team", Values: []string{"a"}}}
		}),
	}})
	a := policy.Asker{Who: authn.Who{Identity: alice, Provider: corp}}
	var got []string
	for _, o := range x.Might(a, policy.Wish{Role: member}) {
		got = append(got, o.Conditions())
	}
	if want := []string{"provider corp, team is a", "in ops"}; !slices.Equal(got, want) {
		t.Errorf("%q, and not %q", got, want)
	}
	if all := x.Might(a, policy.Wish{Account: label(t, "ORDERS")}); len(all) != 0 {
		t.Errorf("of another account: %v", all)
	}
	a.Granted = []authn.Granted{{Account: chat, Role: guest}}
	if all := x.Might(a, policy.Wish{}); len(all) != 1 || all[0].Role != guest {
		t.Errorf("with a proof for one role: %v", all)
	}
}
