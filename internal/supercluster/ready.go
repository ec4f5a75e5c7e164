package supercluster

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// readyTick is how often servers are asked how far they are. They offer no event
// for it.
const readyTick = 2 * time.Millisecond

// await waits until missing returns "", as long as started go on and ctx lasts. Its
// error says what was missing.
func (s *Supercluster) await(ctx context.Context, started []*node, missing func() string) error {
	tick := time.NewTicker(readyTick)
	defer tick.Stop()
	for {
		for _, n := range started {
			if err := n.failed(); err != nil {
				return fmt.Errorf("%s: %w", n, err)
			}
		}
		m := missing()
		if m == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", m, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// missing says what started still lack, "" if nothing.
func (s *Supercluster) missing(started []*node) string {
	for _, r := range s.regions {
		if m := r.missingRoutes(); m != "" {
			return m
		}
		if m := s.missingGateways(r); m != "" {
			return m
		}
	}
	return s.missingLeader(started)
}

// missingRoutes looks at the routes among a region's running nodes.
func (r *region) missingRoutes() string {
	up := r.up()
	for _, n := range up {
		if srv := n.server(); srv != nil && srv.NumRemotes() < len(up)-1 {
			return fmt.Sprintf("%s has routes to %d of %d nodes", n, srv.NumRemotes(), len(up)-1)
		}
	}
	return ""
}

// missingGateways looks whether a region's running nodes have gateways to all
// regions that run and are not cut off.
func (s *Supercluster) missingGateways(r *region) string {
	reach := 0
	for _, other := range s.regions {
		if other != r && len(other.up()) > 0 && !s.wan.isCut(r.name, other.name) {
			reach++
		}
	}
	for _, n := range r.up() {
		if srv := n.server(); srv != nil && srv.NumOutboundGateways() < reach {
			return fmt.Sprintf("%s has gateways to %d of %d regions", n, srv.NumOutboundGateways(), reach)
		}
	}
	return ""
}

// missingLeader looks whether JetStream's meta leader is known to started, and
// whether it knows of them, since streams are placed on servers that it knows.
func (s *Supercluster) missingLeader(started []*node) string {
	if !s.electable() {
		return ""
	}
	leader := ""
	for _, n := range started {
		srv := n.server()
		if srv == nil {
			continue
		}
		if !srv.JetStreamIsClustered() {
			if !srv.JetStreamEnabled() {
				return n.String() + " has no JetStream"
			}
			continue
		}
		info, err := srv.Jsz(nil)
		if err != nil || info.Meta == nil || info.Meta.Leader == "" {
			return n.String() + " knows no meta leader"
		}
		leader = info.Meta.Leader
	}
	if leader == "" {
		return ""
	}
	return s.unknownTo(leader, started)
}

// unknownTo says which of started the meta leader does not know to be there.
func (s *Supercluster) unknownTo(leader string, started []*node) string {
	l := s.node(leader)
	if l == nil || l.server() == nil {
		return "meta leader " + leader + " does not run"
	}
	info, err := l.server().Jsz(nil)
	if err != nil || info.Meta == nil || info.Meta.Leader != leader {
		return "meta leader " + leader + " does not lead"
	}
	if got := info.Meta.Size; got < s.total {
		return fmt.Sprintf("meta leader %s knows %d of %d servers", leader, got, s.total)
	}
	present := map[string]bool{leader: true}
	for _, p := range info.Meta.Replicas {
		present[p.Name] = present[p.Name] || !p.Offline
	}
	for _, n := range started {
		if !present[n.at.name] {
			return fmt.Sprintf("meta leader %s does not know %s", leader, n)
		}
	}
	return ""
}

// led tells whether one of the servers is JetStream's meta leader.
func (s *Supercluster) led() bool {
	return slices.ContainsFunc(s.allNodes(), func(n *node) bool {
		srv := n.server()
		return srv != nil && srv.JetStreamIsLeader()
	})
}

// electable tells whether there must be a meta leader that all know: more than
// half of all servers run, and no link between them is cut.
func (s *Supercluster) electable() bool {
	up := 0
	for i, r := range s.regions {
		n := len(r.up())
		up += n
		for _, other := range s.regions[:i] {
			if n > 0 && len(other.up()) > 0 && s.wan.isCut(r.name, other.name) {
				return false
			}
		}
	}
	return 2*up > s.total
}

// up are the nodes of the region that run.
func (r *region) up() []*node {
	var up []*node
	for _, n := range r.nodes {
		if n.running() {
			up = append(up, n)
		}
	}
	return up
}

// failed is the error for which the server gave up, if it did.
func (n *node) failed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return nil
	}
	select {
	case err := <-n.run.log.fatal:
		return err
	default:
		return nil
	}
}
