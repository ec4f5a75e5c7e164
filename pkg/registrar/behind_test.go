package registrar_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// lagging are the names of who is behind, and how many accounts each lacks.
func lagging(rep registrar.Report) map[string]int {
	all := map[string]int{}
	for _, b := range rep.Behind {
		all[b.Server] = b.Accounts
	}
	return all
}

// 1: a region that is down hears nothing, and hears nothing either when it is back, from
// its cluster. It is named; the others have what was pushed; and whoever looks again when
// it is back brings it there.
func TestRegionDown(t *testing.T) {
	w, ctx := servers(t)
	tenants := []tenant{w.tenant(), w.tenant(), w.tenant()}
	var before, after []string
	for _, a := range tenants {
		before = append(before, a.token(says{version: 1, base: "a"}))
		after = append(after, a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 1}, at: time.Now()}))
	}
	r := w.resolver(t, "ams", 0)
	converge(ctx, t, r, w.names(), before...)
	if err := w.cluster.StopRegion(ctx, region("sgp")); err != nil {
		t.Fatal(err)
	}
	rep := converge(ctx, t, r, w.names(), after...)
	got := lagging(rep)
	if len(got) != 3 || got["sgp-1"] != 3 || got["sgp-2"] != 3 || got["sgp-3"] != 3 || rep.Err() == nil || len(rep.Servers) != 6 {
		t.Errorf("behind are %v: %v", rep.Behind, rep.Err())
	}
	for i, s := range rep.Accounts {
		if s.InLine != 6 || s.Servers != 9 || !s.Pushed || s.Err != nil {
			t.Errorf("%+v", s)
		}
		w.all(ctx, t, "sfo", tenants[i], 6, w.content(t, after[i]))
	}
	if err := w.cluster.StartRegion(ctx, region("sgp")); err != nil {
		t.Fatal(err)
	}
	w.await(ctx, t, "ams", 9)
	if n := holding(w.held(ctx, t, "ams", tenants[0], 9), before[0]); n != 3 {
		t.Fatalf("%d servers hold the old one, so nothing is shown", n)
	}
	rep = converge(ctx, t, r, w.names(), after...)
	if rep.Err() != nil || rep.Pushed() != 3 {
		t.Errorf("%v, %d pushed", rep.Err(), rep.Pushed())
	}
	for i, a := range tenants {
		w.all(ctx, t, "sgp", a, 9, w.content(t, after[i]))
	}
}

// holding is how many of those that answered hold a token.
func holding(held []string, token string) int {
	n := 0
	for _, h := range held {
		if h == token {
			n++
		}
	}
	return n
}

// One server that is down is named, and the others are done.
func TestServerDown(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	if err := w.cluster.StopNode(ctx, "sfo-2"); err != nil {
		t.Fatal(err)
	}
	r := w.resolver(t, "sgp", 0)
	known := a.token(says{version: 1})
	rep := converge(ctx, t, r, w.names(), known)
	if got := lagging(rep); len(got) != 1 || got["sfo-2"] != 1 || rep.Accounts[0].InLine != 8 || rep.Accounts[0].Servers != 9 {
		t.Errorf("behind are %v, in line %d", rep.Behind, rep.Accounts[0].InLine)
	}
	// A look tells as much of who is away.
	if seen, err := r.Survey(ctx, []string{known}, w.names()); err != nil || lagging(seen)["sfo-2"] != 1 || seen.Accounts[0].InLine != 8 || seen.Err() == nil {
		t.Errorf("%v %v", seen, err)
	}
	if rep := converge(ctx, t, r, nil, known); rep.Err() != nil || len(rep.Servers) != 8 {
		t.Errorf("of those that answer: %v", rep.Err())
	}
	if err := w.cluster.StartNode(ctx, "sfo-2"); err != nil {
		t.Fatal(err)
	}
	w.await(ctx, t, "sgp", 9)
	rep = converge(ctx, t, r, w.names(), known)
	if rep.Err() != nil {
		t.Error(rep.Err())
	}
	w.all(ctx, t, "ams", a, 9, w.content(t, known))
}

// ghost is a tenth server that says that it is there, and of the rest what a test wants.
func (w *fleet) ghost(t *testing.T, nc *nats.Conn) *nats.Subscription {
	t.Helper()
	sub := must(nc.Subscribe(subject.ServerPing, func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"server":{"id":"GHOST","name":"ghost","cluster":"ams"},"statsz":{}}`))
	}))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// A server that is there and does not answer is waited for once, not for each account; it
// is named, and all others are done.
func TestSilentServer(t *testing.T) {
	w, ctx := servers(t)
	const n = 1600 // several times what may be under way at once
	var known []string
	for range n {
		known = append(known, w.tenant().token(says{version: 1}))
	}
	const patience = 4 * time.Second
	r := w.resolver(t, "ams", 0)
	r.SetPatience(patience)
	nc := w.dial(t, "ams", asAnybody)
	w.ghost(t, nc)
	var pings atomic.Int64
	must(nc.Subscribe(subject.ServerPing, func(*nats.Msg) { pings.Add(1) }))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	rep := converge(ctx, t, r, append(w.names(), "ghost"), known...)
	// One at the beginning, one when nobody answered for a moment, one when the looks and one
	// when the pushes were given up; and one for a machine that has other things to do.
	if n := pings.Load(); n > 5 {
		t.Errorf("it was waited for %d times", n-1)
	}
	if got := lagging(rep); len(got) != 1 || got["ghost"] != n || rep.Pushed() != n {
		t.Errorf("behind are %v, %d pushed", rep.Behind, rep.Pushed())
	}
	for _, s := range rep.Accounts {
		if s.InLine != 9 || s.Servers != 10 || s.Err != nil {
			t.Fatalf("%+v", s)
		}
	}
	// In a look nobody says who he is.
	seen, err := r.Survey(ctx, known, nil)
	if err != nil || seen.Err() == nil || seen.Accounts[0].InLine != 9 || len(seen.Behind) > 0 {
		t.Errorf("%v %v", err, seen.Behind)
	}
}

// One that dies in the midst of it is named too.
func TestServerDies(t *testing.T) {
	w, ctx := servers(t)
	known := []string{w.tenant().token(says{version: 1}), w.tenant().token(says{version: 1})}
	r := w.resolver(t, "ams", 0)
	r.SetPatience(3 * time.Second)
	nc := w.dial(t, "ams", asAnybody)
	ghost := w.ghost(t, nc)
	must(nc.Subscribe(subject.ClaimsLookupAny, func(*nats.Msg) { _ = ghost.Unsubscribe() }))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, look := range []func(context.Context, []string, []string) (registrar.Report, error){r.Survey, r.Converge} {
		rep, err := look(ctx, known, nil)
		if err != nil || lagging(rep)["ghost"] != 2 || len(rep.Behind) != 1 {
			t.Errorf("behind are %v: %v", rep.Behind, err)
		}
		ghost = w.ghost(t, nc)
	}
}

// A server that refuses is named with its reason, and not pushed at again and again.
func TestServerRefuses(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	nc := w.dial(t, "ams", asAnybody)
	w.ghost(t, nc)
	pushes := 0
	must(nc.Subscribe(subject.ClaimsUpdate, func(m *nats.Msg) {
		pushes++
		_ = m.Respond([]byte(`{"server":{"id":"GHOST","name":"ghost"},"error":{"account":"x","code":500,"description":"jwt store is full"}}`))
	}))
	must(nc.Subscribe(subject.ClaimsLookup(a.key), func(m *nats.Msg) { _ = m.Respond(nil) }))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	rep := converge(ctx, t, w.resolver(t, "ams", 0), nil, a.token(says{version: 1}))
	if len(rep.Behind) != 1 || rep.Behind[0].Server != "ghost" || !strings.Contains(rep.Behind[0].Why, "jwt store is full") || rep.Accounts[0].InLine != 9 {
		t.Errorf("%v, in line %d", rep.Behind, rep.Accounts[0].InLine)
	}
	if err := nc.Drain(); err != nil {
		t.Error(err)
	}
	for !nc.IsClosed() {
		time.Sleep(time.Millisecond)
	}
	if pushes != 1 {
		t.Errorf("pushed %d times", pushes)
	}
}

// Somebody who looked before our push and pushes after it overwrites it, and none of our
// answers tells. Settle looks again after that can have happened, and brings it back; it
// joins what it finds meanwhile, too.
func TestSettle(t *testing.T) {
	t.Parallel()
	w, ctx := servers(t)
	a := w.tenant()
	lesser := a.token(says{version: 1, base: "b", revoked: map[string]int64{"UB": 2}})
	known := a.token(says{version: 2, base: "a", revoked: map[string]int64{"UA": 1}})
	r := w.resolver(t, "ams", 0)
	rep := converge(ctx, t, r, w.names(), known)
	if !rep.Accounts[0].Pushed {
		t.Fatal("it was not pushed")
	}
	nc := w.dial(t, "ams", asAnybody)
	late := make(chan struct{}, 1)
	must(nc.Subscribe(subject.ClaimsUpdate, func(m *nats.Msg) {
		if got, err := w.op.OpenAccount(string(m.Data)); err != nil || got.Account != a.key {
			return
		}
		select {
		case late <- struct{}{}: // the first push is followed by another's, who knew nothing of it
			_ = nc.Publish(subject.ClaimsUpdate, []byte(lesser))
		default:
		}
	}))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	more := a.token(says{version: 2, base: "a", revoked: map[string]int64{"UC": 3}})
	rep, err := r.Settle(ctx, []string{known, more}, w.names())
	if err != nil || rep.Err() != nil {
		t.Fatalf("%v %v", err, rep.Err())
	}
	if s := rep.Accounts[0]; len(rep.Accounts) != 1 || !s.Pushed || !slices.ContainsFunc(s.Found, func(f registrar.Found) bool { return f.Version == 1 && f.Servers == 9 }) {
		t.Errorf("nobody overwrote it, so nothing is shown: %+v", s)
	}
	w.all(ctx, t, "sgp", a, 9, must(trust.Join(w.content(t, known), w.content(t, more), w.content(t, lesser))))
	quiet(ctx, t, "afterwards", w.resolver(t, "sgp", 1), lesser)
}

// When its context ends, what was done is told.
func TestConvergeEnds(t *testing.T) {
	w, ctx := servers(t)
	nc := w.dial(t, "ams", asAnybody)
	w.ghost(t, nc)
	known := w.tenant().token(says{version: 1})
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	rep, err := w.resolver(t, "ams", 0).Converge(short, []string{known}, append(w.names(), "ghost"))
	if err == nil || len(rep.Accounts) != 1 || rep.Accounts[0].Servers != 10 || rep.Err() == nil {
		t.Errorf("%+v %v", rep, err)
	}
}

// What servers answer is outside bytes.
func FuzzStored(f *testing.F) {
	known := []registrar.Server{{ID: "NA"}, {ID: "NB"}}
	for _, s := range []string{
		`{"server":{"id":"NA","name":"x"},"data":{"account":"A","code":200,"message":"jwt updated"}}`,
		`{"server":{"id":"NB"},"error":{"description":"no"}}`, `{"server":{"id":"NB"},"data":{"code":500}}`,
		`{"server":{"id":"NC"},"data":{"code":200}}`, `{"server":null}`, `{"data":{"code":200}}`, `[]`, ``, `{"server":{"id":["NA"]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		at, why := registrar.Stored(known, data)
		if at >= 0 && why == "" {
			// Then it said so: read in another way.
			var v struct {
				Server struct{ ID string }
				Data   struct{ Code int }
				Error  *struct{}
			}
			if err := json.Unmarshal(data, &v); err == nil && (v.Server.ID != known[at].ID || v.Data.Code != 200) {
				t.Fatalf("%s: taken as stored by %s", data, known[at].ID)
			}
		}
	})
}

func FuzzPeek(f *testing.F) {
	f.Add([]byte("e30.eyJpc3MiOiJPQUJDIiwiaWF0Ijo1fQ.x"))
	f.Add([]byte(".."))
	f.Add([]byte("a.b"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		issuer, _ := registrar.Peek(data)
		if issuer != "" && (len(issuer) > 100 || slices.ContainsFunc([]byte(issuer), func(c byte) bool { return c < '2' || c > 'Z' })) {
			t.Fatalf("an issuer that is no key: %q", issuer)
		}
	})
}
