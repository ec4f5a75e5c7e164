package supercluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// What a relay bears with from who has not yet said who they are.
const (
	maxInfo      = 32 << 10        // bytes of a node's INFO line; it lists the other regions' addresses
	maxConnect   = 4096            // bytes of a CONNECT line, its end included; a gateway's has about 200
	connectWait  = 5 * time.Second // from the accept to the end of the CONNECT line, TLS included
	dialNodeWait = time.Second
)

// relay stands in front of one region's gateways, as the one address under which
// the other regions know it. So it sees every byte between two regions, whoever
// of them dialed; and since servers tell each other where a region's gateways
// are, and know no other address, there is no way around it.
//
// The gateway protocol lets it know who dials: the server that accepts sends an
// INFO line first, and the dialer answers with CONNECT, which names its region. Under TLS
// both come after the handshake.
type relay struct {
	region *region
	wan    *wan
	at     *listener
	// Where gateways have TLS it ends here and begins anew: otherwise nobody but the two
	// servers would know who dials. Nil: no TLS.
	shows     *gatewayFiles // to who dials: the region's certificate
	passesFor *gatewayFiles // to the region's nodes: that of another region; nil: the region's

	ctx    context.Context // ends with the relay
	cancel context.CancelFunc
	once   sync.Once // serve
	wg     sync.WaitGroup

	mu    sync.Mutex
	l     net.Listener
	open  map[*session]bool
	turns int // for the round robin
}

// session is one connection through the relay, from accept to end.
type session struct {
	from   ident.Region // who dialed; zero until it said so
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing passes any more
}

func newRelay(r *region, w *wan, at *listener) *relay {
	ctx, cancel := context.WithCancel(context.Background())
	return &relay{region: r, wan: w, at: at, ctx: ctx, cancel: cancel, open: map[*session]bool{}}
}

// listen binds the relay's address. Who dials it waits until serve.
func (r *relay) listen(ctx context.Context) error {
	files, err := readGatewayFiles(r.region.nodes[0].file)
	if err != nil {
		return err
	}
	l, err := listen(ctx, r.at.addr)
	if err != nil {
		return fmt.Errorf("%s: %w", r.at.what, err)
	}
	r.shows, r.l = files, l
	return nil
}

// serve begins to accept. Calling it again does nothing.
func (r *relay) serve() {
	r.once.Do(func() { r.wg.Go(r.accept) })
}

// close ends all connections, stops listening, and waits until nothing runs.
func (r *relay) close() {
	r.cancel()
	_ = r.l.Close() // a second close is an error that says just that
	r.wg.Wait()
}

// drop ends the connections of a region that is cut off, and waits until nothing
// passes through them any more.
func (r *relay) drop(from ident.Region) {
	var dropped []*session
	r.mu.Lock()
	for s := range r.open {
		if s.from == from {
			s.cancel()
			dropped = append(dropped, s)
		}
	}
	r.mu.Unlock()
	for _, s := range dropped {
		<-s.done
	}
}

func (r *relay) accept() {
	for {
		conn, err := r.l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// Out of file descriptors, or a dialer that went away: try again, slowly.
			select {
			case <-r.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		r.wg.Go(func() { r.handle(conn) })
	}
}

// handle owns conn until both sides of the session are done.
func (r *relay) handle(conn net.Conn) {
	ctx, cancel := context.WithCancel(r.ctx)
	s := &session{cancel: cancel, done: make(chan struct{})}
	r.mu.Lock()
	r.open[s] = true
	r.mu.Unlock()
	defer func() {
		cancel()
		_ = conn.Close()
		r.mu.Lock()
		delete(r.open, s)
		r.mu.Unlock()
		close(s.done)
	}()
	// Whoever cancels means: now. Closing is what gets a blocked read to return. What is
	// closed is the connection below TLS, whose goodbye could wait for the other side.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	backend, err := r.dialNode(ctx)
	if err != nil {
		return // nobody runs here: to the dialer it is as if the region were gone
	}
	defer func() { _ = backend.Close() }()
	defer context.AfterFunc(ctx, func() { _ = backend.Close() })()

	if deadline := time.Now().Add(connectWait); conn.SetDeadline(deadline) != nil || backend.SetDeadline(deadline) != nil {
		return
	}
	dialer, err := r.accepted(ctx, conn)
	if err != nil {
		return // its server logs the same
	}
	node, err := r.dialed(ctx, backend)
	if err != nil {
		return // the node logs the same
	}
	delay, head, err := r.introduce(s, dialer, node)
	if err != nil || conn.SetDeadline(time.Time{}) != nil || backend.SetDeadline(time.Time{}) != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { forward(ctx, cancel, node, head, dialer, delay) })
	wg.Go(func() { forward(ctx, cancel, dialer, nil, node, delay) })
	wg.Wait()
}

// dialNode connects to one of the region's running nodes, each in its turn; if one
// refuses, to the next.
func (r *relay) dialNode(ctx context.Context) (net.Conn, error) {
	up := r.region.up()
	r.mu.Lock()
	first := r.turns
	r.turns++
	r.mu.Unlock()
	d := net.Dialer{Timeout: dialNodeWait}
	errs := []error{fmt.Errorf("region %s: %d nodes run", r.region.name, len(up))}
	for i := range up {
		n := up[(first+i)%len(up)]
		conn, err := d.DialContext(ctx, "tcp", n.gateway.addr)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// introduce passes the node's INFO on and reads the dialer's CONNECT, which it
// keeps: head is what was read and must go to the node. It returns an error if
// the dialer is no gateway of another region, or is cut off.
func (r *relay) introduce(s *session, conn, backend io.ReadWriter) (delay func() time.Duration, head []byte, err error) {
	info, err := readLine(backend, maxInfo)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the node's INFO: %w", err)
	}
	if _, err := conn.Write(info); err != nil {
		return nil, nil, fmt.Errorf("passing INFO on: %w", err)
	}
	head, err = readLine(conn, maxConnect)
	if err != nil {
		return nil, nil, err
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	from, err := parseConnect(line)
	if err != nil {
		return nil, nil, err
	}
	if err := r.admit(s, from); err != nil {
		return nil, nil, err
	}
	return r.wan.delay(from, r.region.name), head, nil
}

// admit notes who a session is from, unless that is nobody we know, or cut off.
func (r *relay) admit(s *session, from ident.Region) error {
	if from == r.region.name || !r.wan.known(from) {
		return fmt.Errorf("%w: dialed by region %q", errNoGateway, from)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Under the lock that drop takes after a cut is marked: either we see the
	// mark, or drop sees us.
	if r.wan.isCut(from, r.region.name) {
		return fmt.Errorf("region %s is cut off from %s", from, r.region.name)
	}
	s.from = from
	return nil
}

// readLine reads until the first line is complete, and returns all it read, which
// may be more than that line, but is no more than limit.
func readLine(r io.Reader, limit int) ([]byte, error) {
	buf := make([]byte, 0, limit)
	for len(buf) < limit {
		n, err := r.Read(buf[len(buf):limit])
		buf = buf[:len(buf)+n]
		if bytes.IndexByte(buf, '\n') >= 0 {
			return buf, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: no line: %w", errNoGateway, err)
		}
	}
	return nil, fmt.Errorf("%w: no line in %d bytes", errNoGateway, limit)
}

// errNoGateway is wrapped when who dials a relay is not a gateway of ours.
var errNoGateway = errors.New("not a gateway of this supercluster")

// parseConnect reads the region out of a gateway's CONNECT line, given without
// its '\n'.
func parseConnect(line []byte) (ident.Region, error) {
	args, ok := bytes.CutPrefix(line, []byte("CONNECT "))
	if !ok {
		return ident.Region{}, fmt.Errorf("%w: said %.20q first", errNoGateway, line)
	}
	var connect struct {
		Gateway string `json:"gateway"`
	}
	if err := json.Unmarshal(args, &connect); err != nil {
		return ident.Region{}, fmt.Errorf("%w: CONNECT: %w", errNoGateway, err)
	}
	from, err := ident.ParseRegion(connect.Gateway)
	if err != nil {
		return ident.Region{}, fmt.Errorf("%w: CONNECT: %w", errNoGateway, err)
	}
	return from, nil
}
