package provision

import (
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

func replayKey(t testing.TB, b byte) ident.UserKey {
	t.Helper()
	raw := make([]byte, 32)
	raw[0] = b
	pub, err := nkeys.Encode(nkeys.PrefixByteUser, raw)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ident.ParseUserKey(string(pub))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestReplayIsRefused(t *testing.T) {
	r := newReplays()
	a, b := replayKey(t, 1), replayKey(t, 2)
	at := time.Unix(1790000000, 0)
	for i, tc := range []struct {
		key   ident.UserKey
		nonce string
		want  bool
	}{
		{a, "n", true}, {a, "n", false}, {a, "m", true}, {b, "n", true}, {b, "n", false}, {a, "n", false},
	} {
		if first, full := r.first(tc.key, tc.nonce, at); first != tc.want || full {
			t.Errorf("%d: first %t, full %t", i, first, full)
		}
	}
}

// Whatever the clock does between, as long as it does not go back: a request
// that would still be accepted by its time is never taken a second time.
func TestNoReplayWithinTheWindow(t *testing.T) {
	k := replayKey(t, 1)
	rapid.Check(t, func(rt *rapid.T) {
		r := newReplays()
		at := time.Unix(1790000000, 0)
		type sent struct{ time time.Time }
		var all []sent
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			at = at.Add(time.Duration(rapid.Int64Range(0, int64(70*time.Second)).Draw(rt, "pause")))
			if len(all) > 0 && rapid.Bool().Draw(rt, "again") {
				i := rapid.IntRange(0, len(all)-1).Draw(rt, "which")
				req := wire.Request{Time: all[i].time}
				if first, _ := r.first(k, strconv.Itoa(i), at); first && req.CheckTime(at) == nil {
					rt.Fatalf("request %d is taken twice, the second time %s after its time", i, at.Sub(all[i].time))
				}
				continue
			}
			// Its time lies anywhere in the window.
			skew := time.Duration(rapid.Int64Range(-int64(wire.MaxSkew), int64(wire.MaxSkew)).Draw(rt, "skew"))
			if first, full := r.first(k, strconv.Itoa(len(all)), at); !first || full {
				rt.Fatalf("a new request is refused: %t %t", first, full)
			}
			all = append(all, sent{at.Add(skew)})
		}
	})
}

// The edge: a request from 30 s ahead, seen at once, repeated when its time is
// 30 s past, with the generations turned over at the worst moment between.
func TestReplayAtTheEdges(t *testing.T) {
	k := replayKey(t, 1)
	for offset := time.Duration(0); offset <= 62*time.Second; offset += 250 * time.Millisecond {
		r := newReplays()
		start := time.Unix(1790000000, 0)
		r.first(k, "opens the generation", start)
		seen := start.Add(offset)
		r.first(k, "n", seen)
		req := wire.Request{Time: seen.Add(wire.MaxSkew)}
		for again := time.Duration(0); again <= 2*wire.MaxSkew; again += 500 * time.Millisecond {
			at := seen.Add(again)
			r.first(k, at.String(), at) // others come meanwhile
			if first, _ := r.first(k, "n", at); first && req.CheckTime(at) == nil {
				t.Fatalf("seen %s into a generation, taken again %s later", offset, again)
			}
		}
	}
}

func TestReplaysForget(t *testing.T) {
	r := newReplays()
	k := replayKey(t, 1)
	at := time.Unix(1790000000, 0)
	for i := range 1000 {
		r.first(k, strconv.Itoa(i), at)
	}
	at = at.Add(r.window)
	r.first(k, "x", at)
	at = at.Add(r.window)
	r.first(k, "y", at)
	if n := len(r.now) + len(r.old); n != 2 {
		t.Errorf("%d are remembered after two windows", n)
	}
	if first, _ := r.first(k, "0", at); !first {
		t.Error("a nonce of long ago is still known")
	}
}

// A flood costs so much memory and no more, and lets no replay through.
func TestReplaysAreBounded(t *testing.T) {
	r := newReplays()
	k := replayKey(t, 1)
	at := time.Unix(1790000000, 0)
	nonces := make([]string, maxNonces+1)
	for i := range nonces {
		nonces[i] = strconv.Itoa(i)
	}
	for _, n := range nonces[:maxNonces] {
		if first, full := r.first(k, n, at); !first || full {
			t.Fatalf("%s: first %t, full %t", n, first, full)
		}
	}
	if first, full := r.first(k, nonces[maxNonces], at); first || !full {
		t.Errorf("one more: first %t, full %t", first, full)
	}
	if first, full := r.first(k, nonces[7], at); first || full {
		t.Errorf("a replay when full: first %t, full %t", first, full)
	}
	if len(r.now) != maxNonces {
		t.Errorf("%d are remembered", len(r.now))
	}
	// It recovers by itself, and still knows what it knew.
	at = at.Add(r.window)
	if first, full := r.first(k, nonces[maxNonces], at); !first || full {
		t.Errorf("after a window: first %t, full %t", first, full)
	}
	if first, _ := r.first(k, nonces[7], at); first {
		t.Error("a window later a nonce of the last generation is forgotten")
	}
	// Two generations at most, each entry of a bounded size: the key's text is
	// shared with the request, a nonce has 22 characters.
	const perEntry = unsafe.Sizeof(seen{}) + 56 + 22
	if most := 2 * maxNonces * perEntry; most > 256<<20 {
		t.Errorf("%d bytes at most", most)
	}
}

// A clock that steps back must not open the door.
func TestReplayWhenTheClockStepsBack(t *testing.T) {
	r := newReplays()
	k := replayKey(t, 1)
	at := time.Unix(1790000000, 0)
	r.first(k, "n", at)
	for _, step := range []time.Duration{-time.Second, -time.Hour, -1000 * time.Hour} {
		if first, _ := r.first(k, "n", at.Add(step)); first {
			t.Errorf("taken again after a step of %s", step)
		}
	}
}
