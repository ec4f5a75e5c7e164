package permtest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/subject"
)

// member is a user of a role, connected, and its rights.
type member struct {
	t      *testing.T
	conn   *raw
	rights *permission.Rights
}

// join pushes an account with one role and connects a user of it.
func join(t *testing.T, a *account, p jwt.Permissions, change func(*jwt.UserClaims)) member {
	t.Helper()
	role := a.role(p)
	push(t, a)
	return a.member(t, role, p, change)
}

func (a *account) member(t *testing.T, role nkeys.KeyPair, p jwt.Permissions, change func(*jwt.UserClaims)) member {
	t.Helper()
	who := permission.User{Account: a.about()}
	u := a.sign(role, func(c *jwt.UserClaims) {
		if change != nil {
			change(c)
		}
		who.Name, who.Tags = c.Name, c.Tags
	})
	who.Key = u.nkey
	rights, err := permission.For(jwt.UserPermissionLimits{Permissions: p}, who)
	if err != nil {
		t.Fatal(err)
	}
	conn := enter(t, u)
	t.Cleanup(conn.close)
	return member{t, conn, rights}
}

// admin is a connection with all rights in an account.
func (a *account) admin(t *testing.T) *raw {
	t.Helper()
	r := enter(t, a.user())
	t.Cleanup(r.close)
	return r
}

// publish compares one verdict with the server's; both must be allowed.
func (m member) publish(subj string, allowed bool) permission.Verdict {
	m.t.Helper()
	m.conn.pub(subj, "", nil)
	sync(m.t, m.conn)
	v, err := m.rights.Publish(subj)
	if err != nil {
		m.t.Fatal(err)
	}
	if taken := len(m.conn.violations()) == 0; taken != allowed || v.Allowed != allowed {
		m.t.Errorf("publish %s: the server allows it: %v; the package: %s", subj, taken, v)
	}
	return v
}

// subscribe does the same for a subscription.
func (m member) subscribe(pattern, queue string, allowed bool) permission.Verdict {
	m.t.Helper()
	m.conn.sub(pattern, queue, pattern+queue)
	sync(m.t, m.conn)
	v, err := m.rights.Subscribe(pattern, queue)
	if err != nil {
		m.t.Fatal(err)
	}
	if taken := len(m.conn.violations()) == 0; taken != allowed || v.Allowed != allowed {
		m.t.Errorf("subscribe %s %s: the server allows it: %v; the package: %s", pattern, queue, taken, v)
	}
	return v
}

func allow(s ...string) jwt.Permission { return jwt.Permission{Allow: s} }
func deny(s ...string) jwt.Permission  { return jwt.Permission{Deny: s} }

// Who may subscribe to one word may subscribe to all that follows. The verdict says so,
// and what reaches a user is reckoned with it.
func TestOneWordIsAll(t *testing.T) {
	a := newAccount("A")
	m := join(t, a, jwt.Permissions{Sub: allow("a.*")}, nil)
	if v := m.subscribe("a.b", "", true); v.Note != "" {
		t.Errorf("a.b: %s", v)
	}
	if v := m.subscribe("a.>", "", true); !strings.Contains(v.Note, "more is delivered") {
		t.Errorf("a.>: %s", v)
	}
	m.subscribe("a.b.>", "", false)
	m.subscribe(">", "", false)
	admin := a.admin(t)
	admin.pub("a.b.c.d", "", []byte("secret"))
	sync(t, admin)
	sync(t, m.conn)
	if len(m.conn.msgs) != 1 || m.conn.msgs[0].subject != "a.b.c.d" {
		t.Fatalf("delivered: %v", m.conn.msgs)
	}
	if got := m.rights.Reach(permission.Subscribing, "a.b.c.d"); len(got) != 1 {
		t.Errorf("what reaches a.b.c.d: %v", got)
	}
}

// A user may answer once what it was sent, also where nothing may be published, and also
// where it is denied.
func TestReplies(t *testing.T) {
	for _, tc := range []struct {
		name string
		pub  jwt.Permission
	}{{"nothing", jwt.Permission{}}, {"denied", deny("reply.>")}, {"others", allow("other")}} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAccount("A")
			m := join(t, a, jwt.Permissions{Pub: tc.pub, Resp: &jwt.ResponsePermission{}}, nil)
			m.subscribe("ask", "", true)
			v := m.publish("reply.1", false)
			if !v.OnlyAsReply || !strings.Contains(v.Note, "once within 2m0s") {
				t.Errorf("before: %s", v)
			}
			m.publish("unasked", false)
			admin := a.admin(t)
			admin.sub("reply.*", "", "1")
			admin.pub("ask", "reply.1", nil)
			sync(t, admin)
			for i := range 3 {
				m.conn.pub("reply.1", "", []byte(strconv.Itoa(i)))
			}
			sync(t, m.conn)
			if n := len(m.conn.violations()); n != 1 {
				t.Errorf("%d of three answers are refused in %d ways", 3-len(admin.msgs), n)
			}
			sync(t, admin)
			if len(admin.msgs) != 1 {
				t.Errorf("%d answers", len(admin.msgs))
			}
		})
	}
}

// Queue groups of rules, and what random ones would seldom meet.
func TestQueueGroups(t *testing.T) {
	a := newAccount("A")
	m := join(t, a, jwt.Permissions{
		Pub: deny("a", "b group"), // a group is nothing where one publishes; the denial stands
		Sub: jwt.Permission{
			Allow: jwt.StringList{"free", "named", "named one", "wild *x.*", "wild two.>", "only q", "empty >"},
			Deny:  jwt.StringList{"free bad.*"},
		},
	}, nil)
	m.publish("b", false)
	m.publish("b.c", true)
	for _, tc := range []struct {
		subj, queue string
		allowed     bool
	}{
		{"free", "", true},
		{"free", "any", true},
		{"free", "bad", true},
		{"free", "bad.one", false},
		{"named", "", true},
		{"named", "one", true},
		{"named", "two", false}, // as soon as one is named
		{"wild", "", false},
		{"wild", "ax.b", true}, // a word that begins with "*" is any word
		{"wild", "anything.b", true},
		{"wild", "*.b", false},
		{"wild", "*x.b", true},
		{"wild", "a.b.c", false},
		{"wild", "two", false},
		{"wild", "two.", true},
		{"wild", "two..b", true},
		{"only", "q", true},
		{"only", "q.r", false},
		{"only", "", false},
		{"empty", "x..y", true},
	} {
		m.subscribe(tc.subj, tc.queue, tc.allowed)
	}
}

// An account's default permissions are for those whose template has none, and are no
// templates themselves.
func TestDefaults(t *testing.T) {
	a := newAccount("A")
	a.claims.DefaultPermissions = jwt.Permissions{Pub: allow("a", "{{name()}}"), Sub: deny("b"), Resp: &jwt.ResponsePermission{}}
	named := func(c *jwt.UserClaims) { c.Name = "n" }
	m := join(t, a, jwt.Permissions{}, named)
	m.publish("a", true)
	m.publish("n", false)
	m.subscribe("b", "", false)
	m = join(t, a, jwt.Permissions{Sub: allow("b")}, named)
	m.publish("n", true)
	m.subscribe("b", "", true)
	m = join(t, a, jwt.Permissions{Sub: allow("{{tag(none)}}")}, named) // has one, and nothing is left of it
	m.publish("n", true)
	m.subscribe("a", "", false)
}

// What servers keep for themselves, whatever a template says.
func TestReserved(t *testing.T) {
	everything := jwt.Permissions{Pub: allow(">"), Sub: allow(">"), Resp: &jwt.ResponsePermission{MaxMsgs: -1, Expires: -1}}
	m := join(t, newAccount("A"), everything, nil)
	for _, s := range []string{"_GR_.a", "$GR.a.b", "$NRG.a"} {
		if v := m.publish(s, false); v.Rule.Source != permission.FromServer || v.OnlyAsReply {
			t.Errorf("%s: %s", s, v)
		}
	}
	for _, s := range []string{"_GR_", "_GR", "$NRG", "$NRGa.b", "_R_.a", "$SYS.a", "$SYS.REQ.USER.AUTH"} {
		m.publish(s, true)
	}
	m.subscribe("a", "_sys_", false)
	m.subscribe("a", "_sys_x", true)

	// In the system account the second is open.
	role := shared.system.role(everything)
	push(t, shared.system)
	sys := shared.system.member(t, role, everything, nil)
	sys.publish("$NRG.a", true)
	sys.publish("_GR_.a", false)
}

// In an account with auth callout nobody asks in the servers' place.
func TestCallout(t *testing.T) {
	for _, p := range []jwt.Permissions{{}, {Pub: allow(">")}, {Pub: deny("a")}} {
		a := newAccount("A")
		role := a.role(p)
		var who *jwt.UserClaims
		u := a.sign(role, func(c *jwt.UserClaims) { who = c })
		a.claims.EnableExternalAuthorization(who.Subject)
		push(t, a)
		rights, err := permission.For(jwt.UserPermissionLimits{Permissions: p}, permission.User{Key: u.nkey, Account: a.about()})
		if err != nil {
			t.Fatal(err)
		}
		m := member{t, enter(t, u), rights}
		t.Cleanup(m.conn.close)
		if v := m.publish("$SYS.REQ.USER.AUTH", false); v.Rule.Source != permission.FromServer {
			t.Errorf("%v: %s", p, v)
		}
		m.publish("$SYS.REQ.USER.AUTH.x", true)
		m.publish("b", true)
	}
}

// Servers map a subject before they ask whether it may be published to.
func TestMappingComesFirst(t *testing.T) {
	a := newAccount("A")
	a.claims.AddMapping("from", jwt.WeightedMapping{Subject: "to"})
	m := join(t, a, jwt.Permissions{Pub: allow("to")}, nil)
	m.publish("to", true)
	m.conn.pub("from", "", nil)
	sync(t, m.conn)
	if errs := m.conn.violations(); len(errs) != 0 {
		t.Errorf("a subject that is mapped to one that is allowed: %v; the package comment is wrong", errs)
	}
}

// A list that is there and empty is not the same as none. Encoders leave it out, and a
// JWT that has one is as valid.
func TestEmptyLists(t *testing.T) {
	for _, tc := range []struct {
		pub     string
		allowed bool
	}{
		{`{"allow":[]}`, true},
		{`{"allow":[],"deny":[]}`, true},
		{`{"allow":[],"deny":["b"]}`, false},
		{`{"deny":["b"]}`, true},
	} {
		a := newAccount("A")
		role := a.role(jwt.Permissions{Sub: allow("a")})
		token := withPub(t, a.jwt(), tc.pub)
		pushJWT(t, token)
		claims, err := jwt.DecodeAccountClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		scope, _ := claims.SigningKeys.GetScope(must(role.PublicKey()))
		m := a.member(t, role, scope.(*jwt.UserScope).Template.Permissions, nil)
		if v := m.publish("a", tc.allowed); v.Allowed != tc.allowed {
			t.Errorf("%s: %s", tc.pub, v)
		}
		m.subscribe("a", "", true)
	}
}

// withPub puts pub into the one template of an account JWT, and signs it again.
func withPub(t *testing.T, token, pub string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	const before = `"template":{"pub":{},`
	if strings.Count(string(payload), before) != 1 {
		t.Fatalf("the template is written in another way: %s", payload)
	}
	changed := strings.Replace(string(payload), before, `"template":{"pub":`+pub+`,`, 1)
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(changed))
	sig, err := shared.signing.Sign([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// TestLimit: where tags come to more than 4,096 subjects, the user is refused.
func TestLimit(t *testing.T) {
	a := newAccount("A")
	for i := range 65 {
		a.claims.Tags = append(a.claims.Tags, fmt.Sprintf("long:l%d", i))
		if i < 64 {
			a.claims.Tags = append(a.claims.Tags, fmt.Sprintf("short:s%d", i))
		}
	}
	const full, over = "{{account-tag(short)}}.{{account-tag(short)}}.x", "{{account-tag(short)}}.{{account-tag(long)}}"
	cases := []struct {
		list []string
		many int // 0: refused
	}{
		{[]string{"a", "{{account-tag(short)}}.{{name()}}"}, 65},
		{[]string{"{{account-tag(short)}}.{{account-tag(short)}}"}, 4096}, // one template twice: 64 times each of 64
		{[]string{full}, 4096},
		{[]string{full, "a", "b.{{name()}}"}, 4098}, // lines without tags are not counted when they come
		{[]string{"a", full}, 0},                    // but they are there already
		{[]string{full, "{{account-tag(none)}}"}, 0},
		{[]string{over}, 0},
		{[]string{"{{account-tag(short)}}.{{account-tag(short)}}.{{account-tag(short)}}"}, 0},
	}
	roles := make([]nkeys.KeyPair, len(cases))
	for i, tc := range cases {
		roles[i] = a.role(jwt.Permissions{Sub: allow(tc.list...)})
	}
	push(t, a)
	for i, tc := range cases {
		p := jwt.Permissions{Sub: allow(tc.list...)}
		named := func(c *jwt.UserClaims) { c.Name = "n" }
		u := a.sign(roles[i], named)
		rights, err := permission.For(jwt.UserPermissionLimits{Permissions: p}, permission.User{Key: u.nkey, Name: "n", Account: a.about()})
		conn, refusal := dial(shared.addr, u)
		if conn != nil {
			conn.close()
		}
		if tc.many == 0 {
			if !errors.Is(err, permission.ErrRefused) || !errors.Is(refusal, errRefused) {
				t.Errorf("%q: the server says %v, the package %v", tc.list, refusal, err)
			}
			continue
		}
		if err != nil || refusal != nil {
			t.Errorf("%q: the server says %v, the package %v", tc.list, refusal, err)
			continue
		}
		if n := len(rights.Rules()); n != tc.many {
			t.Errorf("%q: %d rules, not %d", tc.list, n, tc.many)
		}
		m := a.member(t, roles[i], p, named)
		for s, want := range map[string]bool{"s1.s1": i == 1, "s1.s2": false, "s1.s2.x": false, "s1.s1.x": i == 2 || i == 3, "s1.n": i == 0, "s64.n": false, "b.n": i == 3} {
			m.subscribe(s, "", want)
		}
	}
}

// TestReplyLimits: what a template says of replies is what the server makes of it.
func TestReplyLimits(t *testing.T) {
	a := newAccount("A")
	for _, p := range []jwt.ResponsePermission{{}, {MaxMsgs: 3}, {Expires: time.Minute}, {MaxMsgs: -1, Expires: -1}} {
		m := join(t, a, jwt.Permissions{Pub: allow(infoSubject), Resp: &p}, nil)
		comparison{t: t, n: &tally{}, rights: m.rights, conn: m.conn, admin: a.admin(t)}.info()
	}
}

// TestSubjects holds the functions on subjects against those that servers export, for all
// pairs of up to three words.
func TestSubjects(t *testing.T) {
	var all []string
	list := []string{""}
	for range 3 {
		var longer []string
		for _, s := range list {
			for _, word := range []string{"a", "b", "a*", "*", ">", "", "a\tb"} {
				longer = append(longer, s+"."+word)
			}
		}
		for _, s := range longer {
			all = append(all, s[1:])
		}
		list = longer
	}
	valid := 0
	for _, a := range all {
		if got, want := subject.ValidPattern(a), server.IsValidSubject(a); got != want {
			t.Errorf("ValidPattern(%q) = %v", a, got)
		}
		if got, want := subject.Valid(a), server.IsValidPublishSubject(a); got != want {
			t.Errorf("Valid(%q) = %v", a, got)
		}
		for _, b := range all {
			if !subject.ValidPattern(a) || !subject.ValidPattern(b) {
				continue
			}
			valid++
			if got, want := subject.Overlaps(a, b), server.SubjectsCollide(a, b); got != want {
				t.Errorf("Overlaps(%q, %q) = %v", a, b, got)
			}
			covers := server.SubjectMatchesFilter(b, a)
			if got := subject.Covers(a, b); got != covers {
				t.Errorf("Covers(%q, %q) = %v", a, b, got)
			}
			if got := subject.Matches(a, b); subject.Valid(b) && got != covers {
				t.Errorf("Matches(%q, %q) = %v", a, b, got)
			}
		}
	}
	if len(all) != 7+49+343 || valid < 10000 {
		t.Errorf("%d subjects, %d pairs of valid ones", len(all), valid)
	}
}
