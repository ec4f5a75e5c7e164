// Package policy says what an identity may have. It is pure: an identity and a
// wish go in, a grant or a refusal comes out; it signs nothing and asks nobody.
package policy

import (
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Shortest is the shortest life of a credential: JWTs count whole seconds.
const Shortest = time.Second

// Offer is a role that a kind of identity may have.
type Offer struct {
	Kind    string // of identity, such as "open"
	Account ident.Label
	Role    ident.Label
	Default time.Duration // the lifetime if none is asked for
	Longest time.Duration // the longest that is given
}

// Policy is the list of offers; what is on none of them is refused.
type Policy struct{ Offers []Offer }

// Wish is what somebody asks for; zero fields leave the choice to policy.
type Wish struct {
	Account ident.Label
	Role    ident.Label
	Name    ident.Name
	TTL     time.Duration
}

// Grant is what an identity gets.
type Grant struct {
	Identity ident.Identity
	Account  ident.Label
	Role     ident.Label
	Name     ident.Name
	TTL      time.Duration
	Tags     []string
}

// Decide gives the first offer that fits the wish. A lifetime beyond the
// longest is cut to it: the answer says when it ends.
func (p Policy) Decide(id ident.Identity, w Wish) (Grant, *wire.Error) {
	if w.Name.IsZero() {
		return Grant{}, wire.Errorf(wire.BadName, "ask with a name, such as alice", "an open identity brings no name of its own")
	}
	offered := false
	for _, o := range p.Offers {
		if o.Kind != id.Kind() {
			continue
		}
		offered = true
		if (!w.Account.IsZero() && w.Account != o.Account) || (!w.Role.IsZero() && w.Role != o.Role) {
			continue
		}
		ttl := o.Default
		if w.TTL != 0 {
			ttl = w.TTL
		}
		ttl = min(max(ttl, Shortest), o.Longest)
		return Grant{
			Identity: id, Account: o.Account, Role: o.Role, Name: w.Name, TTL: ttl,
			Tags: []string{"identity:" + id.Kind()},
		}, nil
	}
	if !offered {
		return Grant{}, wire.Errorf(wire.NoGrant, "ask the platform's operator for a grant", "nothing is granted to identities of kind %s", id.Kind())
	}
	return Grant{}, wire.Errorf(wire.RoleNotGranted, "leave out account and role to get what is granted", "that account and role are not granted to you")
}
