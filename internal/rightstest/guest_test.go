package rightstest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// open unseals an answer that must be sealed in the name of a region.
func (a asking) open(t *testing.T, m msg) []byte {
	t.Helper()
	from, err := ident.ParseSealKey(m.get(wire.HeaderSealed))
	if err != nil {
		t.Fatalf("an answer that is not sealed: %s", m.all())
	}
	if !shared.Public.Document.HasSealKey(from) {
		t.Fatalf("sealed by %s, which is no region key", from)
	}
	plain, err := wire.Open(a.opener.Pair(), from, m.body)
	if err != nil {
		t.Fatalf("opening an answer: %v", err)
	}
	return plain
}

// 17: all guests share one nkey, hence one inbox: each sees every answer. So
// what can be seen there must tell nothing: not who asked, not what for, not
// what they got; neither in successes nor in refusals, neither in the body nor
// in the headers.
func TestGuestsAnswers(t *testing.T) {
	g := guest(t)
	ear := enter(t, g, "sgp")
	ear.sub("_INBOX_"+g.key.Public()+".>", "")
	ear.allowed("a guest listens")
	asker := enter(t, g, "sgp")
	taken, takenName := member(t, "sgp", "taken")

	for _, c := range []struct {
		what string
		code wire.Code
		make func(ident.Name) asking
	}{
		{"a credential", "", func(n ident.Name) asking { return newAsking(t, n, true, nil) }},
		{"a taken name", wire.NameTaken, func(ident.Name) asking { return newAsking(t, takenName, true, nil) }},
		{"a role that is not granted", wire.RoleNotGranted, func(n ident.Name) asking {
			return newAsking(t, n, true, func(r *wire.Request) { r.Role = label("registrar") })
		}},
		{"an account that is not granted", wire.RoleNotGranted, func(n ident.Name) asking {
			return newAsking(t, n, true, func(r *wire.Request) { r.Account = label(platform.Ledger) })
		}},
		{"another time", wire.ClockSkew, func(n ident.Name) asking {
			return newAsking(t, n, true, func(r *wire.Request) { r.Time = r.Time.Add(-time.Minute) })
		}},
		{"a proof by another key", wire.BadProof, func(n ident.Name) asking {
			a := newAsking(t, n, true, nil)
			key := a.key
			a.key = taken.key
			a.sign(t)
			a.key = key
			return a
		}},
		{"no name", wire.BadName, func(ident.Name) asking { return newAsking(t, ident.Name{}, true, nil) }},
		{"a name that is none", wire.BadName, func(ident.Name) asking {
			a := newAsking(t, must(ident.ParseName("plainname")), true, nil)
			a.body = bytes.ReplaceAll(a.body, []byte("plainname"), []byte("Secret*Name"))
			a.sign(t)
			return a
		}},
	} {
		t.Run(strings.ReplaceAll(c.what, " ", "_"), func(t *testing.T) {
			name := shared.Name("hidden")
			a := c.make(name)
			answer := asker.ask(subject.Issue, a.headers(), a.body)
			// The other guest hears it too: that is the premise.
			heard := ear.wait("the same answer", func(m msg) bool { return m.subject == answer.subject })
			secrets := []string{name.String(), takenName.String(), a.key.Public(), "Secret*Name", "eyJ", "nats://"}
			for _, s := range secrets {
				if bytes.Contains(heard.all(), []byte(s)) {
					t.Errorf("another guest reads %q in %q", s, heard.all())
				}
			}
			plain := a.open(t, answer)
			// Neither the guest's own nkey, nor any key that another guest has, opens it.
			other, err := keystore.Generate(keystore.Curve)
			if err != nil {
				t.Fatal(err)
			}
			from := must(ident.ParseSealKey(heard.get(wire.HeaderSealed)))
			if _, err := wire.Open(other.Pair(), from, heard.body); err == nil {
				t.Error("another key opens it")
			}
			if c.code != "" {
				e, err := wire.DecodeError(plain)
				if err != nil || e.Code != c.code {
					t.Errorf("refused with %v (%v), want %s", e, err, c.code)
				}
				return
			}
			got, err := wire.DecodeAnswer(plain)
			if err != nil {
				t.Fatal(err)
			}
			u, err := shared.Public.Document.VerifyUser(got.JWT, time.Now())
			if err != nil || u.Key.String() != a.key.Public() || u.Name != name {
				t.Errorf("a credential for %v: %v", u, err)
			}
		})
	}
}

// An issuer answers what it understands, once, for whom it is shown to be for.
func TestRequests(t *testing.T) {
	asker := enter(t, guest(t), "ams")
	code := func(a asking) wire.Code {
		t.Helper()
		return refusal(t, asker.ask(subject.Issue, a.headers(), a.body))
	}
	good := func() asking { return newAsking(t, shared.Name("req"), false, nil) }

	a := good()
	if c := code(a); c != "" {
		t.Fatalf("a good request is refused: %s", c)
	}
	if c := code(a); c != wire.Replayed {
		t.Errorf("the same request again: %q", c)
	}
	for _, off := range []time.Duration{-31 * time.Second, 32 * time.Second, -24 * time.Hour} {
		if c := code(newAsking(t, shared.Name("req"), false, func(r *wire.Request) { r.Time = r.Time.Add(off) })); c != wire.ClockSkew {
			t.Errorf("a request of %v from now: %q", off, c)
		}
	}

	// Who signed, and what.
	signed := func(prefix string, by *keystore.Key, a asking) string {
		sig, err := by.Sign(append([]byte(prefix), a.body...))
		if err != nil {
			t.Fatal(err)
		}
		return "v1 " + b64(sig)
	}
	stranger := good().key
	for what, change := range map[string]func(*asking){
		"for another subject":      func(a *asking) { a.proof = signed("herald/v1/auth.v1.renew\n", a.key, *a) },
		"for home's subject":       func(a *asking) { a.proof = signed("herald/v1/auth.v1.home.claim\n", a.key, *a) },
		"of the body alone":        func(a *asking) { a.proof = signed("", a.key, *a) },
		"by another key":           func(a *asking) { a.proof = signed("herald/v1/auth.v1.issue\n", stranger, *a) },
		"of another body":          func(a *asking) { a.proof = good().proof },
		"of another version":       func(a *asking) { a.proof = "v2 " + a.proof[3:] },
		"missing":                  func(a *asking) { a.proof = "" },
		"of an altered body":       func(a *asking) { a.body = bytes.Replace(a.body, []byte("req"), []byte("rep"), 1) },
		"of the body with a blank": func(a *asking) { a.body = append(a.body, ' ') },
	} {
		a := good()
		change(&a)
		if c := code(a); c != wire.BadProof {
			t.Errorf("a proof %s: %q", what, c)
		}
	}
	a = good()
	if c := refusal(t, asker.ask(subject.Issue, header(wire.HeaderProof, a.proof, wire.HeaderProof, a.proof), a.body)); c != wire.BadProof {
		t.Errorf("two proofs: %q", c)
	}

	// One body, one meaning.
	replace := func(old, with string) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(with), 1) }
	}
	for what, c := range map[string]struct {
		change func([]byte) []byte
		want   wire.Code
	}{
		"an unknown field":              {replace(`{`, `{"admin":true,`), wire.BadRequest},
		"a field twice":                 {replace(`{`, `{"name":"mallory",`), wire.BadRequest},
		"a user key twice":              {replace(`{`, `{"user_key":"`+stranger.Public()+`",`), wire.BadRequest},
		"a field in other case":         {replace(`"name"`, `"Name"`), wire.BadRequest},
		"null":                          {replace(`"identity":{"type":"open"}`, `"identity":null`), wire.BadRequest},
		"an unknown field inside":       {replace(`{"type":"open"}`, `{"type":"open","x":1}`), wire.BadRequest},
		"something behind":              {func(b []byte) []byte { return append(b, []byte("{}")...) }, wire.BadRequest},
		"a tag of its own":              {replace(`{`, `{"tags":["identity:oidc"],`), wire.BadRequest},
		"another identity":              {replace(`"open"`, `"password"`), wire.BadIdentity},
		"an identity without its proof": {replace(`"open"`, `"oidc"`), wire.BadRequest},
		"an account that is a pattern":  {replace(`{`, `{"account":"*",`), wire.BadRequest},
		"an account key as user key":    {func(b []byte) []byte { return bytes.Replace(b, []byte(`"U`), []byte(`"A`), 1) }, wire.BadRequest},
	} {
		a := good()
		a.body = c.change(a.body)
		a.sign(t)
		if got := code(a); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
	a = good()
	a.body = append(a.body[:len(a.body)-1], []byte(`,"ttl":"`+strings.Repeat(" ", wire.MaxRequest)+`"}`)...)
	a.sign(t)
	if c := code(a); c != wire.TooLarge {
		t.Errorf("a request of %d bytes: %q", len(a.body), c)
	}
}

// 11: a name becomes a key of a bucket, a claim of a JWT and a word on screens;
// none of these is a name. What is asked for is refused, never bent into shape.
func TestNameInjection(t *testing.T) {
	asker := enter(t, guest(t), "ams")
	for _, name := range []string{
		"*", ">", "a.*", "a.>", "*.a", "{{subject()}}", "{{name()}}", "{{tag(region)}}", "a..b", ".a", "a.", "a b", "a\tb", "a\nb", "a\x00b",
		"Alice", "ALICE", "älice", "аlice", "alice\u200b", "a/b", "a=b", "$KV.names.a", "a\r\nNats-Request-Info: x", "'; --", "a__b",
		strings.Repeat("a", 33), strings.Repeat("a", 4000), "\x1b[31ma", "\u202ealice", "-a", "_",
	} {
		a := newAsking(t, must(ident.ParseName("placeholder")), false, nil)
		quoted, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		a.body = bytes.Replace(a.body, []byte(`"placeholder"`), quoted, 1)
		a.sign(t)
		m := asker.ask(subject.Issue, a.headers(), a.body)
		if c := refusal(t, m); c != wire.BadName {
			t.Errorf("the name %.40q: %q", name, c)
		}
		if bytes.Count(m.header, []byte("\r\n")) > 8 || m.get(wire.HeaderInfo) != "" {
			t.Errorf("the name %.40q writes headers: %q", name, m.header)
		}
	}
	// The empty name is no wildcard either: an open identity must bring one.
	a := newAsking(t, ident.Name{}, false, nil)
	if c := refusal(t, asker.ask(subject.Issue, a.headers(), a.body)); c != wire.BadName {
		t.Errorf("no name: %q", c)
	}
}

// What an issuer signs is the holder's nkey, the name that it holds, no rights
// of its own, and a life within the longest.
func TestIssuedCredential(t *testing.T) {
	asker := enter(t, guest(t), "sfo")
	name := shared.Name("issued")
	a := newAsking(t, name, false, func(r *wire.Request) { r.TTL = 1000 * time.Hour })
	m := asker.ask(subject.Issue, a.headers(), a.body)
	if c := refusal(t, m); c != "" {
		t.Fatal(c)
	}
	answer, err := wire.DecodeAnswer(m.body)
	if err != nil {
		t.Fatal(err)
	}
	c, err := jwt.DecodeUserClaims(answer.JWT)
	if err != nil {
		t.Fatal(err)
	}
	chat, _ := shared.Public.Document.Account(label(platform.ChatIn))
	role := chat.Roles[0]
	longest := time.Duration(role.Open.Longest) * time.Second
	switch {
	case c.Subject != a.key.Public() || c.Name != name.String():
		t.Errorf("for %s (%s)", c.Name, c.Subject)
	case c.Issuer != role.Key.String() || c.IssuerAccount != chat.Key.String():
		t.Errorf("by %s of %s", c.Issuer, c.IssuerAccount)
	case !c.HasEmptyPermissions() || c.BearerToken:
		t.Error("it has rights of its own")
	case c.Audience != "" || c.NotBefore != 0: // servers allow no skew
		t.Errorf("aud %q, nbf %d", c.Audience, c.NotBefore)
	case c.Expires == 0 || time.Until(time.Unix(c.Expires, 0)) > longest+time.Second:
		t.Errorf("expires %v", time.Unix(c.Expires, 0))
	case len(c.Tags) != 2 || c.Tags[0] != trust.TagIdentity+"open" || !strings.HasPrefix(c.Tags[1], trust.TagProven):
		t.Errorf("tags %v", c.Tags)
	case len(answer.JWT) >= 1<<10:
		t.Errorf("%d bytes", len(answer.JWT))
	}
	if answer.Issuer != issuerOf(t, "sfo").key.Public() {
		t.Errorf("answered by %s", answer.Issuer)
	}
}
