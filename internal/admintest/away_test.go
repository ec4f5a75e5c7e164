package admintest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// quick is within what servers that are reached deny, and returned within what those do that
// were away: the links themselves take a second more to come back.
const (
	quick    = slower * time.Second
	returned = slower * 5 * time.Second
)

// TestRegionDown: while a region is down the others deny within a second and the receipt names
// its servers; it denies within five seconds of its return.
func TestRegionDown(t *testing.T) {
	p := joins(t, "ams")
	out := p.connects(t, urls(region("sfo"))[0])
	knows(t, adminAt(t, "ams"), ident.OpenIdentity(p.user), 1)
	if err := shared.Up.Cluster.StopRegion(t.Context(), region("sgp")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	go func() {
		<-out
		t.Logf("out after %s", time.Since(began))
	}()
	r := deny(t, cli.Partial, "revoke", "user", p.name.String(), "--yes")
	goesOut(t, "while a region is down", quick, out)
	var names []string
	for _, b := range r.Behind {
		names = append(names, b.Server)
	}
	if r.Denied != 6 || r.Servers != 9 || strings.Join(names, " ") != "sgp-1 sgp-2 sgp-3" {
		t.Errorf("%+v", r)
	}
	p.isOut(t, append(urls(region("ams")), urls(region("sfo"))...)...)
	if err := shared.Up.Cluster.StartRegion(t.Context(), region("sgp")); err != nil {
		t.Fatal(err)
	}
	for _, url := range urls(region("sgp")) {
		t.Logf("%s denies %s after its return", url, p.comesOut(t, url, returned))
	}
	if r := deny(t, cli.OK, "revoke", "user", p.name.String(), "--yes", "--wait", "20s"); r.Denied != 9 {
		t.Errorf("%+v", r)
	}
}

// cut parts a region from the two others.
func cut(t *testing.T, name string) (heal func()) {
	t.Helper()
	var healed sync.Once
	var others []ident.Region
	for _, o := range []string{"ams", "sfo", "sgp"} {
		if o == name {
			continue
		}
		others = append(others, region(o))
		if err := shared.Up.Cluster.Cut(region(name), region(o)); err != nil {
			t.Fatal(err)
		}
	}
	heal = func() {
		healed.Do(func() {
			for _, o := range others {
				if err := shared.Up.Cluster.Heal(region(name), o); err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Cleanup(heal)
	return heal
}

// TestCutOff: a region that is cut off denies at once what its own administrators say, and
// what was said elsewhere within five seconds of the link's return; so do the others.
func TestCutOff(t *testing.T) {
	there, here := joins(t, "sgp"), joins(t, "ams")
	outThere, outHere := there.connects(t, urls(region("sgp"))[0]), here.connects(t, urls(region("ams"))[0])
	stillHere := there.connects(t, urls(region("ams"))[1])
	inSGP, inAMS := adminAt(t, "sgp"), adminAt(t, "ams")
	knows(t, inSGP, ident.OpenIdentity(there.user), 1)
	knows(t, inAMS, ident.OpenIdentity(here.user), 1)
	heal := cut(t, "sgp")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	op := shared.Up.Platform.Operator
	var asks sync.WaitGroup
	asks.Go(func() {
		a, err := client.Administer(ctx, op, inSGP, "revoke", wire.AdminRequest{Identity: ident.OpenIdentity(there.user)})
		if err != nil || a.Word.Region != "sgp" || a.Word.Denied != 3 || a.Word.Servers != 9 {
			t.Errorf("in the region that is cut off: %v %+v", err, a.Word)
		}
	})
	asks.Go(func() {
		a, err := client.Administer(ctx, op, inAMS, "revoke", wire.AdminRequest{Identity: ident.OpenIdentity(here.user)})
		if err != nil || a.Word.Denied != 6 || a.Word.Servers != 9 {
			t.Errorf("in another: %v %+v", err, a.Word)
		}
	})
	t.Cleanup(asks.Wait)
	goesOut(t, "in the region that is cut off", quick, outThere)
	goesOut(t, "in another", quick, outHere)
	asks.Wait()
	there.isOut(t, urls(region("sgp"))...)
	here.isOut(t, append(urls(region("ams")), urls(region("sfo"))...)...)
	select {
	case <-stillHere:
		t.Error("beyond the cut it is known already")
	default:
	}
	heal()
	goesOut(t, "once the link is back", returned+time.Second, stillHere)
	for _, url := range allURLs() {
		there.comesOut(t, url, returned)
		here.comesOut(t, url, returned)
	}
}

// revokedOn are the users that each server has revoked in CHAT.
func revokedOn(t *testing.T) (servers []map[string]int64) {
	t.Helper()
	u := must(shared.Up.Platform.Mint("SYS", "setup", time.Now(), time.Hour))
	nc, err := nats.Connect(strings.Join(urls(region("ams")), ","), nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign),
		nats.CustomInboxPrefix(subject.ServiceInboxPrefix(must(ident.ParseUserKey(u.Key.Public())))))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	chat, _ := shared.Public.Document.Account(must(ident.ParseLabel("CHAT")))
	sub := must(nc.SubscribeSync(nc.NewInbox()))
	if err := nc.PublishRequest(subject.ClaimsLookup(chat.Key), sub.Subject, nil); err != nil {
		t.Fatal(err)
	}
	for range 9 {
		m, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			return nil // the links are not back yet
		}
		servers = append(servers, must(jwt.DecodeAccountClaims(string(m.Data))).Revocations)
	}
	return servers
}

// TestTwoAtOnce: administrators of two regions revoke many users each at the same moment, and
// again with no link between the regions; in the end all of them are denied on every server.
func TestTwoAtOnce(t *testing.T) {
	each, atOnce := 40, 10
	if os.Getenv("HERALD_LONG") != "" {
		each, atOnce = 500, 50
	}
	op := shared.Up.Platform.Operator
	chat := must(ident.ParseLabel("CHAT"))
	for _, parted := range []bool{false, true} {
		t.Run(fmt.Sprintf("parted=%t", parted), func(t *testing.T) {
			heal := func() {}
			at := []*nats.Conn{adminAt(t, "ams"), adminAt(t, "sgp")}
			if parted {
				heal = cut(t, "sgp")
			}
			// Nothing is known of them: that suspends and revokes them all the same.
			users := make([]ident.UserKey, 2*each)
			for i := range users {
				users[i] = must(ident.ParseUserKey(must(keystore.Generate(keystore.User)).Public()))
			}
			began := time.Now()
			var work sync.WaitGroup
			for i, nc := range at {
				for w := range atOnce {
					work.Go(func() {
						for j := w; j < each; j += atOnce {
							if _, err := client.Administer(t.Context(), op, nc, "revoke", wire.AdminRequest{User: users[i*each+j], Account: chat}); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
			}
			work.Wait()
			t.Logf("%d were revoked in %s", len(users), time.Since(began))
			heal()
			until := time.Now().Add(3 * soon)
			for {
				servers := revokedOn(t)
				lacks := (9 - len(servers)) * len(users)
				for _, has := range servers {
					for _, u := range users {
						if has[u.String()] == 0 {
							lacks++
						}
					}
				}
				if lacks == 0 {
					break
				}
				if time.Now().After(until) {
					t.Fatalf("servers lack %d revocations", lacks)
				}
				time.Sleep(50 * time.Millisecond) // servers are asked, they do not tell
			}
			t.Logf("all servers have them %s after the first", time.Since(began))
		})
	}
}
