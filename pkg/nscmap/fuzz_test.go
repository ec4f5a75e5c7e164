package nscmap_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscmap"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// signed makes a token of any payload, so that the fuzzer gets past the signature.
func signed(t tb, payload []byte, by *keystore.Key) string {
	t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	body := enc([]byte(`{"typ":"JWT","alg":"ed25519-nkey"}`)) + "." + enc(payload)
	return body + "." + enc(must[[]byte](t)(by.Sign([]byte(body))))
}

func payload(t tb, token string) []byte {
	t.Helper()
	return must[[]byte](t)(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1]))
}

// rich is an account with something of everything.
func rich(m *maker, from *jwt.AccountClaims) *jwt.AccountClaims {
	c := m.account("A")
	c.Tags.Add("env:prod")
	c.Description, c.InfoURL, c.ClusterTraffic = "an account", "https://example.com", "owner"
	c.Limits.Conn, c.Limits.Payload, c.Limits.LeafNodeConn = 100, 4<<20, 2
	c.Limits.JetStreamTieredLimits = jwt.JetStreamTieredLimits{"R1": {DiskStorage: 1 << 30, Streams: 5}, "R3": {MemoryStorage: -1}}
	c.Exports.Add(
		&jwt.Export{Subject: "news.>", Type: jwt.Stream},
		&jwt.Export{Subject: "of.*.x", Type: jwt.Service, AccountTokenPosition: 2},
		&jwt.Export{Subject: "ask", Type: jwt.Service, Latency: &jwt.ServiceLatency{Results: "lat", Sampling: 10}, ResponseThreshold: time.Second},
	)
	c.Imports.Add(
		&jwt.Import{Account: from.Subject, Subject: "theirs.>", Type: jwt.Stream, LocalSubject: "here.>"},
		&jwt.Import{Account: from.Subject, Subject: "help", Type: jwt.Service, Share: true},
	)
	c.Mappings["m.*"] = []jwt.WeightedMapping{{Subject: "n.$1", Weight: 30}, {Subject: "o.$1", Weight: 70}}
	c.Trace = &jwt.MsgTrace{Destination: "trace"}
	s := m.role(c, "svc")
	s.Template.Pub.Deny.Add("q.secret")
	s.Template.Sub.Deny.Add("q.secret")
	s.Template.Resp = &jwt.ResponsePermission{MaxMsgs: 3}
	s.Template.Src.Add("10.0.0.0/8")
	s.Template.Times = []jwt.TimeRange{{Start: "08:00:00", End: "18:00:00"}}
	s.Template.Locale = "UTC"
	s.Template.AllowedConnectionTypes.Add("STANDARD")
	m.role(c, "reader").Template.Pub = jwt.Permission{Deny: jwt.StringList{">"}}
	c.RevokeAt(jwt.All, now())
	c.DefaultPermissions.Pub.Allow.Add("default")
	return c
}

// other is an account to import from.
func other(m *maker) *jwt.AccountClaims {
	c := m.account("OTHER")
	c.Exports.Add(&jwt.Export{Subject: "theirs.>", Type: jwt.Stream}, &jwt.Export{Subject: "help", Type: jwt.Service})
	return c
}

// FuzzAccount gives any account claims, beside good ones. Either all of them is refused by
// name, or what goes along says to servers what it said; and what is left out gives nobody
// more.
func FuzzAccount(f *testing.F) {
	m := newMaker(f)
	others := other(m)
	all := m
	c := rich(m, others)
	user := m.user(c, "u1", slices.Sorted(maps.Keys(c.SigningKeys))[0])
	m.accounts = m.accounts[:len(m.accounts)-1] // the input is in its place
	good := payload(f, m.sign(c, m.sk))
	f.Add(good)
	replace := func(old, with string) { f.Add([]byte(strings.Replace(string(good), old, with, 1))) }
	replace(`"name":"A"`, `"name":"AUTH"`)
	replace(`"name":"A"`, `"name":"a b"`)
	replace(`"allow":["q.\u003e"]`, `"allow":[]`)
	replace(`"pub":{"deny":["\u003e"]}`, `"pub":{"allow":[],"deny":["a"]}`)
	replace(`"allow":["q.\u003e"]`, `"allow":[""]`)
	replace(`"allow":["q.\u003e"]`, `"allow":["q.{{name()}}.\u003e"," x","a..b"]`)
	replace(`"allow":["q.\u003e"]`, `"deny":["q.{{tag(x)}}"]`)
	replace(`"allow":["q.\u003e"]`, `"allow":["\u003e"]`)
	replace(`{{subject()}}`, `{{sybject()}}`)
	replace(`"resp":{"max":3`, `"resp":{"max":-1`)
	replace(`"start":"08:00:00"`, `"start":"nonsense"`)
	replace(`"src":["10.0.0.0/8"]`, `"src":["nonsense","10.0.0.1/8"]`)
	replace(`"allowed_connection_types":["STANDARD"]`, `"allowed_connection_types":["STANDARD","NONE"],"proxy_required":true`)
	replace(`"role":"svc"`, `"role":"reader"`)
	replace(`"role":"svc"`, `"role":""`)
	replace(`"kind":"user_scope"`, `"kind":"user_scope","subs":0`)
	replace(`"weight":30`, `"weight":0`)
	replace(`"subject":"n.$1"`, `"subject":"n.$7"`)
	replace(`"conn":100`, `"conn":-100`)
	replace(`"leaf":2`, `"leaf":-1`)
	replace(`"R3":{`, `"R5":{`)
	replace(`"sampling":10`, `"sampling":"headers"`)
	replace(`"type":"stream"`, `"type":"stream","token_req":true`)
	replace(`"nats":{`, `"exp":1,"nats":{`)
	replace(`"nats":{`, `"aud":"x","nbf":1,"nats":{`)
	replace(`"nats":{`, `"nats":{"signing_keys":["`+m.key(keystore.Account).Public()+`"],"later":{"a":1},`)
	replace(`"nats":{`, `"nats":{"authorization":{"auth_users":["`+user.Key()+`"],"allowed_accounts":["*"]},`)
	replace(`"local_subject":"here.\u003e"`, `"to":"here"`)
	f.Fuzz(func(t *testing.T, data []byte) { anyClaims(t, all.fork(t), data, user) })
}

// TestAnyClaims is FuzzAccount with claims that are nearly good, and so come further.
func TestAnyClaims(t *testing.T) {
	all := newMaker(t)
	c := rich(all, other(all))
	user := all.user(c, "u1", slices.Sorted(maps.Keys(c.SigningKeys))[0])
	all.accounts = all.accounts[:len(all.accounts)-1]
	good := payload(t, all.sign(c, all.sk))
	rapid.Check(t, func(t *rapid.T) {
		var tree any
		if err := json.Unmarshal(good, &tree); err != nil {
			t.Fatal(err)
		}
		nats := tree.(map[string]any)["nats"].(map[string]any)
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			// Mostly where most is.
			if part := oneOf(t, "where", "", "signing_keys", "signing_keys", "signing_keys", "exports", "imports", "limits", "mappings", "trace", "tags"); part == "" || nats[part] == nil {
				tree = changed(t, tree)
			} else {
				nats[part] = changed(t, nats[part])
			}
		}
		anyClaims(t, all.fork(t), must[[]byte](t)(json.Marshal(tree)), user)
	})
}

// changed changes something somewhere in a tree of JSON.
func changed(t *rapid.T, v any) any {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			break
		}
		key := rapid.SampledFrom(slices.Sorted(maps.Keys(v))).Draw(t, "member")
		switch key {
		case "iss", "sub", "version", "type", "jti", "iat":
			if key != "type" || v["jti"] != nil {
				return v // what it is, and who signed it
			}
		}
		switch oneOf(t, "how", "in", "in", "in", "in", "away", "value") {
		case "away":
			delete(v, key)
		case "value":
			v[key] = odd(t)
		default:
			v[key] = changed(t, v[key])
		}
		return v
	case []any:
		if len(v) == 0 {
			return append(v, odd(t))
		}
		i := rapid.IntRange(0, len(v)-1).Draw(t, "element")
		switch oneOf(t, "how", "in", "in", "in", "away", "twice", "one more") {
		case "away":
			return slices.Delete(v, i, i+1)
		case "twice":
			return append(v, v[i])
		case "one more":
			return append(v, odd(t))
		default:
			v[i] = changed(t, v[i])
		}
		return v
	}
	return odd(t)
}

// odd are values that are good in one place or another, and in most are not.
func odd(t *rapid.T) any {
	return rapid.SampledFrom([]any{
		nil, true, false, 0, 1, -1, -2, 50, 100, 101, 1 << 20, 1 << 40, "", ">", "*", "a.>", "a.*", "a b", "a..b", "x", "_INBOX.>", "$SYS.>", "auth.v1.info", "_R_.x",
		"{{name()}}", "a.{{tag(x)}}", "{{ Subject() }}", "_INBOX_{{nome()}}.>", "q.{{subject()}}", "n.$1", "n.$2", "{{partition(3,1)}}", "R1", "R5", "STANDARD", "LEAFNODE", "owner",
		"10.0.0.1/8", "08:00:00", "23:59", "UTC", "Local", "stream", "service", "Stream", "Chunked", "reader", "svc", "CHAT", "a\x1b[2Jb", "a\nb", "\xff", "env:prod", "base:7",
		[]any{},
		[]any{""},
		[]any{"STANDARD"},
		map[string]any{},
		map[string]any{"allow": []any{}},
		map[string]any{"allow": []any{">"}, "deny": []any{"a"}},
		map[string]any{"deny": []any{">"}},
		map[string]any{"max": 1, "ttl": -1},
		map[string]any{"disk_storage": -1},
		map[string]any{"mem_storage": 5, "streams": -7},
	}).Draw(t, "odd")
}

// anyClaims moves an operator that has an account with these claims.
func anyClaims(t tb, m *maker, data []byte, user nscstore.User) {
	t.Helper()
	a, err := nscstore.ParseAccount(signed(t, data, m.sk))
	if err != nil || a.Claims().Issuer != m.sk.Public() || a.Name() == "OTHER" || a.Name() == "SYS" {
		return
	}
	if a.Claims().SigningKeys.Contains(user.Claims().Issuer) && a.Key() == user.Claims().IssuerAccount {
		a.Users = []nscstore.User{user}
	}
	s := m.store()
	if slices.ContainsFunc(s.Accounts, func(o nscstore.Account) bool { return o.Key() == a.Key() }) {
		return
	}
	s.Accounts = append(s.Accounts, a)
	moved, err := nscmap.From(s, nscmap.Options{Into: into(t), Now: now()})
	if err != nil {
		t.Fatal(err)
	}
	if len(moved.Refused) == 0 {
		equal(t, m, moved, s, a)
	}
	named := map[string]bool{}
	for _, i := range moved.Refused {
		if i.Item == "" || i.Why == "" || i.Hint == "" || i.Fatal || strings.ContainsAny(i.Why+i.Hint, "\n\r") {
			t.Errorf("refused as %+v", i)
		}
		named[i.Item] = true
	}
	less, err := nscmap.From(s, nscmap.Options{Into: into(t), Now: now(), All: true})
	if err != nil || len(less.Refused) > 0 {
		t.Fatalf("with everything left out: %v %+v", err, less)
	}
	for _, i := range items(moved.Refused) {
		if !slices.ContainsFunc(less.LeftOut, func(o nscmap.Item) bool { return o.Item == i || strings.HasPrefix(i, o.Item+"/") }) {
			t.Errorf("%q is refused, and not left out", i)
		}
	}
	// Left out by name, it is the same. What cannot be without an account comes once that
	// is left out.
	var again *nscmap.Moved
	for range 4 {
		again, err = nscmap.From(s, nscmap.Options{Into: into(t), Now: now(), LeaveOut: slices.Sorted(maps.Keys(named))})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range again.Refused {
			named[i.Item] = true
		}
	}
	if len(again.Refused) > 0 || string(again.File.Render()) != string(less.File.Render()) || !slices.Equal(items(again.LeftOut), items(less.LeftOut)) {
		t.Fatalf("left out by name: %+v", again)
	}
	noMore(t, m, less, a)
}

// equal holds what went along against what it was.
func equal(t tb, m *maker, moved *nscmap.Moved, s *nscstore.Store, a nscstore.Account) {
	t.Helper()
	made := m.made(moved)
	after := map[string]string{}
	for _, c := range made {
		after[c.Subject] = c.Name
	}
	was := a.Claims()
	i := slices.IndexFunc(slices.Collect(maps.Values(made)), func(c *jwt.AccountClaims) bool { return c.Subject == was.Subject })
	if i < 0 {
		t.Fatal("the account is gone, and nothing was refused")
	}
	is := made[after[was.Subject]]
	same(t, view(was, after), view(is, after))
	for key := range was.SigningKeys {
		x, _ := verdicts(t, was, key, asked())
		y, _ := verdicts(t, is, key, asked())
		if !slices.Equal(x, y) {
			t.Errorf("a role may do something else:\n%q\n%q", x, y)
		}
	}
	if len(moved.Users) != len(a.Users) && len(moved.Behind) == 0 {
		t.Errorf("%d users, of %d", len(moved.Users), len(a.Users))
	}
}

// noMore fails if somebody may do more than before.
func noMore(t tb, m *maker, less *nscmap.Moved, a nscstore.Account) {
	t.Helper()
	if p := less.File.Check(); len(p) > 0 {
		t.Fatalf("the description is refused: %v", p)
	}
	made, was := m.made(less), a.Claims()
	after := map[string]string{}
	for _, c := range made {
		after[c.Subject] = c.Name
	}
	is := made[after[was.Subject]]
	if is == nil {
		return
	}
	before, now := view(was, after), view(is, after)
	for _, k := range slices.Sorted(maps.Keys(now)) {
		kind, _, _ := strings.Cut(k, " ")
		if _, ok := before[k]; !ok || kind == "export" && now[k] != before[k] || kind == "jetstream" && now[k] != before[k] || kind == "callout" && now[k] != before[k] {
			t.Errorf("%s is %q, was %q", k, now[k], before[k])
		}
	}
	if _, callout := before["callout"]; callout && now["callout"] == "" {
		t.Errorf("nobody asks about users any more")
	}
	for key := range is.SigningKeys {
		if _, ok := was.SigningKeys[key].(*jwt.UserScope); !ok {
			t.Errorf("%s was no role", key)
			continue
		}
		_, x := verdicts(t, was, key, asked())
		_, y := verdicts(t, is, key, asked())
		for what, may := range y {
			if may && !x[what] {
				t.Errorf("a role may %s, and might not", what)
			}
		}
		if now["role "+key] != before["role "+key] {
			// A text may be left out, and nothing else.
			i, j := is.SigningKeys[key].(*jwt.UserScope).Template, was.SigningKeys[key].(*jwt.UserScope).Template
			if limitsView(i, is.Limits) != limitsView(j, was.Limits) {
				t.Errorf("a role is %q, was %q", now["role "+key], before["role "+key])
			}
		}
	}
}
