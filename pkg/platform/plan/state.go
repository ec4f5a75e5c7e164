// Package plan says what would change: it holds what an operator describes against what
// is in force, three ways, so that a change that somebody else made is neither lost nor
// taken back unseen. It is pure; internal/apply carries a plan out.
package plan

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
	"golang.org/x/sync/errgroup"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

// State is a platform at one moment, as somebody knows it.
type State struct {
	// Accounts are by name.
	Accounts map[string]Known
	// Document is the platform document's content; its version is not compared. nil: there
	// is none.
	Document *ledger.Document
}

// Known is what is known of an account's base claims. Who signed them, when, their version
// and revocations are not compared.
type Known struct {
	Key    string // the account's public nkey
	Digest string // of the content
	Closed bool   // the account is no more
	// Claims gives all of it; it is asked for what has changed alone.
	Claims func() (*jwt.AccountClaims, error)
}

// Of gives what is known with the claims in hand.
func Of(c *jwt.AccountClaims) Known {
	return Known{
		Key: c.Subject, Digest: Digest(c), Closed: claims.IsClosed(c),
		Claims: func() (*jwt.AccountClaims, error) { return c, nil },
	}
}

// Digest is a digest of what of an account is compared: all but who signed, when, the
// version and revocations.
func Digest(c *jwt.AccountClaims) string { return digest(content(c)) }

// content is the same as text.
func content(c *jwt.AccountClaims) string {
	v := *c
	v.Issuer, v.IssuedAt, v.ID, v.Audience, v.Expires, v.NotBefore = "", 0, "", "", 0, 0
	v.Type, v.Version, v.Revocations = jwt.AccountClaim, 2, nil
	v.Tags = slices.DeleteFunc(slices.Clone(c.Tags), func(t string) bool { return strings.HasPrefix(t, trust.TagBase) })
	slices.Sort(v.Tags)
	data, err := json.Marshal(&v)
	if err != nil {
		return "unreadable: " + err.Error() // differs from everything that can be read
	}
	return string(data)
}

// part is a part of the platform document that somebody may change alone.
type part struct {
	key, value string
}

// Kinds of parts, in the order in which they are shown.
const (
	partName    = "name"
	partHome    = "home"
	partRegion  = "region "
	partMove    = "move of home in epoch "
	partAccount = "account "
	partRoom    = "room "
	partGrant   = "grant "
	partNames   = "names"
	partWho     = "identity "
	partSession = "session"
	partLogins  = "provider "
	partHost    = "limit per host"
	partEach    = "limit per identity"
	partChatIn  = "chat account"
	partAudit   = "records required"
	partDoor    = "tutorial door"
	partServers = "servers of "
	partTurning = "rotation of "
	partSealing = "replacement of "
)

// parts takes a document apart. Putting together what it gives makes an equal one.
func parts(d *ledger.Document) []part {
	if d == nil {
		return nil
	}
	var out []part
	put := func(key string, v any) {
		data, err := json.Marshal(v)
		if err != nil {
			data = []byte(err.Error())
		}
		out = append(out, part{key, string(data)})
	}
	p := d.Public
	put(partName, p.Name)
	put(partHome, p.Home)
	for _, r := range p.Regions {
		put(partRegion+r.Name.String(), r)
	}
	for _, a := range p.Accounts {
		put(partAccount+a.Name.String(), a)
	}
	put(partChatIn, p.Chat.Account)
	if p.TutorialDoor {
		put(partDoor, true)
	}
	for _, r := range p.Chat.Rooms {
		put(partRoom+r.Name.String(), r)
	}
	for _, o := range d.Policy.Offers {
		put(partGrant+grantName(o), o)
	}
	for _, p := range d.Providers {
		put(partLogins+p.Name.String(), p)
	}
	for _, n := range d.Policy.Identities {
		put(partWho+n.Name.String(), n)
	}
	if d.Policy.Session != 0 {
		put(partSession, d.Policy.Session)
	}
	if d.Policy.PerHost != nil {
		put(partHost, d.Policy.PerHost)
	}
	if d.Policy.PerIdentity != nil {
		put(partEach, d.Policy.PerIdentity)
	}
	put(partNames, d.Names)
	if d.AuditRequired {
		put(partAudit, true)
	}
	for _, r := range d.Servers {
		put(partServers+r.Region.String(), r)
	}
	for _, r := range d.Rotations {
		put(partTurning+r.Account.String()+"/"+r.Role.String(), r)
	}
	for _, r := range d.SealRotations {
		put(partSealing+r.What(), r)
	}
	for _, m := range d.Moves {
		put(fmt.Sprintf("%s%010d", partMove, m.Epoch), m)
	}
	return out
}

func grantName(o policy.Offer) string {
	if c := o.Conditions(); c != "" {
		return fmt.Sprintf("%s (%s) %s/%s", o.To(), c, o.Account, o.Role)
	}
	return fmt.Sprintf("%s %s/%s", o.To(), o.Account, o.Role)
}

// together makes a document of parts, in their order. Operator, version and the
// operator's word are those of whoever signs it.
func together(all []part) (*ledger.Document, error) {
	d := &ledger.Document{Public: &trust.Platform{}}
	for _, p := range all {
		var err error
		get := func(v any) { err = json.Unmarshal([]byte(p.value), v) }
		switch {
		case p.key == partName:
			get(&d.Public.Name)
		case p.key == partHome:
			get(&d.Public.Home)
		case p.key == partChatIn:
			get(&d.Public.Chat.Account)
		case p.key == partDoor:
			get(&d.Public.TutorialDoor)
		case p.key == partNames:
			get(&d.Names)
		case strings.HasPrefix(p.key, partRegion):
			err = appendTo(&d.Public.Regions, p.value)
		case strings.HasPrefix(p.key, partAccount):
			err = appendTo(&d.Public.Accounts, p.value)
		case strings.HasPrefix(p.key, partRoom):
			err = appendTo(&d.Public.Chat.Rooms, p.value)
		case strings.HasPrefix(p.key, partGrant):
			err = appendTo(&d.Policy.Offers, p.value)
		case strings.HasPrefix(p.key, partWho):
			err = appendTo(&d.Policy.Identities, p.value)
		case strings.HasPrefix(p.key, partLogins):
			err = appendTo(&d.Providers, p.value)
		case p.key == partHost:
			get(&d.Policy.PerHost)
		case p.key == partEach:
			get(&d.Policy.PerIdentity)
		case p.key == partSession:
			get(&d.Policy.Session)
		case p.key == partAudit:
			get(&d.AuditRequired)
		case strings.HasPrefix(p.key, partTurning):
			err = appendTo(&d.Rotations, p.value)
		case strings.HasPrefix(p.key, partMove):
			err = appendTo(&d.Moves, p.value)
		case strings.HasPrefix(p.key, partSealing):
			err = appendTo(&d.SealRotations, p.value)
		case strings.HasPrefix(p.key, partServers):
			err = appendTo(&d.Servers, p.value)
		}
		if err != nil {
			return nil, fmt.Errorf("putting the platform document together: %s: %w", p.key, err)
		}
	}
	return d, nil
}

func appendTo[T any](list *[]T, value string) error {
	var v T
	if err := json.Unmarshal([]byte(value), &v); err != nil {
		return err
	}
	*list = append(*list, v)
	return nil
}

// names are the names of accounts, by their keys.
func (s State) names() map[string]string {
	out := make(map[string]string, len(s.Accounts))
	for name, c := range s.Accounts {
		out[c.Key] = name
	}
	return out
}

// Desired is what the operator describes.
type Desired struct {
	// Accounts are their base claims, by name.
	Accounts map[string]*jwt.AccountClaims
	Document *ledger.Document
	// Order is the order of the accounts.
	Order []string
	// Unmade tells whether a key stands for one that is not made yet; nil: none does.
	Unmade func(key string) bool

	digests map[string]string
}

// Want compiles what an operator describes.
func Want(c *claims.Compiler, operator string) (Desired, error) {
	all := c.Accounts()
	d := Desired{
		Accounts: make(map[string]*jwt.AccountClaims, len(all)), digests: make(map[string]string, len(all)), Order: make([]string, len(all)),
	}
	made := make([]*jwt.AccountClaims, len(all))
	sums := make([]string, len(all))
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for i := w; i < len(all); i += workers {
				ac, err := c.Account(all[i], 0)
				if err != nil {
					return err
				}
				made[i], sums[i] = ac, Digest(ac)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return Desired{}, err
	}
	for i, ac := range made {
		d.Accounts[ac.Name], d.digests[ac.Name], d.Order[i] = ac, sums[i], ac.Name
	}
	public, err := c.Public(operator)
	if err != nil {
		return Desired{}, err
	}
	pol, err := c.Policy()
	if err != nil {
		return Desired{}, err
	}
	d.Document = &ledger.Document{Public: public, Policy: pol, Names: c.Names(), Providers: c.Providers(), AuditRequired: c.AuditRequired(), Servers: c.Servers()}
	return d, nil
}

// inOrder are the names of all accounts, wanted and in force, each once: first those that
// are wanted.
func inOrder(order []string, force map[string]Known) []string {
	seen := make(map[string]bool, len(order))
	for _, k := range order {
		seen[k] = true
	}
	out := slices.Clone(order)
	for k := range force {
		if !seen[k] {
			out = append(out, k)
		}
	}
	slices.Sort(out[len(order):])
	return out
}

// label is a name that was validated before.
func label(s string) ident.Label {
	l, err := ident.ParseLabel(s)
	if err != nil {
		return ident.Label{}
	}
	return l
}
