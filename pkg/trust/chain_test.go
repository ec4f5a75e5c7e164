package trust_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

func untrusted(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("%s: got %v, want ErrUntrusted", what, err)
	}
}

func TestOperator(t *testing.T) {
	c := newChain(t)
	if c.operator.Key() != c.root.Public() || c.operator.Name() != "demo" || c.operator.System().IsZero() {
		t.Errorf("read back: %s %s %s", c.operator.Key(), c.operator.Name(), c.operator.System())
	}
	if !c.operator.Signs(c.signing.Public()) || c.operator.Signs(c.root.Public()) || c.operator.Signs("") {
		t.Error("the signing key signs, the identity key and nobody do not")
	}
	again, err := trust.ParseOperator("\n" + c.operator.Token() + "\n")
	if err != nil || again.Key() != c.operator.Key() {
		t.Errorf("with line ends around it, as from a file: %v", err)
	}

	sys := key(t, keystore.Account).Public()
	claims := func(change func(*jwt.OperatorClaims)) *jwt.OperatorClaims {
		o := jwt.NewOperatorClaims(c.root.Public())
		o.Name, o.Issuer, o.Type, o.Version = "demo", c.root.Public(), jwt.OperatorClaim, 2
		o.SigningKeys.Add(c.signing.Public())
		o.SystemAccount, o.StrictSigningKeyUsage = sys, true
		change(o)
		return o
	}
	stranger := key(t, keystore.Operator)
	for what, tok := range map[string]string{
		"signed by a signing key of its own": sign(t, claims(func(o *jwt.OperatorClaims) { o.Issuer = c.signing.Public() }), c.signing),
		"signed by a stranger":               sign(t, claims(func(o *jwt.OperatorClaims) { o.Issuer = stranger.Public() }), stranger),
		"signed by a stranger in its name":   sign(t, claims(func(*jwt.OperatorClaims) {}), stranger),
		"without strict signing keys":        sign(t, claims(func(o *jwt.OperatorClaims) { o.StrictSigningKeyUsage = false }), c.root),
		"without signing keys":               sign(t, claims(func(o *jwt.OperatorClaims) { o.SigningKeys = nil }), c.root),
		"without a system account":           sign(t, claims(func(o *jwt.OperatorClaims) { o.SystemAccount = "" }), c.root),
		"a user JWT":                         sign(t, c.userClaims(), c.role),
		"empty":                              "",
		"two chunks":                         "a.b",
		"too large":                          strings.Repeat("a", 1<<20+1),
	} {
		if op, err := trust.ParseOperator(tok); err == nil || op != nil {
			t.Errorf("an operator JWT %s is accepted", what)
		}
	}
	if _, err := trust.ParseOperator(sign(t, claims(func(*jwt.OperatorClaims) {}), c.root)); err != nil {
		t.Errorf("the one that the others differ from: %v", err)
	}
}

func TestAccountBySigningKeyOnly(t *testing.T) {
	c, other := newChain(t), newChain(t)
	claims := jwt.NewAccountClaims(c.account.Public())
	claims.Name = "CHAT"
	by := func(k *keystore.Key) string {
		s, err := claims.Encode(k.Pair())
		return token(t, s, err)
	}
	got, err := c.operator.VerifyAccount(by(c.signing))
	if err != nil || got.Subject != c.account.Public() {
		t.Fatalf("signed by the signing key: %v", err)
	}
	for what, k := range map[string]*keystore.Key{
		"the operator's identity key":    c.root,
		"another operator's signing key": other.signing,
		"another operator":               other.root,
		"the account itself":             c.account,
	} {
		_, err := c.operator.VerifyAccount(by(k))
		untrusted(t, "an account signed by "+what, err)
	}
	// Names a signing key as its issuer, and is signed by somebody else.
	forged := jwt.NewAccountClaims(c.account.Public())
	forged.Issuer, forged.Type, forged.Version = c.signing.Public(), jwt.AccountClaim, 2
	if _, err := c.operator.VerifyAccount(sign(t, forged, other.signing)); err == nil {
		t.Error("a forged signature is accepted")
	}
	// What was signed is what counts: any other byte of the payload breaks it.
	good := strings.Split(by(c.signing), ".")
	if _, err := c.operator.VerifyAccount(good[0] + "." + good[1][:len(good[1])-2] + "AA" + "." + good[2]); err == nil {
		t.Error("an altered payload is accepted")
	}
	for what, tok := range map[string]string{
		"a user JWT":   sign(t, c.userClaims(), c.role),
		"the operator": c.operator.Token(),
		"nothing":      "",
		"too large":    strings.Repeat("a", 1<<20+1),
	} {
		if a, err := c.operator.VerifyAccount(tok); err == nil || a != nil {
			t.Errorf("%s is accepted as an account", what)
		}
	}
	// Signed by the right key and broken: a user's key as signing key.
	broken := jwt.NewAccountClaims(c.account.Public())
	broken.Issuer, broken.Type, broken.Version = c.signing.Public(), jwt.AccountClaim, 2
	broken.SigningKeys.Add(c.user.Public())
	if _, err := c.operator.VerifyAccount(sign(t, broken, c.signing)); err == nil {
		t.Error("an account whose claims are invalid is accepted")
	}
}

func TestPlatformDocument(t *testing.T) {
	c, other := newChain(t), newChain(t)
	doc := must[string](t)(c.document.Sign(c.signing, now()))
	if p, err := c.operator.OpenPlatform("\n" + doc + "\n"); err != nil || p.Version != c.document.Version || p.Name != "demo" || len(p.Regions) != 2 {
		t.Fatalf("the platform document: %v", err)
	}
	_, err := other.operator.OpenPlatform(doc)
	untrusted(t, "a document at another operator", err)
	_, err = c.operator.OpenPlatform(must[string](t)(entry().Sign(c.signing)))
	untrusted(t, "an entry as a platform document", err)
	_, err = c.operator.OpenPlatform(epoch(t, c.signing, 2))
	untrusted(t, "an epoch as a platform document", err)

	for what, k := range map[string]*keystore.Key{
		"the operator's identity key": c.root, "another operator's signing key": other.signing,
		"a role key": c.role, "the account": c.account, "a user": c.user,
	} {
		_, err := c.operator.OpenPlatform(must[string](t)(c.document.Sign(k, now())))
		untrusted(t, "a document signed by "+what, err)
	}

	// Signed by the right key, and about something else inside than outside.
	_, err = c.operator.OpenPlatform(sign(t, generic(c, "herald-platform", other.root.Public(), c.document), c.signing))
	untrusted(t, "a document that is about another operator outside", err)
	_, err = c.operator.OpenPlatform(sign(t, generic(c, "herald-platfor", c.root.Public(), c.document), c.signing))
	untrusted(t, "another kind", err)

	shapes := map[string]func(*trust.Platform){
		"of another operator": func(p *trust.Platform) { p.Operator = other.root.Public() },
		"without a version":   func(p *trust.Platform) { p.Version = trust.Version{} },
		"without a number":    func(p *trust.Platform) { p.Version.Number = 0 },
		"of epoch 0": func(p *trust.Platform) {
			p.Version.Epoch, p.EpochProof = 0, epoch(t, c.root, 0)
		},
		"without regions":     func(p *trust.Platform) { p.Regions = nil },
		"without accounts":    func(p *trust.Platform) { p.Accounts = nil },
		"with a URL of files": func(p *trust.Platform) { p.Regions[0].URLs = []string{"file:///etc/passwd"} },
		"with a password in a URL": func(p *trust.Platform) {
			p.Regions[1].URLs = []string{"nats://a:b@127.0.0.1:1"}
		},
	}
	for what, change := range shapes {
		p := *c.document
		p.Regions = append([]trust.Region(nil), p.Regions...)
		change(&p)
		if _, err := c.operator.OpenPlatform(sign(t, generic(c, "herald-platform", c.root.Public(), p), c.signing)); err == nil {
			t.Errorf("a platform document %s is accepted", what)
		}
	}
}

// TestEpochs: a stolen signing key can use up all numbers of an epoch, and cannot
// begin another: that takes the operator key.
func TestEpochs(t *testing.T) {
	c, other := newChain(t), newChain(t)
	open := func(n uint32, proof string) error {
		p := *c.document
		p.Version, p.EpochProof = trust.Version{Epoch: n, Number: 1}, proof
		got, err := c.operator.OpenPlatform(must[string](t)(p.Sign(c.signing, now())))
		if (err == nil) == (got == nil) {
			t.Errorf("epoch %d: %v beside %v", n, got, err)
		}
		return err
	}
	for _, n := range []uint32{1, 2, 1<<32 - 1} {
		if err := open(n, epoch(t, c.root, n)); err != nil {
			t.Errorf("epoch %d by the operator key: %v", n, err)
		}
	}
	about := func(sub string, k *keystore.Key) string {
		d := generic(c, "herald-epoch", sub, map[string]any{"epoch": 2})
		d["iss"] = k.Public()
		return sign(t, d, k)
	}
	if err := open(2, about(c.root.Public(), c.root)); err != nil {
		t.Errorf("the one that the others differ from: %v", err)
	}
	kind := generic(c, "herald-entry", c.root.Public(), map[string]any{"epoch": 2})
	kind["iss"] = c.root.Public()
	for what, proof := range map[string]string{
		"by a signing key":                         epoch(t, c.signing, 2),
		"by a signing key, about the operator":     about(c.root.Public(), c.signing),
		"by another operator":                      epoch(t, other.root, 2),
		"by another operator, about this one":      about(c.root.Public(), other.root),
		"by the operator, about another":           about(other.root.Public(), c.root),
		"by the operator, about one of its keys":   about(c.signing.Public(), c.root),
		"by the operator, in a document of a kind": sign(t, kind, c.root),
		"for the epoch before":                     epoch(t, c.root, 1),
		"for the epoch after":                      epoch(t, c.root, 3),
	} {
		untrusted(t, "an epoch "+what, open(2, proof))
	}
	good := epoch(t, c.root, 2)
	for what, proof := range map[string]string{
		"missing": "", "of no shape": "x", "the operator JWT": c.operator.Token(), "cut off": good[:len(good)-1],
		"of version 1": v1(t, head1, map[string]any{"iss": c.root.Public(), "sub": c.root.Public(), "type": "herald-epoch"}, c.root),
		"forged":       good[:strings.LastIndexByte(good, '.')] + epoch(t, c.root, 3)[strings.LastIndexByte(epoch(t, c.root, 3), '.'):],
		"too large":    strings.Repeat("a", 1<<20+1),
	} {
		if open(2, proof) == nil {
			t.Errorf("an epoch whose proof is %s is accepted", what)
		}
	}
}

func TestVersions(t *testing.T) {
	v := func(e, n uint32) trust.Version { return trust.Version{Epoch: e, Number: n} }
	const most = 1<<32 - 1
	order := []trust.Version{v(1, 1), v(1, 2), v(1, most), v(2, 1), v(2, most), v(3, 1), v(most, most)}
	for i := 1; i < len(order); i++ {
		if order[i-1].Rank() >= order[i].Rank() {
			t.Errorf("%s is not before %s", order[i-1], order[i])
		}
	}
	for _, z := range []trust.Version{{}, v(1, 0), v(0, 1)} {
		if !z.IsZero() {
			t.Errorf("%s is a version", z)
		}
	}
	if v(1, 1).IsZero() || v(2, 7).String() != "2.7" {
		t.Errorf("%s", v(2, 7))
	}
}

// A crafted document of JWT version 1 without claims made jwt/v2 panic before
// anything had been verified: it reaches every `chat join FILE`.
func TestDocumentOfVersion1(t *testing.T) {
	c := newChain(t)
	for _, k := range []*keystore.Key{c.user, c.signing} {
		tok := v1(t, head1, map[string]any{"iss": k.Public(), "sub": c.root.Public(), "type": "herald-platform"}, k)
		if _, err := c.operator.OpenPlatform(tok); err == nil {
			t.Error("accepted as a platform document")
		}
		if _, err := c.operator.OpenEntry(tok); err == nil {
			t.Error("accepted as an entry")
		}
		if _, err := c.document.VerifyUser(tok, now()); err == nil {
			t.Error("accepted as a user")
		}
		if _, err := c.operator.VerifyAccount(tok); err == nil {
			t.Error("accepted as an account")
		}
		if _, err := trust.ParseOperator(tok); err == nil {
			t.Error("accepted as an operator")
		}
	}
}

func TestVersionsAreExact(t *testing.T) {
	c := newChain(t)
	proofs := map[uint32]string{1: epoch(t, c.root, 1), 2: epoch(t, c.root, 2), 3: epoch(t, c.root, 3)}
	rapid.Check(t, func(r *rapid.T) {
		p := *c.document
		p.Version = trust.Version{Epoch: rapid.Uint32Range(1, 3).Draw(r, "epoch"), Number: rapid.Uint32Min(1).Draw(r, "number")}
		p.EpochProof = proofs[p.Version.Epoch]
		doc, err := p.Sign(c.signing, now())
		if err != nil {
			r.Fatal(err)
		}
		got, err := c.operator.OpenPlatform(doc)
		if err != nil || got.Version != p.Version {
			r.Fatalf("version %s came back as %v, %v", p.Version, got, err)
		}
	})
}

func TestUser(t *testing.T) {
	c, other := newChain(t), newChain(t)
	u, err := c.document.VerifyUser(sign(t, c.userClaims(), c.role), now())
	want := trust.User{
		Key: userKey(t, c.user), Name: name(t, "alice"), Account: label(t, "CHAT"), AccountKey: accKey(t, c.account),
		Role: label(t, "member"), Identity: ident.OpenIdentity(userKey(t, c.user)),
		IssuedAt: now(), Expires: now().Add(time.Hour), ID: "ID",
	}
	if err != nil || u != want {
		t.Fatalf("got %+v, %v", u, err)
	}

	with := func(change func(*jwt.UserClaims), k *keystore.Key) string {
		u := c.userClaims()
		u.Issuer = k.Public()
		change(u)
		return sign(t, u, k)
	}
	same := func(*jwt.UserClaims) {}
	for what, tok := range map[string]string{
		"signed by the account's identity key":              with(func(u *jwt.UserClaims) { u.IssuerAccount = "" }, c.account),
		"signed by the account's identity key, in its name": with(same, c.account),
		"signed by another platform's role key":             with(same, other.role),
		"of another platform":                               sign(t, other.userClaims(), other.role),
		"for another account":                               with(func(u *jwt.UserClaims) { u.IssuerAccount = other.account.Public() }, c.role),
		"without an account":                                with(func(u *jwt.UserClaims) { u.IssuerAccount = "" }, c.role),
		"with a right to publish":                           with(func(u *jwt.UserClaims) { u.Pub.Allow.Add("x") }, c.role),
		"with a denied subject":                             with(func(u *jwt.UserClaims) { u.Sub.Deny.Add("x") }, c.role),
		"with limits":                                       with(func(u *jwt.UserClaims) { u.Subs = 3 }, c.role),
		"as bearer":                                         with(func(u *jwt.UserClaims) { u.BearerToken = true }, c.role),
		"that may answer":                                   with(func(u *jwt.UserClaims) { u.Resp = &jwt.ResponsePermission{MaxMsgs: 1} }, c.role),
		"over leafnodes":                                    with(func(u *jwt.UserClaims) { u.AllowedConnectionTypes.Add("LEAFNODE") }, c.role),
	} {
		got, err := c.document.VerifyUser(tok, now())
		untrusted(t, "a user "+what, err)
		if got != (trust.User{}) {
			t.Errorf("a user %s: something is given beside the error: %+v", what, got)
		}
	}
	for what, tok := range map[string]string{
		"signed by a stranger in the role's name": sign(t, c.userClaims(), other.role),
		"signed by the user":                      with(same, c.user),
		"called *":                                with(func(u *jwt.UserClaims) { u.Name = "*" }, c.role),
		"called nothing":                          with(func(u *jwt.UserClaims) { u.Name = "" }, c.role),
		"called Alice":                            with(func(u *jwt.UserClaims) { u.Name = "Alice" }, c.role),
		"whose key is an account":                 with(func(u *jwt.UserClaims) { u.Subject = c.account.Public() }, c.role),
		"whose key is none":                       with(func(u *jwt.UserClaims) { u.Subject = "*" }, c.role),
		"too large":                               strings.Repeat("a", 1<<20+1),
		"empty":                                   "",
	} {
		if got, err := c.document.VerifyUser(tok, now()); err == nil || got != (trust.User{}) {
			t.Errorf("a user %s: got %+v, %v", what, got, err)
		}
	}

	// A claim of another kind by the role key says nothing of a user.
	act := jwt.NewActivationClaims(c.account.Public())
	act.Issuer, act.Type, act.Version = c.role.Public(), jwt.ActivationClaim, 2
	if _, err := c.document.VerifyUser(sign(t, act, c.role), now()); err == nil {
		t.Error("an activation is accepted as a user")
	}
}

func TestUserExpiry(t *testing.T) {
	c := newChain(t)
	tok := sign(t, c.userClaims(), c.role)
	end := now().Add(time.Hour)
	for _, tc := range []struct {
		at   time.Time
		over bool
	}{{now(), false}, {end.Add(-time.Nanosecond), false}, {end, true}, {end.Add(time.Hour), true}} {
		_, err := c.document.VerifyUser(tok, tc.at)
		if errors.Is(err, trust.ErrExpired) != tc.over || (err != nil) != tc.over {
			t.Errorf("at %s: %v", tc.at, err)
		}
	}
	u := c.userClaims()
	u.Expires = -1
	if _, err := c.document.VerifyUser(sign(t, u, c.role), now()); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("an expiry before 1970: %v", err)
	}
	u.Expires = 0
	u.Tags = nil
	got, err := c.document.VerifyUser(sign(t, u, c.role), now())
	if err != nil || !got.Expires.IsZero() || !got.Identity.IsZero() {
		t.Errorf("a guest or service: %+v %v", got, err)
	}
	// The server lower-cases tags; only one exact tag says who somebody is.
	u.Tags = jwt.TagList{"identity:opener", "identity:"}
	if got, _ := c.document.VerifyUser(sign(t, u, c.role), now()); !got.Identity.IsZero() {
		t.Errorf("an identity out of another tag: %s", got.Identity)
	}
}

func TestCaller(t *testing.T) {
	c, other := newChain(t), newChain(t)
	chat := label(t, "CHAT")
	good := wire.RequestInfo{Account: c.account.Public(), User: c.user.Public(), JWT: sign(t, c.userClaims(), c.role), Kind: "Client"}
	const reply = "_R_.abc"
	if u, err := c.document.Caller(good, reply, now(), label(t, "GUEST"), chat); err != nil || u.Name != name(t, "alice") {
		t.Fatalf("the one that the others differ from: %v", err)
	}
	for what, tc := range map[string]struct {
		change func(*wire.RequestInfo)
		reply  string
	}{
		"a reply of the caller's own":   {nil, "_INBOX.x"},
		"no reply":                      {nil, ""},
		"a reply that only looks alike": {nil, "x._R_.abc"},
		"a reply without the dot":       {nil, "_R_abc"},
		"through a service":             {func(i *wire.RequestInfo) { i.Service = "auth.v1.issue" }, reply},
		"a leafnode":                    {func(i *wire.RequestInfo) { i.Kind = "Leafnode" }, reply},
		"a kind in other case":          {func(i *wire.RequestInfo) { i.Kind = "client" }, reply},
		"no kind":                       {func(i *wire.RequestInfo) { i.Kind = "" }, reply},
		"another account":               {func(i *wire.RequestInfo) { i.Account = other.account.Public() }, reply},
		"no account":                    {func(i *wire.RequestInfo) { i.Account = "" }, reply},
		"another user":                  {func(i *wire.RequestInfo) { i.User = other.user.Public() }, reply},
		"no user":                       {func(i *wire.RequestInfo) { i.User = "" }, reply},
		"another platform's user JWT":   {func(i *wire.RequestInfo) { i.JWT = sign(t, other.userClaims(), other.role) }, reply},
		"another platform altogether": {func(i *wire.RequestInfo) {
			i.JWT, i.Account, i.User = sign(t, other.userClaims(), other.role), other.account.Public(), other.user.Public()
		}, reply},
	} {
		info := good
		if tc.change != nil {
			tc.change(&info)
		}
		u, err := c.document.Caller(info, tc.reply, now(), chat)
		untrusted(t, what, err)
		if u != (trust.User{}) {
			t.Errorf("%s: a user is given beside the error", what)
		}
	}
	noJWT := good
	noJWT.JWT = ""
	if _, err := c.document.Caller(noJWT, reply, now(), chat); err == nil {
		t.Error("no user JWT")
	}
	if _, err := c.document.Caller(good, reply, now().Add(time.Hour), chat); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("an expired user: %v", err)
	}
	_, err := c.document.Caller(good, reply, now(), label(t, "GUEST"))
	untrusted(t, "an account that may not ask this", err)
	_, err = c.document.Caller(good, reply, now())
	untrusted(t, "where nobody may ask", err)
}

func TestPlatformLookups(t *testing.T) {
	c := newChain(t)
	p := c.document
	if r, ok := p.Region(reg(t, "sfo")); !ok || r.Name != reg(t, "sfo") {
		t.Error("Region does not find sfo")
	}
	if _, ok := p.Region(ident.Region{}); ok {
		t.Error("Region finds nothing's name")
	}
	if a, ok := p.Account(label(t, "CHAT")); !ok || a.Key != accKey(t, c.account) {
		t.Error("Account does not find CHAT")
	}
	if _, ok := p.Account(label(t, "chat")); ok {
		t.Error("accounts are told apart by case")
	}
	if r, ok := p.RegionOf("nats://127.0.0.1:5222"); !ok || r != reg(t, "sfo") {
		t.Error("RegionOf does not find sfo")
	}
	if _, ok := p.RegionOf("nats://127.0.0.1:1"); ok {
		t.Error("RegionOf finds a stranger")
	}
	if got := p.URLs(reg(t, "sfo")); strings.Join(got, " ") != "nats://127.0.0.1:5222 nats://127.0.0.1:4222" {
		t.Errorf("URLs: %v", got)
	}
	if !p.HasSealKey(p.Regions[0].SealKey) || p.HasSealKey(ident.SealKey{}) {
		t.Error("HasSealKey")
	}
}

// TestEncodeJWT holds the encoder against jwt/v2's, byte for byte.
func TestEncodeJWT(t *testing.T) {
	c := newChain(t)
	theirs := c.userClaims()
	s, err := theirs.Encode(c.role.Pair()) // sets iat and jti
	s = token(t, s, err)
	ours := c.userClaims()
	ours.IssuedAt, ours.ID = theirs.IssuedAt, theirs.ID
	if got := sign(t, ours, c.role); got != s {
		t.Errorf("a user JWT:\n got %s\nwant %s", got, s)
	}

	g := jwt.NewGenericClaims("somebody")
	g.Data["type"], g.Data["x"] = "custom", "y"
	s, err = g.Encode(c.signing.Pair())
	s = token(t, s, err)
	if got := sign(t, g, c.signing); got != s {
		t.Errorf("a generic JWT:\n got %s\nwant %s", got, s)
	}
	back, err := jwt.DecodeGeneric(sign(t, g, c.signing))
	if err != nil || back.Data["x"] != "y" || back.Issuer != c.signing.Public() {
		t.Errorf("read by jwt/v2: %+v %v", back, err)
	}
	pub, err := nkeys.FromPublicKey(c.signing.Public())
	if err != nil {
		t.Fatal(err)
	}
	i := strings.LastIndexByte(s, '.')
	if err := pub.Verify([]byte(s[:i]), unbase64(t, s[i+1:])); err != nil {
		t.Errorf("the signature by nkeys: %v", err)
	}
	if _, err := trust.EncodeJWT(make(chan int), c.signing); err == nil {
		t.Error("claims that cannot be encoded")
	}
	if _, err := trust.EncodeJWT(g, key(t, keystore.Curve)); err == nil {
		t.Error("a key that cannot sign")
	}
}

func TestIDsDiffer(t *testing.T) {
	pairs := [][2][]string{
		{{"ab", "c"}, {"a", "bc"}},
		{{"ab"}, {"a", "b"}},
		{{"a", ""}, {"", "a"}},
		{{"a"}, {"a", ""}},
		{{}, {""}},
		{{"1:a"}, {"", "a"}},
		{{"a1:b"}, {"a", "b"}},
		{{"11:a"}, {"1", ":a"}},
	}
	for _, p := range pairs {
		if trust.ID(p[0]...) == trust.ID(p[1]...) {
			t.Errorf("%q and %q have one id", p[0], p[1])
		}
	}
	part := rapid.SliceOfN(rapid.StringMatching(`[0-9:a]{0,3}`), 0, 4)
	rapid.Check(t, func(r *rapid.T) {
		a, b := part.Draw(r, "a"), part.Draw(r, "b")
		same := len(a) == len(b)
		for i := 0; same && i < len(a); i++ {
			same = a[i] == b[i]
		}
		if (trust.ID(a...) == trust.ID(b...)) != same {
			r.Fatalf("%q and %q", a, b)
		}
		if id := trust.ID(a...); len(id) != 52 {
			r.Fatalf("an id of %d characters", len(id))
		}
	})
}
