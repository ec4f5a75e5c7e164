package nscsetup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/ledger"
)

func newInvite(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "invite",
		Short: "Invite people: codes that give a role",
		Long: `invite makes codes that give a role to whoever brings one, as often as you say. A code
can be read over the phone, and a wrong letter is noticed. The platform knows what codes
hash to, and not the codes: one is shown when it is made, and never again.

Who came with a code is known by the key that they came with, and stays in when the
invitation is over.`,
		Example: `  nscsetup invite create CHAT/member
  nscsetup invite list`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	var list listOptions
	l := &cobra.Command{
		Use: "list", Short: "List invitations", Args: cobra.NoArgs,
		Long: `list is 'nscsetup list invites': what each invitation gives, how often it may still be
used, and until when. With --all those that cannot be used any more are listed, too.

Exit codes: 5 if no server could be reached.`,
		Example: `  nscsetup invite list
  nscsetup invite list --all --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return listInvites(cmd.Context(), g, list) },
	}
	list.copyFlag(l)
	l.Flags().BoolVar(&list.all, "all", false, "those that cannot be used any more, too")
	d := newDescribeInvite(g)
	d.Use, d.Example = "describe ID", "  nscsetup invite describe 4kq2yv6r3m5n7p2b4d6f3h5j7k"
	c.AddCommand(newInviteCreate(g), l, d, newInviteRevoke(g))
	return c
}

type inviteOptions struct {
	uses               int
	expires, name, out string
}

func newInviteCreate(g *globals) *cobra.Command {
	var o inviteOptions
	c := &cobra.Command{
		Use:   "create ACCOUNT/ROLE",
		Short: "Make an invitation",
		Long: `create makes an invitation to a role and shows its code, once: as it is typed, and as it
is read out. With --out the code goes to a new file of mode 0600.

What the invitation gives is what grants to invite in platform.yaml say of that role.

Exit codes: 4 if the file is there; 5 if home cannot be reached; 6 if nothing grants the
role to invitations.`,
		Example: `  nscsetup invite create CHAT/member
  nscsetup invite create CHAT/member --uses 30 --expires 12h
  nscsetup invite create CHAT/member --name alice`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runInviteCreate(cmd.Context(), g, o, args[0]) },
	}
	f := c.Flags()
	f.IntVar(&o.uses, "uses", 1, "how many may come with it")
	f.StringVar(&o.expires, "expires", "7d", "how long it may be used, such as `12h`")
	f.StringVar(&o.name, "name", "", "the name that it gives; default: what is asked for")
	f.StringVar(&o.out, "out", "", "the `file` to write the code to")
	return c
}

// madeInvite is what `invite create --json` says.
type madeInvite struct {
	listedInvite
	File string `json:"file"`
}

func runInviteCreate(ctx context.Context, g *globals, o inviteOptions, role string) (err error) {
	granted, err := grantedOf(role, o.name)
	if err != nil {
		return err
	}
	switch {
	case o.uses < 1 || o.uses > ledger.MaxUses:
		return cli.Errorf(cli.Usage, "make several invitations", "--uses %d cannot be: it is from 1 to %d", o.uses, ledger.MaxUses)
	case o.name != "" && o.uses > 1:
		return cli.Errorf(cli.Usage, "leave --name or --uses out", "a name is for one, and %d may come", o.uses)
	case o.expires == never:
		return cli.Errorf(cli.Usage, "write it as 7d or 12h", "an invitation has an end")
	}
	if err := g.secretPlace(o.out); err != nil {
		return err
	}
	code, err := invite.NewCode(rand.Reader)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	d, err := g.deciding(ctx, "invite create")
	if err != nil {
		return err
	}
	defer d.done(ctx, &err)
	if err := offered(d.platform, ident.KindInvite, granted); err != nil {
		return err
	}
	if err := d.nameFor(ctx, granted.Name, ident.Identity{}); err != nil {
		return err
	}
	i := ledger.Invite{Account: granted.Account, Role: granted.Role, Name: granted.Name, Uses: o.uses}
	if i.Expires, err = lasting("expires", o.expires, d.now()); err != nil {
		return err
	}
	text := code.Reveal() + "\n"
	if o.out == "" {
		text += invite.Spell(code) + "\n"
	}
	var e ledger.Entry
	err = g.once(o.out, text, func() (err error) {
		e, err = d.CreateInvite(ctx, code.ID(), i, d.now())
		return keyError(ctx, err)
	})
	if err != nil {
		return err
	}
	l := inviteRow(e, d.now())
	if g.json {
		return cli.JSON(g.Out, madeInvite{l, o.out})
	}
	return cli.Print(g.Err, "Invitation %s to %s: %d may come until %s.\n", l.ID, l.Role, l.Uses, l.Expires)
}

func newInviteRevoke(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke an invitation",
		Long: `revoke ends an invitation: nobody else comes with it. Who came with it stays in.

Exit codes: 1 if there is none; 5 if home cannot be reached.`,
		Example: `  nscsetup invite revoke 4kq2yv6r3m5n7p2b4d6f3h5j7k`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runInviteRevoke(cmd.Context(), g, args[0]) },
	}
}

func runInviteRevoke(ctx context.Context, g *globals, arg string) (err error) {
	id, err := ident.ParseInviteID(arg)
	if err != nil {
		// It may be the code itself, which is not quoted.
		code, cerr := invite.Parse(arg)
		if cerr != nil {
			return cli.Errorf(cli.Usage, "see 'nscsetup invite list': it is called by what its code hashes to", "that is no invitation's id")
		}
		id = code.ID()
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	d, err := g.deciding(ctx, "invite revoke")
	if err != nil {
		return err
	}
	defer d.done(ctx, &err)
	e, err := d.RevokeInvite(ctx, id, d.now())
	if errors.Is(err, ledger.ErrNotFound) {
		return cli.Errorf(cli.Failed, "see 'nscsetup invite list'", "there is no invitation %s", id)
	}
	if err != nil {
		return keyError(ctx, err)
	}
	l := inviteRow(e, d.now())
	if g.json {
		return cli.JSON(g.Out, l)
	}
	return cli.Print(g.Out, "%s\n", fmt.Sprintf("invitation %s: %s; %d came with it", l.ID, l.State, len(l.Redeemed)))
}
