package provision

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
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

// Remembered is a user JWT as the service remembers it, and as it is read.
func (s *Service) Remembered(token string, now time.Time) (known, read trust.User, err error) {
	t := s.terms.Load()
	if known, err = t.users.Verify(token, now); err != nil {
		return known, read, err
	}
	read, err = t.document.Public.VerifyUser(token, now)
	return known, read, err
}
