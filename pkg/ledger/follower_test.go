package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/trust"
)

// These tests run in bubbles of synctest, whose clock is the follower's: waits take no
// time, and a goroutine that is left behind fails the test.

// reader is a follower that runs.
type reader struct {
	*ledger.Follower
	cancel context.CancelFunc
	over   chan struct{}
}

// follow runs a follower over logs; change may set more of it.
func follow(p *ledgertest.Platform, change func(*ledger.Follower), logs ...ledger.Log) *reader {
	f := &ledger.Follower{
		Projection: ledger.NewProjection(nil), Opener: ledger.Opener{Operator: p.Operator, Now: time.Now},
		Logs: logs, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(f)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{f, cancel, make(chan struct{})}
	go func() { defer close(r.over); f.Run(ctx) }()
	return r
}

// stop ends it and waits.
func (r *reader) stop() {
	r.cancel()
	<-r.over
}

func (r *reader) isReady() bool {
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

// knows fails unless what is known is made of these entries.
func (r *reader) knows(t testing.TB, what string, entries ...ledger.Entry) {
	t.Helper()
	wanted := ledger.NewProjection(nil)
	for _, e := range entries {
		wanted.Apply(e)
	}
	if !bytes.Equal(r.Projection.Dump(), wanted.Dump()) {
		n, d, s := r.Projection.Len()
		t.Errorf("%s: what is known is not what it should be: %d names, %d decided, %d denials; %+v", what, n, d, s, r.Stats())
	}
}

// source is a source that a test changes while it is followed.
type source struct {
	mu  sync.Mutex
	src ledger.Source
	err error
	// last is what Last answers if it is not nil.
	last *uint64
	// altered is what Read makes of what it found.
	altered func(after uint64, got []ledger.Stored) []ledger.Stored
	hangs   bool // until the caller gives up
	calls   int
}

func (s *source) set(change func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *source) use(ctx context.Context) (ledger.Source, *source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.hangs {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return nil, nil, ledger.ErrUnavailable
	}
	return s.src, &source{last: s.last, altered: s.altered}, s.err
}

func (s *source) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	src, how, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	got, err := src.Read(ctx, after, limit)
	if how.altered != nil {
		got = how.altered(after, got)
	}
	return got, err
}

func (s *source) Last(ctx context.Context) (uint64, error) {
	src, how, err := s.use(ctx)
	if err != nil {
		return 0, err
	}
	if how.last != nil {
		return *how.last, nil
	}
	return src.Last(ctx)
}

// bubble runs a test with a platform, and makes entries dated now.
type bubble struct {
	*testing.T
	*ledgertest.Platform
	users []ident.UserKey
}

func inBubble(t *testing.T, run func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{T: t, Platform: newPlatform(t)}
		for range 4 {
			b.users = append(b.users, ledgertest.User(t))
		}
		run(b)
	})
}

// suspension is the entry of the i-th user, at a version.
func (b *bubble) suspension(i int, version uint64) ledger.Entry {
	b.Helper()
	return b.Entry(b.T, ledger.UserSuspension(b.Account(b.T, "CHAT"), b.users[i]), version, true, time.Now(), nil)
}

func (b *bubble) append(s ledger.DenialStore, entries ...ledger.Entry) {
	b.Helper()
	for _, e := range entries {
		if err := s.Append(b.Context(), e.Key, e.Token); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFollowerFillsAndFollows(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var denials memory.Denials
		var names memory.Decisions
		var entries []ledger.Entry
		for i := range 1100 { // more than one batch
			e := b.Entry(b.T, ledger.NameKey(name(b.T, fmt.Sprintf("n%d", i))), 1, false, time.Now(), ledger.Name{Holder: ident.OpenIdentity(b.users[0])})
			if err := names.Put(b.Context(), e.Key, e.Token, 0); err != nil {
				b.Fatal(err)
			}
			entries = append(entries, e)
		}
		first := b.suspension(0, 1)
		b.append(&denials, first)
		entries = append(entries, first)
		hints := make(chan ledger.Stored)
		var mu sync.Mutex
		stored := make(map[string]int)
		r := follow(b.Platform, func(f *ledger.Follower) {
			f.Hints = hints
			f.Stored = func(log string, _ ledger.Entry) { mu.Lock(); defer mu.Unlock(); stored[log]++ }
		}, ledger.Log{Name: "names", Near: &names}, ledger.Log{Name: "denials", Near: &denials})
		defer r.stop()
		<-r.Ready()
		r.knows(b.T, "when it is ready", entries...)
		if at := r.At(); at["names"] != 1100 || at["denials"] != 1 {
			b.Errorf("it read to %v", at)
		}
		mu.Lock()
		if stored["names"] != 1100 || stored["denials"] != 1 {
			b.Errorf("stored: %v", stored)
		}
		mu.Unlock()
		for _, a := range r.Ages() {
			if !a.Since.Equal(time.Now()) {
				b.Errorf("%+v", a)
			}
		}
		// By a hint, at once.
		next, late := b.suspension(1, 1), b.suspension(2, 1)
		b.append(&denials, next)
		hints <- ledger.Stored{Subject: next.Key.String(), Data: next.Token}
		synctest.Wait()
		r.knows(b.T, "after a hint", append(entries, next)...)
		if s := r.Stats(); s.Hints != 1 || s.HintsRefused != 0 || s.Refused != 0 || s.Failed != 0 || s.Lost != 0 {
			b.Errorf("%+v", s)
		}
		// And by comparison, without one.
		b.append(&denials, late)
		time.Sleep(ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "after a hint was lost", append(entries, next, late)...)
	})
}

// Whoever may publish hints cannot make a reader believe anything.
func TestFollowerRefusesForgedHints(t *testing.T) {
	inBubble(t, func(b *bubble) {
		other := ledgertest.NewPlatform(b.T, "other", now())
		var denials memory.Denials
		old, held := b.suspension(0, 1), b.suspension(0, 2)
		b.append(&denials, held)
		hints := make(chan ledger.Stored)
		r := follow(b.Platform, func(f *ledger.Follower) { f.Hints = hints }, ledger.Log{Name: "denials", Near: &denials})
		defer r.stop()
		<-r.Ready()
		key := held.Key.String()
		newer := trust.Entry{Subject: key, Version: 3, At: time.Now().UnixMilli()}
		good := b.Token(b.T, b.Signing[0], newer, nil)
		forged := map[string]ledger.Stored{
			"nothing": {Subject: key}, "garbage": {Subject: key, Data: "x"}, "no key": {Data: good},
			"a stranger's":       {Subject: key, Data: other.Token(b.T, other.Signing[0], newer, nil)},
			"the operator key's": {Subject: key, Data: b.Token(b.T, b.Root, newer, nil)},
			"another key's":      {Subject: b.suspension(1, 3).Key.String(), Data: good},
			"cut off":            {Subject: key, Data: good[:len(good)-1]},
			"longer":             {Subject: key, Data: good + "A"},
			"of another key id":  {Subject: key + "x", Data: good},
			"another document":   {Subject: key, Data: must[string](b.T)(b.Public(b.T, 1, 1).Sign(b.Signing[0], time.Now()))},
		}
		for i := range good {
			if i%7 == 0 {
				flipped := []byte(good)
				flipped[i] ^= 1
				forged[fmt.Sprint("flipped at ", i)] = ledger.Stored{Subject: key, Data: string(flipped)}
			}
		}
		for what, h := range forged {
			hints <- h
			synctest.Wait()
			r.knows(b.T, what, held)
		}
		if s := r.Stats(); s.HintsRefused != uint64(len(forged)) || s.Hints != 0 {
			b.Errorf("%d forged: %+v", len(forged), s)
		}
		hints <- ledger.Stored{Subject: key, Data: old.Token}
		synctest.Wait()
		r.knows(b.T, "a replayed one", held)
		hints <- ledger.Stored{Subject: key, Data: good}
		synctest.Wait()
		if r.Projection.Version(held.Key) != 3 {
			b.Error("a good one is not taken")
		}
	})
}

// Near is a copy of far that stands still; what far has comes by itself.
func TestFollowerAsksFarForWhatNearLacks(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var home memory.Denials
		a, c, d := b.suspension(0, 1), b.suspension(1, 1), b.suspension(2, 2)
		b.append(&home, a)
		var mirror memory.Denials
		b.append(&mirror, a)
		near, far := &source{src: &mirror}, &source{src: &home}
		r := follow(b.Platform, nil, ledger.Log{Name: "denials", Near: near, Far: far})
		defer r.stop()
		<-r.Ready()
		if ages := r.Ages(); !ages[0].Since.IsZero() {
			b.Error("near says that nothing is lacking, which only far can know")
		}
		b.append(&home, c)
		time.Sleep(ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "what far has", a, c)
		fresh := r.Ages()[0].Since
		if !fresh.Equal(time.Now()) {
			b.Errorf("fresh at %s", fresh)
		}
		// Cut off from far: near goes on, and it is known how old things are.
		far.set(func(s *source) { s.err = ledger.ErrUnavailable })
		b.append(&mirror, c, d)
		time.Sleep(5 * ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "what near has", a, c, d)
		if got := r.Ages()[0].Since; !got.Equal(fresh) {
			b.Errorf("cut off from far, and fresh at %s", got)
		}
		far.set(func(s *source) { s.err = nil; s.src = &mirror })
		near.set(func(s *source) { s.hangs = true })
		e := b.suspension(3, 1)
		b.append(&mirror, e)
		time.Sleep(ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "where near hangs", a, c, d, e)
		if s := r.Stats(); s.Lost != 0 {
			b.Errorf("%+v", s)
		}
	})
}

// A stream that was deleted and made again is reported, what is known is kept, and
// what is new in it is found, though it counts from 1.
func TestFollowerKeepsWhatAStreamLost(t *testing.T) {
	for _, which := range []string{"near alone", "near", "far", "near, before it started", "far, before it started"} {
		t.Run(which, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				var full, empty memory.Denials
				for v := range uint64(20) {
					b.append(&full, b.suspension(0, v+1))
				}
				kept := b.suspension(0, 20)
				near, far := &source{src: &full}, &source{src: &full}
				log := ledger.Log{Name: "denials", Near: near}
				lost := near
				switch which {
				case "far", "far, before it started":
					log.Far, lost = far, far
				case "near":
					log.Far = far
				}
				emptied := 0
				change := func(f *ledger.Follower) { f.Emptied = func(string) { emptied++ } }
				r := follow(b.Platform, change, log)
				defer func() { r.stop() }()
				time.Sleep(3 * ledger.CompareEvery)
				restarts := strings.HasSuffix(which, "before it started")
				if restarts {
					// As a process that has a copy of what the one before knew.
					r.stop()
					copied := r
					lost.set(func(s *source) { s.src = &empty })
					r = follow(b.Platform, func(f *ledger.Follower) { change(f); f.Projection, f.Positions = copied.Projection, copied.At() }, log)
					if !r.isReady() {
						b.Error("it has a copy and is not ready")
					}
				}
				lost.set(func(s *source) { s.src = &empty })
				if which == "near" {
					far.set(func(s *source) { s.err = ledger.ErrUnavailable }) // only near can bring it
				}
				time.Sleep(10 * ledger.CompareEvery)
				synctest.Wait()
				r.knows(b.T, "after the loss", kept)
				if s := r.Stats(); s.Lost != 1 || which != "near" && s.Failed != 0 {
					b.Errorf("%+v", s)
				}
				if want := lost == near; (emptied == 1) != want {
					b.Errorf("told that near is empty %d times", emptied)
				}
				news := b.suspension(1, 1)
				if lost == far {
					b.append(&full, b.suspension(0, 21)) // near goes on where it was
					kept = b.suspension(0, 21)
					time.Sleep(2 * ledger.CompareEvery)
				}
				b.append(&empty, b.suspension(0, 3), news)
				time.Sleep(2 * ledger.CompareEvery)
				synctest.Wait()
				r.knows(b.T, "what is new in it", kept, news)
				if s := r.Stats(); s.Lost != 1 {
					b.Errorf("%+v", s)
				}
				if at := r.At()["denials"]; lost == near && at > 2 {
					b.Errorf("a copy would leave off at %d, beyond what the stream has", at)
				}
				if which == "near" { // far goes on where it was, and stops
					far.set(func(s *source) { s.err = nil })
					kept = b.suspension(0, 22)
					b.append(&full, kept)
					time.Sleep(2 * ledger.CompareEvery)
					far.set(func(s *source) { s.err = ledger.ErrUnavailable })
				}
				more := b.suspension(2, 1)
				b.append(&empty, more)
				time.Sleep(2 * ledger.CompareEvery)
				synctest.Wait()
				r.knows(b.T, "what comes after", kept, news, more)
			})
		})
	}
}

// A mirror that is behind what far has given, also to the process before, lost nothing.
func TestFollowerBearsAMirrorThatIsBehind(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var home memory.Denials
		a, c := b.suspension(0, 1), b.suspension(1, 1)
		b.append(&home, a)
		near := &mirror{Source: &home}
		near.catchUp()
		b.append(&home, c)
		log := ledger.Log{Name: "denials", Near: near, Far: &home}
		r := follow(b.Platform, nil, log)
		time.Sleep(2 * ledger.CompareEvery)
		r.stop()
		r.knows(b.T, "by far", a, c)
		again := follow(b.Platform, func(f *ledger.Follower) { f.Projection, f.Positions = r.Projection, r.At() }, log)
		defer again.stop()
		time.Sleep(10 * ledger.CompareEvery)
		if s := again.Stats(); s.Lost != 0 {
			b.Errorf("%+v", s)
		}
	})
}

// Another replica may answer, a moment behind: that is no loss.
func TestFollowerBearsALaggingReplica(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var denials memory.Denials
		a, c := b.suspension(0, 1), b.suspension(1, 1)
		b.append(&denials, a, c)
		s := &source{src: &denials}
		r := follow(b.Platform, nil, ledger.Log{Name: "denials", Near: s})
		defer r.stop()
		<-r.Ready()
		time.Sleep(3 * ledger.CompareEvery / 2)
		one := uint64(1)
		for range 4 {
			s.set(func(s *source) { s.last = &one })
			time.Sleep(2 * ledger.CompareEvery)
			s.set(func(s *source) { s.last = nil })
			time.Sleep(ledger.CompareEvery)
		}
		if st := r.Stats(); st.Lost != 0 {
			b.Errorf("%+v", st)
		}
		r.knows(b.T, "after all", a, c)
	})
}

// What is damaged in a stream hinders nothing that is beside it.
func TestFollowerPassesOverWhatIsDamaged(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var denials memory.Denials
		a, c := b.suspension(0, 1), b.suspension(1, 1)
		b.append(&denials, a)
		bad := b.suspension(2, 1)
		bad.Token = bad.Token[:len(bad.Token)-3] + "AAA"
		b.append(&denials, bad, c)
		var spoilt []string
		r := follow(b.Platform, func(f *ledger.Follower) { f.Spoilt = func(_, key string) { spoilt = append(spoilt, key) } },
			ledger.Log{Name: "denials", Near: &denials})
		defer r.stop()
		<-r.Ready()
		r.knows(b.T, "beside it", a, c)
		if s := r.Stats(); s.Refused != 1 || s.Applied != 2 || !slices.Equal(spoilt, []string{bad.Key.String()}) {
			b.Errorf("%+v, spoilt %q", s, spoilt)
		}
		good := b.suspension(2, 1)
		b.append(&denials, good)
		time.Sleep(ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "mended", a, c, good)
	})
}

// begun is a store that can be made anew, and says how it begins.
type begun struct {
	memory.Denials
	at time.Time
}

func (b *begun) Ends(ctx context.Context) (first, last ledger.Mark, err error) {
	e, err := b.Read(ctx, 0, 1000)
	if err != nil || len(e) == 0 {
		return first, last, err
	}
	return ledger.Mark{Seq: e[0].Seq, At: b.at}, ledger.Mark{Seq: e[len(e)-1].Seq, At: b.at}, nil
}

// renewed is a source behind which another store may come to be.
type renewed struct{ atomic.Pointer[begun] }

func (r *renewed) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	return r.Load().Read(ctx, after, limit)
}

func (r *renewed) Last(ctx context.Context) (uint64, error) { return r.Load().Last(ctx) }
func (r *renewed) Ends(ctx context.Context) (first, last ledger.Mark, err error) {
	return r.Load().Ends(ctx)
}

// A stream that was deleted and made anew is known as another one although it has as
// much as the old one had, while the follower runs and after it has started again from
// a copy.
func TestFollowerKnowsAStreamMadeAnew(t *testing.T) {
	inBubble(t, func(b *bubble) {
		old, next, third := &begun{at: time.Now()}, &begun{at: time.Now().Add(time.Minute)}, &begun{at: time.Now().Add(2 * time.Minute)}
		a, c, d := b.suspension(0, 1), b.suspension(1, 1), b.suspension(2, 2)
		b.append(&old.Denials, a)
		b.append(&next.Denials, a, c)
		// The third has replaced its first entry since: it begins where the others do not.
		b.append(&third.Denials, b.suspension(2, 1), d)
		var emptied int
		var near renewed
		near.Store(old)
		log := ledger.Log{Name: "denials", Near: &near}
		r := follow(b.Platform, func(f *ledger.Follower) { f.Emptied = func(string) { emptied++ } }, log)
		<-r.Ready()
		time.Sleep(2 * ledger.CompareEvery)
		synctest.Wait()
		near.Store(next)
		time.Sleep(2 * ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "of both", a, c)
		if s := r.Stats(); s.Lost != 1 || emptied != 1 {
			b.Errorf("%+v, emptied %d times", s, emptied)
		}
		at := r.At()
		r.stop()

		near.Store(third)
		r = follow(b.Platform, func(f *ledger.Follower) {
			f.Positions = at
			f.Emptied = func(string) { emptied++ }
		}, log)
		defer r.stop()
		time.Sleep(2 * ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "of the third, from a copy's positions", d)
		if s := r.Stats(); s.Lost != 1 || emptied != 2 {
			b.Errorf("%+v, emptied %d times", s, emptied)
		}
	})
}

// Where home moved, its log goes on from a position at which the former one had something else. It
// begins in the same way, so nothing but its epoch tells: it is read from its beginning, while
// the follower runs, and when it starts with positions of the former one.
func TestFollowerBeginsAnewInAnEpoch(t *testing.T) {
	inBubble(t, func(b *bubble) {
		at := time.Now()
		old, next := &begun{at: at}, &begun{at: at}
		a, alone, c, d := b.suspension(0, 1), b.suspension(1, 1), b.suspension(2, 1), b.suspension(3, 1)
		b.append(&old.Denials, a, alone)
		b.append(&next.Denials, a, c, d)
		var near renewed
		near.Store(old)
		log := ledger.Log{Name: "denials", Near: &near}
		r := follow(b.Platform, nil, log)
		<-r.Ready()
		time.Sleep(2 * ledger.CompareEvery)
		synctest.Wait()
		positions := r.At()
		near.Store(next)
		r.Begin("denials", 2)
		if pending := r.At()["denials"]; pending != 0 {
			b.Errorf("before it was read anew it is said to be read up to %d", pending)
		}
		time.Sleep(2 * ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "of both", a, alone, c, d)
		again := r.At()
		r.stop()
		if again["denials"] != 3 || again["denials epoch"] != 2 {
			b.Errorf("it is at %v", again)
		}

		log.Epoch = 2
		r = follow(b.Platform, func(f *ledger.Follower) { f.Positions = positions }, log)
		defer r.stop()
		time.Sleep(2 * ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "with positions of the former one", a, c, d)
	})
}

// Of what class the entries of a log are is part of what is believed: a name does not
// come by the log of denials, whoever signed it.
func TestFollowerRefusesWhatBelongsElsewhere(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var denials memory.Denials
		mine := b.suspension(0, 1)
		stray := b.Entry(b.T, ledger.NameKey(name(b.T, "stray")), 1, false, time.Now(), ledger.Name{Holder: open(b.T), Claimed: 1})
		b.append(&denials, mine, stray)
		r := follow(b.Platform, func(*ledger.Follower) {}, ledger.Log{Name: "denials", Near: &denials, Takes: ledger.Key.Denial})
		defer r.stop()
		<-r.Ready()
		r.knows(b.T, "the denial alone", mine)
		if s := r.Stats(); s.Refused != 1 {
			b.Errorf("%+v", s)
		}
	})
}

// What a reader has no use for costs it nothing, wherever it comes from, and is no fault.
func TestFollowerSkips(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var denials memory.Denials
		mine, other := b.suspension(0, 1), b.suspension(1, 1)
		b.append(&denials, other, mine)
		hints := make(chan ledger.Stored, 1)
		r := follow(b.Platform, func(f *ledger.Follower) {
			f.Hints = hints
			f.Skips = func(key string) bool { return key == other.Key.String() }
		}, ledger.Log{Name: "denials", Near: &denials})
		defer r.stop()
		<-r.Ready()
		hints <- ledger.Stored{Subject: other.Key.String(), Data: other.Token}
		synctest.Wait()
		r.knows(b.T, "but what is skipped", mine)
		if s := r.Stats(); s.Refused != 0 || s.HintsRefused != 0 || s.Hints != 0 || s.Applied != 1 || s.Known != 0 {
			b.Errorf("%+v", s)
		}
		if at := r.At()["denials"]; at != 2 {
			b.Errorf("read up to %d of 2", at)
		}
	})
}

// An entry from the future waits for its time, wherever it came from, also when its
// source has gone and also beside others about the same key.
func TestFollowerLetsTheFutureWait(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var denials memory.Denials
		ahead := func(user int, version uint64, by time.Duration) ledger.Entry {
			return b.Entry(b.T, ledger.UserSuspension(b.Account(b.T, "CHAT"), b.users[user]), version, true, time.Now().Add(ledger.MaxAhead+by), nil)
		}
		stored, hinted, years := ahead(0, 1, time.Minute), ahead(1, 2, time.Minute), ahead(2, 1, 1000*day)
		b.append(&denials, stored, years)
		hints := make(chan ledger.Stored)
		s := &source{src: &denials}
		var mu sync.Mutex
		var kept []ledger.Key
		r := follow(b.Platform, func(f *ledger.Follower) {
			f.Hints = hints
			f.Stored = func(_ string, e ledger.Entry) { mu.Lock(); defer mu.Unlock(); kept = append(kept, e.Key) }
		}, ledger.Log{Name: "denials", Near: s})
		defer r.stop()
		<-r.Ready()
		hints <- ledger.Stored{Subject: hinted.Key.String(), Data: hinted.Token}
		replayed := ahead(1, 1, 30*time.Second)
		hints <- ledger.Stored{Subject: replayed.Key.String(), Data: replayed.Token}
		synctest.Wait()
		r.knows(b.T, "before its time")
		if st := r.Stats(); st.Ahead != 2 || st.HintsRefused != 2 || st.Refused != 0 {
			b.Errorf("%+v", st)
		}
		s.set(func(s *source) { s.err = ledger.ErrUnavailable })
		time.Sleep(time.Minute - time.Millisecond)
		synctest.Wait()
		r.knows(b.T, "a moment before", replayed)
		time.Sleep(2 * ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "at its time", stored, hinted)
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(kept, []ledger.Key{stored.Key}) {
			b.Errorf("known to be kept here: %v", kept)
		}
	})
}

func TestFollowerTriesAgain(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var denials memory.Denials
		a := b.suspension(0, 1)
		b.append(&denials, a)
		s := &source{src: &denials, err: errors.New("no answer")}
		r := follow(b.Platform, nil, ledger.Log{Name: "denials", Near: s})
		defer r.stop()
		time.Sleep(time.Minute)
		if r.isReady() || r.Stats().Failed < 10 || !r.Ages()[0].Since.IsZero() {
			b.Errorf("ready: %t, %+v", r.isReady(), r.Stats())
		}
		s.set(func(s *source) { s.err = nil })
		<-r.Ready()
		r.knows(b.T, "in the end", a)
		// A source that gives the same again and again is not asked without end.
		c := b.suspension(1, 1)
		s.set(func(s *source) {
			s.altered = func(uint64, []ledger.Stored) []ledger.Stored {
				return []ledger.Stored{{Subject: a.Key.String(), Data: a.Token, Seq: 1}}
			}
			s.calls = 0
		})
		b.append(&denials, c)
		time.Sleep(10 * ledger.CompareEvery)
		s.set(func(s *source) {
			if s.calls > 25 {
				b.Errorf("it was asked %d times", s.calls)
			}
			s.altered = nil
		})
		time.Sleep(ledger.CompareEvery)
		synctest.Wait()
		r.knows(b.T, "after all", a, c)
	})
}

// Run ends when its context does, whatever its sources do.
func TestFollowerEnds(t *testing.T) {
	for _, how := range []string{"at once", "while it fills", "while it cannot fill", "later", "while both hang"} {
		t.Run(how, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				var denials memory.Denials
				b.append(&denials, b.suspension(0, 1))
				near, far := &source{src: &denials}, &source{src: &denials}
				near.hangs = how == "while it fills"
				if how == "while it cannot fill" {
					near.err = ledger.ErrUnavailable
				}
				hints := make(chan ledger.Stored)
				r := follow(b.Platform, func(f *ledger.Follower) { f.Hints = hints }, ledger.Log{Name: "denials", Near: near, Far: far})
				if how != "at once" {
					time.Sleep(time.Minute)
				}
				if how == "while both hang" {
					near.set(func(s *source) { s.hangs = true })
					far.set(func(s *source) { s.hangs = true })
					time.Sleep(time.Minute)
				}
				if how == "later" {
					close(hints)
					time.Sleep(time.Minute)
				}
				ended := time.Now()
				r.stop()
				if !time.Now().Equal(ended) {
					b.Errorf("it took %s", time.Since(ended))
				}
			})
		})
	}
}

func TestFollowerOfNothing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		r := follow(b.Platform, nil)
		defer r.stop()
		<-r.Ready()
	})
}

// mirror has what its source had when it last caught up, at the same positions.
type mirror struct {
	ledger.Source
	has atomic.Uint64
}

func (m *mirror) catchUp() {
	last, _ := m.Source.Last(context.Background())
	m.has.Store(last)
}

func (m *mirror) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	got, err := m.Source.Read(ctx, after, limit)
	beyond := func(e ledger.Stored) bool { return e.Seq > m.has.Load() }
	return slices.DeleteFunc(got, beyond), err
}

func (m *mirror) Last(context.Context) (uint64, error) { return m.has.Load(), nil }

// Whatever sources and hints do, in the end the reader knows what the stores have.
func TestFollowerUnderFaults(t *testing.T) {
	p := newPlatform(t)
	pool := newPool(t, p)
	checkInBubble(t, func(r *rapid.T) {
		var denials memory.Denials
		mirror := &mirror{Source: &denials}
		faults := ledgertest.NewFaults(rapid.Uint64().Draw(r, "seed"), rapid.IntRange(1, 3).Draw(r, "one in"))
		hints := make(chan ledger.Stored)
		log := ledger.Log{Name: "denials", Near: faults.Source(&denials)}
		if rapid.Bool().Draw(r, "with a mirror") {
			log = ledger.Log{Name: "denials", Near: faults.Source(mirror), Far: faults.Source(&denials)}
		}
		f := follow(p, func(f *ledger.Follower) { f.Hints = hints }, log)
		defer f.stop()
		wanted := ledger.NewProjection(nil)
		for _, e := range rapid.SliceOfN(rapid.SampledFrom(pool.denials), 0, 25).Draw(r, "entries") {
			if wanted.Apply(e) { // a region appends what beats what it knows
				_ = denials.Append(context.Background(), e.Key, e.Token)
				if rapid.Bool().Draw(r, "mirrored") {
					mirror.catchUp()
				}
			}
			switch rapid.IntRange(0, 3).Draw(r, "then") {
			case 0:
				hints <- ledger.Stored{Subject: e.Key.String(), Data: e.Token}
			case 1:
				hints <- ledger.Stored{Subject: rapid.SampledFrom(pool.denials).Draw(r, "other").Key.String(), Data: e.Token[:rapid.IntRange(0, len(e.Token)-1).Draw(r, "cut")]}
			case 2:
				time.Sleep(time.Duration(rapid.IntRange(0, 3000).Draw(r, "ms")) * time.Millisecond)
			}
		}
		faults.Heal()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !bytes.Equal(f.Projection.Dump(), wanted.Dump()) {
			r.Fatalf("what is known is not what the store has: %+v", f.Stats())
		}
		if !f.isReady() {
			r.Fatal("it is not ready")
		}
	})
}
