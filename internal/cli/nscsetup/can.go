package nscsetup

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/permission/mapping"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

type canOptions struct {
	user  string
	name  string
	tags  []string
	queue string
	file  bool
}

func newCan(g *globals) *cobra.Command {
	var o canOptions
	c := &cobra.Command{
		Use:   "can ACCOUNT/ROLE publish|subscribe SUBJECT",
		Short: "Say whether a role may publish or subscribe, and by which line",
		Long: `can decides as the servers do whether a user of a role may publish to a subject, or
subscribe to one, and shows the line of the role that decided. It asks no server. It
looks at the role as this folder last put it in force; with --file, as platform.yaml
has it now.

Templates such as {{subject()}} and {{tag(region)}} are filled in for the user: name
its nkey, or a static user of the role, with --user, and its tags with --tag. Without
--user it is decided for an nkey that nobody has. The subject is as a client sends it:
to publish to a wildcard is to publish to that very word; a subscription may have
wildcards, and what a denial takes out of it is shown.

Where mappings of the account take the subject, servers decide upon what it becomes;
that is shown, and all that it may become must be allowed.

Not looked at: expiry, revocation, hours, networks and limits; what imports make of a
subject; and that whoever may send a request anywhere may have the answer land on any
subject of its account.

Exit codes: 0 allowed, 1 denied, 2 that is no subject.`,
		Example: `  nscsetup can CHAT/member publish chat.KUBECON.posts.General
  nscsetup can ORDERS/service subscribe 'orders.*.new' --queue workers
  nscsetup can ORDERS/service publish orders.eu.new --user mail --file
  nscsetup can ORDERS/service publish orders.eu.new --tag team:eu --json`,
		Args: cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error { return runCan(g, o, args[0], args[1], args[2]) },
	}
	f := c.Flags()
	f.StringVar(&o.user, "user", "", "the user's `nkey`, or the name of a static user of the role")
	f.StringVar(&o.name, "name", "", "the user's `name`, for templates that ask for it")
	f.StringArrayVar(&o.tags, "tag", nil, "a tag of the user, as `key:value`; repeat it for each")
	f.StringVar(&o.queue, "queue", "", "subscribe with this queue `group`")
	f.BoolVar(&o.file, "file", false, "as platform.yaml has it, applied or not")
	return c
}

// canReport is what `can --json` says.
type canReport struct {
	Role      string    `json:"role"`
	Direction string    `json:"direction"`
	Subject   string    `json:"subject"`
	Queue     string    `json:"queue,omitempty"`
	From      string    `json:"from"` // where the role was looked up: "in force" or "platform.yaml"
	Allowed   bool      `json:"allowed"`
	AsReply   bool      `json:"only_as_reply"`
	Rule      *canRule  `json:"rule,omitempty"` // the line that decided, if one did
	Note      string    `json:"note,omitempty"`
	Filtered  []canRule `json:"filtered,omitempty"` // denials within an allowed subscription
	Ignored   []string  `json:"without_effect,omitempty"`
	Refused   string    `json:"refused,omitempty"` // why servers take nobody like this
	User      string    `json:"user,omitempty"`    // the nkey that it is decided for
	MadeUp    bool      `json:"user_made_up"`      // whether nobody has that nkey
	Mapped    []mapped  `json:"mapped,omitempty"`  // what mappings make of the subject

	text string // the verdict, for people
}

// mapped is what a mapping may make of the subject, and what servers say to that.
type mapped struct {
	Subject string   `json:"subject"` // empty: it is dropped
	Mapping string   `json:"mapping"`
	Percent int      `json:"percent"`
	Region  string   `json:"region,omitempty"`
	Allowed bool     `json:"allowed"`
	Rule    *canRule `json:"rule,omitempty"`
	Note    string   `json:"note,omitempty"`

	text string
}

// canRule is a line of a role.
type canRule struct {
	Source  string `json:"source"` // template, account default or server
	List    string `json:"list"`   // such as "publish allow"
	Index   int    `json:"index"`  // in that list, from 0; -1: nobody wrote it
	Written string `json:"written,omitempty"`
	Here    string `json:"here"` // with everything filled in
}

func ruleOf(r permission.Rule) canRule {
	return canRule{string(r.Source), string(r.Direction) + " " + string(r.Effect), r.Index, inspect.Clean(r.Written), inspect.Clean(r.Expanded())}
}

func runCan(g *globals, o canOptions, role, direction, subj string) error {
	ref, err := roleRef(role)
	if err != nil {
		return err
	}
	if direction != string(permission.Publishing) && direction != string(permission.Subscribing) {
		return cli.Errorf(cli.Usage, "it is publish or subscribe", "%.40q is nothing that a role may do", direction)
	}
	if o.queue != "" && direction == string(permission.Publishing) {
		return cli.Errorf(cli.Usage, "leave --queue out", "a queue group is for subscribing")
	}
	open := g.look
	if o.file {
		open = g.open
	}
	p, err := open()
	if err != nil {
		return err
	}
	user, err := canUser(p, ref, o)
	if err != nil {
		return err
	}
	var scope *jwt.UserScope
	if user.Account, scope, err = roleAt(p, ref, o.file); err != nil {
		return err
	}
	r := canReport{Role: ref.String(), Direction: direction, Subject: inspect.Clean(subj), Queue: inspect.Clean(o.queue), From: "in force"}
	if o.file {
		r.From = manifest.FileName
	}
	rights, err := permission.For(scope.Template, user)
	if errors.Is(err, permission.ErrUnknown) && user.Key.IsZero() {
		// Of lines that name the user, none is for somebody in general.
		if user.Key, err = nobodysKey(); err != nil {
			return err
		}
		r.MadeUp = true
		rights, err = permission.For(scope.Template, user)
	}
	r.User = user.Key.String()
	switch {
	case errors.Is(err, permission.ErrRefused):
		r.Refused = inspect.Clean(err.Error())
	case err != nil:
		return err
	default:
		if err := r.decide(rights, user.Account.Mappings, subj, o.queue); err != nil {
			return cli.Errorf(cli.Usage, "a subject is words with dots between them, such as orders.new; put it into quotes if it has * or >", "%w", err)
		}
	}
	if err := g.printCan(r); err != nil {
		return err
	}
	if !r.Allowed {
		return cli.Silent(cli.Failed)
	}
	return nil
}

// canUser is whom it is asked for.
func canUser(p *platform.Platform, ref manifest.RoleRef, o canOptions) (permission.User, error) {
	u := permission.User{Name: o.name}
	for _, t := range o.tags {
		if err := manifest.CheckTag(t); err != nil {
			return u, cli.Errorf(cli.Usage, "a tag is given as --tag key:value, in lower case", "%w", err)
		}
		u.Tags = append(u.Tags, t)
	}
	if o.user == "" {
		return u, nil
	}
	if key, err := ident.ParseUserKey(o.user); err == nil {
		u.Key = key
		return u, nil
	}
	name, err := ident.ParseName(o.user)
	if err != nil {
		return u, cli.Errorf(cli.Usage, "name a public nkey that begins with U, or a static user of the role; see 'nscsetup list users'", "--user is neither a public nkey nor a name")
	}
	static, err := platform.StaticUsers{Platform: p}.Get(ref, name)
	if errors.Is(err, platform.ErrNoUser) {
		return u, cli.Errorf(cli.Usage, "see 'nscsetup list users', or name its nkey", "%w", err)
	}
	u.Key = static.Key
	if u.Name == "" {
		u.Name = name.String()
	}
	u.Tags = append(static.AllTags(), u.Tags...)
	return u, err
}

// nobodysKey is a public key that nobody has the seed of: a hash.
func nobodysKey() (ident.UserKey, error) {
	sum := sha256.Sum256([]byte("herald: a user that there is not"))
	public, err := nkeys.Encode(nkeys.PrefixByteUser, sum[:])
	if err != nil {
		return ident.UserKey{}, fmt.Errorf("making up a key: %w", err)
	}
	return ident.ParseUserKey(string(public))
}

// roleAt gives a role as it is in force, or as the file has it.
func roleAt(p *platform.Platform, ref manifest.RoleRef, file bool) (permission.Account, *jwt.UserScope, error) {
	if !file {
		account, scope, err := p.RoleInForce(ref)
		if errors.Is(err, platform.ErrNotInForce) {
			return account, scope, cli.Errorf(cli.Refused, "bring it into force with 'nscsetup apply', or ask about platform.yaml with --file", "%w", err)
		}
		return account, scope, unknownRole(p, ref, err)
	}
	keys, err := p.Keys()
	if err != nil {
		return permission.Account{}, nil, err
	}
	compiler := claims.New(p.File, keys)
	all := compiler.Accounts()
	i := slices.IndexFunc(all, func(a manifest.Account) bool { return a.Name == ref.Account })
	if i < 0 {
		return permission.Account{}, nil, cli.Errorf(cli.Usage, "see 'nscsetup list accounts'", "platform.yaml has no account %s", ref.Account)
	}
	c, err := compiler.Account(all[i], 0)
	if err != nil {
		return permission.Account{}, nil, err
	}
	scope, ok := c.SigningKeys[keys.Roles[ref].String()].(*jwt.UserScope)
	if !ok {
		return permission.Account{}, nil, cli.Errorf(cli.Usage, "see 'nscsetup list roles'", "account %s has no role %s in platform.yaml", ref.Account, ref.Role)
	}
	account, err := permission.AccountOf(c, ref.Account.String() == platform.System)
	return account, scope, err
}

// unknownRole says which roles there are, if err is that there is none of that name.
func unknownRole(p *platform.Platform, ref manifest.RoleRef, err error) error {
	if !errors.Is(err, platform.ErrNoRole) {
		return err
	}
	hint := "see 'nscsetup list roles'"
	if h, ok := p.Account(ref.Account.String()); ok {
		var names []string
		for name := range h.Roles {
			names = append(names, name)
		}
		slices.Sort(names)
		if text := rolesHint(h.Name, names); text != "" {
			hint = text
		}
	}
	return cli.Errorf(cli.Usage, hint, "%w", err)
}

// decide asks what servers ask. mappings are those of the account.
func (r *canReport) decide(rights *permission.Rights, mappings jwt.Mapping, subj, queue string) error {
	_, r.Ignored = rightLines(rights)
	if r.Direction == string(permission.Subscribing) {
		v, err := rights.Subscribe(subj, queue)
		r.take(v)
		return err
	}
	v, err := rights.Publish(subj)
	if err != nil {
		return err
	}
	outcomes, err := mapping.Of(mappings, subj)
	switch {
	case err != nil:
		r.Note = inspect.Clean(err.Error())
		r.text = "denied, as far as can be told: " + r.Note
		return nil
	case outcomes[0].Source == "":
		r.take(v)
		return nil
	}
	r.takeMapped(rights, outcomes)
	return nil
}

// take takes what servers say.
func (r *canReport) take(v permission.Verdict) {
	r.Allowed, r.AsReply, r.Note, r.text = v.Allowed, v.OnlyAsReply, inspect.Clean(v.Note), inspect.Clean(v.String())
	r.Rule = deciding(v)
	for _, f := range v.Filtered {
		r.Filtered = append(r.Filtered, ruleOf(f))
	}
}

// deciding is the line that decided, if one did.
func deciding(v permission.Verdict) *canRule {
	if v.Rule.IsZero() {
		return nil
	}
	rule := ruleOf(v.Rule)
	return &rule
}

// takeMapped takes what servers say to all that a subject may become. What they drop is
// neither allowed nor denied.
func (r *canReport) takeMapped(rights *permission.Rights, outcomes []mapping.Outcome) {
	var yes, no int
	for _, o := range outcomes {
		m := mapped{Subject: inspect.Clean(o.Subject), Mapping: inspect.Clean(o.Source), Percent: o.Percent, Region: inspect.Clean(o.Cluster), text: "dropped"}
		if o.Subject != "" {
			v, err := rights.Publish(o.Subject)
			if err != nil {
				v.Note = err.Error() // a function made of it what is no subject
			}
			m.Allowed, m.Rule, m.Note, m.text = v.Allowed, deciding(v), inspect.Clean(v.Note), inspect.Clean(v.String())
			if v.Allowed {
				yes++
			} else {
				no++
			}
		}
		r.Mapped = append(r.Mapped, m)
	}
	r.Allowed = yes > 0 && no == 0
	switch {
	case r.Allowed:
		r.Note = "whatever mappings make of it"
		r.text = "allowed, " + r.Note
	case yes > 0:
		r.Note = "it depends on what mappings make of it"
		r.text = "denied at times: " + r.Note
	default:
		r.Note = "mappings make of it what is not allowed"
		r.text = "denied: " + r.Note
	}
}

// line is what a mapping makes of a subject, for people.
func (m mapped) line() string {
	s := fmt.Sprintf("mapped to %q", m.Subject)
	if m.Subject == "" {
		s = "mapped to nothing"
	}
	s += fmt.Sprintf(" by the mapping of %q", m.Mapping)
	if m.Percent != 100 {
		s += fmt.Sprintf(", %d of a hundred messages", m.Percent)
	}
	if m.Region != "" {
		s += ", in " + m.Region
	}
	return s + ": " + m.text
}

// ofTheUser tells whether it may be otherwise for another user: not where the lines that
// decided name none.
func (r *canReport) ofTheUser() bool {
	rules := []*canRule{r.Rule}
	if len(r.Mapped) > 0 {
		rules = nil
	}
	for _, m := range r.Mapped {
		rules = append(rules, m.Rule)
	}
	return slices.ContainsFunc(rules, func(rule *canRule) bool { return rule == nil || strings.Contains(rule.Written, "{{") })
}

func (g *globals) printCan(r canReport) error {
	if g.json {
		return cli.JSON(g.Out, r)
	}
	var b strings.Builder
	if r.Refused != "" {
		fmt.Fprintf(&b, "denied: %s\n", r.Refused)
	} else {
		fmt.Fprintf(&b, "%s\n", r.text)
	}
	for _, m := range r.Mapped {
		fmt.Fprintf(&b, "%s\n", m.line())
	}
	if r.MadeUp && r.ofTheUser() {
		fmt.Fprintf(&b, "for a user with the made-up nkey %s: name one with --user\n", r.User)
	}
	for _, f := range r.Filtered {
		fmt.Fprintf(&b, "not delivered: %s %q\n", f.List, f.Here)
	}
	for _, i := range r.Ignored {
		fmt.Fprintf(&b, "without effect: %s\n", i)
	}
	return cli.Print(g.Out, "%s", b.String())
}
