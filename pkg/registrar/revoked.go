package registrar

import (
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// forgetAfter is how long after its end a revocation is taken out of an account's JWT. Between
// its end and then it may be there or not: so registrars whose clocks differ by less do not put
// in and take out the same one in turns.
const forgetAfter = 2 * ledger.MaxAhead

// revocations are those of one account, as the ledger has them, at one moment.
type revocations struct {
	of  map[string]int64 // up to when, by user nkey; of everybody under jwt.All
	now time.Time
}

func (r *Resolver) revocations(account ident.AccountKey) revocations {
	out := revocations{now: r.now()}
	if r.Revoked == nil {
		return out
	}
	all := r.Revoked(account)
	out.of = make(map[string]int64, len(all))
	for k, rev := range all {
		user := jwt.All
		if u := k.User(); !u.IsZero() {
			user = u.String()
		}
		out.of[user] = rev.Before
	}
	return out
}

// ends is when no credential is alive any more that a revocation ends.
func ends(at int64) time.Time { return ledger.Revocation{Before: at}.Ends() }

// over tells whether a revocation is taken out.
func (r revocations) over(_ string, at int64) bool { return r.now.After(ends(at).Add(forgetAfter)) }

// good tells whether a JWT that says this may stay where join is to be said.
func (r revocations) good(says, join trust.Content) bool {
	if !says.SameBase(join) {
		return false
	}
	for user, at := range says.Revocations() {
		if r.over(user, at) {
			return false
		}
	}
	for user, at := range join.Revocations() {
		if says.RevokedUntil(user) < at && !r.now.After(ends(at)) {
			return false
		}
	}
	return true
}
