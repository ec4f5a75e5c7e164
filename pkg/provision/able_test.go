package provision_test

import (
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/trust"
)

// TestUnable: what keeps an issuer from taking requests, of whom, and what does not.
func TestUnable(t *testing.T) {
	b, _ := newBench(t)
	viewer := must(keystore.Generate(keystore.Account))
	key := must(ident.ParseAccountKey(viewer.Public()))
	// chat changes the roles of the chat's account.
	chat := func(p *trust.Platform, change func(*trust.Account)) {
		for i := range p.Accounts {
			if p.Accounts[i].Name == label(platform.ChatIn) {
				change(&p.Accounts[i])
			}
		}
	}
	replaced := func(p *trust.Platform, _ *policy.Policy) {
		chat(p, func(a *trust.Account) { a.Roles[0].Key = key })
	}
	for name, c := range map[string]struct {
		change           func(*trust.Platform, *policy.Policy)
		members, guests  string // what the reason says
		offered, lacking int
	}{
		"as it should be":                   {nil, "", "", 1, 0},
		"the only role has another key now": {replaced, "key of no role", "key of no role", 0, 1},
		"one of two roles is without its key": {func(p *trust.Platform, pol *policy.Policy) {
			chat(p, func(a *trust.Account) { a.Roles = append(a.Roles, trust.Role{Name: label("viewer"), Key: key}) })
			offer := pol.Offers[0]
			offer.Role = label("viewer")
			pol.Offers = append(pol.Offers, offer)
		}, "", "", 1, 1},
		"another region key": {func(p *trust.Platform, _ *policy.Policy) {
			p.Regions[0].SealKey = must(ident.ParseSealKey(must(keystore.Generate(keystore.Curve)).Public()))
		}, "", "another region key", 1, 0},
		"no such region any more": {func(p *trust.Platform, _ *policy.Policy) {
			p.Regions[0].Name = must(ident.ParseRegion("fra"))
			p.Home = p.Regions[0].Name
			p.EpochProof = must(trust.SignEpoch(must(b.p.OperatorKey("")), 1, p.Home, b.now))
		}, "no such region", "no such region", 0, 0},
	} {
		b.svc = provision.New(b.config)
		if members, guests := b.svc.Held().Unable(); members == "" || guests == "" {
			t.Errorf("%s: able without any document", name)
		}
		b.svc.Use(b.document(2, c.change))
		h := b.svc.Held()
		members, guests := h.Unable()
		if (members == "") != (c.members == "") || (guests == "") != (c.guests == "") || !strings.Contains(members, c.members) || !strings.Contains(guests, c.guests) {
			t.Errorf("%s: members %q, guests %q", name, members, guests)
		}
		if h.Offered != c.offered || len(h.Lacking) != c.lacking || h.RoleKeys != 1 {
			t.Errorf("%s: %+v", name, h)
		}
	}

	// A key that is brought later is found without another document, and none is asked for
	// when nothing is lacking.
	looked := 0
	var more provision.Keys
	b.config.MoreKeys = func() (provision.Keys, error) { looked++; return more, nil }
	b.svc = provision.New(b.config)
	b.svc.LookAgain()
	b.svc.Use(b.document(2, nil))
	b.svc.LookAgain()
	if looked != 0 {
		t.Errorf("it looked %d times for nothing", looked)
	}
	b.svc.Use(b.document(3, replaced))
	b.svc.LookAgain()
	if members, _ := b.svc.Held().Unable(); members == "" {
		t.Error("able without the key")
	}
	more = b.config.Keys.Clone()
	more.Roles[key] = viewer
	b.svc.LookAgain()
	if members, guests := b.svc.Held().Unable(); members != "" || guests != "" {
		t.Errorf("with the key: %q, %q", members, guests)
	}
	if _, werr := b.issue(newUser(t), nil); werr != nil {
		t.Errorf("with the key: %v", werr)
	}
	// A key that is taken out of the folder is not used any more.
	more = provision.Keys{}
	b.svc.UseKeys(more)
	if members, _ := b.svc.Held().Unable(); members == "" {
		t.Error("able without any key")
	}
}
