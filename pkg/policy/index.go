package policy

import (
	"cmp"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Index is a policy made ready to decide by: what it costs to decide does not grow with
// offers to others. It is immutable.
type Index struct {
	policy     Policy
	sums       []string // of policy.Offers
	names      map[ident.Identity]string
	identities map[ident.Identity][]int // places in policy.Offers, the more particular first
	categories map[string][]int
	kinds      map[string][]int
	everyone   []int
}

// NewIndex makes a policy ready; it must not be changed afterwards.
func NewIndex(p Policy) *Index {
	x := &Index{
		policy: p, names: make(map[ident.Identity]string, len(p.Identities)), identities: map[ident.Identity][]int{},
		categories: map[string][]int{}, kinds: map[string][]int{},
	}
	for _, n := range p.Identities {
		x.names[n.Identity] = n.Name.String()
	}
	for i := range p.Offers {
		x.sums = append(x.sums, p.Offers[i].Sum())
		switch o := &p.Offers[i]; {
		case o.Identity != nil:
			x.identities[*o.Identity] = append(x.identities[*o.Identity], i)
		case o.Category != "":
			x.categories[o.Category] = append(x.categories[o.Category], i)
		case o.Everyone:
			x.everyone = append(x.everyone, i)
		case o.Kind != "":
			x.kinds[o.Kind] = append(x.kinds[o.Kind], i)
		}
	}
	for _, lists := range []map[string][]int{x.categories, x.kinds, {"": x.everyone}} {
		for _, list := range lists {
			x.sort(list)
		}
	}
	for _, list := range x.identities {
		x.sort(list)
	}
	return x
}

// sort puts what asks for more first.
func (x *Index) sort(list []int) {
	if len(list) < 2 {
		return
	}
	ranks := make(map[int]rank, len(list))
	for _, i := range list {
		ranks[i] = x.policy.Offers[i].rank()
	}
	slices.SortStableFunc(list, func(a, b int) int { return ranks[a].compare(ranks[b]) })
}

// rank is how much an offer asks for besides: the lower, the more particular. Whoever an
// offer fits that asks for more than another, that one fits as well: it has a condition on
// whatever the other has one on, and so at least as many; and if as many, then each takes
// in a part of what the other's does.
type rank struct {
	asks  int      // minus the number of conditions
	share *big.Int // of all that claims could say, how much the conditions take in
}

func (r rank) compare(s rank) int { return cmp.Or(cmp.Compare(r.asks, s.asks), r.share.Cmp(s.share)) }

func (o *Offer) rank() rank {
	r := rank{share: big.NewInt(1)}
	if !o.Provider.IsZero() {
		r.asks--
	}
	if len(o.Groups) > 0 {
		r.asks--
		groups := slices.Clone(o.Groups)
		slices.Sort(groups)
		r.share.SetInt64(int64(len(slices.Compact(groups))))
	}
	for _, c := range o.Claims {
		r.asks--
		r.share.Mul(r.share, c.share())
	}
	return r
}

// share is how much of all texts of up to MaxValue bytes the values take in, each byte that
// is given leaving a 512th: more than all its continuations together.
func (c Claim) share() *big.Int {
	sum := new(big.Int)
	for i, v := range c.Values {
		within := func(w string) bool {
			begin, ok := strings.CutSuffix(w, "*")
			return ok && strings.HasPrefix(strings.TrimSuffix(v, "*"), begin)
		}
		if slices.Contains(c.Values[:i], v) || slices.ContainsFunc(c.Values, func(w string) bool { return w != v && within(w) }) {
			continue // another takes it in
		}
		begin, open := strings.CutSuffix(v, "*")
		const bits = 9
		share := new(big.Int).Lsh(big.NewInt(1), uint(bits*(MaxValue+1-min(len(begin), MaxValue)))) // #nosec G115 -- not negative
		if !open {
			share.Rsh(share, bits)
		}
		sum.Add(sum, share)
	}
	return sum
}

// MaxValue bounds a value of a claim in an offer, in bytes.
const MaxValue = 256

// candidates calls f with the offers that are to an identity, the more particular first,
// until it returns false.
func (x *Index) candidates(id ident.Identity, f func(int) bool) {
	if id.IsZero() {
		return
	}
	each := func(list []int) bool {
		for _, i := range list {
			if !f(i) {
				return false
			}
		}
		return true
	}
	if !each(x.identities[id]) {
		return
	}
	for name := x.names[id]; ; {
		at := strings.LastIndexByte(name, '.')
		if at < 0 {
			break
		}
		name = name[:at]
		if !each(x.categories[name]) {
			return
		}
	}
	if each(x.kinds[id.Kind()]) {
		each(x.everyone)
	}
}

// Decide gives the most particular offer that fits who asks and the wish. From the
// particular to the general: offers to the identity itself; to its category, and the
// categories that this one is in; to its kind; to everybody. Of two that are to the same,
// the one that asks for more. Of two that ask for as much, the first.
//
// A lifetime beyond the longest, or beyond the session, is cut to it: the answer says when it
// ends.
func (x *Index) Decide(a Asker, w Wish, now time.Time) (Grant, *wire.Error) {
	return x.decide(a, w, now, nil)
}

// Explain is Decide, with how it came about.
func (x *Index) Explain(a Asker, w Wish, now time.Time) Explanation {
	var e Explanation
	e.Grant, e.Err = x.decide(a, w, now, func(i int, why string) {
		e.Lines = append(e.Lines, Line{i, x.policy.Offers[i], why})
	})
	return e
}

func (x *Index) decide(a Asker, w Wish, now time.Time, note func(i int, why string)) (g Grant, werr *wire.Error) {
	offered, decided := false, false
	x.candidates(a.Identity, func(i int) bool {
		o := &x.policy.Offers[i]
		why := o.asks(a, x.sums[i])
		if why == "" {
			offered = true
			why = o.refuses(w)
		}
		if note != nil {
			note(i, why)
		}
		if why != "" {
			return true
		}
		decided = true
		if g, werr = o.grant(a, w, x.sums[i], now); werr == nil {
			g.Line = i
			// Whoever is to show again who they are, holds nothing that lives longer.
			g.TTL = min(g.TTL, x.policy.LongestSession())
		}
		return false
	})
	switch {
	case decided:
		return g, werr
	case !offered:
		return Grant{}, wire.Errorf(wire.NoGrant, "ask the platform's operator for a grant", "nothing is granted to you: you are known as one of kind %s", a.Identity.Kind())
	}
	return Grant{}, wire.Errorf(wire.RoleNotGranted, "leave out account and role to get what is granted", "that account and role are not granted to you")
}

// Might gives the offers that somebody would have for a wish if they met what is asked of
// groups and claims: where nothing of those is known, it is not known whether they do.
func (x *Index) Might(a Asker, w Wish) []Offer {
	var all []Offer
	x.candidates(a.Identity, func(i int) bool {
		o := x.policy.Offers[i]
		if x.sums[i] == "" || o.refuses(w) != "" {
			return true
		}
		o.Groups, o.Claims = nil, nil
		if o.asks(a, "") == "" {
			all = append(all, x.policy.Offers[i])
		}
		return true
	})
	return all
}
