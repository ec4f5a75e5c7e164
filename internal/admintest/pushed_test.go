package admintest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

// repairedWithin is how long what somebody pushed over an account may stay.
const repairedWithin = slower * 5 * time.Second

// system is somebody in SYS, where a right to push is a right to push anything.
func system(t *testing.T) *nats.Conn {
	t.Helper()
	u := must(shared.Up.Platform.Mint("SYS", "registrar", time.Now(), time.Hour))
	nc, err := nats.Connect(strings.Join(allURLs(), ","), nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign),
		nats.CustomInboxPrefix("_INBOX.svc."+u.Key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// held are the JWTs that servers have of an account, each once.
func held(t *testing.T, nc *nats.Conn, key string) []string {
	t.Helper()
	for end := time.Now().Add(soon); ; {
		if all := lookup(t, nc, key); len(all) == 9 {
			slices.Sort(all)
			return slices.Compact(all)
		}
		if time.Now().After(end) {
			t.Fatal("not all servers answer")
		}
	}
}

// lookup asks all servers once. Another region may answer before it knows who listens here.
func lookup(t *testing.T, nc *nats.Conn, key string) (all []string) {
	t.Helper()
	inbox := nc.NewRespInbox()
	sub := must(nc.SubscribeSync(inbox))
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest("$SYS.REQ.ACCOUNT."+key+".CLAIMS.LOOKUP", inbox, nil); err != nil {
		t.Fatal(err)
	}
	for range 9 {
		m, err := sub.NextMsg(time.Second)
		if err != nil {
			return all
		}
		all = append(all, string(m.Data))
	}
	return all
}

// TestPushedOver: an older JWT, one of another operator and garbage are pushed over an account. Who
// was revoked is out again and everybody else is in within five seconds; it is said and recorded.
func TestPushedOver(t *testing.T) {
	name := account(int(fresh.Add(1)))
	access, _ := newKey(t, name+"/service")
	gone, stays := joinsBy(t, "ams", name, access), joinsBy(t, "ams", name, access)
	knows(t, adminAt(t, "ams"), ident.KeyIdentity(access.ID), 2)
	sys := system(t)
	acc, _ := shared.Up.Platform.Account(name)
	key := acc.Key.String()
	// Several may say the same, each signed by another registrar: those are left as they are.
	old := held(t, sys, key)
	deny(t, cli.OK, "revoke", "user", gone.user.String(), "--yes", "--wait", "20s")
	gone.isOut(t, allURLs()...)

	claims := must(jwt.DecodeAccountClaims(old[0]))
	claims.Limits.Conn = 0 // nobody could connect
	stranger := must(keystore.Generate(keystore.Operator))
	foreign := must(claims.Encode(stranger.Pair()))
	pushes := 0
	for _, c := range []struct{ what, token, says string }{
		{"an older one", old[0], "accounts had been pushed over; they are repaired"},
		{"another operator's", foreign, "no key of this platform's operator signed"},
		{"garbage", "garbage", ""},
	} {
		from := len(log.Bytes())
	again:
		began := time.Now()
		if err := sys.Publish("$SYS.REQ.CLAIMS.UPDATE", []byte(c.token)); err != nil {
			t.Fatal(err)
		}
		taken := slices.Contains(held(t, sys, key), c.token)
		for {
			wrong := slices.ContainsFunc(held(t, sys, key), func(token string) bool {
				d, err := jwt.DecodeAccountClaims(token)
				return err != nil || d.Revocations[gone.user.String()] == 0 || d.Issuer == stranger.Public()
			})
			if !wrong {
				break
			}
			if time.Since(began) > repairedWithin {
				t.Fatalf("%s: it is not repaired", c.what)
			}
			time.Sleep(20 * time.Millisecond) // servers tell nobody
		}
		t.Logf("%s: taken by a server: %t; repaired after %s", c.what, taken, time.Since(began).Round(time.Millisecond))
		if c.says == "" && taken {
			t.Errorf("%s: a server has taken it", c.what)
		}
		gone.isOut(t, allURLs()...)
		for _, url := range allURLs() {
			nc, err := stays.dial(url)
			if err != nil {
				t.Fatalf("%s: who is not meant, at %s: %v", c.what, url, err)
			}
			nc.Close()
		}
		if c.says == "" {
			continue
		}
		for end := time.Now().Add(2 * time.Second); !strings.Contains(string(log.Bytes()[from:]), c.says); {
			if time.Now().After(end) {
				// Within a second of the revocation it may be taken for servers that are late.
				if pushes++; pushes > 5 {
					t.Fatalf("%s: no registrar says so:\n%s", c.what, log.Tail(12, "account"))
				}
				goto again
			}
			time.Sleep(20 * time.Millisecond) // as above
		}
	}
	for end := time.Now().Add(soon); ; {
		code, out, _ := tell(t, "audit", "search", "--what", "change", "--key", "base."+key, "--json")
		if code == cli.OK && strings.Contains(out, `"repair"`) && strings.Contains(out, stranger.Public()) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it is not recorded: %s", out)
		}
		time.Sleep(50 * time.Millisecond) // records are read, not told
	}
}
