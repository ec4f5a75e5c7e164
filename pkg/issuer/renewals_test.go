package issuer_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/issuer"
)

// TestRenewalsSpread: 100,000 credentials of one minute do not come back in one, and not
// in one second more than others.
func TestRenewalsSpread(t *testing.T) {
	const n = 100_000
	random := rand.New(rand.NewPCG(1, 2))
	var r issuer.Renewals
	begin := time.Unix(1790000000, 0)
	minutes, seconds := map[int64]int{}, map[int64]int{}
	for i := range n {
		now := begin.Add(time.Duration(i) * time.Minute / n)
		at := r.At(now, time.Hour, random.Float64)
		minutes[at.Unix()/60]++
		seconds[at.Unix()]++
	}
	most := func(m map[int64]int) (n int) {
		for _, v := range m {
			n = max(n, v)
		}
		return n
	}
	t.Logf("%d minutes with at most %d, %d seconds with at most %d", len(minutes), most(minutes), len(seconds), most(seconds))
	// By chance alone, over a tenth of the life, it is 16,700 in a minute.
	if most(minutes) > n/15 || most(seconds) > n/700 {
		t.Errorf("%d come back in one minute, %d in one second", most(minutes), most(seconds))
	}
	// Once it is quiet again renewals are late again: there is no reason to come early.
	quiet := begin.Add(10 * time.Minute)
	for range 100 {
		if at := r.At(quiet, time.Hour, random.Float64).Sub(quiet); at < 41*time.Minute || at > 48*time.Minute {
			t.Errorf("a quiet renewal is due after %s of an hour", at)
		}
	}
}

// TestRenewalsAreInTime: whatever the load, a renewal is due within the life, with time to
// spare.
func TestRenewalsAreInTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r issuer.Renewals
		now := time.Unix(1790000000, 0)
		for range rapid.IntRange(1, 50).Draw(t, "credentials") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Minute)).Draw(t, "later")))
			life := time.Duration(rapid.Int64Range(int64(time.Second), int64(31*24*time.Hour)).Draw(t, "life"))
			at := r.At(now, life, func() float64 { return rapid.Float64Range(0, 1).Draw(t, "random") })
			if part := float64(at.Sub(now)) / float64(life); part < 0.4-1e-6 || part > 0.8+1e-6 {
				t.Fatalf("due after %.3f of its life", part)
			}
		}
	})
}

func BenchmarkRenewals(b *testing.B) {
	var r issuer.Renewals
	now := time.Unix(1790000000, 0)
	for b.Loop() {
		now = now.Add(100 * time.Microsecond)
		r.At(now, time.Hour, issuer.Spread)
	}
}
