package nscsetup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/drill"
	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

func newDrill(g *globals) *cobra.Command {
	var region string
	c := &cobra.Command{
		Use:   "drill DRILL...",
		Short: "Rehearse a loss on a running platform, and see what still works",
		Long: `drill takes something away from a platform that 'nscsetup up' runs, asks as clients and
administrators do what still works, puts it back, and holds what it saw against the
table of docs/architecture.md:

  region-loss       a region that is not home
  home-loss         the home region
  cut               the links between all regions
  revoke-under-cut  the links of one region, while both sides revoke
  issuer-loss       the issuers of one region, then of all
  restore           the disk of one server
  all               each of them, one after the other

People under names that begin with drill- come for it, openly; their names lapse as
others do. Some of them are suspended, and stay so. Nothing else is touched, and nothing
stays away, also when it is ended early. It takes up to a minute each.

Exit codes: 1 if something was not as the table says; 5 if the platform does not run
here, or not all of it.`,
		Example: `  nscsetup drill home-loss
  nscsetup drill region-loss --region sfo --json
  nscsetup drill all`,
		Args:      cobra.MinimumNArgs(1),
		ValidArgs: append(drill.Names(), "all"),
		RunE:      func(cmd *cobra.Command, args []string) error { return runDrill(cmd.Context(), g, region, args) },
	}
	c.Flags().StringVar(&region, "region", "", "the `region` that is taken away (default: the last that is not home)")
	return c
}

// machine is the platform that `up` runs.
type machine struct{ dir platform.Dir }

func (m machine) do(ctx context.Context, op string, regions ...ident.Region) error {
	_, err := up.Send(ctx, m.dir, up.Command{Op: op, Regions: regions})
	return err
}

func (m machine) Cut(ctx context.Context, a, b ident.Region) error { return m.do(ctx, up.OpCut, a, b) }

func (m machine) Heal(ctx context.Context, a, b ident.Region) error {
	return m.do(ctx, up.OpHeal, a, b)
}

func (m machine) StopRegion(ctx context.Context, r ident.Region) error {
	return m.do(ctx, up.OpStop, r)
}

func (m machine) StartRegion(ctx context.Context, r ident.Region) error {
	return m.do(ctx, up.OpStart, r)
}

func (m machine) StopIssuer(ctx context.Context, r ident.Region) error {
	return m.do(ctx, up.OpStopIssuer, r)
}

func (m machine) StartIssuer(ctx context.Context, r ident.Region) error {
	return m.do(ctx, up.OpStartIssuer, r)
}

func (m machine) LoseDisk(ctx context.Context, r ident.Region) (string, error) {
	reply, err := up.Send(ctx, m.dir, up.Command{Op: up.OpLoseDisk, Regions: []ident.Region{r}})
	return reply.URL, err
}

func runDrill(ctx context.Context, g *globals, region string, args []string) error {
	names := args
	if slices.Contains(args, "all") {
		names = drill.Names()
	}
	for _, n := range names {
		if !slices.Contains(drill.Names(), n) {
			return cli.Errorf(cli.Usage, "they are "+strings.Join(drill.Names(), ", ")+" and all", "there is no drill %.40q", n)
		}
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	public, err := client.LoadPlatform(p.Dir.Public())
	if err != nil {
		return err
	}
	// Those of the machine, where the file's addresses are those of another.
	c := drill.Config{Public: public, Machine: machine{p.Dir}}
	if len(public.Document.Regions) < 2 {
		return cli.Errorf(cli.Refused, "a platform of one region has nothing that takes over", "there is one region")
	}
	if region != "" {
		if c.Region, err = known(p, region); err != nil {
			return err
		}
		if c.Region == p.Document.Home && slices.Contains(names, drill.RegionLoss) {
			return cli.Errorf(cli.Usage, "its loss is the drill "+drill.HomeLoss, "%s is home", region)
		}
		if c.Region != p.Document.Home && slices.Contains(args, drill.HomeLoss) {
			return cli.Errorf(cli.Usage, "leave --region out", "%s is not home, which is what "+drill.HomeLoss+" takes away", region)
		}
	}
	c.Admin = func(ctx context.Context, r ident.Region) (*nats.Conn, error) {
		t := g.tool(p)
		at, _ := public.Document.Region(r)
		t.URLs = at.URLs
		return t.DialFor(ctx, self()+".drill", platform.Admin, platform.RoleAdmin)
	}
	if !g.json {
		c.Tell = func(what string) { _ = cli.Print(g.Err, "%s\n", what) } // of no use to anybody if it cannot be read
	}
	if err := whole(ctx, p); err != nil {
		return err
	}
	var reports []drill.Report
	failed := 0
	for _, n := range names {
		rep, err := drill.Run(ctx, c, n)
		if err != nil {
			err = drillError(ctx, err)
			if g.json {
				return errors.Join(err, cli.JSON(g.Out, append(reports, rep)))
			}
			if len(rep.Findings) > 0 {
				return errors.Join(err, g.printDrill(rep))
			}
			return err
		}
		for _, f := range rep.Findings {
			if !f.OK {
				failed++
			}
		}
		reports = append(reports, rep)
		if !g.json {
			if err := g.printDrill(rep); err != nil {
				return err
			}
		}
	}
	if g.json {
		if err := cli.JSON(g.Out, reports); err != nil {
			return err
		}
	}
	if failed > 0 {
		return cli.Errorf(cli.Failed, "see data/up.log for what services said, and 'nscsetup doctor' for how the platform stands", "%d things were not as docs/architecture.md says", failed)
	}
	return nil
}

// drillError says what to do about a drill that could not be held.
func drillError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return errors.Join(ctx.Err(), err)
	case errors.Is(err, drill.ErrNotWhole):
		return cli.Errorf(cli.Unavailable, "mend that first: see 'nscsetup doctor'", "%w", err)
	}
	return cli.Errorf(cli.Unavailable, "see data/up.log, and with 'nscsetup link list' and 'nscsetup status' what is still away", "%w", err)
}

// whole refuses to rehearse a loss where something is away already.
func whole(ctx context.Context, p *platform.Platform) error {
	r, err := up.Send(ctx, p.Dir, up.Command{Op: up.OpLinks})
	if err != nil {
		return err
	}
	for _, l := range r.Links {
		if l.Cut {
			return cli.Errorf(cli.Unavailable, fmt.Sprintf("'nscsetup link heal %s %s', and run it again", l.A, l.B), "the link between %s and %s is cut", l.A, l.B)
		}
	}
	return nil
}

func (g *globals) printDrill(rep drill.Report) error {
	rows := [][]string{{"WHAT", "WHERE", "SHOULD", "SAW", ""}}
	right := 0
	for _, f := range rep.Findings {
		mark := "NOT SO"
		if f.OK {
			mark, right = "ok", right+1
		}
		rows = append(rows, []string{f.What, f.Where, f.Should, f.Saw, mark})
	}
	return errors.Join(
		cli.Print(g.Out, "%s: away was %s\n", rep.Drill, rep.About), cli.Table(g.Out, rows),
		cli.Print(g.Out, "%s: %d of %d as it should be, in %s\n", rep.Drill, right, len(rep.Findings), rep.Took.Round(100*time.Millisecond)),
	)
}
