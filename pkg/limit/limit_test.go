package limit_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/limit"
)

func TestTake(t *testing.T) {
	now := time.Unix(1790000000, 0)
	r := limit.Rate{Burst: 3, PerSecond: 1}
	s := limit.New(func() limit.Rate { return r })
	for i, want := range []time.Duration{0, 0, 0, time.Second, time.Second} {
		if d := s.Take("a", now); d != want {
			t.Errorf("request %d waits %s, and not %s", i, d, want)
		}
	}
	if d := s.Take("b", now); d != 0 {
		t.Errorf("another source waits %s", d)
	}
	if d := s.Take("a", now.Add(time.Second)); d != 0 {
		t.Errorf("a second later it waits %s", d)
	}
	if d := s.Take("a", now.Add(time.Second)); d != time.Second {
		t.Errorf("the next waits %s", d)
	}
	r.Burst = 5
	if d := s.Take("a", now.Add(time.Second)); d != 0 {
		t.Errorf("under a new rate it waits %s", d)
	}
}

// Requests are at work side by side, and the one that read the clock first may come last:
// the time between them counts once all the same.
func TestTakeOutOfOrder(t *testing.T) {
	now := time.Unix(1790000000, 0)
	s := limit.New(limit.Always(limit.Rate{Burst: 1, PerSecond: 1}))
	taken := 0
	for range 100 {
		for _, at := range []time.Time{now.Add(time.Second), now} {
			if s.Take("a", at) == 0 {
				taken++
			}
		}
	}
	if taken != 1 {
		t.Errorf("%d were taken at once, where one may be", taken)
	}
	if d := s.Take("a", now.Add(2*time.Second)); d != 0 {
		t.Errorf("a second later it waits %s", d)
	}
}

// Whoever makes names up does not fill the memory, and does not free who asks now.
func TestManySources(t *testing.T) {
	now := time.Unix(1790000000, 0)
	s := limit.New(limit.Always(limit.Rate{Burst: 1, PerSecond: 0.0001}))
	for i := range 50_000 {
		now = now.Add(time.Millisecond)
		s.Take(strconv.Itoa(i), now)
		if i%1000 == 0 {
			s.Take("busy", now)
		}
	}
	if d := s.Take("busy", now); d == 0 {
		t.Error("a source that asks all the time was forgotten")
	}
	if d := s.Take("49999", now); d == 0 {
		t.Error("the last source was forgotten")
	}
	// All at one moment.
	for i := range 30_000 {
		s.Take("x"+strconv.Itoa(i), now)
	}
	if n := s.Len(); n > limit.MaxSources {
		t.Errorf("%d sources are remembered", n)
	}
}

func TestHost(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "": "", "x": "x",
	} {
		if got := limit.Host(addr); got != want {
			t.Errorf("%q: %s, and not %s", addr, got, want)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	now := time.Unix(1790000000, 0)
	s := limit.New(limit.Always(limit.Rate{Burst: 1 << 30, PerSecond: 1}))
	for b.Loop() {
		s.Take("10.1.2.3", now)
	}
}
