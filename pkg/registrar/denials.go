package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
)

// Denials writes revocations and suspensions in one region and keeps regions equal:
// it tells each new entry to every region at once, compares digests with the
// registrars of other regions, sends them what they lack, and sees that whatever it
// knows is stored in its own region too, whoever wrote it.
//
// It needs nobody: in a region that is cut off it writes and enforces; when the link
// is back, whoever knows more says so. Its methods are safe for concurrent use.
type Denials struct {
	Region     ident.Region
	Self       ident.UserKey // this registrar, to tell its own messages apart
	Store      ledger.DenialStore
	Projection *ledger.Projection
	Opener     ledger.Opener
	Signer     ledger.Signer
	// Stated is told of each entry that this registrar stated itself, once it is in force; may
	// be nil. It must not block.
	Stated func(ledger.Entry)
	// Publish sends a message in LEDGER, to whoever is there; it may be lost.
	Publish func(subject string, data []byte) error
	Clock   *Clock // while it is wrong nothing is stated; may be nil
	Log     *slog.Logger
	Now     func() time.Time

	mu sync.Mutex
	// unstored are the keys whose entry was not seen in the own region's stream, with
	// the moment from which this registrar stores it itself. The stream's own copy of
	// what other regions wrote gets that long.
	unstored map[ledger.Key]time.Time
	asked    map[ident.Region]time.Time // when a region was last asked to compare
	answered map[ident.Region]time.Time // and when it was last sent what it lacks
	refused  uint64                     // messages and entries of other registrars that are not believed
	limit    *rate.Limiter
}

// Times of the exchange.
const (
	// DigestEvery is how often registrars tell what they know in sum.
	DigestEvery = time.Second
	// askEvery bounds how often one region is asked to compare.
	askEvery = 400 * time.Millisecond
	// adoptAfter is how long an entry that another region wrote may take to come by the
	// stream's own copying before it is stored here by this registrar.
	adoptAfter = 2 * time.Second
	// appendWait bounds the storing of one entry.
	appendWait = 3 * time.Second
	// chunk bounds one message of entries, and maxPeer what is accepted.
	chunk   = 256 << 10
	maxPeer = 1 << 20
	// maxRegions bounds how many regions are asked to compare within askEvery.
	maxRegions = 64
)

// Messages between registrars. They are believed for the signed entries in them
// alone; the worst that a false digest does is that entries are sent for nothing.
type (
	digestMsg struct {
		Region ident.Region  `json:"region"`
		From   ident.UserKey `json:"from"`
		Root   []byte        `json:"root"`
	}
	compareMsg struct {
		Region  ident.Region `json:"region"`
		Buckets []byte       `json:"buckets"`
	}
	entriesMsg struct {
		Entries []sentEntry `json:"entries"`
	}
	sentEntry struct {
		Key   string `json:"key"`
		Token string `json:"token"`
	}
)

// Kinds of messages between registrars: the last token of their subjects.
const (
	kindDigest  = "digest"
	kindCompare = "compare"
	kindEntries = "entries"
)

func (d *Denials) init() {
	if d.unstored == nil {
		d.unstored = make(map[ledger.Key]time.Time)
		d.asked, d.answered = make(map[ident.Region]time.Time), make(map[ident.Region]time.Time)
		d.limit = rate.NewLimiter(1, 10)
	}
}

// Revoke ends a user's credentials in an account that were issued at or before a
// moment. See write for what an error means.
func (d *Denials) Revoke(ctx context.Context, account ident.AccountKey, user ident.UserKey, before time.Time, r ledger.Revocation) (ledger.Entry, error) {
	return d.RevokeKey(ctx, ledger.RevocationKey(account, user), before, r)
}

// RevokeAtOnce is RevokeKey that does not wait until it is stored: that is done a moment later,
// or by RevokeKey with the same.
func (d *Denials) RevokeAtOnce(key ledger.Key, before time.Time, r ledger.Revocation) error {
	_, err := d.state(key, func(cur *ledger.Entry) (*ledger.Entry, error) {
		return ledger.Revoke(d.Opener, d.Signer, key, cur, before, r, d.Now())
	})
	return err
}

// SuspendAtOnce is Suspend in the same way.
func (d *Denials) SuspendAtOnce(key ledger.Key, suspend bool, seen uint64, s ledger.Suspension) error {
	_, err := d.state(key, func(cur *ledger.Entry) (*ledger.Entry, error) {
		return ledger.Suspend(d.Opener, d.Signer, key, cur, suspend, seen, s, d.Now())
	})
	return err
}

// RevokeKey is Revoke by the key of a revocation, which may be that of everybody.
func (d *Denials) RevokeKey(ctx context.Context, key ledger.Key, before time.Time, r ledger.Revocation) (ledger.Entry, error) {
	return d.write(ctx, key, func(cur *ledger.Entry) (*ledger.Entry, error) {
		return ledger.Revoke(d.Opener, d.Signer, key, cur, before, r, d.Now())
	})
}

// Suspend keeps an identity, a user or an account from being given credentials, or
// ends that; see ledger.Suspend, and write for what an error means.
func (d *Denials) Suspend(ctx context.Context, key ledger.Key, suspend bool, seen uint64, s ledger.Suspension) (ledger.Entry, error) {
	return d.write(ctx, key, func(cur *ledger.Entry) (*ledger.Entry, error) {
		return ledger.Suspend(d.Opener, d.Signer, key, cur, suspend, seen, s, d.Now())
	})
}

// write puts what is stated of a key in force at once, everywhere that can be reached,
// and then stores it. An error that wraps ledger.ErrUnavailable means that it is in
// force and is not stored yet: this registrar goes on trying for as long as it runs.
// What wanted no change answers the entry that holds, zero if there is none, and is
// not answered without an error before that entry is stored.
func (d *Denials) write(ctx context.Context, key ledger.Key, state func(cur *ledger.Entry) (*ledger.Entry, error)) (ledger.Entry, error) {
	e, err := d.state(key, state)
	if err != nil || e == nil || !d.lacks(key) {
		if e == nil {
			e = &ledger.Entry{}
		}
		return *e, err
	}
	if err := d.Store.Append(ctx, key, e.Token); err != nil {
		d.note(*e, d.Now())
		return *e, fmt.Errorf("%s is in force, and not stored yet: %w", key, err)
	}
	d.appended(*e)
	return *e, nil
}

// state puts what is stated of a key in force at once, everywhere that can be reached, and gives
// what holds then; nil: nothing does, and nothing was to be stated. What is new is to be stored.
// It wraps ErrClock while this machine's clock is wrong.
func (d *Denials) state(key ledger.Key, state func(cur *ledger.Entry) (*ledger.Entry, error)) (*ledger.Entry, error) {
	if err := d.Clock.Err(); err != nil {
		return nil, fmt.Errorf("nothing is stated of %s: %w", key, err)
	}
	for {
		var cur *ledger.Entry
		if e, ok := d.Projection.Get(key); ok {
			cur = &e
		}
		e, err := state(cur)
		switch {
		case err != nil:
			return nil, err
		case e == nil:
			return cur, nil
		case !d.Projection.Apply(*e):
			continue // another's came meanwhile and beats it: it is stated anew upon that
		}
		d.note(*e, d.Now().Add(adoptAfter))
		// To the own region's stream first, without looking whether it is there. A registrar that
		// dies when it has told somebody would otherwise leave an issuer that refuses whom nobody
		// else knows to be denied, and issuers tell nobody.
		d.publish(subject.DenialsPrefix(d.Region)+key.String(), []byte(e.Token))
		d.tell(*e)
		if d.Stated != nil {
			d.Stated(*e)
		}
		return e, nil
	}
}

// tell sends an entry to all regions.
func (d *Denials) tell(e ledger.Entry) {
	regions := []ident.Region{d.Region}
	if doc, _ := d.Projection.Document(); doc != nil {
		for _, r := range doc.Public.Regions {
			if r.Name != d.Region {
				regions = append(regions, r.Name)
			}
		}
	}
	for _, r := range regions {
		d.publish(subject.Live(r, e.Key.String()), []byte(e.Token))
	}
}

func (d *Denials) publish(subj string, data []byte) {
	if err := d.Publish(subj, data); err != nil && d.complain() {
		d.Log.Warn("a message to other registrars was not sent", "subject", subj, "error", err)
	}
}

func (d *Denials) complain() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	return d.limit.Allow()
}

// Changed is to be told of each entry that came to hold in the projection: one that
// the own region does not have yet is looked after.
func (d *Denials) Changed(e ledger.Entry) {
	if e.Key.Denial() {
		d.note(e, d.Now().Add(adoptAfter))
	}
}

// note remembers that an entry is to be stored here from a moment on, unless it is
// seen to be before.
func (d *Denials) note(e ledger.Entry, from time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	if at, ok := d.unstored[e.Key]; !ok || from.Before(at) {
		d.unstored[e.Key] = from
	}
}

// Stored is to be told of each entry that the own region's stream was seen to have,
// after it is applied.
func (d *Denials) Stored(e ledger.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	if cur, ok := d.Projection.Get(e.Key); ok && cur.Sum == e.Sum {
		delete(d.unstored, e.Key)
	}
}

// appended takes note that this registrar stored an entry. Where a newer one came
// meanwhile, this one may have replaced it in the stream.
func (d *Denials) appended(e ledger.Entry) {
	d.Stored(e)
	if cur, ok := d.Projection.Get(e.Key); ok && cur.Sum != e.Sum {
		d.note(cur, d.Now())
	}
}

// lacks tells whether the entry of a key was not seen in the own region's stream.
func (d *Denials) lacks(key ledger.Key) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.unstored[key]
	return ok
}

// Spoilt is to be told of a key under which the own region's stream has something
// that is not believed: what is known of it is stored again.
func (d *Denials) Spoilt(key string) {
	k, err := ledger.ParseKey(key)
	if err != nil {
		return // it is about nothing that there is
	}
	if e, ok := d.Projection.Get(k); ok {
		d.note(e, d.Now())
	}
}

// Emptied is to be told when the own region's stream has lost something: everything
// that is known is stored again, except what is then seen to be there.
func (d *Denials) Emptied() {
	for _, e := range d.Projection.Denials(nil) {
		d.note(e, d.Now().Add(adoptAfter))
	}
}

// Run tells what is known in sum, and stores what is not, until ctx ends.
func (d *Denials) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { every(ctx, DigestEvery, d.Digest) })
	every(ctx, DigestEvery, func() { d.Adopt(ctx) })
}

func every(ctx context.Context, period time.Duration, f func()) {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Digest tells all registrars what this one knows, in sum.
func (d *Denials) Digest() {
	digest := d.Projection.DenialDigest()
	root := digest.Root()
	d.send(subject.PeerDigests, digestMsg{Region: d.Region, From: d.Self, Root: root[:]})
}

func (d *Denials) send(subj string, msg any) {
	data, err := json.Marshal(msg)
	if err != nil {
		d.Log.Error("a message to other registrars cannot be encoded", "subject", subj, "error", err)
		return
	}
	d.publish(subj, data)
}

// Message takes a message of another registrar, of a kind that is the last token of
// its subject.
func (d *Denials) Message(kind string, data []byte) {
	err := fmt.Errorf("%d bytes of kind %.20q", len(data), kind)
	if len(data) <= maxPeer {
		switch kind {
		case kindDigest:
			err = d.digest(data)
		case kindCompare:
			err = d.compare(data)
		case kindEntries:
			err = d.entries(data)
		}
	}
	if err == nil {
		return
	}
	d.mu.Lock()
	d.refused++
	d.mu.Unlock()
	if d.complain() {
		d.Log.Warn("a message of another registrar is refused", "error", err)
	}
}

// digest compares another's sum with one's own, and asks that region to look where
// they differ, so that it sends what is lacking here. It hears this one's sum as well
// and does the same.
func (d *Denials) digest(data []byte) error {
	var m digestMsg
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("a digest that cannot be read: %w", err)
	}
	if m.Region.IsZero() || m.From == d.Self {
		return nil
	}
	own := d.Projection.DenialDigest()
	if root := own.Root(); slices.Equal(m.Root, root[:]) {
		return nil
	}
	if !d.mayAsk(m.Region) {
		return nil
	}
	buckets := make([]byte, 0, len(own)*len(own[0]))
	for i := range own {
		buckets = append(buckets, own[i][:]...)
	}
	d.send(subject.PeerCompare(m.Region), compareMsg{Region: d.Region, Buckets: buckets})
	return nil
}

// known tells whether the platform has a region; before its document is known, any.
func (d *Denials) known(region ident.Region) bool {
	doc, _ := d.Projection.Document()
	if doc == nil {
		return true
	}
	_, ok := doc.Public.Region(region)
	return ok
}

// mayAsk tells whether a region may be asked to compare now.
func (d *Denials) mayAsk(region ident.Region) bool {
	return d.known(region) && d.rarely(&d.asked, region)
}

// mayAnswer tells whether a region may be sent what it lacks now. It asks once in a
// while, and what is sent can be much.
func (d *Denials) mayAnswer(region ident.Region) bool {
	return d.known(region) && d.rarely(&d.answered, region)
}

// rarely tells whether a region was not dealt with lately, and notes that it is now.
func (d *Denials) rarely(when *map[ident.Region]time.Time, region ident.Region) bool {
	now := d.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	last := *when
	// A clock that was set back makes nobody wait.
	lately := func(at time.Time) bool { return now.Sub(at) < askEvery && !now.Before(at) }
	if at, ok := last[region]; ok && lately(at) {
		return false
	}
	maps.DeleteFunc(last, func(_ ident.Region, at time.Time) bool { return !lately(at) })
	if len(last) >= maxRegions {
		return false // more regions than there are: most of them are made up
	}
	last[region] = now
	return true
}

// compare sends a region what is known here in the buckets where the two differ.
func (d *Denials) compare(data []byte) error {
	var m compareMsg
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("a comparison that cannot be read: %w", err)
	}
	own := d.Projection.DenialDigest()
	if m.Region.IsZero() || len(m.Buckets) != len(own)*len(own[0]) {
		return errors.New("a comparison out of shape")
	}
	var (
		differs [ledger.Buckets]bool
		some    bool
	)
	for i := range own {
		differs[i] = !slices.Equal(own[i][:], m.Buckets[i*len(own[i]):(i+1)*len(own[i])])
		some = some || differs[i]
	}
	if !some || !d.mayAnswer(m.Region) {
		return nil
	}
	var (
		out  entriesMsg
		size int
	)
	flush := func() {
		if len(out.Entries) > 0 {
			d.send(subject.PeerEntries(m.Region), out)
		}
		out.Entries, size = nil, 0
	}
	for _, e := range d.Projection.Denials(func(e ledger.Entry) bool { return differs[ledger.Bucket(e.Key)] }) {
		out.Entries = append(out.Entries, sentEntry{e.Key.String(), e.Token})
		if size += len(e.Token) + 200; size > chunk {
			flush()
		}
	}
	flush()
	return nil
}

// entries takes what another registrar sent, believes what is signed, and tells the
// own region what was new.
func (d *Denials) entries(data []byte) error {
	var m entriesMsg
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("entries that cannot be read: %w", err)
	}
	var errs []error
	for _, s := range m.Entries {
		e, err := d.Opener.Open(s.Key, s.Token)
		if err == nil && !e.Key.Denial() {
			err = fmt.Errorf("%s is not for regions to say: %w", e.Key, ledger.ErrDamaged)
		}
		if err != nil {
			if len(errs) < 3 {
				errs = append(errs, err)
			}
			continue
		}
		if d.Projection.Apply(e) {
			d.publish(subject.Live(d.Region, e.Key.String()), []byte(e.Token))
		}
	}
	return errors.Join(errs...)
}

// Adopt stores what is known and was not seen in the own region's stream in time.
func (d *Denials) Adopt(ctx context.Context) {
	now := d.Now()
	var due []ledger.Key
	d.mu.Lock()
	d.init()
	for k, from := range d.unstored {
		if !now.Before(from) {
			due = append(due, k)
		}
	}
	d.mu.Unlock()
	failed := 0
	for _, k := range due {
		e, ok := d.Projection.Get(k)
		if !ok {
			continue
		}
		wctx, cancel := context.WithTimeout(ctx, appendWait)
		err := d.Store.Append(wctx, k, e.Token)
		cancel()
		if err != nil {
			if d.complain() {
				d.Log.Warn("a denial is in force here and cannot be stored yet", "key", k.String(), "error", err)
			}
			if failed++; failed >= 3 {
				return // the others would fare no better now
			}
			continue // what is wrong may be this one
		}
		d.appended(e)
	}
}

// Refused is how many messages of other registrars held something that is not believed.
func (d *Denials) Refused() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused
}

// Unstored is how many entries are in force here and were not seen in the region's
// stream.
func (d *Denials) Unstored() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.unstored)
}
