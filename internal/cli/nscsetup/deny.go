package nscsetup

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// adminOptions are those of all commands that ask registrars.
type adminOptions struct {
	account, why, wait string
	platform, key      string
	receipt            string
	yes                bool
}

func (o *adminOptions) flags(c *cobra.Command, verb string) {
	f := c.Flags()
	f.StringVar(&o.why, "why", "", "the `reason`, for the records and for whoever looks")
	f.StringVar(&o.receipt, "receipt", "", "a new `file` for the registrar's signed receipt")
	f.StringVar(&o.platform, "platform", "", "ask as an administrator who has no platform folder: the platform's public/ `folder`, or a file of 'nscsetup context export'; with --key")
	f.StringVar(&o.key, "key", "", "the `file` of your access key, as 'nscsetup access-key create --out' wrote it")
	if verb != wire.VerbResume {
		f.StringVar(&o.wait, "wait", "", "wait until all servers know, for at most `30s`")
		f.BoolVar(&o.yes, "yes", false, "do not ask")
	}
}

const adminText = `

The nearest registrar answers, also while home or other regions are away; --why and
who you are go into the records. With --platform and --key whoever is granted
ADMIN/admin asks without the platform folder.`

func newRevoke(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "revoke",
		Short: "End credentials at once, on all servers, and give no new ones",
		Long: `revoke ends the credentials of a user or of an identity, and has none given any more.
They are disconnected, cannot connect or renew, and are told that they are revoked.
Servers that are away now hear of it when they return. 'nscsetup resume' takes it
back.` + adminText,
		Example: `  nscsetup revoke identity oidc:corp:mallory --why "left the company" --wait 30s
  nscsetup revoke user alice`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(denyUser(g, wire.VerbRevoke), denyIdentity(g, wire.VerbRevoke))
	return c
}

func newSuspend(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "suspend",
		Short: "Keep an identity, a user or an account out until it is resumed",
		Long: `suspend ends the credentials of an identity, a user, or everybody in an account, and
has none given until 'nscsetup resume'. They are disconnected, cannot connect or
renew, and are told that they are suspended.` + adminText,
		Example: `  nscsetup suspend identity key:HK7QK3M2ZC5DXE4B6FAN --why "secret found in a log"
  nscsetup suspend account ORDERS --wait 30s`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(denyUser(g, wire.VerbSuspend), denyIdentity(g, wire.VerbSuspend), denyAccount(g, wire.VerbSuspend))
	return c
}

func newResume(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "resume",
		Short: "Let who was suspended or revoked come again",
		Long: `resume takes back what 'revoke' or 'suspend' did. Credentials that were ended stay
dead; whoever asks for a new one gets it, also for the same nkey. Who was denied again
since you looked stays denied: the command says so, and you look again.` + adminText,
		Example: `  nscsetup resume identity key:HK7QK3M2ZC5DXE4B6FAN
  nscsetup resume account ORDERS`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(denyUser(g, wire.VerbResume), denyIdentity(g, wire.VerbResume), denyAccount(g, wire.VerbResume))
	return c
}

const denyCodes = `

Exit codes: 3 if servers do not know yet: they are named, and hear of it when they
return; 5 if no registrar answers; 6 if it is refused.`

func denyUser(g *globals, verb string) *cobra.Command {
	var o adminOptions
	what := map[string]string{
		wire.VerbRevoke: "End a user's credentials, and give no new ones", wire.VerbSuspend: "Keep a user out until it is resumed", wire.VerbResume: "Let a user come again",
	}[verb]
	c := &cobra.Command{
		Use: "user NAME|NKEY", Short: what, Args: cobra.ExactArgs(1),
		Long: `By a name the identity is meant that holds it, with all of its users, as in '` + verb + ` identity'.
By an nkey one user is meant, such as a device that was lost: whoever had it may come
with another nkey.

An nkey is looked for in all accounts; of a static user, or one without a credential that lives,
name the account with --account.` + denyCodes,
		Example: "  nscsetup " + verb + " user alice\n  nscsetup " + verb + " user UDZQ7VWQKJXUXC4S2LQ5GM3FWYKK3XYVEHS2YYXVZ3FDPDAGBNRU6KQE --account ORDERS",
		RunE: func(cmd *cobra.Command, args []string) error {
			var r wire.AdminRequest
			if k, err := ident.ParseUserKey(args[0]); err == nil {
				r.User = k
				if o.account != "" {
					if r.Account, err = ident.ParseLabel(o.account); err != nil {
						return err
					}
				}
			} else if r.Name, err = ident.ParseName(args[0]); err != nil {
				return cli.Errorf(cli.Usage, "give a name such as alice, or the public nkey of a user", "%.64q is neither a name nor an nkey", args[0])
			} else if o.account != "" {
				return cli.Errorf(cli.Usage, "leave --account out: a name is that of an identity", "--account goes with an nkey")
			}
			return runDeny(cmd.Context(), g, verb, o, r, args[0])
		},
	}
	o.flags(c, verb)
	c.Flags().StringVar(&o.account, "account", "", "the `account` that an nkey is of")
	return c
}

func denyIdentity(g *globals, verb string) *cobra.Command {
	var o adminOptions
	what := map[string]string{
		wire.VerbRevoke: "End the credentials of all users of an identity, and give it no new ones", wire.VerbSuspend: "Keep an identity out until it is resumed",
		wire.VerbResume: "Let an identity come again",
	}[verb]
	c := &cobra.Command{
		Use: "identity IDENTITY", Short: what, Args: cobra.ExactArgs(1),
		Long: `An identity is written as in 'nscsetup list users' and in the records:
oidc:<provider>:<subject>, key:<id of an access key> or the id alone, open:<public
nkey>, invite:<public nkey>. All users that it holds are meant, those who came with a
password, too, and those that it would get.` + denyCodes,
		Example: "  nscsetup " + verb + " identity oidc:corp:alice\n  nscsetup " + verb + " identity HK7QK3M2ZC5DXE4B6FAN",
		RunE: func(cmd *cobra.Command, args []string) error {
			var r wire.AdminRequest
			var err error
			if k, kerr := ident.ParseKeyID(args[0]); kerr == nil {
				r.Identity = ident.KeyIdentity(k)
			} else if r.Identity, err = ident.ParseIdentity(args[0]); err != nil {
				return cli.Errorf(cli.Usage, "write it as oidc:<provider>:<subject>, key:<id of an access key>, open:<public nkey> or invite:<public nkey>", "%.64q is no identity", args[0])
			}
			return runDeny(cmd.Context(), g, verb, o, r, r.Identity.String())
		},
	}
	o.flags(c, verb)
	return c
}

func denyAccount(g *globals, verb string) *cobra.Command {
	var o adminOptions
	what := map[string]string{wire.VerbSuspend: "Keep everybody out of an account until it is resumed", wire.VerbResume: "Let people into an account again"}[verb]
	c := &cobra.Command{
		Use: "account ACCOUNT", Short: what, Args: cobra.ExactArgs(1),
		Long: `Everybody in the account is meant, static users, too. Accounts that the platform needs
to work are refused.` + denyCodes,
		Example: "  nscsetup " + verb + " account ORDERS",
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := ident.ParseLabel(args[0])
			if err != nil {
				return err
			}
			return runDeny(cmd.Context(), g, verb, o, wire.AdminRequest{Account: l}, "account "+args[0])
		},
	}
	o.flags(c, verb)
	return c
}

// administration is a connection to ask registrars by.
type administration struct {
	op *trust.Operator
	nc *nats.Conn
	// names are those of accounts, by key.
	names map[string]string
}

// administer connects in ADMIN: with a credential that is made here, where there is a platform
// folder, and else with one that an issuer gives.
func (g *globals) administer(ctx context.Context, o adminOptions) (*administration, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	names := func(d *trust.Platform) map[string]string {
		out := map[string]string{}
		for _, a := range d.Accounts {
			out[a.Key.String()] = a.Name.String()
		}
		return out
	}
	if (o.platform == "") != (o.key == "") {
		return nil, cli.Errorf(cli.Usage, "give both, or stand in the platform folder", "--platform and --key go together")
	}
	if o.platform != "" {
		p, err := client.LoadPlatform(o.platform)
		if err != nil {
			return nil, cli.Errorf(cli.Config, "name a public/ folder, or a file that 'nscsetup context export' wrote, with --platform", "%w", err)
		}
		nc, err := dialAdmin(ctx, p, o.key)
		if err != nil {
			return nil, err
		}
		return &administration{p.Operator, nc, names(p.Document)}, nil
	}
	p, err := g.look()
	if err != nil {
		return nil, err
	}
	nc, err := g.tool(p).DialFor(ctx, self(), platform.Admin, platform.RoleAdmin)
	if err != nil {
		return nil, noRegistrar(ctx, err)
	}
	return &administration{p.Operator, nc, names(p.Document)}, nil
}

// self is how whoever runs the tool with the platform folder is named in records.
func self() string {
	const tool = "nscsetup"
	u, err := user.Current()
	if err != nil {
		return tool
	}
	if n, err := ident.ParseName(tool + "." + strings.ToLower(u.Username)); err == nil {
		return n.String()
	}
	return tool
}

// dialAdmin obtains a credential of ADMIN/admin by an access key, and connects with it.
func dialAdmin(ctx context.Context, p *client.Platform, file string) (*nats.Conn, error) {
	access, err := readAccessKey(file)
	if err != nil {
		return nil, err
	}
	account, err := ident.ParseLabel(platform.Admin)
	if err != nil {
		return nil, err
	}
	role, err := ident.ParseLabel(platform.RoleAdmin)
	if err != nil {
		return nil, err
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		return nil, err
	}
	public, err := ident.ParseUserKey(key.Public())
	if err != nil {
		return nil, err
	}
	urls := p.Nearest(ctx, ident.Region{})
	cred, err := p.Obtain(ctx, urls, key, client.Wish{Account: account, Role: role, Identity: access})
	if err != nil {
		return nil, adminError(ctx, err)
	}
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: urls, Name: "nscsetup", Credential: natsconn.Static{Token: cred.JWT, Key: key}, InboxPrefix: subject.UserInboxPrefix(public), TLS: p.TLS(),
	})
	if err != nil {
		return nil, noRegistrar(ctx, err)
	}
	return nc, nil
}

// readAccessKey reads what 'access-key create --out' wrote.
func readAccessKey(path string) (client.AccessKey, error) {
	data, err := keystore.ReadSecret(path)
	if err != nil {
		return client.AccessKey{}, err
	}
	var k client.AccessKey
	for s := bufio.NewScanner(strings.NewReader(string(data))); s.Scan(); {
		name, value, _ := strings.Cut(strings.TrimSpace(s.Text()), "=")
		switch name {
		case keyIDLine:
			k.ID, err = ident.ParseKeyID(value)
		case keySecretLine:
			k.Secret, err = accesskey.Parse(value)
		}
		if err != nil {
			return client.AccessKey{}, cli.Errorf(cli.Config, "name a file that 'nscsetup access-key create --out' wrote", "%s: its %s is not one", path, name)
		}
	}
	if k.Secret.IsZero() || k.ID.IsZero() {
		return client.AccessKey{}, cli.Errorf(cli.Config, "name a file that 'nscsetup access-key create --out' wrote", "%s: there is no access key in it", path)
	}
	return k, nil
}

func noRegistrar(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.Join(ctx.Err(), err)
	}
	return cli.Errorf(cli.Unavailable, "are servers and registrars up? see 'nscsetup status'", "%w", err)
}

// adminError says what to do about a registrar's or an issuer's answer.
func adminError(ctx context.Context, err error) error {
	var refused *wire.Error
	switch {
	case errors.As(err, &refused):
		code := cli.Refused
		if refused.Code == wire.Unavailable || refused.Code == wire.RateLimited {
			code = cli.Unavailable
		}
		return cli.Errorf(code, cmp.Or(inspect.Clean(refused.Hint), "see 'nscsetup audit search'"), "%s", inspect.Clean(refused.Message))
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return noRegistrar(ctx, err)
	}
	return err
}

func (a *administration) ask(ctx context.Context, verb string, r wire.AdminRequest) (client.Administered, error) {
	out, err := client.Administer(ctx, a.op, a.nc, verb, r)
	if err != nil {
		return out, adminError(ctx, err)
	}
	return out, nil
}

// eachWait is for how many seconds one request waits for servers; a longer wait is several.
const eachWait = 20

func runDeny(ctx context.Context, g *globals, verb string, o adminOptions, r wire.AdminRequest, whom string) error {
	r.Why = o.why
	var patience time.Duration
	if o.wait != "" {
		d, err := manifest.ParseDuration(o.wait)
		if err != nil || d <= 0 {
			return cli.Errorf(cli.Usage, "write it as 30s or 2m", "--wait is %q", o.wait)
		}
		patience = time.Duration(d)
	}
	if _, err := r.Encode(); err != nil {
		return cli.Errorf(cli.Usage, "see 'nscsetup "+verb+" --help'", "%w", err)
	}
	if o.receipt != "" {
		if _, err := os.Lstat(o.receipt); err == nil {
			return cli.Errorf(cli.Exists, "choose another --receipt; nothing was overwritten", "%s is there", o.receipt)
		}
	}
	a, err := g.administer(ctx, o)
	if err != nil {
		return err
	}
	defer a.nc.Close()
	if verb == wire.VerbResume || !o.yes {
		shown, err := a.ask(ctx, wire.VerbShow, r)
		if err != nil {
			return err
		}
		r.Seen = map[string]uint64{}
		for _, d := range shown.Standing {
			r.Seen[d.Key] = d.Version
		}
		if verb == wire.VerbResume && !slices.ContainsFunc(shown.Standing, func(d wire.Denial) bool { return d.State != wire.StateFree }) {
			return cli.Errorf(cli.Failed, "see 'nscsetup list users'; nothing was changed", "%s is neither suspended nor revoked", whom)
		}
		if verb != wire.VerbResume {
			r.Seen = nil
			show := func() error { return a.printStanding(g.Err, whom, shown.Standing) }
			if err := g.ask(show, verb+" "+whom+"?"); err != nil {
				return err
			}
		}
	}
	until := time.Now().Add(patience)
	r.Wait = min(int(patience/time.Second), eachWait)
	done, err := a.ask(ctx, verb, r)
	for err == nil && verb != wire.VerbResume && notAll(done.Word) && time.Until(until) > time.Second {
		if wait.For(ctx, time.Second) != nil {
			break
		}
		r.Seen, r.Wait = nil, min(max(int(time.Until(until)/time.Second), 1), eachWait)
		again, aerr := a.ask(ctx, wire.VerbReceipt, r)
		if aerr != nil {
			continue // it is in force: what was said of it stays, until somebody says more
		}
		again.Unstored = done.Unstored
		done = again
	}
	if err != nil {
		return err
	}
	if o.receipt != "" {
		if err := keystore.WriteSecret(o.receipt, []byte(done.Receipt+"\n")); err != nil {
			return err
		}
	}
	if err := g.printDenied(a, verb, whom, done); err != nil {
		return err
	}
	if verb != wire.VerbResume && notAll(done.Word) {
		return cli.Errorf(cli.Partial, "they hear of it when they return; ask for a receipt again with the same command, or wait with --wait", "denied on %d of %d servers", done.Word.Denied, done.Word.Servers)
	}
	return nil
}

// notAll tells whether servers do not know yet, or connections are open still.
func notAll(r trust.Receipt) bool {
	return r.Denied < r.Servers || len(r.Behind) > 0 || r.Open > 0
}

func (a *administration) printStanding(out io.Writer, whom string, all []wire.Denial) error {
	for _, d := range all {
		text := d.State
		if d.State != wire.StateFree {
			text += " since " + time.Unix(d.At, 0).UTC().Format(time.RFC3339) + ", by " + inspect.Clean(d.By)
			if d.Why != "" {
				text += ": " + inspect.Clean(d.Why)
			}
		}
		if err := cli.Print(out, "%s (%s) is %s; users with a credential: %d.\n", inspect.Clean(whom), inspect.Clean(d.Key), text, d.Users); err != nil {
			return err
		}
	}
	return nil
}

// deniedReport is what these commands say with --json.
type deniedReport struct {
	RequestID string          `json:"request_id"`
	Standing  []wire.Denial   `json:"standing"`
	Users     []trust.Revoked `json:"users"` // whose credentials are dead
	Servers   int             `json:"servers"`
	Denied    int             `json:"denied"` // that hold it
	Behind    []trust.Lagging `json:"behind"`
	Open      int             `json:"open"` // connections by auth callout that are not closed yet
	Unstored  bool            `json:"unstored"`
	By        string          `json:"by"`
	Region    string          `json:"region"`  // of the registrar that answered
	Receipt   string          `json:"receipt"` // signed; see 'nscsetup receipt'
}

func (g *globals) printDenied(a *administration, verb, whom string, d client.Administered) error {
	w := d.Word
	if g.json {
		return cli.JSON(g.Out, deniedReport{d.RequestID, d.Standing, w.Users, w.Servers, w.Denied, w.Behind, w.Open, d.Unstored, w.By, w.Region, d.Receipt})
	}
	state := map[string]string{wire.VerbRevoke: "revoked", wire.VerbSuspend: "suspended", wire.VerbResume: "resumed"}[verb]
	if err := cli.Print(g.Out, "%s is %s.\n", inspect.Clean(whom), state); err != nil {
		return err
	}
	if verb == wire.VerbResume {
		return nil
	}
	if d.Unstored {
		if err := cli.Print(g.Err, "warning: it is in force, and region %s cannot store it yet; its registrar goes on trying\n", inspect.Clean(w.Region)); err != nil {
			return err
		}
	}
	return a.printReceipt(g.Out, w)
}

func (a *administration) printReceipt(out io.Writer, w trust.Receipt) error {
	if len(w.Users) == 0 {
		if err := cli.Print(out, "no credential of theirs lives that a server would have to be told of\n"); err != nil {
			return err
		}
	} else if err := cli.Print(out, "denied on %d of %d servers\n", w.Denied, w.Servers); err != nil {
		return err
	}
	const most = 10
	for i, u := range w.Users {
		if i == most {
			if err := cli.Print(out, "  and %d more\n", len(w.Users)-most+w.More); err != nil {
				return err
			}
			break
		}
		name := cmp.Or(a.names[u.Account], u.Account)
		who := inspect.Clean(u.User)
		if u.User == "*" {
			who = "everybody"
		}
		if err := cli.Print(out, "  %s in %s: credentials issued until %s are dead\n", who, inspect.Clean(name), time.Unix(u.Before, 0).UTC().Format(time.RFC3339)); err != nil {
			return err
		}
	}
	for _, b := range w.Behind {
		if err := cli.Print(out, "  behind: %s: %s\n", inspect.Clean(b.Server), inspect.Clean(b.Why)); err != nil {
			return err
		}
	}
	if w.Open > 0 {
		return cli.Print(out, "%d connections by auth callout are not closed yet\n", w.Open)
	}
	return nil
}

func newReceipt(g *globals) *cobra.Command {
	var public string
	c := &cobra.Command{
		Use:   "receipt FILE",
		Short: "Verify a registrar's receipt, and show what it says",
		Long: `receipt verifies a receipt that 'revoke', 'suspend' or 'resume' wrote with --receipt,
and shows what it says: who was denied, by whom and why, and which servers knew at
that moment. - reads it from standard input.

Exit codes: 6 if no operator signing key of this platform signed it.`,
		Example: `  nscsetup receipt alice.receipt
  nscsetup receipt alice.receipt --platform public`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runReceipt(cmd, g, public, args[0]) },
	}
	c.Flags().StringVar(&public, "platform", "", "a platform's public/ `folder`, or a file of 'nscsetup context export', instead of the platform folder")
	return c
}

// receiptReport is what `receipt --json` says.
type receiptReport struct {
	RequestID string `json:"request_id"`
	At        int64  `json:"at"` // seconds since 1970
	Signer    string `json:"signer"`
	trust.Receipt
}

func runReceipt(cmd *cobra.Command, g *globals, public, path string) error {
	known, err := g.knowledge(cmd, public)
	if err != nil {
		return err
	}
	if known.Operator == nil {
		return cli.Errorf(cli.Config, "stand in the platform folder, or name its public/ folder with --platform", "there is no platform to verify it by")
	}
	in := g.In
	if path != "-" {
		f, err := os.Open(path) // #nosec G304 -- the user names it
		if err != nil {
			return cli.Errorf(cli.Config, "name the file of a receipt", "%w", err)
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	const most = 300 << 10
	data, err := io.ReadAll(io.LimitReader(in, most))
	if err != nil {
		return err
	}
	w, err := known.Operator.OpenReceipt(strings.TrimSpace(string(data)))
	if err != nil {
		return cli.Errorf(cli.Refused, "believe nothing of it", "%w", err)
	}
	if g.json {
		return cli.JSON(g.Out, receiptReport{w.ID, w.At.Unix(), w.Signer, w})
	}
	a := administration{names: map[string]string{}}
	if known.Document != nil {
		for _, acc := range known.Document.Accounts {
			a.names[acc.Key.String()] = acc.Name.String()
		}
	}
	if err := cli.Print(g.Out, "%s of %s, by %s, at %s, says %s's registrar %s\n", inspect.Clean(w.Verb), inspect.Clean(strings.Join(w.Of, " ")), inspect.Clean(w.By),
		w.At.UTC().Format(time.RFC3339), inspect.Clean(w.Region), inspect.Clean(w.Registrar)); err != nil {
		return err
	}
	if w.Why != "" {
		if err := cli.Print(g.Out, "why: %s\n", inspect.Clean(w.Why)); err != nil {
			return err
		}
	}
	if w.Verb == wire.VerbResume {
		return nil
	}
	return a.printReceipt(g.Out, w)
}
