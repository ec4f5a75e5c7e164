package nscsetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
)

// decidingHome is a connection to home's ledger on which the operator decides.
type decidingHome struct {
	*ledger.Decider
	platform *platform.Platform
	nc       *nats.Conn
	now      func() time.Time
}

// deciding connects to decide with the set-up tool's own operator signing key.
func (g *globals) deciding(ctx context.Context) (*decidingHome, error) {
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
	return &decidingHome{
		platform: p, nc: nc, now: t.Now,
		Decider: &ledger.Decider{
			Store: store, Opener: ledger.Opener{Operator: p.Operator, Now: t.Now}, Signer: ledger.KeySigner{Key: signer.Key()}, Rules: p.Full.Names,
		},
	}, nil
}

func (d *decidingHome) close() { d.nc.Close() }

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
	return cli.Errorf(cli.Refused, fmt.Sprintf("add {to: %s, account: %s, role: %s} to grants in platform.yaml, and run 'nscsetup apply'", kind, g.Account, g.Role),
		"%s/%s is not granted to identities of kind %s: it would give nothing", g.Account, g.Role, kind)
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
