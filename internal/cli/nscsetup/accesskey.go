package nscsetup

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

func newAccessKey(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "access-key",
		Short: "Make and look after the keys by which programs show who they are",
		Long: `access-key makes access keys and looks after them. A program with an access key asks for
credentials by itself: it signs each request with the key's secret, which never leaves
it. The platform has the key's public half alone.

An access key is its id, such as HK7QK3M2ZC5DXE4B6FAN, which is public, and its secret,
which begins with hks_ and is shown once.`,
		Example: `  nscsetup access-key create --owner payments --grant ORDERS/service --out mail.key
  nscsetup access-key list
  nscsetup access-key scan .`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	var list listOptions
	l := &cobra.Command{
		Use: "list", Short: "List access keys", Args: cobra.NoArgs,
		Long: `list is 'nscsetup list keys': who answers for each access key, what it may have, and
whether it is disabled. With --all those that were removed or are over are listed, too.

Exit codes: 5 if no server could be reached.`,
		Example: `  nscsetup access-key list
  nscsetup access-key list --all --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return listKeys(cmd.Context(), g, list) },
	}
	list.copyFlag(l)
	l.Flags().BoolVar(&list.all, "all", false, "those that are removed or over, too")
	d := newDescribeKey(g)
	d.Use, d.Example = "describe ID", "  nscsetup access-key describe HK7QK3M2ZC5DXE4B6FAN"
	c.AddCommand(newKeyCreate(g), l, d, newKeyRotate(g), newKeyCheck(g), newKeyScan(g),
		changeKey(g, "disable", "Have an access key prove nothing for now", `disable has an access key prove nothing from now on. Credentials that it got hold until
they end; none is renewed. Plain NATS clients that came with it as a password are
disconnected.

Exit codes: 1 if there is no such key; 5 if home cannot be reached.`, func(a *ledger.AccessKey) { a.Disabled = true }),
		changeKey(g, "enable", "Have a disabled access key prove again", `enable takes back what disable did.

Exit codes: 1 if there is no such key; 5 if home cannot be reached.`, func(a *ledger.AccessKey) { a.Disabled = false }),
		newKeyRemove(g))
	return c
}

// Names of the lines of an access key's file.
const (
	keyIDLine     = "HERALD_KEY_ID"
	keySecretLine = "HERALD_KEY_SECRET" // #nosec G101 -- a name
)

// keyLasts is how long an access key holds if nothing else is said, and mostLasts the longest
// that may be said.
const (
	keyLasts  = "90d"
	mostLasts = 10 * 365 * 24 * time.Hour
)

// lasting reads how long something holds; "never" ends is 0.
func lasting(flag, s string, now time.Time) (int64, error) {
	if s == never {
		return 0, nil
	}
	d, err := manifest.ParseDuration(s)
	if err != nil {
		return 0, cli.Errorf(cli.Usage, "write it as 90d or 12h", "--%s: %w", flag, err)
	}
	if time.Duration(d) > mostLasts {
		return 0, cli.Errorf(cli.Usage, "write it as 90d or 12h", "--%s is %s; the longest is %s", flag, d, manifest.Duration(mostLasts))
	}
	return now.Add(time.Duration(d)).Unix(), nil
}

// grantedOf reads a role that something is for.
func grantedOf(role, name string) (authn.Granted, error) {
	ref, err := roleRef(role)
	if err != nil {
		return authn.Granted{}, err
	}
	g := authn.Granted{Account: ref.Account, Role: ref.Role}
	if name != "" {
		if g.Name, err = ident.ParseName(name); err != nil {
			return g, cli.Errorf(cli.Usage, "a name is 1 to 32 of a-z and 0-9, with single . _ or - between them", "%w", err)
		}
	}
	return g, nil
}

type keyCreateOptions struct {
	owner, name, expires, out string
	grants, networks          []string
	password                  bool
}

func newKeyCreate(g *globals) *cobra.Command {
	var o keyCreateOptions
	c := &cobra.Command{
		Use:   "create",
		Short: "Make an access key",
		Long: `create makes an access key. Its secret is shown this one time, or written to a new file
of mode 0600 with --out, as lines that a shell or systemd reads:

  HERALD_KEY_ID=HK…
  HERALD_KEY_SECRET=hks_…

What the key is for bounds what it gets; what it gets is what grants to key in
platform.yaml say.

Exit codes: 4 if the file is there; 5 if home cannot be reached; 6 if nothing grants
such a role to access keys.`,
		Example: `  nscsetup access-key create --owner payments --grant ORDERS/service --name mail --out mail.key
  nscsetup access-key create --owner ci --grant ORDERS/service --expires 7d --network 10.0.0.0/8
  nscsetup access-key create --owner meters --grant METERS/sensor --name meter-7 --password --out meter-7.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runKeyCreate(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.owner, "owner", "", "who answers for it, for people to read")
	f.StringArrayVar(&o.grants, "grant", nil, "a role that it is for, as `ACCOUNT/ROLE`; repeat it for each")
	f.StringVar(&o.name, "name", "", "the name that its users have; default: what they ask for")
	f.StringVar(&o.expires, "expires", keyLasts, "how long it holds, such as `30d`, or never")
	f.StringArrayVar(&o.networks, "network", nil, "a network that it may be used from, such as `10.0.0.0/8`; repeat it for each (default: anywhere)")
	f.BoolVar(&o.password, "password", false, "let plain NATS clients bring its id and secret as user and password, by auth callout")
	f.StringVar(&o.out, "out", "", "the `file` to write the secret to")
	return c
}

// madeKey is what `access-key create --json` and `rotate --json` say.
type madeKey struct {
	listedKey
	Event string `json:"event"` // created or rotated
	File  string `json:"file"`
}

// secretText is a key as it is handed out.
func secretText(id ident.KeyID, s accesskey.Secret) string {
	return fmt.Sprintf("%s=%s\n%s=%s\n", keyIDLine, id, keySecretLine, s.Reveal())
}

func (o keyCreateOptions) key(now time.Time) (ledger.AccessKey, error) {
	a := ledger.AccessKey{Owner: o.owner, Password: o.password}
	if strings.TrimSpace(o.owner) == "" || len(o.owner) > 256 || inspect.Clean(o.owner) != o.owner {
		return a, cli.Errorf(cli.Usage, "name a team or a person, in at most 256 letters", "--owner %.40q is nobody", o.owner)
	}
	if len(o.grants) == 0 {
		return a, cli.Errorf(cli.Usage, "name each role that it is for with --grant ACCOUNT/ROLE", "a key for nothing gives nothing")
	}
	for _, role := range o.grants {
		granted, err := grantedOf(role, o.name)
		if err != nil {
			return a, err
		}
		a.Grants = append(a.Grants, granted)
	}
	for _, n := range o.networks {
		p, err := netip.ParsePrefix(n)
		if err != nil || p != p.Masked() {
			return a, cli.Errorf(cli.Usage, "write it as 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32", "--network %.60q is no network", n)
		}
		a.Networks = append(a.Networks, p)
	}
	var err error
	a.Expires, err = lasting("expires", o.expires, now)
	return a, err
}

func runKeyCreate(ctx context.Context, g *globals, o keyCreateOptions) (err error) {
	a, err := o.key(time.Now())
	if err != nil {
		return err
	}
	if err := g.secretPlace(o.out); err != nil {
		return err
	}
	secret, id, err := accesskey.Generate(rand.Reader)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	d, err := g.deciding(ctx, "access-key create")
	if err != nil {
		return err
	}
	defer d.done(ctx, &err)
	for _, granted := range a.Grants {
		if err := offered(d.platform, ident.KindKey, granted); err != nil {
			return err
		}
		if err := byCallout(d.platform, granted, o.password); err != nil {
			return err
		}
		if err := d.nameFor(ctx, granted.Name, ident.KeyIdentity(id)); err != nil {
			return err
		}
	}
	a.Public = secret.Public()
	return g.handKey(ctx, d, o.out, "created", id, secret, a, 0)
}

// byCallout refuses a key that would let nobody in for a role: one that is no password for a
// role of auth callout, or one without a name, since no client can ask for one there.
func byCallout(p *platform.Platform, g authn.Granted, password bool) error {
	for _, o := range p.Full.Policy.Offers {
		if o.Account != g.Account || o.Role != g.Role || !o.Callout {
			continue
		}
		switch {
		case !password:
			return cli.Errorf(cli.Usage, "say --password", "%s/%s is had by auth callout alone, and this key would be no password", g.Account, g.Role)
		case g.Name.IsZero() && o.Name.IsZero():
			return cli.Errorf(cli.Usage, "give it one with --name", "%s/%s is had by auth callout, where nobody can ask for a name", g.Account, g.Role)
		}
		return nil
	}
	return nil
}

// handKey decides about a key with a new secret, and hands that out.
func (g *globals) handKey(ctx context.Context, d *decidingHome, out, event string, id ident.KeyID, secret accesskey.Secret, a ledger.AccessKey, was uint64) error {
	var e ledger.Entry
	err := g.once(out, secretText(id, secret), func() (err error) {
		e, err = d.PutAccessKey(ctx, id, a, was, d.now())
		return keyError(ctx, err)
	})
	if err != nil {
		return err
	}
	l := keyRow(e, ledger.NewProjection(nil), d.now())
	if g.json {
		return cli.JSON(g.Out, madeKey{listedKey: l, Event: event, File: out})
	}
	where := "It is shown this once"
	if out != "" {
		where = "Its secret is in " + out + " alone"
	}
	if l.State == keyDisabled {
		where += ". It is " + l.State + ": nothing is given for it until 'nscsetup access-key enable " + l.ID + "'"
	}
	return cli.Print(g.Err, "Access key %s of %s is %s: %s, until %s. %s.\n", l.ID, l.Owner, event, strings.Join(l.Grants, ", "), l.end(d.now()), where)
}

// keyError says what to do where a key could not be decided about.
func keyError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ledger.ErrOld), errors.Is(err, ledger.ErrConflict):
		return cli.Errorf(cli.Refused, "somebody else changed it at the same moment: look again, and repeat it", "%w", err)
	case errors.Is(err, ledger.ErrUnavailable):
		return noHome(ctx, err)
	}
	return err
}

func keyID(arg string) (ident.KeyID, error) {
	id, err := ident.ParseKeyID(arg)
	if err != nil {
		// It may be a secret, and is not quoted.
		return id, cli.Errorf(cli.Usage, "see 'nscsetup access-key list'", "that is no access key's id: it is HK and 18 characters")
	}
	return id, nil
}

func newKeyRotate(g *globals) *cobra.Command {
	var out, expires string
	c := &cobra.Command{
		Use:   "rotate ID",
		Short: "Give an access key another secret",
		Long: `rotate gives an access key another secret, shown once or written to --out as create does.
The old one proves nothing from then on. Id, name and what it is for stay; a key that has
an end, or had it, holds for another 90 days, or as long as --expires says. Credentials
that the old one got hold until they end, and are not renewed: their holders come with
the new one.

Exit codes: 1 if there is no such key; 4 if the file is there; 5 if home cannot be
reached.`,
		Example: `  nscsetup access-key rotate HK7QK3M2ZC5DXE4B6FAN --out mail.key.new
  nscsetup access-key rotate HK7QK3M2ZC5DXE4B6FAN --expires 30d`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := keyID(args[0])
			if err != nil {
				return err
			}
			if err := g.secretPlace(out); err != nil {
				return err
			}
			secret, err := accesskey.NewSecret(rand.Reader)
			if err != nil {
				return err
			}
			return g.onKey(cmd.Context(), "rotate", id, func(ctx context.Context, d *decidingHome, a ledger.AccessKey, was uint64) error {
				next := a.Rotate(secret.Public())
				if expires != "" || a.Expires != 0 {
					if next.Expires, err = lasting("expires", cmp.Or(expires, keyLasts), d.now()); err != nil {
						return err
					}
				}
				return g.handKey(ctx, d, out, "rotated", id, secret, next, was)
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "the `file` to write the secret to")
	c.Flags().StringVar(&expires, "expires", "", "how long it holds from now, such as `30d`, or never (default: 90d; a key without an end has none)")
	return c
}

// onKey decides upon an access key as it is, by one of the commands of access-key.
func (g *globals) onKey(ctx context.Context, command string, id ident.KeyID, f func(ctx context.Context, d *decidingHome, a ledger.AccessKey, was uint64) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	d, err := g.deciding(ctx, "access-key "+command)
	if err != nil {
		return err
	}
	defer d.done(ctx, &err)
	a, was, err := d.accessKey(ctx, id)
	if err != nil {
		return err
	}
	return f(ctx, d, a, was)
}

func changeKey(g *globals, use, short, long string, change func(*ledger.AccessKey)) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Long: long, Example: "  nscsetup access-key " + use + " HK7QK3M2ZC5DXE4B6FAN", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := keyID(args[0])
			if err != nil {
				return err
			}
			return g.onKey(cmd.Context(), use, id, func(ctx context.Context, d *decidingHome, a ledger.AccessKey, was uint64) error {
				change(&a)
				e, err := d.PutAccessKey(ctx, id, a, was, d.now())
				if err != nil {
					return keyError(ctx, err)
				}
				return g.printKey(e, d.now())
			})
		},
	}
}

func (g *globals) printKey(e ledger.Entry, now time.Time) error {
	l := keyRow(e, ledger.NewProjection(nil), now)
	if g.json {
		return cli.JSON(g.Out, l)
	}
	return cli.Print(g.Out, "access key %s of %s: %s\n", l.ID, l.Owner, l.State)
}

func newKeyRemove(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove an access key for good",
		Long: `remove has an access key prove nothing any more, for good. Credentials that it got hold
until they end; none is renewed. Plain NATS clients that came with it as a password are
disconnected.

Exit codes: 1 if there is no such key; 5 if home cannot be reached.`,
		Example: `  nscsetup access-key remove HK7QK3M2ZC5DXE4B6FAN`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := keyID(args[0])
			if err != nil {
				return err
			}
			return g.onKey(cmd.Context(), "remove", id, func(ctx context.Context, d *decidingHome, _ ledger.AccessKey, _ uint64) error {
				e, err := d.RemoveAccessKey(ctx, id, d.now())
				if err != nil {
					return keyError(ctx, err)
				}
				return g.printKey(e, d.now())
			})
		},
	}
}

type keyCheckOptions struct{ whose, disable bool }

func newKeyCheck(g *globals) *cobra.Command {
	var o keyCheckOptions
	c := &cobra.Command{
		Use:   "check SECRET|-",
		Short: "Say whether a string that was found is a real access key's secret, and whose",
		Long: `check says whether a string is a real secret: it needs nothing but the string, whose
checksum it verifies. With --whose the platform is asked whose it is, and with --disable
that key proves nothing any more from then on; where it is a former secret, which proves
nothing anyway, its key is left as it is. The secret is never shown.

Others on this machine see command lines: read it from standard input with -.

Exit codes: 0 if it is real, 1 if it is not, or with --whose is no key of this platform, or
with --disable a former secret; 5 if home cannot be reached.`,
		Example: `  nscsetup access-key check - < found.txt
  nscsetup access-key check --disable - < found.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runKeyCheck(cmd.Context(), g, o, args[0]) },
	}
	c.Flags().BoolVar(&o.whose, "whose", false, "ask the platform whose it is")
	c.Flags().BoolVar(&o.disable, "disable", false, "and disable it at once")
	return c
}

// checkedKey is what `access-key check --json` says.
type checkedKey struct {
	Real   bool       `json:"real"`
	Public string     `json:"public,omitempty"` // the key's public half
	Key    *listedKey `json:"key,omitempty"`    // the platform's key that it is of
}

// maxFound bounds what is read where one secret should stand.
const maxFound = 4 << 10

func runKeyCheck(ctx context.Context, g *globals, o keyCheckOptions, arg string) error {
	if arg == "-" {
		data, err := io.ReadAll(io.LimitReader(g.In, maxFound))
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		arg = strings.TrimSpace(string(data))
		// Also the file that create wrote, or a line of a log.
		if at := strings.Index(arg, "hks_"); at > 0 {
			arg = arg[at:]
		}
		arg, _, _ = strings.Cut(arg, "\n")
		arg = strings.TrimRight(arg, " \t\r\"',;")
	}
	secret, err := accesskey.Parse(arg)
	if err != nil {
		if g.json {
			if jerr := cli.JSON(g.Out, checkedKey{}); jerr != nil {
				return jerr
			}
		}
		return cli.Errorf(cli.Failed, "a secret is hks_ and 49 letters and digits", "that is no access key's secret: %w", err)
	}
	r := checkedKey{Real: true, Public: secret.Public().String()}
	if !o.whose && !o.disable {
		return g.printChecked(r)
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	e, err := g.whose(ctx, secret.Public())
	if err != nil {
		return err
	}
	if e == nil {
		return errors.Join(g.printChecked(r), cli.Errorf(cli.Failed, "another platform may have it", "it is a real secret, and of no access key of this platform"))
	}
	l := keyRow(*e, ledger.NewProjection(nil), time.Now())
	if o.disable && l.State != keyDisabled && !e.Denies {
		id, err := keyID(l.ID)
		if err != nil {
			return err
		}
		err = g.onKey(ctx, "check", id, func(ctx context.Context, d *decidingHome, a ledger.AccessKey, was uint64) error {
			// A former secret is what is found in histories. It proves nothing, and the program
			// that has the present one is not to be stopped for it.
			if a.Public != secret.Public() {
				r.Key = &l
				return errors.Join(g.printChecked(r), cli.Errorf(cli.Failed, "it proves nothing; to disable the key with its present secret: 'nscsetup access-key disable "+l.ID+"'", "nothing was disabled: it is a former secret of access key %s", l.ID))
			}
			a.Disabled = true
			next, err := d.PutAccessKey(ctx, id, a, was, d.now())
			l = keyRow(next, ledger.NewProjection(nil), d.now())
			return keyError(ctx, err)
		})
		if err != nil {
			return err
		}
	}
	r.Key = &l
	return g.printChecked(r)
}

// whose finds the access key with a public half; nil: there is none.
func (g *globals) whose(ctx context.Context, public ident.UserKey) (*ledger.Entry, error) {
	p, err := g.look()
	if err != nil {
		return nil, err
	}
	r, err := g.reader(ctx, p, ident.Region{})
	if err != nil {
		return nil, err
	}
	defer r.close()
	var found *ledger.Entry
	err = r.entries(ctx, ledger.KindAccessKey, func(e ledger.Entry) {
		// Also a former secret: who finds one wants the key's owner to know.
		if a, ok := e.Body.(ledger.AccessKey); ok && (a.Public == public || slices.Contains(a.Former, public)) {
			found = &e
		}
	})
	return found, errors.Join(err, r.verdict())
}

func (g *globals) printChecked(r checkedKey) error {
	if g.json {
		return cli.JSON(g.Out, r)
	}
	if r.Key == nil {
		return cli.Print(g.Out, "a real secret; its public half is %s\n", r.Public)
	}
	what := "a real secret"
	if r.Key.Public != r.Public {
		what = "a former secret, which proves nothing any more"
	}
	return cli.Print(g.Out, "%s: access key %s of %s, %s; it is for %s\n", what, r.Key.ID, r.Key.Owner, r.Key.State, strings.Join(r.Key.Grants, ", "))
}

func newKeyScan(g *globals) *cobra.Command {
	var git bool
	c := &cobra.Command{
		Use:   "scan PATH...",
		Short: "Look for access keys' secrets in files",
		Long: `scan looks through files and folders for secrets of access keys, and names where they
stand: in plain text, whatever they are glued to, in UTF-16, and in base64, as of a
Kubernetes Secret, be it broken into lines. What only looks like one is told by its
checksum and passed over. What is compressed, or encoded twice, is not looked into.
Nothing is sent anywhere, and no secret is shown beyond its beginning.

Before each commit: configs/pre-commit has a hook.

Exit codes: 0 if there is none, 1 if there is one; 8 if a file could not be read.`,
		Example: `  nscsetup access-key scan .
  nscsetup access-key scan --json src deploy.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runKeyScan(cmd.Context(), g, args, git) },
	}
	c.Flags().BoolVar(&git, "git", false, "look through .git folders, too")
	return c
}

// foundKey is one line of `access-key scan --json`.
type foundKey struct {
	Path   string `json:"path"`
	Line   int64  `json:"line"`
	Column int64  `json:"column"`
	Form   string `json:"form"`   // an accesskey.Form
	Start  string `json:"start"`  // how it begins, decoded
	Public string `json:"public"` // its public half
}

func runKeyScan(ctx context.Context, g *globals, paths []string, git bool) error {
	n := 0
	var perr error
	files, err := accesskey.ScanPaths(ctx, paths, accesskey.ScanOptions{Git: git}, func(path string, f accesskey.Found) error {
		if !f.Real {
			return nil
		}
		n++
		k := foundKey{Path: inspect.Clean(path), Line: f.Line, Column: f.Column, Form: string(f.Form), Start: f.Start, Public: f.Public.String()}
		if g.json {
			perr = cli.JSON(g.Out, k)
		} else {
			in := ""
			if f.Form != accesskey.FormPlain {
				in = ", in " + k.Form // the start is not what stands there
			}
			perr = cli.Print(g.Out, "%s:%d:%d: %s… of %s%s\n", k.Path, k.Line, k.Column, k.Start, k.Public, in)
		}
		return perr
	})
	switch {
	case perr != nil:
		return perr
	case ctx.Err() != nil:
		return ctx.Err()
	case n > 0:
		return errors.Join(cli.Errorf(cli.Failed, "disable each with 'nscsetup access-key check --disable -', and take it out of where it stands", "%d secrets of access keys in %d files", n, files), err)
	case err != nil:
		return cli.Errorf(cli.Config, "what could be read has none", "%w", err)
	}
	return nil
}
