package registrar

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Writers is what records tell of issuers: by which platform document each of them issues, and
// until when credentials live that were issued by an older one. An issuer records that it works
// by a document after the last credential that it issued by another, and records stay in the
// order of their writer: so what was issued by a role key that a document put aside is known
// once all have recorded that they work by that document. It is safe for concurrent use.
type Writers struct {
	// Issues tells of a writer's credential, as it is in blocks, whether it is an issuer's.
	Issues func(token string) bool

	mu     sync.Mutex
	chains map[chainOf]*writing
	ends   map[roleOf]map[uint64]int64 // the last end of credentials, in seconds, by document
	// lost is when records may have been lost that were written under a document, in
	// milliseconds: what was issued then is not known.
	lost  map[uint64]int64
	swept int64
	// kept is which region key each issuer said last to have in its folder. It is kept when the issuer has ended, which
	// starts from that folder again, until another chain of that writer takes its place: issuers of one
	// region may share a folder, and so an nkey.
	kept map[chainOf]keeping
}

type keeping struct {
	key   string
	at    int64 // when the issuer was last heard of, in milliseconds
	ended bool
}

type chainOf struct {
	region ident.Region
	writer ident.UserKey
	chain  string
}

// writing is what is known of a chain.
type writing struct {
	issues bool   // it is an issuer's
	rank   uint64 // of the document that it works by; 0: it has not said
	at     int64  // when it was last heard of, in milliseconds
	n      uint64 // of the last block
}

type roleOf struct {
	account ident.AccountKey
	role    ident.Label
}

// gone is how long an issuer is silent, while others of its region are not, until it is taken
// for dead: it says that it lives every minute (audit.HeadEvery), by a clock that may be off by
// ledger.MaxAhead.
const gone = 10*time.Minute + ledger.MaxAhead

// Bounds of what is kept, whatever a stolen issuer writes: beyond them more is waited for, and
// nothing is forgotten.
const (
	maxChains  = 4096
	maxRoleOfs = 100_000
	maxRanks   = 64
	maxWaiting = 20 // that are named
)

// Took takes note of a block, in the order of its chain. Blocks may be taken again.
func (w *Writers) Took(b audit.Block, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chains == nil {
		w.chains, w.ends, w.lost = map[chainOf]*writing{}, map[roleOf]map[uint64]int64{}, map[uint64]int64{}
	}
	k := chainOf{b.Region, b.Writer, b.Chain}
	c := w.chains[k]
	if c == nil {
		w.bound()
		c = &writing{}
		w.chains[k] = c
	}
	heard := min(b.At, now.UnixMilli())
	c.at = max(c.at, heard)
	c.issues = c.issues || b.JWT != "" && w.Issues(b.JWT)
	// The first block that is read of a chain may not be its first one.
	if b.Dropped > 0 || c.n > 0 && b.N > c.n+1 {
		w.loses(c.rank, heard)
	}
	c.n = max(c.n, b.N)
	for _, r := range b.Content {
		switch {
		case r.Granted() && r.Life() <= ledger.MaxLife && r.Issued <= now.Add(ledger.MaxAhead).Unix():
			c.issues = true
			w.ended(roleOf{r.Account, r.Role}, c.rank, r.Expires)
		case r.What == audit.Use:
			c.issues, c.rank = true, max(c.rank, r.Version)
			w.keeps(k, r.Key, heard)
		}
	}
	if keeps, ok := w.kept[k]; ok {
		keeps.at, keeps.ended = max(keeps.at, heard), keeps.ended || b.End
		w.kept[k] = keeps
	}
	if b.After != nil { // this chain goes on for that one, which crashed: its last records may be in nobody's hands
		was := chainOf{b.Region, b.Writer, b.After.Chain}
		if old := w.chains[was]; old != nil {
			w.loses(old.rank, min(max(old.at, b.After.At)+audit.HeadEvery.Milliseconds(), now.UnixMilli()))
			delete(w.chains, was)
		}
		delete(w.kept, was)
	}
	if b.End {
		delete(w.chains, k)
	}
	if minute := now.Unix() / 60; minute > w.swept {
		w.swept = minute
		w.sweep(now)
	}
}

// keeps notes which key is in an issuer's folder; w.mu is held.
func (w *Writers) keeps(of chainOf, key string, at int64) {
	if w.kept == nil {
		w.kept = map[chainOf]keeping{}
	}
	have, known := w.kept[of]
	if !known {
		w.replaces(of, at)
	}
	w.kept[of] = keeping{key, max(have.at, at), have.ended}
}

// replaces forgets the oldest issuer that has ended, in order or not, whose place a new chain of its
// writer takes; w.mu is held.
func (w *Writers) replaces(of chainOf, at int64) {
	var oldest *chainOf
	for k, o := range w.kept {
		over := o.ended || at-o.at >= gone.Milliseconds()
		if over && k.region == of.region && k.writer == of.writer && (oldest == nil || o.at < w.kept[*oldest].at) {
			oldest = &k
		}
	}
	if oldest != nil {
		delete(w.kept, *oldest)
	}
}

// loses notes that records may have been lost; w.mu is held.
func (w *Writers) loses(rank uint64, at int64) {
	if len(w.lost) >= maxRanks {
		rank = 0 // of the oldest: it counts for every rotation
	}
	w.lost[rank] = max(w.lost[rank], at)
}

// ended notes until when a credential lives; w.mu is held.
func (w *Writers) ended(of roleOf, rank uint64, expires int64) {
	if w.ends[of] == nil {
		if len(w.ends) >= maxRoleOfs {
			of = roleOf{} // which counts for every role
		}
		if w.ends[of] == nil {
			w.ends[of] = map[uint64]int64{}
		}
	}
	if _, ok := w.ends[of][rank]; !ok && len(w.ends[of]) >= maxRanks {
		rank = 0
	}
	w.ends[of][rank] = max(w.ends[of][rank], expires)
}

// bound makes room for a chain: the one that was silent the longest goes, and counts as one whose
// records are lost; w.mu is held.
func (w *Writers) bound() {
	if len(w.chains) < maxChains {
		return
	}
	var oldest chainOf
	var c *writing
	for k, o := range w.chains {
		if c == nil || o.at < c.at {
			oldest, c = k, o
		}
	}
	delete(w.chains, oldest)
	if c.issues {
		w.loses(c.rank, c.at+audit.HeadEvery.Milliseconds())
	}
}

// sweep forgets what is over.
func (w *Writers) sweep(now time.Time) {
	for k, c := range w.chains {
		if now.UnixMilli()-c.at > ledger.MaxLife.Milliseconds() {
			delete(w.chains, k)
		}
	}
	for of, k := range w.kept {
		if now.UnixMilli()-k.at > ledger.MaxLife.Milliseconds() {
			delete(w.kept, of)
		}
	}
	for rank, at := range w.lost {
		if now.UnixMilli()-at > ledger.MaxLife.Milliseconds() {
			delete(w.lost, rank)
		}
	}
	for of, ends := range w.ends {
		for rank, end := range ends {
			if end < now.Add(-ledger.MaxLife).Unix() {
				delete(ends, rank)
			}
		}
		if len(ends) == 0 {
			delete(w.ends, of)
		}
	}
}

// By tells who has not said yet that they issue by a document of this rank or a later one, for
// people to read, and until when credentials of a role live that were issued by an older one.
// An issuer that is silent for long, while others of its region are heard, is taken for dead
// since then. What may have been issued unrecorded, by that one, by one that crashed, or where records
// were given up, ends after longest.
func (w *Writers) By(account ident.AccountKey, role ident.Label, rank uint64, longest time.Duration, now time.Time) (until time.Time, waiting []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var end int64
	for _, of := range []roleOf{{account, role}, {}} {
		for by, e := range w.ends[of] {
			if by < rank {
				end = max(end, e)
			}
		}
	}
	for by, at := range w.lost {
		if by < rank {
			end = max(end, time.UnixMilli(at).Add(longest).Unix())
		}
	}
	waiting = w.behind(now, func(_ chainOf, c *writing) string {
		if c.rank >= rank {
			return ""
		}
		return behindTime
	}, func(last time.Time) { end = max(end, last.Add(audit.HeadEvery+longest).Unix()) })
	return time.Unix(end, 0), waiting
}

// behindTime is what an issuer is that has not said that it works by a document.
const behindTime = "works by an older platform document"

// Of tells which issuers of a region, or of all where it is none, have not said yet that they work
// by a document of this rank or a later one, for people to read. Who is taken for dead is none of them.
func (w *Writers) Of(region ident.Region, rank uint64, now time.Time) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.behind(now, func(k chainOf, c *writing) string {
		if c.rank >= rank || !region.IsZero() && k.region != region {
			return ""
		}
		return behindTime
	}, func(time.Time) {})
}

// Lack tells which issuers of a region that were heard of since a moment did not say that a key is in
// their folders, for people to read. Those that have ended are among them, in whatever way: they
// start again from what they have. If nobody has it, it says so.
func (w *Writers) Lack(region ident.Region, key string, since time.Time) (waiting []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	some := false
	for of, k := range w.kept {
		switch {
		case of.region != region || k.at < since.UnixMilli():
		case k.key == key:
			some = true
		default:
			waiting = append(waiting, fmt.Sprintf("issuer %s of %s has the new key from the ledger alone, and would start without: bring issuers/%s to where it runs", of.writer, region, region))
		}
	}
	slices.Sort(waiting)
	if len(waiting) == 0 && !some {
		waiting = append(waiting, fmt.Sprintf("no issuer of %s has said that the new key is in its folder", region))
	}
	if n := len(waiting); n > maxWaiting {
		waiting = append(waiting[:maxWaiting], fmt.Sprintf("and %d more issuers", n-maxWaiting))
	}
	return waiting
}

// behind names the issuers of which why says something; dead is told of those that are taken for
// dead since they were last heard of. w.mu is held.
func (w *Writers) behind(now time.Time, why func(chainOf, *writing) string, dead func(last time.Time)) (waiting []string) {
	heard := map[ident.Region]int64{} // of anybody in a region
	for k, c := range w.chains {
		heard[k.region] = max(heard[k.region], c.at)
	}
	for k, c := range w.chains {
		if !c.issues {
			continue
		}
		what := why(k, c)
		if what == "" {
			continue
		}
		last := time.UnixMilli(c.at)
		if heard[k.region]-c.at >= gone.Milliseconds() {
			dead(last)
			continue
		}
		if now.Sub(last) > 3*audit.HeadEvery {
			what = "has not been heard of since " + last.UTC().Format(time.RFC3339)
		}
		waiting = append(waiting, fmt.Sprintf("issuer %s of %s %s", k.writer, k.region, what))
	}
	slices.SortFunc(waiting, cmp.Compare[string])
	waiting = slices.Compact(waiting)
	if n := len(waiting); n > maxWaiting {
		waiting = append(waiting[:maxWaiting], fmt.Sprintf("and %d more issuers", n-maxWaiting))
	}
	return waiting
}
