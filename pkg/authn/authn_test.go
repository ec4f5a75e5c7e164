package authn_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func userKey(k *keystore.Key) ident.UserKey { return must(ident.ParseUserKey(k.Public())) }

func now() time.Time { return time.Unix(1790000000, 0) }

func wants(t *testing.T, what string, err error, code wire.Code) {
	t.Helper()
	var werr *wire.Error
	if code == "" && err != nil || code != "" && (!errors.As(err, &werr) || werr.Code != code || werr.Hint == "") {
		t.Errorf("%s: %v, and not %q", what, err, code)
	}
}

func TestMethods(t *testing.T) {
	user := userKey(must(keystore.Generate(keystore.User)))
	m := authn.Methods{authn.Open{}}
	e := authn.Evidence{Request: wire.Request{UserKey: user, Identity: wire.Proof{Type: wire.ProofOpen}}}
	if who, err := m.Identify(t.Context(), e); err != nil || who.Identity != ident.OpenIdentity(user) || who.Granted != nil {
		t.Errorf("open: %+v %v", who, err)
	}
	for _, kind := range []string{"", "Open", "oidc", "access_key", "invite", "open:"} {
		e.Request.Identity.Type = kind
		who, err := m.Identify(t.Context(), e)
		wants(t, kind, err, wire.BadIdentity)
		if !who.Identity.IsZero() {
			t.Errorf("%q: %+v", kind, who)
		}
	}
	if who, err := m.Again(t.Context(), authn.Renewal{Identity: ident.OpenIdentity(user)}); err != nil || who.Identity != ident.OpenIdentity(user) {
		t.Errorf("open, again: %+v %v", who, err)
	}
	_, err := m.Again(t.Context(), authn.Renewal{Identity: ident.InviteIdentity(user)})
	wants(t, "of another kind, again", err, wire.BadIdentity)
}

func TestAccessKeys(t *testing.T) {
	key, other := must(keystore.Generate(keystore.User)), must(keystore.Generate(keystore.User))
	id := must(ident.ParseKeyID("HKAAAAAAAAAAAAAAAAAA"))
	body := []byte(`{"a":1}`)
	proof := must(wire.Prove(key, body))
	label := func(s string) ident.Label { return must(ident.ParseLabel(s)) }
	good := authn.KeyRecord{Public: userKey(key), Granted: []authn.Granted{{Account: label("ORDERS"), Role: label("service")}}}
	type asked struct {
		k *authn.KeyRecord
		e authn.Evidence
	}
	for _, tc := range []struct {
		what   string
		change func(*asked)
		code   wire.Code
	}{
		{"as it should be", func(*asked) {}, ""},
		{"from one of its networks", func(a *asked) {
			a.k.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
		}, ""},
		{"a second before its end", func(a *asked) { a.k.Expires = now().Add(time.Second) }, ""},
		{"no such key", func(a *asked) { a.e.Request.Identity.KeyID = must(ident.ParseKeyID("HKBBBBBBBBBBBBBBBBBB")) }, wire.BadIdentity},
		{"no key at all", func(a *asked) { a.e.Request.Identity.KeyID = ident.KeyID{} }, wire.BadIdentity},
		{"another kind of proof", func(a *asked) { a.e.Request.Identity.Type = wire.ProofOpen }, wire.BadIdentity},
		{"another's signature", func(a *asked) { a.e.Proofs = []string{must(wire.Prove(other, body))} }, wire.BadIdentity},
		{"of another body", func(a *asked) { a.e.Body = []byte(`{"a":2}`) }, wire.BadIdentity},
		{"no signature", func(a *asked) { a.e.Proofs = nil }, wire.BadIdentity},
		{"two signatures", func(a *asked) { a.e.Proofs = []string{proof, proof} }, wire.BadIdentity},
		{"at its end", func(a *asked) { a.k.Expires = now() }, wire.Expired},
		{"from elsewhere", func(a *asked) { a.k.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, wire.BadIdentity},
		{"from nobody knows where", func(a *asked) {
			a.k.Networks, a.e.Host = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, netip.Addr{}
		}, wire.BadIdentity},
		{"disabled", func(a *asked) { a.k.Disabled = true }, wire.Suspended},
		// Who does not hold the key learns nothing of it.
		{"another's signature, at its end", func(a *asked) {
			a.k.Expires, a.e.Proofs = now(), []string{must(wire.Prove(other, body))}
		}, wire.BadIdentity},
	} {
		k := good
		a := asked{&k, authn.Evidence{
			Request: wire.Request{UserKey: userKey(other), Identity: wire.Proof{Type: wire.ProofKey, KeyID: id}},
			Body:    body, Proofs: []string{proof}, Host: authn.Host("10.1.2.3"), Now: now(),
		}}
		tc.change(&a)
		m := authn.AccessKeys{Find: func(i ident.KeyID) (authn.KeyRecord, bool) { return k, i == id }}
		who, err := m.Identify(t.Context(), a.e)
		wants(t, tc.what, err, tc.code)
		if tc.code == "" && (who.Identity != ident.KeyIdentity(id) || len(who.Granted) != 1 || who.Until != k.Expires) || tc.code != "" && !who.Identity.IsZero() {
			t.Errorf("%s: %+v", tc.what, who)
		}
		if strings.HasPrefix(tc.what, "no such") || strings.HasPrefix(tc.what, "another's") {
			var werr *wire.Error
			if !errors.As(err, &werr) || werr.Message != "this access key is not known, or it did not sign this request" {
				t.Errorf("%s: %v", tc.what, err)
			}
		}
		// A renewal brings no signature; what else is asked holds then as well.
		r := authn.Renewal{Identity: ident.KeyIdentity(id), User: userKey(other), Host: a.e.Host, By: k.By(), Now: now()}
		_, err = m.Again(t.Context(), r)
		code := tc.code
		if code == wire.BadIdentity && len(k.Networks) == 0 {
			code = ""
		}
		if !k.Expires.After(now()) && !k.Expires.IsZero() {
			code = wire.Expired
		}
		wants(t, tc.what+", again", err, code)
	}
	m := authn.AccessKeys{Find: func(ident.KeyID) (authn.KeyRecord, bool) { return authn.KeyRecord{}, false }}
	_, err := m.Again(t.Context(), authn.Renewal{Identity: ident.KeyIdentity(id)})
	wants(t, "removed since", err, wire.BadIdentity)
	// A key without any role may do nothing, which is not everything.
	m = authn.AccessKeys{Find: func(ident.KeyID) (authn.KeyRecord, bool) { return authn.KeyRecord{Public: good.Public}, true }}
	if who, err := m.Again(t.Context(), authn.Renewal{Identity: ident.KeyIdentity(id), By: good.By(), Now: now()}); err != nil || who.Granted == nil {
		t.Errorf("a key without roles: %+v %v", who, err)
	}
}

func TestInvites(t *testing.T) {
	user := userKey(must(keystore.Generate(keystore.User)))
	granted := authn.Granted{Account: must(ident.ParseLabel("CHAT")), Role: must(ident.ParseLabel("member"))}
	used := map[ident.UserKey]bool{}
	m := authn.Invites{
		Redeem: func(_ context.Context, id ident.InviteID, e authn.Evidence) (authn.Granted, error) {
			if id != ident.InviteOf("HI-7K3M-9QXR-T2VB-4N8C-WJPX") {
				return authn.Granted{}, wire.Errorf(wire.BadIdentity, "hint", "no such invitation")
			}
			used[e.Request.UserKey] = true
			return granted, nil
		},
		Redeemed: func(u ident.UserKey) []authn.Granted {
			if !used[u] {
				return nil
			}
			return []authn.Granted{granted}
		},
	}
	e := authn.Evidence{Request: wire.Request{UserKey: user, Identity: wire.Proof{Type: wire.ProofInvite, Code: "HI-0000-0000-0000-0000-0000"}}}
	_, err := m.Identify(t.Context(), e)
	wants(t, "a wrong code", err, wire.BadIdentity)
	_, err = m.Again(t.Context(), authn.Renewal{Identity: ident.InviteIdentity(user), User: user})
	wants(t, "not known here yet", err, wire.Unavailable)
	e.Request.Identity.Code = "HI-7K3M-9QXR-T2VB-4N8C-WJPX"
	who, err := m.Identify(t.Context(), e)
	if err != nil || who.Identity != ident.InviteIdentity(user) || len(who.Granted) != 1 || who.Granted[0] != granted {
		t.Errorf("the right code: %+v %v", who, err)
	}
	if who, err := m.Again(t.Context(), authn.Renewal{Identity: ident.InviteIdentity(user), User: user}); err != nil || len(who.Granted) != 1 {
		t.Errorf("again: %+v %v", who, err)
	}
	for what, p := range map[string]wire.Proof{"no code": {Type: wire.ProofInvite}, "another kind": {Type: wire.ProofOpen, Code: "HI-7K3M-9QXR-T2VB-4N8C-WJPX"}} {
		e.Request.Identity = p
		_, err := m.Identify(t.Context(), e)
		wants(t, what, err, wire.BadIdentity)
	}
}

func TestHost(t *testing.T) {
	for s, want := range map[string]string{"10.1.2.3": "10.1.2.3", "::ffff:10.1.2.3": "10.1.2.3", "fe80::1%eth0": "fe80::1", "": "invalid IP", "host": "invalid IP", "10.1.2.3:4": "invalid IP"} {
		if got := authn.Host(s).String(); got != want {
			t.Errorf("%q: %s, and not %s", s, got, want)
		}
	}
}
