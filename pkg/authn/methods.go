package authn

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Renewal is who asks for a renewal, as the server and the credential say. It brings no
// proof.
type Renewal struct {
	Identity ident.Identity
	User     ident.UserKey
	Host     netip.Addr // as in Evidence
	By       string     // Who.By of the proof
	Now      time.Time
}

// Renewer is a Method whose credentials may be renewed without another proof. Of one that
// is none, a proof is needed each time.
type Renewer interface {
	Method
	// Kind is the kind of identities that it gives.
	Kind() string
	// Again says who an identity is that was proved before, as far as that still holds; the
	// errors are those of Identify. Groups and Claims are not known any more.
	Again(ctx context.Context, r Renewal) (Who, error)
}

// Methods are the ways that a platform knows. They are used by many at once.
type Methods []Method

// Identify says who asks, by the method that the request names. The error wraps a
// *wire.Error.
func (m Methods) Identify(ctx context.Context, e Evidence) (Who, error) {
	for _, method := range m {
		if method.Type() == e.Request.Identity.Type {
			return method.Identify(ctx, e)
		}
	}
	return Who{}, wire.Errorf(wire.BadIdentity, "ask auth.v1.info which ways this platform knows", "identity type %.20q is not known here", e.Request.Identity.Type)
}

// Again says who asks for a renewal, by the method that gave the identity. The error
// wraps a *wire.Error.
func (m Methods) Again(ctx context.Context, r Renewal) (Who, error) {
	for _, method := range m {
		if renewer, ok := method.(Renewer); ok && renewer.Kind() == r.Identity.Kind() {
			return renewer.Again(ctx, r)
		}
	}
	return Who{}, wire.Errorf(wire.BadIdentity, "ask auth.v1.issue with a proof", "credentials of kind %s are not renewed here", r.Identity.Kind())
}

// Host reads a host as servers tell it; the zero Addr where it is none. A zone is
// dropped, and IPv4 within IPv6 is IPv4.
func Host(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.WithZone("").Unmap()
}

// refused is what the caller is told, with why, for the log.
func refused(told *wire.Error, why string, args ...any) error {
	return fmt.Errorf(why+": %w", append(args, told)...)
}
