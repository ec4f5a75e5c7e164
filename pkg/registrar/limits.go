package registrar

import (
	"time"

	"github.com/herald-nats/herald/pkg/limit"
	"github.com/herald-nats/herald/pkg/wire"
)

// Limits bound how much each source may ask home to decide: each issuer, whose
// credential may be stolen, and each host that clients come from, as far as issuers
// say. What is decided stays, so whoever makes nkeys by the million must not have names by the
// million. It is safe for concurrent use.
type Limits struct{ issuers, hosts *limit.Sources }

// NewLimits bounds what one issuer, and one host, may ask.
func NewLimits(issuer, host limit.Rate) *Limits {
	return &Limits{issuers: limit.New(limit.Always(issuer)), hosts: limit.New(limit.Always(host))}
}

// DefaultLimits let a conference behind one address in, and nobody fill the ledger: after
// the first 5,000 an address has 7,200 in an hour.
func DefaultLimits() *Limits {
	return NewLimits(limit.Rate{Burst: 5000, PerSecond: 500}, limit.Rate{Burst: 5000, PerSecond: 2})
}

// maxWait is the longest that anybody is told to wait.
const maxWait = time.Hour

// Take counts a request and refuses it with rate_limited where it is one too many. A
// request whose host is not known counts for its issuer only.
func (l *Limits) Take(issuer, host string, now time.Time) *wire.Error {
	// The host first: what is refused to one host is not charged to the issuer, by which all
	// others ask.
	var wait time.Duration
	if host != "" {
		wait = l.hosts.Take(limit.Host(host), now)
	}
	if wait == 0 {
		wait = l.issuers.Take(issuer, now)
	}
	if wait == 0 {
		return nil
	}
	e := wire.Errorf(wire.RateLimited, "ask again later", "too many new names and invitations from where you are")
	// At most what a client believes; see wire.DecodeError.
	e.RetryAfterMS = min(max(wait, time.Second), maxWait).Milliseconds()
	return e
}
