package rightstest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	jet "github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// 14: a CONNECT of more than 4,096 bytes is refused. The longest names must
// leave room for tags that come later.
func TestConnectFits(t *testing.T) {
	const limit, comfortable = 4096, 2560
	ctx := bound(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nobody dials any more
	lines := make(chan string, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(lines)
				return
			}
			_, _ = conn.Write([]byte(`INFO {"server_id":"x","version":"2.15.2","headers":true,"nonce":"` + strings.Repeat("n", 22) + `","max_payload":1048576}` + "\r\n"))
			line, _ := bufio.NewReader(conn).ReadString('\n')
			_ = conn.Close() // it said what it had to
			lines <- line
		}
	}()

	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	long := must(ident.ParseName(strings.Repeat("n", 31) + "1"))
	c, err := shared.Public.Obtain(ctx, urls("ams"), key, client.Wish{Name: long})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.JWT) >= 1<<10 {
		t.Errorf("a user JWT of %d bytes", len(c.JWT))
	}
	for _, u := range []user{{"member", c.JWT, key}, guest(t), issuerOf(t, "ams"), registrarOf(t, "ams"), systemOf(t, "ams")} {
		nc, err := natsconn.Dial(ctx, natsconn.Options{
			URLs: []string{"nats://" + l.Addr().String()}, Name: long.String(), Credential: natsconn.Static{Token: u.token, Key: u.key},
		})
		if err == nil {
			nc.Close()
			t.Fatal("it connected to nobody")
		}
		line := <-lines
		if !strings.HasPrefix(line, "CONNECT ") || !strings.Contains(line, u.token) {
			t.Fatalf("%s sends %.40q", u.what, line)
		}
		if len(line) > comfortable {
			t.Errorf("%s: a CONNECT of %d bytes of %d", u.what, len(line), limit)
		}
	}
}

// stale is a credential that has expired until it is renewed, as when no issuer
// answered for a while.
type stale struct {
	first, renewed user
	asked          atomic.Int64
}

// staleTries is more than nats.go takes before it gives up for good.
const staleTries = 4

func (s *stale) JWT() (string, error) {
	if s.asked.Add(1) <= 1+staleTries {
		return s.first.token, nil
	}
	return s.renewed.token, nil
}

func (s *stale) Sign(nonce []byte) ([]byte, error) { return s.first.key.Sign(nonce) }

// 20: at its expiry a connection ends, and nats.go would close it for good after
// two equal refusals. Ours comes back when the credential is fresh.
func TestStaleCredential(t *testing.T) {
	ctx := bound(t)
	memberKey := load(t, rolePath(platform.ChatIn, platform.RoleMember), keystore.Account)
	var s stale
	s.first = forge(t, memberKey, func(c *jwt.UserClaims) { c.Expires = time.Now().Unix() + 2 })
	s.renewed = forge(t, memberKey, func(c *jwt.UserClaims) { c.Subject = s.first.key.Public() })
	back := make(chan struct{}, 16)
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: urls("sgp"), Name: "stale", Credential: &s, InboxPrefix: subject.UserInboxPrefix(s.first.nkey()),
		OnReconnect: func(*nats.Conn) { back <- struct{}{} }, // as often as there are tries, at most
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	// In the second of its expiry a server may take it once more.
	for s.asked.Load() < 2+staleTries || !nc.IsConnected() {
		select {
		case <-back:
		case <-ctx.Done():
			t.Fatalf("after %d tries the connection is %v: %v", s.asked.Load(), nc.Status(), nc.LastError())
		}
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Error(err)
	}
	if nc.IsClosed() {
		t.Error("the connection is closed for good")
	}
}

// 21: requests stay in their region while an issuer serves there; when it has
// drained another region's answers, at once and without an error; and it is
// back when it is back.
func TestDrainedIssuer(t *testing.T) {
	ctx := bound(t)
	at := region("sfo")
	obtain := func() client.Credential {
		t.Helper()
		key, err := keystore.Generate(keystore.User)
		if err != nil {
			t.Fatal(err)
		}
		c, err := shared.Public.Obtain(ctx, urls("sfo"), key, client.Wish{Name: shared.Name("drain")})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := obtain(); c.Region != at {
		t.Fatalf("with an issuer in %s, %s answers", at, c.Region)
	}
	i := slices.IndexFunc(shared.Up.Services, func(r *service.Running) bool { return r.Service == service.Issuer && r.Region == at })
	if i < 0 {
		t.Fatal("no issuer")
	}
	if err := shared.Up.Services[i].Drain(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if c := obtain(); c.Region == at {
		t.Errorf("an issuer that has drained answers")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("another region answered after %v", took)
	}
	cfg, err := service.Load(filepath.Join(dir().Issuer(at), platform.ServiceFile))
	if err != nil {
		t.Fatal(err)
	}
	again, err := cfg.Start(ctx, logger())
	if err != nil {
		t.Fatal(err)
	}
	shared.Up.Services[i] = again
	// The interest of the new one spreads: soon, but not at once.
	for end := time.Now().Add(patience); obtain().Region != at; {
		if time.Now().After(end) {
			t.Fatal("the issuer that is back is not asked")
		}
	}
}

// 55: of many who write at one moment one wins, and all others are told that it
// was a conflict, whichever of its two codes the servers had for it at replicas 3.
func TestLostCompareAndSet(t *testing.T) {
	ctx := bound(t)
	const writers, rounds = 6, 6
	nc := attach(t, homeOf(t, "ams"), "ams")
	store, err := jetstream.NewDecisions(nc)
	if err != nil {
		t.Fatal(err)
	}
	far, err := jetstream.NewDecisions(attach(t, minted(t, platform.Ledger, platform.RoleHome), "sgp"))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jet.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	codes := map[jet.ErrorCode]int{}
	for range rounds {
		key := ledger.NameKey(shared.Name("race"))
		var won atomic.Int64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				s := store
				if w%2 == 1 {
					s = far
				}
				switch err := s.Put(ctx, key, fmt.Sprint("writer ", w), 0); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ledger.ErrConflict):
					t.Errorf("a lost write is %v", err)
				}
			})
			// The same beside it, to see the codes.
			wg.Go(func() {
				_, err := js.Publish(ctx, subject.Decision(key.String()), []byte("raw"), jet.WithExpectLastSequencePerSubject(0))
				var api *jet.APIError
				switch {
				case err == nil:
					won.Add(1)
				case errors.As(err, &api):
					mu.Lock()
					codes[api.ErrorCode]++
					mu.Unlock()
				default:
					t.Errorf("a raw write: %v", err)
				}
			})
		}
		wg.Wait()
		if n := won.Load(); n != 1 {
			t.Errorf("%d writers won", n)
		}
		// And the one that comes late.
		if err := store.Put(ctx, key, "late", 0); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("a late write: %v", err)
		}
	}
	t.Logf("codes of lost writes: %v", codes)
	for code := range codes {
		if code != 10071 && code != 10164 {
			t.Errorf("a lost write has code %d", code)
		}
	}
	if codes[10071] == 0 && codes[10164] == 0 {
		t.Error("nobody lost: nothing is shown")
	}
}
