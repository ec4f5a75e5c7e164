package faultstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// apart is by how much clocks of regions differ at most.
const apart = 90 * time.Second

// TestClocksApart: the services of one region are ahead of home's by a minute and a half, those
// of another behind. Whoever is revoked by one, with credentials that another issued, is out on
// every server and stays out with all that they had, whatever its date; once resumed they are back
// with the same nkey in every region within two seconds.
func TestClocksApart(t *testing.T) {
	if !long() {
		t.Skip("of make chaos and make test-long")
	}
	w := newWorldOf(t, uptest.Options{}, map[string]time.Duration{"sfo": apart, "sgp": -apart})
	var pairs [][2]string
	for _, by := range regions() {
		for _, in := range regions() {
			pairs = append(pairs, [2]string{by, in})
		}
	}
	all := w.Public.Document.URLs(region("ams"))
	for i, pair := range pairs {
		by, in := pair[0], pair[1]
		what := "issued in " + in + ", revoked in " + by
		// Home takes no request that another region's clock dates: a new name is to be had in home.
		v := w.visitor(fmt.Sprintf("timely-%d", i), "ams")
		eventually(t, within(5*time.Second), in+" gives a credential", func() bool { return w.asks(t.Context(), v, in, 5*time.Second) == nil })
		if v.tokens[0] == v.tokens[1] {
			t.Fatalf("%s: it has one credential: nothing is shown", what)
		}
		conns := map[string]<-chan struct{}{}
		for _, r := range regions() {
			conns[r] = w.stays(v, w.urls(r)[0])
		}
		eventually(t, within(20*time.Second), "the registrar of "+by+" knows of it", func() bool {
			a, err := w.administer(t.Context(), by, wire.VerbShow, v.identity())
			return err == nil && len(a.Standing) == 1 && a.Standing[0].Users == 1
		})
		a := w.revokes(by, v, wire.VerbRevoke)
		for r, closed := range conns {
			w.shut(what+": who is connected in "+r, within(2*time.Second), closed)
		}
		w.denied(v, within(2*time.Second), all...)
		for _, r := range regions() {
			eventually(t, within(2*time.Second), what+": refused in "+r, func() bool { return code(w.obtain(r, v.key, v.name)) == wire.Revoked })
		}

		before := len(v.tokens)
		r := v.identity()
		r.Seen = map[string]uint64{a.Standing[0].Key: a.Standing[0].Version}
		resumed := time.Now()
		if _, err := w.administer(t.Context(), by, wire.VerbResume, r); err != nil {
			t.Fatalf("%s: resuming: %v", what, err)
		}
		for _, r := range regions() {
			eventually(t, within(2*time.Second), what+": back in "+r, func() bool {
				return w.asks(t.Context(), v, r, 5*time.Second) == nil && w.connect(v, v.newest(), w.urls(r)[1]) == nil
			})
		}
		t.Logf("%s: back everywhere %s after resume", what, time.Since(resumed).Round(time.Millisecond))
		// What was before is not good again.
		for _, token := range v.tokens[:before] {
			for _, url := range all {
				if err := w.connect(v, token, url); !errors.Is(err, nats.ErrAuthorization) {
					t.Errorf("%s: with an old credential, resumed, at %s: %v", what, url, err)
				}
			}
		}
		// Once more, though what it has is dated ahead by now, by each clock differently.
		again := w.stays(v, w.urls(in)[2])
		w.revokes(by, v, wire.VerbSuspend)
		w.shut(what+": the second time", within(2*time.Second), again)
		w.denied(v, within(2*time.Second), all...)
		for _, r := range regions() {
			eventually(t, within(2*time.Second), what+": suspended in "+r, func() bool { return code(w.obtain(r, v.key, v.name)) == wire.Suspended })
		}
	}
	w.cutAndRevoked(all)
}

// revokes has somebody denied through a region, until all servers know.
func (w *world) revokes(by string, v *visitor, verb string) (a client.Administered) {
	w.t.Helper()
	r := v.identity()
	r.Wait = 10
	a, err := w.administer(w.t.Context(), by, verb, r)
	if err != nil || !everywhere(a) || a.Word.Region != by {
		w.t.Fatalf("%s %s by %s: %v %+v", verb, v.name, by, err, a.Word)
	}
	return a
}

// cutAndRevoked: an issuer whose clock is ahead is cut off while a registrar whose clock is behind
// revokes, and gives what it is asked for: that is over, too, once it is heard of.
func (w *world) cutAndRevoked(all []string) {
	w.t.Helper()
	v := w.visitor("cut-off", "ams")
	eventually(w.t, within(10*time.Second), "its name is known", func() bool {
		for _, s := range []string{"issuer/sfo", "registrar/sgp"} {
			if _, _, ok := w.service(s).Known().Name(must(ident.ParseName(v.name))); !ok {
				return false
			}
		}
		return true
	})
	w.cut("sfo")
	if _, err := w.administer(w.t.Context(), "sgp", wire.VerbRevoke, v.identity()); err != nil {
		w.t.Fatal(err)
	}
	// Until what sfo gives is dated after what sgp revoked.
	if wait.For(w.t.Context(), 40*time.Second) != nil {
		return
	}
	if err := w.asks(w.t.Context(), v, "sfo", 5*time.Second); err != nil {
		w.t.Fatalf("in the region that is cut off: %v", err)
	}
	there := w.stays(v, w.urls("sfo")[0])
	w.heal("sfo")
	w.shut("who came where it was not known", within(10*time.Second), there)
	w.denied(v, within(10*time.Second), all...)
	// What a clock that is ahead dated after what was dated ahead already is from the future for
	// the others, and they believe it when its time has come. Servers deny meanwhile.
	w.equal(ledger.MaxAhead)
}

// TestClockAnHourAhead: a registrar whose clock is an hour ahead finds that out from the servers,
// says so, and states nothing; others answer in its place. What was stated by such a clock all the
// same is believed by nobody, is counted and said, and changes nothing.
func TestClockAnHourAhead(t *testing.T) {
	const wrong = "registrar/sfo"
	w := newWorldOf(t, uptest.Options{}, map[string]time.Duration{wrong: time.Hour})
	eventually(t, within(10*time.Second), "it is not ready, and says why", func() bool {
		s := w.service(wrong).Status()
		return !s.Ready && !s.Closed && strings.Contains(strings.Join(s.Why, "\n"), "ahead of that of most servers")
	})
	eventually(t, within(5*time.Second), "the log says so", func() bool {
		return strings.Contains(w.log.String(), "this machine's clock is wrong: it is 1h0m0s ahead of that of most servers")
	})
	if ahead := w.service(wrong).Stats().Registrar.Clock; ahead == nil || (*ahead-time.Hour).Abs() > 10*time.Second {
		t.Errorf("its metric: %v", ahead)
	}
	for _, r := range []string{"registrar/ams", "registrar/sgp"} {
		if s := w.service(r); !s.Status().Ready || s.Stats().Registrar.Clock == nil || s.Stats().Registrar.Clock.Abs() > 10*time.Second {
			t.Errorf("%s: %+v %v", r, s.Status(), s.Stats().Registrar.Clock)
		}
	}

	// It states nothing, and another region's registrar does what its own administrators ask.
	v, stays := w.visitor("alice", "sfo"), w.visitor("bob", "sfo")
	key := ledger.IdentitySuspension(openIdentity(stays.key))
	if _, err := w.service(wrong).Denials().Suspend(t.Context(), key, true, 0, ledger.Suspension{By: "test"}); !errors.Is(err, registrar.ErrClock) {
		t.Errorf("it states a suspension: %v", err)
	}
	out := w.stays(v, w.urls("sfo")[0])
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := w.administer(ctx, "sfo", wire.VerbRevoke, v.identity())
	if err != nil || a.Word.Region == "sfo" {
		t.Errorf("an administrator in its region: %v %+v", err, a.Word)
	}
	w.shut("who was revoked", within(5*time.Second), out)
	w.denied(v, within(5*time.Second), w.Public.Document.URLs(region("ams"))...)

	if !long() {
		return
	}
	// By hand, with its key: told to all at once and stored.
	before := map[string]ledger.Stats{}
	for _, name := range all() {
		before[name] = w.service(name).Follower().Stats()
	}
	hour := func() time.Time { return time.Now().Add(time.Hour) }
	opener := w.opener()
	opener.Now = hour
	e := must(ledger.Suspend(opener, w.signer("sfo"), key, nil, true, 0, ledger.Suspension{By: "test"}, hour()))
	nc := w.dial("LEDGER", "registrar", "sfo")
	for _, r := range regions() {
		must(0, nc.Publish(subject.Live(region(r), key.String()), []byte(e.Token)))
	}
	must(0, nc.Publish("denials.sfo."+key.String(), []byte(e.Token)))
	for _, name := range all() {
		if name == wrong {
			continue // by its clock it is not from the future
		}
		eventually(t, within(60*time.Second), name+" counts what is from the future", func() bool {
			s := w.service(name).Follower().Stats()
			return s.HintsRefused > before[name].HintsRefused && s.Ahead > before[name].Ahead
		})
		if _, known := w.service(name).Known().Get(key); known {
			t.Errorf("%s knows of it", name)
		}
	}
	if !strings.Contains(w.log.String(), "an entry from the future waits") {
		t.Error("the log does not say that something is from the future")
	}
	for _, r := range regions() {
		if err := w.asks(ctx, stays, r, 5*time.Second); err != nil {
			t.Errorf("who was suspended an hour from now asks in %s: %v", r, err)
		}
	}
	for _, url := range w.Public.Document.URLs(region("ams")) {
		if err := w.connect(stays, stays.newest(), url); err != nil {
			t.Errorf("who was suspended an hour from now, at %s: %v", url, err)
		}
	}
}
