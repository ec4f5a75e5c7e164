package nscsetup

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/audit/stream"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// decides writes into a platform's ledger, as registrars and issuers do.
type decides struct {
	running
	tool    *apply.Tool
	opener  ledger.Opener
	signer  ledger.KeySigner
	decider *ledger.Decider
	denials *jetstream.Denials
	region  ident.Region
	now     time.Time
}

func (d decides) dial(account, role string) *nats.Conn {
	d.Helper()
	nc, err := d.tool.Dial(d.Context(), account, role)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(nc.Close)
	return nc
}

func (d decides) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func newDecides(r running) decides {
	r.Helper()
	p, err := platform.Open(r.Dir)
	if err != nil {
		r.Fatal(err)
	}
	signer, err := p.Signer()
	if err != nil {
		r.Fatal(err)
	}
	d := decides{
		running: r, tool: (&globals{}).tool(p), region: p.File.Home, now: time.Now(),
		opener: ledger.Opener{Operator: p.Operator, Now: time.Now}, signer: ledger.KeySigner{Key: signer.Key()},
	}
	store, err := jetstream.NewDecisions(d.dial(platform.Ledger, platform.RoleSetup))
	d.must(err)
	d.decider = &ledger.Decider{Store: store, Opener: d.opener, Signer: d.signer, Rules: p.Full.Names}
	d.denials = jetstream.NewDenials(d.dial(platform.Ledger, platform.RoleRegistrar), d.dial(platform.Readers, platform.RoleReader), d.region)
	return d
}

// suspend suspends who a key is about.
func (d decides) suspend(key ledger.Key) {
	d.Helper()
	e, err := ledger.Suspend(d.opener, d.signer, key, nil, true, 0, ledger.Suspension{Why: "a test"}, d.now)
	d.must(err)
	d.must(d.denials.Append(d.Context(), key, e.Token))
}

// listing runs a list until it has as many rows as there are to be: a mirror may be a
// moment behind.
func listing[T any](d decides, want int, args ...string) []T {
	d.Helper()
	var list []T
	d.eventually(30*time.Second, func() string {
		list = nil
		code, out, errs := d.run(append([]string{"list", "--json"}, args...)...)
		if code != cli.OK {
			return errs
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return err.Error()
		}
		if len(list) != want {
			return out
		}
		return ""
	})
	return list
}

func userKey(t *testing.T) ident.UserKey {
	t.Helper()
	k, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, ident.ParseUserKey, k.Public())
}

// TestLookingAtTheLedger: what list and describe say of names, invitations, access keys
// and credentials, in each of their states.
func TestLookingAtTheLedger(t *testing.T) {
	d := newDecides(startPlatform(t, uptest.Options{Regions: []string{"ams"}, Bare: true}))
	ctx := t.Context()
	label := func(s string) ident.Label { return parse(t, ident.ParseLabel, s) }
	name := func(s string) ident.Name { return parse(t, ident.ParseName, s) }

	// Names: held by somebody for a while and for good, resting, and free again.
	user := userKey(t)
	open := ident.OpenIdentity(user)
	login, err := ident.OIDCIdentity(label("corp"), "ann@example.com")
	d.must(err)
	for _, c := range []struct {
		name string
		id   ident.Identity
		ends time.Time
	}{
		{"ann", login, d.now.Add(time.Hour)},
		{"bob", open, d.now.Add(time.Hour)},
		{"carol", open, d.now.Add(time.Hour)},
		// Its time was over long ago.
		{"dave", open, d.now.Add(-90 * 24 * time.Hour)},
	} {
		_, err := d.decider.Claim(ctx, ledger.Claim{Name: name(c.name), Identity: c.id, User: user, Nonce: "n", Expires: c.ends}, d.now)
		d.must(err)
	}
	_, err = d.decider.Release(ctx, name("carol"), ident.Identity{}, ident.Identity{}, d.now)
	d.must(err)
	names := listing[listedName](d, 4, "names", "--all")
	var states []string
	for _, n := range names {
		states = append(states, n.Name+" "+n.State)
	}
	if want := []string{"ann held", "bob held", "carol resting", "dave free"}; !slices.Equal(states, want) {
		t.Errorf("names %q, want %q", states, want)
	}
	if names[0].Until != "" || names[1].Until == "" || names[0].Holder != "oidc:corp:ann@example.com" || names[1].User != user.String() {
		t.Errorf("%+v", names[:2])
	}
	if got := listing[listedName](d, 3, "names"); got[2].Name != "carol" {
		t.Errorf("without --all: %+v", got)
	}
	if code, out, errs := d.run("describe", "name", "carol"); code != cli.OK || !strings.Contains(out, "state       resting\n") || !strings.Contains(out, "version     2\n") {
		t.Errorf("carol: exit code %d, %s%s", code, out, errs)
	}
	if code, out, _ := d.run("list", "names"); code != cli.OK || !strings.Contains(out, "ann    oidc:corp:ann@example.com") || !strings.Contains(out, "until released") {
		t.Errorf("exit code %d, %s", code, out)
	}

	// Invitations: open, redeemed, used up, over, revoked.
	ids := map[string]ident.InviteID{}
	for _, i := range []struct {
		code string
		uses int
		ends time.Time
	}{{"open", 3, d.now.Add(time.Hour)}, {"used", 1, d.now.Add(2 * time.Hour)}, {"over", 1, d.now.Add(-time.Hour)}, {"revoked", 1, d.now.Add(3 * time.Hour)}} {
		ids[i.code] = ident.InviteOf(i.code)
		_, err := d.decider.CreateInvite(ctx, ids[i.code], ledger.Invite{
			Account: label("CHAT"), Role: label("member"), Uses: i.uses, Expires: i.ends.Unix(),
		}, d.now)
		d.must(err)
	}
	for _, code := range []string{"open", "used"} {
		_, err := d.decider.Redeem(ctx, ids[code], user, "n", d.now)
		d.must(err)
	}
	_, err = d.decider.RevokeInvite(ctx, ids["revoked"], d.now)
	d.must(err)
	invites := map[string]string{}
	d.eventually(30*time.Second, func() string {
		for _, i := range listing[listedInvite](d, 4, "invites", "--all") {
			invites[i.ID] = i.State
		}
		return lacking(invites, map[string]string{
			ids["open"].String(): "open", ids["used"].String(): "used up", ids["over"].String(): "over", ids["revoked"].String(): "revoked",
		})
	})
	if got := listing[listedInvite](d, 1, "invites"); got[0].Left != 2 || got[0].Uses != 3 || got[0].Role != "CHAT/member" || got[0].Redeemed != nil {
		t.Errorf("%+v", got)
	}
	if code, out, errs := d.run("describe", "invite", ids["open"].String()); code != cli.OK || !strings.Contains(out, "left        2 of 3\n") || !strings.Contains(out, "used by:\n  "+user.String()) {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, out, _ := d.run("list", "invites", "--all"); code != cli.OK || strings.Count(out, "CHAT/member") != 4 {
		t.Errorf("exit code %d, %s", code, out)
	}

	// Access keys: in use, disabled, over, removed.
	keys := map[string]ident.KeyID{}
	for i, k := range []string{"use", "disabled", "over", "removed"} {
		keys[k] = parse(t, ident.ParseKeyID, "HKAAAAAAAAAAAAAAAAA"+string(rune('A'+i)))
		a := ledger.AccessKey{
			Public: user, Owner: "team " + k + "\x1b[2J", Grants: []authn.Granted{{Account: label("CHAT"), Role: label("member"), Name: name("robot")}},
			Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		}
		if k == "over" {
			a.Expires = d.now.Add(-time.Hour).Unix()
		}
		_, err := d.decider.PutAccessKey(ctx, keys[k], a, 0, d.now)
		d.must(err)
	}
	_, err = d.decider.RemoveAccessKey(ctx, keys["removed"], d.now)
	d.must(err)
	d.suspend(ledger.IdentitySuspension(ident.KeyIdentity(keys["disabled"])))
	found := map[string]string{}
	d.eventually(30*time.Second, func() string {
		for _, k := range listing[listedKey](d, 4, "keys", "--all") {
			found[k.ID] = k.State
			if strings.Contains(k.Owner, "\x1b") || !slices.Equal(k.Grants, []string{"CHAT/member as robot"}) || !slices.Equal(k.Networks, []string{"10.0.0.0/8"}) {
				t.Errorf("%+v", k)
			}
		}
		return lacking(found, map[string]string{
			keys["use"].String(): "in use", keys["disabled"].String(): "disabled", keys["over"].String(): "over", keys["removed"].String(): "removed",
		})
	})
	listing[listedKey](d, 2, "keys")
	if code, out, errs := d.run("describe", "key", keys["disabled"].String()); code != cli.OK || !strings.Contains(out, "disabled") || strings.Contains(out, "\x1b") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, out, _ := d.run("list", "keys"); code != cli.OK || !strings.Contains(out, "never") || strings.Contains(out, "\x1b") {
		t.Errorf("exit code %d, %q", code, out)
	}
	d.records(user)

	// What somebody wrote there who may not is named, and not shown.
	forged, err := keystore.Generate(keystore.Operator)
	d.must(err)
	e := trust.Entry{Subject: "name.mallory", Version: 1, At: d.now.UnixMilli(), Body: []byte(`{"holder":"` + open.String() + `","claimed":1}`)}
	token, err := e.Sign(forged)
	d.must(err)
	d.must(d.decider.Store.Put(ctx, ledger.NameKey(name("mallory")), token, 0))
	d.eventually(30*time.Second, func() string {
		code, out, errs := d.run("list", "names")
		if code != cli.Failed || !strings.Contains(errs, "1 entries are not believed") || strings.Contains(out, "mallory") || !strings.Contains(out, "ann ") {
			return out + errs
		}
		return ""
	})
	if code, out, errs := d.run("describe", "name", "mallory"); code != cli.Failed || out != "" || !strings.Contains(errs, "not believed") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
}

// lacking says what is not as it is to be; "" if all is.
func lacking(got, want map[string]string) string {
	for k, v := range want {
		if got[k] != v {
			return k + " is " + got[k] + ", not " + v
		}
	}
	return ""
}

// records: credentials of issuers that hold, that were revoked, suspended, renewed, and
// that have ended.
func (d decides) records(user ident.UserKey) {
	t := d.T
	p := d.tool.Platform
	chat, _ := p.Account("CHAT")
	minted, err := p.Mint(platform.Auth, platform.RoleIssuer, d.now, time.Hour)
	d.must(err)
	issuer := parse(t, ident.ParseUserKey, minted.Key.Public())
	// The connection has to be that user's: its own subject is in the records.
	nc := d.as(minted)
	store, scribe := stream.New(nc, d.region, issuer), audittest.ScribeOf(t, minted.Key)
	scribe.Region = d.region
	revoked, suspended, ended := userKey(t), userKey(t), userKey(t)
	for i, rec := range []struct {
		user            ident.UserKey
		issued, expires time.Duration
	}{
		{user, -2 * time.Hour, time.Hour},
		{user, -time.Hour, 2 * time.Hour},
		{revoked, -time.Hour, time.Hour},
		{suspended, -time.Hour, time.Hour},
		{ended, -2 * time.Hour, -time.Hour},
	} {
		d.must(store.Append(t.Context(), scribe.Block(t, audit.Record{
			What: audit.Issue, At: d.now.Add(rec.issued).UnixMilli(),
			ID: trust.ID("record", string(rune('a'+i))), Request: "r", Identity: ident.OpenIdentity(rec.user), User: rec.user, Account: chat.Key,
			Role: parse(t, ident.ParseLabel, "member"), Name: parse(t, ident.ParseName, "ann"), Issued: d.now.Add(rec.issued).Unix(),
			Expires: d.now.Add(rec.expires).Unix(),
		})))
	}
	key := ledger.RevocationKey(chat.Key, revoked)
	e, err := ledger.Revoke(d.opener, d.signer, key, nil, d.now, ledger.Revocation{}, d.now)
	d.must(err)
	d.must(d.denials.Append(t.Context(), key, e.Token))
	d.suspend(ledger.UserSuspension(chat.Key, suspended))
	d.eventually(30*time.Second, func() string {
		got := map[string]string{}
		for _, u := range listing[listedUser](d, 3, "users", "--issued", "--account", "CHAT") {
			got[u.Key] = u.State
			if u.Key == user.String() && u.Expires != rfc(d.now.Add(2*time.Hour).Unix()) {
				t.Errorf("not the last credential: %+v", u)
			}
		}
		return lacking(got, map[string]string{user.String(): "issued", revoked.String(): "issued, revoked", suspended.String(): "issued, suspended"})
	})
	if code, out, _ := d.run("list", "users", "--issued"); code != cli.OK || strings.Contains(out, ended.String()) || !strings.Contains(out, "CHAT/member  ann") {
		t.Errorf("exit code %d, %s", code, out)
	}
}

// as connects as a user that was minted.
func (d decides) as(u platform.User) *nats.Conn {
	d.Helper()
	f := d.tool.Platform.File
	region, _ := f.Region(f.Home)
	nc, err := natsconn.Dial(d.Context(), natsconn.Options{
		URLs: f.ClientURLs(region), Name: "a test", Credential: natsconn.Static{Token: u.Token, Key: u.Key},
		InboxPrefix: subject.ServiceInboxPrefix(parse(d.T, ident.ParseUserKey, u.Key.Public())),
	})
	d.must(err)
	d.Cleanup(nc.Close)
	return nc
}

// TestLookingWithoutARegion: what can be read is shown, and what cannot is named.
func TestLookingWithoutARegion(t *testing.T) {
	d := newDecides(startPlatform(t, uptest.Options{Regions: []string{"ams", "sfo"}, Bare: true}))
	if _, err := d.decider.Claim(t.Context(), ledger.Claim{
		Name: parse(t, ident.ParseName, "ann"), Identity: ident.OpenIdentity(userKey(t)), User: userKey(t), Nonce: "n", Expires: d.now.Add(time.Hour),
	}, d.now); err != nil {
		t.Fatal(err)
	}
	listing[listedName](d, 1, "names", "--region", "sfo")
	// The other region, and not home, goes away.
	d.must(d.Up.Cluster.StopRegion(t.Context(), parse(t, ident.ParseRegion, "sfo")))
	if code, out, errs := d.run("list", "names"); code != cli.OK || !strings.Contains(out, "ann ") {
		t.Errorf("names by home: exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := d.run("list", "names", "--region", "sfo"); code != cli.Unavailable || out != "" {
		t.Errorf("names by sfo: exit code %d, %s%s", code, out, errs)
	}
	code, out, errs := d.run("list", "users", "--issued")
	if code != cli.Partial || !strings.Contains(out, "ROLE ") || !strings.Contains(errs, "the records of sfo could not be read") {
		t.Errorf("users: exit code %d, %s%s", code, out, errs)
	}
}
