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

// TurningKey is the key that is to replace a role's. It is on the disk before it is used; a run
// that was cut off goes on with the one that it had made, if use says so of its public key. Any other
// that is there is put aside.
func (p *Platform) TurningKey(ref manifest.RoleRef, use func(public string) bool) (*keystore.Key, error) {
	key, err := p.fresh(p.Dir.turning(ref), ref.Account.String()+"."+ref.Role.String(), keystore.Account, use)
	if err != nil {
		return nil, fmt.Errorf("a key for role %s: %w", ref, err)
	}
	return key, nil
}

func (p *Platform) fresh(path, name string, kind keystore.Kind, use func(public string) bool) (*keystore.Key, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	have, err := keystore.Load(path, kind)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil && !use(have.Public()) {
		if err := errors.Join(p.setAside(name, have), os.Remove(path)); err != nil {
			return nil, err
		}
	}
	return keystore.LoadOrCreate(path, kind)
}

// RoleKey finds a role key by its public half, whether it is in use, going to be or was.
func (p *Platform) RoleKey(ref manifest.RoleRef, public ident.AccountKey) (*keystore.Key, error) {
	name := ref.Account.String() + "." + ref.Role.String()
	return find(public.String(), keystore.Account,
		p.Dir.roleKey(ref.Account.String(), ref.Role.String()), p.Dir.turning(ref), p.retiredAs(name, public.String()))
}

// find loads the key with a public half from the first of some files that has it; fs.ErrNotExist
// if none does.
func find(public string, kind keystore.Kind, paths ...string) (*keystore.Key, error) {
	for _, path := range paths {
		key, err := keystore.Load(path, kind)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && key.Public() == public {
			return key, nil
		}
	}
	return nil, fmt.Errorf("the seed of %s is not in this folder: %w", public, fs.ErrNotExist)
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

// Seal seals a key that is handed to issuers through the ledger.
func Seal(h ledger.Handed, key *keystore.Key, to []ident.SealKey) (ledger.Handed, error) {
	by, err := keystore.Generate(keystore.Curve)
	if err != nil {
		return h, err
	}
	if h.From, err = ident.ParseSealKey(by.Public()); err != nil {
		return h, err
	}
	seed, err := key.Seed()
	if err != nil {
		return h, err
	}
	h.Sealed = map[ident.SealKey][]byte{}
	for _, k := range to {
		if h.Sealed[k], err = by.Pair().Seal(seed, k.String()); err != nil {
			return h, fmt.Errorf("sealing %s to %s: %w", h.What(), k, err)
		}
	}
	return h, nil
}

// turned brings the keys in the folder after what is in force: the one in use is where a key is, and
// what it replaced is put aside. What is no rotation any more is tidied up.
func (p *Platform) turned() error {
	return errors.Join(p.turnedRoles(), p.turnedRegions())
}

func (p *Platform) turnedRoles() error {
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
			aside := p.retiredAs(name, key.String())
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

// setAside keeps a copy of a key, which is never removed.
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
