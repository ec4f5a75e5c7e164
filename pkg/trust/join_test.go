package trust_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

// signers is an operator with two signing keys, and an account.
type signers struct {
	operator *trust.Operator
	keys     [2]*keystore.Key
	account  *keystore.Key
}

func newSigners(t testing.TB) *signers {
	t.Helper()
	s := &signers{keys: [2]*keystore.Key{key(t, keystore.Operator), key(t, keystore.Operator)}, account: key(t, keystore.Account)}
	op, err := trust.NewOperator("demo", key(t, keystore.Operator), []string{s.keys[0].Public(), s.keys[1].Public()}, accKey(t, key(t, keystore.Account)))
	s.operator = must[*trust.Operator](t)(trust.ParseOperator(token(t, op, err)))
	return s
}

// claims are an account's, with the tags given.
func (s *signers) claims(tags ...string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(s.account.Public())
	c.Name = "CHAT"
	c.Tags.Add(tags...)
	return c
}

func (s *signers) open(t testing.TB, c *jwt.AccountClaims, by int) trust.AccountJWT {
	t.Helper()
	tok := token2(t)(c.Encode(s.keys[by].Pair()))
	return must[trust.AccountJWT](t)(s.operator.OpenAccount(tok))
}

func token2(t testing.TB) func(string, error) string {
	return func(s string, err error) string { return token(t, s, err) }
}

func content(t testing.TB, a trust.AccountJWT) trust.Content {
	t.Helper()
	return must[trust.Content](t)(a.Content())
}

func join(t testing.TB, first trust.Content, more ...trust.Content) trust.Content {
	t.Helper()
	return must[trust.Content](t)(trust.Join(first, more...))
}

func TestBaseVersion(t *testing.T) {
	for want, lists := range map[uint64][][]string{
		0: {
			nil,
			{"a", "based:1", "xbase:1", "base"},
			{"base:"},
			{"base:0"},
			{"base:01"},
			{"base:+1"},
			{"base:-1"},
			{"base: 1"},
			{"base:1 "},
			{"base:1_0"},
			{"base:0x1"},
			{"base:1.0"},
			{"base:one"},
			{"BASE:1"},
			{"base:18446744073709551616"},
			{"base:1", "base:2"},
			{"base:1", "base:1"},
			{"base:x", "base:2"},
			{"base:2", "base:x"},
			{"base:1", "base:2", "base:3"},
		},
		1:                    {{"base:1"}, {"a", "base:1", "z"}},
		120:                  {{"base:120"}},
		18446744073709551615: {{"base:18446744073709551615"}},
	} {
		for _, tags := range lists {
			if got := trust.BaseVersion(tags); got != want {
				t.Errorf("%q: %d, not %d", tags, got, want)
			}
		}
	}
}

func TestOpenAccount(t *testing.T) {
	s := newSigners(t)
	c := s.claims("base:7")
	a := s.open(t, c, 1)
	if a.Account != accKey(t, s.account) || a.Name != "CHAT" || a.Issuer != s.keys[1].Public() || a.IssuedAt != c.IssuedAt || a.Version != 7 {
		t.Errorf("%+v", a)
	}
	stranger := key(t, keystore.Operator)
	for what, tok := range map[string]string{
		"a stranger's": token2(t)(c.Encode(stranger.Pair())), "its own": token2(t)(c.Encode(s.account.Pair())),
		"cut off": a.Token[:len(a.Token)-2], "nothing": "", "an operator's": s.operator.Token(),
		"of version 1": v1(t, head1, map[string]any{
			"iss": s.keys[0].Public(), "sub": s.account.Public(), "type": "account", "nats": map[string]any{"limits": map[string]any{"subs": -1}},
		}, s.keys[0]),
	} {
		if got, err := s.operator.OpenAccount(tok); err == nil || got != (trust.AccountJWT{}) {
			t.Errorf("%s: %+v %v", what, got, err)
		}
	}
	if _, err := s.operator.OpenAccount(token2(t)(c.Encode(stranger.Pair()))); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("a stranger's: %v", err)
	}
}

// What is no part of the content, and what is.
func TestContent(t *testing.T) {
	s := newSigners(t)
	roles := make([]string, 5)
	for i := range roles {
		roles[i] = key(t, keystore.Account).Public()
	}
	with := func(change func(*jwt.AccountClaims)) trust.Content {
		c := s.claims("b", "base:1", "a")
		c.SigningKeys.Add(roles...)
		c.Exports = jwt.Exports{{Subject: "x", Type: jwt.Service}, {Subject: "y", Type: jwt.Stream}}
		if change != nil {
			change(c)
		}
		return content(t, s.open(t, c, 0))
	}
	one := with(nil)
	for what, same := range map[string]trust.Content{
		"signed by another": content(t, func() trust.AccountJWT {
			c := s.claims("b", "base:1", "a")
			c.SigningKeys.Add(roles...)
			c.Exports = jwt.Exports{{Subject: "x", Type: jwt.Service}, {Subject: "y", Type: jwt.Stream}}
			return s.open(t, c, 1)
		}()),
		"its tags in another order": with(func(c *jwt.AccountClaims) { slices.Reverse(c.Tags) }),
		"without a list of revocations": with(func(c *jwt.AccountClaims) {
			c.Revocations = jwt.RevocationList{}
		}),
		"later, its members and signing keys in another order": content(t, reorder(t, s, one, roles)),
	} {
		if !one.Equal(same) || !same.Equal(one) {
			t.Errorf("%s: another content", what)
		}
	}
	for what, other := range map[string]trust.Content{
		"a revocation":           with(func(c *jwt.AccountClaims) { c.RevokeAt("*", now()) }),
		"another version":        with(func(c *jwt.AccountClaims) { c.Tags = jwt.TagList{"b", "base:2", "a"} }),
		"a tag more":             with(func(c *jwt.AccountClaims) { c.Tags.Add("c") }),
		"a signing key less":     with(func(c *jwt.AccountClaims) { c.SigningKeys = jwt.SigningKeys{roles[0]: nil} }),
		"another name":           with(func(c *jwt.AccountClaims) { c.Name = "OTHER" }),
		"an expiry":              with(func(c *jwt.AccountClaims) { c.Expires = 4102444800 }),
		"a limit":                with(func(c *jwt.AccountClaims) { c.Limits.Conn = 7 }),
		"another export":         with(func(c *jwt.AccountClaims) { c.Exports[0].Subject = "z" }),
		"an export's revocation": with(func(c *jwt.AccountClaims) { c.Exports[0].RevokeAt("*", now()) }),
	} {
		if one.Equal(other) {
			t.Errorf("%s: the same content", what)
		}
	}
	if got := with(func(c *jwt.AccountClaims) { c.RevokeAt("*", now()) }).Revocations(); !maps.Equal(got, map[string]int64{"*": now().Unix()}) {
		t.Errorf("revocations %v", got)
	}
}

// reorder signs a content as a library would that writes members in another order, and
// signing keys as a map gives them.
func reorder(t testing.TB, s *signers, c trust.Content, roles []string) trust.AccountJWT {
	t.Helper()
	tok := token2(t)(c.Sign(s.keys[1], now().Add(time.Hour), 0))
	var m map[string]json.RawMessage
	if err := json.Unmarshal(unbase64(t, strings.Split(tok, ".")[1]), &m); err != nil {
		t.Fatal(err)
	}
	var nats map[string]json.RawMessage
	if err := json.Unmarshal(m["nats"], &nats); err != nil {
		t.Fatal(err)
	}
	shuffled := slices.Clone(roles)
	slices.Reverse(shuffled)
	nats["signing_keys"] = must[[]byte](t)(json.Marshal(shuffled))
	write := func(m map[string]json.RawMessage) string {
		keys := slices.Sorted(maps.Keys(m))
		slices.Reverse(keys)
		var parts []string
		for _, k := range keys {
			parts = append(parts, fmt.Sprintf(" %q : %s", k, m[k]))
		}
		return "{" + strings.Join(parts, ",\n") + "}"
	}
	m["nats"] = json.RawMessage(write(nats))
	chunk := head2 + "." + base64.RawURLEncoding.EncodeToString([]byte(write(m)))
	sig := must[[]byte](t)(s.keys[1].Sign([]byte(chunk)))
	return must[trust.AccountJWT](t)(s.operator.OpenAccount(chunk + "." + base64.RawURLEncoding.EncodeToString(sig)))
}

// drawn is an account JWT that rapid made: few versions, bases and users, so that they
// meet.
func (s *signers) drawn(t *rapid.T, tb testing.TB, what string) trust.Content {
	c := s.claims()
	if v := rapid.IntRange(0, 3).Draw(t, what+" version"); v > 0 {
		c.Tags.Add(fmt.Sprintf("base:%d", v))
	}
	c.Limits.Conn = int64(rapid.IntRange(0, 2).Draw(t, what+" base"))
	for who, at := range rapid.MapOf(rapid.SampledFrom([]string{"UA", "UB", "*"}), rapid.Int64Range(-1, 4)).Draw(t, what+" revoked") {
		if c.Revocations == nil {
			c.Revocations = jwt.RevocationList{}
		}
		c.Revocations[who] = at
	}
	return content(tb, s.open(tb, c, rapid.IntRange(0, 1).Draw(t, what+" signer")))
}

// Joining is commutative, associative and idempotent, and nothing that was said is lost
// by it: whoever has seen the same JWTs, in whatever order, wants the same content.
func TestJoinIsALattice(t *testing.T) {
	s := newSigners(t)
	rapid.Check(t, func(rt *rapid.T) {
		a, b, c := s.drawn(rt, t, "a"), s.drawn(rt, t, "b"), s.drawn(rt, t, "c")
		ab := join(t, a, b)
		if !ab.Equal(join(t, b, a)) {
			rt.Error("not commutative")
		}
		abc := join(t, a, b, c)
		for _, other := range []trust.Content{join(t, ab, c), join(t, a, join(t, b, c)), join(t, c, b, a, b, c)} {
			if !abc.Equal(other) {
				rt.Error("not associative")
			}
		}
		if !a.Equal(join(t, a, a)) || !ab.Equal(join(t, ab, a)) || !abc.Equal(join(t, abc, ab)) {
			rt.Error("not idempotent, or less than its parts")
		}
		// Monotone: who knows more wants no less.
		if ac, abc := join(t, a, c), join(t, ab, c); !join(t, ac, abc).Equal(abc) {
			rt.Error("not monotone")
		}
		if ab.Version() != max(a.Version(), b.Version()) {
			rt.Errorf("versions %d and %d give %d", a.Version(), b.Version(), ab.Version())
		}
		got := ab.Revocations()
		for _, part := range []trust.Content{a, b} {
			for who, at := range part.Revocations() {
				if got[who] < at {
					rt.Errorf("%s revoked at %d is revoked at %d", who, at, got[who])
				}
			}
		}
		for who, at := range got {
			if a.Revocations()[who] != at && b.Revocations()[who] != at {
				rt.Errorf("nobody revoked %s at %d", who, at)
			}
		}
	})
}

func TestConflict(t *testing.T) {
	s := newSigners(t)
	made := func(version, conn int) trust.Content {
		c := s.claims(fmt.Sprintf("base:%d", version))
		c.Limits.Conn = int64(conn)
		return content(t, s.open(t, c, 0))
	}
	both := join(t, made(2, 1), made(1, 5), made(2, 2))
	if err := both.Conflict(); !errors.Is(err, trust.ErrConflict) {
		t.Errorf("two bases of one version: %v", err)
	}
	if tok, err := both.Sign(s.keys[0], now(), 0); !errors.Is(err, trust.ErrConflict) || tok != "" {
		t.Errorf("a conflict is signed: %v", err)
	}
	if c, err := both.Claims(); !errors.Is(err, trust.ErrConflict) || c != nil {
		t.Errorf("a conflict has claims: %v", err)
	}
	if over := join(t, both, made(3, 1)); over.Conflict() != nil || !over.Equal(made(3, 1)) {
		t.Errorf("a higher version does not end it: %v", over.Conflict())
	}
	if same := join(t, made(2, 1), made(2, 1)); same.Conflict() != nil {
		t.Errorf("the same twice: %v", same.Conflict())
	}
	// Without a version it is no different: two that were made by hand.
	if err := join(t, content(t, s.open(t, s.claims("a"), 0)), content(t, s.open(t, s.claims("b"), 0))).Conflict(); !errors.Is(err, trust.ErrConflict) {
		t.Errorf("two without a version: %v", err)
	}
	other := newSigners(t)
	if _, err := trust.Join(made(1, 1), content(t, other.open(t, other.claims(), 0))); err == nil {
		t.Error("two accounts are joined")
	}
}

func TestSignJoin(t *testing.T) {
	s := newSigners(t)
	c := s.claims("base:2")
	c.RevokeAt("UA", time.Unix(5, 0))
	d := s.claims("base:1", "old")
	d.RevokeAt("UA", time.Unix(4, 0))
	d.RevokeAt("UB", time.Unix(9, 0))
	both := join(t, content(t, s.open(t, c, 0)), content(t, s.open(t, d, 1)))
	for above, want := range map[int64]int64{
		0: now().Unix(), now().Unix() - 1: now().Unix(), now().Unix(): now().Unix() + 1, now().Unix() + 100: now().Unix() + 101,
		math.MaxInt64: now().Unix(),
	} {
		tok := token2(t)(both.Sign(s.keys[1], now(), above))
		a := must[trust.AccountJWT](t)(s.operator.OpenAccount(tok))
		if a.IssuedAt != want || a.Issuer != s.keys[1].Public() || a.Version != 2 || a.Name != "CHAT" {
			t.Errorf("above %d: %+v", above, a)
		}
		if !content(t, a).Equal(both) {
			t.Errorf("above %d: it says something else", above)
		}
		if again := token2(t)(both.Sign(s.keys[1], now(), above)); again != tok {
			t.Error("signed again it is another token")
		}
		claims := must[*jwt.AccountClaims](t)(s.operator.VerifyAccount(tok))
		if !maps.Equal(claims.Revocations, jwt.RevocationList{"UA": 5, "UB": 9}) || slices.Contains(claims.Tags, "old") {
			t.Errorf("%v %v", claims.Revocations, claims.Tags)
		}
	}
	// Servers of a cluster take two JWTs with one id for the same: two contents that are
	// signed in one second by one key must not have it. (Those of jwt/v2's own encoder do.)
	id := func(c trust.Content) string {
		return must[*jwt.AccountClaims](t)(s.operator.VerifyAccount(token2(t)(c.Sign(s.keys[0], now(), 0)))).ID
	}
	if id(both) == id(content(t, s.open(t, c, 0))) || id(both) == "" {
		t.Error("two contents have one id")
	}
	// Whoever is no signing key of the operator gets a token that nobody opens.
	if _, err := s.operator.OpenAccount(token2(t)(both.Sign(key(t, keystore.Operator), now(), 0))); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("signed by a stranger: %v", err)
	}
	got := must[*jwt.AccountClaims](t)(both.Claims())
	if got.Subject != s.account.Public() || got.Issuer != "" || got.IssuedAt != 0 || got.ID != "" || len(got.Revocations) != 2 || !got.Tags.Contains("base:2") {
		t.Errorf("claims %+v", got)
	}
}

// What this version of the library does not know is not lost by joining and signing.
func TestUnknownClaimsAreKept(t *testing.T) {
	s := newSigners(t)
	payload := `{"iss":"` + s.keys[0].Public() + `","sub":"` + s.account.Public() + `","iat":1,"jti":"X","later":{"a":[1,2.50]},` +
		`"nats":{"type":"account","version":2,"limits":{"subs":-1,"imports":-1,"exports":-1,"new_limit":12345678901234567890},"tags":["base:3"]}}`
	chunk := head2 + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	sig := must[[]byte](t)(s.keys[0].Sign([]byte(chunk)))
	a := must[trust.AccountJWT](t)(s.operator.OpenAccount(chunk + "." + base64.RawURLEncoding.EncodeToString(sig)))
	signed := token2(t)(content(t, a).Sign(s.keys[1], now(), 0))
	got := string(unbase64(t, strings.Split(signed, ".")[1]))
	for _, kept := range []string{`"later":{"a":[1,2.50]}`, `"new_limit":12345678901234567890`} {
		if !strings.Contains(got, kept) {
			t.Errorf("lost %s: %s", kept, got)
		}
	}
	if !content(t, a).Equal(content(t, must[trust.AccountJWT](t)(s.operator.OpenAccount(signed)))) {
		t.Error("it says something else")
	}
}

func FuzzAccountContent(f *testing.F) {
	c := fixedChain(f)
	base := `{"sub":"` + c.account.Public() + `","iat":5,"nats":{"type":"account","version":2,"limits":{"subs":-1,"imports":-1,"exports":-1},`
	seeds := []string{
		base + `"tags":["base:1"]}}`,
		base + `"tags":["base:1","base:2"],"revocations":{"*":7,"UA":-1}}}`,
		base + `"revocations":null,"signing_keys":["` + c.role.Public() + `"]}}`,
		base + `"Revocations":{"UA":1},"revocations":{"UB":1e2}}}`,
		base + `"revocations":[]}}`,
		base + `"revocations":{"UA":9223372036854775808}}}`,
		base + `"tags":"x"},"nats":{"tags":[null]}}`,
	}
	signedFuzz(f, c.signing, seeds, func(t *testing.T, tok string) {
		a, err := c.operator.OpenAccount(tok)
		if err != nil {
			return
		}
		got, err := a.Content()
		if err != nil {
			return
		}
		if got.Account() != a.Account || got.Version() != a.Version {
			t.Fatalf("the content of another: %+v", a)
		}
		signed, err := got.Sign(c.signing, now(), a.IssuedAt)
		if err != nil {
			if len(tok) > 1<<17 {
				return // JSON that is written again may grow past the bound
			}
			t.Fatalf("signing what was opened: %v", err)
		}
		again, err := c.operator.OpenAccount(signed)
		if err != nil {
			return // members that were there twice are there once, and that may be invalid
		}
		if back, err := again.Content(); err != nil || !back.Equal(got) {
			t.Fatalf("signed again it says something else: %v", err)
		}
	})
}
