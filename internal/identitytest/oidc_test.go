package identitytest

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/wire"
)

// audience is this platform's, to its providers.
const audience = "herald-tests"

// login is a provider that listens on loopback.
type login struct {
	*oidctest.Provider
	server *httptest.Server
}

// newLogin starts a provider.
func newLogin() *login {
	var p *oidctest.Provider
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(w, r) }))
	p = oidctest.New(server.URL, jose.RS256)
	return &login{p, server}
}

// as comes with a token of the provider, with some claims changed.
func (l *login) as(subject string, change map[string]any) client.Token {
	return func(context.Context) (string, error) {
		claims := l.Claims(time.Now(), subject, audience)
		maps.Copy(claims, change)
		return l.Token(claims), nil
	}
}

// TestLogin: people with a company login get what their groups are for, under the name
// that the company knows them by, from any region.
func TestLogin(t *testing.T) {
	alice := corp.as("alice", map[string]any{"preferred_username": "alice", "groups": []string{"staff"}})
	key := newKey(t)
	for _, at := range []string{"sgp", "sfo", "ams"} {
		c, err := issue(t, guest(t, region(at)), key, client.Wish{Identity: alice}, "")
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		if c.User.Name != name("alice") || c.User.Identity.String() != "oidc:corp:alice" || c.User.Account != label("CHAT") || c.User.Met != "" {
			t.Errorf("%s: %+v", at, c.User)
		}
	}
	nc := guest(t, region("sfo"))
	// Another device has the same name; nobody else has.
	if _, err := issue(t, nc, newKey(t), client.Wish{Identity: alice}, ""); err != nil {
		t.Errorf("another device: %v", err)
	}
	_, err := issue(t, nc, newKey(t), client.Wish{Name: name("alice")}, "")
	refusedAs(t, "her name, without a login", err, wire.NameTaken)
	_, err = issue(t, nc, newKey(t), client.Wish{Identity: alice, Name: name("bob")}, "")
	refusedAs(t, "another name than hers", err, wire.BadName)
	_, err = issue(t, nc, newKey(t), client.Wish{Identity: alice, Account: label("ORDERS")}, "")
	refusedAs(t, "a role of another group", err, wire.RoleNotGranted)

	// Those of a group have its role, and keep it at renewals, without a token.
	ops := corp.as("olaf", map[string]any{"preferred_username": "olaf", "groups": []string{"staff", "ops"}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	creds := make(chan client.Credential, 100)
	s, err := client.Connect(ctx, client.Config{
		Platform: shared.Public, Key: newKey(t), Region: region("sgp"), Wish: client.Wish{Identity: ops, Account: label("ORDERS"), TTL: 6 * time.Second},
		OnCredential: func(c client.Credential) { creds <- c },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	first, next := renewed(t, ctx, creds)
	if first.User.Account != label("ORDERS") || first.User.Met == "" || next.User.Met != first.User.Met {
		t.Errorf("renewed from %+v to %+v", first.User, next.User)
	}
}

// TestJob: a CI job gets what its repository and branch are for.
func TestJob(t *testing.T) {
	nc := guest(t, region("ams"))
	job := func(repository, ref string) client.Token {
		return ci.as("repo:"+repository+":ref:"+ref, map[string]any{"repository": repository, "ref": ref})
	}
	c, err := issue(t, nc, newKey(t), client.Wish{Identity: job("acme/app", "refs/heads/main"), Name: name("deploy")}, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.User.Account != label("ORDERS") || c.User.Role != label("service") {
		t.Errorf("%+v", c.User)
	}
	for what, token := range map[string]client.Token{
		"another repository":                      job("evil/app", "refs/heads/main"),
		"one that begins so":                      job("acme-evil/app", "refs/heads/main"),
		"another branch":                          job("acme/app", "refs/heads/main2"),
		"a branch of that name in a pull request": job("acme/app", "refs/pull/1/merge"),
	} {
		_, err := issue(t, nc, newKey(t), client.Wish{Identity: token, Name: name("deploy")}, "")
		refusedAs(t, what, err, wire.NoGrant)
	}
}

// TestLoginAttacks: what is no good token gives nothing; the caller is told a code and one
// sentence, and the log says why, but never what the token was.
func TestLoginAttacks(t *testing.T) {
	now := time.Now()
	other := newLogin()
	defer other.server.Close()
	staff := map[string]any{"preferred_username": "eve", "groups": []string{"staff"}}
	with := func(name string, v any) client.Token {
		change := maps.Clone(staff)
		change[name] = v
		return corp.as("eve", change)
	}
	raw := func(token string) client.Token { return func(context.Context) (string, error) { return token, nil } }
	claims := func() map[string]any {
		c := corp.Claims(now, "eve", audience)
		maps.Copy(c, staff)
		return c
	}
	good, err := corp.as("eve", staff)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forged := claims()
	forged["iss"] = corp.Issuer()
	nc := guest(t, region("sgp"))
	for what, c := range map[string]struct {
		token client.Token
		code  wire.Code
	}{
		"for somebody else":           {with("aud", "another"), wire.BadIdentity},
		"of another provider":         {other.as("eve", staff), wire.BadIdentity},
		"signed by another provider":  {raw(other.Token(forged)), wire.BadIdentity},
		"that has ended":              {with("exp", now.Add(-time.Minute).Unix()), wire.Expired},
		"that does not hold yet":      {with("nbf", now.Add(time.Hour).Unix()), wire.BadIdentity},
		"from the future":             {with("iat", now.Add(time.Hour).Unix()), wire.BadIdentity},
		"without a signature":         {raw(corp.TokenWith(map[string]any{"alg": "none", "kid": corp.Key().ID}, claims())), wire.BadIdentity},
		"with another's algorithm":    {raw(corp.TokenWith(map[string]any{"alg": "HS256", "kid": corp.Key().ID}, claims())), wire.BadIdentity},
		"cut off":                     {raw(good[:len(good)-10]), wire.BadIdentity},
		"altered":                     {raw(good[:len(good)/2] + "A" + good[len(good)/2+1:]), wire.BadIdentity},
		"with a name that is none":    {with("preferred_username", "Eve Evil"), wire.BadIdentity},
		"with a name of everybody":    {with("preferred_username", "*"), wire.BadIdentity},
		"with a look-alike of a name": {with("preferred_username", "еve"), wire.BadIdentity}, // the first is Cyrillic
		"that is none":                {raw("a.b.c"), wire.BadIdentity},
		"in no group that it must be": {with("groups", []string{"guests"}), wire.BadIdentity},
	} {
		var token string
		_, err := issue(t, nc, newKey(t), client.Wish{Identity: client.Token(func(ctx context.Context) (string, error) {
			token, err = c.token(ctx)
			return token, err
		})}, "")
		var e *wire.Error
		if !errors.As(err, &e) {
			t.Errorf("a token %s: %v", what, err)
			continue
		}
		refusedWith(t, "a token "+what, e, c.code, `"type":"oidc"`)
		for part := range strings.SplitSeq(token, ".") {
			if len(part) > 20 && log.says(part) {
				t.Errorf("a token %s: it is in the log", what)
			}
		}
	}
	if _, err := issue(t, nc, newKey(t), client.Wish{Identity: raw(good)}, ""); err != nil {
		t.Errorf("the one that the others differ from: %v", err)
	}
}

// TestProviderAway: who is known is verified while the provider is away, one provider's
// trouble is no other's, and a new key is found once it is back.
func TestProviderAway(t *testing.T) {
	nc := guest(t, region("ams"))
	who := flaky.as("frank", map[string]any{})
	if _, err := issue(t, nc, newKey(t), client.Wish{Identity: who, Name: name("frank")}, ""); err != nil {
		t.Fatal(err)
	}
	flaky.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	if _, err := issue(t, nc, newKey(t), client.Wish{Identity: who, Name: name("frank")}, ""); err != nil {
		t.Errorf("while it is away: %v", err)
	}
	alice := corp.as("alice2", map[string]any{"preferred_username": "alice2", "groups": []string{"staff"}})
	if _, err := issue(t, nc, newKey(t), client.Wish{Identity: alice}, ""); err != nil {
		t.Errorf("of another provider meanwhile: %v", err)
	}
	flaky.Intercept(nil)
	flaky.Rotate()
	if _, err := issue(t, nc, newKey(t), client.Wish{Identity: who, Name: name("frank")}, wire.Unavailable); err != nil {
		t.Errorf("with a new key: %v", err)
	}
}
