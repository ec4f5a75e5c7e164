package faultstest

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// An issuer that cannot answer leaves its region's requests to others, and takes them again
// when it can; a renewal, which it could answer all the time, is answered by it all the time.
func TestUnableIssuerDoesNotSubscribe(t *testing.T) {
	w := newWorld(t, false)
	store := must(jetstream.NewDecisions(w.dial(platform.Ledger, platform.RoleHome, "ams")))
	decider := &ledger.Decider{Store: store, Opener: w.opener()}
	number := w.Up.Platform.Full.Public.Version.Number
	// put brings a document into force.
	put := func(change func(*trust.Platform)) {
		t.Helper()
		number++
		p := *w.Up.Platform.Full.Public
		p.Regions, p.Accounts, p.Version.Number = slices.Clone(p.Regions), slices.Clone(p.Accounts), number
		change(&p)
		token := must(ledger.SignDocument(w.signer("ams"), &p, policy.Policy{Offers: w.Up.Platform.Full.Policy.Offers}, ledger.DefaultNameRules(), time.Now()))
		if _, err := decider.PutDocument(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	const issuer = service.Issuer + "/ams"
	status := func() service.Status { return w.service(issuer).Status() }
	// unready waits until the issuer says that it is not ready, and why.
	unready := func(why string) {
		t.Helper()
		eventually(t, within(5*time.Second), "the issuer says "+why, func() bool {
			return strings.Contains(strings.Join(status().Why, "\n"), why)
		})
		if s := status(); s.Ready || s.Closed {
			t.Errorf("%+v", s)
		}
	}
	ready := func() {
		t.Helper()
		eventually(t, within(5*time.Second), "the issuer is ready", func() bool { return status().Ready })
	}
	guests := map[string]*nats.Conn{}
	for _, at := range regions() {
		r, _ := w.Public.Document.Region(region(at))
		guests[at] = must(w.Public.DialGuest(t.Context(), r.URLs))
		defer guests[at].Close()
	}
	// answers is the region whose issuer answers guests of a region; "" is none.
	answers := func(at string) string {
		t.Helper()
		m, err := guests[at].Request(subject.Info, nil, 2*time.Second)
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		return must(wire.DecodeInfo(m.Data)).Region.String()
	}

	ready()
	alice := newUser(t)
	r, _ := w.Public.Document.Region(region("ams"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := w.Public.Obtain(ctx, r.URLs, alice, client.Wish{Name: w.Name("alice")})
	if err != nil {
		t.Fatal(err)
	}
	member, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: r.URLs, Name: "member", Credential: natsconn.Static{Token: c.JWT, Key: alice}, InboxPrefix: subject.UserInboxPrefix(c.User.Key),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	renewed := func() string {
		t.Helper()
		m, err := member.Request(subject.Renew, []byte("{}"), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		a, err := wire.DecodeAnswer(m.Data)
		if err != nil {
			t.Fatalf("%s: %v", m.Data, err)
		}
		return a.Region.String()
	}
	if at := answers("ams"); at != "ams" {
		t.Errorf("guests of ams are answered by %s", at)
	}

	// Another region key: what guests seal to it this issuer cannot open.
	other := must(ident.ParseSealKey(must(keystore.Generate(keystore.Curve)).Public()))
	put(func(p *trust.Platform) {
		i := slices.IndexFunc(p.Regions, func(r trust.Region) bool { return r.Name == region("ams") })
		p.Regions[i].SealKey = other
	})
	unready("another region key")
	eventually(t, within(5*time.Second), "guests of ams are answered elsewhere", func() bool { return !slices.Contains([]string{"ams", ""}, answers("ams")) })
	if at := renewed(); at != "ams" {
		t.Errorf("a renewal in ams was answered by %s", at)
	}
	if _, err := w.Public.Obtain(ctx, r.URLs, newUser(t), client.Wish{Name: w.Name("bob")}); err != nil {
		t.Errorf("somebody new in ams: %v", err)
	}
	put(func(*trust.Platform) {})
	ready()
	eventually(t, within(5*time.Second), "guests of ams are answered there again", func() bool { return answers("ams") == "ams" })

	// The only role on offer has another key, which nobody holds; then one issuer is brought it.
	chat := must(keystore.Generate(keystore.Account))
	put(func(p *trust.Platform) {
		i := slices.IndexFunc(p.Accounts, func(a trust.Account) bool { return a.Name.String() == platform.ChatIn })
		p.Accounts[i].Roles = slices.Clone(p.Accounts[i].Roles)
		for j := range p.Accounts[i].Roles {
			p.Accounts[i].Roles[j].Key = must(ident.ParseAccountKey(chat.Public()))
		}
	})
	unready("the key of no role")
	eventually(t, within(5*time.Second), "nobody answers", func() bool { return answers("sgp") == "" })
	seed := must(chat.Seed())
	if err := os.WriteFile(filepath.Join(w.folder(issuer), "roles", "CHAT.member.nk"), append(seed, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	ready()
	if at := answers("sgp"); at != "ams" {
		t.Errorf("guests of sgp are answered by %q", at)
	}
}

// A service whose servers are away is not ready, and is again when they are back.
func TestUnconnectedIsNotReady(t *testing.T) {
	w := newWorld(t, false)
	if err := w.Up.Cluster.StopRegion(t.Context(), region("sgp")); err != nil {
		t.Fatal(err)
	}
	of := map[string]*service.Running{service.Issuer: w.service("issuer/sgp"), service.Registrar: w.service("registrar/sgp")}
	for _, kind := range slices.Sorted(maps.Keys(of)) {
		eventually(t, within(10*time.Second), "the "+kind+" of a region without servers is not ready", func() bool {
			s := of[kind].Status()
			return !s.Ready && !s.Closed && strings.Contains(strings.Join(s.Why, "\n"), "connection "+kind+"-sgp-")
		})
	}
	if s := w.service("issuer/ams").Status(); !s.Ready {
		t.Errorf("because another region is away: %v", s.Why)
	}
	if err := w.Up.Cluster.StartRegion(t.Context(), region("sgp")); err != nil {
		t.Fatal(err)
	}
	for _, kind := range slices.Sorted(maps.Keys(of)) {
		eventually(t, within(40*time.Second), "the "+kind+" is ready again", func() bool { return of[kind].Status().Ready })
	}
	w.stop("issuer/sgp")
	if s := of[service.Issuer].Status(); s.Ready {
		t.Error("ready, and drained")
	}
}
