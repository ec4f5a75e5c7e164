// Package trust is the chain operator → account → role → user: it makes each
// link and verifies it. Everything that is pushed, trusted or obeyed is
// verified here first, up to the operator that one was given. It knows no
// connection and no clock.
package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// MaxToken bounds every token that is decoded: the largest is an account JWT.
const MaxToken = 1 << 20

// Operator is the root that a party was given: who may sign accounts and
// documents. It is immutable.
type Operator struct {
	token   string
	key     string
	name    string
	system  ident.AccountKey
	signing []string
	verify  map[string]ed25519.PublicKey // the signing keys, decoded
}

// NewOperator makes and signs an operator JWT whose accounts may be signed by
// the signing keys alone.
func NewOperator(name string, key *keystore.Key, signing []string, system ident.AccountKey) (string, error) {
	c := jwt.NewOperatorClaims(key.Public())
	c.Name = name
	c.SigningKeys.Add(signing...)
	c.SystemAccount = system.String()
	// The identity key stays offline, so the servers need not accept it.
	c.StrictSigningKeyUsage = true
	token, err := c.Encode(key.Pair())
	if err != nil {
		return "", fmt.Errorf("signing the operator: %w", err)
	}
	return token, nil
}

// ParseOperator reads an operator JWT. It is the root: it must be signed by
// itself, name a system account and keep to signing keys.
func ParseOperator(token string) (*Operator, error) {
	token = strings.TrimSpace(token)
	if len(token) > MaxToken {
		return nil, fmt.Errorf("an operator JWT of %d bytes", len(token))
	}
	c, err := jwt.DecodeOperatorClaims(token)
	if err != nil {
		return nil, fmt.Errorf("reading an operator JWT: %w", err)
	}
	if c.Subject != c.Issuer {
		return nil, fmt.Errorf("operator %.64q did not sign itself: %w", c.Name, ErrUntrusted)
	}
	system, err := ident.ParseAccountKey(c.SystemAccount)
	if err != nil {
		return nil, fmt.Errorf("operator %.64q names no system account: %w", c.Name, err)
	}
	if !c.StrictSigningKeyUsage || len(c.SigningKeys) == 0 {
		return nil, fmt.Errorf("operator %.64q does not keep to signing keys: %w", c.Name, ErrUntrusted)
	}
	verify, err := publicKeys(c.SigningKeys)
	if err != nil {
		return nil, err
	}
	return &Operator{
		token: token, key: c.Subject, name: c.Name, system: system,
		signing: slices.Clone(c.SigningKeys), verify: verify,
	}, nil
}

// Key is the operator's public nkey: the platform's identity.
func (o *Operator) Key() string { return o.key }

// Name is what the operator calls the platform.
func (o *Operator) Name() string { return o.name }

// Token is the operator JWT.
func (o *Operator) Token() string { return o.token }

// System is the system account's key.
func (o *Operator) System() ident.AccountKey { return o.system }

// Signs tells whether pub is one of the operator's signing keys.
func (o *Operator) Signs(pub string) bool { return slices.Contains(o.signing, pub) }

// VerifyAccount reads an account JWT and verifies that one of the operator's
// signing keys signed it. Nothing is pushed to a server without this: servers
// store what an unknown operator signed.
func (o *Operator) VerifyAccount(token string) (*jwt.AccountClaims, error) {
	if len(token) > MaxToken {
		return nil, fmt.Errorf("an account JWT of %d bytes", len(token))
	}
	c, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		return nil, fmt.Errorf("reading an account JWT: %w", err)
	}
	if !o.Signs(c.Issuer) {
		return nil, fmt.Errorf("account %.64q is signed by %.60q: %w", c.Name, c.Issuer, ErrUntrusted)
	}
	// jwt/v2 panics at these.
	if slices.Contains(c.Exports, nil) || slices.Contains(c.Imports, nil) {
		return nil, fmt.Errorf("account %.64q has an export or an import that is null", c.Name)
	}
	var vr jwt.ValidationResults
	c.Validate(&vr)
	if errs := vr.Errors(); len(errs) > 0 {
		return nil, fmt.Errorf("account %.64q: %w", c.Name, errors.Join(errs...))
	}
	return c, nil
}

// Kinds of documents that operator signing keys sign.
const (
	kindPlatform = "herald-platform"
)

// document is a NATS generic claim whose body is a statement of this platform.
type document[T any] struct {
	jwt.ClaimsData
	Nats struct {
		Type    string `json:"type"`
		Version int    `json:"version"`
		Body    T      `json:"body"`
	} `json:"nats"`
}

func signDocument[T any](kind, sub string, body T, key *keystore.Key, now time.Time) (string, error) {
	var d document[T]
	d.Subject, d.Issuer, d.IssuedAt = sub, key.Public(), now.Unix()
	d.Nats.Type, d.Nats.Version, d.Nats.Body = kind, 2, body
	return EncodeJWT(d, key)
}

// openDocument verifies a document: its shape, its signature, its kind, its
// subject, and that an operator signing key signed it.
func openDocument[T any](o *Operator, kind, sub, token string, into *T) error {
	return openSigned(o.Signs, kind, sub, token, into)
}

// openSigned does the same for whoever may sign.
func openSigned[T any](signs func(issuer string) bool, kind, sub, token string, into *T) error {
	if len(token) > MaxToken {
		return fmt.Errorf("a document of %d bytes", len(token))
	}
	// jwt/v2 panics at a header of JWT version 1 before a payload without "nats".
	if !strings.HasPrefix(token, JWTHeader) {
		return fmt.Errorf("a %s document that is no JWT of version 2", kind)
	}
	c, err := jwt.DecodeGeneric(token) // verifies the signature by c.Issuer
	if err != nil {
		return fmt.Errorf("reading a %s document: %w", kind, err)
	}
	if !signs(c.Issuer) {
		return fmt.Errorf("a %s document signed by %.60q: %w", kind, c.Issuer, ErrUntrusted)
	}
	if t, _ := c.Data["type"].(string); t != kind || c.Subject != sub {
		return fmt.Errorf("a document of kind %.40q about %.60q where %s about %q belongs: %w", t, c.Subject, kind, sub, ErrUntrusted)
	}
	return readBody(token, into)
}

// readBody reads the body of a document that was verified. It is read from the
// token, not from what jwt/v2 made of it: that has floats where numbers were,
// and a version beyond 2^53 would be another. Members that T does not have are
// passed over: the operator signed them, and a client of this version must go
// on working when a later version adds one.
func readBody[T any](token string, into *T) error {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return fmt.Errorf("reading a document: %w", err)
	}
	var d document[T]
	if err := json.Unmarshal(payload, &d); err != nil {
		return fmt.Errorf("reading a document: %w", err)
	}
	*into = d.Nats.Body
	return nil
}

// User is a user JWT that was verified up to the operator.
type User struct {
	Key        ident.UserKey
	Name       ident.Name
	Account    ident.Label
	AccountKey ident.AccountKey
	Role       ident.Label
	Identity   ident.Identity // zero for guests and services
	Proven     time.Time      // when the identity was proved; zero: the credential does not say
	Met        string         // what of policy the proof met; see policy.Offer.Sum
	By         string         // what it was proved by; see authn.Who.By
	IssuedAt   time.Time
	Expires    time.Time // zero: never
	ID         string    // jti
}

// What tags of issuers begin with. Beside TagIdentity the tag "oidc:" has the identity of
// who came with a login.
const (
	TagIdentity = "identity:" // how the user's identity was proved
	TagKey      = "kid:"      // the access key that it came with
	TagProven   = "proven:"   // when it was proved, in seconds since 1970
	TagMet      = "met:"      // what of policy the proof met
	TagBy       = "by:"       // what it was proved by, where that may be replaced
)

// TagRegion begins the tag that says which region a service user belongs to.
const TagRegion = "region:"

// VerifyUser verifies a user JWT: signed by a role key of an account of this
// platform, with the permissions left to the role, and in its time.
func (p *Platform) VerifyUser(token string, now time.Time) (User, error) {
	u, err := p.readUser(token)
	if err != nil {
		return User{}, err
	}
	return u.in(now)
}

// in refuses a user whose time is over.
func (u User) in(now time.Time) (User, error) {
	if !u.Expires.IsZero() && !now.Before(u.Expires) {
		return User{}, fmt.Errorf("user JWT of %s: %w", u.Key, ErrExpired)
	}
	return u, nil
}

// readUser verifies all of a user JWT but its time.
func (p *Platform) readUser(token string) (User, error) {
	if len(token) > MaxToken {
		return User{}, fmt.Errorf("a user JWT of %d bytes", len(token))
	}
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return User{}, fmt.Errorf("reading a user JWT: %w", err)
	}
	acc, role, ok := p.role(c.IssuerAccount, c.Issuer)
	if !ok {
		return User{}, fmt.Errorf("user JWT signed by %.60q for account %.60q: %w", c.Issuer, c.IssuerAccount, ErrUntrusted)
	}
	u := User{Account: acc.Name, AccountKey: acc.Key, Role: role.Name, IssuedAt: time.Unix(c.IssuedAt, 0), ID: c.ID}
	if u.Key, err = ident.ParseUserKey(c.Subject); err != nil {
		return User{}, err
	}
	if u.Name, err = ident.ParseName(c.Name); err != nil {
		return User{}, err
	}
	if !c.HasEmptyPermissions() {
		return User{}, fmt.Errorf("user JWT of %s brings permissions of its own: %w", u.Key, ErrUntrusted)
	}
	if c.Expires != 0 {
		u.Expires = time.Unix(c.Expires, 0)
	}
	if err := u.readTags(c.Tags); err != nil {
		return User{}, err
	}
	return u, nil
}

// readTags reads what an issuer says of the user's identity. A user of a service, or a
// static one, has none of it.
func (u *User) readTags(tags jwt.TagList) error {
	values := func(prefix string) []string {
		var all []string
		for _, t := range tags {
			if v, ok := strings.CutPrefix(t, prefix); ok {
				all = append(all, v)
			}
		}
		return all
	}
	kinds := values(TagIdentity)
	if len(kinds) == 0 {
		return nil
	}
	id := ""
	switch kind := kinds[0]; kind {
	case ident.KindOpen, ident.KindInvite:
		id = u.Key.String()
	case ident.KindKey:
		id = strings.Join(values(TagKey), ",")
	case ident.KindOIDC:
		id = strings.Join(values(ident.KindOIDC+":"), ",")
	}
	var err error
	if u.Identity, err = ident.ParseIdentity(kinds[0] + ":" + id); err != nil || len(kinds) > 1 {
		u.Identity = ident.Identity{}
		return fmt.Errorf("user JWT of %s says of several identities, or of none, that it is theirs: %w", u.Key, ErrUntrusted)
	}
	for _, v := range values(TagProven) {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n <= 0 || !u.Proven.IsZero() {
			return fmt.Errorf("user JWT of %s does not say when it was proved: %w", u.Key, ErrUntrusted)
		}
		// Not after it was issued: a session would be longer by that.
		if u.Proven = time.Unix(n, 0); u.Proven.After(u.IssuedAt) {
			return fmt.Errorf("user JWT of %s was proved after it was issued: %w", u.Key, ErrUntrusted)
		}
	}
	for tag, to := range map[string]*string{TagMet: &u.Met, TagBy: &u.By} {
		switch said := values(tag); len(said) {
		case 0:
		case 1:
			*to = said[0]
		default:
			return fmt.Errorf("user JWT of %s says %s twice: %w", u.Key, tag, ErrUntrusted)
		}
	}
	return nil
}

// ErrExpired is wrapped for a user JWT whose time is over.
var ErrExpired = errors.New("expired")

// Caller is who asks through an import, as the server itself says. It is
// believed only under the conditions that docs/protocol.md lists: an answer
// that lands on an imported subject comes in its answerer's name, a leafnode
// speaks for whoever is behind it, and a reply that the server did not make
// can aim at anything.
func (p *Platform) Caller(info wire.RequestInfo, reply string, now time.Time, accounts ...ident.Label) (User, error) {
	return caller(p.VerifyUser, info, reply, now, accounts)
}

func caller(verify func(string, time.Time) (User, error), info wire.RequestInfo, reply string, now time.Time, accounts []ident.Label) (User, error) {
	if !IsImportedReply(reply) {
		return User{}, fmt.Errorf("the reply is not one that a server made for an import: %w", ErrUntrusted)
	}
	if info.Service != "" || info.Kind != "Client" {
		return User{}, fmt.Errorf("asked by %.20q through service %.40q: %w", info.Kind, info.Service, ErrUntrusted)
	}
	u, err := verify(info.JWT, now)
	if err != nil {
		return User{}, err
	}
	if info.Account != u.AccountKey.String() || info.User != u.Key.String() {
		return User{}, fmt.Errorf("the server's word and the user JWT of %s differ: %w", u.Key, ErrUntrusted)
	}
	if !slices.Contains(accounts, u.Account) {
		return User{}, fmt.Errorf("account %s may not ask this: %w", u.Account, ErrUntrusted)
	}
	return u, nil
}

// IsImportedReply tells whether a reply subject was made by the server for a
// service import. Whatever else a service answered would be a right to publish
// anywhere, given to whoever asks.
func IsImportedReply(reply string) bool { return strings.HasPrefix(reply, "_R_.") }
