package nscsetup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/wire"
)

func newRotate(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace keys of the platform while it runs",
		Long: `rotate replaces a key so that nobody notices: the new one is brought to all servers,
issuers go over to it, and the former one goes when the last credential by it has ended.
Home's registrars do that step by step, also when this machine is off; what they wait
for 'nscsetup rotate status' says. Until the former key goes, 'nscsetup rotate undo'
takes it back.`,
		Example: `  nscsetup rotate role CHAT/member --why "yearly"
  nscsetup rotate region-key ams --why "yearly"
  nscsetup rotate status
  nscsetup rotate undo CHAT/member`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(newRotateRole(g), newRotateRegion(g), newRotateStatus(g), newRotateUndo(g))
	return c
}

type replaceOptions struct {
	why            string
	emergency, yes bool
	without        []string
}

// rotateWait bounds what is asked of home and of servers.
const rotateWait = time.Minute

func newRotateRole(g *globals) *cobra.Command {
	var o replaceOptions
	c := &cobra.Command{
		Use:   "role ACCOUNT/ROLE",
		Short: "Replace the key that a role's credentials are issued by",
		Long: `role replaces a role key. The new one is made here, and handed to issuers through the
ledger, sealed to their region keys. It goes in stages:

  add    all servers and issuers get the new key; the former one is in use
  issue  credentials are issued by the new key; those by the former one live
  drop   nobody has one by the former key any more: it goes from all servers

No connection is closed. A stage waits for servers and issuers that are away, and the
last one for the longest credential, static users' included.

With --emergency, for a key that was stolen, the former key goes at once: whoever has a
credential by it is cut off, and has to show again who they are. They are listed first;
--yes does not ask. To revoke users does not help then: a thief makes others. Who has an
issuer's folder has its region key, too, and could open the new key: name its region
with --without, and set its issuer up anew from issuers/ of this folder.

While a key is being replaced, 'add user' makes no static users of the role.

Exit codes: 3 if, in an emergency, servers have not heard of it: they are named, and do
when they return; 5 if home cannot be reached; 6 for roles whose credentials are files of
services or guests, for static users alone, or if it is being replaced already.`,
		Example: `  nscsetup rotate role CHAT/member --why "yearly"
  nscsetup rotate role CHAT/member --emergency --without sgp --why "its issuer was stolen"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runRotate(cmd.Context(), g, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.why, "why", "", "the `reason`, for the records and for whoever looks")
	f.BoolVar(&o.emergency, "emergency", false, "take the former key away at once, and cut off whoever has a credential by it")
	f.StringArrayVar(&o.without, "without", nil, "in an emergency, a `region` whose issuer was stolen: the new key is not handed to it; repeat it for each")
	f.BoolVar(&o.yes, "yes", false, "in an emergency, do not ask")
	return c
}

func newRotateUndo(g *globals) *cobra.Command {
	var o replaceOptions
	c := &cobra.Command{
		Use:   "undo ACCOUNT/ROLE | undo region-key REGION",
		Short: "Take back the replacement of a key",
		Long: `undo has a role's credentials issued by the former key again, or requests sealed to it.
If some were issued by the new one, they live on, and the new key goes when the last of
them has ended; if none were, it goes at once. Once the former key goes there is no way
back.

Exit codes: 5 if home cannot be reached; 6 if there is nothing to take back.`,
		Example: `  nscsetup rotate undo CHAT/member --why "not in the week of the fair"
  nscsetup rotate undo region-key ams`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == argRegion {
				return runUndoSeal(cmd.Context(), g, o, args[1:])
			}
			if len(args) > 1 {
				return cli.Errorf(cli.Usage, "write ACCOUNT/ROLE, or region-key REGION", "undo does not know %s %s", args[0], args[1])
			}
			return runRotateUndo(cmd.Context(), g, o, args[0])
		},
	}
	c.Flags().StringVar(&o.why, "why", "", "the `reason`, for the records and for whoever looks")
	return c
}

// rotation is what `rotate --json` says.
type rotation struct {
	// Of these one is there.
	Role   string `json:"role,omitempty"`   // whose key it is
	Region string `json:"region,omitempty"` // likewise

	Stage   string   `json:"stage"`
	From    string   `json:"from"`
	To      string   `json:"to"`
	At      int64    `json:"at"` // seconds since 1970
	By      string   `json:"by"`
	Why     string   `json:"why"`
	Waiting []string `json:"waiting"`         // for what the next stage waits
	Until   int64    `json:"until,omitempty"` // when the last credential by From ends
	// Cut is, of an emergency, who was cut off.
	Cut    []connection `json:"cut,omitempty"`
	Behind []behind     `json:"behind,omitempty"`
	// Exposed are, of a region key's emergency, the keys that whoever has the former one could open.
	Exposed []string `json:"exposed,omitempty"`
	// Elsewhere are, likewise, keys that are not sealed to the new key: their seeds are in another folder.
	Elsewhere []string `json:"elsewhere,omitempty"`
}

// what names the key, for people to read.
func (r rotation) what() string {
	if r.Region != "" {
		return "region key of " + r.Region
	}
	return r.Role
}

func rotationOf(r ledger.Rotation) rotation {
	return rotation{
		Role: r.Account.String() + "/" + r.Role.String(), Stage: string(r.Stage), From: r.From.String(), To: r.To.String(),
		At: r.At, By: r.By, Why: r.Why, Waiting: []string{},
	}
}

// rotation reads of which role it is, and why, and opens the folder.
func (g *globals) rotation(arg, why string) (*platform.Platform, apply.Rotation, error) {
	ref, err := roleRef(arg)
	if err != nil {
		return nil, apply.Rotation{}, err
	}
	if _, err := (wire.AdminRequest{Account: ref.Account, Why: why}).Encode(); err != nil {
		return nil, apply.Rotation{}, cli.Errorf(cli.Usage, "write --why on one line", "%w", err)
	}
	p, err := g.look()
	return p, apply.Rotation{Role: ref, By: self(), Why: why}, err
}

func runRotate(ctx context.Context, g *globals, o replaceOptions, arg string) error {
	p, r, err := g.rotation(arg, o.why)
	if err != nil {
		return err
	}
	ref := r.Role
	r.Emergency = o.emergency
	for _, name := range o.without {
		region, err := known(p, name)
		if err != nil {
			return err
		}
		if !o.emergency {
			return cli.Errorf(cli.Usage, "leave --without out, or add --emergency", "--without goes with --emergency")
		}
		r.Without = append(r.Without, region)
	}
	t := g.tool(p)
	var cut []seen.Connection
	if o.emergency {
		look, cancel := context.WithTimeout(ctx, rotateWait)
		cut, err = t.Cut(look, ref)
		cancel()
		if err != nil {
			return rotateError(ctx, err)
		}
		if !o.yes {
			if err := g.ask(func() error { return printCut(g.Err, ref, cut) }, "replace the key of "+ref.String()+" at once?"); err != nil {
				return err
			}
		}
	}
	bound, cancel := context.WithTimeout(ctx, rotateWait) // which begins when somebody has answered
	defer cancel()
	done, err := t.Rotate(bound, r)
	if err != nil {
		return rotateError(ctx, err)
	}
	rep := rotationOf(done.Rotation)
	for _, c := range cut {
		rep.Cut = append(rep.Cut, connection{Name: c.Name, User: c.User, Server: c.Server, Region: c.Region.String()})
	}
	for _, b := range done.Behind {
		rep.Behind = append(rep.Behind, behind{b.Server, b.Why})
	}
	if err := g.printRotated(rep, done, o.emergency, ref); err != nil {
		return err
	}
	switch {
	case len(done.Behind) > 0:
		return cli.Errorf(cli.Partial, "registrars bring it to them when they return; see 'nscsetup rotate status'", "not on all servers: %s", strings.Join(serversOf(done.Behind), ", "))
	case done.Unrecorded != nil:
		return unrecorded(done.Unrecorded)
	}
	return nil
}

func (g *globals) printRotated(rep rotation, done *apply.Rotated, emergency bool, ref manifest.RoleRef) error {
	if g.json {
		return cli.JSON(g.Out, rep)
	}
	if emergency {
		var b strings.Builder
		fmt.Fprintf(&b, "role %s: key %s is gone from %d of %d servers; credentials are issued by %s\n", ref, done.From, done.Servers-len(done.Behind), done.Servers, done.To)
		for _, x := range rep.Behind {
			fmt.Fprintf(&b, "  behind: %s: %s\n", inspect.Clean(x.Server), inspect.Clean(x.Why))
		}
		fmt.Fprintf(&b, "cut off: %d connections\n", len(rep.Cut))
		return cli.Print(g.Out, "%s", b.String())
	}
	return cli.Print(g.Out, "role %s: key %s is being replaced by %s\nhome's registrars go on with it; 'nscsetup rotate status' says how far they are\n", ref, done.From, done.To)
}

// printCut says whom an emergency cuts off.
func printCut(out io.Writer, ref manifest.RoleRef, cut []seen.Connection) error {
	const most = 20
	if err := cli.Print(out, "role %s: %d connections close, and who has one has to show again who they are\n", ref, len(cut)); err != nil {
		return err
	}
	for i, c := range cut {
		if i == most {
			return cli.Print(out, "  and %d more\n", len(cut)-most)
		}
		if err := cli.Print(out, "  %s on %s\n", inspect.Clean(c.Name), inspect.Clean(c.Server)); err != nil {
			return err
		}
	}
	return nil
}

func runRotateUndo(ctx context.Context, g *globals, o replaceOptions, arg string) error {
	p, r, err := g.rotation(arg, o.why)
	if err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, rotateWait)
	defer cancel()
	done, err := g.tool(p).Undo(bound, r)
	if err != nil {
		return rotateError(ctx, err)
	}
	if g.json {
		err = cli.JSON(g.Out, rotationOf(done.Rotation))
	} else {
		when := "goes when the last credential by it has ended"
		if done.Stage == ledger.StageDrop {
			when = "goes: nothing was issued by it"
		}
		err = cli.Print(g.Out, "role %s: credentials are issued by %s; key %s %s\n", r.Role, done.To, done.From, when)
	}
	if err == nil && done.Unrecorded != nil {
		err = unrecorded(done.Unrecorded)
	}
	return err
}

func rotateError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, ledger.ErrRotating):
		return cli.Errorf(cli.Refused, "see 'nscsetup rotate status'; 'nscsetup rotate undo' takes it back", "%w", err)
	case errors.Is(err, ledger.ErrNotRotating):
		return cli.Errorf(cli.Refused, "see 'nscsetup rotate status'; to go back to a key that is gone, there is no way: replace the new one by another", "%w", err)
	case errors.Is(err, apply.ErrElsewhere):
		return cli.Errorf(cli.Refused, "run it in the platform folder in which they were replaced", "%w", err)
	case errors.Is(err, apply.ErrServices):
		return cli.Errorf(cli.Refused, "give services other credentials: 'nscsetup up' and their folders have them for days alone", "%w", err)
	case errors.Is(err, fs.ErrNotExist):
		return cli.Errorf(cli.Config, "work on the platform folder whose operator/roles has it", "%w", err)
	case errors.Is(err, apply.ErrUngranted):
		return cli.Errorf(cli.Refused, "see 'nscsetup list roles'; of a role of static users alone, make another role and give them credentials of that", "%w", err)
	case unreached(err):
		return noHome(ctx, err)
	}
	return err
}

func newRotateStatus(g *globals) *cobra.Command {
	var patience string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how keys stand that are being replaced",
		Long: `status shows which keys are being replaced, how far that is, and for what the next stage
waits, as a registrar sees it. It also brings this folder after what is in force: when a
role's key was replaced, the one in use is in operator/roles, and a region's in issuers/;
the former one is in operator/retired.

Exit codes: 3 if, with --wait, keys are being replaced still; 5 if home cannot be reached.`,
		Example: `  nscsetup rotate status
  nscsetup rotate status --wait 2h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRotateStatus(cmd.Context(), g, patience) },
	}
	c.Flags().StringVar(&patience, "wait", "", "wait until none is being replaced, for at most `2h`")
	return c
}

func runRotateStatus(ctx context.Context, g *globals, patience string) error {
	until := time.Now()
	if patience != "" {
		d, err := manifest.ParseDuration(patience)
		if err != nil || d <= 0 {
			return cli.Errorf(cli.Usage, "write it as 30s or 2h", "--wait is %q", patience)
		}
		until = until.Add(time.Duration(d))
	}
	for {
		all, err := rotations(ctx, g)
		if err != nil {
			return err
		}
		if left := time.Until(until); len(all) > 0 && left > 0 && wait.For(ctx, min(left, time.Second)) == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := g.printRotations(all); err != nil {
			return err
		}
		if len(all) > 0 && patience != "" {
			return cli.Errorf(cli.Partial, "see for what it waits; home's registrars go on with it", "%d keys are being replaced still", len(all))
		}
		return nil
	}
}

// rotations are those that there are, with what a registrar says of them.
func rotations(ctx context.Context, g *globals) ([]rotation, error) {
	p, err := g.look()
	if err != nil {
		return nil, err
	}
	bound, cancel := context.WithTimeout(ctx, rotateWait)
	defer cancel()
	d, err := g.tool(p).Rotations(bound)
	if err != nil {
		return nil, rotateError(ctx, err)
	}
	all := []rotation{}
	var asks []wire.AdminRequest // how each of them stands
	for _, r := range d.Rotations {
		all, asks = append(all, rotationOf(r)), append(asks, wire.AdminRequest{Account: r.Account})
	}
	for _, r := range d.SealRotations {
		all, asks = append(all, sealRotationOf(r)), append(asks, wire.AdminRequest{Region: r.Region})
	}
	if len(all) == 0 {
		return all, nil
	}
	a, err := g.administer(bound, adminOptions{})
	if err != nil {
		for i := range all {
			all[i].Waiting = []string{"no registrar answers: for what it waits is not known"}
		}
		return all, nil
	}
	defer a.nc.Close()
	for i := range all {
		said, err := a.ask(bound, wire.VerbRotations, asks[i])
		if err != nil {
			all[i].Waiting = append(all[i].Waiting, "a registrar does not say for what it waits: "+err.Error())
			continue
		}
		for _, s := range said.Rotations {
			if s.Stage == all[i].Stage && s.To == all[i].To {
				all[i].Waiting, all[i].Until = append(all[i].Waiting, s.Waiting...), s.Until
			}
		}
	}
	return all, nil
}

func (g *globals) printRotations(all []rotation) error {
	if g.json {
		return cli.JSON(g.Out, all)
	}
	if len(all) == 0 {
		return cli.Print(g.Out, "no key is being replaced\n")
	}
	for _, r := range all {
		var b strings.Builder
		fmt.Fprintf(&b, "%s: stage %s, since %s, by %s", r.what(), r.Stage, time.Unix(r.At, 0).UTC().Format(time.RFC3339), inspect.Clean(r.By))
		if r.Why != "" {
			fmt.Fprintf(&b, ": %s", inspect.Clean(r.Why))
		}
		fmt.Fprintf(&b, "\n  from %s\n  to   %s\n", r.From, r.To)
		for _, w := range r.Waiting {
			fmt.Fprintf(&b, "  waits: %s\n", inspect.Clean(w))
		}
		if err := cli.Print(g.Out, "%s", b.String()); err != nil {
			return err
		}
	}
	return nil
}
