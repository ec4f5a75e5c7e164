package ledger_test

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

func invite(t testing.TB, uses int) ledger.Invite {
	t.Helper()
	return ledger.Invite{
		Account: ledgertest.Label(t, "CHAT"), Role: ledgertest.Label(t, "member"), Uses: uses, Expires: now().Add(day).Unix(),
	}
}

func TestInvite(t *testing.T) {
	h := newHome(t)
	h.Advance(3 * day) // entries are dated by the steps
	id, a, b, c := ident.InviteOf("code"), ledgertest.User(t), ledgertest.User(t), ledgertest.User(t)
	_, err := h.Redeem(t.Context(), id, a, "n", now())
	want(t, "redeeming what is not there", err, ledger.ErrNotFound)
	made, err := h.CreateInvite(t.Context(), id, invite(t, 2), now())
	want(t, "creating", err, nil)
	again, err := h.CreateInvite(t.Context(), id, invite(t, 2), now().Add(time.Second))
	if err != nil || again.Token != made.Token {
		t.Errorf("created again, as after a lost answer: another entry, %v", err)
	}
	_, err = h.CreateInvite(t.Context(), id, invite(t, 3), now())
	want(t, "creating another", err, ledger.ErrOld)

	first, err := h.Redeem(t.Context(), id, a, "n1", now())
	want(t, "the first", err, nil)
	for _, nonce := range []string{"n1", "n2"} {
		if e, err := h.Redeem(t.Context(), id, a, nonce, now()); err != nil || e.Token != first.Token {
			t.Errorf("the same user again, with nonce %s: another entry, %v", nonce, err)
		}
	}
	again, err = h.CreateInvite(t.Context(), id, invite(t, 2), now())
	if err != nil || again.Token != first.Token {
		t.Errorf("created again after it was redeemed: %v", err)
	}
	_, err = h.Redeem(t.Context(), id, b, "n1", now().Add(day-time.Second))
	want(t, "the second", err, nil)
	_, err = h.Redeem(t.Context(), id, c, "n3", now())
	want(t, "one too many", err, ledger.ErrSpent)
	_, err = h.Redeem(t.Context(), id, c, "n3", now().Add(day))
	want(t, "too late", err, ledger.ErrExpired)
	e, err := h.Redeem(t.Context(), id, a, "n4", now().Add(2*day))
	want(t, "whoever has redeemed it, later", err, nil)
	if i := e.Body.(ledger.Invite); i.Left() != 0 || len(i.Redeemed) != 2 || i.Redeemed[0] != (ledger.Redemption{User: a, Nonce: "n1", At: now().Unix()}) {
		t.Errorf("%+v", i)
	}
	gone, err := h.RevokeInvite(t.Context(), id, now())
	if err != nil || !gone.Denies {
		t.Errorf("revoking: %+v %v", gone, err)
	}
	again, err = h.RevokeInvite(t.Context(), id, now())
	if err != nil || again.Token != gone.Token {
		t.Errorf("revoking again: %v", err)
	}
	_, err = h.Redeem(t.Context(), id, a, "n1", now())
	want(t, "redeeming what was revoked", err, ledger.ErrNotFound)
	_, err = h.CreateInvite(t.Context(), id, invite(t, 2), now())
	want(t, "creating what was revoked", err, ledger.ErrOld)
	_, err = h.RevokeInvite(t.Context(), ident.InviteOf("other"), now())
	want(t, "revoking what is not there", err, ledger.ErrNotFound)
}

func TestInviteOutOfShape(t *testing.T) {
	h := newHome(t)
	for what, change := range map[string]func(*ledger.Invite){
		"no role":    func(i *ledger.Invite) { i.Role = ident.Label{} },
		"no account": func(i *ledger.Invite) { i.Account = ident.Label{} },
		"no use":     func(i *ledger.Invite) { i.Uses = 0 },
		"endless":    func(i *ledger.Invite) { i.Uses = ledger.MaxUses + 1 },
		"no end":     func(i *ledger.Invite) { i.Expires = 0 },
		"redeemed":   func(i *ledger.Invite) { i.Redeemed = []ledger.Redemption{{}} },
	} {
		i := invite(t, 2)
		change(&i)
		_, err := h.CreateInvite(t.Context(), ident.InviteOf(what), i, now())
		want(t, what, err, ledger.ErrDamaged)
	}
	if h.writes(t) != 0 {
		t.Error("something was written")
	}
}

// An entry of an invitation that was used as often as may be is still an entry.
func TestLargestInvite(t *testing.T) {
	h := newHome(t)
	id, i := ident.InviteOf("large"), invite(t, ledger.MaxUses)
	user := ledgertest.User(t)
	for range ledger.MaxUses {
		i.Redeemed = append(i.Redeemed, ledger.Redemption{User: user, Nonce: "AAAAAAAAAAAAAAAAAAAAAA", At: now().Unix()})
	}
	e := h.Entry(t, ledger.InviteKey(id), 1, false, now(), i)
	if len(e.Token) > trust.MaxEntry/2 {
		t.Errorf("its token has %d bytes", len(e.Token))
	}
}

func TestAccessKey(t *testing.T) {
	h := newHome(t)
	id := keyID(t, "HKABCDEFGHIJKLMNOPQR")
	a := ledger.AccessKey{
		Public: ledgertest.User(t), Owner: "ops", Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Grants: []authn.Granted{{Account: ledgertest.Label(t, "CHAT"), Role: ledgertest.Label(t, "member"), Name: name(t, "bot")}},
	}
	_, err := h.RemoveAccessKey(t.Context(), id, now())
	want(t, "removing what is not there", err, ledger.ErrNotFound)
	_, err = h.PutAccessKey(t.Context(), id, ledger.AccessKey{}, 0, now())
	want(t, "a key out of shape", err, ledger.ErrDamaged)
	first, err := h.PutAccessKey(t.Context(), id, a, 0, now())
	want(t, "a new key", err, nil)
	again, err := h.PutAccessKey(t.Context(), id, a, 0, now())
	if err != nil || again.Token != first.Token {
		t.Errorf("put again, as after a lost answer: another entry, %v", err)
	}
	a.Owner = "others"
	_, err = h.PutAccessKey(t.Context(), id, a, 0, now())
	want(t, "upon another version", err, ledger.ErrOld)
	second, err := h.PutAccessKey(t.Context(), id, a, 1, now())
	if err != nil || second.Version != 2 || second.Body.(ledger.AccessKey).Owner != "others" {
		t.Errorf("%+v %v", second, err)
	}
	h.holds(t, second)
	gone, err := h.RemoveAccessKey(t.Context(), id, now())
	if err != nil || !gone.Denies || gone.Version != 3 {
		t.Errorf("removing: %+v %v", gone, err)
	}
	_, err = h.PutAccessKey(t.Context(), id, a, 3, now())
	want(t, "putting back what was removed for good", err, ledger.ErrNotFound)
	h.holds(t, gone)
}

// accountJWT is an account's claims as a registrar signs them: version says 1 and so on,
// 0 says nothing.
func accountJWT(t testing.TB, account, by *keystore.Key, label string, version uint64) string {
	t.Helper()
	c := jwt.NewAccountClaims(account.Public())
	c.Name = label
	if version > 0 {
		c.Tags.Add(trust.TagBase + strconv.FormatUint(version, 10))
	}
	return must[string](t)(c.Encode(by.Pair()))
}

func TestBase(t *testing.T) {
	h, other := newHome(t), ledgertest.NewPlatform(t, "other", now())
	account := h.Key(t, keystore.Account, "account CHAT")
	key := h.Account(t, "CHAT")
	one, two := accountJWT(t, account, h.Signing[0], "one", 1), accountJWT(t, account, h.Signing[1], "two", 2)
	for what, token := range map[string]string{
		"nothing": "", "garbage": "x", "a stranger's": accountJWT(t, account, other.Signing[0], "x", 1),
		"its own": accountJWT(t, account, account, "x", 1), "another account's": accountJWT(t, h.Key(t, keystore.Account, "x"), h.Signing[0], "x", 1),
		"cut off": one[:len(one)-2], "without a version": accountJWT(t, account, h.Signing[0], "x", 0), "of the next version": two,
	} {
		_, err := h.PutBase(t.Context(), key, ledger.Base{JWT: token}, 0, now())
		want(t, what, err, ledger.ErrDamaged)
		// And where somebody signed that into an entry, it is not read.
		entry := h.Token(t, h.Signing[0], trust.Entry{Subject: ledger.BaseKey(key).String(), Version: 1, At: now().UnixMilli()}, ledger.Base{JWT: token})
		_, err = h.Opener().Open(ledger.BaseKey(key).String(), entry)
		want(t, what+" in an entry", err, ledger.ErrDamaged)
	}
	first, err := h.PutBase(t.Context(), key, ledger.Base{JWT: one}, 0, now())
	want(t, "new", err, nil)
	if again, err := h.PutBase(t.Context(), key, ledger.Base{JWT: one}, 0, now()); err != nil || again.Token != first.Token {
		t.Errorf("the same again: %v", err)
	}
	_, err = h.PutBase(t.Context(), key, ledger.Base{JWT: one}, 1, now())
	want(t, "the same as the next version", err, ledger.ErrDamaged)
	_, err = h.PutBase(t.Context(), key, ledger.Base{JWT: accountJWT(t, account, h.Signing[0], "three", 1)}, 0, now())
	want(t, "upon another version", err, ledger.ErrOld)
	_, err = h.PutBase(t.Context(), key, ledger.Base{JWT: accountJWT(t, account, h.Signing[0], "three", 3)}, 2, now())
	want(t, "upon a version that is not there yet", err, ledger.ErrOld)
	second, err := h.PutBase(t.Context(), key, ledger.Base{JWT: two}, 1, now())
	if err != nil || second.Version != 2 {
		t.Errorf("%+v %v", second, err)
	}
	// Who looked at an older platform document than the one whose keys are there is too late.
	three, four := accountJWT(t, account, h.Signing[0], "three", 3), accountJWT(t, account, h.Signing[0], "four", 4)
	_, err = h.PutBase(t.Context(), key, ledger.Base{JWT: three, Follows: 7}, 2, now())
	want(t, "by a later document", err, nil)
	_, err = h.PutBase(t.Context(), key, ledger.Base{JWT: four, Follows: 6}, 3, now())
	want(t, "by an older document", err, ledger.ErrOld)
	_, err = h.PutBase(t.Context(), key, ledger.Base{JWT: four, Follows: 7}, 3, now())
	want(t, "by the same document", err, nil)
}

// Whatever is put upon whatever, what the ledger has says the entry's version: registrars
// go by the JWT, deciders by the entry.
func TestBaseSaysItsVersion(t *testing.T) {
	h := newHome(t)
	account, key := h.Key(t, keystore.Account, "account CHAT"), h.Account(t, "CHAT")
	rapid.Check(t, func(r *rapid.T) {
		version := uint64(rapid.IntRange(0, 6).Draw(r, "version"))
		was := uint64(rapid.IntRange(0, 6).Draw(r, "was"))
		token := accountJWT(t, account, h.Signing[0], rapid.SampledFrom([]string{"a", "b"}).Draw(r, "name"), version)
		e, err := h.PutBase(t.Context(), key, ledger.Base{JWT: token}, was, now())
		if err == nil && (e.Version != version || e.Version != was+1) {
			r.Errorf("a JWT of version %d upon %d is an entry of version %d", version, was, e.Version)
		}
		cur, _, err := h.Store.Get(t.Context(), ledger.BaseKey(key))
		if errors.Is(err, ledger.ErrNotFound) {
			return
		}
		if err != nil {
			r.Fatal(err)
		}
		stored, err := h.Opener().Open(ledger.BaseKey(key).String(), cur)
		if err != nil {
			r.Fatal(err)
		}
		a, err := h.Operator.OpenAccount(stored.Body.(ledger.Base).JWT)
		if err != nil || a.Version != stored.Version {
			r.Errorf("an entry of version %d with a JWT of version %d: %v", stored.Version, a.Version, err)
		}
	})
}

// A projection gives the base claims of accounts that are there.
func TestBases(t *testing.T) {
	p := ledgertest.NewPlatform(t, "bases", now())
	known := ledger.NewProjection(nil)
	put := func(label string, version uint64, denies bool) string {
		token := accountJWT(t, p.Key(t, keystore.Account, "account "+label), p.Signing[0], label, version)
		known.Apply(p.Entry(t, ledger.BaseKey(p.Account(t, label)), version, denies, now(), ledger.Base{JWT: token}))
		return token
	}
	put("ONE", 1, false)
	want := []string{put("ONE", 2, false), put("TWO", 1, false)}
	put("GONE", 1, false)
	put("GONE", 2, true)
	known.Apply(p.Entry(t, ledger.NameKey(ledgertest.Name(t, "x")), 1, false, now(), ledger.Name{Holder: ident.OpenIdentity(ledgertest.User(t))}))
	var got []string
	for _, e := range known.Bases() {
		got = append(got, e.Body.(ledger.Base).JWT)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d bases, want %d", len(got), len(want))
	}
}

func TestDocument(t *testing.T) {
	h := newHome(t)
	doc := func(epoch, number uint32) string { return h.Document(t, epoch, number) }
	first, err := h.PutDocument(t.Context(), doc(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	d := first.Body.(*ledger.Document)
	if d.Public.Version.String() != "1.1" || d.Names != ledger.DefaultNameRules() || len(d.Policy.Offers) != 1 {
		t.Errorf("%+v", d)
	}
	if pub, err := h.Operator.OpenPlatform(d.PublicToken); err != nil || pub.Version != d.Public.Version {
		t.Errorf("what clients are given: %v", err)
	}
	_, err = h.PutDocument(t.Context(), doc(1, 1))
	want(t, "the same", err, nil)
	_, err = h.PutDocument(t.Context(), doc(1, 7))
	want(t, "a newer one", err, nil)
	for _, old := range []string{doc(1, 6), doc(1, 1)} {
		_, err = h.PutDocument(t.Context(), old)
		want(t, "an older one", err, ledger.ErrOld)
	}
	h.Advance(time.Second)
	_, err = h.PutDocument(t.Context(), doc(1, 7))
	want(t, "another of the same version", err, ledger.ErrOld)
	_, err = h.PutDocument(t.Context(), doc(1, 1<<32-1))
	want(t, "the last number of an epoch", err, nil)
	last, err := h.PutDocument(t.Context(), doc(2, 1))
	want(t, "the operator's next epoch", err, nil)
	h.holds(t, last)

	p := ledger.NewProjection(nil)
	if d, _ := p.Document(); d != nil {
		t.Error("a document from nowhere")
	}
	p.Apply(last)
	p.Apply(first) // older: is not obeyed
	if d, e := p.Document(); d == nil || d.Public.Version.String() != "2.1" || e.Token != last.Token {
		t.Errorf("%+v", d)
	}
}

// TestDocumentTells: clients are told how they can show who they are, and by whose tokens,
// and nothing of who gets what.
func TestDocumentTells(t *testing.T) {
	h := newHome(t)
	corp := oidc.Provider{
		Name: ledgertest.Label(t, "corp"), Issuer: "https://login.example.com", Audiences: []string{"cli", "web"},
		Required: map[string][]string{"hd": {"secret.example"}},
	}
	robots := corp
	robots.Name, robots.Issuer, robots.Tokens = ledgertest.Label(t, "robots"), "https://robots.example.com", []string{oidc.TokenAccess, oidc.TokenID}
	key := ident.KeyIdentity(keyID(t, "HKABCDEFGHIJKLMNOPQR"))
	to := func(change func(*policy.Offer)) policy.Offer {
		o := h.Policy(t).Offers[0]
		o.Kind = ""
		change(&o)
		return o
	}
	for what, c := range map[string]struct {
		offers    []policy.Offer
		named     []policy.Named
		providers []oidc.Provider
		ways      []string
	}{
		"a kind":                       {offers: []policy.Offer{to(func(o *policy.Offer) { o.Kind = ident.KindInvite })}, ways: []string{"invite"}},
		"an identity":                  {offers: []policy.Offer{to(func(o *policy.Offer) { o.Identity = &key })}, ways: []string{"access_key"}},
		"everybody":                    {offers: []policy.Offer{to(func(o *policy.Offer) { o.Everyone = true })}, ways: []string{"open", "invite", "access_key"}},
		"everybody, with providers":    {offers: []policy.Offer{to(func(o *policy.Offer) { o.Everyone = true })}, providers: []oidc.Provider{corp, robots}, ways: []string{"open", "invite", "access_key", "oidc"}},
		"logins, and no provider":      {offers: []policy.Offer{to(func(o *policy.Offer) { o.Kind = ident.KindOIDC })}},
		"a category":                   {offers: []policy.Offer{to(func(o *policy.Offer) { o.Category = "services" })}, named: []policy.Named{{Name: name(t, "services.mail"), Identity: key}}, ways: []string{"access_key"}},
		"a category that nobody is in": {offers: []policy.Offer{to(func(o *policy.Offer) { o.Category = "service" })}, named: []policy.Named{{Name: name(t, "services.mail"), Identity: key}}},
	} {
		d := ledger.Document{Public: h.Public(t, 1, 1), Policy: policy.Policy{Offers: c.offers, Identities: c.named}, Names: ledger.DefaultNameRules(), Providers: c.providers}
		token, err := d.Sign(h.Platform.Signer(0), now())
		if err != nil {
			t.Fatal(err)
		}
		e, err := h.Opener().Open(ledger.PlatformKey().String(), token)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		opened := e.Body.(*ledger.Document)
		if got := opened.Public.Ways; !slices.Equal(got, c.ways) {
			t.Errorf("%s: ways %q, and not %q", what, got, c.ways)
		}
		if got := opened.Public.Providers; len(got) != len(c.providers) {
			t.Errorf("%s: %+v", what, got)
		} else if len(got) > 0 {
			want := []trust.Provider{
				{Name: corp.Name, Issuer: corp.Issuer, Audiences: corp.Audiences, Tokens: []string{"id"}},
				{Name: robots.Name, Issuer: robots.Issuer, Audiences: robots.Audiences, Tokens: []string{"access", "id"}},
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v", what, got)
			}
			_, payload, _ := strings.Cut(opened.PublicToken, ".")
			payload, _, _ = strings.Cut(payload, ".")
			text, err := base64.RawURLEncoding.DecodeString(payload)
			if err != nil || strings.Contains(string(text), "secret.example") || !strings.Contains(string(text), corp.Issuer) {
				t.Errorf("%s: clients are given %s, %v", what, text, err)
			}
		}
	}
}

// What is stored is mended by a newer document, which its signer made for that.
func TestDocumentOverWhatIsDamagedOrLost(t *testing.T) {
	h := newHome(t)
	key := ledger.PlatformKey()
	if err := h.store.Put(t.Context(), key, "damaged", 0); err != nil {
		t.Fatal(err)
	}
	h.Known = func(ledger.Key) uint64 { return trust.Version{Epoch: 1, Number: 5}.Rank() }
	_, err := h.PutDocument(t.Context(), h.Document(t, 1, 4))
	want(t, "one older than what was seen", err, ledger.ErrOld)
	e, err := h.PutDocument(t.Context(), h.Document(t, 1, 5))
	want(t, "the one that was seen", err, nil)
	h.holds(t, e)
	fresh := newHome(t)
	fresh.Known = h.Known
	_, err = fresh.PutDocument(t.Context(), h.Document(t, 1, 6))
	want(t, "where everything is lost", err, nil)
}

func TestDocumentsThatAreRefused(t *testing.T) {
	h, other := newHome(t), ledgertest.NewPlatform(t, "other", now())
	key := ledger.PlatformKey().String()
	// document signs one out of parts, which may be at odds.
	document := func(change func(e *trust.Entry, pub *trust.Platform, body map[string]any)) string {
		pub := h.Public(t, 1, 3)
		e := trust.Entry{Subject: key, Version: pub.Version.Rank(), At: now().UnixMilli()}
		body := map[string]any{"policy": h.Policy(t), "names": ledger.DefaultNameRules()}
		change(&e, pub, body)
		if body["public"] == nil {
			body["public"] = must[string](t)(pub.Sign(h.Signing[0], now()))
		}
		return h.Token(t, h.Signing[0], e, body)
	}
	offers := func(change func(m map[string]any)) map[string]any {
		m := map[string]any{"kind": "open", "account": "CHAT", "role": "member", "default": 60, "longest": 600}
		change(m)
		return map[string]any{"offers": []any{m}}
	}
	type (
		entry  = *trust.Entry
		public = *trust.Platform
		body   = map[string]any
	)
	good := document(func(entry, public, body) {})
	_, err := h.Opener().Open(key, good)
	want(t, "a good one", err, nil)
	forged, err := trust.EncodeJWT(map[string]any{
		"iss": h.Signing[0].Public(), "sub": h.Root.Public(), "iat": now().Unix(),
		"nats": body{"type": "herald-epoch", "version": 2, "body": body{"epoch": 1}},
	}, h.Signing[0])
	want(t, "forging", err, nil)
	for what, token := range map[string]string{
		"nothing": "", "garbage": "x", "cut off": good[:len(good)-1], "a stranger's": other.Document(t, 1, 3),
		"a name's": h.Entry(t, ledger.NameKey(name(t, "alice")), 1, false, now(), ledger.Name{Holder: open(t)}).Token,
		"a stranger's public part": document(func(_ entry, _ public, b body) {
			b["public"] = must[string](t)(h.Public(t, 1, 3).Sign(other.Signing[0], now()))
		}),
		"another platform's public": document(func(_ entry, _ public, b body) {
			b["public"] = must[string](t)(other.Public(t, 1, 3).Sign(h.Signing[0], now()))
		}),
		"no public part":              document(func(_ entry, _ public, b body) { b["public"] = "" }),
		"a version of its own":        document(func(e entry, _ public, _ body) { e.Version++ }),
		"a tombstone":                 document(func(e entry, _ public, _ body) { e.Denies = true }),
		"an epoch nobody proved":      document(func(_ entry, p public, _ body) { p.EpochProof = "" }),
		"an epoch proved for another": document(func(e entry, p public, _ body) { p.Version.Epoch = 2; e.Version = p.Version.Rank() }),
		"an epoch by a signing key": document(func(_ entry, p public, _ body) {
			p.EpochProof = must[string](t)(trust.SignEpoch(h.Signing[0], 1, ident.Region{}, now()))
		}),
		"an epoch by a signing key in the operator's name": document(func(_ entry, p public, _ body) { p.EpochProof = forged }),
		"an epoch by another operator": document(func(_ entry, p public, _ body) {
			p.EpochProof = must[string](t)(trust.SignEpoch(other.Root, 1, ident.Region{}, now()))
		}),
		"no number":                     document(func(e entry, p public, _ body) { p.Version.Number = 0; e.Version = p.Version.Rank() }),
		"a home that is no region":      document(func(_ entry, p public, _ body) { p.Home = must[ident.Region](t)(ident.ParseRegion("nrt")) }),
		"no region":                     document(func(_ entry, p public, _ body) { p.Regions = nil }),
		"no policy":                     document(func(_ entry, _ public, b body) { delete(b, "policy") }),
		"no rules for names":            document(func(_ entry, _ public, b body) { delete(b, "names") }),
		"names that never rest":         document(func(_ entry, _ public, b body) { b["names"] = ledger.NameRules{Lapse: 1, Rest: -1, Step: 1} }),
		"a role of no account":          document(func(_ entry, _ public, b body) { b["policy"] = offers(func(m body) { m["account"] = "NONE" }) }),
		"a role that the account lacks": document(func(_ entry, _ public, b body) { b["policy"] = offers(func(m body) { m["role"] = "none" }) }),
		"lifetimes out of order":        document(func(_ entry, _ public, b body) { b["policy"] = offers(func(m body) { m["default"] = 601 }) }),
		"a home that the operator key does not name": document(func(_ entry, p public, _ body) {
			p.EpochProof = must[string](t)(trust.SignEpoch(h.Root, 1, must[ident.Region](t)(ident.ParseRegion("nrt")), now()))
		}),
		"a move in an epoch that there was not": document(func(_ entry, _ public, b body) {
			b["moves"] = []any{body{"epoch": 2, "from": "nrt", "to": "ams", "last": 1, "at": 1}}
		}),
		"a move in the first epoch": document(func(_ entry, _ public, b body) {
			b["moves"] = []any{body{"epoch": 1, "from": "nrt", "to": "ams", "last": 1, "at": 1}}
		}),
		"a move from nowhere": document(func(_ entry, _ public, b body) { b["moves"] = []any{body{"epoch": 1, "to": "ams"}} }),
		"a body that is none": h.Token(t, h.Signing[0], trust.Entry{Subject: key, Version: h.Public(t, 1, 3).Version.Rank(), At: now().UnixMilli()}, "x"),
	} {
		_, err := h.PutDocument(t.Context(), token)
		want(t, what, err, ledger.ErrDamaged)
	}
	_, err = h.PutDocument(t.Context(), document(func(e entry, _ public, _ body) { e.At = now().Add(ledger.MaxAhead + time.Millisecond).UnixMilli() }))
	want(t, "from the future", err, ledger.ErrAhead)
	if h.writes(t) != 0 {
		t.Error("something was written")
	}
}
