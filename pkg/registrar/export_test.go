package registrar

import (
	"context"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// What tests in other packages' names look at.
const (
	AskEvery   = askEvery
	AdoptAfter = adoptAfter
	MaxPeer    = maxPeer
	MaxRegions = maxRegions
	MaxWait    = maxWait

	RecordsEvery = recordsEvery
	RecordsPause = recordsPause
)

// SetPatience changes how long a resolver waits without any answer.
func (r *Resolver) SetPatience(d time.Duration) { r.patience = d }

// SettleFor is how long Settle waits.
const SettleFor = settle

// Peek reads who says to have signed a token, and when.
func Peek(token []byte) (issuer string, issuedAt int64) {
	p := peek(token)
	return p.Issuer, p.IssuedAt
}

// Stored is what one of some servers says of a push: which one it is (-1: none of them), and
// why it refuses.
func Stored(servers []Server, data []byte) (server int, refusal string) {
	p := &pass{servers: servers, index: map[string]int{}, gone: make([]bool, len(servers))}
	for i, s := range servers {
		p.index[s.ID] = i
	}
	q := &request{it: &item{}, answered: make([]bool, len(servers))}
	p.stored(q, data)
	i := slices.Index(q.answered, true)
	return i, q.it.missing[i]
}

// Step takes a rotation's next step.
func (r *Rotor) Step(ctx context.Context, rot ledger.Rotation) error { return r.step(ctx, rot) }

// Kept is how many chains are known, and how many documents by which a role was issued.
func (w *Writers) Kept(account ident.AccountKey, role ident.Label) (chains, ranks int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.chains), len(w.ends[roleOf{account, role}]) + len(w.lost)
}

// StepSeal is Step for a curve key.
func (r *Rotor) StepSeal(ctx context.Context, rot ledger.SealRotation) error {
	return r.stepSeal(ctx, rot)
}
