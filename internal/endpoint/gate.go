package endpoint

import (
	"runtime"
	"sync"
	"time"
)

// gate bounds the requests that are at work: each takes longer the more there are, and what
// is accepted is to be answered within a tenth of a second. Many may come at one moment, as
// after a pause of the machine or when a region's users move here; but who comes once such a
// rush lasts for longer than that comes faster than can be answered, and then fewer are let
// in until it is over.
type gate struct {
	mu    sync.Mutex
	n     int
	began time.Time // of the rush
	last  time.Time // when there were last as many as may stay, or more
}

const (
	// burst is how many are at work at most.
	burst = 256
	// patience is for how long a rush is met by burst. It is over after calm.
	patience = 50 * time.Millisecond
	calm     = 100 * time.Millisecond
	// perProcessor is how many of those that are let in after that there are for each processor,
	// and leastAtWork how many in any case. With 36 for each of two that three servers share, the
	// slowest of a hundred took half as long as with 128, and at 2,300/s nobody was refused.
	perProcessor = 36
	leastAtWork  = 64
)

// standing is how many may be at work for as long as it lasts.
func standing() int { return min(max(perProcessor*runtime.GOMAXPROCS(0), leastAtWork), burst) }

// enter tells whether one more may be at work, and counts it then. One that only waits for
// others slows nobody down, and no rush is made of those.
func (g *gate) enter(now time.Time, waits bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n >= standing() {
		if now.Sub(g.last) > calm {
			g.began = now
		}
		g.last = now
		if g.n >= burst || !waits && now.Sub(g.began) > patience {
			return false
		}
	}
	g.n++
	return true
}

// leave counts one that was answered.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
}
