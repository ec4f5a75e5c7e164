package trust_test

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

func receipt() trust.Receipt {
	return trust.Receipt{
		ID: "r1", At: time.Unix(1_790_000_000, 0), Registrar: "UA", Region: "ams", Verb: "revoke", Of: []string{"suspension.identity.x"}, By: "root", Why: "lost",
		Users: []trust.Revoked{{Account: "A", User: "U", Before: 1}}, Servers: 9, Denied: 8, Behind: []trust.Lagging{{Server: "ams-1", Why: "away"}}, AdminUser: "UB",
	}
}

// A receipt is one if an operator signing key of this platform signed it as one.
func TestReceipt(t *testing.T) {
	c := fixedChain(t)
	good := must[string](t)(receipt().Sign(c.signing))
	got, err := c.operator.OpenReceipt(good)
	want := receipt()
	want.Signer = c.signing.Public()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\n%+v", err, got, want)
	}
	foreign := must[*keystore.Key](t)(keystore.Generate(keystore.Operator))
	head, rest, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(rest, ".")
	payload := must[[]byte](t)(base64.RawURLEncoding.DecodeString(body))
	changed := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), `"denied":8`, `"denied":9`, 1)))
	for what, token := range map[string]string{
		"another operator's":  must[string](t)(receipt().Sign(foreign)),
		"an entry":            must[string](t)(entry().Sign(c.signing)),
		"changed":             head + "." + changed + "." + sig,
		"without a signature": head + "." + body + ".",
		"too long":            good + strings.Repeat("A", 256<<10),
		"nothing":             "",
	} {
		if _, err := c.operator.OpenReceipt(token); err == nil {
			t.Errorf("%s is believed", what)
		}
	}
	if _, err := c.operator.OpenEntry(good); err == nil {
		t.Error("a receipt is taken for an entry")
	}
}

func FuzzOpenReceipt(f *testing.F) {
	c := fixedChain(f)
	good := must[string](f)(receipt().Sign(c.signing))
	f.Add([]byte(good), false)
	signedFuzz(f, c.signing, payloads(f, good), func(t *testing.T, tok string) {
		r, err := c.operator.OpenReceipt(tok)
		if err != nil {
			return
		}
		if r.Signer != c.signing.Public() {
			t.Fatalf("signed by %s", r.Signer)
		}
	})
}
