package supercluster

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/herald-nats/herald/pkg/ident"
)

// settings are the same for all servers.
type settings struct {
	trust               trust
	log                 *log
	maxMemory, maxStore int64
}

// node is one server over all its runs. Only one goroutine at a time starts and
// stops it (Supercluster.turn); any may look.
type node struct {
	region   ident.Region
	name     string
	dir      string
	settings settings
	client   *listener
	cluster  *listener // nil: alone
	gateway  *listener // nil: the only region
	// Where the others are; set once by peers, before the first start.
	advertise string
	routes    []*url.URL
	remotes   []*server.RemoteGatewayOpts

	mu      sync.Mutex
	run     *run   // nil when stopped
	lastID  string // of the run before, once there was one
	leaving *run   // a run that is shutting down and was not waited for
}

// run is one server from its start to its end.
type run struct {
	srv     *server.Server
	log     *serverLog
	stopped chan struct{} // closed when the server is gone
	stop    sync.Once
}

func newNode(in ident.Region, nc Node, dir string, st settings) *node {
	n := &node{region: in, name: nc.Name, dir: dir, settings: st}
	n.client = n.listener("client", nc.Client)
	return n
}

func (n *node) String() string { return fmt.Sprintf("node %s in region %s", n.name, n.region) }

func (n *node) listener(what, addr string) *listener {
	return &listener{what: what + " listener of " + n.String(), addr: addr}
}

// listeners are those that this node has.
func (n *node) listeners() []*listener {
	ls := []*listener{n.client}
	if n.cluster != nil {
		ls = append(ls, n.cluster)
	}
	if n.gateway != nil {
		ls = append(ls, n.gateway)
	}
	return ls
}

func (n *node) url() string { return "nats://" + n.client.addr }

// peers fills in where the others are, once all ports are known.
//
// The lists do a second thing. A server that starts for the first time takes the
// number of routes plus the number of gateway URLs for the size of JetStream's
// meta group, and while all logs are empty a leader must have that many votes.
// Too few, and a region elects a leader of its own before it sees the others. As
// many as there are servers, as they are usually configured, and two that stand at
// the same moment keep each other from it, for at least four seconds. So it is told
// more than half: URLs are repeated until the sum is that.
func (n *node) peers(regions []*region) {
	if n.cluster == nil {
		return
	}
	total := 0
	for _, r := range regions {
		total += len(r.nodes)
		if r.name == n.region {
			n.join(r)
			continue
		}
		n.remotes = append(n.remotes, &server.RemoteGatewayOpts{Name: r.name.String(), URLs: []*url.URL{{Scheme: "nats", Host: r.relay.at.addr}}})
	}
	if len(n.remotes) == 0 {
		return // routes to all but itself are more than half, and two is the least that counts
	}
	first := n.remotes[0]
	for told := len(n.routes) + len(n.remotes); told < total/2+1; told++ {
		first.URLs = append(first.URLs, first.URLs[0])
	}
}

// join fills in where the other nodes of its region are, and the region's relay.
func (n *node) join(r *region) {
	for _, other := range r.nodes {
		if other != n {
			n.routes = append(n.routes, &url.URL{Scheme: "nats", Host: other.cluster.addr})
		}
	}
	if r.relay != nil {
		n.advertise = r.relay.at.addr
	}
}

func (n *node) running() bool { return n.server() != nil }

// server is the running server or nil.
func (n *node) server() *server.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return nil
	}
	return n.run.srv
}

// leads is 1 if the server is JetStream's meta leader, 0 if not.
func (n *node) leads() int {
	if srv := n.server(); srv != nil && srv.JetStreamIsLeader() {
		return 1
	}
	return 0
}

func (n *node) status() Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return Server{ID: n.lastID, Name: n.name, Region: n.region, URL: n.url(), Running: n.run != nil}
}

// start starts the server and waits until all its listeners listen. After an error
// it must be stopped: it may run.
func (n *node) start(ctx context.Context) error {
	if err := n.stop(ctx); err != nil { // a run that was not waited for
		return err
	}
	if err := claim(ctx, n.listeners()); err != nil {
		return err
	}
	opts, err := n.options()
	if err != nil {
		return fmt.Errorf("%s: %w", n, err)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("%s: %w", n, err)
	}
	r := &run{srv: srv, log: newServerLog(n.settings.log, n.name), stopped: make(chan struct{})}
	srv.SetLoggerV2(r.log, false, false, false)
	srv.Start()
	n.mu.Lock()
	n.run, n.lastID = r, srv.ID()
	n.mu.Unlock()
	if err := r.listening(ctx); err != nil {
		return fmt.Errorf("%s: %w", n, err) // who called start stops it
	}
	return nil
}

// listening waits until the server listens everywhere it has to.
func (r *run) listening(ctx context.Context) error {
	tick := time.NewTicker(readyTick)
	defer tick.Stop()
	for !r.srv.ReadyForConnections(time.Millisecond) {
		select {
		case err := <-r.log.fatal:
			return err
		case <-ctx.Done():
			return fmt.Errorf("waiting for its listeners: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}

// stop shuts the server down and waits for it. If ctx ends first the shutdown
// goes on, and the next stop waits for it.
func (n *node) stop(ctx context.Context) error {
	n.mu.Lock()
	if n.run != nil {
		n.run, n.leaving = nil, n.run
	}
	r := n.leaving
	n.mu.Unlock()
	if r == nil {
		return nil
	}
	r.stop.Do(func() {
		// Shutdown takes no context. The goroutine ends with the server, and is
		// waited for here, or by the next stop.
		go func() {
			defer close(r.stopped)
			r.srv.Shutdown()
			r.srv.WaitForShutdown()
		}()
	})
	select {
	case <-r.stopped:
	case <-ctx.Done():
		return fmt.Errorf("%s: waiting for it to stop: %w", n, context.Cause(ctx))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leaving = nil
	return nil
}

// options are made anew for each run: servers write into theirs.
func (n *node) options() (*server.Options, error) {
	store, accounts := filepath.Join(n.dir, "jetstream"), filepath.Join(n.dir, "resolver")
	for _, dir := range []string{store, accounts} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("making its folder: %w", err)
		}
	}
	// Deletes are off: a server that missed one would bring the account back.
	// A sync interval of 0 is the server's own, a minute.
	resolver, err := server.NewDirAccResolver(accounts, 0, 0, server.NoDelete)
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	if err := resolver.Store(n.settings.trust.account, n.settings.trust.systemJWT); err != nil {
		return nil, fmt.Errorf("storing the system account: %w", err)
	}
	host, port, err := splitHostPort(n.client.addr)
	if err != nil {
		return nil, err
	}
	opts := &server.Options{
		ServerName:             n.name,
		Host:                   host,
		Port:                   port,
		NoSigs:                 true, // signals are the program's, not its servers'
		TrustedOperators:       []*jwt.OperatorClaims{n.settings.trust.operator},
		SystemAccount:          n.settings.trust.account,
		AccountResolver:        resolver,
		JetStream:              true,
		StoreDir:               store,
		JetStreamMaxMemory:     n.settings.maxMemory,
		JetStreamMaxStore:      n.settings.maxStore,
		DisableJetStreamBanner: true,
	}
	opts.Cluster.Name = n.region.String()
	if n.cluster != nil {
		opts.Cluster.Host, opts.Cluster.Port, err = splitHostPort(n.cluster.addr)
		if err != nil {
			return nil, err
		}
		// No pool of connections: over loopback it gains nothing, and it would
		// take four connections and sixteen goroutines for each pair of nodes.
		opts.Cluster.PoolSize = -1
		opts.Routes = n.routes
	}
	if n.gateway != nil {
		opts.Gateway.Name = n.region.String()
		opts.Gateway.Host, opts.Gateway.Port, err = splitHostPort(n.gateway.addr)
		if err != nil {
			return nil, err
		}
		opts.Gateway.Advertise = n.advertise
		opts.Gateway.Gateways = n.remotes
		opts.Gateway.RejectUnknown = true
	}
	return opts, nil
}
