package issuer_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/policy"
)

func parse[T any](t testing.TB, f func(string) (T, error), s string) T {
	t.Helper()
	v, err := f(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func key(t testing.TB, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type fixture struct {
	issuer  *issuer.Issuer
	role    *keystore.Key
	account ident.AccountKey
	user    ident.UserKey
	grant   policy.Grant
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	f := fixture{
		role:    key(t, keystore.Account),
		account: parse(t, ident.ParseAccountKey, key(t, keystore.Account).Public()),
		user:    parse(t, ident.ParseUserKey, key(t, keystore.User).Public()),
	}
	chat, member := parse(t, ident.ParseLabel, "CHAT"), parse(t, ident.ParseLabel, "member")
	f.issuer = issuer.New(issuer.RoleKey{Account: chat, AccountKey: f.account, Role: member, Key: f.role})
	f.grant = policy.Grant{
		Identity: ident.OpenIdentity(f.user), Account: chat, Role: member,
		Name: parse(t, ident.ParseName, strings.Repeat("a", 32)), TTL: time.Hour, Tags: []string{"identity:open"},
	}
	return f
}

func now() time.Time { return time.Unix(1790000000, 987654321) }

func TestMint(t *testing.T) {
	f := newFixture(t)
	c, err := f.issuer.Mint(f.grant, f.user, now(), 0.5)
	if err != nil {
		t.Fatal(err)
	}
	u, err := jwt.DecodeUserClaims(c.JWT) // verifies the signature by iss
	if err != nil {
		t.Fatal(err)
	}
	if u.Subject != f.user.String() || u.Issuer != f.role.Public() || u.IssuerAccount != f.account.String() || u.Name != f.grant.Name.String() {
		t.Errorf("who: %+v", u.ClaimsData)
	}
	if u.IssuedAt != 1790000000 || u.Expires != 1790003600 || !c.Expires.Equal(time.Unix(u.Expires, 0)) {
		t.Errorf("when: iat %d, exp %d, %s", u.IssuedAt, u.Expires, c.Expires)
	}
	if u.NotBefore != 0 || u.Audience != "" || u.ID == "" || u.Type != jwt.UserClaim || u.Version != 2 {
		t.Errorf("nbf %d, aud %q, jti %q, %s %d", u.NotBefore, u.Audience, u.ID, u.Type, u.Version)
	}
	if !u.HasEmptyPermissions() || u.BearerToken {
		t.Error("it brings permissions of its own")
	}
	if !slices.Equal(u.Tags, jwt.TagList{"identity:open"}) {
		t.Errorf("tags %v", u.Tags)
	}
	if c.Account != f.account {
		t.Errorf("account %s", c.Account)
	}
	if len(c.JWT) >= 1024 {
		t.Errorf("%d bytes", len(c.JWT))
	}
	var vr jwt.ValidationResults
	u.Validate(&vr)
	if vr.IsBlocking(false) {
		t.Errorf("jwt/v2 finds %v", vr.Errors())
	}
}

func TestMintGivesEachItsOwnID(t *testing.T) {
	f := newFixture(t)
	seen := map[string]bool{}
	for i := range 100 {
		c, err := f.issuer.Mint(f.grant, f.user, now().Add(time.Duration(i/10)), float64(i%10)/10)
		if err != nil {
			t.Fatal(err)
		}
		u, err := jwt.DecodeUserClaims(c.JWT)
		if err != nil || seen[u.ID] {
			t.Fatalf("%v: an id twice", err)
		}
		seen[u.ID] = true
	}
}

func TestMintWithoutAKey(t *testing.T) {
	f := newFixture(t)
	for what, change := range map[string]func(*policy.Grant){
		"another role":    func(g *policy.Grant) { g.Role = parse(t, ident.ParseLabel, "admin") },
		"another account": func(g *policy.Grant) { g.Account = parse(t, ident.ParseLabel, "SYS") },
		"other case":      func(g *policy.Grant) { g.Account = parse(t, ident.ParseLabel, "chat") },
		"nothing":         func(g *policy.Grant) { *g = policy.Grant{} },
	} {
		g := f.grant
		change(&g)
		if c, err := f.issuer.Mint(g, f.user, now(), 0); !errors.Is(err, issuer.ErrNoKey) || c != (issuer.Credential{}) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := issuer.New().Mint(f.grant, f.user, now(), 0); !errors.Is(err, issuer.ErrNoKey) {
		t.Errorf("no keys at all: %v", err)
	}
}

// It expires a whole number of seconds after it was issued, for every life that policy gives.
func TestExpires(t *testing.T) {
	f := newFixture(t)
	rapid.Check(t, func(r *rapid.T) {
		g := f.grant
		g.TTL = time.Duration(rapid.Int64Range(1, 10*365*24*3600).Draw(r, "seconds")) * time.Second
		at := time.Unix(rapid.Int64Range(0, 4e9).Draw(r, "now"), rapid.Int64Range(0, 999_999_999).Draw(r, "nanos"))
		random := rapid.OneOf(rapid.Float64Range(0, 0.999999999), rapid.Just(0.0), rapid.Just(math.Nextafter(1, 0))).Draw(r, "random")
		c, err := f.issuer.Mint(g, f.user, at, random)
		if err != nil {
			r.Fatal(err)
		}
		if exp := at.Add(g.TTL).Unix(); c.Expires.Unix() != exp || c.Expires.Sub(c.Issued) != g.TTL {
			r.Fatalf("expires %d, want %d", c.Expires.Unix(), exp)
		}
	})
}

func TestSpread(t *testing.T) {
	for range 1000 {
		if s := issuer.Spread(); s < 0 || s >= 1 {
			t.Fatal(s)
		}
	}
}

func TestMintNeverPanics(t *testing.T) {
	f := newFixture(t)
	rapid.Check(t, func(r *rapid.T) {
		g := f.grant
		g.TTL = time.Duration(rapid.Int64().Draw(r, "ttl"))
		at := time.Unix(rapid.Int64().Draw(r, "now"), rapid.Int64Range(0, 999_999_999).Draw(r, "nanos"))
		random := rapid.Float64().Draw(r, "random")
		c, err := f.issuer.Mint(g, f.user, at, random)
		if err == nil && len(c.JWT) >= 1024 {
			r.Fatalf("%d bytes", len(c.JWT))
		}
	})
	for _, ttl := range []time.Duration{math.MinInt64, -1, 0, 1, math.MaxInt64} {
		g := f.grant
		g.TTL = ttl
		if _, err := f.issuer.Mint(g, f.user, now(), 0.5); err != nil {
			t.Errorf("%s: %v", ttl, err)
		}
	}
}
