package nscstore_test

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// resign changes what a token says and signs it as it then is.
func (m *maker) resign(token string, by *keystore.Key, change func(claims, nats map[string]any)) string {
	m.t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		m.t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		m.t.Fatal(err)
	}
	change(claims, claims["nats"].(map[string]any))
	if payload, err = json.Marshal(claims); err != nil {
		m.t.Fatal(err)
	}
	body := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	sig, err := by.Sign([]byte(body))
	if err != nil {
		m.t.Fatal(err)
	}
	return body + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func TestLost(t *testing.T) {
	m := newMaker(t)
	s, k := m.all()
	if l := s.Operator.Lost(); len(l) != 0 {
		t.Errorf("of a known operator %q", l)
	}
	for _, a := range s.Accounts {
		if l := a.Lost(); len(l) != 0 {
			t.Errorf("of a known account %q", l)
		}
		for _, u := range a.Users {
			if l := u.Lost(); len(l) != 0 {
				t.Errorf("of a known user %q", l)
			}
		}
	}
	for _, tt := range []struct {
		what   string
		change func(claims, nats map[string]any)
		want   []string
	}{
		{"nothing", func(_, _ map[string]any) {}, nil},
		{"empty members", func(c, n map[string]any) {
			c["x"], n["y"], n["z"], n["v"] = "", map[string]any{"a": 0}, []any{}, nil
		}, nil},
		{"unknown members", func(c, n map[string]any) { c["x"], n["y"] = "z", map[string]any{"a": true} }, []string{"nats.y", "x"}},
		{"one below", func(_, n map[string]any) { n["limits"].(map[string]any)["new"] = 1 }, []string{"nats.limits.new"}},
		{"one of a scope, and keys in another order", func(_, n map[string]any) {
			keys := n["signing_keys"].([]any)
			slices.Reverse(keys)
			for _, k := range keys {
				if k, ok := k.(map[string]any); ok {
					k["template"].(map[string]any)["new"] = "x"
				}
			}
		}, []string{"nats.signing_keys[1].template.new"}},
		{"limits beside tiers", func(_, n map[string]any) {
			l := n["limits"].(map[string]any)
			l["streams"], l["tiered_limits"] = 5, map[string]any{"R1": map[string]any{"mem_storage": 1}}
		}, []string{"nats.limits.streams"}},
		{"a large number", func(_, n map[string]any) { n["limits"].(map[string]any)["data"] = int64(1)<<62 + 1 }, nil},
	} {
		a, err := nscstore.ParseAccount(m.resign(s.Accounts[0].Token(), m.sk, tt.change))
		if err != nil {
			t.Errorf("%s: %v", tt.what, err)
			continue
		}
		got := a.Lost()
		for i := range got {
			if strings.Contains(got[i], "signing_keys[") {
				got[i] = "nats.signing_keys[1]" + got[i][len("nats.signing_keys[1]"):]
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, not %q", tt.what, got, tt.want)
		}
	}
	op, err := nscstore.ParseOperator(m.resign(s.Operator.Token(), m.op, func(_, n map[string]any) { n["new"] = "x" }))
	if err != nil || !slices.Equal(op.Lost(), []string{"nats.new"}) {
		t.Errorf("operator: %v", err)
	}
	u, err := nscstore.ParseUser(m.resign(s.Accounts[0].Users[0].Token(), k["A/role"], func(_, n map[string]any) { n["new"] = "x" }))
	if err != nil || !slices.Equal(u.Lost(), []string{"nats.new"}) {
		t.Errorf("user: %v", err)
	}
}

// TestClaimsStay: looking at claims does not change them. jwt/v2 sets a
// sampling that is not set when it validates.
func TestClaimsStay(t *testing.T) {
	m := newMaker(t)
	c := m.accountClaims("A", m.key(keystore.Account))
	c.Trace = &jwt.MsgTrace{Destination: "trace.x"}
	if a := m.account(c); a.Claims().Trace.Sampling != 0 || len(a.Lost()) != 0 {
		t.Errorf("sampling is %d now, lost %q", a.Claims().Trace.Sampling, a.Lost())
	}
}
