package ledger

import (
	"fmt"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// Move is a home that was given up, as the platform document says it: From was gone, and To
// decides since. The operator key's word for the epoch names To, so that no operator signing
// key moves home by itself.
type Move struct {
	Epoch uint32       `json:"epoch"` // the first in which To decides
	From  ident.Region `json:"from"`
	To    ident.Region `json:"to"`
	// Last is the position in home's bucket up to which To has what From had decided. What From's
	// mirror has beyond it was decided by From alone.
	Last uint64 `json:"last"`
	// Of is the rank of the platform document in force then.
	Of  uint64 `json:"of"`
	At  int64  `json:"at"` // seconds since 1970
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
}

// maxMoves bounds how many moves a document tells of: the latest.
const maxMoves = 16

// checkMoves refuses a document that tells of moves that cannot have been.
func (d *Document) checkMoves() error {
	if len(d.Moves) > maxMoves {
		return fmt.Errorf("it tells of %d moves of home", len(d.Moves))
	}
	var epoch uint32 = 1
	for _, m := range d.Moves {
		if m.From.IsZero() || m.To.IsZero() || m.From == m.To || m.Epoch <= epoch || m.Epoch > d.Public.Version.Epoch || len(m.By) > 512 || len(m.Why) > 512 {
			return fmt.Errorf("the move of home to %q is out of shape", m.To)
		}
		epoch = m.Epoch
	}
	if n := len(d.Moves); n > 0 && d.Moves[n-1].To != d.Public.Home {
		return fmt.Errorf("home moved to %s, and is %s", d.Moves[n-1].To, d.Public.Home)
	}
	return nil
}

// Move gives the document by which home is m.To, as the first of the next epoch; proof is the
// operator key's word for that. d is not changed.
func (d *Document) Move(m Move, proof string, now time.Time) (*Document, error) {
	if _, ok := d.Public.Region(m.To); !ok || m.To == d.Public.Home {
		return nil, fmt.Errorf("home cannot move to %q: %w", m.To, ErrNotFound)
	}
	out, public := *d, *d.Public
	out.index = nil
	m.From, m.Epoch, m.At = d.Public.Home, d.Public.Version.Epoch+1, now.Unix()
	public.Home, public.EpochProof = m.To, proof
	public.Version = trust.Version{Epoch: m.Epoch, Number: 1}
	out.Public = &public
	out.Moves = append(slices.Clone(d.Moves[max(0, len(d.Moves)-maxMoves+1):]), m)
	return &out, out.checkMoves()
}

// Epoch is the one in which home decides: that of its last move, 0 if it never moved.
func (d *Document) Epoch() uint32 {
	if len(d.Moves) == 0 {
		return 0
	}
	return d.Moves[len(d.Moves)-1].Epoch
}

// Moved is the last move away from a region; false if home never was there, or is again.
func (d *Document) Moved(from ident.Region) (Move, bool) {
	for _, m := range slices.Backward(d.Moves) {
		if m.From == from {
			return m, d.Public.Home != from
		}
	}
	return Move{}, false
}
