package ledger

import (
	"fmt"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// SealRotation is a curve key that is being replaced, as the platform document says it: a region's,
// or the callout key where it names none. Its stages are those of a Rotation. While it is in
// StageAdd all seal to From, and then to To; until StageDrop issuers open what is sealed to either.
type SealRotation struct {
	Region ident.Region  `json:"region,omitzero"`
	From   ident.SealKey `json:"from"`
	To     ident.SealKey `json:"to"`
	// Also are other keys that go with From: an emergency came while another rotation was not over.
	Also []ident.SealKey `json:"also,omitempty"`
	Progress
}

// maxAlso bounds the keys that go at once: of more emergencies than these in a row the first ones
// are forgotten.
const maxAlso = 16

// Is tells whether two are the same rotation in the same stage.
func (r SealRotation) Is(o SealRotation) bool {
	return r.Region == o.Region && r.Version == o.Version && r.Stage == o.Stage && r.From == o.From && r.To == o.To
}

// What names the key, for people to read.
func (r SealRotation) What() string { return Handed{Region: r.Region}.What() }

// InUse is the key that is sealed to.
func (r SealRotation) InUse() ident.SealKey {
	if r.Stage == StageAdd {
		return r.From
	}
	return r.To
}

// Going are the keys that nothing is opened by when the rotation is over.
func (r SealRotation) Going() []ident.SealKey {
	return append([]ident.SealKey{r.From}, r.Also...)
}

// Keys are those that issuers open by.
func (r SealRotation) Keys() []ident.SealKey {
	if r.Stage == StageDrop {
		return []ident.SealKey{r.To}
	}
	return []ident.SealKey{r.From, r.To}
}

// check tells whether a region is as its rotation says.
func (r SealRotation) check(region trust.Region) bool {
	next, former := ident.SealKey{}, ident.SealKey{}
	switch r.Stage {
	case StageAdd:
		next = r.To
	case StageIssue:
		former = r.From
	case StageDrop:
	default:
		return false
	}
	return region.SealKey == r.InUse() && region.Next == next && region.Former == former
}

// checkSealRotations refuses a document whose regions and rotations do not say the same.
func (d *Document) checkSealRotations() error {
	for i, r := range d.SealRotations {
		if r.From.IsZero() || r.To.IsZero() || len(r.Also) > maxAlso || slices.Contains(r.Going(), r.To) || r.outOfShape() {
			return fmt.Errorf("the rotation of %s is out of shape", r.What())
		}
		if j, _ := d.SealRotation(r.Region); j != i {
			return fmt.Errorf("the rotation of %s is there twice", r.What())
		}
		known := r.Stage == StageAdd || r.Stage == StageIssue || r.Stage == StageDrop
		if region, ok := d.Public.Region(r.Region); !known || !r.Region.IsZero() && (!ok || !r.check(region)) {
			return fmt.Errorf("the rotation of %s is not what the region says", r.What())
		}
	}
	for _, region := range d.Public.Regions {
		if i, _ := d.SealRotation(region.Name); i < 0 && len(region.SealKeys()) > 1 {
			return fmt.Errorf("region %s has two keys, and no rotation", region.Name)
		}
	}
	return nil
}

// SealRotation finds that of a region's key, or with no region that of the callout key; -1 if
// there is none.
func (d *Document) SealRotation(region ident.Region) (int, SealRotation) {
	for i, r := range d.SealRotations {
		if r.Region == region {
			return i, r
		}
	}
	return -1, SealRotation{}
}

// resealed gives the document with another rotation of a curve key, or with none, and the region as
// that says. d is not changed.
func (d *Document) resealed(region ident.Region, next *SealRotation, now time.Time) *Document {
	out, public := *d, *d.Public
	out.index = nil
	public.Regions = slices.Clone(public.Regions)
	for i := range public.Regions {
		p := &public.Regions[i]
		if p.Name != region || next == nil {
			continue
		}
		p.SealKey, p.Next, p.Former = next.InUse(), ident.SealKey{}, ident.SealKey{}
		switch next.Stage {
		case StageAdd:
			p.Next = next.To
		case StageIssue:
			p.Former = next.From
		case StageDrop:
		}
	}
	out.Public = &public
	out.SealRotations = slices.DeleteFunc(slices.Clone(d.SealRotations), func(r SealRotation) bool { return r.Region == region })
	if next != nil {
		r := *next
		r.Progress = r.entered(d, now)
		out.SealRotations = append(out.SealRotations, r)
	}
	return &out
}

// BeginSeal gives the document that begins a rotation: To is brought to issuers. With drop it is
// the one that replaces From at once. Of a region's key From is what the document says; that of
// the callout key is given. It gives d where that was done, as Begin. ErrRotating; ErrNotFound for a region that is not there.
func (d *Document) BeginSeal(r SealRotation, drop bool, now time.Time) (*Document, error) {
	i, have := d.SealRotation(r.Region)
	if i >= 0 && have.Emergency == drop && have.To == r.To {
		return d, nil
	}
	if i >= 0 && !drop {
		return nil, fmt.Errorf("%s: %w", r.What(), ErrRotating)
	}
	if i >= 0 {
		r.From = have.InUse()
	} else if !r.Region.IsZero() {
		region, ok := d.Public.Region(r.Region)
		if !ok {
			return nil, fmt.Errorf("region %s: %w", r.Region, ErrNotFound)
		}
		r.From = region.SealKey
	}
	r.Stage, r.Emergency, r.At = StageAdd, drop, now.Unix()
	if drop {
		r.Stage = StageDrop
	}
	if i >= 0 {
		for _, k := range append(slices.Clone(have.Also), have.From, have.To) {
			if k != r.From {
				r.Also = append(r.Also, k)
			}
		}
		r.Also = r.Also[max(0, len(r.Also)-maxAlso):]
	}
	if slices.Contains(r.Going(), r.To) {
		return nil, fmt.Errorf("%s is that key already: %w", r.What(), ErrDamaged)
	}
	return d.resealed(r.Region, &r, now), nil
}

// AdvanceSeal gives the document of a rotation's next stage; after StageDrop there is none any
// more.
func (d *Document) AdvanceSeal(region ident.Region, now time.Time) (*Document, error) {
	i, r := d.SealRotation(region)
	if i < 0 {
		return nil, fmt.Errorf("%s: %w", SealRotation{Region: region}.What(), ErrNotRotating)
	}
	switch r.Stage {
	case StageAdd:
		r.Stage = StageIssue
	case StageIssue:
		r.Stage = StageDrop
	case StageDrop:
		return d.resealed(region, nil, now), nil
	}
	return d.resealed(region, &r, now), nil
}

// UndoSeal gives the document that takes a rotation back: of a key that nothing was sealed to, at
// once; else it is a rotation back. ErrNotRotating where the old key goes already.
func (d *Document) UndoSeal(region ident.Region, now time.Time) (*Document, error) {
	i, r := d.SealRotation(region)
	if i < 0 || r.Stage == StageDrop {
		return nil, fmt.Errorf("%s: %w", SealRotation{Region: region}.What(), ErrNotRotating)
	}
	if r.Stage == StageAdd {
		r.Stage = StageDrop
	}
	r.From, r.To = r.To, r.From
	return d.resealed(region, &r, now), nil
}
