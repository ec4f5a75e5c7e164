package service

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// A connection that stands, and that may not subscribe any more, is not ready.
func TestRefusedSubscription(t *testing.T) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, Users: []*server.User{{
		Username: "u", Password: "p", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"denied.>"}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	r := &Running{doors: &doors{}, refused: map[*dialed]string{}}
	d := &dialed{"c"}
	told := make(chan struct{}, 1)
	nc, err := nats.Connect(srv.ClientURL(), nats.Name("c"), nats.UserInfo("u", "p"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		r.unsubscribed(d, err)
		told <- struct{}{}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	r.connected(nc)
	if s := r.Status(); !s.Ready {
		t.Fatalf("%+v", s)
	}
	if _, err := nc.QueueSubscribe("denied.x", "q", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was refused")
	}
	if s := r.Status(); s.Ready || s.Closed || !strings.Contains(strings.Join(s.Why, "\n"), "connection c may not subscribe to denied.x") {
		t.Errorf("%+v", s)
	}
	// Another connection of that name may go.
	r.disconnected(&dialed{"c"})
	if s := r.Status(); s.Ready {
		t.Error("what a connection was refused is forgotten with another one")
	}
	r.disconnected(d)
	if s := r.Status(); !s.Ready {
		t.Errorf("%+v", s)
	}
	nc.Close()
	if s := r.Status(); s.Ready || !s.Closed {
		t.Errorf("closed for good: %+v", s)
	}
}
