package nscsetup

import (
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

func newSchema(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of platform.yaml",
		Long: `schema prints the JSON Schema of platform.yaml, for editors that complete and check
YAML by one. What a schema cannot say, such as that a grant names a role that there
is, 'nscsetup plan' checks.`,
		Example: `  nscsetup schema > platform.schema.json`,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return cli.Print(g.Out, "%s", manifest.Schema()) },
	}
}
