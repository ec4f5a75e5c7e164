package platform

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// Use writes what is in force now into the folder: the accounts' JWTs, the platform
// document, and what each party needs of them. accounts are those that changed; the others
// stay. It may be called again with the same, and after it was cut off.
func (p *Platform) Use(full string, accounts []string, now time.Time) error {
	doc, err := openFull(p.Operator, full, func() time.Time { return now })
	if err != nil {
		return err
	}
	paths := make([]string, len(accounts))
	if err := concurrently(len(accounts), func(i int) error {
		c, err := p.Operator.VerifyAccount(accounts[i])
		if err != nil {
			return err
		}
		name, err := ident.ParseLabel(c.Name)
		if err != nil {
			return fmt.Errorf("account %s: %w", c.Subject, err)
		}
		paths[i] = filepath.Join(p.Dir.Operator(), "accounts", name.String()+".jwt")
		return replace(paths[i], accounts[i])
	}); err != nil {
		return err
	}
	if err := p.holdAll(paths); err != nil {
		return err
	}
	p.FullToken, p.Full, p.Document = full, doc, doc.Public
	p.inUse()
	if err := p.turned(); err != nil {
		return err
	}
	if err := p.parties(); err != nil {
		return err
	}
	// The operator's own copy comes last: by it the next run sees that all is done.
	return replace(filepath.Join(p.Dir.Operator(), FullFile), full+"\n")
}

// parties brings every party's folder up to date. One that is not there was given away:
// its holder has all that it needs in the ledger, but for role keys.
func (p *Platform) parties() error {
	if err := errors.Join(p.Publish(OperatorFile, p.Operator.Token()), p.Publish(DocumentFile, p.Full.PublicToken)); err != nil {
		return err
	}
	for _, r := range p.File.Regions {
		for _, dir := range []string{p.Dir.Registrar(r.Name), p.Dir.Issuer(r.Name)} {
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := errors.Join(
				replace(filepath.Join(dir, OperatorFile), p.Operator.Token()+"\n"),
				replace(filepath.Join(dir, FullFile), p.FullToken+"\n"),
			); err != nil {
				return err
			}
		}
		if err := p.bootstrap(p.Dir.Registrar(r.Name)); err != nil {
			return err
		}
		if err := p.takeKeys(p.Dir.Issuer(r.Name)); err != nil {
			return err
		}
	}
	return p.GiveKeys(p.Full)
}

// Publish puts a JWT that everybody may know into public/.
func (p *Platform) Publish(name, token string) error {
	return replacePublic(filepath.Join(p.Dir.Public(), name), token+"\n")
}

// bootstrap gives a registrar the accounts by which it reaches the ledger, where all
// others are.
func (p *Platform) bootstrap(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range manifest.OwnAccounts() {
		h, ok := p.Account(name)
		if !ok {
			continue
		}
		token, _, err := p.Claims(h)
		if err != nil {
			return err
		}
		if err := replace(filepath.Join(dir, "accounts", name+".jwt"), token); err != nil {
			return err
		}
	}
	return nil
}

// GiveKeys gives issuers the keys of roles that are going to be granted, and what they need
// for auth callout, so that they have them when they hear of it.
func (p *Platform) GiveKeys(d *ledger.Document) error {
	roles := issued(d)
	for _, r := range p.File.Regions {
		dir := p.Dir.Issuer(r.Name)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, ref := range roles {
			path := filepath.Join(dir, "roles", ref.Account.String()+"."+ref.Role.String()+".nk")
			key, err := keystore.Load(p.Dir.roleKey(ref.Account.String(), ref.Role.String()), keystore.Account)
			if errors.Is(err, fs.ErrNotExist) {
				continue // somebody else's grant: its key is in their folder
			}
			if err != nil {
				return fmt.Errorf("the key of role %s: %w", ref, err)
			}
			if err := p.give(path, ref, key); err != nil {
				return err
			}
		}
		if err := p.giveCallout(dir, d); err != nil {
			return err
		}
	}
	return nil
}

// issued are the roles whose keys issuers need: those that are granted, and that of DOOR, in
// whose name they answer servers.
func issued(d *ledger.Document) []manifest.RoleRef {
	var all []manifest.RoleRef
	for _, o := range d.Policy.Offers {
		all = append(all, manifest.RoleRef{Account: o.Account, Role: o.Role})
	}
	if _, ok := d.Public.Account(label(Door)); ok {
		all = append(all, manifest.RoleRef{Account: label(Door), Role: label(RoleSentinel)})
	}
	return all
}

// giveCallout gives an issuer the callout key, or takes its copy where there is no auth
// callout any more.
func (p *Platform) giveCallout(dir string, d *ledger.Document) error {
	path := filepath.Join(dir, CalloutKeyFile)
	key, err := keystore.Load(p.Dir.calloutKey(), keystore.Curve)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was never on, or was turned on from another folder, which has the key
	}
	if err != nil {
		return fmt.Errorf("the callout key: %w", err)
	}
	have, err := keystore.Load(path, keystore.Curve)
	_, on := d.Public.Account(label(Door))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the callout key of an issuer: %w", err)
	case err != nil && on:
		return keystore.Save(path, key)
	case err != nil, on && have.Public() == key.Public():
		return nil
	case have.Public() != key.Public():
		return fmt.Errorf("%s: it is not the callout key of this platform: %w", path, ErrNotPlatform)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("taking the callout key from issuers: %w", err)
	}
	return nil
}

// give puts a role's key into an issuer's folder. One that is there is replaced if the
// operator's folder has it put aside: a role that was taken away and came again has
// another key. Any other is nobody's here to overwrite.
func (p *Platform) give(path string, ref manifest.RoleRef, key *keystore.Key) error {
	have, err := keystore.Load(path, keystore.Account)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return keystore.Save(path, key)
	case err != nil:
		return fmt.Errorf("the key of role %s: %w", ref, err)
	case have.Public() == key.Public():
		return nil
	case !p.isRetired(filepath.Base(path), have):
		return fmt.Errorf("%s: it is not the key of role %s of this platform: %w", path, ref, ErrNotPlatform)
	}
	seed, err := key.Seed()
	if err != nil {
		return err
	}
	return keystore.ReplaceSecret(path, append(seed, '\n'))
}

// takeKeys takes the keys of roles that are not granted any more from an issuer. They are
// copies: the keys themselves are in the operator's folder.
func (p *Platform) takeKeys(dir string) error {
	granted := map[string]bool{}
	for _, ref := range issued(p.Full) {
		granted[ref.Account.String()+"."+ref.Role.String()+".nk"] = true
	}
	entries, err := os.ReadDir(filepath.Join(dir, "roles"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the role keys of issuers: %w", err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".nk" || granted[e.Name()] {
			continue
		}
		path := filepath.Join(dir, "roles", e.Name())
		have, err := keystore.Load(path, keystore.Account)
		if err != nil {
			return fmt.Errorf("the role keys of issuers: %w", err)
		}
		mine, err := keystore.Load(filepath.Join(p.Dir.Operator(), "roles", e.Name()), keystore.Account)
		if (err != nil || mine.Public() != have.Public()) && !p.isRetired(e.Name(), have) {
			continue // the only copy stays where it is
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("taking a role key from issuers: %w", err)
		}
	}
	return nil
}

// Extend makes the folders of regions that are new. It names them; they have to be brought
// to where the region's services will run.
func (p *Platform) Extend(now time.Time) ([]ident.Region, error) {
	fresh, err := p.deal()
	if err != nil {
		return nil, err
	}
	var regions []manifest.Region
	for _, name := range fresh {
		r, _ := p.File.Region(name)
		regions = append(regions, r)
	}
	return fresh, p.welcome(regions, now)
}

// welcome makes what services of regions need beside what Use gives them: credentials of
// their own, and their configuration. What is there stays.
func (p *Platform) welcome(regions []manifest.Region, now time.Time) error {
	guest := filepath.Join(p.Dir.Public(), GuestFile)
	if _, err := os.Stat(guest); errors.Is(err, fs.ErrNotExist) {
		data, err := p.newCreds(Guest, RoleGuest, "guest", "", now, 0)
		if err != nil {
			return err
		}
		if err := replacePublic(guest, string(data)); err != nil {
			return err
		}
	}
	for _, r := range regions {
		name := r.Name.String()
		all := map[string]creds{
			"issuer-" + name: {filepath.Join(p.Dir.Issuer(r.Name), AuthCreds), Auth, RoleIssuer},
		}
		for _, c := range registrarCreds(p.File.Home, r.Name) {
			c.file = filepath.Join(p.Dir.Registrar(r.Name), c.file)
			all["registrar-"+name+" "+c.file] = c
		}
		for who, c := range all {
			if _, err := os.Stat(c.file); err == nil {
				continue
			}
			who, _, _ := bytes.Cut([]byte(who), []byte(" "))
			data, err := p.newCreds(c.account, c.role, string(who), name, now, ServiceLife)
			if err != nil {
				return err
			}
			if err := keystore.WriteSecret(c.file, data); err != nil {
				return err
			}
		}
		if err := errors.Join(
			replace(filepath.Join(p.Dir.Issuer(r.Name), ServiceFile), string(serviceFile("issuer", name))),
			replace(filepath.Join(p.Dir.Registrar(r.Name), ServiceFile), string(serviceFile("registrar", name))),
		); err != nil {
			return err
		}
	}
	return p.parties()
}

// newCreds makes a user of a role, with a key of its own, as a creds file.
func (p *Platform) newCreds(account, role, name, region string, now time.Time, life time.Duration) ([]byte, error) {
	roleKey, err := keystore.Load(p.Dir.roleKey(account, role), keystore.Account)
	if err != nil {
		return nil, fmt.Errorf("the key of role %s/%s: %w", account, role, err)
	}
	accKey, err := p.accountKey(account)
	if err != nil {
		return nil, err
	}
	user, err := keystore.Generate(keystore.User)
	if err != nil {
		return nil, err
	}
	token, err := serviceJWT(roleKey, accKey.String(), user.Public(), name, region, now, life)
	if err != nil {
		return nil, err
	}
	return credsFile(token, user)
}

// replace writes a file that only its owner may read, unless it has the same already.
func replace(path, data string) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == data { // #nosec G304 -- a fixed name in the platform folder
		return nil
	}
	return keystore.ReplaceSecret(path, []byte(data))
}

// replacePublic writes a file of public/, which anyone may read.
func replacePublic(path, data string) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == data { // #nosec G304 -- a fixed name in the platform folder
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- public/ is what everyone is given
		return fmt.Errorf("making public/: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing to public/: %w", err)
	}
	_, err = f.WriteString(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()) // #nosec G302 -- public
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// label is a name that is written here, and so is valid.
func label(s string) ident.Label {
	l, err := ident.ParseLabel(s)
	if err != nil {
		panic(err)
	}
	return l
}
