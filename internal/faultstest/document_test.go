package faultstest

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

// A new platform document is in force in every region within 2 s; one that is not
// signed, foreign, older, or that sets an epoch by itself leaves the old one in force,
// and the log and the counters say so; the operator key gets past a document that a
// stolen signing key made the last of its epoch.
func TestDocument(t *testing.T) {
	w := newWorld(t, true)
	store := must(jetstream.NewDecisions(w.dial(platform.Ledger, platform.RoleHome, "ams")))
	signer := w.signer("sfo")
	decider := &ledger.Decider{Store: store, Opener: w.opener()}
	key := ledger.PlatformKey()

	// document is the one that init made, changed.
	document := func(s ledger.KeySigner, change func(*trust.Platform, *policy.Policy)) string {
		t.Helper()
		public, pol := *w.Up.Platform.Full.Public, policy.Policy{Offers: append([]policy.Offer(nil), w.Up.Platform.Full.Policy.Offers...)}
		change(&public, &pol)
		return must(ledger.SignDocument(s, &public, pol, ledger.DefaultNameRules(), time.Now()))
	}
	number := func(n uint32) func(*trust.Platform, *policy.Policy) {
		return func(p *trust.Platform, _ *policy.Policy) { p.Version.Number = n }
	}
	inForce := func(v trust.Version) time.Duration {
		t.Helper()
		return eventually(t, within(2*time.Second), "version "+v.String()+" everywhere", func() bool {
			for _, name := range all() {
				if d, _ := w.service(name).Known().Document(); d.Public.Version != v {
					return false
				}
			}
			return true
		})
	}
	lifetime := func(in string) time.Duration {
		t.Helper()
		r, _ := w.Public.Document.Region(region(in))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := w.Public.Obtain(ctx, r.URLs, newUser(t), client.Wish{Name: w.Name("doc")})
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(c.User.Expires)
	}
	// counts are what each service says that it refused.
	counts := func() (hints, stored []uint64) {
		for _, name := range all() {
			st := w.service(name).Follower().Stats()
			hints, stored = append(hints, st.HintsRefused), append(stored, st.Refused)
		}
		return hints, stored
	}
	grew := func(now, before []uint64) bool {
		for i := range now {
			if now[i] <= before[i] {
				return false
			}
		}
		return true
	}

	second := document(signer, func(p *trust.Platform, pol *policy.Policy) {
		p.Version.Number = 2
		pol.Offers[0].Default, pol.Offers[0].Longest = policy.Seconds(5*time.Minute), policy.Seconds(10*time.Minute)
	})
	if _, err := decider.PutDocument(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	t.Logf("in force everywhere after %v", inForce(trust.Version{Epoch: 1, Number: 2}))
	for _, r := range regions() {
		if d := lifetime(r); d > 5*time.Minute+time.Second {
			t.Errorf("%s still gives %v", r, d)
		}
	}

	// Bad ones, as somebody with the right to write to the bucket would put them.
	other, err := platform.Init(t.Context(), filepath.Join(t.TempDir(), "other"), platform.Spec{
		Name: must(ident.ParseName("other")), Regions: []ident.Region{region("ams")}, Home: region("ams"), Nodes: 3, Port: 2000,
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	third := document(signer, number(3))
	stranger := ledger.KeySigner{Key: must(keystore.Generate(keystore.Operator))}
	selfMade := must(trust.SignEpoch(signer.Key, 2, region("ams"), time.Now()))
	_, stored := counts()
	for what, token := range map[string]string{
		"garbage":                     "x",
		"nothing":                     "",
		"cut off":                     third[:len(third)/2],
		"altered":                     strings.Replace(third, third[60:64], "AAAA", 1),
		"another platform's":          other.FullToken,
		"signed by a stranger":        document(stranger, number(3)),
		"of an epoch without a proof": document(signer, func(p *trust.Platform, _ *policy.Policy) { p.Version = trust.Version{Epoch: 2, Number: 1} }),
		"of an epoch of its own": document(signer, func(p *trust.Platform, _ *policy.Policy) {
			p.Version, p.EpochProof = trust.Version{Epoch: 2, Number: 1}, selfMade
		}),
		"without the account of issuers": document(signer, func(p *trust.Platform, _ *policy.Policy) {
			p.Version.Number = 3
			p.Accounts = slices.DeleteFunc(slices.Clone(p.Accounts), func(a trust.Account) bool { return a.Name.String() == platform.Auth })
		}),
		"with one key for two regions": document(signer, func(p *trust.Platform, _ *policy.Policy) {
			p.Version.Number, p.Regions = 3, slices.Clone(p.Regions)
			p.Regions[1].SealKey = p.Regions[0].SealKey
		}),
		"with credentials for a century": document(signer, func(p *trust.Platform, pol *policy.Policy) {
			p.Version.Number, pol.Offers[0].Longest = 3, policy.Seconds(100*365*24*time.Hour)
		}),
		"that offers nothing":            document(signer, func(p *trust.Platform, pol *policy.Policy) { p.Version.Number, pol.Offers = 3, nil }),
		"that offers what there is not":  document(signer, func(p *trust.Platform, pol *policy.Policy) { p.Version.Number, p.Accounts = 3, p.Accounts[:1] }),
		"from a quarter of an hour away": must(ledger.SignDocument(signer, w.Up.Platform.Full.Public, w.Up.Platform.Full.Policy, ledger.DefaultNameRules(), time.Now().Add(15*time.Minute))),
	} {
		hints, _ := counts()
		if err := force(t, store, key, token); err != nil {
			t.Fatal(err)
		}
		eventually(t, within(5*time.Second), what+": everybody refuses it", func() bool {
			now, _ := counts()
			return grew(now, hints)
		})
		inForce(trust.Version{Epoch: 1, Number: 2})
	}
	eventually(t, within(5*time.Second), "what is stored is refused as well, when it is read", func() bool {
		_, now := counts()
		return grew(now, stored)
	})
	if log := w.log.String(); !strings.Contains(log, "a stored entry is not believed") || !strings.Contains(log, key.String()) {
		t.Error("the log does not say so")
	}
	if d := lifetime("sgp"); d > 5*time.Minute+time.Second {
		t.Errorf("after the bad ones sgp gives %v", d)
	}

	// A good one takes the place of a bad one; nobody goes back to an older one.
	if _, err := decider.PutDocument(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	inForce(trust.Version{Epoch: 1, Number: 3})
	if err := force(t, store, key, second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // that nothing happens has no event to wait for
	inForce(trust.Version{Epoch: 1, Number: 3})

	// What a stolen signing key can do, and the way out.
	last := document(signer, number(math.MaxUint32))
	if err := force(t, store, key, last); err != nil {
		t.Fatal(err)
	}
	inForce(trust.Version{Epoch: 1, Number: math.MaxUint32})
	root, err := keystore.Load(filepath.Join(w.Dir, "operator", "operator.nk"), keystore.Operator)
	if err != nil {
		t.Fatal(err)
	}
	proof := must(trust.SignEpoch(root, 2, region("ams"), time.Now()))
	newEpoch := document(w.signer("ams"), func(p *trust.Platform, _ *policy.Policy) {
		p.Version, p.EpochProof = trust.Version{Epoch: 2, Number: 1}, proof
	})
	if _, err := decider.PutDocument(t.Context(), newEpoch); err != nil {
		t.Fatal(err)
	}
	t.Logf("a new epoch is in force everywhere after %v", inForce(trust.Version{Epoch: 2, Number: 1}))

	// Clients learn of it, and do not go back either.
	r, _ := w.Public.Document.Region(region("sfo"))
	nc, err := w.Public.DialGuest(t.Context(), r.URLs)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	newer, err := w.Public.Refresh(t.Context(), nc)
	if err != nil || newer.Document.Version != (trust.Version{Epoch: 2, Number: 1}) {
		t.Errorf("a client has version %s: %v", newer.Document.Version, err)
	}
	e, err := w.opener().Open(key.String(), last)
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := e.Body.(*ledger.Document); d != nil {
		if _, err := newer.Update(d.PublicToken); !errors.Is(err, client.ErrOlder) {
			t.Errorf("a client goes back: %v", err)
		}
	}
}

// force writes an entry whatever it is, and whatever is there.
func force(t *testing.T, s ledger.DecisionStore, key ledger.Key, token string) error {
	t.Helper()
	for {
		_, revision, err := s.Get(t.Context(), key)
		if err == nil || errors.Is(err, ledger.ErrNotFound) {
			err = s.Put(t.Context(), key, token, revision)
		}
		if !errors.Is(err, ledger.ErrConflict) {
			return err
		}
	}
}
