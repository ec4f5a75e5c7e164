package provision_test

import (
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestSession: credentials are renewed from one proof for as long as policy says, and then
// a proof is needed again, which begins anew.
func TestSession(t *testing.T) {
	b, _ := newBench(t)
	b.svc.Use(b.document(2, func(_ *trust.Platform, p *policy.Policy) { p.Session = policy.Seconds(3 * time.Hour) }))
	alice := newUser(t)
	// A credential of an issuer that did not say when: since it was issued.
	u := jwt.NewUserClaims(alice.Public())
	u.IssuerAccount, u.Name, u.Expires = b.chat().String(), "alice", b.now.Add(time.Hour).Unix()
	u.SetScoped(true)
	u.Tags = jwt.TagList{"identity:open"}
	var role *keystore.Key
	for _, k := range b.config.Keys.Roles {
		role = k
	}
	old := must(u.Encode(role.Pair()))
	if _, werr := b.renew(old); werr != nil {
		t.Errorf("of an older issuer: %v", werr)
	}
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	began := b.now
	tags := func(token string) jwt.TagList { return must(jwt.DecodeUserClaims(token)).Tags }
	proven := tags(a.JWT)
	if !slices.ContainsFunc(proven, func(s string) bool {
		return len(s) > len(trust.TagProven) && s[:len(trust.TagProven)] == trust.TagProven
	}) {
		t.Fatalf("the credential does not say when its holder was proved: %v", proven)
	}
	for i := 1; ; i++ {
		b.now = began.Add(time.Duration(i) * 40 * time.Minute)
		next, werr := b.renew(a.JWT)
		if b.now.Sub(began) >= 3*time.Hour {
			if werr == nil || werr.Code != wire.BadIdentity { // the credential itself has ended
				t.Errorf("%s after the proof: %v", b.now.Sub(began), werr)
			}
			break
		}
		if werr != nil {
			t.Fatalf("%s after the proof: %v", b.now.Sub(began), werr)
		}
		// It does not outlive what may be renewed, and the moment of the proof stays.
		if time.Unix(next.Expires, 0).After(began.Add(3 * time.Hour)) {
			t.Errorf("%s after the proof it lives until %s after", b.now.Sub(began), time.Unix(next.Expires, 0).Sub(began))
		}
		if !slices.Equal(tags(next.JWT), proven) {
			t.Errorf("tags %v became %v", proven, tags(next.JWT))
		}
		a = next
	}
	if a, werr = b.issue(alice, func(r *wire.Request) { r.Nonce = "BAAAAAAAAAAAAAAAAAAAAA" }); werr != nil {
		t.Errorf("with a proof again: %v", werr)
	}
	// Sessions that become shorter end for who has a credential, too, when it is renewed.
	b.svc.Use(b.document(3, func(_ *trust.Platform, p *policy.Policy) { p.Session = policy.Seconds(10 * time.Minute) }))
	b.now = b.now.Add(10*time.Minute - 2*time.Second) // moments count in whole seconds
	if _, werr := b.renew(a.JWT); werr != nil {
		t.Errorf("within a shorter session: %v", werr)
	}
	b.now = b.now.Add(2 * time.Second)
	if _, werr := b.renew(a.JWT); werr == nil || werr.Code != wire.Expired {
		t.Errorf("after a shorter session: %v", werr)
	}
}

// accessKey makes one for CHAT/member that the ledger has.
func (b *bench) accessKey(change func(*ledger.AccessKey)) (ident.KeyID, accesskey.Secret) {
	b.t.Helper()
	secret, id, err := accesskey.Generate(rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	b.putKey(id, 1, func(a *ledger.AccessKey) {
		a.Public = secret.Public()
		if change != nil {
			change(a)
		}
	})
	return id, secret
}

func (b *bench) putKey(id ident.KeyID, version uint64, change func(*ledger.AccessKey)) {
	b.t.Helper()
	a := ledger.AccessKey{Owner: "x", Grants: []authn.Granted{{Account: label(platform.ChatIn), Role: label(platform.RoleMember), Name: must(ident.ParseName("robot"))}}}
	if e, ok := b.ledger.Get(ledger.AccessKeyKey(id)); ok {
		a, _ = e.Body.(ledger.AccessKey)
	}
	change(&a)
	b.apply(trust.Entry{Subject: ledger.AccessKeyKey(id).String(), Version: version, Body: must(json.Marshal(a))})
}

// apply has the ledger know an entry that a registrar signs.
func (b *bench) apply(e trust.Entry) {
	b.t.Helper()
	e.At = b.now.UnixMilli()
	token := must(ledger.KeySigner{Key: b.signing}.Sign(e))
	b.ledger.Apply(must(b.opener().Open(e.Subject, token)))
}

// asKey asks with an access key.
func (b *bench) asKey(user *keystore.Key, id ident.KeyID, secret accesskey.Secret, nonce string) (wire.Answer, *wire.Error) {
	b.t.Helper()
	r, reply := b.request(user, func(r *wire.Request) {
		r.Identity, r.Name, r.Nonce = wire.Proof{Type: wire.ProofKey, KeyID: id}, ident.Name{}, nonce
	})
	r.Header[wire.HeaderIdentity] = []string{must(wire.Prove(must(secret.Key()), r.Body))}
	return b.answered(r, reply)
}

func (b *bench) answered(r endpoint.Request, reply *keystore.Key) (wire.Answer, *wire.Error) {
	b.t.Helper()
	resp := b.door("issue", r)
	body := b.open(resp, reply)
	if resp.Err != nil {
		return wire.Answer{}, must(wire.DecodeError(body))
	}
	return b.remembered(must(wire.DecodeAnswer(body))), nil
}

// TestAccessKey: what an access key gets, and that its renewals end with it.
func TestAccessKey(t *testing.T) {
	b, _ := newBench(t)
	b.svc.Use(b.document(2, func(_ *trust.Platform, p *policy.Policy) {
		o := p.Offers[0]
		o.Kind = ident.KindKey
		p.Offers = append(p.Offers, o)
	}))
	id, secret := b.accessKey(func(a *ledger.AccessKey) { a.Expires = b.now.Add(30 * time.Minute).Unix() })
	user := newUser(t)
	a, werr := b.asKey(user, id, secret, "AAAAAAAAAAAAAAAAAAAAAA")
	if werr != nil {
		t.Fatal(werr)
	}
	u := must(b.p.Document.VerifyUser(a.JWT, b.now))
	if u.Identity != ident.KeyIdentity(id) || u.Name.String() != "robot" || a.Expires > b.now.Add(30*time.Minute).Unix() {
		t.Errorf("%+v until %d", u, a.Expires)
	}
	if _, werr := b.renew(a.JWT); werr != nil {
		t.Fatal(werr)
	}
	// What was proved with another key, or for another body, shows nothing.
	other, _, err := accesskey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, werr := b.asKey(user, id, other, "BAAAAAAAAAAAAAAAAAAAAA"); werr == nil || werr.Code != wire.BadIdentity {
		t.Errorf("with another's secret: %v", werr)
	}
	for i, c := range []struct {
		what   string
		change func(*ledger.AccessKey)
		code   wire.Code
	}{
		{"elsewhere", func(a *ledger.AccessKey) { a.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, wire.BadIdentity},
		{"where it may", func(a *ledger.AccessKey) {
			a.Networks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		}, ""},
		{"disabled", func(a *ledger.AccessKey) { a.Disabled = true }, wire.Suspended},
		{"enabled", func(a *ledger.AccessKey) { a.Disabled = false }, ""},
		{"for another role", func(a *ledger.AccessKey) {
			a.Grants = []authn.Granted{{Account: label(platform.ChatIn), Role: label("other")}}
		}, wire.NoGrant},
		{"for this role", func(a *ledger.AccessKey) {
			a.Grants = []authn.Granted{{Account: label(platform.ChatIn), Role: label(platform.RoleMember)}}
		}, ""},
		{"with another secret since", func(a *ledger.AccessKey) { *a = a.Rotate(other.Public()) }, wire.Expired},
		{"with that secret again", func(a *ledger.AccessKey) { a.Public = secret.Public() }, ""},
		{"at its end", func(a *ledger.AccessKey) { a.Expires = b.now.Unix() }, wire.Expired},
	} {
		b.putKey(id, uint64(i)+2, c.change)
		_, werr := b.renew(a.JWT)
		if c.code == "" && werr != nil || c.code != "" && (werr == nil || werr.Code != c.code) {
			t.Errorf("renewed %s: %v", c.what, werr)
		}
	}
	e, _ := b.ledger.Get(ledger.AccessKeyKey(id))
	b.apply(trust.Entry{Subject: e.Key.String(), Version: 20, Denies: true, Body: must(json.Marshal(e.Body))})
	if _, werr := b.renew(a.JWT); werr == nil || werr.Code != wire.BadIdentity {
		t.Errorf("renewed after it was removed: %v", werr)
	}
}

// TestRefusalsAreRecorded: each refusal, with who it was as far as that is known, where from,
// what was asked for, and why; at every door.
func TestRefusalsAreRecorded(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	id, secret := b.accessKey(nil) // policy has nothing for keys
	last := func(n int) audit.Record {
		t.Helper()
		if len(b.records.refused) != n || len(b.records.all) != 0 {
			t.Fatalf("%+v, want %d", b.records.refused, n)
		}
		rec := b.records.refused[n-1]
		line(t, rec)
		return rec
	}
	if _, werr := b.asKey(alice, id, secret, nonceOf(1)); werr == nil || werr.Code != wire.NoGrant {
		t.Fatalf("%v", werr)
	}
	got := last(1)
	want := audit.Record{
		What: audit.Refuse, At: b.now.UnixMilli(), Door: "issue", Request: got.Request, Identity: ident.KeyIdentity(id), User: userKey(alice), Host: got.Host,
		By: authn.KeyRecord{Public: secret.Public()}.By(), Refused: wire.NoGrant, Why: got.Why,
	}
	if got != want || got.Request == "" || !strings.Contains(got.Why, "no_grant") {
		t.Errorf("%+v\nnot\n%+v", got, want)
	}
	// A proof that is not good shows nobody.
	if _, werr := b.asKey(alice, id, must(accesskey.NewSecret(rand.Reader)), nonceOf(5)); werr == nil || werr.Code != wire.BadIdentity {
		t.Errorf("another's secret: %v", werr)
	}
	if got = last(2); !got.Identity.IsZero() || got.User != userKey(alice) || got.Refused != wire.BadIdentity {
		t.Errorf("%+v", got)
	}
	b.svc.Use(b.document(2, func(_ *trust.Platform, p *policy.Policy) { p.Offers[0].Kind = ident.KindInvite }))
	if _, werr := b.issue(newUser(t), nil); werr == nil || werr.Code != wire.NoGrant {
		t.Errorf("an open name: %v", werr)
	}
	if got = last(3); got.Identity.Kind() != ident.KindOpen || got.Name.String() != "alice" {
		t.Errorf("%+v", got)
	}
	// Who is not believed has no name here.
	if resp := b.svc.Renew(t.Context(), endpoint.Request{ID: "r9", Reply: "_R_.x"}); resp.Err == nil {
		t.Error("renewed for nobody")
	}
	if got = last(4); got.Door != "renew" || got.Request != "r9" || !got.User.IsZero() {
		t.Errorf("%+v", got)
	}
}

// TestNotRecordedNotGranted: a credential that cannot be recorded is not handed out, at either
// door; that is refused, and can be asked for again.
func TestNotRecordedNotGranted(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	b.records.fail = audit.ErrUnavailable
	again, werr := b.issue(alice, nonce(1))
	if werr == nil || werr.Code != wire.Unavailable || werr.RetryAfterMS == 0 || again.JWT != "" {
		t.Errorf("issue: %v", werr)
	}
	again, werr = b.renew(a.JWT)
	if werr == nil || werr.Code != wire.Unavailable || again.JWT != "" {
		t.Errorf("renew: %v", werr)
	}
	if n := len(b.records.refused); n != 2 || len(b.records.all) != 1 {
		t.Errorf("%d refusals are recorded", n)
	}
	b.records.fail = nil
	if _, werr = b.renew(a.JWT); werr != nil {
		t.Error(werr)
	}
}

func nonceOf(n int) string { return string(rune('A'+n)) + strings.Repeat("A", 21) }
