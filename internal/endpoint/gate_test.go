package endpoint

import (
	"testing"
	"time"
)

// let is how many of so many that come at once are let in.
func let(g *gate, n int, now time.Time) (in int) {
	for range n {
		if g.enter(now, false) {
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
	now := time.Unix(1790000000, 0)
	g := &gate{}
	if in := let(g, 2*burst, now); in != burst {
		t.Fatalf("%d at once are let in, and not %d", in, burst)
	}
	// They are answered, and for each come two.
	now = now.Add(patience)
	leave(g, 1)
	if in := let(g, 1, now); in != 1 {
		t.Error("the rush lasts for no longer than patience, and its last is not let in")
	}
	for range 100 {
		now = now.Add(time.Millisecond)
		leave(g, 10)
		let(g, 20, now)
	}
	if g.n != standing() {
		t.Errorf("%d stay at work while it lasts, and not %d", g.n, standing())
	}
	// Even if all are answered in between, it is not over at once.
	leave(g, g.n)
	now = now.Add(calm / 2)
	if in := let(g, burst, now); in != standing() {
		t.Errorf("%d are let in while it lasts, and not %d", in, standing())
	}
	if !g.enter(now, true) {
		t.Error("one that only waits is not let in")
	}
	leave(g, g.n)
	now = now.Add(calm + time.Millisecond)
	if in := let(g, 2*burst, now); in != burst {
		t.Errorf("after a moment without a rush %d are let in, and not %d", in, burst)
	}
	leave(g, g.n)
	// As many as may stay never make a rush.
	for range 1000 {
		now = now.Add(time.Millisecond)
		if in := let(g, standing(), now); in != standing() {
			t.Fatalf("%d of %d are let in", in, standing())
		}
		leave(g, standing())
	}
}
