package issuebench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// soakEnv is how long TestSoak lasts, such as 10m. With HERALD_LONG it lasts a minute.
const soakEnv = "HERALD_SOAK"

// Who asks during a soak.
const (
	byKey   = "access key"
	byNext  = "rotated key" // whose secret is another each time
	byUser  = "renewal"
	byOpen  = "open"
	byFresh = "new name"
)

const (
	soakMembers = 1000
	openUsers   = 500 // names that are known already
	perMember   = 0.8 // renewals a second of one user: it may ask once
	patience    = 15 * time.Second
	prompt      = 400 * time.Millisecond
	tries       = 3
	// settled is how long after a rotation, at most, every issuer has heard of it.
	settled = 5 * time.Second
)

// soaking is a load that goes on, and what came of it.
type soaking struct {
	w       *world
	guests  []*nats.Conn
	members []*nats.Conn
	conns   []*nats.Conn // both
	inboxes []string

	issuer  atomic.Pointer[service.Running] // that serves, or came last
	rotated atomic.Pointer[rotation]
	renewal atomic.Int64

	mu      sync.Mutex
	next    int // request
	waiting map[int]waiting
	coming  int            // back, as they were told
	got     map[string]int // by who asked and how it was answered
	lost    int
	late    int // answers that were not prompt
	longest time.Duration
	errs    []error
}

type waiting struct {
	who      string
	n, tries int
	sent     time.Time
}

// rotation is an access key, and when its secret was last replaced: from then until all have
// heard of it, either is refused somewhere.
type rotation struct {
	id     client.AccessKey
	secret *keystore.Key
	began  time.Time
	until  time.Time
}

// TestSoak asks for credentials in every way for a long time, at half of what can be done, while
// platform documents change, an access key gets other secrets, and issuers come and go: nobody
// is refused who should not be, and nothing grows.
func TestSoak(t *testing.T) {
	long := time.Minute
	if s := os.Getenv(soakEnv); s != "" {
		long = must(time.ParseDuration(s))
	} else if os.Getenv("HERALD_LONG") == "" {
		t.Skip("long: set HERALD_LONG or " + soakEnv)
	}
	w := newWorld(t, "ams")
	issuer := w.issuer(t)
	s := &soaking{w: w, waiting: map[int]waiting{}, got: map[string]int{}}
	s.issuer.Store(issuer)
	if err := s.rotate(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	s.guests, s.members = w.guests(t, guestConns), w.members(t, soakMembers)
	s.conns = append(slices.Clone(s.guests), s.members...)

	// Names that are known; and the rate, by access keys, which is the lower one.
	opened := closed(t, s.guests, 8, time.Minute, func(i int) *nats.Msg {
		if i >= openUsers {
			return nil
		}
		return s.open(i)
	}, nil)
	if opened.granted() != openUsers {
		t.Fatalf("names for open users: %s", opened)
	}
	d := door{s.guests, func(n int) func(i int) *nats.Msg { return w.signed(t, n, w.access, nil).at }}
	full := d.run(t, "soak")
	rate := full.rate() / 2
	t.Logf("measured: %s; asking %.0f a second for %s", full, rate, long)

	var stop func()
	s.inboxes, stop = listen(t, s.conns, s.take)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() { s.ask(ctx, rate) })
	every := long / 30
	work.Go(func() { s.disturb(ctx, t.TempDir(), max(every, 2*time.Second)) })
	var samples []sample
	work.Go(func() {
		for wait.For(ctx, every) == nil {
			samples = append(samples, s.sample())
		}
	})
	work.Wait()
	for end := time.Now().Add(patience); s.pending() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	s.sweep(time.Now().Add(patience))
	stop()
	s.judge(t, samples)
	w.stop(t, s.issuer.Load())
	w.close()
	if err := uptest.Leaks(); err != nil {
		t.Error(err)
	}
}

// open is a request of somebody who shows nothing but a key of its own.
func (s *soaking) open(i int) *nats.Msg {
	return s.w.request(i, must(ident.ParseName("open-"+strconv.Itoa(i))), wire.Proof{Type: wire.ProofOpen}, nil)
}

// who asks the nth request. renewals is how many of all are renewals.
func (s *soaking) who(n int, renewals float64) string {
	// Every hundred requests have the same of each, and every 2,000 a new name: home lets a
	// host have two new names in a second.
	switch i := n % 100; {
	case float64(i) < 100*renewals:
		return byUser
	case n%2000 == 99:
		return byFresh
	case i >= 90:
		return byOpen
	case i >= 85:
		return byNext
	default:
		return byKey
	}
}

// send asks as somebody does. n makes it another request than those before.
func (s *soaking) send(who string, n, tries int) {
	var m *nats.Msg
	at := n % len(s.guests)
	switch who {
	case byUser:
		// One user after the other, so that none asks more often than it may.
		m, at = &nats.Msg{Subject: subject.Renew}, len(s.guests)+int(s.renewal.Add(1))%len(s.members)
	case byFresh:
		m = s.w.request(openUsers+n/2000, must(ident.ParseName("fresh-"+strconv.Itoa(n))), wire.Proof{Type: wire.ProofOpen}, nil)
	case byOpen:
		m = s.open(n % openUsers)
	case byNext:
		r := s.rotated.Load()
		m = s.w.request(n, ident.Name{}, wire.Proof{Type: wire.ProofKey, KeyID: r.id.ID}, r.secret)
	default:
		m = s.w.request(n, ident.Name{}, wire.Proof{Type: wire.ProofKey, KeyID: s.w.access.ID}, s.w.secret)
	}
	s.mu.Lock()
	number := s.next
	s.next++
	s.waiting[number] = waiting{who, n, tries, time.Now()}
	s.mu.Unlock()
	m.Reply = s.inboxes[at] + strconv.Itoa(number)
	if err := s.conns[at].PublishMsg(m); err != nil {
		s.failed(err)
	}
}

// ask asks at a rate until ctx ends.
func (s *soaking) ask(ctx context.Context, rate float64) {
	renewals := min(0.4, perMember*float64(len(s.members))/rate)
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if early := time.Duration(float64(n)/rate*float64(time.Second)) - time.Since(began); early > 0 {
			if wait.For(ctx, early) != nil {
				return
			}
		}
		s.send(s.who(n, renewals), n, 1)
		if n%256 == 0 {
			s.sweep(time.Now())
		}
	}
}

func (s *soaking) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) < 20 {
		s.errs = append(s.errs, err)
	}
}

// take hears an answer.
func (s *soaking) take(number int, m *nats.Msg) {
	code := codeOf(m)
	s.mu.Lock()
	asked, ok := s.waiting[number]
	delete(s.waiting, number)
	took := time.Since(asked.sent)
	if ok {
		s.got[asked.who+": "+code]++
		s.longest = max(s.longest, took)
		if took > prompt {
			s.late++
		}
	}
	s.mu.Unlock()
	if !ok || code == granted {
		return
	}
	r := s.rotated.Load()
	between := !asked.sent.Before(r.began.Add(-time.Second)) && asked.sent.Before(r.until)
	if asked.who == byNext && code == string(wire.BadIdentity) && between {
		return
	}
	// Who is told that it is busy comes back when it was told to, as clients do.
	if e, err := wire.DecodeError(m.Data); err == nil && e.Code == wire.Unavailable && e.RetryAfterMS > 0 && asked.tries < tries {
		s.comes(1)
		time.AfterFunc(e.RetryAfter(), func() {
			s.send(asked.who, asked.n, asked.tries+1)
			s.comes(-1)
		})
		return
	}
	s.failed(fmt.Errorf("%s: %s: %s", asked.who, code, m.Data))
}

func (s *soaking) comes(more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coming += more
}

// pending is how many wait for an answer, or to ask again.
func (s *soaking) pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) + s.coming
}

// sweep gives up what was not answered.
func (s *soaking) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, asked := range s.waiting {
		if now.Sub(asked.sent) > patience {
			delete(s.waiting, number)
			s.lost++
			s.got[asked.who+": "+unanswered]++
		}
	}
}

// rotate gives the access key that changes another secret; at first, it makes it.
func (s *soaking) rotate(ctx context.Context, dir string) error {
	began := time.Now()
	file := filepath.Join(dir, strconv.FormatInt(began.UnixNano(), 36))
	last := s.rotated.Load()
	args := []string{"access-key", "create", "--owner", "bench", "--grant", "ORDERS/service", "--name", "rotated", "--out", file}
	if last != nil {
		args = []string{"access-key", "rotate", last.id.ID.String(), "--out", file}
		// Either secret may be refused while it goes on.
		going := *last
		going.began, going.until = began, began.Add(time.Minute)
		s.rotated.Store(&going)
	}
	err := s.w.setup(ctx, args...)
	var key client.AccessKey
	if err == nil {
		key, err = readKey(file)
	}
	if err != nil {
		return err
	}
	s.rotated.Store(&rotation{id: key, secret: must(key.Secret.Key()), began: began, until: time.Now().Add(settled)})
	return nil
}

// sample is what the process holds at a moment.
type sample struct {
	heap       uint64
	goroutines int
	waiting    int // requests
	records    int // that wait in the issuer
}

func (s *soaking) sample() sample {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return sample{m.HeapAlloc, runtime.NumGoroutine(), s.pending(), s.issuer.Load().Stats().Records.Waiting}
}

// disturb changes one thing after the other until ctx ends.
func (s *soaking) disturb(ctx context.Context, dir string, every time.Duration) {
	lifetimes := []string{"  lifetime: 1h\n", "  lifetime: 50m\n"}
	for n := 0; wait.For(ctx, every) == nil; n++ {
		var err error
		switch n % 3 {
		case 0:
			old, next := lifetimes[n/3%2], lifetimes[(n/3+1)%2]
			err = s.w.change(ctx, func(file string) string { return strings.Replace(file, old, next, 1) })
		case 1:
			err = s.rotate(ctx, dir)
		default:
			err = s.replace(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.failed(err)
			return // what comes after it would fail, too
		}
	}
}

// replace starts another issuer, and then stops the one that served.
func (s *soaking) replace(ctx context.Context) error {
	next, err := s.w.startIssuer(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	return s.issuer.Swap(next).Drain(ctx)
}

// judge holds what came of it all.
func (s *soaking) judge(t *testing.T, all []sample) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := 0
	var lines []string
	for what, n := range s.got {
		asked += n
		lines = append(lines, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(lines)
	t.Logf("%d asked: %s; the longest took %s, %d longer than %s", asked, strings.Join(lines, ", "), s.longest.Round(time.Millisecond), s.late, prompt)
	for _, err := range s.errs {
		t.Error(err)
	}
	busy := 0
	for what, n := range s.got {
		if strings.HasSuffix(what, ": "+string(wire.Unavailable)) {
			busy += n
		}
	}
	if busy > asked/100 {
		t.Errorf("%d of %d requests were told that it is busy", busy, asked)
	}
	// A server may still send a request to an issuer that has just gone: its client asks again.
	if s.lost > asked/10_000 {
		t.Errorf("%d requests were not answered", s.lost)
	}
	for _, who := range []string{byKey, byNext, byUser, byOpen, byFresh} {
		if s.got[who+": "+granted] == 0 {
			t.Errorf("nothing was granted: %s", who)
		}
	}
	if len(all) < 6 {
		t.Fatalf("%d samples", len(all))
	}
	third := len(all) / 3
	for _, c := range []struct {
		what string
		of   func(sample) float64
		more float64 // that much is no growth
	}{
		{"heap, MiB", func(s sample) float64 { return float64(s.heap) / (1 << 20) }, 48},
		{"goroutines", func(s sample) float64 { return float64(s.goroutines) }, 100},
		{"requests that wait", func(s sample) float64 { return float64(s.waiting) }, 100},
		{"records that wait", func(s sample) float64 { return float64(s.records) }, 100},
	} {
		values := make(figures, len(all))
		for i, s := range all {
			values[i] = c.of(s)
		}
		// The least of each third: what grows leaves less and less room below it, and what
		// was just at work when it was looked at says nothing.
		before, after := slices.Min(values[:third]), slices.Min(values[len(values)-third:])
		t.Logf("%s: at least %.0f in the first third, %.0f in the last: %.0f", c.what, before, after, values)
		if after > before+c.more {
			t.Errorf("%s: from %.0f to %.0f", c.what, before, after)
		}
	}
}
