package issuer

import (
	"sync"
	"time"
)

// Renewals spreads the moments at which credentials are to be renewed, so that those who
// came at once do not come back at once: the more come, the further, and always to where
// fewest are due. It knows what this issuer gave; others do the same with theirs. It is
// safe for concurrent use.
type Renewals struct {
	mu      sync.Mutex
	due     map[int64]uint32 // renewals by the second since 1970
	minute  int64            // since 1970
	now     float64          // given in that minute
	earlier float64          // and in the one before
}

// Bounds of what part of a life a renewal is due after. At rest it is in the last tenth
// before latest, which leaves a fifth for an issuer that is away.
const (
	latest   = 0.8
	narrow   = 0.1
	wide     = 0.4
	busy     = 20_000  // given in a minute, at which it is wide
	choices  = 3       // moments of which the one with the fewest is taken
	maxPlans = 200_000 // seconds that are remembered
)

// At chooses when a credential that begins now and lives so long is to be renewed. random
// gives numbers from 0 to 1.
func (r *Renewals) At(now time.Time, life time.Duration, random func() float64) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	width := narrow + (wide-narrow)*min(1, r.load(now)/busy)
	var best time.Time
	var fewest uint32
	for i := range choices {
		at := now.Add(time.Duration((latest - width*random()) * float64(life)))
		if n := r.due[at.Unix()]; i == 0 || n < fewest {
			best, fewest = at, n
		}
	}
	if len(r.due) >= maxPlans {
		r.due = nil // a fresh start: what is forgotten is spread by chance
	}
	if r.due == nil {
		r.due = make(map[int64]uint32)
	}
	r.due[best.Unix()]++
	return best
}

// load counts one more, and gives how many were given in the last minute, about.
func (r *Renewals) load(now time.Time) float64 {
	if minute := now.Unix() / 60; minute != r.minute {
		r.earlier = 0
		if minute == r.minute+1 {
			r.earlier = r.now
		}
		r.now, r.minute = 0, minute
		for at := range r.due {
			if at < now.Unix() {
				delete(r.due, at)
			}
		}
	}
	r.now++
	return r.now + r.earlier*(1-float64(now.Unix()%60)/60)
}
