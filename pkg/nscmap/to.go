package nscmap

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// Leaving is a platform that becomes an operator of nsc.
type Leaving struct {
	// Name is what nsc is to call the operator.
	Name string
	// Operator is the operator JWT, which stays as it is.
	Operator string
	// Accounts are those in force, with their revocations. They are signed anew; closed
	// ones are passed over.
	Accounts []*jwt.AccountClaims
	// File describes the platform: it says who may import what is private.
	File *manifest.File
	// Keys are all seeds that there are. One of the operator's signing keys must be among
	// them, and the keys of accounts that export something to named accounts alone.
	Keys []*keystore.Key
	// Users are users with their credentials; their names in nsc are those of their JWTs.
	Users []User
	Now   time.Time
}

// Left is what To makes of a platform.
type Left struct {
	Store *nscstore.Store
	// Notes say what is otherwise there than here.
	Notes []Note
}

// To makes an operator of nsc of a platform; what nsc knows nothing of is not in it. The
// error wraps ErrNoSeed where a seed is missing without which something cannot be signed.
func To(l Leaving) (*Left, error) {
	op, err := nscstore.ParseOperator(l.Operator)
	if err != nil {
		return nil, fmt.Errorf("the operator: %w", err)
	}
	e := &exporter{
		Leaving: l, keys: map[string]*keystore.Key{}, accounts: map[string]*jwt.AccountClaims{},
		out: &Left{Store: &nscstore.Store{Name: l.Name, Operator: op, Keys: map[string]*keystore.Key{}}},
	}
	for _, k := range l.Keys {
		e.keys[k.Public()], e.out.Store.Keys[k.Public()] = k, k
	}
	for _, pub := range slices.Sorted(slices.Values(op.Claims().SigningKeys)) {
		if k := e.keys[pub]; k != nil && e.signer == nil {
			e.signer = k
		}
	}
	if e.signer == nil {
		return nil, fmt.Errorf("none of the operator's signing keys is here, by which accounts are signed: %w", ErrNoSeed)
	}
	for _, c := range l.Accounts {
		if claims.IsClosed(c) {
			e.note(c.Name, "it is closed, and left out")
			continue
		}
		e.accounts[c.Name] = e.plain(c)
	}
	if err := e.private(); err != nil {
		return nil, err
	}
	return e.out, e.store()
}

type exporter struct {
	Leaving
	keys     map[string]*keystore.Key
	accounts map[string]*jwt.AccountClaims // by name
	signer   *keystore.Key
	out      *Left
}

func (e *exporter) note(item, format string, args ...any) {
	e.out.Notes = append(e.out.Notes, Note{item, fmt.Sprintf(format, args...)})
}

// plain are the claims of an account without what is Herald's own in them: the version of
// base claims, which would be wrong from the first change by nsc on, and the way in which
// it says that leafnodes are without limit.
func (e *exporter) plain(c *jwt.AccountClaims) *jwt.AccountClaims {
	out := *c
	out.Tags = slices.DeleteFunc(slices.Clone(c.Tags), func(t string) bool { return strings.HasPrefix(t, trust.TagBase) })
	if slices.Contains(manifest.OwnAccounts(), c.Name) {
		out.Tags.Add(OwnTag)
	}
	if out.Limits.LeafNodeConn == math.MaxInt32 {
		out.Limits.LeafNodeConn = jwt.NoLimit
	}
	out.Revocations = maps.Clone(c.Revocations)
	out.Exports, out.Imports = make(jwt.Exports, len(c.Exports)), make(jwt.Imports, len(c.Imports))
	for i, x := range c.Exports {
		one := *x
		out.Exports[i] = &one
	}
	for i, x := range c.Imports {
		one := *x
		out.Imports[i] = &one
	}
	return &out
}

// private makes activations for what is exported to named accounts alone: in nsc these say
// who may import it.
func (e *exporter) private() error {
	for _, a := range e.File.AllAccounts() {
		from := e.accounts[a.Name.String()]
		if from == nil {
			continue
		}
		for _, described := range a.Exports {
			i := slices.IndexFunc(from.Exports, func(x *jwt.Export) bool {
				return string(x.Subject) == described.Subject && x.Type.String() == described.Type
			})
			if i < 0 || len(described.Only) == 0 {
				continue
			}
			key := e.keys[from.Subject]
			if key == nil {
				return fmt.Errorf("account %s, which exports %q to named accounts alone and has to sign activations for them: %w", a.Name, described.Subject, ErrNoSeed)
			}
			from.Exports[i].TokenReq = true
			e.note(from.Name+"/exports/"+described.Type+"/"+described.Subject, "who may import it is in activations there")
			for _, to := range described.Only {
				if err := e.activate(key, from.Exports[i], e.accounts[to.String()]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// activate gives an account's imports of an export their activation.
func (e *exporter) activate(key *keystore.Key, x *jwt.Export, to *jwt.AccountClaims) error {
	if to == nil {
		return nil
	}
	for _, i := range to.Imports {
		if i.Account != key.Public() || i.Type != x.Type || !i.Subject.IsContainedIn(x.Subject) {
			continue
		}
		act := jwt.NewActivationClaims(to.Subject)
		act.Name, act.ImportSubject, act.ImportType = x.Name, x.Subject, x.Type
		act.Issuer, act.IssuedAt = key.Public(), e.Now.Unix()
		act.Type, act.Version = jwt.ActivationClaim, 2
		act.ID = trust.ID(act.Subject, act.Issuer, x.Type.String(), string(x.Subject), strconv.FormatInt(act.IssuedAt, 10))
		token, err := trust.EncodeJWT(act, key)
		if err != nil {
			return fmt.Errorf("an activation for account %s: %w", to.Name, err)
		}
		i.Token = token
	}
	return nil
}

// store signs the accounts, and puts users to them.
func (e *exporter) store() error {
	s := e.out.Store
	for _, name := range slices.Sorted(maps.Keys(e.accounts)) {
		c := e.accounts[name]
		c.Type, c.Version = jwt.AccountClaim, 2
		c.Issuer, c.IssuedAt = e.signer.Public(), e.Now.Unix()
		c.ID = trust.ID(c.Subject, c.Issuer, "nsc", strconv.FormatInt(c.IssuedAt, 10))
		token, err := trust.EncodeJWT(c, e.signer)
		if err != nil {
			return fmt.Errorf("signing account %s: %w", name, err)
		}
		a, err := nscstore.ParseAccount(token)
		if err != nil {
			return fmt.Errorf("account %s: %w", name, err)
		}
		s.Accounts = append(s.Accounts, a)
	}
	return e.users()
}

// users puts users to their accounts. nsc has one of a name in an account.
func (e *exporter) users() error {
	s := e.out.Store
	at := make(map[string]int, len(s.Accounts))
	for i, a := range s.Accounts {
		at[a.Name()] = i
	}
	taken := map[[2]string]bool{}
	users := slices.Clone(e.Users)
	slices.SortFunc(users, func(a, b User) int {
		return cmp.Or(strings.Compare(a.Role.String(), b.Role.String()), strings.Compare(a.Name.String(), b.Name.String()))
	})
	for _, u := range users {
		out, err := nscstore.ParseUser(u.Token)
		if err != nil {
			return fmt.Errorf("user %s of %s: %w", u.Name, u.Role, err)
		}
		i, ok := at[u.Role.Account.String()]
		if !ok || !s.Accounts[i].Claims().SigningKeys.Contains(out.Claims().Issuer) {
			e.note(u.Role.Account.String()+"/users/"+u.Name.String(), "its role is no more; left out")
			continue
		}
		out.Creds = u.Key
		s.Keys[u.Key.Public()] = u.Key
		account := &s.Accounts[i]
		if name := [2]string{account.Name(), out.Name()}; !taken[name] {
			taken[name] = true
		} else {
			name := u.Role.Role.String() + "." + out.Name()
			s.Strays = append(s.Strays, nscstore.Stray{Account: account.Name(), Name: name, User: out})
			e.note(account.Name()+"/users/"+u.Name.String(), "another user of the account has its name; its creds file is there as %s", name)
			continue
		}
		account.Users = append(account.Users, out)
	}
	for i := range s.Accounts {
		slices.SortFunc(s.Accounts[i].Users, func(a, b nscstore.User) int { return strings.Compare(a.Name(), b.Name()) })
	}
	return nil
}
