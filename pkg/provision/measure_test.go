package provision_test

import (
	"context"
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/wire"
)

// counted are the requests that were counted, by door, way and outcome.
func counted(m provision.Measured) map[[3]string]uint64 {
	all := map[[3]string]uint64{}
	for _, r := range m.Requests {
		all[[3]string{r.Door, r.Way, r.Outcome}] = r.Count
	}
	return all
}

// TestMeasured: each request is counted once, by where it came in, how, and how it ended;
// what is usual is there from the beginning.
func TestMeasured(t *testing.T) {
	b, names := newBench(t)
	want := map[[3]string]uint64{
		{"info", "", "ok"}: 0, {"issue", "open", "ok"}: 0, {"issue", "invite", "ok"}: 0, {"issue", "access_key", "ok"}: 0, {"issue", "oidc", "ok"}: 0,
		{"renew", "renewal", "ok"}: 0,
	}
	check := func(when string) {
		t.Helper()
		if got := counted(b.svc.Measured()); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check("at first")
	alice := newUser(t)
	names.during = func() { b.now = b.now.Add(3 * time.Second) }
	a, werr := b.issue(alice, nil)
	if werr != nil {
		t.Fatal(werr)
	}
	want[[3]string{"issue", "open", "ok"}] = 1
	check("issued")
	names.during = nil
	if _, werr := b.renew(a.JWT); werr != nil {
		t.Fatal(werr)
	}
	b.now = b.now.Add(2 * time.Hour)
	if _, werr := b.renew(a.JWT); werr == nil {
		t.Error("an expired user renewed")
	}
	want[[3]string{"renew", "renewal", "ok"}] = 1
	want[[3]string{"renew", "renewal", "bad_identity"}] = 1
	check("renewed, and not")
	// What a caller writes makes no series.
	for i, kind := range []string{"Open", "renewal", "ok\n", "oidc2"} {
		if _, werr := b.issue(alice, func(r *wire.Request) { nonce(byte(i + 1))(r); r.Identity.Type = kind }); werr == nil {
			t.Errorf("a proof of type %q was taken", kind)
		}
	}
	got := counted(b.svc.Measured())
	n := uint64(0)
	for k, v := range got {
		if want[k] == 0 && v > 0 {
			if k[0] != "issue" || k[1] != "" {
				t.Errorf("counted as %v", k)
			}
			n += v
		}
	}
	if n != 4 {
		t.Errorf("%d requests of no known way, want 4: %v", n, got)
	}

	times := map[[2]string]provision.StepTimes{}
	for _, s := range b.svc.Measured().Times {
		times[[2]string{s.Door, s.Step}] = s
		if last := s.Buckets[len(s.Buckets)-1]; last.Count > s.Count || !slices.IsSortedFunc(s.Buckets, func(a, b provision.Bucket) int { return int(a.Count) - int(b.Count) }) {
			t.Errorf("%+v", s)
		}
	}
	for step, of := range map[[2]string]struct {
		count uint64
		sum   time.Duration
	}{
		{"issue", "request"}: {5, 3 * time.Second}, {"issue", "read"}: {5, 0}, {"issue", "authenticate"}: {1, 0}, {"issue", "decide"}: {1, 0},
		{"issue", "name"}: {1, 3 * time.Second}, {"issue", "sign"}: {1, 0}, {"issue", "record"}: {1, 0},
		{"renew", "request"}: {2, 0}, {"renew", "read"}: {2, 0}, {"renew", "authenticate"}: {1, 0}, {"renew", "sign"}: {1, 0}, {"renew", "record"}: {1, 0},
		{"info", "request"}: {0, 0},
	} {
		if s, ok := times[step]; !ok || s.Count != of.count || s.Sum != of.sum {
			t.Errorf("%v: %d in %s, want %d in %s", step, s.Count, s.Sum, of.count, of.sum)
		}
	}
}

// TestOutcomes: every code that callers are told is an outcome of its own.
func TestOutcomes(t *testing.T) {
	src, err := os.ReadFile("../wire/errors.go")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ok"}
	for _, m := range regexp.MustCompile(`(?m)^\t\w+ +Code = "(\w+)"`).FindAllSubmatch(src, -1) {
		want = append(want, string(m[1]))
	}
	got := provision.Outcomes()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, and pkg/wire has %v", got, want)
	}
}

// TestBuckets: a duration is in the first bucket whose bound it does not exceed.
func TestBuckets(t *testing.T) {
	for _, d := range []time.Duration{
		-time.Second, 0, 1, 25 * time.Microsecond, 25*time.Microsecond + 1, 50 * time.Microsecond, 50*time.Microsecond + 1, 100 * time.Microsecond,
		100*time.Microsecond + 1, time.Millisecond, time.Second, 25 * time.Microsecond << 17, 25*time.Microsecond<<17 + 1, time.Hour,
	} {
		s := provision.Observe(d)
		for _, b := range s.Buckets {
			if want := d <= b.Most; want != (b.Count == 1) {
				t.Errorf("%s is counted %d times as at most %s", d, b.Count, b.Most)
			}
		}
		if s.Count != 1 || s.Sum != max(d, 0) {
			t.Errorf("%s: %+v", d, s)
		}
	}
}

// BenchmarkMeasured gives what a request costs that is measured, and one that is not.
func BenchmarkMeasured(b *testing.B) {
	svc := provision.New(provision.Config{Ledger: ledger.NewProjection(nil), Now: time.Now, Spread: func() float64 { return 0 }})
	plain := func(ctx context.Context, _ endpoint.Request) endpoint.Response {
		provision.AllSteps(ctx)
		return endpoint.Response{}
	}
	for name, h := range map[string]endpoint.Handler{"plain": plain, "measured": svc.MeasuredHandler(plain)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h(b.Context(), endpoint.Request{})
			}
		})
	}
}
