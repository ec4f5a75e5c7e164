package nscmap_test

import (
	"fmt"
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

// drawn are random accounts of which everything goes along, in all the spellings that
// servers do not tell apart.
func drawn(t *rapid.T, m *maker) {
	n := rapid.IntRange(1, 3).Draw(t, "accounts")
	var all []*jwt.AccountClaims
	for i := range n {
		c := m.account(fmt.Sprintf("ACC%d", i))
		draw(t, m, c)
		all = append(all, c)
	}
	for i, c := range all {
		for k, from := range all[:i] { // never in a circle
			drawImports(t, m, c, from, fmt.Sprint(k))
		}
	}
}

func flip(t *rapid.T, what string) bool { return rapid.Bool().Draw(t, what) }

func oneOf[T any](t *rapid.T, what string, of ...T) T { return rapid.SampledFrom(of).Draw(t, what) }

func draw(t *rapid.T, m *maker, c *jwt.AccountClaims) {
	c.Description = oneOf(t, "description", "", "what it is for", "two\nlines", `"quoted": #x`)
	c.InfoURL = oneOf(t, "url", "", "https://example.com/a?b=c")
	c.Tags.Add(oneOf(t, "tags", nil, []string{"env:prod", "two"})...)
	l := &c.Limits
	l.Conn, l.Subs = oneOf[int64](t, "conn", -1, 0, 7), oneOf[int64](t, "subs", -1, 0, 1000)
	l.LeafNodeConn = oneOf[int64](t, "leaf", -1, 0, 3, 1<<40)
	l.Data, l.Payload = oneOf[int64](t, "data", -1, 0, 1e9), oneOf[int64](t, "payload", -1, 1000, 1<<20, 8<<20, 1<<40)
	l.Imports, l.Exports = oneOf[int64](t, "imports", -1, 50), oneOf[int64](t, "exports", -1, 60)
	l.DisallowBearer = flip(t, "no bearers")
	c.ClusterTraffic = oneOf[jwt.ClusterTraffic](t, "traffic", "", "system", "owner")
	if flip(t, "trace") {
		c.Trace = &jwt.MsgTrace{Destination: "trace.x", Sampling: oneOf(t, "sampling", 0, 1, 100)}
	}
	drawStreams(t, l)
	drawExports(t, c)
	if flip(t, "mapping") {
		c.Mappings["m.*"] = []jwt.WeightedMapping{
			{Subject: "n.$1", Weight: oneOf[uint8](t, "weight", 30, 60)}, {Subject: "o.$1", Weight: 40}, {Subject: "p.$1", Weight: oneOf[uint8](t, "in ams", 0, 20), Cluster: "ams"},
		}
	}
	if flip(t, "mapping whole") {
		c.Mappings["w.x"] = []jwt.WeightedMapping{{Subject: "w.y", Weight: oneOf[uint8](t, "whole", 0, 100)}}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "roles") {
		drawRole(t, m, c, oneOf(t, "role", fmt.Sprintf("role%d", i), ""))
	}
	if flip(t, "default permissions") {
		c.DefaultPermissions.Pub.Allow.Add("default.>")
		c.DefaultPermissions.Sub.Deny.Add("default.secret")
		c.DefaultPermissions.Sub.Allow.Add("default.>")
	}
	if flip(t, "revocations") {
		c.RevokeAt(m.key(keystore.User).Public(), now())
		c.RevokeAt(jwt.All, now().Add(-time.Hour))
	}
	if flip(t, "callout") {
		c.EnableExternalAuthorization(m.key(keystore.User).Public())
		c.Authorization.AllowedAccounts.Add(oneOf(t, "allowed", "", c.Subject))
		if flip(t, "sealed") {
			c.Authorization.XKey = m.key(keystore.Curve).Public()
		}
	} else if flip(t, "xkey alone") {
		c.Authorization.XKey = m.key(keystore.Curve).Public()
	}
}

func drawStreams(t *rapid.T, l *jwt.OperatorLimits) {
	js := func(what string) jwt.JetStreamLimits {
		size := func(of string) int64 { return oneOf[int64](t, what+of, -1, 0, 1<<20, 12345) }
		return jwt.JetStreamLimits{
			MemoryStorage: size("mem"), DiskStorage: size("disk"), Streams: size("streams"), Consumer: size("consumers"), MaxAckPending: size("ack"),
			MemoryMaxStreamBytes: size("memory stream"), DiskMaxStreamBytes: size("disk stream"), MaxBytesRequired: flip(t, what+"bytes"),
		}
	}
	switch oneOf(t, "jetstream", "none", "flat", "tiers") {
	case "flat":
		l.JetStreamLimits = js("")
	case "tiers":
		l.JetStreamTieredLimits = jwt.JetStreamTieredLimits{}
		for _, tier := range []string{"R1", "R3"} {
			if flip(t, tier) {
				l.JetStreamTieredLimits[tier] = js(tier)
			}
		}
	}
}

func drawExports(t *rapid.T, c *jwt.AccountClaims) {
	if flip(t, "stream") {
		c.Exports.Add(&jwt.Export{Name: oneOf(t, "export name", "", "news"), Subject: "news.>", Type: jwt.Stream, Advertise: flip(t, "advertise")})
	}
	if flip(t, "service") {
		e := &jwt.Export{
			Subject: "ask.*", Type: jwt.Service, ResponseType: oneOf[jwt.ResponseType](t, "response", "", "Singleton", "Stream", "Chunked"),
			ResponseThreshold: oneOf[time.Duration](t, "threshold", 0, 1, 1500*time.Millisecond, 36*time.Hour), AllowTrace: flip(t, "trace service"),
		}
		e.Description = oneOf(t, "about the service", "", "asks")
		if flip(t, "latency") {
			e.Latency = &jwt.ServiceLatency{Results: "latency.x", Sampling: oneOf[jwt.SamplingRate](t, "latency sampling", jwt.Headers, 1, 100)}
		}
		c.Exports.Add(e)
	}
	if flip(t, "own key") {
		c.Exports.Add(&jwt.Export{Name: "own", Subject: "of.*.>", Type: jwt.Service, AccountTokenPosition: 2, TokenReq: flip(t, "in vain")})
	}
	if flip(t, "revoked in vain") && len(c.Exports) > 0 {
		c.Exports[0].Revoke(jwt.All)
	}
}

func drawImports(t *rapid.T, m *maker, c, from *jwt.AccountClaims, k string) {
	for _, e := range from.Exports {
		if !flip(t, "import of "+k+string(e.Subject)) {
			continue
		}
		i := &jwt.Import{Name: oneOf(t, "import name", "", "theirs"), Account: from.Subject, Type: e.Type}
		switch e.Subject {
		case "news.>":
			i.Subject, i.LocalSubject = "news.>", oneOf[jwt.RenamingSubject](t, "to", "", "news.>", jwt.RenamingSubject("from"+k+".>"))
			i.AllowTrace = flip(t, "trace stream")
		case "ask.*":
			i.Subject, i.LocalSubject = "ask.*", jwt.RenamingSubject(oneOf(t, "to", "ask"+k+".$1", "ask"+k+".*"))
			i.Share = flip(t, "share")
		default:
			i.Subject, i.LocalSubject = jwt.Subject("of."+c.Subject+".>"), jwt.RenamingSubject("of"+k+".>")
		}
		c.Imports.Add(i)
	}
}

func drawRole(t *rapid.T, m *maker, c *jwt.AccountClaims, role string) {
	s := m.role(c, role)
	s.Description = oneOf(t, "about the role", "", "does things")
	p := &s.Template
	subjects := []string{"q.>", "a.*.b", "t.{{tag(team)}}", "u.{{subject()}}", "k.{{account-subject()}}.>", "c"}
	list := func(what string) jwt.StringList {
		if !flip(t, what) {
			return nil
		}
		return rapid.SliceOfN(rapid.SampledFrom(subjects), 1, 4).Draw(t, what)
	}
	p.Pub.Allow, p.Sub.Allow = append(list("pub allow"), "q.>"), append(list("sub allow"), "q.>")
	p.Pub.Deny, p.Sub.Deny = list("pub deny"), list("sub deny")
	switch oneOf(t, "permissions", "some", "some", "some", "no publish", "no subscribe", "only answers", "none of its own") {
	case "no publish":
		p.Pub = jwt.Permission{Deny: jwt.StringList{">"}}
	case "no subscribe":
		p.Sub = jwt.Permission{Deny: jwt.StringList{">", "q.>"}}
	case "only answers":
		p.Pub.Allow = nil
		p.Resp = &jwt.ResponsePermission{MaxMsgs: oneOf(t, "answers", 0, 1, 5), Expires: oneOf[time.Duration](t, "for", 0, time.Second)}
	case "none of its own":
		if c.DefaultPermissions.Pub.Empty() {
			c.DefaultPermissions.Pub.Allow.Add("default.>")
			c.DefaultPermissions.Sub.Allow.Add("default.>")
		}
		p.Permissions = jwt.Permissions{}
	}
	if p.Resp == nil && flip(t, "answers") && !p.Pub.Empty() {
		p.Resp = &jwt.ResponsePermission{MaxMsgs: 2, Expires: 3 * time.Second}
	}
	p.Subs, p.Data, p.Payload = oneOf[int64](t, "role subs", -1, 10), oneOf[int64](t, "role data", -1, 10), oneOf[int64](t, "role payload", -1, 2000, 1<<20, 16<<20, 1<<40)
	p.AllowedConnectionTypes = oneOf[jwt.StringList](t, "types", nil, jwt.StringList{"STANDARD"}, jwt.StringList{"WEBSOCKET", "MQTT", "WEBSOCKET"})
	p.Src = oneOf[jwt.CIDRList](t, "src", nil, jwt.CIDRList{"10.1.2.3/8", "10.0.0.0/8"}, jwt.CIDRList{"192.0.2.7/32", "2001:db8::1/32"})
	if flip(t, "hours") {
		p.Times = []jwt.TimeRange{{Start: "1:02:03", End: "22:00:00"}}
	}
	p.Locale = oneOf(t, "locale", "", "Europe/Amsterdam")
	p.BearerToken = !c.Limits.DisallowBearer && flip(t, "bearer")
}

// subjects that random roles are asked about.
func asked() []string {
	return []string{
		"q.x", "q.>", "a.1.b", "a.*.b", "t.red", "t.blue", "t.*", "t.green", "c", "u.x", "k.x.y", "default.x", "default.secret", "default.*", "nothing",
		"$SYS.REQ.X", "_INBOX.x", "_INBOX.>", ">", "*", "auth.v1.info",
	}
}

// TestExact: whatever goes along says the same to servers afterwards.
func TestExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMaker(t)
		drawn(t, m)
		s := m.store()
		moved := clean(t, s)
		made := m.made(moved)
		before, after := map[string]string{}, map[string]string{}
		for _, a := range s.Accounts {
			before[a.Key()] = a.Name()
		}
		for _, c := range made {
			after[c.Subject] = c.Name
		}
		for _, a := range s.Accounts {
			was, is := a.Claims(), made[a.Name()]
			if a.Name() == "SYS" {
				if is.Subject != was.Subject {
					t.Errorf("the system account is %s, was %s", is.Subject, was.Subject)
				}
				continue
			}
			same(t, view(was, before), view(is, after))
			if !maps.Equal(was.Revocations, is.Revocations) {
				t.Errorf("%s: revocations %v, were %v", a.Name(), is.Revocations, was.Revocations)
			}
			for key, scope := range was.SigningKeys {
				a, _ := verdicts(t, was, key, asked())
				b, _ := verdicts(t, is, key, asked())
				if !slices.Equal(a, b) {
					t.Errorf("a role may do something else: %+v\n%q\n%q", scope, a, b)
				}
			}
		}
	})
}

func same(t tb, was, is map[string]string) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(was)) {
		if is[k] != was[k] {
			t.Errorf("%s: it is %q, was %q", k, is[k], was[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(is)) {
		if _, ok := was[k]; !ok {
			t.Errorf("%s is too much: %q", k, is[k])
		}
	}
}

// TestThereAndBack: a platform that moves out and in again is the same.
func TestThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMaker(t)
		drawn(t, m)
		c := m.account("USERS")
		role := m.role(c, "svc")
		m.user(c, "u1", role.Key)
		m.user(c, "With Space", role.Key, func(u *jwt.UserClaims) { u.Tags.Add("team:red") })
		first := clean(t, m.store())
		out := m.back(first)
		second := clean(t, out)
		if a, b := string(first.File.Render()), string(second.File.Render()); a != b {
			t.Errorf("the file is\n%s\nwas\n%s", b, a)
		}
		for name, k := range first.Accounts {
			if second.Accounts[name] == nil || second.Accounts[name].Public() != k.Public() {
				t.Errorf("account %s has another key", name)
			}
		}
		for ref, k := range first.Roles {
			if second.Roles[ref] == nil || second.Roles[ref].Public() != k.Public() {
				t.Errorf("role %s has another key", ref)
			}
		}
		if second.Key.Public() != first.Key.Public() {
			t.Error("the operator has another key")
		}
		// Herald's own accounts keep their keys from then on.
		if len(second.Accounts) != len(first.File.AllAccounts()) {
			t.Errorf("%d accounts keep their keys, of %d", len(second.Accounts), len(first.File.AllAccounts()))
		}
		for name, rev := range first.Revocations {
			if !maps.Equal(second.Revocations[name], rev) {
				t.Errorf("account %s: revocations %v, were %v", name, second.Revocations[name], rev)
			}
		}
		users := func(m *nscmap.Moved) (out []string) {
			for _, u := range m.Users {
				out = append(out, u.Role.String()+" "+u.Name.String()+" "+u.Token+" "+u.Key.Public())
			}
			return out
		}
		if a, b := users(first), users(second); !slices.Equal(a, b) || len(a) != 2 {
			t.Errorf("users %q, were %q", b, a)
		}
		third := m.back(second)
		for i, a := range third.Accounts {
			if strings.Join(names(third), " ") != strings.Join(names(out), " ") {
				t.Fatalf("accounts %q, were %q", names(third), names(out))
			}
			x, y := view(out.Accounts[i].Claims(), keyNames(out)), view(a.Claims(), keyNames(third))
			same(t, x, y)
		}
	})
}

func names(s *nscstore.Store) (out []string) {
	for _, a := range s.Accounts {
		out = append(out, a.Name())
	}
	return out
}

func keyNames(s *nscstore.Store) map[string]string {
	out := map[string]string{}
	for _, a := range s.Accounts {
		out[a.Key()] = a.Name()
	}
	return out
}
