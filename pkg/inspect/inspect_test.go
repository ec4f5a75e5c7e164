package inspect_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/trust"
)

func now() time.Time { return time.Unix(1750000000, 0) }

func must[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func key(t testing.TB, kind keystore.Kind) *keystore.Key {
	t.Helper()
	return must[*keystore.Key](t)(keystore.Generate(kind))
}

func seed(t testing.TB, k *keystore.Key) string {
	t.Helper()
	return string(must[[]byte](t)(k.Seed()))
}

func sign(t testing.TB, claims any, k *keystore.Key) string {
	t.Helper()
	return must[string](t)(trust.EncodeJWT(claims, k))
}

// initial makes a platform.
func initial(t testing.TB) *platform.Platform {
	t.Helper()
	ams := must[ident.Region](t)(ident.ParseRegion("ams"))
	name := must[ident.Name](t)(ident.ParseName("demo"))
	return must[*platform.Platform](t)(platform.Init(t.Context(), filepath.Join(t.TempDir(), "demo"),
		platform.Spec{Name: name, Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 14000}, now()))
}

// knows is what a platform folder knows.
func knows(t testing.TB, p *platform.Platform) inspect.Platform {
	t.Helper()
	return inspect.Platform{
		Operator: p.Operator, Document: p.Document, Is: must[func(string) string](t)(p.Who()),
		Account: func(public string) *jwt.AccountClaims {
			for _, h := range p.Held() {
				if h.Key.String() == public {
					_, c, err := p.Claims(h)
					if err != nil {
						t.Error(err)
					}
					return c
				}
			}
			return nil
		},
	}
}

// creds are a user of a role.
func creds(t testing.TB, p *platform.Platform, account, role string, life time.Duration) string {
	t.Helper()
	u := must[platform.User](t)(p.Mint(account, role, now(), life))
	return string(must[[]byte](t)(jwt.FormatUserConfig(u.Token, []byte(seed(t, u.Key)))))
}

func explain(t testing.TB, data string, known inspect.Platform) *inspect.Report {
	t.Helper()
	r, err := inspect.Explain([]byte(data), known, now())
	if err != nil {
		t.Fatalf("%v: %.200s", err, data)
	}
	return r
}

func read(t testing.TB, path string) string {
	t.Helper()
	return string(must[[]byte](t)(os.ReadFile(path)))
}

// TestPlatformExplainsItself explains what a platform folder holds, with the platform at
// hand, with what is public of it, with another platform and with none.
func TestPlatformExplainsItself(t *testing.T) {
	p, other := initial(t), initial(t)
	public := inspect.Platform{Operator: p.Operator, Document: p.Document}
	member := creds(t, p, "CHAT", "member", time.Hour)
	for _, tt := range []struct {
		name, data, kind string
		says             string
	}{
		{"operator", p.Operator.Token(), inspect.KindOperator, "strict: accounts"},
		{"account", must[[]string](t)(p.Tokens())[0], inspect.KindAccount, "role registrar: may publish $SYS.REQ.CLAIMS.UPDATE"},
		{"platform document", p.Full.PublicToken, inspect.KindPlatform, "home: ams"},
		{"entry", p.FullToken, inspect.KindEntry, "grant: CHAT/member to open"},
		{"epoch", p.Document.EpochProof, inspect.KindEpoch, "of epoch 1"},
		{"user", member, inspect.KindUser, "those of the role"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := explain(t, tt.data, knows(t, p))
			tok := r.Tokens[0]
			if tok.Kind != tt.kind || !tok.Verifies || tok.Chain != inspect.ChainTrusted || tok.IssuerIs == "" || !r.Good() {
				t.Errorf("%+v, problems %q", tok, r.Problems)
			}
			if !strings.Contains(strings.Join(tok.Says, "\n"), tt.says) {
				t.Errorf("it says %q, want %q", tok.Says, tt.says)
			}
			if tok := explain(t, tt.data, public).Tokens[0]; tok.Chain != inspect.ChainTrusted {
				t.Errorf("by what is public: %s, %s", tok.Chain, tok.ChainSays)
			}
			if tok := explain(t, tt.data, knows(t, other)).Tokens[0]; tok.Chain != inspect.ChainForeign || !tok.Verifies {
				t.Errorf("on another platform: %s, %s", tok.Chain, tok.ChainSays)
			}
			r = explain(t, tt.data, inspect.Platform{})
			if r.Tokens[0].Chain != inspect.ChainUnknown || r.Good() {
				t.Errorf("without a platform: %s, %s", r.Tokens[0].Chain, r.Tokens[0].ChainSays)
			}
			// One changed letter in what is signed, or in the signature.
			for _, part := range []int{1, 2} {
				parts := strings.Split(jwtIn(t, tt.data), ".")
				parts[part] = flip(parts[part])
				broken, err := inspect.Explain([]byte(strings.Join(parts, ".")), knows(t, p), now())
				if err != nil {
					continue // it is none any more
				}
				if tok := broken.Tokens[0]; tok.Verifies || tok.Chain == inspect.ChainTrusted || broken.Good() {
					t.Errorf("with part %d changed: %+v", part, tok)
				}
			}
		})
	}
}

func jwtIn(t testing.TB, data string) string {
	t.Helper()
	return must[string](t)(jwt.ParseDecoratedJWT([]byte(data)))
}

func flip(s string) string {
	i := len(s) / 2
	c := byte('A')
	if s[i] == c {
		c = 'B'
	}
	return s[:i] + string(c) + s[i+1:]
}

// TestUserChain: users whose signer, account or time is wrong.
func TestUserChain(t *testing.T) {
	p := initial(t)
	known := knows(t, p)
	chat, _ := p.Account("CHAT")
	auth, _ := p.Account("AUTH")
	roleKey := must[*keystore.Key](t)(keystore.Load(filepath.Join(p.Dir.Operator(), "roles", "CHAT.member.nk"), keystore.Account))
	accountKey := must[*keystore.Key](t)(keystore.Load(filepath.Join(p.Dir.Operator(), "accounts", "CHAT.nk"), keystore.Account))
	stranger := key(t, keystore.Account)
	user := key(t, keystore.User)
	make_ := func(k *keystore.Key, change func(*jwt.UserClaims)) inspect.Token {
		c := &jwt.UserClaims{}
		c.Subject, c.Issuer, c.IssuerAccount = user.Public(), k.Public(), chat.Key.String()
		c.Type, c.Version, c.IssuedAt, c.Name = jwt.UserClaim, 2, now().Unix(), "ann"
		if change != nil {
			change(c)
		}
		return explain(t, sign(t, c, k), known).Tokens[0]
	}
	for _, tt := range []struct {
		name  string
		token inspect.Token
		chain inspect.Chain
		state inspect.State
	}{
		{"good", make_(roleKey, nil), inspect.ChainTrusted, inspect.StateValid},
		{"account key", make_(accountKey, func(c *jwt.UserClaims) { c.IssuerAccount = "" }), inspect.ChainTrusted, inspect.StateValid},
		{"stranger", make_(stranger, nil), inspect.ChainForeign, inspect.StateValid},
		{"stranger alone", make_(stranger, func(c *jwt.UserClaims) { c.IssuerAccount = "" }), inspect.ChainForeign, inspect.StateValid},
		{"role of another account", make_(roleKey, func(c *jwt.UserClaims) { c.IssuerAccount = auth.Key.String() }), inspect.ChainForeign, inspect.StateValid},
		{"expired", make_(roleKey, func(c *jwt.UserClaims) { c.Expires = now().Unix() }), inspect.ChainTrusted, inspect.StateExpired},
		{"early", make_(roleKey, func(c *jwt.UserClaims) { c.NotBefore = now().Unix() + 1 }), inspect.ChainTrusted, inspect.StateEarly},
	} {
		if tt.token.Chain != tt.chain || tt.token.State != tt.state || !tt.token.Verifies {
			t.Errorf("%s: chain %s (%s), %s", tt.name, tt.token.Chain, tt.token.ChainSays, tt.token.State)
		}
	}
	tok := make_(roleKey, nil)
	if want := "allow subscribe chat.KUBECON.dms." + user.Public(); !strings.Contains(strings.Join(tok.Rights, "\n"), want) {
		t.Errorf("rights %q, want %q", tok.Rights, want)
	}
	// Servers refuse a user with rights of its own under a role.
	c := &jwt.UserClaims{}
	c.Subject, c.Issuer, c.IssuerAccount = user.Public(), roleKey.Public(), chat.Key.String()
	c.Type, c.Version = jwt.UserClaim, 2
	c.Pub.Allow.Add(">")
	r := explain(t, sign(t, c, roleKey), known)
	if len(r.Problems) == 0 || len(r.Tokens[0].Rights) > 0 || r.Good() {
		t.Errorf("a user with rights of its own: %+v", r)
	}
}

// TestRevoked: up to the moment that the account names, that second included.
func TestRevoked(t *testing.T) {
	p := initial(t)
	data := creds(t, p, "CHAT", "member", time.Hour)
	sub := explain(t, data, inspect.Platform{}).Tokens[0].Subject
	for _, tt := range []struct {
		key  string
		at   time.Time
		want inspect.State
	}{
		{sub, now(), inspect.StateRevoked},
		{sub, now().Add(-time.Second), inspect.StateValid},
		{jwt.All, now(), inspect.StateRevoked},
		{key(t, keystore.User).Public(), now(), inspect.StateValid},
	} {
		known := knows(t, p)
		held := known.Account
		known.Account = func(public string) *jwt.AccountClaims {
			c := held(public)
			if c != nil {
				c.Revocations = jwt.RevocationList{tt.key: tt.at.Unix()}
			}
			return c
		}
		r := explain(t, data, known)
		if got := r.Tokens[0].State; got != tt.want || r.Good() != (tt.want == inspect.StateValid) {
			t.Errorf("revoked at %s for %.8s: %s, good %t", tt.at, tt.key, got, r.Good())
		}
	}
}

func TestForms(t *testing.T) {
	p := initial(t)
	known := knows(t, p)
	member := creds(t, p, "CHAT", "member", time.Hour)
	a, b := key(t, keystore.User), key(t, keystore.User)
	token := jwtIn(t, member)
	decorated := string(must[[]byte](t)(jwt.DecorateJWT(token)))
	seedOf := func(k *keystore.Key) string { return string(must[[]byte](t)(jwt.DecorateSeed([]byte(seed(t, k))))) }
	for _, tt := range []struct {
		name, data string
		form       inspect.Form
		secret     bool
		problem    string
	}{
		{"jwt", token + "\n", inspect.FormJWT, false, ""},
		{"decorated jwt", decorated, inspect.FormJWT, false, ""},
		{"creds", member, inspect.FormCreds, true, ""},
		{"creds of Windows", "\ufeff" + strings.ReplaceAll(member, "\n", "\r\n"), inspect.FormCreds, true, ""},
		{"creds of two", decorated + seedOf(a), inspect.FormCreds, true, "no server takes one with the other"},
		{"seed first", seedOf(a) + "\n" + decorated, inspect.FormCreds, true, "clients would send it"},
		{"two seeds", decorated + seedOf(a) + "\n" + seedOf(b), inspect.FormSeveral, true, "1 JWTs and 2 keys"},
		{"seed", seed(t, a), inspect.FormSeed, true, ""},
		{"key", a.Public() + "\n", inspect.FormKey, false, ""},
		{"keys", a.Public() + "\n" + b.Public() + "\n", inspect.FormSeveral, false, ""},
		{"no user", string(must[[]byte](t)(jwt.DecorateJWT(p.Operator.Token()))) + seedOf(a), inspect.FormCreds, true, "no user's"},
	} {
		r := explain(t, tt.data, known)
		if r.Form != tt.form || r.Secret != tt.secret {
			t.Errorf("%s: %s, secret %t", tt.name, r.Form, r.Secret)
		}
		if got := strings.Join(r.Problems, "; "); (got == "") != (tt.problem == "") || !strings.Contains(got, tt.problem) {
			t.Errorf("%s: problems %q, want %q", tt.name, got, tt.problem)
		}
	}
	for name, data := range map[string]string{
		"nothing": "", "text": "hello\n", "yaml": read(t, p.Dir.File()), "other JSON": `{"a":1}`, "binary": "\x00\x01", "latin": "\xe9",
		"mistyped seed": seed(t, a)[:57] + "A1", "mistyped key": a.Public()[:55] + "1", "x509": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
	} {
		if r, err := inspect.Explain([]byte(data), known, now()); !errors.Is(err, inspect.ErrUnknown) {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
	for name, data := range map[string]string{
		"bytes": strings.Repeat(" ", inspect.MaxInput+1), "keys": strings.Repeat(a.Public()+"\n", 300),
	} {
		if _, err := inspect.Explain([]byte(data), known, now()); !errors.Is(err, inspect.ErrTooLarge) {
			t.Errorf("too many %s: %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	p := initial(t)
	known := knows(t, p)
	for kind, letter := range map[keystore.Kind]string{
		keystore.Operator: "operator", keystore.Account: "account", keystore.User: "user", keystore.Server: "server", keystore.Curve: "curve",
	} {
		k := key(t, kind)
		for _, data := range []string{k.Public(), seed(t, k)} {
			r := explain(t, data, known)
			if len(r.Keys) != 1 || r.Keys[0].Kind != letter || r.Keys[0].Public != k.Public() || r.Keys[0].Is != "" {
				t.Errorf("%s: %+v", letter, r.Keys)
			}
		}
	}
	for path, is := range map[string]string{
		filepath.Join(p.Dir.Operator(), "operator.nk"):                        "the operator",
		filepath.Join(p.Dir.Operator(), "signing", "nscsetup.nk"):             "operator signing key of nscsetup",
		filepath.Join(p.Dir.Registrar(p.File.Home), "signing.nk"):             "operator signing key of registrars of ams",
		filepath.Join(p.Dir.Operator(), "accounts", "CHAT.nk"):                "account CHAT",
		filepath.Join(p.Dir.Operator(), "roles", "CHAT.member.nk"):            "role CHAT/member",
		filepath.Join(p.Dir.Issuer(p.File.Home), "region.nk"):                 "region key of ams",
		filepath.Join(p.Dir.Operator(), "signing", "spare-1.nk"):              "an operator signing key in reserve",
		filepath.Join(p.Dir.Public(), platform.GuestFile):                     "the guest",
		filepath.Join(p.Dir.Issuer(p.File.Home), "roles", "CHAT.member.nk"):   "role CHAT/member",
		filepath.Join(p.Dir.Operator(), "accounts", platform.System+".nk"):    "account SYS",
		filepath.Join(p.Dir.Operator(), "roles", platform.System+".setup.nk"): "role SYS/setup",
	} {
		r := explain(t, read(t, path), known)
		if got := r.Keys[0].Is; got != is {
			t.Errorf("%s is %q, want %q", filepath.Base(path), got, is)
		}
	}
}

func TestContext(t *testing.T) {
	p, other := initial(t), initial(t)
	file := func(operator, document, guest string) string {
		return string(must[[]byte](t)(json.Marshal(map[string]any{
			"herald_context": 1, "operator": operator, "platform": document, "guest_creds": guest,
		})))
	}
	guest := read(t, filepath.Join(p.Dir.Public(), platform.GuestFile))
	good := file(p.Operator.Token(), p.Full.PublicToken, guest)
	for name, known := range map[string]inspect.Platform{"folder": knows(t, p), "nothing": {}} {
		if r := explain(t, good, known); r.Form != inspect.FormContext || !r.Good() || len(r.Tokens) != 3 {
			t.Errorf("with %s at hand: %+v", name, r)
		}
	}
	for name, data := range map[string]string{
		"other document": file(p.Operator.Token(), other.Full.PublicToken, guest),
		"other guest":    file(p.Operator.Token(), p.Full.PublicToken, read(t, filepath.Join(other.Dir.Public(), platform.GuestFile))),
		"order":          file(p.Full.PublicToken, p.Operator.Token(), guest),
		"no guest":       file(p.Operator.Token(), p.Full.PublicToken, ""),
		"version":        `{"herald_context":2}`,
		"a secret more":  file(p.Operator.Token(), p.Full.PublicToken, guest+"\n"+seed(t, key(t, keystore.Operator))),
	} {
		if r := explain(t, data, inspect.Platform{}); r.Good() {
			t.Errorf("%s: it is called good: %+v", name, r)
		}
	}
	if r := explain(t, good, knows(t, other)); r.Good() || !strings.Contains(strings.Join(r.Problems, ""), "another platform's") {
		t.Errorf("on another platform: %+v", r)
	}
}

// TestNothingSecretIsShown puts secrets of every kind into every place that a file has.
func TestNothingSecretIsShown(t *testing.T) {
	p := initial(t)
	known := knows(t, p)
	operator := must[platform.Signer](t)(p.Signer()).Key()
	for _, kind := range []keystore.Kind{keystore.Operator, keystore.Account, keystore.User, keystore.Server, keystore.Curve, keystore.Kind(nkeys.PrefixByteCluster)} {
		k := key(t, kind)
		s := seed(t, k)
		secrets := []string{s}
		if private, err := k.Pair().PrivateKey(); err == nil {
			secrets = append(secrets, string(private))
		}
		for _, secret := range secrets {
			for _, written := range []string{
				secret, strings.ToLower(secret), secret[:len(secret)-3] /* its checksum is gone */, "x" + secret, secret + secret, "AAAA" + secret + "BBBB",
				"a\u202e" + secret + "\x1b[2J",
			} {
				for name, data := range hideouts(t, written, operator) {
					r, err := inspect.Explain([]byte(data), known, now())
					shown := ""
					if err != nil {
						shown = err.Error()
					} else {
						shown = string(must[[]byte](t)(json.Marshal(r)))
					}
					// Without what is a checksum the rest is as good.
					for _, part := range []string{secret[:53], strings.ToLower(secret[:53]), secret[3:53]} {
						if strings.Contains(shown, part) {
							t.Fatalf("%s: a secret of kind %q is shown:\n%s", name, k.Public()[0], shown)
						}
					}
					if strings.ContainsAny(shown, "\x1b\u202e") {
						t.Fatalf("%s: a control character is shown:\n%q", name, shown)
					}
				}
			}
		}
	}
}

// hideouts are files with a text in places where it does not belong.
func hideouts(t testing.TB, s string, operator *keystore.Key) map[string]string {
	t.Helper()
	account, user := key(t, keystore.Account), key(t, keystore.User)
	ac := &jwt.AccountClaims{}
	ac.Subject, ac.Issuer, ac.Name, ac.Type, ac.Version, ac.ID, ac.Audience = account.Public(), operator.Public(), s, jwt.AccountClaim, 2, s, s
	ac.Description, ac.InfoURL = s, s
	ac.Tags = jwt.TagList{s, "k:" + strings.ToLower(s)}
	ac.Exports = jwt.Exports{{Name: s, Subject: jwt.Subject(s), Type: jwt.Stream, Info: jwt.Info{Description: s}}}
	ac.Imports = jwt.Imports{{Name: s, Subject: jwt.Subject(s), Account: s, LocalSubject: jwt.RenamingSubject(s), Type: jwt.Service}}
	ac.Mappings = jwt.Mapping{jwt.Subject(s): {{Subject: jwt.Subject(s), Weight: 100, Cluster: s}}}
	ac.Revocations = jwt.RevocationList{s: 1}
	ac.Trace = &jwt.MsgTrace{Destination: jwt.Subject(s)}
	ac.Authorization = jwt.ExternalAuthorization{AuthUsers: jwt.StringList{s}, AllowedAccounts: jwt.StringList{s}, XKey: s}
	ac.DefaultPermissions.Pub.Allow = jwt.StringList{s}
	scope := jwt.NewUserScope()
	scope.Key, scope.Role, scope.Description = account.Public(), s, s
	scope.Template.Pub.Allow = jwt.StringList{s}
	scope.Template.Locale, scope.Template.Times = s, []jwt.TimeRange{{Start: s, End: s}}
	ac.SigningKeys = jwt.SigningKeys{account.Public(): scope}
	uc := &jwt.UserClaims{}
	uc.Subject, uc.Issuer, uc.IssuerAccount, uc.Name, uc.Type, uc.Version = user.Public(), account.Public(), s, s, jwt.UserClaim, 2
	uc.Sub.Deny, uc.Src, uc.Tags = jwt.StringList{s}, jwt.CIDRList{s}, jwt.TagList{s}
	oc := &jwt.OperatorClaims{}
	oc.Subject, oc.Issuer, oc.Name, oc.Type, oc.Version = operator.Public(), operator.Public(), s, jwt.OperatorClaim, 2
	oc.SigningKeys, oc.SystemAccount, oc.AccountServerURL = jwt.StringList{s}, s, s
	oc.OperatorServiceURLs, oc.AssertServerVersion = jwt.StringList{s}, s
	act := &jwt.ActivationClaims{}
	act.Subject, act.Issuer, act.Type, act.Version, act.ImportSubject = s, account.Public(), jwt.ActivationClaim, 2, jwt.Subject(s)
	generic := func(kind string, body any) map[string]any {
		return map[string]any{"sub": s, "iss": operator.Public(), "aud": s, "nats": map[string]any{"type": kind, "version": 2, "body": body, s: s}}
	}
	deep := map[string]any{s: []any{s, map[string]any{"k": s}}}
	strange := map[string]any{"sub": s, "iss": s, "nats": map[string]any{"type": s, "version": 2}}
	out := map[string]string{
		"account":  sign(t, ac, operator),
		"user":     sign(t, uc, account),
		"operator": sign(t, oc, operator), "activation": sign(t, act, account),
		"generic":   sign(t, generic("x", deep), operator),
		"entry":     sign(t, generic("herald-entry", map[string]any{"version": 1, "at": 1, "entry": deep}), operator),
		"document":  sign(t, generic("herald-platform", map[string]any{"name": s, "operator": s}), operator),
		"document2": sign(t, generic("herald-platform", deep), operator),
		"strange":   sign(t, strange, operator),
		"version 1": sign(t, map[string]any{"sub": s, "iss": operator.Public(), "type": "user", "name": s, "tags": []string{s}, "nats": map[string]any{"pub": s}}, operator),
		"alone":     s,
		"in a text": "the seed is " + s + "\n" + user.Public() + "\n",
		"in a path": "x/" + s + "/y\n" + user.Public(),
		"blocks": "-----BEGIN USER NKEY SEED-----\n" + s + "\n------END USER NKEY SEED------\n-----BEGIN " + s + "-----\n" + s +
			"\n-----END-----\n" + sign(t, uc, account) + "\n" + s + "\n",
		"context": string(must[[]byte](t)(json.Marshal(map[string]any{"herald_context": 1, "operator": s, "platform": s, "guest_creds": s + "\n" + sign(t, uc, account)}))),
		"json":    `{"herald_context":"` + strings.Map(ascii, s) + `"}`,
	}
	out["all"] = out["account"] + "\n" + out["generic"] + "\n" + out["entry"]
	return out
}

// A secret inside of a JWT is nothing that its holder knows of.
func TestSecretInsideIsAProblem(t *testing.T) {
	p := initial(t)
	operator := must[platform.Signer](t)(p.Signer()).Key()
	c := &jwt.AccountClaims{}
	c.Subject, c.Issuer, c.Type, c.Version = key(t, keystore.Account).Public(), operator.Public(), jwt.AccountClaim, 2
	c.Name = seed(t, key(t, keystore.Account))
	if r := explain(t, sign(t, c, operator), knows(t, p)); r.Good() || !strings.Contains(strings.Join(r.Problems, ""), "is a secret key") {
		t.Errorf("%+v", r)
	}
}

func ascii(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

func TestRedactLeavesTheRest(t *testing.T) {
	id := trust.ID("a", "b")
	for range 200 {
		for _, s := range []string{
			key(t, keystore.User).Public(), key(t, keystore.Account).Public(), key(t, keystore.Curve).Public(), id, "S", "SU", "$SYS.REQ.SERVER.PING",
			"chat.KUBECON.posts.*", "a " + key(t, keystore.User).Public() + " b",
		} {
			if got := inspect.Redact(s); got != s {
				t.Fatalf("%q became %q", s, got)
			}
		}
	}
}

// checkShown looks at what is shown of a file, whatever was in it: nothing secret, and
// nothing that moves a terminal.
func checkShown(t *testing.T, data []byte, known inspect.Platform) {
	t.Helper()
	r, err := inspect.Explain(data, known, now())
	if err != nil {
		if !errors.Is(err, inspect.ErrUnknown) && !errors.Is(err, inspect.ErrTooLarge) {
			t.Fatal(err)
		}
		return
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if inspect.Redact(string(out)) != string(out) {
		t.Fatalf("it shows what looks like a secret:\n%s", out)
	}
	texts := r.Problems
	for _, tok := range r.Tokens {
		if tok.Chain == inspect.ChainTrusted && !tok.Verifies {
			t.Fatalf("trusted, and the signature does not verify: %+v", tok)
		}
		texts = append(texts, tok.Kind, tok.Name, tok.Subject, tok.Issuer, tok.Account, tok.Audience, tok.ID, tok.WhyNot, tok.ChainSays)
		texts = append(texts, tok.Tags...)
		texts = append(append(append(texts, tok.Says...), tok.Rights...), tok.Ignored...)
	}
	for _, s := range texts {
		if inspect.Clean(s) != s {
			t.Fatalf("%q was not cleaned", s)
		}
	}
}

func FuzzExplain(f *testing.F) {
	p := initial(f)
	known := knows(f, p)
	operator := must[platform.Signer](f)(p.Signer()).Key()
	for _, data := range hideouts(f, "x", operator) {
		f.Add([]byte(data))
	}
	for _, data := range []string{
		p.Operator.Token(), p.FullToken, p.Full.PublicToken, p.Document.EpochProof, creds(f, p, "CHAT", "member", time.Hour),
		must[[]string](f)(p.Tokens())[1], key(f, keystore.Curve).Public(), seed(f, key(f, keystore.User)),
		read(f, filepath.Join(p.Dir.Public(), platform.GuestFile)),
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkShown(t, data, known) })
}

// FuzzPayload signs what it is given, so that what is inside of a JWT is tried and not
// its shell.
func FuzzPayload(f *testing.F) {
	p := initial(f)
	known := knows(f, p)
	operator := must[platform.Signer](f)(p.Signer()).Key()
	add := func(data string) {
		if parts := strings.Split(data, "."); len(parts) == 3 {
			if payload, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
				f.Add(payload)
			}
		}
	}
	for _, data := range hideouts(f, "x", operator) {
		add(data)
	}
	for _, data := range []string{
		p.Operator.Token(), p.FullToken, p.Full.PublicToken, p.Document.EpochProof, jwtIn(f, creds(f, p, "CHAT", "member", time.Hour)),
		must[[]string](f)(p.Tokens())[1],
	} {
		add(data)
	}
	for _, payload := range []string{
		`{"nats":null}`, `{"type":"user"}`, `{"nats":{"type":"account","version":2,"exports":[null],"imports":[null],"signing_keys":[null]}}`,
		`{"nats":{"type":"account","version":2,"signing_keys":[{"kind":"user_scope"}],"mappings":{"a":null},"trace":{}}}`,
		`{"nats":{"type":"user","version":2,"times":[{}],"src":"a,b"}}`, `{"exp":9223372036854775807,"nbf":-1,"iat":1e3,"nats":{"type":"herald-entry","version":2,"body":{"at":-1,"entry":[]}}}`,
	} {
		f.Add([]byte(payload))
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"ed25519-nkey"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > 0 && payload[0] == '{' {
			// As JSON begins, so that it is taken for a JWT.
			payload = append([]byte(`{"`), strings.TrimLeft(string(payload[1:]), " \t\r\n\"")...)
		}
		signed := header + "." + base64.RawURLEncoding.EncodeToString(payload)
		sig, err := operator.Sign([]byte(signed))
		if err != nil {
			t.Fatal(err)
		}
		checkShown(t, []byte(signed+"."+base64.RawURLEncoding.EncodeToString(sig)), known)
	})
}

// FuzzClean: what is cleaned stays so.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\x1b[31m", "\u202eabc", strings.Repeat("é", 3000), seed(f, key(f, keystore.User)), strings.Repeat("S", 200), "0" + strings.Repeat("SA", 55), "SU" + strings.Repeat("a", 56)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := inspect.Clean(s)
		if again := inspect.Clean(got); again != got {
			t.Fatalf("%q, again %q", got, again)
		}
		if strings.ContainsAny(got, "\x00\n\r\t\x1b\x7f\u009b\u202e\u2066\u200f\ufeff") || len(got) > 2100 {
			t.Fatalf("%q", got)
		}
	})
}
