package supercluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// node is one server over all its runs. Only one goroutine at a time starts and
// stops it (Supercluster.turn); any may look.
type node struct {
	file string // its configuration
	log  *log
	at   site
	next *server.Options // read already, for the next run; nil: to be read

	client  *listener
	cluster *listener   // nil: alone
	gateway *listener   // nil: the only region
	others  []*listener // websocket, leafnodes, monitoring

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

func newNode(file string, l *log) (*node, error) {
	opts, err := load(file)
	if err != nil {
		return nil, err
	}
	at, err := siteOf(opts)
	if err != nil {
		release(opts)
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, file, err)
	}
	n := &node{file: file, log: l, at: at, next: opts}
	listen := func(what, addr string) *listener {
		if addr == "" {
			return nil
		}
		return &listener{what: what + " listener of " + n.String(), addr: addr}
	}
	n.client, n.cluster, n.gateway = listen("client", at.client), listen("cluster", at.cluster), listen("gateway", at.gateway)
	n.others = []*listener{listen("websocket", at.websocket), listen("leafnode", at.leafnode), listen("monitoring", at.monitor)}
	return n, nil
}

func (n *node) String() string { return nodeOf(n.at.region, n.at.name) }

// listeners are those that this node has.
func (n *node) listeners() []*listener {
	all := append([]*listener{n.client, n.cluster, n.gateway}, n.others...)
	return slices.DeleteFunc(all, func(l *listener) bool { return l == nil })
}

func (n *node) url() string { return n.at.scheme + n.client.addr }

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
	return Server{ID: n.lastID, Name: n.at.name, Region: n.at.region, URL: n.url(), Running: n.run != nil}
}

// start starts the server and waits until all its listeners listen. After an error
// it must be stopped: it may run.
func (n *node) start(ctx context.Context) error {
	if err := n.halt(ctx); err != nil { // a run that was not waited for
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
		release(opts)
		return fmt.Errorf("%s: %w: %w", n, ErrConfig, err)
	}
	r := &run{srv: srv, log: newServerLog(n.log, n.at.name), stopped: make(chan struct{})}
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
	n.forget()
	return n.halt(ctx)
}

// forget lets go what was read for a run that does not come.
func (n *node) forget() {
	release(n.next)
	n.next = nil
}

// halt ends a run.
func (n *node) halt(ctx context.Context) error {
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

// options are read anew for each run, as by a server that is started again: servers
// write into theirs. Who it is and where must have remained, since the others know.
func (n *node) options() (*server.Options, error) {
	if o := n.next; o != nil {
		n.next = nil
		return o, nil
	}
	o, err := load(n.file)
	if err != nil {
		return nil, err
	}
	switch at, err := siteOf(o); {
	case err != nil:
		release(o)
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, n.file, err)
	case at != n.at:
		release(o)
		return nil, fmt.Errorf("%w: %s is another server's now, or its addresses have changed", ErrConfig, n.file)
	}
	return o, nil
}
