package trust_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

func entry() trust.Entry {
	return trust.Entry{Subject: "name.alice", Version: 3, At: now().UnixMilli(), Body: json.RawMessage(`{"holder":"x"}`)}
}

func sameEntry(a, b trust.Entry) bool {
	return a.Subject == b.Subject && a.Version == b.Version && a.Denies == b.Denies && a.At == b.At && bytes.Equal(a.Body, b.Body) && (a.Body == nil) == (b.Body == nil)
}

func TestEntry(t *testing.T) {
	c := newChain(t)
	denies, bare, large := entry(), entry(), entry()
	denies.Denies = true
	bare.Body = nil
	large.Subject, large.Version, large.At = "a."+strings.Repeat("b", 510), math.MaxUint64, math.MaxInt64
	large.Body = json.RawMessage(`"` + strings.Repeat("x", 300<<10) + `"`)
	for what, e := range map[string]trust.Entry{
		"an entry": entry(), "one that denies": denies, "one without a body": bare, "the largest": large,
		"of many tokens": {Subject: "revocation.A.U.x_-=9", Version: 1, At: 1},
	} {
		tok, err := e.Sign(c.signing)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got, err := c.operator.OpenEntry(tok)
		if err != nil || !sameEntry(got, e) || got.Signer != c.signing.Public() {
			t.Errorf("%s came back as %.200v, %v", what, got, err)
		}
		e.Signer = "somebody else" // is not read
		if again := must[string](t)(e.Sign(c.signing)); again != tok {
			t.Errorf("%s: signed twice it is two tokens", what)
		}
		// It is a JWT of generic claims like any other.
		if g, err := jwt.DecodeGeneric(tok); err != nil || g.Issuer != c.signing.Public() || g.Subject != e.Subject {
			t.Errorf("%s, read by jwt/v2: %v", what, err)
		}
	}
}

func TestEntriesOutOfShapeAreNotSigned(t *testing.T) {
	c := newChain(t)
	for what, change := range map[string]func(*trust.Entry){
		"no subject":         func(e *trust.Entry) { e.Subject = "" },
		"one token":          func(e *trust.Entry) { e.Subject = "name" },
		"a dot in front":     func(e *trust.Entry) { e.Subject = ".name" },
		"a dot behind":       func(e *trust.Entry) { e.Subject = "name." },
		"an empty token":     func(e *trust.Entry) { e.Subject = "name..alice" },
		"a wildcard":         func(e *trust.Entry) { e.Subject = "name.*" },
		"all wildcards":      func(e *trust.Entry) { e.Subject = "name.>" },
		"a space":            func(e *trust.Entry) { e.Subject = "name.a b" },
		"a line end":         func(e *trust.Entry) { e.Subject = "name.a\r\n" },
		"a letter of others": func(e *trust.Entry) { e.Subject = "name.é" },
		"a system subject":   func(e *trust.Entry) { e.Subject = "$SYS.a" },
		"an endless subject": func(e *trust.Entry) { e.Subject = "a." + strings.Repeat("b", 511) },
		"version 0":          func(e *trust.Entry) { e.Version = 0 },
		"no time":            func(e *trust.Entry) { e.At = 0 },
		"a time before 1970": func(e *trust.Entry) { e.At = -1 },
	} {
		e := entry()
		change(&e)
		if tok, err := e.Sign(c.signing); err == nil || tok != "" {
			t.Errorf("an entry with %s is signed", what)
		}
		// Nor is it believed if a signing key signed it in another program.
		tok := sign(t, claimsOf(c, e), c.signing)
		if got, err := c.operator.OpenEntry(tok); err == nil {
			t.Errorf("an entry with %s is believed: %+v", what, got)
		}
	}
	for what, change := range map[string]func(*trust.Entry){
		"too large a body":       func(e *trust.Entry) { e.Body = json.RawMessage(`"` + strings.Repeat("x", trust.MaxEntry) + `"`) },
		"a body that is no JSON": func(e *trust.Entry) { e.Body = json.RawMessage(`{`) },
		"two bodies":             func(e *trust.Entry) { e.Body = json.RawMessage(`{} {}`) },
	} {
		e := entry()
		change(&e)
		if tok, err := e.Sign(c.signing); err == nil || tok != "" {
			t.Errorf("an entry with %s is signed", what)
		}
	}
	if _, err := entry().Sign(key(t, keystore.Curve)); err == nil {
		t.Error("a key that cannot sign")
	}
}

// claimsOf are an entry's claims as any holder of the key could write them.
func claimsOf(c *chain, e trust.Entry) map[string]any {
	body := map[string]any{"version": e.Version, "at": e.At}
	if e.Denies {
		body["denies"] = true
	}
	if e.Body != nil {
		body["entry"] = e.Body
	}
	return generic(c, "herald-entry", e.Subject, body)
}

// TestEntriesBySigningKeysOnly: an entry is believed for an operator signing key's
// signature, and for no other key's of the same platform.
func TestEntriesBySigningKeysOnly(t *testing.T) {
	c, other := newChain(t), newChain(t)
	tok := must[string](t)(entry().Sign(c.signing))
	_, err := other.operator.OpenEntry(tok)
	untrusted(t, "an entry at another operator", err)
	for what, k := range map[string]*keystore.Key{
		"the operator's identity key": c.root, "another operator's signing key": other.signing, "another operator": other.root,
		"a role key": c.role, "the account": c.account, "a user": c.user,
	} {
		_, err := c.operator.OpenEntry(must[string](t)(entry().Sign(k)))
		untrusted(t, "an entry signed by "+what, err)
		// In the signing key's name.
		_, err = c.operator.OpenEntry(sign(t, claimsOf(c, entry()), k))
		untrusted(t, "an entry signed by "+what+" in the signing key's name", err)
	}
	nobody := claimsOf(c, entry())
	delete(nobody, "iss")
	_, err = c.operator.OpenEntry(sign(t, nobody, c.signing))
	untrusted(t, "an entry of no issuer", err)
}

// TestOtherDocumentsAreNoEntries: whatever else a signing key signs.
func TestOtherDocumentsAreNoEntries(t *testing.T) {
	c := newChain(t)
	account := jwt.NewAccountClaims(c.account.Public())
	account.Name = "name.alice"
	kind := func(kind string, version any) string {
		d := claimsOf(c, entry())
		nats, _ := d["nats"].(map[string]any)
		nats["type"], nats["version"] = kind, version
		return sign(t, d, c.signing)
	}
	if _, err := c.operator.OpenEntry(kind("herald-entry", 2)); err != nil {
		t.Fatalf("the one that the others differ from: %v", err)
	}
	flat := claimsOf(c, entry()) // the kind where JWTs of version 1 had it
	flat["type"] = "herald-entry"
	flat["nats"], _ = map[string]any{"version": 2, "body": map[string]any{"version": 1, "at": 1}}, 0
	for what, tok := range map[string]string{
		"an account JWT":        must[string](t)(account.Encode(c.signing.Pair())),
		"the platform document": must[string](t)(c.document.Sign(c.signing, now())),
		"an epoch":              epoch(t, c.signing, 1),
		"a user JWT":            sign(t, c.userClaimsBy(c.signing), c.signing),
		"another kind":          kind("herald-entr", 2),
		"a longer kind":         kind("herald-entry2", 2),
		"another case":          kind("Herald-Entry", 2),
		"no kind":               kind("", 2),
		"version 1":             kind("herald-entry", 1),
		"version 3":             kind("herald-entry", 3),
		"a kind of version 1":   sign(t, flat, c.signing),
		"an empty object":       sign(t, map[string]any{"iss": c.signing.Public()}, c.signing),
	} {
		if e, err := c.operator.OpenEntry(tok); err == nil {
			t.Errorf("%s is believed as an entry: %+v", what, e)
		}
	}
}

func TestEntriesThatCannotBeRead(t *testing.T) {
	c := newChain(t)
	good := must[string](t)(entry().Sign(c.signing))
	head, rest, _ := strings.Cut(good, ".")
	payload, sig, _ := strings.Cut(rest, ".")
	raw := func(header, payload string) string {
		chunk := header + "." + payload
		s := must[[]byte](t)(c.signing.Sign([]byte(chunk)))
		return chunk + "." + base64.RawURLEncoding.EncodeToString(s)
	}
	enc := base64.RawURLEncoding.EncodeToString
	signed := func(payload string) string { return raw(head, enc([]byte(payload))) }
	if _, err := c.operator.OpenEntry(raw(head, payload)); err != nil {
		t.Fatalf("the one that the others differ from: %v", err)
	}
	body := func(members string) string {
		return signed(`{"iss":"` + c.signing.Public() + `","sub":"name.alice","nats":{"type":"herald-entry","version":2,"body":{` + members + `}}}`)
	}
	if _, err := c.operator.OpenEntry(body(`"version":1,"at":1`)); err != nil {
		t.Fatalf("the one that the others differ from: %v", err)
	}
	if _, err := c.operator.OpenEntry(body(`"version":1,"at":1,"later":{"x":1}`)); err != nil {
		t.Errorf("a member of a later version: %v", err)
	}
	for what, tok := range map[string]string{
		"nothing": "", "a dot": ".", "two dots": "..", "three dots": "...", "the header alone": head, "no signature": head + "." + payload,
		"an empty signature": head + "." + payload + ".", "no payload": head + ".." + sig, "half": good[:len(good)/2],
		"four parts":                  good + ".x",
		"a space in front":            " " + good,
		"a line end behind":           good + "\n",
		"a line end in the payload":   head + "." + payload[:20] + "\n" + payload[20:] + "." + sig,
		"a line end in the signature": head + "." + payload + "." + sig[:20] + "\n" + sig[20:],
		"line ends for characters":    head + "." + payload + "." + sig[:40] + "\n\n" + sig[42:],
		"padding":                     good + "==",
		"another header":              raw(enc([]byte(`{"alg":"ed25519-nkey","typ":"JWT"}`)), payload),
		"the header of version 1":     raw(head1, payload),
		"no algorithm":                raw(enc([]byte(`{"typ":"JWT","alg":"none"}`)), payload),
		"a short signature":           good[:len(good)-4],
		"a long signature":            good + "AAAA",
		"a payload with padding":      raw(head, base64.URLEncoding.EncodeToString([]byte(`{"iss":"`+c.signing.Public()+`"}`))),
		"a payload with slashes":      raw(head, payload+"/+"),
		"a payload that is no JSON":   signed("x"),
		"a list":                      signed("[]"),
		"two objects":                 signed(`{"iss":"` + c.signing.Public() + `"} {}`),
		"a version of text":           body(`"version":"1","at":1`),
		"a version below 0":           body(`"version":-1,"at":1`),
		"a version of 65 bits":        body(`"version":18446744073709551616,"at":1`),
		"a version with a point":      body(`"version":1.5,"at":1`),
		"a time of 64 bits":           body(`"version":1,"at":9223372036854775808`),
		"no version":                  body(`"at":1`),
		"no time":                     body(`"version":1`),
		"denies by a number":          body(`"version":1,"at":1,"denies":1`),
		"too large":                   body(`"version":1,"at":1,"entry":"` + strings.Repeat("x", trust.MaxEntry) + `"`),
	} {
		if e, err := c.operator.OpenEntry(tok); err == nil {
			t.Errorf("%s is read as an entry: %+v", what, e)
		}
	}
	// null is the same as no body.
	if e, err := c.operator.OpenEntry(body(`"version":1,"at":1,"entry":null`)); err != nil || e.Body != nil {
		t.Errorf("an entry whose body is null: %+v %v", e, err)
	}
}

// TestEntryTokensAreOne: no token but the signed one is believed: no bit may
// change, and nothing may be spelt in another way.
func TestEntryTokensAreOne(t *testing.T) {
	c := newChain(t)
	good := must[string](t)(entry().Sign(c.signing))
	for i := range good {
		for bit := range 8 {
			b := []byte(good)
			b[i] ^= 1 << bit
			if _, err := c.operator.OpenEntry(string(b)); err == nil {
				t.Fatalf("bit %d of byte %d may change", bit, i)
			}
		}
	}
	// The last character of 64 bytes in base64 has four bits that say nothing.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, good[len(good)-1])
	if last&15 != 0 {
		t.Fatalf("the signature ends with %q", good[len(good)-1])
	}
	for i := range 16 {
		tok := good[:len(good)-1] + string(alphabet[last|i])
		if _, err := c.operator.OpenEntry(tok); (err == nil) != (i == 0) {
			t.Errorf("with %d in the bits that say nothing: %v", i, err)
		}
	}
	// So may the last of the payload have: signed in another spelling, it is not read.
	spelt := 0
	for _, subject := range []string{"a.b", "a.bc", "a.bcd"} {
		tok := must[string](t)(trust.Entry{Subject: subject, Version: 1, At: 1}.Sign(c.signing))
		dot := strings.LastIndexByte(tok, '.')
		head, payload := tok[:len(head2)+1], tok[len(head2)+1:dot]
		for _, last := range alphabet {
			other := payload[:len(payload)-1] + string(last)
			if other == payload || !bytes.Equal(loose(other), loose(payload)) {
				continue
			}
			spelt++
			chunk := head + other
			if _, err := c.operator.OpenEntry(chunk + "." + base64.RawURLEncoding.EncodeToString(must[[]byte](t)(c.signing.Sign([]byte(chunk))))); err == nil {
				t.Errorf("%s: a payload in another spelling is believed", subject)
			}
		}
	}
	if spelt != 15+3 {
		t.Errorf("%d other spellings were tried", spelt)
	}
}

// loose decodes as those do who do not look at the bits that say nothing.
func loose(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

func TestEntriesAreExact(t *testing.T) {
	c := newChain(t)
	token := rapid.StringMatching(`[A-Za-z0-9_=-]{1,12}`)
	rapid.Check(t, func(r *rapid.T) {
		e := trust.Entry{
			Subject: strings.Join(rapid.SliceOfN(token, 2, 5).Draw(r, "subject"), "."), Version: rapid.Uint64Min(1).Draw(r, "version"),
			Denies: rapid.Bool().Draw(r, "denies"), At: rapid.Int64Min(1).Draw(r, "at"),
		}
		if rapid.Bool().Draw(r, "has a body") {
			body, err := json.Marshal(map[string]string{"x": rapid.String().Draw(r, "body")})
			if err != nil {
				r.Fatal(err)
			}
			e.Body = body
		}
		tok, err := e.Sign(c.signing)
		if err != nil {
			r.Fatal(err)
		}
		if got, err := c.operator.OpenEntry(tok); err != nil || !sameEntry(got, e) {
			r.Fatalf("%+v came back as %+v, %v", e, got, err)
		}
	})
	// The JWT's own time is the entry's, in seconds.
	g, err := jwt.DecodeGeneric(must[string](t)(entry().Sign(c.signing)))
	if err != nil || !time.Unix(g.IssuedAt, 0).Equal(now()) {
		t.Errorf("issued at %d, %v", g.IssuedAt, err)
	}
}
