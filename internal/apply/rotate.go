package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/survey"
	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
)

// Rotation is a role key that is to be replaced.
type Rotation struct {
	Role    manifest.RoleRef
	By, Why string
	// Emergency replaces it at once: whoever has a credential by the former key is cut off.
	Emergency bool
	// Without are regions to whose issuers the new key is not handed, because theirs was stolen
	// and could open it.
	Without []ident.Region
}

// Rotated is what became of it.
type Rotated struct {
	ledger.Rotation
	// Behind are, of an emergency, servers that have not heard of it, and Servers how many there
	// should be.
	Behind  []registrar.Behind
	Servers int
	// Unrecorded is why what was decided is not in the records; nil if it is.
	Unrecorded error
}

// Errors of Rotate.
var (
	// ErrServices: the role is that of services or of guests, whose credentials are files.
	ErrServices = errors.New("credentials of the role are files that services and clients have")
	// ErrUngranted: nobody is granted the role.
	ErrUngranted = errors.New("no grant names the role")
)

// Rotate begins to replace a role's key: home's registrars do the rest, also when this machine
// is off. Run again after it was cut off, it begins anew, with another key, or ends the emergency
// that was begun.
func (t *Tool) Rotate(ctx context.Context, o Rotation) (*Rotated, error) {
	out := &Rotated{}
	err := t.rotating(ctx, &out.Unrecorded, func(s *session, force Force) error {
		d := force.State.Document
		r, err := t.mayRotate(o, d)
		if err != nil {
			return err
		}
		i, have := d.Rotation(o.Role.Account, o.Role.Role)
		if i >= 0 && !o.Emergency {
			return fmt.Errorf("role %s: %w", o.Role, ledger.ErrRotating)
		}
		t.step("make the key")
		// One by which an emergency was begun ends it. Any other may be in the hands of whoever the
		// emergency is for.
		fresh, err := t.Platform.TurningKey(o.Role, func(public string) bool { return have.Emergency && have.To.String() == public })
		if err != nil {
			return err
		}
		if r.To, err = ident.ParseAccountKey(fresh.Public()); err != nil {
			return err
		}
		if _, granted := d.Role(o.Role.Account, o.Role.Role); !granted {
			// Nobody issues by it: it goes from the account alone.
			out.Rotation = r
			out.Stage = ledger.StageDrop
			return s.enforce(ctx, o, out)
		}
		next, err := d.Begin(r, o.Emergency, t.Now()) // before anything is handed out
		if err != nil {
			return err
		}
		if next == d {
			out.Rotation = have
			return s.enforce(ctx, o, out)
		}
		handed := ledger.Handed{Account: o.Role.Account, Role: o.Role.Role}
		e, err := s.hand(ctx, ledger.RoleKeyKey(r.To), handed, fresh, d.Public, o.Without, func(was *ledger.Document) (*ledger.Document, error) {
			return was.Begin(r, o.Emergency, t.Now())
		})
		if err != nil {
			return err
		}
		_, out.Rotation = e.Rotation(o.Role.Account, o.Role.Role)
		return s.enforce(ctx, o, out)
	})
	return out, err
}

// Undo takes a rotation back.
func (t *Tool) Undo(ctx context.Context, o Rotation) (*Rotated, error) {
	out := &Rotated{}
	err := t.rotating(ctx, &out.Unrecorded, func(s *session, force Force) error {
		_, seen := force.State.Document.Rotation(o.Role.Account, o.Role.Role)
		if err := s.handBackRole(ctx, force.State.Document.Public, seen); err != nil {
			return err
		}
		d, err := s.change(ctx, func(was *ledger.Document) (*ledger.Document, error) {
			if i, have := was.Rotation(o.Role.Account, o.Role.Role); i >= 0 && have.From == seen.To && have.To == seen.From {
				return was, nil // by a try that nobody heard of: another would take that back
			}
			next, err := was.Undo(o.Role.Account, o.Role.Role, t.Now())
			if err != nil {
				return nil, err
			}
			i, _ := next.Rotation(o.Role.Account, o.Role.Role)
			next.Rotations[i].By, next.Rotations[i].Why = o.By, o.Why
			return next, nil
		})
		if err == nil {
			_, out.Rotation = d.Rotation(o.Role.Account, o.Role.Role)
		}
		return err
	})
	return out, err
}

// handBackRole gives issuers the key by which a role's credentials are issued again when a rotation is taken back: they may
// have been brought a folder with the other one alone. Where this folder does not have it, nobody was
// brought anything from here.
func (s *session) handBackRole(ctx context.Context, p *trust.Platform, r ledger.Rotation) error {
	if r.Stage != ledger.StageIssue {
		return nil
	}
	key, err := s.Platform.RoleKey(manifest.RoleRef{Account: r.Account, Role: r.Role}, r.From)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sealed, err := platform.Seal(ledger.Handed{Account: r.Account, Role: r.Role}, key, regionKeys(p, nil))
	if err != nil {
		return err
	}
	s.step("hand the former key to issuers")
	return s.until(ctx, func(ctx context.Context) error {
		_, err := s.decider.Hand(ctx, ledger.RoleKeyKey(r.From), sealed, s.Now())
		return err
	})
}

// Rotations brings the folder after what is in force, and gives the platform document, which has the
// rotations that there are. What the ledger has sealed to a key that goes is sealed to the one that
// stays, too. If another run has the folder, it is left as it is.
func (t *Tool) Rotations(ctx context.Context) (*ledger.Document, error) {
	var (
		out        *ledger.Document
		unrecorded error // a look is no change that anybody has to hear of
	)
	err := t.rotating(ctx, &unrecorded, func(s *session, force Force) error {
		out = force.State.Document
		for _, r := range out.SealRotations {
			if r.Region.IsZero() {
				continue
			}
			// Who lacks a key is told by what the rotation waits for.
			all, err := s.handed(ctx, out.Public)
			if err == nil {
				_, err = s.reseal(ctx, out.Public, r, all)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, ErrBusy) {
		return out, err
	}
	force, err := t.Look(ctx)
	if err == nil && force.State.Document == nil {
		err = fmt.Errorf("the platform document: %w", ledger.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return force.State.Document, nil
}

// Cut are the connections that an emergency closes: those by a credential of the role's keys, as
// they are in force now.
func (t *Tool) Cut(ctx context.Context, ref manifest.RoleRef) ([]seen.Connection, error) {
	force, err := t.Look(ctx)
	if err != nil {
		return nil, err
	}
	in, ok := force.State.Accounts[ref.Account.String()]
	if !ok {
		return nil, fmt.Errorf("role %s: %w", ref, platform.ErrNoRole)
	}
	claims, err := in.Claims()
	if err != nil {
		return nil, err
	}
	account, err := ident.ParseAccountKey(claims.Subject)
	if err != nil {
		return nil, err
	}
	nc, err := t.Dial(ctx, platform.System, platform.RoleSetup)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	all, err := survey.Connections(ctx, nc, []ident.AccountKey{account}, 0, 0)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(c seen.Connection) bool {
		u, ok := claims.SigningKeys[c.Issuer].(*jwt.UserScope)
		return !ok || u.Role != ref.Role.String()
	}), nil
}

// mayRotate refuses what cannot be done, and gives what a rotation has to know: until when static
// users of the role have credentials, and how long those of others live.
func (t *Tool) mayRotate(o Rotation, d *ledger.Document) (ledger.Rotation, error) {
	r := ledger.Rotation{Account: o.Role.Account, Role: o.Role.Role, Progress: ledger.Progress{By: o.By, Why: o.Why}}
	switch o.Role.Account.String() {
	case platform.System, platform.Ledger, platform.Readers, platform.Auth, platform.Guest, platform.Door:
		return r, fmt.Errorf("role %s: %w", o.Role, ErrServices)
	}
	granted := false
	for _, p := range d.Policy.Offers {
		if p.Account == o.Role.Account && p.Role == o.Role.Role {
			granted, r.Longest = true, max(r.Longest, int64(p.Longest.Duration()/time.Second))
		}
	}
	if _, there := d.Role(o.Role.Account, o.Role.Role); !granted && (!o.Emergency || there) {
		return r, fmt.Errorf("role %s: %w", o.Role, ErrUngranted)
	}
	if err := t.Platform.HasRoleKey(o.Role); err != nil {
		return r, err
	}
	users, err := platform.StaticUsers{Platform: t.Platform}.All()
	if err != nil {
		return r, err
	}
	for _, u := range users {
		if u.Of() != o.Role {
			continue
		}
		for _, i := range u.Issued {
			r.Keep = max(r.Keep, i.Expires)
		}
	}
	return r, nil
}

// rotating holds the folder, looks at what is in force, does something, and brings the folder
// after what is in force then.
func (t *Tool) rotating(ctx context.Context, unrecorded *error, do func(*session, Force) error) (err error) {
	lock, err := t.lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // it held nothing but the lock
	signer, err := t.Platform.Signer()
	if err != nil {
		return err
	}
	s := &session{Tool: t, signer: signer, result: &Result{}, changes: &Changes{Door: "rotate", Now: t.Now}}
	defer s.close()
	defer func() { *unrecorded = t.Record(ctx, s.changes) }()
	t.step("connect")
	if _, err := s.ledger(ctx); err != nil {
		return err
	}
	force, err := s.lookUntil(ctx)
	if err != nil {
		return err
	}
	if force.State.Document == nil {
		return fmt.Errorf("the platform document: %w", ledger.ErrNotFound)
	}
	// What an earlier rotation left in the folder belongs to that one.
	if err := s.follow(force); err != nil {
		return err
	}
	if err := do(s, force); err != nil {
		return err
	}
	t.step("look again")
	if force, err = s.lookUntil(ctx); err != nil {
		return err
	}
	return s.follow(force)
}

// follow brings the folder after what is in force.
func (s *session) follow(force Force) error {
	base, err := s.doing(force)
	if err != nil {
		return err
	}
	s.step("write the folder")
	if err := s.Platform.SaveBase(base); err != nil {
		return err
	}
	return s.Platform.Use(force.document.Token, slices.Collect(maps.Values(force.tokens)), s.Now())
}

// change puts a platform document, and gives it.
func (s *session) change(ctx context.Context, f func(*ledger.Document) (*ledger.Document, error)) (*ledger.Document, error) {
	var e ledger.Entry
	err := s.until(ctx, func(ctx context.Context) (err error) {
		e, err = s.decider.ChangeDocument(ctx, ledger.KeySigner{Key: s.signer.Key()}, f, s.Now())
		if errors.Is(err, ledger.ErrOld) || errors.Is(err, ledger.ErrConflict) {
			// Somebody was faster, and there was no time left to do it again.
			err = fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	d, ok := e.Body.(*ledger.Document)
	if !ok {
		return nil, fmt.Errorf("the platform document has a body of type %T: %w", e.Body, ledger.ErrDamaged)
	}
	return d, nil
}

// enforce takes, in an emergency, the former key from all servers that can be reached. Home's
// registrars do so, too; nobody waits for them.
func (s *session) enforce(ctx context.Context, o Rotation, out *Rotated) error {
	if !o.Emergency || out.To.IsZero() {
		return nil
	}
	s.step("take the former key out of the account")
	var token string
	for try := 1; ; try++ {
		force, err := s.lookUntil(ctx)
		if err != nil {
			return err
		}
		known, ok := force.State.Accounts[o.Role.Account.String()]
		if !ok {
			return fmt.Errorf("account %s: %w", o.Role.Account, ledger.ErrNotFound)
		}
		c, err := known.Claims()
		if err != nil {
			return err
		}
		next, changed, err := registrar.Rekeyed(c, out.Rotation)
		if err != nil {
			return err
		}
		key, err := ident.ParseAccountKey(c.Subject)
		if err != nil {
			return err
		}
		was := force.versions[c.Name]
		if !changed {
			token = force.tokens[c.Name]
			break
		}
		token, err = s.put(ctx, change{next, key, was, force.rank()})
		if err == nil {
			break
		}
		if !errors.Is(err, ledger.ErrOld) || try == tries {
			return err
		}
	}
	s.step("push")
	var err error
	if s.sys, err = s.Dial(ctx, platform.System, platform.RoleSetup); err != nil {
		return err
	}
	s.resolver = registrar.NewResolver(s.sys, s.Platform.Operator, s.signer.Key(), s.Now)
	if token == "" {
		h, _ := s.Platform.Account(o.Role.Account.String())
		if token, _, err = s.Platform.Claims(h); err != nil {
			return err
		}
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	report, err := s.converge(bound, []string{token})
	if err != nil {
		return err
	}
	out.Behind, out.Servers = report.Behind, len(s.nodes())
	return nil
}
