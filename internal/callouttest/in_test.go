package callouttest

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

// patience bounds every wait for a message.
const patience = 5 * time.Second

// TestPassword: a plain client comes in with an access key, by tcp and by websocket alike lands
// in the key's account with its role, and is answered there.
func TestPassword(t *testing.T) {
	k := newKey(t)
	nc := comesIn(t, nats.UserInfo(k.id, k.secret), nats.CustomInboxPrefix(k.inbox()))
	sub, err := nc.Subscribe("orders.new", func(m *nats.Msg) { _ = m.Respond([]byte("done")) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	m, err := nc.Request("orders.new", nil, patience)
	if err != nil || string(m.Data) != "done" {
		t.Fatalf("%v %v", m, err)
	}
	// Who has a credential of ORDERS hears it, and who is elsewhere does not.
	inside, outside := heard(t, jwtOf(t, "ORDERS", "worker"), "orders.x"), heard(t, jwtOf(t, "CHAT", "member"), "chat.KUBECON.online")
	reaches(t, nc, "orders.x", inside)
	forbidden(t, nc, func() error { return nc.Publish("chat.KUBECON.online", nil) })
	if n, _, _ := outside.Pending(); n != 0 {
		t.Error("it is heard in the chat")
	}
}

// heard subscribes, so that what comes from then on is there.
func heard(t *testing.T, nc *nats.Conn, subj string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subj)
	if err := errors.Join(err, nc.Flush()); err != nil {
		t.Fatal(err)
	}
	return sub
}

// reaches says something until it is heard: servers do not know at once who listens at another.
func reaches(t *testing.T, from *nats.Conn, subj string, sub *nats.Subscription) {
	t.Helper()
	for until := time.Now().Add(patience); ; {
		if err := errors.Join(from.Publish(subj, []byte("hello")), from.Flush()); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(100 * time.Millisecond)
		if err == nil && string(m.Data) == "hello" {
			return
		}
		if !errors.Is(err, nats.ErrTimeout) || time.Now().After(until) {
			t.Fatalf("%s is not heard by who may hear it: %v %v", subj, m, err)
		}
	}
}

// jwtOf is a connection with a credential of a role.
func jwtOf(t *testing.T, account, role string) *nats.Conn {
	t.Helper()
	u, err := shared.Up.Platform.Mint(account, role, time.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := connect(nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// forbidden holds that a server refuses something.
func forbidden(t *testing.T, nc *nats.Conn, do func() error) {
	t.Helper()
	refused := make(chan error, 8)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	if err := errors.Join(do(), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it is allowed")
	}
}

// TestRights: what a plain client has no right to, whatever its library does by itself.
func TestRights(t *testing.T) {
	k, other := newKey(t), newKey(t)
	nc := comesIn(t, nats.UserInfo(k.id, k.secret))
	subscribe := func(subj string) func() error {
		return func() error { _, err := nc.SubscribeSync(subj); return err }
	}
	for _, subj := range []string{
		// Its library's own inbox, which is everybody's; another's; all of them.
		nats.NewInbox(), "_INBOX.>", other.inbox() + ".>", ">", "_R_.>", "$SYS.>", "$SYS.REQ.USER.AUTH", "auth.v1.>", "auth.v1.callout", "chat.>", "$SRV.>",
	} {
		t.Run("subscribe "+subj, func(t *testing.T) { forbidden(t, nc, subscribe(subj)) })
	}
	for _, subj := range []string{
		"auth.v1.callout", "auth.v1.renew", "auth.v1.issue", "auth.v1.info", "$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING",
		"$SYS.REQ.CLAIMS.UPDATE", "$JS.API.INFO", other.inbox() + ".x", "_R_.x", "audit.ams.x",
	} {
		t.Run("publish "+subj, func(t *testing.T) { forbidden(t, nc, func() error { return nc.Publish(subj, nil) }) })
	}
	if err := errors.Join(subscribe(k.inbox()+".mine")(), nc.Flush(), nc.LastError()); err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		t.Error(err)
	}
}

// TestCalloutInbox: each has an inbox of their own, though the server gives them another nkey
// each time; with the one of the nkey a plain client would have none.
func TestCalloutInbox(t *testing.T) {
	k := newKey(t)
	first := comesIn(t, nats.UserInfo(k.id, k.secret), nats.CustomInboxPrefix(k.inbox()))
	second := comesIn(t, nats.UserInfo(k.id, k.secret), nats.CustomInboxPrefix(k.inbox()))
	sub := heard(t, first, k.inbox()+".hello")
	reaches(t, second, k.inbox()+".hello", sub)
}

// TestNobodyStays: in DOOR itself is nobody, whatever they bring.
func TestNobodyStays(t *testing.T) {
	refused := func(what string, o ...nats.Option) {
		t.Helper()
		began := time.Now()
		nc, err := connect(o...)
		if err == nil {
			nc.Close()
		}
		if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", what, err)
		}
		// A role of bearers that is none would have servers wait for their time-out.
		if took := time.Since(began); took > 1900*time.Millisecond {
			t.Errorf("%s: it takes %s", what, took)
		}
	}
	refused("nothing")
	refused("a password of nobody", nats.UserInfo("me", "hunter2"))
	refused("a token of nobody", nats.Token("eyJhbGciOiJSUzI1NiJ9.e30.AAAA"))
	// Good credentials of the account itself.
	u, err := shared.Up.Platform.Mint(platform.Door, platform.RoleSentinel, time.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	own := nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign)
	refused("a credential of DOOR", own)
	// With a password they are whose that is.
	k := newKey(t)
	nc := comesIn(t, own, nats.UserInfo(k.id, k.secret))
	forbidden(t, nc, func() error { return nc.Publish("auth.v1.callout", nil) })
	if err := errors.Join(nc.Publish("orders.x", nil), nc.Flush()); err != nil {
		t.Error(err)
	}
	// A credential of another account is what it is.
	member := jwtOf(t, "CHAT", "member")
	forbidden(t, member, func() error { return member.Publish("auth.v1.callout", nil) })
	guest := jwtOf(t, "GUEST", "guest")
	forbidden(t, guest, func() error { return guest.Publish("auth.v1.callout", nil) })
	issuer := jwtOf(t, "AUTH", "issuer")
	forbidden(t, issuer, func() error { return issuer.Publish("auth.v1.callout", nil) })
}

// TestRefusedKeys: keys that are good for nothing at this door, each for one reason.
func TestRefusedKeys(t *testing.T) {
	good := newKey(t)
	comesIn(t, nats.UserInfo(good.id, good.secret))
	for what, k := range map[string]password{
		"of another network": newKey(t, "--network", "192.0.2.0/24"),
		"of another role":    makeKey(t, "--password", "--grant", "ORDERS/worker", "--name", shared.Name("no").String()),
		"without --password": makeKey(t, "--grant", "ORDERS/worker", "--name", shared.Name("no").String()),
		"another's secret":   {good.id, newKey(t).secret},
		"no key's id":        {"HKBBBBBBBBBBBBBBBBBB", good.secret},
	} {
		t.Run(what, func(t *testing.T) {
			// By then issuers have heard of it.
			comesIn(t, nats.UserInfo(good.id, good.secret))
			staysOut(t, nats.UserInfo(k.id, k.secret))
		})
	}
}

// TestExpiry: a credential ends when it says, and the client comes again with the same password.
func TestExpiry(t *testing.T) {
	k := makeKey(t, "--password", "--grant", "BRIEF/service", "--name", shared.Name("brief").String())
	lost, again := make(chan struct{}, 8), make(chan struct{}, 8)
	o := []nats.Option{
		nats.UserInfo(k.id, k.secret), nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { lost <- struct{}{} }), nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }),
	}
	_ = comesIn(t, append(o, func(o *nats.Options) error { o.AllowReconnect = true; return nil })...)
	for _, c := range []chan struct{}{lost, again} {
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end, or not come again")
		}
	}
}

// login is a provider that listens on loopback.
type login struct {
	*oidctest.Provider
	server *httptest.Server
}

func newLogin() *login {
	var p *oidctest.Provider
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(w, r) }))
	p = oidctest.New(server.URL, jose.RS256)
	return &login{p, server}
}

func (l *login) token(subject string, change map[string]any) string {
	claims := l.Claims(time.Now(), subject, "herald-tests")
	claims["preferred_username"] = subject
	maps.Copy(claims, change)
	return l.Token(claims)
}

// TestToken: so does who logged in at a provider, with the token as token or as password.
func TestToken(t *testing.T) {
	alice, err := ident.ParseIdentity("oidc:corp:alice")
	if err != nil {
		t.Fatal(err)
	}
	token := corp.token("alice", nil)
	for what, o := range map[string]nats.Option{"as token": nats.Token(token), "as password": nats.UserInfo("anything", token)} {
		t.Run(what, func(t *testing.T) {
			nc := comesIn(t, o, nats.CustomInboxPrefix("_INBOX_"+alice.Tag()))
			if _, err := nc.Subscribe("orders.ask", func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Request("orders.ask", nil, patience); err != nil {
				t.Error(err)
			}
		})
	}
	for what, token := range map[string]string{
		"over":                  corp.token("alice", map[string]any{"exp": time.Now().Add(-time.Second).Unix()}),
		"for somebody else":     corp.token("alice", map[string]any{"aud": "others"}),
		"without a name":        corp.token("bob", map[string]any{"preferred_username": ""}),
		"under another's name":  corp.token("mallory", map[string]any{"preferred_username": "alice"}),
		"of another provider":   newToken(t),
		"with a changed claim":  strings.Replace(token, ".", ".e", 1),
		"without its signature": token[:strings.LastIndex(token, ".")+1],
	} {
		t.Run(what, func(t *testing.T) { staysOut(t, nats.Token(token)) })
	}
}

// newToken is one of a provider that the platform does not know.
func newToken(t *testing.T) string {
	t.Helper()
	l := newLogin()
	t.Cleanup(l.server.Close)
	return l.token("alice", nil)
}
