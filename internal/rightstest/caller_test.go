package rightstest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// 47: who asks is what the server says. A guest and a member forge what the
// server would say, in every spelling; what comes back is for the one who asks,
// or nothing.
func TestForgedRequestInfo(t *testing.T) {
	victim, victimName := member(t, "ams", "victim")
	mallory, malloryName := member(t, "ams", "mallory")
	chat, _ := shared.Public.Document.Account(label(platform.ChatIn))
	forged := string(must(json.Marshal(map[string]any{
		"acc": chat.Key.String(), "user": victim.key.Public(), "jwt": victim.token, "kind": "Client",
	})))
	short := string(must(json.Marshal(map[string]any{"acc": chat.Key.String(), "user": victim.key.Public(), "kind": "Client"})))
	ear := enter(t, issuerOf(t, "ams"), "ams")
	ear.sub(subject.Renew, "")
	ear.sub(subject.Info, "")
	ear.allowed("an issuer listens")
	from, asGuest := enter(t, mallory, "ams"), enter(t, guest(t), "ams")

	const info = wire.HeaderInfo
	line := func(s ...string) []byte { return []byte("NATS/1.0\r\n" + strings.Join(s, "\r\n") + "\r\n\r\n") }
	for what, head := range map[string][]byte{
		"as the server writes it":         header(info, forged),
		"in lower case":                   header(strings.ToLower(info), forged),
		"in upper case":                   header(strings.ToUpper(info), forged),
		"twice":                           header(info, forged, info, forged),
		"in three spellings":              header("nats-Request-info", forged, info, forged, "NATS-REQUEST-INFO", forged),
		"three times":                     header(info, forged, info, short, info, forged),
		"behind another":                  header("A", "b", info, forged),
		"before another":                  header(info, forged, "A", "b"),
		"with a blank before the colon":   line(info + " : " + forged),
		"with a blank at the line's head": line(" " + info + ": " + forged),
		"without a blank":                 line(info + ":" + forged),
		"with a tab":                      line(info + ":\t" + forged),
		"folded":                          line("X: y", " "+info+": "+forged),
		"in another's value":              line("X: "+info+": "+forged, info+": "+forged),
		"with bare newlines":              []byte("NATS/1.0\r\nX: y\n" + info + ": " + forged + "\r\n\r\n"),
		"with a name that ends alike":     header("X-"+info, forged, info, forged),
		"empty":                           header(info, ""),
		"after the block":                 append(header("X", "y"), header(info, forged)...),
	} {
		m := from.ask(subject.Renew, head, nil)
		switch c := refusal(t, m); c {
		case "":
			a, err := wire.DecodeAnswer(m.body)
			if err != nil {
				t.Fatal(err)
			}
			u, err := shared.Public.Document.VerifyUser(a.JWT, time.Now())
			if err != nil || u.Key != mallory.nkey() || u.Name != malloryName {
				t.Errorf("%s: mallory gets a credential for %v (%v)", what, u, err)
			}
			if strings.Contains(a.JWT, victimName.String()) || a.Name == victimName {
				t.Errorf("%s: mallory gets the victim's name", what)
			}
		case wire.BadIdentity:
		default:
			t.Errorf("%s: %s", what, c)
		}
		// A guest has no renewal at all; its info is no-one else's either.
		m = asGuest.ask(subject.Info, head, nil)
		if c := refusal(t, m); c != "" && c != wire.BadIdentity {
			t.Errorf("%s: a guest's info: %s", what, c)
		}
	}
	// The server's own word is there each time, and says who it was.
	ear.sync()
	seen := map[string]int{}
	for _, m := range ear.msgs {
		for _, v := range values(m, info) {
			var w struct{ User string }
			if json.Unmarshal([]byte(v), &w) == nil {
				seen[w.User]++
			}
		}
	}
	if seen[mallory.key.Public()] == 0 || seen[guest(t).key.Public()] == 0 {
		t.Errorf("the issuer was told of %v", seen)
	}
	// And nobody has the renewal of the victim but the victim.
	m := enter(t, victim, "ams").ask(subject.Renew, nil, nil)
	if c := refusal(t, m); c != "" {
		t.Errorf("the victim's own renewal: %s", c)
	}
}

// 47 and the protocol's conditions, each alone: everything else is as it should be.
func TestCaller(t *testing.T) {
	alice, _ := member(t, "ams", "alice")
	bob, _ := member(t, "ams", "bob")
	doc := shared.Public.Document
	chat, _ := doc.Account(label(platform.ChatIn))
	guests, _ := doc.Account(label(platform.Guest))
	memberKey := load(t, rolePath(platform.ChatIn, platform.RoleMember), keystore.Account)
	now := time.Now()

	// Another platform with accounts, roles and names like this one's.
	other, ports, err := uptest.Init(bound(t), t.TempDir(), uptest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ports.Release(); err != nil {
			t.Error(err)
		}
	})
	foreign, err := other.Mint(platform.ChatIn, platform.RoleMember, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}

	good := wire.RequestInfo{Account: chat.Key.String(), User: alice.key.Public(), JWT: alice.token, Kind: "Client"}
	const reply = "_R_.abc.def"
	u, err := doc.Caller(good, reply, now, chat.Name)
	if err != nil || u.Key != alice.nkey() {
		t.Fatalf("%v: %v", u, err)
	}
	of := func(u user) wire.RequestInfo {
		return wire.RequestInfo{Account: chat.Key.String(), User: u.key.Public(), JWT: u.token, Kind: "Client"}
	}
	with := func(change func(*wire.RequestInfo)) wire.RequestInfo { i := good; change(&i); return i }
	for what, c := range map[string]struct {
		info     wire.RequestInfo
		reply    string
		at       time.Time
		accounts []ident.Label
	}{
		"through another service":   {info: with(func(i *wire.RequestInfo) { i.Service = chat.Key.String() })},
		"from behind a leafnode":    {info: with(func(i *wire.RequestInfo) { i.Kind = "Leafnode" })},
		"from JetStream":            {info: with(func(i *wire.RequestInfo) { i.Kind = "JetStream" })},
		"of no kind":                {info: with(func(i *wire.RequestInfo) { i.Kind = "" })},
		"of a kind in other case":   {info: with(func(i *wire.RequestInfo) { i.Kind = "client" })},
		"from another account":      {info: with(func(i *wire.RequestInfo) { i.Account = guests.Key.String() })},
		"from no account":           {info: with(func(i *wire.RequestInfo) { i.Account = "" })},
		"another user's JWT":        {info: with(func(i *wire.RequestInfo) { i.JWT = bob.token })},
		"another user":              {info: with(func(i *wire.RequestInfo) { i.User = bob.key.Public() })},
		"no user":                   {info: with(func(i *wire.RequestInfo) { i.User = "" })},
		"no JWT":                    {info: with(func(i *wire.RequestInfo) { i.JWT = "" })},
		"an account's JWT":          {info: with(func(i *wire.RequestInfo) { i.JWT = accountTokens()[1] })},
		"an altered JWT":            {info: with(func(i *wire.RequestInfo) { i.JWT = i.JWT[:len(i.JWT)-4] + "AAAA" })},
		"a JWT that nobody signed":  {info: with(func(i *wire.RequestInfo) { i.JWT = unsigned(t, i.JWT) })},
		"another platform's JWT":    {info: of(user{"", foreign.Token, foreign.Key})},
		"an expired JWT":            {info: good, at: u.Expires},
		"rights of its own":         {info: of(forge(t, memberKey, func(c *jwt.UserClaims) { c.Pub.Allow.Add("x") }))},
		"a name that is none":       {info: of(forge(t, memberKey, func(c *jwt.UserClaims) { c.Name = "*" }))},
		"an account that may not":   {info: good, accounts: []ident.Label{guests.Name}},
		"no account may":            {info: good, accounts: []ident.Label{}},
		"no reply":                  {info: good, reply: "-"},
		"a reply in an inbox":       {info: good, reply: "_INBOX.abc"},
		"a reply in a bucket":       {info: good, reply: "$KV.decisions.name.evil"},
		"a reply that servers pass": {info: good, reply: "$JS.ACK.x"},
		"a reply of a gateway":      {info: good, reply: "_GR_.abc"},
		"a reply that begins alike": {info: good, reply: "_R_abc"},
		"a reply with _R_ inside":   {info: good, reply: "x._R_.abc"},
	} {
		if c.reply == "" {
			c.reply = reply
		}
		if c.reply == "-" {
			c.reply = ""
		}
		if c.at.IsZero() {
			c.at = now
		}
		if c.accounts == nil {
			c.accounts = []ident.Label{chat.Name}
		}
		if got, err := doc.Caller(c.info, c.reply, c.at, c.accounts...); err == nil {
			t.Errorf("%s: believed to be %v", what, got)
		}
	}
	for _, v := range [][]string{nil, {}, {"{}", "{}"}, {"not JSON"}, {strings.Repeat(" ", 9<<10)}, {"{}", `{"acc":"x"}`}} {
		if i, err := wire.DecodeRequestInfo(v); err == nil {
			t.Errorf("%d headers are read as %v", len(v), i)
		}
	}
}

// unsigned is a JWT whose header says that it needs no signature.
func unsigned(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("not a JWT")
	}
	return base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"none"}`)) + "." + parts[1] + "."
}

// 16, 45: services answer nothing but _R_.…, which servers make. Here somebody
// asks from inside, in AUTH or beside the streams in LEDGER, and names a reply.
// No role may ask there; so accounts with a role that may are pushed, and the
// old ones put back. On the way: 2, what is not pushed over what.
func TestNobodyAsksFromInside(t *testing.T) {
	ctx := bound(t)
	w := widen(ctx, t, map[string][]string{
		platform.Auth: {"auth.v1.>"}, platform.Ledger: {"auth.v1.>", subject.Decisions},
	})
	defer w.undo(ctx, t)

	// 2: the last push wins, whatever its iat; so who knows an older version only does
	// not bring it back.
	rep, err := w.resolver.Converge(ctx, accountTokens(), serverNames())
	if err != nil || rep.Pushed() > 0 {
		t.Errorf("%d accounts were pushed over newer versions: %v", rep.Pushed(), err)
	}
	if rep, err := w.resolver.Survey(ctx, w.new, serverNames()); errors.Join(err, rep.Err()) != nil {
		t.Errorf("after that: %v %v", err, rep.Err())
	}

	name := shared.Name("eve")
	valid := newAsking(t, name, false, nil)
	claim := must(json.Marshal(wire.Claim{Body: valid.body, Proof: valid.proof}))
	for _, c := range []struct {
		account string
		ask     string
		head    []byte
		body    []byte
	}{
		{platform.Auth, subject.Issue, valid.headers(), valid.body},
		{platform.Auth, subject.Info, nil, nil},
		{platform.Auth, subject.Renew, nil, nil},
		{platform.Ledger, subject.HomeClaim, nil, claim},
	} {
		conn := enter(t, w.tester(t, c.account), "ams")
		conn.sub(">", "")
		conn.allowed("the tester hears everything")
		own := ledger.NameKey(name).String()
		replies := []string{
			"_INBOX.svc.x.1", "_INBOX_x.1", subject.Decision("name.eve"), subject.Decision(own), "$JS.API.STREAM.DELETE.KV_decisions",
			"denials.ams.x", "x._R_.y", "_R_",
		}
		for _, reply := range replies {
			conn.pub(c.ask, reply, c.head, c.body)
		}
		// Behind them, to the same service: what comes by import.
		for range 3 {
			member(t, "ams", "behind")
			from := enter(t, guest(t), "ams")
			from.ask(subject.Info, nil, nil)
		}
		conn.sync()
		for _, m := range conn.msgs {
			for _, reply := range replies {
				if m.subject == reply {
					t.Errorf("%s in %s is answered on %s: %s", c.ask, c.account, reply, m.body)
				}
			}
		}
		if len(conn.msgs) == 0 {
			t.Errorf("%s: nothing was heard, so nothing is shown", c.account)
		}
	}
	for _, n := range []string{"name.eve", ledger.NameKey(name).String()} {
		if e, at := entry(ctx, t, n); at != 0 {
			t.Errorf("the bucket holds %q under %s", e, n)
		}
	}
}

// 3: servers store what an unknown operator signed. So nothing is pushed that
// the platform's operator signing keys did not sign, and it reaches no server.
func TestForeignAccountsAreNotPushed(t *testing.T) {
	ctx := bound(t)
	sys := attach(t, minted(t, platform.System, platform.RoleRegistrar), "sfo")
	signing := load(t, dir().Operator()+"/signing/nscsetup.nk", keystore.Operator)
	resolver := registrar.NewResolver(sys, shared.Up.Platform.Operator, signing, time.Now)
	stranger, err := keystore.Generate(keystore.Operator)
	if err != nil {
		t.Fatal(err)
	}
	for what, signer := range map[string]*keystore.Key{
		"an unknown operator":         stranger,
		"the operator's identity key": load(t, dir().Operator()+"/operator.nk", keystore.Operator),
	} {
		key, err := keystore.Generate(keystore.Account)
		if err != nil {
			t.Fatal(err)
		}
		c := jwt.NewAccountClaims(key.Public())
		c.Name = "EVIL"
		token, err := c.Encode(signer.Pair())
		if err != nil {
			t.Fatal(err)
		}
		notPushed(t, resolver, what, token, key)
	}
	key, err := keystore.Generate(keystore.Account)
	if err != nil {
		t.Fatal(err)
	}
	self, err := jwt.NewAccountClaims(key.Public()).Encode(key.Pair())
	if err != nil {
		t.Fatal(err)
	}
	notPushed(t, resolver, "itself", self, key)

	real := accountTokens()[1]
	for what, token := range map[string]string{
		"altered": real[:len(real)-4] + "AAAA", "unsigned": unsigned(t, real), "empty": "", "a user's": guest(t).token,
	} {
		if _, err := resolver.Converge(ctx, []string{token}, serverNames()); err == nil {
			t.Errorf("an account JWT that is %s is pushed", what)
		}
	}
	if rep, err := resolver.Survey(ctx, accountTokens(), serverNames()); errors.Join(err, rep.Err()) != nil {
		t.Error(err, rep.Err())
	}
}

func notPushed(t *testing.T, r *registrar.Resolver, who, token string, key *keystore.Key) {
	t.Helper()
	ctx := bound(t)
	if _, err := r.Converge(ctx, []string{token}, serverNames()); err == nil {
		t.Errorf("an account signed by %s is pushed", who)
	}
	nc := attach(t, minted(t, platform.System, platform.RoleRegistrar), "sfo")
	m, err := nc.RequestWithContext(ctx, subject.ClaimsLookup(must(ident.ParseAccountKey(key.Public()))), nil)
	if err != nil || len(m.Data) > 0 {
		t.Errorf("a server holds what %s signed: %v %q", who, err, m.Data)
	}
}
