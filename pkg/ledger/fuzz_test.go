package ledger_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/trust"
)

// entries are good ones of every kind; the same in every process that fuzzes.
func entries(t testing.TB, p *ledgertest.Platform) []ledger.Entry {
	t.Helper()
	pool := newPool(t, p)
	a, u := pool.account, pool.users[0]
	key := ledger.AccessKey{Public: u, Grants: []authn.Granted{{Account: ledgertest.Label(t, "CHAT"), Role: ledgertest.Label(t, "member")}}}
	base := ledger.Base{JWT: accountJWT(t, p.Key(t, keystore.Account, "account CHAT"), p.Signing[0], "CHAT", 1)}
	out := []ledger.Entry{
		p.Entry(t, ledger.AccessKeyKey(keyID(t, "HKABCDEFGHIJKLMNOPQR")), 1, false, now(), key),
		p.Entry(t, ledger.BaseKey(a), 1, false, now(), base),
		p.Entry(t, ledger.UserSuspension(a, u), 1, true, now(), ledger.Suspension{By: "ops"}),
		p.Entry(t, ledger.AccountSuspension(a), 2, false, now(), nil),
	}
	kinds := make(map[ledger.Kind]bool)
	for _, e := range append(pool.denials, pool.decided...) {
		if !kinds[e.Key.Kind()] {
			kinds[e.Key.Kind()] = true
			out = append(out, e)
		}
	}
	return out
}

// signed tells whether one of the platform's signing keys made a token; it is
// another reading of the token than the one under test.
func signed(t testing.TB, p *ledgertest.Platform, token string) bool {
	t.Helper()
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(token[i+1:])
	if err != nil {
		return false
	}
	for _, k := range p.Signing {
		raw, err := nkeys.Decode(nkeys.PrefixByteOperator, []byte(k.Public()))
		if err != nil {
			t.Fatal(err)
		}
		if ed25519.Verify(raw, []byte(token[:i]), sig) {
			return true
		}
	}
	return false
}

func FuzzOpenEntry(f *testing.F) {
	p := newPlatform(f)
	for _, e := range entries(f, p) {
		k, tok := e.Key.String(), e.Token
		flipped := []byte(tok)
		flipped[len(tok)/2] ^= 1
		for _, s := range []string{tok, tok[:len(tok)/2], tok[:len(tok)-1], string(flipped), tok + "A", tok + "\n", "\n" + tok, strings.Replace(tok, ".", ".\n", 1)} {
			f.Add(k, s)
		}
		f.Add("name.alice", tok)
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(tok, ".")[1])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(k, string(payload)) // the fuzzer works on this, and the target signs it
	}
	o := p.Opener()
	check := func(t *testing.T, key, token string) {
		e, err := o.Open(key, token)
		if err != nil {
			if !errors.Is(err, ledger.ErrDamaged) && !errors.Is(err, ledger.ErrAhead) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if !signed(t, p, token) {
			t.Fatalf("believed, and nobody signed it: %q", token)
		}
		if e.Key.String() != key || e.Token != token || e.Version == 0 || e.Body == nil || e.At.After(now().Add(ledger.MaxAhead)) {
			t.Fatalf("believed: %+v", e)
		}
		proj := ledger.NewProjection(nil)
		if !proj.Apply(e) || proj.Apply(e) || proj.Version(e.Key) != e.Version {
			t.Fatalf("it does not hold, or twice: %+v", e)
		}
		proj.Dump()
	}
	f.Fuzz(func(t *testing.T, key, token string) {
		check(t, key, token)
		// A signature is nothing that a fuzzer finds: what a signing key might say.
		var m map[string]any
		if json.Unmarshal([]byte(token), &m) != nil || m == nil {
			return
		}
		m["iss"] = p.Signing[1].Public()
		token, err := trust.EncodeJWT(m, p.Signing[1])
		if err != nil {
			return // nobody could sign that
		}
		check(t, key, token)
		if sub, _ := m["sub"].(string); sub != key {
			check(t, sub, token)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	p := newPlatform(f)
	for _, e := range entries(f, p) {
		k := e.Key.String()
		for _, s := range []string{k, k[:len(k)-1], k + ".", k + "x", strings.ToUpper(k), k + "\n", strings.Replace(k, ".", "..", 1)} {
			f.Add(s)
		}
	}
	id := ledger.IdentitySuspension(ident.KeyIdentity(keyID(f, "HKABCDEFGHIJKLMNOPQR"))).String()
	f.Add(id)
	f.Add(id[:25] + "\n" + id[25:])
	f.Add("name.a=b")
	f.Add("name.a.b")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ledger.ParseKey(s)
		if err != nil {
			if !k.IsZero() {
				t.Fatal("a key beside an error")
			}
			return
		}
		if k.String() != s {
			t.Fatalf("%q became %q", s, k)
		}
		if again, err := ledger.ParseKey(k.String()); err != nil || again != k {
			t.Fatalf("%q is not parsed again: %v", s, err)
		}
		if kind, _, _ := strings.Cut(s, "."); string(k.Kind()) != kind {
			t.Fatalf("%q is of kind %q", s, k.Kind())
		}
		if k.Kind() == ledger.KindName && ledger.NameKey(k.Name()) != k {
			t.Fatalf("%q is the key of %q", s, k.Name())
		}
		// A user is named by revocations and suspensions of users alone, and both
		// spell one user in one way.
		a, u := k.Account(), k.User()
		if !u.IsZero() && k != ledger.RevocationKey(a, u) && k != ledger.UserSuspension(a, u) {
			t.Fatalf("%q is about user %s of %s", s, u, a)
		}
		if u.IsZero() && !a.IsZero() && k != ledger.BaseKey(a) && k != ledger.AccountSuspension(a) {
			t.Fatalf("%q is about account %s", s, a)
		}
		// It can be signed for, and is a subject without wildcards.
		p.Token(t, p.Signing[0], trust.Entry{Subject: s, Version: 1, At: 1}, nil)
	})
}
