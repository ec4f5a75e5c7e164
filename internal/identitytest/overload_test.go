package identitytest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestFlood: while guests ask for as much as they can send, users' credentials are renewed
// in time, and who is refused is told so at once, with when to come back.
func TestFlood(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	const users = 8
	key := accessKey(t, "--grant", "ORDERS/service")
	creds := make(chan client.Credential, 1000)
	if _, err := issue(t, guest(t, region("ams")), newKey(t), client.Wish{Identity: key, Name: name("flood-0")}, wire.BadIdentity); err != nil {
		t.Fatal(err)
	}
	for range users {
		s, err := client.Connect(ctx, client.Config{
			Platform: shared.Public, Key: newKey(t), Region: region("ams"),
			Wish:         client.Wish{Identity: key, Name: name("flood-0"), TTL: 15 * time.Second},
			OnCredential: func(c client.Credential) { creds <- c },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(ctx)
		<-creds // the first one
	}

	stop := make(chan struct{})
	var work sync.WaitGroup
	var answered, limited, busy, other atomic.Int64
	for range 4 {
		nc := guest(t, region("ams"))
		inbox := nc.NewInbox()
		sub, err := nc.Subscribe(inbox, func(m *nats.Msg) {
			answered.Add(1)
			e, err := wire.DecodeError(m.Data)
			switch {
			case err != nil || m.Header.Get(wire.HeaderErrorCode) == "":
				other.Add(1) // issued, or refused for what it is
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
		defer func() { _ = sub.Unsubscribe() }()
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for range 200 {
					if err := nc.PublishRequest(subject.Issue, inbox, []byte(`{"junk":1}`)); err != nil {
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
	// Every user is renewed twice while the flood lasts. A renewal that is late is one whose
	// credential has ended.
	for i := range 2 * users {
		select {
		case c := <-creds:
			if !time.Now().Before(c.Expires) {
				t.Errorf("renewal %d came when it was over", i)
			}
			if c.User.Proven.IsZero() {
				t.Errorf("renewal %d: %+v", i, c.User)
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
	// Another host would not be limited; this one is, and says when.
	_, err := shared.Public.Issue(short(t), guest(t, region("ams")), newKey(t), client.Wish{Name: shared.Name("late")})
	if !errors.Is(err, &wire.Error{Code: wire.RateLimited}) && err != nil && !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("after the flood: %v", err)
	}
}

// short is a context for one try.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}
