package provision_test

import (
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/callout"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// asker is a server that asks by auth callout.
type asker struct {
	*bench
	sign, seal *keystore.Key
	callout    *keystore.Key
	account    ident.AccountKey
	keys       int
}

// newAsker is a bench with auth callout on, and a server of it.
func newAsker(t *testing.T) *asker {
	t.Helper()
	b, _ := newBenchOf(t, func(f *manifest.File) {
		f.Callout = true
		f.Accounts = append(f.Accounts, manifest.Account{Name: label("ORDERS"), Roles: []manifest.Role{
			{Name: label("service"), Callout: true, Subscribe: manifest.Permission{Allow: []string{"orders.>"}}},
			{Name: label("worker"), Subscribe: manifest.Permission{Allow: []string{"orders.>"}}},
		}})
		f.Grants = append(f.Grants, manifest.Grant{To: "key", Account: label("ORDERS"), Role: label("service")},
			manifest.Grant{To: "key", Account: label("ORDERS"), Role: label("worker")})
	})
	dir := b.p.Dir.Issuer(b.config.Region)
	a := &asker{bench: b, callout: load(t, filepath.Join(dir, platform.CalloutKeyFile), keystore.Curve)}
	b.config.Keys.Roles = map[ident.AccountKey]*keystore.Key{}
	for _, role := range []string{"CHAT.member", "ORDERS.service", "ORDERS.worker", "DOOR.sentinel"} {
		key := load(t, filepath.Join(dir, "roles", role+".nk"), keystore.Account)
		b.config.Keys.Roles[must(ident.ParseAccountKey(key.Public()))] = key
	}
	b.config.Door, b.config.Callout = label(platform.Door), must(callout.NewKey(a.callout))
	b.svc = provision.New(b.config)
	b.svc.Use(b.p.Full)
	door, ok := b.p.Document.Account(label(platform.Door))
	if !ok {
		t.Fatal("there is no account DOOR")
	}
	a.account = door.Key
	a.sign, a.seal = must(keystore.Generate(keystore.Server)), must(keystore.Generate(keystore.Curve))
	return a
}

// loginKey is an access key for ORDERS/service that is taken as a password, with a name that
// no other has.
func (a *asker) loginKey(change func(*ledger.AccessKey)) (ident.KeyID, accesskey.Secret) {
	a.keys++
	return a.accessKey(func(k *ledger.AccessKey) {
		k.Grants = []authn.Granted{{Account: label("ORDERS"), Role: label("service"), Name: must(ident.ParseName("mail-" + strconv.Itoa(a.keys)))}}
		k.Password = true
		if change != nil {
			change(k)
		}
	})
}

// login is what a client brings.
type login struct{ user, pass, token, host string }

// said is what a server says of who asks.
func (a *asker) said() map[string]any {
	return map[string]any{"acc": a.account.String(), "kind": "Account", "server": "ams-1"}
}

// request is one as servers make them.
func (a *asker) request(l login, change func(*jwt.AuthorizationRequestClaims)) (endpoint.Request, *jwt.AuthorizationRequestClaims) {
	a.t.Helper()
	c := jwt.NewAuthorizationRequestClaims(a.account.String())
	c.Audience, c.UserNkey = "nats-authorization-request", must(keystore.Generate(keystore.User)).Public()
	c.Server = jwt.ServerID{ID: a.sign.Public(), XKey: a.seal.Public(), Cluster: "ams"}
	c.ClientInformation = jwt.ClientInformation{Host: l.host, ID: 9, Kind: "Client"}
	c.ConnectOptions = jwt.ConnectOptions{Username: l.user, Password: l.pass, Token: l.token}
	c.Expires = a.now.Add(2 * time.Second).Unix()
	if change != nil {
		change(c)
	}
	token := must(c.Encode(a.sign.Pair()))
	return endpoint.Request{
		ID: "r", Reply: "_R_.x", Body: must(a.seal.Pair().Seal([]byte(token), a.callout.Public())),
		Header: map[string][]string{callout.HeaderServer: {a.seal.Public()}, wire.HeaderInfo: {string(must(json.Marshal(a.said())))}},
	}, c
}

// read is what the server reads of an answer; nil if there is none.
func (a *asker) read(resp endpoint.Response, c *jwt.AuthorizationRequestClaims) *jwt.AuthorizationResponseClaims {
	a.t.Helper()
	if resp.Silent || resp.Err != nil || resp.SealedBy != "" {
		a.t.Fatalf("a server is not answered as one: %+v", resp)
	}
	if len(resp.Body) == 0 {
		return nil
	}
	r := must(jwt.DecodeAuthorizationResponseClaims(string(must(a.seal.Pair().Open(resp.Body, a.callout.Public())))))
	if r.Subject != c.UserNkey || r.Audience != a.sign.Public() || r.IssuerAccount != a.account.String() {
		a.t.Errorf("it is for somebody else: %+v", r)
	}
	return r
}

// asks brings a login to the door, and gives the user JWT, or "".
func (a *asker) asks(l login) string {
	a.t.Helper()
	r, c := a.request(l, nil)
	got := a.read(a.svc.Let(a.t.Context(), r), c)
	if got == nil {
		a.t.Fatal("it is not believed")
	}
	if (got.Error == "") != (got.Jwt != "") || got.Error != "" && got.Error != "not let in by Herald" {
		a.t.Errorf("the server is told %q", got.Error)
	}
	return got.Jwt
}

// TestCallout: who brings an access key gets a credential for the nkey that the server made,
// under the role's key, and all that others get has a record.
func TestCallout(t *testing.T) {
	a := newAsker(t)
	id, secret := a.loginKey(nil)
	r, c := a.request(login{user: id.String(), pass: secret.Reveal(), host: "192.0.2.1"}, nil)
	resp := a.svc.Let(t.Context(), r)
	got := a.read(resp, c)
	if got == nil || got.Jwt == "" {
		t.Fatalf("%+v\n%s", got, a.log)
	}
	u := must(jwt.DecodeUserClaims(got.Jwt))
	orders, _ := a.p.Document.Account(label("ORDERS"))
	if u.Subject != c.UserNkey || u.IssuerAccount != orders.Key.String() || u.Name != "mail-1" || !u.HasEmptyPermissions() ||
		!slices.Contains(u.Tags, "kid:"+strings.ToLower(id.String())) || !slices.Contains(u.Tags, "identity:key") || u.Expires-u.IssuedAt != 3600 {
		t.Errorf("%+v", u)
	}
	rec := a.records.all[len(a.records.all)-1]
	if rec.User.String() != c.UserNkey || rec.Identity != ident.KeyIdentity(id) || rec.Server != a.sign.Public() || rec.Client != 9 || rec.ID != u.ID {
		t.Errorf("%+v", rec)
	}
	line(t, rec)
	// The same request again has no answer: a server makes another user each time.
	if again := a.read(a.svc.Let(t.Context(), r), c); again != nil {
		t.Errorf("again: %+v", again)
	}
	if s := a.log.String(); strings.Contains(s, secret.Reveal()) || strings.Contains(s, got.Jwt) {
		t.Error("a secret is in the log")
	}
}

// TestCalloutRefuses: what a client may bring that lets nobody in. All of it is answered alike.
func TestCalloutRefuses(t *testing.T) {
	a := newAsker(t)
	id, secret := a.loginKey(nil)
	other, _, err := accesskey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := login{user: id.String(), pass: secret.Reveal(), host: "192.0.2.1"}
	if a.asks(good) == "" {
		t.Fatalf("as it should be: %s", a.log)
	}
	type key = func(*ledger.AccessKey)
	for what, change := range map[string]key{
		"without --password": func(k *ledger.AccessKey) { k.Password = false },
		"disabled":           func(k *ledger.AccessKey) { k.Disabled = true },
		"over":               func(k *ledger.AccessKey) { k.Expires = a.now.Unix() },
		"of other networks":  func(k *ledger.AccessKey) { k.Networks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} },
		"for another role":   func(k *ledger.AccessKey) { k.Grants[0].Role = label("worker") },
		"for no name": func(k *ledger.AccessKey) {
			k.Grants[0].Name = ident.Name{}
		},
		"rotated": func(k *ledger.AccessKey) { *k = k.Rotate(other.Public()) },
	} {
		bad, its := a.loginKey(change)
		if token := a.asks(login{user: bad.String(), pass: its.Reveal(), host: "192.0.2.1"}); token != "" {
			t.Errorf("a key %s is let in", what)
		}
	}
	suspended, its := a.loginKey(nil)
	a.suspend(ledger.IdentitySuspension(ident.KeyIdentity(suspended)))
	for what, l := range map[string]login{
		"who is suspended":         {user: suspended.String(), pass: its.Reveal()},
		"another's secret":         {user: id.String(), pass: other.Reveal()},
		"no such key":              {user: "HKBBBBBBBBBBBBBBBBBB", pass: other.Reveal()},
		"no password":              {user: id.String()},
		"a password that is none":  {user: id.String(), pass: "hunter2"},
		"the secret in capitals":   {user: id.String(), pass: strings.ToUpper(secret.Reveal())},
		"a space after it":         {user: id.String(), pass: secret.Reveal() + " "},
		"the id in small letters":  {user: strings.ToLower(id.String()), pass: secret.Reveal()},
		"nothing":                  {},
		"the secret as a token":    {token: secret.Reveal()},
		"a key and a token":        {user: id.String(), pass: secret.Reveal(), token: "eyJ"},
		"a user name and a token":  {user: id.String(), token: secret.Reveal()},
		"a token of nobody":        {token: "eyJhbGciOiJSUzI1NiJ9.e30.AAAA"},
		"a token that says none":   {token: "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0."},
		"a credential of its own":  {token: a.guest.Token},
		"no host, and a key of it": {user: id.String(), pass: other.Reveal()},
	} {
		if l.host == "" && what != "no host, and a key of it" {
			l.host = "192.0.2.1"
		}
		if token := a.asks(l); token != "" {
			t.Errorf("%s is let in", what)
		}
	}
	if s := a.log.String(); strings.Contains(s, "hks_") || strings.Contains(s, "hunter2") || strings.Contains(s, "eyJ") {
		t.Errorf("a secret is in the log: %s", s)
	}
	if a.asks(good) == "" {
		t.Errorf("as it should be, at the end: %s", a.log)
	}
}

// TestCalloutBelieves: nobody but a server that asks in DOOR is answered at all.
func TestCalloutBelieves(t *testing.T) {
	a := newAsker(t)
	id, secret := a.loginKey(nil)
	l := login{user: id.String(), pass: secret.Reveal(), host: "192.0.2.1"}
	other := must(keystore.Generate(keystore.Curve)).Public()
	info := func(change func(map[string]any)) func(*endpoint.Request) {
		return func(r *endpoint.Request) {
			said := a.said()
			change(said)
			r.Header[wire.HeaderInfo] = []string{string(must(json.Marshal(said)))}
		}
	}
	for what, change := range map[string]func(*endpoint.Request){
		"a reply that no server made": func(r *endpoint.Request) { r.Reply = "$JS.API.STREAM.DELETE.KV_decisions" },
		"no word of a server":         func(r *endpoint.Request) { delete(r.Header, wire.HeaderInfo) },
		"two words of servers":        func(r *endpoint.Request) { r.Header[wire.HeaderInfo] = append(r.Header[wire.HeaderInfo], "{}") },
		"a client of DOOR":            info(func(m map[string]any) { m["kind"] = "Client" }),
		"a leafnode":                  info(func(m map[string]any) { m["kind"] = "Leafnode" }),
		"another account":             info(func(m map[string]any) { m["acc"] = a.chat().String() }),
		"through another service":     info(func(m map[string]any) { m["svc"] = "x" }),
		"no xkey":                     func(r *endpoint.Request) { delete(r.Header, callout.HeaderServer) },
		"two xkeys": func(r *endpoint.Request) {
			r.Header[callout.HeaderServer] = append(r.Header[callout.HeaderServer], other)
		},
		"another's xkey":                 func(r *endpoint.Request) { r.Header[callout.HeaderServer] = []string{other} },
		"an xkey that is none":           func(r *endpoint.Request) { r.Header[callout.HeaderServer] = []string{"X"} },
		"nothing in it":                  func(r *endpoint.Request) { r.Body = nil },
		"a request that is not sealed":   func(r *endpoint.Request) { r.Body = []byte("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.AAAA") },
		"a request that is too large":    func(r *endpoint.Request) { r.Body = append(r.Body, make([]byte, callout.MaxRequest)...) },
		"a bit of it changed on the way": func(r *endpoint.Request) { r.Body[len(r.Body)-1] ^= 1 },
	} {
		r, c := a.request(l, nil)
		change(&r)
		before := len(a.records.all)
		if got := a.read(a.svc.Let(t.Context(), r), c); got != nil || len(a.records.all) != before {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if a.asks(l) == "" {
		t.Errorf("as it should be: %s", a.log)
	}
	// Where it is off nobody is let in, also by an issuer that has the key still.
	d := a.document(2, nil)
	d.Public.Accounts = slices.DeleteFunc(d.Public.Accounts, func(x trust.Account) bool { return x.Key == a.account })
	a.svc.Use(d)
	r, c := a.request(l, nil)
	if got := a.read(a.svc.Let(t.Context(), r), c); got != nil {
		t.Errorf("it is off: %+v", got)
	}
}

// TestCalloutRolesAlone: a role for auth callout is not had by other doors, and theirs not by
// this one.
func TestCalloutRolesAlone(t *testing.T) {
	a := newAsker(t)
	both := func(k *ledger.AccessKey) {
		k.Grants = append(k.Grants, authn.Granted{Account: label("ORDERS"), Role: label("worker"), Name: k.Grants[0].Name})
	}
	id, secret := a.loginKey(both)
	u := must(jwt.DecodeUserClaims(a.asks(login{user: id.String(), pass: secret.Reveal(), host: "192.0.2.1"})))
	if service := load(t, filepath.Join(a.p.Dir.Issuer(a.config.Region), "roles", "ORDERS.service.nk"), keystore.Account); u.Issuer != service.Public() {
		t.Errorf("it has the role of %s", u.Issuer)
	}
	answer, werr := a.asKey(newUser(t), id, secret, "BAAAAAAAAAAAAAAAAAAAAA")
	if werr != nil || answer.Role != label("worker") {
		t.Errorf("%v %+v", werr, answer)
	}
	only, its := a.loginKey(nil)
	if answer, werr := a.asKey(newUser(t), only, its, "CAAAAAAAAAAAAAAAAAAAAA"); werr == nil || werr.Code != wire.RoleNotGranted {
		t.Errorf("a role for auth callout by the door of guests: %v %+v", werr, answer)
	}
}

// TestCalloutGuesses: who brings wrong secrets is not listened to any more from where they
// are, and keeps nobody else out.
func TestCalloutGuesses(t *testing.T) {
	a := newAsker(t)
	id, secret := a.loginKey(nil)
	wrong, _, err := accesskey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if a.asks(login{user: id.String(), pass: wrong.Reveal(), host: "198.51.100.7"}) != "" {
			t.Fatal("a wrong secret lets somebody in")
		}
	}
	if a.asks(login{user: id.String(), pass: secret.Reveal(), host: "198.51.100.7"}) != "" {
		t.Error("after twenty guesses the next is listened to")
	}
	if a.asks(login{user: id.String(), pass: secret.Reveal(), host: "192.0.2.1"}) == "" {
		t.Errorf("somebody else's guesses keep the key out: %s", a.log)
	}
	a.now = a.now.Add(10 * time.Second)
	if a.asks(login{user: id.String(), pass: secret.Reveal(), host: "198.51.100.7"}) == "" {
		t.Error("ten seconds later it is not listened to")
	}
}
