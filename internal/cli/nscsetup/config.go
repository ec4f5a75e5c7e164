package nscsetup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/certs/certdir"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

func newConfig(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Configuration of the nats-servers",
		Long: `config makes what nats-servers read from platform.yaml: 'nscsetup up' starts its own
servers from the same files.`,
		Example: `  nscsetup config render --out conf`,
		Args:    cobra.NoArgs,
		RunE:    help,
	}
	c.AddCommand(newConfigRender(g))
	return c
}

type renderOptions struct {
	out     string
	regions []string
	yes     bool
}

func newConfigRender(g *globals) *cobra.Command {
	var o renderOptions
	c := &cobra.Command{
		Use:   "render --out DIR",
		Short: "Write the complete configuration of every server",
		Long: `render writes what each nats-server of the platform needs, from platform.yaml:

  DIR/<region>/<node>/nats-server.conf   complete; there is no secret in it
  DIR/<region>/<node>/tls/               its certificates and keys, if TLS is on and
                                         they are in the platform folder

Bring a node's folder to servers.config_dir of its machine and run
'nats-server -c nats-server.conf' there. 'nscsetup up' starts its servers from the
same text.

Rendering again writes what has changed, and nothing where nothing has. A file that is
there and different is replaced only after a question; --yes answers it. What is no
file of this platform's is left alone.

Exit codes: 0 it is there as it should be; 4 something else is there, and nothing was
changed; 7 the folder cannot be written.`,
		Example: `  nscsetup config render --out conf
  nscsetup config render --region ams --out conf
  nscsetup config render --out conf --yes --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRender(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.out, "out", "", "the `folder` to write to")
	f.StringSliceVar(&o.regions, "region", nil, "only this `region`; repeat it for several (default: all)")
	f.BoolVar(&o.yes, "yes", false, "replace files that are different without asking")
	// Neither fails: both flags are there.
	_ = c.RegisterFlagCompletionFunc("region", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		p, err := g.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return strings.Split(join(regionsOf(p)), ", "), cobra.ShellCompDirectiveNoFileComp
	})
	_ = c.MarkFlagDirname("out")
	return c
}

func runRender(ctx context.Context, g *globals, o renderOptions) error {
	if o.out == "" {
		return cli.Errorf(cli.Usage, "name a folder, such as --out conf", "--out is missing")
	}
	p, err := g.open()
	if err != nil {
		return err
	}
	only := make([]ident.Region, len(o.regions))
	for i, name := range o.regions {
		if only[i], err = known(p, name); err != nil {
			return err
		}
	}
	in, err := up.ServerInput(p, time.Now())
	if err != nil {
		return err
	}
	nodes, err := renderNodes(p.Dir, p.File, in, only)
	if err != nil {
		return err
	}
	different, err := compare(nodes, o.out)
	if err != nil {
		return err
	}
	if len(different) > 0 && !o.yes {
		if err := g.mayReplace(o.out, different); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		for _, f := range n.files {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f.write(o.out); err != nil {
				return fmt.Errorf("writing the configuration of node %s: %w", n.node, err)
			}
		}
	}
	return g.printRendered(p, nodes, o.out)
}

// mayReplace asks whether files that are different may be replaced.
func (g *globals) mayReplace(out string, different []string) error {
	if !cli.Terminal(g.In) || !cli.Terminal(g.Err) {
		return cli.Errorf(cli.Exists, "look at them, then replace them with --yes, or choose another folder; nothing was changed",
			"%d files in %s are there and different: %s", len(different), out, strings.Join(different, ", "))
	}
	show := func() error {
		return cli.Print(g.Err, "These files in %s are different:\n  %s\n", out, strings.Join(different, "\n  "))
	}
	return g.ask(show, "replace them?")
}

// renderedNode is all that one server needs.
type renderedNode struct {
	region  ident.Region
	node    ident.Name
	files   []*renderedFile
	missing []string // certificates that the configuration names and the platform folder does not have
}

// States of a file after render.
const (
	stateWritten   = "written"
	stateReplaced  = "replaced"
	stateUnchanged = "unchanged"
)

type renderedFile struct {
	path   string // in the folder that is written to
	data   []byte
	secret bool
	state  string
}

// renderNodes gives the files of every node of the regions; of all if there is none.
func renderNodes(dir platform.Dir, f *manifest.File, in serverconf.Input, only []ident.Region) ([]*renderedNode, error) {
	all, err := serverconf.All(f, in)
	if err != nil {
		return nil, cli.Errorf(cli.Config, "correct platform.yaml where it is named", "%w", err)
	}
	var nodes []*renderedNode
	for _, c := range all {
		if len(only) > 0 && !slices.Contains(only, c.Region) {
			continue
		}
		path := filepath.FromSlash(c.Path())
		n := &renderedNode{region: c.Region, node: c.Node, files: []*renderedFile{{path: path, data: c.Text}}}
		r, _ := f.Region(c.Region)
		i := slices.IndexFunc(r.Nodes, func(m manifest.Node) bool { return m.Name == c.Node })
		certificates, missing, err := dir.TLSFiles(f, c.Region, r.Nodes[i])
		if errors.Is(err, certs.ErrInvalid) || errors.Is(err, certdir.ErrBroken) {
			return nil, cli.Errorf(cli.Config, "issue it again, or put back the files that belong together: no server could start with these", "%w", err)
		}
		if err != nil {
			return nil, err
		}
		for _, t := range certificates {
			n.files = append(n.files, &renderedFile{path: filepath.Join(filepath.Dir(path), serverconf.TLSFolder, t.Name), data: t.Data, secret: t.Secret})
		}
		n.missing = missing
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// compare finds what is there already, and names what is different.
func compare(nodes []*renderedNode, out string) (different []string, err error) {
	for _, n := range nodes {
		for _, f := range n.files {
			old, err := os.ReadFile(filepath.Join(out, f.path)) // #nosec G304 -- below the folder that the user names
			switch {
			case errors.Is(err, fs.ErrNotExist):
				f.state = stateWritten
			case err != nil:
				return nil, fmt.Errorf("looking at what is there: %w", err)
			case bytes.Equal(old, f.data):
				f.state = stateUnchanged
			default:
				f.state = stateReplaced
				different = append(different, f.path)
			}
		}
	}
	return different, nil
}

// write puts the file in place, whole or not at all.
func (f *renderedFile) write(out string) error {
	if f.state == stateUnchanged {
		return nil
	}
	path := filepath.Join(out, f.path)
	dir := filepath.Dir(path)
	// Whoever runs the server reads it; keys are for its owner alone.
	folder, file := os.FileMode(0o755), os.FileMode(0o644)
	if f.secret {
		file = 0o600
	}
	if filepath.Base(dir) == serverconf.TLSFolder {
		if err := os.MkdirAll(filepath.Dir(dir), folder); err != nil {
			return err
		}
		folder = 0o700
	}
	if err := os.MkdirAll(dir, folder); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // made 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(f.data)
	if err == nil {
		err = tmp.Chmod(file)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// renderReport is what `config render --json` says.
type renderReport struct {
	Dir   string         `json:"dir"`
	Nodes []reportedNode `json:"nodes"`
}

type reportedNode struct {
	Region  string         `json:"region"`
	Node    string         `json:"node"`
	Files   []reportedFile `json:"files"`
	Missing []string       `json:"missing"` // certificates that are not in the platform folder
}

type reportedFile struct {
	Path  string `json:"path"`
	State string `json:"state"`
}

func (g *globals) printRendered(p *platform.Platform, nodes []*renderedNode, out string) error {
	rep := renderReport{Dir: absolute(out), Nodes: []reportedNode{}}
	rows := [][]string{{"REGION", "NODE", "FOLDER", "FILES"}}
	missing := map[string]bool{}
	for _, n := range nodes {
		rn := reportedNode{Region: n.region.String(), Node: n.node.String(), Files: []reportedFile{}, Missing: append([]string{}, n.missing...)}
		count := map[string]int{}
		for _, f := range n.files {
			rn.Files = append(rn.Files, reportedFile{filepath.ToSlash(f.path), f.state})
			count[f.state]++
		}
		rep.Nodes = append(rep.Nodes, rn)
		var states []string
		for _, s := range []string{stateWritten, stateReplaced, stateUnchanged} {
			if count[s] > 0 {
				states = append(states, fmt.Sprintf("%d %s", count[s], s))
			}
		}
		rows = append(rows, []string{rn.Region, rn.Node, filepath.Join(out, rn.Region, rn.Node), strings.Join(states, ", ")})
		for _, m := range n.missing {
			missing[m] = true
		}
	}
	if g.json {
		return cli.JSON(g.Out, rep)
	}
	to := cmp.Or(p.File.Servers.ConfigDir, manifest.DefaultConfigDir)
	errs := []error{cli.Table(g.Out, rows)}
	if len(missing) > 0 {
		names := make([]string, 0, len(missing))
		for m := range missing {
			names = append(names, m)
		}
		slices.Sort(names)
		errs = append(errs, cli.Print(g.Err, "TLS is on, and not all certificates are in the platform folder: put those of each node\ninto the folder tls beside its configuration. They are %s.\n", strings.Join(names, ", ")))
	}
	errs = append(errs, cli.Print(g.Err, "Next: bring each node's folder to %s of its machine, and run there\n  nats-server -c %s/%s\n", to, to, serverconf.FileName))
	return errors.Join(errs...)
}
