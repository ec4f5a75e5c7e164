package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// Rotation is a role key that is being replaced, as the platform document says it. The
// document's public part says by which key the role's credentials are issued and which other
// is as good; a rotation says where that goes. Home's registrars bring the account's base
// claims after it, and take the next step when all that it needs is so; whoever stops in
// between, another finds all of it here.
type Rotation struct {
	Account ident.Label      `json:"account"`
	Role    ident.Label      `json:"role"`
	From    ident.AccountKey `json:"from"`
	To      ident.AccountKey `json:"to"`
	// Keep is until when From stays at least, in seconds since 1970: users that were made by hand
	// are in no record.
	Keep int64 `json:"keep,omitempty"`
	// Longest is how long credentials by From may live at most, in seconds: policy may have become
	// shorter since they were issued.
	Longest int64 `json:"longest,omitempty"`
	Progress
}

// Progress is how far the replacement of a key is, and whose doing it is.
type Progress struct {
	Stage Stage `json:"stage"`
	At    int64 `json:"at"`    // when it was begun, in seconds since 1970
	Since int64 `json:"since"` // when its stage was entered, likewise
	// Version is that of the document by which the stage was entered, as a rank.
	Version uint64 `json:"version"`
	// Emergency: the key that was replaced went at once.
	Emergency bool   `json:"emergency,omitempty"`
	By        string `json:"by,omitempty"`
	Why       string `json:"why,omitempty"`
}

func (p Progress) outOfShape() bool { return p.Version == 0 || len(p.By) > 512 || len(p.Why) > 512 }

// entered gives the progress of a rotation that enters its stage by the document after d.
func (p Progress) entered(d *Document, now time.Time) Progress {
	version := d.Public.Version
	version.Number++ // which ChangeDocument gives it
	p.Version, p.Since = version.Rank(), now.Unix()
	return p
}

// Stage is how far a rotation is.
type Stage string

// The stages, each of which a rotation enters by a new platform document.
const (
	// StageAdd: credentials are issued by From; To is brought to all servers.
	StageAdd Stage = "add"
	// StageIssue: credentials are issued by To; those by From live.
	StageIssue Stage = "issue"
	// StageDrop: nobody holds one by From; it is taken from all servers.
	StageDrop Stage = "drop"
)

// Errors of changing a rotation.
var (
	// ErrRotating: the role's key is being replaced already.
	ErrRotating = errors.New("its key is being replaced already")
	// ErrNotRotating: nothing replaces the role's key, or it has gone too far to go back.
	ErrNotRotating = errors.New("no rotation that could be changed")
)

// check tells whether a role is as its rotation says.
func (r Rotation) check(role trust.Role) bool {
	switch r.Stage {
	case StageAdd:
		return role.Key == r.From && role.Next == r.To && role.Former.IsZero()
	case StageIssue:
		return role.Key == r.To && role.Former == r.From && role.Next.IsZero()
	case StageDrop:
		return role.Key == r.To && role.Former.IsZero() && role.Next.IsZero()
	}
	return false
}

// Keys are those that the account's claims should have for the role.
func (r Rotation) Keys() []ident.AccountKey {
	if r.Stage == StageDrop {
		return []ident.AccountKey{r.To}
	}
	return []ident.AccountKey{r.From, r.To}
}

// checkRotations refuses a document whose roles and rotations do not say the same.
func (d *Document) checkRotations() error {
	for i, r := range d.Rotations {
		what := fmt.Sprintf("the rotation of %s/%s", r.Account, r.Role)
		if r.From.IsZero() || r.To.IsZero() || r.From == r.To || r.outOfShape() {
			return fmt.Errorf("%s is out of shape", what)
		}
		if j, _ := d.Rotation(r.Account, r.Role); j != i {
			return fmt.Errorf("%s is there twice", what)
		}
		_, role, ok := d.role(r.Account, r.Role)
		if !ok || !r.check(role) {
			return fmt.Errorf("%s is not what the role says", what)
		}
	}
	for _, a := range d.Public.Accounts {
		for _, role := range a.Roles {
			if i, _ := d.Rotation(a.Name, role.Name); i < 0 && (!role.Next.IsZero() || !role.Former.IsZero()) {
				return fmt.Errorf("role %s/%s has two keys, and no rotation", a.Name, role.Name)
			}
		}
	}
	return nil
}

// Rotation finds that of a role; -1 if there is none.
func (d *Document) Rotation(account, role ident.Label) (int, Rotation) {
	for i, r := range d.Rotations {
		if r.Account == account && r.Role == role {
			return i, r
		}
	}
	return -1, Rotation{}
}

// Role finds a role that the document names.
func (d *Document) Role(account, role ident.Label) (trust.Role, bool) {
	_, r, ok := d.role(account, role)
	return r, ok
}

func (d *Document) role(account, role ident.Label) (trust.Account, trust.Role, bool) {
	a, _ := d.Public.Account(account)
	for _, r := range a.Roles {
		if r.Name == role {
			return a, r, true
		}
	}
	return a, trust.Role{}, false
}

// turned gives the document with another rotation of a role, or with none, and the role as that
// says. d is not changed.
func (d *Document) turned(account, role ident.Label, next *Rotation, now time.Time, keys func(*trust.Role)) *Document {
	out, public := *d, *d.Public
	out.index = nil
	public.Accounts = slices.Clone(public.Accounts)
	for i, a := range public.Accounts {
		if a.Name != account {
			continue
		}
		a.Roles = slices.Clone(a.Roles)
		for j := range a.Roles {
			if a.Roles[j].Name == role {
				keys(&a.Roles[j])
			}
		}
		public.Accounts[i] = a
	}
	out.Public = &public
	out.Rotations = slices.DeleteFunc(slices.Clone(d.Rotations), func(r Rotation) bool { return r.Account == account && r.Role == role })
	if next != nil {
		r := *next
		r.Progress = r.entered(d, now)
		out.Rotations = append(out.Rotations, r)
	}
	return &out
}

// Begin gives the document that begins a rotation: To is brought to all servers. With drop it
// is the one that replaces From at once. It gives d where that was done: whoever put it may not know. ErrRotating; ErrNotFound for a role that is not there.
func (d *Document) Begin(r Rotation, drop bool, now time.Time) (*Document, error) {
	i, have := d.Rotation(r.Account, r.Role)
	if i >= 0 && have.Emergency == drop && have.To == r.To {
		return d, nil // it was done
	}
	if i >= 0 && !drop {
		return nil, fmt.Errorf("role %s/%s: %w", r.Account, r.Role, ErrRotating)
	}
	_, role, ok := d.role(r.Account, r.Role)
	if !ok {
		return nil, fmt.Errorf("role %s/%s: %w", r.Account, r.Role, ErrNotFound)
	}
	r.From, r.Stage, r.At = role.Key, StageAdd, now.Unix()
	if role.Has(r.To.String()) {
		return nil, fmt.Errorf("role %s/%s has that key already: %w", r.Account, r.Role, ErrDamaged)
	}
	if drop {
		r.Stage, r.Emergency = StageDrop, true
		return d.turned(r.Account, r.Role, &r, now, func(t *trust.Role) {
			t.Key, t.Next, t.Former = r.To, ident.AccountKey{}, ident.AccountKey{}
		}), nil
	}
	return d.turned(r.Account, r.Role, &r, now, func(t *trust.Role) { t.Next = r.To }), nil
}

// Advance gives the document of a rotation's next stage; after StageDrop there is none any more.
func (d *Document) Advance(account, role ident.Label, now time.Time) (*Document, error) {
	i, r := d.Rotation(account, role)
	if i < 0 {
		return nil, fmt.Errorf("role %s/%s: %w", account, role, ErrNotRotating)
	}
	none := ident.AccountKey{}
	switch r.Stage {
	case StageAdd:
		return d.issuing(r, r.From, r.To, now), nil
	case StageIssue:
		r.Stage = StageDrop
		return d.turned(account, role, &r, now, func(t *trust.Role) { t.Former = none }), nil
	}
	return d.turned(account, role, nil, now, func(*trust.Role) {}), nil
}

// issuing has credentials issued by to, while those by from live.
func (d *Document) issuing(r Rotation, from, to ident.AccountKey, now time.Time) *Document {
	r.Stage, r.From, r.To = StageIssue, from, to
	return d.turned(r.Account, r.Role, &r, now, func(t *trust.Role) { t.Key, t.Next, t.Former = to, ident.AccountKey{}, from })
}

// Undo gives the document that takes a rotation back: of a key that nothing was issued by, at
// once; else it is a rotation back, and the new key goes when nobody holds a credential by it.
// ErrNotRotating where the old key goes already.
func (d *Document) Undo(account, role ident.Label, now time.Time) (*Document, error) {
	i, r := d.Rotation(account, role)
	switch {
	case i < 0 || r.Stage == StageDrop:
		return nil, fmt.Errorf("role %s/%s: %w", account, role, ErrNotRotating)
	case r.Stage == StageAdd:
		r.Stage, r.From, r.To = StageDrop, r.To, r.From
		return d.turned(account, role, &r, now, func(t *trust.Role) { t.Next = ident.AccountKey{} }), nil
	}
	return d.issuing(r, r.To, r.From, now), nil
}

// ChangeDocument puts the platform document that change makes of the one in force, as its next
// version. change may be called again, where somebody else was faster; it gives what it was
// given where nothing is to be changed.
func (d *Decider) ChangeDocument(ctx context.Context, s KeySigner, change func(*Document) (*Document, error), now time.Time) (Entry, error) {
	key := PlatformKey()
	for try := 1; ; try++ {
		cur, _, err := d.get(ctx, key)
		if err != nil {
			return Entry{}, err
		}
		if cur == nil {
			return Entry{}, fmt.Errorf("the platform document: %w", ErrNotFound)
		}
		was, ok := cur.Body.(*Document)
		if !ok {
			return Entry{}, fmt.Errorf("the platform document has a body of type %T: %w", cur.Body, ErrDamaged)
		}
		next, err := change(was)
		if err != nil {
			return Entry{}, err
		}
		if next == was {
			return *cur, nil
		}
		out, public := *next, *next.Public
		public.Version, public.EpochProof = was.Public.Version, was.Public.EpochProof
		public.Version.Number++
		out.Public = &public
		token, err := out.Sign(s, now)
		if err != nil {
			return Entry{}, err
		}
		e, err := d.PutDocument(ctx, token)
		if (errors.Is(err, ErrConflict) || errors.Is(err, ErrOld)) && try < tries && ctx.Err() == nil {
			continue
		}
		return e, err
	}
}
