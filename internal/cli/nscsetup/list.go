package nscsetup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/policy"
)

func newList(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List accounts, roles, users, names, invitations and keys",
		Long: `list shows what is in force. Accounts, roles, regions and static users come from the
platform folder, as it was last applied, and no server is asked; what platform.yaml
says beyond that is marked as not applied. Names, invitations, access keys and
credentials that issuers gave come from the ledger, by servers.

Without another word it lists accounts.`,
		Example: `  nscsetup list
  nscsetup list roles --account CHAT
  nscsetup list names --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return listAccounts(g, listOptions{}) },
	}
	c.AddCommand(
		newListAccounts(g), newListRoles(g), newListRegions(g), newListUsers(g), newListNames(g), newListInvites(g), newListKeys(g),
	)
	return c
}

// listOptions say what of a list is wanted.
type listOptions struct {
	account string
	region  string
	all     bool
	issued  bool
}

func (o *listOptions) accountFlag(c *cobra.Command) {
	c.Flags().StringVar(&o.account, "account", "", "only those of this `account`")
}

func (o *listOptions) copyFlag(c *cobra.Command) {
	c.Flags().StringVar(&o.region, "region", "", "read this `region`'s copy of the ledger (default: home's)")
}

// States of what is listed.
const (
	stateInForce   = "in force"
	stateNew       = "not applied: new"
	stateChanged   = "not applied: changed"
	stateGone      = "not applied: gone"
	stateElsewhere = "in force, changed elsewhere"
	stateForeign   = "in force, not in platform.yaml"
	stateConflict  = "not applied: changed elsewhere, too"
	stateClosed    = "closed"
)

func newListAccounts(g *globals) *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use:   "accounts",
		Short: "List accounts",
		Long: `accounts lists the accounts in force, Herald's own first, and those that platform.yaml
has and that are not applied yet. Closed ones are left out, unless with --all.`,
		Example: `  nscsetup list accounts
  nscsetup list accounts --all --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return listAccounts(g, o) },
	}
	c.Flags().BoolVar(&o.all, "all", false, "closed accounts, too")
	return c
}

// listedAccount is an account as list shows it.
type listedAccount struct {
	Account string   `json:"account"`
	Key     string   `json:"key,omitempty"` // empty: not made yet
	Version uint64   `json:"version"`       // of the base claims; 0: not in force
	Roles   []string `json:"roles"`
	Own     bool     `json:"own"` // Herald's own
	State   string   `json:"state"`
}

func listAccounts(g *globals, o listOptions) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	v, err := g.pending(p)
	if err != nil {
		return err
	}
	list := v.accounts(o.all)
	if g.json {
		return cli.JSON(g.Out, list)
	}
	rows := [][]string{{"ACCOUNT", "KEY", "VERSION", "ROLES", "STATE"}}
	for _, a := range list {
		rows = append(rows, []string{a.Account, or(a.Key), number(a.Version), or(strings.Join(a.Roles, ", ")), a.State})
	}
	return cli.Table(g.Out, rows)
}

// or stands in for an empty cell.
func or(s string) string { return cmp.Or(s, "-") }

func number(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

// pending is a platform folder, and what of its file is not applied.
type pending struct {
	*platform.Platform
	held map[string]platform.Held // in force, by name
	of   map[string]plan.Account  // what would change, by name
	// state is that of an account where it is not simply in force.
	state map[string]string
}

// pending holds the file against what the folder last put in force. No server is asked.
func (g *globals) pending(p *platform.Platform) (*pending, error) {
	t := g.tool(p)
	pl, err := t.Plan(t.Local())
	if err != nil {
		return nil, err
	}
	v := &pending{p, make(map[string]platform.Held, len(p.Held())), map[string]plan.Account{}, map[string]string{}}
	for _, h := range p.Held() {
		v.held[h.Name] = h
	}
	for _, a := range pl.Accounts {
		v.of[a.Name] = a
		v.state[a.Name] = map[string]string{plan.Create: stateNew, plan.Change: stateChanged, plan.Close: stateGone}[a.How]
	}
	described := map[string]bool{}
	if len(pl.Elsewhere) > 0 {
		for _, a := range p.File.AllAccounts() {
			described[a.Name.String()] = true
		}
	}
	for _, what := range pl.Elsewhere {
		if name, ok := strings.CutPrefix(what, "account "); ok {
			v.state[name] = map[bool]string{true: stateElsewhere, false: stateForeign}[described[name]]
		}
	}
	for _, c := range pl.Conflicts {
		if name, ok := strings.CutPrefix(c.What, "account "); ok {
			v.state[name] = stateConflict
		}
	}
	return v, nil
}

// rolesOf are the roles that an account is to have.
func rolesOf(a plan.Account) []*jwt.UserScope {
	var roles []*jwt.UserScope
	for _, scope := range a.Want.SigningKeys {
		if s, ok := scope.(*jwt.UserScope); ok && s != nil {
			roles = append(roles, s)
		}
	}
	return roles
}

// stateOf is an account's state; h is what of it is in force, if anything.
func (v *pending) stateOf(name string, h platform.Held) string {
	return cmp.Or(v.state[name], map[bool]string{true: stateClosed, false: stateInForce}[h.Closed])
}

// accounts are all accounts, Herald's own first, then by name.
func (v *pending) accounts(all bool) []listedAccount {
	list := []listedAccount{}
	seen := map[string]bool{}
	for _, h := range v.Held() {
		seen[h.Name] = true
		if h.Closed && !all && v.state[h.Name] == "" {
			continue
		}
		a := listedAccount{
			Account: h.Name, Key: h.Key.String(), Version: h.Version, Roles: slices.Sorted(maps.Keys(h.Roles)),
			State: v.stateOf(h.Name, h),
		}
		if a.Roles == nil {
			a.Roles = []string{}
		}
		list = append(list, a)
	}
	for _, a := range v.of {
		if seen[a.Name] {
			continue
		}
		roles := []string{}
		for _, r := range rolesOf(a) {
			roles = append(roles, r.Role)
		}
		slices.Sort(roles)
		list = append(list, listedAccount{Account: a.Name, Roles: roles, State: stateNew})
	}
	rank := map[string]int{}
	for i, name := range manifest.OwnAccounts() {
		rank[name] = i - len(manifest.OwnAccounts())
	}
	for i := range list {
		list[i].Own = rank[list[i].Account] < 0
	}
	slices.SortFunc(list, func(a, b listedAccount) int {
		return cmp.Or(cmp.Compare(rank[a.Account], rank[b.Account]), cmp.Compare(a.Account, b.Account))
	})
	return list
}

func newListRoles(g *globals) *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use:   "roles",
		Short: "List roles, and to whom they are granted",
		Long: `roles lists the roles of accounts: their keys, to whom issuers give them and for how
long, and what of platform.yaml is not applied yet. A role that is granted to nobody
can have static users; see 'nscsetup add user'.`,
		Example: `  nscsetup list roles
  nscsetup list roles --account CHAT --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return listRoles(g, o) },
	}
	o.accountFlag(c)
	return c
}

// listedRole is a role as list shows it.
type listedRole struct {
	Role   string        `json:"role"`          // ACCOUNT/ROLE
	Key    string        `json:"key,omitempty"` // empty: not made yet
	Grants []listedGrant `json:"grants"`
	State  string        `json:"state"`
}

// listedGrant is whom issuers give a role.
type listedGrant struct {
	To      string   `json:"to"`
	Default int64    `json:"default"` // seconds
	Longest int64    `json:"longest"` // seconds
	Tags    []string `json:"tags,omitempty"`
}

func (l listedGrant) String() string {
	return fmt.Sprintf("%s (%s, at most %s)", inspect.Clean(l.To), seconds(l.Default), seconds(l.Longest))
}

// seconds is a length of time, as the platform file writes it.
func seconds(n int64) string { return manifest.Duration(time.Duration(n) * time.Second).String() }

func listRoles(g *globals, o listOptions) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	v, err := g.pending(p)
	if err != nil {
		return err
	}
	if o.account != "" {
		if err := v.hasAccount(o.account); err != nil {
			return err
		}
	}
	list := v.roles(o.account)
	if g.json {
		return cli.JSON(g.Out, list)
	}
	rows := [][]string{{"ROLE", "KEY", "GRANTED TO", "STATE"}}
	for _, r := range list {
		var to []string
		for _, grant := range r.Grants {
			to = append(to, grant.String())
		}
		rows = append(rows, []string{r.Role, or(r.Key), or(strings.Join(to, ", ")), r.State})
	}
	return cli.Table(g.Out, rows)
}

// hasAccount refuses an account that is neither in force nor described.
func (v *pending) hasAccount(name string) error {
	if _, err := ident.ParseLabel(name); err != nil {
		return cli.Errorf(cli.Usage, "see 'nscsetup list accounts'", "%w", err)
	}
	if _, ok := v.held[name]; ok {
		return nil
	}
	if _, ok := v.of[name]; ok {
		return nil
	}
	return cli.Errorf(cli.Usage, "see 'nscsetup list accounts'", "the platform has no account %s", name)
}

// grants are the grants in force, by ACCOUNT/ROLE.
func (v *pending) grants() map[string][]listedGrant {
	out := map[string][]listedGrant{}
	for _, o := range v.Full.Policy.Offers {
		ref := o.Account.String() + "/" + o.Role.String()
		out[ref] = append(out[ref], grantOf(o))
	}
	return out
}

func grantOf(o policy.Offer) listedGrant {
	return listedGrant{
		To: o.To(), Default: int64(o.Default.Duration() / time.Second), Longest: int64(o.Longest.Duration() / time.Second), Tags: o.Tags,
	}
}

// roles are those of one account, or of all.
func (v *pending) roles(account string) []listedRole {
	grants := v.grants()
	list := []listedRole{}
	for _, a := range v.accounts(false) {
		if account != "" && a.Account != account {
			continue
		}
		held := v.held[a.Account]
		states := v.roleStates(a.Account, held)
		names := slices.Sorted(maps.Keys(states))
		for _, name := range names {
			r := listedRole{Role: a.Account + "/" + name, State: states[name], Grants: grants[a.Account+"/"+name]}
			if key, ok := held.Roles[name]; ok {
				r.Key = key.String()
			}
			if r.Grants == nil {
				r.Grants = []listedGrant{}
			}
			list = append(list, r)
		}
	}
	return list
}

// roleStates are the states of an account's roles.
func (v *pending) roleStates(account string, held platform.Held) map[string]string {
	out := map[string]string{}
	whole := v.stateOf(account, held)
	for name := range held.Roles {
		out[name] = stateInForce
		if whole != stateChanged && whole != stateNew {
			out[name] = whole
		}
	}
	a, ok := v.of[account]
	if !ok || a.How == plan.Close {
		return out
	}
	stays := map[string]bool{}
	for _, r := range rolesOf(a) {
		stays[r.Role] = true
		if _, ok := held.Roles[r.Role]; !ok {
			out[r.Role] = stateNew
		}
	}
	for name := range held.Roles {
		if !stays[name] {
			out[name] = stateGone
		}
	}
	for _, cut := range a.Cut {
		if cut.Back {
			out[cut.Role] = stateChanged
		}
	}
	return out
}

func newListRegions(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "regions",
		Short: "List regions",
		Long: `regions lists the regions in force and what clients are told of them. The first column
says which one is home.`,
		Example: `  nscsetup list regions`,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return listRegions(g) },
	}
	return c
}

// listedRegion is a region as list shows it.
type listedRegion struct {
	Region string   `json:"region"`
	Home   bool     `json:"home"`
	Nodes  []string `json:"nodes"`
	URLs   []string `json:"urls"`
	State  string   `json:"state"`
}

func listRegions(g *globals) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	list := regionList(p)
	if g.json {
		return cli.JSON(g.Out, list)
	}
	rows := [][]string{{"REGION", "SERVERS", "CLIENTS", "STATE"}}
	for _, r := range list {
		name := r.Region
		if r.Home {
			name += " (home)"
		}
		rows = append(rows, []string{name, strconv.Itoa(len(r.Nodes)), or(strings.Join(r.URLs, " ")), r.State})
	}
	return cli.Table(g.Out, rows)
}

// regionList are the regions of the file and those in force.
func regionList(p *platform.Platform) []listedRegion {
	list := []listedRegion{}
	for _, r := range p.File.Regions {
		l := listedRegion{Region: r.Name.String(), Home: r.Name == p.Document.Home, State: stateNew, Nodes: []string{}}
		for _, n := range r.Nodes {
			l.Nodes = append(l.Nodes, n.Name.String())
		}
		l.URLs = p.File.ClientURLs(r)
		if in, ok := p.Document.Region(r.Name); ok {
			l.State = stateInForce
			if !slices.Equal(in.URLs, l.URLs) {
				l.State, l.URLs = stateChanged, in.URLs
			}
		}
		list = append(list, l)
	}
	for _, r := range p.Document.Regions {
		if _, ok := p.File.Region(r.Name); !ok {
			list = append(list, listedRegion{Region: r.Name.String(), Home: r.Name == p.Document.Home, URLs: r.URLs, Nodes: []string{}, State: stateGone})
		}
	}
	return list
}

func newListUsers(g *globals) *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use:   "users",
		Short: "List static users, and those that issuers gave credentials",
		Long: `users lists the static users that 'nscsetup add user' made, from the platform folder;
no server is asked. With --issued it reads the records of all regions besides, and
lists who has a credential of an issuer that has not ended, and whether it was
revoked since.

Exit codes: 3 if the records of some region could not be read; 5 if no server could
be reached.`,
		Example: `  nscsetup list users
  nscsetup list users --issued --account CHAT
  nscsetup list users --issued --region sfo --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listUsers(cmd.Context(), g, o) },
	}
	o.accountFlag(c)
	c.Flags().StringVar(&o.region, "region", "", "only those of this `region`: made for it, or recorded there")
	c.Flags().BoolVar(&o.issued, "issued", false, "also those that issuers gave credentials")
	return c
}

// listedUser is a user as list shows it.
type listedUser struct {
	Role     string `json:"role"` // ACCOUNT/ROLE
	Name     string `json:"name"`
	Key      string `json:"key"`
	Static   bool   `json:"static"`
	Identity string `json:"identity,omitempty"` // of those that issuers know
	Region   string `json:"region,omitempty"`
	Issued   string `json:"issued"`
	Expires  string `json:"expires"`
	State    string `json:"state"`
	Creds    string `json:"creds,omitempty"` // the file, of static ones

	expires int64
}

func listUsers(ctx context.Context, g *globals, o listOptions) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	var only ident.Region
	if o.region != "" {
		if only, err = known(p, o.region); err != nil {
			return err
		}
	}
	if _, err := ident.ParseLabel(o.account); o.account != "" && err != nil {
		return cli.Errorf(cli.Usage, "see 'nscsetup list accounts'", "%w", err)
	}
	now := time.Now()
	static, err := platform.StaticUsers{Platform: p, Now: time.Now}.All()
	if err != nil {
		return err
	}
	list := []listedUser{}
	for _, u := range static {
		if (o.account == "" || u.Account.String() == o.account) && (only.IsZero() || u.Region == only) {
			list = append(list, staticRow(p, u, now))
		}
	}
	var partly error
	if o.issued {
		var issued []listedUser
		if issued, partly = issuedUsers(ctx, g, p, o, only, now); partly != nil && issued == nil {
			return partly
		}
		list = append(list, issued...)
	}
	if g.json {
		return errors.Join(cli.JSON(g.Out, list), partly)
	}
	rows := [][]string{{"ROLE", "NAME", "KEY", "REGION", "EXPIRES", "STATE"}}
	for _, u := range list {
		rows = append(rows, []string{u.Role, or(u.Name), u.Key, or(u.Region), relative(time.Unix(u.expires, 0), now), u.State})
	}
	return errors.Join(cli.Table(g.Out, rows), partly)
}

// staticRow is a static user as list shows it.
func staticRow(p *platform.Platform, u platform.StaticUser, now time.Time) listedUser {
	last := u.Last()
	l := listedUser{
		Role: u.Of().String(), Name: u.Name.String(), Key: u.Key.String(), Static: true, Region: u.Region.String(),
		Issued: rfc(last.At), Expires: rfc(last.Expires), Creds: p.Dir.CredsFile(u), State: "static", expires: last.Expires,
	}
	switch {
	case u.Unfinished != "":
		l.State = "static, unfinished: run 'nscsetup add user' again"
	case last.Expires <= now.Unix():
		l.State = "static, expired"
	}
	return l
}

// issuedUsers reads records: who has a credential now. What could be read is given also
// with an error; nothing at all is nil.
func issuedUsers(ctx context.Context, g *globals, p *platform.Platform, o listOptions, only ident.Region, now time.Time) ([]listedUser, error) {
	r, err := g.reader(ctx, p, only)
	if err != nil {
		return nil, err
	}
	defer r.close()
	denials, err := r.denials(ctx)
	if err != nil {
		return nil, err
	}
	// Nobody has a credential for longer than policy lets anybody have one.
	since := now.Add(-max(p.Full.Policy.Longest(), 24*time.Hour))
	type holder struct {
		account ident.AccountKey
		user    ident.UserKey
	}
	last := map[holder]audit.Record{}
	var behind []string
	for _, region := range p.Document.Regions {
		if !only.IsZero() && region.Name != only {
			continue
		}
		if err := r.records(ctx, region.Name, since, func(rec audit.Record) {
			h := holder{rec.Account, rec.User}
			if have, ok := last[h]; rec.Expires > now.Unix() && (!ok || rec.Expires > have.Expires) {
				last[h] = rec
			}
		}); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			behind = append(behind, region.Name.String())
		}
	}
	names := map[ident.AccountKey]string{}
	for _, h := range p.Held() {
		names[h.Key] = h.Name
	}
	list := []listedUser{}
	for _, rec := range last {
		if account := cmp.Or(names[rec.Account], rec.Account.String()); o.account == "" || account == o.account {
			list = append(list, issuedRow(rec, account, denials))
		}
	}
	slices.SortFunc(list, func(a, b listedUser) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
	})
	if len(behind) > 0 {
		return list, cli.Errorf(cli.Partial, "are that region's servers up? what the others have is shown", "the records of %s could not be read", strings.Join(behind, ", "))
	}
	return list, r.verdict()
}

func issuedRow(rec audit.Record, account string, denials *ledger.Projection) listedUser {
	l := listedUser{
		Role: account + "/" + rec.Role.String(), Name: rec.Name.String(), Key: rec.User.String(), Identity: rec.Identity.String(),
		Region: rec.Region.String(), Issued: rfc(rec.Issued), Expires: rfc(rec.Expires), State: "issued", expires: rec.Expires,
	}
	if denials.RevokedBefore(rec.Account, rec.User) >= rec.Issued {
		l.State = "issued, revoked"
	} else if _, yes := denials.Denied(rec.Identity, rec.Account, rec.User); yes {
		l.State = "issued, suspended"
	}
	return l
}

// rfc is a time in seconds since 1970, as JSON shows it.
func rfc(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// relative is a time for people: when, and how far from now.
func relative(t, now time.Time) string {
	d := t.Sub(now)
	text := "in " + span(d)
	if d < 0 {
		text = span(-d) + " ago"
	}
	return t.UTC().Format("2006-01-02 15:04 MST") + " (" + text + ")"
}

// span is a length of time, roughly.
func span(d time.Duration) string {
	const aDay = 24 * time.Hour
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{365 * aDay, "year"}, {aDay, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := int64((d + u.of/2) / u.of); n > 1 || d >= u.of {
			if n == 1 {
				return "1 " + u.name
			}
			return strconv.FormatInt(n, 10) + " " + u.name + "s"
		}
	}
	return "a moment"
}

func newListNames(g *globals) *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use:   "names",
		Short: "List names, and who holds them",
		Long: `names lists the names in the ledger: who holds each, and until when. A name that was
released or that lapsed rests for a while, and is listed as resting; names that
anybody may have again are left out, unless with --all.

Exit codes: 5 if no server could be reached.`,
		Example: `  nscsetup list names
  nscsetup list names --region sfo --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listNames(cmd.Context(), g, o) },
	}
	o.copyFlag(c)
	c.Flags().BoolVar(&o.all, "all", false, "names that anybody may have again, too")
	return c
}

// listedName is a name as list and describe show it.
type listedName struct {
	Name    string `json:"name"`
	Holder  string `json:"holder"` // the identity; the last one, if nobody holds it now
	User    string `json:"user,omitempty"`
	State   string `json:"state"` // held, resting or free
	Claimed string `json:"claimed"`
	Until   string `json:"until,omitempty"` // when it lapses, or has rested; empty: held until released
	Version uint64 `json:"version"`

	until int64
}

// States of names.
const (
	nameHeld    = "held"
	nameResting = "resting"
	nameFree    = "free"
)

// nameRow is an entry about a name at a moment.
func nameRow(e ledger.Entry, rules ledger.NameRules, now time.Time) listedName {
	n, _ := e.Body.(ledger.Name)
	l := listedName{
		Name: e.Key.Name().String(), Holder: n.Holder.String(), User: n.User.String(), Claimed: rfc(n.Claimed),
		Version: e.Version, State: nameFree, until: n.Until,
	}
	// Asked for nobody, the rules say how it is.
	switch err := rules.HeldBy(n, e.Denies, ident.Identity{}, now); {
	case errors.Is(err, ledger.ErrTaken):
		l.State = nameHeld
	case errors.Is(err, ledger.ErrResting):
		l.State = nameResting
		if l.until = n.Rests; !e.Denies {
			l.until = n.Until + int64(rules.Rest/time.Second)
		}
	}
	if l.until != 0 {
		l.Until = rfc(l.until)
	}
	return l
}

func (l listedName) end(now time.Time) string {
	if l.until == 0 {
		return "until released"
	}
	return relative(time.Unix(l.until, 0), now)
}

// listKind lists what home decided about one kind of thing. row gives what is shown of an
// entry and whether it is; line is a row of the table.
func listKind[T any](ctx context.Context, g *globals, o listOptions, k ledger.Kind, heads []string,
	row func(e ledger.Entry, p *platform.Platform, denials *ledger.Projection, now time.Time) (T, bool), order func(a, b T) int, line func(v T, now time.Time) []string,
) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	var region ident.Region
	if o.region != "" {
		if region, err = known(p, o.region); err != nil {
			return err
		}
	}
	r, err := g.reader(ctx, p, region)
	if err != nil {
		return err
	}
	defer r.close()
	denials := ledger.NewProjection(nil)
	if k == ledger.KindAccessKey {
		if denials, err = r.denials(ctx); err != nil {
			return err
		}
	}
	now := time.Now()
	list := []T{}
	if err := r.entries(ctx, k, func(e ledger.Entry) {
		if v, ok := row(e, p, denials, now); ok {
			list = append(list, v)
		}
	}); err != nil {
		return err
	}
	slices.SortFunc(list, order)
	if g.json {
		return errors.Join(cli.JSON(g.Out, list), r.verdict())
	}
	rows := [][]string{heads}
	for _, v := range list {
		rows = append(rows, line(v, now))
	}
	return errors.Join(cli.Table(g.Out, rows), r.verdict())
}

func listNames(ctx context.Context, g *globals, o listOptions) error {
	return listKind(ctx, g, o, ledger.KindName, []string{"NAME", "HOLDER", "STATE", "UNTIL"},
		func(e ledger.Entry, p *platform.Platform, _ *ledger.Projection, now time.Time) (listedName, bool) {
			l := nameRow(e, p.Full.Names, now)
			return l, o.all || l.State != nameFree
		},
		func(a, b listedName) int { return cmp.Compare(a.Name, b.Name) },
		func(l listedName, now time.Time) []string { return []string{l.Name, l.Holder, l.State, l.end(now)} })
}

func newListInvites(g *globals) *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use:   "invites",
		Short: "List invitations",
		Long: `invites lists invitations that may still be used: what each gives, how often, and until
when. The ledger knows no codes, only what they hash to, and that is how an
invitation is called here. With --all those that are used up, over or revoked are
listed, too.

Exit codes: 5 if no server could be reached.`,
		Example: `  nscsetup list invites
  nscsetup list invites --all --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listInvites(cmd.Context(), g, o) },
	}
	o.copyFlag(c)
	c.Flags().BoolVar(&o.all, "all", false, "those that cannot be used any more, too")
	return c
}

// listedInvite is an invitation as list and describe show it.
type listedInvite struct {
	ID       string              `json:"id"`
	Role     string              `json:"role"` // ACCOUNT/ROLE
	Name     string              `json:"name,omitempty"`
	Uses     int                 `json:"uses"`
	Left     int                 `json:"left"`
	Expires  string              `json:"expires"`
	State    string              `json:"state"` // open, used up, over or revoked
	Version  uint64              `json:"version"`
	Redeemed []ledger.Redemption `json:"redeemed,omitempty"`

	expires int64
}

// inviteOpen is the state of an invitation that may be used.
const inviteOpen = "open"

func inviteRow(e ledger.Entry, now time.Time) listedInvite {
	i, _ := e.Body.(ledger.Invite)
	_, id, _ := strings.Cut(e.Key.String(), ".")
	l := listedInvite{
		ID: id, Role: i.Account.String() + "/" + i.Role.String(), Name: i.Name.String(), Uses: i.Uses, Left: i.Left(),
		Expires: rfc(i.Expires), State: inviteOpen, Version: e.Version, Redeemed: i.Redeemed, expires: i.Expires,
	}
	switch {
	case e.Denies:
		l.State = "revoked"
	case i.Expires <= now.Unix():
		l.State = "over"
	case i.Left() <= 0:
		l.State = "used up"
	}
	return l
}

func listInvites(ctx context.Context, g *globals, o listOptions) error {
	return listKind(ctx, g, o, ledger.KindInvite, []string{"INVITATION", "ROLE", "NAME", "LEFT", "EXPIRES", "STATE"},
		func(e ledger.Entry, _ *platform.Platform, _ *ledger.Projection, now time.Time) (listedInvite, bool) {
			l := inviteRow(e, now)
			l.Redeemed = nil // describe shows who
			return l, o.all || l.State == inviteOpen
		},
		func(a, b listedInvite) int { return cmp.Or(cmp.Compare(a.expires, b.expires), cmp.Compare(a.ID, b.ID)) },
		func(l listedInvite, now time.Time) []string {
			return []string{l.ID, l.Role, or(l.Name), fmt.Sprintf("%d of %d", l.Left, l.Uses), relative(time.Unix(l.expires, 0), now), l.State}
		})
}

func newListKeys(g *globals) *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use:   "keys",
		Short: "List access keys",
		Long: `keys lists the access keys by which programs prove who they are: who answers for each,
what it may have, and whether it is disabled. Their secrets are nowhere on the
platform. With --all those that were removed or are over are listed, too.

Exit codes: 5 if no server could be reached.`,
		Example: `  nscsetup list keys
  nscsetup list keys --all --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listKeys(cmd.Context(), g, o) },
	}
	o.copyFlag(c)
	c.Flags().BoolVar(&o.all, "all", false, "those that are removed or over, too")
	return c
}

// listedKey is an access key as list and describe show it.
type listedKey struct {
	ID       string   `json:"id"`
	Public   string   `json:"public"`
	Owner    string   `json:"owner"`
	Grants   []string `json:"grants"` // ACCOUNT/ROLE, and "as NAME"
	Expires  string   `json:"expires,omitempty"`
	Networks []string `json:"networks"`
	Password bool     `json:"password"`
	State    string   `json:"state"` // in use, disabled, over or removed
	Version  uint64   `json:"version"`
	Used     *usedKey `json:"last_used,omitempty"` // when describe found that it was used last

	expires int64
}

// States of access keys that may come back to use.
const (
	keyInUse    = "in use"
	keyDisabled = "disabled"
)

func keyRow(e ledger.Entry, denials *ledger.Projection, now time.Time) listedKey {
	k, _ := e.Body.(ledger.AccessKey)
	_, id, _ := strings.Cut(e.Key.String(), ".")
	l := listedKey{
		ID: id, Public: k.Public.String(), Owner: inspect.Clean(k.Owner), Grants: []string{}, Networks: []string{}, Password: k.Password,
		State: keyInUse, Version: e.Version, expires: k.Expires,
	}
	for _, grant := range k.Grants {
		text := grant.Account.String() + "/" + grant.Role.String()
		if !grant.Name.IsZero() {
			text += " as " + grant.Name.String()
		}
		l.Grants = append(l.Grants, text)
	}
	for _, n := range k.Networks {
		l.Networks = append(l.Networks, n.String())
	}
	if k.Expires != 0 {
		l.Expires = rfc(k.Expires)
	}
	keyID, err := ident.ParseKeyID(id)
	_, suspended := denials.Denied(ident.KeyIdentity(keyID), ident.AccountKey{}, ident.UserKey{})
	switch {
	case e.Denies:
		l.State = "removed"
	case k.Expires != 0 && k.Expires <= now.Unix():
		l.State = "over"
	case k.Disabled, err == nil && suspended:
		l.State = keyDisabled
	}
	return l
}

func (l listedKey) end(now time.Time) string {
	if l.expires == 0 {
		return "never"
	}
	return relative(time.Unix(l.expires, 0), now)
}

func listKeys(ctx context.Context, g *globals, o listOptions) error {
	return listKind(ctx, g, o, ledger.KindAccessKey, []string{"KEY", "OWNER", "MAY HAVE", "EXPIRES", "STATE"},
		func(e ledger.Entry, _ *platform.Platform, denials *ledger.Projection, now time.Time) (listedKey, bool) {
			l := keyRow(e, denials, now)
			return l, o.all || l.State == keyInUse || l.State == keyDisabled
		},
		func(a, b listedKey) int { return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.ID, b.ID)) },
		func(l listedKey, now time.Time) []string {
			return []string{l.ID, or(l.Owner), or(strings.Join(l.Grants, ", ")), l.end(now), l.State}
		})
}
