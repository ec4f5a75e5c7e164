package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/herald-nats/herald/pkg/provision"
)

// ErrRestart: a configuration is good, and a service that runs cannot take it over.
var ErrRestart = errors.New("it needs a restart")

// reloads counts what became of those that were asked for.
type reloads struct{ done, refused atomic.Uint64 }

// Reloads are configurations that were taken over, and those that were refused.
type Reloads struct{ Done, Refused uint64 }

// Change is a configuration that was read and verified for a service that runs, and that
// changes nothing before it is applied.
type Change struct {
	r     *Running
	next  *Config
	files files
}

// Path is the file of the service's configuration.
func (r *Running) Path() string { return r.config.path }

// Prepare reads the service's configuration and its folder again, as a start would, and
// compares it with what the service works with. It changes nothing. ErrRestart, or what
// Load and Check say.
func (r *Running) Prepare() (*Change, error) {
	next, err := Load(r.config.path)
	if err != nil {
		return nil, err
	}
	next.Now = r.config.Now
	// Before the folder is looked at as one of something else.
	if err := r.same(next); err != nil {
		return nil, err
	}
	files, err := next.files()
	if err != nil {
		return nil, err
	}
	if _, _, err := next.tls(); err != nil {
		return nil, err
	}
	for file, cred := range r.files.creds {
		if files.creds[file].user != cred.user {
			return nil, fmt.Errorf("%s: it is for another nkey: %w", files.creds[file].file.Path, ErrRestart)
		}
	}
	if files.callout == nil {
		files.callout = r.files.callout // which is in use until the service ends
	}
	switch {
	case r.Service == Issuer && files.callout != nil && files.callout.Public() != r.files.callout.Public():
		return nil, fmt.Errorf("%s: the callout key changed: %w", next.dir, ErrRestart)
	case r.Service == Registrar && files.signing.Public() != r.files.signing.Public():
		return nil, fmt.Errorf("%s: the operator signing key changed: %w", next.dir, ErrRestart)
	}
	if r.issuing != nil {
		if err := r.keeps(files.keys); err != nil {
			return nil, err
		}
	}
	return &Change{r, next, files}, nil
}

// same refuses what a service cannot become while it runs.
func (r *Running) same(next *Config) error {
	was := r.config
	for _, c := range []struct {
		what    string
		differs bool
	}{
		{"service", next.Service != was.Service},
		{"region", next.Region != was.Region},
		{"urls", !slices.Equal(next.given.urls, was.given.urls)},
		{"state", next.given.state != was.given.state},
		{"the operator JWT", next.given.operator != was.given.operator},
		// Whoever decides does so from its start on.
		{"home", next.Service == Registrar && (next.platform.Home == next.Region) != (was.platform.Home == was.Region)},
	} {
		if c.differs {
			return fmt.Errorf("%s: %s changed: %w", next.path, c.what, ErrRestart)
		}
	}
	return nil
}

// keeps refuses keys that lack one which the document in force has something sealed to, or offers,
// and which is here now: whoever took a file away by mistake is told, and nobody is refused for it.
func (r *Running) keeps(keys provision.Keys) error {
	held := r.issuing.Held()
	d := r.knows.document()
	keys = r.handed.with(keys, d)
	if region, ok := d.Public.Region(r.Region); ok && held.RegionKey && keys.Region[region.SealKey] == nil {
		return fmt.Errorf("%s: %w: the region key %s, which the platform document names, is not there any more", r.config.dir, ErrConfig, region.SealKey)
	}
	for _, o := range d.Policy.Offers {
		a, _ := d.Public.Account(o.Account)
		for _, role := range a.Roles {
			if role.Name == o.Role && keys.Roles[role.Key] == nil && !slices.Contains(held.Lacking, role.Key) {
				return fmt.Errorf("%s: %w: the key of role %s/%s, which the platform offers, is not there any more", r.config.dir, ErrConfig, o.Account, o.Role)
			}
		}
	}
	return nil
}

// Apply takes it over, and gives what changed by it. What cannot be done at once, such as a
// connection by a new credential while servers are away, is said in the log and comes by itself.
func (c *Change) Apply(ctx context.Context, log *slog.Logger) (changed []string) {
	r := c.r
	log = log.With("service", r.Service, "region", r.Region.String())
	if r.knows.projection.Apply(c.next.entry) {
		// Whoever works by it was told.
		changed = append(changed, "the platform document")
	}
	if r.issuing != nil && !c.files.keys.Same(r.files.keys) {
		r.issuing.UseKeys(c.files.keys)
		r.doors.changed()
		changed = append(changed, "keys")
	}
	if r.keeper != nil && !slices.Equal(c.files.accounts, *r.keeper.accounts.Load()) {
		r.keeper.accounts.Store(&c.files.accounts)
		r.keeper.look()
		changed = append(changed, "accounts")
	}
	renewed := false
	for file, cred := range c.files.creds {
		renewed = renewed || cred.token != r.files.creds[file].token
	}
	if renewed {
		if err := r.connectAnew(ctx); err != nil {
			log.Warn("connections that keep the former credential until it ends", "error", err)
		}
		changed = append(changed, "credentials")
	}
	r.config = c.next
	r.mu.Lock()
	r.files = c.files
	r.mu.Unlock()
	return changed
}

// Reloaded counts a reload, of which all services of a process have the same outcome.
func (r *Running) Reloaded(ok bool) {
	if ok {
		r.reloads.done.Add(1)
	} else {
		r.reloads.refused.Add(1)
	}
}

// connectAnew has all connections use the credentials that are in the folder. Those on
// which requests are answered are opened a second time before the first is drained, so that
// none is lost; whoever asks over the others asks again by itself.
func (r *Running) connectAnew(ctx context.Context) error {
	errs := []error{r.doors.anew(ctx)}
	r.mu.Lock()
	conns := slices.Clone(r.conns)
	r.mu.Unlock()
	for _, nc := range conns {
		answers := slices.ContainsFunc(r.doors.all, func(d *door) bool { return nc.Opts.Name == r.config.connection(d.name) })
		if answers {
			continue
		}
		if err := nc.ForceReconnect(); err != nil {
			errs = append(errs, fmt.Errorf("connecting %s anew: %w", nc.Opts.Name, err))
		}
	}
	return errors.Join(errs...)
}
