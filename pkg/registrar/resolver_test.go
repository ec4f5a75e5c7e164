package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// New accounts come to every server; what is there is left alone, whoever looks.
func TestConverge(t *testing.T) {
	w, ctx := servers(t)
	one := w.resolver(t, "ams", 0)
	var known []string
	tenants := make([]tenant, 25)
	for i := range tenants {
		tenants[i] = w.tenant()
		known = append(known, tenants[i].token(says{version: 1, base: "a"}))
	}
	before, err := one.Survey(ctx, known, w.names())
	if err != nil || before.Pushed() > 0 || before.InLine() > 0 || before.Accounts[3].Lacked != 9 || !errors.Is(before.Err(), registrar.ErrBehind) {
		t.Errorf("before: %v %v", err, before.Err())
	}
	rep := converge(ctx, t, one, w.names(), known...)
	if err := rep.Err(); err != nil || rep.Pushed() != len(known) || rep.InLine() != len(known) || len(rep.Servers) != 9 || len(rep.Accounts) != len(known) {
		t.Errorf("%d pushed, %d in line: %v", rep.Pushed(), rep.InLine(), err)
	}
	for i, s := range rep.Accounts {
		if s.Account != tenants[i].key || s.InLine != 9 || s.Servers != 9 || s.Lacked != 9 || !s.Pushed || s.Version != 1 || s.Token != known[i] || len(s.Found) > 0 {
			t.Errorf("account %d: %+v", i, s)
		}
		// Signed already, so it is not signed anew.
		if got := w.held(ctx, t, "sgp", tenants[i], 9); !sole(got, known[i]) {
			t.Errorf("account %d is held as %q", i, got[0])
		}
	}
	quiet(ctx, t, "again", one, known...)
	quiet(ctx, t, "another registrar", w.resolver(t, "sgp", 1), known...)
	after, err := one.Survey(ctx, known, nil)
	if err != nil || after.Err() != nil || after.InLine() != len(known) {
		t.Errorf("after: %v %v", err, after.Err())
	}
	if c, err := after.Accounts[0].Content(); err != nil || !c.Equal(w.content(t, known[0])) {
		t.Errorf("what should be in force: %v", err)
	}
	// Nothing to do is nothing.
	if rep := converge(ctx, t, one, w.names()); rep.Err() != nil || len(rep.Accounts) != 0 || len(rep.Servers) != 9 {
		t.Errorf("no accounts: %+v", rep)
	}
}

// What the caller knows is joined with itself: an older JWT in a folder beside a newer in
// the ledger is one account.
func TestConvergeJoinsWhatIsKnown(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	one := a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 5, "UB": 9}})
	two := a.token(says{version: 2, base: "b", revoked: map[string]int64{"UA": 7}, key: 1})
	r := w.resolver(t, "ams", 2)
	rep := converge(ctx, t, r, w.names(), one, two, one)
	if len(rep.Accounts) != 1 || rep.Err() != nil || rep.Accounts[0].Version != 2 {
		t.Fatalf("%+v %v", rep.Accounts, rep.Err())
	}
	both := must(trust.Join(w.content(t, one), w.content(t, two)))
	w.all(ctx, t, "sfo", a, 9, both)
	if got := both.Revocations(); !maps.Equal(got, map[string]int64{"UA": lately() + 7, "UB": lately() + 9}) {
		t.Errorf("%v", got)
	}
	quiet(ctx, t, "who knows a part", w.resolver(t, "sgp", 1), one)
}

// 2: the last push wins on all servers, whatever its date: an older JWT replaces a newer
// one. Whoever knows the newer one repairs that, and what the older one says besides is
// not lost.
func TestOlderIsRepaired(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	now := time.Now()
	newer := a.token(says{version: 2, base: "new", revoked: map[string]int64{"UA": 7}, at: now.Add(-time.Minute)})
	older := a.token(says{version: 1, base: "old", revoked: map[string]int64{"UB": 3}, at: now.Add(-time.Hour), key: 1})
	r := w.resolver(t, "ams", 0)
	converge(ctx, t, r, w.names(), newer)
	w.push(ctx, t, "sgp", older, 9)
	if got := w.held(ctx, t, "ams", a, 9); !sole(got, older) {
		t.Fatalf("the older one did not replace the newer, so nothing is shown: %q", got)
	}
	rep := converge(ctx, t, r, w.names(), newer)
	s := rep.Accounts[0]
	if rep.Err() != nil || !s.Pushed || s.Lacked != 0 || len(s.Found) != 1 ||
		s.Found[0] != (registrar.Found{Servers: 9, Issuer: w.signing[1].Public(), IssuedAt: now.Add(-time.Hour).Unix(), Version: 1}) {
		t.Errorf("%+v %v", s, rep.Err())
	}
	both := must(trust.Join(w.content(t, newer), w.content(t, older)))
	if iat := w.all(ctx, t, "sfo", a, 9, both); iat < now.Unix() {
		t.Errorf("it is dated %d, and now is %d", iat, now.Unix())
	}
	quiet(ctx, t, "who knows the older one", w.resolver(t, "sgp", 1), older)
}

// 3: servers store what an unknown operator signed. It is never believed, nor is its date
// followed; and nothing of the kind is pushed.
func TestForeign(t *testing.T) {
	w, ctx := servers(t)
	a, other := w.tenant(), w.tenant()
	stranger := newKey(keystore.Operator)
	ours := a.token(says{version: 1, base: "a"})
	theirs := a.token(says{
		version: 99, base: "theirs", revoked: map[string]int64{jwt.All: 5}, by: stranger, at: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	})
	r := w.resolver(t, "sfo", 0)
	converge(ctx, t, r, w.names(), ours)
	w.push(ctx, t, "ams", theirs, 9)
	if got := w.held(ctx, t, "ams", a, 9); !sole(got, theirs) {
		t.Fatalf("servers did not store it, so nothing is shown: %q", got)
	}
	seen, err := r.Survey(ctx, []string{ours}, w.names())
	if err != nil {
		t.Fatal(err)
	}
	if s := seen.Accounts[0]; s.InLine != 0 || s.Version != 1 || len(s.Found) != 1 || !s.Found[0].Foreign || s.Found[0].Issuer != stranger.Public() || s.Found[0].Version != 0 {
		t.Errorf("%+v", s)
	}
	rep := converge(ctx, t, r, w.names(), ours)
	if rep.Err() != nil || !rep.Accounts[0].Pushed || !rep.Accounts[0].Found[0].Foreign || rep.Accounts[0].Found[0].Servers != 9 {
		t.Errorf("%+v %v", rep.Accounts, rep.Err())
	}
	if iat := w.all(ctx, t, "sgp", a, 9, w.content(t, ours)); iat > time.Now().Unix() {
		t.Errorf("its date was followed: %d", iat)
	}
	quiet(ctx, t, "afterwards", r, ours)

	// Beside others that are good, nothing at all is sent.
	good := other.token(says{version: 1})
	for what, bad := range map[string]string{
		"a stranger's": theirs, "its own": a.token(says{by: newKey(keystore.Account)}), "altered": ours[:len(ours)-4] + "AAAA",
		"nothing": "", "garbage": "x.y.z",
	} {
		if rep, err := r.Converge(ctx, []string{good, bad}, w.names()); err == nil || rep.Pushed() > 0 {
			t.Errorf("%s: %v, %d pushed", what, err, rep.Pushed())
		}
	}
	if got := w.held(ctx, t, "ams", other, 9); strings.Join(got, "") != "" {
		t.Errorf("what was beside it was pushed: %q", got)
	}
	// Who signs with a key that is none of the operator's pushes nothing that it signed.
	changed := a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 1}, at: time.Now().Add(-time.Hour)})
	thief := registrar.NewResolver(w.dial(t, "ams", asRegistrar), w.op, stranger, time.Now)
	rep = converge(ctx, t, thief, w.names(), changed)
	if err := rep.Accounts[0].Err; !errors.Is(err, trust.ErrUntrusted) || rep.Pushed() > 0 {
		t.Errorf("signed by a stranger: %v, %d pushed", err, rep.Pushed())
	}
	w.all(ctx, t, "sgp", a, 9, w.content(t, ours))
}

// Another account's JWT cannot stand where one is looked for, even signed by the operator.
func TestForeignGarbage(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	known := a.token(says{version: 1})
	// A server that answers looks with whatever it likes.
	nc := w.dial(t, "ams", asAnybody)
	other := w.tenant().token(says{version: 7})
	for _, answer := range []string{other, "garbage", "a.b.c", strings.Repeat("x", 1<<20)} {
		sub := must(nc.Subscribe(subject.ClaimsLookup(a.key), func(m *nats.Msg) { _ = m.Respond([]byte(answer)) }))
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		rep := converge(ctx, t, w.resolver(t, "ams", 0), w.names(), known)
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		if s := rep.Accounts[0]; s.Version != 1 || s.Err != nil {
			t.Errorf("%.20s: %+v", answer, s)
		}
	}
	quiet(ctx, t, "afterwards", w.resolver(t, "ams", 0), known)
	w.all(ctx, t, "sgp", a, 9, w.content(t, known))
}

// 34: two that push side by side, each with its own key and its own knowledge, come to
// rest, and neither loses what the other brought.
func TestTwoAtOnce(t *testing.T) {
	w, ctx := servers(t)
	const n = 12
	resolvers := [2]*registrar.Resolver{w.resolver(t, "ams", 0), w.resolver(t, "sgp", 1)}
	tenants := make([]tenant, n)
	var known [2][]string
	want := make([]trust.Content, n)
	for i := range tenants {
		tenants[i] = w.tenant()
		a := tenants[i].token(says{version: 2, base: "new", revoked: map[string]int64{"UA": 5}})
		b := tenants[i].token(says{version: 1, base: "old", revoked: map[string]int64{"UB": 6, "UA": 4}, key: 1})
		known[0], known[1] = append(known[0], a), append(known[1], b)
		want[i] = must(trust.Join(w.content(t, a), w.content(t, b)))
	}
	var pushes atomic.Int64
	spy := w.dial(t, "sfo", asAnybody)
	must(spy.Subscribe(subject.ClaimsUpdate, func(*nats.Msg) { pushes.Add(1) }))
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for i, r := range resolvers {
		work.Go(func() {
			rep, err := r.Settle(ctx, known[i], w.names())
			if err == nil {
				err = rep.Err()
			}
			if err != nil {
				t.Errorf("resolver %d: %v", i, err)
			}
		})
	}
	work.Wait()
	for i, a := range tenants {
		w.all(ctx, t, "sfo", a, 9, want[i])
	}
	rest := pushes.Load()
	for range 5 {
		for i, r := range resolvers {
			quiet(ctx, t, fmt.Sprint("resolver ", i), r, known[i]...)
		}
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := pushes.Load(); n != rest || rest == 0 {
		t.Errorf("%d pushes at first, then %d more", rest, n-rest)
	}
}

// Registrars on two sides of a cut push what they know to their own; when it is healed, the
// one that looks next joins what it finds. Of two JWTs with one date neither is lost, and
// what replaces them is later than both: inside a cluster, servers keep the later one.
func TestEqualDates(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	at := time.Now().Add(time.Minute) // a clock may be ahead
	left := a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 1}, at: at})
	right := a.token(says{version: 1, base: "a", revoked: map[string]int64{"UB": 2}, at: at, key: 1})
	w.apart(ctx, t, "sgp", func() {
		w.push(ctx, t, "ams", left, 6)
		w.push(ctx, t, "sgp", right, 3)
	})
	r := w.resolver(t, "ams", 2)
	rep := converge(ctx, t, r, w.names(), a.token(says{version: 1, base: "a", at: at.Add(-time.Hour)}))
	if len(rep.Accounts[0].Found) != 2 || rep.Err() != nil {
		t.Errorf("%+v %v", rep.Accounts[0], rep.Err())
	}
	both := must(trust.Join(w.content(t, left), w.content(t, right)))
	if iat := w.all(ctx, t, "sfo", a, 9, both); iat != at.Unix()+1 {
		t.Errorf("it is dated %d, what it replaces %d", iat, at.Unix())
	}
	// Where one of them says all, it must be later than the other to be pushed as it is.
	b := w.tenant()
	all := b.token(says{version: 2, base: "b", at: at})
	w.push(ctx, t, "ams", b.token(says{version: 1, base: "a", at: at, key: 1}), 9)
	converge(ctx, t, r, w.names(), all)
	if iat := w.all(ctx, t, "sfo", b, 9, w.content(t, all)); iat != at.Unix()+1 {
		t.Errorf("it is dated %d, what it replaces %d", iat, at.Unix())
	}
}

// apart does something while a region is cut off from the others, and returns when it is
// back.
func (w *fleet) apart(ctx context.Context, t *testing.T, name string, do func()) {
	t.Helper()
	var others []string
	for _, r := range regions() {
		if r != name {
			others = append(others, r)
		}
	}
	for _, r := range others {
		if err := w.cluster.Cut(region(name), region(r)); err != nil {
			t.Fatal(err)
		}
	}
	do()
	for _, r := range others {
		if err := w.cluster.Heal(region(name), region(r)); err != nil {
			t.Fatal(err)
		}
	}
	for _, in := range regions() {
		w.await(ctx, t, in, 9)
	}
}

// await waits until a region sees as many servers.
func (w *fleet) await(ctx context.Context, t *testing.T, in string, want int) {
	t.Helper()
	r := w.resolver(t, in, 0)
	for {
		found, err := r.Servers(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == want {
			return
		}
	}
}

// What is dated years ahead says what it says, but its date is not followed, and it does
// not stay: nothing could be later.
func TestDatedAhead(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	ahead := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	known := a.token(says{version: 1, base: "a"})
	w.push(ctx, t, "sgp", a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 1}, at: ahead, key: 1}), 9)
	r := w.resolver(t, "ams", 0)
	rep := converge(ctx, t, r, w.names(), known)
	if rep.Err() != nil {
		t.Error(rep.Err())
	}
	want := w.content(t, a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 1}}))
	now := time.Now().Unix()
	if iat := w.all(ctx, t, "sfo", a, 9, want); iat > now || iat < now-60 {
		t.Errorf("it is dated %d, now is %d", iat, now)
	}
	// Also where it says all that is to be said.
	w.push(ctx, t, "sgp", a.token(says{version: 3, base: "c", revoked: map[string]int64{"UA": 1}, at: ahead, key: 1}), 9)
	converge(ctx, t, r, w.names(), known)
	want = w.content(t, a.token(says{version: 3, base: "c", revoked: map[string]int64{"UA": 1}}))
	if iat := w.all(ctx, t, "sfo", a, 9, want); iat > time.Now().Unix() {
		t.Errorf("it is dated %d", iat)
	}
	quiet(ctx, t, "afterwards", r, known)
}

// Two bases of one version are nobody's to choose between: neither is pushed over the other.
func TestConflict(t *testing.T) {
	w, ctx := servers(t)
	a, b := w.tenant(), w.tenant()
	mine, theirs := a.token(says{version: 2, base: "mine"}), a.token(says{version: 2, base: "theirs", key: 1})
	beside := b.token(says{version: 1})
	w.push(ctx, t, "sgp", theirs, 9)
	r := w.resolver(t, "ams", 0)
	rep := converge(ctx, t, r, w.names(), mine, beside)
	s := rep.Accounts[0]
	if !errors.Is(s.Err, trust.ErrConflict) || s.Pushed || s.InLine != 0 || !errors.Is(rep.Err(), trust.ErrConflict) {
		t.Errorf("%+v", s)
	}
	if _, err := s.Content(); !errors.Is(err, trust.ErrConflict) {
		t.Errorf("its content: %v", err)
	}
	if rep.Accounts[1].Err != nil || rep.Accounts[1].InLine != 9 || rep.InLine() != 1 {
		t.Errorf("another account suffers from it: %+v", rep.Accounts[1])
	}
	if got := w.held(ctx, t, "sfo", a, 9); !sole(got, theirs) {
		t.Errorf("it was pushed: %q", got)
	}
	// A higher version ends it.
	next := a.token(says{version: 3, base: "agreed"})
	quietly := converge(ctx, t, r, w.names(), mine, next)
	if quietly.Err() != nil {
		t.Error(quietly.Err())
	}
	w.all(ctx, t, "sfo", a, 9, w.content(t, next))
}

// Without a signing key, what is signed already is pushed, and nothing else.
func TestWithoutKey(t *testing.T) {
	w, ctx := servers(t)
	a, b := w.tenant(), w.tenant()
	r := registrar.NewResolver(w.dial(t, "ams", asRegistrar), w.op, nil, time.Now)
	one, two := a.token(says{version: 1, base: "a"}), a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 1}})
	w.push(ctx, t, "ams", two, 9)
	rep := converge(ctx, t, r, w.names(), a.token(says{version: 1, base: "a", revoked: map[string]int64{"UB": 1}}), b.token(says{version: 1}))
	if err := rep.Accounts[0].Err; !errors.Is(err, registrar.ErrUnsigned) || rep.Accounts[0].Pushed {
		t.Errorf("%v", err)
	}
	if rep.Accounts[1].InLine != 9 {
		t.Errorf("%+v", rep.Accounts[1])
	}
	quiet(ctx, t, "what servers hold says more", r, one)
}

// An account that has grown too large for a JWT is named, and holds up no other.
func TestTooLarge(t *testing.T) {
	w, ctx := servers(t)
	a, b := w.tenant(), w.tenant()
	var known []string
	for half := range 2 {
		revoked := map[string]int64{}
		for i := range 7000 {
			revoked[userOf(0).String()[:51]+fmt.Sprintf("%d%04d", half, i)] = 1
		}
		known = append(known, a.token(says{version: 1, revoked: revoked}))
	}
	known = append(known, b.token(says{version: 1}))
	rep := converge(ctx, t, w.resolver(t, "ams", 0), w.names(), known...)
	if s := rep.Accounts[0]; s.Err == nil || s.Pushed || rep.Err() == nil {
		t.Errorf("%v, pushed %t", s.Err, s.Pushed)
	}
	if s := rep.Accounts[1]; s.Err != nil || s.InLine != 9 {
		t.Errorf("%+v", s)
	}
}
