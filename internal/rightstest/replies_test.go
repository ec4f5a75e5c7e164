package rightstest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// streamState is what the set-up tool's user is told of the stream of names:
// its configuration and what it holds.
func streamState(ctx context.Context, t *testing.T) string {
	t.Helper()
	nc := attach(t, minted(t, platform.Ledger, platform.RoleSetup), "ams")
	defer nc.Close()
	m, err := nc.RequestWithContext(ctx, subject.NamesInfo, nil)
	if err != nil {
		t.Fatalf("the stream of names: %v", err)
	}
	var info struct {
		Error  json.RawMessage
		Config json.RawMessage
		State  struct {
			Messages      uint64 `json:"messages"`
			LastSeq       uint64 `json:"last_seq"`
			ConsumerCount int    `json:"consumer_count"`
			Deleted       int    `json:"num_deleted"`
			Subjects      int    `json:"num_subjects"`
		}
	}
	if err := json.Unmarshal(m.Data, &info); err != nil || info.Error != nil || info.Config == nil {
		t.Fatalf("the stream of names is gone: %s", m.Data)
	}
	state, err := json.Marshal(info.State)
	if err != nil {
		t.Fatal(err)
	}
	return string(info.Config) + string(state)
}

// hostile are reply subjects that would do harm in one account or another if
// the answer to a request could be aimed at them.
func hostile(victim ident.Name, other string) []string {
	key := subject.Name(victim)
	return []string{
		"$KV.names." + key, "$KV.names.evil", subject.NamesGetAny, "$JS.API.DIRECT.GET.KV_names.$KV.names." + key,
		"$JS.API.STREAM.DELETE.KV_names", "$JS.API.STREAM.PURGE.KV_names", "$JS.API.STREAM.UPDATE.KV_names",
		"$JS.API.STREAM.MSG.DELETE.KV_names", "$JS.API.STREAM.MSG.GET.KV_names", "$JS.API.CONSUMER.CREATE.KV_names",
		"$JS.API.STREAM.SNAPSHOT.KV_names", "$JS.API.STREAM.LEADER.STEPDOWN.KV_names", "$JS.API.STREAM.PEER.REMOVE.KV_names",
		subject.HomeClaim, subject.HomeRedeem, subject.Issue, subject.Renew, subject.Info, subject.Callout,
		"audit.ams." + other, "audit.sfo.x", "ledger.ams.x", "_INBOX.svc." + other + ".x",
		"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO", "$SRV.PING", "$SRV.STATS.issuer",
		"chat.KUBECON.posts.General", "chat.KUBECON.online", "chat.KUBECON.dms." + other,
	}
}

// 28, 30, 44, 45: whoever may ask chooses where the answer lands. Here guests,
// members and stolen issuers aim what they may ask at everything that hurts;
// afterwards the stream is there, as it was, with the entry that it had.
func TestHostileReplies(t *testing.T) {
	ctx := bound(t)
	_, victim := member(t, "ams", "victim")
	key := subject.Name(victim)
	before, seq := entry(ctx, t, key)
	if seq == 0 {
		t.Fatal("the victim has no entry: nothing is checked")
	}
	if _, err := shared.Public.Operator.OpenName(victim, before); err != nil {
		t.Fatal(err)
	}
	mallory, malloryName := member(t, "ams", "mallory")
	other := issuerOf(t, "sfo").key.Public()
	for i := range 2 { // names, so that there is something to answer and to list
		member(t, "ams", "extra"+string(rune('a'+i)))
	}
	state := streamState(ctx, t)

	// A claim that is mallory's own and valid, as an issuer passes it on.
	own := newAsking(t, malloryName, false, func(r *wire.Request) { r.UserKey = mallory.nkey() })
	own.key = mallory.key
	own.sign(t)
	claim, err := json.Marshal(wire.Claim{Body: own.body, Proof: own.proof})
	if err != nil {
		t.Fatal(err)
	}
	get := "$JS.API.DIRECT.GET.KV_names.$KV.names."
	iss := issuerOf(t, "ams")
	for _, attacker := range []struct {
		user   user
		inbox  string
		asks   map[string][]byte // every right to ask that it has, and what gives an answer
		marker string
	}{
		{user: guest(t), marker: subject.Info, asks: map[string][]byte{subject.Info: nil, subject.Issue: []byte("{}")}},
		{user: mallory, marker: subject.Info, asks: map[string][]byte{subject.Info: nil, subject.Renew: nil}},
		{
			user: iss, inbox: subject.ServiceInboxPrefix(iss.nkey()), marker: get + key,
			asks: map[string][]byte{
				get + key:                       nil, // another's entry
				get + "missing":                 nil, // a 404, which is empty: what STREAM.DELETE wants
				subject.NamesGetAny:             []byte(`{"seq":1,"next_by_subj":"$KV.names.>","batch":10}`),
				subject.HomeClaim:               claim,
				subject.HomeRedeem:              []byte("{}"),
				"audit.ams." + iss.key.Public(): []byte("x"),
			},
		},
	} {
		conn := enter(t, attacker.user, "ams")
		if attacker.inbox != "" {
			conn.inbox = attacker.inbox
		}
		for ask, body := range attacker.asks {
			for _, reply := range hostile(victim, other) {
				conn.pub(ask, reply, nil, body)
			}
			if errs := conn.sync(); len(errs) > 0 {
				t.Errorf("%s may not ask %s: nothing is shown: %v", attacker.user.what, ask, errs[0])
			}
			// Replies that look as if a server had made them, and $JS.ACK, which
			// an import would pass on as it is, are refused by the server.
			for _, reply := range []string{"_R_.x", "_R_." + other + ".x", "_GR_.x.y.z", "$JS.ACK.KV_names.x.1.1.1.1.0"} {
				conn.pub(ask, reply, nil, body)
				refused(t, conn.sync(), "Publish with Reply", attacker.user.what+" with the reply "+reply)
			}
			// Behind the attacks, on the same path, three times: an answer is here.
			for range 3 {
				conn.ask(ask, nil, body)
			}
		}
		for range 3 {
			conn.ask(attacker.marker, nil, nil)
		}
	}

	if after, at := entry(ctx, t, key); after != before || at != seq {
		t.Errorf("the entry was %q at %d and is %q at %d", before, seq, after, at)
	}
	for _, name := range []string{"evil", "eve", "x"} {
		if e, at := entry(ctx, t, name); at != 0 {
			t.Errorf("the bucket holds %q under %s", e, name)
		}
	}
	if now := streamState(ctx, t); now != state {
		t.Errorf("the stream was\n%s\nand is\n%s", state, now)
	}
}

// 44 for who sits beside the streams: with the LEDGER credential of any region's
// registrar, and without its operator signing key, one may write entries, which
// nobody believes without a signature; but not delete the stream or another's
// entry, whatever the answers to its questions are aimed at. (An answer without
// a body, such as a direct get's 404, is just what STREAM.DELETE wants.)
func TestRegistrarsHostileReplies(t *testing.T) {
	ctx := bound(t)
	_, victim := member(t, "sgp", "victim")
	key := subject.Name(victim)
	before, seq := entry(ctx, t, key)
	reg := registrarOf(t, "sgp")
	defer func() { // for the other tests, if it went wrong
		nc := attach(t, minted(t, platform.Ledger, platform.RoleSetup), "ams")
		if err := jetstream.Setup(bound(t), nc, shared.Up.Platform.File.Home); err != nil {
			t.Error(err)
		}
	}()
	conn := enter(t, reg, "sgp")
	conn.inbox = subject.ServiceInboxPrefix(reg.nkey())
	own := "$KV." + subject.NamesBucket + "." + subject.Name(shared.Name("own"))

	// All that the role may ask, in the forms that give an answer of each kind.
	asks := map[string][]string{}
	for _, s := range scopes(t, accounts(t)[platform.Ledger]) {
		if s.Role != platform.RoleRegistrar {
			continue
		}
		for _, may := range s.Template.Pub.Allow {
			switch {
			case may == subject.ImportedReplies:
			case may == subject.NamesKeys:
				asks[own] = []string{"x"}
			case strings.HasSuffix(may, ".>"):
				asks[strings.TrimSuffix(may, ">")+key] = []string{""}
				asks[strings.TrimSuffix(may, ">")+"missing"] = []string{""}
			default:
				asks[may] = []string{
					"", "{}", `{"last_by_subj":"$KV.names.missing"}`, `{"last_by_subj":"$KV.names.` + key + `"}`,
					`{"seq":1}`, `{"seq":1,"next_by_subj":"$KV.names.>","batch":3}`, `{"multi_last":["$KV.names.*"]}`,
				}
			}
		}
	}
	if len(asks) < 3 {
		t.Fatalf("%d rights: nothing is checked", len(asks))
	}
	for ask, bodies := range asks {
		for _, body := range bodies {
			for _, reply := range hostile(victim, reg.key.Public()) {
				if strings.HasPrefix(reply, "$KV.") {
					continue // it may write there anyway
				}
				conn.pub(ask, reply, nil, []byte(body))
			}
		}
		conn.allowed(ask)
	}
	for range 3 {
		conn.ask(subject.NamesInfo, nil, nil)
	}
	streamState(ctx, t)
	if after, at := entry(ctx, t, key); after != before || at != seq {
		t.Errorf("the entry was %q at %d and is %q at %d", before, seq, after, at)
	}
}

// 44: what is written to the ledger is believed with a registrar's signature
// alone: an entry that was forged, or is another's, claims no name.
func TestForgedEntry(t *testing.T) {
	ctx := bound(t)
	alice, aliceName := member(t, "ams", "alice")
	op := shared.Public.Operator
	real, _ := entry(ctx, t, subject.Name(aliceName))
	held, err := op.OpenName(aliceName, real)
	if err != nil || held.Identity != ident.OpenIdentity(alice.nkey()) {
		t.Fatalf("%v: %v", held, err)
	}
	other := shared.Name("copied")
	if _, err := op.OpenName(other, real); err == nil {
		t.Error("an entry is believed for another name")
	}
	for what, path := range map[string]string{
		"a role key":       rolePath(platform.ChatIn, platform.RoleMember),
		"an account key":   dir().Operator() + "/accounts/LEDGER.nk",
		"the operator key": dir().Operator() + "/operator.nk", // offline: it signs nothing but the operator
	} {
		kind := keystore.Account
		if strings.HasSuffix(path, "operator.nk") {
			kind = keystore.Operator
		}
		token, err := trust.NameEntry{Name: aliceName, Identity: held.Identity, Claimed: 1}.Sign(load(t, path, kind), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := op.OpenName(aliceName, token); err == nil {
			t.Errorf("an entry signed by %s is believed", what)
		}
	}
	// Nor is a document of another kind, signed by the right key.
	signing := load(t, dir().Operator()+"/signing/nscsetup.nk", keystore.Operator)
	doc, err := shared.Public.Document.Sign(signing, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := op.OpenName(aliceName, doc); err == nil {
		t.Error("the platform document is believed as an entry")
	}
	// What the issuer reads of a name is the same through the import.
	found, err := jetstream.Get(ctx, attach(t, issuerOf(t, "sgp"), "sgp"), aliceName)
	if err != nil || found.Entry != real {
		t.Errorf("the issuer reads %q: %v", found.Entry, err)
	}
}

// 31: an import lets its answers land anywhere in the caller's own account:
// a member's renewal on another's direct messages, posts, heartbeats and inbox.
// That cannot be prevented; so what lands there is not believed.
func TestAnswersThatLandInChat(t *testing.T) {
	mallory, malloryName := member(t, "sfo", "mallory")
	bob, _ := member(t, "sfo", "bob")
	r := room()
	dm, inbox := subject.DM(r, bob.nkey()), "_INBOX_"+bob.key.Public()+".x.1"
	ear := enter(t, bob, "sfo")
	for _, s := range []string{dm, subject.Posts(r), subject.Online(r), "_INBOX_" + bob.key.Public() + ".>"} {
		ear.sub(s, "")
	}
	ear.allowed("bob listens")
	from := enter(t, mallory, "sfo")
	dec := chat.Decoder{Room: r, Verify: func(token string, now time.Time) (ident.UserKey, ident.Name, error) {
		u, err := shared.Public.Document.VerifyUser(token, now)
		return u.Key, u.Name, err
	}}
	for _, reply := range []string{dm, subject.Post(r, label("General")), subject.Online(r), inbox} {
		for ask, body := range map[string]string{
			subject.Renew: "", subject.Info: "",
			subject.Renew + " ": `{"ttl":"-1"}`, // a refusal, whose text is partly the caller's
		} {
			from.pub(strings.TrimSpace(ask), reply, nil, []byte(body))
			m := ear.wait("the answer on "+reply, func(m msg) bool { return m.subject == reply })
			if got, err := dec.Decode(m.subject, m.body, time.Now()); err == nil {
				t.Errorf("an answer to %s on %s is shown as %+v", ask, reply, got)
			}
			// It has no reply: bob's client cannot be made to answer it.
			if m.reply != "" {
				t.Errorf("the answer on %s asks for a reply to %s", reply, m.reply)
			}
		}
	}

	// In bob's inbox, as the answer to bob's own renewal: a credential, and a
	// good one, but not for bob's nkey.
	m := from.ask(subject.Renew, nil, nil)
	answer, err := wire.DecodeAnswer(m.body)
	if err != nil {
		t.Fatal(err)
	}
	u, err := shared.Public.Document.VerifyUser(answer.JWT, time.Now())
	if err != nil || u.Key == bob.nkey() || u.Name != malloryName {
		t.Errorf("a renewal by mallory is for %v: %v", u, err)
	}

	// 31: a message of mallory's own, carried to where it was not written for,
	// is marked; and one in bob's name is not signed by bob.
	enc := chat.Encoder{Room: r, Name: malloryName, Signer: signer{mallory.key}, Rand: rand.Reader}
	out, err := enc.Post(label("General"), "hello", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := dec.Decode(dm, out.Data, time.Now()); err == nil && got.Doubt == chat.None {
		t.Errorf("a post is shown as a direct message without a doubt: %+v", got)
	}
}

type signer struct{ *keystore.Key }

func (s signer) Public() ident.UserKey { return must(ident.ParseUserKey(s.Key.Public())) }

// 47: an answer that lands on an imported subject is a new request, in its
// answerer's name: it has no reply, and the account is one that may not ask. (Its
// svc is set only where the answer itself came by an import with a
// Nats-Request-Info in it; here it is not.)
func TestAnswersThatLandOnImports(t *testing.T) {
	mallory, _ := member(t, "ams", "mallory")
	landed := 0
	// They land where the asker and the issuer have the same server.
	for _, s := range shared.Up.Cluster.Servers() {
		ear, err := dial(t, issuerOf(t, "sgp"), s.URL)
		if err != nil {
			t.Fatal(err)
		}
		ear.sub(subject.Renew, "")
		ear.allowed("an issuer listens")
		from, err := dial(t, mallory, s.URL)
		if err != nil {
			t.Fatal(err)
		}
		from.pub(subject.Info, subject.Renew, nil, nil)
		for range 3 { // behind it
			from.ask(subject.Info, nil, nil)
		}
		ear.sync()
		for _, m := range ear.msgs {
			landed++
			if trust.IsImportedReply(m.reply) {
				t.Errorf("an answer that landed on an import can be answered: %s", m.reply)
			}
			info, err := wire.DecodeRequestInfo(values(m, wire.HeaderInfo))
			if err != nil {
				t.Fatal(err)
			}
			if info.User == mallory.key.Public() {
				t.Errorf("an answer that landed on an import comes in the asker's name: %+v", info)
			}
			// Even with a reply it would not be believed: renew believes members
			// alone, info guests too.
			if u, err := shared.Public.Document.Caller(info, "_R_.x", time.Now(), label(platform.ChatIn), label(platform.Guest)); err == nil {
				t.Errorf("an answer that landed on an import is believed to come from %v", u)
			}
		}
	}
	if landed == 0 {
		t.Error("none landed: nothing is shown")
	}
}

// values are all values of a header, whose name is spelt exactly so.
func values(m msg, name string) []string {
	var v []string
	for line := range strings.SplitSeq(string(m.header), "\r\n") {
		if k, val, ok := strings.Cut(line, ":"); ok && k == name {
			v = append(v, strings.TrimSpace(val))
		}
	}
	return v
}
