package admintest

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// BenchmarkRevoke measures how long it takes from an administrator's request until the user is
// disconnected in another region than the administrator's. The links have no delay here: a round
// trip between regions, of which the bound allows three, is nothing. One after the other, and then
// many at a time.
func BenchmarkRevoke(b *testing.B) {
	const people, bound = 200, time.Second
	for name, atOnce := range map[string]int{"one-at-a-time": 1, "20-at-a-time": 20} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var took []time.Duration
				nc := adminAt(b, "ams")
				var all []*person
				var closed []chan time.Time
				for range people {
					p := joins(b, "ams")
					out := make(chan time.Time, 1)
					conn, err := p.dial(urls(region("sgp"))[0], nats.ClosedHandler(func(*nats.Conn) { out <- time.Now() }))
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(conn.Close)
					all, closed = append(all, p), append(closed, out)
				}
				knows(b, nc, ident.OpenIdentity(all[people-1].user), 1)
				began := make([]time.Time, people)
				turns := make(chan struct{}, atOnce)
				for i, p := range all {
					turns <- struct{}{}
					go func() {
						defer func() { <-turns }()
						began[i] = time.Now()
						_, err := client.Administer(b.Context(), shared.Up.Platform.Operator, nc, "revoke", wire.AdminRequest{Identity: ident.OpenIdentity(p.user)})
						if err != nil {
							b.Error(err)
						}
					}()
				}
				for range atOnce {
					turns <- struct{}{}
				}
				for i := range all {
					select {
					case at := <-closed[i]:
						took = append(took, at.Sub(began[i]))
					case <-time.After(soon):
						b.Fatalf("user %d stays in", i)
					}
				}
				// After resume the same nkey works again, also in a region that another resumed in.
				var back time.Duration
				for _, p := range all[:10] {
					id := wire.AdminRequest{Identity: ident.OpenIdentity(p.user)}
					shown, err := client.Administer(b.Context(), shared.Up.Platform.Operator, nc, "show", id)
					if err != nil {
						b.Fatal(err)
					}
					id.Seen = map[string]uint64{shown.Standing[0].Key: shown.Standing[0].Version}
					from := time.Now()
					if _, err := client.Administer(b.Context(), shared.Up.Platform.Operator, nc, "resume", id); err != nil {
						b.Fatal(err)
					}
					p.asks(b, "sgp")
					conn, err := p.dial(urls(region("sgp"))[0])
					if err != nil {
						b.Fatal(err)
					}
					conn.Close()
					back = max(back, time.Since(from))
				}
				b.ReportMetric(back.Seconds()*1000, "back-max-ms")
				if back > 2*time.Second {
					b.Errorf("back after %s, more than 2 s", back)
				}
				slices.Sort(took)
				p99 := took[len(took)*99/100]
				b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
				b.ReportMetric(p99.Seconds()*1000, "p99-ms")
				if p99 > bound {
					b.Errorf("p99 is %s, more than %s", p99, bound)
				}
			}
		})
	}
}
