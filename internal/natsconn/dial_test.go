package natsconn_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/natsconn"
)

// peer speaks just enough of a server's side of the protocol to be a bad one.
type peer struct {
	dials atomic.Int64
	l     net.Listener
	work  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

// newPeer gives each connection to serve, with its number from 1 on, and closes
// it afterwards. It is gone with the test.
func newPeer(t *testing.T, serve func(n int64, c net.Conn, r *bufio.Reader)) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{l: l}
	p.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			n := p.dials.Add(1)
			p.mu.Lock()
			p.conns = append(p.conns, c)
			p.mu.Unlock()
			p.work.Go(func() {
				defer func() { _ = c.Close() }() // perhaps the test did
				serve(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // a listener that is gone has ended too
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.work.Wait()
	})
	return p
}

func (p *peer) url() string { return "nats://" + p.l.Addr().String() }

// greet takes a client in: INFO, CONNECT, PING, and then answer.
func greet(c net.Conn, r *bufio.Reader, answer string) bool {
	_, ok := connected(c, r, answer)
	return ok
}

// connected does the same, and gives the client's CONNECT.
func connected(c net.Conn, r *bufio.Reader, answer string) (connect string, ok bool) {
	if _, err := io.WriteString(c, `INFO {"server_id":"X","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576,"auth_required":true,"nonce":"abc"}`+"\r\n"); err != nil {
		return "", false
	}
	for _, want := range []string{"CONNECT ", "PING"} {
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			return "", false
		}
		connect += line
	}
	_, err := io.WriteString(c, answer)
	return connect, err == nil
}

// behave answers pings until the client goes.
func behave(c net.Conn, r *bufio.Reader) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if strings.HasPrefix(line, "PING") {
			if _, err := io.WriteString(c, pong); err != nil {
				return
			}
		}
	}
}

const (
	pong    = "PONG\r\n"
	refusal = "-ERR 'Authorization Violation'\r\n"
)

func options(t *testing.T, urls ...string) natsconn.Options {
	t.Helper()
	_, token, _, user := creds(t)
	return natsconn.Options{URLs: urls, Name: "test", Credential: natsconn.Static{Token: token, Key: user}}
}

func dial(t *testing.T, o natsconn.Options) *nats.Conn {
	t.Helper()
	nc, err := natsconn.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not t.Context(), which is over when a cleanup runs.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		natsconn.Close(ctx, nc)
	})
	return nc
}

// noLeak runs after all other cleanups.
func noLeak(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// TestDialsAreLimited: servers that take a client in and then close, as they do
// with a user JWT that has just ended, are not hammered; and not given up.
// nats.go alone, which waits only before it dials the last of the list, dials
// such servers many hundred times a second.
func TestDialsAreLimited(t *testing.T) {
	noLeak(t)
	const (
		burst  = 30 // those of natsconn.go
		second = 5
		window = 2 * time.Second // what is measured is a rate
	)
	var urls []string
	// Counted is who says this name: tests run side by side, and a client of another one
	// may still look for a server that had this port.
	const name = "the one whose dials are counted"
	var mine atomic.Int64
	for range 3 {
		p := newPeer(t, func(_ int64, c net.Conn, r *bufio.Reader) {
			if connect, _ := connected(c, r, pong); strings.Contains(connect, name) {
				mine.Add(1)
			}
		})
		urls = append(urls, p.url())
	}
	dials := mine.Load
	began := time.Now()
	o := options(t, urls...)
	o.Name = name
	nc := dial(t, o)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < window {
		<-tick.C
		// What came after the time was taken is not to count against it.
		n := dials()
		took := time.Since(began)
		// The first dial is not limited, and a piece of a dial counts as one.
		if most := 1 + burst + int64(second*took.Seconds()) + 1; n > most {
			t.Fatalf("%d dials in %v; the bound is %d", n, took, most)
		}
	}
	n := dials()
	t.Logf("%d dials in %v", n, time.Since(began))
	if n <= burst {
		t.Errorf("%d dials: the limit was not reached, and nothing is shown", n)
	}
	for dials() == n {
		if time.Since(began) > window+10*time.Second {
			t.Fatalf("given up after %d dials: %v", n, nc.Status())
		}
		<-tick.C
	}
}

// TestDialEndsWithItsContext: when the context ends while a server keeps one
// waiting, no other server is tried any more.
func TestDialEndsWithItsContext(t *testing.T) {
	noLeak(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	silent := newPeer(t, func(_ int64, _ net.Conn, r *bufio.Reader) {
		cancel()
		_, _ = r.ReadByte() // until the other side gives up
	})
	next := newPeer(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		if greet(c, r, pong) {
			behave(c, r)
		}
	})
	began := time.Now()
	nc, err := natsconn.Dial(ctx, options(t, silent.url(), next.url()))
	if err == nil {
		nc.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
	// One server has 2 s to greet.
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Dial returned after %v", took)
	}
	if n := next.dials.Load(); n != 0 {
		t.Errorf("the next server was dialed %d times", n)
	}

	silentDials := silent.dials.Load()
	if _, err := natsconn.Dial(ctx, options(t, silent.url())); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	if n := silent.dials.Load(); n != silentDials {
		t.Error("dialed with a context that is over")
	}
}

// TestContextBoundsTheDialAlone: the connection lives on, and reconnects, when
// the context of its dial is over.
func TestContextBoundsTheDialAlone(t *testing.T) {
	noLeak(t)
	drop := make(chan struct{})
	p := newPeer(t, func(n int64, c net.Conn, r *bufio.Reader) {
		switch {
		case !greet(c, r, pong):
		case n == 1:
			<-drop
		default:
			behave(c, r)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	back := make(chan struct{}, 1)
	o := options(t, p.url())
	o.OnReconnect = func(*nats.Conn) { back <- struct{}{} }
	nc, err := natsconn.Dial(ctx, o)
	cancel()
	close(drop)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	select {
	case <-back:
	case <-time.After(10 * time.Second):
		t.Fatal("not reconnected")
	}
}

// TestCloseIsBounded: a server that takes everything and answers nothing any
// more does not hold up who closes.
func TestCloseIsBounded(t *testing.T) {
	noLeak(t)
	p := newPeer(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		if greet(c, r, pong) {
			_, _ = io.Copy(io.Discard, r)
		}
	})
	nc := dial(t, options(t, p.url()))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	natsconn.Close(ctx, nc)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("closed after %v; the bound was 200 ms", took)
	}
	if !nc.IsClosed() {
		t.Errorf("%v", nc.Status())
	}
	natsconn.Close(t.Context(), nc) // once more is nothing
	natsconn.Close(t.Context(), nil)
}

// TestCloseWhileReconnecting: nobody is there to flush to.
func TestCloseWhileReconnecting(t *testing.T) {
	noLeak(t)
	p := newPeer(t, func(_ int64, c net.Conn, r *bufio.Reader) { greet(c, r, pong) })
	away := make(chan struct{}, 100)
	o := options(t, p.url())
	o.OnDisconnect = func(error) { away <- struct{}{} }
	nc := dial(t, o)
	_ = p.l.Close()
	select {
	case <-away:
	case <-time.After(10 * time.Second):
		t.Fatal("not disconnected")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	natsconn.Close(ctx, nc)
	if !nc.IsClosed() || ctx.Err() != nil {
		t.Errorf("%v, %v", nc.Status(), ctx.Err())
	}
}

// TestSameRefusalTwice: nats.go gives a connection up for good when a server
// refuses it twice alike; a renewed credential may be a moment away.
func TestSameRefusalTwice(t *testing.T) {
	noLeak(t)
	const refused = 3
	drop := make(chan struct{})
	p := newPeer(t, func(n int64, c net.Conn, r *bufio.Reader) {
		switch {
		case n == 1:
			if greet(c, r, pong) {
				<-drop
			}
		case n <= 1+refused:
			greet(c, r, refusal)
		case greet(c, r, pong):
			behave(c, r)
		}
	})
	back := make(chan struct{}, 1)
	o := options(t, p.url())
	o.OnReconnect = func(*nats.Conn) { back <- struct{}{} }
	nc := dial(t, o)
	close(drop)
	select {
	case <-back:
	case <-time.After(15 * time.Second):
		t.Fatalf("not reconnected after %d dials: %v, %v", p.dials.Load(), nc.Status(), nc.LastError())
	}
	if n := p.dials.Load(); n != 2+refused {
		t.Errorf("%d dials", n)
	}
	if !nc.IsConnected() {
		t.Errorf("%v", nc.Status())
	}
}
