package nscsetup

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
)

func newName(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "name",
		Short: "Names, and who holds them",
		Long: `name shows who holds which name, and takes names back. A name belongs to an identity. One
that its holder chose lapses when it is not used for some 30 days; one that came with a
grant, a login or an access key is held until it is released.`,
		Example: `  nscsetup name list
  nscsetup name release alice`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	var list listOptions
	l := &cobra.Command{
		Use: "list", Short: "List names, and who holds them", Args: cobra.NoArgs,
		Long: `list is 'nscsetup list names': who holds each name, and until when. With --all names that
anybody may have again are listed, too.

Exit codes: 5 if no server could be reached.`,
		Example: `  nscsetup name list
  nscsetup name list --region sfo --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return listNames(cmd.Context(), g, list) },
	}
	list.copyFlag(l)
	l.Flags().BoolVar(&list.all, "all", false, "names that anybody may have again, too")
	d := newDescribeName(g)
	d.Use, d.Example = "describe NAME", "  nscsetup name describe alice"
	c.AddCommand(l, d, newNameRelease(g))
	return c
}

func newNameRelease(g *globals) *cobra.Command {
	var yes bool
	var to string
	c := &cobra.Command{
		Use:   "release NAME",
		Short: "Take a name from its holder",
		Long: `release takes a name from whoever holds it. Credentials under it are renewed no more; those
that were given live until they end. Then the name rests for 7 days: its last holder may
have it again by asking, nobody else may, so that nobody is taken for who had it yesterday.
With --to it rests for one who never had it: who takes it over, such as another access key
of the same program. An identity is written as in 'nscsetup name list'.

To keep somebody out, take away the grant, the access key or the invitation.

Exit codes: 1 if nobody holds it; 5 if home cannot be reached.`,
		Example: `  nscsetup name release alice
  nscsetup name release mail --to key:HK7QK3M2ZC5DXE4B6FAN
  nscsetup name release build-1207 --yes --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runNameRelease(cmd.Context(), g, args[0], to, yes)
		},
	}
	c.Flags().StringVar(&to, "to", "", "the `identity` that may have it next (default: its last holder)")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func runNameRelease(ctx context.Context, g *globals, arg, next string, yes bool) (err error) {
	n, err := ident.ParseName(arg)
	if err != nil {
		return err
	}
	var to ident.Identity
	if next != "" {
		if to, err = ident.ParseIdentity(next); err != nil {
			return cli.Errorf(cli.Usage, "write it as oidc:<provider>:<subject>, key:<id of an access key>, open:<public nkey> or invite:<public nkey>", "--to is no identity")
		}
	}
	nobody := cli.Errorf(cli.Failed, "see 'nscsetup name list'", "nobody holds the name %s", n)
	var from ident.Identity
	if !yes {
		if from, err = g.mayRelease(ctx, n, !to.IsZero(), nobody); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	d, err := g.deciding(ctx, "name release")
	if err != nil {
		return err
	}
	defer d.done(ctx, &err)
	e, err := d.Release(ctx, n, from, to, d.now())
	if errors.Is(err, ledger.ErrNotFound) {
		return nobody
	}
	if err != nil {
		return keyError(ctx, err)
	}
	l := nameRow(e, d.Rules, d.now())
	if l.State != nameResting {
		return nobody // it has rested since it was released
	}
	if g.json {
		return cli.JSON(g.Out, l)
	}
	return cli.Print(g.Out, "%s is released; for others than %s it rests until %s\n", l.Name, inspect.Clean(l.Holder), relative(time.Unix(l.until, 0), d.now()))
}

// mayRelease shows who holds a name and asks: what was shown is what is released.
func (g *globals) mayRelease(ctx context.Context, n ident.Name, again bool, nobody error) (ident.Identity, error) {
	p, err := g.look()
	if err != nil {
		return ident.Identity{}, err
	}
	e, err := g.decided(ctx, p, ledger.NameKey(n))
	if errors.Is(err, ledger.ErrNotFound) {
		return ident.Identity{}, nobody
	}
	if err != nil {
		return ident.Identity{}, err
	}
	now := time.Now()
	l := nameRow(e, p.Full.Names, now)
	if l.State != nameHeld && (!again || l.State != nameResting) {
		return ident.Identity{}, nobody
	}
	show := func() error {
		return cli.Print(g.Err, "%s is %s: it is of %s since %s, %s.\n", l.Name, l.State, inspect.Clean(l.Holder), l.Claimed, l.end(now))
	}
	holder, _ := e.Body.(ledger.Name)
	return holder.Holder, g.ask(show, "release it?")
}
