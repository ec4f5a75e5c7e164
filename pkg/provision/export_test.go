package provision

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/endpoint"
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

// Outcomes are how requests are counted.
func Outcomes() []string {
	var all []string
	for _, o := range outcomeNames() {
		all = append(all, string(o))
	}
	return all
}

// Observe is a histogram of one duration.
func Observe(d time.Duration) StepTimes {
	var h histogram
	h.observe(d)
	return h.read(DoorIssue, stepSign)
}

// MeasuredHandler measures a handler as that of issue, and AllSteps what one does.
func (s *Service) MeasuredHandler(h endpoint.Handler) endpoint.Handler {
	return s.measured(DoorIssue, h)
}

// AllSteps has all steps of a request done at once.
func AllSteps(ctx context.Context) {
	m := measuring(ctx)
	m.by("open")
	for st := stepRead; st < steps; st++ {
		m.did(st)
	}
}
