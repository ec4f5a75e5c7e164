package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
)

// Projection is the whole ledger in memory, as a reader knows it: of every key the
// entry that beats all others that were seen. Entries may be applied in any order
// and again. It is safe for concurrent use; look-ups take no lock that a fill holds
// for longer than one entry.
//
// Names, of which there may be a million, are kept as what they say; of all other
// entries the token is kept too, so that they can be handed on.
type Projection struct {
	seed   maphash.Seed
	names  [shards]nameShard
	others [2]otherEntries // decided in home, denials
	doc    atomic.Pointer[Entry]
	digest digest // of denials
	held   *holders

	changed func(Entry) // called for each entry that came to hold; may be nil
}

// shards bounds how many look-ups wait for one entry that is written. A power of two.
const shards = 64

type nameShard struct {
	mu sync.RWMutex
	t  nameTable
}

// name is a Name as it is kept: without what only an auditor wants to know.
type name struct {
	holder       ident.Identity
	until, rests int64
	order
}

type otherEntries struct {
	mu sync.RWMutex
	m  map[Key]Entry
	// redeemed are the invitations that a user came with.
	redeemed map[ident.UserKey][]Key
	// revoked are the revocations of each account that has some.
	revoked map[ident.AccountKey]map[Key]Revocation
}

// NewProjection gives an empty projection. changed is called with each entry that
// came to hold, after it does, by whoever applies it: it must not block. It may be
// nil.
func NewProjection(changed func(Entry)) *Projection {
	p := &Projection{seed: maphash.MakeSeed(), changed: changed}
	for i := range p.others {
		p.others[i].m = make(map[Key]Entry)
	}
	return p
}

// shard gives where a name is kept, and its hash there.
func (p *Projection) shard(n ident.Name) (*nameShard, uint32) {
	h := maphash.String(p.seed, n.String())
	return &p.names[(h>>32)%shards], uint32(h) // #nosec G115 -- the lower half
}

// Apply takes an entry that was opened, and tells whether it holds now and did not
// before.
func (p *Projection) Apply(e Entry) bool {
	var changed bool
	if n := e.Key.Name(); !n.IsZero() {
		body, _ := e.Body.(Name)
		changed = p.applyName(n, name{holder: body.Holder, until: body.Until, rests: body.Rests, order: e.order()})
	} else {
		changed = p.applyOther(e)
	}
	if changed && p.changed != nil {
		p.changed(e)
	}
	return changed
}

func (p *Projection) applyName(n ident.Name, next name) bool {
	s, hash := p.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	cur := s.t.find(hash, n)
	switch {
	case cur == nil:
		p.held.swap(p.seed, name{}, next)
		s.t.add(hash, n, next)
	case !next.beats(cur.order):
		return false
	default:
		p.held.swap(p.seed, *cur, next)
		*cur = next
	}
	return true
}

func (p *Projection) applyOther(e Entry) bool {
	class := classOf(e.Key)
	o := &p.others[class]
	o.mu.Lock()
	defer o.mu.Unlock()
	cur, ok := o.m[e.Key]
	if ok && !e.Beats(cur) {
		return false
	}
	o.m[e.Key] = e
	if i, ok := e.Body.(Invite); ok {
		o.redeem(e.Key, i)
	}
	if r, ok := e.Body.(Revocation); ok {
		o.revoke(e.Key, r)
	}
	if e.Key.Denial() {
		p.digest.swap(e.Key, cur.Sum, e.Sum)
	}
	if e.Key.Kind() == KindPlatform {
		p.doc.Store(&e)
	}
	return true
}

// redeem takes note of who came with an invitation.
func (o *otherEntries) redeem(k Key, i Invite) {
	if o.redeemed == nil {
		o.redeemed = make(map[ident.UserKey][]Key)
	}
	for _, r := range i.Redeemed {
		if !slices.Contains(o.redeemed[r.User], k) {
			o.redeemed[r.User] = append(o.redeemed[r.User], k)
		}
	}
}

func (o *otherEntries) revoke(k Key, r Revocation) {
	a := k.Account()
	if o.revoked == nil {
		o.revoked = make(map[ident.AccountKey]map[Key]Revocation)
	}
	if o.revoked[a] == nil {
		o.revoked[a] = make(map[Key]Revocation)
	}
	o.revoked[a][k] = r
}

// Revoked gives the revocations of an account; the key's User is zero for that of everybody.
func (p *Projection) Revoked(account ident.AccountKey) map[Key]Revocation {
	o := &p.others[1]
	o.mu.RLock()
	defer o.mu.RUnlock()
	return maps.Clone(o.revoked[account])
}

// Redeemed gives what the invitations are for that a user came with, also those that were
// revoked since: who was let in keeps what they have.
func (p *Projection) Redeemed(user ident.UserKey) []authn.Granted {
	o := &p.others[0]
	o.mu.RLock()
	defer o.mu.RUnlock()
	var all []authn.Granted
	for _, k := range o.redeemed[user] {
		if i, ok := o.m[k].Body.(Invite); ok && i.RedeemedBy(user) {
			all = append(all, i.Granted())
		}
	}
	return all
}

// AccessKey gives an access key that was not removed.
func (p *Projection) AccessKey(id ident.KeyID) (authn.KeyRecord, bool) {
	e, ok := p.Get(AccessKeyKey(id))
	a, is := e.Body.(AccessKey)
	if !ok || !is || e.Denies {
		return authn.KeyRecord{}, false
	}
	return a.Record(), true
}

// Gone tells whether an identity is known to be suspended, or its access key to be disabled
// or removed. A key of which nothing is known yet is not gone.
func (p *Projection) Gone(id ident.Identity) bool {
	if _, denied := p.Denied(id, ident.AccountKey{}, ident.UserKey{}); denied {
		return true
	}
	key, ok := id.KeyID()
	if !ok {
		return false
	}
	e, ok := p.Get(AccessKeyKey(key))
	a, _ := e.Body.(AccessKey)
	return ok && (e.Denies || a.Disabled)
}

func classOf(k Key) int {
	if k.Denial() {
		return 1
	}
	return 0
}

// Name is what is known of a name, and whether that is that it is gone.
func (p *Projection) Name(n ident.Name) (holds Name, gone, ok bool) {
	s, hash := p.shard(n)
	s.mu.RLock()
	if e := s.t.find(hash, n); e != nil {
		holds, gone, ok = Name{Holder: e.holder, Until: e.until, Rests: e.rests}, e.denies, true
	}
	s.mu.RUnlock()
	return holds, gone, ok
}

// Get gives what is known of any key but a name's.
func (p *Projection) Get(k Key) (Entry, bool) {
	o := &p.others[classOf(k)]
	o.mu.RLock()
	defer o.mu.RUnlock()
	e, ok := o.m[k]
	return e, ok
}

// Version is the version of what is known of a key, 0 if nothing is.
func (p *Projection) Version(k Key) uint64 {
	if n := k.Name(); !n.IsZero() {
		k, _ := p.KnownName(n)
		return k.Version
	}
	e, _ := p.Get(k)
	return e.Version
}

// Recall gives what is known of any key. Of a name it is what the name says: the token is not
// kept.
func (p *Projection) Recall(k Key) (Entry, bool) {
	n := k.Name()
	if n.IsZero() {
		return p.Get(k)
	}
	e, ok := p.KnownName(n)
	return Entry{
		Key: k, Version: e.Version, Denies: e.Denies, At: time.UnixMilli(e.At), Sum: e.Sum,
		Body: Name{Holder: e.Holder, Until: e.Until, Rests: e.Rests},
	}, ok
}

// Document is the platform document that is in force, nil before the first is known,
// with the entry that it is in.
func (p *Projection) Document() (*Document, Entry) {
	e := p.doc.Load()
	if e == nil {
		return nil, Entry{}
	}
	d, _ := e.Body.(*Document)
	return d, *e
}

// Denied tells whether an identity, one user or a whole account is suspended.
func (p *Projection) Denied(id ident.Identity, account ident.AccountKey, user ident.UserKey) (Entry, bool) {
	o := &p.others[1]
	o.mu.RLock()
	defer o.mu.RUnlock()
	if len(o.m) == 0 {
		return Entry{}, false
	}
	for _, k := range [...]Key{IdentitySuspension(id), UserSuspension(account, user), AccountSuspension(account)} {
		if e, ok := o.m[k]; ok && e.Denies {
			return e, true
		}
	}
	return Entry{}, false
}

// RevokedBefore is the moment, in seconds since 1970, up to which credentials of a
// user in an account are revoked; 0 if none are.
func (p *Projection) RevokedBefore(account ident.AccountKey, user ident.UserKey) int64 {
	o := &p.others[1]
	o.mu.RLock()
	defer o.mu.RUnlock()
	of := o.revoked[account]
	if len(of) == 0 {
		return 0
	}
	return max(of[RevocationKey(account, user)].Before, of[EverybodyKey(account)].Before)
}

// Denials gives all entries that are written anywhere, in the order of their keys;
// where keep is not nil, those for which it is true.
func (p *Projection) Denials(keep func(Entry) bool) []Entry { return p.others[1].list(keep) }

// Decided gives all entries decided in home except names, in the order of their keys.
func (p *Projection) Decided() []Entry { return p.others[0].list(nil) }

// Bases gives the base claims of all accounts that home decided, in the order of their
// keys. An account whose entry says that it is gone has none.
func (p *Projection) Bases() []Entry {
	return p.others[0].list(func(e Entry) bool { return e.Key.Kind() == KindBase && !e.Denies })
}

// Handed gives a key that is handed to issuers through the ledger: RoleKeyKey, SealKeyKey.
func (p *Projection) Handed(key Key) (Handed, bool) {
	e, ok := p.Get(key)
	h, is := e.Body.(Handed)
	return h, ok && is && !e.Denies
}

// HandedKeys gives all of them.
func (p *Projection) HandedKeys() []Entry {
	return p.others[0].list(func(e Entry) bool { _, is := e.Body.(Handed); return is && !e.Denies })
}

func (o *otherEntries) list(keep func(Entry) bool) []Entry {
	o.mu.RLock()
	all := make([]Entry, 0, len(o.m))
	for _, e := range o.m {
		if keep == nil || keep(e) {
			all = append(all, e)
		}
	}
	o.mu.RUnlock()
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.Key.s, b.Key.s) })
	return all
}

// Len is how many entries are known: names, others decided in home, denials.
func (p *Projection) Len() (names, decided, denials int) {
	for i := range p.names {
		s := &p.names[i]
		s.mu.RLock()
		names += s.t.n
		s.mu.RUnlock()
	}
	for i, n := range []*int{&decided, &denials} {
		p.others[i].mu.RLock()
		*n = len(p.others[i].m)
		p.others[i].mu.RUnlock()
	}
	return names, decided, denials
}

// KnownName is a name as a projection keeps it, for copies.
type KnownName struct {
	Name         ident.Name
	Holder       ident.Identity
	Until, Rests int64 // seconds since 1970, as in Name
	Version      uint64
	At           int64 // milliseconds since 1970
	Denies       bool
	Sum          Sum
}

// Names calls f with every name that is known, in no order, until it returns false.
// Names that change meanwhile may be missed or given as they were.
func (p *Projection) Names(f func(KnownName) bool) {
	var batch []KnownName
	for i := range p.names {
		s := &p.names[i]
		batch = batch[:0]
		s.mu.RLock()
		s.t.all(func(r *nameRow) { batch = append(batch, r.known(r.text.name())) })
		s.mu.RUnlock()
		for _, k := range batch {
			if !f(k) {
				return
			}
		}
	}
}

func (e name) known(n ident.Name) KnownName {
	return KnownName{
		Name: n, Holder: e.holder, Until: e.until, Rests: e.rests,
		Version: e.version, At: e.at, Denies: e.denies, Sum: e.sum,
	}
}

// KnownName gives one name as it is kept.
func (p *Projection) KnownName(n ident.Name) (KnownName, bool) {
	s, hash := p.shard(n)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.t.find(hash, n); e != nil {
		return e.known(n), true
	}
	return KnownName{}, false
}

// RestoreName applies a name from a copy whose authenticity was verified: the
// signature of the entry was verified when it was put there.
func (p *Projection) RestoreName(k KnownName) bool {
	return p.applyName(k.Name, name{
		holder: k.Holder, until: k.Until, rests: k.Rests,
		order: order{version: k.Version, at: k.At, sum: k.Sum, denies: k.Denies},
	})
}

// Buckets is how many parts a digest has.
const Buckets = 256

// Digest sums up what is known, so that two readers can tell what they know apart by
// little: of each bucket of keys the exclusive or of the sums of its entries. It is
// no protection against who makes entries, who must be able to sign them; it tells
// honest readers apart.
type Digest [Buckets]Sum

// Root is one sum over all buckets.
func (d *Digest) Root() Sum {
	h := sha256.New()
	for _, b := range d {
		h.Write(b[:])
	}
	var s Sum
	copy(s[:], h.Sum(nil))
	return s
}

// Bucket is the bucket of a digest that a key belongs to.
func Bucket(k Key) int {
	h := sha256.Sum256([]byte(k.s))
	return int(h[0])
}

type digest struct {
	mu sync.Mutex
	d  Digest
}

// swap takes an entry's sum out, zero if there was none, and puts another in.
func (d *digest) swap(k Key, old, next Sum) {
	bucket := Bucket(k)
	d.mu.Lock()
	defer d.mu.Unlock()
	b := &d.d[bucket]
	for i := range b {
		b[i] ^= old[i] ^ next[i]
	}
}

func (d *digest) get() Digest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.d
}

// DenialDigest sums up the revocations and suspensions that are known.
func (p *Projection) DenialDigest() Digest { return p.digest.get() }

// Dump writes everything that is known in one canonical form: two projections that
// know the same give the same bytes. It is for tests and for tools that compare.
func (p *Projection) Dump() []byte {
	var names []KnownName
	p.Names(func(k KnownName) bool { names = append(names, k); return true })
	slices.SortFunc(names, func(a, b KnownName) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
	var out []byte
	text := func(s string) { out = append(append(out, s...), 0) }
	number := func(n uint64) { out = binary.BigEndian.AppendUint64(out, n) }
	for _, k := range names {
		text(NameKey(k.Name).s)
		text(k.Holder.String())
		number(uint64(k.Until)) // #nosec G115 -- its bits are what is compared
		number(uint64(k.Rests)) // #nosec G115 -- likewise
		number(k.Version)
		number(uint64(k.At)) // #nosec G115 -- likewise
		out = append(out, k.Sum[:]...)
	}
	for _, list := range [][]Entry{p.Decided(), p.Denials(nil)} {
		for _, e := range list {
			text(e.Key.s)
			text(e.Token)
		}
	}
	return out
}

// Age is how old what a reader knows may be: the time since it last compared with
// each of its sources and lacked nothing.
type Age struct {
	Source string
	Since  time.Time // zero: never since the start
}
