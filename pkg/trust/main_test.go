package trust_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

// now is the one time of these tests.
func now() time.Time { return time.Unix(1790000000, 0) }

// chain is a small platform: an operator, one account with one role, and a
// user under it.
type chain struct {
	root     *keystore.Key // the operator's identity
	signing  *keystore.Key
	account  *keystore.Key
	role     *keystore.Key
	user     *keystore.Key
	operator *trust.Operator
	document *trust.Platform
}

func key(t testing.TB, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func name(t testing.TB, s string) ident.Name { return must[ident.Name](t)(ident.ParseName(s)) }

func label(t testing.TB, s string) ident.Label { return must[ident.Label](t)(ident.ParseLabel(s)) }

func reg(t testing.TB, s string) ident.Region      { return must[ident.Region](t)(ident.ParseRegion(s)) }
func token(t testing.TB, s string, e error) string { t.Helper(); return must[string](t)(s, e) }
func userKey(t testing.TB, k *keystore.Key) ident.UserKey {
	return must[ident.UserKey](t)(ident.ParseUserKey(k.Public()))
}

func accKey(t testing.TB, k *keystore.Key) ident.AccountKey {
	return must[ident.AccountKey](t)(ident.ParseAccountKey(k.Public()))
}

func newChain(t testing.TB) *chain {
	t.Helper()
	return chainOf(t, func(kind keystore.Kind) *keystore.Key { return key(t, kind) })
}

// fixedChain has keys from 32 equal bytes: fuzz targets run in several
// processes, and what one finds must fail in the others.
func fixedChain(t testing.TB) *chain {
	t.Helper()
	n := byte(0)
	return chainOf(t, func(kind keystore.Kind) *keystore.Key {
		n++
		seed := must[[]byte](t)(nkeys.EncodeSeed(nkeys.PrefixByte(kind), bytes.Repeat([]byte{n}, 32)))
		return must[*keystore.Key](t)(keystore.Parse(kind, seed))
	})
}

func chainOf(t testing.TB, key func(keystore.Kind) *keystore.Key) *chain {
	t.Helper()
	c := &chain{
		root: key(keystore.Operator), signing: key(keystore.Operator),
		account: key(keystore.Account), role: key(keystore.Account), user: key(keystore.User),
	}
	sys := accKey(t, key(keystore.Account))
	op, err := trust.NewOperator("demo", c.root, []string{c.signing.Public()}, sys)
	c.operator = must[*trust.Operator](t)(trust.ParseOperator(token(t, op, err)))
	seal := must[ident.SealKey](t)(ident.ParseSealKey(key(keystore.Curve).Public()))
	c.document = &trust.Platform{
		Name: "demo", Operator: c.root.Public(), Version: trust.Version{Epoch: 2, Number: 7}, EpochProof: epoch(t, c.root, 2), Home: reg(t, "ams"),
		Regions: []trust.Region{
			{Name: reg(t, "ams"), URLs: []string{"nats://127.0.0.1:4222"}, SealKey: seal},
			{Name: reg(t, "sfo"), URLs: []string{"nats://127.0.0.1:5222"}, SealKey: seal},
		},
		Accounts: []trust.Account{{Name: label(t, "CHAT"), Key: accKey(t, c.account), Roles: []trust.Role{
			{Name: label(t, "member"), Key: accKey(t, c.role), Open: &trust.Lifetimes{Default: 3600, Longest: 43200}},
		}}},
		Chat: trust.Chat{Account: label(t, "CHAT"), Rooms: []trust.Room{{Name: label(t, "KUBECON"), Channels: []ident.Label{label(t, "General")}}}},
	}
	return c
}

// epoch is a key's word for an epoch.
func epoch(t testing.TB, k *keystore.Key, n uint32) string {
	t.Helper()
	s, err := trust.SignEpoch(k, n, ident.Region{}, now())
	return token(t, s, err)
}

// userClaims are those of a member as an issuer writes them.
func (c *chain) userClaims() *jwt.UserClaims {
	u := &jwt.UserClaims{}
	u.Subject, u.Issuer, u.IssuerAccount = c.user.Public(), c.role.Public(), c.account.Public()
	u.Name, u.IssuedAt, u.Expires, u.ID = "alice", now().Unix(), now().Add(time.Hour).Unix(), "ID"
	u.Type, u.Version = jwt.UserClaim, 2
	u.Tags.Add("identity:open")
	return u
}

func sign(t testing.TB, claims any, k *keystore.Key) string {
	t.Helper()
	s, err := trust.EncodeJWT(claims, k)
	return token(t, s, err)
}

// document as an operator signing key could sign it, of any kind and content.
func generic(c *chain, kind, sub string, body any) map[string]any {
	return map[string]any{
		"iss": c.signing.Public(), "sub": sub, "iat": now().Unix(),
		"nats": map[string]any{"type": kind, "version": 2, "body": body},
	}
}

func (c *chain) userClaimsBy(k *keystore.Key) *jwt.UserClaims {
	u := c.userClaims()
	u.Issuer, u.Subject = k.Public(), "alice"
	return u
}

// v1 signs as JWTs of version 1 were: over the payload alone.
func v1(t testing.TB, head string, payload any, k *keystore.Key) string {
	t.Helper()
	data := must[[]byte](t)(json.Marshal(payload))
	return v1raw(t, head, data, k)
}

func v1raw(t testing.TB, head string, data []byte, k *keystore.Key) string {
	t.Helper()
	body := base64.RawURLEncoding.EncodeToString(data)
	sig := must[[]byte](t)(k.Sign([]byte(body)))
	return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	return must[[]byte](t)(base64.RawURLEncoding.DecodeString(s))
}
