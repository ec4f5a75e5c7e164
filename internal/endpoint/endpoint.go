// Package endpoint answers requests that come through service imports, with
// the promises that every service of Herald makes: it answers nothing but
// replies that a server made for an import, it bounds what is at work, and it
// answers what it accepted before it goes.
package endpoint

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/herald-nats/herald/internal/build"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

const (
	maxWork = 4 * time.Second // for a server to answer
	// MaxWait bounds what a request waits for: clients have given up by then.
	MaxWait = 4 * time.Second
	// What waits to be looked at, of one endpoint. nats.go would keep half a million, behind
	// which everybody waits for longer than they do.
	maxWaiting      = 65_536
	maxWaitingBytes = 32 << 20
)

// Request is a request as it arrived.
type Request struct {
	ID      string // made here, told to the caller, in the log
	Subject string // on which it came
	Reply   string
	Header  map[string][]string
	Body    []byte
}

// Response is what goes back.
type Response struct {
	Body     []byte
	SealedBy string      // the xkey in whose name Body is sealed; empty: it is not
	Err      *wire.Error // for the error headers; nil is success
	Silent   bool        // nothing goes back: who asks was told often enough
}

// Handler answers one request.
type Handler func(context.Context, Request) Response

// Endpoint is one subject and who answers it.
type Endpoint struct {
	Name    string
	Subject string
	Handler Handler
	// Admit is asked before anything is done with a request, one after the other: what it
	// refuses, with that answer, takes nobody's place. It must be quick: whoever sends as much
	// as they can is kept from all others here. nil admits all.
	Admit func(Request) (refusal Response, ok bool)
	// Busy is told of each request for which there is no room, with the refusal that all get
	// then, and gives what is answered. It must be quick. nil: the refusal as JSON.
	Busy func(Request, *wire.Error) Response
	// Waits: the handler waits for others most of its time. Its context ends after MaxWait.
	// Others call Waiting, and bound themselves what they wait for.
	Waits bool
	// Meter counts what becomes of requests before and while they are at work; nil counts
	// nothing. It may be used again for the next server of the same endpoint.
	Meter *Meter
}

// Server answers endpoints on one connection until it is drained.
type Server struct {
	nc      *nats.Conn
	stop    func() error
	ctx     context.Context //nolint:containedctx // the life of the requests at work
	cancel  context.CancelFunc
	mu      sync.Mutex
	ended   bool
	working sync.WaitGroup // requests that were accepted
	hands   sync.WaitGroup // who works on them
	jobs    chan job
	gate    *gate
}

// Serve registers the endpoints as a micro service of that name, so that
// `nats micro ls`, info and stats work. The connection must carry nothing
// else: draining waits until it has no subscription left. What stats gives is shown
// with each endpoint by `nats micro stats`; it may be nil, and has to hold no secret.
func Serve(nc *nats.Conn, name, queue, description string, endpoints []Endpoint, stats func() any) (*Server, error) {
	s := newServer(nc)
	config := micro.Config{Name: name, Version: build.Read().Semantic(), Description: description, QueueGroup: queue}
	if stats != nil {
		config.StatsHandler = func(*micro.Endpoint) any { return stats() }
	}
	svc, err := micro.AddService(nc, config)
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("registering the service %s: %w", name, err)
	}
	s.stop = svc.Stop
	for _, e := range endpoints {
		err = svc.AddEndpoint(e.Name, micro.HandlerFunc(func(r micro.Request) { s.take(e, r) }),
			micro.WithEndpointSubject(e.Subject), micro.WithEndpointPendingLimits(maxWaiting, maxWaitingBytes))
		if err != nil {
			break
		}
	}
	return s.ready(name, err)
}

// ServeQuiet is Serve without micro's discovery, for services whose account
// gives nobody the right to look around.
func ServeQuiet(nc *nats.Conn, queue string, endpoints []Endpoint) (*Server, error) {
	s := newServer(nc)
	var subs []*nats.Subscription
	s.stop = func() error {
		for _, sub := range subs {
			if err := sub.Drain(); err != nil {
				return fmt.Errorf("draining %s: %w", sub.Subject, err)
			}
		}
		return nil
	}
	var err error
	for _, e := range endpoints {
		var sub *nats.Subscription
		sub, err = nc.QueueSubscribe(e.Subject, queue, func(m *nats.Msg) { s.take(e, plain{m}) })
		if err == nil {
			err = sub.SetPendingLimits(maxWaiting, maxWaitingBytes)
		}
		if err != nil {
			break
		}
		subs = append(subs, sub)
	}
	return s.ready(queue, err)
}

func newServer(nc *nats.Conn) *Server {
	g := newGate()
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), gateKey{}, g))
	return &Server{nc: nc, ctx: ctx, cancel: cancel, jobs: make(chan job), gate: g}
}

// ready ends the registration: once the server has seen the subscriptions the
// service is there.
func (s *Server) ready(name string, err error) (*Server, error) {
	if err == nil {
		err = s.nc.FlushTimeout(maxWork)
	}
	if err != nil {
		s.cancel()
		_ = s.stop() // the registration error is the one that matters
		return nil, fmt.Errorf("registering the endpoints of %s: %w", name, err)
	}
	return s, nil
}

// request is what micro gives and plain imitates. It is answered on the
// connection and not through micro.Request: what Error and a failed Respond
// write there, micro reads when the handler returns, which here is before.
type request interface {
	Subject() string
	Reply() string
	Headers() micro.Headers
	Data() []byte
}

// plain is a message that came without micro.
type plain struct{ m *nats.Msg }

func (p plain) Subject() string        { return p.m.Subject }
func (p plain) Reply() string          { return p.m.Reply }
func (p plain) Headers() micro.Headers { return micro.Headers(p.m.Header) }
func (p plain) Data() []byte           { return p.m.Data }

// take runs on the subscription's goroutine: it only hands the work on.
func (s *Server) take(e Endpoint, r request) {
	if !trust.IsImportedReply(r.Reply()) {
		// Whatever else were answered would let the caller publish anywhere.
		return
	}
	id := newRequestID()
	req := Request{ID: id, Subject: r.Subject(), Reply: r.Reply(), Header: r.Headers(), Body: r.Data()}
	if e.Admit != nil {
		if refusal, ok := e.Admit(req); !ok {
			e.Meter.refused(refusal)
			s.respond(r, id, refusal)
			return
		}
	}
	if !s.gate.enter(time.Now()) {
		e.Meter.full()
		busy := wire.Errorf(wire.Unavailable, "ask again in a moment", "too many requests at once")
		busy.RetryAfterMS, busy.RequestID = 500, id
		s.respond(r, id, e.busy(req, busy))
		return
	}
	s.begin(job{e, r, req})
}

// begin gives a request to a hand that is free, or to one more. Once nobody waits for those at
// work any more, it is dropped: its connection is gone, or was given up.
func (s *Server) begin(j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		s.gate.leave()
		return
	}
	s.working.Add(1)
	j.endpoint.Meter.working(1)
	select {
	case s.jobs <- j:
	default:
		s.hands.Go(func() { s.hand(j) })
	}
}

// end has the hands go, and no more of them come.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.cancel()
}

// job is one request that was accepted.
type job struct {
	endpoint Endpoint
	from     request
	request  Request
}

// hand works on one request after another until the server is drained. There are as many as
// there were requests at once, burst at most: one that stays has its stack, which each
// new one would have to grow first.
func (s *Server) hand(j job) {
	for {
		s.work(j)
		s.gate.leave()
		j.endpoint.Meter.working(-1)
		s.working.Done()
		select {
		case j = <-s.jobs:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Server) work(j job) {
	ctx := s.ctx
	if j.endpoint.Waits {
		defer Waiting(ctx)()
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, MaxWait)
		defer cancel()
	}
	s.respond(j.from, j.request.ID, j.endpoint.Handler(ctx, j.request))
}

// busy is what one gets for whom there is no room.
func (e Endpoint) busy(r Request, refusal *wire.Error) Response {
	if e.Busy != nil {
		return e.Busy(r, refusal)
	}
	// Nothing of the request was read: there is no key to seal to.
	body, err := json.Marshal(refusal)
	if err != nil {
		body = nil // a value of our own: this cannot happen
	}
	return Response{Body: body, Err: refusal}
}

func (s *Server) respond(r request, id string, resp Response) {
	if resp.Silent {
		return
	}
	m := &nats.Msg{Subject: r.Reply(), Data: resp.Body, Header: nats.Header{wire.HeaderRequestID: {id}}}
	if resp.SealedBy != "" {
		m.Header[wire.HeaderSealed] = []string{resp.SealedBy}
	}
	if resp.Err != nil {
		sentence := resp.Err.Message
		if resp.SealedBy != "" {
			// The sentence is in the sealed body; it may hold the name that was asked
			// for, and all guests can read this header.
			sentence = string(resp.Err.Code)
		}
		m.Header[wire.HeaderErrorCode] = []string{strconv.Itoa(resp.Err.Code.Number())}
		m.Header[wire.HeaderError] = []string{sentence}
	}
	// A failed publish means a broken connection: the caller asks again.
	_ = s.nc.PublishMsg(m)
}

// Drain stops taking requests, answers those that were taken, and returns when
// the answers have reached the server, or with an error when ctx ends first.
func (s *Server) Drain(ctx context.Context) error {
	defer s.hands.Wait()
	defer s.end()
	if err := s.stop(); err != nil && !s.nc.IsClosed() {
		return fmt.Errorf("stopping the service: %w", err)
	}
	// Stop only begins to drain the subscriptions: requests may still come out
	// of them. nats.go tells nobody when it is over, except by their number.
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	// Without a connection there is nobody to answer to, and nothing that could
	// drain: a region's services must end also after its servers have.
	for s.nc.NumSubscriptions() > 0 && s.nc.IsConnected() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("draining the service: %w", ctx.Err())
		}
	}
	done := make(chan struct{})
	go func() { s.working.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		s.end() // the handlers end at once, and with them the goroutine above
		<-done
		return fmt.Errorf("answering the last requests: %w", ctx.Err())
	}
	if !s.nc.IsConnected() {
		return nil
	}
	if err := s.nc.FlushWithContext(ctx); err != nil && s.nc.IsConnected() {
		return fmt.Errorf("sending the last answers: %w", err)
	}
	return nil
}

func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, as of Go 1.24
	return hex.EncodeToString(b[:])
}
