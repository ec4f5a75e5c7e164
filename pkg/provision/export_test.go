package provision

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ledger"
)

// What tests in other packages' names look at.
const (
	HomeWait   = homeWait
	ClaimTries = claimTries
)

// NewHomeVia asks home by a function instead of over a connection.
func NewHomeVia(home func(ctx context.Context, subj string, data []byte) (*nats.Msg, error), p *ledger.Projection, o ledger.Opener) *Home {
	return &Home{home: home, projection: p, opener: o, asking: make(chan struct{}, maxAsking)}
}
