package oidc_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/wire"
)

// read is what a platform's providers make of a token, without its signature.
func read(t testing.TB, token string, now time.Time, edit ...func(*oidc.Provider)) error {
	t.Helper()
	conf := provider(t)
	for _, f := range edit {
		f(&conf)
	}
	_, err := oidc.Read([]oidc.Provider{conf}, token, now)
	return err
}

// TestReadAsIdentify: of every token Read says what Identify says, in the same words, but
// where the signature alone is what is wrong with it.
func TestReadAsIdentify(t *testing.T) {
	p := newPlatform(t)
	now := time.Now()
	tokens := map[string]string{"good": p.corp.Token(p.claims())}
	for what, a := range attacks(t, p) {
		tokens[what] = a.token
	}
	same, unsigned := 0, 0
	for what, token := range tokens {
		who, err := p.Identify(t.Context(), evidence(token, now))
		got, rerr := oidc.Read([]oidc.Provider{provider(t)}, token, now)
		switch {
		case err == nil && rerr == nil:
			if !reflect.DeepEqual(who, got) {
				t.Errorf("%s: %+v, and with its signature %+v", what, got, who)
			}
			same++
		case err != nil && (code(err) == wire.Unavailable || strings.Contains(err.Error(), "the token does not verify with the keys")):
			unsigned++ // by no key of the provider, which Read does not look at
		case err == nil || rerr == nil || err.Error() != rerr.Error():
			t.Errorf("%s: %v, and with its signature %v", what, rerr, err)
		default:
			var a, b *wire.Error
			if !errors.As(err, &a) || !errors.As(rerr, &b) || *a != *b {
				t.Errorf("%s: %+v, and with its signature %+v", what, b, a)
			}
			same++
		}
	}
	if same < 20 || unsigned < 3 {
		t.Errorf("of %d tokens %d are read the same, and %d are badly signed", len(tokens), same, unsigned)
	}
}

// TestReadClaims: names, groups and required claims are those of the provider that the
// token names, and of no other.
func TestReadClaims(t *testing.T) {
	p := newPlatform(t)
	now := time.Now()
	other := provider(t)
	other.Name, other.Issuer, other.Audiences = label(t, "other"), "https://other.example", []string{"elsewhere"}
	conf := provider(t)
	conf.NameClaim, conf.GroupsClaim, conf.Required = "name", "groups", map[string][]string{"groups": {"staff"}}
	token := p.corp.Token(p.claims(set("name", "alice"), set("groups", []string{"staff", "ops"})))
	who, err := oidc.Read([]oidc.Provider{other, conf}, token, now)
	if err != nil || who.Identity.String() != "oidc:corp:alice-1" || who.Name.String() != "alice" || len(who.Groups) != 2 || who.Provider != conf.Name {
		t.Errorf("%+v %v", who, err)
	}
	for what, change := range map[string][]func(map[string]any){
		"not in a group that is required": {set("name", "alice"), set("groups", []string{"ops"})},
		"without a name":                  {set("groups", []string{"staff"})},
		"with groups that are no text":    {set("name", "alice"), set("groups", []any{"staff", 1})},
	} {
		if _, err := oidc.Read([]oidc.Provider{other, conf}, p.corp.Token(p.claims(change...)), now); code(err) != wire.BadIdentity {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := read(t, token, now.Add(time.Hour)); code(err) != wire.Expired {
		t.Errorf("an hour later: %v", err)
	}
	if _, err := oidc.Read(nil, token, now); code(err) != wire.BadIdentity {
		t.Errorf("without providers: %v", err)
	}
	// A provider with a problem is believed nowhere.
	if err := read(t, token, now, func(c *oidc.Provider) { c.Audiences = append(c.Audiences, "") }); code(err) != wire.BadIdentity {
		t.Errorf("of a provider with a problem: %v", err)
	}
}

// FuzzRead: whatever it is given it says something, with a code, and not the token.
func FuzzRead(f *testing.F) {
	p := newPlatform(f)
	for _, a := range attacks(f, p) {
		f.Add(a.token)
	}
	f.Add(p.corp.Token(p.claims()))
	conf, now := provider(f), time.Now()
	f.Fuzz(func(t *testing.T, token string) {
		who, err := oidc.Read([]oidc.Provider{conf}, token, now)
		switch {
		case err == nil && who.Identity.IsZero():
			t.Fatalf("%q is of nobody", token)
		case err != nil && code(err).Number() == 0:
			t.Fatal(err)
		case err != nil && len(token) > 200 && strings.Contains(err.Error(), token):
			t.Fatal("the token is in the error")
		}
	})
}
