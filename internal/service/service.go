// Package service runs issuers and registrars from their folders: for
// `provisioner run`, each in a process of its own, and for `nscsetup up`.
package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/policy"
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

	dir      string
	operator *trust.Operator
	document string
	platform *trust.Platform
}

// Load reads a configuration and verifies the folder up to its operator.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- the file that the user named
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c := &Config{dir: filepath.Dir(path)}
	if err := yaml.UnmarshalWithOptions(data, c, yaml.DisallowUnknownField()); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", path, ErrConfig, strings.TrimSpace(yaml.FormatError(err, false, false)))
	}
	if c.Service != Issuer && c.Service != Registrar {
		return nil, fmt.Errorf("%s: %w: service is %.20q; it must be issuer or registrar", path, ErrConfig, c.Service)
	}
	op, err := c.read(platform.OperatorFile)
	if err != nil {
		return nil, err
	}
	if c.operator, err = trust.ParseOperator(op); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.dir, ErrConfig, err)
	}
	if c.document, err = c.read(platform.DocumentFile); err != nil {
		return nil, err
	}
	c.document = strings.TrimSpace(c.document)
	if c.platform, err = c.operator.OpenPlatform(c.document); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.dir, ErrConfig, err)
	}
	r, ok := c.platform.Region(c.Region)
	if !ok {
		return nil, fmt.Errorf("%s: %w: the platform has no region %q", path, ErrConfig, c.Region)
	}
	if len(c.URLs) == 0 {
		c.URLs = r.URLs
	}
	return c, nil
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

	servers []*endpoint.Server
	conns   []*nats.Conn
	cancel  context.CancelFunc
	work    sync.WaitGroup
}

// Start connects and serves. When it returns, requests are answered. ctx bounds
// the start: until then a server that does not accept yet is tried again.
func (c *Config) Start(ctx context.Context, log *slog.Logger) (*Running, error) {
	log = log.With("service", c.Service, "region", c.Region.String())
	r := &Running{Service: c.Service, Region: c.Region, cancel: func() {}}
	start := c.startIssuer
	if c.Service == Registrar {
		start = c.startRegistrar
	}
	if err := start(ctx, r, log); err != nil {
		r.close(ctx)
		return nil, fmt.Errorf("starting the %s of %s: %w", c.Service, c.Region, err)
	}
	log.Info("serving", "user", r.User)
	return r, nil
}

func (c *Config) startIssuer(ctx context.Context, r *Running, log *slog.Logger) error {
	seal, err := keystore.Load(filepath.Join(c.dir, platform.SealKeyFile), keystore.Curve)
	if err != nil {
		return fmt.Errorf("the region key: %w", err)
	}
	if r, _ := c.platform.Region(c.Region); r.SealKey.String() != seal.Public() {
		return fmt.Errorf("%s: %w: its region key is %s; the platform document says %s", c.dir, ErrConfig, seal.Public(), r.SealKey)
	}
	keys, pol, members, err := c.roles()
	if err != nil {
		return err
	}
	creds := natsconn.FileCredential{Path: filepath.Join(c.dir, platform.AuthCreds)}
	self, err := c.verifySelf(creds, platform.Auth, platform.RoleIssuer)
	if err != nil {
		return err
	}
	r.User = self.String()
	guest, err := ident.ParseLabel(platform.Guest)
	if err != nil {
		return err
	}
	ask, err := c.dial(ctx, r, creds, self, "home", log)
	if err != nil {
		return err
	}
	svc, err := provision.New(provision.Config{
		Region: c.Region, Self: self, Operator: c.operator, Document: c.document, SealKey: seal,
		Issuer: issuer.New(keys...), Policy: pol, Names: provision.NewNames(ask, c.operator),
		Guests: []ident.Label{guest}, Members: members,
		Log: log, Now: time.Now, Spread: issuer.Spread,
	})
	if err != nil {
		return err
	}
	for _, door := range []struct {
		name      string
		endpoints []endpoint.Endpoint
	}{{"renew", svc.MemberEndpoints()}, {"issue", svc.GuestEndpoints()}} {
		nc, err := c.dial(ctx, r, creds, self, door.name, log)
		if err != nil {
			return err
		}
		s, err := endpoint.Serve(nc, Issuer, provision.Queue, "credentials in "+c.Region.String()+": "+door.name, door.endpoints)
		if err != nil {
			return err
		}
		r.servers = append(r.servers, s)
	}
	return nil
}

// roles loads the role keys that are in the folder and says what they are for,
// as the signed platform document has it.
func (c *Config) roles() ([]issuer.RoleKey, policy.Policy, []ident.Label, error) {
	var (
		keys    []issuer.RoleKey
		pol     policy.Policy
		members []ident.Label
	)
	for _, a := range c.platform.Accounts {
		for _, role := range a.Roles {
			if role.Open == nil {
				continue
			}
			path := filepath.Join(c.dir, "roles", a.Name.String()+"."+role.Name.String()+".nk")
			key, err := keystore.Load(path, keystore.Account)
			if err != nil {
				return nil, pol, nil, fmt.Errorf("the key of role %s/%s: %w", a.Name, role.Name, err)
			}
			if key.Public() != role.Key.String() {
				return nil, pol, nil, fmt.Errorf("%s: %w: it is not the key of role %s/%s of this platform", path, ErrConfig, a.Name, role.Name)
			}
			keys = append(keys, issuer.RoleKey{Account: a.Name, AccountKey: a.Key, Role: role.Name, Key: key})
			pol.Offers = append(pol.Offers, policy.Offer{
				Kind: "open", Account: a.Name, Role: role.Name,
				Default: time.Duration(role.Open.Default) * time.Second, Longest: time.Duration(role.Open.Longest) * time.Second,
			})
			members = append(members, a.Name)
		}
	}
	if len(keys) == 0 {
		return nil, pol, nil, fmt.Errorf("%s: %w: the platform has no role to issue", c.dir, ErrConfig)
	}
	return keys, pol, members, nil
}

func (c *Config) startRegistrar(ctx context.Context, r *Running, log *slog.Logger) error {
	signing, err := keystore.Load(filepath.Join(c.dir, platform.SigningFile), keystore.Operator)
	if err != nil {
		return fmt.Errorf("the operator signing key: %w", err)
	}
	if !c.operator.Signs(signing.Public()) {
		return fmt.Errorf("%s: %w: %s is not an operator signing key of this platform", c.dir, ErrConfig, signing.Public())
	}
	accounts, err := platform.ReadAccounts(filepath.Join(c.dir, "accounts"), c.operator)
	if err != nil {
		return err
	}
	sysCreds := natsconn.FileCredential{Path: filepath.Join(c.dir, platform.SystemCreds)}
	sysSelf, err := c.verifySelf(sysCreds, platform.System, platform.RoleRegistrar)
	if err != nil {
		return err
	}
	ledgerCreds := natsconn.FileCredential{Path: filepath.Join(c.dir, platform.LedgerCreds)}
	self, err := c.verifySelf(ledgerCreds, platform.Ledger, platform.RoleRegistrar)
	if err != nil {
		return err
	}
	r.User = self.String()
	sys, err := c.dial(ctx, r, sysCreds, sysSelf, "system", log)
	if err != nil {
		return err
	}
	if c.Region == c.platform.Home {
		if err := c.serveNames(ctx, r, ledgerCreds, self, signing, log); err != nil {
			return err
		}
	}
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	r.work.Go(func() {
		if err := registrar.NewResolver(sys, c.operator).Watch(wctx, accounts, log); err != nil {
			log.Error("servers are not watched", "error", err)
		}
	})
	return nil
}

// serveNames decides names: in home alone.
func (c *Config) serveNames(ctx context.Context, r *Running, creds natsconn.FileCredential, self ident.UserKey, signing *keystore.Key, log *slog.Logger) error {
	store, err := c.dial(ctx, r, creds, self, "ledger", log)
	if err != nil {
		return err
	}
	names, err := jetstream.NewNames(store)
	if err != nil {
		return err
	}
	auth, err := ident.ParseLabel(platform.Auth)
	if err != nil {
		return err
	}
	n := &registrar.Names{
		Store: names, Operator: c.operator, Platform: c.platform, Issuers: auth, Log: log, Now: time.Now,
		Sign: func(e trust.NameEntry) (string, error) { return e.Sign(signing, time.Now()) },
	}
	nc, err := c.dial(ctx, r, creds, self, "home", log)
	if err != nil {
		return err
	}
	s, err := endpoint.ServeQuiet(nc, registrar.Queue, n.Endpoints())
	if err != nil {
		return err
	}
	r.servers = append(r.servers, s)
	return nil
}

// verifySelf refuses creds of another platform, account or role before they
// are shown to any server.
func (c *Config) verifySelf(creds natsconn.FileCredential, account, role string) (ident.UserKey, error) {
	token, err := creds.JWT()
	if err != nil {
		return ident.UserKey{}, err
	}
	u, err := c.platform.VerifyUser(token, time.Now())
	if errors.Is(err, trust.ErrExpired) {
		return ident.UserKey{}, fmt.Errorf("%s: %w", creds.Path, err)
	}
	if err != nil {
		return ident.UserKey{}, fmt.Errorf("%s: %w: %w", creds.Path, ErrConfig, err)
	}
	if u.Account.String() != account || u.Role.String() != role {
		return ident.UserKey{}, fmt.Errorf("%s: %w: it is for %s/%s, not for %s/%s", creds.Path, ErrConfig, u.Account, u.Role, account, role)
	}
	return u.Key, nil
}

// retry is how soon a server that refused is tried again during the start.
const retry = 200 * time.Millisecond

func (c *Config) dial(ctx context.Context, r *Running, creds natsconn.FileCredential, self ident.UserKey, what string, log *slog.Logger) (*nats.Conn, error) {
	for {
		nc, err := natsconn.Dial(ctx, natsconn.Options{
			URLs: c.URLs, Name: c.Service + "-" + c.Region.String() + "-" + what, Credential: creds,
			InboxPrefix: subject.ServiceInboxPrefix(self), Log: log,
		})
		if err == nil {
			r.conns = append(r.conns, nc)
			return nc, nil
		}
		// Servers that are just starting refuse, also for a moment after they
		// accept: an account may not have reached them.
		if wait.For(ctx, retry) != nil {
			return nil, err
		}
	}
}

// Drain stops taking requests, answers those that were accepted, and closes.
func (r *Running) Drain(ctx context.Context) error {
	var errs []error
	for _, s := range r.servers {
		errs = append(errs, s.Drain(ctx))
	}
	r.servers = nil
	r.close(ctx)
	return errors.Join(errs...)
}

func (r *Running) close(ctx context.Context) {
	r.cancel()
	r.work.Wait()
	for _, s := range r.servers {
		_ = s.Drain(ctx) // the start failed, and its error is the one that is told
	}
	for _, nc := range r.conns {
		natsconn.Close(ctx, nc)
	}
	r.conns = nil
}
