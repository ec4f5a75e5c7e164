package registrar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// one is a registrar of region ams, with what it sends and where it stores.
type one struct {
	*registrar.Denials
	p     *ledgertest.Platform
	doc   ledger.Entry
	store *fallible
	log   *testlog.Log
	mu    sync.Mutex
	sent  []message
	lose  error // what sending answers
}

// fallible is a store that fails as a test says.
type fallible struct {
	memory.Denials
	mu    sync.Mutex
	fail  error
	first func() // called before the next write
}

func (s *fallible) Append(ctx context.Context, key ledger.Key, token string) error {
	s.mu.Lock()
	fail, first := s.fail, s.first
	s.first = nil
	s.mu.Unlock()
	if first != nil {
		first()
	}
	if fail != nil {
		return fail
	}
	return s.Denials.Append(ctx, key, token)
}

func (s *fallible) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// has is the entry that the store has of a key.
func (s *fallible) has(t *testing.T, k ledger.Key) string {
	t.Helper()
	got, err := s.Read(context.Background(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range got {
		if e.Subject == k.String() {
			return e.Data
		}
	}
	return ""
}

func newOne(t *testing.T) *one {
	t.Helper()
	o := &one{p: ledgertest.NewPlatform(t, "demo", time.Unix(1790000000, 0)), store: new(fallible), log: new(testlog.Log)}
	var names []ident.Region
	o.doc, names = threeRegions(t, o.p)
	o.Denials = &registrar.Denials{
		Region: names[0], Self: userOf(0), Store: o.store, Opener: o.p.Opener(), Signer: o.p.Signer(0),
		Publish: o.publish, Log: o.log.Logger(), Now: o.p.Now,
	}
	o.Projection = ledger.NewProjection(o.Changed)
	o.Projection.Apply(o.doc)
	return o
}

func (o *one) publish(subj string, data []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent = append(o.sent, message{subj: subj, data: data})
	return o.lose
}

// take gives what was sent since it was last asked.
func (o *one) take() []message {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.sent
	o.sent = nil
	return all
}

func (o *one) digest(region string, root []byte) []byte {
	return must(json.Marshal(map[string]any{"region": region, "from": userOf(9), "root": root}))
}

func entriesOf(pairs ...[2]string) []byte {
	var all []map[string]string
	for _, p := range pairs {
		all = append(all, map[string]string{"key": p[0], "token": p[1]})
	}
	return must(json.Marshal(map[string]any{"entries": all}))
}

// TestDenialIsInForceAtOnce: also where it cannot be stored, and in every region that
// can be told; and it is stored when that is possible.
func TestDenialIsInForceAtOnce(t *testing.T) {
	o := newOne(t)
	alice := ident.OpenIdentity(userOf(1))
	key := ledger.IdentitySuspension(alice)
	o.store.set(fmt.Errorf("%w: no quorum", ledger.ErrUnavailable))
	suspend := func() (ledger.Entry, error) {
		return o.Suspend(t.Context(), key, true, 0, ledger.Suspension{By: "admin"})
	}
	e, err := suspend()
	if !errors.Is(err, ledger.ErrUnavailable) || e.Key != key || !e.Denies {
		t.Fatalf("%+v, %v", e, err)
	}
	if _, denied := o.Projection.Denied(alice, accountOf(1), userOf(1)); !denied {
		t.Error("it is not in force")
	}
	var told []string
	for _, m := range o.take() {
		if string(m.data) != e.Token {
			t.Errorf("%s: %q", m.subj, m.data)
		}
		told = append(told, m.subj)
	}
	// The own region's stream first: whoever dies then leaves nobody alone with it.
	want := []string{"denials.ams." + key.String(), "ledger.ams.live." + key.String(), "ledger.sfo.live." + key.String(), "ledger.sgp.live." + key.String()}
	if strings.Join(told, " ") != strings.Join(want, " ") {
		t.Errorf("told %q", told)
	}
	// Who asks again is not told that it is stored while it is not.
	if again, err := suspend(); !errors.Is(err, ledger.ErrUnavailable) || again.Token != e.Token {
		t.Errorf("again: %v", err)
	}
	o.Adopt(t.Context())
	if o.Unstored() != 1 || o.store.has(t, key) != "" {
		t.Errorf("%d are not stored, and the store has %q", o.Unstored(), o.store.has(t, key))
	}
	o.store.set(nil)
	o.Adopt(t.Context())
	if o.Unstored() != 0 || o.store.has(t, key) != e.Token {
		t.Errorf("%d are not stored, and the store has %q", o.Unstored(), o.store.has(t, key))
	}
	if again, err := suspend(); err != nil || again.Token != e.Token {
		t.Errorf("again: %v", err)
	}
	// Asking again is enough as well, without Adopt.
	o.store.set(ledger.ErrUnavailable)
	r, err := o.Revoke(t.Context(), accountOf(1), userOf(1), o.p.Now(), ledger.Revocation{})
	if !errors.Is(err, ledger.ErrUnavailable) {
		t.Fatal(err)
	}
	o.store.set(nil)
	if again, err := o.Revoke(t.Context(), accountOf(1), userOf(1), o.p.Now(), ledger.Revocation{}); err != nil || again.Token != r.Token || o.store.has(t, r.Key) != r.Token {
		t.Errorf("revoked again: %v", err)
	}
	// Nothing to change and nothing known: nothing is made up.
	if e, err := o.Suspend(t.Context(), ledger.AccountSuspension(accountOf(3)), false, 0, ledger.Suspension{}); err != nil || !e.Key.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestDenialWithoutABus: that nobody can be told keeps nothing from being in force and
// stored, and does not fill the log.
func TestDenialWithoutABus(t *testing.T) {
	o := newOne(t)
	o.lose = errors.New("no connection")
	for i := range 100 {
		if _, err := o.Revoke(t.Context(), accountOf(1), userOf(byte(i+1)), o.p.Now(), ledger.Revocation{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, n := o.Projection.Len(); n != 100 || o.Unstored() != 0 {
		t.Errorf("%d are in force, %d are not stored", n, o.Unstored())
	}
	if n := strings.Count(o.log.String(), "not sent"); n == 0 || n > 15 {
		t.Errorf("%d lines in the log", n)
	}
}

// TestStatedUponWhatHolds: what comes between looking and stating is not undone.
func TestStatedUponWhatHolds(t *testing.T) {
	key := ledger.AccountSuspension(accountOf(1))
	// between lets another region's entry arrive once a statement has been signed.
	between := func(o *one, version uint64, denies bool) {
		o.Signer = signer(func(e trust.Entry) (string, error) {
			o.Signer = o.p.Signer(0)
			token, err := e.Sign(o.p.Signing[0])
			o.Projection.Apply(o.p.Entry(t, key, version, denies, o.p.Now().Add(time.Second), ledger.Suspension{By: "sfo"}))
			return token, err
		})
	}
	t.Run("a resume that a suspension came before", func(t *testing.T) {
		o := newOne(t)
		if _, err := o.Suspend(t.Context(), key, true, 0, ledger.Suspension{}); err != nil {
			t.Fatal(err)
		}
		between(o, 2, true)
		if e, err := o.Suspend(t.Context(), key, false, 1, ledger.Suspension{}); !errors.Is(err, ledger.ErrOld) {
			t.Errorf("%+v, %v", e, err)
		}
		if e, _ := o.Projection.Get(key); !e.Denies {
			t.Error("it is resumed")
		}
	})
	t.Run("a suspension that a resume came before", func(t *testing.T) {
		o := newOne(t)
		between(o, 3, false)
		e, err := o.Suspend(t.Context(), key, true, 0, ledger.Suspension{})
		if holds, _ := o.Projection.Get(key); err != nil || !e.Denies || e.Version != 4 || holds.Token != e.Token || o.store.has(t, key) != e.Token {
			t.Errorf("%+v, %v", e, err)
		}
	})
	t.Run("a revocation that a later one came before", func(t *testing.T) {
		o := newOne(t)
		key := ledger.RevocationKey(accountOf(1), userOf(1))
		later := o.p.Entry(t, key, uint64(o.p.Now().Unix()), true, o.p.Now(), ledger.Revocation{By: "sfo"}) //nolint:gosec // positive
		o.Signer = signer(func(e trust.Entry) (string, error) {
			o.Projection.Apply(later)
			return e.Sign(o.p.Signing[0])
		})
		e, err := o.Revoke(t.Context(), accountOf(1), userOf(1), o.p.Now().Add(-time.Hour), ledger.Revocation{})
		if err != nil || e.Token != later.Token || o.store.has(t, key) != later.Token {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

type signer func(trust.Entry) (string, error)

func (s signer) Sign(e trust.Entry) (string, error) { return s(e) }

// TestLateWriteIsMended: a stream may keep the last that was written of a key. An old
// entry whose write came late must not stay there in the place of a newer one.
func TestLateWriteIsMended(t *testing.T) {
	o := newOne(t)
	key := ledger.AccountSuspension(accountOf(1))
	o.store.set(ledger.ErrUnavailable)
	if _, err := o.Suspend(t.Context(), key, true, 0, ledger.Suspension{}); !errors.Is(err, ledger.ErrUnavailable) {
		t.Fatal(err)
	}
	o.store.set(nil)
	var newer ledger.Entry
	o.store.first = func() { // while the first is being adopted
		if _, err := o.Suspend(t.Context(), key, false, 1, ledger.Suspension{}); err != nil {
			t.Error(err)
		}
		var err error
		if newer, err = o.Suspend(t.Context(), key, true, 2, ledger.Suspension{}); err != nil {
			t.Error(err)
		}
	}
	o.Adopt(t.Context())
	if o.store.has(t, key) == newer.Token {
		t.Fatal("the test's own: the old entry was not written last")
	}
	o.Adopt(t.Context())
	if o.store.has(t, key) != newer.Token || o.Unstored() != 0 {
		t.Error("the stream has an entry that does not hold, and the one that does is gone")
	}
}

// TestAdoptGivesTheStreamTime: what another region wrote comes by the stream's own
// copying; only what does not come is stored by the registrar.
func TestAdoptGivesTheStreamTime(t *testing.T) {
	o := newOne(t)
	come, late := ledger.AccountSuspension(accountOf(1)), ledger.AccountSuspension(accountOf(2))
	var pairs [][2]string
	for _, k := range []ledger.Key{come, late} {
		pairs = append(pairs, [2]string{k.String(), o.p.Entry(t, k, 1, true, o.p.Now(), ledger.Suspension{}).Token})
	}
	o.Message("entries", entriesOf(pairs...))
	o.Adopt(t.Context())
	o.p.Advance(registrar.AdoptAfter - time.Millisecond)
	o.Adopt(t.Context())
	if last := must(o.store.Last(t.Context())); last != 0 {
		t.Errorf("%d entries were stored at once", last)
	}
	e, _ := o.Projection.Get(come)
	o.Stored(e)
	o.p.Advance(time.Millisecond)
	o.Adopt(t.Context())
	if o.store.has(t, come) != "" || o.store.has(t, late) == "" || o.Unstored() != 0 {
		t.Errorf("one that came by itself %q, one that did not %q, left %d", o.store.has(t, come), o.store.has(t, late), o.Unstored())
	}
	// What was seen there once and is not there any more.
	o.Spoilt(come.String())
	o.Spoilt("suspension.nobody")
	o.Spoilt(ledger.AccountSuspension(accountOf(3)).String())
	o.Adopt(t.Context())
	if o.store.has(t, come) != e.Token {
		t.Error("what is known was not stored in the place of what nobody signed")
	}
	o.store.Denials = memory.Denials{} //nolint:govet // nobody else has it
	o.Emptied()
	o.p.Advance(registrar.AdoptAfter)
	o.Adopt(t.Context())
	if o.store.has(t, come) == "" || o.store.has(t, late) == "" {
		t.Error("a stream that lost everything has not got it back")
	}
}

// TestEntriesAreBelievedForTheirSignatureAlone: whoever sends them.
func TestEntriesAreBelievedForTheirSignatureAlone(t *testing.T) {
	o := newOne(t)
	stranger := ledgertest.NewPlatform(t, "another", o.p.Now())
	key, other := ledger.AccountSuspension(accountOf(1)), ledger.AccountSuspension(accountOf(2))
	signed := func(by *ledgertest.Platform, at time.Time) string {
		return by.Entry(t, key, 1, true, at, ledger.Suspension{}).Token
	}
	good := signed(o.p, o.p.Now())
	name := ledger.NameKey(ledgertest.Name(t, "n"))
	before := o.Projection.Dump()
	unbelieved := map[string][2]string{
		"signed by a stranger":  {key.String(), signed(stranger, o.p.Now())},
		"signed by the root":    {key.String(), o.p.Token(t, o.p.Root, trust.Entry{Subject: key.String(), Version: 1, Denies: true, At: o.p.Now().UnixMilli()}, nil)},
		"altered":               {key.String(), good[:len(good)-3] + "AAA"},
		"cut off":               {key.String(), good[:len(good)/2]},
		"no entry":              {key.String(), "x"},
		"about another key":     {other.String(), good},
		"under no key":          {"", good},
		"from the future":       {key.String(), signed(o.p, o.p.Now().Add(time.Hour))},
		"a name":                {name.String(), o.p.Entry(t, name, 1, false, o.p.Now(), ledger.Name{Holder: ident.OpenIdentity(userOf(1)), Claimed: 1}).Token},
		"the platform document": {ledger.PlatformKey().String(), o.p.Document(t, 9, 9)},
	}
	for what, pair := range unbelieved {
		o.log = new(testlog.Log)
		o.Log = o.log.Logger()
		o.Message("entries", entriesOf(pair))
		if !bytes.Equal(o.Projection.Dump(), before) {
			t.Fatalf("%s: it is believed", what)
		}
		if sent := o.take(); len(sent) > 0 || o.Unstored() > 0 {
			t.Errorf("%s: it is told on, %v, or stored", what, sent)
		}
		if !strings.Contains(o.log.String(), "refused") {
			t.Errorf("%s: nothing in the log", what)
		}
	}
	// One that is good among them is believed, and told to the own region.
	all := [][2]string{{key.String(), good}}
	for _, pair := range unbelieved {
		all = append(all, pair)
	}
	o.Message("entries", entriesOf(all...))
	if e, ok := o.Projection.Get(key); !ok || e.Token != good {
		t.Error("what is signed is not believed beside what is not")
	}
	if sent := o.take(); len(sent) != 1 || sent[0].subj != subject.Live(o.Region, key.String()) || string(sent[0].data) != good {
		t.Errorf("told %v", sent)
	}
	// Heard again, it is nothing new.
	o.Message("entries", entriesOf(all...))
	if sent := o.take(); len(sent) > 0 {
		t.Errorf("told again: %v", sent)
	}
}

// TestMessagesOutOfShape: they are refused, answered by nothing, and do not fill the log.
func TestMessagesOutOfShape(t *testing.T) {
	o := newOne(t)
	if _, err := o.Revoke(t.Context(), accountOf(1), userOf(1), o.p.Now(), ledger.Revocation{}); err != nil {
		t.Fatal(err)
	}
	o.take()
	before := o.Projection.Dump()
	huge := append([]byte(`{"region":"sfo","root":"`), bytes.Repeat([]byte("A"), registrar.MaxPeer)...)
	for range 20 {
		for _, m := range []struct{ kind, data string }{
			{"digest", ""},
			{"digest", "{"},
			{"digest", `{"region":"Not a region"}`},
			{"digest", `{"root":"AAAA"}`},
			{"digest", string(huge) + `"}`},
			{"compare", ""},
			{"compare", `{"region":"sfo"}`},
			{"compare", `{"region":"sfo","buckets":"AAAA"}`},
			{"compare", `[]`},
			{"entries", ""},
			{"entries", "[]"},
			{"entries", `{"entries":{}}`},
			{"entries", string(huge) + `"}`},
			{"", "{}"},
			{"live", "{}"},
			{strings.Repeat("k", 1000), "{}"},
		} {
			o.Message(m.kind, []byte(m.data))
		}
	}
	if sent := o.take(); len(sent) > 0 || !bytes.Equal(before, o.Projection.Dump()) {
		t.Errorf("they were answered, %v, or believed", sent)
	}
	lines := strings.Split(o.log.String(), "\n")
	if len(lines) < 2 || len(lines) > 20 {
		t.Errorf("%d lines in the log", len(lines))
	}
	for _, l := range lines {
		if len(l) > 1000 {
			t.Errorf("a line of %d bytes", len(l))
		}
	}
}

// TestDigestStorm: however many digests come, a region is asked once in a while, and of
// regions that are made up not without end.
func TestDigestStorm(t *testing.T) {
	o := newOne(t)
	const seconds = 10
	for range seconds * 1000 {
		o.Message("digest", o.digest("sfo", []byte("different")))
		o.p.Advance(time.Millisecond)
	}
	sent := o.take()
	if most := int(seconds*time.Second/registrar.AskEvery) + 1; len(sent) == 0 || len(sent) > most {
		t.Errorf("a region was asked %d times in %d s", len(sent), seconds)
	}
	for _, m := range sent {
		if m.subj != "peers.sfo.compare" {
			t.Errorf("sent to %s", m.subj)
		}
	}
	for i := range 1000 {
		o.Message("digest", o.digest(fmt.Sprintf("r%d", i), []byte("different")))
	}
	if n := len(o.take()); n > registrar.MaxRegions {
		t.Errorf("%d regions were asked at once", n)
	}
	// Those that were made up keep nobody from being asked for long.
	o.p.Advance(registrar.AskEvery)
	o.Message("digest", o.digest("sfo", []byte("different")))
	if n := len(o.take()); n != 1 {
		t.Errorf("then sfo was asked %d times", n)
	}
	// Nor does a clock that was set back.
	o.p.Advance(-time.Hour)
	o.Message("digest", o.digest("sfo", []byte("different")))
	if n := len(o.take()); n != 1 {
		t.Errorf("after the clock was set back sfo was asked %d times", n)
	}
}

// TestNothingIsSentWhenEqual: nor to oneself.
func TestNothingIsSentWhenEqual(t *testing.T) {
	o := newOne(t)
	for i := range 50 {
		if _, err := o.Revoke(t.Context(), accountOf(1), userOf(byte(i)), o.p.Now(), ledger.Revocation{}); err != nil {
			t.Fatal(err)
		}
	}
	o.take()
	o.Digest()
	own := o.take()
	if len(own) != 1 || own[0].subj != subject.PeerDigests || len(own[0].data) > 512 {
		t.Fatalf("%v", own)
	}
	digest := o.Projection.DenialDigest()
	root := digest.Root()
	var buckets []byte
	for _, b := range digest {
		buckets = append(buckets, b[:]...)
	}
	o.Message("digest", o.digest("sfo", root[:]))
	o.Message("digest", own[0].data)
	compare := func(buckets []byte) []message {
		o.Message("compare", must(json.Marshal(map[string]any{"region": "sfo", "buckets": buckets})))
		return o.take()
	}
	if sent := compare(buckets); len(sent) > 0 {
		t.Errorf("sent %v", sent)
	}
	// Of a bucket that differs all is sent, of the others nothing.
	e := o.Projection.Denials(nil)[7]
	buckets[16*ledger.Bucket(e.Key)]++
	sent := compare(buckets)
	if len(sent) != 1 || sent[0].subj != "peers.sfo.entries" || !bytes.Contains(sent[0].data, []byte(e.Token)) {
		t.Errorf("sent %v", sent)
	}
	var got struct{ Entries []struct{ Key string } }
	if err := json.Unmarshal(sent[0].data, &got); err != nil {
		t.Fatal(err)
	}
	for _, s := range got.Entries {
		if ledger.Bucket(must(ledger.ParseKey(s.Key))) != ledger.Bucket(e.Key) {
			t.Errorf("%s is in another bucket", s.Key)
		}
	}
}

// TestMuchIsSentInParts: whoever lacks everything gets it in messages that a server
// takes, and another registrar too.
func TestMuchIsSentInParts(t *testing.T) {
	o, to := newOne(t), newOne(t)
	why := strings.Repeat("w", 512)
	const n = 1200
	for i := range n {
		key := ledger.RevocationKey(accountOf(byte(i%256)), userOf(byte(i/256)))
		if e, err := ledger.Revoke(o.Opener, o.Signer, key, nil, o.p.Now(), ledger.Revocation{Why: why}, o.p.Now()); err != nil || !o.Projection.Apply(*e) {
			t.Fatal(err)
		}
	}
	o.Message("compare", must(json.Marshal(map[string]any{"region": "sfo", "buckets": make([]byte, 256*16)})))
	sent := o.take()
	if len(sent) < 2 {
		t.Fatalf("%d messages", len(sent))
	}
	for _, m := range sent {
		if len(m.data) > registrar.MaxPeer/2 {
			t.Errorf("a message of %d bytes", len(m.data))
		}
		to.Message("entries", m.data)
	}
	if !bytes.Equal(to.Projection.Dump(), o.Projection.Dump()) {
		t.Error("not all of it arrived")
	}
}

// TestRun: a registrar tells what it knows every second and stores what it must, until
// it is to end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOne(t)
		time.Sleep(time.Until(o.p.Now())) // the platform's clock and the bubble's go together
		o.Now = time.Now
		o.Opener.Now = time.Now
		o.store.set(ledger.ErrUnavailable)
		key := ledger.AccountSuspension(accountOf(1))
		if _, err := o.Suspend(t.Context(), key, true, 0, ledger.Suspension{}); !errors.Is(err, ledger.ErrUnavailable) {
			t.Fatal(err)
		}
		o.take()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { o.Run(ctx); close(done) }()
		time.Sleep(10*registrar.DigestEvery + registrar.DigestEvery/2)
		if n := len(o.take()); n != 11 {
			t.Errorf("%d digests in 10 s", n)
		}
		o.store.set(nil)
		time.Sleep(registrar.DigestEvery)
		if o.Unstored() != 0 || o.store.has(t, key) == "" {
			t.Error("it was not stored when that was possible again")
		}
		if n := strings.Count(o.log.String(), "cannot be stored yet"); n == 0 || n > 15 {
			t.Errorf("%d lines in the log", n)
		}
		cancel()
		<-done
		o.take()
		time.Sleep(10 * registrar.DigestEvery)
		if n := len(o.take()); n != 0 {
			t.Errorf("%d digests after the end", n)
		}
	})
}
