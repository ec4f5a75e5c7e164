package issuebench

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

const (
	inFlight = 64
	// Connections that ask: those of guests carry what many guests ask, while each user
	// renews on its own, and may do so 30 times at once, and once a second: these may 60,000
	// times in one measurement.
	guestConns  = 6
	memberConns = 2000

	rounds  = 6               // even: each way is as often first as last
	warm    = time.Second     // before each measurement, so that connections and caches are warm
	measure = 4 * time.Second // what is measured in each round
	first   = 4000            // requests, at most, before it
)

// door is one of the two that are measured.
type door struct {
	conns []*nats.Conn
	// prepare gives the requests of one measurement.
	prepare func(n int) func(i int) *nats.Msg
}

func (w *world) issueDoor(tb testing.TB) door {
	tb.Helper()
	return door{w.guests(tb, guestConns), func(n int) func(i int) *nats.Msg {
		return w.signed(tb, n, w.access, nil).at
	}}
}

func (w *world) renewDoor(tb testing.TB) door { tb.Helper(); return w.renewDoorOf(tb, memberConns) }

// renewDoorOf is that of so many users.
func (w *world) renewDoorOf(tb testing.TB, n int) door {
	tb.Helper()
	issuer := w.issuer(tb)
	defer w.stop(tb, issuer)
	m := &nats.Msg{Subject: subject.Renew}
	return door{w.members(tb, n), func(int) func(i int) *nats.Msg { return func(int) *nats.Msg { return m } }}
}

func doors() map[string]func(*world, testing.TB) door {
	return map[string]func(*world, testing.TB) door{"issue": (*world).issueDoor, "renew": (*world).renewDoor}
}

// run measures whoever answers at the door now.
func (d door) run(tb testing.TB, who string) result {
	tb.Helper()
	// So many are signed beforehand as will be needed, as far as the first second tells: they
	// must not be old when they are asked.
	r := closed(tb, d.conns, inFlight, warm, d.prepare(first), nil)
	next := d.prepare(first + int(1.5*r.rate()*measure.Seconds()))
	profiled(tb, who, func() { r = closed(tb, d.conns, inFlight, measure, next, nil) })
	if n := len(r.answers); n != 1 || r.granted() == 0 {
		tb.Errorf("what is measured is refused: %s", r)
	}
	return r
}

// one is one answer of the issuer's at the door.
func (d door) one(tb testing.TB) (m *nats.Msg) {
	tb.Helper()
	next := d.prepare(1)
	closed(tb, d.conns, 1, 5*time.Second, func(i int) *nats.Msg {
		if i > 0 {
			return nil
		}
		return next(i)
	}, func(_ int, answer *nats.Msg) { m = answer })
	if m == nil {
		tb.Fatal("nothing was issued")
	}
	return m
}

// figures are those of several rounds.
type figures []float64

func (f figures) median() float64 {
	s := slices.Sorted(slices.Values(f))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func (f figures) report(b *testing.B, what string) float64 {
	b.Helper()
	median := f.median()
	b.ReportMetric(median, what)
	b.Logf("%s: median %.4g, from %.4g to %.4g in %d rounds", what, median, slices.Min(f), slices.Max(f), len(f))
	return median
}

// profilesEnv names a folder for profiles of what is measured, and of nothing beside.
const profilesEnv = "HERALD_PROFILES"

// profiled does something, and writes profiles of it if they are wanted.
func profiled(tb testing.TB, who string, do func()) {
	tb.Helper()
	dir := os.Getenv(profilesEnv)
	if dir == "" {
		do()
		return
	}
	write := func(name string, profile func(io.Writer) error) {
		f := must(os.Create(filepath.Join(dir, strings.ReplaceAll(tb.Name(), "/", "-")+"-"+who+"-"+name)))
		must(0, profile(f))
		must(0, f.Close())
	}
	allocs := func(w io.Writer) error { return pprof.Lookup("allocs").WriteTo(w, 0) }
	runtime.GC()
	write("allocs-before.prof", allocs)
	write("cpu.prof", func(w io.Writer) error {
		err := pprof.StartCPUProfile(w)
		do()
		pprof.StopCPUProfile()
		return err
	})
	runtime.GC()
	write("allocs.prof", allocs)
}

// BenchmarkRate measures the issuer alone, for profiles of what goes on while requests are
// answered:
//
//	HERALD_PROFILES=/tmp go test -run '^$' -bench Rate -benchtime 1x ./internal/issuebench
//	go tool pprof -tagfocus part=issuer -top -cum /tmp/BenchmarkRate-issue-herald-cpu.prof
//	go tool pprof -base /tmp/BenchmarkRate-issue-herald-allocs-before.prof -top /tmp/BenchmarkRate-issue-herald-allocs.prof
func BenchmarkRate(b *testing.B) {
	one, three := []string{"ams"}, []string{"ams", "sfo", "sgp"}
	for _, c := range []struct {
		name    string
		regions []string
		door    func(*world, testing.TB) door
	}{
		{"issue", one, (*world).issueDoor},
		{"renew", one, (*world).renewDoor},
		{"issue-three-regions", three, (*world).issueDoor}, // nine servers and three registrars share the processors
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, c.regions...)
			d := c.door(w, b)
			for b.Loop() {
				stop := w.answers(b, nil)
				r := d.run(b, herald)
				stop()
				b.Log(r)
				b.ReportMetric(r.rate(), "requests/s")
			}
		})
	}
}

// answers starts a reference, or the issuer if it is nil.
func (w *world) answers(tb testing.TB, reference func(testing.TB) *reference) (stop func()) {
	tb.Helper()
	if reference == nil {
		issuer := w.issuer(tb)
		return func() { w.stop(tb, issuer) }
	}
	r := reference(tb)
	return func() { r.stop(tb) }
}

// compared measures an issuer and what it is compared to in turns, and gives the ratio of
// requests a second to each reference.
func compared(b *testing.B, w *world, d door, references map[string]func(testing.TB) *reference, order []string) (ratio map[string]float64) {
	b.Helper()
	rates, ratios, byCPU := map[string]figures{}, map[string]figures{}, map[string]figures{}
	var cores, allocs figures
	ways := append([]string{herald}, order...)
	for round := range rounds {
		got := map[string]result{}
		turn := slices.Clone(ways)
		if round%2 == 1 {
			slices.Reverse(turn)
		}
		for _, way := range turn {
			stop := w.answers(b, references[way])
			got[way] = d.run(b, way)
			stop()
			b.Logf("round %d, %s: %s", round+1, way, got[way])
			rates[way] = append(rates[way], got[way].rate())
		}
		cores = append(cores, got[herald].cores())
		allocs = append(allocs, float64(got[herald].allocs)/float64(got[herald].granted()))
		for _, way := range order {
			ratios[way] = append(ratios[way], got[herald].rate()/got[way].rate())
			byCPU[way] = append(byCPU[way], got[way].each().Seconds()/got[herald].each().Seconds())
		}
	}
	rates[herald].report(b, "requests/s")
	cores.report(b, "cores")
	allocs.report(b, "allocs/request") // of the servers and the clients, too
	ratio = map[string]float64{}
	for _, way := range order {
		rates[way].report(b, way+"-requests/s")
		// The same, as far as other programs on the machine have nothing to do with it.
		byCPU[way].report(b, "of-"+way+"-by-processor-time")
		ratio[way] = ratios[way].report(b, "of-"+way)
	}
	return ratio
}

// Who answers: the issuer, and what it is compared to.
const (
	herald = "herald"
	bare   = "bare"
	usual  = "usual"
)

// BenchmarkIssue asks for credentials with an access key, 64 requests in flight: signed
// beforehand, and answers are not sealed, as neither are those of the references.
func BenchmarkIssue(b *testing.B) {
	w := newWorld(b, "ams")
	d := w.issueDoor(b)
	issuer := w.issuer(b)
	s := sizesOf(b, d.one(b))
	w.stop(b, issuer)
	for b.Loop() {
		atLeast(b, compared(b, w, d, map[string]func(testing.TB) *reference{
			bare:  func(tb testing.TB) *reference { return w.bareIssue(tb, s) },
			usual: func(tb testing.TB) *reference { return w.usual(tb, subject.Issue) },
		}, []string{bare, usual}), map[string]float64{bare: 0.6, usual: 2.5})
	}
}

// BenchmarkRenew renews the credentials of two thousand connections, 64 requests in flight.
func BenchmarkRenew(b *testing.B) {
	w := newWorld(b, "ams")
	d := w.renewDoor(b)
	issuer := w.issuer(b)
	s := sizesOf(b, d.one(b))
	w.stop(b, issuer)
	for b.Loop() {
		atLeast(b, compared(b, w, d, map[string]func(testing.TB) *reference{
			bare:  func(tb testing.TB) *reference { return w.bareRenew(tb, s) },
			usual: func(tb testing.TB) *reference { return w.usual(tb, subject.Renew) },
		}, []string{bare, usual}), map[string]float64{bare: 0.6, usual: 5})
	}
}

// BenchmarkFirstRenewals renews each of many credentials once, with an issuer that was just
// started and has seen none of them: what it remembers of a credential helps nobody there.
// There is no bound on it; BenchmarkRenew renews each several times.
func BenchmarkFirstRenewals(b *testing.B) {
	w := newWorld(b, "ams")
	d := w.renewDoorOf(b, users)
	issuer := w.issuer(b)
	s := sizesOf(b, d.one(b))
	w.stop(b, issuer)
	m := &nats.Msg{Subject: subject.Renew}
	once := func(reference func(testing.TB) *reference) result {
		stop := w.answers(b, reference)
		defer stop()
		return closed(b, d.conns, inFlight, time.Minute, func(i int) *nats.Msg {
			if i >= users {
				return nil
			}
			return m
		}, nil)
	}
	for b.Loop() {
		var rates, ratios, byCPU figures
		for round := range rounds {
			var ours, theirs result
			reference := func(tb testing.TB) *reference { return w.bareRenew(tb, s) }
			if round%2 == 0 {
				ours, theirs = once(nil), once(reference)
			} else {
				theirs, ours = once(reference), once(nil)
			}
			b.Logf("round %d, %s: %s", round+1, herald, ours)
			b.Logf("round %d, %s: %s", round+1, bare, theirs)
			rates, ratios = append(rates, ours.rate()), append(ratios, ours.rate()/theirs.rate())
			byCPU = append(byCPU, theirs.each().Seconds()/ours.each().Seconds())
		}
		rates.report(b, "requests/s")
		byCPU.report(b, "of-bare-by-processor-time")
		ratios.report(b, "of-bare")
	}
}

// atLeast holds ratios against their bounds.
func atLeast(b *testing.B, ratio, bounds map[string]float64) {
	b.Helper()
	for way, bound := range bounds {
		if ratio[way] < bound {
			b.Errorf("%.2f times the requests of %s, less than %.2f", ratio[way], way, bound)
		}
	}
}

// paced is how long requests come at a rate.
const paced = 10 * time.Second

// BenchmarkPace asks at rates, and not as fast as it is answered: at 2,300 requests a second, at
// a tenth of the rate that was measured just before, and at three times that rate. Times
// count from when a request was to be sent.
func BenchmarkPace(b *testing.B) {
	for name, doorOf := range doors() {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, "ams")
			d := doorOf(w, b)
			// Each rate gets an issuer that was just started: what a user may ask is not used up.
			at := func(what string, rate float64, ramp time.Duration) result {
				stop := w.answers(b, nil)
				defer stop()
				n := int(rate * (ramp + paced).Seconds())
				r := open(b, d.conns, rate, ramp, paced, d.prepare(n))
				b.Logf("%s, %.0f requests/s: %s", what, rate, r)
				return r
			}
			for b.Loop() {
				stop := w.answers(b, nil)
				full := d.run(b, herald).rate()
				stop()
				for _, c := range []struct {
					what  string
					rate  float64
					bound time.Duration
				}{{"at-2300", 2300, 50 * time.Millisecond}, {"at-a-tenth", full / 10, 5 * time.Millisecond}} {
					r := at(c.what, c.rate, 0)
					p99 := r.quantile(granted, 0.99)
					b.ReportMetric(p99.Seconds()*1000, c.what+"-p99-ms")
					if p99 > c.bound || len(r.answers) != 1 {
						b.Errorf("%s: more than %s, or refusals: %s", c.what, c.bound, r)
					}
				}
				if name == "issue" {
					// After the moment in which it might be a rush that is soon over.
					overload(b, full, at("overloaded", 3*full, time.Second))
				}
			}
		})
	}
}

// overload holds what is asked three times of what can be done: what is accepted is not late,
// and the rest is told at once that it is too much. Nobody is left without an answer.
func overload(b *testing.B, full float64, r result) {
	b.Helper()
	const bound = 100 * time.Millisecond
	accepted, refused := r.quantile(granted, 0.99), time.Duration(0)
	for code := range r.answers {
		switch code {
		case granted:
		case string(wire.Unavailable), string(wire.RateLimited):
			refused = max(refused, r.quantile(code, 0.99))
		default:
			b.Errorf("overloaded: %d times %s", len(r.answers[code]), code)
		}
	}
	b.ReportMetric(r.rate()/full, "overloaded-of-full-rate")
	b.ReportMetric(accepted.Seconds()*1000, "overloaded-p99-ms")
	b.ReportMetric(refused.Seconds()*1000, "overloaded-refused-p99-ms")
	if r.rate() < full/4 {
		b.Errorf("overloaded: %.0f/s are accepted, and %.0f/s where no more is asked than can be answered", r.rate(), full)
	}
	if accepted > bound || refused > bound || refused == 0 {
		b.Errorf("overloaded: accepted %s, refused %s, bound %s", accepted, refused, bound)
	}
}

// BenchmarkKnown asks for one known name after the other, where a thousand are known and where a
// million are.
func BenchmarkKnown(b *testing.B) {
	w := newWorld(b, "ams")
	access := w.newAccessKey(b)
	holder := ident.KeyIdentity(access.ID)
	const few, many = 1_000, 1_000_000
	names := make([]ident.Name, many)
	for i := range names {
		names[i] = must(ident.ParseName("known-" + strconv.Itoa(i)))
	}
	guests := w.guests(b, guestConns)
	run := func(known int) result {
		issuer := w.issuer(b)
		defer w.stop(b, issuer)
		for i, n := range names[:known] {
			k := ledger.KnownName{Name: n, Holder: holder, Version: 1, At: time.Now().UnixMilli()}
			binary.BigEndian.PutUint64(k.Sum[:], uint64(i)) // #nosec G115 -- a position in a slice
			issuer.Known().RestoreName(k)
		}
		d := door{guests, func(n int) func(i int) *nats.Msg {
			return w.signed(b, n, access, func(i int) ident.Name { return names[i*7919%known] }).at
		}}
		r := d.run(b, strconv.Itoa(known))
		b.Logf("%d names: %s", known, r)
		return r
	}
	for b.Loop() {
		var rates, ratios, byCPU figures
		for round := range rounds {
			var a, z result
			if round%2 == 0 {
				a, z = run(few), run(many)
			} else {
				z, a = run(many), run(few)
			}
			rates, ratios = append(rates, z.rate()), append(ratios, z.rate()/a.rate())
			byCPU = append(byCPU, a.each().Seconds()/z.each().Seconds())
		}
		rates.report(b, "requests/s-of-1000000")
		byCPU.report(b, "of-1000-by-processor-time")
		atLeast(b, map[string]float64{"1000 names": ratios.report(b, "of-1000")}, map[string]float64{"1000 names": 0.9})
	}
}
