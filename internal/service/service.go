// Package service runs issuers and registrars from their folders: for
// `provisioner run`, each in a process of its own, and for `nscsetup up`.
package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.yaml.in/yaml/v4"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/spool"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// ErrConfig: a configuration file or its folder cannot be used.
var ErrConfig = errors.New("invalid service configuration")

// Kinds of services.
const (
	Issuer    = "issuer"
	Registrar = "registrar"
)

// Config is one provisioner.yaml. Everything else that the service needs lies
// beside the file.
type Config struct {
	// Service is what to run: issuer or registrar.
	Service string `yaml:"service"`
	// Region is whose servers it connects to and for which it answers.
	Region ident.Region `yaml:"region"`
	// URLs are the servers to connect to; the default is the region's URLs in
	// the signed platform document.
	URLs []string `yaml:"urls"`
	// State is the folder for the service's sealed copy of the ledger; a relative one
	// is beside the file. The default is state. A service that cannot write there
	// works, and reads the ledger anew at each start.
	State string `yaml:"state"`
	// Pace is, for tests, in place of how long the replacement of a role key waits for clocks and
	// for issuers that were not heard of; 0 is what is safe.
	Pace time.Duration `yaml:"-"`
	// Now is, for tests, in place of the machine's clock; nil is that. Set it before Start.
	Now func() time.Time `yaml:"-"`

	path     string // of the file
	dir      string
	given    given
	operator *trust.Operator
	opener   ledger.Opener
	entry    ledger.Entry // the platform document of the folder
	platform *trust.Platform
}

// given is what a configuration says itself, without defaults.
type given struct {
	urls  []string
	state string
	// operator is the operator JWT of the folder.
	operator string
}

// Load reads a configuration and verifies the folder up to its operator.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- the file that the user named
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c := &Config{path: path, dir: filepath.Dir(path)}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrConfig, err)
	}
	if c.Service != Issuer && c.Service != Registrar {
		return nil, fmt.Errorf("%s: %w: service is %.20q; it must be issuer or registrar", path, ErrConfig, c.Service)
	}
	op, err := c.read(platform.OperatorFile)
	if err != nil {
		return nil, err
	}
	c.given = given{urls: c.URLs, state: c.State, operator: strings.TrimSpace(op)}
	if c.operator, err = trust.ParseOperator(op); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.dir, ErrConfig, err)
	}
	document, err := c.read(platform.FullFile)
	if err != nil {
		return nil, err
	}
	c.opener = ledger.Opener{Operator: c.operator, Now: c.now, Check: platform.CheckDocument}
	if c.entry, err = c.opener.Open(ledger.PlatformKey().String(), strings.TrimSpace(document)); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.dir, ErrConfig, err)
	}
	if d, ok := c.entry.Body.(*ledger.Document); ok {
		c.platform = d.Public
	}
	r, ok := c.platform.Region(c.Region)
	if !ok {
		return nil, fmt.Errorf("%s: %w: the platform has no region %q", path, ErrConfig, c.Region)
	}
	if len(c.URLs) == 0 {
		c.URLs = r.URLs
	}
	if c.State == "" {
		c.State = "state"
	}
	if !filepath.IsAbs(c.State) {
		c.State = filepath.Join(c.dir, c.State)
	}
	return c, nil
}

// now is what time it is, by the clock of the service's machine.
func (c *Config) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func (c *Config) read(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, name)) // #nosec G304 -- a fixed name beside the user's file
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w: %s is missing", c.dir, ErrConfig, name)
	}
	if err != nil {
		return "", fmt.Errorf("reading the service's folder: %w", err)
	}
	return string(data), nil
}

// Running is a service that answers.
type Running struct {
	Service string
	Region  ident.Region
	User    string // the service's own nkey
	Writer  string // the nkey by which it records what it does

	config *Config
	files  files

	mu       sync.Mutex // of these, and of files
	conns    []*nats.Conn
	refused  map[*dialed]string // subjects that a server refused
	draining bool

	doors    *doors
	reloads  reloads
	knows    *knowledge
	keeper   *keeper            // of a registrar
	records  *audit.Writer      // of what it does
	spool    *spool.Spool       // of its records; nil: there is none
	required atomic.Bool        // its records are
	issuing  *provision.Service // likewise
	handed   *handed            // of an issuer
	logins   *oidc.Method       // of who verifies tokens
	cancel   context.CancelFunc
	work     sync.WaitGroup
}

// Start connects and serves. When it returns, requests are answered. ctx bounds
// the start: until then a server that does not accept yet is tried again.
func (c *Config) Start(ctx context.Context, log *slog.Logger) (*Running, error) {
	log = log.With("service", c.Service, "region", c.Region.String())
	r := &Running{Service: c.Service, Region: c.Region, config: c, refused: map[*dialed]string{}}
	r.doors = &doors{drop: r.drop, log: log, again: make(chan struct{}, 1), renew: make(chan chan<- error)}
	start := c.startIssuer
	if c.Service == Registrar {
		start = c.startRegistrar
	}
	var run context.Context
	run, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	files, err := c.files()
	if err == nil {
		r.files, r.User = files, files.self.String()
		err = start(ctx, run, r, log)
	}
	if err != nil {
		r.close(ctx)
		return nil, fmt.Errorf("starting the %s of %s: %w", c.Service, c.Region, err)
	}
	log.Info("serving", "user", r.User)
	return r, nil
}

// retry is how soon a server that refused is tried again during the start.
const retry = 200 * time.Millisecond

func (c *Config) dial(ctx context.Context, r *Running, creds credential, what string, log *slog.Logger) (*nats.Conn, error) {
	d := &dialed{c.connection(what)}
	for {
		nc, err := natsconn.Dial(ctx, natsconn.Options{
			URLs: c.URLs, Name: d.name, Credential: creds.file,
			InboxPrefix: subject.ServiceInboxPrefix(creds.user), TLS: natsconn.TLSFiles(c.dir), Log: log,
			OnError:      func(_ *nats.Subscription, err error) { r.unsubscribed(d, err) },
			OnDisconnect: func(error) { r.disconnected(d) },
		})
		if err == nil {
			r.connected(nc)
			return nc, nil
		}
		// Servers that are just starting refuse, also for a moment after they
		// accept: an account may not have reached them.
		if wait.For(ctx, retry) != nil {
			return nil, err
		}
	}
}

// connection is the name of a connection, as servers show it.
func (c *Config) connection(what string) string {
	return c.Service + "-" + c.Region.String() + "-" + what
}

// Known is what a service knows of the ledger.
func (r *Running) Known() *ledger.Projection { return r.knows.projection }

// Follower is who keeps it up to date.
func (r *Running) Follower() *ledger.Follower { return r.knows.follower }

// Denials writes revocations and suspensions in a registrar's region; nil for an issuer.
func (r *Running) Denials() *registrar.Denials {
	if r.keeper == nil {
		return nil
	}
	return r.keeper.denials
}

// Holdings is which users an identity holds, as a registrar knows; nil for an issuer.
func (r *Running) Holdings() *ledger.Holdings {
	if r.keeper == nil {
		return nil
	}
	return r.keeper.records.Holdings
}

// Drain stops taking requests, answers those that were accepted, and closes.
func (r *Running) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	err := r.doors.close(ctx)
	r.close(ctx)
	return err
}

func (r *Running) close(ctx context.Context) {
	_ = r.doors.close(ctx) // done already, or the start failed, and its error is the one that is told
	r.cancel()
	r.work.Wait()
	if r.logins != nil {
		r.logins.Close()
	}
	if r.knows != nil {
		r.knows.close()
	}
	if r.spool != nil {
		_ = r.spool.Close() // each block in it was synced
	}
	r.mu.Lock()
	conns := r.conns
	r.conns, r.draining = nil, true
	r.mu.Unlock()
	for _, nc := range conns {
		natsconn.Close(ctx, nc)
	}
}
