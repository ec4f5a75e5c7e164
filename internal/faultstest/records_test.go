package faultstest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
)

// What was issued in one region is known in all: which users an identity holds, and
// that its name is in use, also what was issued while the region was cut off.
func TestWhatWasIssuedIsKnown(t *testing.T) {
	w := newWorld(t, false)
	alice := newUser(t)
	name := w.Name("alice")
	// A name that would lapse in two days: its holder has not come for four weeks.
	rules := ledger.DefaultNameRules()
	rules.Lapse = 48 * time.Hour
	d := &ledger.Decider{
		Store: must(jetstream.NewDecisions(w.dial(platform.Ledger, platform.RoleHome, "ams"))), Opener: w.opener(), Signer: w.signer("ams"), Rules: rules,
	}
	if _, err := d.Claim(t.Context(), ledger.Claim{Name: name, Identity: openIdentity(alice), Expires: time.Now()}, time.Now()); err != nil {
		t.Fatal(err)
	}
	w.equal(within(10 * time.Second))

	issue := func(in string) int64 {
		t.Helper()
		r, _ := w.Public.Document.Region(region(in))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := w.Public.Obtain(ctx, r.URLs, alice, client.Wish{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return c.User.Expires.Unix()
	}
	// known waits until every registrar knows of a credential that ends then.
	known := func(what string, expires int64, who ...string) {
		t.Helper()
		took := eventually(t, within(10*time.Second), what, func() bool {
			for _, r := range who {
				held := w.service("registrar/"+r).Holdings().Of(openIdentity(alice), time.Now())
				if !slices.ContainsFunc(held, func(h ledger.Held) bool { return h.User.String() == alice.Public() && h.Expires >= expires }) {
					return false
				}
			}
			return true
		})
		t.Logf("%s after %v", what, took)
	}
	known("what sfo issued is known everywhere", issue("sfo"), regions()...)
	took := eventually(t, within(10*time.Second), "the name is kept for longer, and sgp knows it", func() bool {
		n, _, _ := w.service("issuer/sgp").Known().Name(name)
		return time.Until(time.Unix(n.Until, 0)) > 29*24*time.Hour
	})
	t.Logf("its name is kept after %v", took)

	w.cut("sgp")
	time.Sleep(1100 * time.Millisecond) // a credential that ends a second later is another one
	expires := issue("sgp")
	known("what sgp issues, in sgp itself", expires, "sgp")
	w.heal("sgp")
	known("what sgp issued while it was cut off is known everywhere", expires, regions()...)

	// A registrar that starts anew knows it from the streams, also under a policy by which
	// no credential could live that long.
	public, pol := *w.Up.Platform.Full.Public, w.Up.Platform.Full.Policy
	public.Version.Number = 2
	pol.Offers = slices.Clone(pol.Offers)
	pol.Offers[0].Default, pol.Offers[0].Longest = policy.Seconds(time.Minute), policy.Seconds(time.Minute)
	if _, err := d.PutDocument(t.Context(), must(ledger.SignDocument(w.signer("ams"), &public, pol, ledger.DefaultNameRules(), time.Now()))); err != nil {
		t.Fatal(err)
	}
	w.equal(within(10 * time.Second))
	w.stop("registrar/ams")
	w.start("registrar/ams")
	known("a registrar that starts anew knows it", expires, "ams")
	if n := w.service("registrar/ams").Holdings().Of(ident.OpenIdentity(must(ident.ParseUserKey(newUser(t).Public()))), time.Now()); len(n) != 0 {
		t.Errorf("somebody who was issued nothing holds %v", n)
	}
}

// A registrar that starts anew stores nothing again that its region has, whoever wrote
// it: neither under its own name nor as news.
func TestRestartStoresNothingAgain(t *testing.T) {
	w := newWorld(t, false)
	for range 50 {
		w.suspend(w.service("registrar/sfo").Denials(), newUser(t), true)
	}
	w.equal(within(20 * time.Second))
	read := w.dial(platform.Readers, platform.RoleReader, "ams")
	stored := func() (n int) {
		t.Helper()
		all, err := jetstream.DenialsSource(read, region("ams")).Read(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	eventually(t, within(60*time.Second), "ams has what sfo wrote", func() bool { return stored() >= 50 })
	before := stored()
	w.stop("registrar/ams")
	w.start("registrar/ams")
	eventually(t, within(20*time.Second), "all of it was looked for", func() bool { return w.service("registrar/ams").Denials().Unstored() == 0 })
	if after := stored(); after != before {
		t.Errorf("%d entries before the start, %d after it", before, after)
	}
}
