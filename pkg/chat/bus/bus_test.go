package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/chat/bus"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// Nothing of a Bus may outlive Close.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func label(s string) ident.Label { return must(ident.ParseLabel(s)) }
func name(s string) ident.Name   { return must(ident.ParseName(s)) }

// platform is a real server with the account CHAT and two roles in it: member,
// as docs/architecture.md has it, and mute, who may read but not post.
type platform struct {
	servers *supercluster.Supercluster
	account string // public key of CHAT
	roles   map[string]nkeys.KeyPair
	region  ident.Region
}

// rooms are those that the roles may use: one for each test.
func rooms() []ident.Label {
	var l []ident.Label
	for i := range 10 {
		l = append(l, label(fmt.Sprintf("R%d", i)))
	}
	return l
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	op, signer := must(nkeys.CreateOperator()), must(nkeys.CreateOperator())
	sys, pusher, acc := must(nkeys.CreateAccount()), must(nkeys.CreateAccount()), must(nkeys.CreateAccount())
	oc := jwt.NewOperatorClaims(must(op.PublicKey()))
	oc.SystemAccount, oc.StrictSigningKeyUsage = must(sys.PublicKey()), true
	oc.SigningKeys.Add(must(signer.PublicKey()))
	sc := jwt.NewAccountClaims(oc.SystemAccount)
	pushes := jwt.NewUserScope()
	pushes.Key = must(pusher.PublicKey())
	sc.SigningKeys.AddScopedSigner(pushes)
	p := &platform{account: must(acc.PublicKey()), roles: map[string]nkeys.KeyPair{}, region: must(ident.ParseRegion("ams"))}
	ac := jwt.NewAccountClaims(p.account)
	for _, role := range []string{"member", "mute"} {
		kp := must(nkeys.CreateAccount())
		p.roles[role] = kp
		scope := jwt.NewUserScope()
		scope.Key, scope.Role = must(kp.PublicKey()), role
		for _, r := range rooms() {
			if role == "member" {
				scope.Template.Pub.Allow.Add(strings.Replace(subject.Posts(r), "*", ">", 1))
			}
			scope.Template.Pub.Allow.Add(subject.Online(r), subject.DMs(r))
			scope.Template.Sub.Allow.Add(subject.Posts(r), subject.Online(r), subject.OwnDMs(r))
		}
		scope.Template.Sub.Allow.Add(subject.UserInbox)
		ac.SigningKeys.AddScopedSigner(scope)
	}

	const free = "127.0.0.1:0"
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p.servers = must(supercluster.Start(ctx, supercluster.Config{
		Dir: t.TempDir(), Operator: must(oc.Encode(op)), SystemAccount: must(sc.Encode(signer)),
		Regions: []supercluster.Region{{Name: p.region, Nodes: []supercluster.Node{{Name: "ams-1", Client: free}}}},
	}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.servers.Close(ctx); err != nil {
			t.Error(err)
		}
	})

	nc := must(nats.Connect(p.url(), creds(must(nkeys.CreateUser()), "", pusher, oc.SystemAccount)))
	defer nc.Close()
	answer := must(nc.RequestWithContext(ctx, subject.ClaimsUpdate, []byte(must(ac.Encode(signer)))))
	if !strings.Contains(string(answer.Data), `"code":200`) {
		t.Fatalf("pushing the account: %s", answer.Data)
	}
	return p
}

func (p *platform) url() string { return strings.Join(p.servers.URLs(p.region), ",") }

func userJWT(kp nkeys.KeyPair, as string, signer nkeys.KeyPair, account string) string {
	uc := jwt.NewUserClaims(must(kp.PublicKey()))
	uc.Name, uc.IssuerAccount = as, account
	uc.UserPermissionLimits = jwt.UserPermissionLimits{}
	return must(uc.Encode(signer))
}

func creds(kp nkeys.KeyPair, as string, signer nkeys.KeyPair, account string) nats.Option {
	token := userJWT(kp, as, signer, account)
	return nats.UserJWT(func() (string, error) { return token, nil }, kp.Sign)
}

// verify stands for pkg/trust: the roles' keys are known.
func (p *platform) verify(token string, _ time.Time) (ident.UserKey, ident.Name, error) {
	uc, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return ident.UserKey{}, ident.Name{}, err
	}
	for _, role := range p.roles {
		if uc.Issuer == must(role.PublicKey()) {
			key, err := ident.ParseUserKey(uc.Subject)
			return key, name(uc.Name), err
		}
	}
	return ident.UserKey{}, ident.Name{}, errors.New("no role key of the platform")
}

// person is someone at the chat.
type person struct {
	*bus.Bus
	t *testing.T
	signer
	conn *nats.Conn
	beat chan time.Time
}

type signer struct {
	kp  nkeys.KeyPair
	key ident.UserKey
}

func (s signer) Public() ident.UserKey         { return s.key }
func (s signer) Sign(b []byte) ([]byte, error) { return s.kp.Sign(b) }

// join brings someone into a room. Only the test makes regular heartbeats.
func (p *platform) join(t *testing.T, room ident.Label, as, role string, edit func(*bus.Config)) *person {
	t.Helper()
	kp := must(nkeys.CreateUser())
	who := &person{t: t, signer: signer{kp, must(ident.ParseUserKey(must(kp.PublicKey())))}, beat: make(chan time.Time)}
	var made atomic.Pointer[bus.Bus]
	handler := func(_ *nats.Conn, sub *nats.Subscription, err error) {
		if b := made.Load(); b != nil {
			b.HandleError(sub, err)
		}
	}
	who.conn = must(nats.Connect(p.url(), creds(kp, as, p.roles[role], p.account), nats.ErrorHandler(handler),
		nats.CustomInboxPrefix(subject.UserInboxPrefix(who.key)),
		nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)))
	t.Cleanup(who.conn.Close)
	token := userJWT(kp, as, p.roles[role], p.account)
	cfg := bus.Config{
		Conn: who.conn, Room: room, Name: name(as), Signer: who.signer,
		UserJWT: func() string { return token }, Verify: p.verify, Beat: who.beat,
		Region: func() ident.Region { return p.region }, // a single server is no cluster with a name
		Jitter: func(time.Duration) time.Duration { return 0 },
	}
	if edit != nil {
		edit(&cfg)
	}
	b, err := bus.New(t.Context(), cfg)
	if err != nil {
		t.Fatalf("%s joins: %v", as, err)
	}
	who.Bus = b
	made.Store(b)
	t.Cleanup(b.Close)
	return who
}

// wait takes events until one is as is says.
func wait[E chat.Event](who *person, what string, is func(E) bool) E {
	who.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case ev, ok := <-who.Events():
			if !ok {
				who.t.Fatalf("the events ended before %s", what)
			}
			if e, ok := ev.(E); ok && is(e) {
				return e
			}
		case <-timeout:
			who.t.Fatalf("there was no %s", what)
		}
	}
}

func text(s string) func(chat.Received) bool {
	return func(e chat.Received) bool { return e.Message.Text == s }
}

func heartbeatOf(who *person) func(chat.Received) bool {
	return func(e chat.Received) bool { return e.Message.Kind == chat.KindOnline && e.Message.From == who.key }
}

func TestBus(t *testing.T) {
	p := newPlatform(t)
	general := label("General")

	t.Run("talk", func(t *testing.T) {
		alice := p.join(t, label("R0"), "alice", "member", nil)
		first := wait(alice, "connection", func(chat.ConnectionChanged) bool { return true })
		if first.State != chat.Connected || first.Region != p.region {
			t.Errorf("first event %+v", first)
		}
		bob := p.join(t, label("R0"), "bob", "member", nil)

		// alice was there first: bob hears of her because she answers his first
		// heartbeat, not because of a regular one.
		m := wait(bob, "heartbeat of alice", heartbeatOf(alice)).Message
		if m.Name != name("alice") || m.Region != p.region {
			t.Errorf("heartbeat %+v", m)
		}
		if err := bob.SendDM(t.Context(), name("alice"), "psst"); err != nil {
			t.Fatal(err)
		}
		m = wait(alice, "direct message", text("psst")).Message
		if m.Kind != chat.KindDM || m.To != alice.key || m.From != bob.key || m.Doubt != chat.None {
			t.Errorf("direct message %+v", m)
		}
		// In the order in which they were sent, and without one's own echo.
		for i := range 50 {
			bob.Do(chat.SendPost{Seq: uint64(i), Channel: general, Text: fmt.Sprint("post ", i)})
			wait(bob, "confirmation", func(s chat.Sent) bool { return s.Seq == uint64(i) && s.Err == nil })
		}
		for i := range 50 {
			wait(alice, "post", func(e chat.Received) bool {
				if e.Message.Kind != chat.KindPost {
					return false
				}
				if e.Message.Text != fmt.Sprint("post ", i) {
					t.Fatalf("post %d is %q", i, e.Message.Text)
				}
				return true
			})
		}
		if err := alice.SendPost(t.Context(), general, "last"); err != nil {
			t.Fatal(err)
		}
		wait(bob, "last post", func(e chat.Received) bool {
			if e.Message.From == bob.key {
				t.Errorf("an echo: %+v", e.Message)
			}
			return e.Message.Text == "last"
		})
		if got := fmt.Sprint(alice.People()); got != "[bob]" {
			t.Errorf("people: %s", got)
		}
	})

	t.Run("a direct message waits for its recipient", func(t *testing.T) {
		alice := p.join(t, label("R1"), "alice", "member", nil)
		done := make(chan error, 1)
		go func() { done <- alice.SendDM(t.Context(), name("bob"), "are you there?") }()
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		bob := p.join(t, label("R1"), "bob", "member", nil)
		wait(bob, "direct message", text("are you there?"))
		if err := <-done; err != nil {
			t.Error(err)
		}
		nobody := p.join(t, label("R1"), "carol", "member", func(c *bus.Config) { c.Wait = 10 * time.Millisecond })
		if err := nobody.SendDM(t.Context(), name("dave"), "x"); !errors.Is(err, bus.ErrNotHere) {
			t.Errorf("error %v, want ErrNotHere", err)
		}
	})

	t.Run("what the server refuses is said", func(t *testing.T) {
		mute := p.join(t, label("R2"), "mute", "mute", nil)
		alice := p.join(t, label("R2"), "alice", "member", nil)
		err := mute.SendPost(t.Context(), general, "x")
		if !errors.Is(err, bus.ErrRefused) || !strings.Contains(err.Error(), `Permissions Violation for Publish to "chat.R2.posts.General"`) {
			t.Errorf("error %v", err)
		}
		// An old refusal is not taken for that of something else.
		if err := mute.SendDMTo(t.Context(), "this I may", alice.key); err != nil {
			t.Error(err)
		}
		mute.Do(chat.SendPost{Seq: 7, Channel: general, Text: "x"})
		s := wait(mute, "answer", func(chat.Sent) bool { return true })
		if s.Seq != 7 || !errors.Is(s.Err, bus.ErrRefused) {
			t.Errorf("answer %+v", s)
		}
		alice.Do(chat.Snoop{Name: name("mute"), Key: mute.key})
		r := wait(alice, "answer to Snoop", func(chat.SnoopResult) bool { return true })
		want := `Permissions Violation for Subscription to "chat.R2.dms.` + mute.key.String() + `"`
		if !errors.Is(r.Err, bus.ErrRefused) || !strings.Contains(r.Err.Error(), want) {
			t.Errorf("answer %+v", r)
		}
		// One's own may be read.
		if err := alice.Snoop(t.Context(), alice.key); err != nil {
			t.Error(err)
		}
		// A room that the role does not have.
		_, err = bus.New(t.Context(), bus.Config{Conn: alice.conn, Room: label("Other"), Name: name("alice"), Signer: alice.signer})
		if !errors.Is(err, bus.ErrRefused) {
			t.Errorf("error %v, want ErrRefused", err)
		}
	})

	t.Run("texts and channels", func(t *testing.T) {
		alice := p.join(t, label("R3"), "alice", "member", func(c *bus.Config) { c.Channels = []ident.Label{general} })
		if err := alice.SendPost(t.Context(), label("Genral"), "x"); !errors.Is(err, bus.ErrNoChannel) {
			t.Errorf("error %v, want ErrNoChannel", err)
		}
		if err := alice.SendPost(t.Context(), general, "\x1b"); !errors.Is(err, chat.ErrText) {
			t.Errorf("error %v, want ErrText", err)
		}
	})

	t.Run("what is no message is counted", func(t *testing.T) {
		alice := p.join(t, label("R4"), "alice", "member", nil)
		bob := p.join(t, label("R4"), "bob", "member", nil)
		for _, s := range []string{subject.Post(label("R4"), general), subject.Online(label("R4")), subject.DM(label("R4"), alice.key)} {
			for _, d := range []string{"", "x", "a.b.c", strings.Repeat("x", 20000)} {
				if err := bob.conn.Publish(s, []byte(d)); err != nil {
					t.Fatal(err)
				}
			}
		}
		wait(alice, "count", func(c chat.Counted) bool { return c.Rejected == 12 && c.Dropped == 0 })
	})

	t.Run("nobody takes the events", func(t *testing.T) {
		alice := p.join(t, label("R5"), "alice", "member", func(c *bus.Config) { c.Buffer = 10 })
		bob := p.join(t, label("R5"), "bob", "member", nil)
		for i := range 100 {
			if err := bob.SendPost(t.Context(), general, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		// Everything else goes on.
		if err := alice.SendDM(t.Context(), name("bob"), "still here"); err != nil {
			t.Fatal(err)
		}
		wait(bob, "direct message", text("still here"))
		c := wait(alice, "count", func(c chat.Counted) bool { return c.Dropped > 0 })
		if c.Dropped > 100 {
			t.Errorf("%+v", c)
		}
	})

	t.Run("heartbeats", func(t *testing.T) {
		alice := p.join(t, label("R6"), "alice", "member", nil)
		bob := p.join(t, label("R6"), "bob", "member", nil)
		wait(alice, "first heartbeat of bob", heartbeatOf(bob))
		wait(bob, "heartbeat of alice", heartbeatOf(alice))
		bob.beat <- time.Time{}
		wait(alice, "regular heartbeat of bob", heartbeatOf(bob))
		bob.Do(chat.SetStatus{Status: chat.Away})
		wait(alice, "away", func(e chat.Received) bool { return e.Message.Status == chat.Away })
		bob.beat <- time.Time{}
		wait(alice, "still away", func(e chat.Received) bool { return e.Message.Status == chat.Away })
		bob.Announce()
		wait(alice, "announced", heartbeatOf(bob))
		bob.Close()
		wait(alice, "goodbye", func(e chat.Received) bool { return e.Message.Status == chat.Gone })
	})

	t.Run("close", func(t *testing.T) {
		alice := p.join(t, label("R7"), "alice", "member", nil)
		bob := p.join(t, label("R7"), "bob", "member", nil)
		wait(bob, "heartbeat", heartbeatOf(alice))
		// What was taken is sent.
		for i := range 5 {
			alice.Do(chat.SendPost{Seq: uint64(i), Channel: general, Text: fmt.Sprint("last ", i)})
		}
		alice.Close()
		wait(bob, "last post", text("last 4"))
		for range alice.Events() { //nolint:revive // until it is closed
		}
		alice.Close()
		alice.Tell(chat.Tick{})
		for range 200 {
			alice.Do(chat.SendPost{Channel: general, Text: "x"})
		}
		if err := alice.SendPost(t.Context(), general, "x"); !errors.Is(err, bus.ErrClosed) {
			t.Errorf("error %v, want ErrClosed", err)
		}
	})

	t.Run("errors of the connection", func(t *testing.T) {
		alice := p.join(t, label("R9"), "alice", "member", nil)
		violation := func(what string) error {
			return fmt.Errorf("%w: Permissions Violation for %s", nats.ErrPermissionViolation, what)
		}
		for _, err := range []error{nats.ErrTimeout, nats.ErrAuthorization, violation(`Publish to "other"`), violation(`Subscription to "chat.R1.online"`)} {
			if alice.HandleError(nil, err) {
				t.Errorf("%v is taken for the bus's", err)
			}
		}
		for _, err := range []error{violation(`Publish to "chat.R9.posts.General"`), violation(`Subscription to "chat.R9.online"`)} {
			if !alice.HandleError(nil, err) {
				t.Errorf("%v is not taken for the bus's", err)
			}
		}
		n := wait(alice, "notice", func(chat.Notice) bool { return true })
		if n.Text != `the server refused it: Permissions Violation for Subscription to "chat.R9.online"` {
			t.Errorf("notice %q", n.Text)
		}
	})

	// Last, because it stops the server.
	t.Run("reconnect", func(t *testing.T) {
		alice := p.join(t, label("R8"), "alice", "member", nil)
		bob := p.join(t, label("R8"), "bob", "member", nil)
		wait(alice, "heartbeat of bob", heartbeatOf(bob))
		wait(bob, "heartbeat of alice", heartbeatOf(alice))
		if err := p.servers.StopNode(t.Context(), "ams-1"); err != nil {
			t.Fatal(err)
		}
		wait(alice, "loss", func(c chat.ConnectionChanged) bool { return c.State == chat.Reconnecting })
		if err := alice.SendPost(t.Context(), general, "x"); !errors.Is(err, bus.ErrNotConnected) {
			t.Errorf("error %v, want ErrNotConnected", err)
		}
		if err := p.servers.StartNode(t.Context(), "ams-1"); err != nil {
			t.Fatal(err)
		}
		// Each sends a heartbeat on its own, without a regular one: whoever is
		// back later is heard by the other.
		back, heard := map[*person]bool{}, false
		see := func(who, other *person, e chat.Event) {
			switch e := e.(type) {
			case chat.ConnectionChanged:
				back[who] = e.State == chat.Connected && e.Region == p.region
			case chat.Received:
				heard = heard || heartbeatOf(other)(e)
			}
		}
		timeout := time.After(20 * time.Second)
		for !heard || !back[alice] || !back[bob] {
			select {
			case e := <-alice.Events():
				see(alice, bob, e)
			case e := <-bob.Events():
				see(bob, alice, e)
			case <-timeout:
				t.Fatalf("heard %v, back %v", heard, back)
			}
		}
		if err := bob.SendPost(t.Context(), general, "back"); err != nil {
			t.Error(err)
		}
		wait(alice, "post", text("back"))
	})
}
