package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/internal/wait"
)

// Log is one sequence of entries that a reader follows.
type Log struct {
	// Name is what it is called in logs, metrics and copies.
	Name string
	// Near has the log in the reader's own region. The reader is ready when it has
	// read this once.
	Near Source
	// Far, if any, is where Near is copied from, with the same positions: it is asked
	// for what Near lacks, because a mirror may take half a minute after a cut.
	Far Source
	// Takes tells which entries belong into the log; another is refused, whoever signed
	// it. nil takes all.
	Takes func(Key) bool
	// Epoch is the one that the log is of. Who decided in another may have had others at the
	// same positions: what a copy knows of those is worth nothing.
	Epoch uint32
}

// Defaults of a Follower.
const (
	// CompareEvery is how often a follower compares its position with its sources.
	CompareEvery = time.Second
	// batch is how many entries are read at once.
	batch = 1024
	// suspicious is how many times in a row a source must have less than before until
	// that is believed: another replica, a moment behind, may have answered.
	suspicious = 3
	// maxAhead bounds, in bytes, the entries from the future that are kept until their time.
	maxAhead = 4 << 20
)

// Follower fills a Projection from its sources and keeps it up to date: by hints,
// which are quick and may be lost or forged, and by comparing positions, which is
// slower and sure. What it reads it believes for its signature alone.
type Follower struct {
	Projection *Projection
	Opener     Opener
	Logs       []Log
	// Hints are entries as somebody says that they are now; Seq is not looked at. nil:
	// there are none.
	Hints <-chan Stored
	// Positions are where a copy left off, by the name of the log; nil reads everything.
	// With positions the reader is ready at once.
	Positions map[string]uint64
	// Every is how often positions are compared; 0: CompareEvery.
	Every time.Duration
	// Skips tells of keys which the reader has no use for: what is stored or told under them
	// is passed over, without being opened or counted. nil skips none.
	Skips func(key string) bool
	// Stored, Spoilt and Emptied tell what is known to be kept in the reader's region,
	// by the name of the log; each may be nil. Stored is called with each entry that
	// Near had, after it is applied; Spoilt with each key under which Near had
	// something that is not believed; Emptied when Near has less than before, and
	// is read again from its beginning.
	Stored  func(log string, e Entry)
	Spoilt  func(log, key string)
	Emptied func(log string)
	Log     *slog.Logger

	start         sync.Once
	ready         chan struct{}
	left          atomic.Int32 // logs that were not read once
	state         []*logState
	stats         stats
	limit, hinted *rate.Limiter // of what is said in the log

	aheadMu   sync.Mutex
	ahead     map[string]waiting // by token: of one key there may be several
	aheadSize int
	aheadLost bool // there was one too many
}

// endsAt is what At has of a log besides its position, after its name: how its near
// source began and ended.
//
//nolint:gochecknoglobals // a constant in all but name
var endsAt = [4]string{" first", " first at", " last", " last at"}

// epochOf is what At has of a log besides: its epoch.
const epochOf = " epoch"

// restored gives the ends that At gave.
func restored(positions map[string]uint64, log string) ends {
	mark := func(i int) Mark {
		if positions[log+endsAt[i]] == 0 {
			return Mark{}
		}
		return Mark{positions[log+endsAt[i]], time.Unix(0, int64(positions[log+endsAt[i+1]]))} // #nosec G115 -- as At gave it
	}
	return ends{mark(0), mark(2)}
}

// waiting is an entry from the future.
type waiting struct {
	key string
	log string // whose near source had it, if any
}

// logState is how far one log was read.
type logState struct {
	Log
	mu sync.Mutex
	// near and far are how far each source was read. They go together, since the
	// sources have the same positions, until one of them has less than before: it
	// counts anew, and each is read by its own.
	near, far uint64
	apart     bool
	// nearAnew and farAnew tell that a source is to be read from its beginning, because the log
	// is of another epoch.
	nearAnew, farAnew bool
	fresh             time.Time // when it last lacked nothing
	// was is how near was when all of it had been read, by which it is known again.
	was ends
}

// ends are the oldest and the newest entry of a source; zero if it does not say.
type ends struct{ first, last Mark }

// skew is how far the clocks of servers may differ that store one stream.
const skew = 30 * time.Second

// anew tells whether a source that was so is another one now: sure, or only if it stays
// so, because a replica that is behind has older entries than another.
func (was ends) anew(now ends) (is, sure bool) {
	if was.first.Seq == 0 || now.first.Seq == 0 {
		return false, false
	}
	// The same place and another time; or what is where we had been, and came later.
	sure = now.first.Seq == was.first.Seq && !now.first.At.Equal(was.first.At) ||
		now.first.Seq <= was.last.Seq && now.first.At.After(was.last.At.Add(skew))
	return sure || now.first.Seq < was.first.Seq, sure
}

func (l *logState) ends() ends {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.was
}

func (l *logState) note(e ends) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.was = e
}

func (l *logState) at(near bool) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if near {
		return l.near
	}
	return l.far
}

// covered is the position up to which everything was applied, whichever source it is
// asked of, and in which epoch of the log.
func (l *logState) covered() (at uint64, epoch uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.nearAnew || l.Far != nil && l.farAnew:
		return 0, l.Epoch
	case l.Far == nil:
		return l.near, l.Epoch
	}
	return min(l.near, l.far), l.Epoch
}

// advance notes that everything up to a position was applied.
func (l *logState) advance(near bool, to uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if near || !l.apart {
		l.near = max(l.near, to)
	}
	if !near || !l.apart {
		l.far = max(l.far, to)
	}
}

// again lets a source be read from its beginning.
func (l *logState) again(near bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apart = true
	if near {
		l.near = 0
	} else {
		l.far = 0
	}
}

// begins has both sources read from their beginning, by whoever reads them.
func (l *logState) begins(epoch uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Epoch, l.nearAnew, l.farAnew = epoch, true, true
}

// begun tells whether a source is to be read from its beginning now, and lets it be.
func (l *logState) begun(near bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	anew := &l.farAnew
	if near {
		anew = &l.nearAnew
	}
	if !*anew {
		return false
	}
	*anew, l.apart = false, true
	if near {
		l.near = 0
	} else {
		l.far = 0
	}
	return true
}

// lacksNothing notes that a source had nothing new. Where there is a far one, that is
// the one whose word counts: near may be cut off from it.
func (l *logState) lacksNothing(near bool, now time.Time) {
	if near && l.Far != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh = now
}

type stats struct {
	applied, known, refused, ahead, hints, hintsRefused, lost, failed atomic.Uint64
}

// Stats count what a follower met since its start.
type Stats struct {
	Applied      uint64 `json:"applied"`       // entries that came to hold
	Known        uint64 `json:"known"`         // entries that changed nothing
	Refused      uint64 `json:"refused"`       // stored entries that are not believed
	Ahead        uint64 `json:"ahead"`         // entries from the future
	Hints        uint64 `json:"hints"`         // hints that were taken
	HintsRefused uint64 `json:"hints_refused"` // hints that are not believed
	Lost         uint64 `json:"lost"`          // times that a source had less than before
	Failed       uint64 `json:"failed"`        // readings that got no answer
}

// Stats gives the counts.
func (f *Follower) Stats() Stats {
	s := &f.stats
	return Stats{
		Applied: s.applied.Load(), Known: s.known.Load(), Refused: s.refused.Load(), Ahead: s.ahead.Load(),
		Hints: s.hints.Load(), HintsRefused: s.hintsRefused.Load(), Lost: s.lost.Load(), Failed: s.failed.Load(),
	}
}

func (f *Follower) init() {
	f.start.Do(func() {
		f.ready = make(chan struct{})
		f.limit, f.hinted = rate.NewLimiter(1, 10), rate.NewLimiter(1, 10)
		f.ahead = make(map[string]waiting)
		if f.Every == 0 {
			f.Every = CompareEvery
		}
		f.left.Store(int32(len(f.Logs))) // #nosec G115 -- a few
		for _, l := range f.Logs {
			// After a move what one source has at a position another may not have there.
			s := &logState{Log: l, apart: l.Epoch > 0}
			if f.Positions[l.Name+epochOf] == uint64(l.Epoch) {
				s.near, s.far, s.was = f.Positions[l.Name], f.Positions[l.Name], restored(f.Positions, l.Name)
			}
			f.state = append(f.state, s)
		}
		if f.Positions != nil || len(f.Logs) == 0 {
			close(f.ready)
			f.left.Store(-1)
		}
	})
}

// Ready is closed when the projection is complete: as complete as a copy was, or as
// the near sources were when they had been read once. It says nothing of how fresh
// it is; Ages does.
func (f *Follower) Ready() <-chan struct{} {
	f.init()
	return f.ready
}

// Ages tells of each log since when the projection may lack something of it.
func (f *Follower) Ages() []Age {
	f.init()
	ages := make([]Age, len(f.state))
	for i, l := range f.state {
		l.mu.Lock()
		ages[i] = Age{Source: l.Name, Since: l.fresh}
		l.mu.Unlock()
	}
	return ages
}

// At gives the positions that were read, by the name of the log: everything up to
// there was applied. It is nil while an entry from the future waits in memory: whoever
// reads on from a later position would never see it.
func (f *Follower) At() map[string]uint64 {
	f.init()
	f.aheadMu.Lock()
	defer f.aheadMu.Unlock()
	if f.aheadSize > 0 || f.aheadLost {
		return nil
	}
	at := make(map[string]uint64, len(f.state))
	for _, l := range f.state {
		covered, epoch := l.covered()
		at[l.Name] = covered
		if epoch > 0 {
			at[l.Name+epochOf] = uint64(epoch)
		}
		if e := l.ends(); e.first.Seq > 0 {
			for i, n := range []uint64{e.first.Seq, uint64(e.first.At.UnixNano()), e.last.Seq, uint64(e.last.At.UnixNano())} { // #nosec G115 -- its bits come back
				at[l.Name+endsAt[i]] = n
			}
		}
	}
	return at
}

// Run follows until ctx ends. It owns the goroutines that it starts.
func (f *Follower) Run(ctx context.Context) {
	f.init()
	var work sync.WaitGroup
	defer work.Wait()
	for _, l := range f.state {
		work.Go(func() { f.follow(ctx, l) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case h, ok := <-f.Hints:
			if !ok {
				f.Hints = nil
				continue
			}
			f.hint(h)
		}
	}
}

// Begin has a log read from its beginning, because it is of another epoch now. What is known stays.
func (f *Follower) Begin(log string, epoch uint32) {
	f.init()
	for _, l := range f.state {
		if l.Name == log {
			l.begins(epoch)
		}
	}
}

func (f *Follower) skips(key string) bool { return f.Skips != nil && f.Skips(key) }

func (f *Follower) hint(h Stored) {
	if f.skips(h.Subject) {
		return
	}
	e, err := f.Opener.Open(h.Subject, h.Data)
	if err != nil {
		f.stats.hintsRefused.Add(1)
		// By a measure of its own: who sends hints must not be able to use up that of what
		// is stored.
		if f.hinted.Allow() {
			f.Log.Warn("a hint is not believed", "error", err)
		}
		if errors.Is(err, ErrAhead) {
			f.postpone("", h)
		}
		return
	}
	f.stats.hints.Add(1)
	f.apply(e)
}

func (f *Follower) apply(e Entry) {
	if f.Projection.Apply(e) {
		f.stats.applied.Add(1)
	} else {
		f.stats.known.Add(1)
	}
}

// follow reads one log: all of it once, from near; then what is new, from near and
// from far, side by side, since either may not answer for long. With a copy to begin
// with, far is not waited with.
func (f *Follower) follow(ctx context.Context, l *logState) {
	var work sync.WaitGroup
	defer work.Wait()
	far := func() {
		if l.Far != nil {
			work.Go(func() { f.compare(ctx, l, l.Far, false) })
		}
	}
	if f.Positions != nil {
		far()
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := f.read(ctx, l, l.Near, true)
		if err == nil {
			break
		}
		f.failed(l, err)
		if wait.For(ctx, pause) != nil {
			return
		}
	}
	if f.left.Add(-1) == 0 {
		close(f.ready)
	}
	if f.Positions == nil {
		far()
	}
	f.compare(ctx, l, l.Near, true)
}

// look asks a source how far it goes, and how it begins if it can tell.
func look(ctx context.Context, s Source) (last uint64, e ends, err error) {
	m, ok := s.(Marked)
	if !ok {
		last, err = s.Last(ctx)
		return last, ends{}, err
	}
	e.first, e.last, err = m.Ends(ctx)
	return e.last.Seq, e, err
}

// compare asks a source now and then for its last position and reads what is new.
func (f *Follower) compare(ctx context.Context, l *logState, s Source, near bool) {
	var (
		seen uint64 // the greatest that this source had
		less int    // how often in a row it had less, or was another
		was  ends   // how it was when all of it had been read
	)
	// What was read of a source, now or for a copy, it had; and what a near copy had, the
	// far source had. Only a near copy may never have had what came from far.
	if !near || l.Far == nil {
		seen = l.at(near)
	}
	if near {
		was = l.ends()
	}
	for wait.For(ctx, f.Every) == nil {
		if near {
			f.retryAhead()
		}
		if l.begun(near) {
			seen, less, was = 0, 0, ends{}
		}
		last, now, err := look(ctx, s)
		if err != nil {
			f.failed(l, err)
			continue
		}
		anew, sure := was.anew(now)
		if last < seen || anew {
			if less++; less < suspicious && !sure {
				continue
			}
			// What was applied stays: entries hold by their signatures and versions.
			f.stats.lost.Add(1)
			f.Log.Error("a stream of the ledger has less than before, or is another one; what is known is kept, and the stream is read again",
				"log", l.Name, "near", near, "had", seen, "has", last)
			if near && f.Emptied != nil {
				f.Emptied(l.Name)
			}
			l.again(near)
			was = ends{} // known again when it was read
		}
		seen, less = last, 0
		if last <= l.at(near) {
			l.lacksNothing(near, f.Opener.Now())
		} else if err := f.read(ctx, l, s, near); err != nil {
			f.failed(l, err)
			continue
		}
		was = now
		if near {
			l.note(now)
		}
	}
}

// page is one answer of a source.
type page struct {
	entries []Stored
	err     error
}

// fetch asks a source for its next page beside the caller.
func fetch(ctx context.Context, s Source, from uint64) <-chan page {
	c := make(chan page, 1)
	go func() {
		entries, err := s.Read(ctx, from, batch)
		c <- page{entries, err}
	}()
	return c
}

// read applies everything of a source that was not read yet. While one page is
// verified the next is on its way.
func (f *Follower) read(ctx context.Context, l *logState, s Source, near bool) error {
	from := l.at(near)
	for next := fetch(ctx, s, from); ; {
		p := <-next
		if p.err != nil {
			return p.err
		}
		if len(p.entries) == 0 {
			l.lacksNothing(near, f.Opener.Now())
			return nil
		}
		to := p.entries[len(p.entries)-1].Seq
		if to <= from {
			f.take(l, p.entries, near)
			return fmt.Errorf("%w: asked for what is after %d, it gives %d", ErrUnavailable, from, to)
		}
		next = fetch(ctx, s, to)
		f.take(l, p.entries, near)
		// Only what was applied counts as read: a copy is written from here.
		l.advance(near, to)
		from = to
	}
}

// take opens and applies entries on all processors: verifying is what costs.
func (f *Follower) take(l *logState, entries []Stored, near bool) {
	n := min(runtime.GOMAXPROCS(0), (len(entries)+63)/64)
	size := (len(entries) + n - 1) / n
	var work sync.WaitGroup
	for begin := 0; begin < len(entries); begin += size {
		part := entries[begin:min(begin+size, len(entries))]
		work.Go(func() {
			for _, s := range part {
				f.takeOne(l, s, near)
			}
		})
	}
	work.Wait()
}

func (f *Follower) takeOne(l *logState, s Stored, near bool) {
	if f.skips(s.Subject) {
		return
	}
	e, err := f.Opener.Open(s.Subject, s.Data)
	if err == nil && l.Takes != nil && !l.Takes(e.Key) {
		err = fmt.Errorf("an entry of %s does not belong into the log of %s: %w", e.Key, l.Name, ErrDamaged)
	}
	switch {
	case errors.Is(err, ErrAhead):
		f.stats.ahead.Add(1)
		f.complain("an entry from the future waits", "seq", s.Seq, "error", err)
		log := ""
		if near {
			log = l.Name
		}
		f.postpone(log, s)
		return
	case err != nil:
		f.stats.refused.Add(1)
		f.complain("a stored entry is not believed", "log", l.Name, "seq", s.Seq, "error", err)
		if near && f.Spoilt != nil {
			f.Spoilt(l.Name, s.Subject)
		}
		return
	}
	f.apply(e)
	if near && f.Stored != nil {
		f.Stored(l.Name, e)
	}
}

// postpone keeps an entry from the future: it is tried again, because nothing else
// would bring it once the clocks agree.
func (f *Follower) postpone(log string, s Stored) {
	f.aheadMu.Lock()
	defer f.aheadMu.Unlock()
	have, ok := f.ahead[s.Data]
	if !ok {
		if f.aheadSize+len(s.Data) > maxAhead {
			f.aheadLost = true
			return
		}
		f.aheadSize += len(s.Data)
	}
	f.ahead[s.Data] = waiting{key: s.Subject, log: cmp.Or(log, have.log)}
}

func (f *Follower) retryAhead() {
	f.aheadMu.Lock()
	defer f.aheadMu.Unlock()
	for token, w := range f.ahead {
		e, err := f.Opener.Open(w.key, token)
		if errors.Is(err, ErrAhead) {
			continue
		}
		delete(f.ahead, token)
		f.aheadSize -= len(token)
		if err != nil {
			continue
		}
		f.apply(e)
		if w.log != "" && f.Stored != nil {
			f.Stored(w.log, e)
		}
	}
}

func (f *Follower) failed(l *logState, err error) {
	f.stats.failed.Add(1)
	f.complain("a stream of the ledger cannot be read now", "log", l.Name, "error", err)
}

// complain logs, but not for ever the same.
func (f *Follower) complain(msg string, args ...any) {
	if f.limit.Allow() {
		f.Log.Warn(msg, args...)
	}
}
