package trust_test

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

// Headers of JWTs, encoded: of version 2 and 1.
const (
	head2 = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ"
	head1 = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5In0"
)

// signedFuzz makes tokens whose signature is good, because a fuzzer finds none:
// the decoders behind the signature check see outside bytes too, of anyone who
// has an nkey. The issuer is put in by the target.
func signedFuzz(f *testing.F, signer *keystore.Key, seeds []string, decode func(t *testing.T, token string)) {
	for _, s := range seeds {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	for _, s := range []string{`{}`, `{"nats":{}}`, `{"nats":null}`, `{"type":"x"}`, `{"nats":{"type":1}}`, `{"nats":[]}`, `{"sub":"x","nats":{"type":"user","version":1}}`, `{"nats":{"version":3}}`} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, payload []byte, old bool) {
		decode(t, string(payload)) // as a token of its own
		var m map[string]json.RawMessage
		if json.Unmarshal(payload, &m) != nil || m == nil {
			m = map[string]json.RawMessage{}
		}
		m["iss"] = json.RawMessage(`"` + signer.Public() + `"`)
		data, err := json.Marshal(m)
		if err != nil {
			return
		}
		if old {
			decode(t, v1raw(t, head1, data, signer))
			return
		}
		chunk := head2 + "." + base64.RawURLEncoding.EncodeToString(data)
		sig := must[[]byte](t)(signer.Sign([]byte(chunk)))
		decode(t, chunk+"."+base64.RawURLEncoding.EncodeToString(sig))
	})
}

// payloads are those of tokens.
func payloads(t testing.TB, tokens ...string) []string {
	var out []string
	for _, tok := range tokens {
		_, rest, _ := cut(tok)
		mid, _, _ := cut(rest)
		out = append(out, string(unbase64(t, mid)))
	}
	return out
}

func cut(s string) (string, string, bool) {
	for i := range len(s) {
		if s[i] == '.' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func FuzzOpenPlatform(f *testing.F) {
	c := fixedChain(f)
	doc, err := c.document.Sign(c.signing, now())
	doc = token(f, doc, err)
	f.Add([]byte(doc), false)
	signedFuzz(f, c.signing, payloads(f, doc), func(t *testing.T, tok string) {
		p, err := c.operator.OpenPlatform(tok)
		if err != nil {
			if p != nil {
				t.Fatal("a document beside an error")
			}
			return
		}
		again, err := p.Sign(c.signing, now())
		if err != nil {
			t.Fatalf("signing what was opened: %v", err)
		}
		if back, err := c.operator.OpenPlatform(again); err == nil && !reflect.DeepEqual(back, p) {
			t.Fatalf("opened, signed and opened:\n%+v\n%+v", p, back)
		}
	})
}

func FuzzOpenEntry(f *testing.F) {
	c := fixedChain(f)
	good := must[string](f)(entry().Sign(c.signing))
	f.Add([]byte(good), false)
	seeds := append(
		payloads(f, good),
		`{"sub":"a.b","nats":{"type":"herald-entry","version":2,"body":{"version":1,"at":1}}}`,
		`{"sub":"a.b","nats":{"type":"herald-entry","version":2,"body":{"version":18446744073709551615,"denies":true,"at":9223372036854775807,"entry":null}}}`,
		`{"sub":"a.b","nats":{"type":"herald-entry","version":2,"body":{"version":1,"at":1,"entry":{"x":[1, "<&>"]}}}}`,
		`{"sub":"a.>","nats":{"type":"herald-entry","version":2,"body":{"version":1,"at":1}}}`,
	)
	signedFuzz(f, c.signing, seeds, func(t *testing.T, tok string) {
		e, err := c.operator.OpenEntry(tok)
		if err != nil {
			return
		}
		if e.Signer != c.signing.Public() || e.Version == 0 || e.At <= 0 || strings.ContainsAny(e.Subject, "*> \t\r\n") {
			t.Fatalf("an entry of nothing: %+v", e)
		}
		again, err := e.Sign(c.signing)
		if err != nil {
			// JSON that is written again may grow past the bound.
			if len(tok) > trust.MaxEntry/8 {
				return
			}
			t.Fatalf("signing what was opened: %v", err)
		}
		// The body may be spelt in another way once, and then no more.
		back, err := c.operator.OpenEntry(again)
		if err != nil || back.Subject != e.Subject || back.Version != e.Version || back.Denies != e.Denies || back.At != e.At || (back.Body == nil) != (e.Body == nil) {
			t.Fatalf("opened, signed and opened:\n%+v\n%+v %v", e, back, err)
		}
		if third, err := back.Sign(c.signing); err != nil || third != again {
			t.Fatalf("signed again it is another token: %v\n%s\n%s", err, again, third)
		}
	})
}

func FuzzVerifyUser(f *testing.F) {
	c := fixedChain(f)
	signedFuzz(f, c.role, payloads(f, sign(f, c.userClaims(), c.role)), func(t *testing.T, tok string) {
		u, err := c.document.VerifyUser(tok, now())
		if err != nil {
			return
		}
		if u.Key.IsZero() || u.Name.IsZero() || u.Account != label(t, "CHAT") || u.Role != label(t, "member") {
			t.Fatalf("a user of nothing: %+v", u)
		}
	})
}

func FuzzVerifyAccount(f *testing.F) {
	c := fixedChain(f)
	seed := `{"sub":"` + c.account.Public() + `","nats":{"type":"account","version":2,"limits":{"subs":-1},"signing_keys":["` + c.role.Public() +
		`",{"kind":"user_scope","key":"` + c.role.Public() + `","role":"r","template":{"pub":{"allow":["x"]}}}],` +
		`"imports":[{"name":"a","subject":"b","account":"` + c.account.Public() + `","type":"service"}],"exports":[null,{"subject":"x","type":"stream"}]}}`
	signedFuzz(f, c.signing, []string{seed}, func(_ *testing.T, tok string) {
		_, _ = c.operator.VerifyAccount(tok)
	})
}

func FuzzParseOperator(f *testing.F) {
	c := fixedChain(f)
	signedFuzz(f, c.root, payloads(f, c.operator.Token()), func(t *testing.T, tok string) {
		op, err := trust.ParseOperator(tok)
		if err != nil {
			return
		}
		back, err := trust.ParseOperator(op.Token())
		if err != nil || back.Key() != op.Key() || back.System() != op.System() {
			t.Fatalf("read, written and read: %v", err)
		}
	})
}
