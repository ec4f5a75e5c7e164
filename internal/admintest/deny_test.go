package admintest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// soon is more than it takes until all know; what has a figure says it.
const soon = 20 * time.Second

// newKey makes an access key for a role.
func newKey(t testing.TB, role string, args ...string) (client.AccessKey, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	done(t, append([]string{"access-key", "create", "--owner", "tests", "--grant", role, "--out", file}, args...)...)
	var k client.AccessKey
	for line := range strings.Lines(string(must(os.ReadFile(file)))) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_ID="); ok {
			k.ID = must(ident.ParseKeyID(v))
		}
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_SECRET="); ok {
			k.Secret = must(accesskey.Parse(v))
		}
	}
	return k, file
}

// TestRevoke: who is revoked is out everywhere at once, gets nothing any more and is told why; a
// receipt says so; and after resume the same nkey is back within two seconds.
func TestRevoke(t *testing.T) {
	p, other := joins(t, "ams"), joins(t, "ams")
	stays := other.connects(t, urls(region("sgp"))[0])
	here, there := p.connects(t, urls(region("ams"))[0]), p.connects(t, urls(region("sgp"))[1])
	knows(t, adminAt(t, "ams"), ident.OpenIdentity(p.user), 1)
	file := filepath.Join(t.TempDir(), "receipt")
	r := deny(t, cli.OK, "revoke", "user", p.name.String(), "--yes", "--why", "left the house", "--wait", "20s", "--receipt", file)
	if r.Servers != 9 || r.Denied != 9 || len(r.Behind) > 0 || len(r.Users) != 1 || r.Users[0].User != p.user.String() || r.Standing[0].State != wire.StateRevoked ||
		r.Standing[0].Why != "left the house" || !strings.HasPrefix(r.By, "nscsetup") {
		t.Errorf("%+v", r)
	}
	goesOut(t, "in its region", soon, here)
	goesOut(t, "in another region", soon, there)
	p.isOut(t, allURLs()...)
	for _, in := range []string{"ams", "sfo", "sgp"} {
		p.refused(t, in, wire.Revoked)
	}
	select {
	case <-stays:
		t.Error("another is out, too")
	default:
	}

	if s := done(t, "receipt", file); !strings.Contains(s, "denied on 9 of 9 servers") || !strings.Contains(s, "left the house") {
		t.Error(s)
	}
	text := strings.TrimSpace(string(must(os.ReadFile(file))))
	forged := filepath.Join(t.TempDir(), "forged")
	if err := os.WriteFile(forged, []byte(text[:len(text)-4]+"AAAA"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := tell(t, "receipt", forged); code != cli.Refused || !strings.Contains(errs, "believe nothing of it") {
		t.Errorf("a forged receipt: %d %s", code, errs)
	}

	// Again is no other, and says the same.
	if again := deny(t, cli.OK, "revoke", "user", p.name.String(), "--yes"); again.Standing[0].Version != r.Standing[0].Version || again.Denied != 9 {
		t.Errorf("%+v", again)
	}
	resumed := time.Now()
	deny(t, cli.OK, "resume", "user", p.name.String())
	for _, in := range []string{"sgp", "ams"} {
		p.asks(t, in)
		if took := time.Since(resumed); took > slower*2*time.Second {
			t.Errorf("in %s it is back after %s", in, took)
		}
		p.connects(t, urls(region(in))[0])
	}
	if code, _, errs := tell(t, "resume", "user", p.name.String()); code != cli.Failed || !strings.Contains(errs, "neither suspended nor revoked") {
		t.Errorf("%d %s", code, errs)
	}
	// Once more, though the credential is dated ahead by now.
	again := p.connects(t, urls(region("sfo"))[2])
	deny(t, cli.OK, "suspend", "user", p.name.String(), "--yes")
	goesOut(t, "the second time", soon, again)
	p.refused(t, "ams", wire.Suspended)
	records(t, p)
}

// records shows that who did it and why is recorded.
func records(t *testing.T, p *person) {
	t.Helper()
	key := ledger.IdentitySuspension(ident.OpenIdentity(p.user)).String()
	until := time.Now().Add(soon)
	for {
		code, out, errs := tell(t, "audit", "search", "--what", "change", "--key", key, "--json")
		if code == cli.OK && strings.Count(out, "nscsetup") >= 3 && strings.Contains(out, "left the house") && strings.Contains(out, "suspended no more") {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("it is not recorded: %d %s%s", code, out, errs)
		}
		time.Sleep(50 * time.Millisecond) // records are read, not told
	}
}

// TestRevokeKey: one nkey of several that an identity holds.
func TestRevokeKey(t *testing.T) {
	access, _ := newKey(t, orders+"/service")
	lost, kept := joinsBy(t, "ams", orders, access), joinsBy(t, "ams", orders, access)
	out, stays := lost.connects(t, urls(region("sfo"))[0]), kept.connects(t, urls(region("sfo"))[0])
	knows(t, adminAt(t, "ams"), ident.KeyIdentity(access.ID), 2)
	r := deny(t, cli.OK, "revoke", "user", lost.user.String(), "--yes")
	if len(r.Users) != 1 || r.Users[0].User != lost.user.String() {
		t.Errorf("%+v", r)
	}
	goesOut(t, "what was lost", soon, out)
	lost.refused(t, "ams", wire.Revoked)
	kept.asks(t, "ams")
	select {
	case <-stays:
		t.Error("another user of the identity is out, too")
	default:
	}
	// Of an nkey of which nothing is known the account is to be named.
	nobody := must(keystore.Generate(keystore.User)).Public()
	if code, _, errs := tell(t, "revoke", "user", nobody, "--yes"); code != cli.Refused || !strings.Contains(errs, "hint: say of which account") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestSuspendIdentity: all users of an access key are out, those too that it would get.
func TestSuspendIdentity(t *testing.T) {
	access, _ := newKey(t, orders+"/service")
	one, two := joinsBy(t, "ams", orders, access), joinsBy(t, "sfo", orders, access)
	outs := []<-chan struct{}{one.connects(t, urls(region("ams"))[0]), two.connects(t, urls(region("sgp"))[0])}
	knows(t, adminAt(t, "ams"), ident.KeyIdentity(access.ID), 2)
	r := deny(t, cli.OK, "suspend", "identity", access.ID.String(), "--yes", "--wait", "20s")
	if len(r.Users) != 2 || r.Denied != 9 {
		t.Errorf("%+v", r)
	}
	for _, out := range outs {
		goesOut(t, "a user of it", soon, out)
	}
	one.refused(t, "sgp", wire.Suspended)
	deny(t, cli.OK, "resume", "identity", access.ID.String())
	one.asks(t, "sgp")
	one.connects(t, urls(region("sgp"))[0])
}

// TestDisabledKey: who came by an access key is out when the key is disabled.
func TestDisabledKey(t *testing.T) {
	access, _ := newKey(t, orders+"/service")
	p := joinsBy(t, "sfo", orders, access)
	out := p.connects(t, urls(region("sfo"))[0])
	done(t, "access-key", "disable", access.ID.String())
	goesOut(t, "its user", soon, out)
	for _, url := range allURLs() {
		p.comesOut(t, url, soon)
	}
}

// TestSuspendAccount: everybody in it is out, static users, too, and nobody of another account;
// accounts that the platform needs are refused.
func TestSuspendAccount(t *testing.T) {
	name := account(int(fresh.Add(1)))
	access, _ := newKey(t, name+"/service")
	p, member := joinsBy(t, "ams", name, access), joins(t, "ams")
	file := filepath.Join(t.TempDir(), "static.creds")
	done(t, "add", "user", name+"/service", shared.Name("static").String(), "--out", file)
	closed := make(chan struct{})
	nc, err := nats.Connect(urls(region("sgp"))[0], nats.UserCredentials(file), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	out, stays := p.connects(t, urls(region("sfo"))[0]), member.connects(t, urls(region("sfo"))[0])
	deny(t, cli.OK, "suspend", "account", name, "--yes", "--wait", "20s")
	goesOut(t, "a user", soon, out)
	goesOut(t, "a static user", soon, closed)
	p.isOut(t, allURLs()...)
	p.refused(t, "sfo", wire.Suspended)
	select {
	case <-stays:
		t.Error("somebody of another account is out, too")
	default:
	}
	deny(t, cli.OK, "resume", "account", name)
	p.asks(t, "sfo")
	p.connects(t, urls(region("sfo"))[0])
	for _, needed := range []string{"AUTH", "LEDGER", "READERS", "SYS", "GUEST", "ADMIN"} {
		if code, _, errs := tell(t, "suspend", "account", needed, "--yes"); code != cli.Refused || !strings.Contains(errs, "does not work without") {
			t.Errorf("%s: %d %s", needed, code, errs)
		}
	}
	member.connects(t, urls(region("ams"))[0])
}

// TestAdministrators: who is granted ADMIN/admin asks without the platform folder, by a
// credential that does not live for long; nobody else can ask at all.
func TestAdministrators(t *testing.T) {
	_, file := newKey(t, "ADMIN/admin", "--name", shared.Name("root").String())
	_, no := newKey(t, orders+"/service")
	p := joins(t, "ams")
	public := filepath.Join(shared.Dir, "public")
	as := func(key string, args ...string) []string {
		return append(args, "--platform", public, "--key", key, "--yes")
	}
	if code, _, errs := tell(t, as(no, "suspend", "user", p.name.String())...); code != cli.Refused {
		t.Errorf("a key for something else: %d %s", code, errs)
	}
	r := deny(t, cli.OK, as(file, "suspend", "user", p.name.String())...)
	if !strings.Contains(r.By, "root") || !strings.Contains(r.By, "key:HK") {
		t.Errorf("by %s", r.By)
	}
	p.comesOut(t, urls(region("ams"))[0], soon)

	m := joins(t, "ams")
	nc, err := m.dial(urls(region("ams"))[0])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Request(subject.Admin("show"), []byte(`{"name":"`+p.name.String()+`"}`), time.Second); err == nil {
		t.Error("a member is answered")
	}
}

// TestResumeReplayed: what undoes a suspension undoes that one, and none that came after it.
func TestResumeReplayed(t *testing.T) {
	p := joins(t, "ams")
	nc := adminAt(t, "ams")
	ask := func(verb string, r wire.AdminRequest) (client.Administered, error) {
		return client.Administer(t.Context(), shared.Up.Platform.Operator, nc, verb, r)
	}
	first := must(ask("suspend", wire.AdminRequest{Name: p.name}))
	seen := map[string]uint64{first.Standing[0].Key: first.Standing[0].Version}
	resume := wire.AdminRequest{Name: p.name, Seen: seen}
	if got := must(ask("resume", resume)); got.Standing[0].State != wire.StateFree {
		t.Errorf("%+v", got)
	}
	must(ask("suspend", wire.AdminRequest{Name: p.name}))
	if _, err := ask("resume", resume); !errors.Is(err, &wire.Error{Code: wire.NameTaken}) {
		t.Errorf("a replayed resume: %v", err)
	}
	if got := must(ask("show", wire.AdminRequest{Name: p.name})); got.Standing[0].State != wire.StateSuspended {
		t.Errorf("%+v", got)
	}
	for what, body := range map[string]string{
		"nobody": `{}`, "two": `{"name":"alice","account":"CHAT"}`, "an unknown member": `{"name":"alice","force":true}`, "a long wait": `{"name":"alice","wait":61}`,
		"two lines": `{"name":"alice","why":"a\nb"}`, "no JSON": `revoke alice`,
	} {
		m, err := nc.Request(subject.Admin("suspend"), []byte(body), 5*time.Second)
		if err != nil || m.Header.Get(wire.HeaderErrorCode) != "400" {
			t.Errorf("%s: %v %v", what, err, m)
		}
	}
	if m, err := nc.Request(subject.Admin("explode"), []byte(`{"name":"`+p.name.String()+`"}`), 5*time.Second); err != nil || m.Header.Get(wire.HeaderErrorCode) != "400" {
		t.Errorf("an unknown verb: %v", err)
	}
}
