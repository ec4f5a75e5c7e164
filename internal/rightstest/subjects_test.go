package rightstest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// 4: an account that has not reached a server is an Authorization Violation
// there, so a platform is ready when each server takes each kind of user.
func TestEveryServerTakesEveryRole(t *testing.T) {
	alice, _ := member(t, "ams", "every")
	for _, u := range []user{alice, guest(t), issuerOf(t, "sfo"), registrarOf(t, "sgp"), systemOf(t, "sgp")} {
		for _, s := range shared.Up.Cluster.Servers() {
			r, err := dial(t, u, s.URL)
			if err != nil {
				t.Errorf("%s at %s: %v", u.what, s.Name, err)
				continue
			}
			_ = r.conn.Close() // it was for the greeting
		}
	}
}

// 17, 28, 46, and the direct messages: what each credential may hear and say is
// what its role has, and nothing around it. Every one of these is refused by
// the server, with the word that it was the permission.
func TestForbidden(t *testing.T) {
	alice, _ := member(t, "sgp", "alice")
	bob, _ := member(t, "sgp", "bob")
	g := guest(t)
	iss, other := issuerOf(t, "ams"), issuerOf(t, "sfo")
	reg, otherReg, sys := registrarOf(t, "sfo"), registrarOf(t, "ams"), systemOf(t, "ams")
	reader, otherReader, home := readerOf(t, "sfo"), readerOf(t, "ams"), homeOf(t, "ams")
	setup := minted(t, platform.Ledger, platform.RoleSetup)
	r := room()

	// Forbidden to everyone, to hear and to say.
	both := []string{
		">", "*", "*.>", "*.*", "*.*.>", "_INBOX.>", "_INBOX.*", "_INBOX_*.>", "_INBOX.svc.*.>", "_INBOX.svc.>", "_GR_.>",
		"_INBOX_" + bob.key.Public() + ".>", "_INBOX_" + bob.key.Public() + ".x", "_INBOX.svc." + other.key.Public() + ".>",
		"_INBOX.svc." + otherReg.key.Public() + ".>", "_INBOX.svc." + otherReg.key.Public() + ".x.1",
		"$SYS.>", "$SYS.*.>", "$SYS.REQ.>", "$SYS.REQ.USER.INFO", "$SYS.REQ.USER.AUTH", "$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.>",
		"$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.LIST", "$SYS.REQ.CLAIMS.PACK", "$SYS.DEBUG.SUBSCRIBERS",
		"$SYS.REQ.SERVER.X.RELOAD", "$SYS.REQ.SERVER.X.LDM", "$SYS.REQ.SERVER.X.CONNZ", "$SYS.REQ.SERVER.PING.SUBSZ",
		"$JS.>", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.>", "$JS.API.STREAM.>",
		"$JS.API.STREAM.DELETE.*", "$JS.API.CONSUMER.>", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.CREATE.KV_decisions.c.$KV.decisions.>",
		"$JS.API.DIRECT.GET.>", "$JS.API.DIRECT.GET.*", "$JS.API.DIRECT.GET.KV_decisions", "$JS.API.STREAM.MSG.GET.*", "$JS.M.>", "$JS.S.>",
		"$JS.ACK.>", "$JS.EVENT.>", "$JS.FC.>", "$MQTT.>", "$G.>", "$LDS.>", "$GNR.>",
		"chat." + r.String() + ".>", "chat.>", "chat.*.dms.*", "chat." + r.String() + ".*.*", "chat.OTHER.posts.General", "chat.OTHER.online",
		"auth.v1.>", "auth.>", "auth.*.*",
		"audit.>", "audit.*.*", "audit.ams." + other.key.Public(), "audit.sfo." + iss.key.Public(), "ledger.>", "ledger.*.>",
		"denials.>", "denials.*.>", "denials.ams.>", "denials.sgp.>", "denials.ams.name.x", "denials.sgp.name.x", "$KV.>", "$KV.*.>",
	}
	// What JetStream is asked to change is nobody's to say, besides what the set-up tool makes.
	for _, s := range streams() {
		both = append(both, apis(s)...)
	}
	// To hear; to say some of it is somebody's right.
	hear := []string{
		"_R_.>", "_R_.*", "_R_.*.>", "$SYS.REQ.CLAIMS.UPDATE", subject.Decisions, "$KV.decisions.*", "$KV.*.name.alice",
		"denials.sfo.>", "denials.sfo.name.x", "audit.ams." + iss.key.Public(), subject.LiveAll,
		subject.DM(r, bob.nkey()), subject.DMs(r), "chat." + r.String() + ".history", "chat." + r.String() + ".marks",
		"chat." + r.String() + ".dms.>", subject.DecisionsRead,
		subject.DirectGet("DECISIONS_ams"), subject.DirectGet("DENIALS_sfo"), subject.DirectGet("AUDIT_ams"), subject.StreamInfo,
	}
	// What some role hears, forbidden to the others. (A server takes "x.>" from
	// whoever may hear "x.*", so nothing may lie below such a subject.)
	door := []string{subject.Info, subject.Issue, subject.Renew, subject.Callout, subject.HomeClaim, subject.HomeRedeem, "auth.v1.admin.>", "auth.v1.home.>", "$SRV.>", "$SRV.*.>", "$SRV.PING"}
	// Likewise of the ledger.
	news := []string{"ledger.ams.>", "ledger.sfo.>", "ledger.sgp.>", "ledger.ams.live.name.x", "records.>", "records.ams.*", "peers.>", "peers.ams.>", "peers.sfo.>", subject.EveryPeer}

	for _, c := range []struct {
		user      user
		sub, pub  []string
		can, cans []string // rights to hear and to say, so that the test can tell
	}{
		{
			// 17: all guests are one nkey; they hear their one inbox, and speak
			// to two doors. What they hear there is sealed: TestGuestsAnswers.
			user: g, can: []string{"_INBOX_" + g.key.Public() + ".>"}, cans: []string{subject.Info, subject.Issue},
			sub: slices.Concat(door, news, []string{subject.Post(r, label("General")), subject.Online(r)}),
			pub: []string{
				subject.Renew, subject.HomeClaim, subject.HomeRedeem, subject.Callout, "auth.v1.admin.suspend", "_R_.x", "_R_.>",
				"$KV.decisions.name.evil", "denials.sfo.x", subject.DirectGet("DECISIONS_ams"), subject.DecisionsRead, "peers.sfo.entries", "ledger.sfo.live.x",
				"_INBOX_" + g.key.Public() + ".x", subject.Post(r, label("General")),
				subject.DM(r, bob.nkey()), subject.Online(r), "chat.req.access", "$SRV.PING", "$SRV.INFO.issuer",
			},
		},
		{
			user: alice,
			can:  []string{"_INBOX_" + alice.key.Public() + ".>", subject.Posts(r), subject.Online(r), subject.DM(r, alice.nkey())},
			cans: []string{subject.Info, subject.Post(r, label("General")), subject.DM(r, bob.nkey()), subject.Online(r)},
			sub:  slices.Concat(door, news),
			pub: []string{
				subject.Issue, subject.HomeClaim, subject.HomeRedeem, subject.Callout, "auth.v1.admin.suspend", "_R_.x",
				"$KV.decisions.name.evil", "denials.sfo.x", subject.DirectGet("DECISIONS_ams"), subject.DecisionsRead, "peers.sfo.entries", "ledger.sfo.live.x",
				"_INBOX_" + alice.key.Public() + ".x", "$SRV.PING",
			},
		},
		{
			// A stolen issuer does not read another's answers, nor write names.
			user: iss,
			can: []string{
				subject.Info, subject.Issue, subject.Renew, subject.Callout, "$SRV.>", "ledger.ams.>",
				"_INBOX.svc." + iss.key.Public() + ".>",
			},
			cans: []string{
				"_R_.nobody", "audit.ams." + iss.key.Public(), subject.HomeClaim, subject.DirectGet("DECISIONS_ams"),
				subject.DirectGet("DECISIONS_sgp"), subject.DirectGet("DENIALS_sfo"),
			},
			sub: []string{
				"ledger.sfo.>", "ledger.sgp.>", "records.>", "records.ams.*", "records.ams." + iss.key.Public(), "peers.>", "peers.ams.>", subject.EveryPeer,
				subject.HomeClaim, "auth.v1.home.*", "auth.v1.home.>", "auth.v1.admin.>",
			},
			pub: []string{
				subject.Info, subject.Issue, subject.Renew, subject.Callout, "$SRV.PING", "$KV.decisions.name.alice", "$KV.decisions.>",
				"$JS.API.STREAM.INFO.KV_decisions", subject.DecisionsRead, "ledger.ams.x", "ledger.ams.live.name.x", "auth.v1.admin.suspend",
				"denials.ams.x", "peers.ams.entries", "records.ams.x", "_INBOX.svc." + iss.key.Public() + ".x", subject.DirectGet("OTHER"),
				subject.DirectGet("AUDIT_ams"), "$JS.API.STREAM.CREATE.KV_decisions", subject.DirectGet("DECISIONS_ams") + ".$KV.decisions.x",
			},
		},
		{
			// A region's registrar without home's credential: what home is asked it does
			// not hear, what is decided it does not write, nor what other regions deny.
			user: reg,
			can:  []string{"$SRV.>", "auth.v1.admin.*", "peers.sfo.>", subject.EveryPeer, "_INBOX.svc." + reg.key.Public() + ".>"},
			cans: []string{"_R_.nobody", "denials.sfo.x", "ledger.sgp.live.name.x", "peers.ams.entries", subject.PeerDigests},
			sub: []string{
				subject.Info, subject.Issue, subject.Renew, "$SRV.>", subject.HomeClaim, subject.HomeRedeem, subject.HomeAll, "auth.v1.home.>",
				"peers.ams.>", "peers.sgp.>", "peers.>", "peers.*.entries", "ledger.sfo.>", "ledger.ams.>", "records.>", "auth.v1.*.*",
			},
			pub: []string{
				subject.HomeClaim, "$JS.API.STREAM.CREATE.KV_decisions", "$JS.API.STREAM.UPDATE.KV_decisions", "$KV.decisions.name.x", "$KV.other.x",
				"$JS.API.STREAM.CREATE.X", subject.DecisionsRead, "$JS.API.STREAM.INFO.KV_decisions", subject.DirectGet("DECISIONS_sfo"),
				subject.DirectGet("DENIALS_sfo"), subject.DirectGet("AUDIT_sfo"), "$SRV.PING", "ledger.sfo.decisions.name.x", "ledger.sfo.denials.sfo.x",
				"records.sfo.x", "auth.v1.admin.suspend", "_INBOX.svc." + reg.key.Public() + ".x",
			},
		},
		{
			user: home,
			can:  []string{subject.HomeAll, "_INBOX.svc." + home.key.Public() + ".>"},
			cans: []string{"_R_.nobody", subject.DecisionsRead},
			sub: []string{
				subject.Info, subject.Issue, "auth.v1.admin.*", "auth.v1.*.*", "peers.ams.>", "peers.ALL.>", "ledger.ams.>", "records.>", "$SRV.>",
			},
			pub: []string{
				subject.HomeClaim, "$KV.other.x", "$JS.API.STREAM.CREATE.KV_decisions", "$JS.API.STREAM.UPDATE.KV_decisions", "$JS.API.STREAM.INFO.KV_decisions",
				"$JS.API.STREAM.MSG.GET.AUDIT_ams", subject.DirectGet("DECISIONS_ams"), subject.DirectGet("AUDIT_ams"), "ledger.ams.live.name.x",
				"peers.ams.entries", "records.ams.x", "_INBOX.svc." + home.key.Public() + ".x",
			},
		},
		{
			// Registrars read here, and say nothing but what they ask and what they record.
			user: reader,
			can:  []string{"ledger.sfo.>", "records.>", "_INBOX.svc." + reader.key.Public() + ".>"},
			cans: []string{subject.DirectGet("DECISIONS_ams"), subject.DirectGet("DENIALS_sgp"), subject.DirectGet("AUDIT_ams"), "audit.sfo." + reader.key.Public()},
			sub: []string{
				"ledger.ams.>", "ledger.sgp.>", "ledger.ams.live.name.x", "peers.sfo.>", "_INBOX.svc." + otherReader.key.Public() + ".>",
				subject.HomeAll, "auth.v1.admin.*", subject.Info, "$SRV.>",
			},
			pub: []string{
				"_R_.x", "ledger.sfo.live.name.x", "ledger.sfo.x", "records.sfo.x", "denials.sfo.x", "audit.ams." + reader.key.Public(), "audit.sfo." + otherReader.key.Public(), "audit.sfo.x",
				subject.HomeClaim, "$KV.decisions.name.x", subject.DecisionsRead, "$JS.API.STREAM.INFO.AUDIT_sfo", "$JS.API.STREAM.CREATE.X",
				subject.DirectGet("OTHER"), "peers.sfo.entries", "_INBOX.svc." + reader.key.Public() + ".x", "$SRV.PING",
			},
		},
		{
			// It makes streams, and cannot delete one or make a consumer. It is made for
			// one start, and its key is offline.
			user: setup,
			can:  []string{"_INBOX.svc." + setup.key.Public() + ".>"},
			cans: []string{"$JS.API.STREAM.INFO.KV_decisions", subject.DecisionsRead, "$JS.API.STREAM.CREATE.KV_decisions", "$JS.API.STREAM.UPDATE.KV_decisions"},
			sub:  slices.Concat(door, news),
			pub: []string{
				"_R_.x", "denials.ams.x", "denials.sfo.x", "peers.ams.entries", "ledger.ams.live.x", "records.ams.x", "$KV.other.x", subject.HomeClaim,
				"$JS.API.STREAM.MSG.GET.AUDIT_ams", subject.DirectGet("DECISIONS_ams"), "$JS.API.STREAM.LIST", "_INBOX.svc." + setup.key.Public() + ".x",
				"audit.sfo." + setup.key.Public(), "audit.ams." + reader.key.Public(), "audit.ams.x",
			},
		},
		{
			// 46: exactly the list, which TestSystemRights holds.
			user: sys,
			can:  []string{"$SYS.SERVER.*.STATSZ", "$SYS.REQ.CLAIMS.UPDATE", "_INBOX.svc." + sys.key.Public() + ".>"},
			cans: []string{"$SYS.REQ.SERVER.PING"},
			sub: []string{
				"ledger.ams.>", "records.>", "$SYS.SERVER.>", "$SYS.SERVER.*.SHUTDOWN", "$SYS.SERVER.ACCOUNT.>", "$SYS.ACCOUNT.*.DISCONNECT",
				"$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", "$SYS._INBOX.>", "$SYS.REQ.SERVER.PING",
			},
			pub: []string{
				"$SYS.REQ.SERVER.X.STATSZ", "$SYS.REQ.SERVER.PING.JSZ", "$SYS.REQ.ACCOUNT.X.INFO", "$SYS.REQ.ACCOUNT.PING.CONNZ",
				"$SYS.REQ.SERVER.X.PROFILEZ", "$SYS.REQ.ACCOUNT.X.CLAIMS.UPDATE", "$SYS.ACCOUNT.X.CLAIMS.UPDATE",
				"$JS.API.ACCOUNT.PURGE.X", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE", "$JS.API.SERVER.EVACUATE", "_R_.x",
			},
		},
	} {
		t.Run(strings.Fields(c.user.what)[0]+"_"+strings.ToLower(c.user.key.Public()[1:5]), func(t *testing.T) {
			conn := enter(t, c.user, "sgp")
			for _, s := range c.can {
				conn.sub(s, "")
				conn.allowed(c.user.what + " hears " + s)
				conn.write("UNSUB ", conn.sid, "\r\n")
			}
			for _, s := range c.cans {
				conn.pub(s, "", nil, nil)
				conn.allowed(c.user.what + " says " + s)
			}
			for _, s := range slices.Concat(both, hear, c.sub) {
				if slices.Contains(c.can, s) {
					continue
				}
				for _, queue := range []string{"", "q", "issuer"} {
					conn.sub(s, queue)
					refused(t, conn.sync(), "Subscription", c.user.what+" hears "+s+" "+queue)
				}
			}
			for _, s := range slices.Concat(both, c.pub) {
				if u := c.user; u.what == setup.what && (strings.HasPrefix(s, "$JS.API.STREAM.CREATE.") || strings.HasPrefix(s, "$JS.API.STREAM.UPDATE.")) {
					continue
				}
				// A wildcard is refused as no subject, or as not permitted.
				conn.pub(s, "", nil, []byte("{}"))
				refused(t, conn.sync(), "Publish", c.user.what+" says "+s)
			}
		})
	}
}

// refused: there is one error, and it is the permission's.
func refused(t *testing.T, errs []string, what, which string) {
	t.Helper()
	if len(errs) == 0 || !strings.Contains(errs[0], "Permissions Violation for "+what) {
		t.Errorf("%s: %v", which, errs)
	}
}

// A message to bob reaches bob and nobody else, whatever others listen to;
// also in another region than the sender's.
func TestDirectMessagesAreTheRecipients(t *testing.T) {
	alice, _ := member(t, "ams", "alice")
	bob, _ := member(t, "sgp", "bob")
	carol, _ := member(t, "sfo", "carol")
	r := room()
	to, ear := enter(t, bob, "sgp"), enter(t, carol, "sgp")
	to.sub(subject.DM(r, bob.nkey()), "")
	to.sub(subject.Posts(r), "")
	to.allowed("bob listens")
	for _, s := range []string{subject.DMs(r), subject.DM(r, bob.nkey()), "chat.>", ">"} {
		ear.sub(s, "")
		ear.sub(s, "q")
	}
	ear.sync() // refused, each; what is heard is what counts
	ear.sub(subject.Posts(r), "")
	ear.allowed("carol listens to posts")

	from := enter(t, alice, "ams")
	secret := "for-" + bob.key.Public()
	// The interest of sgp may not have reached ams yet: until bob has it.
	interest(t, from, to, subject.Post(r, label("General")))
	from.pub(subject.DM(r, bob.nkey()), "", nil, []byte(secret))
	marker := "marker-" + bob.key.Public()
	from.pub(subject.Post(r, label("General")), "", nil, []byte(marker))
	is := func(body string) func(msg) bool { return func(m msg) bool { return string(m.body) == body } }
	to.wait("the direct message", is(secret))
	ear.wait("what was sent behind it", is(marker))
	for _, m := range ear.msgs {
		if strings.Contains(string(m.all()), secret) || strings.Contains(m.subject, ".dms.") {
			t.Errorf("carol hears %s", m.all())
		}
	}
}

// interest publishes until one message has come through.
func interest(t *testing.T, from, to *raw, subj string) {
	t.Helper()
	end := time.Now().Add(patience)
	for i := 0; ; i++ {
		body := fmt.Sprintf("interest-%s-%d", from.inbox, i)
		from.pub(subj, "", nil, []byte(body))
		from.sync()
		to.sync()
		for _, m := range to.msgs {
			if strings.HasPrefix(string(m.body), "interest-"+from.inbox) {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("nothing on %s comes through", subj)
		}
		time.Sleep(5 * time.Millisecond) // between two tries
	}
}

// What a stolen role key, another platform or a name can make is refused at the
// door, or gives no more than the role. 11: a user named like a wildcard.
func TestForgedCredentials(t *testing.T) {
	memberKey := load(t, rolePath(platform.ChatIn, platform.RoleMember), keystore.Account)
	accountKey := load(t, dir().Operator()+"/accounts/"+platform.ChatIn+".nk", keystore.Account)
	stranger, err := keystore.Generate(keystore.Account)
	if err != nil {
		t.Fatal(err)
	}
	bob, _ := member(t, "sfo", "bob")
	alice, _ := member(t, "sfo", "alice")
	ledger, _ := shared.Public.Document.Account(label(platform.Ledger))
	for _, c := range []struct {
		what string
		user user
	}{
		{"signed by a key of no account", forge(t, stranger, func(*jwt.UserClaims) {})},
		{"of an account that is its own signer", forge(t, stranger, func(c *jwt.UserClaims) { c.IssuerAccount = "" })},
		// StrictSigningKeyUsage: an account key that is stolen makes nobody.
		{"signed by the account's identity key", forge(t, accountKey, func(c *jwt.UserClaims) { c.IssuerAccount = "" })},
		{"signed by the account's identity key, for the account", forge(t, accountKey, func(*jwt.UserClaims) {})},
		{"a role key in another account", forge(t, memberKey, func(c *jwt.UserClaims) { c.IssuerAccount = ledger.Key.String() })},
		{"a role key in SYS", forge(t, memberKey, func(c *jwt.UserClaims) {
			c.IssuerAccount = shared.Up.Platform.Operator.System().String()
		})},
		{"with rights of its own", forge(t, memberKey, func(c *jwt.UserClaims) { c.Sub.Allow.Add(">"); c.Pub.Allow.Add(">") })},
		{"with a bearer token", forge(t, memberKey, func(c *jwt.UserClaims) { c.BearerToken = true })},
		{"expired", forge(t, memberKey, func(c *jwt.UserClaims) { c.Expires = time.Now().Unix() - 1 })},
		{"somebody else's", user{"", bob.token, alice.key}},
		{"altered", user{"", bob.token[:len(bob.token)-3] + "AAA", bob.key}},
		{"none", user{"", "", bob.key}},
	} {
		c.user.what = c.what
		if _, err := dial(t, c.user, urls("sfo")[0]); err == nil {
			t.Errorf("a credential %s is accepted", c.what)
		}
	}

	for _, name := range []string{"*", ">", "a.*", "{{subject()}}", bob.key.Public()} {
		u := forge(t, memberKey, func(c *jwt.UserClaims) {
			c.Name = name
			c.Tags.Add("subject:"+strings.ToLower(bob.key.Public()), "region:*", "name:*")
		})
		conn := enter(t, u, "sfo")
		conn.sub(subject.DM(room(), u.nkey()), "")
		conn.allowed("its own")
		for _, s := range []string{subject.DMs(room()), subject.DM(room(), bob.nkey()), "_INBOX_" + bob.key.Public() + ".>", "_INBOX_*.>"} {
			conn.sub(s, "")
			refused(t, conn.sync(), "Subscription", "a user named "+name+" hears "+s)
		}
	}
}
