package rightstest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// 44: what is written to the ledger is believed with a registrar's signature
// alone: an entry that was forged, or is another's, claims no name.
func TestForgedEntry(t *testing.T) {
	ctx := bound(t)
	alice, aliceName := member(t, "ams", "alice")
	key := ledger.NameKey(aliceName).String()
	real, _ := entry(ctx, t, key)
	held, err := opener().Open(key, real)
	body, _ := held.Body.(ledger.Name)
	if err != nil || body.Holder != ident.OpenIdentity(alice.nkey()) {
		t.Fatalf("%+v: %v", held, err)
	}
	for what, f := range forgeries(t, key, real) {
		if e, err := opener().Open(f.key, f.token); err == nil {
			t.Errorf("%s is believed: %+v", what, e)
		}
	}
	// Nor is a document of another kind, signed by the right key.
	signing := load(t, dir().Operator()+"/signing/nscsetup.nk", keystore.Operator)
	doc, err := shared.Public.Document.Sign(signing, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opener().Open(key, doc); err == nil {
		t.Error("the platform document is believed as an entry")
	}
	// What the issuer reads of a name is the same through the import.
	found, mirror := "", jetstream.MirrorSource(attach(t, issuerOf(t, "sfo"), "sfo"), region("sfo"))
	eventually(t, "the mirror", func() bool {
		list, err := mirror.Read(ctx, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Subject == key {
				found = e.Data
			}
		}
		return found != ""
	})
	if found != real {
		t.Errorf("the issuer reads %q", found)
	}
}

// forged is something that no reader may believe under a key.
type forged struct{ key, token string }

// forgeries are made of a real entry, each in the way of somebody else who got hold
// of something; none of them with this platform's operator signing keys.
func forgeries(t *testing.T, key, real string) map[string]forged {
	t.Helper()
	e, err := shared.Public.Operator.OpenEntry(real)
	if err != nil {
		t.Fatal(err)
	}
	e.Version, e.At, e.Denies = e.Version+1, time.Now().UnixMilli(), !e.Denies
	all := map[string]forged{}
	sign := func(what string, k *keystore.Key) string {
		token, err := e.Sign(k)
		if err != nil {
			t.Fatal(err)
		}
		all["an entry signed by "+what] = forged{key, token}
		return token
	}
	for what, kind := range map[string]keystore.Kind{
		"another operator's signing key": keystore.Operator, "an unknown account": keystore.Account, "a user's own nkey": keystore.User,
	} {
		k, err := keystore.Generate(kind)
		if err != nil {
			t.Fatal(err)
		}
		sign(what, k)
	}
	sign("an issuer's nkey", issuerOf(t, "sfo").key)
	sign("a registrar's nkey", registrarOf(t, "sfo").key)
	sign("a role key", load(t, rolePath(platform.ChatIn, platform.RoleMember), keystore.Account))
	sign("an account key", load(t, dir().Operator()+"/accounts/LEDGER.nk", keystore.Account))
	// Offline, and it signs nothing but the operator and epochs.
	own := sign("the operator key", load(t, dir().Operator()+"/operator.nk", keystore.Operator))

	parts, others := strings.Split(real, "."), strings.Split(own, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.ReplaceAll(payload, []byte(`"version":`), []byte(`"version":9`))
	newer := base64.RawURLEncoding.EncodeToString(altered)
	if bytes.Equal(altered, payload) {
		t.Fatal("nothing was altered")
	}
	all["an altered entry"] = forged{key, parts[0] + "." + newer + "." + parts[2]}
	all["an entry with another's signature"] = forged{key, parts[0] + "." + parts[1] + "." + others[2]}
	all["an entry of another payload"] = forged{key, parts[0] + "." + others[1] + "." + parts[2]}
	all["an entry that needs no signature"] = forged{key, unsigned(t, real)}
	all["an entry with a line behind it"] = forged{key, real + "\n"}
	all["an entry in quotes"] = forged{key, `"` + real + `"`}
	all["an entry under another key"] = forged{"name.someone-else", real}
	all["an entry under a key of another kind"] = forged{"suspension.account." + shared.Up.Platform.Operator.System().String(), real}
	all["an entry under a key below"] = forged{key + ".x", real}
	all["a user JWT"] = forged{key, guest(t).token}
	all["an account JWT"] = forged{key, accountTokens()[0]}
	all["an acknowledgement"] = forged{key, `{"stream":"KV_decisions","seq":1}`}
	all["nothing"] = forged{key, ""}
	all["JSON"] = forged{key, "{}"}
	return all
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
