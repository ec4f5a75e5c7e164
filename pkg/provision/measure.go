package provision

import (
	"context"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/wire"
)

// Door is where requests come in.
type Door uint8

// The doors.
const (
	DoorInfo Door = iota
	DoorIssue
	DoorRenew
	DoorTutorial
	DoorCallout
	doors
)

func (d Door) String() string {
	return [doors]string{"info", "issue", "renew", "tutorial", "callout"}[d]
}

// way is how a request shows who asks. Whatever a caller writes, there are no others.
type way uint8

const (
	wayUnknown way = iota // the request was not read so far, or names no such way
	wayOpen
	wayInvite
	wayKey
	wayOIDC
	wayRenewal
	ways
)

func (w way) String() string {
	return [ways]string{"", wire.ProofOpen, wire.ProofInvite, wire.ProofKey, wire.ProofOIDC, "renewal"}[w]
}

// step is a part of the work on a request, of those that docs/architecture.md has.
type step uint8

const (
	stepRequest      step = iota // all of it
	stepRead                     // is it a request, and who brings it?
	stepAuthenticate             // is it new, and who asks? An invitation may be used in home for that
	stepDecide                   // what may they have?
	stepName                     // is the name theirs? Home may be asked
	stepSign
	stepRecord
	steps
)

func (s step) String() string {
	return [steps]string{"request", "read", "authenticate", "decide", "name", "sign", "record"}[s]
}

// outcomes are ok, and what callers are told: the codes of wire.
const outcomes = 19

func outcomeNames() [outcomes]wire.Code {
	return [outcomes]wire.Code{
		"ok", wire.BadRequest, wire.BadName, wire.TooLarge, wire.NotSealed, wire.BadProof, wire.BadIdentity, wire.Expired, wire.ClockSkew,
		wire.Replayed, wire.NoGrant, wire.Suspended, wire.Revoked, wire.RoleNotGranted, wire.NameTaken, wire.WrongRegion, wire.RateLimited,
		wire.Unavailable, wire.ReadOnly,
	}
}

// outcomeOf is the number of an outcome; what is no code of wire counts as unavailable.
func outcomeOf(e *wire.Error) int {
	if e == nil {
		return 0
	}
	names := outcomeNames()
	if i := slices.Index(names[:], e.Code); i > 0 {
		return i
	}
	return slices.Index(names[:], wire.Unavailable)
}

// meters are counted by many at once, and read by whoever wants to know. A request costs a
// few additions: what is counted where is known by number.
type meters struct {
	requests [doors][ways][outcomes]atomic.Uint64
	times    [doors][steps]histogram
	queues   [doors]endpoint.Meter
}

// shortest is the first bound of a histogram, each further one being twice the one before;
// what takes longer than the last has a place of its own.
const (
	shortest = 25 * time.Microsecond
	bounds   = 18 // up to 3.3 s: no request is worked on for longer than 4
)

type histogram struct {
	counts [bounds + 1]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

func (h *histogram) observe(d time.Duration) {
	d = max(d, 0) // a clock may be put back
	i := bits.Len64(uint64(max(d-1, 0) / shortest))
	h.counts[min(i, bounds)].Add(1)
	h.sum.Add(int64(d))
}

// measure is one request at work. The methods of a nil one measure nothing.
type measure struct {
	meters *meters
	now    func() time.Time
	door   Door
	way    way
	began  time.Time
	last   time.Time // when the step before ended
	err    *wire.Error
}

type measureKey struct{}

// measured is a door's handler, with its requests counted and timed.
func (s *Service) measured(d Door, h endpoint.Handler) endpoint.Handler {
	return func(ctx context.Context, r endpoint.Request) endpoint.Response {
		now := s.Now()
		m := &measure{meters: &s.meters, now: s.Now, door: d, way: wayAt(d), began: now, last: now}
		resp := h(context.WithValue(ctx, measureKey{}, m), r)
		if m.err == nil {
			m.err = resp.Err
		}
		m.meters.requests[d][m.way][outcomeOf(m.err)].Add(1)
		m.meters.times[d][stepRequest].observe(s.Now().Sub(m.began))
		return resp
	}
}

// wayAt is the way of all requests at a door, as long as they say nothing else.
func wayAt(d Door) way {
	switch d {
	case DoorRenew:
		return wayRenewal
	case DoorTutorial:
		return wayOpen
	default:
		return wayUnknown
	}
}

// measuring is the measure of the request that ctx belongs to; nil if nobody measures it.
func measuring(ctx context.Context) *measure {
	m, _ := ctx.Value(measureKey{}).(*measure)
	return m
}

// refused notes why a request was refused whose answer does not say it.
func (m *measure) refused(e *wire.Error) {
	if m != nil {
		m.err = e
	}
}

// by notes the way that a request names.
func (m *measure) by(proof string) {
	if m == nil {
		return
	}
	switch proof {
	case wire.ProofOpen:
		m.way = wayOpen
	case wire.ProofInvite:
		m.way = wayInvite
	case wire.ProofKey:
		m.way = wayKey
	case wire.ProofOIDC:
		m.way = wayOIDC
	}
}

// did notes that a step is over, however it ended.
func (m *measure) did(s step) {
	if m == nil {
		return
	}
	now := m.now()
	m.meters.times[m.door][s].observe(now.Sub(m.last))
	m.last = now
}

// Measured is what a service has counted since it began.
type Measured struct {
	Requests []RequestCount
	Times    []StepTimes
	Queues   []Queued
}

// RequestCount is how many requests came in at a door in one way and ended in one outcome:
// "ok", or a code of wire. Each request is counted once; those that were turned away unread
// are of the way "".
type RequestCount struct {
	Door, Way, Outcome string
	Count              uint64
}

// StepTimes is how long a step took.
type StepTimes struct {
	Door, Step string
	Count      uint64
	Sum        time.Duration
	Buckets    []Bucket
}

// Bucket counts what took at most so long.
type Bucket struct {
	Most  time.Duration
	Count uint64
}

// Queued is how many requests a door works on now, and how many it turned away unread.
type Queued struct {
	Door string
	endpoint.Metered
}

// Measured gives them as they are now. It may be called at any time.
func (s *Service) Measured() Measured {
	var all Measured
	names := outcomeNames()
	for d := range doors {
		if d == DoorTutorial && !s.Held().Tutorial || d == DoorCallout && s.Callout == nil {
			continue
		}
		q := s.meters.queues[d].Read()
		all.Queues = append(all.Queues, Queued{d.String(), q})
		for w := range ways {
			for o := range names {
				n := s.meters.requests[d][w][o].Load()
				if w == wayAt(d) {
					switch names[o] {
					case wire.Unavailable:
						n += q.Busy
					case wire.RateLimited:
						n += q.Limited + q.Unanswered
					}
				}
				// What can be expected is there from the beginning, at 0.
				if n > 0 || o == 0 && usual(d, w) {
					all.Requests = append(all.Requests, RequestCount{d.String(), w.String(), string(names[o]), n})
				}
			}
		}
		for st := range steps {
			if takes(d, st) {
				all.Times = append(all.Times, s.meters.times[d][st].read(d, st))
			}
		}
	}
	return all
}

// usual tells whether requests at a door come in that way.
func usual(d Door, w way) bool {
	switch d {
	case DoorIssue:
		return w != wayUnknown && w != wayRenewal
	case DoorCallout:
		return w == wayKey || w == wayOIDC
	default:
		return w == wayAt(d)
	}
}

// takes tells whether requests at a door have that step.
func takes(d Door, s step) bool {
	switch d {
	case DoorInfo:
		return s == stepRequest
	case DoorRenew:
		return s != stepName // it is looked up, and home is not asked
	default:
		return true
	}
}

func (h *histogram) read(d Door, s step) StepTimes {
	t := StepTimes{Door: d.String(), Step: s.String(), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		t.Count += h.counts[i].Load()
		if i < bounds {
			t.Buckets = append(t.Buckets, Bucket{shortest << i, t.Count})
		}
	}
	return t
}
