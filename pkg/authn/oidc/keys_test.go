package oidc_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/wire"
)

// stuck answers nothing until the client has gone.
func stuck(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

func down(w http.ResponseWriter, _ *http.Request) bool {
	http.Error(w, "maintenance", http.StatusServiceUnavailable)
	return true
}

// only limits what is intercepted to a path.
func only(path string, f func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool { return r.URL.Path == path && f(w, r) }
}

func (p *platform) want(t *testing.T, what, token string, want wire.Code) {
	t.Helper()
	_ = p.refusal(t, what, token, want)
}

// refusal is want, and gives the error.
func (p *platform) refusal(t *testing.T, what, token string, want wire.Code) error {
	t.Helper()
	_, err := p.ask(t, token)
	if code(err) != want {
		t.Fatalf("%s: %v, want code %q", what, err, want)
	}
	return err
}

func (p *platform) lookups() int { return p.corp.Requests(oidctest.PathKeys) }

func retryAfter(err error) time.Duration {
	if told := (*wire.Error)(nil); errors.As(err, &told) {
		return told.RetryAfter()
	}
	return 0
}

func TestNothingIsAskedBeforeItIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := p.corp.Requests(oidctest.PathDiscovery) + p.lookups(); n != 0 {
			t.Errorf("%d requests without a token", n)
		}
		for range 100 {
			p.want(t, "a good token", p.corp.Token(p.claims()), "")
		}
		if d, k := p.corp.Requests(oidctest.PathDiscovery), p.lookups(); d != 1 || k != 1 {
			t.Errorf("%d and %d requests for 100 tokens", d, k)
		}
	})
}

func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		old := p.corp.Key()
		p.want(t, "the first key", p.corp.Token(p.claims()), "")
		time.Sleep(time.Minute)
		p.corp.Rotate()
		p.want(t, "the next key", p.corp.Token(p.claims()), "")
		if n := p.lookups(); n != 2 {
			t.Errorf("%d look-ups", n)
		}
		// The old key is not in the set any more.
		stale := old.Sign(asJSON(t, map[string]any{"alg": "ES256", "kid": old.ID}), asJSON(t, p.claims()))
		if err := p.refusal(t, "the old key at once", stale, wire.Unavailable); retryAfter(err) > 10*time.Second {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		p.want(t, "the old key", stale, wire.BadIdentity)
	})
}

// A key that the provider takes away is not believed any more, without any unknown one.
func TestKeyIsTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		old := p.corp.Key()
		stale := func() string {
			return old.Sign(asJSON(t, map[string]any{"alg": "ES256", "kid": old.ID}), asJSON(t, p.claims()))
		}
		p.want(t, "the first key", stale(), "")
		p.corp.Rotate()
		time.Sleep(59 * time.Minute)
		p.want(t, "the old key within the hour", stale(), "")
		time.Sleep(2 * time.Minute)
		p.want(t, "the old key, which begins a look-up in the background", stale(), "")
		synctest.Wait()
		p.want(t, "the old key after that", stale(), wire.Unavailable)
		time.Sleep(10 * time.Second)
		p.want(t, "the old key, looked up once more", stale(), wire.BadIdentity)

		// Nobody asks for a day: the next one waits for the look-up.
		old = p.corp.Key()
		p.want(t, "the second key", stale(), "")
		p.corp.Rotate()
		time.Sleep(24 * time.Hour)
		if _, err := p.ask(t, stale()); err == nil {
			t.Error("a key that was taken away a day ago is believed")
		}
	})
}

// Tokens with made-up key ids do not reach the provider more than every 10 s, from however
// many sides, and stop nobody else.
func TestJunkDoesNotHammer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.want(t, "a good token", p.corp.Token(p.claims()), "")
		start := time.Now()
		var n atomic.Int64
		for range 1000 {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					kid := fmt.Sprintf("junk-%d", n.Add(1))
					_, err := p.ask(t, p.corp.TokenWith(map[string]any{"kid": kid}, p.claims()))
					if c := code(err); c != wire.BadIdentity && c != wire.Unavailable {
						t.Errorf("%s: %v", kid, err)
					}
				})
			}
			wg.Wait()
			p.want(t, "a good token among junk", p.corp.Token(p.claims()), "")
			time.Sleep(100 * time.Millisecond)
		}
		took := time.Since(start)
		if most := int(took/(10*time.Second)) + 1; p.lookups() > most || p.lookups() < most-2 {
			t.Errorf("%d look-ups for 10000 junk tokens in %s, want at most %d", p.lookups(), took, most)
		}
		if d := p.corp.Requests(oidctest.PathDiscovery); d != 1 {
			t.Errorf("discovery was asked %d times", d)
		}
		t.Logf("%d look-ups for 10000 junk tokens in %s", p.lookups(), took)

		// And a key that is really new is found amid the junk as soon as a look-up may be.
		p.corp.Rotate()
		_, err := p.ask(t, p.corp.Token(p.claims()))
		if err != nil {
			time.Sleep(retryAfter(err))
			p.want(t, "the new key after retry_after_ms", p.corp.Token(p.claims()), "")
		}
	})
}

// A junk token that is meant for somebody else, or has expired, asks for nothing at all.
func TestOtherTokensAskNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.want(t, "another audience", p.corp.Token(p.claims(set("aud", "other"))), wire.BadIdentity)
		p.want(t, "expired", p.corp.Token(p.claims(set("exp", time.Now().Unix()))), wire.Expired)
		p.want(t, "another algorithm", p.corp.TokenWith(map[string]any{"alg": "RS256"}, p.claims()), wire.BadIdentity)
		if n := p.corp.Requests(oidctest.PathDiscovery) + p.lookups(); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestProviderIsAwayBeforeFirstUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.corp.Intercept(down)
		start := time.Now()
		for time.Since(start) < time.Hour {
			err := p.refusal(t, "nobody answers", p.corp.Token(p.claims()), wire.Unavailable)
			if r := retryAfter(err); r <= 0 || r > time.Minute {
				t.Fatalf("ask again after %s: %v", r, err)
			}
			time.Sleep(time.Second)
		}
		// 1+2+4+8+16+32 s, and then once a minute.
		if n := p.corp.Requests(oidctest.PathDiscovery); n > 66 || n < 60 {
			t.Errorf("%d requests in an hour of 3600 tokens", n)
		}
		p.corp.Intercept(nil)
		time.Sleep(time.Minute)
		p.want(t, "the provider is back", p.corp.Token(p.claims()), "")
		if log := p.log.String(); !strings.Contains(log, "keys of an identity provider cannot be fetched") || strings.Contains(log, "eyJ") {
			t.Errorf("the log: %.300s", log)
		}
	})
}

func TestProviderIsAwayAfterFirstUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.want(t, "the first", p.corp.Token(p.claims()), "")
		p.corp.Intercept(stuck)
		for range 100 {
			time.Sleep(30 * time.Minute)
			start := time.Now()
			p.want(t, "known keys", p.corp.Token(p.claims()), "")
			if took := time.Since(start); took > 2500*time.Millisecond {
				t.Errorf("it took %s", took)
			}
		}
		if err := p.refusal(t, "an unknown key", p.corp.TokenWith(map[string]any{"kid": "new"}, p.claims()), wire.Unavailable); retryAfter(err) <= 0 {
			t.Error(err)
		}
	})
}

// A request waits 2.5 s and no longer; the look-up goes on, so that a slow provider can be
// used at all.
func TestProviderIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.corp.Intercept(only(oidctest.PathKeys, func(http.ResponseWriter, *http.Request) bool {
			time.Sleep(5 * time.Second)
			return false
		}))
		token := p.corp.Token(p.claims())
		start := time.Now()
		err := p.refusal(t, "the first", token, wire.Unavailable)
		if took := time.Since(start); took != 2500*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		for range 10 {
			if err == nil {
				break
			}
			time.Sleep(retryAfter(err))
			_, err = p.ask(t, token)
		}
		if took := time.Since(start); err != nil || took > 7*time.Second || p.lookups() != 1 {
			t.Errorf("after %s and %d look-ups: %v", took, p.lookups(), err)
		}

		// The caller's own time counts too.
		p = newPlatform(t)
		p.corp.Intercept(stuck)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start = time.Now()
		if _, err := p.Identify(ctx, evidence(p.corp.Token(p.claims()), time.Now())); code(err) != wire.Unavailable || time.Since(start) != 100*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// One provider's trouble stops no other: while ten requests wait for one, another answers
// at once.
func TestTroubleStaysWithOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.corp.Intercept(stuck)
		other := oidctest.New("https://other.example", jose.EdDSA)
		p.network[other.Issuer()] = other
		p.Use([]oidc.Provider{provider(t), {Name: label(t, "other"), Issuer: other.Issuer(), Audiences: []string{audience}, Algorithms: []string{"EdDSA"}}})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := p.ask(t, p.corp.Token(p.claims())); code(err) != wire.Unavailable {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		who, err := p.ask(t, other.Token(other.Claims(time.Now(), "bob", audience)))
		if err != nil || who.Identity.String() != "oidc:other:bob" || time.Since(start) != 0 {
			t.Errorf("%s after %s: %v", who.Identity, time.Since(start), err)
		}
		wg.Wait()
		if d := p.corp.Requests(oidctest.PathDiscovery); d != 1 {
			t.Errorf("ten requests asked %d times", d)
		}
	})
}

// What a provider must not answer, and what is then done.
func TestAnswersThatAreNotBelieved(t *testing.T) {
	write := func(body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, body)
			return true
		}
	}
	redirect := func(to string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, to, http.StatusFound)
			return true
		}
	}
	evil := oidctest.New("https://evil.example", jose.ES256)
	discovery := func(issuer, jwks string) func(http.ResponseWriter, *http.Request) bool {
		return only(oidctest.PathDiscovery, write(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, jwks)))
	}
	tests := map[string]struct {
		answer func(http.ResponseWriter, *http.Request) bool
		why    string
	}{
		"discovery of another issuer":      {discovery("https://evil.example", "https://evil.example/keys"), "is of the issuer"},
		"discovery with a slash more":      {discovery(corp+"/", corp+"/keys"), "is of the issuer"},
		"discovery without an issuer":      {only(oidctest.PathDiscovery, write(`{"jwks_uri":"https://evil.example/keys"}`)), "is of the issuer"},
		"discovery with two issuers":       {only(oidctest.PathDiscovery, write(`{"issuer":"`+corp+`","issuer":"x","jwks_uri":"https://evil.example/keys"}`)), "twice"},
		"keys without TLS":                 {discovery(corp, "http://login.corp.example/keys"), "not https"},
		"keys on this machine without TLS": {discovery(corp, "http://127.0.0.1:1/keys"), "not https"},
		"keys in a file":                   {discovery(corp, "file:///etc/passwd"), "not"},
		"no keys":                          {discovery(corp, ""), "no address"},
		"redirect of discovery":            {only(oidctest.PathDiscovery, redirect("https://evil.example"+oidctest.PathDiscovery)), "redirected to"},
		"redirect of keys":                 {only(oidctest.PathKeys, redirect("https://evil.example"+oidctest.PathKeys)), "redirected to"},
		"redirect to plain HTTP":           {only(oidctest.PathKeys, redirect("http://login.corp.example"+oidctest.PathKeys)), "redirected to"},
		"redirect without end":             {only(oidctest.PathKeys, redirect(oidctest.PathKeys)), "redirected to"},
		"a giant discovery":                {only(oidctest.PathDiscovery, write(`{"x":"`+strings.Repeat("x", 2<<20)+`"}`)), "more than 1 MiB"},
		"a giant set":                      {only(oidctest.PathKeys, write(`{"keys":[],"x":"`+strings.Repeat("x", 2<<20)+`"}`)), "more than 1 MiB"},
		"a set of very many keys":          {only(oidctest.PathKeys, write(`{"keys":[`+strings.Repeat("{},", 5000)+`{}]}`)), "5001 keys"},
		"no set":                           {only(oidctest.PathKeys, write(`{}`)), "no list of keys"},
		"no JSON":                          {only(oidctest.PathKeys, write(`<html>`)), "not JSON"},
		"an error":                         {only(oidctest.PathKeys, down), "answers 503"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlatform(t)
				p.network[evil.Issuer()] = evil
				p.corp.Intercept(tt.answer)
				// Signed by whoever the keys might come from.
				k := evil.Key()
				forged := k.Sign(asJSON(t, map[string]any{"alg": "ES256", "kid": k.ID}), asJSON(t, p.claims()))
				for _, token := range []string{p.corp.Token(p.claims()), forged} {
					if err := p.refusal(t, name, token, wire.Unavailable); !strings.Contains(err.Error(), tt.why) {
						t.Errorf("not because of %q: %v", tt.why, err)
					}
				}
				if n := evil.Requests(oidctest.PathKeys) + evil.Requests(oidctest.PathDiscovery); n != 0 {
					t.Errorf("the other host was asked %d times", n)
				}
				p.corp.Intercept(nil)
				time.Sleep(time.Minute)
				p.want(t, "afterwards", p.corp.Token(p.claims()), "")
			})
		})
	}
}

// A set has more than keys for tokens: what cannot verify is passed over.
func TestKeysThatAreNotOurs(t *testing.T) {
	p := newPlatform(t, func(c *oidc.Provider) { c.Algorithms = []string{"ES256", "RS256"} })
	own := p.corp.Key()
	short, err := rsa.GenerateKey(rand.Reader, 1024) // #nosec G403 -- it must be refused
	if err != nil {
		t.Fatal(err)
	}
	set := `{"keys":[
		{"kty":"oct","k":"c2VjcmV0","kid":"hs","alg":"HS256"},
		{"kty":"OKP","crv":"X25519","x":"` + base64.RawURLEncoding.EncodeToString(make([]byte, 32)) + `","kid":"x"},
		{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA","kid":"k1"},
		{"kty":"RSA","n":"` + base64.RawURLEncoding.EncodeToString(short.N.Bytes()) + `","e":"AQAB","kid":"short"},
		7, {"kty":"EC"}, {},
		{"kty":"EC","use":"enc",` + jwkMembers(t, own) + `,"kid":"enc"},
		{"kty":"EC","key_ops":["sign"],` + jwkMembers(t, own) + `,"kid":"ops"},
		{"kty":"EC","alg":"ES512",` + jwkMembers(t, own) + `,"kid":"alg"},
		` + string(asJSON(t, jose.JSONWebKey{Key: own.Signer, KeyID: "private"})) + `,
		{"kty":"EC",` + jwkMembers(t, own) + `,"kid":"` + own.ID + `"}]}`
	p.corp.Intercept(only(oidctest.PathKeys, func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = io.WriteString(w, set)
		return true
	}))
	p.want(t, "the key that is ours", p.corp.Token(p.claims()), "")
	for _, kid := range []string{"hs", "x", "k1", "enc", "ops", "alg", "private"} {
		if _, err := p.ask(t, p.corp.TokenWith(map[string]any{"kid": kid}, p.claims())); err == nil || !strings.Contains(err.Error(), "no key of the provider fits") {
			t.Errorf("key %s: %v", kid, err)
		}
	}
	weak := oidctest.Key{ID: "short", Signer: short}
	if _, err := p.ask(t, weak.Sign([]byte(`{"alg":"RS256","kid":"short"}`), asJSON(t, p.claims()))); err == nil {
		t.Error("a key of 1024 bits is believed")
	}
}

// jwkMembers are crv, x and y of a key, to be written into a set.
func jwkMembers(t *testing.T, k oidctest.Key) string {
	t.Helper()
	data := asJSON(t, jose.JSONWebKey{Key: k.Signer.Public()})
	var m struct{ Crv, X, Y string }
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`"crv":%q,"x":%q,"y":%q`, m.Crv, m.X, m.Y)
}

// Tokens without a key id are verified with every key that fits, also after a rotation.
func TestNoKeyID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		token := func() string { return p.corp.TokenWith(map[string]any{"kid": nil}, p.claims()) }
		p.want(t, "the first key", token(), "")
		p.corp.Rotate()
		time.Sleep(10 * time.Second)
		p.want(t, "the next key", token(), "")
		p.want(t, "the same", token(), "")
		if n := p.lookups(); n != 2 {
			t.Errorf("%d look-ups", n)
		}
	})
}

func TestUseKeepsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.want(t, "the first document", p.corp.Token(p.claims()), "")
		next := provider(t)
		next.Audiences = []string{"another"}
		p.Use([]oidc.Provider{next})
		p.want(t, "the old audience", p.corp.Token(p.claims()), wire.BadIdentity)
		p.want(t, "the new audience", p.corp.Token(p.claims(set("aud", "another"))), "")
		if n := p.lookups(); n != 1 {
			t.Errorf("%d look-ups", n)
		}
		p.Use(nil)
		p.want(t, "no provider", p.corp.Token(p.claims(set("aud", "another"))), wire.BadIdentity)
		// Whoever has a problem is not believed; the others are.
		bad := next
		bad.Name, bad.Issuer = label(t, "bad"), "http://bad.example"
		p.Use([]oidc.Provider{bad, next})
		p.want(t, "beside one with a problem", p.corp.Token(p.claims(set("aud", "another"))), "")
		if !strings.Contains(p.log.String(), "providers[0].issuer") {
			t.Errorf("the log: %s", p.log)
		}
		// Without https its tokens are those of anybody.
		if _, err := p.ask(t, p.corp.Token(p.claims(set("iss", bad.Issuer), set("aud", "another")))); code(err) != wire.BadIdentity {
			t.Error(err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatform(t)
		p.corp.Intercept(stuck)
		done := make(chan error)
		go func() {
			_, err := p.ask(t, p.corp.Token(p.claims()))
			done <- err
		}()
		synctest.Wait()
		start := time.Now()
		p.Close()
		if err := <-done; code(err) != wire.Unavailable || time.Since(start) != 0 {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		time.Sleep(time.Minute)
		if err := p.refusal(t, "after Close", p.corp.Token(p.claims()), wire.Unavailable); !strings.Contains(err.Error(), "shutting down") {
			t.Error(err)
		}
	})
}
