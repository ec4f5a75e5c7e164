package identitytest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestFlood: while guests ask for as much as they can send, users' credentials are renewed
// in time, and who is refused is told so at once, with when to come back.
func TestFlood(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const users = 8
	key, called := accessKey(t, "--grant", "ORDERS/service"), shared.Name("flood")
	creds, proven := make(chan client.Credential, 1000), map[ident.UserKey]time.Time{}
	if _, err := issue(t, guest(t, region("ams")), newKey(t), client.Wish{Identity: key, Name: called}, wire.BadIdentity); err != nil {
		t.Fatal(err)
	}
	for range users {
		s, err := client.Connect(ctx, client.Config{
			Platform: shared.Public, Key: newKey(t), Region: region("ams"),
			Wish:         client.Wish{Identity: key, Name: called, TTL: slower * 20 * time.Second},
			OnCredential: func(c client.Credential) { creds <- c },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(ctx)
		c := <-creds // the first one
		proven[c.User.Key] = c.User.Proven
	}

	stop := make(chan struct{})
	var work sync.WaitGroup
	var answered, limited, busy, other atomic.Int64
	flood := func(nc *nats.Conn, door, body string) {
		inbox := nc.NewInbox()
		sub, err := nc.Subscribe(inbox, func(m *nats.Msg) {
			answered.Add(1)
			e, err := wire.DecodeError(m.Data)
			switch {
			case door == subject.Renew && m.Header.Get(wire.HeaderErrorCode) == "":
				other.Add(1) // one of those that a user may ask for
			case m.Header.Get(wire.HeaderErrorCode) == "" || err != nil:
				t.Errorf("an answer that says nothing: %v %q: %v", m.Header, m.Data, err)
			case e.Code == wire.RateLimited:
				limited.Add(1)
				if e.RetryAfterMS <= 0 {
					t.Errorf("nothing is said of when to come back: %+v", e)
				}
			case e.Code == wire.Unavailable && e.RetryAfterMS > 0:
				busy.Add(1)
			default:
				other.Add(1)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for range 200 {
					if err := nc.PublishRequest(door, inbox, []byte(body)); err != nil {
						t.Error(err)
						return
					}
				}
				if err := nc.FlushWithContext(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var members []*nats.Conn
	for range 2 {
		nc, _ := obtained(t, "ORDERS/service", "flood").enter(t)
		members = append(members, nc)
	}
	for range 4 {
		flood(guest(t, region("ams")), subject.Issue, `{"junk":1}`)
	}
	// And two users ask to be renewed as fast as they can, from the same address.
	for _, nc := range members {
		flood(nc, subject.Renew, "")
	}
	// Every user is renewed twice while the flood lasts. Who is not renewed in time has to
	// prove who it is anew.
	for i := range 2 * users {
		select {
		case c := <-creds:
			t.Logf("renewal %d took %s", i, c.Took)
			if was := proven[c.User.Key]; was.IsZero() || !c.User.Proven.Equal(was) {
				t.Errorf("renewal %d came too late: proved at %s, and not at %s", i, c.User.Proven, was)
			}
		case <-ctx.Done():
			t.Fatalf("%d renewals while %d requests were answered", i, answered.Load())
		}
	}
	close(stop)
	work.Wait()
	t.Logf("%d answered: %d limited, %d told that it is busy", answered.Load(), limited.Load(), busy.Load())
	if limited.Load() == 0 || answered.Load() < 5000 {
		t.Errorf("it was no flood, or nobody was limited: %d answered, %d limited", answered.Load(), limited.Load())
	}
	// Another host would not be limited; this one is, also who asks for what it may have, and
	// it is told when to come back.
	late, nc, e := inTheWake(ctx, t)
	if e.RetryAfterMS <= 0 || e.Message == "" || strings.ContainsAny(e.Message, "\r\n") || e.Hint == "" || e.RequestID == "" {
		t.Errorf("after the flood: %+v", e)
	}
	// Who does as it was told is let in.
	if u, e := late.asked(t, nc); e != nil || u.Key.String() != late.user.Public() {
		t.Errorf("who came back when it was told to: %+v: %v", u, e)
	}
}

// inTheWake asks at once after junk of the same host was refused as too much, and gives what
// was refused likewise. A host may ask for one more every 10 ms, so one that is not refused
// came too late, and another is tried.
func inTheWake(ctx context.Context, t *testing.T) (*attack, *nats.Conn, *wire.Error) {
	t.Helper()
	const junk = 300
	nc := guest(t, region("ams"))
	inbox := nc.NewInbox()
	sub := must(nc.SubscribeSync(inbox + ".*"))
	for round := 0; ctx.Err() == nil; round++ {
		a, reply := newAttack(t), fmt.Sprintf("%s.%d", inbox, round)
		for range junk {
			must(0, nc.PublishRequest(subject.Issue, reply, []byte(`{"junk":1}`)))
		}
		limited := false
		for answered := 0; answered < junk && !limited; {
			// A host that was told often enough is not told for a moment.
			m, err := sub.NextMsg(time.Second)
			if errors.Is(err, nats.ErrTimeout) {
				break
			}
			if err != nil {
				t.Fatalf("after the flood: %v", err)
			}
			if m.Subject != reply {
				continue // of the round before
			}
			answered++
			e, err := wire.DecodeError(m.Data)
			limited = err == nil && e.Code == wire.RateLimited
		}
		if !limited {
			continue
		}
		m, err := nc.RequestMsg(a.message(), time.Second)
		if errors.Is(err, nats.ErrTimeout) {
			continue
		}
		if err != nil {
			t.Fatalf("after the flood: %v", err)
		}
		switch _, e := a.read(t, m); {
		case e == nil, e.Code == wire.Unavailable:
		case e.Code == wire.RateLimited:
			return a, nc, e
		default:
			t.Fatalf("after the flood: %v", e)
		}
	}
	t.Fatal("after the flood: nothing is refused")
	return nil, nil, nil
}
