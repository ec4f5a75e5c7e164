package convergebench

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
)

const (
	// returnWithin is in what time a region that was away has all accounts as they are by now.
	returnWithin = 15 * time.Second
	returnRounds = 3
	// quiet is for how long nothing changes while the cost of watching is measured.
	quiet = time.Minute
)

// next gives the accounts' next base claims.
func (w *world) next(b *testing.B, tokens []string) []string {
	b.Helper()
	out := make([]string, len(tokens))
	for i, t := range tokens {
		c := must(jwt.DecodeAccountClaims(t))
		c.Tags = jwt.TagList{}
		c.Tags.Add(trust.TagBase + "2")
		c.Description = "changed while a region was away"
		c.Issuer, c.IssuedAt = w.signing.Public(), time.Now().Unix()
		c.ID = trust.ID(c.Subject, "2")
		out[i] = must(trust.EncodeJWT(c, w.signing))
	}
	return out
}

// watch runs a registrar's watcher, and gives how it stands.
func (w *world) watch(b *testing.B, tokens []string) (stats func() registrar.WatcherStats, stop func()) {
	b.Helper()
	watcher := &registrar.Watcher{
		Resolver: w.resolver(), Known: func() []string { return tokens }, Spread: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	ctx, cancel := context.WithCancel(b.Context())
	var run sync.WaitGroup
	run.Go(func() {
		if err := watcher.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	return watcher.Stats, func() { cancel(); run.Wait() }
}

// inLine waits until a look that ended after a moment found all accounts on all servers, or brought them there.
func inLine(ctx context.Context, b *testing.B, stats func() registrar.WatcherStats, after time.Time) {
	b.Helper()
	for {
		if s := stats(); s.InLine.After(after) && s.OutOfLine == 0 {
			return
		}
		select {
		case <-ctx.Done():
			b.Fatalf("%v: %+v", context.Cause(ctx), stats())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// BenchmarkReturn is a region of three servers that was away while all of 10,000 accounts changed: the
// time from when its servers run until a registrar elsewhere has found them, brought them all
// accounts, and asked each of them back. Then it measures what watching costs while nothing
// changes: processor time of registrar and servers together, beside that of the servers alone.
func BenchmarkReturn(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Minute)
	defer cancel()
	away := must(ident.ParseRegion("sgp"))
	for b.Loop() {
		var took, watching figures
		for range returnRounds {
			w := start(ctx, b)
			tokens := w.fresh(b, accounts)
			w.converge(ctx, b, tokens)
			if err := w.cluster.StopRegion(ctx, away); err != nil {
				b.Fatal(err)
			}
			tokens = w.next(b, tokens)
			stats, stop := w.watch(b, tokens)
			inLine(ctx, b, stats, time.Time{})
			runtime.GC()
			if err := w.cluster.StartRegion(ctx, away); err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			inLine(ctx, b, stats, began)
			took = append(took, time.Since(began).Seconds())
			stop()
			if rep, err := w.resolver().Survey(ctx, tokens, w.names); err != nil || rep.InLine() != len(tokens) || len(rep.Servers) != len(w.names) {
				b.Fatalf("%d of %d are in line on %d servers: %v", rep.InLine(), len(tokens), len(rep.Servers), err)
			}
			w.close(ctx, b)
		}
		// One look at all of N accounts each minute, or each 1 + N/1000 minutes: what an account
		// costs in a look says what watching costs.
		for _, n := range []int{1000, accounts} {
			watching = append(watching, watchingCost(ctx, b, n))
		}
		b.Logf("watching, ms of a processor a minute: %.0f with 1,000 accounts, %.0f with %d", watching[0], watching[1], accounts)
		b.ReportMetric(watching[0], "watching-1000-ms/min")
		b.ReportMetric(watching[1], "watching-"+strconv.Itoa(accounts)+"-ms/min")
		took.report(b, "return-s")
		if worst := slices.Max(took); worst > returnWithin.Seconds() {
			b.Errorf("it took %.1f s, more than %v", worst, returnWithin)
		}
	}
}

// watchingCost is what watching n accounts costs while nothing changes, in ms of a processor a minute.
func watchingCost(ctx context.Context, b *testing.B, n int) float64 {
	b.Helper()
	w := start(ctx, b)
	defer w.close(ctx, b)
	tokens := w.fresh(b, n)
	w.converge(ctx, b, tokens)
	used := func(f func()) time.Duration {
		runtime.GC()
		before := processor(b)
		f()
		return processor(b) - before
	}
	idle := used(func() { time.Sleep(quiet) })
	// A look at all of them at once, and the minute after it: that is what a period has.
	look := used(func() { w.survey(ctx, b, tokens) })
	b.Logf("%d accounts: servers alone use %v of a processor in %v; a look takes %v", n, idle, quiet, look)
	return float64(look.Milliseconds()) / float64(1+n/1000)
}
