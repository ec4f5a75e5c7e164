package provision

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Recorder writes records of issuance, so that registrars know which users an
// identity holds. It waits for each record to be stored, but not for long: where the
// stream cannot be written to, records wait in memory, in their order and up to a
// bound, and credentials are issued all the same.
type Recorder struct {
	store ledger.RecordStore
	log   *slog.Logger

	mu      sync.Mutex
	waiting []ledger.Record
	dropped uint64
	down    bool // the last try failed: nobody waits until one succeeds
	wake    chan struct{}
}

const (
	// recordWait is how long a request waits for its record to be stored. It takes
	// about a millisecond.
	recordWait = 500 * time.Millisecond
	// maxWaiting bounds the records that wait, at some 500 bytes each.
	maxWaiting = 20_000
	// recordAgain is the pause between tries while the stream cannot be written to.
	recordAgain = 500 * time.Millisecond
)

// NewRecorder makes a recorder; Run has to run for records that wait to be written.
func NewRecorder(s ledger.RecordStore, log *slog.Logger) *Recorder {
	return &Recorder{store: s, log: log, wake: make(chan struct{}, 1)}
}

// Record stores a record, or keeps it until it can be stored.
func (r *Recorder) Record(ctx context.Context, rec ledger.Record) {
	r.mu.Lock()
	down := r.down || len(r.waiting) > 0
	r.mu.Unlock()
	if !down {
		wctx, cancel := context.WithTimeout(ctx, recordWait)
		err := r.store.Append(wctx, rec)
		cancel()
		if err == nil || r.spoilt(rec, err) {
			return
		}
		r.log.Warn("records cannot be written now; they wait in memory", "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
	if len(r.waiting) >= maxWaiting {
		r.waiting = r.waiting[1:]
		r.dropped++
	}
	r.waiting = append(r.waiting, rec)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes what waits until ctx ends, and then tries once more.
func (r *Recorder) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWait)
			defer cancel()
			if !r.flush(last) {
				waiting, _ := r.Waiting()
				r.log.Error("records are lost: they could not be written until the end", "records", waiting)
			}
			return
		case <-r.wake:
		}
		for ctx.Err() == nil && !r.flush(ctx) {
			_ = wait.For(ctx, recordAgain) // its end is looked at above
		}
	}
}

// flush writes what waits, oldest first, and tells whether nothing is left.
func (r *Recorder) flush(ctx context.Context) bool {
	for {
		r.mu.Lock()
		if len(r.waiting) == 0 {
			r.down = false
			r.mu.Unlock()
			return true
		}
		rec := r.waiting[0]
		r.mu.Unlock()
		wctx, cancel := context.WithTimeout(ctx, recordWait)
		err := r.store.Append(wctx, rec)
		cancel()
		if err != nil && !r.spoilt(rec, err) {
			return false
		}
		r.mu.Lock()
		// The bound may have dropped it meanwhile.
		if len(r.waiting) > 0 && r.waiting[0] == rec {
			r.waiting = r.waiting[1:]
		}
		r.mu.Unlock()
	}
}

// spoilt tells whether a record can never be written, and says so: it must not keep
// those behind it waiting for ever.
func (r *Recorder) spoilt(rec ledger.Record, err error) bool {
	if !errors.Is(err, ledger.ErrDamaged) {
		return false
	}
	r.log.Error("a record cannot be written and is dropped", "id", rec.ID, "request", rec.Request, "user", rec.User.String(), "error", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped++
	return true
}

// Waiting is how many records wait to be written, and how many were dropped because
// too many did, or could not be written at all.
func (r *Recorder) Waiting() (waiting int, dropped uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting), r.dropped
}
