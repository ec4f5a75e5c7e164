package nscsetup

import (
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/reference"
)

type docsOptions struct {
	out    string
	format string
}

func newDocs(g *globals) *cobra.Command {
	var o docsOptions
	c := &cobra.Command{
		Use:   "docs",
		Short: "Write man pages or Markdown of all commands",
		Long: `docs writes a page for each command into a folder: man pages for packages, Markdown for
the web. They are made from what --help says, and are the same whenever they are
made. Pages that it made before are replaced, and those of commands that are no more
are removed; it touches no other file.

Exit codes: 4 if a file of a page's name is there that it did not make.`,
		Example: `  nscsetup docs --out man
  nscsetup docs --format markdown --out docs/cli`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDocs(g, cmd.Root(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.out, "out", "", "the `folder` to write to; it is made if it is missing")
	f.StringVar(&o.format, "format", string(reference.Man), "man or markdown")
	return c
}

func runDocs(g *globals, root *cobra.Command, o docsOptions) error {
	if o.out == "" {
		return cli.Errorf(cli.Usage, "name it with --out, such as --out man", "there is no folder to write to")
	}
	if f := reference.Format(o.format); f != reference.Man && f != reference.Markdown {
		return cli.Errorf(cli.Usage, "it is man or markdown", "--format %.20q cannot be", o.format)
	}
	w, err := reference.Write(root, reference.Format(o.format), o.out)
	if errors.Is(err, fs.ErrExist) {
		return cli.Errorf(cli.Exists, "choose another folder, or move it away; nothing was written", "this program did not make what is there: %w", err)
	}
	if err != nil {
		return err
	}
	if g.json {
		removed := append([]string{}, w.Removed...)
		return cli.JSON(g.Out, map[string]any{"event": "written", "dir": absolute(o.out), "format": o.format, "pages": w.Pages, "removed": removed})
	}
	if err := cli.Print(g.Out, "%d pages in %s\n", len(w.Pages), o.out); err != nil {
		return err
	}
	for _, name := range w.Removed {
		if err := cli.Print(g.Out, "removed: %s\n", name); err != nil {
			return err
		}
	}
	return nil
}
