package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// Rotor brings keys that are being replaced from stage to stage (ledger.Rotation,
// ledger.SealRotation). It keeps nothing of its own: what is to be done follows from the platform document, the base claims in
// force, what servers hold and what records tell. So it may end between any two of its steps,
// and any number of them may work at once.
type Rotor struct {
	// Decider decides in home. nil: another region's registrar, which only looks.
	Decider  func() *ledger.Decider
	Signer   *keystore.Key
	Document func() *ledger.Document
	Ledger   *ledger.Projection
	Operator *trust.Operator
	// Confirm says how servers stand to accounts; see Watcher.Confirm.
	Confirm func(ctx context.Context, accounts []ident.AccountKey, expected []string, patience bool) (Report, error)
	Writers *Writers
	// Read is when a region's records were last read to their end.
	Read func(region string) time.Time
	// Margin is how long after the last credential by a key has ended that key goes: clocks of
	// servers differ.
	Margin time.Duration
	// Least is how long a stage lasts in which something is issued: long enough that every
	// issuer which lives has written something since.
	Least  time.Duration
	Clock  *Clock         // while it is wrong no step is taken: a key could go before its time; may be nil
	Spread func() float64 // as in Watcher
	Log    *slog.Logger
	Now    func() time.Time

	mu   sync.Mutex
	said map[string]string // what was last said in the log of a rotation, by what it replaces
}

// Turning is how a rotation stands.
type Turning struct {
	ledger.Rotation
	// Waiting is for what the next stage waits, for people to read.
	Waiting []string
	// Until is when the last credential by the key that goes ends, as far as records tell; zero
	// where nobody has one.
	Until time.Time
}

const (
	// rotorEvery is how often rotations are looked at.
	rotorEvery = 2 * time.Second
	// rotorBound bounds one step.
	rotorBound = 30 * time.Second
	// unread is for how long a region's records may not have been read to their end.
	unread = time.Minute
)

// Run brings rotations on until ctx ends.
func (r *Rotor) Run(ctx context.Context) {
	for wait.For(ctx, rotorEvery/2+time.Duration(r.Spread()*float64(rotorEvery))) == nil {
		d := r.Document()
		for _, rot := range d.Rotations {
			r.try(ctx, roleKey(rot), rot.Stage, func(ctx context.Context) error { return r.step(ctx, rot) })
		}
		for _, rot := range d.SealRotations {
			r.try(ctx, rot.What(), rot.Stage, func(ctx context.Context) error { return r.stepSeal(ctx, rot) })
		}
	}
}

func (r *Rotor) try(ctx context.Context, what string, stage ledger.Stage, step func(context.Context) error) {
	bound, cancel := context.WithTimeout(ctx, rotorBound)
	defer cancel()
	err := r.Clock.Err()
	if err == nil {
		err = step(bound)
	}
	if err != nil && ctx.Err() == nil {
		r.say(what, stage, "failed", slog.LevelWarn, "a key is not replaced further now", "error", err)
	}
}

func roleKey(rot ledger.Rotation) string {
	return "the key of role " + rot.Account.String() + "/" + rot.Role.String()
}

// say logs what is new about a rotation.
func (r *Rotor) say(key string, stage ledger.Stage, what string, level slog.Level, msg string, args ...any) {
	what = string(stage) + " " + what + fmt.Sprint(args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said[key] == what {
		return
	}
	if r.said == nil {
		r.said = map[string]string{}
	}
	r.said[key] = what
	r.Log.Log(context.Background(), level, msg, append([]any{"what", key, "stage", string(stage)}, args...)...)
}

// Look says how the rotations of an account stand.
func (r *Rotor) Look(ctx context.Context, account ident.Label) []Turning {
	d := r.Document()
	var all []Turning
	for _, rot := range d.Rotations {
		if rot.Account != account {
			continue
		}
		t, err := r.look(ctx, d, rot)
		if err != nil {
			t.Waiting = append(t.Waiting, err.Error())
		}
		all = append(all, t)
	}
	return all
}

// step takes a rotation's next step, if there is one that can be taken.
func (r *Rotor) step(ctx context.Context, rot ledger.Rotation) error {
	d := r.Document()
	if i, have := d.Rotation(rot.Account, rot.Role); i < 0 || have != rot {
		return nil // it has gone on since it was looked up: nothing of an older stage is done by a newer document
	}
	if err := r.rebase(ctx, d, rot); err != nil {
		return err
	}
	t, err := r.look(ctx, d, rot)
	if err != nil {
		return err
	}
	if len(t.Waiting) > 0 {
		r.say(roleKey(rot), rot.Stage, "", slog.LevelInfo, "a key is being replaced, and waits", "for", strings.Join(t.Waiting, "; "))
		return nil
	}
	decider := r.Decider()
	if rot.Stage == ledger.StageDrop {
		if err := decider.TakeBack(ctx, ledger.RoleKeyKey(rot.From), r.Now()); err != nil {
			return err
		}
	}
	_, err = decider.ChangeDocument(ctx, ledger.KeySigner{Key: r.Signer}, func(was *ledger.Document) (*ledger.Document, error) {
		if i, have := was.Rotation(rot.Account, rot.Role); i < 0 || have != rot {
			return was, nil // another was faster
		}
		return was.Advance(rot.Account, rot.Role, r.Now())
	}, r.Now())
	if err == nil {
		r.say(roleKey(rot), rot.Stage, "done", slog.LevelInfo, "the replacement of a key has come a stage further")
	}
	return err
}

// look finds out for what a rotation's next stage waits.
func (r *Rotor) look(ctx context.Context, d *ledger.Document, rot ledger.Rotation) (Turning, error) {
	t := Turning{Rotation: rot}
	account, _ := d.Public.Account(rot.Account)
	base, err := r.base(ctx, account.Key)
	if err != nil {
		return t, err
	}
	if _, changed, err := r.rekeyed(base, rot); err != nil || changed {
		t.Waiting = append(t.Waiting, "the account's claims are to be changed")
		return t, err
	}
	if rot.Stage != ledger.StageDrop {
		r.issuers(&t, d, account.Key)
	}
	lacking, err := r.lacking(ctx, d, account.Key, base.version)
	t.Waiting = append(t.Waiting, lacking...)
	return t, err
}

// issuers adds what records say of those who issue.
func (r *Rotor) issuers(t *Turning, d *ledger.Document, account ident.AccountKey) {
	now := r.Now()
	for _, region := range d.Public.Regions {
		t.Waiting = append(t.Waiting, r.silent(region.Name, now)...)
	}
	t.Waiting = append(t.Waiting, r.least(t.Progress, now)...)
	until, waiting := r.Writers.By(account, t.Role, t.Version, longest(d, t.Rotation), now)
	t.Waiting = append(t.Waiting, waiting...)
	if t.Stage != ledger.StageIssue {
		return
	}
	if keep := time.Unix(t.Keep, 0); keep.After(until) {
		until = keep
	}
	if end := until.Add(r.Margin); end.After(now) {
		t.Until = until
		t.Waiting = append(t.Waiting, "credentials by the former key live until "+until.UTC().Format(time.RFC3339))
	}
}

// silent says that the records of a region cannot be read.
func (r *Rotor) silent(region ident.Region, now time.Time) []string {
	if at := r.Read(region.String()); now.Sub(at) > unread {
		return []string{fmt.Sprintf("records of region %s cannot be read now: whether its issuers have heard of it is not known", region)}
	}
	return nil
}

// least says that issuers may not have been heard of yet since a stage was entered.
func (r *Rotor) least(p ledger.Progress, now time.Time) []string {
	if end := time.Unix(p.Since, 0).Add(r.Least); end.After(now) {
		return []string{"until " + end.UTC().Format(time.RFC3339) + " issuers may be heard of that were not heard of yet"}
	}
	return nil
}

// longest is how long credentials of a role may live.
func longest(d *ledger.Document, rot ledger.Rotation) time.Duration {
	all := time.Duration(rot.Longest) * time.Second
	for _, o := range d.Policy.Offers {
		if o.Account == rot.Account && o.Role == rot.Role {
			all = max(all, o.Longest.Duration())
		}
	}
	return all
}

// lacking says which servers do not hold a version of an account yet.
func (r *Rotor) lacking(ctx context.Context, d *ledger.Document, account ident.AccountKey, version uint64) ([]string, error) {
	expected := d.ServerNames()
	if len(expected) == 0 {
		return []string{"the platform document does not name the servers; run 'nscsetup apply'"}, nil
	}
	rep, err := r.Confirm(ctx, []ident.AccountKey{account}, expected, false)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, b := range rep.Behind {
		out = append(out, fmt.Sprintf("server %s: %s", b.Server, b.Why))
	}
	for _, name := range expected {
		if !slices.ContainsFunc(rep.Servers, func(s Server) bool { return s.Name == name }) && !slices.ContainsFunc(rep.Behind, func(b Behind) bool { return b.Server == name }) {
			out = append(out, fmt.Sprintf("server %s does not answer", name))
		}
	}
	held := false
	for _, s := range rep.Accounts {
		if s.Account != account {
			continue
		}
		if s.Err != nil {
			return out, s.Err
		}
		held = s.Version >= version && s.InLine >= s.Servers
	}
	if !held && len(out) == 0 {
		out = append(out, "not all servers hold the account's claims yet")
	}
	return out, nil
}

// based are an account's base claims.
type based struct {
	claims           *jwt.AccountClaims
	version, follows uint64
}

// base are an account's base claims: in home, those that its leader has, because what is decided
// upon them must not be decided upon older ones.
func (r *Rotor) base(ctx context.Context, account ident.AccountKey) (based, error) {
	e, ok := r.Ledger.Get(ledger.BaseKey(account))
	if r.Decider != nil {
		var err error
		if e, err = r.Decider().Base(ctx, account); err != nil {
			return based{}, err
		}
	}
	b, is := e.Body.(ledger.Base)
	if r.Decider == nil && !ok || !is {
		return based{}, fmt.Errorf("the base claims of account %s are not in the ledger", account)
	}
	c, err := r.Operator.VerifyAccount(b.JWT)
	return based{c, e.Version, b.Follows}, err
}

// rekeyed is Rekeyed. The last stage is not over before the claims say that they follow it, also
// where they have the keys that they should: who works by the stage before puts nothing over them
// then.
func (r *Rotor) rekeyed(b based, rot ledger.Rotation) (*jwt.AccountClaims, bool, error) {
	next, changed, err := Rekeyed(b.claims, rot)
	return next, changed || rot.Stage == ledger.StageDrop && b.follows < rot.Version, err
}

// rebase brings an account's base claims after a rotation.
func (r *Rotor) rebase(ctx context.Context, d *ledger.Document, rot ledger.Rotation) error {
	account, _ := d.Public.Account(rot.Account)
	base, err := r.base(ctx, account.Key)
	if err != nil {
		return err
	}
	rank := d.Public.Version.Rank()
	next, changed, err := r.rekeyed(base, rot)
	if err != nil || !changed || base.follows > rank {
		return err
	}
	token, err := trust.SignAccount(next, base.version+1, r.Signer, r.Now())
	if err != nil {
		return err
	}
	_, err = r.Decider().PutBase(ctx, account.Key, ledger.Base{JWT: token, Follows: rank}, base.version, r.Now())
	if errors.Is(err, ledger.ErrOld) {
		return nil // another was faster, and it is looked at again
	}
	return err
}

// Rekeyed gives an account's claims with the keys of a role that a rotation says, each with the
// permissions that the role has, and tells whether that changes anything. c is not changed.
func Rekeyed(c *jwt.AccountClaims, rot ledger.Rotation) (*jwt.AccountClaims, bool, error) {
	next := *c
	next.SigningKeys = jwt.SigningKeys{}
	var scope *jwt.UserScope
	have := map[string]bool{}
	for key, s := range c.SigningKeys {
		u, ok := s.(*jwt.UserScope)
		if !ok || u == nil || u.Role != rot.Role.String() {
			next.SigningKeys[key] = s
			continue
		}
		// The two may differ where platform.yaml is changed meanwhile: the one that is issued by has it.
		if have[key] = true; scope == nil || key == rot.To.String() {
			scope = u
		}
	}
	if scope == nil {
		return nil, false, fmt.Errorf("account %s has no role %s any more", rot.Account, rot.Role)
	}
	same := len(have) == len(rot.Keys())
	for _, key := range rot.Keys() {
		same = same && have[key.String()]
		s := *scope
		s.Key = key.String()
		next.SigningKeys[s.Key] = &s
	}
	return &next, !same, nil
}
