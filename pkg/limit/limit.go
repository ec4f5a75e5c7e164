// Package limit bounds how much each of many sources may ask. It remembers a bounded number
// of them, and asks no clock.
package limit

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Rate is a bound: so many at once, and so many a second after that.
type Rate struct {
	Burst     int
	PerSecond float64
}

// MaxSources bounds how many sources are remembered. A source that is forgotten begins
// anew; those that asked least lately are forgotten first.
const MaxSources = 10_000

// Sources are those who ask, each by its own name. It is safe for concurrent use.
type Sources struct {
	rate func() Rate
	mu   sync.Mutex
	all  map[string]*source
}

type source struct {
	*rate.Limiter
	of   Rate
	last time.Time
}

// New bounds each source by a rate. It is asked each time: it may change.
func New(r func() Rate) *Sources { return &Sources{rate: r, all: make(map[string]*source)} }

// Always is a rate that does not change.
func Always(r Rate) func() Rate { return func() Rate { return r } }

// Take counts one request of a source and gives how long to wait, 0 if it may be now. One
// that is told to wait is not counted.
func (s *Sources) Take(id string, now time.Time) time.Duration {
	r := s.rate()
	s.mu.Lock()
	defer s.mu.Unlock()
	who := s.all[id]
	if who == nil || who.of != r {
		if len(s.all) >= MaxSources && who == nil {
			s.forget()
		}
		who = &source{Limiter: rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst), of: r}
		s.all[id] = who
	}
	// Callers read the clock before they come here, side by side. A limiter that is shown an
	// earlier time counts what follows it again.
	if now.Before(who.last) {
		now = who.last
	}
	who.last = now
	res := who.ReserveN(now, 1)
	d := res.DelayFrom(now)
	if d > 0 {
		res.CancelAt(now)
	}
	return d
}

// Full tells whether Take would tell a source to wait, and counts nothing.
func (s *Sources) Full(id string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := s.all[id]
	return who != nil && who.TokensAt(now) < 1
}

// Host is a client's address as a source: of IPv6 the network that one customer has, in
// which they may choose any address.
func Host(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return addr
	}
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}

// Len is how many sources are remembered.
func (s *Sources) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// forget drops the half that asked least lately.
func (s *Sources) forget() {
	var newest, oldest time.Time
	for _, who := range s.all {
		if newest.IsZero() || who.last.After(newest) {
			newest = who.last
		}
		if oldest.IsZero() || who.last.Before(oldest) {
			oldest = who.last
		}
	}
	middle := oldest.Add(newest.Sub(oldest) / 2)
	for id, who := range s.all {
		if !who.last.After(middle) {
			delete(s.all, id)
		}
	}
	for id := range s.all {
		if len(s.all) < MaxSources {
			break
		}
		delete(s.all, id) // all of them at one moment
	}
}
