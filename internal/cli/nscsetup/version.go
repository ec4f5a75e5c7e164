package nscsetup

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/build"
	"github.com/herald-nats/herald/internal/cli"
)

func newVersion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of the program and of what it is made with",
		Long: `version shows what this program was built from: its version and commit, the Go that
built it, and the versions of the NATS server that 'nscsetup up' runs and of the NATS
libraries.`,
		Example: `  nscsetup version
  nscsetup version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runVersion(g) },
	}
}

// shownModules are those whose behaviour the platform rests on.
func shownModules() []string {
	return []string{
		"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "github.com/nats-io/jwt/v2", "github.com/nats-io/nkeys",
	}
}

// readVersion is what `version --json` says.
func readVersion() build.Info {
	r := build.Read()
	maps.DeleteFunc(r.Modules, func(path, _ string) bool { return !slices.Contains(shownModules(), path) })
	return r
}

func runVersion(g *globals) error {
	r := readVersion()
	if g.json {
		return cli.JSON(g.Out, r)
	}
	rows := [][]string{{"nscsetup", r.Version}}
	if r.Commit != "" {
		commit := r.Commit
		if r.Modified {
			commit += ", and changes"
		}
		rows = append(rows, []string{"commit", commit})
	}
	if r.Time != "" {
		rows = append(rows, []string{"of", r.Time})
	}
	rows = append(rows, []string{"go", r.Go + " " + r.Platform})
	for _, path := range shownModules() {
		if v, ok := r.Modules[path]; ok {
			rows = append(rows, []string{path, v})
		}
	}
	return cli.Table(g.Out, rows)
}
