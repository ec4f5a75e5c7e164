package nscsetup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/trust"
)

type initOptions struct {
	name    string
	regions []string
	home    string
	nodes   int
	port    int
	tls     bool
}

func newInit(g *globals) *cobra.Command {
	var o initOptions
	c := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Make a new platform",
		Long: `init makes a platform in DIR (default: a folder with the platform's name): the
operator and its signing keys, the accounts SYS, LEDGER, AUTH, GUEST and CHAT
with their roles, and a folder for each party:

  public/               all that a client needs
  issuers/<region>/     all that an issuer of the region needs
  registrars/<region>/  all that a registrar of the region needs
  operator/             every private key: keep it offline
  platform.yaml         the description; ports are chosen once and kept here

Seeds are 0600 in 0700 folders. A folder that holds anything is refused and not
changed.`,
		Example: `  nscsetup init
  nscsetup init --tls && nscsetup --dir herald up --tls
  nscsetup init acme --name acme --region ams --region sfo --region sgp --home sfo`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runInit(cmd, g, o, args) },
	}
	f := c.Flags()
	f.StringVar(&o.name, "name", "herald", "the platform's `name`")
	f.StringSliceVar(&o.regions, "region", []string{"ams", "sfo", "sgp"}, "a `region`; repeat it for each")
	f.StringVar(&o.home, "home", "", "the `region` that decides names (default: the first)")
	f.IntVar(&o.nodes, "nodes", 3, "servers in each region, 3 or more")
	f.BoolVar(&o.tls, "tls", false, "encrypt clients, routes and gateways, with certificate authorities of its own")
	f.IntVar(&o.port, "port", 0, "first of a block of ports (default: a block that is free now)")
	return c
}

func (o initOptions) spec() (platform.Spec, error) {
	s := platform.Spec{Nodes: o.nodes, Port: o.port}
	var err error
	if s.Name, err = ident.ParseName(o.name); err != nil {
		return s, fmt.Errorf("--name: %w", err)
	}
	for _, r := range o.regions {
		region, err := ident.ParseRegion(r)
		if err != nil {
			return s, fmt.Errorf("--region: %w", err)
		}
		for _, have := range s.Regions {
			if have == region {
				return s, cli.Errorf(cli.Usage, "name each region once", "--region %s is there twice", region)
			}
		}
		s.Regions = append(s.Regions, region)
	}
	if len(s.Regions) == 0 {
		return s, cli.Errorf(cli.Usage, "name at least one, such as --region ams", "--region is empty")
	}
	s.Home = s.Regions[0]
	if o.home != "" {
		if s.Home, err = ident.ParseRegion(o.home); err != nil {
			return s, fmt.Errorf("--home: %w", err)
		}
	}
	known := false
	for _, r := range s.Regions {
		known = known || r == s.Home
	}
	const mostNodes, mostRegions = 9, 16
	switch {
	case !known:
		return s, cli.Errorf(cli.Usage, "home must be one of the regions: "+strings.Join(o.regions, ", "), "--home %s is no region of this platform", s.Home)
	case o.nodes < platform.MinNodes || o.nodes > mostNodes:
		return s, cli.Errorf(cli.Usage, "the ledger keeps three replicas in home, so choose 3 to 9", "--nodes %d cannot be", o.nodes)
	case len(s.Regions) > mostRegions:
		return s, cli.Errorf(cli.Usage, "choose at most 16", "%d regions cannot be", len(s.Regions))
	case o.port < 0 || o.port+s.Ports() > 65536:
		return s, cli.Errorf(cli.Usage, fmt.Sprintf("this platform needs %d ports; choose the first between 1024 and %d", s.Ports(), 65536-s.Ports()), "--port %d cannot be", o.port)
	}
	return s, nil
}

func runInit(cmd *cobra.Command, g *globals, o initOptions, args []string) error {
	s, err := o.spec()
	if err != nil {
		return err
	}
	dir := filepath.Join(g.dir, o.name)
	if len(args) == 1 {
		dir = args[0]
	} else if cmd.Flags().Changed("dir") {
		dir = g.dir
	}
	create := platform.Init
	if o.tls {
		create = platform.InitTLS
	}
	p, err := create(cmd.Context(), dir, s, time.Now())
	if err != nil {
		// In a folder that cannot be written the machine is not at fault, but
		// the cause is told by the operating system either way.
		return err
	}
	if g.json {
		return cli.JSON(g.Out, describe(p, dir))
	}
	return g.printInit(p, dir)
}

func (g *globals) printInit(p *platform.Platform, dir string) error {
	rows := [][]string{{"ACCOUNT", "KEY", "ROLES"}}
	for _, a := range p.Document.Accounts {
		var roles []string
		for _, r := range a.Roles {
			roles = append(roles, r.Name.String())
		}
		rows = append(rows, []string{a.Name.String(), a.Key.String(), strings.Join(roles, ", ")})
	}
	var regions []string
	for _, r := range p.Document.Regions {
		regions = append(regions, r.Name.String())
	}
	return errors.Join(
		cli.Print(g.Out, "platform %s in %s\noperator %s\nregions  %s (home: %s)\n\n",
			p.Document.Name, dir, p.Operator.Key(), strings.Join(regions, ", "), p.Document.Home),
		cli.Table(g.Out, rows),
		cli.Print(g.Err, "\n%s holds every private key: keep it offline, and back it up.\nNext: cd %s && nscsetup up\n",
			p.Dir.Operator(), dir),
	)
}

// initReport is what `init --json` says: public keys and paths, no secret.
type initReport struct {
	Platform string          `json:"platform"`
	Dir      string          `json:"dir"`
	Operator string          `json:"operator"`
	Home     ident.Region    `json:"home"`
	Regions  []trust.Region  `json:"regions"`
	Accounts []trust.Account `json:"accounts"`
	Folders  []string        `json:"folders"`
}

func describe(p *platform.Platform, dir string) initReport {
	r := initReport{
		Platform: p.Document.Name, Dir: absolute(dir), Operator: p.Operator.Key(), Home: p.Document.Home,
		Regions: p.Document.Regions, Accounts: p.Document.Accounts,
		Folders: []string{p.Dir.Public(), p.Dir.Operator()},
	}
	for _, region := range p.Document.Regions {
		r.Folders = append(r.Folders, p.Dir.Issuer(region.Name), p.Dir.Registrar(region.Name))
	}
	return r
}
