package callout_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/callout"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey(kind keystore.Kind) *keystore.Key { return must(keystore.Generate(kind)) }

// server is one that asks, with nothing of this package.
type server struct{ sign, seal *keystore.Key }

func newServer() server { return server{newKey(keystore.Server), newKey(keystore.Curve)} }

func (s server) xkey() ident.SealKey { return must(ident.ParseSealKey(s.seal.Public())) }

// asks are the claims of a request as a server makes them.
func (s server) asks(account ident.AccountKey) *jwt.AuthorizationRequestClaims {
	c := jwt.NewAuthorizationRequestClaims(account.String())
	c.Audience = "nats-authorization-request"
	c.UserNkey = newKey(keystore.User).Public()
	c.Server = jwt.ServerID{Name: "ams-1", Host: "0.0.0.0", ID: s.sign.Public(), Version: "2.15.2", Cluster: "ams", XKey: s.seal.Public()}
	c.ClientInformation = jwt.ClientInformation{Host: "127.0.0.1", ID: 7, User: "HKAAAAAAAAAAAAAAAAAA", Kind: "Client", Type: "nats"}
	c.ConnectOptions = jwt.ConnectOptions{Username: "HKAAAAAAAAAAAAAAAAAA", Password: "a secret", Token: "a token", Lang: "go", Protocol: 1}
	c.Expires = time.Now().Add(2 * time.Second).Unix()
	return c
}

// fixture is a callout key, and the account whose servers ask.
type fixture struct {
	key     *callout.Key
	public  string
	account ident.AccountKey
	role    *keystore.Key
	server
}

func newFixture() fixture {
	k := newKey(keystore.Curve)
	return fixture{must(callout.NewKey(k)), k.Public(), must(ident.ParseAccountKey(newKey(keystore.Account).Public())), newKey(keystore.Account), newServer()}
}

// TestRequest: what the library of servers writes and seals is read, and what is answered it
// reads.
func TestRequest(t *testing.T) {
	f := newFixture()
	for range 3 { // the second time a key of a server is known
		c := f.asks(f.account)
		token := must(c.Encode(f.sign.Pair()))
		r, err := f.key.Open(f.xkey(), must(f.seal.Pair().Seal([]byte(token), f.public)), f.account, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if r.ID != c.ID || r.User.String() != c.UserNkey || r.Server != f.sign.Public() || r.Seal != f.xkey() || r.Cluster != "ams" || r.Client != 7 || r.Host != "127.0.0.1" ||
			r.Login.User() != "HKAAAAAAAAAAAAAAAAAA" || r.Login.Password() != "a secret" || r.Login.Token() != "a token" {
			t.Errorf("%+v", r)
		}
		for _, user := range []string{"", "a.user.JWT"} {
			body := must(f.key.Answer(r, user, f.account, f.role, time.Now()))
			a, err := jwt.DecodeAuthorizationResponseClaims(string(must(f.seal.Pair().Open(body, f.public))))
			if err != nil {
				t.Fatal(err)
			}
			var vr jwt.ValidationResults
			a.Validate(&vr)
			if len(vr.Issues) > 0 || a.Subject != c.UserNkey || a.Audience != f.sign.Public() || a.Issuer != f.role.Public() || a.IssuerAccount != f.account.String() ||
				a.Jwt != user || (a.Error == "") != (user != "") || a.ID == "" || strings.Contains(a.Error, "secret") {
				t.Errorf("%v %+v", vr.Issues, a)
			}
		}
	}
}

// TestRefused: each thing that a request must be, one at a time.
func TestRefused(t *testing.T) {
	f := newFixture()
	now := time.Now()
	type attack struct {
		claims *jwt.AuthorizationRequestClaims
		signer nkeys.KeyPair
		token  func(string) string
		sealed func([]byte) []byte
		to     string
		from   server
		says   ident.SealKey
		now    time.Time
	}
	for what, change := range map[string]func(*attack){
		"as it should be":                func(*attack) {},
		"sealed to another key":          func(a *attack) { a.to = newKey(keystore.Curve).Public() },
		"in another's name":              func(a *attack) { a.says = newServer().xkey() },
		"sealed by another server":       func(a *attack) { a.from = newServer(); a.says = a.from.xkey() },
		"signed by another server":       func(a *attack) { a.signer = newKey(keystore.Server).Pair() },
		"of another server":              func(a *attack) { a.claims.Server.ID = newKey(keystore.Server).Public() },
		"with an xkey of its own":        func(a *attack) { a.claims.Server.XKey = newKey(keystore.Curve).Public() },
		"for somebody else":              func(a *attack) { a.claims.Audience = "somebody" },
		"for nobody":                     func(a *attack) { a.claims.Audience = "" },
		"about another account":          func(a *attack) { a.claims.Subject = newKey(keystore.Account).Public() },
		"without a user":                 func(a *attack) { a.claims.UserNkey = "" },
		"with a user that is an account": func(a *attack) { a.claims.UserNkey = newKey(keystore.Account).Public() },
		"31 s old":                       func(a *attack) { a.now = now.Add(32 * time.Second) },
		"31 s early":                     func(a *attack) { a.now = now.Add(-31 * time.Second) },
		"that ended before it began":     func(a *attack) { a.claims.Expires = 1 },
		"about a leafnode":               func(a *attack) { a.claims.ClientInformation.Kind = "Leafnode" },
		"with a long host":               func(a *attack) { a.claims.ClientInformation.Host = strings.Repeat("h", 65) },
		"with a long cluster":            func(a *attack) { a.claims.Server.Cluster = strings.Repeat("c", 129) },
		"with too much":                  func(a *attack) { a.claims.ConnectOptions.Password = strings.Repeat("p", callout.MaxRequest) },
		"not sealed":                     func(a *attack) { a.sealed = func([]byte) []byte { return []byte("eyJ") } },
		"empty":                          func(a *attack) { a.sealed = func([]byte) []byte { return nil } },
		"cut off":                        func(a *attack) { a.sealed = func(b []byte) []byte { return b[:len(b)-1] } },
		"a bit of it changed":            func(a *attack) { a.sealed = func(b []byte) []byte { b[len(b)/2] ^= 1; return b } },
		"of another version":             func(a *attack) { a.sealed = func(b []byte) []byte { b[3] = '2'; return b } },
		"with a signature of another":    func(a *attack) { a.token = func(s string) string { return s[:len(s)-4] + "AAAA" } },
		"with no signature":              func(a *attack) { a.token = func(s string) string { return s[:strings.LastIndex(s, ".")+1] } },
		"with a header of version 1":     func(a *attack) { a.token = reheader(`{"typ":"jwt","alg":"ed25519"}`) },
		"with a header that says none":   func(a *attack) { a.token = reheader(`{"typ":"JWT","alg":"none"}`) },
		"no JWT":                         func(a *attack) { a.token = func(string) string { return "hello" } },
		"with claims that are changed": func(a *attack) {
			a.token = reclaimed(t, func(c map[string]any) { c["aud"] = "nats-authorization-request" })
		},
		"a JWT of another kind, of a server": func(a *attack) { a.token = func(string) string { return activation(f) } },
	} {
		t.Run(what, func(t *testing.T) {
			a := attack{claims: f.asks(f.account), signer: f.sign.Pair(), to: f.public, from: f.server, says: f.xkey(), now: now}
			a.token, a.sealed = func(s string) string { return s }, func(b []byte) []byte { return b }
			change(&a)
			token := a.token(must(a.claims.Encode(a.signer)))
			body := a.sealed(must(a.from.seal.Pair().Seal([]byte(token), a.to)))
			r, err := f.key.Open(a.says, body, f.account, a.now)
			if what == "as it should be" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, callout.ErrRequest) || r.User != (ident.UserKey{}) || r.Login.Password() != "" {
				t.Errorf("%v, %+v", err, r)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "a token")) {
				t.Errorf("it quotes what was in it: %v", err)
			}
		})
	}
}

func reheader(header string) func(string) string {
	return func(token string) string {
		_, rest, _ := strings.Cut(token, ".")
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + rest
	}
}

// reclaimed spells claims in another way, so that the signature is of others.
func reclaimed(t *testing.T, change func(map[string]any)) func(string) string {
	return func(token string) string {
		parts := strings.Split(token, ".")
		var c map[string]any
		if err := json.Unmarshal(must(base64.RawURLEncoding.DecodeString(parts[1])), &c); err != nil {
			t.Fatal(err)
		}
		change(c)
		parts[1] = base64.RawURLEncoding.EncodeToString(must(json.Marshal(c)))
		return strings.Join(parts, ".")
	}
}

// activation is signed by the server, and asks nothing.
func activation(f fixture) string {
	c := jwt.NewGenericClaims(f.account.String())
	c.Audience = "nats-authorization-request"
	return must(c.Encode(f.sign.Pair()))
}

// TestLoginIsNotTold: whoever prints a request by mistake prints no password.
func TestLoginIsNotTold(t *testing.T) {
	r := callout.Request{Login: callout.NewLogin("HKAAAAAAAAAAAAAAAAAA", "hks_secret", "eyJsecret")}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "request", r, "login", r.Login)
	data := must(json.Marshal(r))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		for _, v := range []any{r, &r, r.Login, &r.Login, []any{r}} {
			_, _ = fmt.Fprintf(&log, verb, v)
		}
	}
	log.Write(data)
	if s := log.String(); strings.Contains(s, "secret") || strings.Contains(s, fmt.Sprintf("%x", "secret")) {
		t.Error(s)
	}
	pair := newKey(keystore.Curve)
	k := must(callout.NewKey(pair))
	if s := fmt.Sprintf("%+v %#v %s", k, k, k); strings.Contains(s, string(must(pair.Pair().Seed()))) {
		t.Error("a key tells its seed")
	}
}

func TestNewKey(t *testing.T) {
	if _, err := callout.NewKey(newKey(keystore.User)); !errors.Is(err, keystore.ErrKind) {
		t.Error(err)
	}
}

// FuzzRequest: whatever is sealed, what is read of it was signed by the server that it names,
// as the library sees it, too.
func FuzzRequest(f *testing.F) {
	x := newFixture()
	good := must(x.asks(x.account).Encode(x.sign.Pair()))
	f.Add(good)
	f.Add(reheader(`{"typ":"jwt","alg":"ed25519"}`)(good))
	f.Add(activation(x))
	f.Add("")
	f.Add(trust.JWTHeader + ".")
	f.Fuzz(func(t *testing.T, token string) {
		r, err := x.key.Open(x.xkey(), must(x.seal.Pair().Seal([]byte(token), x.public)), x.account, time.Now())
		if err != nil {
			return
		}
		c, err := jwt.DecodeAuthorizationRequestClaims(token)
		if err != nil || c.Issuer != r.Server || c.UserNkey != r.User.String() || c.ConnectOptions.Password != r.Login.Password() || c.Subject != x.account.String() {
			t.Fatalf("%v %+v", err, r)
		}
	})
}

// FuzzOpen: whatever arrives, nothing that was not sealed is read.
func FuzzOpen(f *testing.F) {
	x := newFixture()
	f.Add([]byte("xkv1"))
	f.Add(must(x.seal.Pair().Seal([]byte("x"), x.public)))
	f.Fuzz(func(t *testing.T, body []byte) {
		if r, err := x.key.Open(x.xkey(), body, x.account, time.Now()); err == nil {
			t.Fatalf("%+v", r)
		}
	})
}

// BenchmarkAnswer is what one connection costs an issuer beside deriving a key and minting.
func BenchmarkAnswer(b *testing.B) {
	f := newFixture()
	token := must(f.asks(f.account).Encode(f.sign.Pair()))
	sealed := must(f.seal.Pair().Seal([]byte(token), f.public))
	user := strings.Repeat("x", 700)
	b.ReportAllocs()
	for b.Loop() {
		r, err := f.key.Open(f.xkey(), sealed, f.account, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.key.Answer(r, user, f.account, f.role, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
