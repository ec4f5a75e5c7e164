package ledgertest

import (
	"crypto/sha256"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

// Platform is an operator with two signing keys, and a clock that a test sets. Its
// keys are made of its name: fuzz targets run in several processes, and what one
// finds must fail in the others.
type Platform struct {
	Operator *trust.Operator
	Root     *keystore.Key    // the operator key
	Signing  [2]*keystore.Key // as two registrars have them
	name     string

	mu  sync.Mutex
	now time.Time
}

// NewPlatform makes a platform whose clock stands at now.
func NewPlatform(t testing.TB, name string, now time.Time) *Platform {
	t.Helper()
	p := &Platform{name: name, now: now}
	p.Root = p.Key(t, keystore.Operator, "root")
	p.Signing = [2]*keystore.Key{p.Key(t, keystore.Operator, "signing 0"), p.Key(t, keystore.Operator, "signing 1")}
	token, err := trust.NewOperator(name, p.Root, []string{p.Signing[0].Public(), p.Signing[1].Public()}, p.Account(t, "SYS"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Operator, err = trust.ParseOperator(token); err != nil {
		t.Fatal(err)
	}
	return p
}

// Key is a key of the platform, always the same for one purpose.
func (p *Platform) Key(t testing.TB, kind keystore.Kind, purpose string) *keystore.Key {
	t.Helper()
	raw := sha256.Sum256([]byte(p.name + "\n" + purpose))
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByte(kind), raw[:])
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Parse(kind, seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Account is the key of an account of the platform.
func (p *Platform) Account(t testing.TB, name string) ident.AccountKey {
	t.Helper()
	a, err := ident.ParseAccountKey(p.Key(t, keystore.Account, "account "+name).Public())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Now is what the platform's clock shows.
func (p *Platform) Now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Advance sets the clock forward, or back.
func (p *Platform) Advance(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = p.now.Add(d)
}

// Opener opens entries by the platform's clock.
func (p *Platform) Opener() ledger.Opener { return ledger.Opener{Operator: p.Operator, Now: p.Now} }

// Signer is that of one of two registrars, 0 or 1.
func (p *Platform) Signer(registrar int) ledger.KeySigner {
	return ledger.KeySigner{Key: p.Signing[registrar]}
}

// Decider decides on a store as one of two registrars.
func (p *Platform) Decider(s ledger.DecisionStore, registrar int) *ledger.Decider {
	return &ledger.Decider{Store: s, Opener: p.Opener(), Signer: p.Signer(registrar), Rules: ledger.DefaultNameRules()}
}

// Token signs a statement of any content, by a key of any owner.
func (p *Platform) Token(t testing.TB, by *keystore.Key, e trust.Entry, body any) string {
	t.Helper()
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		e.Body = data
	}
	token, err := e.Sign(by)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Entry signs a statement and opens it, whatever the clock shows.
func (p *Platform) Entry(t testing.TB, key ledger.Key, version uint64, denies bool, at time.Time, body any) ledger.Entry {
	t.Helper()
	token := p.Token(t, p.Signing[0], trust.Entry{Subject: key.String(), Version: version, Denies: denies, At: at.UnixMilli()}, body)
	o := ledger.Opener{Operator: p.Operator, Now: func() time.Time { return time.Unix(1<<41, 0) }}
	e, err := o.Open(key.String(), token)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Public is the public part of a platform document: one account CHAT with one role
// member, two regions.
func (p *Platform) Public(t testing.TB, epoch, number uint32) *trust.Platform {
	t.Helper()
	proof, err := trust.SignEpoch(p.Root, epoch, ident.Region{}, p.Now())
	if err != nil {
		t.Fatal(err)
	}
	seal, err := ident.ParseSealKey(p.Key(t, keystore.Curve, "seal").Public())
	if err != nil {
		t.Fatal(err)
	}
	region := func(name, url string) trust.Region {
		r, err := ident.ParseRegion(name)
		if err != nil {
			t.Fatal(err)
		}
		return trust.Region{Name: r, URLs: []string{url}, SealKey: seal}
	}
	ams, sfo := region("ams", "nats://127.0.0.1:4222"), region("sfo", "nats://127.0.0.1:5222")
	return &trust.Platform{
		Name: p.name, Operator: p.Root.Public(), Version: trust.Version{Epoch: epoch, Number: number}, EpochProof: proof,
		Home: ams.Name, Regions: []trust.Region{ams, sfo},
		Accounts: []trust.Account{{
			Name: Label(t, "CHAT"), Key: p.Account(t, "CHAT"),
			Roles: []trust.Role{{Name: Label(t, "member"), Key: p.Account(t, "CHAT/member")}},
		}},
		Chat: trust.Chat{Account: Label(t, "CHAT"), Rooms: []trust.Room{{Name: Label(t, "KUBECON"), Channels: []ident.Label{Label(t, "General")}}}},
	}
}

// Policy offers role member of account CHAT to open identities.
func (p *Platform) Policy(t testing.TB) policy.Policy {
	t.Helper()
	return policy.Policy{Offers: []policy.Offer{{
		Kind: ident.KindOpen, Account: Label(t, "CHAT"), Role: Label(t, "member"),
		Default: policy.Seconds(time.Hour), Longest: policy.Seconds(12 * time.Hour),
	}}}
}

// Document is the token of a platform document with a version.
func (p *Platform) Document(t testing.TB, epoch, number uint32) string {
	t.Helper()
	token, err := ledger.SignDocument(p.Signer(0), p.Public(t, epoch, number), p.Policy(t), ledger.DefaultNameRules(), p.Now())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Label makes a label.
func Label(t testing.TB, s string) ident.Label {
	t.Helper()
	l, err := ident.ParseLabel(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
