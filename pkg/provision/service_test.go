package provision_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// bench is an issuing service on real keys and documents, as init makes them,
// with the ledger in memory and a clock that the test sets. What the servers
// say of who asks (Nats-Request-Info) is written by the test.
type bench struct {
	t       *testing.T
	svc     *provision.Service
	config  provision.Config
	p       *platform.Platform
	ledger  *ledger.Projection
	records *taken
	signing *keystore.Key
	log     *testlog.Log
	now     time.Time
	guest   natsconn.Static
	seal    *keystore.Key
}

// ledgerNames decides at once, as home's registrar does.
type ledgerNames struct {
	decider *ledger.Decider
	now     func() time.Time
	fail    error
	during  func() // called while a claim is on its way
	asked   int
}

func (l *ledgerNames) Redeem(ctx context.Context, id ident.InviteID, user ident.UserKey, _ wire.Claim) (ledger.Invite, error) {
	e, err := l.decider.Redeem(ctx, id, user, "n", l.now())
	if err != nil {
		return ledger.Invite{}, wire.Errorf(wire.BadIdentity, "ask for a new code", "%v", err)
	}
	i, _ := e.Body.(ledger.Invite)
	return i, nil
}

func (l *ledgerNames) Claim(ctx context.Context, g policy.Grant, _ wire.Claim) error {
	l.asked++
	if l.during != nil {
		l.during()
	}
	if l.fail != nil {
		return l.fail
	}
	_, err := l.decider.Claim(ctx, ledger.Claim{Name: g.Name, Identity: g.Identity, Nonce: "n", Expires: l.now().Add(time.Hour)}, l.now())
	if errors.Is(err, ledger.ErrTaken) {
		return wire.Errorf(wire.NameTaken, "choose another", "taken")
	}
	return err
}

// taken are the records that a service wrote.
type taken struct {
	mu      sync.Mutex
	all     []audit.Record // of credentials
	refused []audit.Record
	counted int           // refusals by their number alone
	hold    chan struct{} // if any, no record is taken before it is closed
	fail    error         // what records of credentials get
}

func (r *taken) Append(_ context.Context, rec audit.Record) error {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail == nil {
		r.all = append(r.all, rec)
	}
	return r.fail
}

func (r *taken) Note(rec audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, rec)
}

func (r *taken) Count(string, wire.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counted++
}

// line gives a record as it is stored.
func line(t *testing.T, rec audit.Record) []byte {
	t.Helper()
	w := audittest.NewScribe(t)
	data := w.Block(t, rec).Data
	b, err := audit.Open(w.Under(), string(data))
	if err != nil || len(b.Content) != 1 {
		t.Fatalf("%+v is not read again: %v", rec, err)
	}
	got := b.Content[0]
	if got.Region, got.Issuer = rec.Region, rec.Issuer; got != rec {
		t.Fatalf("%+v became %+v", rec, got)
	}
	return bytes.Split(data, []byte("\n"))[1]
}

func label(s string) ident.Label { return must(ident.ParseLabel(s)) }

// newBench makes a service with the platform document of init in force.
func newBench(t *testing.T) (*bench, *ledgerNames) {
	t.Helper()
	return newBenchOf(t, func(*manifest.File) {})
}

// newBenchOf is newBench with more in the platform file.
func newBenchOf(t *testing.T, more func(*manifest.File)) (*bench, *ledgerNames) {
	t.Helper()
	name := must(ident.ParseName("test"))
	ams := must(ident.ParseRegion("ams"))
	b := &bench{t: t, now: time.Now(), records: new(taken), log: new(testlog.Log), ledger: ledger.NewProjection(nil)}
	f := platform.NewFile(platform.Spec{Name: name, Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 2000})
	more(f)
	p, err := platform.Create(t.Context(), filepath.Join(t.TempDir(), "p"), f, b.now, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.p = p
	clock := func() time.Time { return b.now }
	b.signing = load(t, filepath.Join(p.Dir.Registrar(ams), platform.SigningFile), keystore.Operator)
	names := &ledgerNames{now: clock, decider: &ledger.Decider{
		Store: new(memory.Decisions), Opener: b.opener(), Signer: ledger.KeySigner{Key: b.signing}, Rules: ledger.DefaultNameRules(),
	}}
	creds, err := os.ReadFile(filepath.Join(p.Dir.Public(), platform.GuestFile))
	if err != nil {
		t.Fatal(err)
	}
	if b.guest, err = natsconn.ParseCreds(creds); err != nil {
		t.Fatal(err)
	}
	b.seal = load(t, filepath.Join(p.Dir.Issuer(ams), platform.SealKeyFile), keystore.Curve)
	self, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	member := load(t, filepath.Join(p.Dir.Issuer(ams), "roles", "CHAT.member.nk"), keystore.Account)
	b.config = provision.Config{
		Region: ams, Self: must(ident.ParseUserKey(self.Public())), Keys: provision.Keys{
			Roles:  map[ident.AccountKey]*keystore.Key{must(ident.ParseAccountKey(member.Public())): member},
			Region: map[ident.SealKey]*keystore.Key{must(ident.ParseSealKey(b.seal.Public())): b.seal},
		},
		Ledger: b.ledger, Home: names, Records: b.records, Guests: []ident.Label{label(platform.Guest)},
		Log: b.log.Logger(), Now: clock, Spread: func() float64 { return 0.5 },
	}
	b.svc = provision.New(b.config)
	b.svc.Use(p.Full)
	return b, names
}

func (b *bench) opener() ledger.Opener {
	return ledger.Opener{Operator: b.p.Operator, Now: func() time.Time { return b.now }}
}

// document makes a later document of the platform's own.
func (b *bench) document(number uint32, change func(*trust.Platform, *policy.Policy)) *ledger.Document {
	b.t.Helper()
	// Through its own encoding, so that no part of the present document is written in.
	old := must(b.p.Operator.OpenPlatform(b.p.Full.PublicToken))
	old.Version.Number = number
	offers := policy.Policy{Offers: slices.Clone(b.p.Full.Policy.Offers), Session: b.p.Full.Policy.Session}
	if change != nil {
		change(old, &offers)
	}
	token, err := ledger.SignDocument(ledger.KeySigner{Key: b.signing}, old, offers, b.p.Full.Names, b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	d, _ := must(b.opener().Open(ledger.PlatformKey().String(), token)).Body.(*ledger.Document)
	return d
}

// suspend and revoke let the service know of a denial.
func (b *bench) suspend(key ledger.Key) {
	b.t.Helper()
	b.ledger.Apply(*must(ledger.Suspend(b.opener(), ledger.KeySigner{Key: b.signing}, key, nil, true, 0, ledger.Suspension{}, b.now)))
}

func (b *bench) revoke(account ident.AccountKey, user ident.UserKey, before time.Time) {
	b.t.Helper()
	e := must(ledger.Revoke(b.opener(), ledger.KeySigner{Key: b.signing}, ledger.RevocationKey(account, user), nil, before, ledger.Revocation{}, b.now))
	b.ledger.Apply(*e)
}

func (b *bench) chat() ident.AccountKey {
	a, _ := b.p.Document.Account(label(platform.ChatIn))
	return a.Key
}

func userKey(k *keystore.Key) ident.UserKey { return must(ident.ParseUserKey(k.Public())) }

// door asks as a request comes from outside.
func (b *bench) door(name string, r endpoint.Request) endpoint.Response {
	b.t.Helper()
	for _, e := range slices.Concat(b.svc.GuestEndpoints(), b.svc.MemberEndpoints()) {
		if e.Name != name {
			continue
		}
		if refusal, ok := e.Admit(r); !ok {
			return refusal
		}
		return e.Handler(b.t.Context(), r)
	}
	b.t.Fatalf("no door %s", name)
	return endpoint.Response{}
}

// renew asks in the name of whoever a JWT is for.
func (b *bench) renew(token string) (wire.Answer, *wire.Error) {
	b.t.Helper()
	resp := b.door("renew", endpoint.Request{ID: "r2", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: info(b.t, token)}})
	if resp.Err != nil {
		return wire.Answer{}, resp.Err
	}
	return b.remembered(must(wire.DecodeAnswer(resp.Body))), nil
}

// remembered holds that the service knows what it has just signed as anybody would read it,
// and gives the answer.
func (b *bench) remembered(a wire.Answer) wire.Answer {
	b.t.Helper()
	known, read, err := b.svc.Remembered(a.JWT, b.now)
	if err != nil || known != read {
		b.t.Fatalf("remembered: %+v, read: %+v, %v", known, read, err)
	}
	return a
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func load(t *testing.T, path string, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Load(path, kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// info is the header that a server writes for a user who asks through an import.
func info(t *testing.T, token string) []string {
	t.Helper()
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"acc": c.IssuerAccount, "user": c.Subject, "jwt": token, "kind": "Client", "host": "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return []string{string(data)}
}

func (b *bench) request(key *keystore.Key, change func(*wire.Request)) (endpoint.Request, *keystore.Key) {
	b.t.Helper()
	reply, err := keystore.Generate(keystore.Curve)
	if err != nil {
		b.t.Fatal(err)
	}
	r := wire.Request{
		UserKey: must(ident.ParseUserKey(key.Public())), Time: b.now, Nonce: "AAAAAAAAAAAAAAAAAAAAAA", Name: must(ident.ParseName("alice")),
		ReplyKey: must(ident.ParseSealKey(reply.Public())), Identity: wire.Proof{Type: wire.ProofOpen},
	}
	if change != nil {
		change(&r)
	}
	body, err := r.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	proof, err := wire.Prove(key, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return endpoint.Request{
		ID: "r1", Reply: "_R_.abc", Body: body,
		Header: map[string][]string{wire.HeaderProof: {proof}, wire.HeaderInfo: info(b.t, b.guest.Token)},
	}, reply
}

// open reads a sealed answer as the asker does.
func (b *bench) open(resp endpoint.Response, reply *keystore.Key) []byte {
	b.t.Helper()
	if resp.SealedBy != b.seal.Public() {
		b.t.Fatalf("sealed by %q: %s", resp.SealedBy, resp.Body)
	}
	body, err := wire.Open(reply.Pair(), must(ident.ParseSealKey(resp.SealedBy)), resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return body
}

func (b *bench) issue(key *keystore.Key, change func(*wire.Request)) (wire.Answer, *wire.Error) {
	b.t.Helper()
	r, reply := b.request(key, change)
	resp := b.door("issue", r)
	body := b.open(resp, reply)
	if resp.Err != nil {
		e, err := wire.DecodeError(body)
		if err != nil || e.Code != resp.Err.Code || e.RequestID != "r1" {
			b.t.Fatalf("%v, %v", e, err)
		}
		return wire.Answer{}, e
	}
	a, err := wire.DecodeAnswer(body)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.remembered(a), nil
}

func newUser(t *testing.T) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func nonce(i byte) func(*wire.Request) {
	return func(r *wire.Request) { r.Nonce = string([]byte{'A' + i}) + "AAAAAAAAAAAAAAAAAAAAA" }
}

func TestIssueAndRenew(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	u, err := b.p.Document.VerifyUser(a.JWT, b.now)
	if err != nil {
		t.Fatal(err)
	}
	if u.Key.String() != alice.Public() || u.Name.String() != "alice" || u.Account.String() != "CHAT" || a.Expires != b.now.Add(time.Hour).Unix() {
		t.Errorf("%+v", u)
	}

	b.now = b.now.Add(50 * time.Minute)
	renew := endpoint.Request{ID: "r2", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: info(t, a.JWT)}}
	resp := b.svc.Renew(t.Context(), renew)
	if resp.Err != nil {
		t.Fatal(resp.Err)
	}
	again, err := wire.DecodeAnswer(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.p.Document.VerifyUser(again.JWT, b.now); err != nil || n.Key != u.Key || n.Name != u.Name || again.Expires != b.now.Add(time.Hour).Unix() {
		t.Errorf("%+v, %v", n, err)
	}

	b.now = b.now.Add(time.Hour)
	if resp := b.svc.Renew(t.Context(), renew); resp.Err == nil || resp.Err.Code != wire.BadIdentity {
		t.Errorf("an expired user renewed: %v", resp.Err)
	}
}

func TestIssueRefuses(t *testing.T) {
	b, names := newBench(t)
	alice := newUser(t)
	if _, werr := b.issue(alice, nil); werr != nil {
		t.Fatal(werr)
	}
	for name, c := range map[string]struct {
		change func(*wire.Request)
		key    *keystore.Key
		want   wire.Code
	}{
		"the same request again":     {nil, alice, wire.Replayed},
		"30 s too old":               {func(r *wire.Request) { nonce(1)(r); r.Time = b.now.Add(-31 * time.Second) }, alice, wire.ClockSkew},
		"30 s too early":             {func(r *wire.Request) { nonce(2)(r); r.Time = b.now.Add(31 * time.Second) }, alice, wire.ClockSkew},
		"another's name":             {nil, newUser(t), wire.NameTaken},
		"a role that is not offered": {func(r *wire.Request) { nonce(3)(r); r.Role = must(ident.ParseLabel("admin")) }, alice, wire.RoleNotGranted},
		"the issuers' account":       {func(r *wire.Request) { nonce(4)(r); r.Account = must(ident.ParseLabel(platform.Auth)) }, alice, wire.RoleNotGranted},
		"no name":                    {func(r *wire.Request) { nonce(5)(r); r.Name = ident.Name{} }, alice, wire.BadName},
	} {
		if _, werr := b.issue(c.key, c.change); werr == nil || werr.Code != c.want {
			t.Errorf("%s: %v", name, werr)
		}
	}
	names.fail = errors.New("the ledger is away")
	_, werr := b.issue(alice, nonce(6))
	if werr == nil || werr.Code != wire.Unavailable || werr.RetryAfterMS == 0 {
		t.Errorf("with the ledger away: %v", werr)
	}
	if werr != nil && werr.Message == "the ledger is away" {
		t.Error("the caller was told what the log is for")
	}
}

func TestProofs(t *testing.T) {
	b, _ := newBench(t)
	alice, mallory := newUser(t), newUser(t)
	for name, spoil := range map[string]func(*endpoint.Request){
		"no proof":            func(r *endpoint.Request) { delete(r.Header, wire.HeaderProof) },
		"two proofs":          func(r *endpoint.Request) { r.Header[wire.HeaderProof] = append(r.Header[wire.HeaderProof], "v1 AAAA") },
		"another's signature": func(r *endpoint.Request) { r.Header[wire.HeaderProof] = []string{must(wire.Prove(mallory, r.Body))} },
		"an altered body":     func(r *endpoint.Request) { r.Body = append(r.Body[:len(r.Body)-1], ' ', '}') },
	} {
		r, reply := b.request(alice, nil)
		spoil(&r)
		resp := b.svc.Issue(t.Context(), r)
		if resp.Err == nil || resp.Err.Code != wire.BadProof {
			t.Errorf("%s: %v", name, resp.Err)
		}
		b.open(resp, reply)
	}
}

// TestSealedRequest: what is sealed to the region key is opened; what is sealed
// to another region's is refused, and says so.
func TestSealedRequest(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	eph, err := keystore.Generate(keystore.Curve)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keystore.Generate(keystore.Curve)
	if err != nil {
		t.Fatal(err)
	}
	r, reply := b.request(alice, nil)
	plain := r.Body
	r.Header[wire.HeaderSealed] = []string{eph.Public()}
	r.Body = must(wire.Seal(eph.Pair(), must(ident.ParseSealKey(b.seal.Public())), plain))
	if resp := b.svc.Issue(t.Context(), r); resp.Err != nil {
		t.Errorf("sealed to this region: %v", resp.Err)
	} else {
		b.open(resp, reply)
	}
	r.Body = must(wire.Seal(eph.Pair(), must(ident.ParseSealKey(other.Public())), plain))
	if resp := b.svc.Issue(t.Context(), r); resp.Err == nil || resp.Err.Code != wire.WrongRegion {
		t.Errorf("sealed to another region: %v", resp.Err)
	}
}

// TestWhoMayAsk: guests issue, members renew, and nobody the other.
func TestWhoMayAsk(t *testing.T) {
	b, _ := newBench(t)
	alice := newUser(t)
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	r, _ := b.request(alice, nonce(1))
	r.Header[wire.HeaderInfo] = info(t, a.JWT)
	if resp := b.svc.Issue(t.Context(), r); resp.Err == nil || resp.Err.Code != wire.BadIdentity {
		t.Errorf("a member was issued to: %v", resp.Err)
	}
	guest := endpoint.Request{ID: "g", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: info(t, b.guest.Token)}}
	if resp := b.svc.Renew(t.Context(), guest); resp.Err == nil || resp.Err.Code != wire.BadIdentity {
		t.Errorf("the guest renewed: %v", resp.Err)
	}
	if resp := b.svc.Info(t.Context(), guest); resp.Err != nil {
		t.Errorf("the guest gets no information: %v", resp.Err)
	} else if i, err := wire.DecodeInfo(resp.Body); err != nil || i.Time != b.now.UnixMilli() {
		t.Errorf("%+v, %v", i, err)
	} else if _, err := b.p.Operator.OpenPlatform(i.Platform); err != nil {
		t.Error(err)
	}
	guest.Reply = "$KV.decisions.name.alice"
	if resp := b.svc.Info(t.Context(), guest); resp.Err == nil {
		t.Error("somebody was believed whose reply no server made")
	}
}
