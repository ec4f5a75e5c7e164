package nscsetup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/pkg/platform"
)

const (
	startWait = 60 * time.Second // for servers, accounts and services
	stopWait  = 5 * time.Second  // Ctrl-C stops everything within this
	renewWait = time.Hour        // how often service credentials are looked at
)

type upOptions struct {
	nodes    int
	wan      bool
	services string
	log      string
	tls      bool
}

func newUp(g *globals) *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up [DIR]",
		Short: "Run the whole platform on this machine",
		Long: `up runs the platform in this process until Ctrl-C: every region with its servers
(real nats-servers, JetStream on, gateways meshed), every account on every
server, and an issuer and a registrar in each region. It prints its ready line
when all servers hold all accounts and the services answer. What the servers
store survives a restart.

The links between regions can be slowed to real round trips (--wan) and cut:
see 'nscsetup link' and 'nscsetup region'.`,
		Example: `  nscsetup up
  nscsetup up --wan
  nscsetup up --tls               # after 'nscsetup init --tls'
  nscsetup up --services none     # and run 'provisioner run' yourself`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				g.dir = args[0]
			}
			return runUp(cmd.Context(), g, o)
		},
	}
	f := c.Flags()
	f.IntVar(&o.nodes, "nodes", 0, "run only the first `n` servers of each region, 3 or more (default: all)")
	f.BoolVar(&o.wan, "wan", false, "slow the links between regions to real round trips")
	f.StringVar(&o.services, "services", "all", "all, or none to run them as processes of your own")
	f.BoolVar(&o.tls, "tls", false, "only with TLS for clients, routes and gateways (as platform.yaml has it)")
	f.StringVar(&o.log, "log", "", "the log `file` (default: data/up.log in the platform folder)")
	return c
}

func runUp(ctx context.Context, g *globals, o upOptions) error {
	if o.services != "all" && o.services != "none" {
		return cli.Errorf(cli.Usage, "it is all or none", "--services %q cannot be", o.services)
	}
	p, err := g.open()
	if err != nil {
		return err
	}
	if o.tls {
		if err := insistTLS(p); err != nil {
			return err
		}
	}
	for _, r := range p.File.Regions {
		if o.nodes != 0 && (o.nodes < platform.MinNodes || o.nodes > len(r.Nodes)) {
			return cli.Errorf(cli.Usage, "a platform with more servers is made with 'nscsetup init --nodes'",
				"--nodes %d cannot be: region %s has %d servers, and at least %d are needed", o.nodes, r.Name, len(r.Nodes), platform.MinNodes)
		}
	}
	if o.log == "" {
		o.log = filepath.Join(p.Dir.Data(), "up.log")
	}
	if err := os.MkdirAll(filepath.Dir(o.log), 0o700); err != nil {
		return fmt.Errorf("making the folder of the log: %w", err)
	}
	log, err := os.OpenFile(o.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return cli.Errorf(cli.Resource, "choose a file that you may write with --log", "opening the log: %w", err)
	}
	defer func() { _ = log.Close() }() // its lines were written one by one
	sctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	u, err := up.Start(sctx, up.Config{Dir: g.dir, Nodes: o.nodes, WAN: o.wan, Services: o.services == "all", Log: log})
	if err != nil {
		if ctx.Err() != nil {
			// What a server or a connection says of it is no cause of its own.
			return errors.Join(ctx.Err(), err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return cli.Errorf(cli.Unavailable, "see "+o.log, "%w", err)
		}
		return err
	}
	stopControl, err := u.Control(ctx)
	if err == nil {
		err = g.printReady(u, o)
	}
	if err == nil {
		keepServices(ctx, u)
	}
	if stopControl != nil {
		err = errors.Join(err, stopControl())
	}
	began := time.Now()
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
	defer cancel()
	if err = errors.Join(err, u.Close(cctx)); err != nil {
		return fmt.Errorf("stopping the platform: %w", err)
	}
	if g.json {
		return cli.JSON(g.Out, map[string]any{"event": "stopped", "took_ms": time.Since(began).Milliseconds()})
	}
	return cli.Print(g.Out, "stopped\n")
}

// keepServices waits for the end, renewing the services' credentials.
func keepServices(ctx context.Context, u *up.Up) {
	t := time.NewTicker(renewWait)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			u.RenewServices()
		}
	}
}

type readyRegion struct {
	Region   string   `json:"region"`
	Home     bool     `json:"home"`
	URLs     []string `json:"urls"`
	Services []string `json:"services"`
}

type readyReport struct {
	Event    string        `json:"event"`
	Dir      string        `json:"dir"`
	Servers  int           `json:"servers"`
	Accounts int           `json:"accounts"`
	TookMS   int64         `json:"took_ms"`
	Regions  []readyRegion `json:"regions"`
	Log      string        `json:"log"`
}

func (g *globals) printReady(u *up.Up, o upOptions) error {
	r := readyReport{
		Event: "ready", Dir: absolute(g.dir), Servers: len(u.Cluster.Servers()), Accounts: len(u.Platform.Held()),
		TookMS: u.Took.Milliseconds(), Log: o.log,
	}
	for _, region := range u.Platform.File.Regions {
		rr := readyRegion{
			Region: region.Name.String(), Home: region.Name == u.Platform.File.Home,
			URLs: u.Cluster.URLs(region.Name), Services: []string{},
		}
		for _, s := range u.Running() {
			if s.Region == region.Name {
				rr.Services = append(rr.Services, s.Service)
			}
		}
		r.Regions = append(r.Regions, rr)
	}
	if g.json {
		return cli.JSON(g.Out, r)
	}
	rows := [][]string{{"REGION", "CLIENTS", "SERVICES"}}
	for _, rr := range r.Regions {
		name := rr.Region
		if rr.Home {
			name += " (home)"
		}
		services := strings.Join(rr.Services, ", ")
		if services == "" {
			services = "none here"
		}
		rows = append(rows, []string{name, strings.Join(rr.URLs, " "), services})
	}
	return errors.Join(
		cli.Table(g.Out, rows),
		cli.Print(g.Out, "ready: %s servers, %d accounts on each, in %.1f s\n", strconv.Itoa(r.Servers), r.Accounts, u.Took.Seconds()),
		cli.Print(g.Err, "Log: %s\nChat: chat --platform %s --name YOU\nCtrl-C stops everything.\n", o.log, u.Platform.Dir.Public()),
	)
}
