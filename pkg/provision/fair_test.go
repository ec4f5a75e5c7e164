package provision_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestDueRenewals: whoever is renewed when it is due is renewed, however much others of the
// same address ask; and somebody who asks all the time spends little of what those have.
func TestDueRenewals(t *testing.T) {
	b, _ := newBench(t)
	b.svc.Use(b.document(2, func(_ *trust.Platform, p *policy.Policy) { p.PerHost = &policy.Rate{Burst: 100, PerMinute: 1} }))
	issue := func(name string) string {
		t.Helper()
		a, werr := b.issue(newUser(t), func(r *wire.Request) { r.Name = must(ident.ParseName(name)) })
		if werr != nil {
			t.Fatal(werr)
		}
		return a.JWT
	}
	mallory, alice := issue("mallory"), issue("alice")
	refused := 0
	for range 1000 {
		if _, werr := b.renew(mallory); werr != nil {
			if refused++; werr.Code != wire.RateLimited || werr.RetryAfterMS <= 0 {
				t.Fatal(werr)
			}
		}
	}
	if refused != 970 {
		t.Errorf("of 1000 at once %d were refused", refused)
	}
	if _, werr := b.renew(alice); werr != nil {
		t.Errorf("another of the same address: %v", werr)
	}
	// Several of them take all that the address has; who is not due waits with them.
	for i := range 5 {
		flood := issue(fmt.Sprintf("flood-%d", i))
		for range 30 {
			_, _ = b.renew(flood)
		}
	}
	if _, werr := b.renew(alice); werr == nil || werr.Code != wire.RateLimited {
		t.Errorf("before it is due: %v", werr)
	}
	b.now = b.now.Add(40 * time.Minute) // of an hour
	for i := range 3 {
		_, werr := b.renew(alice)
		if i < 2 && werr != nil {
			t.Errorf("due: %v", werr)
		}
		if i == 2 && werr != nil && werr.Code != wire.RateLimited {
			t.Errorf("due, and again at once: %v", werr)
		}
	}
}

// TestNobodyIsHeldUpByAnother: what a server says of a user may be what the client said of
// itself. Whoever says that it is somebody else takes nothing of theirs, and gets no more than
// others, whatever it says.
func TestNobodyIsHeldUpByAnother(t *testing.T) {
	b, _ := newBench(t)
	issue := func(name string) string {
		t.Helper()
		a, werr := b.issue(newUser(t), func(r *wire.Request) { r.Name = must(ident.ParseName(name)) })
		if werr != nil {
			t.Fatal(werr)
		}
		return a.JWT
	}
	alice, mallory := issue("alice"), issue("mallory")
	alices := must(jwt.DecodeUserClaims(alice)).Subject
	for _, user := range []string{alices, strings.Repeat("U", 65), "a&b", `"`, ""} {
		var word map[string]any
		if err := json.Unmarshal([]byte(info(t, mallory)[0]), &word); err != nil {
			t.Fatal(err)
		}
		word["user"] = user
		header := []string{string(must(json.Marshal(word)))}
		done := 0
		for range 3000 {
			resp := b.door("renew", endpoint.Request{ID: "r", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: header}})
			if !resp.Silent && (resp.Err == nil || resp.Err.Code != wire.RateLimited) {
				done++
			}
		}
		if done > 30 {
			t.Errorf("as %q: %d of 3000 were looked at", user, done)
		}
	}
	for i, header := range [][]string{nil, {"{}", "{}"}, {`{"user":"U"}`}, {"x"}} {
		done := 0
		for range 3000 {
			if resp := b.door("renew", endpoint.Request{ID: "r", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: header}}); !resp.Silent && resp.Err.Code != wire.RateLimited {
				done++
			}
		}
		if done > 30 {
			t.Errorf("without a credential, %d: %d of 3000 were looked at", i, done)
		}
	}
	if _, werr := b.renew(alice); werr != nil {
		t.Errorf("who has nothing to do with it: %v", werr)
	}
}

// TestToldOftenEnough: who asks too much is told so, and when to come back, and not a hundred
// thousand times a second: to tell takes longer than to pass over.
func TestToldOftenEnough(t *testing.T) {
	b, _ := newBench(t)
	a, werr := b.issue(newUser(t), nil)
	if werr != nil {
		t.Fatal(werr)
	}
	ask := func(n int) (answered, told, silent int) {
		for range n {
			resp := b.door("renew", endpoint.Request{ID: "r", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: info(t, a.JWT)}})
			switch {
			case resp.Silent:
				silent++
			case resp.Err != nil && resp.Err.Code == wire.RateLimited && resp.Err.RetryAfterMS > 0 && len(resp.Body) > 0:
				told++
			default:
				answered++
			}
		}
		return answered, told, silent
	}
	if answered, told, silent := ask(5000); answered != 30 || told != 2000 || silent != 2970 {
		t.Errorf("%d answered, %d told, %d silent", answered, told, silent)
	}
	b.now = b.now.Add(time.Second)
	if answered, told, silent := ask(1000); answered != 1 || told != 500 || silent != 499 {
		t.Errorf("a second later: %d answered, %d told, %d silent", answered, told, silent)
	}
}

// TestSessionBoundsTheFirst: so that a proof is needed again after a session, no credential
// lives longer, whatever is asked for and granted.
func TestSessionBoundsTheFirst(t *testing.T) {
	b, _ := newBench(t)
	b.svc.Use(b.document(2, func(_ *trust.Platform, p *policy.Policy) { p.Session = policy.Seconds(5 * time.Minute) }))
	for i, ttl := range []time.Duration{0, 11 * time.Hour, time.Minute} {
		a, werr := b.issue(newUser(t), func(r *wire.Request) { r.Name, r.TTL = must(ident.ParseName(fmt.Sprintf("n%d", i))), ttl })
		if werr != nil {
			t.Fatal(werr)
		}
		want := 5 * time.Minute
		if ttl == time.Minute {
			want = ttl
		}
		if life := time.Unix(a.Expires, 0).Sub(b.now); life > want || life < want-2*time.Second {
			t.Errorf("of %s it lives for %s", ttl, life)
		}
	}
}

// TestTold: who is told that a name is somebody else's is told what they can do.
func TestTold(t *testing.T) {
	name := must(ident.ParseName("alice"))
	for _, err := range []error{ledger.ErrTaken, ledger.ErrResting} {
		for chosen, hint := range map[bool]string{true: "choose another name", false: "ask the platform's operator"} {
			werr, ok := ledger.Told(name, chosen, err).(*wire.Error) //nolint:errorlint // it is one, and wraps none
			if !ok || werr.Code != wire.NameTaken || !strings.Contains(werr.Message, "alice") || !strings.HasPrefix(werr.Hint, hint) {
				t.Errorf("%v, chosen %t: %+v", err, chosen, werr)
			}
		}
	}
	if err := ledger.Told(name, true, ledger.ErrUnavailable); err != ledger.ErrUnavailable { //nolint:errorlint // as it was
		t.Error(err)
	}
}

// TestDisbelieved: who is not believed is refused and counted, at every door.
func TestDisbelieved(t *testing.T) {
	b, _ := newBench(t)
	a, werr := b.issue(newUser(t), nil)
	if werr != nil {
		t.Fatal(werr)
	}
	if n := b.svc.Disbelieved(); n != 0 {
		t.Errorf("%d before", n)
	}
	forged := info(t, a.JWT)
	for i, door := range []endpoint.Handler{b.svc.Info, b.svc.Renew, b.svc.Issue} {
		resp := door(t.Context(), endpoint.Request{ID: "r", Reply: "_R_.x", Header: map[string][]string{wire.HeaderInfo: append(forged, forged...)}})
		if resp.Err == nil || resp.Err.Code != wire.BadIdentity || b.svc.Disbelieved() != uint64(i+1) {
			t.Errorf("door %d: %v, %d counted", i, resp.Err, b.svc.Disbelieved())
		}
	}
}
