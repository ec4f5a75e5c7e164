package nscsetup

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/wire"
)

// argRegion is how a region's key is named.
const argRegion = "region-key"

func newRotateRegion(g *globals) *cobra.Command {
	var o replaceOptions
	c := &cobra.Command{
		Use:   argRegion + " REGION",
		Short: "Replace the key that requests to a region are sealed to",
		Long: `region-key replaces a region's key, to which clients seal what is secret. The new one is
made here, and handed to the region's issuers through the ledger, sealed to the former
one. It goes in stages:

  add    the region's issuers get the new key; clients seal to the former one
  issue  clients seal to the new key; issuers open what is sealed to either
  drop   nothing is sealed to the former key any more: issuers forget it

Nobody notices. The last stage waits until issuers/REGION, with the new key, has been
brought to where its issuers run: what is sealed to the former key goes from the ledger
then, and who starts again has what is in its folder.

With --emergency, for a key that was stolen, the former key goes at once. The new one is
not handed out through the ledger, where a thief could open it: bring issuers/REGION to
where the region's issuers run. They take it over by themselves, without a restart. Until
then they answer no guests, and other regions do; no connection closes. A thief of the key
could open role keys that were handed to the region: they are named, replace them, too.

Exit codes: 5 if home cannot be reached; 6 if it is being replaced already, or role keys
that are sealed to it are in another folder.`,
		Example: `  nscsetup rotate region-key ams --why "yearly"
  nscsetup rotate region-key ams --emergency --why "its issuer was stolen"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runRotateRegion(cmd.Context(), g, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.why, "why", "", "the `reason`, for the records and for whoever looks")
	f.BoolVar(&o.emergency, "emergency", false, "take the former key away at once; the new one has to be brought to the issuers")
	f.BoolVar(&o.yes, "yes", false, "in an emergency, do not ask")
	return c
}

// resealing reads of which region it is, and why, and opens the folder.
func (g *globals) resealing(o replaceOptions, region string) (*platform.Platform, apply.SealRotation, error) {
	r := apply.SealRotation{By: self(), Why: o.why, Emergency: o.emergency}
	p, err := g.look()
	if err != nil {
		return nil, r, err
	}
	if r.Region, err = known(p, region); err != nil {
		return nil, r, err
	}
	if _, err := (wire.AdminRequest{Region: r.Region, Why: o.why}).Encode(); err != nil {
		return nil, r, cli.Errorf(cli.Usage, "write --why on one line", "%w", err)
	}
	return p, r, nil
}

func sealRotationOf(r ledger.SealRotation) rotation {
	return rotation{
		Region: r.Region.String(), Stage: string(r.Stage), From: r.From.String(), To: r.To.String(), At: r.At, By: r.By, Why: r.Why, Waiting: []string{},
	}
}

func runRotateRegion(ctx context.Context, g *globals, o replaceOptions, region string) error {
	p, r, err := g.resealing(o, region)
	if err != nil {
		return err
	}
	if o.emergency && !o.yes {
		say := func() error {
			return cli.Print(g.Err, "region %s: its issuers answer no guests until issuers/%s has been brought to them; no connection closes\n", r.Region, r.Region)
		}
		if err := g.ask(say, "replace the key of region "+r.Region.String()+" at once?"); err != nil {
			return err
		}
	}
	bound, cancel := context.WithTimeout(ctx, rotateWait) // which begins when somebody has answered
	defer cancel()
	done, err := g.tool(p).RotateRegion(bound, r)
	if err != nil {
		return rotateError(ctx, err)
	}
	rep := sealRotationOf(done.SealRotation)
	rep.Exposed, rep.Elsewhere = done.Exposed, done.Elsewhere
	if err := g.printResealed(rep, done); err != nil {
		return err
	}
	switch {
	case len(done.Elsewhere) > 0:
		return cli.Errorf(cli.Partial, "run 'nscsetup rotate status' in the folder that has them", "not sealed to the new key: %s", strings.Join(done.Elsewhere, ", "))
	case done.Unrecorded != nil:
		return unrecorded(done.Unrecorded)
	}
	return nil
}

func (g *globals) printResealed(rep rotation, done *apply.Resealed) error {
	if g.json {
		return cli.JSON(g.Out, rep)
	}
	var b strings.Builder
	if !done.Emergency {
		fmt.Fprintf(&b, "region %s: key %s is being replaced by %s\n", rep.Region, rep.From, rep.To)
		fmt.Fprintf(&b, "bring issuers/%s to where its issuers run, at any time: the former key does not go before\n", rep.Region)
		b.WriteString("home's registrars go on with it; 'nscsetup rotate status' says how far they are\n")
		return cli.Print(g.Out, "%s", b.String())
	}
	fmt.Fprintf(&b, "region %s: key %s is gone; requests are sealed to %s\n", rep.Region, rep.From, rep.To)
	fmt.Fprintf(&b, "bring issuers/%s to where its issuers run: until then they answer no guests\n", rep.Region)
	for _, what := range done.Exposed {
		fmt.Fprintf(&b, "  whoever has the former key may have %s: replace it with --emergency, too\n", what)
	}
	for _, what := range done.Elsewhere {
		fmt.Fprintf(&b, "  not sealed to the new key: %s: run 'nscsetup rotate status' in the folder that has it\n", what)
	}
	return cli.Print(g.Out, "%s", b.String())
}

func runUndoSeal(ctx context.Context, g *globals, o replaceOptions, args []string) error {
	if len(args) != 1 {
		return cli.Errorf(cli.Usage, "write region-key REGION", "undo does not say of which region")
	}
	p, r, err := g.resealing(o, args[0])
	if err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, rotateWait)
	defer cancel()
	done, err := g.tool(p).UndoSeal(bound, r)
	if err != nil {
		return rotateError(ctx, err)
	}
	if g.json {
		err = cli.JSON(g.Out, sealRotationOf(done.SealRotation))
	} else {
		err = cli.Print(g.Out, "region %s: requests are sealed to %s; key %s goes\n", r.Region, done.To, done.From)
	}
	if err == nil && done.Unrecorded != nil {
		err = unrecorded(done.Unrecorded)
	}
	return err
}
