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
	swept  int64
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
}

type roleOf struct {
	account ident.AccountKey
	role    ident.Label
}

// gone is how long an issuer is silent, while others of its region are not, until it is taken
// for dead: it says that it lives every minute (audit.HeadEvery).
const gone = 10 * time.Minute

// Took takes note of a block, in the order of its chain. Blocks may be taken again.
func (w *Writers) Took(b audit.Block, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chains == nil {
		w.chains, w.ends = map[chainOf]*writing{}, map[roleOf]map[uint64]int64{}
	}
	k := chainOf{b.Region, b.Writer, b.Chain}
	c := w.chains[k]
	if c == nil {
		c = &writing{}
		w.chains[k] = c
	}
	c.at = max(c.at, min(b.At, now.UnixMilli()))
	c.issues = c.issues || b.JWT != "" && w.Issues(b.JWT)
	for _, r := range b.Content {
		switch {
		case r.Granted() && r.Life() <= ledger.MaxLife:
			c.issues = true
			of := roleOf{r.Account, r.Role}
			if w.ends[of] == nil {
				w.ends[of] = map[uint64]int64{}
			}
			w.ends[of][c.rank] = max(w.ends[of][c.rank], r.Expires)
		case r.What == audit.Use:
			c.issues, c.rank = true, max(c.rank, r.Version)
		}
	}
	if b.After != nil { // this chain goes on for that one
		delete(w.chains, chainOf{b.Region, b.Writer, b.After.Chain})
	}
	if b.End {
		delete(w.chains, k)
	}
	if minute := now.Unix() / 60; minute > w.swept {
		w.swept = minute
		w.sweep(now)
	}
}

// sweep forgets what is over.
func (w *Writers) sweep(now time.Time) {
	for k, c := range w.chains {
		if now.UnixMilli()-c.at > ledger.MaxLife.Milliseconds() {
			delete(w.chains, k)
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
// since then: what it may have issued unrecorded before ends after longest.
func (w *Writers) By(account ident.AccountKey, role ident.Label, rank uint64, longest time.Duration, now time.Time) (until time.Time, waiting []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var end int64
	for of, e := range w.ends[roleOf{account, role}] {
		if of < rank {
			end = max(end, e)
		}
	}
	heard := map[ident.Region]int64{} // of anybody in a region
	for k, c := range w.chains {
		heard[k.region] = max(heard[k.region], c.at)
	}
	for k, c := range w.chains {
		if !c.issues || c.rank >= rank {
			continue
		}
		last := time.UnixMilli(c.at)
		if heard[k.region]-c.at >= gone.Milliseconds() {
			end = max(end, last.Add(audit.HeadEvery+longest).Unix())
			continue
		}
		why := "works by an older platform document"
		if now.Sub(last) > 3*audit.HeadEvery {
			why = "has not been heard of since " + last.UTC().Format(time.RFC3339)
		}
		waiting = append(waiting, fmt.Sprintf("issuer %s of %s %s", k.writer, k.region, why))
	}
	slices.SortFunc(waiting, cmp.Compare[string])
	return time.Unix(end, 0), slices.Compact(waiting)
}
