// Package ledger is what the platform knows and by which rules it decides: in
// this version, whose a name is. The rules are pure functions; the stores
// behind them are in memory/ and jetstream/, and ledgertest/ holds both to one
// behaviour. It connects to nothing.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// Errors that the stores and the rules give.
var (
	// ErrNotFound: the name has no entry.
	ErrNotFound = errors.New("no such name")
	// ErrConflict: somebody wrote the entry since it was read; read and decide again.
	ErrConflict = errors.New("changed by another writer")
	// ErrTaken: another identity has the name.
	ErrTaken = errors.New("the name is another identity's")
	// ErrUnavailable: the store cannot be reached or has no quorum. Whether a
	// write was stored is then unknown; claims are idempotent, so ask again.
	ErrUnavailable = errors.New("the ledger cannot be reached")
)

// NameStore keeps one signed entry (trust.NameEntry as a JWT) for each name.
// It believes nothing and verifies nothing: who reads an entry verifies it.
// Implementations are safe for concurrent use by any number of processes.
type NameStore interface {
	// Name gives the entry and its revision as one replica has it, which may
	// be a moment behind the last write; PutName's comparison is what decides.
	// ErrNotFound, ErrUnavailable.
	Name(ctx context.Context, name ident.Name) (entry string, revision uint64, err error)
	// PutName writes the entry if its revision is still the given one, 0 being
	// that there is none. When it returns nil, a quorum has the entry on disk.
	// ErrConflict if it has changed, ErrUnavailable.
	PutName(ctx context.Context, name ident.Name, entry string, revision uint64) error
}

// Sign signs a decision as this platform's registrar.
type Sign func(trust.NameEntry) (string, error)

// ClaimName gives name to id unless it is another's. Of two that claim at the
// same moment one gets it, by compare-and-set. Claiming what one has is no
// change and answers the entry that is there, so a repeated request is safe.
func ClaimName(ctx context.Context, s NameStore, op *trust.Operator, sign Sign, name ident.Name, id ident.Identity, nonce string, now time.Time) (string, error) {
	// A conflict means that another writer decided. What it decided is found
	// at the next look, or at the one after it where the replica that answers
	// is behind; more in a row than that takes is no conflict but a fault.
	for try := range 6 {
		token, _, err := s.Name(ctx, name)
		switch {
		case err == nil:
			held, err := op.OpenName(name, token)
			if err != nil {
				return "", fmt.Errorf("the entry of %s: %w", name, err)
			}
			if held.Identity != id {
				return "", ErrTaken
			}
			return token, nil
		case !errors.Is(err, ErrNotFound):
			return "", fmt.Errorf("looking up %s: %w", name, err)
		}
		entry, err := sign(trust.NameEntry{Name: name, Identity: id, Claimed: now.Unix(), Nonce: nonce})
		if err != nil {
			return "", fmt.Errorf("signing the entry of %s: %w", name, err)
		}
		err = s.PutName(ctx, name, entry, 0)
		if errors.Is(err, ErrConflict) {
			if err := wait.For(ctx, 10*time.Millisecond<<try); err != nil {
				return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			continue
		}
		if err != nil {
			return "", fmt.Errorf("claiming %s: %w", name, err)
		}
		return entry, nil
	}
	return "", fmt.Errorf("claiming %s: %w", name, ErrConflict)
}
