package registrar

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// followShort is how many seconds short of the date that is too far ahead dates are no
// longer followed. What follows a date is dated after it, and must not itself be too far
// ahead for another, whose clock may be behind by three minutes.
const followShort = 200

// judge says how servers stand to an account after they were asked, and what is to be
// pushed, if anything is and may be. servers is how many there are.
//
// A JWT that is dated further ahead than clocks may differ is verified and joined like any
// other, since what it says was signed. But it is not in line, and its date is not
// followed: between two JWTs that come to a server from its cluster it keeps the later
// one, and somebody who had a signing key for a moment could date one so that none can be
// later. It is replaced by one of now. Where the servers that hold it are all reached, it
// is gone; where one was not, it may come back from there, and is replaced again.
func (r *Resolver) judge(it *item, servers int, mayPush bool) {
	horizon := r.now().Add(ledger.MaxAhead).Unix()
	follow := horizon - followShort
	found := make([]trust.AccountJWT, len(it.held)) // zero for what is foreign
	for i, h := range it.held {
		found[i] = r.verified(it, string(h.data))
	}
	denied := r.revocations(it.st.Account)
	// One JWT says all that it says; where nobody is revoked, what that is need not be looked
	// into.
	sole := len(it.opened) == 1 && it.opened[0].Revoked == 0 && len(denied.of) == 0
	var join trust.Content
	var err error
	if !sole {
		if join, err = it.content(denied); err == nil {
			err = join.Conflict()
		}
	}
	// good tells whether a JWT may stay where it is.
	good := func(a trust.AccountJWT) bool {
		return err == nil && a.Token != "" && a.IssuedAt <= horizon && (sole || denied.good(it.says[a.Token], join))
	}

	first := it.pushes == 0
	it.st.Err, it.st.InLine = err, 0
	lacked := it.answers
	var above int64 // the latest date of what is to be replaced
	for i, h := range it.held {
		lacked -= h.servers
		if good(found[i]) {
			it.st.InLine += h.servers
			continue
		}
		f := describe(found[i], h)
		if f.IssuedAt <= follow {
			above = max(above, f.IssuedAt)
		}
		if first {
			it.st.Found = append(it.st.Found, f)
		}
	}
	if first {
		it.st.Lacked = lacked
	}
	if err != nil {
		return
	}
	newest := slices.MaxFunc(it.opened, func(a, b trust.AccountJWT) int { return cmp.Compare(a.Version, b.Version) })
	best := it.best(good, above)
	it.st.Version, it.st.Name, it.st.Token = newest.Version, newest.Name, best.Token
	if !mayPush || !it.wanting(servers) {
		return
	}
	if best.Token == "" || best.IssuedAt <= above {
		if best, err = r.sign(it, denied, above, follow); err != nil {
			it.st.Err = err
			return
		}
		it.st.Token = best.Token
	}
	it.push = &best
}

// wanting tells whether a push may help.
func (it *item) wanting(servers int) bool {
	switch it.pushes {
	case 0:
		// Also where one server did not answer: a push makes them say who they are.
		return it.st.InLine < servers
	case maxPushes:
		return false
	default:
		// Somebody pushed after us. Who refuses or is silent, is not helped by another.
		return it.answers-it.st.InLine > len(it.missing)
	}
}

// verified gives a JWT that servers hold if it is of this account and of this platform,
// and else nothing. What is verified counts from now on as known.
func (r *Resolver) verified(it *item, token string) trust.AccountJWT {
	for _, a := range it.opened {
		if a.Token == token {
			return a
		}
	}
	a, err := r.op.OpenAccount(token)
	if err != nil || a.Account != it.st.Account {
		return trust.AccountJWT{}
	}
	if _, err := it.join([]trust.AccountJWT{a}); err != nil {
		return trust.AccountJWT{}
	}
	it.add(a)
	return a
}

// join joins JWTs of the account, each of which is looked into once.
func (it *item) join(of []trust.AccountJWT) (trust.Content, error) {
	if it.says == nil {
		it.says = make(map[string]trust.Content)
	}
	all := make([]trust.Content, 0, len(of))
	for _, a := range of {
		c, ok := it.says[a.Token]
		if !ok {
			var err error
			if c, err = a.Content(); err != nil {
				return trust.Content{}, err
			}
			it.says[a.Token] = c
		}
		all = append(all, c)
	}
	return trust.Join(all[0], all[1:]...)
}

// content is what is to be said of the account: what its JWTs say together, and who is
// revoked.
func (it *item) content(denied revocations) (trust.Content, error) {
	join, err := it.join(it.opened)
	if err != nil {
		return trust.Content{}, err
	}
	join = join.Revoke(denied.of).Forget(denied.over)
	// What everybody's revocation covers need not be said of each.
	everybody := join.RevokedUntil(jwt.All)
	return join.Forget(func(user string, at int64) bool { return user != jwt.All && at <= everybody }), nil
}

// best is of those JWTs that say all that is to be said one that is later than above, if there
// is one, then the one that most servers hold, then the newest. A server that gets another JWT
// than it has forgets which answers are on their way through the account, though both say the
// same; so as few as can be get another.
func (it *item) best(good func(trust.AccountJWT) bool, above int64) trust.AccountJWT {
	holding := make(map[string]int, len(it.held))
	for _, h := range it.held {
		holding[string(h.data)] = h.servers
	}
	later := func(a trust.AccountJWT) int {
		if a.IssuedAt > above {
			return 1
		}
		return 0
	}
	var best trust.AccountJWT
	for _, a := range it.opened {
		if good(a) && (best.Token == "" || cmp.Or(
			cmp.Compare(later(a), later(best)), cmp.Compare(holding[a.Token], holding[best.Token]),
			cmp.Compare(a.IssuedAt, best.IssuedAt), strings.Compare(a.Token, best.Token)) > 0) {
			best = a
		}
	}
	return best
}

// sign signs the join, later than all that is known and not from the future. What it
// signed it verifies like what comes from elsewhere, before anybody sees it.
func (r *Resolver) sign(it *item, denied revocations, above, follow int64) (trust.AccountJWT, error) {
	if r.signer == nil {
		return trust.AccountJWT{}, ErrUnsigned
	}
	if err := r.Clock.Err(); err != nil {
		return trust.AccountJWT{}, err
	}
	join, err := it.content(denied)
	if err != nil {
		return trust.AccountJWT{}, err
	}
	for _, a := range it.opened {
		if a.IssuedAt <= follow {
			above = max(above, a.IssuedAt)
		}
	}
	token, err := join.Sign(r.signer, r.now(), above)
	if err != nil {
		return trust.AccountJWT{}, err
	}
	a, err := r.op.OpenAccount(token)
	if err != nil {
		return trust.AccountJWT{}, fmt.Errorf("what was signed is not believed: %w", err)
	}
	if says, err := it.join([]trust.AccountJWT{a}); err != nil || !says.Equal(join) {
		return trust.AccountJWT{}, errors.Join(errors.New("what was signed says something else than what is to be said"), err)
	}
	it.add(a)
	return a, nil
}

// describe says what servers hold that they should not.
func describe(a trust.AccountJWT, h held) Found {
	if a.Token != "" {
		return Found{Servers: h.servers, Issuer: a.Issuer, IssuedAt: a.IssuedAt, Version: a.Version}
	}
	f := Found{Servers: h.servers, Foreign: true}
	says := peek(h.data)
	f.Issuer, f.IssuedAt = says.Issuer, says.IssuedAt
	return f
}

// peeked is what an account JWT says of itself; nothing of it is believed.
type peeked struct {
	Issuer   string `json:"iss"` // empty if it is no key
	Subject  string `json:"sub"`
	IssuedAt int64  `json:"iat"`
}

// peek reads that: zero for what cannot be read.
func peek(token []byte) (v peeked) {
	if len(token) > trust.MaxToken {
		return v
	}
	parts := strings.SplitN(string(token), ".", 3)
	if len(parts) != 3 {
		return v
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &v) != nil {
		return peeked{}
	}
	if !nkeys.IsValidPublicKey(v.Issuer) {
		v.Issuer = ""
	}
	return v
}
