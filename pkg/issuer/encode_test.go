package issuer

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/policy"
)

// library gives the same claims as a value of jwt/v2.
func (c *claims) library() *jwt.UserClaims {
	u := &jwt.UserClaims{}
	u.Expires, u.IssuedAt, u.ID, u.Issuer, u.Name, u.Subject = c.expires, c.issued, c.id, c.issuer, c.name, c.sub
	u.IssuerAccount, u.Tags, u.Type, u.Version = c.account, c.tags, jwt.UserClaim, 2
	return u
}

// same fails unless claims are written byte for byte as encoding/json writes those of jwt/v2.
func same(t interface{ Fatalf(string, ...any) }, c *claims) {
	want, err := json.Marshal(c.library())
	if err != nil {
		t.Fatalf("%v", err)
	}
	if got := c.append(nil); string(got) != string(want) {
		t.Fatalf("written\n%s\nand by jwt/v2\n%s", got, want)
	}
}

func TestClaimsAreThoseOfTheLibrary(t *testing.T) {
	full := claims{
		expires: 1790003600, issued: 1790000000, id: "ID", issuer: "AISSUER", name: "alice", sub: "USUB", account: "AACCOUNT",
		tags: []string{"identity:open", `oidc:corp:a<b>&"c"\d`, "é", "\u2028\u2029", "\x00\x1f\x7f", "\xff\xfe", "", "日本"},
	}
	same(t, &full)
	same(t, &claims{})
	for name := range reflect.TypeFor[claims]().NumField() {
		one := claims{}
		f := reflect.TypeFor[claims]().Field(name)
		switch f.Name { // each alone, so that no comma depends on another
		case "expires":
			one.expires = -1
		case "issued":
			one.issued = 1
		case "id":
			one.id = "x"
		case "issuer":
			one.issuer = "x"
		case "name":
			one.name = "x"
		case "sub":
			one.sub = "x"
		case "account":
			one.account = "x"
		case "tags":
			one.tags = []string{"x"}
		default:
			t.Fatalf("nothing is tried with %s", f.Name)
		}
		same(t, &one)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,300}`), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		same(t, &claims{
			expires: rapid.Int64().Draw(t, "exp"), issued: rapid.Int64().Draw(t, "iat"), id: text.Draw(t, "jti"), issuer: text.Draw(t, "iss"),
			name: text.Draw(t, "name"), sub: text.Draw(t, "sub"), account: text.Draw(t, "account"), tags: rapid.SliceOf(text).Draw(t, "tags"),
		})
	})
}

func FuzzClaims(f *testing.F) {
	for _, s := range []string{"", "alice", "a<b>&c", "\"\\", "\xff", "\u2028", "日本", strings.Repeat("x", 3000)} {
		f.Add(s, s, int64(0))
		f.Add("alice", s, int64(1790000000))
	}
	f.Fuzz(func(t *testing.T, name, tag string, n int64) {
		same(t, &claims{expires: n, issued: n / 2, id: tag, issuer: "A", name: name, sub: "U", account: "A", tags: []string{tag, name}})
	})
}

// role is what is minted by in these tests.
type role struct {
	*Issuer
	key     *keystore.Key
	account ident.AccountKey
	user    ident.UserKey
	grant   policy.Grant
}

func newRole(tb testing.TB) role {
	tb.Helper()
	must := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	var r role
	var err error
	r.key, err = keystore.Generate(keystore.Account)
	must(err)
	account, err := keystore.Generate(keystore.Account)
	must(err)
	r.account, err = ident.ParseAccountKey(account.Public())
	must(err)
	user, err := keystore.Generate(keystore.User)
	must(err)
	r.user, err = ident.ParseUserKey(user.Public())
	must(err)
	orders, err := ident.ParseLabel("ORDERS")
	must(err)
	service, err := ident.ParseLabel("service")
	must(err)
	name, err := ident.ParseName("payments")
	must(err)
	r.Issuer = New(RoleKey{Account: orders, AccountKey: r.account, Role: service, Key: r.key})
	r.grant = policy.Grant{
		Account: orders, Role: service, Name: name, TTL: time.Hour,
		Tags: []string{"identity:key", "kid:HKABCDEFGHIJKLMNOPQR", "by:abcdefghijklmnop", "proven:1790000000", "team:payments"},
	}
	return r
}

func at() time.Time { return time.Unix(1790000000, 987654321) }

// TestTokensAreThoseOfTheLibrary: what jwt/v2 reads of a token, its signature too, is what it
// would have written.
func TestTokensAreThoseOfTheLibrary(t *testing.T) {
	r := newRole(t)
	for _, tags := range [][]string{nil, r.grant.Tags, {`oidc:corp:<a>&"b"`, "é"}} {
		r.grant.Tags = tags
		c, err := r.Mint(r.grant, r.user, at(), 0.25)
		if err != nil {
			t.Fatal(err)
		}
		u, err := jwt.DecodeUserClaims(c.JWT)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(c.JWT, ".")
		for i, v := range []any{jwt.Header{Type: jwt.TokenTypeJwt, Algorithm: jwt.AlgorithmNkey}, u} {
			want, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if got := base64.RawURLEncoding.EncodeToString(want); parts[i] != got {
				t.Errorf("part %d is\n%s\nand by jwt/v2\n%s", i, parts[i], got)
			}
		}
		if u.ID != c.ID || u.Issuer != r.key.Public() || u.IssuerAccount != r.account.String() {
			t.Errorf("%+v", u)
		}
	}
}

// TestMintAllocates: what one JWT costs the garbage collector: its text, its id, and no more
// than two besides.
func TestMintAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector throws away what a pool keeps")
	}
	r := newRole(t)
	if n := testing.AllocsPerRun(200, func() { _, _ = r.Mint(r.grant, r.user, at(), 0.5) }); n > 4 {
		t.Errorf("%.0f allocations", n)
	}
}

// BenchmarkMint gives what minting costs beside one ed25519 signature of the same bytes, and
// beside the encoder of jwt/v2, in one run: each round does all of them in turn.
func BenchmarkMint(b *testing.B) {
	r := newRole(b)
	c, err := r.Mint(r.grant, r.user, at(), 0.5)
	if err != nil {
		b.Fatal(err)
	}
	signed := []byte(c.JWT[:strings.LastIndexByte(c.JWT, '.')])
	seed, err := r.key.Seed()
	if err != nil {
		b.Fatal(err)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		b.Fatal(err)
	}
	var mint, sign, library time.Duration
	const each = 50
	timed := func(d *time.Duration, f func()) {
		began := time.Now()
		for range each {
			f()
		}
		*d += time.Since(began)
	}
	b.ReportAllocs()
	for b.Loop() {
		timed(&sign, func() { _, _ = r.key.Sign(signed) })
		timed(&mint, func() { _, _ = r.Mint(r.grant, r.user, at(), 0.5) })
		timed(&library, func() {
			u := jwt.NewUserClaims(r.user.String())
			u.SetScoped(true)
			u.Name, u.IssuerAccount, u.Expires, u.Tags = "payments", r.account.String(), 1790003600, r.grant.Tags
			_, _ = u.Encode(pair)
		})
	}
	rounds := float64(b.N * each)
	b.ReportMetric(float64(mint)/float64(sign), "mint/sign")
	b.ReportMetric(float64(library)/float64(sign), "jwtv2/sign")
	b.ReportMetric(float64(mint.Nanoseconds())/rounds, "ns/mint")
	b.ReportMetric(testing.AllocsPerRun(200, func() { _, _ = r.Mint(r.grant, r.user, at(), 0.5) }), "allocs/mint")
}
