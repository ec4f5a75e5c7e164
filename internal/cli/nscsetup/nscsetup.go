// Package nscsetup is the program for operators: it makes a platform and runs
// it on one machine.
package nscsetup

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// globals are what every command shares.
type globals struct {
	cli.IO
	dir  string
	json bool
}

// Run executes one nscsetup command and gives the exit code.
func Run(ctx context.Context, stdio cli.IO, args []string) int {
	return cli.Run(ctx, newRoot(&globals{IO: stdio}), stdio, args, rules())
}

// newRoot makes the program's commands.
func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "nscsetup",
		Short: "Set up a Herald platform and run it",
		Long: `nscsetup makes a Herald platform: an operator-rooted chain of trust, its accounts
and roles, and a folder for each party; and it runs the whole platform on one
machine, with real servers in several regions.

It works on the platform folder that it stands in, or on --dir. Exit codes are
the same for all of Herald's programs: 0 done, 1 failed, 2 usage, 3 partly done,
4 exists, 5 unavailable, 6 refused, 7 this machine, 8 folder or file,
130 interrupted.`,
		Example: `  nscsetup init demo --name demo
  nscsetup --dir demo up`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	root.PersistentFlags().StringVar(&g.dir, "dir", ".", "the platform folder")
	root.PersistentFlags().BoolVar(&g.json, "json", false, "write JSON to stdout")
	root.AddCommand(newInit(g), newPlan(g), newApply(g), newStatus(g), newDoctor(g), newConfig(g), newTLS(g), newUp(g), newContext(g), newLink(g), newRegion(g))
	root.AddCommand(newList(g), newDescribe(g), newAdd(g), newCan(g), newSchema(g), newDocs(g), newCompletion(g), newVersion(g), newNSC(g), newAccessKey(g), newInvite(g), newName(g), newExplain(g), newReplay(g), newAudit(g))
	root.AddCommand(newRevoke(g), newSuspend(g), newResume(g), newReceipt(g), newRotate(g), newHome(g), newDrill(g))
	complete(root, g) // the last: it goes through all commands
	return root
}

// help is what a command does that only has commands below it. Without it cobra
// shows the help for a mistyped command as well, and calls that a success.
func help(c *cobra.Command, _ []string) error { return c.Help() }

func rules() []cli.Rule {
	const folder = "stand in a folder that 'nscsetup init' made, or name it with --dir"
	return append(tlsRules(), []cli.Rule{
		{Is: platform.ErrExists, Code: cli.Exists, Hint: "choose a folder that is empty or does not exist; nothing was changed"},
		{Is: manifest.ErrInvalid, Code: cli.Config, Hint: "correct platform.yaml at the line that is named"},
		{Is: platform.ErrNoPorts, Code: cli.Resource, Hint: "choose the first of a block of free ports with --port"},
		{Is: apply.ErrMoved, Code: cli.Config, Hint: "work on the folder from which it was moved, or bring this one after it with 'nscsetup home move REGION' of the region that is home"},
		{Is: apply.ErrBusy, Code: cli.Resource, Hint: "wait until it has ended; it holds operator/.lock"},
		{Is: up.ErrRunning, Code: cli.Resource, Hint: "another 'nscsetup up' runs it: use that one, or end it first"},
		{Is: ledger.ErrLost, Code: cli.Failed, Hint: "bring home's bucket back from a backup of its server's disks, or from a mirror; an empty one would give names a second time"},
		{Is: up.ErrNotRunning, Code: cli.Unavailable, Hint: "start it with 'nscsetup up' in another terminal"},
		{Is: supercluster.ErrUnknown, Code: cli.Usage, Hint: "see 'nscsetup link list' for the platform's regions"},
		{Is: ident.ErrInvalid, Code: cli.Usage, Hint: "write it as the rule says: it is taken as it is written, and nothing is folded or shortened"},
		{Is: trust.ErrUntrusted, Code: cli.Config, Hint: "what is named there is of another platform: restore it from a backup of this folder, or make a new one with 'nscsetup init'"},
		{Is: platform.ErrNotPlatform, Code: cli.Config, Hint: folder},
		{Is: service.ErrConfig, Code: cli.Config, Hint: "restore the folder, or make a new platform with 'nscsetup init'"},
		{Is: keystore.ErrExposed, Code: cli.Config, Hint: "make it yours alone with chmod 600, and replace the key if others could have read it"},
		{Is: keystore.ErrKind, Code: cli.Config, Hint: "restore the file from a backup of the platform folder"},
	}...)
}

// open opens the platform folder that the command works on.
func (g *globals) open() (*platform.Platform, error) {
	p, err := platform.Open(g.dir)
	if errors.Is(err, os.ErrPermission) {
		// Here a folder of somebody else is the cause, not this machine.
		return nil, cli.Errorf(cli.Config, "run it as the user who owns the platform folder, or name your own with --dir", "%w", err)
	}
	var problems manifest.Problems
	if errors.As(err, &problems) && len(problems) > 1 {
		// All of them, so that one round of corrections does.
		for _, problem := range problems {
			if perr := cli.Print(g.Err, "%s\n    %s\n", cli.Line(problem.String()), cli.Line(problem.Hint)); perr != nil {
				return nil, perr
			}
		}
		return nil, cli.Errorf(cli.Config, "correct it at the lines above", "%s has %d problems: %w", platform.Dir(g.dir).File(), len(problems), manifest.ErrInvalid)
	}
	if len(problems) == 1 {
		return nil, cli.Errorf(cli.Config, problems[0].Hint, "%w", err)
	}
	return p, err
}

// look opens the platform folder for a command that looks at what is in force, or heals
// it. While somebody is changing platform.yaml, and it has mistakes, the file counts that
// was applied last.
func (g *globals) look() (*platform.Platform, error) {
	p, err := platform.Open(g.dir)
	if !errors.Is(err, manifest.ErrInvalid) {
		return g.open()
	}
	if p, aerr := platform.OpenApplied(g.dir); aerr == nil {
		return p, cli.Print(g.Err, "warning: platform.yaml has mistakes, and is passed over: what was applied last counts; 'nscsetup plan' names them\n")
	}
	return p, err
}

func absolute(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return dir
	}
	return abs
}
