package claims_test

import (
	"crypto/sha256"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
)

// key is a public nkey that a name stands for.
func key[T any](t testing.TB, prefix nkeys.PrefixByte, parse func(string) (T, error), name string) T {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	pub, err := nkeys.Encode(prefix, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	k, err := parse(string(pub))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keys(t testing.TB, f *manifest.File) claims.Keys {
	t.Helper()
	k := claims.Keys{
		Accounts: map[ident.Label]ident.AccountKey{}, Roles: map[manifest.RoleRef]ident.AccountKey{}, Regions: map[ident.Region]ident.SealKey{},
	}
	for _, a := range f.AllAccounts() {
		k.Accounts[a.Name] = key(t, nkeys.PrefixByteAccount, ident.ParseAccountKey, a.Name.String())
		for _, r := range a.Roles {
			ref := manifest.RoleRef{Account: a.Name, Role: r.Name}
			k.Roles[ref] = key(t, nkeys.PrefixByteAccount, ident.ParseAccountKey, ref.String())
		}
	}
	for _, r := range f.Regions {
		k.Regions[r.Name] = key(t, nkeys.PrefixByteCurve, ident.ParseSealKey, r.Name.String())
	}
	k.Callout = key(t, nkeys.PrefixByteCurve, ident.ParseSealKey, "callout")
	return k
}

const regions = `name: demo
home: ams
regions:
  - name: ams
    gateway: "10.0.0.1:7222"
    nodes:
      - {name: ams-1, client: "10.0.0.1:4222", cluster: "10.0.0.1:6222", gateway: "10.0.0.1:7222"}
      - {name: ams-2, client: "10.0.0.2:4222", cluster: "10.0.0.2:6222", gateway: "10.0.0.2:7222"}
      - {name: ams-3, client: "10.0.0.3:4222", cluster: "10.0.0.3:6222", gateway: "10.0.0.3:7222"}
chat:
  rooms:
    - {name: KUBECON, channels: [General]}
grants:
  - {to: open, account: CHAT, role: member}
`

func compiled(t testing.TB, text string) (*claims.Compiler, map[string]*jwt.AccountClaims) {
	t.Helper()
	f, err := manifest.Parse("platform.yaml", []byte(regions+text))
	if err != nil {
		t.Fatal(err)
	}
	c := claims.New(f, keys(t, f))
	all := map[string]*jwt.AccountClaims{}
	for _, a := range c.Accounts() {
		ac, err := c.Account(a, 7)
		if err != nil {
			t.Fatal(err)
		}
		all[ac.Name] = ac
	}
	return c, all
}

func role(t testing.TB, c *jwt.AccountClaims, name string) *jwt.UserScope {
	t.Helper()
	for _, s := range c.SigningKeys {
		if u, ok := s.(*jwt.UserScope); ok && u.Role == name {
			return u
		}
	}
	t.Fatalf("no role %s", name)
	return nil
}

func TestAccount(t *testing.T) {
	_, all := compiled(t, `  - {to: "key:HKABCDEFGHIJKLMNOPQR", account: ORDERS, role: worker, lifetime: 10m, tags: ["team:eu"]}
accounts:
  - name: ORDERS
    description: orders of customers
    tags: ["env:prod"]
    limits: {connections: 5, leafnodes: 1, payload: 64KiB}
    jetstream:
      tiers:
        R1: {disk: 1GiB}
        R3: {disk: 10GiB, streams: 3}
    exports:
      - {subject: "orders.*.new", type: service, account_token_position: 2, response: stream}
    mappings:
      - {subject: in, to: [{subject: out, weight: 30}]}
    roles:
      - name: worker
        writes: true
        publish: {allow: ["orders.>"], deny: ["orders.secret"]}
        subscribe: {allow: ["_INBOX_{{subject()}}.>"]}
        networks: ["10.0.0.0/8"]
        hours: [{start: "08:00", end: "18:00:30"}]
        time_zone: Europe/Amsterdam
      - name: mute
        writes: true
        subscribe: {allow: ["orders.>"]}
  - name: SHOP
    imports:
      - {from: ORDERS, subject: "orders.{{account-subject()}}.new", type: service, to: new}
    roles:
      - name: clerk
        public: true
        connection_types: [STANDARD, WEBSOCKET]
        publish: {allow: [new]}
        subscribe: {allow: ["_INBOX_{{subject()}}.>"]}
`)
	o := all["ORDERS"]
	if !slices.Contains(o.Tags, "base:7") || !slices.Contains(o.Tags, "env:prod") || o.Description != "orders of customers" {
		t.Errorf("tags %v, %q", o.Tags, o.Description)
	}
	l := o.Limits
	if l.Conn != 5 || l.LeafNodeConn != 1 || l.Payload != 64<<10 || l.Subs != -1 || !l.DisallowBearer || !l.WildcardExports {
		t.Errorf("limits %+v", l)
	}
	if r3 := l.JetStreamTieredLimits["R3"]; r3.DiskStorage != 10<<30 || r3.Streams != 3 || r3.Consumer != -1 || l.JetStreamLimits != (jwt.JetStreamLimits{}) {
		t.Errorf("JetStream %+v", l)
	}
	if e := o.Exports[0]; e.AccountTokenPosition != 2 || e.ResponseType != jwt.ResponseTypeStream || e.TokenReq {
		t.Errorf("export %+v", e)
	}
	if m := o.Mappings["in"]; len(m) != 1 || m[0].GetWeight() != 30 {
		t.Errorf("mapping %+v", o.Mappings)
	}
	w := role(t, o, "worker").Template
	if !slices.Equal(w.Pub.Allow, jwt.StringList{"orders.>", "auth.v1.info", "auth.v1.renew"}) || !slices.Equal(w.Pub.Deny, jwt.StringList{"orders.secret"}) {
		t.Errorf("worker publishes %+v", w.Pub)
	}
	if w.Times[0] != (jwt.TimeRange{Start: "08:00:00", End: "18:00:30"}) || w.Locale != "Europe/Amsterdam" || w.Src[0] != "10.0.0.0/8" {
		t.Errorf("worker %+v", w)
	}
	if !slices.Equal(w.AllowedConnectionTypes, jwt.StringList{"STANDARD"}) {
		t.Errorf("worker connects as %v", w.AllowedConnectionTypes)
	}
	// For a server an empty list allows everything: what is not given must be denied.
	if m := role(t, o, "mute").Template; !slices.Equal(m.Pub.Deny, jwt.StringList{">"}) || len(m.Pub.Allow) != 0 {
		t.Errorf("mute publishes %+v", m.Pub)
	}
	// A granted role renews: its account imports that.
	if !slices.ContainsFunc(o.Imports, func(i *jwt.Import) bool { return i.Subject == "auth.v1.renew" && i.Share }) {
		t.Errorf("ORDERS imports %v", o.Imports)
	}
	s := all["SHOP"]
	if i := s.Imports[0]; string(i.Subject) != "orders."+s.Subject+".new" || i.Account != o.Subject || i.LocalSubject != "new" {
		t.Errorf("import %+v", i)
	}
	if c := role(t, s, "clerk").Template; c.Subs != manifest.PublicSubs || c.Payload != manifest.PublicPayload || c.Resp != nil {
		t.Errorf("clerk has no bounds: %+v", c)
	}
	if s.Limits.LeafNodeConn != 0 || s.Limits.IsJSEnabled() {
		t.Errorf("SHOP has leafnodes or streams: %+v", s.Limits)
	}
}

// TestCallout: where it is on, DOOR is asked about, its sentinel may do nothing, and only those
// accounts are behind it of which a role is granted to who comes so. Where it is off, nothing of
// it is anywhere.
func TestCallout(t *testing.T) {
	const text = `  - {to: key, account: ORDERS, role: sensor}
  - {to: key, account: ORDERS, role: worker}
  - {to: key, account: OTHER, role: worker}
accounts:
  - name: ORDERS
    roles:
      - {name: sensor, callout: true, publish: {allow: [a]}}
      - {name: worker, publish: {allow: [a]}}
  - {name: OTHER, roles: [{name: worker}, {name: spare, callout: true}]}
`
	c, all := compiled(t, text+"callout: true\n")
	door, orders := all[manifest.Door], all["ORDERS"]
	a := door.Authorization
	if len(a.AuthUsers) != 1 || !nkeys.IsValidPublicUserKey(a.AuthUsers[0]) || !slices.Equal(a.AllowedAccounts, jwt.StringList{orders.Subject}) || a.XKey == "" {
		t.Errorf("%+v", a)
	}
	if i := door.Imports; len(i) != 1 || i[0].Account != all["AUTH"].Subject || i[0].Subject != "auth.v1.callout" || i[0].LocalSubject != "$SYS.REQ.USER.AUTH" || !i[0].Share {
		t.Errorf("%+v", i)
	}
	sentinel := role(t, door, manifest.RoleSentinel).Template
	if !sentinel.BearerToken || len(sentinel.Pub.Allow)+len(sentinel.Sub.Allow) != 0 || !slices.Equal(sentinel.Pub.Deny, jwt.StringList{">"}) || !slices.Equal(sentinel.Sub.Deny, jwt.StringList{">"}) ||
		door.Limits.DisallowBearer || len(door.Exports) != 0 || len(door.SigningKeys) != 1 {
		t.Errorf("%+v %+v", sentinel, door.Limits)
	}
	// It needs no renewal, and has the identity's inbox; others are as they were.
	sensor, worker := role(t, orders, "sensor").Template, role(t, orders, "worker").Template
	if !slices.Equal(sensor.Pub.Allow, jwt.StringList{"a"}) || !slices.Equal(sensor.Sub.Allow, jwt.StringList{"_INBOX_{{tag(kid)}}.>"}) {
		t.Errorf("sensor: %+v", sensor.Permissions)
	}
	if !slices.Equal(worker.Sub.Allow, jwt.StringList{"_INBOX_{{subject()}}.>"}) || !slices.Contains(worker.Pub.Allow, "auth.v1.renew") {
		t.Errorf("worker: %+v", worker.Permissions)
	}
	p, err := c.Policy()
	if err != nil || !p.Offers[1].Callout || p.Offers[0].Callout || p.Offers[2].Callout {
		t.Errorf("%+v %v", p.Offers, err)
	}
	// Without a key nothing is sealed: no claims then.
	f, err := manifest.Parse("platform.yaml", []byte(regions+text+"callout: true\n"))
	if err != nil {
		t.Fatal(err)
	}
	k := keys(t, f)
	k.Callout = ident.SealKey{}
	bare := claims.New(f, k)
	for _, a := range bare.Accounts() {
		if _, err := bare.Account(a, 1); (a.Name.String() == manifest.Door) != errors.Is(err, claims.ErrNoKey) {
			t.Errorf("%s: %v", a.Name, err)
		}
	}
	_, off := compiled(t, "")
	if off[manifest.Door] != nil {
		t.Error("it is off, and DOOR is there")
	}
	for name, a := range off {
		if a.Authorization.IsEnabled() || slices.ContainsFunc(a.Exports, func(e *jwt.Export) bool { return e.Subject == "auth.v1.callout" }) ||
			slices.ContainsFunc(a.Imports, func(i *jwt.Import) bool { return i.Subject == "auth.v1.callout" }) {
			t.Errorf("it is off, and %s has something of it", name)
		}
	}
}

func TestPolicyAndDocument(t *testing.T) {
	c, _ := compiled(t, `  - {to: "key:HKABCDEFGHIJKLMNOPQR", account: ORDERS, role: worker, lifetime: 10m, longest: 30m, tags: ["team:eu"]}
credentials: {lifetime: 2h, longest: 5h}
accounts:
  - {name: QUIET, roles: [{name: r}]}
  - name: ORDERS
    roles:
      - {name: worker, publish: {allow: ["orders.>"]}}
`)
	p, err := c.Policy()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Offers) != 2 {
		t.Fatalf("%+v", p.Offers)
	}
	if o := p.Offers[0]; o.Kind != ident.KindOpen || o.Identity != nil || o.Default != policy.Seconds(2*time.Hour) || o.Longest != policy.Seconds(5*time.Hour) {
		t.Errorf("%+v", o)
	}
	if o := p.Offers[1]; o.Kind != "" || o.To() != "key:HKABCDEFGHIJKLMNOPQR" || o.Default != policy.Seconds(10*time.Minute) || !slices.Equal(o.Tags, []string{"team:eu"}) {
		t.Errorf("%+v", o)
	}
	d, err := c.Public("O")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range d.Accounts {
		names = append(names, a.Name.String())
		for _, r := range a.Roles {
			if (r.Open != nil) != (a.Name.String() == "CHAT" && r.Name.String() == "member") {
				t.Errorf("%s/%s: open %v", a.Name, r.Name, r.Open)
			}
		}
	}
	// An account of which nothing is granted is nobody's business, and DOOR is not there.
	if slices.Contains(names, "QUIET") || !slices.Contains(names, "ORDERS") || slices.Contains(names, manifest.Door) || len(names) != len(manifest.OwnAccounts()) {
		t.Errorf("accounts in the document: %v", names)
	}
	if d.Regions[0].URLs[0] != "nats://10.0.0.1:4222" || d.Chat.Rooms[0].Name.String() != "KUBECON" {
		t.Errorf("%+v", d)
	}
}

func TestMissingKeys(t *testing.T) {
	f, err := manifest.Parse("platform.yaml", []byte(regions))
	if err != nil {
		t.Fatal(err)
	}
	c := claims.New(f, claims.Keys{})
	if _, err := c.Account(c.Accounts()[0], 1); !errors.Is(err, claims.ErrNoKey) {
		t.Error(err)
	}
	if _, err := c.Public("O"); !errors.Is(err, claims.ErrNoKey) {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	name, err := ident.ParseLabel("GONE")
	if err != nil {
		t.Fatal(err)
	}
	c := claims.Closed(name, key(t, nkeys.PrefixByteAccount, ident.ParseAccountKey, "GONE"), 3)
	if !claims.IsClosed(c) || c.Limits.Conn != 0 || c.Limits.LeafNodeConn != 0 || len(c.SigningKeys) != 0 || c.Limits.IsJSEnabled() || !c.Limits.DisallowBearer {
		t.Errorf("%+v", c)
	}
}

// The examples that come with the project compile.
func TestExamples(t *testing.T) {
	for _, name := range []string{"platform.yaml", "platform-minimal.yaml"} {
		data, err := os.ReadFile("../../../configs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := manifest.Parse(name, data)
		if err != nil {
			t.Fatal(err)
		}
		c := claims.New(f, keys(t, f))
		for _, a := range c.Accounts() {
			if _, err := c.Account(a, 1); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// The tutorial's door is in no account unless it is opened; then guests may ask there, their
// account reaches it by an import that says who asks, and issuers listen. Nobody else has
// any part in it.
func TestTutorialDoor(t *testing.T) {
	closed, before := compiled(t, "")
	opened, after := compiled(t, "tutorial_door: {i_know: "+manifest.TutorialSentence+"}\n")
	if p, err := closed.Public("O"); err != nil || p.TutorialDoor {
		t.Errorf("%v %v", p, err)
	}
	if p, err := opened.Public("O"); err != nil || !p.TutorialDoor {
		t.Errorf("%v %v", p, err)
	}
	for name, ac := range after {
		if text := ac.String(); (name == manifest.Auth || name == manifest.Guest) != strings.Contains(text, subject.TutorialAccess) {
			t.Errorf("open, %s: %s", name, text)
		}
		if text := before[name].String(); strings.Contains(text, subject.TutorialAccess) || strings.Contains(text, "tutorial") {
			t.Errorf("closed, %s: %s", name, text)
		}
	}
	guest := role(t, after[manifest.Guest], manifest.RoleGuest).Template
	if !guest.Pub.Allow.Contains(subject.TutorialAccess) || len(guest.Sub.Allow) != 1 || guest.Sub.Allow[0] != subject.UserInbox {
		t.Errorf("%+v", guest)
	}
	issuer := role(t, after[manifest.Auth], manifest.RoleIssuer).Template
	if !issuer.Sub.Allow.Contains(subject.TutorialAccess) || issuer.Pub.Allow.Contains(subject.TutorialAccess) {
		t.Errorf("%+v", issuer)
	}
	i := slices.IndexFunc(after[manifest.Guest].Imports, func(i *jwt.Import) bool { return string(i.Subject) == subject.TutorialAccess })
	if i < 0 || !after[manifest.Guest].Imports[i].Share || !after[manifest.Guest].Imports[i].IsService() {
		t.Error("guests do not reach it by an import that says who asks")
	}
}
