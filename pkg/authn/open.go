package authn

import (
	"context"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Open believes whoever holds the user key, and knows nothing more of them. Policy says
// whether that is enough for anything.
type Open struct{}

var _ Renewer = Open{}

// Type implements Method.
func (Open) Type() string { return wire.ProofOpen }

// Kind implements Renewer.
func (Open) Kind() string { return ident.KindOpen }

// Identify implements Method: the signature by the user key is all that there is to prove.
func (Open) Identify(_ context.Context, e Evidence) (Who, error) {
	if e.Request.Identity.Type != wire.ProofOpen || e.Request.UserKey.IsZero() {
		return Who{}, refused(wire.Errorf(wire.BadIdentity, "send a proof of type open", "the request brings no such proof"), "no open identity")
	}
	return Who{Identity: ident.OpenIdentity(e.Request.UserKey)}, nil
}

// Again implements Renewer.
func (Open) Again(_ context.Context, r Renewal) (Who, error) { return Who{Identity: r.Identity}, nil }
