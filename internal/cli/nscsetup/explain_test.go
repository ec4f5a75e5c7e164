package nscsetup

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/wire"
)

// grantsFile is a platform file with some grants and providers.
func grantsFile(t *testing.T, grants string) *manifest.File {
	t.Helper()
	f, err := manifest.Parse(manifest.FileName, []byte(`name: herald
home: ams
regions:
  - name: ams
    gateway: "127.0.0.1:7100"
    nodes:
      - {name: ams-1, client: "127.0.0.1:7101", cluster: "127.0.0.1:7102", gateway: "127.0.0.1:7103"}
      - {name: ams-2, client: "127.0.0.1:7104", cluster: "127.0.0.1:7105", gateway: "127.0.0.1:7106"}
      - {name: ams-3, client: "127.0.0.1:7107", cluster: "127.0.0.1:7108", gateway: "127.0.0.1:7109"}
credentials: {lifetime: 1h, longest: 12h}
chat:
  rooms:
    - {name: KUBECON, channels: [General]}
providers:
  - {name: corp, issuer: "https://login.corp.example", audiences: [herald], name_claim: user, groups_claim: groups}
accounts:
  - name: ORDERS
    roles:
      - name: service
        publish: {allow: ["orders.>"]}
        subscribe: {allow: ["orders.>"]}
      - name: reader
        subscribe: {allow: ["orders.>"]}
grants:
`+grants))
	if err != nil {
		t.Fatalf("%#v", err)
	}
	return f
}

func termsAt(t *testing.T, grants string) terms {
	t.Helper()
	terms, err := termsOf(grantsFile(t, grants), "platform.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return terms
}

func labelOf(t *testing.T, s string) ident.Label { t.Helper(); return parse(t, ident.ParseLabel, s) }

// TestExplainPrints: what decided, what was passed over and why, for people and programs,
// and nothing that would confuse a terminal.
func TestExplainPrints(t *testing.T) {
	f := grantsFile(t, `  - {to: "oidc:corp:alice", account: ORDERS, role: reader}
  - {to: oidc, provider: corp, groups: [ops], account: ORDERS, role: service, lifetime: 10m}
`)
	in, err := termsOf(f, "platform.yaml")
	if err != nil {
		t.Fatal(err)
	}
	alice := parse(t, ident.ParseIdentity, "oidc:corp:alice")
	who := authn.Who{Identity: alice, Provider: labelOf(t, "corp"), Name: parse(t, ident.ParseName, "alice"), Groups: []string{"ops", "evil\x1b[31m"}}
	explain := func(w policy.Wish) (explained, string, string) {
		r := explained{From: in.from, Lines: []explainedRow{}}
		r.take(who, in.grants.Explain(policy.Asker{Who: who}, w, time.Now()), placesOf(f, in.policy))
		var text, asJSON bytes.Buffer
		for out, g := range map[*bytes.Buffer]*globals{&text: {}, &asJSON: {json: true}} {
			g.IO = cli.IO{Out: out}
			if err := g.printExplained(r); err != nil {
				t.Fatal(err)
			}
		}
		return r, text.String(), asJSON.String()
	}
	r, text, data := explain(policy.Wish{Role: labelOf(t, "service")})
	if want := `granted    ORDERS/service as alice, for 10m
identity   oidc:corp:alice
provider   corp
groups     ops, evil?[31m
tags       identity:oidc, oidc:corp:alice, met:` + in.policy.Offers[1].Sum() + `
by grants  platform.yaml
grants, the more particular first:
  platform.yaml:25: ORDERS/reader to oidc:corp:alice: passed over, another role is asked for
  platform.yaml:26: ORDERS/service to oidc where provider corp, in ops: decided
`; text != want {
		t.Errorf("%s\nwant\n%s", text, want)
	}
	var back explained
	if err := json.Unmarshal([]byte(data), &back); err != nil || back.Grant == nil || back.Grant.Lifetime != 600 || len(back.Lines) != 2 || !back.Lines[1].Decided || back.Lines[0].Why == "" || back.Lines[0].Place != r.Lines[0].Place {
		t.Errorf("%s %v", data, err)
	}
	who.Groups = nil
	r, text, _ = explain(policy.Wish{Account: labelOf(t, "CHAT")})
	if r.Granted || r.Refused.Code != wire.RoleNotGranted || !strings.HasPrefix(text, "refused    role_not_granted: ") ||
		!strings.Contains(text, "to oidc:corp:alice: passed over, another account is asked for\n") || !strings.Contains(text, "in ops: passed over, not in ops\n") || strings.Contains(text, "decided") {
		t.Error(text)
	}
}

// TestExplainPlaces: a grant is found where the file has it now, and nowhere if the file
// says something else.
func TestExplainPlaces(t *testing.T) {
	was := termsAt(t, `  - {to: key, account: ORDERS, role: reader}
  - {to: key, account: ORDERS, role: service, tags: ["team:a"]}
`)
	f := grantsFile(t, `  - {to: key, account: ORDERS, role: service, tags: ["team:b"]}
  - {to: key, account: ORDERS, role: reader}
`)
	lines := []policy.Line{{Index: 0, Offer: was.policy.Offers[0]}, {Index: 1, Offer: was.policy.Offers[1]}}
	if got := placesOf(f, was.policy)(lines); !slices.Equal(got, []string{"platform.yaml:26", ""}) {
		t.Errorf("%q", got)
	}
	// As documents carry offers.
	data, err := json.Marshal(was.policy)
	if err != nil {
		t.Fatal(err)
	}
	var signed policy.Policy
	if err := json.Unmarshal(data, &signed); err != nil {
		t.Fatal(err)
	}
	if got := placesOf(f, signed)(lines); got[0] != "platform.yaml:26" {
		t.Errorf("%q", got)
	}
	many := slices.Repeat(lines[:1], maxPlaces+1)
	if got := placesOf(f, was.policy)(many); got[0] != "" || got[1] == "" || got[maxPlaces] == "" {
		t.Errorf("%q", got)
	}
}

// TestExplainLogin: groups are the same whichever way they are typed in, and the name is
// the one that the provider's claim says.
func TestExplainLogin(t *testing.T) {
	in := termsAt(t, "  - {to: \"oidc:corp:alice\", account: ORDERS, role: reader}\n")
	alice := parse(t, ident.ParseIdentity, "oidc:corp:alice")
	var r explained
	o := explainOptions{groups: []string{"ops"}, claims: []string{"groups=staff", "groups=ops", "user=ali", "note=a=b"}}
	w, err := o.login(in, alice, &r)
	if err != nil || !slices.Equal(w.Groups, []string{"ops", "staff"}) || !slices.Equal(w.Claims["groups"], w.Groups) || w.Name.String() != "ali" || w.Claims["note"][0] != "a=b" || len(r.Notes) != 0 {
		t.Errorf("%+v %v %q", w, err, r.Notes)
	}
	if w, err := (explainOptions{}).login(in, alice, &r); err != nil || !w.Name.IsZero() || len(r.Notes) != 1 {
		t.Errorf("%+v %v %q", w, err, r.Notes)
	}
	// What every token says is there without being typed in.
	if w, err := (explainOptions{}).login(in, alice, &r); err != nil || !slices.Equal(w.Claims["sub"], []string{"alice"}) || !slices.Equal(w.Claims["iss"], []string{in.providers[0].Issuer}) {
		t.Errorf("%+v %v", w, err)
	}
	// A provider that tells of no groups tells of no groups.
	silent := in
	silent.providers = slices.Clone(in.providers)
	silent.providers[0].GroupsClaim, silent.providers[0].SubjectClaim = "", "oid"
	r.Notes = nil
	if w, err := (explainOptions{groups: []string{"ops"}, claims: []string{"user=ali"}}).login(silent, alice, &r); err != nil || len(w.Groups) != 0 || len(r.Notes) != 1 || !slices.Equal(w.Claims["oid"], []string{"alice"}) {
		t.Errorf("%+v %v %q", w, err, r.Notes)
	}
	for what, claims := range map[string][]string{"no name": {"user=Ali Baba"}, "two names": {"user=a", "user=b"}, "no claim": {"x"}, "a claim without a name": {"=x"}} {
		if _, err := (explainOptions{claims: claims}).login(in, alice, &r); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	in.providers = nil
	if _, err := o.login(in, alice, &r); err == nil {
		t.Error("a provider that there is not")
	}
}

// TestExplainToken: whatever is in the place of a token's file, no error has a token in it.
func TestExplainToken(t *testing.T) {
	const header = "eyJhbGciOiJSUzI1NiJ9"
	token := header + "." + strings.Repeat("eyJ", 30) + ".c2lnbmVk"
	dir := t.TempDir()
	file := filepath.Join(dir, "token.jwt")
	if err := os.WriteFile(file, []byte("\n"+token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arg := range []string{token, "x" + token, strings.Repeat(token, 100), "Bearer " + token, strings.ReplaceAll(token, "eyJ", "eyA")} {
		g := &globals{IO: cli.IO{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}}
		raw, err := readToken(t.Context(), g, arg)
		if err == nil || raw != "" || strings.Contains(err.Error(), "hbGci") {
			t.Errorf("%.10s…: %v", arg, err)
		}
	}
	g := &globals{IO: cli.IO{In: strings.NewReader(token + "\r\n")}}
	for _, arg := range []string{file, "-"} {
		if raw, err := readToken(t.Context(), g, arg); err != nil || raw != token {
			t.Errorf("%s: %v", arg, err)
		}
	}
}
