// Package memory is a ledger in one process's memory, for tests of what is
// built on the ledger. It forgets everything when the process ends.
package memory

import (
	"context"
	"sync"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Names implements ledger.NameStore. The zero value is empty and ready.
type Names struct {
	mu      sync.Mutex
	entries map[ident.Name]record
	last    uint64
}

type record struct {
	entry    string
	revision uint64
}

var _ ledger.NameStore = (*Names)(nil)

// Name implements ledger.NameStore.
func (n *Names) Name(ctx context.Context, name ident.Name) (string, uint64, error) {
	if ctx.Err() != nil {
		return "", 0, ledger.ErrUnavailable
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r, ok := n.entries[name]
	if !ok {
		return "", 0, ledger.ErrNotFound
	}
	return r.entry, r.revision, nil
}

// PutName implements ledger.NameStore.
func (n *Names) PutName(ctx context.Context, name ident.Name, entry string, revision uint64) error {
	if ctx.Err() != nil {
		return ledger.ErrUnavailable
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.entries[name].revision != revision {
		return ledger.ErrConflict
	}
	if n.entries == nil {
		n.entries = make(map[ident.Name]record)
	}
	n.last++
	n.entries[name] = record{entry, n.last}
	return nil
}
