// Package provisioner is the program that runs a platform's services: an
// issuer, a registrar, or several of them in one process.
package provisioner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/metrics"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/trust"
)

type options struct {
	configs []string
	metrics string
	wait    time.Duration
	drain   time.Duration
	level   slog.Level
	check   bool
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
then drains: a request that was accepted is answered, for as long as --drain says.
A second signal ends it at once. It logs to stderr as JSON and prints one ready
line for each service to stdout.

On SIGHUP it reads all configuration files and their folders again. If all are
good, it goes on with new role keys, accounts, credentials and a newer platform
document, and loses no request; if anything is wrong, or needs a restart, nothing
changes, and the log says what and where.

With --check it starts nothing: it verifies all that can be without a server, and
prints the configuration in force.

With --metrics it serves metrics of all these services for Prometheus, /healthz
and /readyz, and prints where. They hold no name, key or secret, but whoever
reaches the address reads them: give one that only your own machines reach.`,
		Example: `  provisioner run --config issuers/ams/provisioner.yaml
  provisioner run --config issuers/ams/provisioner.yaml --config registrars/ams/provisioner.yaml
  provisioner run --config issuers/ams/provisioner.yaml --metrics 127.0.0.1:9464
  provisioner run --config issuers/ams/provisioner.yaml --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runServices(cmd.Context(), stdio, o) },
	}
	f := run.Flags()
	f.StringArrayVar(&o.configs, "config", nil, "a provisioner.yaml; repeat it to run several `file`s' services")
	f.StringVar(&o.metrics, "metrics", "", "serve metrics for Prometheus at `HOST:PORT`; port 0 is any that is free (default none)")
	f.DurationVar(&o.wait, "wait", 15*time.Second, "how long to wait for servers at the start")
	f.DurationVar(&o.drain, "drain", 10*time.Second, "how long requests that were accepted may take at the end")
	f.TextVar(&o.level, "log-level", slog.LevelInfo, "the least `level` that is logged: debug, info, warn or error")
	f.BoolVar(&o.check, "check", false, "verify the configuration, print it, and start nothing")
	f.BoolVar(&o.json, "json", false, "write JSON to stdout")
	root.AddCommand(run)
	return cli.Run(ctx, root, stdio, args, rules())
}

func rules() []cli.Rule {
	return []cli.Rule{
		{Is: service.ErrRestart, Code: cli.Config, Hint: "undo it, or restart the program: it drains, and others of its region, or other regions, answer meanwhile"},
		{Is: service.ErrConfig, Code: cli.Config, Hint: "use a folder that 'nscsetup init' made for this service and region, whole"},
		{Is: platform.ErrNotPlatform, Code: cli.Config, Hint: "use a folder that 'nscsetup init' made for this service and region, whole"},
		{Is: trust.ErrExpired, Code: cli.Refused, Hint: "have the operator renew the service's credential: 'nscsetup up' does it at its start"},
		{Is: trust.ErrUntrusted, Code: cli.Config, Hint: "the folder holds parts of another platform: take it anew from the operator"},
		{Is: keystore.ErrExposed, Code: cli.Config, Hint: "make it yours alone with chmod 600, and replace the key if others could have read it"},
		{Is: keystore.ErrKind, Code: cli.Config, Hint: "take the folder anew from the operator"},
		{Is: certs.ErrInvalid, Code: cli.Config, Hint: "put a good one there, of 'nscsetup tls' or of your own authority, or take the file away"},
		{Is: certs.ErrExpired, Code: cli.Config, Hint: "put a new one there, of 'nscsetup tls' or of your own authority, or take the file away"},
		{Is: ident.ErrInvalid, Code: cli.Config, Hint: "correct the configuration file"},
		{Is: os.ErrPermission, Code: cli.Config, Hint: "run it as the user who owns the folder of the configuration file"},
	}
}

// hint is what a person would be told about an error.
func hint(err error) string {
	for _, r := range rules() {
		if errors.Is(err, r.Is) {
			return r.Hint
		}
	}
	return "correct it and send SIGHUP again; until then the service goes on with what it has"
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
	if o.check {
		return check(stdio, o, configs)
	}
	log := slog.New(slog.NewJSONHandler(stdio.Err, &slog.HandlerOptions{Level: o.level}))
	// From here on: SIGHUP would end the process before it is ready.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
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
		serve(ctx, hangups, running, log)
		log.Info("draining", "within", o.drain.String())
	}
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.drain)
	defer cancel()
	err = errors.Join(err, drain(dctx, running))
	if shown != nil {
		shown.Close(dctx)
	}
	if err == nil && o.json {
		return cli.JSON(stdio.Out, map[string]any{"event": "stopped"})
	}
	return err
}

// serve waits for the end, and reads the configuration again whenever it is told to.
func serve(ctx context.Context, hangups <-chan os.Signal, running []*service.Running, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			reload(ctx, running, log)
		}
	}
}

// drain ends issuers before registrars: what they took may have to be decided in home, by
// one that runs beside them.
func drain(ctx context.Context, running []*service.Running) error {
	var errs []error
	for _, kind := range []string{service.Issuer, service.Registrar} {
		for _, r := range running {
			if r.Service != kind {
				continue
			}
			if err := r.Drain(ctx); err != nil {
				errs = append(errs, fmt.Errorf("draining the %s of %s: %w", r.Service, r.Region, err))
			}
		}
	}
	return errors.Join(errs...)
}

// listen serves metrics, if it was asked for, and says where; nil if it was not.
func listen(ctx context.Context, stdio cli.IO, o options, configs []*service.Config, log *slog.Logger) (*metrics.Server, error) {
	if o.metrics == "" {
		return nil, nil //nolint:nilnil // nothing is served, and nothing is wrong
	}
	if err := distinct(o, configs); err != nil {
		return nil, err
	}
	var expected []metrics.Named
	for _, c := range configs {
		expected = append(expected, metrics.Named{Service: c.Service, Region: c.Region})
	}
	s, err := metrics.Listen(ctx, o.metrics, log, time.Now, expected...)
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

// distinct refuses two services whose metrics nothing would tell apart.
func distinct(o options, configs []*service.Config) error {
	if o.metrics == "" {
		return nil
	}
	for i, c := range configs {
		if slices.ContainsFunc(configs[:i], func(d *service.Config) bool { return d.Service == c.Service && d.Region == c.Region }) {
			return cli.Errorf(cli.Usage, "run the second one in a process of its own, with metrics at another port",
				"two services are the %s of %s: their metrics could not be told apart", c.Service, c.Region)
		}
	}
	return nil
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
