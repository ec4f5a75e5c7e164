package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/spool"
	"github.com/herald-nats/herald/pkg/audit/stream"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/callout"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/provision"
)

func (c *Config) startIssuer(ctx, run context.Context, r *Running, log *slog.Logger) error {
	creds := r.files.creds[platform.AuthCreds]
	self := creds.user
	secret, err := secretOf(creds.file)
	if err != nil {
		return err
	}
	guest, err := ident.ParseLabel(platform.Guest)
	if err != nil {
		return err
	}
	lobby, err := ident.ParseLabel(platform.Door)
	if err != nil {
		return err
	}
	nc, err := c.dial(ctx, r, creds, "ledger", log)
	if err != nil {
		return err
	}
	know, err := c.know(nc, self, secret, log)
	if err != nil {
		return err
	}
	records, err := c.records(r, creds, stream.New(nc, c.Region, self), log)
	if err != nil {
		return err
	}
	r.handed = newHanded(c.Region, know.projection, log)
	more := func() (provision.Keys, error) {
		folder, err := c.readKeys()
		return r.handed.with(folder, know.document()), err
	}
	logins := oidc.New(know.document().Providers, oidc.Options{Clock: c.now, Log: log})
	r.logins = logins
	svc := provision.New(provision.Config{
		Region: c.Region, Self: self, Door: lobby, Callout: r.files.callout, Keys: r.files.keys, MoreKeys: more,
		Ledger:  know.projection,
		Home:    provision.NewHome(nc, know.projection, c.opener),
		Methods: authn.Methods{logins},
		Records: records, Guests: []ident.Label{guest}, Log: log, Now: c.now, Spread: issuer.Spread,
	})
	r.issuing = svc
	r.doors.look = svc.LookAgain
	use := func(e ledger.Entry) {
		if e.Key == ledger.PlatformKey() {
			d := know.document() // which may be newer than e by now
			logins.Use(d.Providers)
			r.required.Store(d.AuditRequired)
			svc.Use(d)
			r.doors.changed()
		}
	}
	know.changed.Store(&use)
	know.run(run, r)
	// Not complete is not ready, and not ready is not subscribed.
	if err := know.complete(ctx); err != nil {
		return err
	}
	logins.Use(know.document().Providers)
	r.required.Store(know.document().AuditRequired)
	r.work.Go(func() { records.Run(run) })
	svc.Use(know.document())
	r.work.Go(func() {
		tells(run, svc, know.document, func(d *ledger.Document) (string, bool) {
			folder, err := c.readKeys()
			if err != nil {
				return "", false
			}
			return r.handed.ready(svc.Held(), folder, d)
		}, records.Note, c.now, cmp.Or(c.Pace, tellAfter))
	})
	// Members and guests each have a connection of their own.
	c.answers(r, "renew", svc.MemberEndpoints(), log, func() string { members, _ := svc.Held().Unable(); return members })
	c.answers(r, "issue", svc.GuestEndpoints(), log, func() string { _, guests := svc.Held().Unable(); return guests })
	t := c.answers(r, "tutorial", svc.TutorialEndpoints(), log, func() string { members, _ := svc.Held().Unable(); return members })
	t.wanted = func() bool { return svc.Held().Tutorial }
	if r.files.callout != nil {
		c.answers(r, "callout", svc.CalloutEndpoints(), log, func() string { members, _ := svc.Held().Unable(); return members })
	}
	return r.doors.open(ctx, run)
}

// answers adds a door of an issuer.
func (c *Config) answers(r *Running, name string, endpoints []endpoint.Endpoint, log *slog.Logger, unable func() string) *door {
	d := c.door(r, platform.AuthCreds, name, log, func(nc *nats.Conn) (*endpoint.Server, error) {
		stats := func() any { return r.Stats().shown() }
		return endpoint.Serve(nc, Issuer, provision.Queue, "credentials in "+c.Region.String()+": "+name, endpoints, stats)
	})
	d.unable = unable
	r.doors.add(d)
	return d
}

// records is who writes down what the service does. Where its folder cannot be written, what
// waits does so in memory.
func (c *Config) records(r *Running, creds credential, store audit.Store, log *slog.Logger) (*audit.Writer, error) {
	data, err := keystore.ReadSecret(creds.file.Path)
	if err != nil {
		return nil, err
	}
	own, err := natsconn.ParseCreds(data)
	if err != nil {
		return nil, err
	}
	config := audit.Config{
		Region: c.Region, Writer: creds.user, Signer: own.Key, JWT: creds.file.JWT, Store: store,
		Required: r.required.Load, // never for a registrar: what it states is in force already
		Log:      log, Now: c.now,
	}
	switch s, err := spool.Open(c.State, spool.Most); {
	case err != nil:
		log.Warn("records that cannot be stored wait in memory, and not on the disk", "error", err, "hint", "set state in provisioner.yaml to a folder of this service alone, which it may write")
	default:
		config.Buffer, r.spool = s, s
	}
	r.records, r.Writer = audit.NewWriter(config), creds.user.String()
	return r.records, nil
}

// calloutKey is what opens servers' requests about plain clients; nil: nobody comes so here,
// and none are asked for.
func (c *Config) calloutKey() (*callout.Key, error) {
	key, err := keystore.Load(filepath.Join(c.dir, platform.CalloutKeyFile), keystore.Curve)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the callout key: %w", err)
	}
	return callout.NewKey(key)
}

// readKeys loads all region and role keys that are in the folder. Which of them are for what is the
// platform document's to say.
func (c *Config) readKeys() (provision.Keys, error) {
	var none provision.Keys
	keys := none.Clone()
	for _, name := range []string{platform.SealKeyFile, platform.SealKeyBeside} {
		key, err := keystore.Load(filepath.Join(c.dir, name), keystore.Curve)
		if errors.Is(err, fs.ErrNotExist) && name == platform.SealKeyBeside {
			continue // which is there while one is being replaced
		}
		if err != nil {
			return none, fmt.Errorf("the region key: %w", err)
		}
		pub, err := ident.ParseSealKey(key.Public())
		if err != nil {
			return none, err
		}
		keys.Region[pub] = key
	}
	dir := filepath.Join(c.dir, "roles")
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return none, fmt.Errorf("the role keys: %w", err)
	}
	for _, f := range files {
		if f.IsDir() || filepath.Ext(f.Name()) != ".nk" {
			continue
		}
		key, err := keystore.Load(filepath.Join(dir, f.Name()), keystore.Account)
		if err != nil {
			return none, fmt.Errorf("the key of role %s: %w", strings.Replace(strings.TrimSuffix(f.Name(), ".nk"), ".", "/", 1), err)
		}
		pub, err := ident.ParseAccountKey(key.Public())
		if err != nil {
			return none, err
		}
		keys.Roles[pub] = key
	}
	return keys, nil
}

// keys are those of the folder; the ones that the folder's document has something sealed to, or
// offers, must be here.
func (c *Config) keys() (provision.Keys, error) {
	dir := filepath.Join(c.dir, "roles")
	keys, err := c.readKeys()
	if err != nil {
		return keys, err
	}
	region, _ := c.platform.Region(c.Region)
	if !slices.ContainsFunc(region.SealKeys(), func(k ident.SealKey) bool { return keys.Region[k] != nil }) {
		var have []string
		for k := range keys.Region {
			have = append(have, k.String())
		}
		return keys, fmt.Errorf("%s: %w: its region key is %s; the platform document says %s", c.dir, ErrConfig, strings.Join(have, ", "), region.SealKey)
	}
	d, _ := c.entry.Body.(*ledger.Document)
	for _, o := range d.Policy.Offers {
		a, _ := d.Public.Account(o.Account)
		for _, role := range a.Roles {
			if role.Name != o.Role || keys.Roles[role.Key] != nil {
				continue
			}
			path := filepath.Join(dir, o.Account.String()+"."+o.Role.String()+".nk")
			if _, err := os.Stat(path); err != nil {
				return keys, fmt.Errorf("the key of role %s/%s: %w", o.Account, o.Role, err)
			}
			return keys, fmt.Errorf("%s: %w: it is not the key of role %s/%s of this platform", path, ErrConfig, o.Account, o.Role)
		}
	}
	return keys, nil
}
