package endpoint

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/wire"
)

// connect is a connection to a server of its own.
func connect(t *testing.T) *nats.Conn {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Who is refused because all hands are busy is answered as others are: a client that cannot
// read why, and when to come back, waits for another answer in vain.
func TestBusy(t *testing.T) {
	nc := connect(t)
	const reply = "_R_.busy"
	sub, err := nc.SubscribeSync(reply)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(nc)
	defer s.cancel()
	s.gate.mu.Lock()
	s.gate.n = burst
	s.gate.mu.Unlock()
	meter := new(Meter)
	s.take(Endpoint{Meter: meter}, plain{&nats.Msg{Reply: reply}})
	if m := meter.Read(); m != (Metered{Busy: 1}) {
		t.Errorf("counted as %+v", m)
	}
	m, err := sub.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	e, err := wire.DecodeError(m.Data)
	if err != nil || e.Code != wire.Unavailable || e.RetryAfterMS <= 0 || e.Hint == "" {
		t.Errorf("%+v: %v", e, err)
	}
	if id := m.Header.Get(wire.HeaderRequestID); err == nil && (id == "" || e.RequestID != id) {
		t.Errorf("request %q is answered as %q", id, e.RequestID)
	}
	if m.Header.Get(wire.HeaderErrorCode) != "503" {
		t.Errorf("%v", m.Header)
	}
}

// TestAdmit: what is not admitted is answered though no hand is free, and nothing of it is
// done.
func TestAdmit(t *testing.T) {
	nc := connect(t)
	sub, err := nc.SubscribeSync("_R_.>")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(nc)
	defer s.cancel()
	done, goOn := make(chan string, 2), make(chan struct{})
	e := Endpoint{
		Admit: func(r Request) (Response, bool) {
			return Response{
				Body: []byte("no"), Err: wire.Errorf(wire.RateLimited, "later", "too many"), Silent: string(r.Body) == "told already",
			}, string(r.Body) == "first"
		},
		Meter: new(Meter),
		Handler: func(_ context.Context, r Request) Response {
			done <- string(r.Body)
			<-goOn
			return Response{Body: []byte("yes")}
		},
	}
	for _, c := range []struct{ reply, body, code, answer string }{
		{"_R_.first", "first", "", "yes"}, {"_R_.many", "one too many", "429", "no"},
	} {
		s.take(e, plain{&nats.Msg{Reply: c.reply, Data: []byte(c.body)}})
		if c.answer == "yes" {
			if m := e.Meter.Read(); m != (Metered{AtWork: 1}) {
				t.Errorf("counted as %+v while it is at work", m)
			}
			close(goOn)
		}
		m, err := sub.NextMsg(10 * time.Second)
		if err != nil || m.Subject != c.reply || m.Header.Get(wire.HeaderErrorCode) != c.code || string(m.Data) != c.answer {
			t.Errorf("%s: %+v %v", c.body, m, err)
		}
	}
	s.gate.mu.Lock()
	s.gate.n = burst
	s.gate.mu.Unlock()
	s.take(e, plain{&nats.Msg{Reply: "_R_.busy", Data: []byte("one too many")}})
	if m, err := sub.NextMsg(10 * time.Second); err != nil || m.Header.Get(wire.HeaderErrorCode) != "429" {
		t.Errorf("without a free hand: %+v %v", m, err)
	}
	s.take(e, plain{&nats.Msg{Reply: "_R_.silent", Data: []byte("told already")}})
	if m, err := sub.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("who was told often enough is told %s", m.Data)
	}
	s.working.Wait()
	if m := e.Meter.Read(); m != (Metered{Limited: 2, Unanswered: 1}) {
		t.Errorf("counted as %+v", m)
	}
	if first := <-done; first != "first" || len(done) != 0 {
		t.Errorf("%q was done, and %d more", first, len(done))
	}
}
