package endpoint

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/wire"
)

// Who is refused because all hands are busy is answered as others are: a client that cannot
// read why, and when to come back, waits for another answer in vain.
func TestBusy(t *testing.T) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const reply = "_R_.busy"
	sub, err := nc.SubscribeSync(reply)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(nc)
	defer s.cancel()
	for range cap(s.slots) {
		s.slots <- struct{}{}
	}
	s.take(nil, plain{&nats.Msg{Reply: reply}})
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
