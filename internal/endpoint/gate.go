package endpoint

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// gate bounds the requests that are at work: each takes longer the more there are, and what
// is accepted is to be answered within a tenth of a second. Many may come at one moment, as
// after a pause of the machine or when a region's users move here; but where such a rush
// lasts they come faster than can be answered, and then fewer are let in until it is over.
// Requests that wait for somebody else count among all, and make no rush.
type gate struct {
	standing int // how many may be at work for as long as it lasts

	mu       sync.Mutex
	n, waits int       // all, and those of them that wait
	began    time.Time // of the rush
	last     time.Time // when there were standing last, or more
}

const (
	// burst is how many there are at most.
	burst = 256
	// patience is for how long a rush is met by burst: as long as who is refused is told to stay
	// away. It is over once there were fewer than standing for calm: a load that is steady and
	// less than that is none.
	patience = 500 * time.Millisecond
	calm     = 250 * time.Millisecond
	// perProcessor is how many of those that are let in after that there are for each processor,
	// and leastAtWork how many in any case. docs/performance.md has what other numbers did.
	perProcessor = 48
	leastAtWork  = 64
)

func newGate() *gate {
	return &gate{standing: min(max(perProcessor*runtime.GOMAXPROCS(0), leastAtWork), burst/2)}
}

// enter tells whether one more may be at work, and counts it then.
func (g *gate) enter(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n >= burst {
		return false
	}
	if g.n-g.waits >= g.standing {
		if now.Sub(g.last) > calm {
			g.began = now
		}
		if g.last = now; now.Sub(g.began) > patience {
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

func (g *gate) wait(more int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waits += more
}

type gateKey struct{}

// Waiting tells that a Handler, whose context it is, waits for somebody else from now on, and
// others can work meanwhile. over is to be called when that is over. However many wait, they
// are to leave room for others: all together they have no more than burst. With any other
// context it does nothing.
func Waiting(ctx context.Context) (over func()) {
	g, ok := ctx.Value(gateKey{}).(*gate)
	if !ok {
		return func() {}
	}
	g.wait(1)
	return func() { g.wait(-1) }
}
