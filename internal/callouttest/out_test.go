package callouttest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// staysOut connects until it is refused, which it must be soon, and then once more.
func staysOut(t *testing.T, o ...nats.Option) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for refused := 0; refused < 2; {
		nc, err := connect(o...)
		switch {
		case errors.Is(err, nats.ErrAuthorization):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			nc.Close()
			refused = 0
		}
		if wait.For(ctx, 20*time.Millisecond) != nil {
			t.Fatal("it is let in")
		}
	}
}

// watched is a client that does not come again by itself, and what tells that it is out.
func watched(t *testing.T, k password) <-chan struct{} {
	t.Helper()
	closed := make(chan struct{})
	comesIn(t, nats.UserInfo(k.id, k.secret), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	return closed
}

func out(t *testing.T, what string, closed <-chan struct{}) {
	t.Helper()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: it stays\n%s", what, tail())
	}
}

// TestDisabled: a key that is disabled is out, each of its connections, and stays out with the
// same password until it is enabled; another's connections stay.
func TestDisabled(t *testing.T) {
	k, other := newKey(t), newKey(t)
	stays := watched(t, other)
	first, second := watched(t, k), watched(t, k)
	setup(t, "access-key", "disable", k.id)
	out(t, "the first", first)
	out(t, "the second", second)
	staysOut(t, nats.UserInfo(k.id, k.secret))
	setup(t, "access-key", "enable", k.id)
	again := watched(t, k)
	setup(t, "access-key", "remove", k.id)
	out(t, "removed", again)
	staysOut(t, nats.UserInfo(k.id, k.secret))
	select {
	case <-stays:
		t.Error("another's connection is closed, too")
	default:
	}
}

// TestSuspended: so is who is suspended, whichever region said so.
func TestSuspended(t *testing.T) {
	k := newKey(t)
	closed := watched(t, k)
	id, err := ident.ParseKeyID(k.id)
	if err != nil {
		t.Fatal(err)
	}
	key := ledger.IdentitySuspension(ident.KeyIdentity(id))
	for _, s := range shared.Up.Services {
		if d := s.Denials(); d != nil {
			if _, err := d.Suspend(t.Context(), key, true, 0, ledger.Suspension{}); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	out(t, "suspended", closed)
	staysOut(t, nats.UserInfo(k.id, k.secret))
}

// TestRotated: the earlier secret is refused from then on, and the new one is not.
func TestRotated(t *testing.T) {
	k := newKey(t)
	comesIn(t, nats.UserInfo(k.id, k.secret))
	file := filepath.Join(t.TempDir(), "rotated")
	setup(t, "access-key", "rotate", k.id, "--out", file)
	next := readKey(t, file)
	comesIn(t, nats.UserInfo(next.id, next.secret))
	staysOut(t, nats.UserInfo(k.id, k.secret))
}

// TestRegions: a plain client comes in wherever it is, and is out wherever it is.
func TestRegions(t *testing.T) {
	k := newKey(t)
	comesIn(t, nats.UserInfo(k.id, k.secret)).Close()
	sfo, err := ident.ParseRegion("sfo")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	closed := make(chan struct{})
	for {
		nc, err := connectTo(urlsOf(sfo), nats.UserInfo(k.id, k.secret), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
		if err == nil {
			defer nc.Close()
			break
		}
		// Its region may not have heard of the key.
		if wait.For(ctx, 20*time.Millisecond) != nil {
			t.Fatal(err)
		}
	}
	setup(t, "access-key", "disable", k.id)
	out(t, "in another region than home", closed)
}
