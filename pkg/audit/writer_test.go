package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/audit/spool"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/wire"
)

// away is a store that is not always there.
type away struct {
	memory.Blocks
	mu    sync.Mutex
	how   string // "" nothing is wrong, "refuses", "hangs", "answers lost"
	took  time.Duration
	tries int
}

func (a *away) set(how string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.how = how
}

func (a *away) Append(ctx context.Context, b audit.Sealed) error {
	a.mu.Lock()
	how, took := a.how, a.took
	a.tries++
	a.mu.Unlock()
	time.Sleep(took)
	switch how {
	case "hangs":
		<-ctx.Done()
		return fmt.Errorf("%w: no answer", audit.ErrUnavailable)
	case "refuses":
		return fmt.Errorf("%w: no quorum", audit.ErrUnavailable)
	}
	if err := a.Blocks.Append(ctx, b); err != nil {
		return err
	}
	if how == "answers lost" {
		return fmt.Errorf("%w: the answer is lost", audit.ErrUnavailable)
	}
	return nil
}

// writing is a Writer that runs, in a bubble.
type writing struct {
	*audit.Writer
	t        *testing.T
	store    *away
	scribe   *audittest.Scribe
	required atomic.Bool
	log      *strings.Builder
	end      func()
}

func write(t *testing.T, buffer audit.Buffer) *writing {
	t.Helper()
	w := &writing{t: t, scribe: audittest.NewScribe(t), log: new(strings.Builder)}
	w.store = &away{Blocks: memory.Blocks{Under: w.scribe.Under()}}
	w.start(buffer)
	return w
}

func (w *writing) start(buffer audit.Buffer) {
	w.Writer = audit.NewWriter(audit.Config{
		Region: w.scribe.Region, Writer: w.scribe.User, Signer: w.scribe.Key, Store: w.store, Buffer: buffer,
		JWT: func() (string, error) { return "jwt", nil }, Required: w.required.Load,
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Now: time.Now,
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	w.end = sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(w.end)
	synctest.Wait()
}

func (w *writing) append(from, to int) (errs []error) {
	w.t.Helper()
	for i := from; i < to; i++ {
		r := audittest.Record(w.t, time.Now(), time.Hour)
		r.Request = fmt.Sprint(i)
		errs = append(errs, w.Append(w.t.Context(), r))
	}
	return errs
}

// stored are the requests of what is stored, and whatever a Verifier finds.
func (w *writing) stored() ([]string, audit.Report) {
	w.t.Helper()
	v := audit.Verifier{Region: w.scribe.Region, From: 1, Verify: func(token string, who ident.UserKey, at time.Time) ([]audit.What, error) {
		if token != "jwt" || who != w.scribe.User {
			return nil, errors.New("a stranger")
		}
		return anybody(token, who, at)
	}}
	all, err := w.store.Read(w.t.Context(), 0, 100_000)
	if err != nil {
		w.t.Fatal(err)
	}
	var requests []string
	for _, s := range all {
		for _, r := range v.Add(s.Seq, s.Subject, s.Data) {
			requests = append(requests, r.Request)
		}
	}
	return requests, v.Done(time.Now())
}

// wants fails unless exactly these are stored, in order, and nothing is wrong with them.
func (w *writing) wants(from, to int) {
	w.t.Helper()
	got, report := w.stored()
	var want []string
	for i := from; i < to; i++ {
		want = append(want, fmt.Sprint(i))
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("stored: %v, want %v", got, want)
	}
	if len(report.Findings) > 0 {
		w.t.Errorf("%+v", report.Findings)
	}
}

// noErrors fails if any of errs is one.
func noErrors(t *testing.T, errs []error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func spooled(t *testing.T, dir string, most int64) *spool.Spool {
	t.Helper()
	s, err := spool.Open(dir, most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Records that come while a block is on its way share the next one, and each waits for two
// at most.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := write(t, nil)
		w.store.took = 10 * time.Millisecond
		var work sync.WaitGroup
		var longest time.Duration
		var mu sync.Mutex
		for range 100 {
			work.Go(func() {
				began := time.Now()
				noErrors(t, w.append(0, 1))
				mu.Lock()
				defer mu.Unlock()
				longest = max(longest, time.Since(began))
			})
		}
		work.Wait()
		if s := w.Stats(); s.Blocks > 3 || s.Records != 100 {
			t.Errorf("%d blocks of %d records", s.Blocks, s.Records)
		}
		if longest > 22*time.Millisecond { // two blocks, and what is gathered between them
			t.Errorf("somebody waited %s", longest)
		}
		// More than a block may have become several.
		for range 3000 {
			w.Note(audit.Record{What: audit.Change, At: 1, Key: "k", Version: 1, Why: strings.Repeat("x", 512)})
		}
		time.Sleep(time.Second)
		w.end()
		if got, report := w.stored(); len(got) != 3100 || len(report.Findings) > 0 {
			t.Errorf("%d records, %+v", len(got), report.Findings)
		}
	})
}

// Where nothing can be stored, records that are required keep credentials back at once, and
// others do not; in the end all is there, once and in order.
func TestAway(t *testing.T) {
	for _, how := range []string{"refuses", "hangs", "answers lost"} {
		for _, required := range []bool{false, true} {
			for _, disk := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, required %t, disk %t", how, required, disk), func(t *testing.T) {
					dir := t.TempDir()
					synctest.Test(t, func(t *testing.T) {
						var buffer audit.Buffer
						if disk {
							buffer = spooled(t, dir, spool.Most)
						}
						w := write(t, buffer)
						w.required.Store(required)
						noErrors(t, w.append(0, 5))
						w.store.set(how)
						began := time.Now()
						errs := w.append(5, 25)
						if took := time.Since(began); took > 2*time.Second {
							t.Errorf("20 records waited %s together", took)
						}
						kept := 25
						for _, err := range errs {
							if required != errors.Is(err, audit.ErrUnavailable) || !required && err != nil {
								t.Errorf("required %t: %v", required, err)
							}
						}
						if required {
							kept = 6 // the one that was under way; the others were never taken
						}
						if s := w.Stats(); !s.Failing || required != (s.Refused == 20) {
							t.Errorf("%+v", s)
						}
						time.Sleep(5 * time.Second)
						w.store.set("")
						time.Sleep(2 * time.Second)
						if s := w.Stats(); s.Failing || s.Waiting != 0 || s.Dropped != 0 {
							t.Errorf("%+v", s)
						}
						noErrors(t, w.append(kept, kept+3))
						w.end()
						got, report := w.stored()
						if len(got) != kept+3 || len(report.Findings) > 0 {
							t.Errorf("%d records stored, want %d; %+v", len(got), kept+3, report.Findings)
						}
						if !required {
							w.wants(0, kept+3)
						}
					})
				})
			}
		}
	}
}

// A process that ends while nothing can be stored leaves what it has on the disk, and the
// next one stores it, before its own; the chains name each other.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first := spooled(t, dir, spool.Most)
		w := write(t, first)
		noErrors(t, w.append(0, 3))
		time.Sleep(30 * time.Second) // so that what was stored last is kept
		w.store.set("answers lost")
		noErrors(t, w.append(3, 9))
		w.end()
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		w.start(spooled(t, dir, spool.Most))
		time.Sleep(5 * time.Minute) // longer than a stream remembers what it was given
		w.store.set("")
		time.Sleep(time.Second)
		noErrors(t, w.append(9, 12))
		w.end()
		w.wants(0, 12)
		_, report := w.stored()
		if report.Chains != 2 {
			t.Errorf("%d chains", report.Chains)
		}
	})
}

// What waited and is lost is missed, although its writer came back: removed from the disk, or in
// the memory of a process that is no more.
func TestLost(t *testing.T) {
	for _, memory := range []bool{false, true} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			most := int64(spool.Most)
			if memory {
				most = 0
			}
			first := spooled(t, dir, most)
			w := write(t, first)
			noErrors(t, w.append(0, 3))
			time.Sleep(30 * time.Second)
			w.store.set("refuses")
			noErrors(t, w.append(3, 9))
			w.end()
			if err := errors.Join(first.Close(), os.Remove(filepath.Join(dir, spool.File))); err != nil {
				t.Fatal(err)
			}
			w.store.set("")
			w.start(spooled(t, dir, most))
			noErrors(t, w.append(9, 12))
			w.end()
			if got, report := w.stored(); len(got) != 6 || len(report.Findings) != 1 || report.Findings[0].Problem != audit.Missing {
				t.Errorf("in memory %t: %v stored, %+v", memory, got, report.Findings)
			}
		})
	}
}

// A disk that is full, and memory that is: what there is no room for is dropped, counted, and
// the next block says it. Nobody is kept from a credential by it.
func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := write(t, spooled(t, dir, 100<<10))
		noErrors(t, w.append(0, 1))
		w.store.set("refuses")
		long := audittest.Record(t, time.Now(), time.Hour)
		long.Why = strings.Repeat("x", 512)
		for range 20_000 {
			if err := w.Append(t.Context(), long); err != nil {
				t.Fatal(err)
			}
		}
		s := w.Stats()
		if s.Dropped == 0 || s.Dropped > 19_000 {
			t.Errorf("%+v", s)
		}
		if info, err := os.Stat(filepath.Join(dir, spool.File)); err != nil || info.Size() > 100<<10 || info.Mode().Perm() != 0o600 {
			t.Errorf("the spool: %v %v", info, err)
		}
		w.store.set("")
		time.Sleep(time.Minute)
		w.end()
		s = w.Stats()
		got, report := w.stored()
		if uint64(len(got))+s.Dropped != 20_001 {
			t.Errorf("%d stored, %d dropped", len(got), s.Dropped)
		}
		var said uint64
		for _, f := range report.Findings {
			var n uint64
			if _, err := fmt.Sscanf(f.Why, "its writer had no room for %d records", &n); err != nil || f.Problem != audit.Dropped {
				t.Errorf("%+v: %v", f, err)
			}
			said += n
		}
		if said != s.Dropped {
			t.Errorf("%+v, %d dropped", report.Findings, s.Dropped)
		}
	})
}

// A disk that fails takes nothing, and memory takes it.
func TestDiskFails(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := spooled(t, dir, spool.Most)
		w := write(t, s)
		w.store.set("refuses")
		noErrors(t, w.append(0, 4))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		noErrors(t, w.append(4, 8))
		w.end()
		if !strings.Contains(w.log.String(), "cannot be written to the disk") {
			t.Errorf("the log:\n%s", w.log)
		}
	})
}

// A writer that has nothing to record says that it lives.
func TestHeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := write(t, nil)
		time.Sleep(time.Hour)
		_, report := w.stored()
		if report.Blocks < 50 || report.Blocks > 62 || len(report.Findings) > 0 {
			t.Errorf("%d blocks in an hour, %+v", report.Blocks, report.Findings)
		}
		w.end()
		time.Sleep(time.Hour)
		if _, report := w.stored(); len(report.Findings) > 0 {
			t.Errorf("%+v", report.Findings)
		}
	})
}

// Refusals beyond what is written down one by one are counted; those of who showed who they
// are, and those of who did not, apart.
func TestFloodOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := write(t, nil)
		r := audit.Record{What: audit.Refuse, At: 1, Door: "issue", Refused: wire.BadProof}
		for range 50_000 {
			w.Note(r)
		}
		known := r
		known.Identity, known.Refused = ident.OpenIdentity(w.scribe.User), wire.NoGrant
		w.Note(known)
		time.Sleep(time.Minute)
		w.end()
		all, err := w.store.Read(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		single, counted, knew := 0, 0, 0
		for _, s := range all {
			b, err := audit.Open(s.Subject, s.Data)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range b.Content {
				switch {
				case !r.Identity.IsZero():
					knew++
				case r.Count > 0:
					counted += r.Count
				default:
					single++
				}
			}
		}
		if single != 2000 || counted != 48_000 || knew != 1 {
			t.Errorf("%d one by one, %d counted, %d known", single, counted, knew)
		}
	})
}

// A record out of shape is a fault of ours: it is dropped, and keeps nothing back that is not
// required.
func TestOutOfShape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := write(t, nil)
		if err := w.Append(t.Context(), audit.Record{}); err != nil {
			t.Error(err)
		}
		w.required.Store(true)
		if err := w.Append(t.Context(), audit.Record{}); err == nil {
			t.Error("granted, and not recorded")
		}
		if s := w.Stats(); s.Dropped != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// While nothing can be stored refusals gather, where nobody waits for them: what waits is stored
// before the next credential is given, block by block.
func TestRefusalsGather(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := write(t, spooled(t, dir, spool.Most))
		w.required.Store(true)
		w.store.set("refuses")
		if errs := w.append(0, 1); !errors.Is(errs[0], audit.ErrUnavailable) {
			t.Fatal(errs)
		}
		const minutes = 5
		for range minutes * 60 * 20 {
			w.Note(audit.Record{What: audit.Refuse, At: 1, Door: "issue", Refused: wire.Unavailable})
			time.Sleep(50 * time.Millisecond)
		}
		if s := w.Stats(); s.Waiting > minutes*60*5 || s.Dropped > 0 {
			t.Errorf("%d blocks wait: %+v", s.Waiting, s)
		}
		w.store.set("")
		time.Sleep(time.Second)
		noErrors(t, w.append(1, 2))
		w.end()
		if got, report := w.stored(); len(got) != minutes*60*20+2 || len(report.Findings) > 0 {
			t.Errorf("%d stored, %+v", len(got), report.Findings)
		}
	})
}

// However much of a record has to be escaped, it is one that is believed: others' are in the
// same block.
func TestLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := write(t, nil)
		r := audit.Record{What: audit.Refuse, At: 1, Refused: wire.NoGrant}
		for _, s := range []*string{&r.Door, &r.Request, &r.Host, &r.By} {
			*s = strings.Repeat("<", 64)
		}
		for _, why := range []string{"x", "<", "\x00", "\xff", "é", "\u2028"} {
			r.Why = audit.Reason(strings.Repeat(why, 600))
			w.Note(r)
		}
		r.What, r.Refused, r.Key, r.Version = audit.Change, "", strings.Repeat("<", 512), 1
		w.Note(r) // of none of ours; it is dropped, and takes nobody's with it
		w.end()
		got, report := w.stored()
		if len(got) != 6 || report.Records != 6 || len(report.Findings) != 1 || report.Findings[0].Problem != audit.Dropped {
			t.Errorf("%d records, %+v", len(got), report)
		}
	})
}

// stuck is a disk that answers nobody.
type stuck struct{ audit.Buffer }

func (stuck) Add([]byte) error {
	time.Sleep(time.Hour)
	return errors.New("no answer")
}

// A disk that does not answer keeps nobody from a credential whose record is not required, and
// nobody who asks for another waiting for ever.
func TestDiskHangs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := write(t, stuck{spooled(t, dir, spool.Most)})
		w.store.set("refuses")
		for _, required := range []bool{false, false, true} {
			w.required.Store(required)
			began := time.Now()
			err := w.append(0, 1)[0]
			most := 250 * time.Millisecond
			if required {
				most = 4 * time.Second
			}
			if took := time.Since(began); took > most || errors.Is(err, audit.ErrUnavailable) != required {
				t.Errorf("required %t: %v after %v", required, err, took)
			}
			// Nor does whoever looks how it is.
			if s := w.Stats(); time.Since(began) > 4*time.Second {
				t.Errorf("%+v after %v", s, time.Since(began))
			}
		}
		w.end()
	})
}

var _ ledger.Source = (*away)(nil)
