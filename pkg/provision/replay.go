package provision

import (
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// maxNonces bounds the memory of one generation, at some 150 bytes each.
const maxNonces = 500_000

// replays remembers which requests were seen for as long as their time would
// still be accepted. Two generations, each one window long, replace a timer
// for each nonce: what is older than two windows is forgotten at once.
type replays struct {
	mu       sync.Mutex
	window   time.Duration
	started  time.Time
	now, old map[seen]struct{}
}

type seen struct {
	key   ident.UserKey
	nonce string
}

func newReplays() *replays {
	// A request is accepted from MaxSkew before its time to MaxSkew after it.
	return &replays{window: 2*wire.MaxSkew + time.Second, now: map[seen]struct{}{}}
}

// first tells whether this is the first time; full means that it cannot be
// told, and the request must be refused.
func (r *replays) first(key ident.UserKey, nonce string, at time.Time) (first, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.Sub(r.started) >= r.window {
		r.old, r.now, r.started = r.now, make(map[seen]struct{}), at
	}
	s := seen{key, nonce}
	if _, ok := r.now[s]; ok {
		return false, false
	}
	if _, ok := r.old[s]; ok {
		return false, false
	}
	if len(r.now) >= maxNonces {
		return false, true
	}
	r.now[s] = struct{}{}
	return true, false
}
