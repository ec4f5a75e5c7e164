package audit

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Store takes one writer's blocks.
//
// Durability: when Append returns nil a quorum has the block on disk. Order: as appended.
// A block that is appended again within two minutes, as its ID tells, is there once.
type Store interface {
	// Append writes a block. ErrUnavailable, after which it may have been written.
	Append(ctx context.Context, b Sealed) error
}

// Buffer keeps blocks that wait to be stored, in their order, and how far the chain is, where
// the end of the process does not take them. One writer uses it, and one call at a time.
type Buffer interface {
	// Room tells whether a block of so many bytes may be added.
	Room(bytes int) bool
	// Add adds a block behind the others. When it returns nil the block is on disk.
	Add(data []byte) error
	// First gives the oldest; nil if there is none.
	First() ([]byte, error)
	// Forget removes the oldest.
	Forget() error
	// Each gives all of them, oldest first.
	Each(f func(data []byte)) error
	// Len is how many there are.
	Len() int
	// Last is what SetLast kept.
	Last() (Ref, bool)
	SetLast(r Ref) error
}

// Config is what a writer is made of. Buffer may be nil; every other field is needed.
type Config struct {
	Region ident.Region
	Writer ident.UserKey
	Signer Signer
	// JWT gives the writer's own credential.
	JWT    func() (string, error)
	Store  Store
	Buffer Buffer
	// Required tells whether what grants something has to be stored first. It is asked for
	// each record, so that it may change.
	Required func() bool
	Log      *slog.Logger
	Now      func() time.Time
}

const (
	// storeWait is how long a store is waited for. It takes about a millisecond.
	storeWait = time.Second
	// appendWait is how long whoever asks for a credential waits at most, whatever store and
	// disk do: a bit longer than a block that is on its way and the next one take.
	appendWait = 3 * time.Second
	// effortWait is the same where records are not required: the record is on its way, and
	// whoever asked must not hear of it too late because a stream is slow.
	effortWait = 250 * time.Millisecond
	// storeAgain is the pause between tries while nothing can be stored.
	storeAgain = 250 * time.Millisecond
	// HeadEvery is how often a writer says that it lives, at least: with a block of whatever
	// there is to record, or an empty one, and its JWT.
	HeadEvery = time.Minute
	// lastEvery is how often the buffer is told how far the chain is.
	lastEvery = 10 * time.Second
	// gather is how long records are gathered for the next block while several come for each:
	// a block costs its stream some hundred microseconds on three servers.
	gather = 2 * time.Millisecond
	// groupBytes and groupRecords bound what is gathered for one block.
	groupBytes, groupRecords = 128 << 10, 512
	// maxQueued bounds what waits to become blocks, and maxHeld the blocks that wait in
	// memory where there is no buffer or it takes none.
	maxQueued, maxHeld = 8 << 20, 8 << 20
	// noteBurst and noteSecond bound the refusals that are recorded one by one, of either
	// kind. At 300 bytes each that is half a gigabyte a day, for whoever keeps at it.
	noteBurst, noteSecond = 2000, 20
	// remembered is for how long a stream surely knows a block that it was given.
	remembered = 90 * time.Second
)

// Writer gathers records into blocks and stores them. Records that come while one block is
// on its way share the next: so a record costs little, and waits for two blocks at most.
//
// Where nothing can be stored, blocks wait in the buffer, in memory where that fails, and
// are stored in their order later; and whoever asked for a credential gets none if records
// are required. What there is no room for is dropped and counted, also in the next block.
type Writer struct {
	Config
	wake, kick chan struct{}
	// Refusals that are recorded one by one, of who showed who they are and of who did not.
	known, unknown *rate.Limiter

	mu      sync.Mutex
	queue   []*group // the last one takes more
	queued  int      // bytes of it
	failing bool     // the last try failed: nobody waits until all that waits is stored
	dropped uint64   // since the last block
	flood   map[flooded]int
	stats   Stats

	// order may be held for as long as the disk takes; mu never.
	order sync.Mutex // held to put a block behind those that wait, or to see that none does
	held  [][]byte   // blocks that wait in memory, behind those of the buffer
	bytes int        // of held

	chain  Ref       // the last block that was made; only Run's goroutine uses it
	last   time.Time // when that was
	proved time.Time // when a block had the JWT
	resent []Span    // guarded by order
}

// Stats are what a writer tells of itself.
type Stats struct {
	Required bool   `json:"required"`
	Failing  bool   `json:"failing"` // nothing can be stored now
	Waiting  int    `json:"waiting"` // blocks that wait to be stored
	Records  uint64 `json:"records"` // that were stored
	Blocks   uint64 `json:"blocks"`
	Dropped  uint64 `json:"dropped"` // records that were given up
	Refused  uint64 `json:"refused"` // requests that got no credential because of it
	Chain    string `json:"chain"`   // and how far it is stored
	N        uint64 `json:"n"`
}

// group is what becomes one block.
type group struct {
	lines []byte
	n     int
	done  chan struct{}
	err   error // once done is closed
}

// NewWriter makes a writer; Run has to run for anything to be stored.
func NewWriter(c Config) *Writer {
	return &Writer{
		Config: c, wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), chain: Ref{Chain: newChain()},
		known: rate.NewLimiter(noteSecond, noteBurst), unknown: rate.NewLimiter(noteSecond, noteBurst),
	}
}

// Append records what grants something. When it returns nil the record is stored or, where
// records are not required, is going to be as far as there is room. ErrUnavailable: nothing
// may be granted; the record may be stored all the same.
func (w *Writer) Append(ctx context.Context, r Record) error {
	required := w.Required()
	g, err := w.add(r, required)
	if err == nil && !required && w.Stats().Failing {
		return nil // it waits for the stream, and for a disk at most
	}
	if err == nil {
		patience := appendWait
		if !required {
			patience = effortWait
		}
		wait := time.NewTimer(patience)
		defer wait.Stop()
		select {
		case <-g.done:
			err = g.err
		case <-wait.C:
			err = fmt.Errorf("%w: nothing was heard of it", ErrUnavailable)
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
	if err == nil || !required {
		return nil
	}
	w.mu.Lock()
	w.stats.Refused++
	w.mu.Unlock()
	return err
}

// Note records what grants nothing. It waits for nobody. What is more than noteBurst at once
// and noteSecond a second is counted by door and code, and recorded as a number: whoever is
// refused all the time must not fill the disk. Those who showed who they are, and those who
// did not, take no room from each other.
func (w *Writer) Note(r Record) {
	by := w.unknown
	if !r.Identity.IsZero() {
		by = w.known
	}
	if r.What == Refuse && !by.AllowN(w.Now(), 1) {
		w.Count(r.Door, r.Refused)
		return
	}
	_, _ = w.add(r, false)
}

// Count records one more refusal by its number alone: of those of which there are too many to
// look at each. It costs next to nothing.
func (w *Writer) Count(door string, code wire.Code) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flood == nil {
		w.flood = make(map[flooded]int)
	}
	w.flood[flooded{door, code}]++
}

// flooded is what counted refusals have in common.
type flooded struct {
	door string
	code wire.Code
}

// counted records the refusals that were counted.
func (w *Writer) counted() {
	w.mu.Lock()
	flood := w.flood
	w.flood = nil
	w.mu.Unlock()
	for f, n := range flood {
		_, _ = w.add(Record{What: Refuse, At: w.Now().UnixMilli(), Door: f.door, Refused: f.code, Count: n, Why: "more than are recorded one by one"}, false)
	}
}

// add puts a record into the group that becomes a block next.
func (w *Writer) add(r Record, required bool) (*group, error) {
	line, err := r.encode()
	if err != nil {
		w.Log.Error("a record cannot be written and is dropped", "request", r.Request, "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
	case required && w.failing:
		return nil, ErrUnavailable
	case w.queued+len(line) > maxQueued:
		err = fmt.Errorf("%w: too many wait", ErrUnavailable)
	}
	if err != nil {
		w.drop(1)
		return nil, err
	}
	w.queued += len(line)
	var g *group
	if n := len(w.queue); n > 0 {
		g = w.queue[n-1]
	}
	if g == nil || len(g.lines)+len(line) > groupBytes || g.n >= groupRecords {
		g = &group{done: make(chan struct{})}
		w.queue = append(w.queue, g)
	}
	g.lines = append(g.lines, line...)
	g.n++
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return g, nil
}

// drop counts records that are given up; mu is held.
func (w *Writer) drop(n int) {
	w.dropped += uint64(n)       // #nosec G115 -- not negative
	w.stats.Dropped += uint64(n) // #nosec G115 -- likewise
}

// next takes the group that becomes the next block; nil if there is none.
func (w *Writer) next() *group {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return nil
	}
	g := w.queue[0]
	w.queue = w.queue[1:]
	w.queued -= len(g.lines)
	return g
}

// Stats gives them as they are now. It waits for no disk.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.Required, s.Failing = w.Required(), w.failing
	return s
}

// count notes how many blocks wait; order is held.
func (w *Writer) count() {
	n := len(w.held)
	if w.Buffer != nil {
		n += w.Buffer.Len()
	}
	w.mu.Lock()
	w.stats.Waiting = n
	w.mu.Unlock()
}

// Run stores until ctx ends, and then what is left, with the chain's last block.
func (w *Writer) Run(ctx context.Context) {
	var after *Ref
	if w.Buffer != nil {
		if last, ok := w.Buffer.Last(); ok {
			after = &last
		}
		w.adopt()
	}
	var again sync.WaitGroup
	again.Go(func() { w.again(ctx) })
	tick := time.NewTicker(lastEvery)
	defer tick.Stop()
	w.write(nil, after, false)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			w.remember()
			w.counted()
			if w.Now().Sub(w.last) >= HeadEvery {
				w.write(nil, nil, false)
			}
		case <-w.wake:
			for g := w.next(); g != nil; g = w.next() {
				w.write(g, nil, false)
				if w.unhurried() {
					time.Sleep(storeAgain)
				} else if g.n > 1 {
					time.Sleep(gather)
				}
			}
		}
	}
	again.Wait()
	w.counted()
	for g := w.next(); g != nil; g = w.next() {
		w.write(g, nil, false)
	}
	w.write(nil, nil, true)
	w.remember()
	w.order.Lock()
	lost := len(w.held)
	w.order.Unlock()
	if lost > 0 {
		w.Log.Error("records are lost: they could not be stored until the end, and are on no disk", "blocks", lost)
	}
}

// unhurried tells whether nobody waits for the next block: it would wait itself, and of many
// small ones those who ask for credentials would wait for the last, once they can be stored.
func (w *Writer) unhurried() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failing && w.Required()
}

// adopt takes over what an earlier process could not store.
func (w *Writer) adopt() {
	if w.Buffer.Len() == 0 {
		return
	}
	w.order.Lock()
	defer w.order.Unlock()
	defer w.count()
	err := w.Buffer.Each(func(data []byte) {
		if b, err := Open(w.Region.String()+"."+w.Writer.String(), string(data)); err == nil {
			w.maybeTwice(Ref{Chain: b.Chain, N: b.N})
		}
	})
	if err != nil {
		w.Log.Warn("blocks of records that wait cannot be read", "error", err)
	}
	w.Log.Info("records of an earlier run are stored now", "blocks", w.Buffer.Len())
	w.fail()
}

// maybeTwice notes a block that may be there twice; order is held.
func (w *Writer) maybeTwice(r Ref) {
	if n := len(w.resent); n > 0 && w.resent[n-1].Chain == r.Chain && w.resent[n-1].Last+1 == r.N {
		w.resent[n-1].Last = r.N
		return
	}
	if len(w.resent) < maxSpans {
		w.resent = append(w.resent, Span{r.Chain, r.N, r.N})
	}
}

// fail remembers that nothing can be stored now, and has it tried again.
func (w *Writer) fail() {
	w.mu.Lock()
	w.failing = true
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// write makes a block of a group, or of nothing, and stores it; or puts it behind those
// that wait. Whoever waits for the group is told.
func (w *Writer) write(g *group, after *Ref, end bool) {
	if g == nil {
		g = &group{done: make(chan struct{})}
	}
	defer close(g.done)
	w.order.Lock()
	w.mu.Lock()
	failing := w.failing
	w.mu.Unlock()
	if failing {
		defer w.order.Unlock()
		g.err = ErrUnavailable
		if !w.room(len(g.lines) + maxJWT) {
			w.mu.Lock()
			w.drop(g.n)
			w.mu.Unlock()
			return
		}
		b, err := w.seal(g, after, end)
		if err != nil {
			return
		}
		w.hold(b.Data)
		return
	}
	b, err := w.seal(g, after, end)
	w.order.Unlock()
	if err != nil {
		g.err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		return
	}
	// The process may be about to end: what was begun is finished.
	ctx, cancel := context.WithTimeout(context.Background(), storeWait)
	defer cancel()
	began := w.Now()
	if g.err = w.Store.Append(ctx, b); g.err == nil {
		w.took(b.Ref, g.n, began)
		return
	}
	w.Log.Warn("records cannot be stored now; they wait", "required", w.Required(), "error", g.err)
	w.order.Lock()
	defer w.order.Unlock()
	w.hold(b.Data)
	w.fail()
}

// seal makes the chain's next block; order is held.
func (w *Writer) seal(g *group, after *Ref, end bool) (Sealed, error) {
	now := w.Now()
	h := Head{
		Region: w.Region, Writer: w.Writer, Chain: w.chain.Chain, N: w.chain.N + 1, Prev: w.chain.Sum, At: now.UnixMilli(),
		Records: g.n, End: end, After: after, Resent: w.resent,
	}
	w.mu.Lock()
	h.Dropped = w.dropped
	w.mu.Unlock()
	if now.Sub(w.proved) >= HeadEvery {
		token, err := w.JWT()
		if err != nil {
			w.Log.Error("a block of records is without its writer's credential", "error", err)
		}
		h.JWT = token
	}
	b, err := seal(h, g.lines, w.Signer)
	if err != nil {
		w.Log.Error("records cannot be signed", "error", err)
		w.mu.Lock()
		w.drop(g.n)
		w.mu.Unlock()
		return b, err
	}
	w.chain, w.last, w.resent = b.Ref, now, nil
	if h.JWT != "" {
		w.proved = now
	}
	w.mu.Lock()
	w.dropped -= h.Dropped
	w.mu.Unlock()
	return b, nil
}

// took notes that a block is stored.
func (w *Writer) took(r Ref, records int, tried time.Time) {
	w.order.Lock()
	if w.Now().Sub(tried) > remembered {
		w.maybeTwice(r)
	}
	w.order.Unlock()
	w.mu.Lock()
	w.stats.Chain, w.stats.N = r.Chain, r.N
	w.stats.Blocks++
	w.stats.Records += uint64(records) // #nosec G115 -- not negative
	w.mu.Unlock()
}

// room tells whether a block of that size may wait; order is held.
func (w *Writer) room(size int) bool {
	return w.bytes == 0 && w.Buffer != nil && w.Buffer.Room(size) || w.bytes+size <= maxHeld
}

// hold puts a block behind those that wait; order is held.
func (w *Writer) hold(data []byte) {
	defer w.count()
	if w.Buffer != nil && len(w.held) == 0 && w.Buffer.Room(len(data)) {
		err := w.Buffer.Add(data)
		if err == nil {
			return
		}
		w.Log.Error("records that wait cannot be written to the disk; they wait in memory", "error", err)
	}
	w.held = append(w.held, data)
	w.bytes += len(data)
}

// again stores what waits, oldest first, whenever something does.
func (w *Writer) again(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		}
		var first []byte
		var tried time.Time // when the first was tried first
		for ctx.Err() == nil {
			data := w.oldest()
			if data == nil {
				break
			}
			if !bytes.Equal(data, first) {
				first, tried = data, w.Now()
			}
			if err := w.store(data, tried); err == nil {
				continue
			}
			select {
			case <-ctx.Done():
			case <-time.After(storeAgain):
			}
		}
	}
}

// oldest is the block that waits longest. Where none does, whoever comes next is not held
// up any more.
func (w *Writer) oldest() []byte {
	w.order.Lock()
	defer w.order.Unlock()
	defer w.count()
	if w.Buffer != nil && w.Buffer.Len() > 0 {
		data, err := w.Buffer.First()
		if err == nil {
			return data
		}
		w.Log.Error("a block of records that waits cannot be read, and is lost", "error", err)
		if err := w.Buffer.Forget(); err != nil {
			w.Log.Error("blocks of records that wait on the disk are lost", "error", err)
		}
		return []byte{}
	}
	if len(w.held) > 0 {
		return w.held[0]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing {
		w.failing = false
		w.Log.Info("records are stored again")
	}
	return nil
}

// store stores a block that waited, and forgets it.
func (w *Writer) store(data []byte, tried time.Time) error {
	if len(data) == 0 {
		return nil
	}
	// It was written here, or to our own disk, which somebody may have changed.
	b, err := Open(w.Region.String()+"."+w.Writer.String(), string(data))
	if err != nil {
		w.Log.Error("a block of records that waited is not what was written, and is lost", "error", err)
		w.forget()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeWait)
	defer cancel()
	ref := Ref{b.Chain, b.N, b.Sum, b.At}
	if err := w.Store.Append(ctx, Sealed{Ref: ref, At: time.UnixMilli(b.At), Data: data}); err != nil {
		return err
	}
	w.forget()
	w.took(ref, b.Records, tried)
	return nil
}

func (w *Writer) forget() {
	w.order.Lock()
	defer w.order.Unlock()
	defer w.count()
	if w.Buffer != nil && w.Buffer.Len() > 0 {
		if err := w.Buffer.Forget(); err != nil {
			w.Log.Error("a block of records that is stored stays on the disk, and may be stored again", "error", err)
		}
		return
	}
	if len(w.held) > 0 {
		w.bytes -= len(w.held[0])
		w.held = w.held[1:]
	}
}

// remember keeps how far the chain is, so that the next one names it: also what is not stored
// yet, because what is lost on the way is to be missed.
func (w *Writer) remember() {
	w.order.Lock()
	defer w.order.Unlock()
	if w.Buffer == nil || w.chain.N == 0 {
		return
	}
	if last, ok := w.Buffer.Last(); ok && last == w.chain {
		return
	}
	if err := w.Buffer.SetLast(w.chain); err != nil {
		w.Log.Warn("how far the chain of records is cannot be kept on the disk", "error", err)
	}
}
