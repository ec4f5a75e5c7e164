package callouttest

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// BenchmarkConnect gives what coming in by auth callout costs beside coming in with a JWT in
// hand, in one run: each round does both, so many at a time. Bounds of identities and hosts hold
// here, too: run it once (-benchtime 1x).
func BenchmarkConnect(b *testing.B) {
	const rounds, each, atOnce = 20, 100, 8
	const bound = 0.8
	u, err := shared.Up.Platform.Mint("ORDERS", "worker", time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	var keys []password
	for range 4 {
		k := newKey(b)
		comesIn(b, nats.UserInfo(k.id, k.secret)).Close()
		keys = append(keys, k)
	}
	connects := func(o func(i int) nats.Option) time.Duration {
		began := time.Now()
		var work sync.WaitGroup
		for w := range atOnce {
			work.Go(func() {
				for i := w; i < each; i += atOnce {
					nc, err := connect(o(i))
					if err != nil {
						b.Error(err)
						return
					}
					nc.Close()
				}
			})
		}
		work.Wait()
		return time.Since(began)
	}
	for b.Loop() {
		var inHand, byCallout time.Duration
		for range rounds {
			inHand += connects(func(int) nats.Option { return nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign) })
			byCallout += connects(func(i int) nats.Option { return nats.UserInfo(keys[i%len(keys)].id, keys[i%len(keys)].secret) })
		}
		b.ReportMetric(rounds*each/inHand.Seconds(), "jwt/s")
		b.ReportMetric(rounds*each/byCallout.Seconds(), "callout/s")
		ratio := float64(inHand) / float64(byCallout)
		b.ReportMetric(ratio, "callout/jwt")
		if ratio < bound {
			b.Errorf("by auth callout %.2f times the connects with a JWT in hand, less than %.2f", ratio, bound)
		}
	}
}
