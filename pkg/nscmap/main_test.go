package nscmap_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscmap"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

func now() time.Time { return time.Unix(1_790_000_000, 0) }

// tb is what testing.TB and rapid.T have in common.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func must[T any](t tb) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// maker makes an operator as nsc would. Its keys come from a count, so that a failing
// property shrinks and a fuzz corpus stays the same.
type maker struct {
	t        tb
	n        int
	op, sk   *keystore.Key
	oc       *jwt.OperatorClaims
	keys     map[string]*keystore.Key
	accounts []*jwt.AccountClaims
	users    map[string][]nscstore.User // by the account's key
	strays   []nscstore.Stray
	managed  bool
	by       *keystore.Key // signs the operator; nil: op
}

func newMaker(t tb) *maker {
	m := &maker{t: t, keys: map[string]*keystore.Key{}, users: map[string][]nscstore.User{}}
	m.op, m.sk = m.key(keystore.Operator), m.key(keystore.Operator)
	m.oc = jwt.NewOperatorClaims(m.op.Public())
	m.oc.Name = "Big Op"
	m.oc.SigningKeys.Add(m.sk.Public())
	sys := m.account("SYS")
	m.oc.SystemAccount = sys.Subject
	return m
}

// fork is a copy that makes keys of its own.
func (m *maker) fork(t tb) *maker {
	out := *m
	out.t, out.keys = t, maps.Clone(m.keys)
	return &out
}

func (m *maker) key(kind keystore.Kind) *keystore.Key {
	m.t.Helper()
	m.n++
	raw := bytes.Repeat([]byte{byte(m.n), byte(m.n >> 8)}, 16)
	seed := must[[]byte](m.t)(nkeys.EncodeSeed(nkeys.PrefixByte(kind), raw))
	k := must[*keystore.Key](m.t)(keystore.Parse(kind, seed))
	m.keys[k.Public()] = k
	return k
}

// account adds an account as nsc makes it.
func (m *maker) account(name string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(m.key(keystore.Account).Public())
	c.Name = name
	m.accounts = append(m.accounts, c)
	return c
}

// role adds a role to an account, which may publish and subscribe to its own subjects.
func (m *maker) role(c *jwt.AccountClaims, name string) *jwt.UserScope {
	s := jwt.NewUserScope()
	s.Key, s.Role = m.key(keystore.Account).Public(), name
	s.Template.Pub.Allow.Add("q.>")
	s.Template.Sub.Allow.Add("q.>", "_INBOX_{{subject()}}.>")
	c.SigningKeys.AddScopedSigner(s)
	return s
}

// user adds a user, signed by a key of the account, with a creds file.
func (m *maker) user(c *jwt.AccountClaims, name, by string, edit ...func(*jwt.UserClaims)) nscstore.User {
	m.t.Helper()
	key := m.key(keystore.User)
	uc := jwt.NewUserClaims(key.Public())
	uc.Name = name
	if by != c.Subject {
		uc.IssuerAccount = c.Subject
	}
	if c.SigningKeys[by] != nil {
		uc.SetScoped(true)
	}
	for _, f := range edit {
		f(uc)
	}
	u := must[nscstore.User](m.t)(nscstore.ParseUser(m.sign(uc, m.keys[by])))
	u.Creds = key
	m.users[c.Subject] = append(m.users[c.Subject], u)
	return u
}

func (m *maker) sign(c jwt.Claims, by *keystore.Key) string {
	m.t.Helper()
	return must[string](m.t)(c.Encode(by.Pair()))
}

// store is all of it as it is read from a disk.
func (m *maker) store() *nscstore.Store {
	m.t.Helper()
	by := m.by
	if by == nil {
		by = m.op
	}
	s := &nscstore.Store{
		Name: "Big Op", Managed: m.managed, Operator: must[nscstore.Operator](m.t)(nscstore.ParseOperator(m.sign(m.oc, by))),
		Keys: maps.Clone(m.keys), Strays: m.strays,
	}
	for _, c := range m.accounts {
		a := must[nscstore.Account](m.t)(nscstore.ParseAccount(m.sign(c, m.sk)))
		a.Users = m.users[c.Subject]
		s.Accounts = append(s.Accounts, a)
	}
	slices.SortFunc(s.Accounts, func(a, b nscstore.Account) int { return strings.Compare(a.Name(), b.Name()) })
	return s
}

func name(t tb, s string) ident.Name { t.Helper(); return must[ident.Name](t)(ident.ParseName(s)) }

func label(t tb, s string) ident.Label { t.Helper(); return must[ident.Label](t)(ident.ParseLabel(s)) }

func region(t tb, s string) ident.Region {
	t.Helper()
	return must[ident.Region](t)(ident.ParseRegion(s))
}

// into is a platform without anything of the operator's.
func into(t tb) *manifest.File {
	return platform.NewFile(platform.Spec{
		Name: name(t, "moved"), Regions: []ident.Region{region(t, "ams"), region(t, "sfo")}, Home: region(t, "ams"), Nodes: 3, Port: 14000,
	})
}

// from moves an operator.
func from(t tb, s *nscstore.Store, edit ...func(*nscmap.Options)) *nscmap.Moved {
	t.Helper()
	o := nscmap.Options{Into: into(t), Now: now()}
	for _, f := range edit {
		f(&o)
	}
	return must[*nscmap.Moved](t)(nscmap.From(s, o))
}

// clean moves an operator of which everything goes along.
func clean(t tb, s *nscstore.Store, edit ...func(*nscmap.Options)) *nscmap.Moved {
	t.Helper()
	m := from(t, s, edit...)
	if len(m.Refused) > 0 {
		t.Fatalf("refused: %+v", m.Refused)
	}
	return m
}

// made are the claims that Herald makes of a platform, by account name; what has no key
// gets one from the maker, as the platform would make it.
func (m *maker) made(moved *nscmap.Moved) map[string]*jwt.AccountClaims {
	m.t.Helper()
	keys := claims.Keys{
		Accounts: map[ident.Label]ident.AccountKey{}, Roles: map[manifest.RoleRef]ident.AccountKey{}, Regions: map[ident.Region]ident.SealKey{},
	}
	public := func(k *keystore.Key) ident.AccountKey {
		if k == nil {
			k = m.key(keystore.Account)
		}
		return must[ident.AccountKey](m.t)(ident.ParseAccountKey(k.Public()))
	}
	for _, a := range moved.File.AllAccounts() {
		keys.Accounts[a.Name] = public(moved.Accounts[a.Name])
		for _, r := range a.Roles {
			ref := manifest.RoleRef{Account: a.Name, Role: r.Name}
			keys.Roles[ref] = public(moved.Roles[ref])
		}
	}
	out := map[string]*jwt.AccountClaims{}
	c := claims.New(moved.File, keys)
	for _, a := range c.Accounts() {
		ac := must[*jwt.AccountClaims](m.t)(c.Account(a, 1))
		ac.Revocations = moved.Revocations[a.Name]
		out[ac.Name] = ac
	}
	return out
}

// back is a platform that was moved, as an operator of nsc again.
func (m *maker) back(moved *nscmap.Moved) *nscstore.Store {
	m.t.Helper()
	made := m.made(moved)
	op := *moved.Operator
	tool := m.key(keystore.Operator)
	op.SigningKeys = append(slices.Clone(op.SigningKeys), tool.Public())
	op.StrictSigningKeyUsage, op.SystemAccount = true, made["SYS"].Subject
	l := nscmap.Leaving{
		Name: "Back", Operator: m.sign(&op, moved.Key), File: moved.File, Keys: slices.Collect(maps.Values(m.keys)), Users: moved.Users, Now: now(),
	}
	for _, c := range made {
		l.Accounts = append(l.Accounts, c)
	}
	left := must[*nscmap.Left](m.t)(nscmap.To(l))
	return left.Store
}

// item finds a refusal.
func item(list []nscmap.Item, what string) (nscmap.Item, bool) {
	i := slices.IndexFunc(list, func(i nscmap.Item) bool { return i.Item == what })
	if i < 0 {
		return nscmap.Item{}, false
	}
	return list[i], true
}

func items(list []nscmap.Item) []string {
	out := make([]string, len(list))
	for i, it := range list {
		out[i] = it.Item
	}
	return out
}
