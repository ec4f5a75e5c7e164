package nscsetup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/plan"
)

type describeOptions struct {
	platform string
	check    bool
}

func newDescribe(g *globals) *cobra.Command {
	var o describeOptions
	c := &cobra.Command{
		Use:   "describe [FILE|-]",
		Short: "Explain a JWT, creds file or nkey, or a part of the platform",
		Long: `describe FILE explains any JWT of NATS or of Herald, any creds file, nkey or context:
whose it is, who signed it and what that signer is on this platform, its times,
rights and limits, whether the signature verifies and whether the chain ends at this
platform's operator. It reads standard input for -, and a JWT or a public nkey may
stand in the file's place. It never shows a seed or any other secret.

The platform at hand is the folder that it stands in, or --dir; without one, a
public/ folder or a context that --platform names. Nothing else is asked: what was
revoked since this folder was last applied is not known here.

With the words below it describes a part of the platform. A file of such a name is
written ./account.

Exit codes: 0 if it could be explained, whatever it is; with --check 1 unless all of
it verifies up to this platform's operator, is in its time and fits together. 8 if
there is nothing in it to explain.`,
		Example: `  nscsetup describe operator/users/ORDERS.service.mail.creds
  nscsetup describe --platform demo.herald alice.creds
  nscsetup describe public/platform.jwt --json
  nscsetup describe - --check < user.jwt
  nscsetup describe role CHAT/member`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return describeFile(cmd, g, o, args[0])
		},
	}
	c.Flags().StringVar(&o.platform, "platform", "", "hold it against this public/ folder or context `path`")
	c.Flags().BoolVar(&o.check, "check", false, "exit with 1 unless it is good here and now")
	c.AddCommand(
		newDescribeAccount(g), newDescribeRole(g), newDescribeUser(g), newDescribeRegion(g),
		newDescribeName(g), newDescribeInvite(g), newDescribeKey(g),
	)
	return c
}

// sheet is what a command tells of one thing: fields, and lists below them.
type sheet struct {
	rows [][]string
	text strings.Builder
}

func (s *sheet) field(name, value string) {
	if value != "" {
		s.rows = append(s.rows, []string{name, inspect.Clean(value)})
	}
}

// list is a headed list; an empty one is left out.
func (s *sheet) list(head string, lines []string) {
	if len(lines) == 0 {
		return
	}
	s.flush()
	s.text.WriteString(head + ":\n")
	for _, l := range lines {
		s.text.WriteString("  " + inspect.Clean(l) + "\n")
	}
}

// flush writes the fields so far, in columns.
func (s *sheet) flush() {
	if len(s.rows) > 0 {
		_ = cli.Table(&s.text, s.rows) // a builder takes everything
		s.rows = nil
	}
}

func (s *sheet) print(w io.Writer) error {
	s.flush()
	return cli.Print(w, "%s", s.text.String())
}

func describeFile(cmd *cobra.Command, g *globals, o describeOptions, arg string) error {
	known, err := g.knowledge(cmd, o.platform)
	if err != nil {
		return err
	}
	data, mode, err := readInput(cmd.Context(), g, arg)
	if err != nil {
		return err
	}
	now := time.Now()
	r, err := inspect.Explain(data, known, now)
	switch {
	case errors.Is(err, inspect.ErrTooLarge):
		return cli.Errorf(cli.Config, "a JWT, a creds file, an nkey or a context is meant", "%s: %w", arg, err)
	case err != nil:
		return cli.Errorf(cli.Config, "a JWT, a creds file, an nkey or a context is meant; see 'nscsetup describe --help'", "%s: %w", arg, err)
	}
	if r.Secret && mode&0o077 != 0 && !isGuest(r) {
		r.Problems = append(r.Problems, fmt.Sprintf("others may read the file (mode %#o), and it has a secret", mode))
	}
	if g.json {
		err = cli.JSON(g.Out, r)
	} else {
		err = reportSheet(r, known.Operator != nil, now).print(g.Out)
	}
	if err == nil && o.check && !r.Good() {
		return cli.Silent(cli.Failed)
	}
	return err
}

// isGuest tells whether the only secret in a file is the guest's, who anyone may be.
func isGuest(r *inspect.Report) bool {
	guest := platform.Guest + "/" + platform.RoleGuest
	return r.Form == inspect.FormContext ||
		r.Form == inspect.FormCreds && r.Tokens[0].IssuerIs == "role "+guest && r.Tokens[0].Chain == inspect.ChainTrusted
}

// knowledge is what the platform at hand says; without one it is empty.
func (g *globals) knowledge(cmd *cobra.Command, public string) (inspect.Platform, error) {
	if public != "" {
		p, err := client.LoadPlatform(public)
		if err != nil {
			return inspect.Platform{}, cli.Errorf(cli.Config, "name a public/ folder, or a file that 'nscsetup context export' wrote, with --platform", "%w", err)
		}
		return inspect.Platform{Operator: p.Operator, Document: p.Document}, nil
	}
	p, err := g.look()
	if err != nil {
		if errors.Is(err, platform.ErrNotPlatform) && !cmd.Flags().Changed("dir") {
			return inspect.Platform{}, nil // it stands somewhere else
		}
		return inspect.Platform{}, err
	}
	who, err := p.Who()
	if err != nil {
		return inspect.Platform{}, err
	}
	names := make(map[string]platform.Held, len(p.Held()))
	for _, h := range p.Held() {
		names[h.Key.String()] = h
	}
	return inspect.Platform{
		Operator: p.Operator, Document: p.Document, Is: who,
		Account: func(public string) *jwt.AccountClaims {
			h, ok := names[public]
			if !ok {
				return nil
			}
			_, c, err := p.Claims(h)
			if err != nil {
				return nil // it was verified when the folder was opened, and changed since
			}
			return c
		},
	}, nil
}

// readInput reads what is to be explained, and the mode of its file; 0 if it is none.
//
// A pipe may never end, or never begin: who waits for it can be interrupted.
func readInput(ctx context.Context, g *globals, arg string) ([]byte, fs.FileMode, error) {
	type input struct {
		data []byte
		mode fs.FileMode
		err  error
	}
	read := make(chan input, 1)
	go func() {
		data, mode, err := readNow(g, arg)
		read <- input{data, mode, err}
	}()
	select {
	case i := <-read:
		return i.data, i.mode, i.err
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("reading what is to be explained: %w", context.Cause(ctx))
	}
}

func readNow(g *globals, arg string) ([]byte, fs.FileMode, error) {
	if arg == "-" {
		data, err := readBounded(g.In)
		return data, 0, err
	}
	// What is no path may be the thing itself. A seed is refused unseen: whoever looks at
	// this machine's processes reads it.
	if inspect.Redact(arg) != arg {
		return nil, 0, cli.Errorf(cli.Usage, "others on this machine see command lines: put it into a file, or read it from standard input with -", "a secret stands on the command line")
	}
	if strings.Contains(arg, "hks_") {
		return nil, 0, cli.Errorf(cli.Usage, "others on this machine see command lines; 'nscsetup access-key check -' reads it from standard input", "a secret stands on the command line")
	}
	f, err := os.Open(arg) // #nosec G304 -- the file that the user named
	// A JWT is longer than any file's name.
	if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG)) && !strings.ContainsAny(arg, "/ ") && len(arg) >= 56 {
		return []byte(arg), 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading what is to be explained: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("reading what is to be explained: %w", err)
	}
	data, err := readBounded(f)
	if !info.Mode().IsRegular() {
		return data, 0, err
	}
	return data, info.Mode().Perm(), err
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, inspect.MaxInput+1))
	if err != nil {
		return nil, fmt.Errorf("reading what is to be explained: %w", err)
	}
	return data, nil
}

// reportSheet is a report for people.
func reportSheet(r *inspect.Report, atHand bool, now time.Time) *sheet {
	s := &sheet{}
	s.field("file", string(r.Form))
	for _, t := range r.Tokens {
		if len(r.Tokens) > 1 {
			s.flush()
			s.text.WriteString("\n")
		}
		tokenSheet(s, t, now)
	}
	for _, k := range r.Keys {
		if len(r.Keys)+len(r.Tokens) > 1 {
			s.flush()
			s.text.WriteString("\n")
		}
		text := "public key"
		if k.Seed {
			text = "seed, which is not shown"
		}
		s.field("nkey", k.Kind+" key: "+text)
		s.field("public key", k.Public)
		s.field("is here", orUnknown(k, atHand))
	}
	s.list("problems", r.Problems)
	return s
}

// orUnknown is what a key is, or that the platform at hand does not have it.
func orUnknown(k inspect.Key, atHand bool) string {
	switch {
	case k.Is != "" || !atHand:
		return k.Is
	case k.Kind == "user":
		return "no user that is on record here" // issuers' are on record in the ledger
	default:
		return "none of this platform's keys"
	}
}

// keyIs is a key, and what it is.
func keyIs(key, is string) string {
	if is == "" {
		return key
	}
	return key + " (" + is + ")"
}

func tokenSheet(s *sheet, t inspect.Token, now time.Time) {
	s.field("kind", t.Kind+" JWT, version "+strconv.Itoa(t.Version))
	s.field("name", t.Name)
	s.field("subject", keyIs(t.Subject, t.SubjectIs))
	s.field("issuer", keyIs(t.Issuer, t.IssuerIs))
	s.field("account", keyIs(t.Account, t.AccountIs))
	s.field("audience", t.Audience)
	s.field("id", t.ID)
	for _, at := range []struct {
		name string
		t    *time.Time
	}{{"issued", t.IssuedAt}, {"not before", t.NotBefore}, {"expires", t.Expires}} {
		if at.t != nil {
			s.field(at.name, relative(*at.t, now))
		}
	}
	if t.Expires == nil {
		s.field("expires", "never")
	}
	s.field("state", string(t.State))
	s.field("tags", strings.Join(t.Tags, ", "))
	if t.Verifies {
		s.field("signature", "verifies")
	} else {
		s.field("signature", "does not verify: "+t.WhyNot)
	}
	s.field("chain", string(t.Chain)+": "+t.ChainSays)
	s.list("says", t.Says)
	s.list("rights here", t.Rights)
	s.list("without effect", t.Ignored)
	if len(t.Says) == 0 && t.Body != nil || t.Kind == inspect.KindEntry {
		s.list("body", bodyLines("", t.Body))
	}
}

// bodyLines are the values of a JSON body, each with its path.
func bodyLines(path string, v any) []string {
	switch v := v.(type) {
	case map[string]any:
		var out []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, bodyLines(strings.TrimPrefix(path+"."+k, "."), v[k])...)
		}
		return out
	case []any:
		var out []string
		for i, m := range v {
			out = append(out, bodyLines(path+"["+strconv.Itoa(i)+"]", m)...)
		}
		return out
	default:
		return []string{fmt.Sprintf("%s: %v", path, v)}
	}
}

func newDescribeAccount(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "account ACCOUNT",
		Short: "Describe an account",
		Long: `account shows an account as it is in force: its keys, roles, limits, exports and
imports, and who signed it when; then what platform.yaml changes and is not applied
yet, and the account's static users.`,
		Example: `  nscsetup describe account CHAT
  nscsetup describe account CHAT --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return describeAccount(g, args[0]) },
	}
}

// describedAccount is what `describe account --json` says.
type describedAccount struct {
	Account string         `json:"account"`
	Own     bool           `json:"own"`
	State   string         `json:"state"`
	Key     string         `json:"key,omitempty"`
	Token   *inspect.Token `json:"token,omitempty"` // in force
	Pending []plan.Line    `json:"pending"`         // what is not applied
	Cut     []plan.Cut     `json:"cut,omitempty"`   // roles whose connections would close
	Users   []listedUser   `json:"users"`           // static
}

func describeAccount(g *globals, name string) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	v, err := g.pending(p)
	if err != nil {
		return err
	}
	if err := v.hasAccount(name); err != nil {
		return err
	}
	now := time.Now()
	d := describedAccount{Account: name, Own: slices.Contains(manifest.OwnAccounts(), name), State: stateNew, Pending: []plan.Line{}}
	if h, ok := v.held[name]; ok {
		d.State, d.Key = v.stateOf(name, h), h.Key.String()
		if d.Token, err = v.explain(h, now); err != nil {
			return err
		}
	}
	if a, ok := v.of[name]; ok {
		d.Pending, d.Cut = a.Diff, a.Cut
	}
	if d.Users, err = v.static(now, func(u platform.StaticUser) bool { return u.Account.String() == name }); err != nil {
		return err
	}
	if g.json {
		return cli.JSON(g.Out, d)
	}
	s := &sheet{}
	s.field("account", name)
	s.field("state", d.State)
	if t := d.Token; t != nil {
		s.field("signed", relative(*t.IssuedAt, now)+" by "+keyIs(t.Issuer, t.IssuerIs))
		s.field("tags", strings.Join(t.Tags, ", "))
		s.list("in force", t.Says)
	}
	s.list("not applied", lines(d.Pending))
	var cut []string
	for _, c := range d.Cut {
		cut = append(cut, c.Role)
	}
	s.list("connections that would close, of roles", cut)
	s.list("static users", userLines(d.Users, now))
	return s.print(g.Out)
}

// explain explains an account's JWT in force.
func (v *pending) explain(h platform.Held, now time.Time) (*inspect.Token, error) {
	token, _, err := v.Claims(h)
	if err != nil {
		return nil, err
	}
	who, err := v.Who()
	if err != nil {
		return nil, err
	}
	r, err := inspect.Explain([]byte(token), inspect.Platform{Operator: v.Operator, Document: v.Document, Is: who}, now)
	if err != nil {
		return nil, fmt.Errorf("the JWT of account %s: %w", h.Name, err)
	}
	if len(r.Tokens) != 1 || r.Tokens[0].IssuedAt == nil {
		return nil, fmt.Errorf("the JWT of account %s: %w", h.Name, platform.ErrNotPlatform)
	}
	return &r.Tokens[0], nil
}

// static are static users that are wanted.
func (v *pending) static(now time.Time, want func(platform.StaticUser) bool) ([]listedUser, error) {
	all, err := platform.StaticUsers{Platform: v.Platform, Now: time.Now}.All()
	if err != nil {
		return nil, err
	}
	out := []listedUser{}
	for _, u := range all {
		if want(u) {
			out = append(out, staticRow(v.Platform, u, now))
		}
	}
	return out, nil
}

func userLines(users []listedUser, now time.Time) []string {
	var out []string
	for _, u := range users {
		out = append(out, fmt.Sprintf("%s %s, %s, until %s", u.Role, u.Name, u.State, relative(time.Unix(u.expires, 0), now)))
	}
	return out
}

func lines(diff []plan.Line) []string {
	var out []string
	for _, l := range diff {
		out = append(out, l.String())
	}
	return out
}

func newDescribeRole(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "role ACCOUNT/ROLE",
		Short: "Describe a role",
		Long: `role shows what users of a role may do as it is in force, to whom issuers give it and
for how long, which static users it has, and what platform.yaml changes and is not
applied yet. Whether one user may publish or subscribe, 'nscsetup can' says.`,
		Example: `  nscsetup describe role CHAT/member
  nscsetup describe role CHAT/member --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return describeRole(g, args[0]) },
	}
}

// describedRole is what `describe role --json` says.
type describedRole struct {
	listedRole
	Says    []string     `json:"says"`    // in force
	Pending []plan.Line  `json:"pending"` // what is not applied
	Users   []listedUser `json:"users"`   // static
}

// roleRef reads ACCOUNT/ROLE.
func roleRef(s string) (manifest.RoleRef, error) {
	ref, err := manifest.ParseRoleRef(s)
	if err != nil {
		return ref, cli.Errorf(cli.Usage, "a role is named as ACCOUNT/ROLE, such as CHAT/member; see 'nscsetup list roles'", "%w", err)
	}
	return ref, nil
}

func describeRole(g *globals, arg string) error {
	ref, err := roleRef(arg)
	if err != nil {
		return err
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	v, err := g.pending(p)
	if err != nil {
		return err
	}
	d := describedRole{Says: []string{}, Pending: []plan.Line{}}
	roles := v.roles(ref.Account.String())
	i := slices.IndexFunc(roles, func(r listedRole) bool { return r.Role == ref.String() })
	if i < 0 {
		return noRole(v, ref)
	}
	d.listedRole = roles[i]
	prefix := "role " + ref.Role.String() + ": "
	if h, ok := v.held[ref.Account.String()]; ok {
		_, c, err := v.Claims(h)
		if err != nil {
			return err
		}
		for _, l := range plan.Statements(c, plan.Names{}) {
			if said, ok := strings.CutPrefix(l, prefix); ok && !strings.HasPrefix(said, "key ") {
				d.Says = append(d.Says, inspect.Clean(said))
			}
		}
	}
	for _, l := range v.of[ref.Account.String()].Diff {
		if said, ok := strings.CutPrefix(l.Text, prefix); ok {
			d.Pending = append(d.Pending, plan.Line{Op: l.Op, Text: inspect.Clean(said)})
		}
	}
	now := time.Now()
	if d.Users, err = v.static(now, func(u platform.StaticUser) bool { return u.Of() == ref }); err != nil {
		return err
	}
	if g.json {
		return cli.JSON(g.Out, d)
	}
	s := &sheet{}
	s.field("role", d.Role)
	s.field("state", d.State)
	s.field("key", or(d.Key))
	var grants []string
	for _, l := range d.Grants {
		text := l.String()
		if len(l.Tags) > 0 {
			text += ", tags " + strings.Join(l.Tags, ", ")
		}
		grants = append(grants, text)
	}
	if len(grants) == 0 {
		s.field("granted to", "nobody")
	}
	s.list("granted to", grants)
	s.list("in force", d.Says)
	s.list("not applied", lines(d.Pending))
	s.list("static users", userLines(d.Users, now))
	return s.print(g.Out)
}

// noRole says that there is no such role, and which there are.
func noRole(v *pending, ref manifest.RoleRef) error {
	if err := v.hasAccount(ref.Account.String()); err != nil {
		return err
	}
	var names []string
	for _, r := range v.roles(ref.Account.String()) {
		_, name, _ := strings.Cut(r.Role, "/")
		names = append(names, name)
	}
	return cli.Errorf(cli.Usage, cmp.Or(rolesHint(ref.Account.String(), names), "see 'nscsetup list roles'"), "account %s has no role %s", ref.Account, ref.Role)
}

// rolesHint names an account's roles, as long as that is a line.
func rolesHint(account string, names []string) string {
	if len(names) == 0 || len(names) > 12 {
		return ""
	}
	return "the roles of " + account + " are " + strings.Join(names, ", ")
}

func newDescribeUser(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "user ACCOUNT/ROLE NAME",
		Short: "Describe a static user",
		Long: `user shows what is on record about a user that 'nscsetup add user' made: its key, where
its credential is and how long it holds, and what it may do by its role. A user of
issuers is described by its creds: see 'nscsetup describe FILE'.`,
		Example: `  nscsetup describe user ORDERS/service mail`,
		Args:    cobra.ExactArgs(2),
		RunE:    func(_ *cobra.Command, args []string) error { return describeUser(g, args[0], args[1]) },
	}
}

// describedUser is what `describe user --json` says.
type describedUser struct {
	listedUser
	Tags    []string          `json:"tags"`
	Present bool              `json:"creds_present"` // whether the file is where it is said to be
	History []platform.Issued `json:"credentials"`   // that may hold still, and the last
	Rights  []string          `json:"rights"`
	Ignored []string          `json:"without_effect"` // lines of the role
	Refused string            `json:"refused,omitempty"`
}

func describeUser(g *globals, role, name string) error {
	ref, err := roleRef(role)
	if err != nil {
		return err
	}
	n, err := ident.ParseName(name)
	if err != nil {
		return cli.Errorf(cli.Usage, "see 'nscsetup list users'", "%w", err)
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	u, err := platform.StaticUsers{Platform: p, Now: time.Now}.Get(ref, n)
	if errors.Is(err, platform.ErrNoUser) {
		return cli.Errorf(cli.Usage, "see 'nscsetup list users'; those of issuers are described by their creds file", "%w", err)
	}
	if err != nil {
		return err
	}
	now := time.Now()
	d := describedUser{listedUser: staticRow(p, u, now), Tags: u.AllTags(), History: u.Issued, Rights: []string{}, Ignored: []string{}}
	if d.Tags == nil {
		d.Tags = []string{}
	}
	_, serr := os.Stat(d.Creds)
	d.Present = serr == nil
	if err := d.rights(p, u); err != nil {
		return err
	}
	if g.json {
		return cli.JSON(g.Out, d)
	}
	s := &sheet{}
	s.field("user", d.Name)
	s.field("role", d.Role)
	s.field("key", d.Key)
	s.field("state", d.State)
	s.field("issued", relative(time.Unix(u.Last().At, 0), now))
	s.field("expires", relative(time.Unix(u.Last().Expires, 0), now))
	s.field("tags", strings.Join(d.Tags, ", "))
	if d.Present {
		s.field("creds", d.Creds)
	} else {
		s.field("creds", d.Creds+" (not there any more)")
	}
	s.field("servers", d.Refused)
	s.list("rights", d.Rights)
	s.list("without effect", d.Ignored)
	return s.print(g.Out)
}

// rights fills in what the user may do by the role in force.
func (d *describedUser) rights(p *platform.Platform, u platform.StaticUser) error {
	account, scope, err := p.RoleInForce(u.Of())
	if errors.Is(err, platform.ErrNoRole) || errors.Is(err, platform.ErrNotInForce) {
		d.Refused = "refuse it: its role is not in force any more"
		return nil
	}
	if err != nil {
		return err
	}
	rights, err := permission.For(scope.Template, permission.User{Key: u.Key, Name: u.Name.String(), Tags: u.AllTags(), Account: account})
	if err != nil {
		d.Refused = "refuse it: " + inspect.Clean(err.Error())
		return nil
	}
	d.Rights, d.Ignored = rightLines(rights)
	return nil
}

// rightLines are what somebody may do, and the lines without effect.
func rightLines(r *permission.Rights) (rights, ignored []string) {
	rights, ignored = []string{}, []string{}
	for _, rule := range r.Rules() {
		rights = append(rights, inspect.Clean(string(rule.Effect)+" "+string(rule.Direction)+" "+rule.Expanded()))
	}
	if replies, ok := r.Replies(); ok {
		rights = append(rights, fmt.Sprintf("allow replies on whatever subject a request names, %d within %s", replies.MaxMsgs, replies.Expires))
	}
	for _, i := range r.Ignored() {
		ignored = append(ignored, inspect.Clean(i.Rule.String()+": "+i.Why))
	}
	return rights, ignored
}

func newDescribeRegion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "region REGION",
		Short: "Describe a region",
		Long: `region shows a region: its servers and their addresses as platform.yaml has them, what
clients are told, its region key, and which operator signing key its registrars have.
Whether its servers run, 'nscsetup status' says.`,
		Example: `  nscsetup describe region ams`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return describeRegion(g, args[0]) },
	}
}

// describedRegion is what `describe region --json` says.
type describedRegion struct {
	listedRegion
	SealKey string          `json:"seal_key,omitempty"`
	Signing string          `json:"signing_key,omitempty"` // of its registrars
	Gateway string          `json:"gateway,omitempty"`
	Servers []describedNode `json:"servers"`
	Folders []string        `json:"folders"` // that are here still
}

// describedNode is a server, as platform.yaml has it; each address is host:port.
type describedNode struct {
	Name      string `json:"name"`
	Client    string `json:"client"`
	Cluster   string `json:"cluster"`
	Gateway   string `json:"gateway"`
	Websocket string `json:"websocket,omitempty"`
	Leafnode  string `json:"leafnode,omitempty"`
	Monitor   string `json:"monitor,omitempty"`
}

func describeRegion(g *globals, name string) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	region, err := ident.ParseRegion(name)
	if err != nil {
		return err
	}
	all := regionList(p)
	i := slices.IndexFunc(all, func(r listedRegion) bool { return r.Region == name })
	if i < 0 {
		return cli.Errorf(cli.Usage, "its regions are "+join(regionsOf(p)), "the platform has no region %s", region)
	}
	d := describedRegion{listedRegion: all[i], Servers: []describedNode{}, Folders: []string{}}
	if r, ok := p.Document.Region(region); ok {
		d.SealKey = r.SealKey.String()
	}
	if r, ok := p.File.Region(region); ok {
		d.Gateway = r.Gateway
		for _, n := range r.Nodes {
			d.Servers = append(d.Servers, describedNode{n.Name.String(), n.Client, n.Cluster, n.Gateway, n.Websocket, n.Leafnode, n.Monitor})
		}
	}
	keys, err := p.SigningKeys()
	if err != nil {
		return err
	}
	for public, holder := range keys {
		if holder == "registrars of "+name {
			d.Signing = public
		}
	}
	for _, dir := range []string{p.Dir.Issuer(region), p.Dir.Registrar(region)} {
		if _, err := os.Stat(dir); err == nil {
			d.Folders = append(d.Folders, dir)
		}
	}
	if g.json {
		return cli.JSON(g.Out, d)
	}
	s := &sheet{}
	s.field("region", name)
	if d.Home {
		s.field("home", "yes: it decides names, policy and accounts")
	}
	s.field("state", d.State)
	s.field("clients", strings.Join(d.URLs, " "))
	s.field("gateway", d.Gateway)
	s.field("region key", d.SealKey)
	s.field("signing key", keyIs(d.Signing, map[bool]string{true: "its registrars'"}[d.Signing != ""]))
	s.field("folders", strings.Join(d.Folders, " "))
	s.flush()
	rows := [][]string{{"SERVER", "CLIENTS", "ROUTES", "GATEWAY", "WEBSOCKET", "LEAFNODES", "MONITOR"}}
	for _, n := range d.Servers {
		rows = append(rows, []string{n.Name, n.Client, n.Cluster, n.Gateway, or(n.Websocket), or(n.Leafnode), or(n.Monitor)})
	}
	return errors.Join(s.print(g.Out), cli.Table(g.Out, rows))
}

func newDescribeName(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "name NAME",
		Short: "Describe a name",
		Long: `name asks home's leader who holds a name, since when and until when, and which entry of
the ledger says so.

Exit codes: 1 if nobody ever had it; 5 if home cannot be reached.`,
		Example: `  nscsetup describe name alice`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return describeName(cmd.Context(), g, args[0]) },
	}
}

func describeName(ctx context.Context, g *globals, arg string) error {
	n, err := ident.ParseName(arg)
	if err != nil {
		return err
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	return describeDecided(ctx, g, p, ledger.NameKey(n), "nobody ever had the name "+n.String(), func(e ledger.Entry, now time.Time) (any, *sheet) {
		l := nameRow(e, p.Full.Names, now)
		s := &sheet{}
		s.field("name", l.Name)
		s.field("state", l.State)
		s.field("holder", l.Holder)
		s.field("claimed by", l.User)
		s.field("since", l.Claimed)
		s.field("until", l.end(now))
		return l, s
	})
}

// describeDecided describes an entry of the ledger. missing is what there is to say if
// there is none.
func describeDecided(ctx context.Context, g *globals, p *platform.Platform, key ledger.Key, missing string, say func(e ledger.Entry, now time.Time) (any, *sheet)) error {
	e, err := g.decided(ctx, p, key)
	if errors.Is(err, ledger.ErrNotFound) {
		return cli.Errorf(cli.Failed, "see 'nscsetup list names', 'list invites' and 'list keys' for those there are", "%s", missing)
	}
	if err != nil {
		return err
	}
	now := time.Now()
	v, s := say(e, now)
	if g.json {
		return cli.JSON(g.Out, v)
	}
	s.field("decided", relative(e.At, now))
	s.field("version", strconv.FormatUint(e.Version, 10))
	return s.print(g.Out)
}

func newDescribeInvite(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "invite ID",
		Short: "Describe an invitation",
		Long: `invite asks home's leader about an invitation: what it gives, how often it may still be
used, and who used it. An invitation is called by what its code hashes to, as
'nscsetup list invites' shows it.

Exit codes: 1 if there is none; 5 if home cannot be reached.`,
		Example: `  nscsetup describe invite 4kq2yv6r3m5n7p2b4d6f3h5j7k`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return describeInvite(cmd.Context(), g, args[0]) },
	}
}

func describeInvite(ctx context.Context, g *globals, arg string) error {
	id, err := ident.ParseInviteID(arg)
	if err != nil {
		return cli.Errorf(cli.Usage, "see 'nscsetup list invites': it is called by what its code hashes to", "that is no invitation's id")
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	return describeDecided(ctx, g, p, ledger.InviteKey(id), "there is no invitation "+id.String(), func(e ledger.Entry, now time.Time) (any, *sheet) {
		l := inviteRow(e, now)
		s := &sheet{}
		s.field("invitation", l.ID)
		s.field("state", l.State)
		s.field("gives", l.Role)
		s.field("name", l.Name)
		s.field("left", fmt.Sprintf("%d of %d", l.Left, l.Uses))
		s.field("expires", relative(time.Unix(l.expires, 0), now))
		var used []string
		for _, r := range l.Redeemed {
			used = append(used, r.User.String()+" "+relative(time.Unix(r.At, 0), now))
		}
		s.list("used by", used)
		return l, s
	})
}

func newDescribeKey(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "key ID",
		Short: "Describe an access key",
		Long: `key asks home's leader about an access key: who answers for it, what it may have, from
where and until when. Whether it is disabled comes from the denials that home knows.

Exit codes: 1 if there is none; 5 if home cannot be reached.`,
		Example: `  nscsetup describe key HK7QK3M2ZC5DXE4B6FAN`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return describeKey(cmd.Context(), g, args[0]) },
	}
}

func describeKey(ctx context.Context, g *globals, arg string) error {
	id, err := ident.ParseKeyID(arg)
	if err != nil {
		return cli.Errorf(cli.Usage, "see 'nscsetup list keys'; a public nkey is described as 'nscsetup describe KEY'", "that is no access key's id: it is HK and 18 characters")
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	r, err := g.reader(ctx, p, ident.Region{})
	if err != nil {
		return err
	}
	defer r.close()
	denials, err := r.denials(ctx)
	if err != nil {
		return err
	}
	used, err := lastUsed(ctx, r, p, ident.KeyIdentity(id))
	if err != nil {
		return err
	}
	return describeDecided(ctx, g, p, ledger.AccessKeyKey(id), "there is no access key "+id.String(), func(e ledger.Entry, now time.Time) (any, *sheet) {
		l := keyRow(e, denials, now)
		l.Used = used
		s := &sheet{}
		s.field("access key", l.ID)
		s.field("state", l.State)
		s.field("owner", l.Owner)
		s.field("public key", l.Public)
		s.field("expires", l.end(now))
		s.field("networks", cmp.Or(strings.Join(l.Networks, ", "), "any"))
		if used != nil {
			s.field("last used", relative(time.Unix(used.Issued, 0), now)+" in "+used.Region+", for "+used.Name)
		} else {
			s.field("last used", "not within "+span(ledger.MaxLife))
		}
		if l.Password {
			s.field("password", "it is taken as one, by auth callout")
		}
		s.list("may have", l.Grants)
		return l, s
	})
}

// usedKey is when an identity was last given a credential.
type usedKey struct {
	Issued int64  `json:"issued"` // seconds since 1970
	Region string `json:"region"`
	Name   string `json:"name"`
}

// lastUsed looks through the records of all regions that answer.
func lastUsed(ctx context.Context, r *reader, p *platform.Platform, id ident.Identity) (*usedKey, error) {
	var last *usedKey
	for _, region := range p.Document.Regions {
		err := r.records(ctx, region.Name, time.Now().Add(-ledger.MaxLife), func(rec audit.Record) {
			if rec.Identity == id && (last == nil || rec.Issued > last.Issued) {
				last = &usedKey{rec.Issued, rec.Region.String(), rec.Name.String()}
			}
		})
		if ctx.Err() != nil {
			return nil, err
		}
	}
	return last, nil
}
