package registrar_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
)

// watching is a Watcher that runs.
type watching struct {
	*registrar.Watcher
	log     *testlog.Log
	mu      sync.Mutex
	known   []string
	changed chan struct{}
}

// watch starts a watcher in a region, with one of the signing keys.
func (w *fleet) watch(t *testing.T, in string, key int, every time.Duration, known ...string) *watching {
	t.Helper()
	o := &watching{log: &testlog.Log{}, known: known, changed: make(chan struct{}, 1)}
	o.Watcher = &registrar.Watcher{
		Resolver: w.resolver(t, in, key), Changed: o.changed, Spread: func() float64 { return 0.5 }, Log: o.log.Logger(), Now: time.Now, Every: every,
		Known: func() []string {
			o.mu.Lock()
			defer o.mu.Unlock()
			return append([]string(nil), o.known...)
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		if err := o.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		work.Wait()
	})
	return o
}

// learn lets the watcher know more.
func (o *watching) learn(tokens ...string) {
	o.mu.Lock()
	o.known = append(o.known, tokens...)
	o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// until waits for something, and says in what it fails what the watcher said.
func (o *watching) until(ctx context.Context, t *testing.T, what string, done func(registrar.WatcherStats) bool) registrar.WatcherStats {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if s := o.Stats(); done(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %+v\n%s", what, o.Stats(), o.log)
		}
	}
}

// rests waits for some more looks, and checks that they found nothing to do.
func (o *watching) rests(ctx context.Context, t *testing.T, what string) {
	t.Helper()
	before, said := o.Stats(), o.log.String()
	after := o.until(ctx, t, what, func(s registrar.WatcherStats) bool { return s.Looks >= before.Looks+3 })
	if after.Pushed != before.Pushed || after.Foreign != before.Foreign || after.OutOfLine != before.OutOfLine || o.log.String() != said {
		t.Errorf("%s: it does not rest: %+v, then %+v\n%s", what, before, after, strings.TrimPrefix(o.log.String(), said))
	}
}

func TestWatcher(t *testing.T) {
	t.Parallel()
	w, ctx := servers(t)
	a, b := w.tenant(), w.tenant()
	one := a.token(says{version: 1, base: "one"})
	o := w.watch(t, "ams", 0, 300*time.Millisecond, one)
	o.until(ctx, t, "the first", func(s registrar.WatcherStats) bool { return s.Pushed == 1 && !s.InLine.IsZero() })
	w.all(ctx, t, "sgp", a, 9, w.content(t, one))
	o.rests(ctx, t, "after the first")

	// What is decided is brought at once, and is nobody's fault.
	two, other := a.token(says{version: 2, base: "two"}), b.token(says{version: 1})
	o.learn(two, other)
	o.until(ctx, t, "what changed", func(s registrar.WatcherStats) bool { return s.Pushed >= 3 && s.OutOfLine == 0 })
	w.all(ctx, t, "sgp", a, 9, w.content(t, two))
	w.all(ctx, t, "sgp", b, 9, w.content(t, other))
	o.rests(ctx, t, "after a change")
	if s := o.Stats(); s.Overwritten != 0 || s.Foreign != 0 || s.Failed != 0 || s.Behind != 0 || strings.Contains(o.log.String(), "WARN") {
		t.Errorf("%+v\n%s", s, o.log)
	}

	// Somebody pushes an older one over it.
	w.push(ctx, t, "sgp", one, 9)
	o.until(ctx, t, "pushed over", func(s registrar.WatcherStats) bool { return s.Overwritten == 1 && s.OutOfLine == 0 })
	w.all(ctx, t, "sfo", a, 9, w.content(t, two))
	if said := o.log.String(); !strings.Contains(said, "had been pushed over") || !strings.Contains(said, w.signing[0].Public()) {
		t.Errorf("it says\n%s", said)
	}
	o.rests(ctx, t, "after it was repaired")

	// Somebody pushes what no key of the operator signed.
	stranger := newKey(keystore.Operator)
	w.push(ctx, t, "sgp", a.token(says{version: 9, base: "theirs", by: stranger}), 9)
	o.until(ctx, t, "a stranger's", func(s registrar.WatcherStats) bool { return s.Foreign == 1 && s.OutOfLine == 0 })
	w.all(ctx, t, "sfo", a, 9, w.content(t, two))
	if said := o.log.String(); !strings.Contains(said, "no key of this platform's operator signed") || !strings.Contains(said, stranger.Public()) {
		t.Errorf("it says\n%s", said)
	}
	o.rests(ctx, t, "after a stranger's was replaced")
}

// A conflict is said once, shows until it is over, and holds up nothing else.
func TestWatcherConflict(t *testing.T) {
	t.Parallel()
	w, ctx := servers(t)
	a, b := w.tenant(), w.tenant()
	o := w.watch(t, "ams", 0, 300*time.Millisecond, a.token(says{version: 2, base: "mine"}), b.token(says{version: 1}))
	o.until(ctx, t, "both", func(s registrar.WatcherStats) bool { return s.Pushed == 2 })
	w.push(ctx, t, "sgp", a.token(says{version: 2, base: "theirs", key: 1}), 9)
	s := o.until(ctx, t, "the conflict", func(s registrar.WatcherStats) bool { return s.Conflicts == 1 })
	o.rests(ctx, t, "with a conflict")
	if s.OutOfLine != 1 || strings.Count(o.log.String(), "an account is not pushed") != 1 {
		t.Errorf("%+v\n%s", s, o.log)
	}
	next := a.token(says{version: 3, base: "agreed"})
	o.learn(next)
	o.until(ctx, t, "the end of it", func(s registrar.WatcherStats) bool { return s.Conflicts == 0 && s.OutOfLine == 0 })
	w.all(ctx, t, "sfo", a, 9, w.content(t, next))
}

// 1: a revocation that was pushed while a region was down comes to it when it returns,
// though nothing changes then and it is not yet time for another look.
func TestWatcherSeesARegionReturn(t *testing.T) {
	w, ctx := servers(t)
	a := w.tenant()
	before := a.token(says{version: 1, base: "a"})
	revoked := a.token(says{version: 1, base: "a", revoked: map[string]int64{"UA": 5}, at: time.Now()})
	o := w.watch(t, "ams", 0, time.Hour, before)
	o.until(ctx, t, "before", func(s registrar.WatcherStats) bool { return s.Pushed > 0 && s.OutOfLine == 0 })
	if err := w.cluster.StopRegion(ctx, region("sgp")); err != nil {
		t.Fatal(err)
	}
	was := o.Stats()
	o.learn(revoked)
	// What was pushed is looked at once more, and then not again for an hour.
	o.until(ctx, t, "while it is down", func(s registrar.WatcherStats) bool { return s.Pushed > was.Pushed && s.Looks >= was.Looks+2 })
	w.all(ctx, t, "sfo", a, 6, w.content(t, revoked))
	if err := w.cluster.StartRegion(ctx, region("sgp")); err != nil {
		t.Fatal(err)
	}
	w.await(ctx, t, "sgp", 9)
	for !sole(w.held(ctx, t, "sgp", a, 9), revoked) {
		if ctx.Err() != nil {
			t.Fatalf("the region does not hear of it: %+v\n%s", o.Stats(), o.log)
		}
	}
}

// 34: two watchers with their own keys and their own knowledge, and somebody who comes and
// goes, come to rest with everything.
func TestWatchersRest(t *testing.T) {
	t.Parallel()
	w, ctx := servers(t)
	a := w.tenant()
	one := a.token(says{version: 2, base: "two", revoked: map[string]int64{"UA": 5}})
	two := a.token(says{version: 1, base: "one", revoked: map[string]int64{"UB": 6}, key: 1})
	third := a.token(says{version: 1, base: "one", revoked: map[string]int64{"UC": 7}, key: 2})
	x, y := w.watch(t, "ams", 0, 400*time.Millisecond, one), w.watch(t, "sgp", 1, 500*time.Millisecond, two)
	if rep, err := w.resolver(t, "sfo", 2).Settle(ctx, []string{third}, w.names()); err != nil || rep.Err() != nil {
		t.Fatalf("%v %v", err, rep.Err())
	}
	all := must(trust.Join(w.content(t, one), w.content(t, two), w.content(t, third)))
	for {
		held := w.held(ctx, t, "ams", a, 9)
		if sole(held, held[0]) && held[0] != "" && w.content(t, held[0]).Equal(all) {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("they do not agree\n%s\n%s", x.log, y.log)
		}
	}
	x.rests(ctx, t, "one")
	y.rests(ctx, t, "the other")
	w.all(ctx, t, "sfo", a, 9, all)
}
