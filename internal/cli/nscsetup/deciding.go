package nscsetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// decidingHome is a connection to home's ledger on which the operator decides.
type decidingHome struct {
	*ledger.Decider
	platform *platform.Platform
	tool     *apply.Tool
	changes  *apply.Changes
	nc       *nats.Conn
	now      func() time.Time
}

// deciding connects to decide with the set-up tool's own operator signing key; command is
// which one does, for the records.
func (g *globals) deciding(ctx context.Context, command string) (*decidingHome, error) {
	p, err := g.look()
	if err != nil {
		return nil, err
	}
	signer, err := p.Signer()
	if err != nil {
		return nil, err
	}
	t := g.tool(p)
	nc, err := t.Dial(ctx, platform.Ledger, platform.RoleSetup)
	if err != nil {
		return nil, noHome(ctx, err)
	}
	store, err := jetstream.NewDecisions(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	changes := &apply.Changes{Door: command, Now: t.Now}
	d := &decidingHome{
		platform: p, tool: t, changes: changes, nc: nc, now: t.Now,
		Decider: &ledger.Decider{
			Store: store, Opener: ledger.Opener{Operator: p.Operator, Now: t.Now}, Signer: ledger.KeySigner{Key: signer.Key()}, Rules: p.Full.Names,
			Epoch: p.Full.Epoch(), Decided: changes.Decided,
		},
	}
	// Another folder may have moved home since.
	if token, _, err := store.Get(ctx, ledger.PlatformKey()); err == nil {
		if e, err := d.Opener.Open(ledger.PlatformKey().String(), token); err == nil {
			if doc, ok := e.Body.(*ledger.Document); ok {
				d.Epoch = max(d.Epoch, doc.Epoch())
			}
		}
	}
	return d, nil
}

// done records what was decided, and closes. Where that cannot be recorded it is decided all
// the same, and the command was done in part.
func (d *decidingHome) done(ctx context.Context, err *error) {
	d.nc.Close()
	if rerr := d.tool.Record(ctx, d.changes); rerr != nil && *err == nil {
		*err = unrecorded(rerr)
	} else if rerr != nil {
		*err = fmt.Errorf("%w; and %w", *err, rerr)
	}
}

// unrecorded says what to do where something was decided and could not be recorded.
func unrecorded(err error) error {
	return cli.Errorf(cli.Partial, "it holds: do not do it again. Note who did it and when, and see 'nscsetup status': is JetStream up in home?", "%w", err)
}

// accessKey gives an access key that was not removed, as home's leader has it.
func (d *decidingHome) accessKey(ctx context.Context, id ident.KeyID) (ledger.AccessKey, uint64, error) {
	token, _, err := d.Store.Get(ctx, ledger.AccessKeyKey(id))
	if errors.Is(err, ledger.ErrNotFound) {
		return ledger.AccessKey{}, 0, noKey(id)
	}
	if err != nil {
		return ledger.AccessKey{}, 0, noHome(ctx, err)
	}
	e, err := d.Opener.Open(ledger.AccessKeyKey(id).String(), token)
	if err != nil {
		return ledger.AccessKey{}, 0, err
	}
	a, ok := e.Body.(ledger.AccessKey)
	if !ok || e.Denies {
		return ledger.AccessKey{}, 0, noKey(id)
	}
	return a, e.Version, nil
}

// nameFor refuses to give a name that somebody has, or had until lately: who is given it
// would be told so, and could not choose another. Whose invitation it will be is not known;
// who has a name openly takes it along, by the same nkey.
func (d *decidingHome) nameFor(ctx context.Context, n ident.Name, id ident.Identity) error {
	if n.IsZero() {
		return nil
	}
	key := ledger.NameKey(n)
	token, _, err := d.Store.Get(ctx, key)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		return noHome(ctx, err)
	}
	e, err := d.Opener.Open(key.String(), token)
	if err != nil {
		return err
	}
	l := nameRow(e, d.Rules, d.now())
	held, _ := e.Body.(ledger.Name)
	open := id.IsZero() && held.Holder.Kind() == ident.KindOpen
	if l.State == nameFree || held.Holder == id || open {
		return nil
	}
	return cli.Errorf(cli.Refused, "choose another, or see 'nscsetup name release --help'", "the name %s is %s: it is of %s", n, l.State, inspect.Clean(l.Holder))
}

func noKey(id ident.KeyID) error {
	return cli.Errorf(cli.Failed, "see 'nscsetup access-key list'", "there is no access key %s", id)
}

// offered refuses a role that policy does not let identities of a kind have: nothing that
// is made for it would give anything.
func offered(p *platform.Platform, kind string, g authn.Granted) error {
	for _, o := range p.Full.Policy.Offers {
		if o.Account == g.Account && o.Role == g.Role && (o.Kind == kind || o.Everyone) && o.Conditions() == "" {
			return nil
		}
	}
	if !slices.ContainsFunc(p.File.Accounts, func(a manifest.Account) bool {
		return a.Name == g.Account && slices.ContainsFunc(a.Roles, func(r manifest.Role) bool { return r.Name == g.Role })
	}) && !hasRole(p, g) {
		return cli.Errorf(cli.Usage, "see 'nscsetup list roles'", "there is no role %s/%s in platform.yaml", g.Account, g.Role)
	}
	return cli.Errorf(cli.Refused, fmt.Sprintf("add {to: %s, account: %s, role: %s} to grants in platform.yaml, and run 'nscsetup apply'", kind, g.Account, g.Role),
		"%s/%s is not granted to identities of kind %s: it would give nothing", g.Account, g.Role, kind)
}

// hasRole tells whether a role is one of those in force: Herald's own are in no file.
func hasRole(p *platform.Platform, g authn.Granted) bool {
	a, ok := p.Document.Account(g.Account)
	return ok && a.HasRole(g.Role)
}

// once hands out a secret, once it is decided what it is for: to a new file of its owner
// alone, or, where none is named, to standard output. The file is there before anything is
// decided, so that no secret is lost; where it is certain that nothing was decided it goes.
func (g *globals) once(path, text string, decide func() error) error {
	if path == "" {
		if err := decide(); err != nil {
			return err
		}
		return cli.Print(g.Out, "%s", text)
	}
	err := keystore.WriteSecret(path, []byte(text))
	if errors.Is(err, fs.ErrExist) {
		return cli.Errorf(cli.Exists, "choose another --out; nothing was overwritten", "%w", err)
	}
	if err != nil {
		return err
	}
	if err := decide(); err != nil {
		if unreached(err) {
			return cli.Errorf(cli.Unavailable, "see with 'list' whether it was decided; what is in "+path+" is of use only then", "%w", err)
		}
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// secretPlace checks where a secret is to go before anything is decided.
func (g *globals) secretPlace(path string) error {
	if g.json && path == "" {
		return cli.Errorf(cli.Usage, "name a file for it with --out", "no secret is written as JSON")
	}
	return nil
}
