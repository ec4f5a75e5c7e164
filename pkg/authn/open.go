package authn

import (
	"context"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Open believes whoever holds the user key, and knows nothing more of them. Policy says
// whether that is enough for anything.
type Open struct{}

var _ Method = Open{}

// Type implements Method.
func (Open) Type() string { return wire.ProofOpen }

// Identify implements Method: the signature by the user key is all that there is to prove.
func (Open) Identify(_ context.Context, e Evidence) (Who, error) {
	return Who{Identity: ident.OpenIdentity(e.Request.UserKey)}, nil
}

// Identify checks the proof of a request whose signature by the user key has
// been verified, and gives the identity that it proves.
func Identify(r wire.Request) (ident.Identity, *wire.Error) {
	switch r.Identity.Type {
	case wire.ProofOpen:
		// The signature by the user key is all that there is to prove.
		return ident.OpenIdentity(r.UserKey), nil
	default:
		return ident.Identity{}, wire.Errorf(wire.BadIdentity, "ask auth.v1.info which ways this platform knows", "identity type %.20q is not known here", r.Identity.Type)
	}
}
