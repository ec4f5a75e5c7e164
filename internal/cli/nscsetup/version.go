package nscsetup

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

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

// versionReport is what `version --json` says. What the build did not note is empty.
type versionReport struct {
	Version  string            `json:"version"`
	Commit   string            `json:"commit,omitempty"`
	Time     string            `json:"time,omitempty"` // of the commit
	Modified bool              `json:"modified"`       // whether it was built from more than the commit
	Go       string            `json:"go"`
	Platform string            `json:"platform"` // such as linux/amd64
	Modules  map[string]string `json:"modules"`
}

// shownModules are those whose behaviour the platform rests on.
func shownModules() []string {
	return []string{
		"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "github.com/nats-io/jwt/v2", "github.com/nats-io/nkeys",
	}
}

func readVersion() versionReport {
	r := versionReport{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return r
	}
	r.Version = cmp.Or(info.Main.Version, r.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			r.Commit = s.Value
		case "vcs.time":
			r.Time = s.Value
		case "vcs.modified":
			r.Modified = s.Value == "true"
		}
	}
	versions := map[string]string{}
	for _, m := range info.Deps {
		versions[m.Path] = m.Version
		if m.Replace != nil {
			versions[m.Path] = m.Replace.Version + " (replaced)"
		}
	}
	for _, path := range shownModules() {
		if v, ok := versions[path]; ok {
			r.Modules[path] = v
		}
	}
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
