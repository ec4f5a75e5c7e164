package issuebench

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/wire"
)

// granted is how answers are called that are no refusal.
const granted = "granted"

// What becomes of a request beside an answer of the issuer.
const (
	noResponders = "no_responders"
	unanswered   = "unanswered"
)

// result is what came of one load.
type result struct {
	took      time.Duration
	asking    time.Duration              // that part of it in which requests were sent
	answers   map[string][]time.Duration // by code: how long each took
	cpu       time.Duration              // of this process
	allocs    uint64
	allocated uint64 // bytes
}

func (r result) granted() int { return len(r.answers[granted]) }

// rate is how many were granted in a second.
func (r result) rate() float64 { return float64(r.granted()) / r.asking.Seconds() }

// cores is how many processors were at work.
func (r result) cores() float64 { return r.cpu.Seconds() / r.took.Seconds() }

// each is what one granted request took of a processor.
func (r result) each() time.Duration { return r.cpu / time.Duration(max(r.granted(), 1)) }

// quantile is the time within which that part of the answers of a kind came.
func (r result) quantile(code string, q float64) time.Duration {
	all := r.answers[code]
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[int(math.Ceil(q*float64(len(all))))-1]
}

func (r result) String() string {
	var codes []string
	for code, all := range r.answers {
		codes = append(codes, fmt.Sprintf("%d %s p50 %s p99 %s max %s", len(all), code,
			r.quantile(code, 0.5).Round(10*time.Microsecond), r.quantile(code, 0.99).Round(10*time.Microsecond), r.quantile(code, 1).Round(10*time.Microsecond)))
	}
	slices.Sort(codes)
	return fmt.Sprintf("%.0f/s, %s of a processor each, %.2f cores, %d allocations and %d bytes each; %s", r.rate(), r.each().Round(100*time.Nanosecond),
		r.cores(), r.allocs/uint64(max(r.granted(), 1)), r.allocated/uint64(max(r.granted(), 1)), strings.Join(codes, "; "))
}

// meter measures what this process uses.
type meter struct {
	began time.Time
	cpu   time.Duration
	mem   runtime.MemStats
}

func processor(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func begin(tb testing.TB) *meter {
	tb.Helper()
	runtime.GC()
	m := &meter{}
	runtime.ReadMemStats(&m.mem)
	m.cpu, m.began = processor(tb), time.Now()
	return m
}

func (m *meter) end(tb testing.TB) result {
	tb.Helper()
	r := result{took: time.Since(m.began), cpu: processor(tb) - m.cpu, answers: map[string][]time.Duration{}}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	r.allocs, r.allocated = mem.Mallocs-m.mem.Mallocs, mem.TotalAlloc-m.mem.TotalAlloc
	return r
}

// codeOf is how a request was answered.
func codeOf(m *nats.Msg) string {
	if m.Header.Get(wire.HeaderErrorCode) == "" {
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return noResponders
		}
		return granted
	}
	e, err := wire.DecodeError(m.Data)
	if err != nil {
		return "unreadable"
	}
	return string(e.Code)
}

// lastWait is how long answers are waited for once nothing is asked any more.
const lastWait = 6 * time.Second

// listen hears the answers on each connection: the inbox of one request ends in its number.
func listen(tb testing.TB, conns []*nats.Conn, take func(number int, m *nats.Msg)) (inboxes []string, stop func()) {
	tb.Helper()
	var subs []*nats.Subscription
	for _, nc := range conns {
		inbox := nc.NewInbox() + "."
		sub, err := nc.Subscribe(inbox+"*", func(m *nats.Msg) {
			number, err := strconv.Atoi(m.Subject[len(inbox):])
			if err != nil {
				return // nobody was asked so
			}
			take(number, m)
		})
		if err == nil {
			err = nc.Flush()
		}
		if err != nil {
			tb.Fatal(err)
		}
		subs, inboxes = append(subs, sub), append(inboxes, inbox)
	}
	return inboxes, func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe() // it is the end of it
		}
	}
}

// closed keeps so many requests in flight until the time is over or next gives nil: who is
// answered asks the next. Requests go over one connection after the other. heard, if not nil,
// is shown what was granted.
func closed(tb testing.TB, conns []*nats.Conn, inFlight int, long time.Duration, next func(i int) *nats.Msg, heard func(i int, m *nats.Msg)) result {
	tb.Helper()
	type slot struct {
		mu      sync.Mutex
		request int
		sent    time.Time
		answers map[string][]time.Duration
	}
	slots := make([]*slot, inFlight)
	var asked atomic.Int64
	var working sync.WaitGroup
	var inboxes []string
	var until time.Time
	ask := func(number int, s *slot) {
		i := int(asked.Add(1)) - 1
		m := next(i)
		now := time.Now()
		if m == nil || now.After(until) {
			working.Done()
			return
		}
		s.request, s.sent = i, now
		at := i % len(conns)
		out := *m
		out.Reply = inboxes[at] + strconv.Itoa(number)
		if err := conns[at].PublishMsg(&out); err != nil {
			tb.Error(err)
			working.Done()
		}
	}
	inboxes, stop := listen(tb, conns, func(number int, m *nats.Msg) {
		s := slots[number]
		s.mu.Lock()
		defer s.mu.Unlock()
		code := codeOf(m)
		s.answers[code] = append(s.answers[code], time.Since(s.sent))
		if code == granted && heard != nil {
			heard(s.request, m)
		}
		ask(number, s)
	})
	defer stop()
	meter := begin(tb)
	until = meter.began.Add(long)
	working.Add(inFlight)
	for i := range slots {
		slots[i] = &slot{answers: map[string][]time.Duration{}}
	}
	for i, s := range slots {
		s.mu.Lock()
		ask(i, s)
		s.mu.Unlock()
	}
	done := make(chan struct{})
	go func() { working.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(long + lastWait):
		tb.Error("requests were not answered")
	}
	r := meter.end(tb)
	r.asking = r.took
	for _, s := range slots {
		s.mu.Lock()
		for code, all := range s.answers {
			r.answers[code] = append(r.answers[code], all...)
		}
		s.mu.Unlock()
	}
	return r
}

// open asks at a rate, whatever comes of it. A request's time counts from when it was to be
// sent: who is late because the machine is busy waits all the same. What is asked in the first
// time, ramp, is not counted.
func open(tb testing.TB, conns []*nats.Conn, rate float64, ramp, long time.Duration, next func(i int) *nats.Msg) result {
	tb.Helper()
	long += ramp
	n := int(rate * long.Seconds())
	var mu sync.Mutex
	codes, times, heard := make([]string, n), make([]time.Duration, n), 0
	all := make(chan struct{})
	due := func(i int) time.Duration { return time.Duration(float64(i) / rate * float64(time.Second)) }
	var began time.Time
	inboxes, stop := listen(tb, conns, func(i int, m *nats.Msg) {
		code := codeOf(m)
		mu.Lock()
		defer mu.Unlock()
		if codes[i] != "" {
			return // twice
		}
		codes[i], times[i] = code, time.Since(began)-due(i)
		if heard++; heard == n {
			close(all)
		}
	})
	defer stop()
	meter := begin(tb)
	mu.Lock()
	began = meter.began
	mu.Unlock()
	for i := range n {
		if wait := due(i) - time.Since(began); wait > 0 {
			time.Sleep(wait)
		}
		m := next(i)
		if m == nil {
			tb.Fatalf("there are only %d requests", i)
		}
		at := i % len(conns)
		out := *m
		out.Reply = inboxes[at] + strconv.Itoa(i)
		if err := conns[at].PublishMsg(&out); err != nil {
			tb.Fatal(err)
		}
	}
	asked := time.Since(began)
	select {
	case <-all:
	case <-time.After(lastWait):
	}
	r := meter.end(tb)
	if late := asked - long; late > long/20 {
		tb.Errorf("%d requests were to be sent in %s, and took %s", n, long, asked)
	}
	r.asking = asked - ramp
	mu.Lock()
	defer mu.Unlock()
	for i, code := range codes {
		if due(i) < ramp {
			continue
		}
		if code == "" {
			code, times[i] = unanswered, lastWait
		}
		r.answers[code] = append(r.answers[code], times[i])
	}
	return r
}
