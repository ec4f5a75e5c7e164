package registrar

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/pkg/wire"
)

// Limits bound how much each source may ask home to decide: each issuer, whose
// credential may be stolen, and each host that clients come from, as far as issuers
// say. Names are for ever, so whoever makes nkeys by the million must not have them
// by the million. It is safe for concurrent use.
type Limits struct {
	// Issuer and Host are what one of each may ask.
	Issuer, Host Rate

	mu      sync.Mutex
	issuers map[string]*source
	hosts   map[string]*source
}

// Rate is a bound: so many at once, and so many a second after that.
type Rate struct {
	Burst     int
	PerSecond float64
}

// DefaultLimits let a conference behind one address in, and nobody fill the ledger.
func DefaultLimits() *Limits {
	return &Limits{Issuer: Rate{Burst: 5000, PerSecond: 500}, Host: Rate{Burst: 2000, PerSecond: 20}}
}

// maxSources bounds how many sources of a kind are remembered. A source that is
// forgotten begins anew; those that asked least lately are forgotten first.
const maxSources = 10_000

// maxWait is the longest that anybody is told to wait.
const maxWait = time.Hour

type source struct {
	*rate.Limiter
	last time.Time
}

// Take counts a request and refuses it with rate_limited where it is one too many. A
// request whose host is not known counts for its issuer only.
func (l *Limits) Take(issuer, host string, now time.Time) *wire.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.issuers == nil {
		l.issuers, l.hosts = make(map[string]*source), make(map[string]*source)
	}
	wait := take(l.issuers, issuer, l.Issuer, now)
	if host != "" && wait == 0 {
		wait = take(l.hosts, host, l.Host, now)
	}
	if wait == 0 {
		return nil
	}
	e := wire.Errorf(wire.RateLimited, "ask again later", "too many new names and invitations from where you are")
	// At most what a client believes; see wire.DecodeError.
	e.RetryAfterMS = min(max(wait, time.Second), maxWait).Milliseconds()
	return e
}

// take gives how long to wait, 0 if it may be now.
func take(all map[string]*source, id string, r Rate, now time.Time) time.Duration {
	s := all[id]
	if s == nil {
		if len(all) >= maxSources {
			forget(all)
		}
		s = &source{Limiter: rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)}
		all[id] = s
	}
	s.last = now
	res := s.ReserveN(now, 1)
	d := res.DelayFrom(now)
	if d > 0 {
		res.CancelAt(now)
	}
	return d
}

// forget drops the half that asked least lately.
func forget(all map[string]*source) {
	var newest, oldest time.Time
	for _, s := range all {
		if newest.IsZero() || s.last.After(newest) {
			newest = s.last
		}
		if oldest.IsZero() || s.last.Before(oldest) {
			oldest = s.last
		}
	}
	middle := oldest.Add(newest.Sub(oldest) / 2)
	for id, s := range all {
		if !s.last.After(middle) {
			delete(all, id)
		}
	}
	for id := range all {
		if len(all) < maxSources {
			break
		}
		delete(all, id) // all of them at one moment
	}
}
