package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// shared is the one platform of this test binary.
var shared *uptest.Platform //nolint:gochecknoglobals // as the only way from TestMain to the tests

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "client-test-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		shared, err = uptest.Start(dir, uptest.Options{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := errors.Join(shared.Close(), uptest.Leaks()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

type heard struct {
	creds chan client.Credential
	links chan bool
}

func connect(t *testing.T, region string, ttl time.Duration) (*client.Session, *heard) {
	t.Helper()
	return connectTo(t, shared.Public, region, ttl)
}

func connectTo(t *testing.T, pl *client.Platform, region string, ttl time.Duration) (*client.Session, *heard) {
	t.Helper()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ident.ParseRegion(region)
	if err != nil {
		t.Fatal(err)
	}
	h := &heard{make(chan client.Credential, 100), make(chan bool, 1000)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := client.Connect(ctx, client.Config{
		Platform: pl, Key: key, Region: r, Wish: client.Wish{Name: shared.Name("user"), TTL: ttl},
		OnCredential: func(c client.Credential) { h.creds <- c }, OnConnection: func(up bool) { h.links <- up },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s, h
}

func next[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// works sends a message to itself through the server.
func works(t *testing.T, s *client.Session) {
	t.Helper()
	room := shared.Public.Document.Chat.Rooms[0].Name
	posts, err := s.Conn.SubscribeSync(subject.Posts(room))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = posts.Unsubscribe() }()
	// What is under way in the moment in which a connection changes to a new credential
	// is lost, core NATS keeps nothing: so it may be posted again.
	for range 10 {
		if err := s.Conn.Publish(subject.Post(room, room), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err = posts.NextMsg(2 * time.Second); err == nil {
			return
		}
	}
	t.Fatalf("a post does not come back: %v", err)
}

func TestRenewal(t *testing.T) {
	s, h := connect(t, "ams", 7*time.Second)
	first := next(t, "credential", h.creds)
	works(t, s)
	second := next(t, "renewed credential", h.creds)
	if now := time.Now(); !now.Before(first.Expires) {
		t.Errorf("renewed at %v, after the first ended at %v", now, first.Expires)
	}
	if second.User.Key != first.User.Key || second.User.Name != first.User.Name || !second.Expires.After(first.Expires) || second.JWT == first.JWT {
		t.Errorf("renewed from %+v to %+v", first.User, second.User)
	}
	// The second renewal comes after the first credential has ended: what
	// works then works on the second.
	next(t, "second renewal", h.creds)
	if !time.Now().After(first.Expires) {
		t.Errorf("the second renewal came before the first credential had ended")
	}
	works(t, s)
	if s.Conn.IsClosed() {
		t.Error("the connection was closed for good")
	}
}

// TestIssuersAway: while nobody issues, who has a credential keeps it; when it
// has ended, the session goes on trying and is back when an issuer is.
func TestIssuersAway(t *testing.T) {
	s, h := connect(t, "ams", 4*time.Second)
	first := next(t, "credential", h.creds)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, svc := range shared.Up.Services {
		if svc.Service == service.Issuer {
			if err := svc.Drain(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	works(t, s)
	for next(t, "end of the connection", h.links) {
	}
	if time.Now().Before(first.Expires.Add(-time.Second)) {
		t.Errorf("disconnected at %v; the credential ends at %v", time.Now(), first.Expires)
	}
	kept := shared.Up.Services[:0]
	for _, svc := range shared.Up.Services {
		if svc.Service != service.Issuer {
			kept = append(kept, svc)
		}
	}
	shared.Up.Services = kept
	for _, r := range shared.Up.Platform.File.Regions {
		cfg, err := service.Load(filepath.Join(shared.Up.Platform.Dir.Issuer(r.Name), platform.ServiceFile))
		if err != nil {
			t.Fatal(err)
		}
		svc, err := cfg.Start(ctx, discard())
		if err != nil {
			t.Fatal(err)
		}
		shared.Up.Services = append(shared.Up.Services, svc)
	}
	next(t, "credential after the issuers are back", h.creds)
	for !next(t, "connection after the issuers are back", h.links) {
	}
	works(t, s)
}

func TestMovesWhenItsRegionGoes(t *testing.T) {
	s, h := connect(t, "sgp", time.Hour)
	next(t, "credential", h.creds)
	if s.Region().String() != "sgp" {
		t.Fatalf("connected to %s", s.Region())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if err := shared.Up.Cluster.StopRegion(ctx, s.Region()); err != nil {
		t.Fatal(err)
	}
	// Its servers stop one by one, so the first moves are within the region.
	for !next(t, "connection elsewhere", h.links) || s.Region().String() == "sgp" {
	}
	works(t, s)
	sgp, _ := ident.ParseRegion("sgp")
	if err := shared.Up.Cluster.StartRegion(ctx, sgp); err != nil {
		t.Fatal(err)
	}
}

func TestCachedCredential(t *testing.T) {
	s, h := connect(t, "ams", time.Hour)
	first := next(t, "credential", h.creds)
	_ = s
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody else's credential in the cache is not used.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	other, err := client.Connect(ctx, client.Config{Platform: shared.Public, Key: key, Wish: client.Wish{Name: shared.Name("other")}, Cached: first.JWT})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	if c := other.Credential(); c.User.Key.String() != key.Public() || c.Issuer == "" {
		t.Errorf("the cached credential of %s was used for %s", c.User.Key, key.Public())
	}
	again, err := client.Connect(ctx, client.Config{Platform: shared.Public, Key: key, Wish: client.Wish{Name: other.Credential().User.Name}, Cached: other.Credential().JWT})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(ctx)
	if c := again.Credential(); c.JWT != other.Credential().JWT {
		t.Error("a cached credential that serves was not used")
	}
}

func TestNameTaken(t *testing.T) {
	s, h := connect(t, "ams", time.Hour)
	first := next(t, "credential", h.creds)
	_ = s
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = shared.Public.Obtain(ctx, shared.Public.Document.URLs(ident.Region{}), key, client.Wish{Name: first.User.Name})
	if !errors.Is(err, &wire.Error{Code: wire.NameTaken}) {
		t.Errorf("%v", err)
	}
}

// TestImpostor: with an issuer's own credential one can answer first (a plain
// subscription is served before the queue group). What it answers is believed
// only if a region key sealed it and a role key signed it for the asker's nkey.
func TestImpostor(t *testing.T) {
	ams, _ := ident.ParseRegion("ams")
	folder := shared.Up.Platform.Dir.Issuer(ams)
	region, err := keystore.Load(filepath.Join(folder, platform.SealKeyFile), keystore.Curve)
	if err != nil {
		t.Fatal(err)
	}
	role, err := keystore.Load(filepath.Join(folder, "roles", "CHAT.member.nk"), keystore.Account)
	if err != nil {
		t.Fatal(err)
	}
	thief, stranger, other := generate(t, keystore.Curve), generate(t, keystore.Account), generate(t, keystore.User)
	for name, c := range map[string]struct {
		seal, sign *keystore.Key
		user       string // empty: the asker's own
	}{
		"sealed by a stranger":      {thief, role, ""},
		"for another nkey":          {region, role, other.Public()},
		"signed by an unknown role": {region, stranger, ""},
	} {
		t.Run(name, func(t *testing.T) {
			impostor(t, folder, func(r wire.Request) ([]byte, string, string) {
				user := c.user
				if user == "" {
					user = r.UserKey.String()
				}
				token := mint(t, c.sign, user, r.Name)
				body := answer(t, token, r.Name)
				sealed, err := wire.Seal(c.seal.Pair(), r.ReplyKey, body)
				if err != nil {
					t.Error(err)
				}
				return sealed, c.seal.Public(), token
			})
		})
	}
}

func generate(t *testing.T, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// mint makes what an issuer would, with whatever key.
func mint(t *testing.T, key *keystore.Key, user string, name ident.Name) string {
	t.Helper()
	account, _ := shared.Public.Document.Account(shared.Public.Document.Chat.Account)
	c := jwt.NewUserClaims(user)
	c.Name, c.IssuerAccount, c.Expires = name.String(), account.Key.String(), time.Now().Add(time.Hour).Unix()
	c.SetScoped(true)
	token, err := c.Encode(key.Pair())
	if err != nil {
		t.Error(err)
	}
	return token
}

func answer(t *testing.T, token string, name ident.Name) []byte {
	t.Helper()
	doc := shared.Public.Document
	account, _ := doc.Account(doc.Chat.Account)
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		t.Error(err)
		return nil
	}
	body, err := json.Marshal(wire.Answer{ // #nosec G117 -- a user JWT is no secret without its seed
		JWT: token, Account: account.Key, AccountName: account.Name, Role: account.Roles[0].Name, Name: name,
		Expires: c.Expires, RenewAt: c.Expires - 60, URLs: doc.URLs(doc.Home), Region: doc.Home, Issuer: "U",
	})
	if err != nil {
		t.Error(err)
	}
	return body
}

// impostor answers whoever asks in ams before the issuers do, and has somebody ask.
func impostor(t *testing.T, folder string, forge func(wire.Request) (body []byte, sealedBy, token string)) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ams, _ := ident.ParseRegion("ams")
	reg, _ := shared.Public.Document.Region(ams)
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: reg.URLs, Name: "impostor", Credential: natsconn.FileCredential{Path: filepath.Join(folder, platform.AuthCreds)},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer natsconn.Close(ctx, nc)
	forged := make(chan string, 100)
	if _, err := nc.Subscribe(subject.Issue, func(m *nats.Msg) {
		r, werr := wire.DecodeRequest(m.Data)
		if werr != nil {
			return
		}
		body, sealedBy, token := forge(r)
		resp := nats.NewMsg(m.Reply)
		resp.Data = body
		resp.Header.Set(wire.HeaderSealed, sealedBy)
		if err := nc.PublishMsg(resp); err == nil {
			forged <- token
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	key, name := generate(t, keystore.User), shared.Name("victim")
	// The real issuer may be quicker; then it is the real thing that comes.
	c, err := shared.Public.Obtain(short, reg.URLs, key, client.Wish{Name: name})
	if err != nil && !errors.Is(err, client.ErrUnreachable) && !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("%v", err)
	}
	if c.JWT == next(t, "answer of the impostor", forged) {
		t.Errorf("what the impostor made was believed")
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestWrongClock: a client whose clock is off by more than its credential lives
// joins, renews in time and no sooner, and stays connected.
func TestWrongClock(t *testing.T) {
	for name, off := range map[string]time.Duration{"two hours ahead": 2 * time.Hour, "two hours behind": -2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pl := shared.Public.WithClock(func() time.Time { return time.Now().Add(off) })
			began := time.Now()
			s, h := connectTo(t, pl, "ams", 5*time.Second)
			next(t, "credential", h.creds)
			works(t, s)
			next(t, "renewed credential", h.creds)
			if took := time.Since(began); took < 2*time.Second {
				t.Errorf("renewed after %v of 5 s", took)
			}
			next(t, "second renewal", h.creds)
			works(t, s)
			if n := len(h.creds); n > 0 {
				t.Errorf("renewed %d times more than was due", n)
			}
		})
	}
}

// TestEndedByTheServer: a cached credential that has ended, though our clock
// does not say so, is replaced as soon as a server refuses it.
func TestEndedByTheServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	urls := shared.Public.Document.URLs(ident.Region{})
	first, err := shared.Public.Obtain(ctx, urls, key, client.Wish{Name: shared.Name("ended"), TTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for time.Now().Before(first.User.Expires.Add(100 * time.Millisecond)) {
		time.Sleep(50 * time.Millisecond) // until the moment that the servers go by
	}
	creds := make(chan client.Credential, 10)
	behind := shared.Public.WithClock(func() time.Time { return time.Now().Add(-time.Hour) })
	again, err := client.Connect(ctx, client.Config{
		Platform: behind, Key: key, Wish: client.Wish{Name: first.User.Name}, Cached: first.JWT,
		OnCredential: func(c client.Credential) { creds <- c },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(ctx)
	if c := next(t, "cached credential", creds); c.JWT != first.JWT {
		t.Fatal("the cached credential was not used, so nothing was tested")
	}
	next(t, "new credential", creds)
}
