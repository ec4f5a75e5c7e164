package ledger

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Holdings is which users an identity holds: what registrars know from records, so
// that an identity can be revoked and not only one nkey. A user is forgotten when its
// last credential has ended. It is safe for concurrent use.
type Holdings struct {
	mu sync.Mutex
	of map[ident.Identity]map[holding]span
	// by is who holds a user, and others who else does: nearly nobody is held twice.
	by     map[ident.UserKey]ident.Identity
	others map[ident.UserKey]map[ident.Identity]bool
	// ends has each user once, by when it may be forgotten, in buckets of a minute, so
	// that forgetting costs no look at those who stay. Who got another credential since is
	// put off when that moment comes.
	ends  map[int64][]ended
	swept int64
}

// NewHoldings gives an empty one.
func NewHoldings() *Holdings {
	return &Holdings{
		of: make(map[ident.Identity]map[holding]span), ends: make(map[int64][]ended),
		by: make(map[ident.UserKey]ident.Identity), others: make(map[ident.UserKey]map[ident.Identity]bool),
	}
}

type holding struct {
	account ident.AccountKey
	user    ident.UserKey
}

type span struct {
	issued, expires int64
	server          string // of who came by auth callout; their user is of one connection
	client          uint64
}

type ended struct {
	identity ident.Identity
	holding  holding
}

// Credential is what a record tells of one that was issued.
type Credential struct {
	Identity        ident.Identity
	Account         ident.AccountKey
	User            ident.UserKey
	Issued, Expires int64 // seconds since 1970
	// Server and Client are as in Held.
	Server string
	Client uint64
}

// Held is one user that an identity holds.
type Held struct {
	Account ident.AccountKey
	User    ident.UserKey
	Issued  int64 // seconds: the newest iat that is known, after which a revocation must be
	Expires int64 // seconds: when its last credential ends
	// Server and Client are its one connection, if it is that of who came by auth callout.
	Server string
	Client uint64
}

// Add takes note of a credential. They may come in any order and again.
func (h *Holdings) Add(r Credential, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sweep(now)
	if r.Expires <= now.Unix() {
		return
	}
	k := holding{r.Account, r.User}
	users := h.of[r.Identity]
	if users == nil {
		users = make(map[holding]span, 1)
		h.of[r.Identity] = users
	}
	s, known := users[k]
	s.issued = max(s.issued, r.Issued)
	if r.Server != "" {
		s.server, s.client = r.Server, r.Client
	}
	s.expires = max(s.expires, r.Expires)
	users[k] = s
	if !known {
		h.until(s.expires, ended{r.Identity, k})
		h.holds(r.Identity, r.User)
	}
}

// holds notes who holds a user.
func (h *Holdings) holds(id ident.Identity, user ident.UserKey) {
	first, ok := h.by[user]
	switch {
	case !ok:
		h.by[user] = id
	case first != id:
		if h.others[user] == nil {
			h.others[user] = make(map[ident.Identity]bool, 1)
		}
		h.others[user][id] = true
	}
}

// lost notes that an identity may not hold a user any more: in another account it still may.
func (h *Holdings) lost(id ident.Identity, user ident.UserKey) {
	for k := range h.of[id] {
		if k.user == user {
			return
		}
	}
	delete(h.others[user], id)
	if h.by[user] == id {
		delete(h.by, user)
		for other := range h.others[user] {
			h.by[user] = other
			delete(h.others[user], other)
			break
		}
	}
	if len(h.others[user]) == 0 {
		delete(h.others, user)
	}
}

// until has it looked at again once that second is over. Where the clock went back, what was
// swept is not swept again.
func (h *Holdings) until(expires int64, e ended) {
	minute := max(expires/60, h.swept) + 1
	h.ends[minute] = append(h.ends[minute], e)
}

// Of gives the users that an identity holds now, in the order of their keys.
func (h *Holdings) Of(id ident.Identity, now time.Time) []Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Held
	for k, s := range h.of[id] {
		if s.expires > now.Unix() {
			all = append(all, Held{Account: k.account, User: k.user, Issued: s.issued, Expires: s.expires, Server: s.server, Client: s.client})
		}
	}
	slices.SortFunc(all, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Account.String(), b.Account.String()), cmp.Compare(a.User.String(), b.User.String()))
	})
	return all
}

// Holder is a user and the identity that holds it.
type Holder struct {
	Identity ident.Identity
	Held
}

// ByUser gives the accounts in which a user is held now, and by whom.
func (h *Holdings) ByUser(user ident.UserKey, now time.Time) []Holder {
	h.mu.Lock()
	defer h.mu.Unlock()
	first, ok := h.by[user]
	if !ok {
		return nil
	}
	ids := map[ident.Identity]bool{first: true}
	for id := range h.others[user] {
		ids[id] = true
	}
	return h.those(maps.Keys(ids), now, func(k holding) bool { return k.user == user })
}

// Newest is the newest iat that is known of anybody in an account, in seconds; 0: nobody is.
// It looks through all.
func (h *Holdings) Newest(account ident.AccountKey, now time.Time) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var newest int64
	for _, users := range h.of {
		for k, s := range users {
			if k.account == account && s.expires > now.Unix() {
				newest = max(newest, s.issued)
			}
		}
	}
	return newest
}

// those are holdings of some identities; mu is held.
func (h *Holdings) those(ids iter.Seq[ident.Identity], now time.Time, are func(holding) bool) []Holder {
	var all []Holder
	for id := range ids {
		for k, s := range h.of[id] {
			if s.expires > now.Unix() && are(k) {
				all = append(all, Holder{id, Held{Account: k.account, User: k.user, Issued: s.issued, Expires: s.expires, Server: s.server, Client: s.client}})
			}
		}
	}
	slices.SortFunc(all, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.Account.String(), b.Account.String()), cmp.Compare(a.Identity.String(), b.Identity.String()))
	})
	return all
}

// Len is how many identities hold a user.
func (h *Holdings) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.of)
}

// sweep forgets whose last credential has ended.
func (h *Holdings) sweep(now time.Time) {
	minute := now.Unix() / 60
	if h.swept == 0 {
		h.swept = minute - 1
	}
	for ; h.swept < minute; h.swept++ {
		due := h.swept + 1
		for _, e := range h.ends[due] {
			users := h.of[e.identity]
			if s := users[e.holding]; s.expires > now.Unix() {
				h.until(s.expires, e)
				continue
			}
			delete(users, e.holding)
			h.lost(e.identity, e.holding.user)
			if len(users) == 0 {
				delete(h.of, e.identity)
			}
		}
		delete(h.ends, due)
	}
}
