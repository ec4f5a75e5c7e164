package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// asking is an issuer's Names with home as a test plays it.
type asking struct {
	*provision.Home
	t          *testing.T
	p          *ledgertest.Platform
	projection *ledger.Projection
	home       func(ctx context.Context, try int) (*nats.Msg, error)
	sent       []string
	key        ledger.Key
	name       ident.Name
	me, other  ident.Identity
}

func newAsking(t *testing.T) *asking {
	t.Helper()
	a := &asking{
		t: t, p: ledgertest.NewPlatform(t, "demo", time.Unix(1790000000, 0)), projection: ledger.NewProjection(nil),
		name: must(ident.ParseName("alice")), me: ident.OpenIdentity(ledgertest.User(t)), other: ident.OpenIdentity(ledgertest.User(t)),
	}
	a.key = ledger.NameKey(a.name)
	a.Home = provision.NewHomeVia(func(ctx context.Context, _ string, data []byte) (*nats.Msg, error) {
		a.sent = append(a.sent, string(data))
		if a.home == nil {
			t.Error("home was asked")
			return nil, nats.ErrNoResponders
		}
		return a.home(ctx, len(a.sent))
	}, a.projection, a.p.Opener())
	return a
}

func (a *asking) claim() error {
	a.t.Helper()
	return a.Claim(a.t.Context(), policy.Grant{Name: a.name, Identity: a.me, Chosen: true}, wire.Claim{Body: []byte("body"), Proof: "v1 x", Host: "192.0.2.1"})
}

// entry is what home decided of the name.
func (a *asking) entry(version uint64, denies bool, n ledger.Name) ledger.Entry {
	a.t.Helper()
	n.Claimed = 1
	return a.p.Entry(a.t, a.key, version, denies, a.p.Now(), n)
}

// answers lets home answer with a token.
func (a *asking) answers(token string) {
	a.home = func(context.Context, int) (*nats.Msg, error) {
		return &nats.Msg{Data: must(json.Marshal(wire.Claimed{Entry: token}))}, nil
	}
}

func wants(t *testing.T, what string, err error, code wire.Code) {
	t.Helper()
	var werr *wire.Error
	switch {
	case code == "" && err != nil, code != "" && (!errors.As(err, &werr) || werr.Code != code):
		t.Errorf("%s: %v, not %q", what, err, code)
	}
}

// TestNameThatIsKnown: who has it uses it without home, also when home is away, and
// nobody else has to ask home for a refusal.
func TestNameThatIsKnown(t *testing.T) {
	for what, c := range map[string]struct {
		of   func(a *asking) ledger.Entry
		code wire.Code
	}{
		"mine": {func(a *asking) ledger.Entry { return a.entry(1, false, ledger.Name{Holder: a.me}) }, ""},
		"mine for a while": {func(a *asking) ledger.Entry {
			return a.entry(1, false, ledger.Name{Holder: a.me, Until: a.p.Now().Unix() + 1})
		}, ""},
		"another's": {func(a *asking) ledger.Entry { return a.entry(1, false, ledger.Name{Holder: a.other}) }, wire.NameTaken},
		"another's until lately": {func(a *asking) ledger.Entry {
			return a.entry(2, true, ledger.Name{Holder: a.other, Rests: a.p.Now().Unix() + 1})
		}, wire.NameTaken},
		"another's, and lapsed lately": {func(a *asking) ledger.Entry {
			return a.entry(2, false, ledger.Name{Holder: a.other, Until: a.p.Now().Unix() - 1})
		}, wire.NameTaken},
	} {
		a := newAsking(t)
		a.projection.Apply(c.of(a))
		wants(t, what, a.claim(), c.code)
	}
}

// TestNameThatIsGivenNow: a name that somebody chose, and that a grant gives since, is brought
// to home once, so that it does not lapse; while home is away it is had as it is.
func TestNameThatIsGivenNow(t *testing.T) {
	for what, c := range map[string]struct {
		kind   string // of the identity
		chosen bool
		until  int64
		asks   bool
	}{
		"chosen, and given": {"key", false, 100, true},
		"chosen":            {"key", true, 100, false},
		"given before":      {"key", false, 0, false},
		"of an nkey":        {"open", false, 100, false},
	} {
		a := newAsking(t)
		me := a.me
		if c.kind == "key" {
			me = ident.KeyIdentity(must(ident.ParseKeyID("HKAAAAAAAAAAAAAAAAAA")))
		}
		until := int64(0)
		if c.until > 0 {
			until = a.p.Now().Unix() + c.until
		}
		a.projection.Apply(a.entry(1, false, ledger.Name{Holder: me, Until: until}))
		claim := func() error {
			return a.Claim(t.Context(), policy.Grant{Name: a.name, Identity: me, Chosen: c.chosen}, wire.Claim{})
		}
		a.home = func(context.Context, int) (*nats.Msg, error) { return nil, nats.ErrNoResponders }
		if err := claim(); err != nil {
			t.Errorf("%s, while home is away: %v", what, err)
		}
		if asked := len(a.sent) > 0; asked != c.asks {
			t.Errorf("%s: home was asked: %t", what, asked)
		}
		a.answers(a.entry(2, false, ledger.Name{Holder: me}).Token)
		if err := claim(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if held, _, _ := a.projection.Name(a.name); c.asks && held.Until != 0 {
			t.Errorf("%s: it lapses still", what)
		}
	}
}

// TestNameThatHomeDecides: what is not known, or is nobody's any more.
func TestNameThatHomeDecides(t *testing.T) {
	week := int64(7 * 24 * 3600)
	for what, of := range map[string]func(a *asking) *ledger.Entry{
		"never seen": func(*asking) *ledger.Entry { return nil },
		"mine, and resting": func(a *asking) *ledger.Entry {
			e := a.entry(2, true, ledger.Name{Holder: a.me, Rests: a.p.Now().Unix() + 100})
			return &e
		},
		"mine, and lapsed": func(a *asking) *ledger.Entry {
			e := a.entry(2, false, ledger.Name{Holder: a.me, Until: a.p.Now().Unix() - 1})
			return &e
		},
		"another's long ago": func(a *asking) *ledger.Entry {
			e := a.entry(2, true, ledger.Name{Holder: a.other, Rests: a.p.Now().Unix() - 1})
			return &e
		},
		"another's that lapsed long ago": func(a *asking) *ledger.Entry {
			e := a.entry(2, false, ledger.Name{Holder: a.other, Until: a.p.Now().Unix() - week - 1})
			return &e
		},
	} {
		a := newAsking(t)
		if e := of(a); e != nil {
			a.projection.Apply(*e)
		}
		a.answers(a.entry(3, false, ledger.Name{Holder: a.me}).Token)
		wants(t, what, a.claim(), "")
		// The client's own request goes on, byte for byte, with where it came from.
		var c wire.Claim
		if len(a.sent) != 1 || json.Unmarshal([]byte(a.sent[0]), &c) != nil || string(c.Body) != "body" || c.Proof != "v1 x" || c.Host != "192.0.2.1" {
			t.Errorf("%s: sent %q", what, a.sent)
		}
		// The next one finds it here.
		a.home = nil
		wants(t, what+", again", a.claim(), "")
	}
}

// TestHomeIsBelievedForItsSignature: an answer that does not give this name to this
// identity, by a registrar's word, is none.
func TestHomeIsBelievedForItsSignature(t *testing.T) {
	stranger := ledgertest.NewPlatform(t, "another", time.Unix(1790000000, 0))
	for what, token := range map[string]func(a *asking) string{
		"signed by a stranger": func(a *asking) string {
			return stranger.Entry(t, a.key, 1, false, a.p.Now(), ledger.Name{Holder: a.me, Claimed: 1}).Token
		},
		"about another name": func(a *asking) string {
			return a.p.Entry(t, ledger.NameKey(must(ident.ParseName("alice2"))), 1, false, a.p.Now(), ledger.Name{Holder: a.me, Claimed: 1}).Token
		},
		"altered": func(a *asking) string {
			s := a.entry(1, false, ledger.Name{Holder: a.me}).Token
			return s[:len(s)-3] + "AAA"
		},
		"no entry": func(*asking) string { return "x" },
		"nothing":  func(*asking) string { return "" },
		"too much": func(*asking) string { return strings.Repeat("x", wire.MaxAnswer) },
		"the future": func(a *asking) string {
			return a.p.Entry(t, a.key, 1, false, a.p.Now().Add(time.Hour), ledger.Name{Holder: a.me}).Token
		},
		"nobody's": func(a *asking) string { return a.entry(1, true, ledger.Name{Holder: a.other}).Token },
		"of another kind": func(a *asking) string {
			return a.p.Token(t, a.p.Signing[0], trust.Entry{Subject: ledger.AccountSuspension(a.p.Account(t, "CHAT")).String(), Version: 1, At: 1}, nil)
		},
	} {
		a := newAsking(t)
		a.answers(token(a))
		err := a.claim()
		var werr *wire.Error
		if err == nil || errors.As(err, &werr) {
			t.Errorf("%s: %v", what, err)
		}
		if held, gone, ok := a.projection.Name(a.name); ok && !gone {
			t.Errorf("%s: it is known now: %+v", what, held)
		}
	}
	t.Run("no JSON", func(t *testing.T) {
		a := newAsking(t)
		a.home = func(context.Context, int) (*nats.Msg, error) { return &nats.Msg{Data: []byte("x")}, nil }
		if a.claim() == nil {
			t.Error("it is believed")
		}
	})
	// Home gave it to another at that very moment.
	t.Run("another's", func(t *testing.T) {
		a := newAsking(t)
		a.answers(a.entry(1, false, ledger.Name{Holder: a.other}).Token)
		wants(t, "another's", a.claim(), wire.NameTaken)
	})
	// What is known to be newer holds, however old an answer is repeated.
	t.Run("an old entry", func(t *testing.T) {
		a := newAsking(t)
		old := a.entry(1, false, ledger.Name{Holder: a.me}).Token
		newer := a.entry(3, false, ledger.Name{Holder: a.other})
		a.home = func(context.Context, int) (*nats.Msg, error) {
			a.projection.Apply(newer) // it came meanwhile
			return &nats.Msg{Data: must(json.Marshal(wire.Claimed{Entry: old}))}, nil
		}
		wants(t, "an old entry", a.claim(), wire.NameTaken)
	})
}

// TestHomeRefuses: its refusal is handed on with what a client needs.
func TestHomeRefuses(t *testing.T) {
	refusal := wire.Errorf(wire.RateLimited, "later", "too many")
	refusal.RetryAfterMS = 1234
	for what, c := range map[string]struct {
		data []byte
		code wire.Code
	}{
		"a refusal":           {must(json.Marshal(refusal)), wire.RateLimited},
		"one without a body":  {nil, ""},
		"one of another kind": {[]byte(`{"code":"root","message":"x"}`), ""},
	} {
		a := newAsking(t)
		a.home = func(context.Context, int) (*nats.Msg, error) {
			return &nats.Msg{Data: c.data, Header: nats.Header{wire.HeaderErrorCode: {"429"}}}, nil
		}
		err := a.claim()
		var werr *wire.Error
		if err == nil || errors.As(err, &werr) != (c.code != "") || werr != nil && (werr.Code != c.code || werr.RetryAfterMS != 1234) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestHomeIsAway: a registrar that dies with the request costs one try; a home that is
// away is said in time, and with when to ask again.
func TestHomeIsAway(t *testing.T) {
	silent := func(ctx context.Context, _ int) (*nats.Msg, error) { <-ctx.Done(); return nil, ctx.Err() }
	nobody := func(context.Context, int) (*nats.Msg, error) { return nil, nats.ErrNoResponders }
	for what, c := range map[string]struct {
		home  func(ctx context.Context, try int) (*nats.Msg, error)
		tries int // at most
	}{
		"no answer": {silent, provision.ClaimTries},
		"nobody":    {nobody, 60},
	} {
		t.Run(what, func(t *testing.T) {
			a := newAsking(t)
			a.home = c.home
			synctest.Test(t, func(t *testing.T) {
				a.t = t
				began := time.Now()
				err := a.claim()
				wants(t, what, err, wire.ReadOnly)
				var werr *wire.Error
				if d := time.Since(began); d > provision.HomeWait || d < time.Second {
					t.Errorf("said after %s", d)
				} else if errors.As(err, &werr) && werr.RetryAfterMS == 0 {
					t.Error("it does not say when to ask again")
				}
			})
			if len(a.sent) > c.tries || len(a.sent) < 2 {
				t.Errorf("asked %d times", len(a.sent))
			}
		})
		t.Run(what+" at first", func(t *testing.T) {
			a := newAsking(t)
			good := must(json.Marshal(wire.Claimed{Entry: a.entry(1, false, ledger.Name{Holder: a.me}).Token}))
			a.home = func(ctx context.Context, try int) (*nats.Msg, error) {
				if try == 1 {
					return c.home(ctx, try)
				}
				return &nats.Msg{Data: good}, nil
			}
			synctest.Test(t, func(t *testing.T) {
				a.t = t
				wants(t, what, a.claim(), "")
			})
		})
	}
	t.Run("a caller that gives up", func(t *testing.T) {
		a := newAsking(t)
		a.home = silent
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			began := time.Now()
			err := a.Claim(ctx, policy.Grant{Name: a.name, Identity: a.me}, wire.Claim{})
			wants(t, "given up", err, wire.ReadOnly)
			if d := time.Since(began); d > 200*time.Millisecond {
				t.Errorf("%s later", d)
			}
		})
	})
}

// TestRulesOfTheDocument: how long names rest is the platform document's to say.
func TestRulesOfTheDocument(t *testing.T) {
	a := newAsking(t)
	rules := ledger.NameRules{Lapse: time.Hour, Rest: time.Second, Step: time.Second}
	token := must(ledger.SignDocument(a.p.Signer(0), a.p.Public(t, 1, 1), a.p.Policy(t), rules, a.p.Now()))
	a.projection.Apply(must(a.p.Opener().Open(ledger.PlatformKey().String(), token)))
	a.projection.Apply(a.entry(1, false, ledger.Name{Holder: a.other, Until: a.p.Now().Unix() - 2}))
	a.answers(a.entry(2, false, ledger.Name{Holder: a.me}).Token)
	wants(t, "rested for as long as it must", a.claim(), "")
}
