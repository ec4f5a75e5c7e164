package registrar_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/wire"
)

// records is a region's records, which fail and are lost as a test says.
type records struct {
	mu     sync.Mutex
	all    *memory.Blocks
	fail   error
	scribe *audittest.Scribe
	extra  []ledger.Stored // what nobody's Append would write
	stale  int             // so many answers come from a replica that has nothing
	asked  int             // how often it was read
	before []time.Time
}

func newRecords(t *testing.T) *records {
	t.Helper()
	w := audittest.NewScribe(t)
	return &records{all: &memory.Blocks{Under: w.Under()}, scribe: w}
}

func (r *records) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *records) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.fail != nil {
		return nil, r.fail
	}
	got, err := r.all.Read(ctx, after, limit)
	for _, e := range r.extra {
		if e.Seq > after {
			got = append(got, e)
		}
	}
	return got, err
}

func (r *records) Last(ctx context.Context) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	if r.stale > 0 {
		r.stale--
		return 0, nil
	}
	last, err := r.all.Last(ctx)
	for _, e := range r.extra {
		last = max(last, e.Seq)
	}
	return last, err
}

// starts is from when it was read, each time that it was read from a moment on.
func (r *records) starts() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.before)
}

func (r *records) Before(_ context.Context, t time.Time) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = append(r.before, t)
	return 0, r.fail
}

// followed is a Follow that runs in a bubble.
type followed struct {
	*registrar.Records
	src    *records
	log    *testlog.Log
	issued []string
	mu     sync.Mutex
	end    func()
}

const longest = ledger.MaxLife

func follow(t *testing.T, src *records) *followed {
	t.Helper()
	f := &followed{src: src, log: new(testlog.Log)}
	f.Records = &registrar.Records{
		Holdings: ledger.NewHoldings(), Log: f.log.Logger(), Now: time.Now,
		Issued: func(r audit.Record) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.issued = append(f.issued, r.ID)
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Follow(ctx, "ams", src); close(done) }()
	f.end = func() { cancel(); <-done }
	t.Cleanup(f.end)
	return f
}

func (f *followed) seen() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.issued)
}

// recordOf is of a credential that was issued now to one of 200 users.
func recordOf(i int, life time.Duration) audit.Record {
	u := userOf(byte(i % 200))
	return audit.Record{
		What: audit.Issue, At: time.Now().UnixMilli(), ID: fmt.Sprintf("id%d", i), Request: "r", Identity: ident.OpenIdentity(u), User: u, Account: accountOf(1),
		Role: must(ident.ParseLabel("member")), Issued: time.Now().Unix(), Expires: time.Now().Add(life).Unix(),
	}
}

func (r *records) add(t *testing.T, recs ...audit.Record) {
	t.Helper()
	for _, rec := range recs {
		r.locked(func() {
			if err := r.all.Append(context.Background(), r.scribe.Block(t, rec)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRecordsFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newRecords(t)
		for i := range 3000 {
			src.add(t, recordOf(i, time.Hour))
		}
		refused := recordOf(7, time.Hour) // nobody has anything by it
		refused = audit.Record{What: audit.Refuse, At: refused.At, Identity: refused.Identity, User: refused.User, Refused: wire.NoGrant}
		src.add(t, refused)
		f := follow(t, src)
		synctest.Wait()
		alice := ident.OpenIdentity(userOf(7))
		if f.seen() != 3000 || f.Holdings.Len() != 200 || len(f.Holdings.Of(alice, time.Now())) != 1 {
			t.Errorf("%d records, %d identities", f.seen(), f.Holdings.Len())
		}
		// No more is read than what may be about a credential that is alive.
		if want := time.Now().Add(-longest - ledger.MaxAhead); len(src.starts()) != 1 || !src.starts()[0].Equal(want) {
			t.Errorf("read from %v, not %v", src.starts(), want)
		}
		time.Sleep(registrar.RecordsPause + time.Millisecond)
		// News wakes at once; without news it is found a little later.
		src.add(t, recordOf(3000, time.Hour))
		f.News("ams")
		synctest.Wait()
		if f.seen() != 3001 {
			t.Error("news did not wake it")
		}
		time.Sleep(registrar.RecordsPause + time.Millisecond)
		f.News("sfo") // of a region that nobody follows here
		src.add(t, recordOf(3001, time.Hour))
		time.Sleep(registrar.RecordsEvery - 2*time.Millisecond) // a millisecond before it is asked
		if f.seen() != 3001 {
			t.Error("it was read without news and before its time")
		}
		time.Sleep(registrar.RecordsPause + 2*time.Millisecond)
		if f.seen() != 3002 {
			t.Error("what no news told of is not found")
		}
		// A user is held for as long as its last credential lives.
		time.Sleep(time.Hour)
		if held := f.Holdings.Of(alice, time.Now()); len(held) != 0 {
			t.Errorf("held: %v", held)
		}
		f.end()
		asked := src.asked
		src.add(t, recordOf(3002, time.Hour))
		f.News("ams")
		time.Sleep(time.Minute)
		if src.asked != asked || f.seen() != 3002 {
			t.Error("it goes on after its end")
		}
	})
}

// TestRecordsThatAreNotBelieved: they are passed over, and what follows is taken.
func TestRecordsThatAreNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newRecords(t)
		sealed := func(r ...audit.Record) string { return string(src.scribe.Block(t, r...).Data) }
		good := recordOf(1, time.Hour)
		from, other := src.scribe.Under(), audittest.NewScribe(t)
		long, over, early := recordOf(2, longest+time.Second), recordOf(3, time.Hour), recordOf(4, time.Hour)
		over.Issued, over.Expires = over.Issued-7200, over.Issued-3600
		early.Issued = time.Now().Add(ledger.MaxAhead + time.Minute).Unix()
		early.Expires = early.Issued + 60
		foreign := *other
		foreign.User, foreign.Region = src.scribe.User, src.scribe.Region // whose signature it has not
		for i, e := range []ledger.Stored{
			{Subject: from, Data: "{"},
			{Subject: from, Data: ""},
			{Subject: from, Data: `{"id":"x"}`},
			{Subject: from, Data: strings.Repeat(" ", audit.MaxBlock) + sealed(recordOf(5, time.Hour))},
			{Subject: "sfo." + src.scribe.User.String(), Data: sealed(good)},
			{Subject: other.Under(), Data: sealed(good)},
			{Subject: "", Data: sealed(good)},
			{Subject: from, Data: string(foreign.Block(t, good).Data)},
			{Subject: from, Data: strings.Replace(sealed(good), good.ID, "other", 1)},
			{Subject: from, Data: sealed(over)},
			{Subject: from, Data: sealed(early)},
			// What else the block has is taken.
			{Subject: from, Data: sealed(long, good)},
		} {
			e.Seq = uint64(i + 1) //nolint:gosec // small
			src.extra = append(src.extra, e)
		}
		f := follow(t, src)
		synctest.Wait()
		if len(f.issued) != 1 || f.issued[0] != good.ID || f.Holdings.Len() != 1 {
			t.Errorf("believed: %v, %d identities", f.issued, f.Holdings.Len())
		}
		if n := strings.Count(f.log.String(), "a record is not believed"); n != 10 {
			t.Errorf("%d lines in the log:\n%s", n, f.log)
		}
	})
}

// TestRecordsFail: what cannot be read now is read later, without a storm of questions.
func TestRecordsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newRecords(t)
		src.fail = fmt.Errorf("%w: no answer", ledger.ErrUnavailable)
		src.add(t, recordOf(1, 4*time.Hour))
		f := follow(t, src)
		time.Sleep(time.Minute)
		if n := len(src.starts()); n < 10 || n > 200 {
			t.Errorf("asked %d times in a minute", n)
		}
		if n := strings.Count(f.log.String(), "cannot be read"); n == 0 || n > 80 {
			t.Errorf("%d lines in the log", n)
		}
		src.locked(func() { src.fail = nil })
		time.Sleep(registrar.RecordsEvery)
		if f.seen() != 1 {
			t.Error("it is not read again")
		}
		// Answers that do not come say nothing of what there is.
		src.locked(func() { src.fail = ledger.ErrUnavailable })
		time.Sleep(time.Minute)
		src.locked(func() { src.fail, src.stale = nil, 2 })
		time.Sleep(time.Minute)
		if strings.Contains(f.log.String(), "less than before") || len(src.starts()) == 0 || f.seen() != 1 {
			t.Errorf("it is taken for lost:\n%s", f.log)
		}
		f.end()
		if !strings.Contains(f.log.String(), "WARN") || strings.Contains(f.log.String(), "ERROR") {
			t.Errorf("the log:\n%s", f.log)
		}
	})
}

// TestRecordsAreLost: a stream that was made anew is read from its beginning, and what
// is known of holdings stays. A replica that is a moment behind is not such a stream.
func TestRecordsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newRecords(t)
		for i := range 5 {
			src.add(t, recordOf(i, 4*time.Hour))
		}
		f := follow(t, src)
		synctest.Wait()
		src.locked(func() { src.stale = 2 })
		time.Sleep(time.Minute)
		if f.seen() != 5 || len(src.starts()) != 1 {
			t.Errorf("after a replica that was behind %d records were taken", f.seen())
		}
		src.locked(func() { src.all = &memory.Blocks{Under: src.scribe.Under()} })
		src.add(t, recordOf(100, 4*time.Hour))
		time.Sleep(10 * registrar.RecordsEvery)
		if f.seen() != 6 || f.Holdings.Len() != 6 || len(src.starts()) != 2 {
			t.Errorf("%d records, %d identities", f.seen(), f.Holdings.Len())
		}
		if n := strings.Count(f.log.String(), "ERROR"); n != 1 {
			t.Errorf("%d errors in the log:\n%s", n, f.log)
		}
		time.Sleep(registrar.RecordsPause + time.Millisecond)
		src.add(t, recordOf(101, time.Hour))
		f.News("ams")
		synctest.Wait()
		if f.seen() != 7 {
			t.Error("it does not follow any more")
		}
	})
}

// TestRecordsThatDoNotAdvance: a source that gives what it was not asked for is asked
// again later, and not without a pause.
func TestRecordsThatDoNotAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &stuck{records: newRecords(t)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		f := &registrar.Records{Holdings: ledger.NewHoldings(), Log: new(testlog.Log).Logger(), Now: time.Now}
		f.Follow(ctx, "ams", src)
		if src.asked > 200 {
			t.Errorf("asked %d times in a minute", src.asked)
		}
	})
}

type stuck struct {
	*records
	asked int
}

func (s *stuck) Read(ctx context.Context, _ uint64, _ int) ([]ledger.Stored, error) {
	if s.asked++; s.asked > 10_000 {
		return nil, ctx.Err()
	}
	return []ledger.Stored{{Subject: "x", Data: "x", Seq: 0}}, nil
}
