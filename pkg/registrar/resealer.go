package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Resealing is how the rotation of a curve key stands.
type Resealing struct {
	ledger.SealRotation
	// Waiting is for what the next stage waits, for people to read.
	Waiting []string
}

// LookSeal says how the rotation of a region's key stands, or that of the callout key where it is
// none.
func (r *Rotor) LookSeal(ctx context.Context, region ident.Region) []Resealing {
	d := r.Document()
	i, rot := d.SealRotation(region)
	if i < 0 {
		return nil
	}
	t := Resealing{SealRotation: rot}
	var err error
	if t.Waiting, err = r.lookSeal(ctx, d, rot); err != nil {
		t.Waiting = append(t.Waiting, err.Error())
	}
	return []Resealing{t}
}

// stepSeal takes a rotation's next step, if there is one that can be taken.
func (r *Rotor) stepSeal(ctx context.Context, rot ledger.SealRotation) error {
	d := r.Document()
	if i, have := d.SealRotation(rot.Region); i < 0 || !have.Is(rot) {
		return nil // it has gone on since it was looked up
	}
	if rot.Stage == ledger.StageDrop {
		// At once: what is sealed to the key that goes is for whoever stole it, too.
		for _, e := range r.Ledger.HandedKeys() {
			if err := r.forget(ctx, e.Key, e.Body, rot); err != nil {
				return err
			}
		}
	}
	waiting, err := r.lookSeal(ctx, d, rot)
	if err != nil {
		return err
	}
	if len(waiting) > 0 {
		r.say(rot.What(), rot.Stage, "", slog.LevelInfo, "a key is being replaced, and waits", "for", strings.Join(waiting, "; "))
		return nil
	}
	if rot.Stage == ledger.StageDrop {
		if err := r.forgetAll(ctx, d, rot); err != nil {
			return err
		}
	}
	_, err = r.Decider().ChangeDocument(ctx, ledger.KeySigner{Key: r.Signer}, func(was *ledger.Document) (*ledger.Document, error) {
		// Of the document that was looked at alone: by a newer one another key may be sealed to
		// the one that goes.
		if was.Public.Version != d.Public.Version {
			return was, nil
		}
		return was.AdvanceSeal(rot.Region, r.Now())
	}, r.Now())
	if err == nil {
		r.say(rot.What(), rot.Stage, "done", slog.LevelInfo, "the replacement of a key has come a stage further")
	}
	return err
}

// forget removes what is sealed to the keys that go from a key of the ledger.
func (r *Rotor) forget(ctx context.Context, at ledger.Key, body any, rot ledger.SealRotation) error {
	h, _ := body.(ledger.Handed)
	for _, key := range rot.Going() {
		if len(h.Sealed[key]) > 0 {
			return r.Decider().Forget(ctx, at, rot.Going(), r.Now())
		}
	}
	return nil
}

// forgetAll removes the keys that go, and what is sealed to them of all keys that a document names,
// by what home's leader has: this registrar may have heard of the document, which it wrote itself,
// and not yet of what was there before it.
func (r *Rotor) forgetAll(ctx context.Context, d *ledger.Document, rot ledger.SealRotation) error {
	decider := r.Decider()
	for _, key := range rot.Going() {
		if err := decider.TakeBack(ctx, ledger.SealKeyKey(key), r.Now()); err != nil {
			return err
		}
	}
	for _, at := range append(roleKeys(d), ledger.SealKeyKey(rot.To)) {
		h, err := r.handed(ctx, at)
		if err == nil {
			err = r.forget(ctx, at, h, rot)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// roleKeys are the keys of the ledger under which role keys of a document are, if they were handed
// out there.
func roleKeys(d *ledger.Document) (all []ledger.Key) {
	for _, a := range d.Public.Accounts {
		for _, role := range a.Roles {
			for _, public := range role.Keys() {
				all = append(all, ledger.RoleKeyKey(public))
			}
		}
	}
	return all
}

// handed is a key as home's leader has it, or, elsewhere, as this registrar knows it; nothing if it
// is not there.
func (r *Rotor) handed(ctx context.Context, at ledger.Key) (ledger.Handed, error) {
	if r.Decider == nil {
		h, _ := r.Ledger.Handed(at)
		return h, nil
	}
	h, err := r.Decider().Handed(ctx, at)
	if errors.Is(err, ledger.ErrNotFound) {
		return ledger.Handed{}, nil
	}
	return h, err
}

// lookSeal finds out for what a rotation's next stage waits.
func (r *Rotor) lookSeal(ctx context.Context, d *ledger.Document, rot ledger.SealRotation) (waiting []string, _ error) {
	now := r.Now()
	// Nothing is kept back for those who are waited for then, and whoever stole an issuer could go on for
	// ever without saying that it has the new key.
	if rot.Stage == ledger.StageDrop && rot.Emergency && now.Sub(time.Unix(rot.Since, 0)) > gone {
		return nil, nil
	}
	for _, region := range d.Public.Regions {
		if rot.Region.IsZero() || rot.Region == region.Name {
			waiting = append(waiting, r.silent(region.Name, now)...)
		}
	}
	if rot.Stage != ledger.StageDrop {
		waiting = append(waiting, r.least(rot.Progress, now)...)
	}
	if rot.Stage == ledger.StageIssue {
		if !rot.Region.IsZero() {
			// Else who starts again afterwards could open nothing: what is in the ledger is sealed
			// to the key that goes.
			waiting = append(waiting, r.Writers.Lack(rot.Region, rot.To.String(), time.Unix(rot.At, 0))...)
		}
		// Requests that are on their way, or that somebody keeps back, hold no longer than that.
		if end := time.Unix(rot.Since, 0).Add(r.Margin); end.After(now) {
			waiting = append(waiting, "until "+end.UTC().Format(time.RFC3339)+" requests may come that are sealed to the former key")
		}
	}
	waiting = append(waiting, r.Writers.Of(rot.Region, rot.Version, now)...)
	if rot.Stage != ledger.StageIssue || len(waiting) > 0 {
		return waiting, nil
	}
	return r.unsealed(ctx, d, rot) // which asks the leader, and so comes last
}

// unsealed names keys of a document that the ledger has sealed to the key that goes, and not to the
// one that stays: the region's issuers could not open them any more. Others are in nobody's way: a
// run that was cut off put them, and what is sealed to the key that goes is removed.
func (r *Rotor) unsealed(ctx context.Context, d *ledger.Document, rot ledger.SealRotation) (waiting []string, _ error) {
	for _, at := range roleKeys(d) {
		h, err := r.handed(ctx, at)
		if err != nil {
			return nil, err
		}
		if len(h.Sealed[rot.From]) > 0 && len(h.Sealed[rot.To]) == 0 {
			waiting = append(waiting, fmt.Sprintf("%s is sealed to the former key alone: run 'nscsetup rotate status' in the folder that has it", h.What()))
		}
	}
	return waiting, nil
}
