package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// SealRotation is a region's key that is to be replaced.
type SealRotation struct {
	Region  ident.Region
	By, Why string
	// Emergency replaces it at once: the new key is not handed through the ledger, where whoever has
	// the former one could open it, but has to be brought to the issuers.
	Emergency bool
}

// Resealed is what became of it.
type Resealed struct {
	ledger.SealRotation
	// Exposed are, of an emergency, keys of the ledger that were sealed to the key that was replaced.
	Exposed []string
	// Elsewhere are keys of the ledger whose seeds this folder does not have: they are not sealed to
	// the new key.
	Elsewhere []string
	// Unrecorded is why what was decided is not in the records; nil if it is.
	Unrecorded error
}

// ErrElsewhere: a key that the ledger has sealed to a region key would have to be sealed to another,
// and this folder does not have it.
var ErrElsewhere = errors.New("keys that are handed out through the ledger are in another platform folder")

// errMoved: region keys changed since something was sealed to them.
var errMoved = errors.New("region keys changed meanwhile")

// RotateRegion begins to replace a region's key: home's registrars do the rest, also when this
// machine is off. Run again after it was cut off, it begins anew, with another key, or ends the
// emergency that was begun.
func (t *Tool) RotateRegion(ctx context.Context, o SealRotation) (*Resealed, error) {
	out := &Resealed{}
	err := t.rotating(ctx, &out.Unrecorded, func(s *session, force Force) error {
		d := force.State.Document
		i, have := d.SealRotation(o.Region)
		if i >= 0 && !o.Emergency {
			return fmt.Errorf("%s: %w", have.What(), ledger.ErrRotating)
		}
		if _, ok := d.Public.Region(o.Region); !ok {
			return fmt.Errorf("region %s: %w", o.Region, ledger.ErrNotFound)
		}
		t.step("make the key")
		fresh, err := t.Platform.TurningRegionKey(o.Region, func(public string) bool { return have.Emergency && have.To.String() == public })
		if err != nil {
			return err
		}
		r := ledger.SealRotation{Region: o.Region, Progress: ledger.Progress{By: o.By, Why: o.Why}}
		if r.To, err = ident.ParseSealKey(fresh.Public()); err != nil {
			return err
		}
		if o.Emergency {
			return s.replaceRegionKey(ctx, d.Public, r, out)
		}
		if _, err := d.BeginSeal(r, false, t.Now()); err != nil { // before anything is handed out
			return err
		}
		t.step("seal role keys to it, too")
		all, err := s.handed(ctx, d.Public)
		if err != nil {
			return err
		}
		if out.Elsewhere, err = s.reseal(ctx, d.Public, r, all); err != nil {
			return err
		}
		if len(out.Elsewhere) > 0 {
			return fmt.Errorf("%s: %w", strings.Join(out.Elsewhere, ", "), ErrElsewhere)
		}
		// To this region alone: no other opens what is sealed to it.
		var without []ident.Region
		for _, other := range d.Public.Regions {
			if other.Name != o.Region {
				without = append(without, other.Name)
			}
		}
		d, err = s.hand(ctx, ledger.SealKeyKey(r.To), ledger.Handed{Region: o.Region}, fresh, d.Public, without, func(was *ledger.Document) (*ledger.Document, error) {
			return was.BeginSeal(r, false, t.Now())
		})
		if err == nil {
			_, out.SealRotation = d.SealRotation(o.Region)
		}
		return err
	})
	return out, err
}

// replaceRegionKey replaces a region's key at once.
func (s *session) replaceRegionKey(ctx context.Context, before *trust.Platform, r ledger.SealRotation, out *Resealed) error {
	// Before registrars remove what is sealed to the former key, of which they are not asked.
	all, err := s.handed(ctx, before)
	if err != nil {
		return err
	}
	former, _ := before.Region(r.Region)
	for _, h := range all {
		if slices.ContainsFunc(former.SealKeys(), func(k ident.SealKey) bool { return k != r.To && len(h.Sealed[k]) > 0 }) {
			out.Exposed = append(out.Exposed, h.What())
		}
	}
	if _, have := before.Region(r.Region); have && slices.Contains(former.SealKeys(), r.To) {
		// A run before this one was cut off. What was sealed to the key that is gone may have been removed since:
		// any of them may be in the wrong hands.
		for _, h := range all {
			out.Exposed = append(out.Exposed, h.What())
		}
	}
	slices.Sort(out.Exposed)
	out.Exposed = slices.Compact(out.Exposed)
	s.step("write the platform document")
	d, err := s.change(ctx, func(was *ledger.Document) (*ledger.Document, error) { return was.BeginSeal(r, true, s.Now()) })
	if err != nil {
		return err
	}
	_, out.SealRotation = d.SealRotation(r.Region)
	s.step("seal role keys to it")
	out.Elsewhere, err = s.reseal(ctx, d.Public, out.SealRotation, all)
	return err
}

// UndoSeal takes the rotation of a region's key back.
func (t *Tool) UndoSeal(ctx context.Context, o SealRotation) (*Resealed, error) {
	out := &Resealed{}
	err := t.rotating(ctx, &out.Unrecorded, func(s *session, force Force) error {
		_, seen := force.State.Document.SealRotation(o.Region)
		if err := s.handBack(ctx, force.State.Document.Public, seen); err != nil {
			return err
		}
		d, err := s.change(ctx, func(was *ledger.Document) (*ledger.Document, error) {
			if i, have := was.SealRotation(o.Region); i >= 0 && have.From == seen.To && have.To == seen.From {
				return was, nil // as Undo
			}
			next, err := was.UndoSeal(o.Region, t.Now())
			if err != nil {
				return nil, err
			}
			i, _ := next.SealRotation(o.Region)
			next.SealRotations[i].By, next.SealRotations[i].Why = o.By, o.Why
			return next, nil
		})
		if err == nil {
			_, out.SealRotation = d.SealRotation(o.Region)
		}
		return err
	})
	return out, err
}

// handBack gives a region's issuers the key to which clients seal again when a rotation is taken back: they may have been
// brought the other one alone. Where this folder does not have it, nobody was brought anything from here.
func (s *session) handBack(ctx context.Context, p *trust.Platform, r ledger.SealRotation) error {
	region, ok := p.Region(r.Region)
	if !ok || r.Stage != ledger.StageIssue {
		return nil
	}
	key, err := s.Platform.RegionKey(r.Region, r.From)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sealed, err := platform.Seal(ledger.Handed{Region: r.Region}, key, region.SealKeys())
	if err != nil {
		return err
	}
	s.step("hand the former key to issuers")
	return s.until(ctx, func(ctx context.Context) error {
		_, err := s.decider.Hand(ctx, ledger.SealKeyKey(r.From), sealed, s.Now())
		return err
	})
}

// hand puts a key into the ledger, sealed to all region keys but those of some regions, and then the
// document that names it. Where the regions have other keys by then, it is sealed again first: an
// issuer that has one of them alone would go without.
func (s *session) hand(
	ctx context.Context, at ledger.Key, h ledger.Handed, key *keystore.Key, public *trust.Platform, without []ident.Region, f func(*ledger.Document) (*ledger.Document, error),
) (*ledger.Document, error) {
	for try := 1; ; try++ {
		to := regionKeys(public, without)
		sealed, err := platform.Seal(h, key, to)
		if err != nil {
			return nil, err
		}
		s.step("hand the key to issuers")
		if err := s.until(ctx, func(ctx context.Context) error {
			_, err := s.decider.Hand(ctx, at, sealed, s.Now())
			return err
		}); err != nil {
			return nil, err
		}
		s.step("write the platform document")
		d, err := s.change(ctx, func(was *ledger.Document) (*ledger.Document, error) {
			if public = was.Public; !slices.Equal(regionKeys(public, without), to) {
				return nil, errMoved
			}
			return f(was)
		})
		if !errors.Is(err, errMoved) || try == tries {
			return d, err
		}
	}
}

// regionKeys are those of all regions but some.
func regionKeys(p *trust.Platform, without []ident.Region) []ident.SealKey {
	var all []ident.SealKey
	for _, r := range p.Regions {
		if !slices.Contains(without, r.Name) {
			all = append(all, r.SealKeys()...)
		}
	}
	return all
}

// handed are the role keys of a platform document that the ledger has sealed to region keys, by their
// keys there.
func (s *session) handed(ctx context.Context, p *trust.Platform) (map[ledger.Key]ledger.Handed, error) {
	all := map[ledger.Key]ledger.Handed{}
	for _, a := range p.Accounts {
		for _, role := range a.Roles {
			for _, public := range role.Keys() {
				at := ledger.RoleKeyKey(public)
				var h ledger.Handed
				err := s.until(ctx, func(ctx context.Context) (err error) {
					h, err = s.decider.Handed(ctx, at)
					return err
				})
				switch {
				case errors.Is(err, ledger.ErrNotFound): // issuers have it as a file
				case err != nil:
					return nil, err
				default:
					all[at] = h
				}
			}
		}
	}
	return all, nil
}

// reseal has what the ledger has sealed to region keys sealed to those of a platform document and of
// a rotation, and to no others, each for the regions that it was for. It names those whose seeds are
// not here. In an emergency the region gets all of them: what was sealed to its former key is gone.
func (s *session) reseal(ctx context.Context, p *trust.Platform, r ledger.SealRotation, all map[ledger.Key]ledger.Handed) (elsewhere []string, err error) {
	for at, h := range all {
		var to []ident.SealKey
		for _, region := range p.Regions {
			keys := region.SealKeys()
			has := slices.ContainsFunc(keys, func(k ident.SealKey) bool { return len(h.Sealed[k]) > 0 })
			if region.Name == r.Region {
				has = has || r.Emergency
				if !slices.Contains(keys, r.To) {
					keys = append(keys, r.To)
				}
			}
			if has {
				to = append(to, keys...)
			}
		}
		have := slices.Collect(maps.Keys(h.Sealed))
		if len(to) == len(have) && !slices.ContainsFunc(to, func(k ident.SealKey) bool { return len(h.Sealed[k]) == 0 }) {
			continue
		}
		public, err := ident.ParseAccountKey(strings.TrimPrefix(at.String(), string(ledger.KindRoleKey)+"."))
		if err != nil {
			return elsewhere, err
		}
		key, err := s.Platform.RoleKey(manifest.RoleRef{Account: h.Account, Role: h.Role}, public)
		if errors.Is(err, fs.ErrNotExist) {
			elsewhere = append(elsewhere, h.What())
			continue
		}
		if err != nil {
			return elsewhere, err
		}
		sealed, err := platform.Seal(ledger.Handed{Account: h.Account, Role: h.Role}, key, to)
		if err != nil {
			return elsewhere, err
		}
		if err := s.until(ctx, func(ctx context.Context) error {
			_, err := s.decider.Hand(ctx, at, sealed, s.Now())
			return err
		}); err != nil {
			return elsewhere, err
		}
	}
	slices.Sort(elsewhere)
	return elsewhere, nil
}
