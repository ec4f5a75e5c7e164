// Package policy says what an identity may have. It is pure: an identity and a
// wish go in, a grant or a refusal comes out; it signs nothing and asks nobody.
package policy

import (
	"fmt"
	"strconv"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Shortest is the shortest life of a credential: JWTs count whole seconds.
const Shortest = time.Second

// Offer is a role that one identity, or a kind of identity, may have.
type Offer struct {
	Kind     string          `json:"kind,omitempty"`     // of identity, such as "open"
	Identity *ident.Identity `json:"identity,omitempty"` // one alone, instead of a kind
	Account  ident.Label     `json:"account"`
	Role     ident.Label     `json:"role"`
	Default  Seconds         `json:"default"`        // the lifetime if none is asked for
	Longest  Seconds         `json:"longest"`        // the longest that is given
	Tags     []string        `json:"tags,omitempty"` // what users get beside Herald's own tags
}

// To is whom the offer is for, as text.
func (o Offer) To() string {
	if o.Identity != nil {
		return o.Identity.String()
	}
	return o.Kind
}

// fits tells whether the offer is for an identity.
func (o Offer) fits(id ident.Identity) bool {
	if o.Identity != nil {
		return *o.Identity == id
	}
	return o.Kind != "" && o.Kind == id.Kind()
}

// Seconds is a duration that is written in JSON as a whole number of seconds.
type Seconds time.Duration

// Duration is the same as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(s) }

// MarshalJSON implements json.Marshaler.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(nil, int64(time.Duration(s)/time.Second), 10), nil
}

// UnmarshalJSON implements json.Unmarshaler. A duration is positive and shorter than
// a hundred years.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || n < 1 || n > 100*365*24*3600 {
		return fmt.Errorf("%.20q is not a number of seconds", b)
	}
	*s = Seconds(time.Duration(n) * time.Second)
	return nil
}

// Policy is the list of offers; what is on none of them is refused.
type Policy struct {
	Offers []Offer `json:"offers"`
}

// Longest is the longest life of any credential that this policy gives.
func (p Policy) Longest() time.Duration {
	var d time.Duration
	for _, o := range p.Offers {
		d = max(d, o.Longest.Duration())
	}
	return d
}

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

// Decide gives the first offer that fits the wish; offers for the identity itself come
// before those for its kind. A lifetime beyond the longest is cut to it: the answer says
// when it ends.
func (p Policy) Decide(id ident.Identity, w Wish) (Grant, *wire.Error) {
	if w.Name.IsZero() {
		return Grant{}, wire.Errorf(wire.BadName, "ask with a name, such as alice", "an open identity brings no name of its own")
	}
	offered := false
	for _, particular := range []bool{true, false} {
		for _, o := range p.Offers {
			if (o.Identity != nil) != particular || !o.fits(id) {
				continue
			}
			offered = true
			if (w.Account.IsZero() || w.Account == o.Account) && (w.Role.IsZero() || w.Role == o.Role) {
				return o.grant(id, w), nil
			}
		}
	}
	if !offered {
		return Grant{}, wire.Errorf(wire.NoGrant, "ask the platform's operator for a grant", "nothing is granted to identities of kind %s", id.Kind())
	}
	return Grant{}, wire.Errorf(wire.RoleNotGranted, "leave out account and role to get what is granted", "that account and role are not granted to you")
}

// grant is what the offer gives to who may have it.
func (o Offer) grant(id ident.Identity, w Wish) Grant {
	ttl := o.Default.Duration()
	if w.TTL != 0 {
		ttl = w.TTL
	}
	return Grant{
		Identity: id, Account: o.Account, Role: o.Role, Name: w.Name,
		TTL:  min(max(ttl, Shortest), o.Longest.Duration()),
		Tags: append([]string{"identity:" + id.Kind()}, o.Tags...),
	}
}
