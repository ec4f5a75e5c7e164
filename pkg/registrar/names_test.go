package registrar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// bench is home's registrar on real keys and documents, as init makes them,
// with the ledger in memory. What the servers say of who asks is written by the
// test.
type bench struct {
	t       *testing.T
	p       *platform.Platform
	names   *registrar.Names
	store   *memory.Names
	signing *keystore.Key
	now     time.Time
	log     *bytes.Buffer
	issuer  string // user JWTs of those who might ask
	guest   string
	member  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ams := must(ident.ParseRegion("ams"))
	b := &bench{t: t, store: &memory.Names{}, now: time.Now().Truncate(time.Millisecond), log: &bytes.Buffer{}}
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
	b.member = member.Token
	b.names = &registrar.Names{
		Store: b.store, Operator: b.p.Operator, Platform: b.p.Document, Issuers: must(ident.ParseLabel(platform.Auth)),
		Sign: func(e trust.NameEntry) (string, error) { return e.Sign(b.signing, b.now) },
		Log:  slog.New(slog.NewTextHandler(b.log, nil)), Now: func() time.Time { return b.now },
	}
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
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

func newUser(t *testing.T) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	return k
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
	b.t.Helper()
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

// request is a claim as it comes from an issuer.
func (b *bench) request(c wire.Claim) endpoint.Request {
	return endpoint.Request{
		ID: "r1", Reply: "_R_.abc", Body: must(json.Marshal(c)),
		Header: map[string][]string{wire.HeaderInfo: {info(b.issuer, nil)}},
	}
}

// ask gives the entry or the refusal, and holds either to its form.
func (b *bench) ask(r endpoint.Request) (string, *wire.Error) {
	b.t.Helper()
	resp := b.names.Claim(b.t.Context(), r)
	if resp.SealedBy != "" {
		b.t.Errorf("sealed by %q", resp.SealedBy)
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

// entry is what the ledger has of a name.
func (b *bench) entry(name string) string {
	b.t.Helper()
	e, _, err := b.store.Name(b.t.Context(), must(ident.ParseName(name)))
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		b.t.Fatal(err)
	}
	return e
}

func TestClaim(t *testing.T) {
	b := newBench(t)
	alice, mallory := newUser(t), newUser(t)
	entry, werr := b.ask(b.request(b.claim(alice, "alice", nil)))
	if werr != nil {
		t.Fatal(werr)
	}
	if entry != b.entry("alice") {
		t.Error("what is answered is not what the ledger has")
	}
	e, err := b.p.Operator.OpenName(must(ident.ParseName("alice")), entry)
	if err != nil {
		t.Fatal(err)
	}
	want := trust.NameEntry{
		Name: must(ident.ParseName("alice")), Identity: ident.OpenIdentity(must(ident.ParseUserKey(alice.Public()))),
		Claimed: b.now.Unix(), Nonce: "AAAAAAAAAAAAAAAAAAAAAA",
	}
	if e != want {
		t.Errorf("the entry is %+v, not %+v", e, want)
	}
	if c, err := jwt.DecodeGeneric(entry); err != nil || c.Issuer != b.signing.Public() {
		t.Errorf("the entry is not signed with the registrar's key: %v", err)
	}

	// Another nonce, later: the entry that is there, unchanged.
	b.now = b.now.Add(time.Minute)
	again, werr := b.ask(b.request(b.claim(alice, "alice", func(r *wire.Request) { r.Nonce = "BAAAAAAAAAAAAAAAAAAAAA" })))
	if werr != nil || again != entry {
		t.Errorf("the same identity again: %v, the same entry: %t", werr, again == entry)
	}
	if _, werr := b.ask(b.request(b.claim(mallory, "alice", nil))); werr == nil || werr.Code != wire.NameTaken {
		t.Errorf("another identity: %v", werr)
	}
	if b.entry("alice") != entry {
		t.Error("a name that was given has changed")
	}
	// Who has a name may have another one; nobody loses one by that.
	if _, werr := b.ask(b.request(b.claim(alice, "alice2", nil))); werr != nil {
		t.Error(werr)
	}
}

// TestClaimRefuses: each case would be accepted but for the one thing that its
// name says, and leaves nothing in the ledger.
func TestClaimRefuses(t *testing.T) {
	b := newBench(t)
	alice, mallory := newUser(t), newUser(t)
	plain := func(r *endpoint.Request) {}
	header := func(values ...string) func(*endpoint.Request) {
		return func(r *endpoint.Request) { r.Header = map[string][]string{wire.HeaderInfo: values} }
	}
	reply := func(to string) func(*endpoint.Request) { return func(r *endpoint.Request) { r.Reply = to } }
	body := func(s string) func(*endpoint.Request) { return func(r *endpoint.Request) { r.Body = []byte(s) } }
	good := func(name string) wire.Claim { return b.claim(alice, name, nil) }
	at := func(d time.Duration) func(string) wire.Claim {
		return func(name string) wire.Claim {
			return b.claim(alice, name, func(r *wire.Request) { r.Time = b.now.Add(d) })
		}
	}
	issuer := info(b.issuer, nil)
	foreign := info(newBench(t).issuer, nil)
	for what, c := range map[string]struct {
		claim func(string) wire.Claim
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
		"a reply that aims at the ledger":   {good, reply("$KV.names.alice"), wire.BadIdentity},
		"no reply":                          {good, reply(""), wire.BadIdentity},
		"a name that was asked from nobody": {func(name string) wire.Claim { c := good(name); c.Proof = ""; return c }, plain, wire.BadProof},
		"a forged proof": {func(name string) wire.Claim {
			c := good(name)
			c.Proof = must(wire.Prove(mallory, c.Body))
			return c
		}, plain, wire.BadProof},
		"an altered body": {func(name string) wire.Claim {
			c := good("x" + name)
			c.Body = bytes.Replace(c.Body, []byte(`"x`), []byte(`"`), 1)
			return c
		}, plain, wire.BadProof},
		"another's key over the same proof": {func(name string) wire.Claim {
			c := good(name)
			c.Body = bytes.ReplaceAll(c.Body, []byte(alice.Public()), []byte(mallory.Public()))
			return c
		}, plain, wire.BadProof},
		"more than 30 s old":   {at(-wire.MaxSkew - time.Second), plain, wire.ClockSkew},
		"more than 30 s early": {at(wire.MaxSkew + time.Second), plain, wire.ClockSkew},
		"a day old":            {at(-24 * time.Hour), plain, wire.ClockSkew},
		"no name": {func(name string) wire.Claim {
			return b.claim(alice, name, func(r *wire.Request) { r.Name = ident.Name{} })
		}, plain, wire.BadName},
		"no body":               {good, body(""), wire.BadRequest},
		"no claim":              {good, body(`{"user_key":"x"}`), wire.BadRequest},
		"a claim and more":      {good, func(r *endpoint.Request) { r.Body = append(r.Body, '{', '}') }, wire.BadRequest},
		"no request in a claim": {good, body(`{"body":"e30=","proof":"v1 AAAA"}`), wire.BadRequest},
		"too much of a claim":   {good, body(strings.Repeat(" ", 2*wire.MaxRequest) + "{}"), wire.TooLarge},
	} {
		t.Run(what, func(t *testing.T) {
			b.t = t
			const name = "refused"
			r := b.request(c.claim(name))
			c.spoil(&r)
			if _, werr := b.ask(r); werr == nil || werr.Code != c.want {
				t.Errorf("%v, not %s", werr, c.want)
			}
			if b.entry(name) != "" {
				t.Error("the ledger has it nevertheless")
			}
		})
	}
	b.t = t
	// The bound itself is in time; and it was none of what all cases have alike.
	if _, werr := b.ask(b.request(at(-wire.MaxSkew)("refused"))); werr != nil {
		t.Errorf("30 s old: %v", werr)
	}
	if _, werr := b.ask(b.request(at(wire.MaxSkew)("refused"))); werr != nil {
		t.Errorf("30 s early: %v", werr)
	}
	b.now = b.now.Add(platform.ServiceLife + time.Minute)
	if _, werr := b.ask(b.request(good("late"))); werr == nil || werr.Code != wire.BadIdentity {
		t.Errorf("an issuer whose credential is over: %v", werr)
	}
}

// broken is a store of which one thing does not work.
type broken struct {
	*memory.Names
	look, put error
}

func (s broken) Name(ctx context.Context, name ident.Name) (string, uint64, error) {
	if s.look != nil {
		return "", 0, s.look
	}
	return s.Names.Name(ctx, name)
}

func (s broken) PutName(ctx context.Context, name ident.Name, entry string, revision uint64) error {
	if s.put != nil {
		return s.put
	}
	return s.Names.PutName(ctx, name, entry, revision)
}

// TestClaimWithoutLedger: what does not work is in the log, and the caller
// hears no more than when to ask again.
func TestClaimWithoutLedger(t *testing.T) {
	const inner = "stream names at 10.1.2.3 has no quorum"
	for what, c := range map[string]struct {
		look, put error
		sign      error
		forged    bool
		log       string
	}{
		"looking fails":          {look: errors.New(inner)},
		"looking is unavailable": {look: errors.Join(ledger.ErrUnavailable, errors.New(inner))},
		"writing fails":          {put: errors.New(inner)},
		"writing never wins":     {put: ledger.ErrConflict, log: ledger.ErrConflict.Error()},
		"signing fails":          {sign: errors.New(inner)},
		"an entry nobody signed": {forged: true, log: "the entry of alice"},
		"writing is unavailable": {put: errors.Join(ledger.ErrUnavailable, errors.New(inner))},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t)
			alice := newUser(t)
			b.names.Store = broken{b.store, c.look, c.put}
			if c.sign != nil {
				b.names.Sign = func(trust.NameEntry) (string, error) { return "", c.sign }
			}
			if c.forged {
				other, err := keystore.Generate(keystore.Operator)
				if err != nil {
					t.Fatal(err)
				}
				name := must(ident.ParseName("alice"))
				e := trust.NameEntry{Name: name, Identity: ident.OpenIdentity(must(ident.ParseUserKey(alice.Public())))}
				if err := b.store.PutName(t.Context(), name, must(e.Sign(other, b.now)), 0); err != nil {
					t.Fatal(err)
				}
			}
			_, werr := b.ask(b.request(b.claim(alice, "alice", nil)))
			if werr == nil || werr.Code != wire.ReadOnly || werr.RetryAfterMS <= 0 {
				t.Fatalf("%+v", werr)
			}
			if told := werr.Message + werr.Hint; strings.Contains(told, "10.1.2.3") || strings.Contains(told, "quorum") || strings.Contains(told, "entry") {
				t.Errorf("the caller was told what the log is for: %q", told)
			}
			if c.log == "" {
				c.log = inner
			}
			if !strings.Contains(b.log.String(), c.log) {
				t.Errorf("the log does not say why:\n%s", b.log)
			}
		})
	}
}

func TestEndpoints(t *testing.T) {
	b := newBench(t)
	e := b.names.Endpoints()
	if len(e) != 1 || e[0].Subject != "auth.v1.home.claim" {
		t.Fatalf("%+v", e)
	}
	resp := e[0].Handler(t.Context(), b.request(b.claim(newUser(t), "alice", nil)))
	if resp.Err != nil || b.entry("alice") == "" {
		t.Errorf("%+v", resp)
	}
}
