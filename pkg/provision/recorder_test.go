package provision_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/provision"
)

// away is a store of records that is not always there. It keeps all that is written,
// in order.
type away struct {
	mu      sync.Mutex
	how     string // what is wrong: "" nothing, "refuses", "hangs", "answers lost"
	written []string
	tries   int
	longest time.Duration // that anybody waited for it
}

func (a *away) set(how string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.how = how
}

// load is how often it was tried and how long anybody waited for it at most.
func (a *away) load() (tries int, longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tries, a.longest
}

func (a *away) has() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.written)
}

// Append implements ledger.RecordStore: an ID that is written again is there once.
func (a *away) Append(ctx context.Context, r ledger.Record) error {
	if _, err := r.Encode(); err != nil {
		return err
	}
	a.mu.Lock()
	how := a.how
	a.tries++
	a.mu.Unlock()
	if how == "hangs" {
		began := time.Now()
		<-ctx.Done()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.longest = max(a.longest, time.Since(began))
		return fmt.Errorf("%w: no answer", ledger.ErrUnavailable)
	}
	if how == "refuses" || ctx.Err() != nil {
		return fmt.Errorf("%w: no quorum", ledger.ErrUnavailable)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.written, r.ID) {
		a.written = append(a.written, r.ID)
	}
	if how == "answers lost" {
		return fmt.Errorf("%w: the answer is lost", ledger.ErrUnavailable)
	}
	return nil
}

// recording is a Recorder that runs in a bubble.
type recording struct {
	*provision.Recorder
	t     *testing.T
	store *away
	log   *logged
	end   func()
	base  ledger.Record
}

func newRecording(t *testing.T) *recording {
	t.Helper()
	r := &recording{t: t, store: new(away), log: new(logged)}
	u := userKey(newUser(t))
	r.base = ledger.Record{
		Request: "r", Identity: ident.OpenIdentity(u), User: u, Account: must(ident.ParseAccountKey("A" + strings.Repeat("A", 55))),
		Role: label("member"), Issued: 1, Expires: 2, Region: must(ident.ParseRegion("ams")), Issuer: u,
	}
	r.Recorder = provision.NewRecorder(r.store, r.log.logger())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	r.end = func() { cancel(); <-done }
	t.Cleanup(r.end)
	return r
}

func id(i int) string { return fmt.Sprintf("id%06d", i) }

// record records and tells how long that took.
func (r *recording) record(from, to int) time.Duration {
	r.t.Helper()
	began := time.Now()
	for i := from; i < to; i++ {
		rec := r.base
		rec.ID = id(i)
		r.Record(r.t.Context(), rec)
	}
	return time.Since(began)
}

// wants fails unless the store has exactly these records, in order.
func (r *recording) wants(from, to int) {
	r.t.Helper()
	got := r.store.has()
	if len(got) != to-from {
		r.t.Errorf("%d records are written, not %d", len(got), to-from)
		return
	}
	for i, g := range got {
		if g != id(from+i) {
			r.t.Errorf("record %d is %s", from+i, g)
			return
		}
	}
}

func TestRecorderWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t)
		r.record(0, 100)
		r.wants(0, 100) // at once, without Run
		if n, dropped := r.Waiting(); n != 0 || dropped != 0 {
			t.Errorf("%d wait, %d are dropped", n, dropped)
		}
	})
}

// TestRecorderWhileTheStoreIsAway: the first waits, but not for long; the others do not
// wait; all are written in order once the store is back, none of them twice.
func TestRecorderWhileTheStoreIsAway(t *testing.T) {
	for _, how := range []string{"refuses", "hangs", "answers lost"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRecording(t)
				r.record(0, 3)
				r.store.set(how)
				if d := r.record(3, 4); d > provision.RecordWait {
					t.Errorf("waited %s", d)
				}
				if d := r.record(4, 1000); d > 0 {
					t.Errorf("all others waited %s", d)
				}
				time.Sleep(time.Minute)
				if d := r.record(1000, 1001); d > 0 {
					t.Errorf("a minute later one waited %s", d)
				}
				tries, longest := r.store.load()
				if most := int(2*time.Minute/provision.RecordAgain) + 4; tries > most {
					t.Errorf("%d tries in a minute", tries)
				}
				if longest > provision.RecordWait {
					t.Errorf("one try took %s", longest)
				}
				if n, _ := r.Waiting(); n < 998 {
					t.Errorf("%d wait", n)
				}
				r.store.set("")
				time.Sleep(provision.RecordWait + provision.RecordAgain + time.Millisecond)
				r.record(1001, 1003)
				r.wants(0, 1003)
				if n, dropped := r.Waiting(); n != 0 || dropped != 0 {
					t.Errorf("%d wait, %d are dropped", n, dropped)
				}
			})
		})
	}
}

// TestRecorderIsBounded: what is too much is dropped, the oldest first, and counted.
func TestRecorderIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t)
		r.store.set("refuses")
		const more = 100
		r.record(0, provision.MaxWaiting+more)
		if n, dropped := r.Waiting(); n != provision.MaxWaiting || dropped != more {
			t.Errorf("%d wait, %d are dropped", n, dropped)
		}
	})
}

// TestRecorderAtTheEnd: what waits is tried once more, and not for long.
func TestRecorderAtTheEnd(t *testing.T) {
	t.Run("the store is back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRecording(t)
			r.store.set("hangs")
			r.record(0, 10)
			synctest.Wait() // it is being tried
			r.store.set("")
			r.end()
			r.wants(0, 10)
		})
	})
	t.Run("the store is away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRecording(t)
			r.store.set("hangs")
			r.record(0, 10)
			began := time.Now()
			r.end()
			if d := time.Since(began); d > provision.RecordWait {
				t.Errorf("the end took %s", d)
			}
			if got := r.log.String(); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "records=10") {
				t.Errorf("what is lost is not in the log:\n%s", got)
			}
		})
	})
}

// TestRecorderPassesOverWhatCannotBeWritten: those behind it do not wait for ever.
func TestRecorderPassesOverWhatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t)
		spoilt := r.base // without an ID
		r.Record(t.Context(), spoilt)
		if n, dropped := r.Waiting(); n != 0 || dropped != 1 {
			t.Errorf("%d wait, %d are dropped", n, dropped)
		}
		r.store.set("refuses")
		r.record(0, 2)
		r.Record(t.Context(), spoilt)
		r.record(2, 4)
		r.store.set("")
		time.Sleep(2*provision.RecordAgain + time.Millisecond)
		r.wants(0, 4)
		if n, dropped := r.Waiting(); n != 0 || dropped != 2 {
			t.Errorf("%d wait, %d are dropped", n, dropped)
		}
		if n := strings.Count(r.log.String(), "level=ERROR"); n != 2 {
			t.Errorf("%d errors in the log:\n%s", n, r.log)
		}
	})
}

// TestRecorderWhenACallerHasGone: the record of a credential that was signed is kept.
func TestRecorderWhenACallerHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rec := r.base
		rec.ID = id(0)
		r.Record(ctx, rec)
		time.Sleep(provision.RecordAgain + time.Millisecond)
		r.wants(0, 1)
	})
}
