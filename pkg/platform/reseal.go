package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

// turningRegion is where the key is that is to replace a region's, until it has: in a folder of
// its own, so that no role's can be taken for it.
func (d Dir) turningRegion(r ident.Region) string {
	return filepath.Join(d.Operator(), "rotating", "regions", r.String()+".nk")
}

// regionName is the name of a region's key among those that were put aside.
func regionName(r ident.Region) string { return "region." + r.String() }

// TurningRegionKey is TurningKey for a region's key.
func (p *Platform) TurningRegionKey(r ident.Region, use func(public string) bool) (*keystore.Key, error) {
	key, err := p.fresh(p.Dir.turningRegion(r), regionName(r), keystore.Curve, use)
	if err != nil {
		return nil, fmt.Errorf("a key for region %s: %w", r, err)
	}
	return key, nil
}

// RegionKey finds a region's key by its public half: in use, beside it, about to be, or put aside.
// fs.ErrNotExist if this folder does not have it.
func (p *Platform) RegionKey(r ident.Region, public ident.SealKey) (*keystore.Key, error) {
	return find(public.String(), keystore.Curve, p.Dir.turningRegion(r), p.Dir.regionKey(r), filepath.Join(p.Dir.Issuer(r), SealKeyBeside),
		p.retiredAs(regionName(r), public.String()))
}

// turnedRegions brings the region keys in the folders of issuers after what is in force, as far as
// they are here.
func (p *Platform) turnedRegions() error {
	for _, r := range p.Document.Regions {
		if err := p.turnRegion(r); err != nil {
			return fmt.Errorf("the key of region %s: %w", r.Name, err)
		}
	}
	return nil
}

func (p *Platform) turnRegion(r trust.Region) error {
	from, dir := p.Dir.turningRegion(r.Name), p.Dir.Issuer(r.Name)
	_, err := keystore.Load(from, keystore.Curve)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mine := err == nil
	file, beside := p.Dir.regionKey(r.Name), filepath.Join(dir, SealKeyBeside)
	if !mine {
		// Of another folder's doing the issuers here have what they were brought; nobody is left
		// with a key that is gone.
		if _, err := os.Stat(beside); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	// The folder may have been given away: what has to be brought after it is put where it was.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var use, other *keystore.Key
	for _, public := range r.SealKeys() {
		key, err := p.RegionKey(r.Name, public)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case public == r.SealKey:
			use = key
		default:
			other = key
		}
	}
	// The one beside first: whoever is cut off in between leaves an issuer the key that it needs.
	if other != nil {
		if err := p.put(beside, regionName(r.Name), other, from, file); err != nil {
			return err
		}
	}
	if use != nil {
		if err := p.put(file, regionName(r.Name), use, from, beside); err != nil {
			return err
		}
	}
	if other == nil {
		if err := p.take(beside, regionName(r.Name), from, file); err != nil {
			return err
		}
	}
	if i, _ := p.Full.SealRotation(r.Name); i >= 0 || !mine {
		return nil
	}
	return p.take(from, regionName(r.Name), file)
}

// put writes a curve key into a file. What was there is put aside, if it is in none of others.
func (p *Platform) put(path, name string, key *keystore.Key, others ...string) error {
	have, err := keystore.Load(path, keystore.Curve)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return keystore.Save(path, key)
	case err != nil:
		return err
	case have.Public() == key.Public():
		return nil
	}
	if err := p.spareOf(name, have, others); err != nil {
		return err
	}
	seed, err := key.Seed()
	if err != nil {
		return err
	}
	return keystore.ReplaceSecret(path, append(seed, '\n'))
}

// take removes a curve key's file, if there is one. The key is put aside, if it is in none of others.
func (p *Platform) take(path, name string, others ...string) error {
	have, err := keystore.Load(path, keystore.Curve)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = p.spareOf(name, have, others)
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// spareOf puts a key aside that is in none of others: no seed is ever lost.
func (p *Platform) spareOf(name string, key *keystore.Key, others []string) error {
	_, err := find(key.Public(), keystore.Curve, others...)
	if errors.Is(err, fs.ErrNotExist) {
		return p.setAside(name, key)
	}
	return err
}
