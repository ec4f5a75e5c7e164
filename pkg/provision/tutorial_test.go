package provision_test

import (
	"strings"
	"testing"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestTutorial: a name comes in and a creds file goes out, by the same policy, names,
// suspensions, limits and records as at auth.v1.issue; and nothing while the door is closed.
func TestTutorial(t *testing.T) {
	b, _ := newBench(t)
	ask := func(name string) endpoint.Response {
		t.Helper()
		e := b.svc.TutorialEndpoints()[0]
		r := endpoint.Request{ID: "t1", Reply: "_R_.x", Body: []byte(name), Header: map[string][]string{
			wire.HeaderInfo: info(t, b.guest.Token),
			// What is no part of that protocol is not read.
			wire.HeaderProof: {"v1 AAAA"}, wire.HeaderSealed: {"X"}, wire.HeaderIdentity: {"v1 AAAA"},
		}}
		if refusal, ok := e.Admit(r); !ok {
			return refusal
		}
		return e.Handler(t.Context(), r)
	}
	refused := func(what string, resp endpoint.Response, code wire.Code) {
		t.Helper()
		if resp.Err == nil || resp.Err.Code != code || resp.SealedBy != "" {
			t.Errorf("%s: %v", what, resp.Err)
		}
		if s := string(resp.Body); resp.Err != nil && (!strings.HasPrefix(s, "-ERR '") || !strings.HasSuffix(s, "'") || strings.Count(s, "'") != 2) {
			t.Errorf("%s: %s", what, s)
		}
	}
	refused("while it is closed", ask("alice"), wire.NoGrant)
	if n := len(b.svc.Measured().Queues); n != 3 {
		t.Errorf("%d doors are measured", n)
	}

	open := func(p *trust.Platform, _ *policy.Policy) { p.TutorialDoor = true }
	b.svc.Use(b.document(2, open))
	resp := ask(" alice\n")
	if resp.Err != nil {
		t.Fatal(resp.Err)
	}
	creds, err := natsconn.ParseCreds(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	u, err := b.p.Document.VerifyUser(creds.Token, b.now)
	if err != nil {
		t.Fatal(err)
	}
	if u.Key.String() != creds.Key.Public() || u.Name.String() != "alice" || u.Identity != ident.OpenIdentity(u.Key) ||
		u.Account != label(platform.ChatIn) || u.Role != label(platform.RoleMember) {
		t.Errorf("%+v", u)
	}
	if len(b.records.all) != 1 || b.records.all[0].User != u.Key || b.records.all[0].Request != "t1" {
		t.Errorf("%+v", b.records.all)
	}
	if seed := string(must(creds.Key.Seed())); strings.Contains(b.log.String(), seed[2:30]) {
		t.Error("the log has the seed")
	}
	if _, werr := b.renew(creds.Token); werr != nil {
		t.Errorf("it is not renewed: %v", werr)
	}
	if n := counted(b.svc.Measured())[[3]string{"tutorial", "open", "ok"}]; n != 1 {
		t.Errorf("%d are counted", n)
	}

	refused("another's name", ask("alice"), wire.NameTaken)
	refused("no name", ask(""), wire.BadName)
	refused("a name with a quote", ask("o'hara"), wire.BadName)
	refused("a pattern", ask("*"), wire.BadName)
	refused("too much", ask(strings.Repeat("a", 65)), wire.TooLarge)
	refused("a request of ours", ask(`{"user_key":"U"}`), wire.BadName)
	b.svc.Use(b.document(3, func(p *trust.Platform, pol *policy.Policy) { open(p, pol); nobodyMay(p, pol) }))
	refused("what policy does not offer", ask("bob"), wire.NoGrant)
	b.svc.Use(b.document(4, nil))
	refused("closed again", ask("bob"), wire.NoGrant)
	if len(b.records.all) != 2 { // and the renewal
		t.Errorf("%d records", len(b.records.all))
	}

	// Nobody but guests, and nobody whose answer a server would not lead back.
	b.svc.Use(b.document(5, open))
	e := b.svc.TutorialEndpoints()[0]
	member := endpoint.Request{ID: "t2", Reply: "_R_.x", Body: []byte("carol"), Header: map[string][]string{wire.HeaderInfo: info(t, creds.Token)}}
	refused("a member", e.Handler(t.Context(), member), wire.BadIdentity)
	aimed := endpoint.Request{ID: "t3", Reply: "$KV.names.x", Body: []byte("carol"), Header: map[string][]string{wire.HeaderInfo: info(t, b.guest.Token)}}
	refused("a reply that no server made", e.Handler(t.Context(), aimed), wire.BadIdentity)
}
