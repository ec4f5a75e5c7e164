package oidc_test

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/internal/oidctest/dex"
	"github.com/herald-nats/herald/internal/oidctest/zitadel"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/wire"
)

// clock is time.Now, and can be put forward: pauses between look-ups are not waited for.
type clock struct {
	mu  sync.Mutex
	add time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.add)
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add += d
}

// TestZitadel: people by device code, programs by client credentials, against a provider
// over real sockets.
func TestZitadel(t *testing.T) {
	p := zitadel.Start(t)
	conf := oidc.Provider{
		Name: label(t, "zitadel"), Issuer: p.Issuer, Audiences: []string{zitadel.DeviceClient},
	}
	machines := conf
	machines.Audiences, machines.Tokens = []string{zitadel.ServiceClient}, []string{oidc.TokenAccess}
	c := new(clock)
	m := oidc.New([]oidc.Provider{conf}, oidc.Options{Clock: c.now})
	defer m.Close()

	login := func() string {
		t.Helper()
		token, err := p.Login(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	ask := func(what, token string, now time.Time, want wire.Code) authn.Who {
		t.Helper()
		who, err := m.Identify(t.Context(), evidence(token, now))
		if code(err) != want {
			t.Fatalf("%s: %v, want %q", what, err, want)
		}
		return who
	}
	person := login()
	p.Away(true)
	ask("the provider is away at first", person, time.Now(), wire.Unavailable)
	p.Away(false)
	c.forward(time.Minute)
	if who := ask("a person", person, time.Now(), ""); who.Identity.String() != "oidc:zitadel:alice" {
		t.Errorf("%+v", who)
	}
	p.Away(true)
	c.forward(3 * time.Hour)
	ask("a person while the provider is away", person, time.Now(), "")
	p.Away(false)
	c.forward(time.Minute)
	ask("its clock is an hour ahead", person, time.Now().Add(-time.Hour), wire.BadIdentity)
	ask("its clock is two hours behind", person, time.Now().Add(2*time.Hour), wire.Expired)

	p.Rotate(t)
	c.forward(10 * time.Second)
	ask("a person with the next key", login(), time.Now(), "")
	c.forward(10 * time.Second)
	ask("a person with a key that is gone", person, time.Now(), wire.BadIdentity)

	service, err := p.Service().Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask("an access token where ID tokens are taken", service.AccessToken, time.Now(), wire.BadIdentity)
	m.Use([]oidc.Provider{machines})
	if who := ask("a program", service.AccessToken, time.Now(), ""); who.Identity.String() != "oidc:zitadel:"+zitadel.ServiceClient {
		t.Errorf("%+v", who)
	}
	ask("an ID token where access tokens are taken", login(), time.Now(), wire.BadIdentity)
}

// TestDex: a second provider, in a process of its own.
func TestDex(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	program, err := dex.Build(t.Context(), root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("dex was built in %s", time.Since(start).Round(time.Second))
	d := dex.Start(t, program)
	c := new(clock)
	m := oidc.New([]oidc.Provider{{
		Name: label(t, "dex"), Issuer: d.Issuer, Audiences: []string{dex.Client}, NameClaim: "name",
		Required: map[string][]string{"email_verified": {"true"}, "email": {"alice@*"}},
	}}, oidc.Options{Clock: c.now})
	defer m.Close()
	login := func() string {
		t.Helper()
		token, err := d.Login(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	ask := func(what, token string, now time.Time, want wire.Code) authn.Who {
		t.Helper()
		who, err := m.Identify(t.Context(), evidence(token, now))
		if code(err) != want {
			t.Fatalf("%s: %v, want %q", what, err, want)
		}
		return who
	}
	token := login()
	who := ask("a person", token, time.Now(), "")
	if who.Name.String() != dex.User || !strings.HasPrefix(who.Identity.String(), "oidc:dex:") || who.Claims["email"][0] != dex.User+"@example.com" {
		t.Errorf("%+v", who)
	}
	ask("its clock is an hour ahead", token, time.Now().Add(-time.Hour), wire.BadIdentity)
	ask("its clock is two days behind", token, time.Now().Add(48*time.Hour), wire.Expired)

	d.Stop(t)
	c.forward(3 * time.Hour)
	ask("a person while the provider is away", token, time.Now(), "")
	d.Run(t) // with keys of its own
	c.forward(time.Minute)
	next := login()
	if again := ask("a person with the next key", next, time.Now(), ""); again.Identity != who.Identity {
		t.Errorf("%s is %s after a restart", who.Identity, again.Identity)
	}
	c.forward(time.Minute)
	ask("a person with a key that is gone", token, time.Now(), wire.BadIdentity)
}

// TestPrivateCA: over TLS, and only with the authority that the platform names.
func TestPrivateCA(t *testing.T) {
	var signs *oidctest.Provider
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { signs.ServeHTTP(w, r) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it would tell of the client that does not trust it
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	signs = oidctest.New(server.URL, jose.ES256)
	conf := provider(t)
	conf.Issuer = server.URL
	for _, tt := range []struct {
		name, ca string
		want     wire.Code
	}{
		{"its authority", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), ""},
		{"the system's", "", wire.Unavailable},
	} {
		conf.CA = tt.ca
		if problems := oidc.Check("providers", []oidc.Provider{conf}); len(problems) > 0 {
			t.Fatal(problems)
		}
		m := oidc.New([]oidc.Provider{conf}, oidc.Options{})
		_, err := m.Identify(t.Context(), evidence(signs.Token(signs.Claims(time.Now(), "alice", audience)), time.Now()))
		m.Close()
		if code(err) != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// The corpus has no secrets of anything real.
func FuzzToken(f *testing.F) {
	p := newPlatform(f)
	for _, a := range attacks(f, p) {
		f.Add(a.token)
	}
	good := p.corp.Token(p.claims())
	f.Add(good)
	now := time.Now()
	f.Fuzz(func(t *testing.T, token string) {
		who, err := p.Identify(t.Context(), evidence(token, now))
		switch {
		case err == nil && token != good:
			t.Fatalf("%q is taken for %s", token, who.Identity)
		case err != nil && code(err).Number() == 0:
			t.Fatal(err)
		}
	})
}

// FuzzPayload has the provider sign what it is given: nothing that it can say makes the
// method panic, or name somebody in two ways.
func FuzzPayload(f *testing.F) {
	p := newPlatform(f, func(c *oidc.Provider) {
		c.NameClaim, c.GroupsClaim, c.Tokens = "name", "a.b", []string{oidc.TokenID, oidc.TokenAccess}
	})
	head := `{"iss":"` + corp + `","aud":"` + audience + `","iat":1800000000,"exp":1800000300,`
	f.Add(`"sub":"alice","name":"alice"}`)
	f.Add(`"sub":"alice","name":"alice","a":{"b":["x","y"]}}`)
	f.Add(`"sub":"alice","name":"alice","a":{"b":[1,null,{"c":{}}]},"scope":"x"}`)
	f.Add(`"sub":"alice","name":"Alice","SUB":"bob","a.b":"x","a":{"b":"y"}}`)
	f.Add(`"sub":"\ud800","name":"alice","nbf":1e400,"azp":7,"_claim_names":{"a":"b"}}`)
	f.Add(`"sub":"alice","sub":"bob"}`)
	k := p.corp.Key()
	header := []byte(`{"alg":"ES256","kid":"` + k.ID + `"}`)
	now := time.Unix(1_800_000_010, 0)
	f.Fuzz(func(t *testing.T, rest string) {
		e := evidence(k.Sign(header, []byte(head+rest)), now)
		who, err := p.Identify(t.Context(), e)
		if err != nil {
			if code(err).Number() == 0 {
				t.Fatal(err)
			}
			return
		}
		subject, ok := strings.CutPrefix(who.Identity.String(), "oidc:corp:")
		if !ok || len(who.Claims["sub"]) != 1 || who.Claims["sub"][0] != subject || who.Claims["name"][0] != who.Name.String() {
			t.Fatalf("%+v", who)
		}
	})
}

// FuzzKeys has the provider answer anything where its keys should be.
func FuzzKeys(f *testing.F) {
	f.Add(`{"keys":[]}`)
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`)
	f.Add(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"key-1"}]}`)
	f.Add(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"},{"kty":"oct","k":"AAAA"},7,null]}`)
	signs := oidctest.New("https://signs.example", jose.ES256)
	f.Fuzz(func(t *testing.T, body string) {
		conf := provider(t)
		conf.JWKSURL = corp + "/keys"
		m := oidc.New([]oidc.Provider{conf}, oidc.Options{Transport: oidctest.Network{corp: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(body))
		})}})
		defer m.Close()
		now := time.Now()
		c := signs.Claims(now, "alice", audience)
		c["iss"] = corp
		if who, err := m.Identify(t.Context(), evidence(signs.Token(c), now)); err == nil {
			t.Fatalf("taken for %s", who.Identity)
		}
	})
}
