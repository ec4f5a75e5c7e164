package oidc_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/authntest"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/wire"
)

// attack is a token that must not be believed.
type attack struct {
	token string
	code  wire.Code
	// why is in the error, for the log: that it was refused for this and nothing else.
	why string
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// spelt is a token whose bytes are the same, spelt in another way: the last character of
// the signature, of 64 bytes, has 4 bits that say nothing.
func spelt(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + alphabet[last+1:last+2]
}

// attacks are forged, altered or stolen tokens for p. All but what an attack is about is as
// in a token that is taken.
func attacks(t testing.TB, p *platform) map[string]attack {
	t.Helper()
	key := p.corp.Key()
	other := oidctest.New("https://other.example", jose.ES256)
	good := p.corp.Token(p.claims())
	parts := strings.Split(good, ".")
	header := asJSON(t, map[string]any{"alg": "ES256", "kid": key.ID})
	payload := asJSON(t, p.claims())
	raw := func(header, payload string) string { return key.Sign([]byte(header), []byte(payload)) }
	withHeader := func(name string, v any) string { return p.corp.TokenWith(map[string]any{name: v}, p.claims()) }
	with := func(name string, v any) string { return p.corp.Token(p.claims(set(name, v))) }
	// The public key as a secret, in the shapes that libraries would have it.
	der, err := x509.MarshalPKIXPublicKey(key.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	hs256 := func(secret []byte) string {
		input := b64(asJSON(t, map[string]any{"alg": "HS256", "kid": key.ID})) + "." + b64(payload)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + b64(mac.Sum(nil))
	}
	jwk := jose.JSONWebKey{Key: other.Key().Signer.Public(), KeyID: "mine", Algorithm: "ES256", Use: "sig"}
	own := oidctest.Key{ID: key.ID, Signer: other.Key().Signer}
	now := time.Now()
	flipped := []byte(parts[2])
	if flipped[0] = 'A'; parts[2][0] == 'A' {
		flipped[0] = 'B'
	}

	return map[string]attack{
		"empty":                              {"", wire.BadIdentity, "1 parts"},
		"alg none":                           {b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", wire.BadIdentity, "no signature"},
		"alg none with a signature":          {b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2], wire.BadIdentity, `signed with "none"`},
		"alg None":                           {b64([]byte(`{"alg":"None"}`)) + "." + parts[1] + "." + parts[2], wire.BadIdentity, `signed with "None"`},
		"no alg":                             {withHeader("alg", nil), wire.BadIdentity, "no algorithm"},
		"alg is no text":                     {withHeader("alg", 1), wire.BadIdentity, `"alg" is no text`},
		"HS256 with the public key (DER)":    {hs256(der), wire.BadIdentity, `signed with "HS256"`},
		"HS256 with the public key (PEM)":    {hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), wire.BadIdentity, `signed with "HS256"`},
		"an algorithm that is not accepted":  {withHeader("alg", "RS256"), wire.BadIdentity, `signed with "RS256"`},
		"no signature":                       {parts[0] + "." + parts[1] + ".", wire.BadIdentity, "no signature"},
		"two parts":                          {parts[0] + "." + parts[1], wire.BadIdentity, "2 parts"},
		"five parts: encrypted":              {strings.Repeat(parts[0]+".", 4) + parts[0], wire.BadIdentity, "5 parts"},
		"truncated":                          {good[:len(good)-10], wire.BadIdentity, ""},
		"a signature of another token":       {parts[0] + "." + b64(asJSON(t, p.claims(set("sub", "root")))) + "." + parts[2], wire.BadIdentity, "verifying"},
		"a signature with a bit changed":     {parts[0] + "." + parts[1] + "." + string(flipped), wire.BadIdentity, "verifying"},
		"a signature in DER":                 {parts[0] + "." + parts[1] + "." + b64(der), wire.BadIdentity, "verifying"},
		"padding":                            {good + "=", wire.BadIdentity, "no signature in base64url"},
		"bits that say nothing":              {spelt(good), wire.BadIdentity, "no signature in base64url"},
		"a line end":                         {parts[0] + "\n." + parts[1] + "." + parts[2], wire.BadIdentity, "its header is not base64url"},
		"a space":                            {" " + good, wire.BadIdentity, "its header is not base64url"},
		"JSON serialization":                 {string(asJSON(t, map[string]any{"payload": parts[1], "protected": parts[0], "signature": parts[2]})), wire.BadIdentity, "parts"},
		"huge":                               {raw(string(header), `{"iss":"`+strings.Repeat("x", oidc.MaxToken)+`"}`), wire.BadIdentity, "bytes"},
		"deep":                               {raw(string(header), strings.Repeat(`{"a":`, 100)+"1"+strings.Repeat("}", 100)), wire.BadIdentity, "levels deep"},
		"the payload is a list":              {raw(string(header), `[1]`), wire.BadIdentity, "not a JSON object"},
		"the payload is null":                {raw(string(header), `null`), wire.BadIdentity, "not a JSON object"},
		"something behind the payload":       {raw(string(header), string(payload)+"{}"), wire.BadIdentity, "something behind"},
		"not UTF-8":                          {raw(string(header), "{\"iss\":\"\xff\"}"), wire.BadIdentity, "not valid UTF-8"},
		"half a character":                   {raw(string(header), `{"iss":"\ud800"}`), wire.BadIdentity, "text with a character"},
		"duplicate member in the header":     {raw(`{"alg":"ES256","alg":"ES256","kid":"`+key.ID+`"}`, string(payload)), wire.BadIdentity, `"alg" is there twice`},
		"duplicate member in the payload":    {raw(string(header), `{"sub":"root",`+string(payload[1:])), wire.BadIdentity, `"sub" is there twice`},
		"duplicate member, written another":  {raw(string(header), `{"s\u0075b":"root",`+string(payload[1:])), wire.BadIdentity, `"sub" is there twice`},
		"duplicate member in an object":      {raw(string(header), `{"x":{"y":1,"y":2},`+string(payload[1:])), wire.BadIdentity, `"y" is there twice`},
		"two claims of one name":             {p.corp.Token(p.claims(set("a.b", "1"), set("a", map[string]any{"b": "2"}))), wire.BadIdentity, "two claims are called"},
		"two claims of one name, one long":   {p.corp.Token(p.claims(set("a.b", strings.Repeat("x", 600)), set("a", map[string]any{"b": "2"}))), wire.BadIdentity, "two claims are called"},
		"too many claims":                    {with("groups", slices.Repeat([]string{"x"}, 1100)), wire.BadIdentity, "claims with"},
		"crit":                               {p.corp.TokenWith(map[string]any{"crit": []string{"exp"}, "exp": 1}, p.claims()), wire.BadIdentity, `"crit"`},
		"b64":                                {withHeader("b64", false), wire.BadIdentity, `"b64"`},
		"jwk: its own key":                   {oidctest.Key{Signer: other.Key().Signer}.Sign(asJSON(t, map[string]any{"alg": "ES256", "kid": "mine", "jwk": jwk}), payload), wire.BadIdentity, `"jwk"`},
		"jku: its own set":                   {withHeader("jku", "https://other.example/keys"), wire.BadIdentity, `"jku"`},
		"x5u":                                {withHeader("x5u", "https://other.example/cert"), wire.BadIdentity, `"x5u"`},
		"x5c":                                {withHeader("x5c", []string{b64(der)}), wire.BadIdentity, `"x5c"`},
		"a key id that is a path":            {withHeader("kid", "../../../../dev/null"), wire.BadIdentity, "no key of the provider fits"},
		"a long key id":                      {withHeader("kid", strings.Repeat("k", 300)), wire.BadIdentity, "a key id of 300 bytes"},
		"another key under the same key id":  {own.Sign(header, payload), wire.BadIdentity, "verifying"},
		"another key without a key id":       {own.Sign([]byte(`{"alg":"ES256"}`), payload), wire.BadIdentity, "no key of the provider fits"},
		"another provider's key":             {other.Key().Sign(header, payload), wire.BadIdentity, "verifying"},
		"a provider that is not known":       {other.Token(other.Claims(now, "alice-1", audience)), wire.BadIdentity, "no provider has the issuer"},
		"an issuer with a slash more":        {with("iss", corp+"/"), wire.BadIdentity, "no provider has the issuer"},
		"an issuer in other case":            {with("iss", "https://Login.corp.example"), wire.BadIdentity, "no provider has the issuer"},
		"an issuer that is a list":           {with("iss", []string{corp}), wire.BadIdentity, "no issuer"},
		"no issuer":                          {with("iss", nil), wire.BadIdentity, "no issuer"},
		"another issuer in other case":       {raw(string(header), string(payload[:len(payload)-1])+`,"ISS":"https://other.example"}`), wire.BadIdentity, "verifying"},
		"another audience":                   {with("aud", "herald-cli-2"), wire.BadIdentity, "its audience is"},
		"an audience that begins alike":      {with("aud", audience+" other"), wire.BadIdentity, "its audience is"},
		"no audience":                        {with("aud", nil), wire.BadIdentity, "no audience"},
		"an empty list of audiences":         {with("aud", []string{}), wire.BadIdentity, "no audience"},
		"an audience that is no text":        {with("aud", []any{audience, 1}), wire.BadIdentity, "an audience that is no text"},
		"for others too":                     {with("aud", []string{audience, "other"}), wire.BadIdentity, "without an authorized party"},
		"made for another client":            {p.corp.Token(p.claims(set("aud", []string{audience, "other"}), set("azp", "other"))), wire.BadIdentity, "its authorized party is"},
		"azp is no text":                     {with("azp", 1), wire.BadIdentity, "azp is no text"},
		"an access token (at+jwt)":           {withHeader("typ", "at+jwt"), wire.BadIdentity, `of the kind "access"`},
		"an access token (application/…)":    {withHeader("typ", "application/AT+JWT"), wire.BadIdentity, `of the kind "access"`},
		"an access token (scope)":            {with("scope", "openid"), wire.BadIdentity, `of the kind "access"`},
		"an access token (scp)":              {with("scp", []string{"openid"}), wire.BadIdentity, `of the kind "access"`},
		"an access token (client_id)":        {with("client_id", audience), wire.BadIdentity, `of the kind "access"`},
		"an access token (typ Bearer)":       {with("typ", "Bearer"), wire.BadIdentity, `of the kind "access"`},
		"an access token (token_use)":        {with("token_use", "access"), wire.BadIdentity, `of the kind "access"`},
		"a refresh token":                    {with("typ", "Refresh"), wire.BadIdentity, "a token of type"},
		"a logout token":                     {withHeader("typ", "logout+jwt"), wire.BadIdentity, "a token of type"},
		"a logout token that does not say":   {with("events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}), wire.BadIdentity, "tells of events"},
		"a proof of possession":              {withHeader("typ", "dpop+jwt"), wire.BadIdentity, "a token of type"},
		"expired":                            {with("exp", now.Add(-time.Second).Unix()), wire.Expired, "it ended"},
		"expired, to the second":             {with("exp", now.Truncate(time.Second).Unix()), wire.Expired, "it ended"},
		"no end":                             {with("exp", nil), wire.BadIdentity, "exp: no number"},
		"an end that is text":                {with("exp", "9999999999"), wire.BadIdentity, "exp: no number"},
		"an end after all times":             {raw(string(header), strings.Replace(string(payload), `"exp":`, `"exp":1e300,"was":`, 1)), wire.BadIdentity, "exp: no time between"},
		"issued before all times":            {with("iat", -5), wire.BadIdentity, "iat: no time between"},
		"no time of issue":                   {with("iat", nil), wire.BadIdentity, "iat: no number"},
		"issued later":                       {with("iat", now.Add(2*time.Minute).Unix()), wire.BadIdentity, "it will be issued in"},
		"not yet valid":                      {with("nbf", now.Add(2*time.Minute).Unix()), wire.BadIdentity, "it begins in"},
		"nobody":                             {with("sub", nil), wire.BadIdentity, `"sub" is no text`},
		"an empty subject":                   {with("sub", ""), wire.BadIdentity, "not a subject"},
		"a subject that is a number":         {with("sub", 7), wire.BadIdentity, "sub is no text"},
		"a subject that is a list":           {with("sub", []string{"alice-1"}), wire.BadIdentity, "sub is no text"},
		"a subject with a line end":          {with("sub", "alice-1\nroot"), wire.BadIdentity, "not a subject"},
		"a subject with a look-alike letter": {with("sub", "аlice-1"), wire.BadIdentity, "not a subject"},
		"a long subject":                     {with("sub", strings.Repeat("a", 256)), wire.BadIdentity, "not a subject"},
	}
}

func TestAttacks(t *testing.T) {
	p := newPlatform(t)
	for name, a := range attacks(t, p) {
		t.Run(name, func(t *testing.T) {
			who, err := p.ask(t, a.token)
			if err == nil {
				t.Fatalf("taken for %s", who.Identity)
			}
			// A key id that is not there may be looked up too soon after another.
			if c := code(err); c != a.code && (a.why != "no key of the provider fits" || c != wire.Unavailable) {
				t.Errorf("%s, want %s: %v", c, a.code, err)
			}
			if !strings.Contains(err.Error(), a.why) {
				t.Errorf("not because of %q: %v", a.why, err)
			}
		})
	}
	who, err := p.ask(t, p.corp.Token(p.claims()))
	if err != nil || who.Identity.String() != "oidc:corp:alice-1" || who.Provider.String() != "corp" || !who.Until.IsZero() || !who.Name.IsZero() {
		t.Errorf("the token that was attacked: %+v, %v", who, err)
	}
}

// TestConformance holds the method to what every one is held to.
func TestConformance(t *testing.T) {
	authntest.Run(t, func(t *testing.T) authntest.Case {
		p := newPlatform(t)
		c := authntest.Case{Method: p, Bad: make(map[string]authntest.Bad)}
		for i := range 3 {
			token := p.corp.Token(p.claims(set("sub", fmt.Sprintf("user-%d", i)), set("groups", []string{"a", "b"})))
			c.Good = append(c.Good, evidence(token, time.Now()))
		}
		for name, a := range attacks(t, p) {
			// Which of two codes an unknown key has depends on what was asked just before.
			if a.why != "no key of the provider fits" {
				c.Bad[name] = authntest.Bad{Evidence: evidence(a.token, time.Now()), Code: a.code}
			}
		}
		c.Stuck = func(t *testing.T) (authn.Method, authn.Evidence) {
			p := newPlatform(t)
			p.corp.Intercept(stuck)
			return p, evidence(p.corp.Token(p.claims()), time.Now())
		}
		return c
	})
}
