package platform

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// Files of private keys in the operator's folder.
func (d Dir) operatorKey() string { return filepath.Join(d.Operator(), "operator.nk") }

func (d Dir) signingKey(holder string) string {
	return filepath.Join(d.Operator(), "signing", holder+".nk")
}

func (d Dir) accountKey(account string) string {
	return filepath.Join(d.Operator(), "accounts", account+".nk")
}

func (d Dir) roleKey(account, role string) string {
	return filepath.Join(d.Operator(), "roles", account+"."+role+".nk")
}

// regionKey is where a region key is: with the region's issuers, and nowhere else.
func (d Dir) regionKey(r ident.Region) string { return filepath.Join(d.Issuer(r), SealKeyFile) }

// calloutKey is where the xkey is that servers seal requests of auth callout to. Each issuer
// has a copy: any of them may be asked.
func (d Dir) calloutKey() string { return filepath.Join(d.Operator(), CalloutKeyFile) }

// dealt is the file that says which operator signing key a region's registrars have, also
// once their folder was given away.
func (d Dir) dealt(r ident.Region) string {
	return filepath.Join(d.Operator(), "signing", r.String()+".pub")
}

// holderTool has the set-up tool's own operator signing key.
const holderTool = "nscsetup"

// Spares is how many operator signing keys a new platform has in reserve, for regions
// that are added and keys that are lost: servers read the operator JWT only at start, so
// a key that is not in it costs a rolling restart.
const Spares = 3

// Keys are the public keys of all that the file describes. Those of accounts and roles
// that are in force come from their JWTs, so that ten thousand seeds need not be read. A
// key that is not made yet is stood in for; Unmade tells which.
func (p *Platform) Keys() (claims.Keys, error) { return p.keys(nil) }

// MakeKeys is Keys, but makes what is missing. Each is on the disk before it is used, and
// none is ever overwritten: a run that was killed is gone on with.
func (p *Platform) MakeKeys() (claims.Keys, error) { return p.keys(p.create) }

// keys finds the public keys; create, if not nil, gives the one that is kept in a file,
// which it makes if it must.
func (p *Platform) keys(create func(path string, kind keystore.Kind) (string, error)) (claims.Keys, error) {
	k := claims.Keys{
		Accounts: map[ident.Label]ident.AccountKey{}, Roles: map[manifest.RoleRef]ident.AccountKey{},
		Regions: map[ident.Region]ident.SealKey{},
	}
	if err := p.known(&k); err != nil {
		return k, err
	}
	find := func(path string, kind keystore.Kind) (string, error) {
		if create != nil {
			return create(path, kind)
		}
		key, err := keystore.Load(path, kind)
		if errors.Is(err, fs.ErrNotExist) {
			return standIn(kind, path), nil
		}
		if err != nil {
			return "", err
		}
		return key.Public(), nil
	}
	var missing []wanted
	for _, a := range p.File.AllAccounts() {
		if _, ok := k.Accounts[a.Name]; !ok {
			missing = append(missing, wanted{account: a.Name, path: p.Dir.accountKey(a.Name.String())})
		}
		for _, r := range a.Roles {
			if _, ok := k.Roles[manifest.RoleRef{Account: a.Name, Role: r.Name}]; !ok {
				missing = append(missing, wanted{a.Name, r.Name, p.Dir.roleKey(a.Name.String(), r.Name.String())})
			}
		}
	}
	found := make([]ident.AccountKey, len(missing))
	if err := concurrently(len(missing), func(i int) error {
		pub, err := find(missing[i].path, keystore.Account)
		if err == nil {
			found[i], err = ident.ParseAccountKey(pub)
		}
		if err != nil {
			return fmt.Errorf("the key of %s: %w", missing[i], err)
		}
		return nil
	}); err != nil {
		return k, err
	}
	for i, w := range missing {
		if w.role.IsZero() {
			k.Accounts[w.account] = found[i]
		} else {
			k.Roles[manifest.RoleRef{Account: w.account, Role: w.role}] = found[i]
		}
	}
	for _, r := range p.File.Regions {
		if _, ok := k.Regions[r.Name]; ok {
			continue
		}
		pub, err := find(p.Dir.regionKey(r.Name), keystore.Curve)
		if err != nil {
			return k, fmt.Errorf("the region key of %s: %w", r.Name, err)
		}
		if k.Regions[r.Name], err = ident.ParseSealKey(pub); err != nil {
			return k, err
		}
	}
	if p.File.Callout && k.Callout.IsZero() {
		pub, err := find(p.Dir.calloutKey(), keystore.Curve)
		if err != nil {
			return k, fmt.Errorf("the callout key: %w", err)
		}
		if k.Callout, err = ident.ParseSealKey(pub); err != nil {
			return k, err
		}
	}
	return k, nil
}

// wanted is an account, or a role of one, whose key is not known yet.
type wanted struct {
	account, role ident.Label
	path          string
}

func (w wanted) String() string {
	if w.role.IsZero() {
		return "account " + w.account.String()
	}
	return "role " + w.account.String() + "/" + w.role.String()
}

// known takes the keys of what is in force from its JWTs.
func (p *Platform) known(k *claims.Keys) error {
	for _, h := range p.held {
		name, err := ident.ParseLabel(h.Name)
		if err != nil {
			continue // not ours: an account of another tool's making
		}
		k.Accounts[name] = h.Key
		for r, key := range h.Roles {
			if role, err := ident.ParseLabel(r); err == nil {
				k.Roles[manifest.RoleRef{Account: name, Role: role}] = key
			}
		}
	}
	if p.Document != nil {
		k.Follow(p.Document)
	}
	h, ok := p.Account(Door)
	if !ok || h.Closed || !p.File.Callout {
		return nil
	}
	_, c, err := p.Claims(h)
	if err != nil {
		return err
	}
	if k.Callout, err = ident.ParseSealKey(c.Authorization.XKey); err != nil {
		return fmt.Errorf("the callout key of account %s: %w", Door, err)
	}
	return nil
}

// create gives the public key that is kept in a file, and makes it where there is none.
func (p *Platform) create(path string, kind keystore.Kind) (string, error) {
	k, err := keystore.LoadOrCreate(path, kind)
	if err != nil {
		return "", err
	}
	return k.Public(), nil
}

// standIn is a public key that nobody has the seed of: a hash of where the real one will
// be.
func standIn(kind keystore.Kind, path string) string {
	sum := sha256.Sum256([]byte("herald: no key yet: " + filepath.Base(path)))
	pub, err := nkeys.Encode(nkeys.PrefixByte(kind), sum[:])
	if err != nil {
		return ""
	}
	return string(pub)
}

// Unmade tells whether a key of Keys stands for one that is not made yet.
func (p *Platform) Unmade(keys claims.Keys) func(string) bool {
	made := map[string]bool{}
	for name, key := range keys.Accounts {
		made[key.String()] = key.String() != standIn(keystore.Account, p.Dir.accountKey(name.String()))
	}
	for ref, key := range keys.Roles {
		made[key.String()] = key.String() != standIn(keystore.Account, p.Dir.roleKey(ref.Account.String(), ref.Role.String()))
	}
	return func(k string) bool { m, ok := made[k]; return ok && !m }
}

// ErrNoSpare is wrapped where a region is added and no operator signing key is in reserve.
var ErrNoSpare = errors.New("no operator signing key is in reserve")

// deal gives each new region's registrars an operator signing key: one of those in
// reserve, which the operator JWT names already. It names the regions that are new.
func (p *Platform) deal() ([]ident.Region, error) {
	var fresh []ident.Region
	for _, r := range p.File.Regions {
		switch _, err := os.Stat(p.Dir.dealt(r.Name)); {
		case err == nil:
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return fresh, fmt.Errorf("the signing key of region %s: %w", r.Name, err)
		}
		if err := p.dealTo(r.Name); err != nil {
			return fresh, err
		}
		fresh = append(fresh, r.Name)
	}
	return fresh, nil
}

// dealTo moves a key from the reserve to a region's registrars. What says so is written
// last: a run that was killed before goes on with the key that is there.
func (p *Platform) dealTo(r ident.Region) error {
	to := filepath.Join(p.Dir.Registrar(r), SigningFile)
	key, err := keystore.Load(to, keystore.Operator)
	if errors.Is(err, fs.ErrNotExist) {
		var from string
		if from, err = p.spare(); err != nil {
			return fmt.Errorf("region %s: %w", r, err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return fmt.Errorf("making the folder of region %s: %w", r, err)
		}
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("giving region %s an operator signing key: %w", r, err)
		}
		key, err = keystore.Load(to, keystore.Operator)
	}
	if err != nil {
		return fmt.Errorf("the signing key of region %s: %w", r, err)
	}
	if !p.Operator.Signs(key.Public()) {
		return fmt.Errorf("the signing key of region %s is none of the operator's: %w", r, ErrNotPlatform)
	}
	return keystore.ReplaceSecret(p.Dir.dealt(r), []byte(key.Public()+"\n"))
}

// spare is the file of a key in reserve.
func (p *Platform) spare() (string, error) {
	entries, err := os.ReadDir(filepath.Join(p.Dir.Operator(), "signing"))
	if err != nil {
		return "", fmt.Errorf("looking for keys in reserve: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "spare") && strings.HasSuffix(e.Name(), ".nk") {
			return filepath.Join(p.Dir.Operator(), "signing", e.Name()), nil
		}
	}
	return "", ErrNoSpare
}

// signing makes the operator signing keys of a new platform: one for each registrar and
// one for nscsetup, so that each can be taken away, and a reserve.
func (d Dir) signing(f *manifest.File) (pubs []string, tool *keystore.Key, err error) {
	if tool, err = keystore.LoadOrCreate(d.signingKey(holderTool), keystore.Operator); err != nil {
		return nil, nil, err
	}
	pubs = append(pubs, tool.Public())
	files := map[string]ident.Region{}
	for i := range Spares {
		files[d.signingKey("spare-"+strconv.Itoa(i+1))] = ident.Region{}
	}
	for _, r := range f.Regions {
		files[filepath.Join(d.Registrar(r.Name), SigningFile)] = r.Name
	}
	for path, region := range files {
		k, err := keystore.LoadOrCreate(path, keystore.Operator)
		if err != nil {
			return nil, nil, err
		}
		pubs = append(pubs, k.Public())
		if !region.IsZero() {
			if err := keystore.ReplaceSecret(d.dealt(region), []byte(k.Public()+"\n")); err != nil {
				return nil, nil, err
			}
		}
	}
	slices.Sort(pubs)
	return pubs, tool, nil
}

// accountFiles are the names of files with an extension in a folder, without it.
func accountFiles(dir, ext string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ext); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names, nil
}
