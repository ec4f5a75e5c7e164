// Package authn says who is asking, from the proof that came with a request.
// What the identity may have is policy's to say.
package authn

import (
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

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
