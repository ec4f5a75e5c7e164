// Package authn says who is asking, from the proof that came with a request.
// What the identity may have is policy's to say.
//
// A way to show who asks is a Method, in a file of its own; authntest holds each to
// what a platform rests on.
package authn

import (
	"context"
	"net/netip"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Evidence is what came with a request whose shape, time and signature by the user key
// have been verified.
type Evidence struct {
	Request wire.Request
	// Body is the request's plain body, byte for byte: what was signed; and Proof the user
	// key's signature of it, as the header Herald-Proof has it.
	Body  []byte
	Proof string
	// Proofs are the values of the header Herald-Identity-Proof.
	Proofs []string
	// Password is the public half of an access key whose secret came with the request, as a
	// password does; zero: none did. Whoever sets it has seen the secret.
	Password ident.UserKey
	// Host is where the request came from, as a server says, or where an issuer says that a
	// server said it; the zero Addr where it is not known.
	Host netip.Addr
	Now  time.Time
}

// Who is what a proof shows.
type Who struct {
	Identity ident.Identity
	// Provider is who vouches for the identity, where somebody else does.
	Provider ident.Label
	// Name is the name that the proof gives; zero: it gives none, and a name may be asked for.
	Name ident.Name
	// Groups and Claims are what the provider says besides: claims as text, each with its
	// values, by name.
	Groups []string
	Claims map[string][]string
	// Granted are the roles that the proof is for, where it is for some only: an access key
	// and an invitation are. Policy may give less, and never more.
	Granted []Granted
	// By is what it was proved by, where that may be replaced: a renewal shows it, and is
	// refused once another is in its place. It is no secret: at most 16 of a-z and 2-7.
	By string
	// Until is when the proof ends; zero: never. No credential of it lives longer.
	Until time.Time
}

// Granted is one role that a proof is for.
type Granted struct {
	Account ident.Label `json:"account"`
	Role    ident.Label `json:"role"`
	Name    ident.Name  `json:"name,omitzero"` // the name that goes with it; zero: any
}

// Method is one way to show who asks. It is safe for concurrent use.
type Method interface {
	// Type is the type of proof that it is for, as in a request's identity.
	Type() string
	// Identify says who asks. An error wraps a *wire.Error, which is all that the caller is
	// told; its own text says why, for the log, and holds no secret. A proof that is not
	// good is wire.BadIdentity or wire.Expired; that it cannot be told now is
	// wire.Unavailable.
	Identify(ctx context.Context, e Evidence) (Who, error)
}
