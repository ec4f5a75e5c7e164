package supercluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// DefaultRTT is the round trip between two regions, under Files.WAN, that RTT
// has no better knowledge of.
const DefaultRTT = 80 * time.Millisecond

// RTT is the round trip between two regions under Files.WAN: about what one
// measures between Amsterdam (ams), San Francisco (sfo) and Singapore (sgp),
// DefaultRTT for all other pairs, in either order.
func RTT(a, b ident.Region) time.Duration {
	p := newPair(a, b)
	switch [2]string{p.a.String(), p.b.String()} {
	case [2]string{"ams", "sfo"}:
		return 145 * time.Millisecond
	case [2]string{"ams", "sgp"}:
		return 160 * time.Millisecond
	case [2]string{"sfo", "sgp"}:
		return 170 * time.Millisecond
	}
	return DefaultRTT
}

// Link is how two regions are joined.
type Link struct {
	A, B ident.Region  // A before B in the order of their files
	Cut  bool          // since Cut, until Heal
	RTT  time.Duration // what is added to a round trip; 0 without Files.WAN
}

// Links tells of every pair of regions.
func (s *Supercluster) Links() []Link {
	var links []Link
	for i, a := range s.regions {
		for _, b := range s.regions[i+1:] {
			links = append(links, Link{A: a.name, B: b.name, Cut: s.wan.isCut(a.name, b.name), RTT: s.wan.rtt(a.name, b.name)})
		}
	}
	return links
}

// Cut parts two regions: both relays drop what the other has open and refuse it
// from now on. When it returns, nothing passes between them any more. What another region can reach it goes on reaching, but servers
// pass nothing on from one gateway to another. Cutting what is cut does nothing.
// The error wraps ErrUnknown.
func (s *Supercluster) Cut(a, b ident.Region) error {
	ra, rb, err := s.link(a, b)
	if err != nil {
		return fmt.Errorf("cutting %s from %s: %w", a, b, err)
	}
	// First the mark, then the connections: a relay looks at the mark when it
	// takes up a connection, so none slips through between.
	s.wan.setCut(a, b, true)
	ra.relay.drop(b)
	rb.relay.drop(a)
	return nil
}

// Heal ends a Cut. The servers' gateways try again each second or so, so they are
// joined again within about two; JetStream takes longer, up to half a minute
// after a long cut. Healing what is whole does nothing. The error wraps ErrUnknown.
func (s *Supercluster) Heal(a, b ident.Region) error {
	if _, _, err := s.link(a, b); err != nil {
		return fmt.Errorf("healing %s and %s: %w", a, b, err)
	}
	s.wan.setCut(a, b, false)
	return nil
}

func (s *Supercluster) link(a, b ident.Region) (ra, rb *region, err error) {
	ra, rb = s.region(a), s.region(b)
	if ra == nil || rb == nil || ra == rb {
		return nil, nil, ErrUnknown
	}
	return ra, rb, nil
}

// wan is what the relays know about the links.
type wan struct {
	delays bool
	slow   atomic.Bool           // the delays have begun: once there was a meta leader
	names  map[ident.Region]bool // not changed

	mu  sync.Mutex
	cut map[pair]bool
}

// pair is two regions in no order: a sorts before b.
type pair struct{ a, b ident.Region }

func newPair(a, b ident.Region) pair {
	if b.String() < a.String() {
		a, b = b, a
	}
	return pair{a, b}
}

func newWAN(delays bool, regions []*region) *wan {
	w := &wan{delays: delays, names: map[ident.Region]bool{}, cut: map[pair]bool{}}
	for _, r := range regions {
		w.names[r.name] = true
	}
	return w
}

func (w *wan) known(name ident.Region) bool { return w.names[name] }

func (w *wan) rtt(a, b ident.Region) time.Duration {
	if !w.delays {
		return 0
	}
	return RTT(a, b)
}

// delay is how long bytes from one region to another are held; nil if there is
// none. During a start nothing is held: the first election of JetStream's meta
// leader has a time-out of 100 ms for each vote, and with votes that take longer
// than that a start takes five seconds as often as one.
func (w *wan) delay(from, to ident.Region) func() time.Duration {
	if !w.delays {
		return nil
	}
	half := RTT(from, to) / 2
	return func() time.Duration {
		if !w.slow.Load() {
			return 0
		}
		return half
	}
}

func (w *wan) isCut(a, b ident.Region) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[newPair(a, b)]
}

func (w *wan) setCut(a, b ident.Region, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[newPair(a, b)] = cut
}
