package endpoint

import (
	"context"
	"testing"
	"time"
)

// let is how many of so many that come at once are let in.
func let(g *gate, n int, now time.Time) (in int) {
	for range n {
		if g.enter(now) {
			in++
		}
	}
	return in
}

func leave(g *gate, n int) {
	for range n {
		g.leave()
	}
}

// TestGate: what comes at one moment is let in up to burst, and what goes on coming faster
// than it is answered only as long as it is few, until that has been over for a moment.
func TestGate(t *testing.T) {
	t.Parallel()
	const few = 100
	now := time.Unix(1790000000, 0)
	g := &gate{standing: few}
	if in := let(g, 2*burst, now); in != burst {
		t.Fatalf("%d at once are let in, and not %d", in, burst)
	}
	// They are answered, and for each come two.
	until := now.Add(patience)
	for now.Before(until) {
		now = now.Add(time.Millisecond)
		leave(g, 10)
		if in := let(g, 20, now); in != 10 {
			t.Fatalf("%d are let in at %s, while patience lasts, and there is room for 10", in, now)
		}
	}
	for range 100 {
		now = now.Add(time.Millisecond)
		leave(g, 10)
		let(g, 20, now)
	}
	if g.n != few {
		t.Errorf("%d stay at work while it lasts, and not %d", g.n, few)
	}
	// Even if all are answered in between, it is not over at once.
	leave(g, g.n)
	now = now.Add(calm / 2)
	if in := let(g, burst, now); in != few {
		t.Errorf("%d are let in while it lasts, and not %d", in, few)
	}
	leave(g, g.n)
	now = now.Add(calm + time.Millisecond)
	if in := let(g, 2*burst, now); in != burst {
		t.Errorf("after a moment without a rush %d are let in, and not %d", in, burst)
	}
	leave(g, g.n)
	// Nor is a load that is steady, and less than may stay: what comes beside it is let in.
	let(g, few-10, now)
	for range 1000 {
		now = now.Add(time.Millisecond)
		leave(g, 5)
		let(g, 5, now)
	}
	if in := let(g, burst, now); in != burst-(few-10) {
		t.Errorf("beside a steady load %d are let in", in)
	}
	leave(g, g.n)
	// Many at one moment and then nobody is no rush that lasts, however often it happens.
	for range 100 {
		now = now.Add(2 * calm)
		if in := let(g, burst, now); in != burst {
			t.Fatalf("%d of %d are let in", in, burst)
		}
		leave(g, burst)
	}
}

// TestWaiting: those who wait for somebody else keep nobody out, until there is no room at all.
func TestWaiting(t *testing.T) {
	t.Parallel()
	const few = 50
	now := time.Unix(1790000000, 0)
	g := &gate{standing: few}
	ctx := context.WithValue(t.Context(), gateKey{}, g)
	let(g, 2*few, now)
	var over []func()
	for range 2 * few {
		over = append(over, Waiting(ctx))
	}
	for range 2 * patience / time.Millisecond {
		now = now.Add(time.Millisecond)
		if in := let(g, few/2, now); in != few/2 {
			t.Fatalf("%d are let in beside those who wait", in)
		}
		leave(g, few/2)
	}
	if in := let(g, burst, now); in != burst-2*few {
		t.Errorf("%d are let in at once, and there is room for %d", in, burst-2*few)
	}
	leave(g, burst-2*few)
	for _, f := range over {
		f()
	}
	if g.waits != 0 || g.n != 2*few {
		t.Errorf("%d at work, %d wait", g.n, g.waits)
	}
	Waiting(t.Context())() // of no server's request
}
