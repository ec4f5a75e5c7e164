package callouttest

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/callout"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/subject"
)

// BenchmarkConnect gives what coming in by auth callout costs beside coming in with a JWT in
// hand, in one run: each round does both, so many at a time. Bounds of identities and hosts hold
// here, too: run it once (-benchtime 1x).
func BenchmarkConnect(b *testing.B) {
	const bound = 0.8
	for b.Loop() {
		if ratio := connects(b); ratio < bound {
			b.Errorf("by auth callout %.2f times the connects with a JWT in hand, less than %.2f", ratio, bound)
		}
	}
}

// BenchmarkConnectLeast is the same with somebody in the issuers' place who lets everybody in:
// who opens what a server asks, signs a user JWT, and signs and seals the answer, and
// neither asks who it is nor writes anything. No issuer can be nearer to a JWT in hand than that.
func BenchmarkConnectLeast(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		up := shared.Up
		var issuers []*service.Running
		up.Services = slices.DeleteFunc(up.Services, func(s *service.Running) bool {
			if s.Service != service.Issuer {
				return false
			}
			issuers = append(issuers, s)
			return true
		})
		var stops []func()
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		for _, s := range issuers {
			if err := s.Drain(ctx); err != nil {
				b.Fatal(err)
			}
			stops = append(stops, letEverybodyIn(b, s.Region))
		}
		b.StartTimer()
		connects(b)
		b.StopTimer()
		for i, s := range issuers {
			stops[i]()
			c, err := service.Load(filepath.Join(up.Platform.Dir.Issuer(s.Region), platform.ServiceFile))
			if err != nil {
				b.Fatal(err)
			}
			again, err := c.Start(ctx, log.Logger())
			if err != nil {
				b.Fatal(err)
			}
			up.Services = append(up.Services, again)
		}
		b.StartTimer()
	}
}

// letEverybodyIn answers servers in the place of a region's issuer.
func letEverybodyIn(tb testing.TB, region ident.Region) (stop func()) {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	dir := shared.Up.Platform.Dir.Issuer(region)
	label := func(s string) ident.Label {
		l, err := ident.ParseLabel(s)
		must(err)
		return l
	}
	seal, err := keystore.Load(filepath.Join(dir, platform.CalloutKeyFile), keystore.Curve)
	must(err)
	key, err := callout.NewKey(seal)
	must(err)
	role, err := keystore.Load(filepath.Join(dir, "roles", "ORDERS.service.nk"), keystore.Account)
	must(err)
	orders, _ := shared.Public.Document.Account(label("ORDERS"))
	door, _ := shared.Public.Document.Account(label(platform.Door))
	mint := issuer.New(issuer.RoleKey{Account: label("ORDERS"), AccountKey: orders.Key, Role: label("service"), Key: role})
	grant := policy.Grant{Account: label("ORDERS"), Role: label("service"), Name: shared.Name("least"), TTL: time.Hour, Tags: []string{"identity:key", "kid:hk7qk3m2zc5dxe4b6fan"}}

	creds := natsconn.FileCredential{Path: filepath.Join(dir, platform.AuthCreds)}
	self, err := creds.User()
	must(err)
	user, err := ident.ParseUserKey(self)
	must(err)
	where, _ := shared.Public.Document.Region(region)
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	nc, err := natsconn.Dial(ctx, natsconn.Options{URLs: where.URLs, Name: "least", Credential: creds, InboxPrefix: subject.ServiceInboxPrefix(user)})
	must(err)
	_, err = nc.QueueSubscribe(subject.Callout, provision.Queue, func(m *nats.Msg) {
		go func() {
			from, err := ident.ParseSealKey(m.Header.Get(callout.HeaderServer))
			if err != nil {
				return // who connects waits in vain, and says so
			}
			now := time.Now()
			r, err := key.Open(from, m.Data, door.Key, now)
			if err != nil {
				return
			}
			c, err := mint.Mint(grant, r.User, now, issuer.Spread())
			if err != nil {
				return
			}
			if answer, err := key.Answer(r, c.JWT, door.Key, role, now); err == nil {
				_ = m.Respond(answer)
			}
		}()
	})
	must(err)
	must(nc.Flush())
	return nc.Close
}

// connects measures both ways, and gives their ratio.
func connects(b *testing.B) float64 {
	b.Helper()
	const rounds, each, atOnce = 20, 100, 8
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
	all := func(o func(i int) nats.Option) time.Duration {
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
	var inHand, byCallout time.Duration
	for range rounds {
		inHand += all(func(int) nats.Option { return nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign) })
		byCallout += all(func(i int) nats.Option { return nats.UserInfo(keys[i%len(keys)].id, keys[i%len(keys)].secret) })
	}
	ratio := float64(inHand) / float64(byCallout)
	b.ReportMetric(rounds*each/inHand.Seconds(), "jwt/s")
	b.ReportMetric(rounds*each/byCallout.Seconds(), "callout/s")
	b.ReportMetric(ratio, "callout/jwt")
	return ratio
}
