// Package policy says what an identity may have. It is pure: who asks and what they wish
// go in, a grant or a refusal comes out; it signs nothing and asks nobody.
package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Shortest is the shortest life of a credential: JWTs count whole seconds.
const Shortest = time.Second

// Root is whom an offer is to that is to everybody.
const Root = "DEFAULT"

// Offer is a role that somebody may have. To whom is one of: an identity, the identities of
// a category, a kind of identities, or everybody (Everyone). What else it asks must hold
// besides.
type Offer struct {
	Kind     string          `json:"kind,omitempty"`     // of identity, such as "open"
	Identity *ident.Identity `json:"identity,omitempty"` // one alone
	Category string          `json:"category,omitempty"` // of identities that have a name in Policy.Identities
	Everyone bool            `json:"everyone,omitempty"` // whoever they are
	// Provider, Groups and Claims are what must hold besides: the provider that vouches, any
	// of the groups, and each of the claims.
	Provider ident.Label `json:"provider,omitzero"`
	Groups   []string    `json:"groups,omitempty"`
	Claims   []Claim     `json:"claims,omitempty"`

	Account ident.Label `json:"account"`
	Role    ident.Label `json:"role"`
	Name    ident.Name  `json:"name,omitzero"`  // the name that goes with it; zero: any
	Default Seconds     `json:"default"`        // the lifetime if none is asked for
	Longest Seconds     `json:"longest"`        // the longest that is given
	Tags    []string    `json:"tags,omitempty"` // what users get beside Herald's own tags
	// Callout tells that it is to those who come by auth callout, and to nobody else.
	Callout bool `json:"callout,omitempty"`
}

// Claim is a condition on one claim of a provider: it must have one of the values. A value
// that ends in * is the beginning of one.
type Claim struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// holds tells whether a claim is met.
func (c Claim) holds(claims map[string][]string) bool {
	return slices.ContainsFunc(claims[c.Name], func(have string) bool {
		return slices.ContainsFunc(c.Values, func(want string) bool {
			if begin, ok := strings.CutSuffix(want, "*"); ok {
				return strings.HasPrefix(have, begin)
			}
			return have == want
		})
	})
}

// Bounds of one offer.
const (
	MaxConditions = 32 // groups, and claims
	MaxAnswers    = 64 // values of one claim
)

// Check refuses an offer of nothing, one that is to nobody or to several at once, and
// lifetimes and conditions out of shape.
func (o Offer) Check() error {
	if o.Account.IsZero() || o.Role.IsZero() {
		return fmt.Errorf("an offer is of no role")
	}
	if o.Default <= 0 || o.Longest < o.Default {
		return fmt.Errorf("lifetimes of role %s/%s are out of order", o.Account, o.Role)
	}
	to := 0
	for _, is := range []bool{o.Kind != "", o.Identity != nil && !o.Identity.IsZero(), o.Category != "", o.Everyone} {
		if is {
			to++
		}
	}
	if to != 1 {
		return fmt.Errorf("an offer of role %s/%s is to nobody, or to several at once", o.Account, o.Role)
	}
	out := len(o.Groups) > MaxConditions || len(o.Claims) > MaxConditions
	for _, g := range o.Groups {
		out = out || g == "" || len(g) > MaxValue
	}
	for _, c := range o.Claims {
		out = out || c.Name == "" || len(c.Name) > MaxValue || len(c.Values) == 0 || len(c.Values) > MaxAnswers ||
			slices.ContainsFunc(c.Values, func(v string) bool { return v == "" || len(v) > MaxValue })
	}
	if out {
		return fmt.Errorf("conditions on role %s/%s are out of shape", o.Account, o.Role)
	}
	return nil
}

// To is whom the offer is to, as platform.yaml has it, without its conditions.
func (o Offer) To() string {
	switch {
	case o.Identity != nil:
		return o.Identity.String()
	case o.Category != "":
		return o.Category + "." + Root
	case o.Everyone:
		return Root
	}
	return o.Kind
}

// Conditions are what must hold besides, as text; none is "".
func (o Offer) Conditions() string {
	var all []string
	if !o.Provider.IsZero() {
		all = append(all, "provider "+o.Provider.String())
	}
	if len(o.Groups) > 0 {
		all = append(all, "in "+strings.Join(o.Groups, " or "))
	}
	for _, c := range o.Claims {
		all = append(all, c.Name+" is "+strings.Join(c.Values, " or "))
	}
	return strings.Join(all, ", ")
}

// String is one line for people.
func (o Offer) String() string {
	s := fmt.Sprintf("%s/%s to %s", o.Account, o.Role, o.To())
	if c := o.Conditions(); c != "" {
		s += " where " + c
	}
	return s
}

// Sum names what an offer asks of groups and claims; it is empty where it asks nothing of
// them. A credential carries it, so that its renewal shows that the same was asked for and
// met when its holder was proved: a renewal brings no token.
func (o Offer) Sum() string {
	if len(o.Groups) == 0 && len(o.Claims) == 0 {
		return ""
	}
	data, err := json.Marshal(struct {
		Provider ident.Label
		Groups   []string
		Claims   []Claim
	}{o.Provider, o.Groups, o.Claims})
	if err != nil {
		return "none" // labels and texts are always JSON
	}
	sum := sha256.Sum256(append([]byte("herald/v1/met\n"), data...))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:16])
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
	// Identities are the names by which identities are in categories: services.billing is in
	// services.
	Identities []Named `json:"identities,omitempty"`
	// Session is how long credentials may be renewed from when their holder was proved; then
	// a proof is needed again. Zero: DefaultSession.
	Session Seconds `json:"session,omitzero"`
	// PerHost and PerIdentity bound how much one source may ask of one issuer; nil: as
	// DefaultPerHost and DefaultPerIdentity.
	PerHost     *Rate `json:"per_host,omitempty"`
	PerIdentity *Rate `json:"per_identity,omitempty"`
}

// Rate is how many requests there may be at once, and how many a minute after that.
type Rate struct {
	Burst     int `json:"burst"`
	PerMinute int `json:"per_minute"`
}

// DefaultPerHost lets a conference in that comes from one address, and a building that
// reconnects; DefaultPerIdentity a program with many replicas.
func DefaultPerHost() Rate { return Rate{Burst: 5000, PerMinute: 6000} }

// DefaultPerIdentity is how much one identity may ask.
func DefaultPerIdentity() Rate { return Rate{Burst: 1000, PerMinute: 1200} }

// Host is how much may be asked from one host.
func (p Policy) Host() Rate { return orElse(p.PerHost, DefaultPerHost()) }

// Each is how much one identity may ask.
func (p Policy) Each() Rate { return orElse(p.PerIdentity, DefaultPerIdentity()) }

func orElse(r *Rate, otherwise Rate) Rate {
	if r == nil || r.Burst < 1 || r.PerMinute < 1 {
		return otherwise
	}
	return *r
}

// DefaultSession is how long credentials are renewed without another proof.
const DefaultSession = 12 * time.Hour

// LongestSession is how long credentials may be renewed without another proof.
func (p Policy) LongestSession() time.Duration {
	if p.Session == 0 {
		return DefaultSession
	}
	return p.Session.Duration()
}

// Named is an identity and its name.
type Named struct {
	Name     ident.Name     `json:"name"`
	Identity ident.Identity `json:"identity"`
}

// Check refuses offers out of shape, and identities without a name or names without one.
func (p Policy) Check() error {
	for _, o := range p.Offers {
		if err := o.Check(); err != nil {
			return err
		}
	}
	for _, n := range p.Identities {
		if n.Name.IsZero() || n.Identity.IsZero() {
			return fmt.Errorf("the identity %q is called %q", n.Identity, n.Name)
		}
	}
	return nil
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
	// Callout tells that who asks comes by auth callout.
	Callout bool
}

// Grant is what an identity gets.
type Grant struct {
	Identity ident.Identity
	Account  ident.Label
	Role     ident.Label
	Name     ident.Name
	TTL      time.Duration
	Tags     []string
	// Met is the offer's sum, where it asks something of groups or claims; By is the proof's.
	Met, By string
	// Chosen tells that nothing gave the name but the wish for it.
	Chosen bool
	// Line is the offer that decided: its place in Policy.Offers.
	Line int
}

// Asker is who asks: what a proof shows, or what a credential says of an earlier one.
type Asker struct {
	authn.Who
	// Met is the sum of the offer whose conditions on groups and claims an earlier proof met.
	Met string
}

// Line is how one offer was looked at.
type Line struct {
	Index int    // in Policy.Offers
	Offer Offer  // what it says
	Why   string // why it is not the one that decided; empty: it is
}

// Explanation is how a decision came about.
type Explanation struct {
	// Lines are the offers to the identity that were looked at, in that order: the more
	// particular first. The last one decided, if one did.
	Lines []Line
	Grant Grant
	Err   *wire.Error // nil: it is granted
}

// asks says what of the offer's conditions does not hold; "" if all do. sum is o.Sum().
func (o *Offer) asks(a Asker, sum string) string {
	if !o.Provider.IsZero() && o.Provider != a.Provider {
		return "another provider vouches"
	}
	if sum != "" && sum != a.Met {
		if len(o.Groups) > 0 && !slices.ContainsFunc(o.Groups, func(g string) bool { return slices.Contains(a.Groups, g) }) {
			return "not in " + strings.Join(o.Groups, " or ")
		}
		for _, c := range o.Claims {
			if !c.holds(a.Claims) {
				return "claim " + c.Name + " is not " + strings.Join(c.Values, " or ")
			}
		}
	}
	// What an access key or an invitation is for bounds what is given to its kind, not what
	// is given to it by name.
	if a.Granted != nil && o.Identity == nil && !slices.ContainsFunc(a.Granted, o.is) {
		return "the proof is not for this role"
	}
	return ""
}

// is tells whether a proof is for the offer's role.
func (o *Offer) is(g authn.Granted) bool { return g.Account == o.Account && g.Role == o.Role }

// refuses says why the offer is not what is wished; "" if it is.
func (o *Offer) refuses(w Wish) string {
	switch {
	case !w.Account.IsZero() && w.Account != o.Account:
		return "another account is asked for"
	case !w.Role.IsZero() && w.Role != o.Role:
		return "another role is asked for"
	case o.Callout && !w.Callout:
		return "it is for who comes by auth callout"
	case !o.Callout && w.Callout:
		return "it is not for who comes by auth callout"
	}
	return ""
}

// grant is what the offer gives to who may have it.
func (o *Offer) grant(a Asker, w Wish, sum string, now time.Time) (Grant, *wire.Error) {
	name, chosen, err := o.name(a, w)
	if err != nil {
		return Grant{}, err
	}
	ttl := o.Default.Duration()
	if w.TTL != 0 {
		ttl = w.TTL
	}
	ttl = min(max(ttl, Shortest), o.Longest.Duration())
	if !a.Until.IsZero() {
		// What a proof gives ends with it.
		if left := a.Until.Sub(now); left < Shortest {
			return Grant{}, wire.Errorf(wire.Expired, "ask for a new one", "what shows who you are has ended")
		} else if left < ttl {
			ttl = left
		}
	}
	return Grant{
		Identity: a.Identity, Account: o.Account, Role: o.Role, Name: name, Chosen: chosen, TTL: ttl, Met: sum, By: a.By,
		Tags: append(o.ownTags(a, sum), o.Tags...),
	}, nil
}

// name is the name that goes with the offer or with the proof, or else the one that is
// asked for: then it is chosen.
func (o *Offer) name(a Asker, w Wish) (name ident.Name, chosen bool, _ *wire.Error) {
	name = o.Name
	if name.IsZero() {
		name = o.granted(a.Granted, w.Name)
	}
	if name.IsZero() {
		name = a.Name
	}
	switch {
	case name.IsZero() && w.Name.IsZero():
		return name, false, wire.Errorf(wire.BadName, "ask with a name, such as alice", "who you are brings no name of its own")
	case name.IsZero():
		return w.Name, true, nil
	case !w.Name.IsZero() && w.Name != name:
		return name, false, wire.Errorf(wire.BadName, "ask without a name", "your name here is %s, and no other", name)
	}
	return name, false, nil
}

// granted is the name that goes with what a proof is for. It may be for the role several
// times: then it is the name that is asked for, if one of them gives it or any.
func (o *Offer) granted(all []authn.Granted, wish ident.Name) ident.Name {
	var first ident.Name
	for _, g := range all {
		switch {
		case !o.is(g):
		case g.Name == wish, g.Name.IsZero():
			return g.Name
		case first.IsZero():
			first = g.Name
		}
	}
	return first
}

// ownTags are the tags by which services know an identity again; see trust.User.
func (o *Offer) ownTags(a Asker, met string) []string {
	id := a.Identity
	tags := []string{"identity:" + id.Kind()}
	switch {
	case o.Callout: // templates put it into a subject, the inbox
		tags = append(tags, "kid:"+id.Tag())
	case id.Kind() == ident.KindKey:
		tags = append(tags, "kid:"+strings.TrimPrefix(id.String(), ident.KindKey+":"))
	}
	if id.Kind() == ident.KindOIDC {
		tags = append(tags, id.String())
	}
	if met != "" {
		tags = append(tags, "met:"+met)
	}
	if a.By != "" {
		tags = append(tags, "by:"+a.By)
	}
	return tags
}
