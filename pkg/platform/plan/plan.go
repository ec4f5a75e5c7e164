package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/claims"
)

// What happens to an account.
const (
	Create = "create"
	Change = "change"
	Close  = "close"
)

// Plan is what would change.
type Plan struct {
	// Accounts are those that change, in the file's order; those that close come last.
	Accounts []Account `json:"accounts"`
	// Same is how many accounts stay as they are.
	Same int `json:"same"`
	// Document is what changes in the platform document.
	Document []Line `json:"document"`
	// Elsewhere names what somebody else changed since this folder last applied, and what
	// this folder has nothing to say about: it stays.
	Elsewhere []string `json:"elsewhere,omitempty"`
	// Conflicts are what both changed, each in another way. Nothing is applied while there
	// are any, unless one side is chosen.
	Conflicts []Conflict `json:"conflicts,omitempty"`

	merged    []part   // the document that would be in force
	elsewhere []string // Elsewhere, as a Base calls it
}

// leave leaves what somebody else changed as it is.
func (p *Plan) leave(key, what string) {
	p.elsewhere, p.Elsewhere = append(p.elsewhere, key), append(p.Elsewhere, what)
}

// Account is an account that changes.
type Account struct {
	Name string `json:"name"`
	Key  string `json:"key"`
	How  string `json:"how"` // Create, Change or Close
	Diff []Line `json:"diff"`
	// Cut are the roles whose connections close: their template changes, or their key goes.
	Cut []Cut `json:"cut,omitempty"`
	// Loses says what else users of the account may notice: connections beyond a limit that
	// falls, streams that cannot be reached any more.
	Loses []string `json:"loses,omitempty"`

	// Want are the claims that would be in force, without version and signature.
	Want *jwt.AccountClaims `json:"-"`
	// Was are those in force, nil for a new account.
	Was *jwt.AccountClaims `json:"-"`
}

// Cut is a role whose live connections servers close.
type Cut struct {
	Role string `json:"role"`
	Key  string `json:"key"`
	// Back tells whether they may come back with the credential that they have.
	Back bool `json:"back"`
}

// Conflict is something that was changed here and elsewhere.
type Conflict struct {
	What string `json:"what"`
	Diff []Line `json:"diff"` // from what is in force to what this folder describes
}

// Empty tells whether nothing would change.
func (p *Plan) Empty() bool {
	return len(p.Accounts) == 0 && len(p.Document) == 0 && len(p.Conflicts) == 0
}

// Cuts tells whether connections would be closed because of their roles.
func (p *Plan) Cuts() bool {
	return slices.ContainsFunc(p.Accounts, func(a Account) bool { return len(a.Cut) > 0 })
}

// Destroys tells whether somebody may lose something for certain: an account closes, or has
// less than it had.
func (p *Plan) Destroys() bool {
	return slices.ContainsFunc(p.Accounts, func(a Account) bool { return a.How == Close || len(a.Loses) > 0 })
}

// loses says what an account has less of than it had, beside its roles.
func loses(was, want *jwt.AccountClaims) []string {
	if was == nil {
		return nil
	}
	var out []string
	less := func(before, after int64) bool { return after >= 0 && (before < 0 || after < before) }
	a, b := was.Limits, want.Limits
	if less(a.Conn, b.Conn) {
		out = append(out, fmt.Sprintf("servers close connections beyond %d", b.Conn))
	}
	if less(a.LeafNodeConn, b.LeafNodeConn) {
		out = append(out, fmt.Sprintf("servers close leafnodes beyond %d", b.LeafNodeConn))
	}
	if a.IsJSEnabled() && !b.IsJSEnabled() {
		out = append(out, "its streams cannot be reached any more, until it has JetStream again")
	}
	return out
}

// Compute holds what is wanted against what is in force. base tells a change of this
// folder's from one of somebody else's. override takes what is described here wherever it
// differs, also over what somebody else changed.
func Compute(base Base, force State, want Desired, override bool) (*Plan, error) {
	p := &Plan{Accounts: []Account{}, Document: []Line{}}
	names := Names{Accounts: force.names(), Unmade: want.Unmade}
	for name, c := range want.Accounts {
		names.Accounts[c.Subject] = name
	}
	var closing []Account
	for _, name := range inOrder(want.Order, force.Accounts) {
		have, there := force.Accounts[name]
		var known *Known
		if there {
			known = &have
		}
		a, err := p.account(name, base, known, want.Accounts[name], want.digests[name], names, override)
		switch {
		case err != nil:
			return nil, fmt.Errorf("account %s: %w", name, err)
		case a == nil:
		case a.How == Close:
			closing = append(closing, *a)
		default:
			p.Accounts = append(p.Accounts, *a)
		}
	}
	p.Accounts = append(p.Accounts, closing...)
	p.document(base, force.Document, want.Document, override)
	if want.Unmade != nil {
		p.unmake(want.Unmade)
	}
	return p, nil
}

// accountKey is the public key of an account or of a role.
var accountKey = regexp.MustCompile(`\bA[A-Z2-7]{55}\b`)

// unmake says that apply makes a key, where what is shown stands for one: nobody is to
// copy it.
func (p *Plan) unmake(unmade func(key string) bool) {
	in := func(lines []Line) {
		for i, l := range lines {
			lines[i].Text = accountKey.ReplaceAllStringFunc(l.Text, func(k string) string {
				if unmade(k) {
					return "(that apply makes)"
				}
				return k
			})
		}
	}
	in(p.Document)
	for i := range p.Accounts {
		in(p.Accounts[i].Diff)
	}
	for i := range p.Conflicts {
		in(p.Conflicts[i].Diff)
	}
}

// account decides about one account; nil is that it stays as it is.
func (p *Plan) account(name string, base Base, force *Known, want *jwt.AccountClaims, ours string, names Names, override bool) (*Account, error) {
	key := keyOf(name)
	if want == nil && (force == nil || force.Closed) {
		return nil, nil
	}
	if want == nil {
		if !base.knows(key) && !override {
			// Never this folder's: somebody else's, of which it says nothing.
			p.leave(key, "account "+name)
			return nil, nil
		}
		k, err := ident.ParseAccountKey(force.Key)
		if err != nil {
			return nil, err
		}
		want = claims.Closed(label(name), k, 0)
		ours = Digest(want)
	}
	if force != nil && force.Digest == ours {
		p.Same++
		return nil, nil
	}
	var was *jwt.AccountClaims
	if force != nil {
		if force.Key != want.Subject {
			return nil, fmt.Errorf("its key in force is %s, and here %s: %w", force.Key, want.Subject, ErrOtherKey)
		}
		var err error
		if was, err = force.Claims(); err != nil {
			return nil, err
		}
	}
	change := diff(Statements(was, names), Statements(want, names))
	if force != nil && !override && !base.has(key, force.Digest) {
		if base.applied(key, ours) {
			p.leave(key, "account "+name)
		} else {
			p.Conflicts = append(p.Conflicts, Conflict{What: "account " + name, Diff: change})
		}
		return nil, nil
	}
	a := &Account{Name: name, Key: want.Subject, How: Change, Want: want, Was: was, Diff: change}
	switch {
	case claims.IsClosed(want):
		a.How = Close
	case force == nil || force.Closed:
		a.How = Create
	}
	a.Cut, a.Loses = cuts(was, want), loses(was, want)
	return a, nil
}

// cuts are the roles whose connections a change closes.
func cuts(was, want *jwt.AccountClaims) []Cut {
	if was == nil {
		return nil
	}
	var out []Cut
	for key, scope := range was.SigningKeys {
		before, ok := scope.(*jwt.UserScope)
		if !ok {
			continue
		}
		after, stays := want.SigningKeys[key].(*jwt.UserScope)
		if stays && sameTemplate(before.Template, after.Template) {
			continue
		}
		out = append(out, Cut{Role: before.Role, Key: key, Back: stays})
	}
	slices.SortFunc(out, func(a, b Cut) int { return strings.Compare(a.Role, b.Role) })
	return out
}

func sameTemplate(a, b jwt.UserPermissionLimits) bool {
	x, errx := json.Marshal(a)
	y, erry := json.Marshal(b)
	return errx == nil && erry == nil && string(x) == string(y)
}

// document merges the platform document, part by part.
func (p *Plan) document(base Base, force, want *ledger.Document, override bool) {
	f := index(parts(force))
	seen := map[string]bool{}
	for _, w := range parts(want) {
		seen[w.key] = true
		have, there := f[w.key]
		diff := change(w.key, have, there, w.value, true)
		switch {
		case there && have == w.value:
		case override || force == nil || there && base.has(w.key, digest(have)) || !there && !base.ever(w.key):
			// Nobody else touched it.
			p.Document = append(p.Document, diff...)
		case base.applied(w.key, digest(w.value)):
			p.leave(w.key, w.key)
			if !there {
				continue // removed elsewhere
			}
			w.value = have
		default:
			p.Conflicts = append(p.Conflicts, Conflict{What: w.key, Diff: diff})
		}
		p.merged = append(p.merged, w)
	}
	for _, have := range parts(force) {
		if seen[have.key] {
			continue
		}
		diff := change(have.key, have.value, true, "", false)
		switch {
		case override || base.has(have.key, digest(have.value)):
			p.Document = append(p.Document, diff...)
		case base.knows(have.key):
			p.Conflicts = append(p.Conflicts, Conflict{What: have.key, Diff: diff})
		default:
			p.leave(have.key, have.key)
			p.merged = append(p.merged, have)
		}
	}
}

// Equal tells whether two documents say the same, whatever their versions.
func Equal(a, b *ledger.Document) bool { return slices.Equal(parts(a), parts(b)) }

func index(all []part) map[string]string {
	m := make(map[string]string, len(all))
	for _, p := range all {
		m[p.key] = p.value
	}
	return m
}

// change says how a part of the platform document changes, for people.
func change(key, was string, there bool, now string, stays bool) []Line {
	var before, after []string
	if there {
		before = sayPart(key, was)
	}
	if stays {
		after = sayPart(key, now)
	}
	return diff(before, after)
}

// Merged is the document that would be in force, without operator, version and the
// operator's word for it.
func (p *Plan) Merged() (*ledger.Document, error) { return together(p.merged) }

// ErrOtherKey is wrapped where an account that is in force has another key than the one
// in this folder: two folders made it.
var ErrOtherKey = errors.New("another key than this folder has")
