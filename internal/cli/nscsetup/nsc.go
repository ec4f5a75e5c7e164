package nscsetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/nscmap"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/registrar"
)

func newNSC(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "nsc",
		Short: "Move an operator in from the nsc tool, or out to it",
		Long: `nsc reads and writes the folders in which the nsc tool keeps an operator: its
accounts and users, and the keystore with their seeds. docs/nsc.md says what goes
along and how.`,
		Example: `  nscsetup nsc import ~/.local/share/nats/nsc
  nscsetup nsc export out`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(newNSCImport(g), newNSCExport(g))
	return c
}

type nscImportOptions struct {
	initOptions
	operator string
	into     string
	keystore string
	rename   []string
	roles    []string
	leaveOut []string
}

func newNSCImport(g *globals) *cobra.Command {
	var o nscImportOptions
	c := &cobra.Command{
		Use:   "import DIR",
		Short: "Make a platform of an operator of the nsc tool",
		Long: `import makes a new platform of an operator that nsc keeps in DIR, such as
~/.local/share/nats/nsc. What is in DIR is not changed.

The operator and its accounts keep their keys; scoped signing keys become roles with
the same keys and rights; revocations stay in force; users under roles go on connecting
with the credentials that they have. The operator's JWT is signed anew: from then on
its signing keys alone sign accounts, Herald's own beside those that were there. The
system account is called SYS, and Herald's own accounts come beside the imported ones.

Whatever Herald cannot say exactly as it was is refused by name, all of it at once,
and nothing is made. Correct it with nsc, or leave it out: by --leave-out with its
name, or all of it. What is left out gives nobody more than there was.

Exit codes: 6 if something is refused, 4 if the platform's folder is taken, 8 if the
store is damaged or others can read its seeds.`,
		Example: `  nscsetup nsc import ~/.local/share/nats/nsc --operator Acme --into acme --region ams --region sfo
  nscsetup nsc import store --into acme --name acme --rename 'my app=APP' --leave-out SYS/users/sys
  nscsetup nsc import store --into acme --leave-out all --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runNSCImport(cmd.Context(), g, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.operator, "operator", "", "the `operator`, as nsc calls it (default: the only one)")
	f.StringVar(&o.into, "into", "", "the `folder` of the new platform (default: one with its name)")
	f.StringVar(&o.keystore, "keystore", "", "the `folder` with keys and creds, where it is not in DIR")
	f.StringVar(&o.name, "name", "", "the platform's `name` (default: made of the operator's)")
	f.StringSliceVar(&o.regions, "region", []string{"ams", "sfo", "sgp"}, "a `region`; repeat it for each")
	f.StringVar(&o.home, "home", "", "the `region` that decides names (default: the first)")
	f.IntVar(&o.nodes, "nodes", 3, "servers in each region, 3 or more")
	f.IntVar(&o.port, "port", 0, "first of a block of ports (default: a block that is free now)")
	f.StringArrayVar(&o.rename, "rename", nil, "another name: `OLD=NEW` for an account, ACCOUNT/OLD=NEW for a user")
	f.StringArrayVar(&o.roles, "role", nil, "the name of a role, by its public key: `KEY=NAME`")
	f.StringArrayVar(&o.leaveOut, "leave-out", nil, "leave out an `item` that is refused, by its name; all leaves out all of them")
	_ = c.MarkFlagDirname("into")     // it is there
	_ = c.MarkFlagDirname("keystore") // it is there
	return c
}

// nscError says what an error of a store means to a person; all problems of a store are
// told.
func (g *globals) nscError(err error) error {
	var problems *nscstore.Problems
	if errors.As(err, &problems) {
		for _, p := range problems.List {
			if perr := cli.Print(g.Err, "    %s\n", cli.Line(p.Error())); perr != nil {
				return perr
			}
		}
		if problems.More > 0 {
			if perr := cli.Print(g.Err, "    and %d more\n", problems.More); perr != nil {
				return perr
			}
		}
		return cli.Errorf(cli.Config, "correct what is named above; nothing was made", "%d files of the store are not as they must be", len(problems.List)+problems.More)
	}
	for _, r := range []cli.Rule{
		{Is: nscstore.ErrNoStore, Code: cli.Config, Hint: "name the folder that has nsc's stores in it, such as ~/.local/share/nats/nsc; --keystore names that of the keys"},
		{Is: nscstore.ErrBusy, Code: cli.Exists, Hint: "another nscsetup writes there: wait until it is done"},
		{Is: nscmap.ErrUnknown, Code: cli.Usage, Hint: "without that flag, what is refused is listed by its name"},
		{Is: nscmap.ErrName, Code: cli.Usage, Hint: "choose a name that none of Herald's own accounts has"},
		{Is: nscmap.ErrNoSeed, Code: cli.Config, Hint: "bring the operator's folder back as it was: its seeds are needed for what has to be signed"},
	} {
		if errors.Is(err, r.Is) {
			return cli.Errorf(r.Code, r.Hint, "%w", err)
		}
	}
	return err
}

func runNSCImport(ctx context.Context, g *globals, o nscImportOptions, dir string) error {
	s, err := o.read(dir)
	if err != nil {
		return g.nscError(err)
	}
	if o.name == "" {
		name, err := nscmap.NameFor(s.Name)
		if err != nil {
			return cli.Errorf(cli.Usage, "give it one with --name, such as --name acme", "the operator's name, %.64q, makes no name of a platform", s.Name)
		}
		o.name = name.String()
	}
	spec, err := o.spec()
	if err != nil {
		return err
	}
	if o.into == "" {
		o.into = filepath.Join(g.dir, o.name)
	}
	if err := elsewhere(o.into); err != nil {
		return err
	}
	if spec, err = platform.Placed(ctx, spec); err != nil {
		return err
	}
	now := time.Now()
	mo, err := o.options(platform.NewFile(spec), now)
	if err != nil {
		return err
	}
	m, err := nscmap.From(s, mo)
	if err != nil {
		return g.nscError(err)
	}
	if len(m.Refused) > 0 {
		return g.refused(s, m)
	}
	p, err := g.adopt(ctx, o.into, m, now)
	if err != nil {
		return err
	}
	return g.printImport(p, o.into, m)
}

// adopt makes the platform.
func (g *globals) adopt(ctx context.Context, dir string, m *nscmap.Moved, now time.Time) (*platform.Platform, error) {
	a := platform.Adoption{
		File: m.File, Operator: m.Operator, Key: m.Key, Signing: m.Signing, Accounts: m.Accounts, Roles: m.Roles, Revocations: m.Revocations,
	}
	for _, u := range m.Users {
		a.Users = append(a.Users, platform.AdoptedUser(u))
	}
	show, done := cli.Progress(g.IO), 0
	if show == nil {
		return platform.Adopt(ctx, dir, a, now, nil)
	}
	const what = "making the platform"
	defer show(what, 1, 1)
	return platform.Adopt(ctx, dir, a, now, func(string) {
		show(what, done, a.Steps())
		done++
	})
}

// read reads the operator.
func (o nscImportOptions) read(dir string) (*nscstore.Store, error) {
	dirs, err := nscstore.Locate(dir)
	if err != nil {
		return nil, err
	}
	if o.keystore != "" {
		dirs.Keystore = o.keystore
	}
	if o.operator == "" {
		names, err := nscstore.Operators(dirs)
		if err != nil {
			return nil, err
		}
		if len(names) != 1 {
			return nil, cli.Errorf(cli.Usage, "name one with --operator: "+strings.Join(names, ", "), "there are %d operators in %s", len(names), dir)
		}
		o.operator = names[0]
	}
	return nscstore.Read(dirs, o.operator)
}

// elsewhere refuses the folder that the program stands in: it would be replaced, and who
// stands in it would be nowhere.
func elsewhere(dir string) error {
	there, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at %s: %w", dir, err)
	}
	if here, err := os.Stat("."); err == nil && os.SameFile(here, there) {
		return cli.Errorf(cli.Usage, "name a new one, such as --into acme", "--into %s is the folder that you are in", dir)
	}
	return nil
}

// options reads the flags that give names.
func (o nscImportOptions) options(into *manifest.File, now time.Time) (nscmap.Options, error) {
	out := nscmap.Options{
		Into: into, Now: now,
		Accounts: map[string]ident.Label{}, Users: map[[2]string]ident.Name{}, Roles: map[string]ident.Label{},
	}
	pair := func(flag, s string) (old, fresh string, err error) {
		i := strings.LastIndexByte(s, '=')
		if i < 1 || i == len(s)-1 {
			return "", "", cli.Errorf(cli.Usage, "such as "+flag+" 'my app=APP'", "%s %.80q says no new name", flag, s)
		}
		return s[:i], s[i+1:], nil
	}
	for _, r := range o.rename {
		old, fresh, err := pair("--rename", r)
		if err != nil {
			return out, err
		}
		// No account of nsc has a slash in its name.
		if account, user, ok := strings.Cut(old, "/"); ok {
			if out.Users[[2]string{account, user}], err = ident.ParseName(fresh); err != nil {
				return out, fmt.Errorf("--rename: %w", err)
			}
		} else if out.Accounts[old], err = ident.ParseLabel(fresh); err != nil {
			return out, fmt.Errorf("--rename: %w", err)
		}
	}
	for _, r := range o.roles {
		key, fresh, err := pair("--role", r)
		if err != nil {
			return out, err
		}
		if out.Roles[key], err = ident.ParseLabel(fresh); err != nil {
			return out, fmt.Errorf("--role: %w", err)
		}
	}
	for _, item := range o.leaveOut {
		if item == "all" {
			out.All = true
		} else {
			out.LeaveOut = append(out.LeaveOut, item)
		}
	}
	return out, nil
}

// refused tells what cannot be carried.
func (g *globals) refused(s *nscstore.Store, m *nscmap.Moved) error {
	if g.json {
		if err := cli.JSON(g.Out, map[string]any{"operator": s.Name, "refused": m.Refused, "left_out": orEmpty(m.LeftOut)}); err != nil {
			return err
		}
	} else {
		for _, i := range m.Refused {
			if err := cli.Print(g.Err, "    %s: %s (%s)\n", cli.Line(i.Item), cli.Line(i.Why), cli.Line(i.Hint)); err != nil {
				return err
			}
		}
	}
	hint := "do what is said of each with nsc, or leave it out with --leave-out and its name; --leave-out all leaves out all of it"
	if slices.ContainsFunc(m.Refused, func(i nscmap.Item) bool { return i.Fatal }) {
		hint = m.Refused[slices.IndexFunc(m.Refused, func(i nscmap.Item) bool { return i.Fatal })].Hint
	}
	what := fmt.Sprintf("%d things of operator %q cannot go along", len(m.Refused), s.Name)
	if len(m.Refused) == 1 {
		what = fmt.Sprintf("%s of operator %q cannot go along", m.Refused[0].Item, s.Name)
	}
	return cli.Errorf(cli.Refused, hint, "%s; nothing was made", what)
}

// importReport is what `nsc import --json` says.
type importReport struct {
	Platform string         `json:"platform"`
	Dir      string         `json:"dir"`
	Operator string         `json:"operator"`
	Home     ident.Region   `json:"home"`
	Accounts []movedAccount `json:"accounts"`
	LeftOut  []nscmap.Item  `json:"left_out"`
	Notes    []nscmap.Note  `json:"notes"`
	Behind   []nscmap.Note  `json:"behind"`
	Regions  []ident.Region `json:"regions"`
}

// movedAccount is an account that went along.
type movedAccount struct {
	Name     string   `json:"name"`
	Key      string   `json:"key"`
	Imported bool     `json:"imported"` // its key is the one that it had
	Roles    []string `json:"roles"`
	Users    int      `json:"users"`
	Revoked  int      `json:"revoked"` // entries of its list of revocations
}

func (g *globals) printImport(p *platform.Platform, dir string, m *nscmap.Moved) error {
	r := importReport{
		Platform: p.Document.Name, Dir: absolute(dir), Operator: p.Operator.Key(), Home: p.Document.Home,
		LeftOut: orEmpty(m.LeftOut), Notes: orEmpty(m.Notes), Behind: orEmpty(m.Behind),
	}
	for _, region := range p.Document.Regions {
		r.Regions = append(r.Regions, region.Name)
	}
	users := map[string]int{}
	for _, u := range m.Users {
		users[u.Role.Account.String()]++
	}
	for _, h := range p.Held() {
		a := movedAccount{Name: h.Name, Key: h.Key.String(), Roles: []string{}, Users: users[h.Name]}
		for role := range h.Roles {
			a.Roles = append(a.Roles, role)
		}
		slices.Sort(a.Roles)
		if name, err := ident.ParseLabel(h.Name); err == nil {
			a.Imported, a.Revoked = m.Accounts[name] != nil, len(m.Revocations[name])
		}
		r.Accounts = append(r.Accounts, a)
	}
	if g.json {
		return cli.JSON(g.Out, r)
	}
	return g.printMoved(r, p)
}

func (g *globals) printMoved(r importReport, p *platform.Platform) error {
	rows := [][]string{{"ACCOUNT", "KEY", "FROM", "ROLES", "USERS", "REVOKED"}}
	for _, a := range r.Accounts {
		from := "new"
		if a.Imported {
			from = "nsc"
		}
		rows = append(rows, []string{a.Name, a.Key, from, strings.Join(a.Roles, ", "), fmt.Sprint(a.Users), fmt.Sprint(a.Revoked)})
	}
	errs := []error{
		cli.Print(g.Out, "platform %s in %s\noperator %s\n\n", r.Platform, r.Dir, r.Operator),
		cli.Table(g.Out, rows),
	}
	for _, i := range r.LeftOut {
		errs = append(errs, cli.Print(g.Err, "left out: %s: %s\n", cli.Line(i.Item), cli.Line(i.Why)))
	}
	for _, n := range r.Notes {
		errs = append(errs, cli.Print(g.Err, "note: %s: %s\n", cli.Line(n.Item), cli.Line(n.What)))
	}
	for _, n := range r.Behind {
		errs = append(errs, cli.Print(g.Err, "stays behind: %s: %s\n", cli.Line(n.Item), cli.Line(n.What)))
	}
	errs = append(errs, cli.Print(g.Err, "\n%s holds every private key: keep it offline, and back it up.\n"+
		"From now on, change nothing of this operator with nsc.\n"+
		"Next: put your addresses into %s, and look at 'nscsetup --dir %s plan --offline'\n", p.Dir.Operator(), p.Dir.File(), p.Dir))
	return errors.Join(errs...)
}

// orEmpty is a list that is there, for JSON.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

type nscExportOptions struct {
	operator string
	layout   string
	live     bool
}

func newNSCExport(g *globals) *cobra.Command {
	var o nscExportOptions
	c := &cobra.Command{
		Use:   "export DIR",
		Short: "Write the platform as an operator of the nsc tool",
		Long: `export makes DIR, with the platform's operator, accounts and static users in it as the
nsc tool keeps them, and all seeds that the platform folder has. The platform stays as
it is.

Roles are scoped signing keys there. What nsc knows nothing of is named: it stays in
platform.yaml and in the platform folder.

--live asks the servers for what they hold, so that revocations go along of which the
folder knows nothing.`,
		Example: `  nscsetup nsc export out
  nsc --data-dir out/stores --keystore-dir out list accounts
  nscsetup nsc export ~/.local/share/nats/nsc --layout nsc --live`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runNSCExport(cmd.Context(), g, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.operator, "operator", "", "what nsc is to call the `operator` (default: its name)")
	f.StringVar(&o.layout, "layout", "plain", "plain puts stores, keys and creds side by side; nsc lays them as its own data folder does")
	f.BoolVar(&o.live, "live", false, "ask the servers what is in force")
	_ = c.RegisterFlagCompletionFunc("layout", fixed("plain", "nsc")) // it is there
	return c
}

func runNSCExport(ctx context.Context, g *globals, o nscExportOptions, dir string) error {
	forms := map[string]nscstore.Form{"plain": nscstore.Plain, "nsc": nscstore.Home}
	form, ok := forms[o.layout]
	if !ok {
		return cli.Errorf(cli.Usage, "it is plain or nsc", "--layout %.20q cannot be", o.layout)
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	l, err := leaving(p, o.operator)
	if err != nil {
		return err
	}
	if o.live {
		if l.Accounts, err = g.live(ctx, p); err != nil {
			return err
		}
	}
	left, err := nscmap.To(l)
	if err != nil {
		return g.nscError(err)
	}
	if err := nscstore.Write(dir, form, left.Store); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return cli.Errorf(cli.Exists, "choose a folder that is empty or does not exist; nothing was changed", "%w", err)
		}
		return g.nscError(err)
	}
	return g.printExport(p, left, form, dir)
}

// leaving gathers what the folder has.
func leaving(p *platform.Platform, operator string) (nscmap.Leaving, error) {
	l := nscmap.Leaving{Name: operator, Operator: p.Operator.Token(), File: p.File, Now: time.Now()}
	if l.Name == "" {
		l.Name = p.Operator.Name()
	}
	for _, h := range p.Held() {
		_, c, err := p.Claims(h)
		if err != nil {
			return l, err
		}
		l.Accounts = append(l.Accounts, c)
	}
	var err error
	if l.Keys, err = p.Seeds(); err != nil {
		return l, err
	}
	users, err := platform.StaticUsers{Platform: p, Now: time.Now}.All()
	if err != nil {
		return l, err
	}
	for _, u := range users {
		token, key, err := p.Credential(u)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was given away; printExport says so
		}
		if err != nil {
			return l, err
		}
		l.Users = append(l.Users, nscmap.User{Role: u.Of(), Name: u.Name, Token: token, Key: key})
	}
	return l, nil
}

// live asks the servers for the accounts of this folder: what is in force of them, joined
// from all that servers hold.
func (g *globals) live(ctx context.Context, p *platform.Platform) ([]*jwt.AccountClaims, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	tokens, err := p.Tokens()
	if err != nil {
		return nil, err
	}
	t := g.tool(p)
	nc, err := t.Dial(ctx, platform.System, platform.RoleSetup)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	defer nc.Close()
	rep, err := registrar.NewResolver(nc, p.Operator, nil, time.Now).Survey(ctx, tokens, nil)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	var out []*jwt.AccountClaims
	for _, s := range rep.Accounts {
		content, err := s.Content()
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", s.Name, err)
		}
		c, err := content.Claims()
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", s.Name, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// exportReport is what `nsc export --json` says.
type exportReport struct {
	Dir      string        `json:"dir"`
	Stores   string        `json:"stores"`
	Keystore string        `json:"keystore"`
	Operator string        `json:"operator"`
	Accounts int           `json:"accounts"`
	Users    int           `json:"users"`
	Keys     int           `json:"keys"`
	Notes    []nscmap.Note `json:"notes"`
	// Stays is what nsc knows nothing of.
	Stays []nscmap.Note `json:"stays"`
}

func (g *globals) printExport(p *platform.Platform, left *nscmap.Left, form nscstore.Form, dir string) error {
	dirs := form.In(dir)
	r := exportReport{
		Dir: absolute(dir), Stores: absolute(dirs.Stores), Keystore: absolute(dirs.Keystore), Operator: left.Store.Name,
		Accounts: len(left.Store.Accounts), Keys: len(left.Store.Keys), Notes: orEmpty(left.Notes), Stays: stays(p),
	}
	for _, a := range left.Store.Accounts {
		r.Users += len(a.Users)
	}
	if left.Store.Keys[p.Operator.Key()] == nil {
		r.Notes = append(r.Notes, nscmap.Note{Item: "operator", What: "its own seed is not in the platform folder, and so not there: nsc cannot change the operator without it"})
	}
	users, err := platform.StaticUsers{Platform: p, Now: time.Now}.All()
	if err != nil {
		return err
	}
	for _, u := range users {
		if _, err := os.Stat(p.Dir.CredsFile(u)); errors.Is(err, fs.ErrNotExist) {
			r.Notes = append(r.Notes, nscmap.Note{Item: u.Of().String() + "/" + u.Name.String(), What: "its creds file is not here, and so not there"})
		}
	}
	if g.json {
		return cli.JSON(g.Out, r)
	}
	errs := []error{cli.Print(g.Out, "operator %s in %s: %d accounts, %d users, %d keys\n", r.Operator, dir, r.Accounts, r.Users, r.Keys)}
	for _, n := range r.Notes {
		errs = append(errs, cli.Print(g.Err, "note: %s: %s\n", cli.Line(n.Item), cli.Line(n.What)))
	}
	for _, n := range r.Stays {
		errs = append(errs, cli.Print(g.Err, "nsc knows nothing of %s: %s\n", n.Item, n.What))
	}
	errs = append(errs, cli.Print(g.Err, "\n%s holds every private key: keep it offline.\nNext: nsc --data-dir %s --keystore-dir %s list accounts\n", dir, dirs.Stores, dirs.Keystore))
	return errors.Join(errs...)
}

// stays is what of a platform is nowhere in nsc.
func stays(p *platform.Platform) []nscmap.Note {
	out := []nscmap.Note{
		{Item: "regions and servers", What: "they stay in " + manifest.FileName},
		{Item: "grants, lifetimes and identities", What: fmt.Sprintf("%d grants stay in %s, and in force as long as issuers run", len(p.File.Grants), manifest.FileName)},
		{Item: "the chat's rooms", What: "they stay in " + manifest.FileName},
		{Item: "names, invites, access keys and records", What: "they stay in the ledger, in the streams of account " + manifest.Ledger},
		{Item: "the credentials and keys of issuers and registrars", What: "they stay with them"},
	}
	for _, a := range p.File.Accounts {
		for _, r := range a.Roles {
			if r.Lifetime != 0 || r.Longest != 0 || r.Public {
				return append(out, nscmap.Note{Item: "whether a role is public, and how long its credentials live", What: "that stays in " + manifest.FileName})
			}
		}
	}
	return out
}
