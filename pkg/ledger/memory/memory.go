// Package memory is the ledger's stores in one process's memory, for tests of what is
// built on the ledger. It forgets everything when the process ends.
package memory

import (
	"context"
	"sort"
	"sync"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Interfaces that the types of this package are for.
var (
	_ ledger.DecisionStore = (*Decisions)(nil)
	_ ledger.DenialStore   = (*Denials)(nil)
	_ audit.Store          = (*Blocks)(nil)
	_ ledger.Source        = (*Decisions)(nil)
	_ ledger.Source        = (*Denials)(nil)
	_ ledger.Source        = (*Blocks)(nil)
)

// Decisions implements ledger.DecisionStore, and ledger.Source of what is in it. The
// zero value is empty and ready. An entry's revision is its position.
type Decisions struct{ sequence }

// Get implements ledger.DecisionStore.
func (d *Decisions) Get(ctx context.Context, key ledger.Key) (token string, revision uint64, err error) {
	if ctx.Err() != nil {
		return "", 0, ledger.ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.newest[key.String()]
	if !ok {
		return "", 0, ledger.ErrNotFound
	}
	return s.Data, s.Seq, nil
}

// Put implements ledger.DecisionStore.
func (d *Decisions) Put(ctx context.Context, key ledger.Key, token string, revision uint64) error {
	if ctx.Err() != nil {
		return ledger.ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.newest[key.String()].Seq != revision {
		return ledger.ErrConflict
	}
	d.add(key.String(), token)
	return nil
}

// Denials implements ledger.DenialStore, and ledger.Source of what is in it. The zero
// value is empty and ready.
type Denials struct{ sequence }

// Append implements ledger.DenialStore.
func (d *Denials) Append(ctx context.Context, key ledger.Key, token string) error {
	if ctx.Err() != nil {
		return ledger.ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(key.String(), token)
	return nil
}

// Blocks implements audit.Store for one writer, and ledger.Source of what is in it. It
// keeps every block, and each ID once.
type Blocks struct {
	// Under is "<region>.<writer>".
	Under string
	sequence
	ids map[string]bool
}

// Append implements audit.Store.
func (b *Blocks) Append(ctx context.Context, block audit.Sealed) error {
	if ctx.Err() != nil {
		return audit.ErrUnavailable
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ids[block.ID()] {
		return nil
	}
	if b.ids == nil {
		b.ids, b.keepAll = make(map[string]bool), true
	}
	b.ids[block.ID()] = true
	b.add(b.Under, string(block.Data))
	return nil
}

// sequence is what a stream is: entries in the order in which they were written. An
// entry whose subject got a newer one is gone, unless keepAll is set.
type sequence struct {
	mu      sync.Mutex
	last    uint64
	entries []ledger.Stored          // by position, some of them gone
	newest  map[string]ledger.Stored // of each subject
	keepAll bool
	hints   []chan ledger.Stored
}

// add writes an entry; mu is held.
func (s *sequence) add(subject, data string) {
	if s.newest == nil {
		s.newest = make(map[string]ledger.Stored)
	}
	s.last++
	e := ledger.Stored{Subject: subject, Data: data, Seq: s.last}
	s.newest[subject] = e
	if !s.keepAll && len(s.entries) > 2*len(s.newest)+64 {
		kept := make([]ledger.Stored, 0, len(s.newest)+1)
		for _, e := range s.entries {
			if s.holds(e) {
				kept = append(kept, e)
			}
		}
		s.entries = kept
	}
	s.entries = append(s.entries, e)
	for _, c := range s.hints {
		select {
		case c <- e:
		default:
		}
	}
}

func (s *sequence) holds(e ledger.Stored) bool { return s.keepAll || s.newest[e.Subject].Seq == e.Seq }

// Read implements ledger.Source.
func (s *sequence) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	if ctx.Err() != nil {
		return nil, ledger.ErrUnavailable
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []ledger.Stored
	begin := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].Seq > after })
	for _, e := range s.entries[begin:] {
		if len(found) >= limit {
			break
		}
		if s.holds(e) {
			found = append(found, e)
		}
	}
	return found, nil
}

// Last implements ledger.Source.
func (s *sequence) Last(ctx context.Context) (uint64, error) {
	if ctx.Err() != nil {
		return 0, ledger.ErrUnavailable
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, nil
}

// Hints gives each entry that is written from now on, as a republished subject does:
// one that finds the channel full is lost. The channel is never closed.
func (s *sequence) Hints(size int) <-chan ledger.Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan ledger.Stored, size)
	s.hints = append(s.hints, c)
	return c
}
