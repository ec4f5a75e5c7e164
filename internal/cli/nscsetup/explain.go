package nscsetup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/wire"
)

type explainOptions struct {
	token, key, identity     string // one of them says who asks
	from                     string
	groups, claims, granted  []string
	account, role, name, ttl string
	file, callout            bool
}

func newExplain(g *globals) *cobra.Command {
	var o explainOptions
	c := &cobra.Command{
		Use:   "explain",
		Short: "Say what somebody would be given, and by which grant",
		Long: `explain decides as issuers do what somebody would be given, and shows the grants that
were looked at, the more particular first: the one that decided, and why each before it
was passed over. It goes by the grants that this folder last put in force; with --file,
by those of platform.yaml as it is now.

Who asks is said in one of three ways:

  --token     an OIDC token in a file, or - for standard input. All is checked that
              issuers check but its signature, since no provider is asked. The token is
              not shown.
  --key       an access key's id. Home is asked what the key is for, and whether it
              holds; not with --granted, which says what it is for.
  --identity  an identity as it is written in platform.yaml. Of a login, --group and
              --claim say what its provider would; of an access key or an invitation,
              --granted what it is for, and without that home is asked.

A grant's place is shown where platform.yaml has it still.

Not looked at: whether somebody else has the name, suspensions, and limits.

Exit codes: 0 granted, 1 refused; 2 if nobody can be who was named; 5 if home cannot be
reached.`,
		Example: `  nscsetup explain --token - < token.jwt
  nscsetup explain --key HK7QK3M2ZC5DXE4B6FAN --role service
  nscsetup explain --identity oidc:acme:alice --group ops --claim department=billing
  nscsetup explain --identity key:HK7QK3M2ZC5DXE4B6FAN --granted ORDERS/service --file --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runExplain(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.token, "token", "", "who asks is who this token is of: a `file`, or -")
	f.StringVar(&o.key, "key", "", "who asks has the access key of this `id`")
	f.StringVar(&o.identity, "identity", "", "who asks is this `identity`, such as oidc:acme:alice")
	f.StringArrayVar(&o.groups, "group", nil, "a `group` that the login is in; repeat it for each")
	f.StringArrayVar(&o.claims, "claim", nil, "what the login's provider says, as `name=value`; repeat it for each")
	f.StringArrayVar(&o.granted, "granted", nil, "a role that the access key or invitation is for, as `ACCOUNT/ROLE`; repeat it for each")
	f.StringVar(&o.from, "from", "", "the IP `address` that the access key is used from (default: one that it may be used from)")
	f.StringVar(&o.account, "account", "", "the `account` that is asked for (default: any)")
	f.StringVar(&o.role, "role", "", "the `role` that is asked for (default: any)")
	f.StringVar(&o.name, "name", "", "the `name` that is asked for")
	f.StringVar(&o.ttl, "ttl", "", "the lifetime that is asked for, such as `15m`")
	f.BoolVar(&o.callout, "callout", false, "who asks is a plain NATS client that comes by auth callout")
	f.BoolVar(&o.file, "file", false, "by the grants of platform.yaml, applied or not")
	done := completer{g}
	_ = c.RegisterFlagCompletionFunc("granted", func(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return done.role(begun)
	}) // they are there
	_ = c.RegisterFlagCompletionFunc("role", func(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return beginning(begun, done.dir().RoleNames(o.account))
	})
	return c
}

// explained is what `explain --json` says.
type explained struct {
	From     string   `json:"from"` // whose grants: "in force" or "platform.yaml"
	Identity string   `json:"identity,omitempty"`
	Provider string   `json:"provider,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	// Signature is "not verified" where a token says who asks.
	Signature string         `json:"signature,omitempty"`
	Granted   bool           `json:"granted"`
	Grant     *explainedGain `json:"grant,omitempty"`
	Refused   *wire.Error    `json:"refused,omitempty"` // what the caller is told
	Why       string         `json:"why,omitempty"`     // what issuers log besides
	Lines     []explainedRow `json:"lines"`             // grants, in the order in which they were looked at
	Notes     []string       `json:"notes,omitempty"`
}

// explainedGain is what somebody gets.
type explainedGain struct {
	Account  string   `json:"account"`
	Role     string   `json:"role"`
	Name     string   `json:"name"`
	Lifetime int64    `json:"lifetime"` // seconds
	Tags     []string `json:"tags"`     // but those that tell of one credential, such as proven
}

// explainedRow is one grant that was looked at.
type explainedRow struct {
	Grant      string `json:"grant"` // what it says
	To         string `json:"to"`
	Account    string `json:"account"`
	Role       string `json:"role"`
	Conditions string `json:"conditions,omitempty"`
	Place      string `json:"place,omitempty"` // file:line, where platform.yaml has it
	Decided    bool   `json:"decided"`
	Why        string `json:"passed_over,omitempty"` // why it did not
}

// terms are what is decided by.
type terms struct {
	from      string
	policy    policy.Policy
	grants    *policy.Index
	providers []oidc.Provider
}

// inForce are the terms that issuers go by.
func inForce(p *platform.Platform) terms {
	return terms{"in force", p.Full.Policy, p.Full.Grants(), p.Full.Providers}
}

// termsOf are the terms of a platform file. Policy names no keys, so none need be made.
func termsOf(f *manifest.File, from string) (terms, error) {
	c := claims.New(f, claims.Keys{})
	rules, err := c.Policy()
	if err != nil {
		return terms{}, fmt.Errorf("reading the grants of %s: %w", from, err)
	}
	return terms{from, rules, policy.NewIndex(rules), c.Providers()}, nil
}

func runExplain(ctx context.Context, g *globals, o explainOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	wish, err := o.wish()
	if err != nil {
		return err
	}
	open := g.look
	if o.file {
		open = g.open
	}
	p, err := open()
	if err != nil {
		return err
	}
	t := inForce(p)
	if o.file {
		if t, err = termsOf(p.File, manifest.FileName); err != nil {
			return err
		}
	}
	now := time.Now()
	r := explained{From: t.from, Lines: []explainedRow{}}
	who, err := o.who(ctx, g, p, t, now, &r)
	var told *wire.Error
	switch {
	case errors.As(err, &told):
		r.Refused = told
		r.Why = strings.TrimSuffix(strings.TrimSuffix(err.Error(), told.Error()), ": ")
	case err != nil:
		return err
	default:
		r.take(who, t.grants.Explain(policy.Asker{Who: who}, wish, now), placesOf(p.File, t.policy))
	}
	if err := g.printExplained(r); err != nil {
		return err
	}
	if !r.Granted {
		return cli.Silent(cli.Failed)
	}
	return nil
}

// check refuses flags that do not go together.
func (o explainOptions) check() error {
	ways := 0
	for _, s := range []string{o.token, o.key, o.identity} {
		if s != "" {
			ways++
		}
	}
	const hint = "see 'nscsetup explain --help' for the three ways"
	kind, _, _ := strings.Cut(o.identity, ":")
	if o.key != "" {
		kind = ident.KindKey
	}
	switch {
	case ways != 1:
		return cli.Errorf(cli.Usage, hint, "who asks is said by one of --token, --key and --identity")
	case len(o.groups)+len(o.claims) > 0 && kind != ident.KindOIDC:
		return cli.Errorf(cli.Usage, hint, "--group and --claim say what a provider would of an --identity of kind oidc")
	case len(o.granted) > 0 && kind != ident.KindKey && kind != ident.KindInvite:
		return cli.Errorf(cli.Usage, hint, "--granted is for access keys and invitations: nothing else is for some roles only")
	case o.from != "" && kind != ident.KindKey:
		return cli.Errorf(cli.Usage, hint, "--from is for access keys: nothing else asks where it is used from")
	}
	return nil
}

func (o explainOptions) wish() (w policy.Wish, err error) {
	bad := func(hint, flag string, err error) error { return cli.Errorf(cli.Usage, hint, "--%s: %w", flag, err) }
	w.Callout = o.callout
	if o.account != "" {
		if w.Account, err = ident.ParseLabel(o.account); err != nil {
			return w, bad("see 'nscsetup list accounts'", "account", err)
		}
	}
	if o.role != "" {
		if w.Role, err = ident.ParseLabel(o.role); err != nil {
			return w, bad("a role is named without its account, which --account names", "role", err)
		}
	}
	if o.name != "" {
		if w.Name, err = ident.ParseName(o.name); err != nil {
			return w, bad("a name is 1 to 32 of a-z and 0-9, with single . _ or - between them", "name", err)
		}
	}
	if o.ttl != "" {
		d, err := manifest.ParseDuration(o.ttl)
		if err != nil {
			return w, bad("write it as 15m or 12h", "ttl", err)
		}
		w.TTL = time.Duration(d)
	}
	return w, nil
}

// who is who asks. An error that has a *wire.Error in it is issuers' refusal.
func (o explainOptions) who(ctx context.Context, g *globals, p *platform.Platform, t terms, now time.Time, r *explained) (authn.Who, error) {
	if o.token != "" {
		r.Signature = "not verified"
		raw, err := readToken(ctx, g, o.token)
		if err != nil {
			return authn.Who{}, err
		}
		return oidc.Read(t.providers, raw, now)
	}
	id, err := o.parse()
	if err != nil {
		return authn.Who{}, err
	}
	r.Identity = id.String()
	var granted []authn.Granted
	for _, role := range o.granted {
		one, err := grantedOf(role, "")
		if err != nil {
			return authn.Who{}, err
		}
		granted = append(granted, one)
	}
	switch id.Kind() {
	case ident.KindKey:
		return o.keyHolder(ctx, g, p, id, granted, now, r)
	case ident.KindInvite:
		r.Notes = append(r.Notes, "as at a renewal, which goes by all invitations that somebody came with: a request with a code has that one alone")
		return invited(ctx, g, p, id, granted)
	case ident.KindOIDC:
		return o.login(t, id, r)
	}
	return authn.Open{}.Again(ctx, authn.Renewal{Identity: id})
}

// parse reads --key or --identity.
func (o explainOptions) parse() (ident.Identity, error) {
	if o.key != "" {
		id, err := keyID(o.key)
		if err != nil {
			return ident.Identity{}, err
		}
		return ident.KeyIdentity(id), nil
	}
	id, err := ident.ParseIdentity(o.identity)
	if err != nil {
		// A secret may have been taken for an id, and is not quoted.
		return id, cli.Errorf(cli.Usage, "write it as oidc:<provider>:<subject>, key:<id of an access key>, open:<public nkey> or invite:<public nkey>", "--identity is none")
	}
	return id, nil
}

// readToken reads a token from a file. Its errors do not have it, should it stand on the
// command line in the place of a file's name: what begins a JSON object in base64 is no
// name that anybody gives a file, and neither are three long parts.
func readToken(ctx context.Context, g *globals, arg string) (string, error) {
	const longestName = 100
	if strings.Contains(arg, "eyJ") || strings.Count(arg, ".") > 1 && len(arg) > longestName && !strings.Contains(arg, "/") {
		return "", cli.Errorf(cli.Usage, "others on this machine see command lines: put it into a file, or read it from standard input with --token -", "a token stands on the command line")
	}
	data, _, err := readInput(ctx, g, arg)
	if err != nil {
		return "", err
	}
	raw := strings.TrimSpace(string(data))
	if raw == "" {
		return "", cli.Errorf(cli.Config, "put the ID or access token there, as the provider gave it", "there is no token in it: it is empty")
	}
	return raw, nil
}

// keyHolder is who has an access key, as far as that holds.
func (o explainOptions) keyHolder(ctx context.Context, g *globals, p *platform.Platform, id ident.Identity, granted []authn.Granted, now time.Time, r *explained) (authn.Who, error) {
	k := authn.KeyRecord{Granted: granted}
	if len(granted) > 0 {
		r.Notes = append(r.Notes, "what the access key is for was typed in: whether there is such a key was not asked")
	} else {
		key, _ := id.KeyID() // it is of one
		e, err := g.decided(ctx, p, ledger.AccessKeyKey(key))
		a, ok := e.Body.(ledger.AccessKey)
		if errors.Is(err, ledger.ErrNotFound) || err == nil && (!ok || e.Denies) {
			return authn.Who{}, noKey(key)
		}
		if err != nil {
			return authn.Who{}, err
		}
		k = a.Record()
	}
	host := authn.Host(o.from)
	switch {
	case o.from != "" && !host.IsValid():
		return authn.Who{}, cli.Errorf(cli.Usage, "write it as 192.0.2.7 or 2001:db8::7", "--from %.60q is no IP address", o.from)
	case o.from == "" && len(k.Networks) > 0:
		host = k.Networks[0].Addr()
		r.Notes = append(r.Notes, "as if it were used from "+host.String()+", in one of the key's networks: name another address with --from")
	}
	keys := authn.AccessKeys{Find: func(ident.KeyID) (authn.KeyRecord, bool) { return k, true }}
	return keys.Again(ctx, authn.Renewal{Identity: id, Host: host, By: k.By(), Now: now})
}

// invited is who came with an invitation.
func invited(ctx context.Context, g *globals, p *platform.Platform, id ident.Identity, granted []authn.Granted) (authn.Who, error) {
	user, err := ident.ParseUserKey(strings.TrimPrefix(id.String(), ident.KindInvite+":"))
	if err != nil {
		return authn.Who{}, err // an identity of this kind is of one
	}
	if len(granted) == 0 {
		if granted, err = redeemed(ctx, g, p, user); err != nil {
			return authn.Who{}, err
		}
	}
	m := authn.Invites{Redeemed: func(ident.UserKey) []authn.Granted { return granted }}
	return m.Again(ctx, authn.Renewal{Identity: id, User: user})
}

// redeemed is what the invitations are for that a user came with, as home has them.
func redeemed(ctx context.Context, g *globals, p *platform.Platform, user ident.UserKey) ([]authn.Granted, error) {
	r, err := g.reader(ctx, p, ident.Region{})
	if err != nil {
		return nil, err
	}
	defer r.close()
	known := ledger.NewProjection(nil)
	if err := r.entries(ctx, ledger.KindInvite, func(e ledger.Entry) { known.Apply(e) }); err != nil {
		return nil, err
	}
	granted := known.Redeemed(user)
	if len(granted) == 0 {
		return nil, errors.Join(cli.Errorf(cli.Failed, "see 'nscsetup describe invite', or say with --granted what the invitation is for", "nobody came with an invitation as %s", user), r.verdict())
	}
	return granted, r.verdict()
}

// login is who has a login, as typed in.
func (o explainOptions) login(t terms, id ident.Identity, r *explained) (authn.Who, error) {
	w := authn.Who{Identity: id, Provider: id.Provider(), Groups: slices.Clone(o.groups), Claims: map[string][]string{}}
	i := slices.IndexFunc(t.providers, func(p oidc.Provider) bool { return p.Name == w.Provider })
	if i < 0 {
		var names []string
		for _, p := range t.providers {
			names = append(names, p.Name.String())
		}
		hint := "there is no provider: add one to providers in platform.yaml"
		if len(names) > 0 {
			hint = "there are " + strings.Join(names, ", ")
		}
		return w, cli.Errorf(cli.Usage, hint, "no provider is called %s, %s", w.Provider, map[bool]string{true: "in platform.yaml", false: "of those in force"}[o.file])
	}
	p := t.providers[i]
	for _, c := range o.claims {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" {
			return w, cli.Errorf(cli.Usage, "write it as department=billing", "--claim %.60q has no name and value", c)
		}
		w.Claims[name] = append(w.Claims[name], value)
	}
	// A token says who it is of and who made it, too, and conditions may ask for that.
	_, subject, _ := strings.Cut(strings.TrimPrefix(id.String(), ident.KindOIDC+":"), ":")
	w.Claims[cmp.Or(p.SubjectClaim, "sub")] = []string{subject}
	w.Claims["iss"] = []string{p.Issuer}
	if p.GroupsClaim == "" && len(w.Groups) > 0 {
		r.Notes = append(r.Notes, "not looked at: --group, because "+p.Name.String()+" has no groups_claim, and tells of no groups")
		w.Groups = nil
	}
	if p.GroupsClaim != "" {
		// One and the same, in whichever way it was typed.
		for _, group := range w.Claims[p.GroupsClaim] {
			if !slices.Contains(w.Groups, group) {
				w.Groups = append(w.Groups, group)
			}
		}
		if len(w.Groups) > 0 {
			w.Claims[p.GroupsClaim] = slices.Clone(w.Groups)
		}
	}
	if len(p.Required) > 0 {
		r.Notes = append(r.Notes, "not looked at: "+p.Name.String()+" is believed only with the claims that platform.yaml requires of it")
	}
	switch names := w.Claims[p.NameClaim]; {
	case p.NameClaim == "":
	case len(names) == 0:
		r.Notes = append(r.Notes, "the name is what the claim "+p.NameClaim+" says: type it in with --claim")
	default:
		var err error
		if w.Name, err = ident.ParseName(names[0]); err != nil || len(names) > 1 {
			return w, cli.Errorf(cli.Usage, "a name is 1 to 32 of a-z and 0-9, with single . _ or - between them", "--claim %s is no name, and a token that says so is refused", p.NameClaim)
		}
	}
	return w, nil
}

// take takes what was decided.
func (r *explained) take(who authn.Who, e policy.Explanation, places func([]policy.Line) []string) {
	r.Identity, r.Provider, r.Groups = inspect.Clean(who.Identity.String()), who.Provider.String(), nil
	for _, group := range who.Groups {
		r.Groups = append(r.Groups, inspect.Clean(group))
	}
	r.Granted, r.Refused = e.Err == nil, e.Err
	if r.Granted {
		g := e.Grant
		r.Grant = &explainedGain{
			Account: g.Account.String(), Role: g.Role.String(), Name: g.Name.String(),
			Lifetime: int64(g.TTL / time.Second), Tags: cleaned(g.Tags),
		}
	}
	at := places(e.Lines)
	for i, l := range e.Lines {
		r.Lines = append(r.Lines, explainedRow{
			Grant: inspect.Clean(l.Offer.String()), To: l.Offer.To(), Account: l.Offer.Account.String(), Role: l.Offer.Role.String(),
			Conditions: inspect.Clean(l.Offer.Conditions()), Place: at[i], Decided: l.Why == "", Why: inspect.Clean(l.Why),
		})
	}
}

func cleaned(all []string) []string {
	out := make([]string, 0, len(all))
	for _, s := range all {
		out = append(out, inspect.Clean(s))
	}
	return out
}

// maxPlaces bounds how many grants are looked for in the file, which is read again for
// each. The last ones are: they are the nearest to what decided.
const maxPlaces = 8

// placesOf gives the places of grants in a platform file: "" for what the file does not
// have, or no longer in those words. rules are those that were decided by, which need not
// be the file's.
func placesOf(f *manifest.File, rules policy.Policy) func([]policy.Line) []string {
	return func(lines []policy.Line) []string {
		at := make([]string, len(lines))
		now, err := termsOf(f, manifest.FileName)
		if err != nil {
			return at // the file has no grants that could be found
		}
		for i := max(0, len(lines)-maxPlaces); i < len(lines); i++ {
			o := spelt(rules.Offers[lines[i].Index])
			n := slices.IndexFunc(now.policy.Offers, func(other policy.Offer) bool { return spelt(other) == o })
			if n < 0 {
				continue
			}
			// The file's grants become offers one by one.
			if where := f.Problem(fmt.Sprintf("grants[%d]", n), "", ""); where.Line > 0 {
				at[i] = where.File + ":" + strconv.Itoa(where.Line)
			}
		}
		return at
	}
}

// spelt is an offer as documents have it: two that say the same are spelt alike.
func spelt(o policy.Offer) string {
	data, err := json.Marshal(o)
	if err != nil {
		return "" // offers are always JSON
	}
	return string(data)
}

func (g *globals) printExplained(r explained) error {
	if g.json {
		return cli.JSON(g.Out, r)
	}
	s := &sheet{}
	if r.Granted {
		s.field("granted", fmt.Sprintf("%s/%s as %s, for %s", r.Grant.Account, r.Grant.Role, r.Grant.Name, seconds(r.Grant.Lifetime)))
	} else {
		s.field("refused", string(r.Refused.Code)+": "+r.Refused.Message)
		s.field("why", r.Why)
		s.field("hint", r.Refused.Hint)
	}
	s.field("identity", r.Identity)
	s.field("provider", r.Provider)
	s.field("groups", strings.Join(r.Groups, ", "))
	if r.Granted {
		s.field("tags", strings.Join(r.Grant.Tags, ", "))
	}
	s.field("by grants", r.From)
	if r.Signature != "" {
		s.field("signature", r.Signature+": no provider was asked, and anybody may have written this token")
	}
	var lines []string
	for _, l := range r.Lines {
		text := l.Grant
		if l.Place != "" {
			text = l.Place + ": " + text
		}
		verdict := "decided"
		if !l.Decided {
			verdict = "passed over, " + l.Why
		}
		lines = append(lines, text+": "+verdict)
	}
	s.list("grants, the more particular first", lines)
	s.list("notes", r.Notes)
	return s.print(g.Out)
}
