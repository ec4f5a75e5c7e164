package identitytest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// signing is the operator signing key of whoever sets the platform up.
func signing() *keystore.Key {
	return must(keystore.Load(filepath.Join(shared.Dir, "operator", "signing", "nscsetup.nk"), keystore.Operator))
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !f() {
		if wait.For(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("%s: it does not come to that", what)
		}
	}
}

// TestDocumentAttacks: a platform document that this operator did not sign, or that holds no
// more, is not obeyed, though it lies where every service reads; the old one goes on, and
// each service says why.
func TestDocumentAttacks(t *testing.T) {
	home, _ := minted(t, opened(), platform.Ledger, platform.RoleHome).inside(t, first())
	store := must(jetstream.NewDecisions(home))
	key := ledger.PlatformKey()
	good, _, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	put := func(token string) {
		t.Helper()
		for {
			_, revision, err := store.Get(t.Context(), key)
			if err == nil {
				err = store.Put(t.Context(), key, token, revision)
			}
			if err == nil {
				return
			}
			if !errors.Is(err, ledger.ErrConflict) {
				t.Fatal(err)
			}
		}
	}
	defer put(good)

	var issuers []*service.Running
	for _, r := range shared.Up.Services {
		if r.Service == service.Issuer {
			issuers = append(issuers, r)
		}
	}
	was, _ := issuers[0].Known().Document()
	// other is another document than the one in force: whoever obeyed it would give nothing in
	// ORDERS any more.
	other := func(k *keystore.Key, change func(*trust.Version)) string {
		public, d := *was.Public, *was
		change(&public.Version)
		d.Public = &public
		d.Policy.Offers = slices.DeleteFunc(slices.Clone(was.Policy.Offers), func(o policy.Offer) bool { return o.Account == label("ORDERS") })
		return must(d.Sign(ledger.KeySigner{Key: k}, time.Now()))
	}
	newer := func(v *trust.Version) { v.Number++ }
	older := other(signing(), func(v *trust.Version) { v.Number-- })
	stranger := must(keystore.Generate(keystore.Operator))
	root := must(keystore.Load(filepath.Join(shared.Dir, "operator", "operator.nk"), keystore.Operator))
	// around is one whose public part is signed as it should be, and the policy around it by k.
	around := func(k *keystore.Key) string {
		return must(must(shared.Public.Operator.OpenEntry(other(signing(), newer))).Sign(k))
	}
	id := accessKey(t, "--grant", "ORDERS/service", "--name", shared.Name("documents").String())
	granted := func(until wire.Code) {
		t.Helper()
		for _, r := range issuers {
			nc := guest(t, r.Region)
			if _, err := issue(t, nc, newKey(t), client.Wish{Identity: id}, until); err != nil {
				t.Errorf("what the document in force grants, in %s: %v", r.Region, err)
			}
			if p, err := shared.Public.Refresh(t.Context(), nc); err != nil || p.Token() != was.PublicToken {
				t.Errorf("%s shows another document: %v", r.Region, err)
			}
		}
	}
	granted(wire.BadIdentity)

	// Who writes as the tools do is told that something newer is there.
	decider := &ledger.Decider{Store: store, Opener: ledger.Opener{Operator: opened().Operator, Now: time.Now, Check: platform.CheckDocument}}
	if _, err := decider.PutDocument(t.Context(), older); !errors.Is(err, ledger.ErrOld) {
		t.Errorf("an older one: %v", err)
	}
	// Whoever may write to the bucket does not ask. One that is older is passed over like all
	// that is known already: what comes behind it tells when.
	known := make([]uint64, len(issuers))
	for i, r := range issuers {
		known[i] = r.Follower().Stats().Known
	}
	put(older)
	for what, c := range map[string]struct{ token, why string }{
		"that nobody signed":             {unsigned(other(signing(), newer)), "no JWT of version 2"},
		"that a stranger signed":         {around(stranger), `signed by \"` + stranger.Public()},
		"that the operator's key signed": {around(root), `signed by \"` + root.Public()},
		"that was altered":               {altered(other(signing(), newer), `"iat":1`, `"iat":2`), "a signature that is not by " + signing().Public()},
		"of an epoch that nobody began":  {other(signing(), func(v *trust.Version) { v.Epoch++ }), "with the operator's word for"},
	} {
		said := func(r *service.Running) int {
			return strings.Count(log.matching("not believed", key.String(), `"service":"issuer","region":"`+r.Region.String()+`"`, c.why), "\n")
		}
		before := make([]int, len(issuers))
		for i, r := range issuers {
			before[i] = said(r)
		}
		put(c.token)
		for i, r := range issuers {
			eventually(t, "the log to say of a document "+what+" why "+r.Region.String()+" does not obey it", func() bool { return said(r) > before[i] })
			if d, _ := r.Known().Document(); d.PublicToken != was.PublicToken {
				t.Errorf("a document %s is in force in %s", what, r.Region)
			}
		}
	}
	for i, r := range issuers {
		if r.Follower().Stats().Known == known[i] {
			t.Errorf("the older document did not come to %s: nothing is shown", r.Region)
		}
	}
	granted("")
}

// TestInfoImpostor: whoever stole an issuer's credential can answer auth.v1.info. A client
// believes no document of theirs, says why, and keeps what it knows until the true one comes.
func TestInfoImpostor(t *testing.T) {
	was := shared.Public
	// other is the document in another version.
	other := func(k *keystore.Key, change func(*trust.Version)) string {
		d := *was.Document
		change(&d.Version)
		return must(d.Sign(k, time.Now()))
	}
	newer := func(v *trust.Version) { v.Number++ }
	stranger := must(keystore.Generate(keystore.Operator))
	thief, _ := minted(t, opened(), platform.Auth, platform.RoleIssuer).inside(t, first())
	gc := firstGuest(t)
	for what, c := range map[string]struct {
		token string
		want  error
		why   string
	}{
		"of another platform":           {must(another(t).Document.Sign(stranger, time.Now())), trust.ErrUntrusted, stranger.Public()},
		"that a stranger signed":        {other(stranger, newer), trust.ErrUntrusted, stranger.Public()},
		"that nobody signed":            {unsigned(other(signing(), newer)), nil, "no JWT of version 2"},
		"that was altered":              {altered(other(signing(), newer), `"name":"test"`, `"name":"evil"`), nil, "signature"},
		"of an epoch that nobody began": {other(signing(), func(v *trust.Version) { v.Epoch++ }), trust.ErrUntrusted, "epoch 2"},
		"that is older":                 {other(signing(), func(v *trust.Version) { v.Number-- }), client.ErrOlder, was.Document.Version.String() + " is known"},
	} {
		answered := make(chan struct{}, 100)
		sub := must(thief.QueueSubscribe(subject.Info, "issuer", func(m *nats.Msg) {
			answered <- struct{}{}
			info := wire.Info{Platform: c.token, Time: time.Now().UnixMilli(), Region: region("ams"), Issuer: "U"}
			if err := thief.Publish(m.Reply, must(json.Marshal(info))); err != nil {
				t.Error(err)
			}
		}))
		must(0, thief.Flush())
		// The server chooses one of the issuers each time, until it is this one.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for refused := false; !refused; {
			p, err := was.Refresh(ctx, gc)
			select {
			case <-answered:
				refused = !errors.Is(err, context.DeadlineExceeded) // else its answer came too late
				if !refused && ctx.Err() == nil {
					continue
				}
				if p != nil || err == nil || (c.want != nil && !errors.Is(err, c.want)) || !strings.Contains(err.Error(), c.why) {
					t.Errorf("a document %s: %v", what, err)
				}
			default:
				if p != was && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
					t.Fatalf("the issuers' own answer, beside a document %s: %v", what, err)
				}
			}
		}
		cancel()
		must(0, sub.Unsubscribe())
		must(0, thief.Flush())
		eventually(t, "the issuers' own answer, after a document "+what, func() bool {
			p, _ := was.Refresh(t.Context(), gc)
			return p == was
		})
	}
}

// firstGuest is a connection of the guest to the first server.
func firstGuest(t *testing.T) *nats.Conn {
	t.Helper()
	creds := must(natsconn.ParseCreds(must(os.ReadFile(filepath.Join(opened().Dir.Public(), platform.GuestFile)))))
	nc, _ := user{token: creds.Token, key: creds.Key}.enter(t)
	return nc
}
