package chat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/keystore"
)

// dirs are where the program keeps things, by the XDG rules on every system.
type dirs struct {
	config string // contexts: public
	data   string // nkeys and cached credentials: 0600
}

func findDirs() (dirs, error) {
	find := func(env string, fallback ...string) (string, error) {
		if d := os.Getenv(env); filepath.IsAbs(d) {
			return filepath.Join(d, "herald"), nil
		}
		home, err := os.UserHomeDir()
		if err != nil {
			return "", cli.Errorf(cli.Config, "set HOME, or "+env, "there is no home folder to keep keys in: %w", err)
		}
		return filepath.Join(append([]string{home}, append(fallback, "herald")...)...), nil
	}
	config, err := find("XDG_CONFIG_HOME", ".config")
	if err != nil {
		return dirs{}, err
	}
	data, err := find("XDG_DATA_HOME", ".local", "share")
	return dirs{config, data}, err
}

func (d dirs) context(name ident.Name) string {
	return filepath.Join(d.config, "contexts", name.String()+".json")
}

func (d dirs) current() string { return filepath.Join(d.config, "context") }

// save stores a platform's context under a name and makes it the current one. Where
// that context has seen a newer platform document, that one stays.
func (d dirs) save(name ident.Name, p *client.Platform) error {
	if have, err := client.LoadPlatform(d.context(name)); err == nil {
		if have.Operator.Key() != p.Operator.Key() {
			return cli.Errorf(cli.Exists, "give this one another name with --context, or remove "+d.context(name),
				"the context %s is another platform's (%s)", name, have.Operator.Key())
		}
		switch newer, err := p.Update(have.Token()); {
		case err == nil:
			p = newer
		case !errors.Is(err, client.ErrOlder):
			// Signed by a key that this file's operator JWT does not have: which of
			// the two is out of date, nobody here can tell.
			return cli.Errorf(cli.Refused, "ask the platform's operator for a new file", "the context %s has a newer platform document (%s), which this file does not vouch for: %w",
				name, have.Document.Version, err)
		}
	}
	if err := d.write(name, p); err != nil {
		return err
	}
	return keystore.ReplaceSecret(d.current(), []byte(name.String()+"\n"))
}

// renew keeps a newer platform document in a context, so that the next start goes on
// from it and refuses what is older. Of two programs that do so at once either may
// be the last; what that one did not know, the next info tells.
func (d dirs) renew(name ident.Name, p *client.Platform) error {
	have, err := client.LoadPlatform(d.context(name))
	if err != nil {
		return err
	}
	if have.Operator.Key() != p.Operator.Key() {
		return nil // another platform was joined under this name meanwhile
	}
	newer, err := have.Update(p.Token())
	if errors.Is(err, client.ErrOlder) || newer == have {
		return nil
	}
	if err != nil {
		return err
	}
	return d.write(name, newer)
}

func (d dirs) write(name ident.Name, p *client.Platform) error {
	data, err := p.Export()
	if err != nil {
		return err
	}
	// Not secret, but written as whole as a secret is.
	return keystore.ReplaceSecret(d.context(name), data)
}

// load finds the platform: the named path, the named context, or the current one.
// It tells the context's name, none for a path.
func (d dirs) load(path, context string) (*client.Platform, ident.Name, error) {
	if path != "" {
		p, err := client.LoadPlatform(path)
		return p, ident.Name{}, err
	}
	if context == "" {
		data, err := os.ReadFile(d.current())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ident.Name{}, cli.Errorf(cli.Config, "join one with 'chat join FILE', or name its public folder with --platform", "there is no context: no platform was joined yet")
		}
		if err != nil {
			return nil, ident.Name{}, fmt.Errorf("reading which context is current: %w", err)
		}
		context = strings.TrimSpace(string(data))
	}
	name, err := ident.ParseName(context)
	if err != nil {
		return nil, name, fmt.Errorf("context: %w", err)
	}
	p, err := client.LoadPlatform(d.context(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, name, cli.Errorf(cli.Config, "join it with 'chat join FILE --context "+name.String()+"'", "there is no context %s", name)
	}
	return p, name, err
}

// home is where keys for one platform are: by its operator's key, because two
// platforms may have one name.
func (d dirs) home(p *client.Platform) string {
	name := p.Document.Name
	if _, err := ident.ParseName(name); err != nil {
		name = "platform"
	}
	return filepath.Join(d.data, name+"-"+p.Operator.Key()[1:13])
}

// who decides the name: as told, as last time, or as the machine calls the user.
func (d dirs) who(p *client.Platform, told string) (ident.Name, error) {
	if told != "" {
		n, err := ident.ParseName(told)
		if err != nil {
			return n, fmt.Errorf("--name: %w", err)
		}
		return n, nil
	}
	if data, err := os.ReadFile(filepath.Join(d.home(p), "name")); err == nil {
		if n, err := ident.ParseName(strings.TrimSpace(string(data))); err == nil {
			return n, nil
		}
	}
	if u, err := user.Current(); err == nil {
		if n, err := ident.ParseName(strings.ToLower(u.Username)); err == nil && n.String() != "root" {
			return n, nil
		}
	}
	return ident.Name{}, cli.Errorf(cli.Usage, "choose one with --name, such as --name alice", "there is no name to join with")
}

// keep is the user's key and where its credential is cached.
type keep struct {
	dir  string
	name ident.Name
	key  *keystore.Key
}

func (d dirs) keep(p *client.Platform, name ident.Name) (keep, error) {
	k := keep{dir: d.home(p), name: name}
	var err error
	k.key, err = keystore.LoadOrCreate(filepath.Join(k.dir, name.String()+".nk"), keystore.User)
	return k, err
}

func (k keep) cachePath() string { return filepath.Join(k.dir, k.name.String()+".jwt") }

// cached is the user JWT from before, or nothing.
func (k keep) cached() string {
	data, err := keystore.ReadSecret(k.cachePath())
	if err != nil {
		return "" // a cache: what cannot be read is obtained
	}
	return strings.TrimSpace(string(data))
}

// remember stores the credential and the name for the next start. A JWT is no
// secret without its seed, but nobody else's business either.
func (k keep) remember(token string) error {
	if err := keystore.ReplaceSecret(k.cachePath(), []byte(token+"\n")); err != nil {
		return err
	}
	return keystore.ReplaceSecret(filepath.Join(k.dir, "name"), []byte(k.name.String()+"\n"))
}

func (k keep) invitePath() string { return filepath.Join(k.dir, k.name.String()+".invite") }

// identity is how the user shows who they are: by the code of an invitation, if they came
// with one, now or before. It is kept beside the key that it counts for, since it is needed
// again when a session is over; a new one takes the place of the old.
func (k keep) identity(code string) (client.Identity, error) {
	if code == "" {
		data, err := keystore.ReadSecret(k.invitePath())
		if errors.Is(err, fs.ErrNotExist) {
			return client.Open{}, nil
		}
		if err != nil {
			return nil, err
		}
		code = string(data)
	}
	c, err := invite.Parse(strings.TrimSpace(code))
	if err != nil {
		return nil, cli.Errorf(cli.Usage, "type the code as it was given to you, such as HI-7K3M-9QXR-T2VB-4N8C-WJPX", "--invite: %w", err)
	}
	return client.Invited{Code: c}, keystore.ReplaceSecret(k.invitePath(), []byte(c.Reveal()+"\n"))
}
