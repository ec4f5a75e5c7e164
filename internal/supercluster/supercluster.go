// Package supercluster runs a whole NATS supercluster inside one process: real
// nats-servers, several to a region, the regions joined by gateways through
// relays that can delay bytes and cut links. It serves `nscsetup up`, tests and
// benchmarks, and it is the only package of Herald that imports nats-server.
//
// Each server starts from a configuration file, as a nats-server of its own would: all
// that it is comes from there. The files are those of pkg/platform/serverconf, so
// that what runs here is what `nscsetup config render` hands out.
//
// It is no place to run a platform for others: all servers share one process and one disk,
// and what it stores is synced to that disk at the server's leisure. It listens exactly
// where it is told to, which by default means loopback.
//
// One effect leaves the Supercluster: Start sets nats-server's process-wide delay
// before gateways dial (a second, meant for operators who start servers by hand)
// to a few milliseconds.
package supercluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/herald-nats/herald/pkg/ident"
)

// Errors that callers can tell apart with errors.Is. A taken port is none of
// them: it wraps syscall.EADDRINUSE.
var (
	// ErrConfig is wrapped when what is configured cannot be run, whatever the machine.
	ErrConfig = errors.New("invalid supercluster")
	// ErrUnknown is wrapped when there is no region, node or link of that name.
	ErrUnknown = errors.New("not in this supercluster")
	// ErrClosed is returned by everything that would change a closed Supercluster.
	ErrClosed = errors.New("supercluster is closed")
)

// Files says what StartFiles has to run. It is not changed.
type Files struct {
	// Paths are the configuration files, one for each server; regions and nodes come in
	// the order of their files. Together they must be one supercluster: names are there
	// once, each file of a region advertises the same gateway address, and names that of
	// every other region as the one where it is reached. There a relay listens; servers
	// listen on the addresses of their own. In a single region there are no gateways and
	// no relay; where there are more, each needs at least two nodes (JetStream's meta group
	// does not form over gateways alone).
	Paths []string
	// WAN delays what passes between regions, so that round trips are about as
	// long as between the places they are called after; see RTT.
	WAN bool
	// Log receives the servers' log lines, each with the server's name; nil
	// discards them. Lines are written whole, one at a time.
	Log io.Writer
}

// Server is how one node is now.
type Server struct {
	ID      string       // the server's public nkey; a new one after each start, the last one while stopped
	Name    string       // as it is configured
	Region  ident.Region // where it is
	URL     string       // for clients; see URLs
	Running bool
}

// Supercluster is a running set of servers. Its methods may be called from any
// goroutine; those that start or stop servers wait for each other.
type Supercluster struct {
	regions []*region // in the order of their files
	wan     *wan
	total   int // nodes, running or not

	turn   chan struct{} // holds a token: whoever takes it may start and stop servers
	closed atomic.Bool   // changed only with the token
}

type region struct {
	name  ident.Region
	nodes []*node
	relay *relay // nil in a single region
}

// StartFiles starts all servers and returns when all of them accept clients, are
// joined by routes within their region and by gateways to all others, and know
// JetStream's meta leader, and it knows all of them.
//
// A first start takes about a second, and now and then five: a vote that goes astray
// costs the servers an election timeout of four seconds at least. So does every
// start on existing data. Streams elect their leaders at about the same time, so
// the first request to one may go unanswered and want to be repeated.
//
// On any error everything that was started is stopped again. The error wraps
// ErrConfig if the files cannot be run, syscall.EADDRINUSE (naming the listener, the
// node and the address) if a port is taken, ctx's cause if ctx ended first.
// ctx bounds the start only, not the life of the servers.
func StartFiles(ctx context.Context, f Files) (*Supercluster, error) {
	s, err := assemble(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("starting supercluster: %w", err)
	}
	// The routes of a region find each other much faster than a second, which is
	// what the servers would give them before they look at other regions.
	server.SetGatewaysSolicitDelay(solicitDelay)
	if err := s.startNodes(ctx, s.allNodes()); err != nil {
		// The servers must be gone whether or not ctx still has time for that.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
		defer cancel()
		return nil, fmt.Errorf("starting supercluster: %w", errors.Join(err, s.Close(stop)))
	}
	return s, nil
}

// URLs are the client URLs of a region's nodes, running or not, in the order of their
// files: nats://, or tls:// where clients are encrypted. Nil if there is no such region.
func (s *Supercluster) URLs(name ident.Region) []string {
	r := s.region(name)
	if r == nil {
		return nil
	}
	urls := make([]string, len(r.nodes))
	for i, n := range r.nodes {
		urls[i] = n.url()
	}
	return urls
}

// Servers tells of every node, region by region in the order of their files.
func (s *Supercluster) Servers() []Server {
	all := s.allNodes()
	servers := make([]Server, len(all))
	for i, n := range all {
		servers[i] = n.status()
	}
	return servers
}

// StopRegion stops all nodes of a region, one after the other, so that whatever
// they lead is handed on to a survivor. Its relay goes on listening, to keep the
// port, and refuses everyone. Stopping what is stopped does nothing. It returns
// an error that wraps ErrUnknown, ErrClosed or ctx's cause.
func (s *Supercluster) StopRegion(ctx context.Context, name ident.Region) error {
	r := s.region(name)
	if r == nil {
		return fmt.Errorf("stopping region %q: %w", name, ErrUnknown)
	}
	return s.change(ctx, "stopping region "+name.String(), func() error { return stopOneByOne(ctx, slices.Clone(r.nodes)) })
}

// StartRegion starts those nodes of a region that do not run, on the addresses
// and with the data they had, and waits as Start does, except for what cannot
// be: servers of other regions that are stopped or cut off, and a meta leader
// when a link is cut or too few servers run to elect one. It takes about two
// seconds, most of it until the others' gateways try again. On an error it stops
// what it started.
// It returns an error that wraps ErrUnknown, ErrClosed,
// syscall.EADDRINUSE or ctx's cause.
func (s *Supercluster) StartRegion(ctx context.Context, name ident.Region) error {
	r := s.region(name)
	if r == nil {
		return fmt.Errorf("starting region %q: %w", name, ErrUnknown)
	}
	return s.change(ctx, "starting region "+name.String(), func() error { return s.restart(ctx, r.nodes) })
}

// StopNode stops one node, by its name, as StopRegion does.
func (s *Supercluster) StopNode(ctx context.Context, name string) error {
	n := s.node(name)
	if n == nil {
		return fmt.Errorf("stopping node %q: %w", name, ErrUnknown)
	}
	return s.change(ctx, "stopping node "+name, func() error { return n.stop(ctx) })
}

// StartNode starts one node, by its name, as StartRegion does.
func (s *Supercluster) StartNode(ctx context.Context, name string) error {
	n := s.node(name)
	if n == nil {
		return fmt.Errorf("starting node %q: %w", name, ErrUnknown)
	}
	return s.change(ctx, "starting node "+name, func() error { return s.restart(ctx, []*node{n}) })
}

// Close stops all servers and relays and waits until they are gone: no goroutine
// of theirs is left, but for those in which nats-server waits up to 30 s for a
// mirror's or a source's consumer, and their ports are free. It may be called again, also after
// an error. It returns ctx's cause if that ended first; the servers then go on
// stopping, and another Close can wait for them.
func (s *Supercluster) Close(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return fmt.Errorf("closing supercluster: %w", err)
	}
	defer s.give()
	s.closed.Store(true)
	// Relays first: a server that sees its gateways go does not wait for them.
	for _, r := range s.regions {
		if r.relay != nil {
			r.relay.close()
		}
	}
	if err := stopTogether(ctx, s.allNodes()); err != nil {
		return fmt.Errorf("closing supercluster: %w", err)
	}
	return nil
}

// change runs f while nobody else starts or stops servers.
func (s *Supercluster) change(ctx context.Context, what string, f func() error) error {
	if err := s.take(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer s.give()
	if s.closed.Load() {
		return fmt.Errorf("%s: %w", what, ErrClosed)
	}
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (s *Supercluster) take(ctx context.Context) error {
	select {
	case <-s.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Supercluster) give() { s.turn <- struct{}{} }

// restart starts those of nodes that do not run, or none.
func (s *Supercluster) restart(ctx context.Context, nodes []*node) error {
	var stopped []*node
	for _, n := range nodes {
		if !n.running() {
			stopped = append(stopped, n)
		}
	}
	if len(stopped) == 0 {
		return nil
	}
	if err := s.startNodes(ctx, stopped); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
		defer cancel()
		return errors.Join(err, stopTogether(stop, stopped))
	}
	return nil
}

// startNodes starts nodes and waits until they are part of the whole. On an error
// some of them run.
//
// Regions start side by side, the nodes of a region one after the other, each when
// the one before it has its routes. Two servers that dial each other at the same
// moment may each drop the other's connection as the second one, and then wait for
// a second; so nobody may be there to be dialed who dials too.
func (s *Supercluster) startNodes(ctx context.Context, nodes []*node) error {
	err := together(s.regions, func(r *region) error {
		for _, n := range r.nodes {
			if !slices.Contains(nodes, n) {
				continue
			}
			if err := n.start(ctx); err != nil {
				return err
			}
			// From the first node on, and not before: until a relay accepts, the kernel
			// holds back those who dial it, and a dialer that is refused would wait a
			// second. It must be soon, too: servers stand for election as early as
			// 100 ms after their start, and votes that find no way back are lost for the
			// next four seconds.
			if r.relay != nil {
				r.relay.serve()
			}
			if err := s.await(ctx, []*node{n}, r.missingRoutes); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The delays begin with the first leader, and not when all is ready: gateways
	// measure their round trips a second after they connect, and choose the nearest
	// region by that for as long as 15 s.
	defer s.wan.slow.Store(true)
	return s.await(ctx, nodes, func() string {
		if s.led() {
			s.wan.slow.Store(true)
		}
		return s.missing(nodes)
	})
}

func (s *Supercluster) region(name ident.Region) *region {
	for _, r := range s.regions {
		if r.name == name {
			return r
		}
	}
	return nil
}

func (s *Supercluster) node(name string) *node {
	for _, n := range s.allNodes() {
		if n.at.name == name {
			return n
		}
	}
	return nil
}

func (s *Supercluster) allNodes() []*node {
	all := make([]*node, 0, s.total)
	for _, r := range s.regions {
		all = append(all, r.nodes...)
	}
	return all
}

// together calls f for all of them at once, waits, and joins the errors.
func together[T any](all []T, f func(T) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, v := range all {
		wg.Go(func() { errs[i] = f(v) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func stopTogether(ctx context.Context, nodes []*node) error {
	return together(nodes, func(n *node) error { return n.stop(ctx) })
}

// stopOneByOne stops nodes in turn, JetStream's meta leader last: it hands over to
// somebody who runs, and that must not be one that is next.
func stopOneByOne(ctx context.Context, nodes []*node) error {
	slices.SortStableFunc(nodes, func(a, b *node) int { return cmp.Compare(a.leads(), b.leads()) })
	errs := make([]error, 0, len(nodes))
	for _, n := range nodes {
		errs = append(errs, n.stop(ctx))
	}
	return errors.Join(errs...)
}

// solicitDelay is what servers wait before they dial other regions' relays, who
// do not answer until their region runs. Not 0, which would mean a second.
const solicitDelay = 5 * time.Millisecond

// undoWithin bounds how long a start that failed waits for servers to stop again.
// They take milliseconds; only a disk that hangs would make use of it.
const undoWithin = 10 * time.Second
