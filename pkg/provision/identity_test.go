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
	for _, k := range b.config.RoleKeys {
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
	return must(wire.DecodeAnswer(body)), nil
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

// TestRefusalsAreRecorded: what policy refuses to a key or a login is recorded once an hour,
// and nothing else is: whoever makes nkeys must not fill the records with them.
func TestRefusalsAreRecorded(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	id, secret := b.accessKey(nil) // policy has nothing for keys
	ask := func(n int) {
		t.Helper()
		if _, werr := b.asKey(alice, id, secret, nonceOf(n)); werr == nil || werr.Code != wire.NoGrant {
			t.Fatalf("%v", werr)
		}
	}
	ask(1)
	want := ledger.Record{
		ID: "refused.r1", Request: "r1", Identity: ident.KeyIdentity(id), User: userKey(alice), Issued: b.now.Unix(),
		Region: b.config.Region, Issuer: b.config.Self, By: authn.KeyRecord{Public: secret.Public()}.By(), Refused: wire.NoGrant,
	}
	if len(b.records.all) != 1 || b.records.all[0] != want {
		t.Fatalf("%+v\nnot\n%+v", b.records.all, want)
	}
	data := must(want.Encode())
	if got, err := ledger.DecodeRecord(want.Region.String()+"."+want.Issuer.String(), string(data), ledger.MaxLife); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	ask(2)
	b.now = b.now.Add(time.Hour - time.Second)
	ask(3)
	if len(b.records.all) != 1 {
		t.Errorf("recorded %d times within an hour", len(b.records.all))
	}
	b.now = b.now.Add(time.Second)
	ask(4)
	if len(b.records.all) != 2 {
		t.Errorf("recorded %d times in an hour and a moment", len(b.records.all))
	}
	// Neither a proof that is not good nor who is known by an nkey alone.
	if _, werr := b.asKey(alice, id, must(accesskey.NewSecret(rand.Reader)), nonceOf(5)); werr == nil || werr.Code != wire.BadIdentity {
		t.Errorf("another's secret: %v", werr)
	}
	b.svc.Use(b.document(2, func(_ *trust.Platform, p *policy.Policy) { p.Offers[0].Kind = ident.KindInvite }))
	if _, werr := b.issue(newUser(t), nil); werr == nil || werr.Code != wire.NoGrant {
		t.Errorf("an open name: %v", werr)
	}
	if len(b.records.all) != 2 {
		t.Errorf("recorded: %+v", b.records.all[2:])
	}
}

func nonceOf(n int) string { return string(rune('A'+n)) + strings.Repeat("A", 21) }
