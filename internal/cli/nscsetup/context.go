package nscsetup

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/client"
)

func newContext(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "context",
		Short: "What clients need to find the platform",
		Long: `A context is what a client is given of a platform: the operator, where the servers
are, and the guest, who may ask for a credential and do nothing else. All of it is
public. In the platform folder it is the folder public/.`,
		Example: `  nscsetup context export --out demo.herald`,
		Args:    cobra.NoArgs,
		RunE:    help,
	}
	var out string
	export := &cobra.Command{
		Use:   "export",
		Short: "Write public/ as one file",
		Long: `export writes all that a client needs as one file: give it to whoever may chat,
and they join with 'chat join FILE'. All in it is public: the operator, where the
servers are, and the guest, who may ask for a credential and do nothing else.`,
		Example: `  nscsetup context export > demo.herald
  nscsetup context export --out demo.herald`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runExport(g, out) },
	}
	export.Flags().StringVar(&out, "out", "", "the `file` to write; it must not exist (default: stdout)")
	c.AddCommand(export)
	return c
}

func runExport(g *globals, out string) error {
	opened, err := g.look()
	if err != nil {
		return err
	}
	p, err := client.LoadPlatform(opened.Dir.Public())
	if err != nil {
		return cli.Errorf(cli.Config, "restore the public/ folder from a backup", "%w", err)
	}
	data, err := p.Export()
	if err != nil {
		return err
	}
	if out == "" {
		return cli.Print(g.Out, "%s", data)
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) // #nosec G302 G304 -- public, and named by the user
	if os.IsExist(err) {
		return cli.Errorf(cli.Exists, "choose another name, or remove it first", "%s exists", out)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		// A half would be refused by whoever it is given to, and be in the way
		// of the next try.
		return errors.Join(fmt.Errorf("writing the context: %w", err), os.Remove(out))
	}
	return nil
}
