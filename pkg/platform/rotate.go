package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// turning is where the key is that is to replace a role's, until it has.
func (d Dir) turning(ref manifest.RoleRef) string {
	return filepath.Join(d.Operator(), "rotating", ref.Account.String()+"."+ref.Role.String()+".nk")
}

// TurningKey is the key that is to replace a role's. It is on the disk before it is used, and
// made once: a run that was killed goes on with the one that it had made.
func (p *Platform) TurningKey(ref manifest.RoleRef) (*keystore.Key, error) {
	path := p.Dir.turning(ref)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("a key for role %s: %w", ref, err)
	}
	key, err := keystore.LoadOrCreate(path, keystore.Account)
	if err != nil {
		return nil, fmt.Errorf("a key for role %s: %w", ref, err)
	}
	return key, nil
}

// SealRoleKey seals a role's key to the region keys of the platform.
func (p *Platform) SealRoleKey(ref manifest.RoleRef, key *keystore.Key) (ledger.RoleKey, error) {
	out := ledger.RoleKey{Account: ref.Account, Role: ref.Role, Sealed: map[string][]byte{}}
	by, err := keystore.Generate(keystore.Curve)
	if err != nil {
		return out, err
	}
	if out.From, err = ident.ParseSealKey(by.Public()); err != nil {
		return out, err
	}
	seed, err := key.Seed()
	if err != nil {
		return out, err
	}
	for _, r := range p.Document.Regions {
		if out.Sealed[r.Name.String()], err = by.Pair().Seal(seed, r.SealKey.String()); err != nil {
			return out, fmt.Errorf("sealing the key of role %s to region %s: %w", ref, r.Name, err)
		}
	}
	return out, nil
}

// turned brings the keys of roles in the folder after what is in force: the one in use is where
// a role's key is, and what it replaced is put aside. What is no rotation any more is tidied up.
func (p *Platform) turned() error {
	names, err := accountFiles(filepath.Join(p.Dir.Operator(), "rotating"), ".nk")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keys that replace others: %w", err)
	}
	for _, name := range names {
		account, role, _ := strings.Cut(name, ".")
		ref := manifest.RoleRef{Account: label(account), Role: label(role)}
		if err := p.turn(ref, name); err != nil {
			return fmt.Errorf("the key of role %s: %w", ref, err)
		}
	}
	return nil
}

func (p *Platform) turn(ref manifest.RoleRef, name string) error {
	from := p.Dir.turning(ref)
	fresh, err := keystore.Load(from, keystore.Account)
	if err != nil {
		return err
	}
	path := p.Dir.roleKey(ref.Account.String(), ref.Role.String())
	have, err := keystore.Load(path, keystore.Account)
	if err != nil {
		return err
	}
	a, _ := p.Document.Account(ref.Account)
	for _, r := range a.Roles {
		if r.Name != ref.Role || r.Key.String() == have.Public() {
			continue
		}
		use := fresh
		if r.Key.String() != fresh.Public() {
			aside := filepath.Join(p.Dir.Operator(), "retired", name+"."+r.Key.String()+".nk")
			if use, err = keystore.Load(aside, keystore.Account); errors.Is(err, fs.ErrNotExist) {
				continue // another folder's doing
			} else if err != nil {
				return err
			}
		}
		if err := p.setAside(name, have); err != nil {
			return err
		}
		seed, err := use.Seed()
		if err != nil {
			return err
		}
		if err := keystore.ReplaceSecret(path, append(seed, '\n')); err != nil {
			return err
		}
		have = use
	}
	if i, _ := p.Full.Rotation(ref.Account, ref.Role); i >= 0 {
		return nil
	}
	if have.Public() != fresh.Public() {
		if err := p.setAside(name, fresh); err != nil {
			return err
		}
	}
	return os.Remove(from)
}

// setAside keeps a copy of a role's key, which is never removed.
func (p *Platform) setAside(name string, key *keystore.Key) error {
	to := p.retired(name, key)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := keystore.Save(to, key); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
