package registrar

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// ErrClock: this machine's clock is wrong, by what most servers say the time is.
var ErrClock = errors.New("this machine's clock is wrong")

// ClockApart is by how much a registrar's clock may differ from that of most servers. A revocation
// of one that is further behind would not reach to what is issued meanwhile, and what one states
// that is much further ahead than this is from the future for all others (ledger.MaxAhead).
const ClockApart = revokeAhead

// Clock holds the machine's clock against the servers', which say what time it is in whatever they
// tell of themselves. A registrar whose clock is wrong states and signs nothing: others would not
// believe it, its revocations would end too little or too much, and by its count credentials may
// have ended with which people still come.
//
// A nil Clock is never wrong. Its methods are safe for concurrent use.
type Clock struct {
	Now func() time.Time

	mu    sync.Mutex
	heard map[string]reading // by the server's id
}

// reading is what one server said last.
type reading struct {
	ahead time.Duration // of this clock before its
	at    time.Time
}

// clockHeard is how long what a server said counts: several times as long as they are silent.
const clockHeard = time.Minute

// Heard takes note of what a server just said the time is.
func (c *Clock) Heard(server string, says time.Time) {
	if c == nil || server == "" || says.IsZero() {
		return
	}
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard == nil {
		c.heard = map[string]reading{}
	}
	maps.DeleteFunc(c.heard, func(_ string, r reading) bool { return now.Sub(r.at) > clockHeard })
	c.heard[server] = reading{now.Sub(says), now}
}

// Ahead is by how much this clock is ahead of most servers'; negative: behind. ok tells whether
// any has said anything lately.
func (c *Clock) Ahead() (ahead time.Duration, ok bool) {
	if c == nil {
		return 0, false
	}
	now := c.Now()
	var all []time.Duration
	c.mu.Lock()
	for _, r := range c.heard {
		if now.Sub(r.at) <= clockHeard {
			all = append(all, r.ahead)
		}
	}
	c.mu.Unlock()
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	// Of an even number the one nearer to this clock: it takes more than half to say it is wrong.
	a, b := all[(len(all)-1)/2], all[len(all)/2]
	if a.Abs() < b.Abs() {
		return a, true
	}
	return b, true
}

// Err wraps ErrClock if the clock is further from most servers' than ClockApart.
func (c *Clock) Err() error {
	ahead, _ := c.Ahead()
	if ahead.Abs() <= ClockApart {
		return nil
	}
	which := "ahead of"
	if ahead < 0 {
		which = "behind"
	}
	return fmt.Errorf("%w: it is %s %s that of most servers", ErrClock, ahead.Abs().Round(time.Second), which)
}
