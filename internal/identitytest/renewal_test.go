package identitytest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// opened is the platform's folder as it is by now.
func opened() *platform.Platform { return must(platform.Open(shared.Dir)) }

// word is what a server says of somebody who asks, changed: nil takes a member away.
func (u user) word(change map[string]any) string {
	c := must(jwt.DecodeUserClaims(u.token))
	all := map[string]any{"acc": c.IssuerAccount, "user": u.key.Public(), "jwt": u.token, "kind": "Client", "host": "127.0.0.1"}
	maps.Copy(all, change)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return string(must(json.Marshal(all)))
}

// got is whom an answer is for, or how it refuses.
func got(t *testing.T, m *nats.Msg) (trust.User, *wire.Error) {
	t.Helper()
	return answered(t, m.Header.Get(wire.HeaderErrorCode), m.Data)
}

// renewsFor holds that an answer is a credential for somebody.
func renewsFor(t *testing.T, what string, m *nats.Msg, u user) {
	t.Helper()
	if r, e := got(t, m); e != nil || r.Key != u.nkey() || r.Name != u.name {
		t.Errorf("%s: %+v: %v; and not one for %s", what, r, e, u.name)
	}
}

// request asks on a connection. It fails the test if nobody answers.
func request(t *testing.T, nc *nats.Conn, subj string, h nats.Header) *nats.Msg {
	t.Helper()
	m, err := nc.RequestMsg(&nats.Msg{Subject: subj, Header: h}, 10*time.Second)
	if err != nil {
		t.Fatalf("%s: %v", subj, err)
	}
	return m
}

// violates holds that the server refuses what was said, and names what of it.
func violates(t *testing.T, what string, refused <-chan error, which string) {
	t.Helper()
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), which) {
			t.Errorf("%s: %v, and not a violation of %s", what, err, which)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("%s: the server refuses nothing", what)
	}
}

// TestRenewalAttacks: a renewal is for who asks, as the server says, or for nobody.
func TestRenewalAttacks(t *testing.T) {
	victim, asker := obtained(t, "ORDERS/service", "victim"), obtained(t, "ORDERS/service", "asker")
	nc, _ := asker.enter(t)
	renewsFor(t, "the one that the others differ from", request(t, nc, subject.Renew, nil), asker)

	t.Run("forged", func(t *testing.T) {
		// What a client says of who asks is taken out by the server, which says it itself. A
		// server of 2.15 looks no further where it meets the header's name twice in a row: what
		// is behind that stays, and then there are two. The headers of a message are
		// sent in any order: it is sent until that one is in front.
		const info = wire.HeaderInfo
		said := victim.word(nil)
		for what, c := range map[string]struct {
			header nats.Header
			why    string // "": it is renewed
		}{
			"once":                 {nats.Header{info: {said}}, ""},
			"twice":                {nats.Header{info: {said, said}}, ""},
			"in lower case":        {nats.Header{strings.ToLower(info): {said}}, ""},
			"behind its name":      {nats.Header{"A": {info}, info: {said}}, ""},
			"behind its name, two": {nats.Header{"A": {info + info}, info: {said}}, "2 Nats-Request-Info headers"},
		} {
			m := request(t, nc, subject.Renew, c.header)
			for tries := 0; c.why != "" && tries < 20 && m.Header.Get(wire.HeaderErrorCode) == ""; tries++ {
				renewsFor(t, what, m, asker)
				m = request(t, nc, subject.Renew, c.header)
			}
			if c.why == "" {
				renewsFor(t, what, m, asker)
				continue
			}
			_, e := got(t, m)
			refusedWith(t, what, e, wire.BadIdentity, c.why)
		}
	})

	t.Run("guest", func(t *testing.T) {
		gc := guest(t, region("ams"))
		refused := make(chan error, 10)
		gc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
		m := nats.NewMsg(subject.Renew)
		m.Header.Set(wire.HeaderInfo, victim.word(nil))
		must(0, gc.PublishMsg(m))
		violates(t, "a guest", refused, strconv.Quote(subject.Renew))
	})

	t.Run("static", func(t *testing.T) {
		static := minted(t, opened(), "ORDERS", "service")
		sc, _ := static.enter(t)
		_, e := got(t, request(t, sc, subject.Renew, nil))
		refusedWith(t, "a user that no issuer made", e, wire.NoGrant, "not made by an issuer", static.key.Public())
	})

	t.Run("another platform", func(t *testing.T) {
		stranger := minted(t, another(t), platform.ChatIn, platform.RoleMember)
		if _, _, err := stranger.dial(t, first(), subject.UserInboxPrefix(stranger.nkey())); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("another platform's user: %v", err)
		}
	})

	t.Run("another service", func(t *testing.T) { byAnotherService(t, asker, nc) })

	t.Run("leafnode", func(t *testing.T) {
		for what, u := range map[string]user{"who is not for that": asker, "who is public": minted(t, opened(), platform.ChatIn, platform.RoleMember)} {
			if _, err := u.leafnode(t); err == nil || err.Error() != "'Authorization Violation'" {
				t.Errorf("a leafnode of one %s: %v", what, err)
			}
		}
		// Where a role is for leafnodes, whoever is behind one would be its user. What it says
		// of who asks is replaced as a client's is.
		box := obtained(t, "EDGE/box", "box")
		l, err := box.leafnode(t)
		if err != nil {
			t.Fatal(err)
		}
		for what, infos := range map[string][]string{"plain": nil, "in its own name": {box.word(nil)}, "in another's": {victim.word(nil)}} {
			_, e := got(t, l.ask(subject.Renew, subject.UserInboxPrefix(box.nkey()), infos...))
			refusedWith(t, what+", from behind a leafnode", e, wire.BadIdentity, `asked by \"Leafnode\"`)
		}
		bc, _ := box.enter(t)
		renewsFor(t, "the same user, as a client", request(t, bc, subject.Renew, nil), box)
	})
}

// byAnotherService: what one asks another service for can be made to arrive as a request
// here, and is then asked by that service.
func byAnotherService(t *testing.T, asker user, nc *nats.Conn) {
	t.Helper()
	// Through an account whose service leads on to the issuers': the server says by whose.
	relay, _ := shared.Public.Document.Account(label("RELAY"))
	_, e := got(t, request(t, nc, "relay.renew", nil))
	refusedWith(t, "through another account", e, wire.BadIdentity, "through service", relay.Key.String()[:40])

	// In one's own account a service answers where it is told to, and asks by that.
	server := obtained(t, "ORDERS/service", "server")
	sc, _ := server.enter(t)
	ec, _ := minted(t, opened(), platform.Auth, platform.RoleIssuer).inside(t, first())
	inbox := nc.NewInbox()
	answers := must(nc.SubscribeSync(inbox))
	must(0, nc.Flush())
	for what, reply := range map[string]string{"that says where to answer": inbox, "that does not": ""} {
		sub := must(sc.Subscribe("orders.ask."+server.key.Public(), func(m *nats.Msg) {
			answer := &nats.Msg{Subject: m.Reply, Reply: reply, Header: nats.Header{wire.HeaderInfo: {asker.word(nil)}}}
			if err := sc.PublishMsg(answer); err != nil {
				t.Error(err)
			}
		}))
		must(0, sc.Flush())
		ear := must(ec.SubscribeSync(subject.Renew))
		must(0, ec.Flush())
		must(0, nc.PublishRequest(sub.Subject, subject.Renew, nil))
		heard, err := ear.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatalf("an answer %s does not arrive: nothing is shown: %v", what, err)
		}
		info := must(wire.DecodeRequestInfo(heard.Header[wire.HeaderInfo]))
		if info.User != server.key.Public() || trust.IsImportedReply(heard.Reply) != (reply != "") {
			t.Errorf("an answer %s comes from %s, to be answered on %q", what, info.User, heard.Reply)
		}
		must(0, sub.Unsubscribe())
		must(0, ear.Unsubscribe())
		if reply == "" {
			// There is nowhere to answer. What is asked behind it is the next that is answered.
			for range 3 {
				renewsFor(t, "behind it", request(t, nc, subject.Renew, nil), asker)
			}
			if n, _, err := answers.Pending(); err != nil || n > 0 {
				t.Errorf("an answer %s: it is answered: %v", what, err)
			}
			continue
		}
		m, err := answers.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatalf("an answer %s: %v", what, err)
		}
		renewsFor(t, "an answer "+what, m, server)
	}
	if n := renewals(server); n != 1 {
		t.Errorf("%d renewals of who answered once with a reply", n)
	}
}

// renewals is how many the log tells of for somebody.
func renewals(u user) int {
	return strings.Count(log.matching(`"msg":"renewed"`, u.key.Public()), "\n")
}

// another is a platform with accounts, roles and names like this one's.
func another(t *testing.T) *platform.Platform {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, ports, err := uptest.Init(ctx, t.TempDir(), uptest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(0, ports.Release()) })
	return p
}

// unsigned is a JWT that says it needs no signature.
func unsigned(token string) string {
	parts := strings.Split(token, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"none"}`)) + "." + parts[1] + "."
}

// altered is a JWT whose payload was changed after it was signed.
func altered(token, old, changed string) string {
	parts := strings.Split(token, ".")
	payload := string(must(base64.RawURLEncoding.DecodeString(parts[1])))
	if !strings.Contains(payload, old) {
		panic("nothing is altered")
	}
	return parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(payload, old, changed, 1))) + "." + parts[2]
}

// forged is a user by a role's own key, whatever it says.
func forged(t *testing.T, account, role string, change func(*jwt.UserClaims)) user {
	t.Helper()
	signer := must(keystore.Load(filepath.Join(shared.Dir, "operator", "roles", account+"."+role+".nk"), keystore.Account))
	a, _ := shared.Public.Document.Account(label(account))
	key := newKey(t)
	c := jwt.UserClaims{}
	c.Subject, c.Issuer, c.IssuerAccount = key.Public(), signer.Public(), a.Key.String()
	c.Name, c.IssuedAt, c.Expires = "forged", time.Now().Unix(), time.Now().Add(time.Minute).Unix()
	c.Tags.Add(trust.TagIdentity + "open")
	c.Type, c.Version = jwt.UserClaim, 2
	change(&c)
	return user{token: must(trust.EncodeJWT(&c, signer)), key: key}
}

// insider is somebody in AUTH who may ask there and hear everything, also as a leafnode. No
// role of the platform may, so the account is pushed with one more, and afterwards put back.
func insider(t *testing.T) user {
	t.Helper()
	p := opened()
	signing := must(keystore.Load(filepath.Join(shared.Dir, "operator", "signing", "nscsetup.nk"), keystore.Operator))
	nc, _ := minted(t, p, platform.System, platform.RoleRegistrar).inside(t, first())
	resolver := registrar.NewResolver(nc, p.Operator, signing, time.Now)
	var servers []string
	for _, s := range shared.Up.Cluster.Servers() {
		servers = append(servers, s.Name)
	}
	tokens := must(p.Tokens())
	inForce := func(ctx context.Context) *jwt.AccountClaims {
		report := must(resolver.Survey(ctx, tokens, servers))
		for _, s := range report.Accounts {
			if s.Name == platform.Auth {
				return must(must(s.Content()).Claims())
			}
		}
		panic("no account AUTH")
	}
	push := func(ctx context.Context, c *jwt.AccountClaims) {
		version := trust.BaseVersion(inForce(ctx).Tags)
		c.Tags = slices.DeleteFunc(c.Tags, func(s string) bool { return strings.HasPrefix(s, trust.TagBase) })
		c.Tags.Add(trust.TagBase + strconv.FormatUint(version+1, 10))
		report, err := resolver.Settle(ctx, []string{must(c.Encode(signing.Pair()))}, servers)
		if err := errors.Join(err, report.Err()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	wide := inForce(ctx)
	role := must(keystore.Generate(keystore.Account))
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = role.Public(), "tester"
	scope.Template.Pub.Allow.Add("auth.v1.>")
	scope.Template.Sub.Allow.Add(">")
	wide.SigningKeys.AddScopedSigner(scope)
	wide.Limits.LeafNodeConn = jwt.NoLimit
	before := inForce(ctx)
	push(ctx, wide)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		push(ctx, before)
		nc.Close()
	})
	key := newKey(t)
	c := jwt.UserClaims{}
	c.Subject, c.Issuer, c.IssuerAccount = key.Public(), role.Public(), wide.Subject
	c.Name, c.IssuedAt, c.Expires = "tester", time.Now().Unix(), time.Now().Add(time.Minute).Unix()
	c.Type, c.Version = jwt.UserClaim, 2
	return user{token: must(trust.EncodeJWT(&c, role)), key: key}
}

// TestForgedWord: what servers keep from issuers, issuers refuse themselves. Somebody who is
// in AUTH as a leafnode writes the server's word of who asks, with one thing in it that
// cannot be.
func TestForgedWord(t *testing.T) {
	in := insider(t)
	victim, other := obtained(t, "ORDERS/service", "victim"), obtained(t, "ORDERS/service", "other")
	l, err := in.leafnode(t)
	if err != nil {
		t.Fatal(err)
	}
	// A word in which all is true is believed: it would come from the server. The credential
	// is for the nkey that it names, and of use to nobody else.
	renewsFor(t, "the one that the others differ from", l.ask(subject.Renew, "_R_.forged", victim.word(nil)), victim)

	chat, _ := shared.Public.Document.Account(label(platform.ChatIn))
	with := func(name string, v any) []string { return []string{victim.word(map[string]any{name: v})} }
	ended := forged(t, "ORDERS", "service", func(c *jwt.UserClaims) { c.IssuedAt -= 100; c.Expires -= 100 })
	rights := forged(t, "ORDERS", "service", func(c *jwt.UserClaims) { c.Pub.Allow.Add("x") })
	everybody := forged(t, "ORDERS", "service", func(c *jwt.UserClaims) { c.Name = "*" })
	for what, c := range map[string]struct {
		infos []string
		why   string
	}{
		"nothing":                   {nil, "0 Nats-Request-Info headers"},
		"it twice":                  {[]string{victim.word(nil), victim.word(nil)}, "2 Nats-Request-Info headers"},
		"no JSON":                   {[]string{"x"}, "cannot be read"},
		"too much":                  {with("x", strings.Repeat("x", 8<<10)), "Nats-Request-Info of"},
		"through another service":   {with("svc", chat.Key.String()), "through service"},
		"from behind a leafnode":    {with("kind", "Leafnode"), `asked by \"Leafnode\"`},
		"from a stream":             {with("kind", "JetStream"), `asked by \"JetStream\"`},
		"of no kind":                {with("kind", nil), `asked by \"\"`},
		"another account":           {with("acc", chat.Key.String()), "differ"},
		"another's JWT":             {with("jwt", other.token), "differ"},
		"another user":              {with("user", other.key.Public()), "differ"},
		"no JWT":                    {with("jwt", nil), "expected 3 chunks"},
		"a JWT that nobody signed":  {with("jwt", unsigned(victim.token)), `unexpected \"none\" algorithm`},
		"a JWT that was altered":    {with("jwt", altered(victim.token, strconv.Quote(victim.name.String()), `"root"`)), "signature verification"},
		"a JWT that has ended":      {[]string{ended.word(nil)}, "expired"},
		"a JWT with its own rights": {[]string{rights.word(nil)}, "brings permissions of its own"},
		"a JWT of everybody":        {[]string{everybody.word(nil)}, `\"*\" is not a name`},
		"a guest":                   {[]string{minted(t, opened(), platform.Guest, platform.RoleGuest).word(nil)}, "may not ask"},
		"an issuer":                 {[]string{minted(t, opened(), platform.Auth, platform.RoleIssuer).word(nil)}, "may not ask"},
		"another platform's user":   {[]string{minted(t, another(t), platform.ChatIn, platform.RoleMember).word(nil)}, "user JWT signed by"},
	} {
		_, e := got(t, l.ask(subject.Renew, "_R_.forged", c.infos...))
		refusedWith(t, what, e, wire.BadIdentity, c.why, `"door":"renew"`)
	}

	// As a client one cannot say that a server made the reply, and nothing else is answered.
	nc, refused := in.inside(t, first())
	must(0, nc.PublishRequest(subject.Renew, "_R_.forged.client", nil))
	violates(t, "a reply as a server's", refused, "_R_.forged.client")
	everything := must(nc.SubscribeSync("answers.>"))
	must(0, nc.Flush())
	m := &nats.Msg{Subject: subject.Renew, Reply: "answers.here", Header: nats.Header{wire.HeaderInfo: {victim.word(nil)}}}
	must(0, nc.PublishMsg(m))
	must(0, nc.Flush())
	for range 3 { // behind it, on the same way
		renewsFor(t, "behind it", l.ask(subject.Renew, "_R_.forged", victim.word(nil)), victim)
	}
	must(0, nc.Flush())
	if n, _, err := everything.Pending(); err != nil || n > 0 {
		t.Errorf("a reply that no server made is answered: %v", err)
	}
	// Nor is anything done for it that could not be sent: an issuer may answer servers' replies
	// only.
	if n := renewals(victim); n != 4 {
		t.Errorf("%d renewals, where 4 were asked for", n)
	}
}
