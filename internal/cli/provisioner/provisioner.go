// Package provisioner is the program that runs a platform's services: an
// issuer, a registrar, or several of them in one process.
package provisioner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/metrics"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/trust"
)

// drainWait bounds the end: requests that were accepted are answered in it.
const drainWait = 10 * time.Second

type options struct {
	configs []string
	metrics string
	wait    time.Duration
	json    bool
}

// Run executes one provisioner command and gives the exit code.
func Run(ctx context.Context, stdio cli.IO, args []string) int {
	root := &cobra.Command{
		Use:   "provisioner",
		Short: "Run the services of a Herald platform",
		Long: `provisioner runs issuers and registrars. Each reads one folder that 'nscsetup
init' made, and shares nothing with the others but NATS.

Exit codes are the same for all of Herald's programs: 0 done, 1 failed, 2 usage,
3 partly done, 4 exists, 5 unavailable, 6 refused, 7 this machine, 8 folder or
file, 130 interrupted.`,
		Args: cobra.NoArgs,
		// Without it cobra shows the help for a mistyped command as well, and
		// calls that a success.
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var o options
	run := &cobra.Command{
		Use:   "run --config FILE [--config FILE …]",
		Short: "Run one or more services until SIGTERM or Ctrl-C",
		Long: `run runs the services of the configuration files until SIGTERM or Ctrl-C, and
then drains: a request that was accepted is answered. It logs to stderr as JSON
and prints one ready line for each service to stdout.

With --metrics it serves metrics of all these services for Prometheus, and prints
where. They hold no name, key or secret, but whoever reaches the address reads
them: give one that only your own machines reach.`,
		Example: `  provisioner run --config issuers/ams/provisioner.yaml
  provisioner run --config issuers/ams/provisioner.yaml --config registrars/ams/provisioner.yaml
  provisioner run --config issuers/ams/provisioner.yaml --metrics 127.0.0.1:9464`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runServices(cmd.Context(), stdio, o) },
	}
	f := run.Flags()
	f.StringArrayVar(&o.configs, "config", nil, "a provisioner.yaml; repeat it to run several `file`s' services")
	f.StringVar(&o.metrics, "metrics", "", "serve metrics for Prometheus at `HOST:PORT`; port 0 is any that is free (default none)")
	f.DurationVar(&o.wait, "wait", 15*time.Second, "how long to wait for servers at the start")
	f.BoolVar(&o.json, "json", false, "write JSON to stdout")
	root.AddCommand(run)
	return cli.Run(ctx, root, stdio, args, rules())
}

func rules() []cli.Rule {
	return []cli.Rule{
		{Is: service.ErrConfig, Code: cli.Config, Hint: "use a folder that 'nscsetup init' made for this service and region, whole"},
		{Is: platform.ErrNotPlatform, Code: cli.Config, Hint: "use a folder that 'nscsetup init' made for this service and region, whole"},
		{Is: trust.ErrExpired, Code: cli.Refused, Hint: "have the operator renew the service's credential: 'nscsetup up' does it at its start"},
		{Is: trust.ErrUntrusted, Code: cli.Config, Hint: "the folder holds parts of another platform: take it anew from the operator"},
		{Is: keystore.ErrExposed, Code: cli.Config, Hint: "make it yours alone with chmod 600, and replace the key if others could have read it"},
		{Is: keystore.ErrKind, Code: cli.Config, Hint: "take the folder anew from the operator"},
		{Is: ident.ErrInvalid, Code: cli.Config, Hint: "correct the configuration file"},
		{Is: os.ErrPermission, Code: cli.Config, Hint: "run it as the user who owns the folder of the configuration file"},
	}
}

func runServices(ctx context.Context, stdio cli.IO, o options) error {
	if len(o.configs) == 0 {
		return cli.Errorf(cli.Usage, "name it with --config issuers/<region>/provisioner.yaml", "there is no configuration file")
	}
	// All are read before the first starts.
	var configs []*service.Config
	for _, path := range o.configs {
		c, err := service.Load(path)
		if err != nil {
			return err
		}
		configs = append(configs, c)
	}
	log := slog.New(slog.NewJSONHandler(stdio.Err, nil))
	shown, err := listen(ctx, stdio, o, configs, log)
	if err != nil {
		return err
	}
	var running []*service.Running
	for _, c := range configs {
		var r *service.Running
		if r, err = start(ctx, c, o, log); err != nil {
			break
		}
		running = append(running, r)
		if shown != nil {
			shown.Add(r.Stats)
		}
		if err = ready(stdio, o, r); err != nil {
			break
		}
	}
	if err == nil {
		<-ctx.Done()
		log.Info("draining")
	}
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWait)
	defer cancel()
	for _, r := range running {
		if derr := r.Drain(dctx); derr != nil {
			err = errors.Join(err, fmt.Errorf("draining the %s of %s: %w", r.Service, r.Region, derr))
		}
	}
	if shown != nil {
		shown.Close(dctx)
	}
	if err == nil && o.json {
		return cli.JSON(stdio.Out, map[string]any{"event": "stopped"})
	}
	return err
}

// listen serves metrics, if it was asked for, and says where; nil if it was not.
func listen(ctx context.Context, stdio cli.IO, o options, configs []*service.Config, log *slog.Logger) (*metrics.Server, error) {
	if o.metrics == "" {
		return nil, nil //nolint:nilnil // nothing is served, and nothing is wrong
	}
	for i, c := range configs {
		if slices.ContainsFunc(configs[:i], func(d *service.Config) bool { return d.Service == c.Service && d.Region == c.Region }) {
			return nil, cli.Errorf(cli.Usage, "run the second one in a process of its own, with metrics at another port",
				"two services are the %s of %s: their metrics could not be told apart", c.Service, c.Region)
		}
	}
	s, err := metrics.Listen(ctx, o.metrics, log, time.Now)
	switch {
	case errors.Is(err, metrics.ErrAddress):
		return nil, cli.Errorf(cli.Usage, "name the address and the port, as in --metrics 127.0.0.1:9464", "--metrics: %w", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, cli.Errorf(cli.Resource, "another program listens there: end it, or choose another port with --metrics", "%w", err)
	case err != nil && ctx.Err() == nil:
		return nil, cli.Errorf(cli.Resource, "choose an address of this machine, and a port that you may use, with --metrics", "%w", err)
	case err != nil:
		return nil, err
	}
	if o.json {
		err = cli.JSON(stdio.Out, map[string]any{"event": "metrics", "url": s.URL()})
	} else {
		err = cli.Print(stdio.Out, "metrics: %s\n", s.URL())
	}
	if err != nil {
		s.Close(ctx)
		return nil, err
	}
	return s, nil
}

func start(ctx context.Context, c *service.Config, o options, log *slog.Logger) (*service.Running, error) {
	sctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	r, err := c.Start(sctx, log)
	if err != nil && ctx.Err() != nil {
		// What the connection says of it is no cause of its own.
		return nil, fmt.Errorf("starting the %s of %s: %w", c.Service, c.Region, ctx.Err())
	}
	if err != nil && sctx.Err() != nil {
		return nil, cli.Errorf(cli.Unavailable, "is the platform up? try 'nscsetup up --services none' in another terminal", "no server accepted within %s: %w", o.wait, err)
	}
	return r, err
}

func ready(stdio cli.IO, o options, r *service.Running) error {
	if o.json {
		return cli.JSON(stdio.Out, map[string]any{"event": "ready", "service": r.Service, "region": r.Region, "user": r.User})
	}
	return cli.Print(stdio.Out, "ready: %s in %s\n", r.Service, r.Region)
}
