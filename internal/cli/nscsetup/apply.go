package nscsetup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/registrar"
)

// lookWait bounds how long servers are asked what is in force.
const lookWait = 15 * time.Second

type planOptions struct {
	exitCode bool
	offline  bool
	override bool
}

func newPlan(g *globals) *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what 'apply' would change",
		Long: `plan holds platform.yaml against what is in force on the platform, and shows what
would change, and whose connections servers would close. It changes nothing.

What somebody else put in force since this folder last applied, and this folder's
platform.yaml has nothing new to say about, stays as it is and is named as changed
elsewhere. What was changed on both sides is a conflict: bring platform.yaml up to
date, or take this folder's side with --override.

With --offline no server is asked: what this folder last put in force stands for
what is in force.

Exit codes: 0 even if something would change; with --exit-code 2 then. 5 if the
servers cannot be reached.`,
		Example: `  nscsetup plan
  nscsetup plan --exit-code || echo 'something would change'
  nscsetup plan --offline --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPlan(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 2 if something would change")
	f.BoolVar(&o.offline, "offline", false, "ask no server: hold the file against what this folder last applied")
	f.BoolVar(&o.override, "override", false, "take this folder's side wherever it differs: what others changed is changed back, and accounts that they made are closed")
	return c
}

// tool is the set-up tool at work on a platform.
func (g *globals) tool(p *platform.Platform) *apply.Tool {
	t := &apply.Tool{Platform: p, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	if show := cli.Progress(g.IO); show != nil {
		t.Progress = show
	}
	return t
}

func runPlan(ctx context.Context, g *globals, o planOptions) error {
	p, err := g.open()
	if err != nil {
		return err
	}
	t := g.tool(p)
	t.Override = o.override
	force := t.Local()
	cut := map[string][]connection{}
	if !o.offline {
		lctx, cancel := context.WithTimeout(ctx, lookWait)
		defer cancel()
		if force, err = t.Look(lctx); err != nil {
			return unreachable(ctx, err)
		}
	}
	pl, err := t.Plan(force)
	if err != nil {
		return err
	}
	if pl.Cuts() && !o.offline {
		lctx, cancel := context.WithTimeout(ctx, lookWait)
		defer cancel()
		if cut, err = connections(lctx, t, pl); err != nil {
			return unreachable(ctx, err)
		}
	}
	if err := g.printPlan(pl, cut); err != nil {
		return err
	}
	if len(pl.Conflicts) > 0 {
		return conflict(pl)
	}
	if o.exitCode && !pl.Empty() {
		return cli.Silent(cli.Usage)
	}
	return nil
}

// unreachable says what to do where no server answers.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return cli.Errorf(cli.Unavailable, "are the servers up, and are their addresses those of platform.yaml? 'nscsetup plan --offline' asks none", "%w", err)
}

func conflict(pl *plan.Plan) error {
	var names []string
	for _, c := range pl.Conflicts {
		names = append(names, c.What)
	}
	return cli.Errorf(cli.Refused, "bring platform.yaml up to date with what is in force, or take this folder's side in everything with --override, which also closes accounts that others made",
		"%s: %w", strings.Join(names, ", "), apply.ErrConflict)
}

// planReport is what `plan --json` says.
type planReport struct {
	*plan.Plan
	Changes     bool                    `json:"changes"`
	Connections map[string][]connection `json:"connections,omitempty"` // that servers would close, by ACCOUNT/ROLE
}

func (g *globals) printPlan(pl *plan.Plan, cut map[string][]connection) error {
	if g.json {
		return cli.JSON(g.Out, planReport{pl, !pl.Empty(), cut})
	}
	var b strings.Builder
	signs := map[string]string{plan.Create: "+", plan.Change: "~", plan.Close: "-"}
	for _, a := range pl.Accounts {
		fmt.Fprintf(&b, "%s account %s\n", signs[a.How], a.Name)
		for _, l := range a.Diff {
			fmt.Fprintf(&b, "    %s\n", l)
		}
		for _, c := range a.Cut {
			b.WriteString("    ! " + cutLine(a.Name, c, cut) + "\n")
		}
		for _, l := range a.Loses {
			b.WriteString("    ! " + l + "\n")
		}
	}
	if len(pl.Document) > 0 {
		b.WriteString("~ platform document\n")
		for _, l := range pl.Document {
			fmt.Fprintf(&b, "    %s\n", l)
		}
	}
	for _, what := range pl.Elsewhere {
		fmt.Fprintf(&b, "  %s: changed or closed elsewhere, stays as it is there\n", what)
	}
	for _, c := range pl.Conflicts {
		fmt.Fprintf(&b, "! %s: changed here and elsewhere\n", c.What)
		for _, l := range c.Diff {
			fmt.Fprintf(&b, "    %s\n", l)
		}
	}
	if pl.Empty() {
		fmt.Fprintf(&b, "nothing would change: %d accounts are as platform.yaml says\n", pl.Same)
	} else {
		create, change, gone := 0, 0, 0
		for _, a := range pl.Accounts {
			switch a.How {
			case plan.Create:
				create++
			case plan.Change:
				change++
			default:
				gone++
			}
		}
		fmt.Fprintf(&b, "plan: accounts to create %d, to change %d, to close %d, as they are %d\n", create, change, gone, pl.Same)
	}
	return cli.Print(g.Out, "%s", b.String())
}

// cutLine says whose connections a change closes.
func cutLine(account string, c plan.Cut, cut map[string][]connection) string {
	then := "and cannot come back: the role's key goes"
	if c.Back {
		then = "and come back with the new rights"
	}
	who, asked := cut[account+"/"+c.Role]
	if !asked {
		return fmt.Sprintf("role %s: its connections close, %s", c.Role, then)
	}
	if len(who) == 0 {
		return fmt.Sprintf("role %s: nobody is connected", c.Role)
	}
	const most = 5
	var names []string
	for i, w := range who {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(who)-most))
			break
		}
		names = append(names, w.Name+" ("+w.Server+")")
	}
	return fmt.Sprintf("role %s: %d connections close, %s: %s", c.Role, len(who), then, strings.Join(names, ", "))
}

type applyOptions struct {
	yes      bool
	override bool
	wait     time.Duration
}

func newApply(g *globals) *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use:   "apply",
		Short: "Bring platform.yaml into force",
		Long: `apply makes the platform what platform.yaml says: it writes the accounts and the
signed platform document to the ledger, brings the accounts to all servers, joined
with what these hold, and waits until every server has them. The first time it
makes the ledger, too. Keys that are missing are made.

It may be run again at any time: what is in force is left alone, and a run that was
cut off is gone on with. What servers hold and nobody here knows of, such as
revocations, is kept. An account that platform.yaml has no longer is closed, not
deleted: a server that missed it would bring it back.

It asks before it closes connections or accounts; --yes answers.

Exit codes: 0 every server has everything; 3 some servers could not be reached or are
behind: they are named, what was done stays, and registrars bring them in line when
they return; 5 no server could be reached; 6 changed here and elsewhere.`,
		Example: `  nscsetup apply
  nscsetup plan --exit-code; test $? -ne 2 || nscsetup apply --yes
  nscsetup apply --wait 2m --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runApply(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.yes, "yes", false, "close connections and accounts without asking")
	f.BoolVar(&o.override, "override", false, "take this folder's side wherever it differs: what others changed is changed back, and accounts that they made are closed")
	f.DurationVar(&o.wait, "wait", time.Minute, "how long to try")
	return c
}

func runApply(ctx context.Context, g *globals, o applyOptions) error {
	p, err := g.open()
	if err != nil {
		return err
	}
	if o.wait < time.Second {
		return cli.Errorf(cli.Usage, "servers need a moment: choose 1s or more", "--wait %s cannot be", o.wait)
	}
	t := g.tool(p)
	t.Override = o.override
	actx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	r, err := t.Apply(actx, func(pl *plan.Plan) error { return g.confirm(actx, t, pl, o.yes) })
	if err != nil && r != nil && r.Unrecorded != nil {
		err = fmt.Errorf("%w; and %w", err, r.Unrecorded)
	}
	switch {
	case errors.Is(err, apply.ErrConflict) && r != nil && r.Plan != nil:
		if g.json {
			return errors.Join(g.printApplied(p, r), conflict(r.Plan))
		}
		return errors.Join(g.printPlan(r.Plan, nil), conflict(r.Plan))
	case err != nil && ctx.Err() == nil && unreached(err):
		if r == nil || len(r.Behind) == 0 {
			return cli.Errorf(cli.Unavailable, "are the servers up, and are their addresses those of platform.yaml? what was done stays; run it again", "%w", err)
		}
		return cli.Errorf(cli.Unavailable, "what was done stays; run it again when they are back, or with a longer --wait: it takes 15s where servers are away",
			"%w; servers that do not answer: %s", err, strings.Join(serversOf(r.Behind), ", "))
	case err != nil:
		return err
	}
	if err := g.printApplied(p, r); err != nil {
		return err
	}
	if len(r.Behind) > 0 || r.Streams != nil {
		const hint = "what was done stays; registrars bring them in line when they return, or run 'nscsetup apply' again"
		switch names := strings.Join(serversOf(r.Behind), ", "); {
		case r.Streams == nil:
			return cli.Errorf(cli.Partial, hint, "not on all servers: %s", names)
		case names == "":
			return cli.Errorf(cli.Partial, "run 'nscsetup apply' again later", "streams of the ledger wait for the next run: %w", r.Streams)
		default:
			return cli.Errorf(cli.Partial, hint, "not on all servers: %s; and streams of the ledger wait for the next run: %w", names, r.Streams)
		}
	}
	if r.Unrecorded != nil {
		return unrecorded(r.Unrecorded)
	}
	return nil
}

func serversOf(all []registrar.Behind) []string {
	var names []string
	for _, b := range all {
		names = append(names, b.Server)
	}
	return names
}

// confirm asks before connections or accounts are closed.
func (g *globals) confirm(ctx context.Context, t *apply.Tool, pl *plan.Plan, yes bool) error {
	if !pl.Cuts() && !pl.Destroys() || yes {
		return nil
	}
	cut, err := connections(ctx, t, pl)
	if err != nil {
		return err
	}
	any := pl.Destroys()
	for _, who := range cut {
		any = any || len(who) > 0
	}
	if !any {
		return nil // nobody is connected who would notice
	}
	return g.ask(func() error { return (&globals{IO: cli.IO{Out: g.Err}}).printPlan(pl, cut) }, "apply this?")
}

// ask shows something and asks whether to go on. Where nobody can answer it is refused.
func (g *globals) ask(show func() error, question string) error {
	if !cli.Terminal(g.In) || !cli.Terminal(g.Err) {
		return cli.Errorf(cli.Usage, "answer with --yes; in a terminal you are shown first what it does", "%s there is nobody to ask", question)
	}
	if err := show(); err != nil {
		return err
	}
	if err := cli.Print(g.Err, "%s [y/N] ", question); err != nil {
		return err
	}
	answer, _ := bufio.NewReader(g.In).ReadString('\n') // no answer is no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return cli.Errorf(cli.Failed, "nothing of it was changed", "not confirmed")
}

// applyReport is what `apply --json` says.
type applyReport struct {
	Version  string     `json:"version"`
	Plan     *plan.Plan `json:"plan"`
	Servers  int        `json:"servers"`
	Accounts int        `json:"accounts"`
	InLine   int        `json:"in_line"` // accounts that every server has
	Behind   []behind   `json:"behind"`
	Streams  string     `json:"streams,omitempty"` // why some of the ledger's streams wait for the next run
	Regions  []string   `json:"regions,omitempty"` // that are new: bring their folders to where their services will run
	TookMS   int64      `json:"took_ms"`
}

type behind struct {
	Server string `json:"server"`
	Why    string `json:"why"`
}

func (g *globals) printApplied(p *platform.Platform, r *apply.Result) error {
	rep := applyReport{
		Version: r.Version.String(), Plan: r.Plan, Servers: r.Servers, Accounts: r.Accounts, InLine: r.InLine,
		Behind: []behind{}, TookMS: r.Took.Milliseconds(),
	}
	for _, b := range r.Behind {
		rep.Behind = append(rep.Behind, behind{b.Server, b.Why})
	}
	if r.Streams != nil {
		rep.Streams = r.Streams.Error()
	}
	for _, region := range r.Regions {
		rep.Regions = append(rep.Regions, region.String())
	}
	if g.json {
		return cli.JSON(g.Out, rep)
	}
	var errs []error
	if r.Plan.Empty() {
		errs = append(errs, cli.Print(g.Out, "nothing to change\n"))
	}
	if len(r.Plan.Document) > 0 {
		errs = append(errs, cli.Print(g.Out, "platform document: changed\n"))
	}
	for _, a := range r.Plan.Accounts {
		done := map[string]string{plan.Create: "created", plan.Change: "changed", plan.Close: "closed"}[a.How]
		errs = append(errs, cli.Print(g.Out, "account %s: %s\n", a.Name, done))
	}
	errs = append(errs, cli.Print(g.Out, "in force: version %s, %d accounts on %d of %d servers, in %.1f s\n",
		rep.Version, rep.Accounts, rep.Servers-len(rep.Behind), rep.Servers, r.Took.Seconds()))
	for _, b := range rep.Behind {
		errs = append(errs, cli.Print(g.Out, "behind: %s: %s\n", b.Server, b.Why))
	}
	for _, region := range r.Regions {
		errs = append(errs, cli.Print(g.Err, "New region: bring %s and %s to where its services will run.\n", p.Dir.Issuer(region), p.Dir.Registrar(region)))
	}
	return errors.Join(errs...)
}

// unreached tells whether an error is that nobody could be reached, or did not answer in
// time.
func unreached(err error) bool {
	for _, e := range []error{context.DeadlineExceeded, nats.ErrNoServers, nats.ErrTimeout, ledger.ErrUnavailable} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
