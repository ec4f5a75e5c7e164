// Package nscstore is the layout of the nsc tool on a disk, read and written:
// an operator with its accounts, users, keys and creds files.
//
//	<stores>/OPERATOR/.nsc                                what the folder is
//	<stores>/OPERATOR/OPERATOR.jwt                        the operator
//	<stores>/OPERATOR/accounts/ACCOUNT/ACCOUNT.jwt        an account
//	<stores>/OPERATOR/accounts/ACCOUNT/users/USER.jwt     a user
//	<keystore>/keys/U/AB/UAB….nk                          a seed, by its public key
//	<keystore>/creds/OPERATOR/ACCOUNT/USER.creds          a user's JWT and seed
//
// It carries tokens and seeds as they are, and knows nothing of what Herald
// makes of them. It refuses to read a token that nobody of the chain above it
// signed, a seed that others can read, a link, and a file that nsc would not
// keep there; it refuses to write over anything. No error holds a seed.
package nscstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/keystore"
)

// Errors that callers tell apart. A seed that others can read is
// keystore.ErrExposed, one that is none is keystore.ErrKind.
var (
	// ErrNoStore: there is no store of nsc, or not the one that was asked for.
	ErrNoStore = errors.New("no store of nsc")
	// ErrInvalid: a file does not hold what nsc keeps in such a file.
	ErrInvalid = errors.New("not what nsc keeps here")
	// ErrChain: a token that nobody signed who may sign it.
	ErrChain = errors.New("not signed by who must sign it")
	// ErrUnexpected: a file, folder or link that nsc does not make.
	ErrUnexpected = errors.New("nsc makes no such thing here")
	// ErrTooLarge: more than this package is willing to read.
	ErrTooLarge = errors.New("too large")
	// ErrBusy: another process writes the same folder.
	ErrBusy = errors.New("another process writes this folder")
)

// Store is one operator of nsc with all that is its own. Read gives it
// complete and verified; Write verifies it again.
type Store struct {
	// Name is what nsc calls the operator on this machine: the name of its
	// folder. The operator JWT may have another.
	Name string
	// Managed: the operator is somebody else's, who signs the accounts.
	Managed  bool
	Operator Operator
	// Accounts are sorted by name.
	Accounts []Account
	// Keys are all keys whose seeds the keystore has, by public key; Named
	// tells which of them belong to this operator. A keystore may serve several
	// operators, and nsc leaves the keys of what was deleted.
	Keys map[string]*keystore.Key
	// Strays are creds files that are not those of a user of the store as it
	// is now: nsc leaves them when it deletes a user. They are sorted by
	// account and user.
	Strays []Stray
}

// Operator is an operator JWT that one of its own keys signed.
type Operator struct {
	token  string
	claims *jwt.OperatorClaims
}

// Account is an account JWT whose signature is good, and its users. Who signed
// it is for the store to say: see Read and Write.
type Account struct {
	token  string
	claims *jwt.AccountClaims
	// Users are sorted by name.
	Users []User
}

// User is a user JWT whose signature is good.
type User struct {
	token  string
	claims *jwt.UserClaims
	// Creds is the key in the user's creds file; nil where there is no file.
	Creds *keystore.Key
}

// Stray is a creds file: where it lies, and what is in it. Who signed the user
// is not verified; its Creds are never nil.
type Stray struct {
	Account, Name string
	User          User
}

// ParseOperator reads an operator JWT of version 2 that one of the operator's
// keys signed. The error is ErrInvalid or ErrChain.
//
// Once an operator keeps to signing keys, nsc signs the operator JWT with one
// of them, too. As the token itself lists that key, it then proves nothing:
// see SelfSigned.
func ParseOperator(token string) (Operator, error) {
	token = trim(token)
	c, err := decode[*jwt.OperatorClaims](token, "an operator")
	if err != nil {
		return Operator{}, err
	}
	if c.Version != version {
		return Operator{}, errVersion(c.Version)
	}
	if !c.DidSign(c) {
		return Operator{}, fmt.Errorf("the operator is signed by %.60q, neither its own key nor one of its signing keys: %w", c.Issuer, ErrChain)
	}
	if !nkeys.IsValidPublicOperatorKey(c.Subject) {
		return Operator{}, fmt.Errorf("the subject is no operator's key: %w", ErrInvalid)
	}
	if err := valid(c); err != nil {
		return Operator{}, err
	}
	return Operator{token: token, claims: c}, nil
}

// ParseAccount reads an account JWT of version 2 and verifies its signature.
// The error is ErrInvalid.
func ParseAccount(token string) (Account, error) {
	token = trim(token)
	c, err := decode[*jwt.AccountClaims](token, "an account")
	if err != nil {
		return Account{}, err
	}
	if c.Version != version {
		return Account{}, errVersion(c.Version)
	}
	if !nkeys.IsValidPublicAccountKey(c.Subject) {
		return Account{}, fmt.Errorf("the subject is no account's key: %w", ErrInvalid)
	}
	if err := validName(c.Name); err != nil {
		return Account{}, err
	}
	// jwt/v2 panics at these in some of its functions.
	if slices.Contains(c.Exports, nil) || slices.Contains(c.Imports, nil) {
		return Account{}, fmt.Errorf("an export or an import is null: %w", ErrInvalid)
	}
	if c.Trace != nil {
		// Validate makes 100 of a sampling that is not set. The claims are to
		// stay what the token says.
		defer func(n int) { c.Trace.Sampling = n }(c.Trace.Sampling)
	}
	if err := valid(c); err != nil {
		return Account{}, err
	}
	return Account{token: token, claims: c}, nil
}

// ParseUser reads a user JWT of version 2 and verifies its signature. The
// error is ErrInvalid.
func ParseUser(token string) (User, error) {
	token = trim(token)
	c, err := decode[*jwt.UserClaims](token, "a user")
	if err != nil {
		return User{}, err
	}
	if c.Version != version {
		return User{}, errVersion(c.Version)
	}
	if !nkeys.IsValidPublicUserKey(c.Subject) {
		return User{}, fmt.Errorf("the subject is no user's key: %w", ErrInvalid)
	}
	if err := validName(c.Name); err != nil {
		return User{}, err
	}
	if err := valid(c); err != nil {
		return User{}, err
	}
	return User{token: token, claims: c}, nil
}

// Token is the JWT.
func (o Operator) Token() string { return o.token }

// Claims are what the JWT says; not to be changed.
func (o Operator) Claims() *jwt.OperatorClaims { return o.claims }

// Key is the operator's public nkey.
func (o Operator) Key() string { return o.claims.Subject }

// SelfSigned tells whether the operator's own key signed the JWT, and not one
// of the signing keys that it lists.
func (o Operator) SelfSigned() bool { return o.claims.IsSelfSigned() }

// IsZero tells whether there is no operator at all.
func (o Operator) IsZero() bool { return o.claims == nil }

// Token is the JWT.
func (a Account) Token() string { return a.token }

// Claims are what the JWT says; not to be changed.
func (a Account) Claims() *jwt.AccountClaims { return a.claims }

// Key is the account's public nkey.
func (a Account) Key() string { return a.claims.Subject }

// Name is the account's name, that of its folder.
func (a Account) Name() string { return a.claims.Name }

// IsZero tells whether there is no account at all.
func (a Account) IsZero() bool { return a.claims == nil }

// Token is the JWT.
func (u User) Token() string { return u.token }

// Claims are what the JWT says; not to be changed.
func (u User) Claims() *jwt.UserClaims { return u.claims }

// Key is the user's public nkey.
func (u User) Key() string { return u.claims.Subject }

// Name is the user's name, that of its file.
func (u User) Name() string { return u.claims.Name }

// IsZero tells whether there is no user at all.
func (u User) IsZero() bool { return u.claims == nil }

// Named says of each public key that this operator's tokens name what it is
// there: "operator", "account A", "role R of account A". Keys that are not in
// it belong to another operator of the same keystore, or to what was deleted.
func (s *Store) Named() map[string]string {
	names := make(map[string]string)
	add := func(key, what string) {
		if _, ok := names[key]; !ok && key != "" {
			names[key] = what
		}
	}
	if !s.Operator.IsZero() {
		add(s.Operator.Key(), "operator")
		for _, k := range s.Operator.claims.SigningKeys {
			add(k, "signing key of the operator")
		}
	}
	for _, a := range s.Accounts {
		add(a.Key(), "account "+a.Name())
		for k, scope := range a.claims.SigningKeys {
			what := "signing key of account " + a.Name()
			if us, ok := scope.(*jwt.UserScope); ok {
				what = "role " + brief(us.Role) + " of account " + a.Name()
			}
			add(k, what)
		}
		add(a.claims.Authorization.XKey, "callout key of account "+a.Name())
		for _, u := range a.Users {
			add(u.Key(), "user "+u.Name()+" of account "+a.Name())
		}
		for _, u := range a.claims.Authorization.AuthUsers {
			add(u, "callout user of account "+a.Name())
		}
	}
	return names
}

// version is the one version of JWTs that nsc works with today: it asks for
// `nsc upgrade-jwt` where it finds the first.
const version = 2

func errVersion(v int) error {
	return fmt.Errorf("a JWT of version %d (nsc upgrade-jwt makes version %d of it): %w", v, version, ErrInvalid)
}

// trim takes the line end off that an editor may have left. nsc writes none.
func trim(token string) string { return strings.TrimRight(token, "\r\n") }

// decode reads a token and verifies its signature by the key that it names.
func decode[C jwt.Claims](token, what string) (C, error) {
	var none C
	if len(token) > jwt.MaxTokenSize {
		return none, fmt.Errorf("a JWT of more than %d bytes: %w", jwt.MaxTokenSize, ErrTooLarge)
	}
	// base64 passes over line ends: one token would have many spellings.
	if i := strings.IndexFunc(token, notToken); i >= 0 {
		return none, fmt.Errorf("byte %d belongs in no JWT: %w", i, ErrInvalid)
	}
	c, err := jwt.Decode(token)
	if err != nil {
		return none, fmt.Errorf("reading the JWT of %s: %w: %s", what, ErrInvalid, brief(err.Error()))
	}
	claims, ok := c.(C)
	if !ok {
		return none, fmt.Errorf("a JWT of kind %.32q where that of %s belongs: %w", c.ClaimType(), what, ErrInvalid)
	}
	return claims, nil
}

func notToken(r rune) bool {
	return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_' && r != '.'
}

// valid is what jwt/v2 has against claims. That they are expired is not
// against them: it is looked at when they are used, and by a clock that this
// package does not have.
func valid(c jwt.Claims) error {
	var vr jwt.ValidationResults
	c.Validate(&vr)
	var errs []error
	for _, err := range vr.Errors() {
		if len(errs) == 10 {
			break
		}
		errs = append(errs, fmt.Errorf("%w: %s", ErrInvalid, brief(err.Error())))
	}
	return errors.Join(errs...)
}

// maxName bounds names: with .creds behind it one must fit a file's name.
const maxName = 200

// validName accepts a name that is one file's name on any machine and harmless
// on a terminal. nsc forbids slashes only, and trims spaces in some of a name's
// places and not in others.
func validName(name string) error {
	switch {
	case name == "" || len(name) > maxName || !utf8.ValidString(name):
		return fmt.Errorf("a name of 1 to %d bytes of UTF-8 is needed, not %.64q: %w", maxName, name, ErrInvalid)
	case strings.ContainsAny(name, `/\`) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("the name %.64q has characters that no file's name should have: %w", name, ErrInvalid)
	case name[0] == '.' || name[0] == ' ' || name[len(name)-1] == ' ':
		return fmt.Errorf("the name %.64q begins with a dot, or begins or ends with a space: %w", name, ErrInvalid)
	}
	return nil
}

// check is what must hold between the parts of a store, whoever made it. The
// files that it names are those that belong to the parts.
func (s *Store) check(l layout, found *Problems) {
	if err := validName(s.Name); err != nil {
		found.add(l.operatorDir(), err)
	}
	names, keys := make(map[string]bool), make(map[string]string)
	for _, a := range s.Accounts {
		if a.IsZero() {
			found.add(l.accountsDir(), fmt.Errorf("an account without a JWT: %w", ErrInvalid))
			continue
		}
		file := l.account(a.Name())
		if names[a.Name()] {
			found.add(file, fmt.Errorf("two accounts of one name: %w", ErrInvalid))
		}
		names[a.Name()] = true
		if other, ok := keys[a.Key()]; ok {
			found.add(file, fmt.Errorf("accounts %.64q and %.64q have one key, %s: %w", other, a.Name(), a.Key(), ErrInvalid))
		}
		keys[a.Key()] = a.Name()
		if !s.Operator.IsZero() {
			if err := s.Operator.signed(a); err != nil {
				found.add(file, err)
			}
		}
		a.check(l, found)
	}
	for pub, k := range s.Keys {
		if k == nil || k.Public() != pub {
			found.add(l.keysDir(), fmt.Errorf("%.60q is not the public key of its seed: %w", pub, ErrInvalid))
		} else if _, ok := kindOf(pub); !ok {
			found.add(l.keysDir(), fmt.Errorf("%.60q is of a kind that nsc does not keep: %w", pub, ErrInvalid))
		}
	}
	s.checkStrays(l, found)
}

func (s *Store) checkStrays(l layout, found *Problems) {
	taken := make(map[[2]string]bool)
	for _, a := range s.Accounts {
		for _, u := range a.Users {
			if !a.IsZero() && !u.IsZero() && u.Creds != nil {
				taken[[2]string{a.Name(), u.Name()}] = true
			}
		}
	}
	for _, c := range s.Strays {
		if err := errors.Join(validName(c.Account), validName(c.Name)); err != nil {
			found.add(l.credsDir(), err)
			continue
		}
		file := l.creds(c.Account, c.Name)
		if taken[[2]string{c.Account, c.Name}] {
			found.add(file, fmt.Errorf("two creds files of one name: %w", ErrInvalid))
		}
		taken[[2]string{c.Account, c.Name}] = true
		if c.User.IsZero() || c.User.Creds == nil || c.User.Creds.Public() != c.User.Key() {
			found.add(file, fmt.Errorf("the seed is not that of the user: %w", ErrInvalid))
		}
	}
}

// signed tells whether the operator stands behind an account: nats-server's
// rule, in which an operator that keeps to signing keys signs with them alone.
func (o Operator) signed(a Account) error {
	switch {
	case o.claims.DidSign(a.claims):
		return nil
	case a.claims.Issuer == a.Key():
		return fmt.Errorf("account %.64q signed itself, and its operator has not signed it yet: %w", a.Name(), ErrChain)
	case a.claims.Issuer == o.Key():
		return fmt.Errorf("account %.64q is signed by the operator's own key, and the operator keeps to signing keys: %w", a.Name(), ErrChain)
	default:
		return fmt.Errorf("account %.64q is signed by %.60q, no key of this operator: %w", a.Name(), a.claims.Issuer, ErrChain)
	}
}

func (a Account) check(l layout, found *Problems) {
	names := make(map[string]bool)
	for _, u := range a.Users {
		if u.IsZero() {
			found.add(l.account(a.Name()), fmt.Errorf("a user without a JWT: %w", ErrInvalid))
			continue
		}
		file := l.user(a.Name(), u.Name())
		if names[u.Name()] {
			found.add(file, fmt.Errorf("two users of one name: %w", ErrInvalid))
		}
		names[u.Name()] = true
		if !a.signed(u) {
			found.add(file, fmt.Errorf("user %.64q is signed by %.60q, no key of account %.64q: %w", u.Name(), u.claims.Issuer, a.Name(), ErrChain))
		}
		if u.Creds != nil && u.Creds.Public() != u.Key() {
			found.add(l.creds(a.Name(), u.Name()), fmt.Errorf("the seed is not that of the user: %w", ErrInvalid))
		}
	}
}

// signed tells whether a user is this account's. The account's own key may
// sign for itself only: jwt/v2 passes over an issuer_account beside it.
func (a Account) signed(u User) bool {
	if of := u.claims.IssuerAccount; of != "" && of != a.Key() {
		return false
	}
	return a.claims.DidSign(u.claims)
}

// sorted brings a store into the order that Store promises.
func (s *Store) sorted() {
	slices.SortFunc(s.Accounts, func(a, b Account) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, a := range s.Accounts {
		slices.SortFunc(a.Users, func(a, b User) int { return cmp.Compare(a.Name(), b.Name()) })
	}
	slices.SortFunc(s.Strays, func(a, b Stray) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Name, b.Name))
	})
}

// kindOf is the kind of a public key; false for what nsc keeps no seed of.
func kindOf(pub string) (keystore.Kind, bool) {
	if pub == "" {
		return 0, false
	}
	kind, ok := kinds()[pub[:1]]
	return kind, ok && nkeys.IsValidPublicKey(pub) && nkeys.Prefix(pub) == nkeys.PrefixByte(kind)
}

// kinds are the folders below keys/, and the kinds of keys in them. nsc itself
// makes the first four; `nsc import keys` takes the others, too.
func kinds() map[string]keystore.Kind {
	return map[string]keystore.Kind{
		"O": keystore.Operator,
		"A": keystore.Account,
		"U": keystore.User,
		"X": keystore.Curve,
		"N": keystore.Server,
		"C": keystore.Kind(nkeys.PrefixByteCluster),
	}
}
