// Package issuer turns a grant and a public key into a user JWT. It is pure
// and the hot path: no state but the role keys, no I/O, time and randomness
// passed in. It never sees a user's seed.
package issuer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/policy"
)

// ErrNoKey: this issuer does not hold the key of the role.
var ErrNoKey = errors.New("no key for this role")

// RoleKey is a role that may be minted here.
type RoleKey struct {
	Account    ident.Label
	AccountKey ident.AccountKey
	Role       ident.Label
	Key        *keystore.Key
}

type roleID struct{ account, role ident.Label }

// Issuer mints user JWTs under its role keys. It is immutable, hence safe for
// concurrent use.
type Issuer struct{ keys map[roleID]RoleKey }

// New makes an issuer of role keys.
func New(keys ...RoleKey) *Issuer {
	i := &Issuer{keys: make(map[roleID]RoleKey, len(keys))}
	for _, k := range keys {
		i.keys[roleID{k.Account, k.Role}] = k
	}
	return i
}

// Credential is a minted user JWT.
type Credential struct {
	JWT     string
	ID      string // the JWT's jti
	Account ident.AccountKey
	Issued  time.Time
	Expires time.Time
}

// Mint signs a user JWT for the holder of user. Its permissions are empty: the
// servers take them from the role in the account JWT. random (0 ≤ random < 1) makes its id
// another than that of what is minted at the same moment. When it is to be renewed, Renewals
// says.
func (i *Issuer) Mint(g policy.Grant, user ident.UserKey, now time.Time, random float64) (Credential, error) {
	k, ok := i.keys[roleID{g.Account, g.Role}]
	if !ok {
		return Credential{}, fmt.Errorf("role %s/%s: %w", g.Account, g.Role, ErrNoKey)
	}
	iat, exp := now.Unix(), now.Add(g.TTL).Unix()
	c := claims{
		expires: exp, issued: iat, issuer: k.Key.Public(), name: g.Name.String(), sub: user.String(),
		account: k.AccountKey.String(), tags: g.Tags,
	}
	c.id = newID(c.sub, c.issuer, now.UnixNano(), random)
	token, err := c.encode(k.Key)
	if err != nil {
		return Credential{}, fmt.Errorf("minting for %s: %w", user, err)
	}
	return Credential{JWT: token, ID: c.id, Account: k.AccountKey, Issued: time.Unix(iat, 0), Expires: time.Unix(exp, 0)}, nil
}

// Spread is the randomness for Mint and Renewals in production; it guards no secret.
func Spread() float64 { return rand.Float64() } // #nosec G404 -- it spreads renewals, it hides nothing
