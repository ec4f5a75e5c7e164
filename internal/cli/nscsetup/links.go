package nscsetup

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

func newLink(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "link",
		Short: "Cut and heal the links between the regions of a running platform",
		Long: `link works on the links between the regions of a platform that 'nscsetup up' runs, to
see what still works without them. Nothing is lost by it: what was decided on one
side of a cut reaches the other when it heals.`,
		Example: `  nscsetup link cut ams sfo
  nscsetup link list
  nscsetup link heal ams sfo`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "Show the links", Example: "  nscsetup link list", Args: cobra.NoArgs,
			Long: "list shows the links between the regions of the platform that runs: whether each is up\nor cut, and how long a message takes there and back.",
			RunE: func(cmd *cobra.Command, _ []string) error { return runLinks(cmd.Context(), g) },
		},
		control(g, up.OpCut, "cut REGION REGION", "Cut the link between two regions", `cut takes the link between two regions away, both ways, until 'nscsetup link heal'.
Other regions still reach both.`, "  nscsetup link cut ams sfo", 2),
		control(g, up.OpHeal, "heal REGION REGION", "Heal the link between two regions", `heal gives two regions their link back. Messages cross again within a second; copies
of the ledger catch up by themselves.`, "  nscsetup link heal ams sfo", 2),
	)
	return c
}

func newRegion(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "region",
		Short: "Unplug regions of a running platform and plug them in again",
		Long: `region stops and starts all servers of a region of a platform that 'nscsetup up' runs,
to see what still works without it. Its data stays.`,
		Example: `  nscsetup region stop sfo
  nscsetup region start sfo`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(
		control(g, up.OpStop, "stop REGION", "Stop all servers of a region", `stop ends all servers of a region. Clients go to another region; while home is away,
names and policy can be read and not changed.`, "  nscsetup region stop ams", 1),
		control(g, up.OpStart, "start REGION", "Start them again, with their data", `start starts all servers of a region again, with what they stored. What happened
meanwhile reaches it by itself.`, "  nscsetup region start ams", 1),
	)
	return c
}

func control(g *globals, op, use, short, long, example string, n int) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(n),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := g.look()
			if err != nil {
				return err
			}
			regions := make([]ident.Region, len(args))
			for i, a := range args {
				if regions[i], err = known(p, a); err != nil {
					return err
				}
			}
			if n == 2 && regions[0] == regions[1] {
				return cli.Errorf(cli.Usage, "name two regions", "a region has no link to itself")
			}
			began := time.Now()
			if _, err := up.Send(cmd.Context(), p.Dir, up.Command{Op: op, Regions: regions}); err != nil {
				return err
			}
			if g.json {
				return cli.JSON(g.Out, map[string]any{"event": op, "regions": regions, "took_ms": time.Since(began).Milliseconds()})
			}
			return cli.Print(g.Out, "%s %s: done\n", op, join(regions))
		},
	}
}

// known is a region of the platform.
func known(p *platform.Platform, name string) (ident.Region, error) {
	r, err := ident.ParseRegion(name)
	if err != nil {
		return r, err
	}
	if _, ok := p.File.Region(r); !ok {
		return r, cli.Errorf(cli.Usage, "its regions are "+join(regionsOf(p)), "the platform has no region %s", r)
	}
	return r, nil
}

func regionsOf(p *platform.Platform) []ident.Region {
	var all []ident.Region
	for _, r := range p.File.Regions {
		all = append(all, r.Name)
	}
	return all
}

func join(regions []ident.Region) string {
	s := ""
	for i, r := range regions {
		if i > 0 {
			s += ", "
		}
		s += r.String()
	}
	return s
}

func runLinks(ctx context.Context, g *globals) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	r, err := up.Send(ctx, p.Dir, up.Command{Op: up.OpLinks})
	if err != nil {
		return err
	}
	if g.json {
		return cli.JSON(g.Out, r.Links)
	}
	rows := [][]string{{"LINK", "STATE", "ROUND TRIP"}}
	for _, l := range r.Links {
		state := "up"
		if l.Cut {
			state = "cut"
		}
		rows = append(rows, []string{l.A.String() + " - " + l.B.String(), state, fmt.Sprintf("%g ms", l.RTTms)})
	}
	return cli.Table(g.Out, rows)
}
