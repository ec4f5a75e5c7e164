// Package nscmap is the way from an operator as the nsc tool keeps it to a platform as
// Herald describes it, and back. It is pure: a store that was read comes in, what is to be
// written goes out.
//
// What it carries, it carries exactly: the claims that Herald makes of the description say
// to servers what the imported ones said. Every import is held to that before it is given
// out. What cannot be carried so is refused by name, all of it at once; what the caller
// then leaves out gives nobody more than there was, for where a part limits somebody, the
// whole goes that it is a part of.
package nscmap

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// Errors of From and To.
var (
	// ErrUnknown: a new name, or an item that is to be left out, is of something that is
	// not there.
	ErrUnknown = errors.New("there is no such thing in the store")
	// ErrName: a new name cannot be.
	ErrName = errors.New("the name cannot be used")
	// ErrNoSeed: a seed is missing without which something cannot be written.
	ErrNoSeed = errors.New("a seed is missing")
)

// OwnTag is the tag by which To marks accounts that Herald itself brings, so that From
// does not take them for an operator's own. It is in no account that is in force.
const OwnTag = "herald:own"

// Options say how an operator becomes a platform.
type Options struct {
	// Into is the platform without the operator's accounts: its name, its regions, and
	// what else nsc knows nothing of. It is not changed.
	Into *manifest.File
	// Accounts are new names of accounts, by their names in nsc.
	Accounts map[string]ident.Label
	// Users are new names of users, by account and user in nsc. Their credentials keep the
	// name that they have; the records of Herald have this one.
	Users map[[2]string]ident.Name
	// Roles are new names of roles, by the public key.
	Roles map[string]ident.Label
	// LeaveOut names items that are left out; All leaves out whatever would be refused.
	LeaveOut []string
	All      bool
	// Now is the time at which it is seen what has expired.
	Now time.Time
}

// Item is something of an operator that cannot be carried.
type Item struct {
	// Item is what it is called, such as A/users/u1.
	Item string `json:"item"`
	// Why it cannot be carried, and what to do about it; each is one line.
	Why  string `json:"why"`
	Hint string `json:"hint"`
	// Fatal: without it nothing can be carried; it cannot be left out.
	Fatal bool `json:"fatal,omitempty"`
}

// Note is something that a reader of the outcome should know.
type Note struct {
	Item string `json:"item"`
	What string `json:"what"`
}

// User is a static user with a credential of its own.
type User struct {
	Role  manifest.RoleRef
	Name  ident.Name
	Token string // the user JWT
	Key   *keystore.Key
}

// Moved is an operator as a platform.
type Moved struct {
	// File describes the platform, with the operator's accounts.
	File *manifest.File
	// Operator are the operator's claims with those signing keys that go along. Who signs
	// them adds Herald's own, and the system account.
	Operator *jwt.OperatorClaims
	// Key is the operator's own key, and Signing the signing keys whose seeds there are.
	Key     *keystore.Key
	Signing []*keystore.Key
	// Accounts and Roles are keys that are kept. Whatever else the platform has needs new
	// ones.
	Accounts map[ident.Label]*keystore.Key
	Roles    map[manifest.RoleRef]*keystore.Key
	// Revocations are those of accounts, in seconds since 1970 by user key.
	Revocations map[ident.Label]jwt.RevocationList
	// Users are sorted by role and name.
	Users []User

	// Refused are the items that cannot be carried; while there are any, nothing above is
	// given. An account that is refused as a whole is looked at as if it went along, so that
	// all that is wrong with it is known; what cannot be without it is known once it is
	// left out.
	Refused []Item
	// LeftOut are those that were left out as the caller asked.
	LeftOut []Item
	// Renamed, changed in form, or worth knowing.
	Notes []Note
	// Behind stays where it is: nothing of the platform needs it.
	Behind []Note
}

// From makes a platform of an operator. Where something cannot be carried, Refused names
// it, and there is no error. Errors are ErrUnknown and ErrName.
func From(s *nscstore.Store, o Options) (*Moved, error) {
	m := &mover{
		s: s, o: o, leave: map[string]bool{}, used: map[string]bool{}, seen: map[string]bool{},
		byKey: map[string]*account{}, byName: map[ident.Label]*account{}, was: map[string]*jwt.AccountClaims{},
		out: &Moved{
			Accounts: map[ident.Label]*keystore.Key{}, Roles: map[manifest.RoleRef]*keystore.Key{},
			Revocations: map[ident.Label]jwt.RevocationList{},
		},
	}
	for _, item := range o.LeaveOut {
		m.leave[item] = true
	}
	m.operator()
	if err := m.choose(); err != nil {
		return nil, err
	}
	for _, a := range m.accounts {
		a.normal()
	}
	m.imports()
	if err := m.describe(); err != nil {
		return nil, err
	}
	m.users()
	m.behind()
	if err := m.unknown(); err != nil {
		return nil, err
	}
	for _, list := range [][]Item{m.out.Refused, m.out.LeftOut} {
		slices.SortStableFunc(list, func(a, b Item) int { return cmp.Compare(a.Item, b.Item) })
	}
	if len(m.out.Refused) > 0 {
		return &Moved{Refused: m.out.Refused, LeftOut: m.out.LeftOut}, nil
	}
	m.keep()
	return m.out, nil
}

// mover is one From.
type mover struct {
	s     *nscstore.Store
	o     Options
	out   *Moved
	leave map[string]bool // items that are to be left out
	used  map[string]bool // those of them that were
	seen  map[string]bool // refusals that are known

	accounts []*account // that go along, by their names in nsc
	byKey    map[string]*account
	byName   map[ident.Label]*account
	was      map[string]*jwt.AccountClaims // all of the store, by key, as they were
	// importers are who imports from an account, by its key.
	importers map[string][]importer
	system    string // the key of the system account; empty: it has none
}

// refuse notes that an item cannot be carried, or that it is left out. In either case
// the caller goes on without it, so that all that depends on it is found, too.
func (m *mover) refuse(item, why, hint string) {
	i := Item{Item: item, Why: why, Hint: hint}
	if m.seen[item+"\n"+why] {
		return
	}
	m.seen[item+"\n"+why] = true
	if m.leaves(item) {
		m.used[item] = true
		m.out.LeftOut = append(m.out.LeftOut, i)
		return
	}
	m.out.Refused = append(m.out.Refused, i)
}

// leaves tells whether the caller wants an item to be left out.
func (m *mover) leaves(item string) bool { return m.o.All || m.leave[item] }

// fatal notes what nothing can be done without.
func (m *mover) fatal(item, why, hint string) {
	m.out.Refused = append(m.out.Refused, Item{Item: item, Why: why, Hint: hint, Fatal: true})
}

func (m *mover) note(item, format string, args ...any) {
	m.out.Notes = append(m.out.Notes, Note{item, fmt.Sprintf(format, args...)})
}

func (m *mover) stays(item, format string, args ...any) {
	m.out.Behind = append(m.out.Behind, Note{item, fmt.Sprintf(format, args...)})
}

// unknown refuses what the caller says of things that are not there: most likely it was
// mistyped, and something else was meant.
func (m *mover) unknown() error {
	var errs []error
	for _, item := range slices.Sorted(maps.Keys(m.leave)) {
		if !m.used[item] && !m.within(item) {
			errs = append(errs, fmt.Errorf("%q, which is to be left out, is nothing that is refused: %w", item, ErrUnknown))
		}
	}
	accounts, roles, users := map[string]bool{}, map[string]bool{}, map[[2]string]bool{}
	for _, a := range m.s.Accounts {
		accounts[a.Name()] = true
		for key := range a.Claims().SigningKeys {
			roles[key] = true
		}
		for _, u := range a.Users {
			users[[2]string{a.Name(), u.Name()}] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.o.Accounts)) {
		if !accounts[name] {
			errs = append(errs, fmt.Errorf("account %q, which is to be renamed: %w", name, ErrUnknown))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.o.Roles)) {
		if !roles[key] {
			errs = append(errs, fmt.Errorf("the role with the key %.60q, which is to be named: %w", key, ErrUnknown))
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(m.o.Users), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		if !users[ref] {
			errs = append(errs, fmt.Errorf("user %q of account %q, which is to be renamed: %w", ref[1], ref[0], ErrUnknown))
		}
	}
	return errors.Join(errs...)
}

// within tells whether an item is a part of one that was left out.
func (m *mover) within(item string) bool {
	return slices.ContainsFunc(m.out.LeftOut, func(i Item) bool { return strings.HasPrefix(item, i.Item+"/") })
}

// operator looks at the operator itself.
func (m *mover) operator() {
	const what = "operator"
	op := m.s.Operator
	c := op.Claims()
	if m.s.Managed {
		m.fatal(what, "it is somebody else's (managed), who signs its accounts", "import it where its owner keeps it")
	} else if m.out.Key = m.s.Keys[op.Key()]; m.out.Key == nil {
		m.fatal(what, "the seed of its own key "+op.Key()+" is not in the keystore, and its JWT must be signed anew", "bring the seed there for the import (nsc import keys), and away again")
	}
	now := m.o.Now.Unix()
	if c.Expires != 0 {
		m.refuse(what+"/expiry", "its JWT expires on "+date(c.Expires)+", and those of Herald do not", "take the end away with nsc, or leave it out")
	}
	if c.NotBefore > now {
		m.refuse(what+"/not-before", "its JWT begins on "+date(c.NotBefore)+", and those of Herald begin at once", "leave it out")
	}
	for _, path := range op.Lost() {
		m.refuse(what+"/"+path, "this version does not know what it is", "use a later version of Herald, or leave it out")
	}
	out := *c
	out.Tags = slices.Clone(c.Tags)
	out.OperatorServiceURLs = slices.Clone(c.OperatorServiceURLs)
	out.Expires, out.NotBefore, out.Audience, out.SystemAccount = 0, 0, "", ""
	if c.Audience != "" {
		m.refuse(what+"/audience", "its JWT has an audience, which nothing looks at", "leave it out")
	}
	if u := c.AccountServerURL; u != "" && !strings.HasPrefix(u, "nats://") && !strings.HasPrefix(u, "tls://") {
		m.refuse(what+"/account-server-url", "its accounts are pushed to an account server, and those of Herald to NATS servers", "leave it out")
		out.AccountServerURL = ""
	}
	out.SigningKeys = nil
	for _, key := range slices.Sorted(slices.Values(c.SigningKeys)) {
		seed := m.s.Keys[key]
		switch {
		case seed != nil:
			m.out.Signing = append(m.out.Signing, seed)
		case !op.SelfSigned():
			// Whoever had one signing key could have put in others.
			m.refuse(what+"/signing-keys/"+key, "its seed is not in the keystore, and the operator's JWT is signed by a signing key: nothing proves that the operator named this one",
				"bring its seed into the keystore, or leave it out")
			continue
		default:
			m.note(what+"/signing-keys/"+key, "its seed is not in the keystore; who has it can sign accounts of the platform")
		}
		out.SigningKeys.Add(key)
	}
	m.out.Operator = &out
	if m.system = c.SystemAccount; m.system == "" {
		m.note(what, "it has no system account: a new one is made")
	} else if !slices.ContainsFunc(m.s.Accounts, func(a nscstore.Account) bool { return a.Key() == m.system }) {
		m.refuse(what+"/system-account", "the system account "+m.system+" is not in the store", "bring its JWT there, or leave it out: then a new one is made")
		m.system = ""
	}
}

// choose says which accounts go along, and under which names.
func (m *mover) choose() error {
	for _, sa := range m.s.Accounts {
		m.was[sa.Key()] = sa.Claims()
	}
	for _, sa := range m.s.Accounts {
		a, err := m.account(sa)
		if err != nil {
			return err
		}
		if a == nil {
			continue
		}
		if other := m.byName[a.name]; other != nil {
			m.refuse(a.src, fmt.Sprintf("account %q is called %s already", other.src, a.name), "give it another name with --rename")
			continue // also for what imports from it, since there is nothing to call it by
		}
		m.accounts = append(m.accounts, a)
		m.byKey[a.key], m.byName[a.name] = a, a
		if rev := a.c.Revocations; len(rev) > 0 {
			m.out.Revocations[a.name] = maps.Clone(rev)
		}
	}
	return nil
}

// account prepares one account; nil if it cannot go along as a whole.
func (m *mover) account(sa nscstore.Account) (*account, error) {
	c, err := jwt.DecodeAccountClaims(sa.Token())
	if err != nil {
		return nil, fmt.Errorf("account %q: %w", sa.Name(), err)
	}
	a := &account{m: m, src: sa.Name(), key: sa.Key(), c: c, users: sa.Users, roles: map[string]ident.Label{}}
	a.system = a.key == m.system
	a.own = a.system || slices.Contains(c.Tags, OwnTag) && slices.Contains(manifest.OwnAccounts(), a.src)
	refused := false
	whole := func(why, hint string) {
		m.refuse(a.src, why, hint)
		refused = true
	}
	switch now := m.o.Now.Unix(); {
	case c.Expires != 0 && c.Expires <= now:
		whole("it expired on "+date(c.Expires)+": servers let nobody in", "take its end away with nsc (edit account --expiry 0), or leave it out")
	case c.Expires != 0:
		whole("it expires on "+date(c.Expires)+", and accounts of Herald do not", "take its end away with nsc (edit account --expiry 0), or leave the account out")
	case c.NotBefore > now:
		whole("it begins on "+date(c.NotBefore)+", and accounts of Herald begin at once", "take its beginning away with nsc, or leave the account out")
	}
	if m.s.Keys[a.key] == nil && a.system {
		whole("the seed of the system account is not in the keystore", "bring it there, or leave it out: then a new system account is made")
	} else if m.s.Keys[a.key] == nil {
		whole("its seed "+a.key+" is not in the keystore", "bring it there, or leave the account out")
	}
	if lost := lost(sa); len(lost) > 0 {
		whole("this version does not know what it is: "+strings.Join(lost, ", "), "use a later version of Herald, or leave the account out")
	}
	if refused && m.leaves(a.src) {
		return nil, nil
	}
	// It is looked at as if all that was put right, so that what else is wrong with it is
	// found at once.
	if there, err := a.named(); err != nil || !there {
		return nil, err
	}
	return a, nil
}

// lost are members of the account's JWT that this version does not know. nsc leaves limits
// for all streams beside those of tiers at times, and nothing reads them.
func lost(sa nscstore.Account) []string {
	paths := sa.Lost()
	if len(sa.Claims().Limits.JetStreamTieredLimits) == 0 {
		return paths
	}
	return slices.DeleteFunc(paths, func(p string) bool {
		name, ok := strings.CutPrefix(p, "nats.limits.")
		return ok && slices.Contains([]string{
			"mem_storage", "disk_storage", "streams", "consumer", "max_ack_pending", "mem_max_stream_bytes", "disk_max_stream_bytes", "max_bytes_required",
		}, name)
	})
}

// named gives the account its name here; false if it is left out for want of one.
func (a *account) named() (bool, error) {
	m := a.m
	fresh, renamed := m.o.Accounts[a.src]
	switch {
	case a.own && renamed:
		return false, fmt.Errorf("account %q is one that Herald itself has, and keeps its name: %w", a.src, ErrName)
	case a.system:
		a.name = label(manifest.System)
		if a.src != manifest.System {
			m.note(a.src, "the system account is called %s here, with the key that it has", manifest.System)
		}
		return true, nil
	case a.own:
		a.name = label(a.src)
		return true, nil
	case renamed:
		if slices.Contains(manifest.OwnAccounts(), fresh.String()) {
			return false, fmt.Errorf("account %q cannot be called %s, which is Herald's own: %w", a.src, fresh, ErrName)
		}
		a.name = fresh
		m.note(a.src, "it is called %s here", fresh)
		return true, nil
	}
	name, err := ident.ParseLabel(a.src)
	switch {
	case err != nil:
		m.refuse(a.src, "the name of an account is 1 to 32 of A-Z, a-z, 0-9, _ and -", "give it another name with --rename")
	case slices.Contains(manifest.OwnAccounts(), a.src):
		m.refuse(a.src, "Herald has an account of its own called "+a.src, "give it another name with --rename")
	default:
		a.name = name
		return true, nil
	}
	// It goes on under a name that nobody else has, so that all that is wrong with it is
	// found at once.
	a.name = label("x" + strings.ToLower(a.key[len(a.key)-16:]))
	return !m.leaves(a.src), nil
}

// keep gathers what the platform keeps.
func (m *mover) keep() {
	there := m.roles()
	for _, a := range m.accounts {
		if a.gone {
			delete(m.out.Revocations, a.name)
			continue
		}
		m.out.Accounts[a.name] = m.s.Keys[a.key]
		for key, role := range a.roles {
			if ref := (manifest.RoleRef{Account: a.name, Role: role}); there[ref] {
				m.out.Roles[ref] = m.s.Keys[key]
			}
		}
	}
}

// behind names what is in the store and of no use here.
func (m *mover) behind() {
	for _, s := range m.s.Strays {
		m.stays("creds/"+s.Account+"/"+s.Name, "the credential of a user that is not in the store any more")
	}
	carried := map[string]bool{m.s.Operator.Key(): true}
	for _, k := range m.out.Signing {
		carried[k.Public()] = true
	}
	for _, a := range m.accounts {
		carried[a.key] = !a.gone
		for key := range a.roles {
			carried[key] = true
		}
	}
	for _, u := range m.out.Users {
		carried[u.Key.Public()] = true
	}
	named := m.s.Named()
	for _, key := range slices.Sorted(maps.Keys(m.s.Keys)) {
		if carried[key] {
			continue
		}
		if what := named[key]; what == "" {
			m.stays("keys/"+key, "a seed that nothing of this operator names")
		} else if strings.HasPrefix(key, "X") {
			m.stays("keys/"+key, "the seed of the %s: its service keeps it", what)
		} else {
			m.stays("keys/"+key, "the seed of: %s", what)
		}
	}
	slices.SortFunc(m.out.Users, func(a, b User) int {
		return cmp.Or(cmp.Compare(a.Role.String(), b.Role.String()), cmp.Compare(a.Name.String(), b.Name.String()))
	})
}

func date(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04:05 UTC") }

// label is a name that is written here, and so is valid.
func label(s string) ident.Label {
	l, err := ident.ParseLabel(s)
	if err != nil {
		panic(err)
	}
	return l
}
