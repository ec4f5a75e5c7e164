package registrar

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

const (
	// revokeAhead is how far ahead of now, or of the newest credential that is known, a
	// revocation reaches: an issuer whose clock is fast, or who has not heard of it, may give
	// one more meanwhile.
	revokeAhead = 2 * time.Minute
	// revokeMost bounds that: what is dated further ahead than ledger.MaxAhead nobody believes,
	// and clocks differ a little.
	revokeMost = ledger.MaxAhead - 30*time.Second
	// othersFirst is how long another registrar has to revoke those whom it was told to deny,
	// until this one does.
	othersFirst = 2 * time.Second
	// revokeAgain is when what failed is tried again.
	revokeAgain = 500 * time.Millisecond
)

// Revoker ends the credentials of whom the ledger denies: of each user that a suspended
// identity holds, of one whose access key was disabled or removed, of a suspended user, of
// everybody in a suspended account; also those that come to be known later. It states
// revocations, and has them brought to the servers. Who came in by auth callout is the
// Doorkeeper's.
//
// One registrar does it at once, the one that was asked to deny them. The others see after a
// while whether it was done, so that nothing is left half done by one that died.
type Revoker struct {
	Denials  *Denials
	Holdings *ledger.Holdings
	Ledger   *ledger.Projection
	// Spared are accounts in which nobody is revoked because of a record: those of Herald's own
	// services and guests, where a false record could cut the platform off from itself.
	Spared func(ident.AccountKey) bool
	// Touch says that who is revoked in accounts has changed; see Watcher.Touch.
	Touch func(now bool, accounts ...ident.AccountKey)
	Log   *slog.Logger
	Now   func() time.Time

	mu    sync.Mutex
	due   map[ledger.Key]time.Time // suspensions and access keys, by when they are looked at
	own   map[ledger.Key]bool      // revocations that this registrar states at the moment
	wake  chan struct{}
	limit *rate.Limiter
}

func (v *Revoker) init() {
	if v.due == nil {
		v.due, v.own = make(map[ledger.Key]time.Time), make(map[ledger.Key]bool)
		v.wake = make(chan struct{}, 1)
		v.limit = rate.NewLimiter(1, 10)
	}
}

// Changed is told of each entry that came to hold. mine: this registrar is the one to act on
// it at once. It only takes note.
func (v *Revoker) Changed(e ledger.Entry, mine bool) {
	switch e.Key.Kind() {
	case ledger.KindRevocation:
		v.mu.Lock()
		v.init()
		now := v.own[e.Key]
		v.mu.Unlock()
		v.Touch(now || mine, e.Key.Account())
	case ledger.KindSuspension, ledger.KindAccessKey:
		if v.denied(e.Key) {
			v.look(e.Key, mine)
		}
	}
}

// Issued is told of each record: one may come after the news that its holder is denied.
func (v *Revoker) Issued(rec audit.Record) {
	if rec.Server != "" || v.Ledger.RevokedBefore(rec.Account, rec.User) >= rec.Issued {
		return
	}
	for _, k := range suspensions(rec.Identity, rec.Account, rec.User) {
		if v.denied(k) {
			v.look(k, rec.Region == v.Denials.Region)
		}
	}
}

// suspensions are the keys by which a holder may be denied.
func suspensions(id ident.Identity, account ident.AccountKey, user ident.UserKey) []ledger.Key {
	keys := []ledger.Key{ledger.IdentitySuspension(id), ledger.UserSuspension(account, user), ledger.AccountSuspension(account)}
	if k, ok := id.KeyID(); ok {
		keys = append(keys, ledger.AccessKeyKey(k))
	}
	return keys
}

// denied tells whether whom a key is about may have nothing.
func (v *Revoker) denied(k ledger.Key) bool {
	e, ok := v.Ledger.Get(k)
	if !ok {
		return false
	}
	if a, is := e.Body.(ledger.AccessKey); is {
		return e.Denies || a.Disabled
	}
	return e.Denies
}

// look has it looked at, at once or when others had their time.
func (v *Revoker) look(k ledger.Key, now bool) {
	at := v.Now()
	if !now {
		at = at.Add(othersFirst)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.init()
	if was, ok := v.due[k]; !ok || at.Before(was) {
		v.due[k] = at
	}
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// Waiting is how many denials wait to be acted on.
func (v *Revoker) Waiting() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.due)
}

// Run acts until ctx ends.
func (v *Revoker) Run(ctx context.Context) {
	v.mu.Lock()
	v.init()
	wake := v.wake
	v.mu.Unlock()
	// What was denied while this registrar was away may be done in part.
	for _, e := range v.Ledger.Denials(func(e ledger.Entry) bool { return e.Key.Kind() == ledger.KindSuspension && e.Denies }) {
		v.look(e.Key, false)
	}
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-t.C:
		}
		now := v.Now()
		var act []ledger.Key
		next := time.Hour
		v.mu.Lock()
		for k, at := range v.due {
			if at.After(now) {
				next = min(next, at.Sub(now))
				continue
			}
			act = append(act, k)
			delete(v.due, k)
		}
		v.mu.Unlock()
		for _, k := range act {
			if _, err := v.Revoke(ctx, k, "", ""); err != nil && ctx.Err() == nil {
				if v.limit.Allow() {
					v.Log.Error("whoever is denied cannot be revoked yet; it is tried again", "key", k.String(), "error", err)
				}
				v.mu.Lock()
				v.due[k] = v.Now().Add(revokeAgain)
				v.mu.Unlock()
				next = min(next, revokeAgain)
			}
		}
		t.Reset(next)
	}
}

// Target is one user of an account, or everybody in it if User is zero.
type Target struct {
	Account ident.AccountKey
	User    ident.UserKey
	issued  int64 // the newest iat that is known
}

// Targets are those that a denial of a key is about and that have a credential now, as far as
// is known: not those who came in by auth callout.
func (v *Revoker) Targets(k ledger.Key) []Target {
	now := v.Now()
	var out []Target
	switch id, user := k.Identity(), k.User(); {
	case !id.IsZero():
		for _, h := range v.Holdings.Of(id, now) {
			if h.Server == "" && !v.Spared(h.Account) {
				out = append(out, Target{h.Account, h.User, h.Issued})
			}
		}
	case !user.IsZero():
		t := Target{Account: k.Account(), User: user}
		for _, h := range v.Holdings.ByUser(user, now) {
			if h.Account == t.Account {
				t.issued = max(t.issued, h.Issued)
			}
		}
		out = append(out, t)
	case !k.Account().IsZero():
		out = append(out, Target{Account: k.Account(), issued: v.Holdings.Newest(k.Account(), now)})
	}
	return out
}

// Revoke ends the credentials of all that a denial is about, unless that was done since it was
// denied. It gives them all, those too of whom there was nothing to do. An error that wraps
// ledger.ErrUnavailable: it is in force, and not stored yet.
func (v *Revoker) Revoke(ctx context.Context, k ledger.Key, by, why string) ([]Target, error) {
	e, ok := v.Ledger.Get(k)
	if !ok || !v.denied(k) {
		return nil, nil // it was taken back meanwhile
	}
	if s, is := e.Body.(ledger.Suspension); is && by == "" {
		by, why = s.By, s.Why
	}
	targets := v.Targets(k)
	var failed error
	var store []func() error
	touched := map[ident.AccountKey]bool{}
	for _, t := range targets {
		key, everybody := ledger.RevocationKey(t.Account, t.User), t.User.IsZero()
		if everybody {
			key = ledger.EverybodyKey(t.Account)
		}
		var before int64
		if cur, ok := v.Ledger.Get(key); ok {
			r, _ := cur.Body.(ledger.Revocation)
			before = r.Before
		}
		// What was revoked before they were denied may have been followed by a credential of
		// which nothing is known.
		if before >= max(t.issued, e.At.Unix()) {
			continue
		}
		until, r := v.before(t.issued), ledger.Revocation{By: by, Why: why}
		v.stating(key, true)
		err := v.Denials.RevokeAtOnce(key, until, r)
		v.stating(key, false)
		if err != nil {
			failed = err
			continue
		}
		touched[t.Account] = true
		store = append(store, func() error { _, err := v.Denials.RevokeKey(ctx, key, until, r); return err })
	}
	v.Touch(true, slices.Collect(maps.Keys(touched))...)
	for _, s := range store {
		if err := s(); err != nil {
			failed = err
			break // the others are stored once one can be
		}
	}
	return targets, failed
}

func (v *Revoker) stating(k ledger.Key, now bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.init()
	if now {
		v.own[k] = true
	} else {
		delete(v.own, k)
	}
}

// before is up to when credentials are ended, the newest of which that is known is of issued.
func (v *Revoker) before(issued int64) time.Time {
	now := v.Now()
	newest := now
	if at := time.Unix(issued, 0); at.After(now) {
		newest = at
	}
	before := newest.Add(revokeAhead)
	if most := now.Add(revokeMost); before.After(most) {
		before = most
	}
	if at := time.Unix(issued, 0); before.Before(at) {
		before = at
	}
	return before
}
