package nscsetup

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// staticLife is how long a static user's credential holds if nothing else is asked for.
const staticLife = 30 * 24 * time.Hour

func newAdd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "add",
		Short: "Add static users",
		Long: `add adds to the platform what has no place in platform.yaml: static users, for the few
programs that cannot ask an issuer for a credential.`,
		Example: `  nscsetup add user ORDERS/service mail`,
		Args:    cobra.NoArgs,
		RunE:    help,
	}
	c.AddCommand(newAddUser(g))
	return c
}

type addUserOptions struct {
	ttl    string
	out    string
	region string
	tags   []string
	renew  bool
}

func newAddUser(g *globals) *cobra.Command {
	var o addUserOptions
	c := &cobra.Command{
		Use:   "user ACCOUNT/ROLE NAME",
		Short: "Make a static user of a role, or renew its credential",
		Long: `user makes a user of a role by hand: a key made here, and a credential signed with the
role's key, in a creds file that only you may read. What the user may do is the
role's; who it is, its key and until when, stays on record here ('nscsetup list
users'), and its seed is in the file alone. The file is
operator/users/ACCOUNT.ROLE.NAME.creds, or what --out says. Nothing is overwritten.

With --renew the same user gets a new credential for the key that it has, in the file
that it has; programs read it at their next connect. Have a timer do that well before
the end: a credential lives for 31 days at most, 30 if --ttl does not say. A longer
one is refused, because a revocation is not remembered for longer, and whoever was
revoked would be back.

Most programs are better off with an issuer: they keep their seed to themselves, are
renewed by themselves, and can be suspended everywhere at once.

Herald's own roles are refused: services get their credentials with their folders. A
run that was cut off is finished by the next one.

Exit codes: 4 if that user or the file is there; 6 if the role is Herald's own, or not
in force yet.`,
		Example: `  nscsetup add user ORDERS/service mail
  nscsetup add user ORDERS/service mail --ttl 7d --tag team:eu --out /etc/mail/nats.creds
  nscsetup add user ORDERS/service mail --renew`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAddUser(cmd.Context(), g, o, args[0], args[1])
		},
	}
	f := c.Flags()
	f.StringVar(&o.ttl, "ttl", manifest.Duration(staticLife).String(), "how long the credential holds, such as `7d` or 720h; at most "+manifest.Duration(platform.MaxStaticLife).String())
	f.StringVar(&o.out, "out", "", "the creds `file` to write; with --renew, where it is now")
	f.StringVar(&o.region, "region", "", "the `region` that it belongs to, for templates with {{tag(region)}}")
	f.StringArrayVar(&o.tags, "tag", nil, "a tag, as `key:value`, for templates; repeat it for each")
	f.BoolVar(&o.renew, "renew", false, "give the user that is there a new credential")
	return c
}

// addedUser is what `add user --json` says.
type addedUser struct {
	listedUser
	Event    string   `json:"event"` // added or renewed
	Tags     []string `json:"tags"`
	Warnings []string `json:"warnings"`
}

func runAddUser(ctx context.Context, g *globals, o addUserOptions, role, name string) error {
	ref, err := roleRef(role)
	if err != nil {
		return err
	}
	n, err := ident.ParseName(name)
	if err != nil {
		return cli.Errorf(cli.Usage, "a name is 1 to 32 of a-z and 0-9, with single . _ or - between them", "%w", err)
	}
	life, err := manifest.ParseDuration(o.ttl)
	if err != nil {
		return cli.Errorf(cli.Usage, "write it as 7d, 12h or 720h", "--ttl: %w", err)
	}
	p, err := g.open()
	if err != nil {
		return err
	}
	users := platform.StaticUsers{Platform: p, Now: time.Now}
	event := "added"
	var m platform.MadeUser
	if o.renew {
		event = "renewed"
		if o.region != "" || len(o.tags) > 0 {
			return cli.Errorf(cli.Usage, "leave --region and --tag out, or add a user of another name", "a renewed user keeps its tags")
		}
		m, err = users.Renew(ctx, ref, n, time.Duration(life), o.out)
	} else {
		var region ident.Region
		if o.region != "" {
			if region, err = known(p, o.region); err != nil {
				return err
			}
		}
		m, err = users.Add(ctx, platform.NewUser{Of: ref, Name: n, Life: time.Duration(life), Region: region, Tags: o.tags, Creds: o.out})
	}
	if err != nil {
		return addUserError(p, ref, o, err)
	}
	return g.printAdded(p, m, event)
}

// addUserError says what to do about it.
func addUserError(p *platform.Platform, ref manifest.RoleRef, o addUserOptions, err error) error {
	switch {
	case errors.Is(err, platform.ErrNotInForce):
		return cli.Errorf(cli.Refused, "bring it into force with 'nscsetup apply', and then add the user", "%w", err)
	case errors.Is(err, platform.ErrTurning):
		return cli.Errorf(cli.Refused, "run 'nscsetup rotate status --wait 2h', or take it back with 'nscsetup rotate undo': nobody would know of a user that is made meanwhile", "%w", err)
	case errors.Is(err, platform.ErrReserved):
		return cli.Errorf(cli.Refused, "name a role of an account of yours; see 'nscsetup list roles'", "%w", err)
	case errors.Is(err, platform.ErrUserExists):
		return cli.Errorf(cli.Exists, "renew it with --renew, or choose another name or another --out; nothing was overwritten", "%w", err)
	case errors.Is(err, platform.ErrNoUser):
		return cli.Errorf(cli.Usage, "make it without --renew; see 'nscsetup list users'", "%w", err)
	case errors.Is(err, permission.ErrRefused):
		return cli.Errorf(cli.Refused, "give the tags that the role asks for with --tag, or correct the role", "%w", err)
	case errors.Is(err, platform.ErrUserInvalid):
		return cli.Errorf(cli.Usage, "see 'nscsetup add user --help'", "%w", err)
	case errors.Is(err, platform.ErrUsersBusy):
		return cli.Errorf(cli.Unavailable, "wait until it is done, and try again", "%w", err)
	case errors.Is(err, fs.ErrNotExist) && o.renew:
		return cli.Errorf(cli.Config, "say where its creds file is now with --out", "%w", err)
	case errors.Is(err, fs.ErrNotExist) && o.out != "":
		return cli.Errorf(cli.Config, "make the folder first, or choose another --out", "%w", err)
	}
	return unknownRole(p, ref, err)
}

func (g *globals) printAdded(p *platform.Platform, m platform.MadeUser, event string) error {
	now := time.Now()
	a := addedUser{listedUser: staticRow(p, m.StaticUser, now), Event: event, Tags: m.AllTags(), Warnings: []string{}}
	if a.Tags == nil {
		a.Tags = []string{}
	}
	if m.Granted {
		a.Warnings = append(a.Warnings, "issuers give role "+a.Role+" to others, too: nothing keeps one of them from being called "+a.Name)
	}
	for _, i := range m.Ignored {
		a.Warnings = append(a.Warnings, inspect.Clean(i.Rule.String()+" has no effect for it: "+i.Why))
	}
	if g.json {
		return cli.JSON(g.Out, a)
	}
	var errs []error
	for _, w := range a.Warnings {
		errs = append(errs, cli.Print(g.Err, "warning: %s\n", w))
	}
	s := &sheet{}
	s.field("user", a.Role+" "+a.Name+", "+event)
	s.field("key", a.Key)
	s.field("expires", relative(time.Unix(a.expires, 0), now))
	s.field("creds", a.Creds)
	errs = append(errs, s.print(g.Out), cli.Print(g.Err, "Its seed is in that file alone. Before it ends: nscsetup add user %s %s --renew\n", a.Role, a.Name))
	return errors.Join(errs...)
}
