package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// TurningKey is the key that is to replace a role's. It is on the disk before it is used; a run
// that was cut off goes on with the one that it had made, if use says so of its public key. Any other
// that is there is put aside.
func (p *Platform) TurningKey(ref manifest.RoleRef, use func(public string) bool) (*keystore.Key, error) {
	path := p.Dir.turning(ref)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("a key for role %s: %w", ref, err)
	}
	have, err := keystore.Load(path, keystore.Account)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("a key for role %s: %w", ref, err)
	}
	if err == nil && !use(have.Public()) {
		if err := errors.Join(p.setAside(ref.Account.String()+"."+ref.Role.String(), have), os.Remove(path)); err != nil {
			return nil, fmt.Errorf("a key for role %s: %w", ref, err)
		}
	}
	key, err := keystore.LoadOrCreate(path, keystore.Account)
	if err != nil {
		return nil, fmt.Errorf("a key for role %s: %w", ref, err)
	}
	return key, nil
}

// HasRoleKey refuses where the key of a role that is in force is not in this folder: what
// replaces it would be in another than the one whose it is.
func (p *Platform) HasRoleKey(ref manifest.RoleRef) error {
	h, _ := p.Account(ref.Account.String())
	want, ok := h.Roles[ref.Role.String()]
	if !ok {
		return p.absent(ref)
	}
	have, err := keystore.Load(p.Dir.roleKey(ref.Account.String(), ref.Role.String()), keystore.Account)
	if err != nil {
		return fmt.Errorf("the key of role %s is to be replaced in the folder that has it: %w", ref, err)
	}
	if have.Public() != want.String() {
		return fmt.Errorf("role %s has the key %s in force, and %s in %s: %w", ref, want, have.Public(), p.Dir.Operator(), ErrNotPlatform)
	}
	return nil
}

// ErrTurning: the key of a role is being replaced.
var ErrTurning = errors.New("its key is being replaced")

// isTurning tells whether the key of a role is being replaced, as far as this folder knows.
func (p *Platform) isTurning(ref manifest.RoleRef) bool {
	_, err := os.Stat(p.Dir.turning(ref))
	return err == nil
}

// SealRoleKey seals a role's key to the region keys of the platform, but for some regions.
func (p *Platform) SealRoleKey(ref manifest.RoleRef, key *keystore.Key, without []ident.Region) (ledger.RoleKey, error) {
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
		if slices.Contains(without, r.Name) {
			continue
		}
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
		ref, err := manifest.ParseRoleRef(account + "/" + role)
		if err != nil {
			return fmt.Errorf("operator/rotating/%s.nk is no role's key: %w", name, ErrNotPlatform)
		}
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
	// Of two keys it is the one that the document says is in use.
	h, _ := p.Account(ref.Account.String())
	if key, ok := h.Roles[ref.Role.String()]; ok && key.String() != have.Public() {
		use := fresh
		if key.String() != fresh.Public() {
			aside := filepath.Join(p.Dir.Operator(), "retired", name+"."+key.String()+".nk")
			use, err = keystore.Load(aside, keystore.Account)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // another folder's doing, which has it
		case err != nil:
			return err
		default:
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
