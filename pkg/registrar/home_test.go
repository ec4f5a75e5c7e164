package registrar_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/limit"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// bench is home's registrar on real keys and documents, as init makes them, with the
// ledger in memory. What the servers say of who asks is written by the test.
type bench struct {
	t         *testing.T
	p         *platform.Platform
	home      *registrar.Home
	store     *memory.Decisions
	decider   ledger.Decider
	signing   *keystore.Key
	now       time.Time
	log       *testlog.Log
	document  *ledger.Document
	suspended map[ident.Identity]bool
	keys      map[ident.KeyID]authn.KeyRecord
	issuer    string // user JWTs of those who might ask
	guest     string
	member    string
}

// code is an invitation's code that no log and no answer may show.
const code = "HI-7K3M-9QXR-T2VB-4N8C-WJPX"

// withInvites is a document that lets invitations be for what is offered to everybody.
func withInvites(d *ledger.Document) *ledger.Document {
	p := policy.Policy{Offers: slices.Clone(d.Policy.Offers)}
	for _, o := range d.Policy.Offers {
		o.Kind = ident.KindInvite
		p.Offers = append(p.Offers, o)
	}
	return &ledger.Document{Public: d.Public, PublicToken: d.PublicToken, Policy: p, Names: d.Names}
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ams := must(ident.ParseRegion("ams"))
	b := &bench{
		t: t, store: new(memory.Decisions), now: time.Now().Truncate(time.Millisecond), log: new(testlog.Log),
		suspended: map[ident.Identity]bool{}, keys: map[ident.KeyID]authn.KeyRecord{},
	}
	var err error
	b.p, err = platform.Init(t.Context(), filepath.Join(t.TempDir(), "p"), platform.Spec{
		Name: must(ident.ParseName("test")), Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 2000,
	}, b.now)
	if err != nil {
		t.Fatal(err)
	}
	if b.signing, err = keystore.Load(filepath.Join(b.p.Dir.Registrar(ams), platform.SigningFile), keystore.Operator); err != nil {
		t.Fatal(err)
	}
	b.issuer = token(t, filepath.Join(b.p.Dir.Issuer(ams), platform.AuthCreds))
	b.guest = token(t, filepath.Join(b.p.Dir.Public(), platform.GuestFile))
	member, err := b.p.Mint(platform.ChatIn, platform.RoleMember, b.now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b.member, b.document = member.Token, withInvites(b.p.Full)
	clock := func() time.Time { return b.now }
	b.decider = ledger.Decider{
		Store: b.store, Opener: ledger.Opener{Operator: b.p.Operator, Now: clock}, Signer: ledger.KeySigner{Key: b.signing},
		Rules: b.p.Full.Names,
	}
	b.home = b.registrar()
	return b
}

// registrar is one of home's registrars, which knows by itself what it decided.
func (b *bench) registrar() *registrar.Home {
	known := ledger.NewProjection(nil)
	known.CountHolders()
	clock := func() time.Time { return b.now }
	return &registrar.Home{
		Region: b.document.Public.Home, Decider: func() *ledger.Decider {
			d := b.decider
			d.Rules, d.Decided = b.document.Names, func(e ledger.Entry) { known.Apply(e) }
			return &d
		},
		Document:  func() *ledger.Document { return b.document },
		Suspended: func(id ident.Identity) bool { return b.suspended[id] },
		AccessKey: func(id ident.KeyID) (authn.KeyRecord, bool) { k, ok := b.keys[id]; return k, ok },
		Redeemed:  func(ident.UserKey) []authn.Granted { return nil },
		Names:     ledger.NameCounts{Projection: known, Now: clock, Rules: func() ledger.NameRules { return b.document.Names }},
		Issuers:   must(ident.ParseLabel(platform.Auth)), Limits: registrar.DefaultLimits(), Log: b.log.Logger(), Now: clock,
	}
}

func token(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := natsconn.ParseCreds(data)
	if err != nil {
		t.Fatal(err)
	}
	return c.Token
}

// info is the header that a server writes for a user who asks through an
// import; more replaces members of it.
func info(token string, more map[string]any) string {
	c := must(jwt.DecodeUserClaims(token))
	m := map[string]any{"acc": c.IssuerAccount, "user": c.Subject, "jwt": token, "kind": "Client"}
	for k, v := range more {
		m[k] = v
	}
	return string(must(json.Marshal(m)))
}

// claim is what an issuer passes on for the holder of key, who asks for name.
func (b *bench) claim(key *keystore.Key, name string, change func(*wire.Request)) wire.Claim {
	r := wire.Request{
		UserKey: must(ident.ParseUserKey(key.Public())), Time: b.now, Nonce: "AAAAAAAAAAAAAAAAAAAAAA",
		Name: must(ident.ParseName(name)), Identity: wire.Proof{Type: wire.ProofOpen},
	}
	if change != nil {
		change(&r)
	}
	body := must(r.Encode())
	return wire.Claim{Body: body, Proof: must(wire.Prove(key, body))}
}

// invited makes of a request one that brings an invitation.
func invited(code string) func(*wire.Request) {
	return func(r *wire.Request) { r.Identity = wire.Proof{Type: wire.ProofInvite, Code: code} }
}

// request is a claim as it comes from an issuer.
func (b *bench) request(c wire.Claim) endpoint.Request {
	return endpoint.Request{
		ID: "r1", Reply: "_R_.abc", Body: must(json.Marshal(c)),
		Header: map[string][]string{wire.HeaderInfo: {info(b.issuer, nil)}},
	}
}

// ask gives the entry or the refusal, and holds either to its form.
func (b *bench) ask(door string, r endpoint.Request) (string, *wire.Error) {
	b.t.Helper()
	var resp endpoint.Response
	for _, e := range b.home.Endpoints() {
		if e.Subject == door {
			resp = e.Handler(b.t.Context(), r)
		}
	}
	if resp.SealedBy != "" {
		b.t.Errorf("sealed by %q", resp.SealedBy)
	}
	if bytes.Contains(resp.Body, []byte(code)) || strings.Contains(b.log.String(), code) {
		b.t.Errorf("the code is in the answer or in the log:\n%s\n%s", resp.Body, b.log)
	}
	if resp.Err == nil {
		var c wire.Claimed
		if err := json.Unmarshal(resp.Body, &c); err != nil || c.Entry == "" {
			b.t.Fatalf("neither an entry nor a refusal: %q", resp.Body)
		}
		return c.Entry, nil
	}
	e, err := wire.DecodeError(resp.Body)
	if err != nil {
		b.t.Fatalf("%q: %v", resp.Body, err)
	}
	if *e != *resp.Err || e.RequestID != r.ID {
		b.t.Errorf("the body says %+v, the headers are made of %+v", e, resp.Err)
	}
	return "", e
}

// claims asks for a name, and redeems for an invitation's role.
func (b *bench) claims(c wire.Claim) (string, *wire.Error) {
	b.t.Helper()
	return b.ask(subject.HomeClaim, b.request(c))
}

func (b *bench) redeems(key *keystore.Key, code, nonce string) (string, *wire.Error) {
	b.t.Helper()
	return b.ask(subject.HomeRedeem, b.request(b.claim(key, "alice", func(r *wire.Request) { r.Nonce = nonce; invited(code)(r) })))
}

func nonce(i int) string {
	return string(rune('A'+i%26)) + string(rune('A'+i/26)) + strings.Repeat("A", 20)
}

// entry is what the ledger has of a name.
func (b *bench) entry(name string) string {
	b.t.Helper()
	return b.stored(ledger.NameKey(must(ident.ParseName(name))))
}

func (b *bench) stored(k ledger.Key) string {
	b.t.Helper()
	e, _, err := b.store.Get(context.WithoutCancel(b.t.Context()), k)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		b.t.Fatal(err)
	}
	return e
}

// invite makes an invitation.
func (b *bench) invite(code string, uses int, life time.Duration) ident.InviteID {
	b.t.Helper()
	id := ident.InviteOf(code)
	_, err := b.decider.CreateInvite(b.t.Context(), id, ledger.Invite{
		Account: must(ident.ParseLabel(platform.ChatIn)), Role: must(ident.ParseLabel(platform.RoleMember)), Uses: uses, Expires: b.now.Add(life).Unix(),
	}, b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// redeemed is who redeemed an invitation.
func (b *bench) redeemed(id ident.InviteID) []ledger.Redemption {
	b.t.Helper()
	k := ledger.InviteKey(id)
	i, _ := must(b.decider.Opener.Open(k.String(), b.stored(k))).Body.(ledger.Invite)
	return i.Redeemed
}

func TestClaim(t *testing.T) {
	b := newBench(t)
	alice, mallory := newUser(t), newUser(t)
	entry, werr := b.claims(b.claim(alice, "alice", nil))
	if werr != nil {
		t.Fatal(werr)
	}
	if entry != b.entry("alice") {
		t.Error("what is answered is not what the ledger has")
	}
	name := must(ident.ParseName("alice"))
	e, err := b.decider.Opener.Open(ledger.NameKey(name).String(), entry)
	if err != nil {
		t.Fatal(err)
	}
	user := must(ident.ParseUserKey(alice.Public()))
	// It is kept for the longest credential that may be given for it, and then its time.
	want := ledger.Name{
		Holder: ident.OpenIdentity(user), Claimed: b.now.Unix(), User: user, Nonce: "AAAAAAAAAAAAAAAAAAAAAA",
		Until: b.now.Add(b.p.Full.Policy.Longest() + b.p.Full.Names.Lapse).Unix(),
	}
	if e.Body != want || e.Version != 1 || e.Denies || !e.At.Equal(b.now) {
		t.Errorf("the entry is %+v, not %+v", e, want)
	}
	if c, err := jwt.DecodeGeneric(entry); err != nil || c.Issuer != b.signing.Public() {
		t.Errorf("the entry is not signed with the registrar's key: %v", err)
	}

	// Another nonce, later: the entry that is there, unchanged.
	b.now = b.now.Add(time.Minute)
	again, werr := b.claims(b.claim(alice, "alice", func(r *wire.Request) { r.Nonce = "BAAAAAAAAAAAAAAAAAAAAA" }))
	if werr != nil || again != entry {
		t.Errorf("the same identity again: %v, the same entry: %t", werr, again == entry)
	}
	if _, werr := b.claims(b.claim(mallory, "alice", nil)); werr == nil || werr.Code != wire.NameTaken {
		t.Errorf("another identity: %v", werr)
	}
	if b.entry("alice") != entry {
		t.Error("a name that was given has changed")
	}
	// Who has a name may have another one; nobody loses one by that.
	if _, werr := b.claims(b.claim(alice, "alice2", nil)); werr != nil {
		t.Error(werr)
	}
	// A name that rests is nobody else's, and its last holder's again.
	if _, err := b.decider.Release(t.Context(), name, ident.Identity{}, ident.Identity{}, b.now); err != nil {
		t.Fatal(err)
	}
	if _, werr := b.claims(b.claim(mallory, "alice", nil)); werr == nil || werr.Code != wire.NameTaken {
		t.Errorf("a name that rests: %v", werr)
	}
	if _, werr := b.claims(b.claim(alice, "alice", nil)); werr != nil {
		t.Errorf("its last holder: %v", werr)
	}
}

// TestHomeRefuses: each case would be accepted, at either door, but for the one thing
// that its name says, and leaves nothing in the ledger.
func TestHomeRefuses(t *testing.T) {
	b := newBench(t)
	alice, mallory := newUser(t), newUser(t)
	id := b.invite(code, ledger.MaxUses, time.Hour)
	plain := func(r *endpoint.Request) {}
	header := func(values ...string) func(*endpoint.Request) {
		return func(r *endpoint.Request) { r.Header = map[string][]string{wire.HeaderInfo: values} }
	}
	reply := func(to string) func(*endpoint.Request) { return func(r *endpoint.Request) { r.Reply = to } }
	body := func(s string) func(*endpoint.Request) { return func(r *endpoint.Request) { r.Body = []byte(s) } }
	good := func(proof func(*wire.Request)) wire.Claim { return b.claim(alice, "refused", proof) }
	at := func(d time.Duration) func(func(*wire.Request)) wire.Claim {
		return func(proof func(*wire.Request)) wire.Claim {
			return b.claim(alice, "refused", func(r *wire.Request) { proof(r); r.Time = b.now.Add(d) })
		}
	}
	issuer := info(b.issuer, nil)
	foreign := info(newBench(t).issuer, nil)
	doors := map[string]func(*wire.Request){subject.HomeClaim: func(*wire.Request) {}, subject.HomeRedeem: invited(code)}
	for what, c := range map[string]struct {
		claim func(proof func(*wire.Request)) wire.Claim
		spoil func(*endpoint.Request)
		want  wire.Code
	}{
		"asked by the guest":                {good, header(info(b.guest, nil)), wire.BadIdentity},
		"asked by a member":                 {good, header(info(b.member, nil)), wire.BadIdentity},
		"asked by another platform's":       {good, header(foreign), wire.BadIdentity},
		"asked by nobody":                   {good, header(), wire.BadIdentity},
		"asked by two":                      {good, header(issuer, issuer), wire.BadIdentity},
		"who asks cannot be read":           {good, header("{"), wire.BadIdentity},
		"through another service":           {good, header(info(b.issuer, map[string]any{"svc": "x"})), wire.BadIdentity},
		"from a leafnode":                   {good, header(info(b.issuer, map[string]any{"kind": "Leafnode"})), wire.BadIdentity},
		"another's user JWT":                {good, header(info(b.issuer, map[string]any{"user": alice.Public()})), wire.BadIdentity},
		"a reply that no server made":       {good, reply("_INBOX.abc"), wire.BadIdentity},
		"a reply that aims at the ledger":   {good, reply("$KV.decisions.name.alice"), wire.BadIdentity},
		"no reply":                          {good, reply(""), wire.BadIdentity},
		"a name that was asked from nobody": {func(p func(*wire.Request)) wire.Claim { c := good(p); c.Proof = ""; return c }, plain, wire.BadProof},
		"a forged proof": {func(p func(*wire.Request)) wire.Claim {
			c := good(p)
			c.Proof = must(wire.Prove(mallory, c.Body))
			return c
		}, plain, wire.BadProof},
		"an altered body": {func(p func(*wire.Request)) wire.Claim {
			c := b.claim(alice, "xrefused", p)
			c.Body = bytes.Replace(c.Body, []byte(`"x`), []byte(`"`), 1)
			return c
		}, plain, wire.BadProof},
		"another's key over the same proof": {func(p func(*wire.Request)) wire.Claim {
			c := good(p)
			c.Body = bytes.ReplaceAll(c.Body, []byte(alice.Public()), []byte(mallory.Public()))
			return c
		}, plain, wire.BadProof},
		"more than 30 s old":    {at(-wire.MaxSkew - time.Second), plain, wire.ClockSkew},
		"more than 30 s early":  {at(wire.MaxSkew + time.Second), plain, wire.ClockSkew},
		"a day old":             {at(-24 * time.Hour), plain, wire.ClockSkew},
		"no body":               {good, body(""), wire.BadRequest},
		"no claim":              {good, body(`{"user_key":"x"}`), wire.BadRequest},
		"a claim and more":      {good, func(r *endpoint.Request) { r.Body = append(r.Body, '{', '}') }, wire.BadRequest},
		"no request in a claim": {good, body(`{"body":"e30=","proof":"v1 AAAA"}`), wire.BadRequest},
		"too much of a claim":   {good, body(strings.Repeat(" ", 2*wire.MaxRequest) + "{}"), wire.TooLarge},
		"a host out of shape":   {func(p func(*wire.Request)) wire.Claim { c := good(p); c.Host = strings.Repeat("9", 65); return c }, plain, wire.BadRequest},
	} {
		for door, proof := range doors {
			t.Run(what+"/"+door, func(t *testing.T) {
				b.t = t
				r := b.request(c.claim(proof))
				c.spoil(&r)
				if _, werr := b.ask(door, r); werr == nil || werr.Code != c.want {
					t.Errorf("%v, not %s", werr, c.want)
				}
				if b.entry("refused") != "" || len(b.redeemed(id)) > 0 {
					t.Error("the ledger has it nevertheless")
				}
			})
		}
	}
	if n := b.home.Disbelieved(); n != 2*12 {
		t.Errorf("%d callers were counted that are not believed", n)
	}
	b.t = t
	nothing := b.invite("", 10, time.Hour) // so that no proof at all would do, if it were looked up
	for what, c := range map[string]struct {
		door   string
		change func(*wire.Request)
		want   wire.Code
	}{
		"no name":                    {subject.HomeClaim, func(r *wire.Request) { r.Name = ident.Name{} }, wire.BadName},
		"an invitation for a claim":  {subject.HomeClaim, invited(code), wire.BadIdentity},
		"no invitation to redeem":    {subject.HomeRedeem, func(*wire.Request) {}, wire.BadIdentity},
		"a kind that nobody knows":   {subject.HomeClaim, func(r *wire.Request) { r.Identity.Type = "magic" }, wire.BadIdentity},
		"an invitation with no code": {subject.HomeRedeem, invited(""), wire.BadRequest},
		"a code that is too long":    {subject.HomeRedeem, invited(strings.Repeat(code, 3)), wire.BadRequest},
	} {
		if _, werr := b.ask(c.door, b.request(b.claim(alice, "refused", c.change))); werr == nil || werr.Code != c.want {
			t.Errorf("%s: %v, not %s", what, werr, c.want)
		}
	}
	if b.entry("refused") != "" || len(b.redeemed(id)) > 0 || len(b.redeemed(nothing)) > 0 {
		t.Error("the ledger has it nevertheless")
	}
	// The bound itself is in time; and it was none of what all cases have alike.
	// Who has the name by one identity may not have it by another, so that it is claimed last.
	for _, door := range []string{subject.HomeRedeem, subject.HomeClaim} {
		proof := doors[door]
		for _, d := range []time.Duration{-wire.MaxSkew, wire.MaxSkew} {
			if _, werr := b.ask(door, b.request(at(d)(proof))); werr != nil {
				t.Errorf("%s, asked %s from now: %v", door, d, werr)
			}
		}
	}
	b.now = b.now.Add(platform.ServiceLife + time.Minute)
	for door, proof := range doors {
		if _, werr := b.ask(door, b.request(b.claim(alice, "late", proof))); werr == nil || werr.Code != wire.BadIdentity {
			t.Errorf("%s, an issuer whose credential is over: %v", door, werr)
		}
	}
	b.document = nil
	if _, werr := b.claims(b.claim(alice, "early", nil)); werr == nil || werr.Code != wire.ReadOnly {
		t.Errorf("before there is a document: %v", werr)
	}
}

// TestHomeRefusesTheSuspended: at either door, and before anything is decided.
func TestHomeRefusesTheSuspended(t *testing.T) {
	b := newBench(t)
	alice, bob := newUser(t), newUser(t)
	id := b.invite(code, 10, time.Hour)
	key := must(ident.ParseUserKey(alice.Public()))
	b.suspended[ident.OpenIdentity(key)], b.suspended[ident.InviteIdentity(key)] = true, true
	if _, werr := b.claims(b.claim(alice, "alice", nil)); werr == nil || werr.Code != wire.Suspended || b.entry("alice") != "" {
		t.Errorf("a claim: %v", werr)
	}
	if _, werr := b.redeems(alice, code, nonce(0)); werr == nil || werr.Code != wire.Suspended || len(b.redeemed(id)) > 0 {
		t.Errorf("an invitation: %v", werr)
	}
	// Nobody else is, and an nkey that is suspended as one identity may be another.
	if _, werr := b.claims(b.claim(bob, "bob", nil)); werr != nil {
		t.Error(werr)
	}
	delete(b.suspended, ident.InviteIdentity(key))
	if _, werr := b.redeems(alice, code, nonce(1)); werr != nil {
		t.Error(werr)
	}
}

// broken is a store of which one thing does not work.
type broken struct {
	*memory.Decisions
	look, put error
}

func (s broken) Get(ctx context.Context, key ledger.Key) (string, uint64, error) {
	if s.look != nil {
		return "", 0, s.look
	}
	return s.Decisions.Get(ctx, key)
}

func (s broken) Put(ctx context.Context, key ledger.Key, token string, revision uint64) error {
	if s.put != nil {
		return s.put
	}
	return s.Decisions.Put(ctx, key, token, revision)
}

type noSigner struct{ err error }

func (n noSigner) Sign(trust.Entry) (string, error) { return "", n.err }

// TestHomeWithoutLedger: what does not work is in the log, and the caller hears no
// more than when to ask again. What was damaged or lost wants a person at once.
func TestHomeWithoutLedger(t *testing.T) {
	const inner = "stream decisions at 10.1.2.3 has no quorum"
	for what, c := range map[string]struct {
		spoil func(t *testing.T, b *bench, name, invite ledger.Key)
		log   string
		level string
	}{
		"looking fails": {spoil: func(_ *testing.T, b *bench, _, _ ledger.Key) {
			b.decider.Store = broken{b.store, errors.New(inner), nil}
		}},
		"looking is unavailable": {spoil: func(_ *testing.T, b *bench, _, _ ledger.Key) {
			b.decider.Store = broken{b.store, errors.Join(ledger.ErrUnavailable, errors.New(inner)), nil}
		}},
		"writing fails": {spoil: func(_ *testing.T, b *bench, _, _ ledger.Key) {
			b.decider.Store = broken{b.store, nil, errors.New(inner)}
		}},
		"writing is unavailable": {spoil: func(_ *testing.T, b *bench, _, _ ledger.Key) {
			b.decider.Store = broken{b.store, nil, errors.Join(ledger.ErrUnavailable, errors.New(inner))}
		}},
		"writing never wins": {
			spoil: func(_ *testing.T, b *bench, _, _ ledger.Key) {
				b.decider.Store = broken{b.store, nil, ledger.ErrConflict}
			},
			log: ledger.ErrConflict.Error(),
		},
		"signing fails": {spoil: func(_ *testing.T, b *bench, _, _ ledger.Key) { b.decider.Signer = noSigner{errors.New(inner)} }},
		"what was seen is not there": {
			spoil: func(_ *testing.T, b *bench, _, _ ledger.Key) { b.decider.Known = func(ledger.Key) uint64 { return 7 } },
			log:   ledger.ErrLost.Error(), level: "ERROR",
		},
		"an entry nobody signed": {spoil: func(t *testing.T, b *bench, name, invite ledger.Key) {
			other := must(keystore.Generate(keystore.Operator))
			for _, k := range []ledger.Key{name, invite} {
				_, revision, _ := b.store.Get(t.Context(), k)
				e := trust.Entry{Subject: k.String(), Version: 9, At: b.now.UnixMilli(), Body: json.RawMessage(`{}`)}
				if err := b.store.Put(t.Context(), k, must(e.Sign(other)), revision); err != nil {
					t.Fatal(err)
				}
			}
		}, log: ledger.ErrDamaged.Error(), level: "ERROR"},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t)
			alice := newUser(t)
			id := b.invite(code, 1, time.Hour)
			c.spoil(t, b, ledger.NameKey(must(ident.ParseName("alice"))), ledger.InviteKey(id))
			if c.log == "" {
				c.log = inner
			}
			if c.level == "" {
				c.level = "INFO"
			}
			for _, door := range []string{subject.HomeClaim, subject.HomeRedeem} {
				var r endpoint.Request
				if door == subject.HomeClaim {
					r = b.request(b.claim(alice, "alice", nil))
				} else {
					r = b.request(b.claim(alice, "alice", invited(code)))
				}
				b.log = new(testlog.Log)
				b.home.Log = b.log.Logger()
				synctest.Test(t, func(t *testing.T) { // a decision is tried again and again, with pauses
					b.t = t
					_, werr := b.ask(door, r)
					if werr == nil || werr.Code != wire.ReadOnly || werr.RetryAfterMS <= 0 {
						t.Fatalf("%s: %+v", door, werr)
					}
					if told := werr.Message + werr.Hint; strings.Contains(told, "10.1.2.3") || strings.Contains(told, "quorum") || strings.Contains(told, "entry") {
						t.Errorf("%s: the caller was told what the log is for: %q", door, told)
					}
				})
				if got := b.log.String(); !strings.Contains(got, c.log) || !strings.Contains(got, "level="+c.level) {
					t.Errorf("%s: the log does not say why, or not at level %s:\n%s", door, c.level, got)
				}
			}
		})
	}
}

// TestRedeem: an invitation is used as often as it may be, by nobody twice.
func TestRedeem(t *testing.T) {
	b := newBench(t)
	id := b.invite(code, 2, time.Hour)
	alice, bob, carol := newUser(t), newUser(t), newUser(t)
	entry, werr := b.redeems(alice, code, nonce(0))
	if werr != nil {
		t.Fatal(werr)
	}
	if entry != b.stored(ledger.InviteKey(id)) {
		t.Error("what is answered is not what the ledger has")
	}
	// The same request again, by another issuer say; and the same user's next one.
	for _, n := range []int{0, 1} {
		if again, werr := b.redeems(alice, code, nonce(n)); werr != nil || again != entry {
			t.Errorf("alice again: %v, the same entry: %t", werr, again == entry)
		}
	}
	if _, werr := b.redeems(bob, code, nonce(0)); werr != nil {
		t.Error(werr)
	}
	if _, werr := b.redeems(carol, code, nonce(0)); werr == nil || werr.Code != wire.BadIdentity {
		t.Errorf("one too many: %v", werr)
	}
	// Who has it has it, also when it is spent or over.
	b.now = b.now.Add(2 * time.Hour)
	if _, werr := b.redeems(alice, code, nonce(2)); werr != nil {
		t.Error(werr)
	}
	var who []string
	for _, r := range b.redeemed(id) {
		who = append(who, r.User.String())
	}
	if len(who) != 2 || who[0] != alice.Public() || who[1] != bob.Public() {
		t.Errorf("redeemed by %q", who)
	}
}

// newCode makes a code of an invitation.
func newCode(t *testing.T) string {
	t.Helper()
	return must(invite.NewCode(rand.Reader)).Reveal()
}

// TestCodesAreRefusedAlike: whoever guesses codes learns nothing from a refusal.
func TestCodesAreRefusedAlike(t *testing.T) {
	b := newBench(t)
	never, spent, over, revoked := newCode(t), newCode(t), newCode(t), newCode(t)
	b.invite(spent, 1, time.Hour)
	if _, werr := b.redeems(newUser(t), spent, nonce(0)); werr != nil {
		t.Fatal(werr)
	}
	b.invite(over, 1, time.Second)
	if _, err := b.decider.RevokeInvite(t.Context(), b.invite(revoked, 1, time.Hour), b.now); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Second)
	refused := map[wire.Error][]string{}
	for what, c := range map[string]string{"never was": never, "spent": spent, "over": over, "revoked": revoked} {
		_, werr := b.redeems(newUser(t), c, nonce(0))
		if werr == nil || werr.Code != wire.BadIdentity {
			t.Errorf("%s: %v", what, werr)
			continue
		}
		refused[*werr] = append(refused[*werr], what)
	}
	if len(refused) != 1 {
		t.Errorf("they are told apart: %v", refused)
	}
}

// TestMisheardCodes: what cannot be a code is told so, and spends nobody's limit; it is read as
// people write it.
func TestMisheardCodes(t *testing.T) {
	b := newBench(t)
	b.home.Limits = registrar.NewLimits(limit.Rate{Burst: 1, PerSecond: 0.001}, limit.Rate{Burst: 1, PerSecond: 0.001})
	b.invite(code, 2, time.Hour)
	for _, c := range []string{"welcome", code[:len(code)-1] + "Y", code + "-7K3M"} {
		if _, werr := b.redeems(newUser(t), c, nonce(0)); werr == nil || werr.Code != wire.BadIdentity || !strings.Contains(werr.Message, "not the code of an invitation") {
			t.Errorf("%q: %v", c, werr)
		}
	}
	if _, werr := b.redeems(newUser(t), strings.ToLower(strings.ReplaceAll(code, "-", " ")), nonce(1)); werr != nil {
		t.Errorf("as people write it: %v", werr)
	}
}

// TestRedeemAtOnce: of many at once, at two registrars, so many get it as may.
func TestRedeemAtOnce(t *testing.T) {
	b := newBench(t)
	id := b.invite(code, 3, time.Hour)
	other := b.registrar()
	doors := []endpoint.Handler{b.home.Endpoints()[1].Handler, other.Endpoints()[1].Handler}
	const users = 6
	var (
		work  sync.WaitGroup
		mu    sync.Mutex
		codes = map[wire.Code]int{}
	)
	for range users {
		key := newUser(t)
		r := b.request(b.claim(key, "alice", invited(code)))
		for _, door := range doors {
			work.Go(func() {
				resp := door(t.Context(), r)
				mu.Lock()
				defer mu.Unlock()
				if resp.Err != nil {
					codes[resp.Err.Code]++
				} else {
					codes[""]++
				}
			})
		}
	}
	work.Wait()
	got := b.redeemed(id)
	seen := map[ident.UserKey]bool{}
	for _, r := range got {
		seen[r.User] = true
	}
	if len(got) != 3 || len(seen) != 3 {
		t.Errorf("%d redemptions by %d users", len(got), len(seen))
	}
	// Where too many wrote at once, a request is to be asked again; no user is told of
	// an invitation that it does not have.
	if codes[""] > 6 || codes[""]+codes[wire.BadIdentity]+codes[wire.ReadOnly] != 2*users {
		t.Errorf("answered %v", codes)
	}
}

// TestRedeemProperty: whoever asks in whatever order and how often.
func TestRedeemProperty(t *testing.T) {
	b := newBench(t)
	b.home.Limits = registrar.NewLimits(limit.Rate{Burst: 1 << 30, PerSecond: 1}, limit.Rate{Burst: 1 << 30, PerSecond: 1})
	var users []*keystore.Key
	for range 5 {
		users = append(users, newUser(t))
	}
	rapid.Check(t, func(rt *rapid.T) {
		code := newCode(t)
		uses := rapid.IntRange(1, 4).Draw(rt, "uses")
		id := b.invite(code, uses, time.Hour)
		has := map[int]bool{}
		for i, u := range rapid.SliceOfN(rapid.IntRange(0, len(users)-1), 1, 12).Draw(rt, "who") {
			_, werr := b.redeems(users[u], code, nonce(i))
			if may := has[u] || len(has) < uses; may != (werr == nil) {
				rt.Fatalf("user %d, with %d of %d used: %v", u, len(has), uses, werr)
			}
			if werr == nil {
				has[u] = true
			}
			if got := len(b.redeemed(id)); got != len(has) {
				rt.Fatalf("%d redemptions by %d users", got, len(has))
			}
		}
	})
}

// TestHomeLimits: too many from one host or through one issuer are refused, with when
// to ask again, and nobody else pays for it.
func TestHomeLimits(t *testing.T) {
	b := newBench(t)
	id := b.invite(code, 10, time.Hour)
	b.home.Limits = registrar.NewLimits(limit.Rate{Burst: 5, PerSecond: 1}, limit.Rate{Burst: 2, PerSecond: 0.1})
	n := 0
	claim := func(host string) *wire.Error {
		t.Helper()
		n++
		c := b.claim(newUser(t), fmt.Sprintf("n%d", n), nil)
		c.Host = host
		_, werr := b.claims(c)
		if (werr == nil) != (b.entry(fmt.Sprintf("n%d", n)) != "") {
			t.Errorf("answered %v, and the ledger has %q", werr, b.entry(fmt.Sprintf("n%d", n)))
		}
		return werr
	}
	refused := func(what string, werr *wire.Error, atMost time.Duration) {
		t.Helper()
		if werr == nil || werr.Code != wire.RateLimited || werr.RetryAfter() < time.Second || werr.RetryAfter() > atMost {
			t.Errorf("%s: %+v", what, werr)
		}
	}
	for i := range 2 {
		if werr := claim("192.0.2.1"); werr != nil {
			t.Errorf("claim %d: %v", i, werr)
		}
	}
	refused("a host's third", claim("192.0.2.1"), 10*time.Second)
	if werr := claim("192.0.2.2"); werr != nil {
		t.Errorf("another host: %v", werr)
	}
	if werr := claim(""); werr != nil {
		t.Errorf("a host that is not known: %v", werr)
	}
	// What was refused to a host is not charged to the issuer, by which others ask.
	for range 20 {
		refused("a host's next", claim("192.0.2.1"), 10*time.Second)
	}
	if werr := claim("192.0.2.4"); werr != nil {
		t.Errorf("an issuer's fifth: %v", werr)
	}
	refused("an issuer's sixth", claim("192.0.2.3"), time.Second)
	_, werr := b.redeems(newUser(t), code, nonce(0))
	refused("an invitation counts as well", werr, time.Second)
	if len(b.redeemed(id)) > 0 {
		t.Error("it was redeemed nevertheless")
	}
	b.now = b.now.Add(10 * time.Second)
	if werr := claim("192.0.2.1"); werr != nil {
		t.Errorf("ten seconds later: %v", werr)
	}
	refused("and one more", claim("192.0.2.1"), 10*time.Second)
}

// TestRedeemForNothing: an invitation is not used up by who would get nothing for it: no
// role, or a name that is another's.
func TestRedeemForNothing(t *testing.T) {
	b := newBench(t)
	alice, bob := newUser(t), newUser(t)
	if _, werr := b.claims(b.claim(alice, "taken", nil)); werr != nil {
		t.Fatal(werr)
	}
	id := b.invite(code, 1, time.Hour)
	invited := func(r *wire.Request) { r.Identity = wire.Proof{Type: wire.ProofInvite, Code: code} }
	if _, werr := b.ask(subject.HomeRedeem, b.request(b.claim(bob, "taken", invited))); werr == nil || werr.Code != wire.NameTaken {
		t.Errorf("for a name that is taken: %v", werr)
	}
	b.document = &ledger.Document{Public: b.document.Public, Policy: policy.Policy{}, Names: b.document.Names}
	if _, werr := b.ask(subject.HomeRedeem, b.request(b.claim(bob, "free", invited))); werr == nil || werr.Code != wire.NoGrant {
		t.Errorf("for a role that nobody is granted: %v", werr)
	}
	if used := b.redeemed(id); len(used) != 0 {
		t.Errorf("it was used up: %v", used)
	}
	b.document = withInvites(b.p.Full)
	if _, werr := b.ask(subject.HomeRedeem, b.request(b.claim(bob, "free", invited))); werr != nil || len(b.redeemed(id)) != 1 {
		t.Errorf("for something: %v", werr)
	}
}

func TestLimits(t *testing.T) {
	now := time.Unix(1790000000, 0)
	t.Run("a rate over time", func(t *testing.T) {
		l := registrar.NewLimits(limit.Rate{Burst: 3, PerSecond: 0.5}, limit.Rate{Burst: 1000, PerSecond: 1000})
		took := 0
		for i := range 1000 { // 100 s, ten times a second
			if l.Take("a", "h", now.Add(time.Duration(i)*100*time.Millisecond)) == nil {
				took++
			}
		}
		if took < 50 || took > 53 {
			t.Errorf("%d in 100 s, at 1 in 2 s and 3 at once", took)
		}
	})
	// What a client is told must be what it believes: wire.DecodeError refuses more.
	t.Run("no longer than a client waits", func(t *testing.T) {
		for _, r := range []limit.Rate{{Burst: 1, PerSecond: 1e-9}, {Burst: 1}, {}} {
			l := registrar.NewLimits(r, r)
			var e *wire.Error
			for range 3 {
				if e = l.Take("a", "h", now); e != nil {
					break
				}
			}
			if e == nil {
				t.Errorf("%+v: nothing is refused", r)
				continue
			}
			if _, err := wire.DecodeError(must(json.Marshal(e))); err != nil || e.RetryAfterMS != registrar.MaxWait.Milliseconds() {
				t.Errorf("%+v: %v, %+v", r, err, e)
			}
		}
	})
	t.Run("a clock that goes back", func(t *testing.T) {
		l := registrar.NewLimits(limit.Rate{Burst: 1, PerSecond: 1}, limit.Rate{Burst: 1, PerSecond: 1})
		_ = l.Take("a", "h", now)
		if l.Take("a", "h", now.Add(-time.Hour)) == nil {
			t.Error("it let one more in")
		}
	})
}

func TestEndpoints(t *testing.T) {
	b := newBench(t)
	e := b.home.Endpoints()
	if len(e) != 2 || e[0].Subject != "auth.v1.home.claim" || e[1].Subject != "auth.v1.home.redeem" {
		t.Fatalf("%+v", e)
	}
	resp := e[0].Handler(t.Context(), b.request(b.claim(newUser(t), "alice", nil)))
	if resp.Err != nil || b.entry("alice") == "" {
		t.Errorf("%+v", resp)
	}
}

// TestNamesChosen: of the names that it chooses somebody has a few, however it asks; what is
// given does not count for who is to get it.
func TestNamesChosen(t *testing.T) {
	b := newBench(t)
	b.document.Names.Most = 3
	alice := newUser(t)
	full := func(what, name string, key *keystore.Key, change func(*wire.Request)) {
		t.Helper()
		if _, werr := b.claims(b.claim(key, name, change)); werr == nil || werr.Code != wire.BadName || !strings.Contains(werr.Message, "you have 3 names") || werr.Hint == "" {
			t.Errorf("%s: %+v", what, werr)
		}
		if b.entry(name) != "" {
			t.Errorf("%s: it was given", what)
		}
	}
	has := func(what, name string, key *keystore.Key, change func(*wire.Request)) {
		t.Helper()
		if _, werr := b.claims(b.claim(key, name, change)); werr != nil {
			t.Errorf("%s: %v", what, werr)
		}
	}
	for i := range 3 {
		has("one of a few", fmt.Sprintf("a%d", i), alice, nil)
	}
	full("one too many", "a3", alice, nil)
	has("one that it has", "a1", alice, nil)
	has("somebody else", "b0", newUser(t), nil)

	// A name that is released makes room.
	id := ident.OpenIdentity(must(ident.ParseUserKey(alice.Public())))
	if _, err := b.home.Decider().Release(t.Context(), must(ident.ParseName("a0")), id, ident.Identity{}, b.now); err != nil {
		t.Fatal(err)
	}
	has("in the room of one that was released", "a3", alice, nil)
	full("and no more", "a4", alice, nil)
	full("asked again", "a4", alice, nil)

	// What a grant gives is given.
	given := b.document.Policy.Offers[0]
	given.Kind, given.Identity, given.Name = "", &id, must(ident.ParseName("given"))
	more := *b.document
	more.Policy.Offers = append([]policy.Offer{given}, more.Policy.Offers...)
	b.document = &more
	has("given", "given", alice, nil)

	// An invitation for the same key takes names with it, and gives no room for more.
	b.invite(code, 1, time.Hour)
	if _, werr := b.redeems(alice, code, nonce(1)); werr != nil {
		t.Fatal(werr)
	}
	for _, n := range []string{"a1", "a2", "a3"} {
		has("with an invitation", n, alice, invited(code))
	}
	full("with an invitation", "a4", alice, invited(code))
}

// TestNamesChosenAtOnce: so it is for who asks for all of them at the same moment.
func TestNamesChosenAtOnce(t *testing.T) {
	b := newBench(t)
	b.document.Names.Most = 3
	const asked = 24
	moved, open := make(chan struct{}, asked), make(chan struct{})
	b.decider.Store = gated{b.store, moved, open}
	key := newUser(t)
	door := b.home.Endpoints()[0].Handler
	var work sync.WaitGroup
	for i := range asked {
		r := b.request(b.claim(key, fmt.Sprintf("n%d", i), nil))
		work.Go(func() {
			if resp := door(t.Context(), r); resp.Err != nil {
				moved <- struct{}{}
			}
		})
	}
	for range asked { // each was refused, or is about to be stored
		<-moved
	}
	close(open)
	work.Wait()
	given := 0
	for i := range asked {
		if b.entry(fmt.Sprintf("n%d", i)) != "" {
			given++
		}
	}
	if given != 3 {
		t.Errorf("%d names were given", given)
	}
}

// gated says when something is to be stored, and stores it once it is open.
type gated struct {
	ledger.DecisionStore
	moved chan<- struct{}
	open  <-chan struct{}
}

func (g gated) Put(ctx context.Context, k ledger.Key, token string, revision uint64) error {
	g.moved <- struct{}{}
	<-g.open
	return g.DecisionStore.Put(ctx, k, token, revision)
}

// full is as many names as a platform takes.
type full struct{ ledger.NameCounts }

func (full) All() int { return 2_000_000 }

// TestNamesInAll: on a platform that has all the names that it can have, nobody chooses a new
// one; what somebody had may be had again, and what is given is given.
func TestNamesInAll(t *testing.T) {
	b := newBench(t)
	alice := newUser(t)
	id := ident.OpenIdentity(must(ident.ParseUserKey(alice.Public())))
	if _, werr := b.claims(b.claim(alice, "alice", nil)); werr != nil {
		t.Fatal(werr)
	}
	if _, err := b.home.Decider().Release(t.Context(), must(ident.ParseName("alice")), id, ident.Identity{}, b.now); err != nil {
		t.Fatal(err)
	}
	counts, ok := b.home.Names.(ledger.NameCounts)
	if !ok {
		t.Fatalf("%T", b.home.Names)
	}
	b.home.Names = full{counts}
	if _, werr := b.claims(b.claim(alice, "new", nil)); werr == nil || werr.Code != wire.Unavailable || werr.RetryAfterMS <= 0 || b.entry("new") != "" {
		t.Errorf("a new one: %v", werr)
	}
	if _, werr := b.claims(b.claim(alice, "alice", nil)); werr != nil {
		t.Errorf("one that it had: %v", werr)
	}
	given := b.document.Policy.Offers[0]
	given.Kind, given.Identity, given.Name = "", &id, must(ident.ParseName("given"))
	more := *b.document
	more.Policy.Offers = append([]policy.Offer{given}, more.Policy.Offers...)
	b.document = &more
	if _, werr := b.claims(b.claim(alice, "given", nil)); werr != nil {
		t.Errorf("one that is given: %v", werr)
	}
}
