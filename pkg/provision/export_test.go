package provision

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ledger"
)

// What tests in other packages' names look at.
const (
	RecordWait  = recordWait
	RecordAgain = recordAgain
	MaxWaiting  = maxWaiting
	HomeWait    = homeWait
	ClaimTries  = claimTries
)

// NewNamesVia asks home by a function instead of over a connection.
func NewNamesVia(home func(ctx context.Context, data []byte) (*nats.Msg, error), p *ledger.Projection, o ledger.Opener) *Names {
	return &Names{home: home, projection: p, opener: o}
}
