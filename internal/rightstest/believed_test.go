package rightstest

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// obtain asks a region's issuers for a name once, and tells how it was refused; "" is
// that it was given.
func obtain(t *testing.T, in string, key *keystore.Key, name ident.Name) wire.Code {
	t.Helper()
	a := newAsking(t, name, false, func(r *wire.Request) { r.UserKey = must(ident.ParseUserKey(key.Public())) })
	a.key = key
	a.sign(t)
	conn := enter(t, guest(t), in)
	defer func() { _ = conn.conn.Close() }() // it has been answered
	return refusal(t, conn.ask(subject.Issue, a.headers(), a.body))
}

func newKey(t *testing.T) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// decisions is home's bucket for who has home's credential, and with it or without
// it the signing key of its registrar.
func decisions(t *testing.T) (*jetstream.Decisions, *ledger.Decider) {
	t.Helper()
	store := must(jetstream.NewDecisions(attach(t, homeOf(t, "ams"), "ams")))
	signing := load(t, dir().Registrar(region("ams"))+"/"+platform.SigningFile, keystore.Operator)
	return store, &ledger.Decider{Store: store, Opener: opener(), Signer: ledger.KeySigner{Key: signing}, Rules: ledger.NameRules{Lapse: time.Hour}}
}

// known waits until every service knows the entry of a name in a version.
func known(t *testing.T, name ident.Name, version uint64) {
	t.Helper()
	for _, r := range shared.Up.Services {
		eventually(t, "the "+r.Service+" of "+r.Region.String()+" to know "+name.String(), func() bool {
			return r.Known().Version(ledger.NameKey(name)) == version
		})
	}
}

// past is what was true once: entries that a registrar signed, and that newer ones
// have replaced since.
type past struct {
	name       ident.Name // alice's first, then released, and bob's now
	alice, bob *keystore.Key
	dave       *keystore.Key // suspended, resumed, and suspended again
	daves      ident.Name
	older      []forged // by key
	now        []forged
}

func history(t *testing.T) past {
	t.Helper()
	ctx := bound(t)
	p := past{name: shared.Name("moved"), alice: newKey(t), bob: newKey(t), dave: newKey(t), daves: shared.Name("dave")}
	key := ledger.NameKey(p.name)
	note := func(to *[]forged, key, token string) { *to = append(*to, forged{key, token}) }
	if c := obtain(t, "ams", p.alice, p.name); c != "" {
		t.Fatal(c)
	}
	first, _ := entry(ctx, t, key.String())
	note(&p.older, key.String(), first)
	_, decider := decisions(t)
	gone, err := decider.Release(ctx, p.name, ident.Identity{}, ident.Identity{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	note(&p.older, key.String(), gone.Token)
	known(t, p.name, gone.Version)
	if c := obtain(t, "sfo", p.bob, p.name); c != "" {
		t.Fatalf("a released name is not given: %s", c)
	}
	last, _ := entry(ctx, t, key.String())
	note(&p.now, key.String(), last)
	known(t, p.name, gone.Version+1)

	if c := obtain(t, "sgp", p.dave, p.daves); c != "" {
		t.Fatal(c)
	}
	id := ledger.IdentitySuspension(ident.OpenIdentity(must(ident.ParseUserKey(p.dave.Public()))))
	denials := running(t, service.Registrar, "sfo").Denials()
	for i, suspend := range []bool{true, false, true} {
		e, err := denials.Suspend(ctx, id, suspend, uint64(i), ledger.Suspension{Why: "a test"})
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			note(&p.older, id.String(), e.Token)
		} else {
			note(&p.now, id.String(), e.Token)
		}
	}
	settle(t)
	return p
}

// What is believed of what is no longer true, of forgeries, and of junk.
func TestBelieved(t *testing.T) {
	p := history(t)
	t.Run("junk_in_home", func(t *testing.T) { junkInHomesBucket(t, p) })
	t.Run("planted_news", func(t *testing.T) { plantedNews(t, p) })
}

// holds: what is so now is so for everybody who asks, in every region.
func (p past) holds(t *testing.T) {
	t.Helper()
	for _, in := range []string{"ams", "sfo", "sgp"} {
		if c := obtain(t, in, p.alice, p.name); c != wire.NameTaken {
			t.Errorf("%s: who had the name before: %q", in, c)
		}
		if c := obtain(t, in, p.bob, p.name); c != "" {
			t.Errorf("%s: who has the name: %q", in, c)
		}
		if c := obtain(t, in, p.dave, p.daves); c != wire.Suspended {
			t.Errorf("%s: who is suspended again: %q", in, c)
		}
	}
}

// planted is everything that somebody without a signing key could have: forgeries of
// what is true now, and what was true before.
func (p past) planted(t *testing.T) []forged {
	t.Helper()
	all := slices.Clone(p.older)
	for _, real := range p.now {
		f := forgeries(t, real.key, real.token)
		for _, what := range sortedKeys(f) {
			all = append(all, f[what])
		}
	}
	return all
}

// heard is how many hints a service took or refused.
func heard(r *service.Running) uint64 {
	s := r.Follower().Stats()
	return s.Hints + s.HintsRefused
}

// 36, 44: hints are believed for what is signed alone, and a genuine one that is older
// takes nothing back. A thief says them directly in LEDGER, sends them to registrars,
// stores them among the denials of its region; and lets direct gets carry them to
// where issuers and registrars listen, in accounts where nobody may publish news.
func plantedNews(t *testing.T, p past) {
	ctx := bound(t)
	plants := p.planted(t)
	denials := 0 // what else is decided in home comes by another way, and is passed over
	for _, f := range plants {
		if ledger.IsDenial(f.key) {
			denials++
		}
	}
	before := settle(t)

	counts := map[*service.Running]uint64{}
	for _, r := range shared.Up.Services {
		counts[r] = heard(r)
	}
	reg := enter(t, of(t, platform.Ledger, platform.RoleRegistrar, "sfo"), "sfo")
	for _, in := range []string{"ams", "sfo", "sgp"} {
		type sent struct {
			Key   string `json:"key"`
			Token string `json:"token"`
		}
		var peers struct {
			Entries []sent `json:"entries"`
		}
		for _, f := range plants {
			reg.pub(subject.Live(region(in), f.key), "", nil, []byte(f.token))
			peers.Entries = append(peers.Entries, sent{f.key, f.token})
		}
		reg.pub(subject.PeerEntries(region(in)), "", nil, must(json.Marshal(peers)))
		reg.pub(subject.PeerCompare(region(in)), "", nil, []byte(`{"region":"sfo","buckets":""}`))
		reg.pub(subject.PeerDigests, "", nil, []byte(`{"region":"`+in+`","from":"`+reg.inbox[len("_INBOX_"):]+`","root":"AAAA"}`))
	}
	reg.allowed("saying what is news")
	for _, r := range shared.Up.Services {
		eventually(t, "the hints to reach the "+r.Service+" of "+r.Region.String(), func() bool {
			return heard(r) >= counts[r]+uint64(denials)
		})
	}
	believes(t, before)

	// Stored, under the keys themselves: the streams have what others wrote besides.
	for _, f := range plants {
		reg.pub(subject.DenialsPrefix(region("sfo"))+f.key, "", nil, []byte(f.token))
	}
	reg.allowed("storing denials")
	reader := attach(t, readerOf(t, "ams"), "ams")
	var stored []ledger.Stored
	for _, r := range shared.Public.Document.Regions {
		eventually(t, "what was stored to be everywhere", func() bool {
			var err error
			stored, err = jetstream.DenialsSource(reader, r.Name).Read(ctx, 0, 1000)
			return err == nil && slices.ContainsFunc(stored, func(s ledger.Stored) bool {
				return s.Data == plants[len(plants)-1].token && s.Subject == plants[len(plants)-1].key
			})
		})
	}
	believes(t, before)

	// Carried by direct gets: in AUTH and in READERS each planted entry that is stored
	// anywhere lands on each kind of news about each key.
	for account, role := range map[string]string{platform.Auth: platform.RoleIssuer, platform.Readers: platform.RoleReader} {
		kind := service.Issuer
		if account == platform.Readers {
			kind = service.Registrar
		}
		u := of(t, account, role, "sfo")
		conn := enter(t, u, "sfo")
		conn.inbox = subject.ServiceInboxPrefix(u.nkey())
		ear := running(t, kind, "sfo")
		was, n := heard(ear), 0
		for _, f := range slices.Concat(p.older, p.now) {
			for _, news := range []string{"live.", "decisions.", "denials.sfo."} {
				reply := subject.LedgerNewsPrefix(region("sfo")) + news + f.key
				if ledger.IsDenial(f.key) != (news == "decisions.") {
					n++
				}
				for _, stream := range []string{subject.DenialsStream(region("sfo")), subject.MirrorStream(region("sfo"))} {
					get := subject.DirectGet(stream)
					conn.pub(get, reply, nil, []byte(`{"last_by_subj":"missing.x"}`)) // 404: nothing
					conn.pub(get, reply, nil, []byte(`{"seq":1,"next_by_subj":">","batch":200}`))
				}
			}
		}
		conn.allowed("reading")
		// Each reply brought a whole stream.
		eventually(t, "what was read to arrive as news in "+account, func() bool { return heard(ear) >= was+uint64(n*len(stored)/2) })
		conn.ask(subject.DirectGet(subject.DenialsStream(region("sfo"))), nil, nil)
	}
	believes(t, before)
	last := listening(t, "sgp")
	believes(t, before, last)
	p.holds(t)

	// And what junk has pushed out of the stream, sfo's registrar has stored again.
	eventually(t, "the suspension to be stored again", func() bool {
		list, err := jetstream.DenialsSource(reader, region("sfo")).Read(ctx, 0, 1000)
		return err == nil && slices.ContainsFunc(list, func(s ledger.Stored) bool { return s.Subject == p.now[1].key && s.Data == p.now[1].token })
	})
}

// 44: with home's credential and without a signing key one may write entries, and that
// is all: nobody believes them, what was known goes on, of what was not nothing is
// decided, and somebody is told. An older entry that is put back is junk too.
func junkInHomesBucket(t *testing.T, p past) {
	ctx := bound(t)
	store, _ := decisions(t)
	carol, carols := newKey(t), shared.Name("carol")
	if c := obtain(t, "ams", carol, carols); c != "" {
		t.Fatal(c)
	}
	before := settle(t)
	fresh := shared.Name("fresh")
	write := func(name ident.Name, token string) (undo func()) {
		t.Helper()
		key := ledger.NameKey(name)
		old, revision := entry(ctx, t, key.String())
		if err := store.Put(ctx, key, token, revision); err != nil {
			t.Fatal(err)
		}
		return func() {
			t.Helper()
			if _, revision = entry(ctx, t, key.String()); old != "" {
				must(0, store.Put(ctx, key, old, revision))
			}
		}
	}
	// mirrored waits until every region's mirror has what was written.
	mirrored := func(token string) {
		t.Helper()
		reader := attach(t, readerOf(t, "ams"), "ams")
		defer reader.Close()
		for _, r := range shared.Public.Document.Regions {
			eventually(t, "a mirror", func() bool {
				list, err := jetstream.MirrorSource(reader, r.Name).Read(ctx, 0, 1000)
				return err == nil && slices.ContainsFunc(list, func(s ledger.Stored) bool { return s.Data == token })
			})
		}
	}
	f := forgeries(t, p.now[0].key, p.now[0].token)
	for _, what := range sortedKeys(f) {
		if f[what].key == p.now[0].key {
			write(p.name, f[what].token)
		}
	}
	defer write(p.name, p.older[0].token)()
	defer write(carols, `{"stream":"KV_decisions","seq":1}`)()
	write(fresh, "junk")
	mirrored("junk")
	listening(t, "ams")
	for _, r := range shared.Up.Services {
		if v := r.Known().Version(ledger.NameKey(fresh)); v != 0 {
			t.Errorf("the %s of %s knows %s in version %d", r.Service, r.Region, fresh, v)
		}
	}
	now := settle(t)
	for _, part := range strings.Split(before, "\x00") {
		if !strings.Contains(now, part) {
			t.Errorf("what was known is not known any more: %.100q", part)
		}
	}
	p.holds(t)
	for _, in := range []string{"ams", "sfo", "sgp"} {
		if c := obtain(t, in, carol, carols); c != "" {
			t.Errorf("%s: the holder of a name that is junk in the bucket: %q", in, c)
		}
		if c := obtain(t, in, newKey(t), carols); c != wire.NameTaken {
			t.Errorf("%s: somebody else asks for it: %q", in, c)
		}
		if c := obtain(t, in, newKey(t), fresh); c != wire.ReadOnly {
			t.Errorf("%s: a name that nobody had and that is junk: %q", in, c)
		}
	}
	// Home itself decides nothing upon either, whoever asks.
	u := of(t, platform.Auth, platform.RoleIssuer, "ams")
	conn := enter(t, u, "ams")
	conn.inbox = subject.ServiceInboxPrefix(u.nkey())
	for name, key := range map[ident.Name]*keystore.Key{p.name: p.alice, carols: newKey(t), fresh: newKey(t)} {
		m := conn.ask(subject.HomeClaim, nil, heldClaim(t, user{"", "", key}, name))
		if c := refusal(t, m); c != wire.ReadOnly {
			t.Errorf("home, of %s: %q", name, c)
		}
	}
	logged(t, "refused", fresh.String(), string(wire.ReadOnly), "not believed")
	// Followers do not say the same for ever: until one says it again.
	eventually(t, "the log to name the junk", func() bool {
		write(fresh, "junk "+shared.Name("x").String())
		time.Sleep(50 * time.Millisecond) // between two tries
		return hasLog("a stored entry is not believed", ledger.NameKey(fresh).String())
	})
}

// hasLog tells whether one line of the log has all of the words.
func hasLog(words ...string) bool {
	for line := range bytes.Lines(logs.Bytes()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !bytes.Contains(line, []byte(w)) }) {
			return true
		}
	}
	return false
}

func logged(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, "the log to say "+strings.Join(words, ", "), func() bool { return hasLog(words...) })
}

// A record is believed for the issuer and the region under whose subject it lies; and
// an issuer can write under its own alone.
func TestForgedRecords(t *testing.T) {
	alice, name := member(t, "ams", "alice")
	id := ident.OpenIdentity(alice.nkey())
	chat, _ := shared.Public.Document.Account(label(platform.ChatIn))
	u := of(t, platform.Auth, platform.RoleIssuer, "ams")
	eventually(t, "alice's record", func() bool {
		return len(running(t, service.Registrar, "sgp").Holdings().Of(id, time.Now())) == 1
	})
	scribe := audittest.ScribeOf(t, u.key)
	good := audit.Record{
		What: audit.Issue, At: time.Now().UnixMilli(), ID: "x", Identity: id, User: u.nkey(), Account: chat.Key, Role: label("member"), Name: name,
		Issued: time.Now().Unix(), Expires: time.Now().Add(time.Minute).Unix(),
	}
	block := func() []byte { return scribe.Block(t, good).Data }
	with := func(f func(*audit.Record)) []byte {
		r := good
		f(&r)
		return scribe.Block(t, r).Data
	}
	// As a writer would that is another, or in another region.
	as := func(f func(*audittest.Scribe)) []byte {
		other := *scribe
		f(&other)
		return other.Block(t, good).Data
	}
	conn := enter(t, u, "ams")
	conn.inbox = subject.ServiceInboxPrefix(u.nkey())
	for what, data := range map[string][]byte{
		"of another issuer":       as(func(s *audittest.Scribe) { s.User = issuerOf(t, "ams").nkey() }),
		"of another region":       as(func(s *audittest.Scribe) { s.Region = region("sfo") }),
		"of a key that is not it": as(func(s *audittest.Scribe) { s.Key = must(keystore.Generate(keystore.User)) }),
		"of a life too long":      with(func(r *audit.Record) { r.Expires += 100 * 24 * 3600 }),
		"of the far future":       with(func(r *audit.Record) { r.Issued += 3600; r.Expires += 3600 }),
		"that was altered":        bytes.Replace(block(), []byte(`"role":"member"`), []byte(`"role":"nember"`), 1),
		"that was cut off":        block()[:200],
		"that nobody signed":      must(json.Marshal(good)),
		"that is a list":          []byte("[]"),
		"that is a signature":     []byte(alice.token),
	} {
		if m := conn.ask("audit.ams."+u.key.Public(), nil, data); kind(m) != "ack" {
			t.Errorf("a record %s is not stored: nothing is shown: %s", what, m.all())
		}
	}
	// Behind them, one that is as an issuer's are.
	last := good
	last.Identity = ident.OpenIdentity(u.nkey())
	if m := conn.ask("audit.ams."+u.key.Public(), nil, scribe.Block(t, last).Data); kind(m) != "ack" {
		t.Fatalf("%s", m.all())
	}
	for _, r := range shared.Up.Services {
		if r.Holdings() == nil {
			continue
		}
		eventually(t, "the last record", func() bool { return len(r.Holdings().Of(last.Identity, time.Now())) == 1 })
		if held := r.Holdings().Of(id, time.Now()); len(held) != 1 || held[0].User != alice.nkey() {
			t.Errorf("the registrar of %s believes that alice holds %v", r.Region, held)
		}
	}
}
