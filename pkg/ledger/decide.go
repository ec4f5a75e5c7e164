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
	// Decided is told of each entry that was stored, before it is answered; may be nil.
	// What was decided is known to who decided it, whatever becomes of the store.
	Decided func(Entry)
}

// tries bounds how often a decision is taken again because another writer was
// faster. Each loser has seen a winner, so more in a row than there are writers is
// no conflict but a fault.
const tries = 8

// decide applies rule to what the store has of a key until the outcome is stored.
// The rule gets nil if there is no entry; it gives nil if nothing is to be changed,
// and then the entry that it was given is the answer.
func (d *Decider) decide(ctx context.Context, key Key, rule func(cur *Entry) (*draft, error)) (Entry, error) {
	for try := range tries {
		cur, revision, err := d.get(ctx, key)
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
		next, err := rule(cur)
		if err != nil {
			return Entry{}, err
		}
		if next == nil {
			return *cur, nil
		}
		next.key = key
		if cur != nil {
			// After what is stored, also where a clock went back: versions decide.
			next.version = cur.Version + 1
		} else {
			next.version = 1
		}
		token, err := next.sign(d.Signer)
		if err != nil {
			return Entry{}, fmt.Errorf("deciding %s: %w", key, err)
		}
		e, err := d.Opener.Open(key.s, token)
		if err != nil {
			return Entry{}, fmt.Errorf("deciding %s: what was signed is not believed: %w", key, err)
		}
		switch err = d.Store.Put(ctx, key, token, revision); {
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

// get gives the entry of a key as the store's leader has it, nil if there is none.
// An entry that is not believed is an error, beside its revision: it is neither
// obeyed nor overwritten by a rule. ErrDamaged, ErrLost, ErrUnavailable.
func (d *Decider) get(ctx context.Context, key Key) (cur *Entry, revision uint64, err error) {
	token, revision, err := d.Store.Get(ctx, key)
	switch {
	case err == nil:
		e, err := d.Opener.Open(key.s, token)
		if err != nil {
			return nil, revision, err
		}
		cur = &e
	case !errors.Is(err, ErrNotFound):
		return nil, 0, fmt.Errorf("looking up %s: %w", key, err)
	}
	if d.Known != nil {
		var have uint64
		if cur != nil {
			have = cur.Version
		}
		if known := d.Known(key); known > have {
			return cur, revision, fmt.Errorf("%s is at version %d and was seen at %d: %w", key, have, known, ErrLost)
		}
	}
	return cur, revision, nil
}
