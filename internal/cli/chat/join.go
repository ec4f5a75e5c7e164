package chat

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
)

func newJoin(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "join FILE",
		Short: "Remember a platform and make it the current one",
		Long: `join reads the file that 'nscsetup context export' wrote (or a public/ folder),
verifies it up to its operator, and keeps it as a context. Nothing is sent.`,
		Example: `  chat join demo.herald
  chat join demo.herald --context work`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runJoin(g, args[0]) },
	}
}

func runJoin(g *globals, file string) error {
	d, err := findDirs()
	if err != nil {
		return err
	}
	p, err := client.LoadPlatform(file)
	if err != nil {
		return err
	}
	called := g.context
	if called == "" {
		called = p.Document.Name
	}
	name, err := ident.ParseName(called)
	if err != nil {
		return fmt.Errorf("the context's name: %w", err)
	}
	if err := d.save(name, p); err != nil {
		return err
	}
	if g.json {
		return cli.JSON(g.Out, map[string]any{"event": "joined", "context": name, "platform": p.Document.Name, "operator": p.Operator.Key()})
	}
	return cli.Print(g.Out, "joined %s (operator %s)\n", name, p.Operator.Key())
}
