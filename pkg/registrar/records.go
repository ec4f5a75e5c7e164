package registrar

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ledger"
)

// RecordSource is a region's records, as a registrar reads them.
type RecordSource interface {
	ledger.Source
	// Before gives the position before the first record of a moment or later.
	Before(ctx context.Context, t time.Time) (uint64, error)
}

// Records follows what was issued in every region: it fills Holdings, and tells who
// keeps names of each credential.
type Records struct {
	Holdings *ledger.Holdings
	// Writers is told of each block; may be nil.
	Writers *Writers
	// Issued is told of each record of a credential that is alive; may be nil.
	Issued func(audit.Record)
	Log    *slog.Logger
	Now    func() time.Time

	refused atomic.Uint64
	mu      sync.Mutex
	ended   map[string]time.Time // up to when regions were last read to their end
	nudge   map[string]chan struct{}
	limit   *rate.Limiter
}

// recordsEvery is how often a region is asked for records that no news told of.
const recordsEvery = 2 * time.Second

// recordsPause is how soon it is asked again at most: on a busy region's stream there is
// always news, and each question costs more than what it finds.
const recordsPause = 20 * time.Millisecond

// recordsBatch is how many blocks are asked for at a time.
const recordsBatch = 512

// suspicious is how many times in a row a stream must have less than before until
// that is believed.
const suspicious = 3

func (r *Records) wakeOf(region string) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nudge == nil {
		r.nudge = make(map[string]chan struct{})
		r.limit = rate.NewLimiter(1, 10)
	}
	if r.nudge[region] == nil && len(r.nudge) < 64 {
		r.nudge[region] = make(chan struct{}, 1)
	}
	return r.nudge[region]
}

// News says that a region has new records.
func (r *Records) News(region string) {
	select {
	case r.wakeOf(region) <- struct{}{}:
	default:
	}
}

// Follow reads one region's records until ctx ends: from the oldest that may be about
// a credential that is alive, and then what is new.
func (r *Records) Follow(ctx context.Context, region string, s RecordSource) {
	wake := r.wakeOf(region)
	var (
		at    uint64
		found bool // whether at says anything
		less  int  // how often in a row the stream had less than before
	)
	for {
		if !found {
			var err error
			if at, err = s.Before(ctx, r.Now().Add(-ledger.MaxLife-ledger.MaxAhead)); err != nil {
				if !r.rest(ctx, wake, region, err) {
					return
				}
				continue
			}
			found = true
		}
		from := at
		read := r.Now()
		records, err := s.Read(ctx, from, recordsBatch)
		for _, rec := range records {
			r.take(rec)
			at = max(at, rec.Seq)
		}
		if at > from && err == nil {
			if len(records) < recordsBatch && wait.For(ctx, recordsPause-r.Now().Sub(read)) != nil {
				return
			}
			continue
		}
		if len(records) > 0 && err == nil {
			err = fmt.Errorf("%w: asked for what is after %d, it gives %d", ledger.ErrUnavailable, from, records[0].Seq)
		}
		if err == nil {
			r.atEnd(region, read)
			var last uint64
			switch last, err = s.Last(ctx); {
			case err != nil: // it says nothing of what there is
			case last >= at:
				less = 0
			case less < suspicious-1: // a replica that is a moment behind may have answered
				less++
			default:
				// What is known of holdings stays until it expires.
				r.Log.Error("a stream of records has less than before; it is read again", "region", region, "had", at, "has", last)
				found, less = false, 0
				continue
			}
		}
		if !r.rest(ctx, wake, region, err) {
			return
		}
	}
}

// atEnd notes that all was read that was there when the last reading began.
func (r *Records) atEnd(region string, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended == nil {
		r.ended = make(map[string]time.Time)
	}
	r.ended[region] = began
}

// EndedAt is the moment up to which a region's records were last read to their end; zero: not
// since the start, and until then it is not known who holds what.
func (r *Records) EndedAt(region string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended[region]
}

// rest waits for news or a while; false when ctx ended.
func (r *Records) rest(ctx context.Context, wake <-chan struct{}, region string, err error) bool {
	if err != nil {
		if r.limit.Allow() && ctx.Err() == nil {
			r.Log.Warn("records cannot be read now", "region", region, "error", err)
		}
		return wait.For(ctx, recordsEvery/4) == nil
	}
	t := time.NewTimer(recordsEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return true
}

// Refused is how many records were not believed.
func (r *Records) Refused() uint64 { return r.refused.Load() }

func (r *Records) take(s ledger.Stored) {
	b, err := audit.Open(s.Subject, s.Data)
	if err != nil {
		r.refuse(s.Seq, err)
		return
	}
	now := r.Now()
	if r.Writers != nil {
		r.Writers.Took(b, now)
	}
	for _, rec := range b.Content {
		switch {
		case !rec.Granted(): // nobody has anything by it
		case rec.Life() > ledger.MaxLife:
			r.refuse(s.Seq, fmt.Errorf("a credential that lives %s: %w", rec.Life(), audit.ErrDamaged))
		case rec.Expires <= now.Unix() || rec.Issued > now.Add(ledger.MaxAhead).Unix():
		default:
			r.Holdings.Add(ledger.Credential{Identity: rec.Identity, Account: rec.Account, User: rec.User, Issued: rec.Issued, Expires: rec.Expires, Server: rec.Server, Client: rec.Client}, now)
			if r.Issued != nil {
				r.Issued(rec)
			}
		}
	}
}

// refuse counts what is not believed.
func (r *Records) refuse(seq uint64, err error) {
	r.refused.Add(1)
	if r.limit.Allow() {
		r.Log.Warn("a record is not believed", "seq", seq, "error", err)
	}
}
