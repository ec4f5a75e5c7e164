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
	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/wire"
)

func newHome(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "home",
		Short: "Have another region decide, when home is gone for good",
		Long: `home is about the region that decides names, policy and accounts. While it is away
everything else goes on: credentials are given, renewed and revoked. If it does not come
back, 'nscsetup home move' has another region decide; if it does come back after that,
'nscsetup home return' makes it a region as any other.`,
		Example: `  nscsetup home move sfo --why "the building burnt down"
  nscsetup home return ams`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(newHomeMove(g), newHomeReturn(g))
	return c
}

type homeOptions struct {
	why, key string
	yes      bool
	without  []string
}

// homeWait bounds moving home, in which everything is copied twice.
const homeWait = 10 * time.Minute

func newHomeMove(g *globals) *cobra.Command {
	var o homeOptions
	c := &cobra.Command{
		Use:   "move REGION",
		Short: "Have a region decide instead of home, which is gone for good",
		Long: `move makes another region home. What home had decided comes from the mirror that has most
of it; the platform document that says where home is begins a new epoch, which takes the
operator key. It is refused while home's bucket answers.

Use it when home does not come back. If its servers run, cut off, they go on deciding for
whoever reaches them, until they hear of it; then what they decided alone is not in force:
'nscsetup home return' lists it, and takes over what nobody decided otherwise.

Names in the last moments of home that no mirror had are lost. The registrars of the new
home decide once they run with their folder as it is then: it has a credential more.

Run again after it was cut off, it goes on.

Exit codes: 3 if home moved, and its registrar could not be started here; 5 if a region's
servers cannot be asked: wait, or give up what its mirror alone has with --without; 6 if
home answers, the region is home, or a mirror may have what another home decided: run
'nscsetup home return' for that one first.`,
		Example: `  nscsetup home move sfo --why "the building burnt down"
  nscsetup home move sfo --operator-key /media/key/operator.nk --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runHomeMove(cmd.Context(), g, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.why, "why", "", "the `reason`, for the records and for whoever looks")
	f.StringVar(&o.key, "operator-key", "", "the `file` of the operator key (default: operator/operator.nk of the platform folder)")
	f.StringArrayVar(&o.without, "without", nil, "a `region` that is away, too: what its mirror alone has is given up; repeat it for each")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	return c
}

func newHomeReturn(g *globals) *cobra.Command {
	var o homeOptions
	c := &cobra.Command{
		Use:   "return REGION",
		Short: "Take a former home, which is back, for a region as any other",
		Long: `return lists what a former home decided alone, from when it was cut off until it heard that
home had moved. What home did not decide otherwise meanwhile is taken over; the rest is
not in force, and whoever was given it has to ask again. Then the region's mirror is made
anew: one that has what home does not have follows it never again.

It changes nothing else, and may be run again.

Do so, too, for a region that was given up with --without when home moved.

Exit codes: 3 if something it decided alone was overruled or is not believed; 5 if the
region or home cannot be reached; 6 if its mirror follows home, so that nothing is to do.`,
		Example: "  nscsetup home return ams",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runHomeReturn(cmd.Context(), g, o, args[0]) },
	}
	c.Flags().BoolVar(&o.yes, "yes", false, "do not ask")
	return c
}

// homeMoved is what `home move --json` says.
type homeMoved struct {
	From     ident.Region `json:"from"`
	To       ident.Region `json:"to"`
	Document string       `json:"document"` // its version
	Last     uint64       `json:"last"`     // the position up to which the new home has what the former one decided
	// Restarted tells that the registrar of the new home was started again here.
	Restarted bool `json:"restarted"`
}

func runHomeMove(ctx context.Context, g *globals, o homeOptions, arg string) error {
	to, err := ident.ParseRegion(arg)
	if err != nil {
		return err
	}
	if err := wire.CheckWhy(o.why); err != nil {
		return cli.Errorf(cli.Usage, "write --why on one line", "%w", err)
	}
	p, err := platform.OpenMoving(g.dir, to)
	if err != nil {
		if _, oerr := g.open(); oerr != nil {
			return oerr // it says more of what is wrong
		}
		return err
	}
	if _, err := known(p, to.String()); err != nil {
		return err
	}
	m := apply.Move{To: to, By: self(), Why: o.why}
	for _, name := range o.without {
		r, err := known(p, name)
		if err != nil {
			return err
		}
		if r == to {
			return cli.Errorf(cli.Usage, "leave --without "+name+" out", "home cannot move to a region that is away")
		}
		m.Without = append(m.Without, r)
	}
	if m.Key, err = p.OperatorKey(o.key); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return cli.Errorf(cli.Config, "name the file of the operator key with --operator-key", "%w", err)
		}
		return err
	}
	if !o.yes {
		m.Confirm = func(from ident.Region, entries uint64) error {
			return g.ask(func() error {
				return cli.Print(g.Err, "home %s does not answer. What it decided, up to entry %d, comes from the mirror of %s.\n"+
					"If its servers run somewhere, cut off, what they decide from now on is not in force.\n", p.Document.Home, entries, from)
			}, "have "+to.String()+" decide from now on?")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, homeWait)
	defer cancel()
	done, err := g.tool(p).MoveHome(ctx, m)
	if err != nil {
		return homeError(err)
	}
	rep := homeMoved{From: done.From, To: done.To, Document: done.Version.String(), Last: done.Last}
	switch _, err := up.Send(ctx, p.Dir, up.Command{Op: up.OpRestartRegistrar, Regions: []ident.Region{to}}); {
	case err == nil:
		rep.Restarted = true
	case !errors.Is(err, up.ErrNotRunning):
		return cli.Errorf(cli.Partial, "start it again by hand, from "+p.Dir.Registrar(to), "home is %s, and its registrar could not be started again: %w", to, err)
	}
	if g.json {
		err = cli.JSON(g.Out, rep)
	} else {
		err = printMoved(g.Out, rep, p)
	}
	if err == nil && done.Unrecorded != nil {
		err = unrecorded(done.Unrecorded)
	}
	return err
}

func printMoved(out io.Writer, rep homeMoved, p *platform.Platform) error {
	if err := cli.Print(out, "home is %s, by platform document %s, with what %s had decided up to entry %d\n", rep.To, rep.Document, rep.From, rep.Last); err != nil {
		return err
	}
	if rep.Restarted {
		return cli.Print(out, "its registrar was started again, and decides\n")
	}
	return cli.Print(out, "now bring %s to its registrars, and start them again one after the other:\nuntil the first of them runs nothing new is decided\n"+
		"whoever has the machines of %s has a credential that can destroy entries of home's bucket, for %d days at most\n",
		p.Dir.Registrar(rep.To), rep.From, int(platform.ServiceLife.Hours()/24))
}

// aloneShown is what `home return --json` says of an entry.
type aloneShown struct {
	Key     string `json:"key"`
	Version uint64 `json:"version"`
	At      int64  `json:"at"` // seconds since 1970; 0 if it is not believed
	Says    string `json:"says"`
	Fate    string `json:"fate"` // "taken over", "overruled" or "refused"
}

func runHomeReturn(ctx context.Context, g *globals, o homeOptions, arg string) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	from, err := known(p, arg)
	if err != nil {
		return err
	}
	var confirm func([]apply.Alone) error
	if !o.yes {
		confirm = func(all []apply.Alone) error {
			return g.ask(func() error { return printAlone(g.Err, from, all, "would be ") }, "take that over, and make the mirror of "+from.String()+" anew?")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, homeWait)
	defer cancel()
	lost, of, told := 0, 0, false
	listed := func(all []apply.Alone) error {
		of, told = len(all), true
		shown := make([]aloneShown, len(all))
		for i, a := range all {
			shown[i] = aloneShown{Key: a.Key, Version: a.Version, Says: says(a.Body), Fate: string(a.Fate)}
			if !a.At.IsZero() {
				shown[i].At = a.At.Unix()
			}
			if a.Fate != apply.TakenOver {
				lost++
			}
		}
		if g.json {
			return cli.JSON(g.Out, shown)
		}
		return printAlone(g.Out, from, all, "")
	}
	unrec, err := g.tool(p).Return(ctx, from, confirm, listed)
	switch {
	case err != nil:
		return homeError(err)
	case unrec != nil:
		return unrecorded(unrec)
	case lost > 0:
		return cli.Errorf(cli.Partial, "whoever was given it has to ask again", "%d of %d things that %s decided alone are not in force", lost, of, from)
	case !told: // a run before this one had listed it
		return listed(nil)
	}
	return nil
}

func printAlone(out io.Writer, from ident.Region, all []apply.Alone, verb string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s decided %d things alone\n", from, len(all))
	for _, a := range all {
		fmt.Fprintf(&b, "  %s%-11s %s: %s\n", verb, a.Fate, inspect.Clean(a.Key), inspect.Clean(says(a.Body)))
	}
	return cli.Print(out, "%s", b.String())
}

// says is what an entry states, in short.
func says(body any) string {
	switch b := body.(type) {
	case ledger.Name:
		return "held by " + b.Holder.String()
	case ledger.Invite:
		return "an invitation"
	case ledger.AccessKey:
		return "an access key"
	case ledger.Base:
		return "claims of an account"
	case ledger.Handed:
		return "a key that is handed to issuers"
	case *ledger.Document:
		return "a platform document, version " + b.Public.Version.String()
	case nil:
		return "it is not believed"
	}
	return "something else"
}

func homeError(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrHomeAnswers):
		return cli.Errorf(cli.Refused, "home is moved only when it is gone: see 'nscsetup doctor'", "%w", err)
	case errors.Is(err, apply.ErrIsHome):
		return cli.Errorf(cli.Refused, "see 'nscsetup list regions' for which region is home; its registrar is started again by hand", "%w", err)
	case errors.Is(err, apply.ErrFollows):
		return cli.Errorf(cli.Refused, "there is nothing to do for it", "%w", err)
	case errors.Is(err, jetstream.ErrForked):
		return cli.Errorf(cli.Refused, "run 'nscsetup home return' for it first, or leave it out with --without", "%w", err)
	case errors.Is(err, ledger.ErrConflict), errors.Is(err, ledger.ErrOld):
		return cli.Errorf(cli.Refused, "somebody else changed the platform meanwhile: see what is in force, and run it again", "%w", err)
	case errors.Is(err, jetstream.ErrAway):
		return cli.Errorf(cli.Unavailable, "wait until it is back, or give up what its mirror alone has with --without", "%w", err)
	case errors.Is(err, apply.ErrNoMover):
		return cli.Errorf(cli.Config, "role LEDGER/mover came with a later version: 'nscsetup apply' adds it while home answers", "%w", err)
	case unreached(err):
		return cli.Errorf(cli.Unavailable, "are the servers of the other regions up, and do more than half of all servers answer? See 'nscsetup doctor'", "%w", err)
	}
	return err
}
