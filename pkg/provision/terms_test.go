package provision_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

func (b *bench) info() (wire.Info, *wire.Error) {
	b.t.Helper()
	resp := b.svc.Info(b.t.Context(), endpoint.Request{ID: "i", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: info(b.t, b.guest.Token)}})
	if resp.Err != nil {
		return wire.Info{}, resp.Err
	}
	return must(wire.DecodeInfo(resp.Body)), nil
}

// TestNothingBeforeADocument: all doors are shut, and it is worth asking again.
func TestNothingBeforeADocument(t *testing.T) {
	b, names := newBench(t)
	alice := newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	b.records.all = nil
	asked := names.asked
	b.svc = provision.New(b.config)
	check := func(door string, werr *wire.Error) {
		t.Helper()
		if werr == nil || werr.Code != wire.Unavailable || werr.RetryAfterMS == 0 {
			t.Errorf("%s: %v", door, werr)
		}
	}
	_, werr = b.info()
	check("info", werr)
	_, werr = b.renew(a.JWT)
	check("renew", werr)
	r, _ := b.request(alice, nonce(1))
	check("issue", b.svc.Issue(t.Context(), r).Err)
	if len(b.records.all) > 0 || names.asked != asked {
		t.Error("something was done nevertheless")
	}
	b.svc.Use(b.p.Full)
	if _, werr := b.issue(alice, nonce(1)); werr != nil {
		t.Error(werr)
	}
}

// nobodyMay takes every offer to open identities away.
func nobodyMay(_ *trust.Platform, p *policy.Policy) {
	for i := range p.Offers {
		p.Offers[i].Kind = ident.KindOIDC
	}
}

// TestNewDocument: it is obeyed from the next request on, by issue and renew and info
// alike; a request that is at work keeps the terms that it began with.
func TestNewDocument(t *testing.T) {
	b, names := newBench(t)
	alice, bob := newUser(t), newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	if i, werr := b.info(); werr != nil || i.Platform != b.p.Full.PublicToken {
		t.Errorf("the first document is not handed out: %v", werr)
	}
	strict := b.document(2, nobodyMay)
	names.during = func() { b.svc.Use(strict) }
	if _, werr := b.issue(bob, func(r *wire.Request) { r.Name = must(ident.ParseName("bob")) }); werr != nil {
		t.Errorf("a request that was at work: %v", werr)
	}
	names.during = nil
	if _, werr := b.issue(bob, nonce(1)); werr == nil || werr.Code != wire.NoGrant {
		t.Errorf("what is not offered any more was issued: %v", werr)
	}
	if _, werr := b.renew(a.JWT); werr == nil || werr.Code != wire.NoGrant {
		t.Errorf("what is not offered any more was renewed: %v", werr)
	}
	if i, werr := b.info(); werr != nil || i.Platform != strict.PublicToken {
		t.Errorf("the new document is not handed out: %v", werr)
	}

	// One that is older changes nothing, whoever brings it late.
	b.svc.Use(b.p.Full)
	if _, werr := b.issue(bob, nonce(2)); werr == nil || werr.Code != wire.NoGrant {
		t.Errorf("an older document is in force: %v", werr)
	}
	// And what is offered again is given again.
	b.svc.Use(b.document(3, func(_ *trust.Platform, p *policy.Policy) {
		p.Offers[0].Longest = policy.Seconds(time.Minute)
		p.Offers[0].Default = p.Offers[0].Longest
	}))
	got, werr := b.issue(alice, nonce(3))
	if werr != nil || got.Expires != b.now.Add(time.Minute).Unix() {
		t.Errorf("%+v, %v", got, werr)
	}
	if got, werr := b.renew(a.JWT); werr != nil || got.Expires != b.now.Add(time.Minute).Unix() {
		t.Errorf("%+v, %v", got, werr)
	}
	// A role whose key was replaced: who has a credential under the old one is nobody.
	other := must(keystore.Generate(keystore.Account))
	b.svc.Use(b.document(4, func(p *trust.Platform, _ *policy.Policy) {
		for i := range p.Accounts {
			for j := range p.Accounts[i].Roles {
				if p.Accounts[i].Name == label(platform.ChatIn) {
					p.Accounts[i].Roles[j].Key = must(ident.ParseAccountKey(other.Public()))
				}
			}
		}
	}))
	if _, werr := b.renew(a.JWT); werr == nil || werr.Code != wire.BadIdentity {
		t.Errorf("a credential under a role key that is not the platform's any more: %v", werr)
	}
	if _, werr := b.issue(alice, nonce(4)); werr == nil || werr.Code != wire.Unavailable {
		t.Errorf("a role whose key is not here: %v", werr)
	}
}

// TestRoleWithoutKey: it is refused as unavailable, and all others are issued.
func TestRoleWithoutKey(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	viewer := must(keystore.Generate(keystore.Account))
	key := must(ident.ParseAccountKey(viewer.Public()))
	d := b.document(2, func(p *trust.Platform, pol *policy.Policy) {
		for i := range p.Accounts {
			if p.Accounts[i].Name == label(platform.ChatIn) {
				p.Accounts[i].Roles = append(p.Accounts[i].Roles, trust.Role{Name: label("viewer"), Key: key})
			}
		}
		offer := pol.Offers[0]
		offer.Role = label("viewer")
		pol.Offers = append(pol.Offers, offer)
	})
	b.svc.Use(d)
	asViewer := func(i byte) func(*wire.Request) {
		return func(r *wire.Request) { nonce(i)(r); r.Role = label("viewer") }
	}
	_, werr := b.issue(alice, asViewer(1))
	if werr == nil || werr.Code != wire.Unavailable || werr.RetryAfterMS == 0 || strings.Contains(werr.Message, "key") {
		t.Errorf("%+v", werr)
	}
	if len(b.records.all) != 0 {
		t.Error("it was recorded")
	}
	if !strings.Contains(b.log.String(), "level=ERROR") || !strings.Contains(b.log.String(), viewer.Public()) {
		t.Errorf("the log does not say which key is missing:\n%s", b.log)
	}
	if a, werr := b.issue(alice, nonce(2)); werr != nil || a.Role != label(platform.RoleMember) {
		t.Errorf("%+v, %v", a, werr)
	}
	// It came meanwhile: the next document finds it, without a new start.
	b.config.MoreKeys = func() (provision.Keys, error) {
		more := b.config.Keys.Clone()
		more.Roles[key] = viewer
		return more, nil
	}
	b.svc = provision.New(b.config)
	b.svc.Use(d)
	if a, werr := b.issue(alice, asViewer(4)); werr != nil || a.Role != label("viewer") {
		t.Errorf("with a key that came later: %+v, %v", a, werr)
	}
	b.config.MoreKeys = nil
	b.config.Keys.Roles[key] = viewer
	b.svc = provision.New(b.config)
	b.svc.Use(d)
	if a, werr := b.issue(alice, asViewer(3)); werr != nil || a.Role != label("viewer") {
		t.Errorf("with the key: %+v, %v", a, werr)
	}
}

// TestAnotherRegionKey: it is said, nobody is answered in the name of a key that the document does
// not know, and who has a credential is renewed.
func TestAnotherRegionKey(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	other := must(keystore.Generate(keystore.Curve))
	b.svc.Use(b.document(2, func(p *trust.Platform, _ *policy.Policy) {
		p.Regions[0].SealKey = must(ident.ParseSealKey(other.Public()))
	}))
	if !strings.Contains(b.log.String(), "level=ERROR") || !strings.Contains(b.log.String(), other.Public()) {
		t.Errorf("the log does not say it:\n%s", b.log)
	}
	r, _ := b.request(newUser(t), nil)
	if resp := b.svc.Issue(t.Context(), r); resp.Err == nil || resp.Err.Code != wire.Unavailable || resp.SealedBy != "" {
		t.Errorf("a guest: %+v", resp)
	}
	if _, werr := b.renew(a.JWT); werr != nil {
		t.Error(werr)
	}
}

// TestRegionKeysInTurn: while a region's key is replaced, what is sealed to either is opened and
// answered in its name, and afterwards what is sealed to the former one is refused.
func TestRegionKeysInTurn(t *testing.T) {
	b, _ := newBench(t)
	former, next := b.seal, must(keystore.Generate(keystore.Curve))
	public := func(k *keystore.Key) ident.SealKey { return must(ident.ParseSealKey(k.Public())) }
	var handed provision.Keys
	b.config.MoreKeys = func() (provision.Keys, error) { return handed, nil }
	b.svc = provision.New(b.config)
	asks := func(to *keystore.Key, name string) endpoint.Response {
		by := must(keystore.Generate(keystore.Curve))
		r, _ := b.request(newUser(t), func(r *wire.Request) { r.Name = must(ident.ParseName(name)) })
		if to != nil {
			r.Header[wire.HeaderSealed] = []string{by.Public()}
			r.Body = must(wire.Seal(by.Pair(), public(to), r.Body))
		}
		return b.svc.Issue(t.Context(), r)
	}
	d := must(b.p.Full.BeginSeal(ledger.SealRotation{Region: b.config.Region, To: public(next)}, false, b.now))
	b.svc.Use(d)
	if h := b.svc.Held(); !h.RegionKey || h.SealKeys {
		t.Errorf("without the new key: %+v", h)
	}
	handed = b.config.Keys.Clone()
	handed.Region[public(next)] = next
	b.svc.LookAgain() // which is brought after the document
	for _, stage := range []struct {
		what  string
		plain *keystore.Key // in whose name what is not sealed is answered
		opens []*keystore.Key
		not   *keystore.Key
	}{
		{"add", former, []*keystore.Key{former, next}, nil},
		{"issue", next, []*keystore.Key{former, next}, nil},
		{"drop", next, []*keystore.Key{next}, former},
	} {
		if stage.what != "add" {
			d = must(d.AdvanceSeal(b.config.Region, b.now))
			b.svc.Use(d)
		}
		if h := b.svc.Held(); !h.RegionKey || !h.SealKeys {
			t.Errorf("%s: %+v", stage.what, h)
		}
		if resp := asks(nil, stage.what+"-plain"); resp.Err != nil || resp.SealedBy != stage.plain.Public() {
			t.Errorf("%s, not sealed: %v by %s", stage.what, resp.Err, resp.SealedBy)
		}
		for j, key := range stage.opens {
			if resp := asks(key, fmt.Sprint(stage.what, j)); resp.Err != nil || resp.SealedBy != key.Public() {
				t.Errorf("%s, sealed to key %d: %v by %s", stage.what, j, resp.Err, resp.SealedBy)
			}
		}
		if stage.not != nil {
			if resp := asks(stage.not, stage.what+"-former"); resp.Err == nil || resp.Err.Code != wire.WrongRegion {
				t.Errorf("%s, sealed to the former key: %v", stage.what, resp.Err)
			}
		}
	}
}

// TestSuspended: an identity, a user and an account, at both doors, also where the
// suspension arrives while the claim of a name is on its way.
func TestSuspended(t *testing.T) {
	alice := newUser(t)
	for what, key := range map[string]func(b *bench) ledger.Key{
		"identity": func(*bench) ledger.Key { return ledger.IdentitySuspension(ident.OpenIdentity(userKey(alice))) },
		"user":     func(b *bench) ledger.Key { return ledger.UserSuspension(b.chat(), userKey(alice)) },
		"account":  func(b *bench) ledger.Key { return ledger.AccountSuspension(b.chat()) },
	} {
		t.Run(what, func(t *testing.T) {
			b, names := newBench(t)
			a, werr := b.issue(alice, nil)
			if werr != nil {
				t.Fatal(werr)
			}
			b.records.all = nil
			asked := names.asked
			b.suspend(key(b))
			if _, werr := b.issue(alice, nonce(1)); werr == nil || werr.Code != wire.Suspended || werr.RetryAfterMS != 0 {
				t.Errorf("issued: %v", werr)
			}
			if names.asked != asked {
				t.Error("a name was claimed for who is suspended")
			}
			if _, werr := b.renew(a.JWT); werr == nil || werr.Code != wire.Suspended {
				t.Errorf("renewed: %v", werr)
			}
			// Nobody else, unless it is all of the account.
			_, werr = b.issue(newUser(t), func(r *wire.Request) { r.Name = must(ident.ParseName("bob")) })
			if (werr == nil) == (what == "account") {
				t.Errorf("another: %v", werr)
			}
			for _, rec := range b.records.all {
				if rec.User == userKey(alice) {
					t.Error("it was recorded")
				}
			}
		})
		t.Run(what+" while a claim is on its way", func(t *testing.T) {
			b, names := newBench(t)
			names.during = func() { b.suspend(key(b)) }
			if _, werr := b.issue(alice, nil); werr == nil || werr.Code != wire.Suspended || len(b.records.all) > 0 {
				t.Errorf("%v, %d records", werr, len(b.records.all))
			}
		})
	}
}

// TestRevoked: a credential that is over is not renewed, also where a server lets its
// user ask, and a new one is not over when it is made.
func TestRevoked(t *testing.T) {
	issuedAt := func(t *testing.T, token string) int64 {
		t.Helper()
		return must(jwt.DecodeUserClaims(token)).IssuedAt
	}
	for what, c := range map[string]struct {
		before time.Duration // the revocation, from the issuing on
		renews bool
	}{
		"of that very second": {0, false},
		"of later":            {10 * time.Minute, false},
		"of before":           {-time.Second, true},
	} {
		t.Run(what, func(t *testing.T) {
			b, _ := newBench(t)
			alice := newUser(t)
			a, werr := b.issue(alice, nil)
			if werr != nil {
				t.Fatal(werr)
			}
			before := b.now.Add(c.before)
			b.now = b.now.Add(max(c.before, time.Second))
			b.revoke(b.chat(), userKey(alice), before)
			again, werr := b.renew(a.JWT)
			if c.renews && (werr != nil || issuedAt(t, again.JWT) <= before.Unix()) || !c.renews && (werr == nil || werr.Code != wire.Revoked) {
				t.Errorf("%v", werr)
			}
			if n := len(b.records.all); n != 1 && !c.renews {
				t.Errorf("%d records", n)
			}
		})
	}
	// A revocation ends what was given, and not who may come again.
	t.Run("issued anew", func(t *testing.T) {
		b, names := newBench(t)
		alice, bob := newUser(t), newUser(t)
		ahead := b.now.Add(4 * time.Minute) // another region's clock
		b.revoke(b.chat(), userKey(alice), ahead)
		a, werr := b.issue(alice, nil)
		if werr != nil || issuedAt(t, a.JWT) != ahead.Unix()+1 || a.Expires != ahead.Unix()+1+3600 {
			t.Errorf("%+v, %v", a, werr)
		}
		if rec := b.records.all; len(rec) != 1 || rec[0].Issued != ahead.Unix()+1 || rec[0].Expires != a.Expires {
			t.Errorf("recorded %+v", rec)
		}
		names.during = func() { b.revoke(b.chat(), userKey(bob), b.now) }
		a, werr = b.issue(bob, func(r *wire.Request) { r.Name = must(ident.ParseName("bob")) })
		if werr != nil || issuedAt(t, a.JWT) != b.now.Unix()+1 {
			t.Errorf("a revocation while a claim is on its way: %v, issued at %d", werr, issuedAt(t, a.JWT)-b.now.Unix())
		}
	})
}

// TestRecords: of every credential, exactly what registrars need, and no secret.
func TestRecords(t *testing.T) {
	b, _ := newBench(t)
	alice, proven := newUser(t), b.now.Unix()
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	b.now = b.now.Add(time.Minute)
	again, werr := b.renew(a.JWT)
	if werr != nil {
		t.Fatal(werr)
	}
	// What is refused is no issuance.
	if _, werr := b.issue(newUser(t), nonce(1)); werr == nil {
		t.Error("another has the name")
	}
	var want []audit.Record
	for i, c := range []wire.Answer{a, again} {
		claims := must(jwt.DecodeUserClaims(c.JWT))
		got := b.records.all[i]
		want = append(want, audit.Record{
			What: []audit.What{audit.Issue, audit.Renew}[i], Door: []string{"issue", "renew"}[i], At: got.At, Host: got.Host,
			ID: claims.ID, Request: []string{"r1", "r2"}[i], Identity: ident.OpenIdentity(userKey(alice)), User: userKey(alice), Account: b.chat(),
			Role: label(platform.RoleMember), Name: must(ident.ParseName("alice")), Issued: claims.IssuedAt, Expires: c.Expires,
			Proven: proven, Why: "grant 1, to open",
		})
	}
	if !slices.Equal(b.records.all, want) {
		t.Fatalf("%+v\nnot\n%+v", b.records.all, want)
	}
	for i, rec := range b.records.all {
		data := line(t, rec)
		var members map[string]any
		if err := json.Unmarshal(data, &members); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(members)), " "); got != "account at door exp host iat identity jti name proven request role user what why" {
			t.Errorf("members %s", got)
		}
		seed := must(alice.Seed())
		for what, secret := range map[string]string{
			"the JWT": []wire.Answer{a, again}[i].JWT, "the seed": string(seed), "the nonce": "AAAAAAAAAAAAAAAAAAAAAA",
		} {
			if strings.Contains(string(data), secret) {
				t.Errorf("%s is in the record: %s", what, data)
			}
			if what != "the nonce" && strings.Contains(b.log.String(), secret) {
				t.Errorf("%s is in the log", what)
			}
		}
	}
}

// TestRecordedBeforeAnswered: at both doors.
func TestRecordedBeforeAnswered(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	r, _ := b.request(alice, nonce(1))
	renew := endpoint.Request{ID: "r2", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: info(t, a.JWT)}}
	synctest.Test(t, func(t *testing.T) {
		for door, ask := range map[string]func() endpoint.Response{
			"issue": func() endpoint.Response { return b.svc.Issue(t.Context(), r) },
			"renew": func() endpoint.Response { return b.svc.Renew(t.Context(), renew) },
		} {
			hold := make(chan struct{})
			b.records.hold = hold
			answered := make(chan endpoint.Response, 1)
			go func() { answered <- ask() }()
			synctest.Wait()
			early := len(answered) > 0
			close(hold)
			if resp := <-answered; early || resp.Err != nil {
				t.Errorf("%s: answered before it was recorded: %t; %v", door, early, resp.Err)
			}
			synctest.Wait()
			b.records.hold = nil
		}
	})
	if len(b.records.all) != 3 {
		t.Errorf("%d records", len(b.records.all))
	}
}

// TestSecretProofsAreSealed: an invitation in the clear, or whose answer would be, is
// refused before anything is done with it; its code is in no log.
func TestSecretProofsAreSealed(t *testing.T) {
	b, names := newBench(t)
	alice := newUser(t)
	const code = "HI-7K3M-9QXR-T2VB-4N8C-WJPX"
	invite := func(r *wire.Request) { r.Identity = wire.Proof{Type: wire.ProofInvite, Code: code} }
	sealed := func(r *endpoint.Request) {
		eph := must(keystore.Generate(keystore.Curve))
		r.Header[wire.HeaderSealed] = []string{eph.Public()}
		r.Body = must(wire.Seal(eph.Pair(), must(ident.ParseSealKey(b.seal.Public())), r.Body))
	}
	for what, c := range map[string]struct {
		change func(*wire.Request)
		seal   bool
		want   wire.Code
		open   bool // the refusal is sealed
	}{
		"in the clear":               {invite, false, wire.NotSealed, true},
		"in the clear, no reply key": {func(r *wire.Request) { invite(r); r.ReplyKey = ident.SealKey{} }, false, wire.NotSealed, false},
		"sealed, no reply key":       {func(r *wire.Request) { invite(r); r.ReplyKey = ident.SealKey{} }, true, wire.NotSealed, false},
		// Invitations are redeemed by a later version; what matters here is that it got further.
		"sealed": {invite, true, wire.BadIdentity, true},
	} {
		r, reply := b.request(alice, c.change)
		if c.seal {
			sealed(&r)
		}
		resp := b.svc.Issue(t.Context(), r)
		if resp.Err == nil || resp.Err.Code != c.want {
			t.Errorf("%s: %v", what, resp.Err)
		}
		body := resp.Body
		if c.open {
			body = b.open(resp, reply)
		}
		if strings.Contains(string(body), code) {
			t.Errorf("%s: the answer has the code: %s", what, body)
		}
	}
	if strings.Contains(b.log.String(), code) {
		t.Errorf("the log has the code:\n%s", b.log)
	}
	if names.asked != 0 || len(b.records.all) != 0 {
		t.Error("something was done nevertheless")
	}
}

// A name that was released is renewed for nobody: its holder has to claim it again,
// and cannot once it is another's. A name that this region has not heard of is
// renewed: whoever was given it elsewhere holds a valid credential.
func TestRenewLooksAtTheName(t *testing.T) {
	b, names := newBench(t)
	alice := newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	if _, werr := b.renew(a.JWT); werr != nil {
		t.Errorf("a name that is not known here: %v", werr)
	}
	n := must(ident.ParseName("alice"))
	held := must(names.decider.Claim(t.Context(), ledger.Claim{Name: n, Identity: ident.OpenIdentity(userKey(alice)), Expires: b.now.Add(time.Hour)}, b.now))
	b.ledger.Apply(held)
	if _, werr := b.renew(a.JWT); werr != nil {
		t.Errorf("its holder: %v", werr)
	}
	names.decider.Rules.Rest = time.Minute
	b.ledger.Apply(must(names.decider.Release(t.Context(), n, ident.Identity{}, ident.Identity{}, b.now)))
	if _, werr := b.renew(a.JWT); werr == nil || werr.Code != wire.NameTaken {
		t.Errorf("a name that was released: %v", werr)
	}
	b.now = b.now.Add(2 * time.Minute)
	other := ledger.Claim{Name: n, Identity: ident.OpenIdentity(userKey(newUser(t))), Expires: b.now.Add(time.Hour)}
	b.ledger.Apply(must(names.decider.Claim(t.Context(), other, b.now)))
	if _, werr := b.renew(a.JWT); werr == nil || werr.Code != wire.NameTaken {
		t.Errorf("another's name: %v", werr)
	}
}
