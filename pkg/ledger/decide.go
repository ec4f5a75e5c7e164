package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/herald-nats/herald/internal/wait"
)

// Decider decides in home: it reads what the store has, applies a rule, and writes
// the outcome by compare-and-set. All of its methods may be repeated: what was
// decided before is found and answered again. Any number of deciders may work on
// one store.
type Decider struct {
	Store  DecisionStore
	Opener Opener
	Signer Signer
	Rules  NameRules
	// Known tells which version of an entry was seen before, 0 for none; nil knows
	// nothing. A store that has less than that has lost something (a stream was
	// deleted, or restored from an old copy): nothing is decided upon it, or a name
	// would be given twice.
	Known func(Key) uint64
	// Epoch is that of the platform document by which is decided; 0: the first. What is decided
	// in it beats all that was decided in one before, whenever that is heard of: a home that was
	// given up may have gone on deciding by itself.
	Epoch uint32
	// Recall gives what is known of a key. What was seen in an earlier epoch, and went with the
	// home that decided it, goes on being so. nil knows nothing.
	Recall func(Key) (Entry, bool)
	// Decided is told of each entry that was stored, before it is answered; may be nil.
	// What was decided is known to who decided it, whatever becomes of the store.
	Decided func(Entry)
}

// Floor is the greatest version that anything can have that was decided before an epoch.
func Floor(epoch uint32) uint64 { return uint64(max(epoch, 1)-1) << 32 }

// tries bounds how often a decision is taken again because another writer was
// faster. Each loser has seen a winner, so more in a row than there are writers is
// no conflict but a fault.
const tries = 8

// decide applies rule to what the store has of a key until the outcome is stored.
// The rule gets nil if there is no entry; it gives nil if nothing is to be changed,
// and then the entry that it was given is the answer.
func (d *Decider) decide(ctx context.Context, key Key, rule func(cur *Entry) (*draft, error)) (Entry, error) {
	for try := range tries {
		f, err := d.find(ctx, key)
		if errors.Is(err, ErrLost) && try+1 < tries {
			// A leader that was just elected may be a moment behind what was seen.
			if err := wait.For(ctx, 10*time.Millisecond<<try); err != nil {
				return Entry{}, fmt.Errorf("deciding %s: %w: %w", key, ErrUnavailable, err)
			}
			continue
		}
		if err != nil {
			return Entry{}, err
		}
		next, err := rule(f.cur)
		if err != nil {
			return Entry{}, err
		}
		if next == nil && !f.recalled {
			return *f.cur, nil
		}
		e, err := d.sign(key, f, next)
		if err != nil {
			return Entry{}, fmt.Errorf("deciding %s: %w", key, err)
		}
		switch err = d.Store.Put(ctx, key, e.Token, f.revision); {
		case err == nil:
			if d.Decided != nil {
				d.Decided(e)
			}
			return e, nil
		case !errors.Is(err, ErrConflict):
			return Entry{}, fmt.Errorf("deciding %s: %w", key, err)
		}
		if err := wait.For(ctx, 10*time.Millisecond<<try); err != nil {
			return Entry{}, fmt.Errorf("deciding %s: %w: %w", key, ErrUnavailable, err)
		}
	}
	return Entry{}, fmt.Errorf("deciding %s: %w", key, ErrConflict)
}

// sign makes the entry of a decision; of none, that of what was recalled.
func (d *Decider) sign(key Key, f found, next *draft) (Entry, error) {
	var token string
	switch {
	case next == nil && f.cur.Token != "":
		token = f.cur.Token // as it was signed
	case next == nil:
		next = &draft{at: f.cur.At, denies: f.cur.Denies, body: f.cur.Body}
		fallthrough
	default:
		next.key = key
		if f.cur != nil {
			// After what is stored, also where a clock went back: versions decide.
			next.version = f.cur.Version
		}
		if key.Kind() != KindBase { // whose version is that of the JWT in it
			next.version = max(next.version, Floor(d.Epoch))
		}
		next.version++
		var err error
		if token, err = next.sign(d.Signer); err != nil {
			return Entry{}, err
		}
	}
	e, err := d.Opener.Open(key.s, token)
	if err != nil {
		return Entry{}, fmt.Errorf("what was signed is not believed: %w", err)
	}
	return e, nil
}

// found is what there is of a key.
type found struct {
	cur      *Entry // nil: nothing
	revision uint64
	recalled bool // it is known, and the store does not have it
}

// get gives the entry of a key as the store's leader has it, nil if there is none.
// An entry that is not believed is an error, beside its revision: it is neither
// obeyed nor overwritten by a rule. ErrDamaged, ErrLost, ErrUnavailable.
func (d *Decider) get(ctx context.Context, key Key) (cur *Entry, revision uint64, err error) {
	f, err := d.find(ctx, key)
	return f.cur, f.revision, err
}

func (d *Decider) find(ctx context.Context, key Key) (found, error) {
	token, revision, err := d.Store.Get(ctx, key)
	f := found{revision: revision}
	switch {
	case err == nil:
		e, err := d.Opener.Open(key.s, token)
		if err != nil {
			return f, err
		}
		f.cur = &e
	case !errors.Is(err, ErrNotFound):
		return found{}, fmt.Errorf("looking up %s: %w", key, err)
	}
	if d.Known == nil {
		return f, nil
	}
	var have uint64
	if f.cur != nil {
		have = f.cur.Version
	}
	known := d.Known(key)
	if known <= have {
		return f, nil
	}
	if known <= Floor(d.Epoch) && d.Recall != nil {
		if e, ok := d.Recall(key); ok && e.Version > have {
			f.cur, f.recalled = &e, true
			return f, nil
		}
	}
	return f, fmt.Errorf("%s is at version %d and was seen at %d: %w", key, have, known, ErrLost)
}
