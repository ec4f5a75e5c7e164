// Package permission decides what a NATS server would: whether somebody with a role may
// publish to a subject or subscribe to it, and by which line of the role's template. It
// asks no server. It expands the template as nats-server 2.15.2 does
// (processUserPermissionsTemplate) and compares subjects as it does (pubAllowed,
// canSubscribe); internal/permtest holds both against a real one.
//
// What it does not look at, and cannot answer for:
//
//   - Whether the user gets that far: expiry, revocation, hours, source networks, kinds
//     of connection, the limits on connections, subscriptions and payload.
//   - Imports and exports. A right to publish is none to be heard in another account,
//     and what an import brings is delivered if its subject here is subscribed to.
//   - The account's subject mappings. Servers map first, and then ask whether the user
//     may publish to what came out: ask about that, which pkg/permission/mapping gives.
//   - The reply subject of a request. Servers let the sender choose any, but for their
//     own (_R_, _GR_, $JS.ACK); see docs/architecture.md on what follows from that.
//   - MQTT, where some subjects of the server's own are allowed to everybody, and
//     leafnodes, where wider subscriptions are allowed and pruned.
package permission

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// Errors that callers can tell apart with errors.Is.
var (
	// ErrRefused: with this template every server refuses the user's connection, so there
	// are no rights to decide upon.
	ErrRefused = errors.New("servers refuse this user")
	// ErrUnknown: the template asks for a key of the user that was not given.
	ErrUnknown = errors.New("the user is not known well enough")
	// ErrSubject: no client can send this, or no server delivers it.
	ErrSubject = errors.New("not a subject")
)

// User is what servers look at when they expand a template: what its user JWT and the
// account's JWT say.
type User struct {
	// Key is the user's nkey. Where it is zero, templates with {{subject()}} have no
	// answer: ErrUnknown.
	Key ident.UserKey
	// Name is the name in the user JWT, whatever it is; it may be empty.
	Name string
	// Tags are those of the user JWT, each "key:value" in lower case, as jwt.TagList.Add
	// makes them. Servers compare the keys in lower case and take the values as they are.
	Tags jwt.TagList
	// Account is the account that the user is in.
	Account Account
}

// Account is what matters of an account's JWT; see AccountOf.
type Account struct {
	// Key is the account's identity. Where it is zero, templates with
	// {{account-subject()}} have no answer: ErrUnknown.
	Key ident.AccountKey
	// Name and Tags are those of the account JWT.
	Name string
	Tags jwt.TagList
	// Default are the account's default permissions. They are in force for users whose
	// template has none of its own, and are not expanded.
	Default jwt.Permissions
	// Mappings are what becomes of subjects that are published to. Nothing here applies
	// them: pkg/permission/mapping does.
	Mappings jwt.Mapping
	// Callout tells that the account's users are authenticated by auth callout.
	Callout bool
	// System tells that it is the system account.
	System bool
}

// AccountOf takes from an account JWT what matters here; system tells that it is that of
// the system account, which the JWT does not say.
func AccountOf(c *jwt.AccountClaims, system bool) (Account, error) {
	key, err := ident.ParseAccountKey(c.Subject)
	if err != nil {
		return Account{}, fmt.Errorf("account %.64q: %w", c.Name, err)
	}
	return Account{
		Key: key, Name: c.Name, Tags: c.Tags, Default: c.DefaultPermissions, Mappings: c.Mappings,
		Callout: c.HasExternalAuthorization(), System: system,
	}, nil
}

// Direction is which way messages go.
type Direction string

// The directions.
const (
	Publishing  Direction = "publish"
	Subscribing Direction = "subscribe"
)

// Effect is what a rule does.
type Effect string

// The effects.
const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
)

// Source is where a rule is written.
type Source string

// The sources.
const (
	FromTemplate Source = "template"        // of the role
	FromAccount  Source = "account default" // the account's default permissions
	FromServer   Source = "server"          // nobody wrote it
)

// Rule is one line of a list of permissions, as it is for one user. A line with tags may
// be several rules. The zero Rule is none.
type Rule struct {
	Source    Source
	Direction Direction
	Effect    Effect
	// Index is the line's place in its list, from 0; -1 where nobody wrote it.
	Index int
	// Written is the line as written, and Subject and Queue what servers make of it.
	// Queue is empty where the rule is not for a queue group alone; it may have wildcards.
	Written, Subject, Queue string
}

// IsZero tells whether there is no rule at all.
func (r Rule) IsZero() bool { return r == Rule{} }

// Expanded is the rule as it would be written without templates: the subject, and the
// queue group after a space if there is one.
func (r Rule) Expanded() string {
	if r.Queue == "" {
		return r.Subject
	}
	return r.Subject + " " + r.Queue
}

// String is such as: template: publish allow "a.{{name()}}" (here "a.b").
func (r Rule) String() string {
	if r.IsZero() {
		return "no rule"
	}
	s := string(r.Source) + ": " + string(r.Direction) + " " + string(r.Effect) + " "
	switch {
	case r.Index < 0:
		return s + strconv.Quote(r.Expanded())
	case r.Written == r.Expanded():
		return s + strconv.Quote(r.Written)
	default:
		return s + strconv.Quote(r.Written) + " (here " + strconv.Quote(r.Expanded()) + ")"
	}
}

// Ignored is a line that has no effect for this user, or does in part: Rule is how far it
// came, with the text that servers drop as its Subject.
type Ignored struct {
	Rule Rule
	Why  string
}

// Rights are what one user of a role may do.
type Rights struct {
	publish, subscribe side
	replies            *jwt.ResponsePermission
	ignored            []Ignored
	account            Account
}

// side is what is allowed and denied in one direction.
type side struct {
	only  bool // what is allowed is allowed; otherwise all is
	allow []Rule
	deny  []Rule
}

// For expands a role's template for a user. The error wraps ErrRefused or ErrUnknown.
// Nothing of template is changed or kept.
func For(template jwt.UserPermissionLimits, u User) (*Rights, error) {
	e, err := expandAll(template.Permissions, u)
	if err != nil {
		return nil, err
	}
	r := &Rights{account: u.Account, ignored: e.ignored, replies: e.replies}
	source := FromTemplate
	if e.empty() {
		d := u.Account.Default
		e = expanded{
			pub: lists{verbatim(d.Pub.Allow), verbatim(d.Pub.Deny)},
			sub: lists{verbatim(d.Sub.Allow), verbatim(d.Sub.Deny)},
		}
		r.replies, source = d.Resp, FromAccount
	}
	if r.replies != nil {
		r.replies = withDefaults(*r.replies)
	}
	r.publish = side{
		// An empty list that is there allows nothing; one that is not there, all.
		only:  r.replies != nil || e.pub.allow != nil && !e.pub.empty(),
		allow: r.rules(source, Publishing, Allow, e.pub.allow),
		deny:  r.rules(source, Publishing, Deny, e.pub.deny),
	}
	r.subscribe = side{
		only:  len(e.sub.allow) > 0,
		allow: r.rules(source, Subscribing, Allow, e.sub.allow),
		deny:  r.rules(source, Subscribing, Deny, e.sub.deny),
	}
	return r, nil
}

// withDefaults are the limits of replies as servers fill them in.
func withDefaults(p jwt.ResponsePermission) *jwt.ResponsePermission {
	if p.MaxMsgs == 0 {
		p.MaxMsgs = 1
	}
	if p.Expires == 0 {
		p.Expires = 2 * time.Minute
	}
	return &p
}

// rules are what a server keeps of a list; what it does not, it only logs.
func (r *Rights) rules(source Source, d Direction, f Effect, list []line) []Rule {
	var rules []Rule
	for _, l := range list {
		rule := Rule{Source: source, Direction: d, Effect: f, Index: l.index, Written: l.written, Subject: l.text}
		if l.index < 0 {
			rule.Source = FromServer
		}
		if d == Publishing && subject.ValidPattern(l.text) {
			rules = append(rules, rule)
			continue
		}
		s, queue, ok := splitQueue(l.text)
		if !ok || d == Publishing && f == Allow {
			r.ignored = append(r.ignored, Ignored{rule, "not a valid subject"})
			continue
		}
		rule.Subject = s
		if d == Subscribing { // a queue group means nothing where one publishes, and the denial stands
			rule.Queue = queue
		}
		rules = append(rules, rule)
	}
	return rules
}

// splitQueue parts "subject queue" as servers do: at all that Unicode calls white space,
// of which a subject may have some (U+00A0).
func splitQueue(s string) (subj, queue string, ok bool) {
	f := strings.Fields(s)
	switch {
	case len(f) == 0 || len(f) > 2 || !subject.ValidPattern(f[0]):
		return "", "", false
	case len(f) == 1:
		return f[0], "", true
	default:
		return f[0], f[1], subject.ValidPattern(f[1])
	}
}

// Rules are all that is in force, direction by direction, what is allowed first, in the
// order in which it is written. Where nothing in a direction is allowed by name,
// everything is that is not denied, but for publishing with Replies: then nothing is.
func (r *Rights) Rules() []Rule {
	return slices.Concat(r.publish.allow, r.publish.deny, r.subscribe.allow, r.subscribe.deny)
}

// Ignored are the lines that have no effect for this user: those that servers could not
// expand, and those that are no subject. A line that was to deny denies nothing then.
func (r *Rights) Ignored() []Ignored { return slices.Clone(r.ignored) }

// Replies tells whether the user may answer what it is sent, on whatever reply subject the
// sender chose and whatever is denied (allow_responses), and within which limits: MaxMsgs
// to a request, and Expires after it. Negative is without limit.
func (r *Rights) Replies() (jwt.ResponsePermission, bool) {
	if r.replies == nil {
		return jwt.ResponsePermission{}, false
	}
	return *r.replies, true
}
